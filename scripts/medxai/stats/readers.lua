-- How far readers agree: quadratic weighted kappa of two, intraclass correlation of several.
-- It refuses a number where nobody's ratings differ: nil.
local check = require "medxai.base.check"

local readers = {}

--- Cohen's kappa with quadratic weights (Cohen 1968): 1 - sum of squared differences over that of independent readers.
---@param a number[] ratings of one reader
---@param b number[] of another, of the same cases
---@return number|nil at most 1; nil where the ratings of all cases and both readers are equal
function readers.kappa(a, b)
  if #a ~= #b then check.fail("readers", "kappa: %d and %d ratings.", #a, #b) end
  local n, observed, ma, mb, sa, sb = #a, 0.0, 0.0, 0.0, 0.0, 0.0
  for i = 1, n do
    observed = observed + (a[i] - b[i]) ^ 2 / n
    ma, mb, sa, sb = ma + a[i] / n, mb + b[i] / n, sa + a[i] ^ 2 / n, sb + b[i] ^ 2 / n
  end
  local expected = sa + sb - 2 * ma * mb -- the mean squared difference over all pairs of cases
  if not (expected > 1e-12 * (sa + sb)) then return nil end
  return 1 - observed / expected
end

--- ICC(2,1) (Shrout and Fleiss 1979): agreement of single ratings, cases and readers both drawn at random.
---@param rows number[][] [case][reader], no gaps
---@return number|nil at most 1; nil of fewer than two cases or readers, or where all ratings are equal
function readers.icc(rows)
  local n, k = #rows, #(rows[1] or {})
  if n < 2 or k < 2 then return nil end
  local by_case, by_reader, mean = {}, {}, 0.0
  for j = 1, k do by_reader[j] = 0.0 end
  for i, row in ipairs(rows) do
    if #row ~= k then check.fail("readers", "case %d has %d ratings (expected %d, one per reader).", i, #row, k) end
    by_case[i] = 0.0
    for j, v in ipairs(row) do
      by_case[i], by_reader[j], mean = by_case[i] + v / k, by_reader[j] + v / n, mean + v / (n * k)
    end
  end
  local sc, sr, se = 0.0, 0.0, 0.0
  for i, row in ipairs(rows) do
    sc = sc + k * (by_case[i] - mean) ^ 2
    for j, v in ipairs(row) do se = se + (v - by_case[i] - by_reader[j] + mean) ^ 2 end
  end
  for j = 1, k do sr = sr + n * (by_reader[j] - mean) ^ 2 end
  local mc, mr, me = sc / (n - 1), sr / (k - 1), se / ((n - 1) * (k - 1))
  local all = mc + (k - 1) * me + k * (mr - me) / n
  if not (sc + sr + se > 0) then return nil end
  return (mc - me) / all
end

return readers
