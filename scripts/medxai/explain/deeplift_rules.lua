-- DeepLIFT's rescale rule (Shrikumar et al., ICML 2017, eq. 8 and section 3.5.1): each node's multiplier is what its
-- output differs from that of a baseline over what its input does, handed back from the target to the image. Sums,
-- convolutions and products are exact: their derivative is taken half way between image and baseline. Max pooling as
-- captum's DeepLift: what the output has more than the baseline's goes to the winner. It refuses operators that are
-- neither: attention's softmax, layer norm.
local legendre = require "medxai.stats.quadrature"
local not_defined = require "medxai.base.not_defined"
local rules = require "medxai.explain.node_rules"
local torch = require "medxai.torch"

local deeplift = {}

local too_near = 1e-10 -- captum's eps: where inputs differ by less the derivative is taken

local linear = rules.set "conv2d linear batch_norm add sub mul matmul bmm"
local pools = rules.set "max_pool2d adaptive_max_pool2d"

local function is_linear(node)
  local op = node.op
  return linear[op] or rules.same[op] or rules.moves[op] or rules.sums[op]
    or op == "div" and #node.moving == 1 and node.moving[1] == node.inputs[1]
end

--- Raises "not defined" where a node has no rule.
function deeplift.check(nodes)
  for _, node in ipairs(nodes) do
    if not (is_linear(node) or rules.nonlinear[node.op] or pools[node.op]) then
      not_defined.raise(("DeepLIFT has no rule for %s (node '%s')"):format(node.op, node.name))
    end
  end
end

local function half_way(run, node)
  local values = {}
  for _, input in ipairs(node.inputs) do values[input] = run.at[input] end
  for _, input in ipairs(node.moving) do values[input] = (run.at[input] + run.base[input]) / 2 end
  return values
end

-- by: what the output's difference gives to each input, in all; where the inputs differ too little the derivative.
local function rescaled(run, node, given, by)
  local input = node.moving[1]
  local difference = run.at[input] - run.base[input]
  local own = rules.derivative(run.model, node, run.at, given)[input]
  local near = difference:abs():lt(too_near)
  return { [input] = torch.where(near, own, by / difference:masked_fill(near, 1)) }
end

local function rule_of(run, node, given)
  local op = node.op
  if is_linear(node) then return rules.derivative(run.model, node, half_way(run, node), given) end
  local y, y0 = run.at[node.name], run.base[node.name]
  if rules.nonlinear[op] then return rescaled(run, node, given, given * (y - y0)) end
  local most, input = torch.maximum(y, y0), node.moving[1]
  if run.compat and rules.nonlinear[run.model:node(input).op] then
    return rules.derivative(run.model, node, run.at, given)
  end
  local up = rules.derivative(run.model, node, run.at, given * (most - y0))[input]
  return rescaled(run, node, given,
    up + rules.derivative(run.model, node, run.base, given * (y - most))[input])
end

-- The target's mean derivative on the way from the baseline's logits to the image's: exact for a logit, and of a
-- probability by quadrature.
local function start_of(targets, logits, from)
  local points, weights, sum = legendre(targets[1].as == "logit" and 1 or 20)
  for i, p in ipairs(points) do
    local leaf = (from + (logits - from) * p):detach():requires_grad_(true)
    local g = torch.enable_grad(function()
      return torch.autograd.grad({ targets:score(leaf):sum() }, { leaf })[1]
    end) * weights[i]
    sum = sum and sum + g or g
  end
  return sum
end

--- What the methods that use the rules take in common.
deeplift.compat = { one_of = { "captum" }, doc = "captum: a max pooling that reads a rectifier hands back its plain "
  .. "derivative, for captum's rule of it is lost there" }

--- What each input adds to the target's difference from a baseline.
---@param model medxai.Model
---@param nodes medxai.PassedNode[]
---@param names string[]
---@param x any (n, 3, H, W); of those behind `count` nothing is read
---@param base any (n, 3, H, W)
---@param targets table of the first count
---@param count integer
---@param compat? string "captum"
---@return any (count, 3, H, W)
---@return number[] by how much the target of each exceeds the baseline's
function deeplift.contributions(model, nodes, names, x, base, targets, count, compat)
  local output = model:node("output").name
  local run = { model = model, compat = compat, at = rules.values(model, names, x),
    base = rules.values(model, names, base) }
  local logits, from = run.at[output], run.base[output]
  local start = torch.zeros_like(logits)
  local own, own_from = logits:narrow(0, 0, count), from:narrow(0, 0, count)
  start:narrow(0, 0, count):copy_(start_of(targets, own, own_from))
  local made = rules.back(nodes, output, start, function(node, given) return rule_of(run, node, given) end)
  local differences = (targets:score(own) - targets:score(own_from)):to { dtype = "float64" }:tolist()
  return (made * (x - base)):narrow(0, 0, count), differences
end

return deeplift
