-- Grad-CAM at each network's CAM layer against pytorch-grad-cam 1.5.7, with MEDXAI_GRADCAM_DIR = what tests/reference/gradcam.py
-- wrote on this machine (skipped without it; MEDXAI_PARITY_NETWORKS = "resnet50,vgg19" chooses). Truth is the reference in
-- float64; a cell passes when ours (float32) is off by at most 1e-4 of the map's maximum, or 4 times the reference's own
-- float32 error on that image. Fails where a cell fails or a mutant passes; the last line counts the cells.
local t = require "t"
local host = require "medxai.host"
local map = require "medxai.map"
local store = require "medxai.store"
local tap = require "medxai.tap"
local target = require "medxai.target"
local torch = require "medxai.torch"
local xai = require "medxai"
local gradcam = require "medxai.explain.gradcam"

local dumps = os.getenv "MEDXAI_GRADCAM_DIR"
local only = os.getenv "MEDXAI_PARITY_NETWORKS"

local layers = {
  squeezenet1_0 = { "features.12" }, mobilenet_v2 = { "features.18" }, efficientnet_b0 = { "features.8" }, densenet121 = { "features.norm5" },
  resnet50 = { "layer4.2" }, inception_v3 = { "Mixed_7c.branch_pool" }, vgg19 = { "features.36", "features.28" },
}
local order = { "squeezenet1_0", "mobilenet_v2", "efficientnet_b0", "densenet121", "resnet50", "inception_v3", "vgg19" }
local classes = { "a", "b", "c" }
local count = { passed = 0, failed = 0, none = 0, mutants = 0, mutants_passed = 0 }

local function npy(name) return torch.load_npy(dumps .. "/" .. name .. ".npy") end

-- Maps (N, H, W) at one layer; change: what a mutant does.
local function ours(model, x, layer, compat, spec, change)
  local pass = tap.open(model, x, { layers = { layer }, gradients = { layer }, aliased = compat ~= nil })
  local items = {}
  for i = 1, x:size(0) do items[i] = {} end
  local fixed = target.fix(target.parse(spec, classes), pass.logits, items, classes)
  if change == "class" then
    for _, one in ipairs(fixed) do one.index = (one.index + 1) % 3 end
  end
  local ctx = {
    activation = function() return pass:activation(layer, compat) end,
    combine = function(_, product) return product:sum({ 1 }) end,
    gradient = function()
      local g = pass:gradient(layer, fixed)
      return change == "gradient" and g:flip({ 1 }) or g -- the channels turned round
    end,
  }
  return map.from_raw({ gradcam.map(ctx) }, x:size(2), x:size(3))
end

local function largest(m) return m:abs():flatten(1):amax({ 1 }):tolist() end

-- One line of the table: every image of one input kind, layer and form.
local function compare(label, made, prefix)
  local truth, single = npy(prefix .. ".64"), npy(prefix .. ".32")
  local tops, errors, own = largest(truth), largest(made:double() - truth), largest(single - truth)
  local worst, worst_own, verdict = 0, 0, { 0, 0, 0 }
  for i, top in ipairs(tops) do
    local relative, allowed = errors[i] / math.max(top, 1e-30), math.max(1e-4, 4 * own[i] / math.max(top, 1e-30))
    if top < 1e-3 then verdict[3] = verdict[3] + 1
    elseif relative <= allowed then verdict[1] = verdict[1] + 1
    else verdict[2] = verdict[2] + 1 end -- NaN lands here
    if top >= 1e-3 then worst, worst_own = math.max(worst, relative), math.max(worst_own, own[i] / top) end
  end
  print(("  %-44s %d passed %d failed %d no evidence  ours %.1e  reference's float32 %.1e"):format(label, verdict[1], verdict[2], verdict[3], worst, worst_own))
  return verdict
end

