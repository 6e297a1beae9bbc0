-- The tables of run:sanity: study/similarity_gate.csv (one row per pair of maps), tables/gate.csv and verdicts.csv (one
-- row per model, method and check), a table on standard output, and the rows from which marks are read. A verdict
-- always stands with its estimate, and with the control that voided it where one did.
local canon = require "medxai.base.json"
local check = require "medxai.base.check"
local csv = require "medxai.base.csv"
local files = require "medxai.base.files"
local gate = require "medxai.score.gate"
local shared = require "medxai.run.tables"
local units = require "medxai.stats.units"

local tables = {}

tables.similarity_columns = { "image_id", "patient", "class", "kind", "a", "b", "stage", "draw", "view", "measure",
  "value" }
tables.stage_columns = { "model", "network", "train_seed", "method", "label", "settings", "control", "state", "failed",
  "stage", "alone", "layers", "of", "similarity", "draw_low", "draw_high", "draws", "stranger", "stranger_low",
  "stranger_high", "n", "units" }
tables.gate_columns = { "model", "network", "train_seed", "method", "label", "settings", "state", "check", "verdict",
  "estimate",
  "low", "high", "threshold", "reason", "ssim_estimate", "ssim_low", "ssim_high", "n", "units", "profile", "signed",
  "magnitude", "controls", "maps" }

-- ---- similarities --------------------------------------------------------------------------------------------------

---@class medxai.GateRows writes study/similarity_gate.csv line by line: a study has millions of them
local Rows = {}
Rows.__index = Rows

--- Opens the rows of a job; add() and add_stages() write, close() puts the file in its place.
function tables.rows(job)
  local self = setmetatable({ job = job, path = files.join(job.run.dir, "study", "similarity_gate.csv"), lines = {} },
    Rows)
  self.part = self.path .. ".part"
  files.remove(self.part)
  self.lines[1] = table.concat(tables.similarity_columns, ",")
  return self
end

local function flush(self)
  files.append(self.part, table.concat(self.lines, "\n") .. "\n")
  self.lines = {}
end

