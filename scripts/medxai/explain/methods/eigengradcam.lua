-- Eigen-Grad-CAM: Eigen-CAM of gradient x activation, and so of a class: from pytorch-grad-cam (EigenGradCAM), after
-- Muhammad and Yeasin 2020. The sign is that of HiResCAM's map, which is the sum over the same channels
-- (principal.lua); in compat LAPACK's.
return {
  title = "Eigen-Grad-CAM",
  paper = "after Muhammad and Yeasin 2020, doi:10.1109/IJCNN48605.2020.9206626",
  version = 1,
  at = "layer",
  sign = "signed",
  needs = { gradient = true },
  smoothing = { aug_smooth = true },
  map = function(ctx) return ctx:principal(ctx:gradient() * ctx:activation()) end,
}
