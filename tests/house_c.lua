-- The C and C++ sources: line length, function length, and who may include what.
local t = require "t"
local files = require "medxai.base.files"

local folders = { "host", "bindings/wall", "bindings/plain", "bindings/graph", "bindings/lua", "bindings/dicom",
  "tests/c" }

-- path below the root -> text
local sources = {}
for _, folder in ipairs(folders) do
  for _, name in ipairs(files.list(t.root .. "/" .. folder)) do
    if name:find "%.[ch]p?p?$" then
      sources[folder .. "/" .. name] = files.read(t.root .. "/" .. folder .. "/" .. name)
    end
  end
end

local function columns(line) return utf8.len(line) or #line end

t.test("no line of the C and C++ sources is longer than 120 columns", function()
  local long, count = {}, 0
  for path, text in pairs(sources) do
    local n = 0
    for line in text:gmatch "([^\n]*)\n" do
      n, count = n + 1, count + 1
      if columns(line) > 120 then long[#long + 1] = path .. ":" .. n end
    end
  end
  t.equal(long, {})
  assert(count > 10000, "the sources were not found")
end)

-- Lines from a definition's first one, in column 1, to the closing brace in column 1.
t.test("no function of the C and C++ sources is longer than 60 lines", function()
  local long, count = {}, 0
  for path, text in pairs(sources) do
    local n, first, inside = 0, nil, false
    for line in text:gmatch "([^\n]*)\n" do
      n = n + 1
      if line:find "^[%a_].*%(" and not inside then first = n end
      if first and line:find "{$" and line:find "^[%a_]" or first and line:find "%) ?n?o?e?x?c?e?p?t? {$"
          and not inside then
        inside = true
      end
      if line:find "^}" then
        if first and inside then
          count = count + 1
          if n - first + 1 > 60 then long[#long + 1] = path .. ":" .. first end
        end
        first, inside = nil, false
      end
    end
  end
  t.equal(long, {})
  assert(count > 800, "only " .. count .. " functions were found")
end)

t.test("each folder of bindings/ includes only the headers that it may", function()
  local may = { ["bindings/plain"] = "plain", ["bindings/graph"] = "graph wall plain", ["bindings/wall"] = "wall plain",
    ["bindings/dicom"] = "dicom plain",
    ["bindings/lua"] = "lua graph wall plain", host = "plain host" }
  local place = {} -- header -> folder
  for path in pairs(sources) do
    local folder, name = path:match "([^/]+)/([^/]+%.hp?p?)$"
    if folder then place[name] = folder end
  end
  local wrong, count = {}, 0
  for path, text in pairs(sources) do
    local allowed = may[path:match "^(.*)/"]
    for name in text:gmatch '#include "([^"]+)"' do
      count = count + 1
      if allowed and not allowed:find(place[name] or "?", 1, true) then
        wrong[#wrong + 1] = path .. " includes " .. name
      end
    end
    for name in text:gmatch "#include <(l[^>]+)>" do
      local is_lua = name == "lua.h" or name == "lauxlib.h" or name == "lualib.h"
      if is_lua and path:find "^bindings/[pgw]" then wrong[#wrong + 1] = path .. " includes " .. name end
    end
    if text:find "#include <torch/" and not path:find "^bindings/wall/" then
      wrong[#wrong + 1] = path .. " includes libtorch"
    end
  end
  t.equal(wrong, {})
  assert(count > 150, "only " .. count .. " includes were found")
end)
