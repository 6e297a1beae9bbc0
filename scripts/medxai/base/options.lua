-- Checks what a user writes: option tables, names, command-line fields; raises errors in the house form
-- "what: fact (expected, got). What to do." without a position (the host puts the experiment's line in front).
-- A field given on the command line (--epochs 2) replaces an option whose spec says that it is a field, and that is
-- told. It refuses to guess: an unknown key is an error that offers the nearest name, never a silent default.
local host = require "medxai.host"
local Progress = require "medxai.base.progress"
local suggest = require "medxai.base.suggest"

local check = {}

local consumed = {} -- command-line fields that something has taken
local claimed = {}  -- those of them that option tables do not see any more
local known = {}    -- every field name that some spec has offered, for suggestions
local told = {}     -- warnings given so far
check.last = nil    -- text of the last error raised here
check.mistake = nil -- text of the last error about an option or a name, which a check before training can rely on

--- Raises `what: message` without a position.
---@param what string the thing that complains: "sgd", "dataset", "run"
---@param fmt string a string.format pattern
function check.fail(what, fmt, ...)
  local message = what .. ": " .. string.format(fmt, ...)
  check.last = message
  error(message, 0)
end

-- The same for an option or a name that is wrong whatever the data are.
local function mistake(what, fmt, ...)
  check.mistake = what .. ": " .. string.format(fmt, ...)
  check.last = check.mistake
  error(check.mistake, 0)
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
  mistake(what, "unknown %s '%s'.%s", kind, tostring(got), suggest.hint(tostring(got), names, 3))
end

local function describe(value)
  if type(value) == "string" then return "string '" .. value .. "'" end
  if math.type(value) then return "number " .. tostring(value) end
  if type(value) == "boolean" then return "boolean " .. tostring(value) end
  return type(value)
end

local accepts = {
  any = function() return true end,
  number = function(v) return type(v) == "number" end,
  integer = function(v) return math.type(v) == "integer" or (math.type(v) == "float" and math.tointeger(v) ~= nil) end,
  string = function(v) return type(v) == "string" end,
  boolean = function(v) return type(v) == "boolean" end,
  table = function(v) return type(v) == "table" end,
  ["function"] = function(v)
    local meta = type(v) ~= "function" and getmetatable(v)
    return type(v) == "function" or (type(meta) == "table" and meta.__call ~= nil)
  end,
  tensor = function(v) return type(v) == "userdata" end,
}

-- The value as the option stores it, or nil and what was expected.
local function convert(rule, value)
  if rule.one_of then
    for _, allowed in ipairs(rule.one_of) do
      if allowed == value then return allowed end -- 2 for 2.0
    end
    if not rule[1] then return nil, suggest.quoted(rule.one_of, "or") end
  end
  for kind in rule[1]:gmatch("[%w_]+") do
    local test = accepts[kind] or error("check: a spec names the type '" .. kind .. "'")
    if test(value) then
      if kind == "integer" then return math.tointeger(value) end
      return value
    end
  end
  local words = {}
  if rule.one_of then words[1] = suggest.quoted(rule.one_of, "or") end
  words[#words + 1] = rule[1]:gsub("|", " or ")
  return nil, table.concat(words, " or ")
end

-- A command-line string read as the rule's type; nil where it cannot be.
local function parse_word(text)
  local n = tonumber(text)
  if n then return n end
  if text == "true" then return true elseif text == "false" then return false end
  return text
end

local function parse_field(rule, text)
  if rule.one_of then
    local word = parse_word(text)
    for _, allowed in ipairs(rule.one_of) do
      if allowed == text or allowed == word then return allowed end
    end
    if not rule[1] then return text end
  end
  local kinds = rule[1]
  if kinds:find("boolean") and (text == "true" or text == "yes") then return true end
  if kinds:find("boolean") and (text == "false" or text == "no") then return false end
  if (kinds:find("number") or kinds:find("integer")) and tonumber(text) then return tonumber(text) end
  if kinds:find("string") then return text end
  if kinds:find("table") then
    local list = {}
    for word in text:gmatch("[^,]+") do list[#list + 1] = parse_word(word) end
    return list
  end
  if kinds:find("any") then return parse_word(text) end
  return text
end

local function check_one(what, key, rule, value)
  local result, expected = convert(rule, value)
  if result == nil then
    local hint = rule.one_of and type(value) == "string" and suggest.near(value, rule.one_of) or ""
    local kind = rule[1] or ""
    local meaning = rule.doc and (kind == "table" or kind == "function") and ": " .. rule.doc or ""
    mistake(what, "option '%s' is wrong (expected %s%s, got %s).%s", key, expected, meaning, describe(value), hint)
  end
  if type(result) == "number" then
    if not check.is_finite(result) then
      mistake(what, "option '%s' is not a finite number (got %s).", key, result ~= result and "nan" or tostring(result))
    end
    if rule.min and result < rule.min then
      mistake(what, "option '%s' is too small (expected at least %s, got %s).", key, rule.min, result)
    end
    if rule.above and result <= rule.above then
      mistake(what, "option '%s' is too small (expected more than %s, got %s).", key, rule.above, result)
    end
    if rule.max and result > rule.max then
      mistake(what, "option '%s' is too large (expected at most %s, got %s).", key, rule.max, result)
    end
  end
  return result
end

-- Says once which option a field of the command line replaced.
local function tell_replaced(what, name, key, old, new)
  if old == new or (host.options or {}).quiet then return end
  local shown = type(new) == "table" and table.concat(new, ", ") or tostring(new)
  local text = string.format("--%s: %s = %s in %s%s", name, key, shown, what,
    old ~= nil and type(old) ~= "table" and string.format(" (instead of %s)", tostring(old)) or "")
  if told[text] then return end
  told[text] = true
  io.stderr:write(text, "\n")
end

-- The name under which the command line may give an option, or nil.
local function field_of(key, rule) return rule.field and (rule.field == true and key or rule.field) or nil end

-- Notes which fields this spec offers; returns the command line's value for key, or nil.
local function from_command_line(what, key, rule, own)
  local name = field_of(key, rule)
  if not name then return nil end
  known[name] = true
  local text = (host.fields or {})[name]
  if text == nil or claimed[name] then return nil end
  consumed[name] = true
  if text == true then text = "true" end
  local value = check_one(what .. ": --" .. name, key, rule, parse_field(rule, text))
  if own == nil then own = rule.default end
  tell_replaced(what, name, key, own, value)
  return value
end

-- Options of before are refused with what says it now, options that belong elsewhere with where.
local function refuse_renamed(what, options, spec)
  for _, key in ipairs(check.sorted_keys(spec)) do
    local rule = spec[key]
    if rule.instead and options[key] ~= nil then mistake(what, "there is no option '%s'. %s", key, rule.instead) end
    if rule.now and options[key] ~= nil then
      mistake(what, "option '%s' is now %s.", key, rule.now:find "^[%w_]+$" and "'" .. rule.now .. "'" or rule.now)
    end
    local name = rule.now and field_of(key, rule)
    if name and (host.fields or {})[name] ~= nil and not claimed[name] then
      mistake(what, "--%s is now --%s.", name, rule.now)
    end
  end
end

-- The names of a spec's options, sorted, without those of before.
local function names_of(spec)
  local names = {}
  for _, name in ipairs(check.sorted_keys(spec)) do
    if not (spec[name].now or spec[name].instead) then names[#names + 1] = tostring(name) end
  end
  return names
end

local function refuse_unknown(what, options, spec)
  for _, key in ipairs(check.sorted_keys(options)) do
    if spec[key] == nil then
      if type(key) ~= "string" then
        mistake(what, "options have names (expected name = value, got %s without one).", describe(options[key]))
      end
      mistake(what, "unknown option '%s'.%s", key, suggest.hint(key, names_of(spec)))
    end
  end
end

--- Checks a table of options against a spec and returns a new table with defaults filled in. A spec is the one source
--- of what is said of an option: `medxai-run help`, docs/reference and the editor's types come from it
--- (medxai.reference).
---   spec = { lr = { "number", default = 0.1, min = 0, max = 1, required = true, doc = "learning rate" },
---            head = { one_of = { "a", "b" }, doc = "..." } }
--- Types: number integer string boolean table function tensor any, or several: "number|string".
---   above = 0        a bound that is itself excluded
---   field = true     the command line may replace it (--lr 0.1); field = "data": by that name
---   doc, unit        one line of meaning; "px", "MB", "images" ...
---   of = "number"    of a table: what its list holds; fields = spec: the options in it
---   lua              the editor's type, where these do not say it
---   values = { a = "..." }   the meaning of one_of's values
---   now = "removal"  an option of before: an error says what it is called now
---   instead = "Write ..."  what people look for here and does not exist: an error says what to write
---@param what string named in errors
---@param options table|nil
---@param spec table<string, table>
---@return table
function check.options(what, options, spec)
  if options == nil then options = {} end
  if type(options) ~= "table" then
    mistake(what, "takes one table of options (expected %s { name = value }, got %s).", what, describe(options))
  end
  refuse_renamed(what, options, spec)
  refuse_unknown(what, options, spec)
  local result = {}
  for _, key in ipairs(names_of(spec)) do
    local rule = spec[key]
    local value = from_command_line(what, key, rule, options[key])
    if value == nil then value = options[key] end
    if value == nil then value = rule.default end
    if value == nil and rule.required then
      mistake(what, "option '%s' is missing (expected %s%s). Add %s = ... to it.", key,
        rule.one_of and suggest.quoted(rule.one_of, "or") or rule[1]:gsub("|", " or "),
        rule.doc and ": " .. rule.doc or "", key)
    end
    if value ~= nil then result[key] = check_one(what, key, rule, value) end
  end
  return result
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

--- Raises unless what a researcher's file gave as its options is a spec for check.options.
function check.spec(what, subject, spec)
  for _, key in ipairs(check.sorted_keys(spec)) do
    local rule = spec[key]
    if type(key) ~= "string" then
      check.fail(what, "%s: options have names (expected name = { \"number\", default = ... }, got [%s]).", subject,
        tostring(key))
    end
    if type(rule) ~= "table" or type(rule[1]) ~= "string" and type(rule.one_of) ~= "table" and not rule.now
        and not rule.instead then
      check.fail(what, "%s: option '%s' is not described (expected %s = { \"number\", default = ... } or { one_of = "
        .. "{ ... } }, got %s).", subject, key, key, describe(rule))
    end
    check.kinds(what, subject .. ": option '" .. key .. "'", rule,
      { doc = "string", unit = "string", now = "string", instead = "string" })
    for kind in (rule[1] or ""):gmatch("[%w_]+") do
      if not accepts[kind] then
        check.fail(what, "%s: option '%s' has the unknown type '%s' (expected %s).", subject, key, kind,
          (table.concat(check.sorted_keys(accepts), ", "):gsub(", (%w+)$", " or %1")))
      end
    end
  end
end

--- Takes a command-line field for something else than an option table, which from now on do not see it (a search's list
--- of values); nil where it was not given.
---@param name string
---@return string|nil
function check.field(name)
  known[name] = true
  local text = (host.fields or {})[name]
  if text ~= nil then consumed[name], claimed[name] = true, true end
  return text
end

--- Raises if the command line gave a field that no option table has taken so far.
function check.unused_fields()
  for _, name in ipairs(check.sorted_keys(host.fields or {})) do
    if not consumed[name] then
      local near = suggest.nearest(name, check.sorted_keys(known))[1]
      local message = "unknown field --" .. name .. "." .. (near and " Did you mean --" .. near .. "?" or "")
      check.last, check.mistake = message, message
      error(message, 0)
    end
  end
end

--- True under --smoke.
---@return boolean
function check.smoke()
  return (host.options or {}).smoke and true or false
end

--- A sample count: as it is, or under --smoke a fiftieth of it, at least `least` (default 2).
---@param n integer
---@param least? integer
---@return integer
function check.smoke_count(n, least)
  if not check.smoke() then return n end
  return math.min(n, math.max(least or 2, n // 50))
end

return check
