-- The viewer of a page: maps over their images, from the page's file alone. Images are small JPEG pictures. The maps of
-- one network and method are one gray picture of tiles: PNG with 64 levels where there is room, else JPEG. The script
-- of viewer_script.lua draws them.
-- It refuses a page above its limit: maps get coarser and pictures smaller until they fit, then fewer images are shown,
-- and the page says how fine the maps are and how many images are left out.
local canon = require "medxai.base.json"
local core = require "medxai.core"
local palette = require "medxai.show.palette"
local torch = require "medxai.torch"

local viewer = { budget = 4500000 } -- bytes that it may take where a page does not say less

local LEVELS = 63              -- of a PNG's tiles, from 0; a JPEG has 255
local QUALITY = 82             -- of the pictures
local ACROSS = 16              -- tiles side by side
-- Longest side of a map and of a picture, in pixels, and the JPEG quality of maps (none: PNG, exact to half a level).
-- The first that fits is taken. A tile's side is a multiple of 8 where it is a JPEG's, so that its blocks hold no
-- neighbors.
local sizes = { { 64, 256 }, { 48, 224 }, { 48, 192, 85 }, { 32, 192, 85 }, { 32, 160, 75 }, { 24, 160, 75 },
  { 24, 144, 60 }, { 24, 112, 50 }, { 16, 112, 75 }, { 16, 96, 50 }, { 8, 80, 50 } }

--- What the viewer shows.
---@class medxai.Album
---@field images table[] each { id = string, text = string (label, patient; below the picture) }
---@field networks string[]
---@field methods string[]
---@field picture fun(image: integer): any uint8 tensor (H, W) or (H, W, 3)
---@field map fun(image: integer, network: integer, method: integer): any, table  a tensor (h, w) in [0, 1] or nil, and
---  { text = string (prediction, score), note = string (why there is none; a mark), raw = { low, high } (the values
---  that 0 and 1 stand for, where the map is linear in them), rect = { x, y, width, height } (the part of the picture
---  that it covers, in [0, 1]; all of it if absent) }

local function scaled(side, rows, columns)
  local share = math.min(1, side / math.max(rows, columns))
  return math.max(1, math.floor(rows * share + 0.5)), math.max(1, math.floor(columns * share + 0.5))
end

local function inline(kind, bytes) return "data:image/" .. kind .. ";base64," .. core.figure.base64(bytes) end

local function picture_of(album, i, side)
  local scope <close> = core.memory.scope() -- luacheck: ignore
  local picture = album.picture(i)
  local rows, columns = scaled(side, picture:size(0), picture:size(1))
  return inline("jpeg", core.image.encode(core.image.resize(picture:contiguous(), columns, rows), QUALITY))
end

-- A map as whole levels on a coarser grid: the mean of what each cell covers.
local function tile_of(map, side, levels)
  local rows, columns = scaled(side, map:size(0), map:size(1))
  local coarse = torch.adaptive_avg_pool2d(map:to { device = "cpu", dtype = "float32" }:view { 1, 1, map:size(0),
    map:size(1) }, { rows, columns }):view { rows, columns }
  return coarse:nan_to_num(0):clamp(0, 1):mul(levels):round():to { dtype = "uint8" }
end

