-- ARCC: arXiv:2605.14641, 2026: the harmonic mean of three judgements of a map: its coherency, Pearson's r with the map
-- that the same method makes of the image seen through the map (black where it is 0), brought to [0, 1]; its brevity, 1
-- less its mean value (its complexity); and twice its ROAD combined, cut to [0, 1]. 0 where one of them is 0. Beside it
-- the three. Written for probabilities: judge as = "softmax". As pytorch-grad-cam's ARCC, which adds 1e-8 to each and
-- multiplies the network's input with the map, black or not. Undefined for a map of one value.
local road = require "medxai.score.road"

local options = {}
for key, rule in pairs(road.options) do options[key] = rule end
options.percentiles = { "table", of = "number", default = { 20, 40, 60, 80 }, unit = "%",
  doc = "of the map, at which ROAD cuts it" }

-- The pixels that count, in float64.
local function part_of(map, ctx)
  local whole = map:to { dtype = "float64" }
  return ctx.within and whole:masked_select(ctx.within) or whole
end

-- Pearson's r of two maps; nil where one is constant.
local function correlation(a, b)
  a, b = a - a:mean(), b - b:mean()
  local scale = (a:norm() * b:norm()):item()
  return scale > 0 and (a * b):sum():item() / scale or nil
end

-- In [0, 1], or nil and why there is none.
local function coherency(map, ctx)
  local lo = ctx:range()
  local through = lo + (ctx.x - lo) * map:to { dtype = ctx.x.dtype, device = ctx.x.device }:view { 1, 1, ctx.height,
    ctx.width }
  local found = ctx:maps_of(through)
  if not found then return nil, "the method is not at hand" end
  if not found[1].map then return nil, "the map of the masked image is " .. found[1].status:gsub("_", " ") end
  local r = correlation(part_of(map, ctx), part_of(found[1].map, ctx))
  if not r then return nil, "the map of the masked image has one value" end
  return (r + 1) / 2
end

return {
  title = "ARCC",
  version = 1,
  direction = "higher",
  range = { 0, 1 },
  unit = "share",
  axis = "harmonic mean of coherency, brevity and ROAD",
  needs = { model = true },
  negatives = "cut to 0",
  options = options,
  check = road.check,
  values = function() return { "", "coherency", "brevity", "road" } end,
  measure = function(map, ctx, o)
    local rows = road.logits(ctx, o, { "least", "most" })
    if not rows then return nil, nil, "map without contrast" end
    local sum = 0.0
    for i, least in ipairs(rows[1]) do sum = sum + ctx:changes_of({ least }, rows[2][i])[1] end
    local removed = math.min(1, math.max(0, sum / #rows[1]))
    local coherent, why = coherency(map, ctx)
    if not coherent then return nil, nil, why end
    local brief = 1 - part_of(map, ctx):mean():item()
    local least = math.min(removed, coherent, brief)
    return { least > 0 and 3 / (1 / removed + 1 / coherent + 1 / brief) or 0.0, coherent, brief, removed }
  end,
}
