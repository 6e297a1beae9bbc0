-- The work of a grid search: families of cells that share a trajectory, claimed by one process each (run/lease.lua),
-- their epochs trained once as far as the cells agree, checkpoints named by what they are the state of, failures kept
-- with their text. After epoch e a trajectory is identified by its family and the learning rates of epochs 1..e: two
-- cells that agree in those are the same training so far. A dead process leaves whole files and a claim that others
-- take over. A cell's result is the file done/<cell>.json, written once: the first one counts. The folder is listed,
-- each file in it read at most once by a process. Every other file has one writer at a time; grid.jsonl and times.csv
-- are made at the end. It refuses cell folders with foreign content.
local canon = require "medxai.base.json"
local check = require "medxai.base.check"
local trajectory = require "medxai.train.families"
local files = require "medxai.base.files"
local host = require "medxai.host"
local prefix = require "medxai.train.feature_cache"
local Progress = require "medxai.base.progress"
local Trainer = require "medxai.train.trainer"
local training = require "medxai.train.options"
local work = require "medxai.nn.macs"

local grid_work = {}

local longest_pause_s = 30.0

-- ---- what is on disk ------------------------------------------------------------------------------------------------

---@class medxai.GridWork one process' share in a search
local Work = {}
Work.__index = Work

local function result_path(cell) return cell.done .. ".json" end
local function failure_path(cell, n) return cell.done .. ".failed-" .. n .. ".json" end

