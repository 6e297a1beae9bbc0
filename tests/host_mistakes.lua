-- What people write who come from Python or have skimmed the README: each mistake's error says what to write instead.
local t = require "t"

local head = [[
local xai = require "medxai"
local run = xai.run { name = "m" }
local data = xai.dataset.phantom { n_train = 6, n_val = 3, n_test = 3, size_px = 64 }
local model = xai.models.squeezenet1_0 { classes = data.classes }
local sgd = xai.optim.sgd { lr = 0.01 }
]]

-- The error of an experiment's text, behind its file's name and line.
local function mistake(text)
  local script = t.write(t.tmpdir() .. "/e.lua", text)
  local r = t.run { "--quiet", script, cwd = t.tmpdir() }
  t.equal(r.code, 1, text)
  return (r.err:gsub("^medxai%-run: [^\n]*e%.lua:%d+: ", ""):gsub("\n.*$", ""))
end

local function says(text, expected) t.equal(mistake(head .. text), expected, text) end

local function alone_says(text, expected) t.equal(mistake(text), expected, text) end

t.test("a step called with a dot says to use a colon", function()
  says("run.fit(model, data, { optim = sgd, epochs = 1 })",
    "fit: run.fit(...) leaves out the run (got a table in its place). Use run:fit(...), with a colon.")
  says("run.report()", "report: run.report(...) leaves out the run (got nothing in its place). Use run:report(...), "
    .. "with a colon.")
  says("data.train.loader { batch = 2 }",
    "loader: split.loader(...) leaves out the split. Use split:loader { ... }, with a colon.")
  says("model.eval()", "attempt to index a nil value (local 'self'). Was a method called with a dot? Write "
    .. "object:name(...), "
    .. "with a colon.")
end)

t.test("an optimizer or schedule given by its name, or without its options, says how it is written", function()
  says("run:fit(model, data, { optim = 'adam', epochs = 1 })",
    "fit: option 'optim' is the text 'adam'. Write optim = xai.optim.adam { ... }.")
  says("run:fit(model, data, { optim = xai.optim.adam, epochs = 1 })",
    "fit: option 'optim' is the function xai.optim.adam. Call it: optim = xai.optim.adam { ... }.")
  says("run:fit(model, data, { optim = sgd, epochs = 1, schedule = 'cosine' })",
    "fit: option 'schedule' is the text 'cosine'. Write schedule = xai.optim.cosine_annealing_lr { ... }.")
  says("run:fit(model, data, { optim = sgd, epochs = 1, schedule = xai.optim.step_lr })",
    "fit: option 'schedule' is the function xai.optim.step_lr. Call it: schedule = xai.optim.step_lr { ... }.")
  says("xai.optim.Adam { lr = 1 }", "optim: unknown optimizer or schedule 'Adam'. Did you mean 'adam' or 'adamw'?")
  says("xai.optim.adam(model:parameters(), { lr = 1 })",
    "adam: takes its options alone: run:fit gives it the parameters (expected adam { lr = 0.01 }).")
end)

t.test("an option that belongs elsewhere says where", function()
  says("run:fit(model, data, { lr = 0.1, epochs = 1 })",
    "fit: there is no option 'lr'. The optimizer has it: optim = xai.optim.sgd { lr = 0.01 }.")
  says("xai.models.resnet50 { classes = 3, pretrained = true }",
    "resnet50: there is no option 'pretrained'. Write weights = \"imagenet\".")
  says("xai.models.resnet50 { classes = 3, weights = 'ImageNet' }",
    "weights: there is no run 'ImageNet'. torchvision's weights are weights = \"imagenet\".")
  says("xai.dataset.folders { path = 'x' }", "folders: there is no option 'path'. Write root = \"FOLDER\".")
  says("run:explain(model, data.test, { methods = { 'lime', samples = 500 } })",
    "explain: method 'samples' takes a table of options or a function (got number). An option of lime stands within "
    .. "its own "
    .. "braces: methods = { { \"lime\", samples = 500 } }.")
end)

t.test("an option of before says what it is called now", function()
  says("xai.dataset.phantom { mask = 'lungs' }", "phantom: option 'mask' is now 'input'.")
  says("run:fit(model, data, { optim = sgd, epochs = 1, step = { size = 2 } })",
    "fit: option 'step' is now schedule = xai.optim.step_lr { step_size = ..., gamma = ... }.")
  for old, new in pairs { ["{ 'lime', hide = 'black' }"] = "lime: option 'hide' is now 'removal'.",
      ["{ 'lime', seeds = 3 }"] = "lime: option 'seeds' is now 'repeats'.",
      ["{ 'integrated_gradients', baseline = 'white' }"] = "integrated_gradients: option 'baseline' is now "
      .. "'removal'." } do
    says("run:explain(model, data.test, { methods = { " .. old .. " } })", new)
  end
  says("run:explain(model, data.test, { methods = 'sobel', metrics = { { 'iou', at = { 50 } } }, mask = 'lungs' })",
    "iou: option 'at' is now 'percentiles'.")
  says("run:explain(model, data.test, { methods = 'sobel', colours = 'jet' })",
    "explain: option 'colours' is now 'colors'.")
  says("run:grid { lr = { 1 }, select = 'loss', train = function() end }", "grid: option 'select' is now 'best_by'.")
end)

t.test("arguments in the wrong place are named", function()
  says("run:fit(model, data.train, { optim = sgd, epochs = 1 })", "fit: the second argument is no data set (expected "
    .. "xai.dataset.covid_qu_ex { ... }, got a split). Give the whole data set.")
  says("run:explain(data.test, model, { methods = 'gradcam' })",
    "explain: the first argument is a split (expected run:explain(model, data.test, { ... })).")
  says("xai.models('vgg19')", "models: is no function. Write xai.models.vgg19 { classes = ... }.")
  alone_says("require('medxai').run { 'mine' }",
    "run: options have names (expected name = value, got string 'mine' without one).")
  says("print(data.test[1])", "split: is no list. Write data.test:item(1) or data.test:batch({ 1 }).x; images "
    .. "count from 1.")
  says("for x in data.train do end",
    "split: is no iterator. Write: for batch in data.train:loader { batch = 32 } do ... end.")
end)

t.test("Python's words and signs lead to Lua's", function()
  alone_says("local a = True", "global 'True' is not defined. Lua writes true.")
  alone_says("print(len({}))", "global 'len' is not defined. Lua writes #list.")
  alone_says("if 1 != 2 then end", "'then' expected near '!'. Lua writes a ~= b for unequal, and not a.")
  alone_says("local a = 1\na += 1", "syntax error near '+'. Lua has no +=. Write a = a + 1.")
end)

t.test("one method and one metric need no braces, and #split counts its images", function()
  local script = t.write(t.tmpdir() .. "/e.lua", head .. [[
assert(#data.test == 3)
local result = run:explain(model, data.test, { methods = "sobel", metrics = "energy_inside", mask = "lungs", images = 1, figures = false })
assert(#result.summaries == 1)
]])
  local r = t.run { "--quiet", script, cwd = t.tmpdir() }
  t.equal(r.code, 0, r.err)
end)
