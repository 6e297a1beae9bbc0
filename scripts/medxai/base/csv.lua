-- Comma-separated tables: quotes, doubled quotes, line ends within quotes, CRLF, a leading byte-order mark. Those of
-- this library are written with exact numbers and read back as they were written; those of a researcher are parsed:
-- names of columns in lower case, blanks around fields left out.
-- A researcher's table whose rows have another number of fields than its header, or whose header has a name twice, is
-- refused, naming the line.
local check = require "medxai.base.check"
local files = require "medxai.base.files"

local csv = {}

--- A text without blanks at both ends, in time that grows with its length alone.
function csv.trim(text)
  local first = text:find "%S"
  return first and text:sub(first):match ".*%S" or ""
end

-- ---- reading --------------------------------------------------------------------------------------------------------

-- The quoted field that begins at `at`, and where it ends; nil where its quote is never closed.
local function quoted(text, at)
  local parts = {}
  while true do
    local stop = text:find('"', at + 1, true)
    if not stop then return nil end
    parts[#parts + 1] = text:sub(at + 1, stop - 1)
    if text:sub(stop + 1, stop + 1) ~= '"' then return table.concat(parts), stop + 1 end
    parts[#parts + 1], at = '"', stop + 1
  end
end

-- One record from `at`: its fields, where the next begins, and how many lines it took. of: what, name, line, for
-- errors.
local function record(text, at, of)
  local fields, lines = {}, 1
  while true do
    local value
    if text:sub(at, at) == '"' then
      value, at = quoted(text, at)
      if not value then check.fail(of.what, "%s:%d: a quote is never closed.", of.name, of.line) end
      lines = lines + select(2, value:gsub("\n", ""))
    else
      local stop = text:find("[,\r\n]", at) or #text + 1
      value, at = text:sub(at, stop - 1), stop
      if of.trim then value = csv.trim(value) end
    end
    fields[#fields + 1] = value
    local mark = text:sub(at, at)
    if mark == "" then return fields, at, lines end
    if mark == "\r" or mark == "\n" then return fields, text:sub(at, at + 1) == "\r\n" and at + 2 or at + 1, lines end
    if mark ~= "," then check.fail(of.what, "%s:%d: text after a closing quote (%s).", of.name, of.line, mark) end
    at = at + 1
  end
end

-- All records that are no empty lines: lists of fields, each with its line.
local function records(text, of)
  local list, at = {}, 1
  text = text:gsub("^\xEF\xBB\xBF", "")
  of.line = 1
  while at <= #text do
    local fields, next_at, lines = record(text, at, of)
    if #fields > 1 or fields[1] ~= "" then
      fields.line = of.line
      list[#list + 1] = fields
    end
    at, of.line = next_at, of.line + lines
  end
  return list
end

-- The header's names in lower case. Of two columns of one name one would be read, and nobody could say which.
local function header(fields, what, name)
  local columns, seen = {}, {}
  for i, field in ipairs(fields) do
    local column = field:lower()
    if seen[column] and column ~= "" then
      check.fail(what, "%s:%d: the column '%s' is there twice. Rename one.", name, fields.line, column)
    end
    columns[i], seen[column] = column, true
  end
  return columns
end

--- A researcher's table: rows as tables by column name (lower case), each with `line`; and the column names in order.
---@param text string
---@param name string of the file, for errors
---@param what string what complains: "manifest"
---@return table[] rows
---@return string[] columns
function csv.parse(text, name, what)
  local zero = text:find("\0", 1, true)
  if zero then
    local _, before = text:sub(1, zero):gsub("\n", "")
    check.fail(what, "%s:%d: there are zero bytes (is it UTF-16?). Save the table as UTF-8.", name, before + 1)
  end
  local list, rows = records(text, { what = what, name = name, trim = true }), {}
  local columns = list[1] and header(list[1], what, name) or {}
  for i = 2, #list do
    local fields = list[i]
    if #fields ~= #columns then
      check.fail(what, "%s:%d: %d fields (expected %d: %s).", name, fields.line, #fields, #columns,
        table.concat(columns, ", "))
    end
    local row = { line = fields.line }
    for k, column in ipairs(columns) do row[column] = fields[k] end
    rows[i - 1] = row
  end
  return rows, columns
end

--- Reads a file that csv.write or csv.line wrote: rows as tables of strings, and the columns. nil where there is no
--- file.
---@param path string
---@return table[]|nil rows
---@return string[]|nil columns
function csv.read(path)
  local text = files.read(path)
  if not text then return nil end
  local list, rows = records(text, { what = "csv", name = path }), {}
  local columns = list[1] or {}
  columns.line = nil
  for i = 2, #list do
    local row = {}
    for k, column in ipairs(columns) do row[column] = list[i][k] end
    rows[i - 1] = row
  end
  return rows, columns
end

-- ---- writing --------------------------------------------------------------------------------------------------------

-- The shortest text that reads back as the same number: 0.05, not 0.050000000000000003.
local function short_number(value)
  if math.type(value) == "float" then
    for _, format in ipairs { "%.15g", "%.16g" } do
      local text = string.format(format, value)
      if tonumber(text) == value then return text:find "[%.eE]" and text or text .. ".0" end
    end
  end
  return require("medxai.base.json").number(value)
end

-- One field: quoted where it holds a comma, a quote or a line end; numbers exact and short; nil empty.
local function field(value)
  if value == nil then return "" end
  if type(value) == "number" then return short_number(value) end
  local text = tostring(value)
  if text:find('[,"\r\n]') then return '"' .. text:gsub('"', '""') .. '"' end
  return text
end

--- One line of the row's fields in the order of `columns`, without its line end.
---@param columns string[]
---@param row table<string, any>
---@return string
function csv.line(columns, row)
  local fields = {}
  for i, column in ipairs(columns) do fields[i] = field(row[column]) end
  return table.concat(fields, ",")
end

--- Writes rows with a header, whole or not at all.
---@param path string
---@param columns string[]
---@param rows table[]
function csv.write(path, columns, rows)
  local lines = { csv.line(columns, setmetatable({}, { __index = function(_, k) return k end })) }
  for i, row in ipairs(rows) do lines[i + 1] = csv.line(columns, row) end
  files.write(path, table.concat(lines, "\n") .. "\n")
end

return csv
