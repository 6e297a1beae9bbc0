-- The figures: panels of images and maps with their color bars, line charts, confusion matrices, intervals. Each
-- function takes a table and returns a drawing (drawing.lua), laid out for a journal's column (252 pt) or page (518
-- pt); figure.save writes it as PNG, SVG and PDF. Figures compute nothing; they always show which maps failed and how
-- maps were scaled.
local chart = require "medxai.show.chart"
local check = require "medxai.base.check"
local core = require "medxai.core"
local drawing = require "medxai.show.drawing"
local palette = require "medxai.show.palette"
local torch = require "medxai.torch"

local figure = { column_pt = drawing.COLUMN, page_pt = drawing.PAGE }

local INK, SOFT, WARN = drawing.INK, drawing.SOFT, drawing.WARN
local SMALL, TEXT, HEAD, LEADING = drawing.SMALL, drawing.TEXT, drawing.HEAD, drawing.LEADING

-- ---- pixels -------------------------------------------------------------------------------------------------

local function float_bytes(t) return t:detach():to { device = "cpu", dtype = "float32" }:contiguous():data_string() end

-- Planes (3, H, W) to bytes H x W x 3.
--- An image tensor (3, H, W) in [0, 1] as pixels: { rgb =, columns =, rows = }.
figure.pixels = require "medxai.tensor.pixels"

--- A map (H, W) through a scale of colors.
---@param map any tensor (H, W)
---@param colors string palette name
---@param lo number
---@param hi number
function figure.heat(map, colors, lo, hi)
  local shape = map.shape
  return { rgb = core.figure.color(float_bytes(map), palette.get(colors), lo, hi), columns = shape[2],
    rows = shape[1] }
end

-- (H, W): luma of Rec. 601, the gray that every picture library means.
local function luma(image)
  image = image:to { device = "cpu", dtype = "float32" }
  return image:select(0, 0):mul(0.299) + image:select(0, 1):mul(0.587) + image:select(0, 2):mul(0.114)
end

--- A map over the gray values of its image, half and half.
function figure.overlay(image, map, colors, lo, hi)
  local heat = figure.heat(map, colors, lo, hi)
  local base = core.figure.color(float_bytes(luma(image)), palette.get("gray"), 0, 1)
  return { rgb = core.figure.blend(base, heat.rgb, 0.5), columns = heat.columns, rows = heat.rows }
end

local most_opaque, opaque_at = 0.6, 0.5 -- of a tint: reached at half of the scale

--- A map over the gray values of its image, the more opaque the higher its value, up to 60 % at half of the scale:
--- where the map is low, or not a number, the image stays.
function figure.tint(image, map, colors, lo, hi)
  local heat = figure.heat(map, colors, lo, hi)
  local color = torch.from_string(heat.rgb, "uint8",
    { heat.rows, heat.columns, 3 }):to { dtype = "float32" }:div(255):permute({ 2, 0, 1 })
  local share = (map:to { device = "cpu", dtype = "float32" } - lo):div((hi - lo) * opaque_at):nan_to_num(0):clamp(0,
    1):mul(most_opaque)
  local gray = luma(image)
  return figure.pixels(torch.lerp(gray:unsqueeze(0):expand_as(color), color, share:unsqueeze(0):expand_as(color)))
end

--- JET exactly as pytorch-grad-cam's show_cam_on_image with use_rgb (0.5 of each, then divided by the largest value).
function figure.overlay_reference(image, map)
  local shape = map.shape
  local heat = torch.from_string(core.figure.color(float_bytes(map), palette.get("jet"), 0, 1), "uint8",
    { shape[1], shape[2], 3 })
  local sum = heat:to { dtype = "float32" }:div(255):mul(0.5) + image:to { device = "cpu",
    dtype = "float32" }:permute({ 1, 2, 0 }):mul(0.5)
  local peak = sum:max():item()
  local scaled = peak > 0 and sum:div(peak) or sum
  return { rgb = scaled:mul(255):to { dtype = "uint8" }:contiguous():data_string(), columns = shape[2],
    rows = shape[1] }
end

--- A signed map without its image, as pytorch-grad-cam's deprocess_image shows gradients: brought to mean 0.5 and
--- deviation 0.1 over the map, cut to [0, 1]. What is near gray is near the map's mean.
---@param raw any tensor (H, W)
---@param compat? string adds 1e-5 to the deviation as that function does, which grays faint gradients
function figure.detail(raw, compat)
  local v = raw:to { device = "cpu", dtype = "float64" } -- the square of a faint one is no float32
  local deviation = v:std(false):item()
  local spread = (v - v:mean()) / (compat and deviation + 1e-5 or deviation > 0 and deviation or 1)
  return figure.heat(spread * 0.1 + 0.5, "gray", 0, 1)
end

