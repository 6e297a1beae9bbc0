-- medxai-run tests/reference/compare_make.lua OUT: what compare.py judges with Quantus and captum: a tiny network, its
-- images, maps, sets of regions and noisy images, and our scores (scores.csv). Nothing of it is kept in the repository.
local host = require "medxai.host"
package.path = host.script_dir .. "/../?.lua;" .. package.path -- luacheck: ignore
local canon = require "medxai.base.json"
local core = require "medxai.core"
local explain = require "medxai.steps.explain"
local files = require "medxai.base.files"
local perturbed = require "medxai.score.perturbed"
local tiny = require "tinyexplain"
local torch = require "medxai.torch"

local out = ...
local n, draws, radius = 6, 10, 0.02
host.options.quiet = true

files.remove_all(out)
files.mkdir(out)
local model, split = tiny.model(), tiny.split(n)
for _, entry in ipairs(model:state()) do torch.save_npy(out .. "/" .. entry.name .. ".npy", entry.tensor:detach()) end
local numbers, sets, ids = {}, {}, canon.list {}
for i = 1, n do numbers[i] = i end
local x = split:batch(numbers).x
torch.save_npy(out .. "/x.npy", x)
for i = 1, n do
  local id = split:item(i).id
  ids[i], sets[id] = id, perturbed.sets(42, id, 64, { sets = 200, share = 0.2 })
  local noisy = {}
  for k = 1, draws do
    local stream = core.rng.stream { seed = 42, purpose = "sensitivity@1", id = id, replicate = k }
    local noise = ((stream:uniform(32 * 32) * 2 - 1) * radius):view { 1, 32, 32 }
    noisy[k] = (x:select(0, i - 1):to { dtype = "float64" } + noise):clamp(0, 1):to { dtype = "float32" }
  end
  torch.save_npy(out .. "/" .. id .. ".noisy.npy", torch.stack(noisy, 0))
  local mask = split:mask(i, "lesion")
  if mask then torch.save_npy(out .. "/" .. id .. ".mask.npy", mask) end
end
-- A map in which no two pixels tie: Quantus takes those of the sorted map.
local slope = torch.arange(32 * 32, { dtype = "float32" }):view { 32, 32 } / 1024
local function ramp(image) return image:mean { 1 }:squeeze(0) + slope end
local result = explain.run(tiny.run(out), model, split, { methods = { "saliency", "smoothgrad", "gradcam",
  ramp = ramp }, images = "all",
  target = 0, mask = "lesion", figures = false, metrics = {
    { "faithfulness_correlation", hide = "black" },
    { "faithfulness_estimate", hide = "black", regions = { "grid", rows = 32, columns = 32 } },
    { "infidelity", hide = "black" }, { "max_sensitivity", draws = draws, radius = radius }, "gini", "entropy",
      "effective_area",
    "relevance_rank_accuracy", "energy_inside", { "pointing_game", margin_px = 0 } } })
files.write_data(out .. "/make.json", { ids = ids, sets = sets, maps = (function()
  local list = {}
  for i, s in ipairs(result.statuses) do list[i] = { method = s.method, set = s.maps } end
  return canon.list(list)
end)() })
