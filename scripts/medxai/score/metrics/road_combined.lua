-- ROAD combined: half the difference between the mean scores after removing the least and the most relevant pixels,
-- over the percentiles (pytorch-grad-cam's ROADCombined). The unchanged image's score cancels: 2 P passes for P
-- percentiles. Higher is better; a map that knows nothing is near 0. Smooth maps have an edge: read it beside
-- random_smooth's.
local road = require "medxai.score.road"

return {
  title = "ROAD combined",
  version = 1,
  direction = "higher",
  unit = "score",
  signed = true,
  axis = "(least relevant first - most relevant first) / 2",
  needs = { model = true },
  negatives = "ranked below zero values",
  compat = true,
  options = road.options,
  check = road.check,
  measure = function(_, ctx, options)
    local rows = road.logits(ctx, options, { "least", "most" })
    if not rows then return nil, nil, "map without contrast" end
    local sum = 0.0
    for i, least in ipairs(rows[1]) do sum = sum + ctx:changes_of({ least }, rows[2][i])[1] end
    return sum / #rows[1] / 2
  end,
}
