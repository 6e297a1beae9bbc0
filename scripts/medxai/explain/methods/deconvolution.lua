-- Deconvolution: Zeiler and Fergus, ECCV 2014, section 2.1: the gradient at the input, where every rectifier (ReLU,
-- ReLU6) passes only what is positive, whatever its own input was. Summed over the color channels, signed. Like guided
-- backpropagation it knows the image better than the class. Defined for rectifiers: not for SiLU and its like. captum's
-- Deconvolution, for all rectifiers of the graph.
local guided = require "medxai.explain.guided_relu"
local rules = require "medxai.explain.node_rules"
local torch = require "medxai.torch"

local rectifier = rules.set "relu hardtanh relu6"

return {
  title = "deconvolution",
  paper = "Zeiler and Fergus 2014, arXiv:1311.2901",
  version = 1,
  at = "input",
  sign = "signed",
  derivative = true,
  picture = "detail",
  smoothing = { aug_smooth = true },
  map = function(ctx)
    guided.check(ctx.model, "deconvolution")
    local model = ctx.model
    local nodes, names = rules.nodes(model)
    local output = model:node("output").name
    return rules.each(ctx, "deconvolution", function(x, targets, count)
      local values = rules.values(model, names, x)
      local start = torch.zeros_like(values[output])
      local leaf = values[output]:narrow(0, 0, count):detach():requires_grad_(true)
      start:narrow(0, 0, count):copy_(torch.enable_grad(function()
        return torch.autograd.grad({ targets:score(leaf):sum() }, { leaf })[1]
      end))
      local made = rules.back(nodes, output, start, function(node, given)
        if rectifier[node.op] then return { [node.moving[1]] = given:relu() } end
        return rules.derivative(model, node, values, given)
      end)
      return made:narrow(0, 0, count):sum({ 1 })
    end)
  end,
}
