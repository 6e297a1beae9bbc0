-- A layer's values and gradients along the straight line from a baseline image to the image: what layer conductance and
-- internal influence share.
local removal = require "medxai.perturb.removal"
local torch = require "medxai.torch"
local geometry = require "medxai.nn.geometry"

local path = {}

path.options = {
  steps = { "integer", default = 50, min = 1, doc = "of the way from the baseline to the image (captum's n_steps)" },
  removal = { "string", default = "black", lua = "medxai.RemovalName",
    doc = "the image at the other end, the paper's baseline; see help removals" },
}

function path.check(what, o) removal.of_background(what, removal.without_regions(what, o.removal)) end

-- Image and baseline mixed: input k is image k // n at points[k % n + 1].
local function between(x, base, points)
  local n = #points
  return function(first, count)
    local list = {}
    for k = first, first + count - 1 do
      local from = base:narrow(0, k // n, 1)
      list[#list + 1] = from + (x:narrow(0, k // n, 1) - from) * points[k % n + 1]
    end
    return torch.cat(list, 0)
  end
end

--- The sum over the points of what f gives for each.
---@param ctx table
---@param points number[] in [0, 1], ascending
---@param o table removal
---@param f fun(p: integer, here: table, before: table|nil): any|nil here, before: { g, a }, the layer's gradient and
---   value (C, h, w) at this point (numbered from 1) and at the one before; what it gives is (h, w)
---@return any (N, h, w)
---@return any base (N, 3, H, W)
function path.sums(ctx, points, o, f)
  local lo, hi = ctx:range()
  local x, layer, n = ctx.x, ctx.layer, #points
  local base = removal.parse(o.removal):background(x, { range = { lo, hi } }):to { dtype = x.dtype }
  local grid, sums, last = geometry.grid(ctx.model, layer, {}), {}, nil
  ctx:gradients(ctx.count * n, { kind = "layer " .. layer, at = { layer }, x = between(x, base, points),
    image = function(k) return k // n + 1 end }, function(first, count, gradients, scope, values)
    local g, a, made, before = grid:to_map(gradients[layer]), grid:to_map(values[layer]), {}, last
    for k = 0, count - 1 do
      local p, here = (first + k) % n + 1, { g = g:select(0, k), a = a:select(0, k) }
      made[k + 1] = f(p, here, p > 1 and before or nil) or false
      before = here
    end
    for k, one in ipairs(made) do
      local i = (first + k - 1) // n + 1
      if one then sums[i] = sums[i] and sums[i]:add_(one) or scope:keep(one:clone()) end
    end
    last = { g = scope:keep(before.g:clone()), a = scope:keep(before.a:clone()) }
  end)
  return torch.stack(sums, 0), base
end

return path
