-- A single file or a list of files as a dataset: files "a.png", files { "a.png", "b.png" }, or
-- files { paths = { ... }, label = "Normal" or one per file, classes = { ... }, lungs = one per file }. They are its
-- test split. Without labels y is -1 and nothing that needs the truth can be asked.
local base = require "medxai.data.dataset"
local check = require "medxai.base.check"
local Options = require "medxai.base.options"
local suggest = require "medxai.base.suggest"
local listing = require "medxai.data.listing"

local spec = base.spec {
  root = false, skip = false,
  paths = { "string|table", required = true, field = "data", lua = "string|string[]",
    doc = "one image file, or a list" },
  label = { "string|integer|table", lua = "string|integer|(string|integer)[]",
    doc = "class by name or number from 0: one, or one per file" },
  classes = { "table", of = "string", doc = "names in the order of labels" },
  lungs = { "string|table", lua = "string|string[]", doc = "lung mask file: one, or one per file" },
}

-- files "a.png" and files { "a.png", size_px = 128 } become files { paths = ... }.
local function named(options)
  if type(options) == "string" then return { paths = { options } } end
  if type(options) ~= "table" or options[1] == nil then return options end
  local out = { paths = {} }
  for key, value in pairs(options) do
    if math.type(key) == "integer" then out.paths[key] = value else out[key] = value end
  end
  return out
end

local function label_of(value, classes)
  if value == nil then return nil end
  local number = math.tointeger(value)
  if number then
    if number < 0 or (#classes > 0 and number >= #classes) then
      check.fail("files", "label %d is beyond the %d classes (labels are numbered from 0).", number, #classes)
    end
    return number
  end
  for k, class in ipairs(classes) do
    if class == value then return k - 1 end
  end
  check.fail("files", "unknown class '%s'.%s", tostring(value),
    #classes == 0 and " Write classes = { ... }." or suggest.hint(tostring(value), classes))
end

local function each(value, i, n, what)
  if type(value) ~= "table" then return value end
  if #value ~= n then check.fail("files", "%s has %d entries for %d files.", what, #value, n) end
  return value[i]
end

local function read(options)
  local o = Options.check("files", named(options), spec)
  local paths = type(o.paths) == "string" and { o.paths } or o.paths
  local classes = o.classes and listing.check_classes("files", o.classes) or {}
  local items, n = {}, #paths
  if n == 0 then check.fail("files", "the list of files is empty.") end
  for i, path in ipairs(paths) do
    if type(path) ~= "string" then check.fail("files", "path %d is a %s (expected a string).", i, type(path)) end
    if listing.is_folder(path) then
      check.fail("files", "'%s' is a folder. Use xai.dataset.folders { root = '%s' }, or name its files.", path, path)
    end
    if not listing.is_file(path) then
      check.fail("files", "'%s' does not exist (%s).", path, listing.there(path:match "^(.+)/[^/]*$" or "."))
    end
    items[i] = { path = path, split = "test", label = label_of(each(o.label, i, n, "label"), classes),
      lungs = each(o.lungs, i, n, "lungs") }
  end
  return base.make { name = "files", classes = classes, items = items, masks = { "lungs" }, options = o,
    empty_ok = true }
end

return {
  doc = "One image file or a list of them, as a test split: files \"a.png\", files { \"a.png\", \"b.png\" }.",
  options = spec,
  read = read,
}
