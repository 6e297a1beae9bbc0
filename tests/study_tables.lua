-- The tables of a comparison, from made rows whose right answers are known.
local t = require "t"
local csv = require "medxai.base.csv"
local compare = require "medxai.steps.compare"
local files = require "medxai.base.files"
local rows = require "medxai.score.study_rows"
local tables = require "medxai.score.study_tables"
local units = require "medxai.stats.units"

local nan = 0 / 0
local unclaimed = { wait = function() end } -- of a run whose tables nobody else writes

-- Rows of a study: f(run, method, metric, image, control) -> value; patients of images; directions of metrics.
local function scores(o)
  local parts = { rows.header() }
  for _, run in ipairs(o.runs or { "net" }) do
    for _, method in ipairs(o.methods) do
      for i, patient in ipairs(o.patients) do
        for _, control in ipairs(o.controls or { "none", "swap" }) do
          for _, metric in ipairs(o.metrics) do
            for draw = 1, o.draws or 1 do
              local v, status = o.f(run, method, metric.id, i, control, draw)
              parts[#parts + 1] = rows.line { image_id = ("%04d"):format(i), path = i .. ".png", patient = patient,
                source = "a, b",
                method = method, metric = metric.id, value = v == v and v or nil, status = status or "ok", label = "c",
                  correct = tostring(not (o.wrong and o.wrong(run, i))), run = run,
                network = run, train_seed = 1, explainer_seed = draw, control = control, direction = metric.direction,
                  forwards = 2, backwards = 1,
                undefined = status == "failed" and "failed" or v ~= v and "no \"mask\"\nhere" or nil }
            end
          end
        end
      end
    end
  end
  return table.concat(parts)
end

local function tabulate(o)
  local dir = t.tmpdir()
  files.write(dir .. "/study/scores.csv", scores(o))
  local out = compare.tabulate({ dir = dir, leases = unclaimed }, rows.read(dir .. "/study/scores.csv"),
    { seed = 1, primary = o.primary or o.metrics[1].id,
    baselines = o.baselines or {}, marks = o.marks or {}, setting_of = o.setting_of, run_names = o.run_names,
      partial = o.partial })
  out.dir = dir
  return out
end

local function patients_of(n)
  local list = {}
  for i = 1, n do list[i] = "p" .. i end
  return list
end

-- Something like noise, the same everywhere: -0.5 to 0.5 by what it is of.
local function noise(...)
  local text, n = table.concat({ ... }, " "), 5381
  for c in text:gmatch "." do n = (n * 33 ~ c:byte()) & 0xffffffff end
  n = (n ~ n >> 15) * 0x2c1b3c6d & 0xffffffff
  n = (n ~ n >> 12) * 0x297a2d39 & 0xffffffff
  return (n ~ n >> 15) / 0x100000000 - 0.5
end

local function row_of(out, run, metric, method)
  for _, row in ipairs(out.methods) do
    if row.run == run and row.metric == metric and row.method == method then return row end
  end
end

local up, down = { id = "up@1", direction = "higher" }, { id = "down@1", direction = "lower" }

t.test("a method's gain is its value less its own swap, with the paired interval of units", function()
  local patients = patients_of(20)
  local function f(_, method, _, i, control)
    return (control == "none" and method == "good" and 0.5 or 0) + noise(method, i, control)
  end
  local out = tabulate { methods = { "good", "poor" }, patients = patients, metrics = { up }, f = f }
  local row, a, b = row_of(out, "net", "up@1", "good"), {}, {}
  for i = 1, 20 do a[i], b[i] = f("net", "good", "up@1", i, "none"), f("net", "good", "up@1", i, "swap") end
  local d = units.over(20, patients, { seed = 1, id = "compare" }):difference(a, b)
  t.near({ row.gain, row.gain_low, row.gain_high }, { d.mean, d.low, d.high }, 1e-12)
  t.near(row.mean - row.swap, row.gain, 1e-12)
  t.equal({ row.above_swap, row_of(out, "net", "up@1", "poor").above_swap }, { "better", "undecided" })
end)

t.test("where lower is better, gains below 0 are better", function()
  local out = tabulate { methods = { "good", "poor" }, patients = patients_of(20), metrics = { down },
    f = function(_, method, _, i, control)
    return (control == "none" and method == "good" and -1 or 0) + 0.5 * noise(method, i, control)
  end }
  local row = row_of(out, "net", "down@1", "good")
  t.equal({ row.above_swap, row.power }, { "better", 1.0 })
  t.ok(row.gain < 0 and row.gain_high < 0)
  t.equal({ row.rank_low, row.rank_high, row.p_best }, { 1, 1, 1.0 })
end)

