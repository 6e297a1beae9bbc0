-- What holds for every method: a batch is its images, chunks change nothing, NaN and constant images have a status,
-- memory stays flat, out of memory halves, an interrupt stops at once and keeps what is done; and what is refused.
local t = require "t"
local tiny = require "tinyexplain"
local tinycam = require "tinycam"
local torch = require "medxai.torch"
local core = require "medxai.core"
local explain = require "medxai.steps.explain"
local files = require "medxai.base.files"
local host = require "medxai.host"
local mapstore = require "medxai.explain.store"

local was_quiet = host.options.quiet
host.options.quiet = true

local methods = { "gradcam", "hirescam", "gradcam_elementwise", "gradcam_plus_plus", "xgradcam", "layercam", "eigencam",
  "eigengradcam", "scorecam", "ablationcam", "fullgrad", "randomcam", "saliency", "input_x_gradient",
  "integrated_gradients", "smoothgrad", "guided_backprop", "guided_gradcam", "sobel", "center_blob",
  "random_smooth" }

-- n images, each unlike the others.
local function images(n)
  local k = torch.arange(n * 3 * 24 * 34, { dtype = "float64" })
  return (0.5 + 0.5 * torch.sin(k * 0.113) * torch.cos(k * k * 1e-5)):view({ n, 3, 24, 34 }):float()
end

-- gives the result and the store; o.model and o.images replace the usual ones
local function go(o, dir)
  local scope <close> = core.memory.scope()
  local run = tiny.run(dir or t.tmpdir())
  local options = { methods = methods, images = "all", figures = false, layer = "features.3" }
  for k, v in pairs(o.options or {}) do options[k] = v end
  local result = explain.run(run, o.model or tinycam.model("relu", "float32"),
    tiny.tensor_split(o.x or images(o.n or 5)), options)
  return result, mapstore.open(run.dir), run
end

-- Largest difference of two runs' maps, relative to each map's maximum; and of which method.
local function compare(a, b)
  local worst, where = 0, ""
  for i, record in ipairs(a[1].records) do
    local x, y = a[2]:map(record), b[2]:map(b[1].records[i])
    t.equal(record.status, b[1].records[i].status, record.method)
    -- guided methods are not defined without ReLU
    local off = x and ((x - y):abs():max() / x:max():clamp_min(1e-3)):item() or 0
    if not (off <= worst) then worst, where = off, record.method end
  end
  return worst, where
end

-- Another number of images in a pass may take another kernel and round otherwise. Gradients through a ReLU jump where a
-- value crosses 0, and in float32 one of the thousands of values may do so by rounding alone, on one processor and not
-- on another. In float64 roundings are 1e-16 of the values and none does; so there the bound is that of sums in another
-- order. In float32 the network is smooth: its sums of at most 72 products round by some 1e-6, and 2e-5 is the
-- library's promise.
local exact = { name = "float64, ReLU", act = "relu", dtype = "float64", bound = 1e-9 }
local single = { name = "float32, SiLU", act = "silu", dtype = "float32", bound = 2e-5 }

for _, smoothing in ipairs { {}, { aug_smooth = true, eigen_smooth = true } } do
  for _, kind in ipairs(smoothing.aug_smooth and { exact } or { exact, single }) do
    local name = (smoothing.aug_smooth and "smoothed" or "plain") .. ", " .. kind.name
    local function with(key, value)
      return { model = tinycam.model(kind.act, kind.dtype), x = images(5):to(kind.dtype),
        options = { [key] = value, aug_smooth = smoothing.aug_smooth, eigen_smooth = smoothing.eigen_smooth } }
    end
    t.test("a batch of 5 equals 5 singles for every method, " .. name, function()
      local worst, where = compare({ go(with("batch", 1)) }, { go(with("batch", 5)) })
      t.ok(worst < kind.bound, string.format("%s differs by %.2g", where, worst))
    end)
    t.test("chunks under a small budget change nothing for any method, " .. name, function()
      local worst, where = compare({ go(with("budget_mb", 1024)) }, { go(with("budget_mb", 0.1)) })
      t.ok(worst < kind.bound, string.format("%s differs by %.2g", where, worst))
    end)
  end
end

