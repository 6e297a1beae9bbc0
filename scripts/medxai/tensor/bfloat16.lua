-- Whether convolutions run in bfloat16 here: libtorch's library for them may be held to an instruction set without it
-- (DNNL_MAX_CPU_ISA). Tried once per kind of device on a tiny convolution.
local check = require "medxai.base.check"

local bfloat16 = {}

local tried = {} -- kind of device -> false, or why not

local function try(device)
  local torch = require "medxai.torch"
  local scope <close> = require("medxai.core").memory.scope()
  local x = torch.ones(1, 8, 8, 8, { dtype = "bfloat16", device = device, requires_grad = true })
  local w = torch.ones(8, 8, 3, 3, { dtype = "bfloat16", device = device, requires_grad = true })
  local ok, problem = pcall(function() torch.conv2d(x, w):sum():backward() end)
  return not ok and tostring(problem):match "[^\n]*"
end

--- Why a device computes no convolution in bfloat16; nil where it does.
---@param device? string default "cpu"
---@return string|nil
function bfloat16.why_not(device)
  local kind = (device or "cpu"):match "^%a+"
  if tried[kind] == nil then tried[kind] = try(device or "cpu") end
  return tried[kind] or nil
end

--- Raises where a device computes none.
---@param what string named in the error: "fit"
---@param device string
function bfloat16.require(what, device)
  local why = bfloat16.why_not(device)
  if why then
    check.fail(what, "precision = 'bfloat16' cannot be used here: no convolution in bfloat16 (%s). Leave it out.", why)
  end
end

return bfloat16
