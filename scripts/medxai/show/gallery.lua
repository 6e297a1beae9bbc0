-- The figures of an explain step, by kind: "rows", "grid" and "methods" of the maps (gallery_maps.lua), "table",
-- "charts" and "removal" of their scores (gallery_scores.lua), and what a method draws itself. Each is saved as PNG,
-- SVG and PDF. It refuses to draw more than the first 12 images (32 in a grid; said in the caption): maps/ holds them
-- all.
local album = require "medxai.show.album"
local canon = require "medxai.base.json"
local check = require "medxai.base.check"
local figure = require "medxai.show.figure"
local host = require "medxai.host"
local maps = require "medxai.show.gallery_maps"
local metric = require "medxai.score.registry"
local scores = require "medxai.show.gallery_scores"
local torch = require "medxai.torch"

local gallery = {}

local most_images, most_exhibits = 12, 3
local usual = { "rows", "own", "table", "charts", "removal" }
local kinds = { "rows", "grid", "methods", "own", "table", "charts", "removal" }
gallery.all_kinds = kinds

--- The kinds of figures asked for: true gives the usual ones, false none, a list those.
---@param asked boolean|string|table
---@return string[]
function gallery.kinds(asked)
  if asked == false then return {} end
  if asked == true or asked == nil then return usual end
  local list = type(asked) == "string" and { asked } or asked
  for _, name in ipairs(list) do check.known("explain", "figure", name, kinds) end
  return list
end

