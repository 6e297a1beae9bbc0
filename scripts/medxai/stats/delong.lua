-- Areas under ROC curves of networks that judged the same images: DeLong's test (1988), Obuchowski's (1997) where
-- patients have several images, several classes each against the rest, and their mean. One formula: with one image
-- per patient Obuchowski's variance is DeLong's. It refuses scores that are no numbers, and a variance where a side
-- has fewer than two patients.
local check = require "medxai.base.check"
local distributions = require "medxai.stats.distributions"
local units = require "medxai.stats.units"

local delong = {}

local nan = 0 / 0

---@class medxai.Placements what each image says about an area
---@field auc number NaN where a side is empty
---@field placement number[] of a positive the share of negatives that it beats, of a negative the share of positives
---  that beat it
---@field positives integer
---@field negatives integer
---@field is_positive boolean[]

-- Image numbers by ascending score.
local function ranked(scores)
  local order = {}
  for i, s in ipairs(scores) do
    if s ~= s then check.fail("delong", "score %d is not a number. Leave the image out of both networks.", i) end
    order[i] = i
  end
  table.sort(order, function(a, b) return scores[a] < scores[b] or scores[a] == scores[b] and a < b end)
  return order
end

--- Area under the ROC curve and placement values (DeLong, DeLong and Clarke-Pearson 1988, eq. 3 to 5); tied scores
--- count half.
---@param scores number[] higher means more positive
---@param is_positive boolean[]
---@return medxai.Placements
function delong.placements(scores, is_positive)
  if #scores ~= #is_positive then
    check.fail("delong", "scores and labels differ in length (%d and %d).", #scores, #is_positive)
  end
  local order, m, n, placement = ranked(scores), 0, 0, {}
  for _, positive in ipairs(is_positive) do
    if positive then m = m + 1 else n = n + 1 end
  end
  local below_m, below_n, area, i = 0, 0, 0.0, 1
  while i <= #order do
    local last, tied_m, tied_n = i, 0, 0
    while last <= #order and scores[order[last]] == scores[order[i]] do
      if is_positive[order[last]] then tied_m = tied_m + 1 else tied_n = tied_n + 1 end
      last = last + 1
    end
    for k = i, last - 1 do
      local image = order[k]
      placement[image] = is_positive[image] and (below_n + tied_n / 2) / n or (m - below_m - tied_m / 2) / m
    end
    area = area + tied_m * (below_n + tied_n / 2)
    below_m, below_n, i = below_m + tied_m, below_n + tied_n, last
  end
  return { auc = m > 0 and n > 0 and area / (m * n) or nan, placement = placement, positives = m, negatives = n,
    is_positive = is_positive }
end

--- The mean over several networks (training seeds of one recipe) that judged the same images: the mean of areas has
--- the mean of placements.
---@param list medxai.Placements[]
---@return medxai.Placements
function delong.mean(list)
  local first = list[1]
  local out = { auc = 0.0, placement = {}, positives = first.positives, negatives = first.negatives,
    is_positive = first.is_positive }
  for i = 1, #first.placement do out.placement[i] = 0.0 end
  for _, one in ipairs(list) do
    out.auc = out.auc + one.auc / #list
    for i, v in ipairs(one.placement) do out.placement[i] = out.placement[i] + v / #list end
  end
  return out
end

-- Sums of x per unit: of the positives, of the negatives; how many units have either.
local function side_sums(x, is_positive, unit, count)
  local up, down, has_up, has_down, ups, downs = {}, {}, {}, {}, 0, 0
  for u = 1, count do up[u], down[u] = 0.0, 0.0 end
  for i, v in ipairs(x) do
    local u = unit[i]
    if is_positive[i] then
      up[u] = up[u] + v
      if not has_up[u] then has_up[u], ups = true, ups + 1 end
    else
      down[u] = down[u] + v
      if not has_down[u] then has_down[u], downs = true, downs + 1 end
    end
  end
  return up, down, ups, downs
end

-- Variance of a mean of placements (Obuchowski 1997, Biometrics 53, eq. 3 to 6); x: placements less the area.
local function variance(x, p, over)
  local up, down, ups, downs = side_sums(x, p.is_positive, over.unit, over.count)
  if ups < 2 or downs < 2 then return nan end
  local s10, s01, s11 = 0.0, 0.0, 0.0
  for u = 1, over.count do
    s10, s01, s11 = s10 + up[u] * up[u], s01 + down[u] * down[u], s11 + up[u] * down[u]
  end
  local m, n = p.positives, p.negatives
  local both = over.count / (over.count - 1) * s11 / (m * n)
  return ups / (ups - 1) * s10 / (m * m) + downs / (downs - 1) * s01 / (n * n) + 2 * both
end

local function check_units(p, over)
  if over.n ~= #p.placement then check.fail("delong", "%d images and units of %d.", #p.placement, over.n) end
end

-- se, z, p, intervals and what the test is called, from the variance of a difference.
local function judged(r, var, name)
  r.test, r.se, r.z, r.p, r.low, r.high = name, math.sqrt(math.max(var, 0)), nan, nan, nan, nan
  r.narrow = { low = nan, high = nan }
  if var ~= var then
    r.why = "a side has fewer than two " .. r.resampled
  elseif r.se <= 1e-12 then
    r.se = 0.0
    if math.abs(r.mean) <= 1e-12 then
      r.status, r.p, r.low, r.high, r.narrow = "identical", 1.0, 0.0, 0.0, { low = 0.0, high = 0.0 }
    else
      r.why = "no spread"
    end
  else
    local wide, narrow = distributions.normal_quantile(0.975) * r.se, distributions.normal_quantile(0.95) * r.se
    r.z = r.mean / r.se
    r.p = distributions.normal_p(r.z)
    r.low, r.high, r.narrow = r.mean - wide, r.mean + wide, { low = r.mean - narrow, high = r.mean + narrow }
  end
  return r
end

local function name_of(over) return over.count < over.n and "Obuchowski" or "DeLong" end

--- The standard error of one area, DeLong's or Obuchowski's.
---@param p medxai.Placements
---@param over medxai.Units of the same images
---@return number NaN where a side has fewer than two units
function delong.standard_error(p, over)
  check_units(p, over)
  local x = {}
  for i, v in ipairs(p.placement) do x[i] = v - p.auc end
  return math.sqrt(math.max(variance(x, p, over), 0))
end

-- How many units have a positive, a negative: the fewer of the two.
local function pairs_of(p, over)
  local _, _, ups, downs = side_sums(p.placement, p.is_positive, over.unit, over.count)
  return math.min(ups, downs)
end

-- The interval of an area. An area of 1 has no standard error; of k pairs of a positive and a negative patient, no
-- patient in two of them, all are in order with probability at most area^k, which bounds the area from below (and 0
-- from above).
local function bounded(r, pairs_, level)
  r.level, r.interval, r.low, r.high = level or 0.95, "delta-method", nan, nan
  local tail = (1 - r.level) / 2
  if r.units < units.least then
    r.why = string.format("fewer than %d %s", units.least, r.resampled)
  elseif r.mean ~= r.mean then
    r.why = "a class has no image, or all of them"
  elseif pairs_ < 2 then
    r.why = "a side has fewer than two " .. r.resampled
  elseif r.mean >= 1 - 1e-12 then
    r.low, r.high = tail ^ (1 / pairs_), 1.0
  elseif r.mean <= 1e-12 then
    r.low, r.high = 0.0, 1 - tail ^ (1 / pairs_)
  elseif r.se <= 1e-12 then
    r.why = "no spread"
  else
    r.low, r.high = units.logit_interval(r.mean, r.se, r.units, r.level)
  end
  return r
end

local function area_record(auc, se, over)
  return { mean = auc, se = se, n = over.n, units = over.count, resampled = over.resampled, note = over.note }
end

--- One area with its interval: DeLong's or Obuchowski's standard error on the scale of log odds.
---@param p medxai.Placements
---@param over medxai.Units of the same images
---@param level? number default 0.95
---@return medxai.Interval
function delong.area(p, over, level)
  return bounded(area_record(p.auc, delong.standard_error(p, over), over), pairs_of(p, over), level)
end

--- One-sided p-values of an area against a threshold, on the scale of log odds, where they keep their size with few
--- positives (with 5, 10, 15 of them and the area at the threshold 0.037, 0.045, 0.040 of 800 studies lay beyond 0.05;
--- on the plain scale 0.091, 0.081, 0.072). An area of 1 or 0: the bound that interval takes.
---@param p medxai.Placements
---@param over medxai.Units
---@param tau number above 0, below 1
---@return table { mean, se, n, units, p_below, p_above, why }
function delong.one_sided(p, over, tau)
  local r = area_record(p.auc, delong.standard_error(p, over), over)
  local k = pairs_of(p, over)
  if p.auc ~= p.auc then
    r.p_below, r.p_above, r.why = nan, nan, "a class has no image, or all of them"
  elseif p.auc >= 1 - 1e-12 then
    r.p_below, r.p_above = 1.0, tau ^ k
  elseif p.auc <= 1e-12 then
    r.p_below, r.p_above = (1 - tau) ^ k, 1.0
  elseif not (r.se > 1e-12) then
    r.p_below, r.p_above, r.why = nan, nan, "a side has fewer than two " .. over.resampled
  else
    local z = (math.log(p.auc / (1 - p.auc)) - math.log(tau / (1 - tau))) / (r.se / (p.auc * (1 - p.auc)))
    r.p_below, r.p_above = distributions.normal_upper(-z), distributions.normal_upper(z)
  end
  return r
end

--- The difference of two areas over the same images.
---@param a medxai.Placements
---@param b medxai.Placements
---@param over medxai.Units of the same images
---@return table { a, b, mean = a - b, se, z, p, low, high = 95 %, narrow = { low, high } 90 %, n, units, test =
---  "DeLong" | "Obuchowski",
---  status = "identical" where both rank alike, why }
function delong.difference(a, b, over)
  check_units(a, over)
  check_units(b, over)
  local x, mean = {}, a.auc - b.auc
  for i, v in ipairs(a.placement) do
    if a.is_positive[i] ~= b.is_positive[i] then
      check.fail("delong", "image %d is positive for one network alone.", i)
    end
    x[i] = v - b.placement[i] - mean
  end
  local r = { a = a.auc, b = b.auc, mean = mean, n = over.n, units = over.count, resampled = over.resampled }
  return judged(r, variance(x, a, over), name_of(over))
end

--- How much of what one area tells is left in another, of the same images: (A_b - 1/2) / (A_a - 1/2), by the delta
--- method on the placements.
---@param a medxai.Placements the whole
---@param b medxai.Placements what is left
---@param over medxai.Units
---@return table { mean, se, low, high, n, units, why }
function delong.retained(a, b, over)
  check_units(a, over)
  check_units(b, over)
  local told, r = a.auc - 0.5, area_record((b.auc - 0.5) / (a.auc - 0.5), nan, over)
  r.low, r.high = nan, nan
  if over.count < units.least then
    r.why = string.format("fewer than %d %s", units.least, over.resampled)
  elseif not (told > 0) then
    r.mean, r.why = nan, "the whole tells nothing"
  else
    local x = {}
    for i, v in ipairs(b.placement) do x[i] = (v - b.auc - r.mean * (a.placement[i] - a.auc)) / told end
    r.se = math.sqrt(math.max(variance(x, a, over), 0))
    local half = distributions.t_quantile(0.95, over.count - 1) * r.se
    r.low, r.high = r.mean - half, r.mean + half
    if r.low ~= r.low then r.why = "a side has fewer than two " .. over.resampled end
  end
  return r
end

-- ---- several classes ------------------------------------------------------------------------------------------------

---@class medxai.MacroAuroc
---@field auc number mean over the classes; NaN where a class lacks a side
---@field per_class medxai.Placements[]
---@field influence number[] of each image: the mean over the classes of (V_i - A_c) n / n_side

--- Each class against the rest and the mean of the areas.
---@param labels integer[] 0-based
---@param probabilities number[][] [image][class]
---@return medxai.MacroAuroc
function delong.macro(labels, probabilities)
  if #labels ~= #probabilities then
    check.fail("delong", "labels and probabilities differ in length (%d and %d).", #labels, #probabilities)
  end
  local k, n = #(probabilities[1] or {}), #labels
  local out = { auc = 0.0, per_class = {}, influence = {} }
  for i = 1, n do out.influence[i] = 0.0 end
  for c = 1, k do
    local scores, is_positive = {}, {}
    for i, row in ipairs(probabilities) do scores[i], is_positive[i] = row[c], labels[i] == c - 1 end
    local p = delong.placements(scores, is_positive)
    out.per_class[c], out.auc = p, out.auc + p.auc / k
    for i, v in ipairs(p.placement) do
      out.influence[i] = out.influence[i] + (v - p.auc) * n / ((is_positive[i] and p.positives or p.negatives) * k)
    end
  end
  if k == 0 then out.auc = nan end
  return out
end

--- The mean over several networks that judged the same images.
---@param list medxai.MacroAuroc[]
---@return medxai.MacroAuroc
function delong.macro_mean(list)
  local out = { auc = 0.0, per_class = {}, influence = {} }
  for c = 1, #list[1].per_class do
    local one = {}
    for s, macro in ipairs(list) do one[s] = macro.per_class[c] end
    out.per_class[c] = delong.mean(one)
  end
  for i = 1, #list[1].influence do out.influence[i] = 0.0 end
  for _, macro in ipairs(list) do
    out.auc = out.auc + macro.auc / #list
    for i, v in ipairs(macro.influence) do out.influence[i] = out.influence[i] + v / #list end
  end
  return out
end

-- U/(U-1) sum over units of (sum phi)^2 / n^2
local function influence_variance(phi, over)
  local sums, squares = {}, 0.0
  for u = 1, over.count do sums[u] = 0.0 end
  for i, v in ipairs(phi) do sums[over.unit[i]] = sums[over.unit[i]] + v end
  for _, s in ipairs(sums) do squares = squares + s * s end
  return over.count > 1 and over.count / (over.count - 1) * squares / (over.n * over.n) or nan
end

--- The standard error of a mean of areas over the classes, from influence values.
---@param macro medxai.MacroAuroc
---@param over medxai.Units
---@return number
function delong.macro_standard_error(macro, over) return math.sqrt(influence_variance(macro.influence, over)) end

--- A mean of areas over the classes with its interval.
---@param macro medxai.MacroAuroc
---@param over medxai.Units
---@param level? number default 0.95
---@return medxai.Interval
function delong.macro_area(macro, over, level)
  local least = math.huge
  for _, p in ipairs(macro.per_class) do least = math.min(least, pairs_of(p, over)) end
  return bounded(area_record(macro.auc, delong.macro_standard_error(macro, over), over), least, level)
end

--- The difference of two means of areas over the classes.
---@param a medxai.MacroAuroc
---@param b medxai.MacroAuroc
---@param over medxai.Units of the same images
---@return table as delong.difference; test = "influence values"
function delong.macro_difference(a, b, over)
  if #a.influence ~= over.n or #b.influence ~= over.n then
    check.fail("delong", "%d and %d images and units of %d.", #a.influence, #b.influence, over.n)
  end
  local phi = {}
  for i, v in ipairs(a.influence) do phi[i] = v - b.influence[i] end
  local r = { a = a.auc, b = b.auc, mean = a.auc - b.auc, n = over.n, units = over.count, resampled = over.resampled }
  local var = influence_variance(phi, over)
  if r.mean ~= r.mean then var = nan end
  r = judged(r, var, "influence values")
  if r.mean ~= r.mean then r.why = "a class has no image, or all of them" end
  return r
end

return delong
