-- The builder of networks: named layers in forward order, as the seven in medxai.nn.models are written, and your own:
--   local model = xai.graph.network { name = "tiny", classes = { "a", "b" }, size_px = 32, cam_layer = "features",
--     build = function(g, x)
--       x = g:block("features", function()
--         x = g:relu("1", g:conv2d("0", x, { 3, 8, 3, padding = 1 }))   -- in, out, kernel
--         return g:max_pool2d("2", x, { 2 })
--       end)
--       x = g:flatten(nil, g:adaptive_avg_pool2d("pool", x, 1))
--       return g:linear("fc", x, { 8, 2 })
--     end }
-- A name is local to the block it stands in; nil takes the operator's name ("relu", then "relu_1"). Nodes run in the
-- order in which they are written and are written out of place. It refuses two layers of one name, and to guess sizes.
local check = require "medxai.base.check"
local fingerprint = require "medxai.base.fingerprint"
local native = require "medxai.core".graph

local graph = {}

---@class medxai.Value what a node gives: pass it to later nodes
---@field id integer

---@class medxai.Builder
local Builder = {}
Builder.__index = Builder

local TRAINING = { training = true } -- filled in with the node's mode when it runs
graph.TRAINING = TRAINING

--- A builder with its input already there.
---@param name string of the network
---@return medxai.Builder builder, medxai.Value x
function graph.builder(name)
  local g = setmetatable({
    name = name, native = native.new(name), prefix = "", nodes = {}, ids = {}, slots = {}, modules = {},
    module_names = {}, block_ends = {}, kinds = {}, functional = {}, reads = {}, chances = {}, texts = {},
    evaluated = {},
  }, Builder)
  local id = g.native:input("x")
  g.nodes[id], g.ids.x = "x", id
  return g, { id = id }
end

-- ---- names ----------------------------------------------------------------------------------------------------------

-- The full name of a node; taken names get _1, _2 ... as torchvision's feature_extraction counts them.
local function full_name(g, name, op)
  local full = g.prefix .. (name or op)
  if not g.ids[full] then return full end
  local n = 1
  while g.ids[full .. "_" .. n] do n = n + 1 end
  return full .. "_" .. n
end

