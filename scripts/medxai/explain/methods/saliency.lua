-- Saliency: Simonyan et al., ICLR workshop 2014, section 3: how much the target changes with each pixel, |dy/dx|.
-- Summed over the color channels, where the paper takes their maximum; captum's Saliency channel by channel.
return {
  title = "saliency",
  paper = "Simonyan et al. 2014, arXiv:1312.6034",
  version = 1,
  at = "input",
  sign = "magnitude",
  needs = { gradient = true },
  smoothing = { aug_smooth = true },
  map = function(ctx) return ctx:gradient("x"):abs():sum({ 1 }) end,
}
