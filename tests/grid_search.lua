-- Grid search: what is trained, what is trained only once, what is refused, and that no result is lost.
local t = require "t"
local csv = require "medxai.base.csv"
local files = require "medxai.base.files"
local host = require "medxai.host"

-- A tiny network whose first layer may be frozen, on tiny phantoms. GRID and FIT stand for what a test varies.
local experiment = [[
local xai = require "medxai"
local run = xai.run { name = "tiny", seed = 7 }
local data = xai.dataset.phantom { n_train = 22, n_val = 9, n_test = 9, size_px = 48 }
local function network(width, open)
  local model = xai.graph.network { name = "tiny", classes = data.classes, size_px = 48, cam_layer = "features",
    build = function(g, x)
      x = g:block("features", function()
        x = g:relu("1", g:conv2d("0", x, { 3, 8, 5, padding = 2 }))
        return g:max_pool2d("2", x, { 4 })
      end)
      x = g:relu("middle_relu", g:conv2d("middle", x, { 8, width, 3, padding = 1 }))
      x = g:dropout("drop", g:flatten(nil, g:adaptive_avg_pool2d("pool", x, 2)), 0.5)
      return g:linear("fc", x, { 4 * width, 3 })
    end }
  if not open then model:set_trainable { features = false } end
  return model
end
]]

local whole = [[
local search = run:grid {
  lr = { 0.05, 0.2 }, step_size = { 2, 3 }, width = { 4 }, epochs = { 3, 5 },
  train = function(cell)
    return network(cell.width), data, { optim = xai.optim.sgd { lr = cell.lr, momentum = 0.9 },
      schedule = xai.optim.step_lr { step_size = cell.step_size, gamma = 0.1 }, epochs = cell.epochs, batch = 8 }
  end }
run:evaluate(search.model, data.test)
]]

local function go(dir, body, options, fields)
  local script = t.write(dir .. "/search.lua", experiment .. (body or whole))
  return t.run { exe = "/bin/sh", "-c", string.format("exec %s --threads 1 --quiet --out %s %s %s %s",
    t.quote(host.exe), t.quote(dir .. "/run"), options or "", t.quote(script), fields or ""), timeout = 300 }
end

local function table_of(dir) return (csv.read(dir .. "/run/grid.csv")) end

local function by(rows, values)
  for _, row in ipairs(rows) do
    local fits = true
    for k, v in pairs(values) do fits = fits and row[k] == v end
    if fits then return row end
  end
end

-- Number of trained epochs: lines of times.csv.
local function epochs_trained(dir)
  local n = 0
  for _, row in ipairs((csv.read(dir .. "/run/times.csv"))) do
    if row.step == "grid" and row.name ~= "whole" then n = n + 1 end
  end
  return n
end

local reference -- an uninterrupted search, made once: its folder

local function searched()
  if reference then return reference end
  local handle = assert(io.popen "mktemp -d")
  reference = handle:read "l"
  handle:close()
  local r = go(reference)
  t.equal(r.code, 0, r.err)
  return reference
end

local compared = { "grid.csv", "weights.pt", "model.json", "config.json", "predictions.csv", "manifest.csv" }

local function same_search(dir)
  for _, name in ipairs(compared) do
    local a, b = files.read(searched() .. "/run/" .. name), files.read(dir .. "/run/" .. name)
    t.ok(a and b, name .. " is missing")
    t.ok(a == b, name .. " differs from an uninterrupted search's")
  end
  local finished = {}
  for _, record in ipairs(files.records(dir .. "/run/grid.jsonl")) do
    if record.status == "finished" then finished[record.cell] = (finished[record.cell] or 0) + 1 end
  end
  local count = 0
  for cell, n in pairs(finished) do
    t.equal(n, 1, "lines of cell " .. cell)
    count = count + 1
  end
  t.equal(count, 8, "finished cells in grid.jsonl")
end

