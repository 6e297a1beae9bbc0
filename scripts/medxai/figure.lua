-- The figures: panels of images and maps with their colour bars, line charts, confusion matrices, intervals.
-- Each function takes a table and returns a drawing (drawing.lua), laid out for a journal's column (252 pt) or page
-- (518 pt); figure.save writes it as PNG, SVG and PDF.
-- It refuses to compute what it draws, and to leave out that a map failed or how it was scaled.
local check = require "medxai.check"
local core = require "medxai.core"
local drawing = require "medxai.drawing"
local palette = require "medxai.palette"
local torch = require "medxai.torch"

local figure = { column_pt = 252, page_pt = 518, palette = palette }

local INK, SOFT = 0x1a1a1a, 0x5a5a5a
local SMALL, TEXT, HEAD = 6.5, 7, 8
local LEADING = 1.25 -- line height over text size
-- Okabe and Ito's colours: distinct with every common colour blindness
local series_colours = { 0x0072b2, 0xd55e00, 0x009e73, 0xcc79a7, 0xe69f00, 0x56b4e9, 0x000000 }

-- ---- pixels -------------------------------------------------------------------------------------------------

local function float_bytes(t) return t:detach():to { device = "cpu", dtype = "float32" }:contiguous():data_string() end

-- Planes (3, H, W) to bytes H x W x 3.
local function rgb_bytes(t) return t:detach():to { device = "cpu" }:clamp(0, 1):mul(255):round():to { dtype = "uint8" }:permute({ 1, 2, 0 }):contiguous():data_string() end

--- An image tensor (3, H, W) in [0, 1] as pixels: { rgb =, columns =, rows = }.
function figure.pixels(image)
  local shape = image.shape
  if #shape ~= 3 or shape[1] ~= 3 then check.fail("figure", "an image is (3, H, W), not (%s).", table.concat(shape, ", ")) end
  return { rgb = rgb_bytes(image), columns = shape[3], rows = shape[2] }
end

--- A map (H, W) through a scale of colours.
---@param map any tensor (H, W)
---@param colours string palette name
---@param lo number
---@param hi number
function figure.heat(map, colours, lo, hi)
  local shape = map.shape
  return { rgb = core.figure.colour(float_bytes(map), palette.get(colours), lo, hi), columns = shape[2], rows = shape[1] }
end

--- A map over the grey values of its image, half and half.
function figure.overlay(image, map, colours, lo, hi)
  local heat = figure.heat(map, colours, lo, hi)
  -- luma of Rec. 601, the grey that every picture library means
  local grey = image:select(0, 0):mul(0.299) + image:select(0, 1):mul(0.587) + image:select(0, 2):mul(0.114)
  local base = core.figure.colour(float_bytes(grey), palette.get("grey"), 0, 1)
  return { rgb = core.figure.blend(base, heat.rgb, 0.5), columns = heat.columns, rows = heat.rows }
end

--- JET exactly as pytorch-grad-cam's show_cam_on_image with use_rgb (0.5 of each, then divided by the largest value).
function figure.overlay_reference(image, map)
  local shape = map.shape
  local heat = torch.from_string(core.figure.colour(float_bytes(map), palette.get("jet"), 0, 1), "uint8", { shape[1], shape[2], 3 })
  local sum = heat:to { dtype = "float32" }:div(255):mul(0.5) + image:to { device = "cpu", dtype = "float32" }:permute({ 1, 2, 0 }):mul(0.5)
  local peak = sum:max():item()
  local scaled = peak > 0 and sum:div(peak) or sum
  return { rgb = scaled:mul(255):to { dtype = "uint8" }:contiguous():data_string(), columns = shape[2], rows = shape[1] }
end

--- The pixels with a mask's inner border drawn white.
---@param pixels table { rgb, columns, rows }
---@param mask any tensor (H, W), non-zero inside
function figure.outline(pixels, mask)
  local rows, columns = pixels.rows, pixels.columns
  local inside = mask:to { device = "cpu" }:ne(0):to { dtype = "float32" }:view({ 1, 1, rows, columns })
  local eroded = torch.max_pool2d(inside:neg(), { 3, 3 }, { 1, 1 }, { 1, 1 }):neg()
  local border = (inside - eroded):gt(0.5):view({ rows, columns, 1 })
  local rgb = torch.from_string(pixels.rgb, "uint8", { rows, columns, 3 })
  return { rgb = rgb:masked_fill(border, 255):contiguous():data_string(), columns = columns, rows = rows }