-- Tiles side by side, from the top left.
local function sheet_of(tiles, n, rows, columns)
  local across = math.min(ACROSS, n)
  local sheet = torch.zeros({ (n + across - 1) // across * rows, across * columns }, { dtype = "uint8" })
  for i, tile in pairs(tiles) do
    local top, left = (i - 1) // across * rows, (i - 1) % across * columns
    sheet:narrow(0, top, tile:size(0)):narrow(1, left, tile:size(1)):copy_(tile)
  end
  return sheet, across
end

-- The picture of a sheet, and by how much its values are off, as a share of the scale (root mean square).
local function encoded(sheet, quality)
  if not quality then return inline("png", core.image.encode(sheet)), 0.0 end
  local bytes = core.image.encode(sheet, quality)
  local d = core.image.decode(bytes):select(2, 0):to { dtype = "float32" } - sheet:to { dtype = "float32" }
  return inline("jpeg", bytes), math.sqrt((d * d):mean():item()) / 255
end

-- Lists that many sheets share are kept once, in data.lists; a sheet holds their place. What is the same for all images
-- is a list of one. nil where there is nothing.
local function shared(data, list, n)
  local same, any = true, false
  for i = 1, n do
    same, any = same and list[i] == list[1], any or list[i] ~= nil
    list[i] = list[i] or 0
  end
  if not any then return nil end
  local key = canon.write(canon.list(same and { list[1] } or list))
  if not data.places[key] then
    data.lists[#data.lists + 1] = same and canon.list { list[1] } or canon.list(list)
    data.places[key] = #data.lists - 1
  end
  return data.places[key]
end

-- A text's place in data.words, from 1.
local function word(data, text)
  if not text then return nil end
  if not data.known[text] then
    data.words[#data.words + 1] = text
    data.known[text] = #data.words
  end
  return data.known[text]
end

local function short(v) return tonumber(("%.4g"):format(v)) end

-- What is said of a sheet's maps: their texts, notes, ranges of values, places in the picture, and sizes (0: no map).
local function told(data, infos, tiles, n)
  local lists = { text = {}, note = {}, low = {}, high = {}, rect = {}, size = {} }
  for i = 1, n do
    local info, tile = infos[i], tiles[i]
    lists.text[i], lists.note[i] = word(data, info.text), word(data, info.note)
    if info.raw then lists.low[i], lists.high[i] = short(info.raw[1]), short(info.raw[2]) end
    if info.raw and lists.low[i] == 0 then lists.low[i] = nil end
    lists.rect[i] = info.rect and word(data, table.concat(info.rect, " ")) or nil
    lists.size[i] = tile and word(data, ("%d %d"):format(tile:size(0), tile:size(1))) or nil
  end
  local out = {}
  for _, name in ipairs { "text", "note", "low", "high", "rect", "size" } do -- the same bytes from every process
    out[name] = shared(data, lists[name], n)
  end
  return out
end

-- All maps of one network and method: their picture of tiles, and what is said of each.
local function maps_of(album, data, k, m)
  local scope <close> = core.memory.scope() -- luacheck: ignore
  local tiles, infos, rows, columns, n = {}, {}, 1, 1, #data.images
  for i = 1, n do
    local map, info = album.map(i, k, m)
    infos[i] = info or {}
    if map then
      tiles[i] = tile_of(map, data.map_px, data.levels)
      rows, columns = math.max(rows, tiles[i]:size(0)), math.max(columns, tiles[i]:size(1))
    end
  end
  if data.quality then rows, columns = (rows + 7) // 8 * 8, (columns + 7) // 8 * 8 end
  local sheet, across = sheet_of(tiles, n, rows, columns)
  local out = told(data, infos, tiles, n)
  local off
  out.src, off = encoded(sheet, data.quality)
  data.off = math.max(data.off, off)
  out.across, out.rows, out.columns = across, rows, columns
  return out
end

-- The first n images of an album at one size, as the text that the page holds.
local function at_size(album, size, n)
  local data = { levels = size[3] and 255 or LEVELS, quality = size[3], images = canon.list {}, words = canon.list {},
    networks = canon.list(album.networks), methods = canon.list(album.methods), sheets = canon.list {}, colors = {},
    map_px = size[1], lists = canon.list {}, known = {}, places = {}, off = 0.0, left_out = #album.images - n }
  for i = 1, n do
    data.images[i] = { id = album.images[i].id, text = album.images[i].text, picture = picture_of(album, i, size[2]) }
  end
  for k = 1, #album.networks do
    data.sheets[k] = canon.list {}
    for m = 1, #album.methods do data.sheets[k][m] = maps_of(album, data, k, m) end
  end
  for _, name in ipairs { "inferno", "viridis", "jet" } do data.colors[name] = core.figure.base64(palette.get(name)) end
  data.known, data.places, data.quality, data.off = nil, nil, nil, short(data.off)
  return (canon.write(data):gsub("<", "\\u003c"))
end

-- The finest size at which n images may fit, judged by a few of them; nil where none does.
local function likely_size(album, budget, n, from)
  local few = math.min(n, ACROSS)
  for k = from, #sizes do
    local part = #at_size(album, sizes[k], few)
    local rest = few < n and part - #at_size(album, sizes[k], few // 2) or 0
    if part + rest / (few - few // 2) * (n - few) <= budget then return k end
  end
end

-- What fits: the text, or nil where not even one image does. Sizes first, then images.
local function fitted(album, budget)
  local n = #album.images
  while n >= 1 do
    local k = likely_size(album, budget, n, 1)
    while k do
      local data = at_size(album, sizes[k], n)
      if #data <= budget then return data end
      k = k < #sizes and k + 1 or nil
    end
    n = n // 2
  end
end

--- The viewer as HTML for html.page; an empty text where there is nothing to show.
---@param album medxai.Album
---@param options? { budget: integer? } bytes that it may take, 4,500,000
---@return string
function viewer.html(album, options)
  if #album.images == 0 or #album.networks == 0 or #album.methods == 0 then return "" end
  local budget, script = options and options.budget or viewer.budget, require "medxai.show.viewer_script"
  local data = fitted(album, budget)
  if not data then
    return ('<p class="note">The viewer of maps is left out: not even one image with its %d maps fits in the %d '
      .. "bytes that the page has for it.</p>"):format(#album.networks * #album.methods, budget)
  end
  return string.format('<div class="viewer" id="viewer"></div>\n<noscript><p class="note">The viewer needs '
    .. 'JavaScript.</p></noscript>\n'
    .. '<script type="application/json" id="viewer-data">%s</script>\n<style>%s</style>\n<script>%s</script>', data,
    script.style, script.source)
end

return viewer
