-- run:grid: trains every combination of some fields (or a random part, or by successive halving) and keeps the one with
-- the best validation score. A cell is a folder named by the hash of what determines its numbers; what is finished is
-- never done again, several processes may share the work (train/search.lua), cells that begin alike are trained once as
-- far as they agree.
--   local search = run:grid {
--     lr = { 0.001, 0.01 }, train_depth = { 0, 1, 2, 3 },
--     epochs = function(cell) return cell.train_depth > 1 and 15 or 10 end,
--     train = function(cell) return model, data, fit_options end }
-- It refuses fields that nothing uses, another search in the same folder, and to call a winner's validation score
-- unbiased.
local canon = require "medxai.base.json"
local check = require "medxai.base.check"
local command_line = require "medxai.base.fields"
local Options = require "medxai.base.options"
local current_seed = require "medxai.run.current_seed"
local files = require "medxai.base.files"
local fit = require "medxai.steps.fit"
local host = require "medxai.host"
local preflight = require "medxai.run.preflight"
local Step = require "medxai.run.step"
local Trainer = require "medxai.train.trainer"
local training = require "medxai.train.options"

local grid = {}

--- How a search goes through the cells: { "random", n = 10 }.
grid.search_specs = {
  all = {},
  random = { n = { "integer", required = true, min = 1, doc = "cells, drawn by the run's seed" } },
  halving = {
    factor = { "integer", default = 3, min = 2, doc = "one in so many cells goes on, for so many times the epochs" },
    min_epochs = { "integer", default = 1, min = 1, unit = "epochs", doc = "of the first round" },
  },
}
local search_specs = grid.search_specs

-- What a grid takes besides its fields.
grid.spec = {
  train = { "function", required = true, lua = "fun(cell: table): medxai.Model, medxai.Dataset, medxai.FitOptions",
    doc = "(cell) -> model, data, options of run:fit; called once per cell" },
  best_by = { one_of = check.sorted_keys(Trainer.measures),
    doc = "the score on the validation split that chooses weights and winner (default accuracy); ties: the "
    .. "lower loss" },
  select = { now = "best_by" },
  search = { "string|table", default = "all", lua = "\"all\"|medxai.SearchKind",
    doc = "\"all\" cells, { \"random\", n = 10 }, or successive halving { \"halving\", factor = 3, min_epochs = 1 }" },
  on_fail = { one_of = { "continue", "stop" }, field = true, default = "continue",
    doc = "what a failed trial does to the search" },
  retries = { "integer", field = true, default = 0, min = 0, doc = "of a failed trial" },
  cache = { "boolean", field = true, default = true,
    doc = "cache outputs of a deterministic frozen backbone per image" },
  cache_mb = { "number", field = true, default = 4096, min = 0, unit = "MB",
    doc = "memory for them; beyond it a file" },
  cache_file_mb = { "number", default = 16384, min = 0, unit = "MB", doc = "size of that file at most" },
  keep_weights = { one_of = { "best", "all" }, default = "best", doc = "all: cells/<id>/best.pt of every cell" },
}
local spec = grid.spec

-- ---- fields ---------------------------------------------------------------------------------------------------------

local function check_values(name, values)
  if #values == 0 then check.fail("grid", "field '%s' is an empty list (expected the values to try).", name) end
  local seen = {}
  for i = 1, #values do -- not ipairs: a nil in the middle would hide the values after it
    local value = values[i]
    local kind = value ~= value and "nan" or type(value)
    if kind ~= "number" and kind ~= "string" and kind ~= "boolean" then
      check.fail("grid", "field '%s': value %d is a %s (expected a number, a string or a boolean).", name, i, kind)
    end
    if seen[value] then check.fail("grid", "field '%s' has the value %s twice.", name, tostring(value)) end
    seen[value] = true
  end
  return canon.list(values)
end

-- "0.001,0.01" from the command line, in the place of a field's values.
local function from_command_line(name)
  local text = command_line.claim(name)
  return text and command_line.words(text)
end

