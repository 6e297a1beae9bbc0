-- Placebos: places to hide instead of a part of an image, of the same shape elsewhere, so that the effect of hiding the
-- part is compared with that of hiding as many pixels. They stay in the given zone; where the shape fits nowhere else,
-- there are fewer or none.
local torch = require "medxai.torch"

local placebo = {}

local tries = 400    -- offsets drawn for a patch; of a small zone many do not fit
local candidates = 64 -- offsets of a large part, of which those with the least overlap are taken

-- Draws n whole numbers below `below`, as a list.
local function draws(stream, n, below) return stream:integers(n, below):tolist() end

--- A small patch, moved within a zone: every pixel of it lies in the zone and none where the patch itself is. Offsets
--- are keyed; where `count` of them are not found in 400 draws, there are fewer.
---@param patch any tensor (H, W) bool
---@param zone any tensor (H, W) bool
---@param count integer
---@param stream medxai.Stream
---@return any[] tensors (H, W) bool
function placebo.shifted(patch, zone, count, stream)
  local shape, places, list = patch.shape, patch:nonzero():tolist(), {}
  local top, left, bottom, right = shape[1], shape[2], -1, -1
  for _, p in ipairs(places) do
    top, bottom, left, right = math.min(top, p[1]), math.max(bottom, p[1]), math.min(left, p[2]), math.max(right, p[2])
  end
  if #places == 0 then return list end
  local free = zone:logical_and(patch:logical_not()):to { dtype = "uint8" }:tolist()
  local high, wide = shape[1] - (bottom - top), shape[2] - (right - left)
  local ys, xs, seen = draws(stream, tries, high), draws(stream:at(tries), tries, wide), {}
  for k = 1, tries do
    local dy, dx, fits = ys[k] - top, xs[k] - left, true
    for _, p in ipairs(places) do
      fits = free[p[1] + dy + 1][p[2] + dx + 1] ~= 0
      if not fits then break end
    end
    local key = dy * 65536 + dx
    if fits and not seen[key] then
      seen[key], list[#list + 1] = true, torch.roll(patch, { dy, dx }, { 0, 1 })
      if #list == count then break end
    end
  end
  return list
end

--- A large part (the lungs, the border), moved over the image as over a torus: of 64 keyed offsets those that overlap
--- least with the part itself.
---@param part any tensor (H, W) bool
---@param count integer
---@param stream medxai.Stream
---@return any[] tensors (H, W) bool
---@return number overlap mean share of the part that they cover as well
function placebo.rolled(part, count, stream)
  local shape, size = part.shape, part:sum():item()
  local ys, xs, all = draws(stream, candidates, shape[1]), draws(stream:at(candidates), candidates, shape[2]), {}
  for k = 1, candidates do
    local moved = torch.roll(part, { ys[k], xs[k] }, { 0, 1 })
    all[k] = { moved = moved, k = k, overlap = moved:logical_and(part):sum():item() / math.max(size, 1) }
  end
  table.sort(all, function(a, b) return a.overlap < b.overlap or a.overlap == b.overlap and a.k < b.k end)
  local list, sum = {}, 0.0
  for k = 1, math.min(count, candidates) do list[k], sum = all[k].moved, sum + all[k].overlap end
  return list, sum / math.max(#list, 1)
end

return placebo
