-- Reads what torch.export.save writes (a PT2 archive: a stored zip with models/model.json, data/weights/*,
-- data/constants/*) as a plain description of the network: its input, its nodes, the shapes of its values, where its
-- tensors lie. Sizes that grow with the batch stand as negative numbers in shapes: -1 is the batch, -12 is 12 times the
-- batch; as an argument such a size is { times = 12 }. Nothing in the file is run, and no tensor is read here. It
-- refuses other files by what they are, archives of torch before 2.8, a network with several inputs, and sizes that
-- depend on anything but the batch.
local archive = require "medxai.archive"
local check = require "medxai.base.check"
local files = require "medxai.base.files"

local exported_file = {}

local what = "exported"
local most_bytes, most_depth = 64 << 20, 100 -- of the description

---@class medxai.Exported what a file says of its network
---@field path string
---@field name string the file's name without its ending
---@field text string the description, without the traces of the machine that wrote it
---@field input { name: string, shape: integer[], most: integer? } shape: of one image; most: images in a batch
--- every input of the graph in order: { name =, kind = "parameter"|"buffer"|"constant"|"image", fqn =, place = }
---@field inputs table[]
--- { target =, op =, overload =, args = { { name =, kind =, value = } }, outs = names, many =, calls = }
---@field nodes table[]
---@field values table<string, { shape: integer[], dtype: string }>
---@field numbers table<string, integer> whole numbers that the graph computes, as sizes in shapes
---@field outputs string[] names of the values that the network gives

local function fail(path, fmt, ...) check.fail(what, "'%s' " .. fmt, path, ...) end

local export_advice = "Export the network in Python with torch.export.save (docs/exported.md)."

-- ---- the archive --------------------------------------------------------------------------------------------------

-- What a file that is no such archive is.
local function refuse_file(path, why)
  local f = io.open(path, "rb")
  local size = f and f:seek "end"
  if not size then fail(path, "%s.", why) end
  f:seek("set", math.max(0, size - 65536))
  local tail = f:read "a" or ""
  f:close()
  if tail:find("serialized_exported_program.json", 1, true) then
    fail(path, "was written by torch before 2.8. Load it there with torch.export.load, and save it with torch 2.8 "
      .. "or later.")
  end
  if why:find("torch.jit.save", 1, true) then fail(path, "is a TorchScript program. %s", export_advice) end
  fail(path, "%s. %s", why, export_advice)
end

local function has_folder(names, folder)
  for _, name in ipairs(names) do
    if name:sub(1, #folder) == folder then return true end
  end
  return false
end

-- The name of the one network in an archive: "model".
local function model_name(path, names)
  local models = {}
  for _, name in ipairs(names) do models[#models + 1] = name:match "^models/(.+)%.json$" end
  if #models == 1 then return models[1] end
  if #models > 1 then
    fail(path, "holds %d networks (%s). Save the one that is meant alone.", #models, table.concat(models, ", "))
  end
  if has_folder(names, "data/aotinductor/") then
    fail(path, "is an AOTInductor package, a program compiled for one kind of machine. %s", export_advice)
  elseif has_folder(names, "code/") then
    fail(path, "is a TorchScript program. %s", export_advice)
  elseif has_folder(names, "data.pkl") then
    fail(path, "is a file of weights, which does not say how the network computes. %s", export_advice)
  end
  fail(path, "is no archive of torch.export.save (it has no models/model.json). %s", export_advice)
end

local function read_record(opened, path, name)
  local size = opened:size(name)
  if not size then fail(path, "has no record '%s'. Export it again.", name) end
  if size > most_bytes then
    fail(path, "describes its network in %d MB (expected at most %d).", size >> 20, most_bytes >> 20)
  end
  local text, why = opened:read(name)
  if not text then fail(path, "%s. Export it again.", why) end
  return text
end

local function decode(path, name, text)
  local json = require("cjson").new()
  json.decode_max_depth(most_depth)
  local ok, value = pcall(json.decode, text)
  if not ok then fail(path, "is damaged (%s: %s). Export it again.", name, tostring(value):gsub("^.-:%d+: ", "")) end
  if type(value) ~= "table" then fail(path, "is damaged (%s is no table). Export it again.", name) end
  return value
end

-- The description without where in whose files each node was written: the same for the same network.
local function without_traces(text)
  local parts, at, key = {}, 1, '"stack_trace": "'
  while true do
    local _, last = text:find(key, at, true)
    if not last then break end
    parts[#parts + 1] = text:sub(at, last)
    local close = last + 1
    while true do
      local found = text:find('["\\]', close)
      if not found then return text end
      if text:byte(found) == 34 then at = found break end
      close = found + 2
    end
  end
  parts[#parts + 1] = text:sub(at)
  return table.concat(parts)
end

-- ---- what the description says --------------------------------------------------------------------------------------

local dtypes = { "uint8", "int8", "int16", "int32", "int64", "float16", "float32", "float64", nil, "complex64",
  "complex128", "bool", "bfloat16" }

local function integer(value)
  if type(value) ~= "number" then return nil end
  if value >= 2 ^ 63 then return math.maxinteger end
  return math.tointeger(value)
end

local function dtype_of(path, number)
  return dtypes[integer(number)] or fail(path, "holds values of a type that is not read (number %s of torch's list).",
    tostring(number))
end

-- A size that is an expression of the batch: "Mul(Integer(12), Symbol('s77', ...))" -> -12.
local function multiple(path, name, expression, symbol)
  local times = 1
  local rest = expression:gsub("%s", "")
  local factor, inner = rest:match "^Mul%(Integer%((%d+)%),(Symbol%(.*%))%)$"
  if factor then times, rest = math.tointeger(tonumber(factor)), inner end
  if rest:match "^Symbol%('([^']*)'[%w_,=]*%)$" ~= symbol then
    fail(path, "computes a size that is no multiple of the batch ('%s': %s). Export it with a batch as the only "
      .. "dynamic size.", name, expression)
  end
  return -times
end

local function size_of(path, name, size, symbol)
  if size.as_expr then return multiple(path, name, size.as_expr.expr_str, symbol) end
  return integer(size.as_int)
end

local function shape_of(path, name, meta, symbol)
  local shape = {}
  for i, size in ipairs(meta.sizes) do shape[i] = size_of(path, name, size, symbol) end
  return shape
end

local advice = "Export it with dynamic_shapes = ({0: torch.export.Dim(\"batch\")},) and the size of your images."

-- The one image input: its shape and the symbol of its batch.
local function find_input(path, tree, names)
  local graph = tree.graph_module.graph
  if #names ~= 1 then
    fail(path, "takes %d inputs (%s; expected one, a batch of images). Export a module whose forward takes the "
      .. "images alone.", #names, table.concat(names, ", "))
  end
  local name = names[1]
  local meta = graph.tensor_values[name]
  local sizes = meta and meta.sizes or {}
  if #sizes ~= 4 then fail(path, "takes an input of %d dimensions (expected 4: N, C, H, W).", #sizes) end
  local expression = sizes[1].as_expr and sizes[1].as_expr.expr_str
  local symbol = expression and expression:match "^Symbol%('([^']*)'"
  if not symbol then
    fail(path, "takes batches of %s alone (expected any number of images). %s",
      tostring(integer(sizes[1].as_int) or expression), advice)
  end
  local shape = {}
  for i, dim in ipairs { "channels", "height", "width" } do
    shape[i] = integer(sizes[i + 1].as_int)
    if not shape[i] then fail(path, "takes images of any %s (expected a fixed one). %s", dim, advice) end
  end
  local range = tree.range_constraints[symbol]
  return { name = name, shape = shape, symbol = symbol, most = type(range) == "table" and integer(range.max_val)
    or nil }
end

-- ---- inputs and tensors ---------------------------------------------------------------------------------------------

local item_bytes = { uint8 = 1, int8 = 1, bool = 1, int16 = 2, float16 = 2, bfloat16 = 2, int32 = 4, float32 = 4,
  int64 = 8, float64 = 8, complex64 = 8, complex128 = 16 }

-- Raises unless the tensor's record is there and long enough.
local function check_record(path, opened, fqn, place)
  local last = place.offset
  for i, size in ipairs(place.sizes) do last = size > 0 and last + (size - 1) * place.strides[i] or last end
  local bytes = opened:size(place.record)
  if not bytes then fail(path, "lacks the tensor '%s' (it has no record %s). Export it again.", fqn, place.record) end
  local empty = false
  for _, size in ipairs(place.sizes) do empty = empty or size == 0 end
  if not empty and (last + 1) * item_bytes[place.dtype] > bytes then
    fail(path, "is damaged (the record of the tensor '%s' is too short). Export it again.", fqn)
  end
end

local function place_of(path, fqn, entry, folder)
  if type(entry) ~= "table" then fail(path, "lacks the tensor '%s'. Export it again.", fqn) end
  if entry.use_pickle == true then
    fail(path, "stores the tensor '%s' as a pickle, which is not read: it is no plain tensor. Export the network "
      .. "without it.", fqn)
  end
  local meta = entry.tensor_meta
  local place = { record = folder .. entry.path_name, dtype = dtype_of(path, meta.dtype), sizes = {}, strides = {},
    offset = integer(meta.storage_offset.as_int) }
  for i, size in ipairs(meta.sizes) do place.sizes[i] = integer(size.as_int) end
  for i, stride in ipairs(meta.strides) do place.strides[i] = integer(stride.as_int) end
  return place
end

local function arg_name(spec) return spec.arg.as_tensor and spec.arg.as_tensor.name or spec.arg.name end

-- kind, name in the graph, full name: of one entry of the signature.
local function read_spec(path, spec)
  if spec.parameter then return "parameter", spec.parameter.arg.name, spec.parameter.parameter_name end
  if spec.buffer then
    return spec.buffer.persistent and "buffer" or "constant", spec.buffer.arg.name, spec.buffer.buffer_name
  end
  if spec.tensor_constant then
    return "constant", spec.tensor_constant.arg.name, spec.tensor_constant.tensor_constant_name
  end
  if spec.user_input and spec.user_input.arg.as_tensor then return "image", arg_name(spec.user_input) end
  local kind = next(spec)
  fail(path, "takes an input that is no tensor (%s). Export a network that takes a batch of images alone.",
    tostring(kind))
end

-- Marks the archive that write_without_weights writes.
local bare = "without_weights"

-- Archives of torch 2.8 keep their tensors in one file of torch.save, later ones each in a record of its own.
local function configs(opened, path, model)
  local out = {}
  for kind, folder in pairs { weights = "data/weights/", constants = "data/constants/" } do
    local record = folder .. model .. "_" .. kind .. "_config.json"
    if opened:size(record) then out[kind] = decode(path, record, read_record(opened, path, record)).config
    elseif opened:size(folder .. model .. ".pt") or kind == "weights" and opened:size(bare) then
      out[kind] = { file = folder .. model .. ".pt" }
    else out[kind] = {} end
  end
  return out
end

-- One tensor's place. Tensors of one place are one tensor with several names.
local function read_place(program, input, opened, config)
  local which = input.kind == "constant" and "constants" or "weights"
  local bare_weights = which == "weights" and opened:size(bare) ~= nil
  if config[which].file then
    input.place = not bare_weights and { file = config[which].file, fqn = input.fqn } or nil
    return
  end
  local place = place_of(program.path, input.fqn, config[which][input.fqn], "data/" .. which .. "/")
  input.memory = ("%s %d %s %s"):format(place.record, place.offset, table.concat(place.sizes, "x"),
    table.concat(place.strides, "x"))
  if bare_weights then return end
  check_record(program.path, opened, input.fqn, place)
  input.place = place
end

local function read_inputs(program, tree, opened, model)
  local path, images = program.path, {}
  local config = configs(opened, path, model)
  for i, spec in ipairs(tree.graph_module.signature.input_specs) do
    local kind, name, fqn = read_spec(path, spec)
    local input = { kind = kind, name = name, fqn = fqn }
    if kind == "image" then images[#images + 1] = name
    else read_place(program, input, opened, config) end
    program.inputs[i] = input
  end
  program.input = find_input(path, tree, images)
end

-- ---- nodes ----------------------------------------------------------------------------------------------------------

-- "key,path,class;key,path,class": the modules that a node stands in, the outermost first.
local function calls_of(metadata)
  local list = {}
  for entry in (metadata and metadata.nn_module_stack or ""):gmatch "[^;]+" do
    local key, path, class = entry:match "^([^,]*),([^,]*),(.*)$"
    if key and not key:find "^_empty_nn_module_stack" then
      list[#list + 1] = { key = key, path = path, class = class }
    end
  end
  return list
end

local memory_formats = { "contiguous_format", "channels_last", "channels_last_3d", "preserve_format" }

local read_arg

local function names_of(list)
  local names = {}
  for i, item in ipairs(list) do names[i] = item.name end
  return { kind = "tensors", value = names }
end

local readers = {
  as_none = function() return { kind = "none" } end,
  as_tensor = function(v) return { kind = "tensor", value = v.name } end,
  as_tensors = names_of,
  as_int = function(v) return { kind = "int", value = integer(v) } end,
  as_float = function(v)
    if type(v) == "string" then v = ({ Infinity = math.huge, ["-Infinity"] = -math.huge, NaN = 0 / 0 })[v] end
    return { kind = "float", value = v }
  end,
  as_bool = function(v) return { kind = "bool", value = v } end,
  as_string = function(v) return { kind = "string", value = v } end,
  as_ints = function(v)
    local list = {}
    for i, n in ipairs(v) do list[i] = integer(n) end
    return { kind = "ints", value = list }
  end,
  as_floats = function(v) return { kind = "floats", value = v } end,
  as_layout = function() return { kind = "none" } end, -- dense, as all that is read
  as_device = function() return { kind = "none" } end, -- the model's
  as_memory_format = function(v)
    return { kind = "string", value = memory_formats[integer(v)] or "preserve_format" }
  end, as_scalar_type = function(v, program) return { kind = "dtype", value = dtype_of(program.path, v) } end,
  as_optional_tensor = function(v)
    return v.as_tensor and { kind = "tensor", value = v.as_tensor.name } or { kind = "none" }
  end, as_optional_tensors = function(v)
    local list = {}
    for i, item in ipairs(v) do list[i] = item.as_tensor and item.as_tensor.name or false end
    return { kind = "tensors", value = list }
  end,
  as_sym_int = function(v, program)
    if v.as_int then return { kind = "int", value = integer(v.as_int) } end
    local size = program.numbers[v.as_name]
    return { kind = "int", value = size and size < 0 and { times = -size } or size }
  end,
  as_sym_ints = function(v, program)
    local list = {}
    for i, item in ipairs(v) do list[i] = read_arg({ as_sym_int = item }, program).value end
    return { kind = "ints", value = list }
  end,
}

function read_arg(arg, program)
  local key, value = next(arg)
  local read = readers[key]
  return read and read(value, program) or { kind = tostring(key) }
end

local function outs_of(outputs)
  local names, many = {}, false
  for _, out in ipairs(outputs) do
    if out.as_tensor then names[#names + 1] = out.as_tensor.name end
    if out.as_tensors then
      many = true
      for _, item in ipairs(out.as_tensors) do names[#names + 1] = item.name end
    end
  end
  return names, many or #names > 1
end

local function read_nodes(program, graph)
  for i, node in ipairs(graph.nodes) do
    local args = {}
    for k, input in ipairs(node.inputs) do
      local arg = read_arg(input.arg, program)
      arg.name = input.name
      args[k] = arg
    end
    local op, overload = node.target:match "^torch%.ops%.aten%.([%w_]+)%.([%w_]+)$"
    local outs, many = outs_of(node.outputs)
    program.nodes[i] = { target = node.target, op = op, overload = overload ~= "default" and overload or "",
      args = args, outs = outs, many = many, calls = calls_of(node.metadata) }
  end
end

local function read_values(program, graph)
  local path, symbol = program.path, program.input.symbol
  for name, meta in pairs(graph.tensor_values) do
    program.values[name] = { shape = shape_of(path, name, meta, symbol), dtype = dtype_of(path, meta.dtype) }
  end
  for name, number in pairs(graph.sym_int_values) do program.numbers[name] = size_of(path, name, number, symbol) end
end

--- Raises that a network writes to one of its own tensors.
function exported_file.refuse_change(program, fqn)
  fail(program.path, "changes its tensor '%s' while it runs, as networks do in train mode. Export it after "
    .. "net.eval().", fqn)
end

local function read_outputs(program, tree)
  for _, spec in ipairs(tree.graph_module.signature.output_specs) do
    local out = spec.user_output
    local changed = spec.buffer_mutation and spec.buffer_mutation.buffer_name
      or spec.parameter_mutation and spec.parameter_mutation.parameter_name
    if changed then exported_file.refuse_change(program, changed) end
    if out and out.arg.as_tensor then program.outputs[#program.outputs + 1] = out.arg.as_tensor.name end
  end
end

local function describe(program, tree, opened, model)
  local version = tree.schema_version or {}
  if integer(version.major) ~= 8 then
    fail(program.path, "has version %s of the format (expected 8, which torch 2.8 to 2.13 write).",
      tostring(integer(version.major) or "?"))
  end
  program.torch_version = tree.torch_version
  read_inputs(program, tree, opened, model)
  read_values(program, tree.graph_module.graph)
  read_nodes(program, tree.graph_module.graph)
  read_outputs(program, tree)
end

--- Reads a file's description of its network.
---@param path string
---@return medxai.Exported
function exported_file.read(path)
  local opened, why = archive.open(path)
  if not opened then refuse_file(path, why) end
  local closes <close> = opened -- luacheck: ignore (closed, not read)
  local names = opened:names()
  local model = model_name(path, names)
  local order = opened:size "byteorder" and opened:read "byteorder" or "little"
  if order ~= "little" then fail(path, "holds big-endian numbers, which are not read.") end
  local record = "models/" .. model .. ".json"
  local text = read_record(opened, path, record)
  local program = { path = path, name = path:match "([^/]*)$":gsub("%.pt2$", ""), text = without_traces(text),
    model = model, inputs = {}, nodes = {}, values = {}, numbers = {}, outputs = {} }
  local tree = decode(path, record, text)
  check.last = nil
  local ok, problem = pcall(describe, program, tree, opened, model)
  if not ok and problem ~= check.last then -- a field that is not there, or something else than the format says
    if require("medxai.host").interrupted() then error(problem, 0) end
    fail(path, "does not describe a network as torch.export does (%s). Export it again.",
      tostring(problem):gsub("^.-:%d+: ", ""))
  end
  if not ok then error(problem, 0) end
  return program
end

--- The network that a run wrote beside its weights; nil where it has none.
---@param weights string path of its weights.pt
---@return string|nil path
function exported_file.of_run(weights)
  local path = files.join(files.folder(weights) or ".", "network.pt2")
  return files.exists(path) and path or nil
end

--- Writes the network without its weights, as an archive of the same form: what describes it, and its constants.
---@param program medxai.Exported
---@param path string
function exported_file.write_without_weights(program, path)
  local opened <close> = assert(archive.open(program.path))
  local list = { { "archive_format", "pt2" }, { "archive_version", "0" }, { "byteorder", "little" }, { bare, "1" },
    { "models/" .. program.model .. ".json", program.text } }
  for _, name in ipairs(opened:names()) do
    if name:find "^data/constants/" or name:find "^data/weights/.*_config%.json$" then
      list[#list + 1] = { name, read_record(opened, program.path, name) }
    end
  end
  local ok, why = archive.write(path, "network", list)
  if not ok then check.fail("files", "%s.", why) end
end

return exported_file
