-- The options of a training: what run:fit and the cells of run:grid take, checked; and as plain data, for keys.
-- It refuses options that exclude each other, and what is no optimizer or schedule.
local check = require "medxai.base.check"
local Options = require "medxai.base.options"
local files = require "medxai.base.files"
local host = require "medxai.host"
local code = require "medxai.base.fingerprint"
local losses = require "medxai.train.loss"
local suggest = require "medxai.base.suggest"
local Trainer = require "medxai.train.trainer"

local options_of = {}

local stopping_spec = {
  patience = { "integer", required = true, min = 1, unit = "epochs", doc = "without a better validation score" },
}

options_of.spec = {
  optim = { "table", required = true, lua = "medxai.OptimizerSpec",
    doc = "the optimizer, for instance xai.optim.sgd { lr = 0.01, momentum = 0.9 }" },
  epochs = { "integer", field = true, required = true, min = 1, smoke = 1, doc = "passes over the training images" },
  batch = { "integer", field = true, default = 32, min = 1, smoke = 4, unit = "images",
    doc = "per step of the optimizer" },
  schedule = { "table", lua = "medxai.ScheduleSpec",
    doc = "of the learning rate, for instance xai.optim.step_lr { step_size = 7, gamma = 0.1 }; default: constant" },
  lr = { instead = "The optimizer has it: optim = xai.optim.sgd { lr = 0.01 }." },
  momentum = { instead = "The optimizer has it: optim = xai.optim.sgd { lr = 0.01, momentum = 0.9 }." },
  weight_decay = { instead = "The optimizer has it: optim = xai.optim.adamw { weight_decay = 0.01 }." },
  patience = { instead = "Write early_stopping = { patience = 3 }." },
  device = { instead = "Give it to the program: --device cuda." },
  num_workers = { instead = "Give it to the program: --threads N." },
  criterion = { instead = "Write loss = \"focal\", or loss = function(logits, labels, batch) ... end." },
  loss = { "string|table|function",
    lua = "string|table|fun(logits: medxai.Tensor, labels: medxai.Tensor, batch: table): medxai.Tensor",
    doc = losses.words .. "; or a function(logits, labels, batch) that returns the mean over the batch. Default: "
      .. "cross_entropy, of data with findings bce_with_logits" },
  on_epoch = { "function", lua = "fun(state: medxai.EpochState)",
    doc = "function(state) called after every epoch; it may call state:stop(), state:set_lr(lr), state:log { name = "
    .. "number }" },
  step = { now = "schedule = xai.optim.step_lr { step_size = ..., gamma = ... }" },
  step_per = { one_of = { "epoch", "phase" }, default = "epoch",
    doc = "when the schedule steps; phase: after training and again after validation, as the thesis did" },
  aux_weight = { "number", default = 0.4, min = 0, doc = "of inception_v3's auxiliary loss" },
  early_stopping = { "table", fields = stopping_spec, doc = "end when the validation score (best_by) stops improving" },
  best_by = { one_of = check.sorted_keys(Trainer.measures), field = true,
    doc = "the score on the validation split by which weights are kept; default accuracy, of data with findings auroc "
      .. "(mean area under the ROC curves)" },
  keep = { one_of = { "best", "last" }, field = true, default = "best",
    doc = "the weights of the best epoch on the validation split (best_by), or of the last epoch" },
  weight = { "table|string", lua = "number[]|\"balanced\"",
    doc = "of each class in the loss: a list, or \"balanced\" (images / (classes x images of the class))" },
  label_smoothing = { "number", field = true, default = 0, min = 0, max = 1,
    doc = "share of the target that is spread over all classes, as CrossEntropyLoss" },
  clip_grad_norm = { "number", field = true, above = 0, doc = "the largest norm of all gradients together" },
  precision = { one_of = { "float32", "tf32", "bfloat16", "float16" }, field = true, default = "float32",
    values = { float32 = "all digits, on GPUs too", tf32 = "products of 10 bits of mantissa, on GPUs alone",
      bfloat16 = "products in bfloat16, weights in float32 (autocast)",
      float16 = "products in float16 with a scaled loss; bfloat16 is safer where there is it" },
    doc = "of the products in training" },
  sampler = { one_of = { "shuffle", "weighted" }, field = true, default = "shuffle",
    doc = "weighted: every class equally often, drawn with replacement" },
  drop_last = { "boolean", default = false, doc = "leave out the last batch of an epoch where it is not full" },
  sync_bn = { "boolean", field = true, default = false,
    doc = "of several processes: batch norms see the whole batch, and not each its own part" },
  timeout_s = { "number", field = true, default = 600, above = 0, unit = "s",
    doc = "that one of several processes waits for another" },
  deterministic = { "boolean", field = true, default = false, doc = "deterministic operators only (matters on CUDA)" },
  checkpoint_minutes = { "number", field = true, default = 10, min = 0,
    doc = "between two checkpoints within an epoch; 0: one after each batch" },
}

