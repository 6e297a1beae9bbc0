-- What the methods that take channels out or put them forward share: which channels, and how much of the network has to
-- be run again. It refuses shortcuts that change a number: only operators that treat every channel alone are passed,
-- and only a linear one split.
local torch = require "medxai.torch"

local channels = {}

--- Options of a method that evaluates the network once per channel.
channels.options = {
  channels = { "integer", min = 1, smoke = 8, doc = "only so many, those that vary most: an approximation; "
    .. "default: all" },
  precision = { one_of = { "float32", "bfloat16" }, default = "float32",
    doc = "of the forward passes; bfloat16 tells its deviation" },
}

channels.honesty = { { fact = "bfloat16_deviation", title = "largest difference of a bfloat16 logit" } }

--- "32 channels (approximation)", nil where all of them count.
function channels.approximate(o)
  return o.channels and string.format(o.channels == 1 and "%d channel (approximation)" or "%d channels (approximation)",
    o.channels) or nil
end

--- What a record says of an approximation and of bfloat16.
function channels.facts(o, count, scorer)
  local facts = {}
  if o.channels and o.channels < count then
    facts.approximation = string.format("the %d of %d channels with the largest variance", o.channels, count)
  end
  if o.precision == "bfloat16" then facts.precision, facts.bfloat16_deviation = "bfloat16", scorer:deviation() end
  return facts
end

--- The channels (0-based, ascending) for which keep(c) holds; with `most` those of them that vary most over the grid.
---@param a any (C, h, w)
---@param most? integer
---@param keep boolean[] 1-based
function channels.choose(a, most, keep)
  local list = {}
  for c = 1, #keep do
    if keep[c] then list[#list + 1] = c - 1 end
  end
  if not most or most >= #list then return list end
  local variance = a:to { dtype = "float64" }:flatten(1):var(1, false):tolist()
  table.sort(list, function(x, y)
    local vx, vy = variance[x + 1], variance[y + 1]
    return vx > vy or (vx == vy and x < y)
  end)
  list = table.move(list, 1, most, 1, {})
  table.sort(list)
  return list
end

-- ---- the part of the network behind a layer -------------------------------------------------------------------------

local alone = { -- each channel of the result depends on that channel only
  relu = true, hardtanh = true, silu = true, sigmoid = true, dropout = true, batch_norm = true, max_pool2d = true,
  avg_pool2d = true, adaptive_avg_pool2d = true, flatten = true,
}

-- The weight of a linear operator that can be split by input channels, or nil: linear, and convolutions 1 x 1 in one
-- group.
local function splittable(model, reader)
  if reader.op ~= "linear" and reader.op ~= "conv2d" then return nil end
  for _, p in ipairs(model:parameters()) do
    if p.name == reader.name .. ".weight" then
      local shape = p.tensor.shape
      return (reader.op == "linear" or (shape[3] == 1 and shape[4] == 1)) and p.tensor:detach() or nil
    end
  end
end

--- How far the channels of a layer stay apart: { last = the last node where they do, and where a splittable linear
--- operator reads it linear = its node, weight = (O, I, ...) }.
function channels.path(model, layer, grid)
  local at = model:node(layer).name
  if grid and grid.kind ~= "nchw" then return { last = at } end
  while true do
    local readers = model:readers(at)
    if #readers ~= 1 then return { last = at } end
    if not alone[readers[1].op] then
      local weight = splittable(model, readers[1])
      return { last = at, linear = weight and readers[1].name, weight = weight }
    end
    at = readers[1].name
  end
end

-- (C, O, ...): what the linear operator adds when channel c changes by change[c]. change: (C, k) flattened, or (C, h,
-- w).
local function through(weight, change, count)
  -- (C, O, 1, 1) (C, 1, h, w)
  if weight:dim() == 4 then return weight:flatten(1):t():unsqueeze(2):unsqueeze(3) * change:unsqueeze(1) end
  local k = weight:size(1) // count
  local blocks = weight:view({ weight:size(0), count, k })
  if k == 1 then return weight:t() * change:view({ count, 1 }) end
  local parts, step = {}, 64 -- channels at a time: a temporary of weight * change
  for first = 0, count - 1, step do
    local n = math.min(step, count - first)
    parts[#parts + 1] = (blocks:narrow(1, first, n) * change:view({ 1, count, k }):narrow(1, first, n)):sum({ 2 }):t()
  end
  return torch.cat(parts, 0)
end

--- Logits (C, K) of one image for each of its channels set to zero in turn, where the path behind the layer allows a
--- shortcut; else nil.
---@param model medxai.Model
---@param path table from channels.path
---@param layer string
---@param a any (1, C, h, w)
---@param base table values of the image that a run from the layer reads
---@param scorer table
function channels.all_zeroed(model, path, layer, a, base, scorer)
  if not path.linear then return nil end
  local shape = a.shape
  local values = torch.no_grad(function()
    local function run(x)
      return model:forward { override = { [layer] = x }, base = base, outputs = { path.last, path.linear } }
    end
    return { own = run(a), zero = run(torch.zeros_like(a)) }
  end)
  local own, weight, before = values.own[path.last], path.weight, values.own[path.linear]
  if own:dim() ~= weight:dim() or weight:size(1) ~= own:size(1) then return nil end -- no flattened grid, or groups
  -- a stride or padding
  if weight:dim() == 4 and (own:size(2) ~= before:size(2) or own:size(3) ~= before:size(3)) then return nil end
  local change = (values.zero[path.last] - own):squeeze(0)
  if own:dim() == 2 then change = change:view({ shape[2], -1 }) end -- flattened: the places of a channel side by side
  local made = before + through(weight, change, shape[2])
  return scorer:from_layer(path.linear, nil, shape[2], function(first, count) return made:narrow(0, first, count) end)
end

--- Logits of one image for each channel of the list set to values[c] (default 0) in turn, by running all that follows
--- the layer. a: (1, ...) as the network has it; grid: where its channels stand (geometry.lua; nil: (1, C, h, w))
function channels.each_filled(layer, a, base, scorer, list, values, grid)
  local sizes, dim = a.shape, grid and grid.channel_dim or 1
  return scorer:from_layer(layer, base, #list, function(first, count)
    sizes[1] = count
    local x = a:expand(sizes):clone()
    for k = 0, count - 1 do
      x:select(0, k):select(dim - 1, list[first + k + 1]):fill_(values and values[first + k + 1] or 0)
    end
    return x
  end)
end

return channels
