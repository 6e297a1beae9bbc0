-- Grad-CAM against pytorch-grad-cam 1.5.7 in float64 (dumps made by tests/reference/gradcam.py --tiny), and the rules
-- that every map obeys.
local t = require "t"
local tiny = require "tinyexplain"
local torch = require "medxai.torch"
local map = require "medxai.explain.map"
local tap = require "medxai.explain.forward_pass"
local target = require "medxai.explain.target"
local gradcam = require "medxai.explain.methods.gradcam"

local here = t.root .. "/tests/reference/"

-- Maps (N, H, W) of the tiny network; change may replace the gradient or the targets.
local function tiny_maps(compat, change)
  local model = tiny.model("float64")
  local x = tiny.images()
  local pass = tap.open(model, x, { layers = { "conv2" }, gradients = { "conv2" }, aliased = compat ~= nil })
  local description = target.parse(change and change.class or "predicted", tiny.classes)
  local targets = target.fix(description, pass.logits, { {}, {} }, tiny.classes)
  local ctx = {
    activation = function() return pass:activation("conv2", compat) end,
    combine = function(_, product) return product:sum({ 1 }) end,
    gradient = function()
      local g = pass:gradient("conv2", targets)
      return change and change.gradient and change.gradient(g) or g
    end,
  }
  return map.from_raw({ gradcam.map(ctx) }, 21, 32)
end

local function distance(a, b) return (a:to { dtype = "float64" } - b:to { dtype = "float64" }):abs():max():item() end

t.test("Grad-CAM equals pytorch-grad-cam with rectifiers out of place", function()
  t.ok(distance(tiny_maps(nil), torch.load_npy(here .. "gradcam_tiny_out.npy")) < 1e-5)
end)

t.test("compat = pytorch-grad-cam equals the reference as it is, with its activation after the rectifier "
  .. "in place", function()
  t.ok(distance(tiny_maps("pytorch-grad-cam"), torch.load_npy(here .. "gradcam_tiny_asis.npy")) < 1e-5)
end)

t.test("the mutants fail: channels of the gradient turned round, class shifted by one, forms swapped", function()
  local truth = torch.load_npy(here .. "gradcam_tiny_out.npy")
  t.ok(distance(tiny_maps(nil, { gradient = function(g) return g:flip({ 1 }) end }), truth) > 1e-2)
  t.ok(distance(tiny_maps(nil, { class = 2 }), truth) > 1e-2)
  t.ok(distance(tiny_maps("pytorch-grad-cam"), truth) > 1e-2)
end)

t.test("one forward and one backward serve two layers, nested ones too", function()
  local model = tiny.model("float64")
  local x = tiny.images()
  local pass = tap.open(model, x, { gradients = { "conv2", "conv1" } })
  local targets = target.fix(target.parse("predicted", tiny.classes), pass.logits, { {}, {} }, tiny.classes)
  local g1, g2 = pass:gradient("conv1", targets), pass:gradient("conv2", targets)
  t.equal(pass.backwards, 1)
  local alone = tap.open(model, x, { gradients = { "conv1" } })
  t.ok(distance(alone:gradient("conv1", targets), g1) < 1e-12)
  alone = tap.open(model, x, { gradients = { "conv2" } })
  t.ok(distance(alone:gradient("conv2", targets), g2) < 1e-12)
end)

t.test("a map is min-maxed before it is resized, bilinearly with half-pixel centres, and again after", function()
  local raw = torch.tensor({ { { -1.0, 0.0 }, { 1.0, 3.0 } } })
  local m = map.from_raw({ raw }, 4, 4)
  local small = { { 0, 0 }, { 1 / 3, 1 } }
  local function at(y, x) -- bilinear by hand
    local function axis(v) v = math.min(math.max((v + 0.5) / 2 - 0.5, 0), 1) return v end
    local fy, fx = axis(y), axis(x)
    return (1 - fy) * ((1 - fx) * small[1][1] + fx * small[1][2]) + fy * ((1 - fx) * small[2][1] + fx * small[2][2])
  end
  local expected = {}
  for y = 0, 3 do
    expected[y + 1] = {}
    for x = 0, 3 do expected[y + 1][x + 1] = at(y, x) end
  end
  t.near(m:squeeze(0), expected, 1e-6)
end)

t.test("statuses: ok, flat, all negative, not a number; what is flat is so by its own scale", function()
  local raw = torch.tensor({ { { 0.0, 1.0 } }, { { 2.0, 2.0 } }, { { -2.0, -1.0 } }, { { 0 / 0, 1.0 } },
    { { 1e-30, 0.0 } }, { { math.huge, 1.0 } }, { { 5e6, 5e6 + 4 } }, { { 5e-9, 5.01e-9 } }, { { 0.0, 0.0 } } })
  local function judged(how)
    local maps, statuses = map.from_raw({ raw }, 1, 2, how), {}
    for i, j in ipairs(map.judge({ raw }, maps, how)) do statuses[i] = j.status end
    return statuses, maps
  end
  local statuses, maps = judged()
  t.equal(statuses, { "ok", "flat", "all_negative", "nan", "ok", "nan", "flat", "ok", "flat" })
  for i, row in pairs { [1] = { 0, 0 }, [4] = { 1, 0 }, [6] = { 0, 0 }, [7] = { 0, 1 } } do
    t.equal(maps[i]:tolist(), { row })
  end
  local compat = judged { compat = "pytorch-grad-cam" }
  t.equal(compat, { "ok", "flat", "all_negative", "nan", "flat", "nan", "ok", "flat", "flat" })
end)

