-- SHAP Permutation over regions: Shapley values as Shapley value sampling estimates them, each order once forward from
-- the hidden image and once backward from the whole one, so that games of pairs of regions are exact (Mitchell et al.,
-- JMLR 2022, section 2.4). The values sum to the target less that of the hidden image. shap 0.51's PermutationExplainer
-- with regions as features: max_evals = orders x (2 x regions + 1).
local game = require "medxai.explain.region_game"
local shap = require "medxai.explain.shap"

local options = game.options(30)
options.orders = { "integer", default = 10, min = 1, smoke = 1, doc = "each forward and backward" }

return {
  title = "SHAP Permutation",
  paper = "Lundberg and Lee 2017, NeurIPS 30; Mitchell et al. 2022, arXiv:2104.12199",
  version = 1,
  at = "input",
  sign = "signed",
  one_by_one = true,
  rng = "shap_permutation@1",
  honesty = { { fact = "standard_error", title = "standard error over orders", short = "std. error",
    percent = true } },
  options = options,
  check = function(o) shap.check("shap_permutation", o) end,
  map = function(ctx, _, _, o)
    local g = game.of(ctx, o)
    local values, off = g:sampled(game.orders(ctx, "shap_permutation@1", g.count, o.orders), true)
    return g:painted(values, { orders = o.orders, standard_error = off })
  end,
}
