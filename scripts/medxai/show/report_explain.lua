-- The explanations of a report: a section an explain step, with what became of its maps, a table of methods and
-- metrics, and its figures with links to their files.
-- It refuses to hide maps that are not ok: they are listed open, complete sets may be folded away.
local check = require "medxai.base.check"
local drawing = require "medxai.show.drawing"
local files = require "medxai.base.files"
local html = require "medxai.show.html"
local comparable = require("medxai.score.summary").comparable
local metric = require "medxai.score.registry"
local units = require "medxai.stats.units"

local explained = {}

local text, number = html.text, html.number

-- ---- maps -------------------------------------------------------------------------------------------------------

local function status_rows(statuses)
  local rows, any_bad = {}, false
  for i, s in ipairs(statuses) do
    local parts, bad = {}, false
    for _, status in ipairs(check.sorted_keys(s.counts)) do
      parts[#parts + 1] = string.format("%d %s", s.counts[status], (status:gsub("_", " ")))
      bad = bad or status ~= "ok"
    end
    rows[i] = { text(s.label or s.method), text(table.concat(s.layers or {}, " + ")), text(s.target or ""),
      text(table.concat(parts, ", ")), "<code>maps/" .. text(s.maps) .. "</code>", warn = bad }
    any_bad = any_bad or bad
  end
  return rows, any_bad
end

local function put_statuses(page, pen, statuses)
  local rows, bad = status_rows(statuses)
  local body = html.table({ { "method" }, { "layer" }, { "target" }, { "maps" }, { "files" } }, rows)
  pen.put(page, '<details%s><summary>%d method%s%s</summary>%s</details>', bad and " open" or "", #rows,
    #rows == 1 and "" or "s", bad and "; not every map is ok" or ", every map ok", body)
  for _, s in ipairs(statuses) do -- what sampled maps say of themselves
    for _, line in ipairs(s.honesty or {}) do
      pen.put(page, '<p class="note">%s: %s</p>', text(s.label or s.method), text(line))
    end
  end
end

-- ---- scores -----------------------------------------------------------------------------------------------------

local function fixed(v) return (drawing.fixed(v, 3)) end

-- Mean, and its interval in small.
local function score_cell(s)
  if s.n == 0 then return "undefined" end
  return fixed(s.mean) .. (s.low == s.low and string.format('<br><span class="note">[%s, %s]</span>', fixed(s.low),
    fixed(s.high)) or "")
end

-- "ROAD combined" and in small what its id adds: settings that are not the usual ones, unit and direction.
local function metric_words(first)
  local settings = metric.settings(first.metric)
  settings[#settings + 1] = string.format("%s, %s", first.unit or "value", metric.better(first.direction))
  return first.title or first.metric, table.concat(settings, ", ")
end

-- Methods by metrics; the fewer of the two stand across.
local function put_overview(page, pen, groups)
  local methods, seen, cells = {}, {}, {}
  for k, group in ipairs(groups) do
    cells[k] = {}
    for _, s in ipairs(group) do
      local key = s.label or s.method
      if not seen[key] then methods[#methods + 1] = key end
      seen[key], cells[k][key] = true, score_cell(s)
    end
  end
  local down, columns, rows = #groups > #methods, { { #groups > #methods and "metric" or "method" } }, {}
  for k, group in ipairs(groups) do
    local title, small = metric_words(group[1])
    if down then
      rows[k] = { text(title) .. '<br><span class="note">' .. text(small) .. "</span>" }
    else
      columns[k + 1] = { title .. ", " .. small, numeric = true }
    end
  end
  for i, key in ipairs(methods) do
    if down then columns[i + 1] = { key, numeric = true } else rows[i] = { text(key) } end
    for k in ipairs(groups) do rows[down and k or i][(down and i or k) + 1] = cells[k][key] or "" end
  end
  pen.put(page, "%s", html.table(columns, rows, "scores"))
end

local function detail_rows(pen, group)
  local rows = {}
  for i, s in ipairs(group) do
    local undefined = {}
    for _, why in ipairs(check.sorted_keys(s.undefined or {})) do
      undefined[#undefined + 1] = string.format("%d %s", s.undefined[why], why)
    end
    rows[i] = { text(s.label or s.method), number(s.mean, 3), pen.interval({ s.low, s.high }, 3), number(s.chance, 3),
      string.format("%s%s %s", s.above > 0 and "+" or "", number(s.above, 3),
        pen.interval({ s.above_low, s.above_high }, 3)), number(s.n), text(table.concat(undefined, ", ")) }
  end
  return rows
end

-- One metric in full: chance level, images, what was undefined.
local function put_detail(page, pen, group)
  local first, rows = group[1], detail_rows(pen, group)
  local chance, lost = false, false
  for i, s in ipairs(group) do chance, lost = chance or s.chance == s.chance, lost or rows[i][7] ~= "" end
  local columns, shown = { { "method" }, { "mean", numeric = true }, { "interval", numeric = true } }, { 1, 2, 3 }
  if chance then
    columns[#columns + 1], shown[#shown + 1] = { "chance", numeric = true }, 4
    columns[#columns + 1], shown[#shown + 1] = { "above chance", numeric = true }, 5
  end
  columns[#columns + 1], shown[#shown + 1] = { "images", numeric = true }, 6
  if lost then columns[#columns + 1], shown[#shown + 1] = { "undefined" }, 7 end
  local out = {}
  for i, row in ipairs(rows) do
    out[i] = {}
    for k, at in ipairs(shown) do out[i][k] = row[at] end
  end
  pen.put(page, "<h4>%s</h4>%s", text(string.format("%s (%s)", first.title or first.metric, first.metric)),
    (html.table(columns, out)))
  pen.put(page, '<p class="note">%s%s. Brackets: %s.%s</p>', first.unit and text(first.unit) .. "; " or "",
    metric.better(first.direction), text(units.words(group)),
    chance and " Chance is the value of a map that knows nothing." or "")
end

local function put_scores(page, pen, summaries)
  local groups = comparable(summaries)
  if #groups == 0 then return end
  if #groups > 1 then
    put_overview(page, pen, groups)
    pen.put(page, "<details><summary>Each metric in full</summary>")
  end
  for _, group in ipairs(groups) do put_detail(page, pen, group) end
  if #groups > 1 then pen.put(page, "</details>") end
end

-- ---- figures ----------------------------------------------------------------------------------------------------

local function put_figures(page, pen, figures)
  pen.put(page, '<div class="pair">')
  for _, f in ipairs(figures) do
    local svg = files.read(page.dir .. "/" .. f.svg)
    local links = {}
    for _, path in ipairs(f.paths or {}) do
      links[#links + 1] = string.format('<a href="%s">%s</a>', text(path), text((path:match("[^.]+$"):upper())))
    end
    local caption = text(f.title or "") .. " · " .. table.concat(links, " ")
    -- it stands above as text
    if f.kind == "scores" then pen.put(page, '<p class="note">The table as a figure: %s</p>', caption)
    elseif svg then pen.figure(page, svg, caption)
    else pen.put(page, '<p class="note">%s is missing.</p>', text(f.svg)) end
  end
  pen.put(page, "</div>")
end

local function title_of(result)
  if result.title then return result.title end
  local words = {}
  for i, s in ipairs(result.statuses or {}) do
    if i <= 4 then words[i] = s.label or s.method end
  end
  local more = #(result.statuses or {}) - #words
  return table.concat(words, ", ") .. (more > 0 and string.format(" and %d more", more) or "")
end

--- Puts every explain step of the page. pen: put(page, format, ...), interval(pair, decimals), figure(page, svg,
--- caption).
function explained.put(page, pen)
  for _, e in ipairs(page.explanations) do
    local r = e.result
    pen.put(page, "<h3>%s</h3>", text(title_of(r)))
    pen.put(page, "<p>%s image%s of the %s split%s.%s</p>", number(r.images or 0), r.images == 1 and "" or "s",
      text(r.split or ""), r.compat and ", as " .. text(r.compat) .. " computes it" or "",
      e.earlier and " <em>From an earlier form of the experiment.</em>" or "")
    put_statuses(page, pen, r.statuses or {})
    put_scores(page, pen, r.summaries or {})
    put_figures(page, pen, r.figures or {})
  end
end

return explained
