-- What is done to a reader's list of images before it becomes a data set, and what is refused: white levels, permuted
-- labels, limits; a patient in two splits, masks that are missing, classes without training images.
local check = require "medxai.base.check"
local listing = require "medxai.data.listing"

local lists = {}

local function is_white(v) return math.tointeger(v) and v >= 1 and v <= 65535 end

--- Gives each item its white level: by its file, else its manifest's, else its source's, else the one of all.
function lists.set_whites(what, white, items)
  local by_name, used = type(white) == "table" and white or {}, {}
  for _, name in ipairs(check.sorted_keys(by_name)) do
    if type(name) ~= "string" or not is_white(by_name[name]) then
      check.fail(what, "option 'white_16bit' is wrong (expected a number from 1 to 65535, or one for each source "
        .. "or file, "
        .. "got %s = %s).", tostring(name), tostring(by_name[name]))
    end
  end
  for _, item in ipairs(items) do
    local file, source = by_name[item.path], by_name[item.source or "unknown"]
    item.white = math.tointeger(file or item.white or source or type(white) == "number" and white or 65535)
    used[item.path], used[item.source or "unknown"] = true, true
  end
  for _, name in ipairs(check.sorted_keys(by_name)) do
    if not used[name] then
      check.fail(what, "option 'white_16bit' names '%s', which is no source and no file of these data.", name)
    end
  end
end

--- Gives labels a random order, the same for the same seed and images: those of the training images ("permuted"), or
--- those of all splits jointly ("permuted_all").
---@param items table[]
---@param seed integer
---@param which "permuted"|"permuted_all"
function lists.permute_labels(items, seed, which)
  local taken, labels = {}, {}
  for _, item in ipairs(items) do
    if (item.label or item.findings) and (item.split == "train" or which == "permuted_all") then
      taken[#taken + 1], labels[#labels + 1] = item, item.findings or item.label
    end
  end
  local order = require("medxai.core").rng.stream { seed = seed, purpose = which == "permuted" and "permuted_labels@1"
    or "permuted_labels_all@1" }:permutation(#taken)
  for i, k in ipairs(order:tolist()) do
    local label = labels[k + 1]
    if type(label) == "table" then taken[i].findings = label else taken[i].label = label end
  end
  order:close()
end

--- What the configuration says of permuted labels; nil of the true ones.
---@param which "true"|"permuted"|"permuted_all"
---@param seed integer
---@return string|nil
function lists.labels_text(which, seed)
  if which == "true" then return nil end
  return (which == "permuted" and "permuted by seed %d" or "of all splits permuted by seed %d"):format(seed)
end

--- The first `limit` of each class and split.
function lists.limited(items, limit)
  local kept, count = {}, {}
  for _, item in ipairs(items) do
    local key = item.split .. "/" .. tostring(item.label)
    for _, v in ipairs(item.findings or {}) do key = key .. " " .. tostring(v) end -- each combination of findings
    count[key] = (count[key] or 0) + 1
    if count[key] <= limit then kept[#kept + 1] = item end
  end
  return kept
end

--- Raises where a patient has images in two splits.
function lists.check_patients(items)
  local first = {}
  for _, item in ipairs(items) do
    local p = item.patient
    if p and p ~= "unknown" then
      local other = first[p]
      if other and listing.group(other.split) ~= listing.group(item.split) then
        check.fail("dataset", "patient '%s' is in two splits ('%s' in %s, '%s' in %s). Move all images of a patient "
          .. "into one.", p, other.path, other.split, item.path, item.split)
      end
      first[p] = other or item
    end
  end
end

--- Raises where an image has no lung mask and needs one.
function lists.check_masks(data, items)
  local missing = {}
  for _, item in ipairs(items) do
    if not item.lungs then missing[#missing + 1] = item end
  end
  if #missing == 0 or data.drawn then return end
  local first = missing[1]
  check.fail("dataset", "no lung mask for '%s'%s (%sinput = '%s' needs one). Add it, or list the image in skip.txt.",
    first.path, #missing > 1 and (" and %d more"):format(#missing - 1) or "",
    first.lungs_wanted and ("looked for '" .. first.lungs_wanted .. "'; ") or "", data.input)
end

--- What is not trained on cannot be learned; a split that is only looked at may lack a class, and that is noted.
function lists.check_classes_filled(data)
  for _, split in ipairs(data.splits) do
    local has, lacks = {}, {}
    for _, item in ipairs(split.items) do
      if item.label then has[item.label] = true end
    end
    for k, class in ipairs(data.classes) do
      if not has[k - 1] then lacks[#lacks + 1] = class end
    end
    if #lacks > 0 and split.name == "train" then
      check.fail("dataset", "class '%s' has no image in train. Add some, or leave the class out of classes.", lacks[1])
    elseif #lacks > 0 then
      data.notes[#data.notes + 1] = ("%s has no image of the class%s '%s'"):format(split.name,
        #lacks > 1 and "es" or "", table.concat(lacks, "', '"))
    end
  end
end

return lists
