-- Whether a map tells how the score changes when parts of the image are taken away, and how much a map changes with
-- its image: from the numbers that the metrics made with the network (sums of the map, drops of the score, maps of
-- changed images). It refuses what cannot be told: nil where the map or the score does not change.
local check = require "medxai.base.check"
local similarity = require "medxai.stats.similarity"

local faithfulness = {}

--- Sums of a region's attributions over sets of regions.
---@param attribution number[] one per region
---@param sets integer[][] regions, from 1
---@return number[] one per set
function faithfulness.sums(attribution, sets)
  local list = {}
  for i, set in ipairs(sets) do
    list[i] = 0.0
    for _, region in ipairs(set) do
      local a = attribution[region]
      if not a then check.fail("faithfulness", "set %d names region %s of %d.", i, tostring(region), #attribution) end
      list[i] = list[i] + a
    end
  end
  return list
end

--- Faithfulness correlation (Bhatt 2020): Pearson's correlation over sets of regions of the set's attribution and the
--- drop of the score without it, f(x) - f(x without S). Over single regions it is the faithfulness estimate
--- (Alvarez-Melis and Jaakkola 2018).
---@param sums number[] of the attributions, one per set
---@param drops number[] of the score
---@return number|nil -1 to 1, higher is better
function faithfulness.correlation(sums, drops) return similarity.pearson(sums, drops) end

--- Infidelity (Yeh 2019) with the authors' optimal scaling, cut at 0 so that an inverted map does not score, over
--- that of a map that explains nothing: mean (b u - d)^2 / mean d^2, b = max(0, sum(u d) / sum(u u)). 0 is exact, 1
--- explains nothing.
---@param u number[] the change that the map predicts for each perturbation: sum of attribution x change, or the
---  attribution of the set
---@param d number[] the change of the score, f(x) - f(x - I)
---@return number|nil value 0 to 1, lower is better
---@return table|nil parts { raw = mean (u - d)^2, scale = b, scaled = mean (b u - d)^2 }
function faithfulness.infidelity(u, d)
  if #u ~= #d then check.fail("faithfulness", "infidelity: %d predicted changes and %d of the score.", #u, #d) end
  local uu, ud, dd, raw, n = 0.0, 0.0, 0.0, 0.0, #u
  for i = 1, n do uu, ud, dd, raw = uu + u[i] * u[i], ud + u[i] * d[i], dd + d[i] * d[i], raw + (u[i] - d[i]) ^ 2 end
  if not (uu > 0 and dd > 0) then return nil end
  local b, scaled = math.max(0, ud / uu), 0.0
  for i = 1, n do scaled = scaled + (b * u[i] - d[i]) ^ 2 end
  return scaled / dd, { raw = raw / n, scale = b, scaled = scaled / n }
end

local function norm(a, b)
  local sum = 0.0
  for i, v in ipairs(a) do sum = sum + (v - (b and b[i] or 0)) ^ 2 end
  return math.sqrt(sum)
end

--- How much a map changes when its image changes a little: max-sensitivity, the largest norm(e(x') - e(x)) /
--- norm(e(x)) (Yeh 2019), and local Lipschitz, the largest of that over norm(x' - x) (Alvarez-Melis and Jaakkola
--- 2018, over the map's norm, so that maps of other scales compare).
---@param map number[] e(x)
---@param maps number[][] e(x') of each draw
---@param distances number[] norm(x' - x) of each draw
---@return number|nil max_sensitivity lower is steadier; nil for a map that is 0 everywhere
---@return number|nil local_lipschitz
function faithfulness.sensitivity(map, maps, distances)
  local size, most, steepest = norm(map), 0.0, 0.0
  if not (size > 0) or #maps == 0 then return nil end
  for k, other in ipairs(maps) do
    if #other ~= #map then
      check.fail("faithfulness", "sensitivity: map %d has %d cells (expected %d).", k, #other, #map)
    end
    local change = norm(other, map) / size
    if change ~= change then return nil end
    most = math.max(most, change)
    if distances[k] > 0 then steepest = math.max(steepest, change / distances[k]) end
  end
  return most, steepest
end

--- Relevance rank accuracy (Arras 2022): of the K highest cells of a map, the share that lies in a mask of K cells.
--- Cells that tie for the last places share them, which is the mean over every order of theirs.
---@param map number[]
---@param mask boolean[] or 1 and 0
---@return number|nil 0 to 1, higher is better; nil for an empty mask or a map with NaN
function faithfulness.rank_accuracy(map, mask)
  if #map ~= #mask then
    check.fail("faithfulness", "rank accuracy: a map of %d cells and a mask of %d.", #map, #mask)
  end
  local sorted, k = {}, 0
  for i, v in ipairs(map) do
    if v ~= v then return nil end
    sorted[i] = v
    if mask[i] == true or mask[i] == 1 then k = k + 1 end
  end
  if k == 0 then return nil end
  table.sort(sorted, function(a, b) return a > b end)
  local edge, above, tied, hits, tied_hits = sorted[k], 0, 0, 0, 0
  for i, v in ipairs(map) do
    local inside = (mask[i] == true or mask[i] == 1) and 1 or 0
    if v > edge then above, hits = above + 1, hits + inside
    elseif v == edge then tied, tied_hits = tied + 1, tied_hits + inside end
  end
  return (hits + (k - above) * tied_hits / tied) / k
end

return faithfulness
