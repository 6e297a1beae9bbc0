-- Prepares the library's sources for LDoc: medxai-run docs/prepare.lua FROM TO. The sources carry the language server's
-- annotations (---@param name type text); LDoc wants "@param name text" and a module line. Writes copies of the modules
-- that experiments, methods and metrics use, and of no others. It reads comments, line by line, and knows no Lua.

local from, to = ...
local file = require "medxai.file"
assert(from and to, "usage: medxai-run docs/prepare.lua FROM TO")

-- What an experiment, a method or a metric of one's own uses.
local public = { "torch", "data.readers", "data.dataset", "data.split", "data.audit", "nn.models", "nn.model",
  "nn.graph", "nn.builder", "nn.trained", "nn.weights", "nn.checkpoint", "train.optim", "run.run", "steps.fit",
  "steps.search", "steps.evaluate", "steps.cross_evaluate", "steps.explain", "steps.overlap", "steps.report",
  "steps.maskmaker", "explain.context", "explain.target", "explain.map",
  "score.registry", "score.context", "perturb.removal", "perturb.regions", "perturb.scorer", "stats.classification",
  "stats.units", "show.figure", "tensor.random" }
local is_public = { ["medxai"] = true }
for _, name in ipairs(public) do is_public["medxai." .. name] = true end

-- LDoc puts comments into HTML as they are.
local function escaped(text) return (text:gsub("&", "&amp;"):gsub("<", "&lt;"):gsub(">", "&gt;")) end

-- A type may hold spaces inside brackets: "fun(a: integer, b?: string): table". Returns type, rest of the line.
local function split_type(text)
  local depth, i = 0, 1
  while i <= #text do
    local c = text:sub(i, i)
    if c:find "[%(%[{<]" then depth = depth + 1
    elseif c:find "[%)%]}>]" then depth = depth - 1
    elseif c == " " and depth == 0 and not text:sub(1, i - 1):find "[:|,]$"
        and not text:sub(i + 1):find "^|" then break end
    i = i + 1
  end
  return text:sub(1, i - 1), (text:sub(i + 1):gsub("^[#@]%s*", ""))
end

local function typed(tag, text)
  local name, rest = text:match "^(%S+)%s*(.*)$"
  local kind, about = split_type(rest)
  local optional = name:sub(-1) == "?"
  return ("-- @%s %s (%s%s) %s"):format(tag, name:gsub("%?$", ""), kind, optional and ", optional" or "", about)
end

-- One annotation as LDoc's line, or nil where it has none.
local function converted(tag, text)
  if tag == "param" then return typed("param", text) end
  if tag == "field" and not text:find "^%[" then return typed("field", text) end
  if tag == "return" then
    local kind, about = split_type(text)
    return ("-- @return (%s) %s"):format(kind, about)
  end
  if tag == "class" then
    return ("-- %s\n-- @table %s"):format(text:match "^%S+%s*(.*)$" or "",
      (text:match "^[%w_%.]+":gsub("^medxai%.", "")))
  end
end

local function prepare(text, module)
  local out, in_head, in_comment = {}, true, false
  for line in text:gmatch "([^\n]*)\n?" do
    local tag, rest = line:match "^%s*%-%-%-@(%a+)%s*(.*)$"
    if in_head and line:find "^%-%- " then
      out[#out + 1] = (#out == 0 and "--- " or "-- ") .. escaped(line:sub(4))
    elseif in_head and not line:find "^%-%-" then
      in_head = false
      out[#out + 1] = (#out == 0 and "--- " .. module .. "\n" or "") .. "-- @module " .. module
      out[#out + 1] = line
    elseif tag then
      local doc = converted(tag, rest)
      if doc then
        if not in_comment then out[#out + 1] = "---" end
        in_comment = true
        out[#out + 1] = escaped(doc)
      end
    elseif line:find "^%s*%-%-%-" then
      out[#out + 1] = (in_comment and "-- " or "--- ") .. escaped(line:match "^%s*%-%-%-%s?(.*)$")
      in_comment = true
    else
      in_comment = false
      out[#out + 1] = line
    end
  end
  return table.concat(out, "\n")
end

local function walk(folder, target, module)
  assert(file.mkdir(target))
  for _, name in ipairs(assert(file.list(folder))) do
    local path = folder .. "/" .. name
    if assert(file.stat(path)).kind == "folder" then
      if name ~= "types" then walk(path, target .. "/" .. name, module .. "." .. name) end
    elseif name:find "%.lua$" then
      local this = name == "init.lua" and module or module .. "." .. name:gsub("%.lua$", "")
      if is_public[this] then assert(file.write(target .. "/" .. name, prepare(assert(file.read(path)), this))) end
    end
  end
end

walk(from, to, "medxai")
