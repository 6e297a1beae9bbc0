-- Writes what is generated from the options' specs: medxai-run docs/reference.lua FOLDER. In FOLDER:
-- docs/reference/*.md, a page per kind, and scripts/medxai/types/options.lua, the editor's types. Both are committed;
-- tests/host_reference.lua says when they are stale, and `medxai-run docs/reference.lua .` renews them.
local files = require "medxai.base.files"
local reference = require "medxai.reference"

local out = assert(..., "usage: medxai-run docs/reference.lua FOLDER")
local entries = reference.all()

-- ---- pages ----------------------------------------------------------------------------------------------------------

local function cell(text) return (text:gsub("|", "\\|"):gsub("\n", " "):gsub("<", "&lt;"):gsub(">", "&gt;")) end

local function option_row(lines, name, rule)
  local meaning = rule.doc or ""
  local values = {}
  for _, value in ipairs(rule.values and rule.one_of or {}) do
    values[#values + 1] = ("%s: %s"):format(value, rule.values[value])
  end
  if #values > 0 then meaning = meaning .. ". " .. table.concat(values, "; ") end
  lines[#lines + 1] = ("| `%s` | %s | %s | %s |"):format(name, cell(reference.type_of(rule)),
    cell(table.concat(reference.facts_of(name, rule), ", ")), cell(meaning))
  for _, inner in ipairs(rule.fields and reference.names(rule.fields) or {}) do
    option_row(lines, name .. "." .. inner, rule.fields[inner])
  end
end

local function option_table(lines, entry, wanted)
  local rows = {}
  for _, name in ipairs(reference.names(entry.options or {})) do
    if wanted(name) then option_row(rows, name, entry.options[name]) end
  end
  if #rows == 0 then return end
  lines[#lines + 1] = "\n| option | type | | meaning |\n|---|---|---|---|"
  table.move(rows, 1, #rows, #lines + 1, lines)
end

local function page(kind)
  local lines, shared = { "# " .. kind[2] .. "\n\nGenerated from the library; the same as `medxai-run help`." }, nil
  for _, e in ipairs(reference.of(kind[1])) do
    lines[#lines + 1] = ("\n## %s%s\n"):format(e.name, e.title and ": " .. e.title or "")
    if e.usage then lines[#lines + 1] = ("    %s\n"):format(e.usage) end
    lines[#lines + 1] = e.doc:gsub("<", "&lt;"):gsub(">", "&gt;")
    option_table(lines, e, function(name) return not e.own or e.own[name] ~= nil end)
    if e.own then shared = e end
  end
  if shared then
    lines[#lines + 1] = ("\n## Options of all %s"):format(kind[1])
    local all = {}
    for _, e in ipairs(reference.of(kind[1])) do
      for name, rule in pairs(e.options) do
        if not e.own[name] then all[name] = rule end
      end
    end
    option_table(lines, { options = all }, function() return true end)
  end
  return table.concat(lines, "\n") .. "\n"
end

-- ---- types ----------------------------------------------------------------------------------------------------------

local names_of_specs = {} -- spec -> the class that describes it
local names_taken = {}

local function camel(name) return (("_" .. name):gsub("[^%w]+(%w)", string.upper):gsub("[^%w]", "")) end

local plain = { tensor = "medxai.Tensor", ["function"] = "function" }

local function kind_of(rule)
  if rule.lua then return rule.lua end
  local words = {}
  for _, value in ipairs(rule.one_of or {}) do words[#words + 1] = reference.literal(value) end
  for kind in (rule[1] or ""):gmatch "[%w_]+" do
    if kind == "table" and rule.fields then kind = names_of_specs[rule.fields]
    elseif kind == "table" and rule.of then kind = rule.of .. "[]" end
    words[#words + 1] = plain[kind] or kind
  end
  return table.concat(words, "|")
end

-- A field and what is said of it; in lines of their own above it where one line would have more than 120 columns, as
-- language servers read them.
local function put_field(lines, field, said)
  if utf8.len(field) + 1 + utf8.len(said) <= 120 then
    lines[#lines + 1] = said == "" and field or field .. " " .. said
    return
  end
  local line = "---"
  for word in said:gmatch "%S+" do
    if utf8.len(line) + 1 + utf8.len(word) > 120 then lines[#lines + 1], line = line, "---" end
    line = line .. " " .. word
  end
  lines[#lines + 1], lines[#lines + 2] = line, field
end

local function class(lines, name, spec, first)
  if names_taken[name] then return end
  names_taken[name], names_of_specs[spec] = true, names_of_specs[spec] or name
  for _, key in ipairs(reference.names(spec)) do
    local inner = spec[key].fields
    if inner and not names_of_specs[inner] then class(lines, "medxai." .. camel(key) .. "Options", inner) end
  end
  lines[#lines + 1] = "\n---@class " .. name
  if name == "medxai.GridOptions" then
    lines[#lines + 1] = "---@field [string] any a field: a list of values, one value, or a function of the cell"
  end
  if first then lines[#lines + 1] = ("---@field [1] %q"):format(first) end
  for _, key in ipairs(reference.names(spec)) do
    local rule = spec[key]
    local facts = table.concat(reference.facts_of(key, rule), ", ")
    put_field(lines, ("---@field %s%s %s"):format(key, rule.required and "" or "?", kind_of(rule)),
      (rule.doc or "") .. (facts ~= "" and " (" .. facts .. ")" or ""))
  end
end

local function alias(lines, name, words, more)
  local list = {}
  for i, word in ipairs(words) do list[i] = ("%q"):format(word) end
  for _, word in ipairs(more or {}) do list[#list + 1] = word end
  lines[#lines + 1] = "\n---@alias " .. name .. " " .. table.concat(list, "|")
end

local function names_of(kind)
  local list, classes = {}, {}
  for _, e in ipairs(entries) do
    if e.kind == kind then
      list[#list + 1] = e.name
      if e.class then classes[#classes + 1] = e.class end
    end
  end
  return list, classes
end

-- A class whose fields make things from options: xai.dataset.folders { ... }.
local function constructors(lines, name, kind, result, also)
  if name then lines[#lines + 1] = "\n---@class " .. name end
  for _, e in ipairs(entries) do
    if e.kind == kind then
      local required = false
      for _, rule in pairs(e.options) do required = required or rule.required end
      lines[#lines + 1] = ("---@field %s fun(options%s: %s%s): %s"):format(e.name, required and "" or "?",
        also[e.name] or "", e.class, result)
    end
  end
end

local function types()
  local lines = { "---@meta medxai.options\n-- Generated by docs/reference.lua from the specs of the options. For "
    .. "editors; nothing runs it." }
  for _, e in ipairs(entries) do
    if e.class then
      class(lines, e.class, e.options, (e.kind == "methods" or e.kind == "metrics" or e.kind == "regions") and e.name)
    end
  end
  constructors(lines, "medxai.Datasets", "readers", "medxai.Dataset", { files = "string|string[]|" })
  constructors(lines, "medxai.Models", "networks", "medxai.Model", {})
  lines[#lines + 1] = "---@field names string[]"
  constructors(lines, "medxai.Optim", "optimizers", "medxai.OptimizerSpec", {})
  constructors(lines, nil, "schedules", "medxai.ScheduleSpec", {})
  local method_names, method_classes = names_of "methods"
  local metric_names, metric_classes = names_of "metrics"
  local region_names, region_classes = names_of "regions"
  alias(lines, "medxai.MethodName", method_names, { "string" })
  alias(lines, "medxai.MethodEntry", {}, method_classes)
  alias(lines, "medxai.Methods", {}, { "medxai.MethodName", "(medxai.MethodName|medxai.MethodEntry)[]",
    "table<string, table|function>" })
  alias(lines, "medxai.MetricName", metric_names, { "string" })
  alias(lines, "medxai.MetricEntry", {}, metric_classes)
  alias(lines, "medxai.Metrics.List", {}, { "medxai.MetricName", "(medxai.MetricName|medxai.MetricEntry)[]",
    "table<string, table|function>" })
  alias(lines, "medxai.Regions", region_names, { "string", "function", table.unpack(region_classes) })
  alias(lines, "medxai.RemovalName", names_of "removals", { "string" })
  alias(lines, "medxai.Target.Spec", { "predicted", "true" }, { "string", "integer", "medxai.TargetOptions" })
  alias(lines, "medxai.SearchKind", {}, { "medxai.RandomOptions", "medxai.HalvingOptions" })
  alias(lines, "medxai.FigureKind", require("medxai.show.gallery").all_kinds)
  return table.concat(lines, "\n") .. "\n"
end

files.mkdir(out .. "/docs/reference")
files.mkdir(out .. "/scripts/medxai/types")
local index = { "# Reference\n\nEvery option of the library, generated from what checks it. `medxai-run help NAME` "
  .. "tells the same.\n" }
for _, kind in ipairs(reference.kinds) do
  files.write(("%s/docs/reference/%s.md"):format(out, kind[1]), page(kind))
  index[#index + 1] = ("- [%s](%s.md): %s"):format(kind[2], kind[1], table.concat(names_of(kind[1]), ", "))
end
files.write(out .. "/docs/reference/README.md", table.concat(index, "\n") .. "\n")
files.write(out .. "/scripts/medxai/types/options.lua", types())
