-- run:fit: trains a model (trainer.lua), keeps the weights with the best validation score (or those of the last epoch),
-- restores and saves them. Every epoch ends with a checkpoint: an interrupted training goes on from it and ends with
-- the same bits as one that was never interrupted. With --resume a finished training goes on to more epochs, as if it
-- had been started with them. It refuses data whose classes are not the model's, and a finished run of another
-- configuration.
local canon = require "medxai.base.json"
local check = require "medxai.base.check"
local files = require "medxai.base.files"
local findings = require "medxai.stats.findings"
local host = require "medxai.host"
local losses = require "medxai.train.loss"
local model_file = require "medxai.nn.model_file"
local predict = require "medxai.nn.predict"
local predictions = require "medxai.steps.predictions"
local preflight = require "medxai.run.preflight"
local processes = require "medxai.run.processes"
local Progress = require "medxai.base.progress"
local Trainer = require "medxai.train.trainer"
local training = require "medxai.train.options"

local fit = {}

-- Of a finding that all training images have, or none, a network learns nothing but to say so.
local function check_findings(data)
  for k, name in ipairs(data.classes) do
    local has = {}
    for i = 1, data.train.n do
      local y = data.train:item_findings(i)[k]
      if y == y then has[y] = true end
    end
    local lacks = not has[1] and "with" or not has[0] and "without"
    if lacks then
      check.fail("fit", "no training image of '%s' is known to be %s the finding '%s' (expected some of both). "
        .. "Leave it "
        .. "out of findings, or add images.", data.name, lacks, name)
    end
  end
end

-- Of one class a network learns nothing but to answer it, with a loss of 0.
local function check_two_classes(data)
  local first
  for i = 1, data.train.n do
    local label = data.train:label(i)
    if first and label ~= first then return end
    first = first or label
  end
  check.fail("fit", "every training image of '%s' is of the class '%s' (expected at least two classes). Add images of "
    .. "another class.", data.name, tostring(data.classes[(first or 0) + 1]))
end

--- Raises unless the data can train the model.
function fit.check_data(model, data, options)
  if type(model) ~= "table" and type(model) ~= "userdata" or type(model.parameters) ~= "function" then
    check.fail("fit", "the first argument is no model (expected xai.models.vgg19 { ... }, got %s).", type(model))
  end
  if type(data) == "table" and data.n and data.item then
    check.fail("fit", "the second argument is no data set (expected xai.dataset.covid_qu_ex { ... }, got a split). "
      .. "Give the whole data set.")
  end
  if type(data) ~= "table" or not data.classes then
    check.fail("fit", "the second argument is no data set (expected xai.dataset.covid_qu_ex { ... }, got %s).",
      type(data))
  end
  predict.check_classes("fit", model, data.classes, true)
  predict.check_findings("fit", model, data)
  for _, name in ipairs { "train", "val" } do
    if not data[name] or data[name].n == 0 then
      check.fail("fit", "'%s' has no %s images. Training needs a train and a val split.", data.name or "the data", name)
    end
  end
  if data.findings then check_findings(data) else check_two_classes(data) end
  if type(options.weight) == "table" and #options.weight ~= #data.classes then
    check.fail("fit", "option 'weight' has %d numbers for %d classes (%s).", #options.weight, #data.classes,
      table.concat(data.classes, ", "))
  end
end

-- The state after an epoch does not depend on how many are to come: what a checkpoint must belong to.
local function trajectory_key(fields)
  local rest = {}
  for name, value in pairs(fields) do
    if name ~= "epochs" then rest[name] = value end
  end
  return canon.hash(rest)
end

-- Plain data that determine the numbers of a training.
local function describe(run, model, data, options, group)
  local fields = training.describe(options, group)
  fields.model, fields.train, fields.val = run:describe_model(model), run:describe_split(data.train),
    run:describe_split(data.val)
  return fields
end

