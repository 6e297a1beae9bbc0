-- Shapley value sampling: Castro et al., Computers and OR 2009, section 3; Strumbelj and Kononenko 2010: regions are
-- shown one after the other in random orders, and each region's value is the mean of what it adds where it joins. The
-- values sum to the target less that of the hidden image, whatever the orders; their standard error is told. captum's
-- ShapleyValueSampling with a feature mask.
local game = require "medxai.explain.region_game"
local shap = require "medxai.explain.shap"

local options = game.options(30)
options.orders = { "integer", default = 25, min = 1, smoke = 1,
  doc = "in which regions are shown (captum's n_samples)" }

return {
  title = "Shapley value sampling",
  paper = "Castro et al. 2009, doi:10.1016/j.cor.2008.04.004",
  version = 1,
  at = "input",
  sign = "signed",
  one_by_one = true,
  rng = "shapley_sampling@1",
  honesty = { { fact = "standard_error", title = "standard error over orders", short = "std. error",
    percent = true } },
  options = options,
  check = function(o) shap.check("shapley_sampling", o) end,
  map = function(ctx, _, _, o)
    local g = game.of(ctx, o)
    local values, off = g:sampled(game.orders(ctx, "shapley_sampling@1", g.count, o.orders))
    return g:painted(values, { orders = o.orders, standard_error = off })
  end,
}
