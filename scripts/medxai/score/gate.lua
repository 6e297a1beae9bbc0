-- The gate: whether a method's maps depend on what they claim to explain. Eight checks per method and network, from
-- similarities of maps (Adebayo 2018's randomized weights judged by their whole course, Arun 2021's repeatability and
-- reproducibility), each pass, fail or undecided; controls whose verdicts are known, so that the gate checks itself;
-- and the marks that later tables, rankings and pictures carry. It refuses to judge by one stage or one draw, or
-- against nothing: what maps of other patients share is taken off.
local check = require "medxai.base.check"
local files = require "medxai.base.files"
local core = require "medxai.core"
local distributions = require "medxai.stats.distributions"
local persistence = require "medxai.stats.persistence"
local similarity = require "medxai.stats.similarity"
local units = require "medxai.stats.units"
local verdict = require "medxai.stats.verdict"

local gate = {}

gate.version = 2
gate.side, gate.fine = 16, 4 -- cells a side; SSIM is of 4 times as many

local nan = 0 / 0

--- In the order in which they are told.
gate.checks = { "image", "weights", "learned", "labels", "repeat", "retrain", "architecture", "localise" }

-- Which side of its threshold passes.
local passes = { image = "below", weights = "below", learned = "above", labels = "below", ["repeat"] = "above",
  retrain = "above", architecture = "above", localise = "above" }

--- Thresholds; all are options of run:sanity (thresholds = { persistence = 0.25 }).
gate.thresholds = { image = 0.9, persistence = 0.25, learned = 0.1, labels = 0.5, ["repeat"] = 0.9, retrain = 0.5,
  architecture = 0.5, localise = 0.0 }

--- Methods that stand in every gate, and how they must come out; retrain only where there is a second training.
gate.controls = { "sobel", "random_smooth", "center_blob", "weights_noise" }
gate.expected = { sobel = { weights = "fail" }, random_smooth = { weights = "fail" }, center_blob = { image = "fail" },
  weights_noise = { weights = "pass", retrain = "fail" } }

--- Checks whose failure marks a method wherever it appears.
gate.marking = { "image", "weights", "learned" }

-- ---- stages and strangers ------------------------------------------------------------------------------------------

