-- Grad-CAM element-wise: the sum over channels of relu(gradient x activation): like HiResCAM, but what speaks against
-- the target in one channel takes nothing from what speaks for it in another. From pytorch-grad-cam
-- (GradCAMElementWise), which cites no paper; the form is that of Pillai and Pirsiavash, AAAI 2021, eq. 2.
return {
  title = "Grad-CAM element-wise",
  paper = "Pillai and Pirsiavash 2021, doi:10.1609/aaai.v35i3.16393",
  version = 1,
  at = "layer",
  sign = "nonnegative",
  needs = { gradient = true },
  smoothing = { aug_smooth = true, eigen_smooth = true },
  map = function(ctx) return ctx:combine((ctx:gradient() * ctx:activation()):relu()) end,
}
