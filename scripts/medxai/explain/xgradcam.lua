-- XGrad-CAM: Fu et al., BMVC 2020, eq. 8: a channel's weight is its gradient averaged with the activation's share at each place,
--   w_c = sum g a / (sum a + 1e-7),
-- chosen so that the map fulfils sensitivity and conservation as nearly as weights can. As pytorch-grad-cam's XGradCAM.
return {
  title = "XGrad-CAM",
  paper = "Fu et al. 2020, arXiv:2008.02312",
  version = 1,
  at = "layer",
  sign = "signed",
  needs = { gradient = true },
  smoothing = { aug_smooth = true, eigen_smooth = true },
  map = function(ctx)
    local a, g = ctx:activation(), ctx:gradient() -- (N, C, h, w)
    local w = (g * a / (a:sum({ 2, 3 }, true) + 1e-7)):sum({ 2, 3 }, true)
    return ctx:combine(w * a)
  end,
}
