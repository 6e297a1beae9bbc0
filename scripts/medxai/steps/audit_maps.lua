-- The audit's look at maps: the share of a map's energy in the lungs beside the lungs' share of the area, and beside
-- the same method's map of another patient of the same class. It refuses to compare a map with one of the same patient.
local files = require "medxai.base.files"
local mapstore = require "medxai.explain.store"
local multiple = require "medxai.stats.multiple"
local random = require "medxai.tensor.random"
local units = require "medxai.stats.units"
local verdict = require "medxai.stats.verdict"
local csv = require "medxai.base.csv"

local maps = {}

maps.images = 48

-- The share of a map's positive part within a mask; NaN where it has none.
local function share_of(map, mask)
  local energy = map:to { dtype = "float64" }:relu()
  local total = energy:sum():item()
  return total > 0 and (energy * mask):sum():item() / total or 0 / 0
end

--- For each image the number of another one of the same class and of another patient, in a keyed order; nil where there
--- is none.
---@param items { id: string, label: integer, patient: string }[]
---@param seed integer
---@return table<integer, integer>
function maps.swaps(items, seed)
  local list = {}
  for i, item in ipairs(items) do
    local others = {}
    for j, other in ipairs(items) do
      local is_same = units.is_known(item.patient) and other.patient == item.patient
      if j ~= i and other.label == item.label and not is_same then others[#others + 1] = j end
    end
    if #others > 0 then
      local stream = random.stream { seed = seed, purpose = "audit_swap@1", id = item.id }
      list[i] = others[stream:integers(1, #others):tolist()[1] + 1]
    end
  end
  return list
end

-- Whether the gate (run:sanity) of this run judged the method: "fail" where any of its checks failed.
local function gate_of(run, label)
  local result
  for _, row in ipairs(csv.read(files.join(run.dir, "verdicts.csv")) or {}) do
    local is_gate = (row.family or ""):find "^sanity" or (row.family or ""):find "^gate"
    if is_gate and row.subject:sub(-#label - 1) == " " .. label then
      result = (row.verdict == "fail" or result == "fail") and "fail" or "pass"
    end
  end
  return result or "not judged"
end

-- Shares of one method: in the image's own lungs, the area's, and of another patient's map.
local function shares(store, records, masks, swaps)
  local own, area, swapped, loaded = {}, {}, {}, {}
  for i, record in ipairs(records) do loaded[i] = record and store:map(record) or nil end
  for i, mask in ipairs(masks) do
    local other = swaps[i] and loaded[swaps[i]]
    own[i] = loaded[i] and share_of(loaded[i], mask) or 0 / 0
    swapped[i] = other and share_of(other, mask) or 0 / 0
    area[i] = mask:mean():item()
  end
  return own, area, swapped
end

--- The maps of some images by the audit's methods, of the true class: a step of its own.
---@param run medxai.Run
---@param network { name: string, model: medxai.Model, split: medxai.Split }
---@param o table methods
---@return table base the result of run:explain, with chosen = numbers of the images
function maps.explain(run, network, o)
  local explain, split = require "medxai.steps.explain", network.split
  local chosen = require("medxai.steps.audit_parts").chosen(split, run.smoke and 2 or maps.images)
  local base = explain.run(run, network.model, split, { title = "audit: where maps lie", methods = o.methods,
    images = chosen, target = "true", mask = "lungs", metrics = { "energy_inside" }, figures = false })
  base.chosen = chosen
  return base
end

--- Where maps lie, of each method; gain is the share in the lungs less that of another patient's map, p by Holm's
--- method.
---@param run medxai.Run
---@param split medxai.Split
---@param base table from maps.explain
---@return table[] rows { method, share, area, swap, gain, p_holm, gate, verdict }
function maps.rows(run, split, base)
  local chosen = base.chosen
  local scope <close> = require("medxai.core").memory.scope() -- luacheck: ignore
  local items, masks, patients, store = {}, {}, {}, mapstore.open(run.dir)
  for k, i in ipairs(chosen) do
    items[k], masks[k] = split:item(i), split:mask(i, "lungs"):ne(0):to { dtype = "float64" }
    patients[k] = items[k].patient
  end
  local over, swaps, count, rows, ps = units.over(#items, patients, { seed = run.seed }), maps.swaps(items, run.seed),
    #base.statuses, {}, {}
  for m, status in ipairs(base.statuses) do
    local records = {}
    for k = 1, #items do records[k] = base.records[(k - 1) * count + m] or false end
    local own, area, swapped = shares(store, records, masks, swaps)
    local row = { method = status.label, share = over:mean(own), area = over:mean(area), swap = over:mean(swapped),
      gate = gate_of(run, status.label) }
    row.gain = over:difference(own, swapped, "audit_maps " .. status.maps)
    rows[m], ps[m] = row, row.gain.p
  end
  local holm = multiple.holm(ps)
  for m, row in ipairs(rows) do
    row.p_holm = holm[m]
    row.verdict = verdict.of("difference", { mean = row.gain.mean, low = row.gain.low, high = row.gain.high,
      p = holm[m], units = row.gain.units,
      status = row.gain.status, why = row.gain.why, resampled = row.gain.resampled }, {})
  end
  return rows
end

return maps