--- Of which images a metric is to keep curves and pictures: { [sample number] = {} }, nil where none are drawn.
function gallery.wanted(chosen, asked_kinds)
  local wanted
  for _, kind in ipairs(asked_kinds) do
    if kind == "removal" then wanted = {} end
  end
  for i = 1, wanted and math.min(most_exhibits, #chosen) or 0 do wanted[chosen[i]] = {} end
  return wanted
end

-- ---- figures that a method draws itself --------------------------------------------------------------------------

--- What method.draw(page) gets: the maps of one entry and what they were made of.
---@class medxai.Page
---@field entry table method, label, options, layers, set
---@field numbers integer[] the images to draw, at most 12
---@field classes string[]
---@field colors string the experiment's choice of colors
local Page = {}
Page.__index = Page

--- The image as the network sees it, (3, H, W) in [0, 1].
function Page:image(number)
  return maps.image(self.job.split, number)
end

--- File, path, label, patient ... of an image.
function Page:item(number) return self.job.split:item(number) end

--- The record of an image's map: target, status, facts, settings.
function Page:record(number) return self.job:record(self.entry, number) end

--- The map (H, W) in [0, 1]; nil where the method failed.
function Page:map(number) return self.job.store:map(self:record(number)) end

--- An array that the method left beside its map; nil where there is none.
function Page:array(number, name)
  local path = string.format("%s/maps/%s/%s.%s.npy", self.job.run.dir, self.entry.set, self:item(number).id, name)
  return require("medxai.base.files").exists(path) and torch.load_npy(path) or nil
end

--- Saves a drawing (of figure.panels and the like) as PNG, SVG and PDF; it also appears in the report.
---@param name string part of the file's name, unlike the method's other figures
---@param drawing table
---@param title? string
function Page:save(name, drawing, title)
  self.keep(drawing, self.entry.set .. "-" .. name, title or self.entry.label)
end

-- A figure that fails costs no map: what a researcher's method cannot draw is told.
local function method_figures(job, numbers, asked, keep)
  for _, e in ipairs(job.entries) do
    if e.method.draw then
      local scope <close> = require("medxai.core").memory.scope()
      local page = setmetatable({ job = job, entry = e, numbers = numbers, classes = job.model.classes,
        colors = asked.colors, keep = keep }, Page)
      local draw = e.method.draw -- of the library's own: the name of a file of this room
      if type(draw) == "string" then draw = require("medxai.show." .. draw).draw end
      local ok, problem = pcall(draw, page)
      if host.interrupted() then error("interrupted", 0) end
      if not ok and not e.method.own then error(problem, 0) end
      if not ok then
        job.run:warn(string.format("explain: %s could not draw its figures: %s", e.label, tostring(problem)))
      end
    end
  end
end

-- ---- all of them --------------------------------------------------------------------------------------------------

-- set -> image id -> values of the metrics that give one number: what is written over a panel.
local function panel_values(job, rows)
  local values = {}
  for _, row in ipairs(rows) do
    local m = job.by_metric[row.metric]
    if not m.names then
      values[row.maps] = values[row.maps] or {}
      values[row.maps][row.image_id] = values[row.maps][row.image_id] or {}
      table.insert(values[row.maps][row.image_id],
        { title = m.definition.title or m.name, value = row.value, signed = m.definition.signed })
    end
  end
  return values
end

-- A metric's unit for each of the entries, those that differ by name: "logit (probability: LIME)".
local function units(job, m)
  local first, others, of = metric.unit(m, job.entries[1].description.as) or "value", {}, {}
  for _, e in ipairs(job.entries) do
    local unit = metric.unit(m, e.description.as) or "value"
    if unit ~= first then
      if not of[unit] then
        of[unit] = {}
        others[#others + 1] = unit
      end
      table.insert(of[unit], e.label)
    end
  end
  for i, unit in ipairs(others) do others[i] = unit .. ": " .. table.concat(of[unit], ", ") end
  return first .. (#others > 0 and " (" .. table.concat(others, "; ") .. ")" or "")
end

-- What the numbers over the panels are.
local function metric_sentences(job)
  local words, list = {}, {}
  for _, m in ipairs(job.metric_entries) do
    if not m.names and #words < 2 then words[#words + 1] = string.format("%s: %s, %s", m.id, units(job, m),
      metric.better(m.definition.direction)) end
  end
  if #words > 0 then list[1] = table.concat(words, "; ") .. "." end
  return list
end

-- Names files by step, kind and number, and collects what is drawn.
local function saver(job, asked, out)
  local counts = {}
  require("medxai.base.files").mkdir(job.run.dir .. "/figures")
  return function(drawing, kind, title)
    counts[kind] = (counts[kind] or 0) + 1
    local name = string.format("%s-%s", asked.name, kind) .. (kind:find("%-") and "" or "-" .. counts[kind])
    local base = "figures/" .. name
    figure.save(drawing, job.run.dir .. "/" .. base, { title = title })
    out[#out + 1] = { name = name, kind = kind, title = title, svg = base .. ".svg",
      paths = canon.list { base .. ".png", base .. ".svg", base .. ".pdf" } }
  end
end

-- What the page's viewer shows of the chosen images.
local function viewed(job, chosen)
  local list = {}
  for i, number in ipairs(chosen) do
    list[i] = { id = job.split:item(number).id, pixels = function() return maps.image(job.split, number) end }
  end
  return list
end

--- Draws and saves. asked: name, colors, scale, kinds, rows (of the scores).
---@param job medxai.ExplainJob
---@return table list of { name, kind, title, svg, paths }
function gallery.draw(job, summaries, asked)
  local chosen = job.chosen
  local out, numbers = canon.list {}, { table.unpack(chosen, 1, most_images) }
  local save = saver(job, asked, out)
  if #asked.kinds > 0 then album.save_pictures(job.run.dir, viewed(job, chosen)) end
  local mask
  for _, m in ipairs(job.metric_entries) do mask = mask or m.mask end
  local a = { colors = asked.colors, scale = asked.scale, mask = mask, chosen = chosen, all = #chosen,
    values = panel_values(job, asked.rows), metric_sentences = metric_sentences(job) }
  for _, kind in ipairs(asked.kinds) do
    if host.interrupted() then error("interrupted", 0) end
    if maps[kind] then
      a.shared = a.shared or asked.scale == "shared" and maps.shared_maxima(job, numbers) or nil
      maps[kind](job, numbers, a, save)
    elseif kind == "own" then method_figures(job, numbers, asked, save)
    elseif #summaries > 0 then scores[kind](job, summaries, a, save) end
  end
  return out
end

return gallery
