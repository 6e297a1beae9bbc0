-- All CAMs, plain and smoothed, guided backprop and the attributions at the input, on the seven networks, with
-- MEDXAI_CAM_DIR = what tests/reference/cam.py and attributions.py wrote and MEDXAI_GRADCAM_DIR = what gradcam.py did
-- (skipped without them; MEDXAI_PARITY_NETWORKS = "resnet50,vgg19" chooses). Maps are those that run:explain writes.
-- Truth is the reference in float64; a cell, one map of one image, passes when ours (float32) is off by at most 1e-4 of
-- its maximum, or 4 times the reference's own float32 error. FullGrad, guided backprop and inner layers, whose
-- gradients jump at many ReLUs: relative L2 and 99.9th percentile instead, and the reference's own error is its largest
-- on that network, NCHW or channels_last, since which image meets a kink is chance; in float64 they agree to 1e-5 like
-- the rest. Principal components are compared before the ReLU up to sign (Ablation-CAM's by default up to scale, which
-- compat divides by, there and for XGrad-CAM with the reference's largest own error on that network, since a divisor
-- near 0 makes it large), maps with the reference's signs; where two singular values are closer than 0.98 the cell is
-- ill-conditioned. The own error of an image's components is the largest over its views, which float32 meets by chance.
-- A flat reference is no evidence, nor is one whose own error is so large that an answer of zeros would pass. Fails
-- where a cell fails or a mutant passes; the last line counts the cells.
local t = require "t"
local tiny = require "tinyexplain"
local batches = require "medxai.explain.runner"
local canon = require "medxai.base.json"
local core = require "medxai.core"
local explain = require "medxai.steps.explain"
local host = require "medxai.host"
local map = require "medxai.explain.map"
local mapstore = require "medxai.explain.store"
local store = require "medxai.nn.checkpoint"
local torch = require "medxai.torch"
local xai = require "medxai"

local dumps, trained = os.getenv "MEDXAI_CAM_DIR", os.getenv "MEDXAI_GRADCAM_DIR"
local only = os.getenv "MEDXAI_PARITY_NETWORKS"
local order = { "squeezenet1_0", "mobilenet_v2", "efficientnet_b0", "densenet121", "resnet50", "inception_v3", "vgg19" }
local classes = { "a", "b", "c" }
local no_class = { eigencam = true, randomcam = true }
local count = { passed = 0, failed = 0, none = 0, ill = 0, mutants = 0, mutants_passed = 0, signs = 0, signs_equal = 0 }
local evidence = {} -- method -> network -> true

local function npy(...) return torch.load_npy(table.concat({ ... }, "/") .. ".npy") end

-- ---- running ours ---------------------------------------------------------------------------------------------------

