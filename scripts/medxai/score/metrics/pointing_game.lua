-- Pointing game: 1 where the map's maximum lies in the mask widened by a margin, else 0 (Zhang et al. 2016; margin 15
-- px as there). The maximum is the center of its plateau. Chance is the widened mask's share of the area.
-- Undefined on an empty mask and on a map that is the same everywhere.
local torch = require "medxai.torch"

return {
  title = "pointing game",
  version = 1,
  direction = "higher",
  range = { 0, 1 },
  axis = "share of images hit",
  unit = "hit",
  needs = { mask = true },
  negatives = "ignored",
  options = { margin_px = { "integer", default = 15, min = 0, unit = "px", doc = "by which the mask is widened" } },
  measure = function(map, ctx, options)
    local mask = ctx.mask:to { dtype = "float32" }:ne(0):to { dtype = "float32" }
    if mask:sum():item() == 0 then return nil, nil, "empty mask" end
    local k = 2 * options.margin_px + 1
    local wide = torch.max_pool2d(mask:view({ 1, 1, mask:size(0), mask:size(1) }), { k, k }, { 1, 1 },
      { options.margin_px, options.margin_px })
    wide = wide:view({ mask:size(0), mask:size(1) })
    local within = ctx.within or torch.ones_like(map, { dtype = "bool" })
    local chance = wide:masked_select(within):mean():item()
    map = map:masked_fill(within:logical_not(), -math.huge)
    if map:max():item() == map:masked_select(within):min():item() then return nil, chance, "map without a maximum" end
    local at = map:eq(map:max()):nonzero():to { dtype = "float64" }:mean({ 0 }):round():to { dtype = "int64" }:tolist()
    return wide[{ at[1], at[2] }]:item(), chance
  end,
}
