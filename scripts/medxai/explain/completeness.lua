-- Completeness: a map that adds up sums to what the target's score has more on the image than on a baseline image. What
-- its sum differs from that by is the completeness gap, which is stored with each map and printed.
local completeness = {}

--- What a method's table says of it, an entry of `honesty`.
completeness.honesty = { fact = "completeness_gap", of = "score_difference", title = "completeness gap", short = "gap",
  percent = true }

--- What each image's score has more than that of its baseline.
---@param ctx table
---@param base any (N, 3, H, W), or (1, 3, H, W) for all images
---@return number[]
function completeness.differences(ctx, base)
  local n = base:size(0)
  local logits = ctx.scorer:logits(n, function(first, count) return base:narrow(0, first, count) end)
  local own, list = ctx.logits:cpu(), {}
  for i = 1, ctx.count do
    list[i] = -ctx.targets:change_of(i, logits:narrow(0, n == 1 and 0 or i - 1, 1), own:narrow(0, i - 1, 1)):item()
  end
  return list
end

--- The facts of each map.
---@param maps any (N, H, W)
---@param differences number[]
---@return table[] { score_difference, completeness_gap }
function completeness.facts(maps, differences)
  local sums, facts = maps:to { dtype = "float64" }:sum({ 1, 2 }):tolist(), {}
  for i, d in ipairs(differences) do facts[i] = { score_difference = d, completeness_gap = sums[i] - d } end
  return facts
end

--- The facts as a method returns them beside its maps.
function completeness.extras(maps, differences)
  local extras = completeness.facts(maps, differences)
  for i, facts in ipairs(extras) do extras[i] = { facts = facts } end
  return extras
end

return completeness
