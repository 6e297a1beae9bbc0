-- SmoothGrad squared: Hooker et al., NeurIPS 2019, section 4: the mean over noisy copies of the image of the squared
-- gradient, summed over the color channels. The copies are SmoothGrad's. captum's NoiseTunnel(Saliency(abs = False),
-- "smoothgrad_sq").
local noisy = require "medxai.explain.noisy_gradients"

return {
  title = "SmoothGrad squared",
  paper = "Hooker et al. 2019, arXiv:1806.10758",
  version = 1,
  at = "input",
  sign = "nonnegative",
  rng = noisy.rng,
  smoothing = { aug_smooth = true },
  options = noisy.options,
  map = function(ctx, _, _, o) return (select(2, noisy.means(ctx, o, true))):sum({ 1 }) end,
}
