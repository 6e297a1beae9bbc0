-- The README's tour names every source file, and nothing that is not there.
local t = require "t"
local files = require "medxai.base.files"

local readme = t.read(t.root .. "/README.md")

t.test("every source of host/, bindings/ and scripts/medxai/ stands in the tour", function()
  local missing = {}
  for _, folder in ipairs { "host", "bindings", "scripts/medxai", "scripts/medxai/command" } do
    for _, name in ipairs(files.list(t.root .. "/" .. folder)) do
      if (name:find "%.c$" or name:find "%.cpp$" or name:find "%.lua$") and not readme:find("`" .. name, 1, true) and not readme:find("/" .. name, 1, true) then
        missing[#missing + 1] = folder .. "/" .. name
      end
    end
  end
  t.equal(table.concat(missing, " "), "")
end)

t.test("files that the tour names are there", function()
  local tour, gone = readme:match "## A tour of the sources(.-)\n## ", {}
  for name in tour:gmatch "`([%w_/]+%.[%a]+)`" do
    local found = false
    for _, folder in ipairs { "", "host/", "bindings/", "scripts/medxai/", "scripts/medxai/dataset/", "tests/", "tests/reference/" } do
      found = found or name == "medxai_core.so" or files.exists(t.root .. "/" .. folder .. name)
    end
    if not found then gone[#gone + 1] = name end
  end
  t.equal(table.concat(gone, " "), "")
end)

t.test("methods, metrics and experiments are named", function()
  local missing = {}
  for _, folder in ipairs { "scripts/medxai/explain", "scripts/medxai/score" } do
    for _, name in ipairs(files.list(t.root .. "/" .. folder)) do
      local word = name:match "^(.*)%.lua$"
      if word and not readme:find("`" .. word .. "`", 1, true) then missing[#missing + 1] = word end
    end
  end
  t.equal(table.concat(missing, " "), "")
end)
