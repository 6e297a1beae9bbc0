-- The figures of run:compare that show methods, from its tables alone: gains over another patient's map by metric and
-- method, ranges of ranks with the groups that are not told apart, and what a gain costs in seconds.
-- It refuses to rank by a metric that cannot tell maps apart, and to hide a method that failed the gate: it is hatched,
-- and stands below a rule.
local drawing = require "medxai.show.drawing"
local palette = require "medxai.show.palette"
local plot = require "medxai.show.plot"
local title_of = require("medxai.score.registry").title
local rankings = require "medxai.stats.rankings"

local figures = {}

local SMALL, LEADING = drawing.SMALL, drawing.LEADING
local SOFT, INK, MARGIN = drawing.SOFT, drawing.INK, plot.MARGIN

--- Whether a row of tables/methods.csv carries the gate's mark.
local function failed(row) return tostring(row.gate or ""):find "failed" ~= nil end
figures.failed = failed

-- 1 where higher is better, -1 where lower is; nil of a metric that only describes.
local function sign_of(c, metric)
  local direction = c.directions[metric]
  return direction == "higher" and 1 or direction == "lower" and -1 or nil
end

local function words(c, metric) return title_of(c.short(metric)) end

-- "higher is better" metrics as they are; of the others the name says that signs are turned.
local function gain_title(c, metric)
  return words(c, metric) .. (sign_of(c, metric) == -1 and " (lower is better: sign turned)" or "")
end

