-- Per-map reliability diagnostics: numbers that its method leaves in record.facts and declares in its `honesty`, a list
-- of
-- { fact = "change_half", title = "moved since half of its evaluations", percent = true }; of = "score_difference"
-- makes it the share of the size of that other fact, short = "since half" is what figures say. They are printed after
-- the maps, stored with the step and written on figures. A fact may be a text: "not applicable". It refuses to leave
-- out maps without the number: those that have it are counted. A flat or saturated map has none: how far noise moved
-- says nothing.
local honesty = {}

local empty = { flat = true, saturated = true }

-- A fact's numbers, and the text that stands instead; over several layers or views it is a list.
local function numbers_of(rule, record)
  local facts = not empty[record.status] and record.facts or {}
  local value, whole, numbers, word = facts[rule.fact], facts[rule.of], {}, nil
  if type(value) ~= "table" then value, whole = { value }, { whole } end
  for i, v in ipairs(value) do
    if type(v) == "string" then word = v
    elseif not rule.of then numbers[#numbers + 1] = v
    elseif type(whole) == "table" and whole[i] == 0 then word = "undefined: the score is the baseline's"
    elseif type(whole) == "table" and type(whole[i]) == "number" then
      numbers[#numbers + 1] = math.abs(v) / math.abs(whole[i])
    end
  end
  return numbers, word
end

-- The largest; NaN where one is.
local function worst(numbers)
  local top = numbers[1]
  for _, v in ipairs(numbers) do
    if v ~= v then return v end
    top = math.max(top, v)
  end
  return top
end

local function shown(rule, value, digits)
  if type(value) ~= "number" then return tostring(value) end
  if value ~= value then return "not a number" end
  if rule.percent then value = 100 * value end
  local text = string.format("%." .. (digits or 3) .. "g", value)
  -- 100, not 1e+02
  if text:find("e+", 1, true) then text = string.format(math.abs(value) < 1e6 and "%.0f" or "%.1e", value) end
  return rule.percent and text .. " %" or text
end

--- One map's numbers in few words, for figures: { "gap not applicable", "since half 12 %" }; over several layers or
--- views the largest.
---@param method table
---@param record table
---@return string[]
function honesty.of(method, record)
  local list = {}
  for _, rule in ipairs(method.honesty or {}) do
    local numbers, word = numbers_of(rule, record)
    if word or #numbers > 0 then
      list[#list + 1] = (rule.short or rule.title) .. " " .. (word or shown(rule, worst(numbers), 2))
    end
  end
  return list
end

-- " over 10 maps", with the numbers where views or layers make them more, and how many maps have a word or nothing
-- instead.
local function counted(values, maps, all, words, word)
  local text = #values == maps and string.format("%d map%s", maps, maps == 1 and "" or "s")
    or string.format("%d values of %d map%s", #values, maps, maps == 1 and "" or "s")
  if words > 0 then text = text .. string.format("; %d %s", words, word) end
  if maps + words < all then text = text .. string.format("; %d without", all - maps - words) end
  return " over " .. text
end

--- One line a rule over all maps of an entry: median and range.
---@param method table
---@param records table[]
---@return string[]
function honesty.lines(method, records)
  local lines = {}
  for _, rule in ipairs(method.honesty or {}) do
    local values, word, maps, words = {}, nil, 0, 0
    for _, record in ipairs(records) do
      local own, text = numbers_of(rule, record)
      word = text or word
      if #own > 0 then maps = maps + 1 elseif text then words = words + 1 end
      table.move(own, 1, #own, #values + 1, values)
    end
    table.sort(values, function(a, b) return a < b or (b ~= b and a == a) end) -- NaN last
    local n = #values
    if n == 1 then
      lines[#lines + 1] = string.format("%s: %s%s", rule.title, shown(rule, values[1]),
        #records > 1 and counted(values, maps, #records, words, word) or "")
    elseif n > 1 then
      local middle = n % 2 == 1 and values[n // 2 + 1] or (values[n // 2] + values[n // 2 + 1]) / 2
      lines[#lines + 1] = string.format("%s: median %s (%s to %s)%s", rule.title, shown(rule, middle),
        shown(rule, values[1]), shown(rule, values[n]), counted(values, maps, #records, words, word))
    elseif word then
      lines[#lines + 1] = string.format("%s: %s", rule.title, word)
    end
  end
  return lines
end

return honesty
