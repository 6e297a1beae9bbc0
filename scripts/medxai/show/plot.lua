-- The parts that the figures of studies share: axes, points with intervals, cells, keys, captions, and the files of a
-- figure: SVG, PDF, PNG and its numbers as CSV, in figures/.
-- It refuses to draw what is not a number: that is left out, and counted where the figure says how many there are.
local canon = require "medxai.base.json"
local chart = require "medxai.show.chart"
local check = require "medxai.base.check"
local csv = require "medxai.base.csv"
local drawing = require "medxai.show.drawing"
local files = require "medxai.base.files"
local tables = require "medxai.run.tables"

local plot = {
  BLUE = 0x0072b2, ORANGE = 0xd55e00, GREEN = 0x009e73, GRAY = 0x8a8a8a, PALE = 0xd9d9d9, BAND = 0xdfe7ee,
  MARGIN = 3,
}

local INK, SOFT, GRID, WARN = drawing.INK, drawing.SOFT, drawing.GRID, drawing.WARN
local SMALL, TEXT, LEADING = drawing.SMALL, drawing.TEXT, drawing.LEADING
local MARGIN = plot.MARGIN

plot.color = chart.series_color

local PICTURE = 1080 -- pixels, the widest that a picture is in the page

local is_finite = check.is_finite
plot.is_finite = is_finite

-- ---- rows -----------------------------------------------------------------------------------------------------------

--- The rows of a table of the run. Fields that are numbers become numbers, empty ones are absent; those named in
--- `texts` stay as they are written.
---@param run medxai.Run
---@param name string "tables/networks.csv"
---@param texts string[]
---@return table[] empty where there is no such table
function plot.rows(run, name, texts)
  local as_text, rows = {}, {}
  for _, column in ipairs(texts) do as_text[column] = true end
  for i, row in ipairs(csv.read(files.join(run.dir, name)) or {}) do
    rows[i] = {}
    for column, value in pairs(row) do
      if value ~= "" then rows[i][column] = not as_text[column] and tonumber(value) or value end
    end
  end
  return rows
end

