-- run:explain: maps of chosen images by chosen methods, judged and drawn. One forward per batch serves all methods and
-- layers, one backward each target; batches follow a memory budget; each map is written as soon as it is made, and what an
-- earlier run finished is not made again. A method that fails on an image leaves a record that says so, and the rest goes on.
-- It refuses unknown methods, layers, targets and metrics before anything is computed.
local canon = require "medxai.canon"
local check = require "medxai.check"
local files = require "medxai.files"
local host = require "medxai.host"
local map = require "medxai.map"
local mapstore = require "medxai.mapstore"
local method = require "medxai.method"
local metric = require "medxai.metric"
local palette_names = { "viridis", "jet", "diverging", "grey", "blues" }
local Progress = require "medxai.progress"
local tap = require "medxai.tap"
local target = require "medxai.target"
local torch = require "medxai.torch"

local explain = {}

local spec = {
  methods = { "table", required = true, field = false },
  layer = { "string|table" },
  target = { "string|integer|table", default = "predicted" },
  images = { "integer|string|table", default = "one_per_class" },
  metrics = { "table", field = false },
  mask = { "string", field = false },
  compat = { one_of = { "pytorch-grad-cam" } },
  budget_mb = { "number", default = 1024, above = 0 },
  batch = { "integer", min = 1, field = false },
  deterministic = { "boolean", default = false },
  colours = { one_of = palette_names, default = "viridis" },
  scale = { one_of = { "own", "shared" }, default = "own" },
  figures = { "boolean", default = true },
}

local fixed_chunk = 8  -- deterministic = true: the same batches whatever the memory
local largest_chunk = 32

local function say(...)
  if not host.options.quiet then io.stdout:write(string.format(...), "\n") end
end

-- ---- what is asked for ----------------------------------------------------------------------------------------

local function layer_list(what, value, model)
  if value == nil then return { model.cam_layer } end
  local list = type(value) == "table" and value or { value }
  if #list == 0 then check.fail("explain", "%s is an empty list (expected names of layers).", what) end
  for _, name in ipairs(list) do
    if type(name) ~= "string" then check.fail("explain", "a layer is a name (got %s).", type(name)) end
  end
  return list
end

