-- Where maps of different networks meet: file coordinates, the rectangle that all crops show, averaged over the area of
-- each cell. A map of a 7 x 7 layer says no more than 16 x 16 cells; 225, 224 and 299 px crops are never compared
-- pixel by
-- pixel. It refuses crops that have nothing in common.
local check = require "medxai.base.check"
local torch = require "medxai.torch"

local frame = {}

frame.side = 16 -- cells; SSIM is computed at 4 times as many

--- A crop in file coordinates: { left, top, right, bottom } in pixels of the file.
---@param place table { file = { W, H }, resized = { W, H }, crop = { left, top, width, height } } of Split:geometry
function frame.crop(place)
  local sx, sy = place.file[1] / place.resized[1], place.file[2] / place.resized[2]
  local c = place.crop
  return { left = c[1] * sx, top = c[2] * sy, right = (c[1] + c[3]) * sx, bottom = (c[2] + c[4]) * sy }
end

--- The rectangle of the file that all crops show, and its share of the file.
---@param places table[] of Split:geometry, of the same file
---@return table { left, top, right, bottom, share }
function frame.shared(places)
  local r = { left = -math.huge, top = -math.huge, right = math.huge, bottom = math.huge }
  local file = places[1].file
  for _, place in ipairs(places) do
    if place.file[1] ~= file[1] or place.file[2] ~= file[2] then
      check.fail("study", "a file is %d x %d for one model and %d x %d for another: they are not the same images.",
        file[1], file[2], place.file[1], place.file[2])
    end
    local c = frame.crop(place)
    r.left, r.top = math.max(r.left, c.left), math.max(r.top, c.top)
    r.right, r.bottom = math.min(r.right, c.right), math.min(r.bottom, c.bottom)
  end
  if r.right - r.left < 1 or r.bottom - r.top < 1 then check.fail("study",
    "the models' crops of an image have nothing in common.") end
  r.share = (r.right - r.left) * (r.bottom - r.top) / (file[1] * file[2])
  return r
end

-- (n, size) float64: how much of each of `size` equal parts of [from, to) lies in each of n equal cells of [low, high),
-- rows summing to 1. All in file coordinates.
local function shares(n, size, from, to, low, high)
  local rows, cell, part = {}, (high - low) / n, (to - from) / size
  for i = 1, n do
    local a, b, row, sum = low + (i - 1) * cell, low + i * cell, {}, 0.0
    for k = 1, size do
      local left, right = from + (k - 1) * part, from + k * part
      row[k] = math.max(0, math.min(b, right) - math.max(a, left))
      sum = sum + row[k]
    end
    for k = 1, size do row[k] = row[k] / sum end
    rows[i] = row
  end
  return torch.tensor(rows, { dtype = "float64" })
end

--- What takes maps on a model's input grid into the frame; made once per image size, rectangle and side.
---@param place table of Split:geometry
---@param rectangle table of frame.shared
---@param height integer of the map
---@param width integer
---@param side? integer cells, default frame.side
---@return fun(map: any): any map (H, W) -> (side, side) float64, the mean over each cell's area
function frame.into(place, rectangle, height, width, side)
  side = side or frame.side
  local c = frame.crop(place)
  local down = shares(side, height, c.top, c.bottom, rectangle.top, rectangle.bottom)
  local across = shares(side, width, c.left, c.right, rectangle.left, rectangle.right):t()
  return function(map) return down:matmul(map:to { device = "cpu", dtype = "float64" }):matmul(across) end
end

--- A whole map's cells, row by row: of one network's maps alone, which meet no others.
---@param map any tensor (H, W)
---@param side? integer cells, default frame.side
---@return number[]
function frame.cells(map, side)
  local height, width = map:size(0), map:size(1)
  local whole = { file = { width, height }, resized = { width, height }, crop = { 0, 0, width, height } }
  return frame.into(whole, frame.crop(whole), height, width, side)(map):flatten():tolist()
end

--- The same, of those cells that lie for at least half within a mask; each is the mean of its pixels within it.
---@param map any tensor (H, W)
---@param within any|nil bool (H, W)
---@return number[]
function frame.within(map, within)
  if not within then return frame.cells(map) end
  local inside, list = within:to { dtype = "float64" }, {}
  local share = frame.cells(inside)
  for i, sum in ipairs(frame.cells(map:to { dtype = "float64" } * inside)) do
    if share[i] >= 0.5 then list[#list + 1] = sum / share[i] end
  end
  return list
end

return frame
