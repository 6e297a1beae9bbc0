-- The work of run:sanity, cut into cells: maps of a trained network, and how alike they are to those of the same
-- network with random weights from the output back to a stage. A cell is claimed by one process (run/lease.lua), its
-- numbers lie in study/gate/<cell>.npy and its facts in <cell>.json, which is written last:
-- what a kill leaves is whole or is made again, to the same bytes (images are always explained eight at a time). It
-- refuses to choose a target anew: random weights are asked about the class that the trained network was asked about.
local canon = require "medxai.base.json"
local core = require "medxai.core"
local files = require "medxai.base.files"
local frame = require "medxai.score.frame"
local gate = require "medxai.score.gate"
local host = require "medxai.host"
local map = require "medxai.explain.map"
local runner = require "medxai.explain.runner"
local torch = require "medxai.torch"

local cells = {}

local fine_side = gate.side * gate.fine
local views = { "shown", "signed", "magnitude" }

local coarse, fine_cells = gate.side * gate.side, fine_side * fine_side
local size = #views * coarse + fine_cells -- numbers per map

cells.views = views

-- ---- maps in the frame ---------------------------------------------------------------------------------------------

-- The raw map of one entry on the input's grid, signed: the mean over layers, each over its largest value.
local function signed_of(one, height, width)
  local sum
  for _, raw in ipairs(one.raws) do
    raw = raw:to { dtype = "float64" }
    if raw:dim() == 3 then
      for v, view in ipairs(runner.views) do
        if view.flip then raw:select(0, v - 1):copy_(raw:select(0, v - 1):flip { 1 }) end
      end
      raw = raw:mean { 0 }
    end
    local largest = raw:abs():max():item()
    local own = map.resize(raw:unsqueeze(0), height, width):squeeze(0) / (largest > 0 and largest or 1)
    sum = sum and sum + own or own
  end
  return sum
end

-- (numbers) float32 of one map: shown, signed and magnitude in 16 x 16 cells, shown in 64 x 64; NaN where there is
-- none.
local function numbers_of(one, into, into_fine)
  local good = one.map and one.status ~= "nan" and one.status ~= "saturated"
  if not good then return torch.full({ size }, 0 / 0) end
  local signed = signed_of(one, one.map:size(0), one.map:size(1))
  local parts = { into(one.map), into(signed), into(signed:abs()), into_fine(one.map) }
  for k, part in ipairs(parts) do parts[k] = part:reshape({ -1 }) end
  return torch.cat(parts, 0):to { dtype = "float32" }
end

-- What takes an image's maps into the frame that all networks of the study share; the same for images of the same
-- geometry.
local function frames_of(job, m, i)
  local place, r = m.split:geometry(m.places[i]), job.study:shared_rectangle(i)
  local side = m.split.data.size_px
  local key = canon.write { place.file, place.resized, place.crop, r.left, r.top, r.right, r.bottom, side }
  job.frames = job.frames or {}
  if not job.frames[key] then
    job.frames[key] = core.memory.unscoped(function()
      return { frame.into(place, r, side, side, gate.side), frame.into(place, r, side, side, fine_side) }
    end)
  end
  return job.frames[key][1], job.frames[key][2]
end

---@class medxai.GateNumbers the maps of a cell, as similarity needs them
local Numbers = {}
Numbers.__index = Numbers

local function slice(list, first, count) return table.move(list, first, first + count - 1, 1, {}) end

