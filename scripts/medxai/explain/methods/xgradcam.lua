-- XGrad-CAM: Fu et al., BMVC 2020, eq. 8: a channel's weight is its gradient averaged with the activation's share at
-- each place,
--   w_c = sum g a / sum a,  0 where the activations cancel to their rounding
-- chosen so that the map fulfils sensitivity and conservation as nearly as weights can.
-- compat: as pytorch-grad-cam's XGradCAM, which adds 1e-7 to the divisor.
local map = require "medxai.explain.map"

return {
  title = "XGrad-CAM",
  paper = "Fu et al. 2020, arXiv:2008.02312",
  version = 2,
  at = "layer",
  sign = "signed",
  needs = { gradient = true },
  smoothing = { aug_smooth = true, eigen_smooth = true },
  map = function(ctx)
    local a, g = ctx:activation(), ctx:gradient() -- (N, C, h, w)
    local total = a:sum({ 2, 3 }, true)
    if ctx.compat then return ctx:combine((g * a / (total + 1e-7)):sum({ 2, 3 }, true) * a) end
    local none = total:abs():le(a:abs():sum({ 2, 3 }, true) * map.rounding(a))
    return ctx:combine(((g * a):sum({ 2, 3 }, true) / total):masked_fill(none, 0) * a)
  end,
}
