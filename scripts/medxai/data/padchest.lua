-- PadChest (Bustos et al. 2020): PADCHEST_chest_x_ray_images_labels_160K_01.02.19.csv, images as <ImageDir>/<ImageID>
-- or in one folder images/. Labels are lists such as ['pleural effusion', 'cardiomegaly']. The authors gave no split:
-- patients are drawn. Rows without labels, and those whose image is not there, are left out; the latter are counted.
local check = require "medxai.base.check"
local findings = require "medxai.data.findings"
local listing = require "medxai.data.listing"
local official = require "medxai.data.official"
local Options = require "medxai.base.options"

local what = "padchest"

local spec = official.spec { split = official.shares, uncertain = findings.spec.uncertain,
  missing = findings.spec.missing,
  findings = { "table", of = "string", required = true,
    doc = "those to be learned, of the 174 that the data have: { \"pleural effusion\", \"cardiomegaly\" }" },
  labels_by = { one_of = { "all", "Physician" }, default = "all",
    doc = "Physician: those images alone whose labels a physician gave (column MethodLabel)" } }

-- Lists of the table's labels are Python's: ['a', 'b'].
local function labels_of(text)
  local set = {}
  for name in text:gmatch "['\"]%s*([^'\"]-)%s*['\"]" do set[name:lower()] = true end
  return set
end

-- Where an image lies: folder -> names is listed once.
local function finder(root)
  local folders = {}
  return function(dir, name)
    for _, folder in ipairs { dir, "images" } do
      if not folders[folder] then
        folders[folder] = {}
        for _, other in ipairs(listing.names(root .. "/" .. folder)) do folders[folder][other] = true end
      end
      if folders[folder][name] then return folder .. "/" .. name end
    end
  end
end

local function check_seen(names, seen)
  for _, name in ipairs(names) do
    if not seen[name:lower()] then
      check.fail(what, "no image has the finding '%s'. Known here: %s.", name,
        table.concat(check.sorted_keys(seen), ", ", 1, math.min(12, #check.sorted_keys(seen))))
    end
  end
end

local function read(options)
  local o = Options.check(what, options, spec)
  local root, names = listing.root(what, o.root), listing.check_classes(what, o.findings)
  local rows, name = official.table(what, root, { "PADCHEST_chest_x_ray_images_labels_160K_01.02.19.csv" },
    { "ImageID", "ImageDir", "PatientID", "Projection", "Labels", "MethodLabel" })
  local find, items, absent, all_seen = finder(root), {}, {}, {}
  for _, row in ipairs(rows) do
    local asked = row.labels ~= "" and (o.labels_by == "all" or row.methodlabel == o.labels_by)
    local path = asked and find(row.imagedir, row.imageid)
    if path then
      local has, map = labels_of(row.labels), {}
      for label in pairs(has) do all_seen[label] = true end
      for _, finding in ipairs(names) do map[finding] = has[finding:lower()] and 1 or 0 end
      items[#items + 1] = { path = path, patient = row.patientid, view = row.projection,
        findings = findings.of_map(map, names, name .. ":" .. row.line) }
    elseif asked then
      absent[#absent + 1] = row.imageid
    end
  end
  if #items > 0 then check_seen(names, all_seen) end
  local drawn = official.draw_splits(what, items, o.split)
  return official.make { name = what, root = root, classes = { table.unpack(names) }, items = items, absent = absent,
    findings = true, options = o, config = { split = drawn, labels_by = o.labels_by } }
end

return {
  doc = "PadChest: PADCHEST_chest_x_ray_images_labels_160K_01.02.19.csv; splits are drawn by patient.",
  options = spec,
  read = read,
}
