-- Finds a method or metric by name: the library's own file, a researcher's file beside the experiment, or a function in
-- the option table. The library's comes first. Unknown names (with suggestions) and files that do not return what they
-- should are errors.
local check = require "medxai.base.check"
local suggest = require "medxai.base.suggest"
local code = require "medxai.base.fingerprint"
local host = require "medxai.host"

local plugin = {}

local function library_folder(kind) return host.scripts_dir .. "/medxai/" .. kind end

--- Names of the library's own files of a kind ("explain", "score"), sorted.
function plugin.names(kind)
  local names = {}
  for _, file_name in ipairs(require("medxai.file").list(library_folder(kind)) or {}) do
    names[#names + 1] = file_name:match("^([%w_]+)%.lua$")
  end
  return names
end

local function beside_experiment(name)
  local path = (host.script_dir or ".") .. "/" .. name .. ".lua"
  local text = require("medxai.file").read(path)
  return text and path, text
end

-- Runs a researcher's file in the experiment's globals.
local function load_own(what, path, text)
  local chunk, problem = load(text, "@" .. path, "t")
  if not chunk then check.fail(what, "%s.", problem) end
  local ok, value = pcall(chunk)
  if host.interrupted() then error("interrupted", 0) end
  if not ok then check.fail(what, "'%s' could not be run (%s).", path, tostring(value)) end
  return value
end

--- What a researcher's file beside the experiment returns; raises where there is none of that name.
---@param what string who asks, for errors
---@param word string for errors: "reader"
---@param name string
---@param names string[] those of the library
---@return any value
---@return string source the text that makes it what it is: its file, and those beside it that it requires
function plugin.beside(what, word, name, names)
  if not tostring(name):find("^[%w_][%w_%-%.]*$") then
    check.fail(what, "a %s has a plain name (got '%s').", word, name)
  end
  local path, text = beside_experiment(name)
  if not path then
    local hint = suggest.hint(name, names, 3)
    check.fail(what, "unknown %s '%s'.%s%s", word, name, hint,
      hint:find("Did you") and "" or string.format(" Or write it as '%s.lua' beside the experiment.", name))
  end
  return load_own(what, path, text), code.of_file(text)
end

--- What stands behind a name.
---@param what string who asks, for errors: "explain"
---@param kind string "explain" | "score"
---@param word string for errors: "method", "metric"
---@param name string
---@return function|table value
---@return string|nil source nil for the library's own, else the text that makes it what it is: its file, and those
---   beside it that it requires
function plugin.find(what, kind, word, name)
  local names = plugin.names(kind)
  for _, known in ipairs(names) do
    if known == name then return require("medxai." .. kind:gsub("/", ".") .. "." .. name), nil end
  end
  return plugin.beside(what, word, name, names)
end

return plugin
