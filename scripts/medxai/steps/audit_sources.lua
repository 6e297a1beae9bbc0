-- The audit's question about hospitals: do classes come from sources of their own, and does the network know the
-- source? Within a class the source can be told by features that have nothing to do with the class; a class that comes
-- from one source alone is confounded, and no analysis of these data can separate the two. It refuses a list of sources
-- that all have one name.
local check = require "medxai.base.check"
local probe = require "medxai.stats.probe"
local multiple = require "medxai.stats.multiple"
local torch = require "medxai.torch"
local units = require "medxai.stats.units"
local verdict = require "medxai.stats.verdict"

local sources = {}

sources.refits, sources.folds = 200, 5

--- Checks the option `sources`: class -> source, or nothing: the reader's column.
---@param given table|nil
---@param classes string[]
function sources.check(given, classes)
  if not given then return end
  local names, count = {}, 0
  for _, class in ipairs(check.sorted_keys(given)) do
    check.known("audit: sources", "class", class, classes)
    if type(given[class]) ~= "string" then
      check.fail("audit", "sources: '%s' is a %s (expected the name of a source).", class, type(given[class]))
    end
    if not names[given[class]] then names[given[class]], count = true, count + 1 end
  end
  for _, class in ipairs(classes) do
    if not given[class] then
      check.fail("audit", "sources: the class '%s' has none (expected a source of every class).", class)
    end
  end
  if count < 2 then
    check.fail("audit", "sources: every class comes from '%s': with one source there is nothing to audit. Leave "
      .. "sources out, or name those that differ.", given[classes[1]])
  end
end

--- The source of an image: that of its class where sources are given, else the reader's; nil where it is unknown.
---@param given table|nil
---@param split medxai.Split
---@param i integer
---@return string|nil
function sources.of(given, split, i)
  local item = split.items[i]
  if given then return given[split.classes[item.label + 1]] end
  return units.is_known(item.source) and item.source or nil
end

-- Entropy in bits of counts.
local function entropy(counts)
  local total, sum = 0, 0.0
  for _, n in pairs(counts) do total = total + n end
  for _, name in ipairs(check.sorted_keys(counts)) do
    local p = counts[name] / total
    if p > 0 then sum = sum - p * math.log(p, 2) end
  end
  return sum
end

