-- What a map says of itself: numbers that its method leaves in record.facts and declares in its `honesty`, a list of
-- { fact = "change_half", title = "moved since half of its evaluations", percent = true }; of = "score_difference" makes it the share
-- of the size of that other fact, short = "since half" is what figures say. They are printed after the maps, stored with the step and
-- written on figures. A fact may be a text: "not applicable". It refuses to leave out maps without the number: those that have it
-- are counted. A flat map has none: how far noise moved says nothing.
local honesty = {}

-- A fact's numbers, and the text that stands instead; over several layers or views it is a list.
local function numbers_of(rule, record)
  local facts = record.status ~= "flat" and record.facts or {}
  local value, whole, numbers, word = facts[rule.fact], facts[rule.of], {}, nil
  if type(value) ~= "table" then value, whole = { value }, { whole } end
  for i, v in ipairs(value) do
    if type(v) == "string" then word = v
    else numbers[#numbers + 1] = rule.of and math.abs(v) / math.max(math.abs(whole[i]), 1e-12) or v end
  end
  return numbers, word
end

local function shown(rule, value, digits)
  if type(value) ~= "number" then return tostring(value) end
  if value ~= value then return "not a number" end
  local text = string.format("%." .. (digits or 3) .. "g", rule.percent and 100 * value or value)
  return rule.percent and text .. " %" or text
end

--- One map's numbers in few words, for figures: { "gap not applicable", "since half 12 %" }; over several layers or views the largest.
---@param method table
---@param record table
---@return string[]
function honesty.of(method, record)
  local list = {}
  for _, rule in ipairs(method.honesty or {}) do
    local numbers, word = numbers_of(rule, record)
    if word or #numbers > 0 then list[#list + 1] = (rule.short or rule.title) .. " " .. (word or shown(rule, math.max(table.unpack(numbers)), 2)) end
  end
  return list
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
      local own, text = numbers_of(rule, record)
      word = text or word
      table.move(own, 1, #own, #values + 1, values)
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
