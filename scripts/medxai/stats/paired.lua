-- Means of values over images with bootstrap intervals, paired differences with a two-sided p-value by random signs, and Holm's
-- correction over several comparisons. Patients are the units where all are known, images otherwise (and it says so). All
-- intervals of one comparison come from the same resamples, so that what is paired stays paired.
-- It refuses an interval and a p-value of fewer than four units; pairs of which one side is undefined are left out and counted.
local core = require "medxai.core"
local metrics = require "medxai.stats.classification"
local torch = require "medxai.torch"

local paired = {}

local resamples, flips, level = 1000, 9999, 0.95

---@class medxai.Paired
---@field resampled string "patients" | "images"
---@field note string|nil "image-level, patients unknown"
local Paired = {}
Paired.__index = Paired

-- Unit of each image, from 0; how many; whether they are patients.
local function units_of(patients)
  local known, unit, seen, count = #patients > 0, {}, {}, 0
  for _, p in ipairs(patients) do known = known and metrics.is_known(p) end
  for i, p in ipairs(patients) do
    local key = known and p or i
    if not seen[key] then
      seen[key] = count
      count = count + 1
    end
    unit[i] = seen[key]
  end
  return unit, count, known
end

--- Resamples of n images, to be used for all values of these images.
---@param patients string[] one an image, "unknown" where nobody knows
---@param seed integer
---@return medxai.Paired close it when done
function paired.over(patients, seed)
  local unit, count, known = units_of(patients)
  local self = setmetatable({ n = #patients, unit = unit, units = count, seed = seed, level = level, resampled = known and "patients" or "images",
    note = not known and "image-level, patients unknown" or nil }, Paired)
  if count == 0 then return self end
  self.weights = core.memory.unscoped(function()
    local scope <close> = core.memory.scope()
    local draws = core.rng.stream { seed = seed, purpose = "paired@1" }:integers(resamples * count, count):view({ resamples, count })
    local place = draws + torch.arange(resamples):unsqueeze(1) * count
    local counts = torch.bincount(place:flatten(), { minlength = resamples * count }):view({ resamples, count }):to { dtype = "float64" }
    return scope:keep(counts:index_select(1, torch.tensor(unit, { dtype = "int64" })):contiguous()) -- (resamples, n): how often each image counts
  end)
  return self
end

function Paired:close()
  if self.weights then self.weights:close() end
end
Paired.__close = Paired.close

local function quantile(sorted, n, q)
  local at = (n - 1) * q
  local low = math.floor(at)
  local a, b = sorted[low + 1], sorted[math.min(low + 2, n)]
  return a + (b - a) * (at - low)
end

--- Mean of the values that are numbers, and its percentile bootstrap interval.
---@param values number[] one an image, NaN where undefined
---@return table { mean, low, high, n }
function Paired:mean(values)
  local nan, sum, n, filled, defined, seen, units = 0 / 0, 0.0, 0, {}, {}, {}, 0
  for i, v in ipairs(values) do
    local there, unit = v == v, self.unit[i]
    filled[i], defined[i] = there and v or 0.0, there and 1.0 or 0.0
    if there then sum, n = sum + v, n + 1 end
    if there and not seen[unit] then seen[unit], units = true, units + 1 end
  end
  if units < metrics.least_units then return { mean = n > 0 and sum / n or nan, low = nan, high = nan, n = n } end
  local scope <close> = core.memory.scope()
  local both = torch.matmul(self.weights, torch.tensor({ filled, defined }, { dtype = "float64" }):t()) -- (resamples, 2)
  local totals, list = both:tolist(), {}
  for _, pair in ipairs(totals) do
    if pair[2] > 0 then list[#list + 1] = pair[1] / pair[2] end
  end
  table.sort(list)
  local tail = (1 - level) / 2
  return { mean = sum / n, low = quantile(list, #list, tail), high = quantile(list, #list, 1 - tail), n = n }
end

-- Two-sided: how often random signs of the units' sums give a total at least as far from 0 (Pitman 1937), the observed one included.
local function sign_test(self, differences, id)
  local sums, list, observed = {}, {}, 0.0
  for i, d in ipairs(differences) do
    if d == d then sums[self.unit[i]] = (sums[self.unit[i]] or 0.0) + d end
  end
  for u = 0, self.units - 1 do
    if sums[u] then list[#list + 1], observed = sums[u], observed + sums[u] end
  end
  if #list < metrics.least_units then return 0 / 0 end
  local size = 0.0
  for _, sum in ipairs(list) do size = size + math.abs(sum) end
  local scope <close> = core.memory.scope()
  local stream = core.rng.stream { seed = self.seed, purpose = "signs@1", id = id or "" }
  local signs = stream:bits(flips * #list):view({ flips, #list }):to { dtype = "float64" } * 2 - 1
  local totals = torch.matmul(signs, torch.tensor(list, { dtype = "float64" })):abs()
  return (1 + totals:ge(math.abs(observed) - 1e-12 * size):sum():item()) / (1 + flips)
end

--- a minus b, image by image.
---@param a number[]
---@param b number[] of the same images
---@param id? string keys the random signs
---@return table { mean, low, high, n, p }
function Paired:difference(a, b, id)
  local differences = {}
  for i in ipairs(a) do differences[i] = a[i] - b[i] end
  local d = self:mean(differences)
  d.p = sign_test(self, differences, id)
  return d
end

--- Holm's adjusted p-values (1979), in the order given; NaN stays NaN and counts for none.
---@param list number[]
---@return number[]
function paired.holm(list)
  local order, out = {}, {}
  for i, p in ipairs(list) do
    out[i] = p
    if p == p then order[#order + 1] = i end
  end
  table.sort(order, function(i, j) return list[i] < list[j] or list[i] == list[j] and i < j end)
  local largest = 0
  for rank, i in ipairs(order) do
    largest = math.max(largest, math.min(1, list[i] * (#order - rank + 1)))
    out[i] = largest
  end
  return out
end

return paired
