-- The rooms of scripts/medxai: a room requires itself and the rooms before it, nothing in a circle, and every file is
-- in one.
local t = require "t"
local files = require "medxai.base.files"

local rooms = { "base", "tensor", "stats", "run", "data", "nn", "train", "perturb", "explain", "score", "show",
  "steps" }
local place = {}
for i, room in ipairs(rooms) do place[room] = i end

-- Outside the rooms: what lies before all of them, and what comes after.
local before = { torch = "tensor" }
local after = { init = true, verbs = true, preflight_state = true, ["command.runs"] = true,
  ["command.help"] = true, ["command.slurm"] = true, reference = true }
local native = { archive = true, core = true, dicom = true, file = true, host = true }

-- name of the module -> its text
local function modules(folder, prefix, list)
  for _, name in ipairs(files.list(folder)) do
    local path = folder .. "/" .. name
    if files.is_folder(path) then modules(path, prefix .. name .. ".", list)
    elseif name:find "%.lua$" then list[prefix .. name:sub(1, -5)] = files.read(path) end
  end
  return list
end

local texts = modules(t.root .. "/scripts/medxai", "", {})
local names = {}
for name in pairs(texts) do names[#names + 1] = name end
table.sort(names)

local function room_of(name) return before[name] or name:match "^(%w+)%." end

-- The modules that a text requires, lazily or at once.
local function required(text)
  local list = {}
  for name in text:gsub("%-%-[^\n]*", ""):gmatch "require%s*%(?%s*[\"'](medxai[%w_%.]*)[\"']" do
    name = name == "medxai" and "init" or name:match "^medxai%.(.+)$"
    if name and name:sub(-1) ~= "." then list[#list + 1] = name end -- not "medxai.nn.models." .. name
  end
  return list
end

t.test("every file of the library is in a room", function()
  local lost = {}
  for _, name in ipairs(names) do
    if not place[room_of(name) or ""] and not after[name] and not name:find "^types%." then lost[#lost + 1] = name end
  end
  t.equal(table.concat(lost, " "), "")
end)

t.test("a room requires itself and rooms before it", function()
  local wrong = {}
  for _, name in ipairs(names) do
    for _, other in ipairs(required(texts[name])) do
      local here, there = place[room_of(name) or ""], place[room_of(other) or ""]
      local ok = native[other] or after[name] or name:find "^types%." or here and there and there <= here
      if not ok then wrong[#wrong + 1] = name .. " -> " .. other end
    end
  end
  t.equal(table.concat(wrong, "\n"), "")
end)

t.test("every required module exists", function()
  local gone = {}
  for _, name in ipairs(names) do
    for _, other in ipairs(required(texts[name])) do
      if not native[other] and not texts[other] then gone[#gone + 1] = name .. " -> " .. other end
    end
  end
  t.equal(table.concat(gone, "\n"), "")
end)

t.test("no module requires itself through others, lazily or at load time", function()
  local state, circles = {}, {}
  local function visit(name, path)
    if state[name] == "done" or not texts[name] then return end
    path[#path + 1] = name
    if state[name] == "open" then
      circles[#circles + 1] = table.concat(path, " -> ")
    else
      state[name] = "open"
      for _, other in ipairs(required(texts[name])) do visit(other, path) end
      state[name] = "done"
    end
    path[#path] = nil
  end
  for _, name in ipairs(names) do visit(name, {}) end
  t.equal(table.concat(circles, "\n"), "")
end)

t.test("only option tables and the run room read --smoke: everything else gets its options and run.smoke", function()
  local readers = {}
  for _, name in ipairs(names) do
    if texts[name]:gsub("%-%-[^\n]*", ""):find "options%.smoke" or texts[name]:find "options or {}%)%.smoke" then
      readers[#readers + 1] = name
    end
  end
  t.equal(table.concat(readers, " "), "base.options preflight_state run.environment run.folder run.run run.seeds")
end)

-- A misspelt function on a path that is seldom taken, such as that of an error, is otherwise found by the user.
t.test("every function that is called of a module of room base exists", function()
  local missing, all = {}, modules(t.root .. "/tests", "tests.", {})
  for name, text in pairs(texts) do all[name] = text end
  for name, text in pairs(all) do
    text = text:gsub("%-%-[^\n]*", "")
    for short, other in text:gmatch '\nlocal ([%w_]+) = require "(medxai%.base%.[%w_]+)"' do
      local module = require(other)
      for field in text:gmatch("%f[%w_.:]" .. short .. "%.([%w_]+)%(") do
        if type(module) == "table" and module[field] == nil then
          missing[#missing + 1] = ("%s: %s.%s"):format(name, other, field)
        end
      end
    end
  end
  table.sort(missing)
  t.equal(table.concat(missing, "\n"), "")
end)

t.test("every Lua file that a comment of the library names exists, other than a user's my_*.lua", function()
  local there, gone = {}, {}
  for _, folder in ipairs { "scripts/medxai", "tests", "experiments" } do
    for name in pairs(modules(t.root .. "/" .. folder, "", {})) do there[name:match "[%w_]+$"] = true end
  end
  for _, name in ipairs(names) do
    for comment in texts[name]:gmatch "%-%-([^\n]*)" do
      for file in comment:gmatch "([%w_]+)%.lua%f[^%w]" do
        if not there[file] and not file:find "^my_" then gone[#gone + 1] = name .. " -> " .. file .. ".lua" end
      end
    end
  end
  t.equal(table.concat(gone, "\n"), "")
end)
