-- Metrics against what scikit-learn 1.2.1 said of stored cases (tests/reference/metrics.py made them).
local t = require "t"
local metrics = require "medxai.stats.classification"
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
  local result = metrics.classification({ 0, 0, 1 }, { { 0.9, 0.1, 0 }, { 0.2, 0.8, 0 }, { 0.1, 0.9, 0 } }, { "a", "b", "c" })
  local text = metrics.report(result)
  t.equal(text:match("\n(c [^\n]*)"), "c                0.0000    0.0000    0.0000 undefined        0")
  t.equal(text:match("accuracy[^\n]*"), "accuracy                             0.6667                  3")
end)

t.test("metrics refuse rows that do not fit", function()
  t.fails(function() metrics.classification({ 0 }, { { 1, 0 } }, { "a", "b", "c" }) end,
    "metrics: sample 1 has 2 probabilities (expected 3, one a class).")
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
