-- Where the places of an image stand in an inner value of a network: a value (N, C, h, w), (N, h, w, C) or (N, T, C),
-- of whose T tokens h w are places and the others class and register tokens, is a grid. Found from the shapes and from
-- how the tokens were put together, never asked. It refuses values that can be read in two ways, naming both, and
-- values that are no grid: attention weights, the parts of an attention head.
local check = require "medxai.base.check"

local geometry = {}

---@class medxai.Grid
---@field kind "nchw"|"nhwc"|"tokens"
---@field height integer
---@field width integer
---@field first integer tokens before the places
---@field others integer tokens that are no places
---@field channel_dim integer
local Grid = {}
Grid.__index = Grid

local channel_dims = { nchw = 1, nhwc = 3, tokens = 2 }
local most_others = 16 -- class and register tokens

local function new_grid(kind, height, width, first, others)
  return setmetatable({ kind = kind, height = height, width = width, first = first or 0, others = others or 0,
    channel_dim = channel_dims[kind] }, Grid)
end

--- A value of the layer as (N, C, h, w); class and register tokens are left out.
function Grid:to_map(v)
  if self.kind == "nchw" then return v end
  if self.kind == "nhwc" then return v:permute { 0, 3, 1, 2 } end
  local places = v:narrow(1, self.first, self.height * self.width):transpose(1, 2)
  return places:reshape { v:size(0), v:size(2), self.height, self.width }
end

--- "7x7", "14x14 without 1 other token"
function Grid:__tostring()
  local size = ("%dx%d"):format(self.height, self.width)
  if self.others == 0 then return size end
  return ("%s without %d other token%s"):format(size, self.others, self.others == 1 and "" or "s")
end

-- ---- the graph ------------------------------------------------------------------------------------------------------

local function node_of(model, id)
  local _, op, inputs = model._def.native:node(id)
  return op, inputs
end

local passes = {}
for op in ("softmax dropout mul div add masked_fill reshape contiguous clone sub"):gmatch "%S+" do passes[op] = true end
local products = { matmul = true, bmm = true, einsum = true, baddbmm = true }

-- Whether a square value is the weights of an attention: a product of two values, however scaled, masked and dropped.
local function is_attention(model, id)
  local def = model._def
  def.products = def.products or {}
  if def.products[id] ~= nil then return def.products[id] end
  local op, inputs = node_of(model, id)
  local found = products[op] or false
  for _, input in ipairs(passes[op] and inputs or {}) do
    local shape = def.shapes[input]
    found = found or #shape >= 3 and shape[#shape] == shape[#shape - 1] and is_attention(model, input)
  end
  def.products[id] = found
  return found
end

