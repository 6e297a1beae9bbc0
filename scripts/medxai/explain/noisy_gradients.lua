-- Gradients at the input of noisy copies of each image: what SmoothGrad, its squares and VarGrad share. The noise is
-- normal with sigma a share of the network's input range, keyed by the image and the number of the copy: the first 25
-- of 100 copies are the 25, and all three methods see the same copies.
local torch = require "medxai.torch"

local noisy = {}

noisy.rng = "smoothgrad@1"

noisy.options = {
  samples = { "integer", default = 25, min = 1, doc = "noisy copies of the image (captum's nt_samples)" },
  sigma = { "number", default = 0.15, min = 0, doc = "of the noise, a share of the range from black to white" },
}

--- Means over each image's copies.
---@param ctx table
---@param o table samples, sigma
---@param squares? boolean
---@return any mean (N, 3, H, W) of the gradients; float64 where squares are asked for
---@return any|nil squares the same of their squares
function noisy.means(ctx, o, squares)
  local x, lo, hi = ctx.x, ctx:range()
  local scale = (hi - lo) * o.sigma
  local sum = squares and torch.zeros_like(x):to { dtype = "float64" } or torch.zeros_like(x)
  local square = squares and sum:clone() or nil
  local function copies(first, count)
    local list = {}
    for k = first, first + count - 1 do
      local i = k // o.samples
      local noise = ctx:stream(noisy.rng, i + 1,
        k % o.samples):normal(x:numel() // ctx.count):view({ 1, 3, ctx.height, ctx.width })
      list[#list + 1] = x:narrow(0, i, 1) + noise:to { dtype = x.dtype, device = x.device } * scale
    end
    return torch.cat(list, 0)
  end
  ctx:gradients(ctx.count * o.samples, { kind = "input", x = copies,
    image = function(k) return k // o.samples + 1 end }, function(first, count, gradients)
    for k = first, first + count - 1 do
      local g = gradients.x:narrow(0, k - first, 1):to { dtype = sum.dtype }
      sum:narrow(0, k // o.samples, 1):add_(g)
      if square then square:narrow(0, k // o.samples, 1):add_(g * g) end
    end
  end)
  return sum / o.samples, square and square / o.samples
end

return noisy
