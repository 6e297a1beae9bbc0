-- Says where a loss or an answer that is not finite began: runs the batch forward again, with the same draws, and asks
-- the graph for the first node that is not finite. Opened only when it is needed. It refuses to repair anything: the
-- step stops.
local check = require "medxai.base.check"
local own_code = require "medxai.train.own_code"
local predict = require "medxai.nn.predict"

local diagnose = {}

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

-- Where it began, in words; in an own loss where that was written.
local function where(trainer, x)
  local text = predict.where_not_finite(trainer.model, x)
  local place = text == "Every node is finite: it began in the loss" and own_code.place(trainer.options.loss.f)
  return place and text .. " (" .. place .. ")" or text
end

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
    check.fail("fit", "the loss is %s in epoch %d, batch %d of %d: the class weights of all its images are 0. Give "
      .. "every class a weight, or a larger batch.", predict.in_words(value), trainer.epoch, trainer.batch_number,
      trainer.batches)
  end
  check.fail("fit", "the loss is %s in epoch %d, batch %d of %d (%s). %s. Lower lr (now %g), or look at these images.",
    predict.in_words(value), trainer.epoch, trainer.batch_number, trainer.batches, names_of(batch, trainer.data.train),
    where(trainer, x), trainer.lr)
end

return diagnose
