-- What identifies a researcher's code: a file's text or a function's compiled form, and what it leans on: the values
-- that a function holds on to (other functions with theirs, tables, tensors, a model's weights), and the modules beside
-- the experiment that it requires. Code without any of these is its own text alone. It refuses to look into the
-- library: its modules count by name, its objects by what they say of themselves, so that a clock or a cache in one of
-- them makes no result look old.
local canon = require "medxai.base.json"
local check = require "medxai.base.check"
local files = require "medxai.base.files"
local host = require "medxai.host"

local code = {}

-- ---- modules beside the experiment ----------------------------------------------------------------------------------

local function below(path, folder) return path:sub(1, #folder + 1) == folder .. "/" end

-- The text of a module that lies in the experiment's folder; nil for all others.
local function own_module(name)
  local path = package.searchpath(name, package.path)
  return path and below(path, host.script_dir or ".") and not below(path, host.scripts_dir) and files.read(path) or nil
end

-- Adds to found[name] = text the module, and those that it requires in turn.
local function add_module(name, found)
  if found[name] then return end
  found[name] = own_module(name)
  if found[name] then code.requires(found[name], found) end
end

-- The same for the modules that a text names: also those that it will only load when it runs.
function code.requires(text, found)
  for name in text:gmatch "require%s*%(?%s*[\"']([%w_%.%-]+)[\"']" do add_module(name, found) end
end

local function with_modules(text, found)
  local parts = { text }
  for _, name in ipairs(check.sorted_keys(found)) do parts[#parts + 1] = "module " .. name .. "\0" .. found[name] end
  return table.concat(parts, "\0")
end

--- The text that identifies a file of own code: its own, and those of the modules beside the experiment that it
--- requires.
---@param text string
---@return string
function code.of_file(text)
  local found = {}
  code.requires(text, found)
  return with_modules(text, found)
end

-- ---- values ---------------------------------------------------------------------------------------------------------

local function in_library(f) return below(debug.getinfo(f, "S").source, "@" .. host.scripts_dir) end

-- Whether a metatable is that of a library's object: its methods are the library's.
local function is_library(meta)
  local methods = rawget(meta, "__index")
  for _, list in ipairs { meta, type(methods) == "table" and methods or nil } do
    for _, f in next, list do
      if type(f) == "function" and in_library(f) then return true end
    end
  end
  return false
end

--- A tensor as text: dtype, shape and the hash of its values.
function code.of_tensor(tensor)
  local scope <close> = require("medxai.core").memory.scope()
  return files.sha256(tensor.dtype .. table.concat(tensor.shape, "x")
    .. tensor:detach():cpu():contiguous():data_string())
end

-- The name of a function in C, whose code cannot be told: "math.floor".
local function name_in_c(f)
  for _, name in ipairs(check.sorted_keys(package.loaded)) do
    local module = package.loaded[name]
    for key, value in next, type(module) == "table" and module or {} do
      if value == f then return name .. "." .. tostring(key) end
    end
  end
  return "unknown"
end

-- Loaded modules by what they are; the first name of those that have several.
local function modules_by_value()
  local names = {}
  for _, name in ipairs(check.sorted_keys(package.loaded)) do
    local value = package.loaded[name]
    if (type(value) == "table" or type(value) == "function") and not names[value] then names[value] = name end
  end
  return names
end

local write -- (state, value): appends the value's text to state

local function put(state, ...) table.move({ ... }, 1, select("#", ...), #state + 1, state) end

-- What an object of the library says of itself; a model by its weights too, until it is closed.
local function write_object(state, object)
  for _, key in ipairs { "name", "kind", "id", "text", "n", "seed", "dtype", "options", "config", "data" } do
    put(state, key)
    write(state, rawget(object, key))
  end
  local hash = debug.getmetatable(object).sha256
  if hash and not rawget(object, "_closed") then put(state, hash(object)) end
end

local function write_table(state, t)
  local meta, keys = debug.getmetatable(t), {}
  if meta and is_library(meta) then return write_object(state, t) end
  for key in next, t do
    local kind = type(key)
    -- these have no order
    if kind == "string" or kind == "number" or kind == "boolean" then
      keys[key] = true
    else
      put(state, "key " .. kind)
    end
  end
  for _, key in ipairs(check.sorted_keys(keys)) do
    write(state, key)
    write(state, rawget(t, key))
  end
  if meta and meta.__name ~= "medxai.list" then write(state, meta) end
end

-- The lines in which a function stands may require modules when it runs.
local function requires_of(state, info)
  local text = info.source:sub(1, 1) == "@" and files.read(info.source:sub(2))
  local number = 0
  for line in (text or ""):gmatch "([^\n]*)\n?" do
    number = number + 1
    if number >= info.linedefined and number <= info.lastlinedefined then code.requires(line, state.modules) end
  end
end

local function write_function(state, f)
  local info = debug.getinfo(f, "S")
  if info.what == "C" then return put(state, name_in_c(f)) end
  put(state, string.dump(f, true))
  if in_library(f) then return end
  requires_of(state, info)
  for i = 1, math.huge do
    local name, value = debug.getupvalue(f, i)
    if not name then break end
    if name ~= "_ENV" then write(state, value) end
  end
end

local function write_userdata(state, value)
  local tensor, text = pcall(code.of_tensor, value)
  local meta = debug.getmetatable(value)
  put(state, tensor and text or tostring(meta and meta.__name))
end

local plain = { string = function(v) return #v .. v end, number = canon.number, boolean = tostring, ["nil"] = tostring }

function write(state, value)
  local kind = type(value)
  if plain[kind] then return put(state, kind, plain[kind](value)) end
  local module = state.names[value]
  if module then
    add_module(module, state.modules)
    return put(state, "module", module)
  end
  if state.seen[value] then return put(state, "seen", tostring(state.seen[value])) end
  state.count = state.count + 1
  state.seen[value] = state.count
  put(state, kind)
  if kind == "table" then write_table(state, value)
  elseif kind == "function" then write_function(state, value)
  elseif kind == "userdata" then write_userdata(state, value) end
  put(state, "end")
end

--- The text that identifies a function: its compiled form without names, and what it leans on.
---@param f function
---@return string
function code.of_function(f)
  local state = { names = modules_by_value(), modules = {}, seen = {}, count = 0 }
  write_function(state, f)
  return with_modules(table.concat(state, "\0"), state.modules)
end

-- ---- options --------------------------------------------------------------------------------------------------------

--- Options as canonical data: a function is its code's hash, a tensor its values', { "slic", n_segments = 10 } a map
--- whose positions are names as well.
---@param options table
---@return table
function code.plain(options)
  local out, named, n = {}, false, #options
  for key in pairs(options) do named = named or math.type(key) ~= "integer" or key < 1 or key > n end
  for _, key in ipairs(check.sorted_keys(options)) do
    local v = options[key]
    if type(v) == "function" then v = files.sha256(code.of_function(v))
    elseif type(v) == "userdata" then v = code.of_tensor(v)
    elseif type(v) == "table" then v = code.plain(v) end
    out[named and tostring(key) or key] = v
  end
  return out
end

local longest = 48 -- bytes of a setting's text that a label and an id can hold

-- "1,2,otsu": a list of numbers and words that cannot be mistaken for another; nil for anything else.
local function simple_list(t)
  local words, n = {}, 0
  for _ in pairs(t) do n = n + 1 end
  for i, item in ipairs(t) do
    if type(item) == "table" or type(item) == "userdata" or type(item) == "function"
        or tostring(item):find(",", 1, true) then return nil end
    words[i] = tostring(item)
  end
  return n == #words and table.concat(words, ",") or nil
end

--- A setting as ids and labels hold it: the same text for the same value in every process, and another one for another
--- value. What is long or has spaces ends in the beginning of its hash.
---@param v any
---@return string
function code.setting(v)
  local meta, kind = debug.getmetatable(v), type(v)
  if kind ~= "table" and kind ~= "function" and kind ~= "userdata"
      or kind == "table" and meta and meta.__tostring then return tostring(v) end
  local text = kind == "table" and simple_list(v)
  if text then return text end
  if kind ~= "table" then return kind .. "#" .. code.plain({ v })[1]:sub(1, 8) end
  text = canon.write(code.plain(v))
  if #text <= longest and not text:find "%s" then return text end
  -- an id's words are parted by spaces
  local shown = text:gsub("%s", "_"):sub(1, longest - 12):gsub("[\xC0-\xFF][\x80-\xBF]*$", "")
  return shown .. (#text > longest and "..." or "") .. "#" .. files.sha256(text):sub(1, 8)
end

return code