--- The stages of a cascade: the head, then cuts nearest to equal shares of the layers with weights, back to the input.
---@param layers table[] of Model:weighted_layers, in forward order
---@param count integer stages, the head included
---@return { to: string, from: string, layers: integer, of: integer }[] from: where the stage's own part ends
function gate.stages(layers, count)
  local list, before = {}, 0
  local function add(n)
    if n <= before then return end
    list[#list + 1] = { to = layers[#layers - n + 1].name, from = layers[#layers - before].last, layers = n,
      of = #layers }
    before = n
  end
  add(1)
  for k = 1, count - 1 do add(math.floor(#layers * k / (count - 1) + 0.5)) end
  return list
end

-- The numbers of `list` in a keyed order.
local function shuffled(list, seed, id)
  local scope <close> = core.memory.scope() -- luacheck: ignore
  local out = {}
  for i, k in ipairs(core.rng.stream { seed = seed, purpose = "strangers@1", id = id }:permutation(#list):tolist()) do
    out[i] = list[k + 1]
  end
  return out
end

--- Other patients of each image, of its class where there are any, in a keyed order: at most `most`.
---@param images table[] id, patient, label
---@param seed integer
---@param most integer
---@return integer[][] numbers in images
function gate.strangers(images, seed, most)
  local out = {}
  for i, image in ipairs(images) do
    local same, others = {}, {}
    for j, other in ipairs(images) do
      local known = units.is_known(image.patient) and units.is_known(other.patient)
      if j ~= i and other.id ~= image.id and not (known and other.patient == image.patient) then
        others[#others + 1] = j
        if other.label == image.label then same[#same + 1] = j end
      end
    end
    local list = shuffled(#same > 0 and same or others, seed, image.id)
    out[i] = table.move(list, 1, math.min(most, #list), 1, {})
  end
  return out
end

-- ---- similarity of two maps ----------------------------------------------------------------------------------------

---@class medxai.GateMap one map in the frame, as lists of cells; nil where it is constant or not a number
---@field shown table { ranks = number[], fine = number[] }
---@field signed table { ranks = number[] }
---@field magnitude table { ranks = number[] }

local function is_flat(list)
  local low, high = math.huge, -math.huge
  for _, v in ipairs(list) do
    if v ~= v or v == math.huge or v == -math.huge then return true end
    low, high = math.min(low, v), math.max(high, v)
  end
  return not (high > low)
end

--- A map's cells as what similarity needs of them.
---@param cells number[]
---@param fine? number[] 4 x 4 as many, for SSIM
---@return table|nil
function gate.view(cells, fine)
  if is_flat(cells) then return nil end
  return { ranks = similarity.ranks(cells), fine = fine }
end

--- Spearman's rank correlation and SSIM of two views; NaN where a map is constant or missing.
---@return number spearman
---@return number ssim NaN where the views have no fine cells
function gate.alike(a, b)
  if not a or not b then return nan, nan end
  local side, ssim = gate.side * gate.fine, nan
  if a.fine and b.fine then ssim = similarity.ssim(a.fine, b.fine, side, side) or nan end
  return similarity.pearson(a.ranks, b.ranks) or nan, ssim
end

-- ---- verdicts ------------------------------------------------------------------------------------------------------

local function differences(a, b)
  local out = {}
  for i = 1, #a do out[i] = a[i] - b[i] end
  return out
end

local function any_number(list)
  for _, v in ipairs(list or {}) do
    if v == v then return true end
  end
  return false
end

-- The mean over draws of each image's similarity at the last stage.
local function last_stage(stages)
  local last, out = stages[#stages], {}
  for i = 1, #last[1] do
    local sum, n = 0.0, 0
    for _, draw in ipairs(last) do
      if draw[i] == draw[i] then sum, n = sum + draw[i], n + 1 end
    end
    out[i] = n > 0 and sum / n or nan
  end
  return out
end

-- The share of similarities under random weights that are undefined.
local function undefined_share(stages)
  local lost, n = 0, 0
  for _, draws in ipairs(stages) do
    for _, draw in ipairs(draws) do
      for _, v in ipairs(draw) do lost, n = lost + (v == v and 0 or 1), n + 1 end
    end
  end
  return lost / n
end

local estimates = {}

function estimates.image(over, s) return over:mean(s.stranger) end

function estimates.weights(over, s)
  local r, lost = persistence.of(over, s.stages, s.stranger), undefined_share(s.stages)
  if lost > 0.5 then
    r.low, r.high = nan, nan
    r.why = string.format("%.0f %% of the maps under random weights are undefined", 100 * lost)
  end
  return r
end

-- The mean over the images of each draw of the last stage.
local function means_of_draws(stages)
  local out = {}
  for _, draw in ipairs(stages[#stages]) do
    local sum, n = 0.0, 0
    for _, v in ipairs(draw) do
      if v == v then sum, n = sum + v, n + 1 end
    end
    if n > 0 then out[#out + 1] = sum / n end
  end
  return out
end

-- Widens the interval of a mean difference between twins and draws of random weights by the spread of the draws: a
-- twin is one network of many, and were nothing learned, it would be one more such draw. Student's t with one degree of
-- freedom less than there are draws; of one draw nothing is known but what the patients say.
local function widen(r, draws, twins)
  local n, mean, squares = #draws, 0.0, 0.0
  if n < 2 or r.low ~= r.low then return r end
  for _, v in ipairs(draws) do mean = mean + v / n end
  for _, v in ipairs(draws) do squares = squares + (v - mean) ^ 2 end
  local half = distributions.t_quantile(0.95, n - 1) * math.sqrt(squares / (n - 1) * (1 / n + 1 / twins))
  r.low = r.mean - math.sqrt((r.mean - r.low) ^ 2 + half ^ 2)
  r.high = r.mean + math.sqrt((r.high - r.mean) ^ 2 + half ^ 2)
  return r
end

function estimates.learned(over, s)
  if not s.twin then return { nothing = "one training only" } end
  return widen(over:mean(differences(s.twin, last_stage(s.stages))), means_of_draws(s.stages), s.twins or 1)
end

function estimates.labels(over, s)
  if s.no_permuted then return { nothing = s.no_permuted } end
  if not s.permuted then return { nothing = "no network of permuted labels" } end
  if not s.twin then return { nothing = "one training only" } end
  local r = persistence.labels(over, s.permuted, s.twin, s.stranger)
  if r.why and r.why:find "^twins" then return { nothing = r.why } end
  return r
end

estimates["repeat"] = function(over, s)
  if not s.repeated then return { nothing = "the method draws nothing at random" } end
  return over:mean(s.repeated)
end

function estimates.retrain(over, s)
  if not s.twin then return { nothing = "one training only" } end
  return persistence.retained(over, s.twin, s.twin_stranger)
end

function estimates.architecture(over, s)
  if not s.other then return { nothing = "one network only" } end
  return persistence.retained(over, s.other, s.other_stranger)
end

-- Of the gains over another patient's map and over each baseline the one that decides: one below 0, else the least.
function estimates.localise(over, s)
  if not s.gains then return { nothing = s.no_mask or "no mask" } end
  local least
  for _, name in ipairs(check.sorted_keys(s.gains)) do
    local r = any_number(s.gains[name]) and over:mean(s.gains[name]) or nil
    if r then r.of = name end
    if r and r.high < 0 then return r end
    if r and (not least or r.low < least.low or r.low ~= r.low) then least = r end
  end
  return least or { nothing = "no image has the mask" }
end

local threshold_of = { weights = "persistence" }
local no_spread = "no spread" -- what units say of values that are all the same

--- Judges one check of one method and network by one measure.
---@param name string of gate.checks
---@param over medxai.Units of the images
---@param s table similarities of each image, NaN where undefined: stranger, stages [stage][draw][image], twin,
---  twins (their number), twin_stranger, other, other_stranger, repeated, permuted, gains; what is missing cannot be
---  judged
---@param thresholds table as gate.thresholds
---@return medxai.Verdict
---@return table estimate { mean, low, high, n, units, why }
function gate.check(name, over, s, thresholds)
  local threshold = thresholds[threshold_of[name] or name]
  local r
  if s.nothing then r = { nothing = s.nothing }
  elseif not any_number(s.stranger) then r = { nothing = "no two maps can be compared" }
  else r = estimates[name](over, s) end
  r.threshold = threshold
  if r.why == no_spread and r.mean == r.mean and (r.units or 0) >= units.least then
    r.low, r.high = r.mean, r.mean -- the same for every patient: nothing is left to resample
  end
  return verdict.of("bound", r, { threshold = threshold, pass = passes[name] }), r
end

--- The verdicts of all checks: by Spearman's correlation, undecided where SSIM contradicts.
---@param over medxai.Units
---@param spearman table similarities, see gate.check
---@param ssim table the same by SSIM
---@param thresholds table
---@return table<string, table> name -> { verdict, reason, estimate = by Spearman, ssim = by SSIM }
function gate.judge(over, spearman, ssim, thresholds)
  local out = {}
  for _, name in ipairs(gate.checks) do
    local first, estimate = gate.check(name, over, spearman, thresholds)
    local both, second_estimate = first, nil
    if name ~= "localise" then -- which compares no two maps
      local second
      second, second_estimate = gate.check(name, over, ssim, thresholds)
      both = verdict.of_both(first, second)
    end
    out[name] = { verdict = both.verdict, reason = both.reason, estimate = estimate, ssim = second_estimate }
  end
  return out
end

--- Whether the controls of a network came out as they must, and all its verdicts undecided where one did not.
---@param by_method table<string, table> method -> verdicts of gate.judge; the controls among them
---@return table<string, boolean> "sobel weights" -> as it must
function gate.control(by_method)
  local came, enough = {}, true
  for _, method in ipairs(check.sorted_keys(gate.expected)) do
    for _, name in ipairs(check.sorted_keys(gate.expected[method])) do
      local found = by_method[method] and by_method[method][name]
      if found and found.verdict ~= "not_applicable" then
        came[method .. " " .. name] = found.verdict == gate.expected[method][name]
        enough = enough and (found.estimate.units or 0) >= units.least
      end
    end
  end
  if not enough then return came end -- with so few patients all is undecided, and says why
  for _, verdicts in pairs(by_method) do
    for _, v in pairs(verdicts) do
      local held = verdict.controlled({ verdict = v.verdict, reason = v.reason }, came)
      v.verdict, v.reason = held.verdict, held.reason
    end
  end
  return came
end

--- What the gate says of a method as a whole.
---@param verdicts table<string, { verdict: string }>
---@return "failed"|"passed"|"undecided"
---@return string[] failed the checks that mark it
function gate.state(verdicts)
  local failed = {}
  for _, name in ipairs(gate.marking) do
    if verdicts[name].verdict == "fail" then failed[#failed + 1] = name end
  end
  if #failed > 0 then return "failed", failed end
  local open = verdicts.image.verdict ~= "pass" or verdicts.weights.verdict ~= "pass"
    or verdicts.learned.verdict == "undecided"
  return open and "undecided" or "passed", failed
end

-- ---- marks ---------------------------------------------------------------------------------------------------------

---@class medxai.Gate what run:sanity left in a run folder, for tables, rankings and pictures
local Gate = {}
Gate.__index = Gate

local function path_of(dir) return files.join(dir, "study", "gate.json") end

--- Writes what the marks are read from: rows of { model, network, method, settings, weights_sha256, state, failed }.
function gate.save(dir, rows) files.write_data(path_of(dir), { version = gate.version, rows = rows }) end

--- The gate of a run folder; one that marks nothing where run:sanity has not been there.
---@param dir string
---@return medxai.Gate
function gate.of(dir)
  local found = files.read_data(path_of(dir))
  return setmetatable({ rows = found and found.rows or {} }, Gate)
end

local function fits(row, method, network, settings)
  if row.method ~= method or settings and row.settings ~= settings then return false end
  return row.model == network or row.network == network or row.weights_sha256 == network
end

--- A hash of what run:sanity left; nil where there is nothing. What shows marks depends on it.
function gate.hash(dir) return files.exists(path_of(dir)) and files.sha256_file(path_of(dir)) or nil end

--- What tells the settings of a method apart, whatever the network: options, smoothing, and the layer where it is not
--- the network's own.
---@param e table an entry of medxai.explain.registry
---@param layer string|string[]|nil as an experiment names it
---@return string
function gate.settings(e, layer)
  local code, canon = require "medxai.base.fingerprint", require "medxai.base.json"
  return canon.hash({ method = e.method.name, version = e.method.version, options = code.plain(e.options),
    compat = e.compat or "none", aug_smooth = e.aug_smooth, eigen_smooth = e.eigen_smooth,
    layer = e.method.at == "layer" and layer and canon.list(type(layer) == "table" and layer or { layer })
    or nil }):sub(1, 8)
end

--- The mark of a method for a network: nil where it did not fail image, weights or learned (or was not judged).
--- Rows, overlays and rankings of that method and network carry it; nothing is deleted.
---@param method string
---@param network string name of the model, of the network, or the SHA-256 of its weights
---@param settings? string of gate.settings: only maps of these settings are meant
---@return string|nil "gate failed: weights"
function Gate:mark(method, network, settings)
  local failed, seen = {}, {}
  for _, row in ipairs(self.rows) do
    for _, name in ipairs(row.state == "failed" and fits(row, method, network, settings) and row.failed or {}) do
      if not seen[name] then failed[#failed + 1] = name end
      seen[name] = true
    end
  end
  return #failed > 0 and "gate failed: " .. table.concat(failed, ", ") or nil
end

--- "passed", "undecided" or "failed": the worst over the trainings that the name means; nil where it was not judged.
---@param method string
---@param network string
---@param settings? string
---@return string|nil
function Gate:state(method, network, settings)
  local rank, worst = { passed = 1, undecided = 2, failed = 3 }, nil
  for _, row in ipairs(self.rows) do
    if fits(row, method, network, settings) and (not worst or rank[row.state] > rank[worst]) then worst = row.state end
  end
  return worst
end

return gate
