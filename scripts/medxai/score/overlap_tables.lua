-- The numbers of run:overlap: a row per image, method and metric; for each metric means with intervals by method, by
-- size of the finding and by correctness, and paired differences to the best baseline; all of it as text for the
-- terminal. It refuses to mix findings under 0.1 % of the crop into any other mean.
local canon = require "medxai.base.json"
local cuts = require "medxai.score.binarize"
local host = require "medxai.host"
local multiple = require "medxai.stats.multiple"
local text_table = require "medxai.base.text_table"
local tiny = require("medxai.score.overlap_findings").tiny
local units = require "medxai.stats.units"

local tables = {}

-- ---- rows -----------------------------------------------------------------------------------------------------------

tables.columns = { "image_id", "path", "patient", "method", "maps", "metric", "value", "chance", "undefined",
  "size_share", "size", "cropped_share", "outside_lungs_share", "correct", "threshold" }

local function row_of(f, entry, record, metric, value, chance, why, hit)
  return { image_id = f.item.id, path = f.item.path, patient = f.item.patient or "unknown", method = entry.label,
    maps = entry.set, metric = metric, value = value, chance = chance,
    hit = hit, undefined = why, size_share = f.share, size = f.size, cropped_share = f.cropped,
    outside_lungs_share = f.outside, correct = record.label and tostring(record.label == record.target.predicted)
    or nil, baseline = entry.baseline }
end

