-- What a grid search leaves: the winner's weights and model.json in the run's folder, grid.csv with a row per cell, the
-- table on the terminal, figures of all cells, and the sections of the report. The winner was chosen by its validation
-- score, so that score is marked as selected; the cheapest cell within one standard error of it is named beside it.
-- Numbers that depend on the clock stay out of grid.csv: the same search gives the same table.
local canon = require "medxai.base.json"
local check = require "medxai.base.check"
local csv = require "medxai.base.csv"
local files = require "medxai.base.files"
local fit = require "medxai.steps.fit"
local metrics = require "medxai.stats.classification"
local text_table = require "medxai.base.text_table"
local Trainer = require "medxai.train.trainer"
local units = require "medxai.stats.units"
local work = require "medxai.train.search"

local grid_report = {}

local status_order = { finished = 1, halted = 2, diverged = 3, failed = 4 }

-- ---- rows -----------------------------------------------------------------------------------------------------------

local row_columns = { "status", "value", "val_accuracy", "val_loss", "val_balanced_accuracy", "val_macro_f1",
  "best_epoch", "epochs_run", "shared_epochs", "multiply_adds", "frozen_part", "weights_sha256", "problem" }

-- All cells, best first: finished ones by score, then halted, diverged and failed ones in their order.
local function ranked(cells)
  local list = {}
  for i, cell in ipairs(cells) do
    list[i] = { cell = cell, result = work.result(cell) or { status = "failed", problem = "not done" } }
  end
  table.sort(list, function(a, b)
    local sa, sb = status_order[a.result.status], status_order[b.result.status]
    if sa ~= sb then return sa < sb end
    if sa <= 2 and a.cell ~= b.cell then
      return work.beats(a.result, a.cell, b.result, b.cell, a.cell.options.best_by)
    end
    return a.cell.number < b.cell.number
  end)
  return list
end

local function rows_of(list)
  local rows = canon.list {}
  for rank, one in ipairs(list) do
    local row = { rank = rank, cell = one.cell.id, number = one.cell.number, values = one.cell.values,
      cache = one.result.cache }
    for _, name in ipairs(row_columns) do row[name] = one.result[name] end
    rows[rank] = row
  end
  return rows
end

