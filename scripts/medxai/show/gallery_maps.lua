-- The figures of maps: rows (an image, then each method's overlay), a grid (one small overlay per image, wrong
-- predictions framed), and a page of methods for one image, each with its time and scores. A map that is not "ok" is
-- labeled as such on its panel; every caption says how maps were scaled.
local drawing = require "medxai.show.drawing"
local figure = require "medxai.show.figure"
local honesty = require "medxai.explain.diagnostics"
local map = require "medxai.explain.map"
local target = require "medxai.explain.target"

local maps = {}

local rows_a_page, most_columns, grid_columns, grid_most, page_columns = 4, 5, 8, 32, 3
local WRONG = 0xc62828

-- ---- pieces -----------------------------------------------------------------------------------------------------

--- The image as the network sees it, (3, H, W) brought into [0, 1] for looking at.
function maps.image(split, number)
  local batch = split:batch { number }
  local x = require("medxai.explain.context").pixels(batch.x, split):select(0, 0):to { dtype = "float32" }
  local lo, hi = x:min():item(), x:max():item()
  if lo >= 0 and hi <= 1 then return x end
  return hi > lo and (x - lo) / (hi - lo) or x:zeros_like()
end

-- How a method's maps are drawn: "overlay"; "detail": fine signed maps as pictures of their own; "masked": the image
-- under a mask.
local function style(e) return e.method.picture or "overlay" end

-- The map as drawn: own scale as stored; shared scale from the raw values, all maps of an entry over one maximum.
local function drawn_map(job, e, record, shared)
  local made = job.store:map(record)
  if not made or not shared then return made end
  return map.strength(job.store:raws(record), made:size(0), made:size(1),
    record.views) / (shared[e.set] > 0 and shared[e.set] or 1)
end

--- The largest raw value of each entry over the images, for the shared scale.
function maps.shared_maxima(job, numbers)
  local maxima = {}
  for _, e in ipairs(job.entries) do
    maxima[e.set] = 0
    for _, number in ipairs(numbers) do
      local scope <close> = require("medxai.core").memory.scope()
      local record = job:record(e, number)
      if record.status == "ok" then
        maxima[e.set] = math.max(maxima[e.set], drawn_map(job, e, record, { [e.set] = 1 }):max():item())
      end
    end
  end
  return maxima
end

-- Of the views of an augmented raw map the one of the image as it is.
local function unaugmented(raw, views)
  for v, view in ipairs(views or {}) do
    if not view.flip and view.factor == 1 then return raw:select(0, v - 1) end
  end
  return raw
end

local function pixels_of(job, e, record, image, asked)
  local made = drawn_map(job, e, record, asked.shared)
  if not made or map.empty[record.status] then return figure.pixels(image) end
  if style(e) == "masked" then return figure.pixels(image * made) end
  if style(e) == "detail" then return figure.detail(unaugmented(job.store:raws(record)[1], record.views), e.compat) end
  return asked.colors == "jet" and figure.overlay_reference(image, made) or figure.tint(image, made, asked.colors, 0, 1)
end

local function duration(seconds)
  return seconds < 0.0995 and string.format("%.0f ms", 1000 * seconds)
    or string.format(seconds < 99.5 and "%.2g s" or "%.0f s", seconds)
end

-- "ROAD combined +0.41": the values of metrics that give one number, at most two.
local function score_lines(asked, record)
  local lines = {}
  for _, v in ipairs((asked.values[record.maps] or {})[record.image_id] or {}) do
    if #lines < 2 then lines[#lines + 1] = v.title .. " " .. drawing.fixed(v.value, 2, v.signed) end
  end
  return lines
end

-- What stands over a panel by the method's own words: that the map is an approximation, how far to believe a sampled
-- one.
local function remarks(e, record)
  local facts, lines = record.facts or {}, honesty.of(e.method, record)
  if facts.approximation then table.insert(lines, 1, "approximation: " .. tostring(facts.approximation)) end
  return lines
end

