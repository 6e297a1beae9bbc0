-- Tables for the terminal: each column as wide as its longest cell, which is counted in characters and not in bytes.

--- Rows as lines of aligned columns with two blanks between them.
---@param rows string[][] the header, where there is one, is the first row; a row may be shorter than others
---@param options? { right?: table<integer, boolean>, indent?: string }
---  right: columns that are aligned to the right, as numbers are; indent: what stands before each line (default two
---  blanks)
---@return string text without a line end behind it
return function(rows, options)
  local o = options or {}
  local right, widths, lines = o.right or {}, {}, {}
  for _, row in ipairs(rows) do
    for i, cell in ipairs(row) do widths[i] = math.max(widths[i] or 0, utf8.len(cell) or #cell) end
  end
  for k, row in ipairs(rows) do
    local cells = {}
    for i, cell in ipairs(row) do
      local pad = (" "):rep(widths[i] - (utf8.len(cell) or #cell))
      cells[i] = right[i] and pad .. cell or cell .. pad
    end
    lines[k] = ((o.indent or "  ") .. table.concat(cells, "  ")):gsub("%s+$", "")
  end
  return table.concat(lines, "\n")
end