-- Layers other than the network's own CAM layer are tried on an empty image, so that a wrong one is known before training.
local function try_layers(model, entries)
  local unknown, seen = {}, { [model.cam_layer or false] = true }
  for _, e in ipairs(entries) do
    for _, layer in ipairs(e.layers or {}) do
      if not seen[layer] then unknown[#unknown + 1] = layer end
      seen[layer] = true
    end
  end
  tap.check_layers(model, unknown)
  if #unknown == 0 or not model.size_px then return end
  local scope <close> = require("medxai.core").memory.scope()
  local mode <close> = explain.eval_mode(model)
  tap.open(model, torch.zeros(1, 3, model.size_px, model.size_px, { dtype = model.dtype or "float32", device = model.device }), unknown, false)
end

--- Checks the options of a run:explain; raises what is wrong with them.
---@param options table
---@param model? table nil while the model is not built: layers and class names are left for later
---@return table asked checked options with entries and metrics
function explain.check(options, model)
  local asked = check.options("explain", options, spec)
  asked.entries = method.entries(asked.methods)
  asked.metric_entries = metric.entries(asked.metrics or {}, asked.mask)
  local classes = model and model.classes
  for _, e in ipairs(asked.entries) do
    e.description = target.parse(e.target or asked.target, classes)
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
  if model then try_layers(model, asked.entries) end
  return asked
end

--- Puts the model into evaluation until the returned value is closed.
function explain.eval_mode(model)
  local was_training = model:is_training()
  if was_training then model:eval() end
  return setmetatable({}, { __close = function() if was_training then model:train() end end })
end

-- ---- images -----------------------------------------------------------------------------------------------------

-- Sample numbers with the classes taken in turn, so that the first n of a split sorted by class hold every class.
local function class_turns(split)
  local by_class, classes = {}, {}
  for i = 1, split.n do
    local label = (split.label and split:label(i) or not split.label and split:item(i).label) or -1
    if not by_class[label] then
      by_class[label] = {}
      classes[#classes + 1] = label
    end
    table.insert(by_class[label], i)
  end
  table.sort(classes)
  local order, turn = {}, 1
  while #order < split.n do
    for _, label in ipairs(classes) do order[#order + 1] = by_class[label][turn] end
    turn = turn + 1
  end
  return order, #classes
end

-- Sample numbers of a list of numbers (from 1), image ids, paths or file names.
local function listed(split, list)
  local by_name
  local function number_of(name)
    if not by_name then
      by_name = {}
      for i = 1, split.n do
        local item = split:item(i)
        for _, key in ipairs { item.name or false, item.path or false, item.path and item.path:match("[^/]+$") or false, item.id or false } do
          if key then by_name[key] = by_name[key] and by_name[key] ~= i and 0 or i end
        end
      end
    end
    local i = by_name[name]
    if i == 0 then check.fail("explain", "more than one image of the %s split is called '%s'. Give its path or image id.", split.name, name) end
    return i or check.fail("explain", "no image '%s' in the %s split (expected a number, a path, a file name or an image id).", name, split.name)
  end
  local chosen, seen = {}, {}
  for _, value in ipairs(list) do
    local i = math.tointeger(value)
    if i then
      if i < 1 or i > split.n then check.fail("explain", "image %d is out of range (the %s split has 1 to %d).", i, split.name, split.n) end
    elseif type(value) == "string" then
      i = number_of(value)
    else
      check.fail("explain", "images holds numbers or names (got %s).", type(value))
    end
    if not seen[i] then chosen[#chosen + 1] = i end
    seen[i] = true
  end
  return chosen
end

--- Sample numbers (from 1) of the images asked for.
function explain.choose(split, images)
  local chosen = {}
  if type(images) == "table" then
    chosen = listed(split, images)
  elseif images == "all" then
    for i = 1, split.n do chosen[i] = i end
  else
    local order, classes = class_turns(split)
    local n = images == "one_per_class" and classes or images
    for i = 1, math.min(n, #order) do chosen[i] = order[i] end
  end
  if #chosen == 0 then check.fail("explain", "the %s split has no image to explain.", tostring(split.name)) end
  if check.smoke() then
    for i = #chosen, 3, -1 do chosen[i] = nil end
  end
  return chosen
end

-- ---- identity ---------------------------------------------------------------------------------------------------

local function plain_options(options)
  local out = {}
  for _, key in ipairs(check.sorted_keys(options)) do
    local v = options[key]
    out[key] = type(v) == "function" and files.sha256(string.dump(v, true)) or v
  end
  return out
end

-- What determines the maps of one entry, and the folder name made of it.
local function name_set(e, asked, model, split, weights)
  e.settings = { method = e.method.name, version = e.method.version, source = e.method.source and files.sha256(e.method.source) or "medxai",
    options = plain_options(e.options), layers = canon.list(e.layers or {}), target = e.description.text, compat = asked.compat or "none",
    model = model.config, weights = weights, input = split.data and split.data.config or {}, seed = e.method.rng and explain.seed or nil }
  e.set = e.method.name .. "-" .. canon.hash(e.settings):sub(1, 8)
end

-- ---- one batch --------------------------------------------------------------------------------------------------

--- x (N, 3, H, W) without the data set's mean and std.
function explain.pixels(x, split)
  local config = split and split.data and split.data.config or {}
  if not config.mean or not config.std then return x end
  local function column(v) return torch.tensor(v, { dtype = "float32" }):view({ 1, 3, 1, 1 }):to { device = x.device } end
  return x * column(config.std) + column(config.mean)
end

-- What a method sees: the batch, the model, and activation and gradient of its layer.
local Context = {}
Context.__index = Context

function Context:activation(layer) return self.pass:activation(layer or self.layer) end
--- The images as pixels in [0, 1], whatever mean and std the network's input was brought to.
function Context:image() return explain.pixels(self.x, self.split) end
function Context:gradient(layer) return self.pass:gradient(layer or self.layer, self.targets) end

-- Calls a researcher's function image by image; each image has its own fate.
local function call_own(e, context)
  local results = {}
  for i = 1, context.count do
    local one = setmetatable({ x = context.x:narrow(0, i - 1, 1), targets = context.targets[i] and target.batch { context.targets[i] }, count = 1,
      items = { context.items[i] } }, { __index = context })
    local ok, raw = pcall(e.method.map, one, one.x, one.targets, e.options)
    if host.interrupted() then error("interrupted", 0) end
    if not ok then
      if explain.is_out_of_memory(raw) then error(raw, 0) end
      results[i] = { problem = tostring(raw) }
    else
      local shaped, why = map.check_shape(raw, 1, context.height, context.width)
      results[i] = shaped and { raws = { shaped } } or { problem = why }
    end
  end
  return results
end

-- Calls a library method, or a researcher's method file, once a layer for the whole batch.
local function call_batch(e, context)
  local raws = {}
  for k, layer in ipairs(e.layers or { false }) do
    context.layer = layer or nil
    local raw = e.method.map(context, context.x, context.targets, e.options)
    local shaped, why = map.check_shape(raw, context.count, context.height, context.width)
    if not shaped then error(why, 0) end
    raws[k] = shaped
  end
  local results = {}
  for i = 1, context.count do
    local own = {}
    for k, raw in ipairs(raws) do own[k] = raw:narrow(0, i - 1, 1) end
    results[i] = { raws = own }
  end
  return results
end

local function attempt(e, context)
  if e.method.one_by_one then return call_own(e, context) end
  if not e.method.own then return call_batch(e, context) end
  local ok, results = pcall(call_batch, e, context)
  if host.interrupted() then error("interrupted", 0) end
  if ok then return results end
  if explain.is_out_of_memory(results) then error(results, 0) end
  local failed = {}
  for i = 1, context.count do failed[i] = { problem = tostring(results) } end
  return failed
end

function explain.is_out_of_memory(problem)
  return type(problem) == "string" and problem:find("out of memory", 1, true) ~= nil
end

local function record_of(e, job, item, t, result, judged, seconds, counts)
  local raws, grids = result.raws or {}, canon.list {}
  for k, raw in ipairs(raws) do grids[k] = canon.list { raw.shape[2], raw.shape[3] } end
  local place = job.split.geometry and job.split:geometry(item.number) or nil
  return {
    maps = e.set, method = e.method.name, title = e.method.title, image_id = item.id, path = item.path, patient = item.patient or "unknown",
    source = item.source or "unknown", split = job.split.name, label = item.label and job.model.classes[item.label + 1] or nil,
    target = { kind = t.kind, as = t.as, class = t.class, index = t.index, against = t.against, logit = t.logit, probability = t.probability,
      predicted = job.model.classes[t.predicted + 1], confidence = t.confidence },
    layers = canon.list(e.layers or {}), geometry = map.geometry({ job.height, job.width }, grids, place), sign = e.method.sign, units = t.as,
    status = result.problem and "failed" or judged.status, problem = result.problem,
    raw = judged and { lowest = judged.lo, highest = judged.hi, positive_share = judged.positive_share } or nil,
    hashes = { weights = job.weights, image = item.sha256 or item.id }, settings = e.settings,
    rng = e.method.rng and string.format("seed=%d purpose=%s id=%s", explain.seed, e.method.rng, item.id) or nil,
    seconds = seconds, forwards = counts.forwards, backwards = counts.backwards,
  }
end

-- Maps of one entry for the batch, written.
local function run_entry(e, job, context)
  local began = host.now()
  local before = context.pass.backwards
  local results = attempt(e, context)
  local device = context.x.device
  if device ~= "cpu" then require("medxai.core").device.synchronize() end
  local counts = { forwards = e.method.needs and e.method.needs.gradient and 1 or 0, backwards = context.pass.backwards - before }
  local seconds = (host.now() - began) / context.count
  for i, result in ipairs(results) do
    local item = context.items[i]
    if not job.store:find(e.set, item.id) then
      local made, judged, raws
      if result.raws then
        made = map.from_raw(result.raws, context.height, context.width)
        judged = map.judge(result.raws, made)[1]
        made = made:squeeze(0):to { device = "cpu" }:contiguous()
        raws = {}
        for k, raw in ipairs(result.raws) do raws[k] = raw:squeeze(0):to { device = "cpu" }:contiguous() end
      else
        job.failures[#job.failures + 1] = string.format("%s on '%s': %s", e.method.name, tostring(item.path), result.problem)
      end
      job.store:add(record_of(e, job, item, context.targets[i], result, judged, seconds, counts), made, raws)
    end
  end
  job.seconds[e.set] = (job.seconds[e.set] or 0) + (host.now() - began)
end

-- Loads, runs and explains the samples numbers[first..last].
local function run_batch(job, numbers)
  local scope <close> = require("medxai.core").memory.scope()
  local batch = job.split:batch(numbers)
  local x = batch.x
  local shape = x.shape
  job.height, job.width = shape[3], shape[4]
  local moved = x:to { device = job.model.device or "cpu", dtype = job.model.dtype or "float32" }
  local pass = tap.open(job.model, moved, job.layers, job.needs_gradient, job.compat)
  local items = {}
  for i, number in ipairs(numbers) do
    local item = job.split:item(number)
    items[i] = setmetatable({ number = number }, { __index = item })
  end
  local targets = {}
  for _, e in ipairs(job.entries) do
    local key = e.description.text
    targets[key] = targets[key] or target.fix(e.description, pass.logits, items, job.model.classes)
    local open = false
    for _, item in ipairs(items) do open = open or not job.store:find(e.set, item.id) end
    if open then
      run_entry(e, job, setmetatable({ pass = pass, model = job.model, split = job.split, x = moved, targets = targets[key], items = items, count = #numbers,
        height = job.height, width = job.width, seed = explain.seed, compat = job.compat }, Context))
    end
  end
end

-- ---- all batches ------------------------------------------------------------------------------------------------

-- Bytes that f needs at most beyond what is alive now.
local function memory_peak(device, f)
  local memory = require("medxai.core").memory
  local live, peak = "live_bytes", "peak_bytes"
  if device ~= "cpu" then live, peak = "cuda_live_bytes", "cuda_peak_bytes" end
  memory.reset_peak()
  local before = memory.stats()[live]
  f()
  return math.max(0, memory.stats()[peak] - before)
end

-- Halves the batch on out of memory, down to one image.
local function run_halving(job, numbers)
  local ok, problem = pcall(run_batch, job, numbers)
  if ok then return end
  if host.interrupted() then error("interrupted", 0) end
  if not explain.is_out_of_memory(problem) or #numbers == 1 then error(problem, 0) end
  require("medxai.core").memory.collect()
  local half = #numbers // 2
  job.run:warn(string.format("explain: %d images at once do not fit into memory: going on with %d", #numbers, half))
  job.chunk = half
  run_halving(job, { table.unpack(numbers, 1, half) })
  run_halving(job, { table.unpack(numbers, half + 1) })
end

-- Samples for which at least one entry has no finished map. The first image is done alone and tells time and memory.
local function run_all(job, chosen)
  local todo = {}
  for _, number in ipairs(chosen) do
    local id, open = job.split:item(number).id, false
    for _, e in ipairs(job.entries) do open = open or not job.store:find(e.set, id) end
    if open then todo[#todo + 1] = number end
  end
  local names = {}
  for i, e in ipairs(job.entries) do names[i] = e.method.title .. (e.layers and #e.layers > 0 and " at " .. table.concat(e.layers, " + ") or "") end
  local what = string.format("explain: %s for %d of %d %s images", table.concat(names, ", "), #chosen, job.split.n, job.split.name)
  if #todo < #chosen then what = what .. string.format(", %d of them made before", #chosen - #todo) end
  if #todo == 0 then return say("%s", what) end
  local began = host.now()
  local bytes = memory_peak(job.model.device or "cpu", function() run_halving(job, { todo[1] }) end)
  local first = host.now() - began
  if #todo == 1 then return say("%s; took %s", what, Progress.duration(first)) end
  say("%s; about %s", what, Progress.duration(first * #todo))
  local fitting = math.max(1, math.floor(job.budget_bytes / math.max(bytes, 1)))
  job.chunk = job.batch or (job.deterministic and fixed_chunk) or math.min(fitting, largest_chunk)
  local bar <close> = Progress.new("explain " .. job.split.name, #todo - 1)
  local at = 2
  while at <= #todo do
    local last = math.min(at + job.chunk - 1, #todo)
    run_halving(job, { table.unpack(todo, at, last) })
    bar:add(last - at + 1)
    if job.run.heartbeat then job.run:heartbeat(string.format("explain %d/%d", last, #todo)) end
    at = last + 1
  end
end

-- ---- judging ----------------------------------------------------------------------------------------------------

local function row_of(e, job, record, m, value, chance, why)
  return { image_id = record.image_id, path = record.path, patient = record.patient, source = record.source, model = job.model.name, seed = job.run.seed,
    method = e.method.name, maps = e.set, layer = table.concat(e.layers or {}, " "), target = e.description.text, metric = m.id, value = value, chance = chance,
    status = record.status, undefined = why, label = record.label, predicted = record.target.predicted,
    correct = record.label and tostring(record.label == record.target.predicted) or nil, confidence = record.target.confidence }
end

-- Every metric of every map; one image's tensors are alive at a time.
local function judge(job, chosen)
  local rows = {}
  for _, m in ipairs(job.metric_entries) do
    local had_mask = false
    for _, number in ipairs(chosen) do
      local scope <close> = require("medxai.core").memory.scope()
      local mask = m.mask and job.split:mask(number, m.mask) or nil
      had_mask = had_mask or mask ~= nil
      for _, e in ipairs(job.entries) do
        local record = job.store.records[e.set .. "/" .. job.split:item(number).id]
        local made = job.store:map(record)
        local value, chance, why = metric.measure(m, made, { mask = mask, status = record.status, record = record, model = job.model })
        rows[#rows + 1] = row_of(e, job, record, m, value, chance, why)
      end
      if host.interrupted() then error("interrupted", 0) end
    end
    if m.mask and not had_mask then
      check.fail("explain", "none of the %d images has a mask '%s' (metric %s).", #chosen, m.mask, m.name)
    end
  end
  return rows
end

-- scores.csv holds the rows of every explain step of the run; those of the same map and metric are replaced.
local function write_scores(dir, rows)
  if #rows == 0 then return end
  local path = dir .. "/scores.csv"
  local key = function(row) return row.maps .. "\0" .. row.image_id .. "\0" .. row.metric end
  local fresh, all = {}, {}
  for _, row in ipairs(rows) do fresh[key(row)] = true end
  for _, row in ipairs(files.read_csv(path) or {}) do
    if not fresh[key(row)] then all[#all + 1] = row end
  end
  for _, row in ipairs(rows) do all[#all + 1] = row end
  files.write_csv(path, metric.columns, all)
end

local function shown(v) return v == v and string.format("%.3f", v) or "undefined" end

local function print_summary(job, summaries)
  local last
  for _, s in ipairs(summaries) do
    if s.metric ~= last then
      local d = job.by_metric[s.metric].definition
      say("\n%s (%s, %s is better; %s)", s.metric, d.unit or "", d.direction or "higher",
        s.note or string.format("%d %% intervals over %s", math.floor(100 * s.level + 0.5), s.resampled))
      say("  %-16s %8s  %-18s %8s  %-26s %s", "method", "mean", "interval", "chance", "above chance", "images")
      last = s.metric
    end
    local lost = s.of - s.n
    say("  %-16s %8s  [%s, %s]%s %8s  %-26s %d%s", s.method, shown(s.mean), shown(s.low), shown(s.high), string.rep(" ", math.max(0, 4 - 0)), shown(s.chance),
      string.format("%+.3f [%+.3f, %+.3f]", s.above, s.above_low, s.above_high), s.n, lost > 0 and string.format(" (%d undefined)", lost) or "")
  end
  if last then say("") end
end

-- How many maps of each entry had which status.
local function count_statuses(job, chosen)
  local counts = canon.list {}
  for i, e in ipairs(job.entries) do
    local c = {}
    for _, number in ipairs(chosen) do
      local status = job.store.records[e.set .. "/" .. job.split:item(number).id].status
      c[status] = (c[status] or 0) + 1
    end
    counts[i] = { method = e.method.name, title = e.method.title, maps = e.set, layers = canon.list(e.layers or {}), target = e.description.text, counts = c }
    local bad = {}
    for _, status in ipairs(check.sorted_keys(c)) do
      if status ~= "ok" then bad[#bad + 1] = string.format("%d %s", c[status], status) end
    end
    if #bad > 0 then job.run:warn(string.format("explain: %s: %s of %d maps", e.method.title, table.concat(bad, ", "), #chosen)) end
  end
  return counts
end

-- ---- the step ---------------------------------------------------------------------------------------------------

local function check_split(split, model)
  if type(split) ~= "table" and type(split) ~= "userdata" then
    check.fail("explain", "takes a split of the data, for instance data.test (got %s).", split == nil and "nil" or type(split))
  end
  if not split.item or not split.n then check.fail("explain", "takes a split of the data, for instance data.test (got a whole data set).") end
  if split.classes then require("medxai.evaluate").check_classes("explain", model, split.classes) end
end

-- The union of layers, in the order in which they are named, and whether any method wants gradients there.
local function gather_layers(job)
  local seen = {}
  for _, e in ipairs(job.entries) do
    for _, layer in ipairs(e.layers or {}) do
      if not seen[layer] then job.layers[#job.layers + 1] = layer end
      seen[layer] = true
    end
    job.needs_gradient = job.needs_gradient or (e.method.needs and e.method.needs.gradient and true) or false
  end
end

local function new_job(run, model, split, asked)
  local job = { run = run, model = model, split = split, entries = asked.entries, metric_entries = asked.metric_entries, by_metric = {}, layers = {},
    needs_gradient = false, compat = asked.compat, batch = asked.batch, deterministic = asked.deterministic, budget_bytes = asked.budget_mb * (1 << 20),
    failures = {}, seconds = {}, store = mapstore.open(run.dir), weights = require("medxai.run").weights_sha256(model) }
  for _, m in ipairs(asked.metric_entries) do job.by_metric[m.id] = m end
  gather_layers(job)
  local sets = {}
  for _, e in ipairs(asked.entries) do
    name_set(e, asked, model, split, job.weights)
    if sets[e.set] then check.fail("explain", "method '%s' is asked for twice with the same settings.", e.method.name) end
    sets[e.set] = true
  end
  return job
end

local function step_fields(job, chosen, asked)
  local ids, sets, ms = canon.list {}, canon.list {}, canon.list {}
  for i, number in ipairs(chosen) do ids[i] = job.split:item(number).id end
  for i, e in ipairs(job.entries) do sets[i] = e.set end
  for i, m in ipairs(job.metric_entries) do ms[i] = m.id end
  return { split = job.split.name, images = ids, maps = sets, metrics = ms, colours = asked.colours, scale = asked.scale, figures = asked.figures }
end

--- run:explain(model, split, options).
---@param run table
---@param model table
---@param split table
---@param options table methods, layer, target, images, metrics, mask, compat, budget_mb, batch, deterministic, colours, scale, figures
---@return table result { rows, summaries, statuses, figures, records, name, dir }
function explain.run(run, model, split, options)
  check_split(split, model)
  local asked = explain.check(options, model)
  local chosen = explain.choose(split, asked.images)
  explain.seed = run.seed
  local mode <close> = explain.eval_mode(model)
  local job = new_job(run, model, split, asked)
  local fields = step_fields(job, chosen, asked)
  local name = "explain-" .. canon.hash(fields):sub(1, 8)
  local step = run:step(name, fields)
  run:configure(name, { methods = fields.maps, target = asked.entries[1].description.text, layers = canon.list(job.layers), split = split.name, images = #chosen,
    metrics = fields.metrics, mask = asked.mask, compat = asked.compat or "none", colours = asked.colours, scale = asked.scale })
  run_all(job, chosen)
  for i, text in ipairs(job.failures) do
    if i <= 3 then run:warn("explain: " .. text) end
  end
  if #job.failures > 3 then run:warn(string.format("explain: and %d more failures, see maps/index.jsonl", #job.failures - 3)) end
  for _, e in ipairs(job.entries) do
    if job.seconds[e.set] then run:time(name, e.set, job.seconds[e.set]) end
  end
  local rows = judge(job, chosen)
  write_scores(run.dir, rows)
  local summaries = metric.summarise(rows, run.seed)
  print_summary(job, summaries)
  local statuses = count_statuses(job, chosen)
  local figures = canon.list {}
  if asked.figures then figures = require("medxai.gallery").draw(job, chosen, summaries, { name = name, colours = asked.colours, scale = asked.scale }) end
  for _, s in ipairs(summaries) do s.direction, s.unit, s.title = job.by_metric[s.metric].definition.direction, job.by_metric[s.metric].definition.unit, job.by_metric[s.metric].definition.title end
  local paths = {}
  for _, f in ipairs(figures) do
    for _, path in ipairs(f.paths) do paths[#paths + 1] = path end
  end
  step:finish({ split = split.name, images = #chosen, summaries = canon.list(summaries), statuses = statuses, figures = figures, compat = asked.compat,
    target = fields.maps[1] and job.entries[1].description.text }, paths)
  local records = {}
  for _, number in ipairs(chosen) do
    for _, e in ipairs(job.entries) do records[#records + 1] = job.store.records[e.set .. "/" .. split:item(number).id] end
  end
  return { rows = rows, summaries = summaries, statuses = statuses, figures = figures, records = records, name = name, dir = run.dir }
end

return explain
