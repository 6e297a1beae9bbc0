-- Makes the maps of an explain step in batches: one forward for all methods and layers, one backward a target, under a memory
-- budget with halving on out of memory. Each map is written as soon as it is made; finished ones are not made again.
-- It refuses to let one image's failure in a researcher's own method stop the rest; interrupts and memory are not failures.
local canon = require "medxai.canon"
local host = require "medxai.host"
local map = require "medxai.map"
local Progress = require "medxai.progress"
local tap = require "medxai.tap"
local target = require "medxai.target"
local torch = require "medxai.torch"

local batches = {}

local fixed_chunk = 8 -- deterministic = true: the same batches whatever the memory
local largest_chunk = 32

--- x (N, 3, H, W) without the data set's mean and std.
function batches.pixels(x, split)
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
function Context:image() return batches.pixels(self.x, self.split) end
function Context:gradient(layer) return self.pass:gradient(layer or self.layer, self.targets) end

-- An error's text with the researcher's own line in front, where it has none yet.
local function located(problem)
  if type(problem) ~= "string" or problem:find("^[^\n:]+:%d+: ") then return problem end
  for level = 2, 60 do
    local info = debug.getinfo(level, "Sl")
    if not info then break end
    local path = info.source:match("^@(.*)")
    if path and info.currentline > 0 and path:sub(1, #host.scripts_dir) ~= host.scripts_dir then
      return string.format("%s:%d: %s", path, info.currentline, problem)
    end
  end
  return problem
end

-- Calls a researcher's function image by image; each image has its own fate.
local function call_own(e, context)
  local results = {}
  for i = 1, context.count do
    local one = setmetatable({ x = context.x:narrow(0, i - 1, 1), targets = context.targets[i] and target.batch { context.targets[i] }, count = 1,
      items = { context.items[i] } }, { __index = context })
    local ok, raw = xpcall(e.method.map, located, one, one.x, one.targets, e.options)
    if host.interrupted() then error("interrupted", 0) end
    if not ok then
      if batches.is_out_of_memory(raw) then error(raw, 0) end
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
  local ok, results = xpcall(call_batch, located, e, context)
  if host.interrupted() then error("interrupted", 0) end
  if ok then return results end
  if batches.is_out_of_memory(results) then error(results, 0) end
  local failed = {}
  for i = 1, context.count do failed[i] = { problem = tostring(results) } end
  return failed
end

function batches.is_out_of_memory(problem)
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
    rng = e.method.rng and string.format("seed=%d purpose=%s id=%s", job.run.seed, e.method.rng, item.id) or nil,
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
        local key = e.label .. "\0" .. result.problem
        local found = job.failures[key]
        if not found then
          found = { label = e.label, path = tostring(item.path), problem = result.problem, count = 0 }
          job.failures[key] = found
          job.failures[#job.failures + 1] = found
        end
        found.count = found.count + 1
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
        height = job.height, width = job.width, seed = job.run.seed, compat = job.compat }, Context))
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
  if not batches.is_out_of_memory(problem) or #numbers == 1 then error(problem, 0) end
  require("medxai.core").memory.collect()
  local half = #numbers // 2
  job.run:warn(string.format("explain: %d images at once do not fit into memory: going on with %d", #numbers, half))
  job.chunk = half
  run_halving(job, { table.unpack(numbers, 1, half) })
  run_halving(job, { table.unpack(numbers, half + 1) })
end

--- Makes the maps that are not there yet. The first image is done alone and tells time and memory.
function batches.run(job, chosen)
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
  if #todo == 0 then return job.say("%s", what) end
  local began = host.now()
  local bytes = memory_peak(job.model.device or "cpu", function() run_halving(job, { todo[1] }) end)
  local first = host.now() - began
  if #todo == 1 then return job.say("%s; took %s", what, Progress.duration(first)) end
  job.say("%s; about %s", what, Progress.duration(first * #todo))
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

return batches
