-- Judgements of a map: one file a metric in score/, or beside the experiment, in the same form:
--   title, version     its id is name@version and every setting
--   direction          "higher" or "lower" is better; range = { lo, hi } or nil
--   unit               "share", "hit" ...; "score" is that of the target: logit or probability; of hits, each 1 or 0, the
--                      interval is Wilson's
--   axis               what a chart says under it; signed = true: a difference, written with its sign
--   needs              { mask = true } for those that compare with a mask
--   negatives          what it does with negative values of a map, in words
--   options            like a method's; check = function(options, name) may refuse and complete them
--   values             function(options) -> names, for a metric that gives several numbers; many: the option that they replace in the id
--   measure            function(map, ctx, options) -> value [, chance [, why]]; nil is undefined, and why says it in a few words.
--                      With values: lists of them in the same order (NaN, or nil but at the end: undefined)
-- map is (H, W) float32 in [0, 1] on the CPU. ctx is of one map:
--   ctx.x, ctx:image()      (1, 3, H, W): the network's input on its device; the same as pixels in [0, 1]
--   ctx.target, ctx.model   what the map explains (class, index, logit, probability ...), and of which model
--   ctx:original()          the target's score of the image as it is
--   ctx:scores(n, make)     of n changed images, evaluated in batches; make(first, count) -> (count, 3, H, W), first from 0
--   ctx:keep(percentile, "most" | "least")  bool (H, W): a percentile of the pixels, without the most or the least relevant ones
--   ctx:changes_of(rows)    scores of rows of logits less the original's; they keep their digits where p is near 1
--   ctx:removed(removal, { { name =, keep = } ... })  scores with what lies outside keep taken out; none is evaluated twice
--   ctx:removed_logits(removal, asks)  the same as rows of logits; ctx.subject:original() those of the image as it is
--   ctx:order()             pixel numbers, the most relevant first, ties at random; nil where the map is the same everywhere
--   ctx:range()             the network's values for black and white
--   ctx:stream("what@1")    keyed random numbers of this image
--   ctx.mask, ctx.within    bool (H, W) or nil: the mask asked for, and the one that restricts the metric
--   ctx.record, ctx.item, ctx.status, ctx.compat, ctx:once(key, f), ctx:show(exhibit)
-- It refuses to average what is undefined: such maps are counted, not guessed.
local check = require "medxai.base.options"
local code = require "medxai.base.fingerprint"
local files = require "medxai.base.files"
local plugin = require "medxai.base.plugin"
local torch = require "medxai.torch"
local units = require "medxai.stats.units"

local metric = {}

metric.columns = { "image_id", "path", "patient", "source", "model", "seed", "method", "maps", "layer", "target", "metric", "value", "chance", "unit", "status",
  "undefined", "label", "predicted", "correct", "confidence", "mask_sha256" }

-- What every metric takes besides its own options.
local shared = {
  within = { "string" },
  as = { one_of = { "logit", "softmax" } },
}

local kinds = { title = "string", unit = "string", axis = "string", negatives = "string", many = "string", options = "table", needs = "table", range = "table",
  check = "function", values = "function" }

local function definition_of(name)
  local d, source = plugin.find("explain", "score/metrics", "metric", name)
  if type(d) ~= "table" or type(d.measure) ~= "function" then
    check.fail("explain", "metric '%s' has no measure (expected a table with measure = function(map, ctx)).", name)
  end
  check.kinds("explain", string.format("metric '%s'", name), d, kinds)
  check.spec("explain", string.format("metric '%s'", name), d.options or {})
  if d.direction ~= nil and d.direction ~= "higher" and d.direction ~= "lower" then
    check.fail("explain", "metric '%s': direction is 'higher' or 'lower' (got '%s').", name, tostring(d.direction))
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

local function without_name(value)
  local given = {}
  for k, v in pairs(type(value) == "table" and value or {}) do
    if k ~= 1 then given[k] = v end
  end
  return given
end

