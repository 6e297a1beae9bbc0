-- The cells of a comparison: the same bytes when killed anywhere, and from several processes; failures have rows and
-- are counted.
local t = require "t"
local csv = require "medxai.base.csv"
local files = require "medxai.base.files"
local host = require "medxai.host"
local tiny = require "tinystudy"

local text = [[
local study = run:study { models = { "one", "two" }, data = data.test, tune = data.val, images = 18 }
run:compare(study, { methods = { "gradcam", "saliency" },
  metrics = { "energy_inside", "confidence_drop", "effective_area" },
  mask = "lungs", primary = "energy_inside", baselines = { "sobel", "random_smooth" } })
]]

-- The files of a study, without times and hosts.
local compared = { "verdicts.csv", "study/images.csv", "study/scores.csv", "study/similarity.csv", "tables/methods.csv",
  "tables/pairs.csv", "tables/agreement.csv", "tables/stability.csv", "tables/strata.csv", "study/viewer.html",
  "tables/metrics_tau.csv", "figures/compare-gains-one.svg", "figures/compare-agreement-methods.pdf",
  "figures/compare-montage-own.png" }

local function bytes_of(name)
  local dir, out = tiny.dir() .. "/runs/" .. name, {}
  for _, path in ipairs(compared) do out[path] = files.read(dir .. "/" .. path) or "missing" end
  for _, path in ipairs(files.list(dir .. "/study/cells")) do
    if path:find "%.npy$" or path:find "%.csv$" then out[path] = files.read(dir .. "/study/cells/" .. path) end
  end
  return out
end

local reference

-- The uninterrupted study's files; another run name gives the same bytes.
local function whole()
  if reference then return reference end
  local r = tiny.go("whole", text)
  t.equal(r.code, 0, r.err)
  reference = bytes_of "whole"
  return reference
end

