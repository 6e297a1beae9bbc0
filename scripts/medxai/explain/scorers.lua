-- Scorers of changed images (perturb/scorer.lua) by memory budget and precision: methods with the same budget share
-- them, and what they learn of how much fits.
local scorer = require "medxai.perturb.scorer"

---@class medxai.Scorers those of one budget
---@field chunks table what chunks of other work under this budget have learnt
local Scorers = {}
Scorers.__index = Scorers

local scorers = {}

--- A function that gives the scorers of a budget, the same ones each time.
---@param model medxai.Model
---@param deterministic boolean chunks of a fixed size
---@return fun(budget_bytes: number): medxai.Scorers
function scorers.by_budget(model, deterministic)
  local known = {}
  return function(budget_bytes)
    known[budget_bytes] = known[budget_bytes] or setmetatable({ chunks = {}, _made = {}, _list = {},
      _make = function(precision)
        return scorer.new(model, { budget_mb = budget_bytes / (1 << 20), deterministic = deterministic,
          precision = precision })
      end }, Scorers)
    return known[budget_bytes]
  end
end

--- That of a precision, made when it is first asked for.
---@param precision "float32"|"bfloat16"
function Scorers:of(precision)
  if not self._made[precision] then
    self._made[precision] = self._make(precision)
    self._list[#self._list + 1] = self._made[precision]
  end
  return self._made[precision]
end

--- Images evaluated so far, over all precisions.
---@param what "forwards"|"partials"
---@return integer
function Scorers:count(what)
  local n = 0
  for _, s in ipairs(self._list) do n = n + s[what] end
  return n
end

return scorers
