-- run:compare: which explanation, and can the metric that says so be trusted? Methods and baselines on every model of a
-- study, judged by several metrics beside each method's own chance level (another patient's map), with intervals over
-- patients, ranges of ranks, agreement beyond that of different patients' maps, and how far the ranking depends on
-- metric, network, seed and setting. Cells are computed first (study_cells.lua); statistics come from complete studies,
-- or are stamped partial. It refuses a primary metric that is not among the metrics: the metric that decides is named
-- before anything is computed.
local canon = require "medxai.base.json"
local cells = require "medxai.steps.study_cells"
local check = require "medxai.base.check"
local Options = require "medxai.base.options"
local code = require "medxai.base.fingerprint"
local core = require "medxai.core"
local explain = require "medxai.steps.explain"
local files = require "medxai.base.files"
local frame = require "medxai.score.frame"
local gate = require "medxai.score.gate"
local host = require "medxai.host"
local likeness = require "medxai.score.study_similarity"
local metric = require "medxai.score.registry"
local plot = require "medxai.show.plot"
local rows = require "medxai.score.study_rows"
local shared = require "medxai.run.tables"
local tables = require "medxai.score.study_tables"
local time = require "medxai.steps.study_time"
local torch = require "medxai.torch"

local compare = {}

--- All options of run:compare.
compare.spec = {
  methods = { "string|table", required = true, lua = "medxai.Methods", doc = "as run:explain's" },
  metrics = { "string|table", required = true, lua = "medxai.Metrics.List", doc = "as run:explain's" },
  primary = { "string", required = true, doc = "the metric that decides; all others are exploratory" },
  title = { "string", doc = "of this part of the report" },
  mask = { "string", doc = "the data's mask that metrics of overlap compare with" },
  baselines = { "table", default = { "sobel", "center_blob", "random_smooth" }, lua = "medxai.Methods",
    doc = "methods that know nothing of the network, to be beaten, each of them" },
  settings = { "table", default = {}, doc = "metric -> list of other settings: does the ranking depend on them?" },
  layer = { "string|table", lua = "string|string[]|table<string, string|string[]>",
    doc = "a node, a list of nodes, or network -> node; default: each network's own" },
  within = { "string", doc = "a mask's name: metrics neither rank nor count pixels outside it" },
  as = { one_of = { "logit", "softmax" }, default = "logit", doc = "the score that metrics judge, for all methods" },
  friedman = { "boolean", field = true, default = false, doc = "Friedman's test beside the primary metric" },
  noise = { "boolean", field = true, default = false,
    doc = "every map is judged once more with the metrics' own draws under another seed" },
  partial = { "boolean", field = true, default = false, doc = "tables of the cells that are done, stamped partial" },
  array_index = { "string", field = true, doc = "I/N: this process does every N-th cell" },
}

-- ---- what is asked for ---------------------------------------------------------------------------------------------

