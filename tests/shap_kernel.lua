-- Kernel SHAP against shap 0.51 and scikit-learn (tests/reference/shap.pt): subsets and weights bit for bit from
-- NumPy's draws, selection by LAR, AIC, BIC and lasso in both eras, values; exact Shapley values; the balanced design;
-- the method over regions.
local t = require "t"
local tiny = require "tinyexplain"
local shapdump = require "tinyshap"
local core = require "medxai.core"
local kernel = require "medxai.explain.shap_kernel_math"
local torch = require "medxai.torch"
local method = require "medxai.explain.methods.shap_kernel"

local distance = shapdump.distance

-- shap_values.py's of_mask: (n, M) of 0 and 1 -> (n, outputs), with interactions.
local function of_mask(z, outputs)
  local m, list = z:size(1), {}
  local i = torch.arange(0, m, { dtype = "float64" })
  for d = 0, outputs - 1 do
    local a, b = torch.sin(i * 0.9 + d), torch.cos(i * 1.7 + 2 * d)
    list[d + 1] = torch.sin(z:mv(a)) + 0.3 * z:mv(b) + 0.2 * (z:select(1, 0) * z:select(1, 1)) - 0.4 * z:select(1,
      m // 2) * z:select(1, m - 1)
  end
  return torch.stack(list, 1)
end

local function ends(m, outputs)
  local both = of_mask(torch.stack({ torch.zeros({ m }, { dtype = "float64" }),
    torch.ones({ m }, { dtype = "float64" }) }, 0), outputs):tolist()
  return { base = both[1], output = both[2] }
end

local cases = { -- name, features, samples, l1_reg, scaling
  { "all", 4, 1000, "num_features(10)" }, { "slic", 9, 70, "num_features(10)" },
  { "thesis", 20, 70, "num_features(10)" }, { "four", 20, 70, "num_features(4)" },
  { "aic", 13, 100, "aic" }, { "bic", 13, 100, "bic" }, { "unselected", 11, 300, "none" }, { "lasso", 12, 120, 0.01 },
  { "auto", 16, 2000, "auto" }, { "era_none", 20, 70, "auto", "none" }, { "era_unit", 20, 70, "auto", "unit" },
}

for _, case in ipairs(cases) do
  local name, m, samples, l1_reg, scaling = table.unpack(case)
  t.test(("%s: %d features, %d samples, l1_reg %s%s equal shap's"):format(name, m, samples, l1_reg,
    scaling and ", scaling " .. scaling or ""), function()
    local scope <close> = core.memory.scope() -- luacheck: ignore
    local dump = shapdump.dump("kernel." .. name .. ".")
    local plan = kernel.plan(m, samples, kernel.numpy_draws(42))
    local masks = kernel.matrix(plan, m)
    t.equal(masks.shape, dump.masks.shape)
    t.ok(torch.equal(masks, dump.masks), "the masks differ")
    t.near(plan.weights, dump.weights:tolist(), 1e-16)
    local outputs = dump.values:size(1)
    local fitted = kernel.fit(plan, m, of_mask(masks:to { dtype = "float64" }, outputs), ends(m, outputs),
      { l1_reg = l1_reg, scaling = scaling or "deviation" })
    t.ok(distance(fitted.values, dump.values:t()) < 1e-12, tostring(distance(fitted.values, dump.values:t())))
  end)
end

t.test("the mutants fail: weights all alike, features moved by one, the wrong era", function()
  local scope <close> = core.memory.scope() -- luacheck: ignore
  local dump, m = shapdump.dump "kernel.era_unit.", 20
  local plan = kernel.plan(m, 70, kernel.numpy_draws(42))
  local y = of_mask(kernel.matrix(plan, m):to { dtype = "float64" }, 3)
  local function off(scaling)
    return distance(kernel.fit(plan, m, y, ends(m, 3), { l1_reg = "auto", scaling = scaling }).values, dump.values:t())
  end
  t.ok(off "unit" < 1e-12)
  t.ok(off "none" > 1e-3)
  t.ok(distance(kernel.fit(plan, m, y:roll({ 1 }, { 0 }), ends(m, 3), { l1_reg = "auto", scaling = "unit" }).values,
    dump.values:t()) > 1e-2)
  for i = 1, #plan.weights do plan.weights[i] = (i % 3 + 1) / 140 end
  t.ok(off "unit" > 1e-2)
end)

-- Shapley values of f by their definition: all subsets.
local function shapley(m, f)
  local values = {}
  local all = {}
  for s = 0, (1 << m) - 1 do
    local row = {}
    for j = 0, m - 1 do row[j + 1] = s >> j & 1 end
    all[s + 1] = row
  end
  local y, factorial = f(torch.tensor(all, { dtype = "float64" })):tolist(), { [0] = 1.0 }
  for k = 1, m do factorial[k] = factorial[k - 1] * k end
  for j = 0, m - 1 do
    values[j + 1] = 0.0
    for s = 0, (1 << m) - 1 do
      if s >> j & 1 == 0 then
        local size = 0
        for b = 0, m - 1 do size = size + (s >> b & 1) end
        values[j + 1] = values[j + 1] + factorial[size] * factorial[m - size - 1] / factorial[m]
          * (y[(s | 1 << j) + 1] - y[s + 1])
      end
    end
  end
  return values
end

t.test("with all subsets the values are Shapley's, in either design, for odd and even numbers of features", function()
  for _, m in ipairs { 2, 3, 6, 7 } do
    local scope <close> = core.memory.scope() -- luacheck: ignore
    local truth = shapley(m, function(z) return of_mask(z, 1):select(1, 0) end)
    for _, design in ipairs { "shap", "balanced" } do
      local plan = kernel.plan(m, 10000, kernel.keyed_draws(1, "test@1", "a"), design)
      t.equal({ #plan.masks, plan.fixed, plan.samples }, { (1 << m) - 2, (1 << m) - 2, (1 << m) - 2 })
      local fitted = kernel.fit(plan, m, of_mask(kernel.matrix(plan, m):to { dtype = "float64" }, 1), ends(m, 1),
        { l1_reg = "none", scaling = "deviation" })
      t.near(fitted.values:tolist()[1], truth, 1e-10, m .. " " .. design)
      t.ok(fitted.half == fitted.values)
    end
  end
end)

t.test("the balanced design: pairs, no subset twice, sizes alike, features in turn, the kernel's weight on "
  .. "every size", function()
  local m, samples = 12, 300
  local plan = kernel.plan(m, samples, kernel.keyed_draws(3, "test@1", "b"), "balanced")
  local seen, per_size, per_feature, weight = {}, {}, {}, 0
  t.equal(#plan.masks, samples)
  for i, mask in ipairs(plan.masks) do
    t.ok(not seen[mask], "a subset comes twice")
    seen[mask] = true
    local size = select(2, mask:gsub("\1", ""))
    per_size[size] = (per_size[size] or 0) + 1
    weight = weight + plan.weights[i]
    for j = 1, m do per_feature[j] = (per_feature[j] or 0) + mask:byte(j) end
    if i % 2 == 0 then
      t.equal(plan.masks[i - 1], (mask:gsub(".", function(c) return c == "\0" and "\1" or "\0" end)))
    end
  end
  t.near(weight, 1, 1e-12)
  t.equal({ per_size[1], per_size[11], per_size[2] == per_size[10] }, { 12, 12, true })
  t.ok(math.abs(per_size[3] - per_size[4]) <= 2 and math.abs(per_size[4] + per_size[8] - 2 * per_size[6]) <= 200,
    "sizes")
  for j = 1, m do t.equal(per_feature[j], samples // 2) end
  t.equal(#kernel.plan(30, 1000, kernel.keyed_draws(3, "test@1", "b"), "balanced").masks, 1000)
end)

t.test("with the same passes the balanced design is nearer to Shapley's values", function()
  local m, total = 10, { shap = 0, balanced = 0 }
  local truth = torch.tensor(shapley(m, function(z) return of_mask(z, 1):select(1, 0) end), { dtype = "float64" })
  for design in pairs(total) do
    for seed = 1, 40 do
      local scope <close> = core.memory.scope() -- luacheck: ignore
      local plan = kernel.plan(m, 120, kernel.keyed_draws(seed, "test@1", "c"), design)
      local fitted = kernel.fit(plan, m, of_mask(kernel.matrix(plan, m):to { dtype = "float64" }, 1), ends(m, 1),
        { l1_reg = "none", scaling = "deviation" })
      total[design] = total[design] + (fitted.values[0] - truth):square():sum():item()
    end
  end
  t.ok(total.balanced < 0.8 * total.shap, ("%g and %g"):format(total.balanced, total.shap))
end)

t.test("fewer subsets than features: the least-norm values, said to be undetermined; they still sum to the "
  .. "difference", function()
  local plan = kernel.plan(40, 20, kernel.keyed_draws(1, "test@1", "d"))
  local both = ends(40, 1)
  local fitted = kernel.fit(plan, 40, of_mask(kernel.matrix(plan, 40):to { dtype = "float64" }, 1), both,
    { l1_reg = "none", scaling = "deviation" })
  t.equal(fitted.determined, false)
  t.near(fitted.values:sum():item(), both.output[1] - both.base[1], 1e-9)
  t.ok(fitted.values:abs():max():item() < 10)
  t.fails(function()
    kernel.fit(kernel.plan(40, 12, kernel.keyed_draws(1, "test@1", "d")), 40,
      torch.ones({ 12, 1 }, { dtype = "float64" }), both, { l1_reg = "aic", scaling = "deviation" })
  end,
    "shap_kernel: aic needs more subsets than features (got 12 for 40). Raise samples or use num_features(k).")
end)

t.test("the keyed draws belong to seed and image; the numpy ones to the seed", function()
  local function first(draws) return kernel.plan(20, 70, draws).masks end
  t.equal(first(kernel.keyed_draws(1, "shap_kernel@1", "a")), first(kernel.keyed_draws(1, "shap_kernel@1", "a")))
  t.ok(first(kernel.keyed_draws(1, "shap_kernel@1", "a"))[1] ~= first(kernel.keyed_draws(1, "shap_kernel@1", "b"))[1])
  t.ok(first(kernel.keyed_draws(2, "shap_kernel@1", "a"))[1] ~= first(kernel.keyed_draws(1, "shap_kernel@1", "a"))[1])
  t.equal(first(kernel.numpy_draws(5)), first(kernel.numpy_draws(5)))
end)

t.test("l1_reg that means nothing is refused", function()
  for _, word in ipairs { "num_features(0)", "AIC", "num_features(a)" } do
    t.fails(function() kernel.parse_selection(word) end,
      ("shap_kernel: option 'l1_reg' is wrong (expected 'num_features(k)', 'auto', 'aic', 'bic', 'none' or a "
        .. "number, got '%s')."):format(word))
  end
  t.fails(function() method.check { removal = "white", l1_reg = "aic", samples = "many" } end,
    "shap_kernel: samples is a number or 'auto' (got 'many').")
  t.fails(function() method.check { removal = "white", l1_reg = "aic", rng = "numpy", design = "balanced" } end,
    "shap_kernel: rng = 'numpy' draws as shap does: design is 'shap' (got 'balanced').")
end)

-- ---- the method -----------------------------------------------------------------------------------------------------

local function image() return tiny.images():narrow(0, 0, 1) end
local quarters = { "grid", rows = 2, columns = 2 }

t.test("too few subsets to determine the values are told of, not that nothing moved", function()
  local scope <close> = core.memory.scope() -- luacheck: ignore
  local _, extras = shapdump.map(method, shapdump.context(image(),
    { model = tiny.model("float64"), target = "opacity" }), { samples = 2, regions = quarters, l1_reg = "none" })
  t.equal({ extras[1].facts.determined, extras[1].facts.change_half },
    { false, "too few subsets to determine the values" })
end)

t.test("more samples than there are subsets: all 14 are evaluated once, and the map paints Shapley's values", function()
  local scope <close> = core.memory.scope() -- luacheck: ignore
  local x, model = image(), tiny.model("float64")
  local scorer, rows = shapdump.noting(model)
  local raw, extras = shapdump.map(method, shapdump.context(x, { model = model, scorer = scorer, target = "opacity" }),
    { samples = "auto", regions = quarters, l1_reg = "none" })
  t.equal(#rows, 16)
  local facts = extras[1].facts
  t.equal({ facts.evaluations, facts.subsets, facts.regions.count, facts.determined, facts.change_half },
    { 16, 14, 4, true, 0.0 })
  local hide, labels = require "medxai.perturb.compose", extras[1].arrays.regions:to { dtype = "int64" }
  local truth = shapley(4, function(z)
    return torch.no_grad(model, hide.images(x, torch.ones_like(x), hide.regions(labels, z:gt(0.5)))):select(1, 2)
  end)
  t.near(raw:view { 21, 32 }:unique():tolist(), torch.tensor(truth, { dtype = "float64" }):sort():tolist(), 1e-9)
  t.near(raw[{ 0, 0, 0 }]:item(), truth[1], 1e-9)
  t.near(raw[{ 0, 20, 0 }]:item(), truth[3], 1e-9)
end)

t.test("equal subsets are evaluated once: 20 features of the thesis draw complements twice", function()
  local scope <close> = core.memory.scope() -- luacheck: ignore
  local scorer, rows = shapdump.noting(tiny.model("float64"))
  local _, extras = shapdump.map(method, shapdump.context(image(), { scorer = scorer }),
    { samples = 13, regions = { "grid", rows = 1, columns = 4 }, rng = "numpy" })
  t.ok(#rows <= 15 and extras[1].facts.subsets == 13)
end)

t.test("compat = 'thesis': 20 features, pixels 0 .. 255 with 255 for what is hidden, the image on its side", function()
  local scope <close> = core.memory.scope() -- luacheck: ignore
  local x, model, seen = image(), tiny.model("float64"), {}
  local inner = require("medxai.perturb.scorer").new(model)
  local scorer = { deviation = function() end, logits = function(_, n, make)
    seen = make(0, 2):tolist()
    return inner:logits(n, make)
  end }
  local ctx = shapdump.context(x, { model = model, scorer = scorer, seed = 42 })
  local raw, extras = shapdump.map(method, ctx, { samples = 70, regions = quarters, rng = "numpy", compat = "thesis" })
  t.equal({ #seen[1][1], #seen[1][1][1] }, { 32, 21 })
  t.near({ seen[1][1][1][1], seen[2][2][6][4] }, { 255, 255 * x[{ 0, 1, 3, 5 }]:item() }, 1e-9)
  t.equal({ raw.shape, extras[1].arrays.values.shape, extras[1].facts.regions.count }, { { 1, 21, 32 }, { 3, 20 }, 4 })
  t.equal(raw[0]:unique():numel() <= 4, true)
  t.fails(function() shapdump.map(method, ctx, { regions = { "grid", rows = 4, columns = 5 }, compat = "thesis" }) end,
    "shap_kernel: compat = 'thesis' has room for 19 regions (got 20).")
end)

t.test("an output that is not a number makes the map NaN; of one region only the map is not defined", function()
  local scope <close> = core.memory.scope() -- luacheck: ignore
  local scorer = { deviation = function() end, logits = function(_, n)
    return torch.full({ n, 3 }, 0 / 0, { dtype = "float64" })
  end }
  local raw, extras = shapdump.map(method, shapdump.context(image(), { scorer = scorer }), { regions = quarters })
  t.ok(raw:isnan():all():item() and extras[1].facts.change_half == nil)
  local ok, why = pcall(shapdump.map, method, shapdump.context(image(), {}),
    { regions = { "grid", rows = 1, columns = 1 } })
  t.equal({ ok, require("medxai.base.not_defined").reason(why) },
    { false, "grid(columns=1, rows=1) gives one region only" })
end)

t.test("every allocation of the lasso's path may fail", function()
  local memory = core.memory
  local x = torch.sin(torch.arange(60, { dtype = "float64" }) ^ 1.5):view { 12, 5 }
  local gram, xy, options = x:t():mm(x):contiguous(), x:t():mv(torch.cos(torch.arange(12, { dtype = "float64" }))),
    { samples = 12, lasso = true }
  local function work() return core.lars.path(gram, xy, options) end
  t.equal(#work(), 5)
  local before = core.image.live_blocks()
  for _, fail_after in ipairs { memory.c_fail_after, memory.fail_after, memory.lua_fail_after } do
    for n = 0, 300 do
      fail_after(n, 1000000)
      local ok, problem = pcall(work)
      fail_after(-1)
      if ok then break end
      t.ok(tostring(problem):find "memory", tostring(problem))
      t.ok(n < 300, "never succeeds")
    end
  end
  collectgarbage() collectgarbage()
  t.ok(core.image.live_blocks() <= before)
end)
