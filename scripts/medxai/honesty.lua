-- What a sampled map says of itself: numbers that its method leaves in record.facts and declares in its `honesty`, a list of
-- { fact = "change_half", title = "moved since half of its evaluations", percent = true }. They are printed after the maps, stored
-- with the step and written on the method's figures. A fact may be a text: "not applicable".
-- It refuses to leave out maps without the number: they are counted.
local honesty = {}

local function shown(rule, value)
  if type(value) ~= "number" then return tostring(value) end
  if value ~= value then return "not a number" end
  return rule.percent and string.format("%.3g %%", 100 * value) or string.format("%.3g", value)
end

--- One map's numbers as short texts: "moved since half of its evaluations: 12 %".
---@param method table
---@param facts table|nil
---@return string[]
function honesty.of(method, facts)
  local list = {}
  for _, rule in ipairs(facts and method.honesty or {}) do
    if facts[rule.fact] ~= nil then list[#list + 1] = rule.title .. ": " .. shown(rule, facts[rule.fact]) end
  end
  return list
end

-- Numbers of a fact over layers and views are a list.
local function numbers_of(value, into)
  if type(value) == "number" then into[#into + 1] = value end
  for _, one in ipairs(type(value) == "table" and value or {}) do numbers_of(one, into) end
end

--- One line a rule over all maps of an entry: median and range.
---@param method table
---@param records table[]
---@return string[]
function honesty.lines(method, records)
  local lines = {}
  for _, rule in ipairs(method.honesty or {}) do
    local values, word = {}, nil
    for _, record in ipairs(records) do
      local value = record.facts and record.facts[rule.fact]
      if type(value) == "string" then word = value end
      numbers_of(value, values)
    end
    table.sort(values, function(a, b) return a < b or (b ~= b and a == a) end) -- NaN last
    local n = #values
    if n == 1 then
      lines[#lines + 1] = string.format("%s: %s", rule.title, shown(rule, values[1]))
    elseif n > 1 then
      local middle = n % 2 == 1 and values[n // 2 + 1] or (values[n // 2] + values[n // 2 + 1]) / 2
      lines[#lines + 1] = string.format("%s: median %s (%s to %s) over %d maps", rule.title, shown(rule, middle), shown(rule, values[1]), shown(rule, values[n]), n)
    elseif word then
      lines[#lines + 1] = string.format("%s: %s", rule.title, word)
    end
  end
  return lines
end

return honesty
