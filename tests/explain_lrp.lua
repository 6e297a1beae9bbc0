-- LRP against zennit 0.5.1 in float64 (tests/reference/methods.py): every composite, on a network with batch norms,
-- max and mean pooling, a sum and a concatenation.
local t = require "t"
local m = require "tinymethods"
local graph = require "medxai.nn.graph"
local torch = require "medxai.torch"
local xai = require "medxai"

require("medxai.host").options.quiet = true

for _, name in ipairs { "epsilon_plus", "epsilon_gamma_box", "epsilon_alpha_beta", "epsilon_plus_flat",
    "epsilon_alpha_beta_flat", "epsilon" } do
  t.test("lrp, composite " .. name .. ", equals zennit's", function()
    m.equal(m.maps { "lrp", composite = name }, "lrp." .. name)
  end)
end

t.test("lrp: both images together give what each gives alone", function() m.batch_equals_singles "lrp" end)

-- A network of its own: build(g, x) -> (N, 2), biases 0 where asked for.
local function network(build, unbiased)
  local model = graph.network { name = "small", classes = { "a", "b" }, size_px = 24, cam_layer = "c", seed = 3,
    build = build }
  if unbiased then
    for _, p in ipairs(model:parameters()) do
      if p.name:find "bias$" then torch.no_grad(function() p.tensor:zero_() end) end
    end
  end
  return model:to({ dtype = "float64" }):eval()
end

local function head(g, x, channels)
  return g:linear("fc", g:flatten(nil, g:adaptive_avg_pool2d("p", x, 1)), { channels, 2 })
end

t.test("lrp: without biases the relevance of the pixels sums to the logit, whatever the composite", function()
  local model = network(function(g, x)
    x = g:max_pool2d("m", g:relu("r", g:conv2d("c", x, { 3, 5, 3 })), { 3, stride = 2, padding = 1 })
    return head(g, g:relu("r2", g:conv2d("c2", x, { 5, 6, 3 })), 6)
  end, true)
  for _, composite in ipairs { "epsilon_plus", "epsilon_alpha_beta_flat", "epsilon" } do
    local maps, records = m.maps({ "lrp", composite = composite, epsilon = 1e-12 }, { model = model })
    for i, record in ipairs(records) do
      t.near(record.facts.relevance, record.target.logit, 1e-12)
      t.near(maps:select(0, i - 1):sum():item(), record.target.logit, 1e-5 * math.abs(record.target.logit))
    end
  end
end)

t.test("lrp: a gate gives all to the signal; an operator without a rule is refused by its name and node", function()
  local function gated(op)
    return network(function(g, x)
      x = g:conv2d("c", x, { 3, 4, 3, bias = false })
      local gate = g:conv2d("squeeze", g:adaptive_avg_pool2d("mean", x, 1), { 4, 4, 1 })
      return head(g, g:mul("gated", x, op(g, gate)), 4)
    end, true)
  end
  local maps, records = m.maps({ "lrp", composite = "epsilon", epsilon = 1e-12 },
    { model = gated(function(g, gate) return g:sigmoid("gate", gate) end) })
  t.near(maps:select(0, 0):sum():item(), records[1].target.logit, 1e-6)
  for _, case in ipairs { { function(g, gate) return g:relu("gate", gate) end, "mul (node 'gated')" },
      { function(g, gate) return g:op("gate", "softmax.int", { gate, 1 }) end, "softmax (node 'gate')" } } do
    local _, refused = m.maps("lrp", { model = gated(case[1]) })
    t.equal({ refused[1].status, refused[1].problem }, { "not_defined", "LRP has no rule for " .. case[2] })
  end
end)

t.test("lrp: bad options are refused before anything is computed", function()
  t.fails_like(function() m.maps { "lrp", composite = "zplus" } end, "option 'composite' is wrong")
  t.fails_like(function() m.maps { "lrp", epsilon = 0 } end, "option 'epsilon' is too small")
  t.fails_like(function() m.maps { "lrp", alpha = 0.5 } end, "option 'alpha' is too small")
end)

t.test("lrp and deeplift on an exported network; attention has no rule", function()
  local folder = t.root .. "/tests/reference/exported/"
  local model <close> = xai.models.exported { file = folder .. "convnet.pt2", dtype = "float64", seed = 1 }:eval()
  local x = xai.load_checkpoint(folder .. "convnet.pt").x:to { dtype = "float64" }
  local maps, records = m.maps("deeplift", { model = model, x = x })
  t.equal(records[1].status, "ok")
  t.near(maps:select(0, 0):sum():item(), records[1].facts.score_difference, 1e-5)
  local _, relevance = m.maps("lrp", { model = model, x = x })
  t.equal(relevance[1].status, "ok")
  local vit <close> = xai.models.exported { file = folder .. "vit.pt2", dtype = "float64", seed = 1 }:eval()
  local tokens = xai.load_checkpoint(folder .. "vit.pt").x:to { dtype = "float64" }
  for method, name in pairs { lrp = "LRP", deeplift = "DeepLIFT" } do
    local _, refused = m.maps(method, { model = vit, x = tokens })
    t.equal(refused[1].status, "not_defined")
    t.ok(refused[1].problem:find("^" .. name .. " has no rule for [%w_]+ %(node '[%w_.]+'%)$"), refused[1].problem)
  end
end)
