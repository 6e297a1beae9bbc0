-- Faithfulness correlation: Pearson's correlation, over 200 sets of a fifth of an image's regions, of the map's sum
-- over a set and the target's drop without it, f(x) - f(x without S) (Bhatt et al., IJCAI 2020, definition 3, with
-- regions for pixels: 224 single values of 150,528, Quantus' usual sets, move no network). Methods and models meet the
-- same sets. Undefined where the map or the score is the same for every set.
local faithfulness = require "medxai.stats.faithfulness"
local perturbed = require "medxai.score.perturbed"

return {
  title = "faithfulness correlation",
  version = 1,
  direction = "higher",
  range = { -1, 1 },
  signed = true,
  unit = "correlation",
  axis = "correlation of the map's sum and the drop of the score",
  needs = { model = true },
  negatives = "cut to 0",
  options = perturbed.options,
  check = perturbed.check,
  measure = function(map, ctx, options)
    local p, none = perturbed.of(ctx, "sets", options)
    if not p then return nil, nil, none end
    local drops, why = perturbed.drops(ctx, p)
    if not drops then return nil, nil, why end
    local r = faithfulness.correlation(faithfulness.sums(perturbed.attributions(p, map), p.sets), drops)
    return r, nil, not r and "map without contrast" or nil
  end,
}
