-- The SHAP methods through explain.run: records, facts and arrays, honesty printed and stored, figures, independence of
-- batch, chunk, threads and order; statuses; --smoke.
local t = require "t"
local tiny = require "tinyexplain"
local torch = require "medxai.torch"
local core = require "medxai.core"
local explain = require "medxai.steps.explain"
local files = require "medxai.base.files"
local honesty = require "medxai.explain.diagnostics"
local host = require "medxai.host"

local was_quiet = host.options.quiet
host.options.quiet = true

local function distance(a, b) return (a:to { dtype = "float64" } - b:to { dtype = "float64" }):abs():max():item() end

local grid = { "grid", rows = 3, columns = 3 }
local function methods()
  return { { "shap_partition", evals = 120, removal = "blur(9,9)" }, { "shap_kernel", samples = 70, regions = grid },
    { "shap_gradient", samples = 40, background = "split", background_count = 4 } }
end

local function go(dir, options, split, model)
  local run = tiny.run(dir)
  options.figures = options.figures or false
  local scope <close> = core.memory.scope()
  return explain.run(run, model or tiny.model(), split or tiny.split(4), options), run
end

-- "method image" -> raw map
local function raws(dir, result)
  local list = {}
  for _, record in ipairs(result.records) do
    list[record.method .. " " .. record.image_id] = torch.load_npy(dir .. "/" .. (record.files[2] or "none"))
  end
  return list
end

local function compare(a, b, bound)
  for name, raw in pairs(a) do
    local off = distance(raw, b[name]) / raw:abs():max():item()
    t.ok(off <= bound, ("%s differs by %g"):format(name, off))
  end
end

