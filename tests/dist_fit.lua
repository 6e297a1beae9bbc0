-- run:fit on two processes: the losses of one process, the same weights in both, one owner of the folder; what happens
-- when a process is gone, and how the training goes on.
local t = require "t"
local files = require "medxai.base.files"

if not require("medxai.core").dist.available() then t.skip "this libtorch has no c10d" end

local network = [[
local xai = require "medxai"
local function net(data, name, o)
  o = o or {}
  return xai.graph.network { name = name, classes = data.classes, size_px = 32, cam_layer = "features", seed = 3,
    build = function(g, x)
      x = g:block("features", function()
        x = g:conv2d("0", x, { 3, 6, 5, padding = 2, bias = not o.norm })
        if o.norm then x = g:batch_norm2d("bn", x, 6) end
        return g:max_pool2d("2", g:relu("1", x), { 4 })
      end)
      if o.dropout then x = g:dropout("drop", x, 0.3) end
      local function head(name)
        return g:linear(name, g:flatten(nil, g:adaptive_avg_pool2d(name .. "_pool", x, 2)), { 24, 3 })
      end
      if o.aux then return head "fc", head "side" end
      return head "fc"
    end }
end
]]

-- Runs a file by one process and by two; both in folders of their own.
local function one_and_two(text)
  local dirs = { t.tmpdir(), t.tmpdir() }
  for n, dir in ipairs(dirs) do
    local r = t.run { "--threads", "1", "--quiet", "--devices", tostring(n), t.write(dir .. "/x.lua", network .. text),
      cwd = dir, timeout = 300 }
    t.equal(r.code, 0, r.err)
  end
  return dirs[1], dirs[2]
end

