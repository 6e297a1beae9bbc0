-- The audit in words and plain tables, for the terminal and the report's page. It refuses to compute.
local canon = require "medxai.base.json"
local combine = require "medxai.steps.audit_verdict"
local parts = require "medxai.steps.audit_parts"

local words = {}

local function number(v) return v ~= nil and v == v and (("%.2f"):format(v):gsub("^%-0%.00$", "0.00")) or "-" end

local function interval(r) return r.low == r.low and (" [%s, %s]"):format(number(r.low), number(r.high)) or "" end

local function said(v) return v and ", " .. v.verdict:gsub("_", " ") or "" end

-- ---- areas ----------------------------------------------------------------------------------------------------------

words.area_columns = { "witness", "input", "class", "seeds", "auroc", "low", "high", "p_above", "p_below", "verdict",
  "reason", "power_clear",
  "power_find_075", "power_find_085", "positives", "negatives", "n", "units" }

--- Rows of tables/audit.csv: every class of every input, by the cheap probe and by the trainings.
function words.area_rows(found)
  local out = {}
  for _, witness in ipairs { { "cheap probe", found.probe }, { "trainings", found.trained } } do
    for _, row in ipairs(witness[2] or {}) do
      local p, v = row.power or {}, row.verdict or {}
      out[#out + 1] = { witness = witness[1], input = row.input, class = row.class, seeds = row.seeds,
        auroc = row.area.mean, low = row.area.low,
        high = row.area.high, p_above = row.p_above, p_below = row.p_below, verdict = v.verdict,
          reason = v.reason or row.area.why, power_clear = p.clear,
        power_find_075 = p.find75, power_find_085 = p.find85, positives = p.positives, negatives = p.negatives,
          n = row.area.n, units = row.area.units }
    end
  end
  return out
end

