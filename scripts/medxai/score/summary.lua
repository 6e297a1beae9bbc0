-- Means of scores over images, with intervals, by method and metric.
-- It refuses to average what is undefined: such maps are counted, not guessed.
local units = require "medxai.stats.units"

local summary = {}

-- The units of rows, an image each; those of the last call where the patients are the same, whose draws are then made
-- once.
local function units_of(rows, seed, last)
  local list = {}
  for i, row in ipairs(rows) do list[i] = row.patient or "unknown" end
  local key = table.concat(list, "\0")
  if last.key ~= key then last.key, last.over = key, units.over(#rows, list, { seed = seed }) end
  return last.over
end

-- Mean, interval and counts of one method under one metric.
local function summary_of(rows, over)
  local values, excess, chances = {}, {}, {}
  for i, row in ipairs(rows) do
    values[i], chances[i] = row.value, row.chance
    excess[i] = row.value - row.chance
  end
  local mean = over:mean(values, { hits = rows[1].unit == "hit" })
  local above = over:mean(excess)
  local chance, counted = 0.0, 0
  for i, v in ipairs(chances) do
    if v == v and values[i] == values[i] then chance, counted = chance + v, counted + 1 end
  end
  local reasons = {}
  for _, row in ipairs(rows) do
    if row.undefined then reasons[row.undefined] = (reasons[row.undefined] or 0) + 1 end
  end
  return { mean = mean.mean, low = mean.low, high = mean.high, n = mean.n, of = #rows,
    chance = counted > 0 and chance / counted or 0 / 0, above = above.mean, above_low = above.low,
    above_high = above.high, units = mean.units, resampled = mean.resampled, level = mean.level,
    interval = mean.interval, why = mean.why, note = mean.note, undefined = reasons }
end

--- Summaries that may stand in one column: of one metric and in one unit. Maps of a probability (LIME's) and of a
--- logit are scored in different numbers.
---@param summaries table[]
---@return table[][] groups in the order in which they first appear
function summary.comparable(summaries)
  local groups, of = {}, {}
  for _, s in ipairs(summaries) do
    local key = s.metric .. "\0" .. (s.unit or "")
    if not of[key] then
      of[key] = {}
      groups[#groups + 1] = of[key]
    end
    table.insert(of[key], s)
  end
  return groups
end

--- Summaries in the order in which methods and metrics first appear.
---@param rows table[] long rows
---@param seed integer
---@return table[] of { metric, method, maps, title, mean, low, high, n, of, chance, above, above_low, above_high, ... }
function summary.summarize(rows, seed)
  local groups, order = {}, {}
  for _, row in ipairs(rows) do
    local key = row.metric .. "\0" .. row.maps
    if not groups[key] then
      groups[key] = {}
      order[#order + 1] = key
    end
    table.insert(groups[key], row)
  end
  local out, last = {}, {}
  for i, key in ipairs(order) do
    local s = summary_of(groups[key], units_of(groups[key], seed, last))
    local first = groups[key][1]
    s.metric, s.method, s.maps, s.layer, s.target, s.unit = first.metric, first.method, first.maps, first.layer,
      first.target, first.unit
    out[i] = s
  end
  return out
end

return summary
