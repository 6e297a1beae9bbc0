-- The frame: where maps of different networks, crops and sizes meet. A rectangle of the image's file, area-averaged to
-- 16 x 16 cells: a 7 x 7 CAM says no more, and a number about a map then does not grow with its pixels.
-- It refuses maps whose crops have no part in common.
--
--   frame.cells(map)                        256 numbers, row by row, of a whole map
--   local shared = frame.shared { g1, g2 }  the rectangle of the file that several records' crops all show
--   frame.cells(map, { geometry = record.geometry, rectangle = shared })
local check = require "medxai.base.options"
local torch = require "medxai.torch"

local frame = {}

frame.side = 16

---@class medxai.Rectangle a part of the file in pixels of the file: left, top, right, bottom
---@field [1] number
---@field [2] number
---@field [3] number
---@field [4] number

--- The rectangle of the file that a network's input shows.
---@param geometry table of a map's record: { input = { height, width }, file = { scale_x, scale_y, offset_x, offset_y }
---  }
---@return medxai.Rectangle in pixels of the file; of the input itself where the file is not known
function frame.rectangle(geometry)
  local input, file = geometry.input, geometry.file
  if not file then return { 0, 0, input.width, input.height } end
  return { file.offset_x, file.offset_y, file.offset_x + file.scale_x * input.width,
    file.offset_y + file.scale_y * input.height }
end

--- The rectangle that all crops of an image show, and the least share of a crop's area that it is.
---@param geometries table[]
---@return medxai.Rectangle
---@return number share 1: all crops are the same
function frame.shared(geometries)
  local r, share = { -math.huge, -math.huge, math.huge, math.huge }, 1.0
  local all = {}
  for i, geometry in ipairs(geometries) do
    local own = frame.rectangle(geometry)
    all[i] = own
    r = { math.max(r[1], own[1]), math.max(r[2], own[2]), math.min(r[3], own[3]), math.min(r[4], own[4]) }
  end
  if not (r[3] > r[1] and r[4] > r[2]) then
    check.fail("frame", "%d crops of one image have no part in common. Compare networks that see the same part.", #all)
  end
  for _, own in ipairs(all) do
    share = math.min(share, (r[3] - r[1]) * (r[4] - r[2]) / ((own[3] - own[1]) * (own[4] - own[2])))
  end
  return r, share
end

-- (cells, n) float64: the share of each cell, from lo to hi in pixels, that each of n pixels takes.
local function weights(cells, n, lo, hi)
  local side = (hi - lo) / cells
  local from = (torch.arange(cells, { dtype = "float64" }) * side + lo):unsqueeze(1)
  local pixel = torch.arange(n, { dtype = "float64" }):unsqueeze(0)
  return (torch.minimum(pixel + 1, from + side) - torch.maximum(pixel, from)):clamp_min(0):div(side)
end

-- lo, hi in pixels of the map: of a rectangle of the file, of which the map shows first .. last in n pixels.
local function place(lo, hi, first, last, n) return (lo - first) / (last - first) * n,
  (hi - first) / (last - first) * n end

--- A map's means over the cells of a rectangle, each pixel counting by the area that lies in the cell.
---@param map any tensor (H, W)
---@param options? { geometry: table?, rectangle: medxai.Rectangle?, side: integer? } without geometry the whole map;
---  side: cells a side, default 16
---@return any cells tensor (side, side) float64
function frame.tensor(map, options)
  local o = options or {}
  local side, height, width = o.side or frame.side, map:size(0), map:size(1)
  local left, top, right, bottom = 0, 0, width, height
  if o.geometry and o.rectangle then
    local own, r = frame.rectangle(o.geometry), o.rectangle
    left, right = place(r[1], r[3], own[1], own[3], width)
    top, bottom = place(r[2], r[4], own[2], own[4], height)
  end
  local down, across = weights(side, height, top, bottom), weights(side, width, left, right)
  return torch.matmul(torch.matmul(down, map:to { device = "cpu", dtype = "float64" }), across:t())
end

--- The same as a flat list, row by row.
---@return number[]
function frame.cells(map, options) return frame.tensor(map, options):flatten():tolist() end

--- A whole map's cells, of which only those count that lie for at least half within a mask; each is the mean of its
--- pixels within it.
---@param map any (H, W)
---@param within any|nil bool (H, W)
---@return number[]
function frame.within(map, within)
  if not within then return frame.cells(map) end
  local inside = within:to { dtype = "float64" }
  local share = frame.cells(inside)
  local list = {}
  for i, sum in ipairs(frame.cells(map:to { dtype = "float64" } * inside)) do
    if share[i] >= 0.5 then list[#list + 1] = sum / share[i] end
  end
  return list
end

return frame
