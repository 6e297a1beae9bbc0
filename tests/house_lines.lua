-- No line of more than 120 columns: in Lua (luacheck says so of code, here comments are held to it too), Python, shell
-- and CMake. house_c.lua says it of C and C++.
local t = require "t"
local files = require "medxai.base.files"

-- Files that others wrote or that a script writes.
local foreign = { "^scripts/medxai/types/", "^tests/reference/checkpoints/", "^tests/reference/lime/", "^build",
  "^runs/" }

-- The sources below `folder`, as paths from the root.
local function sources(folder, found)
  for _, name in ipairs(files.list(t.root .. "/" .. folder)) do
    local path = folder .. "/" .. name
    local skipped = false
    for _, pattern in ipairs(foreign) do skipped = skipped or (path .. "/"):find(pattern) ~= nil end
    if skipped then
      goto continue
    elseif files.is_folder(t.root .. "/" .. path) then
      sources(path, found)
    elseif name:find "%.lua$" or name:find "%.py$" or name:find "%.sh$" or name:find "%.cmake$" then
      found[#found + 1] = path
    end
    ::continue::
  end
  return found
end

-- The numbers of lines over `most` columns. Two kinds may be longer: annotations for editors (---@field ...), which are
-- one line by their grammar, and what stands inside a long string ([[ ... ]]), which is not Lua.
local function long_lines(text, most)
  local long, n, closes = {}, 0, nil
  for line in (text .. "\n"):gmatch "([^\n]*)\n" do
    n = n + 1
    local inside = closes ~= nil
    local rest = line
    if closes then
      local _, last = line:find(closes, 1, true)
      if last then rest, closes = line:sub(last + 1), nil end
    end
    if not closes and not line:find "^%s*%-%-" then
      local level = rest:match "%[(=*)%[[^%]]*$"
      if level then closes, inside = "]" .. level .. "]", true end
    end
    if not inside and not line:find "^%s*%-%-%-@" and (utf8.len(line) or #line) > most then long[#long + 1] = n end
  end
  return long
end

t.test("a long line is found in code and in comments, not in annotations and long strings", function()
  local text = ("x"):rep(20) .. "\n-- " .. ("y"):rep(20) .. "\n---@field " .. ("z"):rep(20) .. "\nlocal s = [["
    .. ("a"):rep(20) .. "\n" .. ("b"):rep(20) .. "]]\n" .. ("c"):rep(20)
  t.equal(long_lines(text, 15), { 1, 2, 6 })
end)

t.test("no line of the sources is longer than 120 columns", function()
  local paths, long = { "CMakeLists.txt", "bootstrap", ".ci/run" }, {}
  for _, folder in ipairs { "scripts", "experiments", "tests", "docs", "cmake" } do sources(folder, paths) end
  for _, path in ipairs(paths) do
    for _, n in ipairs(long_lines(files.read(t.root .. "/" .. path), 120)) do long[#long + 1] = path .. ":" .. n end
  end
  t.equal(long, {})
  t.ok(#paths > 400, "only " .. #paths .. " files were found")
end)
