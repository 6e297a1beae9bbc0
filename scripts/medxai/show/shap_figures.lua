-- The figure of the SHAP methods, shap's image plot: a row per image, beside it the values of each explained class in
-- falling order of output, blue and red over the pale image, all over one diverging scale with its bar; what the map
-- says of itself under its name. It refuses a scale of each panel's own: classes and images could not be compared.
local drawing = require "medxai.show.drawing"
local figure = require "medxai.show.figure"
local honesty = require "medxai.explain.diagnostics"
local map = require "medxai.explain.map"
local percentile = require("medxai.perturb.pixel_order").percentile
local torch = require "medxai.torch"

local shap_figure = {}

local rows_a_page, most_pt = 6, 86 -- six rows fill a journal's page
local underlay = 0.15 -- shap's strength of the gray image under the values

local function outputs_of(page, number)
  local record = page:record(number)
  return record.facts and page:array(number, "outputs"), record
end

-- The 99.9th percentile of |value| over all classes of all images drawn, rounded up to two digits: one scale for the
-- whole figure.
local function scale_of(page)
  local all = {}
  for _, number in ipairs(page.numbers) do
    local values = outputs_of(page, number)
    if values then all[#all + 1] = values:abs():reshape(-1) end
  end
  if #all == 0 then return nil end
  local flat = torch.cat(all, 0)
  flat = flat:masked_select(flat:isfinite())
  if flat:numel() == 0 then return nil end
  local limit = math.max(percentile(flat, 99.9), 1e-30)
  local unit = 10.0 ^ (math.floor(math.log(limit, 10)) - 1)
  return math.ceil(limit / unit - 1e-9) * unit
end

-- Values (h, w) in blue and red, multiplied onto the pale gray image: where they are 0 the image shows.
local function value_pixels(image, values, limit)
  local height, width = image:size(1), image:size(2)
  if values:size(0) ~= height or values:size(1) ~= width then
    values = torch.upsample_nearest2d(values:view { 1, 1, values:size(0), values:size(1) },
      { height, width }):view { height, width }
  end
  local heat = figure.heat(values, "diverging", -limit, limit)
  local gray = image:select(0, 0) * 0.2989 + image:select(0, 1) * 0.587 + image:select(0, 2) * 0.114
  local base = (1 - underlay * (1 - gray:clamp(0, 1))):unsqueeze(2)
  local rgb = torch.from_string(heat.rgb, "uint8", { height, width, 3 }):to { dtype = "float32" } * base
  return { rgb = rgb:round():to { dtype = "uint8" }:contiguous():data_string(), columns = width, rows = height }
end

local function figure_row(page, number, limit)
  local scope <close> = require("medxai.core").memory.scope()
  local values, record = outputs_of(page, number)
  local image, item = page:image(number), page:item(number)
  local wrong = record.label ~= nil and record.label ~= record.target.predicted
  local titles = { (tostring(item.name or item.path or item.id):match("[^/]+$")) }
  if wrong then titles[2] = "predicted " .. record.target.predicted .. " (wrong)" end
  for _, text in ipairs(honesty.of(page.entry.method, record)) do titles[#titles + 1] = text end
  local status = not values and map.explain_status(record.status) or nil
  local row = { label = record.label,
    panels = { { pixels = figure.pixels(image), title = titles, warn = wrong, status = status } } }
  if not values then return row end
  for k, class in ipairs(record.facts.classes) do
    -- a long name must not push the number out
    local text = record.facts.output and { class, drawing.fixed(record.facts.output[k], 2) } or class
    row.panels[k + 1] = { pixels = value_pixels(image, values:select(0, k - 1):to { dtype = "float32" }, limit),
      title = text, status = map.empty[record.status] and map.explain_status(record.status) or nil }
  end
  return row
end

-- The bar in numbers that can be read: 3.1 with "× 10⁻⁵" in its label.
local function bar_of(limit)
  local power = math.floor(math.log(limit, 10))
  if power >= -2 and power <= 3 then return { colors = "diverging", lo = -limit, hi = limit, label = "SHAP value" } end
  local shown = limit / 10 ^ power
  return { colors = "diverging", lo = -shown, hi = shown,
    label = "SHAP value (× 10" .. drawing.superscript(power) .. ")" }
end

local function caption(page)
  local o = page.entry.options
  local list = { string.format("%s. Each image's classes by falling output, named with it. Red speaks for the "
    .. "class, blue against it.", page.entry.label),
    "One scale for all panels: the 99.9th percentile of |value| over these images and classes." }
  if o.removal then list[3] = "Hidden pixels show: " .. o.removal .. "." end
  return list
end

--- Draws every image's explained classes beside it; nothing where the method left none (several layers in one map).
---@param page medxai.Page
function shap_figure.draw(page)
  local limit = scale_of(page)
  if not limit then return end
  local all, pages = #page.numbers, math.ceil(#page.numbers / rows_a_page)
  for p = 1, pages do
    local rows = {}
    for k = (p - 1) * all // pages + 1, p * all // pages do
      rows[#rows + 1] = figure_row(page, page.numbers[k], limit)
    end
    local d = figure.panels { rows = rows, bars = { bar_of(limit) }, most_pt = most_pt, caption = caption(page) }
    page:save(string.format("values-%d", p), d, page.entry.label .. ": values of all classes")
  end
end

return shap_figure
