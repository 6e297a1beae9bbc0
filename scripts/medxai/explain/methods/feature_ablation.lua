-- Feature ablation over regions: what the target loses when one region is hidden and all others are shown (Zeiler and
-- Fergus 2014, section 4.2, with regions in the place of a moving square): one evaluation per region. captum's
-- FeatureAblation with a feature mask.
local game = require "medxai.explain.region_game"
local shap = require "medxai.explain.shap"

return {
  title = "feature ablation",
  paper = "Zeiler and Fergus 2014, arXiv:1311.2901",
  version = 1,
  at = "input",
  sign = "signed",
  one_by_one = true,
  options = game.options(50),
  check = function(o) shap.check("feature_ablation", o) end,
  map = function(ctx, _, _, o)
    local g, sets, values = game.of(ctx, o), {}, {}
    for r = 1, g.count do sets[r] = ("\1"):rep(r - 1) .. "\0" .. ("\1"):rep(g.count - r) end
    for r, change in ipairs(g:changes(sets)) do values[r] = -change end
    return g:painted(values)
  end,
}
