-- CheXpert (Irvin et al. 2019): train.csv and valid.csv with 14 observations of 1, 0, -1 (uncertain) or nothing, and,
-- where it is there, test.csv or test_labels.csv. With a test table valid.csv is the validation split, as the authors
-- have it; without one it is the test split, and the validation split is drawn from the training patients.
local findings = require "medxai.data.findings"
local listing = require "medxai.data.listing"
local official = require "medxai.data.official"
local Options = require "medxai.base.options"
local check = require "medxai.base.check"

local what = "chexpert"

local chexpert = {}

chexpert.findings = { "No Finding", "Enlarged Cardiomediastinum", "Cardiomegaly", "Lung Opacity", "Lung Lesion",
  "Edema", "Consolidation", "Pneumonia", "Atelectasis", "Pneumothorax", "Pleural Effusion", "Pleural Other", "Fracture",
  "Support Devices" }

chexpert.options = official.spec({ val = official.val }, true)

-- "CheXpert-v1.0-small/train/patient00001/study1/view1_frontal.jpg" -> its path below the folder of the tables.
local function path_of(text) return text:match "^CheXpert[^/]*/(.+)$" or text end

local function view_of(row)
  local side = row["frontal/lateral"] or (row.path:find("lateral", 1, true) and "Lateral" or "Frontal")
  return side == "Lateral" and "LATERAL" or row["ap/pa"] ~= "" and row["ap/pa"] or nil
end

local function add(items, rows, name, names, split)
  for _, row in ipairs(rows) do
    local map, path = {}, path_of(row.path)
    for _, finding in ipairs(names) do map[finding] = row[finding:lower()] end
    local patient = path:match "patient%d+"
    if not patient then
      check.fail(what, "%s:%d: no patient in the path '%s' (expected .../patient00001/...).", name, row.line, row.path)
    end
    items[#items + 1] = { path = path, split = split, patient = patient, view = view_of(row),
      findings = findings.of_map(map, names, ("%s: %s:%d"):format(what, name, row.line)) }
  end
end

function chexpert.read(options)
  local o = Options.check(what, options, chexpert.options)
  local root, names = listing.root(what, o.root), official.names(what, o.findings, chexpert.findings)
  local columns, items = { "Path", table.unpack(names) }, {}
  local train, train_name = official.table(what, root, { "train.csv" }, columns)
  local valid, valid_name = official.table(what, root, { "valid.csv", "val.csv" }, columns)
  local test, test_name = official.table(what, root, { "test.csv", "test_labels.csv" }, columns, true)
  add(items, train, train_name, names, "train")
  local drawn = not test and official.draw_val(items, o.val) or nil
  add(items, valid, valid_name, names, test and "val" or "test")
  if test then add(items, test, test_name, names, "test") end
  return official.make { name = what, root = root, classes = names, items = items, findings = true, options = o,
    config = { split = drawn } }
end

chexpert.doc = "CheXpert: train.csv, valid.csv and where it is there test.csv, with 14 observations; paths as they say."

return chexpert
