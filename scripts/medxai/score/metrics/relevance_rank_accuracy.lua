-- Relevance rank accuracy: of the map's K highest pixels, the share that lies in a mask of K pixels (Arras, Osman and
-- Samek, Information Fusion 2022, equation 2). Pixels that tie for the last places share them, which is the mean over
-- every order of theirs. Their relevance mass accuracy is energy_inside. Chance is the mask's share of the area.
-- Undefined on an empty mask and on a map that is the same everywhere.
local faithfulness = require "medxai.stats.faithfulness"

return {
  title = "relevance rank accuracy",
  version = 1,
  direction = "higher",
  range = { 0, 1 },
  unit = "share",
  axis = "share of the mask among the map's highest pixels",
  needs = { mask = true },
  negatives = "ranked below zero values",
  measure = function(map, ctx)
    local mask, values = ctx.mask:ne(0):flatten(), map:flatten()
    if ctx.within then
      local within = ctx.within:flatten()
      mask, values = mask:masked_select(within), values:masked_select(within)
    end
    local area = mask:to { dtype = "float64" }:mean():item()
    if area == 0 then return nil, nil, "empty mask" end
    if values:max():item() == values:min():item() then return nil, area, "map without contrast" end
    return faithfulness.rank_accuracy(values:to { dtype = "float64" }:tolist(), mask:to { dtype = "int64" }:tolist()),
      area
  end,
}
