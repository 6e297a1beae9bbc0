-- Where initial weights come from: caches, downloads, files, runs; and what the messages say.
local t = require "t"

-- A program that builds a small network and applies weights to it; prints what came of it.
local program = [[
local xai = require "medxai"
local weights = require "medxai.nn.weights"
local torch = require "medxai.torch"
local state = { { name = "features.0.weight", tensor = torch.zeros(2, 2) }, { name = "classifier.weight", tensor = torch.zeros(3, 2) } }
local model = { name = "squeezenet1_0", head_name = "classifier", classes = { "a", "b", "c" }, config = { hidden = 8, head = "thesis" }, state = function() return state end }
local found, why = weights.find(%q, model.name, { on_missing = %q })
local of_run, model_file = found and found.described, require "medxai.nn.model_file"
if of_run then model_file.belongs(model, found.run, of_run, model_file.check_model(model, found.run, of_run)) end
local report = found and weights.load(model, found)
print(report and report.matched or why, state[1].tensor:tolist()[1][1], state[2].tensor:tolist()[1][1])
local data, run = { preparation = function() return { size_px = 224, input = %q } end },
  { note_differences = function() end }
if %q ~= "" then model_file.check_data(run, model, data) end
]]

local function apply(spec, options)
  options = options or {}
  local dir = options.dir or t.tmpdir()
  local script = t.write(dir .. "/experiment.lua",
    program:format(spec, options.on_missing or "error", options.input or "", options.input or ""))
  return t.run { script, cwd = dir, timeout = 60,
    env = { HOME = dir .. "/home", TORCH_HOME = options.torch_home or "", XDG_CACHE_HOME = options.cache or "",
    MEDXAI_WEIGHTS_URL = options.url or "file:///nowhere" } }
end

local function file_of(path, classes, aux)
  local torch = require "medxai.torch"
  local list = { { name = "features.0.weight", tensor = torch.ones(2, 2) }, { name = "classifier.weight",
    tensor = torch.ones(classes or 3, 2) } }
  if aux then list[3] = { name = "AuxLogits.fc.weight", tensor = torch.ones(aux, 2) } end
  require("medxai.nn.checkpoint").save(path, list)
end

t.test("a file is loaded, and told about in one line", function()
  local dir = t.tmpdir()
  file_of(dir .. "/w.pt")
  local r = apply("w.pt", { dir = dir })
  t.equal(r.out, "2\t1.0\t1.0\n", r.err)
  t.equal(r.err, "weights: file 'w.pt': 2 matched, 0 missing, 0 extra, 0 of another shape\n")
end)

t.test("a file of another number of classes is an error with the experiment's line", function()
  local dir = t.tmpdir()
  file_of(dir .. "/w.pt", 4)
  local r = apply("w.pt", { dir = dir })
  t.equal(r.code, 1)
  t.equal(r.err, "medxai-run: " .. dir .. "/experiment.lua:9: weights: 'w.pt' does not fit the model (1 matched, 0 "
    .. "missing, 0 extra, 1 of another shape). Nothing was loaded.\n"
    .. "  classifier.weight is 4x2 in the file, 3x2 here: the file was trained with 4 classes\n")
end)

