-- The allocator: counts, reuse, limits, out of memory, and failing allocations.
local t = require "t"
local torch = require "medxai.torch"
local memory = require("medxai.core").memory

local MB = 2 ^ 20

-- Runs f with a limit of `mb` above what is live now; both are restored.
local function with_limit(mb, f)
  local before = memory().limit_bytes / MB
  local limit = memory().live_bytes / MB + mb
  local restore <close> = setmetatable({}, { __close = function() memory.set_limit(before) end })
  memory.set_limit(limit)
  return f(limit)
end

t.test("bytes and tensors are counted exactly", function()
  local s <close> = memory.scope()
  local before = memory()
  local a = torch.empty(1000, 1000)
  local now = memory()
  t.equal(now.live_bytes - before.live_bytes, 4000000)
  t.equal(now.tensors - before.tensors, 1)
  t.equal(now.boxes - before.boxes, 1)
  memory.reset_peak()
  do
    local inner <close> = memory.scope()
    local _ = a + 1
  end
  local rise = memory().peak_bytes - memory().live_bytes
  t.ok(rise >= 4000000 and rise < 4001000) -- the 1 is a tensor too
  a:close()
  t.equal(memory().live_bytes, before.live_bytes)
  t.ok(tostring(memory()):find "^live [%d.,]+ MB, peak [%d.,]+ MB, kept for reuse [%d.,]+ MB, limit [%d.,]+ MB")
end)

t.test("a freed block serves a tensor of four fifths of its size and is returned whole", function()
  memory.empty_cache()
  local s <close> = memory.scope()
  torch.empty(3000000, { dtype = "uint8" }):close()
  local less = torch.empty(2399999, { dtype = "uint8" })
  t.equal(memory().cached_bytes, 3000000)
  local live = memory().live_bytes
  local nearly = torch.empty(2400000, { dtype = "uint8" })
  t.equal({ memory().cached_bytes, memory().live_bytes - live }, { 0, 2400000 })
  nearly:fill_(1)
  nearly:close()
  t.equal({ memory().cached_bytes, memory().live_bytes - live }, { 3000000, 0 })
  less:close()
  local most = torch.empty(3000000, { dtype = "uint8" }):fill_(7) -- all of the block
  t.equal({ memory().cached_bytes, most:sum():item() }, { 2399999, 21000000 })
end)

t.test("a freed block serves the next tensor of its size, and is aligned", function()
  memory.empty_cache()
  t.equal(memory().cached_bytes, 0)
  local s <close> = memory.scope()
  local a = torch.empty(3000011, { dtype = "uint8" })
  a:close()
  t.equal(memory().cached_bytes, 3000011)
  local b = torch.empty(3000011, { dtype = "uint8" })
  t.equal(memory().cached_bytes, 0)
  b:close()
  memory.empty_cache()
  t.equal(memory().cached_bytes, 0)
  torch.empty(1000):close() -- small blocks are left to malloc
  t.equal(memory().cached_bytes, 0)
end)

t.test("kept blocks stay below their cap; the oldest are freed first", function()
  local cap = memory().cache_limit_bytes / MB
  local restore <close> = setmetatable({}, { __close = function() memory.set_cache(cap) end })
  memory.empty_cache()
  memory.set_cache(10)
  local list = {}
  for i = 1, 5 do list[i] = torch.empty(3 * MB + i, { dtype = "uint8" }) end
  for i = 1, 5 do list[i]:close() end
  t.equal(memory().cached_bytes, 3 * 3 * MB + 3 + 4 + 5)
  memory.set_cache(0)
  t.equal(memory().cached_bytes, 0)
  torch.empty(3 * MB, { dtype = "uint8" }):close()
  t.equal(memory().cached_bytes, 0)
end)

t.test("a request beyond the limit is an error with the bytes asked, live and allowed", function()
  with_limit(64, function()
    local s <close> = memory.scope()
    local message = t.fails_like(function() return torch.empty(100 * MB, { dtype = "uint8" }) end,
      "^out of memory: empty asked for 100 MB, ")
    t.ok(message:find " MB live, limit [%d,]+ MB%. Use a smaller batch or image, or a scope around each step%.$")
    t.equal(torch.ones(2):sum():item(), 2) -- and the program goes on
  end)
end)

t.test("a request that no machine could serve is an error, not a crash", function()
  t.fails_like(function() return torch.empty(2 ^ 50, { dtype = "uint8" }) end,
    "^out of memory: empty asked for 1,073,741,824 MB, ")
  t.fails_like(function() return torch.zeros(2 ^ 62, 4) end, "")
end)

t.test("out of memory collects garbage and retries", function()
  with_limit(64, function()
    collectgarbage "stop" -- the garbage stays until the retry
    local restore <close> = setmetatable({}, { __close = function() collectgarbage "restart" end })
    for _ = 1, 20 do
      local x = torch.empty(40 * MB, { dtype = "uint8" })
      x:fill_(1)
    end
  end)
end)

