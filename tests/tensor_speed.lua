-- The price of an operator's call from Lua. The bound is loose, for busy machines; tests/bench has the comparison with
-- Python.
local t = require "t"
local torch = require "medxai.torch"

local function best_us(f)
  local best = math.huge
  for _ = 1, 20 do
    local start = os.clock()
    f(5000)
    best = math.min(best, os.clock() - start)
  end
  return best / 5000 * 1e6
end

t.test("torch.add of two small tensors takes less than 4 us", function()
  local a, b, add = torch.ones(2, 3), torch.ones(2, 3), torch.add
  local us = best_us(function(n)
    for _ = 1, n do add(a, b) end
  end)
  if us > 4 then error(("%.2f us"):format(us), 0) end
end)

t.test("a field costs less than 1 us", function()
  local a = torch.ones(2, 3)
  local us = best_us(function(n)
    for _ = 1, n do local _ = a.dtype end
  end)
  if us > 1 then error(("%.2f us"):format(us), 0) end
end)
