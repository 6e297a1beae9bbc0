-- The methods at a layer against pytorch-grad-cam 1.5.7 and captum 0.9 in float64 (tests/reference/methods.py); by hand
-- what no reference covers.
local t = require "t"
local m = require "tinymethods"
local core = require "medxai.core"
local torch = require "medxai.torch"
local xai = require "medxai"

require("medxai.host").options.quiet = true
require "medxai.tensor.random" -- before a stream is replaced

t.test("finercam equals pytorch-grad-cam's; with alpha = 0 it is Grad-CAM", function()
  local maps, records = m.maps "finercam"
  m.equal(maps, "finercam", 1e-5) -- the reference adds 1e-9 to the sum of the probabilities
  m.equal(m.maps({ "finercam" }, { compat = "pytorch-grad-cam" }), "finercam")
  t.equal(#records[1].facts.compared_with, 3)
  t.ok(m.apart(m.maps { "finercam", alpha = 0, compared = 1 }, m.maps "gradcam") < 1e-6)
  local _, refused = m.maps("finercam", { target = { "predicted", as = "softmax" } })
  t.equal(refused[1].problem,
    "Finer-CAM compares the logit of a class with others that it chooses (the target is a probability)")
end)

t.test("finercam: a network that is sure of its class still has a map", function()
  local model = m.model()
  for _, p in ipairs(model:parameters()) do
    if p.name:find "^fc2" then torch.no_grad(function() p.tensor:mul_(2000) end) end
  end
  local maps = m.maps("finercam", { model = model })
  local compat = m.maps("finercam", { model = model, compat = "pytorch-grad-cam" })
  t.ok(maps:abs():max():item() > 1e3 * compat:abs():max():item() and maps:isfinite():all():item())
end)

t.test("shapleycam equals pytorch-grad-cam's of a probability; of a logit behind rectifiers it is Grad-CAM", function()
  local probability = { target = { "predicted", as = "softmax" } }
  m.equal(m.maps("shapleycam", probability), "shapleycam")
  t.ok(m.apart(m.maps("gradcam", probability), m.reference "shapleycam") > 1e-3)
  t.ok(m.apart(m.maps "shapleycam", m.maps "gradcam") < 1e-6)
end)

t.test("fem equals pytorch-grad-cam's", function() m.equal(m.maps { "fem", k = 1 }, "fem") end)

t.test("kpcacam equals pytorch-grad-cam's with scikit-learn's sign; a linear kernel is Eigen-CAM", function()
  local compat = { compat = "pytorch-grad-cam" }
  m.equal(m.maps("kpcacam", compat), "kpcacam")
  m.equal(m.maps({ "kpcacam", kernel = "rbf", gamma = 0.5 }, compat), "kpcacam.rbf")
  local ours = m.maps "kpcacam"
  for i = 0, 1 do
    local one, reference = ours:select(0, i), m.reference("kpcacam"):select(0, i)
    t.ok(math.min(m.apart(one, reference), m.apart(-one, reference)) < 2e-6)
  end
  t.ok(m.apart(m.maps { "kpcacam", kernel = "linear" }, m.maps "eigencam") < 1e-6)
end)

t.test("segeigencam equals pytorch-grad-cam's", function() m.equal(m.maps "segeigencam", "segeigencam") end)

t.test("refinecam equals pytorch-grad-cam's over two layers", function()
  local compat = { compat = "pytorch-grad-cam" }
  local maps = m.maps({ "refinecam", layers = { "relu3", "relu5" } }, compat)
  local lo, hi = maps:amin({ 1, 2 }, true), maps:amax({ 1, 2 }, true)
  m.equal((maps - lo) / (hi - lo), "refinecam", 1e-5) -- the reference is min-maxed, in float32
end)

t.test("sess equals pytorch-grad-cam's over three sizes, without the least probable fifth of the windows", function()
  local maps, records = m.maps({ "sess", scales = 3, drop = 0.2 }, { compat = "pytorch-grad-cam" })
  local lo, hi = maps:amin({ 1, 2 }, true), maps:amax({ 1, 2 }, true)
  m.equal((maps - lo) / (hi - lo), "sess", 1e-5) -- the reference is min-maxed, in float32
  t.equal(records[1].facts.windows, 10) -- of 2 + 4 + 6, less 2
  t.fails_like(function() m.maps { "sess", window = 20 } end,
    "sess: a window of 20 px does not fit the image %(16 x 24 px, at least 6%)")
end)

t.test("reciprocam is the probability with one place of the layer kept, place by place", function()
  local maps, records = m.maps "reciprocam"
  local model, x = m.model(), m.images()
  local a = model:forward { x = x, outputs = { "relu5" } }.relu5
  t.equal(maps.shape, { 2, 4, 6 })
  for _, place in ipairs { { 0, 0 }, { 3, 1 }, { 2, 5 } } do
    local kept = torch.zeros_like(a)
    local at = { { 0, 2 }, { 0, 8 }, { place[1], place[1] + 1 }, { place[2], place[2] + 1 } }
    kept[at]:copy_(a[at])
    local p = torch.softmax(model:forward { override = { relu5 = kept } }.output, 1)
    for i = 1, 2 do
      t.near(maps[{ i - 1, place[1], place[2] }]:item(), p[{ i - 1, records[i].target.index }]:item(), 1e-6)
    end
  end
  t.equal({ records[1].target.as, records[1].partials }, { "softmax", 24 })
end)

t.test("layer_conductance: its sum nears the target's change with more steps; compat equals captum's", function()
  m.equal(m.maps { "layer_conductance", steps = 8, compat = "captum" }, "layer_conductance")
  local gaps = {}
  for k, steps in ipairs { 4, 64 } do
    local maps, records = m.maps { "layer_conductance", steps = steps }
    local f = records[1].facts
    t.near(maps:select(0, 0):sum():item() - f.score_difference, f.completeness_gap, 1e-6)
    gaps[k] = math.abs(f.completeness_gap / f.score_difference)
  end
  t.ok(gaps[2] < 0.05 and gaps[2] < gaps[1], gaps[1] .. " " .. gaps[2])
end)

t.test("internal_influence equals captum's", function()
  m.equal(m.maps { "internal_influence", steps = 8, layer = "relu3" }, "internal_influence")
end)

t.test("dff equals pytorch-grad-cam's factors with its draws, and the map is the concept that gives most", function()
  local own = core.rng.stream
  core.rng.stream = function()
    return { normal = function(_, n)
      return torch.sin(torch.arange(n, { dtype = "float64" }) * 1.7 + 0.4) * 1.3 + 0.1
    end }
  end
  local done <close> = setmetatable({}, { __close = function() core.rng.stream = own end })
  local maps, records, store = m.maps { "dff", concepts = 3 }
  local reference = m.reference "dff"
  for i, record in ipairs(records) do
    local function array(name) return torch.load_npy(store.dir .. "/" .. record.arrays[name]) end
    t.ok(m.apart(array "places", reference:select(0, i - 1):narrow(0, 0, 3)) < 1e-5)
    t.ok(m.apart(array "concepts", reference:select(0, i - 1):narrow(0, 3, 1):reshape { 8, 3 }) < 1e-5)
    local gives, best = record.facts.gives, 1
    for k = 2, 3 do best = gives[k] > gives[best] and k or best end
    t.equal(record.facts.concept, best - 1)
    t.ok(m.apart(maps:select(0, i - 1), array("places"):select(0, best - 1)) < 1e-6)
    t.ok(record.facts.left_out < 0.5)
  end
end)

t.test("both images together give what each gives alone", function()
  for _, method in ipairs { "dff", "finercam", "shapleycam", "fem", "kpcacam", "segeigencam", "reciprocam",
      { "layer_conductance", steps = 3 }, { "refinecam", layers = { "relu3", "relu5" } } } do
    m.batch_equals_singles(method)
  end
end)

t.test("on exported networks, of convolutions and of tokens", function()
  local folder = t.root .. "/tests/reference/exported/"
  for _, name in ipairs { "convnet", "vit" } do
    local model <close> = xai.models.exported { file = folder .. name .. ".pt2", dtype = "float64", seed = 1 }:eval()
    local function maps(method)
      local made, records = m.maps(method, { model = model,
        x = xai.load_checkpoint(folder .. name .. ".pt").x:to { dtype = "float64" }, images = 1 })
      t.ok(records[1].status ~= "failed" and records[1].status ~= "not_defined", records[1].problem)
      return made, records[1]
    end
    local gradcam = maps "gradcam"
    t.ok(m.apart(maps { "finercam", alpha = 0, compared = 1 }, gradcam) < 1e-6, name)
    for _, method in ipairs { "fem", "reciprocam", { "layer_conductance", steps = 2 },
        { "internal_influence", steps = 2 } } do
      t.equal(maps(method).shape, gradcam.shape)
    end
    -- its second derivative: libtorch's fused attention, which 1.13 has not, has none
    local ok, message = pcall(maps, "shapleycam")
    t.ok(ok and message.shape[1] == gradcam.shape[1]
      or name == "vit" and not ok and tostring(message):find "attention", message)
    local _, record = maps "refinecam"
    t.equal(record.method, "refinecam")
  end
end)

t.test("bad options are refused", function()
  t.fails(function() m.maps { "refinecam", layers = {} } end,
    "refinecam: layers is empty (expected names of nodes).")
  t.fails_like(function() m.maps { "refinecam", layers = { "relu9" } } end, "unknown layer 'relu9'")
  t.fails_like(function() m.maps { "layer_conductance", removal = "noisy_linear" } end, "has no background")
  t.fails_like(function() m.maps { "kpcacam", kernel = "tanh" } end, "option 'kernel' is wrong")
end)
