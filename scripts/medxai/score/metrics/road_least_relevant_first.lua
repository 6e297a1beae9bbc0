-- ROAD, least relevant first: how the target's score changes when the (100 - p) % least relevant pixels are removed and
-- imputed (Rong et al., ICML 2022). A faithful map lets it stay: higher is better.
-- As pytorch-grad-cam's ROADLeastRelevantFirst; there the threshold is strict, here exactly the share is taken (compat:
-- theirs).
local road = require "medxai.score.road"

return {
  title = "ROAD, least relevant first",
  version = 1,
  direction = "higher",
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
  measure = function(_, ctx, options) return road.changes(ctx, options, "least") end,
}
