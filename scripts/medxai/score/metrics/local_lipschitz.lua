-- Local Lipschitz estimate: the steepest change of the map with the image, the largest norm(e(x') - e(x)) / norm(e(x))
-- over norm(x' - x) of pixels in [0, 1], over the draws of max_sensitivity (Alvarez-Melis and Jaakkola 2018,
-- arXiv:1806.08049, equation 3, over the map's norm, so that maps of other scales compare). It describes and ranks
-- nothing: a map that is the same for all images is perfectly stable. Undefined for a map that is 0 everywhere.
local sensitivity = require "medxai.score.sensitivity"

return {
  title = "local Lipschitz estimate",
  version = 1,
  direction = "none",
  unit = "ratio",
  axis = "largest change of the map over its norm, per change of the image",
  needs = { model = true },
  negatives = "cut to 0",
  options = sensitivity.options,
  measure = function(map, ctx, options)
    local r = sensitivity.of(map, ctx, options)
    if r.why then return nil, nil, r.why end
    return r.lipschitz
  end,
}
