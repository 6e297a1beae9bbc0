-- The seven networks as objects: heads, what is trained, names, shapes, errors of the constructor.
local t = require "t"
local core = require "medxai.core"
local models = require "medxai.nn.models"
local torch = require "medxai.torch"

local function small(options)
  options.classes = options.classes or { "a", "b", "c" }
  return models.squeezenet1_0(options)
end

local function trained_names(model)
  local list = {}
  for _, p in ipairs(model:parameters()) do
    if p.trainable then list[#list + 1] = p.name end
  end
  return list
end

t.test("a network trains one step: gradients where it is trained, none where it is frozen", function()
  local model <close> = small { train_depth = 1, seed = 3 }
  local x = torch.rand(2, 3, 64, 64)
  local loss = torch.cross_entropy(model(x), torch.tensor { 0, 2 })
  loss:backward()
  for _, p in ipairs(model:parameters()) do
    t.equal(p.tensor.grad ~= nil, p.trainable, p.name)
  end
  model:zero_grad()
  for _, p in ipairs(model:parameters()) do t.equal(p.tensor.grad, nil, p.name) end
end)

t.test("train_depth opens the head and the parts behind it", function()
  local model <close> = small { train_depth = 0 }
  t.equal(trained_names(model), { "classifier.1.weight", "classifier.1.bias" })
  local deeper <close> = small { train_depth = 1 }
  local first = trained_names(deeper)[1]
  t.equal(first, "features.9.squeeze.weight")
end)

t.test("constructors name a wrong option", function()
  t.fails(function() models.vgg19 { classes = 3, hiden = 5 } end,
    "vgg19: unknown option 'hiden'. Did you mean 'hidden'?")
  t.fails(function() models.squeezenet1_0 {} end,
    "squeezenet1_0: option 'classes' is missing (expected table or integer). Add classes = ... to it.")
  t.fails(function() small { classes = 0 } end,
    "squeezenet1_0: option 'classes' is wrong (expected a list of names or a whole number from 1, got 0).")
  t.fails(function() small { train_depth = 7 } end,
    "squeezenet1_0: option 'train_depth' is wrong (expected 0, 1, 2, 3 or 'all', got number 7).")
  t.fails(function() small { train_depth = -1 } end,
    "squeezenet1_0: option 'train_depth' is wrong (expected 0, 1, 2, 3 or 'all', got number -1).")
  t.fails(function() small { classes = {} } end,
    "squeezenet1_0: option 'classes' is an empty list. Give the names of the classes, or their number.")
  t.fails(function() small { classes = { "a", "a" } } end, "squeezenet1_0: class 'a' is named twice.")
  t.fails(function() return models.vgg18 end, "models: unknown network 'vgg18'. Did you mean 'vgg19'?")
end)

t.test("an input of another shape or dtype is named", function()
  local model <close> = small {}
  t.fails(function() model(torch.rand(3, 64, 64)) end,
    "squeezenet1_0: the input has shape 3x64x64 (expected N,3,H,W). Use x:unsqueeze(0).")
  t.fails(function() model(torch.rand(1, 1, 64, 64)) end,
    "squeezenet1_0: the input has shape 1x1x64x64 (expected N,3,H,W).")
  t.fails(function() model(torch.rand(1, 3, 64, 64):to("float64")) end,
    "squeezenet1_0: the input is float64, the network float32. Use x:to('float32').")
  t.fails(function() model "x" end, "squeezenet1_0: the input is a string (expected a tensor N,3,H,W).")
end)

t.test("an error names the node it happened in", function()
  local model <close> = small {}
  local message = t.fails_like(function() model(torch.rand(1, 3, 8, 8)) end, "^max_pool2d: ")
  t.ok(message:find("\n  in squeezenet1_0 > features > 2$") or message:find("\n  in squeezenet1_0 > features > %d+$"),
    message)
end)

t.test("a closed model says so", function()
  local model = small {}
  model:close()
  t.fails(function() model(torch.rand(1, 3, 64, 64)) end, "squeezenet1_0: the model is closed. Make a new one.")
end)

t.test("models live outside scopes", function()
  local model
  do
    local scope <close> = core.memory.scope()
    model = small {}
  end
  t.equal(model(torch.rand(1, 3, 64, 64)).shape, { 1, 3 })
  model:close()
end)

t.test("all seven take a training step in bfloat16", function()
  t.needs_bfloat16()
  for _, name in ipairs(models.names) do
    local scope <close> = core.memory.scope()
    local model <close> = models[name] { classes = 3, seed = 1 }
    local px = name == "inception_v3" and 299 or 32
    local loss = torch.autocast({ device = "cpu", dtype = "bfloat16" }, function()
      local y = torch.tensor { 0, 2 }
      local logits, aux = model(torch.rand(2, 3, px, px))
      t.equal(logits.dtype, "bfloat16")
      local sum = torch.cross_entropy(logits:float(), y)
      return aux and sum + 0.4 * torch.cross_entropy(aux:float(), y) or sum
    end)
    loss:backward()
    t.ok(model:parameters()[1].tensor.grad:isfinite():all():item(), name)
  end
end)

t.test("inception_v3 says how large its images must be", function()
  local model <close> = models.inception_v3 { classes = 3 }
  t.fails(function() model(torch.rand(2, 3, 224, 299)) end,
    "inception_v3: the input is 224x299 pixels (expected at least 299x299 in train mode, for the auxiliary branch).")
  t.fails(function() model:eval()(torch.rand(2, 3, 74, 299)) end,
    "inception_v3: the input is 74x299 pixels (expected at least 75x75).")
end)

t.test("a head may be the thesis' or torchvision's", function()
  local function names(o)
    local model <close> = models.resnet50(o)
    local list = {}
    for _, p in ipairs(model:parameters()) do
      if p.name:find "^fc" then list[#list + 1] = p.name .. " " .. table.concat(p.tensor.shape, "x") end
    end
    return list
  end
  t.equal(names { classes = 5 }, { "fc.fc1.weight 512x2048", "fc.fc1.bias 512", "fc.fc2.weight 5x512",
    "fc.fc2.bias 5" })
  t.equal(names { classes = 5, head = "torchvision" }, { "fc.weight 5x2048", "fc.bias 5" })
end)

t.test("a network of one's own is told apart by all that its functions hold on to", function()
  local function graph_of(scale, factors, weights)
    local function scaled(x) return x * scale() end
    local model <close> = require("medxai.nn.graph").network { name = "tiny", classes = { "a", "b" }, size_px = 8,
      seed = 1, build = function(g, x)
        x = g:func("scaled", function(v) return scaled(v) * factors[1].by * weights end, { x })
        return g:linear("fc", g:flatten(nil, g:adaptive_avg_pool2d("pool", x, 1)), { 3, 2 })
      end }
    return model.graph_signature
  end
  local function by(n) return function() return n end end
  local two, three = torch.tensor { 2.0 }, torch.tensor { 3.0 }
  local first = graph_of(by(2), { { by = 1 } }, two)
  t.equal(graph_of(by(2), { { by = 1 } }, torch.tensor { 2.0 }), first)
  t.ok(graph_of(by(3), { { by = 1 } }, two) ~= first, "a function within a function")
  t.ok(graph_of(by(2), { { by = 2 } }, two) ~= first, "a number in a list")
  t.ok(graph_of(by(2), { { by = 1 } }, three) ~= first, "a tensor")
end)
