-- Writes the language server's annotations of every operator of the libtorch that is installed, from the dispatcher's
-- schemas: medxai-run docs/types.lua OUT. A definition file: editors read it, nothing runs it.
-- It refuses operators that torch.<op> refuses (undocumented ones; see torch.raw).
local file = require "medxai.file"
local torch = require "medxai.torch"

local out = assert(..., "usage: medxai-run docs/types.lua OUT")

local kinds = {
  Tensor = "medxai.Tensor", Scalar = "number", int = "integer", SymInt = "integer", float = "number", bool = "boolean",
  str = "string", Device = "string", ScalarType = "medxai.dtype", Layout = "string", MemoryFormat = "string",
  Generator = "any",
}

-- "Tensor(a!)?" -> "medxai.Tensor|nil"; "int[2]" -> "integer|integer[]"
local function kind_of(schema_type)
  local optional = schema_type:find "%?$" ~= nil
  local name = schema_type:gsub("%?$", ""):gsub("%b()", "")
  local element, size = name:match "^(.-)%??%[(%d*)%]$"
  local kind = kinds[element or name] or "any"
  if element then kind = (size ~= "" and kind .. "|" or "") .. kind .. "[]" end
  return optional and kind .. "|nil" or kind
end

local reserved = { ["end"] = true, ["repeat"] = true, ["function"] = true, ["and"] = true, ["or"] = true,
  ["not"] = true, ["in"] = true, ["for"] = true }

-- "aten::add.Tensor(Tensor self, Tensor other, *, Scalar alpha=1) -> Tensor" -> list of { name, kind, optional },
-- result
local function parse(schema)
  local inside, result = schema:match "^[^(]*%((.*)%) %-> (.+)$"
  local args, depth, start = {}, 0, 1
  local text = (inside or "") .. ","
  for i = 1, #text do
    local c = text:sub(i, i)
    if c == "(" or c == "[" then depth = depth + 1
    elseif c == ")" or c == "]" then depth = depth - 1
    elseif c == "," and depth == 0 then
      local schema_type, name, default = text:sub(start, i - 1):match "^%s*(%S+)%s+([%w_]+)(.*)$"
      if schema_type then
        args[#args + 1] = { name = name, kind = kind_of(schema_type),
          optional = default ~= "" or schema_type:find "%?$" ~= nil }
      end
      start = i + 1
    end
  end
  local kinds_out = {}
  for one in (result or ""):gsub("^%((.*)%)$", "%1"):gmatch "[^,]+" do
    local schema_type = one:match "^%s*(%S+)"
    if schema_type and schema_type ~= "()" then kinds_out[#kinds_out + 1] = kind_of(schema_type) end
  end
  return args, kinds_out
end

local function describe(lines, owner, name, schema)
  local args, results = parse(schema)
  local names, is_method = {}, owner == "Tensor"
  lines[#lines + 1] = "---`" .. schema .. "`"
  for _, arg in ipairs(args) do
    local shown = reserved[arg.name] and arg.name .. "_" or arg.name
    if not (is_method and arg.name == "self") then
      names[#names + 1] = shown
      lines[#lines + 1] = ("---@param %s%s %s"):format(shown, arg.optional and "?" or "", arg.kind)
    end
  end
  if #results > 0 then lines[#lines + 1] = "---@return " .. table.concat(results, ", ") end
  lines[#lines + 1] = ("function %s%s%s(%s) end\n"):format(owner, is_method and ":" or ".", name,
    table.concat(names, ", "))
end

local lines = { "---@meta", "-- Made by docs/types.lua from the operators of libtorch "
  .. require "medxai.core".tensor.torch_version() .. ".", "", "---@class medxai.Tensor", "local Tensor = {}", "",
  "---@class medxai.torch", "local torch = {}", "" }
local count = 0
for _, name in ipairs(torch.op_names()) do
  local schema = torch.op_schemas(name)[1]
  if name:find "^%a[%w_]*$" and not reserved[name] and schema then
    describe(lines, "torch", name, schema)
    if schema:find "[(,] *Tensor[^,]* self[,)=]" then describe(lines, "Tensor", name, schema) end
    count = count + 1
  end
end
assert(file.mkdir((out:match "^(.*)/" or ".")))
assert(file.write(out, table.concat(lines, "\n") .. "\n"))
print(("%s: %d operators"):format(out, count))
