-- The check before training: mistakes of later steps are found before training starts, and nothing else of it can be
-- noticed.
local t = require "t"
local files = require "medxai.base.files"

local head = [[
local xai = require "medxai"
local run = xai.run { name = "plan", seed = 1 }
local data = xai.dataset.phantom { n_train = 6, n_val = 3, n_test = 3, size_px = 32 }
local model = xai.graph.network { name = "tiny", classes = data.classes, size_px = 32, cam_layer = "features",
  build = function(g, x)
    x = g:block("features", function() return g:relu("1", g:conv2d("0", x, { 3, 4, 3, padding = 1 })) end)
    return g:linear("fc", g:flatten(nil, g:adaptive_avg_pool2d("pool", x, 1)), { 4, 3 })
  end }
]]

local fit = 'run:fit(model, data, { optim = xai.optim.sgd { lr = 0.01 }, epochs = 1, batch = 3 })\n'

-- Runs head, then `before`, then the training, then `after`; returns the result and the run's folder.
local function go(before, after, ...)
  local dir = t.tmpdir()
  local script = t.write(dir .. "/plan.lua", head .. before .. fit .. after)
  return t.run { "--threads", "1", "--quiet", "--out", dir .. "/out", script, ... }, dir
end

-- The mistake stands in line `line` of the file and no epoch was trained.
local function refused(after, line, message, ...)
  local r, dir = go("", after, ...)
  t.equal(r.code, 1)
  local want = (line and dir .. "/plan.lua:" .. line .. ": " or "") .. message
  t.ok(r.err:find(want, 1, true), "got " .. r.err .. "\nexpected " .. want)
  t.ok(not files.exists(dir .. "/out/metrics.jsonl"), "it trained before it complained")
end

t.test("a misspelt option of a later step stops the run before training, with its own line", function()
  refused('run:evaluate(model, data.test, { bach = 4 })\n', 10,
    "evaluate: unknown option 'bach'. Did you mean 'batch'?")
end)

t.test("a misspelt method or layer of a later step stops the run before training", function()
  refused('run:evaluate(model, data.test)\nrun:explain(model, data.test, { methods = { "gradcamm" } })\n', 11,
    "explain: unknown method 'gradcamm'. Did you mean 'gradcam' or 'xgradcam'?")
  refused('print("between")\nrun:explain(model, data.test, { methods = { "gradcam" }, layer = "featurs" })\n', 11,
    "explain: unknown layer 'featurs'")
end)

t.test("a misspelt option of a second training, optimizer or data set is found as well", function()
  refused('run:fit(model, data, { optim = xai.optim.sgd { learning_rate = 1 }, epochs = 1 })\n', 10,
    "sgd: unknown option 'learning_rate'. Did you mean 'lr'?")
  refused('local other = xai.dataset.phantom { n_trian = 8 }\n', 10,
    "phantom: unknown option 'n_trian'. Did you mean 'n_train'?")
end)

t.test("a misspelt field of the command line is found before training", function()
  refused("run:evaluate(model, data.test)\n", nil, "unknown field --bach. Did you mean --batch?", "--bach", "4")
end)

