-- SHAP Gradient against shap 0.51 (tests/reference/shap.pt, float64): input and layer, values and variances for the
-- same draws; the two forms at a layer; completeness; backgrounds; independence of chunks and batches; what is refused.
local t = require "t"
local tiny = require "tinyexplain"
local shapdump = require "tinyshap"
local core = require "medxai.core"
local torch = require "medxai.torch"
local method = require "medxai.explain.methods.shap_gradient"

local distance = shapdump.distance

-- shap_values.py's background
local function background()
  return (torch.cos(torch.arange(0, 5 * 3 * 21 * 32, { dtype = "float64" }) * 0.0171) * 0.5 + 0.5):view { 5, 3, 21, 32 }
end

local function of(x, layer, options, fields)
  fields = fields or {}
  fields.layer = layer
  options.background = options.background or background()
  return shapdump.map(method, shapdump.context(x, fields), options)
end

for _, case in ipairs { { "input", "x", "difference" }, { "layer", "relu1", "activation" } } do
  t.test(("at the %s: values and variances equal shap's for NumPy's draws"):format(case[1]), function()
    for i = 0, 1 do
      local scope <close> = core.memory.scope() -- luacheck: ignore
      local dump = shapdump.dump(("gradient.%s%d."):format(case[1], i))
      local raw, extras = of(tiny.images():narrow(0, i, 1), case[2],
        { samples = 60, rng = "numpy", form = case[3], variances = true, ranked_outputs = 2 }, { seed = 7 + i })
      local arrays = extras[1].arrays
      local values, variances = arrays.values:permute { 1, 2, 3, 0 }, arrays.variances:permute { 1, 2, 3, 0 }
      if case[1] == "input" then values, variances = values:sum({ 0 }), variances:sum({ 0 }) end
      t.ok(distance(values, dump.values) < 1e-12 and distance(variances, dump.variances) < 1e-12)
      t.ok(dump.values:abs():max():item() > 1e-3 and dump.variances:abs():max():item() > 1e-7)
      t.ok(distance(arrays.outputs, arrays.values:sum({ 1 })) < 1e-12 and distance(raw[0], arrays.outputs[0]) < 1e-12)
      local ranks = {}
      for k, name in ipairs(extras[1].facts.classes) do
        for c, class in ipairs(tiny.classes) do
          if class == name then ranks[k] = c - 1 end
        end
      end
      t.equal(ranks, dump.ranks:tolist())
    end
  end)
end

t.test("the mutants fail: the other form, another seed, the class turned", function()
  local scope <close> = core.memory.scope() -- luacheck: ignore
  local truth = shapdump.dump "gradient.layer0.".values
  local function off(options, seed, turned)
    options.samples, options.rng, options.variances, options.ranked_outputs = 60, "numpy", true, 2
    local _, extras = of(tiny.images():narrow(0, 0, 1), "relu1", options, { seed = seed })
    local values = extras[1].arrays.values:permute { 1, 2, 3, 0 }
    return distance(turned and values:flip({ 3 }) or values, truth) / truth:abs():max():item()
  end
  t.ok(off({ form = "activation" }, 7) < 1e-9)
  t.ok(off({ form = "difference" }, 7) > 1e-2)
  t.ok(off({ form = "activation" }, 8) > 1e-2)
  t.ok(off({ form = "activation" }, 7, true) > 1e-2)
end)

t.test("at the input the gap to completeness is told, and shrinks with samples; at a layer it does "
  .. "not apply", function()
  local scope <close> = core.memory.scope() -- luacheck: ignore
  local x, model = tiny.images():narrow(0, 0, 1), tiny.model("float64")
  local map, extras = of(x, "x", { samples = 4000 }, { model = model })
  local b = torch.no_grad(model, background()):mean({ 0 }):tolist()
  local f, facts = torch.no_grad(model, x)[0]:tolist(), extras[1].facts
  local best = 1
  for k = 2, 3 do if f[k] > f[best] then best = k end end
  t.near({ facts.output[1], facts.base[1] }, { f[best], b[best] }, 1e-12)
  t.near({ facts.score_difference, facts.completeness_gap },
    { f[best] - b[best], map:sum():item() - (f[best] - b[best]) }, 1e-9)
  t.ok(math.abs(facts.completeness_gap) < 0.1 * math.abs(facts.score_difference), tostring(facts.completeness_gap))
  t.ok(facts.standard_error > 0 and facts.standard_error < 0.2)
  t.equal(facts.form, "difference")
  for _, form in ipairs { "difference", "activation" } do
    local _, layer = of(x, "conv2", { samples = 20, form = form }, { model = model })
    t.equal({ layer[1].facts.completeness_gap, layer[1].facts.form, layer[1].facts.base },
      { "not applicable", form, nil })
  end
end)

