-- run:explain: maps of chosen images by chosen methods, judged and drawn. One forward per batch serves all methods and
-- layers, one backward each target; batches follow a memory budget; each map is written as soon as it is made, and what an
-- earlier run finished is not made again. A method that fails on an image leaves a record that says so, and the rest goes on.
-- It refuses unknown methods, layers, targets and metrics before anything is computed.
local canon = require "medxai.base.json"
local check = require "medxai.base.options"
local code = require "medxai.base.fingerprint"
local files = require "medxai.base.files"
local honesty = require "medxai.explain.diagnostics"
local host = require "medxai.host"
local mapstore = require "medxai.explain.store"
local judge = require "medxai.score.runner"
local map = require "medxai.explain.map"
local method = require "medxai.explain.registry"
local metric = require "medxai.score.registry"
local palette = require "medxai.show.palette"
local tap = require "medxai.explain.forward_pass"
local target = require "medxai.explain.target"
local torch = require "medxai.torch"

local explain = {}

local spec = {
  methods = { "table", required = true },
  title = { "string" },
  layer = { "string|table", field = true },
  each_layer = { "table" },
  target = { "string|integer|table", field = true, default = "predicted" },
  images = { "integer|string|table", field = true, default = "one_per_class" },
  metrics = { "table" },
  mask = { "string" },
  compat = { one_of = { "pytorch-grad-cam" } },
  aug_smooth = { "boolean", field = true, default = false }, eigen_smooth = { "boolean", field = true, default = false },
  budget_mb = { "number", field = true, default = 1024, above = 0 },
  batch = { "integer", min = 1 },
  deterministic = { "boolean", field = true, default = false },
  colours = { one_of = palette.names, field = true, default = "inferno" },
  scale = { one_of = { "own", "shared" }, default = "own" },
  figures = { "boolean|string|table", field = true, default = true },
}

local function say(...)
  if not host.options.quiet then io.stdout:write(string.format(...), "\n") end
end

-- ---- what is asked for ----------------------------------------------------------------------------------------

local function layer_list(what, value, model)
  if value == nil and model._def and model._def.shapes and not model.cam_layer then
    check.fail("explain", "the network '%s' has no grid of places that all it computes goes through. Name a layer: layer = NAME.", model.name)
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
local function tell_layer(model, entries)
  for _, e in ipairs(entries) do
    for _, layer in ipairs(e.layers or {}) do
      if layer == model.cam_layer and model.cam_reason then
        return say("explain: layer '%s': %s", layer, model.cam_reason)
      end
    end
  end
end

-- They are tried on an empty image, so that a wrong one is known before the first map.
local function try_layers(model, entries)
  local layers = chosen_layers(model, entries)
  if #layers == 0 or not model.size_px then return end
  local scope <close> = require("medxai.core").memory.scope()
  local mode <close> = explain.eval_mode(model)
  local channels = model._network and model._network.channels or 3
  tap.open(model, torch.zeros(1, channels, model.size_px, model.size_px, { dtype = model.dtype or "float32", device = model.device }), { layers = layers })
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
  local asked = check.options("explain", options, spec)
  if asked.layer ~= nil and asked.each_layer ~= nil then check.fail("explain", "layer (one map of all) and each_layer (one map of each) exclude each other.") end
  asked.entries = at_each(method.entries(asked.methods), asked.each_layer)
  asked.figure_kinds = require("medxai.show.gallery").kinds(asked.figures)
  asked.metric_entries = metric.entries(asked.metrics or {}, asked.mask, asked.compat)
  local masks = split and split.data and split.data.masks
  if masks and asked.mask then check.known("explain", "mask", asked.mask, masks) end
  local classes = model and model.classes
  for _, e in ipairs(asked.entries) do
    method.complete(e, asked)
    e.description = target.parse(e.target or asked.target, classes, e.method.as)
    if model and e.method.at == "layer" then
      e.layers = layer_list("layer", e.layer or asked.layer, model)
      tap.check_layers(model, e.layers)
    end
  end
  local images = asked.images
  if type(images) == "string" and images ~= "all" and images ~= "one_per_class" then
    check.fail("explain", "images is a number, a list, 'all' or 'one_per_class' (got '%s').", images)
  end
  if math.type(images) == "integer" and images < 1 then check.fail("explain", "images must be at least 1 (got %d).", images) end
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

