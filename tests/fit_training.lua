-- What a training does: learning rates, early stopping, frozen parts, the best weights, what the folder says.
local t = require "t"
local files = require "medxai.files"
local xai = require "medxai"

local function tiny_data() return xai.dataset.phantom { n_train = 12, n_val = 6, n_test = 6, size_px = 32, cache_mb = 1 } end

local function tiny_model(classes, more)
  local options = { name = "tiny", classes = classes, size_px = 32, cam_layer = "features", seed = 3,
    build = function(g, x)
      x = g:block("features", function() return g:relu("1", g:conv2d("0", x, { 3, 4, 3, padding = 1 })) end)
      return g:linear("fc", g:flatten(nil, g:adaptive_avg_pool2d("pool", x, 4)), { 64, 3 })
    end }
  for k, v in pairs(more or {}) do options[k] = v end
  return xai.graph.network(options)
end

-- A run in a temporary folder, quiet, closed afterwards; f(run, data, model).
local count = 0
local function with_run(f)
  local host = require "medxai.host"
  local quiet, print_ = host.options.quiet, print
  host.options.quiet = true
  count = count + 1
  local data = tiny_data()
  local model <close> = setmetatable({ model = tiny_model(data.classes) }, { __close = function(m) m.model:close() end })
  local run = xai.run { name = "training" .. count, seed = 5, out = t.tmpdir() .. "/run" }
  print = function() end -- luacheck: ignore
  local ok, problem = pcall(f, run, data, model.model)
  print = print_ -- luacheck: ignore
  run:close("finished")
  host.options.quiet = quiet
  if not ok then error(problem, 0) end
end

