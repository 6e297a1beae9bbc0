-- How much of a map survives when weights are randomised, stage by stage (Adebayo 2018's cascade, judged by its whole
-- course and against what maps of different patients share), and how much two networks' maps agree beyond that. It
-- refuses a number where maps of different patients already agree above 0.9: nothing is left to lose.
local check = require "medxai.base.check"
local random = require "medxai.tensor.random"
local similarity = require "medxai.stats.similarity"
local units = require "medxai.stats.units"

local persistence = {}

local nan = 0 / 0

--- Mean over stages of max(0, (s_k - b) / (1 - b)): 0 where every stage falls to the level of strangers, 1 where
--- nothing changes. Stages below that level do not make up for others.
---@param stages number[] mean similarity to the trained map after each randomised stage
---@param stranger number similarity of trained maps of different patients, below 1
---@return number
function persistence.value(stages, stranger)
  local sum = 0.0
  for _, s in ipairs(stages) do sum = sum + math.max(0, (s - stranger) / (1 - stranger)) end
  return sum / #stages
end

-- Columns of values and of counts for units, appended to list; the place of the first.
local function append(list, over, values, what)
  if #values ~= over.n then
    check.fail("persistence", "%s has %d values (expected %d, one per image).", what, #values, over.n)
  end
  local value, count = {}, {}
  for i, v in ipairs(values) do value[i], count[i] = v == v and v or 0, v == v and 1 or 0 end
  list[#list + 1] = value
  list[#list + 1] = count
  return #list - 1
end

-- The means of the stages, each over draws[k] (numbers of draws, with repeats), and the strangers' mean.
local function means(t, places, stranger, draws)
  local list = {}
  for k, at in ipairs(places) do
    local sum, n = 0.0, 0
    for _, d in ipairs(draws[k]) do
      if t[at[d] + 1] > 0 then sum, n = sum + t[at[d]] / t[at[d] + 1], n + 1 end
    end
    if n == 0 then return nil end
    list[k] = sum / n
  end
  if t[stranger + 1] == 0 then return nil end
  return list, t[stranger] / t[stranger + 1]
end

-- Resampled numbers of draws of each stage, one list after the other: integers per resample.
local function drawn_of(over, places, resamples)
  local all = {}
  for k, at in ipairs(places) do
    local stream = random.stream { seed = over.seed, purpose = "draws@1", id = over.id .. " stage " .. k }
    local numbers = stream:integers(#at * resamples, #at)
    all[k] = numbers:tolist()
    numbers:close()
  end
  return all
end

local function resampled_draws(all, places, b)
  local list = {}
  for k, at in ipairs(places) do
    list[k] = {}
    for d = 1, #at do list[k][d] = all[k][(b - 1) * #at + d] + 1 end
  end
  return list
end

--- Persistence with its percentile interval over patients and, within each stage, over draws of random weights.
---@param over medxai.Units
---@param stages number[][][] [stage][draw][image]: similarity of the map under randomised weights to the trained one;
---  NaN where undefined
---@param stranger number[] of each image: similarity to trained maps of other patients
---@return table { mean, low, high, profile = (s_k - b) / (1 - b) of each stage, stranger, n, units, level, interval,
---  resampled, why }
function persistence.of(over, stages, stranger)
  local columns, places, first = {}, {}, {}
  for k, draws in ipairs(stages) do
    places[k], first[k] = {}, {}
    for d, values in ipairs(draws) do
      places[k][d] = append(columns, over, values, string.format("stage %d, draw %d", k, d))
      first[k][d] = d
    end
  end
  local at, totals = append(columns, over, stranger, "stranger"), {}
  for d, column in ipairs(columns) do
    totals[d] = 0.0
    for _, v in ipairs(column) do totals[d] = totals[d] + v end
  end
  local s, b = means(totals, places, at, first)
  local r = { mean = nan, low = nan, high = nan, stranger = b or nan, profile = {}, n = over.n, units = over.count,
    level = over.level, interval = "percentile bootstrap", resampled = over.resampled, note = over.note }
  if not s or #stages == 0 then r.why = "undefined" end
  if b and b > similarity.one_map then
    r.why = string.format("maps of different patients agree above %g", similarity.one_map)
  end
  if r.why then return r end
  for k, v in ipairs(s) do r.profile[k] = (v - b) / (1 - b) end
  r.mean = persistence.value(s, b)
  if over.count < units.least then
    r.why = string.format("fewer than %d %s", units.least, over.resampled)
    return r
  end
  local all, number = drawn_of(over, places, over.resamples), 0
  r.low, r.high = over:percentile(over:resample(columns, function(t)
    number = number + 1
    local again, level = means(t, places, at, resampled_draws(all, places, number))
    return again and persistence.value(again, level) or nan
  end))
  return r
end

--- What two networks' maps of the same image agree on beyond what maps of different patients share: (t - b) / (1 - b).
persistence.retained = similarity.agreement

--- (p - b) / (t - b): how far a network that was trained on permuted labels draws the maps of a twin trained on the
--- true ones. Only where the twins agree beyond strangers by more than 0.1.
---@param over medxai.Units
---@param permuted number[] similarity of each image's map to the permuted network's
---@param twin number[] to the twin's
---@param stranger number[] to other patients'
---@return medxai.Interval
function persistence.labels(over, permuted, twin, stranger)
  local columns = {}
  append(columns, over, permuted, "permuted")
  append(columns, over, twin, "twin")
  append(columns, over, stranger, "stranger")
  local s = over:totals(columns, function(t)
    if t[2] == 0 or t[4] == 0 or t[6] == 0 then return nil end
    local p, w, b = t[1] / t[2], t[3] / t[4], t[5] / t[6]
    local d = w - b
    local by_p, by_w, by_b = 1 / d, -(p - b) / d ^ 2, (p - w) / d ^ 2
    return (p - b) / d, { by_p / t[2], -by_p * p / t[2], by_w / t[4], -by_w * w / t[4], by_b / t[6], -by_b * b / t[6] }
  end)
  local gap = over:ratio(twin).value - over:ratio(stranger).value
  if not (gap > 0.1) then s.value, s.se = nan, nan end
  local r = over:interval(s)
  if not (gap > 0.1) then r.why = "twins agree hardly more than strangers" end
  return r
end

return persistence