--- The pixels with a mask's inner border drawn in a color.
---@param pixels table { rgb, columns, rows }
---@param mask any tensor (H, W), non-zero inside
---@param color? integer 0xRRGGBB, default white
function figure.outline(pixels, mask, color)
  local rows, columns = pixels.rows, pixels.columns
  local inside = mask:to { device = "cpu" }:ne(0):to { dtype = "float32" }:view({ 1, 1, rows, columns })
  local eroded = torch.max_pool2d(inside:neg(), { 3, 3 }, { 1, 1 }, { 1, 1 }):neg()
  local border = (inside - eroded):gt(0.5):view({ rows, columns, 1 })
  local rgb = torch.from_string(pixels.rgb, "uint8", { rows, columns, 3 })
  color = color or 0xffffff
  local line = torch.tensor({ color >> 16, color >> 8 & 255, color & 255 }, { dtype = "uint8" }):view({ 1, 1, 3 })
  return { rgb = torch.where(border, line, rgb):contiguous():data_string(), columns = columns, rows = rows }
end

-- ---- panels -------------------------------------------------------------------------------------------------

local MARGIN, GAP = 3, 5

-- A band over the foot of a panel that says why its map is not to be read.
local function status_band(d, x, y, w, h, text)
  local lines = drawing.wrap(text, w - 6, SMALL, true, 3)
  local band = #lines * SMALL * LEADING + 4
  d:rect(x, y + h - band, w, band, 0xffffff, 0.88)
  d:block(x + w / 2, y + h - band + 2, lines, SMALL, { bold = true, color = WARN })
end

