-- What the three SHAP methods share: which outputs of the network are explained (the image's top classes, and what its
-- target needs), the target's map from their values, what hidden pixels show, and hierarchies of regions.
-- It refuses to explain more outputs than the network has.
local not_defined = require "medxai.base.not_defined"
local check = require "medxai.base.check"
local regions = require "medxai.perturb.regions"
local removal = require "medxai.perturb.removal"
local torch = require "medxai.torch"

local shap = {}

-- ---- outputs ------------------------------------------------------------------------------------------------------

--- The classes of one image that are explained: the `ranked` largest outputs in falling order, then those that the
--- target needs.
---@param row number[] logits of the unperturbed image
---@param target medxai.Target
---@param ranked integer
---@return integer[] classes 0-based
function shap.classes(row, target, ranked)
  local order = {}
  for k = 1, #row do order[k] = k - 1 end
  table.sort(order, function(a, b) return row[a + 1] > row[b + 1] or (row[a + 1] == row[b + 1] and a < b) end)
  local chosen, seen = {}, {}
  local function add(class)
    if class and not seen[class] then
      chosen[#chosen + 1] = class
      seen[class] = true
    end
  end
  for i = 1, math.min(ranked, #order) do add(order[i]) end
  add(target.index)
  add(target.against_index)
  return chosen
end

--- The outputs of those classes as the target's kind of number.
---@param logits any (n, K)
---@param classes integer[]
---@param as string "logit" | "softmax"
---@return any (n, #classes) float64 on the CPU
function shap.outputs(logits, classes, as)
  local y = logits:to { device = "cpu", dtype = "float64" }
  if as == "softmax" then y = torch.softmax(y, 1) elseif as == "sigmoid" then y = torch.sigmoid(y) end
  return y:index_select(1, torch.tensor(classes, { dtype = "int64" })):contiguous()
end

local function place(classes, class)
  for i, c in ipairs(classes) do
    if c == class then return i - 1 end
  end
end

--- The target's own values among those of all classes explained (values are linear in the output, so a contrast is a
--- difference).
---@param values any (#classes, ...)
---@param classes integer[]
---@param target medxai.Target
---@return any (...)
function shap.of_target(values, classes, target)
  local own = values:select(0, place(classes, target.index))
  if target.against_index then own = own - values:select(0, place(classes, target.against_index)) end
  return own
end

--- How far two maps differ: the sum of |a - b| over the sum of |a|; 0 where both are 0.
function shap.change(a, b)
  local mass = a:abs():sum():item()
  local moved = (a - b):abs():sum():item()
  return mass > 0 and moved / mass or (moved > 0 and math.huge or 0.0)
end

--- Names of classes for records and titles.
function shap.names(classes, model)
  local list = {}
  for i, class in ipairs(classes) do list[i] = model.classes[class + 1] end
  return list
end

-- ---- what the methods ask for alike ---------------------------------------------------------------------------------

shap.bfloat16_honesty = { fact = "bfloat16_deviation", title = "largest difference of a bfloat16 logit",
  short = "bfloat16 off by" }

--- Checks and reads a method's regions and removal before anything is computed.
function shap.check(what, o)
  if o.regions then o.regions = regions.parse(o.regions) end
  o.removal = removal.of_background(what, o.removal).id
  if o.removal == "segment_mean" and not o.regions then check.fail(what, "removal = 'segment_mean' needs regions.") end
end

--- The regions of the context's only image; of fewer than two there is nothing to tell: the map is not defined.
function shap.regions(ctx, source)
  local item = ctx.items[1]
  local made = regions.of(source, ctx:image():select(0, 0),
    { item = item, split = ctx.split, number = item.number, least = 1 })
  if made.count < 2 then not_defined.raise(made.source .. " gives one region only") end
  return made
end

--- What hidden pixels of the context's only image show, (1, 3, H, W).
function shap.background(ctx, o, labels)
  local lo, hi = ctx:range()
  return removal.parse(o.removal):background(ctx.x, { range = { lo, hi }, labels = labels })
end

-- ---- a hierarchy of regions -----------------------------------------------------------------------------------------

-- Each region's center: lists of rows and columns, from 1.
local function centers(made)
  local shape, flat = made.labels.shape, made.labels:reshape(-1)
  local sizes = torch.bincount(flat, torch.none, made.count):to { dtype = "float64" }
  local function mean(at)
    return (torch.bincount(flat, at:reshape(-1):to { dtype = "float64" }, made.count) / sizes):tolist()
  end
  return mean(torch.arange(0, shape[1]):view { -1, 1 }:expand(shape)),
    mean(torch.arange(0, shape[2]):view { 1, -1 }:expand(shape))
end

-- The regions in two halves along the longer side of the box around their centers, and so on: nested pairs of numbers
-- from 0.
local function halved(list, rows, columns)
  if #list == 1 then return list[1] end
  local function span(at)
    local lo, hi = math.huge, -math.huge
    for _, r in ipairs(list) do lo, hi = math.min(lo, at[r + 1]), math.max(hi, at[r + 1]) end
    return hi - lo
  end
  local at = span(rows) >= span(columns) and rows or columns
  table.sort(list, function(a, b) return at[a + 1] < at[b + 1] or (at[a + 1] == at[b + 1] and a < b) end)
  local half = (#list + 1) // 2
  return { halved(table.move(list, 1, half, 1, {}), rows, columns),
    halved(table.move(list, half + 1, #list, 1, {}), rows, columns) }
end

-- Nested pairs as core.partition's flat list: two children an inner node, parents first; a leaf r is -1 - r.
local function flatten(tree)
  local flat, inner = {}, 0
  local function put(node)
    if math.type(node) == "integer" then return -1 - node end
    if type(node) ~= "table" or #node ~= 2 then
      local got = type(node) == "table" and "a list of " .. #node or tostring(node)
      check.fail("shap_partition", "a tree is made of pairs and numbers of regions (expected { a, b }, got %s).", got)
    end
    local own = inner
    inner = inner + 1
    flat[2 * own + 1], flat[2 * own + 2] = 0, 0
    local left = put(node[1])
    flat[2 * own + 1] = left
    flat[2 * own + 2] = put(node[2])
    return own
  end
  put(tree)
  return flat
end

--- The tree over the regions of an image.
---@param made table of regions.of: labels, count
---@param given? table nested pairs of the regions' numbers; nil: halved by their centers
---@return integer[] children for core.partition
function shap.tree(made, given)
  local tree = given
  if not tree then
    local list = {}
    for r = 0, made.count - 1 do list[r + 1] = r end
    tree = halved(list, centers(made))
  end
  local flat = flatten(tree)
  local ok = pcall(require("medxai.core").partition.leaf_order, flat, made.count)
  if not ok then
    check.fail("shap_partition", "the tree does not hold each of the %d regions once (numbers 0 to %d).", made.count,
      made.count - 1)
  end
  return flat
end

return shap