--- Groups of rows with the same value of a column, in the order in which the values come first.
---@return { name: any, rows: table[] }[]
function plot.grouped(rows, column)
  local list, by = {}, {}
  for _, row in ipairs(rows) do
    local key = row[column]
    if key ~= nil then
      if not by[key] then
        by[key] = { name = key, rows = {} }
        list[#list + 1] = by[key]
      end
      table.insert(by[key].rows, row)
    end
  end
  return list
end

-- ---- texts ----------------------------------------------------------------------------------------------------------

--- The widest of some texts, each shortened to `most`; and the texts.
---@return number width
---@return string[] shortened
function plot.fitted(texts, most, size, bold)
  local widest, out = 0, {}
  for i, text in ipairs(texts) do
    out[i] = drawing.fit(text, most, size or SMALL, bold)
    widest = math.max(widest, drawing.text_width(out[i], size or SMALL, bold))
  end
  return widest, out
end

--- "1 image", "2 images".
function plot.count(n, what) return string.format("%d %s%s", n, what, n == 1 and "" or "s") end

--- "412 images of 300 patients"; only "412 images" where each is a unit of its own.
function plot.images(n, units, what)
  local text = plot.count(n, what or "image")
  return units > 0 and units < n and ("%s of %s"):format(text, plot.count(units, "patient")) or text
end

--- Sentences under a figure; returns the y below.
function plot.caption(d, y, sentences)
  y = y + 3
  for _, sentence in ipairs(sentences) do
    if sentence then
      d.description = (d.description and d.description .. " " or "") .. sentence -- for screen readers
      y = d:block(MARGIN, y, drawing.wrap(sentence, d.width - 2 * MARGIN, SMALL), SMALL,
        { align = "left", color = SOFT })
    end
  end
  return y
end

--- A bold text over a panel, in two lines at most; returns the y below.
function plot.title(d, x, y, text, width)
  local lines = drawing.wrap(text, width, TEXT, true, 2)
  return d:block(x, y, lines, TEXT, { align = "left", bold = true }) + 2
end

-- ---- axes -----------------------------------------------------------------------------------------------------------

--- A range that holds the values with some room; 0 to 1 where there is none.
---@param values number[]
---@param limits? { [1]: number, [2]: number } it does not leave these
function plot.range(values, limits)
  local lo, hi = math.huge, -math.huge
  for _, v in ipairs(values) do
    if is_finite(v) then lo, hi = math.min(lo, v), math.max(hi, v) end
  end
  if lo > hi then lo, hi = 0, 1 end
  local pad = hi > lo and 0.06 * (hi - lo) or math.max(0.05, 0.1 * math.abs(lo))
  lo, hi = lo - pad, hi + pad
  if limits and limits[1] then lo = math.max(lo, limits[1]) end
  if limits and limits[2] then hi = math.min(hi, limits[2]) end
  if lo >= hi then lo, hi = lo - 0.5, hi + 0.5 end
  return lo, hi
end

-- Powers of ten within the range, and 2 and 5 between them where they are few; the texts as they are read.
local function log_ticks(lo, hi)
  local values, texts = {}, {}
  local few = math.log(hi / lo, 10) < 2.2
  for power = math.floor(math.log(lo, 10)), math.ceil(math.log(hi, 10)) do
    for _, m in ipairs(few and { 1, 2, 5 } or { 1 }) do
      local v = m * 10.0 ^ power
      if v >= lo * 0.999 and v <= hi * 1.001 then values[#values + 1], texts[#texts + 1] = v, drawing.number(v) end
    end
  end
  return values, texts
end

-- The function from values to points, of an axis of `length` points from `first`.
local function scale(first, length, lo, hi, log)
  if log then lo, hi = math.log(lo), math.log(hi) end
  return function(v)
    v = ((log and math.log(v) or v) - lo) / (hi - lo)
    return first + length * math.max(0, math.min(1, v))
  end
end

--- A horizontal axis at the foot of a box { left, top, width, height }: grid, numbers, label in at most two lines.
---@param o table lo, hi, label, log, integer, plain = no grid
---@return fun(v: number): number to_x values outside come to lie on the edge
---@return number y below
function plot.x_axis(d, box, o)
  local foot = box.top + box.height
  local to_x = scale(box.left, box.width, o.lo, o.hi, o.log)
  local values, texts
  if o.log then values, texts = log_ticks(o.lo, o.hi) else
    values, texts = chart.ticks(o.lo, o.hi, math.max(2, math.floor(box.width / 26)), o.integer)
  end
  local last = -math.huge
  for i, v in ipairs(values) do
    local x, half = to_x(v), drawing.text_width(texts[i], SMALL) / 2
    if not o.plain then d:line({ x, box.top, x, foot }, 0.4, GRID) end
    d:line({ x, foot, x, foot + 2 }, 0.5, INK)
    if x - half > last + 2 then
      d:text(math.min(x, d.width - 1 - half), foot + 3 + SMALL, texts[i], { size = SMALL, align = "center" })
      last = x + half
    end
  end
  d:line({ box.left, foot, box.left + box.width, foot }, 0.6, INK)
  local y = foot + 3 + SMALL * LEADING + 1
  if not o.label then return to_x, y end
  local room = box.label_room or box.width
  return to_x, d:block(box.left + box.width / 2, y, drawing.wrap(o.label, room, SMALL, false, 2), SMALL, {})
end

-- How many numbers an upright axis has room for.
local function upright_count(height) return math.max(2, math.floor(height / 18)) end

--- An upright axis at the left of a box. The numbers stand left of it, in the room of plot.y_room.
---@param o table lo, hi, label
---@return fun(v: number): number
function plot.y_axis(d, box, o)
  local up = scale(0, box.height, o.lo, o.hi)
  local function to_y(v) return box.top + box.height - up(v) end
  local values, texts = chart.ticks(o.lo, o.hi, upright_count(box.height))
  for i, v in ipairs(values) do
    d:line({ box.left, to_y(v), box.left + box.width, to_y(v) }, 0.4, GRID)
    d:text(box.left - 3, to_y(v) + SMALL * 0.36, texts[i], { size = SMALL, align = "right" })
  end
  d:line({ box.left, box.top, box.left, box.top + box.height }, 0.6, INK)
  if o.label then
    d:text(box.left - plot.y_room(o, box.height) + SMALL, box.top + box.height / 2,
      drawing.fit(o.label, box.height, SMALL), { size = SMALL, align = "center", turned = true })
  end
  return to_y
end

--- The room left of an upright axis that its numbers and label take.
---@param height number of the axis
function plot.y_room(o, height)
  local _, texts = chart.ticks(o.lo, o.hi, upright_count(height))
  return (plot.fitted(texts, 60)) + 5 + (o.label and SMALL * LEADING + 2 or 0)
end

-- ---- marks ----------------------------------------------------------------------------------------------------------

--- A horizontal interval with ends, and its point. style: color, hollow, thin.
function plot.interval(d, y, x, low, high, style)
  local color, width = style.color or plot.BLUE, style.thin and 0.6 or 1.1
  if low and high then
    d:line({ low, y, high, y }, width, color)
    for _, edge in ipairs { low, high } do d:line({ edge, y - 3, edge, y + 3 }, width, color) end
  end
  if x then plot.dot(d, x, y, style) end
end

--- A point. style: color, hollow, radius.
function plot.dot(d, x, y, style)
  local radius = style.radius or 2.1
  d:circle(x, y, radius, style.color or plot.BLUE)
  if style.hollow then d:circle(x, y, radius - 0.7, 0xffffff) end
end

--- An upright interval with ends, a line of its own where it has no width.
function plot.upright(d, x, low, high, color, width)
  d:line({ x, low, x, high }, width or 0.9, color)
  for _, edge in ipairs { low, high } do d:line({ x - 1.8, edge, x + 1.8, edge }, width or 0.9, color) end
end

--- Slanted lines over a rectangle.
function plot.hatch(d, x, y, w, h, color)
  local step = 4
  for k = step / 2, w + h, step do -- the line u + v = k of a corner's coordinates u, v
    local u1, u2 = math.max(0, k - h), math.min(w, k)
    if u2 > u1 then d:line({ x + u1, y + k - u1, x + u2, y + k - u2 }, 0.5, color or SOFT, 0, 0.75) end
  end
end

-- What stands before a label of the key, 12 points wide around (x, y).
local key_marks = {
  dot = function(d, x, y, item) plot.interval(d, y, x + 6, not item.bare and x or nil, x + 12, item) end,
  line = function(d, x, y, item) d:line({ x, y, x + 12, y }, item.width or 1.1, item.color, item.dash) end,
  cell = function(d, x, y, item)
    d:rect(x, y - 3, 12, 6, item.color)
    if item.hatched then plot.hatch(d, x, y - 3, 12, 6) end
    d:frame(x, y - 3, 12, 6, 0.4, SOFT)
  end,
  cross = function(d, x, y, item) plot.cross(d, x + 6, y, item.color) end,
  square = function(d, x, y, item) plot.square(d, x + 6, y, item.color) end,
}

function plot.cross(d, x, y, color)
  d:line({ x - 2, y - 2, x + 2, y + 2 }, 1, color)
  d:line({ x - 2, y + 2, x + 2, y - 2 }, 1, color)
end

function plot.square(d, x, y, color)
  d:rect(x - 2, y - 2, 4, 4, color)
  d:rect(x - 1.2, y - 1.2, 2.4, 2.4, 0xffffff)
end

--- A key in as many lines as it needs; returns the y below. items: { mark = "dot" | "line" | "cell" | "cross" |
--- "square", label, color, and what the mark asks for }.
function plot.key(d, x, y, width, items)
  local at = x
  for _, item in ipairs(items) do
    local label = drawing.fit(item.label, width - 16, SMALL)
    local w = 16 + drawing.text_width(label, SMALL)
    if at > x and at + w > x + width then at, y = x, y + SMALL * LEADING + 1.5 end
    key_marks[item.mark](d, at, y + SMALL * 0.64, item)
    d:text(at + 15, y + SMALL, label, { size = SMALL })
    at = at + w + 9
  end
  return #items > 0 and y + SMALL * LEADING + 3 or y
end

--- Column titles that stand on one line, each broken to `each` points; returns the y below.
function plot.headings(d, names, left, each, y, most)
  local wrapped, tall = {}, 0
  for k, name in ipairs(names) do
    wrapped[k] = drawing.wrap(name, each - 3, SMALL, false, most or 3)
    tall = math.max(tall, #wrapped[k])
  end
  for k, lines in ipairs(wrapped) do
    d:block(left + (k - 0.5) * each, y + (tall - #lines) * SMALL * LEADING, lines, SMALL, {})
  end
  return y + tall * SMALL * LEADING + 2
end

--- The ink that is read on a color.
function plot.ink_on(color)
  local light = 0.2126 * (color >> 16) + 0.7152 * (color >> 8 & 255) + 0.0722 * (color & 255)
  return light < 140 and 0xffffff or INK
end

-- ---- files ----------------------------------------------------------------------------------------------------------

--- A name that a file can have, of letters, digits, "-" and "_", and that none of the figures has yet.
---@param text string
---@param figures table[]
function plot.file_name(text, figures)
  local name, number, taken = text:gsub("[^%w_%-]+", "-"):gsub("^%-+", ""):gsub("%-+$", ""), 1, {}
  for _, f in ipairs(figures) do taken[f.name] = true end
  local own = name
  while taken[own] do
    number = number + 1
    own = ("%s-%d"):format(name, number)
  end
  return own
end

--- Writes figures/<name>.svg, .pdf, .png and .csv; returns what the report shows of it.
---@param run medxai.Run
---@param name string
---@param o table title, drawing, columns, rows (its numbers)
---@return table { name, title, svg, paths }
function plot.save(run, name, o)
  local base = "figures/" .. name
  files.mkdir(files.join(run.dir, "figures"))
  o.drawing.height = o.drawing.height + MARGIN
  require("medxai.show.figure").save(o.drawing, files.join(run.dir, base), { title = o.title })
  tables.write(run, base .. ".csv", o.columns, o.rows)
  return { name = name, title = o.title, svg = base .. ".svg",
    paths = canon.list { base .. ".svg", base .. ".pdf", base .. ".png", base .. ".csv" } }
end

--- Removes the files of figures that a step drew before: those whose names begin with a text.
function plot.clear(run, prefix)
  local dir = files.join(run.dir, "figures")
  for _, name in ipairs(files.is_folder(dir) and files.list(dir) or {}) do
    if name:sub(1, #prefix) == prefix then files.remove(files.join(dir, name)) end
  end
end

--- The paths of all files of some figures, after those of `list`.
---@param figures table[]
---@param list? string[]
---@return string[]
function plot.paths(figures, list)
  list = list or {}
  for _, f in ipairs(figures) do table.move(f.paths, 1, #f.paths, #list + 1, list) end
  return list
end

-- Charts go into the page as SVG; pictures, which are large, as JPEG.
local function page_html(page, f)
  local html = require "medxai.show.html"
  local caption = ('%s. <span class="numbers">Numbers: <code>%s</code></span>'):format(html.text(f.title),
    html.text((f.svg:gsub("%.svg$", ".csv"))))
  if not f.picture then
    local svg = files.read(files.join(page.dir, f.svg))
    return svg and html.figure(svg, caption)
  end
  local path = files.join(page.dir, (f.svg:gsub("%.svg$", ".png")))
  if not files.exists(path) then return nil end
  local core = require "medxai.core"
  local scope <close> = core.memory.scope() -- luacheck: ignore
  local picture = core.image.load(path)
  local wide = tonumber((files.read(files.join(page.dir, f.svg)) or ""):match 'width="([%d.]+)pt"') or 518
  local width = math.min(PICTURE, picture:size(1), math.floor(2.4 * wide)) -- as large as charts, for sharp screens
  local height = math.floor(picture:size(0) * width / picture:size(1) + 0.5)
  local jpeg = core.image.encode(core.image.resize(picture, width, height), 75)
  local image = ('<img alt="%s" width="%d" height="%d" src="data:image/jpeg;base64,%s">'):format(html.text(f.title),
    math.floor(1.6 * wide), math.floor(1.6 * wide * height / width), core.figure.base64(jpeg))
  return html.figure(image, caption)
end

--- Puts a step's figures into the report's page. put: function(page, format, ...).
---@param page table
---@param put fun(page: table, format: string, ...: any)
---@param result table of the step: figures
function plot.put(page, put, result)
  for _, f in ipairs(result.figures or {}) do
    local ready = page_html(page, f)
    if ready then put(page, "%s", ready) end
  end
end

plot.INK, plot.SOFT, plot.WARN = INK, SOFT, WARN

return plot
