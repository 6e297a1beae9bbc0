-- LIME against lime 0.2.0.1 (tests/reference/perturb_lime.py --small): its draws for a seed, coefficients, intercepts,
-- scores and local predictions of every feature selection from the recorded outputs, its pictures and outlines to the
-- last bit.
local t = require "t"
local coalitions = require "medxai.explain.lime_design"
local core = require "medxai.core"
local pictures = require "medxai.show.lime_figures"
local random = require "medxai.tensor.random"
local regions = require "medxai.perturb.regions"
local surrogate = require "medxai.explain.lime_surrogate"
local torch = require "medxai.torch"

local here = t.root .. "/tests/reference/lime/"
local cases = dofile(here .. "expected.lua")

local function load(name, seed) return torch.load_npy(here .. name .. (seed or "") .. ".npy") end

local function columns(outputs, labels)
  local list = {}
  for i, l in ipairs(labels) do list[i] = outputs:narrow(1, l.label, 1) end
  return torch.cat(list, 1)
end

t.test("numpy's draws give lime's samples, its first draw left out", function()
  for _, case in ipairs(cases) do
    local masks, generator = load("masks", case.seed), random.numpy_random_state(case.seed)
    generator:randint(0, 1000, 1)
    t.ok(coalitions.draw_numpy(generator, case.samples, masks:size(1)):eq(masks):all():item())
  end
end)

t.test("the labels explained are those with the largest answers, in lime's order", function()
  for _, case in ipairs(cases) do
    local first, labels = load("outputs", case.seed):select(0, 0):tolist(), {}
    for i, l in ipairs(case.labels) do labels[i] = first[l.label + 1] end
    t.ok(labels[1] > labels[2] and labels[2] > labels[3])
    for _, v in ipairs(first) do t.ok(v <= labels[1]) end
  end
end)

for _, case in ipairs(cases) do
  t.test(("seed %d, %s, %d features: weights, intercept, score, local prediction as lime's"):format(case.seed,
    case.mode, case.num_features), function()
    local outputs = load("outputs", case.seed)
    local made = surrogate.explain(load("masks", case.seed):double(), columns(outputs, case.labels),
      { kernel_width = 0.25, num_features = case.num_features, feature_selection = case.mode, alpha = 1 })
    for i, l in ipairs(case.labels) do
      local features, weights, largest = {}, {}, math.abs(l.weights[1])
      for k, f in ipairs(made[i].weights) do features[k], weights[k] = f.feature, f.weight end
      t.equal(features, l.features)
      t.near(weights, l.weights, 1e-12 * largest)
      t.near({ made[i].intercept, made[i].score, made[i].local_prediction },
        { l.intercept, l.score, l.local_prediction }, 1e-12)
    end
  end)
end

t.test("a mutant, the class shifted by one, has other weights", function()
  local case = cases[1]
  local made = surrogate.explain(load("masks", case.seed):double(),
    columns(load("outputs", case.seed), { case.labels[2] }),
    { kernel_width = 0.25, num_features = 100, feature_selection = "auto", alpha = 1 })
  t.ok(math.abs(made[1].weights[1].weight - case.labels[1].weights[1]) > 1e-3 * math.abs(case.labels[1].weights[1]))
end)

local function digest(tensor) return core.image.sha256(tensor:contiguous():data_string()) end

t.test("get_image_and_mask and mark_boundaries give lime's pictures to the last bit", function()
  local image, seen = load "image", 0
  for _, case in ipairs(cases) do
    local labels, weights, l = load("segments", case.seed), {}, case.labels[2]
    for k = 1, #l.features do weights[l.features[k] + 1] = l.weights[k] end
    for _, p in ipairs(case.pictures) do
      local picture, mask = pictures.image_and_mask(image, labels, weights, p.options)
      t.equal({ digest(picture), digest(mask) }, { p.image, p.mask })
      t.equal(digest(regions.mark_boundaries(picture, mask)), p.plain)
      t.equal(digest(regions.mark_boundaries(picture, mask, { compat = "scikit-image" })), p.wrapped)
      seen = seen + 1
    end
  end
  t.equal(seen, 14)
end)

t.test("image_and_mask refuses both signs at once", function()
  t.fails(function()
    pictures.image_and_mask(torch.zeros(3, 2, 2), torch.zeros(2, 2), { 1 }, { negative_only = true })
  end,
    "image_and_mask: positive_only and negative_only exclude each other.")
end)