-- What a metric's values() returned, checked.
local function names_of(name, list)
  local function fail(fmt, ...) check.fail("explain", "metric '%s': values() " .. fmt, name, ...) end
  if type(list) ~= "table" then fail("returned %s (expected a list of names).", list == nil and "nothing" or "a " .. type(list)) end
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
  local spec = {}
  for k, rule in pairs(d.options or {}) do spec[k] = rule end
  for k, rule in pairs(shared) do spec[k] = rule end
  local options = check.options(name, without_name(value), spec)
  local more = {}
  local function add(key, v) if v then more[#more + 1] = key .. "=" .. v end end
  local needs_mask = d.needs and d.needs.mask
  if needs_mask and not mask then check.fail("explain", "metric '%s' needs a mask (expected mask = \"lesion\" or the like beside metrics).", name) end
  add("mask", needs_mask and mask)
  add("within", options.within)
  add("as", options.as)
  add("compat", d.compat and compat)
  add("source", source and files.sha256(source):sub(1, 8))
  local m = { name = name, definition = d, own = source ~= nil, mask = needs_mask and mask or nil, within = options.within, as = options.as }
  options.within, options.as = nil, nil
  if d.check then d.check(options, name) end
  m.options, m.id, m.ids, m.names = options, id_of(name, d, options, more), {}, d.values and names_of(name, d.values(options)) or nil
  for i, value_name in ipairs(m.names or { "" }) do m.ids[i] = m.id .. (value_name ~= "" and " " .. value_name or "") end
  return m
end

-- The name of a metric at a place of the list, or under its own name: deletion = { steps = 10 }.
local function asked_for(key, value)
  if type(key) ~= "string" then
    local name = type(value) == "table" and value[1] or value
    if type(name) ~= "string" then check.fail("explain", "metrics holds names or { name, option = value } (got %s at %s).", type(name), tostring(key)) end
    return name
  end
  if value == true or type(value) == "table" then return key end
  check.fail("explain", "metric '%s' takes a table of options (got %s).%s", key, type(value),
    type(value) == "function" and string.format(" A metric of your own is a file '%s.lua' beside the experiment.", key) or "")
end

--- Checks a `metrics` table, in its order (the list part, then names sorted): names, { name, option = value } or name = { option = value }.
--- Every metric also takes
---   within  the name of a mask: pixels outside it are neither ranked nor counted
---   as      "logit" or "softmax": the score that is judged, where it is not the target's own
---@param list table
---@param mask string|nil name of the mask for those that need one
---@param compat string|nil
---@return table[] of { name, id, ids (one a value), names, definition, options, mask, within, as }
function metric.entries(list, mask, compat)
  local entries, seen = {}, {}
  for _, key in ipairs(check.sorted_keys(list)) do
    local m = entry(asked_for(key, list[key]), list[key], mask, compat)
    for _, id in ipairs(m.ids) do
      if seen[id] then check.fail("explain", "metric '%s' is asked for twice with the same settings.", id) end
      seen[id] = true
    end
    entries[#entries + 1] = m
  end
  return entries
end

--- The unit of a metric's values for a target taken as "logit" or "softmax".
function metric.unit(m, as)
  if m.definition.unit ~= "score" then return m.definition.unit end
  return (m.as or as) == "softmax" and "probability" or "logit"
end

local nan = 0 / 0
local broken = { nan = true, saturated = true, failed = true, not_defined = true }

local function undefined(m, why, chance)
  local out = {}
  for i in ipairs(m.ids) do out[i] = { value = nan, chance = chance or nan, why = why } end
  return out
end

local function kind_of(v) return torch.is_tensor(v) and "a tensor, whose number is tensor:item()" or "a " .. type(v) end

local function is_infinite(v) return v == math.huge or v == -math.huge end

-- The i-th value's chance level: a number, or none.
local function chance_of(m, chance, i)
  if chance == nil then return nan end
  if type(chance) ~= "table" then check.fail("explain", "metric '%s' returned %s as chance (expected a list of numbers, as its values() says).", m.name, kind_of(chance)) end
  if chance[i] ~= nil and type(chance[i]) ~= "number" then
    check.fail("explain", "metric '%s' returned %s as its level of chance (expected a number or nil).", m.name, kind_of(chance[i]))
  end
  if is_infinite(chance[i]) then check.fail("explain", "metric '%s' returned %s as its level of chance (expected a finite number or nil).", m.name, chance[i]) end
  return chance[i] or nan
end

-- The i-th value and, where it is undefined, why: nil and what is not finite have no mean.
local function value_of(m, v, why)
  if v == nil then return nan, why or "undefined" end
  if type(v) ~= "number" then check.fail("explain", "metric '%s' returned %s (expected a number).", m.name, kind_of(v)) end
  if is_infinite(v) then return nan, why or "infinite" end
  return v, v ~= v and (why or "not a number") or nil
end

-- How many values a list holds: nil may stand in it, but not at its end.
local function last_of(list)
  local last = 0
  for k in pairs(list) do last = math.type(k) == "integer" and math.max(last, k) or last end
  return last
end

--- Judges one map: one result a value of the metric (entry.ids), NaN with a reason where it is undefined.
---@param m table from entries
---@param map any tensor (H, W) float32 in [0, 1]
---@param ctx table see the top of this file; status of the map
---@return table[] list of { value, chance, why }
function metric.measure(m, map, ctx)
  if broken[ctx.status] then return undefined(m, "map is " .. (ctx.status:gsub("_", " "))) end
  if m.mask and not ctx.mask then return undefined(m, "no mask") end
  if m.within and not ctx.within then return undefined(m, "no mask '" .. m.within .. "'") end
  if m.within and not ctx.within:any():item() then return undefined(m, "empty mask '" .. m.within .. "'") end
  local value, chance, why = m.definition.measure(m.own and map:clone() or map, ctx, m.options)
  if why ~= nil and type(why) ~= "string" then check.fail("explain", "metric '%s' returned %s as its reason (expected a text).", m.name, kind_of(why)) end
  if value == nil then return undefined(m, why or "undefined", type(chance) == "number" and chance or nil) end
  if not m.names then value, chance = { value }, { chance } end
  local count = type(value) == "table" and last_of(value)
  if count ~= #m.ids then
    check.fail("explain", "metric '%s' returned %s (expected %d number%s).", m.name, count and count .. " values" or kind_of(value), #m.ids,
      #m.ids == 1 and "" or "s, as its values() says")
  end
  local out = {}
  for i in ipairs(m.ids) do
    local v, reason = value_of(m, value[i], why)
    out[i] = { value = v, chance = chance_of(m, chance, i), why = reason }
  end
  return out
end

-- The units of rows, an image each; those of the last call where the patients are the same, whose draws are then made once.
local function units_of(rows, seed, last)
  local list = {}
  for i, row in ipairs(rows) do list[i] = row.patient or "unknown" end
  local key = table.concat(list, "\0")
  if last.key ~= key then last.key, last.over = key, units.over(#rows, list, { seed = seed }) end
  return last.over
end

-- Mean, interval and counts of one method under one metric.
local function summary_of(rows, over)
  local values, excess, chances = {}, {}, {}
  for i, row in ipairs(rows) do
    values[i], chances[i] = row.value, row.chance
    excess[i] = row.value - row.chance
  end
  local mean = over:mean(values, { hits = rows[1].unit == "hit" })
  local above = over:mean(excess)
  local chance, counted = 0.0, 0
  for i, v in ipairs(chances) do
    if v == v and values[i] == values[i] then chance, counted = chance + v, counted + 1 end
  end
  local reasons = {}
  for _, row in ipairs(rows) do
    if row.undefined then reasons[row.undefined] = (reasons[row.undefined] or 0) + 1 end
  end
  return { mean = mean.mean, low = mean.low, high = mean.high, n = mean.n, of = #rows, chance = counted > 0 and chance / counted or 0 / 0,
    above = above.mean, above_low = above.low, above_high = above.high, units = mean.units, resampled = mean.resampled, level = mean.level,
    interval = mean.interval, why = mean.why, note = mean.note, undefined = reasons }
end

--- Summaries that may stand in one column: of one metric and in one unit. Maps of a probability (LIME's) and of a logit are scored in
--- different numbers.
---@param summaries table[]
---@return table[][] groups in the order in which they first appear
function metric.comparable(summaries)
  local groups, of = {}, {}
  for _, s in ipairs(summaries) do
    local key = s.metric .. "\0" .. (s.unit or "")
    if not of[key] then
      of[key] = {}
      groups[#groups + 1] = of[key]
    end
    table.insert(of[key], s)
  end
  return groups
end

--- Summaries in the order in which methods and metrics first appear.
---@param rows table[] long rows
---@param seed integer
---@return table[] of { metric, method, maps, title, mean, low, high, n, of, chance, above, above_low, above_high, ... }
function metric.summarise(rows, seed)
  local groups, order = {}, {}
  for _, row in ipairs(rows) do
    local key = row.metric .. "\0" .. row.maps
    if not groups[key] then
      groups[key] = {}
      order[#order + 1] = key
    end
    table.insert(groups[key], row)
  end
  local out, last = {}, {}
  for i, key in ipairs(order) do
    local s = summary_of(groups[key], units_of(groups[key], seed, last))
    local first = groups[key][1]
    s.metric, s.method, s.maps, s.layer, s.target, s.unit = first.metric, first.method, first.maps, first.layer, first.target, first.unit
    out[i] = s
  end
  return out
end

return metric
