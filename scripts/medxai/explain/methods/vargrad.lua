-- VarGrad: Adebayo et al., NeurIPS 2018, section 3.2: the variance of the gradient over noisy copies of the image,
-- summed over the color channels: where the gradient wavers. The copies are SmoothGrad's. captum's
-- NoiseTunnel(Saliency(abs = False), "vargrad"): the mean of the squares less the square of the mean.
local noisy = require "medxai.explain.noisy_gradients"

return {
  title = "VarGrad",
  paper = "Adebayo et al. 2018, arXiv:1810.03292",
  version = 1,
  at = "input",
  sign = "nonnegative",
  rng = noisy.rng,
  smoothing = { aug_smooth = true },
  options = noisy.options,
  map = function(ctx, _, _, o)
    local mean, squares = noisy.means(ctx, o, true)
    return (squares - mean * mean):clamp_min(0):sum({ 1 })
  end,
}
