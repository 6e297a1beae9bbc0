-- What a training does: learning rates, early stopping, frozen parts, the best weights, what the folder says.
local t = require "t"
local training = require "medxai.train.options"
local csv = require "medxai.base.csv"
local files = require "medxai.base.files"
local xai = require "medxai"

local function tiny_data()
  return xai.dataset.phantom { n_train = 12, n_val = 6, n_test = 6, size_px = 32, cache_mb = 1 }
end

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
  local model <close> = setmetatable({ model = tiny_model(data.classes) },
    { __close = function(m) m.model:close() end })
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

t.test("StepLR steps once per epoch by default", function()
  with_run(function(run, data, model)
    run:fit(model, data, { optim = xai.optim.sgd { lr = 0.8 },
      schedule = xai.optim.step_lr { step_size = 2, gamma = 0.5 }, epochs = 5, batch = 6 })
    t.near(rates(run), { 0.8, 0.8, 0.4, 0.4, 0.2 }, 1e-12)
  end)
end)

t.test("step_per = \"phase\" steps twice an epoch, as the thesis did", function()
  with_run(function(run, data, model)
    run:fit(model, data, { optim = xai.optim.sgd { lr = 0.8 },
      schedule = xai.optim.step_lr { step_size = 3, gamma = 0.5 }, epochs = 5, batch = 6, step_per = "phase" })
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
    local evaluated = run:evaluate(model, data.val, { batch = 32 })
    t.near(evaluated.accuracy, best.val_accuracy, 0)
    t.near(evaluated.loss, best.val_loss, 1e-6)
    local scope <close> = xai.scope()
    local stored = {}
    for _, entry in ipairs(xai.load(run.dir .. "/weights.pt").tensors) do stored[entry.name] = entry.tensor end
    for _, entry in ipairs(model:state()) do t.ok(entry.tensor:equal(stored[entry.name]), entry.name .. " differs") end
    t.equal(files.read_data(run.dir .. "/model.json").weights_sha256, result.weights_sha256)
    t.ok(files.exists(run.dir .. "/checkpoint.pt")) -- more epochs go on from it
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

t.test("drop_last leaves the last batch out, from images and from cached outputs; where it is not written no key "
  .. "knows it", function()
  local fit, Trainer, prefix = require "medxai.steps.fit", require "medxai.train.trainer",
    require "medxai.train.feature_cache"
  t.equal(training.describe(training.check { optim = slow, epochs = 1 }).drop_last, nil)
  t.equal(training.describe(training.check { optim = slow, epochs = 1, drop_last = true }).drop_last, true)
  with_run(function(run, data, model)
    run:fit(model, data, { optim = slow, epochs = 1, batch = 5, drop_last = true })
    local scope <close> = xai.scope()
    local torch, seen = xai.torch, { table.unpack(data.train:order(5, 1), 1, 10) }
    local batch = data.train:batch(seen)
    local loss = torch.no_grad(function() return torch.cross_entropy(model(batch.x), batch.y):item() end)
    t.near(epochs(run)[1].train_loss, loss, 1e-6)
    t.fails(function() Trainer.new { model = model, data = data, seed = 1, key = "",
      options = training.check { optim = slow, epochs = 1, batch = 16, drop_last = true } } end,
      "fit: drop_last = true leaves no batch (12 training images, batch = 16). Write a smaller batch.")
  end)
  with_run(function(run, data, model)
    model:set_trainable { features = false }
    local cached <close> = setmetatable({}, { __close = prefix.release })
    local outputs = t.ok(prefix.open(model, data, run,
      { cache_mb = 64, cache_file_mb = 0, folder = run.dir, batch = 5, precision = "float32" }))
    local source, sizes = outputs:source(data.train, { batch = 5, drop_last = true }), {}
    t.equal(source.batches, 2)
    local scope <close> = xai.scope()
    for batch in function() return source:next() end do sizes[#sizes + 1] = #batch.index end
    t.equal(sizes, { 5, 5 })
  end)
end)

t.test("predictions.csv holds the validation and test answers at full precision", function()
  with_run(function(run, data, model)
    run:fit(model, data, { optim = sgd, epochs = 1, batch = 6 })
    run:evaluate(model, data.test)
    local rows, columns = csv.read(run.dir .. "/predictions.csv")
    t.equal(columns, { "image_id", "path", "patient", "source", "split", "label", "predicted", "logit_clear",
      "logit_nodule", "logit_opacity", "prob_clear", "prob_nodule", "prob_opacity", "input" })
    t.equal(#rows, data.val.n + data.test.n)
    t.equal({ rows[1].split, rows[#rows].split }, { "val", "test" })
    t.equal(rows[1].image_id, data.val:item(1).id)
    t.near(tonumber(rows[1].prob_clear) + tonumber(rows[1].prob_nodule) + tonumber(rows[1].prob_opacity), 1, 1e-15)
  end)
end)

t.test("every evaluation of the test split is counted", function()
  with_run(function(run, data, model)
    t.equal(run:evaluate(model, data.test).evaluations, 1)
    t.equal(run:evaluate(model, data.test).evaluations, 1) -- not done again
    t.equal(run:evaluate(model, data.test, { level = 0.9 }).evaluations, 2)
    t.equal(run:evaluate(model, data.test, { name = "again" }).evaluations, 3)
    t.equal(run:evaluate(model, data.val).evaluations, nil)
  end)
end)

t.test("a second process cannot use the folder of a run at work", function()
  with_run(function(run, data, model)
    run:evaluate(model, data.val)
    local script = t.write(t.tmpdir() .. "/second.lua",
      'local run = require("medxai").run { name = "second" }\nrun:prepare()\n')
    local r = t.run { "--out", run.dir, script }
    t.equal(r.code, 1)
    local words = "' is in use by process " .. require("medxai.file").pid() .. " on "
    t.ok(r.err:find("run: '" .. run.dir .. words, 1, true)
      and r.err:find("%. Wait for it, or give another %-%-out%."), r.err)
  end)
end)

t.test("an evaluation says what its intervals are, on the terminal and in its result; of fewer than ten images "
  .. "none, and why", function()
  local dir = t.tmpdir()
  local script = t.write(dir .. "/run.lua", [[
local xai = require "medxai"
local run = xai.run { name = "intervals" }
local data = xai.dataset.phantom { n_train = 6, n_val = 6, n_test = 12, size_px = 32 }
local model = xai.models.squeezenet1_0 { classes = data.classes, weights = "random" }
local few = run:evaluate(model, data.val)
local result = run:evaluate(model, data.test)
local i = result.intervals
print("kinds", i.kind.accuracy, i.kind.macro_f1, i.kind.auroc_macro, i.level, i.units, i.resampled)
local low, high = require("medxai.stats.units").wilson(result.accuracy, 12)
print("wilson", math.abs(low - i.accuracy[1]) < 1e-12 and math.abs(high - i.accuracy[2]) < 1e-12)
run:cross_evaluate { models = { one = model }, splits = { whole = data.test } }
for _, row in ipairs(require("medxai.base.csv").read(run.dir .. "/cross.csv")) do print("cross", row.interval) end
print("few", few.intervals.why.accuracy, few.intervals.why.macro_f1, few.intervals.accuracy[1] ~= few.intervals.accuracy[1])
]])
  local r = t.run { "--out", dir .. "/out", "--threads", "1", script }
  t.equal(r.code, 0, r.err)
  t.ok(r.out:find("kinds\tWilson\tdelta-method\tdelta-method\t0.95\t12\timages", 1, true), r.out)
  t.ok(r.out:find("wilson\ttrue", 1, true), r.out)
  t.ok(r.out:find("few\tfewer than 10 images\tfewer than 10 images\ttrue", 1, true), r.out)
  t.ok(r.out:find("cross\tWilson over images", 1, true), r.out)
  t.ok(r.out:find("on each kind of input, 95 % Wilson intervals over images (image-level, patients unknown)", 1,
    true), r.out)
  t.ok(
    r.out:find("accuracy 0%.%d+, 95 %% Wilson interval over 12 images 0%.%d+ to 0%.%d+ "
      .. "%(image%-level, patients unknown%), loss"), r.out)
  t.ok(r.out:find "accuracy 0%.%d+, no interval: fewer than 10 images %(image%-level, patients unknown%), loss", r.out)
end)

-- How far the trained weights of two runs of the same start lie apart.
local function far(a, b)
  local scope <close> = require("medxai.core").memory.scope()
  local x, y, most = xai.load(a .. "/weights.pt").tensors, xai.load(b .. "/weights.pt").tensors, 0
  for i, entry in ipairs(x) do most = math.max(most, (entry.tensor - y[i].tensor):abs():max():item()) end
  return most
end

-- Trains with these options and gives the folder.
local function trained(more)
  local dir
  with_run(function(run, data, model)
    local options = { optim = xai.optim.sgd { lr = 0.5 }, epochs = 2, batch = 6 }
    for k, v in pairs(more or {}) do options[k] = v end
    run:fit(model, data, options)
    dir = t.tmpdir()
    os.execute("cp -r " .. t.quote(run.dir) .. "/. " .. t.quote(dir))
  end)
  return dir
end

t.test("class weights, label smoothing and the sampler change a training as they should, and equal "
  .. "weights do not", function()
  local plain = trained()
  t.near(far(plain, trained { weight = { 2, 2, 2 } }), 0, 1e-6)
  t.near(far(plain, trained { weight = "balanced" }), 0, 1e-6) -- the phantoms are balanced
  t.ok(far(plain, trained { weight = { 1, 5, 1 } }) > 1e-4)
  t.ok(far(plain, trained { label_smoothing = 0.3 }) > 1e-4)
  t.ok(far(plain, trained { sampler = "weighted" }) > 1e-5)
end)

t.test("the loss with class weights and smoothing is cross entropy's, as PyTorch defines it", function()
  local torch = xai.torch
  with_run(function(_, data, model)
    local Trainer, fit = require "medxai.train.trainer", require "medxai.steps.fit"
    local options = training.check { optim = slow, epochs = 1, batch = 12, weight = { 1, 2, 4 }, label_smoothing = 0.2 }
    local trainer <close> = Trainer.new { model = model, data = data, options = options, seed = 5, key = "k" }
    local batch = data.train:batch { 1, 2, 3, 4, 5 }
    local loss = trainer:loss(batch, batch.y):item()
    local logp = torch.log_softmax(model(batch.x), 1):tolist()
    local w, y, sum, smooth, total = { 1, 2, 4 }, batch.y:tolist(), 0, 0, 0
    for i, row in ipairs(logp) do
      sum, total = sum - w[y[i] + 1] * row[y[i] + 1], total + w[y[i] + 1]
      for c = 1, 3 do smooth = smooth - w[c] * row[c] end
    end
    t.near(loss, 0.8 * sum / total + 0.2 / 3 * smooth / total, 1e-6)
    batch.x:close()
    batch.y:close()
  end)
end, { leaks = true }) -- the loss' graph lives until the collector takes it

t.test("gradients are clipped to their common norm: one step moves the weights no further", function()
  local before
  with_run(function(run, data, model)
    before = {}
    for i, p in ipairs(model:parameters()) do before[i] = p.tensor:detach():clone() end
    run:fit(model, data, { optim = xai.optim.sgd { lr = 1.0 }, epochs = 1, batch = 12, clip_grad_norm = 0.01 })
    local square = 0.0
    for i, p in ipairs(model:parameters()) do
      square = square + (p.tensor:detach() - before[i]):square():sum():item()
      before[i]:close()
    end
    t.near(math.sqrt(square), 0.01, 1e-5)
  end)
end)

t.test("precision = \"bfloat16\" trains in bfloat16 products with float32 weights, near float32", function()
  t.needs_bfloat16()
  local d = far(trained(), trained { precision = "bfloat16" })
  t.ok(d > 0 and d < 0.2, "weights differ by " .. d)
end)

t.test("best_by another number keeps that epoch", function()
  with_run(function(run, data, model)
    local result = run:fit(model, data, { optim = xai.optim.sgd { lr = 0.3 }, epochs = 5, batch = 3, best_by = "loss" })
    local best
    for _, record in ipairs(epochs(run)) do
      if not best or record.val_loss < best.val_loss then best = record end
    end
    t.equal(result.best_epoch, best.epoch)
    t.equal(files.read_data(run.dir .. "/model.json").selected.by, "loss")
  end)
end)

t.test("an experiment of several seeds runs once for each, from its own initial weights, and sums up", function()
  local dir = t.tmpdir()
  local script = t.write(dir .. "/seeds.lua", [[
local xai = require "medxai"
local run = xai.run { name = "sd", seeds = { 1, 2, 3 } }
local data = xai.dataset.phantom { n_train = 48, n_val = 6, n_test = 60, size_px = 32, marker = 1 }
local model = xai.graph.network { name = "tiny", classes = data.classes, size_px = 32,
  build = function(g, x) return g:linear("fc", g:flatten(nil, g:adaptive_avg_pool2d("pool", x, 8)), { 192, 3 }) end }
run:fit(model, data, { optim = xai.optim.adam { lr = 0.01 }, epochs = 12, batch = 6 })
run:evaluate(model, data.test)
run:evaluate(model, data.val)
]])
  local r = t.run { "--threads", "1", "--quiet", "--out", dir .. "/out", script }
  t.equal(r.code, 0, r.err)
  t.ok(r.out:find "evaluate%-val over 3 seeds\n.-accuracy for other seeds: no interval: fewer than 10 images\n", r.out)
  local table_ = {}
  for seed = 1, 3 do
    local i = 0
    for _, row in ipairs(csv.read(dir .. "/out/seed-" .. seed .. "/predictions.csv")) do
      if row.split == "test" then
        i = i + 1
        table_[i] = table_[i] or {}
        table_[i][seed] = row.label == row.predicted and 1 or 0
      end
    end
  end
  local c = require("medxai.stats.components").of(table_)
  local said = c.why and "no interval: " .. c.why
    or string.format("%.4f, 95 %% interval %.4f to %.4f over images and seeds (t with %.1f degrees of freedom)",
    c.mean, math.max(0, c.low), math.min(1, c.high), c.df)
  t.ok(r.out:find("accuracy for other seeds: " .. said, 1, true), said .. "\n" .. r.out)
  local rows, sums = csv.read(dir .. "/out/seeds.csv"), {}
  for seed = 1, 3 do sums[files.read_data(dir .. "/out/seed-" .. seed .. "/model.json").weights_sha256] = true end
  local different = 0
  for _ in pairs(sums) do different = different + 1 end
  t.equal({ different, #rows }, { 3, 30 })
  t.ok(r.out:find("evaluate-test over 3 seeds\n  accuracy           mean ", 1, true), r.out)
  r = t.run { "--threads", "1", "--quiet", "--seed", "9", "--out", dir .. "/out", script }
  t.equal(r.err, "medxai-run: " .. script .. ":2: run: --seed and seeds exclude each other. Leave one out.\n")
end)