-- Rows of one model, in the order of the table.
local function of_model(c, model)
  local list = {}
  for _, row in ipairs(c.methods) do
    if row.run == model then list[#list + 1] = row end
  end
  return list
end

-- The metrics that rank, the primary one first.
local function ranking_metrics(c, rows)
  local list = {}
  for _, group in ipairs(plot.grouped(rows, "metric")) do
    if sign_of(c, group.name) then table.insert(list, group.name == c.primary and 1 or #list + 1, group.name) end
  end
  return list
end

-- Methods asked for, then baselines; of each those that failed the gate come last.
local function methods_of(c, rows)
  local parts, bad = { {}, {}, {} }, {}
  for _, row in ipairs(rows) do bad[row.method] = bad[row.method] or failed(row) end
  for _, group in ipairs(plot.grouped(rows, "method")) do
    local part = c.baselines[group.name] and 3 or bad[group.name] and 2 or 1
    table.insert(parts[part], group.name)
  end
  local list = {}
  for _, part in ipairs(parts) do table.move(part, 1, #part, #list + 1, list) end
  return list, #parts[1], #parts[1] + #parts[2]
end

-- ---- gains ----------------------------------------------------------------------------------------------------------

-- Decimals that show two digits of the largest of some numbers.
local function decimals_of(most)
  if not (most > 0) then return 2 end
  return math.max(0, math.min(4, 1 - math.floor(math.log(most, 10))))
end

-- What is drawn of one metric: gains by method, turned so that more is better, and the largest.
local function column_of(c, rows, metric)
  local column, most = { metric = metric, by = {} }, 0
  for _, row in ipairs(rows) do
    if row.metric == metric then
      local gain = plot.is_finite(row.gain) and sign_of(c, metric) * row.gain or nil
      column.by[row.method] = { row = row, gain = gain }
      if gain then most = math.max(most, math.abs(gain)) end
    end
  end
  column.most, column.decimals = most, decimals_of(most)
  return column
end

local function put_gain(d, x, y, w, h, cell, column)
  local color = plot.PALE
  if not cell or not cell.gain then
    color = 0xffffff
  elseif cell.row.above_swap == "better" then
    color = palette.at("blues", 0.12 + 0.75 * math.max(0, cell.gain) / column.most)
  end
  d:rect(x, y, w, h, color)
  local bad = cell and failed(cell.row)
  if bad then plot.hatch(d, x, y, w, h, plot.ink_on(color)) end
  local text = cell and (cell.gain and drawing.fixed(cell.gain, column.decimals, true) or "none") or "–"
  local width = drawing.text_width(text, SMALL)
  if bad then d:rect(x + (w - width) / 2 - 1.5, y + h / 2 - 4, width + 3, 8, color) end
  d:text(x + w / 2, y + h / 2 + SMALL * 0.36, text, { size = SMALL, align = "center",
    color = cell and cell.gain and plot.ink_on(color) or SOFT })
end

-- One block of columns: headings, rows of methods, rules between the parts. Returns the y below.
local function put_block(d, c, columns, methods, at, y)
  local names = {}
  for k, column in ipairs(columns) do
    names[k] = words(c, column.metric):gsub("=", " ") .. (sign_of(c, column.metric) == -1 and " ↓" or "")
      .. (column.metric == c.primary and ", primary" or "")
  end
  y = plot.headings(d, names, at.left, at.each, y)
  local top = y
  for i, method in ipairs(methods) do
    if i == at.passed + 1 and i > 1 or i == at.asked + 1 and i > 1 then y = y + 3 end
    d:text(at.left - 4, y + at.line / 2 + SMALL * 0.36, drawing.fit(method, at.left - 4 - MARGIN, SMALL),
      { size = SMALL, align = "right", color = i > at.asked and SOFT or INK })
    for k, column in ipairs(columns) do
      put_gain(d, at.left + (k - 1) * at.each, y, at.each, at.line, column.by[method], column)
    end
    y = y + at.line
  end
  for k = 1, #columns - 1 do d:line({ at.left + k * at.each, top, at.left + k * at.each, y }, 0.5, 0xffffff) end
  d:frame(at.left, top, #columns * at.each, y - top, 0.5, INK)
  return y
end

local function gain_caption(c, rows, columns)
  local n, units, kind, described = 0, 0, nil, {}
  for _, row in ipairs(rows) do
    n, units = math.max(n, row.n or 0), math.max(units, row.units or 0)
    kind = kind or row.interval
  end
  for _, group in ipairs(plot.grouped(rows, "metric")) do
    if not sign_of(c, group.name) then described[#described + 1] = words(c, group.name) end
  end
  local list = { ("Mean gain over the map of another patient of the same class (chance level: 0), %s; blue: above 0 by "
    .. "Holm's test and by its 95 %% interval%s; each column has its own scale of blue."):format(
    plot.images(n, units), kind and " (" .. kind .. ")" or "") }
  for _, column in ipairs(columns) do
    if sign_of(c, column.metric) == -1 then
      list[2] = "↓: lower is better; signs are turned, so that a positive gain is an improvement."
    end
  end
  if #described > 0 then
    list[#list + 1] = "Not shown, since they describe and do not rank: " .. table.concat(described, ", ") .. "."
  end
  if c.partial then list[#list + 1] = "PARTIAL: of " .. c.partial .. "." end
  return list
end

--- The gains of one model's methods by every metric that ranks.
---@param c table methods (rows of tables/methods.csv), directions, baselines, primary, short, partial
---@param model string
---@return table|nil drawing nil where no metric ranks
---@return table[] rows
function figures.gains(c, model)
  local rows = of_model(c, model)
  local metrics, drawn, columns = ranking_metrics(c, rows), {}, {}
  if #metrics == 0 then return nil, drawn end
  local methods, passed, asked = methods_of(c, rows)
  for k, metric in ipairs(metrics) do columns[k] = column_of(c, rows, metric) end
  local left = MARGIN + plot.fitted(methods, 150) + 5
  local most = math.floor((drawing.PAGE - left - MARGIN) / 40)
  local d = drawing.new(drawing.PAGE)
  local blocks = math.ceil(#columns / most)
  local per = math.ceil(#columns / blocks)
  local at = { left = left, each = math.min(62, (d.width - left - MARGIN) / per), line = 12, passed = passed,
    asked = asked }
  d.width = math.max(drawing.COLUMN, left + per * at.each + MARGIN)
  local y = plot.key(d, MARGIN, MARGIN, d.width - 2 * MARGIN, {
    { mark = "cell", color = palette.at("blues", 0.6), label = "above another patient's map" },
    { mark = "cell", color = plot.PALE, label = "not above it" },
    { mark = "cell", color = 0xffffff, hatched = true, label = "gate failed" } })
  for b = 1, blocks do
    y = put_block(d, c, table.move(columns, (b - 1) * per + 1, math.min(b * per, #columns), 1, {}), methods, at, y) + 6
  end
  d.height = plot.caption(d, y - 6, gain_caption(c, rows, columns))
  for _, column in ipairs(columns) do
    for _, method in ipairs(methods) do
      local cell = column.by[method]
      if cell then
        drawn[#drawn + 1] = { run = model, metric = column.metric, method = method, gain = cell.row.gain,
          gain_low = cell.row.gain_low, gain_high = cell.row.gain_high, shown = cell.gain,
          above_swap = cell.row.above_swap, gate = cell.row.gate, n = cell.row.n, units = cell.row.units }
      end
    end
  end
  return d, drawn
end

figures.gain_columns = { "run", "metric", "method", "gain", "gain_low", "gain_high", "shown", "above_swap", "gate", "n",
  "units" }

-- ---- ranks ----------------------------------------------------------------------------------------------------------

-- The methods that are ranked by one metric, best mean first; those that failed the gate last.
local function ranked(c, rows, metric)
  local list, sign = {}, sign_of(c, metric)
  for i, row in ipairs(rows) do
    if row.metric == metric and not c.baselines[row.method] then list[#list + 1] = { row = row, place = i } end
  end
  local function key(one) return plot.is_finite(one.row.mean) and -sign * one.row.mean or math.huge end
  table.sort(list, function(a, b)
    local x, y = failed(a.row), failed(b.row)
    if x ~= y then return y end
    if key(a) ~= key(b) then return key(a) < key(b) end
    return a.place < b.place
  end)
  for i, one in ipairs(list) do list[i] = one.row end
  return list
end

-- The groups of methods of which no two are told apart, as places in the list.
local function groups_of(c, model, metric, list)
  local names, pairs_, place = {}, {}, {}
  for i, row in ipairs(list) do names[i], place[row.method] = row.method, i end
  local family = ("compare %s %s"):format(model, metric)
  for _, p in ipairs(c.pairs) do
    if p.family == family and place[p.a] and place[p.b] then
      pairs_[#pairs_ + 1] = { a = p.a, b = p.b, verdict = p.decision }
    end
  end
  if #pairs_ == 0 then return {} end
  local out = {}
  for k, group in ipairs(rankings.cliques(names, pairs_)) do
    out[k] = {}
    for i, name in ipairs(group) do out[k][i] = place[name] end
    table.sort(out[k])
  end
  table.sort(out, function(a, b) return a[1] < b[1] or a[1] == b[1] and #a > #b end)
  return out
end

-- A bar per group beside the rows, a point per member: groups come from pairs, so rows between may not belong to them.
local function put_groups(d, groups, x, y_of, most)
  for k = 1, math.min(#groups, most) do
    local group, at = groups[k], x + (k - 1) * 5
    d:line({ at, y_of(group[1]), at, y_of(group[#group]) }, 1, SOFT)
    for _, i in ipairs(group) do d:circle(at, y_of(i), 1.5, SOFT) end
  end
end

local most_groups, rank_line = 6, 9.5

-- One metric's ranges of ranks. Returns the y below.
local function put_ranks(d, c, model, metric, box)
  local list = ranked(c, box.rows, metric)
  local name = words(c, metric) .. (metric == c.primary and " (primary)" or "")
  local y = plot.title(d, box.left, box.top, name, box.width)
  local any = false
  for _, row in ipairs(list) do any = any or row.rank_low ~= nil end
  if not any then
    local text = c.silent(model, metric) or "no ranking: fewer than two methods, or too few images"
    return d:block(box.left, y, drawing.wrap(text, box.width, SMALL), SMALL, { align = "left", color = SOFT })
  end
  local names = {}
  for i, row in ipairs(list) do names[i] = row.method end
  local widest, labels = plot.fitted(names, 0.42 * box.width)
  local groups = groups_of(c, model, metric, list)
  local shown = math.min(#groups, most_groups)
  local inner = { left = box.left + widest + 5, top = y, height = #list * box.line, label_room = box.width }
  inner.width = box.left + box.width - inner.left - shown * 5 - 6
  local to_x, below = plot.x_axis(d, inner, { lo = 0.5, hi = #list + 0.5, integer = true, label = "rank" })
  local function y_of(i) return y + (i - 0.5) * box.line end
  for i, row in ipairs(list) do
    local color = failed(row) and plot.GRAY or plot.BLUE
    d:text(inner.left - 4, y_of(i) + SMALL * 0.36, labels[i], { size = SMALL, align = "right",
      color = failed(row) and SOFT or INK })
    if row.rank_low then
      local low, high = to_x(row.rank_low), to_x(row.rank_high)
      d:rect(low - 2, y_of(i) - 2, high - low + 4, 4, color)
      if failed(row) then plot.hatch(d, low - 2, y_of(i) - 2, high - low + 4, 4, 0xffffff) end
    end
    if i > 1 and failed(row) and not failed(list[i - 1]) then
      d:line({ box.left, y_of(i) - box.line / 2, inner.left + inner.width, y_of(i) - box.line / 2 }, 0.6, INK)
    end
  end
  put_groups(d, groups, inner.left + inner.width + 5, y_of, most_groups)
  return below, #groups > most_groups
end

-- The panels of some metrics as one figure, and their rows.
local function ranks_of(c, model, rows, metrics)
  local columns, gap = math.min(#metrics, 2), 16
  local d, drawn = drawing.new(columns == 1 and drawing.COLUMN or drawing.PAGE), {}
  local each = (d.width - 2 * MARGIN - (columns - 1) * gap) / columns
  local y, below, cut, n, units = MARGIN, MARGIN, false, 0, 0
  for k, metric in ipairs(metrics) do
    local column = (k - 1) % columns
    if column == 0 and k > 1 then y = below + 8 end
    local box = { left = MARGIN + column * (each + gap), top = y, width = each, rows = rows, line = rank_line }
    local foot, more = put_ranks(d, c, model, metric, box)
    below, cut = math.max(below, foot), cut or more
    for _, row in ipairs(ranked(c, rows, metric)) do
      drawn[#drawn + 1] = { run = model, metric = metric, method = row.method, mean = row.mean, rank_low = row.rank_low,
        rank_high = row.rank_high, p_best = row.p_best, gate = row.gate, n = row.n, units = row.units }
      n, units = math.max(n, row.n or 0), math.max(units, row.units or 0)
    end
  end
  d.height = plot.caption(d, below, { ("Bars: ranges of ranks from paired tests at level 0.05 after Holm, best mean "
    .. "first, %s; where nothing is told apart a bar covers all ranks."):format(plot.images(n, units)),
    ("Gray bars with points join methods of which no two are told apart%s; hatched, below a rule: the gate failed.")
    :format(cut and (" (the first %d groups)"):format(most_groups) or ""),
    c.partial and "PARTIAL: of " .. c.partial .. "." })
  return { drawing = d, rows = drawn }
end

--- The ranges of ranks of one model's methods by every metric that ranks, and the groups that are not told apart; so
--- many metrics per figure as fill a page.
---@param c table as of figures.gains; pairs (rows of tables/pairs.csv), silent(model, metric) = why there is no ranking
---@param model string
---@return { drawing: table, rows: table[] }[] figures none where no metric ranks
function figures.ranks(c, model)
  local rows = of_model(c, model)
  local metrics, list = ranking_metrics(c, rows), {}
  local count, any = #metrics > 0 and #ranked(c, rows, metrics[1]) or 0, false
  for _, row in ipairs(rows) do any = any or row.rank_low ~= nil end
  if count < 2 or not any then return list end
  local per = 2 * math.max(1, math.floor(640 / (count * rank_line + 45)))
  for first = 1, #metrics, per do
    list[#list + 1] = ranks_of(c, model, rows, table.move(metrics, first, math.min(#metrics, first + per - 1), 1, {}))
  end
  return list
end

figures.rank_columns = { "run", "metric", "method", "mean", "rank_low", "rank_high", "p_best", "gate", "n", "units" }

-- ---- cost -----------------------------------------------------------------------------------------------------------

-- The methods of one model with seconds per map and primary gain.
local function costed(c, model)
  local seconds, list = {}, {}
  for _, row in ipairs(c.costs) do
    if row.run == model and (row.images or 0) > 0 and (row.map_seconds or 0) > 0 then
      seconds[row.method] = row.map_seconds / row.images
    end
  end
  local sign = sign_of(c, c.primary)
  for _, row in ipairs(of_model(c, model)) do
    if row.metric == c.primary then
      local low, high = row.gain_low and sign * row.gain_low, row.gain_high and sign * row.gain_high
      if low and high and low > high then low, high = high, low end
      list[#list + 1] = { row = row, seconds = seconds[row.method], gain = row.gain and sign * row.gain, low = low,
        high = high, baseline = c.baselines[row.method], failed = failed(row) }
    end
  end
  for _, a in ipairs(list) do
    a.best = a.seconds and a.gain and not a.baseline and not a.failed
    for _, b in ipairs(list) do
      local counts = b ~= a and b.seconds and b.gain and not b.baseline and not b.failed
      if a.best and counts and b.seconds <= a.seconds and b.gain >= a.gain
        and (b.seconds < a.seconds or b.gain > a.gain) then a.best = false end
    end
  end
  return list
end

-- Numbers beside the points, each at the first of eight places that hits no other point and number.
local function put_numbers(d, points, box)
  local taken = {}
  local function free(x, y, w)
    if x < box.left or x + w > box.left + box.width or y - SMALL < box.top or y > box.top + box.height then
      return false
    end
    for _, t in ipairs(taken) do
      if x - 1.5 < t.x + t.w and t.x < x + w + 1.5 and y - SMALL * 0.8 < t.y and t.y - t.h < y then return false end
    end
    return true
  end
  for _, p in ipairs(points) do taken[#taken + 1] = { x = p.x - 2.5, y = p.y + 2.5, w = 5, h = 5 } end
  for _, p in ipairs(points) do
    local text = tostring(p.number)
    local w, put = drawing.text_width(text, SMALL), nil
    for _, far in ipairs { 3.5, 8, 13 } do
      for _, at in ipairs { { far, 2.3 }, { -far - w, 2.3 }, { far - 1, -far + 1 }, { -far - w + 1, -far + 1 },
        { far - 1, far + 4 }, { -far - w + 1, far + 4 }, { -w / 2, -far - 1 }, { -w / 2, far + 5 } } do
        if not put and free(p.x + at[1], p.y + at[2], w) then put = { x = p.x + at[1], y = p.y + at[2] } end
      end
    end
    put = put or { x = p.x + 3.5, y = p.y + 2.3 }
    taken[#taken + 1] = { x = put.x, y = put.y, w = w, h = SMALL * 0.8 }
    d:rect(put.x - 0.5, put.y - SMALL * 0.8, w + 1, SMALL * 0.9, 0xffffff, 0.8)
    d:text(put.x, put.y, text, { size = SMALL, bold = p.best })
  end
end

local function put_point(d, p, to_x, to_y)
  local x, y = to_x(p.seconds), to_y(p.gain)
  local color = p.best and plot.BLUE or plot.GRAY
  if p.low and p.high then plot.upright(d, x, to_y(p.low), to_y(p.high), color, p.best and 0.9 or 0.6) end
  if p.baseline then plot.square(d, x, y, plot.GRAY)
  elseif p.failed then plot.cross(d, x, y, plot.GRAY)
  else plot.dot(d, x, y, { color = color, hollow = not p.best }) end
  return { x = x, y = y, number = p.number, best = p.best }
end

-- One model's panel; returns the y below.
local function put_costs(d, box, name, list, range)
  local y = plot.title(d, box.left, box.top, name, box.width)
  local axis = { lo = range.lo, hi = range.hi, label = box.y_label }
  local room = plot.y_room({ lo = range.lo, hi = range.hi, label = "x" }, 105)
  local inner = { left = box.left + room, top = y, width = box.width - room, height = 105 }
  local to_x, below = plot.x_axis(d, inner, { lo = range.fast, hi = range.slow, log = true, label = "seconds per map" })
  local to_y = plot.y_axis(d, inner, axis)
  if range.lo < 0 and range.hi > 0 then
    d:line({ inner.left, to_y(0), inner.left + inner.width, to_y(0) }, 0.7, SOFT, 2)
  end
  local points, left_out = {}, {}
  for _, p in ipairs(list) do
    if p.seconds and p.gain then points[#points + 1] = put_point(d, p, to_x, to_y) else
      left_out[#left_out + 1] = p.number
    end
  end
  put_numbers(d, points, inner)
  if #left_out > 0 then
    local text = "without a gain or a time: " .. table.concat(left_out, ", ")
    below = d:block(box.left, below, drawing.wrap(text, box.width, SMALL, false, 2), SMALL, { align = "left",
      color = SOFT })
  end
  return below
end

-- The ranges of all panels, so that networks can be compared.
local function cost_range(lists)
  local gains, fast, slow = { 0 }, math.huge, 0
  for _, list in ipairs(lists) do
    for _, p in ipairs(list) do
      if p.seconds and p.gain then
        fast, slow = math.min(fast, p.seconds), math.max(slow, p.seconds)
        for _, v in ipairs { p.gain, p.low or p.gain, p.high or p.gain } do gains[#gains + 1] = v end
      end
    end
  end
  if slow == 0 then return nil end
  local lo, hi = plot.range(gains)
  return { lo = lo, hi = hi, fast = fast / 1.5, slow = slow * 1.5 }
end

-- The numbers' names, in columns under the panels.
local function put_names(d, names, y)
  local columns = math.max(1, math.floor((d.width - 2 * MARGIN) / 125))
  local each, per = (d.width - 2 * MARGIN) / columns, math.ceil(#names / columns)
  for i, name in ipairs(names) do
    local column, line = (i - 1) // per, (i - 1) % per
    d:text(MARGIN + column * each, y + SMALL + line * SMALL * LEADING, drawing.fit(("%d  %s"):format(i, name), each - 6,
      SMALL), { size = SMALL })
  end
  return y + per * SMALL * LEADING + 2
end

--- Seconds per map against the gain by the primary metric, a panel per model.
---@param c table as of figures.gains; costs (rows of tables/costs.csv)
---@param models string[]
---@return table|nil drawing nil where no method has both
---@return table[] rows
function figures.costs(c, models)
  local lists, names, number, drawn, n = {}, {}, {}, {}, 0
  for k, model in ipairs(models) do
    lists[k] = costed(c, model)
    for _, p in ipairs(lists[k]) do
      if not number[p.row.method] then names[#names + 1], number[p.row.method] = p.row.method, #names + 1 end
      p.number, n = number[p.row.method], math.max(n, p.row.n or 0)
      drawn[#drawn + 1] = { run = model, number = p.number, method = p.row.method, metric = c.primary,
        seconds = p.seconds, gain = p.row.gain, gain_low = p.row.gain_low, gain_high = p.row.gain_high, shown = p.gain,
        undominated = p.best and "yes" or "no", baseline = p.baseline and "yes" or nil, gate = p.row.gate }
    end
  end
  local range = cost_range(lists)
  if not range then return nil, drawn end
  local columns, gap = math.min(#models, 3), 12
  local d = drawing.new(columns == 1 and drawing.COLUMN or drawing.PAGE)
  local each = (d.width - 2 * MARGIN - (columns - 1) * gap) / columns
  local top = plot.key(d, MARGIN, MARGIN, d.width - 2 * MARGIN, {
    { mark = "dot", color = plot.BLUE, label = "no method is both faster and better" },
    { mark = "dot", bare = true, hollow = true, color = plot.GRAY, label = "one is" },
    { mark = "square", color = plot.GRAY, label = "baseline" }, { mark = "cross", color = plot.GRAY,
      label = "gate failed" } })
  local below = top
  for k, model in ipairs(models) do
    local column = (k - 1) % columns
    if column == 0 and k > 1 then top = below + 8 end
    local box = { left = MARGIN + column * (each + gap), top = top, width = each,
      y_label = "gain" }
    below = math.max(below, put_costs(d, box, model, lists[k], range))
  end
  local y = put_names(d, names, below + 4)
  d.height = plot.caption(d, y, { ("Gain: %s over another patient's map (dashed: 0, the chance level), mean of %s with "
    .. "its 95 %% studentized bootstrap interval; seconds of this machine, of the map alone. Bold: not dominated.")
    :format(gain_title(c, c.primary), plot.count(n, "image")), c.partial and "PARTIAL: of " .. c.partial .. "." })
  return d, drawn
end

figures.cost_columns = { "run", "number", "method", "metric", "seconds", "gain", "gain_low", "gain_high", "shown",
  "undominated", "baseline", "gate" }

return figures
