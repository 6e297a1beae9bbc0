-- All maps of one image: a row per method, a column per network, the prediction under the image of each network, and
-- under a map what is to be known of it: that its method failed the gate, or why there is none.
-- Own scale: each map from 0 to its own maximum. Shared scale: the maps of a method on all networks over one maximum.
-- It refuses a shared scale for maps whose values are no straight line of what is shown.
local core = require "medxai.core"
local drawing = require "medxai.show.drawing"
local figure = require "medxai.show.figure"
local plot = require "medxai.show.plot"
local torch = require "medxai.torch"

local montage = {}

local SMALL, LEADING = drawing.SMALL, drawing.LEADING
local WARN, INK, MARGIN = drawing.WARN, drawing.INK, plot.MARGIN
local GAP = 4
local side_px = 128        -- of the longer side of a panel's picture
local most_rows = 9        -- methods per figure

montage.columns = { "image", "class", "network", "method", "prediction", "note", "raw_maximum", "scale_maximum" }

-- The picture as float (3, H, W) in [0, 1], small.
local function small_picture(album, k)
  local picture = album.picture(k)
  local rows, columns = picture:size(0), picture:size(1)
  local share = math.min(1, side_px / math.max(rows, columns))
  local small = core.image.resize(picture:contiguous(), math.max(1, math.floor(columns * share + 0.5)),
    math.max(1, math.floor(rows * share + 0.5)))
  return small:to { dtype = "float32" }:div(255):permute({ 2, 0, 1 }):contiguous()
end

-- Everything that a montage of image k draws: facts[method][network], maps as float tensors or nil.
local function facts_of(album, k)
  local facts = {}
  for m = 1, #album.methods do
    facts[m] = { most = 0 }
    for n = 1, #album.networks do
      local map, info = album.map(k, n, m)
      info = info or {}
      if map and not (map:max():item() > map:min():item()) then
        info.note = (info.note and info.note .. "; " or "") .. "flat map"
      end
      facts[m][n] = { map = map, prediction = info.text, note = info.note,
        raw = map and info.raw and info.raw[2] or nil }
      facts[m].most = math.max(facts[m].most, facts[m][n].raw or 0)
    end
  end
  return facts
end

-- A map over the picture; factor brings it to the shared scale.
local function panel_pixels(image, map, factor)
  local height, width = image:size(1), image:size(2)
  local large = torch.upsample_bilinear2d(map:to { device = "cpu", dtype = "float32" }:view { 1, 1, map:size(0),
    map:size(1) }, { height, width }, false):view { height, width }
  return figure.tint(image, large * factor, "inferno", 0, 1)
end

local function put_image(d, x, y, side, pixels)
  local w = side * math.min(1, pixels.columns / pixels.rows)
  local h = w * pixels.rows / pixels.columns
  d:image(x + (side - w) / 2, y, w, h, pixels.rgb, pixels.columns, pixels.rows)
  return h
end

local function put_words(d, x, y, side, text, color)
  return d:block(x + side / 2, y + 1, drawing.wrap(text, side + GAP - 1, SMALL - 0.5, false, 2), SMALL - 0.5,
    { color = color })
end

local function put_row_label(d, text, right, y, height, width)
  local lines = drawing.wrap(text, width, SMALL, false, 3)
  local top = y + height / 2 - #lines * SMALL * LEADING / 2
  for i, line in ipairs(lines) do
    d:text(right, top + (i - 1) * SMALL * LEADING + SMALL, line, { size = SMALL, align = "right" })
  end
end

-- The first row: the image as all networks see it, what each predicts under it. Returns the y below.
local function put_image_row(d, job, at, y)
  local below, pixels = y, figure.pixels(job.image)
  for n = 1, #job.album.networks do
    local x = at.left + (n - 1) * (at.side + GAP)
    local h = put_image(d, x, y, at.side, pixels)
    local text = job.facts[1][n].prediction or "prediction unknown"
    local wrong = job.class and text ~= "predicted " .. job.class and text:find "^predicted "
    below = math.max(below, put_words(d, x, y + h, at.side, text, wrong and WARN or INK))
    at.height = h
  end
  put_row_label(d, "image", at.left - 4, y, at.height, at.left - 4 - MARGIN)
  return below + 3
end

