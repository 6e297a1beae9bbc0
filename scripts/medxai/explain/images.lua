-- Which images are explained: a number (classes taken in turn), a list of numbers and names, "all", "one_per_class".
-- Maps and scores are of an image's pixels: files that hold the same ones are one image, the first of them chosen, and
-- that is said. It refuses numbers out of range and names that no image, or more than one, has.
local check = require "medxai.base.check"

local choose = {}

-- Sample numbers with the classes taken in turn, so that the first n of a split sorted by class hold every class.
local function class_turns(split)
  local by_class, classes = {}, {}
  for i = 1, split.n do
    local label = (split.label and split:label(i) or not split.label and split:item(i).label) or -1
    if not by_class[label] then
      by_class[label] = {}
      classes[#classes + 1] = label
    end
    table.insert(by_class[label], i)
  end
  table.sort(classes)
  local order, turn = {}, 1
  while #order < split.n do
    for _, label in ipairs(classes) do order[#order + 1] = by_class[label][turn] end
    turn = turn + 1
  end
  return order, #classes
end

-- Sample numbers of a list of numbers (from 1), image ids, paths or file names.
local function listed(split, list)
  local by_name
  local function number_of(name)
    if not by_name then
      by_name = {}
      for i = 1, split.n do
        local item = split:item(i)
        for _, key in ipairs { item.name or false, item.path or false, item.path and item.path:match("[^/]+$") or false,
            item.id or false } do
          if key then by_name[key] = by_name[key] and by_name[key] ~= i and 0 or i end
        end
      end
    end
    local i = by_name[name]
    if i == 0 then
      check.fail("explain", "more than one image of the %s split is called '%s'. Give its path or image id.",
        split.name, name)
    end
    return i or check.fail("explain", "no image '%s' in the %s split (expected a number, a path, a file name or an "
      .. "image id).", name, split.name)
  end
  local chosen, seen = {}, {}
  for _, value in ipairs(list) do
    local i = math.tointeger(value)
    if i then
      if i < 1 or i > split.n then
        check.fail("explain", "image %d is out of range (the %s split has 1 to %d).", i, split.name, split.n)
      end
    elseif type(value) == "string" then
      i = number_of(value)
    else
      check.fail("explain", "images holds numbers or names (got %s).", type(value))
    end
    if not seen[i] then chosen[#chosen + 1] = i end
    seen[i] = true
  end
  return chosen
end

local function described(split, item)
  return string.format("'%s' (%s)", tostring(item.path), item.label and (split.classes or {})[item.label + 1]
    or "no label")
end

-- The first of those with the same pixels, and what is to be said of the others.
local function each_once(split, chosen)
  local out, first, pair, others = {}, {}, nil, 0
  for _, number in ipairs(chosen) do
    local item = split:item(number)
    if first[item.id] then
      pair, others = pair or { item, first[item.id] }, others + 1
    else
      first[item.id] = item
      out[#out + 1] = number
    end
  end
  if not pair then return out end
  return out, string.format("explain: %s has the same pixels as %s. They count as one image, the first.%s",
    described(split, pair[1]), described(split, pair[2]),
    others > 1 and string.format(" So do%s %d more image%s of the %s split.", others == 2 and "es" or "", others - 1,
      others == 2 and "" or "s", tostring(split.name)) or "")
end

--- Sample numbers (from 1) of the images asked for, each image once.
---@param most? integer the first so many of them
---@return integer[]
---@return string|nil notice where some hold the same pixels: a warning
function choose.images(split, images, most)
  local chosen = {}
  if type(images) == "table" then
    chosen = listed(split, images)
  elseif images == "all" then
    for i = 1, split.n do chosen[i] = i end
  else
    local order, classes = class_turns(split)
    local n = images == "one_per_class" and classes or images
    for i = 1, math.min(n, #order) do chosen[i] = order[i] end
  end
  if #chosen == 0 then check.fail("explain", "the %s split has no image to explain.", tostring(split.name)) end
  for i = #chosen, (most or #chosen) + 1, -1 do chosen[i] = nil end
  return each_once(split, chosen)
end

return choose
