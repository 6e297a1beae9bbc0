-- Calibration and conformal sets: reference values of shared/spec/comparison.md, section 13, and undefined cases.
local t = require "t"
local calibration = require "medxai.stats.calibration"
local conformal = require "medxai.stats.conformal"
local core = require "medxai.core"

local function golden(got, want, what) t.near(got, want, 1e-9 * math.abs(want), what) end

local probabilities = { { 0.71, 0.17, 0.12 }, { 0.13, 0.77, 0.10 }, { 0.52, 0.31, 0.17 }, { 0.22, 0.23, 0.55 }, { 0.43,
  0.34, 0.23 },
  { 0.06, 0.03, 0.91 }, { 0.33, 0.58, 0.09 }, { 0.26, 0.25, 0.49 } }
local labels = { 0, 1, 1, 2, 0, 2, 0, 1 }
local logits = {}
for i, row in ipairs(probabilities) do
  logits[i] = {}
  for c, p in ipairs(row) do logits[i][c] = math.log(p) end
end

t.test("calibration errors equal the reference values: equal widths, equal masses, per class", function()
  local confidences, hits = calibration.top(labels, probabilities)
  golden(calibration.ece(confidences, hits, { groups = 5, by = "width" }), 0.1475)
  golden(calibration.ece(confidences, hits, { groups = 4 }), 0.095)
  local classwise = calibration.classwise(labels, probabilities, { groups = 5, by = "width" })
  for c, want in ipairs { 0.09, 0.235, 0.105 } do golden(classwise[c], want, "class " .. c) end
end)

