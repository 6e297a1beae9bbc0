-- Files of weights: reads torch's .pt and .pth and .safetensors (told apart by content, not by name), finds the state
-- dict, or the several, in a checkpoint, matches names and shapes to a model's; writes .pt and .safetensors, whole or
-- not at all. It never runs what a pickle asks for: objects that hold data alone (argparse.Namespace, numpy's arrays,
-- paths, dates) are skipped and named, everything else that is not a tensor or a plain value is refused by its name.
local check = require "medxai.base.options"
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
---@field sets { name: string, tensors: medxai.Named[] }[] every dict of named tensors: "state_dict"; "": at the top
---@field meta table the rest: numbers and texts beside the tensors
---@field skipped string[] what stood beside them and is not read: "args (argparse.Namespace)"

---@class medxai.Match how a file's tensors fit a model's
---@field matched integer
---@field missing string[] in the model, not in the file
---@field extra string[] in the file, not in the model
---@field shape_differs { name: string, file: integer[], model: integer[] }[]
---@field left_out string[] in the file, of what was wrapped around the model: "n_averaged", "criterion.weight"
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

-- At most `count` of the names, and how many more there are.
local function some(names, count)
  local list = {}
  for i = 1, math.min(#names, count) do list[i] = tostring(names[i]) end
  return table.concat(list, ", ") .. (#names > count and (" and %d more"):format(#names - count) or "")
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

-- ---- matching ------------------------------------------------------------------------------------------------------------

-- The prefix under which most of the names are wanted, and how many are; of equals the shortest.
local function best_prefix(names, wanted)
  local counts, best, most = {}, "", 0
  for _, name in ipairs(names) do
    local at = 0
    while at do
      if wanted[name:sub(at + 1)] then
        local prefix = name:sub(1, at)
        local n = (counts[prefix] or 0) + 1
        counts[prefix] = n
        if n > most or n == most and #prefix < #best then best, most = prefix, n end
      end
      at = name:find(".", at + 1, true)
    end
  end
  return best, most
end

local function is_under(name, prefix) return name:sub(1, #prefix) == prefix end

-- The names under the prefix, without it. Others are the model's where it lacks them; else they are of what was wrapped
-- around it: false.
local function strip_prefix(names, wanted, renamed)
  local prefix = best_prefix(names, wanted)
  if prefix == "" then return names end
  renamed[#renamed + 1] = "without the prefix '" .. prefix .. "'"
  local list, have = {}, {}
  for i, name in ipairs(names) do
    list[i] = is_under(name, prefix) and name:sub(#prefix + 1)
    if list[i] then have[list[i]] = true end
  end
  for i, name in ipairs(names) do
    if not list[i] and wanted[name] and not have[name] then list[i] = name end
  end
  return list
end

-- What DataParallel, torch.compile, FSDP and activation checkpointing put into the names of a part that they wrap.
local wrappers = { "module", "_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module" }

local function without_wrappers(names, wanted, renamed)
  local list, seen = {}, {}
  for i, name in ipairs(names) do
    local new = name and "." .. name
    for _, word in ipairs(new and not wanted[name] and wrappers or {}) do
      new = new:gsub("%f[%w_]" .. word .. "%.", "")
    end
    new = new and new:sub(2)
    list[i] = wanted[new] and new or name
    if name and list[i] ~= name then
      for _, word in ipairs(wrappers) do
        if ("." .. name):find("." .. word .. ".", 1, true) and not seen[word] then
          seen[word] = true
          renamed[#renamed + 1] = "without '" .. word .. ".' inside them"
        end
      end
    end
  end
  return list
end

-- DenseNet's names before torchvision 0.3: "denselayer1.norm.1.weight" is "denselayer1.norm1.weight" now.
local function densenet(names, wanted, renamed)
  local list, changed = {}, 0
  for i, name in ipairs(names) do
    local new = name and name:gsub("^(.*denselayer%d+%.%l+)%.([12]%.)", "%1%2")
    local take = name and not wanted[name] and wanted[new]
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

-- Keys that training scripts and their wrappers add to a model's own: losses with class weights, averaging, counted
-- operations.
local wrapper_keys, wrapper_leaves = {}, { total_ops = true, total_params = true }
for key in ("n_averaged criterion loss loss_fn loss_func loss_function pos_weight class_weight class_weights step "
  .. "initted num_updates decay"):gmatch "%S+" do
  wrapper_keys[key] = true
end

local function is_wrappers(name, own)
  local top = name:match "^[^.]+"
  return wrapper_keys[top] and not own[top] or wrapper_leaves[name:match "[^.]+$"] or false
end

--- How a file's tensors fit a model's, without changing either. A prefix under which the names are the model's is taken
--- off, and what stands outside it is left out; so are the keys of wrappers (n_averaged, criterion.weight).
---@param state medxai.Named[] model:state()
---@param tensors medxai.Named[] the file's
---@return table<string, userdata> fitting the file's tensors that fit, by the model's names
---@return medxai.Match report
function store.match(state, tensors)
  local wanted, names = {}, {}
  local report = { matched = 0, missing = {}, extra = {}, shape_differs = {}, left_out = {}, renamed = {} }
  local own = {} -- the first words of the model's names
  for _, entry in ipairs(state) do wanted[entry.name], own[entry.name:match "^[^.]+"] = entry.tensor, true end
  for i, entry in ipairs(tensors) do names[i] = entry.name end
  for _, change in ipairs { strip_prefix, without_wrappers, densenet } do
    names = change(names, wanted, report.renamed)
  end
  local found, fitting = {}, {}
  for i, name in ipairs(names) do
    if not name then report.left_out[#report.left_out + 1] = tensors[i].name
    elseif wanted[name] and not found[name] then found[name] = tensors[i].tensor
    elseif not wanted[name] and is_wrappers(name, own) then report.left_out[#report.left_out + 1] = name
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

-- ---- which of several sets ------------------------------------------------------------------------------------------

-- Words in the names of averaged copies. The raw weights are taken unless the researcher names others.
local averaged = {}
for word in ("ema swa avg average averaged teacher momentum target shadow"):gmatch "%a+" do averaged[word] = true end

local function is_averaged(set)
  for word in set.name:gmatch "%a+" do
    if averaged[word:lower()] then return true end
  end
  return false
end

local function is_usual(set)
  for _, name in ipairs(nested) do
    if set.path:match "[^.]*$" == name or set.path == "" and set.prefix == "" then return true end
  end
  return false
end

-- The sets of a checkpoint that could be the model's: dicts, and in one dict the prefixes under which its names stand,
-- each with at least half as many of the names as the best has. { path, prefix, count, tensors, of = name -> true }
local function candidates(sets, wanted)
  local list, most = {}, 0
  for _, set in ipairs(sets) do
    local rest = {}
    for i, entry in ipairs(set.tensors) do rest[i] = entry.name end
    local prefix, count = best_prefix(rest, wanted)
    while count > 0 do
      local found, others = { path = set.name, prefix = prefix, count = count, tensors = set.tensors, of = {} }, {}
      for _, name in ipairs(rest) do
        if is_under(name, prefix) and wanted[name:sub(#prefix + 1)] then found.of[name] = true
        else others[#others + 1] = name end
      end
      list[#list + 1], most, rest = found, math.max(most, count), others
      prefix, count = best_prefix(rest, wanted)
    end
  end
  local kept, of_path = {}, {}
  for _, found in ipairs(list) do
    if found.count * 2 >= most then
      kept[#kept + 1] = found
      of_path[found.path] = (of_path[found.path] or 0) + 1
    end
  end
  for _, found in ipairs(kept) do
    local prefix = of_path[found.path] > 1 and found.prefix:gsub("%.$", "") or ""
    found.name = found.path .. (found.path ~= "" and prefix ~= "" and "." or "") .. prefix
    if found.name == "" then found.name = "(top level)" end
  end
  return kept
end

local function filter(list, test)
  local out = {}
  for _, v in ipairs(list) do
    if test(v) then out[#out + 1] = v end
  end
  return out
end

--- The set of weights in a file that is a model's: where there are several the raw ones, not an average of them (EMA,
--- SWA, a teacher), or those that are named. Which one it is must be clear, or it is an error.
---@param loaded medxai.Loaded
---@param state medxai.Named[] model:state()
---@param name? string of the set
---@param what? string the start of error messages (default "weights")
---@return medxai.Named[] tensors for store.match
---@return string taken its name
---@return string[] others the names of the sets that were not taken
function store.choose(loaded, state, name, what)
  what = what or "weights"
  local wanted, names = {}, {}
  for _, entry in ipairs(state) do wanted[entry.name] = true end
  local list = candidates(loaded.sets, wanted)
  if #list == 0 then return loaded.tensors or loaded.sets[1].tensors, "", {} end
  for i, set in ipairs(list) do names[i] = set.name end
  local raw = filter(list, function(set) return not is_averaged(set) end)
  local usual = filter(raw, is_usual)
  local taken = #list == 1 and list[1] or #raw == 1 and raw[1] or #usual == 1 and usual[1] or nil
  if name then
    check.known(what, "set of weights", name, names)
    taken = filter(list, function(set) return set.name == name end)[1]
  elseif not taken then
    check.fail(what, "'%s' holds several sets of weights (%s). Name the one to be taken: "
      .. "weights = { file = '%s', set = '%s' }.", loaded.path, table.concat(names, ", "), loaded.path, names[1])
  end
  local others = filter(list, function(set) return set ~= taken end)
  local tensors = filter(taken.tensors, function(entry)
    for _, other in ipairs(others) do
      if other.tensors == taken.tensors and other.of[entry.name] then return false end
    end
    return true
  end)
  return tensors, taken.name, filter(names, function(other) return other ~= taken.name end)
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
  if #report.left_out > 0 then lines[#lines + 1] = "left out, not of the network: " .. some(report.left_out, 6) end
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

-- Numbers in threes called mean and std, outside the network: it may have normalised its input by them.
local function warn_normalisation(report, tensors, options)
  local left, words = {}, {}
  for _, name in ipairs(report.left_out) do left[name] = true end
  for _, entry in ipairs(tensors) do
    local kind = left[entry.name] and (entry.name:match "mean$" or entry.name:match "std$")
    if kind and entry.tensor:numel() == 3 then
      local list = entry.tensor:reshape({ 3 }):tolist()
      words[#words + 1] = ("%s = { %.6g, %.6g, %.6g }"):format(kind, list[1], list[2], list[3])
    end
  end
  if #words == 0 then return end
  check.warn(options.what or "weights", "%s holds %s beside the network: if it normalised its input by them, give them "
    .. "to the data.", options.from and "'" .. options.from .. "'" or "the state", table.concat(words, ", "))
end

--- Copies a file's tensors into a model's, converted to the model's types and memory layout. Unless everything fits
--- nothing is changed and an error tells what differs.
---@param state medxai.Named[] model:state()
---@param tensors medxai.Named[]
---@param options? { what?: string, from?: string, strict?: boolean, optional?: fun(name: string): boolean }
---  from: the file's name for messages; strict = false loads what fits, and warns; optional: names that may differ
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
  if bad > 0 then
    check.warn(options.what or "weights", "%s fits in part (%s); what does not fit stays as it was drawn.",
      options.from and "'" .. options.from .. "'" or "the state", store.counts(report))
  end
  warn_normalisation(report, tensors, options)
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
