-- Maps of exported networks beside those of pytorch-grad-cam (with its reshape_transform), captum and the attention
-- methods' equations written out in Python (tests/reference/exported.py): what exported_maps.lua and
-- parity_exported.lua share.
local t = require "t"
local core = require "medxai.core"
local explain = require "medxai.steps.explain"
local maps = require "medxai.explain.map"
local mapstore = require "medxai.explain.store"
local tiny = require "tinyexplain"
local xai = require "medxai"

local exportedmaps = {}

local target = 1
-- As pytorch-grad-cam has them: activations after a rectifier in place (TorchXRayVision's), ablated channels filled as
-- there.
local compat = { gradcam = true, layercam = true, eigencam = true, ablationcam = true }
local raw = { integrated_gradients = true, attention_rollout = true, gradient_attention_rollout = true,
  generic_attention = true, legrad = true }

local function sorted(map)
  local names = {}
  for name in pairs(map) do names[#names + 1] = name end
  table.sort(names)
  return names
end

-- The largest difference over the reference's largest number.
local function distance(made, wanted)
  return (made:double() - wanted:double()):abs():max():item() / wanted:abs():max():item()
end

-- A principal component has no sign of its own: the reference's is LAPACK's, which another LAPACK gives otherwise.
local function either_sign(store, record, wanted)
  local raw_map, shape = store:raws(record)[1], wanted.shape
  local worst
  for _, sign in ipairs { 1, -1 } do
    local d = distance(maps.from_raw({ raw_map:unsqueeze(0) * sign }, shape[1], shape[2]):squeeze(0), wanted)
    worst = math.min(worst or d, d)
  end
  return worst
end

--- name of a method -> the largest difference to the reference, relative to the largest number of it.
---@param path string of the .pt2
---@param want table what lies beside it
---@param layer? string instead of the reference's: for mutants
function exportedmaps.distances(path, want, layer)
  local scope <close> = core.memory.scope() -- luacheck: ignore
  local model <close> = xai.models.exported { file = path, dtype = "float64", layout = "nchw", seed = 1 }:eval()
  local split, found = tiny.tensor_split(want.x:double(), model.classes), {}
  for _, form in ipairs { "ours", "compat" } do
    local methods = {}
    for _, name in ipairs(sorted(want.maps)) do
      if (form == "compat") == (compat[name] or false) then
        methods[#methods + 1] = name == "integrated_gradients" and { name, steps = 20 } or name
      end
    end
    if #methods > 0 then
      local dir = t.tmpdir()
      local result = explain.run(tiny.run(dir), model, split,
        { methods = methods, layer = layer or want.layer, target = target, images = "all",
        figures = false, compat = form == "compat" and "pytorch-grad-cam" or nil })
      local store = mapstore.open(dir)
      for i, record in ipairs(result.records) do
        t.equal(record.problem, nil)
        local wanted = want.maps[record.method]:select(0, (i - 1) // #methods)
        local made = raw[record.method] and store:raws(record)[1] or store:map(record)
        local d = record.method == "eigencam" and either_sign(store, record, wanted)
          or distance(made:reshape(wanted.shape), wanted)
        found[record.method] = math.max(found[record.method] or 0, d)
      end
    end
  end
  return found
end

--- The names of the methods that a reference holds.
function exportedmaps.methods(want) return sorted(want.maps) end

return exportedmaps
