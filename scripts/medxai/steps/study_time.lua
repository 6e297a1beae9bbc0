-- What a comparison will take, told before it begins and compared afterwards. At the start: each network's own speed,
-- forward and with a gradient, and a trial on the fastest one: a batch of each method's maps, one map judged. Once the
-- first block of the fastest network is done: from that block. From then on each cell that is done makes what is left
-- better known. With budget_hours fewer images are taken where it would take longer: always the first of the list,
-- never fewer methods, and it is said. It refuses a budget that not even one block fits into.
local canon = require "medxai.base.json"
local check = require "medxai.base.check"
local cells = require "medxai.steps.study_cells"
local chunks = require "medxai.tensor.chunks"
local core = require "medxai.core"
local csv = require "medxai.base.csv"
local explain = require "medxai.steps.explain"
local files = require "medxai.base.files"
local host = require "medxai.host"
local Progress = require "medxai.base.progress"
local torch = require "medxai.torch"

local time = {}

time.expensive = 200 -- passes per map from which on a method is done last, and image by image

local speed = setmetatable({}, { __mode = "k" }) -- study model -> { forward, gradient, pixels } of one image, seconds

local function say(...)
  if not host.options.quiet then io.stderr:write(string.format(...), "\n") end
end

-- ---- counted passes ------------------------------------------------------------------------------------------------

-- Passes per map, a backward pass counted as two; of methods not listed 3 where they need gradients, else 1.
local per_map = {
  lime = function(o) return o.samples or 1000 end,
  shap_partition = function(o) return o.evals or 1000 end,
  shap_kernel = function(o) return tonumber(o.samples) or 2048 end,
  shap_gradient = function(o) return 3 * (o.samples or 200) end,
  smoothgrad = function(o) return 3 * (o.samples or 25) end,
  integrated_gradients = function(o) return 3 * (o.steps or 50) end,
  smoothgrad_squared = function(o) return 3 * (o.samples or 25) end,
  vargrad = function(o) return 3 * (o.samples or 25) end,
  gradient_shap = function(o) return 3 * (o.samples or 20) end,
  layer_conductance = function(o) return 3 * (o.steps or 50) end,
  internal_influence = function(o) return 3 * (o.steps or 50) end,
  lrp = function() return 12 end,
  deeplift = function() return 6 end,
  deeplift_shap = function(o) return 6 * (o.background_count or 32) end,
  deconvolution = function() return 4 end,
  feature_ablation = function() return 50 end,
  occlusion = function() return 170 end,
  rise = function(o) return o.samples or 2000 end,
  shap_exact = function() return 256 end,
  shap_permutation = function(o) return 60 * (o.orders or 10) end,
  shapley_sampling = function(o) return 30 * (o.orders or 25) end,
  reciprocam = function() return 30 end,
  sess = function(o) return 4 * ((o.scales or 12) + 1) ^ 2 // 4 end,
  scorecam = function() return 500 end,
  ablationcam = function() return 20 end,
}

--- Passes that one map of an entry takes.
---@param e table of explain.check
---@return number
function time.passes(e)
  local count = per_map[e.method.name]
  local n = count and count(e.options) or e.method.needs.gradient and 3 or 1
  return e.aug_smooth and 6 * n or n
end

