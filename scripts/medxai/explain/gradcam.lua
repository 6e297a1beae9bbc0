-- Grad-CAM: Selvaraju et al., ICCV 2017, eq. 1 and 2. A channel's weight is the mean gradient of the target over its grid;
-- the map is the weighted sum of the channels. The ReLU of eq. 2 is applied where the map is drawn, so `raw` keeps its sign.
-- As pytorch-grad-cam's GradCAM; compat = "pytorch-grad-cam" also takes the activation after a ReLU that follows in place.
return {
  title = "Grad-CAM",
  paper = "Selvaraju et al. 2017, doi:10.1109/ICCV.2017.74",
  version = 1,
  at = "layer",
  sign = "signed",
  needs = { gradient = true },
  map = function(ctx)
    local a, g = ctx:activation(), ctx:gradient() -- (N, C, h, w)
    local w = g:mean({ 2, 3 }, true)              -- (N, C, 1, 1)
    return (w * a):sum({ 1 })                     -- (N, h, w)
  end,
}
