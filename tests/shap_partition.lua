-- SHAP Partition against shap 0.51 (tests/reference/shap.pt, float64, the tiny network evaluated again here): values,
-- order, limited budgets, contexts, a tree of regions; exact Owen values; and what is refused.
local t = require "t"
local tiny = require "tinyexplain"
local shapdump = require "tinyshap"
local core = require "medxai.core"
local hide = require "medxai.perturb.compose"
local torch = require "medxai.torch"
local method = require "medxai.explain.methods.shap_partition"

local distance = shapdump.distance

-- A removal by a constant, which the house's removals do not have, through the tree's own door: a split whose range is
-- that constant.
local function constant(value)
  return function() local v = torch.full({ 1, 1, 1, 1 }, value, { dtype = "float64" }) return v, v end
end

local function same_as_shap(name, x, options, fields)
  local scope <close> = core.memory.scope()
  local dump = shapdump.dump("partition." .. name .. ".")
  fields = fields or {}
  fields.model = tiny.model("float64")
  local rows
  fields.scorer, rows = shapdump.noting(fields.model)
  local _, extras = shapdump.map(method, shapdump.context(x, fields), options)
  local got, truth = extras[1].arrays.outputs, dump.values
  if truth:dim() == 4 then truth = truth:sum({ 2 }) end
  truth = truth:permute { 2, 0, 1 }
  t.equal(got.shape, truth.shape)
  local off = distance(got, truth) / truth:abs():max():item()
  local facts, sums = extras[1].facts, got:sum({ 1, 2 }):tolist()
  for k, sum in ipairs(sums) do t.near(sum, facts.output[k] - facts.base[k], 1e-12, "sum") end
  t.near(facts.base, dump.base:tolist(), 1e-12)
  return off, distance(torch.tensor(rows, { dtype = "float64" }), dump.outputs), #rows
end

local image = function() return tiny.images():narrow(0, 0, 1) end

t.test("values equal shap's with a blur, both contexts, three ranked outputs", function()
  local off, _, evaluated = same_as_shap("blur", image(), { removal = "blur(6,5)", evals = 300, queue_batch = 10 })
  t.ok(off < 1e-10, tostring(off))
  t.equal(evaluated, 300)
end)

t.test("one context, hidden or shown: values and the order of evaluations equal shap's", function()
  for _, case in ipairs { { "context0", 0, 10 }, { "context1", 1, 32 } } do
    local off, order = same_as_shap(case[1], image(),
      { removal = "blur(6,5)", evals = 200, fixed_context = case[2], queue_batch = case[3], ranked_outputs = 2 })
    t.ok(off < 1e-10 and order < 1e-10, ("%s: %g, order %g"):format(case[1], off, order))
  end
end)

t.test("odd budgets and batches overshoot by one evaluation, as shap's; the least budget splits once", function()
  -- The order is not compared: two groups here differ by less than the rounding of their outputs, and which one is
  -- split first hangs on the processor.
  local off, _, evaluated = same_as_shap("odd", image(), { removal = "black", evals = 101, queue_batch = 7,
    ranked_outputs = 1 }, { range = constant(0.3) })
  t.ok(off < 1e-10, tostring(off))
  t.equal(evaluated, 102)
  local order
  off, order, evaluated = same_as_shap("least", image(), { removal = "black", evals = 3 }, { range = constant(0) })
  t.ok(off < 1e-10 and order < 1e-10)
  t.equal(evaluated, 4)
end)

t.test("down to single colours of single pixels: rows first, then columns, then channels", function()
  local x = image():narrow(2, 3, 5):narrow(3, 5, 4):contiguous()
  local off, _, evaluated = same_as_shap("pixels", x, { removal = "white", evals = 1500, queue_batch = 10 },
    { range = constant(0.5) })
  t.ok(off < 1e-10, tostring(off))
  t.equal(evaluated, 1500)
end)

