-- The gradient at the input with guided rectifiers, for guided_backprop and guided_gradcam.
-- It refuses networks with nonlinearities that do not rectify, unless compat asks for what the reference does there.
local not_defined = require "medxai.base.not_defined"
local torch = require "medxai.torch"

local guided = {}

local rectifier = { relu = true, hardtanh = true } -- hardtanh: ReLU6
local gate = { sigmoid = true }                    -- scales a channel, as squeeze and excitation does

--- Raises "not defined" for networks with nonlinearities that do not rectify.
---@param model medxai.Model
---@param what string "guided backprop"
function guided.check(model, what)
  for _, node in ipairs(model:nonlinearities()) do
    if not rectifier[node.op] and not gate[node.op] then
      not_defined.raise(string.format("%s is defined for rectifiers, and '%s' is %s", what, node.name, node.op))
    end
  end
end

-- Which rectifiers are guided: true (all), or names.
local function choose(model, compat)
  if not compat then guided.check(model, "guided backprop") end
  local modules = {}
  for _, node in ipairs(model:nonlinearities()) do
    if node.op == "relu" and node.module then modules[#modules + 1] = node.name end
  end
  return compat and modules or true
end

--- (N, 3, H, W): each image's own.
function guided.gradient(ctx)
  local list = {}
  ctx:gradients(ctx.count, { kind = "input", guided = choose(ctx.model, ctx.compat),
    x = function(first, count) return ctx.x:narrow(0, first, count) end, image = function(k) return k + 1 end },
    function(first, _, gradients, scope) list[#list + 1] = { first = first, g = scope:keep(gradients.x) } end)
  table.sort(list, function(a, b) return a.first < b.first end)
  local parts = {}
  for i, part in ipairs(list) do parts[i] = part.g end
  return torch.cat(parts, 0)
end

return guided
