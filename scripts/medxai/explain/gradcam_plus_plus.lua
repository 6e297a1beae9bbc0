-- Grad-CAM++: Chattopadhay et al., WACV 2018, eq. 10 and 19. A channel's weight is the sum of its positive gradients, each weighted by
--   alpha = g^2 / (2 g^2 + (sum of the channel's activation) g^3 + 1e-6),  0 where g is 0
-- which is exact for the exponential of the score. As pytorch-grad-cam's GradCAMPlusPlus: as there, the denominator is not guarded
-- beyond 1e-6, and can be negative where the gradient is.
return {
  title = "Grad-CAM++",
  paper = "Chattopadhay et al. 2018, doi:10.1109/WACV.2018.00097",
  version = 1,
  at = "layer",
  sign = "signed",
  needs = { gradient = true },
  smoothing = { aug_smooth = true, eigen_smooth = true },
  map = function(ctx)
    local a, g = ctx:activation(), ctx:gradient() -- (N, C, h, w)
    local g2 = g * g
    local alpha = g2 / (2 * g2 + a:sum({ 2, 3 }, true) * g2 * g + 1e-6)
    alpha = alpha:masked_fill(g:eq(0), 0)
    return ctx:combine((g:relu() * alpha):sum({ 2, 3 }, true) * a)
  end,
}