local function check_weight(weight)
  if type(weight) == "string" and weight ~= "balanced" then
    check.fail("fit", "option 'weight' is wrong (expected a number for each class, or 'balanced', got '%s').", weight)
  end
  local list = type(weight) == "table" and weight or {}
  for i = 1, #list do
    local w = list[i]
    if not check.is_finite(w) or w < 0 then
      check.fail("fit", "weight %d is wrong (expected a number from 0, got %s).", i, tostring(w))
    end
  end
end

local function warn_slow_bfloat16()
  local device = host.options.device or "cpu"
  local flags = device == "cpu" and files.read("/proc/cpuinfo") or ""
  if device == "cpu" and not flags:find "avx512_bf16" and not flags:find "amx_bf16" and not flags:find "bf16" then
    check.warn("fit", "precision = 'bfloat16': this processor has no bfloat16 arithmetic, so it will be slower than "
      .. "float32.")
  end
end

--- The options of a training, checked and complete; a grid search checks those of its cells here, too.
-- optim = "adam" and optim = xai.optim.adam, without its options.
local function check_built(key, value)
  if type(value) ~= "string" and type(value) ~= "function" then return end
  local optim = require "medxai.train.optim"
  local names = {}
  for _, name in ipairs(check.sorted_keys(optim)) do
    if value == optim[name] then
      check.fail("fit", "option '%s' is the function xai.optim.%s. Call it: %s = xai.optim.%s { ... }.", key, name,
        key, name)
    end
    local ok = name:find "_lr$" or name == "warmup" or name == "reduce_lr_on_plateau"
    if (key == "schedule") == (ok ~= nil and ok ~= false) then names[#names + 1] = name end
  end
  if type(value) ~= "string" then return end
  local near = suggest.nearest(value, names)[1]
  check.fail("fit", "option '%s' is the text '%s'. Write %s = xai.optim.%s { ... }%s.", key, value, key,
    near or names[1], near and "" or ", or another of " .. table.concat(names, ", "))
end

---@param data? medxai.Dataset without it, that of classes which exclude each other
function options_of.check(options, data)
  if type(options) == "table" then
    check_built("optim", options.optim)
    check_built("schedule", options.schedule)
  end
  options = Options.check("fit", options, options_of.spec)
  if type(options.optim.build) ~= "function" then
    check.fail("fit", "option 'optim' is no optimizer (expected xai.optim.sgd { lr = ... } or another of xai.optim).")
  end
  if options.schedule and type(options.schedule.build) ~= "function" then
    check.fail("fit", "option 'schedule' is no schedule (expected xai.optim.cosine_annealing_lr { ... } or another "
      .. "of xai.optim).")
  end
  if options.early_stopping then
    options.early_stopping = Options.check("fit: early_stopping", options.early_stopping, stopping_spec)
  end
  check_weight(options.weight)
  local several = data and data.findings or false
  options.loss = losses.parse(options.loss, options, several)
  options.best_by = options.best_by or (several and "auroc" or "accuracy")
  if options.best_by == "auroc" and not several then
    check.fail("fit", "best_by = 'auroc' is of data with findings (here: one class per image). Write another score.")
  end
  if options.precision == "bfloat16" then warn_slow_bfloat16() end
  return options
end

--- The options of a training as plain data: what determines its numbers beside model and data.
---@param options table
---@param group? medxai.ProcessGroup of several processes
function options_of.describe(options, group)
  local optim, schedule = options.optim, options.schedule
  return { optim = { kind = optim.kind, options = optim.options },
    schedule = schedule and { kind = schedule.kind, options = schedule.options } or nil,
    epochs = options.epochs, batch = options.batch, step_per = options.step_per, aux_weight = options.aux_weight,
    early_stopping = options.early_stopping, deterministic = options.deterministic, best_by = options.best_by,
    weight = options.weight, label_smoothing = options.label_smoothing, clip_grad_norm = options.clip_grad_norm,
    precision = options.precision, sampler = options.sampler, drop_last = options.drop_last or nil,
    keep = options.keep ~= "best" and options.keep or nil, processes = group and group.world or nil,
    sync_bn = group and options.sync_bn or nil,
    loss = losses.describe(options.loss), on_epoch = options.on_epoch
    and files.sha256(code.of_function(options.on_epoch)) or nil }
end

--- Deterministic operators until the returned value is closed.
function options_of.deterministic(on)
  local device = require("medxai.core").device
  if on then device.set_deterministic(true) end
  return setmetatable({}, { __close = function() if on then device.set_deterministic(false) end end })
end

return options_of
