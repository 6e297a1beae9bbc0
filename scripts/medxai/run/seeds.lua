-- xai.run { name =, seeds = { 1, 2, 3 } }: the whole experiment once for each seed, into <folder>/seed-1, seed-2 ...,
-- and what the seeds have in common at the end: mean, deviation and range of every test metric, on the terminal and in
-- seeds.csv; and from three seeds on an interval of the accuracy that other seeds and other patients would have.
-- The experiment's file is run again from its top for every seed but the last, which goes on where the run was begun.
-- It refuses code from standard input, which cannot be read twice.
local check = require "medxai.base.check"
local csv = require "medxai.base.csv"
local files = require "medxai.base.files"
local components = require "medxai.stats.components"
local host = require "medxai.host"
local units = require "medxai.stats.units"

local seeds = { current = nil }

local function checked(list)
  local seen = {}
  if #list == 0 then check.fail("run", "seeds is an empty list (expected seeds = { 1, 2, 3 }).") end
  for i = 1, #list do -- not ipairs: a nil in the middle would hide the seeds after it
    local seed = list[i]
    if not math.tointeger(seed) or seed < 0 then
      check.fail("run", "seeds holds %s at %d (expected whole numbers from 0).", tostring(seed), i)
    end
    if seen[seed] then check.fail("run", "seeds holds %d twice.", seed) end
    seen[seed], list[i] = true, math.tointeger(seed)
  end
  return host.options.smoke and { table.unpack(list, 1, 2) } or list
end

-- The folder of one seed below the experiment's.
function seeds.folder(dir, seed) return files.join(dir, "seed-" .. seed) end

-- ---- what the seeds have in common ----------------------------------------------------------------------------------

local measures = { "accuracy", "balanced_accuracy", "auroc_macro", "loss" }

-- step -> measure -> values in the order of seeds
local function gather(dir, list)
  local found, steps = {}, {}
  for i, seed in ipairs(list) do
    local folder = files.join(seeds.folder(dir, seed), "steps")
    for _, name in ipairs(files.list(folder)) do
      local step = name:match "^(evaluate%-.*)%.json$"
      local data = step and files.read_data(files.join(folder, name))
      if data and data.status == "finished" then
        if not found[step] then found[step], steps[#steps + 1] = {}, step end
        for _, measure in ipairs(measures) do
          found[step][measure] = found[step][measure] or {}
          found[step][measure][i] = data.result[measure]
        end
        found[step].macro_f1 = found[step].macro_f1 or {}
        found[step].macro_f1[i] = data.result.macro.f1
      end
    end
  end
  table.sort(steps)
  return found, steps
end

local function statistics(values, n)
  local sum, count, low, high = 0.0, 0, math.huge, -math.huge
  for i = 1, n do
    local v = values[i]
    if v and v == v then sum, count, low, high = sum + v, count + 1, math.min(low, v), math.max(high, v) end
  end
  local mean, square = sum / count, 0.0
  for i = 1, n do
    if values[i] and values[i] == values[i] then square = square + (values[i] - mean) ^ 2 end
  end
  return { mean = mean, deviation = count > 1 and math.sqrt(square / (count - 1)) or 0 / 0, low = low, high = high,
    n = count }
end

-- Of each image that a step of one seed judged: its id, whether it was right, its patient.
local function judged_by(folder, step)
  local data, ids, hits, patients = files.read_data(files.join(folder, "steps", step .. ".json")), {}, {}, {}
  local path = data.files and data.files[1] and data.files[1].path
  for _, row in ipairs(path and csv.read(files.join(folder, path)) or {}) do
    if row.split == data.result.split then
      ids[#ids + 1], hits[#hits + 1], patients[#patients + 1] = row.image_id, row.label == row.predicted and 1 or 0,
        row.patient
    end
  end
  return ids, hits, patients
end

-- Patients (images, where not every one is known) by seeds: the share of right answers. nil where the seeds judged
-- different images.
local function hits_by_seed(dir, list, step)
  local rows, over, first = {}, nil, nil
  for s, seed in ipairs(list) do
    local ids, hits, patients = judged_by(seeds.folder(dir, seed), step)
    local key = table.concat(ids, "\0")
    if s == 1 then first, over = key, units.over(#ids, patients) end
    if #ids == 0 or key ~= first then return nil end
    local sum, count = over:sums(hits)
    for u = 1, #sum do
      rows[u] = rows[u] or {}
      rows[u][s] = sum[u] / count[u]
    end
  end
  return rows, over
end

-- "accuracy for other seeds 0.91, 95 % interval 0.85 to 0.97 ...": what holds for the recipe and not for these weights
-- alone.
local function recipe_text(dir, list, step)
  local rows, over = hits_by_seed(dir, list, step)
  local why = not rows and "the seeds judged different images"
    or #rows < units.least and string.format("fewer than %d %s", units.least, over.resampled)
  local r = rows and components.of(rows)
  why = why or r.why
  if why then return "no interval: " .. why end
  return string.format("%.4f, 95 %% interval %.4f to %.4f over %s and seeds (t with %.1f degrees of freedom)", r.mean,
    math.max(0, r.low), math.min(1, r.high), over.resampled, r.df)
end

local function summarize(dir, list)
  local found, steps = gather(dir, list)
  local rows = {}
  for _, step in ipairs(steps) do
    print(string.format("\n%s over %d seeds", step, #list))
    for _, measure in ipairs(check.sorted_keys(found[step])) do
      local s = statistics(found[step][measure], #list)
      print(string.format("  %-18s mean %.4f  deviation %.4f  range %.4f to %.4f", measure, s.mean, s.deviation, s.low,
        s.high))
      for i, seed in ipairs(list) do
        rows[#rows + 1] = { seed = seed, step = step, metric = measure, value = found[step][measure][i] }
      end
    end
    print("  accuracy for other seeds: " .. recipe_text(dir, list, step))
  end
  if #rows > 0 then csv.write(files.join(dir, "seeds.csv"), { "seed", "step", "metric", "value" }, rows) end
end

-- ---- running --------------------------------------------------------------------------------------------------------

-- The whole experiment for one seed, its tensors freed and its runs closed afterwards.
local function run_once(close_runs)
  local chunk, problem = loadfile(host.script, "t")
  if not chunk then error(problem, 0) end
  local scope <close> = require("medxai.core").memory.scope() -- luacheck: ignore
  chunk(table.unpack(arg or {}))
  close_runs()
  collectgarbage()
end

--- Runs the experiment for all seeds but the last; returns the last, for the run that is being begun.
---@param dir string the experiment's folder
---@param list integer[]
---@param close_runs fun() closes the runs that an experiment has begun
---@return integer
function seeds.run(dir, list, close_runs)
  list = checked(list)
  if seeds.current then return seeds.current end
  if not host.script or host.script == "stdin" or host.script == "(command line)" then
    check.fail("run", "seeds needs an experiment in a file, which is run once for each (got %s).",
      tostring(host.script))
  end
  for i = 1, #list - 1 do
    seeds.current = list[i]
    if not host.options.quiet then io.stderr:write(string.format("seed %d (%d of %d)\n", list[i], i, #list)) end
    run_once(close_runs)
  end
  seeds.current = list[#list]
  if not host.options.quiet then io.stderr:write(string.format("seed %d (%d of %d)\n", seeds.current, #list, #list)) end
  host.at_exit(function(state)
    if state == "finished" then summarize(dir, list) end
  end)
  return seeds.current
end

return seeds
