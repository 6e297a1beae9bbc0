-- Deletion: the mean score of the target while pixels are taken out, most relevant first, in 100 steps (Petsiuk et al.,
-- BMVC 2018). A faithful map makes it fall at once: lower is better. For every removal one value; the paper uses the
-- probability and gray for taken out: { "deletion", as = "softmax", removal = "mean" }.
local curve = require "medxai.score.deletion_curve"

return {
  title = "deletion",
  version = 1,
  direction = "lower",
  unit = "score",
  axis = "mean score while the most relevant pixels are deleted",
  needs = { model = true },
  negatives = "ranked below zero values",
  options = curve.options,
  many = "removal",
  check = curve.check,
  values = curve.names,
  measure = function(_, ctx, options) return curve.measure("deletion", ctx, options) end,
}
