-- One allocation fails, at every place of a training step and of an operator in turn: either an error is raised, or
-- results and state (gradients, running statistics, batch counters, random generator) equal the undisturbed call to the
-- last bit. Both outcomes must occur, else a retry that never helps would pass.
local t = require "t"
local core = require "medxai.core"
local graph = require "medxai.nn.graph"
local torch = require "medxai.torch"

local memory = core.memory

-- The tensors' shapes, types and bytes as one text; nil is allowed.
local function print_of(tensors)
  local hash = core.image.sha256_stream()
  for i = 1, tensors.n do
    local x = tensors[i]
    hash:update(x and x.dtype .. tostring(x.shape) .. x:data_string() or "nothing")
  end
  return hash:hex()
end

-- trial() prepares and gives f, what is to be judged; f() gives tensors { n = ... }. Every allocation of f fails once.
-- -> how many failures were survived, how many raised
local function sweep(trial)
  local function attempt(n, times)
    local s <close> = memory.scope()
    local f, left = trial()
    memory.fail_after(n, times)
    local ok, result = pcall(f)
    memory.fail_after(-1)
    if not ok then
      t.ok(tostring(result):find "out of memory", tostring(result))
      return nil
    end
    for _, x in ipairs(left and left() or {}) do result.n = result.n + 1; result[result.n] = x end
    return print_of(result)
  end
  local want = attempt(-1)
  t.equal(attempt(-1), want, "the call itself repeats")
  local low, high = 0, 1 << 14 -- how many allocations it makes: all later ones may fail
  while low < high do
    local mid = (low + high) // 2
    if attempt(mid, 1 << 20) then high = mid else low = mid + 1 end
  end
  local survived, raised = 0, 0
  for n = 0, low - 1 do
    local got = attempt(n, 1)
    if got then
      survived = survived + 1
      t.equal(got, want, ("after allocation %d of %d failed"):format(n, low))
    else
      raised = raised + 1
    end
  end
  return survived, raised
end

-- Saves the buffers; the function returned restores them, clears the gradients and seeds the generator.
local function rewinder(model)
  local kept = {}
  for i, entry in ipairs(model:buffers()) do kept[i] = entry.tensor:clone() end
  return function()
    for i, entry in ipairs(model:buffers()) do entry.tensor:copy_(kept[i]) end
    model:zero_grad()
    torch.manual_seed(7)
  end
end

