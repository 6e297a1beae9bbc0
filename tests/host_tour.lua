-- docs/sources.md: the tour names every source file, and nothing that is not there.
local t = require "t"
local files = require "medxai.base.files"

local readme = t.read(t.root .. "/docs/sources.md") .. t.read(t.root .. "/docs/explain.md")
  .. t.read(t.root .. "/docs/judge.md")

local tour = readme:match "## A tour of the sources(.-)\n## "

-- Every file below a folder with one of these endings: { path relative to it }.
local function sources(folder, list, below)
  for _, name in ipairs(files.list(t.root .. "/" .. folder)) do
    local path = (below or "") .. name
    if files.is_folder(t.root .. "/" .. folder .. "/" .. name) then sources(folder .. "/" .. name, list, path .. "/")
    elseif name:find "%.c$" or name:find "%.cpp$" or name:find "%.lua$" then list[#list + 1] = path end
  end
  return list
end

local all = {}
for _, folder in ipairs { "host", "bindings", "scripts/medxai" } do sources(folder, all) end

-- Methods, metrics and networks are one file each and stand elsewhere; types are generated.
local function is_one_of_many(path)
  return path:find "methods/" or path:find "metrics/" or path:find "^nn/models/" or path:find "^types/"
end

t.test("the tour in docs/sources.md lists every source of host/, bindings/ and scripts/medxai/", function()
  local missing = {}
  for _, path in ipairs(all) do
    local name = path:match "[^/]+$"
    local named = tour:find("`" .. name .. "`", 1, true) or tour:find("/" .. name .. "`", 1, true)
      or tour:find("`" .. name:match "^[^.]+" .. "`", 1, true)
    if not is_one_of_many(path) and not named then
      missing[#missing + 1] = path
    end
  end
  t.equal(table.concat(missing, " "), "")
end)

t.test("the tour lists only files that exist", function()
  local there, gone = { ["medxai_core.so"] = true, ["medxai_dicom.so"] = true }, {}
  for _, path in ipairs(all) do there[path], there[path:match "[^/]+$"] = true, true end
  for name in tour:gmatch "`([%w_/]+%.[%a]+)`" do
    local found = there[name]
    for _, folder in ipairs { "", "host/", "bindings/wall/", "tests/", "tests/reference/" } do
      found = found or files.exists(t.root .. "/" .. folder .. name)
    end
    if not found then gone[#gone + 1] = name end
  end
  t.equal(table.concat(gone, " "), "")
end)

t.test("the guides name all methods, metrics and experiments", function()
  local missing = {}
  for _, folder in ipairs { "scripts/medxai/explain/methods", "scripts/medxai/score/metrics" } do
    for _, name in ipairs(files.list(t.root .. "/" .. folder)) do
      local word = name:match "^(.*)%.lua$"
      if word and not readme:find("`" .. word .. "`", 1, true) then missing[#missing + 1] = word end
    end
  end
  t.equal(table.concat(missing, " "), "")
end)
