-- What a training does so that it need not wait for a GPU, to the bits of a training that waits: images kept on the
-- device, losses read late; and the precisions of its products. On the CPU, or where MEDXAI_TEST_DEVICE says, on a GPU
-- (tests/device.sh), where there is more to compare with the CPU.
local t = require "t"
local core = require "medxai.core"
local png = require "png"
local on_device = require "medxai.data.on_device"
local training = require "medxai.train.options"
local Trainer = require "medxai.train.trainer"
local xai = require "medxai"
local torch = xai.torch

local device = os.getenv "MEDXAI_TEST_DEVICE" or "cpu"

local function data_of(more)
  local options = { n_train = 12, n_val = 6, n_test = 6, size_px = 16, cache_mb = 1 }
  for k, v in pairs(more or {}) do options[k] = v end
  return xai.dataset.phantom(options)
end

local function tiny(classes, where)
  return xai.graph.network { name = "tiny", classes = classes, size_px = 16, device = where or device,
    cam_layer = "features", seed = 3,
    build = function(g, x)
      x = g:block("features", function()
        return g:relu("2", g:batch_norm2d("1", g:conv2d("0", x, { 3, 4, 3, padding = 1 }), 4))
      end)
      x = g:avg_pool2d("pool", x, { 8 }) -- an adaptive one has no deterministic backward pass on CUDA
      x = g:dropout("drop", g:flatten(nil, x), 0.2)
      return g:linear("fc", x, { 16, 3 })
    end }
end

local function stay(trainer)
  if not trainer.late then trainer:stay_on_device() end
end

-- A GPU's trainer stays on it by itself.
local function wait(trainer)
  for _, name in ipairs { "late", "images" } do
    if trainer[name] then trainer[name]:close() end
    trainer[name] = nil
  end
end

local function bytes_of(tensor) return tensor:detach():cpu():contiguous():data_string() end

-- Trains; prepare(trainer) comes before the first epoch. Returns the history and the weights' bytes.
local function trained(more, prepare)
  local host = require "medxai.host"
  local quiet = host.options.quiet
  host.options.quiet = true
  local back <close> = setmetatable({}, { __close = function() host.options.quiet = quiet end }) -- luacheck: ignore
  local scope <close> = core.memory.scope() -- luacheck: ignore
  local data = data_of { augment = true }
  local model <close> = setmetatable({ m = tiny(data.classes) }, { __close = function(s) s.m:close() end })
  local options = { optim = xai.optim.adam { lr = 0.05 }, epochs = 2, batch = 5 }
  for k, v in pairs(more or {}) do options[k] = v end
  local mode <close> = training.deterministic(true) -- luacheck: ignore (held, not read)
  local trainer <close> = Trainer.new { model = model.m, data = data, options = training.check(options, data), seed = 5,
    key = "k" }
  torch.manual_seed(7)
  if prepare then prepare(trainer) end
  for _ = 1, options.epochs do trainer:run_epoch() end
  local bytes = {}
  for i, entry in ipairs(model.m:state()) do bytes[i] = bytes_of(entry.tensor) end
  return trainer.history, bytes, trainer
end

t.test("images kept on the device give the loader's batches to the bit, augmented and scaled too", function()
  for _, more in ipairs { {}, { augment = true },
    { augment = { flip = 0.5, rotate_deg = 30, shift = 0.3, scale = 0.4, brightness = 0.5, contrast = 0.9 },
      mean = { 0.1, 0.2, 0.3 }, std = { 0.5, 0.6, 0.7 } } } do
    local data = data_of(more)
    local kept <close> = on_device.open(data.train, device)
    t.equal(kept.bytes:size(1), 1) -- gray images take one byte a pixel
    for epoch = 1, 2 do
      for _, channels_last in ipairs { false, true } do
        local o = { batch = 5, order = data.train:order(9, epoch), seed = 9, epoch = epoch, augment = true,
          channels_last = channels_last, drop_last = epoch == 2 }
        local loader <close> = data.train:loader(o)
        local source, batches = kept:source(o), 0
        t.equal(source.batches, loader.batches)
        for expected in loader:iter() do
          local scope <close> = core.memory.scope() -- luacheck: ignore
          local got = source:next()
          t.equal(bytes_of(got.x), bytes_of(expected.x))
          for d = 0, 3 do t.equal(got.x:stride(d), expected.x:stride(d)) end
          t.equal(got.y:tolist(), expected.y:tolist())
          t.equal(got.index, expected.index)
          expected.x:close()
          expected.y:close()
          batches = batches + 1
        end
        t.equal({ source:next() }, {})
        t.equal(batches, source.batches)
      end
    end
  end
end)

