-- The findings of run:overlap, image by image: how large, what the crop and the lung mask cut off; and the thresholds
-- that cut a map beside them, tuned on another split or cross-fitted over patients.
-- It refuses to choose a threshold on the image that it judges.
local core = require "medxai.core"
local cuts = require "medxai.score.binarize"
local has_mask = require("medxai.data.split").has_mask
local is_known = require("medxai.stats.units").is_known
local torch = require "medxai.torch"

local finds = {}

finds.tiny = 0.001 -- of the crop: a few pixels of a finding judge nothing
local tiny = finds.tiny

-- ---- findings -------------------------------------------------------------------------------------------------------

--- Names of the strata of size, the smallest first: "under 0.1 %", "0.1 to 5 %" ...
function finds.size_names(sizes)
  local function percent(v) return string.format("%.3g", 100 * v) end
  local names, from = { "under " .. percent(tiny) .. " %" }, tiny
  for _, size in ipairs(sizes) do
    names[#names + 1] = percent(from) .. " to " .. percent(size) .. " %"
    from = size
  end
  names[#names + 1] = "over " .. percent(from) .. " %"
  return names
end

local function size_name(share, sizes, names)
  if share < tiny then return names[1] end
  for i, size in ipairs(sizes) do
    if share < size then return names[i + 1] end
  end
  return names[#names]
end

-- Why nothing of a mask of count pixels is left in the crop.
local function lost(cropped, count)
  if count == 0 then return "empty mask" end
  if cropped > 1 - 1e-9 then return "cropped away" end
  return cropped == 0 and "resized away" or "cropped and resized away"
end

--- One image's finding: share of the crop, its size's name, the share that was cropped away, and of what is left the
--- share outside the lung mask; why says what is missing: "no mask", "empty mask", "cropped away", "resized away",
--- "cropped and resized away".
---@param o table mask, sizes, size_names
function finds.of(split, number, o)
  local scope <close> = core.memory.scope()
  local f = { number = number, item = split:item(number) }
  local mask = split.mask and split:mask(number, o.mask)
  if not mask then
    f.why = "no mask"
    return f
  end
  mask = mask:ne(0)
  f.share = mask:to { dtype = "float64" }:mean():item()
  local cropped, count = 0.0, 0
  if split.cropped_share then cropped, count = split:cropped_share(number, o.mask) end
  f.cropped = cropped
  if f.share == 0 then
    f.why = lost(cropped, count)
    return f
  end
  f.size = size_name(f.share, o.sizes, o.size_names)
  local lungs = has_mask(split, "lungs") and split:mask(number, "lungs")
  if lungs then f.outside = mask:logical_and(lungs:eq(0)):sum():item() / mask:sum():item() end
  return f
end

-- ---- thresholds -----------------------------------------------------------------------------------------------------

-- The same everywhere: no cut divides them.
local without_values = { nan = true, flat = true, saturated = true, all_negative = true }

--- Curves of one image's maps: curves[set] = { iou, dice }; none where there is no finding to speak of.
function finds.curves(run, split, finding, records, o)
  if not finding.share or finding.share < tiny then return {} end
  local scope <close> = core.memory.scope()
  local mask, out = split:mask(finding.number, o.mask):ne(0), {}
  for _, record in ipairs(records) do
    if record.files[1] and not without_values[record.status] then
      out[record.maps] = cuts.curves(torch.load_npy(run.dir .. "/" .. record.files[1]), mask)
    end
  end
  return out
end

--- Whether any image has a curve.
function finds.any(curves)
  for _, c in ipairs(curves) do
    if next(c) then return true end
  end
  return false
end

local function patient_of(item) return is_known(item.patient) and item.patient or nil end

--- Takes images that are judged themselves, or are of a patient who is, out of those to tune on. Returns how many had a
--- finding.
function finds.leave_out(tune_findings, tune_curves, findings)
  local ids, patients, n = {}, {}, 0
  for _, f in ipairs(findings) do
    ids[f.item.id] = true
    if patient_of(f.item) then patients[patient_of(f.item)] = true end
  end
  for i, f in ipairs(tune_findings) do
    if next(tune_curves[i]) and (ids[f.item.id] or patients[patient_of(f.item) or false]) then
      tune_curves[i], n = {}, n + 1
    end
  end
  return n
end

-- Units that stay together when images are dealt into folds: a patient's images, and those of nobody known each for
-- itself.
local function fold_of_images(findings, o, seed)
  local units, seen, key_of, known, place = {}, {}, {}, 0, {}
  for i, f in ipairs(findings) do
    local patient = patient_of(f.item)
    known = known + (patient and 1 or 0)
    local key = patient and "patient " .. patient or "image " .. f.item.id
    if not seen[key] then units[#units + 1] = key end
    seen[key], key_of[i] = true, key
  end
  table.sort(units) -- the deal does not depend on the order of images
  local dealt = core.rng.stream { seed = seed, purpose = "folds@1" }:permutation(#units)
  for i, p in ipairs(dealt:tolist()) do place[units[i]] = p % o.folds end
  dealt:close()
  local fold = {}
  for i in ipairs(findings) do fold[i] = place[key_of[i]] end
  return fold, known == #findings and "patients" or known == 0 and "images, patients unknown"
    or "patients where they are known, images elsewhere"
end

local function tuned_on(o)
  local n = o.left_out or 0
  return "tuned on " .. o.tune.name
    .. (n > 0 and string.format(" without %d image%s that %s judged", n, n == 1 and "" or "s",
      n == 1 and "is" or "are") or "")
end

--- The threshold for an image by set and measure, chosen on others: a function(i, set, "iou" | "dice") -> place
--- (cuts.lua), and how.
---@param findings table[]
---@param curves table[] of the same images
---@param tune_curves table[]|nil of another split's images
function finds.thresholds(findings, curves, tune_curves, o, seed)
  local fold, of = fold_of_images(findings, o, seed)
  local function pool(set, key, without)
    local list = {}
    for i, c in ipairs(tune_curves or curves) do
      if c[set] and (tune_curves or fold[i] ~= without) then list[#list + 1] = c[set][key] end
    end
    return cuts.best(list)
  end
  local known, how = {}, tune_curves and tuned_on(o) or string.format("cross-fitted over %d folds of %s", o.folds, of)
  return function(i, set, key)
    local name = set .. key .. (tune_curves and "" or fold[i])
    if known[name] == nil then known[name] = pool(set, key, fold[i]) or false end
    return known[name] or nil
  end, how
end

return finds
