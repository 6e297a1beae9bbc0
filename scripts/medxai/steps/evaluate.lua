-- Runs a model over a split without autograd and judges its answers: predictions.csv, metrics, the classification report.
-- Every evaluation of a test split is counted in the run and printed, since a test set wears out by being looked at.
-- It refuses a split whose classes are not the model's, and a network whose answers are not finite.
local check = require "medxai.base.options"
local canon = require "medxai.base.json"
local files = require "medxai.base.files"
local host = require "medxai.host"
local metrics = require "medxai.stats.classification"
local Progress = require "medxai.base.progress"

local evaluate = {}

evaluate.spec = {
  batch = { "integer", default = 32, min = 1 },
  name = { "string" },
  resamples = { "integer", default = 1000, min = 10 },
  level = { "number", default = 0.95, above = 0, max = 1 },
}

--- Raises unless the split's classes are the model's, in its order.
---@param what string
function evaluate.check_classes(what, model, classes)
  if model.num_classes ~= #classes then
    check.fail(what, "the model has %d classes, the data %d (%s). Build the model with classes = data.classes.",
      model.num_classes, #classes, table.concat(classes, ", "))
  end
  for c, name in ipairs(model.classes or {}) do
    if name ~= classes[c] then
      check.fail(what, "class %d is '%s' in the model and '%s' in the data (expected %s).", c - 1, name, classes[c],
        table.concat(model.classes, ", "))
    end
  end
end

-- Softmax in float64 of one row of logits.
local function softmax(row)
  local top, sum, out = -math.huge, 0.0, {}
  for _, z in ipairs(row) do top = math.max(top, z) end
  for c, z in ipairs(row) do
    out[c] = math.exp(z - top)
    sum = sum + out[c]
  end
  for c = 1, #row do out[c] = out[c] / sum end
  return out
end

-- log(1 + x) to full precision for small x (Kahan).
local function log1p(x)
  local u = 1 + x
  return u == 1 and x or math.log(u) * x / (u - 1)
end

-- The place (from 1) of the largest logit, and how much the others add to its 1 in the softmax's divisor.
local function top_and_rest(row)
  local top, rest = 1, 0.0
  for c, z in ipairs(row) do
    if z > row[top] then top = c end
  end
  for c, z in ipairs(row) do
    if c ~= top then rest = rest + math.exp(z - row[top]) end
  end
  return top, rest
end

--- -log softmax[label] of one row of logits in float64; a sure answer's loss keeps its digits.
---@param row number[]
---@param label integer from 0
function evaluate.cross_entropy(row, label)
  local top, rest = top_and_rest(row)
  return row[top] - row[label + 1] + log1p(rest)
end

-- log(p / (1 - p)) of every class of a row: in the order of the probabilities, also where they have all become 1.
local function log_odds(row)
  local top, rest = top_and_rest(row)
  local out = {}
  for c, z in ipairs(row) do
    local own = z - row[top]
    out[c] = c == top and -math.log(rest) or own - math.log(1 + rest - math.exp(own))
  end
  return out
end

-- The first logit of a row that is not finite, or nil.
local function not_finite(row)
  for _, z in ipairs(row) do
    if not check.is_finite(z) then return z end
  end
end

-- Takes the loader's next batch through the model; returns how many images it had, nil at the end.
local function one_batch(model, split, loader, answers, options)
  local torch = require "medxai.torch"
  local scope <close> = require("medxai").scope()
  local batch = loader:next()
  if not batch then return nil end
  local logits = torch.no_grad(function() return (batch.values and options.prefix:logits(model, batch.values) or model(batch.x)) end)
  local rows, labels = logits:tolist(), batch.y:tolist()
  for i, row in ipairs(rows) do
    local bad = not_finite(row)
    if bad then require("medxai.train.diagnose").answer(model, split, batch.index[i], bad, options.trainer) end
    local n = #answers.labels + 1
    answers.labels[n], answers.logits[n], answers.probabilities[n] = labels[i], row, softmax(row)
    answers.loss = answers.loss + evaluate.cross_entropy(row, labels[i])
  end
  return #rows
end

--- The model's answers over a whole split, in the split's order. The model's mode is put back afterwards.
---@param model table
---@param split table
---@param options { batch: integer, name?: string, alive?: fun(), prefix?: table, trainer?: medxai.Trainer } prefix: cached outputs of
---  the frozen part (prefix.lua); trainer: whose validation this is
---@return table answers { labels, logits, probabilities, loss (mean cross entropy), accuracy, seconds, wait_seconds }
function evaluate.predict(model, split, options)
  local training = model:is_training()
  model:eval()
  local restore <close> = setmetatable({}, { __close = function() if training then model:train() end end })
  local answers = { labels = {}, logits = {}, probabilities = {}, loss = 0.0 }
  local began = host.now()
  local bar <close> = Progress.new(options.name or ("evaluate " .. split.name), split.n)
  local loader <close> = options.prefix and options.prefix:source(split, { batch = options.batch })
    or split:loader { batch = options.batch, channels_last = model.layout == "channels_last" }
  for n in function() return one_batch(model, split, loader, answers, options) end do
    if options.alive then options.alive() end
    bar:add(n)
  end
  local n, correct = #answers.labels, 0
  answers.predicted = metrics.argmax(answers.logits)
  for i, label in ipairs(answers.labels) do
    if answers.predicted[i] == label then correct = correct + 1 end
  end
  answers.loss = n > 0 and answers.loss / n or 0 / 0
  answers.accuracy = n > 0 and correct / n or 0 / 0
  answers.seconds, answers.wait_seconds = host.now() - began, loader.wait_seconds
  return answers
end

-- ---- predictions.csv ----------------------------------------------------------------------------------------------

local function prediction_columns(classes)
  local columns = { "image_id", "path", "patient", "source", "split", "label", "predicted" }
  for _, name in ipairs(classes) do columns[#columns + 1] = "logit_" .. name end
  for _, name in ipairs(classes) do columns[#columns + 1] = "prob_" .. name end
  columns[#columns + 1] = "input_mode"
  return columns
end

local function prediction_rows(split, classes, answers, input_mode)
  local rows = {}
  for i = 1, split.n do
    local item = split:item(i)
    local row = { image_id = item.id, path = item.path, patient = item.patient, source = item.source,
      split = split.name, label = classes[answers.labels[i] + 1], predicted = classes[answers.predicted[i] + 1],
      input_mode = input_mode }
    for c, name in ipairs(classes) do
      row["logit_" .. name] = answers.logits[i][c]
      row["prob_" .. name] = answers.probabilities[i][c]
    end
    rows[i] = row
  end
  return rows
end

--- Writes a split's predictions into the run's table, in the place of earlier ones of the same split.
---@param run table
---@param split table
---@param answers table from predict
---@param file? string default predictions.csv
function evaluate.write_predictions(run, split, answers, file)
  local path = files.join(run.dir, file or "predictions.csv")
  local columns = prediction_columns(split.classes)
  local kept = {}
  local earlier, earlier_columns = files.read_csv(path)
  if earlier and table.concat(earlier_columns, "\0") == table.concat(columns, "\0") then
    for _, row in ipairs(earlier) do
      if row.split ~= split.name then kept[#kept + 1] = row end
    end
  end
  local rows = prediction_rows(split, split.classes, answers, run:input_mode(split))
  local first, second = kept, rows
  if split.name == "val" then first, second = rows, kept end -- validation before test
  table.move(second, 1, #second, #first + 1, first)
  files.write_csv(path, columns, first)
end

-- ---- the step -------------------------------------------------------------------------------------------------------

-- How often the test split has been looked at in this run, this time included.
local function count_evaluation(run, split, step)
  local path = files.join(run.dir, "evaluations.jsonl")
  local count = 1
  for _, record in ipairs(files.records(path)) do
    if record.split == split.name then count = count + 1 end
  end
  files.append_line(path, canon.write { split = split.name, step = step.name, key = step.key,
    time = os.date("!%Y-%m-%dT%H:%M:%SZ") }, true)
  return count
end

local function judge(run, split, answers, options)
  local scores, patients = {}, {}
  for i, row in ipairs(answers.logits) do scores[i] = log_odds(row) end
  local result = metrics.classification(answers.labels, scores, split.classes)
  result.loss, result.split = answers.loss, split.name
  for i = 1, split.n do patients[i] = split:item(i).patient end
  result.intervals = metrics.classification_intervals(answers.labels, scores,
    { patients = patients, resamples = options.resamples, level = options.level, seed = run.seed, id = split.name })
  result.remarks = canon.list(metrics.remarks(result))
  return result
end

-- What is to be said before the numbers: it stands on the first lines, and among the warnings at the end.
local function tell_remarks(run, result, name)
  for _, remark in ipairs(result.remarks or {}) do run:warn(string.format("%s: %s", name, remark)) end
end

local function print_result(result, name, count)
  local interval = result.intervals.accuracy or { 0 / 0, 0 / 0 }
  print(string.format("\n%s: %d images", name, result.n))
  for _, remark in ipairs(result.remarks or {}) do print("note: " .. remark) end
  print(metrics.report(result))
  local between = interval[1] == interval[1] and string.format(", %g %% interval %.4f to %.4f", 100 * result.intervals.level, interval[1], interval[2]) or ""
  print(string.format("accuracy %.4f%s (%s), loss %.4f", result.accuracy, between,
    result.intervals.note or ("patients resampled: " .. result.intervals.units), result.loss))
  if count then print(string.format("evaluation %d of the %s split in this run", count, result.split)) end
end

-- Rows of metrics.csv: step, split, epoch, class, metric, value.
local function metric_rows(name, result)
  local rows = {}
  local function add(class, metric, value)
    rows[#rows + 1] = { step = name, split = result.split, class = class, metric = metric, value = value }
  end
  add("", "n", result.n)
  for _, metric in ipairs { "accuracy", "balanced_accuracy", "loss", "auroc_macro", "auroc_weighted" } do
    add("", metric, result[metric])
  end
  for _, average in ipairs { "micro", "macro", "weighted" } do
    for _, metric in ipairs { "precision", "recall", "f1" } do add("", metric .. "_" .. average, result[average][metric]) end
  end
  for _, class in ipairs(result.per_class) do
    for _, metric in ipairs { "precision", "recall", "f1", "auroc", "support" } do add(class.class, metric, class[metric]) end
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
  check.options("evaluate", options, evaluate.spec)
  if split ~= unknown then check_split(split) end
  if split ~= unknown and model ~= unknown then evaluate.check_classes("evaluate", model, split.classes) end
end

--- run:evaluate. Returns the metrics as a table (metrics.classification, with loss and intervals).
---@param any_input? boolean the model may have been trained on another kind of input (run:cross_evaluate)
function evaluate.run(run, model, split, options, any_input)
  options = check.options("evaluate", options, evaluate.spec)
  check_split(split)
  evaluate.check_classes("evaluate", model, split.classes)
  require("medxai.nn.model_file").check_data(run, model, split.data, { any_mask = any_input })
  if check.smoke() then options.batch, options.resamples = 4, check.smoke_count(options.resamples, 20) end
  local name = "evaluate-" .. (options.name or split.name):gsub("[^%w_%-]", "_")
  local step = run:step(name, { model = run:describe_model(model), data = run:describe_split(split), batch = options.batch,
    resamples = options.resamples, level = options.level })
  run:configure(name, step.fields)
  if step.done then
    run:skipped(name)
    tell_remarks(run, step.result, name)
    print_result(step.result, split.name, step.result.evaluations)
    return step.result
  end
  run:write_manifest(split.data)
  local clock <close> = run:clock(name)
  step:begin()
  local answers = evaluate.predict(model, split, { batch = options.batch, name = name, alive = function() run:heartbeat(name) end })
  local result = judge(run, split, answers, options)
  local predictions = options.name and ("predictions-" .. name:sub(10) .. ".csv") or "predictions.csv"
  evaluate.write_predictions(run, split, answers, predictions)
  if split.name == "test" then result.evaluations = count_evaluation(run, split, step) end
  run:log_metrics(name, metric_rows(name, result), { step = name, split = split.name, accuracy = result.accuracy, loss = result.loss,
    macro_f1 = result.macro.f1, auroc_macro = result.auroc_macro })
  step:finish(result, nil, { predictions })
  tell_remarks(run, result, name)
  print_result(result, split.name, result.evaluations)
  return result
end

return evaluate