-- The program of above with weights that are a table, and the state of a small Inception where `inception`.
local function apply_table(dir, spec, inception)
  local text = program:format("", "error", "", ""):gsub('"", model.name', spec .. ", model.name")
  if inception then text = text:gsub("local model = { name = \"squeezenet1_0\"", [[
state[3] = { name = "AuxLogits.fc.weight", tensor = torch.full({ 3, 2 }, 7) }
local model = { name = "inception_v3"]]) end
  return t.run { t.write(dir .. "/experiment.lua", text), cwd = dir, timeout = 60 }
end

t.test("strict = false loads what fits of a file, and warns of the rest", function()
  local dir = t.tmpdir()
  file_of(dir .. "/w.pt", 4)
  local r = apply_table(dir, '{ file = "w.pt", strict = false }')
  t.equal(r.out, "1\t1.0\t0.0\n", r.err)
  t.ok(r.err:find("warning: weights: 'w.pt' fits in part (1 matched, 0 missing, 0 extra, 1 of another shape); what "
    .. "does not fit stays as it was drawn.", 1, true), r.err)
  r = apply_table(dir, '{ file = "w.pt" }')
  t.ok(r.err:find("does not fit the model", 1, true), r.err)
  r = apply_table(dir, "{ strict = false }")
  t.ok(r.err:find("weights: give either file = PATH or run = NAME.", 1, true), r.err)
  r = apply_table(dir, '{ file = "w.pt", srict = false }')
  t.ok(r.err:find("weights: unknown option 'srict'. Did you mean 'strict'?", 1, true), r.err)
end)

t.test("which of several sets in a file was taken is told, and may be said", function()
  local dir, torch = t.tmpdir(), require "medxai.torch"
  local function weights(value) return { ["features.0.weight"] = torch.full({ 2, 2 }, value),
    ["classifier.weight"] = torch.full({ 3, 2 }, value) } end
  require("medxai.nn.checkpoint").save_checkpoint(dir .. "/c.pt", { model = weights(1.0), model_ema = weights(2.0) })
  local r = apply("c.pt", { dir = dir })
  t.equal(r.out, "2\t1.0\t1.0\n", r.err)
  t.equal(r.err, "weights: file 'c.pt': 2 matched, 0 missing, 0 extra, 0 of another shape\n"
    .. "  it holds several sets of weights: 'model' is taken, not 'model_ema'. To choose: weights = { file = 'c.pt', "
      .. "set = 'model_ema' }\n")
  r = apply_table(dir, '{ file = "c.pt", set = "model_ema" }')
  t.equal(r.out, "2\t2.0\t2.0\n", r.err)
end)

t.test("an Inception without its auxiliary branch, or with another's, is loaded and told of", function()
  local dir = t.tmpdir()
  file_of(dir .. "/w.pt")
  local r = apply_table(dir, '"w.pt"', true)
  t.equal(r.out, "2\t1.0\t1.0\n", r.err)
  t.equal(r.err, "weights: file 'w.pt': 2 matched, 1 missing, 0 extra, 0 of another shape\n  missing in the file: "
    .. "AuxLogits.fc.weight\n"
    .. "  the auxiliary branch (AuxLogits) is not in the file: it stays as drawn; it has a part in training, none in "
      .. "evaluation\n")
  file_of(dir .. "/w.pt", 3, 1000)
  r = apply_table(dir, '"w.pt"', true)
  t.equal(r.out, "2\t1.0\t1.0\n", r.err)
  t.ok(r.err:find("the auxiliary branch (AuxLogits) is of another shape in the file", 1, true), r.err)
end)

t.test("without a network the error says which file to put where", function()
  local dir = t.tmpdir()
  local r = apply("imagenet", { dir = dir })
  t.equal(r.code, 1)
  t.ok(r.err:find("the ImageNet weights of squeezenet1_0 are not here and cannot be downloaded (", 1, true), r.err)
  t.ok(r.err:find("Put https://download.pytorch.org/models/squeezenet1_0-b66bff10.pth into '" .. dir
    .. "/home/.cache/torch/hub/checkpoints', or give weights = \"random\".", 1, true), r.err)
  r = apply("imagenet", { on_missing = "scratch" })
  t.equal(r.code, 0)
end)

t.test("a damaged file in the cache is named", function()
  local dir = t.tmpdir()
  os.execute("mkdir -p " .. t.quote(dir .. "/th/hub/checkpoints"))
  local path = t.write(dir .. "/th/hub/checkpoints/squeezenet1_0-b66bff10.pth", "not the real one")
  local r = apply("imagenet", { dir = dir, torch_home = dir .. "/th" })
  t.ok(r.err:find("weights: '" .. path .. "' is damaged (its hash is not the one in its name). Delete it and "
    .. "run again.", 1, true), r.err)
end)

t.test("a download with another hash is refused and removed", function()
  local dir = t.tmpdir()
  t.write(dir .. "/squeezenet1_0-b66bff10.pth", "something else")
  local r = apply("imagenet", { dir = dir, url = "file://" .. dir, cache = dir .. "/cache" })
  if r.err:find "neither curl nor wget" then t.skip "no curl" end
  t.ok(r.err:find("what came has another hash than b66bff10", 1, true), r.err)
  local left = io.popen("ls " .. t.quote(dir .. "/cache/torch/hub/checkpoints"))
  t.equal(left:read "a":gsub("[^\n]*%.lock\n", ""), "")
  left:close()
end)

t.test("a run's weights are found by its name, and must agree", function()
  local dir = t.tmpdir()
  file_of(dir .. "/runs/first/weights.pt")
  local function describe(o)
    o = o or {}
    require("medxai.base.files").write_data(dir .. "/runs/first/model.json",
      { format = "medxai.model", network = o.network
      or "squeezenet1_0", classes = o.classes or { "a", "b", "c" },
      hidden = o.hidden or 8, head = "thesis", size_px = 224, input = "lungs" })
    return apply("first", { dir = dir, input = o.input or "" })
  end
  local r = describe()
  t.equal(r.out, "2\t1.0\t1.0\n", r.err)
  local function fails(o, message, setting)
    local meant = "; where the difference is meant, write force = { '%s' } in the model's options."
    local hint = setting and meant:format(setting) or "."
    t.equal(describe(o).err:match "weights: the run [^\n]*", message .. hint)
  end
  fails({ classes = { "b", "a", "c" } }, "weights: the run 'first' has classes b, a, c (here: a, b, c). Use the same, "
    .. "or other weights", "classes")
  fails({ hidden = 16 }, "weights: the run 'first' has hidden 16 (here: 8). Use the same, or other weights", "hidden")
  fails({ network = "vgg19" }, "weights: the run 'first' has the network vgg19 (here: squeezenet1_0). Use the same, "
    .. "or other weights")
  fails({ input = "whole" }, "weights: the run 'first' has input lungs (here: whole). Use the same, or other weights",
    "input")
  t.equal(describe({ input = "lungs" }).code, 0)
end)

t.test("an absent run names the experiment to run first", function()
  local dir = t.tmpdir()
  t.write(dir .. "/vgg19_masked.lua", "")
  local r = apply("vgg19_masked", { dir = dir })
  t.ok(r.err:find("weights: there is no run 'vgg19_masked' (looked for runs/vgg19_masked/weights.pt). Run ", 1,
    true), r.err)
  t.ok(r.err:find("vgg19_masked.lua first.", 1, true), r.err)
end)

t.test("images of another size than the run's are refused unless the model takes them, by evaluation and "
  .. "search alike", function()
  local dir = t.tmpdir()
  local function go(name, size, model, rest)
    local script = t.write(dir .. "/" .. name .. ".lua", ([[
local xai = require "medxai"
local run = xai.run { name = %q, seed = 1 }
local data = xai.dataset.phantom { n_train = 4, n_val = 3, n_test = 3, size_px = %d }
local function network(depth) return xai.models.squeezenet1_0 { classes = data.classes, train_depth = depth, %s } end
local function fit(model) return model, data, { optim = xai.optim.sgd { lr = 0.001 }, epochs = 1, batch = 4 } end
%s]]):format(name, size, model, rest))
    return t.run { "--quiet", script, cwd = dir, timeout = 120 }
  end
  local evaluated, searched = "run:evaluate(network(), data.test)",
    "local s = run:grid { train_depth = { 0 }, train = function(cell) return fit(network(cell.train_depth)) end } "
    .. "run:evaluate(s.model, data.test)"
  local r = go("first", 48, "weights = 'random'", "run:fit(fit(network()))")
  t.equal(r.code, 0, r.err)
  local refused = go("second", 64, "weights = 'first'", evaluated)
  t.equal(refused.code, 1)
  t.ok(refused.err:find("second.lua:6: weights: the run 'first' has size_px 48 (here: 64). Use the same, or other "
    .. "weights;", 1, true), refused.err)
  r = go("third", 64, "weights = 'first', force = { 'size_px' }", evaluated)
  t.equal(r.code, 0, r.err)
  r = go("fourth", 64, "weights = 'first', force = { 'size_px' }", searched)
  t.equal(r.code, 0, r.err)
end)
