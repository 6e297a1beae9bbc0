-- Means, hit rates, shares and paired differences of values that come in units: the images of one patient are no
-- independent draws, so patients are the units where every patient is known, images otherwise (and the result says so).
-- Intervals are studentized bootstrap intervals, hit rates have Wilson's, differences a p-value by
-- random signs. It refuses an interval of fewer than ten units, of values that are all equal, and where too many
-- resamples have no spread.
--
--   local over = units.over(#values, patients, { seed = 42 })
--   over:mean(values)             { mean, low, high, se, n, units, interval = "studentized bootstrap", resampled, why }
--   over:difference(a, b)         the same of a - b, and p
--   over:one_sided(over:ratio(values), 0.5)    p_below, p_above
local check = require "medxai.base.check"
local Options = require "medxai.base.options"
local distributions = require "medxai.stats.distributions"
local resample = require("medxai.core").resample

local units = {}

units.least = 10        -- with fewer, an interval's coverage falls below 0.9 for skewed values
units.resamples = 1999  -- (1999 + 1) x 0.025 is whole
units.one_sided_resamples, units.patterns = 9999, 9999

local nan = 0 / 0
local studentized, wilson, delta = "studentized bootstrap", "Wilson", "delta-method"

---@class medxai.Units
---@field n integer how many values
---@field unit integer[] the unit of each value, from 1
---@field count integer how many units
---@field resampled string "patients" | "images": what the units are
---@field note string|nil "image-level, patients unknown"
---@field level number of intervals
---@field resamples integer
local Units = {}
Units.__index = Units

---@class medxai.Statistic a number and how it spreads over the units
---@field value number
---@field se number standard error, from the units
---@field n integer values that count
---@field units integer units that count
---@field floor number a standard error of this or less is rounding
---@field replicate fun(box: userdata): number[], number[] value and standard error of each resample

---@class medxai.Interval
---@field mean number
---@field low number NaN where there is none
---@field high number
---@field se number
---@field n integer values that count
---@field units integer units that count
---@field level number
---@field interval string "studentized bootstrap" | "Wilson" | "delta-method"
---@field resampled string "patients" | "images"
---@field note string|nil
---@field dropped integer|nil resamples without spread, left out
---@field why string|nil why there is no interval

--- Whether a patient is known: readers write "unknown" where nobody said.
function units.is_known(patient) return patient ~= nil and patient ~= "unknown" and patient ~= "" end

units.spec = {
  seed = { "integer", default = 42, doc = "of the draws" },
  level = { "number", default = 0.95, above = 0, max = 1, doc = "of the intervals" },
  resamples = { "integer", default = units.resamples, min = 1, doc = "of the bootstrap" },
  id = { "string", default = "", doc = "of the draws, part of their key" },
}

--- The units of n values. Draws are keyed by (seed, "units@1", id), so an interval does not depend on what else was
--- asked for.
---@param n integer
---@param patients? table<integer, string> of each value; units are the patients where every one is known
---@param options? table seed = 42, level = 0.95, resamples = 1999, id = ""
---@return medxai.Units
function units.over(n, patients, options)
  local self = setmetatable(Options.check("units", options, units.spec), Units)
  local known, seen = patients ~= nil and n > 0, {}
  for i = 1, n do known = known and units.is_known(patients[i]) end
  self.n, self.unit, self.count, self.boxes, self.kept = n, {}, 0, {}, 0
  for i = 1, n do
    local key = known and patients[i] or i
    if not seen[key] then
      self.count = self.count + 1
      seen[key] = self.count
    end
    self.unit[i] = seen[key]
  end
  self.resampled, self.note = known and "patients" or "images", not known and "image-level, patients unknown" or nil
  return self
end

--- What intervals are, in words: "95 % studentized bootstrap intervals over patients", and why some are not there.
---@param list table one interval or several, or rows that hold their level, interval, resampled, note, why
---@return string
function units.words(list)
  if #list == 0 then list = { list } end
  local first, hits, seen, reasons = nil, false, {}, {}
  for _, s in ipairs(list) do
    if s.interval == wilson then hits = true elseif not first then first = s end
    local why = s.why and s.n ~= 0 and s.why:gsub("^%d+ of %d+ ", "many ")
    if why and not seen[why] then seen[why], reasons[#reasons + 1] = true, why end
  end
  local s = first or list[1]
  local text = string.format("%g %% %s intervals over %s%s", 100 * (s.level or 0.95), s.interval or "bootstrap",
    s.resampled or "images", s.note and " (" .. s.note .. ")" or "")
  if first and hits then text = text .. ", of hits Wilson's" end
  return #reasons > 0 and text .. "; none: " .. table.concat(reasons, "; ") or text
end

--- Quantile of the distribution that the values are draws of: the (n + 1) q-th smallest, between two the straight
--- line. Of 1,999 the 50th and 1,950th bound 95 % (Davison and Hinkley 1997, 5.2). NaN for an empty list.
---@param sorted number[] ascending
---@param q number 0 to 1
---@return number
function units.quantile(sorted, q)
  local n = #sorted
  if n == 0 then return nan end
  local at = math.max(1, math.min(n, (n + 1) * q))
  local whole = math.floor(at + 1e-9)
  local rest = math.max(0, at - whole)
  return rest == 0 and sorted[whole] or sorted[whole] + (sorted[math.min(whole + 1, n)] - sorted[whole]) * rest
end

-- ---- statistics -----------------------------------------------------------------------------------------------------

local function check_length(self, values, what)
  if #values ~= self.n then
    check.fail("units", "%s: %d values (expected %d, one per image).", what, #values, self.n)
  end
end

--- Sums and counts of the values that are numbers, per unit that has any, in the order of the units.
---@param values number[] NaN where undefined
---@return number[] sum
---@return number[] count
---@return integer n values that count
function Units:sums(values)
  check_length(self, values, "sums")
  local sum, count, place, n = {}, {}, {}, 0
  for i = 1, self.n do
    local v, unit = values[i], self.unit[i]
    if v == v then
      local at = place[unit]
      if not at then
        at = #sum + 1
        place[unit], sum[at], count[at] = at, 0.0, 0
      end
      sum[at], count[at], n = sum[at] + v, count[at] + 1, n + 1
    end
  end
  return sum, count, n
end

--- The mean of the values that are numbers, as a ratio over units: theta = sum S / sum n, se^2 = U/(U-1) sum (S_u -
--- theta n_u)^2 / (sum n)^2, S_u and n_u a unit's sum and count (linearised ratio, Cochran 1977, 6.3).
---@param values number[] NaN where undefined
---@return medxai.Statistic
function Units:ratio(values)
  local sum, count, n = self:sums(values)
  local total, size, squares, u = 0.0, 0.0, 0.0, #sum
  for k = 1, u do total, size = total + sum[k], size + math.abs(sum[k]) end
  local value = n > 0 and total / n or nan
  for k = 1, u do squares = squares + (sum[k] - value * count[k]) ^ 2 end
  return {
    value = value, se = u > 1 and math.sqrt(u / (u - 1) * squares) / n or nan, n = n, units = u,
    floor = 1e-12 * size / math.max(n, 1),
    replicate = function(box) return box:ratio(sum, count) end,
  }
end

-- Units' sums of the columns, one row per unit in which anything is not 0, flat; how many rows.
local function summed(self, columns)
  local rows, flat, width = {}, {}, #columns
  for u = 1, self.count do rows[u] = {} end
  for d, column in ipairs(columns) do
    check_length(self, column, "column " .. d)
    for u = 1, self.count do rows[u][d] = 0.0 end
    for i = 1, self.n do
      local row = rows[self.unit[i]]
      row[d] = row[d] + column[i]
    end
  end
  for _, row in ipairs(rows) do
    local any = false
    for d = 1, width do any = any or row[d] ~= 0 end
    if any then table.move(row, 1, width, #flat + 1, flat) end
  end
  return flat, #flat // math.max(width, 1)
end

--- A smooth function of totals: an F1 of counts, a ratio of differences. f must not change when all totals are doubled.
---@param columns number[][] of finite numbers, each one per image
---@param f fun(totals: number[]): number, number[] its value and its derivative by each total; nil or NaN where
---  undefined
---@return medxai.Statistic
function Units:totals(columns, f)
  local flat, u = summed(self, columns)
  local width, totals, whole = #columns, {}, {}
  for d = 1, width do totals[d] = 0.0 end
  for i, v in ipairs(flat) do totals[(i - 1) % width + 1] = totals[(i - 1) % width + 1] + v end
  for k = 1, math.max(u, 2) do whole[k] = k end
  local x = resample.matrix(flat, width)
  local function judged(t) -- nothing where the value is not a finite number: nor has it a derivative there
    local v, g = f(t)
    if check.is_finite(v) then return v, g end
    return nan
  end
  local value, gradient = judged(totals)
  local size = 0.0
  for d = 1, width do size = size + math.abs((gradient and gradient[d] or 0) * totals[d]) end
  local function spread(box, b, g) return g and box:spread(x, b, g) or nan end
  return {
    value = value, n = self.n, units = u, floor = 1e-12 * size,
    se = u > 1 and spread(resample.new { units = u, drawn = whole }, 1, gradient) or nan,
    replicate = function(box)
      local values, ses = {}, {}
      for b = 1, #box do
        local v, g = judged(box:totals(x, b))
        values[b], ses[b] = v, spread(box, b, g)
      end
      return values, ses
    end,
  }
end

-- ---- intervals ------------------------------------------------------------------------------------------------------

local most_kept = 16 << 20 -- draws that are kept for the next statistic of as many units

-- The resamples of so many units.
local function box_of(self, count, resamples)
  local key = count .. " " .. resamples
  if not self.boxes[key] then
    self.kept = self.kept + count * resamples
    if self.kept > most_kept then self.boxes, self.kept = {}, count * resamples end
    self.boxes[key] = resample.new { seed = self.seed, purpose = "units@1", id = self.id, units = count,
      resamples = resamples }
  end
  return self.boxes[key]
end

-- The sorted t of the resamples, and how many had no spread.
local function studentize(s, box)
  local values, ses = s.replicate(box)
  return resample.studentized(s.value, math.max(1e-9 * s.se, s.floor), values, ses)
end

-- Why nothing can be said of a statistic; nil where something can.
local function obstacle(self, s)
  if s.units < units.least then return string.format("fewer than %d %s", units.least, self.resampled) end
  if s.value ~= s.value or s.se ~= s.se then return "undefined" end
  if s.se <= s.floor then return "no spread" end
end

local function record_of(self, s, level)
  return { mean = s.value, low = nan, high = nan, se = s.se, n = s.n, units = s.units, level = level or self.level,
    interval = studentized, resampled = self.resampled, note = self.note }
end

-- low and high from the sorted t; a reason where they cannot be told. A resample without spread would stand at one of
-- the ends: with more of them than an end holds, the end is unknown.
local function set_bounds(r, t, dropped, range)
  local tail, all = (1 - r.level) / 2, #t + dropped
  r.dropped = dropped
  if dropped > tail * all then
    r.why = string.format("%d of %d resamples without spread or value", dropped, all)
  elseif (#t + 1) * tail < 1 - 1e-9 then
    r.why = string.format("%d resamples are too few for %g %%", #t, 100 * r.level)
  else
    r.low, r.high = r.mean - units.quantile(t, 1 - tail) * r.se, r.mean - units.quantile(t, tail) * r.se
    if range then r.low, r.high = math.max(r.low, range[1]), math.min(r.high, range[2]) end
  end
  return r
end

--- The studentized bootstrap interval of a statistic: resamples of units give t* = (theta* - theta) / se*, and the
--- interval is [theta - t*_(1 - a/2) se, theta - t*_(a/2) se] (Efron 1982; Davison and Hinkley 1997, 5.2.1).
---@param s medxai.Statistic from ratio or totals
---@param options? { level: number?, range: number[]? } range: the values that the statistic can have; bounds stay
---  within
---@return medxai.Interval
function Units:interval(s, options)
  options = options or {}
  local r = record_of(self, s, options.level)
  r.why = obstacle(self, s)
  if r.why then return r end
  local t, dropped = studentize(s, box_of(self, s.units, self.resamples))
  return set_bounds(r, t, dropped, options.range)
end

--- The studentized bootstrap interval from resamples that the caller gives.
---@param s medxai.Statistic
---@param drawn integer[] units, from 1, one resample after the other
---@return medxai.Interval
---@return number[] t ascending
function Units:interval_of(s, drawn)
  local r = record_of(self, s)
  local t, dropped = studentize(s, resample.new { units = s.units, drawn = drawn })
  return set_bounds(r, t, dropped), t
end

local function all_hits(values)
  for _, v in ipairs(values) do
    if v == v and v ~= 0 and v ~= 1 then return false end
  end
  return true
end

--- Mean of the values that are numbers and its studentized bootstrap interval.
---@param values number[] one per image, NaN where undefined
---@param options? { level: number?, range: number[]?, hits: boolean? } hits: where all values are 1 and 0, hit_rate
---@return medxai.Interval
function Units:mean(values, options)
  if options and options.hits and all_hits(values) then return self:hit_rate(values, options.level) end
  return self:interval(self:ratio(values), options)
end

--- One-sided p-values against a threshold: t0 = (theta - tau) / se; p_below = (1 + #{t* <= t0}) / (B + 1) is small
--- where theta lies below tau by more than its spread, p_above = (1 + #{t* >= t0}) / (B + 1) where above. B = 9,999
--- less those without spread.
---@param s medxai.Statistic
---@param tau number
---@return table { mean, se, n, units, p_below, p_above, dropped, why }; the p-values are NaN where nothing can be said
function Units:one_sided(s, tau)
  local r = record_of(self, s)
  r.p_below, r.p_above, r.why = nan, nan, obstacle(self, s)
  if r.why then return r end
  local t, dropped = studentize(s, box_of(self, s.units, units.one_sided_resamples))
  r.dropped = dropped
  if dropped > (1 - r.level) / 2 * (#t + dropped) then
    r.why = string.format("%d of %d resamples without spread or value", dropped, #t + dropped)
    return r
  end
  local t0, below, above = (s.value - tau) / s.se, 0, 0
  for _, v in ipairs(t) do
    if v <= t0 then below = below + 1 end
    if v >= t0 then above = above + 1 end
  end
  r.p_below, r.p_above = (1 + below) / (#t + 1), (1 + above) / (#t + 1)
  return r
end

--- Any function of totals in each resample of units: for numbers that have no standard error of their own, as ranks.
---@param columns number[][] of finite numbers, each one per image
---@param f fun(totals: number[]): any
---@return any[] in the order of the resamples; empty of fewer than two units
function Units:resample(columns, f)
  local flat, u = summed(self, columns)
  local list = {}
  if u < 2 then return list end
  local x, box = resample.matrix(flat, #columns), box_of(self, u, self.resamples)
  for b = 1, #box do list[b] = f(box:totals(x, b)) end
  return list
end

--- The percentile interval of numbers that resamples gave; NaN where there are too few.
---@param values number[] NaN ones are left out
---@param level? number
---@return number low
---@return number high
function Units:percentile(values, level)
  local list, tail = {}, (1 - (level or self.level)) / 2
  for _, v in ipairs(values) do
    if v == v then list[#list + 1] = v end
  end
  if (#list + 1) * tail < 1 - 1e-9 then return nan, nan end
  table.sort(list)
  return units.quantile(list, tail), units.quantile(list, 1 - tail)
end

-- ---- shares ---------------------------------------------------------------------------------------------------------

--- The interval of a share from its standard error: on the scale of log odds, where it is nearly symmetric and cannot
--- leave 0 to 1, by Student's t with one degree of freedom less than there are units (Korn and Graubard 1998).
---@param value number above 0, below 1
---@param se number
---@param count integer units
---@param level? number default 0.95
---@return number low
---@return number high
function units.logit_interval(value, se, count, level)
  local middle = math.log(value / (1 - value))
  local half = distributions.t_quantile(level or 0.95, count - 1) * se / (value * (1 - value))
  return 1 / (1 + math.exp(half - middle)), 1 / (1 + math.exp(-half - middle))
end

--- A share that is a function of totals (an F1), with the delta method's interval on the scale of log odds. Resamples
--- are no help there: near 1 many have no spread.
---@param s medxai.Statistic between 0 and 1
---@param level? number
---@return medxai.Interval
function Units:share(s, level)
  local r = record_of(self, s, level)
  r.interval, r.why = delta, obstacle(self, s)
  if r.why then return r end
  if s.value <= 0 or s.value >= 1 then
    r.why = "no spread"
    return r
  end
  r.low, r.high = units.logit_interval(s.value, s.se, s.units, r.level)
  return r
end

-- ---- hit rates ------------------------------------------------------------------------------------------------------

--- Wilson's score interval of a proportion (Wilson 1927).
---@param share number 0 to 1
---@param n number trials, not necessarily whole
---@param level? number default 0.95
---@return number low
---@return number high
function units.wilson(share, n, level)
  local z = distributions.normal_quantile(1 - (1 - (level or 0.95)) / 2)
  local middle, half = share + z * z / (2 * n), z * math.sqrt(share * (1 - share) / n + z * z / (4 * n * n))
  return math.max(0, (middle - half) / (1 + z * z / n)), math.min(1, (middle + half) / (1 + z * z / n))
end

-- How many independent hits tell as much: n over the design effect, sum (S - theta n)^2 / (n theta (1 - theta)),
-- which is 1 with one value per unit and at least 1. Where all hit or all miss, a unit's values are taken as one.
local function effective(sum, count, n, share)
  local squares, equal = 0.0, 0.0
  for k, s in ipairs(sum) do squares, equal = squares + (s - share * count[k]) ^ 2, equal + count[k] ^ 2 end
  local p = share * (1 - share)
  return n / (p > 0 and math.max(1, squares / (n * p)) or equal / n)
end

--- Share of hits and Wilson's interval; with several values in a unit at the effective sample size (Korn and Graubard
--- 1998).
---@param values (number|boolean)[] 1 or true for a hit, 0 or false for a miss, NaN where undefined
---@param level? number
---@return medxai.Interval
function Units:hit_rate(values, level)
  local hits = {}
  for i, v in ipairs(values) do
    hits[i] = v == true and 1 or v == false and 0 or v
    if hits[i] == hits[i] and hits[i] ~= 0 and hits[i] ~= 1 then
      check.fail("units", "hit rate: value %d is %s (expected 0 or 1).", i, tostring(v))
    end
  end
  local s = self:ratio(hits)
  local r = record_of(self, s, level)
  r.interval = wilson
  if s.units < units.least then
    r.why = obstacle(self, s)
  else
    local sum, count = self:sums(hits)
    r.low, r.high = units.wilson(s.value, effective(sum, count, s.n, s.value), r.level)
  end
  return r
end

-- ---- tests ----------------------------------------------------------------------------------------------------------

--- Two-sided p-value of sums that are symmetric about 0 when nothing is there: how often signs drawn at random give a
--- total at least as far from 0 (Fisher 1935, Pitman 1937). All patterns of at most 16 sums, else 9,999 random ones,
--- the observed one included.
---@param sums number[] one per unit
---@param key? { seed: integer, id: string } of the random signs
---@return number p NaN of no sums
---@return string test "all signs" | "random signs"
function units.signs(sums, key)
  local total, size = 0.0, 0.0
  for _, s in ipairs(sums) do total, size = total + s, size + math.abs(s) end
  if #sums == 0 or total ~= total then return nan, "all signs" end
  local least = math.abs(total) - 1e-12 * size
  if #sums <= 16 then
    local found, all = resample.signs(sums, least)
    return found / all, "all signs"
  end
  key = key or { seed = 42, id = "" }
  local found, all = resample.signs(sums, least, { seed = key.seed, purpose = "signs@2", id = key.id,
    patterns = units.patterns })
  return (1 + found) / (1 + all), "random signs"
end

--- a minus b, image by image: mean, studentized bootstrap interval, and p by signs of the units' sums. Images where
--- either is undefined are left out.
---@param a number[]
---@param b number[] of the same images
---@param id? string keys the random signs
---@return medxai.Interval with p, test, narrow = { low, high } (the 90 % interval, for equivalence), status =
---  "identical" where all are 0
function Units:difference(a, b, id)
  check_length(self, a, "difference")
  check_length(self, b, "difference")
  local d, largest = {}, 0.0
  for i = 1, self.n do
    d[i] = a[i] - b[i]
    if d[i] == d[i] then largest = math.max(largest, math.abs(d[i])) end
  end
  local s = self:ratio(d)
  local r, narrow = record_of(self, s), record_of(self, s, 0.9)
  r.why, r.narrow = obstacle(self, s), narrow
  if not r.why then
    local t, dropped = studentize(s, box_of(self, s.units, self.resamples))
    set_bounds(r, t, dropped)
    set_bounds(narrow, t, dropped)
  elseif s.n > 0 and largest == 0 then
    r.status, r.low, r.high, narrow.low, narrow.high = "identical", 0.0, 0.0, 0.0, 0.0
  end
  r.p, r.test = units.signs(self:sums(d), { seed = self.seed, id = self.id .. (id or "") })
  return r
end

return units
