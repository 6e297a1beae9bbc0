-- run:cross_evaluate: several models, each judged on several kinds of input, also on inputs that it was not trained
-- for: a model of masked lungs on whole images and the other way round. Each is a step of its own; cross.csv and the
-- report hold the table. It refuses names that are missing.
local check = require "medxai.base.check"
local Options = require "medxai.base.options"
local csv = require "medxai.base.csv"
local evaluate = require "medxai.steps.evaluate"
local files = require "medxai.base.files"
local text_table = require "medxai.base.text_table"
local units = require "medxai.stats.units"

local cross = {}

cross.spec = {
  models = { "table", required = true, lua = "table<string, medxai.Model>", doc = "{ name = model }" },
  splits = { "table", required = true, lua = "table<string, medxai.Split>", doc = "{ name = split }" },
  batch = evaluate.spec.batch,
}

local function checked(options)
  local o = Options.check("cross_evaluate", options, cross.spec)
  for _, key in ipairs { "models", "splits" } do
    local names = check.sorted_keys(o[key])
    if #names == 0 then check.fail("cross_evaluate", "%s is empty (expected names and %s).", key, key) end
    for _, name in ipairs(names) do
      if type(name) ~= "string" then
        check.fail("cross_evaluate", "%s have names (expected %s = { name = ... }, got [%s]).", key, key,
          tostring(name))
      end
    end
  end
  return o
end

--- Checks a call of run:cross_evaluate without making it (medxai.run.preflight).
function cross.check_call(_, _, options) checked(options) end

local function shown(result)
  local low, high = table.unpack(result.intervals.accuracy)
  return string.format("%.4f", result.accuracy) .. (low == low and string.format(" [%.4f, %.4f]", low, high) or "")
end

local function print_cross(models, splits, results)
  local all = results[models[1]][splits[1]].intervals
  print(string.format("\naccuracy of each model (rows) on each kind of input, %s",
    units.words { level = all.level, interval = all.kind.accuracy, resampled = all.resampled, note = all.note }))
  local rows = { { "", table.unpack(splits) } }
  for i, m in ipairs(models) do
    rows[i + 1] = { m }
    for k, s in ipairs(splits) do rows[i + 1][k + 1] = shown(results[m][s]) end
  end
  print(text_table(rows))
end

--- run:cross_evaluate { models = { plain = a, masked = b }, splits = { whole = x.test, masked = y.test } }: every model
--- on every split, also on inputs that it was not trained for. Each is a step of its own; cross.csv and the report hold
--- the table.
---@param run medxai.Run
---@param options table
---@return table<string, table<string, table>> results[model][split] as of run:evaluate
function cross.run(run, options)
  local o = checked(options)
  local models, splits, results, rows = check.sorted_keys(o.models), check.sorted_keys(o.splits), {}, {}
  for _, m in ipairs(models) do
    results[m] = {}
    for _, s in ipairs(splits) do
      local result = evaluate.run(run, o.models[m], o.splits[s], { name = m .. "-on-" .. s, batch = o.batch }, true)
      local interval, kind = result.intervals.accuracy, result.intervals.kind.accuracy
      results[m][s] = result
      rows[#rows + 1] = { model = m, input = s, n = result.n, accuracy = result.accuracy, accuracy_low = interval[1],
        accuracy_high = interval[2], interval = kind .. " over " .. result.intervals.resampled,
        balanced_accuracy = result.balanced_accuracy, macro_f1 = result.macro.f1, auroc_macro = result.auroc_macro,
        loss = result.loss }
    end
  end
  csv.write(files.join(run.dir, "cross.csv"),
    { "model", "input", "n", "accuracy", "accuracy_low", "accuracy_high", "interval", "balanced_accuracy", "macro_f1",
      "auroc_macro", "loss" }, rows)
  print_cross(models, splits, results)
  return results
end

return cross
