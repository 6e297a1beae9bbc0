-- The options of a training: what run:fit and the cells of run:grid take, checked; and as plain data, for keys.
-- It refuses options that exclude each other, and what is no optimizer or schedule.
local check = require "medxai.base.options"
local files = require "medxai.base.files"
local host = require "medxai.host"
local Trainer = require "medxai.train.trainer"

local options_of = {}

options_of.spec = {
  optim = { "table", required = true },
  epochs = { "integer", field = true, required = true, min = 1 },
  batch = { "integer", field = true, default = 32, min = 1 },
  step = { "table" },                            -- StepLR { size =, gamma = }
  schedule = { "table" },                        -- any other: xai.optim.cosine_annealing_lr { ... }
  step_per = { one_of = { "epoch", "phase" }, default = "epoch" }, -- "phase": after training and again after validation
  aux_weight = { "number", default = 0.4, min = 0 },            -- of Inception's auxiliary loss
  early_stopping = { "table" },                  -- { patience = epochs without a better validation accuracy }
  best_by = { one_of = check.sorted_keys(Trainer.measures), field = true, default = "accuracy" }, -- of the validation split
  weight = { "table|string" },                   -- of the classes in the loss: a list, or "balanced" (n / (classes * count))
  label_smoothing = { "number", field = true, default = 0, min = 0, max = 1 },
  clip_grad_norm = { "number", field = true, above = 0 },                     -- the largest norm of all gradients together
  precision = { one_of = { "float32", "bf16" }, field = true, default = "float32" }, -- bf16: products in bfloat16, weights in float32
  sampler = { one_of = { "shuffle", "weighted" }, field = true, default = "shuffle" }, -- weighted: every class as often, drawn with replacement
  drop_last = { "boolean", default = false },                   -- leaves out an epoch's last batch where it is not full
  deterministic = { "boolean", field = true, default = false },
  checkpoint_minutes = { "number", field = true, default = 10, min = 0 }, -- a checkpoint within an epoch; 0: after each batch
}

local step_spec = {
  size = { "integer", required = true, min = 1, field = "step_size" },
  gamma = { "number", field = true, default = 0.1, above = 0 },
}

local stopping_spec = { patience = { "integer", required = true, min = 1 } }

local function check_schedule(options)
  if options.step and options.schedule then
    check.fail("fit", "options 'step' and 'schedule' exclude each other. Leave one out.")
  end
  if options.step then
    local step = check.options("fit: step", options.step, step_spec)
    return require("medxai.train.optim").step_lr { step_size = step.size, gamma = step.gamma }
  end
  return options.schedule
end

local function check_weight(weight)
  if type(weight) == "string" and weight ~= "balanced" then
    check.fail("fit", "option 'weight' is wrong (expected a number for each class, or 'balanced', got '%s').", weight)
  end
  local list = type(weight) == "table" and weight or {}
  for i = 1, #list do
    local w = list[i]
    if not check.is_finite(w) or w < 0 then check.fail("fit", "weight %d is wrong (expected a number from 0, got %s).", i, tostring(w)) end
  end
end

local function warn_slow_bf16()
  local device = host.options.device or "cpu"
  local flags = device == "cpu" and files.read("/proc/cpuinfo") or ""
  if device == "cpu" and not flags:find "avx512_bf16" and not flags:find "amx_bf16" and not flags:find "bf16" then
    check.warn("fit", "precision = 'bf16': this processor has no bfloat16 arithmetic, so it will be slower than float32.")
  end
end

--- The options of a training, checked and complete; a grid search checks those of its cells here, too.
function options_of.check(options)
  options = check.options("fit", options, options_of.spec)
  if type(options.optim.build) ~= "function" then
    check.fail("fit", "option 'optim' is no optimizer (expected xai.optim.sgd { lr = ... } or another of xai.optim).")
  end
  options.schedule = check_schedule(options)
  if options.schedule and type(options.schedule.build) ~= "function" then
    check.fail("fit", "option 'schedule' is no schedule (expected xai.optim.cosine_annealing_lr { ... } or another of xai.optim).")
  end
  if options.early_stopping then options.early_stopping = check.options("fit: early_stopping", options.early_stopping, stopping_spec) end
  check_weight(options.weight)
  if options.precision == "bf16" then warn_slow_bf16() end
  if check.smoke() then options.epochs, options.batch = 1, math.min(4, options.batch) end
  return options
end

--- The options of a training as plain data: what determines its numbers beside model and data.
function options_of.describe(options)
  local optim, schedule = options.optim, options.schedule
  return { optim = { kind = optim.kind, options = optim.options }, schedule = schedule and { kind = schedule.kind, options = schedule.options } or nil,
    epochs = options.epochs, batch = options.batch, step_per = options.step_per, aux_weight = options.aux_weight,
    early_stopping = options.early_stopping, deterministic = options.deterministic, best_by = options.best_by, weight = options.weight,
    label_smoothing = options.label_smoothing, clip_grad_norm = options.clip_grad_norm, precision = options.precision, sampler = options.sampler,
    drop_last = options.drop_last or nil }
end

--- Deterministic operators until the returned value is closed.
function options_of.deterministic(on)
  local device = require("medxai.core").device
  if on then device.set_deterministic(true) end
  return setmetatable({}, { __close = function() if on then device.set_deterministic(false) end end })
end

return options_of
