-- Makes the maps of an explain step in batches: one forward pass for all methods and layers, one backward pass per
-- target; where maps are smoothed over augmentations the same for five other views of the images. All of it keeps to a
-- memory budget, and out of memory halves the batch. Each map is written as soon as it is made; finished ones are not
-- made again. In a researcher's own method a failure concerns its image alone; interrupts and out of memory are not its
-- failures.
local not_defined = require "medxai.base.not_defined"
local canon = require "medxai.base.json"
local check = require "medxai.base.check"
local chunks = require "medxai.tensor.chunks"
local context = require "medxai.explain.context"
local core = require "medxai.core"
local host = require "medxai.host"
local map = require "medxai.explain.map"
local returned = require "medxai.explain.validate"
local tap = require "medxai.explain.forward_pass"
local target = require "medxai.explain.target"
local torch = require "medxai.torch"

local batches = {}

-- The views of pytorch-grad-cam's aug_smooth, in its order: the factor multiplies the network's input as it is.
batches.views = {}
for _, flip in ipairs { false, true } do
  for _, factor in ipairs { 0.9, 1, 1.1 } do
    table.insert(batches.views, { number = #batches.views + 1, flip = flip, factor = factor,
      identity = not flip and factor == 1, name = string.format("%s x %.1f", flip and "flipped" or "as it is",
        factor) })
  end
end
local identity = batches.views[2]

local function augmented(x, view)
  if view.flip then x = x:flip({ 3 }) end
  return view.factor == 1 and x or x * view.factor
end

-- ---- calling methods ----------------------------------------------------------------------------------------------

-- A problem whose place is no line of code: what a method returned.
local Wrong = {}
Wrong.__tostring = function(self) return self.why end

-- One result an image of what a method returned: { raw (1, h, w), extra }; raises where the shape is wrong.
local function checked(ctx, raw, extras)
  local shaped, why = map.check_shape(raw, ctx.count, ctx.height, ctx.width)
  if shaped and ctx.own then
    shaped = shaped:clone() -- a researcher's method may fill the same buffer for its next image
    extras, why = returned.extras(extras, ctx.count)
  end
  if why then error(setmetatable({ why = why }, Wrong), 0) end
  local list = {}
  for i = 1, ctx.count do list[i] = { raw = shaped:narrow(0, i - 1, 1), extra = extras and extras[i] } end
  return list
end

-- What a researcher's own method makes is freed by the collector, not with its images: it may keep a tensor for the
-- next ones.
local function own_map(e, ctx) return core.memory.unscoped(e.method.map, ctx, ctx.x, ctx.targets, e.options) end

-- Every layer of an entry: results[i] = { raws, extras } in the order of the layers.
local function call(e, ctx)
  local still = {} -- how many layers of an image say that nothing moves its target
  local map_of = ctx.own and own_map or function() return e.method.map(ctx, ctx.x, ctx.targets, e.options) end
  local results = {}
  for i = 1, ctx.count do results[i] = { raws = {}, extras = {} } end
  for k, layer in ipairs(e.layers or { false }) do
    ctx.layer = layer or nil
    -- it may work in place: each layer and each attempt starts from the images as they are
    if ctx.own then ctx.x = ctx.given:clone() end
    for i, one in ipairs(checked(ctx, map_of(e, ctx))) do
      results[i].raws[k], results[i].extras[k] = one.raw, one.extra
      if one.extra and one.extra.status == "saturated" then still[i] = (still[i] or 0) + 1 end
    end
  end
  for i, result in ipairs(results) do result.saturated = ctx:saturated(i) or still[i] == #result.raws end
  return results
end

-- The results for all images of the context; an exception in a user method is recorded as a failure of the affected
-- images.
local function attempt(e, ctx)
  if e.method.one_by_one and ctx.count > 1 then
    local results = {}
    for i = 1, ctx.count do results[i] = attempt(e, ctx:single(i))[1] end
    return results
  end
  local version = e.method.own and ctx.model:version()
  local ok, results = xpcall(call, check.located, e, ctx)
  if e.method.own and ctx.model:is_training() then ctx.model:eval() end -- the next method finds it as this one did
  if host.interrupted() then error("interrupted", 0) end
  if version then returned.same_weights("method", e.method.name, ctx.model, version) end
  if ok then return results end
  local why = not_defined.reason(results)
  if not why and (not e.method.own or chunks.is_out_of_memory(results)) then
    error(getmetatable(results) == Wrong and e.method.name .. ": " .. results.why or results, 0)
  end
  local failed = {}
  if e.method.own and ctx.count > 1 then -- each image has its own fate
    for i = 1, ctx.count do failed[i] = attempt(e, ctx:single(i))[1] end
  else
    for i = 1, ctx.count do failed[i] = { not_defined = why, problem = why or check.words_of(results) } end
  end
  return failed
