-- The logits as a function of a layer's value, with its graph: for methods that need other derivatives there than the
-- target's own. What lies before the layer is not run again.
local torch = require "medxai.torch"

local from_layer = {}

--- Runs f with the recording of gradients on.
---@param ctx table a method's context; the method declares needs = { base = true }
---@param f fun(value: any, logits: any, to_map: fun(v: any): any): any value: the layer's, as the network has it, where
---   gradients are taken; to_map: the same as (N, C, h, w)
---@return any what f returns
function from_layer.run(ctx, f)
  local raw, grid = ctx:raw_activation()
  local base, layer = ctx:base(), ctx.layer
  local function to_map(v) return grid and grid:to_map(v) or v end
  ctx.used.passes = (ctx.used.passes or 0) + ctx.count
  return torch.enable_grad(function()
    local value = raw:detach():requires_grad_(true)
    local logits = ctx.model:forward { override = { [layer] = value }, base = base, fold = false }.output
    return f(value, logits:narrow(0, 0, ctx.count), to_map)
  end)
end

return from_layer
