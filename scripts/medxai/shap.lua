-- What the three SHAP methods share: which outputs of the network are explained (the image's top classes, and what its target
-- needs), the target's map from their values, and the figure (shap's image plot).
-- It refuses to explain more outputs than the network has.
local check = require "medxai.check"
local figure = require "medxai.figure"
local honesty = require "medxai.honesty"
local map = require "medxai.map"
local torch = require "medxai.torch"

local shap = {}

-- ---- outputs ------------------------------------------------------------------------------------------------------

--- The classes of one image that are explained: the `ranked` largest outputs in falling order, then those that the target needs.
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
  if as == "softmax" then y = torch.softmax(y, 1) end
  return y:index_select(1, torch.tensor(classes, { dtype = "int64" })):contiguous()
end

local function place(classes, class)
  for i, c in ipairs(classes) do
    if c == class then return i - 1 end
  end
end

--- The target's own values among those of all classes explained (values are linear in the output, so a contrast is a difference).
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

--- The option that all three take: how many of the largest outputs are explained beside the target.
shap.ranked_option = { "integer", default = 3, min = 1 }

--- "bf16" where its largest difference, which is printed, does not matter.
shap.precision_option = { one_of = { "float32", "bf16" }, default = "float32" }

-- ---- a hierarchy of regions -----------------------------------------------------------------------------------------

-- Each region's centre: lists of rows and columns, from 1.
local function centres(regions)
  local labels, shape = regions.labels:cpu(), regions.labels.shape
  local flat = labels:reshape(-1)
  local sizes = torch.bincount(flat, torch.none, regions.count):to { dtype = "float64" }
  local function mean(at) return (torch.bincount(flat, at:reshape(-1):to { dtype = "float64" }, regions.count) / sizes):tolist() end
  return mean(torch.arange(0, shape[1]):view { -1, 1 }:expand(shape)), mean(torch.arange(0, shape[2]):view { 1, -1 }:expand(shape))
end

-- The regions in two halves along the longer side of the box around their centres, and so on: nested pairs of numbers from 0.
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
  return { halved(table.move(list, 1, half, 1, {}), rows, columns), halved(table.move(list, half + 1, #list, 1, {}), rows, columns) }
end

-- Nested pairs as core.partition's flat list: two children an inner node, parents first; a leaf r is -1 - r.
local function flatten(tree)
  local flat, inner = {}, 0
  local function put(node)
    if math.type(node) == "integer" then return -1 - node end
    if type(node) ~= "table" or #node ~= 2 then
      check.fail("shap_partition", "a tree is made of pairs and numbers of regions (expected { a, b }, got %s).", type(node) == "table" and "a list of " .. #node or tostring(node))
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
---@param regions table labels, count
---@param given? table nested pairs of the regions' numbers; nil: halved by their centres
---@return integer[] children for core.partition
function shap.tree(regions, given)
  local tree = given
  if not tree then
    local list = {}
    for r = 0, regions.count - 1 do list[r + 1] = r end
    tree = halved(list, centres(regions))
  end
  local flat = flatten(tree)
  local ok = pcall(require("medxai.core").partition.leaf_order, flat, regions.count)
  if not ok then check.fail("shap_partition", "the tree does not hold each of the %d regions once (numbers 0 to %d).", regions.count, regions.count - 1) end
  return flat
end

-- ---- the figure: shap's image plot -----------------------------------------------------------------------------------

local rows_a_page, underlay = 4, 0.15 -- shap's strength of the grey image under the values

local function outputs_of(page, number)
  local record = page:record(number)
  return record.facts and page:array(number, "outputs"), record
end

-- The 99.9th percentile of |value| over all classes of all images drawn: one scale for the whole figure.
local function scale_of(page)
  local all = {}
  for _, number in ipairs(page.numbers) do
    local values = outputs_of(page, number)
    if values then all[#all + 1] = values:abs():reshape(-1) end
  end
  if #all == 0 then return nil end
  local flat = torch.cat(all, 0)
  flat = flat:masked_select(flat:isfinite())
  if flat:numel() == 0 then return nil end
  local sorted = flat:sort()
  local at = 0.999 * (sorted:numel() - 1)
  local low = math.floor(at)
  local a, b = sorted[low]:item(), sorted[math.min(low + 1, sorted:numel() - 1)]:item()
  return math.max(a + (at - low) * (b - a), 1e-30)
end

-- Values (h, w) in blue and red, multiplied onto the pale grey image: where they are 0 the image shows.
local function value_pixels(image, values, limit)
  local height, width = image:size(1), image:size(2)
  if values:size(0) ~= height or values:size(1) ~= width then
    values = torch.upsample_nearest2d(values:view { 1, 1, values:size(0), values:size(1) }, { height, width }):view { height, width }
  end
  local heat = figure.heat(values, "diverging", -limit, limit)
  local grey = image:select(0, 0) * 0.2989 + image:select(0, 1) * 0.587 + image:select(0, 2) * 0.114
  local base = (1 - underlay * (1 - grey:clamp(0, 1))):unsqueeze(2)
  local rgb = torch.from_string(heat.rgb, "uint8", { height, width, 3 }):to { dtype = "float32" } * base
  return { rgb = rgb:round():to { dtype = "uint8" }:contiguous():data_string(), columns = width, rows = height }
end

local function figure_row(page, number, limit)
  local scope <close> = require("medxai.core").memory.scope()
  local values, record = outputs_of(page, number)
  local image, item = page:image(number), page:item(number)
  local name = tostring(item.name or item.path or item.id):match("[^/]+$")
  local row = { label = record.label, panels = { { pixels = figure.pixels(image), title = { name, table.unpack(honesty.of(page.entry.method, record.facts)) } } } }
  if not values then
    row.panels[1].status = map.explain_status(record.status) or record.status
    return row
  end
  for k, class in ipairs(record.facts.classes) do
    local text = record.facts.output and string.format("%s, %.2f", class, record.facts.output[k]) or class
    row.panels[k + 1] = { pixels = value_pixels(image, values:select(0, k - 1):to { dtype = "float32" }, limit), title = text,
      status = record.status == "nan" and map.explain_status "nan" or nil }
  end
  return row
end

--- Draws every image's explained classes beside it, in falling order of output, all over one diverging scale.
function shap.draw(page)
  local limit = scale_of(page)
  if not limit then return end
  local e = page.entry
  for first = 1, #page.numbers, rows_a_page do
    local rows = {}
    for k = first, math.min(first + rows_a_page - 1, #page.numbers) do rows[#rows + 1] = figure_row(page, page.numbers[k], limit) end
    local d = figure.panels { rows = rows, bars = { { colours = "diverging", lo = -limit, hi = limit, label = "SHAP value" } }, most_pt = 110, caption = {
      string.format("%s. Each image's classes by falling output, named with it. Red speaks for the class, blue against it.", e.label),
      "One scale for all panels: the 99.9th percentile of |value| over these images and classes." } }
    page:save(string.format("values-%d", (first - 1) // rows_a_page + 1), d, e.label .. ": values of all classes")
  end
end

return shap
