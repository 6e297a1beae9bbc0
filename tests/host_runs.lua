-- medxai-run runs: lists, shows and compares run folders, also damaged and unfinished ones.
local t = require "t"
local canon = require "medxai.base.json"
local files = require "medxai.base.files"

local function write_run(dir, name, lr, epochs, status)
  local folder = dir .. "/runs/" .. name
  files.write_data(folder .. "/config.json", { name = name, seed = 7, question = "Why?",
    fit = { epochs = 3, optim = { kind = "sgd", options = { lr = lr } }, model = { config = { network = "vgg19" } } } })
  files.write_data(folder .. "/steps/fit.json",
    { status = "finished", key = "k", fields = { epochs = 3, model = { config = { network = "vgg19" } } },
      result = { val_accuracy = 0.75 } })
  files.write_data(folder .. "/steps/evaluate-test.json",
    { status = "finished", key = "k", fields = {},
      result = { accuracy = 0.5, n = 8, auroc_macro = 0.6, macro = { f1 = 0.25 } } })
  for e = 1, epochs do
    files.append_line(folder .. "/metrics.jsonl",
      canon.write { step = "fit", epoch = e, train_loss = 1.0, train_accuracy = 0.5, val_loss = 1.0,
        val_accuracy = 0.25 * e, best = true })
  end
  files.write(folder .. "/status", status .. "\nstep fit\n")
  files.write(folder .. "/claims/run.1", '{"boot":"another","machine":"node1","pid":7,"worker":"node1-7-00"}\n')
end

local function made()
  local dir = t.tmpdir()
  write_run(dir, "first", 0.1, 3, "finished")
  write_run(dir, "second", 0.2, 2, "running")
  files.write(dir .. "/runs/notes.txt", "not a run")
  return dir
end

t.test("runs are listed with state, scores and progress; one without a process has died", function()
  local r = t.run { "runs", cwd = made() }
  t.equal(r.code, 0, r.err)
  t.equal(r.out, "run     state     network  training    val accuracy  test accuracy  macro F1  time\n"
    .. "first   finished  vgg19    3/3 epochs        0.7500         0.5000    0.2500\n"
    .. "second  died      vgg19    2/3 epochs        0.7500         0.5000    0.2500\n")
end)

t.test("one run is shown with its epochs and settings", function()
  local r = t.run { "runs", "show", "second", cwd = made() }
  t.equal(r.code, 0, r.err)
  for _, part in ipairs { "second: died, 2/3 epochs\nWhy?\n",
      "epoch  2  train loss 1.0000 accuracy 0.5000  val loss 1.0000 accuracy 0.5000 (best)",
      "training.optim.options.lr = 0.2" } do
    t.ok(r.out:find(part, 1, true), part .. " is missing in " .. r.out)
  end
end)

-- What a process leaves or holds: its file in claims/workers and its claims.
local function write_worker(folder, name, facts, claims)
  local text = canon.write(facts)
  files.write(folder .. "/claims/workers/" .. name, ("%-20d\n"):format(12) .. text .. "\n")
  for _, claim in ipairs(claims) do files.write(folder .. "/claims/" .. claim, text .. "\n") end
end

t.test("the processes that share a run are told: which work, which have died, which were not heard of for long, "
  .. "what they hold", function()
  local dir = made()
  local folder, boot = dir .. "/runs/second", files.read("/proc/sys/kernel/random/boot_id"):match "%S+"
  write_worker(folder, "here-1-aa", { worker = "here-1-aa", machine = "here", pid = 1, boot = boot, locked = true },
    { "00aa.1", "00ab.4" })
  write_worker(folder, "node1-7-00", { worker = "node1-7-00", machine = "node1", pid = 7, boot = "another",
    slurm = { job = "31", array_job = "30", array_task = "2", restarts = 1, rank = "0" } }, { "run.2" })
  write_worker(folder, "node2-8-00", { worker = "node2-8-00", machine = "node2", pid = 8, boot = "a third" },
    { "00ac.1" })
  os.execute("touch -d '10 minutes ago' " .. t.quote(folder .. "/claims/workers/node2-8-00"))
  local r = t.run { "runs", "show", "second", cwd = dir }
  t.equal(r.code, 0, r.err)
  t.ok(r.out:find("second: running, 2/3 epochs", 1, true), r.out)
  t.ok(r.out:find("  process 1 on here: died, heard of %d+ s ago, holds 2 families of cells\n"), r.out)
  t.ok(r.out:find("process 7 on node1, SLURM job 30_2 (start 2): works, heard of ", 1, true), r.out)
  t.ok(r.out:find("  process 8 on node2: not heard of: it has died, or its machine cannot be reached, heard of "
    .. "%d%d%d s ago, holds a family of cells\n"), r.out)
  files.write(folder .. "/status", "interrupted\nstep grid\nmessage interrupted (SIGUSR1)\n")
  t.ok(t.run({ "runs", "show", "second", cwd = dir }).out:find("second: running, 2/3 epochs\nWhy?", 1, true))
  files.write(folder .. "/status", "running\nstep grid\n")
  os.remove(folder .. "/claims/workers/node1-7-00")
  t.ok(t.run({ "runs", "show", "second", cwd = dir }).out:find("second: silent, 2/3 epochs", 1, true))
end)

