-- Internal influence: Leino et al., ITC 2018, definition 1: the layer's gradient, the mean along the line from a
-- baseline to the image by Gauss-Legendre quadrature, summed over the channels, signed. captum's InternalInfluence.
local legendre = require "medxai.stats.quadrature"
local path = require "medxai.explain.layer_path"

return {
  title = "internal influence",
  paper = "Leino et al. 2018, arXiv:1802.03788",
  version = 1,
  at = "layer",
  sign = "signed",
  smoothing = { aug_smooth = true },
  options = path.options,
  check = function(o) path.check("internal_influence", o) end,
  map = function(ctx, _, _, o)
    local points, weights = legendre(o.steps)
    return (path.sums(ctx, points, o, function(p, here) return here.g:sum({ 0 }) * weights[p] end))
  end,
}