-- Wraps all titles of one row to the panel's width; the tallest sets the room.
local function title_lines(panels, w)
  local all, most = {}, 0
  for i, p in ipairs(panels) do
    local lines = {}
    for _, line in ipairs(p.heading and drawing.wrap(p.heading, w, TEXT, true, 2) or {}) do
      lines[#lines + 1] = { line, bold = true }
    end
    for _, part in ipairs(type(p.title) == "table" and p.title or { p.title }) do
      for _, line in ipairs(drawing.wrap(part, w, SMALL, false, 2)) do lines[#lines + 1] = { line } end
    end
    all[i] = lines
    most = math.max(most, #lines)
  end
  return all, most
end

-- A vertical color bar with three values and its label on the right. Returns the width it took.
local function color_bar(d, x, y, h, bar)
  local w, steps = 7, 128
  local pixels = {}
  for i = steps - 1, 0, -1 do
    local k = math.floor(255 * i / (steps - 1))
    local r, g, b = palette.get(bar.colors):byte(3 * k + 1, 3 * k + 3)
    -- of a tint: as it looks over mid gray
    local opaque = bar.tint and most_opaque * math.min(1, i / (steps - 1) / opaque_at) or 1
    for _, v in ipairs { r, g, b } do
      pixels[#pixels + 1] = string.char(math.floor(v * opaque + 128 * (1 - opaque) + 0.5))
    end
  end
  d:image(x, y, w, h, table.concat(pixels), 1, steps)
  d:frame(x, y, w, h, 0.4, SOFT)
  local widest = 0
  for _, at in ipairs { 0, 0.5, 1 } do
    local text = drawing.number(bar.lo + at * (bar.hi - bar.lo))
    local ty = y + h * (1 - at)
    d:line({ x + w, ty, x + w + 2, ty }, 0.4, SOFT)
    local baseline = at == 1 and ty + SMALL * 0.72 or at == 0 and ty or ty + SMALL * 0.36
    d:text(x + w + 3.5, baseline, text, { size = SMALL })
    widest = math.max(widest, drawing.text_width(text, SMALL))
  end
  local label_x = x + w + 3.5 + widest + 2 + SMALL
  if bar.label then
    d:text(label_x, y + h / 2, drawing.fit(bar.label, h, SMALL),
      { size = SMALL, turned = true, align = "center", color = SOFT })
  end
  return label_x + 2 - x
end

local function bar_width(bars)
  local widest = 0
  for _, bar in ipairs(bars) do
    for _, v in ipairs { bar.lo, (bar.lo + bar.hi) / 2, bar.hi } do
      widest = math.max(widest, drawing.text_width(drawing.number(v), SMALL))
    end
  end
  return #bars == 0 and 0 or 5 + 7 + 3.5 + widest + 4 + SMALL
end

-- Where things go: columns, their side, the left edge of the first.
local function panel_layout(spec)
  local columns, has_labels = 0, false
  for _, row in ipairs(spec.rows) do
    columns = math.max(columns, #row.panels)
    has_labels = has_labels or row.label ~= nil
  end
  if columns == 0 then check.fail("figure", "there is no picture to draw.") end
  local width = spec.width_pt or (columns <= 3 and figure.column_pt or figure.page_pt)
  local left = MARGIN + (has_labels and 2 * SMALL * LEADING + 3 or 0)
  local room = width - left - MARGIN - bar_width(spec.bars or {}) - GAP * (columns - 1)
  return { columns = columns, width = width, left = left, side = math.min(room / columns, spec.most_pt or 150) }
end

-- The texts over the columns, all standing on the same line. Returns the y below.
local function put_headings(d, headings, at, y)
  local most, wrapped = 0, {}
  for c, text in ipairs(headings) do
    wrapped[c] = drawing.wrap(text, at.side, TEXT, true, 2)
    most = math.max(most, #wrapped[c])
  end
  for c, lines in ipairs(wrapped) do
    d:block(at.left + (c - 1) * (at.side + GAP) + at.side / 2, y + (most - #lines) * TEXT * LEADING, lines, TEXT,
      { bold = true })
  end
  return y + most * TEXT * LEADING + 2
end

local function put_panel(d, p, lines, x, top, side)
  local h = side * p.pixels.rows / p.pixels.columns
  for i, line in ipairs(lines) do
    d:text(x + side / 2, top - 1.5 - (#lines - i + 1) * SMALL * LEADING + SMALL, line[1],
      { size = line.bold and TEXT or SMALL, bold = line.bold, align = "center",
      color = p.warn and WARN or INK })
  end
  d:image(x, top, side, h, p.pixels.rgb, p.pixels.columns, p.pixels.rows)
  if p.frame then d:frame(x, top, side, h, 1.6, p.frame) end
  if p.status then status_band(d, x, top, side, h, p.status) end
end

-- One row of panels. Returns the top and the height of its pictures.
local function put_row(d, row, at, y)
  local titles, most = title_lines(row.panels, at.side)
  local height = 0
  for _, p in ipairs(row.panels) do height = math.max(height, at.side * p.pixels.rows / p.pixels.columns) end
  local top = y + most * SMALL * LEADING + (most > 0 and 1.5 or 0)
  if row.label then
    for i, line in ipairs(drawing.wrap(row.label, height, SMALL, true, 2)) do
      d:text(MARGIN + i * SMALL * LEADING, top + height / 2, line,
        { size = SMALL, bold = true, turned = true, align = "center" })
    end
  end
  for c, p in ipairs(row.panels) do put_panel(d, p, titles[c], at.left + (c - 1) * (at.side + GAP), top, at.side) end
  return top, height
end

-- The color bars beside the rows, from `top` on; as tall as the first row, or taller where it is small and others
-- follow. Returns the right edge of the figure.
local function put_bars(d, bars, at, top, first, all)
  local x = at.left + at.columns * (at.side + GAP)
  if #bars == 0 then return x - GAP + MARGIN end
  local h = (math.max(first, math.min(all, 110)) - (#bars - 1) * 8) / #bars
  for i, bar in ipairs(bars) do color_bar(d, x, top + (i - 1) * (h + 8), h, bar) end
  return x + bar_width(bars) + MARGIN
end

--- Rows of pictures.
--- rows: list of { label = text on the left, panels = list of { pixels = {rgb, columns, rows}, title = text or list of
--- lines, heading = bold text over it, status = text where the map is not ok, warn = true marks the title red, frame =
--- color } }; headings: list of texts over the columns; bars: list of { colors, lo, hi, label, tint = true for
--- figure.tint }; caption: list of sentences under the figure; width_pt; most_pt: side of a panel at most; title.
function figure.panels(spec)
  local at = panel_layout(spec)
  local d = drawing.new(at.width)
  local y = MARGIN
  if spec.title then
    y = d:block(MARGIN, y, drawing.wrap(spec.title, at.width - 2 * MARGIN, HEAD, true), HEAD,
      { align = "left", bold = true }) + 2
  end
  if spec.headings then y = put_headings(d, spec.headings, at, y) end
  local first_top, first_height
  for _, row in ipairs(spec.rows) do
    local top, height = put_row(d, row, at, y)
    first_top, first_height = first_top or top, first_height or height
    y = top + height + GAP
  end
  d.width = math.min(at.width, put_bars(d, spec.bars or {}, at, first_top, first_height, y - GAP - first_top))
  for _, sentence in ipairs(spec.caption or {}) do
    y = d:block(MARGIN, y, drawing.wrap(sentence, d.width - 2 * MARGIN, SMALL), SMALL, { align = "left", color = SOFT })
  end
  d.height = y + MARGIN
  return d
end

-- ---- files --------------------------------------------------------------------------------------------------

--- Writes base.png, base.svg and base.pdf (or the formats asked for), each whole or not at all.
---@param d table a drawing
---@param base string path without its ending
---@param options? table formats: list, dpi: of the PNG (300), title
---@return string[] paths
function figure.save(d, base, options)
  local file = require "medxai.file"
  local paths = {}
  for _, format in ipairs(options and options.formats or { "png", "svg", "pdf" }) do
    local path = base .. "." .. format
    local done, why = file.write(path, d:bytes(format, options))
    if not done then check.fail("figure", "%s.", why) end
    paths[#paths + 1] = path
  end
  return paths
end

--- A line of bold text over the drawings of a stack.
function figure.heading(text, width)
  local d = drawing.new(width or figure.page_pt)
  d.height = d:block(MARGIN, MARGIN, drawing.wrap(text, d.width - 2 * MARGIN, HEAD, true), HEAD,
    { align = "left", bold = true })
  return d
end

--- Drawings under each other as one figure.
figure.stack = drawing.stack

-- The charts live in chart.lua and are called through here.
for name, draw in pairs(chart) do figure[name] = draw end

return figure