-- The texts of a cell's failures so far, the first one first.
local function failures_of(cell)
  local list = {}
  repeat
    local failure = files.read_data(failure_path(cell, #list + 1))
    list[#list + 1] = failure
  until not failure
  return list
end

--- A cell's result: { status = "finished" | "diverged" | "failed" | "halted", history = its epochs, ... }, nil while it
--- is under way. Of several failures the last one.
function grid_work.result(cell)
  cell.result = cell.result or files.read_data(result_path(cell))
  if cell.result then return cell.result end
  local failures = failures_of(cell)
  return failures[#failures]
end

--- The epochs of a cell so far.
function grid_work.history(cell)
  return cell.result and cell.result.history or files.records(files.join(cell.dir, "metrics.jsonl"))
end

local function checkpoint_path(family, state) return files.join(family.dir, state .. ".pt") end

-- The state within the epoch that ends with `state`.
local function part_path(family, state) return files.join(family.dir, state .. ".part.pt") end

-- The last epoch up to `most` whose state is on disk, 0 where there is none.
local function last_state(cell, most)
  for epoch = math.min(most, #cell.states), 1, -1 do
    if files.exists(checkpoint_path(cell.family, cell.states[epoch])) then return epoch end
  end
  return 0
end

-- Lists what is done: which cells have a result, and how often each has failed. Those that were not known as done
-- before are returned.
function Work:look()
  local new = {}
  for _, name in ipairs(files.list(files.join(self.run.dir, "done"))) do
    local id, n = name:match "^(%x+)%.failed%-(%d+)%.json$"
    if id then self.failures[id] = math.max(self.failures[id] or 0, tonumber(n))
    else
      local cell = self.by_id[name:match "^(%x+)%.json$" or ""]
      if cell and not self.done[cell.id] then
        self.done[cell.id], new[#new + 1] = true, cell
      end
    end
  end
  return new
end

-- Failures since this process began: earlier ones are tried again.
function Work:attempts(cell) return (self.failures[cell.id] or 0) - (self.failed_before[cell.id] or 0) end

-- True where nothing is left to do for a cell on the way to `target` epochs.
function Work:reached(cell, target)
  if self.done[cell.id] or self:attempts(cell) > self.own.retries then return true end
  if target >= cell.options.epochs then return false end
  return #grid_work.history(cell) >= target and last_state(cell, target) >= target
end

-- Makes a cell's folder, or makes sure that it is this cell's.
local function open_folder(cell)
  local path = files.join(cell.dir, "cell.json")
  files.tidy(cell.dir)
  local stored = files.read_data(path)
  if stored and stored.key == cell.key then return end
  for _, name in ipairs(files.list(cell.dir)) do
    if name ~= "." and name ~= ".." and not name:find "^%..+%.tmp%-" then
      check.fail("grid", "'%s' holds other files (%s) and not this cell. Move it away.", cell.dir, name)
    end
  end
  files.write_data(path, { key = cell.key, values = cell.values, fields = cell.fields })
end

local function write_history(cell, history)
  local lines = {}
  for i, record in ipairs(history) do lines[i] = canon.write(record) .. "\n" end
  files.write(files.join(cell.dir, "metrics.jsonl"), table.concat(lines))
end

-- Removes the state after `epoch` unless a cell that is not finished begins there.
function Work:drop_state(cell, epoch)
  if epoch < 1 then return end
  for _, other in ipairs(cell.family.cells) do
    if other ~= cell and trajectory.common(cell, other) == epoch and not self.done[other.id] then return end
  end
  files.remove(checkpoint_path(cell.family, cell.states[epoch]))
end

-- ---- one cell -------------------------------------------------------------------------------------------------------

-- The model that a family trains one cell after the other with, as at the start where that is asked for.
function Work:model_for(cell, from_start)
  local family = cell.family
  if family.model and (not from_start or not family.dirty) then return family.model end
  family.model = (family.model or family.first.model):reset()
  family.dirty = false
  family.prefix, family.how = nil, "cache = false"
  if self.own.cache then
    family.prefix, family.how = prefix.open(family.model, cell.data, self.run,
      { cache_mb = self.own.cache_mb, cache_file_mb = self.own.cache_file_mb, leases = self.run.leases,
      folder = files.join(self.run.dir, "cache"), batch = cell.options.batch, precision = cell.options.precision })
  end
  return family.model
end

-- What a result says of a cell's work and of what it shared; the same whatever was done in which order.
local function cost_of(cell, model)
  local shared = 0
  for _, other in ipairs(cell.family.cells) do
    if other.number < cell.number then shared = math.max(shared, trajectory.common(cell, other)) end
  end
  local cut, why = prefix.cut(model)
  return { multiply_adds = work.training_step(model) * cell.data.train.n * cell.options.epochs, shared_epochs = shared,
    frozen_part = cut and table.concat(cut.names, ", ") or "none: " .. why }
end

function Work:finish_cell(cell, trainer)
  local answers, best = trainer:take_best_weights(), trainer.best
  cell.family.dirty = true
  local scope <close> = require("medxai.core").memory.scope()
  local tensors = {}
  for _, entry in ipairs(best.weights) do tensors[entry.name] = entry.tensor end
  require("medxai.nn.checkpoint").save_checkpoint(files.join(cell.dir, "best.pt"),
    { format = "medxai.cell", version = 1, key = cell.key, tensors = tensors })
  local result = cost_of(cell, trainer.model)
  result.status, result.epochs_run, result.best_epoch, result.value = "finished", trainer.epoch, best.epoch, best.value
  result.val_accuracy, result.val_loss = best.accuracy, best.loss
  result.val_balanced_accuracy, result.val_macro_f1 = answers.balanced_accuracy
    or trainer.history[best.epoch].val_balanced_accuracy, answers.macro_f1 or trainer.history[best.epoch].val_macro_f1
  result.weights_sha256, result.cache, result.history = trainer.model:sha256(), cell.family.how, trainer.history
  self:record(cell, result)
end

-- Everything of a result but where its frozen part was cached, which depends on the machine.
local function bits_of(result)
  local copy = {}
  for k, v in pairs(result) do copy[k] = v end
  copy.cache = nil
  return canon.write(copy)
end

-- Writes a cell's result. A claim that was taken over while its process slept may end in two: the first one counts, and
-- the second must be the same.
function Work:record(cell, result)
  if result.status == "failed" then
    local n = self.failures[cell.id] or 0
    repeat n = n + 1 until files.first(failure_path(cell, n), canon.write(result, "  ") .. "\n")
    self.failures[cell.id] = n
    return
  end
  result.history = result.history and canon.list(result.history)
  local is_first = files.first(result_path(cell), canon.write(result, "  ") .. "\n")
  self.done[cell.id] = true
  cell.result = files.read_data(result_path(cell))
  if not is_first and bits_of(cell.result) ~= bits_of(result) then
    check.warn("grid", "cell %d (%s) was trained twice, and the results differ: '%s' counts.", cell.number,
      grid_work.text(cell.values), result_path(cell))
  end
  self:count_epochs(cell, #cell.states)
  if result.status == "finished" then self:drop_worse_weights(cell) end
end

--- Makes grid.jsonl, a line for each failure and each result in the order of cells, and puts the epochs' times into
--- times.csv: for the one process that ends the search.
---@param run medxai.Run
---@param cells medxai.Cell[]
function grid_work.merge_logs(run, cells)
  local lines, numbers, families = {}, {}, {}
  for _, cell in ipairs(cells) do
    numbers[cell.id], families[cell.family.id] = cell.number, true
    local list = failures_of(cell)
    list[#list + 1] = files.exists(result_path(cell)) and grid_work.result(cell) or nil
    for _, result in ipairs(list) do
      lines[#lines + 1] = canon.write { cell = cell.id, values = cell.values, status = result.status,
        value = result.value, val_loss = result.val_loss, problem = result.problem } .. "\n"
    end
  end
  files.write(files.join(run.dir, "grid.jsonl"), table.concat(lines))
  run:merge_times(function(row)
    local number = row.step == "grid" and numbers[row.name]
    return number and number * 1e6 + (tonumber(row.epoch) or 0) or 0
  end)
  run.leases:clear(function(name) return families[name] or name:find "^cache%-" end)
  run.leases:tidy()
end

--- Whether result a of cell i beats result b of cell j: the better value, then the lower loss, then the earlier cell.
function grid_work.beats(a, i, b, j, measure)
  if a.value ~= b.value then
    if Trainer.measures[measure] then return a.value > b.value end
    return a.value < b.value
  end
  if a.val_loss ~= b.val_loss then return a.val_loss < b.val_loss end
  return i.number < j.number
end

-- best.pt of cells that cannot win any more: of those that this process knows. The report removes the rest.
function Work:drop_worse_weights(cell)
  if self.own.keep_weights == "all" then return end
  local best = self.best
  if best and not grid_work.beats(cell.result, cell, best.result, best, cell.options.best_by) then best, cell = cell,
      best end
  if best then files.remove(files.join(best.dir, "best.pt")) end
  self.best = cell
end

function Work:new_trainer(cell, from_start)
  local trainer = Trainer.new { model = self:model_for(cell, from_start), data = cell.data, options = cell.options,
    seed = cell.seed, key = cell.key, prefix = cell.family.prefix, alive = function() self:alive(cell) end,
    save_part = function(trainer)
      local state = cell.states[trainer.epoch]
      if self.held:is_mine() then trainer:save(part_path(cell.family, state), state) end
    end }
  cell.family.dirty = true
  return trainer
end

-- Takes up the latest state that the cell shares with what was trained, or begins.
function Work:open_trainer(cell, target)
  local start = last_state(cell, target)
  local trainer = self:new_trainer(cell, start == 0)
  local function take_up(path, state)
    local ok, problem = pcall(trainer.restore, trainer, path, state, true)
    if ok and problem then return true end
    if host.interrupted() then error("interrupted", 0) end
    check.warn("grid", "the checkpoint '%s' cannot be used (%s): trained again from an earlier one.", path,
      ok and "it is another training's" or tostring(problem))
    files.remove(path)
  end
  local next_state = start < target and cell.states[start + 1]
  local part = next_state and part_path(cell.family, next_state)
  if part and files.exists(part) and take_up(part, next_state) then return trainer end
  while start > 0 do
    if take_up(checkpoint_path(cell.family, cell.states[start]), cell.states[start]) then return trainer end
    start = last_state(cell, start - 1)
  end
  trainer:close()
  trainer = self:new_trainer(cell, true)
  trainer.torch.manual_seed(cell.seed)
  return trainer
end

-- A cell that has the same beginning as one whose loss was not finite there has the same end.
function Work:same_end(cell)
  for _, other in ipairs(cell.family.cells) do
    local result = other ~= cell and self.done[other.id] and grid_work.result(other)
    if result and result.status == "diverged" and trajectory.common(cell, other) >= result.epoch then
      self:record(cell, { status = "diverged", epoch = result.epoch, problem = result.problem })
      return true
    end
  end
end

-- Trains a cell up to `target` epochs.
function Work:advance(cell, target)
  open_folder(cell)
  if self:same_end(cell) then return end
  local trainer <close> = self:open_trainer(cell, target)
  self.trainer = trainer
  local bar <close> = Progress.new(string.format("cell %d/%d (%s)", cell.number, #self.cells,
    grid_work.text(cell.values)), target)
  bar.count = trainer.epoch
  bar:add(0)
  local told = #grid_work.history(cell) -- epochs that an earlier start of this cell has told
  trainer:after_epoch()
  if #trainer.history > 0 then write_history(cell, trainer.history) end
  local log = require("medxai.run.tensorboard").open(files.join(cell.dir, "events"), math.min(told, trainer.epoch))
  for epoch = math.min(told, trainer.epoch) + 1, trainer.epoch do log:epoch(trainer.history[epoch]) end
  local signals <close> = Trainer.hold_signals() -- luacheck: ignore (held, not read)
  while trainer.epoch < target and not trainer:finished() do
    local record, cost = trainer:run_epoch()
    if not self:still_mine(cell) then return end
    if not (self.run.smoke and trainer:finished()) then
      trainer:save(checkpoint_path(cell.family, cell.states[trainer.epoch]), cell.states[trainer.epoch])
    end
    trainer:after_epoch()
    files.remove(part_path(cell.family, cell.states[trainer.epoch]))
    self:drop_state(cell, trainer.epoch - 1)
    log:epoch(record) -- before the history: what was told here and not there is dropped and told again
    write_history(cell, trainer.history)
    bar:add(1)
    self:epoch_done(cell, record, cost, trainer)
    Trainer.let_signals()
  end
  if trainer:finished() then
    self:finish_cell(cell, trainer)
    self:drop_state(cell, trainer.epoch)
  end
end

-- Another process has taken the family over because this one stood still for long: nothing more is written into it.
function Work:still_mine(cell)
  if self.held:is_mine() then return true end
  check.warn("grid", "cell %d (%s) was taken over by another process, because this one stood still.", cell.number,
    grid_work.text(cell.values))
  self.is_lost = true
  return false
end

-- A failure is the cell's own: its text stays in its folder and in the table, and the search goes on or stops as it is
-- told.
function Work:attempt(cell, target)
  self.trainer = nil
  local ok, problem = pcall(self.advance, self, cell, target)
  if ok then return end
  if host.interrupted() then error("interrupted", 0) end
  local diverged = self.trainer and self.trainer.diverged
  if cell.family.model then cell.family.model:close() end
  cell.family.model = nil
  if not self:still_mine(cell) then return end -- what failed is that others have gone on, and have tidied up
  files.write(files.join(cell.dir, "failure.txt"), tostring(problem) .. "\n")
  self:record(cell, { status = diverged and "diverged" or "failed", epoch = diverged and self.trainer.epoch or nil,
    problem = tostring(problem) })
  check.warn("grid", "cell %d (%s) %s: %s", cell.number, grid_work.text(cell.values),
    diverged and "diverged" or "failed", tostring(problem))
  if self.own.on_fail == "stop" then error(problem, 0) end
end

--- "lr = 0.01, train_depth = 2" in the order of names.
function grid_work.text(values)
  local words = {}
  for _, name in ipairs(check.sorted_keys(values)) do
    words[#words + 1] = name .. " = " .. (type(values[name]) == "number" and string.format("%.6g", values[name])
      or tostring(values[name]))
  end
  return table.concat(words, ", ")
end

-- ---- progress -------------------------------------------------------------------------------------------------------

function Work:alive(cell)
  self.run:heartbeat(string.format("grid cell %d/%d", cell.number, #self.cells), true)
end

local function class_of(cell) return tostring(cell.config.train_depth) .. " " .. tostring(cell.config.hidden) end

-- Epochs of the search that differ from all others: how many of each kind are left.
function Work:plan_epochs()
  self.left_of, self.trained = {}, {}
  local known = {}
  for _, cell in ipairs(self.cells) do
    local class = class_of(cell)
    for _, state in ipairs(cell.states) do
      if not known[state] then known[state], self.left_of[class] = true, (self.left_of[class] or 0) + 1 end
    end
  end
end

-- Notes that a cell's first epochs are trained, by whomever.
function Work:count_epochs(cell, epochs)
  local class = class_of(cell)
  for epoch = 1, math.min(epochs, #cell.states) do
    local state = cell.states[epoch]
    if not self.trained[state] then
      self.trained[state] = true
      self.left_of[class] = self.left_of[class] - 1
      if self.bar then self.bar.count = math.min(self.bar.count + 1, self.bar.total or math.huge) end
    end
  end
end

-- Epochs that differ from all others, up to each cell's target; and those that are trained already.
function Work:epochs_of_round(target_of)
  local all, total, ready = {}, 0, 0
  for _, cell in ipairs(self.cells) do
    for epoch = 1, math.min(target_of(cell), #cell.states) do
      local state = cell.states[epoch]
      if not all[state] then
        all[state], total = true, total + 1
        if self.trained[state] then ready = ready + 1 end
      end
    end
  end
  return total, ready
end

-- Seconds that the rest of the search takes, from the epochs measured so far: its own kind's mean, else the mean of
-- all.
function Work:left()
  local sum, count, total = 0.0, 0, 0.0
  for _, class in ipairs(check.sorted_keys(self.seconds)) do
    sum, count = sum + self.seconds[class].sum, count + self.seconds[class].n
  end
  if count == 0 then return math.huge end
  for _, class in ipairs(check.sorted_keys(self.left_of)) do
    local own = self.seconds[class]
    total = total + self.left_of[class] * (own and own.sum / own.n or sum / count)
  end
  return total
end

function Work:epoch_done(cell, record, cost, trainer)
  local class = class_of(cell)
  local own = self.seconds[class] or { sum = 0.0, n = 0 }
  own.sum, own.n = own.sum + cost.seconds, own.n + 1
  self.seconds[class] = own
  self:count_epochs(cell, record.epoch)
  self.run:own_time("grid", cell.id, cost.seconds,
    { epoch = record.epoch, images_per_second = cost.images_per_second, wait_share = cost.wait_share,
      peak_mb = cost.peak_mb })
  local left = self:left()
  self.bar:add(0, function() return "left " .. Progress.duration(left) end)
  Progress.say("cell %d/%d (%s)  %s  search left %s", cell.number, #self.cells, grid_work.text(cell.values),
    trainer:line(record, cost), Progress.duration(left))
end

-- Seconds of the epochs that earlier starts of this search have measured.
local function measured(run, cells)
  local by_id, seconds = {}, {}
  for _, cell in ipairs(cells) do by_id[cell.id] = cell end
  for _, row in ipairs((run:times())) do
    local cell = row.step == "grid" and by_id[row.name]
    if cell and tonumber(row.seconds) then
      local own = seconds[class_of(cell)] or { sum = 0.0, n = 0 }
      own.sum, own.n = own.sum + tonumber(row.seconds), own.n + 1
      seconds[class_of(cell)] = own
    end
  end
  return seconds
end

-- ---- families -------------------------------------------------------------------------------------------------------

function Work:family_done(family, target_of)
  for _, cell in ipairs(family.cells) do
    if not self:reached(cell, target_of(cell)) then return false end
  end
  return true
end

-- Works on a family whose claim is held.
function Work:run_family(family, target_of)
  local mode <close> = training.deterministic(family.first.options.deterministic)
  for _, cell in ipairs(family.cells) do
    while not self.is_lost and not self:reached(cell, target_of(cell)) do self:attempt(cell, target_of(cell)) end
  end
  if family.model then family.model:reset() end
  family.model, family.prefix = nil, nil
  local over = not self.is_lost
  for _, cell in ipairs(family.cells) do over = over and self.done[cell.id] end
  if over then files.remove_all(family.dir) end
end

-- Looks at what others have done meanwhile.
function Work:catch_up()
  for _, cell in ipairs(self:look()) do self:count_epochs(cell, #cell.states) end
end

-- Works on a family if no other process does. Returns "done", "worked" or "taken".
function Work:try(family, target_of)
  if self:family_done(family, target_of) then return "done" end
  local held <close> = self.run.leases:take(family.id)
  if not held then return "taken" end
  self:catch_up() -- its last owner may have ended it
  self.held, self.is_lost = held, false
  self:run_family(family, target_of)
  return self.is_lost and "taken" or "worked"
end

-- Where in the list of families this process begins: the one that began the search at its start, so that families with
-- the same frozen part follow one another; others elsewhere, so that hardly any two meet.
local function place_of(run, n)
  if not run.joined then return 0 end
  local task, count = tonumber(os.getenv "SLURM_ARRAY_TASK_ID"), tonumber(os.getenv "SLURM_ARRAY_TASK_COUNT")
  if task and count then return math.floor(task * n / count) % n end
  return tonumber(run.leases.worker:sub(-6), 16) % n
end

-- Every family up to the targets, by this process and by others that share the folder.
function Work:round(families, target_of)
  local total, ready = self:epochs_of_round(target_of)
  local bar <close> = Progress.new("search", total)
  bar.count, self.bar = ready, bar
  bar:add(0)
  local n, pause = #families, nil
  local first = place_of(self.run, n)
  while true do
    local open, worked = false, false
    self:catch_up()
    for k = 0, n - 1 do
      local how = self:try(families[(first + k) % n + 1], target_of)
      open, worked = open or how == "taken", worked or how == "worked"
    end
    if not open then break end
    pause = not worked and pause or self.run.leases:pauses(longest_pause_s)
    if not worked then
      self.run:heartbeat("grid: waiting for another process", true)
      pause()
    end
  end
  self.bar = nil
end

-- ---- successive halving ---------------------------------------------------------------------------------------------

-- The best value within the first `epochs` of a cell, with the loss of that epoch.
local function score_at(cell, epochs)
  local measure, best = cell.options.best_by, nil
  for _, record in ipairs(grid_work.history(cell)) do
    local one = { value = record["val_" .. measure], val_loss = record.val_loss }
    if record.epoch <= epochs and (not best or grid_work.beats(one, cell, best, cell, measure)
        and one.value ~= best.value) then best = one end
  end
  return best
end

-- Epochs of each rung for a cell of `epochs` in all: epochs / factor^k, at least min_epochs, ascending.
local function rungs_of(search, most)
  local list, e = { most }, most
  while e > search.min_epochs do
    e = math.max(search.min_epochs, math.ceil(e / search.factor))
    table.insert(list, 1, e)
  end
  return list
end

local function halving(self, families)
  local search, most, alive = self.own.search, 0, {}
  for _, cell in ipairs(self.cells) do
    most = math.max(most, cell.options.epochs)
    alive[#alive + 1] = cell
  end
  local rungs = rungs_of(search, most)
  for k, epochs in ipairs(rungs) do
    local in_rung = {}
    for _, cell in ipairs(alive) do in_rung[cell] = true end
    self:round(families, function(cell) return in_rung[cell] and math.min(epochs, cell.options.epochs) or 0 end)
    if k < #rungs then
      local scored = {}
      for _, cell in ipairs(alive) do
        local result = grid_work.result(cell)
        local score = score_at(cell, epochs)
        if score and not (result and (result.status == "diverged" or result.status == "failed")) then
          scored[#scored + 1] = { cell = cell, score = score }
        end
      end
      table.sort(scored, function(a, b)
        return grid_work.beats(a.score, a.cell, b.score, b.cell, a.cell.options.best_by)
      end)
      local keep = math.max(1, math.ceil(#alive / search.factor))
      alive = {}
      for i, one in ipairs(scored) do
        if i <= keep then alive[#alive + 1] = one.cell
        elseif not grid_work.result(one.cell) then
          self:record(one.cell, { status = "halted", epochs_run = math.min(epochs, one.cell.options.epochs),
            value = one.score.value, val_loss = one.score.val_loss })
        end
      end
    end
  end
end

-- What earlier starts have left: results, failures, epochs, the best cell so far.
function Work:begin()
  for _, cell in ipairs(self.cells) do self.by_id[cell.id] = cell end
  self:plan_epochs()
  self:look()
  for id, n in pairs(self.failures) do self.failed_before[id] = n end
  for _, cell in ipairs(self.cells) do
    if self.done[cell.id] and not files.exists(files.join(cell.dir, "cell.json")) then -- its folder was removed: again
      files.remove(result_path(cell))
      self.done[cell.id] = nil
    end
    local result = self.done[cell.id] and grid_work.result(cell)
    self:count_epochs(cell, result and #cell.states or #grid_work.history(cell))
    if result and result.status == "finished" and (not self.best
        or grid_work.beats(result, cell, self.best.result, self.best, cell.options.best_by)) then
      self.best = cell
    end
  end
end

--- Works until every cell of the search is finished, by this process or another.
---@param run medxai.Run
---@param cells medxai.Cell[]
---@param own table the grid's options
function grid_work.all(run, cells, own)
  local families = trajectory.of(run, cells)
  local self = setmetatable({ run = run, cells = cells, own = own, seconds = measured(run, cells), by_id = {},
    done = {}, failures = {}, failed_before = {} }, Work)
  self:begin()
  local freed <close> = setmetatable({}, { __close = function() prefix.release() end }) -- luacheck: ignore
  if own.search.kind == "halving" then halving(self, families)
  else self:round(families, function(cell) return cell.options.epochs end) end
end

return grid_work
