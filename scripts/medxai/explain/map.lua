-- From raw values on a layer's grid to a map on the input's grid, by pytorch-grad-cam's convention, and its status.
-- relu, min-max, bilinear resize (half-pixel centers), mean over layers, min-max again; per image, never over a batch.
-- Under augmentation that for each view, then the mean of the views.
-- No number here has a scale of its own: a target a million times smaller gives the same map. What varies by no more
-- than the rounding of its largest value is flat. With compat as pytorch-grad-cam, which adds 1e-7 to the range.
-- It refuses to hide a map without content: every map has a status, and a flat one is zero, not noise.
local torch = require "medxai.torch"

local map = {}

map.version = 2 -- 1 added 1e-7 to every range

--- With compat: what the reference adds to a range, and the maximum under which its map has no content.
map.EPSILON, map.COMPAT_FLAT = 1e-7, 1e-3

-- 32 units in the last place: sums over up to 2048 channels round by a few.
local rounding = { float64 = 0x1p-47, float32 = 0x1p-18 }

--- The share of a tensor's largest value that is rounding. precision: of the network whose numbers it is made of.
---@param tensor any
---@param precision? string
---@return number
function map.rounding(tensor, precision)
  local known = precision == nil or precision == "float64"
  return known and rounding[tensor.dtype] or rounding.float32
end

--- (N, h, w) -> (N, h, w): (m - min m) / (max m - min m), each image alone; 0 where the range is rounding.
---@param m any
---@param how? table compat: 1e-7 is added to the range instead; precision: see map.rounding
function map.minmax(m, how)
  local lo, hi = m:amin({ 1, 2 }, true), m:amax({ 1, 2 }, true)
  local range = hi - lo
  if how and how.compat then return (m - lo) / (range + map.EPSILON) end
  local flat = range:le(torch.maximum(lo:abs(), hi:abs()) * map.rounding(m, how and how.precision)) -- NaN is not
  return ((m - lo) / range):masked_fill(flat, 0)
end

--- (N, h, w) -> (N, H, W), bilinear with half-pixel centers.
function map.resize(m, height, width)
  local shape = m.shape
  if shape[2] == height and shape[3] == width then return m end
  return torch.upsample_bilinear2d(m:unsqueeze(1), { height, width }, false):squeeze(1)
end

