-- Whether convolutions run in bfloat16 (or float16) here: libtorch's library for them may be held to an instruction set
-- without it (DNNL_MAX_CPU_ISA). Tried once per kind of device on a tiny convolution.
local check = require "medxai.base.check"

local bfloat16 = {}

local tried = {} -- kind of device and dtype -> false, or why not

local function try(device, dtype)
  local torch = require "medxai.torch"
  local scope <close> = require("medxai.core").memory.scope()
  local x = torch.ones(1, 8, 8, 8, { dtype = dtype, device = device, requires_grad = true })
  local w = torch.ones(8, 8, 3, 3, { dtype = dtype, device = device, requires_grad = true })
  local ok, problem = pcall(function() torch.conv2d(x, w):sum():backward() end)
  return not ok and tostring(problem):match "[^\n]*"
end

--- Why a device computes no convolution in bfloat16; nil where it does.
---@param device? string default "cpu"
---@param dtype? string "float16" in its place
---@return string|nil
function bfloat16.why_not(device, dtype)
  dtype = dtype or "bfloat16"
  local kind = (device or "cpu"):match "^%a+" .. " " .. dtype
  if tried[kind] == nil then tried[kind] = try(device or "cpu", dtype) end
  return tried[kind] or nil
end

--- Raises where a device computes none.
---@param what string named in the error: "fit"
---@param device string
---@param dtype? string "float16" in its place
function bfloat16.require(what, device, dtype)
  local why = bfloat16.why_not(device, dtype)
  if why then
    dtype = dtype or "bfloat16"
    check.fail(what, "precision = '%s' cannot be used here: no convolution in %s (%s). Leave it out.", dtype, dtype,
      why)
  end
end

return bfloat16