t.test("every combination is trained, the best weights are kept, shared beginnings are trained once", function()
  local dir = searched()
  local rows = table_of(dir)
  t.equal(#rows, 8)
  for _, row in ipairs(rows) do t.equal(row.status, "finished") end
  -- for each lr: 5 epochs at step_size 3, and at step_size 2 those from the third on
  t.equal(epochs_trained(dir), 2 * (5 + 3))
  t.equal(by(rows, { lr = "0.05", step_size = "3", epochs = "5" }).shared_epochs, "3")
  local left = 0
  for _, name in ipairs(files.list(dir .. "/run/cells")) do
    if files.exists(dir .. "/run/cells/" .. name .. "/best.pt") then left = left + 1 end
  end
  t.equal(left, 1, "folders with weights")
  t.equal(files.read_data(dir .. "/run/model.json").selected.value, tonumber(rows[1].value))
end)

t.test("a cell equals run:fit alone bit for bit, whatever it shared", function()
  local rows = table_of(searched())
  for _, values in ipairs { { lr = "0.2", step_size = "2", epochs = "5" },
      { lr = "0.05", step_size = "3", epochs = "3" } } do
    local dir = t.tmpdir()
    local r = go(dir, string.format([[
      run:fit(network(4), data, { optim = xai.optim.sgd { lr = %s, momentum = 0.9 }, schedule = xai.optim.step_lr { step_size = %s, gamma = 0.1 }, epochs = %s, batch = 8 })
    ]], values.lr, values.step_size, values.epochs))
    t.equal(r.code, 0, r.err)
    t.equal(files.read_data(dir .. "/run/steps/fit.json").result.weights_sha256, by(rows, values).weights_sha256)
  end
end)

t.test("a second call repeats nothing", function()
  local dir = searched()
  local before = epochs_trained(dir)
  local r = go(dir)
  t.equal(r.code, 0, r.err)
  t.equal(epochs_trained(dir), before)
  same_search(dir)
end)

-- Shell: starts command, waits until it has recorded more epochs than there were and a moment longer, kills it; its
-- exit status.
local function killed(dir, command, more, moment)
  return t.run { exe = "/bin/sh", "-c", string.format([[
    epochs() { cat %s/run/cells/*/metrics.jsonl 2>/dev/null | wc -l; }
    until=$(( $(epochs) + %d ))
    %s & pid=$!
    while kill -0 $pid 2>/dev/null && [ "$(epochs)" -lt $until ]; do sleep 0.01; done
    sleep %.3f; kill -9 $pid 2>/dev/null; wait $pid]], t.quote(dir), more, command, moment), timeout = 300 }
end

t.test("a search killed at random points ends with the same table and weights", function()
  local dir = t.tmpdir()
  local command = string.format("%s --threads 1 --quiet --out %s %s", t.quote(host.exe), t.quote(dir .. "/run"),
    t.quote(t.write(dir .. "/search.lua", experiment .. whole)))
  local state, kills = 12345, 0
  for _ = 1, 60 do
    state = (state * 1103515245 + 12345) % 2147483648
    if killed(dir, command, 1 + state // 65536 % 2, 0.03 * (state / 2147483648)).code == 0 then break end
    kills = kills + 1
  end
  local r = go(dir)
  t.equal(r.code, 0, r.err)
  t.ok(kills >= 2, "only " .. kills .. " kills hit")
  same_search(dir)
end)

t.test("killed within epochs or asked to stop by SIGUSR1, the search goes on from there to the same table "
  .. "and weights", function()
  local dir = t.tmpdir()
  local script = t.write(dir .. "/search.lua", experiment .. whole)
  local command = string.format("%s --threads 1 --quiet --out %s %s --checkpoint_minutes 0", t.quote(host.exe),
    t.quote(dir .. "/run"), t.quote(script))
  local r = t.run { exe = "/bin/sh", "-c", string.format([[cd %s
    for signal in KILL USR1 KILL USR1 KILL USR1; do
      before=$(ls -i run/families/*/*.part.pt 2>/dev/null)
      %s >>log 2>&1 & pid=$!
      while kill -0 $pid 2>/dev/null && [ "$(ls -i run/families/*/*.part.pt 2>/dev/null)" = "$before" ]; do sleep 0.01; done
      kill -$signal $pid 2>/dev/null; wait $pid; echo $?
    done]], t.quote(dir), command), timeout = 300 }
  t.ok(r.out:find "137\n" and r.out:find "138\n", r.out .. (files.read(dir .. "/log") or ""))
  r = go(dir)
  t.equal(r.code, 0, r.err)
  same_search(dir)
end)