-- Every (h, w) that a value of four dimensions among those that `id` is made of has: "h w" -> true.
local function grids_before(model, id)
  local def, seen, open, found = model._def, { [id] = true }, { id }, {}
  local function take(h, w) found[h .. " " .. w] = { h, w } end
  for _, at in ipairs(open) do -- it grows meanwhile
    local op, inputs = node_of(model, at)
    local s = def.shapes[at]
    if #s == 4 and s[1] == -1 and op ~= "input" then
      local pooled = op == "conv2d" or op:find "pool2d$"
      if pooled or s[3] == s[4] and not is_attention(model, at) then take(s[3], s[4]) end
      if not pooled and s[2] == s[3] then take(s[2], s[3]) end
    end
    for _, input in ipairs(inputs) do
      if not seen[input] then seen[input], open[#open + 1] = true, input end
    end
  end
  return found
end

-- How many tokens stand before the places in a value with `places` of them; nil where that is not to be told.
local function tokens_before(model, id, places, seen)
  local def = model._def
  local shape = def.shapes[id]
  if #shape ~= 3 or shape[1] ~= -1 or shape[2] < places or seen[id] then return nil end
  if shape[2] == places then return 0 end
  seen[id] = true
  local _, inputs = node_of(model, id)
  local pick = def.picks[id]
  if pick and pick.op == "cat" then
    if pick.dim ~= 1 then return nil end
    local before = 0
    for _, input in ipairs(inputs) do
      local inner = tokens_before(model, input, places, seen)
      if inner then return before + inner end
      before = before + def.shapes[input][2]
    end
    return nil
  elseif pick and pick.dim == 1 then
    local before = tokens_before(model, inputs[1], places, seen)
    return before and before >= pick.first and before - pick.first or nil
  end
  for _, input in ipairs(inputs) do
    local before = def.shapes[input][2] == shape[2] and tokens_before(model, input, places, seen)
    if before then return before end
  end
  return nil
end

local function token_readings(model, id, shape)
  local list = {}
  local known = grids_before(model, id)
  for _, key in ipairs(check.sorted_keys(known)) do
    local h, w = known[key][1], known[key][2]
    local others = shape[2] - h * w
    if others >= 0 and others <= most_others and h * w > 1 then
      local first = tokens_before(model, id, h * w, {})
      if first then list[#list + 1] = new_grid("tokens", h, w, first, others) end
    end
  end
  return list
end

local readings

-- Of four dimensions: by the operator, by which two sizes are the same, or as the values of the same shape that it is
-- made of.
local function square_readings(model, id, shape)
  local op = node_of(model, id)
  if op == "conv2d" or op:find "pool2d$" or op == "batch_norm" then return { new_grid("nchw", shape[3], shape[4]) } end
  local list = {}
  if shape[3] == shape[4] and not is_attention(model, id) then list[1] = new_grid("nchw", shape[3], shape[4]) end
  if shape[2] == shape[3] then list[#list + 1] = new_grid("nhwc", shape[2], shape[3]) end
  if #list == 1 then return list end
  for _, input in ipairs((select(2, node_of(model, id)))) do
    local same = model._def.shapes[input]
    if #same == 4 and same[2] == shape[2] and same[3] == shape[3] and same[4] == shape[4] then
      local known = readings(model, input)
      if #known == 1 then return known end
    end
  end
  return list
end

-- All ways in which a value can be read.
function readings(model, id)
  local def = model._def
  def.grids = def.grids or {}
  if def.grids[id] then return def.grids[id] end
  local shape, list = def.shapes[id], {}
  if #shape == 4 and shape[1] == -1 then list = square_readings(model, id, shape)
  elseif #shape == 3 and shape[1] == -1 then list = token_readings(model, id, shape) end
  def.grids[id] = list
  return list
end

local function shape_text(shape)
  local words = { "N" }
  for i = 2, #shape do words[i] = tostring(shape[i]) end
  return "(" .. table.concat(words, ", ") .. ")"
end

--- The grid of a layer of an exported network.
---@param model medxai.Model
---@param layer string
---@return medxai.Grid
function geometry.of(model, layer)
  local id = model:_id(layer)
  local shape = model._def.shapes[id]
  local list = readings(model, id)
  local usual = model.cam_layer and model.cam_layer ~= layer and (", for instance '%s'"):format(model.cam_layer) or ""
  if #list == 0 then
    check.fail("explain", "layer '%s' has no grid of places (its value is %s). Choose one that has%s.", layer,
      shape_text(shape), usual)
  end
  if #list > 1 then
    local texts = {}
    for i, grid in ipairs(list) do
      texts[i] = ("%s of %s"):format(grid.kind == "nchw" and "(N, C, h, w)" or grid.kind == "nhwc" and "(N, h, w, C)"
        or "tokens", tostring(grid))
    end
    check.fail("explain", "layer '%s', %s, can be read as %s. Choose another layer%s.", layer, shape_text(shape),
      table.concat(texts, " or as "), usual)
  end
  if list[1].height * list[1].width < 2 then
    check.fail("explain", "layer '%s' has no spatial extent (its value is %s). Choose one with a grid%s.", layer,
      shape_text(shape), usual)
  end
  return list[1]
end

--- The grid of a layer, nchw where the shapes of a network's values are not known.
function geometry.grid(model, layer, shape)
  if model._def and model._def.shapes then return geometry.of(model, layer) end
  return new_grid("nchw", shape[3], shape[4])
end

-- ---- the default layer ----------------------------------------------------------------------------------------------

-- The nodes through which all that leads from the images to the output goes, in order.
local function bridges(model)
  local def = model._def
  local used, from_x, last = { [def.output] = true }, { [1] = true }, {}
  for id = def.output, 1, -1 do
    if used[id] then
      for _, input in ipairs((select(2, node_of(model, id)))) do used[input] = true end
    end
  end
  for id = 2, def.output do
    for _, input in ipairs((select(2, node_of(model, id)))) do
      if from_x[input] and used[id] and not def.counts[id] then from_x[id], last[input] = true, id end
    end
  end
  local list, reach = {}, 0
  for id = 1, def.output do
    if used[id] and from_x[id] then
      if reach <= id then list[#list + 1] = id end
      reach = math.max(reach, last[id] or 0)
    end
  end
  return list
end

local function readers(model, id)
  local list = {}
  for reader = id + 1, #model._def.nodes do
    for _, input in ipairs((select(2, node_of(model, reader)))) do
      if input == id then list[#list + 1] = reader break end
    end
  end
  return list
end

-- Whether all that is read of a grid of tokens are those that are no places.
local function only_others_read(model, id, grid)
  if grid.kind ~= "tokens" or grid.others == 0 then return false end
  for _, reader in ipairs(readers(model, id)) do
    local pick = model._def.picks[reader]
    local last = pick and pick.dim == 1 and pick.op ~= "cat" and pick.first + (pick.length or math.huge)
    if not last then return false end
    local places_end = grid.first + grid.height * grid.width
    if last > grid.first and pick.first < places_end then return false end
  end
  return true
end

-- The name that stands for a value: the innermost block that gives it, or the node.
local function best_name(def, id)
  local best = def.nodes[id]
  for _, block in ipairs(def.block_ends) do
    if block.id == id and (best == def.nodes[id] or #block.name > #best) then best = block.name end
  end
  return best
end

-- Operators whose input tells as much, and is what a block gave.
local thin = {}
for op in ("linear slice narrow dropout contiguous clone detach type_as"):gmatch "%S+" do thin[op] = true end

--- The grids through which all goes, in order, with where they stand: list of { id =, grid = }.
function geometry.bridges(model)
  local found = {}
  for _, id in ipairs(bridges(model)) do
    local list = id > 1 and readings(model, id) or {}
    if #list == 1 and list[1].height * list[1].width > 1 then found[#found + 1] = { id = id, grid = list[1] } end
  end
  return found
end

--- The token that the head reads (0-based), where it reads one alone that is no place; nil where it reads them all.
function geometry.token_read(model, id, grid)
  if not only_others_read(model, id, grid) then return nil end
  for _, reader in ipairs(readers(model, id)) do
    local pick = model._def.picks[reader]
    if pick and pick.length == 1 then return pick.first end
  end
end

local attentions = { scaled_dot_product_attention = true, softmax = true }

--- Where Grad-CAM looks in an exported network: the last grid before pooling or the head; where the head reads the
--- class token alone, whose gradient at the other tokens of the last grid is zero, what the last attention is made of.
---@param model medxai.Model
---@return string|nil layer
---@return string|nil reason
function geometry.default_layer(model)
  local found = geometry.bridges(model)
  local last = found[#found]
  if not last then return nil end
  local def = model._def
  if only_others_read(model, last.id, last.grid) then
    local attention
    for id = 1, last.id do
      if attentions[(node_of(model, id))] then attention = id end
    end
    for i = #found, 1, -1 do
      if attention and found[i].id < attention then
        return best_name(def, found[i].id),
          ("what the last block's attention is made of, %s: the head reads the class token alone"):format(
          tostring(found[i].grid))
      end
    end
  end
  while thin[(node_of(model, last.id))] and #found > 1
      and (select(2, node_of(model, last.id)))[1] == found[#found - 1].id do
    found[#found] = nil
    last = found[#found]
  end
  return best_name(def, last.id), ("the last grid before pooling or the head, %s"):format(tostring(last.grid))
end

return geometry
