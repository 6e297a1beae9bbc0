-- FEM, feature-based explanation: Fuad et al., IPTA 2020, section III: which places of a channel stand out by more than
-- k standard deviations; a channel's weight is the share of its places that do, the map the weighted sum of the
-- channels. It knows no class. As pytorch-grad-cam's FEM.
return {
  title = "FEM",
  paper = "Fuad et al. 2020, doi:10.1109/IPTA50016.2020.9286629",
  version = 1,
  at = "layer",
  sign = "signed",
  smoothing = { aug_smooth = true },
  options = { k = { "number", default = 2, min = 0, doc = "standard deviations over the channel's mean" } },
  map = function(ctx, _, _, o)
    local a = ctx:activation() -- (N, C, h, w)
    local mean = a:mean({ 2, 3 }, true)
    local high = mean + (a - mean):square():mean({ 2, 3 }, true):sqrt() * o.k
    return ctx:combine(a:gt(high):to { dtype = a.dtype }:mean({ 2, 3 }, true) * a)
  end,
}