local function epochs(run)
  local list = {}
  for _, record in ipairs(files.records(run.dir .. "/metrics.jsonl")) do
    if record.step == "fit" then list[#list + 1] = record end
  end
  return list
end

local function rates(run)
  local list = {}
  for i, record in ipairs(epochs(run)) do list[i] = record.lr end
  return list
end

local sgd = xai.optim.sgd { lr = 1.0, momentum = 0.0 }
local slow = xai.optim.sgd { lr = 0.0 }

t.test("StepLR steps once an epoch by default", function()
  with_run(function(run, data, model)
    run:fit(model, data, { optim = xai.optim.sgd { lr = 0.8 }, step = { size = 2, gamma = 0.5 }, epochs = 5, batch = 6 })
    t.near(rates(run), { 0.8, 0.8, 0.4, 0.4, 0.2 }, 1e-12)
  end)
end)

t.test("step_per = \"phase\" steps twice an epoch, as the thesis did", function()
  with_run(function(run, data, model)
    run:fit(model, data, { optim = xai.optim.sgd { lr = 0.8 }, step = { size = 3, gamma = 0.5 }, epochs = 5, batch = 6, step_per = "phase" })
    t.near(rates(run), { 0.8, 0.8, 0.4, 0.2, 0.2 }, 1e-12)
  end)
end)

t.test("early stopping ends a training that does not get better", function()
  with_run(function(run, data, model)
    local result = run:fit(model, data, { optim = slow, epochs = 50, batch = 6, early_stopping = { patience = 3 } })
    t.equal(result.epochs, 4)
    t.equal(result.best_epoch, 1)
    t.equal(#epochs(run), 4)
  end)
end)

t.test("the weights of the best epoch are in the model and in weights.pt", function()
  with_run(function(run, data, model)
    local result = run:fit(model, data, { optim = xai.optim.sgd { lr = 0.3 }, epochs = 6, batch = 3 })
    local best
    for _, record in ipairs(epochs(run)) do
      if not best or record.val_accuracy > best.val_accuracy then best = record end
    end
    t.equal(result.best_epoch, best.epoch)
    local evaluated = run:evaluate(model, data.val, { batch = 32, resamples = 10 })
    t.near(evaluated.accuracy, best.val_accuracy, 0)
    t.near(evaluated.loss, best.val_loss, 1e-6)
    local scope <close> = xai.scope()
    local stored = {}
    for _, entry in ipairs(xai.load(run.dir .. "/weights.pt").tensors) do stored[entry.name] = entry.tensor end
    for _, entry in ipairs(model:state()) do t.ok(entry.tensor:equal(stored[entry.name]), entry.name .. " differs") end
    t.equal(files.read_data(run.dir .. "/model.json").weights_sha256, result.weights_sha256)
    t.ok(not files.exists(run.dir .. "/checkpoint.pt"))
  end)
end)

t.test("the last batch counts by its size", function()
  with_run(function(run, data, model)
    run:fit(model, data, { optim = slow, epochs = 1, batch = 5 }) -- 5, 5 and 2 images; lr 0: the same model throughout
    local record = epochs(run)[1]
    local scope <close> = xai.scope()
    local torch = xai.torch
    local whole = {}
    for i = 1, data.train.n do whole[i] = i end
    local batch = data.train:batch(whole)
    local loss = torch.no_grad(function() return torch.cross_entropy(model(batch.x), batch.y):item() end)
    t.near(record.train_loss, loss, 1e-6)
  end)
end)

t.test("predictions.csv holds the validation and test answers at full precision", function()
  with_run(function(run, data, model)
    run:fit(model, data, { optim = sgd, epochs = 1, batch = 6 })
    run:evaluate(model, data.test, { resamples = 10 })
    local rows, columns = files.read_csv(run.dir .. "/predictions.csv")
    t.equal(columns, { "image_id", "path", "patient", "source", "split", "label", "predicted", "logit_clear", "logit_nodule", "logit_opacity",
      "prob_clear", "prob_nodule", "prob_opacity", "input_mode" })
    t.equal(#rows, data.val.n + data.test.n)
    t.equal({ rows[1].split, rows[#rows].split }, { "val", "test" })
    t.equal(rows[1].image_id, data.val:item(1).id)
    t.near(tonumber(rows[1].prob_clear) + tonumber(rows[1].prob_nodule) + tonumber(rows[1].prob_opacity), 1, 1e-15)
  end)
end)

t.test("every evaluation of the test split is counted", function()
  with_run(function(run, data, model)
    t.equal(run:evaluate(model, data.test, { resamples = 10 }).evaluations, 1)
    t.equal(run:evaluate(model, data.test, { resamples = 10 }).evaluations, 1) -- not done again
    t.equal(run:evaluate(model, data.test, { resamples = 11 }).evaluations, 2)
    t.equal(run:evaluate(model, data.test, { resamples = 10, name = "again" }).evaluations, 3)
    t.equal(run:evaluate(model, data.val, { resamples = 10 }).evaluations, nil)
  end)
end)

t.test("a second process cannot use the folder of a run at work", function()
  with_run(function(run, data, model)
    run:evaluate(model, data.val, { resamples = 10 })
    local script = t.write(t.tmpdir() .. "/second.lua", 'local run = require("medxai").run { name = "second" }\nrun:prepare()\n')
    local r = t.run { "--out", run.dir, script }
    t.equal(r.code, 1)
    t.ok(r.err:find("run: '" .. run.dir .. "' is in use by another process. Wait for it, or give another --out.", 1, true), r.err)
  end)
end)

t.test("intervals resample patients where they are known, images otherwise and say so", function()
  local values = { 1, 1, 1, 0, 0, 0, 1, 0 }
  local by_image = xai.metrics.mean_interval(values, { resamples = 200 })
  t.equal(by_image.resampled, "images")
  t.equal(by_image.note, "image-level, patients unknown")
  t.equal(by_image.mean, 0.5)
  t.ok(by_image.low < 0.5 and by_image.high > 0.5)
  local by_patient = xai.metrics.mean_interval(values, { resamples = 200, patients = { "a", "a", "a", "b", "b", "b", "c", "c" } })
  t.equal(by_patient.resampled, "patients")
  t.ok(by_patient.high - by_patient.low > by_image.high - by_image.low, "patients that agree with themselves give a wider interval")
  t.equal(xai.metrics.mean_interval(values, { resamples = 200 }), by_image) -- the same draws
end)
