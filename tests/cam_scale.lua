-- No number of an explanation has a scale of its own: a target made smaller gives the same map, a probability near 1
-- the map of its float64 truth; where it is so near that nothing can be told from it, the map is "saturated" in every
-- place.
local t = require "t"
local tiny = require "tinyexplain"
local tinycam = require "tinycam"
local torch = require "medxai.torch"
local context = require "medxai.explain.context"
local core = require "medxai.core"
local explain = require "medxai.steps.explain"
local host = require "medxai.host"
local mapstore = require "medxai.explain.store"
local tap = require "medxai.explain.forward_pass"
local target = require "medxai.explain.target"

local was_quiet = host.options.quiet
host.options.quiet = true

-- The small network with its outputs times a number; surer: added to the predicted class' logit of the first image.
local function network(dtype, factor, surer)
  local model = tinycam.model("relu", "float64")
  local top = torch.no_grad(model, tinycam.images()):argmax(1)[0]:item()
  torch.no_grad(function()
    for _, p in ipairs(model:parameters()) do
      if p.name:find "^fc2" then p.tensor:mul_(factor or 1) end
      if p.name == "fc2.bias" and surer then p.tensor:select(0, top):add_(surer) end
    end
  end)
  return model:to { dtype = dtype or "float32" }, top
end

local grid = { "grid", rows = 4, columns = 5 }

local function go(model, options)
  local scope <close> = core.memory.scope()
  local run = tiny.run(t.tmpdir())
  local o = { images = { 1 }, figures = false, layer = "features.3" }
  for k, v in pairs(options) do o[k] = v end
  local result = explain.run(run, model, tiny.tensor_split(tinycam.images():to { dtype = model.dtype }), o)
  return result, mapstore.open(run.dir), run
end

local function opened(model)
  return tap.open(model, tinycam.images():narrow(0, 0, 1), { layers = { "features.3" }, gradients = { "features.3" } })
end

local function targets_of(pass, spec)
  return target.fix(target.parse(spec, tinycam.classes), pass.logits, { {} }, tinycam.classes)
end

t.test("a target 2^60 times smaller gives the same maps", function()
  local methods = { "gradcam", "hirescam", "gradcam_elementwise", "xgradcam", "layercam", "eigengradcam", "ablationcam",
    "fullgrad", "saliency", "input_x_gradient", "integrated_gradients", "smoothgrad", "guided_backprop",
    "guided_gradcam", { "gradcam", eigen_smooth = true }, { "gradcam", aug_smooth = true },
    { "gradcam", layer = { "features.3", "features.6" } },
    { "lime", target = { "predicted", as = "logit" }, samples = 60, regions = grid },
    { "shap_kernel", samples = 60, regions = grid }, { "shap_kernel", samples = 60, regions = grid, l1_reg = "aic" },
    { "shap_partition", evals = 60 }, { "shap_gradient", samples = 20, background = torch.zeros(1, 3, 24, 34) } }
  local usual, maps = go(network("float32", 1), { methods = methods })
  local small, small_maps = go(network("float32", 0x1p-60), { methods = methods })
  for k, record in ipairs(usual.records) do
    t.equal({ record.status, small.records[k].status }, { "ok", "ok" }, record.method)
    -- a power of two: the same to the last bit, but for eigenvectors
    local off = (maps:map(record) - small_maps:map(small.records[k])):abs():max():item()
    t.ok(off <= 1e-5, string.format("%s differs by %.2g", record.method, off))
  end
end)

t.test("Grad-CAM++ of faint gradients: every positive one counts half, eq. 19's limit", function()
  local model = network("float64", 1e-9)
  local result, maps = go(model, { methods = { "gradcam_plus_plus" } })
  local pass = opened(model)
  local g, a = pass:gradient("features.3", targets_of(pass, "predicted")), pass:activation("features.3")
  local by_hand = ((g:relu() / 2):sum({ 2, 3 }, true) * a):sum({ 1 }):squeeze(0)
  t.ok(((maps:raws(result.records[1])[1] - by_hand):abs():max() / by_hand:abs():max()):item() < 1e-6)
end)

t.test("channels that cancel leave zero, not the rounding of their sum; compat leaves it", function()
  local a = torch.randn(1, 3, 5, 5)
  local product = torch.cat({ a, a * -1 * (1 + 0x1p-23) }, 1)
  local function largest(fields, p)
    fields.x = p
    return context.new(fields):combine(p):abs():max():item()
  end
  t.equal(largest({}, product), 0.0)
  t.ok(largest({ compat = "pytorch-grad-cam" }, product) > 0)
  t.ok(largest({}, torch.cat({ product, a * 1e-4 }, 1)) > 0)
end)

