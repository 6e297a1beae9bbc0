-- Backward through a network node by node, each node with a rule of its own instead of its derivative: what LRP,
-- DeepLIFT and deconvolution share. A rule is given what the node's output has (n, ...) and says what each of its
-- inputs gets. Only nodes between the input and the logits are asked.
local chunks = require "medxai.tensor.chunks"
local core = require "medxai.core"
local torch = require "medxai.torch"

local rules = {}

---@class medxai.PassedNode
---@field name string
---@field op string "conv2d"
---@field inputs string[] the values it reads, each once
---@field moving string[] those of them that depend on the image

--- The nodes that the output depends on and that depend on the image, in execution order; "x" is none of them.
---@param model medxai.Model
---@return medxai.PassedNode[] nodes
---@return string[] names of all values that they read or give
function rules.nodes(model)
  local used, moving, list, names, listed = model:used_nodes(), { x = true }, {}, {}, {}
  local function name_value(name)
    if not listed[name] then listed[name], names[#names + 1] = true, name end
  end
  for _, name in ipairs(model._def.nodes) do
    local node = used[name] and name ~= "x" and model:node(name)
    local one, seen = { name = name, inputs = {}, moving = {} }, {}
    for _, input in ipairs(node and node.inputs or {}) do
      if not seen[input] then
        seen[input], one.inputs[#one.inputs + 1] = true, input
        if moving[input] then one.moving[#one.moving + 1] = input end
      end
    end
    if #one.moving > 0 then
      one.op, moving[name], list[#list + 1] = node.op, true, one
      for _, input in ipairs(one.inputs) do name_value(input) end
      name_value(name)
    end
  end
  return list, names
end

--- All values that the nodes read and give: name -> tensor, without gradients.
---@param model medxai.Model
---@param names string[] from rules.nodes
---@param x any (n, 3, H, W)
function rules.values(model, names, x)
  local values = torch.no_grad(function() return model:forward { x = x, outputs = names, fold = false } end)
  values.x = x
  return values
end

--- One node's output, and its moving inputs as leaves of its graph.
---@param model medxai.Model
---@param node medxai.PassedNode
---@param values table<string, any> of all its inputs
---@return any output
---@return any[] leaves in the order of node.moving
function rules.apply(model, node, values)
  return torch.enable_grad(function()
    local given, x = {}, nil
    for _, input in ipairs(node.inputs) do
      if input == "x" then x = values.x else given[input] = values[input] end
    end
    local got = model:forward { x = x, override = given, outputs = { node.name }, grad_from = node.moving,
      fold = false }
    local leaves = {}
    for i, input in ipairs(node.moving) do leaves[i] = got[input] end
    return got[node.name], leaves
  end)
end

--- The transposed derivative of one node at given inputs, times what its output has: input -> tensor.
---@param model medxai.Model
---@param node medxai.PassedNode
---@param values table<string, any>
---@param given any like the output
function rules.derivative(model, node, values, given)
  if rules.same[node.op] and #node.moving == 1 then return { [node.moving[1]] = given } end
  local y, leaves = rules.apply(model, node, values)
  local list, got = torch.autograd.grad({ y }, leaves, { grad_outputs = { given }, allow_unused = true }), {}
  for i, input in ipairs(node.moving) do
    got[input] = list[i] ~= torch.none and list[i] or torch.zeros_like(values[input])
  end
  return got
end

--- Passes what the logits have back to the image.
---@param nodes medxai.PassedNode[]
---@param output string the name of the logits' node
---@param start any (n, K)
---@param rule fun(node: medxai.PassedNode, given: any): table<string, any>
---@return any (n, 3, H, W)
function rules.back(nodes, output, start, rule)
  local has = { [output] = start }
  for i = #nodes, 1, -1 do
    local node = nodes[i]
    local given = has[node.name]
    has[node.name] = nil
    for input, one in pairs(given and rule(node, given) or {}) do
      has[input] = has[input] and has[input] + one or one
    end
  end
  return has.x
end

--- Makes the maps of a batch in chunks that fit the memory: f gets the images (padded where chunks have a fixed size),
--- the targets of the first `count` of them, and the first one's number (0-based).
---@param ctx table
---@param kind string names the work
---@param f fun(x: any, targets: table, count: integer, first: integer): any, table[] maps (count, H, W), facts of each
---@return any maps (N, H, W)
---@return table[] extras
function rules.each(ctx, kind, f)
  local parts, extras = {}, {}
  chunks.each(ctx:chunks(kind), ctx.count, function(first, count)
    local scope <close> = core.memory.scope()
    local numbers = {}
    for k = 1, count do numbers[k] = first + k end
    local x = chunks.padded(ctx.x:narrow(0, first, count), ctx.deterministic and chunks.fixed or nil)
    local maps, facts = f(x, ctx.targets:select(numbers), count, first)
    ctx.used.passes = (ctx.used.passes or 0) + count
    parts[#parts + 1] = { first = first, maps = scope:keep(maps) }
    for k = 1, count do extras[first + k] = { facts = facts and facts[k] or nil } end
  end)
  table.sort(parts, function(a, b) return a.first < b.first end)
  for i, part in ipairs(parts) do parts[i] = part.maps end
  return torch.cat(parts, 0), extras
end

--- The set of the words of a text.
function rules.set(text)
  local set = {}
  for word in text:gmatch "%S+" do set[word] = true end
  return set
end

--- Operators that change every number alone: nonlinearities, and those that leave numbers as they are in evaluation.
rules.nonlinear = rules.set [[relu hardtanh relu6 silu gelu elu selu celu leaky_relu hardswish hardsigmoid mish
  softplus tanh sigmoid log_sigmoid]]
rules.same = rules.set "dropout feature_dropout alpha_dropout drop_path clone contiguous alias to type_as detach"
--- Operators that move numbers, or choose some of them.
rules.moves = rules.set [[flatten view reshape permute transpose t unsqueeze squeeze slice narrow select cat stack pad
  constant_pad_nd movedim expand expand_as roll pixel_shuffle pixel_unshuffle flip]]
--- Weighted sums without parameters.
rules.sums = rules.set "avg_pool2d adaptive_avg_pool2d mean sum"

return rules
