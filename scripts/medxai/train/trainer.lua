-- One training: epochs over a data set by a loss (loss.lua); the weights with the best validation score are kept. Its
-- whole state is written to a checkpoint after every epoch, and a training that goes on from a checkpoint ends with the
-- same bits. run:fit drives one training, a grid search many.
-- A loss that is not finite stops it before the weights are touched, and so does a validation answer; both name where
-- it began.
local canon = require "medxai.base.json"
local check = require "medxai.base.check"
local host = require "medxai.host"
local match = require "medxai.nn.match"
local parallel = require "medxai.train.parallel"
local precision = require "medxai.train.precision"
local Progress = require "medxai.base.progress"

---@class medxai.Trainer
---@field epoch integer epochs done
--- one record an epoch: epoch, lr, train_loss, train_accuracy, val_loss, val_accuracy, val_balanced_accuracy,
--- val_macro_f1, best
---@field history table[]
---@field best table|nil { epoch, value, accuracy, loss, weights = copies of what training changes }
--- how far the epoch after these is: seen, sum, hits, seconds, stepped (the schedule, after training)
---@field within table|nil
local Trainer = {}
Trainer.__index = Trainer

-- Which validation number says "best", and whether more of it is better.
Trainer.measures = { accuracy = true, auroc = true, balanced_accuracy = true, macro_f1 = true, loss = false }

-- ---- what training changes ------------------------------------------------------------------------------------------

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

