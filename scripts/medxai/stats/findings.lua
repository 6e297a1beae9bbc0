-- Answers of a network whose images may have several findings: for each finding, over the images where its truth is
-- known, area under the ROC curve (DeLong's interval), average precision, F1, sensitivity and specificity at its
-- threshold, Brier score and calibration error; and their means over the findings. Plain Lua on plain tables: labels
-- [image][finding] are 1, 0 or NaN, logits likewise. What has no value is NaN. It refuses rows of another width.
local calibration = require "medxai.stats.calibration"
local check = require "medxai.base.check"
local delong = require "medxai.stats.delong"
local metrics = require "medxai.stats.classification"
local text_table = require "medxai.base.text_table"
local units = require "medxai.stats.units"

local findings = {}

local nan = 0 / 0

local function ratio(a, b) return b == 0 and 0.0 or a / b end -- scikit-learn's zero_division = 0

--- 1 / (1 + exp(-z)) with all its digits.
---@param z number
---@return number
function findings.sigmoid(z)
  if z >= 0 then return 1 / (1 + math.exp(-z)) end
  local e = math.exp(z)
  return e / (1 + e)
end

--- -log of the probability of a label, 1 or 0, from its logit.
---@param z number
---@param y number
---@return number
function findings.cross_entropy(z, y)
  local e = math.exp(-math.abs(z))
  local u = 1 + e
  local log1p = u == 1 and e or math.log(u) * e / (u - 1) -- Kahan
  return math.max(z, 0) - z * y + log1p
end

-- The images where a finding's truth is known: { index, scores, is_positive, positives, negatives }.
local function known(labels, logits, k)
  local out = { index = {}, scores = {}, is_positive = {}, positives = 0, negatives = 0 }
  for i, row in ipairs(labels) do
    local y = row[k]
    if y == y then
      local n = #out.index + 1
      out.index[n], out.scores[n], out.is_positive[n] = i, logits[i][k], y == 1
      if y == 1 then out.positives = out.positives + 1 else out.negatives = out.negatives + 1 end
    end
  end
  return out
end

-- ---- average precision ----------------------------------------------------------------------------------------------

-- Image numbers by descending score, in groups of equal ones: { images, positives, up to and with it: all, hits }.
local function groups_of(scores, is_positive)
  local order, list = {}, {}
  for i in ipairs(scores) do order[i] = i end
  table.sort(order, function(a, b) return scores[a] > scores[b] or scores[a] == scores[b] and a < b end)
  local all, hits = 0, 0
  for _, i in ipairs(order) do
    local group = list[#list]
    if not group or scores[group.images[1]] ~= scores[i] then
      group = { images = {}, positives = 0 }
      list[#list + 1] = group
    end
    group.images[#group.images + 1] = i
    all, hits = all + 1, hits + (is_positive[i] and 1 or 0)
    group.positives = group.positives + (is_positive[i] and 1 or 0)
    group.all, group.hits = all, hits
  end
  return list, hits
end

--- Average precision (scikit-learn's average_precision_score): the mean over the positives of the precision among the
--- images that score as high; and its derivative by the weight of every image, for its variance (infinitesimal
--- jackknife; Efron 1982, 6.1).
---@param scores number[] higher means more positive
---@param is_positive boolean[]
---@return number value NaN without a positive
---@return number[] derivative
function findings.average_precision(scores, is_positive)
  local groups, m = groups_of(scores, is_positive)
  if m == 0 then return nan, {} end
  local value, derivative, up, down = 0.0, {}, 0.0, 0.0
  for _, g in ipairs(groups) do value = value + g.positives * g.hits / g.all / m end
  for k = #groups, 1, -1 do -- an image counts in the precision of all that score as low as it or lower
    local g = groups[k]
    up = up + g.positives * (g.all - g.hits) / (g.all * g.all)
    down = down + g.positives * g.hits / (g.all * g.all)
    for _, i in ipairs(g.images) do
      derivative[i] = is_positive[i] and (g.hits / g.all - value + up) / m or -down / m
    end
  end
  return value, derivative
end

-- ---- thresholds -----------------------------------------------------------------------------------------------------

--- The logit that parts positives from negatives best: the largest sensitivity + specificity - 1 (Youden 1950), halfway
--- between two scores; of several the highest. nil where a side is empty.
---@param scores number[]
---@param is_positive boolean[]
---@return number|nil
function findings.threshold(scores, is_positive)
  local groups, m = groups_of(scores, is_positive)
  local n = #scores - m
  if m == 0 or n == 0 then return nil end
  local best, at = -math.huge, nil
  for k = 1, #groups - 1 do
    local g = groups[k]
    local index = g.hits / m - (g.all - g.hits) / n
    if index > best then
      best, at = index, (scores[g.images[1]] + scores[groups[k + 1].images[1]]) / 2
    end
  end
  return at
end

--- Of every finding: its logit, by findings.threshold; 0 (a probability of one half) where a side is empty.
---@param labels number[][]
---@param logits number[][]
---@return number[]
function findings.thresholds(labels, logits)
  local list = {}
  for k = 1, #(logits[1] or {}) do
    local one = known(labels, logits, k)
    list[k] = findings.threshold(one.scores, one.is_positive) or 0.0
  end
  return list
end

-- ---- judging --------------------------------------------------------------------------------------------------------

local function counted(one, threshold)
  local c = { tp = 0, fp = 0, fn = 0, tn = 0 }
  for i, score in ipairs(one.scores) do
    local key = score >= threshold and (one.is_positive[i] and "tp" or "fp") or (one.is_positive[i] and "fn" or "tn")
    c[key] = c[key] + 1
  end
  return c
end

local function mean_of(list)
  local sum, n = 0.0, 0
  for _, v in ipairs(list) do
    if v == v then sum, n = sum + v, n + 1 end
  end
  return n > 0 and sum / n or nan
end

--- What a training tells of an epoch, at probabilities of one half: accuracy (share of known labels), and means over
--- the findings that have both sides: balanced_accuracy, macro_f1, auroc.
---@param labels number[][]
---@param logits number[][]
---@return table
function findings.quick(labels, logits)
  local right, all, balanced, f1, auroc = 0, 0, {}, {}, {}
  for k = 1, #(logits[1] or {}) do
    local one = known(labels, logits, k)
    local c = counted(one, 0.0)
    right, all = right + c.tp + c.tn, all + #one.index
    if one.positives > 0 and one.negatives > 0 then
      local n = #auroc + 1
      balanced[n] = (c.tp / one.positives + c.tn / one.negatives) / 2
      f1[n] = ratio(2 * c.tp, 2 * c.tp + c.fp + c.fn)
      auroc[n] = metrics.auroc(one.scores, one.is_positive)
    end
  end
  return { accuracy = all > 0 and right / all or nan, balanced_accuracy = mean_of(balanced), macro_f1 = mean_of(f1),
    auroc = mean_of(auroc) }
end

-- The interval of a number in 0 to 1 from its derivatives by the weights of images (n of them, over's): on the scale of
-- log odds. least: units on the smaller side.
local function interval_of(value, derivative, over, least, level)
  if value ~= value or least < 2 or over.count < units.least then return { nan, nan } end
  local sums, squares = {}, 0.0
  for i, d in pairs(derivative) do sums[over.unit[i]] = (sums[over.unit[i]] or 0.0) + d end
  for u = 1, over.count do squares = squares + (sums[u] or 0.0) ^ 2 end
  local se = math.sqrt(over.count / (over.count - 1) * squares)
  if se <= 1e-12 or value <= 0 or value >= 1 then return { nan, nan } end
  return { units.logit_interval(value, se, least, level) }
end

-- Units on the smaller side of a finding.
local function least_of(one, over)
  local sides = { [true] = {}, [false] = {} }
  local count = { [true] = 0, [false] = 0 }
  for i, positive in ipairs(one.is_positive) do
    local unit = over.unit[one.index[i]]
    if not sides[positive][unit] then sides[positive][unit], count[positive] = true, count[positive] + 1 end
  end
  return math.min(count[true], count[false])
end

-- Derivatives by the weights of the known images as those of all images, added to `sum`.
local function spread(sum, one, derivative, share)
  for i, d in ipairs(derivative) do sum[one.index[i]] = (sum[one.index[i]] or 0.0) + share * d end
end

local function area_derivative(p)
  local out = {}
  for i, v in ipairs(p.placement) do out[i] = (v - p.auc) / (p.is_positive[i] and p.positives or p.negatives) end
  return out
end

local function f1_columns(ones, thresholds, n)
  local k, columns = #ones, {}
  for d = 1, 3 * k do
    columns[d] = {}
    for i = 1, n do columns[d][i] = 0 end
  end
  for c, one in ipairs(ones) do
    for i, image in ipairs(one.index) do
      local says, is = one.scores[i] >= thresholds[c], one.is_positive[i]
      columns[c][image] = says and is and 1 or 0
      columns[k + c][image], columns[2 * k + c][image] = is and 1 or 0, says and 1 or 0
    end
  end
  return columns
end

local function share_interval(over, columns, level)
  local r = over:share(over:totals(columns, metrics.averages.macro_f1), level)
  return { r.low, r.high }
end

local function calibration_of(one)
  local confidences, hits, brier = {}, {}, 0.0
  for i, z in ipairs(one.scores) do
    confidences[i], hits[i] = findings.sigmoid(z), one.is_positive[i] and 1 or 0
    brier = brier + (confidences[i] - hits[i]) ^ 2
  end
  if #hits == 0 then return nan, nan end
  return brier / #hits, (calibration.ece(confidences, hits))
end

-- Everything about one finding; what its part in the means needs comes second.
local function judge_one(one, name, threshold, o, n)
  local c, level = counted(one, threshold), o.over.level
  local placements = delong.placements(one.scores, one.is_positive)
  local precision_value, precision_derivative = findings.average_precision(one.scores, one.is_positive)
  if one.negatives == 0 then precision_value = nan end -- 1 whatever the network says
  local least, derivative = least_of(one, o.over), {}
  spread(derivative, one, precision_derivative, 1)
  local area = {}
  if placements.auc == placements.auc then spread(area, one, area_derivative(placements), 1) end
  local brier, ece = calibration_of(one)
  return { class = name, support = one.positives, negatives = one.negatives, unknown = n - #one.index,
    auroc = placements.auc, auroc_interval = interval_of(placements.auc, area, o.over, least, level),
    average_precision = precision_value,
    average_precision_interval = interval_of(precision_value, derivative, o.over, least, level),
    precision = ratio(c.tp, c.tp + c.fp), recall = ratio(c.tp, one.positives),
    f1 = ratio(2 * c.tp, 2 * c.tp + c.fp + c.fn),
    f1_interval = share_interval(o.over, f1_columns({ one }, { threshold }, n), level),
    sensitivity = one.positives > 0 and c.tp / one.positives or nan,
    specificity = one.negatives > 0 and c.tn / one.negatives or nan,
    threshold = findings.sigmoid(threshold), brier = brier, ece = ece, predicted = c.tp + c.fp,
    right = c.tp + c.tn, known = #one.index },
    { area = area, precision = derivative, least = least }
end

-- Means over the findings that have both sides, with intervals.
local function judge_all(result, ones, parts, thresholds, over)
  local kept, area, precision, least = {}, {}, {}, math.huge
  for k, row in ipairs(result.per_class) do
    if row.support > 0 and row.negatives > 0 then kept[#kept + 1] = k end
  end
  local m, kept_ones, kept_thresholds, sum = #kept, {}, {}, {}
  for j, k in ipairs(kept) do
    local row = result.per_class[k]
    kept_ones[j], kept_thresholds[j] = ones[k], thresholds[k]
    least = math.min(least, parts[k].least)
    for i, d in pairs(parts[k].area) do area[i] = (area[i] or 0.0) + d / m end
    for i, d in pairs(parts[k].precision) do precision[i] = (precision[i] or 0.0) + d / m end
    for _, name in ipairs { "auroc", "average_precision", "precision", "recall", "f1", "sensitivity", "specificity",
      "brier", "ece" } do sum[name] = (sum[name] or 0.0) + row[name] / m end
  end
  result.macro, result.judged = m > 0 and sum or {}, m
  result.auroc_macro = sum.auroc or nan
  local f1 = m > 0 and share_interval(over, f1_columns(kept_ones, kept_thresholds, result.n), over.level)
    or { nan, nan }
  result.intervals = { level = over.level, resampled = over.resampled, units = over.count, note = over.note,
    accuracy = { nan, nan }, macro_f1 = f1, kind = { accuracy = "none" },
    why = { accuracy = "labels of one image belong together" },
    auroc_macro = interval_of(sum.auroc or nan, area, over, least, over.level),
    average_precision_macro = interval_of(sum.average_precision or nan, precision, over, least, over.level) }
end

--- Everything about a network's answers.
---@param labels number[][] 1, 0, NaN
---@param logits number[][]
---@param names string[] of the findings
---@param options { thresholds: number[]?, patients: string[]?, level: number? } thresholds: logits, default 0
---@return table result per_class (a row per finding), macro, accuracy, auroc_macro, intervals, n
function findings.judge(labels, logits, names, options)
  local n = #labels
  if #logits ~= n then check.fail("metrics", "labels and logits differ in length (%d and %d).", n, #logits) end
  local over = units.over(n, options.patients, { level = options.level or 0.95 })
  local result = { n = n, findings = true, classes = names, per_class = {} }
  local ones, parts, thresholds, right, all = {}, {}, {}, 0, 0
  for k, name in ipairs(names) do
    thresholds[k], ones[k] = (options.thresholds or {})[k] or 0.0, known(labels, logits, k)
    result.per_class[k], parts[k] = judge_one(ones[k], name, thresholds[k], { over = over }, n)
    right, all = right + result.per_class[k].right, all + result.per_class[k].known
  end
  result.accuracy = all > 0 and right / all or nan
  judge_all(result, ones, parts, thresholds, over)
  return result
end

--- Sentences about what the numbers hide: findings with one side only, and where thresholds were chosen.
---@param result table from judge
---@return string[]
function findings.remarks(result)
  local list = {}
  for _, row in ipairs(result.per_class) do
    local lacks = row.support == 0 and "positive" or row.negatives == 0 and "negative"
    if lacks then
      list[#list + 1] = string.format("the finding '%s' has no %s image: it is left out of the means over the findings",
        row.class, lacks)
    end
  end
  return list
end

local function cell(value, interval)
  if value == nil or value ~= value then return "undefined" end
  if not interval or interval[1] ~= interval[1] then return string.format("%.3f", value) end
  return string.format("%.3f [%.3f, %.3f]", value, interval[1], interval[2])
end

local columns = { "auroc", "average_precision", "f1", "sensitivity", "specificity", "threshold", "brier", "ece" }

--- The result as text: a line for each finding, and their means.
---@param result table from judge
---@return string
function findings.report(result)
  local rows, right = { { "", "AUROC", "average precision", "F1", "sensitivity", "specificity", "threshold", "Brier",
    "ECE", "images with", "without", "unknown" } }, {}
  for c = 2, 12 do right[c] = true end
  for _, row in ipairs(result.per_class) do
    local line = { row.class }
    for _, name in ipairs(columns) do line[#line + 1] = cell(row[name], row[name .. "_interval"]) end
    for _, name in ipairs { "support", "negatives", "unknown" } do line[#line + 1] = tostring(row[name]) end
    rows[#rows + 1] = line
  end
  local macro, i = result.macro, result.intervals
  local mean = { "mean of " .. result.judged }
  for _, name in ipairs(columns) do
    local interval = name == "auroc" and i.auroc_macro or name == "average_precision" and i.average_precision_macro
      or name == "f1" and i.macro_f1 or nil
    mean[#mean + 1] = name == "threshold" and "" or cell(macro[name], interval)
  end
  rows[#rows + 1] = mean
  return text_table(rows, { right = right, indent = "" })
    .. string.format("\n%g %% intervals over %d %s%s", 100 * i.level,
    i.units, i.resampled, i.note and " (" .. i.note .. ")" or "")
end

return findings
