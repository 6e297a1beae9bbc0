-- A metric of your own: a file beside the experiment, asked for by its name: metrics = { "my_metric" }.
-- Sparseness: the Gini index of the map (Chalasani et al., ICML 2020, section 3): 0 where every pixel counts the same,
-- near 1 where a few pixels hold everything. Chance is the index of a map of uniform noise, 1/3.
return {
  title = "sparseness",
  version = 1,
  direction = "higher",
  range = { 0, 1 },
  unit = "Gini index",
  negatives = "there are none in a map",
  options = { below = { "number", default = 0, min = 0, max = 1 } }, -- values up to this count as 0

  -- map: (H, W) in [0, 1]; ctx offers image, model, target, masks and batched scores (scripts/medxai/score/registry.lua
  -- lists all).
  measure = function(map, _, options)
    local v = map:flatten():to { dtype = "float64" }
    v = v:masked_fill(v:le(options.below), 0)
    local total = v:sum():item()
    if total == 0 then return nil, nil, "map without energy" end -- counted as undefined, with this reason
    local n, sorted = v:numel(), v:sort()
    local rank = require("medxai.torch").arange(1, n + 1, { dtype = "float64" })
    local share = (sorted * (rank * -1 + (n + 0.5))):sum():item() / (n * total)
    return 1 - 2 * share, 1 / 3 -- value, chance level
  end,
}
