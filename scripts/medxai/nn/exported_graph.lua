-- Builds the graph of an exported network (exported_file.lua) node by node, with the rules of exported_ops.lua.
-- Every node is named as torchvision's feature extraction names it: a module of one operator by its path
-- (layer4.1.conv2), others by the path and the operator (layer4.1.add), a second call with _1; a block's name stands
-- for its output. What depends neither on the images nor on the weights (attention masks, position tables) is a graph
-- of its own, which is evaluated once, when the tensors are made.
-- It refuses operators that are not ATen's, that draw, or that write to weights, and names them.
local check = require "medxai.base.check"
local graph = require "medxai.nn.builder"
local ops = require "medxai.nn.exported_ops"
local values = require "medxai.nn.exported_values"

local exported_graph = {}

---@class medxai.ExportedBuilder
local B = {}
B.__index = B

function B:fail(fmt, ...) check.fail("exported", "'%s' " .. fmt, self.program.path, ...) end

local is_float = { float16 = true, bfloat16 = true, float32 = true, float64 = true }

-- ---- values ---------------------------------------------------------------------------------------------------------

function B:shape(name)
  local known = self.program.values[name]
  if not known then self:fail("does not tell the shape of '%s'. Export it again.", name) end
  return known.shape
end

function B:dtype(name) return self.program.values[name].dtype end

--- The value of that name in its present state.
function B:value(name)
  local v = self.values[name] or self:fail("reads a value '%s' that no node gives. Export it again.", tostring(name))
  return values.current(v)
end

function B.place_of(_, v) return v.id, v.where end

local function is_value(arg) return type(arg) == "table" and arg.version ~= nil end

-- Whether all values among the arguments are constants, and there are some.
local function is_constant(args)
  local some = false
  for _, arg in pairs(args) do
    for _, v in ipairs(type(arg) == "table" and not is_value(arg) and arg or { arg }) do
      if is_value(v) then
        if v.where ~= "constant" then return false end
        some = true
      end
    end
  end
  return some
end

-- ---- constants ------------------------------------------------------------------------------------------------------

-- The builder of the graph of constants.
local function constants_of(self)
  if not self.constants then
    self.constants = { builder = graph.builder(self.g.name), places = {}, wanted = {} }
  end
  return self.constants
end

local function slot_dtype(dtype) return is_float[dtype] and "float32" or dtype end

