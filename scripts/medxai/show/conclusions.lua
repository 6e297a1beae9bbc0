-- What a run of study steps concludes, in five sentences: read from the tables that the steps wrote (verdicts.csv,
-- tables/*.csv, steps/*.json), kept in conclusions.json, printed, and the first thing on the page. Each sentence names
-- the row of verdicts.csv that it was made from.
-- It refuses to say anything of a step that was not run but that it was not run.
local canon = require "medxai.base.json"
local csv = require "medxai.base.csv"
local files = require "medxai.base.files"
local gate = require "medxai.score.gate"
local html = require "medxai.show.html"
local units = require "medxai.stats.units"
local words = require "medxai.show.conclusion_words"

local conclusions = {}

-- ---- reading --------------------------------------------------------------------------------------------------------

-- Rows of a table whose columns of numbers are numbers; {} where there is none.
local function rows_of(dir, name, numbers)
  local rows = csv.read(files.join(dir, name)) or {}
  for _, row in ipairs(rows) do
    for _, column in ipairs(numbers) do row[column] = tonumber(row[column]) end
  end
  return rows
end

-- The finished step of a kind: "networks", "sanity", "compare", "audit". Single evaluations have no sentences.
local function step_of(steps, kind)
  for _, step in ipairs(steps) do
    if (step.name == kind or step.name:find("^" .. kind .. "%-%x+$")) and step.result.sentences then return step end
  end
end

local function read_networks(dir, step)
  local r = step.result
  local primary = step.fields.primary
  local n = { primary = primary, margin = tonumber(step.fields.margin),
    direction = (primary == "nll" or primary == "brier") and "lower" or "higher", chance = r.chance, scores = {},
    pairs = {}, units = r.units, images = r.n, resampled = r.resampled, note = r.note }
  for _, row in ipairs(rows_of(dir, "tables/networks.csv", { "value", "low", "high" })) do
    if row.score == n.primary and row.train_seed ~= "recipe" then
      n.scores[row.run] = { estimate = row.value, low = row.low, high = row.high }
    end
  end
  for _, p in ipairs(rows_of(dir, "tables/pairs.csv", { "estimate", "low", "high", "p_holm" })) do
    if p.family:find "^networks " and p.endpoint == n.primary then n.pairs[#n.pairs + 1] = p end
  end
  if (r.units or 0) < units.least then
    n.few = ("%d %s are too few for a verdict"):format(r.units or 0, r.resampled or "units")
  end
  return n
end

local function read_compare(dir, step, verdicts)
  local r = step.result
  local c = { primary = r.primary, short = r.primary:match "^[%w_]+", runs = {}, methods = {}, silent = {}, seen = {},
    partial = r.partial, direction = r.direction, units = r.units, images = r.images,
    resampled = r.resampled, note = r.note }
  local columns = { "rank_low", "rank_high", "mean", "low", "high", "gain", "gain_low", "gain_high", "p_best" }
  for _, row in ipairs(rows_of(dir, "tables/methods.csv", columns)) do
    if row.metric == r.primary then
      if not c.seen[row.run] then c.runs[#c.runs + 1], c.seen[row.run] = row.run, true end
      c.methods[#c.methods + 1] = row
    end
  end
  for _, v in ipairs(verdicts) do
    if v.check == "metric" and v.verdict == "cannot_tell" then
      for _, run in ipairs(c.runs) do
        if v.family == ("compare %s %s"):format(run, r.primary) then c.silent[run] = true end
      end
    end
  end
  if (r.units or 0) < units.least then c.few = ("%d %s are too few for a ranking"):format(r.units or 0, r.resampled) end
  return c
end

local function read_gate(step)
  local r = step.result
  local g = { lines = {}, wrong = {}, threshold = (r.thresholds or {}).persistence or gate.thresholds.persistence,
    thresholds = r.thresholds or {}, images = r.images, units = 0 }
  for _, m in ipairs(r.models) do
    for _, line in ipairs(m.methods) do
      local e = (line.checks.weights or {}).estimate or {}
      g.lines[#g.lines + 1] = { model = m.model, method = line.method, label = line.label,
        baseline = line.baseline or nil, state = line.state, failed = line.failed or {}, estimate = e.mean,
        low = e.low, high = e.high }
      if (e.units or 0) > g.units then g.units, g.resampled = e.units, e.resampled end
    end
    for name, came in pairs(m.controls or {}) do
      if not came then g.wrong[#g.wrong + 1] = name .. " on " .. m.model end
    end
  end
  if g.units < units.least then -- all is undecided, the controls as well
    g.wrong, g.few = {}, ("%d %s are too few for a verdict"):format(g.units, g.resampled or "images")
  end
  table.sort(g.wrong)
  return g
end

local function read_audit(dir, step, verdicts)
  local a = { verdict = step.result.verdict, reason = step.result.reason, margin = step.fields.margin, areas = {} }
  for _, v in ipairs(verdicts) do
    if v.family == "audit" and v.check == "audit" then a.network = v.subject end
  end
  a.areas = rows_of(dir, "tables/audit.csv", { "auroc", "low", "high", "power_find_085", "positives" })
  for _, row in ipairs(a.areas) do
    row.power_find, a.images, a.units = row.power_find_085, tonumber(row.n), tonumber(row.units)
  end
  a.resampled, a.note = step.result.resampled or "images", step.result.note
  return a
end

-- ---- how sure -------------------------------------------------------------------------------------------------------

local open_words = { undecided = true, confounded = true }

-- What a row of verdicts.csv is a part of: "networks", "explanations", "gate", "audit"; nil where it decides nothing
-- that the page begins with.
local function part_of(v, facts)
  if v.family:find "^networks " then return "networks" end
  if v.family:find "^audit" then return "audit" end
  local c = facts.compare
  if v.family:find "^compare " then
    return c and v.family:sub(-#c.primary) == c.primary and v.check ~= "metric" and "explanations" or nil
  end
  if v.family:find "^sanity " then
    for _, name in ipairs(gate.marking) do
      if v.check == name then return not facts.controls[v.subject] and "gate" or nil end
    end
  end
end

--- How many verdicts of each part are decided, undecided or not applicable, and the largest family.
---@param verdicts table[]
---@param facts table
---@return table counts { [part] = { decided, undecided, not_applicable } }
---@return integer tests
function conclusions.count(verdicts, facts)
  local counts, families, tests = {}, {}, 1
  for _, v in ipairs(verdicts) do
    local part = part_of(v, facts)
    if part then
      local n = counts[part] or { decided = 0, undecided = 0, not_applicable = 0 }
      counts[part] = n
      local key = open_words[v.verdict] and "undecided" or v.verdict == "not_applicable" and "not_applicable"
        or "decided"
      n[key] = n[key] + 1
      families[v.family .. v.check] = (families[v.family .. v.check] or 0) + 1
      if part ~= "gate" then tests = math.max(tests, families[v.family .. v.check]) end
    end
  end
  return counts, tests
end

-- What networks, explanations and the audit were judged on: { what, images, units, resampled, note }, explanations
-- first, since they have the fewest.
local function judged_on(facts)
  local list = {}
  for _, part in ipairs { { "explanations", "compare" }, { "networks", "networks" }, { "audit", "audit" } } do
    local f = facts[part[2]]
    if f and f.images then
      list[#list + 1] = { what = part[1], images = f.images, units = f.units, resampled = f.resampled or "images",
        note = f.note }
    end
  end
  if #list == 0 and facts.gate then
    local g = facts.gate
    list[1] = { what = "gate", images = g.images, units = g.units, resampled = g.resampled or "images" }
  end
  return list
end

local function read_sure(dir, facts, verdicts)
  local sure = { on = judged_on(facts), models = {}, decided = 0, undecided = 0 }
  local described = files.read_data(files.join(dir, "study/models.json")) or { models = {} }
  for i, m in ipairs(described.models) do sure.models[i] = { run_name = m.run_name } end
  sure.counts, sure.tests = conclusions.count(verdicts, facts)
  for _, c in pairs(sure.counts) do
    sure.decided, sure.undecided = sure.decided + c.decided, sure.undecided + c.undecided
  end
  local first = sure.on[1] or { units = 0, resampled = "images" }
  sure.units, sure.resampled, sure.note = first.units or 0, first.resampled, first.note
  return sure
end

--- What the steps of a run folder say.
---@param dir string
---@param steps table[] { name, result, fields } of the finished steps networks, sanity, compare, audit
---@return table|nil facts nil where none of these steps was run
function conclusions.read(dir, steps)
  local verdicts = rows_of(dir, "verdicts.csv", { "estimate", "low", "high", "threshold", "p_holm", "n", "units" })
  local facts, found = { verdicts = verdicts, controls = {} }, {}
  for _, kind in ipairs { "networks", "compare", "sanity", "audit" } do found[kind] = step_of(steps, kind) end
  if not next(found) then return nil end
  facts.networks = found.networks and read_networks(dir, found.networks)
  facts.compare = found.compare and read_compare(dir, found.compare, verdicts)
  facts.gate = found.sanity and read_gate(found.sanity)
  facts.audit = found.audit and read_audit(dir, found.audit, verdicts)
  for _, line in ipairs(facts.gate and facts.gate.lines or {}) do
    if line.baseline then facts.controls[line.label .. " on " .. line.model] = true end
  end
  facts.sure = read_sure(dir, facts, verdicts)
  return facts
end

-- ---- what is left and shown -----------------------------------------------------------------------------------------

--- The name of a verdict's row on the page.
---@param row table { family, subject, check }
---@return string
function conclusions.anchor(row)
  return "row-" .. files.sha256(("%s\0%s\0%s"):format(row.family, row.subject, row.check)):sub(1, 12)
end

local function plain(c)
  local out = {}
  for key, v in pairs(c) do
    if v == v then out[key] = v end
  end
  return out
end

--- Writes conclusions.json: { version, conclusions = five of medxai.Conclusion }.
---@param dir string
---@param list medxai.Conclusion[]
function conclusions.write(dir, list)
  local rows = canon.list {}
  for i, c in ipairs(list) do rows[i] = plain(c) end
  files.write_data(files.join(dir, "conclusions.json"), { version = 1, conclusions = rows })
end

--- Lines for the terminal.
---@param list medxai.Conclusion[]
---@return string[]
function conclusions.lines(list)
  local out = { "" }
  for i, c in ipairs(list) do out[i + 1] = ("%s %s"):format(c.question, c.sentence) end
  return out
end

local note = '<p class="note">In brackets: 95 % intervals. Chance: what knowing nothing would give. Undecided: the '
  .. "data allow neither answer. Each verdict is a link to its row.</p>"

--- The first screen of the page; what was not run stands last. rows: anchors of the verdicts' rows that the page has; a
--- sentence without one links to its part of the page.
---@param list medxai.Conclusion[]
---@param rows table<string, boolean>
---@return string
function conclusions.html(list, rows)
  local out = { '<ol class="conclusions">' }
  for _, last in ipairs { false, true } do
    for _, c in ipairs(list) do
      if (c.state == "not_run") == last then
        local anchor = c.row and conclusions.anchor(c.row)
        anchor = anchor and rows[anchor] and anchor or c.section
        out[#out + 1] = ('<li class="%s"><b>%s</b> <a href="#%s">%s</a> <span>%s</span></li>'):format(c.state,
          html.text(c.question), anchor, html.text(c.verdict), html.text(c.sentence))
      end
    end
  end
  out[#out + 1] = "</ol>\n" .. note
  return table.concat(out, "\n")
end

conclusions.part_of, conclusions.all = part_of, words.all

return conclusions
