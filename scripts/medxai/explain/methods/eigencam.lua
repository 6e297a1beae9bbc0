-- Eigen-CAM: Muhammad and Yeasin, IJCNN 2020: the first principal component of the activation's channels. It asks for
-- no class and uses no gradient: it shows what the layer sees most of, not why the target was chosen. As
-- pytorch-grad-cam's EigenCAM, which also centers the channels; the sign is that of the channels' sum (principal.lua),
-- in compat LAPACK's.
return {
  title = "Eigen-CAM",
  paper = "Muhammad and Yeasin 2020, doi:10.1109/IJCNN48605.2020.9206626",
  version = 1,
  at = "layer",
  sign = "signed",
  smoothing = { aug_smooth = true },
  map = function(ctx) return ctx:principal(ctx:activation()) end,
}