t.test("records hold what was evaluated, the classes, and the numbers that tell how far to believe the map", function()
  local dir = t.tmpdir()
  local result = go(dir, { methods = methods(), images = 2, layer = "relu1" })
  local partition, kernel, gradient = result.records[1], result.records[2], result.records[3]
  t.equal({ partition.status, partition.facts.evaluations, #partition.facts.classes, partition.forwards },
    { "ok", 120, 3, 120 })
  t.equal({ kernel.facts.subsets, kernel.facts.evaluations, kernel.facts.regions.count, #kernel.facts.regions.hash },
    { 70, 72, 9, 16 })
  t.equal({ gradient.facts.samples, gradient.facts.background, gradient.facts.form, gradient.facts.completeness_gap },
    { 40, 4, "difference", "not applicable" })
  t.equal(kernel.rng, "seed=42 purpose=shap_kernel@1 id=0000000000000001")
  for _, record in ipairs { partition, kernel, gradient } do
    t.ok(record.facts.change_half > 0 and record.facts.change_half < 2, record.method)
    local outputs = torch.load_npy(dir .. "/" .. record.arrays.outputs)
    t.equal({ outputs.dtype, outputs.shape[1] }, { "float64", 3 })
  end
  local outputs = torch.load_npy(dir .. "/" .. partition.arrays.outputs):sum({ 1, 2 }):tolist()
  for k = 1, 3 do t.near(outputs[k], partition.facts.output[k] - partition.facts.base[k], 1e-9) end
  t.equal(torch.load_npy(dir .. "/" .. kernel.arrays.regions).dtype, "int32")
  t.near(torch.load_npy(dir .. "/" .. kernel.arrays.values):sum({ 1 }):tolist()[1],
    kernel.facts.output[1] - kernel.facts.base[1], 1e-9)
end)

t.test("a batch of four equals four singles; so do chunks of 8 and of what fits, one and two threads, and images "
  .. "in reverse", function()
  local function of(options, change)
    local dir = t.tmpdir()
    options.methods, options.images, options.layer = methods(), options.images or "all", "relu1"
    local before = core.device.threads()
    if change then core.device.set_threads(change) end
    local result = go(dir, options)
    core.device.set_threads(before)
    return raws(dir, result), result
  end
  local whole = of { batch = 4 }
  compare(whole, of { batch = 1 }, 2e-5)
  compare(whole, of { images = { 4, 3, 2, 1 }, batch = 4 }, 2e-5)
  compare(whole, of { budget_mb = 0.2, batch = 4 }, 2e-5)
  local fixed = of { deterministic = true }
  compare(whole, fixed, 2e-5)
  compare(fixed, of { deterministic = true, images = { 3, 1, 4, 2 } }, 0)
  compare(whole, of({ batch = 4 }, 1), 2e-5)
  compare(whole, of({ batch = 4 }, 2), 2e-5)
end)

t.test("honesty is printed with median and range, stored with the step, and a word stands where the number does "
  .. "not apply", function()
  local method = { honesty = { { fact = "gap", title = "gap", percent = true }, { fact = "n", title = "n" } } }
  t.equal(honesty.lines(method, { { facts = { gap = 0.5, n = 3 } } }), { "gap: 50 %", "n: 3" })
  t.equal(honesty.lines(method, { { facts = { gap = 0.5 } }, { facts = { gap = 0.1 } }, { facts = { gap = 0.2 } },
    {} }), { "gap: median 20 % (10 % to 50 %) over 3 maps; 1 without" })
  t.equal(honesty.lines(method, { { facts = { gap = { 0.5, 0.3 } } } }),
    { "gap: median 40 % (30 % to 50 %) over 2 values of 1 map" })
  t.equal(honesty.lines(method, { { facts = { gap = "not applicable" } } }), { "gap: not applicable" })
  t.equal(honesty.lines(method, { { status = "ok", facts = { gap = 0.5 } },
    { status = "flat", facts = { gap = 0 / 0 } } }), { "gap: 50 % over 1 map; 1 without" })
  t.equal(honesty.lines(method, { { facts = { gap = 0.5 } }, { facts = { gap = 0.1 } },
    { facts = { gap = "too few" } } }), { "gap: median 30 % (10 % to 50 %) over 2 maps; 1 too few" })
  t.equal(honesty.of(method, { facts = { gap = { 0.5, 0 / 0 } } }), { "gap not a number" })
  local share = { honesty = { { fact = "gap", of = "whole", title = "gap", percent = true } } }
  t.equal(honesty.lines(share, { { facts = { gap = -1, whole = 4 } },
    { facts = { gap = { 1, 2 }, whole = { -2, 4 } } } }), { "gap: median 50 % (25 % to 50 %) over 3 values of 2 maps" })
  t.equal(honesty.lines(share, { { facts = { gap = { "not applicable", 1 }, whole = { "not applicable", 4 } } } }),
    { "gap: 25 %" })
  t.equal(honesty.lines(share, { { facts = { gap = { "not applicable", 1 }, whole = { 4 } } } }),
    { "gap: not applicable" })
  t.equal(honesty.of(share, { facts = { gap = { 1, 2 }, whole = { -2, 8 } } }), { "gap 50 %" })
  t.equal(honesty.of(method, { facts = { gap = 0 / 0, n = 12345 } }), { "gap not a number", "n 12345" })
  t.equal(honesty.of(method, { facts = { gap = 1, n = 1e7 } }), { "gap 100 %", "n 1.0e+07" })
  t.equal(honesty.of(method, { facts = { gap = 0.996, n = 1e-5 } }), { "gap 100 %", "n 1e-05" })
  t.equal(honesty.of(method, {}), {})
  local dir = t.tmpdir()
  local result = go(dir, { methods = { { "shap_gradient", samples = 10, background = "split" } }, images = 2,
    layer = "relu1" })
  t.ok(result.statuses[1].honesty[1] == "completeness gap: not applicable"
    and result.statuses[1].honesty[2]:find("^standard error over samples: median"))
end)

t.test("each method draws all explained classes of each image over one diverging scale", function()
  local dir = t.tmpdir()
  local result = go(dir, { methods = methods(), images = 3, layer = "relu1", figures = true })
  local drawn = 0
  for _, figure in ipairs(result.figures) do
    if figure.name:find "values" then
      drawn = drawn + 1
      local svg = t.read(dir .. "/" .. figure.svg)
      for _, class in ipairs(tiny.classes) do t.ok(svg:find(class, 1, true), class) end
      t.ok(svg:find "SHAP value" and svg:find "99.9th percentile" and svg:find("half"))
      for _, path in ipairs(figure.paths) do t.ok(files.size(dir .. "/" .. path) > 1000) end
    end
  end
  t.equal(drawn, 3)
end)

t.test("a class of a long name keeps its output beside it on the figure", function()
  local dir, model, split, long = t.tmpdir(), tiny.model(), tiny.split(1),
    { "pneumonia of unknown origin with large effusion", "nodule", "opacity" }
  model.classes, split.classes = long, long
  local result = go(dir, { methods = { { "shap_kernel", samples = 20, regions = grid } }, images = 1,
    figures = { "own" } }, split, model)
  local output, svg = nil, t.read(dir .. "/" .. result.figures[1].svg)
  for k, class in ipairs(result.records[1].facts.classes) do
    if class == long[1] then output = result.records[1].facts.output[k] end
  end
  t.ok(svg:find(">" .. require("medxai.show.drawing").fixed(output, 2) .. "<", 1, true))
end)

t.test("a network without finite outputs gives maps of status nan; drawing goes on", function()
  local dir, model = t.tmpdir(), tiny.model()
  model:state()[1].tensor:detach():fill_(0 / 0)
  local result, run = go(dir, { methods = methods(), images = 1, layer = "relu1", target = "nodule", figures = true },
    nil, model)
  for _, record in ipairs(result.records) do t.equal(record.status, "nan") end
  t.ok(#run.warnings >= 3)
end)

t.test("an image of one region has no Kernel SHAP: its map is not defined, the others are made", function()
  local function one_or_four(image, item)
    local at = torch.arange(0, image:size(1)):view { -1, 1 }:expand { image:size(1), image:size(2) }
    return item.name == "image 2.png" and at * 0 or at // 8
  end
  local result = go(t.tmpdir(), { methods = { { "shap_kernel", regions = one_or_four } }, images = 3, batch = 3 })
  local statuses = {}
  for i, record in ipairs(result.records) do statuses[i] = record.status end
  t.equal(statuses, { "ok", "not_defined", "ok" })
end)

t.test("settings make the folder: a tensor as background, regions as tables and functions", function()
  local dir, seen = t.tmpdir(), {}
  for k, entry in ipairs {
    { "shap_gradient", samples = 4, background = torch.zeros(2, 3, 32, 32) },
    { "shap_gradient", samples = 4, background = torch.ones(2, 3, 32, 32) },
    { "shap_kernel", samples = 4, regions = grid },
    { "shap_kernel", samples = 4, regions = { "grid", rows = 3, columns = 2 } },
    { "shap_partition", evals = 6, regions = grid },
    { "shap_partition", evals = 6, regions = { "grid", rows = 1, columns = 3 }, tree = { { 0, 2 }, 1 } },
    { "shap_partition", evals = 6, regions = { "grid", rows = 1, columns = 3 }, tree = { { 0, 1 }, 2 } },
    { "shap_partition", evals = 6, regions = function(image)
      return torch.arange(0, image:size(1)):view { -1, 1 }:expand { image:size(1), image:size(2) } // 16
    end },
  } do
    local set = go(dir, { methods = { entry }, images = 1, layer = "relu1" }).records[1].maps
    t.ok(not seen[set], "case " .. k .. " has the folder of another")
    seen[set] = true
  end
end)

t.test("--smoke takes a fiftieth of the samples", function()
  local script = t.write(t.tmpdir() .. "/smoke.lua", ([[
    package.path = "%s/tests/?.lua;" .. package.path
    local tiny = require "tinyexplain"
    local run = tiny.run(...)
    local result = require("medxai.steps.explain").run(run, tiny.model(), tiny.split(2), { methods = { { "shap_partition", evals = 500 },
      { "shap_kernel", samples = 5000, regions = { "grid", rows = 3, columns = 3 } }, { "shap_gradient", samples = 500, background = "split" } },
      images = 1, layer = "relu1", figures = false })
    for _, record in ipairs(result.records) do print(record.method, record.facts.evaluations or record.facts.samples) end
  ]]):format(t.root))
  local got = t.run { "--smoke", "--quiet", script, t.tmpdir() }
  t.equal({ got.code, got.out }, { 0, "shap_partition\t10\nshap_kernel\t102\nshap_gradient\t10\n" }, got.err)
end)

host.options.quiet = was_quiet
