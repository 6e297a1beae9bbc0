-- Baseline: an isotropic Gaussian at the image's center, sigma a quarter of the side, the same for every image and
-- model. What a method must beat before its maps say more than "the middle".
local torch = require "medxai.torch"

local function bell(n)
  local at = torch.arange(n, { dtype = "float32" }) + (0.5 - n / 2) -- pixel centers
  return torch.exp(at * at * (-0.5 / (n / 4) ^ 2))
end

return {
  title = "center blob",
  version = 1,
  at = "input",
  sign = "nonnegative",
  baseline = true,
  map = function(ctx)
    local blob = bell(ctx.height):unsqueeze(1) * bell(ctx.width):unsqueeze(0)
    return blob:unsqueeze(0):expand({ ctx.count, ctx.height, ctx.width }):clone()
  end,
}