t.test("a confidence on a bin's bound belongs to the lower bin, 0 to the first", function()
  local error, bins = calibration.ece({ 0, 0.2, 0.4, 0.6, 0.8, 1 }, { 0, 0, 0, 1, 1, 1 }, { groups = 5, by = "width" })
  t.equal({ #bins, bins[1].n, bins[2].n, bins[5].n }, { 5, 2, 1, 1 })
  t.near(error, (0.2 + 0.4 + 0.4 + 0.2 + 0) / 6, 1e-12)
  for k = 1, 24 do -- k / 25 is not exact (7 / 25 x 25 is above 7), its group is
    local o = { by = "width", groups = 25 }
    t.equal(#select(2, calibration.ece({ k / 25, k / 25 - 1e-9 }, { 1, 1 }, o)), 1, k)
    t.equal(#select(2, calibration.ece({ k / 25, k / 25 + 1e-9 }, { 1, 1 }, o)), 2, k)
  end
end)

t.test("with ties the error does not depend on the order of the images", function()
  local c, h = { 0.5, 0.5, 0.5, 0.5, 0.9, 0.9 }, { 1, 1, 0, 0, 1, 0 }
  local error = calibration.ece(c, h, { groups = 3 })
  t.near(error, calibration.ece({ 0.9, 0.5, 0.5, 0.9, 0.5, 0.5 }, { 0, 0, 1, 1, 1, 0 }, { groups = 3 }), 1e-15)
  t.near(error, (0 + 0 + 0.8) / 6, 1e-12)
  local none = calibration.ece({}, {})
  t.ok(none ~= none, "of no image it is NaN")
end)

t.test("Brier score, negative log-likelihood and Murphy's parts equal the reference values", function()
  golden(calibration.brier(labels, probabilities), 0.432)
  golden(calibration.nll(labels, probabilities), 0.725764098843)
  local m = calibration.murphy({ 0.2, 0.2, 0.2, 0.2, 0.5, 0.5, 0.8, 0.8, 0.8, 0.8 }, { 0, 0, 1, 0, 1, 0, 1, 1, 0, 1 })
  t.near({ m.reliability, m.resolution, m.uncertainty, m.brier, m.within }, { 0.002, 0.05, 0.25, 0.202, 0 }, 1e-12)
  local confidences, hits = calibration.top(labels, probabilities)
  local g = calibration.murphy(confidences, hits, 4)
  t.near(g.reliability - g.resolution + g.uncertainty + g.within, g.brier, 1e-15)
  t.equal(calibration.nll({ 1 }, { { 1, 0 } }), math.huge)
end)

t.test("temperature, slope and intercepts equal the reference values", function()
  local temperature = calibration.temperature(labels, logits)
  t.near(temperature, 0.653391783, 1e-6)
  golden(calibration.nll(labels, calibration.softmax(logits, temperature)), 0.694075052, "at the minimum it is flat")
  local s = calibration.slope(labels, logits, 0)
  t.near({ s.slope, s.intercept, s.intercept_at_1 }, { 1.91661932, 0.76691380, 0.228116554 }, 1e-6)
end)

t.test("a temperature or slope that does not exist is reported", function()
  local right = { { 2, 0 }, { 0, 1 }, { 3, 1 } }
  t.equal({ calibration.temperature({ 0, 1, 0 }, right) }, { nil, "every image has the right class on top" })
  t.equal({ calibration.temperature({ 1, 0, 1 }, right) }, { nil, "the logits say no more than chance" })
  t.equal({ calibration.temperature({ 0, 1 }, { { 1, -math.huge }, { 0, 1 } }) }, { nil, "a logit is not finite" })
  t.equal(calibration.slope({ 0, 1, 0 }, right, 0).why, "hits and misses are separated")
  t.equal(calibration.slope({ 0, 0, 0 }, right, 0).why, "no miss")
  t.equal(calibration.slope({ 1, 1, 1 }, right, 0).why, "no hit")
  t.near(calibration.log_odds({ 40, 0, 0 }, 0), 40 - math.log(2), 1e-12) -- the probability is 1 - 8e-18, which is 1
  t.near(calibration.log_odds({ 0, 40, 0 }, 0), -40, 1e-12)
  t.fails(function() calibration.nll({ 3 }, { { 1, 0 } }) end, "calibration: image 1 has label 3 (expected 0 to 1).")
  t.fails(function() calibration.brier({ 0, 1 }, { { 1, 0 } }) end,
    "calibration: labels and probabilities differ in length (2 and 1).")
end)

-- Answers of a network that is calibrated: three classes, the probabilities from logits of deviation 1.5, the
-- classes from them.
local function calibrated(n, seed)
  local z = core.rng.stream { seed = seed, purpose = "calibrated@1" }:normal(3 * n)
  local u = core.rng.stream { seed = seed, purpose = "calibrated@1", id = "classes" }:uniform(n)
  local numbers, uniform, rows, truth = z:tolist(), u:tolist(), {}, {}
  z:close()
  u:close()
  for i = 1, n do
    rows[i] = { 1.5 * numbers[3 * i - 2], 1.5 * numbers[3 * i - 1], 1.5 * numbers[3 * i] }
  end
  rows = calibration.softmax(rows, 1)
  for i, row in ipairs(rows) do truth[i] = uniform[i] < row[1] and 0 or uniform[i] < row[1] + row[2] and 1 or 2 end
  return truth, rows
end

t.test("the error's chance level is that of a calibrated network and falls with more images", function()
  local sum, levels = 0.0, {}
  for s = 1, 40 do
    local truth, rows = calibrated(150, s)
    sum = sum + calibration.ece(calibration.top(truth, rows)) / 40
    levels[s] = s <= 3 and calibration.chance(rows, { draws = 200 }) or nil
  end
  local level = (levels[1] + levels[2] + levels[3]) / 3
  -- an error's deviation is 0.019 here: four standard errors
  t.near(sum, level, 0.012, "the mean error of 40 calibrated networks")
  local truth, rows = calibrated(1500, 1)
  local top, classwise = calibration.chance(rows, { draws = 50 })
  t.ok(top < level / 2 and #classwise == 3 and classwise[1] > 0 and classwise[1] < level, top)
  t.equal({ calibration.chance(rows, { draws = 50 }) }, { top, classwise })
  t.ok(truth and calibration.chance(rows, { draws = 50, seed = 1 }) ~= top)
end)

-- ---- conformal sets -------------------------------------------------------------------------------------------------

local scores = { 0.05, 0.1, 0.12, 0.2, 0.22, 0.3, 0.33, 0.4, 0.55, 0.7, 0.9, 0.15, 0.18, 0.27, 0.45, 0.6, 0.08, 0.35,
  0.5 }

t.test("the threshold is golden: the k-th smallest, k = ceil((m + 1)(1 - alpha)); k above m is all classes", function()
  local r = conformal.threshold(scores, 0.1)
  t.equal({ r.k, r.q, r.m }, { 18, 0.7, 19 })
  r = conformal.threshold(scores, 0.2)
  t.equal({ r.k, r.q }, { 16, 0.55 })
  r = conformal.threshold(scores, 0.04)
  t.equal({ r.k, r.q }, { 20, math.huge })
  t.near(r.sd, math.sqrt(0.04 * 0.96 / 21), 1e-15)
  t.fails(function() conformal.threshold(scores, 1) end,
    "conformal: alpha is a share of images (expected between 0 and 1, got 1).")
end)

t.test("sets, plain and per class: coverage, size, empty ones; few tuning images give all classes", function()
  local fitted = conformal.fit(labels, probabilities, 0.3)
  t.equal(fitted.all.k, 7) -- ceil(9 x 0.7)
  local sets = conformal.sets(probabilities, fitted)
  t.equal({ sets[1], sets[2], sets[8] }, { { 0 }, { 1 }, { 2 } }) -- the 7th smallest score is 0.69
  local judged = conformal.judge(labels, sets)
  t.near({ judged.coverage, judged.n }, { 7 / 8, 8 }, 1e-15)
  local per_class = conformal.fit(labels, probabilities, 0.3, true)
  t.equal({ per_class[1].m, per_class[1].k, per_class[1].q, per_class[3].k }, { 3, 3, 1 - 0.33, 3 })
  t.equal(per_class[3].q, math.huge) -- two images of class 2: k is 3
  t.equal(conformal.sets({ { 0.1, 0.1, 0.1 } }, per_class), { { 2 } })
  t.equal({ conformal.judge({ 0 }, { {} }).empty, conformal.judge({ 0 }, { {} }).coverage }, { 1, 0 })
end)

t.test("sets contain the true class of new images at least as often as stated", function()
  local covered = 0.0
  for s = 1, 40 do
    local truth, rows = calibrated(120, 100 + s)
    local tune_labels, tune_rows, test_labels, test_rows = {}, {}, {}, {}
    for i = 1, 120 do
      if i <= 60 then tune_labels[i], tune_rows[i] = truth[i], rows[i] else test_labels[i - 60],
        test_rows[i - 60] = truth[i], rows[i] end
    end
    covered = covered + conformal.judge(test_labels, conformal.sets(test_rows, conformal.fit(tune_labels, tune_rows,
      0.2))).coverage / 40
  end
  -- coverage is 0.8 to 0.8 + 1/61 on average; its deviation is 0.051 by tuning and 0.052 by testing, over 40: 0.0115
  t.ok(covered > 0.8 - 0.035 and covered < 0.8164 + 0.035, covered)
end)
