-- What the prompt (medxai-run -i) needs of Lua: completion, showing values, globals that may be made.
-- It refuses to load libtorch for a completion of anything but torch's and xai's own names.

local repl = {}

local loaded_when_named = { torch = "medxai.torch", xai = "medxai" }

--- Globals may be made at the prompt; torch and xai are there when first named.
function repl.open()
  local strict = getmetatable(_G)
  local undefined = strict.__index
  setmetatable(_G, {
    __index = function(globals, name)
      local module = loaded_when_named[name]
      if not module then return undefined(globals, name) end
      local value = require(module)
      rawset(globals, name, value)
      return value
    end,
  })
end

-- ---- completion ----

-- Adds the names by which v can be indexed: its own keys, those of __index tables, and what __names lists (a table
-- whose __index is a function says with __names(v) -> list which names it answers to).
local function collect(v, names, depth)
  if type(v) == "table" then
    for k in next, v do
      if type(k) == "string" then names[k] = true end
    end
  end
  local meta = debug.getmetatable(v)
  if type(meta) ~= "table" or depth > 8 then return end
  local listed = rawget(meta, "__names")
  if type(listed) == "function" then
    for _, name in ipairs(listed(v)) do names[name] = true end
  end
  local index = rawget(meta, "__index")
  if type(index) == "table" then collect(index, names, depth + 1) end
end

-- The value that "a.b.c" names, or nil. Reads fields as the program would: objects may compute them.
local function value_of(path)
  local value = _G
  for name in path:gmatch "[%a_][%w_]*" do
    local ok, field
    if value == _G and not rawget(_G, name) and not loaded_when_named[name] then return nil end
    ok, field = pcall(function() return value[name] end)
    if not ok or field == nil then return nil end
    value = field
  end
  return value
end

local keywords = { "and", "break", "do", "else", "elseif", "end", "false", "for", "function", "goto", "if", "in",
  "local", "nil", "not", "or", "repeat", "return", "then", "true", "until", "while" }

--- The words that text ("torch.ze", "model:par", "pri") can become, sorted.
---@param text string
---@return string[]
function repl.complete(text)
  local path, separator, start = text:match "^([%a_][%w_%.]*)([%.:])([%w_]*)$"
  local names, value = {}, _G
  if path then
    value = value_of(path)
    if value == nil then return {} end
  else
    start = text
    for _, word in ipairs(keywords) do names[word] = true end
    for name in next, loaded_when_named do names[name] = true end
  end
  collect(value, names, 0)
  local prefix, words = path and path .. separator or "", {}
  for name in next, names do
    local hidden = name:sub(1, 1) == "_" and start:sub(1, 1) ~= "_"
    if name:sub(1, #start) == start and name:find "^[%a_][%w_]*$" and not hidden then
      words[#words + 1] = prefix .. name
    end
  end
  table.sort(words)
  return words
end

-- ---- values ----

local most = 20 -- entries of a table that are shown

local function text_of(v, inside)
  if type(v) == "string" then return inside and string.format("%q", v) or v end
  local meta = debug.getmetatable(v)
  if type(v) ~= "table" or (type(meta) == "table" and meta.__tostring) or inside then return tostring(v) end
  local keys, parts = {}, {}
  for k in next, v do keys[#keys + 1] = k end
  table.sort(keys, function(a, b)
    if type(a) == type(b) and (type(a) == "number" or type(a) == "string") then return a < b end
    return type(a) < type(b)
  end)
  for i = 1, math.min(#keys, most) do
    local k = keys[i]
    local name = math.type(k) == "integer" and k == i and "" or type(k) == "string" and k .. " = "
      or "[" .. tostring(k) .. "] = "
    parts[i] = name .. text_of(v[k], true)
  end
  if #keys > most then parts[#parts + 1] = ("... (%d in all)"):format(#keys) end
  return "{" .. table.concat(parts, ", ") .. "}"
end

--- Prints the values of an expression, tables one level deep.
function repl.show(...)
  local parts = table.pack(...)
  for i = 1, parts.n do parts[i] = text_of(parts[i]) end
  print(table.concat(parts, "\t", 1, parts.n))
end

return repl
