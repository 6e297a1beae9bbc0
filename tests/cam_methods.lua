-- What each method says for itself: attributions against captum 0.9 in float64 (tests/reference/attributions.py toy),
-- and by hand what no reference shows: shortcuts, fills, dead channels, approximations, guided rectifiers, quadrature,
-- keyed noise.
local t = require "t"
local tiny = require "tinyexplain"
local tinycam = require "tinycam"
local torch = require "medxai.torch"
local channels = require "medxai.explain.channel_ablation"
local core = require "medxai.core"
local explain = require "medxai.steps.explain"
local host = require "medxai.host"
local legendre = require "medxai.stats.quadrature"
local map = require "medxai.explain.map"
local mapstore = require "medxai.explain.store"
local scorer = require "medxai.perturb.scorer"
-- before recorded_noise puts its own function in the place of core.rng.stream, which this keeps
require "medxai.tensor.random"

local was_quiet = host.options.quiet
host.options.quiet = true

local function distance(a, b) return (a:to { dtype = "float64" } - b:to { dtype = "float64" }):abs():max():item() end
local function relative(a, b) return ((a - b):norm() / b:norm()):item() end

-- Runs; gives the records by title and the store.
local function go(model, options, images)
  local scope <close> = core.memory.scope()
  local dir, run = t.tmpdir(), nil
  run = tiny.run(dir)
  options.figures, options.images = false, options.images or "all"
  local result = explain.run(run, model, tiny.tensor_split(images or tinycam.images()), options)
  return result, mapstore.open(dir), run
end

local function raw_of(result, store, k) return store:raws(result.records[k])[1] end

-- ---- attributions ---------------------------------------------------------------------------------------------------

-- The noise of attributions.py in the place of the keyed one: copy k of a (3, 24, 34) image.
local function recorded_noise()
  local size = 3 * 24 * 34
  local k = torch.arange(25 * size, { dtype = "float64" })
  local all = 2 ^ 0.5 * torch.sin(k * 0.7 + 0.3 * torch.sin(k * 0.013)) * torch.cos(k * 1.3)
  local own = core.rng.stream
  core.rng.stream = function(key)
    return { normal = function() return all:narrow(0, key.replicate * size, size) end }
  end
  return setmetatable({}, { __close = function() core.rng.stream = own end })
end

for _, name in ipairs { "saliency", "input_x_gradient", "integrated_gradients", "smoothgrad", "guided_backprop" } do
  t.test(name .. " equals captum's in float64", function()
    local noise <close> = recorded_noise()
    local result, store = go(tinycam.model("relu"), { methods = { name } })
    local reference = torch.load_npy(t.root .. "/tests/reference/cam/" .. name .. ".npy")
    for i = 1, 2 do
      t.ok(relative(raw_of(result, store, i), reference:select(0, i - 1)) < 1e-5,
        tostring(relative(raw_of(result, store, i), reference:select(0, i - 1))))
      t.ok(relative(raw_of(result, store, i):flip({ 0 }), reference:select(0, i - 1)) > 1e-2) -- a mutant
    end
  end)
end

