-- A network as text: a tree of names with operators, output shapes and parameters.
local core = require "medxai.core"
local host = require "medxai.host"
local text_table = require "medxai.base.text_table"
local topology = require "medxai.nn.topology"
local torch = require "medxai.torch"

local summary = {}

local function grouped(n)
  local text = tostring(n)
  repeat
    local changed
    text, changed = text:gsub("^(%d+)(%d%d%d)", "%1,%2")
  until changed == 0
  return text
end

-- Output shapes for one image of the network's size: id -> "3x224x224". The model is not touched.
local function probe(self)
  if not self.size_px then return {} end
  local shapes = {}
  local training = self._training
  self._training = false
  local ok, problem = pcall(torch.no_grad, function()
    local scope <close> = core.memory.scope()
    local x = torch.zeros({ 1, self._network.channels or 3, self.size_px, self.size_px },
      { dtype = self.dtype, device = self.device })
    self:forward { x = x, outputs = self._def.aux and { "output", self._def.nodes[self._def.aux] } or nil, fold = false,
      each = function(name, t)
      local shape = t.shape
      shapes[name] = table.concat(shape, "x", 2)
    end }
  end)
  self._training = training
  if not ok and host.interrupted() then error(problem, 0) end
  return shapes
end

local function count_parameters(self, part)
  local all, trained = 0, 0
  for i, slot in ipairs(self._def.slots) do
    if slot.kind == "parameter" and not slot.tied and (not part or topology.is_under(slot.name, { part })) then
      local n = 1
      for _, size in ipairs(slot.shape) do n = n * size end
      all = all + n
      if self._state:requires_grad(i) then trained = trained + n end
    end
  end
  return all, trained
end

local function mark(all, trained)
  if all == 0 then return "" end
  return trained == all and "trained" or trained == 0 and "frozen" or grouped(trained) .. " trained"
end

-- The parts to tell, in execution order: { part, depth, word }, and part -> its last node.
local function parts_of(def, most)
  local order, last = {}, {}
  for id, name in ipairs(def.nodes) do
    local part, depth = "", 0
    for word in name:gmatch "[^.]+" do
      depth = depth + 1
      if depth > most then break end
      part = depth == 1 and word or part .. "." .. word
      if not last[part] then order[#order + 1] = { part = part, depth = depth, word = word } end
      last[part] = def.ids[part] or id
    end
  end
  return order, last
end

--- The network as a tree: names, operators, output shapes for one image, parameters, what is trained.
---@param self medxai.Model
---@param depth integer how many levels of names are told apart
---@return string
function summary.text(self, depth)
  local shapes, def, rows = probe(self), self._def, {}
  local all, trained = count_parameters(self)
  local size = self.size_px and string.format("images of %dx%d, ", self.size_px, self.size_px) or ""
  local head = string.format("%s: %d classes, %s%s, %s; %s parameters, %s trained", self.name, self.num_classes, size,
    self.dtype, self.layout, grouped(all), grouped(trained))
  local order, last = parts_of(def, depth)
  for i, row in ipairs(order) do
    local id = last[row.part]
    local n, t = count_parameters(self, row.part)
    local _, op = def.native:node(id)
    local is_leaf = def.nodes[id] == row.part
    rows[i] = { ("  "):rep(row.depth - 1) .. row.word, is_leaf and op or "", shapes[def.nodes[id]] or "",
      n > 0 and grouped(n) or "", mark(n, t) }
  end
  return head .. "\n" .. text_table(rows, { right = { [4] = true } })
end

return summary