t.test("color images among gray ones are kept in three channels", function()
  local dir = t.tmpdir()
  os.execute("mkdir -p " .. dir .. "/train/a " .. dir .. "/train/b " .. dir .. "/val/a " .. dir .. "/val/b")
  local scope <close> = core.memory.scope() -- luacheck: ignore
  for i, name in ipairs { "train/a/1", "train/a/2", "train/b/1", "val/a/1", "val/b/1" } do
    t.write(dir .. "/" .. name .. ".png", png.bytes(16, 16, i == 3 and 2 or 0, 8, function(x, y, channel)
      return (x * 11 + y * 17 + i * 29 + channel * 83) % 256
    end))
  end
  local data = xai.dataset.folders { root = dir, size_px = 16, resize_px = 16, cache_mb = 1 }
  local kept <close> = on_device.open(data.train, device)
  t.equal(kept.bytes:size(1), 3)
  local got = kept:source({ batch = 3, order = { 3, 1, 2 } }):next()
  t.equal(bytes_of(got.x), bytes_of(data.train:batch({ 3, 1, 2 }).x))
end)

t.test("a training that reads its losses late, from images kept on the device, gives the bits of one that waits",
  function()
    for _, more in ipairs { {}, { clip_grad_norm = 0.05, optim = xai.optim.sgd { lr = 0.1, momentum = 0.9 } } } do
      local history, weights = trained(more, wait)
      local late_history, late_weights = trained(more, stay)
      t.equal(late_history, history)
      t.equal(late_weights, weights)
    end
  end)

t.test("a loss that is not finite and is read late is told with its batch, and leaves the weights before it", function()
  local function attempt(late)
    local before
    local problem = t.fails_like(function()
      local calls = 0
      trained({ epochs = 1, loss = function(logits, y)
        calls = calls + 1
        local loss = torch.cross_entropy(logits, y)
        return calls == 2 and loss * (0 / 0) or loss
      end }, function(trainer)
        if late then stay(trainer) else wait(trainer) end
        local close = trainer.close
        function trainer:close()
          before = {}
          for i, p in ipairs(self.params) do before[i] = bytes_of(p) end
          close(self)
        end
        getmetatable(trainer).__close = function(self) self:close() end
      end)
    end, "the loss is nan in epoch 1, batch 2 of 3")
    return before, problem
  end
  local weights, problem = attempt(false)
  local late_weights, late_problem = attempt(true)
  t.equal(late_weights, weights)
  t.equal(late_problem, problem)
end)

t.test("the scale of a loss in float16 halves after a bad step, and its state carries over", function()
  local precision = require "medxai.train.precision"
  if not pcall(precision.check, "fit", "float16", device) then
    t.skip "this libtorch scales losses on GPUs alone"
  end
  local _, _, trainer = trained({ precision = "float16", epochs = 1 }, function(trainer)
    trainer.scale:load_state { scale = 2 ^ 120, growth = 3 } -- gradients overflow
    stay(trainer)
    local before = {}
    for i, p in ipairs(trainer.params) do before[i] = p:detach():clone() end
    trainer.untouched = function()
      for i, p in ipairs(trainer.params) do
        if not p:equal(before[i]) then return false end
      end
      return true
    end
    local check = trainer.scale.check
    function trainer.scale:check()
      trainer.said = { self:state(), trainer.untouched() }
      check(self)
    end
  end)
  t.equal(trainer.said[1].growth, 0)
  t.ok(trainer.said[1].scale < 2 ^ 120 and trainer.said[2])
end)

t.test("tf32 and float16 are refused where there is no GPU for them", function()
  if device ~= "cpu" then t.skip("this is " .. device) end
  t.fails_like(function() trained { precision = "tf32" } end,
    "^fit: precision = 'tf32' is of NVIDIA's GPUs, from Ampere on %(here: cpu%)%. Leave it out%.")
  if core.tensor.torch_version():find "^1%." then
    t.fails_like(function() trained { precision = "float16" } end, "^fit: precision = 'float16' scales the loss, which "
      .. "this libtorch does on GPUs alone %(here: cpu%)%. Write bfloat16, or leave it out%.")
  end
end)