t.test("kept blocks are freed for a request of another size", function()
  memory.empty_cache()
  with_limit(64, function()
    local s <close> = memory.scope()
    torch.empty(40 * MB, { dtype = "uint8" }):close()
    local y = torch.empty(50 * MB, { dtype = "uint8" })
    t.equal(memory().cached_bytes, 0)
    y:close()
  end)
end)

t.test("unreferenced tensors do not pile up", function()
  do -- what was live before must not allow more garbage afterwards
    local held = {}
    for i = 1, 300 do held[i] = torch.empty(MB) end
    t.equal(#held, 300)
  end
  memory.collect()
  memory.reset_peak()
  local before = memory().live_bytes
  for _ = 1, 1500 do
    local _ = torch.empty(MB)
  end
  t.ok(memory().peak_bytes - before < 400 * MB, "peak " .. (memory().peak_bytes - before) / MB .. " MB")
end)

t.test("an optimizer's step that runs out of memory changes nothing", function()
  local s <close> = memory.scope()
  local w = torch.ones(MB):requires_grad_()
  w.grad = torch.ones(MB)
  local o = require("medxai.train.optim").adam({ lr = 0.1 }):build { { names = { "w" }, params = { w } } }
  with_limit(10, function()
    t.fails_like(function() o:step() end, "^out of memory: optimizer asked for 4.0 MB, ")
    t.equal({ #o:state(), w:min():item() }, { 0, 1 })
  end)
  o:step()
  t.near(w:max():item(), 0.9, 1e-6)
end)

t.test("2,000 training steps keep memory flat", function()
  local optim = require "medxai.train.optim"
  local s <close> = memory.scope()
  torch.manual_seed(1)
  local w = torch.randn(16, 3, 3, 3):requires_grad_()
  local v = torch.randn(4, 16):requires_grad_()
  local o = optim.adam({ lr = 1e-3 }):build { { names = { "w", "v" }, params = { w, v } } }
  local x, y = torch.randn(4, 3, 12, 12), torch.tensor({ 0, 1, 2, 3 })
  local function step()
    local inner <close> = memory.scope()
    local loss = torch.cross_entropy(torch.conv2d(x, w):relu():mean({ 2, 3 }):mm(v:t()), y)
    o:zero_grad()
    loss:backward()
    o:step()
    return loss:item()
  end
  local first = step()
  memory.collect()
  local live, boxes, last = memory().live_bytes, memory().boxes, nil
  memory.reset_peak()
  for _ = 1, 2000 do last = step() end
  memory.collect()
  t.equal(memory().live_bytes, live)
  t.equal(memory().boxes, boxes)
  t.ok(memory().peak_bytes - live < MB)
  t.ok(last < first)
end)

-- Fails every allocation of f, one per try, until f succeeds; each failure is an error in the usual form, and nothing
-- leaks.
local function sweep(fail_after, f)
  for n = 0, 500 do
    memory.collect()
    local before = memory.live()
    fail_after(n, 1000000)
    local ok, message = pcall(f)
    fail_after(-1)
    if ok then
      t.ok(n > 0, "no allocation was made to fail")
      return
    end
    message = tostring(message)
    t.ok(message:find "out of memory" or message:find "not enough memory", message)
    memory.collect()
    t.equal(memory.live(), before, "after failure " .. n)
  end
  error "it never got through"
end

local function everything()
  local s <close> = memory.scope()
  local random, optim = require "medxai.tensor.random", require "medxai.train.optim"
  local x = torch.tensor({ 1.5, 2.5, -3.5 }):requires_grad_()
  local y = (x * x):sum()
  torch.autograd.grad(y, { x }, { retain_graph = true })
  y:backward()
  local o = optim.adam({ lr = 0.1 }):build { { names = { "x" }, params = { x } } }
  o:step()
  o:load_state(o:state())
  torch.no_grad(function() return torch.guided_relu(x) end)
  torch.autocast({ dtype = "bfloat16" }, function() return torch.mm(torch.ones(2, 2), torch.ones(2, 2)) end)
  torch.set_rng_state(torch.get_rng_state())
  random.stream({ seed = 1, purpose = "test@1" }):permutation(9)
  random.numpy_random_state(1):choice(2, 3, { 0.5, 0.5 })
  memory.unscoped(function() return 1 end)
  return s:keep({ x })
end

t.test("each tensor allocation of these bindings may fail", function()
  everything()
  sweep(memory.fail_after, everything)
end)

t.test("each of Lua's own allocations in these bindings may fail", function()
  everything()
  sweep(memory.lua_fail_after, function()
    everything()
  end)
end)