t.test("a cell whose process died between result and log is still logged", function()
  local dir = t.tmpdir()
  os.execute("cp -r " .. t.quote(searched() .. "/run") .. " " .. t.quote(dir .. "/run"))
  os.remove(dir .. "/run/steps/grid.json")
  local lines = files.read(dir .. "/run/grid.jsonl")
  t.write(dir .. "/run/grid.jsonl", lines:gsub("[^\n]+\n$", ""))
  local r = go(dir)
  t.equal(r.code, 0, r.err)
  same_search(dir)
end)

t.test("several processes share one folder, some are killed: each cell is recorded once", function()
  local dir = t.tmpdir()
  local script = t.write(dir .. "/search.lua", experiment .. whole)
  local command = string.format("%s --threads 1 --quiet --out %s %s", t.quote(host.exe), t.quote(dir .. "/run"),
    t.quote(script))
  local r = t.run { exe = "/bin/sh", "-c", string.format([[
    for i in 1 2 3 4; do %s >%s/log$i 2>&1 & pids="$pids $!"; done
    set -- $pids
    until cat %s/run/cells/*/metrics.jsonl >%s/seen 2>/dev/null; do sleep 0.01; done
    kill -9 $1; sleep 0.1; kill -9 $3; wait $2; a=$?; wait $4; b=$?; echo $a $b]],
    command, t.quote(dir), t.quote(dir), t.quote(dir)), timeout = 300 }
  local logs = ""
  for i = 1, 4 do logs = logs .. (files.read(dir .. "/log" .. i) or "") end
  t.equal(r.out, "0 0\n", logs)
  same_search(dir)
end)

-- Each process sees another machine's name of the boot, so that no lock of one counts for another.
t.test("processes of several machines work one folder, one of them killed: the same table, weights, and one line "
  .. "for each cell", function()
  local boot = t.boot_id()
  local dir = t.tmpdir()
  local script = t.write(dir .. "/search.lua", experiment .. whole)
  for i = 1, 3 do t.write(dir .. "/boot" .. i, "machine" .. i .. "\n") end
  local command = string.format("exec %s --threads 1 --quiet --out %s %s --takeover_s 3", t.quote(host.exe),
    t.quote(dir .. "/run"), t.quote(script))
  local r = t.run { exe = "/bin/sh", "-c", string.format([[cd %s
    for i in 1 2 3; do unshare -m sh -c "mount --bind boot$i %s; %s" >log$i 2>&1 & pids="$pids $!"; done
    set -- $pids
    until cat run/cells/*/metrics.jsonl >seen 2>/dev/null; do sleep 0.01; done
    kill -9 $1; wait $2; a=$?; wait $3; b=$?; echo $a $b]], t.quote(dir), boot, command), timeout = 300 }
  local logs = ""
  for i = 1, 3 do logs = logs .. (files.read(dir .. "/log" .. i) or "") end
  t.equal(r.out, "0 0\n", logs)
  same_search(dir)
end)