t.test("the precision stands in the step's key", function()
  local function key(name)
    local options = training.check { optim = xai.optim.sgd { lr = 0.1 }, epochs = 1 }
    options.precision = name
    return require("medxai.base.json").hash(training.describe(options))
  end
  t.ok(key "tf32" ~= key "float32" and key "float16" ~= key "bfloat16")
end)

t.test("without a GPU no memory of one is free", function()
  if core.device.cuda_count() > 0 then t.skip "this machine has a GPU" end
  t.equal(core.device.free_bytes(), 0)
end)

-- ---- a GPU beside the CPU -------------------------------------------------------------------------------------------

local function beside_cpu(name, f)
  t.test(name, function()
    if not os.getenv "MEDXAI_TEST_DEVICE" then t.skip "tests/device.sh runs it" end
    f()
  end)
end

local networks = device == "cpu" and { "squeezenet1_0" } or { "squeezenet1_0", "mobilenet_v2", "efficientnet_b0",
  "densenet121", "resnet50", "inception_v3", "vgg19" }

for _, name in ipairs(networks) do
  beside_cpu(name .. ": logits are the CPU's, to float32's digits", function()
    local scope <close> = core.memory.scope() -- luacheck: ignore
    local here = xai.models[name] { classes = 3, seed = 1, device = "cpu", engine = "reference" }
    local there = xai.models[name] { classes = 3, seed = 1, device = device, engine = "reference" }
    here:eval()
    there:eval()
    local x = torch.rand { 2, 3, here.size_px, here.size_px }
    local expected, got = torch.no_grad(here, x), torch.no_grad(there, x:to { device = device }):cpu()
    -- two orders of summing some 10^7 float32 products: 1e-4 of the scale; TF32 would be 1e-3 and more
    t.near(got, expected, 2e-4 * expected:abs():max():item())
    here:close()
    there:close()
  end)
end

for _, kind in ipairs { "sgd", "adam", "adamw", "rmsprop" } do
  beside_cpu(kind .. ": ten steps end at the CPU's weights", function()
    local function run(where)
      local w = torch.arange(60, { dtype = "float32" }):sin():reshape { 3, 4, 5 }:to { device = where }:requires_grad_()
      local o = xai.optim[kind]({ lr = 0.01, weight_decay = 0.1 }):build { { names = { "w" }, params = { w } } }
      for k = 1, 10 do
        w.grad = torch.arange(60, { dtype = "float32" }):add(k):cos():reshape { 3, 4, 5 }:to { device = where }
        o:step(torch.zeros({}, { device = where }))
      end
      return w:detach():cpu()
    end
    t.near(run(device), run "cpu", 1e-5)
  end)
end

for _, precision in ipairs { "float32", "bfloat16", "float16", "tf32" } do
  beside_cpu("a training in " .. precision .. " lowers its loss", function()
    if not pcall(require("medxai.train.precision").check, "fit", precision, device) then
      t.skip(device .. " does not compute in " .. precision)
    end
    local history = trained { precision = precision, epochs = 8, optim = xai.optim.adam { lr = 0.02 } }
    t.ok(history[8].train_loss < history[1].train_loss, history[8].train_loss)
  end)
end

beside_cpu("a deterministic training gives the same bits twice", function()
  local _, first = trained()
  local _, second = trained()
  t.equal(first, second)
end)

beside_cpu("products of float32 keep their digits unless TF32 is asked for", function()
  local scope <close> = core.memory.scope() -- luacheck: ignore
  local a, b = torch.rand(256, 256), torch.rand(256, 256)
  local exact = torch.mm(a:double(), b:double())
  local function error_of()
    local c = torch.mm(a:to { device = device }, b:to { device = device }):cpu():double()
    return (c - exact):abs():max():item() / exact:abs():max():item()
  end
  t.ok(error_of() < 1e-6, "float32")
  if device == "cpu" then return end
  core.device.set_tf32(true)
  local lossy = error_of()
  core.device.set_tf32(false)
  t.ok(lossy > 1e-6, "tf32 has " .. lossy)
end)
