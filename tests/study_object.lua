-- run:study: which models and images a comparison is about, and what it refuses.
local t = require "t"
local csv = require "medxai.base.csv"
local files = require "medxai.base.files"
local tiny = require "tinystudy"

-- Prints what each call of a list says, one line each.
local function say(name, calls)
  local text = { "local function try(f) local ok, problem = pcall(f) print(ok and 'no error' or "
    .. "(tostring(problem):gsub('\\n', ' '))) end\n" }
  for _, call in ipairs(calls) do text[#text + 1] = "try(function() " .. call .. " end)\n" end
  local r = tiny.go(name, table.concat(text))
  t.equal(r.code, 0, r.err)
  local lines = {}
  for line in r.out:gmatch "[^\n]+" do lines[#lines + 1] = line end
  return lines
end

t.test("images are balanced, one per patient; the first 6 of 18 are the same 6", function()
  local r = tiny.go("chosen", [[
for _, n in ipairs { 6, 18 } do
  local study = run:study { models = { "one" }, data = data.test, images = n }
  local words = {}
  for i, image in ipairs(study.images) do
    words[i] = image.path .. " " .. image.patient .. " " .. image.class
    assert(data.test:item(image.index).id == image.id)
    assert(study.models[1].split:item(study.models[1].places[i]).id == image.id)
  end
  print(table.concat(words, ","))
end
local all = run:study { models = { "one" }, data = data.test, images = "all" }
print(#all.images, #all.models, all.models[1].network, all.models[1].train_seed, all.models[1].input)
]])
  t.equal(r.code, 0, r.err)
  local six, eighteen, rest = r.out:match "^([^\n]*)\n([^\n]*)\n(.*)$"
  t.equal(eighteen:sub(1, #six), six)
  local count, patients = {}, {}
  for path, patient, class in eighteen:gmatch "([^ ,]+) ([^ ,]+) ([^ ,]+)" do
    count[class] = (count[class] or 0) + 1
    t.ok(not patients[patient], "two images of patient " .. patient .. ": " .. path)
    patients[patient] = true
  end
  t.equal(count, { clear = 6, nodule = 6, opacity = 6 })
  t.equal(rest, "30\t1\tsqueezenet1_0\t7\twhole\n") -- 36 images of 30 patients
  local rows = csv.read(tiny.dir() .. "/runs/chosen/study/images.csv")
  t.equal({ #rows, rows[1].crop_share, rows[1].stratum }, { 30, "1.0", "" })
end)

t.test("all seeds of a run are models, or those asked for; weights are loaded on demand", function()
  local r = tiny.go("seeds", [[
local study = run:study { models = { "one", "two" }, data = data.test, images = 6 }
for _, m in ipairs(study.models) do io.write(m.name, " ", m.train_seed, " ", m.run, ", ") end
local model, own = study.models[3]:open()
print(model.name, model:is_training(), own.test.n,
  model:sha256() == study.models[3].weights_sha256, study.models[1].model == nil)
study:close()
print(#run:study { models = { "two" }, seeds = { 2 }, data = data.test, images = 6 }.models)
]])
  t.equal(r.code, 0, r.err)
  t.equal(r.out,
    "one 7 runs/one, two seed 1 1 runs/two/seed-1, two seed 2 2 runs/two/seed-2, "
      .. "squeezenet1_0\tfalse\t36\ttrue\ttrue\n1\n")
end)

t.test("how the models were trained, and what was found in their data before, is kept for the page", function()
  local r = tiny.go("known", "run:study { models = { 'one', 'two' }, data = data.test, images = 6 }\n")
  t.equal(r.code, 0, r.err)
  local known = files.read_data(tiny.dir() .. "/runs/known/study/models.json")
  t.equal({ #known.models, table.concat(known.classes, " ") }, { 3, "clear nodule opacity" })
  local m = known.models[3]
  t.equal({ m.name, m.run_name, m.network, m.train_seed, m.start, m.size_px, m.training.epochs, m.training.optim.kind },
    { "two seed 2", "two", "squeezenet1_0", 2, "random", 48, 1, "sgd" })
  t.equal(m.weights_sha256, files.read_data(tiny.dir() .. "/runs/two/seed-2/model.json").weights_sha256)
  local names, images = {}, nil
  for _, c in ipairs(known.checks) do
    table.move(c.models, 1, #c.models, #names + 1, names)
    images = c.check.images
  end
  table.sort(names)
  t.equal({ names, images }, { { "one", "two seed 1", "two seed 2" }, 48 })
end)

t.test("each refusal of a study is one line", function()
  t.write(tiny.dir() .. "/other.csv", "path,label,split\n" .. (function()
    local lines = {}
    for i,
      class in ipairs { "clear", "opacity", "nodule" } do lines[i] = ("%03d.png,%s,train\n%03d.png,%s,test\n"):format(i,
        class, i + 3, class) end
    return table.concat(lines)
  end)())
  local lines = say("refused", {
    "run:study { models = { 'none' }, data = data.test }",
    "run:study { models = {}, data = data.test }",
    "run:study { models = { 'one', 'one' }, data = data.test }",
    "run:study { models = { 'two' }, seeds = { 1, 5 }, data = data.test }",
    "run:study { models = { 'one' }, data = data.test, tune = data.test, images = 6 }",
    "run:study { models = { 'one' }, data = xai.dataset.manifest { csv = 'data', classes = { 'nodule', 'clear', "
      .. "'opacity' }, size_px = 48, resize_px = 48 }.test }",
    "run:study { models = { 'one' }, data = data.test, images = 'some' }",
    "run:study { models = { 'one' }, data = data.test, controls = { 'swop' } }",
    "run:study { models = { 'one' }, data = data, split = 'exam' }",
    "run:study { models = { 'one' }, data = data.test, target = 'cleer' }",
  })
  t.equal(lines, {
    "study: there is no finished run 'none' (looked for runs/none/weights.pt and runs/none/seed-*/weights.pt). Train "
      .. "it first.",
    "study: models is an empty list (expected names of finished runs: { \"mobilenet_v2\", \"resnet50\" }).",
    "study: the model 'one' is in models twice.",
    "study: the run 'two' has no training with seed 5 (found 2 of other seeds). Train it, or leave the seed out of "
      .. "seeds.",
    lines[5],
    "study: the model 'one' tells clear, nodule, opacity apart, the data nodule, clear, opacity. A study is about "
      .. "models of the same classes in the same order.",
    "study: images is a number or 'all' (got 'some').",
    "study: unknown control 'swop'. Did you mean 'swap'?",
    "study: takes a split of the data: data = data.test (got no split 'exam').",
    lines[10],
  })
  t.ok(lines[5]:find("^study: the tune split test holds '%d+.png', which is judged. What is tuned on an image says "
    .. "nothing about it: give another split.$"), lines[5])
  t.ok(lines[10]:find("unknown target 'cleer'", 1, true), lines[10])
end)

t.test("tune may not contain another image of a judged patient", function()
  local text = files.read(tiny.dir() .. "/data/manifest.csv")
  files.write(tiny.dir() .. "/data/leak.csv", (text:gsub(",val,v0,", ",val,p0,")))
  local lines = say("leak",
    { "local d = xai.dataset.manifest { csv = 'data/leak.csv', size_px = 48, resize_px = 48 }" })
  t.ok(lines[1]:find("patient 'p0' is in two splits", 1, true), lines[1]) -- the reader refuses it before
end)

t.test("models without a common image are refused; images that some model lacks are left out", function()
  -- a reader that looks elsewhere when it is asked again: for the models
  local elsewhere = "local readers = require 'medxai.data.readers' local read = readers.manifest readers.manifest = "
    .. "function(...) local d = read(...) for i, item in ipairs(d.test.items) do "
    .. "if %s then item.path = 'other/' .. item.path end end return d end "
  local lines = say("lost", {
    elsewhere:format "i <= 30" .. "print(#run:study { models = { 'one' }, data = data.test, images = 36 }.images)",
    elsewhere:format "true" .. "run:study { models = { 'one' }, data = data.test, images = 6 }",
  })
  t.equal(lines[3], "study: no image of the test split is common to all models' data (36 are missing somewhere). Their "
    .. "readers look into other folders or leave other images out.")
  t.equal(lines[1], "6", "six patients are in the last six images")
end)

t.test("models without a common image are refused; fewer than ten patients are reported", function()
  files.write(tiny.dir() .. "/data/few.csv", (files.read(tiny.dir()
    .. "/data/manifest.csv"):gsub("[^\n]*,test,p[^012],[^\n]*\n", "")
    :gsub("[^\n]*,test,p%d%d,[^\n]*\n", "")))
  local r = t.run { "--threads", "1", tiny.experiment("few", [[
local few = xai.dataset.manifest { csv = "data/few.csv", size_px = 48, resize_px = 48 }
local study = run:study { models = { "one" }, data = few.test }
print(#study.images)
]]), cwd = tiny.dir(), timeout = 300 }
  t.equal(r.code, 0, r.err)
  t.equal(r.out, "3\n")
  t.ok(r.err:find("few: study: 3 patients are fewer than 10: there are no intervals and no verdicts", 1, true), r.err)
end)

t.test("where patients are unknown, warnings count images", function()
  local number = 0
  files.write(tiny.dir() .. "/data/unnamed.csv", (files.read(tiny.dir() .. "/data/manifest.csv"):gsub("[^\n]*\n",
    function(line)
      number = number + (line:find ",opacity,test," and 1 or 0)
      return line:find ",opacity,test," and number > 2 and "" or line:gsub(",test,p%d+,", ",test,,")
    end)))
  local r = t.run { "--threads", "1", tiny.experiment("unnamed", [[
local unnamed = xai.dataset.manifest { csv = "data/unnamed.csv", size_px = 48, resize_px = 48 }
print(#run:study { models = { "one" }, data = unnamed.test, images = 9 }.images)
]]), cwd = tiny.dir(), timeout = 300 }
  t.equal(r.code, 0, r.err)
  t.equal(r.out, "9\n")
  for _, text in ipairs { "study: the classes are not balanced, some have no more images: clear 4, nodule 3, opacity 2",
    "study: 9 images are fewer than 10: there are no intervals and no verdicts" } do
    t.ok(r.err:find(text, 1, true), r.err)
  end
end)

t.test("a study is refused when a model was trained again meanwhile", function()
  local dir = tiny.dir()
  local text = [[
local study = run:study { models = { "one" }, data = data.test, images = 6 }
]]
  t.equal(tiny.go("again", text).code, 0)
  local path = dir .. "/runs/again/study/study.json"
  files.write(path, (files.read(path):gsub('"one": "%x%x%x%x', '"one": "0000')))
  local r = tiny.go("again", text)
  t.equal(r.code, 1)
  t.ok(r.err:find("study: the run 'runs/one' was trained again since this study was begun (its weights are ", 1, true),
    r.err)
  t.ok(r.err:find("..., not 0000", 1, true) or r.err:find("now, not 0000", 1, true), r.err)
end)

t.test("mistakes in a comparison are found before anything is computed", function()
  local call = "run:compare(study, { methods = { 'gradcam' }, metrics = { 'energy_inside' }, mask = 'lungs', %s })"
  local head = "local study = run:study { models = { 'one' }, data = data.test, images = 6 } "
  local function with(more) return head .. call:format(more) end
  local lines = say("asked", {
    with "primary = 'road_combined'",
    with "primary = 'energy_inside', settings = { deletion = { { steps = 3 } } }",
    head .. "run:compare(study, { methods = { 'gradcam' }, metrics = { 'effective_area' }, primary = "
      .. "'effective_area' })",
    head .. "run:compare(study, { methods = { 'gradcam', 'gradcam' }, metrics = { 'energy_inside' }, mask = 'lungs', "
      .. "primary = 'energy_inside' })",
    head .. "run:compare(study, { methods = { 'gradcam' }, metrics = { 'energy_inside' }, primary = 'energy_inside' })",
    head .. "run:compare(study, { methods = { 'gradcan' }, metrics = { 'energy_inside' }, mask = 'lungs', primary = "
      .. "'energy_inside' })",
    with "primary = 'energy_inside', array_index = '3'",
    with "primary = 'energy_inside', layer = { squeezenet = 'features.9' }",
    "run:compare({}, {})",
    head .. "run:compare(study, { methods = { 'gradcam' }, metrics = { 'energy_inside' }, mask = 'lung', primary = "
      .. "'energy_inside' })",
  })
  t.equal(lines, {
    "compare: primary is 'road_combined', which is not among the metrics (energy_inside).",
    "compare: settings names the metric 'deletion', which is not among the metrics (energy_inside).",
    "compare: primary is 'effective_area', which describes maps and ranks no methods. Choose another metric.",
    "compare: method 'gradcam' is asked for twice with the same settings.",
    "explain: metric 'energy_inside' needs a mask (expected mask = \"lesion\" or the like beside metrics).",
    "explain: unknown method 'gradcan'. Did you mean 'gradcam' or 'xgradcam'?",
    "compare: array_index is I/N, for instance 2/4 (got '3').",
    "compare: unknown network in layer 'squeezenet'. Did you mean 'squeezenet1_0'?",
    "compare: takes a study: run:compare(run:study { ... }, { methods = ..., metrics = ..., primary = ... }).",
    "compare: unknown mask 'lung'. Did you mean 'lungs'?",
  })
  t.ok(not files.exists(tiny.dir() .. "/runs/asked/study/cells"))
end)

t.test("a misspelt option of a comparison is found before the study is opened", function()
  local r = tiny.go("early", "local study = run:study { models = { 'none yet' }, data = data.test }\n"
    .. "run:compare(study, { methods = { 'gradcam' }, metric = { 'energy_inside' }, primary = 'energy_inside' })\n")
  t.equal(r.code, 1)
  t.ok(r.err:find("early.lua:5: compare: unknown option 'metric'. Did you mean 'metrics'?", 1, true), r.err)
end)
