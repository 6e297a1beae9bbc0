-- Area under the precision-recall curve of the map's pixels as a detector of the mask's, by average precision: the sum
-- over thresholds of (recall gained) x precision, equal values being one threshold (scikit-learn's
-- average_precision_score). No threshold is chosen. Chance is the mask's share of the area. Undefined on an empty mask.
local torch = require "medxai.torch"

return {
  title = "AUPRC",
  version = 1,
  direction = "higher",
  range = { 0, 1 },
  axis = "area under the precision-recall curve",
  unit = "share",
  needs = { mask = true },
  negatives = "cut to 0",
  measure = function(map, ctx)
    local mask, values = ctx.mask, map
    if ctx.within then mask, values = mask:masked_select(ctx.within), values:masked_select(ctx.within) end
    mask = mask:flatten():to { dtype = "float64" }
    local n, total = mask:numel(), mask:sum():item()
    if total == 0 then return nil, nil, "empty mask" end
    local sorted, order = values:flatten():to { dtype = "float64" }:sort { dim = 0, descending = true }
    local hits = mask:index_select(0, order):cumsum(0)
    -- of each threshold
    local last = torch.cat({ sorted:narrow(0, 1, n - 1):ne(sorted:narrow(0, 0, n - 1)),
      torch.ones(1, { dtype = "bool" }) }, 0)
    hits = hits:masked_select(last)
    local taken = torch.arange(1, n + 1, { dtype = "float64" }):masked_select(last)
    local gained = hits - torch.cat({ torch.zeros(1, { dtype = "float64" }), hits:narrow(0, 0, hits:size(0) - 1) }, 0)
    return (gained / total * hits / taken):sum():item(), total / n
  end,
}
