-- backward, autograd.grad, grad modes, guided ReLU, autocast, torch's generators.
local t = require "t"
local torch = require "medxai.torch"
local memory = require("medxai.core").memory

local function leaf(...) return torch.tensor({ ... }):requires_grad_() end

t.test("backward adds to the leaves' gradients", function()
  local x = leaf(1.0, -2.0, 3.0)
  local y = (x * x):sum()
  y:backward { retain_graph = true }
  t.equal(x.grad:tolist(), { 2, -4, 6 })
  y:backward()
  t.equal(x.grad:tolist(), { 4, -8, 12 })
  t.fails(function() y:backward() end, "backward: the graph was freed by an earlier pass. Give { retain_graph = "
    .. "true } to that one.")
end)

t.test("backward takes the gradient of an output that is not one number", function()
  local x = leaf(1.0, 2.0)
  t.fails(function() (x * 2):backward() end, "backward: output 1 has shape 2, not one number. Give its gradient, or "
    .. "reduce it first (sum, mean).")
  local y = x * 2
  y:backward(torch.tensor { 1.0, 10.0 })
  t.equal(x.grad:tolist(), { 2, 20 })
  t.fails_like(function() (x * 2):backward(torch.ones(3)) end, "^backward: .*[sS]hape")
end)

t.test("backward refuses outputs that need no gradient", function()
  t.fails(function() torch.ones(1):backward() end,
    "backward: output 1 does not require grad: it was made under no_grad or from tensors that do not.")
  local x = leaf(1.0)
  t.fails(function() torch.no_grad(function() return x * 2 end):backward() end,
    "backward: output 1 does not require grad: it was made under no_grad or from tensors that do not.")
  t.fails(function() (x * 2):backward { retain = true } end,
    "backward: unknown option 'retain' (retain_graph, create_graph)")
  t.fails(function() (x * 2):backward { retain_graph = 1 } end,
    "backward: option 'retain_graph' is true or false, got number")
  t.fails(function() torch.autograd.backward({}) end, "backward: expected at least one tensor, got an empty list")
  t.fails(function() torch.autograd.backward(3) end, "backward: expected a tensor or a list of tensors, got number")
end)

t.test("grad gives the gradients of several outputs for several inputs and leaves .grad alone", function()
  local a, b, c = leaf(1.0, 2.0), leaf(3.0, 4.0), leaf(5.0)
  local u, v = (a * b):sum(), b * b
  local g = torch.autograd.grad({ u, v }, { a, b, c },
    { grad_outputs = { torch.none, torch.tensor { 1.0, 10.0 } }, allow_unused = true })
  t.equal(g[1]:tolist(), { 3, 4 })
  t.equal(g[2]:tolist(), { 1 + 6, 2 + 80 })
  t.equal(g[3], torch.none)
  t.equal(a.grad, nil)
  t.fails(function() torch.autograd.grad((a * 2):sum(), { a, c }) end,
    "grad: input 2 has no part in the outputs. Give allow_unused = true to get torch.none for it.")
  t.fails(function() torch.autograd.grad((a * 2):sum(), torch.ones(1)) end,
    "grad: input 1 does not require grad. Call requires_grad_() on it before the outputs are made.")
  t.fails(function() torch.autograd.grad((a * 2):sum(), a, { grad_outputs = { torch.ones(1), torch.ones(1) } }) end,
    "grad: 2 gradients for 1 outputs. Give one each (torch.none for 1).")
end)

t.test("an output that is itself the input, or a leaf among others, has its own gradient", function()
  local x = leaf(1.0, 2.0)
  t.equal(torch.autograd.grad({ x }, { x }, { grad_outputs = { torch.tensor { 3.0, 4.0 } } })[1]:tolist(), { 3, 4 })
  local dropped = torch.dropout(x, 0.5, false) -- in evaluation it gives its very input
  t.equal(torch.autograd.grad(dropped, x, { grad_outputs = { torch.ones(2) } })[1]:tolist(), { 1, 1 })
  x:backward(torch.tensor { 5.0, 6.0 })
  t.equal(x.grad:tolist(), { 5, 6 })
end)

t.test("second derivatives", function()
  local x = leaf(2.0, -1.0)
  local g = torch.autograd.grad(x:pow(3):sum(), x, { create_graph = true })[1]
  t.equal(g:tolist(), { 12, 3 })
  t.equal(torch.autograd.grad(g:sum(), x)[1]:tolist(), { 12, -6 })
end)

t.test("a graph that is kept holds nothing more after fifty passes", function()
  local s <close> = memory.scope()
  local x = torch.randn(64):requires_grad_()
  local y = x
  for _ = 1, 30 do y = y:sin() end
  y = y:sum()
  local function seconds(n)
    local host = require "medxai.host"
    local from = host.now()
    for _ = 1, n do
      local inner <close> = memory.scope()
      torch.autograd.grad(y, x, { retain_graph = true })
    end
    return host.now() - from
  end
  seconds(20)
  memory.collect()
  local before, early = memory.live().bytes, seconds(200)
  seconds(2000)
  t.ok(seconds(200) < 3 * early + 0.02, "hooks pile up")
  t.equal(memory.live().bytes, before)
end)

