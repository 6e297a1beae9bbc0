-- CAM metrics, Sobel maps and masks, and the pictures of guided backprop against pytorch-grad-cam 1.5.7, with
-- MEDXAI_CAM_SCORES_DIR
-- = what tests/reference/cam_scores.py wrote and MEDXAI_GRADCAM_DIR = what gradcam.py did (skipped without them). Truth
-- is the network in float64 on the reference's images (noise 0). A cell is one number: it passes when ours (float32) is
-- off by at most 1e-4 of the spread of the image's logits (of 1, for a probability), or 4 times the reference's own
-- float32 error on that image; where the truth is below 1e-4 of that spread there is no evidence. Fails where a cell
-- fails or a mutant passes; the last line counts the cells.
local t = require "t"
local canon = require "medxai.base.json"
local contexts = require "medxai.score.context"
local figure = require "medxai.show.figure"
local host = require "medxai.host"
local measure = require "medxai.score.measure"
local metric = require "medxai.score.registry"
local ranking = require "medxai.perturb.pixel_order"
local store = require "medxai.nn.checkpoint"
local torch = require "medxai.torch"
local xai = require "medxai"

local dumps, gradcam = os.getenv "MEDXAI_CAM_SCORES_DIR", os.getenv "MEDXAI_GRADCAM_DIR"
local only = os.getenv "MEDXAI_PARITY_NETWORKS"
local order = { "squeezenet1_0", "mobilenet_v2", "efficientnet_b0", "densenet121", "resnet50", "inception_v3", "vgg19" }
local cam_layer = { squeezenet1_0 = "features.12", mobilenet_v2 = "features.18", efficientnet_b0 = "features.8",
  densenet121 = "features.norm5", resnet50 = "layer4.2", inception_v3 = "Mixed_7c.branch_pool", vgg19 = "features.36" }
local classes = { "a", "b", "c" }
local percentiles = { 20, 25, 40, 50, 60, 75, 80, 90 }
local count = { passed = 0, failed = 0, none = 0, mutants = 0, mutants_passed = 0 }

local function npy(folder, name, file) return torch.load_npy(folder .. "/" .. name .. "/" .. file .. ".npy") end

-- ---- ours ---------------------------------------------------------------------------------------------------------

-- Every number of one image and map, by the names of the dump.
local function ours(model, x, map, class, compat)
  local scope <close> = xai.scope()
  local split = { n = 1, name = "test" }
  function split.item() return { id = "00000000000000aa", path = "image" } end
  function split.batch() return { x = x } end
  local job = { model = model, split = split, run = { seed = 42 }, compat = compat,
    scorer = require("medxai.perturb.scorer").new(model) }
  local subject <close> = contexts.subject(job, 1)
  local kept, out = {}, {}
  local function ask(value)
    local m = metric.entries({ value }, nil, compat)[1]
    local record = { status = "ok", image_id = "00000000000000aa", maps = "map",
      target = { kind = "class", as = "logit", class = classes[class + 1], index = class } }
    local list = {}
    for i, r in ipairs(measure(m, map, contexts.new(subject, map, record, m, kept))) do list[i] = r.value end
    return list
  end
  for _, as in ipairs { "logit", "softmax" } do
    for _, name in ipairs { "confidence_change", "confidence_drop", "confidence_increase" } do
      out[as .. " " .. name] = ask({ name, as = as })[1]
    end
    for _, which in ipairs { "most", "least" } do
      local list = ask { "road_" .. which .. "_relevant_first", percentiles = percentiles, removal = "noisy_linear(0)",
        as = as }
      for i, p in ipairs(percentiles) do out[("%s %s %d"):format(as, which, p)] = list[i] end
    end
    for _, list in ipairs { { 25, 50, 75 }, { 20, 40, 60, 80 } } do
      out[("%s combined %s"):format(as, table.concat(list, ","))] =
        ask({ "road_combined", percentiles = list, removal = "noisy_linear(0)", as = as })[1]
    end
  end
  local logits = subject:original()
  return out, math.max(table.unpack(logits)) - math.min(table.unpack(logits))
end

local function below(model, x, edges, class)
  local out = {}
  for _, p in ipairs { 25, 50, 75, 90 } do
    local mask = ranking.below(edges, p, "most"):to { dtype = "float32" }
    out["sobel below " .. p] = ours(model, x, mask, class, "pytorch-grad-cam")["softmax confidence_change"]
  end
  return out, 1
end

-- ---- the table ----------------------------------------------------------------------------------------------------

local function kind_of(name) return name:find("^logit") and "logit" or "softmax" end

-- passed, failed, none of one image and map.
local function verdict(cell, made, spread)
  local v, worst, own = { 0, 0, 0 }, 0, 0
  local theirs, scale = { logit = 0, softmax = 0 }, { logit = spread, softmax = 1 }
  for name, truth in pairs(cell.truth) do -- counts do not depend on the order
    theirs[kind_of(name)] = math.max(theirs[kind_of(name)], math.abs(cell.reference[name] - truth))
  end
  for name, truth in pairs(cell.truth) do
    local kind = kind_of(name)
    local off = math.abs(made[name] - truth)
    if math.abs(truth) < 1e-4 * scale[kind] then v[3] = v[3] + 1
    elseif off <= math.max(1e-4 * scale[kind], 4 * theirs[kind]) then v[1] = v[1] + 1
    else v[2] = v[2] + 1 end -- NaN lands here
    if math.abs(truth) >= 1e-4 * scale[kind] then
      worst, own = math.max(worst, off / scale[kind]), math.max(own, theirs[kind] / scale[kind])
    end
  end
  return v, worst, own
