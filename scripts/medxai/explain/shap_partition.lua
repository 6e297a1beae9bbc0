-- SHAP Partition: Owen values on a hierarchy of boxes (Owen 1977; shap's PartitionExplainer, Lundberg). An image's box is halved
-- again and again, the box that matters most first, each time with the other half shown and hidden; the budget spent, what a box
-- got is spread evenly over its pixels. values sum to output - base, whatever the budget: what a budget leaves open is told by how
-- far the map moved since half of it (`change_half`). As shap 0.51, but for ties (first come), and each image has its own blur.
-- It refuses inpainting as a removal, and a tree that does not hold each region once.
local check = require "medxai.check"
local core = require "medxai.core"
local hide = require "medxai.hide"
local removal = require "medxai.removal"
local shap = require "medxai.shap"
local torch = require "medxai.torch"

-- ---- the hierarchy ----------------------------------------------------------------------------------------------------

-- What partition.new needs, and boxes -> keep (n, 1 or 3, H, W). regions nil: the image's own boxes.
local function hierarchy(x, regions, tree)
  local shape = x.shape
  if not regions then
    return { size = { shape[3], shape[4], shape[2] } }, function(boxes) return hide.boxes(boxes, shape[2], shape[3], shape[4], x.device) end
  end
  local count = regions.count
  local children = shap.tree(regions, tree)
  local order = torch.tensor(core.partition.leaf_order(children, count), { dtype = "int64" })
  local place_of = torch.zeros({ count }, { dtype = "int64" }):scatter(0, order, torch.arange(0, count)):to { device = x.device }
  local labels = regions.labels:to { device = x.device }
  return { size = { count, 1, 1 }, children = children, labels = labels, place_of = place_of }, function(boxes)
    local on = hide.boxes(boxes, 1, count, 1, x.device):view { boxes:size(0), count } -- by place in the tree
    return hide.regions(labels, on:index_select(1, place_of))
  end
end

-- (k, H, W) from the engine's values: colours summed; a region's value spread over its pixels.
local function planes(values, tree)
  if not tree.labels then return values:sum({ 1 }) end
  local labels = tree.labels:cpu():reshape(-1)
  local areas = torch.bincount(labels, torch.none, tree.size[1]):to { dtype = "float64" }
  local each = values:view({ values:size(0), tree.size[1] }):index_select(1, tree.place_of:cpu()) / areas
  return each:index_select(1, labels):view { values:size(0), tree.labels:size(0), tree.labels:size(1) }
end

-- ---- one image ----------------------------------------------------------------------------------------------------------

-- Splits until the budget is spent. Returns values (k, H, W), those at half the budget; nil where an output is not a number.
local function split_all(engine, tree, evals, evaluate, first, whole)
  if not engine:start(first, whole) then return nil end
  local half
  while true do
    local scope <close> = core.memory.scope()
    if not half and 2 * (engine:evaluated() + 2) >= evals then half = scope:keep(planes(engine:values(), tree)) end
    local boxes = engine:ask()
    if not boxes then break end
    if not engine:tell(evaluate(boxes)) then return nil end
  end
  local values = planes(engine:values(), tree)
  return values, half or values
end

local function explain_one(ctx, i, options, background_of)
  local x, target = ctx.x:narrow(0, i - 1, 1), ctx.targets[i]
  local background = background_of(x)
  local tree, keep_of = hierarchy(x, options.regions and ctx:regions(i, options.regions), options.tree)
  local two = ctx.scorer:logits(2, function(first, count) return torch.cat({ background, x }, 0):narrow(0, first, count) end)
  local classes = shap.classes(two[1]:tolist(), target, options.ranked_outputs)
  local ends = shap.outputs(two, classes, target.as)
  local function evaluate(boxes)
    local logits = ctx.scorer:logits(boxes:size(0), function(first, count) return hide.images(x, background, keep_of(boxes:narrow(0, first, count))) end)
    return shap.outputs(logits, classes, target.as)
  end
  local evals = check.smoke_count(options.evals, 3)
  local engine <close> = core.partition.new { size = tree.size, children = tree.children, outputs = #classes, budget = evals - 2, queue_batch = options.queue_batch,
    context = options.fixed_context or -1 }
  local values, half = split_all(engine, tree, evals, evaluate, ends[0]:contiguous(), ends[1]:contiguous())
  local facts = { classes = shap.names(classes, ctx.model), base = ends[0]:tolist(), output = ends[1]:tolist(), evaluations = engine:evaluated() + 2 }
  if not values then
    values = torch.full({ #classes, x:size(2), x:size(3) }, 0 / 0, { dtype = "float64" })
    half = values
  end
  local map = shap.of_target(values, classes, target)
  facts.change_half = shap.change(map, shap.of_target(half, classes, target))
  return map, { facts = facts, arrays = { outputs = values } }
end

return {
  title = "SHAP Partition",
  paper = "Owen 1977, doi:10.1007/978-3-642-45494-3_7; Lundberg and Lee 2017, NeurIPS 30",
  version = 1,
  at = "input",
  sign = "signed",
  options = {
    evals = { "integer", default = 1000, min = 3 },         -- evaluations of the network an image, the two ends included
    removal = { "string", default = "blur(128,128)" },      -- what hidden pixels show
    fixed_context = { "integer", min = 0, max = 1 },        -- nil: outside shown and hidden, half each; 0: hidden; 1: shown
    queue_batch = { "integer", default = 32, min = 1 },     -- evaluations between two looks at the queue: changes the values
    ranked_outputs = shap.ranked_option,
    regions = { "string|table|function" },                  -- a source of regions (regions.lua): leaves are regions, not pixels
    tree = { "table" },                                     -- of those: nested pairs of their numbers, { { 0, 1 }, { 2, 3 } }
  },
  map = function(ctx, _, _, options)
    local taken = removal.parse(options.removal)
    local lo, hi = ctx:range()
    local function background_of(x) return taken:background(x, { range = { lo, hi } }) end
    local maps, extras = {}, {}
    for i = 1, ctx.count do
      local scope <close> = core.memory.scope()
      local map, extra = explain_one(ctx, i, options, background_of)
      maps[i], extras[i] = scope:keep(map), extra
      scope:keep(extra.arrays.outputs)
    end
    return torch.stack(maps, 0), extras
  end,
  draw = shap.draw,
}
