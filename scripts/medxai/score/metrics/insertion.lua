-- Insertion: the mean score of the target while pixels are put back into an empty image, most relevant first, in 100
-- steps (Petsiuk et al., BMVC 2018). A faithful map makes it rise at once: higher is better. For every removal one
-- value; the paper starts from a blurred image and uses the probability: { "insertion", as = "softmax", removal =
-- "blur(31)" }.
local curve = require "medxai.score.deletion_curve"

return {
  title = "insertion",
  version = 1,
  direction = "higher",
  unit = "score",
  axis = "mean score while the most relevant pixels are put back",
  needs = { model = true },
  negatives = "ranked below zero values",
  options = curve.options,
  many = "removal",
  check = curve.check,
  values = curve.names,
  measure = function(_, ctx, options) return curve.measure("insertion", ctx, options) end,
}