local function put(self, row)
  self.lines[#self.lines + 1] = csv.line(tables.similarity_columns, row)
  if #self.lines >= 4096 then flush(self) end
end

local function base_row(self, kind, p, e, i)
  local image = self.job.images[i]
  return { image_id = image.id, patient = image.patient, class = image.class, kind = kind, a = p.m.name .. "/"
    .. p.entries[e].set }
end

--- One similarity of image i's map of entry e of model p to another map, by both measures.
---@param kind string "stranger", "train_seed", "network", "permuted", "explainer_seed"
---@param other string what the other map is of
function Rows:add(kind, p, e, i, other, spearman, ssim)
  local row = base_row(self, kind, p, e, i)
  row.b, row.view = other, "shown"
  row.measure, row.value = "spearman", spearman
  put(self, row)
  row.measure, row.value = "ssim", ssim
  put(self, row)
end

--- All similarities under random weights: kind "stage", or "alone" where only the stage's own layers were random.
function Rows:add_stages()
  local views = { "shown", "signed", "magnitude", "shown" }
  for _, p in ipairs(self.job.models) do
    for _, cell in ipairs(p.cascade) do
      for at, e in ipairs(cell.places) do
        for i, values in ipairs(cell.values[at]) do
          local row = base_row(self, cell.alone and "alone" or "stage", p, e, i)
          row.b, row.stage, row.draw = "random weights", cell.number, cell.draw
          for k, value in ipairs(values) do
            row.view, row.measure, row.value = views[k], k == 4 and "ssim" or "spearman", value
            put(self, row)
          end
        end
      end
    end
  end
end

function Rows:close()
  flush(self)
  files.rename(self.part, self.path)
end

-- ---- verdicts ------------------------------------------------------------------------------------------------------

local function controls_text(came)
  local words = {}
  for _, name in ipairs(check.sorted_keys(came)) do words[#words + 1] = name .. (came[name] and " as it must"
    or " NOT as it must") end
  return table.concat(words, "; ")
end

-- "46 ok, 2 flat": what became of the trained network's maps.
local function statuses_text(counts)
  local words = {}
  for _, status in ipairs(check.sorted_keys(counts)) do words[#words + 1] = string.format("%d %s", counts[status],
    status) end
  return table.concat(words, ", ")
end

local function persistence_text(r) return r and r.mean == r.mean and string.format("%.17g", r.mean) or nil end

local function gate_rows(result)
  local rows = {}
  for _, m in ipairs(result.models) do
    local controls = controls_text(m.controls)
    for _, line in ipairs(m.methods) do
      for _, name in ipairs(gate.checks) do
        local v = line.checks[name]
        local r, s, profile = v.estimate, v.ssim or {}, {}
        for k, p in ipairs(name == "weights" and line.profile or {}) do profile[k] = string.format("%.17g", p) end
        rows[#rows + 1] = { model = m.model, network = m.network, train_seed = m.train_seed, method = line.method,
          label = line.label,
          settings = line.settings, state = line.state, check = name, verdict = v.verdict, estimate = r.mean,
            low = r.low, high = r.high,
          threshold = r.threshold, reason = v.reason or r.why, ssim_estimate = s.mean, ssim_low = s.low,
            ssim_high = s.high, n = r.n,
          units = r.units, profile = #profile > 0 and table.concat(profile, " ") or nil, controls = controls,
          maps = statuses_text(line.statuses),
          signed = name == "weights" and persistence_text(line.views.signed) or nil,
          magnitude = name == "weights" and persistence_text(line.views.magnitude) or nil }
      end
    end
  end
  return rows
end

-- A row per model, method and stage; `stranger` is the likeness of different patients' maps, of the check image.
local function stage_rows(result)
  local rows = {}
  for _, m in ipairs(result.models) do
    for _, line in ipairs(m.methods) do
      local b = line.checks.image.estimate
      for _, s in ipairs(line.course) do
        local several = s.draws > 1
        rows[#rows + 1] = { model = m.model, network = m.network, train_seed = m.train_seed, method = line.method,
          label = line.label, settings = line.settings, control = line.baseline and "yes" or nil, state = line.state,
          failed = #line.failed > 0 and table.concat(line.failed, ", ") or nil, stage = s.stage,
          alone = s.alone and "yes" or nil, layers = s.layers, of = s.of, similarity = s.similarity,
          draw_low = several and s.low or nil, draw_high = several and s.high or nil, draws = s.draws,
          stranger = b.mean, stranger_low = b.low, stranger_high = b.high, n = b.n, units = b.units }
      end
    end
  end
  return rows
end

--- Writes tables/gate.csv, tables/gate_stages.csv, verdicts.csv and the similarities.
---@param run medxai.Run
---@param result table
---@param rows medxai.GateRows
function tables.write(run, result, rows)
  rows:close()
  local lines, verdicts = gate_rows(result), {}
  shared.write(run, "tables/gate.csv", tables.gate_columns, lines)
  shared.write(run, "tables/gate_stages.csv", tables.stage_columns, stage_rows(result))
  for i, row in ipairs(lines) do
    verdicts[i] = { subject = row.label .. " on " .. row.model, check = row.check, verdict = row.verdict,
      estimate = row.estimate, low = row.low,
      high = row.high, threshold = row.threshold, reason = row.reason,
      family = "sanity " .. row.model .. " " .. row.check, controls = row.controls, n = row.n, units = row.units }
  end
  shared.put(run, "verdicts.csv", shared.verdicts, "sanity", verdicts)
end

--- The rows that marks are read from (gate.save).
function tables.marks(result)
  local rows = canon.list {}
  for _, m in ipairs(result.models) do
    for _, line in ipairs(m.methods) do
      rows[#rows + 1] = { model = m.model, network = m.network, weights_sha256 = m.weights_sha256, method = line.method,
        settings = line.settings, state = line.state, failed = canon.list(line.failed) }
    end
  end
  return rows
end

-- ---- to read -------------------------------------------------------------------------------------------------------

local words = { pass = "pass", fail = "FAIL", undecided = "undecided", not_applicable = "-" }

--- "0.42 [0.31, 0.52] FAIL" of one check.
function tables.cell(v)
  local r = v.estimate
  if v.verdict == "not_applicable" then return "-" end
  local between = r.low and r.low == r.low and string.format(" [%.2f, %.2f]", r.low, r.high) or ""
  return (r.mean == r.mean and string.format("%.2f", r.mean) or "undefined") .. between .. " " .. words[v.verdict]
end

--- The checks that any method of the result was judged by, in order.
function tables.judged(result)
  local list = {}
  for _, name in ipairs(gate.checks) do
    local any = false
    for _, m in ipairs(result.models) do
      for _, line in ipairs(m.methods) do any = any or line.checks[name].verdict ~= "not_applicable" end
    end
    if any then list[#list + 1] = name end
  end
  return list
end

-- The most patients (images, where those are unknown) that a check of a model was judged by, and which of them it is.
local function units_of(m)
  local most, what = 0, "images"
  for _, line in ipairs(m.methods) do
    for _, v in pairs(line.checks) do
      local estimate = v.estimate or {}
      most, what = math.max(most, estimate.units or 0), estimate.resampled or what
    end
  end
  return most, what
end

--- What the controls of a model say, in a sentence.
function tables.controls_sentence(m)
  local judged_by, what = units_of(m)
  if judged_by < units.least then
    return string.format("%d %s are too few (%d are needed): nothing here is decided, nor can the "
      .. "controls come out.", judged_by, what, units.least)
  end
  local wrong, n = {}, 0
  for _, name in ipairs(check.sorted_keys(m.controls)) do
    n = n + 1
    if not m.controls[name] then wrong[#wrong + 1] = name end
  end
  if #wrong > 0 then return "Controls that did not come out as they must: " .. table.concat(wrong, ", ")
    .. ". Nothing here is decided." end
  return n > 0 and string.format("All %d controls came out as they must.", n) or "No control could be judged."
end

local meanings = {
  image = "likeness of the maps of different patients; passes below %g (else one map serves nearly all images)",
  weights = "persistence: what is left of a map when the weights are random, beyond what other patients' maps share "
    .. "with it; passes below %g",
  learned = "how much more a map resembles that of another training than that of random weights; passes above %g",
  labels = "what a network trained on permuted labels leaves of a map; passes below %g",
  ["repeat"] = "likeness of two runs of the method itself; passes above %g",
  retrain = "agreement with another training of the network; passes above %g",
  architecture = "agreement with another network; passes above %g",
  localise = "gain of AUPRC against the mask over another patient's map and each baseline; passes above %g",
}

-- What each check compares, and from where on it passes.
local function legend(names, thresholds)
  local list = {}
  for i, name in ipairs(names) do
    local limit = thresholds[name == "weights" and "persistence" or name]
    list[i] = ("%s: %s."):format(name, meanings[name]:format(limit))
  end
  return "Checks. " .. table.concat(list, " ") .. " Undecided: the interval holds the limit."
end

-- One network: its methods, then the controls; a row each.
local function table_of(m, all, images)
  local names, over = {}, "patients"
  for _, name in ipairs(all) do -- those by which any method of this network was judged
    local any = false
    for _, line in ipairs(m.methods) do
      local v = line.checks[name]
      any = any or v.verdict ~= "not_applicable"
      over = v.estimate and v.estimate.resampled or over
    end
    if any then names[#names + 1] = name end
  end
  local columns, rows = { "method", "gate", table.unpack(names) }, {}
  for _, control in ipairs { false, true } do
    for _, line in ipairs(m.methods) do
      if (line.baseline and true or false) == control then
        local row = { line.label, control and "control" or line.state }
        for _, name in ipairs(names) do row[#row + 1] = tables.cell(line.checks[name]) end
        rows[#rows + 1] = row
      end
    end
  end
  return { title = string.format("Gate of %s, %d images", m.model, images), columns = columns, rows = rows,
    note = ("%s Brackets: 95 %% intervals over %s; for the check 'weights' also over draws of random weights."):format(
      tables.controls_sentence(m), over) }
end

-- The course of a cascade: what is left of a map's likeness beyond that of strangers, from the head to the input.
local function course_of(m)
  local most, rows = 0, {}
  local function fixed(v) return v and v == v and string.format("%.2f", v) or "" end
  for _, line in ipairs(m.methods) do most = math.max(most, #line.profile) end
  for _, line in ipairs(m.methods) do
    local row = { line.label }
    for k = 1, most do row[k + 1] = #line.profile == most and fixed(line.profile[k]) or "" end
    if #line.profile == 2 and most > 2 then row[2], row[most + 1] = fixed(line.profile[1]), fixed(line.profile[2]) end
    row[#row + 1] = fixed(line.checks.weights.estimate.mean)
    row[#row + 1] = fixed(line.views.signed.mean)
    row[#row + 1] = fixed(line.views.magnitude.mean)
    rows[#rows + 1] = row
  end
  local columns = { "method" }
  for k = 1, most do columns[k + 1] = k == 1 and "head" or "stage " .. k end
  for _, name in ipairs { "persistence", "of signed maps", "of magnitudes" } do columns[#columns + 1] = name end
  return { title = "Random weights from the output back, " .. m.model, columns = columns, rows = rows,
    note = "Likeness to the trained map beyond that of other patients' maps, 1: nothing changes, 0: nothing is left. "
      .. "Head: the last layer alone is random; last stage: all layers are. Persistence: their mean, negative ones as "
      .. "0; beside it the same of signed maps and of magnitudes." }
end

local function sentences_of(result)
  local failed, n, count = {}, 0, { passed = 0, failed = 0, undecided = 0 }
  for _, m in ipairs(result.models) do
    for _, line in ipairs(m.methods) do
      if not line.baseline then n, count[line.state] = n + 1, count[line.state] + 1 end
      if not line.baseline and line.state == "failed" then
        failed[#failed + 1] = string.format("%s on %s (%s)", line.label, m.model, table.concat(line.failed, ", "))
      end
    end
  end
  local list = { string.format("Of %d pairs of a method and a network %d passed the gate, %d failed, %d %s "
    .. "undecided.", n, count.passed, count.failed, count.undecided, count.undecided == 1 and "is" or "are") }
  if #failed > 0 then
    list[2] = string.format("Failed: %s. They are marked from here on.", table.concat(failed, "; "))
  end
  return list
end

--- Adds what is shown of a result, on the terminal and on the page: title, sentences, tables.
---@param result table
function tables.show(result)
  local names = tables.judged(result)
  result.title, result.sentences, result.tables = result.title or "The gate: do maps depend on what they explain?",
    canon.list(sentences_of(result)), canon.list {}
  for k, m in ipairs(result.models) do
    local of = table_of(m, names, result.images)
    if k == 1 then of.note = of.note .. " " .. legend(names, result.thresholds) end
    result.tables[#result.tables + 1] = of
    result.tables[#result.tables + 1] = course_of(m)
  end
end

return tables
