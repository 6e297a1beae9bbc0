-- Judges the maps of an explain step: every metric on every map into long rows, scores.csv, and a table to read.
-- One image's tensors are alive at a time, read back from the files, so that a resumed step judges the same numbers;
-- rows are written image by image, and those of a metric that runs the network are not computed twice.
-- It refuses a mask that none of the images has. A researcher's own metric that fails on a map leaves an undefined
-- value.
local canon = require "medxai.base.json"
local check = require "medxai.base.check"
local csv = require "medxai.base.csv"
local contexts = require "medxai.score.context"
local core = require "medxai.core"
local files = require "medxai.base.files"
local host = require "medxai.host"
local comparable = require("medxai.score.summary").comparable
local measure = require "medxai.score.measure"
local metric = require "medxai.score.registry"
local Progress = require "medxai.base.progress"
local returned = require "medxai.explain.validate"
local text_table = require "medxai.base.text_table"
local units = require "medxai.stats.units"

local judge = {}

-- why a value is undefined where a researcher's own metric raised: it is measured again the next time
local failed = "failed"

--- The beginnings of the hashes of the mask files by which a metric judges an image; nil where it needs none. A value
--- is that of these.
function judge.masks_of(job, number, m)
  local words = {}
  for _, name in ipairs(job.split.mask_sha256 and { m.mask or false, m.within or false } or {}) do
    if name then words[#words + 1] = (job.split:mask_sha256(number, name) or "none"):sub(1, 16) end
  end
  return #words > 0 and table.concat(words, " ") or nil
end

local function row_of(e, job, record, m, k, result, masks)
  return { image_id = record.image_id, path = record.path, patient = record.patient, source = record.source,
    model = job.model.name, seed = job.run.seed, method = e.method.name, maps = e.set,
    layer = table.concat(e.layers or {}, " "), target = e.description.text, metric = m.ids[k], value = result.value,
    chance = result.chance, unit = metric.unit(m, e.description.as), status = record.status, undefined = result.why,
    label = record.label, predicted = record.target.predicted,
    correct = record.label and tostring(record.label == record.target.predicted) or nil,
    confidence = record.target.confidence, mask_sha256 = masks }
end

-- ---- rows of earlier runs ---------------------------------------------------------------------------------------

local function key_of(row)
  return tostring(row.maps) .. "\0" .. tostring(row.image_id) .. "\0" .. tostring(row.metric)
end

-- Whether a row says what it is of: under a torn header, or without one, none does.
local function is_readable(row)
  for _, column in ipairs { "maps", "image_id", "metric", "value", "status" } do
    if (row[column] or "") == "" then return false end
  end
  return true
end

-- What scores.csv holds already, by key. A last line torn by a crash is cut; under another header (of another version,
-- torn, none) the file is made anew of the rows that can be read by name, so that lines can be added. Values were
-- written with all their digits.
local function read_known(dir)
  local path, known, kept = dir .. "/scores.csv", {}, {}
  files.repair_lines(path)
  local rows, columns = csv.read(path)
  for _, row in ipairs(rows or {}) do
    if is_readable(row) then
      kept[#kept + 1], known[key_of(row)] = row, row
    end
  end
  if rows and (#kept < #rows or table.concat(columns, ",") ~= table.concat(metric.columns, ",")) then
    csv.write(path, metric.columns, kept)
  end
  return known
end

--- Whether a metric failed on any map of a finished step.
function judge.any_failed(summaries)
  for _, s in ipairs(summaries) do
    if s.undefined[failed] then return true end
  end
  return false
end

local function number_in(text) return text == "NaN" and 0 / 0 or tonumber(text) end

-- A row of scores.csv with its numbers as numbers, as judge.maps gives it.
local function row_in(row)
  local out = {}
  for key, text in pairs(row) do
    if text ~= "" then out[key] = text end
  end
  out.value, out.chance = number_in(row.value) or 0 / 0, number_in(row.chance or "") or 0 / 0
  return out
end

--- The rows of a finished step, from scores.csv; nil where one of a map and metric is not there any more.
---@param job medxai.ExplainJob
---@return table[]|nil rows
function judge.kept_rows(job)
  local known, rows = #job.metric_entries > 0 and read_known(job.run.dir), {}
  for _, m in ipairs(job.metric_entries) do
    for _, id in ipairs(m.ids) do
      for _, number in ipairs(job.chosen) do
        for _, e in ipairs(job.entries) do
          local row = known[key_of { maps = e.set, image_id = job.split:item(number).id, metric = id }]
          if not row then return nil end
          rows[#rows + 1] = row_in(row)
        end
      end
    end
  end
  return rows
end

-- The results of a metric that an earlier process computed for this very map and these masks, nil unless all are there
-- and none failed.
local function known_results(known, m, e, record, seed, masks)
  local out = {}
  for k, id in ipairs(m.ids) do
    local row = known[key_of { maps = e.set, image_id = record.image_id, metric = id }]
    if not row or row.undefined == failed and not row.is_new or row.status ~= record.status
        or row.seed ~= tostring(seed) or not number_in(row.value)
      or (row.mask_sha256 or "") ~= (masks or "") then return nil end
    out[k] = { value = number_in(row.value), chance = number_in(row.chance) or 0 / 0,
      why = row.undefined ~= "" and row.undefined or nil }
  end
  return out
end

-- ---- one map ----------------------------------------------------------------------------------------------------

-- An error in own code gets its line; what measure says of the value that it returned has none.
local function in_own_code(problem) return check.located(problem, measure) end

-- A researcher's own metric that raises is told once and counted as undefined; interrupts and memory are no failures.
local function measured(job, m, map, ctx)
  if not m.own then return measure(m, map, ctx) end
  local model = job.model
  local version = model:version()
  -- it may keep a tensor for the next map
  local ok, results = xpcall(core.memory.unscoped, in_own_code, measure, m, map, ctx)
  if model:is_training() then model:eval() end -- the next metric finds it as this one did
  if host.interrupted() then error("interrupted", 0) end
  returned.same_weights("metric", m.name, model, version)
  if ok then return results end
  if require("medxai.tensor.chunks").is_out_of_memory(results) then error(results, 0) end
  if not m.told then
    job.run:warn(string.format("explain: metric %s failed, first on '%s': %s", m.name, tostring(ctx.item.path),
      check.words_of(results)))
  end
  m.told = true
  local out = {}
  for k in ipairs(m.ids) do out[k] = { value = 0 / 0, chance = 0 / 0, why = failed } end
  return out
end

-- Whether a metric runs the network: such values are not computed twice.
local function is_slow(m)
  return m.definition.needs ~= nil and m.definition.needs.model ~= nil and m.definition.needs.model ~= false
end

-- One map by these metrics, added to rows.
local function judge_map(job, metrics, subject, e, rows, known)
  local record = job:record(e, subject.number)
  local map, kept = nil, {}
  local drawn = job.exhibits and job.exhibits[subject.number] and {} or nil
  for _, m in ipairs(metrics) do
    local masks = judge.masks_of(job, subject.number, m)
    local results = not drawn and is_slow(m) and known_results(known, m, e, record, job.run.seed, masks) or nil
    if not results then
      map = map or job.store:map(record)
      local began = core.device.now()
      results = measured(job, m, map, contexts.new(subject, map, record, m, kept, drawn, e))
      job.metric_seconds[m.id] = (job.metric_seconds[m.id] or 0) + core.device.now() - began
    end
    for k, result in ipairs(results) do rows[#rows + 1] = row_of(e, job, record, m, k, result, masks) end
  end
  if drawn then job.exhibits[subject.number][e.set] = drawn end
end

--- The values of one map under all metrics of a job, for steps that keep their rows themselves. The map may be another
--- image's: record then says its status, and the target of this image.
---@param job table metric_entries, model, split, run, store with raws(record)
---@param subject table of score/context.lua
---@param map any tensor (H, W) or nil
---@param record table { target, status, image_id, raws }
---@param entry? table the method, where it may be asked for maps of changed images
---@return table[][] one list of { value, chance, why } per metric entry, one per value of it
function judge.values(job, subject, map, record, entry)
  local kept, out = {}, {}
  for i, m in ipairs(job.metric_entries) do
    local scope <close> = core.memory.scope() -- luacheck: ignore
    local began = core.device.now()
    out[i] = measured(job, m, map, contexts.new(subject, map, record, m, kept, nil, entry))
    job.metric_seconds[m.id] = (job.metric_seconds[m.id] or 0) + core.device.now() - began
  end
  return out
end

-- ---- all maps ---------------------------------------------------------------------------------------------------

local function slow_metrics(job)
  local list = {}
  for _, m in ipairs(job.metric_entries) do
    if is_slow(m) then list[#list + 1] = m end
  end
  return list
end

-- Rows by metric, then image, then method: as they are read.
local function in_order(job, rows)
  local rank = {}
  for _, m in ipairs(job.metric_entries) do
    for _, id in ipairs(m.ids) do rank[#rank + 1], rank[id] = id, #rank + 1 end
  end
  local by_metric, out = {}, {}
  for i in ipairs(rank) do by_metric[i] = {} end
  for _, row in ipairs(rows) do table.insert(by_metric[rank[row.metric]], row) end
  for _, list in ipairs(by_metric) do table.move(list, 1, #list, #out + 1, out) end
  return out
end

--- Raises where a metric's mask is one that none of the images has.
---@param job medxai.ExplainJob
function judge.check_masks(job)
  for _, m in ipairs(job.metric_entries) do
    for _, name in ipairs { m.mask or false, m.within or false } do
      local found = false
      for _, number in ipairs(name and job.chosen or {}) do
        local scope <close> = core.memory.scope()
        found = found or job.split.mask and job.split:mask(number, name) ~= nil
        if found then break end
      end
      if name and not found then
        check.fail("explain", "none of the %d images has a mask '%s' (metric %s).", #job.chosen, name, m.name)
      end
    end
  end
end

--- Whether any of a job's metrics runs the network.
---@param job medxai.ExplainJob
function judge.runs_network(job) return #slow_metrics(job) > 0 end

-- One image's maps by these metrics.
local function judge_image(job, metrics, number, known)
  local rows = {}
  local scope <close> = core.memory.scope()
  local subject <close> = contexts.subject(job, number)
  for _, e in ipairs(job.entries) do
    judge_map(job, metrics, subject, e, rows, known)
    if host.interrupted() then error("interrupted", 0) end
  end
  return rows
end

-- A row as scores.csv would give it back.
local function row_out(row)
  local out = { is_new = true }
  for key, value in pairs(row) do out[key] = type(value) == "number" and canon.number(value) or tostring(value) end
  return out
end

--- What is known of a job's values: the rows of scores.csv and those that processes have written since the step began.
---@param job medxai.ExplainJob
---@param new table[] rows of judge.some
---@return table
function judge.known(job, new)
  local known = #job.metric_entries > 0 and read_known(job.run.dir) or {}
  for _, row in ipairs(new) do known[key_of(row)] = row_out(row) end
  return known
end

--- The values of some images' maps under the metrics that run the network, for judge.maps to take up: but those of
--- which figures are drawn, since curves and pictures are not kept.
---@param job medxai.ExplainJob
---@param numbers integer[]
---@param known table of judge.known
---@param on_image fun(rows: table[]) takes an image's rows, plain data
function judge.some(job, numbers, known, on_image)
  local metrics = slow_metrics(job)
  for _, number in ipairs(#metrics > 0 and numbers or {}) do
    if not (job.exhibits and job.exhibits[number]) then on_image(judge_image(job, metrics, number, known)) end
  end
end

--- Every metric of every map.
---@param job medxai.ExplainJob
---@param known table of judge.known
---@return table[] rows
function judge.maps(job, known)
  if #job.metric_entries == 0 then return {} end
  local rows, chosen = {}, job.chosen
  local bar <close> = Progress.new("judge " .. job.split.name, #chosen)
  for done, number in ipairs(chosen) do
    local some = judge_image(job, job.metric_entries, number, known)
    table.move(some, 1, #some, #rows + 1, rows)
    bar:add(1)
    if job.run.heartbeat then job.run:heartbeat(string.format("judge %d/%d", done, #chosen)) end
  end
  return in_order(job, rows)
end

--- scores.csv (and overlap.csv) holds the rows of every such step of the run; those of the same map and metric are
--- replaced.
function judge.write_scores(path, columns, rows)
  if #rows == 0 then return end
  local fresh, all = {}, {}
  for _, row in ipairs(rows) do fresh[key_of(row)] = true end
  for _, row in ipairs(csv.read(path) or {}) do
    if not fresh[key_of(row)] then all[#all + 1] = row end
  end
  for _, row in ipairs(rows) do all[#all + 1] = row end
  csv.write(path, columns, all)
end

local function shown(v) return v == v and string.format("%.3f", v) or "undefined" end

local function between(low, high, form)
  return low == low and string.format("[" .. form .. ", " .. form .. "]", low, high) or ""
end

-- One metric's lines in one unit: a method a line, with its chance level where any method has one.
local function print_group(job, group)
  local s, chance, rows = group[1], false, {}
  for _, other in ipairs(group) do chance = chance or other.chance == other.chance end
  io.stdout:write(string.format("\n%s: %s, %s; %s\n", s.metric, s.unit or "value",
    job.by_metric[s.metric].definition.direction or "higher",
    units.words { level = s.level, interval = s.interval, resampled = s.resampled, note = s.note }))
  rows[1] = chance and { "method", "mean", "interval", "chance", "above chance", "images" }
    or { "method", "mean", "interval", "images" }
  for i, one in ipairs(group) do
    local lost = one.of - one.n
    local row = { one.label, shown(one.mean), between(one.low, one.high, "%.3f") }
    if chance then
      row[4], row[5] = shown(one.chance), one.above == one.above
        and string.format("%+.3f ", one.above) .. between(one.above_low, one.above_high, "%+.3f") or ""
    end
    row[#row + 1] = one.n .. (lost > 0 and string.format(" (%d undefined)", lost) or "")
      .. (one.why and one.n > 0 and "; no interval: " .. one.why or "")
    rows[i + 1] = row
  end
  io.stdout:write(text_table(rows, { right = { [2] = true, [4] = chance } }), "\n")
end

--- The summaries as tables on standard output.
function judge.print(job, summaries)
  if host.options.quiet then return end
  for _, group in ipairs(comparable(summaries)) do print_group(job, group) end
  if #summaries > 0 then io.stdout:write("\n") end
end

return judge
