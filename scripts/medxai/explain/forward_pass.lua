-- One forward pass of a batch with the values at some layers kept, and on demand the gradient of a target at the same
-- values: both of one named tensor, before any later ReLU. All layers share the forward; each target costs one
-- backward, which goes no deeper than the deepest layer asked for. No hooks. Batch norms are folded.
-- Whatever a value's layout is (geometry.lua), methods get it as (N, C, h, w).
-- With compat the activation is the one that pytorch-grad-cam stores on a CPU: a rectifier that torchvision applies in
-- place right after the layer has already changed it. It refuses layers without a spatial grid, and a model in train
-- mode.
local check = require "medxai.base.check"
local suggest = require "medxai.base.suggest"
local chunks = require "medxai.tensor.chunks"
local geometry = require "medxai.nn.geometry"
local core = require "medxai.core"
local torch = require "medxai.torch"

local tap = {}
local Pass = {}
Pass.__index = Pass

--- Raises unless every layer is a node of the model.
function tap.check_layers(model, layers)
  for _, layer in ipairs(layers) do
    if not model:has_node(layer) then
      local hint = suggest.hint(tostring(layer), model:node_names(), 3)
      check.fail("explain", "unknown layer '%s'.%s", tostring(layer),
        hint == "" and model.cam_layer and " Usual is '" .. model.cam_layer .. "'." or hint)
    end
  end
end

local function check_grid(model, layer, shape)
  if model._def and model._def.shapes then return end -- geometry.of has looked at it
  if #shape == 4 and shape[3] * shape[4] > 1 then return end
  local advice = layer == model.cam_layer and "Take larger images, or an earlier layer"
    or string.format("Choose one with a grid, for instance '%s'", tostring(model.cam_layer))
  check.fail("explain", "layer '%s' has no spatial extent (its output is (%s)). %s.", layer, table.concat(shape, ", "),
    advice)
end

--- Raises where the output does not depend on a layer in evaluation (an auxiliary branch).
function tap.check_reaches(model, layer)
  local output = model:node("output").name
  for _, name in ipairs(model:boundary { override = { layer } }) do
    if name == output then check.fail("explain", "the output does not depend on layer '%s' in evaluation.", layer) end
  end
end

local in_place = { relu = true, relu_ = true, relu6 = true, hardtanh = true, silu = true }

local flattens, reshapes = { flatten = true }, { view = true, reshape = true, unflatten = true }

