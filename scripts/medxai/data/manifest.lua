-- A table of images: a CSV with a header, columns path, label, split, and where known mask (lungs), infection, lesion,
-- patient, source, view, white (the 16-bit sample that becomes white).
-- Paths are relative to the CSV's folder, or absolute. Labels are class names, or numbers from 0; `classes` fixes their
-- order, without it names are sorted and a note says so. split: train, val (valid, validation), test. Rows that name
-- files that are not there are an error that lists them with their lines.
local base = require "medxai.data.dataset"
local check = require "medxai.base.check"
local Options = require "medxai.base.options"
local suggest = require "medxai.base.suggest"
local csv = require "medxai.base.csv"
local file = require "medxai.file"
local findings = require "medxai.data.findings"
local listing = require "medxai.data.listing"

local spec = base.spec {
  root = false, findings = findings.spec.findings, uncertain = findings.spec.uncertain, missing = findings.spec.missing,
  csv = { "string", required = true, field = "data", doc = "the table, or a folder that holds manifest.csv" },
  classes = { "table", of = "string", doc = "names in the order of labels; default: by name" },
}

local split_of = { train = "train", training = "train", val = "val", valid = "val", validation = "val", test = "test",
  testing = "test", small_test = "small_test" }

local function find_csv(path)
  if listing.is_folder(path) then path = path:gsub("/+$", "") .. "/manifest.csv" end
  local text, message = file.read(path)
  if not text then check.fail("manifest", "%s.", message) end
  return path, text
end

