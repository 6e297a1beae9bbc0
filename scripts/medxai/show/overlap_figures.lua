-- The figures of run:overlap: maps with both contours (white: the radiologist's, magenta: the map's own, by Otsu);
-- the thesis' two 8 x 4 grids (overlays under their IoU; image, overlay, mask and overlay within the mask); scores by
-- size. It refuses to draw images without a finding, and baselines beside methods.
local canon = require "medxai.base.json"
local core = require "medxai.core"
local cuts = require "medxai.score.binarize"
local figure = require "medxai.show.figure"
local explain_status = require("medxai.explain.map").explain_status
local host = require "medxai.host"
local maps = require "medxai.show.gallery_maps"
local tiny = require("medxai.score.overlap_findings").tiny
local torch = require "medxai.torch"

local figures = {}

local most_methods, contour_rows, grid_columns, grid_rows, grid_cut = 3, 5, 8, 4, 95
local WHITE, MAGENTA = 0xffffff, 0xff2fd0

-- Methods that are no baselines, with their place among all entries.
local function drawn_entries(job)
  local list = {}
  for k, entry in ipairs(job.entries) do
    if not entry.baseline and #list < most_methods then list[#list + 1] = { place = k, entry = entry } end
  end
  return list
end

-- The first images with a finding that is large enough, as places in job.findings.
local function drawn_images(job, most)
  local list = {}
  for i, f in ipairs(job.findings) do
    if f.share and f.share >= tiny and #list < most then list[#list + 1] = i end
  end
  return list
end