--- Raises where a layer comes after a flatten, which leaves no grid to draw a map on.
function tap.check_before_flatten(model, layer)
  if model._def.shapes then return geometry.of(model, layer) and nil end
  local seen, open, flat = {}, { layer }, nil
  for _, name in ipairs(open) do -- it grows meanwhile
    local node = model:node(name)
    if reshapes[node.op] then return end -- a grid may have been made again
    if flattens[node.op] then flat = node.name end
    for _, input in ipairs(node.inputs) do
      if not seen[input] then seen[input], open[#open + 1] = true, input end
    end
  end
  if not flat then return end
  check.fail("explain", "layer '%s' has no spatial extent (it comes after '%s'). Choose one with a grid, for "
    .. "instance '%s'.", layer, flat, tostring(model.cam_layer))
end

--- The node whose value overwrites the layer's where rectifiers work in place, as in torchvision on a CPU; or the layer
--- itself.
function tap.aliased(model, layer)
  for _, reader in ipairs(model:readers(layer)) do
    local known = model._def and model._def.in_place -- of an exported network
    if known and known[model:_id(reader.name)] and model:node(reader.name).inputs[1] == model:node(layer).name
      or not known and in_place[reader.op] then return reader.name end
  end
  return layer
end

-- Adds names to a list that holds each once.
local function adder(list)
  local seen = {}
  for _, name in ipairs(list) do seen[name] = true end
  return function(name)
    if not seen[name] then list[#list + 1] = name end
    seen[name] = true
  end
end

--- Runs the batch.
---@param model table in eval mode
---@param x any (N, 3, H, W)
---@param wants? table layers: whose activations are kept; gradients: those, and "x", at which gradients can be asked
---   for; aliased: keep
---   also what a rectifier in place makes of a layer; base: layers for which everything is kept that a partial run
---   reads; size: the batch is padded to that many images
---@return table pass with logits (N, K), activation(layer), gradient(layer, targets), base(layer)
function tap.open(model, x, wants)
  wants = wants or {}
  if model:is_training() then
    check.fail("explain", "the model is in train mode (expected eval mode). Use model:eval().")
  end
  local pass = setmetatable({ model = model, count = x:size(0), layers = wants.layers or {},
    gradient_layers = wants.gradients or {}, read_at = {}, grids = {}, bases = {}, gradients = {}, gradient_at = {},
    backwards = 0, backward_seconds = {}, spent = 0 }, Pass)
  local outputs = { "output" }
  local add = adder(outputs)
  for _, layer in ipairs(wants.layers or {}) do
    pass.read_at[layer] = wants.aliased and tap.aliased(model, layer) or layer
    if model._def and model._def.shapes then pass.grids[layer] = geometry.of(model, layer) end
    add(layer)
    add(pass.read_at[layer])
  end
  for _, layer in ipairs(wants.base or {}) do
    pass.bases[layer] = model:boundary { override = { layer } }
    for _, name in ipairs(pass.bases[layer]) do add(name) end
  end
  for _, layer in ipairs(pass.gradient_layers) do pass.gradient_at[layer] = true end
  local leaves = #pass.gradient_layers > 0 and pass.gradient_layers or nil
  local full = chunks.padded(x, wants.size)
  local function forward() return model:forward { x = full, outputs = outputs, grad_from = leaves, fold = true } end
  local began = core.device.now()
  pass.values = leaves and torch.enable_grad(forward) or torch.no_grad(forward)
  pass.forward_seconds = core.device.now() - began
  for _, layer in ipairs(wants.layers or {}) do check_grid(model, layer, pass.values[layer].shape) end
  pass.scored = pass.values.output:narrow(0, 0, pass.count)
  pass.logits = pass.scored:detach()
  return pass
end

local function names_of(layers) return #layers == 0 and "none" or table.concat(layers, ", ") end

-- The values of the first `count` images, without those that pad the batch.
local function of_images(pass, name, value)
  local images = pass.model.images -- a stand-in for a model may lack it
  return images and images(pass.model, name, value, 0, pass.count) or value:narrow(0, 0, pass.count)
end

function Pass:value(name) return of_images(self, name, self.values[name]:detach()) end

local function as_map(pass, layer, value) return pass.grids[layer] and pass.grids[layer]:to_map(value) or value end

--- The grid of a layer: where it is not (N, C, h, w); nil where it is.
function Pass:grid(layer) return self.grids[layer] end

--- (N, C, h, w), detached; aliased: after a rectifier in place.
function Pass:activation(layer, aliased) return as_map(self, layer, self:raw_activation(layer, aliased)) end

--- The activation as the network has it: (N, T, C), for instance.
function Pass:raw_activation(layer, aliased)
  if not self.read_at[layer] then
    check.fail("explain", "the activation of layer '%s' was not kept (kept: %s). Name it as the method's layer.", layer,
      names_of(self.layers))
  end
  return self:value(aliased and self.read_at[layer] or layer)
end

--- name -> (N, ...): what a partial run from the layer on reads besides it.
function Pass:base(layer)
  local values = {}
  if not self.bases[layer] then
    check.fail("explain", "what a partial run from layer '%s' reads was not kept (expected needs = { base = true } "
      .. "in the method).", layer)
  end
  for _, name in ipairs(self.bases[layer]) do values[name] = self:value(name) end
  return values
end

local function gradient_not_asked(pass, layer)
  local asked = #pass.gradient_layers > 0
  if layer ~= "x" and asked then
    check.fail("explain", "no gradient was asked for at layer '%s' (asked for: %s). Name it as the method's layer.",
      layer, names_of(pass.gradient_layers))
  end
  check.fail("explain", "no gradient was asked for at %s (expected needs = { gradient = true } in the method%s).",
    layer == "x" and "the input" or "layer '" .. layer .. "'", layer == "x" and ", without a layer" or "")
end

--- (N, C, h, w): gradient of the summed scores; each image's is its own, since nothing mixes images in eval mode.
function Pass:gradient(layer, targets)
  if not self.gradient_at[layer] then gradient_not_asked(self, layer) end
  local found = self.gradients[targets]
  if not found then
    local inputs, began = {}, core.device.now()
    for i, name in ipairs(self.gradient_layers) do inputs[i] = self.values[name] end
    local list = torch.enable_grad(function()
      return torch.autograd.grad(targets:score(self.scored):sum(), inputs, { retain_graph = true, allow_unused = true })
    end)
    found = {}
    for i, name in ipairs(self.gradient_layers) do found[name] = list[i] end
    self.gradients[targets] = found
    self.backwards = self.backwards + 1
    self.backward_seconds[targets] = core.device.now() - began
    self.spent = self.spent + self.backward_seconds[targets]
  end
  local g = found[layer]
  if g == torch.none or g == nil then
    check.fail("explain", "the output does not depend on layer '%s' in evaluation.", layer)
  end
  return as_map(self, layer, of_images(self, layer, g))
end

--- The gradient as the network has it, at any value that gradients were asked for.
function Pass:raw_gradient(layer, targets)
  local grid = self.grids[layer]
  self.grids[layer] = nil
  local ok, g = pcall(self.gradient, self, layer, targets)
  self.grids[layer] = grid
  if not ok then error(g, 0) end
  return g
end

return tap
