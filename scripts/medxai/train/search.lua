-- The work of a grid search: families of cells that share a trajectory, claimed by one process each, their epochs
-- trained once as far as the cells agree, checkpoints named by what they are the state of, failures kept with their
-- text. A trajectory after epoch e is known by its family and the learning rates of epochs 1..e: two cells that agree
-- in those are the same training so far. A dead process leaves whole files and a lock that the system has given back.
-- It refuses cell folders with foreign content.
local canon = require "medxai.base.json"
local check = require "medxai.base.options"
local csv = require "medxai.base.csv"
local trajectory = require "medxai.train.families"
local files = require "medxai.base.files"
local host = require "medxai.host"
local prefix = require "medxai.train.feature_cache"
local Progress = require "medxai.base.progress"
local Trainer = require "medxai.train.trainer"
local training = require "medxai.train.options"
local work = require "medxai.nn.macs"

local grid_work = {}

local poll_seconds = 0.5

-- ---- what is on disk ------------------------------------------------------------------------------------------------

---@class medxai.GridWork one process' share in a search
local Work = {}
Work.__index = Work

local function result_path(cell) return files.join(cell.dir, "result.json") end

--- A cell's result: { status = "finished" | "diverged" | "failed" | "halted", ... }, nil while it is under way.
function grid_work.result(cell) return files.read_data(result_path(cell)) end

--- The epochs of a cell so far.
function grid_work.history(cell) return files.records(files.join(cell.dir, "metrics.jsonl")) end

local function checkpoint_path(family, state) return files.join(family.dir, state .. ".pt") end

-- The last epoch up to `most` whose state is on disk, 0 where there is none.
local function last_state(cell, most)
  for epoch = math.min(most, #cell.states), 1, -1 do
    if files.exists(checkpoint_path(cell.family, cell.states[epoch])) then return epoch end
  end
  return 0
end

-- True where nothing is left to do for a cell on the way to `target` epochs.
function Work:reached(cell, target)
  local result = grid_work.result(cell)
  if result and result.status ~= "failed" then return true end
  if result and (self.attempts[cell.id] or 0) > self.own.retries then return true end
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
local function drop_state(cell, epoch)
  if epoch < 1 then return end
  for _, other in ipairs(cell.family.cells) do
    if other ~= cell and trajectory.common(cell, other) == epoch then
      local result = grid_work.result(other)
      if not result or result.status == "failed" then return end
    end
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
      { cache_mb = self.own.cache_mb, cache_file_mb = self.own.cache_file_mb,
      folder = files.join(self.run.dir, "cache"), batch = cell.options.batch, precision = cell.options.precision })
  end
  return family.model
end

-- What result.json says of a cell's work and of what it shared; the same whatever was done in which order.
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
  result.weights_sha256, result.cache = trainer.model:sha256(), cell.family.how
  self:record(cell, result)
end

-- Writes a cell's result and tells the search's log, each once.
function Work:record(cell, result)
  files.write_data(result_path(cell), result)
  self:log_once { cell }
  if result.status == "finished" then self:drop_worse_weights() end
end

-- grid.jsonl has one line per cell, also where a process died between the two files: what of these cells' results it
-- lacks.
function Work:log_once(cells)
  local lock <close> = files.wait_lock(files.join(self.run.dir, "grid.lock")) -- luacheck: ignore (held, not read)
  local path, told = files.join(self.run.dir, "grid.jsonl"), {}
  files.repair_lines(path)
  for _, record in ipairs(files.records(path)) do told[record.cell .. " " .. record.status] = true end
  for _, cell in ipairs(cells) do
    local result = grid_work.result(cell)
    if result and not told[cell.id .. " " .. result.status] then
      local line = { cell = cell.id, values = cell.values, status = result.status, value = result.value,
        val_loss = result.val_loss, problem = result.problem }
      files.append_line(path, canon.write(line), true)
    end
  end
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

