-- ShapleyCAM: Cai 2025, eq. 11: Grad-CAM with the Shapley value of a channel from the target's second-order expansion:
-- a channel's weight is the mean over the grid of g - 1/2 H a, g the gradient and H a the second derivatives times the
-- activation. Of a logit behind rectifiers alone the second derivatives are 0, and the map is Grad-CAM's: take the
-- probability, target = { "predicted", as = "softmax" }. As pytorch-grad-cam's ShapleyCAM.
local from_layer = require "medxai.explain.from_layer"
local torch = require "medxai.torch"

return {
  title = "ShapleyCAM",
  paper = "Cai 2025, arXiv:2501.06261",
  version = 1,
  at = "layer",
  sign = "signed",
  needs = { base = true },
  smoothing = { aug_smooth = true, eigen_smooth = true },
  map = function(ctx, _, targets)
    local weight = from_layer.run(ctx, function(value, logits, to_map)
      for i = 1, ctx.count do ctx:note_slopes(i, logits:detach():narrow(0, i - 1, 1)) end
      local g = torch.autograd.grad(targets:score(logits):sum(), { value }, { create_graph = true })[1]
      local second = g.requires_grad
        and torch.autograd.grad({ g }, { value }, { grad_outputs = { value:detach() }, allow_unused = true })[1]
      if second and second ~= torch.none then g = g - second * 0.5 end
      return to_map(g:detach()):mean({ 2, 3 }, true)
    end)
    return ctx:combine(weight * ctx:activation())
  end,
}