-- ---- log ------------------------------------------------------------------------------------------------------------

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
    add(record, "val", "balanced_accuracy", record.val_balanced_accuracy)
    add(record, "val", "macro_f1", record.val_macro_f1)
    if record.val_auroc then add(record, "val", "auroc", record.val_auroc) end
    add(record, "", "lr", record.lr)
    for _, name in ipairs(check.sorted_keys(record.logged or {})) do add(record, "", name, record.logged[name]) end
  end
  return rows
end

-- metrics.jsonl and metrics.csv are what the training's history says, so that what is trained again is not told twice;
-- what other steps have told stays.
local function write_log(run, history)
  local path, lines = files.join(run.dir, "metrics.jsonl"), {}
  for i, record in ipairs(history) do lines[i] = canon.write(record) .. "\n" end
  for _, record in ipairs(files.records(path)) do
    if record.step ~= "fit" then lines[#lines + 1] = canon.write(record) .. "\n" end
  end
  files.write(path, table.concat(lines))
  run:write_metrics_csv("fit", metric_rows(history))
end

local function append_log(run, history)
  files.append_line(files.join(run.dir, "metrics.jsonl"), canon.write(history[#history]), true)
  run:check_owner()
  run:write_metrics_csv("fit", metric_rows(history))
end

-- ---- the step -------------------------------------------------------------------------------------------------------

-- In what the step on disk differs from this one: { epochs = those it was to have, own = the words of own functions
-- that are others now }; nil where it differs in anything else.
local function continues(step)
  local out = { own = {} }
  for _, difference in ipairs(canon.diff(step.stored.fields, step.fields)) do
    local was, is = difference.a ~= nil, difference.b ~= nil
    if difference.field == "epochs" then out.epochs = difference.a
    elseif difference.field == "on_epoch" or difference.field == "loss.own" and was and is then
      table.insert(out.own, (difference.field:gsub("%.own", "")))
    else return nil end
  end
  return out
end

-- Raises, before anything is written, unless the run can go on to this step's epochs.
local function check_more(run, step)
  local done, epochs = 0, step.fields.epochs
  for _, record in ipairs(files.records(files.join(run.dir, "metrics.jsonl"))) do
    if record.step == "fit" then done = math.max(done, record.epoch) end
  end
  if done > epochs then
    check.fail("fit", "'%s' has been trained for %d epochs already (here: %d). Give --out DIR for a new run.", run.dir,
      done, epochs)
  end
  if not files.exists(files.join(run.dir, "checkpoint.pt")) then
    check.fail("fit", "'%s' has no checkpoint to go on from to %d epochs. Give --out DIR for a new run, or "
      .. "--overwrite to "
      .. "begin this one again.", run.dir, epochs)
  end
end

local function has_epochs(run)
  return files.exists(files.join(run.dir, "checkpoint.pt")) or files.exists(files.join(run.dir, "weights.pt"))
end

-- Decides between skipping, going on, beginning and refusing. Returns "done", "resume", "begin", or "more": to other
-- epochs, or with own functions that have been mended, whose names come second.
local function decide(run, step)
  if step.done then return "done" end
  if step.stored == nil then return "begin" end
  if step.stored.key == step.key then return "resume" end -- begun, or finished and its files are gone
  local differences, changed = step:differences(), continues(step)
  local epochs = changed and changed.epochs
  if changed and host.options.resume then
    check_more(run, step)
    return "more", changed.own
  end
  if changed and #changed.own > 0 then
    if step.stored.status ~= "finished" and not has_epochs(run) then return "begin" end
    check.fail("fit", "'%s' holds a run with another %s. Give --resume to go on with this one from the last "
      .. "epoch, --out "
      .. "DIR for a new run, or --overwrite to begin this one again.", run.dir, table.concat(changed.own, " and "))
  end
  if epochs and step.fields.epochs > epochs then
    check.fail("fit", "'%s' holds a run of %d epochs (here: %d). Give --resume to train the others too, --out "
      .. "DIR for a "
      .. "new run, or --overwrite to begin this one again.", run.dir, epochs, step.fields.epochs)
  end
  local is_unseeded = ((step.fields.model.config or {}).weights or "random") == "random"
    and differences:find "^model%.weights_sha256 is [^,]*$"
  check.fail("fit", "'%s' holds a run of another configuration: %s. Give --out DIR for a new run, or --overwrite to "
    .. "begin this one again.%s", run.dir, differences,
    is_unseeded and " (Random weights are the same each time where xai.run, which sets the seed, comes before "
    .. "the model.)" or "")
end

-- Of several processes the first one decides; all must train the same.
local function decide_together(run, step, group)
  if not group then return decide(run, step) end
  local found = group.processes:of_first(function()
    local how, mended = decide(run, step)
    return { how = how, mended = mended, key = step.key, fields = step.fields, result = step.result }
  end).value
  if found.key ~= step.key then
    local list, words = canon.diff(found.fields, step.fields), {}
    for i = 1, math.min(3, #list) do words[i] = list[i].field end
    check.fail("fit", "process %d of %d trains something else than the first one (%s). Give all the same files and "
      .. "options.", group.rank + 1, group.world, table.concat(words, ", "))
  end
  step.result = found.result
  return found.how, found.mended
end

-- A group of all processes, in which all have the first one's weights; nil where this one is alone.
local function open_group(model, data, options)
  local all = processes.current()
  if not all then return nil end
  local own = data.findings and "data with findings" or options.on_epoch and "on_epoch"
    or losses.describe(options.loss) and "a loss other than cross-entropy"
    or options.precision == "float16" and "precision = 'float16'"
  if own then check.fail("fit", "%s: several processes cannot train with it. Use --devices 1.", own) end
  local group = all:group(options.timeout_s)
  for _, entry in ipairs(model:state()) do group:broadcast(entry.tensor) end
  return group
end

local function is_follower(group) return group ~= nil and group.rank > 0 end

--- From now on the model's weights are the run's: data that it is shown later must be prepared as the run's were.
function fit.belongs_to(run, model)
  local described = model_file.read(run.dir)
  if described then model_file.belongs(model, run.name, described) end
end

local function load_finished(run, model)
  fit.belongs_to(run, model)
  local scope <close> = require("medxai.core").memory.scope()
  local path = files.join(run.dir, "weights.pt")
  model:load_state(require("medxai.nn.checkpoint").load(path).tensors, { what = path })
  model:eval()
end

-- Where the start weights came from, and whether they were chosen on the same validation images: then this run's
-- validation score has been selected before.
local function chain_of(model, val)
  local start = model.start_run
  if not start then return nil end
  return { run = start.run, weights_sha256 = start.weights_sha256, same_validation = start.val_manifest_sha256 == val }
end

-- What model.json says of the weights beside it.
local function described(run, model, data, facts)
  local best, out = facts.best, model_file.describe(model, data)
  out.weights_sha256, out.start_weights, out.start_sha256 = facts.sha256, model.config.weights or "random", facts.start
  out.run, out.seed, out.best_epoch = run.name, facts.seed, facts.best_epoch or best.epoch
  out.val_manifest_sha256, out.chain = facts.val, chain_of(model, facts.val)
  if facts.precision ~= "float32" then out.precision = facts.precision end
  if data.findings then out.thresholds = findings.thresholds(facts.answers.labels, facts.answers.logits) end
  if facts.keep == "last" then
    out.last_epoch = best.epoch -- nothing was selected
  else
    out.selected = { split = "val", by = facts.best_by, value = best.value, accuracy = best.accuracy, loss = best.loss }
  end
  if facts.group then
    out.processes, out.sync_bn = facts.group.world, facts.sync_bn
    out.batch_norm_statistics = facts.sync_bn and "of all processes" or "of the first process"
  end
  return out
end

--- Writes weights.pt, model.json and the validation answers of a model whose best weights are in place. Returns their
--- hash.
---@param facts { best: table, best_epoch: integer?, best_by: string, keep: string?, seed: integer, start: string,
---   answers: table, group?: table, sync_bn?: boolean }
---  best: the epoch whose weights they are; best_epoch: the best one, where that is another; start: hash of the weights
---  before; group: the processes that trained together
function fit.write_model(run, model, data, facts)
  require("medxai.nn.checkpoint").save_any(files.join(run.dir, "weights.pt"), model)
  if model.write_network then model:write_network(files.join(run.dir, "network.pt2")) end
  facts.sha256, facts.val = model:sha256(), run:describe_split(data.val).manifest_sha256
  files.write_data(files.join(run.dir, "model.json"), described(run, model, data, facts))
  fit.belongs_to(run, model)
  predictions.write(run, data.val, facts.answers)
  return facts.sha256
end

--- The files that write_model writes of a model itself.
function fit.model_files(model)
  return model.write_network and { "weights.pt", "model.json", "network.pt2" } or { "weights.pt", "model.json" }
end

-- What the first process has written; the others' weights must be the same to the bit.
local function follow(run, trainer, result)
  local sha = trainer.model:sha256()
  if sha ~= result.weights_sha256 then
    check.fail("fit", "the weights of process %d are not those of the first one. Are all machines of one kind, with "
      .. "the same libtorch?", trainer.group.rank + 1)
  end
  fit.belongs_to(run, trainer.model)
  return result
end

-- The weights to keep into the model, and on disk.
local function finish(run, trainer, step)
  local answers, kept = trainer:take_kept_weights()
  local group = trainer.group
  if is_follower(group) then return follow(run, trainer, group.processes:share()) end
  write_log(run, trainer.history)
  local best_epoch = trainer.best.epoch
  local sha = fit.write_model(run, trainer.model, trainer.data, { best = kept, best_epoch = best_epoch,
    best_by = trainer.options.best_by, keep = trainer.options.keep, seed = run.seed,
    start = step.fields.model.weights_sha256, answers = answers, group = group, sync_bn = trainer.options.sync_bn,
    precision = trainer.options.precision })
  local result = { epochs = trainer.epoch, best_epoch = best_epoch, val_accuracy = kept.accuracy,
    val_loss = kept.loss, weights_sha256 = sha }
  step:finish(result, fit.model_files(trainer.model), { "predictions.csv", "metrics.jsonl" })
  if group then group.processes:share(result) end
  return result -- the last checkpoint stays: more epochs go on from it
end

-- Own functions that changed under way are told: the same file run anew may give other numbers.
local function tell_mended(run, trainer, mended, checkpoint)
  if #(mended or {}) == 0 then return end
  local text = ("%s is another one from epoch %d on (--resume)"):format(table.concat(mended, " and "),
    trainer.epoch + 1)
  run:warn("fit: " .. text)
  trainer.history[trainer.epoch].mended = canon.list(mended) -- the log says it
  trainer:save(checkpoint) -- under this step's key
end

-- Takes up the checkpoint, or begins.
local function take_up(run, trainer, step, how, checkpoint, mended)
  local epochs = trainer.options.epochs
  local stored = how == "more" and trajectory_key(step.stored.fields) or nil
  -- the step's whole key: a checkpoint of an earlier version of the program
  if how == "begin" or not (trainer:restore(checkpoint) or trainer:restore(checkpoint, step.key)
    or stored and trainer:restore(checkpoint, stored)) then
    if how == "more" then check.fail("fit", "the checkpoint in '%s' is another training's.", run.dir) end
    -- dropout draws other numbers in every process, the first one those of a single process
    return trainer.torch.manual_seed(run.seed + (trainer.group and trainer.group.rank * 1000003 or 0))
  end
  tell_mended(run, trainer, mended, checkpoint)
  trainer:after_epoch()
  if trainer:finished() and trainer.epoch < epochs then
    Progress.say("fit: %s ended the training in '%s' after epoch %d: more epochs change nothing",
      trainer.stopped and "on_epoch" or "early stopping", run.dir, trainer.epoch)
  else
    local more = trainer.within and string.format(" and %d images of the next", trainer.within.seen) or ""
    Progress.say("fit: going on from epoch %d of %d%s in '%s'", trainer.epoch, epochs, more, run.dir)
  end
end

-- All processes go on from the same epoch.
local function agree_epoch(run, trainer)
  if not trainer.group then return end
  for rank, epoch in ipairs(trainer.group:gather(trainer.epoch)) do
    if epoch ~= trainer.epoch then
      check.fail("fit", "process %d goes on from epoch %d and process %d from epoch %d: do all of them see the folder "
        .. "'%s'?", rank, epoch, trainer.group.rank + 1, trainer.epoch, run.dir)
    end
  end
end

-- The run's files after an epoch: the checkpoint, then what an own on_epoch does, then the logs, in which it may have
-- put numbers. Of several processes the first one writes; all give their part of a checkpoint.
local function write_epoch(run, trainer, record, cost, checkpoint)
  local follows = is_follower(trainer.group)
  if not follows then run:check_owner() end
  if not (run.smoke and trainer:finished()) then trainer:save(checkpoint) end
  trainer:after_epoch()
  if follows then return end
  run:check_owner()
  run:events():epoch(record)
  append_log(run, trainer.history)
  run:time("fit", "epoch", cost.seconds, { epoch = record.epoch, images_per_second = cost.images_per_second,
    wait_share = cost.wait_share, peak_mb = cost.peak_mb })
end

local function train(run, trainer, step, how, mended)
  local mode <close> = training.deterministic(trainer.options.deterministic)
  local checkpoint = files.join(run.dir, "checkpoint.pt")
  take_up(run, trainer, step, how, checkpoint, mended)
  agree_epoch(run, trainer)
  if not is_follower(trainer.group) then
    step:begin()
    write_log(run, trainer.history)
    run:events(math.max(0, trainer.epoch - 1))
    if trainer.epoch > 0 then run:events():epoch(trainer.history[trainer.epoch]) end -- it may not have been told
  end
  -- several processes write no checkpoint within an epoch: a signal stops them at once
  local held <close> = not trainer.group and Trainer.hold_signals() or nil -- luacheck: ignore (held, not read)
  while not trainer:finished() do
    local record, cost = trainer:run_epoch()
    write_epoch(run, trainer, record, cost, checkpoint)
    if not trainer.group then Trainer.let_signals() end
    Progress.say("%s", trainer:line(record, cost))
  end
  return finish(run, trainer, step)
end

--- Checks a call of run:fit without making it (medxai.run.preflight).
function fit.check_call(unknown, _, model, data, options)
  options = training.check(options, data ~= unknown and data or nil)
  if model ~= unknown and data ~= unknown then fit.check_data(model, data, options) end
end

--- run:fit. Trains, restores and saves the best weights, or keeps the last epoch's (keep = "last"); returns { epochs,
--- best_epoch, val_accuracy, val_loss, weights_sha256 }, the values of the weights that are kept.
function fit.run(run, model, data, options)
  options = training.check(options, type(data) == "table" and data or nil)
  fit.check_data(model, data, options)
  model_file.check_data(run, model, data)
  preflight.check()
  local group <close> = open_group(model, data, options)
  local step = run:step("fit", describe(run, model, data, options, group))
  local how, mended = decide_together(run, step, group)
  run:configure("fit", step.fields)
  if how == "done" then
    run:skipped("fit")
    load_finished(run, model)
    return step.result
  end
  if not is_follower(group) then run:write_manifest(data) end
  local clock <close> = run:clock("fit")
  local trainer <close> = Trainer.new { model = model, data = data, options = options, seed = run.seed, group = group,
    key = trajectory_key(step.fields), alive = function(doing) run:heartbeat(doing) end, save_part = function(self)
      run:check_owner()
      self:save(files.join(run.dir, "checkpoint.pt"))
    end }
  return train(run, trainer, step, how, mended)
end

return fit
