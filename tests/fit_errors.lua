-- What a training refuses, word for word.
local t = require "t"
local files = require "medxai.base.files"

local head = [[
local xai = require "medxai"
local run = xai.run { name = "bad", seed = 1 }
local data = xai.dataset.phantom { n_train = 12, n_val = 3, n_test = 3, size_px = 32 }
local function network(classes)
  return xai.graph.network { name = "tiny", classes = classes, size_px = 32, cam_layer = "features",
    build = function(g, x)
      x = g:block("features", function() return g:relu("1", g:conv2d("0", x, { 3, 4, 3, padding = 1 })) end)
      return g:linear("fc", g:flatten(nil, g:adaptive_avg_pool2d("pool", x, 1)), { 4, #classes })
    end }
end
local sgd = xai.optim.sgd { lr = 0.01 }
]]

local function refused(body, message)
  local dir = t.tmpdir()
  local script = t.write(dir .. "/bad.lua", head .. body)
  local r = t.run { "--threads", "1", "--quiet", "--out", dir .. "/out", script }
  t.equal(r.code, 1)
  local line = select(2, head:gsub("\n", "")) + select(2, body:gsub("\n", ""))
  local want = dir .. "/bad.lua:" .. line .. ": " .. message
  t.ok(r.err:find(want, 1, true), "got " .. r.err .. "\nexpected " .. want)
  return dir .. "/out"
end

t.test("a model of another number of classes is refused", function()
  refused('run:fit(network { "a", "b" }, data, { optim = sgd, epochs = 1 })\n',
    "fit: the model has 2 classes, the data 3 (clear, nodule, opacity). Build the model with classes = data.classes.")
end)

t.test("a model whose classes are in another order is refused", function()
  refused('run:fit(network { "clear", "opacity", "nodule" }, data, { optim = sgd, epochs = 1 })\n',
    "fit: class 1 is 'opacity' in the model and 'nodule' in the data (expected clear, opacity, nodule).")
  refused('run:evaluate(network { "a", "b" }, data.test)\n',
    "evaluate: the model has 2 classes, the data 3 (clear, nodule, opacity). Build the model with classes = "
    .. "data.classes.")
end)

t.test("options that do not fit are refused", function()
  refused('run:fit(network(data.classes), data, { epochs = 1 })\n',
    "fit: option 'optim' is missing (expected table: the optimizer, "
    .. "for instance xai.optim.sgd { lr = 0.01, momentum = 0.9 }). Add optim = ... to it.")
  refused('run:fit(network(data.classes), data, { optim = { lr = 1 }, epochs = 1 })\n',
    "fit: option 'optim' is no optimizer (expected xai.optim.sgd { lr = ... } or another of xai.optim).")
  refused('run:fit(network(data.classes), data, { optim = sgd, epoch = 1 })\n',
    "fit: unknown option 'epoch'. Did you mean 'epochs'?")
  refused('run:fit(network(data.classes), data, { optim = sgd, epochs = 1, schedule = xai.optim.step_lr { gama = '
    .. '0.1, step_size = 2 } })\n', "step_lr: unknown option 'gama'. Did you mean 'gamma'?")
  refused('run:fit(network(data.classes), data, { optim = sgd, epochs = 1, step = { size = 2 } })\n',
    "fit: option 'step' is now schedule = xai.optim.step_lr { step_size = ..., gamma = ... }.")
  refused('run:fit(network(data.classes), data, { optim = sgd, epochs = 0 })\n',
    "fit: option 'epochs' is too small (expected at least 1, got 0).")
end)

t.test("what is no model, no data or no split is refused", function()
  refused('run:fit(data, data, { optim = sgd, epochs = 1 })\n',
    "fit: the first argument is no model (expected xai.models.vgg19 { ... }, got table).")
  refused('run:fit(network(data.classes), data.train, { optim = sgd, epochs = 1 })\n',
    "fit: the second argument is no data set (expected xai.dataset.covid_qu_ex { ... }, got a split). Give the "
    .. "whole data set.")
  refused('run:evaluate(network(data.classes), data)\n',
    "evaluate: the second argument is no split (expected data.test, got a data set).")
  refused('run:evaluate(network(data.classes), data.tset)\n',
    "evaluate: the second argument is no split (expected data.test, got nil).")
end)

t.test("training images of one class only are refused: the loss would be 0", function()
  local refusal = "fit: every training image of 'phantom' is of the class 'clear' (expected at least two classes). "
    .. "Add images of another class."
  refused('data = xai.dataset.phantom { n_train = 1, n_val = 3, n_test = 3, size_px = 32 }\n'
    .. 'run:fit(network(data.classes), data, { optim = sgd, epochs = 1 })\n', refusal)
  local dir = t.tmpdir()
  for _, split in ipairs { "Train", "Val" } do
    local own = dir .. "/" .. split .. "/sick"
    assert(os.execute(("mkdir -p '%s' && cp '%s/tests/reference/pictures/'*.png '%s/'"):format(own, t.root, own)))
  end
  refused(('data = xai.dataset.folders { root = %q, size_px = 32 }\n'):format(dir)
    .. 'run:fit(network(data.classes), data, { optim = sgd, epochs = 1 })\n',
    (refusal:gsub("phantom", "folders"):gsub("clear", "sick")))
end)

local normed = [[
local function normed(pooled, frozen)
  return xai.graph.network { name = "normed", classes = data.classes, size_px = 32, cam_layer = "1",
    build = function(g, x)
      x = g:relu("1", g:batch_norm2d("wide", g:conv2d("0", x, { 3, 4, 3, padding = 1 }), 4))
      if pooled then x = g:batch_norm2d("narrow", g:adaptive_avg_pool2d("small", x, 1), 4) end
      return g:linear("fc", g:flatten(nil, g:adaptive_avg_pool2d("pool", x, 1)), { 4, 3 })
    end }
end
data = xai.dataset.phantom { n_train = 13, n_val = 3, n_test = 3, size_px = 32 }
]]

t.test("a batch of one image that a batch norm cannot take is told before training; drop_last and wide ones "
  .. "are trained", function()
  local why = "batch norm 'narrow' sees one value per channel of it, and a variance needs two"
  refused(normed .. 'run:fit(normed(true), data, { optim = sgd, epochs = 1, batch = 4 })\n',
    "fit: the last batch of an epoch holds one image (13 = 3 x 4 + 1): " .. why
    .. ". Write drop_last = true, or another batch.")
  refused(normed .. 'run:fit(normed(true), data, { optim = sgd, epochs = 1, batch = 1, drop_last = true })\n',
    "fit: every batch holds one image: " .. why .. ". Write a larger batch.")
  for _, fine in ipairs { "normed(true), data, { optim = sgd, epochs = 1, batch = 4, drop_last = true }",
    "normed(true), data, { optim = sgd, epochs = 1, batch = 5 }",
    "normed(false), data, { optim = sgd, epochs = 1, batch = 4 }" } do
    local dir = t.tmpdir()
    local r = t.run { "--quiet", "--out", dir .. "/out",
      t.write(dir .. "/fine.lua", head .. normed .. "run:fit(" .. fine .. ")\n") }
    t.equal(r.code, 0, r.err)
  end
end)

t.test("a loss that is not finite stops the training and names the batch, the layer and the images", function()
  local out = refused('run:fit(network(data.classes), data, { optim = xai.optim.sgd { lr = 1e38 }, epochs = 2, '
    .. 'batch = 4 })\n', "fit: the loss is nan in epoch 1, batch 2 of 3 (phantom-42-")
  t.equal(files.read(out .. "/status"):match("^%S+"), "failed")
  t.ok(files.read(out .. "/status"):find("It began in '", 1, true), files.read(out .. "/status"))
  t.ok(not files.exists(out .. "/weights.pt"))
end)

t.test("validation answers that are not finite stop the training: argmax would make a class, and an "
  .. "accuracy, of them", function()
  local out = refused('run:fit(network(data.classes), data, { optim = xai.optim.sgd { lr = 1e38 }, epochs = 1, '
    .. 'batch = 12 })\n', "fit: the network's answer for 'phantom-42-")
  local status = files.read(out .. "/status")
  t.ok(status:find("infinite after epoch 1. It began in '", 1, true), status)
  t.ok(not files.exists(out .. "/weights.pt"))
end)

t.test("answers on the test split that are not finite are refused", function()
  refused('local model = network(data.classes)\nrequire("medxai.torch").no_grad(function() '
    .. 'model:state()[1].tensor:fill_(0 / 0) end)\nrun:evaluate(model, data.test)\n',
    "evaluate: the network's answer for 'phantom-42-")
end)

t.test("a name that is no folder is refused, and a list of seeds with a hole", function()
  local r = t.run { "-e", 'require("medxai").run { name = "a", seeds = { 1, nil, 2 } }' }
  t.equal({ r.code, r.err },
    { 1, "medxai-run: (command line):1: run: seeds holds nil at 2 (expected whole numbers from 0).\n" })
  refused('xai.run { name = "a/b" }\n', "run: 'a/b' is no name for a folder (expected letters, digits, '_', '-', '.').")
  refused('xai.run { nam = "a" }\n', "run: unknown option 'nam'. Did you mean 'name'?")
end)

t.test("class weights of another number, negative or misspelt are refused", function()
  refused('run:fit(network(data.classes), data, { optim = sgd, epochs = 1, weight = { 1, 2 } })\n',
    "fit: option 'weight' has 2 numbers for 3 classes (clear, nodule, opacity).")
  refused('run:fit(network(data.classes), data, { optim = sgd, epochs = 1, weight = { 1, -2, 1 } })\n',
    "fit: weight 2 is wrong (expected a number from 0, got -2).")
  refused('run:fit(network(data.classes), data, { optim = sgd, epochs = 1, weight = { 1, 1 / 0, 1 } })\n',
    "fit: weight 2 is wrong (expected a number from 0, got inf).")
  refused('run:fit(network(data.classes), data, { optim = sgd, epochs = 1, batch = 1, weight = { 0, 0, 0 } })\n',
    "fit: the loss is nan in epoch 1, batch 1 of 12: the class weights of all its images are 0. Give every class a "
    .. "weight, or a larger batch.")
  refused('run:fit(network(data.classes), data, { optim = sgd, epochs = 1, weight = "balance" })\n',
    "fit: option 'weight' is wrong (expected a number for each class, or 'balanced', got 'balance').")
end)

t.test("precision = \"bfloat16\" is refused in words where no convolution runs in bfloat16", function()
  local script = t.write(t.tmpdir() .. "/e.lua", [[
local xai = require "medxai"
local run = xai.run { name = "half", seed = 1 }
local data = xai.dataset.phantom { n_train = 6, n_val = 3, n_test = 3, size_px = 64 }
local model = xai.models.squeezenet1_0 { classes = data.classes }
run:fit(model, data, { optim = xai.optim.sgd { lr = 0.01 }, epochs = 1, batch = 3, precision = "bfloat16" })
]])
  local r = t.run { "--quiet", script, cwd = t.tmpdir(), env = { DNNL_MAX_CPU_ISA = "AVX2" } }
  if r.code == 0 then t.skip "this libtorch computes bfloat16 without AVX-512" end
  t.ok(r.err:find("e.lua:5: fit: precision = 'bfloat16' cannot be used here: no convolution in bfloat16 (", 1,
    true), r.err)
end)
