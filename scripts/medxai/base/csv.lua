-- Comma-separated tables: quotes, doubled quotes, line ends within quotes, CRLF, a leading byte-order mark.
-- It refuses rows whose number of fields differs from the header's, naming the line, and a header with the same name twice.
local check = require "medxai.base.options"

local csv = {}

--- A text without blanks at both ends, in time that grows with its length alone.
function csv.trim(text)
  local first = text:find "%S"
  return first and text:sub(first):match ".*%S" or ""
end

-- One record from `at`: its fields, where the next begins, and how many lines it took.
local function record(text, at, name, line)
  local fields, lines = {}, 1
  while true do
    local value
    if text:sub(at, at) == '"' then
      local close, parts = at + 1, {}
      while true do
        local stop = text:find('"', close, true)
        if not stop then check.fail("manifest", "%s:%d: a quote is never closed.", name, line) end
        parts[#parts + 1] = text:sub(close, stop - 1)
        if text:sub(stop + 1, stop + 1) ~= '"' then at = stop + 1 break end
        parts[#parts + 1], close = '"', stop + 2
      end
      value = table.concat(parts)
      lines = lines + select(2, value:gsub("\n", ""))
    else
      local stop = text:find("[,\r\n]", at) or #text + 1
      value = csv.trim(text:sub(at, stop - 1))
      at = stop
    end
    fields[#fields + 1] = value
    local mark = text:sub(at, at)
    if mark == "," then
      at = at + 1
    elseif mark == "" then
      return fields, at, lines
    elseif mark == "\r" or mark == "\n" then
      return fields, text:sub(at, at + 1) == "\r\n" and at + 2 or at + 1, lines
    else
      check.fail("manifest", "%s:%d: text after a closing quote (%s).", name, line, mark)
    end
  end
end

-- The header's names in lower case. Of two columns of one name one would be read, and nobody could say which.
local function header(fields, name, line)
  local columns, seen = {}, {}
  for i, field in ipairs(fields) do
    local column = field:lower()
    if seen[column] and column ~= "" then check.fail("manifest", "%s:%d: the column '%s' is there twice. Rename one.", name, line, column) end
    columns[i], seen[column] = column, true
  end
  return columns
end

--- Rows as tables by column name (lower case), each with `line`; and the column names in order.
---@param text string
---@param name string for errors
function csv.parse(text, name)
  text = text:gsub("^\xEF\xBB\xBF", "")
  local zero = text:find("\0", 1, true)
  if zero then
    local _, before = text:sub(1, zero):gsub("\n", "")
    check.fail("manifest", "%s:%d: there are zero bytes (is it UTF-16?). Save the table as UTF-8.", name, before + 1)
  end
  local columns, rows, at, line = nil, {}, 1, 1
  while at <= #text do
    local fields, next_at, lines = record(text, at, name, line)
    if #fields > 1 or fields[1] ~= "" then
      if not columns then
        columns = header(fields, name, line)
      else
        if #fields ~= #columns then check.fail("manifest", "%s:%d: %d fields (expected %d: %s).", name, line, #fields, #columns, table.concat(columns, ", ")) end
        local row = { line = line }
        for i, column in ipairs(columns) do row[column] = fields[i] end
        rows[#rows + 1] = row
      end
    end
    at, line = next_at, line + lines
  end
  return rows, columns or {}
end

--- One field as it is written.
function csv.quote(value)
  value = tostring(value)
  if value:find('[",\r\n]') then return '"' .. value:gsub('"', '""') .. '"' end
  return value
end

return csv
