-- DenseNet-121 (Huang et al. 2017), as torchvision builds it: every layer reads all earlier ones of its block.
local growth, bottleneck = 32, 4 * 32
local blocks = { 6, 12, 24, 16 }

local function dense_layer(g, list, inp)
  local x = g:cat(nil, list)
  x = g:conv2d("conv1", g:relu("relu1", g:batch_norm2d("norm1", x, inp)), { inp, bottleneck, 1, bias = false })
  return g:conv2d("conv2", g:relu("relu2", g:batch_norm2d("norm2", x, bottleneck)),
    { bottleneck, growth, 3, padding = 1, bias = false })
end

local function dense_block(g, x, inp, layers)
  local list = { x }
  for i = 1, layers do
    list[i + 1] = g:block("denselayer" .. i, dense_layer, g, { table.unpack(list) }, inp + (i - 1) * growth)
  end
  return g:cat(nil, list)
end

local function transition(g, x, inp)
  x = g:relu("relu", g:batch_norm2d("norm", x, inp))
  return g:avg_pool2d("pool", g:conv2d("conv", x, { inp, inp // 2, 1, bias = false }), { 2 })
end

local function features(g, x)
  x = g:conv2d("conv0", x, { 3, 64, 7, stride = 2, padding = 3, bias = false })
  x = g:max_pool2d("pool0", g:relu("relu0", g:batch_norm2d("norm0", x, 64)), { 3, stride = 2, padding = 1 })
  local channels = 64
  for i, layers in ipairs(blocks) do
    x = g:block("denseblock" .. i, dense_block, g, x, channels, layers)
    channels = channels + layers * growth
    if i < #blocks then
      x = g:block("transition" .. i, transition, g, x, channels)
      channels = channels // 2
    end
  end
  return g:batch_norm2d("norm5", x, channels)
end

return {
  name = "densenet121", size_px = 224, resize_px = 255, hidden = 256, dropout = 0.5,
  head_parts = { "classifier" },
  depths = {
    { "features.denseblock4" }, { "features.denseblock4", "features.denseblock3" },
    { "features.denseblock4", "features.denseblock3", "features.denseblock2" },
  },
  cam_layer = "features.norm5",
  compare_layers = { "features.norm5", "features.denseblock3.denselayer24", "features.denseblock2.denselayer12",
    "features.denseblock1.denselayer6" },
  shap_layer = "features.denseblock4", shap_gradient_samples = 1000, shap_kernel_samples = 50,
  channels_last = { cpu = true, cuda = true },

  build = function(g, x, o)
    x = g:block("features", features, g, x)
    x = g:flatten(nil, g:adaptive_avg_pool2d(nil, g:relu(nil, x), 1))
    if o.head == "torchvision" then return g:linear("classifier", x, { 1024, o.num_classes }) end
    g:ghost_linear("classifier", 1024, 1000)
    return g:thesis_head("classifier", x, 1024, o.hidden, o.num_classes, o.dropout)
  end,

  initialize = function(draw, m)
    if m.kind == "conv2d" then draw.kaiming_normal(m, "fan_in") else draw.zero_bias(m) end
  end,
}