-- One image's views, or a batch: raws (N, h, w), one per layer.
local function without_views(raws, height, width, how)
  local sum
  for _, raw in ipairs(raws) do
    local one = map.resize(map.minmax(how.cut and raw:relu() or raw, how):to { dtype = "float32" }, height, width)
    sum = sum and sum + one or one
  end
  if how.once and raws[1]:size(1) == height and raws[1]:size(2) == width then return sum end
  return map.minmax((sum / #raws):relu(), how)
end

--- The maps of a batch: relu, min-max, resize, mean over layers, min-max; under augmentation the mean over the views,
--- each turned back, which is not stretched again.
---@param raws any[] one tensor (N, h, w) a layer, signed; or (N, V, h, w) with V views of each image
---@param height integer of the input
---@param width integer
---@param how? table views: list of { flip = boolean }; cut = false: no relu (FullGrad); once: no second min-max (maps
---   made on the input's grid); compat; precision: of the network, see map.rounding
---@return any maps tensor (N, H, W) float32 in [0, 1]
function map.from_raw(raws, height, width, how)
  how = how or {}
  how = { views = how.views, cut = how.cut ~= false, once = how.once or false, compat = how.compat,
    precision = how.precision }
  if raws[1]:dim() == 3 then return without_views(raws, height, width, how) end
  local sum
  for v, view in ipairs(how.views) do
    local own = {}
    for k, raw in ipairs(raws) do own[k] = raw:select(1, v - 1) end
    local one = without_views(own, height, width, how)
    if view.flip then one = one:flip({ 2 }) end
    sum = sum and sum + one or one
  end
  return sum / #how.views
end

--- (H, W): what speaks for the target in raw units, for scales shared between images: relu, resize, mean over views,
--- sum over layers.
---@param raws any[] one tensor (h, w) a layer, or (V, h, w)
---@param height integer
---@param width integer
---@param views? table[] list of { flip = boolean }
function map.strength(raws, height, width, views)
  local sum
  for _, raw in ipairs(raws) do
    local one = map.resize(raw:to { dtype = "float32" }:view { -1, raw:size(-2), raw:size(-1) }:relu(), height, width)
    for v, view in ipairs(views or {}) do
      if view.flip then one:select(0, v - 1):copy_(one:select(0, v - 1):flip({ 1 })) end
    end
    one = one:mean({ 0 })
    sum = sum and sum + one or one
  end
  return sum
end

--- What is to be said about each image's map.
---@param raws any[] one tensor (N, h, w) a layer, or (N, V, h, w)
---@param maps any tensor (N, H, W)
---@param how? table as for from_raw
---@return table[] list of { status = "ok" | "flat" | "nan" | "all_negative", lo =, hi =, positive_share = }
function map.judge(raws, maps, how)
  local compat = how and how.compat
  local count, cut = maps.shape[1], not how or how.cut ~= false
  local judged = {}
  for i = 1, count do judged[i] = { lo = math.huge, hi = -math.huge, positive = 0, mass = 0, range = 0 } end
  for _, raw in ipairs(raws) do
    local flat = raw:to { device = "cpu", dtype = "float64" }:flatten(1)
    local finite = flat:isfinite():all(1):tolist()
    local lo, hi = flat:amin({ 1 }):tolist(), flat:amax({ 1 }):tolist()
    local positive, mass = flat:relu():sum({ 1 }):tolist(), flat:abs():sum({ 1 }):tolist()
    for i, j in ipairs(judged) do
      j.lo, j.hi = math.min(j.lo, lo[i]), math.max(j.hi, hi[i])
      local top, bottom = hi[i], lo[i]
      if cut then top, bottom = math.max(top, 0), math.max(bottom, 0) end
      j.range = math.max(j.range, top - bottom) -- of what the map is made of; NaN stays out
      j.positive, j.mass = j.positive + positive[i], j.mass + mass[i]
      if not finite[i] then j.status = "nan" end
    end
  end
  local tops = maps:to { device = "cpu" }:flatten(1):amax({ 1 }):tolist()
  for i, j in ipairs(judged) do
    j.positive_share = j.mass > 0 and j.positive / j.mass or 0.0
    if not j.status then
      if cut and j.hi <= 0 and j.lo < 0 then j.status = "all_negative"
      elseif tops[i] == 0 or compat and (j.range <= map.EPSILON or tops[i] < map.COMPAT_FLAT) then j.status = "flat"
      else j.status = "ok" end
    end
  end
  return judged
end

local explanations = {
  flat = "flat: no contrast in this map",
  nan = "not a number: the values are broken",
  all_negative = "all negative: nothing speaks for the target here",
  saturated = "saturated: p is too near 0 or 1, explain the logit",
  sign_undecided = "sign undecided",
  not_defined = "not defined for this network",
  failed = "failed",
}

--- What a warning says of the maps of a status: "3 of 3 maps ...".
map.in_words = {
  flat = "have the same value everywhere",
  nan = "hold values that are not numbers",
  all_negative = "have no positive value",
  saturated = "are saturated, p is too near 0 or 1",
  sign_undecided = "have no sign of their own",
  not_defined = "are not defined",
}

--- Statuses of maps that hold nothing but rounding, or no numbers.
map.empty = { nan = true, flat = true, saturated = true }

--- For a method's map(): raises that the method means nothing for this network or image (base/not_defined.lua).
map.not_defined = require("medxai.base.not_defined").raise

--- A sentence for figures and tables, nil for "ok".
function map.explain_status(status)
  return explanations[status]
end

--- What a method returned, as (N, h, w), or nil and why not.
function map.check_shape(raw, count, height, width)
  if not torch.is_tensor(raw) then
    return nil, string.format("returned %s instead of a tensor (%d, %d)", raw == nil and "nothing" or "a " .. type(raw),
      height, width)
  end
  local shape = raw.shape
  if #shape == 4 and shape[2] == 1 then raw = raw:squeeze(1) end
  if #shape == 2 and count == 1 then raw = raw:unsqueeze(0) end
  local got = raw.shape
  if #got ~= 3 or got[1] ~= count or got[2] < 1 or got[3] < 1 or got[2] > height or got[3] > width then
    return nil, string.format("returned a tensor of shape (%s) instead of (%d, %d)%s", table.concat(shape, ", "),
      height, width, count > 1 and string.format(" or (%d, %d, %d)", count, height, width) or "")
  end
  if raw.dtype == "bool" or raw.dtype:find("^complex") then
    return nil, "returned a tensor of " .. raw.dtype .. " instead of numbers"
  end
  -- what the CPU computes with
  if raw.dtype ~= "float32" and raw.dtype ~= "float64" then
    raw = raw:to { dtype = raw.dtype:find "int" and "float64" or "float32" }
  end
  return raw:detach()
end

--- Where input pixels lie in the file, and layer cells in the input: both as { scale, offset } per axis so that
--- file = offset + scale * input (pixel centers at .5).
---@param input integer[] { H, W }
---@param grids integer[][] one { h, w } a layer
---@param place? table { file = {W, H}, resized = {W, H}, crop = {left, top, width, height} } from the reader
function map.geometry(input, grids, place)
  local out = { input = { height = input[1], width = input[2] }, layers = {} }
  for i, g in ipairs(grids) do
    out.layers[i] = { height = g[1], width = g[2], cell_height_px = input[1] / g[1], cell_width_px = input[2] / g[2] }
  end
  if place then
    local sx, sy = place.file[1] / place.resized[1], place.file[2] / place.resized[2]
    out.file = { width = place.file[1], height = place.file[2], scale_x = sx, scale_y = sy,
      offset_x = place.crop[1] * sx, offset_y = place.crop[2] * sy }
  end
  return out
end

return map
