-- The tables of a comparison, made from the rows of study/scores.csv alone: each method's mean, its own chance level
-- and what it gains over that, ranges of ranks, pairs, whether a metric can tell a map from another patient's at all,
-- and how far rankings depend on metric, network, seed and setting. Blocks are patients of one model. It refuses a
-- ranking by a metric that tells nothing, one score of several metrics, and verdicts of fewer than ten patients.
local canon = require "medxai.base.json"
local check = require "medxai.base.check"
local multiple = require "medxai.stats.multiple"
local rankings = require "medxai.stats.rankings"
local units = require "medxai.stats.units"
local verdict = require "medxai.stats.verdict"

local tables = {}

tables.methods = { "run", "network", "seed", "metric", "method", "n", "units", "mean", "low", "high", "chance", "swap",
  "gain", "gain_low", "gain_high", "above_swap", "p_holm", "power", "power_low", "power_high", "noise", "rank_low",
    "rank_high",
  "p_best", "beats_baselines", "gate", "undefined", "failed", "forwards", "backwards", "interval", "partial" }
tables.strata = { "stratum", "run", "network", "seed", "metric", "method", "n", "units", "mean", "low", "high", "swap",
  "gain",
  "gain_low", "gain_high", "undefined", "failed", "interval", "partial" }
tables.stability = { "kind", "metric", "run", "a", "b", "statistic", "value", "low", "high", "winners_a", "winners_b",
  "verdict", "n", "units", "interval", "partial" }

tables.tau = { "run", "a", "b", "tau_b", "methods", "n" }

tables.low_tau = 0.6 -- rankings less alike than this depend on what differs between them

local nan = 0 / 0

-- ---- values --------------------------------------------------------------------------------------------------------