--- The scores that run:explain gave these maps, with what is known of their findings.
---@param base table run:explain's result
function tables.scored(base, findings, entries, ids)
  local by_key = {}
  for _, row in ipairs(base.rows) do by_key[row.maps .. "\0" .. row.image_id .. "\0" .. row.metric] = row end
  local rows = {}
  for _, id in ipairs(ids) do
    for i, f in ipairs(findings) do
      for k, entry in ipairs(entries) do
        local found = by_key[entry.set .. "\0" .. f.item.id .. "\0" .. id]
        if found then
          local why = found.undefined and (f.why or found.undefined)
          local record = base.records[(i - 1) * #entries + k]
          rows[#rows + 1] = row_of(f, entry, record, id, found.value, found.chance, why, found.unit == "hit")
        end
      end
    end
  end
  return rows
end

function tables.tuned_id(key, how) return key .. "@1 threshold=" .. how end

-- Why a map has no threshold: by the finding, the map, or the others.
local function why_uncut(finding, record, curve)
  if finding.share < tiny then return "finding under 0.1 %" end
  if curve then return "no other finding to choose a threshold on" end
  if record.status == "failed" or record.status == "not_defined" then return "no map" end
  if record.status == "saturated" then return "map is saturated" end
  return record.status == "nan" and "not a number" or "map without contrast"
end

--- IoU and Dice at thresholds chosen on other images.
function tables.tuned(base, findings, entries, curves, threshold_of, how)
  local rows = {}
  for _, key in ipairs { "iou", "dice" } do
    local id = tables.tuned_id(key, how)
    for i, f in ipairs(findings) do
      for k, entry in ipairs(entries) do
        local curve, at = curves[i][entry.set], nil
        if curve then at = threshold_of(i, entry.set, key) end
        local record = base.records[(i - 1) * #entries + k]
        local row = row_of(f, entry, record, id, at and curve[key][at] or 0 / 0,
          at and curve["chance_" .. key][at] or 0 / 0, f.why or not at and why_uncut(f, record, curve) or nil)
        row.threshold = at and (at - 1) / cuts.levels
        rows[#rows + 1] = row
      end
    end
  end
  return rows
end

-- ---- tables ---------------------------------------------------------------------------------------------------------

-- Rows of one entry and metric, an image each: the values wanted, NaN elsewhere.
local function values_of(rows, wanted)
  local values = {}
  for i, row in ipairs(rows) do values[i] = wanted(row) and row.value or 0 / 0 end
  return values
end

local function mean_of(list)
  local sum, n = 0.0, 0
  for _, v in ipairs(list) do
    if v == v then sum, n = sum + v, n + 1 end
  end
  return n > 0 and sum / n or 0 / 0
end

local function cell(rows, wanted, over)
  local values, chances = values_of(rows, wanted), {}
  local s = over:mean(values, { hits = rows[1].hit })
  for i, v in ipairs(values) do chances[i] = v == v and rows[i].chance or 0 / 0 end
  s.chance = mean_of(chances)
  return s
end

local function large_enough(row) return row.size ~= nil and row.size_share >= tiny end

-- Strata besides the whole: sizes, then correct and wrong predictions; only those that hold an image. And how many are
-- sizes.
local function strata_of(rows, o)
  local list = {}
  local function add(name, wanted)
    for _, row in ipairs(rows) do
      if wanted(row) then
        list[#list + 1] = { name = name, wanted = wanted }
        return
      end
    end
  end
  for _, name in ipairs(o.size_names) do add(name, function(row) return row.size == name end) end
  local sizes = #list
  add("predicted right", function(row) return large_enough(row) and row.correct == "true" end)
  add("predicted wrong", function(row) return large_enough(row) and row.correct == "false" end)
  return list, sizes
end

-- The baseline with the best mean over the images on which all baselines are defined; one that is defined on few (whole
-- lung, where most images have no lung mask) is none.
local function best_baseline(lines, by_entry, direction)
  local most, candidates, sums, best = 0, {}, {}, nil
  for _, line in ipairs(lines) do
    if line.baseline then most = math.max(most, line.all.n) end
  end
  for _, line in ipairs(lines) do
    if line.baseline and line.all.n > 0 and line.all.n >= most / 2 then
      candidates[#candidates + 1] = { line = line, values = values_of(by_entry[line.maps], large_enough) }
    end
  end
  for i in ipairs(candidates[1] and candidates[1].values or {}) do
    local all = true
    for _, c in ipairs(candidates) do all = all and c.values[i] == c.values[i] end
    for k, c in ipairs(all and candidates or {}) do sums[k] = (sums[k] or 0.0) + c.values[i] end
  end
  for k, c in ipairs(candidates) do
    local score = sums[k] and (direction == "lower" and -sums[k] or sums[k]) or -math.huge
    if not best or score > best.score then best = { line = c.line, score = score } end
  end
  return best and best.line
end

-- One metric: a line an entry with its mean, strata, and difference to the best baseline.
local function metric_table(id, by_entry, entries, over, strata, direction)
  local lines = {}
  for k, entry in ipairs(entries) do
    local rows = by_entry[entry.set]
    local line = { method = entry.label, maps = entry.set, baseline = entry.baseline,
      all = cell(rows, large_enough, over), strata = canon.list {} }
    for i, s in ipairs(strata) do line.strata[i] = cell(rows, s.wanted, over) end
    lines[k] = line
  end
  local best, tests, ps = best_baseline(lines, by_entry, direction), {}, {}
  for k, line in ipairs(lines) do
    if best and not line.baseline then
      line.difference = over:difference(values_of(by_entry[line.maps], large_enough),
        values_of(by_entry[best.maps], large_enough), id .. line.maps)
      tests[#tests + 1], ps[#ps + 1] = k, line.difference.p
    end
  end
  for i, p in ipairs(multiple.holm(ps)) do lines[tests[i]].difference.p_holm = p end
  return { metric = id, best = best and best.method, lines = canon.list(lines) }
end

--- A table a metric, in the order of the rows, and the names of the strata.
---@return table[] list of { metric, title, sizes = how many strata are sizes, best = the best baseline's label, lines =
---   list of { method, baseline, all, strata, difference } }
function tables.of(rows, entries, o, seed, titles, directions)
  local order, by_metric = {}, {}
  for _, row in ipairs(rows) do
    if not by_metric[row.metric] then
      by_metric[row.metric] = {}
      order[#order + 1] = row.metric
    end
    local of = by_metric[row.metric]
    of[row.maps] = of[row.maps] or {}
    table.insert(of[row.maps], row)
  end
  local names, list, patients = canon.list {}, canon.list {}, {}
  for i, row in ipairs(order[1] and by_metric[order[1]][entries[1].set] or {}) do patients[i] = row.patient end
  local over = units.over(#patients, patients, { seed = seed })
  local strata, sizes = strata_of(rows, o)
  for i, s in ipairs(strata) do names[i] = s.name end
  for i, id in ipairs(order) do
    list[i] = metric_table(id, by_metric[id], entries, over, strata, directions[id])
    list[i].title, list[i].sizes, list[i].direction = titles[id], sizes, directions[id]
    if host.interrupted() then error("interrupted", 0) end
  end
  local cells = {}
  for _, one in ipairs(list) do
    for _, line in ipairs(one.lines) do
      cells[#cells + 1] = line.all
      table.move(line.strata, 1, #line.strata, #cells + 1, cells)
    end
  end
  return list, names, units.words(cells)
end

--- What was cut off: means over findings, and how many images had what kind of finding.
function tables.facts(findings, o)
  local cropped, outside, why, sizes = {}, {}, {}, {}
  for _, f in ipairs(findings) do
    if f.why then why[f.why] = (why[f.why] or 0) + 1 end
    if f.size then sizes[f.size] = (sizes[f.size] or 0) + 1 end
    if f.cropped and f.why ~= "empty mask" then cropped[#cropped + 1] = f.cropped end
    if f.outside then outside[#outside + 1] = f.outside end
  end
  local touched = 0
  for _, c in ipairs(cropped) do touched = touched + (c > 0 and 1 or 0) end
  local counts = canon.list {}
  for _, name in ipairs(o.size_names) do counts[#counts + 1] = { name = name, images = sizes[name] or 0 } end
  return { images = #findings, undefined = why, sizes = counts, cropped_mean = mean_of(cropped),
    cropped_images = touched, outside_lungs_mean = mean_of(outside) }
end

-- ---- as text --------------------------------------------------------------------------------------------------------

local function fixed(v, signed) return v == v and string.format(signed and "%+.3f" or "%.3f", v) or "undefined" end

local function between(s, signed)
  return s.low == s.low and string.format(signed and "[%+.3f, %+.3f]" or "[%.3f, %.3f]", s.low, s.high) or ""
end

local function p_text(p)
  if p ~= p then return "" end
  return p < 0.001 and "p < 0.001" or string.format("p = %.3f", p)
end

--- "+0.123 [+0.045, +0.201], p = 0.012": a difference with its interval and Holm's p; how many images it is of where
--- that is not all.
function tables.difference_text(line)
  local d = line.difference
  if not d or d.n == 0 then return "" end
  local text = fixed(d.mean, true) .. (d.low == d.low and " " .. between(d, true) .. ", " .. p_text(d.p_holm)
    or " (no interval: " .. (d.why or "undefined") .. ")")
  return d.n == line.all.n and text or string.format("%s, n = %d", text, d.n)
end

--- Sentences about the findings: sizes, what was cut off, what is undefined.
function tables.sentences(result)
  local f, sizes, undefined = result.facts, {}, {}
  for i, s in ipairs(f.sizes) do sizes[i] = string.format("%d %s", s.images, s.name) end
  for _, why in ipairs(require("medxai.base.check").sorted_keys(f.undefined)) do
    undefined[#undefined + 1] = string.format("%d %s", f.undefined[why], why)
  end
  local list = { string.format("%d images; findings by share of the crop: %s%s.", f.images, table.concat(sizes, ", "),
    #undefined > 0 and "; undefined: " .. table.concat(undefined, ", ") or "") }
  if f.cropped_mean == f.cropped_mean then
    list[2] = string.format("The crop cut %.3g %% of a finding away on average (%d image%s touched)",
      100 * f.cropped_mean, f.cropped_images, f.cropped_images == 1 and "" or "s")
    list[2] = list[2] .. (f.outside_lungs_mean == f.outside_lungs_mean
      and string.format("; %.3g %% of the rest lies outside the lung mask.", 100 * f.outside_lungs_mean) or ".")
  end
  list[#list + 1] = string.format("Brackets: %s.", result.units)
  list[#list + 1] = string.format("IoU and Dice without a fixed cut: thresholds %s. Means leave findings under 0.1 "
    .. "%% of the crop out.", result.thresholds)
  return list
end

--- "marker masks, test split, target predicted (logit)", and the title where the experiment gave one.
function tables.subject(result)
  return string.format("%s masks, %s split, target %s", result.mask, result.split, result.target)
end
function tables.heading(result) return result.title or tables.subject(result) end

--- Prints every table.
function tables.print(result)
  if host.options.quiet then return end
  local out = io.stdout
  out:write(string.format("\n%soverlap with %s\n", result.title and result.title .. ": " or "", tables.subject(result)))
  for _, sentence in ipairs(tables.sentences(result)) do out:write("  ", sentence, "\n") end
  for _, t in ipairs(result.tables) do
    out:write(string.format("\n%s (%s)%s\n", t.title, t.metric, t.best and "; best baseline: " .. t.best or ""))
    local rows = { { "method", "mean", "chance", "n", t.best and "minus the best baseline (Holm over methods)" or "" } }
    for i, line in ipairs(t.lines) do
      local a = line.all
      rows[i + 1] = { line.method, fixed(a.mean) .. " " .. between(a), a.chance == a.chance and fixed(a.chance) or "",
        tostring(a.n), tables.difference_text(line) }
    end
    out:write(text_table(rows), "\n")
  end
  out:write("\n")
end

return tables
