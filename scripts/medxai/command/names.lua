-- medxai-run models | methods | metrics | datasets: what there is, one line each: name, what it is, its own options
-- with their defaults. Options that most of a kind take are told once, below. The texts are those of `medxai-run help`.
local reference = require "medxai.reference"

local kinds = { models = "networks", methods = "methods", metrics = "metrics", datasets = "readers" }

-- The title, or the first sentence of what is said, on one line.
local function summary(entry)
  if entry.title then return entry.title end
  local text = entry.doc:gsub("%s+", " ")
  text = text:match "^(.-[^%.]%.)%s%a" or text -- the dot of "et al. 2018" ends no sentence
  return (text:gsub("%.$", ""))
end

-- "bins=15", "root" where there is no default
local function option(name, rule)
  return rule.default == nil and name or name .. "=" .. reference.literal(rule.default)
end

-- Options that more than half of the entries take, with the same text.
local function usual(entries)
  local counts, rules = {}, {}
  for _, e in ipairs(entries) do
    for name, rule in pairs(e.options or {}) do
      local id = name .. "\0" .. (rule.doc or "")
      counts[id], rules[id] = (counts[id] or 0) + 1, { name, rule }
    end
  end
  local shared = {}
  for id, n in pairs(counts) do
    if 2 * n > #entries then shared[rules[id][1]] = rules[id][2] end
  end
  return shared
end

local function options_of(options, shared)
  local list = {}
  for _, name in ipairs(reference.names(options or {})) do
    if not shared[name] or shared[name].doc ~= options[name].doc then list[#list + 1] = option(name, options[name]) end
  end
  return table.concat(list, ", ")
end

local word, extra = ...
if extra and extra ~= "--help" then
  io.stderr:write(("medxai-run: %s: takes no words (got '%s'). The options of one: medxai-run help %s.\n"):format(word,
    extra, extra))
  os.exit(2)
end
local entries = reference.of(kinds[word])
local shared, width = usual(entries), 0
for _, e in ipairs(entries) do width = math.max(width, #e.name) end
for _, e in ipairs(entries) do
  local own = options_of(e.options, shared)
  print(("%-" .. width .. "s  %s%s"):format(e.name, summary(e), own ~= "" and " (" .. own .. ")" or ""))
end
local all = options_of(shared, {})
if all ~= "" then print("\nmost also take: " .. all) end
print("types, ranges, meanings: medxai-run help NAME")