local function adder(list)
  local seen = {}
  return function(key)
    if seen[key] then return false end
    seen[key], list[#list + 1] = true, key
    return true
  end
end

-- Means over several values of one image (explainer seeds, several other patients); NaN ones do not count.
local function add(slot, i, value)
  if value ~= value then return end
  slot.sum[i], slot.count[i] = (slot.sum[i] or 0.0) + value, (slot.count[i] or 0) + 1
end

local function means_of(slot, n)
  local out = {}
  for i = 1, n do out[i] = slot.count[i] and slot.sum[i] / slot.count[i] or nan end
  return out
end

local function new_slot() return { sum = {}, count = {} } end

-- Where a value belongs; made when first named.
local function group_of(self, list, i)
  local key = list.run[i] .. "\0" .. list.metric[i] .. "\0" .. list.method[i]
  local g = self.groups[key]
  if not g then
    g = { value = new_slot(), swap = new_slot(), noise = new_slot(), chance = new_slot(), undefined = 0, failed = 0,
      rows = 0, swaps = 0,
      forwards = 0.0, backwards = 0.0 }
    self.groups[key] = g
  end
  return g
end

local function take_row(self, list, i, image)
  local g, value = group_of(self, list, i), list.value[i]
  if list.control[i] == "none" then
    add(g.value, image, value)
    add(g.chance, image, list.chance[i])
    g.rows = g.rows + 1
    if list.forwards[i] == list.forwards[i] then g.forwards, g.backwards = g.forwards + list.forwards[i],
      g.backwards + list.backwards[i] end
    if list.status[i] == "failed" or list.undefined[i] == "failed" then g.failed = g.failed + 1
    elseif value ~= value then g.undefined = g.undefined + 1 end
  elseif list.control[i] == "swap" then
    add(g.swap, image, value)
    g.swaps = g.swaps + 1
  elseif list.control[i] == "noise" then
    add(g.noise, image, value)
  end
end

--- Values by model, metric and method, of rows of score/study_rows.lua.
---@param list table columns
---@param options table seed; baselines = { [label] = true }; images? = { [id] = true }, metric?: of
---  these alone
---@return table data { images, patients, labels, runs, metrics, methods, directions, of(run, metric, method) }
function tables.gather(list, options)
  local self = { images = {}, patients = {}, labels = {}, runs = {}, metrics = {}, methods = {}, directions = {},
    units = {}, groups = {}, run = {},
    baselines = options.baselines or {}, seed = options.seed }
  local place = {}
  local run_of, metric_of, method_of = adder(self.runs), adder(self.metrics), adder(self.methods)
  for i = 1, list.n do
    local id = list.image_id[i]
    if (not options.images or options.images[id]) and (not options.metric or options.metric == list.metric[i]) then
      local image = place[id]
      if not image then
        image = #self.images + 1
        place[id], self.images[image], self.patients[image], self.labels[image] = image, id, list.patient[i],
          list.label[i]
      end
      if run_of(list.run[i]) then self.run[list.run[i]] = { network = list.network[i], seed = list.train_seed[i] } end
      if metric_of(list.metric[i]) then self.directions[list.metric[i]] = list.direction[i] end
      method_of(list.method[i])
      take_row(self, list, i, image)
    end
  end
  local n = #self.images
  for _, g in pairs(self.groups) do
    for _, name in ipairs { "value", "swap", "noise", "chance" } do g[name] = means_of(g[name], n) end
  end
  self.over = units.over(n, self.patients, { seed = options.seed, id = "compare" })
  function self.of(run, metric, method) return self.groups[run .. "\0" .. metric .. "\0" .. method] end
  return self
end

local function mean_of(values)
  local sum, n = 0.0, 0
  for _, v in ipairs(values) do
    if v == v then sum, n = sum + v, n + 1 end
  end
  return n > 0 and sum / n or nan, n
end

-- Standard deviation of one score under other draws of its metric: of pairs that differ by these alone; nil without
-- pairs.
local function noise_of(values, others)
  local sum, n = 0.0, 0
  for i, v in ipairs(values) do
    local d = v - others[i]
    if d == d then sum, n = sum + d * d, n + 1 end
  end
  return n > 0 and math.sqrt(sum / n / 2) or nil
end

-- ---- one model and metric ------------------------------------------------------------------------------------------

-- Holm over the differences of a family, then a verdict on each.
local function decide(list, direction)
  local p = {}
  for i, d in ipairs(list) do p[i] = d.p end
  local holm, out = multiple.holm(p), {}
  for i, d in ipairs(list) do
    local judged = setmetatable({ p = holm[i] }, { __index = d })
    local v = verdict.of("difference", judged, { direction = direction })
    out[i] = { p_holm = holm[i], verdict = v.verdict, reason = v.reason }
  end
  return out
end

local function is_ranking(data, metric) return data.directions[metric] ~= "none" end

-- Every method's mean, chance, gain and power under one metric of one model.
local function summaries(data, run, metric)
  local list, gains, over = {}, {}, data.over
  local direction = data.directions[metric]
  for k, method in ipairs(data.methods) do
    local g = data.of(run, metric, method)
    if g then
      local s = { method = method, baseline = data.baselines[method], g = g, place = k }
      s.mean, s.swap, s.chance = over:mean(g.value), mean_of(g.swap), mean_of(g.chance)
      s.gain = over:difference(g.value, g.swap, metric .. " swap " .. method)
      if is_ranking(data, metric) and g.swaps > 0 then
        s.power = over:mean(rankings.wins(g.value, g.swap, direction), { hits = true })
      end
      s.noise = noise_of(g.value, g.noise)
      list[#list + 1], gains[#gains + 1] = s, s.gain
    end
  end
  local decided = decide(gains, is_ranking(data, metric) and direction or "none")
  for i, s in ipairs(list) do s.above = decided[i] end
  return list
end

-- Whether any method's maps are told from another patient's: its power's interval, widened for the number of methods
-- (Bonferroni), lies above 0.5. nil where there was no such control, or too few patients with a value for an interval.
local function can_tell(data, list, metric, marks)
  if data.over.count < units.least then return nil end
  local asked = {}
  for _, s in ipairs(list) do
    if s.power and not s.baseline and s.power.units >= units.least then asked[#asked + 1] = s end
  end
  for _, s in ipairs(asked) do
    if s.power.low > 0.5 and not marks[s.method] then
      local wins = rankings.wins(s.g.value, s.g.swap, data.directions[metric])
      if data.over:mean(wins, { hits = true, level = 1 - 0.05 / #asked }).low > 0.5 then return true end
    end
  end
  if #asked > 0 then return false end
end

local function sums_positive(over) return over.count >= units.least end

-- Each method against all baselines at once.
local function against_baselines(data, list, metric)
  local bases, tests, tested = {}, {}, {}
  for _, s in ipairs(list) do
    if s.baseline then bases[#bases + 1] = s end
  end
  for _, s in ipairs(list) do
    if not s.baseline and #bases > 0 then
      local differences = {}
      for k, base in ipairs(bases) do
        differences[k] = data.over:difference(s.g.value, base.g.value, metric .. " " .. s.method .. " " .. base.method)
      end
      tests[#tests + 1], tested[#tested + 1] = multiple.each_of(differences, data.directions[metric]), s
    end
  end
  local decided = decide(tests, data.directions[metric])
  for i, s in ipairs(tested) do s.beats, s.beats_test = decided[i], tests[i] end
end

-- All pairs of methods; ranges of ranks and how often each is first.
local function ranked(data, list, run, metric)
  local names, values, tests, pairs_ = {}, {}, {}, {}
  local judged = {}
  for _, s in ipairs(list) do
    if not s.baseline then names[#names + 1], values[#values + 1], judged[#judged + 1] = s.method, s.g.value, s end
  end
  for i = 1, #names do
    for j = i + 1, #names do
      local d = data.over:difference(values[i], values[j], metric .. " " .. names[i] .. " " .. names[j])
      tests[#tests + 1] = d
      pairs_[#pairs_ + 1] = { family = ("compare %s %s"):format(run, metric), endpoint = metric, a = names[i],
        b = names[j], estimate = d.mean,
        low = d.low, high = d.high, p = d.p, test = d.test, n = d.n, units = d.units }
    end
  end
  for i, d in ipairs(decide(tests, data.directions[metric])) do
    local pair = pairs_[i]
    pair.p_holm, pair.decision, pair.verdict = d.p_holm, d.verdict, d.verdict
  end
  local ranges, best = rankings.ranges(names, pairs_), #names > 0 and rankings.best(data.over, values,
    data.directions[metric]) or {}
  for i, s in ipairs(judged) do s.rank, s.best = ranges[i], best[i] end
  for _, pair in ipairs(pairs_) do pair.verdict = nil end
  return pairs_
end

-- A metric's name to read: its bare name; where several are of that name, with the settings that tell them apart, by
-- which columns and sentences of one are known from those of another.
local function short(metric, data)
  local bare, all, n = metric:match "^[%w_]+", {}, 0
  for _, other in ipairs(data.metrics) do
    if other:match "^[%w_]+" == bare then
      n = n + 1
      for word in other:gmatch "%S+" do all[word] = (all[word] or 0) + 1 end
    end
  end
  if n == 1 then return bare end
  local words = { bare }
  for word in (metric:match "^%S+%s+(.*)$" or ""):gmatch "%S+" do
    if (all[word] or 0) < n then words[#words + 1] = word end
  end
  return #words > 1 and table.concat(words, " ") or metric
end

-- What the gate says of a method on a model: its mark, else "passed" or "undecided"; nil where it was not judged.
local function gate_word(run, method, o)
  return ((o.marks or {})[run] or {})[method] or ((o.states or {})[run] or {})[method]
end

local function row_of(data, run, metric, s, tells, o)
  local m, info = s.mean, data.run[run]
  local ranking = is_ranking(data, metric)
  local shows = ranking and tells ~= false and s.rank and sums_positive(data.over)
  return { run = run, network = info.network, seed = info.seed, metric = metric, method = s.method, n = m.n,
    units = m.units, mean = m.mean,
    low = m.low, high = m.high, chance = s.chance, swap = s.swap, gain = s.gain.mean, gain_low = s.gain.low,
      gain_high = s.gain.high,
    above_swap = s.g.swaps > 0 and s.above.verdict or nil, p_holm = s.g.swaps > 0 and s.above.p_holm or nil,
      power = s.power and s.power.mean,
    power_low = s.power and s.power.low, power_high = s.power and s.power.high, noise = s.noise, rank_low = shows
      and s.rank.low or nil,
    rank_high = shows and s.rank.high or nil, p_best = shows and s.best or nil, beats_baselines = ranking and s.beats
      and s.beats.verdict or nil,
    gate = gate_word(run, s.method, o), undefined = s.g.undefined, failed = s.g.failed,
      forwards = s.g.forwards / math.max(1, s.g.rows),
    backwards = s.g.backwards / math.max(1, s.g.rows), interval = m.interval, partial = o.partial }
end

-- ---- verdicts ------------------------------------------------------------------------------------------------------

local function verdict_rows(data, run, metric, list, tells, primary, out)
  local family = ("compare %s %s"):format(run, metric)
  local head = metric == primary and "primary" or "exploratory"
  if tells == false then
    out[#out + 1] = { subject = ("%s on %s"):format(short(metric, data), run), check = "metric",
      verdict = "cannot_tell", threshold = 0.5, family = family,
      reason = "cannot tell a map from another patient's map here: no method's power is above 0.5", n = #data.images,
        units = data.over.count }
  end
  for _, s in ipairs(list) do
    if not s.baseline and is_ranking(data, metric) then
      local function put(name, test, decided)
        out[#out + 1] = { subject = ("%s on %s"):format(s.method, run), check = name, verdict = decided.verdict,
          estimate = test.mean, low = test.low,
          high = test.high, threshold = 0.0, reason = decided.reason or head, family = family, p_holm = decided.p_holm,
            n = test.n, units = test.units }
      end
      if s.g.swaps > 0 then put("above_swap", s.gain, s.above) end
      if s.beats then put("beats_baselines", s.beats_test, s.beats) end
    end
  end
end

--- Tables of all models and metrics.
---@param data table of gather
---@param options table primary (a metric's id), marks = { [run] = { [method] = "weights" } }, partial (text or nil)
---@return table { methods, pairs, verdicts, tells = { [run] = { [metric] = boolean|nil } }, friedman }
function tables.of(data, options)
  local out = { methods = canon.list {}, pairs = canon.list {}, verdicts = canon.list {}, tells = {}, ranges = {} }
  local marks = options.marks or {}
  for _, run in ipairs(data.runs) do
    out.tells[run], out.ranges[run] = {}, {}
    for _, metric in ipairs(data.metrics) do
      local list, pairs_ = summaries(data, run, metric), {}
      local tells
      if is_ranking(data, metric) then
        tells = can_tell(data, list, metric, marks[run] or {})
        against_baselines(data, list, metric)
        pairs_ = ranked(data, list, run, metric)
      end
      out.tells[run][metric] = tells
      for _, s in ipairs(list) do
        out.methods[#out.methods + 1] = row_of(data, run, metric, s, tells, options)
        if s.rank then
          out.ranges[run][metric] = out.ranges[run][metric] or {}
          table.insert(out.ranges[run][metric], { name = s.method, low = s.rank.low, high = s.rank.high })
        end
      end
      table.move(pairs_, 1, #pairs_, #out.pairs + 1, out.pairs)
      verdict_rows(data, run, metric, list, tells, options.primary, out.verdicts)
    end
  end
  return out
end

-- ---- strata ---------------------------------------------------------------------------------------------------------

-- id -> "all_right" | "all_wrong" | "mixed": what the networks answer.
local function strata_of(list)
  local right, wrong, out = {}, {}, {}
  for i = 1, list.n do
    if list.correct[i] == "true" then right[list.image_id[i]] = true
    elseif list.correct[i] == "false" then wrong[list.image_id[i]] = true end
  end
  for i = 1, list.n do
    local id = list.image_id[i]
    if right[id] or wrong[id] then out[id] = right[id] and (wrong[id] and "mixed" or "all_right") or "all_wrong" end
  end
  return out
end
tables.strata_of = strata_of

--- The primary metric apart for images that all networks tell rightly, none does, or some do. They describe: no
--- decisions.
---@param list table columns of score/study_rows.lua
---@param options table seed, primary, baselines, partial
---@return table[] rows
function tables.strata_rows(list, options)
  local of, out = strata_of(list), canon.list {}
  for _, name in ipairs { "all_right", "mixed", "all_wrong" } do
    local ids = {}
    for id, stratum in pairs(of) do ids[id] = stratum == name or nil end
    local data = tables.gather(list, { seed = options.seed, baselines = options.baselines, images = ids,
      metric = options.primary })
    for _, run in ipairs(data.runs) do
      for _, s in ipairs(summaries(data, run, options.primary)) do
        local row = row_of(data, run, options.primary, s, nil, options)
        row.stratum = name
        for key in pairs(row) do
          local known = false
          for _, column in ipairs(tables.strata) do known = known or column == key end
          if not known then row[key] = nil end
        end
        out[#out + 1] = row
      end
    end
  end
  return out
end

-- ---- stability -----------------------------------------------------------------------------------------------------

-- Values of the methods that are ranked: [method][image].
local function values_of(data, run, metric, names)
  local list = {}
  for k, name in ipairs(names) do
    local g = data.of(run, metric, name)
    if not g then return nil end
    list[k] = g.value
  end
  return { values = list, direction = data.directions[metric] }
end

local function ranked_names(data)
  local names = {}
  for _, method in ipairs(data.methods) do
    if not data.baselines[method] then names[#names + 1] = method end
  end
  return names
end

-- Methods that may be the best: those of which none is better.
local function winners(ranges)
  local list = {}
  for _, r in ipairs(ranges or {}) do
    if r.low == 1 then list[#list + 1] = r.name end
  end
  return table.concat(list, " ")
end

-- A tau-b row, with its verdict.
local function tau_row(data, t, row, a, b, ranges_a, ranges_b)
  local r = rankings.tau_b(data.over, a, b)
  row.statistic, row.value, row.low, row.high, row.units, row.interval, row.partial = "tau_b", r.mean, r.low, r.high,
    r.units, r.interval, t.partial
  row.n, row.winners_a, row.winners_b = #data.images, winners(ranges_a), winners(ranges_b)
  if r.mean ~= r.mean or data.over.count < units.least then row.verdict = "undecided"
  elseif r.mean < tables.low_tau or row.winners_a ~= row.winners_b then row.verdict = "depends"
  else row.verdict = "stable" end
  t.rows[#t.rows + 1] = row
end

local function w_row(data, t, row, criteria)
  if #criteria < 2 then return end
  local r = rankings.concordance(data.over, criteria)
  row.statistic, row.value, row.low, row.high, row.units, row.interval, row.n, row.partial = "W", r.mean, r.low, r.high,
    r.units, r.interval,
    #data.images, t.partial
  t.rows[#t.rows + 1] = row
end

-- The ranking of each metric beside the primary one's, per model.
local function over_metrics(data, t, names, out)
  for _, run in ipairs(data.runs) do
    local criteria = {}
    for _, metric in ipairs(data.metrics) do
      local v = is_ranking(data, metric) and not t.setting_of[metric] and out.tells[run][metric] ~= false
        and values_of(data, run, metric, names)
      if v then
        criteria[#criteria + 1] = v
        if metric ~= t.primary and values_of(data, run, t.primary, names) then
          tau_row(data, t, { kind = "metrics", run = run, a = t.primary, b = metric },
            values_of(data, run, t.primary, names), v,
            out.ranges[run][t.primary], out.ranges[run][metric])
        end
      end
    end
    w_row(data, t, { kind = "metrics", run = run }, criteria)
  end
end

-- The ranking of each model beside every other one's: networks (first training of each), seeds of one network.
local function over_models(data, t, names, out, kind, runs)
  for _, metric in ipairs(data.metrics) do
    if is_ranking(data, metric) and not t.setting_of[metric] then
      local criteria, of = {}, {}
      for _, run in ipairs(runs) do
        local v = out.tells[run][metric] ~= false and values_of(data, run, metric, names)
        if v then criteria[#criteria + 1], of[#of + 1] = v, run end
      end
      w_row(data, t, { kind = kind, metric = metric, a = of[1], b = of[#of] }, criteria)
      for i = 1, metric == t.primary and #of or 0 do
        for j = i + 1, #of do
          tau_row(data, t, { kind = kind, metric = metric, a = of[i], b = of[j] }, criteria[i], criteria[j],
            out.ranges[of[i]][metric],
            out.ranges[of[j]][metric])
        end
      end
    end
  end
end

-- A metric's ranking beside the ones with other settings of it.
local function over_settings(data, t, names, out)
  for _, run in ipairs(data.runs) do
    for _, metric in ipairs(data.metrics) do
      local base = t.setting_of[metric]
      local a, b = base and values_of(data, run, base, names), base and values_of(data, run, metric, names)
      if a and b then
        tau_row(data, t, { kind = "settings", run = run, a = base, b = metric }, a, b, out.ranges[run][base],
          out.ranges[run][metric])
      end
    end
  end
end

-- The first training of each run name; and the trainings of those that have several.
local function model_groups(data, run_names)
  local firsts, groups, of = {}, {}, {}
  for _, run in ipairs(data.runs) do
    local name = run_names[run] or run
    if not of[name] then
      of[name] = {}
      firsts[#firsts + 1], groups[#groups + 1] = run, of[name]
    end
    table.insert(of[name], run)
  end
  return firsts, groups
end

--- How far rankings depend on metric, network, seed and setting: Kendall's W of all, tau-b of pairs, and whether the
--- methods that may be first are the same.
---@param data table of gather
---@param out table of tables.of
---@param options table primary, setting_of = { [metric id] = the id that it varies }, run_names = { [model] = run },
---  partial
---@return table[] rows
function tables.stability_of(data, out, options)
  local t = { rows = canon.list {}, primary = options.primary, setting_of = options.setting_of or {},
    partial = options.partial }
  local names = ranked_names(data)
  if #names < 2 then return t.rows end
  over_metrics(data, t, names, out)
  local firsts, groups = model_groups(data, options.run_names or {})
  if #firsts > 1 then over_models(data, t, names, out, "networks", firsts) end
  for _, runs in ipairs(groups) do
    if #runs > 1 then over_models(data, t, names, out, "seeds", runs) end
  end
  over_settings(data, t, names, out)
  return t.rows
end

--- How alike each two metrics rank the methods of each model: Kendall's tau-b of the methods' means, without intervals;
--- of metrics that rank and can tell maps apart.
---@param data table of gather
---@param out table of tables.of
---@param setting_of? table<string, string>
---@return table[] rows
function tables.metrics_tau(data, out, setting_of)
  local rows, names = canon.list {}, ranked_names(data)
  if #names < 2 then return rows end
  for _, run in ipairs(data.runs) do
    local list = {}
    for _, metric in ipairs(data.metrics) do
      local v = is_ranking(data, metric) and not (setting_of or {})[metric] and out.tells[run][metric] ~= false
        and values_of(data, run, metric, names)
      if v then list[#list + 1] = { metric = metric, v = v } end
    end
    for i, a in ipairs(list) do
      for j = i + 1, #list do
        rows[#rows + 1] = { run = run, a = a.metric, b = list[j].metric, methods = #names, n = #data.images,
          tau_b = rankings.tau_value(data.over, a.v, list[j].v) }
      end
    end
  end
  return rows
end

--- Verdict rows of the stability of the primary ranking.
---@param data table
---@param rows table[] of stability_of
function tables.stability_verdicts(data, rows)
  local out = {}
  for _, row in ipairs(rows) do
    if row.verdict then
      local what = row.kind == "metrics" and "metric" or row.kind == "settings" and "setting" or row.kind == "seeds"
        and "training seed" or "network"
      local reason = row.verdict ~= "depends" and row.verdict or row.winners_a ~= row.winners_b
        and ("the ranking depends on the %s: may be first %s, and %s"):format(what, row.winners_a, row.winners_b)
        or ("the ranking depends on the %s: tau-b below %g"):format(what, tables.low_tau)
      out[#out + 1] = { subject = ("%s and %s%s"):format(short(row.a, data), short(row.b, data), row.run and " on "
        .. row.run or ""),
        check = "stability", verdict = row.verdict, estimate = row.value, low = row.low, high = row.high,
          threshold = tables.low_tau, reason = reason,
        family = "compare stability", n = row.n, units = row.units }
    end
  end
  return out
end

--- Friedman's test of one model and metric, blocks are patients; nil where fewer than two methods or blocks have all
--- values.
---@return table|nil
function tables.friedman(data, run, metric)
  local names, blocks, sums = ranked_names(data), {}, {}
  if #names < 2 or not is_ranking(data, metric) then return nil end
  local v = values_of(data, run, metric, names)
  if not v then return nil end
  for i = 1, #data.images do
    local whole = true
    for k in ipairs(names) do whole = whole and v.values[k][i] == v.values[k][i] end
    if whole then
      local u = data.over.unit[i]
      sums[u] = sums[u] or { n = 0 }
      sums[u].n = sums[u].n + 1
      for k in ipairs(names) do sums[u][k] = (sums[u][k] or 0.0) + v.values[k][i] end
    end
  end
  for _, u in ipairs(check.sorted_keys(sums)) do
    local block = {}
    for k in ipairs(names) do block[k] = sums[u][k] / sums[u].n end
    blocks[#blocks + 1] = block
  end
  if #blocks < 2 then return nil end
  return rankings.friedman(blocks, data.directions[metric])
end

tables.short = short

return tables
