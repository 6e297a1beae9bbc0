-- Metrics against what scikit-learn 1.2.1 said of stored cases (tests/reference/metrics.py made them).
local t = require "t"
local metrics = require "medxai.stats.classification"
local units = require "medxai.stats.units"
local cjson = require "cjson"

local here = debug.getinfo(1, "S").source:match("^@(.*)/[^/]*$") or "tests"
local stored = cjson.decode(assert(io.open(here .. "/reference/metrics.json")):read("a"))

local function same(got, want, what)
  if want == nil or want == cjson.null then
    if got == got then error(what .. " is " .. tostring(got) .. ", scikit-learn leaves it undefined") end
  elseif got ~= got or math.abs(got - want) > 1e-9 then
    error(string.format("%s is %.17g, scikit-learn says %.17g", what, got, want))
  end
end

for _, case in ipairs(stored.cases) do
  t.test("classification metrics equal scikit-learn's: " .. case.name, function()
    local names = {}
    for c = 1, case.classes do names[c] = "class " .. c end
    local result = metrics.classification(case.labels, case.probabilities, names)
    same(result.accuracy, case.accuracy, "accuracy")
    same(result.balanced_accuracy, case.balanced_accuracy, "balanced accuracy")
    for c = 1, case.classes do
      for _, name in ipairs { "precision", "recall", "f1", "support", "auroc" } do
        same(result.per_class[c][name], case[name][c], name .. " of class " .. c)
      end
      for j = 1, case.classes do t.near(result.confusion[c][j], case.confusion[c][j], 0) end
    end
    for _, average in ipairs { "micro", "macro", "weighted" } do
      for i, name in ipairs { "precision", "recall", "f1" } do
        same(result[average][name], case[average][i], average .. " " .. name)
      end
    end
    same(result.auroc_macro, case.auroc_macro, "auroc macro")
    same(result.auroc_weighted, case.auroc_weighted, "auroc weighted")
  end)
end

t.test("the report prints every class, undefined where there is no AUROC", function()
  local result = metrics.classification({ 0, 0, 1 }, { { 0.9, 0.1, 0 }, { 0.2, 0.8, 0 }, { 0.1, 0.9, 0 } },
    { "a", "b", "c" })
  local text = metrics.report(result)
  t.equal(text:match("\n(c [^\n]*)"), "c                0.0000  0.0000  0.0000  undefined        0")
  t.equal(text:match("accuracy[^\n]*"), "accuracy                         0.6667                   3")
end)

t.test("metrics refuse rows that do not fit", function()
  t.fails(function() metrics.classification({ 0 }, { { 1, 0 } }, { "a", "b", "c" }) end,
    "metrics: sample 1 has 2 probabilities (expected 3, one per class).")
  t.fails(function() metrics.classification({ 3 }, { { 1, 0, 0 } }, { "a", "b", "c" }) end,
    "metrics: sample 1 has label 3 and prediction 0 (expected 0 to 2).")
  t.fails(function() metrics.classification({ 0, 1 }, { { 1, 0 } }, { "a", "b" }) end,
    "metrics: labels and probabilities differ in length (2 and 1).")
end)

t.test("an empty split has no AUROC and no accuracy to boast of", function()
  local result = metrics.classification({}, {}, { "a", "b" })
  t.equal(result.n, 0)
  t.equal(result.accuracy, 0.0)
  same(result.auroc_macro, nil, "auroc")
end)

-- ---- intervals ------------------------------------------------------------------------------------------------------

-- Answers of a network over three classes, a patient of one to three images each; every so many are wrong.
local function answers(n)
  local labels, probabilities, patients = {}, {}, {}
  for i = 1, n do
    local wrong = (i * 7) % 10 < 3
    labels[i], patients[i] = i % 3, "p" .. i * 3 // 5
    local said = wrong and (i + 1 + i % 2) % 3 or i % 3
    local p = 0.4 + (i * 13 % 17) / 40
    probabilities[i] = { (1 - p) / 2, (1 - p) / 2, (1 - p) / 2 }
    probabilities[i][said + 1] = p
  end
  return labels, probabilities, patients
end