local function panel(job, e, number, image, mask, asked, lines)
  local record = job:record(e, number)
  local status = map.explain_status(record.status)
  if e.mark then status = (status and status .. "; " or "") .. e.mark end
  local p = { title = lines, status = status, pixels = pixels_of(job, e, record, image, asked) }
  for _, line in ipairs(score_lines(asked, record)) do lines[#lines + 1] = line end
  for _, line in ipairs(remarks(e, record)) do lines[#lines + 1] = line end
  if mask then p.pixels = figure.outline(p.pixels, mask) end
  return p
end

-- File name, prediction, and whether it is wrong.
local function about(job, number, e)
  local item = job.split:item(number)
  local label = item.label and job.model.classes[item.label + 1] or nil
  label = item.findings_text or label
  local t = job:record(e, number).target
  return { name = tostring(item.name or item.path or item.id):match("[^/]+$"), label = label, predicted = t.predicted,
    confidence = t.confidence, wrong = item.label ~= nil and t.predicted ~= label }
end

local function mask_of(job, number, asked) return asked.mask and job.split:mask(number, asked.mask) or nil end

-- The k-th of the fewest even parts of n things, at most `most` each: first and last.
local function even_part(k, n, most)
  local parts = math.ceil(n / most)
  return (k - 1) * n // parts + 1, k * n // parts
end

-- ---- captions ---------------------------------------------------------------------------------------------------

local function layers_of(entries)
  local layers, seen = {}, {}
  for _, e in ipairs(entries) do
    local text = e.layers and table.concat(e.layers, " + ")
    if text and not seen[text] then layers[#layers + 1] = text end
    if text then seen[text] = true end
  end
  return layers
end

local function titles_of(entries, wanted)
  local list, seen = {}, {}
  for _, e in ipairs(entries) do
    if style(e) == wanted and not seen[e.method.title] then
      list[#list + 1] = e.method.title
      seen[e.method.title] = true
    end
  end
  return #list > 0 and table.concat(list, ", ") or nil
end

local function scale_sentences(entries, asked)
  local texts, detail, masked = {}, titles_of(entries, "detail"), titles_of(entries, "masked")
  if titles_of(entries, "overlay") then
    texts[1] = (asked.scale == "own" and "Own scale: each map runs from 0 to its own maximum; maps cannot be "
      .. "compared in strength."
      or "Shared scale: the maps of a method run from 0 to their largest value over these images.")
      .. (asked.colors == "jet" and " Overlay: half image, half JET, stretched to full brightness."
        or " Overlay: the more opaque the higher, up to 60 % from half of the scale on.")
  end
  if detail then
    texts[#texts + 1] = detail .. ": signed values, each map brought to mean 0.5 and deviation 0.1; lighter speaks "
      .. "for, darker against."
  end
  if masked then texts[#texts + 1] = masked .. ": the image multiplied by the mask." end
  return texts
end

-- Sentences under a figure. entries: those drawn; drawn of all images.
local function caption(job, entries, drawn, all, asked)
  local layers = layers_of(entries)
  local texts = { string.format("%s, %s split. Target: %s%s.", job.model.name, job.split.name,
    entries[1].description.text, #layers > 0 and (#layers == 1 and "; layer " or "; layers ")
    .. table.concat(layers, ", ") or "") }
  for _, text in ipairs(scale_sentences(entries, asked)) do texts[#texts + 1] = text end
  for _, sentence in ipairs(asked.metric_sentences) do texts[#texts + 1] = sentence end
  if asked.mask then texts[#texts + 1] = string.format("White outline: %s mask.", asked.mask) end
  if all > drawn then texts[#texts + 1] = string.format("First %d of %d explained images.", drawn, all) end
  return texts
end

local function bars_of(entries, asked)
  return titles_of(entries, "overlay")
    and { { colors = asked.colors, lo = 0, hi = 1, label = "share of maximum", tint = asked.colors ~= "jet" } } or {}
end

-- The labels over columns. Where all are of one method (its layers, say), what they have in common is the second
-- result.
local function labels(entries)
  local list, common = {}, #entries > 1 and entries[1].title or nil
  for i, e in ipairs(entries) do
    list[i] = e.label
    if common and (e.title ~= common or #e.label <= #common + 2) then common = nil end
  end
  for i, label in ipairs(common and list or {}) do list[i] = label:sub(#common + 3) end
  return list, common
end

-- ---- rows -------------------------------------------------------------------------------------------------------

local function image_row(job, entries, number, asked)
  local scope <close> = require("medxai.core").memory.scope()
  local image, mask, it = maps.image(job.split, number), mask_of(job, number, asked), about(job, number, entries[1])
  local row = { label = it.label, panels = { { pixels = figure.pixels(image), warn = it.wrong,
    title = { it.name, string.format("predicted %s, %.2f%s", it.predicted, it.confidence,
      it.wrong and " (wrong)" or "") } } } }
  for _, e in ipairs(entries) do
    row.panels[#row.panels + 1] = panel(job, e, number, image, mask, asked,
      { target.label(job:record(e, number).target) })
  end
  return row
end

--- A row per image: the image, then each method. Pages of rows and columns that fit a journal's page.
function maps.rows(job, numbers, asked, save)
  for part = 1, math.ceil(#job.entries / most_columns) do
    local entries = { table.unpack(job.entries, even_part(part, #job.entries, most_columns)) }
    for page = 1, math.ceil(#numbers / rows_a_page) do
      local rows = {}
      local first, last = even_part(page, #numbers, rows_a_page)
      for k = first, last do rows[#rows + 1] = image_row(job, entries, numbers[k], asked) end
      local headings, common = labels(entries)
      local name = (common and common .. ": " or "") .. table.concat(headings, ", ")
      table.insert(headings, 1, "image")
      local d = figure.panels { title = common, rows = rows, headings = headings, bars = bars_of(entries, asked),
        caption = caption(job, entries, #numbers, asked.all, asked), most_pt = 132,
        width_pt = #entries == 1 and 320 or nil }
      save(d, "maps", "Maps: " .. name)
    end
  end
end

-- ---- grid -------------------------------------------------------------------------------------------------------

local function grid_panel(job, e, number, asked)
  local scope <close> = require("medxai.core").memory.scope()
  local it = about(job, number, e)
  local p = panel(job, e, number, maps.image(job.split, number), mask_of(job, number, asked), asked,
    { string.format("%s %.2f", it.predicted, it.confidence) })
  if it.wrong then
    p.warn, p.frame = true, WRONG
    table.insert(p.title, 2, "true: " .. it.label)
  end
  return p
end

--- One figure per method: a small overlay of each image under its prediction; wrong ones have a red frame and the true
--- class.
function maps.grid(job, _, asked, save)
  local numbers = { table.unpack(asked.chosen, 1, grid_most) }
  for _, e in ipairs(job.entries) do
    local rows, wrong, known = {}, 0, 0
    for i, number in ipairs(numbers) do
      local p = grid_panel(job, e, number, asked)
      if p.frame then wrong = wrong + 1 end
      if job.split:item(number).label then known = known + 1 end
      if (i - 1) % grid_columns == 0 then rows[#rows + 1] = { panels = {} } end
      table.insert(rows[#rows].panels, p)
    end
    local texts = caption(job, { e }, #numbers, asked.all, asked)
    table.insert(texts, 2, string.format("Over each map: predicted class and its probability. %s",
      known == 0 and "The true classes are unknown."
      or string.format("Red frame: wrong (%d of %d).", wrong, known)))
    local d = figure.panels { rows = rows, title = e.label, bars = bars_of({ e }, asked), caption = texts,
      width_pt = figure.page_pt }
    save(d, "grid", "Grid: " .. e.label)
  end
end

-- ---- methods ----------------------------------------------------------------------------------------------------

local function methods_page(job, number, asked)
  local scope <close> = require("medxai.core").memory.scope()
  local image, mask, it, rows = maps.image(job.split, number), mask_of(job, number, asked),
    about(job, number, job.entries[1]), {}
  for i, e in ipairs(job.entries) do
    if (i - 1) % page_columns == 0 then rows[#rows + 1] = { panels = {} } end
    local record = job:record(e, number)
    local p = panel(job, e, number, image, mask, asked, { duration(record.seconds or 0) })
    p.heading = e.label
    table.insert(rows[#rows].panels, p)
  end
  local t = job:record(job.entries[1], number).target
  local title = string.format("%s: %s", it.name, target.label(t))
  local texts = caption(job, job.entries, 1, 1, asked)
  table.insert(texts, 2, string.format("True class: %s; predicted: %s, %.2f%s. Time: of this map alone with its "
    .. "passes, as a share of its batch.", it.label or "unknown", it.predicted, it.confidence,
    it.wrong and " (wrong)" or ""))
  return figure.panels { rows = rows, title = title, bars = bars_of(job.entries, asked), caption = texts,
    width_pt = 300, most_pt = 132 }, it.name
end

--- One page per image: every method's map of it, three in a row, with its time and the scores of this image and target.
function maps.methods(job, numbers, asked, save)
  for _, number in ipairs(numbers) do
    local d, name = methods_page(job, number, asked)
    save(d, "methods", "Methods: " .. name)
  end
end

return maps