t.test("runs are compared in one page: scores, curves, and only the settings that differ", function()
  local dir = made()
  local r = t.run { "runs", "compare", "first", "second", "--out", "page.html", cwd = dir }
  t.equal(r.code, 0, r.err)
  t.ok(r.out:find("training.optim.options.lr: 0.1 | 0.2", 1, true), r.out)
  t.ok(not r.out:find("training.epochs", 1, true), r.out)
  local page = t.read(dir .. "/page.html")
  t.ok(page:find("<svg", 1, true) and page:find("training.optim.options.lr", 1, true) and not page:find("http://[^w]"))
end)

t.test("wrong words are usage errors; a run that is not there gets suggestions", function()
  local dir = made()
  local r = t.run { "runs", "shw", cwd = dir }
  t.equal({ r.code, r.err },
    { 2, "medxai-run: runs: unknown command 'shw'. Did you mean 'show'? See medxai-run runs --help.\n" })
  r = t.run { "runs", "show", "frist", cwd = dir }
  t.equal({ r.code, r.err },
    { 1, "medxai-run: runs: there is no run 'frist' (looked in 'runs'). Did you mean 'first'?\n" })
  r = t.run { "runs", cwd = t.tmpdir() }
  t.equal({ r.code, r.out }, { 0, "no runs in 'runs'\n" })
end)

t.test("a file named runs is an experiment like any other", function()
  local dir = t.tmpdir()
  t.write(dir .. "/runs", "print 'mine'")
  t.equal(t.run({ "runs", cwd = dir }).out, "mine\n")
end)

-- The form that MLflow 3.17.2's own client opened: mlflow.store.tracking.file_store.
t.test("runs are exported into MLflow's file store; a second export replaces the first and leaves what is not ours",
  function()
    local dir = made()
    files.write(dir .. "/runs/first/status", "finished\nstep fit\nheartbeat 2026-11-30T17:24:02Z\n")
    files.write(dir .. "/runs/first/times.csv", "step,name,seconds\nfit,whole,1.5\n")
    local r = t.run { "runs", "export", "--mlflow", "store", cwd = dir }
    t.equal(r.code, 0, r.err)
    local found
    for _, id in ipairs(files.list(dir .. "/store/77336678")) do
      local folder = dir .. "/store/77336678/" .. id
      if files.read(folder .. "/tags/mlflow.runName") == "first" then found = folder end
    end
    local id = found:match "[^/]+$"
    t.ok(#id == 32 and id:find "^%x+$", id)
    t.equal(files.read(dir .. "/store/77336678/meta.yaml"), "artifact_location: 'file://" .. dir
      .. "/store/77336678'\ncreation_time: 0\nexperiment_id: '77336678'\nlast_update_time: 0\n"
      .. "lifecycle_stage: 'active'\nname: 'medxai'\n")
    t.equal(files.read(found .. "/meta.yaml"), "artifact_uri: 'file://" .. found .. "/artifacts'\n"
      .. "end_time: 1796059442000\nentry_point_name: ''\nexperiment_id: '77336678'\nlifecycle_stage: 'active'\n"
      .. "run_id: '" .. id .. "'\nrun_name: 'first'\nrun_uuid: '" .. id .. "'\nsource_name: ''\nsource_type: 4\n"
      .. "source_version: ''\nstart_time: 1796059440500\nstatus: 3\ntags: []\nuser_id: ''\n")
    t.equal(files.read(found .. "/metrics/val_accuracy"), "1796059442000 0.25 1\n1796059442000 0.5 2\n"
      .. "1796059442000 0.75 3\n")
    t.equal(files.read(found .. "/metrics/test_macro_f1"), "1796059442000 0.25 0\n")
    t.equal(files.read(found .. "/params/training.optim.options.lr"), "0.1")

    files.write(found .. "/tags/mine", "kept")
    files.write(found .. "/params/gone", "x")
    t.equal(t.run({ "runs", "export", "first", "--mlflow", "store", cwd = dir }).code, 0)
    t.equal(files.read(found .. "/tags/mine"), "kept")
    t.equal(files.read(found .. "/params/gone"), nil)
  end)

t.test("runs are exported as a table with every setting; without a goal or a run it is an error", function()
  local dir = made()
  local r = t.run { "runs", "export", "--csv", "all.csv", cwd = dir }
  t.equal(r.code, 0, r.err)
  local rows = require("medxai.base.csv").read(dir .. "/all.csv")
  t.equal(#rows, 2)
  t.equal(rows[2].run, "second")
  t.equal(rows[2].state, "died")
  t.equal(tonumber(rows[1].test_accuracy), 0.5)
  t.equal(rows[2]["setting.training.optim.options.lr"], "0.2")
  local none = t.run { "runs", "export", cwd = dir }
  t.equal(none.code, 1)
  t.ok(none.err:find("neither --mlflow DIR nor --csv FILE is given", 1, true), none.err)
  t.ok(t.run({ "runs", "export", "--csv", "x.csv", cwd = t.tmpdir() }).err:find("there are no runs in 'runs'", 1, true))
  t.ok(t.run({ "runs", "export", "--mlflow", "all.csv", cwd = dir }).err:find("'all.csv' is a file", 1, true))
end)
