-- The weights of a run are used with the settings of its training, or not at all: used by name and by path they give
-- the logits
-- that the run wrote of its validation images, to the last bit; a model or data of another setting are refused, naming
-- both values.
local t = require "t"
local csv = require "medxai.base.csv"
local files = require "medxai.base.files"
local image = require "medxai.core".image
local torch = require "medxai.torch"

-- ---- data: nine pictures of 12 bits in 16, with masks
-- ---------------------------------------------------------------------

local function chunk(body)
  local c = 0xffffffff
  for i = 1, #body do
    c = c ~ body:byte(i)
    for _ = 1, 8 do c = c & 1 == 1 and 0xedb88320 ~ c >> 1 or c >> 1 end
  end
  return string.pack(">I4", #body - 4) .. body .. string.pack(">I4", ~c & 0xffffffff)
end

-- A grey PNG of 16 bits whose samples are f(row, column).
local function write_deep(path, w, h, f)
  local rows = {}
  for y = 1, h do
    local row = { "\0" }
    for x = 1, w do row[x + 1] = string.pack(">I2", f(y, x)) end
    rows[y] = table.concat(row)
  end
  local raw, a, b = table.concat(rows), 1, 0
  for i = 1, #raw do
    a = (a + raw:byte(i)) % 65521
    b = (b + a) % 65521
  end
  local data = "\x78\1\1" .. string.pack("<I2I2", #raw, ~#raw & 0xffff) .. raw .. string.pack(">I4", b << 16 | a)
  t.write(path, "\x89PNG\r\n\x1a\n" .. chunk("IHDR" .. string.pack(">I4I4", w, h) .. "\16\0\0\0\0") .. chunk("IDAT"
    .. data) .. chunk "IEND")
end

local function make_data(dir)
  files.mkdir(dir .. "/data")
  local mask = torch.zeros({ 64, 70, 1 }, { dtype = "uint8" })
  mask[{ { 10, 50 }, { 12, 60 } }] = 255
  image.save(dir .. "/data/mask.png", mask)
  local lines = { "path,label,split,mask" }
  for i = 0, 8 do
    write_deep(("%s/data/%d.png"):format(dir, i), 70, 64, function(y,
      x) return (y * (37 + 5 * (i % 3)) + x * (11 + i) + 300 * (i % 3)) % 4096 end)
    lines[#lines + 1] = ("%d.png,%s,%s,mask.png"):format(i, ({ "clear", "nodule", "opacity" })[i % 3 + 1], i < 3
      and "train" or i < 6 and "val" or "test")
  end
  t.write(dir .. "/data/manifest.csv", table.concat(lines, "\n") .. "\n")
end

-- ---- experiments
-- ------------------------------------------------------------------------------------------------------------

local head = [[
local xai = require "medxai"
local run = xai.run { name = NAME, seed = 5 }
local function read(more)
  local o = { csv = "data", classes = { "opacity", "clear", "nodule" }, input = "lungs_raw", size_px = 48,
    resize_px = 53, white_16bit = 4095,
    mean = { 0.25, 0.5, 0.125 }, std = { 0.3, 0.2, 0.7 } }
  for k, v in pairs(more or {}) do o[k] = v end
  for k, v in pairs(o) do if v == "none at all" then o[k] = nil end end
  return xai.dataset.manifest(o)
end
]]

local function go(dir, name, text)
  local script = t.write(dir .. "/" .. name .. ".lua", head:gsub("NAME", ("%q"):format(name)) .. text)
  return t.run { script, cwd = dir, timeout = 200 }
end

-- The logits of the validation images as predictions.csv has them, a text.
local function logits(dir, name)
  local rows, columns = csv.read(("%s/runs/%s/predictions.csv"):format(dir, name))
  local lines = {}
  for _, row in ipairs(t.ok(rows, name .. " has no predictions.csv")) do
    local cells = { row.path }
    for _, column in ipairs(columns) do
      if column:find "^logit_" then cells[#cells + 1] = column .. " " .. tostring(row[column]) end
    end
    if row.split == "val" then lines[#lines + 1] = table.concat(cells, " ") end
  end
  t.equal(#lines, 3)
  return table.concat(lines, "\n")
end

-- Trains `model` (the text of a constructor), and uses it by each of its names with `used`.
local function train_and_use(dir, model, used, data, names)
  data = data or "local data = read()\n"
  local r = go(dir, "first", data .. "run:fit(" .. model .. ", data, { optim = xai.optim.sgd { lr = 0.01 }, epochs = "
    .. "1, batch = 3 })")
  t.equal(r.code, 0, r.err)
  for name, spec in pairs(names or { by_name = "first", by_path = "runs/first/weights.pt",
    by_folder = "runs/first" }) do
    r = go(dir, name, data .. "run:evaluate(" .. used:gsub("SPEC", ("%q"):format(spec))
      .. ", data.val, { batch = 3 })")
    t.equal(r.code, 0, r.err)
    t.equal(logits(dir, name), logits(dir, "first"), name)
  end
  return r
end

-- What each of the programs says that stops it; told apart by their names.
local function refusals(dir, list)
  local text = {}
  for _, one in ipairs(list) do
    text[#text + 1] = ("do local ok, message = pcall(function() %s end) io.stdout:write(%q, ': ', ok and 'taken' or "
      .. "message, '\\n') end"):format(one[2], one[1])
  end
  local r = go(dir, "refused", table.concat(text, "\n"))
  t.equal(r.code, 0, r.err)
  for _, one in ipairs(list) do
    local line = ("\n" .. r.out):match("\n" .. one[1] .. ": ([^\n]*)")
    t.equal(line, one[3], one[1])
  end
end

local function hint(name) return ("Use the same, or other weights; where the difference is meant, write force = { "
  .. "'%s' } in the model's options."):format(name) end

t.test("a run's data settings are asked of whatever data its weights are used with, by name and by path", function()
  local dir = t.tmpdir()
  make_data(dir)
  local small = "xai.models.squeezenet1_0 { classes = data.classes, head = 'torchvision' }"
  train_and_use(dir, small, "xai.models.squeezenet1_0 { weights = SPEC }")
  local function evaluated(more) return ("run:evaluate(xai.models.squeezenet1_0 { weights = 'runs/first/weights.pt' "
    .. "}, read { %s }.val)"):format(more) end
  local function says(name, theirs, ours)
    return ("weights: the run 'runs/first/weights.pt' has %s %s (here: %s). %s"):format(name, theirs, ours, hint(name))
  end
  refusals(dir, {
    { "size_px", evaluated "size_px = 40", says("size_px", "48", "40") },
    { "resize_px", evaluated "resize_px = 54", says("resize_px", "53", "54") },
    { "input", evaluated "input = 'whole'", says("input", "lungs_raw", "whole") },
    { "white_16bit", evaluated "white_16bit = 65535", says("white_16bit", "4095", "65535") },
    { "mean", evaluated "mean = { 0.25, 0.5, 0.25 }", says("mean", "0.25, 0.5, 0.125", "0.25, 0.5, 0.25") },
    { "std", evaluated "std = { 0.3, 0.2, 0.7000000000000001 }", says("std", "0.3, 0.2, 0.7",
      "0.3, 0.2, 0.70000000000000007") },
    { "no mean", evaluated "mean = 'none at all', std = 'none at all'", says("mean", "0.25, 0.5, 0.125", "0, 0, 0") },
    { "class order", evaluated "classes = { 'clear', 'opacity', 'nodule' }",
      "evaluate: class 0 is 'opacity' in the model and 'clear' in the data (expected opacity, clear, nodule)." },
    { "explain", "run:explain(xai.models.squeezenet1_0 { weights = 'first' }, read { resize_px = 60 }.val, { methods "
      .. "= { 'gradcam' } })",
      says("resize_px", "53", "60"):gsub("runs/first/weights.pt", "first") },
    { "overlap", "run:overlap(xai.models.squeezenet1_0 { weights = 'first' }, read { resize_px = 60 }.val, { methods "
      .. "= { 'gradcam' }, mask = 'lungs' })",
      says("resize_px", "53", "60"):gsub("runs/first/weights.pt", "first") },
    { "fit", "run:fit(xai.models.squeezenet1_0 { weights = 'first' }, read { resize_px = 60 }, { optim = "
      .. "xai.optim.sgd { lr = 0.01 }, epochs = 1 })",
      says("resize_px", "53", "60"):gsub("runs/first/weights.pt", "first") },
    { "grid", "run:grid { train_depth = { 0 }, train = function() return xai.models.squeezenet1_0 { weights = 'first' "
      .. "}, read { resize_px = 60 }, "
      .. "{ optim = xai.optim.sgd { lr = 0.01 }, epochs = 1 } end }", says("resize_px", "53",
        "60"):gsub("runs/first/weights.pt", "first") },
  })
end)

t.test("after a training the model's data settings are its run's, in the same experiment too, also when it was "
  .. "finished before", function()
  local dir = t.tmpdir()
  make_data(dir)
  local text = [[
local model = xai.models.squeezenet1_0 { classes = read().classes }
run:fit(model, read(), { optim = xai.optim.sgd { lr = 0.01 }, epochs = 1, batch = 3 })
run:evaluate(model, read { resize_px = 60 }.val)]]
  for _ = 1, 2 do
    local r = go(dir, "first", text)
    t.equal(r.code, 1)
    t.ok(r.err:find("weights: the run 'first' has resize_px 53 (here: 60). " .. hint "resize_px", 1, true), r.err)
  end
end)

t.test("a run's model settings are taken where they are left out, told, and refused where they are given otherwise",
  function()
  local dir = t.tmpdir()
  make_data(dir)
  local r = train_and_use(dir, "xai.models.mobilenet_v2 { classes = data.classes, hidden = 9, layout = 'nchw', "
    .. "dropout = 0.3 }", "xai.models.mobilenet_v2 { weights = SPEC }")
  t.ok(r.err:find "weights: as the run '[%w/.]+' was trained: hidden = 9, layout = nchw\n", r.err)
  local function built(more) return ("xai.models.mobilenet_v2 { weights = 'first', %s }"):format(more) end
  local function says(name, theirs, ours) return ("weights: the run 'first' has %s %s (here: %s). %s"):format(name,
    theirs, ours, hint(name)) end
  refusals(dir, {
    { "hidden", built "hidden = 8", says("hidden", "9", "8") },
    { "head", built "head = 'torchvision'", says("head", "thesis", "torchvision") },
    { "layout", built "layout = 'channels_last'", says("layout", "nchw", "channels_last") },
    { "dtype", built "dtype = 'float64'", says("dtype", "float32", "float64") },
    { "engine", built "engine = 'reference'", says("engine", "auto", "reference") },
    { "classes", built "classes = { 'clear', 'nodule', 'opacity' }", says("classes", "opacity, clear, nodule",
      "clear, nodule, opacity") },
    { "number of classes", built "classes = 4", says("classes", "opacity, clear, nodule", "0, 1, 2, 3") },
    { "network", "xai.models.squeezenet1_0 { weights = 'first' }",
      "weights: the run 'first' has the network mobilenet_v2 (here: squeezenet1_0). Use the same, or other weights." },
    { "an old word", built "other_size = true", "mobilenet_v2: option 'other_size' is now force = { 'size_px', "
      .. "'resize_px' }." },
    { "another old word", built "weights_from_other_data = true",
      "mobilenet_v2: option 'weights_from_other_data' is now force, with the settings that differ: force = { "
      .. "'input' }." },
    { "a setting that there is not", built "force = { 'size' }", "mobilenet_v2: force: unknown setting 'size'. Did "
      .. "you mean 'size_px', 'resize_px' or 'mask_resize'?" },
    { "training alone", built "dropout = 0.5, train_depth = 0, frozen = 'eval'", "taken" },
  })
end)

t.test("a run's engine is taken with its weights", function()
  local dir = t.tmpdir()
  make_data(dir)
  local r = train_and_use(dir, "xai.models.squeezenet1_0 { classes = data.classes, engine = 'reference' }",
    "xai.models.squeezenet1_0 { weights = SPEC }")
  t.ok(r.err:find "weights: as the run '[%w/.]+' was trained: engine = reference\n", r.err)
end)

t.test("Inception's transform_input comes with the weights of its run", function()
  local dir = t.tmpdir()
  local data = "local data = xai.dataset.phantom { n_train = 3, n_val = 3, n_test = 3, size_px = 299 }\n"
  train_and_use(dir, "xai.models.inception_v3 { classes = data.classes, head = 'torchvision', transform_input = true, "
    .. "train_depth = 0 }",
    "xai.models.inception_v3 { weights = SPEC }", data, { by_name = "first" })
  refusals(dir, { { "transform_input", "xai.models.inception_v3 { weights = 'first', transform_input = false }",
    "weights: the run 'first' has transform_input true (here: false). " .. hint "transform_input" } })
end)

local own = [[
local function network(o)
  o = o or {}
  return xai.graph.network { name = "tiny", classes = o.classes, weights = o.weights, size_px = 48, build = function(g,
    x)
    x = g:batch_norm2d("bn", g:conv2d("conv", x, { 3, 4, 3 }), 4, { momentum = o.momentum, eps = o.eps })
    x = o.silu and g:silu("act", x) or g:relu("act", x)
    x = g:dropout("drop", g:flatten(nil, g:adaptive_avg_pool2d("pool", x, 1)), o.p or 0.1)
    return g:linear("fc", x, { 4, 3 })
  end }
end
local data = read()
]]

t.test("a network of one's own must compute what it computed in its run; what is for training alone may change",
  function()
  local dir = t.tmpdir()
  make_data(dir)
  train_and_use(dir, "network { classes = data.classes }", "network { weights = SPEC, p = 0.7, momentum = 0.01 }", own)
  local function refused(name, more)
    local r = go(dir, "refused", own .. ("network { weights = 'first', %s }"):format(more))
    t.equal(r.code, 1, name)
    t.ok(r.err:find("weights: the run 'first' has graph %x+ %(here: %x+%)%. Use the same"), name .. ": " .. r.err)
  end
  refused("another activation", "silu = true")
  refused("another epsilon", "eps = 0.001")
end)

t.test("a difference that force names is taken, told, and in config.json and the report", function()
  local dir = t.tmpdir()
  make_data(dir)
  local r = go(dir, "first", "run:fit(xai.models.squeezenet1_0 { classes = read().classes }, read(), { optim = "
    .. "xai.optim.sgd { lr = 0.01 }, epochs = 1, batch = 3 })")
  t.equal(r.code, 0, r.err)
  local text = [[
local model = xai.models.squeezenet1_0 { weights = "first", layout = "nchw", force = { "size_px", "layout", "input" } }
run:evaluate(model, read { size_px = 40, input = "whole" }.val)
run:report()]]
  for _ = 1, 2 do -- the second time every step is done already
    r = go(dir, "second", text)
    t.equal(r.code, 0, r.err)
    local before, here = "the run 'first'", {}
    for i, words in ipairs { { "layout", "channels_last", "nchw" }, { "size_px", "48", "40" }, { "input", "lungs_raw",
      "whole" } } do
      here[i] = ("%s: %s had %s, here it is %s"):format(words[1], before, words[2], words[3])
      t.ok(r.err:find(("weights: %s is %s here, and %s in %s: force allows it."):format(words[1], words[3], words[2],
        before), 1, true), r.err)
    end
    t.equal(table.concat(files.read_data(dir .. "/runs/second/config.json").differs_from_weights, "; "),
      table.concat(here, "; "))
    local page = t.read(dir .. "/runs/second/report.html")
    t.ok(page:find("Differs on purpose from the run of the weights", 1, true))
    t.ok(page:find("size_px: the run &#39;first&#39; had 48, here it is 40", 1, true)
      or page:find("size_px: the run 'first' had 48, here it is 40", 1, true))
  end
  r = go(dir, "third", 'run:evaluate(xai.models.squeezenet1_0 { weights = "first", force = { "size_px" } }, '
    .. 'read { size_px = 40, input = "whole" }.val)')
  t.equal(r.code, 1)
  t.ok(r.err:find("has input lungs_raw (here: whole)", 1, true), r.err)
end)

t.test("a file in a run's folder that is not its weights is refused, and a run without model.json is told of",
  function()
  local dir = t.tmpdir()
  make_data(dir)
  local r = go(dir, "first", "run:fit(xai.models.squeezenet1_0 { classes = read().classes }, read(), { optim = "
    .. "xai.optim.sgd { lr = 0.01 }, epochs = 1, batch = 3 })")
  t.equal(r.code, 0, r.err)
  r = go(dir, "second", 'xai.save("runs/first/other.pt", xai.models.squeezenet1_0 { classes = 3, seed = 1 }) '
    .. 'xai.models.squeezenet1_0 { weights = "runs/first/other.pt" }:parameters()')
  t.equal(r.code, 1)
  t.ok(r.err:find("weights: 'runs/first/other%.pt' does not hold the weights that 'runs/first/model%.json' beside it "
    .. "describes %(SHA%-256 %x+%.%.%., not %x+%.%.%.%)%. "
    .. "Train that run again, or move the file elsewhere%."), r.err)
  os.remove(dir .. "/runs/first/model.json")
  r = go(dir, "third", 'xai.models.squeezenet1_0 { classes = read().classes, weights = "first" }:parameters()')
  t.equal(r.code, 0, r.err)
  t.ok(r.err:find("weights: the run 'first' has no model.json: with what settings it was trained is not known, and is "
    .. "not compared.", 1, true), r.err)
end)

t.test("model.json says what it takes to build the model and to read the data again", function()
  local dir = t.tmpdir()
  make_data(dir)
  local r = go(dir, "first", "run:fit(xai.models.squeezenet1_0 { classes = read().classes, train_depth = 1 }, read { "
    .. "augment = true, cache_mb = 3 }, "
    .. "{ optim = xai.optim.sgd { lr = 0.01 }, epochs = 1, batch = 3 })")
  t.equal(r.code, 0, r.err)
  local said = files.read_data(dir .. "/runs/first/model.json")
  local canon = require "medxai.base.json"
  t.equal(canon.write(said.data), canon.write { reader = "manifest", options = { csv = "data", classes = { "opacity",
    "clear", "nodule" }, input = "lungs_raw", size_px = 48, resize_px = 53, white_16bit = 4095,
    mean = { 0.25, 0.5, 0.125 }, std = { 0.3, 0.2, 0.7 }, augment = true, labels = "true" } })
  for key, value in pairs { format = "medxai.model", network = "squeezenet1_0", head = "thesis", dtype = "float32",
      layout = "channels_last",
    device = "cpu", size_px = 48, resize_px = 53,
    white_16bit = 4095,
    interpolation = "bilinear", channels = 3, range = { 0, 1 }, mean = { 0.25, 0.5, 0.125 }, std = { 0.3, 0.2, 0.7 },
      input = "lungs_raw", train_depth = 1,
    classes = { "opacity", "clear", "nodule" }, run = "first", seed = 5 } do
    t.equal(canon.write(said[key]), canon.write(value), key)
  end
end)

t.test("the check before training compares data with the weights' run, but for what is known only later", function()
  local dir = t.tmpdir()
  make_data(dir)
  local fit = "run:fit(xai.models.squeezenet1_0 { classes = read().classes, seed = 2 }, read(), "
    .. "{ optim = xai.optim.sgd { lr = 0.01 }, epochs = 1, batch = 3 })\n"
  t.equal(go(dir, "first", fit).code, 0)
  local function explained(size)
    return "local trained = " .. fit .. "run:explain(xai.models.squeezenet1_0 { weights = 'first' }, read { size_px = "
      .. size
      .. " }.val, { methods = { 'sobel' }, figures = false })"
  end
  local r = go(dir, "second", explained "40")
  t.equal(r.code, 1)
  t.ok(r.err:find("has size_px 48 (here: 40)", 1, true), r.err)
  t.ok(not files.exists(dir .. "/runs/second/weights.pt"), "it was found after the training")
  local later = explained "47 + trained.epochs" -- 48: what the check cannot know; it goes on to the next line
  r = go(dir, "third", later .. "\nrun:report { titel = 'x' }")
  t.ok(r.err:find("report: unknown option 'titel'. Did you mean 'title'?", 1, true), r.err)
  t.ok(not files.exists(dir .. "/runs/third/weights.pt"), "it was found after the training")
  r = go(dir, "fourth", later)
  t.equal(r.code, 0, r.err)
end)

-- ---- xai.trained
-- ------------------------------------------------------------------------------------------------------------

t.test("xai.trained gives a run's model and data as they were, whatever their settings", function()
  local dir = t.tmpdir()
  make_data(dir)
  local r = go(dir, "first", [[
local data = read { labels = "permuted" }
run:fit(xai.models.mobilenet_v2 { classes = data.classes, hidden = 9, layout = "nchw", seed = 3 }, data,
  { optim = xai.optim.sgd { lr = 0.01 }, epochs = 1, batch = 3 })]])
  t.equal(r.code, 0, r.err)
  local examine = t.write(dir .. "/examine.lua", [[
local xai = require "medxai"
local run = xai.run { name = "examine", of = "first" }
local model, data = xai.trained(run.of)
print(model.name, model.config.hidden, data.name, data.input, data.config.labels)
run:evaluate(model, data.val, { batch = 3 })]])
  os.execute(("mkdir %s/elsewhere && cp -r %s/runs/first %s/elsewhere/seed-2"):format(dir, dir, dir))
  for of, name in pairs { first = "first_examine", ["elsewhere/seed-2/"] = "elsewhere-seed-2_examine" } do
    r = t.run { examine, "--of", of, cwd = dir, timeout = 200 }
    t.equal(r.code, 0, r.err)
    t.ok(r.out:find "mobilenet_v2\t9\tmanifest\tlungs_raw\tnil\n", r.out)
    t.equal(logits(dir, name), logits(dir, "first"), name)
  end
end)

t.test("options of xai.trained replace the data's, and what the network would see otherwise has to "
  .. "be forced", function()
  local dir = t.tmpdir()
  make_data(dir)
  local r = go(dir, "first", "run:fit(xai.models.squeezenet1_0 { classes = read().classes }, read(), { optim = "
    .. "xai.optim.sgd { lr = 0.01 }, epochs = 1, batch = 3 })")
  t.equal(r.code, 0, r.err)
  os.rename(dir .. "/data", dir .. "/moved")
  local function used(options) return ("local model, data = xai.trained('first', %s) run:evaluate(model, data.val, "
    .. "{ batch = 3 })"):format(options) end
  refusals(dir, {
    { "gone", used "nil", "manifest: cannot read 'data': No such file or directory." },
    { "other input", used "{ data = { csv = 'moved', input = 'whole' } }",
      "weights: the run 'first' has input lungs_raw "
      .. "(here: whole). " .. hint "input" },
    { "another word", used "{ root = 'moved' }", "trained: unknown option 'root'. Known: data, force, run, sizes." },
    { "no such run", used "{}" :gsub("first", "frist"), "weights: there is no run 'frist' (looked for "
      .. "runs/frist/weights.pt). Run the experiment of that name first, or give a path to a file." },
    { "no run", "xai.trained 'imagenet'", "trained: 'imagenet' is no run. Use xai.models.NAME { classes = ..., weights "
      .. "= 'imagenet' }." },
    { "nothing", "xai.trained()", "trained: no run is named (expected its name, as in xai.trained(\"vgg19\"); for "
      .. "xai.trained(run.of): "
      .. "--of vgg19 behind the experiment, or xai.run { of = \"vgg19\" })." },
  })
  r = go(dir, "second", used "{ data = { csv = 'moved', input = 'whole', limit = 1 }, force = { 'input' } }")
  t.equal(r.code, 0, r.err)
  t.ok(r.err:find("weights: input is whole here, and lungs_raw in the run 'first': force allows it.", 1, true), r.err)
  r = t.run { "-e", "require('medxai').trained('first', { data = { csv = 'moved' } })", "--input", "lungs", cwd = dir }
  t.equal(r.code, 0, r.err)
  t.ok(r.err:find("--input: input = lungs in manifest (instead of lungs_raw)", 1, true), r.err)
end)

t.test("the thesis' sizes are those of its whole images on MobileNet V2", function()
  local dir = t.tmpdir()
  local root = require("medxai.file").realpath(t.shared()) .. "/covid-cxr"
  for _, mask in ipairs { "none", "lungs" } do
    local folder = ("%s/runs/%s"):format(dir, mask)
    files.mkdir(folder)
    t.write(folder .. "/weights.pt", "")
    files.write_data(folder .. "/model.json",
      { format = "medxai.model", network = "mobilenet_v2", classes = { "COVID-19",
      "Non-COVID", "Normal" }, size_px = 225, input_mode = mask,
      data = { reader = "covid_qu_ex", options = { root = root, mask = mask, size_px = 225, resize_px = 256 } } })
    for sizes, size in pairs { trained = 225, thesis = mask == "none" and 224 or 225 } do
      local r = t.run { "-e",
        ("local x = require 'medxai' x.run { name = 'new' } local m, d = x.trained('%s') print(d.size_px, "
          .. "d.resize_px, m.force.size_px)")
        :format(mask), "--sizes", sizes, cwd = dir }
      t.equal(r.out, ("%d\t256\t%s\n"):format(size, tostring(size == 224 or nil)), r.err)
    end
  end
end)

t.test("a network of one's own cannot be built from its run, and an old model.json does not say its data", function()
  local dir = t.tmpdir()
  local function says(described)
    files.mkdir(dir .. "/runs/old")
    t.write(dir .. "/runs/old/weights.pt", "")
    described.format = "medxai.model"
    files.write_data(dir .. "/runs/old/model.json", described)
    local r = t.run { "-e", "require('medxai').trained 'old'", cwd = dir }
    t.equal(r.code, 1)
    return r.err
  end
  t.ok(says { network = "tiny" }:find("trained: the run 'old' has a network of its own, 'tiny' (expected "
    .. "squeezenet1_0, "
    .. "mobilenet_v2, efficientnet_b0, densenet121, resnet50, inception_v3, vgg19). Build it as its experiment "
    .. "does, with "
    .. "weights = 'old'.", 1, true))
  t.ok(says { network = "vgg19" }:find("trained: the run 'old' does not say which data it was trained on. Read "
    .. "them with "
    .. "xai.dataset.NAME, and use xai.models.vgg19 { weights = 'old' }.", 1, true))
end)
