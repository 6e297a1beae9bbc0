-- The metrics of run:compare against Quantus 0.6.0 and captum on the same sets, noise and maps, with MEDXAI_COMPARE_DIR
-- = a folder of compare_make.lua and compare.py (skipped without it; ./bootstrap parity compare). What the references
-- say where they do not agree with the right definition is printed.
local t = require "t"
local check = require "medxai.base.check"
local cjson = require "cjson"
local csv = require "medxai.base.csv"

local dir = os.getenv "MEDXAI_COMPARE_DIR"

-- Float32 passes of a few hundred terms; a rank decides by single pixels, an area by float64 sums alone.
local allowed = { faithfulness_correlation = 1e-5, faithfulness_estimate = 1e-5, infidelity = 1e-4,
  max_sensitivity = 1e-4, gini = 1e-5,
  entropy = 1e-5, relevance_rank_accuracy = 1e-12, energy_inside = 1e-6, pointing_game = 0 }

t.test("the comparison's metrics are those of Quantus and captum where these are right", function()
  if not dir then t.skip "MEDXAI_COMPARE_DIR is not set" end
  local ours, passed, failed, worst = {}, 0, {}, {}
  for _, row in ipairs(csv.read(dir .. "/scores.csv")) do
    ours[row.image_id .. " " .. row.method .. " " .. row.metric:match "^[%w_]+"
      .. (row.metric:find "predictions_changed" and "+" or "")] = tonumber(row.value)
  end
  local peers = cjson.decode(t.read(dir .. "/peers.json"))
  for _, row in ipairs(peers.rows) do
    local value = ours[row.image .. " " .. row.method .. " " .. row.metric]
    local off = value and math.abs(value - row.value) or math.huge
    local w = worst[row.metric] or { off = 0, n = 0, by = row.by }
    worst[row.metric] = w
    w.n, w.off = w.n + 1, math.max(w.off, off)
    if off <= allowed[row.metric] then passed = passed + 1
    else failed[#failed + 1] = ("%s of %s, image %s: %s here, %.9g by %s"):format(row.metric, row.method, row.image,
      tostring(value), row.value, row.by) end
  end
  for _, name in ipairs(check.sorted_keys(allowed)) do
    local bound = allowed[name]
    local w = worst[name]
    t.ok(w, "no value of " .. name)
    print(("  %-26s %3d values, largest difference %.2g (allowed %.0e): %s"):format(name, w.n, w.off, bound, w.by))
  end
  print "  what they say where the right answer is another:"
  for _, case in ipairs(peers.apart) do
    print(("    %s: %s (right: %s)"):format(case.case, type(case.says) == "table" and table.concat(case.says, " and ")
      or tostring(case.says), case.right))
  end
  print(("%d cells passed, %d failed, 0 without evidence"):format(passed, #failed))
  t.equal(#failed, 0, table.concat(failed, "\n"))
  t.ok(passed > 60, passed)
end)
