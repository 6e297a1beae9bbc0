-- The planning pass: mistakes of later steps are found before training starts, and nothing else of it can be noticed.
local t = require "t"
local files = require "medxai.files"

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
  refused('run:evaluate(model, data.test, { bach = 4 })\n', 10, "evaluate: unknown option 'bach'. Did you mean 'batch'?")
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
  refused('local other = xai.dataset.phantom { n_trian = 8 }\n', 10, "phantom: unknown option 'n_trian'. Did you mean 'n_train'?")
end)

t.test("a misspelt field of the command line is found before training", function()
  refused("run:evaluate(model, data.test)\n", nil, "unknown field --bach. Did you mean --batch?", "--bach", "4")
end)

t.test("results that are not known yet may be used in any way", function()
  local r = go("", [[
local result = run:evaluate(model, data.test, { resamples = 10 })
print(("accuracy %.3f"):format(result.accuracy), result.per_class[1].recall + 1 > 0, #result.classes)
for _, class in ipairs(result.per_class) do io.write(class.class, " ") end
if result.accuracy > 2 then error("never") end
run:evaluate(model, data.val, { resamples = 10 })
]])
  t.equal(r.code, 0, r.err)
end)

t.test("printing, drawing, writing and removing happen once", function()
  local file = t.tmpdir() .. "/count"
  local r = go("print('once', math.random(1000000))\nio.write('twice?\\n')\n", string.format([[
local f <close> = io.open(%q, "a")
f:write("x")
]], file))
  t.equal(r.code, 0, r.err)
  local _, count = r.out:gsub("once", "")
  t.equal(count, 1)
  _, count = r.out:gsub("twice", "")
  t.equal(count, 1)
  t.equal(t.read(file), "x")
end)

t.test("an endless loop after the training does not hold it up", function()
  local r = go("", "local n = 0\nwhile n < 1 do if run.done == nil and package.loaded['medxai.fit'] and run.worked then n = 1 end end\n")
  t.equal(r.code, 0, r.err)
end)
