-- What the readers of published data sets share: their tables by the names that they were published with, splits by
-- patient where the authors gave none, boxes, and the options that such readers take. It refuses tables that are not
-- there, and columns that they lack.
local base = require "medxai.data.dataset"
local check = require "medxai.base.check"
local csv = require "medxai.base.csv"
local current_seed = require "medxai.run.current_seed"
local file = require "medxai.file"
local findings = require "medxai.data.findings"
local from = require "medxai.data.from"
local listing = require "medxai.data.listing"

local official = {}

--- The options of a reader: the shared ones, those about findings where it has any, and its own.
---@param own table
---@param has_findings? boolean
function official.spec(own, has_findings)
  if has_findings then
    own.findings = { "table", of = "string", doc = "those to be learned, by the data's own names; default: all" }
    own.uncertain, own.missing = findings.spec.uncertain, findings.spec.missing
  end
  return base.spec(own)
end

official.val = { "number", default = 0.1, min = 0, max = 0.9,
  doc = "share of the training patients for validation, drawn per seed and patient: the authors gave no such split" }
official.shares = { "table", fields = {
    train = { "number", default = 0.7, min = 0, max = 1, doc = "share of the patients" },
    val = { "number", default = 0.1, min = 0, max = 1, doc = "share of the patients" },
    test = { "number", default = 0.2, min = 0, max = 1, doc = "share of the patients" } },
  doc = "shares of the patients, drawn per seed and patient: the authors gave no split" }

--- Rows of the first of these tables that is below root; with the names of its columns in lower case.
---@param what string
---@param root string
---@param names string[] relative to root
---@param columns string[] that it must have
---@param optional? boolean nil where none of them is there
---@return table[]|nil rows
---@return string|nil name
function official.table(what, root, names, columns, optional)
  for _, name in ipairs(names) do
    local text = listing.is_file(root .. "/" .. name) and file.read(root .. "/" .. name)
    if text then
      local rows, have = csv.parse(text, name, what)
      local known = {}
      for _, column in ipairs(have) do known[column] = true end
      for _, column in ipairs(columns) do
        if not known[column:lower()] then
          check.fail(what, "%s has no column '%s' (its header: %s).", name, column, table.concat(have, ", "))
        end
      end
      return rows, name
    end
    if not optional and listing.is_file(root .. "/" .. name .. ".gz") then
      check.fail(what, "'%s.gz' is compressed. Unpack it: gunzip '%s/%s.gz'", name, root, name)
    end
  end
  if optional then return nil end
  check.fail(what, "no table '%s' in '%s' (%s).", table.concat(names, "' or '"), root, listing.there(root))
end

--- The lines of a list of file names as a set.
function official.list(what, root, name)
  local text = file.read(root .. "/" .. name)
  if not text then
    check.fail(what, "no list '%s' in '%s' (%s).", name, root, listing.there(root))
  end
  local set = {}
  for line in text:gmatch "[^\r\n]+" do set[csv.trim(line)] = true end
  return set
end

--- A number in a table; raises where it is none.
function official.number(what, name, row, column)
  local v = tonumber(row[column])
  if v then return v end
  check.fail(what, "%s:%d: '%s' is '%s' (expected a number).", name, row.line, column, tostring(row[column]))
end

--- The findings to be learned: those asked for, or all that the data have.
---@param what string
---@param asked string[]|nil
---@param all string[]
function official.names(what, asked, all)
  if not asked then return { table.unpack(all) } end
  for _, name in ipairs(listing.check_classes(what, asked)) do check.known(what, "finding", name, all) end
  return { table.unpack(asked) }
end

--- Moves a share of the patients of the training split to the validation split.
function official.draw_val(items, share)
  local seed = current_seed.get() or 42
  for _, item in ipairs(items) do
    if item.split == "train" and from.place(item, seed) < share then item.split = "val" end
  end
  return { seed = seed, val = share }
end

--- Shares all items out by patient.
function official.draw_splits(what, items, shares)
  local s = require("medxai.base.options").check(what .. ": split", shares or {}, official.shares.fields)
  local seed, sum = current_seed.get() or 42, s.train + s.val + s.test
  if sum <= 0 then check.fail(what .. ": split", "the shares are all 0.") end
  for _, item in ipairs(items) do
    local u = from.place(item, seed) * sum
    item.split = u < s.train and "train" or u < s.train + s.val and "val" or "test"
  end
  return { seed = seed, train = s.train / sum, val = s.val / sum, test = s.test / sum }
end

--- The data set of a reader: without the images that skip lists name. A note counts the images of the tables that are
--- not below root.
---@param found table as dataset.make takes it, with root and items; absent: names of images that are not there
function official.make(found)
  local kept, notes = listing.without_skipped(found.items, listing.skips({ found.root }, found.options.skip),
    function(item) return { item.path } end)
  if #kept == 0 then
    check.fail(found.name, "none of its tables' images is in '%s' (%s).", found.root, listing.there(found.root))
  end
  local absent = found.absent or {}
  if #absent > 0 then
    notes[#notes + 1] = ("%d of the tables' %d images are not there, and are left out; the first is '%s'")
      :format(#absent, #found.items + #absent, absent[1])
  end
  found.items, found.notes = kept, notes
  return base.make(found)
end

return official
