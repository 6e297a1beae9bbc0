-- A model's answers over a split, without autograd: logits, probabilities, mean cross entropy, accuracy.
-- It refuses classes that are not the model's, and answers that are not finite.
local check = require "medxai.base.check"
local host = require "medxai.host"
local findings = require "medxai.stats.findings"
local logits = require "medxai.stats.logits"
local Progress = require "medxai.base.progress"

local predict = {}

--- Raises unless the split's classes are the model's, in its order.
---@param what string
---@param findings_too? boolean the step knows several findings per image
function predict.check_classes(what, model, classes, findings_too)
  if model.outputs == "sigmoid" and not findings_too then
    check.fail(what, "the model answers several findings per image (outputs = \"sigmoid\"), which this step "
      .. "cannot judge "
      .. "(expected classes that exclude each other). run:evaluate and run:explain do.")
  end
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

--- Raises unless the network's outputs are those that the data need; steps that compare classes take no findings.
---@param what string
---@param model medxai.Model
---@param data medxai.Dataset|nil
function predict.check_findings(what, model, data)
  if data and data.findings and model.outputs ~= "sigmoid" then
    check.fail(what, "'%s' has several findings per image, and the model answers one class. Build the model with "
      .. "outputs = \"sigmoid\".", data.name)
  elseif data and not data.findings and model.outputs == "sigmoid" then
    check.fail(what, "the model answers findings (outputs = \"sigmoid\"), and '%s' has one class per image. Leave "
      .. "outputs "
      .. "out, or give the reader findings in the place of classes.", data.name)
  end
end

--- "nan", "infinite" or "minus infinite".
function predict.in_words(value) return value ~= value and "nan" or value > 0 and "infinite" or "minus infinite" end

local function finite(tensor)
  local ok = tensor:detach():isfinite():all():item()
  return ok == true or ok == 1
end

-- The first parameter or buffer that is not finite, or nil.
local function first_bad_weight(model)
  for _, entry in ipairs(model:state()) do
    if not finite(entry.tensor) then return entry.name end
  end
end

--- Where numbers that are not finite began, in words: the images, a node of the network, or the loss; and a parameter
--- that is not.
---@param model medxai.Model in evaluation
---@param x table the batch
function predict.where_not_finite(model, x)
  if not finite(x) then return "The images of this batch are not finite themselves" end
  local node = require("medxai.torch").no_grad(function() return model:find_nonfinite(x) end)
  local weight = first_bad_weight(model)
  local text = node and ("It began in '" .. node .. "'") or "Every node is finite: it began in the loss"
  if weight then text = text .. " (the weights '" .. weight .. "' are not finite any more)" end
  return text
end

-- An answer with a logit that is not finite: argmax would make a class of it. place: the image's number in the split.
local function refuse(model, split, place, value, options)
  local scope <close> = require("medxai.core").memory.scope() -- luacheck: ignore
  local text = ("the network's answer for '%s' is %s%s. %s."):format(split:item(place).path, predict.in_words(value),
    options.when or "", predict.where_not_finite(model, split:batch({ place }).x))
  if options.refuse then options.refuse(text) end
  check.fail("evaluate", "%s", text)
end

-- The first logit of a row that is not finite, or nil.
local function not_finite(row)
  for _, z in ipairs(row) do
    if not check.is_finite(z) then return z end
  end
end

local function probabilities(row, model)
  if model.outputs ~= "sigmoid" then return logits.softmax(row) end
  local out = {}
  for k, z in ipairs(row) do out[k] = findings.sigmoid(z) end
  return out
end

-- The cross entropy of an image, or of its findings that are known; and how many terms it has.
local function loss_of(row, label)
  if type(label) ~= "table" then return logits.cross_entropy(row, label), 1 end
  local sum, count = 0.0, 0
  for k, y in ipairs(label) do
    if y == y then sum, count = sum + findings.cross_entropy(row[k], y), count + 1 end
  end
  return sum, count
end

-- Puts one image's logits to the answers, and its loss where that is no loss of a whole batch.
local function add(answers, row, label, model, options)
  local n = #answers.labels + 1
  answers.labels[n], answers.logits[n], answers.probabilities[n] = label, row, probabilities(row, model)
  if not options.loss then
    local loss, count = loss_of(row, label)
    answers.loss, answers.counted = answers.loss + loss, answers.counted + count
  end
end

