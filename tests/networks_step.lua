-- run:networks as an experiment runs it: its files, resuming, equal bytes, and what it refuses.
local t = require "t"
local csv = require "medxai.base.csv"
local files = require "medxai.base.files"
local host = require "medxai.host"

-- Three trainings of one recipe, one of another, and one of other classes; few steps on few pictures.
local train = [[
local xai = require "medxai"
local function fit(name, seed, out)
  local run = xai.run { name = name, seed = seed, out = out }
  local data = xai.dataset.phantom { n_train = 24, n_val = 6, n_test = 6, size_px = 32, contrast = 3 }
  local model = xai.models.squeezenet1_0 { classes = data.classes, weights = "random", head = "torchvision",
    dropout = 0 }
  run:fit(model, data, { optim = xai.optim.sgd { lr = 0.0001 }, epochs = 1, batch = 12 })
end
for seed = 1, 3 do fit("a" .. seed, seed, "runs/a/seed-" .. seed) end
fit("b", 4, "runs/b")
]]

local compare = [[
local xai = require "medxai"
local run = xai.run { name = "compare", seed = 42 }
local data = xai.dataset.phantom { n_train = 24, n_val = 30, n_test = 45, size_px = 32, contrast = 3 }
local study = run:study { models = { "a", "b" }, data = data.test, tune = data.val, images = 12 }
run:networks(study, OPTIONS)
run:report()
]]

local trained -- the folder with the runs, made once; removed by the system with the temporary folders

local function folder()
  if trained then return trained end
  local pipe = assert(io.popen "mktemp -d")
  trained = pipe:read "l"
  pipe:close()
  t.write(trained .. "/train.lua", train)
  local r = t.run { "--quiet", "train.lua", cwd = trained, timeout = 300 }
  t.equal(r.code, 0, r.err)
  return trained
end

-- Runs the comparison in a folder of its own that sees the trained runs.
local function go(options, dir, script)
  local cwd = dir or t.tmpdir()
  files.mkdir(cwd .. "/runs")
  for _, name in ipairs { "a", "b" } do os.execute(("cp -r %s/runs/%s %s/runs/"):format(folder(), name, cwd)) end
  t.write(cwd .. "/compare.lua", (script or compare):gsub("OPTIONS", options or "{ margin = 0.1 }"))
  return t.run { "--quiet", "compare.lua", cwd = cwd, timeout = 300 }, cwd
end

local compared = { "tables/networks.csv", "tables/pairs.csv", "verdicts.csv", "study/networks/b-on-test.csv",
  "config.json", "tables/reliability.csv", "figures/networks-primary.svg", "figures/networks-endpoints.pdf",
  "figures/networks-reliability.png", "figures/networks-primary.csv" }

local function bytes_of(dir)
  local list = {}
  for _, name in ipairs(compared) do
    list[name] = t.ok(files.read(dir .. "/runs/compare/" .. name), name .. " is missing")
  end
  return list
end

t.test("networks are compared: tables, verdicts, a section of the report; a second call repeats nothing", function()
  local r, dir = go()
  t.equal(r.code, 0, r.err)
  local verdicts = csv.read(dir .. "/runs/compare/verdicts.csv")
  t.equal(#verdicts, 2, "one pair: these weights, recipes")
  t.equal({ verdicts[1].subject, verdicts[1].check, verdicts[1].threshold }, { "a - b", "auroc_macro", "0.1" })
  t.equal({ verdicts[2].verdict, verdicts[2].reason }, { "undecided", "fewer than 3 seeds: 3 and 1" })
  local scores = {}
  for _, row in ipairs((csv.read(dir .. "/runs/compare/tables/networks.csv"))) do
    scores[row.run .. " " .. row.train_seed .. " " .. row.score] = row
  end
  t.equal(scores["a seed 2 2 auroc_macro"].role, "primary")
  t.equal(scores["b 4 accuracy"].role, "exploratory")
  t.equal(scores["b 4 accuracy"].n, "45")
  t.ok(scores["b 4 ece"].chance ~= "" and scores["a recipe auroc_macro"] and scores["a mean macro_f1"]
    and scores["b 4 set_coverage"])
  local page = t.read(dir .. "/runs/compare/report.html")
  t.ok(page:find("Networks compared", 1, true) and page:find("Primary endpoint: macro AUROC", 1, true))
  t.ok(page:find("<figcaption>Networks by macro AUROC. ", 1, true) and page:find("a − b", 1, true))
  local bins = {}
  for _, row in ipairs((csv.read(dir .. "/runs/compare/tables/reliability.csv"))) do
    bins[row.run] = (bins[row.run] or 0) + tonumber(row.n)
    t.ok(tonumber(row.chance_low) <= tonumber(row.chance_high))
  end
  t.equal(bins, { ["a seed 1"] = 45, ["a seed 2"] = 45, ["a seed 3"] = 45, b = 45 })
  t.ok(r.out:find "These weights: a ", r.out)
  local before, looks = bytes_of(dir), #files.records(dir .. "/runs/compare/evaluations.jsonl")
  t.equal(looks, 8, "four models on two splits")
  r = t.run { "--quiet", "compare.lua", cwd = dir, timeout = 300 }
  t.equal(r.code, 0, r.err)
  t.equal(bytes_of(dir), before)
  t.equal(#files.records(dir .. "/runs/compare/evaluations.jsonl"), looks)

  -- Interrupted after two models and before the tables: finished parts are kept, the bytes are the same.
  for _, name in ipairs { "networks", "networks-b-on-test" } do
    files.remove(dir .. "/runs/compare/steps/" .. name .. ".json")
  end
  for _, name in ipairs { "tables/networks.csv", "verdicts.csv", "study/networks/b-on-test.csv" } do
    files.remove(dir .. "/runs/compare/" .. name)
  end
  r = t.run { "--quiet", "compare.lua", cwd = dir, timeout = 300 }
  t.equal(r.code, 0, r.err)
  t.equal(bytes_of(dir), before)
  t.equal(#files.records(dir .. "/runs/compare/evaluations.jsonl"), looks + 1, "one model on one split again")

  -- A run of the study that was trained again meanwhile.
  t.write(dir .. "/again.lua", train:gsub('fit%("b", 4', 'fit("b", 5'):gsub("for seed[^\n]*\n", ""))
  t.equal(t.run({ "--quiet", "--overwrite", "again.lua", cwd = dir, timeout = 300 }).code, 0)
  r = t.run { "--quiet", "compare.lua", cwd = dir, timeout = 300 }
  t.equal(r.code, 1)
  t.ok(r.err:find("was trained again since this study was begun", 1, true), r.err)
end)

t.test("bad input: no study, an unknown endpoint, a tuning split with judged images", function()
  local r = go("{ primary = 'auroc' }")
  t.equal(r.code, 1)
  t.ok(r.err:find("networks: unknown endpoint 'auroc'.", 1, true), r.err)
  r = go(nil, nil, (compare:gsub("run:networks%(study", "run:networks({}")))
  t.ok(r.code == 1 and r.err:find("networks: the first argument is no study", 1, true), r.err)
  r = go(nil, nil, (compare:gsub("tune = data.val", "tune = data.test")))
  t.ok(r.code == 1 and r.err:find("is judged", 1, true) and r.err:find("compare.lua:4", 1, true), r.err)
  r = go("{ margin = -1 }")
  t.ok(r.code == 1 and r.err:find("networks: option 'margin' is too small (expected more than 0", 1, true), r.err)
end)

host.at_exit(function()
  if trained then os.execute("rm -rf " .. t.quote(trained)) end
end)
