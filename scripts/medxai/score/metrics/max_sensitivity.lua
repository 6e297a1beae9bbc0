-- Max-sensitivity: how much the map changes with the image at most: the largest norm(e(x') - e(x)) / norm(e(x)) over 10
-- draws x' = x + noise in +-0.02 of the range (Yeh et al., NeurIPS 2019, definition 2.2; the draws are random, not the
-- worst case), the target fixed. Beside it the share of the draws that change the network's prediction: where the
-- network itself wavers, so may its maps. It describes and ranks nothing: a map that is the same for all images is
-- perfectly stable. Undefined for a map that is 0 everywhere.
local sensitivity = require "medxai.score.sensitivity"

return {
  title = "max-sensitivity",
  version = 1,
  direction = "none",
  unit = "ratio",
  axis = "largest change of the map, over its norm",
  needs = { model = true },
  negatives = "cut to 0",
  options = sensitivity.options,
  values = function() return { "", "predictions_changed" } end,
  measure = function(map, ctx, options)
    local r = sensitivity.of(map, ctx, options)
    if r.why then return nil, nil, r.why end
    return { r.max, r.changed }
  end,
}
