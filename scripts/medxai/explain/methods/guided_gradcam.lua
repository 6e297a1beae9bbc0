-- Guided Grad-CAM: Selvaraju et al., ICCV 2017, section 3.3: guided backpropagation times the Grad-CAM map, brought to
-- the input's grid: fine lines where Grad-CAM sees the class. The map part is relu and min-max as a map is drawn
-- (map.lua), smoothed where asked for; the other part is as in guided_backprop.lua, with the same compat, and not
-- defined for the same networks.
local guided = require "medxai.explain.guided_relu"
local gradcam = require "medxai.explain.methods.gradcam"
local map = require "medxai.explain.map"

return {
  title = "guided Grad-CAM",
  paper = "Selvaraju et al. 2017, doi:10.1109/ICCV.2017.74",
  version = 2,
  at = "layer",
  sign = "signed",
  picture = "detail",
  needs = { gradient = true },
  smoothing = { aug_smooth = true, eigen_smooth = true },
  options = {
    colors = { "boolean", default = false, doc = "keep the product of each color channel beside the map (3, H, W)" },
    colours = { now = "colors" },
  },
  map = function(ctx, _, _, o)
    local raw, extras = gradcam.map(ctx)
    local cam = map.from_raw({ raw }, ctx.height, ctx.width, { compat = ctx.compat })
    local product = guided.gradient(ctx) * cam:unsqueeze(1) -- (N, 3, H, W)
    extras = extras or {}
    for i = 1, ctx.count do
      extras[i] = extras[i] or {}
      if o.colors then extras[i].arrays = { colors = product:select(0, i - 1) } end
    end
    return product:sum({ 1 }), extras
  end,
}
