-- DeepLIFT SHAP: Lundberg and Lee, NeurIPS 2017, section 4.2: the mean of DeepLIFT's contributions (rescale rule) over
-- images to begin from instead of one black image. Its sum is the target less the mean target of those images: the
-- completeness gap. captum's DeepLiftShap.
local background = require "medxai.explain.background"
local completeness = require "medxai.explain.completeness"
local deeplift = require "medxai.explain.deeplift_rules"
local rules = require "medxai.explain.node_rules"

return {
  title = "DeepLIFT SHAP",
  paper = "Lundberg and Lee 2017, arXiv:1705.07874",
  version = 1,
  at = "input",
  sign = "signed",
  honesty = { completeness.honesty },
  smoothing = { aug_smooth = true },
  options = { background = background.options.background, background_count = background.options.background_count,
    compat = deeplift.compat },
  check = function(o) background.check("deeplift_shap", o) end,
  map = function(ctx, _, _, o)
    local nodes, names = rules.nodes(ctx.model)
    deeplift.check(nodes)
    local images = background.of("deeplift_shap", ctx, o)
    local n = images:size(0)
    return rules.each(ctx, "deeplift", function(x, targets, count)
      local map, differences = nil, {}
      for b = 0, n - 1 do
        local made, more = deeplift.contributions(ctx.model, nodes, names, x,
          images:narrow(0, b, 1):expand(x.shape):contiguous(), targets, count, o.compat)
        local one = made:sum({ 1 }) / n
        map = map and map + one or one
        for k, d in ipairs(more) do differences[k] = (differences[k] or 0) + d / n end
      end
      ctx.used.passes = (ctx.used.passes or 0) + count * (n - 1)
      local facts = completeness.facts(map, differences)
      for _, f in ipairs(facts) do f.background = n end
      return map, facts
    end)
  end,
}
