-- The figures of run:sanity, from its table of stages alone: what becomes of a map's likeness to the trained network's
-- as weights are randomized from the head to the input, beside the likeness of different patients' maps.
-- It refuses to draw the course of a method without the strangers' level: a likeness says nothing without it.
local canon = require "medxai.base.json"
local drawing = require "medxai.show.drawing"
local plot = require "medxai.show.plot"
local tables = require "medxai.score.gate_tables"

local figures = {}

local SMALL, LEADING = drawing.SMALL, drawing.LEADING
local SOFT, WARN, MARGIN = drawing.SOFT, drawing.WARN, plot.MARGIN

local panel_height = 62 -- of a course, points

-- The course of one method: stages in a row, and alone those whose own layers only were random.
local function parts_of(rows)
  local cascade, alone = {}, {}
  for _, row in ipairs(rows) do
    local list = row.alone and alone or cascade
    if plot.is_finite(row.similarity) and (row.of or 0) > 0 then list[#list + 1] = row end
  end
  for _, list in ipairs { cascade, alone } do table.sort(list, function(a, b) return a.stage < b.stage end) end
  return cascade, alone
end

local function put_strangers(d, inner, row, to_y)
  if not row.stranger then return end
  local low, high = to_y(row.stranger_low or row.stranger), to_y(row.stranger_high or row.stranger)
  d:rect(inner.left, high, inner.width, math.max(0.4, low - high), plot.PALE)
  d:line({ inner.left, to_y(row.stranger), inner.left + inner.width, to_y(row.stranger) }, 0.8, plot.GRAY)
end

local function put_course(d, cascade, to_x, to_y)
  local points = { to_x(0), to_y(1) }
  for _, row in ipairs(cascade) do
    local x = to_x(row.layers / row.of)
    if row.draw_low and row.draw_high then
      d:line({ x, to_y(row.draw_low), x, to_y(row.draw_high) }, 0.7, plot.BLUE)
    end
    points[#points + 1], points[#points + 2] = x, to_y(row.similarity)
  end
  d:line(points, 1, plot.BLUE)
  for i = 3, #points, 2 do plot.dot(d, points[i], points[i + 1], { radius = 1.6 }) end
end

local function put_alone(d, alone, to_x, to_y)
  for _, row in ipairs(alone) do
    plot.dot(d, to_x(row.layers / row.of), to_y(row.similarity), { color = plot.ORANGE, hollow = true, radius = 1.6 })
  end
end

local state_colors = { passed = plot.BLUE, failed = WARN }

-- One method's panel: name, what the gate says, its course.
local function put_panel(d, box, rows)
  local first = rows[1]
  local y = box.top + SMALL
  d:text(box.left, y, drawing.fit(first.label or first.method, box.width, SMALL, true), { size = SMALL, bold = true })
  local said = first.control and (first.failed and "control, failed" or "control") or first.state or "not judged"
  if first.failed then said = said .. ": " .. first.failed end
  y = y + SMALL * LEADING
  d:text(box.left, y, drawing.fit(said, box.width, SMALL), { size = SMALL,
    color = not first.control and state_colors[first.state] or SOFT })
  local inner = { left = box.left + box.room, top = y + 4, width = box.width - box.room, height = box.height,
    label_room = box.width }
  local to_x, below = plot.x_axis(d, inner, { lo = 0, hi = 1.02, label = box.x_label })
  local to_y = plot.y_axis(d, inner, { lo = box.lo, hi = 1.02, label = box.y_label })
  local cascade, alone = parts_of(rows)
  if #cascade > 0 then
    put_strangers(d, inner, first, to_y)
    put_course(d, cascade, to_x, to_y)
    put_alone(d, alone, to_x, to_y)
  else
    d:text(inner.left + inner.width / 2, inner.top + inner.height / 2, "no maps", { size = SMALL, align = "center",
      color = SOFT })
  end
  return below
end

-- The panels of a model in the order of the table: a method with each of its settings.
local function panels_of(rows)
  for _, row in ipairs(rows) do row.panel = tostring(row.label) .. "\0" .. tostring(row.settings) end
  local list = plot.grouped(rows, "panel")
  for _, row in ipairs(rows) do row.panel = nil end
  return list
end

local function lowest(rows)
  local lo = 0
  for _, row in ipairs(rows) do
    for _, v in ipairs { row.similarity or 0, row.draw_low or 0, row.stranger_low or 0 } do lo = math.min(lo, v) end
  end
  return math.max(-1, math.floor(lo * 5) / 5)
end

local function caption_of(rows)
  local n, draws, head, alone = 0, 0, 0, false
  for _, row in ipairs(rows) do
    n, alone = math.max(n, row.n or 0), alone or row.alone ~= nil
    if not row.alone and row.stage == 1 then head = math.max(head, row.draws or 0) end
    if not row.alone and row.stage ~= 1 then draws = math.max(draws, row.draws or 0) end
  end
  return { ("Blue: mean rank correlation with the trained network's map over %s and %s of random weights (head: %d), "
    .. "upright: lowest to highest draw; gray: maps of different patients, the chance level, with its 95 %% interval.")
    :format(plot.count(n, "image"), plot.count(draws, "draw"), head),
    alone and "Orange: the layers of that stage alone random, one draw; not judged." }
end

--- The course of every method of a model.
---@param rows table[] of tables/gate_stages.csv, of one model
---@return table|nil drawing nil without rows
function figures.cascade(rows)
  local panels = panels_of(rows)
  if #panels == 0 then return nil end
  local columns = math.min(#panels, #panels > 16 and 5 or 4)
  local d = drawing.new(columns == 1 and drawing.COLUMN or drawing.PAGE)
  local gap, lo = 9, lowest(rows)
  local room = plot.y_room({ lo = lo, hi = 1.02 }, panel_height)
  local label = plot.y_room({ lo = lo, hi = 1.02, label = "x" }, panel_height) - room
  local each = (d.width - 2 * MARGIN - label - (columns - 1) * gap) / columns
  local y, below = MARGIN, MARGIN
  for k, panel in ipairs(panels) do
    local column = (k - 1) % columns
    if column == 0 and k > 1 then y = below + 6 end
    local box = { left = MARGIN + label + column * (each + gap), top = y, width = each, height = panel_height,
      room = room, lo = lo,
      y_label = column == 0 and "rank correlation" or nil,
      x_label = k > #panels - columns and "share of layers that are random" or nil }
    below = math.max(below, put_panel(d, box, panel.rows))
  end
  d.height = plot.caption(d, below, caption_of(rows))
  return d
end

-- Of each run the first training ("vgg19 seed 1" of "vgg19"): the others' courses stand in the table.
local function firsts_of(groups)
  local list, seen = {}, {}
  for _, group in ipairs(groups) do
    local run = group.name:gsub(" seed %d+$", "")
    if not seen[run] then list[#list + 1] = group end
    seen[run] = true
  end
  return list
end

--- Draws what run:sanity left in tables/gate_stages.csv: a figure per run, of its first training.
---@param run medxai.Run
---@return table[] figures { name, title, svg, paths }
function figures.draw(run)
  local rows = plot.rows(run, "tables/gate_stages.csv", { "model", "network", "train_seed", "method", "label",
    "settings", "control", "state", "failed", "alone" })
  local list = canon.list {}
  plot.clear(run, "sanity-cascade-")
  for _, group in ipairs(firsts_of(plot.grouped(rows, "model"))) do
    local d = figures.cascade(group.rows)
    if d then
      list[#list + 1] = plot.save(run, plot.file_name("sanity-cascade-" .. group.name, list),
        { title = "Random weights from the head to the input: " .. group.name, drawing = d,
          columns = tables.stage_columns, rows = group.rows })
    end
  end
  return list
end

return figures