-- The gradient of a probability by hand, in float64: the other classes' probabilities weigh the gradients of the
-- differences to their logits.
local function truth(model, top)
  local pass = opened(model)
  local row, sum = pass.logits:tolist()[1], nil
  local shares, all = {}, 0.0
  for k, z in ipairs(row) do shares[k] = math.exp(z - row[top + 1]) end
  for _, s in ipairs(shares) do all = all + s end
  for k = 0, 2 do
    if k ~= top then
      local targets = targets_of(pass, ("contrast(%s, %s)"):format(tinycam.classes[top + 1], tinycam.classes[k + 1]))
      local g = pass:gradient("features.3", targets) * (shares[k + 1] / all / all)
      sum = sum and sum + g or g
    end
  end
  return (sum:mean({ 2, 3 }, true) * pass:activation("features.3")):sum({ 1 }):squeeze(0)
end

t.test("a probability within 1e-9, 1e-18, 1e-26 of 1: the raw map in float32 is that of float64, no "
  .. "map is flat", function()
  for _, surer in ipairs { 20, 40, 60 } do
    local exact, top = network("float64", 1, surer)
    local expected = truth(exact, top)
    local methods = { "gradcam", "ablationcam", "saliency", "integrated_gradients" }
    local result, maps = go(network("float32", 1, surer),
      { methods = methods, target = { "predicted", as = "softmax" } })
    for _, record in ipairs(result.records) do t.equal(record.status, "ok", record.method .. " at " .. surer) end
    local raw = maps:raws(result.records[1])[1]:double()
    -- a logit of up to 60 is known to 4e-6 in float32, and so is the logarithm of 1 - p
    t.ok(((raw - expected):abs():max() / expected:abs():max()):item() < 2e-5, "at " .. surer)
  end
end)

t.test("a contrast of probabilities and a class of almost none keep their digits too", function()
  local row = torch.tensor({ { 40.0, 0.0, 1.0 } }, { requires_grad = true })
  local items = { {} }
  local function gradient(spec)
    local z = row:detach():requires_grad_(true)
    local targets = target.fix(target.parse({ spec, as = "softmax" }, tinycam.classes), z, items, tinycam.classes)
    return torch.autograd.grad(targets:score(z):sum(), z)[1]:tolist()[1]
  end
  local q, e = math.exp(-40), math.exp(1)
  for k, v in ipairs { q * (1 + e), -q, -q * e } do t.near(gradient("clear")[k] / v, 1, 1e-6) end
  for k, v in ipairs { -q, q, -q * q * e } do t.near(gradient("nodule")[k] / v, 1, 1e-6) end
  for k, v in ipairs { q * (2 + e), -2 * q, -q * e } do t.near(gradient("contrast(clear, nodule)")[k] / v, 1, 1e-6) end
end)

t.test("nearer to 1 than float32 gradients reach, maps are saturated: empty, unscored, counted, "
  .. "without honesty", function()
  local lime = { "lime", samples = 60, regions = grid }
  local result, maps, run = go(network("float32", 1, 90), { target = { "predicted", as = "softmax" },
    methods = { "gradcam", "saliency", lime, "shap_partition", "scorecam", "ablationcam", "center_blob" },
    metrics = { { "confidence_change", as = "softmax" } } })
  local word = "saturated" -- but for Ablation-CAM, which takes differences of 1 - p in float64
  t.equal(tiny.statuses(result), { word, word, word, word, word, "ok", "ok" })
  for k = 1, 5 do t.equal(maps:map(result.records[k]):abs():max():item(), 0.0, result.records[k].method) end
  t.equal(result.summaries[1].undefined, { ["map is saturated"] = 1 })
  t.equal(result.statuses[4].honesty, nil)
  t.equal(run.warnings[1], "explain: Grad-CAM: 1 of 1 maps are saturated, p is too near 0 or 1 (saturated)")
  t.equal(require("medxai.explain.map").explain_status(word), "saturated: p is too near 0 or 1, explain the logit")
  local logits = go(network("float32", 1, 90), { methods = { "gradcam", "saliency", lime, "shap_partition" },
    target = { "predicted", as = "logit" } })
  t.equal(tiny.statuses(logits), { "ok", "ok", "ok", "ok" })
  local compat = go(network("float32", 1, 20), { methods = { "gradcam" }, target = { "predicted", as = "softmax" },
    compat = "pytorch-grad-cam" })
  t.equal(compat.records[1].status, "flat") -- in that library's 1e-7 it drowns
end)

