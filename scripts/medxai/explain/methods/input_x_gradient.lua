-- Input times gradient: Shrikumar et al. 2016, arXiv:1605.01713: x dy/dx, summed over the color channels, signed. A
-- linear estimate of what each pixel adds to the target; how far the sum misses the target's change from black to the
-- image is its completeness gap. captum's InputXGradient.
local completeness = require "medxai.explain.completeness"

return {
  title = "input x gradient",
  paper = "Shrikumar et al. 2016, arXiv:1605.01713",
  version = 1,
  at = "input",
  sign = "signed",
  honesty = { completeness.honesty },
  needs = { gradient = true },
  smoothing = { aug_smooth = true },
  map = function(ctx)
    local raw = (ctx:gradient("x") * ctx.x):sum({ 1 })
    local black = ctx:range():expand { 1, 3, ctx.height, ctx.width }
    return raw, completeness.extras(raw, completeness.differences(ctx, black))
  end,
}