-- A constant as an argument of a node of the graph of constants.
local function in_constants(self, v)
  local all = constants_of(self)
  if v.id then return { id = v.id } end
  if not v.loaded then
    v.loaded = all.builder:declare(v.name, v.shape, "constant", slot_dtype(v.dtype))
    all.places[#all.places + 1] = { slot = v.loaded.slot, place = v.place, name = v.name }
  end
  return { slot = v.loaded.slot }
end

-- A constant as an argument of a node of the network: a tensor of its own.
local function in_network(self, v)
  if not v.in_main then
    local name, n = "constants." .. v.name, 0
    while self.g.slots[name] do
      n = n + 1
      name = "constants." .. v.name .. "_" .. n
    end
    v.in_main = self.g:declare(name, v.shape, "constant", slot_dtype(v.dtype))
    local wanted = constants_of(self).wanted
    wanted[#wanted + 1] = { slot = v.in_main.slot, id = v.id, place = not v.id and v.place or nil, name = v.name }
  end
  return { slot = v.in_main.slot }
end

-- ---- nodes ----------------------------------------------------------------------------------------------------------

local function as_argument(self, arg, constant)
  if not is_value(arg) then return arg end
  if arg.where == "constant" then return (constant and in_constants or in_network)(self, arg) end
  return arg.slot and { slot = arg.slot.slot } or { id = arg.id }
end

-- In lists of tensors stand nodes alone: a parameter gets one that gives it.
local function as_entry(self, arg, constant)
  local out = as_argument(self, arg, constant)
  if not is_value(arg) or out.id then return out end
  local builder = constant and constants_of(self).builder or self.g
  local value = builder:op("tensors." .. arg.name, "alias", { out })
  if not constant then self:note(value, arg.shape) end
  return value
end

local function as_arguments(self, args, constant)
  local out = {}
  for _, name in ipairs(check.sorted_keys(args)) do -- in order: it may add nodes
    local arg = args[name]
    if type(arg) == "table" and not is_value(arg) and not arg.training then
      local list = {}
      for i, v in ipairs(arg) do list[i] = as_entry(self, v, constant) end
      out[name] = list
    else
      out[name] = as_argument(self, arg, constant)
    end
  end
  return out
end

--- Remembers the shape of a node of the network, and where it holds the images.
function B:note(value, shape)
  local dim, per_image = -1, 1
  for i, size in ipairs(shape) do
    if size < 0 then dim, per_image = i - 1, -size end
  end
  self.g.native:batch(value.id, dim, per_image)
  self.g.shapes[value.id], self.g.batches[value.id] = shape, { dim = dim, per_image = per_image }
end

-- Adds a node; where this libtorch lacks the operator, that is told.
local function add(self, node, builder, label, operator, args)
  local ok, value = pcall(builder.op, builder, label, operator, args)
  if ok then return value end
  local problem = tostring(value)
  if problem:find("there is no operator", 1, true) or problem:find("no form of", 1, true) then
    self:fail("uses the operator '%s', which libtorch %s does not have like that; torch %s, which wrote the file, "
      .. "has it. "
      .. "Build with another libtorch: ./bootstrap --torch DIR. (%s)", node.target:gsub("^torch%.ops%.", ""),
      self.version, tostring(self.program.torch_version), problem)
  end
  error(problem, 0)
end

-- Which part of a value a node takes, or along which dimension it puts values together: what tells where tokens stand.
local function note_pick(self, id, operator, args)
  local op = operator:match "^[^.]+"
  local dim, rank = args.dim or 0, is_value(args.self) and #args.self.shape or 3
  if type(dim) ~= "number" then return end
  dim = dim < 0 and dim + rank or dim
  if op == "cat" then self.g.picks[id] = { op = op, dim = dim }
  elseif op == "narrow" then self.g.picks[id] = { op = op, dim = dim, first = args.start, length = args.length }
  elseif op == "select" then self.g.picks[id] = { op = op, dim = dim, first = args.index, length = 1 }
  elseif op == "slice" and (args.step or 1) == 1 then
    local size, first, last = args.self.shape[dim + 1], args.start or 0, args["end"] or math.maxinteger
    if size < 0 then return end
    if first < 0 then first = first + size end
    if last < 0 then last = last + size end
    self.g.picks[id] = { op = op, dim = dim, first = first, length = math.min(last, size) - first }
  end
end

local function emit(self, node, label, operator, args, shape, dtype)
  local v = values.new { name = node.outs[1], shape = shape, dtype = dtype or self:dtype(node.outs[1]) }
  if is_constant(args) then
    v.where = "constant"
    v.id = add(self, node, constants_of(self).builder, label, operator, as_arguments(self, args, true)).id
  else
    local value = add(self, node, self.g, label, operator, as_arguments(self, args, false))
    self:note(value, shape)
    note_pick(self, value.id, operator, args)
    v.where, v.id = "main", value.id
  end
  return v
end

--- A new value by an operator. args: by the schema's names: values, lists of values, plain things.
function B:emit(node, operator, args, shape, dtype)
  return emit(self, node, self:label(node), operator, args, shape, dtype)
end

--- Emits what is a part of a node's composition: "attention.scaled_dot_product_attention.softmax".
function B:part(node)
  local label = self:label(node)
  return function(operator, args, shape, dtype)
    return emit(self, node, label .. "." .. operator:match "^[^.]+", operator, args, shape, dtype)
  end
end

--- A constant that no value goes into.
function B:emit_constant(node, operator, args, shape)
  local value = add(self, node, constants_of(self).builder, self:label(node), operator, args)
  return values.new { name = node.outs[1], shape = shape, dtype = self:dtype(node.outs[1]), where = "constant",
    id = value.id }
end

-- An argument of the file as rules and emit take it; nil: none was given.
local function plain_argument(self, arg)
  if arg.kind == "none" then return nil end
  if arg.kind == "tensor" then return self:value(arg.value) end
  if arg.kind == "tensors" then
    local list = {}
    for i, name in ipairs(arg.value) do list[i] = name and self:value(name) end
    return list
  end
  if arg.kind == "int" and type(arg.value) == "table" then
    self:fail("computes with the size of the batch ('%s'), which is not read.", arg.name)
  end
  if arg.value == nil then self:fail("has an argument of a kind that is not read ('%s', %s).", arg.name, arg.kind) end
  for _, item in ipairs(arg.kind == "ints" and arg.value or {}) do
    if type(item) == "table" then
      self:fail("computes with the size of the batch ('%s'), which is not read.", arg.name)
    end
  end
  return arg.value
end

-- What an operator that is told a floating-point type ("sum in float32") does in a network, whose numbers have the
-- model's type: it is not told, and whole numbers become the model's type first.
local function leave_out_type(self, node, args)
  local v = args.self
  if not is_float[args.dtype] or not is_value(v) or v.where == "constant" then return end
  args.dtype = nil
  if not is_float[v.dtype] then
    args.self = self:part(node)("type_as", { self = v, other = self.image }, v.shape, "float32")
  end
end

--- The node's operator as it is, out of place. instead: values by the names of arguments.
function B:emit_plain(node, a, instead)
  local args, none = {}, true
  for name, arg in pairs(a) do
    args[name] = instead and instead[name] or plain_argument(self, arg)
    none = none and arg.kind ~= "tensor" and arg.kind ~= "tensors"
  end
  leave_out_type(self, node, args)
  local overload = node.overload
  if type(args.other) == "number" then overload = overload:gsub("^Tensor", "Scalar") end -- x * 2
  local name = overload == "" and node.op or node.op .. "." .. overload
  if none then return self:emit_constant(node, name, args, self:shape(node.outs[1])) end
  return self:emit(node, name, args, self:shape(node.outs[1]))
end

--- An operator that follows the model's mode.
function B:emit_mode(node, operator, args, o, shape)
  local value = self.g:mode_op(self:label(node), operator, as_arguments(self, args, false),
    { counter = o.counter, chance = o.chance, evaluated = as_arguments(self, o.evaluated, false) })
  self:note(value, shape)
  return values.new { name = node.outs[1], shape = shape, dtype = self:dtype(node.outs[1]), where = "main",
    id = value.id }
end

--- A value of that shape, whose batch is that of the images: for expand_as.
function B:batch_like(node, shape)
  local channels, v = self.image.shape, self.image
  local make = self:part(node)
  local function part(...)
    local out = make(...)
    self.g.counts[out.id] = true
    return out
  end
  for last = 3, 1, -1 do
    v = part("select.int", { self = v, dim = last, index = 0 }, table.move(channels, 1, last, 1, {}), "float32")
  end
  local thin, full = {}, {}
  for i, size in ipairs(shape) do
    if size < -1 then
      v = part("expand", { self = part("unsqueeze", { self = v, dim = 1 }, { -1, 1 }, "float32"),
        size = { -1, -size } }, { -1, -size }, "float32")
    end
    thin[i], full[i] = size < 0 and -1 or 1, size < 0 and -1 or size
  end
  v = part("reshape", { self = v, shape = thin }, shape, "float32")
  return part("expand", { self = v, size = full }, shape, "float32")
end

--- Notes the value as a layer of the model. slots: values that are the layer's tensors, or slots
function B:layer(v, kind, slots)
  if v.where ~= "main" then return end
  local m = { node = { id = v.id }, eps = slots.eps, counter = slots.counter }
  for _, key in ipairs { "weight", "bias", "running_mean", "running_var" } do
    m[key] = slots[key] and slots[key].slot and slots[key].slot.kind ~= "constant" and slots[key].slot or nil
  end
  if not m.weight then return end
  local shape, fan = m.weight.shape, 1
  for i = 2, #shape do fan = fan * shape[i] end
  if kind == "conv2d" or kind == "linear" then m.inp, m.out, m.fan_in, m.shape = fan, shape[1], fan, shape end
  m.has_bias = m.bias ~= nil
  self.g:layer(kind, self.g.nodes[v.id], m)
  self.in_layers[m.weight.name] = true
  if m.bias then self.in_layers[m.bias.name] = true end
end

--- Notes the parts of an attention whose weights no node gives.
function B:note_attention(v, parts)
  local mask = parts.mask
  if v.where ~= "main" then return end
  self.g.attentions[v.id] = { q = parts.q.id, k = parts.k.id, v = parts.v.id, scale = parts.scale, plain = parts.plain,
    mask = mask and mask.where == "main" and mask.id or nil, mask_slot = mask and as_argument(self, mask, false).slot,
    is_bool = mask and mask.dtype == "bool" }
end

-- ---- names ----------------------------------------------------------------------------------------------------------

local function innermost(node) return node.calls[#node.calls] end

-- key of a call -> what it is called, how many nodes it has itself, whether calls stand in it.
local function study_calls(self)
  local times = {}
  self.calls, self.call_order = {}, {}
  for i, node in ipairs(self.program.nodes) do
    for k, call in ipairs(#node.outs > 0 and node.calls or {}) do
      local known = self.calls[call.key]
      if not known then
        local n = times[call.path] or 0
        times[call.path] = n + 1
        known = { name = call.path .. (n > 0 and "_" .. n or ""), class = call.class, nodes = 0, first = i }
        self.calls[call.key] = known
        self.call_order[#self.call_order + 1] = known
      end
      known.last = i
      if k == #node.calls then known.nodes = known.nodes + 1 else known.is_outer = true end
    end
  end
end

local function is_single(self, node)
  local call = innermost(node) and self.calls[innermost(node).key]
  return call and call.nodes == 1 and not call.is_outer and not node.many and call.name ~= ""
end

--- What a node is called; the builder adds _1 where that is taken.
function B:label(node)
  if is_single(self, node) then return self.calls[innermost(node).key].name end
  local call = innermost(node) and self.calls[innermost(node).key]
  return call and call.name ~= "" and call.name .. "." .. node.op or node.op
end

-- Where each value is last read: its place in the list of nodes.
local function last_reads(self)
  local last = {}
  local function read(arg, i)
    for _, name in ipairs(arg.kind == "tensors" and arg.value or arg.kind == "tensor" and { arg.value } or {}) do
      if name then last[name] = i end
    end
  end
  for i, node in ipairs(self.program.nodes) do
    for _, arg in ipairs(node.args) do read(arg, i) end
  end
  for _, name in ipairs(self.program.outputs) do last[name] = math.huge end
  return last
end

-- A block's output is the last of its values that is read outside it.
local function name_blocks(self)
  local nodes, last = self.program.nodes, last_reads(self)
  for k = #self.call_order, 1, -1 do -- inner blocks before those that they stand in
    local call, found = self.call_order[k], nil
    for i = call.last, call.first, -1 do
      local id = self.made[i]
      for _, name in ipairs(id and nodes[i].outs or {}) do
        if (last[name] or 0) > call.last then found = found or id end
      end
    end
    found = found or self.made[call.last]
    if found and call.name ~= "" and not self.g.ids[call.name] then self.g:name_value(call.name, { id = found }) end
  end
end

-- ---- the walk -------------------------------------------------------------------------------------------------------

-- name of a tensor's memory -> the input that is the model's: one that is read.
local function owners_of(self)
  local last, owners, several = last_reads(self), {}, {}
  for _, input in ipairs(self.program.inputs) do
    if input.memory and input.kind ~= "constant" then
      local before = several[input.memory]
      several[input.memory] = before or input.name
      if not owners[input.memory] and last[input.name] then owners[input.memory] = input.name end
      if before and not owners[input.memory] then owners[input.memory] = before end
    end
  end
  return owners
end

local function declare_inputs(self)
  local owners, slots = owners_of(self), {}
  for _, input in ipairs(self.program.inputs) do
    local known = self.program.values[input.name]
      or self:fail("does not tell the shape of '%s'. Export it again.", input.name)
    local v = { name = input.name, shape = known.shape, dtype = known.dtype }
    if input.kind == "image" then
      v.where, v.id = "main", self.x.id
    elseif input.kind == "constant" then
      v.where, v.place, v.name = "constant", input.place, input.fqn
    else
      v.where, v.slot = "slot", self.g:declare(input.fqn, known.shape, input.kind, slot_dtype(known.dtype))
      self.places[v.slot.slot], slots[input.name] = input.place, v.slot
    end
    self.values[input.name] = values.new(v)
    if input.kind == "image" then self.image = self.values[input.name] end
  end
  for _, input in ipairs(self.program.inputs) do -- of several names of one tensor one is the model's
    local owner = slots[input.name] and input.memory and slots[owners[input.memory] or false]
    if owner and owner ~= slots[input.name] then slots[input.name].tied = owner.slot end
  end
  self:note({ id = self.x.id }, self.image.shape)
end

-- Raises where several results of an operator are read that gives them as one node.
local function only_result(self, node, used)
  local name
  for i, out in ipairs(node.outs) do
    if used[out] then
      if i > 1 or name then self:fail("reads the result number %d of '%s', which is not read here.", i, node.target) end
      name = out
    end
  end
  return name or node.outs[1]
end

local reshaping = { unsqueeze_ = true, squeeze_ = true, transpose_ = true, t_ = true, swapaxes_ = true,
  swapdims_ = true, detach_ = true }

local function named(node)
  local a = {}
  for _, arg in ipairs(node.args) do a[arg.name] = arg end
  return a
end

-- One node of the file: the values that it gives.
local function walk_node(self, node, used)
  ops.check(self, node)
  local a, op = named(node), node.op
  local other_op, overload = ops.out_of_place(op, node.overload)
  local in_place = other_op and a.self
  if in_place then node.op, node.overload = other_op, overload end
  local rule = ops.rules[node.op]
  local out = rule and rule(self, node, a) or self:emit_plain(node, a)
  if out[1] then
    for i, name in ipairs(node.outs) do self.values[name] = out[i] end
    return nil
  end
  local name = #node.outs > 1 and only_result(self, node, used) or node.outs[1]
  self.values[name] = out
  if in_place and reshaping[op] then
    self.values[a.self.value] = out
  elseif in_place then
    local target = self:value(a.self.value)
    values.write(target, out.id, out.where, name, function(slot)
      require("medxai.nn.exported_file").refuse_change(self.program, slot.name)
    end)
    self.values[name] = ops.rules.alias(self, node, a)
    if out.where == "main" then self.g.in_place[out.id] = true end
  end
  return out.where == "main" and out.id or nil
end

local function is_module_call(self, node)
  local call = innermost(node) and self.calls[innermost(node).key]
  return call and is_single(self, node) and call.class:find "^torch%.nn%.modules%." ~= nil
end

local function walk(self)
  local last = last_reads(self)
  for i, node in ipairs(self.program.nodes) do
    if #node.outs > 0 then
      self.made[i] = walk_node(self, node, last)
      if self.made[i] and not is_module_call(self, node) then self.g.functional[self.made[i]] = true end
    end
  end
end

-- Parameters that stand in no layer: a class token, a position embedding, a layer's scale.
local function add_free_parameters(self)
  local readers = {}
  for id = #self.g.nodes, 1, -1 do
    for _, slot in ipairs(self.g.reads[id] or {}) do readers[slot] = id end
  end
  for _, slot in ipairs(self.g.slots) do
    if slot.kind == "parameter" and not self.in_layers[slot.name] and readers[slot.slot] then
      self.g:layer("parameter", slot.name, { weight = slot, node = { id = readers[slot.slot] } })
    end
  end
end

--- Builds the graph.
---@param program medxai.Exported
---@param g medxai.Builder
---@param x medxai.Value
---@param o { output: string, version: string } output: the value that is the logits; version: of libtorch
---@return medxai.Value output
---@return table found places = where the tensors lie, by slot; constants
function exported_graph.build(program, g, x, o)
  g.shapes, g.batches, g.in_place, g.picks, g.counts, g.attentions = {}, {}, {}, {}, {}, {}
  local self = setmetatable({ program = program, g = g, x = x, slots = g.slots, values = {}, places = {}, made = {},
    in_layers = {}, version = o.version }, B)
  declare_inputs(self)
  study_calls(self)
  walk(self)
  name_blocks(self)
  add_free_parameters(self)
  local output = self:value(o.output)
  if output.where ~= "main" then self:fail("gives an output that does not depend on the images.") end
  return { id = output.id }, { places = self.places, constants = self.constants }
end

--- Whether the libtorch in use is older than that version; where there is none (a description alone) it is not.
function B:is_older_than(major, minor)
  local a, b = self.version:match "^(%d+)%.(%d+)"
  if not a then return false end
  a, b = tonumber(a), tonumber(b)
  return a < major or a == major and b < minor
end

return exported_graph
