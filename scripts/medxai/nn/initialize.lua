-- Initial weights: torchvision's initialisers, written with the same arithmetic, so that the same generator gives the
-- same bits; and the drawing anew of single layers.
local core = require "medxai.core"
local torch = require "medxai.torch"

local initialize = {}

local draw = {}

local function kaiming_bound(fan, a) return math.sqrt(3.0) * (math.sqrt(2.0 / (1 + a ^ 2)) / math.sqrt(fan)) end

function draw.kaiming_uniform(m)
  local bound = kaiming_bound(m.fan_in, 0)
  m.w:uniform_(-bound, bound)
end

function draw.kaiming_normal(m, fan) m.w:normal_(0, math.sqrt(2.0) / math.sqrt(m[fan])) end
function draw.normal(m, std) m.w:normal_(0, std) end
function draw.uniform(m, bound) m.w:uniform_(-bound, bound) end
function draw.zero_bias(m) if m.b then m.b:zero_() end end

-- Normal, cut off at -2 and 2, by the inverse of its distribution function, as torch.nn.init.trunc_normal_ does.
function draw.truncated_normal(m, std)
  local function cdf(x)
    return (1.0 + torch.erf(torch.tensor(x / math.sqrt(2.0), { dtype = "float64" })):item()) / 2.0
  end
  local low, high = cdf(-2 / std), cdf(2 / std)
  m.w:uniform_(2 * low - 1, 2 * high - 1):erfinv_():mul_(std * math.sqrt(2.0)):add_(0.0):clamp_({ min = -2, max = 2 })
end

-- What nn.Conv2d and nn.Linear do when they are made.
local function draw_default(m)
  local bound = kaiming_bound(m.fan_in, math.sqrt(5))
  m.w:uniform_(-bound, bound)
  if m.b then
    bound = 1 / math.sqrt(m.fan_in)
    m.b:uniform_(-bound, bound)
  end
end

local is_drawn = { conv2d = true, linear = true }

-- The order in which torchvision makes the layers: as written, but for those that name an earlier place.
local function construction_order(modules)
  local order = {}
  for _, m in ipairs(modules) do
    local at = #order + 1
    if m.drawn_before then
      for i, other in ipairs(order) do
        if other.name == m.drawn_before then at = i end
      end
    end
    table.insert(order, at, m)
  end
  return order
end

local function allocate(slot)
  if slot.dtype == "int64" then return torch.zeros(slot.shape, { dtype = "int64" }) end
  return torch.zeros(slot.shape, { dtype = "float32" })
end

local function fill_constants(m)
  if m.kind == "batch_norm2d" then
    m.w:fill_(1)
    m.tensors.running_var:fill_(1)
  elseif m.kind == "parameter" and m.init then
    m.init(m.w)
  end
end

-- The layers of a graph with their tensors: w, b and tensors.running_var.
local function layers_of(def, tensors)
  local layers = {}
  for i, m in ipairs(def.modules) do
    local layer = setmetatable({ tensors = {} }, { __index = m })
    if m.ghost then
      layer.w = torch.empty(m.shape, { dtype = "float32" })
      layer.b = m.has_bias and torch.empty({ m.out }, { dtype = "float32" }) or nil
    else
      layer.w = m.weight and tensors[m.weight.slot]
      layer.b = m.bias and tensors[m.bias.slot]
      if m.running_var then layer.tensors.running_var = tensors[m.running_var.slot] end
    end
    layers[i] = layer
  end
  return layers
end

-- Those that replace torchvision's own, in the order in which they are made.
local function late_layers(layers, network, late)
  local new, order = {}, {}
  for _, m in ipairs(layers) do
    if is_drawn[m.kind] and late(m) then new[#new + 1] = m end
  end
  for i, name in ipairs(network.head_order or {}) do order[name] = i end
  local function place(m) return order[m.name] or (m.node and m.node.id or 0) end
  table.sort(new, function(a, b) return place(a) < place(b) end)
  return new
end

--- Fills every parameter of a model's new state, drawn as torchvision draws them.
---@param model medxai.Model
---@param network table a file of models/, or what describes a network of one's own
---@param late fun(m: table): boolean layers that replace torchvision's own after these were made
function initialize.fill(model, network, late)
  local def, tensors = model._def, {}
  for i, slot in ipairs(def.slots) do tensors[i] = allocate(slot) end
  local layers = layers_of(def, tensors)
  for _, m in ipairs(construction_order(layers)) do
    if is_drawn[m.kind] and not late(m) then draw_default(m) else fill_constants(m) end
  end
  if network.initialize then
    for _, m in ipairs(layers) do
      if is_drawn[m.kind] and not late(m) then network.initialize(draw, m, model._options) end
    end
  end
  for _, m in ipairs(late_layers(layers, network, late)) do draw_default(m) end
  for i, t in ipairs(tensors) do model._state:set(i, t) end
end

--- Draws one layer again, by a rule of our own: normal with standard deviation sqrt(2 / fan_in), bias 0, batch norms
--- as new. The numbers depend on the seed and the layer's name alone.
---@param m table a layer of def.modules
---@param tensor fun(slot: table): medxai.Tensor its tensors
---@param seed integer
function initialize.again(m, tensor, seed)
  if m.kind == "batch_norm2d" then
    tensor(m.weight):fill_(1)
    tensor(m.bias):zero_()
    tensor(m.running_mean):zero_()
    tensor(m.running_var):fill_(1)
    tensor(m.counter):zero_()
    return
  end
  local w = tensor(m.weight)
  local stream = core.rng.stream { seed = seed, purpose = "randomize@1", id = m.name }
  local std = math.sqrt(2 / (m.fan_in or w:numel()))
  w:copy_(stream:normal(w:numel()):mul_(std):view(w.shape))
  if m.bias then tensor(m.bias):zero_() end
end

--- What nn.Linear and nn.Conv2d do when they are made: fills m.w and m.b, with m.fan_in.
initialize.usual = draw_default

return initialize
