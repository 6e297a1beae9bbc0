-- Plain class folders, <split>/<class>/*.png, and those that maskmaker wrote, Masked_<split>/<class>/*.png.
-- Splits: Train, Val (or Valid, Validation), Test, Small_Test, in any case. Class order: `classes`; without it
-- COVID-19, Non-COVID, Normal where the folders are these three; else by name, and a note says so. A class without
-- training images is an error; another split may lack one, unless a folder of an unknown name says that it is misspelt.
local base = require "medxai.data.dataset"
local check = require "medxai.base.check"
local Options = require "medxai.base.options"
local covid_qu_ex = require "medxai.data.covid_qu_ex_folders"
local listing = require "medxai.data.listing"

local spellings = {
  train = { "train", "training" }, val = { "val", "valid", "validation" }, test = { "test", "testing" },
  small_test = { "small_test" },
}

-- Split name -> folder name, of the folders in root whose names begin with prefix.
local function find_splits(root, prefix)
  local found, any = {}, false
  for _, folder in ipairs(listing.folders(root)) do
    local lower = folder:lower()
    if lower:sub(1, #prefix) == prefix then
      for _, split in ipairs(base.split_names) do
        for _, spelling in ipairs(spellings[split]) do
          if lower:sub(#prefix + 1) == spelling then
            if found[split] then
              check.fail("dataset", "'%s' and '%s' are both the %s split. Keep one.", found[split], folder, split)
            end
            found[split], any = folder, true
          end
        end
      end
    end
  end
  return any and found or nil
end

local function same_names(a, b)
  if #a ~= #b then return false end
  local set = {}
  for _, name in ipairs(a) do set[name] = true end
  for _, name in ipairs(b) do
    if not set[name] then return false end
  end
  return true
end

-- The class names of the first split, in the order they are to have.
local function find_classes(root, splits, notes)
  for _, split in ipairs(base.split_names) do
    if splits[split] then
      local names = listing.folders(root .. "/" .. splits[split])
      if #names == 0 then
        check.fail("dataset", "no class folders in '%s' (%s).", splits[split],
          listing.there(root .. "/" .. splits[split]))
      end
      if same_names(names, covid_qu_ex.classes) then return { table.unpack(covid_qu_ex.classes) } end
      notes[#notes + 1] = ("classes in order of name: %s. Write classes = { ... } to fix another order"):format(
        table.concat(names, ", "))
      return names
    end
  end
end

local function read_split(items, root, split, folder, classes, notes)
  local strays, before = listing.without(listing.folders(root .. "/" .. folder), classes), #items
  local needs_all = split == "train" or #strays > 0
  for label, class in ipairs(classes) do
    local own = folder .. "/" .. class
    local is_there = listing.is_folder(root .. "/" .. own)
    local pictures = is_there and listing.pictures(root .. "/" .. own) or {}
    if not is_there and needs_all then
      check.fail("dataset", "class '%s' is missing in %s (no folder '%s'; %s).", class, folder, own,
        listing.there(root .. "/" .. folder))
    end
    if #pictures == 0 and split == "train" then
      check.fail("dataset", "class '%s' is empty: no PNG, JPEG or DICOM in '%s' (%s).", class, own,
        listing.there(root .. "/" .. own))
    end
    for _, name in ipairs(pictures) do
      items[#items + 1] = { path = own .. "/" .. name, label = label - 1, split = split }
    end
  end
  if #items == before then listing.no_classes(root .. "/" .. folder, folder, classes) end
  for _, name in ipairs(strays) do
    notes[#notes + 1] = ("'%s/%s' is not one of the classes and is left out"):format(folder, name)
  end
end

-- Below the folder that maskmaker wrote lie its parts; beside them, or above, what it did.
local function masked_root(root, part)
  local below = root .. "/" .. covid_qu_ex.part[part]
  local described = require("medxai.base.files").read_data(root .. "/maskmaker.json")
    or require("medxai.base.files").read_data((root:match "^(.+)/[^/]*$" or ".") .. "/maskmaker.json")
  return listing.is_folder(below) and below or root, described and described.mode or "lungs"
end

local classes_option = { "table", of = "string",
  doc = "names of the class folders in the order of labels; default: COVID-19, Non-COVID, Normal, else by name" }

local specs = {
  folders = base.spec { classes = classes_option },
  masked_folders = base.spec { classes = classes_option, input = false, mask = false,
    root = { "string", field = "data", doc = "the folder that maskmaker wrote, or the one of Masked_Train" },
    part = { one_of = { "lung", "infection" }, field = true, default = "lung",
      doc = "of the data that maskmaker copied" } },
}

local function read(what, options, prefix, masked)
  local o = Options.check(what, options, specs[what])
  local root, items, notes, input = listing.root(what, o.root), {}, {}, nil
  if masked then root, input = masked_root(root, o.part) end
  local splits = find_splits(root, prefix)
  if not splits then
    local shown = prefix == "" and "" or "Masked_"
    check.fail("dataset", "no split folders in '%s' (looked for %sTrain, %sVal and %sTest; %s). Give the folder "
      .. "above them as root = 'DIR' or --data DIR.", root, shown, shown, shown, listing.there(root))
  end
  local classes = o.classes and listing.check_classes(what, o.classes) or find_classes(root, splits, notes)
  for _, split in ipairs(base.split_names) do
    if splits[split] then read_split(items, root, split, splits[split], classes, notes) end
  end
  local kept, skip_notes = listing.without_skipped(items,
    listing.skips({ root }, o.skip), function(item) return { item.path } end)
  table.move(skip_notes, 1, #skip_notes, #notes + 1, notes)
  if not masked and o.input ~= "whole" then
    check.fail(what, "input = '%s' needs lung masks, which class folders do not have. Use covid_qu_ex, manifest or "
      .. "masked_folders.", o.input)
  end
  return base.make { name = what, root = root, classes = classes, items = kept, options = o, notes = notes,
    input = input, empty_ok = o.part == "infection" }
end

return {
  folders = {
    doc = "Class folders: <split>/<class>/*.png (or JPEG), splits Train, Val and Test in any spelling.",
    options = specs.folders,
    read = function(options) return read("folders", options, "") end,
  },
  masked_folders = {
    doc = "What xai.maskmaker wrote: Masked_<Split>/<class>/*.png. The masking was done then; its input is "
    .. "maskmaker's mode.", options = specs.masked_folders,
    read = function(options) return read("masked_folders", options, "masked_", true) end,
  },
}
