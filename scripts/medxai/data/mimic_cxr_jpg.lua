-- MIMIC-CXR-JPG 2.0.0 (Johnson et al. 2019): mimic-cxr-2.0.0-split.csv (the authors' splits), -metadata.csv (views) and
-- -chexpert.csv or -negbio.csv (labels of a study: 1, 0, -1 uncertain, or nothing), unpacked; images
-- files/p10/p10000032/s50414267/<dicom_id>.jpg. Images of studies without labels are left out.
local check = require "medxai.base.check"
local findings = require "medxai.data.findings"
local listing = require "medxai.data.listing"
local official = require "medxai.data.official"
local Options = require "medxai.base.options"

local what = "mimic_cxr_jpg"

local all = require("medxai.data.chexpert").findings -- labels are those of CheXpert's program

local spec = official.spec({
  labeler = { one_of = { "chexpert", "negbio" }, default = "chexpert", doc = "whose labels of the reports" } }, true)

local split_of = { train = "train", validate = "val", test = "test" }

local function by(rows, column)
  local map = {}
  for _, row in ipairs(rows) do map[row[column]] = row end
  return map
end

local function read(options)
  local o = Options.check(what, options, spec)
  local root, names = listing.root(what, o.root), official.names(what, o.findings, all)
  local prefix = "mimic-cxr-2.0.0-"
  local splits, splits_name = official.table(what, root, { prefix .. "split.csv" },
    { "dicom_id", "study_id", "subject_id", "split" })
  local metadata = official.table(what, root, { prefix .. "metadata.csv" }, { "dicom_id", "ViewPosition" })
  local labels, labels_name = official.table(what, root, { prefix .. o.labeler .. ".csv" },
    { "subject_id", "study_id", table.unpack(names) })
  local study, view, items = by(labels, "study_id"), by(metadata, "dicom_id"), {}
  for _, row in ipairs(splits) do
    local label, seen, subject = study[row.study_id], view[row.dicom_id], row.subject_id
    if not split_of[row.split] then
      check.fail(what, "%s:%d: unknown split '%s' (expected train, validate or test).", splits_name, row.line,
        row.split)
    end
    if label then
      local map = {}
      for _, finding in ipairs(names) do map[finding] = label[finding:lower()] end
      items[#items + 1] = { split = split_of[row.split], patient = subject,
        path = ("files/p%s/p%s/s%s/%s.jpg"):format(subject:sub(1, 2), subject, row.study_id, row.dicom_id),
        view = seen and seen.viewposition ~= "" and seen.viewposition or nil,
        findings = findings.of_map(map, names, ("%s: %s:%d"):format(what, labels_name, label.line)) }
    end
  end
  return official.make { name = what, root = root, classes = names, items = items, findings = true, options = o }
end

return {
  doc = "MIMIC-CXR-JPG 2.0.0: the authors' splits, 14 labels per study, view positions; tables unpacked.",
  options = spec,
  read = read,
}