local function record_of(job, i, k) return job.base.records[(i - 1) * #job.entries + k] end

local function map_of(job, i, k)
  local record = record_of(job, i, k)
  return record.files[1] and torch.load_npy(job.run.dir .. "/" .. record.files[1]) or nil
end

local function image_of(job, i) return maps.image(job.split, job.findings[i].number) end

local function mask_of(job, i) return job.split:mask(job.findings[i].number, job.mask):ne(0) end

-- From 0 to the map's own maximum, which the mean over views leaves below 1.
local function overlay(image, map)
  local top = map and map:max():item()
  return figure.tint(image, map or torch.full({ image:size(1), image:size(2) }, 0 / 0), "inferno", 0,
    top and top > 0 and top or 1)
end

-- "all negative" ... over a map that is not ok.
local function status_of(job, i, k) return explain_status(record_of(job, i, k).status) end

local function name_of(job, i)
  local item = job.findings[i].item
  return (tostring(item.name or item.path or item.id):match("[^/]+$"))
end

-- The value of a metric of one map: rows are long.
local function value_of(job, i, entry, pattern)
  for _, row in ipairs(job.rows) do
    if row.maps == entry.set and row.image_id == job.findings[i].item.id
        and row.metric:find(pattern) then return row.value end
  end
  return 0 / 0
end

local function is_scored(job, pattern)
  for _, row in ipairs(job.rows) do
    if row.metric:find(pattern) then return true end
  end
  return false
end

local function short(v) return v == v and string.format("%.2f", v) or "undefined" end

-- ---- both contours --------------------------------------------------------------------------------------------------

local function contour_panel(job, i, one)
  local made, mask = map_of(job, i, one.place), mask_of(job, i)
  local pixels, inside = overlay(image_of(job, i), made), made and cuts.inside(made, "otsu")
  if inside then pixels = figure.outline(pixels, inside, MAGENTA) end
  return { pixels = figure.outline(pixels, mask, WHITE),
    title = "IoU " .. short(inside and cuts.overlap(inside, mask).iou or 0 / 0),
    status = status_of(job, i, one.place) }
end

local function draw_contours(job, save)
  local entries, rows, headings = drawn_entries(job), {}, { "image" }
  for _, one in ipairs(entries) do headings[#headings + 1] = one.entry.label end
  for _, i in ipairs(drawn_images(job, contour_rows)) do
    local scope <close> = core.memory.scope()
    local record = record_of(job, i, 1)
    local row = { panels = { { pixels = figure.outline(figure.pixels(image_of(job, i)), mask_of(job, i), WHITE),
      title = { name_of(job, i), string.format("predicted %s, %.2f", record.target.predicted,
        record.target.confidence) } } } }
    for _, one in ipairs(entries) do row.panels[#row.panels + 1] = contour_panel(job, i, one) end
    rows[#rows + 1] = row
  end
  if #rows == 0 then return end
  save("contours", figure.panels { rows = rows, headings = headings, most_pt = 110,
    bars = { { colors = "inferno", lo = 0, hi = 1, label = "share of maximum", tint = true } }, caption = {
    string.format("White: %s mask. Magenta: the map cut by Otsu's threshold, with the IoU of both.", job.mask),
    "Each map runs from 0 to its own maximum." } }, "Overlap: both contours")
end

-- ---- the thesis' grids ----------------------------------------------------------------------------------------------

local iou_pattern = "^iou@.* percentile " .. grid_cut .. "$"

-- 32 overlays, each under its IoU; none where that was not asked for.
local function draw_titles(job, one, save)
  local rows = {}
  if not is_scored(job, iou_pattern) then return end
  for n, i in ipairs(drawn_images(job, grid_columns * grid_rows)) do
    local scope <close> = core.memory.scope()
    local row = rows[(n - 1) // grid_columns + 1] or { panels = {} }
    rows[(n - 1) // grid_columns + 1] = row
    row.panels[#row.panels + 1] = { pixels = figure.outline(overlay(image_of(job, i), map_of(job, i, one.place)),
      mask_of(job, i), WHITE), title = "IoU " .. short(value_of(job, i, one.entry, iou_pattern)),
      status = status_of(job, i, one.place) }
  end
  if #rows == 0 then return end
  save("iou-grid", figure.panels { rows = rows,
    caption = { string.format("%s. White: %s mask. IoU of the map's top %d %% with it.", one.entry.label, job.mask,
      100 - grid_cut) } },
    one.entry.label .. ": IoU with the " .. job.mask .. " mask")
end

-- Eight images: image, overlay, mask, overlay within the mask.
local function draw_within(job, one, save)
  local rows, has_energy = {}, is_scored(job, "^energy_inside@")
  for _, i in ipairs(drawn_images(job, grid_columns)) do
    local scope <close> = core.memory.scope()
    local image, mask = image_of(job, i), mask_of(job, i)
    local over = overlay(image, map_of(job, i, one.place))
    local h, w = mask:size(0), mask:size(1)
    local inside = mask:view({ h, w, 1 }):to { dtype = "uint8" }
    local within = torch.from_string(over.rgb, "uint8", { h, w, 3 }) * inside
    local white = (inside * 255):expand({ h, w, 3 }):contiguous()
    rows[#rows + 1] = { panels = { { pixels = figure.pixels(image), title = name_of(job, i) },
      { pixels = over, title = "", status = status_of(job, i, one.place) },
      { pixels = { rgb = white:data_string(), columns = w, rows = h },
        title = string.format("%.3g %% of the crop", 100 * job.findings[i].share) },
      { pixels = { rgb = within:contiguous():data_string(), columns = w, rows = h },
        title = has_energy and "energy inside " .. short(value_of(job, i, one.entry, "^energy_inside@")) or "" } } }
  end
  if #rows == 0 then return end
  save("within", figure.panels { rows = rows,
    headings = { "image", one.entry.label, job.mask .. " mask", "map within the mask" }, width_pt = 400, most_pt = 92,
    bars = { { colors = "inferno", lo = 0, hi = 1, label = "share of maximum", tint = true } } },
    one.entry.label .. " within the " .. job.mask .. " mask")
end

-- ---- by size --------------------------------------------------------------------------------------------------------

-- A chart of the first metric: each method in each stratum.
local function draw_strata(job, save)
  local t, rows = job.result.tables[1], {}
  if not t or t.sizes < 2 then return end
  for _, line in ipairs(t.lines) do
    for s = 1, t.sizes do
      local cell = line.strata[s]
      if cell.n > 0 then
        rows[#rows + 1] = { label = string.format("%s, %s (%d)", line.method, job.result.strata[s], cell.n),
          value = cell.mean, lo = cell.low, hi = cell.high, chance = cell.chance }
      end
    end
  end
  save("strata", figure.dots { rows = rows, title = t.title .. " by size of the finding", x_label = t.title,
    width_pt = 340, caption = { "Sizes are shares of the crop; number of images in brackets." } },
    "Overlap by size of the finding")
end

--- Draws and saves; returns the list of { name, title, svg, paths }.
---@param job table run, split, name, findings, entries, base, rows, result, mask
function figures.draw(job)
  local out = canon.list {}
  require("medxai.base.files").mkdir(job.run.dir .. "/figures")
  local function save(kind, drawing, title)
    local name = job.name .. "-" .. kind
    local base = "figures/" .. name
    figure.save(drawing, job.run.dir .. "/" .. base, { title = title })
    out[#out + 1] = { name = name, title = title, svg = base .. ".svg",
      paths = canon.list { base .. ".png", base .. ".svg", base .. ".pdf" } }
    if host.interrupted() then error("interrupted", 0) end
  end
  draw_contours(job, save)
  for n, one in ipairs(drawn_entries(job)) do
    local function numbered(kind, ...) save(kind .. "-" .. n, ...) end
    draw_titles(job, one, numbered)
    draw_within(job, one, numbered)
  end
  draw_strata(job, save)
  return out
end

return figures
