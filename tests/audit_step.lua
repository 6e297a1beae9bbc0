-- run:audit as an experiment runs it: a letter that gives the class away is found, the run resumes to the same bytes,
-- and what it refuses.
local t = require "t"
local csv = require "medxai.base.csv"
local files = require "medxai.base.files"
local host = require "medxai.host"

-- A tiny network on tiny phantoms with a letter per class. OPTIONS stands for what a test varies.
local experiment = [[
local xai = require "medxai"
local run = xai.run { name = "tiny", seed = 42 }
local function phantoms(input)
  return xai.dataset.phantom { n_train = 240, n_val = 30, n_test = 60, size_px = 48, contrast = 0,
    marker = { rate = { 0, 1, 1 } }, input = input }
end
local function train(cell)
  local data = phantoms(cell.input)
  local model = xai.graph.network { name = "tiny", classes = data.classes, size_px = 48, cam_layer = "features",
    build = function(g, x)
      x = g:block("features", function()
        x = g:relu("1", g:batch_norm2d("b0", g:conv2d("0", x, { 3, 16, 5, padding = 2 }), 16))
        x = g:max_pool2d("2", x, { 2 })
        x = g:relu("4", g:batch_norm2d("b3", g:conv2d("3", x, { 16, 32, 3, padding = 1 }), 32))
        return g:max_pool2d("5", x, { 2 })
      end)
      return g:linear("fc", g:flatten(nil, g:adaptive_avg_pool2d("pool", x, 6)), { 32 * 36, 3 })
    end }
  return model, data, { optim = xai.optim.adam { lr = 0.003 }, epochs = 4, batch = 16 }
end
run:audit { train = train, OPTIONS }
run:report()
]]

local function go(options, dir, body)
  local cwd = dir or t.tmpdir()
  t.write(cwd .. "/audit.lua", (body or experiment):gsub("OPTIONS", function() return options or "" end))
  return t.run { "--quiet", "--threads", "1", "audit.lua", cwd = cwd, timeout = 300 }, cwd
end

local compared = { "verdicts.csv", "tables/audit.csv", "figures/audit-inputs.svg", "tables/pairs.csv",
  "audit/parts.csv", "audit/whole-seed-1.csv", "config.json" }

local function bytes_of(dir)
  local list = {}
  for _, name in ipairs(compared) do
    list[name] = t.ok(files.read(dir .. "/runs/tiny/" .. name), name .. " is missing")
  end
  return list
end