-- Takes the loader's next batch through the model; returns how many images it had, nil at the end.
local function one_batch(model, split, loader, answers, options)
  local torch = require "medxai.torch"
  local scope <close> = require("medxai.core").memory.scope()
  local batch = loader:next()
  if not batch then return nil end
  local out = torch.no_grad(function()
    return (batch.values and options.prefix:logits(model, batch.values) or model(batch.x))
  end)
  local rows, labels = out:tolist(), batch.y:tolist()
  for i, row in ipairs(rows) do
    local bad = not_finite(row)
    if bad then refuse(model, split, batch.index[i], bad, options) end
    add(answers, row, labels[i], model, options)
  end
  if options.loss then
    answers.loss = answers.loss + #rows * torch.no_grad(function() return options.loss(out, batch.y, batch) end)
    answers.counted = answers.counted + #rows
  end
  return #rows
end

-- Of several processes: this one takes its part of the images through the model, and all get all logits. One that is
-- not finite is told by all of them, with the same words.
local function with_others(model, split, answers, options)
  local torch, group = require "medxai.torch", options.group
  local scope <close> = require("medxai.core").memory.scope() -- luacheck: ignore
  local order = {}
  local before, upto = group.rank * split.n // group.world, (group.rank + 1) * split.n // group.world
  for i = before + 1, upto do order[#order + 1] = i end
  local all = torch.zeros({ split.n, model.num_classes }, { dtype = "float64" })
  local loader <close> = #order > 0 and split:loader { batch = options.batch, order = order,
    channels_last = model.layout == "channels_last" } or nil
  for batch in function() return loader and loader:next() end do
    local batch_scope <close> = require("medxai.core").memory.scope() -- luacheck: ignore
    local out = torch.no_grad(function() return model(batch.x) end):to { dtype = "float64", device = "cpu" }
    for k, i in ipairs(batch.index) do all[i - 1]:copy_(out[k - 1]) end
    if options.alive then options.alive() end
  end
  for i, row in ipairs(group:all_reduce(all):tolist()) do
    local bad = not_finite(row)
    if bad then refuse(model, split, i, bad, options) end
    add(answers, row, split:label(i), model, options)
  end
  return loader and loader.wait_seconds or 0
end

-- Class, mean loss and accuracy of what was answered; of findings balanced accuracy, macro F1 and AUROC too.
local function finish(answers, split, began, wait_seconds)
  local n, correct = #answers.labels, 0
  answers.loss = answers.counted > 0 and answers.loss / answers.counted or 0 / 0
  if split.data and split.data.findings then
    for name, value in pairs(findings.quick(answers.labels, answers.logits)) do answers[name] = value end
  else
    answers.predicted = logits.argmax(answers.logits)
    for i, label in ipairs(answers.labels) do
      if answers.predicted[i] == label then correct = correct + 1 end
    end
    answers.accuracy = n > 0 and correct / n or 0 / 0
  end
  answers.seconds, answers.wait_seconds = host.now() - began, wait_seconds
  return answers
end

--- The model's answers over a whole split, in the split's order. The model's mode is put back afterwards.
---@param model table
---@param split table
---@param options { batch: integer, name?: string, alive?: fun(), prefix?: table, group?: table, when?: string,
---  refuse?: fun(text: string), loss?: fun(logits, y, batch): number } group: of processes that share the work
---  (run/processes.lua); loss: of a batch, in the place of the mean cross entropy; prefix:
---  cached outputs of the frozen part (train/feature_cache.lua); when: " after epoch 3"; refuse: called instead of
---  raising "evaluate: text"
---@return table answers { labels, logits, probabilities, loss (mean cross entropy), accuracy, seconds, wait_seconds };
---   of findings labels are lists of 1, 0 and NaN, the loss is over the known ones, and balanced_accuracy, macro_f1 and
---   auroc are there too
function predict.predict(model, split, options)
  local training = model:is_training()
  model:eval()
  local restore <close> = setmetatable({}, { __close = function() if training then model:train() end end })
  local answers = { labels = {}, logits = {}, probabilities = {}, loss = 0.0, counted = 0 }
  local began = host.now()
  local waited = options.group and with_others(model, split, answers, options)
  if waited then return finish(answers, split, began, waited) end
  local bar <close> = Progress.new(options.name or ("evaluate " .. split.name), split.n)
  local loader <close> = options.prefix and options.prefix:source(split, { batch = options.batch })
    or split:loader { batch = options.batch, channels_last = model.layout == "channels_last" }
  for n in function() return one_batch(model, split, loader, answers, options) end do
    if options.alive then options.alive() end
    bar:add(n)
  end
  return finish(answers, split, began, loader.wait_seconds)
end

return predict
