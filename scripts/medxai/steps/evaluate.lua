-- Runs a model over a split without autograd and judges its answers: predictions.csv, metrics, the classification
-- report. Every evaluation of a test split is counted in the run and printed, since every look at a test set makes it
-- less of a test. It refuses a split whose classes are not the model's, and a network whose answers are not finite.
local check = require "medxai.base.check"
local Options = require "medxai.base.options"
local canon = require "medxai.base.json"
local files = require "medxai.base.files"
local findings = require "medxai.stats.findings"
local logits_of = require "medxai.stats.logits"
local metrics = require "medxai.stats.classification"
local predict = require "medxai.nn.predict"
local predictions = require "medxai.steps.predictions"

local evaluate = {}

evaluate.spec = {
  batch = { "integer", default = 32, min = 1, smoke = 4, unit = "images", doc = "per pass" },
  name = { "string", doc = "of the step and its predictions file; default: the split's" },
  level = { "number", default = 0.95, above = 0, max = 1, doc = "of the intervals" },
}

-- ---- the step -------------------------------------------------------------------------------------------------------

--- Notes that a split has been looked at; how often in this run, this time included.
---@param run medxai.Run
---@param split medxai.Split
---@param step medxai.Step
---@return integer
function evaluate.count(run, split, step)
  local path = files.join(run.dir, "evaluations.jsonl")
  local count = 1
  for _, record in ipairs(files.records(path)) do
    if record.split == split.name then count = count + 1 end
  end
  files.append_line(path, canon.write { split = split.name, step = step.name, key = step.key,
    time = os.date("!%Y-%m-%dT%H:%M:%SZ") }, true)
  return count
end

-- Of findings: at the thresholds that the model's training chose on its validation images, else at one half.
local function judge_findings(split, answers, options, thresholds)
  local patients = {}
  for i = 1, split.n do patients[i] = split:item(i).patient end
  local result = findings.judge(answers.labels, answers.logits, split.classes,
    { thresholds = thresholds, patients = patients, level = options.level })
  result.loss, result.split, result.thresholds_from = answers.loss, split.name, thresholds and "val" or "0.5"
  result.remarks = canon.list(findings.remarks(result))
  return result
end

local function thresholds_of(model, split)
  local of = model.weights_of
  return split.data and split.data.findings and of and of.described.thresholds or nil
end

local function judge(split, answers, options)
  local scores = {}
  for i, row in ipairs(answers.logits) do scores[i] = logits_of.log_odds(row) end
  local result = metrics.classification(answers.labels, scores, split.classes)
  result.loss, result.split = answers.loss, split.name
  local patients = {}
  for i = 1, split.n do patients[i] = split:item(i).patient end
  result.intervals = metrics.classification_intervals(answers.labels, scores,
    { patients = patients, level = options.level })
  result.remarks = canon.list(metrics.remarks(result))
  return result
end

-- What is to be said before the numbers: it stands on the first lines, and among the warnings at the end.
local function tell_remarks(run, result, name)
  for _, remark in ipairs(result.remarks or {}) do run:warn(string.format("%s: %s", name, remark)) end
end

-- "accuracy 0.9271, 95 % Wilson interval over 96 images 0.8565 to 0.9642 (image-level, patients unknown)"
local function with_interval(title, value, name, all)
  local low, high = all[name][1], all[name][2]
  local note = all.note and " (" .. all.note .. ")" or ""
  if low ~= low then return string.format("%s %.4f, no interval: %s%s", title, value, all.why[name], note) end
  return string.format("%s %.4f, %g %% %s interval over %d %s %.4f to %.4f%s", title, value, 100 * all.level,
    all.kind[name], all.units, all.resampled, low, high, note)
end

local function print_result(result, name, count)
  print(string.format("\n%s: %d images", name, result.n))
  for _, remark in ipairs(result.remarks or {}) do print("note: " .. remark) end
  if result.findings then
    print(findings.report(result))
    print(string.format("thresholds: %s; binary cross-entropy %.4f over the known labels",
      result.thresholds_from == "val" and "chosen on the validation images (Youden's index)" or "probabilities of 0.5",
      result.loss))
  else
    print(metrics.report(result))
    print(string.format("%s, loss %.4f", with_interval("accuracy", result.accuracy, "accuracy", result.intervals),
      result.loss))
  end
  if count then print(string.format("evaluation %d of the %s split in this run", count, result.split)) end
end

