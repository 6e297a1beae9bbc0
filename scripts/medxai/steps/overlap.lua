-- run:overlap: do maps lie where a radiologist drew the finding? Any methods beside trivial baselines (Sobel, center
-- blob, random smooth map, whole lung) as ordinary rows: threshold-free scores first, then IoU and Dice at fixed and at
-- tuned thresholds; by size of the finding and by correctness; each method's paired difference to the best baseline,
-- Holm's correction over methods. Thresholds are tuned on another split, or cross-fitted over patients: never on the
-- image that is judged. Findings under 0.1 % of the crop are a stratum of their own and outside every other mean; empty
-- ones are undefined. It refuses data without the mask, and to hide what the crop or the lung mask cut off.
local canon = require "medxai.base.json"
local check = require "medxai.base.check"
local Options = require "medxai.base.options"
local explain = require "medxai.steps.explain"
local finds = require "medxai.score.overlap_findings"
local named = require "medxai.base.named"
local tables = require "medxai.score.overlap_tables"

local overlap = {}

local usual_metrics = { "auprc", "energy_inside", "pointing_game", "iou", "dice" }

overlap.own_spec = {
  methods = explain.spec.methods,
  mask = { "string", default = "infection", doc = "the data's mask with which maps are compared" },
  baselines = { "string|table", default = { "sobel", "center_blob", "random_smooth", "whole_lung" },
    lua = "medxai.Methods", doc = "methods that know nothing of the network, to be beaten" },
  metrics = { "string|table", default = usual_metrics, lua = "medxai.Metrics.List", doc = "metrics that need a mask" },
  tune = { "table", lua = "medxai.Split",
    doc = "a split on which thresholds are tuned (data.val); default: cross-fitted over folds" },
  folds = { "integer", default = 5, min = 2, max = 100, doc = "of patients, where thresholds are cross-fitted" },
  sizes = { "table", of = "number", default = { 0.05, 0.2 },
    doc = "edges of the strata of size, shares of the crop; under 0.001 is always a stratum of its own" },
  figures = { "boolean", default = true, doc = "false draws nothing" },
}

--- All options of run:overlap: its own, and run:explain's but for images.
overlap.spec = {}
for key, rule in pairs(explain.spec) do overlap.spec[key] = rule end
for key, rule in pairs(overlap.own_spec) do overlap.spec[key] = rule end
overlap.spec.images = nil

-- Other options are run:explain's.
local function split_options(options)
  local own, rest = {}, {}
  for key, value in pairs(options or {}) do
    if overlap.own_spec[key] then own[key] = value else rest[key] = value end
  end
  return Options.check("overlap", own, overlap.own_spec), rest
end

