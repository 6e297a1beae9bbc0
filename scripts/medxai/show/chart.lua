-- Charts of numbers: lines, learning curves, confusion matrices, values with intervals. Each takes a table and returns
-- a drawing. Labels are measured and wrapped or shortened, legends stand above the plot, NaN breaks a line.
-- It refuses to invent an axis: what is not finite is not drawn, and a value that is missing is said in words.
local check = require "medxai.base.check"
local drawing = require "medxai.show.drawing"
local palette = require "medxai.show.palette"

local chart = {}

local INK, SOFT, GRID = drawing.INK, drawing.SOFT, drawing.GRID
local SMALL, TEXT, HEAD, LEADING = drawing.SMALL, drawing.TEXT, drawing.HEAD, drawing.LEADING
local MARGIN = 3
-- Okabe and Ito's colors: distinct with every common color blindness
local series_colors = { 0x0072b2, 0xd55e00, 0x009e73, 0xcc79a7, 0xe69f00, 0x56b4e9, 0x000000 }

local function color_of(series, i) return series.color or series_colors[(i - 1) % #series_colors + 1] end

--- The color of the i-th series, for figures that draw several charts of the same things.
function chart.series_color(i) return series_colors[(i - 1) % #series_colors + 1] end

local is_finite = check.is_finite

-- ---- axes -------------------------------------------------------------------------------------------------------

-- A round step for about n steps from lo to hi, and the decimals that write it.
local function round_step(lo, hi, n, integer)
  local rough = (hi - lo) / n
  local power = 10 ^ math.floor(math.log(rough, 10))
  local step = power * 10
  for _, m in ipairs { 1, 2, 2.5, 5 } do
    if rough <= m * power * 1.0001 then step = m * power break end
  end
  if integer then return math.max(1, math.ceil(step)), 0 end
  local decimals = 0
  while decimals < 6 and math.abs(step * 10 ^ decimals - math.floor(step * 10 ^ decimals + 0.5))
      > 1e-6 do decimals = decimals + 1 end
  return step, decimals
end

-- Round values within lo..hi, and their texts with the same number of decimals.
local function ticks(lo, hi, n, integer)
  local step, decimals = round_step(lo, hi, n, integer)
  local first = integer and math.ceil(lo) or math.ceil(lo / step - 1e-9) * step
  local values, texts = {}, {}
  for k = 0, 50 do
    local v = first + k * step
    if v > hi + step * 1e-9 then break end
    if math.abs(v) < step * 1e-9 then v = 0 end
    values[#values + 1] = v
    texts[#texts + 1] = (decimals < 6 and math.abs(v) < 1e6) and drawing.fixed(v, decimals) or drawing.number(v)
  end
  return values, texts
end

-- Smallest and largest finite number of all series; 0 and 1 where there is none.
local function span(series, key)
  local lo, hi
  for _, s in ipairs(series) do
    for _, v in ipairs(s[key]) do
      if is_finite(v) then lo, hi = math.min(lo or v, v), math.max(hi or v, v) end
    end
  end
  return lo or 0, hi or 1
end

-- lo and hi with some room, so that no value lies on the frame.
local function widened(lo, hi, share)
  if lo == hi then
    local pad = math.max(0.05, math.abs(lo) * 0.05)
    return lo - pad, hi + pad
  end
  return lo - share * (hi - lo), hi + share * (hi - lo)
end

-- ---- lines ------------------------------------------------------------------------------------------------------

-- The legend in as many lines as it needs; returns the y below. Drawn above the plot, so it can cover nothing.
local function legend(d, x, y, width, series)
  local at = x
  local any = false
  for i, s in ipairs(series) do
    if not s.label then goto continue end
    any = true
    local label = drawing.fit(s.label, width - 16, TEXT)
    local w = 16 + drawing.text_width(label, TEXT) + 10
    if at > x and at + w - 10 > x + width then
      at = x
      y = y + TEXT * LEADING + 1
    end
    d:line({ at, y + TEXT * 0.6, at + 12, y + TEXT * 0.6 }, 1.2, color_of(s, i), s.dash)
    d:text(at + 15, y + TEXT * 0.9, label, { size = TEXT })
    at = at + w
    ::continue::
  end
  return any and y + TEXT * LEADING + 3 or y + 3
end

-- The plot's box inside (x, y, w, h) below `top`, and the functions from values to points.
local function frame_of(spec, x, y, w, h, top)
  local f = { x = x, top = top, bottom = y + h }
  f.x_lo, f.x_hi = span(spec.series, "x")
  if f.x_lo == f.x_hi then f.x_lo, f.x_hi = f.x_lo - 0.5, f.x_hi + 0.5 end
  f.y_lo, f.y_hi = span(spec.series, "y")
  if spec.y_range then
    f.y_lo, f.y_hi = spec.y_range[1], spec.y_range[2]
  else
    f.y_lo, f.y_hi = widened(f.y_lo, f.y_hi, 0.05)
  end
  f.y_ticks, f.y_texts = ticks(f.y_lo, f.y_hi, 4)
  local widest = 0
  for _, text in ipairs(f.y_texts) do widest = math.max(widest, drawing.text_width(text, SMALL)) end
  f.left = x + widest + 7 + SMALL * LEADING
  f.width, f.right = x + w - f.left - 4, x + w
  f.height = y + h - top - 2 * SMALL * LEADING - 5
  function f.to_x(v) return f.left + 4 + (f.width - 8) * (v - f.x_lo) / (f.x_hi - f.x_lo) end
  function f.to_y(v) return top + f.height * (1 - (v - f.y_lo) / (f.y_hi - f.y_lo)) end
  return f
end

local function draw_axes(d, f, spec)
  local foot = f.top + f.height
  for i, v in ipairs(f.y_ticks) do
    d:line({ f.left, f.to_y(v), f.left + f.width, f.to_y(v) }, 0.4, GRID)
    d:text(f.left - 3, f.to_y(v) + SMALL * 0.36, f.y_texts[i], { size = SMALL, align = "right" })
  end
  local values, texts = ticks(f.x_lo, f.x_hi, math.max(2, math.floor(f.width / 30)), spec.x_integer)
  for i, v in ipairs(values) do
    local tx, half = f.to_x(v), drawing.text_width(texts[i], SMALL) / 2
    d:line({ tx, foot, tx, foot + 2 }, 0.5, INK)
    d:text(math.min(tx, f.right - half), foot + 3 + SMALL, texts[i], { size = SMALL, align = "center" })
  end
  d:line({ f.left, f.top, f.left, foot, f.left + f.width, foot }, 0.6, INK)
  d:text(f.left + f.width / 2, f.bottom - 1.5, drawing.fit(spec.x_label or "", f.width, TEXT),
    { size = TEXT, align = "center" })
  d:text(f.x + TEXT, f.top + f.height / 2, drawing.fit(spec.y_label or "", f.height, TEXT),
    { size = TEXT, align = "center", turned = true })
end

-- A dashed upright line with its label on the side that has room.
local function draw_mark(d, f, mark)
  if not mark or not is_finite(mark.x) then return end
  local tx = f.to_x(mark.x)
  d:line({ tx, f.top, tx, f.top + f.height }, 0.6, SOFT, 2)
  local text = mark.label or ""
  local leftwards = tx + 3 + drawing.text_width(text, SMALL) > f.left + f.width
  d:text(leftwards and tx - 3 or tx + 3, mark.low and f.top + f.height - 3 or f.top + SMALL, text,
    { size = SMALL, color = SOFT, align = leftwards and "right" or "left" })
end

-- NaN breaks the line; points are marked while they are few.
local function draw_series(d, f, s, color)
  local run = {}
  local function flush()
    if #run >= 4 then d:line(run, 1.2, color, s.dash) end
    run = {}
  end
  for k, v in ipairs(s.y) do
    if is_finite(v) and is_finite(s.x[k]) then
      local px, py = f.to_x(s.x[k]), f.to_y(math.max(f.y_lo, math.min(f.y_hi, v)))
      run[#run + 1] = px
      run[#run + 1] = py
      if #s.y <= 40 then d:circle(px, py, 1.3, color) end
    else
      flush()
    end
  end
  flush()
end

-- One plot into the box; its labels lie inside the box too.
local function plot(d, x, y, w, h, spec)
  local top = y
  if spec.title then
    top = d:block(x, y, drawing.wrap(spec.title, w, TEXT, true, 2), TEXT, { align = "left", bold = true }) + 2
  end
  top = legend(d, x, top, w, spec.series)
  local f = frame_of(spec, x, y, w, h, top)
  draw_axes(d, f, spec)
  draw_mark(d, f, spec.mark)
  for i, s in ipairs(spec.series) do draw_series(d, f, s, color_of(s, i)) end
end

--- Line charts side by side, four a row at most. charts: list of { title, series = list of { label (absent: not in the
--- legend), x = numbers, y = numbers, dash, color }, x_label, y_label, y_range, x_integer, mark = { x, label, low =
--- label at the foot } }; width_pt, height_pt (of a row).
function chart.lines(spec)
  local n = #spec.charts
  local rows = math.ceil(n / 4)
  local columns = math.ceil(n / rows)
  local width = spec.width_pt or (n == 1 and drawing.COLUMN or drawing.PAGE)
  local height, gap = spec.height_pt or 165, 14
  local d = drawing.new(width, rows * height)
  local w = (width - 2 * MARGIN - (columns - 1) * gap) / columns
  for i, one in ipairs(spec.charts) do
    local row, column = (i - 1) // columns, (i - 1) % columns
    plot(d, MARGIN + column * (w + gap), MARGIN + row * height, w, height - 2 * MARGIN, one)
  end
  return d
end

-- The training (dashed) and validation values of one quantity by epoch.
local function learning_chart(rows, title, what, best)
  local series = {}
  for i, part in ipairs { { "training", "train_", dash = 3 }, { "validation", "val_" } } do
    local x, y = {}, {}
    for k, row in ipairs(rows) do
      local v = row[part[2] .. what]
      x[k], y[k] = row.epoch, is_finite(v) and v or 0 / 0
    end
    series[i] = { label = part[1], x = x, y = y, dash = part.dash }
  end
  local is_loss = what == "loss"
  return { title = title, series = series, x_label = "epoch", y_label = is_loss and "cross entropy" or "accuracy",
    x_integer = true, y_range = not is_loss and { 0, 1 } or nil,
    mark = best and { x = best, label = "kept", low = not is_loss } }
end

--- A learning curve from the rows of metrics.jsonl (epoch, train_loss, val_loss, train_accuracy, val_accuracy); best:
--- the epoch whose weights were kept.
function chart.learning_curve(rows, best)
  return chart.lines { charts = { learning_chart(rows, "Loss", "loss", best),
    learning_chart(rows, "Accuracy", "accuracy", best) } }
end

-- ---- confusion matrix -------------------------------------------------------------------------------------------

local function draw_cell(d, x, y, side, count, total)
  local size = math.min(HEAD, side / 3.4)
  local share = total > 0 and count / total or 0
  d:rect(x, y, side, side, palette.at("blues", share))
  local ink = share > 0.5 and 0xffffff or INK
  d:text(x + side / 2, y + side / 2 - 0.5, string.format("%d", count),
    { size = size, bold = true, align = "center", color = ink })
  if total == 0 then return end
  d:text(x + side / 2, y + side / 2 + size * 1.05, string.format("%.0f %%", 100 * share),
    { size = size * 0.82, align = "center", color = ink })
end

-- The class names over the columns; returns the y below.
local function draw_column_names(d, classes, left, y, side)
  d:text(left + #classes * side / 2, y + TEXT, "predicted", { size = TEXT, align = "center", color = SOFT })
  y = y + TEXT * LEADING + 2
  local wrapped, most = {}, 0
  for k, name in ipairs(classes) do
    wrapped[k] = drawing.wrap(name, side - 3, TEXT, false, 2)
    most = math.max(most, #wrapped[k])
  end
  for k, lines in ipairs(wrapped) do
    d:block(left + (k - 0.5) * side, y + (most - #lines) * TEXT * LEADING, lines, TEXT, {})
  end
  return y + most * TEXT * LEADING + 2
end

--- A confusion matrix. counts[i][k]: images of class i predicted as k; shares are of the true class. title, width_pt.
function chart.confusion(spec)
  local classes, n = spec.classes, #spec.classes
  local width, names, widest = spec.width_pt or drawing.COLUMN, {}, 0
  for i, name in ipairs(classes) do
    names[i] = drawing.fit(name, width * 0.28, TEXT)
    widest = math.max(widest, drawing.text_width(names[i], TEXT))
  end
  local left = MARGIN + TEXT * LEADING + 3 + widest + 4
  local side = math.min((width - left - MARGIN) / n, 56)
  local d, y = drawing.new(width), MARGIN
  if spec.title then
    y = d:block(MARGIN, y, drawing.wrap(spec.title, width - 2 * MARGIN, HEAD, true), HEAD,
      { align = "left", bold = true }) + 4
  end
  y = draw_column_names(d, classes, left, y, side)
  d:text(MARGIN + TEXT, y + n * side / 2, "true", { size = TEXT, turned = true, align = "center", color = SOFT })
  for i = 1, n do
    local total = 0
    for k = 1, n do total = total + spec.counts[i][k] end
    d:text(left - 4, y + (i - 0.5) * side + TEXT * 0.36, names[i], { size = TEXT, align = "right" })
    for k = 1, n do draw_cell(d, left + (k - 1) * side, y + (i - 1) * side, side, spec.counts[i][k], total) end
  end
  for i = 1, n - 1 do
    d:line({ left, y + i * side, left + n * side, y + i * side }, 0.5, 0xffffff)
    d:line({ left + i * side, y, left + i * side, y + n * side }, 0.5, 0xffffff)
  end
  d:frame(left, y, n * side, n * side, 0.6, INK)
  d.width = math.max(left + n * side + MARGIN, math.min(width, 160))
  d.height = y + n * side + MARGIN + 1
  return d
end

-- ---- intervals --------------------------------------------------------------------------------------------------

-- The range of all that is drawn; shares are read against zero.
local function dots_range(spec)
  local lo, hi, has_chance = math.huge, -math.huge, false
  for _, row in ipairs(spec.rows) do
    for _, key in ipairs { "value", "lo", "hi", "chance" } do
      if is_finite(row[key]) then lo, hi = math.min(lo, row[key]), math.max(hi, row[key]) end
    end
    has_chance = has_chance or is_finite(row.chance)
  end
  if spec.x_range then return spec.x_range[1], spec.x_range[2], has_chance end
  if lo > hi then return 0, 1, has_chance end
  if lo >= 0 and lo < 0.5 * hi then lo = 0 end
  if lo == hi then return lo - 0.5, hi + 0.5, has_chance end
  return lo, hi + 0.04 * (hi - lo), has_chance
end

local function draw_dot(d, row, y, to_x, room)
  local color = row.color or series_colors[1]
  if is_finite(row.chance) then d:line({ to_x(row.chance), y - 4.5, to_x(row.chance), y + 4.5 }, 1.6, 0x8a8a8a) end
  if is_finite(row.value) then
    if is_finite(row.lo) and is_finite(row.hi) then d:line({ to_x(row.lo), y, to_x(row.hi), y }, 1.1, color) end
    d:circle(to_x(row.value), y, 2.3, color)
  else
    d:text(room.left + 4, y + SMALL * 0.36, drawing.fit(row.note or "undefined", room.width - 4, SMALL),
      { size = SMALL, color = SOFT })
  end
end

--- Values with intervals, one line each. rows: list of { label, value, lo, hi, chance, color, note }; x_label, x_range,
--- title, caption, width_pt. A chance level is a gray tick; a row without a value says its note.
function chart.dots(spec)
  local width, line_h, labels, widest = spec.width_pt or drawing.COLUMN, 14, {}, 0
  for i, row in ipairs(spec.rows) do
    labels[i] = drawing.fit(row.label, width * 0.4, TEXT)
    widest = math.max(widest, drawing.text_width(labels[i], TEXT))
  end
  local room = { left = MARGIN + widest + 6 }
  room.width = width - room.left - MARGIN - 8
  local lo, hi, has_chance = dots_range(spec)
  local function to_x(v) return room.left + room.width * (v - lo) / (hi - lo) end
  local d, y = drawing.new(width), MARGIN
  if spec.title then
    y = d:block(MARGIN, y, drawing.wrap(spec.title, width - 2 * MARGIN, HEAD, true), HEAD,
      { align = "left", bold = true }) + 3
  end
  local bottom = y + #spec.rows * line_h
  local values, texts = ticks(lo, hi, 5)
  for i, v in ipairs(values) do
    local half = drawing.text_width(texts[i], SMALL) / 2
    d:line({ to_x(v), y, to_x(v), bottom }, 0.4, GRID)
    d:text(math.min(to_x(v), width - MARGIN - half), bottom + 3 + SMALL, texts[i], { size = SMALL, align = "center" })
  end
  for i, row in ipairs(spec.rows) do
    local cy = y + (i - 0.5) * line_h
    d:text(room.left - 6, cy + TEXT * 0.36, labels[i], { size = TEXT, align = "right" })
    draw_dot(d, row, cy, to_x, room)
  end
  d:line({ room.left, bottom, room.left + room.width, bottom }, 0.6, INK)
  y = d:block(room.left + room.width / 2, bottom + 4 + SMALL * LEADING,
    drawing.wrap(spec.x_label or "", room.width, TEXT, false, 2), TEXT, {}) + 3
  local sentences = { has_chance and "Gray tick: chance level." or nil }
  for _, s in ipairs(spec.caption or {}) do sentences[#sentences + 1] = s end
  for _, s in ipairs(sentences) do
    y = d:block(MARGIN, y, drawing.wrap(s, width - 2 * MARGIN, SMALL), SMALL, { align = "left", color = SOFT })
  end
  d.height = y + MARGIN
  return d
end

-- ---- tables -----------------------------------------------------------------------------------------------------

local function label_lines(row) return type(row.label) == "table" and row.label or { row.label } end

-- The width of the first column, and of the others, which share the rest.
local function table_layout(spec, width)
  local first = 0
  for _, row in ipairs(spec.rows) do
    for i, line in ipairs(label_lines(row)) do
      first = math.max(first, drawing.text_width(line, i == 1 and TEXT or SMALL - 0.5))
    end
  end
  first = math.min(first, width * (#spec.columns > 3 and 0.34 or 0.45))
  return first, (width - 2 * MARGIN - first - 6) / #spec.columns
end

-- Column titles standing on one line; returns the y below the rule.
local function table_head(d, spec, left, each, y, width)
  local wrapped, most = {}, 0
  for k, title in ipairs(spec.columns) do
    wrapped[k] = {}
    for _, part in ipairs(type(title) == "table" and title or { title }) do
      local is_title = #wrapped[k] == 0
      for _, line in ipairs(drawing.wrap(part, each - 5, SMALL, false, 3)) do
        table.insert(wrapped[k], { line, is_title and INK or SOFT })
      end
    end
    most = math.max(most, #wrapped[k])
  end
  for k, lines in ipairs(wrapped) do
    local top = y + (most - #lines) * SMALL * LEADING
    for i, line in ipairs(lines) do
      d:text(left + k * each, top + (i - 1) * SMALL * LEADING + SMALL, line[1],
        { size = SMALL, align = "right", color = line[2] })
    end
  end
  y = y + most * SMALL * LEADING + 2
  d:line({ MARGIN, y, width - MARGIN, y }, 0.6, INK)
  return y + 3
end

--- A table as a figure. columns: titles, each a text or a list of lines; rows: list of { label (a text or a list of
--- lines), cells = list of lists of lines, the first large, those under it (an interval) small }; title, caption (list
--- of sentences), width_pt.
function chart.table(spec)
  local width = spec.width_pt or (#spec.columns <= 3 and drawing.COLUMN or drawing.PAGE)
  local first, each = table_layout(spec, width)
  local left, d, y = MARGIN + first + 6, drawing.new(width), MARGIN
  if spec.title then
    y = d:block(MARGIN, y, drawing.wrap(spec.title, width - 2 * MARGIN, HEAD, true), HEAD,
      { align = "left", bold = true }) + 3
  end
  y = table_head(d, spec, left, each, y, width)
  for _, row in ipairs(spec.rows) do
    local tall = #label_lines(row) - 1
    for i, line in ipairs(label_lines(row)) do
      local size = i == 1 and TEXT or SMALL - 0.5
      d:text(MARGIN, y + TEXT + (i - 1) * SMALL * LEADING, drawing.fit(line, first, size),
        { size = size, color = i == 1 and INK or SOFT })
    end
    for k = 1, #spec.columns do
      local cell = row.cells[k] or {}
      tall = math.max(tall, #cell - 1)
      for i, line in ipairs(cell) do
        local size = i == 1 and TEXT or SMALL - 0.5
        d:text(left + k * each, y + TEXT + (i - 1) * SMALL * LEADING, drawing.fit(line, each - 3, size),
          { size = size, align = "right", color = i == 1 and INK or SOFT })
      end
    end
    y = y + TEXT * LEADING + tall * SMALL * LEADING + 1.5
    d:line({ MARGIN, y, width - MARGIN, y }, 0.3, GRID)
    y = y + 1.5
  end
  y = y + 2
  for _, s in ipairs(spec.caption or {}) do
    y = d:block(MARGIN, y, drawing.wrap(s, width - 2 * MARGIN, SMALL), SMALL, { align = "left", color = SOFT })
  end
  d.height = y + MARGIN
  return d
end

return chart