t.test("results that are not known yet may be used in any way", function()
  local r = go("", [[
local result = run:evaluate(model, data.test)
print(("accuracy %.3f"):format(result.accuracy), result.per_class[1].recall + 1 > 0, #result.classes)
for _, class in ipairs(result.per_class) do io.write(class.class, " ") end
if result.accuracy > 2 then error("never") end
run:evaluate(model, data.val)
]])
  t.equal(r.code, 0, r.err)
end)

-- What a run leaves that a later line could have changed: its weights, its answers, and what is drawn next.
local draws = "local torch = require 'medxai.torch'\nprint(math.random(1 << 40), torch.rand(3), "
  .. "#model:parameters(), leftover)\n"

local function outcome(after, stdin)
  local dir = t.tmpdir()
  local script = t.write(dir .. "/plan.lua", "rawset(_G, 'leftover', rawget(_G, 'leftover') or 0)\n" .. head .. fit
    .. draws .. after:gsub("DIR", dir))
  t.write(dir .. "/in", stdin or "")
  local r = t.run { exe = "/bin/sh", "-c",
    string.format("exec %s --threads 1 --quiet --out %s %s < %s", t.quote(require("medxai.host").exe),
    t.quote(dir .. "/out"), t.quote(script), t.quote(dir .. "/in")) }
  t.equal(r.code, 0, r.err)
  return { weights = files.read(dir .. "/out/weights.pt"), answers = files.read(dir .. "/out/predictions.csv"),
    said = r.out:match "[^\n]*\n" }, dir, r
end

t.test("lines after the training that write to the model, files, globals and generators reach nothing "
  .. "before it", function()
  local undisturbed = outcome ""
  local got, dir, r = outcome [[
leftover = 1
package.loaded["medxai.base.options"].check = nil
torch.no_grad(function() for _, p in ipairs(model:parameters()) do p.tensor:mul_(0.5) end end)
model:set_trainable { features = false }
]]
  t.equal(got, undisturbed)
  got, dir, r = outcome [[
torch.manual_seed(9) math.randomseed(9) math.random()
require("medxai.base.files").append_line("DIR/lines", "x")
local f <close> = io.open("DIR/count", "a")
f:write("x")
os.execute("echo y >> DIR/count")
string.format = nil
os.setlocale("C")
print(io.read())
print("end")
]]
  t.equal(got, undisturbed)
end)

t.test("printing, drawing, writing, removing and reading a pipe happen once", function()
  local _, dir, r = outcome([[
local f = io.open("DIR/count", "a")
f:write("x")
f:close()
print("twice?", io.read())
os.rename("DIR/count", "DIR/counted")
]], "first\nsecond\n")
  t.equal(t.read(dir .. "/counted"), "x")
  t.ok(r.out:find("twice?\tfirst\n", 1, true), r.out)
  local _, count = r.out:gsub("twice", "")
  t.equal(count, 1)
end)

t.test("an endless loop, one in a coroutine and a runaway table after the training do not hold it up", function()
  for _, after in ipairs {
    "while not run.worked do pcall(error) end\n",
    "coroutine.wrap(function() while not run.worked do end end)()\n",
    "local list = {} while not run.worked do list[#list + 1] = ('x'):rep(1 << 20) end\n",
    "if not run.worked then os.exit(3) end\n",
  } do
    local r = go("", after)
    t.equal(r.code, 0, after .. r.err)
  end
end)

t.test("a mistake in a function that only the experiment calls, or behind an error that it catches, is none of "
  .. "the check's", function()
  local r = go("", "pcall(run.explain, run, model, data.test, { methods = { 'gradcamm' } })\nprint 'on'\n")
  t.equal(r.code, 0, r.err)
  t.equal(r.out, "on\n")
end)

t.test("an option that depends on a result is left out, the others are checked", function()
  local r = go("", "local e = run:evaluate(model, data.test)\n" ..
    "run:explain(model, data.test, { methods = { 'sobel' }, images = e.n, title = ('%.1f'):format(e.accuracy), "
    .. "figures = false })\n")
  t.equal(r.code, 0, r.err)
  refused("local e = run:evaluate(model, data.test)\nrun:explain(model, data.test, { methods = { 'sobel' }, images "
    .. "= e.n, colors = e.x, scael = 1 })\n", 11, "explain: unknown option 'scael'. Did you mean 'scale'?")
end)

t.test("a misspelt split, class and mask of a later step stop the run before training", function()
  refused("run:evaluate(model, data.tset)\n", 10,
    "evaluate: the second argument is no split (expected data.test, got nil).")
  refused("run:explain(model, data.test, { methods = { 'gradcam' }, target = 'nodul' })\n", 10,
    "explain: unknown target 'nodul'.")
  refused("run:overlap(model, data.test, { methods = { 'gradcam' }, mask = 'lesoin' })\n", 10,
    "explain: unknown mask 'lesoin'. Did you mean 'lesion'?")
end)

t.test("a mistake in a later search stops the run before training", function()
  refused("run:grid { lr = { 0.1 }, train = function(cell) return model, data, { optim = xai.optim.sgd { lr = "
    .. "cell.lr }, epohcs = 1 } end }\n", 10, "fit: unknown option 'epohcs'. Did you mean 'epochs'?")
end)
