-- What the readers share about folders: sorted listings, what is there instead of what was looked for, skip lists.
-- Names are always sorted, since the order of a listing is arbitrary.
local check = require "medxai.base.check"
local csv = require "medxai.base.csv"
local file = require "medxai.file"
local suggest = require "medxai.base.suggest"

local listing = {}

local endings = { png = true, jpg = true, jpeg = true, dcm = true, dicom = true }

function listing.is_folder(path)
  local info = file.stat(path)
  return info ~= nil and info.kind == "folder"
end

function listing.is_file(path)
  local info = file.stat(path)
  return info ~= nil and info.kind == "file"
end

-- Bytewise order, the same on every machine and in every locale.
local function before(a, b)
  local n = math.min(#a, #b)
  for i = 1, n do
    local x, y = a:byte(i), b:byte(i)
    if x ~= y then return x < y end
  end
  return #a < #b
end
listing.before = before

--- Names in a folder, sorted bytewise; those that begin with a dot are left out. Empty where there is no such folder.
function listing.names(path)
  local names = {}
  for _, name in ipairs(file.list(path) or {}) do
    if name:sub(1, 1) ~= "." then names[#names + 1] = name end
  end
  table.sort(names, before)
  return names
end

function listing.folders(path)
  local names = {}
  for _, name in ipairs(listing.names(path)) do
    if listing.is_folder(path .. "/" .. name) then names[#names + 1] = name end
  end
  return names
end

--- The names that are not among others, in their order.
function listing.without(names, others)
  local known, rest = {}, {}
  for _, name in ipairs(others) do known[name] = true end
  for _, name in ipairs(names) do
    if not known[name] then rest[#rest + 1] = name end
  end
  return rest
end

--- PNG, JPEG and DICOM names in a folder, sorted, and how many other files there are.
function listing.pictures(path)
  local pictures, others = {}, 0
  for _, name in ipairs(listing.names(path)) do
    local ending = name:match "%.([^.]+)$"
    if ending and endings[ending:lower()] then pictures[#pictures + 1] = name
    elseif listing.is_file(path .. "/" .. name) then others = others + 1 end
  end
  return pictures, others
end

--- "there: a, b, c" for an error: what a folder holds instead.
function listing.there(path)
  if not listing.is_folder(path) then
    local parent = path:match "^(.+)/[^/]*$" or "."
    if parent == path or not listing.is_folder(parent) then return "nor is there a folder '" .. parent .. "'" end
    return "'" .. parent .. "' holds " .. listing.there(parent):gsub("^there: ", "")
  end
  local names = listing.names(path)
  if #names == 0 then return "there: nothing" end
  return "there: " .. suggest.some(names, 8)
end

--- Raises: a split's folder holds no image of any class.
function listing.no_classes(path, shown, classes)
  local names = table.concat(classes, ", ")
  check.fail("dataset", "%s holds no image of the classes %s (%s).", shown, names, listing.there(path))
end

--- A root without its trailing slashes; an error where it was not given or is no folder.
function listing.root(what, root)
  if not root or root == "" then
    check.fail(what, "no folder was given. Write root = 'DIR', or give --data DIR on the command line.")
  end
  local clean = #root > 1 and root:gsub("/+$", "") or root
  if clean == "" then clean = "/" end
  if not listing.is_folder(clean) then
    local kind = listing.is_file(clean) and "is a file" or "does not exist"
    check.fail("dataset", "the folder '%s' %s (%s). Write root = 'DIR', or give --data DIR on the command line.", clean,
      kind, listing.there(clean))
  end
  return clean
end

--- The images to leave out: skip.txt beside the data (in any of the folders), a path a line as the errors print it, #
--- begins a comment; and option skip, another such list or a table of paths.
---@param given string|table|nil
---@return table<string, boolean>
function listing.skips(folders, given)
  local skips, lists = {}, {}
  for _, folder in ipairs(folders) do
    local path = folder .. "/skip.txt"
    if listing.is_file(path) then lists[#lists + 1] = path end
  end
  if type(given) == "string" then lists[#lists + 1] = given end
  for _, path in ipairs(type(given) == "table" and given or {}) do skips[tostring(path)] = true end
  for _, path in ipairs(lists) do
    local text, message = file.read(path)
    if not text then check.fail("dataset", "skip list: %s.", message) end
    for line in (text or ""):gmatch "[^\r\n]+" do
      line = csv.trim(line:gsub("^\xEF\xBB\xBF", "")):gsub("^%./", "")
      if line ~= "" and line:sub(1, 1) ~= "#" then skips[line] = true end
    end
  end
  return skips
end

--- Leaves out the items that a skip list names; returns the rest and notes. `names(item)`: the spellings that count.
function listing.without_skipped(items, skips, names)
  local kept, used, count, notes = {}, {}, 0, {}
  for _, item in ipairs(items) do
    local skipped = false
    for _, name in ipairs(names(item)) do
      if skips[name] then used[name], skipped = true, true end
    end
    if skipped then count = count + 1 else kept[#kept + 1] = item end
  end
  if count > 0 then
    notes[1] = ("%d %s left out, as the skip list says"):format(count, count == 1 and "image is" or "images are")
  end
  for _, name in ipairs(check.sorted_keys(skips)) do
    if not used[name] then
      notes[#notes + 1] = ("the skip list names '%s', which is not in this data set"):format(name)
    end
  end
  return kept, notes
end

--- A class list given by the user: names, each once.
function listing.check_classes(what, classes)
  local seen = {}
  for i = 1, #classes do
    local name = classes[i]
    if type(name) ~= "string" or name == "" then
      check.fail(what, "classes holds a %s (expected names).", type(name))
    end
    if seen[name] then check.fail(what, "classes names '%s' twice.", name) end
    seen[name] = true
  end
  if #classes == 0 then check.fail(what, "classes is empty (expected names in label order).") end
  return classes
end

--- Small_Test is a part of Test: the same image or patient in both is no leak.
function listing.group(split) return split == "small_test" and "test" or split end

return listing
