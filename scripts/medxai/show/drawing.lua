-- A drawing: a list of marks in points (1/72 inch), y downwards, that is written as PNG, PDF or SVG alike. Text is
-- measured before it is placed, so that nothing overlaps or is cut; in PDF and SVG it stays text. What is drawn is up
-- to figure.lua.
local check = require "medxai.base.check"
local core = require "medxai.core"
local native = core.figure

local drawing = {
  COLUMN = 252, PAGE = 518,                            -- widths of a journal's column and page
  SMALL = 6.5, TEXT = 7, HEAD = 8, LEADING = 1.25,     -- sizes of text; line height over size
  INK = 0x1a1a1a, SOFT = 0x5a5a5a, WARN = 0x9a1b1b, GRID = 0xe4e4e4,
}
drawing.__index = drawing

--- A new drawing; the height may be set later as `d.height`.
---@param width number points
---@param height? number points
function drawing.new(width, height)
  return setmetatable({ width = width, height = height or 0, marks = {} }, drawing)
end

-- File names and class names come from anywhere: bytes that are not UTF-8 are shown as "?", control characters as a
-- space.
local function clean(s)
  s = tostring(s)
  if not utf8.len(s) then s = s:gsub("[\x80-\xff]", "?") end
  return (s:gsub("%c", " "))
end
drawing.clean = clean

function drawing.text_width(text, size, bold) return native.text_width(clean(text), size, bold) end

