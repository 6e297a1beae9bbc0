-- torch: libtorch's operators under PyTorch's names, and the few functions that exist only in PyTorch's Python part.
-- torch.<op>(...) and t:<op>(...) are looked up in libtorch when first used; what is written here adds, it wraps
-- nothing. It refuses operators that are not documented or crash on bad arguments: those are torch.raw.<op>, which
-- promises nothing.
local core = require "medxai.core"
local check = require "medxai.base.check"
local Options = require "medxai.base.options"
local suggest = require "medxai.base.suggest"
local native = core.tensor
local methods = native.methods

---@alias medxai.dtype "float32"|"float64"|"float16"|"bfloat16"|"int64"|"int32"|"int16"|"int8"|"uint8"|"bool"|"complex64"|"complex128"

---A tensor. Fields are read; `grad` and `requires_grad` can be set. Every operator of libtorch is a method.
---@class medxai.Tensor
---@field shape integer[]
---@field dtype medxai.dtype
---@field device string "cpu" or "cuda:0"
---@field layout string
---@field grad medxai.Tensor|nil
---@field requires_grad boolean
---@field is_leaf boolean
---@field grad_fn string|nil
---@field tolist fun(self): any nested lists of numbers
---@field item fun(self): number|boolean the one element
---@field size fun(self, dim?: integer): integer[]|integer
---@field dim fun(self): integer
---@field numel fun(self): integer
---@field data_string fun(self): string the bytes of its elements, row-major
---@field close fun(self) frees it now
---@field to fun(self, ...): medxai.Tensor
---@field [any] any

---@class medxai.torch
---@field none userdata None, where a list or an argument needs it
---@field [string] any every operator of libtorch
local torch = { none = native.none, pi = math.pi, e = math.exp(1), inf = math.huge, nan = 0 / 0 }

local dtype_option = { "string", lua = "medxai.dtype", doc = "of the elements" }
local device_option = { "string", doc = "cpu, cuda or cuda:N" }

local specs = {
  tensor = {
    dtype = dtype_option, device = device_option,
    requires_grad = { "boolean", doc = "record operators for autograd" },
  },
  to = {
    dtype = dtype_option, device = device_option,
    memory_format = { "string", doc = "contiguous_format, channels_last or preserve_format" },
    copy = { "boolean", doc = "a copy even where nothing changes" },
    non_blocking = { "boolean", doc = "taken for PyTorch's sake; copies are waited for" },
  },
  interpolate = {
    size = { "any", lua = "integer|integer[]", doc = "of the result: one, or one per spatial dimension" },
    scale_factor = { "any", lua = "number|number[]", doc = "in place of size" },
    mode = { "string", default = "nearest", doc = "nearest, nearest-exact, linear, bilinear, bicubic, "
      .. "trilinear or area" },
    align_corners = { "boolean", doc = "the corners' centers stay where they are" },
    antialias = { "boolean", default = false, doc = "for bilinear and bicubic" },
    recompute_scale_factor = { "boolean", default = false, doc = "from the sizes, as PyTorch" },
  },
  unique = {
    dim = { "integer", doc = "along which slices are compared; default: elements" },
    return_inverse = { "boolean", default = false, doc = "also the place of each element among the values" },
    return_counts = { "boolean", default = false, doc = "also how often each value occurs" },
  },
}

local denied = {}
for _, name in ipairs(require "medxai.tensor.denied_ops") do denied[name] = true end
native.deny(denied)

-- ---- making and storing ----

---A tensor from a number, a boolean or a regular nested list. Floats give float32, integers int64, booleans bool.
---@param value number|boolean|table|medxai.Tensor a tensor is copied
---@param options? {dtype?: medxai.dtype, device?: string, requires_grad?: boolean}
---@return medxai.Tensor
function torch.tensor(value, options)
  options = Options.check("tensor", options or {}, specs.tensor)
  local t
  if native.is_tensor(value) then
    t = native.to(value:detach(), options.device, options.dtype, nil, true)
  else
    t = native.from_table(value, options.dtype)
    if options.device and options.device ~= "cpu" then t = native.to(t, options.device) end
  end
  return options.requires_grad and t:requires_grad_() or t
end

torch.is_tensor = native.is_tensor
torch.from_string = native.from_string -- (bytes, dtype, shape)

-- npy.lua is opened at the first use: it reads and writes files.
function torch.load_npy(path) return require("medxai.tensor.npy").load(path) end

function torch.save_npy(path, t) return require("medxai.tensor.npy").save(path, t) end

-- ---- conversion ----

-- One string of t:to is a dtype, a device or a memory format; its spelling says which.
local function sort_word(into, word)
  for _, kind in ipairs { "dtype", "device", "memory_format" } do
    if native.name_fits(kind, word) then
      if into[kind] then check.fail("to", "two values for the %s (%s and %s)", kind, into[kind], word) end
      into[kind] = word
      return
    end
  end
  check.fail("to", "'%s' is neither a dtype, a device (cpu, cuda, cuda:N) nor a memory format", word)
