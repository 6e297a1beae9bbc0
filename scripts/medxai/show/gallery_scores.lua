-- The figures of scores: a table of methods and metrics, a chart of each metric with intervals and chance level, and
-- what a perturbing metric saw: its curves, with the imputed pictures under them.
-- It refuses to draw an average of nothing: undefined values are said in words.
local drawing = require "medxai.show.drawing"
local figure = require "medxai.show.figure"
local comparable = require("medxai.score.summary").comparable
local metric = require "medxai.score.registry"
local units = require "medxai.stats.units"

local scores = {}

local table_columns, exhibit_entries = 6, 4

-- ---- summaries by metric ------------------------------------------------------------------------------------------

local function shown(v, signed) return (drawing.fixed(v, 3, signed)) end

local function interval(s, signed)
  if s.low ~= s.low then return "" end
  return string.format("[%s, %s]", shown(s.low, signed), shown(s.high, signed))
end

-- "ROAD, most relevant first", "percentile=25": the title, and what its id adds to the name.
local function column_title(job, s)
  local m = job.by_metric[s.metric]
  return { m.definition.title or m.name, table.concat(metric.settings(s.metric), ", "),
    string.format("%s, %s", s.unit or "value", metric.better(m.definition.direction)) }
end

local function cell(job, s)
  local signed = job.by_metric[s.metric].definition.signed
  local lines = { shown(s.mean, signed) }
  local between = interval(s, signed)
  if between ~= "" then lines[2] = between end
  if s.chance == s.chance then lines[#lines + 1] = "chance " .. shown(s.chance) end
  if s.n < s.of then lines[#lines + 1] = string.format("%d of %d images", s.n, s.of) end
  return lines
end

local function interval_sentence(group)
  local s = group[1]
  local lost = s.of - s.n
  return string.format("Means with %s; n = %d%s.", units.words(group), s.n,
    lost > 0 and string.format(", %d undefined", lost) or "")
end

-- Methods in the order in which they appear: { maps, label }.
local function methods_of(summaries)
  local list, seen = {}, {}
  for _, s in ipairs(summaries) do
    if not seen[s.maps] then list[#list + 1] = { maps = s.maps, label = s.label } end
    seen[s.maps] = true
  end
  return list
end

local function find(group, maps)
  for _, s in ipairs(group) do
    if s.maps == maps then return s end
  end
end

-- A table with the metrics across, or down where there are more of them than methods: columns and rows of figure.table.
local function arranged(job, groups, methods, down)
  local columns, rows = {}, {}
  for k, group in ipairs(groups) do
    local title = column_title(job, group[1])
    if title[2] == "" then table.remove(title, 2) end
    if down then rows[k] = { label = title, cells = {} } else columns[k] = title end
  end
  for i, m in ipairs(methods) do
    if down then columns[i] = m.label else rows[i] = { label = m.label, cells = {} } end
    for k, group in ipairs(groups) do
      local s = find(group, m.maps)
      local row, at = rows[down and k or i], down and i or k
      row.cells[at] = s and cell(job, s) or {}
    end
  end
  return columns, rows
end

--- Means with their intervals, methods by metrics; the fewer of the two stand across.
function scores.table(job, summaries, _, save)
  local groups, methods = comparable(summaries), methods_of(summaries)
  local down = #groups > #methods and #methods <= table_columns
  for first = 1, #groups, down and #groups or table_columns do
    local some = { table.unpack(groups, first, down and #groups or math.min(first + table_columns - 1, #groups)) }
    local columns, rows = arranged(job, some, methods, down)
    local s, all = some[1][1], {}
    for _, group in ipairs(some) do table.move(group, 1, #group, #all + 1, all) end
    save(figure.table { columns = columns, rows = rows, title = "Scores", caption = {
      string.format("%s, %s split. Means over %d images with %s.", job.model.name, job.split.name, s.of,
        units.words(all)) } }, "scores", "Scores of methods")
  end
end

-- ---- charts -----------------------------------------------------------------------------------------------------

local function dots(job, group)
  local rows, first = {}, group[1]
  for i, s in ipairs(group) do
    rows[i] = { label = s.label, value = s.mean, lo = s.low, hi = s.high, chance = s.chance,
      note = "undefined for every image" }
  end
  local definition = job.by_metric[first.metric].definition
  return figure.dots { rows = rows, title = definition.title or first.metric,
    x_label = string.format("%s%s", definition.axis or first.unit or first.metric,
    definition.axis and definition.unit == "score" and " (" .. first.unit .. ")" or ""), caption = {
      string.format("%s; %s.", first.metric, metric.better(definition.direction)), interval_sentence(group) } }
end

-- The share of a value's name: "... percentile=90", as ROAD's; nil where it has none.
local function percentile_of(group) return tonumber(group[1].metric:match("percentile=([%d.]+)")) end

local function all_at_percentiles(groups)
  for _, group in ipairs(groups) do
    if not percentile_of(group) then return false end
  end
  return #groups > 1
end

-- A metric with a value at each percentile: lines over the share removed.
local function percentile_lines(m, groups)
  local series, of = {}, {}
  for _, group in ipairs(groups) do
    local percentile = percentile_of(group)
    for _, s in ipairs(group) do
      if not of[s.maps] then
        of[s.maps] = { label = s.label, x = {}, y = {} }
        series[#series + 1] = of[s.maps]
      end
      table.insert(of[s.maps].x, 100 - percentile)
      table.insert(of[s.maps].y, s.mean)
    end
  end
  for _, s in ipairs(series) do -- in the order of the axis
    local order = {}
    for i in ipairs(s.x) do order[i] = i end
    table.sort(order, function(a, b) return s.x[a] < s.x[b] end)
    local x, y = {}, {}
    for i, k in ipairs(order) do x[i], y[i] = s.x[k], s.y[k] end
    s.x, s.y = x, y
  end
  return figure.lines {
    charts = { { title = string.format("%s (%s)", m.definition.title, metric.better(m.definition.direction)),
      series = series, x_label = "pixels removed (%)",
    y_label = string.format("mean change (%s)", groups[1][1].unit) } } }
end

-- { m = entry, groups in one unit: one per value of the metric } in the order of the metrics.
local function by_entry(job, summaries)
  local list, of = {}, {}
  for _, group in ipairs(comparable(summaries)) do
    local m = job.by_metric[group[1].metric]
    local key = m.id .. "\0" .. (group[1].unit or "")
    if not of[key] then
      of[key] = { m = m }
      list[#list + 1] = of[key]
    end
    table.insert(of[key], group)
  end
  return list
end

--- A chart of each metric and unit.
function scores.charts(job, summaries, _, save)
  for _, groups in ipairs(by_entry(job, summaries)) do
    local m = groups.m
    if all_at_percentiles(groups) then
      save(percentile_lines(m, groups), "score", m.definition.title)
    else
      for _, group in ipairs(groups) do save(dots(job, group), "score", m.definition.title or group[1].metric) end
    end
  end
end

-- ---- curves and pictures of single images -------------------------------------------------------------------------

-- A curve with the points of another one of the same name, in the order of x.
local function merge(series, x, y)
  local at = {}
  for i, v in ipairs(series.x) do at[v] = series.y[i] end
  for i, v in ipairs(x) do at[v] = at[v] or y[i] end
  series.x, series.y = {}, {}
  for v in pairs(at) do table.insert(series.x, v) end
  table.sort(series.x)
  for i, v in ipairs(series.x) do series.y[i] = at[v] end
end

-- The curves of one image, one chart a family of metrics (those that share what is removed): methods in colors.
local function curve_charts(entries, exhibits)
  local charts, of = {}, {}
  for i, e in ipairs(entries) do
    for _, x in ipairs(exhibits[e.set] or {}) do
      if x.kind == "curve" then
        local family = x.family .. "\0" .. x.unit
        if not of[family] then
          of[family] = { title = x.family, series = {}, x_label = x.x_label, y_label = "score (" .. x.unit .. ")",
            named = {} }
          charts[#charts + 1] = of[family]
        end
        local chart, label = of[family], (#entries > 1 and e.label .. ", " or "") .. x.name
        if chart.named[label] then
          merge(chart.named[label], x.x, x.y)
        else
          chart.named[label] = { label = label, x = x.x, y = x.y, dash = x.dashed and 3 or nil,
            color = figure.series_color(#entries > 1 and i or #chart.series + 1) }
          table.insert(chart.series, chart.named[label])
        end
      end
    end
  end
  return charts
end

-- The entries whose pictures are shown: methods; baselines only where there is nothing else.
local function pictured(entries, exhibits)
  local methods, all = {}, {}
  for _, e in ipairs(entries) do
    local has = false
    for _, x in ipairs(exhibits[e.set] or {}) do has = has or x.kind == "picture" end
    if has then all[#all + 1] = e end
    if has and not e.method.baseline then methods[#methods + 1] = e end
  end
  return #methods > 0 and methods or all
end

-- A row per method and order of removal, its pictures by share.
local function picture_rows(entries, exhibits)
  local rows, wanted = {}, pictured(entries, exhibits)
  for _, e in ipairs(wanted) do
    local of = {}
    for _, x in ipairs(exhibits[e.set]) do
      if x.kind == "picture" and x.pixels then
        local key = x.row .. "\0" .. x.unit
        if not of[key] then
          of[key] = { label = (#wanted > 1 and e.label .. ": " or "") .. x.row, panels = {}, seen = {} }
          rows[#rows + 1] = of[key]
        end
        if not of[key].seen[x.name] then
          table.insert(of[key].panels, { pixels = x.pixels,
            title = { x.name, x.value and drawing.fixed(x.value, 2, true) or "unchanged" }, at = x.at })
        end
        of[key].seen[x.name] = true
      end
    end
  end
  for _, row in ipairs(rows) do table.sort(row.panels, function(a, b) return a.at < b.at end) end
  return rows, #wanted == 1 and wanted[1].label or nil
end

local function exhibit_figure(job, entries, number, exhibits)
  local charts, parts = curve_charts(entries, exhibits), {}
  local rows, whose = picture_rows(entries, exhibits)
  local across = #charts == 3 and 3 or 2
  for first = 1, #charts, across do
    local some = { table.unpack(charts, first, math.min(first + across - 1, #charts)) }
    parts[#parts + 1] = figure.lines { charts = some,
      width_pt = figure.page_pt * (#charts == 1 and 0.7 or #some / across), height_pt = 150 + 9 * #some[1].series }
  end
  if #parts == 0 and #rows == 0 then return nil end
  if #rows > 0 then
    parts[#parts + 1] = figure.panels { title = #entries > 1 and whose or nil, rows = rows, width_pt = figure.page_pt,
      most_pt = 84, caption = {
      "Pictures: the image with that share of its pixels removed, the most or the least relevant first, and imputed "
      .. "from their neighbors; under it the change of the score." } }
  end
  local name = tostring(job.split:item(number).path):match("[^/]+$")
  local record = job:record(entries[1], number)
  table.insert(parts, 1,
    figure.heading(string.format("%s: %s", name, require("medxai.explain.target").label(record.target))))
  return figure.stack(parts), name
end

--- One figure an image (of those whose exhibits were kept): curves, and the imputed pictures.
function scores.removal(job, _, asked, save)
  for _, number in ipairs(asked.chosen) do
    local exhibits = job.exhibits and job.exhibits[number]
    for first = 1, exhibits and #job.entries or 0, exhibit_entries do
      local entries = { table.unpack(job.entries, first, math.min(first + exhibit_entries - 1, #job.entries)) }
      local d, name = exhibit_figure(job, entries, number, exhibits)
      if d then save(d, "removal", "What the metrics saw: " .. name) end
    end
  end
end

return scores
