-- Every experiment of experiments/, end to end under --smoke.
local t = require "t"
local files = require "medxai.files"

local left_behind = { "config.json", "environment.json", "manifest.csv", "metrics.jsonl", "metrics.csv", "predictions.csv", "weights.pt",
  "model.json", "report.html", "status", "times.csv" }

local function smoke(name, data)
  local dir = t.tmpdir() .. "/run"
  local r = t.run { "--smoke", "--quiet", "--out", dir, t.root .. "/experiments/" .. name, data and "--data", data, timeout = 400 }
  t.equal(r.code, 0, r.err)
  t.equal(files.read(dir .. "/status"):match("^%S+"), "finished")
  for _, file in ipairs(left_behind) do t.ok(files.exists(dir .. "/" .. file), file .. " is missing") end
  t.ok(#files.list(dir .. "/maps") > 0, "no maps")
  return r, dir
end

for _, name in ipairs(files.list(t.root .. "/experiments")) do
  if name:find("%.lua$") and not name:find("^my_") then -- my_method and my_metric are files beside an experiment
    t.test("experiments/" .. name .. " runs end to end in --smoke", function()
      smoke(name, name ~= "quickstart.lua" and t.shared() .. "/covid-cxr" or nil)
    end)
  end
end
