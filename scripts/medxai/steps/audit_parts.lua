-- The audit's questions to a network that is there already: how much of what it tells is left when the lungs are
-- replaced, and does hiding a marker, the border or the lungs change its answer more than hiding as much elsewhere?
-- Parts are replaced by a blur and by the image's mean, both, never by black, which is information of its own. It
-- refuses a part's verdict where the two removals disagree.
local check = require "medxai.base.check"
local compose = require "medxai.perturb.compose"
local csv = require "medxai.base.csv"
local delong = require "medxai.stats.delong"
local files = require "medxai.base.files"
local logits_of = require "medxai.stats.logits"
local markers = require "medxai.perturb.markers"
local multiple = require "medxai.stats.multiple"
local placebo = require "medxai.perturb.placebo"
local random = require "medxai.tensor.random"
local removal = require "medxai.perturb.removal"
local torch = require "medxai.torch"
local units = require "medxai.stats.units"
local verdict = require "medxai.stats.verdict"

local parts = {}

local nan = 0 / 0

parts.names = { "markers", "border", "lungs" }
parts.least_share = 0.5 -- of what the network tells with the lungs, told without them
parts.least_drop = 0.2  -- in standard deviations of the logit margin

-- ---- where the parts lie --------------------------------------------------------------------------------------------

