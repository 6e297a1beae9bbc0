-- The overlap with radiologists' masks in a report: what was judged, a table of methods and metrics with the difference
-- to the best baseline, strata of size and correctness folded away, figures.
-- It refuses to show a difference without its interval and corrected p-value.
local drawing = require "medxai.show.drawing"
local files = require "medxai.base.files"
local html = require "medxai.show.html"
local tables = require "medxai.score.overlap_tables"

local overlap = {}

local text = html.text

local function fixed(v) return v == v and (drawing.fixed(v, 3)) or "undefined" end

local function cell_text(c)
  if c.n == 0 then return "" end
  return fixed(c.mean) .. (c.low == c.low and string.format('<br><span class="note">[%s, %s]</span>', fixed(c.low),
    fixed(c.high)) or "")
end

-- One metric: methods down; mean, chance, images, difference to the best baseline.
local function put_metric(page, pen, t)
  local rows, chance = {}, false
  for _, line in ipairs(t.lines) do chance = chance or line.all.chance == line.all.chance end
  for i, line in ipairs(t.lines) do
    rows[i] = { text(line.method) .. (line.baseline and ' <span class="note">baseline</span>' or ""),
      cell_text(line.all) }
    if chance then table.insert(rows[i], line.all.chance == line.all.chance and fixed(line.all.chance) or "") end
    table.insert(rows[i], tostring(line.all.n))
    table.insert(rows[i], text(tables.difference_text(line)))
  end
  local columns = { { "method" }, { "mean", numeric = true } }
  if chance then columns[#columns + 1] = { "chance", numeric = true } end
  columns[#columns + 1] = { "images", numeric = true }
  columns[#columns + 1] = { t.best and "minus " .. t.best or "" }
  pen.put(page, '<h4>%s <span class="note">%s</span></h4>%s', text(t.title), text(t.metric),
    (html.table(columns, rows)))
end

local function put_strata(page, pen, t, names)
  local columns, rows = { { "method" } }, {}
  for _, name in ipairs(names) do columns[#columns + 1] = { name, numeric = true } end
  for i, line in ipairs(t.lines) do
    rows[i] = { text(line.method) }
    for s, c in ipairs(line.strata) do
      rows[i][s + 1] = cell_text(c) .. (c.n > 0 and string.format('<br><span class="note">n = %d</span>', c.n) or "")
    end
  end
  pen.put(page, '<h4>%s <span class="note">%s</span></h4>%s', text(t.title), text(t.metric),
    (html.table(columns, rows)))
end

--- Puts every overlap step of the page. pen: put(page, format, ...), figure(page, svg, caption).
function overlap.put(page, pen)
  for _, step in ipairs(page.overlaps) do
    local r = step.result
    pen.put(page, "<h3>%s</h3>", text(tables.heading(r)))
    if r.title then pen.put(page, "<p>%s</p>", text(tables.subject(r))) end
    if step.earlier then pen.put(page, "<p><em>From an earlier form of the experiment.</em></p>") end
    for _, sentence in ipairs(tables.sentences(r)) do pen.put(page, "<p>%s</p>", text(sentence)) end
    for _, t in ipairs(r.tables) do put_metric(page, pen, t) end
    pen.put(page, '<p class="note">Differences are paired by image, p by random signs with Holm\'s correction over '
      .. 'methods; ' .. 'the best baseline is the one with the best mean over images on which all are defined. '
      .. 'Every image: <a href="overlap.csv">overlap.csv</a>.</p>')
    pen.put(page, "<details><summary>By size of the finding and by prediction</summary>")
    for _, t in ipairs(r.tables) do put_strata(page, pen, t, r.strata) end
    pen.put(page, "</details>")
    pen.put(page, '<div class="pair">')
    for _, f in ipairs(r.figures or {}) do
      local svg = files.read(page.dir .. "/" .. f.svg)
      if svg then
        pen.figure(page, svg, text(f.title or ""))
      else
        pen.put(page, '<p class="note">%s is missing.</p>', text(f.svg))
      end
    end
    pen.put(page, "</div>")
  end
end

return overlap
