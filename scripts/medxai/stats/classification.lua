-- Arithmetic metrics over a whole split: confusion matrix, accuracy, precision, recall and F1 per class and averaged,
-- one-vs-rest AUROC, intervals over patients. The numbers are scikit-learn's (labels = all classes, zero_division = 0).
-- Plain Lua on plain tables; labels are 0-based class indices. What has no value (AUROC of a class that is absent, or
-- of the only class) is NaN, never a made-up number. It refuses labels outside the classes and rows of another width.
local check = require "medxai.base.check"
local Options = require "medxai.base.options"
local delong = require "medxai.stats.delong"
local logits_of = require "medxai.stats.logits"
local text_table = require "medxai.base.text_table"
local units = require "medxai.stats.units"

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
---@return number[][] matrix [true + 1][predicted + 1]
function metrics.confusion(labels, predicted, classes)
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
      check.fail("metrics", "sample %d has label %s and prediction %s (expected 0 to %d).", i, label, predicted[i],
        classes - 1)
    end
    row[predicted[i] + 1] = row[predicted[i] + 1] + 1
  end
  return matrix
end

--- Precision, recall, F1 and support of every class, and their averages, from a confusion matrix.
---@param matrix number[][]
---@return table result { accuracy, balanced_accuracy, per_class = { { precision, recall, f1, support } }, micro,
---  macro, weighted }
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
      precision = ratio(hits, claimed), recall = ratio(hits, support), f1 = ratio(2 * hits, support + claimed),
      support = support, predicted = claimed,
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

