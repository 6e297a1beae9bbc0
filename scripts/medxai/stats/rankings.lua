-- Rankings of methods with what is uncertain about them: ranges of ranks from paired tests, how often a method is
-- first over resamples, groups that no test tells apart, agreement of rankings, and Friedman's test for readers who
-- ask. It refuses a blended score. Blocks are patients of one network, never images of one patient, never seeds
-- alone.
local check = require "medxai.base.check"
local distributions = require "medxai.stats.distributions"
local similarity = require "medxai.stats.similarity"
local units = require "medxai.stats.units"

local rankings = {}

local nan = 0 / 0

-- ---- from pairs -----------------------------------------------------------------------------------------------------

local function places_of(names)
  local place = {}
  for i, name in ipairs(names) do place[name] = i end
  return place
end

local function place_in(place, name)
  return place[name] or check.fail("rankings", "a comparison names '%s', which is not ranked.", tostring(name))
end

--- The range of ranks of each method (Mogstad, Romano, Shaikh and Wilhelm 2024): 1 + those that are better ... K -
--- those that are worse. Ranges that overlap are undecided.
---@param names string[] K methods
---@param pairs_ table[] { a, b, verdict = "better" (a is) | "worse" | anything else }, from medxai.stats.verdict
---@return table[] { name, low, high } in the order of the names
function rankings.ranges(names, pairs_)
  local place, list = places_of(names), {}
  for i, name in ipairs(names) do list[i] = { name = name, low = 1, high = #names } end
  for _, pair in ipairs(pairs_) do
    local a, b = list[place_in(place, pair.a)], list[place_in(place, pair.b)]
    if pair.verdict == "worse" then a, b = b, a end
    if pair.verdict == "better" or pair.verdict == "worse" then b.low, a.high = b.low + 1, a.high - 1 end
  end
  return list
end

--- Groups of methods of which no two differ: all that no further method can join (Bron and Kerbosch 1973). Drawn as
--- the bars of a critical-difference figure; from the pairs themselves, since a difference of ranks depends on who
--- else is in the race.
---@param names string[]
---@param pairs_ table[] as for ranges
---@return string[][] groups of two or more, names in the order given
function rankings.cliques(names, pairs_)
  local place, apart, found = places_of(names), {}, {}
  for i in ipairs(names) do apart[i] = { [i] = true } end
  for _, pair in ipairs(pairs_) do
    if pair.verdict == "better" or pair.verdict == "worse" then
      local a, b = place_in(place, pair.a), place_in(place, pair.b)
      apart[a][b], apart[b][a] = true, true
    end
  end
  local function grow(group, candidates, done)
    if #candidates == 0 then
      if #done == 0 and #group > 1 then found[#found + 1] = group end
      return
    end
    local left, past = { table.unpack(candidates) }, { table.unpack(done) }
    for _, v in ipairs(candidates) do
      table.remove(left, 1)
      local function near(list)
        local out = {}
        for _, u in ipairs(list) do
          if not apart[v][u] then out[#out + 1] = u end
        end
        return out
      end
      local larger = { table.unpack(group) }
      larger[#larger + 1] = v
      grow(larger, near(left), near(past))
      past[#past + 1] = v
    end
  end
  local all = {}
  for i in ipairs(names) do all[i] = i end
  grow({}, all, {})
  local list = {}
  for g, group in ipairs(found) do
    table.sort(group)
    list[g] = {}
    for i, v in ipairs(group) do list[g][i] = names[v] end
  end
  return list
end

-- ---- from values ----------------------------------------------------------------------------------------------------

-- Columns of sums and counts over the images for which every method has a value.
local function columns_of(over, values)
  local columns, n = {}, 0
  for k, list in ipairs(values) do
    if #list ~= over.n then
      check.fail("rankings", "method %d has %d values (expected %d, one per image).", k, #list, over.n)
    end
    columns[k] = {}
  end
  local count = {}
  for i = 1, over.n do
    local all = true
    for _, list in ipairs(values) do all = all and list[i] == list[i] end
    for k, list in ipairs(values) do columns[k][i] = all and list[i] or 0 end
    count[i] = all and 1 or 0
    n = n + count[i]
  end
  columns[#columns + 1] = count
  return columns, n
end

local function totals_of(columns)
  local list = {}
  for d, column in ipairs(columns) do
    list[d] = 0.0
    for _, v in ipairs(column) do list[d] = list[d] + v end
  end
  return list
end

-- Means of the first k totals, larger is better; nil where nothing counts.
local function scores_of(t, k, sign)
  local n = t[k + 1]
  if n == 0 then return nil end
  local list = {}
  for i = 1, k do list[i] = sign * t[i] / n end
  return list
end

local function sign_of(direction) return direction == "lower" and -1 or 1 end

--- How often each method has the best mean over resamples of units, over the images for which all have a value; a tie
--- is shared.
---@param over medxai.Units
---@param values number[][] [method][image]
---@param direction string "higher" | "lower": which is better
---@return number[] shares, one per method; NaN of fewer than two units
---@return integer n images that count
function rankings.best(over, values, direction)
  local columns, n = columns_of(over, values)
  local k, sign, wins, all = #values, sign_of(direction), {}, 0
  for i = 1, k do wins[i] = 0.0 end
  for _, scores in ipairs(over:resample(columns, function(t) return scores_of(t, k, sign) or {} end)) do
    local top, first = -math.huge, {}
    for i, v in ipairs(scores) do
      if v > top then top, first = v, { i } elseif v == top then first[#first + 1] = i end
    end
    for _, i in ipairs(first) do wins[i] = wins[i] + 1 / #first end
    if #first > 0 then all = all + 1 end
  end
  for i = 1, k do wins[i] = all > 0 and wins[i] / all or nan end
  return wins, n
end

--- Of each image 1 where a value is better than another, 1/2 where they are equal, 0 where it is worse: their mean is
--- the metric's power to tell a map from another patient's.
---@param values number[]
---@param others number[]
---@param direction string
---@return number[]
function rankings.wins(values, others, direction)
  local sign, list = sign_of(direction), {}
  for i, v in ipairs(values) do
    local d = sign * (v - others[i])
    list[i] = d ~= d and (v == others[i] and 0.5 or nan) or d > 0 and 1 or d < 0 and 0 or 0.5
  end
  return list
end

-- Kendall's W of k scores under m criteria, ranks corrected for ties.
local function concordance(scores)
  local m, k, sums, ties = #scores, #scores[1], {}, 0.0
  for i = 1, k do sums[i] = 0.0 end
  for _, one in ipairs(scores) do
    local ranks, seen = similarity.ranks(one), {}
    if not ranks then return nan end
    for i, r in ipairs(ranks) do
      sums[i] = sums[i] + r
      seen[r] = (seen[r] or 0) + 1
    end
    for _, r in ipairs(check.sorted_keys(seen)) do ties = ties + seen[r] ^ 3 - seen[r] end
  end
  local squares = 0.0
  for _, s in ipairs(sums) do squares = squares + (s - m * (k + 1) / 2) ^ 2 end
  local most = m * m * (k ^ 3 - k) - m * ties
  return most > 0 and 12 * squares / most or nan
end

local function interval_of(r, over, list)
  r.units, r.resampled, r.note, r.level = over.count, over.resampled, over.note, over.level
  r.interval = "percentile bootstrap"
  if over.count < units.least then
    r.why = string.format("fewer than %d %s", units.least, over.resampled)
    r.low, r.high = nan, nan
  else
    r.low, r.high = over:percentile(list)
  end
  return r
end

-- The scores of all criteria in one list of totals: criterion j begins at place[j].
local function joined(over, criteria)
  local columns, place = {}, {}
  for j, c in ipairs(criteria) do
    place[j] = #columns
    local some = columns_of(over, c.values)
    table.move(some, 1, #some, #columns + 1, columns)
  end
  return columns, function(t)
    local list = {}
    for j, c in ipairs(criteria) do
      local k = #c.values
      list[j] = scores_of(table.move(t, place[j] + 1, place[j] + k + 1, 1, {}), k, sign_of(c.direction))
      if not list[j] then return nil end
    end
    return list
  end
end

--- How alike several criteria (metrics, networks, seeds, settings) rank the same methods: Kendall's W (1939), 0 to 1,
--- with its percentile interval over patients.
---@param over medxai.Units of the images, the same for all criteria
---@param criteria table[] { values = [method][image], direction }
---@return table { mean = W, low, high, units, interval, resampled, why }
function rankings.concordance(over, criteria)
  local columns, read = joined(over, criteria)
  local function w_of(t)
    local scores = read(t)
    return scores and concordance(scores) or nan
  end
  return interval_of({ mean = w_of(totals_of(columns)) }, over, over:resample(columns, w_of))
end

--- Kendall's tau-b of two criteria's rankings of the same methods, with its percentile interval over patients.
---@param over medxai.Units
---@param first table { values = [method][image], direction }
---@param second table
---@return table { mean = tau_b, low, high, units, interval, resampled, why }
function rankings.tau_b(over, first, second)
  local columns, read = joined(over, { first, second })
  local function tau_of(t)
    local scores = read(t)
    return scores and similarity.tau_b(scores[1], scores[2]) or nan
  end
  return interval_of({ mean = tau_of(totals_of(columns)) }, over, over:resample(columns, tau_of))
end

-- ---- Friedman -------------------------------------------------------------------------------------------------------

--- Friedman's test (1937) with Iman and Davenport's F (1980), corrected for ties, and Kendall's W. Rank 1 is the best.
---@param blocks number[][] [block][method], no gaps; a block is a patient
---@param direction string "higher" | "lower": which is better
---@return table { ranks = mean rank of each method, chi2, df, p, f, df1, df2, p_f, w, n, k }
function rankings.friedman(blocks, direction)
  local n, k, sign, sums, ties = #blocks, #(blocks[1] or {}), -sign_of(direction), {}, 0.0
  for j = 1, k do sums[j] = 0.0 end
  for i, block in ipairs(blocks) do
    if #block ~= k then
      check.fail("rankings", "block %d has %d values (expected %d, one per method).", i, #block, k)
    end
    local signed, seen = {}, {}
    for j, v in ipairs(block) do signed[j] = sign * v end
    local ranks = similarity.ranks(signed)
    if not ranks then check.fail("rankings", "block %d has an undefined value. Leave the block out.", i) end
    for j, r in ipairs(ranks) do
      sums[j] = sums[j] + r
      seen[r] = (seen[r] or 0) + 1
    end
    for _, r in ipairs(check.sorted_keys(seen)) do ties = ties + seen[r] ^ 3 - seen[r] end
  end
  local squares, ranks = 0.0, {}
  for j, s in ipairs(sums) do squares, ranks[j] = squares + (s - n * (k + 1) / 2) ^ 2, s / n end
  local chi2 = 12 * squares / (n * k * (k + 1) - ties / (k - 1))
  local w, f = chi2 / (n * (k - 1)), (n - 1) * chi2 / (n * (k - 1) - chi2)
  local df1, df2 = k - 1, (k - 1) * (n - 1)
  return { ranks = ranks, chi2 = chi2, df = k - 1, p = distributions.chi_squared_upper(chi2, k - 1), f = f, df1 = df1,
    df2 = df2, p_f = f == math.huge and 0.0 or distributions.f_upper(f, df1, df2), w = w, n = n, k = k }
end

--- Nemenyi's critical difference of mean ranks (1963; Demsar 2006): the quantile of the studentised range over sqrt
--- 2, times sqrt(k (k + 1) / (6 n)).
---@param k integer methods
---@param n integer blocks
---@param alpha? number default 0.05
---@return number
function rankings.critical_difference(k, n, alpha)
  return distributions.range_quantile(1 - (alpha or 0.05), k) / math.sqrt(2) * math.sqrt(k * (k + 1) / (6 * n))
end

return rankings
