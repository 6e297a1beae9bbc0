-- What becomes of an exported network's operators: most are taken as they are, by name; those that stand here are
-- written otherwise, so that the batch may have any size, the model any dtype and device, and an older libtorch runs
-- them. A rule gets (b, node, a): b the builder (exported_graph.lua), a the node's arguments by name; it returns a new
-- value, or nil where the operator is taken as it is.
local values = require "medxai.nn.exported_values"
local TRAINING = require("medxai.nn.builder").TRAINING

local ops = {}
local rules = {}
ops.rules = rules

local is_float = { float16 = true, bfloat16 = true, float32 = true, float64 = true }

local function set_of(text)
  local set = {}
  for word in text:gmatch "%S+" do set[word] = true end
  return set
end

--- Operators that draw random numbers, whatever the mode.
ops.draws = set_of [[bernoulli rand randn randint randperm rand_like randn_like randint_like normal uniform exponential
  geometric log_normal cauchy random multinomial poisson rrelu native_dropout]]

-- In-place operators whose out-of-place form has another overload.
local overloads = { ["pow_.Scalar"] = "Tensor_Scalar", ["pow_.Tensor"] = "Tensor_Tensor",
  ["float_power_.Scalar"] = "Tensor_Scalar", ["float_power_.Tensor"] = "Tensor_Tensor", ["floor_divide_.Tensor"] = "",
  ["ldexp_."] = "Tensor", ["transpose_."] = "int" }

--- The out-of-place form of an in-place operator: name and overload; nil where the operator is none. add_ -> add,
--- __iand__ -> __and__
function ops.out_of_place(op, overload)
  local name = op:match "^(.*[^_])_$"
  local of_bits = op:match "^__i(%l+)__$" -- &=, |=, ^=, <<=, >>=
  if of_bits then return "__" .. of_bits .. "__", overload end
  if not name then return nil end
  return name, overloads[op .. "." .. overload] or overload
end

--- Operators that look at memory, not at numbers.
ops.of_memory = set_of "as_strided set resize resize_as unsafe_chunk unsafe_split unfold_copy"

-- ---- shapes ---------------------------------------------------------------------------------------------------------

-- A shape as reshape takes it: -1 for the batch and its multiples.
local function as_sizes(b, node, shape)
  local sizes, open = {}, 0
  for i, size in ipairs(shape) do
    sizes[i] = size < 0 and -1 or size
    if size < 0 then open = open + 1 end
  end
  if open > 1 then b:fail("node '%s' has the batch in two dimensions, which is not read.", node.outs[1]) end
  return sizes
end

local function normal_dim(dim, rank) return dim < 0 and dim + rank or dim end

local function reshape(b, node, v)
  local shape = b:shape(node.outs[1])
  return b:emit(node, "reshape", { self = v, shape = as_sizes(b, node, shape) }, shape)
end

-- A view that is undone by a reshape to the parent's shape.
local function reshaped_view(b, node, a)
  local parent = b:value(a.self.value)
  local out = reshape(b, node, parent)
  return values.view_of(out, parent, function(p) return b:place_of(reshape(b, node, p)) end, function(p, new)
    return b:place_of(b:emit(node, "reshape", { self = new, shape = as_sizes(b, node, p.shape) }, p.shape))
  end)
end

for name in pairs(set_of "view view_as unflatten _unsafe_view") do rules[name] = reshaped_view end
rules["view"] = function(b, node, a)
  if a.dtype then b:fail("reads the bytes of a tensor as another type ('%s'), which is not done.", node.target) end
  return reshaped_view(b, node, a)
end

local function perhaps_reshaped(b, node, a)
  local parent = b:value(a.self.value)
  return values.perhaps_of(reshape(b, node, parent), parent)
end
for name in pairs(set_of "reshape reshape_as ravel") do rules[name] = perhaps_reshaped end

-- An operator that is taken as it is, but gives a view: back(parent, new) undoes it.
local function plain_view(back)
  return function(b, node, a)
    local parent = b:value(a.self.value)
    local function make(p) return b:emit_plain(node, a, { self = p }) end
    return values.view_of(make(parent), parent, function(p) return b:place_of(make(p)) end, back and function(p, new)
      return b:place_of(back(b, node, a, p, new))
    end)
  end