t.test("the process that began a search is stopped, another machine ends the search, the first wakes up: the same "
  .. "table, nothing twice", function()
  local boot = t.boot_id()
  local dir = t.tmpdir()
  local script = t.write(dir .. "/search.lua", experiment .. whole)
  t.write(dir .. "/boot", "another machine\n")
  local command = string.format("%s --threads 1 --quiet --out %s %s --takeover_s 2", t.quote(host.exe),
    t.quote(dir .. "/run"), t.quote(script))
  local r = t.run { exe = "/bin/sh", "-c", string.format([[cd %s
    %s >one 2>&1 & pid=$!
    until cat run/cells/*/metrics.jsonl >seen 2>/dev/null; do sleep 0.01; done
    kill -STOP $pid
    unshare -m sh -c "mount --bind boot %s; exec %s" >two 2>&1; two=$?
    kill -CONT $pid; wait $pid; echo $two $?]], t.quote(dir), command, boot, command), timeout = 300 }
  t.equal(r.out, "0 0\n", files.read(dir .. "/one") .. files.read(dir .. "/two"))
  t.ok(files.read(dir .. "/one"):find("was taken over by another process, because this one stood still", 1, true),
    files.read(dir .. "/one"))
  same_search(dir)
end)

t.test("a cached frozen part changes no bit, in memory or in a file, and the table says what was cached", function()
  for _, options in ipairs { "--cache false", "--cache_mb 0" } do
    local dir = t.tmpdir()
    local r = go(dir, nil, nil, options)
    t.equal(r.code, 0, r.err)
    t.equal(files.read(dir .. "/run/weights.pt"), files.read(searched() .. "/run/weights.pt"))
    t.equal(files.read(dir .. "/run/grid.csv"), files.read(searched() .. "/run/grid.csv"))
    local cells = files.read_data(dir .. "/run/steps/grid.json").result.cells
    t.ok(cells[1].cache:find(options == "--cache false" and "cache = false"
      or "features.2 of 31 images, 0 MB in a file", 1, true), cells[1].cache)
    t.ok(not files.exists(dir .. "/run/cache"), "the cache stays behind")
  end
  t.equal(table_of(searched())[1].frozen_part, "features.2")
end)

-- Runs a body and returns its error.
local function refused(body, message, dir)
  dir = dir or t.tmpdir()
  local r = go(dir, body)
  t.equal(r.code, 1)
  if not r.err:find(message, 1, true) then error("got " .. r.err .. "expected " .. message, 2) end
  return dir
end

local function grid_of(fields, train)
  return "local search = run:grid { " .. fields .. ", train = function(cell) return " .. (train or
    "network(4), data, { optim = xai.optim.sgd { lr = cell.lr }, epochs = 1, batch = 8 }") .. " end }\n"
end

t.test("unused fields, empty lists and wrong values are refused", function()
  refused(grid_of "lr = { 0.1 }, momentun = { 0.9 }",
    "grid: field 'momentun' changes nothing: train does not read cell.momentun. Use it there, or leave it out.")
  refused(grid_of "lr = {}", "grid: field 'lr' is an empty list (expected the values to try).")
  refused(grid_of "lr = { 0.1, {} }", "grid: field 'lr': value 2 is a table (expected a number, a string or a "
    .. "boolean).")
  refused(grid_of "lr = { 0.1, nil, 0.2 }", "grid: field 'lr': value 2 is a nil (expected a number, a string or a "
    .. "boolean).")
  refused(grid_of "lr = { 0.1, 0 / 0 }", "grid: field 'lr': value 2 is a nan (expected a number, a string or a "
    .. "boolean).")
  refused(grid_of "lr = { 0.1, 0.1 }", "grid: field 'lr' has the value 0.1 twice.")
  refused(grid_of "lr = { 0.1 }, search = { 'randm', n = 3 }", "grid: unknown search 'randm'. Did you mean 'random'?")
  refused(grid_of "lr = { 0.1 }, on_fail = 'go'",
    "grid: option 'on_fail' is wrong (expected 'continue' or 'stop', got string 'go').")
  refused("run:grid { lr = { 0.1 } }\n", "grid: option 'train' is missing (expected function: (cell) -> model, "
    .. "data, options of run:fit; called once per cell). Add train = ... to it.")
  refused(grid_of("lr = { 0.1 }", "network(4), data"),
    "grid: train returns a nil third (expected model, data, options: the options of run:fit).")
  refused(grid_of("lr = { 0.1 }", "network(4), data, { optim = xai.optim.sgd { lr = cell.rate }, epochs = 1 }"),
    "grid: unknown field 'rate'.")
  refused(grid_of("lr = { 0.1 }",
    "network(4), data, { optim = xai.optim.sgd { lr = cell.lr }, epochs = 1, keep = 'last' }"),
    "grid: option 'keep' of a training is 'last': cells are compared by their best epochs. Leave it out, or train "
    .. "with run:fit.")
  refused(grid_of("lr = { 0.1 }, epochs = function(cell) return cell.epochs end",
    "network(4), data, { optim = xai.optim.sgd { lr = cell.lr }, epochs = cell.epochs }"),
    "grid: field 'epochs' depends on itself.")
end)

t.test("another search in the same folder is refused, naming the difference", function()
  local dir = t.tmpdir()
  local r = go(dir, grid_of "lr = { 0.1 }")
  t.equal(r.code, 0, r.err)
  refused(grid_of "lr = { 0.2 }", "holds a search of another definition: axes.lr.1 is 0.1 there and 0.2 here, "
    .. "first.optim.options.lr is 0.1 there and 0.2 here.", dir)
  refused("run:fit(network(4), data, { optim = xai.optim.sgd { lr = 0.1 }, epochs = 1 })\nrun:grid { lr = { 0.1 } }\n",
    "grid: option 'train' is missing")
end)

t.test("foreign files in a cell's folder are left alone", function()
  local dir = t.tmpdir()
  local r = go(dir, grid_of "lr = { 0.1, 0.2 }")
  t.equal(r.code, 0, r.err)
  local id = files.list(dir .. "/run/cells")[1]
  local cell = dir .. "/run/cells/" .. id
  files.remove_all(cell)
  files.write(cell .. "/thesis.txt", "mine")
  files.remove(dir .. "/run/steps/grid.json")
  r = go(dir, grid_of "lr = { 0.1, 0.2 }", nil, "--on-fail stop")
  t.equal(r.code, 1)
  t.ok(r.err:find("cells/" .. id .. "' holds other files (thesis.txt) and not this cell. Move it away.", 1,
    true), r.err)
  t.equal(files.read(cell .. "/thesis.txt"), "mine")
end)

t.test("a cell that diverges keeps its error message; the search goes on or stops as told", function()
  local fields = "lr = { 1e30, 0.1 }"
  local dir = t.tmpdir()
  local r = go(dir, grid_of(fields, "network(4, true), data, { optim = xai.optim.sgd { lr = cell.lr }, epochs = 2, "
    .. "batch = 8 }"))
  t.equal(r.code, 0, r.err)
  local row = by(table_of(dir), { lr = "1e+30" })
  t.equal(row.status, "diverged")
  t.ok(row.problem:find("fit: the loss is ", 1, true), row.problem)
  t.ok(files.read(dir .. "/run/cells/" .. row.cell .. "/failure.txt"):find("the loss is", 1, true))
  t.ok(r.out:find("1 of 2 cells diverged.", 1, true), r.out)
  local before = epochs_trained(dir)
  r = go(dir, grid_of(fields, "network(4, true), data, { optim = xai.optim.sgd { lr = cell.lr }, epochs = 2, "
    .. "batch = 8 }"))
  t.equal({ r.code, epochs_trained(dir) }, { 0, before })
  dir = t.tmpdir()
  r = go(dir, grid_of(fields, "network(4, true), data, { optim = xai.optim.sgd { lr = cell.lr }, epochs = 2, "
    .. "batch = 8 }"), nil, "--on-fail stop")
  t.equal(r.code, 1)
  t.ok(r.err:find("fit: the loss is", 1, true), r.err)
end)

t.test("a search in which every cell fails reports the first error", function()
  local r = go(t.tmpdir(), grid_of("lr = { 1e30 }",
    "network(4, true), data, { optim = xai.optim.sgd { lr = cell.lr }, epochs = 2, batch = 8 }"))
  t.equal(r.code, 1)
  t.ok(r.err:find("grid: no cell was finished: 1 of 1 failed, the first (lr = 1e+30) with: fit: the loss is", 1,
    true), r.err)
end)

t.test("a damaged checkpoint is trained again", function()
  local dir = t.tmpdir()
  local script = t.write(dir .. "/search.lua", experiment .. whole)
  t.run { exe = "/bin/sh", "-c", string.format([[%s --threads 1 --quiet --out %s %s & pid=$!
    while kill -0 $pid 2>/dev/null && ! ls %s/run/families/*/*.pt >/dev/null 2>&1; do sleep 0.02; done
    kill -9 $pid; wait $pid]], t.quote(host.exe), t.quote(dir .. "/run"), t.quote(script), t.quote(dir)) }
  os.execute(string.format("for f in %s/run/families/*/*.pt; do head -c 5000 \"$f\" >\"$f.x\"; mv \"$f.x\" "
    .. "\"$f\"; done", t.quote(dir)))
  local r = go(dir)
  t.equal(r.code, 0, r.err)
  t.ok(r.err:find("cannot be used", 1, true), r.err)
  same_search(dir)
end)

