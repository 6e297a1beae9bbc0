-- The pictures of LIME's explanations. image_and_mask is lime's get_image_and_mask; draw makes the thesis' five for
-- each image in one figure: the top class's 5 features that speak for it; then for each class 5 that speak for it, 5 of
-- either sign, 10 with the rest hidden, and all weights as a diverging map, symmetric about 0.
-- It refuses to color what has no weight: features that the regression left out stay as they are.
local check = require "medxai.base.check"
local Options = require "medxai.base.options"
local figure = require "medxai.show.figure"
local honesty = require "medxai.explain.diagnostics"
local map = require "medxai.explain.map"
local regions = require "medxai.perturb.regions"
local torch = require "medxai.torch"

local pictures = {}

local colors = "diverging_r" -- red speaks against a class, as in lime's pictures beside it

pictures.spec = {
  positive_only = { "boolean", default = true, doc = "regions that speak for the class alone" },
  negative_only = { "boolean", default = false, doc = "regions that speak against it alone" },
  hide_rest = { "boolean", default = false, doc = "black where no chosen region lies" },
  num_features = { "integer", default = 5, min = 1, doc = "regions at most" },
  min_weight = { "number", default = 0, min = 0, doc = "least size of a region's weight" },
}

-- Features by |weight| descending: list of { label, weight }.
local function ordered(weights)
  local list = {}
  for k, w in ipairs(weights) do
    if w ~= 0 and w == w then list[#list + 1] = { label = k - 1, weight = w } end
  end
  table.sort(list, function(a, b)
    local x, y = math.abs(a.weight), math.abs(b.weight)
    return x > y or x == y and a.label < b.label
  end)
  return list
end

-- The features to show: of one sign the first few of that sign; of either sign the weak ones of the first few are left
-- out.
local function chosen(weights, o)
  local list, one_sign = {}, o.positive_only or o.negative_only
  for rank, f in ipairs(ordered(weights)) do
    local strong = math.abs(f.weight) > o.min_weight or not one_sign and math.abs(f.weight) == o.min_weight
    local wanted = not one_sign or o.positive_only and f.weight > 0 or o.negative_only and f.weight < 0
    local room = one_sign and #list < o.num_features or not one_sign and rank <= o.num_features
    if strong and wanted and room then list[#list + 1] = f end
  end
  return list
end

--- lime's get_image_and_mask.
---@param image any tensor (3, H, W) in [0, 1]
---@param labels any tensor (H, W), whole numbers
---@param weights number[] of the regions 0, 1 ...; 0 for those that the regression left out
---@param options? table positive_only = true, negative_only = false, hide_rest = false, num_features = 5, min_weight =
---   0
---@return any picture (3, H, W): the image, or black where the rest is hidden; with either sign for red, green:
---  against, for
---@return any mask int64 (H, W): 1 and -1 on the chosen features, else 0
function pictures.image_and_mask(image, labels, weights, options)
  local o = Options.check("image_and_mask", options, pictures.spec)
  if o.positive_only and o.negative_only then
    check.fail("image_and_mask", "positive_only and negative_only exclude each other.")
  end
  labels = labels:to { dtype = "int64" }
  local picture, mask = o.hide_rest and torch.zeros_like(image) or image:clone(), torch.zeros_like(labels)
  local brightest = image:max():item()
  for _, f in ipairs(chosen(weights, o)) do
    local here = labels:eq(f.label)
    local either = not (o.positive_only or o.negative_only)
    mask:masked_fill_(here, either and f.weight < 0 and -1 or 1)
    picture = torch.where(here:unsqueeze(0), image, picture)
    if either then picture:select(0, f.weight < 0 and 0 or 1):masked_fill_(here, brightest) end
  end
  return picture, mask
end

-- ---- the figure -------------------------------------------------------------------------------------------------

local function marked(image, labels, weights, options)
  return figure.pixels(regions.mark_boundaries(pictures.image_and_mask(image, labels, weights, options)))
end

local function weight_map(labels, weights)
  local h, w = labels:size(0), labels:size(1)
  return torch.tensor(weights, { dtype = "float64" }):index_select(0,
    labels:to { dtype = "int64" }:view({ h * w })):view({ h, w })
end

local function class_title(label)
  return label.against and string.format("%s minus %s, %+.2f", label.class, label.against, label.prediction)
    or string.format("%s, %.2f", label.class, label.prediction)
end

local function largest(rows)
  local top = 0
  for _, row in ipairs(rows) do
    for _, v in ipairs(row) do top = math.max(top, math.abs(v)) end
  end
  return top > 0 and top or 1
end

-- Image and regions, the top class's five features, and the target's weights.
local function overview(page, number, image, labels, rows, facts, scale)
  local record, item = page:record(number), page:item(number)
  local status = map.explain_status(record.status)
  local function panel(heading, pixels, title, more)
    return { heading = heading, pixels = pixels, title = title, status = more }
  end
  return { panels = {
    panel("image", figure.pixels(image), { (tostring(item.name or item.id)),
      string.format("predicted %s, %.2f", record.target.predicted, record.target.confidence) }),
    panel("regions", figure.pixels(regions.mark_boundaries(image, labels, { background = -1 })),
      { facts.regions.count .. " regions", (facts.regions.source:gsub("%(.*", "")) }),
    panel("top class: 5 for it", marked(image, labels, rows[2]),
      { class_title(facts.labels[2]), string.format("fit R² %.2f", facts.labels[2].score) }),
    panel("target", figure.heat(weight_map(labels, rows[1]), colors, -scale, scale),
      { class_title(facts.labels[1]), table.unpack(honesty.of(page.entry.method, record)) }, status),
  } }
end

local function class_row(image, labels, weights, label, scale, first, status)
  local title = class_title(label)
  local function panel(heading, pixels)
    return { heading = first and heading or nil, pixels = pixels, title = title, status = status }
  end
  return { panels = {
    panel("5 for the class", marked(image, labels, weights)),
    panel("5 of either sign", marked(image, labels, weights, { positive_only = false })),
    panel("10, rest hidden", marked(image, labels, weights,
      { positive_only = false, num_features = 10, hide_rest = true })),
    panel("all weights", figure.heat(weight_map(labels, weights), colors, -scale, scale)),
  } }
end

local function grouped(n) return (tostring(n):reverse():gsub("(%d%d%d)", "%1,"):reverse():gsub("^,", "")) end

local function caption(record)
  local o, facts = record.settings.options, record.facts
  local texts = { string.format("LIME: %s samples, %s passes%s; hidden regions show %s; design %s. Weights: change "
    .. "of the class's %s by a region that is kept.", grouped(facts.samples), grouped(facts.evaluated),
    facts.stopped and ", stopped when settled" or "", o.removal:gsub("_", " "), o.design,
    record.target.as == "logit" and "logit" or "probability"),
    "Yellow: outlines; green or blue: speaks for the class, red: against it. One color scale for all weights of "
    .. "this image.", string.format("Between draws, by %s: rank correlation of the target's weights; share of the 5 "
      .. "strongest in common; error: standard error of all weights over their length.", facts.stability_by) }
  return texts
end

--- Draws one figure per image.
---@param page medxai.Page
function pictures.draw(page)
  for _, number in ipairs(page.numbers) do
    local scope <close> = require("medxai.core").memory.scope()
    local record = page:record(number)
    local weights, labels = page:array(number, "weights"), page:array(number, "regions")
    if weights then
      local image, rows, facts = page:image(number), weights:tolist(), record.facts
      local scale, status = largest(rows), map.empty[record.status] and map.explain_status(record.status) or nil
      local list = { overview(page, number, image, labels, rows, facts, scale) }
      for i = 2, #rows do list[i] = class_row(image, labels, rows[i], facts.labels[i], scale, i == 2, status) end
      local d = figure.panels { rows = list, most_pt = 110,
        bars = { { colors = colors, lo = -scale, hi = scale, label = "weight" } }, caption = caption(record) }
      page:save("features-" .. record.image_id, d,
        string.format("LIME, %s", tostring(page:item(number).name or record.image_id)))
    end
  end
end

return pictures