t.test("integrated gradients of a certain image are not saturated where their way begins in doubt", function()
  local model = network "float32"
  local function fc2(what)
    for _, p in ipairs(model:parameters()) do
      if p.name == "fc2." .. what then return p.tensor end
    end
  end
  torch.no_grad(function() -- the answer is sure of the image, not of black
    fc2("bias"):sub_(model(torch.zeros(1, 3, 24, 34)):squeeze(0))
    fc2("weight"):mul_(1e4)
    fc2("bias"):mul_(1e4)
  end)
  local methods = { "gradcam", "integrated_gradients" }
  local result = go(model, { methods = methods, target = { "predicted", as = "softmax" } })
  t.ok(1 - result.records[1].target.probability < 1e-16)
  t.equal(tiny.statuses(result), { "saturated", "ok" })
end)

t.test("metrics of a probability near 1 count its change in 1 - p", function()
  local exact, top = network("float64", 1, 50)
  local result, maps = go(exact, { methods = { "center_blob" }, target = { "predicted", as = "softmax" },
    metrics = { "confidence_change", "confidence_increase", "road_combined" } })
  local x = tinycam.images():narrow(0, 0, 1)
  local logits = torch.no_grad(exact, torch.cat({ x, x * maps:map(result.records[1]):double() }, 0)):tolist()
  local function rest(row) -- 1 - p
    local sum = 0.0
    for k, z in ipairs(row) do sum = sum + (k - 1 ~= top and math.exp(z - row[top + 1]) or 0) end
    return sum / (1 + sum)
  end
  local expected = rest(logits[1]) - rest(logits[2])
  t.ok(expected ~= 0 and math.abs(expected) < 1e-16)
  t.near(result.summaries[1].mean / expected, 1, 1e-9)
  t.equal(result.summaries[2].mean, expected > 0 and 1 or 0)
  t.ok(result.summaries[3].mean ~= 0)
end)

t.test("a share of a small difference is a share of it; of none it is undefined", function()
  local honesty = require "medxai.explain.diagnostics"
  local method = { honesty = { { fact = "gap", of = "difference", title = "gap", percent = true } } }
  local function lines(status, gap, difference)
    return honesty.lines(method, { { status = status, facts = { gap = gap, difference = difference } } })
  end
  t.equal(lines("ok", 1e-14, 1e-13), { "gap: 10 %" })
  t.equal(lines("ok", 1e-14, 0), { "gap: undefined: the score is the baseline's" })
  t.equal(lines("saturated", 1, 2), {})
end)

t.test("LARS, Kernel SHAP's values and the grey picture of fine maps do not see the scale", function()
  local scope <close> = core.memory.scope()
  local x = torch.sin(torch.arange(60 * 6, { dtype = "float64" }) * 1.3):view({ 60, 6 })
  local y = torch.mv(x, torch.tensor({ 3.0, 0, -2, 0, 0.5, 0.01 }, { dtype = "float64" }))
  local gram, xy = torch.mm(x:t(), x):contiguous(), torch.mv(x:t(), y):contiguous()
  local active, coef = core.lars.path(gram, xy, { samples = 60, lasso = true })
  local small, small_coef = core.lars.path(gram, (xy * 0x1p-60):contiguous(), { samples = 60, lasso = true })
  t.equal(small, active)
  t.near(small_coef * 0x1p60, coef, 1e-12)
  local kernel = require "medxai.explain.shap_kernel_math"
  local z, k = torch.tensor({ { 1, 0 }, { 0, 1 } }, { dtype = "float64" }), torch.ones(2, { dtype = "float64" })
  local phi = kernel.values(z, k, torch.tensor({ 2e-12, 1e-12 }, { dtype = "float64" }), 3e-12, { 0, 1 })
  t.near(phi * 1e12, { 2, 1 }, 1e-9)
  local figure = require "medxai.show.figure"
  local raw = torch.randn(9, 9)
  t.equal(figure.detail(raw * 0x1p-80).rgb, figure.detail(raw).rgb)
  t.ok(figure.detail(raw * 0x1p-80, "pytorch-grad-cam").rgb ~= figure.detail(raw, "pytorch-grad-cam").rgb)
end)

host.options.quiet = was_quiet