t.test("a random search takes n combinations, the same ones for the same seed", function()
  local body = grid_of "lr = { 0.1, 0.2, 0.3, 0.4, 0.5 }, search = { 'random', n = 2 }"
  local a, b = t.tmpdir(), t.tmpdir()
  t.equal(go(a, body).code, 0)
  t.equal(go(b, body).code, 0)
  t.equal(#table_of(a), 2)
  t.equal(files.read(a .. "/run/grid.csv"), files.read(b .. "/run/grid.csv"))
end)

t.test("successive halving goes on with the better third and halts the rest", function()
  local body = "local search = run:grid { lr = { 0.001, 0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7 }, search = { "
    .. "'halving', factor = 3 }, train = function(cell) "
    .. "return network(4), data, { optim = xai.optim.sgd { lr = cell.lr }, epochs = 9, batch = 8 } end }\n"
  local dir = t.tmpdir()
  local r = go(dir, body)
  t.equal(r.code, 0, r.err)
  local count, epochs = {}, 0
  for _, row in ipairs(table_of(dir)) do
    count[row.status] = (count[row.status] or 0) + 1
    epochs = epochs + tonumber(row.epochs_run)
  end
  t.equal(count, { finished = 1, halted = 8 })
  t.equal(epochs, 6 * 1 + 2 * 3 + 9)
  t.equal(epochs_trained(dir), epochs)
end)

t.test("seed can be a field: cells of different seeds start differently", function()
  local dir = t.tmpdir()
  local r = go(dir, grid_of "lr = { 0.1 }, seed = { 1, 2 }, best_by = 'loss'")
  t.equal(r.code, 0, r.err)
  local rows = table_of(dir)
  t.ok(rows[1].weights_sha256 ~= rows[2].weights_sha256)
  t.ok(tonumber(rows[1].val_loss) <= tonumber(rows[2].val_loss))
  t.equal(rows[1].value, rows[1].val_loss)
end)

t.test("train is called once per cell, and its models hold no tensors before their training", function()
  local dir = t.tmpdir()
  local r = go(dir, [[
local calls, held = 0, xai.memory.stats().live_bytes
local search = run:grid { lr = { 0.1, 0.2, 0.3 }, train = function(cell)
  calls = calls + 1
  local model = network(4)
  print("held", calls, xai.memory.stats().live_bytes - held)
  return model, data, { optim = xai.optim.sgd { lr = cell.lr }, epochs = 1, batch = 8 }
end }
print("calls", calls)
]])
  t.equal(r.code, 0, r.err)
  for i = 1, 3 do t.ok(r.out:find("held\t" .. i .. "\t0\n", 1, true), r.out) end
  t.ok(r.out:find("calls\t3\n", 1, true), r.out)
end)

t.test("a field of the command line narrows the search; other code keeps its own values", function()
  local dir = t.tmpdir()
  local r = go(dir, grid_of "lr = { 0.1, 0.2 }" .. "run:evaluate(search.model, data.test)\nprint(search.cell.lr)\n",
    nil, "--lr 0.3,0.4")
  t.equal(r.code, 0, r.err)
  t.equal(#table_of(dir), 2)
  t.ok(r.out:find "0%.[34]\n", r.out)
end)

t.test("disk full in the middle of a checkpoint: the last good one still loads", function()
  local dir = t.tmpdir()
  local script = t.write(dir .. "/search.lua", experiment .. whole)
  local r = t.run { exe = "/bin/sh", "-c",
    string.format("ulimit -f 12; exec %s --threads 1 --quiet --out %s %s", t.quote(host.exe), t.quote(dir .. "/run"),
      t.quote(script)) }
  t.ok(r.code == 1, "exit " .. r.code .. ": " .. r.err)
  t.ok(r.err:find("File too large", 1, true) or r.err:find("no cell was finished", 1, true), r.err)
  r = go(dir)
  t.equal(r.code, 0, r.err)
  same_search(dir)
end)

os.execute("rm -rf " .. t.quote(reference or "/nonexistent"))
