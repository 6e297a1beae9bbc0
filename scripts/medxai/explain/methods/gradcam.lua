-- Grad-CAM: Selvaraju et al., ICCV 2017, eq. 1 and 2. A channel's weight is the mean gradient of the target over its
-- grid; the map is the weighted sum of the channels. The ReLU of eq. 2 is applied where the map is drawn, so `raw`
-- keeps its sign. As pytorch-grad-cam's GradCAM.
return {
  title = "Grad-CAM",
  paper = "Selvaraju et al. 2017, doi:10.1109/ICCV.2017.74",
  version = 1,
  at = "layer",
  sign = "signed",
  needs = { gradient = true },
  smoothing = { aug_smooth = true, eigen_smooth = true },
  map = function(ctx)
    local a, g = ctx:activation(), ctx:gradient()  -- (N, C, h, w)
    return ctx:combine(g:mean({ 2, 3 }, true) * a) -- (N, h, w)
  end,
}
