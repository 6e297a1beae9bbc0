-- The loss of a training: a name ("cross_entropy", "focal"), a name with options, or a function of one's own.
-- A function's value is checked at every batch: it refuses what is no number that training could lower, and says which.
local check = require "medxai.base.options"
local code = require "medxai.base.fingerprint"
local files = require "medxai.base.files"
local own_code = require "medxai.train.own_code"

local loss = {}

--- The losses that have a name, with their options: { "focal", gamma = 2 }.
loss.specs = {
  cross_entropy = {},
  focal = { gamma = { "number", default = 2, min = 0, max = 100,
    doc = "how little images count whose class is sure already; 0: cross-entropy" } },
}

local docs = {
  cross_entropy = "CrossEntropyLoss of PyTorch",
  focal = "(1 - p)^gamma times it, p the probability of the image's class (Lin et al. 2017, equation 4, over softmax)",
}

--- "cross_entropy (...), focal (...)" for the reference.
loss.words = (function()
  local words = {}
  for i, name in ipairs(check.sorted_keys(loss.specs)) do words[i] = ("%s (%s)"):format(name, docs[name]) end
  return table.concat(words, ", ")
end)()

---@class medxai.Loss
---@field name string of loss.specs, or "own"
---@field options table
---@field f function|nil the researcher's own

--- Reads the option `loss`.
---@param value string|table|function|nil
---@param others { weight: any, label_smoothing: number } that belong to named losses
---@return medxai.Loss
function loss.parse(value, others)
  local callable = type(value) == "function" or type(value) == "table"
    and type((getmetatable(value) or {}).__call) == "function"
  if callable then
    for _, name in ipairs { "weight", "label_smoothing" } do
      if others[name] and others[name] ~= 0 then
        check.fail("fit", "option '%s' belongs to the losses with a name. Do in your own loss what it should do.", name)
      end
    end
    return { name = "own", options = {}, f = value }
  end
  local name, options = value or "cross_entropy", {}
  if type(value) == "table" then
    name = value[1]
    for key, option in pairs(value) do
      if key ~= 1 then options[key] = option end
    end
  end
  check.known("fit", "loss", name, check.sorted_keys(loss.specs))
  options = check.options("fit: loss " .. name, options, loss.specs[name])
  if name ~= "cross_entropy" and others.label_smoothing and others.label_smoothing ~= 0 then
    check.fail("fit", "option 'label_smoothing' belongs to the loss cross_entropy (here: %s). Leave it out.", name)
  end
  return { name = name, options = options }
end

--- What a step's key says of it; nil of cross-entropy.
---@param spec medxai.Loss
---@return table|nil
function loss.describe(spec)
  if spec.f then
    return { own = files.sha256(type(spec.f) == "function" and code.of_function(spec.f) or code.setting(spec.f)) }
  end
  if spec.name == "cross_entropy" then return nil end
  return { name = spec.name, options = spec.options }
end

-- ---- the losses with a name -----------------------------------------------------------------------------------------

local named = {}

-- logits (N, C), y (N) -> the mean over the images, weighted by their classes.
function named.cross_entropy(trainer)
  local cross_entropy, options = trainer.torch.cross_entropy, trainer.loss_options
  if options then return function(logits, y) return cross_entropy(logits, y, options) end end
  return function(logits, y) return cross_entropy(logits, y) end
end

function named.focal(trainer, spec)
  local torch, weight, gamma = trainer.torch, (trainer.loss_options or {}).weight, spec.options.gamma
  return function(logits, y)
    local log_p = torch.log_softmax(logits, 1):gather(1, y:unsqueeze(1)):squeeze(1)
    local rest = -torch.expm1(log_p) -- 1 - p with all its digits
    local each = -log_p * rest:clamp_min(0x1p-126) ^ gamma -- a base of 0 has no derivative where gamma < 1
    if not weight then return each:mean() end
    local own = weight:index_select(0, y)
    return (each * own):sum() / own:sum()
  end
end

-- ---- one's own ------------------------------------------------------------------------------------------------------

-- What an own loss sees of a batch beside logits and labels.
local function seen(trainer, split, batch, training)
  local images = batch.x -- none where the outputs of the frozen part are cached
  return setmetatable({ index = { table.unpack(batch.index) }, split = split, epoch = trainer.epoch,
    training = training }, { __index = function(self, key)
      check.known("loss", "field of a batch", key, { "epoch", "index", "split", "training", "x" })
      local as_loaded = { channels_last = trainer.model.layout == "channels_last" } -- the order of sums, so last bits
      self.x = (images or split:batch(batch.index, as_loaded).x):to { device = trainer.model.device }
      return self.x
    end })
end

local function wrong(where, expected, got, advice)
  check.fail("fit", "%s returned %s (expected %s). %s", where, got, expected, advice)
end

local expected = "a tensor of one number made of the logits"

-- Raises unless a value is one number that training can lower.
local function check_value(where, value, training)
  if type(value) == "number" then wrong(where, expected, "a number", "Return the tensor itself, without :item().") end
  if type(value) ~= "userdata" or type(value.numel) ~= "function" then
    wrong(where, expected, value == nil and "nothing" or "a " .. type(value), "Return the batch's loss.")
  end
  if value:numel() ~= 1 then
    wrong(where, "a tensor of one number", "a tensor of shape (" .. table.concat(value.shape, ", ") .. ")",
      "Take the mean over the images: return loss:mean().")
  end
  if training and not value.requires_grad then
    wrong(where, expected, "a tensor without a gradient", "Make it of the logits, without detach, argmax or no_grad.")
  end
end

-- (split, training) -> f(logits, y, batch).
local function own(trainer, spec)
  return function(logits, y, batch, split, training)
    local where = ("the loss in epoch %d, %s"):format(trainer.epoch, training
      and ("batch %d of %d"):format(trainer.batch_number, trainer.batches) or "validation")
    local value = own_code.call(where, spec.f, logits, y, seen(trainer, split, batch, training))
    check_value("the loss", value, training)
    return value
  end
end

--- The loss as a function (logits (N, C), labels (N), batch, split, training) -> tensor of one number, of a trainer
--- whose model and class weights are in place.
---@param trainer medxai.Trainer
---@return function
function loss.open(trainer)
  local spec = trainer.options.loss
  if spec.f then return own(trainer, spec) end
  return named[spec.name](trainer, spec)
end

--- What training is told of validation: nil where the mean cross-entropy is the loss, else (logits, y, batch) ->
--- number.
---@param trainer medxai.Trainer
function loss.of_validation(trainer)
  if trainer.options.loss.name == "cross_entropy" then return nil end
  return function(logits, y, batch)
    local scope <close> = require("medxai.core").memory.scope() -- luacheck: ignore
    y = y:to { device = trainer.model.device }
    local value = trainer.loss_of(logits, y, batch, trainer.data.val, false):item()
    if check.is_finite(value) then return value end
    trainer.diverged = true
    check.fail("fit", "the loss is %s on the validation images after epoch %d.%s",
      require("medxai.nn.predict").in_words(value), trainer.epoch, loss.advice(trainer.options.loss))
  end
end

--- What to look at where a loss of finite logits is not finite: " Look for ... in FILE:LINE."
---@param spec medxai.Loss
function loss.advice(spec)
  if not spec.f then return "" end
  return (" The logits are finite: look for a logarithm of 0, a root of 0 or a division by 0 in the loss (%s)."):format(
    own_code.place(spec.f) or "your function")
end

return loss
