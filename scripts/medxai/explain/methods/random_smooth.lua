-- Baseline: white noise keyed by the image, blurred with a Gaussian of sigma a tenth of the side, scaled to [0, 1]: a map as
-- smooth as a CAM that knows nothing. The same image gets the same map whatever the model, order, batch or device.
local torch = require "medxai.torch"
local core = require "medxai.core"

-- 1-D kernel out to 4 sigma, normalised.
local function kernel(sigma)
  local r = math.ceil(4 * sigma)
  local at = torch.arange(-r, r + 1, { dtype = "float64" })
  local k = torch.exp(at * at * (-0.5 / sigma ^ 2))
  return k / k:sum(), r
end

-- The noise is drawn with a margin of the kernel's reach, so the edges are as rough as the middle.
local function smooth_noise(stream, height, width)
  local ky, ry = kernel(height / 10)
  local kx, rx = kernel(width / 10)
  local rows, columns = height + 2 * ry, width + 2 * rx
  local noise = stream:normal(rows * columns):view({ 1, 1, rows, columns })
  local blurred = torch.conv2d(torch.conv2d(noise, ky:view({ 1, 1, 2 * ry + 1, 1 })), kx:view({ 1, 1, 1, 2 * rx + 1 }))
  local lo, hi = blurred:min(), blurred:max()
  return ((blurred - lo) / (hi - lo)):view({ height, width }):to { dtype = "float32" }
end

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
      maps[i] = smooth_noise(core.rng.stream { seed = ctx.seed, purpose = "random_smooth@1", id = ctx.items[i].id }, ctx.height, ctx.width)
    end
    return torch.stack(maps, 0)
  end,
}
