-- Grad-CAM++: Chattopadhay et al., WACV 2018, eq. 10 and 19. A channel's weight is the sum of its positive gradients,
-- each weighted by
--   alpha = g^2 / (2 g^2 + (sum of the channel's activation) g^3) = 1 / (2 + (sum) g),  0 where g is 0
-- which is exact for the exponential of the score. The denominator can be negative, or 0, where a channel's sum is.
-- compat: as pytorch-grad-cam's GradCAMPlusPlus, which adds 1e-6 to the longer denominator: gradients under 1e-3 then
-- weigh less.
return {
  title = "Grad-CAM++",
  paper = "Chattopadhay et al. 2018, doi:10.1109/WACV.2018.00097",
  version = 2,
  at = "layer",
  sign = "signed",
  needs = { gradient = true },
  smoothing = { aug_smooth = true, eigen_smooth = true },
  map = function(ctx)
    local a, g = ctx:activation(), ctx:gradient() -- (N, C, h, w)
    local total, g2 = a:sum({ 2, 3 }, true), g * g
    local alpha = ctx.compat and g2 / (2 * g2 + total * g2 * g + 1e-6) or (total * g + 2):reciprocal()
    alpha = alpha:masked_fill(g:eq(0), 0)
    return ctx:combine((g:relu() * alpha):sum({ 2, 3 }, true) * a)
  end,
}
