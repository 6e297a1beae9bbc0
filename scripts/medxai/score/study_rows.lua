-- The long rows of a study, study/scores.csv: a value of one map under one metric, with everything that says whose it
-- is.
-- Written as text by the cells, read back here by column: of 100,000 rows only the columns that tables need are kept.
-- Times are not in it, since the same study gives the same bytes: they stand in study/cells.jsonl.
local check = require "medxai.base.check"
local csv = require "medxai.base.csv"
local files = require "medxai.base.files"
local metric = require "medxai.score.registry"

local rows = {}

rows.columns = { table.unpack(metric.columns) }
for _, name in ipairs { "run", "network", "train_seed", "input", "weights_sha256", "explainer_seed", "control",
  "control_of", "direction", "forwards", "backwards" } do
  rows.columns[#rows.columns + 1] = name
end

-- What tables are made of; numbers are read as such.
local wanted = { "image_id", "patient", "source", "method", "metric", "value", "chance", "status", "undefined", "label",
  "predicted", "correct", "run", "network", "train_seed", "explainer_seed", "control", "direction", "forwards",
  "backwards", "unit" }
local numeric = { value = true, chance = true, forwards = true, backwards = true }

local function number_of(text) return tonumber(text) or 0 / 0 end

-- Fields of a line without quotes.
local function split_line(line, fields)
  local n = 0
  for field in (line .. ","):gmatch "([^,]*)," do
    n = n + 1
    fields[n] = field
  end
  return n
end

-- Fields of a line with quotes; texts with line ends were never written.
local function quoted_line(line, fields)
  local n, at = 0, 1
  while at <= #line + 1 do
    n = n + 1
    if line:sub(at, at) == '"' then
      local parts = {}
      repeat
        local stop = line:find('"', at + 1, true) or #line + 1
        parts[#parts + 1] = line:sub(at + 1, stop - 1)
        at = stop + 1
      until line:sub(at, at) ~= '"'
      fields[n] = table.concat(parts, '"')
      at = at + 1
    else
      local stop = line:find(",", at, true) or #line + 1
      fields[n] = line:sub(at, stop - 1)
      at = stop + 1
    end
  end
  return n
end

--- Reads a scores.csv by column: list.value[i], list.method[i] ...; texts but for value, chance, forwards, backwards,
--- which are numbers, NaN where empty; list.n rows. nil where there is no file.
---@param path string
---@return table|nil
function rows.read(path)
  local text = files.read(path)
  if not text then return nil end
  local list, place, fields, columns, n = {}, {}, {}, nil, 0
  for line in text:gmatch "([^\n]+)" do
    local count = (line:find('"', 1, true) and quoted_line or split_line)(line, fields)
    if not columns then
      columns = count
      for i = 1, count do place[fields[i]] = i end
      for _, name in ipairs(wanted) do
        if not place[name] then check.fail("study", "'%s' has no column '%s'.", path, name) end
        list[name] = {}
      end
    elseif count ~= columns then
      check.fail("study", "%s:%d: %d fields (expected %d). Delete the file and run again.", path, n + 2, count, columns)
    else
      n = n + 1
      for _, name in ipairs(wanted) do
        local value = fields[place[name]]
        list[name][n] = numeric[name] and number_of(value) or value
      end
    end
  end
  list.n = n
  return list
end

--- One line of scores.csv, with its line end. Line ends within texts (a method's own words) become blanks.
---@param row table
---@return string
function rows.line(row)
  for _, name in ipairs { "undefined", "path", "patient", "source" } do
    if type(row[name]) == "string" then row[name] = row[name]:gsub("[\r\n]+", " ") end
  end
  return csv.line(rows.columns, row) .. "\n"
end

--- The header's line.
function rows.header() return table.concat(rows.columns, ",") .. "\n" end

return rows
