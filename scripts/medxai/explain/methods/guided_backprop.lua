-- Guided backpropagation: Springenberg et al., ICLR workshop 2015, section 3.4: the gradient at the input, where every
-- rectifier (ReLU, ReLU6) passes only what is positive, and only where its own input was. Summed over the color
-- channels, signed. It knows the image better than the class (Adebayo et al. 2018). Defined for rectifiers: not for
-- SiLU and its like. captum's GuidedBackprop, for all rectifiers of the graph.
-- compat: as pytorch-grad-cam, which replaces torch.nn.ReLU modules alone: not ReLU6, not functional calls
-- (inception_v3, the last ReLU of densenet121), and on networks with SiLU the head's ReLU.
local guided = require "medxai.explain.guided_relu"

return {
  title = "guided backprop",
  paper = "Springenberg et al. 2015, arXiv:1412.6806",
  version = 1,
  at = "input",
  sign = "signed",
  derivative = true,
  picture = "detail",
  smoothing = { aug_smooth = true },
  options = {
    colors = { "boolean", default = false, doc = "keep the gradient of each color channel beside the map (3, H, W)" },
    colours = { now = "colors" },
  },
  map = function(ctx, _, _, o)
    local gradient = guided.gradient(ctx) -- (N, 3, H, W)
    local extras = {}
    for i = 1, ctx.count do extras[i] = o.colors and { arrays = { colors = gradient:select(0, i - 1) } } or nil end
    return gradient:sum({ 1 }), extras
  end,
}