-- best.pt of cells that cannot win any more.
function Work:drop_worse_weights()
  if self.own.keep_weights == "all" then return end
  local best_cell, best
  for _, cell in ipairs(self.cells) do
    local result = grid_work.result(cell)
    if result and result.status == "finished" then
      if best and not grid_work.beats(result, cell, best, best_cell, cell.options.best_by) then
        files.remove(files.join(cell.dir, "best.pt"))
      else
        if best then files.remove(files.join(best_cell.dir, "best.pt")) end
        best_cell, best = cell, result
      end
    end
  end
end

-- Takes up the latest state that the cell shares with what was trained, or begins.
function Work:open_trainer(cell, target)
  local start = last_state(cell, target)
  local model = self:model_for(cell, start == 0)
  local trainer = Trainer.new { model = model, data = cell.data, options = cell.options, seed = cell.seed,
    key = cell.key, prefix = cell.family.prefix, alive = function() self:alive(cell) end }
  cell.family.dirty = true
  while start > 0 do
    local path = checkpoint_path(cell.family, cell.states[start])
    local ok, problem = pcall(trainer.restore, trainer, path, cell.states[start], true)
    if ok and problem then return trainer end
    if host.interrupted() then error("interrupted", 0) end
    check.warn("grid", "the checkpoint '%s' cannot be used (%s): trained again from an earlier one.", path,
      ok and "it is another training's" or tostring(problem))
    files.remove(path)
    start = last_state(cell, start - 1)
  end
  trainer:close()
  trainer = Trainer.new { model = self:model_for(cell, true), data = cell.data, options = cell.options,
    seed = cell.seed, key = cell.key, prefix = cell.family.prefix, alive = function() self:alive(cell) end }
  cell.family.dirty = true
  trainer.torch.manual_seed(cell.seed)
  return trainer
end

-- A cell that has the same beginning as one whose loss was not finite there has the same end.
function Work:same_end(cell)
  for _, other in ipairs(cell.family.cells) do
    local result = other ~= cell and grid_work.result(other)
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
  while trainer.epoch < target and not trainer:finished() do
    local record, cost = trainer:run_epoch()
    if not (check.smoke() and trainer:finished()) then
      trainer:save(checkpoint_path(cell.family, cell.states[trainer.epoch]), cell.states[trainer.epoch])
    end
    trainer:after_epoch()
    drop_state(cell, trainer.epoch - 1)
    log:epoch(record) -- before the history: what was told here and not there is dropped and told again
    write_history(cell, trainer.history)
    bar:add(1)
    self:epoch_done(cell, record, cost, trainer)
  end
  if trainer:finished() then
    self:finish_cell(cell, trainer)
    drop_state(cell, trainer.epoch)
  end
end

