-- Control: a smooth random map keyed by the image and by the network's weights. It knows nothing of the image's
-- content, and every change of a weight gives another map: it must pass the check by randomized weights (run:sanity)
-- and fail to come out alike from a second training. A check that does not say so is broken.
local core = require "medxai.core"
local smooth_noise = require "medxai.explain.smooth_noise"
local torch = require "medxai.torch"

return {
  title = "weights noise",
  version = 1,
  at = "input",
  sign = "nonnegative",
  baseline = true,
  rng = "weights_noise@1",
  map = function(ctx)
    local weights, maps = ctx.model:sha256(), {}
    for i = 1, ctx.count do
      local id = ctx.items[i].id .. "/" .. weights
      maps[i] = smooth_noise(core.rng.stream { seed = ctx.seed, purpose = "weights_noise@1", id = id }, ctx.height,
        ctx.width)
    end
    return torch.stack(maps, 0)
  end,
}
