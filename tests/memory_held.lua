-- What is closed while a call works with it: Lua code runs inside calls (finalizers, __close, __index, callbacks) and
-- may close anything. The call holds what it was given until it ends, so its result is right; memory comes back after
-- it.
local t = require "t"
local core = require "medxai.core"
local graph = require "medxai.nn.graph"
local host = require "medxai.host"
local torch = require "medxai.torch"

local memory = core.memory

t.test("a finalizer may close all arguments, or their scope, at any allocation of any binding", function()
  local out = t.tmpdir() .. "/out"
  local program = t.root .. "/tests/fuzz/closing.lua"
  local ok = os.execute(("%s --threads 1 %s >%s 2>&1"):format(t.quote(host.exe), t.quote(program), t.quote(out)))
  if not ok then error(t.read(out):sub(-600), 0) end
end)

t.test("a function that is called may close its caller's arguments and scope", function()
  local a = torch.full({ 3 }, 2.0)
  t.equal(torch.no_grad(function(x) a:close() return x:is_closed() end, a), true)
  local kept
  do
    local s <close> = memory.scope()
    kept = torch.ones(2)
    memory.unscoped(function() s:close() end)
    t.equal(kept:is_closed(), true)
    t.equal(torch.ones(2):sum():item(), 2) -- goes to the scope around
  end
end)

t.test("options that close a tensor when they are read: it is closed, and that is all", function()
  local gram, xy = torch.eye(2, { dtype = "float64" }), torch.tensor({ 3, -1 }, { dtype = "float64" })
  local options = setmetatable({}, { __index = function() gram:close() end })
  t.fails_like(function() core.lars.path(gram, xy, options) end, "^tensor is closed")
end)

-- A network with a function node between two operators.
local function with_function(f)
  torch.manual_seed(1)
  return graph.network { name = "tiny", classes = 2, size_px = 4, build = function(g, x)
    x = g:func("middle", f, { g:conv2d("conv", x, { 3, 2, 1 }) })
    return g:linear("fc", g:flatten("flatten", g:adaptive_avg_pool2d("pool", x, 1)), { 2, 2 })
  end }
end

t.test("a function node may close the input, its argument and the model that runs it", function()
  local base = torch.randn(2, 3, 4, 4)
  local plain <close> = with_function(function(v) return v * 2 end)
  local want = torch.no_grad(function() return plain(base) end)
  local x, model, scope
  local acts = { function() x:close() end, function(v) v:close() end, function() model:close() end }
  for i, act in ipairs(acts) do
    x = base:clone()
    model = with_function(function(v)
      local y = v * 2
      act(v)
      return y
    end)
    local y = torch.no_grad(function() return model(x) end)
    t.ok(torch.equal(y, want), "act " .. i)
    model:close()
  end
  local last <close> = with_function(function(v)
    local y = v * 2
    scope:close()
    return y
  end)
  scope = memory.scope()
  t.fails_like(function() torch.no_grad(function() return last(base) end) end,
    "function: gives userdata %(expected an open tensor%)")
end)

t.test("what a call held is free when it has returned, and when it has raised, before the next one is made", function()
  local big, small = torch.ones(1000, 1000), torch.ones(3)
  local sum = big:sum()
  local live = memory().live_bytes
  t.equal({ big:dim(), sum:item() }, { 2, 1000000 })
  big:close()
  t.equal(live - memory().live_bytes, 4000000)
  big = torch.ones(1000, 1000)
  t.fails_like(function() return torch.mm(big, small) end, "^mm: ")
  pcall(function() pcall(torch.mm, big, small) end) -- deeper on the stack than the next call
  big:close()
  t.equal(live - memory().live_bytes, 4000000)
end)

t.test("a coroutine that failed inside a call, and is never resumed, keeps nothing", function()
  local before = memory.live()
  for _ = 1, 20 do
    local x = torch.ones(100)
    local co = coroutine.create(function() return torch.mm(x, x) end)
    t.equal(coroutine.resume(co), false)
    x:close()
  end
  t.equal(memory.live(), before)
end)
