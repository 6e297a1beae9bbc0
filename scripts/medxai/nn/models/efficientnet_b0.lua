-- EfficientNet B0 (Tan and Le 2019), as torchvision builds it: squeeze and excitation, SiLU, stochastic depth.
local stages = { -- expansion, kernel, stride of the first, in, out, blocks
  { 1, 3, 1, 32, 16, 1 }, { 6, 3, 2, 16, 24, 2 }, { 6, 5, 2, 24, 40, 2 }, { 6, 3, 2, 40, 80, 3 },
  { 6, 5, 1, 80, 112, 3 }, { 6, 5, 2, 112, 192, 4 }, { 6, 3, 1, 192, 320, 1 },
}
local total_blocks = 16

local function conv_norm(g, x, inp, out, kernel, stride, groups)
  x = g:conv2d("0", x, { inp, out, kernel, stride = stride, padding = (kernel - 1) // 2, groups = groups,
    bias = false })
  return g:batch_norm2d("1", x, out)
end

local function conv_norm_silu(g, ...) return g:silu("2", conv_norm(g, ...)) end

local function squeeze_excitation(g, x, channels, squeezed)
  local s = g:adaptive_avg_pool2d("avgpool", x, 1)
  s = g:silu("activation", g:conv2d("fc1", s, { channels, squeezed, 1 }))
  s = g:sigmoid("scale_activation", g:conv2d("fc2", s, { squeezed, channels, 1 }))
  return g:mul(nil, s, x)
end

local function mbconv(g, x, inp, out, kernel, stride, expansion, drop)
  local hidden = inp * expansion
  local y = g:block("block", function()
    local h, i = x, 0
    if expansion ~= 1 then
      h = g:block("0", conv_norm_silu, g, h, inp, hidden, 1, 1, 1)
      i = 1
    end
    h = g:block(tostring(i), conv_norm_silu, g, h, hidden, hidden, kernel, stride, hidden)
    h = g:block(tostring(i + 1), squeeze_excitation, g, h, hidden, math.max(1, inp // 4))
    return g:block(tostring(i + 2), conv_norm, g, h, hidden, out, 1, 1, 1)
  end)
  if stride ~= 1 or inp ~= out then return y end
  return g:add(nil, g:stochastic_depth("stochastic_depth", y, drop), x)
end

local function features(g, x, stochastic_depth)
  x = g:block("0", conv_norm_silu, g, x, 3, 32, 3, 2, 1)
  local n = 0
  for s, stage in ipairs(stages) do
    local expansion, kernel, stride, inp, out, blocks = table.unpack(stage)
    x = g:block(tostring(s), function()
      for i = 1, blocks do
        local drop = stochastic_depth * n / total_blocks
        x = g:block(tostring(i - 1), mbconv, g, x, i == 1 and inp or out, out, kernel, i == 1 and stride or 1,
          expansion, drop)
        n = n + 1
      end
      return x
    end)
  end
  return g:block("8", conv_norm_silu, g, x, 320, 1280, 1, 1, 1)
end

return {
  name = "efficientnet_b0", size_px = 224, resize_px = 256, hidden = 512, dropout = { thesis = 0.5, torchvision = 0.2 },
  head_parts = { "classifier" },
  depths = { "features.7..8", "features.6..8", "features.4..8" },
  cam_layer = "features.8", compare_layers = { "features.8", "features.7", "features.6", "features.4" },
  shap_layer = "features.7", shap_gradient_samples = 2000, shap_kernel_samples = 70,
  channels_last = { cpu = true, cuda = true },
  options = { stochastic_depth = { "number", default = 0.2, min = 0, max = 1,
    doc = "probability with which the last block is left out in training; earlier ones less" } },

  build = function(g, x, o)
    x = g:block("features", features, g, x, o.stochastic_depth)
    x = g:flatten(nil, g:adaptive_avg_pool2d("avgpool", x, 1))
    if o.head == "torchvision" then
      return g:block("classifier", function()
        return g:linear("1", g:dropout("0", x, o.dropout), { 1280, o.num_classes })
      end)
    end
    g:ghost_linear("classifier.1", 1280, 1000)
    return g:thesis_head("classifier", x, 1280, o.hidden, o.num_classes, o.dropout)
  end,

  initialize = function(draw, m)
    if m.kind == "conv2d" then draw.kaiming_normal(m, "fan_out") else draw.uniform(m, 1 / math.sqrt(m.out)) end
    draw.zero_bias(m)
  end,
}
