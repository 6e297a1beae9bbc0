-- The loss of a training: a name ("cross_entropy", "focal"), a name with options, or a function of one's own.
-- A function's value is checked at every batch: it refuses what is no number that training could lower, and says which.
local check = require "medxai.base.check"
local Options = require "medxai.base.options"
local code = require "medxai.base.fingerprint"
local files = require "medxai.base.files"
local own_code = require "medxai.train.own_code"

local loss = {}

--- The losses that have a name, with their options: { "focal", gamma = 2 }.
loss.specs = {
  cross_entropy = {},
  bce_with_logits = { pos_weight = { "table|string", lua = "number[]|\"balanced\"",
    doc = "of the positives of each finding: a list, or \"balanced\" (training images without / with it)" } },
  focal = { gamma = { "number", default = 2, min = 0, max = 100,
    doc = "how little images count whose class is sure already; 0: cross-entropy" } },
}

local docs = {
  cross_entropy = "CrossEntropyLoss of PyTorch",
  bce_with_logits = "BCEWithLogitsLoss over the known findings",
  focal = "(1 - p)^gamma times the one or the other, p the probability of the truth (Lin et al. 2017, equation 4)",
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

local function check_pos_weight(list)
  if type(list) == "string" and list ~= "balanced" then
    check.fail("fit", "option 'pos_weight' is wrong (expected a number for each finding, or 'balanced', "
      .. "got '%s').", list)
  end
  for k = 1, type(list) == "table" and #list or 0 do
    if not check.is_finite(list[k]) or list[k] <= 0 then
      check.fail("fit", "pos_weight %d is wrong (expected a number above 0, got %s).", k, tostring(list[k]))
    end
  end
end

-- Options that are about classes which exclude each other.
local function refuse_of_classes(others)
  local instead = { weight = "loss = { \"bce_with_logits\", pos_weight = \"balanced\" }",
    label_smoothing = "an own loss" }
  for _, name in ipairs { "weight", "label_smoothing" } do
    if others[name] and others[name] ~= 0 then
      check.fail("fit", "option '%s' is about classes that exclude each other (the data have findings). "
        .. "Write %s.", name, instead[name])
    end
  end
  if others.sampler == "weighted" then
    check.fail("fit", "sampler = \"weighted\" draws every class equally often (the data have findings). Leave it out.")
  end
end

--- Reads the option `loss`.
---@param value string|table|function|nil
---@param others { weight: any, label_smoothing: number } that belong to named losses
---@param several? boolean the data have several findings per image
---@return medxai.Loss
function loss.parse(value, others, several)
  if several then refuse_of_classes(others) end
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
  local name, options = value or (several and "bce_with_logits" or "cross_entropy"), {}
  if type(value) == "table" then
    name = value[1]
    for key, option in pairs(value) do
      if key ~= 1 then options[key] = option end
    end
  end
  check.known("fit", "loss", name, check.sorted_keys(loss.specs))
  if several ~= nil and name == (several and "cross_entropy" or "bce_with_logits") then
    check.fail("fit", several and "the loss cross_entropy is of classes that exclude each other (the data have "
      .. "findings). "
      .. "Write loss = \"bce_with_logits\", or leave it out."
      or "the loss bce_with_logits is of findings (the data have one class per image). Leave it out.")
  end
  options = Options.check("fit: loss " .. name, options, loss.specs[name])
  check_pos_weight(options.pos_weight)
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
  if spec.name == "cross_entropy" or spec.name == "bce_with_logits" and not next(spec.options) then return nil end
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

-- Mean over the known entries of what `each` says of log p of the truth: logits, y (N, findings), y NaN where unknown.
local function over_known(torch, logits, y, each)
  local known = y:isnan():logical_not()
  local there = y:eq(1)
  local log_p = torch.where(there, torch.log_sigmoid(logits), torch.log_sigmoid(-logits))
  local value = torch.where(known, each(log_p, there), torch.zeros_like(log_p))
  return value:sum() / known:sum():clamp_min(1) -- 0 where a batch knows nothing
end

-- Training images without a finding over those with it.
local function balanced(split)
  local with, without = {}, {}
  for i = 1, split.n do
    for k, y in ipairs(split:item_findings(i)) do
      with[k], without[k] = (with[k] or 0) + (y == 1 and 1 or 0), (without[k] or 0) + (y == 0 and 1 or 0)
    end
  end
  for k in ipairs(with) do with[k] = without[k] / math.max(1, with[k]) end
  return with
end

function named.bce_with_logits(trainer, spec)
  local torch, list = trainer.torch, spec.options.pos_weight
  if list == "balanced" then list = balanced(trainer.data.train) end
  if list and #list ~= trainer.model.num_classes then
    check.fail("fit", "pos_weight has %d numbers for %d findings (%s).", #list, trainer.model.num_classes,
      table.concat(trainer.data.classes, ", "))
  end
  return function(logits, y)
    local weight = list and torch.tensor(list, { dtype = "float32" }):to { device = logits.device }
    return over_known(torch, logits, y, function(log_p, there)
      return weight and torch.where(there, -log_p * weight, -log_p) or -log_p
    end)
  end
end

local function focal_of_findings(torch, gamma)
  return function(logits, y)
    return over_known(torch, logits, y, function(log_p)
      return -log_p * (-torch.expm1(log_p)):clamp_min(0x1p-126) ^ gamma
    end)
  end
end

function named.focal(trainer, spec)
  if trainer.data and trainer.data.findings then return focal_of_findings(trainer.torch, spec.options.gamma) end
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
  local function mask(_, k, kind) -- moved as augmentation moved the image
    if batch.mask then return batch:mask(k, kind) end
    return split:mask(batch.index[k], kind)
  end
  return setmetatable({ index = { table.unpack(batch.index) }, split = split, epoch = trainer.epoch,
    training = training, mask = mask }, { __index = function(self, key)
      check.known("loss", "field of a batch", key, { "epoch", "index", "mask", "split", "training", "x" })
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
  local spec = trainer.options.loss
  if spec.name == "cross_entropy" or spec.name == "bce_with_logits" and not spec.options.pos_weight then return nil end
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