-- "lime samples=1000": the method with the options that the experiment gives it.
local function label_of(name, given)
  local words = { name }
  for _, key in ipairs(check.sorted_keys(type(given) == "table" and given or {})) do
    if key ~= 1 then words[#words + 1] = key .. "=" .. code.setting(given[key]) end
  end
  return table.concat(words, " ")
end

local function entry_of(key, value, more)
  local name = type(key) == "string" and key or type(value) == "table" and value[1] or value
  local given = type(key) == "string" and { [key] = value } or { value }
  local checked = explain.check({ methods = given, target = more.target, layer = cells.layer_of(more.layer, nil) }, nil,
    more.split).entries[1]
  local e = { given = given, checked = checked, label = label_of(type(name) == "string" and checked.method.name
    or tostring(name), value),
    baseline = more.baseline or checked.method.baseline or nil, draws = checked.method.rng ~= nil, layer = more.layer }
  e.passes = time.passes(checked)
  e.expensive = e.passes >= time.expensive
  return e
end

-- The methods, then the baselines that are not among them.
local function entries_of(o, study)
  local list, seen = {}, {}
  local more = { target = study and study.target or "true", layer = o.layer, split = study and study.split }
  local function add(e)
    if seen[e.label] then
      if e.baseline then return end
      check.fail("compare", "method '%s' is asked for twice with the same settings.", e.label)
    end
    seen[e.label], list[#list + 1] = true, e
  end
  for _, key in ipairs(check.sorted_keys(o.methods)) do add(entry_of(key, o.methods[key], more)) end
  more.baseline = true
  for _, key in ipairs(check.sorted_keys(o.baselines)) do add(entry_of(key, o.baselines[key], more)) end
  for i = 1, #check.sorted_keys(o.methods) do list[i].baseline = nil end -- asked for as methods: they are ranked
  return list
end

local function name_of(key, value) return type(key) == "string" and key or type(value) == "table" and value[1]
  or value end

-- A metric with what the call says for all of them.
local function completed(name, value, o)
  local one = { name }
  for k, v in pairs(type(value) == "table" and value or {}) do
    if k ~= 1 then one[k] = v end
  end
  one.within = one.within or o.within
  local definition = metric.entries({ { name } }, o.mask or "any")[1].definition
  if definition.unit == "score" then one.as = one.as or o.as end
  return one
end

-- Metrics, then their other settings: the list for run:explain, and which entry varies which.
local function metrics_of(o)
  local list, varies, names = {}, {}, {}
  for _, key in ipairs(check.sorted_keys(o.metrics)) do
    local name = name_of(key, o.metrics[key])
    if type(name) ~= "string" then check.fail("compare", "metrics holds names or { name, option = value } (got %s).",
      type(name)) end
    list[#list + 1], names[#names + 1] = completed(name, o.metrics[key], o), name
  end
  for _, name in ipairs(check.sorted_keys(o.settings)) do
    local base
    for i, other in ipairs(names) do base = base or other == name and i end
    if not base then
      check.fail("compare", "settings names the metric '%s', which is not among the metrics (%s).", tostring(name),
        table.concat(names, ", "))
    end
    for _, setting in ipairs(o.settings[name]) do
      list[#list + 1] = completed(name, setting, o)
      varies[#list] = base
    end
  end
  return list, varies
end

-- The id of the metric by which is decided: by its bare name, or its whole id.
local function primary_of(o, metric_entries, varies)
  local found, known = {}, {}
  for i, m in ipairs(metric_entries) do
    known[#known + 1] = m.name
    for _, id in ipairs(m.ids) do
      if not varies[i] and (m.name == o.primary or id == o.primary) then found[#found + 1] = { id = id, m = m } end
    end
  end
  if #found == 0 then
    check.fail("compare", "primary is '%s', which is not among the metrics (%s).", o.primary, table.concat(known, ", "))
  end
  if #found > 1 then
    check.fail("compare", "primary '%s' has %d values. Write which one decides: primary = \"%s\".", o.primary, #found,
      found[1].id)
  end
  local d = found[1].m.definition
  if d.direction == "none" then
    check.fail("compare", "primary is '%s', which describes maps and ranks no methods. Choose another metric.",
      o.primary)
  end
  return found[1].id
end

-- I of N: "2/4".
local function share_of(text)
  if not text then return nil end
  local index, count = text:match "^(%d+)/(%d+)$"
  index, count = math.tointeger(tonumber(index)), math.tointeger(tonumber(count))
  if not index or count < 1 or index > count then check.fail("compare",
    "array_index is I/N, for instance 2/4 (got '%s').", text) end
  return { index = index % count, count = count }
end

--- Checks the options; raises what is wrong with them.
---@param options table
---@param study? medxai.Study nil while it is not known
---@return table asked
function compare.check(options, study)
  local o = Options.check("compare", options, compare.spec)
  o.share = share_of(o.array_index)
  o.entries = entries_of(o, study)
  local list, varies = metrics_of(o)
  o.metric_list, o.metric_entries = list, metric.entries(list, o.mask)
  o.primary_id, o.setting_of = primary_of(o, o.metric_entries, varies), {}
  for i, base in pairs(varies) do
    for k, id in ipairs(o.metric_entries[i].ids) do o.setting_of[id] = o.metric_entries[base].ids[k] end
  end
  if study then cells.check_layers("compare", o.layer, study) end
  local masks = study and study.split.data and study.split.data.masks
  if masks and o.mask then check.known("compare", "mask", o.mask, masks) end
  function o.of(e, m, model)
    return explain.check({ methods = e.given, target = study.target, metrics = list, mask = o.mask,
      layer = cells.layer_of(o.layer, m.network),
      deterministic = true }, model, m.split)
  end
  return o
end

--- Checks a call of run:compare without making it (medxai.run.preflight).
function compare.check_call(unknown, _, study, options)
  for _, key in ipairs { "methods", "metrics", "primary", "settings", "baselines" } do
    if rawequal(options, unknown) or type(options) == "table" and rawequal(options[key], unknown) then return end
  end
  compare.check(options, study ~= unknown and study or nil)
end

-- ---- cells ---------------------------------------------------------------------------------------------------------

-- Layers, classes and masks of every model, before the first cell; what a model needs per image is measured on the way.
local function check_models(study, asked, work)
  local by_gradient = false
  for _, m in ipairs(study.models) do
    local scope <close> = core.memory.scope() -- luacheck: ignore
    local model = work:open(m)
    for _, e in ipairs(asked.entries) do
      local checked = asked.of(e, m, model)
      for _, entry in ipairs(checked.entries) do explain.try_layers(model, { entry }) end
      e.layers = checked.entries[1].layers
      by_gradient = by_gradient or not e.layers and not e.baseline
    end
    time.measure(study, m, model, by_gradient)
  end
  local first = study.models[1]
  require("medxai.score.runner").check_masks { metric_entries = asked.metric_entries, split = first.split,
    chosen = first.places }
end

local function count_done(study, list)
  local done, failed = 0, 0
  for _, cell in ipairs(list) do
    local state = cells.state(study, cell)
    if state then done = done + 1 end
    if state and state.status == "failed" then failed = failed + 1 end
  end
  return done, failed
end

local function part_of(list, share)
  if not share then return list end
  local own = {}
  for i, cell in ipairs(list) do
    if i % share.count == share.index then own[#own + 1] = cell end
  end
  return own
end

-- Does what is left; returns the cells that the study has in the end, which a budget may have cut, and how many images.
local function do_cells(study, asked, list)
  local work = cells.work(study, asked, list)
  local closing <close> = setmetatable({}, { __close = function() work:close() end }) -- luacheck: ignore
  local all = true
  for _, cell in ipairs(list) do all = all and work:done(cell) end
  if all then return list end
  check_models(study, asked, work)
  local prediction = time.first(study, asked, list, work)
  local function learn(cell) prediction:learn(cell, cell.state) end
  local function left() return time.left(study, list, prediction) end
  if asked.share then
    work:run(part_of(list, asked.share), learn)
    if count_done(study, list) == #list then prediction:done(list) end
    return list
  end
  work:run(time.pilot(study, list))
  list = time.second(study, asked, list, prediction)
  work:run(list, learn, left)
  prediction:done(list)
  return list
end

-- ---- tables --------------------------------------------------------------------------------------------------------

-- Cells whose rows stand in the tables: all, or, of a study that is not complete, those of the blocks that every method
-- begun has on every model.
local function usable(study, list)
  local done, blocks, methods = {}, {}, {}
  for _, cell in ipairs(list) do
    local b = cell.place[4]
    blocks[b] = blocks[b] or {}
    local of = blocks[b][cell.entry] or { all = true }
    blocks[b][cell.entry] = of
    of.all = of.all and cells.state(study, cell) ~= nil
  end
  for e, of in pairs(blocks[1] or {}) do methods[e] = of.all or nil end
  for _, cell in ipairs(list) do
    local whole = true
    for e in pairs(methods) do whole = whole and blocks[cell.place[4]][e].all end
    if methods[cell.entry] and whole then done[#done + 1] = cell end
  end
  return done
end

-- The sets of maps that are compared, in groups: methods on a model; networks, seeds, explainer seeds under a method.
local function groups_of(list)
  local sets, by_key = {}, {}
  for _, cell in ipairs(cells.in_place(list)) do
    local key = cell.model.name .. "\0" .. cell.entry.label .. "\0" .. cell.explainer_seed
    local set = by_key[key]
    if not set then
      set = { model = cell.model, entry = cell.entry, seed = cell.explainer_seed, cells = {} }
      by_key[key], sets[#sets + 1] = set, set
    end
    set.cells[#set.cells + 1] = cell
  end
  local groups, of = {}, {}
  local function put(kind, key, set, name)
    local group = of[kind .. key]
    if not group then
      group = { kind = kind, sets = {} }
      of[kind .. key], groups[#groups + 1] = group, group
    end
    table.insert(group.sets, { name = name, set = set })
  end
  local first_of = {}
  for _, set in ipairs(sets) do
    local m, label = set.model, set.entry.label
    first_of[m.run_name] = first_of[m.run_name] or m
    if set.seed == 1 then
      put("method", m.name, set, m.name .. ": " .. label)
      if first_of[m.run_name] == m then put("network", label, set, m.name .. ": " .. label) end
      put("train_seed", m.run_name .. "\0" .. label, set, m.name .. ": " .. label)
    end
    put("explainer_seed", m.name .. "\0" .. label, set, ("%s: %s, draw %d"):format(m.name, label, set.seed))
  end
  return groups
end

-- The maps of a set, all blocks, in the order of the images.
local function maps_of(study, set)
  local scope <close> = core.memory.scope()
  local list = {}
  for i, cell in ipairs(set.cells) do list[i] = cells.maps(study, cell) end
  return scope:keep(torch.cat(list, 0))
end

local function images_of(study, list)
  local ids, images = {}, {}
  for _, cell in ipairs(list) do
    for _, i in ipairs(cell.block.images) do ids[i] = true end
  end
  for i, image in ipairs(study.images) do
    if ids[i] then images[#images + 1] = image end
  end
  return images
end

-- Rows without what is not a number.
local function write_table(run, name, columns, list)
  for _, row in ipairs(list) do
    for key, value in pairs(row) do
      if value ~= value then row[key] = nil end
    end
  end
  shared.write(run, name, columns, list)
end

--- Writes tables/methods.csv, strata.csv, pairs.csv, stability.csv and verdicts.csv from study/scores.csv alone.
---@param run medxai.Run
---@param list table columns of score/study_rows.lua
---@param o table primary, baselines, marks, states, setting_of, run_names, partial, seed
---@return table { data, methods, pairs, stability, verdicts, tells }
function compare.tabulate(run, list, o)
  local data = tables.gather(list, { seed = o.seed, baselines = o.baselines })
  local out = tables.of(data, { primary = o.primary, marks = o.marks, states = o.states, partial = o.partial })
  out.stability = tables.stability_of(data, out, { primary = o.primary, setting_of = o.setting_of,
    run_names = o.run_names, partial = o.partial })
  for _, row in ipairs(tables.stability_verdicts(data, out.stability)) do out.verdicts[#out.verdicts + 1] = row end
  if o.partial then
    for _, v in ipairs(out.verdicts) do v.reason = (v.reason and v.reason .. "; " or "") .. "partial: " .. o.partial end
  end
  write_table(run, "tables/methods.csv", tables.methods, out.methods)
  write_table(run, "tables/stability.csv", tables.stability, out.stability)
  write_table(run, "tables/strata.csv", tables.strata, tables.strata_rows(list, o))
  write_table(run, "tables/metrics_tau.csv", tables.tau, tables.metrics_tau(data, out, o.setting_of))
  shared.put(run, "tables/pairs.csv", shared.pairs, "compare", out.pairs)
  shared.put(run, "verdicts.csv", shared.verdicts, "compare", out.verdicts)
  out.data = data
  return out
end

-- What run:sanity found, where it was there before: marks[model][method] of those that failed, states of all.
local function gate_of(study, asked)
  local found, marks, states = gate.of(study.run.dir), {}, {}
  for _, m in ipairs(study.models) do
    marks[m.name], states[m.name] = {}, {}
    for _, e in ipairs(asked.entries) do
      local name = e.checked.method.name
      local settings = gate.settings(e.checked, e.checked.layer or cells.layer_of(asked.layer, m.network))
      marks[m.name][e.label] = found:mark(name, m.weights_sha256, settings)
      states[m.name][e.label] = found:state(name, m.weights_sha256, settings)
    end
  end
  return marks, states
end

-- What each network answered: name of the model -> image -> class.
local function predicted_of(list)
  local out = {}
  for i = 1, list.n do
    local of = out[list.run[i]] or {}
    out[list.run[i]], of[list.image_id[i]] = of, list.predicted[i] ~= "" and list.predicted[i] or of[list.image_id[i]]
  end
  return out
end

-- Bytes that the page, of five million at most, has for the viewer: what is left beside the figures of networks, gate
-- and comparison, its tables, and the audit. Pictures go into the page as JPEG.
local function room_of(run, figures)
  local room = 4900000 - 400000
  for _, f in ipairs(figures) do
    local fixed = f.picture and 250000 or f.name == "compare-cost" and 90000 -- times do not change the viewer
    room = room - (fixed or files.size(files.join(run.dir, f.svg)) or 0)
  end
  local dir = files.join(run.dir, "figures")
  for _, name in ipairs(files.is_folder(dir) and files.list(dir) or {}) do
    local before = name:find "^networks%-.*%.svg$" or name:find "^sanity%-.*%.svg$"
    room = room - (before and files.size(files.join(dir, name)) or 0)
  end
  return math.max(500000, room)
end

--- Draws the figures, then writes study/viewer.html in the room that they leave in the page. Nothing of it may depend
--- on measured times.
---@param run medxai.Run
---@param o table models, album, primary, baselines, partial; out = what compare.tabulate gave
---@return table[] figures { name, title, svg, paths, picture? }
function compare.draw(run, o)
  local scope <close> = core.memory.scope() -- luacheck: ignore
  local models, firsts, seen, data = {}, {}, {}, o.out.data
  for k, m in ipairs(o.models) do
    models[k] = m.name
    if not seen[m.run_name] then firsts[#firsts + 1] = m.name end
    seen[m.run_name] = true
  end
  local figures = require("medxai.show.study_figures").draw(run, { primary = o.primary, models = models,
    firsts = firsts, baselines = o.baselines, directions = data.directions, tells = o.out.tells, partial = o.partial,
    short = function(name) return tables.short(name, data) end, album = o.album })
  files.write(files.join(run.dir, "study/viewer.html"), require("medxai.show.viewer").html(o.album,
    { budget = room_of(run, figures) }))
  return figures
end

local function conclude(study, asked, list, partial)
  local run = study.run
  local done = usable(study, list)
  cells.gather(study, done)
  local images, base, names = images_of(study, done), {}, {}
  local marks, states = gate_of(study, asked)
  for _, e in ipairs(asked.entries) do base[e.label] = e.baseline end
  for _, m in ipairs(study.models) do names[m.name] = m.run_name end
  local list_of = rows.read(files.join(study.dir, "scores.csv"))
  study:write_images(tables.strata_of(list_of))
  local out = compare.tabulate(run, list_of,
    { seed = study.seed, primary = asked.primary_id, baselines = base,
    marks = marks, states = states, setting_of = asked.setting_of, run_names = names, partial = partial })
  local agreement = likeness.write { path = files.join(study.dir, "similarity.csv"), images = images,
    groups = groups_of(done), seed = study.seed,
    partial = partial, maps_of = function(one) return maps_of(study, one.set) end }
  write_table(run, "tables/agreement.csv", likeness.agreement, agreement)
  time.write_costs(study, done)
  local album = require("medxai.show.study_album").of(study, { cells = done, marks = marks,
    fine = frame.side * cells.fine, maps = function(cell) return cells.maps(study, cell) end,
    predicted = predicted_of(list_of) })
  local figures = compare.draw(run, { models = study.models, album = album, out = out, primary = asked.primary_id,
    baselines = base, partial = partial })
  album.close()
  if not partial then cells.tidy(study) end
  local _, failed = count_done(study, done)
  local o = { primary = asked.primary_id, partial = partial, friedman = asked.friedman, failed = failed }
  local sentences, shown = require("medxai.show.report_compare").of(out, agreement, o)
  return { title = asked.title or "Explanations compared", sentences = sentences, tables = shown, images = #images,
    models = #study.models, methods = #asked.entries, cells = #done, failed = failed, partial = partial,
    primary = asked.primary_id, direction = out.data.directions[asked.primary_id], units = out.data.over.count,
    resampled = out.data.over.resampled, note = out.data.over.note, figures = figures }
end

-- ---- the step ------------------------------------------------------------------------------------------------------

local function step_fields(asked, list)
  local ids, base = canon.list {}, {}
  for i, cell in ipairs(cells.in_place(list)) do ids[i] = cell.id end
  for _, e in ipairs(asked.entries) do base[e.label] = e.baseline end
  return { title = asked.title, cells = canon.hash(ids), primary = asked.primary_id, baselines = base,
    setting_of = asked.setting_of,
    friedman = asked.friedman, version = 2, images = asked.images }
end

local table_files = { "tables/methods.csv", "tables/strata.csv", "tables/stability.csv", "tables/agreement.csv",
  "study/scores.csv",
  "study/similarity.csv", "tables/metrics_tau.csv" }

local function not_complete(study, asked, list)
  local done = count_done(study, list)
  if done == #list then return nil end
  local text = ("%d of %d cells"):format(done, #list)
  if not host.options.quiet then
    io.stderr:write(("compare: %s are done%s. %s\n"):format(text, asked.share and ", this process' share among them"
      or "",
      asked.partial and "The tables are stamped partial."
        or "Whoever ends the last one writes the tables; --partial true writes them of what is there."))
  end
  return text
end

-- What config.json says of the comparison, whether it is done again or not.
local function configure(run, name, study, asked)
  local ids, labels = canon.list {}, canon.list {}
  for i, m in ipairs(asked.metric_entries) do ids[i] = m.id end
  for i, e in ipairs(asked.entries) do labels[i] = e.label .. (e.baseline and " (baseline)" or "") end
  run:configure(name, { primary = asked.primary_id, metrics = ids, methods = labels, models = #study.models,
    images = asked.images, mask = asked.mask, within = asked.within, as = asked.as })
end

-- The statistics, by the one process that holds the run.
local function finish(study, asked, list, partial)
  local run = study.run
  run:take_over()
  local fields = step_fields(asked, list)
  local name = "compare-" .. canon.hash(fields):sub(1, 8)
  fields.partial, fields.gate = partial, gate.hash(run.dir) -- its marks stand in the tables
  local step = run:step(name, fields)
  configure(run, name, study, asked)
  local _, failed = count_done(study, list)
  if step.done and step.result.failed == failed then
    run:skipped(name)
    return step.result
  end
  step:begin()
  local result = conclude(study, asked, list, partial)
  for _, file in ipairs(files.list(files.join(run.dir, "steps"))) do -- of an earlier form of the experiment
    if file:find "^compare%-" and file ~= name .. ".json" then files.remove(files.join(run.dir, "steps", file)) end
  end
  step:finish(result, table_files, plot.paths(result.figures, { "tables/pairs.csv", "verdicts.csv", "study/images.csv",
    "study/cells.jsonl", "study/viewer.html" }))
  if not host.options.quiet then require("medxai.show.report_judged").print(result) end
  return result
end

-- A run's tables are those of one comparison.
local function only_one(run, study, asked)
  local key = { primary = asked.primary_id, models = canon.list {}, methods = canon.list {}, metrics = canon.list {} }
  for i, m in ipairs(study.models) do key.models[i] = m.name end
  for i, e in ipairs(asked.entries) do key.methods[i] = e.label end
  for i, m in ipairs(asked.metric_entries) do key.metrics[i] = m.id end
  local name = canon.hash(key)
  if run.compared and run.compared ~= name then
    check.fail("compare", "the run '%s' has a comparison already, whose tables would be lost. Give this one a run of "
      .. "its own.", run.name)
  end
  run.compared = name
end

--- run:compare(study, options): the methods of a study's models, judged and ranked.
---   methods    as run:explain's: names, { name, option = value }, name = function
---   metrics    as run:explain's; `as` and `within` here are those of every metric that does not say its own
---   primary    the metric that decides, by name; all others are exploratory
---   mask       the data's mask that metrics of overlap compare with
---   baselines  methods that must be beaten, each of them: { "sobel", "center_blob", "random_smooth" }
---   settings   other settings of metrics, to see whether the ranking depends on them: { road_combined = { {
---              percentiles = { 50 } } } }
---   layer      a node, a list, or { [network] = node }; default each network's CAM layer
---   as         "logit" (default) or "softmax": the score that metrics judge, the same for all methods
---   noise      true: every map is judged once more with the metrics' own draws under another seed: the column noise
---   friedman   true: Friedman's test with Iman and Davenport's F beside the primary metric
---   partial    true (--partial true): tables of the cells that are done, stamped partial
---   array_index  "I/N" (--array-index I/N): this process does every N-th cell; several work on one run folder
--- Leaves study/scores.csv, similarity.csv, images.csv, cells.jsonl; tables/methods.csv, strata.csv, pairs.csv,
--- agreement.csv, stability.csv, metrics_tau.csv, costs.csv; verdicts.csv; figures/compare-*. Times are in
--- cells.jsonl, costs.csv and the figure of costs alone: all else is the same to the byte however often the study was
--- interrupted, and by however many processes it was made.
---@param run medxai.Run
---@param study medxai.Study of run:study
---@param options table
---@return table result { images, models, methods, cells, failed, partial, primary }
function compare.run(run, study, options)
  if type(study) ~= "table" or not study.models or not study.images then
    check.fail("compare",
      "takes a study: run:compare(run:study { ... }, { methods = ..., metrics = ..., primary = ... }).")
  end
  local asked = compare.check(options, study)
  only_one(run, study, asked)
  run:prepare { join = true }
  local clock <close> = run:clock "compare" -- luacheck: ignore
  if asked.share and study.budget_hours then
    check.fail("compare", "budget_hours and array_index exclude each other: no part knows what the others take. Give "
      .. "images.")
  end
  asked.images = time.images(study)
  local list = do_cells(study, asked, cells.plan(study, asked))
  asked.images = time.images(study)
  local partial = not_complete(study, asked, list)
  if partial and not asked.partial then return { partial = partial, images = asked.images } end
  return finish(study, asked, list, partial)
end

return compare
