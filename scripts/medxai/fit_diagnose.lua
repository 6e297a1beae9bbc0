-- Says where a loss that is not finite began: runs the batch forward again, with the same draws, and asks the graph for the
-- first node that is not finite. Opened only when it is needed. It refuses to repair anything: the training stops.
local check = require "medxai.check"

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

local function where(trainer, batch, generator)
  local torch, model = trainer.torch, trainer.model
  local x = batch.x or trainer.data.train:batch(batch.index).x -- of a cached prefix the images were not loaded
  if not finite(x) then return "The images of this batch are not finite themselves" end
  torch.set_rng_state(generator)
  local node = torch.no_grad(function() return model:find_nonfinite(x) end)
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

---@param trainer medxai.Trainer
---@param batch table
---@param value number the loss
---@param generator table torch's generator state before the forward pass
return function(trainer, batch, value, generator)
  local text = value ~= value and "nan" or value > 0 and "infinite" or "minus infinite"
  check.fail("fit", "the loss is %s in epoch %d, batch %d of %d (%s). %s. Lower lr (now %g), or look at these images.", text,
    trainer.epoch, trainer.batch_number, trainer.batches, names_of(batch, trainer.data.train), where(trainer, batch, generator), trainer.lr)
end
