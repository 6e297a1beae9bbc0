-- Judgements of a map: one file per metric in score/metrics/, or beside the experiment, in the same form:
--   title, version     its id is name@version and every setting
--   direction          "higher" or "lower" is better; "none": it describes and ranks no methods
--   range              { lo, hi } or nil
--   unit               "share", "hit" ...; "score" is that of the target, logit or probability; for hits, each 1 or 0,
--                      the interval is Wilson's
--   axis               what a chart says under it; signed = true: a difference, written with its sign
--   needs              { mask = true } for those that compare with a mask
--   negatives          what it does with negative values of a map, in words
--   options            like a method's; check = function(options, name) may refuse and complete them
--   values             function(options) -> names, for a metric that gives several numbers; many: the option that they
--                      replace in the id
--   measure            function(map, ctx, options) -> value [, chance [, why]]; nil is undefined, and why says it in a
--                      few words. With values: lists of them in the same order (NaN, or nil but at the end: undefined)
-- map is (H, W) float32 in [0, 1] on the CPU. ctx is of one map:
--   ctx.x, ctx:image()      (1, 3, H, W): the network's input on its device; the same as pixels in [0, 1]
--   ctx.target, ctx.model   what the map explains (class, index, logit, probability ...), and of which model
--   ctx:original()          the target's score of the image as it is
--   ctx:scores(n, make)     scores of n changed images, evaluated in batches; make(first, count) -> (count, 3, H, W),
--                           first from 0
--   ctx:keep(percentile, "most" | "least")
--                           bool (H, W): all pixels but the 100 - percentile % most or least relevant ones
--   ctx:changes_of(rows)    scores of rows of logits less the original's; they keep their digits where p is near 1
--   ctx:removed(removal, { { name =, keep = } ... })
--                           scores with what lies outside keep taken out; none is evaluated twice
--   ctx:removed_logits(removal, asks)
--                           the same as rows of logits; ctx.subject:original() is the row of the image as it is
--   ctx:order()             pixel numbers, the most relevant first, ties at random; nil for a map of one value
--   ctx:range()             the network's values for black and white
--   ctx:stream("what@1")    keyed random numbers of this image
--   ctx.mask, ctx.within    bool (H, W) or nil: the mask asked for, and the one that restricts the metric
--   ctx.record, ctx.item, ctx.status, ctx.compat, ctx:once(key, f), ctx:show(exhibit)
local check = require "medxai.base.check"
local Options = require "medxai.base.options"
local code = require "medxai.base.fingerprint"
local files = require "medxai.base.files"
local named = require "medxai.base.named"
local plugin = require "medxai.base.plugin"

local metric = {}

metric.columns = { "image_id", "path", "patient", "source", "model", "seed", "method", "maps", "layer", "target",
  "metric", "value", "chance", "unit", "status", "undefined", "label", "predicted", "correct", "confidence",
  "mask_sha256" }

-- What every metric takes besides its own options.
local shared = {
  within = { "string", doc = "name of a mask: pixels outside of it are neither ranked nor counted" },
  as = { one_of = { "logit", "softmax" }, doc = "the score that is judged; default: the target's own" },
}

--- The options of a metric in a list of metrics: its own, and those that it shares with all.
---@param definition table
function metric.spec(definition)
  local spec = {}
  for key, rule in pairs(definition.options or {}) do spec[key] = rule end
  for key, rule in pairs(shared) do spec[key] = rule end
  return spec
end

local kinds = { title = "string", unit = "string", axis = "string", negatives = "string", many = "string",
  options = "table", needs = "table", range = "table", check = "function", values = "function" }

local function definition_of(name)
  local d, source = plugin.find("explain", "score/metrics", "metric", name)
  if type(d) ~= "table" or type(d.measure) ~= "function" then
    check.fail("explain", "metric '%s' has no measure (expected a table with measure = function(map, ctx)).", name)
  end
  check.kinds("explain", string.format("metric '%s'", name), d, kinds)
  Options.check_spec("explain", string.format("metric '%s'", name), d.options or {})
  if d.direction ~= nil and d.direction ~= "higher" and d.direction ~= "lower" and d.direction ~= "none" then
    check.fail("explain", "metric '%s': direction is 'higher', 'lower' or 'none' (got '%s').", name,
      tostring(d.direction))
  end
  if d.version ~= nil and math.type(d.version) ~= "integer" then
    check.fail("explain", "metric '%s': version is a whole number (got %s).", name, tostring(d.version))
  end
  return d, source
end

