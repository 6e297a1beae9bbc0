-- Endpoints that compare networks: values, paired differences and each image's contribution, for one training and for
-- several; equal networks are not told apart more often than stated.
local t = require "t"
local calibration = require "medxai.stats.calibration"
local classification = require "medxai.stats.classification"
local delong = require "medxai.stats.delong"
local endpoints = require "medxai.stats.endpoints"
local networks = require "medxai.steps.networks"
local random = require "medxai.tensor.random"
local units = require "medxai.stats.units"

local classes = { "a", "b", "c" }

-- Logits of a network: the true class raised by `signal`, plus keyed normal noise.
local function answers(labels, signal, noise, id)
  local scope <close> = require("medxai.core").memory.scope() -- luacheck: ignore
  local draws, rows = random.stream { seed = 7, purpose = "test_networks@1", id = id }:normal(3 * #labels):tolist(), {}
  for i, label in ipairs(labels) do
    rows[i] = {}
    for c = 1, 3 do rows[i][c] = noise * draws[3 * i - 3 + c] + (label == c - 1 and signal or 0) end
  end
  return rows
end

local function labels_of(counts)
  local list = {}
  for c, n in ipairs(counts) do
    for _ = 1, n do list[#list + 1] = c - 1 end
  end
  return list
end

-- Rows of logits with more noise added.
local function with_noise(rows, noise, id)
  local more, out = answers(labels_of { #rows }, 0, noise, id), {}
  for i, row in ipairs(rows) do out[i] = { row[1] + more[i][1], row[2] + more[i][2], row[3] + more[i][3] } end
  return out
end

t.test("AUROCs and their differences, over images and over patients, equal those of the probabilities", function()
  local labels, patients = labels_of { 15, 25, 20 }, {}
  for i = 1, 60 do patients[i] = "p" .. i // 2 end
  local a, b = answers(labels, 1, 1, "a"), answers(labels, 0.5, 1, "b")
  local p = { delong.macro(labels, calibration.softmax(a, 1)), delong.macro(labels, calibration.softmax(b, 1)) }
  for _, over in ipairs { units.over(60), units.over(60, patients) } do
    local x, y = endpoints.judged(labels, { a }), endpoints.judged(labels, { b })
    local r, known = endpoints.of("auroc_macro", classes):difference(over, x, y),
      delong.macro_difference(p[1], p[2], over)
    t.near({ r.a, r.b, r.se, r.p }, { known.a, known.b, known.se, known.p }, 1e-12)
    r, known = endpoints.of("auroc b", classes):difference(over, x, y), delong.difference(p[1].per_class[2],
      p[2].per_class[2], over)
    t.near({ r.a, r.b, r.se, r.p }, { known.a, known.b, known.se, known.p }, 1e-12)
  end
end)

t.test("accuracy of two trainings is compared by McNemar's test, of several seeds by random signs", function()
  local labels = labels_of { 20, 20, 20 }
  local a, b, c = answers(labels, 2, 1, "a"), answers(labels, 0.5, 1, "b"), answers(labels, 0.5, 1, "c")
  local e, over = endpoints.of("accuracy", classes), units.over(60)
  local r = e:difference(over, endpoints.judged(labels, { a }), endpoints.judged(labels, { b }))
  t.equal(r.test, "McNemar")
  local several = e:difference(over, endpoints.judged(labels, { a }), endpoints.judged(labels, { b, c }))
  t.equal(several.test, "random signs")
  local function accuracy(rows)
    return classification.classification(labels, rows, classes).accuracy
  end
  t.near(r.mean, accuracy(a) - accuracy(b), 1e-12)
  t.near(several.mean, accuracy(a) - (accuracy(b) + accuracy(c)) / 2, 1e-12)
  t.ok(r.p < 0.01 and r.low > 0)
end)

t.test("macro F1 and balanced accuracy: values, differences, the mean over seeds, and equal answers are identical",
  function()
  local labels = labels_of { 15, 25, 20 }
  local a, b, c = answers(labels, 2, 1, "a"), answers(labels, 1, 1, "b"), answers(labels, 1, 1, "c")
  local over = units.over(60)
  for _, name in ipairs { "macro_f1", "balanced_accuracy" } do
    local function of(rows)
      local r = classification.classification(labels, rows, classes)
      return name == "macro_f1" and r.macro.f1 or r.balanced_accuracy
    end
    local e = endpoints.of(name, classes)
    local one, two = endpoints.judged(labels, { a }), endpoints.judged(labels, { b, c })
    t.near(e:value(over, two).mean, (of(b) + of(c)) / 2, 1e-12)
    local r = e:difference(over, one, two)
    t.near(r.mean, of(a) - (of(b) + of(c)) / 2, 1e-12)
    t.ok(r.low < r.mean and r.mean < r.high and r.p > 0 and r.p <= 1)
    t.equal(e:difference(over, one, endpoints.judged(labels, { a })).status, "identical")
  end
end)

t.test("contributions of images sum to 0; means over seeds equal the values", function()
  local labels, patients = labels_of { 15, 25, 20 }, {}
  for i = 1, 60 do patients[i] = "p" .. i // 2 end
  local judged = endpoints.judged(labels, { answers(labels, 1, 1, "a"), answers(labels, 1, 1, "b") })
  local over = units.over(60, patients)
  for _, name in ipairs(endpoints.names(classes)) do
    local e = endpoints.of(name, classes)
    local rows = endpoints.by_seed(e, over, judged)
    for s = 1, 2 do
      local value, phi = e:influence(judged, s)
      local sum, mean = 0.0, 0.0
      for _, v in ipairs(phi) do sum = sum + v end
      t.near(sum, 0, 1e-9, name)
      for _, row in ipairs(rows) do mean = mean + row[s] / #rows end
      t.near(mean, value, 1e-9, name)
      t.near(e:value(over, endpoints.judged(labels, { judged.seeds[s] })).mean, value, 1e-9, name)
    end
  end
end)

t.test("counting an image twice changes a value by its contribution", function()
  local labels = labels_of { 40, 50, 60 }
  local rows = answers(labels, 1, 1, "a")
  for _, name in ipairs(endpoints.names(classes)) do
    local e = endpoints.of(name, classes)
    local value, phi = e:influence(endpoints.judged(labels, { rows }), 1)
    local more_labels, more_rows = table.move(labels, 1, 150, 1, {}), table.move(rows, 1, 150, 1, {})
    more_labels[151], more_rows[151] = labels[1], rows[1]
    local after = e:influence(endpoints.judged(more_labels, { more_rows }), 1)
    -- first order in 1/150: the remainder is of second order
    t.near(150 * (after - value), phi[1], 0.05 + 0.03 * math.abs(phi[1]), name)
  end
end)

local function models(names)
  local list = {}
  for k, name in ipairs(names) do
    list[k] = { network = "made", name = name, run_name = name:match "^%S+", train_seed = k, input = "whole",
      weights_sha256 = "x" }
  end
  return list
end

local options = { primary = "auroc_macro", margin = 0.02, alpha = 0.1, level = 0.95 }

local function images_of(labels, logits, patients)
  return { n = #labels, labels = labels, patients = patients or {}, logits = logits }
end

t.test("equal networks are told apart no more often than the level allows", function()
  -- 12 nulls here, 200 with --long; each of three networks, Holm over their pairs, every endpoint a family of its own.
  -- The seed is fixed: the number is the same on every machine. 4 or more of 12 have probability 0.002 at 5 %.
  for name, count in pairs(require "equalnetworks"(12)) do t.ok(count <= 3, name .. ": " .. count .. " of 12") end
end)

t.long("equal networks: the rate of false claims over 200 nulls is at most 0.07", function()
  local claims = require "equalnetworks"(200)
  local words = {}
  for _, name in ipairs(endpoints.names(classes)) do
    local rate = claims[name] / 200
    words[#words + 1] = ("%s %.3f (se %.3f)"):format(name, rate, math.sqrt(rate * (1 - rate) / 200))
    t.ok(rate <= 0.07, words[#words])
  end
  print(table.concat(words, ", "))
end)

t.test("a better network is found, and equivalence needs a margin", function()
  local labels = labels_of { 60, 60, 60 }
  local a = answers(labels, 2, 1, "a")
  local study = { models = models { "good", "bad", "twin" }, classes = classes, seed = 42 }
  local logits = { a, answers(labels, 0.3, 1, "b"), with_noise(a, 0.05, "n") }
  local _, list = networks.judge(study, images_of(labels, logits), nil, options)
  local found = {}
  for _, p in ipairs(list) do
    if p.endpoint == "auroc_macro" then found[p.a .. " " .. p.b] = p.verdict.verdict end
  end
  t.equal(found, { ["good bad"] = "better", ["good twin"] = "equivalent", ["bad twin"] = "worse" })
end)

t.test("intervals over seeds need three of them; two give none, with the reason", function()
  local labels = labels_of { 40, 40, 40 }
  local function judge(names)
    local logits = {}
    for k, name in ipairs(names) do logits[k] = answers(labels, name:find "^a" and 2 or 0.2, 1, name) end
    return networks.judge({ models = models(names), classes = classes, seed = 42 }, images_of(labels, logits), nil,
      options)
  end
  local function recipe_pair(list)
    for _, p in ipairs(list) do
      if p.family == "networks auroc_macro, recipes" then return p end
    end
  end
  local rows, list = judge { "a 1", "a 2", "a 3", "b 1", "b 2", "b 3" }
  t.equal(recipe_pair(list).verdict.verdict, "better")
  t.ok(recipe_pair(list).r.test:find "seeds")
  local recipe
  for _, row in ipairs(rows) do
    if row.run == "a" and row.train_seed == "recipe" and row.score == "auroc_macro" then recipe = row end
  end
  t.ok(recipe.low < recipe.value and recipe.value < recipe.high and recipe.high <= 1)
  list = select(2, judge { "a 1", "a 2", "b 1", "b 2" })
  t.equal(recipe_pair(list).verdict, { verdict = "undecided", reason = "fewer than 3 seeds: 2 and 2" })
  list = select(2, judge { "a 1", "b 1" })
  t.equal(recipe_pair(list), nil)
end)

t.test("fewer than 10 patients: values without interval or verdict", function()
  local labels, patients = labels_of { 10, 10, 10 }, {}
  for i = 1, 30 do patients[i] = "p" .. i % 9 end
  local study = { models = models { "good", "bad" }, classes = classes, seed = 42 }
  local rows, list = networks.judge(study, images_of(labels, { answers(labels, 3, 1, "a"), answers(labels, 0, 1, "b") },
    patients), nil, options)
  for _, row in ipairs(rows) do
    if row.score == "auroc_macro" then
      t.ok(row.low ~= row.low and row.value == row.value)
      t.equal(row.status, "fewer than 10 patients")
    end
  end
  for _, p in ipairs(list) do
    t.equal(p.verdict, { verdict = "undecided", reason = "fewer than 10 patients" }, p.endpoint)
  end
end)

t.test("calibration has a chance level; the temperature is fitted on tuning images; sets have their coverage",
  function()
  local labels = labels_of { 100, 100, 100 }
  local sure = {}
  for i, row in ipairs(answers(labels, 1, 1, "a")) do sure[i] = { 3 * row[1], 3 * row[2], 3 * row[3] } end
  local tuned = {}
  for i, row in ipairs(answers(labels, 1, 1, "tune")) do tuned[i] = { 3 * row[1], 3 * row[2], 3 * row[3] } end
  local study = { models = models { "sure" }, classes = classes, seed = 42 }
  local rows = networks.judge(study, images_of(labels, { sure }), images_of(labels, { tuned }), options)
  local of = {}
  for _, row in ipairs(rows) do of[row.score] = row end
  local p = calibration.softmax(sure, 1)
  t.near(of.ece.value, (calibration.ece(calibration.top(labels, p))), 1e-12)
  t.near(of.ece_above_chance.value, of.ece.value - of.ece.chance, 1e-12)
  t.ok(of.ece_above_chance.value > 0.1, "overconfident by a factor of 3")
  -- logits of one unit of noise and signal, times 3: the temperature is about 3
  t.near(of.temperature.value, (calibration.temperature(labels, tuned)), 1e-12)
  t.ok(of.temperature.value > 2 and of.temperature.value < 5)
  t.ok(of.nll_tempered.value < of.nll.value and of.ece_above_chance_tempered.value < 0.05)
  -- coverage varies over tuning splits by sd; on 300 judged images by 0.017 more: 0.9 within 4 of both
  t.near(of.set_coverage.value, 0.9, 4 * math.sqrt(of.set_coverage_sd.value ^ 2 + 0.9 * 0.1 / 300))
  t.equal(of.set_coverage.chance, 0.9)
  t.ok(of["set_size, per class"].value >= 1 and of.set_empty.value >= 0)
  local alone = networks.judge(study, images_of(labels, { sure }), nil, options)
  for _, row in ipairs(alone) do t.ok(not row.score:find "temper" and not row.score:find "set_", row.score) end
end)

t.test("the chance level of an endpoint is that of a network that knows nothing of the image", function()
  local labels = { 0, 0, 0, 1, 1, 2 }
  t.equal(endpoints.chance("auroc_macro", labels, classes), 0.5)
  t.equal(endpoints.chance("auroc b", labels, classes), 0.5)
  t.equal(endpoints.chance("accuracy", labels, classes), 0.5, "always 'a'")
  t.near(endpoints.chance("balanced_accuracy", labels, classes), 1 / 3, 1e-15)
  t.equal(endpoints.chance("macro_f1", labels, classes), nil)
  -- equal probabilities of all classes: the endpoints' own values
  local logits = {}
  for i = 1, #labels do logits[i] = { 0, 0, 0 } end
  for _, name in ipairs { "nll", "brier" } do
    local own = endpoints.of(name, classes):value(units.over(#labels), endpoints.judged(labels, { logits }))
    t.near(endpoints.chance(name, labels, classes), own.mean, 1e-12, name)
  end
end)
