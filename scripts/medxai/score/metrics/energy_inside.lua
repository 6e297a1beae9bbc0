-- Energy inside a mask: the share of the map's positive sum that falls within it (the energy-based pointing game of
-- Wang et al. 2020, Score-CAM, eq. 10). No threshold. Chance is the mask's share of the area: what a uniform map gets.
-- Negative values count as zero. Undefined on an empty mask and on a map without energy.
return {
  title = "energy inside",
  version = 1,
  direction = "higher",
  range = { 0, 1 },
  axis = "share of the map's energy inside the mask",
  unit = "share",
  needs = { mask = true },
  negatives = "cut to 0",
  measure = function(map, ctx)
    local mask, energy = ctx.mask:ne(0):to { dtype = "float64" }, map:to { dtype = "float64" }:relu()
    if ctx.within then
      local within = ctx.within:view({ -1 })
      mask, energy = mask:view({ -1 }):masked_select(within), energy:view({ -1 }):masked_select(within)
    end
    local area = mask:mean():item()
    if area == 0 then return nil, nil, "empty mask" end
    local total = energy:sum():item()
    if total ~= total or total <= 0 then return nil, area, "map without energy" end
    return (energy * mask):sum():item() / total, area
  end,
}
