-- Arithmetic metrics over a whole split: confusion matrix, accuracy, precision, recall and F1 per class and averaged,
-- one-vs-rest AUROC, bootstrap intervals. The numbers are scikit-learn's (labels = all classes, zero_division = 0).
-- Plain Lua on plain tables; labels are 0-based class indices. What has no value (AUROC of a class that is absent, or of
-- the only class) is NaN, never a made-up number. It refuses labels outside the classes and rows of another width.
local check = require "medxai.base.options"

---@class medxai.Metrics
local metrics = {}

local nan = 0 / 0

local function ratio(a, b) -- scikit-learn's zero_division = 0
  return b == 0 and 0.0 or a / b
end

--- Counts by true class (rows) and predicted class (columns).
---@param labels integer[] 0-based
---@param predicted integer[] 0-based
---@param classes integer how many
---@param weights? number[] how often each sample counts
---@return number[][] matrix [true + 1][predicted + 1]
function metrics.confusion(labels, predicted, classes, weights)
  if #labels ~= #predicted then
    check.fail("metrics", "labels and predictions differ in length (%d and %d).", #labels, #predicted)
  end
  local matrix = {}
  for i = 1, classes do
    matrix[i] = {}
    for j = 1, classes do matrix[i][j] = 0 end
  end
  for i, label in ipairs(labels) do
    local row = matrix[label + 1]
    if not row or not row[predicted[i] + 1] then
      check.fail("metrics", "sample %d has label %s and prediction %s (expected 0 to %d).", i, label, predicted[i], classes - 1)
    end
    row[predicted[i] + 1] = row[predicted[i] + 1] + (weights and weights[i] or 1)
  end
  return matrix
end

--- Precision, recall, F1 and support of every class, and their averages, from a confusion matrix.
---@param matrix number[][]
---@return table result { accuracy, balanced_accuracy, per_class = { { precision, recall, f1, support } }, micro, macro, weighted }
function metrics.from_confusion(matrix)
  local k, total, correct = #matrix, 0, 0
  local per_class = {}
  for c = 1, k do
    local support, claimed = 0, 0
    for j = 1, k do
      support = support + matrix[c][j]
      claimed = claimed + matrix[j][c]
    end
    local hits = matrix[c][c]
    total, correct = total + support, correct + hits
    per_class[c] = {
      precision = ratio(hits, claimed), recall = ratio(hits, support), f1 = ratio(2 * hits, support + claimed), support = support,
      predicted = claimed,
    }
  end
  local macro, weighted = { precision = 0.0, recall = 0.0, f1 = 0.0 }, { precision = 0.0, recall = 0.0, f1 = 0.0 }
  local recalls, present = 0.0, 0
  for _, class in ipairs(per_class) do
    for name in pairs(macro) do
      macro[name] = macro[name] + class[name] / k
      weighted[name] = weighted[name] + ratio(class[name] * class.support, total)
    end
    if class.support > 0 then recalls, present = recalls + class.recall, present + 1 end
  end
  local accuracy = ratio(correct, total)
  return {
    n = total, accuracy = accuracy, balanced_accuracy = present > 0 and recalls / present or nan, per_class = per_class,
    micro = { precision = accuracy, recall = accuracy, f1 = accuracy }, macro = macro, weighted = weighted,
  }
end

-- Sample numbers in ascending order of score. NaN scores have no order: nil.
local function ranking(scores)
  local order = {}
  for i, score in ipairs(scores) do
    if score ~= score then return nil end
    order[i] = i
  end
  table.sort(order, function(a, b) return scores[a] < scores[b] end)
  return order
end

-- Mann-Whitney over a ready ranking; tied scores count half. O(n).
local function auroc_of(order, scores, is_positive, weights)
  local positives, negatives, area, i = 0.0, 0.0, 0.0, 1
  while i <= #order do
    local score, tied_positive, tied_negative = scores[order[i]], 0.0, 0.0
    while i <= #order and scores[order[i]] == score do
      local sample = order[i]
      local w = weights and weights[sample] or 1
      if is_positive[sample] then tied_positive = tied_positive + w else tied_negative = tied_negative + w end
      i = i + 1
    end
    area = area + tied_positive * (negatives + tied_negative / 2)
    positives, negatives = positives + tied_positive, negatives + tied_negative
  end
  if positives == 0 or negatives == 0 then return nan end
  return area / (positives * negatives)
end

--- Area under the ROC curve of one class against the rest. NaN where either side is empty or a score is NaN.
---@param scores number[] higher means more positive
---@param is_positive boolean[]
---@param weights? number[]
---@return number
function metrics.auroc(scores, is_positive, weights)
  if #scores ~= #is_positive then
    check.fail("metrics", "scores and labels differ in length (%d and %d).", #scores, #is_positive)
  end
  local order = ranking(scores)
  return order and auroc_of(order, scores, is_positive, weights) or nan
end

-- Per class: scores, which samples are positive, and the ranking: made once, used by every resample.
local function one_vs_rest(labels, probabilities, k)
  local list = {}
  for c = 1, k do
    local scores, is_positive = {}, {}
    for i, row in ipairs(probabilities) do
      scores[i], is_positive[i] = row[c], labels[i] == c - 1
    end
    list[c] = { scores = scores, is_positive = is_positive, order = ranking(scores) }
  end
  return list
end

local function auroc_all(views, weights)
  local list = {}
  for c, view in ipairs(views) do
    list[c] = view.order and auroc_of(view.order, view.scores, view.is_positive, weights) or nan
  end
  return list
end

-- Means over classes; NaN as soon as one class has none, as scikit-learn then refuses.
local function auroc_means(list, per_class, total)
  local macro, weighted = 0.0, 0.0
  for c, value in ipairs(list) do
    macro = macro + value / #list
    weighted = weighted + value * ratio(per_class[c].support, total)
  end
  return macro, weighted
end

--- The class with the largest value of each row, 0-based; the first of equals.
---@param rows number[][]
---@return integer[]
function metrics.argmax(rows)
  local list = {}
  for i, row in ipairs(rows) do
    local best = 1
    for c = 2, #row do
      if row[c] > row[best] or row[best] ~= row[best] and row[c] == row[c] then best = c end
    end
    list[i] = best - 1
  end
  return list
end

--- Everything about a classifier's answers on a split.
---@param labels integer[] 0-based
---@param probabilities number[][] [sample][class], any scores that rank
---@param classes string[] names in order
---@return table result confusion, accuracy, per_class (with class and auroc), micro, macro, weighted, auroc_macro, auroc_weighted
function metrics.classification(labels, probabilities, classes)
  local k = #classes
  if #labels ~= #probabilities then
    check.fail("metrics", "labels and probabilities differ in length (%d and %d).", #labels, #probabilities)
  end
  for i, row in ipairs(probabilities) do
    if #row ~= k then check.fail("metrics", "sample %d has %d probabilities (expected %d, one a class).", i, #row, k) end
  end
  local matrix = metrics.confusion(labels, metrics.argmax(probabilities), k)
  local result = metrics.from_confusion(matrix)
  local aurocs = auroc_all(one_vs_rest(labels, probabilities, k))
  for c, class in ipairs(result.per_class) do
    class.class, class.auroc = classes[c], aurocs[c]
  end
  result.classes, result.confusion = classes, matrix
  result.auroc_macro, result.auroc_weighted = auroc_means(aurocs, result.per_class, result.n)
  return result
end

-- ---- intervals ----------------------------------------------------------------------------------------------------

--- Whether a patient is known: readers write "unknown" where nobody said.
function metrics.is_known(patient) return patient ~= nil and patient ~= "unknown" and patient ~= "" end

-- Sample -> unit number, how many units, and what they are. Patients are the units only where every one is known.
local function units_of(n, patients)
  local unit, seen, count = {}, {}, 0
  for i = 1, n do
    local patient = patients and patients[i]
    if not metrics.is_known(patient) then
      for j = 1, n do unit[j] = j end
      return unit, n, "images"
    end
    if not seen[patient] then
      count = count + 1
      seen[patient] = count
    end
    unit[i] = seen[patient]
  end
  return unit, count, "patients"
end

--- Linear interpolation between order statistics, as numpy.percentile; q in [0, 1]. NaN for an empty list.
---@param values number[] sorted ascending
---@param q number
function metrics.quantile(values, q)
  if #values == 0 then return nan end
  local at = (#values - 1) * q
  local low = math.floor(at)
  local a, b = values[low + 1], values[math.min(low + 2, #values)]
  return a + (b - a) * (at - low)
end

local interval_spec = {
  patients = { "table" },
  resamples = { "integer", default = 1000, min = 10 },
  level = { "number", default = 0.95, above = 0, max = 1 },
  seed = { "integer", default = 42 },
  purpose = { "string", default = "bootstrap@1" },
  id = { "string", default = "" },
}

metrics.least_units = 4 -- of three, one resample in nine is the same one thrice: beyond the tails of 95 %

local function units_of_one(n)
  local weights = {}
  for i = 1, n do weights[i] = 1 end
  return weights
end

--- Percentile bootstrap of any statistics. Resamples patients where all are known, images otherwise (and says so).
--- Draws are keyed by (seed, purpose, id, resample), so an interval does not depend on what was drawn before it.
--- Of fewer than four it would be their range, whatever they are: NaN.
---@param n integer samples
---@param statistics fun(weights: number[]): table<string, number> given how often each sample counts
---@param options? table patients, resamples, level, seed, purpose, id
---@return table intervals { <name> = { low, high }, level, resampled = "patients" | "images", resamples, note? }
function metrics.bootstrap(n, statistics, options)
  options = check.options("bootstrap", options, interval_spec)
  local unit, units, kind = units_of(n, options.patients)
  local rng = require("medxai.core").rng
  local values, too_few = {}, units < metrics.least_units
  if too_few and n > 0 then
    for name in pairs(statistics(units_of_one(n))) do values[name] = {} end
  end
  for replicate = 1, too_few and 0 or options.resamples do
    local stream = rng.stream { seed = options.seed, purpose = options.purpose, id = options.id, replicate = replicate }
    local count = {}
    for u = 1, units do count[u] = 0 end
    local draws = stream:integers(units, units)
    for _, u in ipairs(draws:tolist()) do count[u + 1] = count[u + 1] + 1 end
    draws:close()
    local weights = {}
    for i = 1, n do weights[i] = count[unit[i]] end
    for name, value in pairs(statistics(weights)) do
      values[name] = values[name] or {}
      if value == value then table.insert(values[name], value) end -- a resample without a class has no AUROC
    end
  end
  local result = { level = options.level, resampled = kind, resamples = options.resamples, units = units }
  if kind == "images" then result.note = "image-level, patients unknown" end
  if too_few then result.note = (result.note and result.note .. "; " or "") .. "too few for an interval" end
  for name, list in pairs(values) do
    table.sort(list)
    local tail = (1 - options.level) / 2
    result[name] = too_few and { nan, nan } or { metrics.quantile(list, tail), metrics.quantile(list, 1 - tail) }
  end
  return result
end

--- Bootstrap interval of a weighted mean of values (NaN values are left out of it).
---@param values number[]
---@param options? table as for bootstrap
---@return table { mean, low, high, n, resampled, note? }
function metrics.mean_interval(values, options)
  local function mean(weights)
    local sum, total = 0.0, 0
    for i, value in ipairs(values) do
      if value == value then
        local w = weights and weights[i] or 1
        sum, total = sum + w * value, total + w
      end
    end
    return total > 0 and sum / total or nan, total
  end
  local intervals = metrics.bootstrap(#values, function(weights) return { mean = (mean(weights)) } end, options)
  local center, n = mean()
  local bounds = n >= metrics.least_units and intervals.mean or { nan, nan }
  return { mean = center, low = bounds[1], high = bounds[2], n = n, resampled = intervals.resampled, note = intervals.note,
    level = intervals.level }
end

-- The class (from 1) that most samples have, the first of equals.
local function largest_class(per_class)
  local largest = 1
  for c, class in ipairs(per_class) do
    if class.support > per_class[largest].support then largest = c end
  end
  return largest
end

--- Intervals of accuracy, macro F1 and macro AUROC of a classification, and of how much its accuracy exceeds that of
--- answering the largest class for every image.
---@param labels integer[]
---@param probabilities number[][] any scores that rank
---@param options? table as for bootstrap
function metrics.classification_intervals(labels, probabilities, options)
  local k = probabilities[1] and #probabilities[1] or 0
  local largest
  local predicted = metrics.argmax(probabilities)
  local views = one_vs_rest(labels, probabilities, k)
  return metrics.bootstrap(#labels, function(weights)
    local result = metrics.from_confusion(metrics.confusion(labels, predicted, k, weights))
    largest = largest or largest_class(metrics.from_confusion(metrics.confusion(labels, predicted, k)).per_class)
    return { accuracy = result.accuracy, macro_f1 = result.macro.f1,
      above_largest = result.accuracy - ratio(result.per_class[largest].support, result.n),
      auroc_macro = (auroc_means(auroc_all(views, weights), result.per_class, result.n)) }
  end, options)
end

-- ---- what is to be said in words ------------------------------------------------------------------------------------

local function quoted(names) return "'" .. table.concat(names, "', '") .. "'" end

-- The class that every sample is answered with, nil where there are two.
local function only_answer(result)
  local found
  for _, class in ipairs(result.per_class) do
    if class.predicted > 0 then
      if found then return nil end
      found = class.class
    end
  end
  return found
end

-- Classes without a sample, and the mean F1 of the others.
local function absent_classes(result)
  local names, sum = {}, 0.0
  for _, class in ipairs(result.per_class) do
    if class.support == 0 then names[#names + 1] = class.class else sum = sum + class.f1 end
  end
  return names, sum / (#result.per_class - #names)
end

local function not_above_largest(result)
  local largest = result.per_class[largest_class(result.per_class)]
  local share, interval = largest.support / result.n, (result.intervals or {}).above_largest or { nan, nan }
  local is_known = interval[1] == interval[1]
  if is_known and interval[1] > 0 or not is_known and result.accuracy > share then return nil end
  local how_sure = is_known and string.format("%g %% interval %+.4f to %+.4f", 100 * result.intervals.level, interval[1],
    interval[2]) or "too few images for an interval"
  return string.format("accuracy %.4f is not shown to be better than that of answering '%s' for every image, %.4f "
    .. "(difference %+.4f, %s)", result.accuracy, largest.class, share, result.accuracy - share, how_sure)
end

--- Sentences about what the numbers of a classification hide: one class answered for everything, no better than the
--- largest class, images of one class only, classes without an image.
---@param result table from classification, with intervals
---@return string[]
function metrics.remarks(result)
  local list, absent, f1 = {}, absent_classes(result)
  if result.n == 0 then return list end
  local one = #absent == #result.per_class - 1
  if one then
    list[1] = string.format("every image is of the class '%s': accuracy does not tell whether the model knows it from "
      .. "others", result.per_class[largest_class(result.per_class)].class)
  elseif only_answer(result) then
    list[1] = string.format("the model answers '%s' for every one of the %d images", only_answer(result), result.n)
  else
    list[1] = not_above_largest(result)
  end
  if #absent > 0 and not one then
    local many = #absent > 1
    list[#list + 1] = string.format("no image is of the class%s %s: %s F1 counts as 0 in the macro mean, which is %.4f over "
      .. "the classes that are there", many and "es" or "", quoted(absent), many and "their" or "its", f1)
  end
  return list
end

-- ---- text -----------------------------------------------------------------------------------------------------------

local function cell(value)
  if value == nil then return "" end
  if value ~= value then return "undefined" end
  return string.format("%.4f", value)
end

local function rule_line(name, row, width)
  return string.format("%-" .. width .. "s  %9s %9s %9s %9s %8s", name, cell(row.precision), cell(row.recall), cell(row.f1),
    cell(row.auroc), row.support and string.format("%d", row.support) or "")
end

--- The classification report as text: one line a class, then accuracy and the averages, then the confusion matrix.
---@param result table from metrics.classification
---@return string
function metrics.report(result)
  local width = 12
  for _, name in ipairs(result.classes) do width = math.max(width, utf8.len(name) or #name) end
  local lines = { string.format("%-" .. width .. "s  %9s %9s %9s %9s %8s", "", "precision", "recall", "f1", "auroc", "support") }
  for _, class in ipairs(result.per_class) do lines[#lines + 1] = rule_line(class.class, class, width) end
  lines[#lines + 1] = ""
  lines[#lines + 1] = rule_line("accuracy", { f1 = result.accuracy, support = result.n }, width)
  lines[#lines + 1] = rule_line("macro avg", { precision = result.macro.precision, recall = result.macro.recall,
    f1 = result.macro.f1, auroc = result.auroc_macro, support = result.n }, width)
  lines[#lines + 1] = rule_line("weighted avg", { precision = result.weighted.precision, recall = result.weighted.recall,
    f1 = result.weighted.f1, auroc = result.auroc_weighted, support = result.n }, width)
  lines[#lines + 1] = ""
  lines[#lines + 1] = "confusion (rows: true, columns: predicted)"
  for c, row in ipairs(result.confusion) do
    local cells = {}
    for j, count in ipairs(row) do cells[j] = string.format("%7d", count) end
    lines[#lines + 1] = string.format("%-" .. width .. "s  %s", result.classes[c], table.concat(cells, " "))
  end
  return table.concat(lines, "\n")
end

return metrics
