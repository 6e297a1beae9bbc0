-- How much a network computes: multiply-adds of its convolutions and linear layers for one image, node by node, from
-- the shapes that one image has in it. What a training costs is told from these, not from the clock, so that it is the
-- same everywhere. It refuses to count what costs little: norms, rectifiers, pooling.
local core = require "medxai.core"
local torch = require "medxai.torch"

local work = {}

-- node id -> multiply-adds, of a forward pass of one image.
local function count(model)
  local def = model._def
  if def.multiply_adds then return def.multiply_adds end
  local scope <close> = core.memory.scope() -- luacheck: ignore
  local at, list = {}, {}
  for _, m in ipairs(def.modules) do
    if m.node and m.fan_in then at[m.node.id] = m end
  end
  local size = model.size_px
  local training = model:is_training()
  model:eval()
  local aux = def.aux and { "output", def.nodes[def.aux] } or nil
  torch.no_grad(function()
    model:forward { x = torch.zeros({ 1, model._network.channels or 3, size, size },
      { dtype = model.dtype, device = model.device }), outputs = aux, fold = false, each = function(name, t)
      local m = at[def.ids[name]]
      if m then list[def.ids[name]] = m.fan_in * t:numel() end
    end }
  end)
  if training then model:train() end
  def.multiply_adds = list
  return list
end

local function sum(list, take)
  local total = 0
  for id, n in pairs(list) do -- integers: any order gives the same sum
    if not take or take(id) then total = total + n end
  end
  return total
end

--- Multiply-adds of a forward pass of one image.
---@param model medxai.Model
---@return integer
function work.forward(model) return sum(count(model)) end

-- The nodes that some of the named ones need, themselves included.
local function ancestors(model, names)
  local def, needed = model._def, {}
  for _, name in ipairs(names) do needed[def.ids[name]] = true end
  for id = #def.nodes, 1, -1 do
    if needed[id] then
      local _, _, inputs = def.native:node(id)
      for _, input in ipairs(inputs) do needed[input] = true end
    end
  end
  return needed
end

--- Multiply-adds of what the named values need, and their share of the whole forward pass.
---@param model medxai.Model
---@param names string[]
---@return integer
---@return number share
function work.up_to(model, names)
  local list, needed = count(model), ancestors(model, names)
  local part = sum(list, function(id) return needed[id] end)
  return part, part / math.max(sum(list), 1)
end

function work.share(model, names) return (select(2, work.up_to(model, names))) end

--- Multiply-adds of one image in one training step: forward, and backward twice as much behind the first trained layer
--- (once, for a frozen layer behind it). A cached frozen part costs nothing.
---@param model medxai.Model
---@param cached? string[] the values of a cached cut
---@return integer
function work.training_step(model, cached)
  local def, list = model._def, count(model)
  local free = cached and ancestors(model, cached) or {}
  local trained, total = {}, 0
  for id = 1, #def.nodes do
    local own = false
    for _, slot in ipairs(def.reads[id] or {}) do
      own = own or def.slots[slot].kind == "parameter" and model._state:requires_grad(slot)
    end
    local _, _, inputs = def.native:node(id)
    local behind = false
    for _, input in ipairs(inputs) do behind = behind or trained[input] end
    trained[id] = own or behind
    if list[id] and not free[id] then total = total + list[id] * (1 + (own and 1 or 0) + (behind and 1 or 0)) end
  end
  return total
end

return work
