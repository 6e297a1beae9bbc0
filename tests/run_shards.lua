-- Several processes on one explain step: they divide its images, and leave what one process leaves, to the byte.
local t = require "t"
local canon = require "medxai.base.json"
local files = require "medxai.base.files"
local host = require "medxai.host"

-- A tiny network with random weights on drawn chests: 44 images, six shards, metrics that run the network and others.
-- Maps wait for the file 'go', which the test makes when every process has its share, however slow the machine is.
local experiment = [[
local xai = require "medxai"
local run = xai.run { name = "shared", seed = 42 }
local data = xai.dataset.phantom { n_train = 6, n_val = 6, n_test = 44, size_px = 48 }
local model = xai.graph.network { name = "tiny", classes = data.classes, size_px = 48, cam_layer = "features",
  build = function(g, x)
    x = g:block("features", function()
      x = g:relu("1", g:conv2d("0", x, { 3, 8, 5, padding = 2, stride = 2 }))
      return g:relu("3", g:conv2d("2", x, { 8, 16, 3, padding = 1 }))
    end)
    return g:linear("fc", g:flatten(nil, g:adaptive_avg_pool2d("pool", x, 1)), { 16, 3 })
  end }
run:evaluate(model, data.test)
local function mean(x) -- of no state: its code is its name
  local files = require "medxai.base.files"
  while not files.exists "go" do files.sleep(0.01) end
  return x:select(0, 0):mean({ 0 })
end
local result = run:explain(model, data.test, { title = "All", methods = { "gradcam", "scorecam", mean = mean },
  images = "all", metrics = { "deletion", "energy_inside" }, mask = "lesion", deterministic = true })
print(#result.rows, result.summaries[1].mean)
run:overlap(model, data.test, { methods = { "gradcam" }, mask = "lesion", deterministic = true, figures = false })
run:report()
]]

-- The bytes of what a run leaves, but for times, places and process ids.
local function bytes_of(dir)
  local all = {}
  local function add(folder)
    for _, name in ipairs(files.list(dir .. "/" .. folder)) do
      local path = folder .. name
      if files.is_folder(dir .. "/" .. path) then add(path .. "/") else all[path] = files.read(dir .. "/" .. path) end
    end
  end
  add ""
  for _, name in ipairs { "times.csv", "environment.json", "status", "evaluations.jsonl", "report.html",
    "data_check.json", "steps/report.json" } do
    all[name] = nil
  end
  local lines = {}
  for i, record in ipairs(files.records(dir .. "/maps/index.jsonl")) do
    record.seconds = nil
    lines[i] = canon.write(record)
  end
  all["maps/index.jsonl"] = table.concat(lines, "\n")
  for path, bytes in pairs(all) do
    if path:find "^claims/" or path:find "^events/" then all[path] = nil
    elseif path:find "%.pdf$" then all[path] = bytes:gsub("/CreationDate %b()", "") end
  end
  return all
end

local function equal(a, b)
  for path, bytes in pairs(a) do t.ok(bytes == b[path], path .. (b[path] and " differs" or " is missing")) end
  for path in pairs(b) do t.ok(a[path], path .. " is too much") end
end

-- A shell line that runs the experiment in dir, in the background; its output is in dir/log.<name>.
local function start(dir, name, options)
  return ("%s --threads 1 shared.lua %s >%s/log.%s 2>&1 & %s=$!"):format(t.quote(host.exe), options or "", t.quote(dir),
    name, name)
end

-- Lets the maps begin once so many processes have claimed a shard each, after another command.
local function go_with(n, command)
  return ("until [ $(ls runs/shared/claims 2>/dev/null | grep -c ^shard-) -ge %d ]; do sleep 0.01; done\n"
    .. "%s\ntouch go"):format(n, command or "")
end

local function shell(dir, lines)
  t.write(dir .. "/shared.lua", experiment)
  local r = t.run { exe = "/bin/sh", "-c", "cd " .. t.quote(dir) .. "\n" .. table.concat(lines, "\n"), timeout = 600 }
  return r, dir .. "/runs/shared"
end

local function log(dir, name) return files.read(dir .. "/log." .. name) or "" end

local alone -- what one process leaves

local function expected()
  if alone then return alone end
  local dir = t.tmpdir()
  local r, run = shell(dir, { start(dir, "a"), go_with(1), "wait $a" })
  t.equal(r.code, 0, log(dir, "a"))
  t.equal({ files.exists(run .. "/shards"), files.list(run .. "/claims") }, { false, { "run.2", "workers" } })
  alone = bytes_of(run)
  return alone
end

t.test("three processes divide the images of a step, and leave the bytes of one", function()
  local one = expected()
  local dir = t.tmpdir()
  local r, run = shell(dir, { start(dir, "a"), start(dir, "b"), start(dir, "c"),
    go_with(3, t.quote(host.exe) .. " runs show shared >log.show"),
    -- as long as the first step lasts: how many processes have made maps
    "n=0; while kill -0 $a 2>/dev/null && [ $n -lt 3 ]; do n=$(ls runs/shared/maps 2>/dev/null | grep -c '^index-')",
    "sleep 0.01; done",
    "wait $a; x=$?; wait $b; y=$?; wait $c; z=$?; echo $n $x $y $z" })
  t.ok(r.out:find "^3 0 0 0\n$", r.out .. log(dir, "a") .. log(dir, "b") .. log(dir, "c"))
  equal(one, bytes_of(run))
  local line = log(dir, "a"):match "\n(%d+\t[^\n]*)\n"
  local helpers = 0
  for _, name in ipairs { "a", "b", "c" } do
    t.ok(line and log(dir, name):find(line, 1, true), log(dir, name))
    local helps = log(dir, name):find "'runs/shared' is in use by process %d+ on %S+: this process helps it"
    helpers = helpers + (helps and 1 or 0)
  end
  t.equal(helpers, 2)
  t.ok(log(dir, "show"):find "^shared: running, explain%-%x+ 0/44 images", log(dir, "show"))
  t.ok(log(dir, "show"):find("works, heard of %d+ s ago, holds the run, a shard of images\n"), log(dir, "show"))
end)

t.test("the process that began a step is killed: another ends it, with the same bytes", function()
  local one = expected()
  local dir = t.tmpdir()
  local r, run = shell(dir, { start(dir, "a"), "until [ -d runs/shared/shards ]; do sleep 0.01; done",
    start(dir, "b"), go_with(2), "until ls runs/shared/shards/explain-*/*.json >/dev/null 2>&1; do sleep 0.01; done",
    "kill -9 $a; wait $a; wait $b; echo $?" })
  t.equal(r.out, "0\n", log(dir, "a") .. log(dir, "b"))
  equal(one, bytes_of(run))
end)

t.test("the process that began a step is stopped, another machine takes its place, the first wakes up: the same bytes",
  function()
  local boot = t.boot_id()
  local one = expected()
  local dir = t.tmpdir()
  t.write(dir .. "/boot", "another machine\n")
  local r, run = shell(dir, { start(dir, "a", "--takeover_s 2"), go_with(1),
    "until ls runs/shared/shards/explain-*/*.json >/dev/null 2>&1; do sleep 0.01; done; kill -STOP $a",
    ("unshare -m sh -c 'mount --bind boot %s; exec %s --threads 1 shared.lua --takeover_s 2' >log.b 2>&1; x=$?"):format(
    boot, host.exe), "kill -CONT $a; wait $a; echo $x $?" })
  t.equal(r.out, "0 0\n", log(dir, "a") .. log(dir, "b"))
  equal(one, bytes_of(run))
end)

-- ---- the index of maps ----------------------------------------------------------------------------------------------

local function keys_of(path)
  local list = {}
  for i, record in ipairs(files.records(path)) do
    list[i] = record.maps .. "/" .. record.image_id .. " " .. record.status
  end
  return list
end

t.test("lines that processes wrote apart come together in the order asked for, once each; a failed map gives way",
  function()
  local mapstore, torch = require "medxai.explain.store", require "medxai.torch"
  local scope <close> = require("medxai.core").memory.scope()
  local dir, map = t.tmpdir(), torch.zeros(2, 2)
  local function add(store, id, status)
    store:add({ maps = "m", image_id = id, status = status }, status == "ok" and map or nil, {})
  end
  add(mapstore.open(dir), "1", "failed")
  local a, b = mapstore.open(dir, "a"), mapstore.open(dir, "b")
  add(b, "3", "ok")
  add(b, "9", "ok") -- of another step
  add(a, "2", "ok")
  add(a, "1", "ok")
  t.equal({ a:find("m", "3"), (a.records["m/1"] or {}).status }, { nil, "ok" })
  local whole = t.read(dir .. "/maps/index-b.jsonl")
  t.write(dir .. "/maps/index-b.jsonl", whole .. '{"torn')
  local index = dir .. "/maps/index.jsonl"
  a:merge { "m/1", "m/2", "m/3", "m/4" }
  t.equal(keys_of(index), { "m/1 failed", "m/1 ok", "m/2 ok", "m/3 ok", "m/9 ok" })
  t.equal(files.list(dir .. "/maps"), { "index.jsonl", "m" })
  t.equal({ a:find("m", "1").image_id, a:find("m", "3").image_id, b:find("m", "9").image_id }, { "1", "3", "9" })
  t.write(dir .. "/maps/index-b.jsonl", whole) -- as if it had been killed before it removed this
  mapstore.open(dir, "c"):merge {}
  t.equal(#keys_of(index), 5)
end)
