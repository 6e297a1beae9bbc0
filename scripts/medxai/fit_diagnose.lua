-- Says where a loss that is not finite began: runs the batch forward again, with the same draws, and looks at every
-- node in order of execution. Opened only when it is needed. It refuses to repair anything: the training stops.
local check = require "medxai.check"

local function is_finite(tensor)
  return tensor:detach():isfinite():all():item() ~= 0
end

-- torch's bool item may come as a Lua boolean or as 0 and 1
local function finite(tensor)
  local ok = is_finite(tensor)
  return ok == true or ok == 1
end

-- The first parameter or buffer that is not finite, or nil.
local function first_bad_weight(model)
  for _, entry in ipairs(model:state()) do
    if not finite(entry.tensor) then return entry.name end
  end
end

-- The first node whose output is not finite, or nil.
local function first_bad_node(model, x)
  local names = model:node_names()
  local values = model:forward { x = x, outputs = names }
  for _, name in ipairs(names) do
    if values[name] and not finite(values[name]) then return name end
  end
end

local function where(trainer, x, generator)
  local torch, model = trainer.torch, trainer.model
  if not finite(x) then return "The images of this batch are not finite themselves" end
  torch.set_rng_state(generator)
  local node = torch.no_grad(function() return first_bad_node(model, x) end)
  local weight = first_bad_weight(model)
  local text = node and ("It began in '" .. node .. "'") or "Every node was finite when the batch was run again"
  if weight then text = text .. " (its weights are not finite any more: '" .. weight .. "')" end
  return text
end

local function names_of(batch, split)
  local names = {}
  for i, index in ipairs(batch.index or {}) do
    if i > 3 then
      names[i] = "..."
      break
    end
    names[i] = split:item(index).path or split:item(index).id
  end
  return table.concat(names, ", ")
end

---@param trainer medxai.Trainer
---@param batch table
---@param value number the loss
---@param x table the images on the device
---@param generator table torch's generator state before the forward pass
return function(trainer, batch, value, x, generator)
  local text = value ~= value and "nan" or tostring(value)
  local place = where(trainer, x, generator)
  check.fail("fit", "the loss is %s in epoch %d, batch %d of %d (%s). %s. Lower lr (now %g), or look at these images.", text,
    trainer.epoch, trainer.batch_number, trainer.batches, names_of(batch, trainer.data.train), place, trainer.lr)
end