t.test("a letter that gives the class away is found; an audit killed anywhere resumes to the same bytes", function()
  local options = "inputs = { 'whole', 'lungs_raw', 'border', 'shape' }, seeds = { 1 }, methods = { 'gradcam' }, "
    .. "placebo = 2"
  local r, dir = go(options)
  t.equal(r.code, 0, r.err)
  local rows = csv.read(dir .. "/runs/tiny/verdicts.csv")
  t.equal({ rows[1].subject, rows[1].check, rows[1].verdict }, { "training of whole images, seed 1", "audit",
    "shortcut found" })
  t.ok(rows[1].reason:find("hiding the markers", 1, true), rows[1].reason)
  local checks = {}
  for _, row in ipairs(rows) do checks[row.subject .. ": " .. row.check] = row end
  t.equal(checks["markers: hidden against placebos, blur"].verdict, "found")
  t.equal(checks["lungs: hidden against placebos, mean"].controls, "2 placebos")
  t.ok(checks["clear: told from border, cheap probe"] and checks["clear: told from border, trainings"])
  t.equal(checks["clear: source known within the class"].reason, "one source: 'phantom'")
  t.ok(checks["Grad-CAM: energy in the lungs above swap"])
  local on_letter = checks["Grad-CAM: energy on the markers above swap"]
  t.equal(on_letter.n, "32", "only images with a letter count: 32 of the 48 that maps are made of")
  t.ok(tonumber(on_letter.estimate) > 0, on_letter.estimate)
  local areas = csv.read(dir .. "/runs/tiny/tables/audit.csv")
  t.equal(#areas, 2 * 4 * 3, "two witnesses, four inputs, three classes")
  t.ok(tonumber(areas[7].power_clear) > 0 and areas[7].positives == "20" and areas[7].input == "border")
  local page = t.read(dir .. "/runs/tiny/report.html")
  t.ok(page:find("Verdict: shortcut found", 1, true) and page:find("Told by the cheap probe", 1, true))
  t.ok(page:find("<figcaption>What each input tells of the class. ", 1, true))
  t.equal(#csv.read(dir .. "/runs/tiny/figures/audit-inputs.csv"), #areas)
  t.ok(not r.out:find "no shortcut" and not page:find "no shortcut", "an audit does not say that there is none")
  local before = bytes_of(dir)
  -- What a kill may leave: steps without results, one unfinished training.
  local steps = dir .. "/runs/tiny/steps"
  for _, name in ipairs { "audit", "audit-parts", "audit-border-seed-1", "audit-probe-shape" } do
    files.remove(steps .. "/" .. name .. ".json")
  end
  files.remove(dir .. "/runs/tiny/done/" .. t.ok(files.list(dir .. "/runs/tiny/done")[1]))
  files.remove(dir .. "/runs/tiny/audit/parts.csv")
  r = go(options, dir)
  t.equal(r.code, 0, r.err)
  t.equal(bytes_of(dir), before)
end)

t.test("without seeds only the probe runs and nothing is trained; a given model has its parts judged", function()
  local r, dir = go("inputs = { 'whole', 'border' }, seeds = {}")
  t.equal(r.code, 0, r.err)
  t.ok(not files.exists(dir .. "/runs/tiny/cells"), "something was trained")
  t.ok(r.out:find("Parts were not replaced: no network", 1, true), r.out)
  t.ok(not files.exists(dir .. "/runs/tiny/audit/parts.csv"))
  r = go("inputs = { 'whole', 'border' }, seeds = {}, audited = train({ input = 'whole' }), regions = { 'markers' }, "
    .. "images = 12", dir)
  t.equal(r.code, 0, r.err)
  t.equal(#(csv.read(dir .. "/runs/tiny/audit/parts.csv")) > 12, true)
end)

-- The errors of calls with these options, all from one child process.
local function refused(list)
  local lines = {}
  for i, options in ipairs(list) do
    lines[i] = ("print((select(2, pcall(run.audit, run, { train = train, %s }))))"):format(options)
  end
  local r = go("", nil, (experiment:gsub("run:audit.*", table.concat(lines, "\n"):gsub("%%", "%%%%") .. "\n")))
  t.equal(r.code, 0, r.err)
  local out = {}
  for line in r.out:gmatch "[^\n]+" do out[#out + 1] = line end
  return out
end

t.test("bad input is refused before anything is trained", function()
  t.equal(refused { "inputs = { 'outside' }", "inputs = { 'whole', 'lungs' }", "inputs = { 'whole', 'otside' }",
    "seeds = { 1, 1 }",
    "seeds = { 1.5 }", "margin = 0.4", "audited = {}",
      "seeds = {}, sources = { clear = 'A', nodule = 'A', opacity = 'A' }",
    "seeds = {}, train = function() return nil, phantoms 'whole' end", "regions = {}", "images = 'few'" }, {
    "audit: inputs lack 'whole', the image as it is, with which the others are compared. Add it.",
    "audit: inputs hold none without lungs (expected at least one of outside, border, shape).",
    "audit: unknown inputs 'otside'. Did you mean 'outside'?",
    "audit: seeds holds 1 twice.",
    "audit: seeds holds 1.5 at 1 (expected whole numbers from 0).",
    "audit: option 'margin' is too small (expected more than 0.5, got 0.4).",
    "audit: audited is a table and no model (expected a run's name, or a model).",
    "audit: sources: every class comes from 'A': with one source there is nothing to audit. Leave sources out, or "
      .. "name those that differ.",
    "audit: the data of the input 'lungs_raw' have input = 'whole' (expected input = cell.input in train).",
    "audit: regions is an empty list (expected some of markers, border, lungs).",
    "audit: images is a number or 'all' (got 'few').",
  })
  local r = go "seeds = {}, audited = 'nobody'"
  t.ok(r.code == 1 and r.err:find("nobody", 1, true), r.err)
  r = go("seeds = {}", nil, (experiment:gsub("n_test = 60", "n_test = 0")))
  t.ok(r.code == 1 and r.err:find("audit: the data of the input 'whole' have no test split (expected train, val and "
    .. "test).", 1, true), r.err)
end)

-- Real files: a mask that shows one lung, and one that is missing.
local real = [[
local xai = require "medxai"
local run = xai.run { name = "tiny", seed = 42 }
run:audit { inputs = { "whole", "outside", "lungs" }, seeds = {},
  train = function(cell)
    return nil, xai.dataset.covid_qu_ex { root = ROOT, size_px = 32, resize_px = 32, input = cell.input, limit = 6 }
  end }
]]

t.test("images whose mask an input refuses are left out of all inputs; a missing mask is an error", function()
  local shared, root = t.shared(), t.tmpdir() .. "/data"
  os.execute(("mkdir %s && cp -r %s %s/"):format(root, t.quote(shared .. "/covid-cxr/Lung Segmentation Data"), root))
  local folder = root .. "/Lung Segmentation Data/Train/Normal/lung masks"
  local names = files.list(folder)
  local first
  for _, name in ipairs(names) do first = first or name:find "%.png$" and name end
  t.write(folder .. "/" .. first, t.read(shared
    .. "/covid-cxr/Lung Segmentation Data/Train/Normal/lung masks/Normal (113).png"))
  local body = real:gsub("ROOT", ("%q"):format(root))
  local r, dir = go("", nil, body)
  t.equal(r.code, 0, r.err)
  t.ok(r.err:find("audit: 1 image is left out of all inputs, since an input refuses it: 'Train/Normal/images/" .. first
    .. "'", 1, true), r.err)
  t.ok(r.out:find("Images left out of all inputs, since an input refuses them: 1.", 1, true), r.out)
  local check = files.read_data(dir .. "/runs/tiny/data_check.json")
  t.equal(check.counts.train.Normal, 6, "another image has come in its place")
  files.remove(folder .. "/" .. first)
  r = go("", nil, body)
  t.equal(r.code, 1)
  t.ok(r.err:find("no lung mask for 'Train/Normal/images/" .. first .. "'", 1, true), r.err)
end)

t.test("two processes on one audit share its trainings and leave the bytes of one", function()
  local options = "inputs = { 'whole', 'border' }, seeds = { 1 }, regions = { 'markers' }, placebo = 2, "
    .. "images = 24"
  local r, one = go(options)
  t.equal(r.code, 0, r.err)
  local two = t.tmpdir()
  t.write(two .. "/audit.lua", (experiment:gsub("OPTIONS", function() return options end)))
  r = t.run { exe = "/bin/sh", cwd = two, timeout = 600, "-c", ([[
    %s --threads 1 --quiet audit.lua >first.out & a=$!
    while kill -0 $a 2>/dev/null && [ ! -d runs/tiny/families ]; do sleep 0.02; done
    %s --threads 1 --quiet audit.lua >second.out & b=$!
    wait $a; one=$?; wait $b; two=$?
    echo $one $two]]):format(t.quote(host.exe), t.quote(host.exe)) }
  t.equal(r.out, "0 0\n", r.err)
  t.equal(bytes_of(two), bytes_of(one))
  t.equal(t.read(two .. "/second.out"), t.read(two .. "/first.out"), "both say what was found")
  t.equal(#files.records(two .. "/runs/tiny/evaluations.jsonl"), 2, "each training is judged once")
end)