local function epochs(dir, name)
  local list = {}
  for _, record in ipairs(files.records(dir .. "/runs/" .. name .. "/metrics.jsonl")) do
    if record.step == "fit" then list[#list + 1] = record end
  end
  return list
end

-- float32: a sum in another order differs in its last bits; 1e-6 is some ten of them of a loss of about 1.
local function compare(one, two, name, count)
  local a, b = epochs(one, name), epochs(two, name)
  t.equal({ #a, #b }, { count, count }, name)
  for i = 1, count do
    for _, key in ipairs { "train_loss", "val_loss" } do t.near(b[i][key], a[i][key], 1e-6, name .. " " .. key) end
    for _, key in ipairs { "train_accuracy", "val_accuracy", "lr" } do
      t.equal(b[i][key], a[i][key], name .. " " .. key)
    end
  end
  t.ok(a[1].train_loss ~= a[count].train_loss, name .. ": nothing was trained")
end

t.test("two processes give the losses of one: plain, weighted, uneven, masked, two heads, sync_bn", function()
  local one, two = one_and_two [[
local function fit(name, data, o, options)
  local run, model = xai.run { name = name, seed = 7 }, net(data, name, o)
  options.optim, options.epochs = options.optim or xai.optim.sgd { lr = 0.05, momentum = 0.9 }, 2
  local result = run:fit(model, data, options)
  local f <close> = io.open(name .. "." .. (os.getenv "RANK" or 0), "w")
  f:write(result.weights_sha256, " ", model:sha256())
end
local function phantom(n, more)
  local o = { n_train = n, n_val = 7, n_test = 4, size_px = 32 }
  for k, v in pairs(more or {}) do o[k] = v end
  return xai.dataset.phantom(o)
end
fit("plain", phantom(32), nil, { batch = 8 })
fit("weighted", phantom(24), nil, { batch = 8, weight = { 1, 2, 0.5 }, label_smoothing = 0.1, clip_grad_norm = 0.5,
  optim = xai.optim.adamw { lr = 0.003 } })
fit("sampler", phantom(24), nil, { batch = 8, sampler = "weighted", weight = "balanced" })
fit("uneven", phantom(21), nil, { batch = 5 }) -- parts of 3 and 2; the last batch has one image, and a process none
fit("drop_last", phantom(21), nil, { batch = 6, drop_last = true })
fit("masked", phantom(20, { input = "lungs", augment = true }), nil, { batch = 8 })
fit("heads", phantom(20), { aux = true }, { batch = 7 })
fit("norms", phantom(21), { norm = true, aux = true }, { batch = 7, sync_bn = true })
]]
  for _, name in ipairs { "plain", "weighted", "sampler", "uneven", "drop_last", "masked", "heads", "norms" } do
    compare(one, two, name, 2)
    local sha = files.read(two .. "/" .. name .. ".0")
    t.equal(files.read(two .. "/" .. name .. ".1"), sha, name .. ": weights of both processes")
    t.equal(sha:match "^(%S+) (%S+)$", sha:match " (%S+)$", name .. ": the model has the weights that were saved")
  end
  local described = files.read_data(two .. "/runs/norms/model.json")
  t.equal({ described.processes, described.sync_bn, described.batch_norm_statistics }, { 2, true, "of all processes" })
  t.equal(files.read_data(one .. "/runs/norms/model.json").processes, nil)
  t.equal(files.read_data(two .. "/runs/norms/environment.json").processes, 2)
end)

t.test("local batch norms train, and the first process' statistics are saved", function()
  local dir = t.tmpdir()
  local r = t.run { "--threads", "1", "--quiet", "--devices", "2", cwd = dir, t.write(dir .. "/x.lua", network .. [[
local data = xai.dataset.phantom { n_train = 16, n_val = 4, n_test = 4, size_px = 32 }
local run, model = xai.run { name = "local", seed = 7 }, net(data, "local", { norm = true, dropout = true })
run:fit(model, data, { optim = xai.optim.sgd { lr = 0.05 }, epochs = 1, batch = 8 })
local e = run:evaluate(model, data.test)
assert(e.accuracy and e.loss > 0)
]]) }
  t.equal(r.code, 0, r.err)
  t.equal(files.read_data(dir .. "/runs/local/model.json").batch_norm_statistics, "of the first process")
  t.equal(files.read_data(dir .. "/runs/local/steps/evaluate-test.json").status, "finished")
  -- the number of processes is in the key
  r = t.run { "--threads", "1", "--quiet", cwd = dir, dir .. "/x.lua" }
  t.equal(r.code, 1)
  t.ok(r.err:find("holds a run of another configuration: processes is 2 there and absent here", 1, true), r.err)
end)

-- A training of six epochs in which, before an epoch, something happens to a process: DO (a shell command; $PPID is the
-- process) in rank WHO before epoch AT, once.
local fragile = network .. [[
local Trainer = require "medxai.train.trainer"
local run_epoch = Trainer.run_epoch
function Trainer:run_epoch()
  if os.getenv "DO" and os.getenv "RANK" == os.getenv "WHO" and self.epoch + 1 == tonumber(os.getenv "AT") then
    io.stdout:write "now" io.stdout:flush()
    os.execute(os.getenv "DO")
  end
  return run_epoch(self)
end
local data = xai.dataset.phantom { n_train = 18, n_val = 4, n_test = 4, size_px = 32, augment = true }
local run, model = xai.run { name = "fragile", seed = 7 }, net(data, "fragile", { norm = true, dropout = true })
local r = run:fit(model, data, { optim = xai.optim.sgd { lr = 0.05, momentum = 0.9 }, epochs = 6, batch = 8,
  sync_bn = true,
  timeout_s = tonumber(os.getenv "TIMEOUT" or 60), schedule = xai.optim.step_lr { step_size = 2, gamma = 0.5 } })
print(r.weights_sha256)
]]

local function go(dir, env, ...)
  return t.run { "--threads", "1", "--quiet", "--devices", "2", "x.lua", cwd = dir, env = env, ... }
end

t.test("a process that is killed, stopped or terminated ends all, and going on gives the same bits", function()
  local whole, dir = t.tmpdir(), t.tmpdir()
  t.write(whole .. "/x.lua", fragile)
  t.write(dir .. "/x.lua", fragile)
  local expected = go(whole)
  t.equal(expected.code, 0, expected.err)
  -- what happens, to whom, before which epoch, exit status, words
  local faults = {
    { "kill -KILL $PPID", "1", "2", 137, "process 2 of 2 (rank 1) was ended by signal 9" },
    { "kill -KILL $PPID", "0", "3", 137, "process 1 of 2 (rank 0) was ended by signal 9" },
    { "kill -STOP $PPID", "1", "4", 1, "another of the 2 processes has ended or does not answer" },
    { "kill -TERM $PPID; sleep 1", "1", "5", 143, "interrupted" },
    { "kill -TERM $(cut -d' ' -f4 /proc/$PPID/stat); sleep 1", "0", "6", 143, "interrupted" },
  }
  for _, fault in ipairs(faults) do
    local r = go(dir, { DO = fault[1], WHO = fault[2], AT = fault[3], TIMEOUT = fault[1]:find "STOP" and "5" or nil })
    local what = fault[1] .. " to rank " .. fault[2] .. ": "
    t.equal(r.code, fault[4], what .. r.err)
    t.ok(r.err:find(fault[5], 1, true), what .. r.err)
    t.equal(#epochs(dir, "fragile"), tonumber(fault[3]) - 1, what .. "epochs told")
  end
  local r = go(dir)
  t.equal(r.code, 0, r.err)
  t.equal(r.out, expected.out, "the weights of a training that was never interrupted")
end)

t.test("a loss that is not finite, and processes that do not do the same, stop all with words", function()
  local function err(text)
    local dir = t.tmpdir()
    t.write(dir .. "/x.lua", network .. "local rank = tonumber(os.getenv 'RANK' or 0)\n"
      .. "local data = xai.dataset.phantom { n_train = 16, n_val = 4, n_test = 4, size_px = 32 }\n"
      .. "local run, model = xai.run { name = 'x', seed = 7 }, net(data, 'x')\n" .. text)
    local r = go(dir)
    t.equal(r.code, 1, r.err)
    return r.err
  end
  local found = err "run:fit(model, data, { optim = xai.optim.sgd { lr = 1e30 }, epochs = 1, batch = 4 })"
  t.ok(found:find("x.lua:%d+: fit: the loss is .- in epoch 1, batch 2 of 4 %(.-Lower lr %(now 1e%+30%)"), found)
  found = err "run:fit(model, data, { optim = xai.optim.sgd { lr = 0.1 }, epochs = 1, batch = 4 + 4 * rank })"
  t.ok(found:find("process 2 of 2 trains something else than the first one (batch)", 1, true), found)
  found = err "run:grid { model = net, data = data, axes = {}, cell = function() end }"
  t.ok(found:find("grid: its cells are shared between commands, not by processes of one training", 1, true), found)
  found = err "xai.run { name = 'y', seeds = { 1, 2 } }"
  t.ok(found:find("run: seeds and several processes exclude each other", 1, true), found)
end)

t.test("an error of the first process alone is raised in all", function()
  local dir = t.tmpdir()
  t.write(dir .. "/x.lua", network .. [[
local data = xai.dataset.phantom { n_train = 8, n_val = 4, n_test = 4, size_px = 32 }
local run, model = xai.run { name = "x", seed = 7 }, net(data, "x")
local ok, problem = pcall(run.evaluate, run, model, data.test, { batch = 0 })
run:fit(model, data, { optim = xai.optim.sgd { lr = 0.1 }, epochs = 1, batch = 4 })
local f <close> = io.open("said." .. (os.getenv "RANK"), "w")
f:write(tostring(ok), " ", problem)
]])
  local r = go(dir)
  t.equal(r.code, 0, r.err)
  t.ok(files.read(dir .. "/said.0"):find "^false .*batch", files.read(dir .. "/said.0"))
  t.equal(files.read(dir .. "/said.1"), files.read(dir .. "/said.0"))
end)
