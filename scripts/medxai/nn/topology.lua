-- The names of a model's values and how they hang together: methods of medxai.Model that read its graph and no tensor.
local check = require "medxai.base.check"
local Options = require "medxai.base.options"
local suggest = require "medxai.base.suggest"

local topology, methods = {}, {}

topology.methods = methods

local nonlinear = {}
for op in ("relu hardtanh silu sigmoid gelu elu selu celu leaky_relu prelu hardswish hardsigmoid mish softplus "
    .. "tanh relu6")
  :gmatch("%S+") do
  nonlinear[op] = true
end

-- Every name in execution order, a block's after its last node.
local function names_of(def)
  if def.names then return def.names end
  local ends = {}
  for _, block in ipairs(def.block_ends) do
    ends[block.id] = ends[block.id] or {}
    table.insert(ends[block.id], block.name)
  end
  local names = {}
  for id, name in ipairs(def.nodes) do
    names[#names + 1] = name
    for _, block in ipairs(ends[id] or {}) do names[#names + 1] = block end
  end
  def.names = names
  return names
end

--- The number of a node by its name or a block's; raises with the names most like it.
---@param name string
---@return integer
function methods:_id(name)
  local id = self._def.ids[name]
  if not id then check.known(self.name, "node", name, names_of(self._def)) end
  return id
end

--- All names that outputs, override and grad_from may hold, in execution order.
---@return string[]
function methods:node_names() return table.move(names_of(self._def), 1, #names_of(self._def), 1, {}) end

---@param name string
---@return boolean
function methods:has_node(name) return self._def.ids[name] ~= nil end

--- The names most like this one, by edit distance.
---@param name string
---@param count? integer default 3
---@return string[]
function methods:nearest_nodes(name, count) return suggest.nearest(name, names_of(self._def), count or 3) end

--- What a node is: { name =, op = "conv2d", inputs = { names } }. A block's name gives its last node.
---@param name string
function methods:node(name)
  local def = self._def
  local full, op, ids = def.native:node(self:_id(name))
  local inputs = {}
  for i, id in ipairs(ids) do inputs[i] = def.nodes[id] end
  return { name = full, op = op, inputs = inputs }
end

--- The nodes that read this value: list of { name =, op = } ("hardtanh" is ReLU6).
---@param name string
function methods:readers(name)
  local id, list = self:_id(name), {}
  for reader, reader_name in ipairs(self._def.nodes) do
    local _, op, ids = self._def.native:node(reader)
    for _, input in ipairs(ids) do
      if input == id then
        list[#list + 1] = { name = reader_name, op = op }
        break
      end
    end
  end
  return list
end

--- The nodes on which the output depends in evaluation: name -> true.
---@return table<string, boolean>
function methods:used_nodes()
  local def, used = self._def, {}
  used[def.output] = true
  for id = def.output, 1, -1 do
    if used[id] then
      for _, input in ipairs((select(3, def.native:node(id)))) do used[input] = true end
    end
  end
  local names = {}
  for id in pairs(used) do names[def.nodes[id]] = true end
  return names
end

--- The nonlinearities of the network: list of { name =, op =, module = true where torchvision has a torch.nn module
--- for it and false where its forward calls a function }.
function methods:nonlinearities()
  local list = {}
  for id, name in ipairs(self._def.nodes) do
    local _, op = self._def.native:node(id)
    if nonlinear[op] then list[#list + 1] = { name = name, op = op, module = not self._def.functional[id] } end
  end
  return list
end

-- Whether the images have a part in a value; what they have none in is computed anew where it is needed.
local function holds_images(def, id) return not def.batches or not def.batches[id] or def.batches[id].dim >= 0 end

--- The part of some images of a batch in a value: `count` of them from the 0-based `first` on.
---@param name string
---@param value medxai.Tensor
---@param first integer
---@param count integer
function methods:images(name, value, first, count)
  local batch = self._def.batches and self._def.batches[self:_id(name)] or { dim = 0, per_image = 1 }
  if batch.per_image ~= 1 then
    check.fail(self.name, "the value '%s' holds %d parts of each image along one dimension, so that images cannot "
      .. "be told apart. "
      .. "Choose the output of a whole block.", name, batch.per_image)
  end
  return batch.dim < 0 and value or value:narrow(batch.dim, first, count)
end

topology.boundary_spec = {
  override = { "table", required = true, of = "string", doc = "names of the values that are replaced" },
  outputs = { "table", of = "string", doc = "names; default \"output\"" },
}

--- Names of the values that a run with these overrides reads from `base`.
---@param request table { override = { names }, outputs = { names } (default "output") }
---@return string[]
function methods:boundary(request)
  local o = Options.check(self.name .. ": boundary", request, topology.boundary_spec)
  local def, reached, needed, list = self._def, {}, {}, {}
  local over = {}
  for _, name in ipairs(o.override) do over[self:_id(name)] = true end
  for _, name in ipairs(o.outputs or { "output" }) do needed[self:_id(name)] = true end
  local inputs = {}
  for id in ipairs(def.nodes) do
    local _, _, ids = def.native:node(id)
    inputs[id], reached[id] = ids, over[id]
    for _, input in ipairs(ids) do reached[id] = reached[id] or reached[input] end
  end
  for id = #def.nodes, 1, -1 do
    if needed[id] and not over[id] then
      if not reached[id] and holds_images(def, id) then
        table.insert(list, 1, def.nodes[id])
      else
        for _, input in ipairs(inputs[id]) do needed[input] = true end
      end
    end
  end
  return list
end

--- Whether a name is one of the parts, or lies below one.
---@param name string
---@param parts string[]
---@return boolean
function topology.is_under(name, parts)
  for _, part in ipairs(parts) do
    if name == part or name:sub(1, #part + 1) == part .. "." then return true end
  end
  return false
end

--- Every name of a described graph in execution order, a block's after its last node.
---@return string[]
function topology.names(def) return names_of(def) end

return topology