-- The methods asked for, then the baselines that are not among them.
local function with_baselines(o)
  local methods, asked = {}, {}
  for _, m in ipairs(named.members(o.methods)) do
    methods[m.key] = m.given
    if m.name then asked[m.name] = true end
  end
  for _, name in ipairs(o.baselines) do
    if not asked[name] then methods[#methods + 1] = name end
  end
  return methods
end

local function explain_options(o, rest, more)
  local out = { methods = with_baselines(o), images = "all", mask = o.mask, metrics = o.metrics,
    figures = o.figures and { "rows", "table", "charts" } }
  for key, value in pairs(rest) do out[key] = value end
  for key, value in pairs(more or {}) do out[key] = value end
  return out
end

--- Checks the options; raises what is wrong with them.
---@return table own
---@return table rest for run:explain
---@return table asked run:explain's options for the images that are judged, checked
function overlap.check(options, model, split)
  local own, rest = split_options(options)
  for i, size in ipairs(own.sizes) do
    if type(size) ~= "number" or size <= (own.sizes[i - 1] or finds.tiny) or size >= 1 then
      check.fail("overlap", "sizes are rising shares of the crop between %g and 1 (got %s at %d).", finds.tiny,
        tostring(size), i)
    end
  end
  return own, rest, explain.check(explain_options(own, rest), model, split)
end

--- Checks a call of run:overlap without making it (medxai.run.preflight).
function overlap.check_call(unknown, _, model, split, options)
  overlap.check(options, model ~= unknown and model or nil, split ~= unknown and split or nil)
end

-- ---- the step -------------------------------------------------------------------------------------------------------

local function entries_of(base)
  local list = {}
  for i, e in ipairs(base.entries) do
    list[i] = { set = e.set, label = e.label, baseline = e.method.baseline or nil }
  end
  return list
end

local function findings_of(split, base, entries, o)
  local by_id, list = {}, {}
  -- of the same pixels the first, as explain chooses
  for number = 1, split.n do by_id[split:item(number).id] = by_id[split:item(number).id] or number end
  for i = 1, #base.records, #entries do list[#list + 1] = finds.of(split, by_id[base.records[i].image_id], o) end
  return list
end

local function all_curves(run, split, findings, base, count, o)
  local list = {}
  for i, f in ipairs(findings) do
    list[i] = finds.curves(run, split, f, table.move(base.records, (i - 1) * count + 1, i * count, 1, {}), o)
  end
  return list
end

-- The ids of all values, what they are called, and which way is better ("higher" where nothing is said).
local function metric_ids(asked, how)
  local ids, titles, directions = {}, {}, {}
  for _, m in ipairs(asked.metric_entries) do
    for k, id in ipairs(m.ids) do
      ids[#ids + 1], titles[id] = id, (m.definition.title or m.name) .. (m.names and ", " .. m.names[k] or "")
      directions[id] = m.definition.direction
    end
  end
  for key, title in pairs { iou = "IoU", dice = "Dice" } do
    titles[tables.tuned_id(key, how)] = title .. ", tuned threshold"
  end
  return ids, titles, directions
end

--- run:overlap(model, split, options): explains all images by the methods and the baselines and
--- compares with the data's mask. Options: overlap.spec.
--- Leaves overlap.csv (a row per image, method and metric, of all overlaps of the run), tables in the report, figures.
---@param run table
---@param model table
---@param split table
---@param options table
---@return table result { tables, facts, thresholds, figures, name }
function overlap.run(run, model, split, options)
  explain.check_split(run, split, model)
  local o, rest, asked = overlap.check(options, model, split)
  o.size_names = finds.size_names(o.sizes)
  local base = explain.run_checked(run, model, split, asked)
  local tune_base = o.tune and explain.run(run, model, o.tune,
    explain_options(o, rest, { metrics = {}, figures = false }))
  local entries = entries_of(base)
  local fields = { title = rest.title, base = base.name, mask = o.mask, tune = tune_base and tune_base.name or "none",
    folds = o.folds, sizes = canon.list(o.sizes) }
  local name = "overlap-" .. canon.hash(fields):sub(1, 8)
  run.overlapped = run.overlapped or {} -- the order in which the report tells them
  table.insert(run.overlapped, name)
  local step = run:step(name, fields)
  if step.done then
    run:skipped(name)
    return step.result
  end
  local findings = findings_of(split, base, entries, o)
  local curves = all_curves(run, split, findings, base, #entries, o)
  local tune_findings = tune_base and findings_of(o.tune, tune_base, entries, o)
  local tune_curves = tune_base and all_curves(run, o.tune, tune_findings, tune_base, #entries, o)
  if tune_curves then
    o.left_out = finds.leave_out(tune_findings, tune_curves, findings)
    if not finds.any(tune_curves) then
      check.fail("overlap", "no image of %s%s has a finding of '%s' to tune thresholds on. Leave tune out: they are "
        .. "cross-fitted then.", o.tune.name, o.left_out > 0 and " that is not judged itself" or "", o.mask)
    end
  end
  local threshold_of, how = finds.thresholds(findings, curves, tune_curves, o, run.seed)
  local ids, titles, directions = metric_ids(asked, how)
  local rows = tables.scored(base, findings, entries, ids)
  local tuned = tables.tuned(base, findings, entries, curves, threshold_of, how)
  table.move(tuned, 1, #tuned, #rows + 1, rows)
  require("medxai.score.runner").write_scores(run.dir .. "/overlap.csv", tables.columns, rows)
  local list, strata, units = tables.of(rows, entries, o, run.seed, titles, directions)
  local result = { title = rest.title, mask = o.mask, split = split.name, target = asked.entries[1].description.text,
    thresholds = how, tables = list, strata = strata, units = units,
    facts = tables.facts(findings, o) }
  tables.print(result)
  result.figures = o.figures and require("medxai.show.overlap_figures").draw { run = run, model = model, split = split,
    name = name, findings = findings, entries = entries, base = base, rows = rows,
    result = result, mask = o.mask } or canon.list {}
  local paths = {}
  for _, f in ipairs(result.figures) do table.move(f.paths, 1, #f.paths, #paths + 1, paths) end
  step:finish(result, paths, { "overlap.csv" })
  return result
end

return overlap
