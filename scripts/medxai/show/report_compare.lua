-- What run:compare found, for the terminal and the report's page: sentences and plain tables in the form of
-- report_judged.lua. The primary metric is shown per model, the others by their verdicts; all numbers are in tables/.
-- It refuses to show a ranking that the comparison did not give.
local canon = require "medxai.base.json"
local metric = require "medxai.score.registry"
local tables = require "medxai.score.study_tables"

local words = {}

local function number(v, form) return v and v == v and (form or "%.3f"):format(v) or "" end

local function range(low, high, form)
  return low and low == low and ("[" .. form .. ", " .. form .. "]"):format(low, high) or ""
end

-- A metric for reading.
local function title_of(id, out) return metric.title(tables.short(id, out.data)) end

local function rank(row)
  if not row.rank_low then return "" end
  return row.rank_low == row.rank_high and tostring(row.rank_low) or row.rank_low .. "-" .. row.rank_high
end

-- "better" than all baselines, or not; a blank for the baselines themselves.
local function plain_word(word) return word or "" end

local function images(row)
  local lost = {}
  for _, kind in ipairs { "undefined", "failed" } do
    if (row[kind] or 0) > 0 then lost[#lost + 1] = ("%d %s"):format(row[kind], kind) end
  end
  return row.n .. (#lost > 0 and (" (%s)"):format(table.concat(lost, ", ")) or "")
end

local columns = { "method", "mean", "swap", "gain over swap", "above swap", "beats baselines", "rank", "first", "power",
  "gate", "images" }

-- A number with its interval.
local function between(v, low, high, form)
  local text, interval = number(v, form), range(low, high, form)
  return interval == "" and text or text .. " " .. interval
end

-- A text with its metrics' names for reading.
local function with_titles(text, out)
  for _, id in ipairs(out.data.metrics) do
    local short = tables.short(id, out.data)
    local from, to = text:find(short, 1, true)
    if from then text = text:sub(1, from - 1) .. metric.title(short) .. text:sub(to + 1) end
  end
  return text
end

-- The last column where it says the same in all rows: that goes into the title.
local function without_images(list)
  local first = list[1] and list[1][#columns]
  for _, row in ipairs(list) do
    if row[#columns] ~= first then return nil end
  end
  for _, row in ipairs(list) do row[#columns] = nil end
  return first
end

local function table_of(out, run, o)
  local list = canon.list {}
  for _, row in ipairs(out.methods) do
    if row.run == run and row.metric == o.primary then
      list[#list + 1] = canon.list { row.method, between(row.mean, row.low, row.high, "%.3f"), number(row.swap),
        between(row.gain, row.gain_low, row.gain_high, "%+.3f"), plain_word(row.above_swap),
        plain_word(row.beats_baselines), rank(row), number(row.p_best, "%.2f"), number(row.power, "%.2f"),
        (plain_word(row.gate):gsub("^gate ", "")), images(row) }
    end
  end
  local same = without_images(list)
  return { title = ("%s, %s (primary, %s is better)%s"):format(run, title_of(o.primary, out),
    out.data.directions[o.primary], same and (", %s images"):format(same) or ""),
    columns = canon.list(table.move(columns, 1, #columns - (same and 1 or 0), 1, {})), rows = list,
    note = run == out.data.runs[#out.data.runs]
      and ("In brackets: 95 %% intervals over %d %s. Swap: another patient's map of the same class, judged on this "
      .. "image; it is the method's own chance level. Gain: mean less swap, over the images where both are defined. "
      .. "Beats baselines: is better than each of them. Rank: from Holm-adjusted paired tests; ranges that overlap are "
      .. "undecided. First: share of resamples in which the method is first. Power: share of images in which its map "
      .. "is better than the swap, 0.5 by chance."):format(out.data.over.count, out.data.over.resampled) or nil }
end

local function friedman_of(out, run, o)
  local f = tables.friedman(out.data, run, o.primary)
  return f
    and ("%s: Friedman over %d blocks: chi2 %.3f, p %.4g; Iman and Davenport's F %.3f, p %.4g; "
      .. "Kendall's W %.3f."):format(run, f.n, f.chi2,
    f.p, f.f, f.p_f, f.w)
end

-- Which methods may be first, or that nobody can say.
local function ranking_sentence(out, run, o)
  if out.data.over.count < 10 then
    return ("%s: %d %s are too few for a ranking."):format(run, out.data.over.count, out.data.over.resampled)
  end
  if out.tells[run][o.primary] == false then
    return ("%s: by %s no method's map is shown to do better than another patient's map, so the ranking is not shown.")
      :format(run, title_of(o.primary, out))
  end
  local first = {}
  for _, r in ipairs(out.ranges[run][o.primary] or {}) do
    if r.low == 1 then first[#first + 1] = r.name end
  end
  return ("%s: by %s, %s first: %s."):format(run, title_of(o.primary, out), #first == 1 and "one method is"
    or #first .. " methods may be",
    table.concat(first, ", "))
end

local function other_metrics(out, run, o)
  local silent = {}
  for _, id in ipairs(out.data.metrics) do
    if id ~= o.primary and out.tells[run][id] == false then silent[#silent + 1] = title_of(id, out) end
  end
  return #silent > 0 and ("%s: other metrics that do not tell a map from another patient's (exploratory): %s.")
    :format(run, table.concat(silent, ", ")) or nil
end

local statistics = { tau_b = "Kendall's tau-b", W = "Kendall's W" }

local function stability_table(out)
  local list = canon.list {}
  for _, row in ipairs(out.stability) do
    local function name(id) return id and (out.data.directions[id] and title_of(id, out) or id) or "" end
    list[#list + 1] = canon.list { row.kind, row.run or "", name(row.metric), name(row.a), name(row.b),
      statistics[row.statistic] or row.statistic, number(row.value, "%.2f"), range(row.low, row.high, "%.2f"),
      row.verdict or "", row.n and ("%d"):format(row.n) or "" }
  end
  return { title = "Does the ranking depend on the metric, the network, the seed, the setting?", rows = list,
    part = "stability", note = ("Kendall's tau-b: 1 the same ranking, 0 unrelated ones, -1 the opposite; Kendall's W: "
      .. "1 the same ranking in all, 0 none. Intervals: 95 %%, by resampling %s. A ranking depends on what is compared "
      .. "where tau-b is below %g or the methods that may be first change."):format(out.data.over.resampled,
      tables.low_tau),
    columns = canon.list { "rankings over", "model", "metric", "first", "second", "statistic", "value", "interval",
      "verdict", "images" } }
end

-- Pairs of which at least one is no baseline. Long: the page alone has it.
local function agreement_table(rows, baselines)
  local list = canon.list {}
  local function is_baseline(name) return baselines[name:match ": (.*)$":gsub(", draw %d+$", "")] end
  for _, row in ipairs(rows) do
    if row.measure == "spearman" and row.view == "shown" and not (is_baseline(row.a) and is_baseline(row.b)) then
      list[#list + 1] = canon.list { row.kind, row.a, row.b, number(row.same, "%.2f"), number(row.strangers, "%.2f"),
        number(row.agreement, "%.2f"),
        range(row.low, row.high, "%.2f"), row.reason or "" }
    end
  end
  return { title = "Agreement of maps beyond that of different patients", rows = list, page_only = true,
    part = "agreement",
    note = "Spearman's rank correlation of the maps as shown, in the part of the image that all models see. Agreement "
      .. "= (same image - other patients) / (1 - other patients): 0 by chance, 1 the same maps; in brackets its 95 % "
      .. "interval.",
    columns = canon.list { "of", "first", "second", "same image", "other patients", "agreement", "interval",
      "reason" } }
end

--- Sentences and tables of a comparison.
---@param out table of compare.tabulate
---@param agreement table[] rows of tables/agreement.csv
---@param o table primary, partial, friedman, failed
---@return string[] sentences
---@return table[] tables
function words.of(out, agreement, o)
  local sentences, list = canon.list {}, canon.list {}
  if o.partial then sentences[1] = "PARTIAL: of " .. o.partial .. "." end
  if o.failed > 0 then
    sentences[#sentences + 1] = ("%d cells failed; their texts are in study/cells.jsonl."):format(o.failed)
  end
  for _, run in ipairs(out.data.runs) do
    list[#list + 1] = table_of(out, run, o)
    for _, sentence in ipairs { ranking_sentence(out, run, o), other_metrics(out, run, o) or false, o.friedman
      and friedman_of(out, run, o) or false } do
      if sentence then sentences[#sentences + 1] = sentence end
    end
  end
  for _, v in ipairs(out.verdicts) do
    if v.check == "stability" and v.verdict == "depends" then
      sentences[#sentences + 1] = with_titles(v.subject, out) .. ": " .. v.reason .. "."
    end
  end
  if #out.stability > 0 then list[#list + 1] = stability_table(out) end
  if #agreement > 0 then list[#list + 1] = agreement_table(agreement, out.data.baselines) end
  return sentences, list
end

return words
