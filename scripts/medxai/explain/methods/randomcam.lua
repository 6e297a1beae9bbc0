-- Random CAM: the activation's channels with weights drawn evenly from [-1, 1): what a CAM shows that knows nothing of
-- the class, a chance level with the same grid and smoothness. From pytorch-grad-cam (RandomCAM). The weights are keyed
-- by the image (and by the view, under augmentation); in compat they are NumPy's: those of np.random.seed(seed) before
-- a call on this image alone.
local core = require "medxai.core"
local torch = require "medxai.torch"

-- NumPy draws for one view after the other, and in each for one layer after the other: those of this call.
local function numpy_weights(ctx, i, channels)
  local before, a_view, seen = 0, 0, false
  for _, layer in ipairs(ctx.layers) do
    seen = seen or layer == ctx.layer
    if not seen then before = before + ctx:activation(layer):size(1) end
    a_view = a_view + ctx:activation(layer):size(1)
  end
  if ctx.smoothed then before = before + (ctx.views[i].number - 1) * a_view end
  return core.rng.numpy_random_state(ctx.seed):uniform(before + channels, -1, 1):narrow(0, before, channels)
end

return {
  title = "random CAM",
  version = 1,
  at = "layer",
  sign = "signed",
  smoothing = { aug_smooth = true, eigen_smooth = true },
  baseline = true,
  rng = "randomcam@1",
  map = function(ctx)
    local a = ctx:activation() -- (N, C, h, w)
    local list = {}
    for i = 1, ctx.count do
      list[i] = ctx.compat and numpy_weights(ctx, i, a:size(1))
        or ctx:stream("randomcam@1", i):uniform(a:size(1)) * 2 - 1
    end
    local w = torch.stack(list, 0):to { dtype = a.dtype, device = a.device }
    return ctx:combine(w:unsqueeze(2):unsqueeze(3) * a)
  end,
}
