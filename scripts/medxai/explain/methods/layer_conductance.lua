-- Layer conductance: Dhamdhere et al., ICLR 2019, eq. 1: how much of what integrated gradients says flows through a
-- layer: along the line from a baseline to the image the layer's gradient times what its value changes by, summed over
-- the steps (trapezoids) and the channels. Its sum is the target's change but for the steps: the completeness gap.
-- compat = captum: as LayerConductance, whose points are those of the Gauss-Legendre quadrature, without the two ends:
-- what happens before the first and behind the last is missing.
local completeness = require "medxai.explain.completeness"
local legendre = require "medxai.stats.quadrature"
local path = require "medxai.explain.layer_path"

return {
  title = "layer conductance",
  paper = "Dhamdhere et al. 2019, arXiv:1805.12233",
  version = 1,
  at = "layer",
  sign = "signed",
  honesty = { completeness.honesty },
  smoothing = { aug_smooth = true },
  options = {
    steps = path.options.steps, removal = path.options.removal,
    compat = { one_of = { "captum" }, doc = "captum: its points, which leave out the two ends of the way" },
  },
  check = function(o) path.check("layer_conductance", o) end,
  map = function(ctx, _, _, o)
    local points = {}
    if o.compat then points = legendre(o.steps + 1)
    else
      for p = 0, o.steps do points[p + 1] = p / o.steps end
    end
    local maps, base = path.sums(ctx, points, o, function(_, here, before)
      if not before then return nil end
      return ((o.compat and before.g or (before.g + here.g) / 2) * (here.a - before.a)):sum({ 0 })
    end)
    return maps, completeness.extras(maps, completeness.differences(ctx, base))
  end,
}
