-- Whether a network's probabilities mean what they say, as rows of tables/networks.csv: calibration errors beside what
-- a calibrated network with the same confidences would have, slope and intercept of each class, the same after one
-- temperature that was fitted on other images, and conformal sets with their coverage. It refuses to fit anything on
-- judged images.
local calibration = require "medxai.stats.calibration"
local conformal = require "medxai.stats.conformal"
local units = require "medxai.stats.units"

local calibrated = {}

local nan = 0 / 0

calibrated.reliability_columns = { "network", "run", "train_seed", "group", "n", "confidence", "accuracy", "chance_low",
  "chance_high" }

--- The rows of tables/reliability.csv of one model: 15 groups, fewer where they would hold fewer than ten images.
---@param of table network, name, seed
---@param images table as of calibrated.rows
---@param k integer the model's number
---@return table[]
function calibrated.reliability(of, images, k)
  local rows = {}
  local confidences, hits = calibration.top(images.labels, calibration.softmax(images.logits[k], 1))
  local groups = math.max(3, math.min(calibration.groups, images.n // 10))
  for g, bin in ipairs(calibration.reliability(confidences, hits, { groups = groups })) do
    rows[g] = { network = of.network, run = of.name, train_seed = of.seed, group = g, n = bin.n,
      confidence = bin.confidence, accuracy = bin.accuracy, chance_low = bin.low, chance_high = bin.high }
  end
  return rows
end

-- Adds a row; of: network, name, seed, input, weights_sha256.
local function adder(rows, of, n, over)
  return function(score, value, more)
    local row = { network = of.network, run = of.name, train_seed = of.seed, input = of.input,
      weights_sha256 = of.weights_sha256, score = score, role = "exploratory", value = value or nan, n = n,
        units = over.count,
      status = "ok" }
    for key, v in pairs(more or {}) do row[key] = v end
    if not value then row.status = row.status == "ok" and "undefined" or row.status end
    rows[#rows + 1] = row
  end
end

-- Errors beside their chance level; suffix: "" or "_tempered".
local function put_errors(add, labels, probabilities, o, suffix)
  local confidences, hits = calibration.top(labels, probabilities)
  local ece, classwise = calibration.ece(confidences, hits), calibration.classwise(labels, probabilities)
  local chance, chances = calibration.chance(probabilities, { seed = o.seed, id = o.id .. suffix })
  add("ece" .. suffix, ece, { chance = chance })
  add("ece_above_chance" .. suffix, ece - chance)
  for c, class in ipairs(o.classes) do add("ece " .. class .. suffix, classwise[c], { chance = chances[c] }) end
end

local function put_slopes(add, labels, logits, o)
  for c, class in ipairs(o.classes) do
    local s = calibration.slope(labels, logits, c - 1)
    add("slope " .. class, s.slope, { status = s.slope and "ok" or s.why })
    add("intercept " .. class, s.intercept, { status = s.intercept and "ok" or s.why })
  end
end

local function put_murphy(add, labels, probabilities, o)
  for c, class in ipairs(o.classes) do
    local forecasts, outcomes = {}, {}
    for i, row in ipairs(probabilities) do forecasts[i], outcomes[i] = row[c], labels[i] == c - 1 and 1 or 0 end
    local m = calibration.murphy(forecasts, outcomes, math.min(calibration.groups, #labels))
    for _, part in ipairs { "brier", "reliability", "resolution", "uncertainty" } do
      add(part .. " " .. class, m[part])
    end
  end
end

local function put_tempered(add, images, tuned, k, o)
  local t, why = calibration.temperature(tuned.labels, tuned.logits[k])
  add("temperature", t, { status = t and "ok" or why, n = tuned.n })
  if not t then return end
  local probabilities = calibration.softmax(images.logits[k], t)
  add("nll_tempered", calibration.nll(images.labels, probabilities))
  add("brier_tempered", calibration.brier(images.labels, probabilities))
  put_errors(add, images.labels, probabilities, o, "_tempered")
end

local function put_sets(add, images, probabilities, tuned, tune_probabilities, over, o)
  for _, per_class in ipairs { false, true } do
    local fitted = conformal.fit(tuned.labels, tune_probabilities, o.alpha, per_class)
    local judged = conformal.judge(images.labels, conformal.sets(probabilities, fitted))
    local suffix, r = per_class and ", per class" or "", over:hit_rate(judged.hits)
    local full = 0
    for _, t in pairs(fitted) do full = full + (t.q == math.huge and 1 or 0) end
    add("set_coverage" .. suffix, judged.coverage, { low = r.low, high = r.high,
      interval = r.low == r.low and r.interval .. " over " .. r.resampled or nil,
      chance = 1 - o.alpha, status = r.why or (full > 0 and "too few tuning images: the set is all classes" or "ok") })
    add("set_size" .. suffix, judged.size)
    add("set_empty" .. suffix, judged.empty)
    if not per_class then add("set_coverage_sd", fitted.all.sd, { n = fitted.all.m }) end
  end
end

--- The calibration of one model as rows of tables/networks.csv. `chance` of an error is its mean for a calibrated
--- network with the same probabilities; of a coverage it is what was promised.
---@param of table network, name, seed, input, weights_sha256
---@param images { n: integer, labels: integer[], logits: number[][][] } the judged ones; logits[k] of model k
---@param tuned? table the same of the tuning split; nil: no temperature, no sets
---@param k integer the model's number
---@param over medxai.Units
---@param o { classes: string[], seed: integer, alpha: number }
---@return table[]
function calibrated.rows(of, images, tuned, k, over, o)
  local rows, labels, logits = {}, images.labels, images.logits[k]
  local add, probabilities = adder(rows, of, images.n, over), calibration.softmax(logits, 1)
  o = { classes = o.classes, seed = o.seed, alpha = o.alpha, id = of.name }
  put_errors(add, labels, probabilities, o, "")
  put_slopes(add, labels, logits, o)
  put_murphy(add, labels, probabilities, o)
  if tuned then
    put_tempered(add, images, tuned, k, o)
    put_sets(add, images, probabilities, tuned, calibration.softmax(tuned.logits[k], 1), over, o)
  end
  if over.count < units.least then
    for _, row in ipairs(rows) do
      if row.status == "ok" then row.status = ("fewer than %d %s"):format(units.least, over.resampled) end
    end
  end
  return rows
end

return calibrated
