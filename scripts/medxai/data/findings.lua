-- Several findings per image: what a table or a list says of each one becomes 1 (there), 0 (not there) or NaN (nobody
-- knows). Uncertain labels are CheXpert's -1 (Irvin et al. 2019): training ignores them, or takes them as ones or
-- zeros; where a network is judged, their truth is not known, and they are left out. It refuses values that are none
-- of these, and findings that are not in the list.
local check = require "medxai.base.check"
local listing = require "medxai.data.listing"
local suggest = require "medxai.base.suggest"

local findings = {}

local nan = 0 / 0

--- The options of readers whose images may have several findings.
findings.spec = {
  findings = { "table", of = "string",
    doc = "in the place of classes: names of which an image may have several, one or none; the network needs "
      .. "outputs = \"sigmoid\"" },
  uncertain = { one_of = { "ignore", "ones", "zeros" }, default = "ignore", field = true,
    doc = "what training takes an uncertain finding (-1) for; in val and test it is left out" },
  missing = { one_of = { "ignore", "zeros" }, default = "ignore", field = true,
    doc = "what a finding without an entry means: not known, or not there" },
}

local values = { ["1"] = 1, ["1.0"] = 1, ["0"] = 0, ["0.0"] = 0, ["-1"] = -1, ["-1.0"] = -1 }

-- 1, 0, -1 (uncertain), or nil where there is no entry.
local function value_of(value, name, where)
  if value == nil or value == "" then return nil end
  if value == true then return 1 elseif value == false then return 0 end
  local number = values[tostring(value):match "^%s*(.-)%s*$"]
  if number then return number end
  check.fail(where, "the finding '%s' is %s (expected 1, 0, -1 where uncertain, or nothing).", name,
    type(value) == "string" and "'" .. value .. "'" or tostring(value))
end

local function check_known(name, names, where)
  for _, known in ipairs(names) do
    if known == name then return end
  end
  check.fail(where, "unknown finding '%s'.%s", tostring(name), suggest.hint(tostring(name), names))
end

--- What { Effusion = 1, Edema = -1 } says of each name: 1, 0, -1 or false (no entry).
---@param map table<string, any>
---@param names string[]
---@param where string for errors: "from: item 3"
function findings.of_map(map, names, where)
  local out = {}
  for _, name in ipairs(check.sorted_keys(map)) do check_known(name, names, where) end
  for k, name in ipairs(names) do out[k] = value_of(map[name], name, where) or false end
  return out
end

--- What the set { "Effusion", "Edema" } says: the others are not there. NIH's "No Finding" is an empty set.
function findings.of_set(set, names, where)
  local out, has = {}, {}
  for _, name in ipairs(set) do
    if not (name == "No Finding" and #set == 1) then
      check_known(name, names, where)
      has[name] = true
    end
  end
  for k, name in ipairs(names) do out[k] = has[name] and 1 or 0 end
  return out
end

--- The same of a text: "Effusion|Edema".
function findings.of_text(text, names, where)
  local set = {}
  for name in text:gmatch "[^|]+" do set[#set + 1] = name:match "^%s*(.-)%s*$" end
  return findings.of_set(set, names, where)
end

--- An item's label as an experiment writes it: a set, numbers by name, or a text.
function findings.of_label(label, names, where)
  if type(label) == "string" then return findings.of_text(label, names, where) end
  if type(label) ~= "table" then
    check.fail(where, "the label is a %s (expected { \"%s\" } or { %s = 1 }).", type(label), names[1],
      names[1]:find "^[%a_][%w_]*$" and names[1] or ('["%s"]'):format(names[1]))
  end
  if #label > 0 or next(label) == nil then return findings.of_set(label, names, where) end
  return findings.of_map(label, names, where)
end

--- The list of names that the user gave.
function findings.names(what, options)
  if not options.findings then return nil end
  if options.classes then
    check.fail(what, "classes and findings exclude each other: an image has one class, or any number of findings.")
  end
  return listing.check_classes(what, options.findings)
end

--- What training and judging see of items: item.findings becomes 1, 0 or NaN for each name.
---@param items table[] with findings as read
---@param options { uncertain: string, missing: string }
function findings.resolve(items, options)
  local unsure = ({ ignore = nan, ones = 1, zeros = 0 })[options.uncertain]
  local absent = options.missing == "zeros" and 0 or nan
  for _, item in ipairs(items) do
    local out = {}
    for k, v in ipairs(item.findings) do
      if v == false then out[k] = absent
      elseif v == -1 then out[k] = item.split == "train" and unsure or nan
      else out[k] = v end
    end
    item.findings = out
  end
end

--- "Effusion|Edema", "No Finding", with "?" behind what is not known: as manifest.csv and figures say it.
---@param list number[] 1, 0, NaN
---@param names string[]
function findings.text(list, names)
  local words = {}
  for k, v in ipairs(list) do
    if v ~= v then words[#words + 1] = names[k] .. "?" elseif v == 1 then words[#words + 1] = names[k] end
  end
  return #words > 0 and table.concat(words, "|") or "No Finding"
end

return findings
