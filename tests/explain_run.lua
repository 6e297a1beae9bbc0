-- run:explain on a tiny network and a split without files: output files, resuming, batches, judging, own methods, and
-- what is refused.
local t = require "t"
local tiny = require "tinyexplain"
local torch = require "medxai.torch"
local canon = require "medxai.base.json"
local choose = require "medxai.explain.images"
local explain = require "medxai.steps.explain"
local csv = require "medxai.base.csv"
local files = require "medxai.base.files"
local host = require "medxai.host"

local was_quiet = host.options.quiet
host.options.quiet = true

local function go(dir, options, change, n)
  local run = tiny.run(dir)
  options.figures = options.figures or false
  local scope <close> = require("medxai.core").memory.scope()
  local result = explain.run(run, tiny.model(), tiny.split(n or 6, change), options)
  return result, run
end

t.test("maps, raw maps and one record each are written, with what they were made of", function()
  local dir = t.tmpdir()
  local result = go(dir, { methods = { "gradcam" }, images = 2 })
  t.equal(#result.records, 2)
  local lines = files.lines(dir .. "/maps/index.jsonl")
  t.equal(#lines, 2)
  local record = canon.read(lines[1], "line")
  t.equal({ record.method, record.status, record.sign, record.layers[1], record.label, record.patient },
    { "gradcam", "ok", "signed", "conv2", "clear", "unknown" })
  t.equal(record.geometry.layers[1], { height = 8, width = 8, cell_height_px = 4.0, cell_width_px = 4.0 })
  t.equal({ record.forwards, record.backwards }, { 1, 1 })
  t.equal(#record.hashes.weights, 64)
  t.ok(record.maps:find("^gradcam%-%x%x%x%x%x%x%x%x$"))
  t.equal(table.concat(record.files, " "),
    ("maps/%s/0000000000000001.npy maps/%s/0000000000000001.raw.npy"):format(record.maps, record.maps))
  t.equal(torch.load_npy(dir .. "/" .. record.files[1]).shape, { 32, 32 })
  t.equal(torch.load_npy(dir .. "/" .. record.files[2]).shape, { 8, 8 })
  t.equal(files.list(dir .. "/maps/" .. record.maps),
    { "0000000000000001.npy", "0000000000000001.raw.npy", "0000000000000002.npy", "0000000000000002.raw.npy" })
end)

t.test("a second run makes nothing again; more images are added; a torn last line is removed", function()
  local dir = t.tmpdir()
  go(dir, { methods = { "gradcam" }, images = 2 })
  local before = t.read(dir .. "/maps/index.jsonl")
  go(dir, { methods = { "gradcam" }, images = 2 })
  t.equal(t.read(dir .. "/maps/index.jsonl"), before)
  local f <close> = io.open(dir .. "/maps/index.jsonl", "a")
  f:write('{"torn')
  f:close()
  go(dir, { methods = { "gradcam" }, images = 3 })
  local lines = files.lines(dir .. "/maps/index.jsonl")
  t.equal(#lines, 3)
  t.ok(t.read(dir .. "/maps/index.jsonl"):sub(1, #before) == before)
end)

t.test("a batch of six equals six singles", function()
  local a, b = t.tmpdir(), t.tmpdir()
  local one = go(a, { methods = { "gradcam", "random_smooth", "sobel" }, images = "all", batch = 1 })
  local six = go(b, { methods = { "gradcam", "random_smooth", "sobel" }, images = "all", batch = 6 })
  for i, record in ipairs(one.records) do
    local x, y = torch.load_npy(a .. "/" .. record.files[1]), torch.load_npy(b .. "/" .. six.records[i].files[1])
    t.ok((x - y):abs():max():item() < 2e-5, record.method)
  end
end)

t.test("settings, target, layer and weights each give a folder of their own", function()
  local dir, seen = t.tmpdir(), {}
  for _, options in ipairs { {}, { layer = "conv1" }, { target = "opacity" }, { layer = { "conv2", "conv1" } },
      { compat = "pytorch-grad-cam" } } do
    options.methods, options.images = { "gradcam" }, 1
    local set = go(dir, options).records[1].maps
    t.ok(not seen[set], "twice the same folder")
    seen[set] = true
  end
  t.equal(#files.list(dir .. "/maps"), 6) -- five sets and the index
end)

t.test("several layers are the mean of their maps", function()
  local dir = t.tmpdir()
  local both = go(dir, { methods = { "gradcam" }, images = 1, layer = { "conv1", "conv2" } }).records[1]
  t.equal(#both.files, 3)
  local map, sum = require "medxai.explain.map", torch.zeros(1, 32, 32)
  for k, side in ipairs { 16, 8 } do
    local raw = torch.load_npy(dir .. "/" .. both.files[k + 1])
    t.equal(raw.shape, { side, side })
    sum = sum + map.resize(map.minmax(raw:unsqueeze(0):relu()), 32, 32)
  end
  t.ok((map.minmax(sum / 2):squeeze(0) - torch.load_npy(dir .. "/" .. both.files[1])):abs():max():item() < 1e-6)
end)

t.test("images: one_per_class, a number (classes in turn), lists of numbers and names", function()
  local split = tiny.split(9)
  t.equal(choose.images(split, "one_per_class"), { 1, 2, 3 })
  t.equal(choose.images(split, 4), { 1, 2, 3, 4 })
  t.equal(choose.images(split, { 3, "image 7.png", "folder/image 2.png", "0000000000000005", 3 }), { 3, 7, 2, 5 })
  t.equal(#choose.images(split, "all"), 9)
  local sorted = tiny.split(6)
  local item = sorted.item
  function sorted:item(i)
    local one = item(self, i)
    one.label = (i - 1) // 2
    return one
  end
  t.equal(choose.images(sorted, 4), { 1, 3, 5, 2 })
  t.fails(function() choose.images(split, { 10 }) end, "explain: image 10 is out of range (the test split has 1 to 9).")
  t.fails(function() choose.images(split, { "nobody.png" }) end,
    "explain: no image 'nobody.png' in the test split (expected a number, a path, a file name or an image id).")
end)

t.test("images with the same pixels count as one, the first, with a warning", function()
  local dir, split = t.tmpdir(), tiny.split(6)
  local item = split.item
  function split:item(i)
    local one = item(self, i)
    if i == 3 or i == 6 then one.id = item(self, i - 1).id end -- of other classes
    if i == 5 then one.label = nil end
    return one
  end
  local run = tiny.run(dir)
  local result = explain.run(run, tiny.model(), split,
    { methods = { "gradcam" }, images = "all", target = { "predicted" }, figures = false })
  local paths = {}
  for i, record in ipairs(result.records) do paths[i] = record.path:match "%d" .. " " .. tostring(record.label) end
  t.equal(paths, { "1 clear", "2 nodule", "4 clear", "5 nil" })
  t.equal(run.warnings, { "explain: 'folder/image 3.png' (opacity) has the same pixels as 'folder/image 2.png' "
    .. "(nodule). They count as one image, the first. "
    .. "So does 1 more image of the test split." })
  t.equal(#files.lines(dir .. "/maps/index.jsonl"), 4)
  t.equal(select(2, choose.images(split, { 5, 6 })),
    "explain: 'folder/image 6.png' (opacity) has the same pixels as 'folder/image 5.png' (no label). They count as "
    .. "one image, the first.")
  t.equal({ choose.images(split, { 3, 5 }) }, { { 3, 5 } })
end)

t.test("energy inside the lesion and its chance level in scores.csv; images without mask are undefined", function()
  local dir = t.tmpdir()
  local result = go(dir, { methods = { "gradcam", "center_blob" }, images = "all",
    metrics = { "energy_inside", "pointing_game" }, mask = "lesion" })
  t.equal(#result.summaries, 4)
  local s = result.summaries[1]
  t.equal({ s.metric, s.method, s.n, s.of, s.undefined["no mask"] },
    { "energy_inside@1 mask=lesion", "gradcam", 4, 6, 2 })
  t.near(s.chance, 64 / 1024, 1e-9)
  t.ok(s.low ~= s.low and s.above_low ~= s.above_low and s.mean == s.mean)
  t.equal({ s.why, s.units, s.note }, { "fewer than 10 images", 4, "image-level, patients unknown" })
  local rows, columns = csv.read(dir .. "/scores.csv")
  t.equal(#rows, 24)
  t.equal(columns, require("medxai.score.registry").columns)
  t.equal({ rows[1].method, rows[1].undefined, rows[1].value }, { "gradcam", "no mask", "NaN" })
  go(dir, { methods = { "gradcam" }, images = "all", metrics = { "energy_inside" }, mask = "lesion" })
  t.equal(#csv.read(dir .. "/scores.csv"), 24)
end)

t.test("a summary's interval: studentized over patients, Wilson's for hits, else the reason for none", function()
  local rows = {}
  for _, m in ipairs { { "energy", "share" }, { "pointing", "hit" } } do
    for i = 1, 24 do
      rows[#rows + 1] = { metric = m[1], maps = "a", unit = m[2], patient = "p" .. (i + 1) // 2, chance = 0.1,
        value = m[2] == "hit" and (i % 6 == 0 and 0 or 1) or 0.3 + 0.1 * math.sin(i) }
    end
  end
  local energy, pointing = table.unpack(require("medxai.score.summary").summarize(rows, 42))
  t.equal({ energy.interval, energy.resampled, energy.units, energy.note }, { "studentized bootstrap", "patients", 12 })
  t.ok(energy.low < energy.mean and energy.mean < energy.high and energy.above_low > 0.1)
  t.near(energy.above, energy.mean - 0.1, 1e-12)
  t.near(energy.above_low, energy.low - 0.1, 1e-12, "the same resamples")
  t.equal({ pointing.interval, pointing.mean, pointing.resampled }, { "Wilson", 20 / 24, "patients" })
  t.ok(pointing.low > 0.6 and pointing.high < 0.95)
  for i = 25, 48 do rows[i].value = 0.5 end -- a metric of one's own that calls a half a hit
  t.equal({ require("medxai.score.summary").summarize(rows, 42)[2].interval,
    require("medxai.score.summary").summarize(rows, 42)[2].why }, { "studentized bootstrap", "no spread" })
  for i = 1, 24 do rows[i].patient = i == 3 and "unknown" or rows[i].patient end
  t.equal({ require("medxai.score.summary").summarize(rows, 42)[1].resampled,
    require("medxai.score.summary").summarize(rows, 42)[1].units }, { "images", 24 })
end)

t.test("a mask that no image has is an error before any map is made", function()
  local dir = t.tmpdir()
  t.fails(function()
    go(dir, { methods = { "gradcam" }, images = { 1, 4 }, metrics = { "energy_inside" }, mask = "lesion" })
  end,
    "explain: none of the 2 images has a mask 'lesion' (metric energy_inside).")
  t.ok(not files.exists(dir .. "/maps/index.jsonl"))
end)

t.test("a researcher's function that raises or returns a wrong shape fails alone", function()
  local dir = t.tmpdir()
  local calls = 0
  local result, run = go(dir, { images = 2, methods = {
    brightness = function(x) return x:select(0, 0):mean({ 0 }) end,
    gradient = function(x, model, which)
      x = x:detach():requires_grad_(true)
      return torch.autograd.grad(which:score(model(x)), x)[1]:select(0, 0):abs():sum({ 0 })
    end,
    nothing = function() end,
    raises = function() calls = calls + 1 error("boom") end,
    unknown = function(x) return x:nosuch() end,
    tall = function() return torch.zeros(64, 3) end,
  } })
  t.equal(tiny.statuses(result), { "ok", "ok", "failed", "failed", "failed", "failed", "ok", "ok", "failed", "failed",
    "failed", "failed" })
  t.equal(result.records[3].problem, "returned nothing instead of a tensor (32, 32)")
  t.equal(result.records[5].problem, "returned a tensor of shape (64, 3) instead of (32, 32)")
  t.ok(result.records[4].problem:find("boom$"))
  t.ok(result.records[6].problem:find("explain_run.lua:%d+: tensor: no operator 'nosuch'"), result.records[6].problem)
  t.ok(table.concat(run.warnings, "\n"):find("raises failed on 2 images, first 'folder/image 1.png': [^\n"
    .. "]*explain_run.lua:%d+: boom"))
  t.equal(calls, 2)
  go(dir, { images = 2, methods = { raises = function() calls = calls + 1 error("boom") end } })
  t.equal(calls, 4) -- failed maps are tried again
end)

t.test("own code may work in place, in half precision and in train mode without affecting other methods", function()
  local function own(x) return x:mean({ 1 }):squeeze(0) end
  local function beside_it(first)
    local result = go(t.tmpdir(), { images = 2, methods = { a_first = first, b_plain = own, "gradcam" },
      layer = "conv2" })
    return result, torch.stack({ torch.load_npy(result.dir .. "/" .. result.records[1].files[1]),
      torch.load_npy(result.dir .. "/" .. result.records[3].files[1]) }, 0)
  end
  local _, expected = beside_it(function(x) return x:select(0, 0):select(0, 0) end)
  for _, first in ipairs {
    function(x) return x:zero_():select(0, 0):select(0, 0) end,
    function(x, model) model:train() return own(x) end,
    function(x) return own(x):to { dtype = "float16" } end,
  } do
    local result, maps = beside_it(first)
    t.equal(tiny.statuses(result)[3], "ok")
    t.ok(maps:equal(expected))
  end
  local result = go(t.tmpdir(),
    { images = 1, methods = { half = function(x) return own(x):to { dtype = "float16" } end,
      raises = function() error({}) end, silent = function() error() end } })
  t.equal(tiny.statuses(result), { "ok", "failed", "failed" })
  t.equal(result.records[2].problem, 'raised a table instead of a text (expected error("..."))')
  t.equal(result.records[3].problem, 'raised nil instead of a text (expected error("..."))')
end)

t.test("a flat map is all zero, not noise; no metric ranks it", function()
  local dir = t.tmpdir()
  local function noise(x) return x:mean({ 1 }):squeeze(0) * 1e-6 + 1 end
  local result = go(dir, { images = { 2 }, methods = { noise = noise }, mask = "lesion",
    metrics = { "energy_inside", { "deletion", steps = 2, removal = { "black" } }, "confidence_increase" } })
  t.equal(tiny.statuses(result), { "flat" })
  t.equal(torch.load_npy(dir .. "/" .. result.records[1].files[1]):abs():max():item(), 0.0)
  for _, s in ipairs(result.summaries) do t.equal(s.n, 0, s.metric) end
end)

t.test("Sobel of a constant image is flat; maps of NaN weights are nan", function()
  local dir = t.tmpdir()
  local flat = go(dir, { methods = { "sobel" }, images = 1 }, function(x) return x:fill_(0.5) end)
  t.equal(tiny.statuses(flat), { "flat" })
  local run, model = tiny.run(dir), tiny.model()
  for _, p in ipairs(model:parameters()) do
    if p.name == "conv2.weight" then torch.no_grad(function() p.tensor:fill_(0 / 0) end) end
  end
  local broken = explain.run(run, model, tiny.split(3), { methods = { "gradcam" }, images = 2, figures = false })
  t.equal(tiny.statuses(broken), { "nan", "nan" })
  t.ok(table.concat(run.warnings, "\n"):find("explain: Grad%-CAM: 2 of 2 maps hold values that are not "
    .. "numbers %(nan%)"))
end)

t.test("out of memory halves the batch, warns, and changes no map", function()
  local a, b = t.tmpdir(), t.tmpdir()
  local whole = go(a, { methods = { "gradcam" }, images = "all" }, nil, 7)
  local split = tiny.split(7)
  local batch, sizes = split.batch, {}
  function split:batch(numbers)
    sizes[#sizes + 1] = #numbers
    if #numbers > 2 then error("conv2d: out of memory: 1 MB requested, 0 MB left", 0) end
    return batch(self, numbers)
  end
  local run = tiny.run(b)
  local halved = explain.run(run, tiny.model(), split, { methods = { "gradcam" }, images = "all", figures = false })
  t.equal(table.concat(sizes, " "), "1 6 3 1 2 3 1 2")
  t.equal(run.warnings[1], "explain: 6 images at once do not fit into memory: going on with 3")
  for i, record in ipairs(whole.records) do
    local x, y = torch.load_npy(a .. "/" .. record.files[1]), torch.load_npy(b .. "/" .. halved.records[i].files[1])
    t.ok((x - y):abs():max():item() < 2e-5)
  end
end)

t.test("an interrupt inside a researcher's method does not count as its failure", function()
  local dir, before = t.tmpdir(), host.interrupted
  local restore <close> = setmetatable({}, { __close = function() host.interrupted = before end })
  local run, model = tiny.run(dir), tiny.model()
  t.fails(function()
    explain.run(run, model, tiny.split(3), { figures = false, images = 2, methods = { stopped = function()
      host.interrupted = function() return "SIGINT" end
      error("interrupted", 0)
    end } })
  end, "interrupted")
  t.ok(not io.open(dir .. "/maps/index.jsonl"))
end)

t.test("a finished step is not done again, but failed maps are tried again", function()
  local dir = t.tmpdir()
  local run, model, split = tiny.run(dir), tiny.model(), tiny.split(3)
  local finished, skipped = {}, {}
  function run:step(name)
    local step = { done = finished[name] ~= nil, result = finished[name] }
    function step.finish(_, result) finished[name] = result end
    return step
  end
  function run:skipped(name) skipped[#skipped + 1] = name end
  local calls = 0
  local methods = { "gradcam" }
  for _ = 1, 2 do explain.run(run, model, split, { methods = methods, images = 2, figures = false }) end
  t.equal(#skipped, 1)
  methods = { raises = function() calls = calls + 1 error("no") end }
  for _ = 1, 2 do explain.run(run, model, split, { methods = methods, images = 1, figures = false }) end
  t.equal({ #skipped, calls }, { 1, 2 })
end)

t.test("the model returns to the mode in which it was", function()
  local dir, model = t.tmpdir(), tiny.model()
  model:train()
  explain.run(tiny.run(dir), model, tiny.split(3), { methods = { "gradcam" }, images = 1, figures = false })
  t.ok(model:is_training())
end)

t.test("figures are saved as PNG, SVG and PDF, the metric's chart too", function()
  local dir = t.tmpdir()
  local result = go(dir, { methods = { "gradcam", "sobel" }, images = 3, metrics = { "energy_inside" }, mask = "lesion",
    figures = true, scale = "shared" })
  t.equal(#result.figures, 3) -- maps, table, chart
  for _, figure in ipairs(result.figures) do
    t.equal(t.read(dir .. "/" .. figure.paths[1]):sub(1, 8), "\137PNG\r\n\26\n")
    t.ok(t.read(dir .. "/" .. figure.paths[2]):find("<text", 1, true))
    t.equal(t.read(dir .. "/" .. figure.paths[3]):sub(1, 5), "%PDF-")
  end
  local svg = t.read(dir .. "/" .. result.figures[1].paths[2])
  t.ok(svg:find(">Grad-CAM<", 1, true) and svg:find("Shared scale", 1, true) and svg:find("p = 0.", 1, true))
end)

t.test("unknown methods, layers, options, metrics and masks are refused before anything is computed", function()
  local model = tiny.model()
  local function check(options) return function() explain.check(options, model) end end
  t.fails(check { methods = { "gradcan" } }, "explain: unknown method 'gradcan'. Did you mean 'gradcam' or 'xgradcam'?")
  t.fails_like(check { methods = { "zebra" } },
    "^explain: unknown method 'zebra'%..* Or write it as 'zebra.lua' beside the experiment%.$")
  t.fails(check { methods = {} }, "explain: no methods (expected methods = { \"gradcam\", ... }).")
  t.fails(check {}, "explain: option 'methods' is missing (expected string or table: names, { name, option = value "
    .. "}, or name = function(x, model, target): a method each). Add methods = ... to it.")
  t.fails_like(check { methods = { "gradcam" }, layer = "conv3" },
    "^explain: unknown layer 'conv3'%. Did you mean 'conv")
  t.fails(check { methods = { "gradcam" }, layer = "fc" },
    "explain: layer 'fc' has no spatial extent (it comes after 'flat'). Choose one with a grid, for instance 'conv2'.")
  t.fails(check { methods = { gradcam = { samples = 3 } } },
    "gradcam: unknown option 'samples'. Known: aug_smooth, budget_mb, compat, eigen_smooth, layer, target.")
  t.fails(check { methods = { "gradcam" }, layers = "conv2" },
    "explain: unknown option 'layers'. Did you mean 'layer'?")
  t.fails(check { methods = { "gradcam" }, images = "some" },
    "explain: images is a number, a list, 'all' or 'one_per_class' (got 'some').")
  t.fails(check { methods = { "gradcam" }, target = 7 },
    "explain: target class 7 is out of range (the model has classes 0 to 2: clear, nodule, opacity).")
  t.fails(check { methods = { "gradcam" }, metrics = { "energy" }, mask = "lesion" },
    "explain: unknown metric 'energy'. Did you mean 'energy_inside'?")
  t.fails(check { methods = { "gradcam" }, metrics = { "energy_inside" } },
    "explain: metric 'energy_inside' needs a mask (expected mask = \"lesion\" or the like beside metrics).")
  t.fails(check { methods = { sobel = { layer = "conv2" } } },
    "explain: method 'sobel' works on the input and takes no layer.")
  t.fails(check { methods = { my = 3 } }, "explain: method 'my' takes a table of options or a function (got number).")
  t.fails(function() explain.run(tiny.run(t.tmpdir()), model, nil, { methods = { "gradcam" } }) end,
    "explain: takes a split of the data, for instance data.test (got nil).")
end)

t.test("a method file beside the experiment is found, and a broken one is named", function()
  local dir = t.tmpdir()
  local place <close> = tiny.beside(dir)
  t.write(dir .. "/edges_here.lua", "return function(x) return x:select(0, 0):mean({ 0 }) end")
  t.write(dir .. "/typo.lua", "return functio(x)")
  t.write(dir .. "/number.lua", "return 3")
  t.write(dir .. "/per_layer.lua", "return { title = 'channel mean', at = 'layer', needs = { activation = true }, "
    .. "map = function(ctx) return ctx:activation():mean({ 1 }) end }")
  local result = go(t.tmpdir(), { methods = { "edges_here", "per_layer" }, images = 1 })
  t.equal(tiny.statuses(result), { "ok", "ok" })
  t.equal(torch.load_npy(result.dir .. "/" .. result.records[2].files[2]).shape, { 8, 8 })
  t.fails_like(function() explain.check({ methods = { "typo" } }) end, "^explain: .*typo%.lua:1: ")
  t.fails(function() explain.check({ methods = { "number" } }) end,
    "explain: 'number.lua' returns a number (expected a function(x, model, target) or a method table).")
end)

host.options.quiet = was_quiet

t.test("rows read back from scores.csv equal those computed", function()
  local run, model, split = tiny.run(t.tmpdir()), tiny.model(), tiny.split(3)
  local judge = require "medxai.score.runner"
  local options = { methods = { "saliency", "gradcam" }, images = "all", figures = false, mask = "lesion",
    metrics = { "deletion", "energy_inside", { "confidence_drop", as = "softmax" } } }
  local scope <close> = require("medxai.core").memory.scope() -- luacheck: ignore
  local result = explain.run(run, model, split, options)
  local job = require("medxai.explain.job").new(run, model, split, explain.check(options, model, split), { 1, 2, 3 })
  local kept = judge.kept_rows(job)
  t.equal(#kept, #result.rows)
  t.ok(#kept >= 3 * 3 * 2)
  for i, row in ipairs(result.rows) do
    for _, key in ipairs { "maps", "image_id", "metric", "unit", "undefined" } do
      t.equal(kept[i][key], row[key], key)
    end
    for _, key in ipairs { "value", "chance" } do
      t.ok(kept[i][key] == row[key] or kept[i][key] ~= kept[i][key] and row[key] ~= row[key], key)
    end
  end
  local text = files.read(run.dir .. "/scores.csv")
  files.write(run.dir .. "/scores.csv", (text:gsub("[^\n]+\n$", "")))
  t.equal(judge.kept_rows(job), nil)
end)
