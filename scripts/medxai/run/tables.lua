-- Tables that several steps of a run write to: verdicts.csv, tables/pairs.csv. Each step's rows have its name as the
-- first word of their family, and stand in the place of those that it wrote before, so that a step that is done again,
-- or a run that was killed, leaves the same bytes. It refuses columns that a table does not have.
local check = require "medxai.base.check"
local csv = require "medxai.base.csv"
local files = require "medxai.base.files"

local tables = {}

tables.verdicts = { "subject", "check", "verdict", "estimate", "low", "high", "threshold", "reason", "family", "p_holm",
  "controls", "n", "units" }
tables.pairs = { "family", "endpoint", "a", "b", "estimate", "low", "high", "p", "p_holm", "decision", "test", "n",
  "units" }

-- A row without what is not a number: an empty field says that there is none.
local function plain(row, known, name)
  local out = {}
  for key, value in pairs(row) do
    if not known[key] then check.fail("tables", "%s has no column '%s'.", name, key) end
    if value == value then out[key] = value end
  end
  return out
end

--- Writes a table of the run, whole or not at all; NaN becomes an empty field.
---@param run medxai.Run
---@param name string "tables/networks.csv"
---@param columns string[]
---@param rows table[]
function tables.write(run, name, columns, rows)
  local known, list = {}, {}
  for _, column in ipairs(columns) do known[column] = true end
  for i, row in ipairs(rows) do list[i] = plain(row, known, name) end
  csv.write(files.join(run.dir, name), columns, list)
end

--- Puts a step's rows into a table that other steps write to as well, in the place of those it put there before.
---@param run medxai.Run
---@param name string "verdicts.csv", "tables/pairs.csv"
---@param columns string[] with "family"
---@param step string the first word of these rows' families: "networks", "audit"
---@param rows table[]
function tables.put(run, name, columns, step, rows)
  local held <close> = run.leases:wait "tables" -- luacheck: ignore (held, not read)
  local all, is_there = {}, false
  local function put()
    if not is_there then table.move(rows, 1, #rows, #all + 1, all) end
    is_there = true
  end
  for _, row in ipairs(csv.read(files.join(run.dir, name)) or {}) do
    if (row.family or ""):match "^%S*" == step then
      put()
    else
      for key, value in pairs(row) do
        if value == "" then row[key] = nil end
      end
      all[#all + 1] = row
    end
  end
  put()
  tables.write(run, name, columns, all)
end

return tables
