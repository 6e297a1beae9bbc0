-- The figures of a grid search: parallel coordinates (one line per cell through its values to its score) and learning
-- curves, a panel for each value of one field, colors by another. It refuses to draw a field that has one value; a
-- search of one cell has its learning curve alone.
local canon = require "medxai.base.json"
local drawing = require "medxai.show.drawing"
local files = require "medxai.base.files"
local palette = require "medxai.show.palette"

local grid_figure = {}

local INK, SOFT, WARN = drawing.INK, drawing.SOFT, drawing.WARN
local SMALL, TEXT, LEADING = drawing.SMALL, drawing.TEXT, drawing.LEADING
local MARGIN = 4
local names = { accuracy = "validation accuracy", balanced_accuracy = "validation balanced accuracy",
  macro_f1 = "validation macro F1", loss = "validation loss" }

local function short(v) return math.type(v) == "float" and string.format("%.4g", v) or tostring(v) end

-- Values in order: numbers ascending, others as they are.
local function ordered(values)
  local list, numbers = table.move(values, 1, #values, 1, {}), true
  for _, v in ipairs(list) do numbers = numbers and type(v) == "number" end
  if numbers then table.sort(list) end
  return list
end

-- The fields with more than one value, each with its places between 0 (foot) and 1.
local function varied(result)
  local list = {}
  for _, name in ipairs(result.axes) do
    local values = ordered(result.values[name])
    if #values > 1 then
      local place = {}
      for i, v in ipairs(values) do place[v] = (i - 1) / (#values - 1) end
      list[#list + 1] = { name = name, values = values, place = place }
    end
  end
  return list
end

local function score_range(result)
  local lo, hi = math.huge, -math.huge
  for _, row in ipairs(result.cells) do
    if row.value then lo, hi = math.min(lo, row.value), math.max(hi, row.value) end
  end
  if lo == hi then lo, hi = lo - 0.01, hi + 0.01 end
  return lo, hi
end

-- One line for each cell; those that end at the same place are set a little apart.
local function draw_cells(d, result, axes, box, lo, hi)
  local n = #result.cells
  for k = n, 1, -1 do
    local row, points = result.cells[k], {}
    if row.value then
      local apart = n > 1 and ((k - 1) / (n - 1) - 0.5) * 7 or 0
      for i, axis in ipairs(axes) do
        points[#points + 1] = box.x(i)
        points[#points + 1] = box.y(axis.place[row.values[axis.name]]) + apart
      end
      local share = (row.value - lo) / (hi - lo)
      points[#points + 1] = box.x(#axes + 1)
      points[#points + 1] = box.y(share)
      local selected = row.cell == result.winner
      if result.select == "loss" then share = 1 - share end
      d:line(points, selected and 1.8 or 0.8, selected and WARN or palette.at("blues", 0.3 + 0.7 * share),
        row.status == "halted" and 2 or 0)
    end
  end
end

local function draw_axis(d, x, box, label, ticks, wide)
  d:line({ x, box.top, x, box.bottom }, 0.6, INK)
  for _, tick in ipairs(ticks) do
    d:line({ x - 2, box.y(tick[1]), x + 2, box.y(tick[1]) }, 0.6, INK)
    d:rect(x + 3, box.y(tick[1]) - SMALL * 0.6, drawing.text_width(tick[2], SMALL) + 2, SMALL * 1.2, 0xffffff, 0.75)
    d:text(x + 4, box.y(tick[1]) + SMALL * 0.36, tick[2], { size = SMALL })
  end
  d:block(x, MARGIN, drawing.wrap(label, wide, TEXT, true, 2), TEXT, { bold = true })
end

-- Parallel coordinates.
local function parallel(result)
  local axes = varied(result)
  local lo, hi = score_range(result)
  local width, height = drawing.PAGE, 230
  local d = drawing.new(width, height)
  local box = { top = MARGIN + 2 * TEXT * LEADING + 8, bottom = height - MARGIN - 3 * SMALL * LEADING - 10 }
  local left, right = 42, width - 52
  function box.x(i) return left + (right - left) * (i - 1) / #axes end
  function box.y(share) return box.bottom - 5 - share * (box.bottom - box.top - 10) end
  draw_cells(d, result, axes, box, lo, hi)
  local wide = math.min((right - left) / #axes - 4, 84)
  for i, axis in ipairs(axes) do
    local ticks = {}
    for k, v in ipairs(axis.values) do ticks[k] = { axis.place[v], short(v) } end
    draw_axis(d, box.x(i), box, (axis.name:gsub("_", " ")), ticks, wide)
  end
  draw_axis(d, box.x(#axes + 1), box, names[result.select],
    { { 0, string.format("%.3f", lo) }, { 1, string.format("%.3f", hi) } }, 84)
  local y = box.bottom + 8
  local words = string.format("One line per cell (%d), a little apart where they share a value. Darker is better; "
    .. "red: the selected cell, %.3f, the best of the search and "
    .. "therefore optimistic.%s", #result.cells, result.best.value,
    result.counts.halted and " Dashed: halted early." or "")
  d:block(MARGIN, y, drawing.wrap(words, width - 2 * MARGIN, SMALL), SMALL, { align = "left", color = SOFT })
  return d
end

-- ---- learning curves ------------------------------------------------------------------------------------------------

-- The field that makes the panels (train_depth where it varies) and the one that makes the colors (lr where it varies);
-- nil where none varies.
local function panel_fields(result)
  local axes, by = varied(result), {}
  for _, axis in ipairs(axes) do by[axis.name] = axis end
  local first = axes[1]
  for i = #axes, 1, -1 do
    if axes[i].name ~= "epochs" and axes[i].name ~= "lr" then first = axes[i] end
  end
  if not first then return nil end
  local panels = by.train_depth or first
  local colors = by.lr ~= panels and by.lr or nil
  for _, axis in ipairs(axes) do
    if not colors and axis ~= panels then colors = axis end
  end
  return panels, colors
end

local hues = { 0x0072b2, 0xd55e00, 0x009e73, 0xcc79a7, 0xe69f00, 0x56b4e9, 0x000000 }

local function curve(history)
  local x, y = {}, {}
  for i, record in ipairs(history) do x[i], y[i] = record.epoch, record.val_accuracy end
  return x, y
end

local function one_panel(result, curves, panels, value, colors)
  local series, seen = {}, {}
  for _, row in ipairs(result.cells) do
    if (not panels or row.values[panels.name] == value) and #(curves[row.cell] or {}) > 0 then
      local k = 1
      for i, v in ipairs(colors and colors.values or {}) do
        if v == row.values[colors.name] then k = i end
      end
      local label = colors and colors.name:gsub("_", " ") .. " " .. short(colors.values[k]) or nil
      local x, y = curve(curves[row.cell])
      series[#series + 1] = { label = not seen[k] and label or nil, x = x, y = y, color = hues[(k - 1) % #hues + 1],
        order = k }
      seen[k] = true
    end
  end
  table.sort(series, function(a, b)
    if (a.label == nil) ~= (b.label == nil) then return a.label ~= nil end
    return a.order < b.order
  end)
  local title = panels and panels.name:gsub("_", " ") .. " " .. short(value) or "The cell"
  return { title = title, series = series, x_label = "epoch", y_label = "validation accuracy", x_integer = true,
    y_range = { 0, 1 } }
end

-- Small multiples.
local function learning(result, curves)
  local panels, colors = panel_fields(result)
  local charts = {}
  for _, value in ipairs(panels and panels.values or { true }) do
    charts[#charts + 1] = one_panel(result, curves, panels, value, colors)
  end
  return require("medxai.show.chart").lines { charts = charts,
    width_pt = #charts == 1 and drawing.COLUMN or drawing.PAGE, height_pt = 170 }
end

--- Draws and saves; returns a list of { name, title, svg, paths }.
---@param run medxai.Run
---@param result table of the grid step
---@param curves table<string, table[]> cell -> its epochs
function grid_figure.draw(run, result, curves)
  local list = canon.list {}
  local drawn = { { "grid-curves", "Grid search: learning curves", learning(result, curves) } }
  if #varied(result) > 0 then table.insert(drawn, 1, { "grid-cells", "Grid search: all cells", parallel(result) }) end
  files.mkdir(files.join(run.dir, "figures"))
  for _, one in ipairs(drawn) do
    local base = "figures/" .. one[1]
    require("medxai.show.figure").save(one[3], files.join(run.dir, base), { title = one[2] })
    list[#list + 1] = { name = one[1], title = one[2], svg = base .. ".svg",
      paths = canon.list { base .. ".png", base .. ".svg", base .. ".pdf" } }
  end
  return list
end

return grid_figure
