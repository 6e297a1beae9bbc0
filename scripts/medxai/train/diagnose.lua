-- Says where a loss or an answer that is not finite began: runs the batch forward again, with the same draws, and asks the graph
-- for the first node that is not finite. Opened only when it is needed. It refuses to repair anything: the step stops.
local check = require "medxai.base.options"

local diagnose = {}

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

local function where(model, x)
  if not finite(x) then return "The images of this batch are not finite themselves" end
  local node = require("medxai.torch").no_grad(function() return model:find_nonfinite(x) end)
  local weight = first_bad_weight(model)
  local text = node and ("It began in '" .. node .. "'") or "Every node is finite: it began in the loss"
  if weight then text = text .. " (the weights '" .. weight .. "' are not finite any more)" end
  return text
end

local function names_of(batch, split)
  local names = {}
  for i, index in ipairs(batch.index) do
    if i > 3 then
      names[i] = "..."
      break
    end
    local item = split:item(index)
    names[i] = item.path
  end
  return table.concat(names, ", ")
end

local function in_words(value) return value ~= value and "nan" or value > 0 and "infinite" or "minus infinite" end

--- A loss that is not finite.
---@param trainer medxai.Trainer
---@param batch table
---@param value number the loss
---@param generator table torch's generator state before the forward pass
function diagnose.loss(trainer, batch, value, generator)
  local x = batch.x or trainer.data.train:batch(batch.index).x -- of a cached prefix the images were not loaded
  trainer.torch.set_rng_state(generator)
  local weight = trainer.loss_options and trainer.loss_options.weight
  if weight and weight:index_select(0, batch.y:to { device = weight.device }):sum():item() == 0 then
    check.fail("fit", "the loss is %s in epoch %d, batch %d of %d: the class weights of all its images are 0. Give every class a weight, or a larger batch.",
      in_words(value), trainer.epoch, trainer.batch_number, trainer.batches)
  end
  check.fail("fit", "the loss is %s in epoch %d, batch %d of %d (%s). %s. Lower lr (now %g), or look at these images.", in_words(value),
    trainer.epoch, trainer.batch_number, trainer.batches, names_of(batch, trainer.data.train), where(trainer.model, x), trainer.lr)
end

--- An answer with a logit that is not finite: argmax would make a class of it.
---@param model table in evaluation
---@param split table
---@param place integer the image's number in it
---@param value number the logit
---@param trainer? medxai.Trainer whose validation it is
function diagnose.answer(model, split, place, value, trainer)
  local scope <close> = require("medxai").scope() -- luacheck: ignore
  local text = ("the network's answer for '%s' is %s%s. %s."):format(split:item(place).path, in_words(value),
    trainer and (" after epoch %d"):format(trainer.epoch) or "", where(model, split:batch({ place }).x))
  if not trainer then check.fail("evaluate", "%s", text) end
  trainer.diverged = true
  check.fail("fit", "%s Lower lr (now %g), or look at this image.", text, trainer.lr)
end

return diagnose