-- The rectangle around a mask as a tensor (H, W) bool; nil where the mask is empty.
local function rectangle(mask)
  local rows, columns = mask:any(1):nonzero():tolist(), mask:any(0):nonzero():tolist()
  if #rows == 0 then return nil end
  local top, left = rows[1][1], columns[1][1]
  local box = torch.zeros(mask:size(0), mask:size(1), { dtype = "bool" })
  box:narrow(0, top, rows[#rows][1] - top + 1):narrow(1, left, columns[#columns][1] - left + 1):fill_(1)
  return box
end

-- The image in gray, float64 (H, W).
local function gray_of(split, i) return split:pixels(i):to { dtype = "float64" }:mean(2) end

-- The markers of an image: of the data's mask where they have one, else bright spots outside the lungs' rectangle.
local function markers_of(split, i, outside, spots)
  for _, kind in ipairs(split.data.masks) do
    if kind == "marker" then
      local mask = split:mask(i, "marker")
      return mask and mask:ne(0) or nil
    end
  end
  local mask, found = markers.find(gray_of(split, i), outside)
  for _, s in ipairs(found) do
    spots[#spots + 1] = { image_id = split:item(i).id, path = split:item(i).path, left = s.left, top = s.top,
      width = s.right - s.left + 1,
      height = s.bottom - s.top + 1, brightness = s.mean, contrast = s.contrast }
  end
  return mask
end

-- name -> mask (H, W) bool of an image's parts, those that are not empty; and where markers may be moved.
local function parts_of(split, i, names, spots)
  local lungs = split:mask(i, "lungs")
  lungs = lungs and lungs:ne(0)
  local box = lungs and rectangle(lungs)
  if not box then return nil end
  local outside, out = box:logical_not(), {}
  for _, name in ipairs(names) do
    local mask
    if name == "lungs" then mask = lungs elseif name == "border" then mask = outside else mask = markers_of(split, i,
      outside, spots) end
    if mask and mask:sum():item() > 0 then out[name] = mask end
  end
  return out, outside
end

-- ---- answers --------------------------------------------------------------------------------------------------------

-- The two removals for images of this size: what is hidden becomes a blur of a quarter of the side, or the image's
-- mean.
local function removals_of(size)
  local k = size // 4 | 1
  return { removal.parse(("blur(%d)"):format(k)), removal.parse "mean" }
end

-- The masks to hide of one image, the part first (place 0), then its placebos: list of { part, place, mask }.
local function hidden_of(split, i, o, spots)
  local found, outside = parts_of(split, i, o.regions, spots)
  local list = {}
  for _, name in ipairs(found and o.regions or {}) do
    local mask = found[name]
    if mask then
      local stream = random.stream { seed = o.seed, purpose = "audit_placebo@1", id = split:item(i).id .. " " .. name }
      local others = name == "markers" and placebo.shifted(mask, outside, o.placebo, stream) or nil
      if not others then others = placebo.rolled(mask, o.placebo, stream) end
      list[#list + 1] = { part = name, place = 0, mask = mask }
      for k, other in ipairs(others) do list[#list + 1] = { part = name, place = k, mask = other } end
    end
  end
  return list
end

-- Rows of logits of one image: as it is, and with each mask hidden by each removal.
local function answers_of(model, scorer, split, i, o, spots)
  local scope <close> = require("medxai.core").memory.scope() -- luacheck: ignore
  local hidden, x = hidden_of(split, i, o, spots), split:batch({ i }).x
  if x.dtype ~= model.dtype then x = x:to { dtype = model.dtype } end
  x = x:to { device = model.device }
  local rows = { { part = "none", removal = "none", place = 0, logits = scorer:logits(1,
    function() return x end):tolist()[1] } }
  local keeps = {}
  for k, h in ipairs(hidden) do keeps[k] = h.mask:logical_not():view({ 1, 1, h.mask:size(0), h.mask:size(1) }) end
  local keep = #keeps > 0 and torch.cat(keeps, 0):to { device = model.device }
  for _, way in ipairs(#keeps > 0 and removals_of(x:size(2)) or {}) do
    local background = way:background(x)
    local logits = scorer:logits(#keeps, function(first, count) return compose.images(x, background,
      keep:narrow(0, first, count)) end):tolist()
    for k, h in ipairs(hidden) do
      rows[#rows + 1] = { part = h.part, removal = way.kind, place = h.place, logits = logits[k] }
    end
  end
  return rows
end

parts.spot_columns = { "image_id", "path", "left", "top", "width", "height", "brightness", "contrast" }

local function columns_of(classes)
  local columns = { "image_id", "path", "patient", "class", "part", "removal", "place" }
  for _, class in ipairs(classes) do columns[#columns + 1] = "logit_" .. class end
  return columns
end

-- Evaluates the chosen images and writes audit/parts.csv, and audit/markers.csv where markers were looked for.
local function evaluate_images(run, model, split, chosen, o)
  local scorer = require("medxai.perturb.scorer").new(model, { deterministic = true })
  local bar <close> = require("medxai.base.progress").new("audit: parts replaced", #chosen)
  local rows, spots = {}, {}
  for _, i in ipairs(chosen) do
    local item = split:item(i)
    for _, row in ipairs(answers_of(model, scorer, split, i, o, spots)) do
      local out = { image_id = item.id, path = item.path, patient = item.patient, class = item.class, part = row.part,
        removal = row.removal, place = row.place }
      for c, class in ipairs(split.classes) do
        if not check.is_finite(row.logits[c]) then
          check.fail("audit", "the network's answer for '%s' with %s replaced is not finite.", item.path, row.part)
        end
        out["logit_" .. class] = row.logits[c]
      end
      rows[#rows + 1] = out
    end
    bar:add(1)
    run:heartbeat "audit: parts replaced"
  end
  csv.write(files.join(run.dir, "audit/parts.csv"), columns_of(split.classes), rows)
  csv.write(files.join(run.dir, "audit/markers.csv"), parts.spot_columns, spots)
end

-- Per image in order: { class = 1.., patient, answers = { ["none none 0"] = logits, ["lungs blur 0"] = ... } }.
local function read_images(run, classes)
  local place, by_path, list = {}, {}, {}
  for c, class in ipairs(classes) do place[class] = c end
  for _, row in ipairs((csv.read(files.join(run.dir, "audit/parts.csv")))) do
    local image = by_path[row.path]
    if not image then
      image = { class = place[row.class], patient = row.patient, answers = {} }
      by_path[row.path], list[#list + 1] = image, image
    end
    local logits = {}
    for c, class in ipairs(classes) do logits[c] = tonumber(row["logit_" .. class]) end
    image.answers[("%s %s %s"):format(row.part, row.removal, row.place)] = logits
  end
  return list
end

--- Whether an image of a split has the lung mask that every part needs.
---@param split medxai.Split
---@param i integer
---@return boolean
function parts.has_lungs(split, i) return split.data.drawn ~= nil or split.items[i].lungs ~= nil end

--- Why no image's parts can be replaced; nil where some can, and how many cannot.
---@param split medxai.Split
---@return string|nil why
---@return integer|nil without images without a lung mask
function parts.obstacle(split)
  local without = 0
  for i = 1, split.n do without = without + (parts.has_lungs(split, i) and 0 or 1) end
  if without == split.n then return "the data have no lung masks" end
  return nil, without
end

--- Numbers of images with lung masks, the classes in turn.
---@param split medxai.Split
---@param most integer
---@return integer[]
function parts.chosen(split, most)
  local list = {}
  for _, i in ipairs((require("medxai.explain.images").images(split, split.n))) do
    if parts.has_lungs(split, i) and #list < most then list[#list + 1] = i end
  end
  return list
end

--- The answers of a network to images with parts replaced; done once, and read from audit/parts.csv then.
---@param run medxai.Run
---@param model medxai.Model in evaluation
---@param split medxai.Split
---@param o table regions, placebo, images, seed
---@return table[] images
---@return integer spots how many markers were proposed
function parts.answers(run, model, split, o)
  local chosen = parts.chosen(split, o.images)
  local step = run:step("audit-parts", { model = run:describe_model(model), data = run:describe_split(split),
    masks = split:masks_sha256 "lungs" or "none",
    images = #chosen, regions = o.regions, placebo = o.placebo, version = 1 })
  if not step.done then
    step:begin()
    local mode <close> = require("medxai.steps.explain").eval_mode(model)
    evaluate_images(run, model, split, chosen, o)
    step:finish({}, { "audit/parts.csv", "audit/markers.csv" })
  end
  return read_images(run, split.classes), #(csv.read(files.join(run.dir, "audit/markers.csv")) or {})
end

-- ---- what is left without the lungs ---------------------------------------------------------------------------------

-- Placements of a class from the images' answers of one kind, and units; of those images that have it.
local function placements(images, key, c)
  local scores, is_positive = {}, {}
  for i, image in ipairs(images) do
    scores[i], is_positive[i] = logits_of.log_odds(image.answers[key])[c], image.class == c
  end
  return delong.placements(scores, is_positive)
end

local function with_answers(images, key)
  local list = {}
  for _, image in ipairs(images) do
    if image.answers[key] then list[#list + 1] = image end
  end
  return list
end

local function units_of(images, seed)
  local patients = {}
  for i, image in ipairs(images) do patients[i] = image.patient end
  return units.over(#images, patients, { seed = seed })
end

-- One verdict of two removals: both must say it.
local function of_both(a, b)
  if a.verdict == b.verdict then return a end
  return { verdict = "undecided", reason = a.verdict ~= "undecided" and b.verdict ~= "undecided"
    and "removals disagree" or a.reason or b.reason
    or "one removal is undecided" }
end

--- Of each class how much of what the network tells is left when the lungs are replaced: (A without lungs - 1/2) /
--- (A whole - 1/2). found: more than half, by both removals, of a class that the whole image is shown to tell.
---@param images table[] from parts.answers
---@param classes string[]
---@param seed integer
---@return table[] rows { class, whole, removals = { blur, mean = { auc, share } }, verdict }
function parts.retained(images, classes, seed)
  local rows = {}
  for c, class in ipairs(classes) do
    local row, verdicts = { class = class, removals = {} }, {}
    for k, way in ipairs { "blur", "mean" } do
      local own = with_answers(images, "lungs " .. way .. " 0")
      local over = units_of(own, seed)
      local whole, left = placements(own, "none none 0", c), placements(own, "lungs " .. way .. " 0", c)
      local share = delong.retained(whole, left, over)
      row.whole, row.removals[way] = whole.auc, { auc = left.auc, share = share }
      local is_told = delong.area(whole, over).low > 0.5
      local v = verdict.of("bound", { low = is_told and share.low or nan, high = is_told and share.high or nan,
        units = over.count, resampled = over.resampled, why = share.why or "the whole image is not shown to tell it" },
        { threshold = parts.least_share, pass = "above" })
      verdicts[k] = { verdict = ({ pass = "found", fail = "not_found" })[v.verdict] or v.verdict, reason = v.reason }
    end
    row.verdict = of_both(verdicts[1], verdicts[2])
    rows[c] = row
  end
  return rows
end

-- ---- occlusion ------------------------------------------------------------------------------------------------------

local function margin_of(image)
  local z, best = image.answers["none none 0"], -math.huge
  for c, v in ipairs(z) do
    if c ~= image.class then best = math.max(best, v) end
  end
  return z[image.class] - best
end

-- The standard deviation of the logit of the true class minus the largest other one.
local function margin_deviation(images)
  local sum, squares, n = 0.0, 0.0, #images
  for _, image in ipairs(images) do sum = sum + margin_of(image) / n end
  for _, image in ipairs(images) do squares = squares + (margin_of(image) - sum) ^ 2 end
  return n > 1 and math.sqrt(squares / (n - 1)) or nan
end

local function answer_of(z) return logits_of.argmax({ z })[1] end

-- Of one image: drop of the true class's logit less the mean drop of its placebos, whether the prediction changes, and
-- the share of placebos that change it. NaN where the part or every placebo is missing.
local function drop_of(image, part, way, count)
  local before, after = image.answers["none none 0"], image.answers[("%s %s 0"):format(part, way)]
  local c, mean, changes, n = image.class, 0.0, 0, 0
  for k = 1, after and count or 0 do
    local other = image.answers[("%s %s %d"):format(part, way, k)]
    if other then
      n, mean = n + 1, mean + before[c] - other[c]
      changes = changes + (answer_of(other) ~= answer_of(before) and 1 or 0)
    end
  end
  if n == 0 then return nan, nan, nan end
  return before[c] - after[c] - mean / n, answer_of(after) ~= answer_of(before) and 1 or 0, changes / n
end

local function occluded(images, part, way, deviation, o)
  local over, drops, changed, chance = units_of(images, o.seed), {}, {}, {}
  for i, image in ipairs(images) do drops[i], changed[i], chance[i] = drop_of(image, part, way, o.placebo) end
  local r = over:mean(drops)
  r.one_sided = over:one_sided(over:ratio(drops), parts.least_drop * deviation)
  r.changed, r.chance = over:mean(changed).mean, over:mean(chance).mean
  return r
end

--- Of each part what hiding it takes from the true class's logit beyond hiding as much elsewhere. found: more than a
--- fifth of a standard deviation of the logit margin, by both removals, p by Holm's method over the parts.
---@param images table[]
---@param o table regions, placebo, seed
---@return table[] rows { part, removals = { blur, mean = interval with changed, chance }, verdict, deviation }
function parts.occlusion(images, o)
  local rows, deviation = {}, margin_deviation(images)
  for k, part in ipairs(o.regions) do
    rows[k] = { part = part, deviation = deviation, removals = {}, verdicts = {} }
    for _, way in ipairs { "blur", "mean" } do rows[k].removals[way] = occluded(images, part, way, deviation, o) end
  end
  for w, way in ipairs { "blur", "mean" } do
    local above, below = {}, {}
    for k, row in ipairs(rows) do
      above[k], below[k] = row.removals[way].one_sided.p_above, row.removals[way].one_sided.p_below
    end
    above, below = multiple.holm(above), multiple.holm(below)
    for k, row in ipairs(rows) do
      local r = row.removals[way]
      r.p_above, r.p_below = above[k], below[k]
      row.verdicts[w] = verdict.of("threshold", { p_above = above[k], p_below = below[k], units = r.units,
        resampled = r.resampled, why = r.one_sided.why, nothing = r.n == 0 and "no image has it" or nil }, {})
    end
  end
  for _, row in ipairs(rows) do row.verdict = of_both(row.verdicts[1], row.verdicts[2]) end
  return rows
end

return parts
