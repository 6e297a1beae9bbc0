-- The audit's look at maps: the share of a map's energy in the lungs, and on the markers where the data have a mask of
-- them, beside the part's share of the area, and beside the same method's map of another patient of the same class. It
-- refuses to compare a map with one of the same patient.
local gate = require "medxai.score.gate"
local mapstore = require "medxai.explain.store"
local multiple = require "medxai.stats.multiple"
local random = require "medxai.tensor.random"
local units = require "medxai.stats.units"
local verdict = require "medxai.stats.verdict"

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

-- Shares of one method: in each image's own mask, the area's, and of another patient's map; NaN for images without
-- a mask.
local function shares(loaded, masks, swaps, count)
  local own, area, swapped = {}, {}, {}
  for i = 1, count do
    local mask, other = masks[i], swaps[i] and loaded[swaps[i]]
    own[i] = mask and loaded[i] and share_of(loaded[i], mask) or 0 / 0
    swapped[i] = mask and other and share_of(other, mask) or 0 / 0
    area[i] = mask and mask:mean():item() or 0 / 0
  end
  return own, area, swapped
end

-- What maps are compared with: { part, masks } with the masks by the image's place among the chosen; markers only where
-- the data have a mask of them and an image has one.
local function parts_of(split, chosen)
  local lungs, markers, found = {}, {}, false
  local has_markers = table.concat(split.data.masks, " "):find("marker", 1, true)
  for k, i in ipairs(chosen) do
    lungs[k] = split:mask(i, "lungs"):ne(0):to { dtype = "float64" }
    local marker = has_markers and split:mask(i, "marker")
    marker = marker and marker:ne(0):to { dtype = "float64" }
    if marker and marker:sum():item() > 0 then markers[k], found = marker, true end
  end
  local list = { { part = "lungs", masks = lungs } }
  if found then list[2] = { part = "markers", masks = markers } end
  return list
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

--- Where maps lie, of each part and method; gain is the share in the part less that of another patient's map, p by
--- Holm's method over all of them.
---@param run medxai.Run
---@param split medxai.Split
---@param base table from maps.explain
---@param weights string SHA-256 of the network's weights: what the gate (run:sanity) of this run says of them
---@return table[] rows { part = "lungs" | "markers", method, share, area, swap, gain, p_holm, gate, verdict }
function maps.rows(run, split, base, weights)
  local chosen = base.chosen
  local scope <close> = require("medxai.core").memory.scope() -- luacheck: ignore
  local items, patients, store = {}, {}, mapstore.open(run.dir)
  local judged = gate.of(run.dir)
  for k, i in ipairs(chosen) do
    items[k] = split:item(i)
    patients[k] = items[k].patient
  end
  local over, swaps, count, rows, ps = units.over(#items, patients, { seed = run.seed }), maps.swaps(items, run.seed),
    #base.statuses, {}, {}
  local found = parts_of(split, chosen)
  for m, status in ipairs(base.statuses) do
    local loaded = {}
    for k = 1, #items do
      local record = base.records[(k - 1) * count + m]
      loaded[k] = record and store:map(record) or nil
    end
    for p, one in ipairs(found) do
      local own, area, swapped = shares(loaded, one.masks, swaps, #items)
      local row = { part = one.part, method = status.label, share = over:mean(own), area = over:mean(area),
        swap = over:mean(swapped), gate = judged:state(status.method, weights) or "not judged" }
      row.gain = over:difference(own, swapped, ("audit_maps %s %s"):format(status.maps, one.part))
      local at = (p - 1) * count + m
      rows[at], ps[at] = row, row.gain.p
    end
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