end

local function report(label, cells, make)
  local sum, worst, own = { 0, 0, 0 }, 0, 0
  for _, cell in ipairs(cells) do
    local made, spread = make(cell)
    local v, w, o = verdict(cell, made, spread)
    for k = 1, 3 do sum[k] = sum[k] + v[k] end
    worst, own = math.max(worst, w), math.max(own, o)
  end
  print(("  %-44s %d passed %d failed %d no evidence  ours %.1e  reference's float32 %.1e"):format(label, sum[1],
    sum[2], sum[3], worst, own))
  return sum
end

local function cells_of(label, cells, make)
  local v = report(label, cells, make)
  count.passed, count.failed, count.none = count.passed + v[1], count.failed + v[2], count.none + v[3]
end

local function mutant(label, cells, make)
  local v = report("mutant: " .. label, cells, make)
  count.mutants = count.mutants + 1
  if v[2] == 0 then count.mutants_passed = count.mutants_passed + 1 end
end

local function equal(label, made, expected, allowed)
  local off = (made:to { dtype = "float64" } - expected:to { dtype = "float64" }):abs():max():item()
  count[off <= allowed and "passed" or "failed"] = count[off <= allowed and "passed" or "failed"] + 1
  print(("  %-44s differs by %g"):format(label, off))
end

-- Sobel maps of the images as 8-bit pixels, and what guided backprop looks like.
local function pictures(name, x)
  local sobel = require "medxai.explain.methods.sobel"
  equal("Sobel maps", sobel.map { count = x:size(0), image = function() return x end }, npy(dumps, name, "sobel"), 0)
  local gradient, cam = npy(dumps, name, "guided"),
    npy(gradcam, name, "square." .. cam_layer[name] .. ".asis.32"):select(0, 0)
  local function grey(map)
    local p = figure.detail(map)
    return torch.from_string(p.rgb, "uint8", { p.rows, p.columns, 3 }):select(2, 0)
  end
  equal("guided backprop's picture, in grey levels", grey(gradient), npy(dumps, name, "guided_picture"), 1)
  equal("product's picture, in grey levels", grey(cam:to { dtype = "float32" } * gradient),
    npy(dumps, name, "product_picture"), 1)
end

local function one_network(name)
  local path = dumps .. "/" .. name .. "/scores.json"
  local f = io.open(path)
  if not f then
    print(name .. ": no finished dump in " .. dumps)
    count.failed = count.failed + 1
    return
  end
  local table_ = canon.read(f:read "a", path)
  f:close()
  local scope <close> = xai.scope()
  print(name)
  local model = xai.models[name] { classes = classes, head = "torchvision", layout = "nchw", train_depth = "all" }
  local weights = gradcam .. "/" .. name .. "/weights.pt"
  model:load_state(store.load(weights).tensors, { what = weights })
  model:eval()
  local x = npy(gradcam, name, "square.x")
  local maps = { ["Grad-CAM"] = npy(gradcam, name, "square." .. cam_layer[name] .. ".asis.32"):to { dtype = "float32" },
    formula = npy(dumps, name, "formula"), Sobel = npy(dumps, name, "sobel") }
  local function image(cell) return x:narrow(0, cell.image, 1) end
  local function map_of(cell) return cell.map == "formula" and maps.formula or maps[cell.map]:select(0, cell.image) end
  local by_map = { ["Grad-CAM"] = {}, formula = {}, Sobel = {} }
  for _, cell in ipairs(table_) do table.insert(by_map[cell.map], cell) end
  cells_of("metrics of Grad-CAM, compat", by_map["Grad-CAM"],
    function(c) return ours(model, image(c), map_of(c), c.class, "pytorch-grad-cam") end)
  cells_of("metrics of a map without ties, compat", by_map.formula,
    function(c) return ours(model, image(c), map_of(c), c.class, "pytorch-grad-cam") end)
  cells_of("metrics of a map without ties, as they are", by_map.formula,
    function(c) return ours(model, image(c), map_of(c), c.class) end)
  cells_of("Sobel masks below percentiles", by_map.Sobel,
    function(c) return below(model, image(c), map_of(c), c.class) end)
  mutant("class shifted by one", by_map.formula, function(c)
    return ours(model, image(c), map_of(c), (c.class + 1) % 3)
  end)
  mutant("map turned round", by_map.formula, function(c)
    return ours(model, image(c), map_of(c):flip({ 0, 1 }):contiguous(), c.class)
  end)
  mutant("most and least exchanged", by_map.formula,
    function(c) return ours(model, image(c), map_of(c):neg():add(1), c.class) end)
  pictures(name, x)
  if host.interrupted() then error("interrupted", 0) end
end

t.test("metrics, Sobel and guided pictures of the seven networks equal pytorch-grad-cam's", function()
  if not dumps or not gradcam then t.skip "MEDXAI_CAM_SCORES_DIR or MEDXAI_GRADCAM_DIR is not set" end
  for _, name in ipairs(order) do
    if not only or only:find(name, 1, true) then one_network(name) end
  end
  print(("mutants: %d, of which %d passed where they must fail"):format(count.mutants, count.mutants_passed))
  print(("%d cells passed, %d failed, %d without evidence"):format(count.passed, count.failed, count.none))
  t.ok(count.failed == 0 and count.mutants_passed == 0 and count.mutants > 0, "the table above has failures")
end)