-- The views of one map's numbers (a flat list).
local function views_of(list)
  local out, fine = {}, slice(list, #views * coarse + 1, fine_cells)
  for k, name in ipairs(views) do
    out[name] = gate.view(slice(list, (k - 1) * coarse + 1, coarse), k == 1 and fine or nil) or false
  end
  return out
end

--- A view of the map of entry e and image i; nil where it is constant or missing.
function Numbers:view(e, i, name)
  local key = e << 20 | i
  if self.kept[key] == nil then
    local scope <close> = core.memory.scope() -- luacheck: ignore
    self.kept[key] = views_of(self.tensor:select(0, e - 1):select(0, i - 1):tolist())
  end
  return self.kept[key][name] or nil
end

function Numbers:close() self.tensor:close() end
Numbers.__close = Numbers.close

--- Reads the maps of a cell.
function cells.read_maps(cell)
  local tensor = core.memory.unscoped(torch.load_npy, cell.path .. ".npy")
  return setmetatable({ tensor = tensor, kept = {} }, Numbers)
end

-- ---- what a cell does ----------------------------------------------------------------------------------------------

-- All images of a cell as one job: items, x in blocks.
local function each_block(cell, use)
  local m, job = cell.model, cell.job
  for first = 1, #job.images, 16 do
    local scope <close> = core.memory.scope() -- luacheck: ignore
    local last, numbers, items = math.min(first + 15, #job.images), {}, {}
    for i = first, last do
      local number = m.places[i]
      numbers[#numbers + 1] = number
      items[#items + 1] = setmetatable({ number = number }, { __index = m.split:item(number) })
    end
    use(first, last, m.split:batch(numbers).x, items)
    if host.interrupted() then error("interrupted", 0) end
    job.run:heartbeat(string.format("sanity: %s, image %d of %d", cell.title, last, #job.images))
  end
end

local function loose(cell, network)
  return require("medxai.explain.job").loose { model = network, split = cell.model.split, entries = cell.entries,
    run = { seed = cell.seed },
    deterministic = true, budget_bytes = cell.job.budget_bytes }
end

-- The score of each map by the mask's average precision, where a mask is asked for: [entry][image], and of the first
-- stranger's map on this image's mask.
local function localised(cell, maps)
  local job, m = cell.job, cell.model
  if not job.mask then return nil end
  local auprc = require "medxai.score.metrics.auprc"
  local own, swapped = canon.list {}, canon.list {}
  for e in ipairs(cell.entries) do
    own[e], swapped[e] = canon.list {}, canon.list {}
    for i = 1, #job.images do
      local scope <close> = core.memory.scope() -- luacheck: ignore
      local mask, j = m.split:mask(m.places[i], job.mask), job.strangers[i][1]
      local function of(one)
        local v = mask and one and auprc.measure(one, { mask = mask:to { device = "cpu" }:ne(0) }) or nil
        return v or 0 / 0
      end
      own[e][i], swapped[e][i] = of(maps[e][i]), of(j and maps[e][j])
    end
  end
  return { own = own, swap = swapped }
end

local function count_bad(logits)
  for _, v in ipairs(logits) do
    if v ~= v or v == math.huge or v == -math.huge then return 1 end
  end
  return 0
end

-- What a block of maps costs in forward passes (a backward counts for two), and the statuses.
local function note_facts(facts, e, one)
  facts.passes[e] = (facts.passes[e] or 0) + one.forwards + 2 * one.backwards + one.partials
  facts.statuses[e] = facts.statuses[e] or {}
  facts.statuses[e][one.status] = (facts.statuses[e][one.status] or 0) + 1
  facts.problems["entry " .. e] = facts.problems["entry " .. e] or one.problem
end

local run = {}

-- Maps of the trained network: numbers, targets, statuses, cost.
function run.maps(cell, network)
  local loose_job, rows, kept = loose(cell, network), {}, {}
  local facts = { passes = canon.list {}, statuses = canon.list {}, problems = {}, targets = canon.list {},
    bad_logits = 0 }
  for e in ipairs(cell.entries) do rows[e], kept[e] = {}, {} end
  each_block(cell, function(first, last, x, items)
    local found = runner.maps_of(loose_job, x, items)
    for i = first, last do
      local into, into_fine = frames_of(cell.job, cell.model, i)
      for e, entry in ipairs(cell.entries) do
        local one = found[entry][i - first + 1]
        rows[e][i] = numbers_of(one, into, into_fine):tolist()
        kept[e][i] = cell.job.mask and one.map and core.memory.unscoped(one.map.clone, one.map) or nil
        note_facts(facts, e, one)
        if e == 1 then
          facts.bad_logits = facts.bad_logits + count_bad(one.logits)
          facts.targets[i] = { index = one.target.index, against_index = one.target.against_index, as = one.target.as,
            kind = one.target.kind, class = one.target.class, predicted = one.target.predicted }
        end
      end
    end
  end)
  facts.localised = localised(cell, kept)
  for _, list in ipairs(kept) do
    for _, one in pairs(list) do one:close() end
  end
  return torch.tensor(rows, { dtype = "float32" }), facts
end

-- How alike the maps under random weights are to the trained ones: (entries, images, measures).
function run.stage(cell, network)
  local random = network:randomize { to = cell.stage.to, from = cell.alone and cell.stage.from or nil,
    seed = cell.draw_seed }
  random:eval()
  local closing <close> = setmetatable({}, { __close = function() random:close() end }) -- luacheck: ignore
  local trained <close> = cells.read_maps(cell.trained)
  local targets = cell.trained:facts().targets
  local loose_job, out = loose(cell, random), {}
  local facts = { passes = canon.list {}, statuses = canon.list {}, problems = {}, bad_logits = 0 }
  for e in ipairs(cell.entries) do out[e] = {} end
  each_block(cell, function(first, last, x, items)
    local found = runner.maps_of(loose_job, x, items, slice(targets, first, last - first + 1))
    for i = first, last do
      local into, into_fine = frames_of(cell.job, cell.model, i)
      for e, entry in ipairs(cell.entries) do
        local one = found[entry][i - first + 1]
        local now, row = views_of(numbers_of(one, into, into_fine):tolist()), {}
        for k, view in ipairs(views) do
          local spearman, ssim = gate.alike(now[view], trained:view(cell.places[e], i, view))
          row[k] = spearman
          if view == "shown" then row[#views + 1] = ssim end
        end
        out[e][i] = row
        note_facts(facts, e, one)
        if e == 1 then facts.bad_logits = facts.bad_logits + count_bad(one.logits) end
      end
    end
  end)
  return torch.tensor(out, { dtype = "float64" }), facts
end

--- Seconds that a cell of random weights takes per map beside the map itself, tried on the trained maps of a cell: two
--- maps' views, and how alike they are.
function cells.seconds_of_likeness(trained)
  local scope <close> = core.memory.scope() -- luacheck: ignore
  local maps <close> = cells.read_maps(trained)
  local began, n = host.now(), math.min(8, #trained.job.images)
  for i = 1, n do
    local now = views_of(maps.tensor:select(0, 0):select(0, i - 1):tolist())
    for _, view in ipairs(views) do gate.alike(now[view], maps:view(1, i, view)) end
  end
  return (host.now() - began) / n
end

-- ---- cells on disk -------------------------------------------------------------------------------------------------

---@class medxai.GateCell
---@field id string
---@field kind "maps"|"stage"
---@field model medxai.StudyModel
---@field entries table[]
---@field title string for people
local Cell = {}
Cell.__index = Cell

--- A cell; fields that determine its numbers are hashed into its id.
---@param fields table kind, job, model, entries, seed, title, key = plain data
function cells.new(fields)
  local cell = setmetatable(fields, Cell)
  local sets = canon.list {}
  for e, entry in ipairs(cell.entries) do sets[e] = entry.settings end
  cell.id = canon.hash({ version = gate.version, kind = cell.kind, images = cell.job.image_key,
    frame = cell.job.frame_key,
    sets = sets, seed = cell.seed, key = cell.key, mask = cell.job.mask }):sub(1, 20)
  cell.path = files.join(cell.job.dir, cell.id)
  return cell
end

function Cell:done() return files.exists(self.path .. ".json") and files.exists(self.path .. ".npy") end

function Cell:facts()
  self.known = self.known or files.read_data(self.path .. ".json")
  return self.known
end

-- Makes a cell whose claim is held.
local function make(cell)
  local scope <close> = core.memory.scope() -- luacheck: ignore
  local began = host.now()
  local network = cell.open()
  local numbers, facts = run[cell.kind](cell, network)
  facts.seconds = host.now() - began
  if facts.bad_logits > 0 then
    cell.job.run:warn(string.format("sanity: %s: the network's answers to %d of %d images are not finite numbers. "
      .. "Their maps count as undefined.", cell.title, facts.bad_logits, #cell.job.images))
  end
  torch.save_npy(cell.path .. ".npy", numbers)
  files.write_data(cell.path .. ".json", facts)
end

--- Makes all cells that are not there yet; those that another process works on are waited for.
---@param list medxai.GateCell[]
---@param after? fun(cell: medxai.GateCell) called after each cell that this process made
function cells.all(list, after)
  local left = {}
  for _, cell in ipairs(list) do
    if not cell:done() then left[#left + 1] = cell end
  end
  while #left > 0 do
    local waiting, worked = {}, false
    for _, cell in ipairs(left) do
      local held <close> = not cell:done() and cell.job.run.leases:take("sanity-" .. cell.id) or nil
      if held then
        if not cell:done() then make(cell) end
        worked = true
        if after then after(cell) end
      elseif not cell:done() then
        waiting[#waiting + 1] = cell
      end
      if host.interrupted() then error("interrupted", 0) end
    end
    left = waiting
    if #left > 0 and not worked then files.sleep(0.3) end
  end
end

return cells