local function write_csv(run, axes, rows)
  local columns, flat = { "rank", "cell" }, {}
  for _, name in ipairs(axes) do columns[#columns + 1] = name end
  for _, name in ipairs(row_columns) do columns[#columns + 1] = name end
  for i, row in ipairs(rows) do
    flat[i] = { rank = row.rank, cell = row.cell }
    for _, name in ipairs(row_columns) do flat[i][name] = row[name] end
    for _, name in ipairs(axes) do flat[i][name] = row.values[name] end
  end
  csv.write(files.join(run.dir, "grid.csv"), columns, flat)
end

-- ---- the winner -----------------------------------------------------------------------------------------------------

-- The standard error of a score over the validation images.
local function standard_error(measure, value, answers)
  local n = #answers.labels
  if measure == "accuracy" then return math.sqrt(value * (1 - value) / n) end
  local values = {}
  if measure == "loss" then
    for i, row in ipairs(answers.logits) do
      values[i] = require("medxai.stats.logits").cross_entropy(row, answers.labels[i])
    end
  else
    local se = metrics.average(measure, units.over(n), answers.labels, answers.predicted, #answers.probabilities[1]).se
    return se == se and se or 0.0
  end
  local mean, square = 0.0, 0.0
  for _, v in ipairs(values) do mean = mean + v / n end
  for _, v in ipairs(values) do square = square + (v - mean) ^ 2 end
  return math.sqrt(square / n / n)
end

-- Of the cells whose score lies within one standard error of the best one's, that which costs the fewest multiply-adds.
local function cheapest_of(list, best, error_)
  local found
  for _, one in ipairs(list) do
    local near = one.result.status == "finished" and math.abs(one.result.value - best.value) <= error_
    if near and (not found or one.result.multiply_adds < found.result.multiply_adds) then found = one end
  end
  return found
end

local function no_winner(list)
  local first = list[1]
  check.fail("grid", "no cell was finished: %d of %d failed, the first (%s) with: %s", #list, #list,
    work.text(first.cell.values), tostring(first.result.problem))
end

-- Takes the winner's best weights from its folder and writes them as the run's. Returns its answers.
local function write_winner(run, one)
  local cell, result = one.cell, one.result
  local model = cell.model:reset()
  local start = model:sha256()
  local scope <close> = require("medxai.core").memory.scope()
  local path = files.join(cell.dir, "best.pt")
  if not files.exists(path) then
    check.fail("grid", "the weights of the best cell are gone ('%s'). Remove '%s' to train it again.", path, cell.dir)
  end
  local saved = require("medxai.nn.checkpoint").load_checkpoint(path)
  Trainer.load_changing(model, saved.tensors, "'" .. path .. "'")
  model:eval()
  if model:sha256() ~= result.weights_sha256 then
    check.fail("grid", "'%s' is not what the cell was trained to. Remove '%s' to train it again.", path, cell.dir)
  end
  local answers = require("medxai.nn.predict").predict(model, cell.data.val,
    { batch = cell.options.batch, name = "validation" })
  fit.write_model(run, model, cell.data,
    { best = { epoch = result.best_epoch, value = result.value, accuracy = result.val_accuracy,
      loss = result.val_loss },
    best_by = cell.options.best_by, seed = cell.seed, start = start, answers = answers,
    precision = cell.options.precision })
  model:reset()
  return answers
end

-- Caches and weights that nobody needs any more.
local function tidy(run, own, list)
  files.remove_all(files.join(run.dir, "cache"))
  if own.keep_weights == "best" then
    for i = 2, #list do files.remove(files.join(list[i].cell.dir, "best.pt")) end
  end
end

--- Judges the finished cells and writes everything. Returns the step's result.
---@param run medxai.Run
---@param cells medxai.Cell[]
---@param own table the grid's options
---@param fields table of the step
---@return table
function grid_report.finish(run, cells, own, fields)
  local list, axes = ranked(cells), check.sorted_keys(fields.axes)
  local best = list[1]
  if best.result.status ~= "finished" then no_winner(list) end
  local measure = best.cell.options.best_by
  local answers = write_winner(run, best)
  local error_ = standard_error(measure, best.result.value, answers)
  local cheapest, rows = cheapest_of(list, best.result, error_), rows_of(list)
  write_csv(run, axes, rows)
  local counts = {}
  for _, one in ipairs(list) do counts[one.result.status] = (counts[one.result.status] or 0) + 1 end
  tidy(run, own, list)
  local result = { winner = best.cell.id, cell = best.cell.values, best = rows[1], select = measure,
    standard_error = error_, n_val = #answers.labels, cheapest = cheapest.cell.values,
    cheapest_value = cheapest.result.value, cheapest_work = cheapest.result.multiply_adds / best.result.multiply_adds,
    cells = rows, counts = counts, axes = canon.list(axes), search = own.search, values = fields.axes }
  local curves = {}
  for _, one in ipairs(list) do curves[one.cell.id] = work.history(one.cell) end
  result.figures = require("medxai.show.search_figures").draw(run, result, curves)
  return result
end

-- ---- the table ------------------------------------------------------------------------------------------------------

local measure_names = { accuracy = "accuracy", balanced_accuracy = "balanced accuracy", macro_f1 = "macro F1",
  loss = "loss" }

local function short(v)
  if v == nil then return "" end
  if math.type(v) == "float" then return string.format("%.6g", v) end
  return tostring(v)
end

--- The cells of a table: its header and rows as texts, best first.
---@param result table of the grid step
function grid_report.table(result)
  local header = { "rank" }
  for _, name in ipairs(result.axes) do header[#header + 1] = name end
  for _, name in ipairs { measure_names[result.select], "loss", "best epoch", "epochs run", "shared", "status" } do
    header[#header + 1] = name
  end
  local rows = {}
  for i, row in ipairs(result.cells) do
    local out = { tostring(row.rank) }
    for _, name in ipairs(result.axes) do out[#out + 1] = short(row.values[name]) end
    for _, v in ipairs { row.value and string.format("%.4f", row.value) or "",
        row.val_loss and string.format("%.4f", row.val_loss) or "", short(row.best_epoch), short(row.epochs_run),
      short(row.shared_epochs), row.cell == result.winner and "selected" or row.status } do out[#out + 1] = v end
    rows[i] = out
  end
  return header, rows
end

--- The sentences that say what was found.
---@return string[]
function grid_report.sentences(result)
  local texts = { string.format("Best validation %s: %.4f (%s). It was selected as the best of %d, so it is "
    .. "optimistic; the test split tells more.", measure_names[result.select], result.best.value,
    work.text(result.cell), #result.cells) }
  if work.text(result.cheapest) ~= work.text(result.cell) then
    texts[2] = string.format("Within one standard error (%.4f, %d images) the cheapest is %s with %.4f and %.0f %% "
      .. "of its multiply-adds.", result.standard_error, result.n_val,
      work.text(result.cheapest), result.cheapest_value, 100 * result.cheapest_work)
  else
    texts[2] = string.format("No cheaper cell lies within one standard error (%.4f, %d images).", result.standard_error,
      result.n_val)
  end
  local cached, reasons = {}, {}
  for _, row in ipairs(result.cells) do
    if row.cache then
      if not cached[row.cache] then reasons[#reasons + 1] = row.cache end
      cached[row.cache] = (cached[row.cache] or 0) + 1
    end
  end
  table.sort(reasons)
  for _, reason in ipairs(reasons) do
    local is_cached = reason:find " in memory$" or reason:find " in a file$"
    texts[#texts + 1] = string.format("Frozen part of %d cell%s: %s%s.", cached[reason],
      cached[reason] == 1 and "" or "s", is_cached and "" or "not cached, ", reason)
  end
  for _, name in ipairs { "halted", "diverged", "failed" } do
    if result.counts[name] then
      texts[#texts + 1] = string.format("%d of %d cells %s.", result.counts[name], #result.cells,
        name == "halted" and "were halted early" or name)
    end
  end
  return texts
end

local function print_table(header, rows)
  local right = {}
  for i = 1, #header - 1 do right[i] = true end
  print(text_table({ header, table.unpack(rows) }, { right = right }))
end

--- Prints table and sentences.
function grid_report.print(result)
  print(string.format("\ngrid search: %d cells", #result.cells))
  print_table(grid_report.table(result))
  for _, row in ipairs(result.cells) do
    if row.problem then print(string.format("  cell %d (%s): %s", row.number, work.text(row.values), row.problem)) end
  end
  for _, text in ipairs(grid_report.sentences(result)) do print(text) end
end

return grid_report
