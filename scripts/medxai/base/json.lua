-- The canonical text of plain Lua data: JSON with sorted keys, integers as integers, floats as %.17g, NaN and infinity
-- by name. The same data give the same bytes on every machine, so what it writes can be hashed and compared.
-- It raises on values without a unique serialization: functions, tensors, cycles, tables that mix list and map, keys
-- that are not strings. A reader for exactly this form restores what was written (8 stays an integer, 8.0 a float);
-- foreign JSON goes through lua-cjson.
local check = require "medxai.base.check"

local canon = {}

local sorted_keys = check.sorted_keys

--- Iterates a table in a fixed order of keys.
function canon.sorted_pairs(t)
  local keys, i = sorted_keys(t), 0
  return function()
    i = i + 1
    if keys[i] ~= nil then return keys[i], t[keys[i]] end
  end
end

-- Marks an empty table that is a list; an empty table without it is a map.
local list_meta = { __name = "medxai.list" }

--- Marks a table as a list, so that it is written [] when empty.
function canon.list(t)
  return setmetatable(t or {}, list_meta)
end

local escapes = { ['"'] = '\\"', ["\\"] = "\\\\", ["\b"] = "\\b", ["\f"] = "\\f", ["\n"] = "\\n", ["\r"] = "\\r",
  ["\t"] = "\\t" }

local function write_string(s)
  return '"' .. s:gsub('[%c"\\\127]', function(c) return escapes[c] or string.format("\\u%04x", c:byte()) end) .. '"'
end

--- A number's canonical text: 8, 8.0, 0.10000000000000001, "NaN", "Infinity", "-Infinity".
---@param n number
---@return string
function canon.number(n)
  if math.type(n) == "integer" then return string.format("%d", n) end
  if n ~= n then return "NaN" end
  if n == math.huge then return "Infinity" elseif n == -math.huge then return "-Infinity" end
  local text = string.format("%.17g", n)
  if not text:find("[%.eE]") then text = text .. ".0" end -- a float stays a float
  return text
end

local write_value

-- The length of t where its keys are exactly 1..n (n > 0, or marked a list), else nil.
local function list_length(t)
  local n, count = #t, 0
  for k in pairs(t) do
    if math.type(k) ~= "integer" or k < 1 or k > n then return nil end
    count = count + 1
  end
  if count ~= n then return nil end
  if n == 0 and getmetatable(t) ~= list_meta then return nil end
  return n
end

