-- Judges the maps of an explain step: every metric on every map into long rows, scores.csv, and a table to read.
-- One image's tensors are alive at a time, read back from the files, so that a resumed step judges the same numbers.
-- It refuses a mask that none of the images has.
local check = require "medxai.check"
local files = require "medxai.files"
local host = require "medxai.host"
local metric = require "medxai.metric"

local judge = {}

local function row_of(e, job, record, m, value, chance, why)
  return { image_id = record.image_id, path = record.path, patient = record.patient, source = record.source, model = job.model.name, seed = job.run.seed,
    method = e.method.name, maps = e.set, layer = table.concat(e.layers or {}, " "), target = e.description.text, metric = m.id, value = value, chance = chance,
    status = record.status, undefined = why, label = record.label, predicted = record.target.predicted,
    correct = record.label and tostring(record.label == record.target.predicted) or nil, confidence = record.target.confidence }
end

-- Every metric of every map; one image's tensors are alive at a time.
function judge.maps(job, chosen)
  local rows = {}
  for _, m in ipairs(job.metric_entries) do
    local had_mask = false
    for _, number in ipairs(chosen) do
      local scope <close> = require("medxai.core").memory.scope()
      local mask = m.mask and job.split:mask(number, m.mask) or nil
      had_mask = had_mask or mask ~= nil
      for _, e in ipairs(job.entries) do
        local record = job.store.records[e.set .. "/" .. job.split:item(number).id]
        local made = job.store:map(record)
        local value, chance, why = metric.measure(m, made, { mask = mask, status = record.status, record = record, model = job.model })
        rows[#rows + 1] = row_of(e, job, record, m, value, chance, why)
      end
      if host.interrupted() then error("interrupted", 0) end
    end
    if m.mask and not had_mask then
      check.fail("explain", "none of the %d images has a mask '%s' (metric %s).", #chosen, m.mask, m.name)
    end
  end
  return rows
end

-- scores.csv holds the rows of every explain step of the run; those of the same map and metric are replaced.
function judge.write_scores(dir, rows)
  if #rows == 0 then return end
  local path = dir .. "/scores.csv"
  local key = function(row) return row.maps .. "\0" .. row.image_id .. "\0" .. row.metric end
  local fresh, all = {}, {}
  for _, row in ipairs(rows) do fresh[key(row)] = true end
  for _, row in ipairs(files.read_csv(path) or {}) do
    if not fresh[key(row)] then all[#all + 1] = row end
  end
  for _, row in ipairs(rows) do all[#all + 1] = row end
  files.write_csv(path, metric.columns, all)
end

local function shown(v) return v == v and string.format("%.3f", v) or "undefined" end

local function between(low, high, form)
  return low == low and string.format("[" .. form .. ", " .. form .. "]", low, high) or ""
end

local line = "  %-24s %9s  %-16s %9s  %-23s %s\n"

--- The summaries as a table on standard output.
function judge.print(job, summaries)
  if host.options.quiet then return end
  local last
  for _, s in ipairs(summaries) do
    if s.metric ~= last then
      local d = job.by_metric[s.metric].definition
      io.stdout:write(string.format("\n%s: %s, %s is better; %d %% intervals over %s\n", s.metric, d.unit or "value", d.direction or "higher",
        math.floor(100 * s.level + 0.5), s.note and s.resampled .. " (" .. s.note .. ")" or s.resampled))
      io.stdout:write(string.format(line, "method", "mean", "interval", "chance", "above chance", "images"))
      last = s.metric
    end
    local lost = s.of - s.n
    io.stdout:write(string.format(line, s.label, shown(s.mean), between(s.low, s.high, "%.3f"), shown(s.chance),
      (s.above == s.above and string.format("%+.3f ", s.above) .. between(s.above_low, s.above_high, "%+.3f") or ""), s.n .. (lost > 0 and string.format(" (%d undefined)", lost) or "")))
  end
  if last then io.stdout:write("\n") end
end

return judge
