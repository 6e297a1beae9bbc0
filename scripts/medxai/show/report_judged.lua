-- The results of a step that judges networks, for the terminal and for the report: sentences, then plain tables. The
-- step computes them; a result is
--   { title, sentences = { text }, tables = { { title, columns = { names }, rows = { lists of texts }, note } } }
local html = require "medxai.show.html"

local judged = {}

local function width_of(text) return utf8.len(text) or #text end

local function lines_of(t)
  local widths, lines = {}, {}
  local all = { t.columns, table.unpack(t.rows) }
  for _, row in ipairs(all) do
    for c, cell in ipairs(row) do widths[c] = math.max(widths[c] or 0, width_of(cell)) end
  end
  for i, row in ipairs(all) do
    local cells = {}
    for c, cell in ipairs(row) do cells[c] = cell .. (" "):rep(c < #row and widths[c] - width_of(cell) or 0) end
    lines[i] = "  " .. table.concat(cells, "  ")
  end
  return table.concat(lines, "\n")
end

local function print_table(t)
  if t.title then print("\n" .. t.title) end
  print(lines_of(t))
  if t.note then print("  " .. t.note) end
end

--- Prints a result's sentences and tables, but for tables that are too long for a terminal (page_only).
---@param result table
function judged.print(result)
  for _, t in ipairs(result.tables) do
    if not t.page_only then print_table(t) end
  end
  for _, sentence in ipairs(result.sentences) do print(sentence) end
end

-- Whether a column holds numbers, with their intervals and words behind them; such columns stand to the right.
local function is_numeric(t, c)
  local any = false
  for _, row in ipairs(t.rows) do
    local cell = row[c] or ""
    if cell ~= "" and cell ~= "-" then
      local is_number = cell:find "^[+-]?%.?%d" or cell:find "^%[" or cell:find "^-, "
      if not is_number and not cell:find "^undefined" then return false end
      any = true
    end
  end
  return any
end

local longest = 14 -- rows; a table that the terminal does not show is folded from here on
local too_long = 100 -- rows of a folded table that is not printed
local most_sentences = 8

-- An interval stays in one line; the number before it and the verdict after it may stand above and below.
local function unbroken(text)
  return (text:gsub("%[[^%]]*%]", function(interval) return (interval:gsub(" ", "&nbsp;")) end))
end

-- One table; a long one that is no part of the answer is folded.
local function put_table(page, put, t)
  local columns, rows = {}, {}
  for c, name in ipairs(t.columns) do columns[c] = { name, numeric = is_numeric(t, c) } end
  for i, row in ipairs(t.rows) do
    rows[i] = {}
    for c, cell in ipairs(row) do rows[i][c] = unbroken(html.text(cell)) end
  end
  if t.title then put(page, "<h3>%s</h3>", html.text(t.title)) end
  local body = html.table(columns, rows, "judged")
  if t.page_only and #rows > longest then
    local long = #rows > too_long and ' class="long"' or ""
    body = ("<details%s><summary>%d rows</summary>%s</details>"):format(long, #rows, body)
  end
  put(page, "%s", body)
  if t.note then put(page, '<p class="note">%s</p>', html.text(t.note)) end
end

--- Puts a result into the page. put: function(page, format, ...).
---@param page table
---@param put fun(page: table, format: string, ...: any)
---@param result table
function judged.put(page, put, result)
  local list = {}
  for i, sentence in ipairs(result.sentences) do list[i] = ("<p>%s</p>"):format(html.text(sentence)) end
  local shown = #list > most_sentences and most_sentences - 2 or #list
  put(page, "%s", table.concat(list, "\n", 1, shown))
  if shown < #list then
    put(page, "<details><summary>%d more sentences</summary>%s</details>", #list - shown,
      table.concat(list, "\n", shown + 1))
  end
  for _, t in ipairs(result.tables) do put_table(page, put, t) end
  require("medxai.show.plot").put(page, put, result)
end

return judged
