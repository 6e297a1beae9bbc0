-- NIH ChestX-ray14 (Wang et al. 2017, "ChestX-ray8"): Data_Entry_2017*.csv, the authors' lists train_val_list.txt and
-- test_list.txt, and BBox_List_2017.csv, whose boxes are masks ("lesion": all of an image; "Effusion": those of that
-- finding). Images lie in images/ or images_001/images/ to images_012/images/. The validation split is drawn by
-- patient.
local csv = require "medxai.base.csv"
local file = require "medxai.file"
local findings = require "medxai.data.findings"
local listing = require "medxai.data.listing"
local official = require "medxai.data.official"
local Options = require "medxai.base.options"

local what = "nih_chestxray14"

local all = { "Atelectasis", "Cardiomegaly", "Effusion", "Infiltration", "Mass", "Nodule", "Pneumonia", "Pneumothorax",
  "Consolidation", "Edema", "Emphysema", "Fibrosis", "Pleural_Thickening", "Hernia" }

local spec = official.spec({ val = official.val }, true)

-- Name of an image -> its path below root.
local function find_images(root)
  local path = {}
  local folders = { "images" }
  for _, name in ipairs(listing.folders(root)) do
    if name:find "^images_%d+$" then folders[#folders + 1] = name .. "/images" end
  end
  for _, folder in ipairs(folders) do
    for _, name in ipairs(listing.names(root .. "/" .. folder)) do path[name] = folder .. "/" .. name end
  end
  return path
end

-- Name of an image -> boxes. The header holds a comma in a name and empty columns, so the lines are read as they are.
local function read_boxes(root)
  local text, boxes = file.read(root .. "/BBox_List_2017.csv"), {}
  for line in (text or ""):gmatch "[^\r\n]+" do
    local image, finding, x, y, w, h = line:match "^([^,]+%.png),([^,]+),([%d%.]+),([%d%.]+),([%d%.]+),([%d%.]+)"
    if image then
      boxes[image] = boxes[image] or { side = 1024 }
      table.insert(boxes[image], { finding = finding == "Infiltrate" and "Infiltration" or finding, x = tonumber(x),
        y = tonumber(y), w = tonumber(w), h = tonumber(h) })
    end
  end
  return boxes
end

-- The set that "Effusion|Edema" says, of the findings asked for.
local function findings_of(text, names)
  local map, has = {}, {}
  for name in text:gmatch "[^|]+" do has[csv.trim(name)] = true end
  for _, name in ipairs(names) do map[name] = has[name] and 1 or 0 end
  return map
end

local function read(options)
  local o = Options.check(what, options, spec)
  local root, names = listing.root(what, o.root), official.names(what, o.findings, all)
  local rows, name = official.table(what, root, { "Data_Entry_2017_v2020.csv", "Data_Entry_2017.csv" },
    { "Image Index", "Finding Labels", "Patient ID", "View Position" })
  local train, test = official.list(what, root, "train_val_list.txt"), official.list(what, root, "test_list.txt")
  local paths, boxes, items, absent = find_images(root), read_boxes(root), {}, {}
  for _, row in ipairs(rows) do
    local image = row["image index"]
    local split = train[image] and "train" or test[image] and "test"
    if split and paths[image] then
      items[#items + 1] = { path = paths[image], split = split, patient = row["patient id"],
        view = row["view position"], boxes = boxes[image],
        findings = findings.of_map(findings_of(row["finding labels"], names), names, name .. ":" .. row.line) }
    elseif split then
      absent[#absent + 1] = image
    end
  end
  local drawn = official.draw_val(items, o.val)
  return official.make { name = what, root = root, classes = names, items = items, absent = absent, findings = true,
    masks = { "lesion", table.unpack(all) }, options = o, config = { split = drawn } }
end

return {
  doc = "NIH ChestX-ray14: Data_Entry_2017.csv, the authors' train_val_list.txt and test_list.txt, boxes as masks.",
  options = spec,
  read = read,
}
