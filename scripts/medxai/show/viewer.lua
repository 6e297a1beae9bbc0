-- The viewer of a page: maps over their images, from the page's file alone. Images are small JPEG pictures; the maps of
-- one network and method are one grey PNG of tiles, 64 levels each; the script of viewer_script.lua draws them.
-- It refuses a page above its limit: maps get coarser and pictures smaller until they fit, and the page says how fine
-- they are.
local canon = require "medxai.base.json"
local check = require "medxai.base.check"
local core = require "medxai.core"
local palette = require "medxai.show.palette"
local torch = require "medxai.torch"

local viewer = {}

local LEVELS = 63              -- of a map's tiles, from 0
local QUALITY = 82             -- of the JPEG pictures
local most_across = 16         -- tiles side by side
-- Longest side of a map and of a picture, in pixels: the first pair that fits is taken.
local sizes = { { 64, 256 }, { 48, 224 }, { 32, 192 }, { 32, 160 }, { 24, 128 }, { 16, 128 }, { 16, 96 }, { 12, 80 },
  { 8, 64 } }

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
local function tile_of(map, side)
  local rows, columns = scaled(side, map:size(0), map:size(1))
  local coarse = torch.adaptive_avg_pool2d(map:to { device = "cpu", dtype = "float32" }:view { 1, 1, map:size(0),
    map:size(1) }, { rows, columns }):view { rows, columns }
  return coarse:nan_to_num(0):clamp(0, 1):mul(LEVELS):round():to { dtype = "uint8" }
end

local function said(info)
  return { text = info.text, note = info.note, raw = info.raw and canon.list { info.raw[1], info.raw[2] },
    rect = info.rect and canon.list(info.rect) }
end

-- All maps of one network and method: their picture of tiles, and what is said of each.
local function sheet_of(album, n, m, side)
  local scope <close> = core.memory.scope() -- luacheck: ignore
  local tiles, facts, rows, columns = {}, canon.list {}, 1, 1
  for i = 1, #album.images do
    local map, info = album.map(i, n, m)
    facts[i] = said(info or {})
    if map then
      local tile = tile_of(map, side)
      tiles[i] = tile
      facts[i].rows, facts[i].columns = tile:size(0), tile:size(1)
      rows, columns = math.max(rows, tile:size(0)), math.max(columns, tile:size(1))
    end
  end
  local across = math.min(most_across, #album.images)
  local sheet = torch.zeros({ (#album.images + across - 1) // across * rows, across * columns }, { dtype = "uint8" })
  for i in pairs(tiles) do
    local top, left = (i - 1) // across * rows, (i - 1) % across * columns
    sheet:narrow(0, top, facts[i].rows):narrow(1, left, facts[i].columns):copy_(tiles[i])
  end
  return { png = inline("png", core.image.encode(sheet)), across = across, rows = rows, columns = columns,
    facts = facts }
end

-- Everything at one size; how many bytes it takes in the page.
local function at_size(album, size)
  local data = { levels = LEVELS, images = canon.list {}, networks = canon.list(album.networks),
    methods = canon.list(album.methods), sheets = canon.list {}, colors = {}, map_px = size[1] }
  for i, image in ipairs(album.images) do
    data.images[i] = { id = image.id, text = image.text, picture = picture_of(album, i, size[2]) }
  end
  for n = 1, #album.networks do
    data.sheets[n] = canon.list {}
    for m = 1, #album.methods do data.sheets[n][m] = sheet_of(album, n, m, size[1]) end
  end
  for _, name in ipairs { "inferno", "viridis", "jet" } do data.colors[name] = core.figure.base64(palette.get(name)) end
  return (canon.write(data):gsub("<", "\\u003c"))
end

-- The first of the sizes that may fit: smooth maps take a quarter of a byte per pixel, pictures an eighth, base64 a
-- third more.
local function first_size(album, budget)
  local maps = #album.images * #album.networks * #album.methods
  for k, size in ipairs(sizes) do
    if 4 / 3 * (0.25 * maps * size[1] ^ 2 + 0.125 * #album.images * size[2] ^ 2) + 70 * maps <= budget then return k end
  end
  return #sizes
end

--- The viewer as HTML for html.page; an empty text where there is nothing to show.
---@param album medxai.Album
---@param options? { budget: integer? } bytes that it may take, 4,500,000
---@return string
function viewer.html(album, options)
  if #album.images == 0 or #album.networks == 0 or #album.methods == 0 then return "" end
  local budget, script = options and options.budget or 4500000, require "medxai.show.viewer_script"
  local data
  for k = first_size(album, budget), #sizes do
    data = at_size(album, sizes[k])
    if #data <= budget then break end
    data = nil
  end
  if not data then
    check.fail("report", "the viewer of %d images, %d networks and %d methods does not fit in %d bytes. Show "
      .. "fewer images.", #album.images, #album.networks, #album.methods, budget)
  end
  return string.format('<div class="viewer" id="viewer"></div>\n<noscript><p class="note">The viewer needs '
    .. 'JavaScript.</p></noscript>\n'
    .. '<script type="application/json" id="viewer-data">%s</script>\n<style>%s</style>\n<script>%s</script>', data,
    script.style, script.source)
end

return viewer
