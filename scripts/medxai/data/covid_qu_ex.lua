-- The COVID-QU-Ex layout: "Lung Segmentation Data" (part = "lung") or "Infection Segmentation Data" (part =
-- "infection"), then
--   {Train,Val,Test}/<class>/{images,lung masks,infection masks}/*.png
-- with classes COVID-19, Non-COVID, Normal in this order. An image and its masks share a file name; masks are matched
-- by name alone. The infection part may lack classes (its masks are COVID-19's). Of the lung part only splits that are
-- not trained on may, unless a folder of an unknown name says that one is misspelt.
local base = require "medxai.data.dataset"
local check = require "medxai.base.check"
local Options = require "medxai.base.options"
local folders = require "medxai.data.covid_qu_ex_folders"
local listing = require "medxai.data.listing"

local classes, folder_of, part_folder = folders.classes, folders.split, folders.part

local spec = base.spec {
  part = { one_of = { "lung", "infection" }, field = true, default = "lung",
    doc = "Lung Segmentation Data, or Infection Segmentation Data with its radiologists' masks" },
}

local function has_split(folder)
  for _, name in ipairs(base.split_names) do
    if listing.is_folder(folder .. "/" .. folder_of[name]) then return true end
  end
  return false
end

-- Where the splits lie: below the part's folder, below it twice (as the published archive unpacks), or in the root
-- itself.
local function find_base(root, part)
  local folder = part_folder[part]
  local candidates = { root .. "/" .. folder, root .. "/" .. folder .. "/" .. folder, root }
  for _, candidate in ipairs(candidates) do
    if has_split(candidate) then return candidate end
  end
  check.fail("dataset", "no COVID-QU-Ex data in '%s' (looked for '%s/Train', '%s/Val' and '%s/Test'; %s). Give its "
    .. "folder as root = 'DIR' or --data DIR.", root, folder, folder, folder, listing.there(root))
end

local function names_in(folder)
  local set = {}
  for _, name in ipairs(listing.names(folder)) do set[name] = true end
  return set
end

-- A mask whose image is missing is a misspelt name more often than not, and its finding would be lost without a word.
local function refuse_strays(root, folder, pictures)
  local known, strays = {}, {}
  for _, name in ipairs(pictures) do known[name] = true end
  for _, name in ipairs(listing.pictures(root .. "/" .. folder)) do
    if not known[name] then strays[#strays + 1] = name end
  end
  if #strays == 0 then return end
  check.fail("dataset", "no image for the mask '%s/%s'%s (masks and images are matched by file name). Rename or "
    .. "remove it.", folder, strays[1], #strays > 1 and string.format(" and %d more", #strays - 1) or "")
end

-- The images of one class and split, appended to items; false where there is no such folder.
local function read_class(items, root, split, label, part)
  local class = classes[label + 1]
  local own = folder_of[split] .. "/" .. class
  local folder = root .. "/" .. own .. "/images"
  if not listing.is_folder(folder) then return false, folder end
  local pictures = listing.pictures(folder)
  if #pictures == 0 and (split == "train" or part == "infection") then
    check.fail("dataset", "class '%s' is empty: no PNG, JPEG or DICOM in '%s' (%s).", class, own .. "/images",
      listing.there(folder))
  end
  refuse_strays(root, own .. "/infection masks", pictures)
  local lungs, infections = names_in(root .. "/" .. own .. "/lung masks"),
    names_in(root .. "/" .. own .. "/infection masks")
  for _, name in ipairs(pictures) do
    local mask = own .. "/lung masks/" .. name
    items[#items + 1] = { path = own .. "/images/" .. name, label = label, split = split,
      lungs = lungs[name] and mask or nil, lungs_wanted = mask,
      masks = { infection = infections[name] and own .. "/infection masks/" .. name or nil } }
  end
  return true
end

local function read_split(items, root, split, part)
  if not listing.is_folder(root .. "/" .. folder_of[split]) then return end
  local before, own = #items, root .. "/" .. folder_of[split]
  local needs_all = part == "lung" and (split == "train" or #listing.without(listing.folders(own), classes) > 0)
  for label = 0, #classes - 1 do
    local found, folder = read_class(items, root, split, label, part)
    if not found and needs_all then
      check.fail("dataset", "class '%s' is missing in %s (no folder '%s'; %s).", classes[label + 1], folder_of[split],
        folder, listing.there(root .. "/" .. folder_of[split]))
    end
  end
  if #items == before then listing.no_classes(own, folder_of[split], classes) end
end

local function read(options)
  local o = Options.check("covid_qu_ex", options, spec)
  local given = listing.root("covid_qu_ex", o.root)
  local root = find_base(given, o.part)
  local items, notes = {}
  for _, split in ipairs(base.split_names) do read_split(items, root, split, o.part) end
  local prefix = root == given and "" or root:sub(#given + 2) .. "/"
  items, notes = listing.without_skipped(items,
    listing.skips(root == given and { root } or { given, root }, o.skip), function(item)
    return { item.path, prefix .. item.path }
  end)
  return base.make { name = "covid_qu_ex", root = root, classes = { table.unpack(classes) }, items = items,
    masks = { "lungs", "infection" }, options = o, notes = notes, empty_ok = o.part == "infection",
    config = { part = o.part } }
end

return {
  doc = "The COVID-QU-Ex layout: {Lung,Infection} Segmentation Data/{Train,Val,Test}/<class>/{images,lung "
  .. "masks}/*.png.", options = spec,
  read = read,
}
