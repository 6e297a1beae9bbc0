-- What a researcher brings to a training: a loss, and a function that is called after every epoch.
local t = require "t"
local csv = require "medxai.base.csv"
local files = require "medxai.base.files"
local host = require "medxai.host"
local training = require "medxai.train.options"
local xai = require "medxai"
local torch = xai.torch

local function network(classes)
  return xai.graph.network { name = "tiny", classes = classes, size_px = 32, cam_layer = "features", seed = 3,
    build = function(g, x)
      x = g:block("features", function() return g:relu("1", g:conv2d("0", x, { 3, 4, 3, padding = 1 })) end)
      return g:linear("fc", g:flatten(nil, g:adaptive_avg_pool2d("pool", x, 4)), { 64, 3 })
    end }
end

local function sgd(lr) return xai.optim.sgd { lr = lr or 0.1 } end

-- Nothing is printed until it is closed.
local function muted()
  local quiet, print_ = host.options.quiet, print
  host.options.quiet, print = true, function() end -- luacheck: ignore
  return setmetatable({}, { __close = function() host.options.quiet, print = quiet, print_ end }) -- luacheck: ignore
end

-- Trains in a folder of its own; returns fit's result and the folder.
local function fit(options, dir)
  local silence <close> = muted() -- luacheck: ignore
  local data = xai.dataset.phantom { n_train = 12, n_val = 6, n_test = 3, size_px = 32, cache_mb = 1 }
  local model = network(data.classes)
  dir = dir or t.tmpdir() .. "/run"
  local run = xai.run { name = "own", seed = 5, out = dir }
  options.optim, options.epochs, options.batch = options.optim or sgd(), options.epochs or 2, options.batch or 5
  local ok, result = pcall(run.fit, run, model, data, options)
  run:close(ok and "finished" or "failed")
  model:close()
  if not ok then error(result, 0) end
  return result, dir
end