-- Ours in float64: only the reference's own rounding of the map to float32 is left.
local function strict(label, made, prefix)
  local truth = npy(prefix .. ".64")
  local worst = 0
  for i, top in ipairs(largest(truth)) do
    local error_here = largest(made:double() - truth)[i]
    if top >= 1e-3 then
      local good = error_here <= 1e-5
      count[good and "passed" or "failed"] = count[good and "passed" or "failed"] + 1
      worst = math.max(worst, error_here)
    end
  end
  print(("  %-44s ours %.1e (allowed 1e-5)"):format(label, worst))
end

local function cell(label, made, prefix)
  local v = compare(label, made, prefix)
  count.passed, count.failed, count.none = count.passed + v[1], count.failed + v[2], count.none + v[3]
end

-- A mutant fails its table when at least one image with evidence is off.
local function mutant(label, made, prefix)
  local v = compare("mutant: " .. label, made, prefix)
  if v[1] + v[2] == 0 then return end
  count.mutants = count.mutants + 1
  if v[2] == 0 then count.mutants_passed = count.mutants_passed + 1 end
end

-- The coloured, non-square picture through our own reader is bit for bit what Pillow and torchvision made of it.
local function read_made(name, model)
  local scope <close> = xai.scope()
  local side = model.size_px
  local data = xai.dataset.files { dumps .. "/" .. name .. "/made.png", size_px = side, resize_px = side }
  local off = (data.test:batch({ 1 }).x:select(0, 0) - npy(name .. "/square.x")[-1]):abs():max():item()
  count[off == 0 and "passed" or "failed"] = count[off == 0 and "passed" or "failed"] + 1
  print(("  %-44s differs by %g"):format("reader, 320 x 211 in colour", off))
end

local function one_input(name, model, kind)
  local scope <close> = xai.scope()
  local x = npy(name .. "/" .. kind .. ".x")
  for _, layer in ipairs(layers[name]) do
    local prefix = name .. "/" .. kind .. "." .. layer
    cell(kind .. " " .. layer, ours(model, x, layer, nil, "predicted"), prefix .. ".out")
    cell(kind .. " " .. layer .. " class 1", ours(model, x, layer, nil, 1), prefix .. ".class1")
    cell(kind .. " " .. layer .. " compat", ours(model, x, layer, "pytorch-grad-cam", "predicted"), prefix .. ".asis")
    if kind == "square" then
      model:to { dtype = "float64" }
      strict(kind .. " " .. layer .. " in float64", ours(model, x:double(), layer, nil, "predicted"), prefix .. ".out")
      model:to { dtype = "float32" }
      mutant("class shifted by one", ours(model, x, layer, nil, "predicted", "class"), prefix .. ".out")
      mutant("gradient of other channels", ours(model, x, layer, nil, "predicted", "gradient"), prefix .. ".out")
    end
  end
end

local function one_network(name)
  local f = io.open(dumps .. "/" .. name .. "/info.json")
  if not f then
    print(name .. ": no finished dump in " .. dumps)
    count.failed = count.failed + 1
    return
  end
  f:close()
  local scope <close> = xai.scope()
  print(name)
  local model = xai.models[name] { classes = classes, head = "torchvision", layout = "nchw", train_depth = "all" }
  local path = dumps .. "/" .. name .. "/weights.pt"
  model:load_state(store.load(path).tensors, { what = path })
  model:eval()
  read_made(name, model)
  one_input(name, model, "square")
  one_input(name, model, "wide")
  if host.interrupted() then error("interrupted", 0) end
end

t.test("Grad-CAM of the seven networks equals pytorch-grad-cam's", function()
  if not dumps then t.skip "MEDXAI_GRADCAM_DIR is not set" end
  for _, name in ipairs(order) do
    if not only or only:find(name, 1, true) then one_network(name) end
  end
  print(("mutants: %d, of which %d passed where they must fail"):format(count.mutants, count.mutants_passed))
  print(("%d cells passed, %d failed, %d without evidence"):format(count.passed, count.failed, count.none))
  t.ok(count.failed == 0 and count.mutants_passed == 0 and count.mutants > 0, "the table above has failures")
end)
