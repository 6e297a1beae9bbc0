-- Interrupted anywhere, a training goes on and ends with the bits of one that was never interrupted.
local t = require "t"
local files = require "medxai.base.files"

local experiment = [[
-- A tiny network on tiny phantoms.
local xai = require "medxai"
local run = xai.run { name = "tiny", seed = 7 }
local data = xai.dataset.phantom { n_train = 24, n_val = 9, n_test = 9, size_px = 48 }
local model = xai.graph.network { name = "tiny", classes = data.classes, size_px = 48, cam_layer = "features", seed = 7,
  build = function(g, x)
    x = g:block("features", function()
      x = g:relu("2", g:batch_norm2d("1", g:conv2d("0", x, { 3, 8, 3, padding = 1 }), 8))
      return g:max_pool2d("3", x, { 2 })
    end)
    x = g:dropout("drop", g:flatten(nil, g:adaptive_avg_pool2d("pool", x, 4)), 0.5)
    return g:linear("fc", x, { 128, 3 })
  end }
run:fit(model, data, { optim = xai.optim.sgd { lr = 0.05, momentum = 0.9 }, schedule = xai.optim.step_lr { step_size = 2, gamma = 0.5 }, epochs = 10, batch = 4 })
run:evaluate(model, data.test)
]]

local compared = { "config.json", "metrics.jsonl", "metrics.csv", "predictions.csv", "weights.pt", "model.json",
  "manifest.csv" }

local function same_run(a, b)
  for _, name in ipairs(compared) do
    local x, y = files.read(a .. "/" .. name), files.read(b .. "/" .. name)
    t.ok(x and y, name .. " is missing")
    if x ~= y then error(name .. " differs between '" .. a .. "' and '" .. b .. "'", 2) end
  end
end

local function status(dir) return (files.read(dir .. "/status") or ""):match("^%S+") end

-- Runs the experiment into dir; options stand before the file, fields after it.
local function go(dir, script, options, fields)
  return t.run { exe = "/bin/sh", "-c", string.format("exec %s --threads 1 --quiet --out %s %s %s %s",
    t.quote(require("medxai.host").exe), t.quote(dir), options or "", t.quote(script), fields or "") }
end

-- The same, sent a signal `delay` seconds after the log has `lines` lines.
local function stop(dir, script, signal, lines, delay)
  return t.run { exe = "/bin/sh", "-c", string.format([[
    %s --threads 1 --quiet --out %s %s & pid=$!
    while kill -0 $pid 2>/dev/null && [ "$(cat %s/metrics.jsonl 2>/dev/null | wc -l)" -lt %d ]; do sleep 0.02; done
    sleep %.3f; kill -%s $pid 2>/dev/null; wait $pid]],
    t.quote(require("medxai.host").exe), t.quote(dir), t.quote(script), t.quote(dir), lines, delay, signal) }
end

local dir, script -- the uninterrupted run, made once

local function whole()
  if dir then return dir end
  local handle = assert(io.popen("mktemp -d"))
  dir = handle:read("l")
  handle:close()
  script = t.write(dir .. "/tiny.lua", experiment)
  local r = go(dir .. "/whole", script)
  t.equal(r.code, 0, r.err)
  return dir
end

t.test("the same seed gives the same bytes in two processes", function()
  local base = whole()
  t.equal(status(base .. "/whole"), "finished")
  local r = go(base .. "/again", script)
  t.equal(r.code, 0, r.err)
  same_run(base .. "/whole", base .. "/again")
end)

t.test("a finished run repeats nothing", function()
  local base = whole()
  local before = files.read(base .. "/whole/times.csv")
  local r = t.run { "--threads", "1", "--out", base .. "/whole", script }
  t.equal(r.code, 0, r.err)
  t.ok(r.err:find("fit: finished before with the same settings", 1, true), r.err)
  t.ok(r.err:find("evaluate-test: finished before", 1, true), r.err)
  t.equal(files.read(base .. "/whole/times.csv"), before)
  same_run(base .. "/whole", base .. "/again")
end)

t.test("killed at random points, the run ends with the same bytes", function()
  local base = whole()
  math.randomseed(os.time())
  local kills = 0
  for attempt = 0, 7 do
    local r = stop(base .. "/killed", script, "KILL", attempt, 0.06 * math.random())
    if r.code ~= 0 then kills = kills + 1 end
  end
  t.ok(kills > 0, "it was never killed")
  local r = go(base .. "/killed", script)
  t.equal(r.code, 0, r.err)
  t.equal(status(base .. "/killed"), "finished")
  same_run(base .. "/whole", base .. "/killed")
end)