local function records(dir)
  local list = {}
  for _, record in ipairs(files.records(dir .. "/metrics.jsonl")) do
    if record.step == "fit" then list[#list + 1] = record end
  end
  return list
end

-- ---- losses ----

t.test("an own loss that is cross-entropy trains to the bits of cross-entropy", function()
  local usual, usual_dir = fit {}
  local seen = {}
  local own, own_dir = fit { loss = function(logits, labels, batch)
    seen[#seen + 1] = { batch.split.name, batch.epoch, #batch.index, labels:size(0), batch.x:size(0), batch.training }
    return torch.cross_entropy(logits, labels)
  end }
  t.equal(own.weights_sha256, usual.weights_sha256)
  t.equal(seen[1], { "train", 1, 5, 5, 5, true })
  t.equal(seen[4], { "val", 1, 5, 5, 5, false })
  t.equal(seen[10], { "val", 2, 1, 1, 1, false })
  t.equal(#seen, 10)
  for i, record in ipairs(records(own_dir)) do
    t.equal(record.train_loss, records(usual_dir)[i].train_loss)
    t.near(record.val_loss, records(usual_dir)[i].val_loss, 1e-6)
  end
end)

t.test("the validation loss is the training's own: its mean over the images", function()
  local _, dir = fit { epochs = 1, loss = function(logits, labels, batch)
    if batch.training then return torch.cross_entropy(logits, labels) end
    return torch.tensor(0.0 + labels:size(0)) -- 5 and 1 images: (5 x 5 + 1 x 1) / 6
  end }
  t.near(records(dir)[1].val_loss, 26 / 6, 1e-12)
end)

t.test("focal loss is (1 - p)^gamma times cross-entropy, with gamma 0 cross-entropy itself, weighted "
  .. "as that is", function()
  local losses = require "medxai.train.loss"
  local scope <close> = xai.scope()
  local logits = torch.tensor({ { 2.0, -1.0, 0.5 }, { 0.0, 0.3, -0.2 }, { 40.0, -40.0, 0.0 } },
    { requires_grad = true })
  local y = torch.tensor { 0, 2, 0 }
  local function value(spec, weight)
    local w = weight and torch.tensor(weight) or nil
    return losses.open { torch = torch, loss_options = w and { weight = w } or nil,
      options = { loss = losses.parse(spec, {}) } }(logits, y)
  end
  local want, weighted, sum, w = 0.0, 0.0, 0.0, { 1.0, 2.0, 3.0 }
  for i, row in ipairs { { 2.0, -1.0, 0.5 }, { 0.0, 0.3, -0.2 }, { 40.0, -40.0, 0.0 } } do
    local label = ({ 0, 2, 0 })[i]
    local z = math.exp(row[1]) + math.exp(row[2]) + math.exp(row[3])
    local p = math.exp(row[label + 1]) / z
    local each = -((1 - p) ^ 2) * math.log(p)
    want, weighted, sum = want + each / 3, weighted + w[label + 1] * each, sum + w[label + 1]
  end
  t.near(value("focal"):item(), want, 1e-6)
  t.near(value({ "focal", gamma = 2 }, w):item(), weighted / sum, 1e-6)
  t.near(value({ "focal", gamma = 0 }, w):item(), torch.cross_entropy(logits, y, { weight = torch.tensor(w) }):item(),
    1e-6)
  for _, gamma in ipairs { 0, 0.5, 2 } do
    logits.grad = nil
    value({ "focal", gamma = gamma }):backward()
    t.equal(logits.grad:isfinite():all():item(), true)
  end
  local result = fit { loss = { "focal", gamma = 1.5 }, weight = "balanced" }
  t.equal(result.epochs, 2)
end)

t.test("a loss and on_epoch are part of the step's key; where they are not written no key knows them", function()
  local function described(options)
    options.optim, options.epochs = sgd(), 1
    return training.describe(training.check(options))
  end
  t.equal({ described {}.loss, described {}.on_epoch, described { loss = "cross_entropy" }.loss }, {})
  t.equal(described { loss = "focal" }.loss, { name = "focal", options = { gamma = 2 } })
  local function key(power)
    return described { loss = function(logits) return logits:pow(power):mean() end,
      on_epoch = function(state) if state.epoch > power then state:stop() end end }
  end
  t.equal(key(2), key(2))
  t.ok(key(2).loss.own ~= key(3).loss.own)
  t.ok(key(2).on_epoch ~= key(3).on_epoch)
end)

t.test("what is no loss is refused before training", function()
  local function wrong(options, message)
    options.optim, options.epochs = sgd(), 1
    t.fails(function() training.check(options) end, message)
  end
  wrong({ loss = "focl" }, "fit: unknown loss 'focl'. Did you mean 'focal'?")
  wrong({ loss = { "focal", gama = 1 } }, "fit: loss focal: unknown option 'gama'. Did you mean 'gamma'?")
  wrong({ loss = "focal", label_smoothing = 0.1 },
    "fit: option 'label_smoothing' belongs to the loss cross_entropy (here: focal). Leave it out.")
  wrong({ loss = function() end, weight = "balanced" },
    "fit: option 'weight' belongs to the losses with a name. Do in your own loss what it should do.")
end)

t.test("an own loss that returns no number to be lowered is told in words", function()
  local expected = " (expected a tensor of one number made of the logits). "
  t.fails(function() fit { loss = function() return 1.5 end } end,
    "fit: the loss returned a number" .. expected .. "Return the tensor itself, without :item().")
  t.fails(function() fit { loss = function() end } end,
    "fit: the loss returned nothing" .. expected .. "Return the batch's loss.")
  t.fails(function() fit { loss = function(logits) return { logits:mean() } end } end,
    "fit: the loss returned a table" .. expected .. "Return the batch's loss.")
  t.fails(function() fit { loss = function(logits) return logits:mean({ 1 }) end } end,
    "fit: the loss returned a tensor of "
    .. "shape (5) (expected a tensor of one number). Take the mean over the images: return loss:mean().")
  t.fails(function() fit { loss = function(logits) return logits:detach():mean() end } end,
    "fit: the loss returned a tensor without a gradient" .. expected
    .. "Make it of the logits, without detach, argmax or no_grad.")
end)

t.test("an own loss that is not finite, or raises, is told with its line, the epoch and the batch", function()
  local line = debug.getinfo(1, "l").currentline
  t.fails_like(function() fit { loss = function(logits) return (logits * 0):log():mean() * 0 end } end,
    "^fit: the loss is nan in epoch 1, batch 1 of 3 %(.*it began in the loss %(.*fit_own%.lua:" .. line + 1 .. "%)")
  t.fails_like(function()
    fit { loss = function(logits, labels, batch)
      if batch.epoch == 2 then error "no second epoch" end
      return torch.cross_entropy(logits, labels)
    end }
  end, "fit_own%.lua:" .. line + 5 .. ": no second epoch\n  in the loss in epoch 2, batch 1 of 3$")
  t.fails_like(function()
    fit { loss = function(logits, labels, batch)
      return torch.cross_entropy(logits, labels) + (batch.training and 0 or math.huge)
    end }
  end, "^fit: the loss is infinite on the validation images after epoch 1%. The logits are finite: look for a "
    .. "logarithm of "
    .. "0, .* in the loss %(.*fit_own%.lua:" .. line + 10 .. "%)%.$")
  t.fails_like(function() fit { loss = function(_, _, batch) return batch.images end } end,
    "fit_own%.lua:%d+: loss: unknown field of a batch 'images'")
end)

-- ---- on_epoch ----

t.test("on_epoch sees the epoch, notes numbers of its own, changes the learning rate and stops", function()
  local seen = {}
  local result, dir = fit { optim = sgd(0.8), epochs = 9, on_epoch = function(state)
    seen[#seen + 1] = { state.epoch, state.lr, #state.history, state.model.name, state.data.name }
    t.equal(state.history[state.epoch].val_accuracy, state.val_accuracy)
    state:log { weight_norm = state.model:parameters()[1].tensor:norm():item(), ["twice.loss"] = 2 * state.val_loss }
    state:set_lr(state.lr / 2)
    t.equal(state.lr, 0.8 / 2 ^ state.epoch)
    if state.epoch == 3 then state:stop() end
  end }
  t.equal(seen, { { 1, 0.8, 1, "tiny", "phantom" }, { 2, 0.4, 2, "tiny", "phantom" },
    { 3, 0.2, 3, "tiny", "phantom" } })
  t.equal(result.epochs, 3)
  local list = records(dir)
  t.equal({ list[1].lr, list[2].lr, list[3].lr }, { 0.8, 0.4, 0.2 })
  for _, record in ipairs(list) do t.equal(record.logged["twice.loss"], 2 * record.val_loss) end
  local told = {}
  for _, row in ipairs(csv.read(dir .. "/metrics.csv")) do
    if row.metric == "weight_norm" then told[#told + 1] = tonumber(row.value) end
  end
  t.equal(told, { list[1].logged.weight_norm, list[2].logged.weight_norm, list[3].logged.weight_norm })
end)

t.test("what on_epoch cannot do is told in words", function()
  local function fails(f, message, more)
    local options = more or {}
    options.on_epoch = f
    t.fails_like(function() fit(options) end, "^[^\n]*fit_own%.lua:%d+: " .. message
      .. ".*\n  in on_epoch after epoch 1$")
  end
  fails(function(state) return state.val_acuracy and nil end,
    "on_epoch: unknown field of its state 'val_acuracy'%. Did you mean 'val_accuracy'")
  fails(function(state) state:set_lr(-1) end, "on_epoch: set_lr takes a learning rate %(expected a number from 0, "
    .. "got %-1%)%.")
  fails(function(state) state:set_lr(0.1) end, "on_epoch: the schedule sets the learning rate%.",
    { schedule = xai.optim.step_lr { step_size = 2 } })
  fails(function(state) state:log { loss = 1 } end, "on_epoch: log: 'loss' cannot be the name of a number")
  fails(function(state) state:log { mine = "1" } end, "on_epoch: log: 'mine' is a string %(expected a number%)%.")
  t.fails(function() fit { on_epoch = function() return true end } end,
    "fit: on_epoch returned a boolean (expected nothing). To end the training, call state:stop().")
  t.fails(function() fit { on_epoch = function() error {} end } end,
    "fit: on_epoch after epoch 1 raised a table instead of a text (expected error(\"...\"))\n  in on_epoch "
    .. "after epoch 1")
end)

-- A whole run as a child: the learning rate is halved after every epoch, by `hook`.
local function script(hook)
  return ([[
local xai = require "medxai"
local run = xai.run { name = "own", seed = 5 }
local data = xai.dataset.phantom { n_train = 12, n_val = 6, n_test = 3, size_px = 32 }
local model = xai.graph.network { name = "tiny", classes = data.classes, size_px = 32, cam_layer = "0", seed = 3,
  build = function(g, x)
    x = g:dropout("drop", g:relu("1", g:conv2d("0", x, { 3, 4, 3, padding = 1 })), 0.3)
    return g:linear("fc", g:flatten(nil, g:adaptive_avg_pool2d("pool", x, 4)), { 64, 3 })
  end }
local sgd = xai.optim.sgd { lr = 0.2, momentum = 0.9 }
run:fit(model, data, { optim = sgd, epochs = 4, batch = 4, on_epoch = function(state)
  state:set_lr(state.lr / 2)
  state:log { half = state.lr, draw = xai.torch.rand(1):item() }
  %s
end })
]]):format(hook)
end

t.test("on_epoch raises in its third epoch: the line is told, the epoch is kept; mended, --resume goes on to the "
  .. "same bytes", function()
    local dir = t.tmpdir()
    local function go(out, hook, options)
      local path = t.write(dir .. "/own.lua", script(hook))
      return t.run { "--threads", "1", "--quiet", "--out", dir .. "/" .. out, table.unpack(options or { path }) }, path
    end
    local r, path = go("broken", "if state.epoch == 3 then state.model.nothing.more = 1 end")
    t.equal(r.code, 1)
    t.ok(r.err:find(path .. ":13: attempt to index a nil value (field 'nothing')\n  in on_epoch after epoch 3", 1,
      true), r.err)
    r = go("broken", "")
    t.equal(r.code, 1)
    t.ok(r.err:find("holds a run with another on_epoch. Give --resume to go on with this one from the last epoch",
      1, true), r.err)
    r = go("broken", "", { "--resume", path })
    t.equal(r.code, 0, r.err)
    t.ok(r.err:find("on_epoch is another one from epoch 4 on (--resume)", 1, true), r.err)
    r = go("whole", "")
    t.equal(r.code, 0, r.err)
    for _, name in ipairs { "weights.pt", "metrics.csv", "predictions.csv" } do
      t.ok(files.read(dir .. "/broken/" .. name) == files.read(dir .. "/whole/" .. name), name .. " differs")
    end
    local list = records(dir .. "/broken")
    t.equal({ list[3].mended[1], list[4].lr }, { "on_epoch", 0.2 / 8 })
  end)

t.test("a loss that raises within an epoch goes on from the batch before it; on_epoch is not called twice", function()
  local function options(breaks_at)
    local batches = 0
    return { optim = sgd(0.2), epochs = 4, batch = 4, checkpoint_minutes = 0,
      on_epoch = function(state) state:set_lr(state.lr / 2) end,
      loss = function(logits, labels, batch)
        batches = batches + (batch.training and 1 or 0)
        if batches == breaks_at then error "not this one" end
        return torch.cross_entropy(logits, labels)
      end }
  end
  local whole, whole_dir = fit(options(0))
  local dir = t.tmpdir() .. "/run"
  t.fails_like(function() fit(options(8), dir) end, "not this one\n  in the loss in epoch 3, batch 2 of 3$")
  local resume <close> = setmetatable({}, { __close = function() host.options.resume = nil end })
  host.options.resume = true
  local mended = fit(options(0), dir)
  t.equal(mended.weights_sha256, whole.weights_sha256)
  local rates = {}
  for i, record in ipairs(records(dir)) do rates[i] = { record.lr, record.train_loss } end
  for i, record in ipairs(records(whole_dir)) do t.equal(rates[i], { record.lr, record.train_loss }) end
  t.equal(#rates, 4)
end)

t.test("a loss that raises in the first epoch has cost nothing: mended, the same command begins", function()
  local dir = t.tmpdir() .. "/run"
  t.fails_like(function() fit({ loss = function() error "typo" end }, dir) end, "typo")
  local result = fit({ loss = function(logits, labels) return torch.cross_entropy(logits, labels) end }, dir)
  t.equal(result.epochs, 2)
end)

t.test("the cells of a search keep to an own loss and on_epoch: as run:fit, from images and from cached "
  .. "features", function()
  local silence <close> = muted() -- luacheck: ignore
  local data = xai.dataset.phantom { n_train = 12, n_val = 6, n_test = 3, size_px = 32, cache_mb = 1 }
  local options = { optim = sgd(0.4), batch = 5, loss = function(logits, labels, batch)
    return torch.cross_entropy(logits, labels) * batch.x:mean():mul(10)
  end, on_epoch = function(state) state:set_lr(state.lr / 2) end }
  local shas = {}
  for _, cache in ipairs { true, false } do
    local run = xai.run { name = "search", seed = 5, out = t.tmpdir() .. "/search" }
    local found = run:grid { epochs = { 2, 3 }, cache = cache, keep_weights = "all", train = function(cell)
      local own = { epochs = cell.epochs }
      for k, v in pairs(options) do own[k] = v end
      return xai.models.squeezenet1_0 { classes = data.classes, weights = "random", train_depth = 0 }, data, own
    end }
    for _, cell in ipairs(found.cells) do
      t.equal(cell.status, "finished")
      shas[cell.values.epochs] = shas[cell.values.epochs] or cell.weights_sha256
      t.equal(cell.weights_sha256, shas[cell.values.epochs])
      local rates = {}
      for _, record in ipairs(files.records(run.dir .. "/cells/" .. cell.cell .. "/metrics.jsonl")) do
        rates[#rates + 1] = record.lr
      end
      t.equal(rates, { 0.4, 0.2, cell.values.epochs == 3 and 0.1 or nil })
    end
    run:close("finished")
    found.model:close()
  end
end)