-- A failure is the cell's own: its text stays in its folder and in the table, and the search goes on or stops as it is
-- told.
function Work:attempt(cell, target)
  self.trainer = nil
  local ok, problem = pcall(self.advance, self, cell, target)
  if ok then return end
  if host.interrupted() then error("interrupted", 0) end
  local diverged = self.trainer and self.trainer.diverged
  self.attempts[cell.id] = (self.attempts[cell.id] or 0) + 1
  if cell.family.model then cell.family.model:close() end
  cell.family.model = nil
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
  self.run:heartbeat(string.format("grid cell %d/%d", cell.number, #self.cells))
end

-- Epochs that differ from all others, up to each cell's target; and those that are done already.
local function count_epochs(cells, target_of)
  local all, done, total, ready = {}, {}, 0, 0
  for _, cell in ipairs(cells) do
    local result = grid_work.result(cell)
    local reached = result and result.status ~= "failed" and #cell.states or #grid_work.history(cell)
    for epoch = 1, math.min(target_of(cell), #cell.states) do
      local state = cell.states[epoch]
      if not all[state] then all[state], total = true, total + 1 end
      if epoch <= reached and not done[state] then done[state], ready = true, ready + 1 end
    end
  end
  return total, ready
end

local function class_of(cell) return tostring(cell.config.train_depth) .. " " .. tostring(cell.config.hidden) end

-- Seconds that the rest of the search takes, from the epochs measured so far: its own kind's mean, else the mean of
-- all.
function Work:left()
  local total, n, seen = 0.0, 0, {}
  for _, cell in ipairs(self.cells) do
    local reached = grid_work.result(cell) and #cell.states or #grid_work.history(cell)
    for epoch = 1, reached do seen[cell.states[epoch]] = true end
  end
  local sum, count = 0.0, 0
  for _, seconds in pairs(self.seconds) do sum, count = sum + seconds.sum, count + seconds.n end
  if count == 0 then return math.huge end
  for _, cell in ipairs(self.cells) do
    local own = self.seconds[class_of(cell)]
    for epoch = 1, #cell.states do
      if not seen[cell.states[epoch]] then
        seen[cell.states[epoch]], n = true, n + 1
        total = total + (own and own.sum / own.n or sum / count)
      end
    end
  end
  return total
end

function Work:epoch_done(cell, record, cost, trainer)
  local class = class_of(cell)
  local own = self.seconds[class] or { sum = 0.0, n = 0 }
  own.sum, own.n = own.sum + cost.seconds, own.n + 1
  self.seconds[class] = own
  self.run:time("grid", cell.id, cost.seconds,
    { epoch = record.epoch, images_per_second = cost.images_per_second, wait_share = cost.wait_share,
      peak_mb = cost.peak_mb })
  local left = self:left()
  self.bar:add(1, function() return "left " .. Progress.duration(left) end)
  Progress.say("cell %d/%d (%s)  %s  search left %s", cell.number, #self.cells, grid_work.text(cell.values),
    trainer:line(record, cost), Progress.duration(left))
end

-- Seconds of the epochs that earlier starts of this search have measured.
local function measured(run, cells)
  local by_id, seconds = {}, {}
  for _, cell in ipairs(cells) do by_id[cell.id] = cell end
  for _, row in ipairs(csv.read(files.join(run.dir, "times.csv")) or {}) do
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
    while not self:reached(cell, target_of(cell)) do self:attempt(cell, target_of(cell)) end
  end
  if family.model then family.model:reset() end
  family.model, family.prefix = nil, nil
  local over = true
  for _, cell in ipairs(family.cells) do
    local result = grid_work.result(cell)
    over = over and result ~= nil and result.status ~= "failed"
  end
  if over then files.remove_all(family.dir) end
end

-- The claim of a family: a lock, which the system gives back when its process dies, and who holds it, for people.
local function claim(family)
  local lock = files.lock(family.dir .. ".lock")
  if lock then
    files.write(family.dir .. ".claim", string.format("process %d since %s\n", require("medxai.file").pid(),
      os.date "!%Y-%m-%dT%H:%M:%SZ"))
  end
  return lock
end

-- Every family up to the targets, by this process and by others that share the folder.
function Work:round(families, target_of)
  local total, ready = count_epochs(self.cells, target_of)
  local bar <close> = Progress.new("search", total)
  bar.count = ready
  bar:add(0)
  self.bar = bar
  local open = true
  while open do
    local worked = false
    open = false
    for _, family in ipairs(families) do
      if not self:family_done(family, target_of) then
        local lock = claim(family)
        if lock then
          local held <close> = lock -- luacheck: ignore
          self:run_family(family, target_of)
          files.remove(family.dir .. ".claim")
          worked = true
        else
          open = true
        end
      end
    end
    if open and not worked then
      self.run:heartbeat("grid: waiting for another process")
      files.sleep(poll_seconds)
      if host.interrupted() then error("interrupted", 0) end
    end
  end
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
        local score = score_at(cell, epochs)
        local result = grid_work.result(cell)
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

--- Works until every cell of the search is finished, by this process or another.
---@param run medxai.Run
---@param cells medxai.Cell[]
---@param own table the grid's options
function grid_work.all(run, cells, own)
  local self = setmetatable({ run = run, cells = cells, own = own, attempts = {},
    seconds = measured(run, cells) }, Work)
  local families = trajectory.of(run, cells)
  local freed <close> = setmetatable({}, { __close = function() prefix.release() end }) -- luacheck: ignore
  if own.search.kind == "halving" then halving(self, families)
  else self:round(families, function(cell) return cell.options.epochs end) end
  self:log_once(cells) -- a family whose process died when it was finished is not opened again
end

return grid_work
