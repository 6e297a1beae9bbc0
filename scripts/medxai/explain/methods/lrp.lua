-- LRP, layer-wise relevance propagation: Bach et al., PLOS ONE 2015, eq. 3: the target's logit is handed back layer by
-- layer, each layer sharing out what it has by what its inputs added to it. A composite says which rule holds where
-- (Montavon et al. 2019): convolutions gamma, alpha-beta or plus, linear layers epsilon, the first convolution box or
-- flat. As zennit 0.5.1's composites: rectifiers and other nonlinearities pass on what they have, sums and mean pooling
-- share by value, max pooling gives to the winner; batch norms are merged into the convolution before them, and pass on
-- what they have where none is (DenseNet). A gate gives all to the signal (Arras et al. 2019). Biases take a share:
-- what the map lacks of the logit is told. It refuses operators for which there is no rule (attention, layer norm).
local lrp = require "medxai.explain.lrp_rules"
local not_defined = require "medxai.base.not_defined"
local rules = require "medxai.explain.node_rules"
local torch = require "medxai.torch"

-- What holds at the first convolution, the others, and linear layers.
local composites = {
  epsilon = { "epsilon", "epsilon", "epsilon" },
  epsilon_plus = { "plus", "plus", "epsilon" },
  epsilon_alpha_beta = { "alpha_beta", "alpha_beta", "epsilon" },
  epsilon_gamma_box = { "box", "gamma", "epsilon" },
  epsilon_plus_flat = { "flat", "plus", "epsilon" },
  epsilon_alpha_beta_flat = { "flat", "alpha_beta", "epsilon" },
}

local gates = rules.set "sigmoid hardsigmoid softmax"
local shares = rules.set "add sub"
local chooses = rules.set "max_pool2d adaptive_max_pool2d"

local function refuse(node)
  not_defined.raise(("LRP has no rule for %s (node '%s')"):format(node.op, node.name))
end

-- The input of a product that is no gate.
local function signal_of(run, node)
  local signals = {}
  for _, input in ipairs(node.moving) do
    if not gates[run.model:node(input).op] then signals[#signals + 1] = input end
  end
  return #node.moving > 1 and #signals == 1 and signals[1] or refuse(node)
end

-- By what each input added to the sum.
local function by_value(run, node, given)
  local y = run.values[node.name]
  local got = rules.derivative(run.model, node, run.values, given / lrp.stabilized(y, run.epsilon))
  for input, one in pairs(got) do got[input] = one * run.values[input] end
  return got
end

local function pass(run, node, given)
  local input = node.moving[1]
  if #node.moving > 1 or run.values[input]:numel() ~= given:numel() then refuse(node) end
  return { [input] = given }
end

local function rule_of(run, node, given)
  local op, layer = node.op, run.layers[node.name]
  if layer and #node.inputs == 1 then
    local x, composite = run.values[node.inputs[1]], composites[run.composite]
    local name = composite[layer.kind == "linear" and 3 or node == run.first and 1 or 2]
    return { [node.inputs[1]] = lrp.rules[name](run, node, layer, x, given) }
  elseif rules.nonlinear[op] or rules.same[op] or op == "batch_norm" then return pass(run, node, given)
  elseif rules.moves[op] or chooses[op] then return rules.derivative(run.model, node, run.values, given)
  elseif rules.sums[op] or shares[op] and #node.moving > 1 then return by_value(run, node, given)
  elseif op == "mul" and #node.moving > 1 then return { [signal_of(run, node)] = given }
  elseif shares[op] or op == "mul" or op == "div" then return pass(run, node, given) end
  refuse(node)
end

-- Every node has a rule? Before anything is computed.
local function check_nodes(run)
  for _, node in ipairs(run.nodes) do
    local op, layer = node.op, run.layers[node.name]
    if not (layer and #node.inputs == 1 or rules.nonlinear[op] or rules.same[op] or op == "batch_norm"
      or rules.moves[op] or chooses[op] or rules.sums[op] or shares[op] or op == "mul" or op == "div") then
      refuse(node)
    end
    if op == "mul" and #node.moving > 1 then signal_of(run, node) end
    if layer and layer.kind == "conv2d" and not run.first then run.first = node end
  end
end

-- Black and white as the first convolution meets them.
local function set_range(run, ctx)
  local input = run.first and run.first.inputs[1]
  local ends = {}
  for i, value in ipairs { ctx:range() } do
    local image = value:expand { 1, 3, ctx.height, ctx.width }
    ends[i] = not input and image or rules.values(run.model, { input }, image)[input]
  end
  run.low, run.high = ends[1], ends[2]
end

-- The target's derivative by the logits times the logits: of a logit, the logit.
local function start_of(targets, logits)
  return torch.enable_grad(function()
    local leaf = logits:detach():requires_grad_(true)
    return torch.autograd.grad({ targets:score(leaf):sum() }, { leaf })[1] * logits:detach()
  end)
end

-- Relevance at the input of some images, and what the logits had.
local function relevance(run, x, targets, count)
  run.values = rules.values(run.model, run.names, x)
  local logits = run.values[run.output]
  local start = torch.zeros_like(logits)
  start:narrow(0, 0, count):copy_(start_of(targets, logits:narrow(0, 0, count)))
  local made = rules.back(run.nodes, run.output, start, function(node, given) return rule_of(run, node, given) end)
  run.values = nil
  return made:narrow(0, 0, count):sum({ 1 }), start:narrow(0, 0, count):to { dtype = "float64" }:sum({ 1 }):tolist()
end

return {
  title = "LRP",
  paper = "Bach et al. 2015, doi:10.1371/journal.pone.0130140; Montavon et al. 2019, doi:10.1007/978-3-030-28954-6_10",
  version = 1,
  at = "input",
  sign = "signed",
  honesty = { { fact = "relevance_gap", of = "relevance", title = "relevance that biases took or gave", short = "gap",
    percent = true } },
  smoothing = { aug_smooth = true },
  options = {
    composite = { one_of = { "epsilon_plus", "epsilon_gamma_box", "epsilon_alpha_beta", "epsilon_plus_flat",
      "epsilon_alpha_beta_flat", "epsilon" }, default = "epsilon_plus",
      doc = "zennit's: rules of linear layers, convolutions, the first convolution; alpha_beta with alpha 2 is its "
        .. "alpha2_beta1" },
    epsilon = { "number", default = 1e-6, above = 0, doc = "added to every denominator, with its sign" },
    gamma = { "number", default = 0.25, min = 0, doc = "by how much what favors an output is favored" },
    alpha = { "number", default = 2, min = 1, doc = "of positive shares; beta of the negative ones is 1 less" },
  },
  map = function(ctx, _, _, o)
    local model = ctx.model
    local list, names = rules.nodes(model)
    local shadow <close> = model:shadow()
    local run = { model = model, nodes = list, names = names, layers = lrp.layers(model), shadow = shadow,
      output = model:node("output").name, composite = o.composite, epsilon = o.epsilon, gamma = o.gamma,
      alpha = o.alpha }
    check_nodes(run)
    set_range(run, ctx)
    for _, layer in pairs(run.layers) do
      if layer.bias then shadow:replace(layer.bias, torch.zeros_like(layer.b)) end
    end
    return rules.each(ctx, "lrp", function(x, targets, count)
      local made, had = relevance(run, x, targets, count)
      local sums, facts = made:to { dtype = "float64" }:sum({ 1, 2 }):tolist(), {}
      for k = 1, count do facts[k] = { relevance = had[k], relevance_gap = sums[k] - had[k] } end
      return made, facts
    end)
  end,
}