end

---The tensor in another dtype, on another device or in another memory format; itself where nothing changes.
---`t:to("float64")`, `t:to("cuda:0", "float16")`, `t:to(other)`, `t:to{dtype=, device=, memory_format=, copy=}`
---@return medxai.Tensor
function methods.to(t, ...)
  local into = {}
  for i = 1, select("#", ...) do
    local a = select(i, ...)
    if native.is_tensor(a) then
      into.dtype, into.device = a.dtype, a.device
    elseif type(a) == "string" then
      sort_word(into, a)
    elseif type(a) == "boolean" and i > 1 then
      into.copy = select(i + 1, ...) or false -- PyTorch's (non_blocking, copy)
      break
    elseif type(a) == "table" then
      local named = Options.check("to", a, specs.to)
      for key, value in pairs(named) do into[key] = value end
    elseif a ~= nil then
      check.fail("to", "argument %d (expected a dtype, device, tensor or table of names, got %s)", i, type(a))
    end
  end
  return native.to(t, into.device, into.dtype, into.memory_format, into.copy)
end

for name, dtype in pairs {
  float = "float32", double = "float64", half = "float16", bfloat16 = "bfloat16",
  long = "int64", int = "int32", short = "int16", char = "int8", byte = "uint8", bool = "bool",
} do
  methods[name] = function(t) return native.to(t, nil, dtype) end
end

function methods.cpu(t) return native.to(t, "cpu") end

function methods.cuda(t, index) return native.to(t, index and "cuda:" .. index or "cuda") end

---The dtype's name without an argument, the converted tensor with one.
function methods.type(t, dtype)
  if dtype == nil then return t.dtype end
  return native.to(t, nil, dtype)
end

function methods.nelement(t) return t:numel() end

function methods.ndimension(t) return t:dim() end

for _, name in ipairs { "numel", "tolist", "dim" } do torch[name] = methods[name] end

-- ---- functions of torch and torch.nn.functional that are no operators ----

---@param equation string "bij,bjk->bik"
---@param ... medxai.Tensor
---@return medxai.Tensor
function torch.einsum(equation, ...)
  local list = type(...) == "table" and (...) or { ... }
  return native.op("einsum")(equation, list)
end

-- (x, target, {weight=, reduction="mean"|"sum"|"none", label_smoothing=})
torch.cross_entropy = native.op("cross_entropy_loss", false, false, "cross_entropy")
methods.cross_entropy = native.op("cross_entropy_loss", true, false, "cross_entropy")

-- mode -> the operator's stem, its number of spatial dimensions, does it take align_corners
local modes = {
  nearest = { "upsample_nearest%dd", 1, 3, false },
  ["nearest-exact"] = { "_upsample_nearest_exact%dd", 1, 3, false },
  linear = { "upsample_linear1d", 1, 1, true },
  bilinear = { "upsample_bilinear2d", 2, 2, true },
  bicubic = { "upsample_bicubic2d", 2, 2, true },
  trilinear = { "upsample_trilinear3d", 3, 3, true },
}

