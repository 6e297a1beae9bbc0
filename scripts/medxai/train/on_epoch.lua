-- The researcher's function that is called after every epoch: on_epoch = function(state) ... end. It reads the epoch's
-- numbers, and may stop the training, note numbers of its own, or change the learning rate.
-- It is called when the epoch's checkpoint is on disk: where it fails nothing is lost, and a training that goes on from
-- a checkpoint calls it for that epoch again. It refuses a learning rate that a schedule sets, and a return value.
local canon = require "medxai.base.json"
local check = require "medxai.base.check"
local own_code = require "medxai.train.own_code"

local on_epoch = {}

local numbers = { "epoch", "train_loss", "train_accuracy", "val_loss", "val_accuracy", "val_balanced_accuracy",
  "val_macro_f1", "val_auroc", "best" }
local taken = { loss = true, accuracy = true, balanced_accuracy = true, macro_f1 = true, lr = true }

---@class medxai.EpochState what on_epoch sees
---@field epoch integer
---@field lr number of the coming epoch
---@field train_loss number
---@field train_accuracy number
---@field val_loss number
---@field val_accuracy number
---@field val_balanced_accuracy number
---@field val_macro_f1 number
---@field val_auroc number|nil of data with findings
---@field best boolean whether this epoch is the best so far
---@field history table[] the same numbers of all epochs, this one last
---@field model medxai.Model
---@field data medxai.Dataset
---@field stop fun(self) ends the training after this epoch
---@field set_lr fun(self, lr: number) the learning rate from the coming epoch on
---@field log fun(self, values: table<string, number>) numbers for metrics.csv, the progress line and TensorBoard
local methods = {}

-- The trainer behind a state; not a field that a researcher sees.
local trainer_of = setmetatable({}, { __mode = "k" })

function methods.stop(state) trainer_of[state].stopped = true end

function methods.set_lr(state, lr)
  local trainer = trainer_of[state]
  if not check.is_finite(lr) or lr < 0 then
    check.fail("on_epoch", "set_lr takes a learning rate (expected a number from 0, got %s).", tostring(lr))
  end
  if trainer.schedule then
    check.fail("on_epoch", "the schedule sets the learning rate. Leave schedule out, or set_lr.")
  end
  trainer.lr, state.lr = lr + 0.0, lr + 0.0
  trainer.optimizer:set_lr(trainer.lr)
end

function methods.log(state, values)
  if type(values) ~= "table" then
    check.fail("on_epoch", "log takes numbers with names (expected state:log { name = number }, got %s).", type(values))
  end
  local record = trainer_of[state].history[state.epoch]
  for _, name in ipairs(check.sorted_keys(values)) do
    if type(name) ~= "string" or not name:find "^[%w_][%w_%.%-]*$" or taken[name] then
      check.fail("on_epoch", "log: '%s' cannot be the name of a number (expected letters, digits, '_', '-' or '.', "
        .. "and none "
        .. "of loss, accuracy, balanced_accuracy, macro_f1, lr).", tostring(name))
    end
    if type(values[name]) ~= "number" then
      check.fail("on_epoch", "log: '%s' is a %s (expected a number).", name, type(values[name]))
    end
    record.logged = record.logged or {}
    record.logged[name] = values[name]
  end
end

local State = {}

function State.__index(_, key)
  if key == "val_auroc" then return nil end -- of one class per image there is none
  if methods[key] then return methods[key] end
  local names = { "history", "lr", "model", "data", table.unpack(numbers) }
  for name in pairs(methods) do names[#names + 1] = name end
  table.sort(names)
  check.known("on_epoch", "field of its state", key, names)
end

local function copy(record)
  local out = {}
  for key, value in pairs(record) do
    if type(value) == "table" then value = copy(value) end
    out[key] = value
  end
  return out
end

local function state_of(trainer)
  local state = { lr = trainer.lr, model = trainer.model, data = trainer.data, history = canon.list {} }
  for i, record in ipairs(trainer.history) do state.history[i] = copy(record) end
  for _, name in ipairs(numbers) do state[name] = trainer.history[trainer.epoch][name] end
  trainer_of[state] = trainer
  return setmetatable(state, State)
end

--- Calls it for the trainer's last epoch.
---@param trainer medxai.Trainer
function on_epoch.call(trainer)
  local where = ("on_epoch after epoch %d"):format(trainer.epoch)
  trainer.history[trainer.epoch].logged = nil
  local returned = own_code.call(where, trainer.options.on_epoch, state_of(trainer))
  if returned ~= nil then
    check.fail("fit", "on_epoch returned a %s (expected nothing). To end the training, call state:stop().",
      type(returned))
  end
end

return on_epoch
