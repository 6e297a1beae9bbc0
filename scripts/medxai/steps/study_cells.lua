-- The cells of a comparison: one model, one method with its settings, one block of 16 images. A cell makes the block's
-- maps, judges each under every metric, judges the map of another patient of the same class on the same image (the
-- control "swap": the method's own chance level), and keeps every map in the frame that all models share. A cell is
-- named by the hash of everything that decides its numbers. It is claimed by one process (run/lease.lua), written
-- whole, its state last. Cheap cells of all models come first, block by block: a study that is interrupted is a small
-- complete one. A failure is never dropped: a failed cell leaves rows that say so.
local canon = require "medxai.base.json"
local check = require "medxai.base.check"
local chunks = require "medxai.tensor.chunks"
local code = require "medxai.base.fingerprint"
local contexts = require "medxai.score.context"
local core = require "medxai.core"
local files = require "medxai.base.files"
local frame = require "medxai.score.frame"
local host = require "medxai.host"
local judge = require "medxai.score.runner"
local map = require "medxai.explain.map"
local mapstore = require "medxai.explain.store"
local metric = require "medxai.score.registry"
local Progress = require "medxai.base.progress"
local rows = require "medxai.score.study_rows"
local runner = require "medxai.explain.runner"
local Step = require "medxai.run.step"
local torch = require "medxai.torch"
local units = require "medxai.stats.units"

local cells = {}

cells.version = 1
cells.block = 16
cells.fine = 4 -- the shown map is kept at so many times the frame's side, for SSIM and pictures

local longest_pause_s = 30.0
local most_bytes = 2 << 30 -- of models whose weights are in memory at a time

---@class medxai.StudyCell
---@field id string what decides its numbers, as a hash
---@field model medxai.StudyModel
---@field entry table one of asked.entries
---@field explainer_seed integer from 1
---@field block table { images = numbers in study.images, lenders = others whose maps are lent, donors = image -> list }

-- ---- blocks and swaps ----------------------------------------------------------------------------------------------

local function is_other(a, b) return a.id ~= b.id and not (units.is_known(a.patient) and a.patient == b.patient) end

-- Whose maps are judged on image i: the next ones of its class in the block, in a circle, each of another patient;
-- where the block has none, the first of the study.
local function donors_of(images, i, block, swaps)
  local list, taken = {}, {}
  local function try(k)
    if #list < swaps and not taken[k] and images[k].label == images[i].label and is_other(images[k], images[i]) then
      list[#list + 1], taken[k] = k, true
    end
  end
  local first, last = block[1], block[#block]
  for k = i + 1, last do try(k) end
  for k = first, i - 1 do try(k) end
  for k = 1, #images do try(k) end
  return list
end

--- The blocks of a study's first n images.
---@param images medxai.StudyImage[]
---@param n integer
---@param swaps integer 0 where there is no such control
---@return table[] { images, lenders, donors }
function cells.blocks(images, n, swaps)
  local list, judged = {}, table.move(images, 1, n, 1, {})
  for first = 1, n, cells.block do
    local block = { images = {}, lenders = {}, donors = {} }
    for i = first, math.min(first + cells.block - 1, n) do table.insert(block.images, i) end
    local within, lent = {}, {}
    for _, i in ipairs(block.images) do within[i] = true end
    for _, i in ipairs(block.images) do
      block.donors[i] = donors_of(judged, i, block.images, swaps)
      for _, k in ipairs(block.donors[i]) do
        if not within[k] and not lent[k] then lent[k], block.lenders[#block.lenders + 1] = true, k end
      end
    end
    list[#list + 1] = block
  end
  return list
end

--- The layer option for one network: a node or a list is for all, { [network] = node } names them.
---@param layer string|table|nil
---@param network string|nil nil: of no network yet
function cells.layer_of(layer, network)
  if type(layer) ~= "table" or layer[1] ~= nil then return layer end
  return network and layer[network] or nil
end

--- Raises where the layer option names a network that no model of the study is.
---@param step string that was asked, for the error
---@param layer string|table|nil
---@param study medxai.Study
function cells.check_layers(step, layer, study)
  if type(layer) ~= "table" or layer[1] ~= nil then return end
  local known = {}
  for i, m in ipairs(study.models) do known[i] = m.network end
  for _, network in ipairs(check.sorted_keys(layer)) do check.known(step, "network in layer", network, known) end
end

-- ---- identity ------------------------------------------------------------------------------------------------------

local function library_code(folder, name)
  local text = files.read(files.join(host.scripts_dir, "medxai", folder, name .. ".lua"))
  return text and files.sha256(text) or "none"
end

-- What decides an entry's numbers on every model and image.
local function entry_fields(e)
  local m = e.method
  return { method = m.name, version = m.version, code = m.source and files.sha256(m.source)
    or library_code("explain/methods", m.name),
    options = code.plain(e.options), compat = e.compat or "none", aug_smooth = e.aug_smooth,
      eigen_smooth = e.eigen_smooth,
    target = e.description.text, layer = code.plain { e.layer or "the network's own" } }
end

local function metric_fields(metric_entries)
  local list = canon.list {}
  for i, m in ipairs(metric_entries) do
    list[i] = { id = m.id, mask = m.mask, code = m.own and "in its id" or library_code("score/metrics", m.name) }
  end
  return list
end

-- What decides how a model sees the images and what it answers.
local function model_fields(study, m)
  local config = {}
  for key, value in pairs(m.data.config) do
    if key ~= "counts" then config[key] = value end
  end
  return { weights = m.weights_sha256, network = m.network, input = config, preparation = m.data:preparation(),
    seed = study.seed, numerics = Step.numerics, version = cells.version, map = map.version,
    libtorch = core.tensor.torch_version(), device = (host.options.device or "cpu"):match "^%a+" }
end

local function ids_of(study, list)
  local out = canon.list {}
  for k, i in ipairs(list) do out[k] = study.images[i].id end
  return out
end

-- The images of a block with those that are lent to each, and the masks through which they are seen and judged.
local function block_fields(study, m, block, masks)
  local out = { images = ids_of(study, block.images), donors = {}, masks = {} }
  local places = {}
  for _, i in ipairs(block.images) do
    out.donors[study.images[i].id] = ids_of(study, block.donors[i])
    places[#places + 1] = m.places[i]
  end
  for _, i in ipairs(block.lenders) do places[#places + 1] = m.places[i] end
  local seen = m.split.data.apply_mask and m.split.data.mask ~= "none" and "lungs" or nil
  for _, name in ipairs { seen, table.unpack(masks) } do out.masks[name] = m.split:masks_sha256(name, places)
    or "none" end
  return out
end

local function masks_of(metric_entries)
  local names = {}
  for _, m in ipairs(metric_entries) do names[m.mask or false], names[m.within or false] = true, true end
  names[false] = nil
  return check.sorted_keys(names)
end

--- All cells of a comparison, in the order in which they are worked on: cheap methods first, then block by block, model
--- by model.
---@param study medxai.Study
---@param asked table entries, metric_entries, images (how many)
---@return medxai.StudyCell[]
function cells.plan(study, asked)
  local list, swaps = {}, #study.controls > 0 and study.swaps or 0
  local blocks, metrics, masks = cells.blocks(study.images, asked.images, swaps), metric_fields(asked.metric_entries),
    masks_of(asked.metric_entries)
  for j, m in ipairs(study.models) do
    local of_model = model_fields(study, m)
    for b, block in ipairs(blocks) do
      local of_block = block_fields(study, m, block, masks)
      for k, e in ipairs(asked.entries) do
        for seed = 1, e.draws and study.explainer_seeds or 1 do
          local fields = { model = of_model, block = of_block, method = entry_fields(e.checked), metrics = metrics,
            noise = asked.noise or nil,
            explainer_seed = seed,
            layer = code.plain { cells.layer_of(e.layer, m.network) or "own" }, batch = e.expensive and 1 or nil }
          list[#list + 1] = { id = canon.hash(fields):sub(1, 20), model = m, entry = e, explainer_seed = seed,
            block = block,
            order = { e.expensive and 1 or 0, b, j, k, seed }, place = { j, k, seed, b } }
        end
      end
    end
  end
  table.sort(list, function(x, y)
    for i = 1, 5 do
      if x.order[i] ~= y.order[i] then return x.order[i] < y.order[i] end
    end
    return false
  end)
  for i, cell in ipairs(list) do cell.number = i end
  return list
end

-- ---- one cell: maps ------------------------------------------------------------------------------------------------

local Work = {}
Work.__index = Work

local function path_of(study, cell, ending) return files.join(study.dir, "cells", cell.id .. ending) end

local function bytes_of(model)
  local sum = 0
  for _, entry in ipairs(model:state()) do
    local n = entry.tensor.dtype == "float64" and 8 or 4
    for _, side in ipairs(entry.tensor.shape) do n = n * side end
    sum = sum + n
  end
  return sum
end

-- The model with its weights; those used longest ago are closed where all together are too large.
function Work:open(m)
  local model = m:open()
  self.bytes[m] = self.bytes[m] or bytes_of(model)
  for i, other in ipairs(self.opened) do
    if other == m then table.remove(self.opened, i) end
  end
  self.opened[#self.opened + 1] = m
  local sum = 0
  for _, other in ipairs(self.opened) do sum = sum + self.bytes[other] end
  while sum > most_bytes and #self.opened > 1 do
    local oldest = table.remove(self.opened, 1)
    self.scorers[oldest], sum = nil, sum - self.bytes[oldest]
    oldest:close()
  end
  return model
end

-- Items of the block's images and of those that lend their map, with their numbers in the model's split.
local function items_of(cell)
  local list = {}
  for _, group in ipairs { cell.block.images, cell.block.lenders } do
    for _, i in ipairs(group) do
      local number = cell.model.places[i]
      list[#list + 1] = setmetatable({ number = number, image = i }, { __index = cell.model.split:item(number) })
    end
  end
  return list
end

local function plain_target(t)
  local out = {}
  for _, key in ipairs { "kind", "as", "index", "class", "against", "against_index", "logit", "probability",
    "predicted", "confidence" } do
    out[key] = t[key]
  end
  return out
end

local function finished_map(one)
  return { map = one.map, raws = one.raws, status = one.status, problem = one.problem,
    target = plain_target(one.target), seconds = one.seconds,
    forwards = one.forwards, backwards = one.backwards, partials = one.partials }
end

-- Maps of methods that take minutes: one image at a time, each kept until the cell is done.
local function slow_maps(self, cell, job, entry, items)
  local store, out = mapstore.open(path_of(self.study, cell, ".part")), {}
  for i, item in ipairs(items) do
    local record = store:find(entry.set, item.id)
    if record then
      out[i] = { map = store:map(record), raws = store:raws(record) }
      for key, value in pairs(record.made) do out[i][key] = value end
    else
      local one = finished_map(runner.maps_of(job, cell.model.split:batch({ item.number }).x, { item })[entry][1])
      out[i] = one
      local made = {}
      for key, value in pairs(one) do
        if key ~= "map" and key ~= "raws" then made[key] = value end
      end
      store:add({ maps = entry.set, image_id = item.id, status = one.status, made = made }, one.map, one.raws)
    end
    self:alive(cell, string.format(", map %d/%d", i, #items))
  end
  return out
end

local function make_maps(self, cell, model, entry, items)
  local job = require("medxai.explain.job").loose { model = model, split = cell.model.split, entries = { entry },
    budget_bytes = self.budget_bytes, deterministic = true,
    run = { seed = self.study.seed + cell.explainer_seed - 1 } }
  if cell.entry.expensive then return slow_maps(self, cell, job, entry, items) end
  local numbers, out = {}, {}
  for i, item in ipairs(items) do numbers[i] = item.number end
  local x = cell.model.split:batch(numbers).x
  for i, one in ipairs(runner.maps_of(job, x, items)[entry]) do out[i] = finished_map(one) end
  return out
end

-- ---- one cell: the frame -------------------------------------------------------------------------------------------

local empty = { nan = true, failed = true, not_defined = true }
local width_of_row = (frame.side * cells.fine) * (frame.side * cells.fine) + 2 * frame.side * frame.side

-- (H, W) float64 with its sign: layers alike in their largest value, views turned back.
local function signed_map(raws, height, width)
  local sum
  for _, raw in ipairs(raws) do
    local one = map.resize(raw:to { dtype = "float64" }:view { -1, raw:size(-2), raw:size(-1) }, height, width)
    for v, view in ipairs(one:size(0) > 1 and runner.views or {}) do
      if view.flip then one:select(0, v - 1):copy_(one:select(0, v - 1):flip { 1 }) end
    end
    one = one:mean { 0 }
    local top = one:abs():max():item()
    if #raws > 1 and top > 0 then one = one / top end
    sum = sum and sum + one or one
  end
  return sum
end

-- One row of a cell's file of maps: shown (64 x 64), signed, magnitude (16 x 16 each), NaN where there is no map.
local function framed(study, m, i, one)
  local side = frame.side
  if empty[one.status] or not one.map then return torch.full({ width_of_row }, 0 / 0, { dtype = "float32" }) end
  local place, rectangle, h, w = m.split:geometry(m.places[i]), study:shared_rectangle(i), one.map:size(0),
    one.map:size(1)
  local function into(what, n) return frame.into(place, rectangle, h, w, n)(what):flatten() end
  local signed = signed_map(one.raws, h, w)
  return torch.cat({ into(one.map, side * cells.fine), into(signed, side), into(signed:abs(), side) },
    0):to { dtype = "float32" }
end

--- What a cell keeps of each map: reads a cell's file.
---@param study medxai.Study
---@param cell medxai.StudyCell
---@return any tensor (n, 64 * 64 + 2 * 256) float32: shown at 64 x 64, signed and magnitude at 16 x 16, in the shared
---  frame
function cells.maps(study, cell) return torch.load_npy(path_of(study, cell, ".npy")) end

-- ---- one cell: values ----------------------------------------------------------------------------------------------

local function direction_of(m) return m.definition.direction or "higher" end

-- What all rows of an image have in common.
local function image_row(self, cell, i, one, entry)
  local study, m, image = self.study, cell.model, self.study.images[i]
  local classes, t = study.classes, one.target
  local predicted = t and classes[t.predicted + 1]
  return { image_id = image.id, path = image.path, patient = image.patient, source = image.source, model = m.network,
    seed = study.seed,
    method = cell.entry.label, maps = entry and entry.set, layer = entry and table.concat(entry.layers or {}, " "),
    target = cell.entry.checked.description.text, label = image.class, predicted = predicted,
    correct = predicted and tostring(predicted == image.class) or nil, confidence = t and t.confidence,
    run = m.name, network = m.network, train_seed = m.train_seed, input = m.input,
      weights_sha256 = m.weights_sha256,
    explainer_seed = cell.explainer_seed, forwards = one.forwards, backwards = one.backwards }
end

local function add_rows(self, cell, out, base, control, results)
  for k, m in ipairs(self.asked.metric_entries) do
    for v, id in ipairs(m.ids) do
      local result = results and results[k][v] or { value = 0 / 0, chance = 0 / 0, why = control.why }
      local row = setmetatable({ metric = id, value = result.value, chance = result.chance, undefined = result.why,
        status = control.status,
        unit = metric.unit(m, cell.entry.checked.description.as), control = control.name, control_of = control.of,
          direction = direction_of(m),
        mask_sha256 = control.masks and control.masks[k] }, { __index = base })
      for _, key in ipairs { "value", "chance" } do
        if row[key] ~= row[key] then row[key] = false end
      end
      out[#out + 1] = row
    end
  end
end

-- The same map once more with the metrics' own draws under another seed: how far a score is chance of its metric.
local function add_noise(self, cell, job, out, base, own, masks, i)
  local run = setmetatable({ seed = self.study.seed + 1 }, { __index = self.study.run })
  local again = setmetatable({ run = run, again = false }, { __index = job })
  local subject <close> = contexts.subject(again, cell.model.places[i])
  local record = { target = own.target, status = own.status, image_id = base.image_id, raws = own.raws,
    path = base.path }
  add_rows(self, cell, out, base, { name = "noise", status = own.status, masks = masks },
    judge.values(again, subject, own.map, record, job.entry))
end

local function judged(self, cell, job, items, maps)
  local by_image, out, study = {}, {}, self.study
  for k, item in ipairs(items) do by_image[item.image] = maps[k] end
  for _, i in ipairs(cell.block.images) do
    local subject <close> = contexts.subject(job, cell.model.places[i])
    local own, masks = by_image[i], {}
    for k, m in ipairs(job.metric_entries) do masks[k] = judge.masks_of(job, subject.number, m) or false end
    local function values(one, entry)
      local record = { target = own.target, status = one.status, image_id = study.images[i].id, raws = one.raws,
        path = study.images[i].path, derivative = job.entry.method.derivative }
      return judge.values(job, subject, one.map, record, entry)
    end
    local base = image_row(self, cell, i, own, job.entry)
    add_rows(self, cell, out, base, { name = "none", status = own.status, masks = masks }, values(own, job.entry))
    for _, k in ipairs(cell.block.donors[i]) do
      local other = by_image[k]
      local control = { name = "swap", of = study.images[k].id, status = other.status, masks = masks }
      add_rows(self, cell, out, base, control, values(other))
    end
    if self.asked.noise then add_noise(self, cell, job, out, base, own, masks, i) end
    if self.swaps > 0 and #cell.block.donors[i] == 0 then
      add_rows(self, cell, out, base, { name = "swap", status = own.status, why = "no other patient of this class" })
    end
    self:alive(cell, "")
    if host.interrupted() then error("interrupted", 0) end
  end
  return out
end

-- A row as text: an absent number is an empty field.
local function text_of(list)
  local lines = {}
  for i, row in ipairs(list) do
    lines[i] = rows.line(setmetatable({}, { __index = function(_, key)
      local value = row[key]
      if value == false then return nil end
      return value
    end }))
  end
  return table.concat(lines)
end

function Work:job_of(cell, model, asked)
  local m, study = cell.model, self.study
  self.scorers[m] = self.scorers[m] or require("medxai.perturb.scorer").new(model, { deterministic = true })
  return { model = model, split = m.split, run = study.run, metric_entries = asked.metric_entries, metric_seconds = {},
    deterministic = true,
    budget_bytes = self.budget_bytes, scorer = self.scorers[m], weights = m.weights_sha256, entry = asked.entries[1],
    store = { raws = function(_, record) return record.raws or {} end } }
end

local function sum_of(list, key)
  local sum = 0
  for _, one in ipairs(list) do sum = sum + (one[key] or 0) end
  return sum
end

-- Makes, judges and writes a cell; its state is returned.
local function compute(self, cell)
  local began = host.now()
  local scope <close> = core.memory.scope() -- luacheck: ignore
  local model = self:open(cell.model)
  local asked = self.asked.of(cell.entry, cell.model, model)
  local entry, items = asked.entries[1], items_of(cell)
  entry.set = entry.method.name .. "-" .. cell.id:sub(1, 8)
  local maps = make_maps(self, cell, model, entry, items)
  local made, job = host.now(), self:job_of(cell, model, asked)
  local before = job.scorer.forwards
  local list, frames, failed = judged(self, cell, job, items, maps), {}, nil
  for k, i in ipairs(cell.block.images) do
    frames[k] = framed(self.study, cell.model, i, maps[k])
    failed = failed or maps[k].status == "failed" and maps[k].problem or nil
  end
  torch.save_npy(path_of(self.study, cell, ".npy"), torch.stack(frames, 0))
  files.write(path_of(self.study, cell, ".csv"), text_of(list))
  return { status = failed and "failed" or "finished", problem = failed, images = #cell.block.images,
    map_seconds = made - began,
    seconds = host.now() - began, forwards = sum_of(maps, "forwards"), backwards = sum_of(maps, "backwards"),
    metric_forwards = job.scorer.forwards - before }
end

--- What a cell costs, tried on its first images, of which nothing is kept but the shared perturbations: seconds of one
--- map of a batch, and, where asked for, of judging one map that was judged before.
---@param cell medxai.StudyCell
---@param with_judge boolean
---@return table { map, judge } a map that cannot be made costs what the attempt took
function Work:trial(cell, with_judge)
  local scope <close> = core.memory.scope() -- luacheck: ignore
  local model, out, maps = self:open(cell.model), {}, nil
  local entry = self.asked.of(cell.entry, cell.model, model).entries[1]
  entry.set = "trial"
  local function of(n)
    local block = { images = table.move(cell.block.images, 1, n, 1, {}), lenders = {}, donors = {} }
    for _, i in ipairs(block.images) do block.donors[i] = {} end
    return setmetatable({ block = block }, { __index = cell })
  end
  local some = of(math.min(chunks.fixed, #cell.block.images))
  local items, began = items_of(some), host.now()
  local ok = pcall(function() maps = make_maps(self, some, model, entry, items) end)
  if host.interrupted() then error("interrupted", 0) end
  out.map = (host.now() - began) / #items
  for _ = 1, ok and with_judge and 2 or 0 do
    local job = self:job_of(cell, model, self.asked.of(cell.entry, cell.model, model))
    began = host.now()
    pcall(judged, self, of(1), job, items, maps)
    out.judge = (host.now() - began) / (self.asked.noise and 2 or 1)
  end
  return out
end

-- The rows of a cell that could not be made at all.
local function write_failed(self, cell, problem)
  local out = {}
  for _, i in ipairs(cell.block.images) do
    local base = image_row(self, cell, i, {})
    add_rows(self, cell, out, base, { name = "none", status = "failed", why = "failed" })
    if self.swaps > 0 then add_rows(self, cell, out, base, { name = "swap", status = "failed", why = "failed" }) end
    if self.asked.noise then add_rows(self, cell, out, base, { name = "noise", status = "failed", why = "failed" }) end
  end
  local n = #cell.block.images
  local scope <close> = core.memory.scope() -- luacheck: ignore
  torch.save_npy(path_of(self.study, cell, ".npy"), torch.full({ n, width_of_row }, 0 / 0, { dtype = "float32" }))
  files.write(path_of(self.study, cell, ".csv"), text_of(out))
  return { status = "failed", problem = problem, images = n }
end

-- ---- all cells -----------------------------------------------------------------------------------------------------

--- A cell's state: { status = "finished" | "failed", problem, seconds ... }, nil while it is not done.
function cells.state(study, cell)
  if cell.state then return cell.state end
  local state = files.read_data(path_of(study, cell, ".json"))
  if not state or state.id ~= cell.id or not files.exists(path_of(study, cell, ".csv"))
    or not files.exists(path_of(study, cell, ".npy")) then return nil end
  cell.state = state
  return state
end

function Work:done(cell)
  local state = cells.state(self.study, cell)
  return state ~= nil and not (state.status == "failed" and self.again[cell.id])
end

function Work:alive(cell, more)
  self.study.run:heartbeat(string.format("compare cell %d/%d%s", cell.number, self.count, more), true)
end

-- A failure is the cell's own: its text stays with it and in the tables, and the study goes on.
function Work:attempt(cell)
  local began = host.now()
  self:open(cell.model) -- a model that was trained again ends the study: that is no failure of the cell
  local ok, state = pcall(compute, self, cell)
  if not ok then
    if host.interrupted() then error("interrupted", 0) end
    local problem = check.words_of(state)
    check.warn("compare", "%s of %s failed on a block of %d images: %s", cell.entry.label, cell.model.name,
      #cell.block.images, problem)
    state = write_failed(self, cell, problem)
    state.seconds = host.now() - began
  end
  state.id, state.run, state.method, state.explainer_seed = cell.id, cell.model.name, cell.entry.label,
    cell.explainer_seed
  state.host = (files.read "/proc/sys/kernel/hostname" or "unknown"):match "%S+"
  cell.state, self.made[cell.id], self.again[cell.id] = state, true, nil
  files.write_data(path_of(self.study, cell, ".json"), state)
  files.remove_all(path_of(self.study, cell, ".part"))
  if self.on_cell then self.on_cell(cell) end
end

--- Cells in their order of work, those of one network and block together: they share the scores of the perturbed
--- images, which a process computes once.
---@param list medxai.StudyCell[]
---@return medxai.StudyCell[][]
function cells.groups(list)
  local groups, last = {}, nil
  for _, cell in ipairs(list) do
    local o = cell.order
    local key = table.concat({ o[1], o[2], o[3] }, " ")
    if key ~= last then groups[#groups + 1], last = {}, key end
    table.insert(groups[#groups], cell)
  end
  return groups
end

-- Makes the cell unless it is done or another process works on it. Returns whether it is done now, and by this one.
function Work:try(cell)
  if host.interrupted() then error("interrupted", 0) end
  if self:done(cell) then return true, false end
  local lock <close> = self.study.run.leases:take("study-" .. cell.id)
  if not lock then return false, false end
  if self:done(cell) then return true, false end -- another process has ended it meanwhile
  self:attempt(cell)
  self.bar:add(1)
  return true, true
end

-- A group as a whole, unless another process has it. Returns whether all of it is done, and whether any was made here.
function Work:take(group)
  local all, made = true, false
  for _, cell in ipairs(group) do all = all and self:done(cell) end
  if all then return true, false end
  local lock <close> = self.study.run.leases:take("study-" .. group[1].id .. "-group")
  if not lock then return false, false end
  all = true
  for _, cell in ipairs(group) do
    local done, own = self:try(cell)
    all, made = all and done, made or own
  end
  return all, made
end

-- Works on every cell of the list that is not done, with other processes that share the folder: each takes whole
-- groups, and helps with those of others when none is free.
function Work:round(list)
  local groups, open, pause = cells.groups(list), true, nil
  while open do
    local worked = false
    open = false
    for _, group in ipairs(groups) do
      local all, made = self:take(group)
      open, worked = open or not all, worked or made
    end
    for _, cell in ipairs(open and not worked and list or {}) do
      local _, made = self:try(cell)
      worked = made
      if made then break end
    end
    if open and not worked then
      self.study.run:heartbeat("compare: waiting for another process", true)
      pause = pause or self.study.run.leases:pauses(longest_pause_s)
      pause()
    else
      pause = nil
    end
  end
end

--- Prepares this process' work on cells. asked.of(entry, study model, model) gives the checked call of run:explain for
--- one entry on one model.
---@param study medxai.Study
---@param asked table entries, metric_entries, of
---@param list medxai.StudyCell[] of cells.plan
---@return table work run(list, on_cell), close()
function cells.work(study, asked, list)
  files.mkdir(files.join(study.dir, "cells"))
  local self = setmetatable({ study = study, asked = asked, count = #list, opened = {}, bytes = {}, scorers = {},
    again = {}, made = {}, budget_bytes = 1 << 30,
    swaps = #study.controls > 0 and study.swaps or 0 }, Work)
  for _, cell in ipairs(list) do
    local state = cells.state(study, cell)
    if state and state.status == "failed" then self.again[cell.id], cell.state = true, nil end
  end
  return self
end

--- Does what is left of the list.
---@param list medxai.StudyCell[]
---@param on_cell? fun(cell: medxai.StudyCell) after each cell of this process
---@param left? fun(): number seconds that are left
function Work:run(list, on_cell, left)
  self.on_cell = on_cell
  local bar <close> = Progress.new("compare", #list, left and { left = left } or nil)
  for _, cell in ipairs(list) do bar.count = bar.count + (self:done(cell) and 1 or 0) end
  self.bar = bar
  bar:add(0)
  self:round(list)
end

function Work:close()
  for _, m in ipairs(self.opened) do m:close() end
  self.opened, self.scorers = {}, {}
end

-- ---- what is left of all -------------------------------------------------------------------------------------------

-- In the order of models, methods, seeds, blocks.
local function in_place(list)
  local sorted = table.move(list, 1, #list, 1, {})
  table.sort(sorted, function(x, y)
    for i = 1, 4 do
      if x.place[i] ~= y.place[i] then return x.place[i] < y.place[i] end
    end
    return false
  end)
  return sorted
end

--- Writes study/scores.csv and study/cells.jsonl of cells that are done.
---@param study medxai.Study
---@param list medxai.StudyCell[]
function cells.gather(study, list)
  local parts, lines = { rows.header() }, {}
  for _, cell in ipairs(in_place(list)) do
    parts[#parts + 1] = files.read(path_of(study, cell, ".csv"))
    local s = cells.state(study, cell)
    lines[#lines + 1] = canon.write { id = cell.id, run = cell.model.name, method = cell.entry.label,
      explainer_seed = cell.explainer_seed, state = s.status,
      problem = s.problem, host = s.host, seconds = s.seconds, map_seconds = s.map_seconds, images = s.images,
        forwards = s.forwards,
      backwards = s.backwards, metric_forwards = s.metric_forwards } .. "\n"
  end
  files.write(files.join(study.dir, "scores.csv"), table.concat(parts))
  files.write(files.join(study.dir, "cells.jsonl"), table.concat(lines))
end

--- Removes what dead processes have left, once no cell is left to claim.
function cells.tidy(study) files.tidy(files.join(study.dir, "cells")) end

cells.in_place = in_place

return cells
