-- Scopes: what is made inside is closed at the end, what is kept lives on.
local t = require "t"
local torch = require "medxai.torch"
local memory = require("medxai.core").memory

local closed = "tensor is closed (by close(), or with the scope in which it was made: scope:keep(t) lets it live on)."

t.test("a scope closes tensors made in it; using them later is an error", function()
  local inside
  do
    local s <close> = memory.scope()
    inside = torch.ones(2)
    t.equal(tostring(s), "scope with 1 tensors")
  end
  t.fails(function() return inside + 1 end, closed)
  t.fails(function() return inside.shape end, closed)
  t.fails(function() return torch.add(torch.ones(2), inside) end, closed)
end)

t.test("keep moves tensors, also those in tables, to the enclosing scope", function()
  local outer <close> = memory.scope()
  local a, b, c, d
  do
    local inner <close> = memory.scope()
    a, b, c, d = torch.ones(1), torch.ones(2), torch.ones(3), torch.ones(4)
    t.equal(inner:keep(a), a)
    t.equal(select("#", inner:keep(b, { list = { c } })), 2)
  end
  t.equal({ a.shape[1], b.shape[1], c.shape[1] }, { 1, 2, 3 })
  t.fails(function() return d.shape end, closed)
  outer:close()
  t.fails(function() return a.shape end, closed)
end)

t.test("keep leaves a tensor of an outer scope where it is", function()
  local outer <close> = memory.scope()
  local a = torch.ones(1)
  local middle <close> = memory.scope()
  local inner <close> = memory.scope()
  inner:keep(a)
  inner:close()
  middle:close()
  t.equal(a:item(), 1)
  outer:close()
end)

t.test("an outer scope keeps what an open inner one made", function()
  local a
  do
    local outer <close> = memory.scope()
    local inner <close> = memory.scope()
    a = torch.ones(1)
    outer:keep(a)
  end
  t.equal(a:item(), 1)
end)

t.test("a scope closes its tensors when its block raises, at any depth", function()
  local a, b
  local ok, message = pcall(function()
    local s <close> = memory.scope()
    a = torch.ones(3)
    local inner <close> = memory.scope()
    b = torch.ones(3)
    error("stop", 0)
  end)
  t.equal({ ok, message }, { false, "stop" })
  t.fails(function() return a.shape end, closed)
  t.fails(function() return b.shape end, closed)
end)

t.test("closing twice, or the outer scope first, is safe", function()
  local outer, inner = memory.scope(), nil
  local a = torch.ones(1)
  inner = memory.scope()
  local b = torch.ones(1)
  outer:close()
  outer:close()
  t.fails(function() return a.shape end, closed)
  t.equal(b:item(), 1)
  local c = torch.ones(1) -- still goes to the inner one
  inner:close()
  t.fails(function() return c.shape end, closed)
  t.equal(tostring(inner), "scope (closed)")
  t.fails(function() inner:keep(b) end, "scope: keep: the scope is closed. Keep tensors before it ends.")
end)

t.test("a scope left open by mistake gives its tensors to the enclosing scope", function()
  local a
  do
    local s = memory.scope()
    a = torch.ones(1)
    s = nil
  end
  memory.collect()
  t.equal(a:item(), 1)
  a:close()
end)

t.test("unscoped makes tensors that outlive all scopes", function()
  local cache
  do
    local s <close> = memory.scope()
    cache = memory.unscoped(function(n) return torch.ones(n) end, 3)
  end
  t.equal(cache.shape, { 3 })
  local lost
  t.fails(function()
    memory.unscoped(function()
      lost = torch.ones(1)
      error("stop", 0)
    end)
  end, "stop")
  t.fails(function() return lost.shape end, closed)
end)

t.test("a coroutine's scopes close in order", function()
  local a
  local co = coroutine.wrap(function()
    local s <close> = memory.scope()
    a = torch.ones(1)
    coroutine.yield()
  end)
  co()
  t.equal(a:item(), 1)
  co()
  t.fails(function() return a.shape end, closed)
end)

