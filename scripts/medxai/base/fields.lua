-- Fields of the command line: "--epochs 2" gives the option epochs wherever a spec says that it is a field
-- (base/options.lua), and "--lr 0.1,0.01" the values of a search. A field that nothing takes is an error at the end.
local check = require "medxai.base.check"
local host = require "medxai.host"
local suggest = require "medxai.base.suggest"

local fields = {}

local offered = {} -- every name that an option table or a search would take
local taken = {}   -- names that one has taken
local claimed = {} -- names that option tables no longer see

local function given() return host.fields or {} end

--- Whether the command line gives a field that option tables see.
function fields.is_given(name) return given()[name] ~= nil and not claimed[name] end

--- The text of a field for an option table; nil where the command line does not give it.
---@param name string
---@return string|nil
function fields.take(name)
  offered[name] = true
  if not fields.is_given(name) then return nil end
  taken[name] = true
  return given()[name] == true and "true" or given()[name]
end

--- The same for something else than an option table. Option tables no longer see the field.
---@param name string
---@return string|nil
function fields.claim(name)
  offered[name] = true
  local text = given()[name]
  if text == nil then return nil end
  taken[name], claimed[name] = true, true
  return text == true and "true" or text
end

--- A word of the command line as a number, a boolean or itself.
---@param text string
function fields.word(text)
  local n = tonumber(text)
  if n then return n end
  if text == "true" then return true elseif text == "false" then return false end
  return text
end

--- "0.1,0.01" as a list of such words.
---@param text string
---@return any[]
function fields.words(text)
  local list = {}
  for word in text:gmatch "[^,]+" do list[#list + 1] = fields.word(word) end
  return list
end

--- A field's text as the type of its option; the text itself where it cannot be (its check then says so).
---@param rule table an option's rule (Options.check)
---@param text string
function fields.parse(rule, text)
  if rule.one_of then
    local word = fields.word(text)
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
  if kinds:find("table") then return fields.words(text) end
  if kinds:find("any") then return fields.word(text) end
  return text
end

--- Raises if the command line gave a field that nothing has taken so far. The host calls it when the experiment has
--- ended.
function fields.refuse_unused()
  for _, name in ipairs(check.sorted_keys(given())) do
    if not taken[name] then
      local near = suggest.nearest(name, check.sorted_keys(offered))[1]
      local message = "unknown field --" .. name .. "." .. (near and " Did you mean --" .. near .. "?" or "")
      check.last, check.last_mistake = message, message
      error(message, 0)
    end
  end
end

return fields
