-- run:explain: maps of chosen images by chosen methods, judged and drawn. One forward pass per batch serves all methods
-- and layers, one backward pass each target; batches follow a memory budget; each map is written as soon as it is made,
-- and what an earlier run finished is not made again. A method that fails on an image leaves a record that says so, and
-- the rest goes on. It refuses unknown methods, layers, targets and metrics before anything is computed.
local canon = require "medxai.base.json"
local check = require "medxai.base.check"
local Options = require "medxai.base.options"
local gallery = require "medxai.show.gallery"
local honesty = require "medxai.explain.diagnostics"
local jobs = require "medxai.explain.job"
local judge = require "medxai.score.runner"
local method = require "medxai.explain.registry"
local metric = require "medxai.score.registry"
local palette = require "medxai.show.palette"
local shared = require "medxai.steps.explain_shards"
local summary = require "medxai.score.summary"
local tap = require "medxai.explain.forward_pass"
local target = require "medxai.explain.target"
local torch = require "medxai.torch"

local explain = {}

explain.spec = {
  methods = { "string|table", required = true, lua = "medxai.Methods",
    doc = "names, { name, option = value }, or name = function(x, model, target): a method each" },
  title = { "string", doc = "of this part of the report; default: the methods" },
  layer = { "string|table", field = true, lua = "string|string[]",
    doc = "a node's name, or a list (the mean of their maps); default: the network's CAM layer" },
  each_layer = { "table", of = "string", doc = "nodes: a map of each, side by side (model.compare_layers)" },
  target = { "string|integer|table", field = true, default = "predicted", lua = "medxai.Target.Spec",
    doc = "what is explained: \"predicted\", \"true\", a class, \"contrast(a, b)\"; { that, as = \"softmax\" }" },
  images = { "integer|string|table", field = true, default = "one_per_class", lua = "integer|string|(integer|string)[]",
    doc = "\"one_per_class\", \"all\", a number (the classes in turn), or a list of numbers, paths, names or "
    .. "image ids" },
  metrics = { "string|table", lua = "medxai.Metrics.List",
    doc = "that judge the maps: names, or { name, option = value }" },
  mask = { "string", doc = "the data's mask with which metrics of overlap compare: lungs, infection, lesion ..." },
  compat = { one_of = { "pytorch-grad-cam" },
    doc = "what that library (1.5.7, on a CPU) computes where it differs from the paper; each method's file says how" },
  aug_smooth = { "boolean", field = true, default = false,
    doc = "the mean map of six views (flips, input x 0.9, 1, 1.1), where a method can be smoothed" },
  eigen_smooth = { "boolean", field = true, default = false,
    doc = "the first principal component of the channels instead of their sum, where a method has channels" },
  budget_mb = { "number", field = true, above = 0, unit = "MB",
    doc = "memory for a batch and for chunks; default: 1024, or half of what a GPU has left" },
  batch = { "integer", min = 1, unit = "images", doc = "per pass; default: what fits into budget_mb" },
  deterministic = { "boolean", field = true, default = false,
    doc = "8 images per pass whatever the memory: the same bits however many images are explained" },
  colors = { one_of = palette.names, field = true, default = "inferno", doc = "color scale of maps in figures" },
  colours = { now = "colors", field = true },
  scale = { one_of = { "own", "shared" }, default = "own",
    doc = "of figures: each map its own maximum, or one for all" },
  figures = { "boolean|string|table", field = true, default = true,
    lua = "boolean|medxai.FigureKind|medxai.FigureKind[]",
    doc = "rows, grid, methods, own, table, charts, removal; default: all but grid and methods" },
}

-- ---- what is asked for ----------------------------------------------------------------------------------------

local function layer_list(what, value, model)
  if value == nil and model._def and model._def.shapes and not model.cam_layer then
    check.fail("explain", "the network '%s' has no grid of places that all it computes goes through. Name a layer: "
      .. "layer = NAME.", model.name)
  end
  if value == nil then return { model.cam_layer } end
  local list = type(value) == "table" and value or { value }
  if #list == 0 then check.fail("explain", "%s is an empty list (expected names of layers).", what) end
  for _, name in ipairs(list) do
    if type(name) ~= "string" then check.fail("explain", "a layer is a name (got %s).", type(name)) end
  end
  return list
end

