-- VinDr-CXR (Nguyen et al. 2022), as PhysioNet has it: DICOM files train/<image_id>.dicom and test/<image_id>.dicom
-- with annotations/image_labels_{train,test}.csv and annotations_{train,test}.csv, whose boxes are masks ("lesion": all
-- of an image; "Cardiomegaly": of that finding). The authors' splits; the tables know no patients. Three radiologists
-- read each training image: a finding is there where at least `agree` of them say so. The validation split is drawn per
-- image.
local check = require "medxai.base.check"
local findings = require "medxai.data.findings"
local listing = require "medxai.data.listing"
local official = require "medxai.data.official"
local Options = require "medxai.base.options"

local what = "vindr_cxr"

local all = { "Aortic enlargement", "Atelectasis", "Calcification", "Cardiomegaly", "Clavicle fracture",
  "Consolidation", "Edema", "Emphysema", "Enlarged PA", "ILD", "Infiltration", "Lung Opacity", "Lung cavity",
  "Lung cyst", "Mediastinal shift", "Nodule/Mass", "Pleural effusion", "Pleural thickening", "Pneumothorax",
  "Pulmonary fibrosis", "Rib fracture", "Other lesion", "COPD", "Lung tumor", "Pneumonia", "Tuberculosis",
  "Other disease", "No finding" }

local spec = official.spec({ val = official.val,
  agree = { "integer", default = 2, min = 1, max = 3, unit = "radiologists",
    doc = "of three, who must say that a training image has a finding" } }, true)

-- The other spelling of a column: PhysioNet's tables say "Other disease" and "Other diseases".
local function value_of(row, finding)
  return row[finding:lower()] or row[finding:lower() .. "s"]
end

-- image -> { votes by finding }, and the images in order.
local function read_votes(rows, name, names)
  local votes, order = {}, {}
  for _, row in ipairs(rows) do
    local id = row.image_id
    if not votes[id] then votes[id], order[#order + 1] = {}, id end
    for _, finding in ipairs(names) do
      local v = value_of(row, finding)
      if v ~= "0" and v ~= "1" then
        check.fail(what, "%s:%d: the finding '%s' is '%s' (expected 0 or 1).", name, row.line, finding, tostring(v))
      end
      votes[id][finding] = (votes[id][finding] or 0) + tonumber(v)
    end
  end
  return votes, order
end

local function read_boxes(rows, name)
  local boxes = {}
  for _, row in ipairs(rows) do
    if row.x_min ~= "" and row.class_name ~= "No finding" then
      local left, top = official.number(what, name, row, "x_min"), official.number(what, name, row, "y_min")
      boxes[row.image_id] = boxes[row.image_id] or {}
      table.insert(boxes[row.image_id], { finding = row.class_name, x = left, y = top,
        w = official.number(what, name, row, "x_max") - left, h = official.number(what, name, row, "y_max") - top })
    end
  end
  return boxes
end

local function read_split(items, absent, root, split, names, least)
  local rows, name = official.table(what, root, { ("annotations/image_labels_%s.csv"):format(split) }, { "image_id" })
  local box_rows, box_name = official.table(what, root, { ("annotations/annotations_%s.csv"):format(split) },
    { "image_id", "class_name", "x_min", "y_min", "x_max", "y_max" })
  local votes, order = read_votes(rows, name, names)
  local boxes, there = read_boxes(box_rows, box_name), {}
  for _, file in ipairs(listing.names(root .. "/" .. split)) do there[file:match "^(.*)%.[^.]+$" or file] = file end
  for _, id in ipairs(order) do
    local map = {}
    for _, finding in ipairs(names) do map[finding] = votes[id][finding] >= least and 1 or 0 end
    if there[id] then
      items[#items + 1] = { path = split .. "/" .. there[id], split = split, patient = id, boxes = boxes[id],
        findings = findings.of_map(map, names, name) }
    else
      absent[#absent + 1] = id
    end
  end
end

local function read(options)
  local o = Options.check(what, options, spec)
  local root, names, items = listing.root(what, o.root), official.names(what, o.findings, all), {}
  local absent = {}
  read_split(items, absent, root, "train", names, o.agree)
  local drawn = official.draw_val(items, o.val)
  read_split(items, absent, root, "test", names, 1) -- the consensus of five
  return official.make { name = what, root = root, classes = names, items = items, absent = absent, findings = true,
    masks = { "lesion", table.unpack(all, 1, 22) }, options = o, config = { split = drawn, agree = o.agree } }
end

return {
  doc = "VinDr-CXR: DICOM files, the authors' splits, radiologists' findings and boxes (as masks).",
  options = spec,
  read = read,
}
