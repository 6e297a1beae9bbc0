-- Misspelt globals are errors: reading or writing a global that is not there fails and names the nearest thing in sight.
-- It refuses to make exceptions for functions: write `local function`.

local strict = {}

-- Edit distance (insert, delete, replace, swap of neighbours), at most `most`.
local function distance(a, b, most)
  if math.abs(#a - #b) > most then return most + 1 end
  local before, row = {}, {}
  for j = 0, #b do row[j] = j end
  for i = 1, #a do
    local above = row
    row = { [0] = i }
    for j = 1, #b do
      local same = a:byte(i) == b:byte(j)
      row[j] = math.min(above[j] + 1, row[j - 1] + 1, above[j - 1] + (same and 0 or 1))
      if i > 1 and j > 1 and a:byte(i) == b:byte(j - 1) and a:byte(i - 1) == b:byte(j) then
        row[j] = math.min(row[j], before[j - 2] + 1)
      end
    end
    before = above
  end
  return row[#b]
end

--- The candidate nearest to name, or nil where none is near.
---@param name string
---@param candidates string[]
---@return string|nil
function strict.nearest(name, candidates)
  local most = math.max(1, #name // 3)
  local best, best_distance
  table.sort(candidates) -- the answer must not depend on the order of a table
  for _, candidate in ipairs(candidates) do
    local d = distance(name:lower(), candidate:lower(), most)
    if candidate ~= name and d <= most and (not best or d < best_distance) then
      best, best_distance = candidate, d
    end
  end
  return best
end

-- Globals, and the local variables that the code at `level` can see.
local function names_in_sight(level)
  local names = {}
  for name in next, _G do
    if type(name) == "string" then names[#names + 1] = name end
  end
  for i = 1, math.huge do
    local name = debug.getlocal(level + 1, i)
    if not name then break end
    if not name:find("^%(") then names[#names + 1] = name end
  end
  local info = debug.getinfo(level + 1, "f")
  for i = 1, math.huge do
    local name = info and debug.getupvalue(info.func, i)
    if not name then break end
    if name ~= "" then names[#names + 1] = name end
  end
  return names
end

local function hint(name, level)
  local near = strict.nearest(name, names_in_sight(level + 1))
  return near and (" Did you mean '%s'?"):format(near) or ""
end

function strict.install()
  setmetatable(_G, {
    __index = function(_, name)
      if type(name) ~= "string" then return nil end
      error(("global '%s' is not defined.%s"):format(name, hint(name, 2)), 2)
    end,
    __newindex = function(_, name)
      local near = hint(tostring(name), 2)
      error(("global '%s' is not defined.%s"):format(tostring(name), near ~= "" and near or (" Write 'local %s = ...'."):format(tostring(name))), 2)
    end,
  })
end

strict.install()
return strict