t.test("targets: predicted, true, class by name or index, contrast, softmax", function()
  local logits = torch.tensor({ { 1.0, 3.0, 2.0 }, { 2.0, 0.0, 1.0 } })
  local items = { { label = 2 }, { label = 0 } }
  local function scores(spec)
    return target.fix(target.parse(spec, tiny.classes), logits, items, tiny.classes):score(logits):tolist()
  end
  t.near(scores("predicted"), { 3, 2 }, 0)
  t.near(scores("true"), { 2, 2 }, 0)
  t.near(scores("nodule"), { 3, 0 }, 0)
  t.near(scores(2), { 2, 1 }, 0)
  t.near(scores("contrast(opacity, nodule)"), { -1, 1 }, 0)
  local e = { math.exp(1), math.exp(3), math.exp(2) }
  t.near(scores { "nodule", as = "softmax" }[1], e[2] / (e[1] + e[2] + e[3]), 1e-6)
  local fixed = target.fix(target.parse("predicted", tiny.classes), logits, items, tiny.classes)
  t.equal({ fixed[1].class, fixed[2].class, fixed[1].logit, fixed[2].predicted }, { "nodule", "clear", 3.0, 0 })
end)

t.test("targets that do not exist are refused by name", function()
  t.fails(function() target.parse("nodul", tiny.classes) end,
    "explain: unknown target 'nodul'. Write predicted, true, contrast(a, b) or a class: clear, nodule, opacity. Did "
    .. "you mean 'nodule'?")
  t.fails(function() target.parse(3, tiny.classes) end,
    "explain: target class 3 is out of range (the model has classes 0 to 2: clear, nodule, opacity).")
  t.fails(function() target.parse("contrast(clear, clear)", tiny.classes) end,
    "explain: a contrast needs two different classes (got 'clear' twice).")
  t.fails(function() target.parse("contrast(clear)", tiny.classes) end,
    "explain: a contrast has two classes (expected contrast(a, b), got 'contrast(clear)').")
  t.fails(function()
    target.fix(target.parse("true", tiny.classes), torch.zeros(1, 3), { { path = "a.png" } }, tiny.classes)
  end,
    "explain: target 'true' needs a label, but 'a.png' has none.")
end)

t.test("the baselines: a centred blob, the reference's Sobel, noise keyed by the image", function()
  local items = { { id = "a" }, { id = "b" } }
  local x = tiny.images():to { dtype = "float32" }
  local ctx = { count = 2, height = 21, width = 32, items = items, seed = 7, image = function() return x end }
  local blob = require("medxai.explain.methods.center_blob").map(ctx)
  t.equal(blob.shape, { 2, 21, 32 })
  t.near(blob[{ 0, 10, 16 }]:item(), math.exp(-0.5 * (0.5 / 8) ^ 2), 1e-6)
  t.near(blob[{ 1, 10, 0 }]:item(), math.exp(-0.5 * (15.5 / 8) ^ 2), 1e-6)
  local random = require "medxai.explain.methods.random_smooth"
  local both = random.map(ctx)
  t.near({ both:min():item(), both:max():item() }, { 0, 1 }, 1e-6)
  ctx.items, ctx.count = { items[2] }, 1
  t.ok(distance(random.map(ctx):squeeze(0), both[1]) == 0, "an image's noise depends on its batch")
end)

t.test("Sobel by hand: a step edge gives min(4 * step, 255) / 2, borders mirrored", function()
  local x = torch.zeros(1, 3, 3, 4)
  x[{ { 0, 1 }, { 0, 3 }, { 0, 3 }, { 2, 4 } }]:fill_(10 / 255)
  local s = require("medxai.explain.methods.sobel").map { image = function() return x end }
  -- grey of (10, 10, 10) is 10; dx = 40 at the columns beside the step
  t.near(s:squeeze(0), { { 0, 20, 20, 0 }, { 0, 20, 20, 0 }, { 0, 20, 20, 0 } }, 0)
end)

t.test("energy inside and the pointing game by hand", function()
  local energy, pointing = require "medxai.score.metrics.energy_inside", require "medxai.score.metrics.pointing_game"
  local m = torch.tensor({ { 0.0, 1.0, 0.0 }, { 0.0, 3.0, 0.0 } })
  local mask = torch.tensor({ { 0, 0, 0 }, { 0, 1, 0 } }, { dtype = "uint8" })
  local value, chance = energy.measure(m, { mask = mask })
  t.near({ value, chance }, { 0.75, 1 / 6 }, 1e-9)
  t.equal({ energy.measure(m, { mask = torch.zeros(2, 3) }) }, { nil, nil, "empty mask" })
  t.equal(select(3, energy.measure(torch.zeros(2, 3), { mask = mask })), "map without energy")
  t.near({ pointing.measure(m, { mask = mask }, { margin_px = 0 }) }, { 1, 1 / 6 }, 1e-6)
  t.near({ pointing.measure(m:flip({ 0 }), { mask = mask }, { margin_px = 0 }) }, { 0, 1 / 6 }, 1e-6)
  t.near({ pointing.measure(m:flip({ 0 }), { mask = mask }, { margin_px = 1 }) }, { 1, 1 }, 1e-6)
  t.equal(select(3, pointing.measure(torch.ones(2, 3), { mask = mask }, { margin_px = 0 })), "map without a maximum")
end)

