-- How alike two maps are: Spearman's and Kendall's rank correlations, SSIM, overlap of the strongest tenth; what is
-- left of an agreement when the agreement of maps of different patients is taken off; and average linkage of what
-- agrees. Maps are flat lists, row by row. It refuses a number for a constant map: nil.
local check = require "medxai.base.check"
local ssim = require("medxai.core").ssim

local similarity = {}

local nan = 0 / 0

local function check_pair(what, a, b)
  if #a ~= #b then check.fail("similarity", "%s: the lists differ in length (%d and %d).", what, #a, #b) end
end

-- ---- ranks ----------------------------------------------------------------------------------------------------------

--- Ranks 1 .. n by ascending value, equal values sharing the mean of theirs; nil where a value is NaN.
---@param values number[]
---@return number[]|nil
function similarity.ranks(values)
  local order, out = {}, {}
  for i, v in ipairs(values) do
    if v ~= v then return nil end
    order[i] = i
  end
  table.sort(order, function(a, b) return values[a] < values[b] or values[a] == values[b] and a < b end)
  local i = 1
  while i <= #order do
    local j, v = i, values[order[i]]
    while j < #order and values[order[j + 1]] == v do j = j + 1 end
    for k = i, j do out[order[k]] = (i + j) / 2 end
    i = j + 1
  end
  return out
end

--- Pearson's correlation; nil where either list is constant, holds NaN, or is empty.
---@param a number[]
---@param b number[]
---@return number|nil
function similarity.pearson(a, b)
  check_pair("pearson", a, b)
  local n, ma, mb, sa, sb, sab = #a, 0.0, 0.0, 0.0, 0.0, 0.0
  local low_a, high_a, low_b, high_b = math.huge, -math.huge, math.huge, -math.huge
  for i = 1, n do
    local x, y = a[i], b[i]
    if x ~= x or y ~= y then return nil end
    ma, mb = ma + x / n, mb + y / n
    low_a, high_a, low_b, high_b = math.min(low_a, x), math.max(high_a, x), math.min(low_b, y), math.max(high_b, y)
  end
  if n < 2 or low_a == high_a or low_b == high_b then return nil end
  for i = 1, n do
    local x, y = a[i] - ma, b[i] - mb
    sa, sb, sab = sa + x * x, sb + y * y, sab + x * y
  end
  if not (sa > 0 and sb > 0) then return nil end
  return math.max(-1, math.min(1, sab / math.sqrt(sa) / math.sqrt(sb)))
end

--- Spearman's rank correlation with mid-ranks; nil where either list is constant or holds NaN.
---@param a number[]
---@param b number[]
---@return number|nil
function similarity.spearman(a, b)
  check_pair("spearman", a, b)
  local ra, rb = similarity.ranks(a), similarity.ranks(b)
  if not ra or not rb then return nil end
  return similarity.pearson(ra, rb)
end

--- Kendall's tau-b, which corrects for ties (Kendall 1945); nil where either list is constant or holds NaN. All
--- pairs: for short lists.
---@param a number[]
---@param b number[]
---@return number|nil
function similarity.tau_b(a, b)
  check_pair("tau_b", a, b)
  local agree, in_a, in_b = 0, 0, 0
  for i = 1, #a do
    if a[i] ~= a[i] or b[i] ~= b[i] then return nil end
    for j = i + 1, #a do
      local x = a[i] < a[j] and 1 or a[i] > a[j] and -1 or 0
      local y = b[i] < b[j] and 1 or b[i] > b[j] and -1 or 0
      agree, in_a, in_b = agree + x * y, in_a + x * x, in_b + y * y
    end
  end
  if in_a == 0 or in_b == 0 then return nil end
  return agree / math.sqrt(in_a * in_b)
end

-- ---- SSIM -----------------------------------------------------------------------------------------------------------