t.test("a study's viewer holds every map of every network and method, with the predictions", function()
  local page = whole()["study/viewer.html"]
  local data = require("cjson").decode(page:match '<script type="application/json" id="viewer%-data">(.-)</script>')
  t.equal({ #data.images, data.networks, data.methods }, { 18, { "one", "two seed 1", "two seed 2" },
    { "gradcam", "saliency", "sobel", "random_smooth" } })
  for n = 1, 3 do
    for m = 1, 4 do
      for i = 1, 18 do
        local sheet = data.sheets[n][m]
        local function word(place) -- of a list whose entries are places in the words; one entry is that of all images
          local list = place and data.lists[place + 1]
          return list and data.words[#list == 1 and list[1] or list[i]] or nil
        end
        t.ok(word(sheet.size) == "64 64" or word(sheet.note),
          ("map of image %d, network %d, method %d"):format(i, n, m))
        t.ok(word(sheet.text):find "^predicted %S+$", word(sheet.text))
      end
    end
  end
end)

local function same_bytes(name)
  local base, other = whole(), bytes_of(name)
  for path, bytes in pairs(base) do
    if other[path] ~= bytes then error(("%s of '%s' differs from the uninterrupted study's"):format(path, name), 2) end
  end
  for path in pairs(other) do t.ok(base[path], path .. " is in one study alone") end
end

-- Starts the experiment and kills it once `cells` cells are done and a moment has passed.
local function killed(name, cells, delay)
  return t.run { exe = "/bin/sh", cwd = tiny.dir(), timeout = 600, "-c", ([[
    %s --threads 1 --quiet %s & pid=$!
    while kill -0 $pid 2>/dev/null &&
      [ "$(ls runs/%s/study/cells/*.json 2>/dev/null | wc -l)" -lt %d ]; do sleep 0.02; done
    sleep %.3f; kill -9 $pid 2>/dev/null; wait $pid]]):format(
    t.quote(host.exe), tiny.experiment(name, text), name, cells, delay) }
end

local function kill_and_finish(name, kills, most)
  local died = 0
  for k = 1, kills do
    local r = killed(name, (k - 1) * most // kills, 0.4 * math.random())
    died = died + (r.code ~= 0 and 1 or 0)
  end
  t.ok(died > 0, "it was never killed")
  local r = tiny.go(name, text)
  t.equal(r.code, 0, r.err)
  same_bytes(name)
end

t.test("a finished study repeats nothing and does not change; a run has one comparison", function()
  whole()
  local config = files.read(tiny.dir() .. "/runs/whole/config.json")
  local r = t.run { "--threads", "1", tiny.experiment("whole", text .. [[
print(pcall(run.compare, run, study, { methods = { "gradcam" }, metrics = { "energy_inside" }, mask = "lungs",
  primary = "energy_inside", baselines = {} }))
run:report()
]]), cwd = tiny.dir(), timeout = 600 }
  t.equal(r.code, 0, r.err)
  t.ok(r.err:find("compare%-%x+: finished before with the same settings"), r.err)
  t.ok(r.out:find("compare: the run 'whole' has a comparison already", 1, true), r.out)
  local page = files.read(tiny.dir() .. "/runs/whole/report.html")
  t.ok(page:find("Explanations compared", 1, true) and page:find("one, energy inside (primary, higher is better)", 1,
    true), "the page lacks it")
  same_bytes "whole"
  t.equal(files.read(tiny.dir() .. "/runs/whole/config.json"), config, "its settings stay in config.json")
end)

t.test("readers see the map that run:compare judged, at the network's own resolution", function()
  local r = tiny.go("seen", [[
local study = run:study { models = { "one" }, data = data.test, images = 6 }
run:compare(study, { methods = { "gradcam", "saliency" }, metrics = { "energy_inside" }, mask = "lungs",
  primary = "energy_inside", baselines = { "random_smooth" } })
local packet, frame = require "medxai.steps.packet", require "medxai.score.frame"
local m, files = study.models[1], require "medxai.base.files"
local job = packet.job(study, m, { methods = { "gradcam", "saliency", "random_smooth" } })
local kept = {}
for _, cell in ipairs(files.records(study.dir .. "/cells.jsonl")) do
  kept[cell.method] = xai.torch.load_npy(study.dir .. "/cells/" .. cell.id .. ".npy")
end
local apart, height = 0, 0
for i = 1, 6 do
  local case = packet.case(study, m, job, i)
  for k, method in ipairs { "gradcam", "saliency", "random_smooth" } do
    local map = case.maps[k]
    local into = frame.into(m.split:geometry(m.places[i]), study:shared_rectangle(i), map:size(0), map:size(1), 64)
    local own = into(map):flatten():to { dtype = "float32" }
    local judged = kept[method]:select(0, i - 1)[{ { 0, 64 * 64 } }]
    apart, height = math.max(apart, (own - judged):abs():max():item()), map:size(0)
  end
end
print(apart < 1e-5 or apart, height)
]])
  t.equal(r.code, 0, r.err)
  t.equal(r.out:match "[^\n]*\n$", "true\t48\n", r.out)
end)

t.test("a study killed at three points ends with the same bytes", function()
  whole()
  kill_and_finish("killed", 3, 20)
end)

t.long("killed at thirty random points, a study ends with the same bytes", function()
  whole()
  math.randomseed(os.time())
  for round = 1, 5 do kill_and_finish("killed" .. round, 6, 24) end
end)

t.test("a process takes all cells of a network and block, and leaves those that another one has", function()
  local cells, lease = require "medxai.steps.study_cells", require "medxai.run.lease"
  local list = {}
  for b = 1, 2 do
    for j = 1, 2 do
      for k = 1, 3 do list[#list + 1] = { id = ("%d%d%d"):format(b, j, k), order = { 0, b, j, k, 1 } } end
    end
  end
  local groups, ids = cells.groups(list), {}
  for g, group in ipairs(groups) do ids[g] = group[1].id .. " " .. #group end
  t.equal(ids, { "111 3", "121 3", "211 3", "221 3" })
  local dir = t.tmpdir()
  local leases <close> = lease.open(dir)
  local others <close> = lease.open(dir)
  local study = { dir = dir, controls = {}, run = { heartbeat = function() end, leases = leases } }
  local work = cells.work(study, {}, {})
  local made = {}
  function work.done(_, cell) return cell.is_made end
  function work.attempt(_, cell) cell.is_made, made[#made + 1] = true, cell.id end
  work.bar = { add = function() end }
  do
    local held <close> = others:take "study-121-group" -- luacheck: ignore (held, not read)
    -- the second group is another process': it comes last, cell by cell
    work:round(list)
  end
  t.equal(table.concat(made, " "), "111 112 113 211 212 213 221 222 223 121 122 123")
end)

t.test("two processes on one study share its cells and leave the same bytes", function()
  whole()
  local r = t.run { exe = "/bin/sh", cwd = tiny.dir(), timeout = 900, "-c", ([[
    %s --threads 1 --quiet %s & a=$!
    while kill -0 $a 2>/dev/null && [ ! -d runs/both/study/cells ]; do sleep 0.02; done
    %s --threads 1 --quiet both.lua & b=$!
    wait $a; one=$?; wait $b; two=$?
    echo $one $two]]):format(t.quote(host.exe), tiny.experiment("both", text), t.quote(host.exe)) }
  t.equal(r.out, "0 0\n", r.err)
  same_bytes "both"
end)

t.test("--array-index: each process does its part, whoever ends the last cell writes the tables; partial tables are "
  .. "stamped", function()
  whole()
  local r = t.run { "--threads", "1", tiny.experiment("array", text), cwd = tiny.dir(), "--array-index", "1/2",
    timeout = 600 }
  t.equal(r.code, 0, r.err)
  t.ok(r.err:find("12 of 24 cells are done, this process' share among them", 1, true), r.err)
  t.ok(not files.exists(tiny.dir() .. "/runs/array/tables/methods.csv"), "tables of a part")
  r = t.run { "--threads", "1", "--quiet", tiny.experiment("array", text), cwd = tiny.dir(), "--array-index", "1/2",
    "--partial", "true",
    timeout = 600 }
  t.equal(r.code, 0, r.err)
  local rows = csv.read(tiny.dir() .. "/runs/array/tables/methods.csv")
  t.equal(rows[1].partial, "12 of 24 cells")
  t.ok(csv.read(tiny.dir() .. "/runs/array/verdicts.csv")[1].reason:find("partial: 12 of 24 cells", 1, true))
  r = t.run { "--threads", "1", "--quiet", tiny.experiment("array", text), cwd = tiny.dir(), "--array-index", "2/2",
    timeout = 600 }
  t.equal(r.code, 0, r.err)
  same_bytes "array"
end)

t.test("a method that fails has rows that say so, is counted, and is tried again", function()
  local broken = [[
local study = run:study { models = { "one" }, data = data.test, images = 12 }
run:compare(study, { methods = { "gradcam", odd = function(x)
  if io.open("mended") then return x:mean { 1 }:squeeze(0) end error "broken" end },
  metrics = { "energy_inside" }, mask = "lungs", primary = "energy_inside", baselines = {} })
]]
  local r = tiny.go("broken", broken)
  t.equal(r.code, 0, r.err)
  local dir = tiny.dir() .. "/runs/broken"
  local failed, all = 0, 0
  for _, row in ipairs(csv.read(dir .. "/study/scores.csv")) do
    if row.method == "odd" then all, failed = all + 1, failed + (row.status == "failed" and row.value == "" and 1
      or 0) end
  end
  t.equal({ all, failed }, { 24, 24 })
  for _, row in ipairs(csv.read(dir .. "/tables/methods.csv")) do
    if row.method == "odd" then t.equal({ row.n, row.failed, row.mean }, { "0", "12", "" }) end
  end
  t.write(tiny.dir() .. "/mended", "")
  r = tiny.go("broken", broken)
  os.remove(tiny.dir() .. "/mended")
  t.equal(r.code, 0, r.err)
  for _, row in ipairs(csv.read(dir .. "/tables/methods.csv")) do t.equal(row.failed, "0") end
end)

t.test("SIGTERM ends a study with 143, and it resumes to the same bytes", function()
  whole()
  local r = t.run { exe = "/bin/sh", cwd = tiny.dir(), timeout = 600, "-c", ([[
    %s --threads 1 --quiet %s & pid=$!
    while kill -0 $pid 2>/dev/null &&
      [ "$(ls runs/ended/study/cells/*.json 2>/dev/null | wc -l)" -lt 2 ]; do sleep 0.02; done
    kill -TERM $pid; wait $pid]]):format(t.quote(host.exe), tiny.experiment("ended", text)) }
  t.equal(r.code, 143, r.err)
  r = tiny.go("ended", text)
  t.equal(r.code, 0, r.err)
  same_bytes "ended"
end)

t.test("images without the metric's mask are undefined and counted, for the map itself and for the one that is lent",
  function()
  local number = 0
  files.write(tiny.dir() .. "/data/some.csv", (files.read(tiny.dir()
    .. "/data/manifest.csv"):gsub("(,test,[^\n]*,)mask%d+%.png", function(line)
    number = number + 1
    return number % 3 == 0 and line or nil
  end)))
  local r = tiny.go("some", [[
local some = xai.dataset.manifest { csv = "data/some.csv", size_px = 48, resize_px = 48 }
local study = run:study { models = { "one" }, data = some.test, images = 12 }
run:compare(study, { methods = { "gradcam" },
  metrics = { "energy_inside" }, mask = "lungs",
  primary = "energy_inside", baselines = {} })
]])
  t.equal(r.code, 0, r.err)
  local undefined, values = 0, 0
  for _, row in ipairs(csv.read(tiny.dir() .. "/runs/some/study/scores.csv")) do
    if row.undefined == "no mask"
      and row.value == "" then undefined = undefined + 1 elseif row.value ~= "" then values = values + 1 end
  end
  t.equal({ undefined > 0, undefined % 2, undefined + values }, { true, 0, 24 })
  local row = csv.read(tiny.dir() .. "/runs/some/tables/methods.csv")[1]
  t.equal({ tonumber(row.n), tonumber(row.undefined) }, { values / 2, undefined / 2 })
end)

t.test("a method of many passes keeps each map as it is made: killed in a cell, it goes on from there to the same "
  .. "bytes", function()
  local slow = [[
local study = run:study { models = { "one" }, data = data.test, images = 3 }
run:compare(study, { methods = { { "lime", samples = 200 } },
  metrics = { "energy_inside" }, mask = "lungs",
  primary = "energy_inside", baselines = {} })
]]
  t.equal(tiny.go("slow", slow).code, 0)
  local base = bytes_of "slow"
  local r = t.run { exe = "/bin/sh", cwd = tiny.dir(), timeout = 600, "-c", ([[
    %s --threads 1 --quiet %s & pid=$!
    while kill -0 $pid 2>/dev/null &&
      [ "$(cat runs/slower/study/cells/*.part/maps/index.jsonl 2>/dev/null | wc -l)" -lt 1 ]; do sleep 0.01; done
    kill -9 $pid 2>/dev/null; wait $pid
    cat runs/slower/study/cells/*.part/maps/index.jsonl | wc -l]]):format(t.quote(host.exe),
    tiny.experiment("slower", slow)) }
  t.ok((tonumber(r.out) or 0) >= 1, "no map was kept: " .. r.out .. r.err)
  r = tiny.go("slower", slow)
  t.equal(r.code, 0, r.err)
  for path, bytes in pairs(bytes_of "slower") do t.ok(base[path] == bytes, path .. " differs") end
  for _, name in ipairs(files.list(tiny.dir() .. "/runs/slower/study/cells")) do t.ok(not name:find "part$", name
    .. " is left") end
end)

t.test("methods that draw are repeated with explainer_seeds, others are not; a budget that was decided stays",
  function()
  local text_of = [[
local study = run:study { models = { "one" }, data = data.test, images = 18, explainer_seeds = 2, budget_hours = HOURS }
run:compare(study, { methods = { "gradcam", "random_smooth" },
  metrics = { "energy_inside" }, mask = "lungs",
  primary = "energy_inside", baselines = {},
  noise = true })
]]
  local dir = tiny.dir() .. "/runs/budget"
  local r = tiny.go("budget", (text_of:gsub("HOURS", "1e-9")))
  t.equal(r.code, 1)
  t.ok(r.err:find("compare: budget_hours = 1e%-09 does not hold even one block of 16 images %(about %d+ s%)%. Give "
    .. "more, or fewer methods or models%."), r.err)
  files.write_data(dir .. "/study/budget.json", { hours = 1, of = 18, images = 16 })
  r = tiny.go("budget", (text_of:gsub("HOURS", "1")))
  t.equal(r.code, 0, r.err)
  local seeds = {}
  for _, row in ipairs(csv.read(dir .. "/study/scores.csv")) do
    seeds[row.method .. " " .. row.explainer_seed] = (seeds[row.method .. " " .. row.explainer_seed] or 0) + 1
  end
  t.equal(seeds, { ["gradcam 1"] = 48, ["random_smooth 1"] = 48, ["random_smooth 2"] = 48 })
  t.equal(csv.read(dir .. "/tables/methods.csv")[1].noise, "0.0") -- this metric draws nothing
  local kinds = {}
  for _, row in ipairs(csv.read(dir .. "/tables/agreement.csv")) do kinds[row.kind .. ": " .. row.a .. ", "
    .. row.b] = true end
  t.ok(kinds["explainer_seed: one: random_smooth, draw 1, one: random_smooth, draw 2"], "draws are not compared")
end)