t.test("Ctrl-C leaves status interrupted, and the run resumes", function()
  local base = whole()
  local r = stop(base .. "/interrupted", script, "INT", 2, 0)
  t.equal(r.code, 130, r.err)
  t.equal(status(base .. "/interrupted"), "interrupted")
  t.ok(r.err:find("interrupted during fit epoch %d+/10; rerun the same command to resume"), r.err)
  r = go(base .. "/interrupted", script)
  t.equal(r.code, 0, r.err)
  same_run(base .. "/whole", base .. "/interrupted")
end)

t.test("killed within an epoch, a training goes on from its last batch, to the same bytes", function()
  local base = whole()
  local dying = t.write(base .. "/dying.lua", ([[
local Trainer, n = require "medxai.train.trainer", 0
local train_batch = Trainer.train_batch
function Trainer.train_batch(...)
  n = n + 1
  if n == 9 then os.execute "kill -KILL $PPID" end -- an epoch has six batches
  return train_batch(...)
end
dofile(%q)]]):format(script))
  for i = 1, 4 do
    local r = t.run { exe = "/bin/sh", "-c", string.format("%s --threads 1 --out %s %s --checkpoint_minutes 0",
      t.quote(require("medxai.host").exe), t.quote(base .. "/part"), t.quote(dying)) }
    t.equal(r.code, 137, r.err)
    local where = "going on from epoch %d+ of 10 and %d+ images of the next"
    t.ok(i == 1 or (r.out .. r.err):find(where), r.err)
  end
  local r = go(base .. "/part", script, nil, "--checkpoint_minutes 0")
  t.equal(r.code, 0, r.err)
  same_run(base .. "/whole", base .. "/part")
end)

t.test("SIGUSR1 ends a training after the step, with a checkpoint; it goes on from there to the same bytes", function()
  local base = whole()
  for i, signal in ipairs { "USR1", "USR2" } do
    local folder = base .. "/asked" .. i
    local r = stop(folder, script, signal, 3, 0.01)
    t.equal(r.code, signal == "USR1" and 138 or 140, r.err)
    t.equal(status(folder), "interrupted")
    r = t.run { "--threads", "1", "--out", folder, script }
    t.equal(r.code, 0, r.err)
    t.ok((r.out .. r.err):find("going on from epoch %d+ of 10"), r.err)
    same_run(base .. "/whole", folder)
  end
end)