-- ---- identity ---------------------------------------------------------------------------------------------------

-- The contents of the mask files that an entry's maps are made of: those through which the network sees the images, and those that
-- its method reads (a researcher's own may read any). nil where there are none.
local function masks_of(e, split, input)
  local found, m = { input = input, regions = require("medxai.perturb.regions").files_sha256(e.options.regions, split) }, e.method
  local names = split.masks_sha256 and (m.masks and m.masks(e.options) or not m.masks and m.own and split.data.masks) or {}
  for _, name in ipairs(names) do found[name] = split:masks_sha256(name) end
  return next(found) and found or nil
end

-- What determines the maps of one entry, and the folder name made of it.
local function name_set(e, model, split, weights, seed, input_masks)
  e.settings = { method = e.method.name, version = e.method.version, map = map.version, source = e.method.source and files.sha256(e.method.source) or "medxai",
    options = code.plain(e.options), layers = canon.list(e.layers or {}), target = e.description.text, compat = e.compat or "none",
    aug_smooth = e.aug_smooth, eigen_smooth = e.eigen_smooth, model = model.config, weights = weights, input = split.data and split.data.config or {},
    masks = masks_of(e, split, input_masks), seed = (e.method.rng or e.method.own) and seed or nil } -- an own one may draw from anywhere
  e.set = e.method.name .. "-" .. canon.hash(e.settings):sub(1, 8)
end

-- How many maps of each entry had which status, and what they say of themselves.
local function count_statuses(job, chosen)
  local counts = canon.list {}
  for i, e in ipairs(job.entries) do
    local c, records = {}, {}
    for k, number in ipairs(chosen) do
      records[k] = job.store.records[e.set .. "/" .. job.split:item(number).id]
      c[records[k].status] = (c[records[k].status] or 0) + 1
    end
    local lines = honesty.lines(e.method, records)
    for _, line in ipairs(lines) do say("  %s: %s", e.label, line) end
    counts[i] = { method = e.method.name, label = e.label, maps = e.set, layers = canon.list(e.layers or {}), target = e.description.text, counts = c,
      honesty = #lines > 0 and canon.list(lines) or nil }
    local bad = {}
    for _, status in ipairs(check.sorted_keys(c)) do
      if status ~= "ok" and status ~= "failed" then bad[#bad + 1] = string.format("%d %s", c[status], (status:gsub("_", " "))) end
    end
    if #bad > 0 then job.run:warn(string.format("explain: %s: %s of %d maps", e.label, table.concat(bad, ", "), #chosen)) end
  end
  return counts
end

-- ---- the step ---------------------------------------------------------------------------------------------------

local function check_split(run, split, model)
  if type(split) ~= "table" and type(split) ~= "userdata" then
    check.fail("explain", "takes a split of the data, for instance data.test (got %s).", split == nil and "nil" or type(split))
  end
  if not split.item or not split.n then check.fail("explain", "takes a split of the data, for instance data.test (got a whole data set).") end
  if split.classes and #split.classes > 0 then require("medxai.nn.predict").check_classes("explain", model, split.classes) end
  if split.data then require("medxai.nn.model_file").check_data(run, model, split.data) end
end

--- Checks a call of run:explain without making it (medxai.run.preflight).
function explain.check_call(unknown, run, model, split, options)
  if model ~= unknown and split ~= unknown then check_split(run, split, model) end
  explain.check(options, model ~= unknown and model or nil, split ~= unknown and split or nil)
end

-- What the shared passes have to keep: the union of layers in the order in which they are named, those (and "x", the input) at
-- which gradients are wanted, and those from which partial runs start.
local function gather_layers(job)
  local function adder(list)
    local seen = {}
    return function(name)
      if not seen[name] then list[#list + 1] = name end
      seen[name] = true
    end
  end
  local layer_of, gradient_of, base_of = adder(job.layers), adder(job.gradients), adder(job.bases)
  for _, e in ipairs(job.entries) do
    local needs = e.method.needs
    for _, layer in ipairs(e.layers or {}) do
      layer_of(layer)
      if needs.gradient then gradient_of(layer) end
      if needs.base then base_of(layer) end
    end
    if needs.gradient and not e.layers then gradient_of "x" end
    job.aliased = job.aliased or e.compat ~= nil
  end
end

-- A method's title with what was done to its maps.
local function title_of(e)
  local words = { e.method.title }
  if e.method.approximate then words[2] = e.method.approximate(e.options) end
  if e.aug_smooth and e.eigen_smooth then words[#words + 1] = "smoothed"
  elseif e.aug_smooth then words[#words + 1] = "aug smooth"
  elseif e.eigen_smooth then words[#words + 1] = "eigen smooth" end
  return table.concat(words, ", ")
end

-- "percentile 25": the options in which an entry differs from others of its method.
local function differing_options(e, entries)
  local words = {}
  for _, key in ipairs(check.sorted_keys(e.options)) do
    for _, other in ipairs(entries) do
      if other.method.name == e.method.name and code.setting(other.options[key]) ~= code.setting(e.options[key]) then
        words[#words + 1] = ", " .. key:gsub("_", " ") .. " " .. code.setting(e.options[key])
        break
      end
    end
  end
  return table.concat(words)
end

-- What tells the entries apart in tables and figures: the title, and where that is not enough options, layer, target or folder.
local function label_entries(entries)
  for _, e in ipairs(entries) do e.title = title_of(e) end
  local function distinct(text_of)
    local seen = {}
    for _, e in ipairs(entries) do
      local text = text_of(e)
      if seen[text] then return false end
      seen[text] = true
    end
    return true
  end
  local function with_layer(e) return e.title .. (e.layers and ", " .. table.concat(e.layers, " + ") or "") end
  local function with_target(e) return with_layer(e) .. ", " .. e.description.text end
  local chosen = function(e) return e.title .. ", " .. e.set:match("%x+$") end
  local function with_options(e) return e.title .. differing_options(e, entries) end
  for _, text_of in ipairs { with_target, with_layer, with_options, function(e) return e.title end } do
    if distinct(text_of) then chosen = text_of end
  end
  for _, e in ipairs(entries) do e.label = chosen(e) end
end

local function new_job(run, model, split, asked)
  local job = { run = run, model = model, split = split, entries = asked.entries, metric_entries = asked.metric_entries, by_metric = {}, layers = {},
    gradients = {}, bases = {}, compat = asked.compat, batch = asked.batch, deterministic = asked.deterministic, budget_bytes = asked.budget_mb * (1 << 20),
    failures = {}, seconds = {}, say = say, store = mapstore.open(run.dir), weights = model:sha256() }
  for _, m in ipairs(asked.metric_entries) do
    for _, id in ipairs(m.ids) do job.by_metric[id] = m end
  end
  gather_layers(job)
  local sets, input_masks = {}, split.input_masks_sha256 and split:input_masks_sha256() or nil
  for _, e in ipairs(asked.entries) do
    name_set(e, model, split, job.weights, run.seed, input_masks)
    if sets[e.set] then check.fail("explain", "method '%s' is asked for twice with the same settings.", e.method.name) end
    sets[e.set] = true
  end
  label_entries(asked.entries)
  job.labels = {}
  for _, e in ipairs(asked.entries) do job.labels[e.set] = e.label end
  return job
end

-- The contents of the chosen images' mask files by which maps are judged and with which they are drawn; nil where there are none.
local function judging_masks(job, chosen, asked)
  local names, found = { [asked.mask or false] = true }, {}
  for _, m in ipairs(job.metric_entries) do names[m.mask or false], names[m.within or false] = true, true end
  names[false] = nil
  for name in pairs(job.split.masks_sha256 and names or {}) do found[name] = job.split:masks_sha256(name, chosen) end
  return next(found) and found or nil
end

local function step_fields(job, chosen, asked)
  local ids, sets, ms = canon.list {}, canon.list {}, canon.list {}
  for i, number in ipairs(chosen) do ids[i] = job.split:item(number).id end
  for i, e in ipairs(job.entries) do sets[i] = e.set end
  for i, m in ipairs(job.metric_entries) do ms[i] = m.id end
  return { title = asked.title, split = job.split.name, images = ids, maps = sets, metrics = ms, masks = judging_masks(job, chosen, asked), colours = asked.colours, scale = asked.scale,
    figures = canon.list(table.move(asked.figure_kinds, 1, #asked.figure_kinds, 1, {})) }
end

-- Each image's record by each method, in the order of the images: a list whose members are read when they are asked for.
local function records_of(job, chosen)
  local n = #job.entries
  return setmetatable({}, { __len = function() return #chosen * n end, __index = function(_, k)
    local number = math.type(k) == "integer" and k >= 1 and chosen[(k - 1) // n + 1]
    if not number then return nil end
    return job.store.records[job.entries[(k - 1) % n + 1].set .. "/" .. job.split:item(number).id]
  end })
end

-- What belongs to the finished step: where one is missing, it is not finished.
local function step_files(job, chosen, figures)
  local paths = {}
  for _, f in ipairs(figures) do table.move(f.paths, 1, #f.paths, #paths + 1, paths) end
  for _, record in ipairs(records_of(job, chosen)) do table.move(record.files, 1, #record.files, #paths + 1, paths) end
  return paths
end

-- Maps and metrics that failed are tried again.
local function any_failed(result)
  for _, s in ipairs(result.statuses) do
    if s.counts.failed then return true end
  end
  return judge.any_failed(result.summaries)
end

local function outcome(job, chosen, name, result)
  return { name = name, dir = job.run.dir, summaries = result.summaries, statuses = result.statuses, figures = result.figures, records = records_of(job, chosen) }
end

-- What times.csv calls a step: its title where it has one.
local function step_words(asked, name) return asked.title and "explain: " .. asked.title or name end

-- Scores, statuses and figures of the maps that are there now: the step's result.
local function conclude(job, chosen, asked, name)
  job.exhibits = require("medxai.show.gallery").wanted(chosen, asked.figure_kinds)
  local rows = judge.maps(job, chosen)
  judge.write_scores(job.run.dir .. "/scores.csv", metric.columns, rows)
  for _, m in ipairs(job.metric_entries) do
    if job.metric_seconds[m.id] then job.run:time(step_words(asked, name), m.id, job.metric_seconds[m.id]) end
  end
  local summaries = metric.summarise(rows, job.run.seed)
  for _, s in ipairs(summaries) do
    local d = job.by_metric[s.metric].definition
    s.label, s.direction, s.title, s.axis = job.labels[s.maps], d.direction or "higher", d.title or s.metric, d.axis
  end
  judge.print(job, summaries)
  local statuses = count_statuses(job, chosen)
  local figures = require("medxai.show.gallery").draw(job, chosen, summaries, { name = name, colours = asked.colours, scale = asked.scale, kinds = asked.figure_kinds, rows = rows })
  return { title = asked.title, split = job.split.name, images = #chosen, summaries = canon.list(summaries), statuses = statuses, figures = figures, compat = asked.compat }
end

--- run:explain(model, split, options). Options:
---   methods        { "gradcam", sobel = { option = value }, { "gradcam", layer = "features.28" }, mine = function(x, model, target) ... end }:
---                  names of scripts/medxai/explain, of a file beside the experiment, or functions; layer and target may differ in each
---   title          of this part of the report; default the methods
---   layer          a node's name, or a list (the mean of their maps); default the network's CAM layer
---   each_layer     a list of nodes: a map of each, side by side (model.compare_layers)
---   target         "predicted", "true", a class by name or 0-based index, "contrast(a, b)"; { that, as = "softmax" } for probabilities
---   images         "one_per_class" (default), "all", a number (the classes in turn), a list of numbers, paths, names or image ids
---   metrics        names of scripts/medxai/score or of a file beside the experiment, with their options: { "road_combined",
---                  { "deletion", as = "softmax" }, pointing_game = { margin_px = 15 } }; every one takes within = a mask's name
---   mask           the data's mask that metrics of overlap compare with
---   aug_smooth     true: the mean of the maps of six views (as it is and flipped, input x 0.9, 1, 1.1), where a method can be smoothed
---   eigen_smooth   true: the first principal component of the channels instead of their sum, where a method has channels
---   compat         "pytorch-grad-cam": what that library (1.5.7, on a CPU) computes where it differs: the activation after a rectifier
---                  in place, a new predicted class in each view, LAPACK's sign of a principal component, and what each method's file says
---                  compat, aug_smooth, eigen_smooth, budget_mb may also be given to a single method: { "gradcam", aug_smooth = true }
---   budget_mb      memory for a batch and for each method's chunks (1024); batch fixes the number of images
---   deterministic  true: 8 images a pass, whatever the memory: the same bits however many images are explained
---   figures        a list of "rows" (an image a row, a method a column), "grid" (an image a panel, wrong predictions framed), "methods"
---                  (a page an image: each method with its time and scores), "own" (what methods draw themselves), "table" and "charts"
---                  of the scores, "removal" (what perturbing metrics saw: curves and imputed pictures, of the first 3 images);
---                  default all but grid and methods; false draws nothing
---   colours        "inferno", "viridis", "jet" ...; scale: "own" (each map its maximum) or "shared"
---@param run table
---@param model table
---@param split table
---@param options table
---@return table result { summaries, statuses, figures, records, name, dir }
function explain.run(run, model, split, options)
  check_split(run, split, model)
  local asked = explain.check(options, model, split)
  try_layers(model, asked.entries)
  tell_layer(model, asked.entries)
  local chosen, notice = require("medxai.explain.images").images(split, asked.images)
  if notice then run:warn(notice) end
  local mode <close> = explain.eval_mode(model)
  local job = new_job(run, model, split, asked)
  local fields = step_fields(job, chosen, asked)
  local name = "explain-" .. canon.hash(fields):sub(1, 8)
  local step = run:step(name, fields)
  run.explained = run.explained or {} -- the order in which the report tells them
  table.insert(run.explained, name)
  run:configure(name, { methods = fields.maps, target = asked.entries[1].description.text, layers = canon.list(job.layers), split = split.name, images = #chosen,
    metrics = fields.metrics, mask = asked.mask, compat = asked.compat or "none", colours = asked.colours, scale = asked.scale,
    model = { config = model.config, weights_sha256 = job.weights }, data = split.data and { name = split.data.name, config = split.data.config } or nil })
  if step.done and not any_failed(step.result) and judge.has_rows(job, chosen) then
    run:skipped(name)
    return outcome(job, chosen, name, step.result)
  end
  judge.check_masks(job, chosen)
  require("medxai.explain.runner").run(job, chosen)
  for _, f in ipairs(job.failures) do
    run:warn(string.format("explain: %s failed on %d image%s, first '%s': %s", f.label, f.count, f.count == 1 and "" or "s", f.path, f.problem))
  end
  for _, e in ipairs(job.entries) do
    if job.seconds[e.set] then run:time(step_words(asked, name), e.label, job.seconds[e.set]) end
  end
  local result = conclude(job, chosen, asked, name)
  step:finish(result, step_files(job, chosen, result.figures))
  return outcome(job, chosen, name, result)
end

return explain
