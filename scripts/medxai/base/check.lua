-- Errors and warnings of the library, and the checks that most of it needs. An error reads
-- "what: fact (expected, got). What to do." and carries no position: the host puts the experiment's line in front.
local host = require "medxai.host"
local Progress = require "medxai.base.progress"
local suggest = require "medxai.base.suggest"

local check = {}

local told = {}          -- warnings given so far
check.last = nil         -- text of the last error raised here
check.last_mistake = nil -- text of the last error about an option or a name: it is wrong whatever the data are

--- Raises `what: message` without a position.
---@param what string the thing that complains: "sgd", "dataset", "run"
---@param fmt string a string.format pattern
function check.fail(what, fmt, ...)
  local message = what .. ": " .. string.format(fmt, ...)
  check.last = message
  error(message, 0)
end

--- Raises the same for an option or a name that is wrong whatever the data are (medxai.run.preflight tells it before
--- training).
---@param what string
---@param fmt string
function check.mistake(what, fmt, ...)
  check.last_mistake = what .. ": " .. string.format(fmt, ...)
  check.last = check.last_mistake
  error(check.last_mistake, 0)
end

--- Whether v is a number and neither nan nor infinite.
function check.is_finite(v) return type(v) == "number" and v == v and v ~= math.huge and v ~= -math.huge end

--- What was raised, in words: error() takes anything.
---@param problem any
---@return string
function check.words_of(problem)
  local meta = getmetatable(problem)
  if type(problem) == "string" or type(meta) == "table" and meta.__tostring then return tostring(problem) end
  return string.format("raised %s instead of a text (expected error(\"...\"))",
    problem == nil and "nil" or "a " .. type(problem))
end

--- An error's text with the researcher's own line in front, where it has none yet: a handler for xpcall around their
--- code.
---@param problem any
---@param entered? function the library's function that calls their code: what it raises itself is told without a line
function check.located(problem, entered)
  if type(problem) ~= "string" or problem:find("^[^\n:]+:%d+: ") then return problem end
  for level = 2, 60 do
    local info = debug.getinfo(level, "Slf")
    if not info or info.func == entered then break end
    local path = info.source:match("^@(.*)")
    if path and info.currentline > 0 and path:sub(1, #host.scripts_dir) ~= host.scripts_dir then
      return string.format("%s:%d: %s", path, info.currentline, problem)
    end
  end
  return problem
end

--- Prints a warning to standard error; the host tells all of them again at the end. The same one is told once.
---@param what string
---@param fmt string
function check.warn(what, fmt, ...)
  local text = what .. ": " .. string.format(fmt, ...)
  if told[text] then return end
  told[text] = true
  Progress.clear()
  host.warn(text)
end

--- The keys of a table in one fixed order: integers first, then strings, each ascending.
---@return any[]
function check.sorted_keys(t)
  local keys = {}
  for k in pairs(t) do keys[#keys + 1] = k end
  table.sort(keys, function(a, b)
    local ta, tb = math.type(a) or type(a), math.type(b) or type(b)
    if ta ~= tb then return ta < tb end
    if ta == "integer" or ta == "float" or ta == "string" then return a < b end
    return tostring(a) < tostring(b)
  end)
  return keys
end

--- Raises unless `got` is one of `names`: "what: unknown layer 'x'. Did you mean 'y'?"
---@param what string
---@param kind string "layer", "method", "class"
---@param got any
---@param names string[]
function check.known(what, kind, got, names)
  for _, name in ipairs(names) do
    if name == got then return got end
  end
  check.mistake(what, "unknown %s '%s'.%s", kind, tostring(got), suggest.hint(tostring(got), names, 3))
end

--- A value as an error tells it: "string 'a'", "number 3", "table".
function check.describe(value)
  if type(value) == "string" then return "string '" .. value .. "'" end
  if math.type(value) then return "number " .. tostring(value) end
  if type(value) == "boolean" then return "boolean " .. tostring(value) end
  return type(value)
end

--- Raises unless the fields that a researcher's file gave are of these types: { title = "string", check = "function" }.
---@param what string
---@param subject string "method 'mine'"
---@param t table
---@param kinds table<string, string>
function check.kinds(what, subject, t, kinds)
  for _, key in ipairs(check.sorted_keys(kinds)) do
    if t[key] ~= nil and type(t[key]) ~= kinds[key] then
      check.fail(what, "%s: %s is a %s (expected a %s).", subject, key, type(t[key]), kinds[key])
    end
  end
end

return check
