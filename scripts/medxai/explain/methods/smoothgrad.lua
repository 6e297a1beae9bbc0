-- SmoothGrad: Smilkov et al. 2017, arXiv:1706.03825: the mean gradient over noisy copies of the image, summed over the
-- color channels, signed. The noise is normal with sigma a share of the network's input range (the paper takes the
-- image's own range), keyed by the image and the number of the copy: the first 25 of 100 copies are the 25.
-- captum's NoiseTunnel(Saliency(abs = False), "smoothgrad") with the same noise.
local noisy = require "medxai.explain.noisy_gradients"

return {
  title = "SmoothGrad",
  paper = "Smilkov et al. 2017, arXiv:1706.03825",
  version = 1,
  at = "input",
  sign = "signed",
  derivative = true,
  rng = noisy.rng,
  smoothing = { aug_smooth = true },
  options = noisy.options,
  map = function(ctx, _, _, o) return noisy.means(ctx, o):sum({ 1 }) end,
}