-- One line per input, one column per class.
local function area_table(title, rows, note)
  local columns, lines, at, place = canon.list { "input" }, canon.list {}, {}, {}
  for _, row in ipairs(rows) do
    if not place[row.class] then
      columns[#columns + 1] = row.class
      place[row.class] = #columns
    end
    if not at[row.input] then
      at[row.input] = canon.list { row.input }
      lines[#lines + 1] = at[row.input]
    end
    at[row.input][place[row.class]] = number(row.area.mean) .. interval(row.area) .. said(row.verdict)
  end
  return { title = title, columns = columns, rows = lines, note = note }
end

local function as_text(t)
  local lines = { t.title }
  for _, row in ipairs(t.rows) do
    local cells = {}
    for c = 2, #row do cells[c - 1] = ("%s %s"):format(t.columns[c], row[c]) end
    lines[#lines + 1] = ("  %-10s %s"):format(row[1], table.concat(cells, "; "))
  end
  return table.concat(lines, "\n")
end

--- The cheap probe's table, to be printed before any training.
function words.probe(rows, seconds)
  return as_text(area_table(("audit: what 60 numbers of a 32 x 32 thumbnail tell (AUROC, %.1f s)"):format(seconds),
    rows))
end

-- ---- the other tables -----------------------------------------------------------------------------------------------

local function cells_table(found)
  local rows = canon.list {}
  for i, cell in ipairs(found.cells) do
    local j = cell.judged
    rows[i] = canon.list { cell.values.input, tostring(cell.values.seed), j and number(j.train_accuracy)
      or "not finished", j and number(j.accuracy) or "-" }
  end
  return { title = "The trainings", columns = canon.list { "input", "seed", "training accuracy", "test accuracy" },
    rows = rows }
end

local function as_words(v) return (v.verdict:gsub("_", " ")) end

local function retained_table(found)
  local rows = canon.list {}
  for i, row in ipairs(found.retained) do
    local b, m = row.removals.blur, row.removals.mean
    rows[i] = canon.list { row.class, number(row.whole), number(b.auc), number(b.share.mean) .. interval(b.share),
      number(m.auc), number(m.share.mean) .. interval(m.share), as_words(row.verdict) }
  end
  local columns = { "class", "AUROC, whole image", "AUROC, lungs blurred", "share kept", "AUROC, lungs at their mean",
    "share kept", "verdict" }
  local note = "Share kept: (AUROC without the lungs - 0.5) / (AUROC of the whole image - 0.5), with its 95 %% "
    .. "interval. Found: more than %g is kept, by both removals."
  return { title = ("The lungs replaced (%s)"):format(found.network), columns = canon.list(columns), rows = rows,
    note = note:format(parts.least_share) }
end

local function occlusion_table(found)
  local rows = canon.list {}
  for i, row in ipairs(found.occlusion) do
    local b, m = row.removals.blur, row.removals.mean
    rows[i] = canon.list { row.part, tostring(b.n), number(b.mean) .. interval(b),
      ("%s / %s"):format(number(b.changed), number(b.chance)), number(m.mean) .. interval(m),
      ("%s / %s"):format(number(m.changed), number(m.chance)), as_words(row.verdict) }
  end
  local columns = { "part", "images", "drop, blurred", "changed / elsewhere", "drop, mean", "changed / elsewhere",
    "verdict" }
  local note = ("Drop: of the true class's logit, with its 95 %% interval, beyond that of %d other places of the same "
    .. "shape. Found: above %s, which is %g standard deviations of the logit margin, by both removals. Changed / "
    .. "elsewhere: share of images whose prediction changes, and where as much is hidden elsewhere."):format(
    found.placebo, number(parts.least_drop * found.occlusion[1].deviation), parts.least_drop)
  return { title = "Parts hidden, against as much hidden elsewhere", columns = canon.list(columns), rows = rows,
    note = note }
end

local function sources_table(found)
  local rows = canon.list {}
  for i, row in ipairs(found.sources) do
    rows[i] = canon.list { row.class, row.auc and number(row.auc) or "-", row.null and number(row.null) or "-",
      row.p_holm == row.p_holm and ("%.3f"):format(row.p_holm) or "-",
      (row.verdict.verdict:gsub("_", " ")), row.verdict.reason or "" }
  end
  return { title = "Is the source known within a class?", columns = canon.list { "class", "AUROC", "by chance", "p",
    "verdict", "reason" }, rows = rows }
end

local function maps_table(found)
  local rows = canon.list {}
  for i, row in ipairs(found.maps) do
    rows[i] = canon.list { row.method, row.part, number(row.share.mean) .. interval(row.share), number(row.area.mean),
      number(row.swap.mean),
      number(row.gain.mean) .. interval(row.gain), row.gate, (row.verdict.verdict:gsub("_", " ")) }
  end
  local note = "Share of a map's energy in a part of the image (the lungs, the markers), with its 95 % interval; by "
    .. "chance it is the part's share of the image's area. Gain: over another patient's map on the same image."
  return { title = "Where maps lie", note = note, columns = canon.list { "method", "part", "map's share in it",
    "its area",
    "another patient's map", "gain", "gate", "verdict" }, rows = rows }
end

-- ---- sentences ------------------------------------------------------------------------------------------------------

-- Power of the smallest class to be cleared, and to be found.
local function power_text(rows, what)
  local least
  for _, row in ipairs(rows) do
    if row.power and (not least or row.power.clear < least.power.clear) then least = row end
  end
  if not least then return nil end
  local p = least.power
  return ("Power with %d %s of %s and %d others: a class that is not told is cleared with probability %.2f, one "
    .. "told with AUROC 0.75 found with %.2f, with 0.85 with %.2f.")
    :format(p.positives, what, least.class, p.negatives, p.clear, p.find75, p.find85)
end

local function shape_text(d)
  local text = { better = "The lungs tell more than their outline", worse = "The outline tells more than the lungs" }
  return ("%s (macro AUROC, lungs_raw minus shape %+.3f%s)."):format(text[d.verdict.verdict]
    or "It is not shown that the lungs tell more than their outline: the outline may suffice",
    d.mean, d.low == d.low and (", 95 %% interval %+.3f to %+.3f"):format(d.low, d.high) or "")
end

local function sentences_of(found)
  local v, list = found.verdict, canon.list {}
  list[1] = ("Verdict: %s%s."):format(v.verdict, v.reason and ": " .. v.reason or "")
  for _, witness in ipairs { { found.trained, "by the trainings" }, { found.probe, "by the cheap probe" } } do
    local told = witness[1] and combine.named(witness[1], "found") or ""
    if told ~= "" then list[#list + 1] = ("Told without the lungs %s: %s."):format(witness[2], told) end
  end
  list[#list + 1] = power_text(found.trained or found.probe, found.over.resampled)
  if found.lungs_beat_shape then list[#list + 1] = shape_text(found.lungs_beat_shape) end
  if found.trained then
    list[#list + 1] = "The verdicts on inputs speak of this recipe: a training that did not learn its own images "
      .. "finds nothing (see training accuracy)."
  end
  if found.no_parts then list[#list + 1] = ("Parts were not replaced: %s."):format(found.no_parts) end
  if (found.without_lungs or 0) > 0 then
    list[#list + 1] = ("Images without a lung mask, whose parts were not replaced: %d."):format(found.without_lungs)
  end
  if (found.spots or 0) > 0 then
    list[#list + 1] = ("%d bright spots were taken for markers: look at them in audit/markers.csv."):format(found.spots)
  end
  if found.left_out > 0 then
    list[#list + 1] = ("Images left out of all inputs, since an input refuses them: %d."):format(found.left_out)
  end
  return list
end

--- The step's result.
---@param found table
---@return table { title, verdict, reason, sentences, tables }
function words.result(found)
  local unit = ("AUROC of each class against the rest (chance 0.5), 95 %% intervals over %d %s%s; found and not found "
    .. "against %g, Holm's method over classes and inputs. Inputs: whole, the image as it is; lungs_raw, the lungs "
    .. "alone; outside, all but the lungs; border, what lies outside their rectangle; shape, their outline."):format(
    found.over.count,
    found.over.resampled, found.over.note and " (" .. found.over.note .. ")" or "", found.margin)
  local list = canon.list { area_table("Told by the cheap probe", found.probe, unit) }
  if found.trained then
    list[#list + 1] = area_table("Told by the trainings, mean over seeds", found.trained, unit)
    list[#list + 1] = cells_table(found)
  end
  if found.retained then list[#list + 1] = retained_table(found) end
  if found.occlusion then list[#list + 1] = occlusion_table(found) end
  list[#list + 1] = sources_table(found)
  if found.maps then list[#list + 1] = maps_table(found) end
  return { title = "Does the network need the lungs?", verdict = found.verdict.verdict, reason = found.verdict.reason,
    sentences = sentences_of(found), tables = list, resampled = found.over.resampled, note = found.over.note }
end

return words
