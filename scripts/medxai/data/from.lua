-- A data set from a list that the experiment makes: xai.dataset.from { items = { { path =, label =, patient = }, ... },
-- classes = { ... } }. A reader beside the experiment (xai.dataset.my_reader, my_reader.lua) returns such options.
-- Splits are the items' own, or made here: all images of a patient in one, drawn per seed and patient.
-- It refuses items without a file, labels outside the classes, and a mixture of items with and without a split.
local base = require "medxai.data.dataset"
local check = require "medxai.base.check"
local Options = require "medxai.base.options"
local current_seed = require "medxai.run.current_seed"
local dicom = require "medxai.data.dicom"
local files = require "medxai.base.files"
local findings = require "medxai.data.findings"
local listing = require "medxai.data.listing"
local suggest = require "medxai.base.suggest"

local from = {}

---@class medxai.Item an image of xai.dataset.from
---@field path string below root, or absolute
---@field label string|integer|table its class, by name or number from 0; of findings a set, numbers by name, or a text
---@field split? "train"|"val"|"test"
---@field patient? string|integer
---@field source? string
---@field view? string view position: "PA", "AP", "LATERAL"
---@field mask? string of the lungs
---@field infection? string a mask
---@field lesion? string a mask
---@field white? integer the 16-bit sample that becomes white

local shares_spec = {
  train = { "number", default = 0.7, min = 0, max = 1, doc = "share of the patients" },
  val = { "number", default = 0.1, min = 0, max = 1, doc = "share of the patients" },
  test = { "number", default = 0.2, min = 0, max = 1, doc = "share of the patients" },
}

local own = {
  root = { "string", field = "data", default = ".", doc = "the folder that paths are relative to" },
  items = { "table", required = true, lua = "medxai.Item[]",
    doc = "{ path =, label = }, and where known split, patient, source, view, mask (of the lungs), infection, "
    .. "lesion, white" },
  classes = { "table", of = "string", doc = "names in the order of labels" },
  split = { "table", fields = shares_spec,
    doc = "of items without one: shares of the patients; default train 0.7, val 0.1, test 0.2" },
}
for key, rule in pairs(findings.spec) do own[key] = rule end
from.options = base.spec(own)

local split_of = { train = "train", training = "train", val = "val", valid = "val", validation = "val", test = "test",
  testing = "test" }

local item_fields = { "path", "label", "split", "patient", "source", "view", "mask", "infection", "lesion", "white" }

