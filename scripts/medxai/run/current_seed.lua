-- The seed that models, data and explainers take where none is given: that of the run that was begun last, before any
-- run the command's --seed, else nil.
local host = require "medxai.host"

local current_seed = {}

local of_run

---@return integer|nil
function current_seed.get() return of_run or (host.options or {}).seed end

--- A run begins: from here on its seed is taken. nil: no run has begun.
---@param seed integer|nil
function current_seed.set(seed) of_run = seed end

--- Calls f with another seed in its place (a cell of a search has its own).
---@param seed integer
---@param f function
function current_seed.during(seed, f, ...)
  local before = of_run
  local restore <close> = setmetatable({}, { __close = function() of_run = before end })
  of_run = seed
  return f(...)
end

return current_seed
