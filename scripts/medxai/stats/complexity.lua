-- Concentration of a map: Gini coefficient, entropy, area that holds half of it. Of the positive part of a flat list;
-- none of them ranks methods, since a point is perfectly concentrated and may be anywhere. nil for a map without
-- positive values.
local complexity = {}

-- The positive parts, ascending, and their sum; nil where there is none or a value is NaN.
local function positive(map)
  local list, sum = {}, 0.0
  for i, v in ipairs(map) do
    if v ~= v or v == math.huge then return nil end
    list[i] = v > 0 and v or 0.0
    sum = sum + list[i]
  end
  if sum == 0 then return nil end
  table.sort(list)
  return list, sum
end

--- Gini coefficient: sum (2 i - n - 1) s_i / (n sum s), s ascending; 0 for an even map, (n - 1) / n for a point
--- (Chalasani 2020).
---@param map number[] n cells
---@return number|nil
function complexity.gini(map)
  local s, sum = positive(map)
  if not s then return nil end
  local n, total = #s, 0.0
  for i, v in ipairs(s) do total = total + (2 * i - n - 1) * v end
  return total / (n * sum)
end

--- Entropy of the cells' shares of the energy over that of an even map, ln n: 0 for a point, 1 for an even map (Bhatt
--- 2020, normed so that it does not grow with the number of cells).
---@param map number[] two cells or more
---@return number|nil
function complexity.entropy(map)
  local s, sum = positive(map)
  if not s or #s < 2 then return nil end
  local total = 0.0
  for _, v in ipairs(s) do
    if v > 0 then total = total - v / sum * math.log(v / sum) end
  end
  return math.max(0, total / math.log(#s))
end

--- The least share of the cells that holds half of the energy.
---@param map number[]
---@return number|nil above 0, at most 1/2 and a cell
function complexity.effective_area(map)
  local s, sum = positive(map)
  if not s then return nil end
  local held, count = 0.0, 0
  for i = #s, 1, -1 do
    held, count = held + s[i], count + 1
    if held >= sum / 2 * (1 - 1e-12) then break end
  end
  return count / #s
end

return complexity
