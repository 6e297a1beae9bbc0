-- The figure of run:audit, from tables/audit.csv alone: how well each class is told from each input, by the cheap probe
-- and by the trainings, with the threshold above which a class counts as told.
-- It refuses a bar from zero: an area under the ROC curve of 0.5 is chance, so bars begin there.
local canon = require "medxai.base.json"
local drawing = require "medxai.show.drawing"
local plot = require "medxai.show.plot"

local figures = {}

local SMALL = drawing.SMALL
local SOFT, WARN, INK, MARGIN = drawing.SOFT, drawing.WARN, drawing.INK, plot.MARGIN

figures.columns = { "witness", "input", "class", "seeds", "auroc", "low", "high", "verdict", "n", "units" }

local input_titles = { whole = "whole image", lungs_raw = "lungs alone", outside = "without lungs", border = "border",
  shape = "lung outline" }

local marks = { found = "found", not_found = "–", undecided = "?" }

-- One bar with its interval, and what is said of it above or below.
local function put_bar(d, x, width, row, to_y, color)
  if not plot.is_finite(row.auroc) then
    d:text(x + width / 2 + SMALL * 0.36, to_y(0.5) - 3, "none", { size = SMALL, turned = true, color = SOFT })
    return
  end
  local from, to = to_y(0.5), to_y(row.auroc)
  d:rect(x, math.min(from, to), width, math.max(0.5, math.abs(from - to)), color)
  local top = math.min(from, to)
  if row.low and row.high then
    plot.upright(d, x + width / 2, to_y(row.low), to_y(row.high), INK, 0.7)
    top = math.min(top, to_y(row.high))
  end
  if width < SMALL then -- too many classes for words
    if row.verdict == "found" then d:circle(x + width / 2, top - 3, 1.3, WARN) end
  elseif row.verdict == "found" then
    d:text(x + width / 2 + SMALL * 0.36, top - 3, marks.found, { size = SMALL, turned = true, color = WARN,
      bold = true })
  elseif marks[row.verdict] then
    d:text(x + width / 2, top - 3, marks[row.verdict], { size = SMALL, align = "center", bold = true, color = SOFT })
  end
end

-- One witness in a box: inputs side by side, a bar per class. Returns the y below.
local function put_witness(d, box, group, classes, tau)
  local y = plot.title(d, box.left, box.top, box.title, box.width)
  local inputs = plot.grouped(group.rows, "input")
  local inner = { left = box.left + box.room, top = y + 23, width = box.width - box.room, height = box.height }
  local to_y = plot.y_axis(d, inner, { lo = box.lo, hi = 1, label = box.y_label })
  local each = inner.width / #inputs
  local width = math.min(16, (each - 8) / #classes)
  for k, input in ipairs(inputs) do
    local left = inner.left + (k - 0.5) * each - width * #classes / 2
    for c, class in ipairs(classes) do
      for _, row in ipairs(input.rows) do
        if row.class == class then put_bar(d, left + (c - 1) * width + 0.5, width - 1, row, to_y, plot.color(c)) end
      end
    end
  end
  local right = inner.left + inner.width
  d:line({ inner.left, to_y(0.5), right, to_y(0.5) }, 0.8, INK)
  d:line({ inner.left, to_y(tau), right, to_y(tau) }, 0.9, WARN, 2.5)
  d:line({ inner.left, inner.top + inner.height, right, inner.top + inner.height }, 0.6, INK)
  local names = {}
  for k, input in ipairs(inputs) do names[k] = input_titles[input.name] or tostring(input.name) end
  return plot.headings(d, names, inner.left, each, inner.top + inner.height + 3, 2)
end

local function lowest(rows)
  local lo = 0.4
  for _, row in ipairs(rows) do
    for _, v in ipairs { row.auroc or 1, row.low or 1 } do lo = math.min(lo, v) end
  end
  return math.max(0, math.floor(lo * 10) / 10)
end

local function caption_of(rows, tau)
  local n, units, seeds = 0, 0, 0
  for _, row in ipairs(rows) do
    n, units = math.max(n, row.n or 0), math.max(units, row.units or 0)
    if row.witness == "trainings" then seeds = math.max(seeds, row.seeds or 0) end
  end
  local trainings = seeds > 0 and ", mean over " .. plot.count(seeds, "training") or ""
  return { ("AUROC of each class against the rest, %s%s, bars from the chance level 0.5; upright: 95 %% DeLong "
    .. "intervals; red line: %.3f, above which a class counts as told."):format(plot.images(n, units, "test image"),
    trainings, tau),
    "Over inputs without lungs: whether the class is told (found, or a red point; –: not found; ?: undecided), after "
    .. "Holm's test." }
end

local witness_titles = { ["cheap probe"] = "Cheap probe (60 numbers of a thumbnail)", trainings = "Trainings" }

--- The areas of every class and input.
---@param rows table[] of tables/audit.csv
---@param tau number from which a class counts as told
---@return table|nil drawing nil without rows
function figures.areas(rows, tau)
  local groups, classes = plot.grouped(rows, "witness"), {}
  if #groups == 0 then return nil end
  for _, group in ipairs(plot.grouped(rows, "class")) do classes[#classes + 1] = group.name end
  local inputs = #plot.grouped(groups[1].rows, "input")
  local side_by_side = #groups > 1 and inputs * #classes <= 18
  local d = drawing.new((#groups > 1 or inputs * #classes > 12) and drawing.PAGE or drawing.COLUMN)
  local columns, gap, lo = side_by_side and #groups or 1, 14, lowest(rows)
  local room = plot.y_room({ lo = lo, hi = 1, label = "x" }, 110)
  local each = (d.width - 2 * MARGIN - (columns - 1) * gap) / columns
  local items = {}
  for c, class in ipairs(classes) do items[c] = { mark = "cell", color = plot.color(c), label = class } end
  local top = plot.key(d, MARGIN, MARGIN, d.width - 2 * MARGIN, items)
  local below = top
  for k, group in ipairs(groups) do
    if columns == 1 then top = k > 1 and below + 6 or top end
    local box = { left = MARGIN + (columns > 1 and (k - 1) * (each + gap) or 0), top = top, width = each,
      height = 110, room = room, lo = lo, y_label = "AUROC", title = witness_titles[group.name] or group.name }
    below = math.max(below, put_witness(d, box, group, classes, tau))
  end
  d.height = plot.caption(d, below, caption_of(rows, tau))
  return d
end

--- Draws what run:audit left in tables/audit.csv.
---@param run medxai.Run
---@param tau number from which a class counts as told
---@return table[] figures { name, title, svg, paths }
function figures.draw(run, tau)
  local rows = plot.rows(run, "tables/audit.csv", { "witness", "input", "class", "verdict", "reason" })
  local d = figures.areas(rows, tau)
  plot.clear(run, "audit-inputs")
  if not d then return canon.list {} end
  local drawn = {}
  for i, row in ipairs(rows) do
    drawn[i] = {}
    for _, column in ipairs(figures.columns) do drawn[i][column] = row[column] end
  end
  return canon.list { plot.save(run, "audit-inputs", { title = "What each input tells of the class", drawing = d,
    columns = figures.columns, rows = drawn }) }
end

return figures
