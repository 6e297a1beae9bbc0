-- SESS, saliency enhancing with scaling and sliding: Tursun et al. 2022, section 3: Grad-CAM of many windows of the
-- image at several sizes: each window's map (relu and min-max) is weighted by the probability that the network gives
-- the class there, pasted where the window was, and a pixel's value is the mean over the windows that say something of
-- it; blurred at the end. For small or several findings. As pytorch-grad-cam's SESS with Grad-CAM.
local check = require "medxai.base.check"
local map = require "medxai.explain.map"
local geometry = require "medxai.nn.geometry"
local target = require "medxai.explain.target"
local torch = require "medxai.torch"

-- Where windows begin along a side; the last is moved back into the image.
local function starts(side, step, window)
  local list = {}
  for at = 0, side - 1, step do
    if at + window >= side then
      list[#list + 1] = math.max(side - window, 0)
      break
    end
    list[#list + 1] = at
  end
  return list
end

-- The image at each size: list of { image, y, x, window }.
local function windows_of(x, window, o)
  local short, list = math.min(x:size(2), x:size(3)), {}
  local grow = math.floor(window * o.growth + 0.5)
  for k = 0, o.scales - 1 do
    local size = window + k * grow
    local height, width = size * x:size(2) // short, size * x:size(3) // short
    local scaled = torch.upsample_bilinear2d(x, { height, width }, false)
    for _, y in ipairs(starts(height, o.step or window, window)) do
      for _, at in ipairs(starts(width, o.step or window, window)) do
        list[#list + 1] = { image = scaled, y = y, x = at }
      end
    end
  end
  return list
end

-- An 11 x 11 Gaussian of sigma 5, the border mirrored without its edge.
local function blurred(m)
  local at = torch.arange(-5, 6, { dtype = "float64" })
  local k = torch.exp(at * at / -50)
  k = (k / k:sum()):to { dtype = m.dtype, device = m.device }
  local padded = torch.reflection_pad2d(m:view { 1, 1, m:size(0), m:size(1) }, { 5, 5, 5, 5 })
  return torch.conv2d(torch.conv2d(padded, k:view { 1, 1, 11, 1 }), k:view { 1, 1, 1, 11 }):squeeze(0):squeeze(0)
end

-- Grad-CAM of windows as a map is drawn: (n, window, window)
local function cams_of(ctx, list, window)
  local layer, maps = ctx.layer, {}
  local grid = geometry.grid(ctx.model, layer, {})
  ctx:gradients(#list, { kind = "sess", at = { layer }, image = function() return 1 end, x = list.images },
    function(first, count, gradients, scope, values)
      local weight = grid:to_map(gradients[layer]):mean({ 2, 3 }, true)
      local raw = (weight * grid:to_map(values[layer])):sum({ 1 }):narrow(0, 0, count)
      local made = map.from_raw({ raw }, window, window, { compat = ctx.compat })
      for k = 0, count - 1 do maps[first + k + 1] = scope:keep(made:narrow(0, k, 1)) end
    end)
  return maps
end

-- The mean over the windows that say something of each pixel.
local function fused(ctx, list, maps, window)
  local sum = torch.zeros(ctx.height, ctx.width, { dtype = "float32", device = ctx.x.device })
  local times = sum:clone()
  for k, one in ipairs(list) do
    local pasted = torch.zeros({ 1, one.image:size(2), one.image:size(3) }, { dtype = "float32", device = sum.device })
    pasted:narrow(1, one.y, window):narrow(2, one.x, window):copy_(maps[k] * one.weight)
    local small = map.resize(pasted, ctx.height, ctx.width):squeeze(0)
    sum:add_(small:clamp_min(0))
    times:add_(small:gt(0):to { dtype = "float32" })
  end
  return sum / times:clamp_min(1)
end

return {
  title = "SESS",
  paper = "Tursun et al. 2022, arXiv:2207.01769",
  version = 1,
  at = "layer",
  sign = "nonnegative",
  one_by_one = true,
  options = {
    scales = { "integer", default = 12, min = 1, smoke = 2, doc = "sizes of the image, the first the window's" },
    growth = { "number", default = 2 / 7, above = 0, doc = "by which share of the window each size is larger" },
    window = { "integer", min = 1, unit = "px", doc = "side of the windows; default: the image's shorter side" },
    step = { "integer", min = 1, unit = "px", doc = "between windows; default: their side" },
    drop = { "number", default = 0, min = 0, max = 0.99, doc = "share of the windows left out, the least probable" },
  },
  map = function(ctx, x, targets, o)
    local short = math.min(ctx.height, ctx.width)
    local window = o.window or short
    if window > short or short < 6 then
      check.fail("sess", "a window of %d px does not fit the image (%d x %d px, at least 6).", window, ctx.height,
        ctx.width)
    end
    local list, t = windows_of(x, window, o), targets[1]
    local function images(first, count)
      local parts = {}
      for k = first + 1, first + count do
        parts[#parts + 1] = list[k].image:narrow(2, list[k].y, window):narrow(3, list[k].x, window)
      end
      return torch.cat(parts, 0)
    end
    local p = target.output(ctx.scorer:logits(#list, images), t.index, t.outputs == "sigmoid" and "sigmoid"
      or "softmax"):tolist()
    for k, one in ipairs(list) do one.weight, one.number = p[k], k end
    table.sort(list, function(a, b) return a.weight < b.weight or (a.weight == b.weight and a.number < b.number) end)
    list = table.move(list, math.floor(#list * o.drop) + 1, #list, 1, {}) -- what images() reads from now on
    list.images = images
    local most = list[#list].weight
    for _, one in ipairs(list) do one.weight = most > 0 and one.weight / most or 1 end
    return blurred(fused(ctx, list, cams_of(ctx, list, window), window)):unsqueeze(0),
      { { facts = { windows = #list } } }
  end,
}
