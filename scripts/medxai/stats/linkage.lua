-- Agglomerative clustering by average linkage (UPGMA; Sokal and Michener 1958): the tree beside a matrix of agreement.
-- It describes, and decides nothing. It refuses to join what no distance is known of: such things stay trees apart.
local linkage = {}

-- Mean of the known distances between the members of two groups; nil where none is known.
local function between(distance, a, b)
  local sum, n = 0.0, 0
  for _, i in ipairs(a) do
    for _, j in ipairs(b) do
      local v = distance[i][j]
      if v and v == v then sum, n = sum + v, n + 1 end
    end
  end
  return n > 0 and sum / n or nil
end

-- The two groups that are nearest; of equal ones the first pair.
local function nearest(distance, groups)
  local best
  for a = 1, #groups do
    for b = a + 1, #groups do
      local height = between(distance, groups[a].members, groups[b].members)
      if height and (not best or height < best.height) then best = { a = a, b = b, height = height } end
    end
  end
  return best
end

--- Joins the two nearest groups until one is left, or nothing is known of what is left. The distance of two groups is
--- the mean of the distances of their members, of those that are known.
---@param distance number[][] symmetric; [i][j] is nil or NaN where it is unknown
---@return table[] merges in the order in which they are made: { a, b, height, members }; a and b are leaves (an
---   integer)
---  or earlier merges (a table of this list)
---@return integer[] order the leaves from left to right, so that no two branches of the tree cross
function linkage.average(distance)
  local groups, merges, order = {}, {}, {}
  for i = 1, #distance do groups[i] = { node = i, members = { i } } end
  local best = nearest(distance, groups)
  while best do
    local a, b = groups[best.a], table.remove(groups, best.b)
    local members = table.move(a.members, 1, #a.members, 1, {})
    table.move(b.members, 1, #b.members, #members + 1, members)
    local merge = { a = a.node, b = b.node, height = best.height, members = members }
    merges[#merges + 1], groups[best.a] = merge, { node = merge, members = members }
    best = nearest(distance, groups)
  end
  for _, group in ipairs(groups) do table.move(group.members, 1, #group.members, #order + 1, order) end
  return merges, order
end

return linkage
