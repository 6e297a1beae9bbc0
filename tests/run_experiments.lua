-- Experiments of experiments/, end to end under --smoke, in one folder, so that those that start from another's weights
-- find them: what an experiment needs is run before it, once. The ordinary tests run one of each kind, with the fastest
-- network; --long runs all of them, and explain.lua and extras.lua on a small training of every network.
local t = require "t"
local files = require "medxai.base.files"
local xai = require "medxai"

local always = { "config.json", "environment.json", "report.html", "status", "times.csv" }
local after_training = { "manifest.csv", "metrics.jsonl", "metrics.csv", "predictions.csv", "weights.pt", "model.json" }

local root = require("medxai.file").realpath(t.root)
local folder, done -- where they run, made when the first does; name -> how it went
local handle = assert(io.popen "mktemp -d")
folder = handle:read "l"
handle:close()
done = {}

local function source(name) return t.read(root .. "/experiments/" .. name .. ".lua") end

local covid = require("medxai.file").realpath(t.shared()) .. "/covid-cxr"

-- Experiments that examine another run, named by --of.
local examines = { explain = true, extras = true }

-- Experiments that start from another's weights.
local function needed(name)
  local list = {}
  for other in source(name):gmatch 'weights = "([%w_]+)"' do
    if files.exists(root .. "/experiments/" .. other .. ".lua") and other ~= name then list[#list + 1] = other end
  end
  for other in (source(name):match "models = {(.-)}" or ""):gmatch '"([%w_]+)"' do
    if #list < 2 then list[#list + 1] = other end -- a study takes two under --smoke
  end
  return list
end

-- Further fields of an experiment: a small exported network.
local small_network = { exported = { "--file", root .. "/tests/reference/exported/convnet.pt2", "--size_px", "16",
  "--resize_px", "16" } }

-- A table of findings over the shared images, for multilabel.
local function findings_table()
  local data, lines = xai.dataset.covid_qu_ex { root = covid, limit = 3 }, { "path,split,Opacity,Effusion" }
  for _, split in ipairs(data.splits) do
    for i = 1, split.n do
      local number = split.name ~= "small_test" and #lines
      if number then
        lines[#lines + 1] = ("%s/%s,%s,%d,%s"):format(data.root, split:item(i).path, split.name,
          split:label(i) < 2 and 1 or 0, ({ [0] = "1", "0", "", "-1" })[number % 4])
      end
    end
  end
  files.mkdir(folder .. "/findings")
  files.write(folder .. "/findings/manifest.csv", table.concat(lines, "\n") .. "\n")
  return folder .. "/findings"
end

-- A few drawn DICOM files in two classes, for dicom.
local function dicom_table()
  local lines, dir = { "path,label,split" }, folder .. "/dicom"
  files.mkdir(dir)
  for i = 1, 24 do
    lines[#lines + 1] = ("%02d.dcm,%s,%s"):format(i, i % 2 == 0 and "Pneumonia" or "Normal",
      i <= 12 and "train" or i <= 18 and "val" or "test")
    files.write(("%s/%02d.dcm"):format(dir, i), require("tinydicom").bytes { w = 64, h = 64, bits = 12, id = "id" .. i,
      uid = "1.2.3." .. i, window = { 1500, 3000 }, samples = function(k)
        local x, y = k % 64, k // 64
        local inside = i % 2 == 0 and (x - 20) ^ 2 + (y - 40) ^ 2 < 100
        return 200 + (k * 29 + i * 131) % 1500 + (inside and 1200 or 0)
      end })
  end
  files.write(dir .. "/manifest.csv", table.concat(lines, "\n") .. "\n")
  return dir
end

-- Runs one experiment in a folder.
local function go(cwd, name, ...)
  local words = { "--smoke", "--quiet", root .. "/experiments/" .. name .. ".lua", ... }
  if not source(name):find("dataset.phantom", 1, true) then table.move({ "--data", covid }, 1, 2, #words + 1, words) end
  if name == "multilabel" then words[#words] = findings_table() end
  if name == "dicom" then words[#words] = dicom_table() end
  if name == "maskmaker" then table.move({ "--masked", folder .. "/masked" }, 1, 2, #words + 1, words) end
  words.cwd, words.timeout = cwd, 600
  return t.run(words)
end

local function run_once(name)
  if done[name] then return done[name] end
  local more = examines[name] and { "--of", "squeezenet1_0" } or small_network[name] or {}
  for _, other in ipairs(examines[name] and { "squeezenet1_0" } or needed(name)) do
    t.equal(run_once(other).code, 0, other .. " is needed first: " .. done[other].err)
  end
  done[name] = go(folder, name, table.unpack(more))
  return done[name]
end

-- Every map has a status and none failed; figures are there in three formats, and all in the report.
local function check_explained(dir)
  for _, record in ipairs(files.records(dir .. "/maps/index.jsonl")) do
    t.ok(record.status ~= "failed" and record.status ~= "nan",
      record.method .. ": " .. tostring(record.problem or record.status))
  end
  local counts = { png = 0, svg = 0, pdf = 0 }
  for _, file in ipairs(files.is_folder(dir .. "/figures") and files.list(dir .. "/figures") or {}) do
    local ending = file:match "%.(%w+)$"
    counts[ending] = counts[ending] + 1
  end
  t.ok(counts.png == counts.svg and counts.svg == counts.pdf, "a figure lacks a format")
  t.ok(not t.read(dir .. "/report.html"):find("is missing", 1, true), "the report lacks a figure")
end

local function must_be_there(dir, list)
  for _, file in ipairs(list) do t.ok(files.exists(dir .. "/" .. file), file .. " is missing") end
end

local function check_run(name, dir)
  local text = source(name)
  t.equal(files.read(dir .. "/status"):match("^%S+"), "finished")
  must_be_there(dir, always)
  if text:find("run:fit", 1, true) or text:find("run:grid", 1, true) then must_be_there(dir, after_training) end
  if text:find("run:grid", 1, true) then must_be_there(dir, { "grid.csv", "grid.jsonl", "figures/grid-curves.svg" }) end
  if text:find("run:explain", 1, true) then
    t.ok(#files.list(dir .. "/maps") > 0, "no maps")
    check_explained(dir)
  end
end

-- How each data set that an experiment names is prepared for the network.
local function preparations(name)
  local list = {}
  local place = ("root = %q"):format(require("medxai.file").realpath(t.shared()) .. "/covid-cxr")
  for expression in source(name):gmatch "local [%w_]+ = xai%.dataset(%.[%w_]+ %b{})" do
    local text = expression:gsub('root = "[^"]*"', place)
    list[#list + 1] = load("return require('medxai').dataset" .. text)():preparation()
  end
  return list
end

-- The settings in which two preparations differ, except those that the experiment forces.
local function differing(a, b, text)
  local names = {}
  for _, key in ipairs { "size_px", "resize_px", "mean", "std", "white_16bit", "input" } do
    local x, y = a[key], b[key]
    if type(x) == "table" then x, y = table.concat(x, " "), table.concat(y, " ") end
    if x ~= y and not text:find('force = { "' .. key .. '" }', 1, true) then
      names[#names + 1] = ("%s %s, not %s"):format(key, tostring(y), tostring(x))
    end
  end
  return table.concat(names, ", ")
end

t.test("every experiment shows a run's weights images as that run was trained on, or says what differs", function()
  local compared = 0
  for _, file in ipairs(files.list(root .. "/experiments")) do
    local name = file:match "^(.*)%.lua$"
    -- each of its models reads the data by its own run
    local is_study = name and source(name):find("run:study", 1, true)
    for _, other in ipairs(name and not is_study and needed(name) or {}) do
      local theirs, found = preparations(other)[1], {}
      for i, ours in ipairs(preparations(name)) do found[i] = differing(theirs, ours, source(name)) end
      table.sort(found) -- the best of its data sets: maskedtest has one for each of its models
      t.equal(found[1], "", name .. " with the weights of " .. other)
      compared = compared + 1
    end
  end
  t.ok(compared > 5, "only " .. compared .. " were compared")
end)

-- One experiment of each kind, with the fastest network that has it.
local ordinary = { quickstart = true,
  dicom = require("medxai.file").stat(root .. "/build/medxai_dicom.so") ~= nil,
  squeezenet1_0 = true, squeezenet1_0_masked = true,
  squeezenet1_0_gridsearch = true, mobilenet_v2_gridsearch_warm = true, efficientnet_b0_warm = true, explain = true,
  exported = true, extras = true, infection_iou = true, maskedtest = true, maskmaker = true, shortcut = true,
  shortcut_uninformative = true, sobel = true, technics = true }

for _, file in ipairs(files.list(root .. "/experiments")) do
  local name = file:match "^(.*)%.lua$"
  if name and not name:find "^my_" then -- my_method and my_metric are files beside an experiment
    local test = ordinary[name] and t.test or t.long
    test("experiments/" .. file .. " runs end to end in --smoke", function()
      local r = run_once(name)
      t.equal(r.code, 0, r.err)
      if name == "maskmaker" then
        return t.ok(files.exists(folder .. "/masked/contact_sheet.png"), "no contact sheet")
      end
      check_run(name, ("%s/runs/%s-smoke"):format(folder, examines[name] and "squeezenet1_0_" .. name or name))
    end)
  end
end

-- Images of 96 px leave the last layers a grid (Inception takes only 299); one image is explained.
local function examine(name, start)
  local cwd, size = t.tmpdir(), start:find "inception" and "299" or "96"
  local r = go(cwd, start, "--size_px", size, "--resize_px", size)
  t.equal(r.code, 0, start .. ": " .. r.err)
  r = go(cwd, name, "--of", start, "--images", "1")
  t.equal(r.code, 0, name .. ": " .. r.err)
  check_run(name, ("%s/runs/%s_%s-smoke"):format(cwd, start, name))
end

for _, network in ipairs(xai.models.names) do
  t.long("explain.lua --of " .. network .. "_masked, and explain.lua and extras.lua --of " .. network, function()
    examine("explain", network .. "_masked")
    examine("explain", network)
    examine("extras", network)
  end)
end

os.execute("rm -rf " .. t.quote(folder))
