-- SqueezeNet 1.0 (Iandola et al. 2016), as torchvision builds it. Its head is one convolution, averaged over the image.
local function fire(g, x, inp, squeeze, expand)
  x = g:relu("squeeze_activation", g:conv2d("squeeze", x, { inp, squeeze, 1 }))
  local a = g:relu("expand1x1_activation", g:conv2d("expand1x1", x, { squeeze, expand, 1 }))
  local b = g:relu("expand3x3_activation", g:conv2d("expand3x3", x, { squeeze, expand, 3, padding = 1 }))
  return g:cat(nil, { a, b })
end

local fires = { -- position in features -> in, squeeze, expand
  [3] = { 96, 16, 64 }, [4] = { 128, 16, 64 }, [5] = { 128, 32, 128 }, [7] = { 256, 32, 128 }, [8] = { 256, 48, 192 },
  [9] = { 384, 48, 192 }, [10] = { 384, 64, 256 }, [12] = { 512, 64, 256 },
}

local function features(g, x)
  x = g:relu("1", g:conv2d("0", x, { 3, 96, 7, stride = 2 }))
  for i = 2, 12 do
    local f = fires[i]
    if f then x = g:block(tostring(i), fire, g, x, f[1], f[2], f[3])
    else x = g:max_pool2d(tostring(i), x, { 3, stride = 2, ceil_mode = true }) end
  end
  return x
end

return {
  name = "squeezenet1_0", size_px = 224, resize_px = 256, dropout = 0.5, head_name = "classifier.1",
  head_parts = { "classifier" },
  depths = { "features.9..12", "features.7..12", "features.4..12" },
  cam_layer = "features.12", compare_layers = { "features.12", "features.9", "features.7", "features.4" },
  shap_layer = "features.11", shap_gradient_samples = 2000, shap_kernel_samples = 70,
  channels_last = { cpu = true, cuda = true },

  build = function(g, x, o)
    x = g:block("features", features, g, x)
    x = g:block("classifier", function()
      x = g:dropout("0", x, o.dropout)
      if o.head == "thesis" then g:ghost_conv2d("1", 512, 1000, 1) end
      x = g:relu("2", g:conv2d("1", x, { 512, o.num_classes, 1 }))
      return g:adaptive_avg_pool2d("3", x, 1)
    end)
    return g:flatten(nil, x)
  end,

  initialize = function(draw, m)
    if m.name == "classifier.1" then draw.normal(m, 0.01) else draw.kaiming_uniform(m) end
    draw.zero_bias(m)
  end,
}
