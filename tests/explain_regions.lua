-- The methods that hide parts of an image, and SmoothGrad's squares and variances, against captum 0.9 and shap 0.51 in
-- float64 (tests/reference/methods.py); by hand what no reference covers.
local t = require "t"
local m = require "tinymethods"
local core = require "medxai.core"
local torch = require "medxai.torch"

require("medxai.host").options.quiet = true
require "medxai.tensor.random" -- before a stream is replaced

local grid = { "grid", rows = 2, columns = 3 }

-- The orders and the noise of methods.py in the place of keyed ones.
local function recorded()
  local own, size = core.rng.stream, 3 * 16 * 24
  local k = torch.arange(5 * size, { dtype = "float64" })
  local all = 2 ^ 0.5 * torch.sin(k * 0.7 + 0.3 * torch.sin(k * 0.013)) * torch.cos(k * 1.3)
  core.rng.stream = function(key)
    return { normal = function() return all:narrow(0, key.replicate * size, size) end,
      permutation = function(_, n)
        return (torch.arange(n) * (key.replicate % 2 == 1 and 5 or 1) + key.replicate):remainder(n)
      end }
  end
  return setmetatable({}, { __close = function() core.rng.stream = own end })
end

t.test("feature_ablation equals captum's over regions", function()
  local maps, records = m.maps { "feature_ablation", regions = grid }
  m.equal(maps, "feature_ablation")
  t.equal({ records[1].facts.evaluations, records[1].facts.regions.count }, { 6, 6 })
end)

t.test("shapley_sampling equals captum's with its orders, and no set is evaluated twice", function()
  local draws <close> = recorded()
  local maps, records = m.maps { "shapley_sampling", regions = grid, orders = 4 }
  m.equal(maps, "shapley_sampling")
  t.ok(records[1].facts.evaluations < 4 * 7 and records[1].facts.standard_error > 0)
end)

t.test("shap_permutation equals shap's with its orders", function()
  local draws <close> = recorded()
  m.equal(m.maps { "shap_permutation", regions = grid, orders = 4 }, "shap_permutation")
end)

t.test("shap_exact equals shap's; 64 sets of six regions", function()
  local maps, records, store = m.maps { "shap_exact", regions = grid }
  m.equal(maps, "shap_exact")
  t.equal(records[1].facts.evaluations, 64)
  local model, x = m.model(), m.images():narrow(0, 0, 1)
  local gain = (model(x) - model(torch.zeros_like(x)))[{ 0, records[1].target.index }]:item()
  local values = torch.load_npy(store.dir .. "/" .. records[1].arrays.values)
  t.near(values:sum():item(), gain, 1e-9, "the values sum to the target less that of the hidden image")
end)

t.test("sampled Shapley values come near the exact ones, the more orders the nearer", function()
  local exact = m.maps { "shap_exact", regions = grid }
  for _, method in ipairs { "shapley_sampling", "shap_permutation" } do
    local few = m.apart(m.maps { method, regions = grid, orders = 1 }, exact)
    local many = m.apart(m.maps { method, regions = grid, orders = 60 }, exact)
    t.ok(many < 0.2 and many < few, method .. ": " .. few .. " " .. many)
  end
end)

t.test("occlusion equals captum's, where squares meet the border as well", function()
  local maps, records = m.maps { "occlusion", window = 6, stride = 4 }
  m.equal(maps, "occlusion")
  t.equal(records[1].facts.evaluations, 4 * 6)
  m.equal(m.maps { "occlusion", window = 7, stride = 5 }, "occlusion.odd")
end)

t.test("smoothgrad_squared and vargrad equal captum's with recorded noise", function()
  local draws <close> = recorded()
  for _, method in ipairs { "smoothgrad_squared", "vargrad" } do m.equal(m.maps { method, samples = 5 }, method) end
end)

t.test("vargrad of a linear network is 0: its gradient does not waver", function()
  local linear = require("medxai.nn.graph").network { name = "linear", classes = { "a", "b" }, size_px = 24, seed = 1,
    cam_layer = "c", build = function(g, x)
      return g:linear("fc", g:flatten(nil, g:adaptive_avg_pool2d("p", g:conv2d("c", x, { 3, 2, 3 }), 1)), { 2, 2 })
    end }
  linear:to({ dtype = "float64" }):eval()
  local squares = m.maps({ "smoothgrad_squared", samples = 3 }, { model = linear })
  t.ok(m.maps({ "vargrad", samples = 3 }, { model = linear }):max():item() < 1e-9 * squares:max():item())
end)

t.test("rise is the mean of probability times mask, over the share that is shown", function()
  local maps, records = m.maps { "rise", samples = 3, cells = 2, share = 0.4 }
  local model, x = m.model(), m.images():narrow(0, 0, 1)
  local sum = torch.zeros(16, 24, { dtype = "float64" })
  for k = 0, 2 do
    local u = core.rng.stream { seed = 42, purpose = "rise@1", id = records[1].image_id, replicate = k }:uniform(6)
    local mask = torch.zeros(16, 24, { dtype = "float64" })
    local on, down, right = u:lt(0.4):tolist(), math.floor(u[4]:item() * 8), math.floor(u[5]:item() * 12)
    -- two by two cells enlarged to 24 x 36, by hand
    local function at(place, size)
      local p = math.max(0, math.min(1, (place + 0.5) / size * 2 - 0.5))
      return p
    end
    for r = 0, 15 do
      for c = 0, 23 do
        local v, h = at(r + down, 24), at(c + right, 36)
        local function cell(i) return on[i] and 1 or 0 end
        mask[{ r, c }] = (cell(1) * (1 - h) + cell(2) * h) * (1 - v) + (cell(3) * (1 - h) + cell(4) * h) * v
      end
    end
    local p = torch.softmax(model(x * mask), 1)[{ 0, records[1].target.index }]:item()
    sum = sum + mask * p
  end
  t.ok(m.apart(maps:select(0, 0), sum / 3 / 0.4) < 1e-5)
  t.equal({ records[1].target.as, records[1].forwards }, { "softmax", 3 })
end)

t.test("both images together give what each gives alone", function()
  for _, method in ipairs { { "feature_ablation", regions = grid }, { "occlusion", window = 8, stride = 8 },
      { "shapley_sampling", regions = grid, orders = 2 }, { "vargrad", samples = 3 },
      { "rise", samples = 4, cells = 2 } } do
    m.batch_equals_singles(method)
  end
end)

t.test("bad options are refused", function()
  t.fails(function() m.maps { "occlusion", window = 4, stride = 5 } end,
    "occlusion: a stride of 5 px leaves pixels uncovered (expected at most the window's 4 px).")
  t.fails_like(function() m.maps { "occlusion", window = 20 } end,
    "occlusion: a window of 20 px is larger than the image %(16 x 24 px%)")
  t.fails_like(function() m.maps { "rise", removal = "noisy_linear" } end, "has no background")
  t.fails_like(function() m.maps { "feature_ablation", regions = "voronoi" } end, "unknown source 'voronoi'")
  local _, records = m.maps { "shap_exact", regions = { "grid", rows = 3, columns = 6 } }
  t.equal({ records[1].status, records[1].problem }, { "not_defined",
    "shap_exact evaluates all sets of regions, and of 18 regions there are too many (at most 16; choose fewer, or "
    .. "shap_permutation)" })
  local _, one = m.maps { "feature_ablation", regions = { "grid", rows = 1, columns = 1 } }
  t.equal(one[1].status, "not_defined")
end)