-- The slots that a node's arguments name.
local function slots_of(args, slots)
  slots = slots or {}
  for _, key in ipairs(check.sorted_keys(args)) do
    local arg = args[key]
    if type(arg) == "table" and arg.slot then slots[#slots + 1] = arg.slot
    elseif type(arg) == "table" then slots_of(arg, slots) end
  end
  return slots
end

-- What a node computes, as text: the operator and its arguments.
local function argument_text(arg)
  if type(arg) == "function" then return fingerprint.of_function(arg) end
  if type(arg) ~= "table" then return tostring(arg) end
  if arg.id then return "value " .. arg.id end
  if arg.slot then return "slot " .. arg.slot end
  local parts = {}
  for i, key in ipairs(check.sorted_keys(arg)) do parts[i] = tostring(key) .. "=" .. argument_text(arg[key]) end
  return "{" .. table.concat(parts, ",") .. "}"
end

-- evaluated: what the node computes in evaluation, where that is less than its arguments say.
local function add_node(g, name, id, kind, args, evaluated)
  g.nodes[id], g.ids[name], g.kinds[id], g.reads[id] = name, id, kind, slots_of(args)
  g.texts[#g.texts + 1] = name .. " " .. argument_text(args)
  g.evaluated[#g.evaluated + 1] = argument_text(evaluated or args)
  return { id = id }
end

--- A hash of all that the nodes compute and of the parameters' shapes: what tells two networks of one's own apart.
---@return string
function Builder:signature()
  local parts = table.move(self.texts, 1, #self.texts, 1, {})
  for _, slot in ipairs(self.slots) do parts[#parts + 1] = slot.name .. " " .. table.concat(slot.shape, "x") end
  for _, m in ipairs(self.modules) do parts[#parts + 1] = m.init and fingerprint.of_function(m.init) or "" end
  return require("medxai.base.files").sha256(table.concat(parts, "\n")):sub(1, 16)
end

--- A hash of what the nodes compute in evaluation: networks that take each other's weights and have the same hash give
--- the same answers. Names, dropout and the momentum of batch norms have no part in it.
---@return string
function Builder:forward_signature()
  return require("medxai.base.files").sha256(table.concat(self.evaluated, "\n")):sub(1, 16)
end

--- A further name for a value: a block's, for what it gives.
---@param full string
---@param value medxai.Value
function Builder:name_value(full, value)
  if self.ids[full] then check.fail(self.name, "two blocks or layers are named '%s'. Name one differently.", full) end
  self.ids[full] = value.id
  self.block_ends[#self.block_ends + 1] = { name = full, id = value.id }
end

--- A named block: the names inside get "name." in front, and its own name stands for the value that f returns.
---@param name string
---@param f fun(...): medxai.Value
---@return medxai.Value
function Builder:block(name, f, ...)
  local outer = self.prefix
  local full = outer .. name
  self.prefix = full .. "."
  local value = f(...)
  self.prefix = outer
  if type(value) ~= "table" or not value.id then
    check.fail(self.name, "block '%s' gives %s (expected the value that its last layer gave). Return it.", full,
      type(value))
  end
  self:name_value(full, value)
  return value
end

-- ---- parameters -----------------------------------------------------------------------------------------------------

local function add_slot(g, name, shape, kind, dtype)
  if g.slots[name] then check.fail(g.name, "two parameters are named '%s'. Name one layer differently.", name) end
  local slot = { slot = #g.slots + 1, name = name, shape = shape, kind = kind, dtype = dtype or "float32" }
  g.slots[#g.slots + 1] = slot
  g.slots[name] = slot
  return slot
end

-- A module holds parameters. ghost: it is drawn, to keep torchvision's order of random numbers, and thrown away.
local function add_module(g, kind, name, m)
  m.kind, m.name = kind, g.prefix .. name
  if not m.ghost then
    if g.module_names[m.name] then check.fail(g.name, "two layers are named '%s'. Name one differently.", m.name) end
    g.module_names[m.name] = m
  end
  g.modules[#g.modules + 1] = m
  return m
end

local function pair(v) return type(v) == "table" and v or { v, v } end

local function sizes(g, layer, options, count)
  if type(options) ~= "table" then
    check.fail(g.name, "%s takes a table { in, out, ... } (got %s).", layer, type(options))
  end
  for i = 1, count do
    if type(options[i]) ~= "number" and type(options[i]) ~= "table" then
      check.fail(g.name, "%s: number %d of its table is missing (expected %d).", layer, i, count)
    end
  end
end

--- A tensor of the model by its full name, without a rule of how it begins (exported_graph.lua loads it from a file).
---@param kind "parameter"|"buffer"|"constant" constant: of the network, not of the weights
---@return table slot an argument of g:op, with .name and .shape
function Builder:declare(name, shape, kind, dtype) return add_slot(self, name, shape, kind, dtype) end

--- A layer over declared tensors, for what asks a model for its layers (Model:modules).
---@param m table { node = its value, weight =, bias = slots ... }
function Builder:layer(kind, name, m) return add_module(self, kind, name, m) end

--- A parameter of your own, for g:op. init(tensor) fills it (default: zeros).
---@param name string
---@param shape integer[]
---@param init? fun(t: table)
function Builder:parameter(name, shape, init)
  local slot = add_slot(self, self.prefix .. name, shape, "parameter")
  add_module(self, "parameter", name, { weight = slot, init = init })
  return { slot = slot.slot }
end

-- ---- layers with parameters -----------------------------------------------------------------------------------------

local function declare_conv(g, name, o)
  local kernel, groups = pair(o[3]), o.groups or 1
  local m = add_module(g, "conv2d", name, {
    inp = o[1], out = o[2], fan_in = o[1] // groups * kernel[1] * kernel[2], fan_out = o[2] * kernel[1] * kernel[2],
    shape = { o[2], o[1] // groups, kernel[1], kernel[2] }, has_bias = o.bias ~= false, ghost = o.ghost,
    drawn_before = o.drawn_before,
  })
  if m.ghost then return m end
  m.weight = add_slot(g, m.name .. ".weight", m.shape, "parameter")
  if m.has_bias then m.bias = add_slot(g, m.name .. ".bias", { o[2] }, "parameter") end
  return m
end

--- aten::conv2d. o = { in, out, kernel, stride = 1, padding = 0, dilation = 1, groups = 1, bias = true }; a size is a
--- number or { height, width }.
---@param name string
---@param x medxai.Value
---@return medxai.Value
function Builder:conv2d(name, x, o)
  sizes(self, "conv2d", o, 3)
  local m = declare_conv(self, name, o)
  local args = { x, { slot = m.weight.slot }, stride = pair(o.stride or 1), padding = pair(o.padding or 0),
    dilation = pair(o.dilation or 1), groups = o.groups or 1 }
  if m.bias then args.bias = { slot = m.bias.slot } end
  m.node = self:op(name, "conv2d", args)
  return m.node
end

--- aten::batch_norm over channels, with running statistics. o = { eps = 1e-5, momentum = 0.1 }
---@param name string
---@param x medxai.Value
---@param channels integer
function Builder:batch_norm2d(name, x, channels, o)
  o = o or {}
  local m = add_module(self, "batch_norm2d", name, { out = channels, eps = o.eps or 1e-5 })
  local function slot(suffix, kind, shape, dtype)
    return add_slot(self, m.name .. "." .. suffix, shape or { channels }, kind, dtype)
  end
  m.weight, m.bias = slot("weight", "parameter"), slot("bias", "parameter")
  m.running_mean, m.running_var = slot("running_mean", "buffer"), slot("running_var", "buffer")
  m.counter = slot("num_batches_tracked", "buffer", {}, "int64")
  local args = { x, { slot = m.weight.slot }, { slot = m.bias.slot }, { slot = m.running_mean.slot },
    { slot = m.running_var.slot }, TRAINING, o.momentum or 0.1, m.eps, true }
  m.node = self:mode_op(name, "batch_norm", args, { counter = m.counter.slot,
    evaluated = { "batch_norm", args[1], args[2], args[3], args[4], args[5], m.eps } })
  return m.node
end

local function declare_linear(g, name, o)
  local m = add_module(g, "linear", name, {
    inp = o[1], out = o[2], fan_in = o[1], fan_out = o[2], shape = { o[2], o[1] }, has_bias = o.bias ~= false,
    ghost = o.ghost,
  })
  if m.ghost then return m end
  m.weight = add_slot(g, m.name .. ".weight", m.shape, "parameter")
  if m.has_bias then m.bias = add_slot(g, m.name .. ".bias", { o[2] }, "parameter") end
  return m
end

--- aten::linear. o = { in, out, bias = true }
---@param name string
---@param x medxai.Value (N, in)
function Builder:linear(name, x, o)
  sizes(self, "linear", o, 2)
  local m = declare_linear(self, name, o)
  local args = { x, { slot = m.weight.slot } }
  if m.bias then args[3] = { slot = m.bias.slot } end
  m.node = self:op(name, "linear", args)
  return m.node
end

--- Layers that torchvision builds, initializes and the thesis then replaces: only their random numbers are needed.
function Builder:ghost_linear(name, inp, out) declare_linear(self, name, { inp, out, ghost = true }) end
function Builder:ghost_conv2d(name, inp, out, kernel) declare_conv(self, name, { inp, out, kernel, ghost = true }) end

-- ---- layers without -------------------------------------------------------------------------------------------------

--- Any ATen operator: args by position, then by name; values and parameters stand where tensors do.
---   g:op("scale", "mul", { x, g:parameter("gamma", { 1 }) })
---@param name? string
---@param operator string "softmax" or, with its overload, "softmax.int"
---@param args table
---@return medxai.Value
function Builder:op(name, operator, args)
  local full = full_name(self, name, operator:match("^[^.]+"))
  return add_node(self, full, self.native:op(full, operator, args), nil, { operator, args })
end

--- An operator that trains and evaluates differently: args hold graph.TRAINING where it takes the mode.
---@param o table counter: slot of a batch norm's num_batches_tracked; chance: with which it draws; evaluated: what it
---  computes in evaluation, for hashing
function Builder:mode_op(name, operator, args, o)
  local full = full_name(self, name, operator:match("^[^.]+"))
  local value = add_node(self, full, self.native:op(full, operator, args, o.counter), "mode", { operator, args },
    o.evaluated)
  self.chances[value.id] = o.chance
  return value
end

--- A Lua function of tensors as a node, for prototypes; autograd works through it, as it calls eager operators.
---@param name string
---@param f fun(...: table): table
---@param inputs medxai.Value[]
function Builder:func(name, f, inputs)
  if type(f) ~= "function" then
    check.fail(self.name, "func '%s' takes a function (got %s).", tostring(name), type(f))
  end
  local full = full_name(self, name, "function")
  return add_node(self, full, self.native:func(full, f, inputs), "function", { f, inputs })
end

-- Without a name it is a function call in torchvision, with one a torch.nn module: some reference tools see modules
-- only.
function Builder:relu(name, x)
  local value = self:op(name, "relu", { x })
  self.functional[value.id] = name == nil or nil
  return value
end

function Builder:silu(name, x) return self:op(name, "silu", { x }) end
function Builder:sigmoid(name, x) return self:op(name, "sigmoid", { x }) end
--- max(0, min(x, 6)), as torchvision's ReLU6 calls it
function Builder:relu6(name, x) return self:op(name, "hardtanh", { x, 0, 6 }) end
function Builder:add(name, a, b) return self:op(name, "add.Tensor", { a, b }) end
function Builder:mul(name, a, b) return self:op(name, "mul.Tensor", { a, b }) end
--- Along the channels, or dim.
function Builder:cat(name, list, dim) return self:op(name, "cat", { list, dim or 1 }) end
function Builder:flatten(name, x) return self:op(name, "flatten.using_ints", { x, 1 }) end

--- o = { kernel, stride = kernel, padding = 0, ceil_mode = false }
function Builder:max_pool2d(name, x, o)
  sizes(self, "max_pool2d", o, 1)
  return self:op(name, "max_pool2d", { x, pair(o[1]), stride = pair(o.stride or o[1]), padding = pair(o.padding or 0),
    ceil_mode = o.ceil_mode or false })
end

--- o = { kernel, stride = kernel, padding = 0, ceil_mode = false, count_include_pad = true }
function Builder:avg_pool2d(name, x, o)
  sizes(self, "avg_pool2d", o, 1)
  return self:op(name, "avg_pool2d", { x, pair(o[1]), stride = pair(o.stride or o[1]), padding = pair(o.padding or 0),
    ceil_mode = o.ceil_mode or false, count_include_pad = o.count_include_pad ~= false })
end

function Builder:adaptive_avg_pool2d(name, x, size) return self:op(name, "adaptive_avg_pool2d", { x, pair(size) }) end

--- Zeroes each number with probability p while training, with torch's default generator; p = 0 draws nothing.
function Builder:dropout(name, x, p)
  return self:mode_op(name, "dropout", { x, p + 0.0, TRAINING }, { chance = p, evaluated = { "dropout", x } })
end

--- Zeroes whole samples with probability p while training (torchvision's stochastic depth by rows).
function Builder:stochastic_depth(name, x, p)
  local full = full_name(self, name, "stochastic_depth")
  local id = self.native:drop_path(full, x.id, p)
  local value = add_node(self, full, id, "mode", { "drop_path", x, p }, { "drop_path", x })
  self.chances[value.id] = p
  return value
end

--- The usual head of the thesis: fc1 -> relu -> dropout -> fc2.
function Builder:thesis_head(name, x, inp, hidden, classes, p)
  return self:block(name, function()
    local h = self:relu("relu", self:linear("fc1", x, { inp, hidden }))
    return self:linear("fc2", self:dropout("dropout", h, p), { hidden, classes })
  end)
end

return graph
