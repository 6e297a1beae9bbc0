-- The figures of an explain step: a row an image (the image, then each method's overlay with class and probability), pages
-- of rows that all fit a journal page, what a method draws itself, and a chart of each metric with its intervals and chance
-- level.
-- It refuses to draw more than the first 12 images (said in the caption): maps/ holds them all.
local canon = require "medxai.canon"
local figure = require "medxai.figure"
local host = require "medxai.host"
local map = require "medxai.map"
local target = require "medxai.target"
local torch = require "medxai.torch"

local gallery = {}

local most_images, rows_a_page, most_columns = 12, 4, 5

-- The image as the network sees it, brought into [0, 1] for looking at.
local function viewable(x)
  local lo, hi = x:min():item(), x:max():item()
  if lo >= 0 and hi <= 1 then return x end
  return hi > lo and (x - lo) / (hi - lo) or x:zeros_like()
end

-- The map as drawn: own scale as stored; shared scale from the raw values, all maps of an entry over one maximum.
local function drawn_map(job, e, record, shared)
  local made = job.store:map(record)
  if not made or not shared then return made end
  return map.strength(job.store:raws(record), made:size(0), made:size(1), record.views) / math.max(shared[e.set], 1e-30)
end

local function shared_maxima(job, numbers)
  local maxima = {}
  for _, e in ipairs(job.entries) do
    maxima[e.set] = 0
    for _, number in ipairs(numbers) do
      local scope <close> = require("medxai.core").memory.scope()
      local record = job.store.records[e.set .. "/" .. job.split:item(number).id]
      if record.status == "ok" then maxima[e.set] = math.max(maxima[e.set], drawn_map(job, e, record, { [e.set] = 1 }):max():item()) end
    end
  end
  return maxima
end

local function panel(job, e, record, image, mask, colours, shared)
  local made = drawn_map(job, e, record, shared)
  local p = { title = target.label(record.target), status = map.explain_status(record.status) }
  if made and record.status ~= "nan" then
    p.pixels = colours == "jet" and figure.overlay_reference(image, made) or figure.overlay(image, made, colours, 0, 1)
  else
    p.pixels = figure.overlay(image, torch.full({ image:size(1), image:size(2) }, 0 / 0), colours, 0, 1)
  end
  if mask then p.pixels = figure.outline(p.pixels, mask) end
  return p
end

local function image_row(job, entries, number, mask_name, colours, shared)
  local scope <close> = require("medxai.core").memory.scope()
  local item = job.split:item(number)
  local batch = job.split:batch { number }
  local image = viewable(require("medxai.context").pixels(batch.x, job.split):select(0, 0):to { dtype = "float32" })
  local mask = mask_name and job.split:mask(number, mask_name) or nil
  local label = item.label and job.model.classes[item.label + 1] or nil
  local first = job.store.records[entries[1].set .. "/" .. item.id].target
  local wrong = label ~= nil and first.predicted ~= label
  local name = tostring(item.name or item.path or item.id):match("[^/]+$")
  local row = { label = label, panels = { { pixels = figure.pixels(image), warn = wrong,
    title = { name, string.format("predicted %s, %.2f%s", first.predicted, first.confidence, wrong and " (wrong)" or "") } } } }
  for _, e in ipairs(entries) do
    row.panels[#row.panels + 1] = panel(job, e, job.store.records[e.set .. "/" .. item.id], image, mask, colours, shared)
  end
  return row
end

local function headings(entries)
  local list = { "image" }
  for _, e in ipairs(entries) do list[#list + 1] = e.label end
  return list
end

-- The k-th of the fewest even parts of n things, at most `most` each: first and last.
local function even_part(k, n, most)
  local parts = math.ceil(n / most)
  return (k - 1) * n // parts + 1, k * n // parts
end

local function caption(job, entries, drawn, all, asked, mask_name)
  local layers, seen = {}, {}
  for _, e in ipairs(entries) do
    local text = e.layers and table.concat(e.layers, " + ")
    if text and not seen[text] then layers[#layers + 1] = text end
    if text then seen[text] = true end
  end
  local texts = { string.format("%s, %s split. Target: %s%s.", job.model.name, job.split.name, entries[1].description.text,
    #layers > 0 and "; layer " .. table.concat(layers, ", ") or "") }
  texts[2] = asked.scale == "own" and "Own scale: each map runs from 0 to its own maximum; maps cannot be compared in strength."
    or "Shared scale: the maps of a method run from 0 to their largest value over these images."
  texts[2] = texts[2] .. (asked.colours == "jet" and " Overlay: half image, half JET, stretched to full brightness." or " Overlay: half grey image, half map.")
  if mask_name then texts[#texts + 1] = string.format("White outline: %s mask.", mask_name) end
  if all > drawn then texts[#texts + 1] = string.format("First %d of %d explained images.", drawn, all) end
  return texts
end

local function save(job, drawing, name, title)
  local base = "figures/" .. name
  require("medxai.files").mkdir(job.run.dir .. "/figures")
  figure.save(drawing, job.run.dir .. "/" .. base, { title = title })
  return { name = name, title = title, svg = base .. ".svg", paths = canon.list { base .. ".png", base .. ".svg", base .. ".pdf" } }
end

local function maps_figures(job, chosen, asked, out)
  local mask_name
  for _, m in ipairs(job.metric_entries) do mask_name = mask_name or m.mask end
  local numbers = { table.unpack(chosen, 1, most_images) }
  local shared = asked.scale == "shared" and shared_maxima(job, numbers) or nil
  for part = 1, math.ceil(#job.entries / most_columns) do
    local entries = { table.unpack(job.entries, even_part(part, #job.entries, most_columns)) }
    for page = 1, math.ceil(#numbers / rows_a_page) do
      local rows = {}
      local first, last = even_part(page, #numbers, rows_a_page)
      for k = first, last do
        rows[#rows + 1] = image_row(job, entries, numbers[k], mask_name, asked.colours, shared)
      end
      local d = figure.panels { rows = rows, headings = headings(entries), bars = { { colours = asked.colours, lo = 0, hi = 1, label = "share of maximum" } },
        caption = caption(job, entries, #numbers, #chosen, asked, mask_name), most_pt = 132, width_pt = #entries == 1 and 320 or nil }
      out[#out + 1] = save(job, d, string.format("%s-maps-%d", asked.name, #out + 1), "Maps: " .. table.concat(headings(entries), ", ", 2))
    end
  end
end

local function metric_figures(job, summaries, asked, out)
  local by_metric, order = {}, {}
  for _, s in ipairs(summaries) do
    if not by_metric[s.metric] then
      by_metric[s.metric] = {}
      order[#order + 1] = s.metric
    end
    table.insert(by_metric[s.metric], s)
  end
  for k, id in ipairs(order) do
    local rows, first = {}, by_metric[id][1]
    for i, s in ipairs(by_metric[id]) do
      rows[i] = { label = s.label, value = s.mean, lo = s.low, hi = s.high, chance = s.chance, note = "undefined for every image" }
    end
    local definition = job.by_metric[id].definition
    local d = figure.dots { rows = rows, title = definition.title, x_label = definition.axis or definition.unit or id, caption = {
      string.format("%s; %s is better.", id, definition.direction or "higher"),
      string.format("Means with %d %% bootstrap intervals over %s (n = %d).", math.floor(100 * first.level + 0.5), first.resampled, first.n) } }
    out[#out + 1] = save(job, d, string.format("%s-score-%d", asked.name, k), definition.title)
  end
end

-- ---- figures that a method draws itself --------------------------------------------------------------------------

--- What method.draw(page) gets: the maps of one entry and what they were made of.
---@class medxai.Page
---@field entry table method, label, options, layers, set
---@field numbers integer[] the images to draw, at most 12
---@field classes string[]
---@field colours string the experiment's choice of colours
local Page = {}
Page.__index = Page

--- The image as the network sees it, (3, H, W) in [0, 1].
function Page:image(number)
  return viewable(require("medxai.context").pixels(self.job.split:batch({ number }).x, self.job.split):select(0, 0):to { dtype = "float32" })
end

--- File, path, label, patient ... of an image.
function Page:item(number) return self.job.split:item(number) end

--- The record of an image's map: target, status, facts, settings.
function Page:record(number) return self.job.store.records[self.entry.set .. "/" .. self:item(number).id] end

--- The map (H, W) in [0, 1]; nil where the method failed.
function Page:map(number) return self.job.store:map(self:record(number)) end

--- An array that the method left beside its map; nil where there is none.
function Page:array(number, name)
  local path = string.format("%s/maps/%s/%s.%s.npy", self.job.run.dir, self.entry.set, self:item(number).id, name)
  return require("medxai.files").exists(path) and torch.load_npy(path) or nil
end

--- Saves a drawing (of figure.panels and the like) as PNG, SVG and PDF; it also appears in the report.
---@param name string part of the file's name, unlike the method's other figures
---@param drawing table
---@param title? string
function Page:save(name, drawing, title)
  self.out[#self.out + 1] = save(self.job, drawing, string.format("%s-%s-%s", self.step, self.entry.set, name), title or self.entry.label)
end

-- A figure that fails costs no map: what a researcher's method cannot draw is told.
local function method_figures(job, chosen, asked, out)
  for _, e in ipairs(job.entries) do
    if e.method.draw then
      local scope <close> = require("medxai.core").memory.scope()
      local page = setmetatable({ job = job, entry = e, numbers = { table.unpack(chosen, 1, most_images) }, classes = job.model.classes, colours = asked.colours,
        step = asked.name, out = out }, Page)
      local ok, problem = pcall(e.method.draw, page)
      if host.interrupted() then error("interrupted", 0) end
      if not ok and not e.method.own then error(problem, 0) end
      if not ok then job.run:warn(string.format("explain: %s could not draw its figures: %s", e.label, tostring(problem))) end
    end
  end
end

--- Draws and saves; asked: name, colours, scale.
---@return table list of { name, title, svg, paths }
function gallery.draw(job, chosen, summaries, asked)
  local out = canon.list {}
  maps_figures(job, chosen, asked, out)
  method_figures(job, chosen, asked, out)
  metric_figures(job, summaries, asked, out)
  return out
end

return gallery
