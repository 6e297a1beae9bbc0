-- HiResCAM: Draelos and Carin 2020, eq. 3: the sum over channels of gradient times activation, element by element. For
-- a network that ends in one linear layer after the map it says exactly where the score comes from; Grad-CAM averages
-- the gradient first. As pytorch-grad-cam's HiResCAM. With eigen_smooth that guarantee does not hold.
return {
  title = "HiResCAM",
  paper = "Draelos and Carin 2020, arXiv:2011.08891",
  version = 1,
  at = "layer",
  sign = "signed",
  needs = { gradient = true },
  smoothing = { aug_smooth = true, eigen_smooth = true },
  map = function(ctx) return ctx:combine(ctx:gradient() * ctx:activation()) end,
}