t.test("grad modes nest and are restored, also after an error", function()
  local x = leaf(1.0)
  t.equal(torch.is_grad_enabled(), true)
  local inside, again, sum = torch.no_grad(function(n)
    return torch.is_grad_enabled(), torch.enable_grad(function() return (x * 2).requires_grad end), n + 1
  end, 4)
  t.equal({ inside, again, sum }, { false, true, 5 })
  t.fails(function() torch.no_grad(function() error("stop", 0) end) end, "stop")
  t.equal(torch.is_grad_enabled(), true)
  t.fails(function() torch.no_grad(3) end, "no_grad: expected a function to run, got number. Call it as "
    .. "no_grad(function() ... end).")
end)

t.test("guided ReLU lets a gradient through where input and gradient are positive", function()
  local x = leaf(1.0, -1.0, 2.0, 0.0, 7.0)
  local g = torch.tensor { 1.0, 1.0, -1.0, 1.0, 5.0 }
  t.equal(torch.guided_relu(x):tolist(), { 1, 0, 2, 0, 7 })
  t.equal(torch.autograd.grad(torch.guided_relu(x), x, { grad_outputs = g })[1]:tolist(), { 1, 0, 0, 0, 5 })
  t.equal(torch.guided_relu(x, 6):tolist(), { 1, 0, 2, 0, 6 })
  t.equal(torch.autograd.grad(torch.guided_relu(x, 6), x, { grad_outputs = g })[1]:tolist(), { 1, 0, 0, 0, 0 })
  -- twice: after the inner autocast the outer one is in force
  local y = torch.guided_relu(torch.guided_relu(x) * -1 + 3)
  t.equal(torch.autograd.grad(y, x, { grad_outputs = torch.ones(5) })[1]:tolist(), { 0, 0, 0, 0, 0 })
end)

t.test("autocast computes products in the given dtype and is restored, nested and after an error", function()
  local a = torch.ones(2, 2)
  local function product() return torch.mm(a, a).dtype end
  t.equal(torch.autocast({ dtype = "bfloat16" }, product), "bfloat16")
  t.equal(product(), "float32")
  t.equal(torch.autocast({}, function()
    return torch.autocast({ device = "cpu", dtype = "bfloat16" }, product) .. product()
  end), "bfloat16bfloat16")
  t.fails(function() torch.autocast({ dtype = "bfloat16" }, function() error("stop", 0) end) end, "stop")
  t.equal(product(), "float32")
  t.fails(function() torch.autocast({ dtype = "int8" }, product) end,
    "autocast: dtype is 'bfloat16' or 'float16', got int8")
  t.fails(function() torch.autocast({ type = "bfloat16" }, product) end,
    "autocast: unknown option 'type' (device, dtype)")
  t.fails(function() torch.autocast(product) end,
    "autocast: expected options first, got function. Call it as autocast({ dtype = \"bfloat16\" }, function() "
    .. "... end).")
end)

t.test("autocast's cached copies of parameters end with it", function()
  local w = torch.ones(2, 2):requires_grad_()
  local x = torch.ones(2, 2)
  local before = memory.live().bytes
  for i = 1, 3 do
    local s <close> = memory.scope()
    local y = torch.autocast({}, function() return torch.mm(x, w) end)
    t.equal(y:to("float32"):tolist()[1][1], 2 * i)
    torch.no_grad(function() w:add_(1) end)
  end
  t.equal(memory.live().bytes, before)
end)

t.test("torch's generators: seeds, states, generators of one's own", function()
  torch.manual_seed(5)
  local state = torch.get_rng_state()
  local a = torch.rand(4):tolist()
  torch.set_rng_state(state)
  t.equal(torch.rand(4):tolist(), a)
  torch.manual_seed(5)
  t.equal(torch.rand(4):tolist(), a)
  local g = torch.Generator { seed = 5 }
  t.equal(torch.rand(4, { generator = g }):tolist(), a)
  local own = g:get_state()
  local b = torch.rand(4, { generator = g }):tolist()
  g:set_state(own)
  t.equal(torch.rand(4, { generator = g }):tolist(), b)
  t.fails(function() torch.set_rng_state(torch.ones(3)) end,
    "set_state: expected the uint8 tensor of get_state, got float32")
  t.fails_like(function() torch.set_rng_state(torch.ones(3, { dtype = "uint8" })) end, "^set_state: ")
  t.fails(function() torch.Generator { sed = 1 } end, "generator: unknown option 'sed' (device = \"cpu\", seed = 0)")
end)