-- The second process is on another machine, as far as it can tell: only the counter says that the first one stands
-- still.
t.test("a training that was stopped for long, and taken over from another machine, says so when it wakes up and "
  .. "writes no more", function()
  local boot = t.boot_id()
  local base = whole()
  local folder = base .. "/stopped"
  t.write(base .. "/boot", "another machine\n")
  local sleeper = t.write(base .. "/sleeper.lua", ([[
local Trainer, n = require "medxai.train.trainer", 0
local train_batch = Trainer.train_batch
function Trainer.train_batch(...)
  n = n + 1
  if n == 15 then os.execute "kill -STOP $PPID" end -- within the third epoch
  return train_batch(...)
end
dofile(%q)]]):format(script))
  local command = string.format("%s --threads 1 --quiet --out %s %s --takeover_s 2",
    t.quote(require("medxai.host").exe), t.quote(folder), t.quote(script))
  local r = t.run { exe = "/bin/sh", "-c", string.format([[
    %s >%s.one 2>&1 & pid=$!
    until grep -qs "State:.T" /proc/$pid/status; do sleep 0.01; done
    unshare -m sh -c "mount --bind %s/boot %s; exec %s" >%s.two 2>&1; two=$?
    sha256sum %s/* >%s.before 2>/dev/null
    kill -CONT $pid; wait $pid; one=$?
    sha256sum %s/* >%s.after 2>/dev/null; diff %s.before %s.after; echo $two $one]],
    (command:gsub(t.quote(script):gsub("%p", "%%%0"), (t.quote(sleeper):gsub("%%", "%%%%")))), folder, base, boot,
    command, folder, folder, folder, folder, folder, folder, folder) }
  local said = files.read(folder .. ".one") .. files.read(folder .. ".two")
  t.equal(r.out, "0 1\n", r.err .. said)
  t.ok(said:find("was last in use by process %d+ on [^\n]*: waiting up to 2 s to see whether that still works"), said)
  t.ok(said:find("was taken over by another process, because this one stood still for long. It goes on there.", 1,
    true), said)
  same_run(base .. "/whole", folder)
end)

t.test("a job of SLURM that is asked to stop is queued again, one that ends by itself is not", function()
  local base = whole()
  files.mkdir(base .. "/bin")
  t.write(base .. "/bin/scontrol", "#!/bin/sh\necho \"$@\" >>" .. base .. "/queued\n")
  os.execute("chmod +x " .. t.quote(base .. "/bin/scontrol"))
  local environment = ("env PATH=%s:$PATH SLURM_JOB_ID=12 SLURM_ARRAY_JOB_ID=10 SLURM_ARRAY_TASK_ID=3 "):format(
    t.quote(base .. "/bin"))
  local function with(more, code)
    return t.run { exe = "/bin/sh", "-c", environment .. more .. t.quote(require("medxai.host").exe) .. " -e "
      .. t.quote(code) }
  end
  local code = "local run = require 'medxai'.run { name = 'x', out = arg[1] } run:prepare() "
    .. "os.execute 'kill -%s $PPID' while true do end"
  code = code:gsub("arg%[1%]", function() return ("%q"):format(base .. "/queued-run") end)
  t.equal(with("", code:format "TERM").code, 143)
  t.equal(with("SLURM_PROCID=1 ", code:format "USR1").code, 138)
  t.equal(files.read(base .. "/queued"), nil)
  local r = with("", code:format "USR1")
  t.equal({ r.code, files.read(base .. "/queued") }, { 138, "requeue 10_3\n" })
  t.ok(r.err:find("SLURM: job 10_3 is queued again\n", 1, true), r.err)
end)

t.test("another configuration in the folder of a finished run is refused, naming the difference", function()
  local base = whole()
  local r = go(base .. "/whole", script, nil, "--lr 0.01")
  t.equal(r.code, 1)
  t.ok(r.err:find("fit: '" .. base .. "/whole' holds a run of another configuration: optim.options.lr is 0.05 there and"
    .. " 0.01 here. Give --out DIR for a new run, or --overwrite to begin this one again.", 1, true), r.err)
  t.equal(status(base .. "/whole"), "finished")
  same_run(base .. "/whole", base .. "/again")
end)

t.test("--resume continues a finished run to more epochs, with the bytes of one run in one go", function()
  local base = whole()
  local more = base .. "/more"
  t.equal(go(more, script, nil, "--epochs 4").code, 0)
  local config = files.read(more .. "/config.json")
  local function refused(options, fields, words)
    local r = go(more, script, options, fields)
    t.equal(r.code, 1)
    t.ok(r.err:find(words, 1, true), r.err)
    t.equal({ status(more), files.read(more .. "/config.json") == config }, { "finished", true })
  end
  refused(nil, "", "fit: '" .. more .. "' holds a run of 4 epochs (here: 10). Give --resume to train the others "
    .. "too, --out DIR for a "
    .. "new run, or --overwrite to begin this one again.")
  refused("--resume", "--epochs 3", "fit: '" .. more .. "' has been trained for 4 epochs already (here: 3). Give "
    .. "--out DIR for a new run.")
  refused("--resume", "--lr 0.01", "holds a run of another configuration: epochs is 4 there and 10 here, "
    .. "optim.options.lr is 0.05 there and")
  refused("--resume", "--gamma 0.4", "holds a run of another configuration: epochs is 4 there and 10 here, "
    .. "schedule.options.gamma is")
  local r = go(more, script, "--resume")
  t.equal(r.code, 0, r.err)
  same_run(base .. "/whole", more)
  t.equal(files.records(more .. "/evaluations.jsonl")[2].split, "test")
end)

t.test("more epochs: interrupted they go on, without a checkpoint they are refused, after early stopping nothing "
  .. "is added", function()
  local base = whole()
  local more = base .. "/more2"
  t.equal(go(more, script, nil, "--epochs 3").code, 0)
  local r = t.run { exe = "/bin/sh", "-c", string.format([[
    %s --threads 1 --quiet --resume --out %s %s & pid=$!
    while kill -0 $pid 2>/dev/null && [ "$(grep -c '"step":"fit"' %s/metrics.jsonl)" -lt 5 ]; do sleep 0.02; done
    kill -KILL $pid 2>/dev/null; wait $pid]],
    t.quote(require("medxai.host").exe), t.quote(more), t.quote(script), t.quote(more)) }
  t.ok(r.code == 137 or r.code == 0, r.err)
  t.equal(go(more, script).code, 0)
  same_run(base .. "/whole", more)
  files.remove(more .. "/checkpoint.pt")
  r = go(more, script, "--resume", "--epochs 12")
  t.ok(r.err:find("fit: '" .. more .. "' has no checkpoint to go on from to 12 epochs. Give --out DIR for a new "
    .. "run, or --overwrite", 1, true), r.err)
  local early = t.write(base .. "/early.lua",
    (experiment:gsub("batch = 4 }", "batch = 4, early_stopping = { patience = 1 } }"):gsub("lr = 0.05", "lr = 0")))
  local stopped = base .. "/early"
  t.equal(go(stopped, early, nil, "--epochs 4").code, 0)
  local weights, epochs = files.read(stopped .. "/weights.pt"), #files.records(stopped .. "/metrics.jsonl")
  r = t.run { "--threads", "1", "--resume", "--out", stopped, early }
  t.equal(r.code, 0, r.err)
  t.ok(r.err:find("early stopping ended the training in '" .. stopped .. "' after epoch 2: more epochs change nothing",
    1, true)
    or r.out:find("early stopping ended", 1, true), r.err)
  t.equal({ files.read(stopped .. "/weights.pt") == weights, #files.records(stopped .. "/metrics.jsonl") },
    { true, epochs })
end)

t.test("a finished run without its weights makes them again from its last checkpoint", function()
  local base = whole()
  local copy = base .. "/removed"
  assert(os.execute(("cp -r '%s/whole' '%s'"):format(base, copy)))
  files.remove(copy .. "/weights.pt")
  local r = t.run { "--threads", "1", "--out", copy, script }
  t.equal(r.code, 0, r.err)
  t.ok((r.out .. r.err):find("going on from epoch 10 of 10", 1, true), r.err)
  same_run(base .. "/whole", copy)
end)

t.test("a model made before the run that sets the seed is another one each time: the refusal says "
  .. "what to do", function()
  local base = whole()
  local run_line = experiment:match "local run[^\n]*\n"
  local late = experiment:gsub("local run[^\n]*\n", ""):gsub(", seed = 7,",
    ","):gsub("run:fit", function() return run_line .. "run:fit" end, 1)
  local path = t.write(base .. "/late.lua", late)
  t.equal(go(base .. "/late", path).code, 0)
  local r = go(base .. "/late", path)
  t.equal(r.code, 1)
  t.ok(r.err:find("holds a run of another configuration: model%.weights_sha256 is"), r.err)
  t.ok(r.err:find("(Random weights are the same each time where xai.run, which sets the seed, comes before the model.)",
    1, true), r.err)
end)

t.test("--overwrite starts again; --resume needs an existing run", function()
  local base = whole()
  local r = go(base .. "/again", script, "--overwrite", "--epochs 1")
  t.equal(r.code, 0, r.err)
  t.equal(#files.records(base .. "/again/metrics.jsonl"), 2)
  r = go(base .. "/nothing", script, "--resume", "--epochs 1")
  t.equal(r.code, 0, r.err)
  t.ok(r.err:find("run: there is no run in '" .. base .. "/nothing' to resume: a new one begins", 1, true), r.err)
end)

t.test("the stored command has the given seed and is quoted for a shell", function()
  local base = whole()
  local r = go(base .. "/it's new", script, "--seed 3", "--epochs 1")
  t.equal(r.code, 0, r.err)
  local command = files.read_data(base .. "/it's new/environment.json").command
  t.equal(command, ("medxai-run --device cpu --out '%s/it'\\''s new' --seed 3 --threads 1 %s --epochs 1"):format(base,
    script))
  t.equal(files.read_data(base .. "/whole/environment.json").command,
    ("medxai-run --device cpu --out %s/whole --threads 1 %s"):format(base, script))
end)

t.test("a folder that holds other files is left alone", function()
  local base = whole()
  files.write(base .. "/foreign/thesis.txt", "x")
  local r = go(base .. "/foreign", script, "--overwrite")
  t.equal(r.code, 1)
  t.ok(r.err:find("run: '" .. base .. "/foreign' holds other files (thesis.txt) and no run. Give another --out.", 1,
    true), r.err)
  t.equal(files.list(base .. "/foreign"), { "thesis.txt" })
end)

t.test("a full disk while saving stops the run; with space it resumes to the same bytes", function()
  local base = whole()
  local r = t.run { exe = "/bin/sh", "-c", string.format("ulimit -f 8; exec %s --threads 1 --quiet --out %s %s",
    t.quote(require("medxai.host").exe), t.quote(base .. "/full"), t.quote(script)) }
  t.equal(r.code, 1)
  t.ok(r.err:find("File too large", 1, true), r.err)
  r = go(base .. "/full", script)
  t.equal(r.code, 0, r.err)
  same_run(base .. "/whole", base .. "/full")
end)

t.test("the folders of these tests are removed", function()
  files.remove_all(whole())
end)