-- Raises unless the columns are there; of findings each has one, or the column label names those of an image.
local function need_columns(columns, name, names)
  local have, needed = {}, { "path", "label", "split" }
  for _, column in ipairs(columns) do have[column] = true end
  for _, finding in ipairs(names or {}) do
    if have[finding:lower()] or not have.label then needed = { "path", "split", table.unpack(names) } end
  end
  for _, column in ipairs(needed) do
    if not have[column:lower()] then -- the header is read in lower case
      check.fail("manifest", "%s has no column '%s' (its header: %s).", name, column,
        #columns > 0 and table.concat(columns, ", ") or "none")
    end
  end
end

-- Class names in order and label text -> number.
local function read_classes(rows, table_name, given, notes)
  local seen, names, numbers = {}, {}, true
  for _, row in ipairs(rows) do
    if row.label == "" then check.fail("manifest", "%s:%d: no label.", table_name, row.line) end
    if not seen[row.label] then
      seen[row.label], names[#names + 1] = true, row.label
      numbers = numbers and math.tointeger(tonumber(row.label)) ~= nil and tonumber(row.label) >= 0
    end
  end
  local order = {}
  if numbers and #names > 0 then
    local most = 0
    for _, name in ipairs(names) do most = math.max(most, math.tointeger(tonumber(name))) end
    local classes = given or {}
    if given and most >= #given then
      check.fail("manifest", "label %d is beyond the %d classes given (labels are numbered from 0).", most, #given)
    end
    local taken = {}
    for _, name in ipairs(names) do
      order[name] = math.tointeger(tonumber(name))
      taken[order[name]] = true
    end
    for k = 0, given and -1 or most do
      if not taken[k] then
        check.fail("manifest", "%s: the labels are numbers up to %d, but none is %d. Number the classes from 0, or "
          .. "write classes = { ... }.", table_name, most, k)
      end
      classes[k + 1] = tostring(k)
    end
    return classes, order
  end
  if not given then
    table.sort(names, listing.before)
    notes[#notes + 1] = ("classes in order of name: %s. Write classes = { ... } to fix another order"):format(
      table.concat(names, ", "))
  end
  local classes = given or names
  for k, name in ipairs(classes) do order[name] = k - 1 end
  return classes, order
end

local function filled(value)
  return value ~= nil and value ~= "" and value or nil
end

local function white_of(row, name)
  local text = filled(row.white)
  local white = text and math.tointeger(tonumber(text))
  if text and not (white and white >= 1 and white <= 65535) then
    check.fail("manifest", "%s:%d: the white level '%s' is wrong (expected a number from 1 to 65535).", name, row.line,
      text)
  end
  return white
end

-- What a row says of each finding: by its columns, or as the set in the column label ("Effusion|Edema").
local function findings_of(row, names, name)
  local where = ("manifest: %s:%d"):format(name, row.line)
  if row[names[1]:lower()] == nil then return findings.of_text(row.label, names, where) end
  local map = {}
  for _, finding in ipairs(names) do map[finding] = row[finding:lower()] end
  return findings.of_map(map, names, where)
end

local function read_items(rows, order, name, classes)
  local items = {}
  for i, row in ipairs(rows) do
    local split = split_of[row.split:lower()]
    if not split then
      check.fail("manifest", "%s:%d: unknown split '%s' (expected train, val or test).", name, row.line, row.split)
    end
    if order and not order[row.label] then
      check.fail("manifest", "%s:%d: unknown class '%s'.%s", name, row.line, row.label,
        suggest.hint(row.label, classes))
    end
    if row.path == "" then check.fail("manifest", "%s:%d: no path.", name, row.line) end
    items[i] = { path = row.path, label = order and order[row.label], split = split,
      findings = not order and findings_of(row, classes, name) or nil,
      lungs = filled(row.mask) or filled(row.lungs), patient = filled(row.patient),
      source = filled(row.source), view = filled(row.view), white = white_of(row, name),
      masks = { infection = filled(row.infection), lesion = filled(row.lesion) }, line = row.line }
  end
  return items
end

-- The same path twice would be counted twice: an error. Files that are not there: listed together.
local function check_files(items, root, name)
  local seen, missing, first = {}, {}, nil
  for _, item in ipairs(items) do
    local plain = item.path:gsub("/%.?/+", "/"):gsub("^%./", "")
    if seen[plain] then
      check.fail("manifest", "%s:%d: '%s' is already in line %d.", name, item.line, item.path, seen[plain])
    end
    seen[plain] = item.line
    for _, path in ipairs { item.path, item.lungs or item.path, item.masks.infection or item.path,
        item.masks.lesion or item.path } do
      local full = path:sub(1, 1) == "/" and path or root .. "/" .. path
      if not listing.is_file(full) and missing[#missing] ~= ("%s:%d: '%s'"):format(name, item.line, path) then
        missing[#missing + 1] = ("%s:%d: '%s'"):format(name, item.line, path)
        first = first or full
      end
    end
  end
  if #missing == 0 then return end
  local shown = table.concat(missing, "\n  ", 1, math.min(20, #missing))
  check.fail("manifest", "%d %s not there (paths are relative to '%s'; the first would be '%s'):\n  %s%s", #missing,
    #missing == 1 and "file is" or "files are", root, first, shown,
    #missing > 20 and ("\n  and %d more"):format(#missing - 20) or "")
end

local function read(options)
  local o = Options.check("manifest", options, spec)
  local path, text = find_csv(o.csv)
  local root, name, notes = path:match "^(.*)/[^/]*$" or ".", path:match "[^/]+$", {}
  if root == "" then root = "/" end
  local rows, columns = csv.parse(text, name, "manifest")
  local names = findings.names("manifest", o)
  need_columns(columns, name, names)
  if #rows == 0 then check.fail("manifest", "%s has no rows.", name) end
  local classes, order = names, nil
  if not names then
    classes, order = read_classes(rows, name, o.classes and listing.check_classes("manifest", o.classes), notes)
  end
  local items = read_items(rows, order, name, classes)
  local kept, skip_notes = listing.without_skipped(items,
    listing.skips({ root }, o.skip), function(item) return { item.path } end)
  table.move(skip_notes, 1, #skip_notes, #notes + 1, notes)
  check_files(kept, root, name)
  return base.make { name = "manifest", root = root, classes = classes, items = kept, findings = names ~= nil,
    masks = { "lungs", "infection", "lesion" }, options = o, notes = notes }
end

return {
  doc = "A table of images, a CSV with a header: path, label, split, and where known mask (of the lungs), infection, "
    .. "lesion, patient, source, view, white. Paths are relative to the CSV's folder. With findings: a column for "
    .. "each, or label as \"Effusion|Edema\".",
  options = spec,
  read = read,
}
