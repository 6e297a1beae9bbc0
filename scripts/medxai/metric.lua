-- Judgements of a map: one file a metric in score/, the same form for a researcher's own. A metric declares id@version,
-- direction, range, unit, what it needs and what it does with negatives; for a map it gives a value and its chance level,
-- or says why it is undefined. Rows are long: one value a line.
-- It refuses to average what is undefined: such maps are counted, not guessed.
local check = require "medxai.check"
local metrics = require "medxai.metrics"
local plugin = require "medxai.plugin"

local metric = {}

metric.columns = { "image_id", "path", "patient", "source", "model", "seed", "method", "maps", "layer", "target", "metric", "value", "chance", "status", "undefined",
  "label", "predicted", "correct", "confidence" }

--- Checks a `metrics` list: names, or { name, option = value }.
---@param list table
---@param mask string|nil name of the mask for those that need one
---@return table[] of { name, id, definition, options, mask }
function metric.entries(list, mask)
  local entries = {}
  for i, value in ipairs(list) do
    local name = type(value) == "table" and value[1] or value
    if type(name) ~= "string" then check.fail("explain", "metrics holds names or { name, option = value } (got %s at %d).", type(name), i) end
    local d = plugin.find("explain", "score", "metric", name)
    if type(d) ~= "table" or type(d.measure) ~= "function" then
      check.fail("explain", "metric '%s' has no measure (expected a table with measure = function(map, ctx)).", name)
    end
    local given = {}
    for k, v in pairs(type(value) == "table" and value or {}) do
      if k ~= 1 then given[k] = v end
    end
    local options = check.options(name, given, d.options or {})
    local id = string.format("%s@%d", name, d.version or 0)
    for _, key in ipairs(check.sorted_keys(options)) do id = id .. string.format(" %s=%s", key, tostring(options[key])) end
    if d.needs and d.needs.mask then
      if not mask then check.fail("explain", "metric '%s' needs a mask (expected mask = \"lesion\" or the like beside metrics).", name) end
      id = id .. " mask=" .. mask
    end
    entries[#entries + 1] = { name = name, id = id, definition = d, options = options, mask = d.needs and d.needs.mask and mask or nil }
  end
  return entries
end

--- Judges one map. Returns value (NaN when undefined), chance, and why it is undefined.
---@param entry table from entries
---@param map any tensor (H, W) float32 in [0, 1]
---@param ctx table mask (H, W) or nil, status of the map
function metric.measure(entry, map, ctx)
  local nan = 0 / 0
  if ctx.status == "nan" or ctx.status == "failed" or ctx.status == "not_defined" then return nan, nan, "map is " .. ctx.status end
  if entry.mask and not ctx.mask then return nan, nan, "no mask" end
  local value, chance, why = entry.definition.measure(map, ctx, entry.options)
  if value == nil then return nan, chance or nan, why or "undefined" end
  return value, chance or nan, nil
end

local function patients_of(rows)
  local list = {}
  for i, row in ipairs(rows) do list[i] = row.patient or "unknown" end
  return list
end

-- Mean, interval and counts of one method under one metric.
local function summary_of(rows, seed)
  local values, excess, chances = {}, {}, {}
  for i, row in ipairs(rows) do
    values[i], chances[i] = row.value, row.chance
    excess[i] = row.value - row.chance
  end
  local options = { patients = patients_of(rows), seed = seed, id = rows[1].metric .. " " .. rows[1].maps }
  local mean = metrics.mean_interval(values, options)
  local over = metrics.mean_interval(excess, options)
  local chance, counted = 0.0, 0
  for i, v in ipairs(chances) do
    if v == v and values[i] == values[i] then chance, counted = chance + v, counted + 1 end
  end
  if mean.n < 2 then -- one image says nothing of others
    mean.low, mean.high, over.low, over.high = 0 / 0, 0 / 0, 0 / 0, 0 / 0
  end
  local undefined = {}
  for _, row in ipairs(rows) do
    if row.undefined then undefined[row.undefined] = (undefined[row.undefined] or 0) + 1 end
  end
  return { mean = mean.mean, low = mean.low, high = mean.high, n = mean.n, of = #rows, chance = counted > 0 and chance / counted or 0 / 0,
    above = over.mean, above_low = over.low, above_high = over.high, resampled = mean.resampled, level = mean.level, note = mean.note, undefined = undefined }
end

--- Summaries in the order in which methods and metrics first appear.
---@param rows table[] long rows
---@param seed integer
---@return table[] of { metric, method, maps, title, mean, low, high, n, of, chance, above, above_low, above_high, ... }
function metric.summarise(rows, seed)
  local groups, order = {}, {}
  for _, row in ipairs(rows) do
    local key = row.metric .. "\0" .. row.maps
    if not groups[key] then
      groups[key] = {}
      order[#order + 1] = key
    end
    table.insert(groups[key], row)
  end
  local out = {}
  for i, key in ipairs(order) do
    local s = summary_of(groups[key], seed)
    local first = groups[key][1]
    s.metric, s.method, s.maps, s.layer, s.target = first.metric, first.method, first.maps, first.layer, first.target
    out[i] = s
  end
  return out
end

return metric
