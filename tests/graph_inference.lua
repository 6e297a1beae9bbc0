-- The inference plan against the node-by-node pass: the seven networks, every kind of layer, random networks with kept,
-- overridden and base values; changing weights; batches and threads; overflow; failing allocations.
local t = require "t"
local core = require "medxai.core"
local graph = require "medxai.nn.graph"
local torch = require "medxai.torch"
local xai = require "medxai"
local device, memory = core.device, core.memory

-- The largest difference, as a share of the largest number.
local function off(a, b)
  a, b = a:to { dtype = "float64" }, b:to { dtype = "float64" }
  return (a - b):abs():max():item() / math.max(b:abs():max():item(), 1e-30)
end

local bound = 2e-5 -- of the logits' scale, as promised; what single layers are off is far below

local function near(a, b, what, most)
  t.equal(a.shape, b.shape, what)
  local far = off(a, b)
  t.ok(far <= (most or bound), ("%s: off by %.2g of the scale"):format(what or "values", far))
end

-- A convolution with a generated name.
local function conv(g, x, o) return g:conv2d("conv" .. #g.nodes, x, o) end

-- A pass as model(x) runs it: the logits, what the plan leaves out, and how many steps it computed.
local function pass(model, x)
  return torch.no_grad(function()
    local out, _, left, steps = model._state:run { x = x, outputs = model._main, training = model:is_training(),
      layout = model.layout == "channels_last" and 2 or 1, infer = model.engine ~= "reference" }
    return out[1], left, steps
  end)
end

local has_plan, why_not = (function()
  local model <close> = graph.network { name = "probe", classes = 2, seed = 1, build = function(g, x)
    x = conv(g, conv(g, x, { 3, 8, 1 }), { 8, 8, 1 })
    return g:linear("fc", g:flatten(nil, g:adaptive_avg_pool2d(nil, x, 1)), { 8, 2 })
  end }
  local _, left = pass(model:eval(), torch.zeros(1, 3, 4, 4))
  return left == "", left
end)()

local function test(name, f)
  t.test(name, function()
    if not has_plan then t.skip "no inference plan on this processor, or a build without oneDNN" end
    f()
  end)
end

local function reference(model, f, ...)
  local engine = model.engine
  local restore <close> = setmetatable({}, { __close = function() model.engine = engine end }) -- luacheck: ignore
  model.engine = "reference"
  return (torch.no_grad(f or model, ...))
end

-- Running statistics as after training, so that activations keep their magnitude.
local function settle(model, x)
  model:train()
  torch.no_grad(function() for _ = 1, 3 do model(x) end end)
  return model:eval()
end

local sizes = { squeezenet1_0 = 64, mobilenet_v2 = 64, efficientnet_b0 = 64, densenet121 = 64, resnet50 = 64,
  inception_v3 = 107, vgg19 = 64 }

test("the seven networks' logits equal the node-by-node pass, and every convolution is planned", function()
  for _, name in ipairs { "squeezenet1_0", "mobilenet_v2", "efficientnet_b0", "densenet121", "resnet50", "inception_v3",
      "vgg19" } do
    local scope <close> = memory.scope() -- luacheck: ignore
    local model <close> = xai.models[name] { classes = 5, seed = 2, transform_input = name == "inception_v3" or nil }
    local x = torch.randn(3, 3, sizes[name], sizes[name])
    if name ~= "inception_v3" then settle(model, x) end
    model:eval()
    local got, left, steps = pass(model, x)
    local want = reference(model, model, x)
    near(got, want, name)
    local convolutions = 0
    for _, node in ipairs(model:node_names()) do
      if model:node(node).op == "conv2d" then convolutions = convolutions + 1 end
    end
    -- without the auxiliary branch
    t.ok(steps > convolutions - 2, ("%s: %d steps of %d convolutions"):format(name, steps, convolutions))
    t.ok(left == "" or name == "inception_v3", name .. " left " .. left)
    t.ok(torch.equal((pass(model, x)), got), name .. " gives other bits the second time")
  end
end)

-- ---- layers ---------------------------------------------------------------------------------------------------------

local function tiny(build, o)
  return graph.network { name = "tiny", classes = 3, seed = 4, layout = o and o.layout, build = function(g, x)
    local y, channels = build(g, g:conv2d("first", x, { 3, 16, 3, padding = 1 }))
    y = g:conv2d("last", y, { channels, 8, 1 })
    return g:linear("fc", g:flatten(nil, g:adaptive_avg_pool2d(nil, y, 1)), { 8, 3 })
  end }
end

local layers = {
  { "activations", function(g, x)
    for _, op in ipairs { "relu", "silu", "sigmoid", "hardswish", "hardsigmoid" } do
      x = g:op(nil, op, { conv(g, x, { 16, 16, 1 }) })
    end
    return g:relu6(nil, conv(g, x, { 16, 16, 3, padding = 1 })), 16
  end },
  { "activations by themselves", function(g, x)
    local list = {}
    for i, op in ipairs { "relu", "silu", "sigmoid", "hardswish" } do list[i] = g:op(nil, op, { x }) end
    list[5] = g:relu6(nil, x)
    return g:cat(nil, list), 80
  end },
  { "channels that fill no block", function(g, x)
    x = g:relu(nil, conv(g, x, { 16, 24, 3, padding = 1 }))
    x = g:silu(nil, conv(g, x, { 24, 13, 3, padding = 1 }))
    return g:silu(nil, conv(g, x, { 13, 5, 1 })), 5
  end },
  { "groups, dilation, strides, long kernels", function(g, x)
    x = conv(g, conv(g, x, { 16, 32, 1 }), { 32, 32, 3, padding = 1, groups = 2 })
    x = conv(g, x, { 32, 32, 3, padding = 1, groups = 32, stride = 2 })
    x = conv(g, x, { 32, 32, 3, padding = 2, dilation = 2 })
    x = conv(g, x, { 32, 16, { 1, 7 }, padding = { 0, 3 } })
    return conv(g, x, { 16, 16, { 5, 2 }, stride = { 1, 2 }, padding = { 2, 0 }, bias = false }), 16
  end },
  { "3x3 on small and odd sizes", function(g, x)
    x = g:relu(nil, conv(g, x, { 16, 48, 3 }))
    x = conv(g, x, { 48, 64, 3, padding = 2 })
    x = g:max_pool2d(nil, x, { 3, stride = 2 })
    return g:relu6(nil, conv(g, x, { 64, 80, 3, padding = { 1, 0 } })), 80
  end },
  { "pooling", function(g, x)
    local a = g:max_pool2d(nil, x, { 3, stride = 2, ceil_mode = true })
    local b = g:avg_pool2d(nil, x, { 3, stride = 2, padding = 1 })
    local c = g:avg_pool2d(nil, x, { 3, stride = 2, padding = 1, count_include_pad = false })
    local d = g:max_pool2d(nil, x, { 3, stride = 2, padding = 1 })
    return g:cat(nil, { a, b, c, d }), 64
  end, px = 22 },
  { "squeeze and excitation", function(g, x)
    for _ = 1, 2 do
      local s = g:silu(nil, conv(g, g:adaptive_avg_pool2d(nil, x, 1), { 16, 4, 1 }))
      x = g:mul(nil, g:sigmoid(nil, conv(g, s, { 4, 16, 1 })), x)
      x = g:relu(nil, x)
    end
    return g:mul(nil, x, conv(g, x, { 16, 16, 1 })), 16
  end },
  { "sums with what is read again", function(g, x)
    local y = conv(g, x, { 16, 16, 1 })
    local z = g:relu(nil, g:add(nil, conv(g, y, { 16, 16, 3, padding = 1 }), y))
    z = g:add(nil, x, conv(g, z, { 16, 16, 1 }))
    return g:cat(nil, { g:add(nil, z, y), y, z }), 48
  end },
  { "concatenations that share values", function(g, x)
    local a, b = g:relu(nil, conv(g, x, { 16, 16, 1 })), conv(g, x, { 16, 32, 3, padding = 1 })
    local ab, ba = g:cat(nil, { a, b }), g:cat(nil, { b, a })
    local aab = g:cat(nil, { a, g:cat(nil, { a, b }) })
    return g:cat(nil, { ab, aab, g:relu(nil, ab), ba }), 208
  end },
  { "sigmoids of channels that fill no block", function(g, x)
    x = conv(g, x, { 16, 13, 1 })
    local a, b = g:sigmoid(nil, x), g:op(nil, "hardsigmoid", { x })
    return conv(g, g:mul(nil, conv(g, a, { 13, 13, 1 }), g:add(nil, x, b)), { 13, 16, 1 }), 16
  end },
  { "rows, as ConvNeXt has them", function(g, x)
    for i = 1, 2 do
      local y = g:op(nil, "permute", { conv(g, x, { 16, 16, 7, padding = 3, groups = 16 }), { 0, 2, 3, 1 } })
      y = g:op(nil, "layer_norm", { y, { 16 }, g:parameter("norm.w" .. i, { 16 }), g:parameter("norm.b" .. i, { 16 }),
        1e-6 })
      y = g:linear("fc_in" .. i, y, { 16, 40 })
      y = i == 1 and g:op(nil, "gelu", { y }) or g:op(nil, "gelu", { y }, { approximate = "tanh" })
      y = g:op(nil, "permute", { g:linear("fc_out" .. i, y, { 40, 16 }), { 0, 3, 1, 2 } })
      x = g:add(nil, x, g:op(nil, "mul.Tensor", { g:parameter("scale" .. i, { 16, 1, 1 }), y }))
    end
    return x, 16
  end },
  { "rows read again, kept, summed and scaled", function(g, x)
    local y = g:op(nil, "permute", { conv(g, x, { 16, 24, 1 }), { 0, 2, 3, 1 } })
    local z = g:linear("a", y, { 24, 24 })
    z = g:add(nil, g:relu(nil, g:add(nil, z, g:linear("b", z, { 24, 24 }))), y)
    z = g:op(nil, "layer_norm", { z, { 24 }, g:parameter("ln.w", { 24 }), g:parameter("ln.b", { 24 }) })
    z = g:linear("c", g:silu(nil, g:op(nil, "mul.Tensor", { z, g:parameter("scale", { 24 }) })), { 24, 13 })
    return g:op(nil, "permute", { z, { 0, 3, 1, 2 } }), 13
  end, most = 1e-5 }, -- a layer norm of 24 channels amplifies the last digits
  { "batch norms before activations, as DenseNet has them", function(g, x)
    local list, channels = { x }, 16
    for i = 1, 4 do
      local y = g:relu(nil, g:batch_norm2d("norm" .. i, g:cat(nil, { table.unpack(list) }), channels))
      list[#list + 1] = conv(g, y, { channels, 16, 3, padding = 1, bias = false })
      channels = channels + 16
    end
    return g:batch_norm2d("norm", g:cat(nil, list), channels), channels
  end },
}

for _, case in ipairs(layers) do
  test("layers: " .. case[1], function()
    for _, layout in ipairs { "nchw", "channels_last" } do
      local model <close> = tiny(case[2], { layout = layout })
      local px = case.px or 19
      local x = torch.randn(3, 3, px, px - 2)
      settle(model, x)
      local got, left, steps = pass(model, x)
      near(got, reference(model, model, x), case[1], case.most or 2e-6)
      t.ok(steps > 5 and left == "", ("%d steps, left: %s"):format(steps, left))
      -- every value, one by one and all together
      local names = model:node_names()
      local want = reference(model, function() return model:forward { x = x, outputs = names } end)
      local all = torch.no_grad(function() return model:forward { x = x, outputs = names } end)
      for _, name in ipairs(names) do
        near(all[name], want[name], name, case.most or 5e-6)
        near(torch.no_grad(function() return model:forward { x = x, outputs = { name } } end)[name], want[name],
          name .. " alone", case.most or 5e-6)
      end
    end
  end)
end

test("operators that oneDNN lacks, and Lua functions, run by themselves; the rest is planned", function()
  local model <close> = tiny(function(g, x)
    x = conv(g, g:relu(nil, conv(g, x, { 16, 16, 3, padding = 1 })), { 16, 16, 1 })
    x = g:func("own", function(v) return v:tanh() end, { x })
    return conv(g, g:op(nil, "softmax.int", { x, 1 }), { 16, 16, 3, padding = 1 }), 16
  end)
  local x = torch.randn(2, 3, 12, 12)
  local got, left, steps = pass(model:eval(), x)
  near(got, reference(model, model, x), "logits", 2e-6)
  t.equal(left, "'own' (function)")
  t.ok(steps >= 6, steps)
end)

-- A transformer's two blocks with their tokens at dimension `at`, and heads that no plan has.
local function transformer(at)
  return graph.network { name = "transformer", classes = 3, seed = 9, build = function(g, x)
    local n = 0
    local function name(what)
      n = n + 1
      return what .. n
    end
    local function norm(v)
      return g:op(nil, "layer_norm", { v, { 32 }, g:parameter(name "w", { 32 }), g:parameter(name "b", { 32 }) })
    end
    x = g:op(nil, "flatten.using_ints", { conv(g, x, { 3, 32, 4, stride = 4 }), 2 })
    x = g:op(nil, "transpose.int", { x, 1, 2 })
    if at == 0 then x = g:op(nil, "transpose.int", { x, 0, 1 }) end
    for _ = 1, 2 do
      local y = norm(x)
      local q, v = g:linear(name "q", y, { 32, 32 }), g:linear(name "v", y, { 32, 32 })
      y = g:linear(name "proj", g:mul(nil, g:op(nil, "softmax.int", { q, -1 }), v), { 32, 32 })
      x = g:add(nil, x, y)
      y = g:op(nil, "gelu", { g:linear(name "fc", norm(x), { 32, 64 }) })
      x = g:add(nil, x, g:linear(name "fc", y, { 64, 32 }))
    end
    return g:linear("head", g:op(nil, "mean.dim", { norm(x), { at } }), { 32, 3 })
  end }
end

test("linear layers and layer norms on tokens are planned between attentions, wherever the batch stands", function()
  for at = 0, 1 do
    local model <close> = transformer(at)
    torch.no_grad(function()
      for i, entry in ipairs(model:state()) do
        if entry.name:find "^[wb]%d" then entry.tensor:copy_(torch.randn(32) * 0.1 + i % 2) end
      end
    end)
    if at == 0 then
      for id, node in ipairs(model._def.nodes) do
        if id > 4 and node ~= "head" then model._def.native:batch(id, 1, 1) end
      end
    end
    model:eval()
    for _, count in ipairs { 1, 4, 3 } do
      local x = torch.randn(count, 3, 40, 40)
      local got, _, steps = pass(model, x)
      near(got, reference(model, model, x), "logits", 2e-6)
      t.ok(steps >= 14, steps)
      local names = model:node_names()
      local want = reference(model, function() return model:forward { x = x, outputs = names } end)
      local all = torch.no_grad(function() return model:forward { x = x, outputs = names } end)
      for _, name in ipairs(names) do near(all[name], want[name], name, 5e-6) end
    end
  end
end)

test("tokens have the same bits in every batch and for every number of threads", function()
  local before = device.threads()
  local restore <close> = setmetatable({}, { __close = function() device.set_threads(before) end }) -- luacheck: ignore
  local model <close> = transformer(1)
  model:eval()
  local x, want = torch.randn(8, 3, 64, 64), nil
  local last = model._def.nodes[#model._def.nodes - 3]
  for threads = 1, 3 do
    device.set_threads(threads)
    for _, n in ipairs { 8, 3, 1 } do
      local got = torch.no_grad(function()
        return model:forward { x = x:narrow(0, 0, n), outputs = { last } }
      end)[last]
      want = want or got
      t.ok(torch.equal(got, want:narrow(0, 0, n)), ("%s: %d images, %d threads"):format(last, n, threads))
    end
  end
end)

-- ---- networks drawn at random ---------------------------------------------------------------------------------------

-- A network of about twenty nodes on 16 x 16 pixels, with values that are used several times, concatenated, summed and
-- multiplied.
local function random_network(seed)
  local state = seed
  local function draw(n)
    state = (state * 1103515245 + 12345) % 2147483648
    return state // 65536 % n + 1
  end
  return graph.network { name = "random", classes = 3, seed = seed, build = function(g, x)
    local values = { { conv(g, x, { 3, 16, 3, padding = 1 }), 16 } }
    local norms = 0
    for _ = 1, 22 do
      local a, b = values[math.max(1, #values + 1 - draw(4))], values[draw(#values)]
      local kind, v, c = draw(9), nil, a[2]
      if kind <= 3 then
        c = 16 * draw(3)
        v = conv(g, a[1], { a[2], c, kind == 1 and 3 or 1, padding = kind == 1 and 1 or 0, bias = draw(2) == 1 })
      elseif kind == 4 then v = g:relu(nil, a[1])
      elseif kind == 5 and a[2] + b[2] <= 160 then v, c = g:cat(nil, { a[1], b[1] }), a[2] + b[2]
      elseif kind == 6 and a[2] == b[2] and a[1] ~= b[1] then v = g:add(nil, a[1], b[1])
      elseif kind == 7 then
        norms = norms + 1
        v = g:batch_norm2d("norm" .. norms, a[1], a[2])
      elseif kind == 8 then v = g:max_pool2d(nil, a[1], { 3, stride = 1, padding = 1 })
      elseif kind == 9 then v = g:mul(nil, a[1], g:sigmoid(nil, g:adaptive_avg_pool2d(nil, a[1], 1))) end
      if v then values[#values + 1] = { v, c } end
    end
    local last = values[#values]
    local y = g:conv2d("last", last[1], { last[2], 8, 1 })
    return g:linear("fc", g:flatten(nil, g:adaptive_avg_pool2d(nil, y, 1)), { 8, 3 })
  end }
end

test("sixty random networks: kept, overridden and base values equal those node by node", function()
  for seed = 1, 60 do
    local scope <close> = memory.scope() -- luacheck: ignore
    local model <close> = random_network(seed):eval()
    local x = torch.randn(2, 3, 16, 16)
    local names = model:node_names()
    names[#names + 1] = "output"
    local want = reference(model, function() return model:forward { x = x, outputs = names } end)
    local function check(what, got)
      for name, value in pairs(got) do
        near(value, want[name], ("network %d, %s: %s"):format(seed, what, name), 1e-5)
      end
    end
    torch.no_grad(function()
      check("logits", { output = model(x) })
      local some = { "output" }
      for i = 1 + seed % 3, #names, 3 do some[#some + 1] = names[i] end
      check("kept", model:forward { x = x, outputs = some })
      local at = names[#names // 2 + seed % 4]
      check("put in", { output = model:forward { x = x, override = { [at] = want[at] } }.output })
      local rest = { output = model:forward { override = { [at] = want[at] }, base = want }.output }
      check("from a base", rest)
    end)
    local at = names[#names // 3 + 2]
    local got = model:forward { x = x, grad_from = { at }, outputs = { "output" }, fold = true }
    t.ok(got[at].requires_grad and got[at].is_leaf, "gradients begin there")
    check("begun at " .. at, { output = got.output:detach(), [at] = got[at]:detach() })
  end
end)

test("one image's base values serve a batch of overrides, as node by node", function()
  local model <close> = xai.models.densenet121 { classes = 3, seed = 5 }
  settle(model, torch.randn(2, 3, 64, 64))
  local x, at = torch.randn(1, 3, 64, 64), "features.denseblock3.denselayer4.conv1"
  local base = torch.no_grad(function()
    return model:forward { x = x, outputs = { at, table.unpack(model:boundary { override = { at } }) } }
  end)
  local five = base[at] * torch.rand(5, 1, 1, 1)
  local function partial() return model:forward { override = { [at] = five }, base = base }.output end
  near(torch.no_grad(partial), reference(model, partial), "from a base of one image")
  local function from_x() return model:forward { x = x, override = { [at] = five } }.output end
  near(torch.no_grad(from_x), reference(model, from_x), "the base computed from x")
end)

-- ---- weights --------------------------------------------------------------------------------------------------------

local function stages()
  return tiny(function(g, x)
    x = g:relu(nil, g:batch_norm2d("norm1", g:conv2d("conv1", x, { 16, 16, 3, padding = 1, bias = false }), 16))
    x = g:cat(nil, { x, g:conv2d("conv2", x, { 16, 16, 1 }) })
    return g:relu(nil, g:batch_norm2d("norm2", x, 32)), 32
  end)
end

test("weights that are written to, replaced, loaded or trained take effect in the next pass", function()
  local model <close> = stages()
  local x = torch.randn(2, 3, 12, 12)
  settle(model, x)
  local function agrees(what)
    local got = pass(model, x)
    near(got, reference(model, model, x), what, 2e-6)
    return got
  end
  local before = agrees "at first"
  for _, entry in ipairs(model:state()) do
    if entry.tensor.dtype == "float32" then
      local old = (pass(model, x))
      torch.no_grad(function() entry.tensor:mul_(1.25):add_(0.05) end)
      t.ok(not torch.equal(agrees(entry.name), old) or entry.name:find "running_mean" ~= nil,
        entry.name .. " is not seen")
    end
  end
  local other <close> = stages()
  torch.no_grad(function() other:load_state(model:state()) end)
  t.ok(torch.equal((pass(other:eval(), x)), (pass(model, x))), "a loaded model gives the same bits")
  model:train()
  model(x):sum():backward()
  torch.no_grad(function()
    for _, entry in ipairs(model:parameters()) do entry.tensor:sub_(entry.tensor.grad * 0.1) end
  end)
  model:eval()
  t.ok(off(agrees "after a training step", before) > 1e-3)
  model:reset()
  near(pass(model:eval(), x), reference(model, model, x), "made again", 2e-6)
end)

test("running statistics moved by a training pass take effect in the next pass", function()
  local model <close> = stages()
  local x = torch.randn(4, 3, 12, 12)
  settle(model, x)
  local before = (pass(model, x))
  model._state:run { x = x * 3 + 1, outputs = model._main, training = true }
  local unfolded = torch.no_grad(function()
    return model:forward { x = x, outputs = { "output" }, fold = false }.output
  end)
  t.ok(off(unfolded, before) > 1e-3, "the statistics moved")
  near(pass(model, x), unfolded, "planned", 2e-6)
  near(reference(model, model, x), unfolded, "node by node", 2e-6)
end)

test("a batch norm that stays in train mode uses its batch's statistics", function()
  local model <close> = tiny(function(g, x)
    local args = { x }
    for i, name in ipairs { "w", "b", "m", "v" } do args[i + 1] = g:parameter(name, { 16 }) end
    return g:relu(nil, g:op("norm", "batch_norm",
      { args[1], args[2], args[3], args[4], args[5], true, 0.1, 1e-5, false })), 16
  end)
  torch.no_grad(function()
    for _, entry in ipairs(model:state()) do
      local value = ({ w = 2, b = 0.5, m = 3, v = 1 })[entry.name]
      if value then entry.tensor:fill_(value) end
    end
  end)
  local x = torch.randn(3, 3, 12, 12)
  model:eval()
  local first = torch.no_grad(function() return model:forward { x = x, outputs = { "first" } }.first end)
  local mean, var = first:mean { dim = { 0, 2, 3 }, keepdim = true },
    first:var { dim = { 0, 2, 3 }, unbiased = false, keepdim = true }
  local norm = (first - mean) / (var + 1e-5):sqrt() * 2 + 0.5
  local want = torch.no_grad(function() return model:forward { x = x, override = { norm = norm } }.output end)
  near(pass(model, x), want, "planned", 1e-5)
  near(reference(model, model, x), want, "node by node", 1e-5)
end)

test("replaced tensors of another size or dtype are read as they are, or refused", function()
  local model <close> = stages()
  local x = torch.randn(2, 3, 12, 12)
  settle(model, x)
  local before = (pass(model, x))
  local old = {}
  local function put(name, tensor)
    for i, slot in ipairs(model._def.slots) do
      if slot.name == name then
        old[name] = old[name] or model._state:get(i):clone()
        model._state:set(i, tensor or old[name])
      end
    end
  end
  put("last.weight", torch.randn(12, 32, 1, 1))
  put("last.bias", torch.randn(12))
  put("fc.weight", torch.randn(3, 12))
  near(pass(model, x), reference(model, model, x), "more channels", 2e-6)
  put("conv1.weight", torch.randn(16, 16, 1, 1))
  near(pass(model, x), reference(model, model, x), "a smaller kernel", 2e-6)
  for what, other in pairs { ["too few channels"] = torch.randn(16, 8, 3, 3),
      ["float64"] = torch.randn(16, 16, 3, 3, { dtype = "float64" }) } do
    put("conv1.weight", other)
    local _, wanted = pcall(reference, model, model, x)
    local ok, message = pcall(pass, model, x)
    t.ok(not ok, what)
    t.equal(tostring(message), tostring(wanted), what)
  end
  put("conv1.weight")
  put("norm1.weight", torch.randn(8))
  t.fails_like(function() pass(model, x) end, "norm1")
  for name in pairs(old) do put(name) end
  local again, left, steps = pass(model, x)
  t.ok(torch.equal(again, before), ("the first ones again: off by %.2g, %d steps, left: %s"):format(off(again, before),
    steps, left))
end)

test("float64 models run node by node", function()
  local model <close> = stages()
  local x = torch.randn(2, 3, 12, 12)
  settle(model, x)
  local double <close> = model:clone():to { dtype = "float64" }
  local got, left, steps = pass(double, x:to { dtype = "float64" })
  near(got, reference(model, model, x), "float64", 2e-6)
  t.equal(left, "float64 on cpu")
  t.equal(steps, 0)
end)

test("bfloat16 models are planned where the processor computes in bfloat16", function()
  t.needs_bfloat16()
  local model <close> = stages()
  local x = torch.randn(2, 3, 12, 12)
  settle(model, x)
  local exact = reference(model, model, x)
  local half <close> = model:clone():to { dtype = "bfloat16" }
  near(pass(half, x:to { dtype = "bfloat16" }), exact, "bfloat16", 0.03) -- 8 bits of mantissa through five layers
  near(pass(model:to { dtype = "bfloat16" }, x:to { dtype = "bfloat16" }), exact, "turned into bfloat16", 0.03)
  near(pass(model:to { dtype = "float32" }, x), exact, "and back", 0.03)
end)

-- ---- batches, sizes, threads ----------------------------------------------------------------------------------------

test("batches and images of every size, in every memory layout", function()
  local model <close> = stages()
  settle(model, torch.randn(4, 3, 12, 12))
  for _, shape in ipairs { { 1, 3, 12, 12 }, { 5, 3, 12, 12 }, { 2, 3, 17, 9 }, { 2, 3, 4, 4 }, { 1, 3, 3, 3 },
      { 5, 3, 12, 12 } } do
    local x = torch.randn(shape)
    near(pass(model, x), reference(model, model, x), table.concat(shape, "x"), 2e-6)
  end
  local x = torch.randn(4, 3, 12, 12)
  local want = pass(model, x)
  t.ok(torch.equal((pass(model, x:contiguous { memory_format = "channels_last" })), want), "channels last")
  t.ok(torch.equal((pass(model, x:permute { 2, 3, 0, 1 }:contiguous():permute { 2, 3, 0, 1 })), want), "not contiguous")
  t.ok(torch.equal(pass(model, x:narrow(0, 1, 1):expand { 4, 3, 12, 12 }):narrow(0, 3, 1), want:narrow(0, 1, 1)),
    "one image expanded")
  t.ok(torch.equal((pass(model, torch.cat({ x, x }, 3):narrow(3, 12, 12))), want), "a part of wider images")
  t.fails_like(function() pass(model, torch.randn(2, 4, 12, 12)) end, "conv2d")
end)

test("an image's logits have the same bits in every batch and for every number of threads", function()
  local before = device.threads()
  local restore <close> = setmetatable({}, { __close = function() device.set_threads(before) end }) -- luacheck: ignore
  for _, name in ipairs { "mobilenet_v2", "densenet121", "inception_v3" } do
    local model <close> = xai.models[name] { classes = 3, seed = 6 }
    model:eval()
    -- the head's product is computed by BLAS
    local body = ({ mobilenet_v2 = "features", densenet121 = "features", inception_v3 = "Mixed_7c" })[name]
    local x = torch.randn(8, 3, sizes[name], sizes[name])
    local want
    for threads = 1, 3 do
      device.set_threads(threads)
      for _, n in ipairs { 8, 3, 2, 1 } do
        local got = torch.no_grad(function()
          return model:forward { x = x:narrow(0, 0, n), outputs = { body } }
        end)[body]
        want = want or got
        t.ok(torch.equal(got, want:narrow(0, 0, n)),
          ("%s: a batch of %d with %d threads differs by %.3g"):format(name, n, threads,
          off(got, want:narrow(0, 0, n))))
      end
    end
  end
end)

-- ---- numbers that overflow ------------------------------------------------------------------------------------------

test("NaN, infinity and overflow come out as node by node", function()
  local model <close> = stages()
  local x = torch.randn(2, 3, 12, 12)
  settle(model, x)
  local function agrees(what)
    local got, left, steps = pass(model, x)
    t.equal(tostring(got:tolist()[1][1]), tostring(reference(model, model, x):tolist()[1][1]), what)
    t.equal(left, "numbers that are not finite, or beyond 1e18", what)
    t.equal(steps, 0)
  end
  local kept = x[{ 0, 0, 3, 3 }]:item()
  for _, value in ipairs { 0 / 0, math.huge, -math.huge, 1e30 } do
    torch.no_grad(function() x[{ 0, 0, 3, 3 }] = value end)
    agrees("image with " .. value)
  end
  torch.no_grad(function() x[{ 0, 0, 3, 3 }] = kept end)
  local w
  for _, entry in ipairs(model:state()) do if entry.name == "conv1.weight" then w = entry.tensor end end
  local old = w:clone()
  torch.no_grad(function() w[{ 0, 0, 1, 1 }] = 0 / 0 end)
  agrees "a weight that is NaN"
  torch.no_grad(function() w:copy_(old):mul_(1e30) end)
  agrees "weights of 1e30"
  torch.no_grad(function() w:copy_(old) end)
  t.equal(select(2, pass(model, x)), "", "planned again")
  -- large finite weights: 1e25 in three layers overflows inside, and a ReLU would hide it
  local deep <close> = tiny(function(g, y)
    for i = 1, 3 do y = g:relu(nil, g:conv2d("deep" .. i, y, { 16, 16, 1 })) end
    return y, 16
  end)
  torch.no_grad(function()
    for _, entry in ipairs(deep:state()) do
      if entry.name:find "^deep%d.weight" then entry.tensor:fill_(-1e13):narrow(0, 0, 1):fill_(1e13) end
    end
  end)
  local got, left = pass(deep:eval(), x)
  local want = reference(deep, deep, x)
  t.ok(torch.equal(got:isnan(), want:isnan()) and left ~= "", "sums that overflow inside")
end)

-- ---- frozen parts, settings -----------------------------------------------------------------------------------------

test("the frozen part of a training step is planned where it is in evaluation mode", function()
  local model <close> = xai.models.resnet50 { classes = 3, seed = 7, train_depth = 1, frozen = "eval", dropout = 0 }
  local x = torch.randn(2, 3, 64, 64)
  settle(model, x)
  model:train()
  local function step()
    model:zero_grad()
    model(x):sum():backward()
    for _, entry in ipairs(model:parameters()) do
      if entry.trainable then return entry.tensor.grad:clone() end
    end
  end
  local _, _, _, steps = model._state:run { x = x, outputs = model._both, training = true, infer = true, layout = 1 }
  t.ok(steps > 100, steps)
  local grad = step()
  model.engine = "reference"
  near(grad, step(), "gradient of the first trained layer", 1e-3) -- batch statistics of two images amplify
end)

test("engine = 'reference' gives the earlier bits and is part of the configuration", function()
  local model <close> = xai.models.squeezenet1_0 { classes = 3, seed = 8, engine = "reference" }
  t.equal(model.config.engine, "reference")
  local x = torch.randn(1, 3, 64, 64)
  local _, _, steps = pass(model:eval(), x)
  t.equal(steps, 0)
  local auto <close> = xai.models.squeezenet1_0 { classes = 3, seed = 8 }
  t.equal({ auto.config.engine, auto.engine, model:clone().engine }, { nil, "auto", "reference" })
end)

t.test("--trace reports once per model what runs node by node, and why", function()
  local path = t.write(t.tmpdir() .. "/own.lua", [[
local xai = require "medxai"
local torch = require "medxai.torch"
local model = xai.graph.network { name = "mine", classes = 2, seed = 1, build = function(g, x)
  x = g:conv2d("a", x, { 3, 8, 1 })
  x = g:func("shifted", function(v) return v + 1 end, { x })
  x = g:conv2d("c", g:conv2d("b", x, { 8, 8, 1 }), { 8, 8, 1 })
  return g:linear("fc", g:flatten(nil, g:adaptive_avg_pool2d(nil, x, 1)), { 8, 2 })
end }
model:eval()
torch.no_grad(function() for _ = 1, 2 do model(torch.zeros(1, 3, 4, 4)) end end)
]])
  local why = has_plan and "'shifted' (function)" or why_not
  t.equal(t.run { "--trace", path }.err, "mine: runs node by node: " .. why .. "\n")
  t.equal(t.run { path }.err, "")
end)

-- ---- memory ---------------------------------------------------------------------------------------------------------

local function sweep(fail_after, f, clear)
  for n = 0, 3000 do
    clear()
    memory.collect()
    local before = memory.live()
    fail_after(n, 1000000)
    local ok, message = pcall(f)
    fail_after(-1)
    if ok then return t.ok(n > 0, "no allocation was made to fail") end
    message = tostring(message)
    t.ok(message:find "out of memory" or message:find "not enough memory", message)
    clear()
    memory.collect()
    t.equal(memory.live(), before, "after failure " .. n)
  end
  error "it never got through"
end

for _, kind in ipairs { "fail_after", "c_fail_after" } do
  test("each allocation of a first pass may fail, and nothing is lost: " .. kind, function()
    local model <close> = stages()
    local x = torch.randn(2, 3, 12, 12)
    model:eval()
    local want = pass(model, x)
    sweep(memory[kind], function()
      local scope <close> = memory.scope() -- luacheck: ignore
      t.ok(torch.equal((pass(model, x)), want), "the pass after a failure")
    end, function() model._state:drop_folded() end)
  end)
end

test("a thousand passes leave memory flat", function()
  local model <close> = stages()
  local x = torch.randn(3, 3, 12, 12)
  model:eval()
  pass(model, x)
  memory.collect()
  local before = memory.live()
  for _ = 1, 1000 do
    local scope <close> = memory.scope() -- luacheck: ignore
    pass(model, x)
  end
  memory.collect()
  t.equal(memory.live(), before)
end)
