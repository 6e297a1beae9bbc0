-- Entropy of the map on 16 x 16 cells, over that of an even map: 0 for a point, 1 for an even map (Bhatt et al., IJCAI
-- 2020, definition 4, normed so that it does not grow with the number of pixels). It describes and ranks nothing: a
-- point is perfectly concentrated and may lie anywhere. Undefined for a map without positive energy.
local complexity = require "medxai.stats.complexity"
local frame = require "medxai.score.frame"

return {
  title = "entropy",
  version = 1,
  direction = "none",
  range = { 0, 1 },
  unit = "share",
  axis = "entropy of the cells, over that of an even map",
  negatives = "cut to 0",
  measure = function(map, ctx)
    local value = complexity.entropy(frame.within(map, ctx.within))
    return value, nil, not value and "map without energy" or nil
  end,
}
