-- Which of a file's tensors are a model's: names are matched whatever prefix and wrappers stand in them, shapes are
-- compared, of several sets in a file the raw weights are chosen, and what fits is copied.
-- Unless everything fits nothing is copied, and the error says what is missing, what is extra and what has another
-- shape.
local check = require "medxai.base.check"
local some = require("medxai.base.suggest").some

local match = {}

---@class medxai.Match how a file's tensors fit a model's
---@field matched integer
---@field missing string[] in the model, not in the file
---@field extra string[] in the file, not in the model
---@field shape_differs { name: string, file: integer[], model: integer[] }[]
---@field left_out string[] in the file, of what was wrapped around the model: "n_averaged", "criterion.weight"
---@field renamed string[] what was done to the file's names: "without the prefix 'module.'"

-- Names under which a state dict usually lies in a checkpoint.
match.usual = { "state_dict", "model_state_dict", "model_state", "model", "net", "network", "weights" }

-- ---- names ----------------------------------------------------------------------------------------------------------

--- Named tensors as a list: of a map from names to tensors in the order of the names, a list as it is.
---@param source medxai.Named[]|table<string, userdata>
---@return medxai.Named[]
function match.named(source)
  if source[1] ~= nil then return source end
  local list = {}
  for i, name in ipairs(check.sorted_keys(source)) do list[i] = { name = name, tensor = source[name] } end
  return list
end

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
function match.fit(state, tensors)
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
      -- a tied tensor comes under its other name;
      -- files from before PyTorch 0.4.1 have no such counters, and no result depends on them
      if not entry.tied and not entry.name:find "num_batches_tracked$" then
        report.missing[#report.missing + 1] = entry.name
      end
    elseif same_shape(got.shape, entry.tensor.shape) then
      fitting[entry.name] = got
      report.matched = report.matched + 1
    else
      report.shape_differs[#report.shape_differs + 1] = { name = entry.name, file = got.shape,
        model = entry.tensor.shape }
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
  for _, name in ipairs(match.usual) do
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
---@return medxai.Named[] tensors for match.fit
---@return string taken its name
---@return string[] others the names of the sets that were not taken
function match.choose(loaded, state, name, what)
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
  if difference.name:find "fc1%.weight$" and file[2] == model[2] then
    return (": the file has hidden = %d"):format(file[1])
  end
  return ""
end

--- The report as lines: what is missing, extra, of another shape.
---@param report medxai.Match
---@param state medxai.Named[]
---@return string[] lines
function match.describe(report, state)
  local lines = {}
  for i, d in ipairs(report.shape_differs) do
    if i > 6 then
      lines[#lines + 1] = ("... and %d more of another shape"):format(#report.shape_differs - 6)
      break
    end
    lines[#lines + 1] = ("%s is %s in the file, %s here%s"):format(d.name, shape_text(d.file), shape_text(d.model),
      reason(d, output_weight(state)))
  end
  if #report.missing > 0 then lines[#lines + 1] = "missing in the file: " .. some(report.missing, 6) end
  if #report.extra > 0 then lines[#lines + 1] = "only in the file: " .. some(report.extra, 6) end
  if #report.left_out > 0 then lines[#lines + 1] = "left out, not of the network: " .. some(report.left_out, 6) end
  return lines
end

---@param report medxai.Match
---@return string "244 matched, 2 missing, 1 extra, 0 of another shape"
function match.counts(report)
  return ("%d matched, %d missing, %d extra, %d of another shape"):format(report.matched, #report.missing,
    #report.extra, #report.shape_differs)
end

-- Integers or complex numbers in the place of weights are a quantised or another network's: copied they would be wrong
-- ones.
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
    if got and got.dtype:find "float" and got:numel() > 0 and not got:isfinite():all():item() then
      bad, first = bad + 1, first or entry.name
    end
  end
  if bad == 0 then return end
  check.warn(options.what or "weights", "%s holds values that are not finite in %d of its tensors, first in %s: "
    .. "whatever the model answers is not a number.", options.from and "'" .. options.from .. "'" or "the state",
    bad, first)
end

-- Numbers in threes called mean and std, outside the network: it may have normalized its input by them.
local function warn_normalization(report, tensors, options)
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
  check.warn(options.what or "weights", "%s holds %s beside the network: if it normalized its input by them, give them "
    .. "to the data.", options.from and "'" .. options.from .. "'" or "the state", table.concat(words, ", "))
end

--- Copies tensors into those of a state, converted to its types and memory layout.
---@param state medxai.Named[]
---@param fitting table<string, userdata> from match.fit
function match.copy(state, fitting)
  require("medxai.torch").no_grad(function()
    for _, entry in ipairs(state) do
      if fitting[entry.name] then entry.tensor:copy_(fitting[entry.name]) end
    end
  end)
end

--- Copies a file's tensors into a model's, converted to the model's types and memory layout. Unless everything fits
--- nothing is changed and an error tells what differs.
---@param state medxai.Named[] model:state()
---@param tensors medxai.Named[]
---@param options? { what?: string, from?: string, strict?: boolean, optional?: fun(name: string): boolean }
---  from: the file's name for messages; strict = false loads what fits, and warns; optional: names that may differ
---@return medxai.Match
function match.load_into(state, tensors, options)
  options = options or {}
  local fitting, report = match.fit(state, tensors)
  local optional = options.optional or function() return false end
  local bad = 0
  for _, name in ipairs(report.missing) do bad = bad + (optional(name) and 0 or 1) end
  for _, name in ipairs(report.extra) do bad = bad + (optional(name) and 0 or 1) end
  for _, d in ipairs(report.shape_differs) do bad = bad + (optional(d.name) and 0 or 1) end
  if bad > 0 and options.strict ~= false or report.matched == 0 and #state > 0 then
    check.fail(options.what or "weights", "%s does not fit the model (%s). Nothing was loaded.\n  %s",
      options.from and "'" .. options.from .. "'" or "the state", match.counts(report),
      table.concat(match.describe(report, state), "\n  "))
  end
  check_types(state, fitting, options)
  if bad > 0 then
    check.warn(options.what or "weights", "%s fits in part (%s); what does not fit stays as it was drawn.",
      options.from and "'" .. options.from .. "'" or "the state", match.counts(report))
  end
  warn_normalization(report, tensors, options)
  match.copy(state, fitting)
  warn_not_finite(state, fitting, options)
  return report
end

return match
