-- Files of weights: reads torch's .pt and .pth and .safetensors (told apart by content, not by name), finds the state
-- dict in a checkpoint, matches its names and shapes to a model's; writes .pt and .safetensors, whole or not at all.
-- It never runs what a pickle asks for: objects that hold data alone (argparse.Namespace, numpy's arrays, paths, dates) are
-- skipped and named, everything else that is not a tensor or a plain value is refused by its name.
local check = require "medxai.check"
local host = require "medxai.host"

local store = {}

local function native() return require("medxai.core").store end

---@class medxai.Named a tensor with its name
---@field name string
---@field tensor userdata

---@class medxai.Loaded what a file of weights holds
---@field path string
---@field format "zip"|"legacy"|"safetensors"
---@field tensors medxai.Named[] in the order of the file
---@field meta table the rest: numbers and texts beside the tensors
---@field skipped string[] what stood beside them and is not read: "args (argparse.Namespace)"

---@class medxai.Match how a file's tensors fit a model's
---@field matched integer
---@field missing string[] in the model, not in the file
---@field extra string[] in the file, not in the model
---@field shape_differs { name: string, file: integer[], model: integer[] }[]
---@field renamed string[] what was done to the file's names: "without the prefix 'module.'"

-- ---- reading -------------------------------------------------------------------------------------------------------------

local nested = { "state_dict", "model_state_dict", "model_state", "model", "net", "network", "weights" }

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
  for _, key in ipairs(nested) do
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

-- At most `count` of the names, and how many more there are.
local function some(names, count)
  local list = {}
  for i = 1, math.min(#names, count) do list[i] = tostring(names[i]) end
  return table.concat(list, ", ") .. (#names > count and (" and %d more"):format(#names - count) or "")
end

--- Reads the tensors of a file of weights: a state dict, or a checkpoint that holds one.
---@param path string
---@param what? string the start of error messages (default "weights")
---@return medxai.Loaded
function store.load(path, what)
  what = what or "weights"
  local tree, format, order, skipped = native().read(path, what)
  if #skipped > 0 and not host.options.quiet then
    io.stderr:write(("%s: '%s': not read, since only tensors and plain values are: %s\n"):format(what, path, some(skipped, 12)))
  end
  if format == "safetensors" then
    local meta = tree.__metadata__
    tree.__metadata__ = nil
    return { path = path, format = format, tensors = split(tree, order) or {}, meta = meta, skipped = skipped }
  end
  local tensors, meta = find_state(tree, order, 0)
  if not tensors then
    local keys = order[tree]
    check.fail(what, "'%s' holds no state dict (%s). Save model.state_dict() in Python and give that file.", path,
      keys and #keys > 0 and "its keys: " .. some(keys, 8) or "expected a dict of tensors")
  end
  return { path = path, format = format, tensors = tensors, meta = meta, skipped = skipped }
end

--- Reads what store.save_checkpoint (or torch.save of plain data) wrote, as nested Lua tables.
---@param path string
---@return any
function store.load_checkpoint(path)
  return (native().read(path, "checkpoint"))
end

-- ---- matching ------------------------------------------------------------------------------------------------------------

local prefixes = { "module.", "model.", "_orig_mod.", "backbone.", "net.", "network.", "encoder.", "ema_model." }

local function count_matches(names, wanted)
  local n = 0
  for _, name in ipairs(names) do n = n + (wanted[name] and 1 or 0) end
  return n
end

local function without(names, prefix)
  local list = {}
  for i, name in ipairs(names) do list[i] = name:sub(1, #prefix) == prefix and name:sub(#prefix + 1) or name end
  return list
end

-- Takes off the first prefix, or pair of prefixes, that makes more names match. One is tried before two: it is told.
local function strip_prefixes(names, wanted, renamed)
  local function improved(now, best)
    for _, prefix in ipairs(prefixes) do
      local shorter = without(now, prefix)
      if count_matches(shorter, wanted) > best then return shorter, "'" .. prefix .. "'" end
    end
    for _, prefix in ipairs(prefixes) do
      for _, second in ipairs(prefixes) do
        local both = without(without(now, prefix), second)
        if count_matches(both, wanted) > best then return both, "'" .. prefix .. second .. "'" end
      end
    end
  end
  local better, prefix = improved(names, count_matches(names, wanted))
  if not better then return names end
  renamed[#renamed + 1] = "without the prefix " .. prefix
  return better
end

-- DenseNet's names before torchvision 0.3: "denselayer1.norm.1.weight" is "denselayer1.norm1.weight" now.
local function densenet(names, wanted, renamed)
  local list, changed = {}, 0
  for i, name in ipairs(names) do
    local new = name:gsub("^(.*denselayer%d+%.%l+)%.([12]%.)", "%1%2")
    local take = not wanted[name] and wanted[new]
    list[i] = take and new or name
    if take and new ~= name then changed = changed + 1 end
  end
  if changed > 0 then renamed[#renamed + 1] = "DenseNet's old names" end
  return list
end

local function same_shape(a, b)
  if #a ~= #b then return false end
  for i = 1, #a do
    if a[i] ~= b[i] then return false end
  end
  return true
end

--- How a file's tensors fit a model's, without changing either.
---@param state medxai.Named[] model:state()
---@param tensors medxai.Named[] the file's
---@return table<string, userdata> fitting the file's tensors that fit, by the model's names
---@return medxai.Match report
function store.match(state, tensors)
  local wanted, names = {}, {}
  local report = { matched = 0, missing = {}, extra = {}, shape_differs = {}, renamed = {} }
  for _, entry in ipairs(state) do wanted[entry.name] = entry.tensor end
  for i, entry in ipairs(tensors) do names[i] = entry.name end
  names = densenet(strip_prefixes(names, wanted, report.renamed), wanted, report.renamed)
  local found, fitting = {}, {}
  for i, name in ipairs(names) do
    if wanted[name] and not found[name] then found[name] = tensors[i].tensor
    else report.extra[#report.extra + 1] = name end
  end
  for _, entry in ipairs(state) do
    local got = found[entry.name]
    if not got then
      -- files from before PyTorch 0.4.1 have no such counters, and no result depends on them
      if not entry.name:find "num_batches_tracked$" then report.missing[#report.missing + 1] = entry.name end
    elseif same_shape(got.shape, entry.tensor.shape) then
      fitting[entry.name] = got
      report.matched = report.matched + 1
    else
      report.shape_differs[#report.shape_differs + 1] = { name = entry.name, file = got.shape, model = entry.tensor.shape }
    end
  end
  return fitting, report
end

local function shape_text(shape) return #shape == 0 and "a single number" or table.concat(shape, "x") end

-- The last weight in a state is the output's: its first size is the number of classes.
local function output_weight(state)
  for i = #state, 1, -1 do
    if state[i].name:find "weight$" and not state[i].name:find "AuxLogits" then return state[i].name end
  end
end

-- What a different shape most likely means.
local function reason(difference, output)
  local file, model = difference.file, difference.model
  if #file ~= #model or #file < 2 or file[1] == model[1] then return "" end
  if difference.name == output or difference.name == "AuxLogits.fc.weight" then
    return (": the file was trained with %d classes"):format(file[1])
  end
  if difference.name:find "fc1%.weight$" and file[2] == model[2] then return (": the file has hidden = %d"):format(file[1]) end
  return ""
end

--- The report as lines: what is missing, extra, of another shape.
---@param report medxai.Match
---@param state medxai.Named[]
---@return string[] lines
function store.describe(report, state)
  local lines = {}
  for i, d in ipairs(report.shape_differs) do
    if i > 6 then
      lines[#lines + 1] = ("... and %d more of another shape"):format(#report.shape_differs - 6)
      break
    end
    lines[#lines + 1] = ("%s is %s in the file, %s here%s"):format(d.name, shape_text(d.file), shape_text(d.model), reason(d, output_weight(state)))
  end
  if #report.missing > 0 then lines[#lines + 1] = "missing in the file: " .. some(report.missing, 6) end
  if #report.extra > 0 then lines[#lines + 1] = "only in the file: " .. some(report.extra, 6) end
  return lines
end

---@param report medxai.Match
---@return string "244 matched, 2 missing, 1 extra, 0 of another shape"
function store.counts(report)
  return ("%d matched, %d missing, %d extra, %d of another shape"):format(report.matched, #report.missing, #report.extra, #report.shape_differs)
end

-- Integers or complex numbers in the place of weights are a quantised or another network's: copied they would be wrong ones.
local function check_types(state, fitting, options)
  for _, entry in ipairs(state) do
    local got = fitting[entry.name]
    if got and entry.tensor.dtype:find "float" and not got.dtype:find "float" then
      check.fail(options.what or "weights", "%s holds %s as %s (expected floating numbers). Nothing was loaded.",
        options.from and "'" .. options.from .. "'" or "the state", entry.name, got.dtype)
    end
  end
end

-- NaN in a file's weights is not what a training or a map should be blamed for later.
local function warn_not_finite(state, fitting, options)
  local bad, first = 0, nil
  for _, entry in ipairs(state) do
    local got = fitting[entry.name]
    if got and got.dtype:find "float" and got:numel() > 0 and not got:isfinite():all():item() then bad, first = bad + 1, first or entry.name end
  end
  if bad == 0 then return end
  check.warn(options.what or "weights", "%s holds values that are not finite in %d of its tensors, first in %s: whatever the model answers is not a number.",
    options.from and "'" .. options.from .. "'" or "the state", bad, first)
end

--- Copies a file's tensors into a model's, converted to the model's types and memory layout. Unless everything fits
--- nothing is changed and an error tells what differs.
---@param state medxai.Named[] model:state()
---@param tensors medxai.Named[]
---@param options? { what?: string, from?: string, strict?: boolean, optional?: fun(name: string): boolean }
---  from: the file's name for messages; strict = false loads what fits; optional: names that may differ
---@return medxai.Match
function store.load_into(state, tensors, options)
  options = options or {}
  local fitting, report = store.match(state, tensors)
  local optional = options.optional or function() return false end
  local bad = 0
  for _, name in ipairs(report.missing) do bad = bad + (optional(name) and 0 or 1) end
  for _, name in ipairs(report.extra) do bad = bad + (optional(name) and 0 or 1) end
  for _, d in ipairs(report.shape_differs) do bad = bad + (optional(d.name) and 0 or 1) end
  if bad > 0 and options.strict ~= false or report.matched == 0 and #state > 0 then
    check.fail(options.what or "weights", "%s does not fit the model (%s). Nothing was loaded.\n  %s",
      options.from and "'" .. options.from .. "'" or "the state", store.counts(report), table.concat(store.describe(report, state), "\n  "))
  end
  check_types(state, fitting, options)
  require("medxai.torch").no_grad(function()
    for _, entry in ipairs(state) do
      local got = fitting[entry.name]
      if got then entry.tensor:copy_(got) end
    end
    warn_not_finite(state, fitting, options)
  end)
  return report
end

-- ---- writing -------------------------------------------------------------------------------------------------------------

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
  if kind ~= "table" then check.fail("save", "%s is a %s (expected tensors, numbers, texts, booleans and tables of them)", where, kind) end
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
  float64 = "F64", float32 = "F32", float16 = "F16", bfloat16 = "BF16", int64 = "I64", int32 = "I32", int16 = "I16", int8 = "I8",
  uint8 = "U8", bool = "BOOL", complex64 = "C64",
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
    if not dtype then check.fail("save", "'%s' has type %s, which .safetensors has no name for. Save a .pt.", entry.name, entry.tensor.dtype) end
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
  local files = require "medxai.files"
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
