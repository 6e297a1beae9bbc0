-- ROAD, most relevant first: how the target's score changes when the (100 - p) % most relevant pixels are removed and
-- imputed (Rong et al., ICML 2022). A faithful map makes it fall early: lower is better.
-- As pytorch-grad-cam's ROADMostRelevantFirst; there the threshold is strict, here exactly the share is taken (compat:
-- theirs).
local road = require "medxai.score.road"

return {
  title = "ROAD, most relevant first",
  version = 1,
  direction = "lower",
  unit = "score",
  signed = true,
  axis = "change of the score",
  needs = { model = true },
  negatives = "ranked below zero values",
  compat = true,
  options = road.options,
  many = "percentiles",
  check = road.check,
  values = road.names,
  measure = function(_, ctx, options) return road.changes(ctx, options, "most") end,
}