-- The maps of one method. Returns the y below.
local function put_map_row(d, job, m, at, y)
  local below = y
  for n = 1, #job.album.networks do
    local f, x = job.facts[m][n], at.left + (n - 1) * (at.side + GAP)
    local note, pixels = f.note, nil
    if f.map and (not job.shared or f.raw) then
      pixels = panel_pixels(job.image, f.map, job.shared and f.raw / job.facts[m].most or 1)
    else
      note = f.map and (note and note .. "; " or "") .. "no shared scale" or note or "no map"
    end
    local h = put_image(d, x, y, at.side, pixels or figure.pixels(job.image * 0.35 + 0.65))
    below = math.max(below, y + h)
    if note then below = math.max(below, put_words(d, x, y + h, at.side, note, WARN)) end
  end
  put_row_label(d, job.album.methods[m], at.left - 4, y, at.height, at.left - 4 - MARGIN)
  return below + 3
end

local function caption_of(job)
  local scale = job.shared and "Shared scale: the maps of a method run from 0 to their largest value over the networks."
    or "Own scale: each map runs from 0 to its own maximum; maps cannot be compared in strength."
  local left_out = job.left_out and "Without a shared scale, and not shown: " .. job.left_out .. "."
  return { ("One image (n = 1), the first of the study's keyed order: %s%s; it carries no interval and no chance "
    .. "level."):format(job.name, job.text and ", " .. job.text or ""), scale
    .. " The more opaque the higher, up to 60 % from half of the scale on.", left_out }
end

-- The methods of a figure: on a shared scale those with such a scale on two networks or more; the names of the others.
local function methods_of(job)
  local list, others = {}, {}
  for m, name in ipairs(job.album.methods) do
    local scaled = 0
    for n = 1, #job.album.networks do scaled = scaled + (job.facts[m][n].raw and 1 or 0) end
    if not job.shared or scaled > 1 then list[#list + 1] = m else others[#others + 1] = name end
  end
  return list, #others > 0 and table.concat(others, ", ") or nil
end

-- One figure of some methods, by their numbers.
local function page_of(job, methods)
  local album = job.album
  local columns = #album.networks
  local d = drawing.new(columns <= 2 and drawing.COLUMN or drawing.PAGE)
  local left = MARGIN + math.min(80, (plot.fitted(album.methods, 80))) + 4
  local at = { left = left, height = 0 }
  at.side = math.min(84, (d.width - left - MARGIN - (columns - 1) * GAP) / columns, 640 / (#methods + 1) - 10)
  local y = plot.headings(d, album.networks, left - GAP / 2, at.side + GAP, MARGIN, 2)
  y = put_image_row(d, job, at, y)
  for _, m in ipairs(methods) do y = put_map_row(d, job, m, at, y) end
  d.height = plot.caption(d, y - 3, caption_of(job))
  return d
end

local function rows_of(job, methods)
  local rows = {}
  for _, m in ipairs(methods) do
    for n, network in ipairs(job.album.networks) do
      local f = job.facts[m][n]
      rows[#rows + 1] = { image = job.name, class = job.class, network = network, method = job.album.methods[m],
        prediction = f.prediction, note = f.note, raw_maximum = f.raw,
        scale_maximum = job.shared and f.raw and job.facts[m].most or f.raw }
    end
  end
  return rows
end

--- Montages of the k-th image of an album: on own scales, and, of several networks, on shared ones; so many methods per
--- figure as fill a page.
---@param album medxai.Album
---@param k integer
---@return { name: string, title: string, drawing: table, rows: table[] }[]
function montage.of(album, k)
  local scope <close> = core.memory.scope() -- luacheck: ignore
  local image, list = album.images[k], {}
  local job = { album = album, image = small_picture(album, k), facts = facts_of(album, k), name = image.id,
    text = image.text, class = image.class }
  for _, scale in ipairs(#album.networks > 1 and { "own", "shared" } or { "own" }) do
    job.shared = scale == "shared"
    local methods, left_out = methods_of(job)
    job.left_out = left_out
    local pages = math.ceil(#methods / most_rows)
    for p = 1, pages do
      local some = table.move(methods, (p - 1) * #methods // pages + 1, p * #methods // pages, 1, {})
      local part = pages > 1 and "-" .. p or ""
      list[#list + 1] = { name = "montage-" .. scale .. part, drawing = page_of(job, some), rows = rows_of(job, some),
        title = ("Maps of one image, %s scale%s"):format(scale, pages > 1 and (", %d of %d"):format(p, pages) or "") }
    end
  end
  return list
end

--- Draws the first image of an album into the run's figures/.
---@param run medxai.Run
---@param album medxai.Album
---@return table[] figures { name, title, svg, paths, picture = true }
function montage.draw(run, album)
  local figures = {}
  if #album.images == 0 or #album.networks == 0 or #album.methods == 0 then return figures end
  for i, one in ipairs(montage.of(album, 1)) do
    figures[i] = plot.save(run, "compare-" .. one.name, { title = one.title, drawing = one.drawing,
      columns = montage.columns, rows = one.rows })
    figures[i].picture = true
  end
  return figures
end

return montage
