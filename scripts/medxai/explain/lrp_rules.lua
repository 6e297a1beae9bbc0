-- The rules of layer-wise relevance propagation at convolutions and linear layers, as zennit 0.5.1 writes them: shares
-- of z = sum of w' x' + b', the primes saying which parts of weights and inputs count. Batch norms that alone read such
-- a layer are merged into its weights first (zennit's MergeBatchNorm, the ResNet and VGG canonizers).
local nodes = require "medxai.explain.node_rules"
local torch = require "medxai.torch"

local lrp = {}

local weighted = { conv2d = true, linear = true }

-- node's name -> the batch norm that is merged into it, where nothing else reads the node.
local function merged_norms(model, modules, used)
  local norms, found = {}, {}
  for _, m in ipairs(modules) do
    if m.kind == "batch_norm2d" then norms[m.name] = m end
  end
  for _, m in ipairs(modules) do
    local readers = {}
    for _, reader in ipairs(weighted[m.kind] and model:has_node(m.name) and model:readers(m.name) or {}) do
      if used[reader.name] then readers[#readers + 1] = reader end
    end
    if #readers == 1 and readers[1].op == "batch_norm" then found[m.name] = norms[readers[1].name] end
  end
  return found
end

--- The layers with weights by their node's name: { weight, bias = names of tensors, w, b = with the batch norm merged
--- }.
---@param model medxai.Model
function lrp.layers(model)
  local modules, layers = model:modules(), {}
  local norms = merged_norms(model, modules, model:used_nodes())
  for _, m in ipairs(modules) do
    if weighted[m.kind] and m.weight and model:has_node(m.name) then
      local w, b, norm = m.weight:detach(), m.bias and m.bias:detach(), norms[m.name]
      if norm then
        local scale = (norm.running_var + norm.eps):rsqrt()
        if norm.weight then scale = scale * norm.weight:detach() end
        b = ((b or 0) - norm.running_mean) * scale + (norm.bias and norm.bias:detach() or 0)
        w = w * scale:view(m.kind == "conv2d" and { -1, 1, 1, 1 } or { -1, 1 })
      end
      layers[m.name] = { kind = m.kind, weight = m.weight_name, bias = m.bias_name, w = w,
        b = b or w:new_zeros { w:size(0) } }
    end
  end
  return layers
end

--- Adds epsilon to a denominator, with its sign; 0 counts as positive.
function lrp.stabilized(z, epsilon) return z + torch.where(z:ge(0), torch.full_like(z, epsilon), -epsilon) end

-- Relevance shared by parts { { x', w' } ... } and a bias b' of one layer.
local function share(run, node, layer, parts, b, given)
  local z, outputs, leaves = b:view(layer.kind == "conv2d" and { 1, -1, 1, 1 } or { -1 }), {}, {}
  for k, part in ipairs(parts) do
    run.shadow:replace(layer.weight, part[2])
    local own
    outputs[k], own = nodes.apply(run.shadow, node, { [node.moving[1]] = part[1] })
    leaves[k], z = own[1], z + outputs[k]:detach()
  end
  local s, sum = given / lrp.stabilized(z, run.epsilon), nil
  for k, part in ipairs(parts) do
    local one = part[1] * torch.autograd.grad({ outputs[k] }, { leaves[k] }, { grad_outputs = { s } })[1]
    sum = sum and sum + one or one
  end
  return sum
end

local function split(t) return t:clamp_min(0), t:clamp_max(0) end

--- name -> f(run, node, layer, x, given): the relevance of the layer's input x.
lrp.rules = {}

-- Bach et al. 2015, eq. 58
function lrp.rules.epsilon(run, node, layer, x, given)
  return share(run, node, layer, { { x, layer.w } }, layer.b, given)
end

-- Bach et al. 2015, eq. 60; alpha - beta = 1
function lrp.rules.alpha_beta(run, node, layer, x, given)
  local xp, xn = split(x)
  local wp, wn = split(layer.w)
  local bp, bn = split(layer.b)
  local up = share(run, node, layer, { { xp, wp }, { xn, wn } }, bp, given)
  if run.alpha == 1 then return up end
  return up * run.alpha - share(run, node, layer, { { xp, wn }, { xn, wp } }, bn, given) * (run.alpha - 1)
end

-- Montavon et al. 2017, eq. 14: alpha 1, beta 0
function lrp.rules.plus(run, node, layer, x, given)
  return lrp.rules.alpha_beta(setmetatable({ alpha = 1 }, { __index = run }), node, layer, x, given)
end

-- Montavon et al. 2019, section 10.2.1, for inputs of either sign as in zennit: what favors a positive output is
-- favored where it is positive, and the other way round.
function lrp.rules.gamma(run, node, layer, x, given)
  local xp, xn = split(x)
  local wp, wn = split(layer.w)
  local bp, bn = split(layer.b)
  local up, down, g = layer.w + wp * run.gamma, layer.w + wn * run.gamma, run.gamma
  run.shadow:replace(layer.weight, layer.w)
  local z = nodes.apply(run.shadow, node, { [node.moving[1]] = x }):detach()
    + layer.b:view(layer.kind == "conv2d" and { 1, -1, 1, 1 } or { -1 })
  return share(run, node, layer, { { xp, up }, { xn, down } }, layer.b + bp * g, given * z:gt(0))
    + share(run, node, layer, { { xp, down }, { xn, up } }, layer.b + bn * g, given * z:lt(0))
end

-- Montavon et al. 2017, eq. 15: inputs between run.low and run.high
function lrp.rules.box(run, node, layer, x, given)
  local wp, wn = split(layer.w)
  return share(run, node, layer, { { x, layer.w }, { -run.low:expand_as(x), wp }, { -run.high:expand_as(x), wn } },
    torch.zeros_like(layer.b), given)
end

-- Lapuschkin et al. 2019: evenly over the field of view
function lrp.rules.flat(run, node, layer, x, given)
  return share(run, node, layer, { { torch.ones_like(x), torch.ones_like(layer.w) } }, torch.zeros_like(layer.b),
    given)
end

return lrp