t.test("a metric that cannot tell a map from another patient's ranks nothing, with the reason", function()
  local out = tabulate { methods = { "a", "b" }, patients = patients_of(60), metrics = { up },
    f = function(_, method, _, i, control)
    return (method == "a" and 2 or 0) + noise(method, i, control)
  end }
  local row = row_of(out, "net", "up@1", "a")
  t.equal({ row.rank_low, row.p_best }, {})
  t.ok(row.mean > 1, "a is above b by far, and yet not ranked")
  t.equal(out.tells.net["up@1"], false)
  local first = out.verdicts[1]
  t.equal({ first.check, first.verdict, first.subject }, { "metric", "cannot_tell", "up on net" })
  t.equal(first.reason, "cannot tell a map from another patient's map here: no method's power is above 0.5")
end)

t.test("images of one patient are one unit", function()
  local patients = {}
  for i = 1, 40 do patients[i] = "p" .. (i - 1) // 5 end -- 8 patients
  local out = tabulate { methods = { "a", "b" }, patients = patients, metrics = { up },
    f = function(_, method, _, i, control)
    return (control == "none" and 1 or 0) + 0.1 * noise(method, i, control)
  end }
  local row = row_of(out, "net", "up@1", "a")
  t.equal({ row.n, row.units, row.low, row.above_swap }, { 40, 8, nil, "undecided" })
  t.equal({ row.rank_low, out.tells.net["up@1"] }, {}, "so few say neither that the metric tells nor that it does not")
  for _, v in ipairs(out.verdicts) do
    t.ok(v.check ~= "metric", v.reason)
    if v.check == "above_swap" then t.equal({ v.verdict, v.reason }, { "undecided", "fewer than 10 patients" }) end
  end
end)

t.test("a metric that is undefined for nearly all maps is not said to tell nothing", function()
  local out = tabulate { methods = { "a", "b" }, patients = patients_of(40), metrics = { up },
    f = function(_, method, _, i, control)
    if i > 9 then return nan end
    return noise(method, i, control)
  end }
  t.equal(out.tells.net["up@1"], nil)
  for _, v in ipairs(out.verdicts) do t.ok(v.check ~= "metric", v.reason) end
  t.equal(row_of(out, "net", "up@1", "a").undefined, 31)
end)