-- Explains images (N, 3, H, W) by entries; gives records[entry][image] and the store.
local function run(model, images, entries, options)
  local dir = t.tmpdir()
  local o = { methods = entries, images = "all", figures = false }
  for k, v in pairs(options or {}) do o[k] = v end
  local result = explain.run(tiny.run(dir), model, tiny.tensor_split(images, classes), o)
  local records = {}
  for i = 1, images:size(0) do
    for k = 1, #entries do
      records[k] = records[k] or {}
      records[k][i] = result.records[(i - 1) * #entries + k]
    end
  end
  return records, mapstore.open(dir)
end

-- ---- judging one image ----------------------------------------------------------------------------------------------

local function largest(v) return v:abs():max():item() end
local function percentile(v) -- 99.9th, of |v|
  local sorted = v:abs():flatten():sort()
  return sorted:select(0, math.floor(0.999 * (sorted:numel() - 1))):item()
end

-- The errors of a against truth, relative: one number, or two for what is compared roughly.
local function errors(a, truth, is_rough)
  local d, top = a:double() - truth, largest(truth)
  if not is_rough then return { largest(d) / top } end
  return { (d:norm() / truth:norm()):item(), percentile(d) / top }
end

local function zeros_pass(own) return 4 * own[1] >= 1 end -- the error of zeros is 1

-- "passed", "failed" or "none", our error and the reference's own. rough: the reference's largest errors where
-- gradients jump, nil elsewhere.
local function verdict(ours, truth, single, rough)
  if not (largest(truth) >= 1e-3 or rough and largest(truth) > 1e-30) then return "none" end
  local off, own = errors(ours, truth, rough), rough or errors(single, truth)
  if zeros_pass(own) then return "none" end
  local good = true
  for k = 1, #off do good = good and off[k] <= math.max(1e-4, 4 * own[k]) end -- NaN fails
  return good and "passed" or "failed", off[1], own[1]
end

-- Lines of the table: what is added up under one label.
local Line = {}
Line.__index = Line

local function new_line(label)
  return setmetatable({ label = label, passed = 0, failed = 0, none = 0, ill = 0, worst = 0, own = 0 }, Line)
end

function Line:add(word, off, own)
  self[word] = self[word] + 1
  if off and not (off <= self.worst) then self.worst, self.own = off, own end
end

function Line:print()
  print(("  %-58s %3d passed %2d failed %2d no evidence %2d ill-conditioned  ours %.1e  reference's "
    .. "float32 %.1e"):format(self.label, self.passed, self.failed,
    self.none, self.ill, self.worst, self.own))
  for _, word in ipairs { "passed", "failed", "none", "ill" } do count[word] = count[word] + self[word] end
end

-- A mutant fails where every image with evidence is off.
local function mutant(label, verdicts)
  local with, failed = 0, 0
  for _, v in ipairs(verdicts) do
    if v ~= "none" then with = with + 1 end
    if v == "failed" then failed = failed + 1 end
  end
  if with == 0 then return end
  count.mutants = count.mutants + 1
  if failed < with then
    count.mutants_passed = count.mutants_passed + 1
    print("  mutant passes: " .. label)
  end
end

-- ---- principal components -------------------------------------------------------------------------------------------

-- v turned as `as` is, call by call: (calls, h, w); with scale also stretched to it.
local function turned(v, as, scale)
  local product = (v * as):sum({ 1, 2 }, true)
  if scale then return v * (product / (v * v):sum({ 1, 2 }, true)) end
  return v * torch.where(product:lt(0), -torch.ones_like(product), torch.ones_like(product))
end

local function map_of_components(v, record, height, width, method, compat)
  local raw = record.views and v:unsqueeze(0) or v
  return map.from_raw({ raw:contiguous() }, height, width,
    { views = batches.views, cut = method.cut, once = method.once,
    compat = compat or nil }):squeeze(0)
end

local function larger(a, b)
  local out = {}
  for k, v in ipairs(a) do out[k] = math.max(v, b[k]) end
  return out
end

-- The reference's own errors of image i's components: the largest over those that count (all, where nothing says).
local function own_of_components(dumped, i, scaled, counts)
  local truth, single = dumped.projections:select(0, i - 1):double(),
    dumped.single_projections:select(0, i - 1):double()
  local own = scaled and { 0, 0 } or { 0 }
  for k = 1, truth:size(0) do
    local their = truth:narrow(0, k - 1, 1)
    if not counts or counts(k, their) then
      own = larger(own, errors(turned(single:narrow(0, k - 1, 1), their), their, scaled))
    end
  end
  return own
end

-- Projections and the map made of them with the reference's signs.
local function judge_components(lines, cell, i, record, maps, truth_map, dumped)
  local truth, single = dumped.projections:select(0, i - 1):double(),
    dumped.single_projections:select(0, i - 1):double()
  local raw = maps:raws(record)[1]
  local ours = raw:view({ -1, raw:size(-2), raw:size(-1) }):double()
  local function is_told_apart(k, their) return cell.ratios[i][k] <= 0.98 and largest(their) > 0 end
  local theirs = cell.rough_components or own_of_components(dumped, i, cell.rough, is_told_apart)
  for k, ratio in ipairs(cell.ratios[i]) do
    local own, their = ours:narrow(0, k - 1, 1), truth:narrow(0, k - 1, 1)
    if ratio > 0.98 then lines.components:add "ill"
    elseif largest(their) == 0 or zeros_pass(theirs) then lines.components:add "none"
    else
      local scale = cell.method == "ablationcam" and not cell.compat
      local off = errors(turned(own, their, scale), their, cell.rough)
      lines.components:add(off[1] <= math.max(1e-4, 4 * theirs[1]) and "passed" or "failed", off[1], theirs[1])
      if cell.form == "asis" and cell.compat then
        count.signs = count.signs + 1
        if (own * their):sum():item() > 0 then count.signs_equal = count.signs_equal + 1 end
      end
    end
  end
  if math.max(table.unpack(cell.ratios[i])) > 0.98 then return "ill" end
  local method = require("medxai.explain.methods." .. cell.method)
  local height, width = truth_map:size(0), truth_map:size(1)
  local made = map_of_components(turned(ours, truth), record, height, width, method, cell.compat)
  local their_single = map_of_components(turned(single, truth), record, height, width, method, cell.form == "asis")
  return verdict(made, truth_map, their_single, cell.rough)
end

-- Where the method divides by a number that may be near 0: compat Ablation-CAM by the score, XGrad-CAM by a channel's
-- sum.
local function divides(cell)
  return cell.method == "ablationcam" and cell.form == "asis" or cell.method == "xgradcam"
end

-- The largest own errors of components on this network of methods that divide: the nearer to 0 one comes, the larger,
-- whichever view that is.
local function find_divided(folder, cells, load)
  local largest_of = {}
  for _, cell in ipairs(cells) do
    local scope <close> = core.memory.scope()
    local dumped = divides(cell) and load(folder, cell) or {}
    local key = cell.method .. cell.form
    for i = 1, dumped.projections and #cell.images or 0 do
      largest_of[key] = larger(largest_of[key] or { 0 }, own_of_components(dumped, i))
    end
  end
  for _, cell in ipairs(cells) do
    if divides(cell) then cell.rough_components = largest_of[cell.method .. cell.form] end
  end
end

-- The reference's largest own errors on this network, for the cells whose gradients jump: of maps and of components.
local function find_rough(model, folder, cells, load)
  local by_key = {}
  local function key(cell)
    if cell.method == "fullgrad" then return "fullgrad" end
    return cell.layers[1] ~= model.cam_layer and cell.layers[1] or nil
  end
  for _, cell in ipairs(cells) do
    if key(cell) then
      local scope <close> = core.memory.scope()
      local found = by_key[key(cell)] or { maps = { 0, 0 }, components = { 0, 0 } }
      by_key[key(cell)] = found
      for _, bits in ipairs { "32", "32cl" } do
        local dumped = load(folder, cell, bits)
        for i = 1, #cell.images do
          if dumped.projections then
            found.components = larger(found.components, own_of_components(dumped, i, true))
          else
            found.maps = larger(found.maps, errors(dumped.single:select(0, i - 1), dumped.truth:select(0, i - 1), true))
          end
        end
      end
    end
  end
  for _, cell in ipairs(cells) do
    local found = key(cell) and by_key[key(cell)]
    if found then cell.rough, cell.rough_components = larger(found.maps, found.components), found.components end
  end
  find_divided(folder, cells, load)
end

-- ---- groups of cells ------------------------------------------------------------------------------------------------

local function entry_of(cell)
  local aug, eigen = cell.smoothing == "aug" or cell.smoothing == "both",
    cell.smoothing == "eigen" or cell.smoothing == "both"
  local e = { cell.method, aug_smooth = aug }
  if cell.method ~= "eigencam" and cell.method ~= "eigengradcam" then e.eigen_smooth = eigen end
  if cell.method ~= "fullgrad" then e.layer = canon.list(cell.layers) end
  return e
end

-- bits: "32", or "32cl" for the reference in channels_last
local function load(folder, cell, bits)
  local base = folder .. "/" .. cell.key
  bits = bits or "32"
  local dumped = { truth = npy(base .. ".64"):double(), single = npy(base .. "." .. bits) }
  local f = io.open(base .. ".64.projections.npy")
  if f then
    f:close()
    dumped.projections, dumped.single_projections = npy(base .. ".64.projections"),
      npy(base .. "." .. bits .. ".projections")
  end
  return dumped
end

-- All cells of one kind of input, list of images and form; `as`: in which form ours is run.
local function run_group(model, name, folder, images, cells, as)
  local scope <close> = core.memory.scope()
  local entries = {}
  for k, cell in ipairs(cells) do entries[k] = entry_of(cell) end
  local records, maps = run(model, images, entries, { compat = as == "asis" and "pytorch-grad-cam" or nil })
  for k, cell in ipairs(cells) do
    cell.compat = as == "asis"
    local dumped = load(folder, cell)
    local what = table.concat({ cell.method, cell.smoothing, cell.kind, as == "asis" and "compat" or "default" }, " ")
    if cell.layers[1] ~= model.cam_layer then what = what .. " " .. cell.layers[1] end
    local lines, flipped = { map = new_line(what), components = new_line(what .. ", components") }, {}
    for i = 1, #cell.images do
      local record, truth = records[k][i], dumped.truth:select(0, i - 1)
      local word, off, own
      if dumped.projections then
        word, off, own = judge_components(lines, cell, i, record, maps, truth, dumped)
      else
        local ours = maps:map(record)
        word, off, own = verdict(ours, truth, dumped.single:select(0, i - 1), cell.rough)
        flipped[#flipped + 1] = verdict(ours:flip({ 0, 1 }), truth, dumped.single:select(0, i - 1), cell.rough)
      end
      lines.map:add(word, off, own)
      if word == "passed" then
        evidence[cell.method] = evidence[cell.method] or {}
        evidence[cell.method][name] = true
      end
    end
    lines.map:print()
    if dumped.projections then lines.components:print() end
    if cell.smoothing == "plain" then mutant(what .. " turned by half a circle", flipped) end
  end
end

-- Cells by input and images, in the order of the dump; out: the cells of the form with rectifiers out of place, and
-- those of the other where the two cannot differ.
local function groups_of(cells, form)
  local has_out, groups, order_ = {}, {}, {}
  local function id(cell)
    return table.concat({ cell.method, cell.kind, cell.smoothing, table.concat(cell.layers, "+") }, " ")
  end
  for _, cell in ipairs(cells) do has_out[id(cell)] = has_out[id(cell)] or cell.form == "out" end
  for _, cell in ipairs(cells) do
    local wanted = form == "asis" and cell.form == "asis" or form == "out"
      and (cell.form == "out" or not has_out[id(cell)] and cell.method ~= "randomcam")
    if wanted then
      local key = cell.kind .. " " .. table.concat(cell.images, ",")
      if not groups[key] then order_[#order_ + 1] = key end
      groups[key] = groups[key] or {}
      table.insert(groups[key], cell)
    end
  end
  return groups, order_
end

-- ---- other tables ---------------------------------------------------------------------------------------------------

-- Class index shifted by one: every method that knows a class must fail.
local function class_mutants(model, name, folder, inputs, cells)
  local scope <close> = core.memory.scope()
  for _, kind in ipairs { "square", "small" } do
    local entries, chosen = {}, {}
    for _, cell in ipairs(cells) do
      local usual = cell.kind == kind and cell.smoothing == "plain" and cell.form == "asis"
        and not no_class[cell.method] and cell.layers[1] == model.cam_layer
      if usual then entries[#entries + 1], chosen[#chosen + 1] = entry_of(cell), cell end
    end
    local x = inputs[kind]:narrow(0, 0, 1)
    local predicted = torch.no_grad(model, x):argmax(1):item()
    local records, maps = run(model, x, entries, { compat = "pytorch-grad-cam", target = (predicted + 1) % 3 })
    for k, cell in ipairs(chosen) do
      local dumped = load(folder, cell)
      if not dumped.projections then
        mutant(name .. " " .. cell.method .. ", another class",
          { (verdict(maps:map(records[k][1]), dumped.truth:select(0, 0), dumped.single:select(0, 0), cell.rough)) })
      end
    end
  end
end

local function guided_table(model, name, folder, inputs)
  for _, kind in ipairs { "square", "wide" } do
    for _, form in ipairs { "guided", "guided_all" } do
      local compat = form == "guided" and "pytorch-grad-cam" or nil
      local scope <close> = core.memory.scope()
      local records, maps = run(model, inputs[kind], { "guided_backprop" }, { compat = compat })
      if form == "guided_all" and name == "efficientnet_b0" then
        for _, record in ipairs(records[1]) do t.equal(record.status, "not_defined") end
      else
        local truth, single = npy(folder, form .. "." .. kind .. ".64"):double(),
          npy(folder, form .. "." .. kind .. ".32")
        local own = { 0, 0 }
        for i = 1, truth:size(0) do own = larger(own, errors(single:select(0, i - 1), truth:select(0, i - 1), true)) end
        local line, flipped = new_line(("guided_backprop %s %s"):format(kind, compat and "compat" or "default")), {}
        for i, record in ipairs(records[1]) do
          local raw = maps:raws(record)[1]
          line:add(verdict(raw, truth:select(0, i - 1), single:select(0, i - 1), own))
          flipped[i] = verdict(raw:flip({ 0, 1 }), truth:select(0, i - 1), single:select(0, i - 1), own)
        end
        line:print()
        mutant(name .. " " .. line.label .. " turned by half a circle", flipped)
      end
    end
  end
end

-- The noise of attributions.py in the place of the keyed one.
local function recorded_noise(shape)
  local size = shape[2] * shape[3] * shape[4]
  local k = torch.arange(25 * size, { dtype = "float64" })
  local all, own = 2 ^ 0.5 * torch.sin(k * 0.7 + 0.3 * torch.sin(k * 0.013)) * torch.cos(k * 1.3), core.rng.stream
  core.rng.stream = function(key)
    return { normal = function() return all:narrow(0, key.replicate * size, size) end }
  end
  return setmetatable({}, { __close = function() core.rng.stream = own end })
end

-- captum, both in float64: relative L2 at most 1e-5.
local function captum_table(model, folder, inputs)
  local square = inputs.square
  for _, method in ipairs { "saliency", "input_x_gradient", "integrated_gradients", "smoothgrad", "guided_backprop" } do
    local f = io.open(folder .. "/captum." .. method .. ".npy")
    if f then
      f:close()
      local scope <close> = core.memory.scope()
      local truth = npy(folder, "captum." .. method)
      local x = torch.cat({ square:narrow(0, 0, 1), square:narrow(0, square:size(0) - 1, 1) }, 0):narrow(0,
        2 - truth:size(0), truth:size(0)):double()
      local noise <close> = recorded_noise(x.shape)
      local records, maps = run(model, x, { method })
      local line, flipped = new_line(method .. " against captum, float64"), {}
      for i, record in ipairs(records[1]) do
        local raw, their = maps:raws(record)[1], truth:select(0, i - 1)
        local off = ((raw - their):norm() / their:norm()):item()
        line:add(off <= 1e-5 and "passed" or "failed", off, 0)
        flipped[i] = ((raw:flip({ 0, 1 }) - their):norm() / their:norm()):item() <= 1e-5 and "passed" or "failed"
      end
      line:print()
      mutant(method .. " turned by half a circle", flipped)
    end
  end
end

-- A class by its index, as gradcam.py has it.
local function class_table(model, name, inputs)
  for _, kind in ipairs { "square", "wide" } do
    local scope <close> = core.memory.scope()
    local base = trained .. "/" .. name .. "/" .. kind .. "." .. model.cam_layer .. ".class1."
    local truth, single = npy(base .. "64"), npy(base .. "32")
    local records, maps = run(model, inputs[kind], { "gradcam" }, { target = 1 })
    local line = new_line("gradcam plain " .. kind .. " default, class 1")
    for i, record in ipairs(records[1]) do
      line:add(verdict(maps:map(record), truth:select(0, i - 1), single:select(0, i - 1)))
    end
    line:print()
  end
end

-- The coloured, non-square picture through our own reader is bit for bit what Pillow and torchvision made of it.
local function reader_table(model, name, inputs)
  local scope <close> = core.memory.scope()
  local side = model.size_px
  local data = xai.dataset.files { trained .. "/" .. name .. "/made.png", size_px = side, resize_px = side }
  local line = new_line "reader, 320 x 211 in colour (no difference allowed)"
  local off = largest(data.test:batch({ 1 }).x:select(0, 0) - inputs.square[-1])
  line:add(off == 0 and "passed" or "failed", off, 0)
  line:print()
end

-- Ours in float64 as well: only the reference's rounding of the map to float32 is left.
local function strict_table(model, folder, inputs, cells)
  local scope <close> = core.memory.scope()
  local entries, chosen = {}, {}
  for _, cell in ipairs(cells) do
    local usual = cell.kind == "square" and cell.smoothing == "plain" and cell.form == "asis"
      and cell.images[#cell.images] == 3
    if usual then entries[#entries + 1], chosen[#chosen + 1] = entry_of(cell), cell end
  end
  local records, maps = run(model, inputs.square:narrow(0, 3, 1):double(), entries, { compat = "pytorch-grad-cam" })
  local line = new_line "plain, ours in float64 (allowed 1e-5)"
  for k, cell in ipairs(chosen) do
    local dumped = load(folder, cell)
    local truth = dumped.truth:select(0, #cell.images - 1)
    if not dumped.projections and largest(truth) >= 1e-3 then
      local off = largest(maps:map(records[k][1]):double() - truth)
      line:add(off <= 1e-5 and "passed" or "failed", off, 0)
    end
  end
  line:print()
end

-- ---- the seven networks ---------------------------------------------------------------------------------------------

local function one_network(name)
  local folder = dumps .. "/" .. name
  local f = io.open(folder .. "/cells.json")
  if not f then
    print(name .. ": no finished dump in " .. dumps)
    count.failed = count.failed + 1
    return
  end
  local cells = canon.read(f:read "a", folder .. "/cells.json").cells
  f:close()
  local scope <close> = xai.scope()
  print(name)
  local model = xai.models[name] { classes = classes, head = "torchvision", train_depth = "all" }
  local path = trained .. "/" .. name .. "/weights.pt"
  model:load_state(store.load(path).tensors, { what = path })
  model:eval()
  local inputs = { square = npy(trained, name, "square.x"), wide = npy(trained, name, "wide.x"),
    small = npy(folder, "small.x") }
  reader_table(model, name, inputs)
  class_table(model, name, inputs)
  find_rough(model, folder, cells, load)
  for _, form in ipairs { "asis", "out" } do
    local groups, keys = groups_of(cells, form)
    for _, key in ipairs(keys) do
      local images = {}
      for k, i in ipairs(groups[key][1].images) do images[k] = inputs[groups[key][1].kind]:narrow(0, i, 1) end
      run_group(model, name, folder, torch.cat(images, 0), groups[key], form)
    end
  end
  class_mutants(model, name, folder, inputs, cells)
  guided_table(model, name, folder, inputs)
  model:to { dtype = "float64" }
  strict_table(model, folder, inputs, cells)
  captum_table(model, folder, inputs)
  if host.interrupted() then error("interrupted", 0) end
end

local function print_evidence(names)
  local few = {}
  for _, method in ipairs { "gradcam", "hirescam", "gradcam_elementwise", "gradcam_plus_plus", "xgradcam", "layercam",
      "eigencam", "eigengradcam", "scorecam",
    "ablationcam", "fullgrad", "randomcam" } do
    local n = 0
    for _ in pairs(evidence[method] or {}) do n = n + 1 end
    if n < math.min(4, #names) then few[#few + 1] = method .. " on " .. n end
  end
  print(#few == 0 and "every method has evidence on at least " .. math.min(4, #names) .. " networks"
    or "too little evidence: " .. table.concat(few, ", "))
  return #few == 0
end

t.test("class activation maps, guided backprop and attributions of the seven networks equal the references'", function()
  if not dumps or not trained then t.skip "MEDXAI_CAM_DIR or MEDXAI_GRADCAM_DIR is not set" end
  local was_quiet, names = host.options.quiet, {}
  local restore <close> = setmetatable({}, { __close = function() host.options.quiet = was_quiet end })
  host.options.quiet = true
  for _, name in ipairs(order) do
    if not only or only:find(name, 1, true) then names[#names + 1] = name end
  end
  for _, name in ipairs(names) do one_network(name) end
  local enough = print_evidence(names)
  print(("compat: LAPACK's sign is the reference's in %d of %d principal components"):format(count.signs_equal,
    count.signs))
  print(("mutants: %d, of which %d passed where they must fail; %d cells ill-conditioned"):format(count.mutants,
    count.mutants_passed, count.ill))
  print(("%d cells passed, %d failed, %d without evidence"):format(count.passed, count.failed, count.none))
  t.ok(enough and count.failed == 0 and count.mutants_passed == 0 and count.mutants > 0, "the table above has failures")
end)