local function left_by(model)
  local list = { torch.get_rng_state() }
  for _, entry in ipairs(model:buffers()) do list[#list + 1] = entry.tensor end
  for _, entry in ipairs(model:parameters()) do list[#list + 1] = entry.tensor.grad end
  return list
end

local function sweep_training(model, x, y)
  local rewind = rewinder(model)
  return sweep(function()
    rewind()
    local function step()
      local logits = model(x)
      torch.cross_entropy(logits, y):backward()
      return { n = 1, logits }
    end
    return step, function() return left_by(model) end
  end)
end

-- Everything that draws or counts in training: two norms, dropout, stochastic depth; and squeeze and excitation as in
-- EfficientNet B0.
local function build(g, x)
  x = g:relu6("act", g:batch_norm2d("norm", g:conv2d("conv", x, { 3, 4, 3, padding = 1, bias = false }), 4))
  local y = g:batch_norm2d("norm2", g:conv2d("conv2", g:silu("act2", x), { 4, 4, 3, padding = 1 }), 4)
  y = g:mul("scaled", y, g:sigmoid("gate", g:adaptive_avg_pool2d("squeeze", y, 1)))
  x = g:add("sum", g:stochastic_depth("depth", y, 0.5), x)
  x = g:flatten("flatten", g:adaptive_avg_pool2d("pool", x, 1))
  return g:linear("fc", g:dropout("drop", x, 0.5), { 4, 3 })
end

local function tiny()
  torch.manual_seed(1)
  return graph.network { name = "tiny", classes = 3, size_px = 8, build = build }
end

t.test("out of memory in a training step: it completes unchanged or raises", function()
  local model <close> = tiny()
  model:train()
  local survived, raised = sweep_training(model, torch.randn(3, 3, 8, 8), torch.tensor { 0, 1, 2 })
  t.ok(survived >= 40 and raised >= 10, ("%d survived, %d raised"):format(survived, raised))
end)

for _, name in ipairs { "mobilenet_v2", "efficientnet_b0" } do
  t.long("a training step of " .. name .. " survives each failed allocation whole or raises", function()
    torch.manual_seed(1)
    local model <close> = require("medxai.nn.models")[name] { classes = 3 }
    model:train()
    local survived, raised = sweep_training(model, torch.randn(2, 3, 64, 64), torch.tensor { 0, 2 })
    print(("      %s: %d failures were survived, %d raised"):format(name, survived, raised))
    t.ok(survived >= 400 and raised >= 200, ("%d survived, %d raised"):format(survived, raised))
  end)
end

t.test("out of memory in an eval pass, in place, folded or guided: it completes or raises", function()
  local model <close> = tiny()
  torch.no_grad(function() model(torch.randn(3, 3, 8, 8)) end)
  model:eval()
  local x = torch.randn(2, 3, 8, 8)
  local requests = {
    function() return torch.no_grad(function() return model:forward { x = x, fold = false }.output end) end,
    function() return torch.no_grad(function() return model(x) end) end,
    function()
      local values = model:forward { x = x, grad_from = { "norm" }, guided = true, outputs = { "output" } }
      return torch.autograd.grad(values.output:sum(), { values.norm })[1]
    end,
  }
  for i, request in ipairs(requests) do
    local survived = sweep(function()
      model:train():eval() -- forgets folded weights
      return function() return { n = 1, request() } end, function() return left_by(model) end
    end)
    t.ok(survived >= 5, ("request %d: %d survived"):format(i, survived))
  end
end)

-- ---- operators called from Lua: call(x, g) -> tensors; x: float32 (4, 6), all above 0, g: a generator of its own ----

local function norm(name, training)
  return function(x)
    local mean, var = torch.zeros(6), torch.ones(6)
    local cudnn = nil
    if name ~= "native_batch_norm" then cudnn = true end
    local r = torch.raw[name](x:view(4, 6, 1), nil, nil, mean, var, training, 0.1, 1e-5, cudnn)
    return torch.is_tensor(r) and r or r[1], mean, var
  end
end

local drawing = {
  dropout = function(x) return torch.dropout(x, 0.5, true) end,
  feature_dropout = function(x) return torch.feature_dropout(x, 0.5, true) end,
  alpha_dropout = function(x) return torch.alpha_dropout(x, 0.5, true) end,
  native_dropout = function(x) return torch.raw.native_dropout(x, 0.5, true) end,
  bernoulli = function(x) return torch.bernoulli(torch.sigmoid(x)), torch.bernoulli(x, 0.3) end,
  ["a generator of one's own"] = function(x, g) return torch.bernoulli(x, 0.3, { generator = g }), g:get_state() end,
  randn = function() return torch.randn(3, 3), torch.rand(3), torch.randint(9, { 4 }), torch.randperm(9) end,
  normal = function(x) return torch.normal(x, x), torch.normal(0.5, x) end,
  like = function(x) return torch.randn_like(x), torch.rand_like(x), torch.randint_like(x, 5) end,
  multinomial = function(x) return torch.multinomial(x, 3), torch.poisson(x) end,
  rrelu = function(x) return torch.rrelu(x - 1, 0.1, 0.3, true) end,
  lstm = function(x)
    local w = {}
    local shapes = { { 8, 6 }, { 8, 2 }, { 8 }, { 8 }, { 8, 2 }, { 8, 2 }, { 8 }, { 8 } }
    for i, shape in ipairs(shapes) do w[i] = torch.full(shape, 0.1) end
    local state = { torch.zeros(2, 1, 2), torch.zeros(2, 1, 2) }
    return torch.raw.lstm(x:view(4, 1, 6), state, w, true, 2, 0.5, true, false, false)
  end,
}
local norms = {}
for _, name in ipairs { "batch_norm", "native_batch_norm", "instance_norm" } do
  norms[name] = norm(name, true)
  norms[name .. " in eval mode"] = name ~= "instance_norm" and norm(name, false) or nil
end
local writing = {
  ["add_"] = function(x)
    return x:add_(torch.ones(6)), x:mul_(2), x:sub_(torch.ones({ 6 }, { dtype = "int64" }))
  end,
  ["silu_"] = function(x) return torch.silu_(x), x:relu_(), x:clamp_(0.1, 2) end,
  ["draws in place"] = function(x) return torch.dropout_(x, 0.5, true), x:normal_(), x:bernoulli_(0.5) end,
  ["out="] = function(x) return torch.add(x, x, { out = x }), torch.cumsum(x, 1, { out = x }) end,
  ["resize_"] = function(x) return x:resize_(2, 3), x:resize_(4, 6):fill_(1) end,
  ["assignment"] = function(x)
    x[0] = 1
    x[x:gt(1)] = -2
    x[{ {}, torch.tensor { 0, 2 } }] = x[{ {}, { 0, 2 } }] * 3
    return x
  end,
  ["a sort into its argument"] = function(x)
    return torch.sort(x, 1, false, { out = { x, torch.empty({ 0 }, { dtype = "int64" }) } })
  end,
}

local function sweep_operator(call)
  local function flat(list, v)
    if torch.is_tensor(v) then list[#list + 1] = v
    elseif type(v) == "table" then for _, e in ipairs(v) do flat(list, e) end end
  end
  return sweep(function()
    torch.manual_seed(7)
    local x, g = torch.rand(4, 6) + 0.5, core.autograd.generator { seed = 3 }
    return function()
      local list = {}
      flat(list, table.pack(call(x, g)))
      list.n = #list
      return list
    end, function() return { torch.get_rng_state(), x } end
  end)
end

for _, kind in ipairs {
  { "draw random numbers", drawing }, { "keep statistics", norms }, { "write to their arguments", writing },
} do
  local what, group = kind[1], kind[2]
  t.test("operators that " .. what .. " are called again as if they had not been, or raise", function()
    local names = {}
    for name in pairs(group) do names[#names + 1] = name end
    table.sort(names)
    local survived = 0
    for _, name in ipairs(names) do
      local ok, n = pcall(sweep_operator, group[name])
      if not ok then error(name .. ": " .. tostring(n), 0) end
      survived = survived + n
    end
    t.ok(survived >= #names, survived .. " failures were survived")
  end)
end

t.test("an operator that may have written, and a backward pass, report it instead of retrying", function()
  local x = torch.zeros(3)
  memory.fail_after(0, 1)
  local ok, message = pcall(function() return x:add_(torch.ones({ 3 }, { dtype = "int64" })) end)
  memory.fail_after(-1)
  t.ok(ok or message:find "What it works on may be half changed%. Use a smaller batch", message)
  memory.fail_after(0, 1)
  message = t.fails_like(function() x:resize_(1000) end, "^out of memory: resize_ asked for ")
  memory.fail_after(-1)
  t.ok(message:find "What it works on may be half changed%.", message)
  local w = torch.ones(3):requires_grad_()
  local loss = (w * w):sum()
  memory.fail_after(0, 1)
  message = t.fails_like(function() loss:backward() end, "^out of memory: backward asked for ")
  memory.fail_after(-1)
  t.ok(message:find "What it works on may be half changed%.", message)
end)