end

-- ---- panels -------------------------------------------------------------------------------------------------

-- Lines of text under each other, centred on x; y is the top. Returns the y below.
local function text_block(d, x, y, lines, size, style)
  for _, line in ipairs(lines) do
    d:text(x, y + size, line, { size = size, align = style.align or "centre", bold = style.bold, colour = style.colour })
    y = y + size * LEADING
  end
  return y
end

-- A band over the foot of a panel that says why its map is not to be read.
local function status_band(d, x, y, w, h, text)
  local lines = drawing.wrap(text, w - 6, SMALL, true, 3)
  local band = #lines * SMALL * LEADING + 4
  d:rect(x, y + h - band, w, band, 0xffffff, 0.88)
  text_block(d, x + w / 2, y + h - band + 2, lines, SMALL, { bold = true, colour = 0x9a1b1b })
end

-- Wraps all titles of one row to the panel's width; the tallest sets the room.
local function title_lines(panels, w)
  local all, most = {}, 0
  for i, p in ipairs(panels) do
    local lines = {}
    for _, part in ipairs(type(p.title) == "table" and p.title or { p.title }) do
      for _, line in ipairs(drawing.wrap(part, w, SMALL, false, 2)) do lines[#lines + 1] = line end
    end
    all[i] = lines
    most = math.max(most, #lines)
  end
  return all, most
end

-- Short decimals: 0.5, 12, 1.2e-05.
local function number_text(v)
  if v == 0 then return "0" end
  local s = string.format("%.3g", v)
  return s:find("e") and s or (string.format("%.4f", v):gsub("0+$", ""):gsub("%.$", ""))
end
figure.number_text = number_text

-- A vertical colour bar with three values and its label on the right. Returns the width it took.
local function colour_bar(d, x, y, h, bar)
  local w, steps = 7, 128
  local pixels = {}
  for i = steps - 1, 0, -1 do
    local k = math.floor(255 * i / (steps - 1))
    pixels[#pixels + 1] = palette.get(bar.colours):sub(3 * k + 1, 3 * k + 3)
  end
  d:image(x, y, w, h, table.concat(pixels), 1, steps)
  d:frame(x, y, w, h, 0.4, SOFT)
  local widest = 0
  for _, at in ipairs { 0, 0.5, 1 } do
    local text = number_text(bar.lo + at * (bar.hi - bar.lo))
    local ty = y + h * (1 - at)
    d:line({ x + w, ty, x + w + 2, ty }, 0.4, SOFT)
    local baseline = at == 1 and ty + SMALL * 0.72 or at == 0 and ty or ty + SMALL * 0.36
    d:text(x + w + 3.5, baseline, text, { size = SMALL })
    widest = math.max(widest, drawing.text_width(text, SMALL))
  end
  local label_x = x + w + 3.5 + widest + 2 + SMALL
  if bar.label then
    d:text(label_x, y + h / 2, drawing.fit(bar.label, h, SMALL), { size = SMALL, turned = true, align = "centre", colour = SOFT })
  end
  return label_x + 2 - x
end

local function bar_width(bars)
  local widest = 0
  for _, bar in ipairs(bars) do
    for _, v in ipairs { bar.lo, (bar.lo + bar.hi) / 2, bar.hi } do widest = math.max(widest, drawing.text_width(number_text(v), SMALL)) end
  end
  return #bars == 0 and 0 or 5 + 7 + 3.5 + widest + 4 + SMALL
end

--- Rows of pictures.
--- rows: list of { label = text on the left, panels = list of { pixels = {rgb, columns, rows}, title = text or list of
--- lines, status = text where the map is not ok, warn = true marks the title red } }; headings: list of texts over the
--- columns; bars: list of { colours, lo, hi, label }; caption: list of sentences under the figure; width_pt.
function figure.panels(spec)
  local rows = spec.rows
  local columns = 0
  for _, row in ipairs(rows) do columns = math.max(columns, #row.panels) end
  if columns == 0 then check.fail("figure", "there is no picture to draw.") end
  local width = spec.width_pt or (columns <= 3 and figure.column_pt or figure.page_pt)
  local bars = spec.bars or {}
  local gap, margin = 5, 3
  local has_labels = false
  for _, row in ipairs(rows) do has_labels = has_labels or row.label ~= nil end
  local left = margin + (has_labels and 2 * SMALL * LEADING + 3 or 0)
  local room = width - left - margin - bar_width(bars) - gap * (columns - 1)
  local side = math.min(room / columns, spec.most_pt or 150)
  local d = drawing.new(width)
  local y = margin
  if spec.title then y = text_block(d, margin, y, drawing.wrap(spec.title, width - 2 * margin, HEAD, true), HEAD, { align = "left", bold = true }) + 2 end
  if spec.headings then
    local most, wrapped = 0, {}
    for c, text in ipairs(spec.headings) do
      wrapped[c] = drawing.wrap(text, side, TEXT, true, 2)
      most = math.max(most, #wrapped[c])
    end
    for c, lines in ipairs(wrapped) do
      text_block(d, left + (c - 1) * (side + gap) + side / 2, y + (most - #lines) * TEXT * LEADING, lines, TEXT, { bold = true })
    end
    y = y + most * TEXT * LEADING + 2
  end
  local first_y
  for _, row in ipairs(rows) do
    local titles, most = title_lines(row.panels, side)
    local height = 0
    for _, p in ipairs(row.panels) do height = math.max(height, side * p.pixels.rows / p.pixels.columns) end
    local top = y + most * SMALL * LEADING + (most > 0 and 1.5 or 0)
    first_y = first_y or { top, height }
    if row.label then
      local lines = drawing.wrap(row.label, height, SMALL, true, 2)
      for i, line in ipairs(lines) do
        d:text(margin + i * SMALL * LEADING, top + height / 2, line, { size = SMALL, bold = true, turned = true, align = "centre" })
      end
    end
    for c, p in ipairs(row.panels) do
      local x = left + (c - 1) * (side + gap)
      local h = side * p.pixels.rows / p.pixels.columns
      text_block(d, x + side / 2, top - 1.5 - #titles[c] * SMALL * LEADING, titles[c], SMALL, { colour = p.warn and 0x9a1b1b or INK })
      d:image(x, top, side, h, p.pixels.rgb, p.pixels.columns, p.pixels.rows)
      if p.status then status_band(d, x, top, side, h, p.status) end
    end
    y = top + height + gap
  end
  if #bars > 0 then
    local x = left + columns * (side + gap)
    local h = math.min(first_y[2], 150) / #bars - (#bars - 1) * 4
    for i, bar in ipairs(bars) do colour_bar(d, x, first_y[1] + (i - 1) * (h + 8), h, bar) end
    width = math.min(width, x + bar_width(bars) + margin)
  else
    width = math.min(width, left + columns * (side + gap) - gap + margin)
  end
  d.width = spec.keep_width and spec.width_pt or width
  for _, sentence in ipairs(spec.caption or {}) do
    y = text_block(d, margin, y, drawing.wrap(sentence, d.width - 2 * margin, SMALL), SMALL, { align = "left", colour = SOFT })
  end
  d.height = y + margin
  return d
end

-- ---- charts -------------------------------------------------------------------------------------------------

-- Round tick values that cover lo..hi with about n steps, and their texts with the same number of decimals.
local function ticks(lo, hi, n, integer)
  local rough = (hi - lo) / n
  local power = 10 ^ math.floor(math.log(rough, 10))
  local step = power * 10
  for _, m in ipairs { 1, 2, 2.5, 5 } do
    if rough <= m * power * 1.0001 then step = m * power break end
  end
  local first = math.ceil(lo / step - 1e-9) * step
  if integer then
    step = math.max(1, math.ceil(step))
    first = math.ceil(lo)
  end
  local decimals = 0
  while decimals < 6 and math.abs(step * 10 ^ decimals - math.floor(step * 10 ^ decimals + 0.5)) > 1e-6 do decimals = decimals + 1 end
  local values, texts = {}, {}
  for k = 0, 50 do
    local v = first + k * step
    if v > hi + step * 1e-9 then break end
    if math.abs(v) < step * 1e-9 then v = 0 end
    values[#values + 1] = v
    texts[#texts + 1] = (decimals < 6 and math.abs(v) < 1e6) and string.format("%." .. decimals .. "f", v) or number_text(v)
  end
  return values, texts
end

local function is_finite(v) return type(v) == "number" and v == v and v ~= math.huge and v ~= -math.huge end

local function span(series, key)
  local lo, hi
  for _, s in ipairs(series) do
    for _, v in ipairs(s[key]) do
      if is_finite(v) then
        lo = math.min(lo or v, v)
        hi = math.max(hi or v, v)
      end
    end
  end
  return lo or 0, hi or 1
end

-- The legend in as many lines as it needs; returns the y below. Drawn above the plot, so it can cover nothing.
local function legend(d, x, y, width, series)
  local at = x
  for i, s in ipairs(series) do
    local label = drawing.fit(s.label, width - 16, TEXT)
    local w = 16 + drawing.text_width(label, TEXT) + 10
    if at > x and at + w - 10 > x + width then
      at = x
      y = y + TEXT * LEADING + 1
    end
    d:line({ at, y + TEXT * 0.6, at + 12, y + TEXT * 0.6 }, 1.2, s.colour or series_colours[(i - 1) % #series_colours + 1], s.dash)
    d:text(at + 15, y + TEXT * 0.9, label, { size = TEXT })
    at = at + w
  end
  return y + TEXT * LEADING + 3
end

-- One plot into the box; the axis labels lie inside the box too.
local function plot(d, x, y, w, h, spec)
  local x_lo, x_hi = span(spec.series, "x")
  local y_lo, y_hi = span(spec.series, "y")
  if spec.y_range then y_lo, y_hi = spec.y_range[1], spec.y_range[2] end
  if x_lo == x_hi then x_lo, x_hi = x_lo - 0.5, x_hi + 0.5 end
  if y_lo == y_hi then y_lo, y_hi = y_lo - math.max(0.05, math.abs(y_lo) * 0.05), y_hi + math.max(0.05, math.abs(y_hi) * 0.05)
  elseif not spec.y_range then y_lo, y_hi = y_lo - 0.05 * (y_hi - y_lo), y_hi + 0.05 * (y_hi - y_lo) end
  local y_ticks, y_texts = ticks(y_lo, y_hi, 4)
  local widest = 0
  for _, text in ipairs(y_texts) do widest = math.max(widest, drawing.text_width(text, SMALL)) end
  local top = y
  if spec.title then top = text_block(d, x, y, drawing.wrap(spec.title, w, TEXT, true, 2), TEXT, { align = "left", bold = true }) + 2 end
  top = legend(d, x, top, w, spec.series)
  local px = x + widest + 5 + SMALL * LEADING + 2
  local pw = x + w - px - 4
  local ph = y + h - top - 2 * SMALL * LEADING - 5
  local function to_x(v) return px + 4 + (pw - 8) * (v - x_lo) / (x_hi - x_lo) end
  local function to_y(v) return top + ph * (1 - (v - y_lo) / (y_hi - y_lo)) end
  for i, v in ipairs(y_ticks) do
    d:line({ px, to_y(v), px + pw, to_y(v) }, 0.4, 0xe4e4e4)
    d:text(px - 3, to_y(v) + SMALL * 0.36, y_texts[i], { size = SMALL, align = "right" })
  end
  local x_ticks, x_texts = ticks(x_lo, x_hi, math.max(2, math.floor(pw / 30)), spec.x_integer)
  for i, v in ipairs(x_ticks) do
    local tx, half = to_x(v), drawing.text_width(x_texts[i], SMALL) / 2
    d:line({ tx, top + ph, tx, top + ph + 2 }, 0.5, INK)
    d:text(math.min(tx, x + w - half), top + ph + 3 + SMALL, x_texts[i], { size = SMALL, align = "centre" })
  end
  d:line({ px, top, px, top + ph, px + pw, top + ph }, 0.6, INK)
  d:text(px + pw / 2, y + h - 1.5, drawing.fit(spec.x_label or "", pw, TEXT), { size = TEXT, align = "centre" })
  d:text(x + TEXT, top + ph / 2, drawing.fit(spec.y_label or "", ph, TEXT), { size = TEXT, align = "centre", turned = true })
  if spec.mark and is_finite(spec.mark.x) then
    local tx = to_x(spec.mark.x)
    d:line({ tx, top, tx, top + ph }, 0.6, SOFT, 2)
    local text = spec.mark.label or ""
    local right = tx + 3 + drawing.text_width(text, SMALL) > px + pw
    d:text(right and tx - 3 or tx + 3, spec.mark.low and top + ph - 3 or top + SMALL, text, { size = SMALL, colour = SOFT, align = right and "right" or "left" })
  end
  for i, s in ipairs(spec.series) do
    local colour = s.colour or series_colours[(i - 1) % #series_colours + 1]
    local run = {}
    local function flush()
      if #run >= 4 then d:line(run, 1.2, colour, s.dash) end
      run = {}
    end
    for k, v in ipairs(s.y) do
      if is_finite(v) and is_finite(s.x[k]) then
        local cy = math.max(y_lo, math.min(y_hi, v))
        run[#run + 1] = to_x(s.x[k])
        run[#run + 1] = to_y(cy)
        if #s.y <= 40 then d:circle(to_x(s.x[k]), to_y(cy), 1.3, colour) end
      else
        flush() -- NaN breaks the line
      end
    end
    flush()
  end
end

--- Line charts side by side. charts: list of { title, series = list of { label, x = numbers, y = numbers, dash, colour },
--- x_label, y_label, y_range, x_integer, mark = { x, label, low = label at the foot } }.
function figure.lines(spec)
  local n = #spec.charts
  local width = spec.width_pt or (n == 1 and figure.column_pt or figure.page_pt)
  local height, margin, gap = spec.height_pt or 165, 3, 14
  local d = drawing.new(width, height)
  local w = (width - 2 * margin - (n - 1) * gap) / n
  for i, chart in ipairs(spec.charts) do plot(d, margin + (i - 1) * (w + gap), margin, w, height - 2 * margin, chart) end
  return d
end

--- A learning curve from the rows of metrics.jsonl (epoch, train_loss, val_loss, train_accuracy, val_accuracy); best: the
--- epoch whose weights were kept.
function figure.learning_curve(rows, best)
  local function column(key)
    local x, y = {}, {}
    for i, row in ipairs(rows) do
      x[i] = row.epoch
      y[i] = is_finite(row[key]) and row[key] or 0 / 0
    end
    return x, y
  end
  local function chart(title, what, y_range)
    local series = {}
    for _, part in ipairs { { "training", "train_", 0x0072b2, 3 }, { "validation", "val_", 0xd55e00, nil } } do
      local x, y = column(part[2] .. what)
      series[#series + 1] = { label = part[1], x = x, y = y, colour = part[3], dash = part[4] }
    end
    return { title = title, series = series, x_label = "epoch", y_label = what == "loss" and "cross entropy" or "accuracy", x_integer = true, y_range = y_range,
      mark = best and { x = best, label = "kept", low = what == "accuracy" } }
  end
  return figure.lines { charts = { chart("Loss", "loss"), chart("Accuracy", "accuracy", { 0, 1 }) } }
end

--- A confusion matrix. counts[i][k]: images of class i predicted as k.
function figure.confusion(spec)
  local classes, counts = spec.classes, spec.counts
  local n = #classes
  local width, margin = spec.width_pt or figure.column_pt, 3
  local names, label_w = {}, 0
  for i, name in ipairs(classes) do
    names[i] = drawing.fit(name, width * 0.28, TEXT)
    label_w = math.max(label_w, drawing.text_width(names[i], TEXT))
  end
  local left = margin + TEXT * LEADING + 3 + label_w + 4
  local cell = math.min((width - left - margin) / n, 56)
  local d = drawing.new(width)
  local y = margin
  if spec.title then y = text_block(d, margin, y, drawing.wrap(spec.title, width - 2 * margin, HEAD, true), HEAD, { align = "left", bold = true }) + 4 end
  d:text(left + n * cell / 2, y + TEXT, "predicted", { size = TEXT, align = "centre", colour = SOFT })
  y = y + TEXT * LEADING + 2
  local head, most = {}, 0
  for k, name in ipairs(classes) do
    head[k] = drawing.wrap(name, cell - 3, TEXT, false, 2)
    most = math.max(most, #head[k])
  end
  for k, lines in ipairs(head) do text_block(d, left + (k - 0.5) * cell, y + (most - #lines) * TEXT * LEADING, lines, TEXT, {}) end
  y = y + most * TEXT * LEADING + 2
  d:text(margin + TEXT, y + n * cell / 2, "true", { size = TEXT, turned = true, align = "centre", colour = SOFT })
  local size = math.min(HEAD, cell / 3.4)
  for i = 1, n do
    local total = 0
    for k = 1, n do total = total + counts[i][k] end
    d:text(left - 4, y + (i - 0.5) * cell + TEXT * 0.36, names[i], { size = TEXT, align = "right" })
    for k = 1, n do
      local share = total > 0 and counts[i][k] / total or 0
      local x, cy = left + (k - 1) * cell, y + (i - 1) * cell
      d:rect(x, cy, cell, cell, palette.at("blues", share))
      local ink = share > 0.5 and 0xffffff or INK
      d:text(x + cell / 2, cy + cell / 2 - 0.5, string.format("%d", counts[i][k]), { size = size, bold = true, align = "centre", colour = ink })
      if total > 0 then d:text(x + cell / 2, cy + cell / 2 + size * 1.05, string.format("%.0f %%", 100 * share), { size = size * 0.82, align = "centre", colour = ink }) end
    end
  end
  for i = 0, n do
    d:line({ left, y + i * cell, left + n * cell, y + i * cell }, 0.5, 0xffffff)
    d:line({ left + i * cell, y, left + i * cell, y + n * cell }, 0.5, 0xffffff)
  end
  d:frame(left, y, n * cell, n * cell, 0.6, INK)
  d.width = math.max(left + n * cell + margin, math.min(width, 160))
  d.height = y + n * cell + margin + 1
  return d
end

--- Values with intervals, one line each. rows: list of { label, value, lo, hi, chance, colour, note }; x_label, x_range,
--- title, caption. A chance level is a grey tick; a row without a value says its note.
function figure.dots(spec)
  local width, margin, line_h = spec.width_pt or figure.column_pt, 3, 14
  local labels, label_w = {}, 0
  for i, row in ipairs(spec.rows) do
    labels[i] = drawing.fit(row.label, width * 0.4, TEXT)
    label_w = math.max(label_w, drawing.text_width(labels[i], TEXT))
  end
  local px = margin + label_w + 6
  local pw = width - px - margin - 8
  local lo, hi = math.huge, -math.huge
  local has_chance = false
  for _, row in ipairs(spec.rows) do
    for _, v in ipairs { row.value or 0 / 0, row.lo or 0 / 0, row.hi or 0 / 0, row.chance or 0 / 0 } do
      if is_finite(v) then lo, hi = math.min(lo, v), math.max(hi, v) end
    end
    has_chance = has_chance or is_finite(row.chance)
  end
  if spec.x_range then lo, hi = spec.x_range[1], spec.x_range[2] end
  if lo > hi then lo, hi = 0, 1 end
  if lo >= 0 and lo < 0.5 * hi then lo = 0 end -- shares are read against zero
  if not spec.x_range then hi = hi + 0.04 * (hi - lo) end
  if lo == hi then lo, hi = lo - 0.5, hi + 0.5 end
  local function to_x(v) return px + pw * (v - lo) / (hi - lo) end
  local d = drawing.new(width)
  local y = margin
  if spec.title then y = text_block(d, margin, y, drawing.wrap(spec.title, width - 2 * margin, HEAD, true), HEAD, { align = "left", bold = true }) + 3 end
  local bottom = y + #spec.rows * line_h
  local x_ticks, x_texts = ticks(lo, hi, 5)
  for i, v in ipairs(x_ticks) do
    local text = x_texts[i]
    local half = drawing.text_width(text, SMALL) / 2
    d:line({ to_x(v), y, to_x(v), bottom }, 0.4, 0xe4e4e4)
    d:text(math.min(to_x(v), width - margin - half), bottom + 3 + SMALL, text, { size = SMALL, align = "centre" })
  end
  for i, row in ipairs(spec.rows) do
    local cy = y + (i - 0.5) * line_h
    local colour = row.colour or series_colours[1]
    d:text(px - 6, cy + TEXT * 0.36, labels[i], { size = TEXT, align = "right" })
    if is_finite(row.chance) then d:line({ to_x(row.chance), cy - 4.5, to_x(row.chance), cy + 4.5 }, 1.6, 0x8a8a8a) end
    if is_finite(row.value) then
      if is_finite(row.lo) and is_finite(row.hi) then d:line({ to_x(row.lo), cy, to_x(row.hi), cy }, 1.1, colour) end
      d:circle(to_x(row.value), cy, 2.3, colour)
    else
      d:text(px + 4, cy + SMALL * 0.36, drawing.fit(row.note or "undefined", pw - 4, SMALL), { size = SMALL, colour = SOFT })
    end
  end
  d:line({ px, bottom, px + pw, bottom }, 0.6, INK)
  y = bottom + 4 + SMALL * LEADING
  y = text_block(d, px + pw / 2, y, drawing.wrap(spec.x_label or "", pw, TEXT, false, 2), TEXT, {}) + 3
  local sentences = {}
  if has_chance then sentences[1] = "Grey tick: chance level." end
  for _, s in ipairs(spec.caption or {}) do sentences[#sentences + 1] = s end
  for _, s in ipairs(sentences) do y = text_block(d, margin, y, drawing.wrap(s, width - 2 * margin, SMALL), SMALL, { align = "left", colour = SOFT }) end
  d.height = y + margin
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

return figure
