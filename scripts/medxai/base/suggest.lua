-- Suggestions in errors: the names nearest to a misspelt one, and lists of names in words. Names that are not near are
-- not suggested.
local suggest = {}

-- Edit distance with neighbors swapped counted once (optimal string alignment).
local function distance(a, b)
  local before, last = {}, {}
  for j = 0, #b do last[j] = j end
  for i = 1, #a do
    local row = { [0] = i }
    for j = 1, #b do
      local cost = a:byte(i) == b:byte(j) and 0 or 1
      local d = math.min(last[j] + 1, row[j - 1] + 1, last[j - 1] + cost)
      if i > 1 and j > 1 and a:byte(i) == b:byte(j - 1) and a:byte(i - 1) == b:byte(j) then
        d = math.min(d, before[j - 2] + 1)
      end
      row[j] = d
    end
    before, last = last, row
  end
  return last[#b]
end

local function initials(name)
  return (name:gsub("(%a)%a*[_%-%. ]*", "%1"))
end

-- How far `got` is from `name`; nil where nobody would take one for the other.
local function farness(got, name)
  if got == name then return 0 end
  local g, n = got:lower(), name:lower()
  if g == n or g:gsub("[_%-]", "") == n:gsub("[_%-]", "") then return 0.1 end
  local d = distance(g, n)
  if d <= math.max(1, math.min(#g, #n) // 3) and d < #g then return d end
  if #g > 1 and #n > 1 and (initials(g) == n or initials(n) == g) then return 0.5 end
  if #g >= 3 and #n >= 3 and (g:find(n, 1, true) or n:find(g, 1, true)) then return 3 + math.abs(#g - #n) / 100 end
  return nil
end

--- The names nearest to `got`, nearest first; empty where none is near.
---@param got string
---@param names string[]
---@param count? integer at most so many (default 1)
---@return string[]
function suggest.nearest(got, names, count)
  local found = {}
  for _, name in ipairs(names) do
    local d = farness(tostring(got), tostring(name))
    if d then found[#found + 1] = { d = d, name = tostring(name) } end
  end
  table.sort(found, function(a, b) return a.d < b.d or (a.d == b.d and a.name < b.name) end)
  local list = {}
  for i = 1, math.min(count or 1, #found) do list[i] = found[i].name end
  return list
end

--- "'a', 'b' or 'c'": names in quotes, other values as they are.
---@param names any[]
---@param join string "or", "and"
---@return string
function suggest.quoted(names, join)
  local list = {}
  for i, name in ipairs(names) do list[i] = type(name) == "string" and "'" .. name .. "'" or tostring(name) end
  if #list < 2 then return list[1] or "" end
  return table.concat(list, ", ", 1, #list - 1) .. " " .. join .. " " .. list[#list]
end

--- " Did you mean 'a' or 'b'?"; empty where nothing is near.
---@param got string
---@param names string[]
---@param count? integer
---@return string
function suggest.near(got, names, count)
  local near = suggest.nearest(got, names, count)
  return #near > 0 and " Did you mean " .. suggest.quoted(near, "or") .. "?" or ""
end

--- The same or, where nothing is near, " Known: ..." (all of a short list).
---@param got string
---@param names string[]
---@param count? integer
---@return string
function suggest.hint(got, names, count)
  local near = suggest.near(got, names, count)
  if near ~= "" or #names == 0 or #names > 24 then return near end
  return " Known: " .. table.concat(names, ", ") .. "."
end

--- "a, b, c and 4 more": at most `count` of the names.
---@param names any[]
---@param count integer
---@return string
function suggest.some(names, count)
  local list = {}
  for i = 1, math.min(#names, count) do list[i] = tostring(names[i]) end
  return table.concat(list, ", ") .. (#names > count and (" and %d more"):format(#names - count) or "")
end

return suggest
