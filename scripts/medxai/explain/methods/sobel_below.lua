-- Baseline: the Sobel map as a mask: 1 where it lies below its percentile, 0 elsewhere, each image by its own
-- percentile. With confidence_change it asks what the network makes of an image without its strongest edges.
-- Exactly the share is kept, ties in a keyed random order; with compat what is strictly below numpy's percentile (of an
-- image that is black for more than that share: nothing).
local ranking = require "medxai.perturb.pixel_order"
local rng = require("medxai.core").rng
local sobel = require "medxai.explain.methods.sobel"
local torch = require "medxai.torch"

local function mask_of(edges, percentile, ctx, item)
  if ctx.compat then return ranking.below(edges, percentile, "most") end
  local order = ranking.order(edges, rng.stream { seed = ctx.seed, purpose = "ties@1", id = item.id })
  if not order then return torch.zeros_like(edges, { dtype = "bool" }) end
  return ranking.without(order, percentile, "most", edges:size(0), edges:size(1))
end

return {
  title = "Sobel below",
  version = 1,
  at = "input",
  sign = "nonnegative",
  baseline = true,
  picture = "masked",
  rng = "ties@1",
  options = {
    percentile = { "number", default = 75, min = 0, max = 100, doc = "pixels whose edges lie below it are kept" },
  },
  map = function(ctx, x, target, options)
    local edges, masks = sobel.map(ctx, x, target, {}), {}
    for i = 1, ctx.count do
      masks[i] = mask_of(edges:select(0, i - 1), options.percentile, ctx, ctx.items[i]):to { dtype = "float32" }
    end
    return torch.stack(masks, 0)
  end,
}
