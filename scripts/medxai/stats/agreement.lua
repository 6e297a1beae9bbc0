-- How alike several answers for the same image are, when only the draws of a sampled method differ: the rank
-- correlation of its coefficients, the overlap of its strongest few, and the spread of the coefficients themselves.
-- It refuses a number where there is none to tell: of one answer, of coefficients that are all equal, of the strongest
-- five among five.
local similarity = require "medxai.stats.similarity"

local stability = {}

stability.strongest = 5 -- how many regions a reader looks at

--- Spearman's rank correlation; nil where either list is constant or holds NaN.
stability.rank_correlation = similarity.spearman

local function strongest(values, k)
  local order, set = {}, {}
  for i in ipairs(values) do order[i] = i end
  table.sort(order, function(a, b)
    local x, y = math.abs(values[a]), math.abs(values[b])
    return x > y or x == y and a < b
  end)
  for i = 1, k do set[order[i]] = true end
  return set
end

--- The share of the k largest |values| that both have.
function stability.overlap(a, b, k)
  local in_a, in_b, both = strongest(a, k), strongest(b, k), 0
  for i in pairs(in_a) do both = both + (in_b[i] and 1 or 0) end
  return both / k
end

--- Alikeness of answers, the mean over all pairs; empty where nothing can be said.
---@param answers number[][] at least two lists of coefficients of one length
---@return table { rank_correlation, overlap, spread = root of the summed variances over the length of the mean }
function stability.of(answers)
  local n = #answers > 1 and #answers[1] or 0
  if n < 2 then return {} end
  local k, pairs_seen, correlation, overlap = math.min(stability.strongest, n), 0, 0.0, 0.0
  for i = 1, #answers - 1 do
    for j = i + 1, #answers do
      local r = stability.rank_correlation(answers[i], answers[j])
      if not r then return {} end
      pairs_seen, correlation, overlap = pairs_seen + 1, correlation + r,
        overlap + stability.overlap(answers[i], answers[j], k)
    end
  end
  local variance, length = 0.0, 0.0
  for p = 1, n do
    local mean, square = 0.0, 0.0
    for _, answer in ipairs(answers) do mean = mean + answer[p] / #answers end
    for _, answer in ipairs(answers) do square = square + (answer[p] - mean) ^ 2 end
    variance, length = variance + square / (#answers - 1), length + mean * mean
  end
  return { rank_correlation = correlation / pairs_seen, overlap = n > stability.strongest and overlap / pairs_seen
    or nil, spread = length > 0 and math.sqrt(variance / length) or 0 / 0 }
end

return stability
