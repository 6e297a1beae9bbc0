-- What the viewer shows of a comparison: the maps of every network and method in the part of the image that all
-- networks see. study/viewer.html holds it, ready for the report's page.
local core = require "medxai.core"
local files = require "medxai.base.files"
local frame = require "medxai.score.frame"
local maps = require "medxai.show.gallery_maps"
local torch = require "medxai.torch"
local viewer = require "medxai.show.viewer"

local album = {}

local function contains(outer, inner)
  return outer.left <= inner.left + 0.5 and outer.top <= inner.top + 0.5 and outer.right >= inner.right - 0.5
    and outer.bottom >= inner.bottom - 0.5
end

-- The part of image i that all networks see, as uint8 (H, W, 3), from the first data that show all of it.
local function picture_of(study, i)
  local rectangle = study:shared_rectangle(i)
  local split, number = study.split, study.images[i].index
  if not contains(frame.crop(split:geometry(number)), rectangle) then
    split, number = study.models[1].split, study.models[1].places[i]
  end
  local x = maps.image(split, number)
  local crop, height, width = frame.crop(split:geometry(number)), x:size(1), x:size(2)
  local function part(from, to, start, stop, size)
    local scale = size / (stop - start)
    local first = math.max(0, math.min(size - 1, math.floor((from - start) * scale + 0.5)))
    return first, math.max(1, math.min(size, math.floor((to - start) * scale + 0.5)) - first)
  end
  local top, rows = part(rectangle.top, rectangle.bottom, crop.top, crop.bottom, height)
  local left, columns = part(rectangle.left, rectangle.right, crop.left, crop.right, width)
  return x:narrow(1, top, rows):narrow(2, left, columns):mul(255):round():clamp(0,
    255):to { dtype = "uint8" }:permute({ 1, 2, 0 })
    :contiguous()
end

-- What 0 and 1 of a map stand for in raw values: the signed map of the frame, where the one is a straight line of the
-- other.
local function raw_range(shown, signed)
  local side = signed:size(0)
  local small = torch.adaptive_avg_pool2d(shown:view { 1, 1, shown:size(0), shown:size(1) },
    { side, side }):view { side, side }
  local positive = signed:relu()
  local mass = small:sum():item()
  local scale = mass > 0 and positive:sum():item() / mass or 0
  if not (scale > 0) or (small * scale - positive):abs():max():item() > 0.05 * scale then return nil end
  return { 0, scale }
end

-- Cells by network, method and block, those of the first explainer seed; the row of an image in its cell.
local function index_of(study, list)
  local networks, cells, row = {}, {}, {}
  for n, m in ipairs(study.models) do networks[m] = n end
  local names, place = {}, {}
  for _, cell in ipairs(list) do
    if not place[cell.entry] then
      names[#names + 1] = cell.entry.label
      place[cell.entry] = #names
    end
    if cell.explainer_seed == 1 then
      for k, i in ipairs(cell.block.images) do
        cells[networks[cell.model] .. " " .. place[cell.entry] .. " " .. i], row[i] = cell, k
      end
    end
  end
  return names, cells, row
end

--- The album of a comparison.
---@param study medxai.Study
---@param o table cells = finished cells; maps = fun(cell): tensor (n, 64 x 64 + 2 x 256), as steps/study_cells.lua
---   keeps
---  them; predicted[network][image id] = class; fine = side of the shown map; marks[network][method] = text
---@return medxai.Album
function album.of(study, o)
  local methods, cells, row = index_of(study, o.cells)
  local images, numbers, networks, kept = {}, {}, {}, { cell = nil, maps = nil }
  for i, image in ipairs(study.images) do
    if row[i] then
      numbers[#numbers + 1] = i
      local text = "label " .. image.class .. (image.patient ~= "unknown"
        and ", patient " .. tostring(image.patient) or "")
      images[#images + 1] = { id = tostring(image.path):match "[^/\\]+$" or image.id, text = text }
    end
  end
  for n, m in ipairs(study.models) do networks[n] = m.name end
  local function maps_of(cell)
    if kept.cell ~= cell then kept.cell, kept.maps = cell, o.maps(cell) end
    return kept.maps
  end
  return { images = images, networks = networks, methods = methods,
    picture = function(k) return picture_of(study, numbers[k]) end,
    map = function(k, n, m)
      local i = numbers[k]
      local cell = cells[n .. " " .. m .. " " .. i]
      if not cell then return nil, { note = "not made" } end
      local class = (o.predicted[networks[n]] or {})[study.images[i].id]
      local info = { text = class and "predicted " .. class or nil, note = o.marks[networks[n]][methods[m]] }
      local values, fine = maps_of(cell):select(0, row[i] - 1), o.fine
      if not values:isfinite():all():item() then
        info.note = (info.note and info.note .. "; " or "") .. "no map"
        return nil, info
      end
      local side = math.tointeger(math.sqrt((values:size(0) - fine * fine) // 2)) or frame.side
      local shown = values:narrow(0, 0, fine * fine):view { fine, fine }
      info.raw = raw_range(shown, values:narrow(0, fine * fine, side * side):view { side, side })
      return shown, info
    end }
end

--- Writes study/viewer.html.
---@param study medxai.Study
---@param o table as of album.of
function album.write(study, o)
  local scope <close> = core.memory.scope() -- luacheck: ignore
  files.write(files.join(study.dir, "viewer.html"), viewer.html(album.of(study, o)))
end

return album
