-- MobileNet V2 (Sandler et al. 2018), as torchvision builds it: inverted residuals, ReLU6.
local stages = { -- expansion, channels, blocks, stride of the first
  { 1, 16, 1, 1 }, { 6, 24, 2, 2 }, { 6, 32, 3, 2 }, { 6, 64, 4, 2 }, { 6, 96, 3, 1 }, { 6, 160, 3, 2 },
  { 6, 320, 1, 1 },
}

local function conv_norm_relu6(g, x, inp, out, kernel, stride, groups)
  x = g:conv2d("0", x, { inp, out, kernel, stride = stride, padding = (kernel - 1) // 2, groups = groups,
    bias = false })
  return g:relu6("2", g:batch_norm2d("1", x, out))
end

local function inverted_residual(g, x, inp, out, stride, expansion)
  local hidden = inp * expansion
  local y = g:block("conv", function()
    local h, i = x, 0
    if expansion ~= 1 then
      h = g:block("0", conv_norm_relu6, g, h, inp, hidden, 1, 1, 1)
      i = 1
    end
    h = g:block(tostring(i), conv_norm_relu6, g, h, hidden, hidden, 3, stride, hidden)
    h = g:conv2d(tostring(i + 1), h, { hidden, out, 1, bias = false })
    return g:batch_norm2d(tostring(i + 2), h, out)
  end)
  return stride == 1 and inp == out and g:add(nil, x, y) or y
end

local function features(g, x)
  x = g:block("0", conv_norm_relu6, g, x, 3, 32, 3, 2, 1)
  local inp, n = 32, 0
  for _, s in ipairs(stages) do
    for i = 1, s[3] do
      n = n + 1
      x = g:block(tostring(n), inverted_residual, g, x, inp, s[2], i == 1 and s[4] or 1, s[1])
      inp = s[2]
    end
  end
  return g:block("18", conv_norm_relu6, g, x, inp, 1280, 1, 1, 1)
end

return {
  name = "mobilenet_v2", size_px = 224, resize_px = 256, hidden = 512, dropout = { thesis = 0.5, torchvision = 0.2 },
  head_parts = { "classifier" },
  depths = { "features.14..18", "features.10..18", "features.6..18" },
  cam_layer = "features.18", compare_layers = { "features.18", "features.14", "features.10", "features.6" },
  shap_layer = "features.17", shap_gradient_samples = 2000, shap_kernel_samples = 70,
  thesis_sizes = { whole = { size_px = 224 } }, -- trained on 225 px; whole images were explained on 224
  channels_last = { cpu = true, cuda = true },

  build = function(g, x, o)
    x = g:block("features", features, g, x)
    x = g:flatten(nil, g:adaptive_avg_pool2d(nil, x, 1))
    if o.head == "torchvision" then
      return g:block("classifier", function()
        return g:linear("1", g:dropout("0", x, o.dropout), { 1280, o.num_classes })
      end)
    end
    g:ghost_linear("classifier.1", 1280, 1000)
    return g:thesis_head("classifier", x, 1280, o.hidden, o.num_classes, o.dropout)
  end,

  initialize = function(draw, m)
    if m.kind == "conv2d" then draw.kaiming_normal(m, "fan_out") else draw.normal(m, 0.01) end
    draw.zero_bias(m)
  end,
}
