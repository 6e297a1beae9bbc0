-- What the confidence metrics share: the target's score before and after the image is multiplied by its map
-- (Chattopadhay et al., Grad-CAM++, WACV 2018, section 4.1): pixels fade to black where the map is low. One pass serves
-- all of them. With compat the network's input itself is multiplied, as pytorch-grad-cam does: with a mean and std that
-- fades to gray.
local multiplied = {}

--- Score after minus score before; nil, nil and why where the map is empty.
---@param map any tensor (H, W) in [0, 1]
---@param ctx table
function multiplied.change(map, ctx)
  if not ctx.compat and map:max():item() <= 0 then return nil, nil, "map without energy" end
  local row = ctx:once("multiplied", function()
    local m = map:to { device = ctx.x.device, dtype = ctx.x.dtype }
    if ctx.within then m = m:masked_fill(ctx.within:logical_not():to { device = m.device }, 1) end
    local black = ctx:range()
    local changed = ctx.compat and ctx.x * m or black + (ctx.x - black) * m
    return ctx.scorer:logits(1, function() return changed end):to { device = "cpu", dtype = "float64" }:tolist()
  end)
  return ctx:changes_of(row)[1]
end

return multiplied
