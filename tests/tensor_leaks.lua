-- Allocations that fail at the n-th, n = 0, 1, 2 ...: every binding ends in its result or in one error, and leaks
-- nothing. (The runner compares live tensors and bytes after each test.)
local t = require "t"
local torch = require "medxai.torch"
local core = require "medxai.core"
local memory = core.memory

local x = torch.arange(6):view(2, 3):float()
local y = torch.tensor { 0, 1 }

local bindings = {
  function() return torch.add(x, x) end,
  function() return x + 1, 2 / x, 7 // x end,
  function() return torch.max(x, 1) end,
  function() return torch.split(x, 1) end,
  function() return torch.cat({ x, x, x }, 0) end,
  function() return torch.meshgrid({ y, y }, { indexing = "ij" }) end,
  function() return x[{ 0, { 0, 2 } }], x[x:gt(2)], x[y] end,
  function() local z = x:clone() z[0] = 1 z[{ {}, 1 }] = x[{ {}, 0 }] z[z:gt(3)] = 0 return z end,
  function() return x:tolist(), x.shape, tostring(x), x:data_string() end,
  function() return torch.tensor { { 1.5, 2 }, { 3, 4 } }, torch.tensor({ 1, 2 }, { dtype = "float16" }) end,
  function() return torch.from_string("\1\2\3\4", "int8", { 2, 2 }) end,
  function() return x:to("float64"), x:to { dtype = "int64" }, x:clone():add_(1) end,
  function() return torch.max(x, 1, true, { out = { torch.empty(0), torch.empty({ 0 }, { dtype = "int64" }) } }) end,
  function() return torch.einsum("ij,kj->ik", x, x), torch.unique(y), torch.cross_entropy(x, y) end,
}

local function sweep(fail_after, times, f)
  f() -- look-ups are made once
  for n = 0, 400 do
    fail_after(n, times)
    local ok, message = pcall(f)
    fail_after(-1)
    message = tostring(message)
    if ok then
      if n > 0 then return n end
    elseif not (message:find "memory" or message:find "made it fail") then
      error(("allocation %d failed, the error was: %s"):format(n, message), 0)
    end
  end
  return 400
end

t.test("tensor storage that fails at the n-th allocation", function()
  for _, f in ipairs(bindings) do sweep(memory.fail_after, 2, f) end
end)

t.test("Lua's allocator failing at the n-th allocation", function()
  for _, f in ipairs(bindings) do sweep(memory.lua_fail_after, 100000, f) end
end)

t.test("one failed allocation is survived: garbage is collected and the call made again", function()
  memory.fail_after(0, 1)
  local ok, z = pcall(torch.add, x, x)
  memory.fail_after(-1)
  t.ok(ok, tostring(z))
end)