local function write_table(out, t, path, seen, indent, depth)
  if seen[t] then check.fail("canon", "the data contain themselves (at %s).", path) end
  seen[t] = true
  local n = list_length(t)
  local pad, stop = "", ""
  if indent then
    pad = "\n" .. string.rep(indent, depth + 1)
    stop = "\n" .. string.rep(indent, depth)
  end
  local first = true
  local function separate()
    out[#out + 1] = first and pad or ("," .. pad)
    first = false
  end
  out[#out + 1] = n and "[" or "{"
  if n then
    for i = 1, n do
      separate()
      write_value(out, t[i], path .. "[" .. i .. "]", seen, indent, depth + 1)
    end
  else
    for k, v in canon.sorted_pairs(t) do
      if type(k) ~= "string" then
        check.fail("canon", "a table is neither a list nor a map (at %s, key %s).", path, tostring(k))
      end
      separate()
      out[#out + 1] = write_string(k) .. (indent and ": " or ":")
      write_value(out, v, path .. "." .. k, seen, indent, depth + 1)
    end
  end
  out[#out + 1] = (first and "" or stop) .. (n and "]" or "}")
  seen[t] = nil
end

function write_value(out, v, path, seen, indent, depth)
  local kind = type(v)
  if kind == "table" then
    write_table(out, v, path, seen, indent, depth)
  elseif kind == "number" then
    out[#out + 1] = canon.number(v)
  elseif kind == "string" then
    out[#out + 1] = write_string(v)
  elseif kind == "boolean" or kind == "nil" then
    out[#out + 1] = kind == "nil" and "null" or tostring(v)
  else
    check.fail("canon", "a %s has no text (at %s).", kind, path)
  end
end

--- The canonical text of a value. With `indent` ("  ") one value per line, for people; the keys and numbers are the
--- same.
---@param value any
---@param indent? string
---@return string
function canon.write(value, indent)
  local out = {}
  write_value(out, value, "value", {}, indent, 0)
  return table.concat(out)
end

-- ---- reader ----------------------------------------------------------------------------------------------------

local named = { ["true"] = true, ["false"] = false, NaN = 0 / 0, Infinity = math.huge }

local function utf8_of(hex, text, at)
  local code = tonumber(hex, 16)
  if code >= 0xD800 and code < 0xDC00 then -- a surrogate pair
    local low = text:match("^\\u(%x%x%x%x)", at)
    low = low and tonumber(low, 16)
    if low and low >= 0xDC00 and low < 0xE000 then
      return utf8.char(0x10000 + (code - 0xD800) * 0x400 + (low - 0xDC00)), at + 6
    end
  end
  return utf8.char(code), at
end

local unescapes = { b = "\b", f = "\f", n = "\n", r = "\r", t = "\t", ['"'] = '"', ["\\"] = "\\", ["/"] = "/" }

local Reader = {}
Reader.__index = Reader

local MOST_LEVELS = 1000 -- no data of ours are a tenth as deep; a damaged file would fill Lua's stack

function Reader:fail(fact)
  local before = self.text:sub(1, self.at)
  local _, lines = before:gsub("\n", "")
  check.fail(self.what, "%s at line %d, byte %d.", fact, lines + 1, self.at)
end

function Reader:skip()
  self.at = self.text:find("[^ \t\r\n]", self.at) or #self.text + 1
end

function Reader:take(pattern)
  local found = self.text:match("^" .. pattern, self.at)
  if found then self.at = self.at + #found end
  return found
end

function Reader:string()
  local parts = {}
  self.at = self.at + 1
  while true do
    local plain = self.text:match('^[^"\\]*', self.at)
    parts[#parts + 1] = plain
    self.at = self.at + #plain
    local c = self.text:sub(self.at, self.at)
    if c == "" then self:fail("a string has no end") end
    self.at = self.at + 1
    if c == '"' then return table.concat(parts) end
    local e = self.text:sub(self.at, self.at)
    self.at = self.at + 1
    if e == "u" then
      local hex = self.text:match("^%x%x%x%x", self.at) or self:fail("a bad \\u escape")
      parts[#parts + 1], self.at = utf8_of(hex, self.text, self.at + 4)
    else
      parts[#parts + 1] = unescapes[e] or self:fail("a bad escape")
    end
  end
end

function Reader:items(close, read_one)
  self.at = self.at + 1
  self.depth = self.depth + 1
  if self.depth > MOST_LEVELS then self:fail("lists and maps lie in each other " .. MOST_LEVELS .. " deep") end
  self:skip()
  local closed = self:take(close)
  while not closed do
    self:skip()
    read_one()
    self:skip()
    closed = self:take(close)
    if not closed and not self:take(",") then self:fail("expected ',' or '" .. close:gsub("%%", "") .. "'") end
  end
  self.depth = self.depth - 1
end

function Reader:value()
  local c = self.text:sub(self.at, self.at)
  if c == "{" then
    local t = {}
    self:items("}", function()
      if self.text:sub(self.at, self.at) ~= '"' then self:fail("expected a key") end
      local key = self:string()
      self:skip()
      if not self:take(":") then self:fail("expected ':'") end
      self:skip()
      t[key] = self:value()
    end)
    return t
  elseif c == "[" then
    local t, n = canon.list(), 0
    self:items("%]", function()
      n = n + 1
      t[n] = self:value()
    end)
    return t
  elseif c == '"' then
    return self:string()
  end
  local word = self:take("-?[%w_%.%+%-]+")
  if not word then self:fail("expected a value") end
  if word == "null" then return nil end
  if word == "-Infinity" then return -math.huge end
  if named[word] ~= nil then return named[word] end
  local n = word:find("^%-?%d") and tonumber(word)
  if not n then self:fail("unknown word '" .. word .. "'") end
  return n
end

--- Reads canonical text back. Integers stay integers, floats floats, lists lists.
---@param text string
---@param what? string named in errors: the file
function canon.read(text, what)
  local reader = setmetatable({ text = text, at = 1, depth = 0, what = what or "canon" }, Reader)
  reader:skip()
  local value = reader:value()
  reader:skip()
  if reader.at <= #text then reader:fail("text after the end") end
  return value
end

--- SHA-256 of a value's canonical text, 64 hex digits.
---@param value any
---@return string
function canon.hash(value)
  return require("medxai.core").image.sha256(canon.write(value))
end

--- What differs between two plain tables: a sorted list of { field = "fit.epochs", a = 8, b = 9 }.
---@return table[]
function canon.diff(a, b, prefix, list)
  list = list or {}
  if type(a) == "table" and type(b) == "table" then
    local keys = {}
    for k in pairs(a) do keys[k] = true end
    for k in pairs(b) do keys[k] = true end
    for k in canon.sorted_pairs(keys) do
      canon.diff(a[k], b[k], prefix and (prefix .. "." .. tostring(k)) or tostring(k), list)
    end
  elseif canon.write(a) ~= canon.write(b) then
    list[#list + 1] = { field = prefix or "value", a = a, b = b }
  end
  return list
end

return canon
