-- The executor on a small network: the numbers of eager code, kept values, overrides, leaves, folding, in-place forms,
-- function nodes, modes, errors.
local t = require "t"
local core = require "medxai.core"
local graph = require "medxai.nn.graph"
local torch = require "medxai.torch"

-- conv - norm - relu, a residual block, a branch that is concatenated, pool, head
local function build(g, x, o)
  x = g:block("stem", function()
    return g:relu(nil, g:batch_norm2d("norm", g:conv2d("conv", x, { 3, 4, 3, padding = 1, bias = false }), 4))
  end)
  x = g:block("residual", function()
    local y = g:relu("relu", g:batch_norm2d("norm", g:conv2d("conv", x, { 4, 4, 3, padding = 1 }), 4))
    return g:relu("relu", g:add(nil, y, x))
  end)
  if o and o.func then x = g:func("middle", o.func, { x }) end
  x = g:block("branches", function()
    return g:cat(nil, { g:conv2d("a", x, { 4, 2, 1 }), g:max_pool2d("b", x, { 3, stride = 1, padding = 1 }) })
  end)
  x = g:flatten(nil, g:adaptive_avg_pool2d("pool", g:silu("act", x), 1))
  return g:linear("fc", g:dropout("drop", x, o and o.p or 0.5), { 6, 3 })
end

local function tiny(o)
  o = o or {}
  torch.manual_seed(o.seed or 1)
  return graph.network { name = "tiny", classes = 3, size_px = 8, dtype = o.dtype, layout = o.layout,
    build = function(g, x) return build(g, x, o) end }
end

local function p(model)
  local map = {}
  for _, entry in ipairs(model:state()) do map[entry.name] = entry.tensor end
  return map
end

-- The same network in eager operators, for eval mode.
local function eager(w, x)
  local function norm(v, name)
    return torch.batch_norm(v, w[name .. ".weight"], w[name .. ".bias"], w[name .. ".running_mean"],
      w[name .. ".running_var"], false, 0.1, 1e-5, true)
  end
  x = norm(torch.conv2d(x, w["stem.conv.weight"], nil, { 1, 1 }, { 1, 1 }), "stem.norm"):relu()
  local y = norm(torch.conv2d(x, w["residual.conv.weight"], w["residual.conv.bias"], { 1, 1 }, { 1, 1 }),
    "residual.norm"):relu()
  x = (y + x):relu()
  x = torch.cat({ torch.conv2d(x, w["branches.a.weight"], w["branches.a.bias"]),
    torch.max_pool2d(x, { 3, 3 }, { 1, 1 }, { 1, 1 }) }, 1)
  x = torch.adaptive_avg_pool2d(torch.silu(x), { 1, 1 }):flatten(1)
  return torch.linear(x, w["fc.weight"], w["fc.bias"])
end

local function same(a, b, what) t.ok(torch.equal(a, b), (what or "tensors") .. " differ") end

local function no_grad(f) return torch.no_grad(f) end

local function trained(o) -- with running statistics that are not those of a new norm
  local model = tiny(o)
  local x = torch.randn({ 4, 3, 8, 8 }, { dtype = o and o.dtype or "float32" })
  for _ = 1, 3 do no_grad(function() model(x) end) end
  return model:eval()
end

t.test("a graph's results equal eager code bit for bit, with and without autograd", function()
  local model <close> = trained()
  local x = torch.randn(2, 3, 8, 8)
  local want = eager(p(model), x)
  same(model(x), want, "with grad")
  same(no_grad(function() return model:forward { x = x, fold = false }.output end), want, "in place")
end)

