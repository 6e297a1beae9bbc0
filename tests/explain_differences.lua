-- DeepLIFT, DeepLIFT SHAP, GradientSHAP and deconvolution against captum 0.9 in float64 (tests/reference/methods.py),
-- and what no reference covers: completeness, gates, refusals, keyed draws.
local t = require "t"
local m = require "tinymethods"
local core = require "medxai.core"
local torch = require "medxai.torch"

require("medxai.host").options.quiet = true
require "medxai.tensor.random" -- before a stream is replaced

-- The five images of methods.py to begin from.
local function background()
  local n = torch.arange(5 * 3 * 16 * 24, { dtype = "float64" })
  return (0.5 + 0.5 * torch.sin(n * 0.37) * torch.cos(n * 0.011)):view({ 5, 3, 16, 24 })
end

t.test("deeplift equals captum's, and its sum is the target's difference", function()
  local maps, records = m.maps "deeplift"
  m.equal(maps, "deeplift")
  for _, record in ipairs(records) do
    t.ok(math.abs(record.facts.score_difference) > 1e-3)
    t.ok(math.abs(record.facts.completeness_gap) < 1e-6 * math.abs(record.facts.score_difference))
  end
end)

t.test("deeplift_shap equals captum's over five images to begin from", function()
  local maps, records = m.maps { "deeplift_shap", background = background() }
  m.equal(maps, "deeplift_shap")
  t.ok(math.abs(records[1].facts.completeness_gap) < 1e-6 * math.abs(records[1].facts.score_difference))
  t.equal(records[1].facts.background, 5)
end)

t.test("compat = captum: max pooling behind a rectifier hands back its derivative, and sums no longer hold", function()
  m.equal(m.maps { "deeplift", compat = "captum" }, "deeplift.compat")
  local maps, records = m.maps { "deeplift_shap", background = background(), compat = "captum" }
  m.equal(maps, "deeplift_shap.compat")
  t.ok(math.abs(records[1].facts.completeness_gap) > 0.01 * math.abs(records[1].facts.score_difference))
end)

-- The draws of methods.py in the place of keyed ones.
local function recorded()
  local own = core.rng.stream
  core.rng.stream = function()
    return { integers = function(_, n) return (torch.arange(n) * 3 + 1):remainder(5) end,
      uniform = function(_, n) return (torch.arange(n, { dtype = "float64" }) * 0.618 + 0.13):remainder(1) end }
  end
  return setmetatable({}, { __close = function() core.rng.stream = own end })
end

t.test("gradient_shap equals captum's with its draws", function()
  local draws <close> = recorded()
  m.equal(m.maps { "gradient_shap", samples = 6, background = background() }, "gradient_shap")
end)

t.test("deconvolution equals captum's", function() m.equal(m.maps "deconvolution", "deconvolution") end)

t.test("both images together give what each gives alone", function()
  for _, method in ipairs { "deeplift", "deconvolution", { "gradient_shap", samples = 2, sigma = 0.1,
      background = background() } } do
    m.batch_equals_singles(method)
  end
end)

t.test("deeplift: a gate's product is exact, and a probability as well as a logit; noise moves GradientSHAP", function()
  local model = require("medxai.nn.graph").network { name = "gated", classes = { "a", "b" }, size_px = 24, seed = 3,
    cam_layer = "c", build = function(g, x)
      x = g:conv2d("c", x, { 3, 4, 3 })
      local gate = g:conv2d("squeeze", g:adaptive_avg_pool2d("mean", x, 1), { 4, 4, 1 })
      x = g:mul("gated", g:silu("s", x), g:sigmoid("gate", gate))
      return g:linear("fc", g:flatten(nil, g:adaptive_avg_pool2d("p", x, 1)), { 4, 2 })
    end }
  model:to({ dtype = "float64" }):eval()
  for _, as in ipairs { "logit", "softmax" } do
    local maps, records = m.maps("deeplift", { model = model, target = { "predicted", as = as } })
    t.ok(math.abs(records[1].facts.score_difference) > 1e-4)
    t.near(maps:select(0, 0):sum():item(), records[1].facts.score_difference, 1e-7)
  end
  local _, refused = m.maps("deconvolution", { model = model })
  t.equal(refused[1].problem, "deconvolution is defined for rectifiers, and 's' is silu")
  local plain = m.maps { "gradient_shap", samples = 2, background = background() }
  local noisy = m.maps { "gradient_shap", samples = 2, sigma = 0.1, background = background() }
  t.ok(m.apart(noisy, plain) > 1e-3)
end)

t.test("bad options are refused", function()
  t.fails_like(function() m.maps { "deeplift", removal = "noisy_linear" } end, "has no background")
  t.fails_like(function() m.maps { "deeplift", removal = "segment_mean" } end, "needs regions")
  t.fails_like(function() m.maps { "deeplift_shap", background = "test" } end, "unknown background 'test'")
  t.fails_like(function() m.maps { "gradient_shap", background = torch.zeros(1, 3, 8, 8) } end,
    "gradient_shap: the background does not fit the images %(expected %(N, 3, 16, 24%), got %(1, 3, 8, 8%)%)")
end)
