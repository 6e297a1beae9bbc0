-- Where initial weights come from: caches, downloads, files, runs; and what the messages say.
local t = require "t"

-- A program that builds a small network and applies weights to it; prints what came of it.
local program = [[
local xai = require "medxai"
local weights = require "medxai.weights"
local torch = require "medxai.torch"
local state = { { name = "features.0.weight", tensor = torch.zeros(2, 2) }, { name = "classifier.weight", tensor = torch.zeros(3, 2) } }
local model = { name = "squeezenet1_0", head_name = "classifier", classes = { "a", "b", "c" }, config = { hidden = 8, head = "thesis" }, state = function() return state end }
local report, why = weights.apply(model, %q, { on_missing = %q })
print(report and report.matched or why, state[1].tensor:tolist()[1][1], state[2].tensor:tolist()[1][1])
if %q ~= "" then weights.check_data(model, { size_px = 224, input_mode = %q }) end
]]

local function apply(spec, options)
  options = options or {}
  local dir = options.dir or t.tmpdir()
  local script = t.write(dir .. "/experiment.lua", program:format(spec, options.on_missing or "error", options.mask or "", options.mask or ""))
  return t.run { script, cwd = dir, timeout = 60, env = { HOME = dir .. "/home", TORCH_HOME = options.torch_home or "", XDG_CACHE_HOME = options.cache or "",
    MEDXAI_WEIGHTS_URL = options.url or "file:///nowhere" } }
end

local function file_of(path, classes)
  local torch = require "medxai.torch"
  require("medxai.store").save(path, { { name = "features.0.weight", tensor = torch.ones(2, 2) }, { name = "classifier.weight", tensor = torch.ones(classes or 3, 2) } })
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
  t.equal(r.err, "medxai-run: " .. dir .. "/experiment.lua:6: weights: 'w.pt' does not fit the model (1 matched, 0 missing, 0 extra, 1 of another shape). Nothing was loaded.\n"
    .. "  classifier.weight is 4x2 in the file, 3x2 here: the file was trained with 4 classes\n")
end)

t.test("without a network the error says which file to put where", function()
  local dir = t.tmpdir()
  local r = apply("imagenet", { dir = dir })
  t.equal(r.code, 1)
  t.ok(r.err:find("the ImageNet weights of squeezenet1_0 are not here and cannot be downloaded (", 1, true), r.err)
  t.ok(r.err:find("Put https://download.pytorch.org/models/squeezenet1_0-b66bff10.pth into '" .. dir .. "/home/.cache/torch/hub/checkpoints', or give weights = \"random\".", 1, true), r.err)
  r = apply("imagenet", { on_missing = "scratch" })
  t.equal(r.code, 0)
end)

t.test("a damaged file in the cache is named", function()
  local dir = t.tmpdir()
  os.execute("mkdir -p " .. t.quote(dir .. "/th/hub/checkpoints"))
  local path = t.write(dir .. "/th/hub/checkpoints/squeezenet1_0-b66bff10.pth", "not the real one")
  local r = apply("imagenet", { dir = dir, torch_home = dir .. "/th" })
  t.ok(r.err:find("weights: '" .. path .. "' is damaged (its hash is not the one in its name). Delete it and run again.", 1, true), r.err)
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
    require("medxai.files").write_data(dir .. "/runs/first/model.json", { network = o.network or "squeezenet1_0", classes = o.classes or { "a", "b", "c" },
      hidden = o.hidden or 8, head = "thesis", size_px = 224, input_mode = "lungs" })
    return apply("first", { dir = dir, mask = o.mask or "" })
  end
  local r = describe()
  t.equal(r.out, "2\t1.0\t1.0\n", r.err)
  local function fails(o, message) t.equal(describe(o).err:match "weights: the run [^\n]*", message) end
  fails({ classes = { "b", "a", "c" } }, "weights: the run 'first' has the classes b, a, c (here: a, b, c). Use the same, or other weights.")
  fails({ hidden = 16 }, "weights: the run 'first' has hidden = 16 (here: 8). Use the same, or other weights.")
  fails({ network = "vgg19" }, "weights: the run 'first' has the network vgg19 (here: squeezenet1_0). Use the same, or other weights.")
  fails({ mask = "none" }, "weights: the run 'first' has mask lungs (here: none). Use the same, or other weights.")
  t.equal(describe({ mask = "lungs" }).code, 0)
end)

t.test("an absent run names the experiment to run first", function()
  local dir = t.tmpdir()
  t.write(dir .. "/vgg19_masked.lua", "")
  local r = apply("vgg19_masked", { dir = dir })
  t.ok(r.err:find("weights: there is no run 'vgg19_masked' (looked for runs/vgg19_masked/weights.pt). Run ", 1, true), r.err)
  t.ok(r.err:find("vgg19_masked.lua first.", 1, true), r.err)
end)

t.test("images of another size than the run's are refused unless the model takes them, by evaluation and search alike", function()
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
  local evaluated, searched = "run:evaluate(network(), data.test, { resamples = 20 })",
    "local s = run:grid { train_depth = { 0 }, train = function(cell) return fit(network(cell.train_depth)) end } run:evaluate(s.model, data.test, { resamples = 20 })"
  local r = go("first", 48, "weights = 'random'", "run:fit(fit(network()))")
  t.equal(r.code, 0, r.err)
  local refused = go("second", 64, "weights = 'first'", evaluated)
  t.equal(refused.code, 1)
  t.ok(refused.err:find("second.lua:6: weights: the run 'first' has size_px 48 (here: 64). Use the same, or other weights.", 1, true), refused.err)
  r = go("third", 64, "weights = 'first', other_size = true", evaluated)
  t.equal(r.code, 0, r.err)
  r = go("fourth", 64, "weights = 'first', other_size = true", searched)
  t.equal(r.code, 0, r.err)
end)