t.test("where the network is linear from the layer on, the layer's difference form is complete", function()
  local scope <close> = core.memory.scope() -- luacheck: ignore
  local x, model = tiny.images():narrow(0, 1, 1), tiny.model("float64")
  local one = background():narrow(0, 0, 1)
  -- mean and a linear layer follow
  local map = of(x, "relu2", { samples = 10, background = one }, { model = model, target = "nodule" })
  local y = torch.no_grad(model, torch.cat({ x, one }, 0)):select(1, 1):tolist()
  t.near(map:sum():item(), y[1] - y[2], 1e-10)
end)

t.test("softmax outputs and contrasts", function()
  local scope <close> = core.memory.scope() -- luacheck: ignore
  local x, model = tiny.images():narrow(0, 0, 1), tiny.model("float64")
  local map, extras = of(x, "x", { samples = 3000 }, { model = model, target = { 2, as = "softmax" } })
  local p = torch.softmax(torch.no_grad(model, torch.cat({ x, background() }, 0)), 1):select(1, 2):tolist()
  local base = 0
  for k = 2, 6 do base = base + p[k] / 5 end
  t.ok(math.abs(map:sum():item() - (p[1] - base)) < 0.2 * math.abs(p[1] - base))
  t.near(extras[1].facts.output[3] + extras[1].facts.output[2] + extras[1].facts.output[1], 1, 1e-12)
  local contrast, more = of(x, "x", { samples = 50 }, { model = model, target = "contrast(0, 2)" })
  local place = {}
  for k, name in ipairs(more[1].facts.classes) do place[name] = k - 1 end
  t.ok(distance(contrast[0], more[1].arrays.outputs[place.clear] - more[1].arrays.outputs[place.opacity]) < 1e-15)
end)

t.test("neither the chunk nor the company of an image changes its map; seeds and images draw apart", function()
  local scope <close> = core.memory.scope() -- luacheck: ignore
  local x, model = tiny.images(), tiny.model("float64")
  local whole = shapdump.context(x, { model = model, layer = "relu1" })
  local both = { [1] = shapdump.map(method, whole:single(2), { samples = 41, background = background() })[0] }
  local second = x:narrow(0, 1, 1)
  local alone = of(second, "relu1", { samples = 41 },
    { model = model, items = { { id = "image 2" } }, deterministic = true })
  t.ok(distance(both[1], alone[0]) < 1e-13)
  local small = of(second, "relu1", { samples = 41 },
    { model = model, items = { { id = "image 2" } }, budget_bytes = 1 })
  t.ok(distance(both[1], small[0]) < 1e-13)
  t.ok(distance(both[1], of(second, "relu1", { samples = 41 },
    { model = model, items = { { id = "image 2" } }, seed = 8 })[0]) > 1e-5)
  t.ok(distance(both[1], of(second, "relu1", { samples = 41 }, { model = model })[0]) > 1e-5)
end)

t.test("the first samples of a longer run are those of a shorter one", function()
  local scope <close> = core.memory.scope() -- luacheck: ignore
  local x, model = tiny.images():narrow(0, 0, 1), tiny.model("float64")
  local short, long = of(x, "relu1", { samples = 30 }, { model = model }),
    select(2, of(x, "relu1", { samples = 60 }, { model = model }))
  t.near(long[1].facts.change_half, (of(x, "relu1", { samples = 60 }, { model = model }) - short):abs():sum():item()
    / of(x, "relu1", { samples = 60 }, { model = model }):abs():sum():item(), 1e-9)
end)

t.test("a background of another shape, of an unknown name, or without a training split is refused", function()
  local x = tiny.images():narrow(0, 0, 1)
  local function go(given, split)
    return function() of(x, "relu1", { background = given, samples = 4 }, { split = split }) end
  end
  t.fails(go(torch.zeros(2, 3, 20, 32, { dtype = "float64" })),
    "shap_gradient: the background does not fit the images (expected (N, 3, 21, 32), got (2, 3, 20, 32)).")
  t.fails(go(torch.zeros(3, 21, 32, { dtype = "float64" })),
    "shap_gradient: the background does not fit the images (expected (N, 3, 21, 32), got (3, 21, 32)).")
  t.fails(function() method.check { background = "trian" } end,
    "shap_gradient: unknown background 'trian'. Did you mean 'train'?")
  t.fails(go("train", tiny.split(3)), "shap_gradient: these data have no training split for the background. Use "
    .. "background = 'split', or give a tensor (N, 3, H, W).")
end)

t.test("a network that gives NaN makes the map NaN", function()
  local scope <close> = core.memory.scope() -- luacheck: ignore
  local model = tiny.model("float64")
  model:state()[1].tensor:detach():fill_(0 / 0)
  local x = tiny.images():narrow(0, 0, 1)
  local target = require "medxai.explain.target"
  local raw = of(x, "x", { samples = 4 },
    { model = model, targets = target.fix(target.parse(1, tiny.classes), torch.zeros(1, 3), { {} }, tiny.classes) })
  t.ok(raw:isnan():all():item())
end)