t.test("a method may have a memory budget of its own", function()
  local result, _, run = go { n = 1,
    options = { methods = { "scorecam", { "scorecam", budget_mb = 0.05, layer = "features.6" } } } }
  t.equal({ result.records[1].status, result.records[2].status, #run.warnings }, { "ok", "ok", 0 })
  t.fails(function() go { n = 1, options = { methods = { scorecam = { budget_mb = 0 } } } } end,
    "scorecam: option 'budget_mb' is too small (expected more than 0, got 0).")
end)

t.test("channels_last changes nothing for any method, smoothed", function()
  local x, options = images(2):double(), { aug_smooth = true, eigen_smooth = true }
  local function with(layout)
    return { x = x, model = tinycam.model("relu", "float64"):to { layout = layout }, options = options }
  end
  local worst, where = compare({ go(with "nchw") }, { go(with "channels_last") })
  t.ok(worst < exact.bound, string.format("%s differs by %.2g", where, worst))
end)

t.test("NaN weights: every map that needs the network is told as nan, none is ok", function()
  local model = tinycam.model("relu", "float32")
  torch.no_grad(function()
    for _, p in ipairs(model:parameters()) do
      if p.name == "features.5.weight" then p.tensor:fill_(0 / 0) end
    end
  end)
  local result = go { model = model, n = 1 }
  for _, record in ipairs(result.records) do
    local baseline = record.method == "sobel" or record.method == "center_blob" or record.method == "random_smooth"
    -- the layer lies before the broken weights
    local no_class = record.method == "eigencam" or record.method == "randomcam"
    t.ok(record.status == "nan" or baseline and record.status == "ok" or no_class,
      record.method .. " " .. record.status)
  end
end)

t.test("a constant image gives finite maps with a status for every method", function()
  local result, store = go { x = torch.full({ 1, 3, 24, 34 }, 0.4), options = { aug_smooth = true } }
  local known = { ok = true, flat = true, all_negative = true, sign_undecided = true }
  for _, record in ipairs(result.records) do
    t.ok(known[record.status], record.method .. " " .. record.status)
    t.ok(store:map(record):isfinite():all():item())
  end
  t.equal(result.records[19].status, "flat") -- sobel
end)

t.test("out of memory halves the batch in the middle of all methods and changes nothing", function()
  local x = images(9)
  local whole = { go { x = x } }
  collectgarbage()
  collectgarbage()
  local memory = core.memory
  local before = memory.stats().limit_bytes / 2 ^ 20
  local restore <close> = setmetatable({}, { __close = function() memory.set_limit(before) end })
  memory.set_limit(memory.stats().live_bytes / 2 ^ 20 + 0.7)
  local halved = { go { x = x, options = { budget_mb = 256 } } }
  memory.set_limit(before)
  t.ok(table.concat(halved[3].warnings, "\n"):find("images at once do not fit into memory: going on with"),
    table.concat(halved[3].warnings, "\n"))
  local worst, where = compare(whole, halved)
  t.ok(worst < 2e-5, string.format("%s differs by %.2g", where, worst))
end)

t.test("memory is flat over images: live tensors and bytes after 4 images are those after 20", function()
  local model, x = tinycam.model("relu", "float32"), images(20)
  local split, seen = tiny.tensor_split(x), {}
  local batch = split.batch
  function split:batch(numbers)
    if numbers[1] == 4 or numbers[1] == 20 then
      collectgarbage()
      collectgarbage()
      seen[#seen + 1] = core.memory.live()
    end
    return batch(self, numbers)
  end
  local scope <close> = core.memory.scope()
  explain.run(tiny.run(t.tmpdir()), model, split,
    { methods = methods, images = "all", figures = false, batch = 1, layer = "features.3" })
  t.equal({ seen[1].tensors, seen[1].bytes }, { seen[2].tensors, seen[2].bytes })
end)

t.test("Ctrl-C in the middle: what is done stays, the rest is made by the next run", function()
  local dir = t.tmpdir()
  local script = t.write(dir .. "/stopped.lua", ([[
    package.path = %q .. "/tests/?.lua;" .. package.path
    local tiny, tinycam = require "tinyexplain", require "tinycam"
    local calls = 0
    local methods = { "gradcam", "scorecam", watch = function(x)
      calls = calls + 1
      if os.getenv "STOP_HERE" and calls == 3 then
        os.execute("(sleep 0.2; kill -INT " .. require("medxai.file").pid() .. ") &")
        while true do x = x * 1 end
      end
      return x:select(0, 0):mean({ 0 })
    end }
    local x = require("medxai.torch").rand(6, 3, 24, 34)
    require("medxai.steps.explain").run(tiny.run(%q), tinycam.model("relu", "float32"), tiny.tensor_split(x), { methods = methods, images = "all", figures = false, batch = 1 })
    print(calls)]]):format(t.root, dir))
  local first = t.run { script, env = { STOP_HERE = "1" } }
  t.equal(first.code, 130, first.err)
  local lines = files.lines(dir .. "/maps/index.jsonl")
  t.ok(#lines >= 6 and #lines < 18, #lines .. " maps")
  local second = t.run { script }
  t.equal({ second.code, #files.lines(dir .. "/maps/index.jsonl") }, { 0, 18 }, second.err)
  t.ok(second.out:find("\n4\n$"), second.out)
end)

t.test("what is refused, word for word: layers, classes, sizes, modes, options", function()
  local model = tinycam.model("relu", "float32")
  local function check(options)
    options.methods = options.methods or { "gradcam" }
    return function() explain.check(options, model) end
  end
  t.fails(check { layer = "features.33" }, "explain: unknown layer 'features.33'. Did you mean 'features.3', "
    .. "'features.0' or 'features.1'?")
  t.fails(check { layer = "fc1" }, "explain: layer 'fc1' has no spatial extent (it comes after 'flatten'). Choose "
    .. "one with a grid, for instance 'features.6'.")
  t.fails(function()
    explain.run(tiny.run(t.tmpdir()), model, tiny.tensor_split(images(2)), { methods = { "gradcam" }, layer = "pool" })
  end,
    "explain: layer 'pool' has no spatial extent (its output is (1, 10, 1, 1)). Choose one with a grid, for "
    .. "instance 'features.6'.")
  t.fails(check { target = 3 }, "explain: target class 3 is out of range (the model has classes 0 to 2: clear, "
    .. "nodule, opacity).")
  t.fails(check { methods = { "gradcam+" } }, "explain: unknown method 'gradcam+'. Did you mean 'gradcam' or "
    .. "'xgradcam'?")
  t.fails(check { methods = { "ig" } }, "explain: unknown method 'ig'. Did you mean 'integrated_gradients'?")
  t.fails(check { methods = { scorecam = { precision = "bf32" } } },
    "scorecam: option 'precision' is wrong (expected 'float32' or 'bfloat16', got string 'bf32').")
  t.fails(check { methods = { scorecam = { channels = 0 } } },
    "scorecam: option 'channels' is too small (expected at least 1, got 0).")
  t.fails(check { methods = { eigencam = { eigen_smooth = true } } },
    "eigencam: unknown option 'eigen_smooth'. Known: aug_smooth, budget_mb, compat, layer, target.")
  t.fails(check { methods = { smoothgrad = { sigma = -1 } } },
    "smoothgrad: option 'sigma' is too small (expected at least 0, got -1).")
  local split, run = tiny.tensor_split(images(2)), tiny.run(t.tmpdir())
  split.data = { size_px = 32, config = {}, masks = {}, preparation = function() return { size_px = 32,
    input = "whole" } end }
  model.weights_of = { run = "before", described = { size_px = 34, input = "whole" }, force = {}, differs = {} }
  t.fails(function() explain.run(run, model, split, { methods = { "gradcam" } }) end,
    "weights: the run 'before' has size_px 34 (here: 32). Use the same, or other weights; where the difference is "
      .. "meant, write force = { 'size_px' } in the model's options.")
  model.weights_of.force = { size_px = true } -- an option of the model: said by the experiment, it is no accident
  t.equal(explain.run(run, model, split, { methods = { "gradcam" }, images = 1, figures = false }).records[1].status,
    "ok")
  model.weights_of = nil
  model:train()
  t.fails(function() require("medxai.explain.forward_pass").open(model, images(1), {}) end,
    "explain: the model is in train mode (expected eval mode). Use model:eval().")
end)

t.test("a layer on which the output does not depend in evaluation is refused before anything is computed", function()
  local scope <close> = core.memory.scope()
  local model <close> = require("medxai").models.inception_v3 { classes = 3, head = "torchvision" }
  t.fails(function() explain.check({ methods = { "gradcam" }, layer = "AuxLogits.conv0" }, model) end,
    "explain: the output does not depend on layer 'AuxLogits.conv0' in evaluation.")
  t.fails(function() explain.check({ methods = { "gradcam" }, layer = "kidney" }, model) end,
    "explain: unknown layer 'kidney'. Usual is 'Mixed_7c.branch_pool'.")
  model:eval()
  t.fails(function()
    require("medxai.explain.forward_pass").open(model, torch.zeros(1, 3, 80, 80), { layers = { model.cam_layer } })
  end,
    "explain: layer 'Mixed_7c.branch_pool' has no spatial extent (its output is (1, 192, 1, 1)). Take larger "
    .. "images, or an earlier layer.")
end)

t.test("names as people write them", function()
  local model = tinycam.model("relu", "float32")
  for given, name in pairs { ["gradcam++"] = "gradcam_plus_plus", GradCAMPlusPlus = "gradcam_plus_plus",
      ["Grad-CAM"] = "gradcam", ScoreCAM = "scorecam",
    ["Eigen-Grad-CAM"] = "eigengradcam", AblationCAM = "ablationcam", IntegratedGradients = "integrated_gradients",
    GradCAMElementWise = "gradcam_elementwise" } do
    t.equal(explain.check({ methods = { given } }, model).entries[1].method.name, name)
    t.equal(explain.check({ methods = { [given] = {} } }, model).entries[1].method.name, name)
  end
end)

host.options.quiet = was_quiet
