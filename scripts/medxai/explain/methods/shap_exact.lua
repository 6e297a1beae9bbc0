-- SHAP Exact over regions: Shapley values of the image's regions (Shapley 1953; Lundberg and Lee 2017, eq. 4) from all
-- 2^regions sets of them: no draws, no error. shap 0.51's ExactExplainer with regions as features. It refuses more than
-- 16 regions: 65,536 evaluations.
local game = require "medxai.explain.region_game"
local not_defined = require "medxai.base.not_defined"
local shap = require "medxai.explain.shap"

local most = 16

-- s! (m - s - 1)! / m! by the number s of regions that are shown already.
local function weights_of(m)
  local weights = { [0] = 1 / m }
  for s = 1, m - 1 do weights[s] = weights[s - 1] * s / (m - s) end
  return weights
end

-- All sets in the order of binary numbers: bit r of k is region r.
local function all_sets(m)
  local sets, sizes = {}, {}
  for k = 0, (1 << m) - 1 do
    local on, size = {}, 0
    for r = 0, m - 1 do
      on[r + 1] = k >> r & 1
      size = size + on[r + 1]
    end
    sets[k + 1], sizes[k + 1] = game.set(on), size
  end
  return sets, sizes
end

return {
  title = "SHAP Exact",
  paper = "Lundberg and Lee 2017, NeurIPS 30",
  version = 1,
  at = "input",
  sign = "signed",
  one_by_one = true,
  options = game.options(8),
  check = function(o) shap.check("shap_exact", o) end,
  map = function(ctx, _, _, o)
    local g = game.of(ctx, o)
    if g.count > most then
      not_defined.raise(("shap_exact evaluates all sets of regions, and of %d regions there are too many (at most %d; "
        .. "choose fewer, or shap_permutation)"):format(g.count, most))
    end
    local sets, sizes = all_sets(g.count)
    local changes, weights, values = g:changes(sets), weights_of(g.count), {}
    for r = 0, g.count - 1 do
      local sum = 0.0
      for k = 0, #sets - 1 do
        if k >> r & 1 == 0 then sum = sum + weights[sizes[k + 1]] * (changes[(k | 1 << r) + 1] - changes[k + 1]) end
      end
      values[r + 1] = sum
    end
    return g:painted(values)
  end,
}