local function add_findings(add, result, rows)
  for _, name in ipairs { "accuracy", "loss", "auroc_macro" } do add("", name, result[name]) end
  for _, metric in ipairs { "average_precision", "f1", "precision", "recall", "specificity", "brier", "ece" } do
    add("", metric .. "_macro", result.macro[metric] or 0 / 0)
  end
  for _, class in ipairs(result.per_class) do
    for _, metric in ipairs { "auroc", "average_precision", "f1" } do
      add(class.class, metric, class[metric])
      add(class.class, metric .. "_low", class[metric .. "_interval"][1])
      add(class.class, metric .. "_high", class[metric .. "_interval"][2])
    end
    for _, metric in ipairs { "precision", "recall", "specificity", "threshold", "brier", "ece", "support", "negatives",
      "unknown" } do add(class.class, metric, class[metric]) end
  end
  for name, interval in pairs { macro_f1 = "macro_f1", auroc_macro = "auroc_macro",
    average_precision_macro = "average_precision_macro" } do
    add("", name .. "_low", result.intervals[interval][1])
    add("", name .. "_high", result.intervals[interval][2])
  end
  return rows
end

-- Rows of metrics.csv: step, split, epoch, class, metric, value.
local function metric_rows(name, result)
  local rows = {}
  local function add(class, metric, value)
    rows[#rows + 1] = { step = name, split = result.split, class = class, metric = metric, value = value }
  end
  add("", "n", result.n)
  if result.findings then return add_findings(add, result, rows) end
  for _, metric in ipairs { "accuracy", "balanced_accuracy", "loss", "auroc_macro", "auroc_weighted" } do
    add("", metric, result[metric])
  end
  for _, average in ipairs { "micro", "macro", "weighted" } do
    for _, metric in ipairs { "precision", "recall", "f1" } do
      add("", metric .. "_" .. average, result[average][metric])
    end
  end
  for _, class in ipairs(result.per_class) do
    for _, metric in ipairs { "precision", "recall", "f1", "auroc", "support" } do
      add(class.class, metric, class[metric])
    end
  end
  for _, metric in ipairs { "accuracy", "macro_f1", "auroc_macro" } do
    local interval = result.intervals[metric] or { 0 / 0, 0 / 0 }
    add("", metric .. "_low", interval[1])
    add("", metric .. "_high", interval[2])
  end
  return rows
end

local function check_split(split)
  if type(split) == "table" and split.n ~= nil then return end
  local got = type(split) == "table" and split.splits and "a data set" or type(split)
  check.fail("evaluate", "the second argument is no split (expected data.test, got %s).", got)
end

--- Checks a call of run:evaluate without making it (medxai.run.preflight).
function evaluate.check_call(unknown, _, model, split, options)
  Options.check("evaluate", options, evaluate.spec)
  if split ~= unknown then check_split(split) end
  if split ~= unknown and model ~= unknown then predict.check_classes("evaluate", model, split.classes, true) end
end

--- run:evaluate. Returns the metrics as a table (metrics.classification, with loss and intervals).
---@param how? { any_input?: boolean, waits?: boolean } any_input: the model may have been trained on another kind of
---   input
---  (run:cross_evaluate); waits: where others share the folder, the one that has it evaluates
function evaluate.run(run, model, split, options, how)
  how = how or {}
  options = Options.check("evaluate", options, evaluate.spec)
  check_split(split)
  predict.check_classes("evaluate", model, split.classes, true)
  predict.check_findings("evaluate", model, split.data)
  local thresholds = thresholds_of(model, split)
  require("medxai.nn.model_file").check_data(run, model, split.data, { any_mask = how.any_input })
  local name = "evaluate-" .. (options.name or split.name):gsub("[^%w_%-]", "_")
  local step = run:step(name, { model = run:describe_model(model), data = run:describe_split(split),
    batch = options.batch, level = options.level, thresholds = thresholds })
  run:configure(name, step.fields)
  if how.waits then step = run:wait_for(step) end
  if step.done then
    run:skipped(name)
    tell_remarks(run, step.result, name)
    print_result(step.result, split.name, step.result.evaluations)
    return step.result
  end
  run:write_manifest(split.data)
  local clock <close> = run:clock(name)
  step:begin()
  local answers = predict.predict(model, split,
    { batch = options.batch, name = name, alive = function() run:heartbeat(name) end })
  local result = split.data.findings and judge_findings(split, answers, options, thresholds)
    or judge(split, answers, options)
  local file = options.name and ("predictions-" .. name:sub(10) .. ".csv") or "predictions.csv"
  predictions.write(run, split, answers, file)
  if split.name == "test" then result.evaluations = evaluate.count(run, split, step) end
  run:log_metrics(name, metric_rows(name, result),
    { step = name, split = split.name, accuracy = result.accuracy, loss = result.loss,
    macro_f1 = result.macro.f1, auroc_macro = result.auroc_macro })
  step:finish(result, nil, { file })
  tell_remarks(run, result, name)
  print_result(result, split.name, result.evaluations)
  return result
end

--- What run:evaluate calls.
function evaluate.run_alone(run, model, split, options)
  return evaluate.run(run, model, split, options, { waits = true })
end

return evaluate