-- Regions of the dump, and the model's output with a set of them shown on 0.25.
local function six_regions()
  local labels = shapdump.dump("partition.regions.").labels
  local model, x = tiny.model("float64"), image()
  return labels, function(shown)
    local on = torch.zeros({ 1, 6 }, { dtype = "bool" })
    for _, r in ipairs(shown) do on[{ 0, r }]:fill_(true) end
    return torch.no_grad(model, hide.images(x, torch.full_like(x, 0.25), hide.regions(labels, on)))[0]:tolist()
  end
end

local function by_class(extra, region_of)
  local out = {}
  for k, class in ipairs(extra.facts.classes) do
    for c, name in ipairs(tiny.classes) do
      if name == class then out[c] = region_of(extra.arrays.outputs:select(0, k - 1)) end
    end
  end
  return out
end

t.test("a tree of regions: shap's values, and Owen's by recursion to the last bit but rounding", function()
  local scope <close> = core.memory.scope() -- luacheck: ignore
  local labels, f = six_regions()
  local tree = { { { 0, 3 }, 4 }, { { 1, 2 }, 5 } }
  local _, extras = shapdump.map(method, shapdump.context(image(), { range = constant(0.25) }),
    { removal = "white", evals = 1000, regions = function() return labels end, tree = tree })
  local function sums(plane)
    local list = {}
    for r = 0, 5 do list[r + 1] = plane:masked_select(labels:eq(r)):sum():item() end
    return list
  end
  local got, dump = by_class(extras[1], sums), shapdump.dump("partition.regions.").values:t():tolist()
  t.near(got, dump, 1e-12)
  t.equal({ extras[1].facts.evaluations, extras[1].facts.regions.count }, { 28, 6 })

  local owen = { { 0, 0, 0, 0, 0, 0 }, { 0, 0, 0, 0, 0, 0 }, { 0, 0, 0, 0, 0, 0 } }
  local function leaves(node, into)
    if type(node) == "number" then into[#into + 1] = node else leaves(node[1], into) leaves(node[2], into) end
    return into
  end
  local function recur(node, shown, weight)
    local function with(more) return table.move(more, 1, #more, #shown + 1, table.move(shown, 1, #shown, 1, {})) end
    if type(node) == "number" then
      local a, b = f(shown), f(with { node })
      for c = 1, 3 do owen[c][node + 1] = owen[c][node + 1] + weight * (b[c] - a[c]) end
      return
    end
    recur(node[1], shown, weight / 2)
    recur(node[2], shown, weight / 2)
    recur(node[1], with(leaves(node[2], {})), weight / 2)
    recur(node[2], with(leaves(node[1], {})), weight / 2)
  end
  recur(tree, {}, 1)
  t.near(got, owen, 1e-12)
end)

t.test("without a tree, regions are halved by their centres; the result holds each once", function()
  local shap = require "medxai.explain.shap"
  local labels = torch.tensor({ { 0, 0, 1, 1 }, { 2, 2, 3, 4 } }, { dtype = "int64" })
  local flat = shap.tree({ labels = labels, count = 5 })
  t.equal(core.partition.leaf_order(flat, 5), { 0, 2, 3, 1, 4 })
  t.fails(function() shap.tree({ labels = labels, count = 5 }, { { 0, 1 }, { 2, 3 } }) end,
    "shap_partition: the tree does not hold each of the 5 regions once (numbers 0 to 4).")
  t.fails(function() shap.tree({ labels = labels, count = 5 }, { { 0, 1 }, { 2, { 3, 3 } } }) end,
    "shap_partition: the tree does not hold each of the 5 regions once (numbers 0 to 4).")
  t.fails(function() shap.tree({ labels = labels, count = 5 }, { 0, 1, 2 }) end,
    "shap_partition: a tree is made of pairs and numbers of regions (expected { a, b }, got a list of 3).")
end)

t.test("the map is the target's: a class that is not ranked, and a contrast as the difference of "
  .. "its classes", function()
  local scope <close> = core.memory.scope() -- luacheck: ignore
  local x, model = image(), tiny.model("float64")
  local function of(target)
    local raw, extras = shapdump.map(method, shapdump.context(x, { model = model, target = target }),
      { evals = 40, ranked_outputs = 1, removal = "mean" })
    return raw, extras[1]
  end
  local rank = torch.no_grad(model, x)[0]:argsort(0, true):tolist()
  local map, extra = of(rank[3])
  t.equal(extra.facts.classes, { tiny.classes[rank[1] + 1], tiny.classes[rank[3] + 1] })
  t.near(map:sum():item(), extra.facts.output[2] - extra.facts.base[2], 1e-12)
  map, extra = of(("contrast(%d, %d)"):format(rank[2], rank[1]))
  t.equal(extra.facts.classes, { tiny.classes[rank[1] + 1], tiny.classes[rank[2] + 1] })
  t.ok(distance(map, extra.arrays.outputs[1] - extra.arrays.outputs[0]) < 1e-15)
end)

t.test("each image is hidden by its own blur: several together equal each alone (shap's masker reuses the "
  .. "blur before)", function()
  local scope <close> = core.memory.scope() -- luacheck: ignore
  local x, model = tiny.images(), tiny.model("float64")
  local both = shapdump.context(x, { model = model })
  for i = 1, 2 do
    local one = shapdump.map(method, shapdump.context(x:narrow(0, i - 1, 1), { model = model }),
      { evals = 60, removal = "blur(9,9)" })
    t.ok(distance(one, shapdump.map(method, both:single(i), { evals = 60, removal = "blur(9,9)" })) == 0)
  end
end)

t.test("what moved since half of the evaluations is told of small budgets too, which are spent in a few "
  .. "large asks", function()
  local scope <close> = core.memory.scope() -- luacheck: ignore
  local model = tiny.model("float64")
  local function of(evals)
    local map, extras = shapdump.map(method, shapdump.context(image(), { model = model }), { evals = evals })
    return map, extras[1].facts
  end
  local map, facts = of(30) -- 2, 2, 8, then all that is left: half is 12
  t.near(facts.change_half, ((map - of(12)):abs():sum() / map:abs():sum()):item(), 1e-12)
  t.ok(facts.change_half > 0.01, tostring(facts.change_half))
end)

t.test("an output that is not a number ends the image's evaluations; its map is NaN", function()
  local model = tiny.model("float64")
  local scope <close> = core.memory.scope() -- luacheck: ignore
  local scorer, rows = shapdump.noting(model)
  local logits = scorer.logits
  function scorer:logits(n, make)
    local y = logits(self, n, make)
    if #rows > 40 then y:select(1, 1):fill_(0 / 0) end
    return y
  end
  local raw, extras = shapdump.map(method, shapdump.context(image(), { model = model, scorer = scorer }),
    { evals = 300, queue_batch = 10 })
  t.ok(raw:isnan():all():item())
  t.equal(#rows, 42)
  t.ok(extras[1].facts.change_half ~= extras[1].facts.change_half)
end)

t.test("boxes become masks: whole ones of one plane, colours of single pixels of three", function()
  local boxes = torch.tensor({ { { 0, 1, 0, 2, 3, 3 }, { 2, 0, 0, 3, 1, 3 } },
    { { 0, 0, 0, 1, 4, 3 }, { 0, 0, 0, 0, 0, 0 } } }, { dtype = "int32" })
  local keep = hide.boxes(boxes, 3, 3, 4, "cpu")
  t.equal(keep.shape, { 2, 1, 3, 4 })
  t.equal(keep:to { dtype = "int64" }:squeeze(1):tolist(),
    { { { 0, 1, 1, 0 }, { 0, 1, 1, 0 }, { 1, 0, 0, 0 } }, { { 1, 1, 1, 1 }, { 0, 0, 0, 0 }, { 0, 0, 0, 0 } } })
  boxes = torch.tensor({ { { 1, 1, 1, 2, 2, 3 } } }, { dtype = "int32" })
  keep = hide.boxes(boxes, 3, 2, 2, "cpu")
  t.equal(keep:to { dtype = "int64" }:tolist(),
    { { { { 0, 0 }, { 0, 0 } }, { { 0, 0 }, { 0, 1 } }, { { 0, 0 }, { 0, 1 } } } })
end)

t.test("every allocation of a partition may fail", function()
  local memory = core.memory
  local zeros, ones, answers = torch.zeros({ 2 }, { dtype = "float64" }), torch.ones({ 2 }, { dtype = "float64" }), {}
  for n = 2, 8, 2 do answers[n] = torch.sin(torch.arange(0, 2 * n, { dtype = "float64" })):contiguous() end
  local function work()
    local p = core.partition.new { size = { 8, 6, 3 }, outputs = 2, budget = 60, queue_batch = 8, context = -1 }
    p:start(zeros, ones)
    while true do
      local boxes = p:ask()
      if not boxes then break end
      p:tell(answers[boxes.shape[1]])
    end
    return p:values()
  end
  t.near(work():sum():item(), 2, 1e-12)
  local before = core.image.live_blocks()
  for _, fail_after in ipairs { memory.c_fail_after, memory.fail_after, memory.lua_fail_after } do
    for n = 0, 2000 do
      fail_after(n, 1000000)
      local ok, problem = pcall(work)
      fail_after(-1)
      if ok then break end
      t.ok(tostring(problem):find "memory", tostring(problem))
      t.ok(n < 2000, "never succeeds")
    end
  end
  collectgarbage() collectgarbage()
  t.ok(core.image.live_blocks() <= before)
end)

t.test("bad input: budgets below 3, sizes and trees that make no sense", function()
  local Options = require "medxai.base.options"
  t.fails(function() Options.check("shap_partition", { evals = 2 }, method.options) end,
    "shap_partition: option 'evals' is too small (expected at least 3, got 2).")
  t.fails(function() Options.check("shap_partition", { fixed_context = 2 }, method.options) end,
    "shap_partition: option 'fixed_context' is too large (expected at most 1, got 2).")
  t.fails(function() method.check { removal = "black", tree = { 0, 1 } } end,
    "shap_partition: a tree needs the regions that it is made of (expected regions = ... beside it).")
  t.fails(function() method.check { removal = "noisy_linear" } end,
    "shap_partition: removal = 'noisy_linear(0.01)' has no background: "
    .. "it fills pixels from those that are kept (expected black, white, mean, segment_mean or blur).")
  t.fails(function() method.check { removal = "segment_mean" } end,
    "shap_partition: removal = 'segment_mean' needs regions.")
  t.fails(function() Options.check("shap_partition", { queue_batch = 0 }, method.options) end,
    "shap_partition: option 'queue_batch' is too small (expected at least 1, got 0).")
  local function make(o)
    return function()
      core.partition.new { size = o.size or { 2, 2, 3 }, outputs = 1, budget = 1, queue_batch = 1, context = -1,
        children = o.children }
    end
  end
  t.fails(make { size = { 0, 2, 3 } }, "partition: a side is 1 to 16777216 (got 0).")
  t.fails(make { size = { 2, 2 } }, "partition: size has three sides (got 2).")
  t.fails(make { size = { 3, 1, 1 }, children = { -1, -2 } },
    "partition: a tree of 3 regions has 2 inner nodes (got 2 numbers, expected 4).")
  t.fails(make { size = { 3, 1, 1 }, children = { 0, -1, -2, -3 } },
    "partition: the children do not form a tree with each of the 3 regions once.")
  t.fails(make { size = { 3, 1, 1 }, children = { 1, -1, -1, -3 } },
    "partition: the children do not form a tree with each of the 3 regions once.")
end)