-- The fields in order of name: { name, values } or { name, f = function(cell) }; and the other options, checked.
local function split_options(options)
  if type(options) ~= "table" then
    check.fail("grid", "takes one table (expected grid { lr = { ... }, train = function(cell) ... end }, got %s).",
      type(options))
  end
  local axes, own = {}, {}
  for _, name in ipairs(check.sorted_keys(options)) do
    if spec[name] then own[name] = options[name]
    elseif type(name) ~= "string" then check.fail("grid", "fields have names (expected lr = { ... }, got [%s]).",
        tostring(name))
    else
      local value = from_command_line(name)
      if value == nil then value = options[name] end
      if type(value) == "function" then axes[#axes + 1] = { name = name, f = value }
      else
        axes[#axes + 1] = { name = name, values = check_values(name, type(value) == "table" and value or { value }) }
      end
    end
  end
  if #axes == 0 then check.fail("grid", "no fields to search over (expected, for instance, lr = { 0.001, 0.01 }).") end
  own = Options.check("grid", own, spec)
  local kind = own.search
  if type(kind) == "table" then kind = kind[1] end
  check.known("grid", "search", kind, check.sorted_keys(search_specs))
  local given = {}
  for key, value in pairs(type(own.search) == "table" and own.search or {}) do
    if key ~= 1 then given[key] = value end
  end
  own.search = Options.check("grid: search", given, search_specs[kind])
  own.search.kind = kind
  return axes, own
end

-- ---- cells ----------------------------------------------------------------------------------------------------------

---@class medxai.Cell one training of a search
---@field number integer its place among all combinations, from 1
---@field values table field -> value
---@field id string 16 hex digits of key, the name of its folder
---@field key string hash of everything that determines its numbers
---@field fields table that everything, plain
---@field options table of run:fit, checked
---@field seed integer

-- A cell as the experiment's function sees it: unknown fields are errors, functions of other fields are resolved when
-- read.
local function view_of(axes, chosen, used)
  local by_name, names = {}, {}
  for i, axis in ipairs(axes) do by_name[axis.name], names[i] = axis, axis.name end
  local resolving = {}
  return setmetatable({}, {
    __index = function(view, name)
      local axis = by_name[name]
      if not axis then check.known("grid", "field", name, names) end
      used[name] = true
      local value = chosen[name]
      if axis.f then
        if resolving[name] then check.fail("grid", "field '%s' depends on itself.", name) end
        resolving[name] = true
        value = axis.f(view)
        resolving[name] = nil
        check_values(name, { value })
      end
      rawset(view, name, value)
      return value
    end,
    __newindex = function(_, name)
      check.fail("grid", "a cell is not changed (got cell.%s = ...). Use a local.", tostring(name))
    end,
  })
end

-- All combinations, the last field running fastest.
local function combinations(axes)
  local list = { {} }
  for _, axis in ipairs(axes) do
    if axis.values then
      local longer = {}
      for _, chosen in ipairs(list) do
        for _, value in ipairs(axis.values) do
          local copy = {}
          for k, v in pairs(chosen) do copy[k] = v end
          copy[axis.name] = value
          longer[#longer + 1] = copy
        end
      end
      list = longer
    end
  end
  return list
end

local function picked(list, own, run)
  local n = own.search.kind == "random" and own.search.n or #list
  if run.smoke and #list > 2 then return { list[1], list[#list] } end
  if n >= #list then return list end
  local scope <close> = require("medxai.core").memory.scope()
  local order = require("medxai.tensor.random").stream { seed = run.seed,
    purpose = "grid_random@1" }:permutation(#list):tolist()
  local places, out = { table.unpack(order, 1, n) }, {}
  table.sort(places)
  for i, place in ipairs(places) do out[i] = list[place + 1] end
  return out
end

-- Calls the experiment's function for a cell: models and data take the cell's seed in the place of the run's.
local function call_train(run, own, cell)
  return current_seed.during(cell.values.seed or run.seed, own.train, cell.view)
end

local function check_returned(model, options)
  if type(model) ~= "table" or not model.config then
    check.fail("grid", "train returns a %s first (expected model, data, options: return model, data, { optim = ..., "
      .. "epochs = ... }).", type(model))
  end
  if type(options) ~= "table" then
    check.fail("grid", "train returns a %s third (expected model, data, options: the options of run:fit).",
      type(options))
  end
end

-- Everything that determines a cell's numbers, as plain data.
local function describe(run, cell)
  local model, data = cell.model, cell.data
  local fields = training.describe(cell.options)
  fields.model = { config = model.config, layout = model.layout, dtype = model.dtype, start = model:start() }
  fields.train, fields.val = run:describe_split(data.train), run:describe_split(data.val)
  fields.seed, fields.numerics, fields.smoke = cell.seed, Step.numerics, run.smoke
  fields.libtorch = require("medxai.core").tensor.torch_version()
  fields.device = (host.options.device or "cpu"):match "^%a+"
  return fields
end

-- Calls the experiment's function for a cell, once. The model that it returns has no tensors yet: they are made when
-- the cell is trained.
local function describe_cell(run, cell, axes, own, used)
  local view = view_of(axes, cell.values, used)
  local resolved = {}
  for _, axis in ipairs(axes) do
    if axis.f then resolved[axis.name] = view[axis.name] end
  end
  for name, value in pairs(resolved) do cell.values[name] = value end
  cell.view, cell.seed = view_of(axes, cell.values, used), cell.values.seed or run.seed
  if cell.values.seed then used.seed = true end -- taken by the search itself
  local model, data, options = call_train(run, own, cell)
  check_returned(model, options)
  local copy = {}
  for k, v in pairs(options) do copy[k] = v end
  copy.best_by = copy.best_by or own.best_by
  cell.options = training.check(copy, type(data) == "table" and data or nil)
  if cell.options.keep ~= "best" then
    check.fail("grid", "option 'keep' of a training is '%s': cells are compared by their best epochs. Leave it out, or "
      .. "train with run:fit.", cell.options.keep)
  end
  fit.check_data(model, data, cell.options)
  require("medxai.nn.model_file").check_data(run, model, data)
  cell.model, cell.data, cell.config = model, data, model.config
end

-- A field that train does not read would make cells that are all the same.
local function refuse_unused(axes, used)
  for _, axis in ipairs(axes) do
    if not used[axis.name] then
      check.fail("grid", "field '%s' changes nothing: train does not read cell.%s. Use it there, or leave it out.",
        axis.name, axis.name)
    end
  end
end

local function all_cells(run, axes, own)
  local cells, used, ids = {}, {}, {}
  for number, chosen in ipairs(picked(combinations(axes), own, run)) do
    local cell = { number = number, values = chosen }
    for _, axis in ipairs(axes) do
      if axis.f then chosen[axis.name] = nil end
    end
    describe_cell(run, cell, axes, own, used)
    cell.fields = describe(run, cell)
    cell.key = canon.hash(cell.fields)
    cell.id = cell.key:sub(1, 16)
    if ids[cell.id] then
      check.warn("grid", "cells %d and %d are the same training: done once.", ids[cell.id], number)
    else
      cells[#cells + 1], ids[cell.id] = cell, number
      cell.number = #cells
    end
  end
  refuse_unused(axes, used)
  for _, cell in ipairs(cells) do
    if cell.options.best_by ~= cells[1].options.best_by then
      check.fail("grid", "cells differ in best_by (%s and %s): their scores cannot be compared. Give best_by to the "
        .. "grid instead.", cells[1].options.best_by, cell.options.best_by)
    end
  end
  return cells
end

-- ---- the step -------------------------------------------------------------------------------------------------------

local function step_fields(axes, own, cells)
  local values, ids = {}, canon.list {}
  for _, axis in ipairs(axes) do
    local list, seen = canon.list {}, {}
    for _, cell in ipairs(cells) do
      local value = cell.values[axis.name]
      if not seen[value] then list[#list + 1], seen[value] = value, true end
    end
    values[axis.name] = list
  end
  for i, cell in ipairs(cells) do ids[i] = cell.id end
  return { axes = values, cells = ids, first = cells[1].fields, search = own.search, select = cells[1].options.best_by,
    keep_weights = own.keep_weights }
end

-- What differs in a search of another definition: the fields before the cells' hashes, which are only their
-- consequence.
local function refuse_other(run, step)
  local stored, here = step.stored.fields, step.fields
  local without = function(fields)
    local copy = {}
    for k, v in pairs(fields) do copy[k] = v end
    copy.cells = nil
    return copy
  end
  local other = setmetatable({ stored = { fields = without(stored) }, fields = without(here) }, Step)
  check.fail("grid", "'%s' holds a search of another definition: %s. Give --out DIR for a new search, or "
    .. "--overwrite to begin this one again.", run.dir, other:differences())
end

-- The winner's model with its best weights, from the run's weights.pt.
local function finished_model(run, cell)
  local model = cell.model:reset()
  local scope <close> = require("medxai.core").memory.scope()
  local path = files.join(run.dir, "weights.pt")
  model:load_state(require("medxai.nn.checkpoint").load(path).tensors, { what = path })
  fit.belongs_to(run, model)
  return model:eval()
end

---@class medxai.Search what run:grid returns
---@field model medxai.Model the winner's, with its best weights, in evaluation
---@field cell table the winner's fields
--- { value, best_epoch, val_accuracy, ... } of the winner: selected on the validation split, so optimistic
---@field result table
---@field cheapest table the fields of the cheapest cell within one standard error of the winner
---@field cells table[] one row per cell, best first: its fields, status and scores

local function search_of(run, cells, result)
  local by_id = {}
  for _, cell in ipairs(cells) do by_id[cell.id] = cell end
  return { model = finished_model(run, by_id[result.winner]), cell = result.cell, result = result.best,
    cheapest = result.cheapest, cells = result.cells }
end

--- The trainings of some fields, described and not begun, for a step that trains them all (medxai.train.search).
---@param run medxai.Run
---@param options table as run:grid's
---@return medxai.Cell[]
---@return table own the options that are no fields, checked
function grid.cells(run, options)
  local axes, own = split_options(options)
  return all_cells(run, axes, own), own
end

--- Checks a call of run:grid without making it (medxai.run.preflight): every cell is described.
function grid.check_call(_, run, options)
  local axes, own = split_options(options)
  local used = {}
  for _, chosen in ipairs(combinations(axes)) do describe_cell(run, { values = chosen }, axes, own, used) end
  refuse_unused(axes, used)
end

--- run:grid { field = { values } | function(cell) -> value, ..., train = function(cell) -> model, data, options, ... }
---@param run medxai.Run
---@param options table
---@return medxai.Search
function grid.run(run, options)
  local axes, own = split_options(options)
  preflight.check()
  run:prepare { join = true }
  files.mkdir(files.join(run.dir, "families"))
  local cells = all_cells(run, axes, own)
  local step = run:joined_step("grid", step_fields(axes, own, cells))
  if step:changed() then refuse_other(run, step) end
  run:configure("grid", step.fields)
  if step.done then
    run:skipped("grid")
    require("medxai.steps.search_report").print(step.result)
    return search_of(run, cells, step.result)
  end
  local clock <close> = run:clock("grid")
  if not run.joined then
    run:write_manifest(cells[1].data)
    step:begin()
  end
  require("medxai.train.search").all(run, cells, own)
  run:take_over() -- the process that began the search has ended, or this is the one
  step = run:step("grid", step.fields)
  if not step.done then
    require("medxai.train.search").merge_logs(run, cells)
    local result = require("medxai.steps.search_report").finish(run, cells, own, step.fields)
    local files_of_model = fit.model_files(cells[1].model)
    step:finish(result, { "grid.csv", table.unpack(files_of_model) }, { "predictions.csv", "grid.jsonl" })
  end
  require("medxai.steps.search_report").print(step.result)
  return search_of(run, cells, step.result)
end

return grid