t.test("a scope that a suspended coroutine holds takes nothing from the one that resumed it", function()
  local inside, between, after
  local co = coroutine.wrap(function()
    local s <close> = memory.scope()
    inside = torch.ones(1)
    coroutine.yield()
    after = torch.ones(1)
    coroutine.yield()
  end)
  co()
  between = torch.ones(1)
  local outer <close> = memory.scope()
  local held = torch.ones(1)
  co()
  co()
  t.fails(function() return inside.shape end, closed)
  t.fails(function() return after.shape end, closed)
  t.equal({ between:item(), held:item() }, { 1, 1 })
  t.equal(tostring(outer), "scope with 1 tensors")
end)

t.test("a scope of the one who resumes takes nothing from the coroutine", function()
  local made
  local co = coroutine.wrap(function()
    made = torch.ones(1) -- no scope is open here: it belongs to none
    local s <close> = memory.scope()
    local mine = torch.ones(1)
    coroutine.yield()
    coroutine.yield(mine:item())
  end)
  do
    local step <close> = memory.scope()
    co()
  end
  t.equal({ co(), made:item() }, { 1, 1 })
  co()
end)

t.test("a generator that closes its scope leaves its consumer's tensors alone", function()
  local function batches()
    return coroutine.wrap(function()
      for i = 1, 3 do
        local s <close> = memory.scope()
        local x = torch.full({ 2 }, i) * 2
        coroutine.yield(s:keep(x))
      end
    end)
  end
  local sums = {}
  for x in batches() do
    local y = x + 1
    sums[#sums + 1] = y
  end
  for i, y in ipairs(sums) do t.equal(y:tolist(), { 2 * i + 1, 2 * i + 1 }) end
end)

t.test("three coroutines that hold scopes at once, closed in another order than they were opened", function()
  local made = {}
  local function worker(i)
    return coroutine.wrap(function()
      local s <close> = memory.scope()
      for k = 1, 3 do
        made[#made + 1] = { torch.full({ 1 }, i * 10 + k), i }
        coroutine.yield()
      end
    end)
  end
  local one, two, three = worker(1), worker(2), worker(3)
  for _ = 1, 3 do one() two() three() end
  local function open_of(i)
    local n = 0
    for _, entry in ipairs(made) do n = n + (entry[2] == i and not entry[1]:is_closed() and 1 or 0) end
    return n
  end
  t.equal({ open_of(1), open_of(2), open_of(3) }, { 3, 3, 3 })
  two()
  t.equal({ open_of(1), open_of(2), open_of(3) }, { 3, 0, 3 })
  one()
  t.equal({ open_of(1), open_of(2), open_of(3) }, { 0, 0, 3 })
  three()
  t.equal({ open_of(1), open_of(2), open_of(3) }, { 0, 0, 0 })
end)

t.test("a coroutine that failed or was dropped closes its scopes", function()
  local before = memory().boxes
  for _ = 1, 50 do
    local co = coroutine.create(function()
      local s <close> = memory.scope()
      local x = torch.ones(1)
      coroutine.yield()
      return x:no_such_operator()
    end)
    coroutine.resume(co)
    t.equal(coroutine.resume(co), false) -- and it is neither closed nor held
  end
  memory.collect() memory.collect()
  t.equal(memory().boxes, before)
  t.equal(torch.ones(1):item(), 1)
end)

t.test("a scope may be closed by another coroutine than its own", function()
  local s, a
  local co = coroutine.wrap(function()
    s = memory.scope()
    a = torch.ones(1)
    coroutine.yield()
    return torch.ones(1)
  end)
  co()
  s:close()
  t.fails(function() return a.shape end, closed)
  t.equal(co():item(), 1)
end)

t.test("wrong arguments of keep and the limits are errors", function()
  local s <close> = memory.scope()
  t.fails(function() s:keep(3) end, "scope: keep: expected tensors, got number. Call it as scope:keep(t, ...).")
  t.fails(function() memory.set_limit("much") end, "memory.set_limit: expected a size in MB (0 or more), got much")
  t.fails(function() memory.set_cache(-1) end, "memory.set_cache: expected a size in MB (0 or more), got -1")
end)
