-- The SHAP methods against shap 0.51 on real networks and images, with MEDXAI_SHAP_DIR = what shap_values.py wrote from
-- the networks in MEDXAI_LIME_DIRS (skipped without them; MEDXAI_PARITY_NETWORKS chooses). Partition and Kernel from
-- recorded outputs (noise would reorder near ties): values within 1e-6 of the largest, and every box of the hierarchy
-- within 1e-6 of the output difference; end to end within 1e-3 of the largest (Kernel: of the values in float64, or 4
-- times shap's own float32 error; Partition: where near ties were taken in the same order, else without evidence).
-- Gradients in float64 within 1e-6, in float32 within 1e-4 of the largest or 4 times shap's own float32 error. Fails
-- where a cell fails or a mutant passes; the last line counts.
local t = require "t"
local host = require "medxai.host"
local core = require "medxai.core"
local context = require "medxai.explain.context"
local Options = require "medxai.base.options"
local files = require "medxai.base.files"
local hide = require "medxai.perturb.compose"
local kernel = require "medxai.explain.shap_kernel_math"
local removal = require "medxai.perturb.removal"
local scorer = require "medxai.perturb.scorer"
local store = require "medxai.nn.checkpoint"
local target = require "medxai.explain.target"
local torch = require "medxai.torch"
local xai = require "medxai"

local dumps, sources = os.getenv "MEDXAI_SHAP_DIR", os.getenv "MEDXAI_LIME_DIRS"
local only = os.getenv "MEDXAI_PARITY_NETWORKS"
local order = { "squeezenet1_0", "mobilenet_v2", "efficientnet_b0", "densenet121", "resnet50", "inception_v3", "vgg19" }
local classes = { "a", "b", "c" }
local count = { passed = 0, failed = 0, none = 0, mutants = 0, mutants_passed = 0 }

local function largest(x) return x:abs():max():item() end
local function off(a, b) return largest(a:to { dtype = "float64" } - b:to { dtype = "float64" }) end

local function cell(label, verdict, text)
  count[verdict] = count[verdict] + 1
  print(("  %-34s %-6s %s"):format(label, verdict == "none" and "no evidence" or verdict, text))
end

-- error beside its bound; none where the reference says nothing.
local function within(label, error_here, bound, evidence)
  local verdict = not evidence and "none" or error_here <= bound and "passed" or "failed" -- NaN fails
  cell(label, verdict, ("%.1e (allowed %.1e)"):format(error_here, bound))
end

local function mutant(error_here, bound, evidence)
  if not evidence then return end
  count.mutants = count.mutants + 1
  if error_here <= bound then count.mutants_passed = count.mutants_passed + 1 end
end

-- ---- Partition ------------------------------------------------------------------------------------------------------

local function ranked(row)
  local list = { 0, 1, 2 }
  table.sort(list, function(a, b) return row[a + 1] > row[b + 1] end)
  return list
end

-- The largest |sum of a - sum of b| over all boxes of the hierarchy down to 64 pixels; planes (k, H, W).
local function box_distance(a, b)
  local difference = (a - b):cumsum(1):cumsum(2)
  local h, w = a:size(1), a:size(2)
  local padded = torch.zeros({ a:size(0), h + 1, w + 1 }, { dtype = "float64" })
  padded[{ { 0, a:size(0) }, { 1, h + 1 }, { 1, w + 1 } }]:copy_(difference)
  local worst = 0
  local function look(y0, y1, x0, x1)
    local sum = padded[{ { 0, a:size(0) }, y1, x1 }] - padded[{ { 0, a:size(0) }, y0, x1 }] - padded[{ { 0, a:size(0) },
      y1, x0 }] + padded[{ { 0, a:size(0) }, y0, x0 }]
    worst = math.max(worst, largest(sum))
    if (y1 - y0) * (x1 - x0) <= 64 then return end
    if y1 - y0 >= x1 - x0 then
      local middle = y0 + (y1 - y0 + 1) // 2
      look(y0, middle, x0, x1)
      look(middle, y1, x0, x1)
    else
      local middle = x0 + (x1 - x0 + 1) // 2
      look(y0, y1, x0, middle)
      look(y0, y1, middle, x1)
    end
  end
  look(0, h, 0, w)
  return worst
end

-- Our hierarchy and queue over recorded outputs: planes (k, H, W), and how many masks were not among those recorded.
local function replay(shape, masks, outputs, ranks, evals)
  local known, lost = {}, 0
  for i, digest in ipairs(masks) do known[digest] = i - 1 end
  local index = torch.tensor(ranks, { dtype = "int64" })
  local engine <close> = core.partition.new { size = { shape[2], shape[3], shape[1] }, outputs = 3, budget = evals - 2,
    queue_batch = 32, context = -1 }
  local picked = outputs:index_select(1, index):contiguous()
  engine:start(picked[0]:contiguous(), picked[1]:contiguous())
  while true do
    local scope <close> = core.memory.scope()
    local boxes = engine:ask()
    if not boxes then break end
    local keep, rows = hide.boxes(boxes, shape[1], shape[2], shape[3], "cpu"), {}
    for i = 0, boxes:size(0) - 1 do
      local mask = keep[i]:expand { shape[1], shape[2], shape[3] }:to { dtype = "uint8" }:contiguous()
      local at = known[files.sha256(mask:data_string())]
      if not at then lost = lost + 1 end
      rows[i + 1] = at or 0
    end
    engine:tell(picked:index_select(0, torch.tensor(rows, { dtype = "int64" })):contiguous())
  end
  return engine:values():sum({ 1 }), lost
end

local function context_of(model, x, layer, seed)
  local logits = torch.no_grad(model, x)
  local items = { { id = "parity", number = 1 } }
  return context.new { pass = { logits = logits }, x = x, items = items, views = { { identity = true } },
    targets = target.fix(target.parse("predicted", classes), logits, items, classes),
    model = model, height = x:size(2), width = x:size(3), seed = seed or 7, budget_bytes = 1 << 28,
    scorer = scorer.new(model), layer = layer }
end

local function explain(name, ctx, options)
  local method = require("medxai.explain.methods." .. name)
  local o = Options.check(name, options, method.options)
  method.check(o)
  local raw, extras = method.map(ctx, ctx.x, ctx.targets, o)
  return raw, extras[1]
end

local function one_partition(model, x, i, dump, masks, evals)
  local scope <close> = xai.scope()
  local label, truth, outputs = "partition, image " .. i, dump[("partition%d.values"):format(i)]:permute { 2, 0, 1 },
    dump[("partition%d.outputs"):format(i)]
  local blurred = removal.parse("blur(128,128)"):background(x, {})
  within(label .. ", its blur", off(blurred[0], dump[("partition%d.background"):format(i)]), 2e-6, true)
  local ranks = ranked(outputs[1]:tolist())
  local shape, top = { x:size(1), x:size(2), x:size(3) }, largest(truth)
  local difference = largest(outputs[1] - outputs[0])
  local evidence = difference >= 1e-3 and truth:abs():sum():item() >= 1e-3
  local mine, lost = replay(shape, masks, outputs, ranks, evals)
  within(label, lost > 0 and math.huge or off(mine, truth) / top, 1e-6, evidence)
  within(label .. ", boxes", box_distance(mine, truth) / difference, 1e-6, evidence)
  mutant(off(mine:flip({ 1 }), truth) / top, 1e-6, evidence)
  mutant(off(replay(shape, masks, outputs, { ranks[2], ranks[3], ranks[1] }, evals), truth) / top, 1e-6, evidence)
  local whole = select(2, explain("shap_partition", context_of(model, x), { evals = evals }))
  local error_here = off(whole.arrays.outputs, truth) / top
  if error_here <= 1e-3 then cell(label .. ", end to end", evidence and "passed" or "none",
      ("%.1e (allowed 1.0e-03)"):format(error_here))
  else cell(label .. ", end to end", "none", ("%.1e: near ties were taken in another order"):format(error_here)) end
end

-- ---- Kernel ---------------------------------------------------------------------------------------------------------

local function one_kernel(model, x, i, dump, kind, samples, l1_reg)
  local scope <close> = xai.scope()
  local name = kind .. i
  local label, truth = ("%s, image %d"):format(kind, i), dump[name .. ".values"]:t()
  local ends, labels = dump[name .. ".ends"]:tolist(), dump[name .. ".labels"]
  local m = labels:max():item() + 1
  local plan = kernel.plan(m, samples, kernel.numpy_draws(42 + i))
  local masks = kernel.matrix(plan, m)
  local used = #plan.masks
  within(label .. ", masks", masks:ne(dump[name .. ".masks"]:narrow(0, 0, used)):sum():item(), 0, true)
  local outputs, options = dump[name .. ".outputs"]:narrow(0, 0, used), { l1_reg = l1_reg, scaling = "deviation" }
  local both = { base = ends[1], output = ends[2] }
  local fitted = kernel.fit(plan, m, outputs, both, options).values
  local top, evidence = largest(truth), largest(truth) >= 1e-3
  within(label, off(fitted, truth) / top, 1e-6, evidence)
  mutant(off(fitted:roll({ 1 }, { 0 }), truth) / top, 1e-6, evidence)
  mutant(off(kernel.fit(plan, m, outputs:roll({ 1 }, { 0 }), both, options).values, truth) / top, 1e-6, evidence)
  if kind ~= "kernel" then return end
  -- end to end: against the network in float64, whose values both sides miss by their own rounding
  local function whole(dtype)
    model:to { dtype = dtype }
    local _, extra = explain("shap_kernel", context_of(model, x:to { dtype = dtype }, nil, 42 + i),
      { samples = samples, regions = function() return labels end, rng = "numpy", l1_reg = l1_reg })
    model:to { dtype = "float32" }
    local place = {}
    for k, class in ipairs(extra.facts.classes) do place[class] = k - 1 end
    return torch.stack({ extra.arrays.values[place.a], extra.arrays.values[place.b], extra.arrays.values[place.c] }, 0)
  end
  local exact = whole "float64"
  within(label .. ", end to end", off(whole "float32", exact) / top, math.max(1e-3, 4 * off(truth, exact) / top),
    evidence)
end

-- ---- Gradient -------------------------------------------------------------------------------------------------------

local function one_gradient(model, x, background, name, layer, samples, seed, dump, form)
  local truth, single = dump[name .. ".values64"]:permute { 2, 0, 1 }, dump[name .. ".values32"]:permute { 2, 0, 1 }
  local top, own = largest(truth), off(dump[name .. ".values32"], dump[name .. ".values64"])
  local evidence = top >= 1e-5
  local function of(dtype, f)
    local scope <close> = xai.scope()
    model:to { dtype = dtype }
    local _, extra = explain("shap_gradient", context_of(model, x:to { dtype = dtype }, layer, seed),
      { samples = samples, background = background:to { dtype = dtype }, rng = "numpy", form = f or form })
    model:to { dtype = "float32" }
    return scope:keep(extra.arrays.outputs)
  end
  local double = of "float64"
  within(name .. " in float64", off(double, truth) / top, 1e-6, evidence)
  mutant(off(double:flip({ 2 }), truth) / top, 1e-4, evidence)
  mutant(off(double:roll({ 1 }, { 0 }), truth) / top, 1e-4, evidence)
  local made = of "float32"
  if layer == "x" then -- discontinuous through the rectifiers: relative L2
    local function l2(a) return (a - truth):square():sum():sqrt():item() / truth:square():sum():sqrt():item() end
    within(name .. ", relative L2", l2(made), math.max(1e-3, 4 * l2(single)), evidence)
  else
    within(name, off(made, truth) / top, math.max(1e-4, 4 * own / top), evidence)
    mutant(off(of("float64", "difference"), truth) / top, 1e-4, evidence)
  end
end

-- ---- networks -------------------------------------------------------------------------------------------------------

local function one_network(name)
  local scope <close> = xai.scope()
  print(name)
  local folder, source = dumps .. "/" .. name, sources .. "/" .. name
  if not files.exists(folder .. "/masks.lua") then
    print("  no finished dump in " .. folder)
    count.failed = count.failed + 1
    return
  end
  local masks, dump = dofile(folder .. "/masks.lua"), {}
  for _, entry in ipairs(store.load(folder .. "/shap.pt").tensors) do dump[entry.name] = entry.tensor end
  local model = xai.models[name] { classes = classes, head = "torchvision", layout = "nchw", train_depth = "all" }
  model:load_state(store.load(source .. "/weights.pt").tensors, { what = source })
  model:eval()
  local xs = {}
  for i = 0, 4 do xs[i] = torch.load_npy(("%s/x%d.npy"):format(source, i)) end
  for _, i in ipairs { 0, 1, 3, 4 } do one_partition(model, xs[i], i, dump, masks[i], masks.evals) end
  for i = 0, 4 do
    one_kernel(model, xs[i], i, dump, "kernel", 70, "num_features(10)")
    one_kernel(model, xs[i], i, dump, "aic", 40, "aic")
  end
  local background = torch.cat({ xs[1], xs[2], xs[3] }, 0)
  for _, i in ipairs { 0, 3 } do
    one_gradient(model, xs[i], background, "layer" .. i, masks.layer, 12, 7 + i, dump, "activation")
  end
  one_gradient(model, xs[0], background, "input0", "x", 6, 7, dump, "difference")
  if host.interrupted() then error("interrupted", 0) end
end

t.test("SHAP on real networks equals shap's", function()
  if not dumps or not sources then t.skip "MEDXAI_SHAP_DIR or MEDXAI_LIME_DIRS is not set" end
  local was_quiet = host.options.quiet
  host.options.quiet = true
  for _, name in ipairs(order) do
    if not only or only:find(name, 1, true) then one_network(name) end
  end
  host.options.quiet = was_quiet
  print(("mutants: %d, of which %d passed where they must fail"):format(count.mutants, count.mutants_passed))
  print(("%d cells passed, %d failed, %d without evidence"):format(count.passed, count.failed, count.none))
  t.ok(count.failed == 0 and count.mutants_passed == 0 and count.mutants > 0, "the table above has failures")
end)
