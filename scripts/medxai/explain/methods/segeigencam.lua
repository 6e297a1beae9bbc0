-- Seg-Eigen-CAM: Chung and Ying, Applied Sciences 2025, eq. 10 to 13: the first principal component of |gradient| times
-- activation, with the sign that makes the larger extreme positive. Made for segmentation, here of the target's score.
-- As pytorch-grad-cam's SegEigenCAM.
local principal = require "medxai.explain.principal_component"
local torch = require "medxai.torch"

return {
  title = "Seg-Eigen-CAM",
  paper = "Chung and Ying 2025, doi:10.3390/app15137562",
  version = 1,
  at = "layer",
  sign = "signed",
  needs = { gradient = true },
  smoothing = { aug_smooth = true },
  map = function(ctx)
    local maps, said = principal.project(ctx:gradient():abs() * ctx:activation())
    local list, extras = {}, {}
    for i = 1, ctx.count do
      local one = maps:narrow(0, i - 1, 1)
      list[i] = one:min():abs():item() > one:max():abs():item() and -one or one
      extras[i] = { facts = { singular_ratio = said[i].facts.singular_ratio } }
    end
    return torch.cat(list, 0), extras
  end,
}
