-- In what precision the products of a training are computed: float32, tf32 (float32 whose products keep 10 bits of the
-- mantissa), bfloat16 or float16 (autocast). float16 scales the loss, so that small gradients do not vanish, as
-- torch.amp.GradScaler. It refuses what a device cannot compute.
local check = require "medxai.base.check"

local precision = {}

--- Raises where a device does not compute in a precision.
---@param what string named in the error: "fit"
---@param name string
---@param device string
function precision.check(what, name, device)
  if name == "float32" then return end
  if name == "tf32" then
    if device:find "^cuda" then return end
    check.fail(what, "precision = 'tf32' is of NVIDIA's GPUs, from Ampere on (here: %s). Leave it out.", device)
  end
  if name == "float16" and not device:find "^cuda" then
    local ok = pcall(require("medxai.torch").raw._amp_update_scale_, table.unpack(precision.scale_tensors(device)))
    if not ok then
      check.fail(what, "precision = 'float16' scales the loss, which this libtorch does on GPUs alone (here: %s). "
        .. "Write bfloat16, or leave it out.", device)
    end
  end
  require("medxai.tensor.bfloat16").require(what, device, name)
end

-- A scale, its count of good steps, a flag that no step was bad, and _amp_update_scale_'s numbers.
function precision.scale_tensors(device)
  local torch = require "medxai.torch"
  local function number(value, dtype) return torch.full({}, value, { dtype = dtype, device = device }) end
  return { number(65536.0, "float32"), number(0, "int32"), number(0.0, "float32"), 2.0, 0.5, 2000 }
end

local off = setmetatable({}, { __close = function() end })

--- TF32 until the returned value is closed, where it is asked for.
---@param name string
function precision.tf32(name)
  if name ~= "tf32" then return off end
  local device = require("medxai.core").device
  local before = device.set_tf32(true)
  return setmetatable({}, { __close = function() device.set_tf32(before) end })
end

--- f()'s results, computed in a precision.
---@param name string
---@param device string
---@param f function
function precision.run(name, device, f)
  local mode <close> = precision.tf32(name) -- luacheck: ignore (held, not read)
  if name == "float32" or name == "tf32" then return f() end
  return require("medxai.torch").autocast({ device = device:match "^%a+", dtype = name }, f)
end

-- ---- the loss' scale ------------------------------------------------------------------------------------------------

---@class medxai.LossScale
local Scale = {}
Scale.__index = Scale

local least = 2 ^ -20 -- no gradient is too large at it

--- The scale of a training in float16; nil of any other.
---@param name string
---@param device string
---@return medxai.LossScale|nil
function precision.scale(name, device)
  if name ~= "float16" then return nil end
  local list = require("medxai.core").memory.unscoped(function() return precision.scale_tensors(device) end)
  return setmetatable({ value = list[1], growth = list[2], bad = list[3], factors = { table.unpack(list, 4) } }, Scale)
end

--- The loss as the backward pass takes it.
function Scale:scaled(loss) return loss * self.value end

--- Divides the gradients by the scale; afterwards self.bad is 1 where one is not finite.
---@param params table tensors
function Scale:unscale(params)
  local torch, grads = require "medxai.torch", {}
  for _, p in ipairs(params) do grads[#grads + 1] = p.grad end
  self.bad:zero_()
  if #grads == 0 then return end
  torch.raw._amp_foreach_non_finite_check_and_unscale_(grads, self.bad, self.value:double():reciprocal():float())
end

--- After a step: half the scale where it was bad, twice as much after 2,000 good ones.
function Scale:update()
  require("medxai.torch").raw._amp_update_scale_(self.value, self.growth, self.bad, table.unpack(self.factors))
end

--- Raises where the gradients are not finite at any scale.
function Scale:check()
  if self.value:item() >= least then return end
  check.fail("fit", "the gradients are not finite even when the loss is scaled by %g (precision = 'float16'). "
    .. "Lower lr, or write bfloat16.", self.value:item())
end

function Scale:state() return { scale = self.value:item(), growth = self.growth:item() } end

function Scale:load_state(state)
  self.value:fill_(state.scale)
  self.growth:fill_(state.growth)
end

function Scale:close()
  for _, name in ipairs { "value", "growth", "bad" } do self[name]:close() end
end

return precision
