-- LIME for images: Ribeiro, Singh, Guestrin, KDD 2016, eq. 1, as lime 0.2.0.1 computes it: regions are hidden at
-- random, and a ridge regression of the class probability on which ones are kept, weighted by nearness to the whole
-- image, gives each region its weight. raw: the target's weight of each pixel's region.
-- Choices beyond lime's (design, stop_error, repeats) are said in the record. With repeats the map is that of the first
-- draws.
local not_defined = require "medxai.base.not_defined"
local canon = require "medxai.base.json"
local coalitions = require "medxai.explain.lime_design"
local check = require "medxai.base.check"
local regions = require "medxai.perturb.regions"
local removal = require "medxai.perturb.removal"
local samples = require "medxai.explain.lime_samples"
local surrogate = require "medxai.explain.lime_surrogate"
local torch = require "medxai.torch"

-- Class numbers by what the whole image gets, descending.
local function top_classes(y, most)
  local order, first = {}, y:select(0, 0):tolist()
  for k in ipairs(first) do order[k] = k - 1 end
  table.sort(order, function(a, b) return first[a + 1] > first[b + 1] or first[a + 1] == first[b + 1] and a > b end)
  return { table.unpack(order, 1, math.min(most, #order)) }
end

local function regions_of(ctx, o)
  local item, _, drawn = ctx.items[1], samples.numpy_generator(ctx.seed)
  local made = regions.of(o.regions, ctx:image():select(0, 0),
    { item = item, split = ctx.split, number = item.number, least = 1,
    seed = o.rng == "numpy" and o.quickshift_seed == "drawn" and drawn or nil })
  if made.count < 2 then not_defined.raise(made.source .. " gives one region only") end
  return made
end

-- One list of K weights; features that the fit left out have none.
local function weights_row(explained, count)
  local row = {}
  for k = 1, count do row[k] = 0.0 end
  for _, f in ipairs(explained.weights) do row[f.feature + 1] = f.weight end
  return row
end

-- The target, then the classes with the largest answers: what is explained, and the columns of numbers.
local function explained_columns(ctx, y, o)
  local t, columns, labels = ctx.targets[1], {}, canon.list {}
  columns[1], labels[1] = samples.column(y, t), { class = t.class, against = t.against }
  for i, k in ipairs(top_classes(y, o.top_labels)) do
    columns[i + 1], labels[i + 1] = y:narrow(1, k, 1), { class = ctx.model.classes[k + 1] }
  end
  return torch.cat(columns, 1), labels
end

return {
  title = "LIME",
  paper = "Ribeiro, Singh, Guestrin 2016, doi:10.1145/2939672.2939778",
  version = 2,
  at = "input",
  as = "softmax",
  sign = "signed",
  one_by_one = true,
  rng = "lime@1",
  honesty = { { fact = "rank_correlation", title = "rank r between draws" },
    { fact = "overlap", title = "top 5 shared", percent = true },
    { fact = "spread", title = "error of the weights", percent = true },
    { fact = "bfloat16_deviation", title = "largest difference of a bfloat16 logit", short = "bfloat16 off by" } },
  options = {
    samples = { "integer", field = true, default = 1000, min = 2, smoke = { divide_by = 50, least = 8 },
      doc = "images with regions hidden at random" },
    regions = { "string|table|function", default = "quickshift", lua = "medxai.Regions",
      doc = "the regions that are hidden and shown; see help regions" },
    removal = { "string", default = "segment_mean", lua = "medxai.RemovalName",
      doc = "what hidden regions show; see help removals" },
    hide = { now = "removal" },
    top_labels = { "integer", default = 3, min = 1, doc = "classes explained besides the target" },
    num_features = { "integer", default = 100000, min = 1, doc = "regions that the regression may use at most" },
    feature_selection = { one_of = surrogate.selections, default = "auto", doc = "how it chooses them, as lime" },
    kernel_width = { "number", default = 0.25, above = 0, doc = "of the weight by nearness to the whole image" },
    alpha = { "number", default = 1, above = 0, doc = "ridge penalty of the regression" },
    design = { one_of = coalitions.designs, default = "plain",
      doc = "how regions are drawn; paired and balanced have the same error with fewer samples" },
    stop_error = { "number", above = 0,
      doc = "stop when the estimated error of all weights is this share of their length; 0.1 is a tenth" },
    repeats = { "integer", default = 1, min = 1, max = 100,
      doc = "repeat with other draws to measure how alike the answers are; 1 estimates that by resampling" },
    seeds = { now = "repeats" },
    rng = { one_of = { "keyed", "numpy" }, default = "keyed", doc = "numpy: lime's own draws for the run's seed" },
    quickshift_seed = { one_of = { "own", "drawn" }, default = "own",
      doc = "drawn: quickshift takes lime's first draw, as with scikit-image below 0.21" },
    precision = { one_of = { "float32", "bfloat16" }, default = "float32", doc = "of the forward passes" },
  },
  check = function(o)
    o.regions, o.removal = regions.parse(o.regions), removal.of_background("lime", o.removal).id
    if o.rng == "numpy" and o.design ~= "plain" then
      check.fail("lime", "rng = 'numpy' draws as lime does: design is 'plain' (got '%s').", o.design)
    end
  end,
  map = function(ctx, x, _, o)
    local made, lo, hi = regions_of(ctx, o), ctx:range()
    local background = removal.parse(o.removal):background(x, { labels = made.labels, range = { lo, hi } })
    local run = samples.run(ctx, o, made, background, 0)
    local columns, labels = explained_columns(ctx, run.y, o)
    local rows = {}
    for i, one in ipairs(surrogate.explain(run.z, columns, o)) do
      rows[i] = weights_row(one, made.count)
      labels[i].prediction, labels[i].intercept, labels[i].score, labels[i].local_prediction =
        columns[{ 0, i - 1 }]:item(), one.intercept, one.score, one.local_prediction
    end
    local steady, how = samples.stability(ctx, o, made, background, run)
    local facts = { regions = { source = made.source, count = made.count, hash = made.hash }, samples = run.samples,
      evaluated = run.evaluated, stopped = run.stopped, labels = labels, rank_correlation = steady.rank_correlation,
      overlap = steady.overlap, spread = steady.spread, stability_by = how,
      bfloat16_deviation = ctx:scorer_in(o.precision):deviation() }
    local weights, h, w = torch.tensor(rows, { dtype = "float64" }), made.labels:size(0), made.labels:size(1)
    local raw = weights:select(0, 0):index_select(0, made.labels:view({ h * w })):view({ 1, h, w })
    local still = ctx:unmoved(1, columns:select(1, 0):tolist(), o.precision)
    if still then raw:zero_() end
    local status = still == "saturated" and still or nil
    return raw,
      { { status = status, facts = facts, arrays = { weights = weights,
        regions = made.labels:to { dtype = "int32" } } } }
  end,
  draw = "lime_figures",
}