t.test("the standard error of macro F1 and balanced accuracy is the jackknife's over patients; the value is the "
  .. "metric's", function()
  local labels, probabilities, patients = answers(120)
  local predicted, over = require("medxai.stats.logits").argmax(probabilities), units.over(120, patients)
  for _, name in ipairs { "macro_f1", "balanced_accuracy" } do
    local function value_without(u)
      local l, p = {}, {}
      for i = 1, 120 do
        if over.unit[i] ~= u then l[#l + 1], p[#p + 1] = labels[i], predicted[i] end
      end
      local result = metrics.from_confusion(metrics.confusion(l, p, 3))
      return name == "macro_f1" and result.macro.f1 or result.balanced_accuracy
    end
    local s = metrics.average(name, over, labels, predicted, 3)
    t.near(s.value, value_without(0), 1e-12, name)
    local mean, squares, u = 0.0, 0.0, over.count
    for k = 1, u do mean = mean + value_without(k) / u end
    for k = 1, u do squares = squares + (value_without(k) - mean) ^ 2 end
    t.near(s.se, math.sqrt((u - 1) / u * squares), 0.05 * s.se, name)
  end
end)

t.test("intervals of a classification: patients where every one is known; each holds its value, "
  .. "within 0 and 1", function()
  local labels, probabilities, patients = answers(120)
  local result = metrics.classification(labels, probabilities, { "a", "b", "c" })
  local by_image = metrics.classification_intervals(labels, probabilities)
  local by_patient = metrics.classification_intervals(labels, probabilities, { patients = patients })
  t.equal({ by_image.resampled, by_image.units, by_image.note }, { "images", 120, "image-level, patients unknown" })
  t.equal({ by_patient.resampled, by_patient.units, by_patient.note }, { "patients", 73 })
  for _, all in ipairs { by_image, by_patient } do
    for name, value in pairs { accuracy = result.accuracy, macro_f1 = result.macro.f1,
        auroc_macro = result.auroc_macro } do
      local low, high = table.unpack(all[name])
      t.ok(0 <= low and low < value and value < high and high <= 1, name)
    end
  end
  patients[3] = "unknown"
  t.equal(metrics.classification_intervals(labels, probabilities, { patients = patients }), by_image)
  local alike = {}
  for i = 1, 120 do alike[i] = "p" .. i // 12 end
  t.equal(metrics.classification_intervals(labels, probabilities, { patients = alike }).units, 11)
end)

t.test("a class with one image, or none, gives the AUROC no interval, and the reason; all answers right "
  .. "give bounds", function()
  local labels, probabilities = answers(60)
  for i = 1, 60 do labels[i] = i == 1 and 2 or i % 2 end
  local all = metrics.classification_intervals(labels, probabilities)
  t.ok(all.auroc_macro[1] ~= all.auroc_macro[1] and all.accuracy[1] == all.accuracy[1]
    and all.macro_f1[1] == all.macro_f1[1])
  t.equal(all.why.auroc_macro, "a side has fewer than two images")
  for i = 1, 60 do labels[i] = i % 2 end
  t.equal(metrics.classification_intervals(labels, probabilities).why.auroc_macro,
    "a class has no image, or all of them")
  for i = 1, 60 do
    labels[i], probabilities[i] = i % 3, { 0.1, 0.1, 0.1 }
    probabilities[i][i % 3 + 1] = 0.8
  end
  local right = metrics.classification_intervals(labels, probabilities)
  t.near(right.auroc_macro, { 0.025 ^ (1 / 20), 1 }, 1e-12) -- 20 images of each class
  t.near(right.accuracy, { units.wilson(1, 60) }, 1e-12)
  t.equal({ right.why.macro_f1, right.kind.macro_f1, right.kind.auroc_macro, right.kind.accuracy },
    { "no spread", "delta-method", "delta-method", "Wilson" })
end)

-- Shares of samples in which the interval of macro F1 holds its true value, and in which macro AUROC has one; three
-- classes.
local function coverage(samples, n, confused, seed)
  local f1, areas = 0, 0
  for s = 1, samples do
    local numbers = require("medxai.core").rng.stream { seed = seed, purpose = "answers@1",
      replicate = s }:uniform(3 * n)
    local u, labels, probabilities = numbers:tolist(), {}, {}
    numbers:close()
    for i = 1, n do
      labels[i] = i % 3
      local said = u[i] < confused and (labels[i] + 1 + math.floor(2 * u[n + i])) % 3 or labels[i]
      local p = 0.34 + 0.66 * u[2 * n + i]
      probabilities[i] = { (1 - p) / 2, (1 - p) / 2, (1 - p) / 2 }
      probabilities[i][said + 1] = p
    end
    local all = metrics.classification_intervals(labels, probabilities)
    local low, high = table.unpack(all.macro_f1)
    f1 = f1 + (low <= 1 - confused and 1 - confused <= high and 1 or 0)
    areas = areas + (all.auroc_macro[1] == all.auroc_macro[1] and 1 or 0)
  end
  return f1 / samples, areas / samples
end

t.test("the interval of macro F1 holds it in 0.90 to 0.99 of 200 samples of 60 images, and every "
  .. "area has one", function()
  local f1, areas = coverage(200, 60, 0.15, 1)
  t.ok(f1 >= 0.90 and f1 <= 0.995, f1)
  t.equal(areas, 1)
end)