local function label_of(label, classes, where)
  if label == nil then check.fail(where, "no label.") end
  local number = math.tointeger(label)
  if number then
    if number >= 0 and number < #classes then return number end
    check.fail(where, "label %d is beyond the %d classes (labels are numbered from 0).", number, #classes)
  end
  for k, class in ipairs(classes) do
    if class == label then return k - 1 end
  end
  check.fail(where, "unknown class '%s'.%s", tostring(label), suggest.hint(tostring(label), classes))
end

local function text_of(item, key, where)
  local value = item[key]
  if value == nil then return nil end
  if key == "patient" and math.type(value) then return tostring(value) end
  if type(value) ~= "string" or value == "" then
    check.fail(where, "'%s' is %s (expected a text).", key, value == "" and "empty" or "a " .. type(value))
  end
  return value
end

local function read_item(given, i, classes, names)
  local where = "from: item " .. i
  if type(given) ~= "table" then
    check.fail(where, "is a %s (expected { path = \"a.png\", label = ... }).", type(given))
  end
  for _, key in ipairs(check.sorted_keys(given)) do check.known(where, "field", key, item_fields) end
  local item = { path = text_of(given, "path", where), patient = text_of(given, "patient", where),
    source = text_of(given, "source", where), view = text_of(given, "view", where),
    lungs = text_of(given, "mask", where),
    masks = { infection = text_of(given, "infection", where), lesion = text_of(given, "lesion", where) } }
  if not item.path then check.fail(where, "no path.") end
  local split = text_of(given, "split", where)
  item.split = split and split_of[split:lower()]
  if split and not item.split then check.fail(where, "unknown split '%s' (expected train, val or test).", split) end
  if given.white ~= nil then
    item.white = math.tointeger(given.white)
    if not item.white or item.white < 1 or item.white > 65535 then
      check.fail(where, "the white level is wrong (expected a number from 1 to 65535, got %s).", tostring(given.white))
    end
  end
  if names then item.findings = findings.of_label(given.label, names, where)
  else item.label = label_of(given.label, classes, where) end
  return item
end

-- The item's place in 0 to 1, the same for all images of a patient whatever else is in the list.
function from.place(item, seed)
  local key = item.patient and "patient " .. (item.patient_key or item.patient) or "image " .. item.path
  return tonumber(files.sha256(("from@1\0%d\0%s"):format(seed, key)):sub(1, 13), 16) / 0x1p52
end

local function set_splits(items, given)
  local without
  for i, item in ipairs(items) do
    if not item.split then without = without or i end
  end
  if not without then
    if given then check.fail("from", "the items have splits of their own. Leave the option 'split' out.") end
    return nil
  end
  for i, item in ipairs(items) do
    if item.split then
      check.fail("from", "item %d has a split, item %d has none. Give all of them one, or none.", i, without)
    end
  end
  local shares = Options.check("from: split", given, shares_spec)
  local sum = shares.train + shares.val + shares.test
  if sum <= 0 then check.fail("from: split", "the shares are all 0.") end
  local seed = current_seed.get() or 42
  for _, item in ipairs(items) do
    local u = from.place(item, seed) * sum
    item.split = u < shares.train and "train" or u < shares.train + shares.val and "val" or "test"
  end
  return { seed = seed, train = shares.train / sum, val = shares.val / sum, test = shares.test / sum }
end

-- The same path twice would be counted twice; files that are not there are told together.
local function check_files(items, root)
  local seen, missing = {}, {}
  for i, item in ipairs(items) do
    local plain = item.path:gsub("/%.?/+", "/"):gsub("^%./", "")
    if seen[plain] then check.fail("from", "item %d: '%s' is item %d already.", i, item.path, seen[plain]) end
    seen[plain] = i
    local paths = { item.path }
    for _, path in ipairs { item.lungs or false, item.masks.infection or false, item.masks.lesion or false } do
      paths[#paths + 1] = path or nil
    end
    for _, path in ipairs(paths) do
      if not listing.is_file(path:sub(1, 1) == "/" and path or root .. "/" .. path) then
        missing[#missing + 1] = ("item %d: '%s'"):format(i, path)
      end
    end
  end
  if #missing == 0 then return end
  check.fail("from", "%d %s not there (paths are relative to '%s'):\n  %s%s", #missing,
    #missing == 1 and "file is" or "files are", root, table.concat(missing, "\n  ", 1, math.min(20, #missing)),
    #missing > 20 and ("\n  and %d more"):format(#missing - 20) or "")
end

--- The data set of a list of items; name: of the reader that made it.
---@param options table
---@param name? string
---@return medxai.Dataset
function from.make(options, name)
  local o = Options.check("from", options, from.options)
  local names = findings.names("from", o)
  if not names and not o.classes then
    check.fail("from", "option 'classes' is missing (expected names in the order of labels). Or write findings = "
      .. "{ ... }.")
  end
  local classes, items = names or listing.check_classes("from", o.classes), {}
  for i = 1, #o.items do items[i] = read_item(o.items[i], i, classes, names) end
  if #items == 0 then check.fail("from", "the list of items is empty.") end
  local root = listing.root("from", o.root)
  check_files(items, root)
  local kept, notes = listing.without_skipped(items, listing.skips({ root }, o.skip), function(item)
    return { item.path }
  end)
  local said = dicom.describe(kept, root) -- patients decide splits
  table.move(said, 1, #said, #notes + 1, notes)
  local drawn = set_splits(kept, o.split)
  return base.make { name = name or "from", root = root, classes = { table.unpack(classes) }, items = kept,
    findings = names ~= nil, masks = { "lungs", "infection", "lesion" }, options = o, notes = notes,
    config = { split = drawn } }
end

function from.read(options) return from.make(options) end

from.doc = "A list of images that the experiment makes: items = { { path =, label =, patient = }, ... }."

return from
