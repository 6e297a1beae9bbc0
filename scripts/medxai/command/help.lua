-- medxai-run help [NAME ...]: what can be named in an experiment, and the options of one: type, range, default, unit,
-- meaning. It refuses unknown names, offering near ones.
local reference = require "medxai.reference"
local suggest = require "medxai.base.suggest"

local width = 100

-- Words of a text in lines of at most `width`, each behind `indent`.
local function wrapped(text, indent)
  local lines, line = {}, ""
  for word in text:gmatch "%S+" do
    if line ~= "" and #indent + #line + 1 + #word > width then
      lines[#lines + 1], line = indent .. line, word
    else
      line = line == "" and word or line .. " " .. word
    end
  end
  if line ~= "" then lines[#lines + 1] = indent .. line end
  return table.concat(lines, "\n")
end

local function print_option(name, rule, indent)
  local facts = table.concat(reference.facts_of(name, rule), ", ")
  print(("%s%-18s %s%s"):format(indent, name, reference.type_of(rule), facts ~= "" and "; " .. facts or ""))
  print(wrapped(rule.doc or "", indent .. "    "))
  for _, value in ipairs(rule.values and rule.one_of or {}) do
    print(wrapped(("%s: %s"):format(value, rule.values[value]), indent .. "      "))
  end
  for _, inner in ipairs(rule.fields and reference.names(rule.fields) or {}) do
    print_option(name .. "." .. inner, rule.fields[inner], indent .. "  ")
  end
end

local function print_options(heading, entry, wanted)
  local names = {}
  for _, name in ipairs(reference.names(entry.options or {})) do
    if wanted(name) then names[#names + 1] = name end
  end
  if #names == 0 then return end
  print("\n" .. heading)
  for _, name in ipairs(names) do print_option(name, entry.options[name], "  ") end
end

local function print_entry(entry)
  local kind
  for _, k in ipairs(reference.kinds) do
    if k[1] == entry.kind then kind = k[2] end
  end
  print(("%s%s   (%s)"):format(entry.name, entry.title and ": " .. entry.title or "", kind))
  if entry.usage then print("  " .. entry.usage) end
  if entry.doc ~= "" then print("\n" .. entry.doc) end
  if not entry.own then return print_options("Options", entry, function() return true end) end
  print_options("Options", entry, function(name) return entry.own[name] end)
  print_options(("Options of all %s"):format(entry.kind), entry, function(name) return not entry.own[name] end)
end

local function print_kind(kind)
  print(kind[2])
  local names = {}
  for _, e in ipairs(reference.of(kind[1])) do
    names[#names + 1] = e.name:find " " and ("%q"):format(e.name) or e.name
  end
  print(wrapped(table.concat(names, "  "), "  "))
end

-- "run:fit" -> "fit", "Grad-CAM++" -> "gradcamplusplus", "blur(31)" -> "blur"
local function bare(name)
  name = name:gsub("%(.*$", ""):match "([^:%.]+)$" or name
  return (name:lower():gsub("%+", "plus"):gsub("[^%w]", ""))
end

-- The words of `medxai-run models` and `datasets` name kinds, too.
local other_words = { models = "networks", datasets = "readers" }

local function help(word)
  word = other_words[word] or word
  for _, kind in ipairs(reference.kinds) do
    if kind[1] == word then return print_kind(kind) end
  end
  local found, names, seen = {}, {}, {}
  for _, kind in ipairs(reference.kinds) do names[#names + 1] = kind[1] end
  for _, e in ipairs(reference.all()) do
    if bare(e.name) == bare(word) and not (seen[e.kind] and e.kind == "removals") then
      found[#found + 1], seen[e.kind] = e, true
    end
    names[#names + 1] = e.name
  end
  if #found == 0 then
    local hint = suggest.hint(word:match "([^:%.]+)$" or word, names, 3)
    io.stderr:write(("medxai-run: help: nothing is called '%s'.%s See medxai-run help.\n"):format(word, hint))
    os.exit(2)
  end
  for i, e in ipairs(found) do
    if i > 1 then print(("\n%s\n"):format(("-"):rep(60))) end
    print_entry(e)
  end
end

local words = { ... }
if words[1] == "--help" or words[1] == "-h" or #words == 0 then
  print("medxai-run help NAME tells the options of one of these (help fit, help gradcam, help covid_qu_ex), "
    .. "help KIND its names.\n")
  for i, kind in ipairs(reference.kinds) do
    if i > 1 then print() end
    print_kind { kind[1], ("%s (%s)"):format(kind[2], kind[1]) }
  end
else
  for i, word in ipairs(words) do
    if i > 1 then print() end
    help(word)
  end
end
