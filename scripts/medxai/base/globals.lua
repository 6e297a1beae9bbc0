-- Misspelt globals are errors: reading or writing a global that is not there fails and names the nearest thing in
-- sight. It refuses to make exceptions for functions: write `local function`.
local suggest = require "medxai.base.suggest"

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

-- What people write who come from Python, and what Lua writes.
local in_lua = {
  True = "true", False = "false", None = "nil", null = "nil", len = "#list", range = "for i = 1, n do ... end",
  str = "tostring", int = "math.tointeger or x // 1", float = "tonumber", isinstance = "type(x)", dict = "{}",
  list = "{}", enumerate = "ipairs(list)", zip = "for i = 1, #a do ... end", open = "io.open", abs = "math.abs",
  max = "math.max", min = "math.min", sum = "a loop, or tensor:sum()",
  exit = "os.exit", format = "string.format", np = "torch = require \"medxai.torch\"",
  torch = "local torch = require \"medxai.torch\"", xai = "local xai = require \"medxai\"",
  self = "a function with a colon, object:name()",
}

local function hint(name, level)
  if in_lua[name] then return " Lua writes " .. in_lua[name] .. "." end
  return suggest.near(name, names_in_sight(level + 1))
end

setmetatable(_G, {
  __index = function(_, name)
    if type(name) ~= "string" then return nil end
    error(("global '%s' is not defined.%s"):format(name, hint(name, 2)), 2)
  end,
  __newindex = function(_, name)
    local near = hint(tostring(name), 2)
    if near == "" then near = (" Write 'local %s = ...'."):format(tostring(name)) end
    error(("global '%s' is not defined.%s"):format(tostring(name), near), 2)
  end,
})