--- Structural similarity of two maps in [0, 1] (Wang 2004): Gaussian window of 11 px, sigma 1.5, population
--- covariance, range 1, mean over the pixels whose window lies inside. nil where a map holds NaN.
---@param a number[] height x width, row by row
---@param b number[]
---@param height integer at least 11
---@param width integer at least 11
---@return number|nil
function similarity.ssim(a, b, height, width)
  check_pair("ssim", a, b)
  if #a ~= height * width or height < 11 or width < 11 then
    check.fail("similarity",
      "ssim: %d numbers are no map of %d x %d (expected height x width, sides of 11 or more).", #a, height, width)
  end
  return ssim(a, b, height, width)
end

-- ---- the strongest cells --------------------------------------------------------------------------------------------

-- How much of each cell is among the k largest: 1 above the k-th value, at it the places left over, shared.
local function shares(values, k)
  local sorted, above, tied, out = {}, 0, 0, {}
  for i, v in ipairs(values) do sorted[i] = v end
  table.sort(sorted, function(x, y) return x > y end)
  local edge = sorted[k]
  for _, v in ipairs(values) do
    if v > edge then above = above + 1 elseif v == edge then tied = tied + 1 end
  end
  for i, v in ipairs(values) do out[i] = v > edge and 1 or v == edge and (k - above) / tied or 0 end
  return out
end

--- Overlap of the strongest tenth of two maps: cells in both over cells in either; two random maps have about 0.053.
--- Cells that tie for the last places share them, as if each map drew its own. nil where a map is constant or holds
--- NaN.
---@param a number[]
---@param b number[]
---@param share? number default 0.1
---@return number|nil
function similarity.top_overlap(a, b, share)
  check_pair("top_overlap", a, b)
  local low_a, high_a, low_b, high_b = math.huge, -math.huge, math.huge, -math.huge
  for i = 1, #a do
    if a[i] ~= a[i] or b[i] ~= b[i] then return nil end
    low_a, high_a = math.min(low_a, a[i]), math.max(high_a, a[i])
    low_b, high_b = math.min(low_b, b[i]), math.max(high_b, b[i])
  end
  if not (high_a > low_a and high_b > low_b) then return nil end
  local k = math.max(1, math.floor((share or 0.1) * #a + 0.5))
  local in_a, in_b, both = shares(a, k), shares(b, k), 0.0
  for i = 1, #a do both = both + in_a[i] * in_b[i] end
  return both / (2 * k - both)
end

-- ---- agreement beyond that of strangers -----------------------------------------------------------------------------

similarity.one_map = 0.9 -- strangers more alike than this: the method draws nearly one map for all

--- What two methods (networks, seeds) agree on beyond what maps of different patients share: A = (r - r0) / (1 - r0),
--- r the mean similarity of their maps of the same image, r0 that of their maps of different patients. 0: they share
--- only what every image has.
---@param over medxai.Units
---@param same number[] similarity of the two maps of each image, NaN where undefined
---@param strangers number[] similarity of the one's map and the other's of other patients (the mean over those), NaN
---  where undefined
---@return medxai.Interval mean = A, with r and r0; `why` where r0 > 0.9 or nothing is known
function similarity.agreement(over, same, strangers)
  local columns = { {}, {}, {}, {} }
  for i = 1, over.n do
    local a, b = same[i], strangers[i]
    local has_a, has_b = a == a, b == b
    columns[1][i], columns[2][i] = has_a and a or 0, has_a and 1 or 0
    columns[3][i], columns[4][i] = has_b and b or 0, has_b and 1 or 0
  end
  local s = over:totals(columns, function(t)
    if t[2] == 0 or t[4] == 0 then return nil end
    local r, r0 = t[1] / t[2], t[3] / t[4]
    local by_r, by_r0 = 1 / (1 - r0), (r - 1) / (1 - r0) ^ 2
    return (r - r0) / (1 - r0), { by_r / t[2], -by_r * r / t[2], by_r0 / t[4], -by_r0 * r0 / t[4] }
  end)
  local first, second = over:ratio(same), over:ratio(strangers)
  s.n = math.min(first.n, second.n)
  if second.value > similarity.one_map then s.value, s.se = nan, nan end
  local r = over:interval(s)
  r.r, r.r0 = first.value, second.value
  if second.value > similarity.one_map then
    r.why = string.format("maps of different patients agree above %g", similarity.one_map)
  end
  return r
end

-- ---- linkage --------------------------------------------------------------------------------------------------------

--- Average linkage (Sokal and Michener 1958): the two nearest groups are joined until one is left; distances of
--- groups are means over pairs.
---@param distance number[][] symmetric, no NaN
---@return table[] joins in their order: { a, b, height, size }; 1 .. n are the items, n + i the group that join i made
function similarity.linkage(distance)
  local n, groups, joins = #distance, {}, {}
  for i = 1, n do
    groups[i] = { id = i, items = { i } }
    for j = 1, n do
      if type(distance[i][j]) ~= "number" or distance[i][j] ~= distance[i][j] then
        check.fail("similarity", "linkage: the distance of %d and %d is undefined. Leave one of them out.", i, j)
      end
    end
  end
  local function between(x, y)
    local sum = 0.0
    for _, i in ipairs(x.items) do
      for _, j in ipairs(y.items) do sum = sum + distance[i][j] end
    end
    return sum / (#x.items * #y.items)
  end
  for step = 1, n - 1 do
    local best, p, q
    for i = 1, #groups do
      for j = i + 1, #groups do
        local d = between(groups[i], groups[j])
        if not best or d < best then best, p, q = d, i, j end
      end
    end
    local x, y = groups[p], table.remove(groups, q)
    local items = table.move(y.items, 1, #y.items, #x.items + 1, { table.unpack(x.items) })
    joins[step] = { a = math.min(x.id, y.id), b = math.max(x.id, y.id), height = best, size = #items }
    groups[p] = { id = n + step, items = items }
  end
  return joins
end

return similarity
