-- run:fit: trains a model by cross entropy, keeps the weights of the best validation accuracy, restores and saves them.
-- An epoch ends with a checkpoint; an interrupted training goes on from it and ends with the same bits as one that was
-- never interrupted. A loss that is not finite stops the training before the weights are touched and names where it began.
-- It refuses data whose classes are not the model's, and a finished run of another configuration.
local canon = require "medxai.canon"
local check = require "medxai.check"
local evaluate = require "medxai.evaluate"
local files = require "medxai.files"
local host = require "medxai.host"
local plan = require "medxai.plan"
local Progress = require "medxai.progress"

local fit = {}

fit.spec = {
  optim = { "table", required = true, field = false },
  epochs = { "integer", required = true, min = 1 },
  batch = { "integer", default = 32, min = 1 },
  step = { "table", field = false },                            -- StepLR { size =, gamma = }
  schedule = { "table", field = false },                        -- any other: xai.optim.cosine_annealing_lr { ... }
  step_per = { one_of = { "epoch", "phase" }, default = "epoch" }, -- "phase": after training and again after validation
  aux_weight = { "number", default = 0.4, min = 0 },            -- of Inception's auxiliary loss
  early_stopping = { "table", field = false },                  -- { patience = epochs without a better validation accuracy }
  deterministic = { "boolean", default = false },
}

local step_spec = {
  size = { "integer", required = true, min = 1, field = "step_size" },
  gamma = { "number", default = 0.1, above = 0 },
}

local stopping_spec = { patience = { "integer", required = true, min = 1 } }

-- ---- options --------------------------------------------------------------------------------------------------------

local function check_schedule(options)
  if options.step and options.schedule then
    check.fail("fit", "options 'step' and 'schedule' exclude each other. Leave one out.")
  end
  if options.step then
    local step = check.options("fit: step", options.step, step_spec)
    return require("medxai.optim").step_lr { step_size = step.size, gamma = step.gamma }
  end
  return options.schedule
end

local function check_options(options)
  options = check.options("fit", options, fit.spec)
  if type(options.optim.build) ~= "function" then
    check.fail("fit", "option 'optim' is no optimizer (expected xai.optim.sgd { lr = ... } or another of xai.optim).")
  end
  options.schedule = check_schedule(options)
  if options.schedule and type(options.schedule.build) ~= "function" then
    check.fail("fit", "option 'schedule' is no schedule (expected xai.optim.cosine_annealing_lr { ... } or another of xai.optim).")
  end
  if options.early_stopping then options.early_stopping = check.options("fit: early_stopping", options.early_stopping, stopping_spec) end
  if check.smoke() then options.epochs, options.batch = 1, math.min(4, options.batch) end
  return options
end

local function check_data(model, data)
  if rawequal(model, plan.placeholder) or rawequal(data, plan.placeholder) then return end
  if type(model) ~= "table" and type(model) ~= "userdata" or type(model.parameters) ~= "function" then
    check.fail("fit", "the first argument is no model (expected xai.models.vgg19 { ... }, got %s).", type(model))
  end
  if type(data) == "table" and data.n and data.item then
    check.fail("fit", "the second argument is no data set (expected xai.dataset.covid_qu_ex { ... }, got a split). Give the whole data set.")
  end
  if type(data) ~= "table" or not data.classes then
    check.fail("fit", "the second argument is no data set (expected xai.dataset.covid_qu_ex { ... }, got %s).", type(data))
  end
  evaluate.check_classes("fit", model, data.classes)
  for _, name in ipairs { "train", "val" } do
    if not data[name] or data[name].n == 0 then
      check.fail("fit", "'%s' has no %s images. Training needs a train and a val split.", data.name or "the data", name)
    end
  end
end

-- Plain data that determine the numbers of a training.
local function describe(run, model, data, options)
  return {
    model = run:describe_model(model), train = run:describe_split(data.train), val = run:describe_split(data.val),
    optim = { kind = options.optim.kind, options = options.optim.options },
    schedule = options.schedule and { kind = options.schedule.kind, options = options.schedule.options } or nil,
    epochs = options.epochs, batch = options.batch, step_per = options.step_per, aux_weight = options.aux_weight,
    early_stopping = options.early_stopping, deterministic = options.deterministic,
  }
end

-- ---- training ---------------------------------------------------------------------------------------------------------

---@class medxai.Trainer one training: what an epoch reads and changes
local Trainer = {}
Trainer.__index = Trainer

