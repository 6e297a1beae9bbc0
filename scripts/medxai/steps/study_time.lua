-- What a comparison will take, told before it begins and compared afterwards: first from counted passes and each
-- network's measured speed, then, once the first block of the fastest network is done, from that block. With
-- budget_hours fewer images are taken where it would take longer: always the first of the list, never fewer methods,
-- and it is said. It refuses a budget that not even one block fits into.
local canon = require "medxai.base.json"
local check = require "medxai.base.check"
local cells = require "medxai.steps.study_cells"
local csv = require "medxai.base.csv"
local files = require "medxai.base.files"
local host = require "medxai.host"
local Progress = require "medxai.base.progress"
local torch = require "medxai.torch"

local time = {}

time.expensive = 200 -- passes per map from which on a method is done last, and image by image

local speed = setmetatable({}, { __mode = "k" }) -- study model -> seconds of one image's forward pass

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

local per_judgement = {
  road_combined = function(o) return 3 * length(o.percentiles) end,
  road_most_relevant_first = function(o) return 1.5 * length(o.percentiles) end,
  road_least_relevant_first = function(o) return 1.5 * length(o.percentiles) end,
  deletion = function(o) return (o.steps or 100) * length(o.removals) end,
  insertion = function(o) return (o.steps or 100) * length(o.removals) end,
}
local share_perturbations = { faithfulness_correlation = true, faithfulness_estimate = true, infidelity = true }
local ask_again = { max_sensitivity = 10, local_lipschitz = 10, arcc = 1 } -- maps more, unless draws says

-- Passes of judging one map; of the map itself once more where the metric asks its method again; per image alone.
local function judging(metric_entries)
  local each, again, per_image = 0, 0, 0
  for _, m in ipairs(metric_entries) do
    if share_perturbations[m.name] then per_image = 264
    elseif ask_again[m.name] then again = m.options.draws or ask_again[m.name]
    elseif per_judgement[m.name] then each = each + per_judgement[m.name](m.options)
    elseif m.definition.needs and m.definition.needs.model then each = each + 2 end
  end
  return each, again, per_image
end

local own_seconds = 0.02 -- of a map, whatever the network: writing it, its place in the frame

-- Seconds of a cell by counted passes.
local function counted(study, asked, cell, counts)
  local n, f = #cell.block.images, speed[cell.model]
  local passes = cell.entry.passes * (1 + counts.again) + counts.each * (1 + (#study.controls > 0 and study.swaps or 0))
  local shared = cell.entry == asked.entries[1] and counts.per_image or 0
  return n * ((passes + shared) * f + own_seconds)
end

--- Measures a network's forward pass, once per model.
function time.measure(m, model)
  if speed[m] then return end
  local scope <close> = require("medxai.core").memory.scope() -- luacheck: ignore
  local numbers, n = {}, math.min(8, m.split.n)
  for i = 1, n do numbers[i] = i end
  local x = m.split:batch(numbers).x:to { device = model.device or "cpu", dtype = model.dtype or "float32" }
  local best = math.huge
  for _ = 1, 2 do
    local began = host.now()
    torch.no_grad(function() return model:forward { x = x }.output:cpu() end)
    best = math.min(best, host.now() - began)
  end
  speed[m] = best / n
end

-- ---- predictions ---------------------------------------------------------------------------------------------------

local Prediction = {}
Prediction.__index = Prediction

local function left_of(study, list)
  local out = {}
  for _, cell in ipairs(list) do
    if not cells.state(study, cell) then out[#out + 1] = cell end
  end
  return out
end

--- The first prediction, told at once.
---@return table prediction
function time.first(study, asked, list)
  local each, again, per_image = judging(asked.metric_entries)
  local self = setmetatable({ counts = { each = each, again = again, per_image = per_image }, began = host.now(),
    study = study }, Prediction)
  local left = left_of(study, list)
  self.seconds = 0.0
  for _, cell in ipairs(left) do self.seconds = self.seconds + counted(study, asked, cell, self.counts) end
  say("compare: %d models, %d methods and baselines, %d metrics, %d images: %d cells%s; about %s by counted passes",
    #study.models, #asked.entries,
    #asked.metric_entries, asked.images, #list, #left < #list and (", %d of them done before"):format(#list - #left)
      or "", Progress.duration(self.seconds))
  return self
end

local function fastest(study)
  local best
  for _, m in ipairs(study.models) do
    if speed[m] and (not best or speed[m] < speed[best]) then best = m end
  end
  return best or study.models[1]
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

-- Seconds of a cell from what the same entry took on the fastest network: its passes at this network's speed, and the
-- rest.
local function measured(study, asked, cell, counts, known)
  local s = known[cell.entry]
  if not s or cell.entry.expensive then return counted(study, asked, cell, counts) end
  local f = speed[fastest(study)]
  local passes = s.forwards + 2 * s.backwards + s.metric_forwards
  local rest = math.max(0, s.seconds - passes * f)
  return #cell.block.images / s.images * (passes * speed[cell.model] + rest)
end

local function total(study, asked, list, counts, known)
  local sum = 0.0
  for _, cell in ipairs(list) do sum = sum + measured(study, asked, cell, counts, known) end
  return sum
end

local function pilot_states(study, list)
  local known = {}
  for _, cell in ipairs(time.pilot(study, list)) do
    local s = cells.state(study, cell)
    if s and s.status == "finished" and s.forwards then known[cell.entry] = s end
  end
  return known
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
  local known = pilot_states(study, list)
  local function seconds_of(cell) return measured(study, asked, cell, prediction.counts, known) end
  if study.budget_hours then
    local lock <close> = study.run.leases:wait "budget" -- luacheck: ignore (held, not read)
    local stored = files.read_data(budget_path(study))
    if not stored or stored.hours ~= study.budget_hours or stored.of ~= #study.images then
      stored = { hours = study.budget_hours, of = #study.images, images = cut_to(study, list, seconds_of) }
      files.write_data(budget_path(study), stored)
    end
    if stored.images < asked.images then
      study.run:warn(("compare: budget_hours = %g: the first %d of %d images"):format(study.budget_hours, stored.images,
        #study.images))
      asked.images = stored.images
      list = cells.plan(study, asked)
    end
  end
  local left = left_of(study, list)
  prediction.again, prediction.piloted = host.now(), host.now() - prediction.began
  prediction.second = total(study, asked, left, prediction.counts, known)
  if #left > 0 then say("compare: about %s left, by the first block of %s", Progress.duration(prediction.second),
    fastest(study).name) end
  return list
end

--- What it took, beside what was predicted; kept in study/cost.json.
function Prediction:done(list)
  local took, after = host.now() - self.began, host.now() - self.again
  say("compare: took %s (%s by counted passes; after the first block %s, predicted %s)", Progress.duration(took),
    Progress.duration(self.seconds),
    Progress.duration(after), Progress.duration(self.second))
  files.write_data(files.join(self.study.dir, "cost.json"), { cells = #list, predicted_by_passes = self.seconds,
    took = took,
    predicted_by_first_block = self.second, took_after_first_block = after })
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
