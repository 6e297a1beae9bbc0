-- Baseline: the image's own edges, the Sobel map of pytorch-grad-cam's users, of the network's input as 8-bit pixels:
-- gray by Rec. 601 in fixed point, 3x3 Sobel each way with the border mirrored, min(|dx|, 255) and min(|dy|, 255)
-- averaged. It knows nothing of the network: a method that looks like it has found edges, not reasons.
local torch = require "medxai.torch"

return {
  title = "Sobel",
  version = 1,
  at = "input",
  sign = "nonnegative",
  baseline = true,
  map = function(ctx)
    -- (N, 3, H, W), 0 .. 255
    local u = ctx:image():to { device = "cpu", dtype = "float32" }:clamp(0, 1):mul(255):round()
    local fixed = u:select(1, 0) * 9798 + u:select(1, 1) * 19235 + u:select(1, 2) * 3735 + 16384
    local gray = fixed:to { dtype = "float64" }:div(32768):floor():unsqueeze(1)
    local kx = torch.tensor({ { { { -1, 0, 1 }, { -2, 0, 2 }, { -1, 0, 1 } } } }, { dtype = "float64" })
    local padded = torch.reflection_pad2d(gray, { 1, 1, 1, 1 })
    local dx = torch.conv2d(padded, kx):abs():clamp_max(255)
    local dy = torch.conv2d(padded, kx:transpose(2, 3):contiguous()):abs():clamp_max(255)
    return ((dx + dy) / 2):round():squeeze(1):to { dtype = "float32" } -- round: half to even
  end,
}
