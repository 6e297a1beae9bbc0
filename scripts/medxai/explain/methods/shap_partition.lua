-- SHAP Partition: Owen values on a hierarchy of boxes (Owen 1977; shap's PartitionExplainer, Lundberg). An image's box
-- is halved again and again, the box that matters most first, each time with the other half shown and hidden; the
-- budget spent, what a box got is spread evenly over its pixels. The values sum to output - base whatever the budget:
-- what it leaves open is told by how far the map moved since half of it. As shap 0.51, but that equals come first come
-- first, and each image has its own blur. It refuses inpainting, and a tree that does not hold each region once.
local check = require "medxai.base.check"
local core = require "medxai.core"
local hide = require "medxai.perturb.compose"
local Progress = require "medxai.base.progress"
local shap = require "medxai.explain.shap"
local torch = require "medxai.torch"

-- A hierarchy: what core.partition needs of it (size, children), keep(boxes) -> (n, 1 or 3, H, W), planes(values) ->
-- (k, H, W).
local function of_pixels(x)
  local shape = x.shape
  return { size = { shape[3], shape[4], shape[2] },
    keep = function(boxes) return hide.boxes(boxes, shape[2], shape[3], shape[4], x.device) end,
    planes = function(values) return values:sum({ 1 }) end }
end

-- A box is then a run of regions in the tree's order of leaves; a region's value is spread over its pixels.
local function of_regions(x, made, tree)
  local count, labels, children = made.count, made.labels, shap.tree(made, tree)
  local order = torch.tensor(core.partition.leaf_order(children, count), { dtype = "int64" })
  -- region -> its place
  local place = torch.zeros({ count }, { dtype = "int64" }):scatter(0, order, torch.arange(0, count))
  local areas = torch.bincount(labels:reshape(-1), torch.none, count):to { dtype = "float64" }
  local here, here_place = labels:to { device = x.device }, place:to { device = x.device }
  return { size = { count, 1, 1 }, children = children,
    keep = function(boxes)
      local on = hide.boxes(boxes, 1, count, 1, x.device):view { boxes:size(0), count }
      return hide.regions(here, on:index_select(1, here_place))
    end,
    planes = function(values)
      local each = values:view { values:size(0), count }:index_select(1, place) / areas
      return each:index_select(1, labels:reshape(-1)):view { values:size(0), labels:size(0), labels:size(1) }
    end }
end

-- Splits until the budget is spent. Gives the planes, and the last ones within half of the budget (a small budget is
-- spent in a few large asks); nil where an output is not a number.
local function split_all(engine, tree, ends, evals, evaluate)
  if not engine:start(ends[0]:contiguous(), ends[1]:contiguous()) then return nil end
  local half
  while true do
    local scope <close> = core.memory.scope()
    local boxes = engine:ask()
    if not boxes then break end
    if not half and 2 * (engine:evaluated() + 2 + boxes:size(0)) > evals then
      half = scope:keep(tree.planes(engine:values()))
    end
    if not engine:tell(evaluate(boxes)) then return nil end
  end
  local values = tree.planes(engine:values())
  return values, half or values
end

-- The image's hierarchy, and the regions that it is made of.
local function tree_of(ctx, x, options)
  if not options.regions then return of_pixels(x), {} end
  local made = shap.regions(ctx, options.regions)
  return of_regions(x, made, options.tree), made
end

return {
  title = "SHAP Partition",
  paper = "Owen 1977, doi:10.1007/978-3-642-45494-3_7; Lundberg and Lee 2017, NeurIPS 30",
  version = 2,
  at = "input",
  sign = "signed",
  one_by_one = true,
  honesty = { { fact = "change_half", title = "moved since half of the evaluations", short = "since half",
    percent = true }, shap.bfloat16_honesty },
  options = {
    evals = { "integer", field = true, default = 1000, min = 3, smoke = { divide_by = 50, least = 3 },
      doc = "evaluations of the network per image, the two ends included (shap's max_evals)" },
    removal = { "string", default = "blur(128,128)", lua = "medxai.RemovalName",
      doc = "what hidden pixels show; see help removals" },
    hide = { now = "removal" },
    fixed_context = { "integer", min = 0, max = 1,
      doc = "what lies outside of a box: 0 hidden, 1 shown; default: half each" },
    queue_batch = { "integer", default = 32, min = 1,
      doc = "evaluations between two looks at the queue; another number changes the values" },
    ranked_outputs = { "integer", default = 3, min = 1, doc = "the largest outputs, explained besides the target" },
    regions = { "string|table|function", lua = "medxai.Regions",
      doc = "the leaves of the hierarchy in place of pixels; see help regions" },
    tree = { "table", doc = "over regions: nested pairs of their numbers, { { 0, 1 }, { 2, 3 } }; default: halved "
      .. "by place" },
    precision = { one_of = { "float32", "bfloat16" }, default = "float32", doc = "of the forward passes" },
  },
  check = function(o)
    shap.check("shap_partition", o)
    if o.tree and not o.regions then
      check.fail("shap_partition", "a tree needs the regions that it is made of (expected regions = ... beside it).")
    end
  end,
  map = function(ctx, x, targets, o)
    local target, tree, made = targets[1], tree_of(ctx, x, o)
    local background = shap.background(ctx, o, made.labels)
    local scorer, evals = ctx:scorer_in(o.precision), o.evals
    local two = scorer:logits(2, function(first, count)
      return torch.cat({ background, x }, 0):narrow(0, first, count)
    end)
    local classes = shap.classes(two[1]:tolist(), target, o.ranked_outputs)
    local ends = shap.outputs(two, classes, target.as)
    local own = shap.of_target(ends:t(), classes, target):tolist() -- the target's own outputs, all of them
    local bar <close> = Progress.new("SHAP Partition", evals)
    local engine <close> = core.partition.new { size = tree.size, children = tree.children, outputs = #classes,
      budget = evals - 2, queue_batch = o.queue_batch, context = o.fixed_context or -1 }
    local values, half = split_all(engine, tree, ends, evals, function(boxes)
      local n = boxes:size(0)
      local logits = scorer:logits(n, function(first, count)
        return hide.images(x, background, tree.keep(boxes:narrow(0, first, count)))
      end)
      bar:add(n)
      local y = shap.outputs(logits, classes, target.as)
      table.move(shap.of_target(y:t(), classes, target):tolist(), 1, n, #own + 1, own)
      return y
    end)
    values = values or torch.full({ #classes, ctx.height, ctx.width }, 0 / 0, { dtype = "float64" })
    local map, still = shap.of_target(values, classes, target), ctx:unmoved(1, own, o.precision)
    if still then map = map:zeros_like() end
    local status = still == "saturated" and still or nil
    return map, { { status = status, arrays = { outputs = values },
      facts = { classes = shap.names(classes, ctx.model), base = ends[0]:tolist(), output = ends[1]:tolist(),
      evaluations = engine:evaluated() + 2, regions = made.count
      and { source = made.source, count = made.count, hash = made.hash }, bfloat16_deviation = scorer:deviation(),
      change_half = half and shap.change(map, shap.of_target(half, classes, target)) or 0 / 0 } } }
  end,
  draw = "shap_figures",
}
