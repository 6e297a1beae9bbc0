-- Every experiment of experiments/, end to end under --smoke, in one folder, so that those that start from another's weights
-- find them: what an experiment needs is run before it, once.
local t = require "t"
local files = require "medxai.files"

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

local function run_once(name)
  if done[name] then return done[name] end
  for _, other in ipairs(needed(name)) do t.equal(run_once(other).code, 0, other .. " is needed first: " .. done[other].err) end
  local data = not source(name):find("dataset.phantom", 1, true) and require("medxai.file").realpath(t.shared()) .. "/covid-cxr" or nil
  local masked = name == "maskmaker" and folder .. "/masked" or nil
  done[name] = t.run { "--smoke", "--quiet", root .. "/experiments/" .. name .. ".lua", data and "--data" or "--quiet", data or "--quiet", masked and "--masked" or "--quiet",
    masked or "--quiet", cwd = folder, timeout = 600 }
  return done[name]
end

local function must_be_there(dir, list)
  for _, file in ipairs(list) do t.ok(files.exists(dir .. "/" .. file), file .. " is missing") end
end

local function check_run(name)
  local dir, text = folder .. "/runs/" .. name .. "-smoke", source(name)
  t.equal(files.read(dir .. "/status"):match("^%S+"), "finished")
  must_be_there(dir, always)
  if text:find("run:fit", 1, true) or text:find("run:grid", 1, true) then must_be_there(dir, after_training) end
  if text:find("run:grid", 1, true) then must_be_there(dir, { "grid.csv", "grid.jsonl", "figures/grid-cells.svg" }) end
  if text:find("run:explain", 1, true) then t.ok(#files.list(dir .. "/maps") > 0, "no maps") end
end

for _, file in ipairs(files.list(root .. "/experiments")) do
  local name = file:match "^(.*)%.lua$"
  if name and not name:find "^my_" then -- my_method and my_metric are files beside an experiment
    t.test("experiments/" .. file .. " runs end to end in --smoke", function()
      local r = run_once(name)
      t.equal(r.code, 0, r.err)
      if name ~= "maskmaker" then check_run(name) else t.ok(files.exists(folder .. "/masked/contact_sheet.png"), "no contact sheet") end
    end)
  end
end

os.execute("rm -rf " .. t.quote(folder))
