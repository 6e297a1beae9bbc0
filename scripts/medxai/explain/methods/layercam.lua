-- LayerCAM: Jiang et al., IEEE TIP 2021, eq. 5 and 6: each place of each channel has its own weight, the gradient where
-- it is positive; the map is the sum over channels of weight times activation. Made for shallow layers, where one
-- weight a channel says little. As pytorch-grad-cam's LayerCAM; the paper's tanh scaling for merging several layers is
-- left out, as there.
return {
  title = "LayerCAM",
  paper = "Jiang et al. 2021, doi:10.1109/TIP.2021.3089943",
  version = 1,
  at = "layer",
  sign = "signed",
  needs = { gradient = true },
  smoothing = { aug_smooth = true, eigen_smooth = true },
  map = function(ctx) return ctx:combine(ctx:gradient():relu() * ctx:activation()) end,
}
