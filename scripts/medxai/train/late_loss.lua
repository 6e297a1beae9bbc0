-- Losses that are read from a GPU once for many steps: reading one makes the processor wait for the device. A loss that
-- is not finite leaves out its own step and all that follow, on the device: the weights are those before it when it is
-- read and told. The sums are those of losses read one by one, to the last bit.
local check = require "medxai.base.check"
local memory = require("medxai.core").memory

local every = 32 -- steps between two readings: more gain nothing (a reading costs less than a step)

---@class medxai.LateLoss
local Late = {}
Late.__index = Late

--- None read yet.
---@param trainer medxai.Trainer
---@return medxai.LateLoss
function Late.new(trainer)
  local bad = memory.unscoped(function() return trainer.torch.zeros({}, { device = trainer.model.device }) end)
  return setmetatable({ trainer = trainer, steps = {}, bad = bad, sum = 0.0 }, Late)
end

--- Takes one step's loss. Returns the number that says on the device whether steps are left out.
---@param loss table 0-d
---@param batch table
---@param count integer images
---@param generator table torch's generator state before the forward pass
function Late:add(loss, batch, count, generator)
  local torch = self.trainer.torch
  local value, before = memory.unscoped(function() return loss:detach():sum(), generator:clone() end)
  self.steps[#self.steps + 1] = { value = value, index = { table.unpack(batch.index) },
    count = count, generator = before, number = self.trainer.batch_number }
  local scope <close> = memory.scope() -- luacheck: ignore
  self.bad:copy_(torch.maximum(self.bad, value:isfinite():logical_not():float()))
  return self.bad
end

--- Whether the steps that wait to be read are many.
function Late:is_full() return #self.steps >= every end

-- Tells a loss that is not finite.
local function tell(self, step, value)
  local trainer, train = self.trainer, self.trainer.data.train
  trainer.diverged, trainer.batch_number = true, step.number
  local y = train.data.findings and train:targets(step.index)
    or train:labels():index_select(0, trainer.torch.tensor(step.index, { dtype = "int64" }):sub(1))
  require("medxai.train.diagnose").loss(trainer, { index = step.index, y = y }, value, step.generator)
end

--- Reads what has come since the last time and adds it to self.sum (losses x images).
---@return number sum
function Late:read()
  if #self.steps == 0 then return self.sum end
  local scope <close> = memory.scope() -- luacheck: ignore
  local values = {}
  for i, step in ipairs(self.steps) do values[i] = step.value:reshape(1) end
  for i, value in ipairs(self.trainer.torch.cat(values):cpu():tolist()) do
    local step = self.steps[i]
    if not check.is_finite(value) then tell(self, step, value) end
    self.sum = self.sum + value * step.count
  end
  self:forget()
  return self.sum
end

function Late:forget()
  for _, step in ipairs(self.steps) do
    step.value:close()
    step.generator:close()
  end
  self.steps = {}
end

function Late:close()
  self:forget()
  self.bad:close()
end
Late.__close = Late.close

return Late