local function mark(self, name, ...)
  self.marks[#self.marks + 1] = table.pack(name, ...)
end

function drawing:rect(x, y, w, h, color, alpha) mark(self, "rect", x, y, w, h, color, alpha or 1) end
function drawing:line(points, width, color, dash, alpha)
  mark(self, "line", points, width, color, dash or 0, alpha or 1)
end
function drawing:polygon(points, color, alpha) mark(self, "polygon", points, color, alpha or 1) end
function drawing:circle(x, y, radius, color) mark(self, "circle", x, y, radius, color) end
function drawing:image(x, y, w, h, rgb, columns, rows, blocky)
  mark(self, "image", x, y, w, h, rgb, columns, rows, blocky or false)
end

function drawing:frame(x, y, w, h, width, color)
  self:line({ x, y, x + w, y, x + w, y + h, x, y + h, x, y }, width, color)
end

--- One line of text on the baseline y. style: size, color, bold, align ("left", "center", "right" of x), turned
--- (upwards; then x is the baseline and align works along y).
function drawing:text(x, y, text, style)
  text = clean(text)
  if text == "" then return end
  local size = style.size or 7
  local width = native.text_width(text, size, style.bold)
  local shift = style.align == "center" and width / 2 or style.align == "right" and width or 0
  if style.turned then y = y + shift else x = x - shift end
  mark(self, "text", x, y, text, size, style.color or drawing.INK, style.bold or false, style.turned or false, width)
end

--- Lines of text under each other; y is the top of the first, style.align is "center" unless given. Returns the y
--- below.
function drawing:block(x, y, lines, size, style)
  for _, line in ipairs(lines) do
    self:text(x, y + size, line, { size = size, align = style.align or "center", bold = style.bold,
      color = style.color })
    y = y + size * drawing.LEADING
  end
  return y
end

local raised = { ["-"] = "⁻", ["0"] = "⁰", ["1"] = "¹", ["2"] = "²", ["3"] = "³", ["4"] = "⁴", ["5"] = "⁵", ["6"] = "⁶",
  ["7"] = "⁷", ["8"] = "⁸", ["9"] = "⁹" }

--- An integer as an exponent is written: -4 is ⁻⁴.
function drawing.superscript(n) return (string.format("%d", n):gsub(".", raised)) end

--- A number for an axis: 0.5, −12, 1.2 × 10⁻⁵.
function drawing.number(v)
  if v == 0 then return "0" end
  local s = string.format("%.3g", v)
  local digits, power = s:match "^(.*)e(.*)$"
  if power then return (digits:gsub("^%-", "−")) .. " × 10" .. drawing.superscript(math.tointeger(tonumber(power))) end
  return (string.format("%.4f", v):gsub("0+$", ""):gsub("%.$", ""):gsub("^%-", "−"))
end

--- A number with fixed decimals for reading: a true minus, no negative zero; signed: with + too; NaN is "undefined".
function drawing.fixed(v, decimals, signed)
  if v ~= v then return "undefined" end
  local s = string.format("%." .. decimals .. "f", v)
  if tonumber(s) == 0 then s = s:gsub("^%-", "") end
  if signed and tonumber(s) > 0 then return "+" .. s end
  return (s:gsub("^%-", "−"))
end

--- text shortened with an ellipsis to fit width.
function drawing.fit(text, width, size, bold)
  text = clean(text)
  if native.text_width(text, size, bold) <= width then return text end
  local n = utf8.len(text)
  while n > 0 do
    n = n - 1
    local short = text:sub(1, utf8.offset(text, n + 1) - 1):gsub("%s+$", "") .. "…"
    if native.text_width(short, size, bold) <= width then return short end
  end
  return "…"
end

--- The lines of text broken at spaces (a word too wide at characters) to fit width; the last of `most` lines is
--- shortened.
function drawing.wrap(text, width, size, bold, most)
  local words = {}
  for word in clean(text):gmatch("%S+") do
    while native.text_width(word, size, bold) > width and utf8.len(word) > 1 do
      local n = utf8.len(word)
      repeat n = n - 1 until n == 1 or native.text_width(word:sub(1, utf8.offset(word, n + 1) - 1), size, bold) <= width
      words[#words + 1] = word:sub(1, utf8.offset(word, n + 1) - 1)
      word = word:sub(utf8.offset(word, n + 1))
    end
    words[#words + 1] = word
  end
  local lines, line = {}, ""
  for _, word in ipairs(words) do
    local longer = line == "" and word or line .. " " .. word
    if native.text_width(longer, size, bold) <= width or line == "" then
      line = longer
    else
      lines[#lines + 1] = line
      line = word
    end
  end
  if line ~= "" then lines[#lines + 1] = line end
  if most and #lines > most then
    lines[most] = drawing.fit(table.concat(lines, " ", most), width, size, bold)
    for i = #lines, most + 1, -1 do lines[i] = nil end
  end
  return lines
end

-- Where the places stand among a mark's arguments: numbers x, y, or a list of points.
local function shifted(m, dx, dy)
  local copy = { table.unpack(m, 1, m.n) }
  copy.n = m.n
  if type(m[2]) == "table" then
    copy[2] = {}
    for i, v in ipairs(m[2]) do copy[2][i] = v + (i % 2 == 1 and dx or dy) end
  else
    copy[2], copy[3] = m[2] + dx, m[3] + dy
  end
  return copy
end

--- Drawings under each other as one, each from the left edge.
---@param list table[]
---@param gap? number points between them (6)
function drawing.stack(list, gap)
  local d, y = drawing.new(0), 0
  for i, part in ipairs(list) do
    if i > 1 then y = y + (gap or 6) end
    for _, m in ipairs(part.marks) do d.marks[#d.marks + 1] = shifted(m, 0, y) end
    d.width, y = math.max(d.width, part.width), y + part.height
  end
  d.height = y
  return d
end

-- ---- output -------------------------------------------------------------------------------------------------

local most_px = 32767 -- a side of a PNG

-- Of 300 dpi, or as many as a long drawing has room for (a search of hundreds of cells).
local function raster(self, format, dpi)
  dpi = dpi or math.max(10, math.min(300, most_px * 72 // math.max(self.width, self.height)))
  local canvas <close> = native.canvas(format, self.width, self.height, dpi)
  for _, m in ipairs(self.marks) do
    if m[1] == "text" then
      canvas:text(m[2], m[3], m[4], m[5], m[6], m[7], m[8]) -- without the measured width
    else
      canvas[m[1]](canvas, table.unpack(m, 2, m.n))
    end
  end
  return canvas:finish()
end

local function escape(s)
  return (s:gsub("[&<>\"]", { ["&"] = "&amp;", ["<"] = "&lt;", [">"] = "&gt;", ['"'] = "&quot;" }))
end

-- Two decimals, as short as SVG reads them: 12.5, .4, -3.
local function num(v)
  local text = string.format("%.2f", v):gsub("%.?0+$", "")
  return text == "-0" and "0" or (text:gsub("^(-?)0%.", "%1."))
end

-- A path of straight lines; what lies on one line with the point before is written as H or V.
local function path_of(points)
  local out, last_x, last_y = {}, nil, nil
  for i = 1, #points, 2 do
    local x, y = num(points[i]), num(points[i + 1])
    if not last_x then out[1] = "M" .. x .. " " .. y
    elseif y == last_y then out[#out + 1] = "H" .. x
    elseif x == last_x then out[#out + 1] = "V" .. y
    else out[#out + 1] = "L" .. x .. " " .. y end
    last_x, last_y = x, y
  end
  return table.concat(out)
end

local function opacity(name, alpha) return alpha < 1 and string.format(' %s-opacity="%s"', name, num(alpha)) or "" end

-- A color as #rgb where that says the same.
local function hex(color)
  local text = string.format("#%06x", color)
  return (text:gsub("^#(%x)%1(%x)%2(%x)%3$", "#%1%2%3"))
end

local svg_marks = {}

function svg_marks.rect(x, y, w, h, color, alpha)
  return string.format('<rect x="%s" y="%s" width="%s" height="%s" fill="%s"%s/>', num(x), num(y), num(w), num(h),
    hex(color), opacity("fill", alpha))
end

function svg_marks.line(points, width, color, dash, alpha)
  return string.format('<path d="%s" stroke="%s" stroke-width="%s"%s%s/>', path_of(points), hex(color), num(width),
    dash > 0 and string.format(' stroke-dasharray="%s"', num(dash)) or "", opacity("stroke", alpha))
end

function svg_marks.polygon(points, color, alpha)
  return string.format('<path d="%sZ" fill="%s"%s/>', path_of(points), hex(color), opacity("fill", alpha))
end

function svg_marks.circle(x, y, radius, color)
  return string.format('<circle cx="%s" cy="%s" r="%s" fill="%s"/>', num(x), num(y), num(radius), hex(color))
end

-- textLength keeps the measured width where the reader lacks the font.
function svg_marks.text(x, y, text, size, color, bold, turned, width)
  return string.format('<text x="%s" y="%s" font-size="%s" fill="%s" textLength="%s"%s%s>%s</text>', num(x), num(y),
    num(size), hex(color), num(width), bold and ' font-weight="bold"' or "",
    turned and string.format(' transform="rotate(-90 %s %s)"', num(x), num(y)) or "", escape(text))
end

function svg_marks.image(x, y, w, h, rgb, columns, rows, blocky)
  return string.format('<image x="%s" y="%s" width="%s" height="%s" preserveAspectRatio="none"%s '
    .. 'xlink:href="data:image/png;base64,%s"/>', num(x), num(y),
    num(w), num(h), blocky and ' style="image-rendering:pixelated"' or "",
    native.base64(native.png(rgb, columns, rows)))
end

--- The SVG text. title is read out by screen readers.
function drawing:svg(title)
  local out = {
    string.format('<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" width="%spt" '
      .. 'height="%spt" viewBox="0 0 %s %s" '
      .. 'font-family="DejaVu Sans, Verdana, Arial, sans-serif" fill="none" stroke-linejoin="round" role="img">',
      num(self.width), num(self.height), num(self.width), num(self.height)),
    string.format("<title>%s</title>", escape(clean(title or "figure"))),
    self.description and string.format("<desc>%s</desc>", escape(clean(self.description))) or "",
    string.format('<rect width="%s" height="%s" fill="#ffffff"/>', num(self.width), num(self.height)),
  }
  for _, m in ipairs(self.marks) do out[#out + 1] = svg_marks[m[1]](table.unpack(m, 2, m.n)) end
  out[#out + 1] = "</svg>\n"
  return table.concat(out, "\n")
end

--- The file's bytes in "png", "pdf" or "svg".
function drawing:bytes(format, options)
  if self.width <= 0 or self.height <= 0 then
    check.fail("figure", "the drawing has no size (%g x %g pt).", self.width, self.height)
  end
  if format == "svg" then return self:svg(options and options.title) end
  return raster(self, format, options and options.dpi)
end

return drawing