t.test("in-place forms never change the input, a kept value or an override", function()
  local model <close> = trained()
  local x = torch.randn(2, 3, 8, 8)
  local names = { "x", "stem.conv", "stem.norm", "stem.relu", "residual.norm", "residual.relu", "residual.add",
    "residual", "branches.a", "branches", "pool", "flatten", "output" }
  no_grad(function()
    local copy = x:clone()
    local alone = {}
    for _, name in ipairs(names) do alone[name] = model:forward { x = x, outputs = { name }, fold = false }[name] end
    local all = model:forward { x = x, outputs = names, fold = false }
    for _, name in ipairs(names) do same(all[name], alone[name], name) end
    same(x, copy, "x")
    local norm = all["stem.norm"]:clone()
    same(model:forward { override = { ["stem.norm"] = all["stem.norm"] }, fold = false }.output, all.output, "override")
    same(all["stem.norm"], norm, "the override")
    t.ok((norm:lt(0)):any():item(), "the tap before the ReLU holds negative numbers")
  end)
end)

t.test("gradients equal those of eager code", function()
  local model <close> = trained { dtype = "float64" }
  local x = torch.randn({ 2, 3, 8, 8 }, { dtype = "float64" })
  model(x):sum():backward()
  local got = {}
  for _, entry in ipairs(model:parameters()) do got[entry.name] = entry.tensor.grad:clone() end
  model:zero_grad()
  eager(p(model), x):sum():backward()
  for _, entry in ipairs(model:parameters()) do same(got[entry.name], entry.tensor.grad, entry.name) end
end)

t.test("train mode updates the norms' statistics and counts batches, eval mode does not", function()
  local model <close> = tiny()
  local x = torch.randn(4, 3, 8, 8)
  model(x)
  local w = p(model)
  t.equal(w["stem.norm.num_batches_tracked"]:item(), 1)
  local before = w["stem.norm.running_mean"]:clone()
  model:eval()(x)
  same(w["stem.norm.running_mean"], before, "running mean in eval mode")
  t.equal(w["stem.norm.num_batches_tracked"]:item(), 1)
end)

t.test("grad_from gives leaves; the part before it records no graph", function()
  local model <close> = trained()
  local x = torch.randn(2, 3, 8, 8)
  local got = model:forward { x = x, grad_from = { "residual", "branches" } }
  t.ok(got.residual.requires_grad and got.residual.is_leaf, "the first is a leaf")
  t.ok(got.branches.requires_grad and not got.branches.is_leaf, "the one behind it is part of the recorded graph")
  local g = torch.autograd.grad(got.output:sum(), { got.residual, got.branches })
  x = x:clone():requires_grad_()
  local whole = model:forward { x = x, outputs = { "output", "residual", "branches" } }
  local want = torch.autograd.grad(whole.output:sum(), { whole.residual, whole.branches })
  t.near(g[1], want[1], 1e-7)
  t.near(g[2], want[2], 1e-7)
  no_grad(function() -- leaves ask for a gradient whatever the caller's mode
    t.ok(model:forward { x = x, grad_from = { "residual" } }.output.requires_grad)
  end)
end)

