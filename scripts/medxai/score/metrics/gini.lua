-- Gini coefficient of the map on 16 x 16 cells: 0 for an even map, near 1 for a point (Chalasani et al., ICML 2020,
-- section 4, Hurley and Rickard 2009). It describes and ranks nothing: a point is perfectly concentrated and may lie
-- anywhere. Undefined for a map without positive energy.
local complexity = require "medxai.stats.complexity"
local frame = require "medxai.score.frame"

return {
  title = "Gini coefficient",
  version = 1,
  direction = "none",
  range = { 0, 1 },
  unit = "share",
  axis = "Gini coefficient of the cells",
  negatives = "cut to 0",
  measure = function(map, ctx)
    local value = complexity.gini(frame.within(map, ctx.within))
    return value, nil, not value and "map without energy" or nil
  end,
}
