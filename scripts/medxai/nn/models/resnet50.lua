-- ResNet-50 (He et al. 2016, stride in the 3x3 convolution), as torchvision builds it.
local stages = { { 64, 3, 1 }, { 128, 4, 2 }, { 256, 6, 2 }, { 512, 3, 2 } } -- width, blocks, stride of the first

local function bottleneck(g, x, inp, width, stride)
  local out = width * 4
  local y = g:relu("relu", g:batch_norm2d("bn1", g:conv2d("conv1", x, { inp, width, 1, bias = false }), width))
  y = g:conv2d("conv2", y, { width, width, 3, stride = stride, padding = 1, bias = false })
  y = g:relu("relu", g:batch_norm2d("bn2", y, width))
  y = g:batch_norm2d("bn3", g:conv2d("conv3", y, { width, out, 1, bias = false }), out)
  if stride ~= 1 or inp ~= out then
    x = g:block("downsample", function() -- torchvision makes it, and draws its numbers, before the block
      local d = g:conv2d("0", x, { inp, out, 1, stride = stride, bias = false,
        drawn_before = g.prefix:gsub("downsample%.$", "conv1") })
      return g:batch_norm2d("1", d, out)
    end)
  end
  return g:relu("relu", g:add(nil, y, x))
end

return {
  name = "resnet50", size_px = 224, resize_px = 256, hidden = 512, dropout = 0.5,
  head_parts = { "fc" },
  depths = { { "layer4" }, { "layer4", "layer3" }, { "layer4", "layer3", "layer2" } },
  cam_layer = "layer4.2", compare_layers = { "layer4.2", "layer3.5", "layer2.3", "layer1.2" },
  shap_layer = "layer4.1", shap_gradient_samples = 2000, shap_kernel_samples = 70,
  channels_last = { cpu = true, cuda = true },

  build = function(g, x, o)
    x = g:conv2d("conv1", x, { 3, 64, 7, stride = 2, padding = 3, bias = false })
    x = g:max_pool2d("maxpool", g:relu("relu", g:batch_norm2d("bn1", x, 64)), { 3, stride = 2, padding = 1 })
    local inp = 64
    for s, stage in ipairs(stages) do
      x = g:block("layer" .. s, function()
        for i = 1, stage[2] do
          x = g:block(tostring(i - 1), bottleneck, g, x, inp, stage[1], i == 1 and stage[3] or 1)
          inp = stage[1] * 4
        end
        return x
      end)
    end
    x = g:flatten(nil, g:adaptive_avg_pool2d("avgpool", x, 1))
    if o.head == "torchvision" then return g:linear("fc", x, { 2048, o.num_classes }) end
    g:ghost_linear("fc", 2048, 1000)
    return g:thesis_head("fc", x, 2048, o.hidden, o.num_classes, o.dropout)
  end,

  initialize = function(draw, m)
    if m.kind == "conv2d" then draw.kaiming_normal(m, "fan_out") end
  end,
}