-- Trained parameters and all buffers, in the model's order: { name, tensor }. Frozen parameters stay as they began.
local function changing(model)
  local frozen, list = {}, {}
  for _, p in ipairs(model:parameters()) do frozen[p.name] = not p.trainable end
  for _, entry in ipairs(model:state()) do
    if not frozen[entry.name] then list[#list + 1] = entry end
  end
  return list
end

-- Copies owned by nobody's scope.
local function copy_state(model)
  local copies = {}
  for i, entry in ipairs(changing(model)) do
    copies[i] = { name = entry.name, tensor = entry.tensor:detach():clone() }
  end
  return copies
end

local function close_state(list)
  for _, entry in ipairs(list or {}) do entry.tensor:close() end
end

local function by_name(list)
  local map = {}
  for _, entry in ipairs(list) do map[entry.name] = entry.tensor end
  return map
end


--- Copies tensors by name into what training changes: all of it, nothing else.
---@param model medxai.Model
---@param source medxai.Named[]|table<string, userdata>
---@param what string where they come from, for errors
function Trainer.load_changing(model, source, what)
  local scope <close> = require("medxai.core").memory.scope() -- luacheck: ignore
  local state = changing(model)
  local list = match.named(source)
  local fitting, report = match.fit(state, list)
  if report.matched < #state or #list > #state then
    check.fail("fit", "%s was written by another model (%s). Remove it to begin again.", what, match.counts(report))
  end
  match.copy(state, fitting)
end

-- ---- construction ---------------------------------------------------------------------------------------------------

local function balanced_weights(split, classes)
  local count, weights = {}, {}
  for i = 1, split.n do
    local label = split:label(i)
    count[label] = (count[label] or 0) + 1
  end
  for c = 1, classes do weights[c] = split.n / (classes * (count[c - 1] or 1)) end
  return weights
end

-- Cross entropy's own options: { weight = tensor, label_smoothing = }, nil where there are none.
local function loss_options(self)
  local o = self.options
  local weight = o.weight == "balanced" and balanced_weights(self.data.train, self.model.num_classes) or o.weight
  local options = { label_smoothing = o.label_smoothing > 0 and o.label_smoothing + 0.0 or nil,
    reduction = self.group and "sum" or nil } -- of several processes: divided by what all of them sum up
  if weight then
    options.weight = self.torch.tensor(weight, { dtype = self.model.dtype }):to { device = self.model.device }
  end
  return next(options) and options or nil
end

-- The first batch norm that sees one value per channel of a single image, where it takes the variance over a batch.
local function lonely_norm(model, size)
  local scope <close> = require("medxai.core").memory.scope()
  local torch, norms, found = require "medxai.torch", {}, nil
  for _, m in ipairs(model._def.modules) do
    if m.kind == "batch_norm2d" and not model:stays_in_eval(m.name) then norms[model._def.nodes[m.node.id]] = m end
  end
  if not next(norms) then return nil end
  local training, aux = model:is_training(), model._def.aux
  model:eval()
  torch.no_grad(function()
    model:forward { x = torch.zeros({ 1, 3, size, size }, { dtype = model.dtype, device = model.device }), fold = false,
      outputs = aux and { "output", model._def.nodes[aux] } or nil, each = function(name, value)
        local m = norms[name]
        if m and value:numel() == m.out then found = found or m.name end
      end }
  end)
  if training then model:train() end
  return found
end

-- A batch of one image is told before training where a batch norm cannot take its variance, and so is no batch at all.
local function check_batches(self)
  local n, batch, drop = self.data.train.n, self.options.batch, self.options.drop_last
  if drop and n < batch then
    check.fail("fit", "drop_last = true leaves no batch (%d training images, batch = %d). Write a smaller batch.", n,
      batch)
  end
  local is_last = n % batch == 1 and not drop
  if self.group then
    local least = parallel.smallest_part(n, batch, drop, self.group.world)
    local lonely = not self.options.sync_bn and least < 2 and lonely_norm(self.model, self.data.size_px) or nil
    return parallel.check_batches(self.options, n, self.group.world, lonely)
  end
  if batch > 1 and not is_last then return end
  local name = lonely_norm(self.model, self.data.size_px)
  if not name then return end
  local why = ("batch norm '%s' sees one value per channel of it, and a variance needs two"):format(name)
  if batch == 1 then check.fail("fit", "every batch holds one image: %s. Write a larger batch.", why) end
  check.fail("fit", "the last batch of an epoch holds one image (%d = %d x %d + 1): %s. Write drop_last = true, or "
    .. "another batch.", n, n // batch, batch, why)
end

--- A training that has not begun.
---@param what { model: table, data: table, options: table, seed: integer, key: string, alive: fun(doing?: string),
---   prefix?: table, frame?: table }
--- options: as fit.lua has checked them; key: what a checkpoint must belong to; alive: called often; prefix: cached
--- outputs of the frozen part (feature_cache.lua); frame: the progress of the search around it; save_part: writes a
--- checkpoint within an epoch
---@return medxai.Trainer
function Trainer.new(what)
  local self = setmetatable({ model = what.model, data = what.data, options = what.options, seed = what.seed,
    key = what.key, alive = what.alive or function() end,
    save_part = what.save_part or function() end, saved_at = host.now(), prefix = what.prefix,
    torch = require "medxai.torch", epoch = 0, history = {}, best = nil, since_best = 0,
    lr = what.options.optim.options.lr, val_seconds = 0.0, group = what.group }, Trainer)
  check_batches(self)
  precision.check("fit", self.options.precision, self.model.device)
  if host.options.profile and not self.group then
    io.stderr:write((self.model:profile { batch = self.options.batch, training = true }), "\n")
  end
  local group = trainable_group(self.model)
  self.params = group.params
  self.optimizer = self.options.optim:build { group }
  self.schedule = self.options.schedule and self.options.schedule:build(self.lr) or nil
  if self.schedule then self:set_lr() end -- a warm-up starts lower
  self.loss_options = loss_options(self)
  self.loss_of = require("medxai.train.loss").open(self)
  self.scale = precision.scale(self.options.precision, self.model.device)
  if self.model.device ~= "cpu" and not self.group then self:stay_on_device() end
  if self.group then
    self.reducer = self.group.native:reducer(group.params, group.names)
    if self.options.sync_bn then self.model:sync_batch_norms(self.group.native) end
  end
  return self
end

--- Batches without waiting for the device: losses are read late, and the training images lie there where they fit (a
--- third of what is free). The numbers are the same.
function Trainer:stay_on_device()
  self.late = require("medxai.train.late_loss").new(self)
  local images, changes = require "medxai.data.on_device", self.data.augment
  if changes and #changes > 0 then return end -- a list of transforms is drawn by the loader alone
  local _, most = images.bytes(self.data.train)
  if self.prefix or self.model.device ~= "cpu" and most > require("medxai.core").device.free_bytes() / 3 then return end
  self.images = images.open(self.data.train, self.model.device, self.alive)
end

--- Frees what the training holds; the model stays. Safe twice.
function Trainer:close()
  for _, name in ipairs { "late", "images", "scale" } do
    if self[name] then self[name]:close() end
    self[name] = nil
  end
  if self.reducer then
    self.reducer:close()
    self.model:sync_batch_norms(nil)
  end
  if self.best then close_state(self.best.weights) end
  if self.loss_options and self.loss_options.weight then self.loss_options.weight:close() end
  self.best, self.loss_options, self.reducer = nil, nil, nil
end
Trainer.__close = Trainer.close

function Trainer:set_lr()
  self.lr = self.schedule:lr()
  self.optimizer:set_lr(self.lr)
end

-- ---- one epoch ------------------------------------------------------------------------------------------------------

-- Logits of a batch, and those of an auxiliary branch.
function Trainer:logits(batch)
  if batch.values then return self.prefix:logits(self.model, batch.values) end
  return self.model(batch.x)
end

-- Forward and loss of one batch: loss (0-d tensor), logits (N, C).
function Trainer:loss(batch, y)
  local train = self.data.train
  local function forward()
    local logits, aux = self:logits(batch)
    local loss = self.loss_of(logits, y, batch, train, true)
    if aux then loss = loss + self.loss_of(aux, y, batch, train, true) * self.options.aux_weight end
    return loss, logits
  end
  return precision.run(self.options.precision, self.model.device, forward)
end

-- Scales all gradients so that their common norm is at most `most` (torch.nn.utils.clip_grad_norm_).
local function clip_gradients(self, most)
  local torch, norms, grads = self.torch, {}, {}
  for _, p in ipairs(self.params) do
    local grad = p.grad
    if grad then
      grads[#grads + 1] = grad
      norms[#norms + 1] = grad:norm()
    end
  end
  if #grads == 0 then return end
  local whole = torch.stack(norms):norm():double():add(1e-6) -- not read: the device need not be waited for
  local factor = torch.full_like(whole, most):div(whole):clamp_max(1)
  for _, grad in ipairs(grads) do grad:mul_(factor) end
end

-- Right answers so far, counted on the device: images, or of findings labels and how many are known.
function Trainer:count_hits(hits, logits, y)
  if not self.data.findings then return hits:add_(logits:argmax(1):eq(y):sum()) end
  local known = y:isnan():logical_not()
  hits:narrow(0, 0, 1):add_(logits:gt(0):eq(y:eq(1)):logical_and(known):sum())
  hits:narrow(0, 1, 1):add_(known:sum())
end

-- What a checkpoint within the epoch keeps of them.
function Trainer:hits_so_far(hits)
  return self.data.findings and canon.list(hits:tolist()) or hits:item()
end

function Trainer:accuracy(hits, images)
  if not self.data.findings then return hits:item() / images end
  local counts = hits:tolist()
  return counts[1] / counts[2]
end

-- The backward pass, and the step of the optimizer; of several processes gradients are averaged. logits, y: nil where
-- this process has no image in the batch. bad: a number on the device; the step is left out unless it is 0.
function Trainer:update(loss, logits, y, hits, bad)
  self.optimizer:zero_grad()
  local scale = self.scale
  if scale then loss = scale:scaled(loss) end
  if self.reducer then
    self.group.processes:call(self.reducer.prepare, self.reducer, loss)
    self.group.processes:call(loss.backward, loss)
  else
    loss:backward()
  end
  self.torch.no_grad(function()
    if scale then
      scale:unscale(self.params)
      bad = bad and self.torch.maximum(bad, scale.bad) or scale.bad
    end
    if self.options.clip_grad_norm then clip_gradients(self, self.options.clip_grad_norm) end
    if logits then self:count_hits(hits, logits, y) end
  end)
  self.optimizer:step(bad)
  if scale then scale:update() end
end

-- One step on the source's next batch: its loss and size, nil at the end. On a CPU the loss is read between forward and
-- backward: one that is not finite must not reach the weights. Of a GPU nothing is read: the loss is 0 here and comes
-- later (late_loss.lua); the hits are summed there.
function Trainer:train_batch(source, hits)
  local scope <close> = require("medxai.core").memory.scope()
  local batch = source:next()
  if not batch then return nil end
  self.batch_number = self.batch_number + 1
  local generator = self.torch.get_rng_state()
  local y = batch.y:to { device = self.model.device }
  local loss, logits = self:loss(batch, y)
  if self.late then
    self:update(loss, logits, y, hits, self.late:add(loss, batch, y:size(0), generator))
    if self.late:is_full() then self.late:read() end
    return 0.0, y:size(0)
  end
  local value = loss:item()
  if not check.is_finite(value) then
    self.diverged = true
    require("medxai.train.diagnose").loss(self, batch, value, generator)
  end
  self:update(loss, logits, y, hits)
  return value, y:size(0)
end

-- The order in which an epoch takes the images: a permutation, or draws with equal odds for each class.
local function epoch_order(self, epoch)
  local train = self.data.train
  if self.options.sampler == "shuffle" then return train:order(self.seed, epoch) end
  local by_class, labels = {}, {}
  for i = 1, train.n do
    local label = train:label(i)
    if not by_class[label] then
      by_class[label] = {}
      labels[#labels + 1] = label
    end
    table.insert(by_class[label], i)
  end
  table.sort(labels)
  local scope <close> = require("medxai.core").memory.scope()
  local stream = require("medxai.tensor.random").stream { seed = self.seed, purpose = "weighted_sampler@1",
    replicate = epoch }
  local draws, order = stream:uniform(2 * train.n):tolist(), {}
  for k = 1, train.n do
    local class = by_class[labels[1 + math.floor(draws[2 * k - 1] * #labels)]]
    order[k] = class[1 + math.floor(draws[2 * k] * #class)]
  end
  return order
end

-- Where an epoch's batches come from, but for the images that it has seen: the loader, or the cached outputs of the
-- frozen part. What augmentation draws depends on the epoch and the image alone.
function Trainer:source(epoch, seen)
  local order = epoch_order(self, epoch)
  if seen > 0 then order = table.move(order, seen + 1, #order, 1, {}) end
  local o, batch = self.options, self.options.batch
  if self.group then
    order, batch, self.sizes = parallel.share(order, batch, o.drop_last, self.group.rank, self.group.world)
  end
  if self.images then
    return self.images:source { batch = batch, order = order, seed = self.seed, epoch = epoch, augment = true,
      drop_last = o.drop_last, channels_last = self.model.layout == "channels_last" }
  end
  if self.prefix then
    return self.prefix:source(self.data.train, { batch = o.batch, order = order, drop_last = o.drop_last })
  end
  return self.data.train:loader { batch = batch, order = order, seed = self.seed, epoch = epoch, augment = true,
    drop_last = o.drop_last and not self.group, channels_last = self.model.layout == "channels_last" }
end

-- One step of all processes on the next batch: the loss over all of it, its images, and how many are this process'.
function Trainer:train_step(source, hits)
  if not self.group then return self:train_batch(source, hits) end
  local size = self.sizes[self.batch_number + 1]
  if not size then return nil end
  local from, to = parallel.part(size, self.group.rank, self.group.world)
  return parallel.step(self, source, hits, size), size, to - from + 1
end

local function peak_bytes()
  local memory = require("medxai.core").memory()
  return math.max(memory.peak_bytes, memory.cuda_peak_bytes or 0)
end

-- Whether a checkpoint within the epoch is to be written: the last one is old, or the program was asked to stop.
-- Several processes write none: their clocks do not agree on it.
function Trainer:part_is_due()
  if self.group then return false end
  return host.asked() or host.now() - self.saved_at >= 60 * self.options.checkpoint_minutes
end

-- A safe point within an epoch: writes a checkpoint; then a signal that has waited stops the program.
function Trainer:write_part(within)
  local asked = host.asked()
  self.within = within
  self:save_part()
  self.within = nil
  if asked then Trainer.let_signals() end
end

--- While the returned value is open, SIGUSR1 and SIGUSR2 wait for a checkpoint.
function Trainer.hold_signals()
  host.hold_signals(true)
  return setmetatable({}, { __close = function() host.hold_signals(false) end })
end

--- A checkpoint is written: one that has waited stops the program.
function Trainer.let_signals()
  host.hold_signals(false)
  host.hold_signals(true)
end

-- One pass over the training images, or the rest of one: mean loss, accuracy, and what it cost.
function Trainer:train_epoch()
  local n, options = self.data.train.n, self.options
  if options.drop_last then n = n // options.batch * options.batch end
  self.model:train()
  local mode <close> = precision.tf32(options.precision) -- luacheck: ignore (held, not read)
  local done = self.within or { seen = 0, sum = 0.0, hits = self.data.findings and { 0, 0 } or 0, seconds = 0.0 }
  self.within = nil
  local hits <close> = self.torch.tensor(self.data.findings and done.hits or { done.hits },
    { dtype = "int64" }):to { device = self.model.device }
  local name = string.format("epoch %d/%d", self.epoch, options.epochs)
  local bar <close> = Progress.new(name, n, { done = (self.epoch - 1) * n, total = options.epochs * n,
    extra = self.val_seconds * (options.epochs - self.epoch + 1) })
  bar.count = done.seen
  local began, seen, sum, own = host.now() - done.seconds, done.seen, done.sum, done.seen
  if self.late then self.late.sum = done.sum end
  local function summed()
    if self.late then sum = self.late:read() end
    return sum
  end
  local source <close> = seen < n and self:source(self.epoch, seen) or nil
  self.batch_number = seen // options.batch
  self.batches = self.batch_number + (self.sizes and #self.sizes or source and source.batches or 0)
  for value, count, here in function() if source then return self:train_step(source, hits) end end do
    sum, seen, own = sum + value * count, seen + count, own + (here or count)
    self.alive("fit " .. name)
    if self:part_is_due() then
      self:write_part { seen = seen, sum = summed(), hits = self:hits_so_far(hits), seconds = host.now() - began,
        stepped = false }
    end
    bar:add(count, function()
      return string.format("loss %.4f  accuracy %.4f  waited %.0f %%  peak %s", summed() / seen,
        self:accuracy(hits, own), 100 * source.wait_seconds / math.max(host.now() - began, 1e-9),
        Progress.megabytes(peak_bytes()))
    end)
  end
  summed()
  if self.scale then self.scale:check() end
  local seconds = require("medxai.core").device.now() - began
  if self.group then
    self.group:all_reduce(hits)
    parallel.share_buffers(self, changing(self.model))
  end
  self.trained = { seen = seen, sum = sum, hits = self:hits_so_far(hits), seconds = seconds,
    stepped = done.stepped or false }
  return { loss = sum / seen, accuracy = self:accuracy(hits, seen), seconds = seconds,
    images_per_second = seen / seconds, wait_share = (source and source.wait_seconds or 0.0) / seconds }
end

function Trainer:step_schedule(metric)
  if not self.schedule then return end
  self.schedule:step(metric)
  self:set_lr()
end

local function better(self, value)
  if not self.best then return true end
  if Trainer.measures[self.options.best_by] then return value > self.best.value end
  return value < self.best.value
end

function Trainer:keep_best(val)
  local value = val[self.options.best_by]
  if not better(self, value) then
    self.since_best = self.since_best + 1
    return false
  end
  if self.best then close_state(self.best.weights) end
  self.best = { epoch = self.epoch, value = value, accuracy = val.accuracy, loss = val.loss,
    weights = copy_state(self.model), answers = val }
  self.since_best = 0
  return true
end

--- The answers on the validation split, with balanced accuracy and macro F1.
function Trainer:validate()
  local val = require("medxai.nn.predict").predict(self.model, self.data.val,
    { batch = self.options.batch, name = "validation", prefix = self.prefix, group = self.group,
    when = (" after epoch %d"):format(self.epoch), loss = require("medxai.train.loss").of_validation(self),
    refuse = function(text)
      self.diverged = true
      check.fail("fit", "%s Lower lr (now %g), or look at this image.", text, self.lr)
    end, alive = function()
      self.alive()
      if self.trained and self:part_is_due() then self:write_part(self.trained) end
    end })
  if self.data.findings then return val end
  local metrics = require "medxai.stats.classification"
  local judged = metrics.from_confusion(metrics.confusion(val.labels, val.predicted, #self.data.val.classes))
  val.balanced_accuracy, val.macro_f1 = judged.balanced_accuracy, judged.macro.f1
  return val
end

--- Trains one more epoch. Returns its record, and what it cost (seconds, images_per_second, wait_share, peak_mb).
function Trainer:run_epoch()
  self.epoch = self.epoch + 1
  local lr = self.lr
  local train = self:train_epoch()
  if self.options.step_per == "phase" and not self.trained.stepped then self:step_schedule() end
  self.trained.stepped = true
  local val = self:validate()
  self.trained, self.val_seconds = nil, val.seconds
  self:step_schedule(val.loss)
  local is_best = self:keep_best(val)
  local record = { step = "fit", epoch = self.epoch, lr = lr, train_loss = train.loss, train_accuracy = train.accuracy,
    val_loss = val.loss, val_accuracy = val.accuracy, val_balanced_accuracy = val.balanced_accuracy,
    val_macro_f1 = val.macro_f1, val_auroc = val.auroc, best = is_best }
  self.history[#self.history + 1] = record
  return record, { seconds = train.seconds + val.seconds, images_per_second = train.images_per_second,
    wait_share = train.wait_share, peak_mb = peak_bytes() / (1 << 20) }
end

--- Calls the researcher's on_epoch for the last epoch, whose checkpoint is on disk: again where a training goes on from
--- it.
function Trainer:after_epoch()
  if self.within then return end -- a checkpoint within the next epoch: it has been called
  if self.options.on_epoch and self.epoch > 0 then require("medxai.train.on_epoch").call(self) end
end

local function logged_words(record)
  local words = {}
  for _, name in ipairs(check.sorted_keys(record.logged or {})) do
    words[#words + 1] = string.format("  %s %.4g", name, record.logged[name])
  end
  return table.concat(words)
end

local function auroc_words(record)
  return record.val_auroc and string.format(" AUROC %.4f", record.val_auroc) or ""
end

--- The line that tells an epoch.
function Trainer:line(record, cost)
  return string.format("epoch %d/%d  train loss %.4f accuracy %.4f  val loss %.4f accuracy %.4f%s%s  lr %g  %.1f "
    .. "images/s  waited %.0f %%  peak %s  %s%s", record.epoch, self.options.epochs, record.train_loss,
    record.train_accuracy, record.val_loss, record.val_accuracy, auroc_words(record), record.best and " (best)" or "",
    record.lr, cost.images_per_second, 100 * cost.wait_share, Progress.megabytes(cost.peak_mb * (1 << 20)),
    Progress.duration(cost.seconds), logged_words(record))
end

--- True after the last epoch, where early stopping has waited long enough, or where on_epoch said stop.
function Trainer:finished()
  local patience = self.options.early_stopping and self.options.early_stopping.patience
  return self.epoch >= self.options.epochs or self.stopped or (patience ~= nil and self.since_best >= patience)
end

-- ---- checkpoints ----------------------------------------------------------------------------------------------------

local function optimizer_entries(optimizer)
  local entries = canon.list()
  for i, entry in ipairs(optimizer:state()) do
    entries[i] = { param = entry.param, entry = entry.entry, tensor = entry.tensor }
  end
  return entries
end

-- The states of torch's generators: what dropout and stochastic depth draw next.
local function generators(self)
  local device = self.model.device
  if self.group then return { cpu = self.group:stack(self.torch.get_rng_state()) } end -- a row for each process
  return { cpu = self.torch.get_rng_state(), device = device ~= "cpu" and self.torch.get_rng_state(device) or nil }
end

--- Writes the whole state to a file, whole or not at all; within an epoch also how far that is. Of several processes
--- all call it, and the first one writes.
---@param path string
---@param key? string in the place of the trainer's own
function Trainer:save(path, key)
  local scope <close> = require("medxai.core").memory.scope()
  local best, within, draws = self.best, self.within, generators(self)
  self.saved_at = host.now()
  if self.group and self.group.rank > 0 then return end
  require("medxai.nn.checkpoint").save_checkpoint(path, {
    format = "medxai.checkpoint", version = within and 3 or 2, key = key or self.key,
    epoch = within and self.epoch - 1 or self.epoch, within = within, model = by_name(changing(self.model)),
    optimizer = optimizer_entries(self.optimizer), lr = self.lr,
    schedule = self.schedule and self.schedule:state() or nil,
    best = best and { epoch = best.epoch, value = best.value, accuracy = best.accuracy, loss = best.loss,
      weights = by_name(best.weights) } or nil,
    scale = self.scale and self.scale:state() or nil, since_best = self.since_best, generators = draws,
    history = canon.list(self.history),
  })
end

-- Copies the best weights of a checkpoint out of its scope.
local function take_best(self, saved, scope)
  if self.best then close_state(self.best.weights) end
  local weights = {}
  for i, entry in ipairs(changing(self.model)) do
    weights[i] = { name = entry.name, tensor = saved.weights[entry.name]:detach():clone() }
    scope:keep(weights[i].tensor)
  end
  self.best = { epoch = saved.epoch, value = saved.value, accuracy = saved.accuracy, loss = saved.loss,
    weights = weights }
end

--- Goes on from a checkpoint. False, and nothing changed: there is none, or it belongs to another key.
---@param path string
---@param key? string in the place of the trainer's own
---@param fresh_schedule? boolean the schedule is this trainer's own, stepped as often as the checkpoint has epochs
function Trainer:restore(path, key, fresh_schedule)
  if not require("medxai.base.files").exists(path) then return false end
  local scope <close> = require("medxai.core").memory.scope()
  local saved = require("medxai.nn.checkpoint").load_checkpoint(path)
  if saved.key ~= (key or self.key) or saved.version ~= 2 and saved.version ~= 3 then return false end
  Trainer.load_changing(self.model, saved.model, "'" .. path .. "'")
  self.optimizer:load_state(saved.optimizer)
  if self.scale and saved.scale then self.scale:load_state(saved.scale) end
  self.epoch, self.since_best, self.history = saved.epoch, saved.since_best, saved.history
  if fresh_schedule then
    for _, record in ipairs(self.history) do
      if self.options.step_per == "phase" then self:step_schedule() end
      self:step_schedule(record.val_loss)
    end
    if self.options.on_epoch and not self.schedule then self.lr = saved.lr end -- on_epoch may have set it
  else
    self.lr = saved.lr
    if self.schedule then self.schedule:load_state(saved.schedule) end
  end
  self.within = saved.within
  if fresh_schedule and self.within and self.within.stepped
      and self.options.step_per == "phase" then self:step_schedule() end
  self.optimizer:set_lr(self.lr)
  if saved.best then take_best(self, saved.best, scope) end
  self.torch.set_rng_state(self.group and saved.generators.cpu[self.group.rank]:clone() or saved.generators.cpu)
  if saved.generators.device then self.torch.set_rng_state(saved.generators.device, self.model.device) end
  return true
end

--- The weights to keep (option keep) into the model, which is in evaluation afterwards.
---@return table answers on the validation split
---@return table kept { epoch, value, accuracy, loss } of that epoch
function Trainer:take_kept_weights()
  if self.options.keep ~= "last" then return self:take_best_weights(), self.best end
  self.model:eval()
  local answers = self:validate()
  return answers, { epoch = self.epoch, value = answers[self.options.best_by], accuracy = answers.accuracy,
    loss = answers.loss }
end

--- The best epoch's weights back into the model, which is in evaluation afterwards. Returns its validation answers.
function Trainer:take_best_weights()
  Trainer.load_changing(self.model, self.best.weights, "the best epoch")
  self.model:eval()
  -- after a resumption the best epoch's answers may be gone: the same weights give the same ones again
  self.best.answers = self.best.answers or self:validate()
  return self.best.answers
end

return Trainer
