-- Files of weights: reads torch's .pt and .pth and .safetensors (told apart by content, not by name), finds the state
-- dict, or the several, in a checkpoint; writes .pt and .safetensors, whole or not at all. It never runs what a pickle
-- asks for: objects that hold data alone (argparse.Namespace, numpy's arrays, paths, dates) are skipped and named,
-- everything else that is not a tensor or a plain value is refused by its name.
local check = require "medxai.base.check"
local host = require "medxai.host"
local match = require "medxai.nn.match"
local some = require("medxai.base.suggest").some

local store = {}

local function native() return require("medxai.core").store end

---@class medxai.Named a tensor with its name
---@field name string
---@field tensor userdata

---@class medxai.Loaded what a file of weights holds
---@field path string
---@field format "zip"|"legacy"|"safetensors"
---@field tensors medxai.Named[] in the order of the file
---@field sets { name: string, tensors: medxai.Named[] }[] every dict of named tensors: "state_dict"; "": at the top
---@field meta table the rest: numbers and texts beside the tensors
---@field skipped string[] what stood beside them and is not read: "args (argparse.Namespace)"

-- ---- reading --------------------------------------------------------------------------------------------------------

-- The tensors of a dict in the file's order and what else it holds; nil where it holds no tensor.
local function split(dict, order)
  local tensors, meta = {}, {}
  for _, key in ipairs(order[dict] or {}) do
    local value = dict[key]
    if type(value) == "userdata" and type(key) == "string" then tensors[#tensors + 1] = { name = key, tensor = value }
    else meta[key] = value end
  end
  if #tensors == 0 then return nil end
  return tensors, meta
end

-- A state dict may lie in a checkpoint under one of the usual names, and once more in there.
local function find_state(tree, order, depth)
  if type(tree) ~= "table" then return nil end
  for _, key in ipairs(match.usual) do
    if depth < 3 and type(tree[key]) == "table" then
      local tensors = find_state(tree[key], order, depth + 1)
      if tensors then
        local meta = {}
        for k, v in pairs(tree) do
          if k ~= key then meta[k] = v end
        end
        return tensors, meta
      end
    end
  end
  return split(tree, order)
end

local training_words = { "optim", "sched", "scaler" }

local function belongs_to_training(key)
  for _, word in ipairs(training_words) do
    if key:lower():find(word, 1, true) then return true end
  end
  return false
end

-- Every dict with named tensors in a checkpoint, but for those of optimizers: to sets as { name = "a.b", tensors = }.
local function gather_sets(tree, order, name, depth, sets, seen)
  if type(tree) ~= "table" or seen[tree] or depth > 3 then return end
  seen[tree] = true
  local tensors = split(tree, order)
  if tensors then sets[#sets + 1] = { name = name, tensors = tensors } end
  for _, key in ipairs(order[tree] or {}) do
    if type(key) == "string" and not belongs_to_training(key) then
      gather_sets(tree[key], order, name == "" and key or name .. "." .. key, depth + 1, sets, seen)
    end
  end
end

--- Reads a file of weights whole: every set of named tensors in it. .tensors is nil where none has a usual name.
---@param path string
---@param what? string the start of error messages (default "weights")
---@return medxai.Loaded
function store.read(path, what)
  what = what or "weights"
  local tree, format, order, skipped = native().read(path, what)
  if #skipped > 0 and not host.options.quiet then
    local names = some(skipped, 12)
    io.stderr:write(("%s: '%s': not read, since only tensors and plain values are: %s\n"):format(what, path, names))
  end
  if format == "safetensors" then
    local meta = tree.__metadata__
    tree.__metadata__ = nil
    local tensors = split(tree, order) or {}
    local sets = { { name = "", tensors = tensors } }
    return { path = path, format = format, tensors = tensors, sets = sets, meta = meta, skipped = skipped }
  end
  local sets = {}
  gather_sets(tree, order, "", 0, sets, {})
  local tensors, meta = find_state(tree, order, 0)
  if not tensors and #sets == 1 then tensors, meta = sets[1].tensors, {} end
  if #sets == 0 then
    local keys = order[tree]
    check.fail(what, "'%s' holds no state dict (%s). Save model.state_dict() in Python and give that file.", path,
      keys and #keys > 0 and "its keys: " .. some(keys, 8) or "expected a dict of tensors")
  end
  return { path = path, format = format, tensors = tensors, sets = sets, meta = meta, skipped = skipped }
end

--- Reads the tensors of a file of weights: a state dict, or a checkpoint that holds one.
---@param path string
---@param what? string the start of error messages (default "weights")
---@return medxai.Loaded
function store.load(path, what)
  local loaded = store.read(path, what)
  if not loaded.tensors then
    local names = {}
    for i, set in ipairs(loaded.sets) do names[i] = set.name end
    check.fail(what or "weights", "'%s' holds several sets of tensors (%s). Give one to a model: "
      .. "weights = { file = '%s', set = '%s' }.", path, some(names, 8), path, names[1])
  end
  return loaded
end

--- Reads what store.save_checkpoint (or torch.save of plain data) wrote, as nested Lua tables.
---@param path string
---@return any
function store.load_checkpoint(path)
  return (native().read(path, "checkpoint"))
end

-- ---- writing --------------------------------------------------------------------------------------------------------

local function is_list(t)
  local n = #t
  for k in pairs(t) do
    if math.type(k) ~= "integer" or k < 1 or k > n then return false end
  end
  local meta = getmetatable(t)
  return n > 0 or (meta ~= nil and meta.__name == "medxai.list")
end

-- Plain data as the node that core.store.write_pt takes: { "list", ... } or { "dict", key, value, ... }, keys sorted.
local function node_of(value, where, seen)
  local kind = type(value)
  if kind == "userdata" or kind == "number" or kind == "string" or kind == "boolean" then return value end
  if kind ~= "table" then
    check.fail("save", "%s is a %s (expected tensors, numbers, texts, booleans and tables of them)", where, kind)
  end
  if seen[value] then check.fail("save", "%s holds itself. Save a tree.", where) end
  seen[value] = true
  local node
  if is_list(value) then
    node = { "list" }
    for i, v in ipairs(value) do node[i + 1] = node_of(v, where .. "[" .. i .. "]", seen) end
  else
    node = { "dict" }
    for _, k in ipairs(check.sorted_keys(value)) do
      if type(k) ~= "string" and math.type(k) ~= "integer" then
        check.fail("save", "%s has the key %s (expected texts and integers)", where, tostring(k))
      end
      node[#node + 1] = k
      node[#node + 1] = node_of(value[k], where .. "." .. k, seen)
    end
  end
  seen[value] = nil
  return node
end

-- A list of { name =, tensor = } as an OrderedDict in its order.
local function state_node(list)
  local node, seen = { "odict" }, {}
  for i, entry in ipairs(list) do
    if type(entry) ~= "table" or type(entry.name) ~= "string" or type(entry.tensor) ~= "userdata" then
      check.fail("save", "entry %d is no { name =, tensor = }", i)
    end
    if seen[entry.name] then check.fail("save", "the name '%s' comes twice", entry.name) end
    seen[entry.name] = true
    node[#node + 1] = entry.name
    node[#node + 1] = entry.tensor
  end
  return node
end

local safetensors_types = {
  float64 = "F64", float32 = "F32", float16 = "F16", bfloat16 = "BF16", int64 = "I64", int32 = "I32", int16 = "I16",
  int8 = "I8", uint8 = "U8", bool = "BOOL", complex64 = "C64",
}
local bytes_of = { F64 = 8, F32 = 4, F16 = 2, BF16 = 2, I64 = 8, I32 = 4, I16 = 2, I8 = 1, U8 = 1, BOOL = 1, C64 = 8 }

local function quote(s)
  if not utf8.len(s) then check.fail("save", "a text that is not UTF-8 cannot be written") end
  return '"' .. s:gsub('[%c"\\]', function(c) return ("\\u%04x"):format(c:byte()) end) .. '"'
end

-- The header of a .safetensors file, and the tensors in the order of their bytes: the widest types first, so that each
-- lies at a multiple of its own size.
local function safetensors_header(list, meta)
  local order, lines, tensors, at = {}, {}, {}, 0
  state_node(list)
  for i, entry in ipairs(list) do
    local dtype = safetensors_types[entry.tensor.dtype]
    if not dtype then
      check.fail("save", "'%s' has type %s, which .safetensors has no name for. Save a .pt.", entry.name,
        entry.tensor.dtype)
    end
    order[i] = { i = i, entry = entry, dtype = dtype, width = bytes_of[dtype] }
  end
  table.sort(order, function(a, b) return a.width > b.width or (a.width == b.width and a.i < b.i) end)
  for i, o in ipairs(order) do
    local n = o.width
    for _, size in ipairs(o.entry.tensor.shape) do n = n * size end
    lines[o.i] = ('%s:{"dtype":"%s","shape":[%s],"data_offsets":[%d,%d]}'):format(quote(o.entry.name), o.dtype,
      table.concat(o.entry.tensor.shape, ","), at, at + n)
    tensors[i], at = o.entry.tensor, at + n
  end
  local pairs_of_meta = {}
  for _, k in ipairs(check.sorted_keys(meta or {})) do
    pairs_of_meta[#pairs_of_meta + 1] = quote(tostring(k)) .. ":" .. quote(tostring(meta[k]))
  end
  if #pairs_of_meta > 0 then table.insert(lines, 1, '"__metadata__":{' .. table.concat(pairs_of_meta, ",") .. "}") end
  local header = "{" .. table.concat(lines, ",") .. "}"
  return header .. (" "):rep(-#header % 8), tensors
end

local function make_folder(path)
  local files = require "medxai.base.files"
  local folder = files.folder(path)
  if folder then files.mkdir(folder) end
end

--- Writes named tensors, by the ending of the path: .pt (or .pth) as torch.save does, readable by
--- torch.load(weights_only=True), or .safetensors. The old file stays whole until the new one is.
---@param path string
---@param list medxai.Named[]
---@param options? { meta?: table<string, string> } meta: texts in the head of a .safetensors file
function store.save(path, list, options)
  local ending = path:match "%.(%w+)$"
  local meta = options and options.meta
  if ending == "safetensors" then
    local header, tensors = safetensors_header(list, meta)
    make_folder(path)
    native().write_safetensors(path, "save", header, tensors)
  elseif ending == "pt" or ending == "pth" then
    if meta then check.fail("save", "only .safetensors files have room for meta. Use save_checkpoint.") end
    local node = state_node(list)
    make_folder(path)
    native().write_pt(path, "save", node)
  else
    check.fail("save", "'%s' ends in no known way (expected .pt, .pth or .safetensors)", path)
  end
end

--- Writes nested tables of tensors, numbers, texts and booleans as a .pt file. Floats become 0-d float64 tensors for
--- Python and numbers again here; integers, texts and booleans are what they are.
---@param path string
---@param value table
function store.save_checkpoint(path, value)
  if type(value) ~= "table" then check.fail("save", "expected a table, got %s", type(value)) end
  local node = node_of(value, "the value", {})
  make_folder(path)
  native().write_pt(path, "save", node)
end

--- xai.save: a model's weights, a list of named tensors, or a plain table.
---@param path string ends in .pt or .safetensors
---@param value table
function store.save_any(path, value)
  if type(path) ~= "string" then check.fail("save", "expected a path and a model or table, got %s", type(path)) end
  if type(value) == "table" and type(value.state) == "function" then return store.save(path, value:state()) end
  local first = type(value) == "table" and value[1]
  if type(first) == "table" and first.name and first.tensor then return store.save(path, value) end
  if path:find "%.safetensors$" then check.fail("save", "a .safetensors file holds named tensors only. Save a .pt.") end
  return store.save_checkpoint(path, value)
end

return store