local function length(list) return type(list) == "table" and math.max(1, #list) or 1 end

-- Images that are evaluated where n are asked for at once: whole chunks (perturb/scorer.lua).
local function whole(n) return math.ceil(n / chunks.fixed) * chunks.fixed end

local function curve(o) return whole((o.steps or 100) + 1) * length(o.removal) end

local per_judgement = {
  road_combined = function(o) return whole(2 * length(o.percentiles)) end,
  road_most_relevant_first = function(o) return whole(length(o.percentiles)) end,
  road_least_relevant_first = function(o) return whole(length(o.percentiles)) end,
  deletion = curve,
  insertion = curve,
}
local without_original = { road_combined = true, deletion = true, insertion = true }
local share_perturbations = { faithfulness_correlation = true, faithfulness_estimate = true, infidelity = true }
local ask_again = { max_sensitivity = 10, local_lipschitz = 10, arcc = 1 } -- maps more, unless draws says

--- Passes of judging: each map; the map itself so often again where a metric asks its method; the unchanged image of
--- each method's cell; each image, whatever the number of methods.
---@param metric_entries table[]
---@return table { each, again, original, per_image }
function time.judging(metric_entries)
  local n = { each = 0, again = 0, original = 0, per_image = 0 }
  for _, m in ipairs(metric_entries) do
    local runs = m.definition.needs and m.definition.needs.model
    if runs and not without_original[m.name] then n.original = whole(1) end
    if share_perturbations[m.name] then n.per_image = 264
    elseif ask_again[m.name] then n.again = n.again + (m.options.draws or ask_again[m.name])
    elseif per_judgement[m.name] then n.each = n.each + per_judgement[m.name](m.options)
    elseif runs then n.each = n.each + whole(1) end
  end
  return n
end

-- ---- measured speeds -----------------------------------------------------------------------------------------------

-- Seconds of the faster of two calls.
local function faster(f)
  local best = math.huge
  for _ = 1, 2 do
    local began = core.device.now()
    f()
    best = math.min(best, core.device.now() - began)
  end
  return best
end

--- Measures a network, once: the forward pass of one image in a chunk of eight, the same with the gradient at the input
--- where some method goes through the network (with_gradient), and the pixels of its input.
function time.measure(study, m, model, with_gradient)
  if speed[m] then return end
  local scope <close> = core.memory.scope() -- luacheck: ignore
  local numbers, items, n = {}, {}, math.min(chunks.fixed, m.split.n)
  for i = 1, n do
    numbers[i] = i
    items[i] = setmetatable({ number = i }, { __index = m.split:item(i) })
  end
  local x = m.split:batch(numbers).x:to { device = model.device or "cpu", dtype = model.dtype or "float32" }
  local full = chunks.padded(x, chunks.fixed)
  local one = { pixels = x:size(2) * x:size(3) }
  one.forward = faster(function()
    torch.no_grad(function() return model:forward { x = full }.output:cpu() end)
  end) / chunks.fixed
  one.gradient = one.forward
  if with_gradient then
    local entries = explain.check({ methods = { "saliency" }, target = study.target }, model, m.split).entries
    local job = require("medxai.explain.job").loose { model = model, split = m.split, entries = entries,
      budget_bytes = 1 << 30, deterministic = true, run = { seed = study.seed } }
    one.gradient = faster(function() require("medxai.explain.runner").maps_of(job, x, items) end) / chunks.fixed
  end
  speed[m] = one
end

local function fastest(study)
  local best
  for _, m in ipairs(study.models) do
    if speed[m] and (not best or speed[m].forward < speed[best].forward) then best = m end
  end
  return best or study.models[1]
end

-- ---- what a cell takes ---------------------------------------------------------------------------------------------

---@class medxai.StudyPrediction
---@field study medxai.Study
---@field asked table
---@field counts table of time.judging
---@field speed table<medxai.StudyModel, table> { forward, gradient, pixels }: seconds of one image
---@field fastest medxai.StudyModel
---@field tried table<table, table> entry -> { map, judge }: seconds of a map and of judging one of an
---   image on the fastest network
---@field known table<medxai.StudyModel, table<table, table>> entry -> sums over cells that are done
---@field before table<string, boolean> ids of cells that were done when it was made
---@field made table<string, boolean> ids of cells that this start made
---@field real table<medxai.StudyModel|string, number[]> what cells took, and what was predicted: { real, predicted }
local Prediction = {}
Prediction.__index = Prediction

--- A prediction that knows speeds and what a trial took. Pure: it measures nothing itself.
---@param study medxai.Study
---@param asked table entries, metric_entries, images
---@param speeds table<medxai.StudyModel, table>
---@param best medxai.StudyModel the fastest
---@param tried table<table, table>
---@return medxai.StudyPrediction
function time.prediction(study, asked, speeds, best, tried)
  return setmetatable({ study = study, asked = asked, counts = time.judging(asked.metric_entries), speed = speeds,
    fastest = best, tried = tried, known = {}, real = {} }, Prediction)
end

-- Maps judged per image.
local function judged_maps(self)
  return 1 + (#self.study.controls > 0 and self.study.swaps or 0) + (self.asked.noise and 1 or 0)
end

-- Seconds of one image of an entry on network m from what it took on the fastest one (map, judge): its passes at this
-- network's speed, all else by the pixels of the input. A map at a layer goes with the forward pass, one at the input
-- with the gradient.
local function scaled(self, entry, m, map, judge)
  local own, best, counts = self.speed[m], self.speed[self.fastest], self.counts
  local pixels, maps = own.pixels / best.pixels, judged_maps(self)
  local kind = entry.layers and "forward" or "gradient"
  local ratio = entry.baseline and pixels or own[kind] / best[kind]
  local passes = maps * counts.each + counts.original
  local rest = math.max(0, judge - passes * best.forward)
  return map * ratio * (1 + counts.again * maps) + passes * own.forward + rest * pixels
end

-- What an image's shared perturbations take: they fall to the first method.
local function shared(self, cell)
  return cell.entry == self.asked.entries[1] and self.counts.per_image * self.speed[cell.model].forward or 0
end

-- Seconds of one image of a cell but for what methods share, by what is known best: the same entry on this network,
-- then on the fastest one, then its trial; of methods of minutes by counted passes. Second value: own network's.
local function per_image(self, cell)
  local entry, m, counts = cell.entry, cell.model, self.counts
  local own = self.known[m] and self.known[m][entry]
  if own then return own.seconds / own.images, true end
  if entry.expensive then
    local passes = entry.passes * (1 + counts.again) + judged_maps(self) * counts.each + counts.original
    return passes * self.speed[m].forward, false
  end
  local best = self.known[self.fastest] and self.known[self.fastest][entry]
  if best then return scaled(self, entry, m, best.map / best.images, best.judge / best.images), false end
  local tried, once = self.tried[entry], counts.original * self.speed[self.fastest].forward
  return scaled(self, entry, m, tried.map, judged_maps(self) * (tried.judge - once) + once), false
end

--- Seconds that a cell takes.
---@param cell medxai.StudyCell
---@return number
function Prediction:of(cell)
  return #cell.block.images * ((per_image(self, cell)) + shared(self, cell))
end

--- Learns from a cell that is done.
---@param cell medxai.StudyCell
---@param state table of study_cells.state
function Prediction:learn(cell, state)
  if state.status ~= "finished" or not state.map_seconds then return end
  local m, entry = cell.model, cell.entry
  for _, key in ipairs { m, "all" } do
    local r = self.real[key] or { 0.0, 0.0 }
    self.real[key] = { r[1] + state.seconds, r[2] + self:of(cell) }
  end
  local of = self.known[m] or {}
  self.known[m] = of
  local sum = of[entry] or { map = 0.0, judge = 0.0, seconds = 0.0, images = 0 }
  of[entry] = sum
  local common = math.min(state.seconds - state.map_seconds, #cell.block.images * shared(self, cell))
  sum.map, sum.judge = sum.map + state.map_seconds, sum.judge + state.seconds - state.map_seconds - common
  sum.seconds, sum.images = sum.seconds + state.seconds - common, sum.images + state.images
end

--- Seconds of all cells of a list.
---@param list medxai.StudyCell[]
---@return number
function Prediction:sum(list)
  local sum = 0.0
  for _, cell in ipairs(list) do sum = sum + self:of(cell) end
  return sum
end

--- Seconds of the cells that are left, as cells went so far: those of a method that was not done on this network yet
--- are taken to be as much slower than predicted as what was done on it (else on any).
---@param list medxai.StudyCell[]
---@return number
function Prediction:left(list)
  local sum = 0.0
  for _, cell in ipairs(list) do
    local one, is_own = per_image(self, cell)
    local r = self.real[cell.model] or self.real.all
    local factor = not is_own and r and r[2] > 0 and r[1] / r[2] or 1
    sum = sum + #cell.block.images * factor * (one + shared(self, cell))
  end
  return sum
end

-- ---- predictions ---------------------------------------------------------------------------------------------------

local function left_of(study, list)
  local out = {}
  for _, cell in ipairs(list) do
    if not cells.state(study, cell) then out[#out + 1] = cell end
  end
  return out
end

-- The trial: each method that is not of minutes on the first images of the fastest network; the judge on one map.
local function try(work, list, best)
  local tried, judge = {}, nil
  for _, cell in ipairs(list) do
    if cell.model == best and not tried[cell.entry] and not cell.entry.expensive then
      local one = work:trial(cell, not judge)
      judge = judge or one.judge
      tried[cell.entry] = { map = one.map, judge = judge }
    end
  end
  return tried
end

--- The first prediction, told at once.
---@param work table of cells.work
---@return medxai.StudyPrediction
function time.first(study, asked, list, work)
  local began, best = host.now(), fastest(study)
  local self = time.prediction(study, asked, speed, best, try(work, list, best))
  self.began, self.processor, self.before, self.made = began, os.clock(), {}, work.made
  local left = left_of(study, list)
  for _, cell in ipairs(list) do self.before[cell.id] = cells.state(study, cell) ~= nil end
  self.at_start = self:sum(list)
  say("compare: %d models, %d methods and baselines, %d metrics, %d images: %d cells%s; about %s, by a trial on %s",
    #study.models, #asked.entries, #asked.metric_entries, asked.images, #list, #left < #list
      and (", %d of them done before"):format(#list - #left) or "", Progress.duration(self:sum(left)), best.name)
  return self
end

--- How many processes work on the cells, by what those took that were done in `elapsed` seconds; at least this one.
---@param list medxai.StudyCell[]
---@param elapsed number
---@return number
function Prediction:processes(list, elapsed)
  local sum = 0.0
  for _, cell in ipairs(list) do
    local state = not self.before[cell.id] and cells.state(self.study, cell)
    sum = sum + (state and state.seconds or 0)
  end
  return math.max(1.0, sum / math.max(elapsed, 1e-9))
end

--- Seconds until all cells are done, as it goes: those that nobody has done yet, by all processes that work on them.
function time.left(study, list, prediction)
  return prediction:left(left_of(study, list)) / prediction:processes(list, host.now() - prediction.began)
end

--- The cells that the second prediction is made of: the first block of the fastest network, without the methods of
--- minutes.
function time.pilot(study, list)
  local m, own = fastest(study), {}
  for _, cell in ipairs(list) do
    if cell.model == m and cell.place[4] == 1 and not cell.entry.expensive then own[#own + 1] = cell end
  end
  return own
end

-- ---- budget --------------------------------------------------------------------------------------------------------

local function budget_path(study) return files.join(study.dir, "budget.json") end

--- How many of the study's images are compared: all, or what an earlier start cut them to for the same budget.
function time.images(study)
  local stored = study.budget_hours and files.read_data(budget_path(study))
  if stored and stored.hours == study.budget_hours and stored.of == #study.images then return stored.images end
  return #study.images
end

-- The most whole blocks that fit into the budget.
local function cut_to(study, list, seconds_of)
  local by_block, blocks = {}, 0
  for _, cell in ipairs(list) do
    local b = cell.place[4]
    by_block[b], blocks = (by_block[b] or 0.0) + seconds_of(cell), math.max(blocks, b)
  end
  local sum, fit, budget = 0.0, 0, study.budget_hours * 3600
  for b = 1, blocks do
    sum = sum + by_block[b]
    if sum <= budget then fit = b end
  end
  if fit == 0 then
    check.fail("compare",
      "budget_hours = %g does not hold even one block of %d images (about %s). Give more, or fewer methods or models.",
        study.budget_hours,
      cells.block, Progress.duration(by_block[1]))
  end
  return math.min(fit * cells.block, #study.images)
end

--- The second prediction, told; with a budget the cells that fit into it. One process decides, and its decision stays.
---@return medxai.StudyCell[]
function time.second(study, asked, list, prediction)
  for _, cell in ipairs(time.pilot(study, list)) do
    local state = cells.state(study, cell)
    if state then prediction:learn(cell, state) end
  end
  if study.budget_hours then
    local lock <close> = study.run.leases:wait "budget" -- luacheck: ignore (held, not read)
    local stored = files.read_data(budget_path(study))
    if not stored or stored.hours ~= study.budget_hours or stored.of ~= #study.images then
      stored = { hours = study.budget_hours, of = #study.images,
        images = cut_to(study, list, function(cell) return prediction:of(cell) end) }
      files.write_data(budget_path(study), stored)
    end
    if stored.images < asked.images then
      study.run:warn(("compare: budget_hours = %g: the first %d of %d images"):format(study.budget_hours, stored.images,
        #study.images))
      asked.images = stored.images
      list = cells.plan(study, asked)
      prediction.at_start = prediction:sum(list)
    end
  end
  local left = left_of(study, list)
  prediction.by_first_block = prediction:sum(list)
  if #left > 0 then say("compare: about %s left, by the first block of %s", Progress.duration(prediction:sum(left)),
    prediction.fastest.name) end
  return list
end

-- Which cells of a list this start did, which others did meanwhile, and which were done before.
local function counts_of(self, list)
  local n = { here = 0, elsewhere = 0, before = 0 }
  for _, cell in ipairs(list) do
    local key = self.made[cell.id] and "here" or self.before[cell.id] and "before" or "elsewhere"
    n[key] = n[key] + 1
  end
  return n
end

--- What it took, beside what was predicted; kept in study/cost.json. What is compared are the own seconds of all cells:
--- the time of this start says nothing where others computed some, or earlier starts did.
---@param list medxai.StudyCell[] all done
function Prediction:done(list)
  local took, sum, n = host.now() - self.began, 0.0, counts_of(self, list)
  local processor = os.clock() - self.processor
  for _, cell in ipairs(list) do sum = sum + (cells.state(self.study, cell).seconds or 0) end
  local others = n.here < #list and (" (%d of them by this start, %d by earlier ones, %d by other processes)"):format(
    n.here, n.before, n.elsewhere) or ""
  say("compare: took %s (%s of a processor's); the %d cells%s %s, predicted %s at the start%s",
    Progress.duration(took), Progress.duration(processor), #list, others, Progress.duration(sum),
    Progress.duration(self.at_start), self.by_first_block
      and (" and %s after the first block"):format(Progress.duration(self.by_first_block)) or "")
  files.write_data(files.join(self.study.dir, "cost.json"), { cells = #list, cells_of_this_start = n.here,
    cells_of_earlier_starts = n.before, cells_of_other_processes = n.elsewhere, seconds_of_cells = sum,
    predicted_at_start = self.at_start, predicted_by_first_block = self.by_first_block, seconds_of_this_start = took,
    processor_seconds_of_this_start = processor })
end

-- ---- costs ---------------------------------------------------------------------------------------------------------

local cost_columns = { "run", "network", "method", "images", "forwards", "backwards", "map_seconds", "seconds",
  "failed_cells" }

--- Writes tables/costs.csv: what each method's maps and their judgement took on each model, all images together.
function time.write_costs(study, list)
  local out, of = canon.list {}, {}
  for _, cell in ipairs(cells.in_place(list)) do
    local key, s = cell.model.name .. "\0" .. cell.entry.label, cells.state(study, cell)
    local row = of[key]
    if not row then
      row = { run = cell.model.name, network = cell.model.network, method = cell.entry.label, images = 0, forwards = 0,
        backwards = 0, map_seconds = 0.0,
        seconds = 0.0, failed_cells = 0 }
      of[key], out[#out + 1] = row, row
    end
    row.images, row.seconds, row.map_seconds = row.images + (s.images or 0), row.seconds + (s.seconds or 0),
      row.map_seconds + (s.map_seconds or 0)
    row.forwards, row.backwards = row.forwards + (s.forwards or 0), row.backwards + (s.backwards or 0)
    if s.status == "failed" then row.failed_cells = row.failed_cells + 1 end
  end
  csv.write(files.join(study.run.dir, "tables/costs.csv"), cost_columns, out)
end

return time