end

local function back_by_reshape(b, node, _, p, new)
  return b:emit(node, "reshape", { self = new, shape = as_sizes(b, node, p.shape) }, p.shape)
end

rules.unsqueeze, rules.squeeze = plain_view(back_by_reshape), plain_view(back_by_reshape)
-- "squeeze.dims" came with libtorch 2.0
rules.squeeze = function(b, node, a)
  if a.dim and a.dim.kind == "ints" then return reshaped_view(b, node, a) end
  return plain_view(back_by_reshape)(b, node, a)
end

rules.transpose = plain_view(function(b, node, a, p, new)
  local dims = { self = new }
  dims.dim0, dims.dim1 = (a.dim0 or a.axis0).value, (a.dim1 or a.axis1).value
  return b:emit(node, "transpose.int", dims, p.shape)
end)
rules.swapaxes, rules.swapdims = rules.transpose, rules.transpose

rules.permute = plain_view(function(b, node, a, p, new)
  local inverse = {}
  for i, dim in ipairs(a.dims.value) do inverse[normal_dim(dim, #p.shape) + 1] = i - 1 end
  return b:emit(node, "permute", { self = new, dims = inverse }, p.shape)
end)
rules.t = plain_view(function(b, node, _, p, new) return b:emit(node, "t", { self = new }, p.shape) end)
rules.movedim, rules.expand_as, rules.broadcast_to = plain_view(), plain_view(), plain_view()
rules.diagonal, rules.unfold = plain_view(), plain_view()
rules.detach = plain_view(function(_, _, _, _, new) return new end)

-- The same memory under another name.
function rules.alias(b, node, a)
  local parent = b:value(a.self.value)
  local function same(p) return p.id, p.where end
  local out = values.new { name = node.outs[1], shape = parent.shape, dtype = parent.dtype, where = parent.where,
    id = parent.id, slot = parent.slot, place = parent.place }
  return values.view_of(out, parent, same, function(_, new) return new.id, new.where end)
end

local function narrow_back(b, node, p, new, dim, start, stop, step)
  return b:emit(node, "slice_scatter", { self = p, src = new, dim = dim, start = start, ["end"] = stop, step = step },
    p.shape)
end

rules.slice = plain_view(function(b, node, a, p, new)
  local function number(arg) return arg and arg.kind ~= "none" and arg.value or nil end
  return narrow_back(b, node, p, new, number(a.dim) or 0, number(a.start), number(a["end"]), number(a.step) or 1)
end)
rules.narrow = plain_view(function(b, node, a, p, new)
  return narrow_back(b, node, p, new, a.dim.value, a.start.value, a.start.value + a.length.value, 1)
end)
rules.select = plain_view(function(b, node, a, p, new)
  return b:emit(node, "select_scatter", { self = p, src = new, dim = a.dim.value, index = a.index.value }, p.shape)
end)

for name in pairs(set_of "flatten contiguous") do
  rules[name] = function(b, node, a)
    local parent = b:value(a.self.value)
    return values.perhaps_of(b:emit_plain(node, a), parent)
  end
end

-- ---- several results ------------------------------------------------------------------------------------------------

-- chunk, split ... become narrow, one per result.
local function split(b, node, a)
  local parent, dim, at, list = b:value(a.self.value), a.dim and a.dim.value or 0, 0, {}
  for i, name in ipairs(node.outs) do
    local shape, start = b:shape(name), at
    local length = shape[normal_dim(dim, #shape) + 1]
    if length < 0 then b:fail("splits a batch ('%s'), which is not read.", node.target) end
    local function make(p)
      return b:emit(node, "narrow", { self = p, dim = dim, start = start, length = length }, shape)
    end
    local out = make(parent)
    list[i] = values.view_of(out, parent, function(p) return b:place_of(make(p)) end, function(p, new)
      return b:place_of(narrow_back(b, node, p, new, dim, start, start + length, 1))
    end)
    at = at + length
  end
  return list
end
for name in pairs(set_of "chunk split split_with_sizes tensor_split") do rules[name] = split end

function rules.unbind(b, node, a)
  local parent, dim, list = b:value(a.self.value), a.dim and a.dim.value or 0, {}
  for i, name in ipairs(node.outs) do
    local shape = b:shape(name)
    local function make(p) return b:emit(node, "select.int", { self = p, dim = dim, index = i - 1 }, shape) end
    list[i] = values.view_of(make(parent), parent, function(p) return b:place_of(make(p)) end, function(p, new)
      return b:place_of(b:emit(node, "select_scatter", { self = p, src = new, dim = dim, index = i - 1 }, p.shape))
    end)
  end
  return list
end

-- ---- the batch as a number ------------------------------------------------------------------------------------------

local function has_batch(list)
  for _, size in ipairs(list) do
    if type(size) == "table" then return true end
  end
  return false
end

-- v, whose size is 1 where shape has the batch, repeated for every image.
local function over_batch(b, node, v, shape)
  return b:part(node)("expand_as", { self = v, other = b:batch_like(node, shape) }, shape)
end

function rules.expand(b, node, a)
  local v, shape = b:value(a.self.value), b:shape(node.outs[1])
  local function make(p)
    if not has_batch(a.size.value) then return b:emit_plain(node, a, { self = p }) end
    local sizes, missing = {}, #shape - #p.shape
    for i, size in ipairs(shape) do
      if size < 0 and p.shape[i - missing] == size then size = -1 end
      if size < -1 or size < 0 and p.shape[i - missing] ~= size then return over_batch(b, node, p, shape) end
      sizes[i] = size
    end
    return b:emit(node, "expand", { self = p, size = sizes }, shape)
  end
  return values.view_of(make(v), v, function(p) return b:place_of(make(p)) end)
end

rules["repeat"] = function(b, node, a)
  if not has_batch(a.repeats.value) then return nil end
  local v, repeats, middle, shape = b:value(a.self.value), {}, {}, b:shape(node.outs[1])
  local missing = #shape - #v.shape
  for i, times in ipairs(a.repeats.value) do
    local own = i > missing and v.shape[i - missing] or 1
    if type(times) == "table" and own ~= 1 then
      b:fail("repeats a value for every image ('%s'), which is not read.", node.outs[1])
    end
    repeats[i], middle[i] = type(times) == "table" and 1 or times, type(times) == "table" and shape[i] or own
  end
  return b:emit(node, "repeat", { self = over_batch(b, node, v, middle), repeats = repeats }, shape)
end

-- zeros, ones ... of the batch's size: one number, repeated.
local fills = { zeros = 0, ones = 1, empty = 0, new_zeros = 0, new_ones = 1, new_empty = 0, zeros_like = 0,
  ones_like = 1, empty_like = 0 }

local function filled(b, node, a)
  local shape, name = b:shape(node.outs[1]), node.outs[1]
  local number = fills[node.op] or a.fill_value.value
  local sizes, open = {}, false
  for i, size in ipairs(shape) do sizes[i], open = size < 0 and 1 or size, open or size < 0 end
  local one = b:emit_constant(node, "full", { size = sizes, fill_value = number, dtype = b:dtype(name) }, sizes)
  if not open then return one end
  return b:emit(node, "clone", { self = over_batch(b, node, one, shape) }, shape)
end
for name in pairs(fills) do rules[name] = filled end
rules.full, rules.new_full, rules.full_like = filled, filled, filled

-- ---- types ----------------------------------------------------------------------------------------------------------

-- Casts between floating-point types are left out: the model has one such type, the one it is asked for. Constants are
-- computed in the file's types.
local function cast(b, node, a)
  local v, to = b:value(a.self.value), b:dtype(node.outs[1])
  if v.dtype == to or is_float[v.dtype] and is_float[to] and v.where ~= "constant" then
    local out = values.new { name = node.outs[1], shape = v.shape, dtype = v.dtype, where = v.where, id = v.id,
      slot = v.slot, place = v.place }
    return values.perhaps_of(out, v)
  end
  if is_float[to] and v.where ~= "constant" then
    return b:emit(node, "type_as", { self = v, other = b.image }, v.shape, to)
  end
  return b:emit(node, "to.dtype", { self = v, dtype = to }, v.shape, to)
end
for name in pairs(set_of "to _to_copy type_as float double half bool int long") do rules[name] = cast end

-- A constant that nothing writes to.
function rules.lift_fresh_copy(b, node, a)
  local v = b:value(a.self.value)
  return b:emit(node, "clone", { self = v }, v.shape, v.dtype)
end
rules.lift_fresh, rules.lift = rules.lift_fresh_copy, rules.lift_fresh_copy

-- In place: the numbers of another tensor, in this one's shape and type.
function rules.copy(b, node, a)
  local v, from = b:value(a.self.value), b:value(a.src.value)
  if is_float[v.dtype] and not is_float[from.dtype] then
    from = b:part(node)("type_as", { self = from, other = b.image }, from.shape, v.dtype)
  elseif v.dtype ~= from.dtype and not is_float[v.dtype] then
    from = b:part(node)("to.dtype", { self = from, dtype = v.dtype }, from.shape, v.dtype)
  end
  return b:emit(node, "expand_as", { self = from, other = v }, v.shape, v.dtype)
end

function rules.zero(b, node, a)
  local v = b:value(a.self.value)
  return b:emit(node, "zeros_like", { self = v }, v.shape, v.dtype)
end

-- ---- modes ----------------------------------------------------------------------------------------------------------

local function refuse_train(b, node)
  b:fail("was exported in train mode ('%s' draws or counts). Export it after net.eval().", node.outs[1])
end

function rules.dropout(b, node, a)
  if (a.train or a.training).value then refuse_train(b, node) end
  local v, p = b:value((a.input or a.self).value), a.p.value + 0.0
  local name = node.op == "dropout" and "dropout" or node.op
  local out = b:emit_mode(node, name, { v, p, TRAINING }, { chance = p, evaluated = { "dropout", v } }, v.shape)
  return values.perhaps_of(out, v)
end
for name in pairs(set_of "feature_dropout alpha_dropout feature_alpha_dropout") do rules[name] = rules.dropout end

local function batch_norm(b, node, a, arg)
  local mean = arg.running_mean and arg.running_mean.kind == "tensor" and b:value(arg.running_mean.value)
  if not mean then return nil end -- statistics of the batch, or of the image, in both modes
  if arg.training and arg.training.value then refuse_train(b, node) end
  local function tensor(name) return arg[name] and arg[name].kind == "tensor" and b:value(arg[name].value) or nil end
  local x, weight, bias, var = b:value(a.input.value), tensor "weight", tensor "bias", tensor "running_var"
  local prefix = mean.slot and mean.slot.name:match "^(.*)running_mean$"
  local counter = prefix and b.slots[prefix .. "num_batches_tracked"]
  local args = { input = x, weight = weight, bias = bias, running_mean = mean, running_var = var, training = TRAINING,
    momentum = arg.momentum.value, eps = arg.eps.value, cudnn_enabled = true }
  local out = b:emit_mode(node, "batch_norm", args, { counter = counter and counter.slot,
    evaluated = { "batch_norm", x, weight, bias, mean, var, arg.eps.value } }, x.shape)
  b:layer(out, "batch_norm2d", { weight = weight, bias = bias, running_mean = mean, running_var = var,
    eps = arg.eps.value, counter = counter })
  return out
end

function rules.batch_norm(b, node, a) return batch_norm(b, node, a, a) end
function rules._native_batch_norm_legit_no_training(b, node, a) return batch_norm(b, node, a, a) end

-- ---- what an older libtorch lacks -----------------------------------------------------------------------------------

-- softmax(q k' scale + mask) v, as PyTorch's own composition does it: both factors are scaled by the square root.
function rules.scaled_dot_product_attention(b, node, a)
  local q, k, v = b:value(a.query.value), b:value(a.key.value), b:value(a.value.value)
  local function given(name) return a[name] and a[name].kind ~= "none" and a[name].value or nil end
  if not b:is_older_than(2, 0) then
    local out = b:emit_plain(node, a)
    b:note_attention(out, { q = q, k = k, v = v, mask = given "attn_mask" and b:value(a.attn_mask.value),
      scale = given "scale" or 1 / math.sqrt(q.shape[#q.shape]),
      plain = not given "is_causal" and not given "enable_gqa" })
    return out
  end
  if given "is_causal" or given "enable_gqa" or (given "dropout_p" or 0) > 0 then
    b:fail("uses attention that is causal, grouped or drops ('%s'): libtorch %s lacks it, 2.0 has it.", node.outs[1],
      b.version)
  end
  local rank, shape = #q.shape, b:shape(node.outs[1])
  local scale = math.sqrt(given "scale" or 1 / math.sqrt(q.shape[rank]))
  local attention = table.move(shape, 1, rank - 1, 1, {})
  attention[rank] = k.shape[rank - 1]
  local turned = table.move(k.shape, 1, rank, 1, {})
  turned[rank - 1], turned[rank] = turned[rank], turned[rank - 1]
  local part = b:part(node)
  local kt = part("transpose.int", { self = k, dim0 = -2, dim1 = -1 }, turned)
  local logits = part("matmul", { self = part("mul.Scalar", { self = q, other = scale }, q.shape),
    other = part("mul.Scalar", { self = kt, other = scale }, turned) }, attention)
  local mask = given "attn_mask" and b:value(a.attn_mask.value)
  if mask and mask.dtype == "bool" then
    local off = part("logical_not", { self = mask }, mask.shape, "bool")
    logits = part("masked_fill.Scalar", { self = logits, mask = off, value = -math.huge }, attention)
  elseif mask then
    logits = part("add.Tensor", { self = logits, other = mask }, attention)
  end
  local weights = part("softmax.int", { self = logits, dim = -1 }, attention)
  return b:emit(node, "matmul", { self = weights, other = v }, shape)
end

-- x / sqrt(mean(x^2) + eps) weight
function rules.rms_norm(b, node, a)
  if not b:is_older_than(2, 4) then return nil end
  local x, dims, part = b:value(a.input.value), {}, b:part(node)
  for i = 1, #a.normalized_shape.value do dims[i] = -i end
  local eps = a.eps and a.eps.kind ~= "none" and a.eps.value or 2 ^ -23
  local reduced = table.move(x.shape, 1, #x.shape, 1, {})
  for i = 1, #dims do reduced[#reduced + 1 - i] = 1 end
  local mean = part("mean.dim", { self = part("mul.Tensor", { self = x, other = x }, x.shape), dim = dims,
    keepdim = true }, reduced)
  local scale = part("rsqrt", { self = part("add.Scalar", { self = mean, other = eps }, reduced) }, reduced)
  local weight = a.weight and a.weight.kind == "tensor" and b:value(a.weight.value)
  if not weight then return b:emit(node, "mul.Tensor", { self = x, other = scale }, x.shape) end
  return b:emit(node, "mul.Tensor", { self = part("mul.Tensor", { self = x, other = scale }, x.shape), other = weight },
    x.shape)
end

-- ---- layers that a model lists --------------------------------------------------------------------------------------

-- The operator as it is, noted as a layer with its parameters.
local function layer(kind)
  return function(b, node, a)
    local out = b:emit_plain(node, a)
    local function slot(name) return a[name] and a[name].kind == "tensor" and b:value(a[name].value) or nil end
    b:layer(out, kind, { weight = slot "weight", bias = slot "bias" })
    return out
  end
end
rules.conv2d, rules.linear = layer "conv2d", layer "linear"
rules.layer_norm, rules.group_norm = layer "layer_norm", layer "layer_norm"

--- Raises where an operator cannot be a node.
function ops.check(b, node)
  local op = node.op
  if not op then
    b:fail("uses the operator '%s', which is not one of PyTorch's ATen operators. Export a network without it.",
      node.target:gsub("^torch%.ops%.", ""):gsub("%.default$", ""))
  end
  local bare = op:gsub("_$", "")
  if ops.draws[bare] then
    b:fail("draws random numbers ('%s'), as networks do in train mode. Export it after net.eval().", node.target)
  end
  if node.overload:find "out$" then
    b:fail("writes the result of '%s' into a given tensor (out =). Write the network without that.", op)
  end
  if ops.of_memory[bare] then
    b:fail("uses the operator '%s', which depends on how PyTorch lays out memory. Export a network without it.", op)
  end
end

return ops