t.test("override and base recompute only what depends on the override", function()
  local model <close> = trained()
  local x = torch.randn(1, 3, 8, 8)
  no_grad(function()
    t.equal(model:boundary { override = { "residual.conv" } }, { "stem.relu" })
    t.equal(model:boundary { override = { "branches.a" } }, { "branches.b" })
    local base = model:forward { x = x, outputs = { "branches.a", "branches.b", "residual", "output" }, fold = false }
    local five = torch.randn(5, 2, 8, 8)
    local visited = {}
    local got = model:forward { override = { ["branches.a"] = five }, base = { ["branches.b"] = base["branches.b"] },
      fold = false, each = function(name) visited[#visited + 1] = name end }
    t.equal(visited, { "branches.cat", "act", "pool", "flatten", "drop", "fc" })
    for i = 0, 4 do
      local one = model:forward { x = x, override = { ["branches.a"] = five:narrow(0, i, 1) }, fold = false }
      t.near(got.output:narrow(0, i, 1), one.output, 1e-6)
    end
    -- values that the base lacks are computed from x
    t.near(model:forward { x = x, override = { ["branches.a"] = five }, fold = false }.output, got.output, 1e-6)
    t.fails(function() model:forward { override = { ["branches.a"] = five } } end,
      "graph: the input is read but was not given. Give x, or the values in base that are read.")
    t.fails(function()
      model:forward { override = { ["branches.a"] = five }, base = { ["branches.b"] = torch.zeros(3, 4, 8, 8) } }
    end,
      "override: 'branches.b' has batch 3, the override 5. Give a base run of one image, or of as many as the "
      .. "override.\n  in tiny > branches > cat")
    t.fails(function()
      model:forward { x = x, override = { ["branches.a"] = five, ["branches.b"] = torch.zeros(2, 4, 8, 8) } }
    end,
      "override: 'branches.b' has batch 2, another one 5. Give all the same, or 1.")
  end)
end)

t.test("folded batch norms give the same values and follow changes of the weights", function()
  local model <close> = trained { dtype = "float64" }
  local x = torch.randn({ 2, 3, 8, 8 }, { dtype = "float64" })
  no_grad(function()
    local function both() return model(x), model:forward { x = x, fold = false }.output end
    t.near(model(x), model:forward { x = x, fold = false }.output, 1e-12)
    p(model)["stem.norm.running_var"]:mul_(3)
    t.near(model(x), model:forward { x = x, fold = false }.output, 1e-12)
    p(model)["residual.conv.weight"]:add_(0.1)
    local a, b = both()
    t.near(a, b, 1e-12)
    -- a convolution whose value is kept is not folded
    local got = model:forward { x = x, outputs = { "stem.conv", "output" }, fold = true }
    same(got["stem.conv"], torch.conv2d(x, p(model)["stem.conv.weight"], nil, { 1, 1 }, { 1, 1 }), "tap")
  end)
end)

t.test("guided rectifiers pass positive gradients only", function()
  local model <close> = trained()
  local x = torch.randn(2, 3, 8, 8)
  local got = model:forward { x = x, grad_from = { "residual.add" }, outputs = { "residual", "output" }, guided = true }
  local g = torch.autograd.grad(got.output:sum(), { got["residual.add"], got.residual })
  local want = g[2]:clamp_min(0) * got["residual.add"]:gt(0)
  t.near(g[1], want, 0)
end)

t.test("a Lua function can be a node: values, gradients, errors", function()
  local calls = 0
  local function double(x)
    calls = calls + 1
    return x * 2 + 1
  end
  local model <close> = trained { func = double }
  local x = torch.randn(2, 3, 8, 8)
  local got = model:forward { x = x, outputs = { "residual", "middle", "output" } }
  same(got.middle, got.residual * 2 + 1)
  t.ok(calls > 0)
  model(x):sum():backward()
  t.ok(p(model)["stem.conv.weight"].grad:abs():sum():item() > 0)

  local wrong <close> = tiny { func = function() return 3 end }
  t.fails(function() wrong(x) end, "function: gives number (expected an open tensor)\n  in tiny > middle")
  local failing <close> = tiny { func = function() error("no idea", 0) end }
  t.fails(function() failing(x) end, "no idea\n  in tiny > middle")
  local nested <close> = tiny { func = function(v)
    return model:eval():forward { override = { stem = v }, outputs = { "residual" } }.residual
  end }
  t.equal(nested(x).shape, { 2, 3 })
end)

t.test("a function node may close its model, run it again, or collect garbage", function()
  local model
  local depth = 0
  model = tiny { func = function(v)
    depth = depth + 1
    collectgarbage()
    if depth == 1 then model(torch.rand(2, 3, 8, 8)) else model:close() end
    return v
  end }
  t.fails_like(function()
    model(torch.rand(2, 3, 8, 8))
    model(torch.rand(2, 3, 8, 8))
  end, "model is closed")
end)

t.test("dropout draws from torch's generator while training, and nothing with p = 0", function()
  local model <close> = tiny()
  local x = torch.randn(4, 3, 8, 8)
  torch.manual_seed(5)
  local a = model(x)
  torch.manual_seed(5)
  same(model(x), a, "the same seed")
  local none <close> = tiny { p = 0.0 }
  torch.manual_seed(5)
  none(x)
  local after = torch.rand(1):item()
  torch.manual_seed(5)
  t.equal(torch.rand(1):item(), after, "nothing was drawn")
end)

t.test("channels_last gives the same numbers and its own layout", function()
  local model <close> = trained { dtype = "float64", layout = "channels_last" }
  local x = torch.randn({ 2, 3, 8, 8 }, { dtype = "float64" })
  local got = no_grad(function() return model:forward { x = x, outputs = { "stem", "output" }, fold = false } end)
  t.equal(got.stem:stride(1), 1)
  t.near(got.output, no_grad(function() return eager(p(model), x) end), 1e-12)
end)

t.test("one plan serves all runs of one kind", function()
  local model <close> = trained()
  local native = model._def.native
  local x = torch.randn(2, 3, 8, 8)
  model(x)
  local n = native:plans()
  for _ = 1, 5 do model(x) end
  t.equal(native:plans(), n)
  for i = 1, 200 do
    model:forward { x = x, outputs = { model:node_names()[i % 15 + 1] }, grad_from = i % 2 == 0 and { "stem" } or nil,
      guided = i % 3 == 0 }
  end
  t.ok(native:plans() <= 64)
end)

t.test("an unknown node is an error with the nearest names", function()
  local model <close> = tiny()
  t.fails(function() model:forward { x = torch.zeros(1, 3, 8, 8), outputs = { "residual.con" } } end,
    "tiny: unknown node 'residual.con'. Did you mean 'residual.conv', 'residual.add' or 'residual.norm'?")
  t.equal(model:has_node("residual.relu_1"), true)
  t.equal(model:nearest_nodes("stm", 1), { "stem" })
  t.equal(model:readers("stem"), { { name = "residual.conv", op = "conv2d" }, { name = "residual.add", op = "add" } })
end)

t.test("one value per channel in train mode is an error", function()
  local model <close> = graph.network { name = "one", classes = 2, build = function(g, x)
    return g:linear("fc", g:flatten(nil, g:batch_norm2d("norm", g:adaptive_avg_pool2d(nil, x, 1), 3)), { 3, 2 })
  end }
  t.fails(function() model(torch.rand(1, 3, 4, 4)) end,
    "batch_norm: one value per channel has no variance (batch 1 in train mode). Use a larger batch, larger images, "
    .. "or model:eval().\n  in one > norm")
end)

t.test("shapes that do not fit are reported with the node, in the user's terms", function()
  local model <close> = graph.network { name = "wide", classes = 2, build = function(g, x)
    return g:block("classifier", function() return g:linear("fc1", g:flatten(nil, x), { 10, 2 }) end)
  end }
  t.fails(function() model(torch.rand(2, 3, 2, 2)) end,
    "matmul: shapes 2x12 and 10x2 do not fit (12 is not 10)\n  in wide > classifier > fc1")
end)

t.test("builders refuse what cannot be built", function()
  local function net(build_it) return function() graph.network { name = "n", classes = 2, build = build_it } end end
  t.fails(net(function() end), "n: build gives nil (expected the logits' value). Return it.")
  t.fails(net(function(g, x) return g:op("a", "no_such_op", { x }) end), "graph: there is no operator 'no_such_op'")
  t.fails_like(net(function(g, x) return g:op("a", "relu", { x, 7 }) end),
    "^graph: no form of 'relu' takes these arguments %(aten::relu")
  t.fails(net(function(g, x) return g:conv2d("a", x, { 3 }) end),
    "n: conv2d: number 2 of its table is missing (expected 3).")
  t.fails(net(function(g, x) return g:conv2d("a", g:conv2d("a", x, { 3, 3, 1 }), { 3, 3, 1 }) end),
    "n: two layers are named 'a'. Name one differently.")
  t.fails(net(function(g, x) return g:block("b", function() end), x end),
    "n: block 'b' gives nil (expected the value that its last layer gave). Return it.")
end)

t.test("a NaN is traced to the node that first produced it", function()
  local model <close> = trained()
  local x = torch.randn(2, 3, 8, 8)
  t.equal(model:find_nonfinite(x), nil)
  no_grad(function() p(model)["residual.norm.weight"]:fill_(0 / 0) end)
  t.equal(model:find_nonfinite(x), "residual.norm")
end)

t.test("a node of an operator with several results is the first one; the others are freed", function()
  local model <close> = graph.network { name = "several", classes = 3, size_px = 8, build = function(g, x)
    local top = g:op("top", "adaptive_max_pool2d", { x, { 1, 1 } }) -- values and indices
    local spread = g:op("spread", "var_mean.dim", { top, { 2, 3 }, unbiased = false })
    return g:add(nil, g:flatten(nil, top), spread)
  end }
  model:eval()
  local x = torch.arange(2 * 3 * 8 * 8, { dtype = "float32" }):view({ 2, 3, 8, 8 })
  for _ = 1, 3 do t.near(torch.no_grad(model, x), { { 63, 127, 191 }, { 255, 319, 383 } }, 0) end
end)

t.test("2,000 training steps leave memory flat", function()
  local model <close> = tiny()
  local function step()
    local scope <close> = core.memory.scope()
    torch.cross_entropy(model(torch.rand(2, 3, 8, 8)), torch.tensor { 0, 1 }):backward()
    no_grad(function()
      for _, entry in ipairs(model:parameters()) do entry.tensor:add_(entry.tensor.grad, { alpha = -0.01 }) end
    end)
    model:zero_grad()
  end
  for _ = 1, 50 do step() end
  collectgarbage()
  collectgarbage()
  local before = core.memory.stats()
  local lua = collectgarbage "count"
  for _ = 1, 2000 do step() end
  collectgarbage()
  collectgarbage()
  local after = core.memory.stats()
  t.equal(after.live_tensors, before.live_tensors)
  t.equal(after.live_bytes, before.live_bytes)
  t.ok(collectgarbage "count" - lua < 64, "Lua's own memory grew by " .. collectgarbage "count" - lua .. " KiB")
end)

t.test("a profile gives each node its own seconds, forward and backward, and leaves the model as it was", function()
  local model <close> = graph.network { name = "timed", classes = 2, seed = 1, size_px = 32, build = function(g, x)
    x = g:relu(nil, g:batch_norm2d("norm", g:conv2d("first", x, { 3, 8, 3, padding = 1 }), 8))
    x = g:func("heavy", function(v)
      for _ = 1, 40 do v = v:sin():exp():tanh() end
      return v
    end, { x })
    return g:linear("fc", g:flatten(nil, g:adaptive_avg_pool2d(nil, g:conv2d("last", x, { 8, 8, 1 }), 1)), { 8, 2 })
  end }
  model:eval()
  local drawn, before = torch.get_rng_state(), model:version()
  local text, rows = model:profile { training = true, batch = 2, repeats = 2 }
  local known, last = {}, math.huge
  for _, row in ipairs(rows) do
    t.ok(row.forward + row.backward <= last, text) -- the slowest first
    known[row.name], last = row, row.forward + row.backward
  end
  t.ok(known.heavy.forward > 0 and known.heavy.backward > 0, text)
  t.ok(known.first.backward > 0 and known.last.backward > 0 and known.norm.backward > 0, text)
  t.ok(text:find("heavy +function") and text:find("conv2d +2 "), text)
  t.equal({ model:is_training(), model:version(), torch.equal(torch.get_rng_state(), drawn) }, { false, before, true })
  local _, passes = model:profile { batch = 1, repeats = 1 }
  for _, row in ipairs(passes) do t.equal(row.backward, 0.0) end
  t.fails_like(function() model:profile { batch = 0 } end, "batch")
end)
