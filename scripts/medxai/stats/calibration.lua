-- Whether probabilities mean what they say: negative log-likelihood, Brier score with Murphy's parts, expected
-- calibration error with its own chance level, slope and intercept, and one temperature fitted on other images. It
-- refuses labels outside the classes; what has no value is nil with a reason, never a made-up number.
local check = require "medxai.base.check"
local Options = require "medxai.base.options"
local distributions = require "medxai.stats.distributions"
local logistic = require "medxai.stats.logistic"
local random = require "medxai.tensor.random"

local calibration = {}

calibration.groups, calibration.draws = 15, 1000

local nan = 0 / 0

local function check_rows(labels, rows)
  if #labels ~= #rows then
    check.fail("calibration", "labels and probabilities differ in length (%d and %d).", #labels, #rows)
  end
  for i, row in ipairs(rows) do
    if not row[labels[i] + 1] then
      check.fail("calibration", "image %d has label %s (expected 0 to %d).", i, labels[i], #row - 1)
    end
  end
end

-- ---- proper scores --------------------------------------------------------------------------------------------------

--- Mean negative logarithm of the true class's probability; infinite where one is 0.
---@param labels integer[] 0-based
---@param probabilities number[][] [image][class]
---@return number nats per image
function calibration.nll(labels, probabilities)
  check_rows(labels, probabilities)
  local sum = 0.0
  for i, row in ipairs(probabilities) do sum = sum - math.log(row[labels[i] + 1]) end
  return sum / #labels
end

--- Brier score: the squared distance to the true class's indicator, summed over classes, mean over images; 0 to 2
--- (Brier 1950).
---@param labels integer[] 0-based
---@param probabilities number[][]
---@return number
function calibration.brier(labels, probabilities)
  check_rows(labels, probabilities)
  local sum = 0.0
  for i, row in ipairs(probabilities) do
    for c, p in ipairs(row) do sum = sum + (p - (labels[i] == c - 1 and 1 or 0)) ^ 2 end
  end
  return sum / #labels
end

-- ---- groups ---------------------------------------------------------------------------------------------------------

-- The group of equal width of a confidence: (lo, hi], 0 in the first.
local function by_width(confidences, groups)
  local list = {}
  for i, c in ipairs(confidences) do
    local g = math.max(1, math.min(groups, math.ceil(c * groups)))
    if g > 1 and c <= (g - 1) / groups then g = g - 1 elseif g < groups and c > g / groups then g = g + 1 end
    list[i] = g
  end
  return list
end

-- Groups of equal size by ascending confidence, the first ones larger by one where it does not divide; and the images
-- in that order.
local function by_mass(confidences, groups)
  local order, list, n = {}, {}, #confidences
  for i = 1, n do order[i] = i end
  table.sort(order, function(a, b)
    return confidences[a] < confidences[b] or confidences[a] == confidences[b] and a < b
  end)
  local small, large, place = n // groups, n % groups, 0
  for g = 1, groups do
    for _ = 1, small + (g <= large and 1 or 0) do
      place = place + 1
      list[order[place]] = g
    end
  end
  return list, order
end

local function has_ties(confidences, order)
  for i = 2, #order do
    if confidences[order[i]] == confidences[order[i - 1]] then return true end
  end
  return false
end

-- Hits of images with equal confidence become their mean: which of them a group takes must not depend on their order.
local function shared_hits(confidences, hits, order)
  local out, i = {}, 1
  while i <= #order do
    local last, sum = i, 0.0
    while last <= #order and confidences[order[last]] == confidences[order[i]] do
      sum = sum + hits[order[last]]
      last = last + 1
    end
    for k = i, last - 1 do out[order[k]] = sum / (last - i) end
    i = last
  end
  return out
end

local ece_spec = {
  groups = { "integer", default = calibration.groups, min = 1, doc = "of images by confidence" },
  by = { one_of = { "mass", "width" }, default = "mass", doc = "groups of equal size, or of equal width" },
}

-- Group of each image, and how hits are to be read.
local function grouping(confidences, o)
  local function as_they_are(hits) return hits end
  if o.by == "width" then return by_width(confidences, o.groups), as_they_are end
  local list, order = by_mass(confidences, o.groups)
  if not has_ties(confidences, order) then return list, as_they_are end
  return list, function(hits) return shared_hits(confidences, hits, order) end
end

-- sum over groups |sum of hits - sum of confidences| / n
local function error_of(group, hits, confidences, groups)
  local gap, sum = {}, 0.0
  for g = 1, groups do gap[g] = 0.0 end
  for i, g in ipairs(group) do gap[g] = gap[g] + hits[i] - confidences[i] end
  for g = 1, groups do sum = sum + math.abs(gap[g]) end
  return sum / #group
end

--- Expected calibration error: over groups of like confidence, the mean distance of their hit rate from their mean
--- confidence (Naeini 2015; groups of equal size: Nguyen and O'Connor 2015).
---@param confidences number[] 0 to 1, one per image
---@param hits number[] 1 or 0
---@param options? table groups = 15, by = "mass" (equal sizes) | "width" (equal widths, (lo, hi])
---@return number error NaN of no image
---@return table[] bins { n, confidence, accuracy } of the groups that hold an image
function calibration.ece(confidences, hits, options)
  local o = Options.check("calibration.ece", options, ece_spec)
  if #confidences == 0 then return nan, {} end
  local group, read = grouping(confidences, o)
  hits = read(hits)
  local bins, list = {}, {}
  for i, g in ipairs(group) do
    local bin = bins[g] or { n = 0, confidence = 0.0, accuracy = 0.0 }
    bins[g] = bin
    bin.n, bin.confidence, bin.accuracy = bin.n + 1, bin.confidence + confidences[i], bin.accuracy + hits[i]
  end
  for g = 1, o.groups do
    local bin = bins[g]
    if bin then
      list[#list + 1] = { n = bin.n, confidence = bin.confidence / bin.n, accuracy = bin.accuracy / bin.n }
    end
  end
  return error_of(group, hits, confidences, o.groups), list
end

local function top_class(row)
  local best = 1
  for c = 2, #row do
    if row[c] > row[best] then best = c end
  end
  return best
end

--- The largest probability of each image, and whether its class is the true one (the first of equals, as
--- metrics.argmax).
---@return number[] confidences
---@return number[] hits
function calibration.top(labels, probabilities)
  check_rows(labels, probabilities)
  local confidences, hits = {}, {}
  for i, row in ipairs(probabilities) do
    local best = top_class(row)
    confidences[i], hits[i] = row[best], labels[i] == best - 1 and 1 or 0
  end
  return confidences, hits
end

-- Confidences and hits of one class, 0-based.
local function of_class(labels, probabilities, class)
  local confidences, hits = {}, {}
  for i, row in ipairs(probabilities) do confidences[i], hits[i] = row[class + 1], labels[i] == class and 1 or 0 end
  return confidences, hits
end

--- The calibration error of each class's probability (Kull 2019).
---@param labels integer[] 0-based
---@param probabilities number[][]
---@param options? table as calibration.ece
---@return number[] one per class
function calibration.classwise(labels, probabilities, options)
  check_rows(labels, probabilities)
  local list = {}
  for class = 0, #(probabilities[1] or {}) - 1 do
    local confidences, hits = of_class(labels, probabilities, class)
    list[class + 1] = calibration.ece(confidences, hits, options)
  end
  return list
end

-- ---- the error's chance level ---------------------------------------------------------------------------------------

local chance_spec = {
  groups = ece_spec.groups, by = ece_spec.by,
  draws = { "integer", default = calibration.draws, min = 1, doc = "of labels from the probabilities" },
  seed = { "integer", default = 42, doc = "of the draws" },
  id = { "string", default = "", doc = "of the draws, part of their key" },
}

-- A function that draws the true class of every image from its own probabilities: uniform numbers -> 0-based classes.
local function drawer(probabilities)
  return function(u)
    local drawn = {}
    for i, row in ipairs(probabilities) do
      local left, class = u[i], #row
      for c = 1, #row - 1 do
        left = left - row[c]
        if left < 0 then
          class = c
          break
        end
      end
      drawn[i] = class - 1
    end
    return drawn
  end
end

--- What the calibration errors of a perfectly calibrated network with these probabilities are on average: true
--- classes are drawn from the probabilities themselves (Vaicenavicius 2019). An error says something by how far it
--- lies above this.
---@param probabilities number[][] rows that sum to 1
---@param options? table groups = 15, by = "mass", draws = 1000, seed = 42, id = ""; keyed (seed, "calibration@1", id,
---  draw)
---@return number top of the top label's error
---@return number[] classwise of each class's
function calibration.chance(probabilities, options)
  local o = Options.check("calibration.chance", options, chance_spec)
  local n, k = #probabilities, #(probabilities[1] or {})
  if n == 0 then return nan, {} end
  local top, zeros = {}, {}
  for i, row in ipairs(probabilities) do top[i], zeros[i] = top_class(row) - 1, 0 end
  local tops = {}
  for j = 1, k + 1 do
    local confidences = (j == 1 and calibration.top or of_class)(zeros, probabilities, j - 2)
    tops[j] = { confidences, grouping(confidences, o) }
  end
  local draw, sums, hits = drawer(probabilities), {}, {}
  for j = 1, k + 1 do sums[j] = 0.0 end
  for d = 1, o.draws do
    local numbers = random.stream { seed = o.seed, purpose = "calibration@1", id = o.id, replicate = d }:uniform(n)
    local drawn = draw(numbers:tolist())
    numbers:close()
    for j = 1, k + 1 do
      for i = 1, n do hits[i] = drawn[i] == (j == 1 and top[i] or j - 2) and 1 or 0 end
      local group, read = tops[j][2], tops[j][3]
      sums[j] = sums[j] + error_of(group, read(hits), tops[j][1], o.groups)
    end
  end
  local classwise = {}
  for c = 1, k do classwise[c] = sums[c + 1] / o.draws end
  return sums[1] / o.draws, classwise
end

-- ---- Murphy's parts -------------------------------------------------------------------------------------------------

--- The parts of a Brier score of one class: reliability - resolution + uncertainty + within (Murphy 1973). Groups are
--- the images with equal forecasts, and `within` is 0; or `groups` groups of equal size, and `within` is what they
--- leave out (Stephenson 2008).
---@param forecasts number[]
---@param outcomes number[] 1 or 0
---@param groups? integer
---@return table { brier, reliability, resolution, uncertainty, within }
function calibration.murphy(forecasts, outcomes, groups)
  local n, bins, order, rate, brier = #forecasts, {}, {}, 0.0, 0.0
  local group = groups and by_mass(forecasts, groups) or forecasts
  for i, f in ipairs(forecasts) do
    local bin = bins[group[i]]
    if not bin then
      bin = { n = 0, f = 0.0, o = 0.0 }
      bins[group[i]], order[#order + 1] = bin, bin
    end
    bin.n, bin.f, bin.o = bin.n + 1, bin.f + f, bin.o + outcomes[i]
    rate, brier = rate + outcomes[i] / n, brier + (f - outcomes[i]) ^ 2 / n
  end
  local reliability, resolution = 0.0, 0.0
  for _, bin in ipairs(order) do
    reliability = reliability + bin.n / n * ((bin.f - bin.o) / bin.n) ^ 2
    resolution = resolution + bin.n / n * (bin.o / bin.n - rate) ^ 2
  end
  local uncertainty = rate * (1 - rate)
  return { brier = brier, reliability = reliability, resolution = resolution, uncertainty = uncertainty,
    within = brier - (reliability - resolution + uncertainty) }
end

-- ---- slope, intercept, temperature ----------------------------------------------------------------------------------

--- The log odds of a class: its logit less the logarithm of the summed exponentials of the others. From logits, which
--- keep what a probability that rounds to 1 has lost, or from logarithms of probabilities.
---@param row number[] logits of one image
---@param class integer 0-based
---@return number
function calibration.log_odds(row, class)
  local top, sum = -math.huge, 0.0
  for c, z in ipairs(row) do
    if c ~= class + 1 then top = math.max(top, z) end
  end
  if top == -math.huge then return math.huge end
  for c, z in ipairs(row) do
    if c ~= class + 1 then sum = sum + math.exp(z - top) end
  end
  return row[class + 1] - top - math.log(sum)
end

--- Slope and intercept of a class's log odds (Cox 1958; Van Calster 2019), and the intercept where the slope is 1.
--- Slope 1 and intercept 0 are perfect; a slope below 1 is overconfident.
---@param labels integer[] 0-based
---@param logits number[][] or logarithms of probabilities
---@param class integer 0-based
---@return table { slope, intercept, intercept_at_1, why }
function calibration.slope(labels, logits, class)
  check_rows(labels, logits)
  local x, hits = {}, {}
  for i, row in ipairs(logits) do x[i], hits[i] = calibration.log_odds(row, class), labels[i] == class end
  local slope, intercept = logistic.fit(x, hits)
  local at_1, why = logistic.intercept(x, hits)
  return { slope = slope, intercept = slope and intercept or nil, intercept_at_1 = at_1,
    why = not slope and intercept or why }
end

-- Probabilities of one image with its logits times beta; and the mean logit under them.
local function softened(row, beta)
  local top, sum, mean, out = -math.huge, 0.0, 0.0, {}
  for _, z in ipairs(row) do top = math.max(top, beta * z) end
  for c, z in ipairs(row) do
    out[c] = math.exp(beta * z - top)
    sum = sum + out[c]
  end
  for c, z in ipairs(row) do
    out[c] = out[c] / sum
    if out[c] > 0 then mean = mean + out[c] * z end
  end
  return out, mean
end

--- The one temperature that gives these images the least negative log-likelihood (Guo 2017): logits are divided by
--- it. The loss is convex in 1/T, so there is one answer or none.
---@param labels integer[] 0-based
---@param logits number[][] or logarithms of probabilities
---@return number|nil temperature nil where there is none
---@return string|nil why
function calibration.temperature(labels, logits)
  check_rows(labels, logits)
  local limit, most = 0.0, 0.0
  for i, row in ipairs(logits) do
    local truth, mean, top = row[labels[i] + 1], 0.0, -math.huge
    for _, z in ipairs(row) do
      if z ~= z or z == math.huge or z == -math.huge then return nil, "a logit is not finite" end
      mean, top = mean + z / #row, math.max(top, z)
    end
    limit, most = limit + mean - truth, most + top - truth
  end
  if most == 0 then return nil, "every image has the right class on top" end
  if limit >= 0 then return nil, "the logits say no more than chance" end
  local function slope(beta)
    local sum = 0.0
    for i, row in ipairs(logits) do
      local _, mean = softened(row, beta)
      sum = sum + mean - row[labels[i] + 1]
    end
    return sum
  end
  local high = 1.0
  while slope(high) < 0 and high < 1e12 do high = 2 * high end
  local low = high / 2
  while slope(low) > 0 and low > 1e-12 do low = low / 2 end
  return 1 / distributions.root(slope, low, high)
end

--- Probabilities with the logits divided by a temperature.
---@param logits number[][]
---@param temperature number
---@return number[][]
function calibration.softmax(logits, temperature)
  local list = {}
  for i, row in ipairs(logits) do list[i] = softened(row, 1 / temperature) end
  return list
end

return calibration
