-- White noise of a keyed stream, blurred with a Gaussian of sigma a tenth of the side, scaled to [0, 1]: as smooth as a
-- CAM that knows nothing. What random_smooth and weights_noise share.
local torch = require "medxai.torch"

-- 1-D kernel out to 4 sigma, normalized.
local function kernel(sigma)
  local r = math.ceil(4 * sigma)
  local at = torch.arange(-r, r + 1, { dtype = "float64" })
  local k = torch.exp(at * at * (-0.5 / sigma ^ 2))
  return k / k:sum(), r
end

-- The noise is drawn with a margin of the kernel's reach, so the edges are as rough as the middle.
--- One map.
---@param stream medxai.Stream
---@return any (H, W) float32
return function(stream, height, width)
  local ky, ry = kernel(height / 10)
  local kx, rx = kernel(width / 10)
  local rows, columns = height + 2 * ry, width + 2 * rx
  local noise = stream:normal(rows * columns):view({ 1, 1, rows, columns })
  local blurred = torch.conv2d(torch.conv2d(noise, ky:view({ 1, 1, 2 * ry + 1, 1 })), kx:view({ 1, 1, 1, 2 * rx + 1 }))
  local lo, hi = blurred:min(), blurred:max()
  return ((blurred - lo) / (hi - lo)):view({ height, width }):to { dtype = "float32" }
end

