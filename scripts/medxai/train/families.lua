-- Families of a search: cells that share a trajectory. After epoch e a trajectory is identified by its family and the
-- learning rates of epochs 1..e: two cells that agree in those are the same training so far.
local canon = require "medxai.base.json"
local files = require "medxai.base.files"

local families = {}

-- What all cells of a family share: everything but the schedule and the number of epochs. on_epoch may set the learning
-- rate where there is no schedule, and then cells with one are others.
local function family_key(cell)
  local fields = {}
  for k, v in pairs(cell.fields) do
    if k ~= "epochs" and (k ~= "schedule" or cell.fields.on_epoch) then fields[k] = v end
  end
  return canon.hash(fields)
end

-- The learning rate of every epoch, or the schedule's description where it depends on what is measured.
local function rates_of(cell)
  local o, rates = cell.options, {}
  local base = o.optim.options.lr
  local schedule = o.schedule and o.schedule.kind ~= "reduce_lr_on_plateau" and o.schedule:build(base) or nil
  for epoch = 1, o.epochs do
    if schedule then
      rates[epoch] = schedule:lr()
      if o.step_per == "phase" then schedule:step() end
      schedule:step()
    else
      rates[epoch] = o.schedule and canon.write(cell.fields.schedule) or base
    end
  end
  return rates
end

-- hash after epoch e, for every e.
local function trajectories_of(family, rates)
  local list, so_far = {}, family
  for epoch, rate in ipairs(rates) do
    so_far = canon.hash { so_far, rate }
    list[epoch] = so_far:sub(1, 24)
  end
  return list
end

--- How many epochs two cells of a family have in common.
---@return integer
function families.common(a, b)
  local n = 0
  while n < #a.states and a.states[n + 1] == b.states[n + 1] do n = n + 1 end
  return n
end

--- The families of cells in the order in which they are worked on: those with the same frozen part follow one another.
--- Each cell gets family, dir, done (where its result comes) and states: the hash of its trajectory after each epoch.
---@param run medxai.Run
---@param cells table[]
---@return table[] list of { key, id, dir, cells, first }
function families.of(run, cells)
  local by_key, list = {}, {}
  for _, cell in ipairs(cells) do
    local key = family_key(cell)
    cell.states = trajectories_of(key, rates_of(cell))
    cell.dir = files.join(run.dir, "cells", cell.id)
    cell.done = files.join(run.dir, "done", cell.id)
    local family = by_key[key]
    if not family then
      family = { key = key, id = key:sub(1, 16), cells = {}, first = cell }
      family.dir = files.join(run.dir, "families", family.id)
      by_key[key], list[#list + 1] = family, family
    end
    family.cells[#family.cells + 1] = cell
    cell.family = family
  end
  table.sort(list, function(a, b)
    local da, db = tostring(a.first.config.train_depth), tostring(b.first.config.train_depth)
    if da ~= db then return da < db end
    return a.first.number < b.first.number
  end)
  return list
end

return families
