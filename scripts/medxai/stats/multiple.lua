-- Several comparisons at once: Holm's adjusted p-values over a family, and one statement about several comparisons
-- together. A comparison without p-value stays NaN and does not enlarge the family.
local multiple = {}

local nan = 0 / 0

--- Holm's adjusted p-values, in the order given: the r-th smallest of m times m - r + 1, never below the one before it
--- (Holm 1979, Scand. J. Statist. 6).
---@param list number[] NaN where there is none
---@return number[]
function multiple.holm(list)
  local order, out = {}, {}
  for i, p in ipairs(list) do
    out[i] = p
    if p == p then order[#order + 1] = i end
  end
  table.sort(order, function(i, j) return list[i] < list[j] or list[i] == list[j] and i < j end)
  local largest = 0
  for rank, i in ipairs(order) do
    largest = math.max(largest, math.min(1, list[i] * (#order - rank + 1)))
    out[i] = largest
  end
  return out
end

--- Whether a method beats each of several others, as one comparison: the p-value is the largest of them, 1 where any
--- difference is not in its favor (intersection-union test, Berger 1982); mean, low and high are the least favorable
--- ones.
---@param list medxai.Interval[] differences, method minus other, each with p
---@param direction string "higher" | "lower": which is better
---@return table { mean, low, high, p, n, units, why }
function multiple.each_of(list, direction)
  local sign = direction == "lower" and -1 or 1
  local r = { mean = math.huge, low = math.huge, high = math.huge, p = 0.0, n = math.huge, units = math.huge }
  for _, d in ipairs(list) do
    local low, high = d.low, d.high
    if sign < 0 then low, high = -high, -low end
    if low ~= low or d.p ~= d.p then r.why = r.why or d.why or "undefined" end
    r.mean, r.low, r.high = math.min(r.mean, sign * d.mean), math.min(r.low, low), math.min(r.high, high)
    r.p = math.max(r.p, sign * d.mean > 0 and d.p or 1)
    r.n, r.units = math.min(r.n, d.n), math.min(r.units, d.units)
  end
  if #list == 0 or r.why then
    r.low, r.high, r.p, r.why = nan, nan, nan, r.why or "nothing to compare with"
    if #list == 0 then r.mean, r.n, r.units = nan, 0, 0 end
  end
  r.mean = sign * r.mean
  if sign < 0 then r.low, r.high = -r.high, -r.low end
  return r
end

return multiple
