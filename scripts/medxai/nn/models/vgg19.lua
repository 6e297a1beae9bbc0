-- VGG19 (Simonyan and Zisserman 2015), as torchvision builds it: 16 convolutions, no batch norm.
local plan = { 64, 64, "M", 128, 128, "M", 256, 256, 256, 256, "M", 512, 512, 512, 512, "M", 512, 512, 512, 512, "M" }

local function features(g, x)
  local inp, i = 3, 0
  for _, out in ipairs(plan) do
    if out == "M" then
      x = g:max_pool2d(tostring(i), x, { 2 })
      i = i + 1
    else
      x = g:relu(tostring(i + 1), g:conv2d(tostring(i), x, { inp, out, 3, padding = 1 }))
      inp, i = out, i + 2
    end
  end
  return x
end

local function own_head(g, x, classes, p)
  x = g:relu("1", g:linear("0", x, { 512 * 7 * 7, 4096 }))
  x = g:relu("4", g:linear("3", g:dropout("2", x, p), { 4096, 4096 }))
  return g:linear("6", g:dropout("5", x, p), { 4096, classes })
end

return {
  name = "vgg19", size_px = 224, resize_px = 255, hidden = 256, dropout = 0.5,
  head_parts = { "classifier" },
  depths = { "features.28..36", "features.19..36", "features.10..36" },
  cam_layer = "features.36", compare_layers = { "features.36", "features.28", "features.19", "features.10" },
  shap_layer = "features.35", shap_gradient_samples = 2000, shap_kernel_samples = 70,
  -- measured on 1.13.1, one thread, batch 8: channels_last is 0.91 to 0.97 times as fast in training, 1.2 times forward
  channels_last = { cpu = false, cuda = true },

  build = function(g, x, o)
    x = g:block("features", features, g, x)
    x = g:flatten(nil, g:adaptive_avg_pool2d("avgpool", x, 7))
    if o.head == "torchvision" then return g:block("classifier", own_head, g, x, o.num_classes, o.dropout) end
    g:ghost_linear("classifier.0", 512 * 7 * 7, 4096)
    g:ghost_linear("classifier.3", 4096, 4096)
    g:ghost_linear("classifier.6", 4096, 1000)
    return g:thesis_head("classifier", x, 512 * 7 * 7, o.hidden, o.num_classes, o.dropout)
  end,

  -- torchvision leaves this out when it is going to load weights
  initialize = function(draw, m, o)
    if o.weights == "imagenet" then return end
    if m.kind == "conv2d" then draw.kaiming_normal(m, "fan_out") else draw.normal(m, 0.01) end
    draw.zero_bias(m)
  end,
}