end

-- ---- what is written ------------------------------------------------------------------------------------------------

-- All that several calls said of one image: a fact is a list where there were several calls (views, and in each the
-- layers), one array keeps its name, others get the number of their call.
local function merged(calls)
  local facts, arrays, status = {}, {}, nil
  for k, extra in ipairs(calls) do
    if extra.status ~= "saturated" then status = status or extra.status end -- that one all calls must say (join_views)
    for name, value in pairs(extra.facts or {}) do
      if #calls == 1 then facts[name] = value
      else
        facts[name] = facts[name] or canon.list {}
        table.insert(facts[name], value)
      end
    end
    for name, value in pairs(extra.arrays or {}) do
      arrays[#calls == 1 and name or name .. k] = value:detach():cpu():contiguous()
    end
  end
  return next(facts) and facts, arrays, status
end

local function view_list(views)
  local list = canon.list {}
  for i, view in ipairs(views) do list[i] = { flip = view.flip, factor = view.factor } end
  return list
end

-- What is to be said of a map.
local function status_of(result, judged)
  if result.not_defined then return "not_defined" end
  if result.problem then return "failed" end
  if judged.status ~= "nan" and result.saturated then return "saturated" end
  return judged.status == "ok" and result.status or judged.status
end

local function record_of(e, job, size, item, t, result, judged)
  local grids = canon.list {}
  for k, raw in ipairs(result.raws or {}) do
    grids[k] = canon.list { raw.shape[#raw.shape - 1], raw.shape[#raw.shape] }
  end
  local place = job.split.geometry and job.split:geometry(item.number) or nil
  local status = status_of(result, judged)
  return {
    maps = e.set, method = e.method.name, title = e.method.title, image_id = item.id, path = item.path,
    patient = item.patient or "unknown", source = item.source or "unknown", split = job.split.name,
    label = item.label and job.model.classes[item.label + 1] or nil,
    target = { kind = t.kind, as = t.as, class = t.class, index = t.index, against = t.against, logit = t.logit,
      probability = t.probability, predicted = job.model.classes[t.predicted + 1], confidence = t.confidence,
      outputs = t.outputs },
    layers = canon.list(e.layers or {}), geometry = map.geometry(size, grids, place), sign = e.method.sign,
    units = t.as, views = e.aug_smooth and view_list(batches.views) or nil, status = status, problem = result.problem,
    facts = result.facts or nil, raw = judged and { lowest = judged.lo, highest = judged.hi,
      positive_share = judged.positive_share } or nil,
    hashes = { weights = job.weights, image = item.sha256 or item.id }, settings = e.settings,
    rng = e.method.rng and string.format("seed=%d purpose=%s id=%s", job.run.seed, e.method.rng, item.id) or nil,
    seconds = result.seconds, forwards = result.forwards, backwards = result.backwards, partials = result.partials,
  }
end

-- The map of one image (1, H, W), what is judged of it, and its status, from the results of all views; no map where
-- there is none. size: height and width of the input.
local function finished(e, job, size, result)
  if result.problem then return nil, nil, status_of(result) end
  local how = { views = batches.views, cut = e.method.cut, once = e.method.once, compat = e.compat,
    precision = job.model.dtype }
  local made = map.from_raw(result.raws, size[1], size[2], how)
  local judged = map.judge(result.raws, made, how)[1]
  result.facts, result.arrays, result.status = merged(result.extras)
  local status = status_of(result, judged) -- rounding noise would be ranked and scored
  if (status == "flat" or status == "saturated") and not e.compat then made:zero_() end
  return made, judged, status
end

-- One image's map of one entry, written.
local function write(e, job, size, item, t, result)
  if job.store:find(e.set, item.id) then return end
  local made, judged = finished(e, job, size, result)
  local raws = made and {}
  if made then
    made = made:squeeze(0):cpu():contiguous()
    for k, raw in ipairs(result.raws) do raws[k] = raw:squeeze(0):cpu():contiguous() end
  end
  job.store:add(record_of(e, job, size, item, t, result, judged), made, raws, result.arrays)
end

-- ---- passes ---------------------------------------------------------------------------------------------------------

-- The views of the images as one context; targets, items: of the images alone.
local function open_pass(job, x, views, targets_of, items)
  local list, all_items, all_views = {}, {}, {}
  for _, view in ipairs(views) do
    list[#list + 1] = augmented(x, view)
    for _, item in ipairs(items) do all_items[#all_items + 1], all_views[#all_views + 1] = item, view end
  end
  local all = #list == 1 and list[1] or torch.cat(list, 0)
  local pass = tap.open(job.model, all, { layers = job.layers, gradients = job.gradients, base = job.bases,
    aliased = job.aliased, size = job.deterministic and chunks.fixed or nil })
  return { pass = pass, x = all, items = all_items, views = all_views, targets = targets_of(pass, all_items, #views) }
end

-- Adds an entry's results for the views of a pass to what earlier passes gave: results[i].calls[view] = { raws, extras
-- }.
local function run_entry(e, job, opened, results)
  local pass, budget_bytes = opened.pass, e.budget_mb and e.budget_mb * (1 << 20) or job.budget_bytes
  local scores, shape = job.scorers(budget_bytes), opened.x.shape
  local own = e.method.own -- a researcher's code may work in place: it gets copies of what other methods read
  local ctx = context.new { pass = pass, x = opened.x, own = own, items = opened.items, views = opened.views,
    targets = opened.targets[e], model = job.model, split = job.split, height = shape[3], width = shape[4],
    seed = job.run.seed, compat = e.compat, eigen = e.eigen_smooth, smoothed = e.aug_smooth, layers = e.layers,
    aliased = e.compat ~= nil, deterministic = job.deterministic, budget_bytes = budget_bytes, scorers = scores,
    scorer = scores:of "float32", chunk_states = scores.chunks }
  local spent, forwards, partials = pass.spent, scores:count "forwards", scores:count "partials"
  local began = core.device.now()
  local found = attempt(e, ctx)
  -- what the map costs alone: passes that it shares with other methods are counted in full
  local seconds = core.device.now() - began - (pass.spent - spent)
  if ctx.used.forward then seconds = seconds + pass.forward_seconds end
  if ctx.used.gradient then seconds = seconds + pass.backward_seconds[ctx.targets] end
  local n, own_passes, own_forwards = #results, ctx.used.passes or 0, ctx.used.forwards or 0
  for i, one in ipairs(found) do
    local r = results[(i - 1) % n + 1]
    r.problem, r.not_defined = r.problem or one.problem, r.not_defined or one.not_defined
    r.seconds = r.seconds + seconds / #found
    r.forwards = r.forwards + (ctx.used.forward and 1 or 0)
      + (own_passes + own_forwards + scores:count "forwards" - forwards) // #found
    r.backwards = r.backwards + (ctx.used.gradient and 1 or 0) + own_passes // #found
    r.partials = r.partials + (scores:count "partials" - partials) // #found
    r.calls[opened.views[i]] = one
  end
  job.seconds[e.set] = (job.seconds[e.set] or 0) + seconds
end

-- The calls of an image in the order of the views: one raw a layer, (1, h, w) or (1, V, h, w), and all extras.
local function join_views(e, r)
  if r.problem then return end
  local views, per_layer = e.aug_smooth and batches.views or { identity }, {}
  r.raws, r.extras, r.saturated = {}, {}, true
  for _, view in ipairs(views) do
    local one = r.calls[view]
    r.saturated = r.saturated and one.saturated -- where one view has something to say, the map has
    for k, raw in ipairs(one.raws) do
      per_layer[k] = per_layer[k] or {}
      table.insert(per_layer[k], raw)
      if one.extras[k] then table.insert(r.extras, one.extras[k]) end
    end
  end
  for k, list in ipairs(per_layer) do r.raws[k] = #list == 1 and list[1] or torch.stack(list, 1) end
end

-- The five other views in as few passes as the budget allows, as even as possible.
local function view_groups(work, n)
  local others = {}
  for _, view in ipairs(batches.views) do
    if not view.identity then others[#others + 1] = view end
  end
  local at_once = work.job.deterministic and 1 or math.max(1, math.min(#others, work.fitting // n))
  local groups, passes = {}, math.ceil(#others / at_once)
  for k = 1, passes do groups[k] = table.move(others, (k - 1) * #others // passes + 1, k * #others // passes, 1, {}) end
  return groups
end

-- Targets of each entry for a pass over several views of the images: those of the unaugmented images; in compat
-- "predicted" is taken anew from each view.
local function view_targets(job, entries, fixed)
  return function(pass, items, views)
    local by_text, out = {}, {}
    for _, e in ipairs(entries) do
      local key = e.description.text .. (e.compat or "")
      if not by_text[key] then
        local anew = e.compat and e.description.kind == "predicted"
        local list = {}
        for i = 1, #fixed[e] * views do list[i] = fixed[e][(i - 1) % #fixed[e] + 1] end
        by_text[key] = anew and target.fix(e.description, pass.logits, items, job.model.classes) or target.batch(list)
      end
      out[e] = by_text[key]
    end
    return out
  end
end

local function first_targets(job, entries)
  return function(pass, items)
    local by_text, out = {}, {}
    for _, e in ipairs(entries) do
      local key = e.description.text
      by_text[key] = by_text[key] or target.fix(e.description, pass.logits, items, job.model.classes)
      out[e] = by_text[key]
    end
    return out
  end
end

-- How many images one pass holds, by what the first one took.
local function measure(work, f)
  if work.fitting then return f() end
  local job, opened = work.job, nil
  local bytes = chunks.peak(job.model.device or "cpu", function()
    opened = f()
    for _, e in ipairs(job.entries) do
      if opened.targets[e] and e.method.needs.gradient then
        opened.pass:gradient(job.gradients[1], opened.targets[e])
      end
    end
  end)
  local most = math.floor(job.budget_bytes * #opened.items / math.max(bytes, 1))
  work.fitting = math.max(1, math.min(chunks.largest(job.model.device or "cpu"), most))
  return opened
end

-- The results of entries for images x (N, 3, H, W) on the model's device: results[e][i], and each entry's targets.
local function results_of(work, x, items, entries, targets_of)
  local job, augmenting, results, fixed = work.job, {}, {}, nil
  for _, e in ipairs(entries) do
    if e.aug_smooth then augmenting[#augmenting + 1] = e end
    results[e] = {}
    for i = 1, #items do results[e][i] = { calls = {}, seconds = 0.0, forwards = 0, backwards = 0, partials = 0 } end
  end
  local function pass_over(views, list, of)
    local inner <close> = core.memory.scope()
    local opened = measure(work, function() return open_pass(job, x, views, of, items) end)
    fixed = fixed or opened.targets
    for _, e in ipairs(list) do
      run_entry(e, job, opened, results[e])
      inner:keep(results[e])
    end
  end
  pass_over({ identity }, entries, targets_of)
  for _, views in ipairs(#augmenting > 0 and view_groups(work, #items) or {}) do
    pass_over(views, augmenting, view_targets(job, augmenting, fixed))
  end
  for _, e in ipairs(entries) do
    for i = 1, #items do join_views(e, results[e][i]) end
  end
  return results, fixed
end

local function on_device(job, x)
  return x:to { device = job.model.device or "cpu", dtype = job.model.dtype or "float32" }
end

-- Loads, runs and explains the samples numbers[first..last].
local function run_batch(work, numbers)
  local scope <close> = core.memory.scope()
  local job = work.job
  local x, items, open = job.split:batch(numbers).x, {}, {}
  local size = { x.shape[3], x.shape[4] }
  x = on_device(job, x)
  for i, number in ipairs(numbers) do
    items[i] = setmetatable({ number = number }, { __index = job.split:item(number) })
  end
  for _, e in ipairs(job.entries) do
    local missing = false
    for _, item in ipairs(items) do missing = missing or not job.store:find(e.set, item.id) end
    if missing then open[#open + 1] = e end
  end
  local results, fixed = results_of(work, x, items, open, first_targets(job, open))
  if work.is_mine and not work.is_mine() then return end -- another process has taken these images over, and writes them
  for _, e in ipairs(open) do
    for i, item in ipairs(items) do write(e, job, size, item, fixed[e][i], results[e][i]) end
  end
end


-- ---- all batches ------------------------------------------------------------------------------------------------

-- Halves the batch on out of memory, down to one image.
local function run_halving(work, numbers)
  local ok, problem = pcall(run_batch, work, numbers)
  if ok then return end
  if host.interrupted() then error("interrupted", 0) end
  if not chunks.is_out_of_memory(problem) or #numbers == 1 then error(problem, 0) end
  if work.job.deterministic then
    check.fail("explain", "%d images at once do not fit into memory, and deterministic = true fixes that number. "
      .. "Leave it out. (%s)", chunks.fixed, problem)
  end
  core.memory.collect()
  local half = #numbers // 2
  work.job.run:warn(string.format("explain: %d images at once do not fit into memory: going on with %d",
    #numbers, half))
  work.chunk, work.fitting = half, math.min(work.fitting or half, half)
  run_halving(work, { table.unpack(numbers, 1, half) })
  run_halving(work, { table.unpack(numbers, half + 1) })
end

local function describe(job)
  local names = {}
  for i, e in ipairs(job.entries) do
    names[i] = e.title .. (e.layers and #e.layers > 0 and " at " .. table.concat(e.layers, " + ") or "")
  end
  return table.concat(names, ", ")
end

--- Maps of images in memory. Nothing is written; a map that cannot be made has a status that says so.
---@param job medxai.ExplainJob of explain/job.lua's loose
---@param x any (N, 3, H, W), the network's input
---@param items table[] of each image: number, id, label ...; random methods draw by the id
---@param targets? medxai.Target[] of each image: what is explained, whatever the network now predicts; nil: as the
---  entries say
---@return table<table, table[]> maps[entry][i] = { map = (H, W) float32 on the CPU or nil, raws = list of (h, w),
---  status, problem, seconds, forwards, backwards, partials, target, logits = K numbers }
function batches.maps_of(job, x, items, targets)
  local out, size = {}, { x.shape[3], x.shape[4] }
  for _, e in ipairs(job.entries) do out[e] = {} end
  chunks.each(job.images, #items, function(first, count)
    local scope <close> = core.memory.scope()
    local some = table.move(items, first + 1, first + count, 1, {})
    local given = targets and target.batch(table.move(targets, first + 1, first + count, 1, {}))
    local rows
    local results, fixed = results_of({ job = job }, on_device(job, x:narrow(0, first, count)), some,
      job.entries, function(pass, all)
      rows = rows or pass.logits:to { device = "cpu", dtype = "float64" }:tolist()
      if not given then return first_targets(job, job.entries)(pass, all) end
      local same = {}
      for _, e in ipairs(job.entries) do same[e] = given end
      return same
    end)
    for _, e in ipairs(job.entries) do
      for i, r in ipairs(results[e]) do
        local made, _, status = finished(e, job, size, r)
        local one = { status = status, problem = r.problem, seconds = r.seconds, forwards = r.forwards,
          backwards = r.backwards, partials = r.partials, target = fixed[e][i], logits = rows[i], raws = {} }
        if made then
          one.map = scope:keep(made:squeeze(0):cpu():contiguous())
          for k, raw in ipairs(r.raws) do one.raws[k] = scope:keep(raw:squeeze(0):cpu():contiguous()) end
        end
        out[e][first + i] = one
      end
    end
  end)
  return out
end

--- Those of the images of which a map is not there yet.
---@param job medxai.ExplainJob
---@param numbers integer[]
---@return integer[]
function batches.missing(job, numbers)
  local todo = {}
  for _, number in ipairs(numbers) do
    local id, open = job.split:item(number).id, false
    for _, e in ipairs(job.entries) do open = open or not job.store:find(e.set, id) end
    if open then todo[#todo + 1] = number end
  end
  return todo
end

--- "explain: Grad-CAM for 3 of 96 test images"
---@param job medxai.ExplainJob
function batches.words(job)
  return string.format("explain: %s for %d of %d %s images", describe(job), #job.chosen, job.split.n, job.split.name)
end

--- The making of a job's maps, call by call of batches.make.
---@param job medxai.ExplainJob
---@return table work fitting: images that one pass holds; chunk: images of a batch, where they were too many
function batches.open(job)
  return { job = job, fixed = job.batch or (job.deterministic and chunks.fixed) or nil }
end

--- How many images are worth doing together.
function batches.at_once(work) return work.fixed or work.chunk or work.fitting or 1 end

--- Makes the maps of these images that are not there yet. The first image of all is done alone and tells time and
--- memory; where the number of images at once is fixed, the first batch.
---@param work table of batches.open; is_mine(), where it is given, says whether anything may be written
---@param numbers integer[]
---@param on_batch fun(images: integer)
function batches.make(work, numbers, on_batch)
  local todo, at = batches.missing(work.job, numbers), 1
  while at <= #todo do
    local last = math.min(at + batches.at_once(work) - 1, #todo)
    run_halving(work, { table.unpack(todo, at, last) })
    on_batch(last - at + 1)
    at = last + 1
  end
end

return batches
