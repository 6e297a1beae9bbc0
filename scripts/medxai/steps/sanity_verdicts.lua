-- What run:sanity makes of its cells: the similarities that each check needs, and the verdicts of a network's methods.
-- It refuses to compare maps of different questions: two networks that were asked about different classes of an image
-- say nothing about each other there.
local canon = require "medxai.base.json"
local cells = require "medxai.steps.sanity_cells"
local check = require "medxai.base.check"
local files = require "medxai.base.files"
local gate = require "medxai.score.gate"
local persistence = require "medxai.stats.persistence"
local layer_of = require("medxai.steps.study_cells").layer_of
local torch = require "medxai.torch"
local units = require "medxai.stats.units"

local judging = {}

-- ---- similarities --------------------------------------------------------------------------------------------------

local nan = 0 / 0

local function mean_of(list)
  local sum, n = 0.0, 0
  for _, v in ipairs(list) do
    if v == v then sum, n = sum + v, n + 1 end
  end
  return n > 0 and sum / n or nan
end

-- Similarities of entry e of one cell to those of entry f of another: of the same image (and class asked about), and of
-- other patients. note(kind, i, j, spearman, ssim) gets each.
local function between(job, a, e, b, f, view, note, strangers_only)
  local same, strange = { {}, {} }, { {}, {} }
  for i = 1, #job.images do
    local own = a.maps:view(e, i, view)
    if not strangers_only then
      local alike = a.targets[i].index == b.targets[i].index
      local r, s = gate.alike(own, alike and b.maps:view(f, i, view) or nil)
      same[1][i], same[2][i] = r, s
      if note then note("same", i, i, r, s) end
    end
    local list = { {}, {} }
    for _, j in ipairs(job.strangers[i]) do
      local r, s = gate.alike(own, b.maps:view(f, j, view))
      list[1][#list[1] + 1], list[2][#list[2] + 1] = r, s
      if note then note("stranger", i, j, r, s) end
    end
    strange[1][i], strange[2][i] = mean_of(list[1]), mean_of(list[2])
  end
  return same, strange
end

-- The mean of several lists, image by image.
local function mean_lists(lists)
  local out = {}
  for i = 1, #lists[1] do
    local values = {}
    for k, list in ipairs(lists) do values[k] = list[i] end
    out[i] = mean_of(values)
  end
  return out
end

-- stages[stage][draw][image] of entry e and measure (its column in the cells), of all cascade cells that have it.
local function stages_of(p, e, column)
  local stages = {}
  for _, cell in ipairs(p.cascade) do
    local at
    for k, place in ipairs(cell.places) do at = place == e and k or at end
    if at and not cell.alone then
      stages[cell.number] = stages[cell.number] or {}
      local values = {}
      for i, row in ipairs(cell.values[at]) do values[i] = row[column] end
      table.insert(stages[cell.number], values)
    end
  end
  local list = {}
  for _, k in ipairs(check.sorted_keys(stages)) do list[#list + 1] = stages[k] end
  return list
end

-- Every similarity that the checks need of one model's entry, by Spearman [1] and SSIM [2]; rows are kept for the file.
local function similarities(job, p, e, rows)
  local s = { {}, {} }
  local function noting(kind, other)
    return function(what, i, j, spearman, ssim)
      if what == "same" then rows:add(kind, p, e, i, other, spearman, ssim)
      elseif kind == "stranger" then rows:add("stranger", p, e, i, job.images[j].id, spearman, ssim) end
    end
  end
  local function pairs_with(list, kind, into, strange_into)
    local same, strange = { {}, {} }, { {}, {} }
    for k, other in ipairs(list) do
      local a, b = between(job, p.read, e, other.read, e, "shown", noting(kind, other.m.name))
      for m = 1, 2 do same[m][k], strange[m][k] = a[m], b[m] end
    end
    for m = 1, 2 do
      if #list > 0 then s[m][into], s[m][strange_into] = mean_lists(same[m]), mean_lists(strange[m]) end
    end
  end
  local _, strange = between(job, p.read, e, p.read, e, "shown", noting "stranger", true)
  s[1].stranger, s[2].stranger = strange[1], strange[2]
  s[1].stages, s[2].stages = stages_of(p, e, 1), stages_of(p, e, #cells.views + 1)
  pairs_with(p.twins, "train_seed", "twin", "twin_stranger")
  s[1].twins, s[2].twins = math.max(1, #p.twins), math.max(1, #p.twins)
  pairs_with(p.others, "network", "other", "other_stranger")
  if p.permuted then pairs_with({ p.permuted }, "permuted", "permuted", "unused") end
  for k, place in ipairs(p.random) do
    if place == e then
      local note = noting("explainer_seed", "seed " .. job.study.seed + 1)
      local same = between(job, p.read, e, p.again_read, k, "shown", note)
      s[1].repeated, s[2].repeated = same[1], same[2]
    end
  end
  return s
end

-- Gains of average precision over another patient's map and over each baseline.
local function gains_of(job, p, e)
  local found = p.trained:facts().localised
  if not found then return nil, "no mask was asked for" end
  local function minus(other)
    local out = {}
    for i = 1, #job.images do out[i] = found.own[e][i] - other[i] end
    return out
  end
  local gains = { swap = minus(found.swap[e]) }
  for f, entry in ipairs(p.entries) do
    local name = entry.method.name
    if entry.method.baseline and name ~= "weights_noise" and f ~= e then gains[name] = minus(found.own[f]) end
  end
  return gains
end

-- The training accuracy of a run: that of the epoch whose weights it kept.
local function training_accuracy(name)
  local folder = files.is_folder(name) and name or files.join("runs", name)
  local best
  for _, row in ipairs(files.records(files.join(folder, "metrics.jsonl"))) do
    if row.train_accuracy and (row.best or not best) then best = row.train_accuracy end
  end
  return best
end

-- Whether the permuted network has learned its labels; nil, or why the check cannot be made.
local function no_permuted(job, p)
  if not p.permuted then return nil end
  local accuracy = training_accuracy(job.o.permuted[p.m.network])
  if accuracy and accuracy >= 0.9 then return nil end
  return string.format("the permuted network has not learned its labels (training accuracy %s, expected 0.9)",
    accuracy and string.format("%.2f", accuracy) or "unknown")
end

-- What a method that has no map here is called: its first reason.
local function nothing_of(p, e)
  local facts = p.trained:facts()
  for status in pairs(facts.statuses[e]) do
    if status ~= "not_defined" and status ~= "failed" then return nil end
  end
  return facts.problems["entry " .. e] or "no map"
end

-- ---- judging -------------------------------------------------------------------------------------------------------

local function over_images(job)
  local patients = {}
  for i, image in ipairs(job.images) do patients[i] = image.patient end
  return units.over(#job.images, patients, { seed = job.study.seed, id = "gate" })
end

-- The persistence of the other views, told beside the shown one.
local function other_views(job, p, e, over)
  local out = {}
  for k = 2, #cells.views do
    local _, strange = between(job, p.read, e, p.read, e, cells.views[k], nil, true)
    local r = persistence.of(over, stages_of(p, e, k), strange[1])
    out[cells.views[k]] = { mean = r.mean, low = r.low, high = r.high, why = r.why }
  end
  return out
end

-- The course of a cascade for the figures: each stage's likeness to the trained map, the mean over draws of the means
-- over images, with the lowest and the highest draw; and the stages whose own layers alone were random.
local function course_of(p, e)
  local list, by = canon.list {}, {}
  for _, cell in ipairs(p.cascade) do
    for at, place in ipairs(cell.places) do
      if place == e then
        local key = cell.number .. (cell.alone and " alone" or "")
        if not by[key] then
          by[key] = { stage = cell.number, alone = cell.alone and true or nil, layers = cell.stage.layers,
            of = cell.stage.of, means = {} }
          list[#list + 1] = by[key]
        end
        local values = {}
        for i, row in ipairs(cell.values[at]) do values[i] = row[1] end
        table.insert(by[key].means, mean_of(values))
      end
    end
  end
  for _, s in ipairs(list) do
    s.similarity, s.draws = mean_of(s.means), #s.means
    for _, v in ipairs(s.means) do
      if v == v then s.low, s.high = math.min(s.low or v, v), math.max(s.high or v, v) end
    end
    s.means = nil
  end
  return list
end

--- The verdicts of one network: { model, network, methods = { { label, checks, state, failed, profile } }, controls }.
---@param job table of run:sanity
---@param p table the network, related and read
---@param rows medxai.GateRows get every similarity
function judging.of(job, p, rows)
  local over, by_method = over_images(job), {}
  local result = { model = p.m.name, network = p.m.network, train_seed = p.m.train_seed, weights_sha256 = p.weights,
    methods = canon.list {} }
  for e, entry in ipairs(p.entries) do
    local s = similarities(job, p, e, rows)
    local gains, no_mask = gains_of(job, p, e)
    for m = 1, 2 do
      s[m].nothing, s[m].no_permuted, s[m].gains, s[m].no_mask = nothing_of(p, e), no_permuted(job, p), gains, no_mask
    end
    local verdicts = gate.judge(over, s[1], s[2], job.o.thresholds)
    by_method[entry.method.name] = by_method[entry.method.name] or verdicts
    result.methods[e] = { method = entry.method.name, label = entry.label,
      settings = gate.settings(entry, entry.layer or layer_of(job.o.layer, p.m.network)),
      baseline = entry.method.baseline, checks = verdicts, views = other_views(job, p, e, over),
      statuses = p.trained:facts().statuses[e], course = course_of(p, e),
      profile = canon.list(verdicts.weights.estimate.profile or {}) }
  end
  local all = {}
  for e, line in ipairs(result.methods) do all[e .. " " .. line.method] = line.checks end
  for name, verdicts in pairs(by_method) do all[name] = verdicts end
  result.controls = gate.control(all)
  for _, line in ipairs(result.methods) do line.state, line.failed = gate.state(line.checks) end
  return result
end

--- Opens the numbers of all cells; closed with the returned value.
function judging.read(job)
  local open = {}
  local function read(cell)
    local maps = cells.read_maps(cell)
    open[#open + 1] = maps
    return { maps = maps, targets = cell:facts().targets }
  end
  for _, p in ipairs(job.models) do
    p.read = read(p.trained)
    p.again_read = p.again and read(p.again)
    if p.permuted then p.permuted.read = read(p.permuted.trained) end
    for _, cell in ipairs(p.cascade) do cell.values = torch.load_npy(cell.path .. ".npy"):tolist() end
  end
  return setmetatable({}, { __close = function()
    for _, maps in ipairs(open) do maps:close() end
  end })
end

--- Notes other trainings of the same network (twins), and the first training of every other one, of the same kind of
--- input (others).
---@param models table[]
function judging.relate(models)
  for _, p in ipairs(models) do
    p.twins, p.others = {}, {}
    local seen = { [p.m.network] = true }
    for _, q in ipairs(models) do
      local alike = q ~= p and q.m.input == p.m.input
      if alike and q.m.network == p.m.network then p.twins[#p.twins + 1] = q end
      if alike and not seen[q.m.network] then p.others[#p.others + 1] = q end
      seen[q.m.network] = seen[q.m.network] or alike
    end
  end
end

return judging