t.test("\"beats the baselines\" means each of them", function()
  local shift = { strong = 3, middle = 1.5, base1 = 0, base2 = 2 }
  local out = tabulate { methods = { "strong", "middle", "base1", "base2" }, baselines = { base1 = true, base2 = true },
    patients = patients_of(24),
    metrics = { up }, f = function(_, method, _, i, control) return (control == "none" and shift[method] + 1
      or 0) + noise(method, i, control) end }
  t.equal(row_of(out, "net", "up@1", "strong").beats_baselines, "better")
  -- above one, below the other: no single verdict
  t.equal(row_of(out, "net", "up@1", "middle").beats_baselines, "undecided")
  t.equal(row_of(out, "net", "up@1", "base1").beats_baselines, nil)
  t.equal(#out.pairs, 1) -- baselines are not ranked
  t.equal({ row_of(out, "net", "up@1", "strong").rank_high, row_of(out, "net", "up@1", "middle").rank_low }, { 1, 2 })
end)

t.test("undefined and failed maps are counted separately and never averaged", function()
  local out = tabulate { methods = { "a", "b" }, patients = patients_of(20), metrics = { up },
    f = function(_, method, _, i, control)
    if method == "a" and i <= 3 then return nan end
    if method == "a" and i == 4 then return nan, "failed" end
    return i + (control == "none" and 0.5 or 0)
  end }
  local row = row_of(out, "net", "up@1", "a")
  t.equal({ row.n, row.undefined, row.failed }, { 16, 3, 1 })
  t.near(row.mean, (5 + 20) / 2 + 0.5, 1e-12)
end)

t.test("several draws of one method are one value per image", function()
  local out = tabulate { methods = { "a" }, patients = patients_of(12), metrics = { up }, draws = 3,
    f = function(_, _, _, i, control, draw)
    return i + draw + (control == "none" and 1 or 0)
  end }
  local row = row_of(out, "net", "up@1", "a")
  t.equal({ row.n, row.units }, { 12, 12 })
  t.near({ row.mean, row.swap }, { 6.5 + 2 + 1, 6.5 + 2 }, 1e-12)
end)

t.test("the ranking depends on what changes its possible winners; equal rankings are stable", function()
  local order = { net1 = { a = 3, b = 2, c = 1 }, net2 = { a = 3, b = 2, c = 1 }, net3 = { a = 1, b = 2, c = 3 } }
  local out = tabulate { runs = { "net1", "net2", "net3" }, methods = { "a", "b", "c" }, patients = patients_of(20),
    metrics = { up },
    f = function(run, method, _, i, control) return (control == "none" and 2 * order[run][method] or 0) + noise(run,
      method, i, control) end }
  local found = {}
  for _, row in ipairs(out.stability) do
    if row.statistic == "tau_b" then found[row.a .. " " .. row.b] = row end
  end
  t.equal({ found["net1 net2"].value, found["net1 net2"].verdict, found["net1 net2"].winners_a },
    { 1.0, "stable", "a" })
  t.equal({ found["net1 net3"].value, found["net1 net3"].verdict, found["net1 net3"].winners_b },
    { -1.0, "depends", "c" })
  local words = {}
  for _, v in ipairs(out.verdicts) do
    if v.check == "stability" then words[v.subject] = v.reason end
  end
  t.equal(words["net1 and net3"], "the ranking depends on the network: may be first a, and c")
end)

t.test("other settings of a metric and other seeds of a network are compared with the first", function()
  local other = { id = "up@1 steps=2", direction = "higher" }
  local out = tabulate { runs = { "net seed 1", "net seed 2" }, run_names = { ["net seed 1"] = "net",
    ["net seed 2"] = "net" }, methods = { "a", "b" },
    patients = patients_of(16), metrics = { up, other }, setting_of = { ["up@1 steps=2"] = "up@1" },
    f = function(_, method, _, i, control) return (control == "none" and (method == "a" and 2 or 1)
      or 0) + 0.5 * noise(method, i, control) end }
  local kinds = {}
  for _, row in ipairs(out.stability) do kinds[row.kind .. " " .. row.statistic] = (kinds[row.kind .. " "
    .. row.statistic] or 0) + 1 end
  t.equal(kinds, { ["seeds W"] = 1, ["seeds tau_b"] = 1, ["settings tau_b"] = 2 })
end)

t.test("Friedman's test of a comparison equals the reference value, with patients as blocks", function()
  local golden = { { .62, .55, .50, .31 }, { .70, .66, .58, .40 }, { .45, .49, .40, .38 }, { .81, .70, .72, .55 },
    { .52, .52, .47, .30 },
    { .66, .60, .61, .42 } }
  local place = { a = 1, b = 2, c = 3, d = 4 }
  local patients, more = {}, {}
  -- two images per patient around its value
  for i = 1, 12 do patients[i], more[i] = "p" .. (i + 1) // 2, i % 2 == 0 and 0.05 or -0.05 end
  local out = tabulate { methods = { "a", "b", "c", "d" }, patients = patients, metrics = { up },
    f = function(_, method, _, i, control)
    return golden[(i + 1) // 2][place[method]] + (control == "none" and more[i] or 0)
  end }
  local f = tables.friedman(out.data, "net", "up@1")
  t.near({ f.chi2, f.f, f.w, f.n }, { 14.6949152542, 22.2307692308, .816384180791, 6 }, 1e-9)
end)

t.test("tables of an unfinished study say partial in every row", function()
  local out = tabulate { methods = { "a", "b" }, patients = patients_of(12), metrics = { up }, partial = "3 of 9 cells",
    f = function(_, method, _, i, control)
    return i == 1 and nan or noise(method, i, control)
  end }
  for _, row in ipairs(csv.read(out.dir .. "/tables/methods.csv")) do t.equal(row.partial, "3 of 9 cells") end
  local list = rows.read(out.dir .. "/study/scores.csv")
  t.equal({ list.undefined[1], list.source[1], list.n }, { 'no "mask" here', "a, b", 48 })
end)

t.test("noise is the standard deviation of a score over other draws of its metric", function()
  local out = tabulate { methods = { "a" }, patients = patients_of(12), metrics = { up },
    controls = { "none", "swap", "noise" },
    f = function(_, _, _, i, control) return i + (control == "noise" and (i % 2 == 0 and 3 or -4) or 0) end }
  t.near(row_of(out, "net", "up@1", "a").noise, math.sqrt((9 + 16) / 2 / 2), 1e-12)
  t.equal(row_of(tabulate { methods = { "a" }, patients = patients_of(12), metrics = { up },
    f = function(_, _, _, i) return i end }, "net",
    "up@1", "a").noise, nil)
end)

t.test("strata by the networks' predictions: all right, all wrong, some", function()
  local out = tabulate { runs = { "net1", "net2" }, methods = { "a" }, patients = patients_of(12),
    metrics = { up, down },
    wrong = function(run, i) return i <= 4 or run == "net2" and i <= 7 end, f = function(_, _, _, i) return i end }
  local found = {}
  for _, row in ipairs(csv.read(out.dir .. "/tables/strata.csv")) do found[row.stratum .. " " .. row.run] = { row.n,
    row.mean, row.metric } end
  t.equal(found, { ["all_wrong net1"] = { "4", "2.5", "up@1" }, ["all_wrong net2"] = { "4", "2.5", "up@1" },
    ["mixed net1"] = { "3", "6.0", "up@1" },
    ["mixed net2"] = { "3", "6.0", "up@1" }, ["all_right net1"] = { "5", "10.0", "up@1" },
      ["all_right net2"] = { "5", "10.0", "up@1" } })
end)

t.test("metrics of one name are read by the settings that tell them apart", function()
  local black, blur = "deletion@1 steps=16 as=logit removal=black", "deletion@1 steps=16 as=logit removal=blur(31,31)"
  local data = { metrics = { "road_combined@1 percentiles=25,50,75", black, blur, "gini@1", "gini@1 within=lungs" } }
  local names = {}
  for i, metric in ipairs(data.metrics) do names[i] = tables.short(metric, data) end
  t.equal(names, { "road_combined", "deletion removal=black", "deletion removal=blur(31,31)", "gini@1",
    "gini within=lungs" })
end)

t.test("methods that failed the gate are marked and do not count for a metric", function()
  local out = tabulate { methods = { "a", "b" }, patients = patients_of(16), metrics = { up },
    marks = { net = { a = "weights" } },
    f = function(_, method, _, i, control) return (control == "none" and method == "a" and 2 or 0) + noise(method, i,
      control) end }
  t.equal(row_of(out, "net", "up@1", "a").gate, "weights")
  t.equal(out.tells.net["up@1"], false)
end)

t.long("of 200 studies in which no map tells anything, at most 7 in 100 claim that one does", function()
  -- each map's score on each image is random: own and exchanged maps are equal. Expected at most 5 %; 0.07 is one and a
  -- half standard errors (0.015) above, and the draws are fixed
  local patients, claims = patients_of(24), 0
  math.randomseed(4)
  for _ = 1, 200 do
    local data = tables.gather(rows.read((function()
      local path = t.tmpdir() .. "/scores.csv"
      files.write(path, scores { methods = { "a", "b", "c", "d" }, patients = patients, metrics = { up },
        f = function() return math.random() end })
      return path
    end)()), { seed = 1 })
    for _, row in ipairs(tables.of(data, { primary = "up@1" }).methods) do
      if row.above_swap ~= "undecided" then
        claims = claims + 1
        break
      end
    end
  end
  t.ok(claims <= 14, claims .. " of 200")
end)

t.long("100,800 rows become tables within 10 seconds of work and 500 MB", function()
  local dir, metrics, methods, runs = t.tmpdir(), {}, {}, {}
  for k = 1, 6 do metrics[k] = { id = "metric" .. k .. "@1", direction = k == 6 and "none" or k % 2 == 0 and "lower"
    or "higher" } end
  for k = 1, 10 do methods[k] = "method" .. k end
  for k = 1, 7 do runs[k] = "net" .. k end
  files.write(dir .. "/study/scores.csv", scores { runs = runs, methods = methods, metrics = metrics,
    patients = patients_of(120),
    f = function(_, _, _, _, control) return math.random() + (control == "none" and 0.2 or 0) end })
  local r = t.run { "--threads", "1", timeout = 600, t.write(dir .. "/tables.lua", ([[
    local rows, compare = require "medxai.score.study_rows", require "medxai.steps.compare"
    local began = os.clock()
    local list = rows.read "DIR/study/scores.csv"
    local leases = { wait = function() end } -- of a run whose tables nobody else writes
    compare.tabulate({ dir = "DIR", leases = leases }, list, { seed = 42, primary = "metric1@1",
      baselines = { method10 = true } })
    print(list.n, os.clock() - began)
    for line in io.lines "/proc/self/status" do if line:find "VmHWM" then print(line) end end
  ]]):gsub("DIR", dir)) }
  t.equal(r.code, 0, r.err)
  local n, seconds, kb = r.out:match "(%d+)%s+([%d.]+)%s+VmHWM:%s+(%d+)"
  t.equal(n, "100800")
  t.ok(tonumber(seconds) < 10, seconds .. " s of processor time")
  t.ok(tonumber(kb) < 500 * 1024, kb .. " kB")
end)
