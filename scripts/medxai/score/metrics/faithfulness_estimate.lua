-- Faithfulness estimate: Pearson's correlation, over the image's regions, of the map's sum over a region and the
-- target's drop without it (Alvarez-Melis and Jaakkola, NeurIPS 2018, section 4, with regions for features). Undefined
-- where the map or the score is the same for every region.
local faithfulness = require "medxai.stats.faithfulness"
local perturbed = require "medxai.score.perturbed"

return {
  title = "faithfulness estimate",
  version = 1,
  direction = "higher",
  range = { -1, 1 },
  signed = true,
  unit = "correlation",
  axis = "correlation of a region's sum and the drop of the score",
  needs = { model = true },
  negatives = "cut to 0",
  options = perturbed.single_options,
  check = perturbed.check,
  measure = function(map, ctx, options)
    local p, none = perturbed.of(ctx, "singles", options)
    if not p then return nil, nil, none end
    local drops, why = perturbed.drops(ctx, p)
    if not drops then return nil, nil, why end
    local r = faithfulness.correlation(perturbed.attributions(p, map), drops)
    return r, nil, not r and "map without contrast" or nil
  end,
}