local function per_dimension(what, value, n)
  if type(value) == "table" then
    if #value ~= n then
      check.fail("interpolate", "%s has %d values (expected %d, one a spatial dimension)", what, #value, n)
    end
    return value
  end
  local list = {}
  for i = 1, n do list[i] = value end
  return list
end

local function scaled_size(x, factors)
  local size = {}
  for i, f in ipairs(factors) do size[i] = math.floor(x:size(i + 1) * f) end
  return size
end

-- The sizes and factors that libtorch's operator wants: the factor is passed only when the size was not given.
local function size_and_factors(x, o, n)
  if (o.size == nil) == (o.scale_factor == nil) then
    check.fail("interpolate", "expected either size or scale_factor, got %s", o.size and "both" or "neither")
  end
  if o.size then return per_dimension("size", o.size, n), nil end
  local factors = per_dimension("scale_factor", o.scale_factor, n)
  for i = 1, n do
    factors[i] = math.type(factors[i]) and factors[i] + 0.0 or check.fail("interpolate", "scale_factor is no number")
  end
  if o.recompute_scale_factor then return scaled_size(x, factors), nil end
  return nil, factors
end

---Resizes the spatial dimensions of x (N, C, ...).
---@param x medxai.Tensor
---@param options {size?: integer|integer[], scale_factor?: number|number[], mode?: string, align_corners?: boolean,
---   antialias?: boolean}
---@return medxai.Tensor
function torch.interpolate(x, options)
  if not native.is_tensor(x) then check.fail("interpolate", "argument 1 (expected a tensor, got %s)", type(x)) end
  local o = Options.check("interpolate", options or {}, specs.interpolate)
  local n = x:dim() - 2
  if o.mode == "area" then
    local size, factors = size_and_factors(x, o, n)
    local op = native.op(("adaptive_avg_pool%dd"):format(n))
      or check.fail("interpolate", "mode 'area' needs 3 to 5 dimensions, got %d", n + 2)
    return op(x, size or scaled_size(x, factors))
  end
  local mode = modes[o.mode]
  if not mode then check.known("interpolate", "mode", o.mode, check.sorted_keys(modes)) end
  if n < mode[2] or n > mode[3] then
    check.fail("interpolate", "mode '%s' does not go with %d dimensions (N, C and %d spatial ones)", o.mode, x:dim(), n)
  end
  if o.align_corners ~= nil and not mode[4] then
    check.fail("interpolate", "mode '%s' takes no align_corners", o.mode)
  end
  local stem = mode[1]:format(n)
  if o.antialias then
    if n ~= 2 or not mode[4] then
      check.fail("interpolate", "antialias goes with bilinear and bicubic (got %s)", o.mode)
    end
    stem = "_" .. stem .. "_aa"
  end
  local size, factors = size_and_factors(x, o, n)
  local op = native.op(stem, false, true)
  if mode[4] then return op(x, size, o.align_corners or false, factors) end
  return op(x, size, factors)
end

---The different values of x, sorted; with return_inverse and return_counts also those, in this order.
---@param x medxai.Tensor
---@param options? {dim?: integer, return_inverse?: boolean, return_counts?: boolean}
function torch.unique(x, options)
  local o = Options.check("unique", options or {}, specs.unique)
  local values, inverse, counts
  if o.dim then
    values, inverse, counts = native.op("unique_dim")(x, o.dim, true, o.return_inverse, o.return_counts)
  else
    values, inverse, counts = native.op("_unique2", false, true)(x, true, o.return_inverse, o.return_counts)
  end
  local results = { values }
  if o.return_inverse then results[#results + 1] = inverse end
  if o.return_counts then results[#results + 1] = counts end
  return table.unpack(results)
end

methods.unique = torch.unique

---x divided by its p-norm along dim.
---@return medxai.Tensor
function torch.normalize(x, p, dim, eps)
  local norm = x:norm(p or 2.0, dim or 1, true):clamp_min(eps or 1e-12)
  return x / norm:expand_as(x)
end

-- ---- gradients and random numbers: core.autograd ----

-- Taken over when first named.
local from_autograd = {
  no_grad = true, enable_grad = true, is_grad_enabled = true, guided_relu = true, autocast = true,
  manual_seed = true, get_rng_state = true, set_rng_state = true,
}
torch.autograd = setmetatable({}, { __index = function(_, name) return core.autograd[name] end })

function methods.backward(t, gradient, options) return core.autograd.backward(t, gradient, options) end

function torch.Generator(options) return core.autograd.generator(options or {}) end

-- ---- look-up ----

local function is_documented(name) return name:sub(1, 1) ~= "_" and not name:find "_backward" and not denied[name] end

local function documented_names()
  local names = {}
  for _, name in ipairs(native.op_names()) do
    if is_documented(name) then names[#names + 1] = name end
  end
  return names
end

local function unknown(what, name)
  check.fail(what, "no operator '%s' in libtorch %s.%s", tostring(name), native.torch_version(),
    suggest.hint(tostring(name), documented_names()))
end
torch._unknown = unknown

local function operators(what, raw)
  return function(self, name)
    if type(name) ~= "string" then check.fail(what, "names are strings, got a %s", type(name)) end
    local value
    if not raw and from_autograd[name] then
      value = core.autograd[name]
    else
      value = native.op(name, false, raw) or unknown(what, name)
    end
    rawset(self, name, value)
    return value
  end
end

---Unchecked operators: bad arguments may crash the process.
torch.raw = setmetatable({}, { __index = operators("torch.raw", true) })
torch.op_names, torch.op_schemas = native.op_names, native.op_schemas

-- What the prompt completes: names of operators and of what is written here.
local function all_names(own)
  local names = {}
  for name in pairs(own) do
    if name:sub(1, 1) ~= "_" then names[#names + 1] = name end
  end
  for _, name in ipairs(native.op_names()) do
    if name:sub(1, 1) ~= "_" and not name:find "_backward" and not denied[name] and rawget(own, name) == nil then
      names[#names + 1] = name
    end
  end
  table.sort(names)
  return names
end

native.metatable.__names = function()
  local names = all_names(methods)
  return table.move({ "shape", "dtype", "device", "layout", "grad", "requires_grad", "is_leaf", "grad_fn" }, 1, 8,
    #names + 1, names)
end

return setmetatable(torch, {
  __index = operators("torch", false), __name = "medxai.torch", __names = function() return all_names(torch) end,
  __described = function() return { functions = specs } end, -- for the reference (medxai.reference)
})