--- Area under the ROC curve of one class against the rest. NaN where either side is empty or a score is NaN.
---@param scores number[] higher means more positive
---@param is_positive boolean[]
---@return number
function metrics.auroc(scores, is_positive)
  if #scores ~= #is_positive then
    check.fail("metrics", "scores and labels differ in length (%d and %d).", #scores, #is_positive)
  end
  for _, score in ipairs(scores) do
    if score ~= score then return nan end -- it has no order
  end
  return delong.placements(scores, is_positive).auc
end

local function auroc_all(labels, probabilities, k)
  local list = {}
  for c = 1, k do
    local scores, is_positive = {}, {}
    for i, row in ipairs(probabilities) do scores[i], is_positive[i] = row[c], labels[i] == c - 1 end
    list[c] = metrics.auroc(scores, is_positive)
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

--- Everything about a classifier's answers on a split.
---@param labels integer[] 0-based
---@param probabilities number[][] [sample][class], any scores that rank
---@param classes string[] names in order
---@return table result confusion, accuracy, per_class (with class and auroc), micro, macro, weighted, auroc_macro,
---   auroc_weighted
function metrics.classification(labels, probabilities, classes)
  local k = #classes
  if #labels ~= #probabilities then
    check.fail("metrics", "labels and probabilities differ in length (%d and %d).", #labels, #probabilities)
  end
  for i, row in ipairs(probabilities) do
    if #row ~= k then
      check.fail("metrics", "sample %d has %d probabilities (expected %d, one per class).", i, #row, k)
    end
  end
  local matrix = metrics.confusion(labels, logits_of.argmax(probabilities), k)
  local result = metrics.from_confusion(matrix)
  local aurocs = auroc_all(labels, probabilities, k)
  for c, class in ipairs(result.per_class) do
    class.class, class.auroc = classes[c], aurocs[c]
  end
  result.classes, result.confusion = classes, matrix
  result.auroc_macro, result.auroc_weighted = auroc_means(aurocs, result.per_class, result.n)
  return result
end

-- ---- intervals ----------------------------------------------------------------------------------------------------

local averages = {}

-- Macro F1 and its derivative by the totals: hits, support and predictions of each class, one after the other.
function averages.macro_f1(t)
  local k, value, gradient = #t // 3, 0.0, {}
  for c = 1, k do
    local hits, size = t[c], t[k + c] + t[2 * k + c]
    value = value + ratio(2 * hits, size) / k
    gradient[c] = ratio(2, size) / k
    gradient[k + c] = -ratio(2 * hits, size * size) / k
    gradient[2 * k + c] = gradient[k + c]
  end
  return value, gradient
end

-- Balanced accuracy, over the classes that are there.
function averages.balanced_accuracy(t)
  local k, present, value, gradient = #t // 3, 0, 0.0, {}
  for c = 1, k do present = present + (t[k + c] > 0 and 1 or 0) end
  for c = 1, k do
    value = value + ratio(t[c], t[k + c]) / present
    gradient[c], gradient[k + c], gradient[2 * k + c] = ratio(1, t[k + c]) / present,
      -ratio(t[c], t[k + c] ^ 2) / present, 0.0
  end
  return value, gradient
end

metrics.averages = averages -- name -> function of totals, for medxai.stats.units' totals

--- What macro F1 and balanced accuracy are functions of: of each class hits, support and predictions, one after the
--- other; a list of columns, each one per image.
---@param labels integer[] 0-based
---@param predicted integer[] 0-based
---@param classes integer how many
---@return number[][]
function metrics.average_columns(labels, predicted, classes)
  local columns = {}
  for d = 1, 3 * classes do
    columns[d] = {}
    for i = 1, #labels do columns[d][i] = 0 end
  end
  for i, label in ipairs(labels) do
    if label == predicted[i] then columns[label + 1][i] = 1 end
    columns[classes + label + 1][i], columns[2 * classes + predicted[i] + 1][i] = 1, 1
  end
  return columns
end

--- Macro F1 or balanced accuracy as a statistic over units: for its standard error and its intervals.
---@param name "macro_f1"|"balanced_accuracy"
---@param over medxai.Units
---@param labels integer[] 0-based
---@param predicted integer[] 0-based
---@param classes integer how many
---@return medxai.Statistic
function metrics.average(name, over, labels, predicted, classes)
  return over:totals(metrics.average_columns(labels, predicted, classes), averages[name])
end

metrics.interval_spec = {
  patients = { "table", of = "string", doc = "of each sample; \"unknown\" anywhere: images are the units" },
  level = { "number", default = 0.95, above = 0, max = 1, doc = "of the intervals" },
}

-- The class (from 1) that most samples have, the first of equals.
local function largest_class(per_class)
  local largest = 1
  for c, class in ipairs(per_class) do
    if class.support > per_class[largest].support then largest = c end
  end
  return largest
end

--- Intervals of accuracy (Wilson's), macro F1 and macro AUROC (the delta method's on the scale of log odds) of a
--- classification, and of how much its accuracy exceeds that of answering the largest class for every image
--- (studentized bootstrap), over patients where every one is known, else over images. What has none is NaN, and why
--- says so.
---@param labels integer[] 0-based
---@param probabilities number[][] [sample][class]
---@param options? table patients (of each sample), level = 0.95
---@return table { accuracy, macro_f1, auroc_macro = { low, high }, kind and why = { accuracy = ... }, level, resampled,
---   units, note }
function metrics.classification_intervals(labels, probabilities, options)
  local o = Options.check("classification_intervals", options, metrics.interval_spec)
  local k, predicted, hits = #(probabilities[1] or {}), logits_of.argmax(probabilities), {}
  for i, label in ipairs(labels) do hits[i] = label == predicted[i] and 1 or 0 end
  local over = units.over(#labels, o.patients, { level = o.level })
  local largest, above = largest_class(metrics.from_confusion(metrics.confusion(labels, predicted, k)).per_class), {}
  for i, label in ipairs(labels) do above[i] = hits[i] - (label == largest - 1 and 1 or 0) end
  local found = {
    accuracy = over:hit_rate(hits), above_largest = over:mean(above),
    macro_f1 = over:share(metrics.average("macro_f1", over, labels, predicted, k)),
    auroc_macro = delong.macro_area(delong.macro(labels, probabilities), over, o.level),
  }
  local result = { level = o.level, resampled = over.resampled, units = over.count, note = over.note, kind = {},
    why = {} }
  for name, r in pairs(found) do
    result[name], result.kind[name], result.why[name] = { r.low, r.high }, r.interval, r.why
  end
  return result
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
  local how_sure = is_known and string.format("%g %% interval %+.4f to %+.4f", 100 * result.intervals.level,
    interval[1], interval[2]) or "no interval: " .. tostring(result.intervals and result.intervals.why.above_largest
    or "too few images")
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
    list[#list + 1] = string.format("no image is of the class%s %s: %s F1 counts as 0 in the macro mean, which is "
      .. "%.4f over "
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

local function report_row(name, row)
  return { name, cell(row.precision), cell(row.recall), cell(row.f1), cell(row.auroc),
    row.support and tostring(row.support) or "" }
end

--- The classification report as text: one line per class, then accuracy and the averages, then the confusion matrix.
---@param result table from metrics.classification
---@return string
function metrics.report(result)
  local rows = { { "", "precision", "recall", "f1", "auroc", "support" } }
  for _, class in ipairs(result.per_class) do rows[#rows + 1] = report_row(class.class, class) end
  rows[#rows + 1] = {}
  rows[#rows + 1] = report_row("accuracy", { f1 = result.accuracy, support = result.n })
  rows[#rows + 1] = report_row("macro avg", { precision = result.macro.precision, recall = result.macro.recall,
    f1 = result.macro.f1, auroc = result.auroc_macro, support = result.n })
  rows[#rows + 1] = report_row("weighted avg", { precision = result.weighted.precision, recall = result.weighted.recall,
    f1 = result.weighted.f1, auroc = result.auroc_weighted, support = result.n })
  local confusion, right = {}, {}
  for c, counts in ipairs(result.confusion) do
    local row = { result.classes[c] }
    for k, count in ipairs(counts) do row[k + 1], right[k + 1] = tostring(count), true end
    confusion[c] = row
  end
  return text_table(rows, { right = { [2] = true, [3] = true, [4] = true, [5] = true, [6] = true }, indent = "" })
    .. "\n\nconfusion (rows: true, columns: predicted)\n" .. text_table(confusion, { right = right, indent = "" })
end

return metrics
