-- Baseline: white noise keyed by the image, blurred with a Gaussian of sigma a tenth of the side, scaled to [0, 1]: a
-- map as smooth as a CAM that knows nothing. The same image gets the same map whatever the model, order, batch or
-- device.
local torch = require "medxai.torch"
local core = require "medxai.core"
local smooth_noise = require "medxai.explain.smooth_noise"

return {
  title = "random smooth",
  version = 1,
  at = "input",
  sign = "nonnegative",
  baseline = true,
  rng = "random_smooth@1",
  map = function(ctx)
    local maps = {}
    for i = 1, ctx.count do
      maps[i] = smooth_noise(core.rng.stream { seed = ctx.seed, purpose = "random_smooth@1", id = ctx.items[i].id },
        ctx.height, ctx.width)
    end
    return torch.stack(maps, 0)
  end,
}
