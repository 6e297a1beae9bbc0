-- Effective area: the least share of 16 x 16 cells that holds half of the map's energy. Small is concentrated. Counting
-- pixels above a threshold of 1e-5 instead, as Quantus does, counts all of them.
-- It describes and ranks nothing: a point is perfectly concentrated and may lie anywhere. Undefined for a map without
-- positive energy.
local complexity = require "medxai.stats.complexity"
local frame = require "medxai.score.frame"

return {
  title = "effective area",
  version = 1,
  direction = "none",
  range = { 0, 1 },
  unit = "share",
  axis = "least share of the cells that holds half the energy",
  negatives = "cut to 0",
  measure = function(map, ctx)
    local value = complexity.effective_area(frame.within(map, ctx.within))
    return value, nil, not value and "map without energy" or nil
  end,
}
