-- Option tables: checks what a user writes as options against a spec, and gives the complete options. Two things on the
-- command line replace an option: a field (--epochs 2), where its spec says that it is one, and --smoke, as its spec
-- says. An unknown key is an error that offers the nearest name, never a silent default.
local check = require "medxai.base.check"
local fields = require "medxai.base.fields"
local host = require "medxai.host"
local suggest = require "medxai.base.suggest"

local Options = {}

local told = {} -- fields of which it was said what they replace

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

local function check_one(what, key, rule, value)
  local result, expected = convert(rule, value)
  if result == nil then
    local hint = rule.one_of and type(value) == "string" and suggest.near(value, rule.one_of) or ""
    local kind = rule[1] or ""
    local meaning = rule.doc and (kind == "table" or kind == "function") and ": " .. rule.doc or ""
    check.mistake(what, "option '%s' is wrong (expected %s%s, got %s).%s", key, expected, meaning,
      check.describe(value), hint)
  end
  if type(result) == "number" then
    if not check.is_finite(result) then
      check.mistake(what, "option '%s' is not a finite number (got %s).", key,
        result ~= result and "nan" or tostring(result))
    end
    if rule.min and result < rule.min then
      check.mistake(what, "option '%s' is too small (expected at least %s, got %s).", key, rule.min, result)
    end
    if rule.above and result <= rule.above then
      check.mistake(what, "option '%s' is too small (expected more than %s, got %s).", key, rule.above, result)
    end
    if rule.max and result > rule.max then
      check.mistake(what, "option '%s' is too large (expected at most %s, got %s).", key, rule.max, result)
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

-- The command line's value for an option, or nil.
local function from_command_line(what, key, rule, own)
  local name = field_of(key, rule)
  local text = name and fields.take(name)
  if text == nil then return nil end
  local value = check_one(what .. ": --" .. name, key, rule, fields.parse(rule, text))
  if own == nil then own = rule.default end
  tell_replaced(what, name, key, own, value)
  return value
end

-- What an option is under --smoke, which runs a whole experiment in seconds.
local function under_smoke(rule, value)
  local small = rule.smoke
  if small == nil or not (host.options or {}).smoke then return value end
  if type(small) == "table" then
    if type(value) == "string" then return small.least end
    return value and math.min(value, math.max(small.least, value // small.divide_by))
  end
  return type(value) == "number" and type(small) == "number" and math.min(value, small) or small
end

-- Options of before are refused with what says it now, options that belong elsewhere with where.
local function refuse_renamed(what, options, spec)
  for _, key in ipairs(check.sorted_keys(spec)) do
    local rule = spec[key]
    if rule.instead and options[key] ~= nil then
      check.mistake(what, "there is no option '%s'. %s", key, rule.instead)
    end
    if rule.now and options[key] ~= nil then
      check.mistake(what, "option '%s' is now %s.", key, rule.now:find "^[%w_]+$" and "'" .. rule.now .. "'"
        or rule.now)
    end
    local name = rule.now and field_of(key, rule)
    if name and fields.is_given(name) then
      check.mistake(what, "--%s is now --%s.", name, rule.now)
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
        check.mistake(what, "options have names (expected name = value, got %s without one).",
          check.describe(options[key]))
      end
      check.mistake(what, "unknown option '%s'.%s", key, suggest.hint(key, names_of(spec)))
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
---   smoke = 4        under --smoke at most 4, and 4 where nothing or a word is given; of another type: this value
---   smoke = { divide_by = 50, least = 8 }  under --smoke a fiftieth, but at least 8, and 8 in place of a word
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
function Options.check(what, options, spec)
  if options == nil then options = {} end
  if type(options) ~= "table" then
    check.mistake(what, "takes one table of options (expected %s { name = value }, got %s).", what,
      check.describe(options))
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
      check.mistake(what, "option '%s' is missing (expected %s%s). Add %s = ... to it.", key,
        rule.one_of and suggest.quoted(rule.one_of, "or") or rule[1]:gsub("|", " or "),
        rule.doc and ": " .. rule.doc or "", key)
    end
    if value ~= nil then value = check_one(what, key, rule, value) end
    result[key] = under_smoke(rule, value)
  end
  return result
end

local function check_smoke(what, subject, key, small)
  local function count(v) return math.type(v) == "integer" and v > 0 end
  if type(small) == "table" and not (count(small.divide_by) and count(small.least)) then
    check.fail(what, "%s: option '%s': smoke is wrong (expected { divide_by = 50, least = 2 } or a value).",
      subject, key)
  end
end

--- Raises unless what a researcher's file gave as its options is a spec for Options.check.
function Options.check_spec(what, subject, spec)
  for _, key in ipairs(check.sorted_keys(spec)) do
    local rule = spec[key]
    if type(key) ~= "string" then
      check.fail(what, "%s: options have names (expected name = { \"number\", default = ... }, got [%s]).", subject,
        tostring(key))
    end
    if type(rule) ~= "table" or type(rule[1]) ~= "string" and type(rule.one_of) ~= "table" and not rule.now
        and not rule.instead then
      check.fail(what, "%s: option '%s' is not described (expected %s = { \"number\", default = ... } or { one_of = "
        .. "{ ... } }, got %s).", subject, key, key, check.describe(rule))
    end
    check_smoke(what, subject, key, rule.smoke)
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

return Options