-- Layers other than the network's own CAM layer.
local function chosen_layers(model, entries)
  local list, seen = {}, { [model.cam_layer or false] = true }
  for _, e in ipairs(entries) do
    for _, layer in ipairs(e.layers or {}) do
      if not seen[layer] then list[#list + 1] = layer end
      seen[layer] = true
    end
  end
  return list
end

-- Tells once where an exported network is looked at, and why there.
local function tell_layer(job, model)
  for _, e in ipairs(job.entries) do
    for _, layer in ipairs(e.layers or {}) do
      if layer == model.cam_layer and model.cam_reason then
        return job:say("explain: layer '%s': %s", layer, model.cam_reason)
      end
    end
  end
end

--- Layers other than the network's own are tried on an empty image, so that a wrong one is known before the first map.
function explain.try_layers(model, entries)
  local layers = chosen_layers(model, entries)
  if #layers == 0 or not model.size_px then return end
  local scope <close> = require("medxai.core").memory.scope()
  local mode <close> = explain.eval_mode(model)
  local channels = model._network and model._network.channels or 3
  tap.open(model, torch.zeros(1, channels, model.size_px, model.size_px,
    { dtype = model.dtype or "float32", device = model.device }), { layers = layers })
end

-- Every entry at a layer once for each of the layers.
local function at_each(entries, layers)
  if layers == nil then return entries end
  if #layers == 0 then check.fail("explain", "each_layer is an empty list (expected names of layers).") end
  local out = {}
  for _, e in ipairs(entries) do
    if e.method.at ~= "layer" or e.layer then
      out[#out + 1] = e
    else
      for _, layer in ipairs(layers) do
        local copy = {}
        for k, v in pairs(e) do copy[k] = v end
        copy.layer = layer
        out[#out + 1] = copy
      end
    end
  end
  return out
end

--- Checks the options of a run:explain; raises what is wrong with them.
---@param options table
---@param model? table nil while the model is not built: layers and class names are left for later
---@param split? table nil while the data are not known: masks are left for later
---@return table asked checked options with entries and metrics
function explain.check(options, model, split)
  local asked = Options.check("explain", options, explain.spec)
  if asked.layer ~= nil and asked.each_layer ~= nil then
    check.fail("explain", "layer (one map of all) and each_layer (one map of each) exclude each other.")
  end
  asked.entries = at_each(method.entries(asked.methods), asked.each_layer)
  asked.figure_kinds = gallery.kinds(asked.figures)
  asked.metric_entries = metric.entries(asked.metrics or {}, asked.mask, asked.compat)
  local masks = split and split.data and split.data.masks
  if masks and asked.mask then check.known("explain", "mask", asked.mask, masks) end
  local classes = model and model.classes
  for _, e in ipairs(asked.entries) do
    method.complete(e, asked)
    e.description = target.parse(e.target or asked.target, classes, e.method.as, model and model.outputs)
    if model and e.method.at == "layer" then
      e.layers = layer_list("layer", e.layer or asked.layer, model)
      tap.check_layers(model, e.layers)
    end
  end
  local images = asked.images
  if type(images) == "string" and images ~= "all" and images ~= "one_per_class" then
    check.fail("explain", "images is a number, a list, 'all' or 'one_per_class' (got '%s').", images)
  end
  if math.type(images) == "integer" and images < 1 then
    check.fail("explain", "images must be at least 1 (got %d).", images)
  end
  for _, layer in ipairs(model and chosen_layers(model, asked.entries) or {}) do
    tap.check_reaches(model, layer)
    tap.check_before_flatten(model, layer)
  end
  return asked
end

--- Puts the model into evaluation until the returned value is closed.
function explain.eval_mode(model)
  local was_training = model:is_training()
  if was_training then model:eval() end
  return setmetatable({}, { __close = function() if was_training then model:train() end end })
end

-- ---- what the maps say ------------------------------------------------------------------------------------------

-- Every setting of every method, defaults filled in, by the names of their folders: for config.json and the report.
local function resolved(entries)
  local list = {}
  for _, e in ipairs(entries) do
    local s = e.settings
    list[e.set] = { version = s.version, options = s.options, layers = s.layers, target = s.target, compat = s.compat,
      aug_smooth = s.aug_smooth, eigen_smooth = s.eigen_smooth }
  end
  return list
end

-- How many maps of each entry had which status, and what they say of themselves.
local function count_statuses(job)
  local counts, chosen = canon.list {}, job.chosen
  for i, e in ipairs(job.entries) do
    local c, records = {}, {}
    for k, number in ipairs(chosen) do
      records[k] = job:record(e, number)
      c[records[k].status] = (c[records[k].status] or 0) + 1
    end
    local lines = honesty.lines(e.method, records)
    for _, line in ipairs(lines) do job:say("  %s: %s", e.label, line) end
    counts[i] = { method = e.method.name, label = e.label, maps = e.set, layers = canon.list(e.layers or {}),
      target = e.description.text, counts = c, honesty = #lines > 0 and canon.list(lines) or nil }
    local bad = {}
    for _, status in ipairs(check.sorted_keys(c)) do
      if status ~= "ok" and status ~= "failed" then
        bad[#bad + 1] = string.format("%d of %d maps %s (%s)", c[status], #chosen,
          require("medxai.explain.map").in_words[status] or "are " .. status, status)
      end
    end
    if #bad > 0 then job.run:warn(string.format("explain: %s: %s", e.label, table.concat(bad, ", "))) end
  end
  return counts
end

-- ---- the step ---------------------------------------------------------------------------------------------------

--- Raises unless split is one of data that this model can see.
function explain.check_split(run, split, model)
  if type(model) == "table" and model.item and model.n then
    check.fail("explain", "the first argument is a split (expected run:explain(model, data.test, { ... })).")
  end
  if type(split) ~= "table" and type(split) ~= "userdata" then
    check.fail("explain", "takes a split of the data, for instance data.test (got %s).",
      split == nil and "nil" or type(split))
  end
  if not split.item or not split.n then
    check.fail("explain", "takes a split of the data, for instance data.test (got a whole data set).")
  end
  if split.classes and #split.classes > 0 then
    require("medxai.nn.predict").check_classes("explain", model, split.classes, true)
    require("medxai.nn.predict").check_findings("explain", model, split.data)
  end
  if split.data then require("medxai.nn.model_file").check_data(run, model, split.data) end
end

--- Checks a call of run:explain without making it (medxai.run.preflight).
function explain.check_call(unknown, run, model, split, options)
  if model ~= unknown and split ~= unknown then explain.check_split(run, split, model) end
  explain.check(options, model ~= unknown and model or nil, split ~= unknown and split or nil)
end

-- The gate's mark (run:sanity) on entries whose maps failed it: in their labels, on their overlays.
local function mark_entries(job, asked)
  local gate = require "medxai.score.gate"
  local found = gate.of(job.run.dir)
  for _, e in ipairs(asked.entries) do
    e.mark = found:mark(e.method.name, job.weights, gate.settings(e, e.layer or asked.layer))
    if e.mark then e.label = e.label .. " (" .. e.mark .. ")" end
    job.labels[e.set] = e.label
  end
end

-- The contents of the chosen images' mask files by which maps are judged and with which they are drawn; nil where there
-- are none.
local function judging_masks(job, asked)
  local names, found = { [asked.mask or false] = true }, {}
  for _, m in ipairs(job.metric_entries) do names[m.mask or false], names[m.within or false] = true, true end
  names[false] = nil
  for name in pairs(job.split.masks_sha256 and names or {}) do
    found[name] = job.split:masks_sha256(name, job.chosen)
  end
  return next(found) and found or nil
end

local function step_fields(job, asked)
  local ids, sets, ms = canon.list {}, canon.list {}, canon.list {}
  for i, number in ipairs(job.chosen) do ids[i] = job.split:item(number).id end
  for i, e in ipairs(job.entries) do sets[i] = e.set end
  for i, m in ipairs(job.metric_entries) do ms[i] = m.id end
  return { title = asked.title, split = job.split.name, images = ids, maps = sets, metrics = ms,
    masks = judging_masks(job, asked), colors = asked.colors, scale = asked.scale,
    figures = canon.list(table.move(asked.figure_kinds, 1, #asked.figure_kinds, 1, {})) }
end

-- What belongs to the finished step: where one is missing, it is not finished.
local function step_files(job, figures)
  local paths = {}
  for _, f in ipairs(figures) do table.move(f.paths, 1, #f.paths, #paths + 1, paths) end
  for _, record in ipairs(job:records()) do table.move(record.files, 1, #record.files, #paths + 1, paths) end
  return paths
end

-- Maps and metrics that failed are tried again.
local function any_failed(result)
  for _, s in ipairs(result.statuses) do
    if s.counts.failed then return true end
  end
  return judge.any_failed(result.summaries)
end

local function outcome(job, name, result, rows)
  return { name = name, dir = job.run.dir, summaries = result.summaries, statuses = result.statuses,
    figures = result.figures, records = job:records(), entries = job.entries, rows = rows }
end

-- What times.csv calls a step: its title where it has one.
local function step_words(asked, name) return asked.title and "explain: " .. asked.title or name end

-- Scores, statuses and figures of the maps that are there now: the step's result.
local function conclude(job, asked, name, known)
  local rows = judge.maps(job, known)
  judge.write_scores(job.run.dir .. "/scores.csv", metric.columns, rows)
  for _, m in ipairs(job.metric_entries) do
    if job.metric_seconds[m.id] then job.run:time(step_words(asked, name), m.id, job.metric_seconds[m.id]) end
  end
  local summaries = summary.summarize(rows, job.run.seed)
  for _, s in ipairs(summaries) do
    local d = job.by_metric[s.metric].definition
    s.label, s.direction, s.title, s.axis = job.labels[s.maps], d.direction or "higher", d.title or s.metric, d.axis
  end
  judge.print(job, summaries)
  local statuses = count_statuses(job)
  local figures = gallery.draw(job, summaries,
    { name = name, colors = asked.colors, scale = asked.scale, kinds = asked.figure_kinds, rows = rows })
  return { title = asked.title, split = job.split.name, images = #job.chosen, summaries = canon.list(summaries),
    statuses = statuses, figures = figures, compat = asked.compat }, rows
end

--- run:explain(model, split, options): maps of chosen images by chosen methods, judged and drawn. Options:
--- explain.spec.
---@param run table
---@param model table
---@param split table
---@param options table
---@return table result { summaries, statuses, figures, entries, records, rows, name, dir }: records of all images by
---  all
---  entries, in the order of the images; rows of all scores
function explain.run(run, model, split, options)
  explain.check_split(run, split, model)
  return explain.run_checked(run, model, split, explain.check(options, model, split))
end

--- The same with what explain.check made of the options, for a split that check_split let pass.
---@param asked table
---@return table result
function explain.run_checked(run, model, split, asked)
  explain.try_layers(model, asked.entries)
  local chosen, notice = require("medxai.explain.images").images(split, asked.images, run.smoke and 2 or nil)
  if notice then run:warn(notice) end
  local mode <close> = explain.eval_mode(model)
  local job = jobs.new(run, model, split, asked, chosen)
  mark_entries(job, asked)
  tell_layer(job, model)
  local fields = step_fields(job, asked)
  local name = "explain-" .. canon.hash(fields):sub(1, 8)
  fields.gate = require("medxai.score.gate").hash(run.dir) -- its marks stand in tables and pictures
  local step = run:step(name, fields)
  run.explained = run.explained or {} -- the order in which the report tells them
  table.insert(run.explained, name)
  run:configure(name, { title = asked.title, methods = resolved(job.entries),
    target = asked.entries[1].description.text, layers = canon.list(job.layers),
    split = split.name, images = #chosen, figures = fields.figures,
    metrics = fields.metrics, mask = asked.mask, compat = asked.compat or "none", colors = asked.colors,
    scale = asked.scale, model = { config = model.config, weights_sha256 = job.weights },
    data = split.data and { name = split.data.name, config = split.data.config } or nil })
  local kept = step.done and (run.joined or not any_failed(step.result)) and judge.kept_rows(job)
  if kept then
    shared.clear(run, name) -- what a process that died just after the step's end has left
    run:skipped(name)
    return outcome(job, name, step.result, kept)
  end
  judge.check_masks(job)
  job.exhibits = gallery.wanted(job.chosen, asked.figure_kinds)
  local share <const> = shared.open(job, name, fields)
  share:work()
  step = run:wait_for(step)
  if run.joined then
    job.store:look()
    return outcome(job, name, step.result, judge.kept_rows(job))
  end
  local known = share:gather()
  for _, f in ipairs(job.failures) do
    run:warn(string.format("explain: %s failed on %d image%s, first '%s': %s", f.label, f.count,
      f.count == 1 and "" or "s", f.path, f.problem))
  end
  for _, e in ipairs(job.entries) do
    if job.seconds[e.set] then run:time(step_words(asked, name), e.label, job.seconds[e.set]) end
  end
  local result, rows = conclude(job, asked, name, known)
  step:finish(result, step_files(job, result.figures))
  shared.clear(run, name)
  return outcome(job, name, result, rows)
end

return explain