t.test("Gauss-Legendre points and weights are exact for polynomials up to degree 2 n - 1", function()
  for _, n in ipairs { 1, 2, 5, 50 } do
    local points, weights = legendre(n)
    for degree = 0, 2 * n - 1, math.max(1, n // 5) do
      local sum = 0
      for i, p in ipairs(points) do sum = sum + weights[i] * p ^ degree end
      t.near(sum, 1 / (degree + 1), 1e-13)
    end
  end
end)

t.test("the completeness gap: 0 for a linear network, smaller with more steps, stored with the score "
  .. "difference", function()
  local linear = require("medxai.nn.graph").network { name = "linear", classes = tinycam.classes, size_px = 34,
    cam_layer = "c", build = function(g, x)
      return g:linear("fc", g:flatten(nil, g:adaptive_avg_pool2d("p", g:conv2d("c", x, { 3, 2, 3 }), 1)), { 2, 3 })
    end }
  linear:to({ dtype = "float64" }):eval()
  local result = go(linear, { methods = { "integrated_gradients", "input_x_gradient" } })
  for _, record in ipairs(result.records) do
    t.ok(math.abs(record.facts.completeness_gap) < 1e-6 and math.abs(record.facts.score_difference) > 1e-4)
  end
  local gaps = {}
  for i, steps in ipairs { 2, 200 } do
    gaps[i] = math.abs(go(tinycam.model("relu"),
      { methods = { integrated_gradients = { steps = steps } } }).records[1].facts.completeness_gap)
  end
  t.ok(gaps[2] < gaps[1] / 5, gaps[1] .. " " .. gaps[2])
end)

t.test("the step stores each method's completeness gap as a share of the score difference", function()
  local result = go(tinycam.model("relu"), { methods = { "integrated_gradients" }, images = 2 })
  t.ok(result.statuses[1].honesty[1]:find("^completeness gap: median %d[%d.]* %% %(%d[%d.]* %% to %d[%d.]* %%%) "
    .. "over 2 maps$"), result.statuses[1].honesty[1])
end)

t.test("SmoothGrad: the first copies of more are the copies; the noise is the image's, not the batch's", function()
  local model = tinycam.model("relu")
  local result, store = go(model,
    { methods = { { "smoothgrad", samples = 3 }, { "smoothgrad", samples = 1 }, { "smoothgrad", samples = 2 } } })
  local single, first = go(model, { methods = { { "smoothgrad", samples = 1 } }, images = { 2 } })
  t.ok(distance(raw_of(result, store, 5), raw_of(single, first, 1)) < 1e-12)
  local one, two, three = raw_of(result, store, 2), raw_of(result, store, 3) * 2, raw_of(result, store, 1) * 3
  t.ok(distance(one, two) > 1e-6 and distance(two, three) > 1e-6)
  -- by hand: noise from the stream of the image and the copy
  local x, sum = tinycam.images():narrow(0, 0, 1), 0
  for k = 0, 1 do
    local noise = core.rng.stream({ seed = 42, purpose = "smoothgrad@1", id = "0000000000000001",
      replicate = k }):normal(3 * 24 * 34):view({ 1, 3, 24, 34 })
    local v = (x + 0.15 * noise):requires_grad_(true)
    sum = sum + torch.autograd.grad(model(v):select(1, result.records[1].target.index):sum(),
      v)[1]:sum({ 1 }):squeeze(0)
  end
  t.ok(distance(sum, two) < 1e-9)
end)

t.test("guided backprop: not defined with SiLU; compat guides torch.nn.ReLU modules alone", function()
  local silu = tinycam.model("silu")
  local result = go(silu, { methods = { "guided_backprop", "guided_gradcam" } })
  for _, record in ipairs(result.records) do t.equal(record.status, "not_defined") end
  t.equal(result.records[1].problem, "guided backprop is defined for rectifiers, and 'features.2' is silu")
  local compat, store = go(silu, { methods = { "guided_backprop" }, compat = "pytorch-grad-cam" })
  t.equal(compat.records[1].status, "ok")
  -- by hand: only the head's ReLU is guided
  local x = tinycam.images():narrow(0, 0, 1)
  local got = silu:forward { x = x, grad_from = { "x" }, guided = { "relu" } }
  local g = torch.autograd.grad(got.output:select(1, compat.records[1].target.index):sum(),
    { got.x })[1]:sum({ 1 }):squeeze(0)
  t.ok(distance(g, raw_of(compat, store, 1)) < 1e-12)
  local plain = silu:forward { x = x, grad_from = { "x" }, guided = {} }
  local same = silu:forward { x = x, grad_from = { "x" } }
  local a = torch.autograd.grad(plain.output:sum(), { plain.x })[1]
  t.ok(distance(a, torch.autograd.grad(same.output:sum(), { same.x })[1]) == 0, "an empty list guides none")
end)

t.test("which ReLUs are modules in torchvision: all of VGG's and SqueezeNet's and ResNet's, DenseNet's but the "
  .. "last, none of Inception's", function()
  local expected = { squeezenet1_0 = { 26, 0 }, vgg19 = { 18, 0 }, resnet50 = { 49, 0 }, densenet121 = { 120, 1 },
    inception_v3 = { 0, 96 }, mobilenet_v2 = { 0, 0 }, efficientnet_b0 = { 0, 0 } }
  for _, name in ipairs { "squeezenet1_0", "vgg19", "resnet50", "densenet121", "inception_v3", "mobilenet_v2",
      "efficientnet_b0" } do
    local scope <close> = core.memory.scope()
    local model <close> = require("medxai").models[name] { classes = 2, head = "torchvision" }
    local modules, functions = 0, 0
    for _, node in ipairs(model:nonlinearities()) do
      if node.op == "relu" then
        if node.module then modules = modules + 1 else functions = functions + 1 end
      end
    end
    t.equal({ modules, functions }, expected[name], name)
  end
end)

t.test("guided Grad-CAM is the product of the two, and the colours are kept where asked for", function()
  local model = tinycam.model("relu")
  local result, store = go(model,
    { methods = { "gradcam", { "guided_backprop", colors = true }, { "guided_gradcam", colors = true } },
      layer = "features.3" })
  local cam, both = store:map(result.records[1]), store:array(result.records[3], "colors")
  t.equal(both.shape, { 3, 24, 34 })
  t.ok(distance(both, store:array(result.records[2], "colors") * cam:double()) < 1e-7)
  t.ok(distance(both:sum({ 0 }), raw_of(result, store, 3)) < 1e-12)
end)

-- ---- ablation -------------------------------------------------------------------------------------------------------

t.test("Ablation-CAM's shortcut through pooling and a linear layer, or a 1 x 1 convolution, equals running all "
  .. "that follows", function()
  local nets = { features = tinycam.model("relu") }
  nets.conv = require("medxai.nn.graph").network { name = "squeeze", classes = { "a", "b", "c" }, size_px = 34,
    cam_layer = "c1", seed = 1, build = function(g, x)
    x = g:relu("r1", g:conv2d("c1", x, { 3, 7, 3, stride = 2 }))
    return g:flatten(nil, g:adaptive_avg_pool2d("p",
      g:relu("r2", g:conv2d("c2", g:dropout("d", x, 0.5), { 7, 3, 1 })), 1))
  end }
  nets.grid = require("medxai.nn.graph").network { name = "flat", classes = { "a", "b" }, size_px = 34,
    cam_layer = "c1", seed = 1, build = function(g, x)
    x = g:batch_norm2d("n", g:conv2d("c1", x, { 3, 7, 3, stride = 2, padding = 1 }), 7)
    x = g:flatten(nil, g:adaptive_avg_pool2d("p", g:max_pool2d("m", g:relu("r", x), { 2 }), { 3, 2 }))
    return g:linear("fc2", g:relu("r2", g:linear("fc1", x, { 42, 5 })), { 5, 2 })
  end }
  for _, case in ipairs { { "features", "features.6" }, { "conv", "c1" }, { "conv", "r1" }, { "grid", "c1" },
      { "grid", "m" } } do
    local model, layer = nets[case[1]], case[2]
    model:to({ dtype = "float64" }):eval()
    local x = tinycam.images():narrow(0, 0, 1)
    local values = torch.no_grad(function() return model:forward { x = x, outputs = { layer, "output" } } end)
    local a, s, path = values[layer], scorer.new(model), channels.path(model, layer)
    t.ok(path.linear, "no shortcut at " .. layer)
    local list = {}
    for c = 0, a:size(1) - 1 do list[c + 1] = c end
    local quick, full = channels.all_zeroed(model, path, layer, a, {}, s), channels.each_filled(layer, a, {}, s, list)
    t.ok(distance(quick, full) < 1e-6, string.format("%s %s: off by %g", case[1], layer, distance(quick, full)))
    t.ok(distance(full, values.output:expand_as(full)) > 1e-4, case[1] .. " " .. layer .. ": no channel counts")
  end
  t.equal(channels.path(tinycam.model("relu"), "features.3").linear, nil)
  t.equal(channels.path(tinycam.model("relu"), "features.3").last, "features.4")
end)

t.test("channels that are zero everywhere are not run, and lose nothing; the block matters in compat alone", function()
  local model = tinycam.model("relu")
  torch.no_grad(function() -- channel 3 of the layer is dead
    for _, p in ipairs(model:parameters()) do
      if p.name == "features.3.bias" then p.tensor:select(0, 3):fill_(-100) end
    end
  end)
  local result = go(model, { methods = { "ablationcam" }, layer = "features.4", images = { 1 } })
  t.equal(result.records[1].partials, 7)
  local maps = {}
  for _, compat in ipairs { "none", "pytorch-grad-cam" } do
    for _, block in ipairs { 2, 5 } do
      local r, store = go(tinycam.model("silu"),
        { methods = { { "ablationcam", block = block } }, layer = "features.6",
          compat = compat ~= "none" and compat or nil, images = { 1 } })
      maps[#maps + 1] = store:map(r.records[1])
    end
  end
  t.ok(distance(maps[1], maps[2]) == 0 and distance(maps[3], maps[4]) > 1e-3)
end)

t.test("Ablation-CAM by hand: what the target loses without the channel", function()
  local model = tinycam.model("silu")
  local result, store = go(model, { methods = { "ablationcam" }, layer = "features.3", target = "nodule",
    images = { 1 } })
  local values = torch.no_grad(function()
    return model:forward { x = tinycam.images():narrow(0, 0, 1), outputs = { "features.3", "output" } }
  end)
  local a, sum = values["features.3"], 0
  for c = 0, 7 do
    local without = a:clone()
    without:select(1, c):fill_(0)
    local score = torch.no_grad(function() return model:forward { override = { ["features.3"] = without } }.output end)
    sum = sum + a:select(1, c) * (values.output - score):select(1, 1):item()
  end
  t.ok(distance(sum:squeeze(0), raw_of(result, store, 1)) < 1e-6)
end)

-- ---- Score-CAM ------------------------------------------------------------------------------------------------------

t.test("Score-CAM: channels without contrast share one pass and one score; fewer channels are labelled an "
  .. "approximation", function()
  local model = tinycam.model("relu")
  torch.no_grad(function()
    for _, p in ipairs(model:parameters()) do
      if p.name == "features.3.bias" then p.tensor:narrow(0, 2, 2):fill_(-100) end
    end
  end)
  local result, store = go(model, { methods = { "scorecam", { "scorecam", channels = 3 } }, layer = "features.4",
    images = { 1 } })
  t.equal({ result.records[1].forwards, result.records[2].forwards }, { 1 + 6 + 1, 1 + 3 })
  t.equal(result.statuses[2].label, "Score-CAM, 3 channels (approximation)")
  t.equal(result.records[2].facts.approximation, "the 3 of 8 channels with the largest variance")
  t.equal(result.records[1].facts, nil)
  -- by hand
  local x = tinycam.images():narrow(0, 0, 1)
  local a = torch.no_grad(function() return model:forward { x = x, outputs = { "features.4" } }["features.4"] end)
  local up = torch.upsample_bilinear2d(a, { 24, 34 }, true)
  local lo, hi = up:amin({ 2, 3 }, true), up:amax({ 2, 3 }, true)
  local masks = ((up - lo) / (hi - lo + 1e-8)):transpose(0, 1)
  local scores = torch.no_grad(model, x * masks):select(1, result.records[1].target.index)
  t.ok(distance((torch.softmax(scores, 0):view({ 1, 8, 1, 1 }) * a):sum({ 1 }):squeeze(0),
    raw_of(result, store, 1)) < 1e-6)
end)

t.test("bfloat16 says so in the record, with its largest deviation, for the methods that perturb", function()
  t.needs_bfloat16()
  local model = tinycam.model("relu", "float32")
  local result = go(model,
    { methods = { { "scorecam", precision = "bfloat16" }, { "ablationcam", precision = "bfloat16" } }, images = { 1 } },
    tinycam.images():float())
  for _, record in ipairs(result.records) do
    t.equal({ record.status, record.facts.precision }, { "ok", "bfloat16" })
    t.ok(record.facts.bfloat16_deviation > 0 and record.facts.bfloat16_deviation < 0.1)
  end
end)

-- ---- FullGrad, random CAM, Eigen-CAM --------------------------------------------------------------------------------

t.test("FullGrad's parts add up to the score, on Inception too, whose auxiliary branch is left out", function()
  local scope <close> = core.memory.scope()
  local model <close> = require("medxai").models.inception_v3 { classes = tinycam.classes, head = "torchvision",
    dtype = "float64", seed = 3 }
  model:eval()
  local x = torch.sin(torch.arange(3 * 90 * 80, { dtype = "float64" }) * 0.37):view({ 1, 3, 90, 80 })
  local used, at, biases = model:used_nodes(), { "x" }, {}
  for _, m in ipairs(model:modules()) do
    local bias = m.kind == "batch_norm2d" and m.bias:detach() - m.running_mean * m.weight:detach()
      / (m.running_var + m.eps):sqrt() or m.bias
    if bias and used[m.name] then
      at[#at + 1] = m.name
      biases[m.name] = m.kind == "linear" and bias:view({ 1, -1 }) or bias:view({ 1, -1, 1, 1 })
    end
  end
  local got = torch.enable_grad(function()
    return model:forward { x = x, grad_from = { "x" }, outputs = { "output", table.unpack(at, 2) }, fold = false }
  end)
  local inputs = {}
  for i, name in ipairs(at) do inputs[i] = got[name] end
  local g = torch.autograd.grad(got.output:select(1, 1):sum(), inputs)
  local sum = (g[1] * x):sum():item()
  for i = 2, #at do sum = sum + (g[i] * biases[at[i]]):sum():item() end
  t.near(sum, got.output:select(1, 1):item(), 1e-6 * math.abs(sum))
  t.equal(#at, 1 + 94 + 1)
  local result = go(model, { methods = { "fullgrad" }, images = { 1 } }, x)
  t.equal({ result.records[1].status, result.records[1].sign }, { "ok", "nonnegative" })
end)

t.test("random CAM's weights are the image's own: uniform in [-1, 1), the same in any batch; other ones in "
  .. "each view", function()
  local model = tinycam.model("relu")
  local both, store = go(model, { methods = { "randomcam" }, layer = "features.3" })
  local a = torch.no_grad(function()
    return model:forward { x = tinycam.images(), outputs = { "features.3" } }["features.3"]
  end)
  for i = 1, 2 do
    local w = core.rng.stream({ seed = 42, purpose = "randomcam@1", id = ("%016x"):format(i) }):uniform(8) * 2 - 1
    t.ok(distance((w:view({ 8, 1, 1 }) * a:select(0, i - 1)):sum({ 0 }), raw_of(both, store, i)) < 1e-9)
  end
end)

t.test("Eigen-CAM needs no backward pass, and a methods page of gradient methods one", function()
  local backward, calls = torch.autograd.grad, 0
  torch.autograd.grad = function(...)
    calls = calls + 1
    return backward(...)
  end
  local restore <close> = setmetatable({}, { __close = function() torch.autograd.grad = backward end })
  local model = tinycam.model("relu")
  local forward, forwards = model.forward, 0
  function model:forward(request)
    forwards = forwards + 1
    return forward(self, request)
  end
  go(model, { methods = { "eigencam", "randomcam" }, images = { 1 } })
  t.equal({ calls, forwards }, { 0, 1 })
  forwards = 0
  go(model, { methods = { "gradcam", "gradcam++", "xgradcam", "hirescam", "layercam", "eigengradcam",
    "gradcam_elementwise", "eigencam" }, images = { 1 }, layer = { "features.3", "features.6" } })
  t.equal({ calls, forwards }, { 1, 1 + 1 }) -- and one that tries features.3 on an empty image
  go(model, { methods = { "gradcam", "xgradcam" }, images = { 1 }, aug_smooth = true })
  t.equal({ calls, forwards }, { 3, 4 }) -- the image, and its five other views as one batch
end)

t.test("the backward pass goes no deeper than the deepest layer asked for", function()
  local model = tinycam.model("relu")
  local pass = require("medxai.explain.forward_pass").open(model, tinycam.images(),
    { gradients = { "features.5", "features.3" } })
  t.equal({ pass.values["features.3"].is_leaf, pass.values["features.5"].is_leaf }, { true, false })
  t.equal(pass.values["features.3"].requires_grad, true)
end)

t.test("experiments/my_method.lua, the example of an own method (RISE), runs in --smoke and finds what the network "
  .. "looks at", function()
  local dir = t.tmpdir()
  t.write(dir .. "/my_method.lua", t.read(t.root .. "/experiments/my_method.lua"))
  t.ok(select(2, t.read(dir .. "/my_method.lua"):gsub("\n", "")) < 50) -- short enough to be read at once
  local script = t.write(dir .. "/own.lua", [[
    local xai = require "medxai"
    local run = xai.run { name = "own" }
    local data = xai.dataset.phantom { n_train = 6, n_val = 6, n_test = 6, size_px = 64 }
    local model = xai.models.squeezenet1_0 { classes = data.classes, weights = "random" }
    run:explain(model, data.test, { methods = { "my_method", { "my_method", cells = 4 } }, images = 2 })]])
  local r = t.run { "--smoke", "--quiet", "--out", dir .. "/run", script, timeout = 200 }
  t.equal(r.code, 0, r.err)
  for _, line in ipairs(require("medxai.base.files").lines(dir .. "/run/maps/index.jsonl")) do
    t.ok(line:find('"status":"ok"', 1, true), line)
  end
  -- a network that looks at the right half alone: brightness there is its score
  local place <close> = tiny.beside(dir)
  local model = require("medxai.nn.graph").network { name = "half", classes = tinycam.classes, size_px = 34,
    build = function(g, x)
    local half = g:op("half", "slice.Tensor", { x, 3, 17, 34 })
    return g:linear("fc", g:flatten(nil, g:adaptive_avg_pool2d("pool", half, 1)), { 3, 3 })
  end }
  torch.no_grad(function()
    for _, p in ipairs(model:parameters()) do p.tensor:fill_(p.name == "fc.weight" and 1 or 0) end
  end)
  model:eval()
  local result, store = go(model, { methods = { { "my_method", masks = 400 } }, target = 0 }, tinycam.images():float())
  local raw = raw_of(result, store, 1)
  t.ok(raw:narrow(1, 20, 14):mean():item() > raw:narrow(1, 0, 14):mean():item() * 1.02)
  local single = go(model, { methods = { { "my_method", masks = 400 } }, target = 0, images = { 2 } },
    tinycam.images():float())
  t.equal(single.records[1].raw, result.records[2].raw)
end)

t.test("a map of a method with a fixed sign has it: what is nonnegative or a magnitude has no negative "
  .. "raw value", function()
  local model = tinycam.model("silu")
  local names = { "gradcam_elementwise", "fullgrad", "saliency", "sobel", "center_blob", "random_smooth" }
  local result, store = go(model, { methods = names, layer = "features.3", images = { 1 } })
  for k, record in ipairs(result.records) do
    t.ok(record.sign ~= "signed", record.method)
    t.ok(raw_of(result, store, k):min():item() >= 0, record.method)
  end
end)

host.options.quiet = was_quiet
