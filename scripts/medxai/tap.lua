-- One forward pass of a batch with the values at some layers kept, and on demand the gradient of a target at the same
-- values: both of one named tensor, before any later ReLU. All layers share the forward; each target costs one backward,
-- which goes no deeper than the deepest layer asked for. No hooks.
-- With compat the activation is the one that pytorch-grad-cam stores on a CPU: a rectifier that torchvision applies in place
-- right after the layer has already changed it. It refuses layers without a spatial grid.
local check = require "medxai.check"
local torch = require "medxai.torch"

local tap = {}
local Pass = {}
Pass.__index = Pass

--- Raises unless every layer is a node of the model.
function tap.check_layers(model, layers)
  for _, layer in ipairs(layers) do
    if not model:has_node(layer) then
      check.fail("explain", "unknown layer '%s'.%s", tostring(layer), check.hint(tostring(layer), model:node_names(), 3))
    end
  end
end

local function check_grid(model, layer, shape)
  if #shape == 4 and shape[3] * shape[4] > 1 then return end
  check.fail("explain", "layer '%s' has no spatial extent (its output is (%s)). Choose one with a grid, for instance '%s'.", layer,
    table.concat(shape, ", "), tostring(model.cam_layer))
end

local in_place = { relu = true, relu_ = true, relu6 = true, hardtanh = true, silu = true }

-- The node whose value overwrites the layer's in torchvision, or the layer itself.
local function aliased(model, layer)
  for _, reader in ipairs(model:readers(layer)) do
    if in_place[reader.op] then return reader.name end
  end
  return layer
end

--- Runs the batch.
---@param model table in eval mode
---@param x any (N, 3, H, W)
---@param layers string[] may be empty
---@param needs_gradient boolean
---@param compat? string "pytorch-grad-cam": the activation after a rectifier in place
---@return table pass with logits (N, K), activation(layer), gradient(layer, targets)
function tap.open(model, x, layers, needs_gradient, compat)
  local outputs, seen, read_at = { "output" }, { output = true }, {}
  for _, layer in ipairs(layers) do
    read_at[layer] = compat and aliased(model, layer) or layer
    for _, name in ipairs { layer, read_at[layer] } do
      if not seen[name] then outputs[#outputs + 1] = name end
      seen[name] = true
    end
  end
  local pass = setmetatable({ model = model, layers = layers, read_at = read_at, gradients = {}, forwards = 1, backwards = 0 }, Pass)
  local function forward() return model:forward { x = x, outputs = outputs, grad_from = needs_gradient and #layers > 0 and layers or nil } end
  pass.values = needs_gradient and torch.enable_grad(forward) or torch.no_grad(forward)
  for _, layer in ipairs(layers) do check_grid(model, layer, pass.values[layer].shape) end
  pass.logits = pass.values.output
  return pass
end

--- (N, C, h, w), detached.
function Pass:activation(layer) return self.values[self.read_at[layer]]:detach() end

--- (N, C, h, w): gradient of the summed scores; each image's is its own, since nothing mixes images in eval mode.
function Pass:gradient(layer, targets)
  local found = self.gradients[targets]
  if not found then
    local inputs = {}
    for i, name in ipairs(self.layers) do inputs[i] = self.values[name] end
    local list = torch.enable_grad(function()
      return torch.autograd.grad(targets:score(self.logits):sum(), inputs, { retain_graph = true, allow_unused = true })
    end)
    found = {}
    for i, name in ipairs(self.layers) do found[name] = list[i] end
    self.gradients[targets] = found
    self.backwards = self.backwards + 1
  end
  local g = found[layer]
  if g == torch.none or g == nil then check.fail("explain", "the output does not depend on layer '%s' in evaluation.", layer) end
  return g
end

return tap