-- "name@1 option=value ...", every setting in it; an own metric's also has the beginning of its file's hash.
local function id_of(name, d, options, more)
  local words = { string.format("%s@%d", name, d.version or 0) }
  for _, key in ipairs(check.sorted_keys(options)) do
    if key ~= d.many then words[#words + 1] = key .. "=" .. code.setting(options[key]) end
  end
  for _, word in ipairs(more) do words[#words + 1] = word end
  return table.concat(words, " ")
end

-- What a metric's values() returned, checked.
local function names_of(name, list)
  local function fail(fmt, ...) check.fail("explain", "metric '%s': values() " .. fmt, name, ...) end
  if type(list) ~= "table" then
    fail("returned %s (expected a list of names).", list == nil and "nothing" or "a " .. type(list))
  end
  if #list == 0 then fail "returned an empty list (expected a list of names)." end
  local seen = {}
  for _, value_name in ipairs(list) do
    if type(value_name) ~= "string" then fail("names a %s (expected texts).", type(value_name)) end
    if seen[value_name] then fail("names '%s' twice.", value_name) end
    seen[value_name] = true
  end
  return list
end

local function entry(name, value, mask, compat)
  local d, source = definition_of(name)
  local options = Options.check(name, type(value) == "table" and value or {}, metric.spec(d))
  local more = {}
  local function add(key, v) if v then more[#more + 1] = key .. "=" .. v end end
  local needs_mask = d.needs and d.needs.mask
  if needs_mask and not mask then
    check.fail("explain", "metric '%s' needs a mask (expected mask = \"lesion\" or the like beside metrics).", name)
  end
  add("mask", needs_mask and mask)
  add("within", options.within)
  add("as", options.as)
  add("compat", d.compat and compat)
  add("source", source and files.sha256(source):sub(1, 8))
  local m = { name = name, definition = d, own = source ~= nil, mask = needs_mask and mask or nil,
    within = options.within, as = options.as }
  options.within, options.as = nil, nil
  if d.check then d.check(options, name) end
  m.options, m.id, m.ids, m.names = options, id_of(name, d, options, more), {},
    d.values and names_of(name, d.values(options)) or nil
  for i, value_name in ipairs(m.names or { "" }) do
    m.ids[i] = m.id .. (value_name ~= "" and " " .. value_name or "")
  end
  return m
end

local function check_member(m)
  if not m.name then
    local given = type(m.given) == "table" and m.given[1] or m.given
    check.fail("explain", "metrics holds names or { name, option = value } (got %s at %s).", type(given),
      tostring(m.key))
  end
  if not m.keyed or m.value == true or type(m.value) == "table" then return end
  check.fail("explain", "metric '%s' takes a table of options (got %s).%s", m.name, type(m.value),
    type(m.value) == "function"
    and string.format(" A metric of your own is a file '%s.lua' beside the experiment.", m.name) or "")
end

--- Checks a `metrics` table, in its order (the list part, then names sorted): names, { name, option = value } or name =
--- { option = value }. Every metric also takes
---   within  the name of a mask: pixels outside it are neither ranked nor counted
---   as      "logit" or "softmax": the score that is judged, where it is not the target's own
---@param list table
---@param mask string|nil name of the mask for those that need one
---@param compat string|nil
---@return table[] of { name, id, ids (one per value), names, definition, options, mask, within, as }
function metric.entries(list, mask, compat)
  local entries, seen = {}, {}
  for _, member in ipairs(named.members(list)) do
    check_member(member)
    local m = entry(member.name, member.value, mask, compat)
    for _, id in ipairs(m.ids) do
      if seen[id] then check.fail("explain", "metric '%s' is asked for twice with the same settings.", id) end
      seen[id] = true
    end
    entries[#entries + 1] = m
  end
  return entries
end

local usual = { ["removal=noisy_linear(0.01)"] = true, ["steps=100"] = true }

--- The settings in a metric's id that are not the usual ones: { "percentile 25", ... }.
---@param id string
---@return string[]
function metric.settings(id)
  local list = {}
  for word in id:gsub("^%S+%s?", ""):gmatch "%S+" do
    if not usual[word] then list[#list + 1] = (word:gsub("=", " ", 1)) end
  end
  return list
end

--- A metric's id for reading: "ROAD combined" of "road_combined@1", with the settings that stand after it.
---@param id string
---@return string
function metric.title(id)
  local name, rest = id:match "^([%w_]+)(.*)$"
  if not name then return id end
  local found, definition = pcall(require, "medxai.score.metrics." .. name)
  return (found and definition.title or name:gsub("_", " ")) .. rest:gsub("^@%d+", "")
end

--- The unit of a metric's values for a target taken as "logit" or "softmax".
function metric.unit(m, as)
  if m.definition.unit ~= "score" then return m.definition.unit end
  local kind = m.as or as
  return (kind == "softmax" or kind == "sigmoid") and "probability" or "logit"
end

--- "higher is better" for headings.
---@param direction string|nil of a metric
function metric.better(direction)
  return direction == "none" and "it describes, neither way is better" or (direction or "higher") .. " is better"
end

return metric
