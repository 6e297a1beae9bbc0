-- RSNA Pneumonia Detection Challenge (Shih et al. 2019): DICOM files stage_2_train_images/ID.dcm with
-- stage_2_train_labels.csv (boxes, which are the mask "lesion") and stage_2_detailed_class_info.csv. The test images
-- have no labels; splits are drawn by the identifiers of the table, each of which is one image.
local check = require "medxai.base.check"
local listing = require "medxai.data.listing"
local official = require "medxai.data.official"
local Options = require "medxai.base.options"

local what = "rsna_pneumonia"

-- As the table says them, in the order of labels.
local classes = { "Normal", "No Lung Opacity / Not Normal", "Lung Opacity" }

local spec = official.spec { split = official.shares }

local function read_boxes(rows, name)
  local boxes = {}
  for _, row in ipairs(rows) do
    local id = row.patientid
    if row.target == "1" then
      boxes[id] = boxes[id] or { side = 1024 }
      table.insert(boxes[id], { x = official.number(what, name, row, "x"), y = official.number(what, name, row, "y"),
        w = official.number(what, name, row, "width"), h = official.number(what, name, row, "height") })
    end
  end
  return boxes
end

local function read(options)
  local o = Options.check(what, options, spec)
  local root, label = listing.root(what, o.root), {}
  local labels, labels_name = official.table(what, root, { "stage_2_train_labels.csv" },
    { "patientId", "x", "y", "width", "height", "Target" })
  local rows, name = official.table(what, root, { "stage_2_detailed_class_info.csv" }, { "patientId", "class" })
  for k, class in ipairs(classes) do label[class] = k - 1 end
  local boxes, there, items, absent, seen = read_boxes(labels, labels_name), {}, {}, {}, {}
  for _, file in ipairs(listing.names(root .. "/stage_2_train_images")) do there[file] = true end
  for _, row in ipairs(rows) do -- one row for each box: an image is told several times
    local id = row.patientid
    if not label[row.class] then
      check.fail(what, "%s:%d: unknown class '%s' (expected %s).", name, row.line, row.class,
        table.concat(classes, ", "))
    end
    if not seen[id] and not there[id .. ".dcm"] then
      absent[#absent + 1] = id
    elseif not seen[id] then
      items[#items + 1] = { path = "stage_2_train_images/" .. id .. ".dcm", label = label[row.class], patient = id,
        boxes = boxes[id] }
    end
    seen[id] = true
  end
  local drawn = official.draw_splits(what, items, o.split)
  return official.make { name = what, root = root, classes = { table.unpack(classes) }, items = items,
    absent = absent, masks = { "lesion" }, options = o, config = { split = drawn } }
end

return {
  doc = "RSNA Pneumonia Detection Challenge: DICOM files with stage_2_train_labels.csv (boxes as masks) and "
    .. "stage_2_detailed_class_info.csv.",
  options = spec,
  read = read,
}
