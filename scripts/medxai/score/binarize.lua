-- Cuts a map in two: what lies inside the finding by the map, and what does not. By percentile (95: exactly the top 5 %
-- of the pixels, ties in a keyed random order), by Otsu's threshold, or at a fixed value. And how a predicted mask
-- overlaps a true one. It refuses to cut a map that is the same everywhere: nil.
local check = require "medxai.base.check"
local torch = require "medxai.torch"

local cuts = {}

cuts.options = {
  percentiles = { "table", default = { 50, 95, "otsu" }, lua = "(number|\"otsu\")[]",
    doc = "of the map, above which pixels are inside (95: the top 5 %); \"otsu\": Otsu's threshold" },
  at = { now = "percentiles" },
}

--- Checks the options of a metric of this family: a list of percentiles (0 to 100) and "otsu".
function cuts.check(options, what)
  local list = options.percentiles
  if #list == 0 then check.fail(what, "percentiles is an empty list (expected { 50, 95, \"otsu\" } or the like).") end
  for _, at in ipairs(list) do
    if at ~= "otsu" and not (type(at) == "number" and at > 0 and at < 100) then
      check.fail(what, "percentiles holds numbers between 0 and 100, and 'otsu' (got %s).", tostring(at))
    end
  end
end

--- "percentile 95" or "otsu": what a cut is called.
function cuts.name(at) return at == "otsu" and "otsu" or string.format("percentile %g", at) end

--- Otsu's threshold of a map as 8-bit gray, floor(255 v): the level with the largest variance between the two sides,
--- the first of equals; what lies above it is inside. nil where all pixels have one level, or a value is not finite.
---@param map any tensor (H, W) in [0, 1]
---@return integer|nil level 0 .. 254
function cuts.otsu_level(map)
  if not map:isfinite():all():item() then return nil end
  local levels = map:to { device = "cpu", dtype = "float32" }:mul(255):floor():clamp(0,
    255):to { dtype = "int64" }:flatten()
  local counts = torch.bincount(levels, { minlength = 256 }):tolist()
  local n, sum = levels:numel(), 0.0
  for v, c in ipairs(counts) do sum = sum + (v - 1) * c end
  local best, level, below, below_sum = -1.0, nil, 0, 0.0
  for v = 0, 254 do
    below, below_sum = below + counts[v + 1], below_sum + v * counts[v + 1]
    if below > 0 and below < n then
      local difference = below_sum / below - (sum - below_sum) / (n - below)
      local between = below * (n - below) * difference * difference
      if between > best then best, level = between, v end
    end
  end
  return level
end

--- What lies inside by a cut.
---@param map any tensor (H, W) in [0, 1]
---@param at number|string percentile or "otsu"
---@param keep? fun(percentile: number): any|nil bool (H, W): all but the share above the percentile (the metric's
---   ctx:keep)
---@param within? any bool (H, W): only these pixels count
---@return any|nil inside bool (H, W)
function cuts.inside(map, at, keep, within)
  if at ~= "otsu" then
    local rest = keep(at)
    return rest and rest:logical_not()
  end
  local level = cuts.otsu_level(within and map:masked_select(within) or map)
  local inside = level and map:mul(255):floor():gt(level)
  return inside and within and inside:logical_and(within) or inside
end

-- ---- overlap --------------------------------------------------------------------------------------------------------

-- |A and B| / |A or B| and 2 |A and B| / (|A| + |B|) of the sizes.
local function overlap_of(a, b, both) return both / (a + b - both), 2 * both / (a + b) end

--- IoU and Dice of two masks, and what a mask of the first one's size placed at random would get, to first order.
---@param inside any bool (H, W)
---@param mask any bool (H, W), not empty
---@param pixels? integer how many could be in them (all)
---@return table { iou, dice, chance_iou, chance_dice }
function cuts.overlap(inside, mask, pixels)
  local a, b, both, n = inside:sum():item(), mask:sum():item(), inside:logical_and(mask):sum():item(),
    pixels or mask:numel()
  local o = {}
  o.iou, o.dice = overlap_of(a, b, both)
  o.chance_iou, o.chance_dice = overlap_of(a, b, a * b / n)
  return o
end

--- The measure of a metric file: the overlap at each of the option's cuts.
---@param key string "iou" | "dice"
function cuts.measure(key)
  return function(map, ctx, options)
    local mask = ctx.within and ctx.mask:logical_and(ctx.within) or ctx.mask
    if not mask:any():item() then return nil, nil, "empty mask" end
    local values, chances, pixels = {}, {}, ctx.within and ctx.within:sum():item()
    for i, at in ipairs(options.percentiles) do
      local inside = cuts.inside(map, at, function(percentile) return ctx:keep(percentile, "most") end, ctx.within)
      if not inside then return nil, nil, "map without contrast" end
      local o = cuts.overlap(inside, mask, pixels)
      values[i], chances[i] = o[key], o["chance_" .. key]
    end
    return values, chances
  end
end

--- The names of a metric file's values.
function cuts.names(options)
  local list = {}
  for i, at in ipairs(options.percentiles) do list[i] = cuts.name(at) end
  return list
end

-- ---- thresholds that are chosen -------------------------------------------------------------------------------------

cuts.levels = 100 -- thresholds tried: 0, 0.01 ... 0.99 of the map's range

--- Overlap at every threshold k / levels (a pixel at or above it is inside), by histograms: lists of levels numbers.
---@param map any tensor (H, W) in [0, 1]
---@param mask any bool (H, W), not empty
---@return table { iou, dice, chance_iou, chance_dice }: lists of numbers
function cuts.curves(map, mask)
  local bins = map:to { device = "cpu", dtype = "float64" }:mul(cuts.levels):floor():clamp(0,
    cuts.levels - 1):to { dtype = "int64" }
  local function from_above(of) -- how many pixels lie at or above each threshold
    local counts, sum = torch.bincount(of:flatten(), { minlength = cuts.levels }):tolist(), 0
    for k = cuts.levels, 1, -1 do
      sum = sum + counts[k]
      counts[k] = sum
    end
    return counts
  end
  local all, hit, b = from_above(bins), from_above(bins:masked_select(mask)), mask:sum():item()
  local curves, n = { iou = {}, dice = {}, chance_iou = {}, chance_dice = {} }, mask:numel()
  for k = 1, cuts.levels do
    curves.iou[k], curves.dice[k] = overlap_of(all[k], b, hit[k])
    curves.chance_iou[k], curves.chance_dice[k] = overlap_of(all[k], b, all[k] * b / n)
  end
  return curves
end

--- The threshold (1 .. levels) with the largest mean over maps, the lowest of equals; nil of none.
---@param list number[][] one curve a map
function cuts.best(list)
  local best, at = -1, nil
  for k = 1, #list > 0 and cuts.levels or 0 do
    local sum = 0.0
    for _, curve in ipairs(list) do sum = sum + curve[k] end
    if sum / #list > best then best, at = sum / #list, k end
  end
  return at
end

return cuts
