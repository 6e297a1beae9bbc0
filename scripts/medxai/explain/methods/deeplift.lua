-- DeepLIFT: Shrikumar et al., ICML 2017, rescale rule (eq. 8): what each pixel adds to the target's difference from
-- that of a baseline image, handed back by differences instead of derivatives (deeplift_rules.lua), summed over the
-- color channels, signed. Its sum is that difference but for rounding: the completeness gap. captum's DeepLift, which
-- leaves products of two values (gates) to the derivative.
local completeness = require "medxai.explain.completeness"
local deeplift = require "medxai.explain.deeplift_rules"
local removal = require "medxai.perturb.removal"
local rules = require "medxai.explain.node_rules"

return {
  title = "DeepLIFT",
  paper = "Shrikumar et al. 2017, arXiv:1704.02685",
  version = 1,
  at = "input",
  sign = "signed",
  honesty = { completeness.honesty },
  smoothing = { aug_smooth = true },
  options = {
    removal = { "string", default = "black", lua = "medxai.RemovalName",
      doc = "the image that is compared with, the paper's reference; see help removals" },
    compat = deeplift.compat,
  },
  check = function(o) removal.of_background("deeplift", removal.without_regions("deeplift", o.removal)) end,
  map = function(ctx, _, _, o)
    local nodes, names = rules.nodes(ctx.model)
    deeplift.check(nodes)
    local lo, hi = ctx:range()
    return rules.each(ctx, "deeplift", function(x, targets, count)
      local base = removal.parse(o.removal):background(x, { range = { lo, hi } }):to { dtype = x.dtype }
      local made, differences = deeplift.contributions(ctx.model, nodes, names, x, base, targets, count,
        o.compat)
      local map = made:sum({ 1 })
      return map, completeness.facts(map, differences)
    end)
  end,
}