local function trainable_group(model)
  local group = { names = {}, params = {} }
  for _, p in ipairs(model:parameters()) do
    if p.trainable then
      group.names[#group.names + 1] = p.name
      group.params[#group.params + 1] = p.tensor
    end
  end
  if #group.params == 0 then check.fail("fit", "the model has nothing to train (every parameter is frozen).") end
  return group
end

local function new_trainer(run, model, data, options, step)
  local torch = require "medxai.torch"
  local self = setmetatable({ run = run, model = model, data = data, options = options, step = step, torch = torch, epoch = 0,
    best = nil, since_best = 0, lr = options.optim.options.lr, val_seconds = 0.0 }, Trainer)
  self.optimizer = options.optim:build { trainable_group(model) }
  self.schedule = options.schedule and options.schedule:build(self.lr) or nil
  if self.schedule then self:set_lr() end -- a warm-up starts lower
  return self
end

function Trainer:set_lr()
  self.lr = self.schedule:lr()
  self.optimizer:set_lr(self.lr)
end

-- Forward and loss of one batch: loss (0-d tensor), logits (N, C).
function Trainer:loss(x, y)
  local cross_entropy = self.torch.cross_entropy
  local logits, aux = self.model(x)
  local loss = cross_entropy(logits, y)
  if aux then loss = loss + cross_entropy(aux, y) * self.options.aux_weight end
  return loss, logits
end

-- One step on the loader's next batch: its loss and size, nil at the end. The loss is read between forward and backward: one
-- that is not finite must not reach the weights. Nothing else is read from the device; the hits are summed there.
function Trainer:train_batch(loader, hits)
  local scope <close> = require("medxai").scope()
  local batch = loader:next()
  if not batch then return nil end
  self.batch_number = self.batch_number + 1
  local generator = self.torch.get_rng_state()
  local y = batch.y:to { device = self.model.device }
  local loss, logits = self:loss(batch.x, y)
  local value = loss:item()
  if value ~= value or value == math.huge or value == -math.huge then
    require("medxai.fit_diagnose")(self, batch, value, generator)
  end
  self.optimizer:zero_grad()
  loss:backward()
  self.optimizer:step()
  self.torch.no_grad(function() hits:add_(logits:argmax(1):eq(y):sum()) end)
  return value, batch.x:size(0)
end

local function peak_bytes()
  local memory = require("medxai").memory()
  return math.max(memory.peak_bytes, memory.cuda_peak_bytes or 0)
end

-- One pass over the training images: mean loss, accuracy, and what it cost.
function Trainer:train_epoch()
  local train, options, run = self.data.train, self.options, self.run
  self.model:train()
  local hits <close> = self.torch.zeros({ 1 }, { dtype = "int64", device = self.model.device })
  local name = string.format("epoch %d/%d", self.epoch, options.epochs)
  local bar <close> = Progress.new(name, train.n, { done = (self.epoch - 1) * train.n, total = options.epochs * train.n,
    extra = self.val_seconds * (options.epochs - self.epoch + 1) })
  local loader <close> = train:loader { batch = options.batch, shuffle = true, seed = run.seed, epoch = self.epoch, augment = true,
    channels_last = self.model.layout == "channels_last" }
  local began, seen, sum = host.now(), 0, 0.0
  self.batch_number, self.batches = 0, loader.batches
  for value, n in function() return self:train_batch(loader, hits) end do
    sum, seen = sum + value * n, seen + n
    run:heartbeat("fit " .. name)
    bar:add(n, function()
      return string.format("loss %.4f  accuracy %.4f  waited %.0f %%  peak %s", sum / seen, hits:item() / seen,
        100 * loader.wait_seconds / math.max(host.now() - began, 1e-9), Progress.megabytes(peak_bytes()))
    end)
  end
  local seconds = host.now() - began
  return { loss = sum / seen, accuracy = hits:item() / seen, seconds = seconds, images_per_second = seen / seconds,
    wait_share = loader.wait_seconds / seconds }
end

function Trainer:step_schedule(metric)
  if not self.schedule then return end
  self.schedule:step(metric)
  self:set_lr()
end

-- Copies of all weights and buffers, in state order, owned by nobody's scope.
local function copy_state(model)
  local copies = {}
  for i, entry in ipairs(model:state()) do copies[i] = { name = entry.name, tensor = entry.tensor:detach():clone() } end
  return copies
end

local function close_state(list)
  for _, entry in ipairs(list or {}) do entry.tensor:close() end
end

function Trainer:keep_best(val)
  if self.best and val.accuracy <= self.best.accuracy then
    self.since_best = self.since_best + 1
    return false
  end
  if self.best then close_state(self.best.weights) end
  self.best = { epoch = self.epoch, accuracy = val.accuracy, loss = val.loss, weights = copy_state(self.model), answers = val }
  self.since_best = 0
  return true
end

-- Everything that one epoch does, up to its checkpoint.
function Trainer:run_epoch()
  self.epoch = self.epoch + 1
  local lr = self.lr
  local train = self:train_epoch()
  if self.options.step_per == "phase" then self:step_schedule() end
  local val = evaluate.predict(self.model, self.data.val, { batch = self.options.batch, name = "validation",
    alive = function() self.run:heartbeat() end })
  self.val_seconds = val.seconds
  self:step_schedule(val.loss)
  local is_best = self:keep_best(val)
  self:log { step = "fit", epoch = self.epoch, lr = lr, train_loss = train.loss, train_accuracy = train.accuracy,
    val_loss = val.loss, val_accuracy = val.accuracy, best = is_best }
  self.run:time("fit", "epoch", train.seconds + val.seconds, { epoch = self.epoch, images_per_second = train.images_per_second,
    wait_share = train.wait_share, peak_mb = peak_bytes() / (1 << 20) })
  self:save_checkpoint()
  if not host.options.quiet then
    io.stderr:write(string.format(
      "epoch %d/%d  train loss %.4f accuracy %.4f  val loss %.4f accuracy %.4f%s  lr %g  %.1f images/s  waited %.0f %%  peak %s  %s\n",
      self.epoch, self.options.epochs, train.loss, train.accuracy, val.loss, val.accuracy, is_best and " (best)" or "", lr,
      train.images_per_second, 100 * train.wait_share, Progress.megabytes(peak_bytes()), Progress.duration(train.seconds + val.seconds)))
  end
end

function Trainer:finished()
  local patience = self.options.early_stopping and self.options.early_stopping.patience
  return self.epoch >= self.options.epochs or (patience ~= nil and self.since_best >= patience)
end

-- ---- log and checkpoint -------------------------------------------------------------------------------------------------

local function metric_rows(records)
  local rows = {}
  local function add(record, split, metric, value)
    rows[#rows + 1] = { step = "fit", split = split, epoch = record.epoch, class = "", metric = metric, value = value }
  end
  for _, record in ipairs(records) do
    add(record, "train", "loss", record.train_loss)
    add(record, "train", "accuracy", record.train_accuracy)
    add(record, "val", "loss", record.val_loss)
    add(record, "val", "accuracy", record.val_accuracy)
    add(record, "", "lr", record.lr)
  end
  return rows
end

-- The epochs in metrics.jsonl up to `last`.
local function epoch_records(run, last)
  local records = {}
  for _, record in ipairs(files.records(files.join(run.dir, "metrics.jsonl"))) do
    if record.step == "fit" and record.epoch <= last then records[#records + 1] = record end
  end
  return records
end

-- Cuts the log back to `last` epochs, so that what is trained again is not told twice.
local function cut_log(run, last)
  local lines, records = {}, epoch_records(run, last)
  for i, record in ipairs(records) do lines[i] = canon.write(record) .. "\n" end
  files.write(files.join(run.dir, "metrics.jsonl"), table.concat(lines))
  run:write_metrics_csv("fit", metric_rows(records))
end

function Trainer:log(record)
  files.append_line(files.join(self.run.dir, "metrics.jsonl"), canon.write(record), true)
  self.run:write_metrics_csv("fit", metric_rows(epoch_records(self.run, self.epoch)))
end

local function by_name(list)
  local map = {}
  for _, entry in ipairs(list) do map[entry.name] = entry.tensor end
  return map
end

local function optimizer_entries(optimizer)
  local entries = canon.list()
  for i, entry in ipairs(optimizer:state()) do entries[i] = { param = entry.param, entry = entry.entry, tensor = entry.tensor } end
  return entries
end

function Trainer:save_checkpoint()
  local scope <close> = require("medxai").scope()
  local best = self.best
  require("medxai").save_checkpoint(files.join(self.run.dir, "checkpoint.pt"), {
    format = "medxai.checkpoint", version = 1, key = self.step.key, epoch = self.epoch, model = by_name(self.model:state()),
    optimizer = optimizer_entries(self.optimizer), lr = self.lr, schedule = self.schedule and self.schedule:state() or nil,
    best = { epoch = best.epoch, accuracy = best.accuracy, loss = best.loss, weights = by_name(best.weights) },
    since_best = self.since_best, generators = self:generators(),
  })
end

-- The states of torch's generators: what dropout and stochastic depth draw next.
function Trainer:generators()
  local device = self.model.device
  return { cpu = self.torch.get_rng_state(), device = device ~= "cpu" and self.torch.get_rng_state(device) or nil }
end

-- Goes on from a checkpoint; nothing there (or one of another key): from the beginning.
function Trainer:restore()
  local path = files.join(self.run.dir, "checkpoint.pt")
  if not files.exists(path) then return false end
  local scope <close> = require("medxai").scope()
  local saved = require("medxai").load_checkpoint(path)
  if saved.key ~= self.step.key then return false end
  self.model:load_state(saved.model, { what = path })
  self.optimizer:load_state(saved.optimizer)
  self.epoch, self.since_best, self.lr = saved.epoch, saved.since_best, saved.lr
  if self.schedule then self.schedule:load_state(saved.schedule) end
  self.optimizer:set_lr(self.lr)
  local weights = {}
  for i, entry in ipairs(self.model:state()) do
    weights[i] = { name = entry.name, tensor = saved.best.weights[entry.name]:detach():clone() }
    scope:keep(weights[i].tensor)
  end
  self.best = { epoch = saved.best.epoch, accuracy = saved.best.accuracy, loss = saved.best.loss, weights = weights }
  self.torch.set_rng_state(saved.generators.cpu)
  if saved.generators.device then self.torch.set_rng_state(saved.generators.device, self.model.device) end
  return true
end

-- ---- the step -------------------------------------------------------------------------------------------------------------

-- Decides between skipping, going on, beginning and refusing. Returns "done", "resume" or "begin".
local function decide(run, step)
  if step.done then return "done" end
  if step.begun then return "resume" end
  if step.stored == nil or step.stored.key == step.key then return "begin" end
  check.fail("fit", "'%s' holds a run of another configuration: %s. Give --out DIR for a new run, or --overwrite to begin this one again.",
    run.dir, step:differences())
end

local function load_finished(run, model)
  local scope <close> = require("medxai").scope()
  local path = files.join(run.dir, "weights.pt")
  model:load_state(require("medxai").load(path).tensors, { what = path })
  model:eval()
end

local function model_file(run, model, data, sha, start, best)
  local config = model.config
  return {
    format = "medxai.model", network = model.name, classes = canon.list(data.classes), hidden = config.hidden, head = config.head,
    train_depth = config.train_depth, config = config, size_px = data.size_px,
    resize_px = data.resize_px, range = { 0, 1 }, mean = data.mean, std = data.std, channels = 3, input_mode = run:input_mode(data.train), weights_sha256 = sha,
    start_weights = config.weights or "random", start_sha256 = start, run = run.name, seed = run.seed, best_epoch = best.epoch,
    selected = { split = "val", accuracy = best.accuracy, loss = best.loss },
  }
end

-- Best weights back into the model, and on disk.
local function finish(trainer)
  local run, model, best = trainer.run, trainer.model, trainer.best
  model:load_state(best.weights, { what = "the best epoch" })
  model:eval()
  require("medxai").save(files.join(run.dir, "weights.pt"), model)
  local sha = run.weights_sha256(model)
  local description = model_file(run, model, trainer.data, sha, trainer.step.fields.model.weights_sha256, best)
  files.write_data(files.join(run.dir, "model.json"), description)
  -- after a resumption the best epoch's answers may be gone: the same weights give the same ones again
  local answers = best.answers or evaluate.predict(model, trainer.data.val, { batch = trainer.options.batch, name = "validation" })
  evaluate.write_predictions(run, trainer.data.val, answers)
  local result = { epochs = trainer.epoch, best_epoch = best.epoch, val_accuracy = best.accuracy, val_loss = best.loss, weights_sha256 = sha }
  trainer.step:finish(result, { "weights.pt", "model.json" }, { "predictions.csv", "metrics.jsonl" })
  files.remove(files.join(run.dir, "checkpoint.pt"))
  close_state(best.weights)
  return result
end

local function say(...)
  if not host.options.quiet then io.stderr:write(string.format(...), "\n") end
end

-- Deterministic operators until the returned value is closed.
local function deterministic(on)
  local device = require("medxai.core").device
  if on then device.set_deterministic(true) end
  return setmetatable({}, { __close = function() if on then device.set_deterministic(false) end end })
end

local function train(trainer, how)
  local run, step = trainer.run, trainer.step
  local mode <close> = deterministic(trainer.options.deterministic)
  if how == "resume" and trainer:restore() then
    say("fit: going on from epoch %d of %d in '%s'", trainer.epoch, trainer.options.epochs, run.dir)
  else
    trainer.torch.manual_seed(run.seed)
  end
  step:begin()
  cut_log(run, trainer.epoch)
  while not trainer:finished() do trainer:run_epoch() end
  return finish(trainer)
end

--- run:fit. Trains, restores and saves the best weights; returns { epochs, best_epoch, val_accuracy, val_loss, weights_sha256 }.
function fit.run(run, model, data, options)
  options = check_options(options)
  check_data(model, data)
  if plan.active then return end
  require("medxai.weights").check_data(model, { size_px = data.size_px, input_mode = run:input_mode(data.train) })
  plan.check()
  local step = run:step("fit", describe(run, model, data, options))
  local how = decide(run, step)
  run:configure("fit", step.fields)
  if how == "done" then
    run:skipped("fit")
    load_finished(run, model)
    return step.result
  end
  run:write_manifest(data)
  local clock <close> = run:clock("fit")
  local trainer = new_trainer(run, model, data, options, step)
  return train(trainer, how)
end

return fit
