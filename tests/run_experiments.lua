-- Every experiment of experiments/, end to end under --smoke, in one folder, so that those that start from another's weights
-- find them: what an experiment needs is run before it, once. Of those that only explain a trained run,
-- squeezenet1_0_explain is run whole; the others start from weights drawn by a seed and explain one small image, to be done in time.
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

-- The experiments whose weights one starts from.
local function needed(name)
  local list = {}
  for other in source(name):gmatch 'weights = "([%w_]+)"' do
    if files.exists(root .. "/experiments/" .. other .. ".lua") and other ~= name then list[#list + 1] = other end
  end
  return list
end

-- What an experiment is given besides its data: a small exported network.
local small_network = { exported = { "--file", root .. "/tests/reference/exported/convnet.pt2", "--size_px", "16", "--resize_px", "16" } }

local function run_once(name)
  if done[name] then return done[name] end
  for _, other in ipairs(needed(name)) do t.equal(run_once(other).code, 0, other .. " is needed first: " .. done[other].err) end
  local data = not source(name):find("dataset.phantom", 1, true) and require("medxai.file").realpath(t.shared()) .. "/covid-cxr" or nil
  local masked = name == "maskmaker" and folder .. "/masked" or nil
  local arguments = { "--smoke", "--quiet", root .. "/experiments/" .. name .. ".lua", data and "--data" or "--quiet", data or "--quiet", masked and "--masked" or "--quiet",
    masked or "--quiet", cwd = folder, timeout = 600 }
  for _, word in ipairs(small_network[name] or {}) do arguments[#arguments + 1] = word end
  done[name] = t.run(arguments)
  return done[name]
end

-- The run from whose weights an experiment starts that does nothing but explain them; nil for others.
local function explained_run(name)
  local text, list = source(name), needed(name)
  if #list == 1 and text:find("run:explain", 1, true) and not text:find("run:fit", 1, true) and not text:find("run:grid", 1, true) then return list[1] end
end

-- runs/<name>-smoke/weights.pt below dir, drawn by a seed.
local function draw_weights(dir, name)
  local scope <close> = xai.scope() -- luacheck: ignore
  local model <close> = xai.models[name:gsub("_masked$", "")] { classes = { "COVID-19", "Non-COVID", "Normal" }, seed = 1 }
  local state = {}
  for _, entry in ipairs(model:state()) do state[entry.name] = entry.tensor end
  files.mkdir(dir .. "/runs/" .. name .. "-smoke")
  xai.save(dir .. "/runs/" .. name .. "-smoke/weights.pt", state)
end

-- Runs an explain experiment small: its folder.
local function run_small(name, start)
  local cwd, size = t.tmpdir(), start:find "inception" and "139" or "96" -- the smallest that leave the last layers a grid
  local drawn = start == "efficientnet_b0" and "true" or "false" -- besides squeezenet1_0's: guided backprop is not defined there
  draw_weights(cwd, start)
  return cwd .. "/runs/" .. name .. "-smoke", t.run { "--smoke", "--quiet", root .. "/experiments/" .. name .. ".lua", "--size_px", size, "--resize_px", size,
    "--data", require("medxai.file").realpath(t.shared()) .. "/covid-cxr", "--images", "1", "--figures", drawn, cwd = cwd, timeout = 600 }
end

-- Every map has a status and none failed; figures are there in three formats, and all in the report.
local function check_explained(dir)
  for _, record in ipairs(files.records(dir .. "/maps/index.jsonl")) do
    t.ok(record.status ~= "failed" and record.status ~= "nan", record.method .. ": " .. tostring(record.problem or record.status))
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

-- The settings in which one preparation is not the other's, but for those that the experiment forces.
local function differing(a, b, text)
  local names = {}
  for _, key in ipairs { "size_px", "resize_px", "mean", "std", "white_16bit", "input_mode" } do
    local name = key == "input_mode" and "mask" or key
    local x, y = a[key], b[key]
    if type(x) == "table" then x, y = table.concat(x, " "), table.concat(y, " ") end
    if x ~= y and not text:find('force = { "' .. name .. '" }', 1, true) then
      names[#names + 1] = ("%s %s, not %s"):format(name, tostring(y), tostring(x))
    end
  end
  return table.concat(names, ", ")
end

t.test("every experiment shows a run's weights images as that run was trained on, or says what differs", function()
  local compared = 0
  for _, file in ipairs(files.list(root .. "/experiments")) do
    local name = file:match "^(.*)%.lua$"
    for _, other in ipairs(name and needed(name) or {}) do
      local theirs, found = preparations(other)[1], {}
      for i, ours in ipairs(preparations(name)) do found[i] = differing(theirs, ours, source(name)) end
      table.sort(found) -- the best of its data sets: maskedtest has one for each of its models
      t.equal(found[1], "", name .. " with the weights of " .. other)
      compared = compared + 1
    end
  end
  t.ok(compared > 25, "only " .. compared .. " were compared")
end)

for _, file in ipairs(files.list(root .. "/experiments")) do
  local name = file:match "^(.*)%.lua$"
  if name and not name:find "^my_" then -- my_method and my_metric are files beside an experiment
    t.test("experiments/" .. file .. " runs end to end in --smoke", function()
      local start, dir, r = explained_run(name), folder .. "/runs/" .. name .. "-smoke", nil
      if start and name ~= "squeezenet1_0_explain" then dir, r = run_small(name, start) else r = run_once(name) end
      t.equal(r.code, 0, r.err)
      if name ~= "maskmaker" then check_run(name, dir) else t.ok(files.exists(folder .. "/masked/contact_sheet.png"), "no contact sheet") end
    end)
  end
end

os.execute("rm -rf " .. t.quote(folder))
