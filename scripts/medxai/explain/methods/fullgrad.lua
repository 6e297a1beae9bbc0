-- FullGrad: Srinivas and Fleuret, NeurIPS 2019, eq. 7: the input's gradient times the input, and at every layer with a
-- bias the gradient times the bias, each taken as |.|, scaled, brought to the input's grid and summed. Biased layers
-- are convolutions with a bias and batch norms, whose bias is beta - mean gamma / sqrt(var + eps).
-- As pytorch-grad-cam's FullGrad: each channel is min-maxed alone, so a faint one counts as much as a strong one
-- (compat: unless its range is near the 1e-7 that is added there). The resize is
-- linear, so the channels are summed on the layer's grid and resized once. Layers that the output does not depend on
-- (an auxiliary branch) are left out; the reference stops there. With eigen_smooth the layers' maps are the channels of
-- the principal component.
local map = require "medxai.explain.map"
local principal = require "medxai.explain.principal_component"
local torch = require "medxai.torch"

-- List of { name, bias (1, C, 1, 1) } in torchvision's order.
local function biased_layers(model)
  local used, list = model:used_nodes(), {}
  for _, m in ipairs(model:modules()) do
    local bias = m.bias and m.bias:detach()
    if m.kind == "batch_norm2d" then
      bias = bias - m.running_mean * m.weight:detach() / (m.running_var + m.eps):sqrt()
    end
    if bias and used[m.name] and (m.kind == "conv2d" or m.kind == "batch_norm2d") then
      list[#list + 1] = { name = m.name, bias = bias:view({ 1, -1, 1, 1 }) }
    end
  end
  return list
end

-- Each channel of |g bias| min-maxed with 1e-7, then summed over channels: g (n, C, h, w) -> (n, h, w). In few passes
-- over g, which is overwritten: |g bias| is |bias| |g|, so all that is left after the extrema is a weighted sum of |g|.
local function sum_of_scaled(g, bias, channels_last, compat)
  local v = g:abs_()
  local size, n, C, h, width = bias:abs(), table.unpack(v.shape)
  local lo, hi = v:amin({ 2, 3 }, true), v:amax({ 2, 3 }, true)
  local range = hi - lo
  local w = compat and size / (size * range + map.EPSILON) -- (n, C, 1, 1)
    or range:reciprocal():masked_fill(range:le(hi * map.rounding(v)):logical_or(size:eq(0)), 0)
  local sum = channels_last and v:permute({ 0, 2, 3, 1 }):reshape({ n, h * width, C }):matmul(w:view({ n, C, 1 }))
    or w:view({ n, 1, C }):matmul(v:flatten(2))
  return sum:view({ n, h, width }) - (w * lo):sum({ 1 })
end

-- The layers' maps of some images on the input's grid: list of (n, c, H, W).
local function layer_maps(layers, x, gradients, channels_last, compat)
  local shape, maps = x.shape, {}
  local height, width = shape[3], shape[4]
  local own = (gradients.x * x):abs()
  maps[1] = map.minmax(own:reshape({ -1, height, width }), { compat = compat }):view(shape)
  for i, layer in ipairs(layers) do
    local sum = sum_of_scaled(gradients[layer.name], layer.bias, channels_last, compat)
    maps[i + 1] = map.resize(sum, height, width):unsqueeze(1)
  end
  return maps
end

local function minmax_each(m, compat) -- (n, c, h, w), each plane alone
  local shape = m.shape
  return map.minmax(m:reshape({ -1, shape[3], shape[4] }), { compat = compat }):view(shape)
end

-- The principal component of the layers' maps, at an eighth of the size as in the reference: (n, h, w), extras.
local function component(maps, compat)
  local all = torch.cat(maps, 1)
  local small = torch.upsample_bilinear2d(minmax_each(all, compat), { all:size(2) // 8, all:size(3) // 8 }, false)
  return principal.project(small, compat)
end

return {
  title = "FullGrad",
  paper = "Srinivas and Fleuret 2019, arXiv:1905.00780",
  version = 2,
  at = "input",
  sign = "nonnegative",
  cut = false, -- no ReLU anywhere
  once = true, -- min-maxed once, unless resized
  smoothing = { aug_smooth = true, eigen_smooth = true },
  map = function(ctx)
    local layers, at, raws, extras = biased_layers(ctx.model), {}, {}, {}
    for i, layer in ipairs(layers) do at[i] = layer.name end
    ctx:gradients(ctx.count, { kind = "fullgrad", at = at, fold = false,
      x = function(first, count) return ctx.x:narrow(0, first, count) end, image = function(k) return k + 1 end },
      function(first, count, gradients, scope)
        local maps, more = layer_maps(layers, ctx.x:narrow(0, first, count), gradients,
          ctx.model.layout == "channels_last", ctx.compat), {}
        local raw
        if ctx.eigen then
          raw, more = component(maps, ctx.compat)
        else
          raw = maps[1]:sum({ 1 })
          for i = 2, #maps do raw = raw + maps[i]:squeeze(1) end
        end
        for i = 1, count do raws[first + i], extras[first + i] = scope:keep(raw:narrow(0, i - 1, 1)), more[i] end
      end)
    return torch.cat(raws, 0), extras
  end,
}