--- How classes and sources go together, over all images whose source is known: counts[class][source], the share of the
--- class's entropy that the source tells (Shannon), and which classes have one source alone.
---@param given table|nil
---@param data medxai.Dataset
---@return table { known, names, counts, share = I(class; source) / H(class), single = { class -> source } }
function sources.table_of(given, data)
  local counts, by_source, by_class, joint, known, names = {}, {}, {}, {}, 0, {}
  for _, class in ipairs(data.classes) do counts[class], by_class[class] = {}, 0 end
  for _, split in ipairs(data.splits) do
    for i, item in ipairs(split.items) do
      local source, class = item.label and sources.of(given, split, i), item.label and data.classes[item.label + 1]
      if source then
        if not by_source[source] then names[#names + 1] = source end
        counts[class][source] = (counts[class][source] or 0) + 1
        by_source[source], by_class[class] = (by_source[source] or 0) + 1, by_class[class] + 1
        joint[class .. "\0" .. source], known = (joint[class .. "\0" .. source] or 0) + 1, known + 1
      end
    end
  end
  table.sort(names)
  local out = { known = known, names = names, counts = counts, single = {}, share = 0.0 }
  if known == 0 then return out end
  local of_class = entropy(by_class)
  if of_class > 0 then out.share = (of_class + entropy(by_source) - entropy(joint)) / of_class end
  for _, class in ipairs(data.classes) do
    local own = check.sorted_keys(counts[class])
    if #own == 1 and #names > 1 then out.single[class] = own[1] end
  end
  return out
end

-- ---- features -------------------------------------------------------------------------------------------------------

-- The node whose value the last linear layer (else the last convolution) reads.
local function penultimate(model)
  local names, used = model:node_names(), model:used_nodes()
  for _, op in ipairs { "linear", "conv2d" } do
    for k = #names, 1, -1 do
      local node = used[names[k]] and model:node(names[k])
      if node and node.op == op then return node.inputs[1] end
    end
  end
  check.fail("audit", "the network has no linear layer and no convolution: where its features are is not known.")
end

--- A network's penultimate features of some images, spatial ones averaged: (n, D) float64.
---@param model medxai.Model in evaluation
---@param split medxai.Split
---@param places integer[]
---@return any tensor
function sources.features(model, split, places)
  local memory, name, rows = require("medxai.core").memory, penultimate(model), {}
  local scope <close> = memory.scope()
  for first = 1, #places, 16 do
    local inner <close> = memory.scope()
    local x = split:batch(table.move(places, first, math.min(first + 15, #places), 1, {})).x:to { device = model.device,
      dtype = model.dtype }
    local values = torch.no_grad(function() return model:forward { x = x, outputs = { name } }[name] end)
    if #values.shape == 4 then values = values:mean { 2, 3 } end
    rows[#rows + 1] = inner:keep(values:cpu():to { dtype = "float64" }:reshape({ values:size(0), -1 }))
  end
  return scope:keep(torch.cat(rows, 0))
end

-- ---- the probe ------------------------------------------------------------------------------------------------------

-- Images of a class with a known source: numbers, sources, groups (patients; images, where those are unknown), how many
-- groups each source has, and what groups are.
local function members(given, split, c)
  local places, names, groups, patients, seen, what = {}, {}, {}, {}, {}, "patients"
  for i, item in ipairs(split.items) do
    local source = item.label == c - 1 and sources.of(given, split, i)
    if source then
      local known = units.is_known(item.patient)
      local group = known and item.patient .. "\0" .. source or i
      what = known and what or "images"
      places[#places + 1], names[#names + 1], groups[#groups + 1] = i, source, group
      if not seen[group] then seen[group], patients[source] = true, (patients[source] or 0) + 1 end
    end
  end
  return places, names, groups, patients, what
end

-- The probe of one class: its most frequent source against the others.
local function probe_class(model, split, c, o)
  local places, names, groups, patients, what = members(o.sources, split, c)
  local order, least = check.sorted_keys(patients), math.huge
  local row = { class = split.classes[c], sources = #order, n = #places, resampled = what }
  if #order < 2 then
    row.nothing = #order == 0 and "no source is known" or ("one source: '%s'"):format(order[1])
    return row
  end
  table.sort(order, function(a, b) return patients[a] > patients[b] or patients[a] == patients[b] and a < b end)
  for _, name in ipairs(order) do least = math.min(least, patients[name]) end
  row.positive, row.units = order[1], 0
  for _, name in ipairs(order) do row.units = row.units + patients[name] end
  if row.units - patients[order[1]] < sources.folds or patients[order[1]] < sources.folds then
    row.why = ("fewer than %d %s of a source"):format(sources.folds, what)
    return row
  end
  local scope <close> = require("medxai.core").memory.scope() -- luacheck: ignore
  local found = probe.sources(sources.features(model, split, places), names, groups, order[1],
    { seed = o.seed, id = row.class, folds = sources.folds, refits = sources.refits })
  for key, value in pairs(found) do row[key] = value end
  return row
end

--- Does the network know the source within a class? Areas of a ridge logistic regression on its penultimate features,
--- folds over patients, p from refits with sources exchanged within the class. A class with one source is confounded.
---@param model medxai.Model|nil without it classes are only told confounded or not
---@param split medxai.Split
---@param o table sources, seed
---@param found table from sources.table_of
---@return table[] rows { class, auc, p, p_holm, null, n, units, positive, verdict }
function sources.rows(model, split, o, found)
  local rows, ps = {}, {}
  for c = 1, #split.classes do
    rows[c] = model and probe_class(model, split, c, o) or { class = split.classes[c], nothing = "no network" }
    ps[c] = rows[c].p or 0 / 0
  end
  local holm = multiple.holm(ps)
  for c, row in ipairs(rows) do
    row.p_holm = holm[c]
    local v = { verdict = "undecided", reason = row.why }
    if found.single[row.class] then
      local reason = ("every image is from '%s'; knowing the source removes %.0f %% of the uncertainty (entropy) about "
        .. "the class"):format(found.single[row.class], 100 * found.share)
      v = { verdict = "confounded", reason = reason }
    elseif #found.names < 2 then
      v = { verdict = "not_applicable", reason = #found.names == 0 and "no source is known"
        or ("one source: '%s'"):format(found.names[1]) }
    elseif row.nothing then v = { verdict = "not_applicable", reason = row.nothing }
    elseif row.p and row.units < units.least then v.reason = ("fewer than %d %s"):format(units.least, row.resampled)
    elseif row.p and holm[c] <= verdict.alpha then v = { verdict = "found" }
    end
    row.verdict = v
  end
  return rows
end

return sources
