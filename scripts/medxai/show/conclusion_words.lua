-- The sentences with which the page of a comparison begins: which network, which explanation, can the explanation be
-- trusted, can the network be trusted, how sure. Each is made from verdicts that a step has written, and says no more
-- than its verdict: it has a form for found, not found, undecided and not run, with the number, its interval and the
-- level of chance.
-- It refuses to decide anything: verdicts come from stats/verdict.lua, by way of the steps' tables.
local check = require "medxai.base.check"
local method = require "medxai.explain.registry"
local metric = require "medxai.score.registry"
local power = require "medxai.stats.power"
local units = require "medxai.stats.units"

local words = {}

---@class medxai.Conclusion
---@field question string
---@field state "found"|"not_found"|"undecided"|"not_run"
---@field verdict string in a few words: "one is better", "passed", "shortcut found"
---@field sentence string
---@field estimate number|nil of what the sentence is about, with low and high, its 95 % interval
---@field low number|nil
---@field high number|nil
---@field chance number|nil
---@field row table|nil { family, subject, check }: the row of verdicts.csv
---@field section string the part of the page that has the numbers

-- ---- numbers and lists ----------------------------------------------------------------------------------------------

local function is_number(v) return v ~= nil and v == v end

-- "0.930 [0.901, 0.957]"
local function estimate_text(e, form)
  if not is_number(e.estimate) then return "undefined" end
  local text = form:format(e.estimate)
  if not (is_number(e.low) and is_number(e.high)) then return text .. " (no interval)" end
  return ("%s [%s, %s]"):format(text, form:format(e.low), form:format(e.high))
end

-- "a", "a and b", "a, b and c", "a, b, c and 4 more"
local function list_text(list, most)
  most = most or 4
  if #list <= 1 then return list[1] or "" end
  if #list > most then return ("%s and %d more"):format(table.concat(list, ", ", 1, most - 1), #list - most + 1) end
  return table.concat(list, ", ", 1, #list - 1) .. " and " .. list[#list]
end

local function count_text(n, one, several) return ("%d %s"):format(n, n == 1 and one or several) end

--- An endpoint or a metric for reading: "macro AUROC", "balanced accuracy", "ROAD combined".
---@param name string
---@return string
function words.measure(name)
  if name == "auroc_macro" then return "macro AUROC" end
  local class = name:match "^auroc (.+)$"
  if class then return "AUROC of " .. class .. " against the rest" end
  local titles = { macro_f1 = "macro F1", nll = "log loss", brier = "Brier score" }
  return titles[name] or metric.title(name)
end

local function chance_text(chance) return chance and (" (chance %.3g)"):format(chance) or "" end

-- Beside an interval that does not keep clear of chance.
local function at_chance(e, chance, direction)
  if not chance or not is_number(e.low) then return "" end
  local clear = direction == "lower" and e.high < chance or direction ~= "lower" and e.low > chance
  return clear and "" or "; that is not shown to be better than chance"
end

local function not_run(question, section, sentence)
  return { question = question, state = "not_run", verdict = "not run", sentence = sentence, section = section }
end

-- "Undecided: by ..." or "By ...".
local function begun(head, text) return head == "" and text:gsub("^%l", string.upper) or head .. text end

-- ---- which network --------------------------------------------------------------------------------------------------

local turned = { better = "worse", worse = "better" }

-- of[x][y]: what is decided of x against y; names in their order; row[x][y]: the pair itself.
local function standings(pairs_, scope)
  local s = { names = {}, of = {}, row = {}, decided = 0, count = 0 }
  local function open(name)
    if not s.of[name] then s.names[#s.names + 1], s.of[name], s.row[name] = name, {}, {} end
  end
  for _, p in ipairs(pairs_) do
    if p.family:sub(-#scope) == scope then
      open(p.a)
      open(p.b)
      s.of[p.a][p.b], s.of[p.b][p.a] = p.decision, turned[p.decision] or p.decision
      s.row[p.a][p.b], s.row[p.b][p.a] = p, p
      s.count = s.count + 1
      if p.decision ~= "undecided" and p.decision ~= "not_applicable" then s.decided = s.decided + 1 end
    end
  end
  return s
end

-- Whether x stands so to every other one; none: to no other one.
local function stands(s, x, decision, none)
  for _, y in ipairs(s.names) do
    if y ~= x and (s.of[x][y] == decision) == (none or false) then return false end
  end
  return true
end

-- Of all pairs of x the one with the smallest difference, and with whom.
local function nearest(s, x)
  local found, with
  for _, y in ipairs(s.names) do
    local p = s.row[x][y]
    if p and (not found or math.abs(p.estimate or math.huge) < math.abs(found.estimate or math.huge)) then
      found, with = p, y
    end
  end
  return found, with
end

local function highest(n, names)
  local best
  for _, name in ipairs(names) do
    local e = n.scores[name]
    local better = e and is_number(e.estimate) and (not best or n.direction == "lower"
      and e.estimate < n.scores[best].estimate or n.direction ~= "lower" and e.estimate > n.scores[best].estimate)
    if better then best = name end
  end
  return best or names[1]
end

-- What holds for other trainings of the same recipes.
local function recipe_text(n, best)
  local s = standings(n.pairs, "recipes")
  if #s.names == 0 then return " One training of each: nothing is said of other trainings." end
  if s.of[best] and stands(s, best, "better") then return " The same holds for other trainings (recipes)." end
  return " It speaks of these trainings; of others it is not shown."
end

-- A pair's difference with its sign as x minus the other.
local function seen_from(p, x)
  if p.a == x then return p end
  return { estimate = -p.estimate, low = p.high and -p.high, high = p.low and -p.low }
end

local function all_alike(s)
  for _, x in ipairs(s.names) do
    for _, y in ipairs(s.names) do
      if x ~= y and s.of[x][y] ~= "equivalent" and s.of[x][y] ~= "identical" then return false end
    end
  end
  return true
end

local function with_row(c, p, e)
  c.row = p and { family = p.family, subject = p.a .. " - " .. p.b, check = p.endpoint }
  c.estimate, c.low, c.high = e.estimate, e.low, e.high
  return c
end

local function one_network(n, question)
  local name = check.sorted_keys(n.scores)[1]
  local e = n.scores[name] or {}
  return { question = question, state = "not_run", verdict = "one network", section = "networks",
    estimate = e.estimate, low = e.low, high = e.high, chance = n.chance,
    sentence = ("One network was judged and none compared: %s has %s %s%s%s."):format(tostring(name),
      words.measure(n.primary), estimate_text(e, "%.3f"), chance_text(n.chance), at_chance(e, n.chance, n.direction)) }
end

--- Which network? facts.networks: primary, direction, chance, scores = { [name] = { estimate, low, high } }, pairs.
---@param facts table
---@return medxai.Conclusion
function words.network(facts)
  local n, question = facts.networks, "Which network?"
  if not n then return not_run(question, "networks", "The networks were not compared: run:networks was not run.") end
  local s = standings(n.pairs, "these weights")
  if #s.names < 2 then return one_network(n, question) end
  local best, measure = highest(n, s.names), words.measure(n.primary)
  local c = { question = question, section = "networks", chance = n.chance, state = "undecided",
    verdict = "undecided" }
  local e, p, with = n.scores[best] or {}, nearest(s, best)
  if stands(s, best, "better") then
    c.state, c.verdict = "found", "one is better"
    c.sentence = ("%s is better than %s by %s: %s%s%s; the difference to %s is %s."):format(best,
      #s.names == 2 and "the other network" or ("each of the %d other networks"):format(#s.names - 1), measure,
      estimate_text(e, "%.3f"), chance_text(n.chance), at_chance(e, n.chance, n.direction), with,
      estimate_text(seen_from(p, best), "%+.3f")) .. recipe_text(n, best)
    return with_row(c, p, e)
  end
  if all_alike(s) then
    c.state, c.verdict = "not_found", "equivalent"
    c.sentence = ("No network is better by %s: all %d are equivalent%s; the best number is that of %s, %s%s%s."):format(
      measure, #s.names, n.margin and (" within %g"):format(n.margin) or "", best, estimate_text(e, "%.3f"),
      chance_text(n.chance), at_chance(e, n.chance, n.direction))
    return with_row(c, p, e)
  end
  local open = {}
  for _, x in ipairs(s.names) do
    if stands(s, x, "worse", true) then open[#open + 1] = x end
  end
  c.sentence = ("Undecided: no network is shown to be the best by %s. %s may be; the best number is that of %s, "
    .. "%s%s%s. Pairs of networks that are decided: %d of %d."):format(measure, list_text(open), best,
    estimate_text(e, "%.3f"), chance_text(n.chance), at_chance(e, n.chance, n.direction), s.decided, s.count)
    .. (n.few and " " .. n.few .. "." or "")
  return with_row(c, p, e)
end

-- ---- which explanation ----------------------------------------------------------------------------------------------

-- Above another patient's map and above each baseline, and not failed by the gate.
local function is_supported(row)
  return row.above_swap == "better" and row.beats_baselines == "better" and not (row.gate or ""):find "failed"
end

-- What the primary metric says on one model: { run, state, first = rows that may be first }.
local function on_model(c, run)
  local out = { run = run, first = {}, state = "undecided" }
  for _, row in ipairs(c.methods) do
    if row.run == run and row.rank_low == 1 then out.first[#out.first + 1] = row end
  end
  if c.silent[run] then out.state = "not_found"
  elseif #out.first == 1 and is_supported(out.first[1]) then out.state = "found" end
  return out
end

--- What the primary metric says on each model.
---@param c table facts.compare
---@return table[] { run, state, first }
function words.on_models(c)
  local list = {}
  for i, run in ipairs(c.runs) do list[i] = on_model(c, run) end
  return list
end

-- The row that gains least over another patient's map.
local function least_gain(rows, direction)
  local sign, least = direction == "lower" and -1 or 1, nil
  for _, row in ipairs(rows) do
    if is_number(row.gain) and (not least or sign * row.gain < sign * least.gain) then least = row end
  end
  return least
end

-- What holds of the methods that may be first on a model without being found.
local function doubt_of(m)
  if #m.first == 0 then return "nothing is ranked" end
  if #m.first > 1 then
    local names = {}
    for i, row in ipairs(m.first) do names[i] = method.title(row.method) end
    return ("%d methods may be first (%s)"):format(#m.first, list_text(names))
  end
  local row, lacks = m.first[1], {}
  if row.above_swap ~= "better" then lacks[1] = "above another patient's map" end
  if row.beats_baselines ~= "better" then lacks[#lacks + 1] = "above each baseline" end
  local name = method.title(row.method)
  if (row.gate or ""):find "failed" then return ("%s is first, but has the mark '%s'"):format(name, row.gate) end
  return ("%s is first, but not shown to be %s"):format(name, table.concat(lacks, " nor "))
end

-- Clauses of models that say the same, together.
local function clauses_of(models, total)
  local order, of = {}, {}
  local function add(text, run)
    if not of[text] then order[#order + 1], of[text] = text, {} end
    table.insert(of[text], run)
  end
  for _, m in ipairs(models) do
    if m.state == "found" then
      add(("%s alone is first, above another patient's map and above each baseline"):format(
        method.title(m.first[1].method)), m.run)
    elseif m.state == "not_found" then add("no method's map is shown to do better than another patient's map", m.run)
    else add(doubt_of(m), m.run) end
  end
  local out = {}
  for i, text in ipairs(order) do
    local on = #of[text] == total and total == 2 and "both models" or #of[text] == total and total > 2
      and ("all %d models"):format(total) or list_text(of[text])
    out[i] = ("on %s, %s"):format(on, text)
  end
  return table.concat(out, "; ")
end

local heads = { found = "", not_found = "None: ", undecided = "Undecided: " }
local ranked = { found = "one is first", not_found = "none is told", undecided = "undecided" }

--- Which explanation? facts.compare: primary, direction, runs, methods (rows of tables/methods.csv of the primary
--- metric), silent = { [run] = true }, few, partial.
---@param facts table
---@return medxai.Conclusion
function words.explanation(facts)
  local c, question = facts.compare, "Which explanation?"
  if not c then
    return not_run(question, "explanations", "The explanations were not compared: run:compare was not run.")
  end
  local models, found, silent, leaders = words.on_models(c), 0, 0, {}
  for _, m in ipairs(models) do
    if m.state == "found" then found = found + 1 elseif m.state == "not_found" then silent = silent + 1 end
  end
  local state = found == #models and "found" or silent == #models and "not_found" or "undecided"
  for _, m in ipairs(models) do
    if m.state == "found" or found == 0 then table.move(m.first, 1, #m.first, #leaders + 1, leaders) end
  end
  local row = least_gain(leaders, c.direction)
  local gain = row and { estimate = row.gain, low = row.gain_low, high = row.gain_high }
  local number = row and (" Of the methods that %s first, the least gain over another patient's map is that of %s "
    .. "on %s: %s (chance 0)."):format(found > 0 and "are" or "may be",
    method.title(row.method), row.run, estimate_text(gain, "%+.3f")) or ""
  local text = ("by %s%s, %s.%s%s"):format(words.measure(c.short), c.direction and (" (%s is better)")
    :format(c.direction) or "", clauses_of(models, #models), number, c.few and " " .. c.few .. "." or "")
  local out = { question = question, state = state, verdict = ranked[state], section = "explanations",
    chance = row and 0 or nil, sentence = (c.partial and "PARTIAL, " .. c.partial .. ". " or "")
      .. begun(heads[state], text) }
  if row then
    out.estimate, out.low, out.high = row.gain, row.gain_low, row.gain_high
    out.row = { family = ("compare %s %s"):format(row.run, c.primary), subject = ("%s on %s"):format(row.method,
      row.run), check = "above_swap" }
  end
  return out
end

-- ---- can the explanation be trusted ---------------------------------------------------------------------------------

-- The gate's lines of the methods that the comparison found first, else of all methods; whether they are those, and how
-- many that were found first the gate did not judge.
local function judged_lines(facts)
  local first, lines, missing = {}, {}, 0
  for _, m in ipairs(facts.compare and words.on_models(facts.compare) or {}) do
    if m.state == "found" then first[#first + 1] = { method = m.first[1].method, model = m.run } end
  end
  for _, one in ipairs(first) do
    local before = #lines
    for _, line in ipairs(facts.gate.lines) do
      local same = line.label == one.method or line.method == one.method
      if not line.baseline and line.model == one.model and same then lines[#lines + 1] = line end
    end
    if #lines == before then missing = missing + 1 end
  end
  if #lines > 0 then return lines, true, missing end
  for _, line in ipairs(facts.gate.lines) do
    if not line.baseline then lines[#lines + 1] = line end
  end
  return lines, false, missing
end

local function states_of(lines)
  local count, named = { passed = 0, failed = 0, undecided = 0 }, { passed = {}, failed = {}, undecided = {} }
  for _, line in ipairs(lines) do
    count[line.state] = count[line.state] + 1
    local failed = line.state == "failed" and " (" .. table.concat(line.failed, ", ") .. ")" or ""
    table.insert(named[line.state], ("%s on %s%s"):format(line.label, line.model, failed))
  end
  return count, named
end

local function gate_text(count, named, n)
  local parts = {}
  for state, k in pairs(count) do
    if k == n and n > 1 then
      return ("%s pairs of a method and a network %s"):format(n == 2 and "both" or ("all %d"):format(n),
        state == "undecided" and "are undecided" or state)
    end
  end
  for _, state in ipairs { "passed", "failed", "undecided" } do
    if count[state] > 0 then
      local verb = state == "undecided" and (count[state] == 1 and "is undecided" or "are undecided") or state
      parts[#parts + 1] = n == 1 and ("%s %s"):format(named[state][1], verb)
        or ("%d %s (%s)"):format(count[state], verb, list_text(named[state], 3))
    end
  end
  return (n == 1 and "" or ("of %d pairs of a method and a network "):format(n)) .. table.concat(parts, ", ")
end

-- The line whose persistence is the largest: the weakest of those that are spoken of.
local function weakest(lines)
  local worst
  for _, line in ipairs(lines) do
    if is_number(line.estimate) and (not worst or line.estimate > worst.estimate) then worst = line end
  end
  return worst
end

-- The verdict that a sentence on these lines stands on: one that failed, else the weakest of the others.
local function gate_row(lines, worst)
  local of, name = worst, "weights"
  for k = #lines, 1, -1 do
    if lines[k].state == "failed" and lines[k].failed[1] then of, name = lines[k], lines[k].failed[1] end
  end
  if not of then return nil end
  return { family = ("sanity %s %s"):format(of.model, name), subject = ("%s on %s"):format(of.label, of.model),
    check = name }
end

local gated = { found = "passed", not_found = "failed", undecided = "undecided" }

--- Can the explanation be trusted? facts.gate: lines = { model, method, label, baseline, state, failed, estimate, low,
--- high (persistence under random weights) }, threshold, wrong = { "sobel weights on resnet50" }.
---@param facts table
---@return medxai.Conclusion
function words.gate(facts)
  local g, question = facts.gate, "Can the explanation be trusted?"
  if not g then
    return not_run(question, "gate",
      "The sanity gate was not run: nothing shows that the maps depend on the network or on the image.")
  end
  local lines, leading, missing = judged_lines(facts)
  if #lines == 0 then
    return not_run(question, "gate", "The gate judged its controls alone.")
  end
  local count, named = states_of(lines)
  local state = count.passed == #lines and "found" or count.failed == #lines and "not_found" or "undecided"
  if leading and count.failed > 0 then state = "not_found"
  elseif missing > 0 then state = "undecided" end
  local worst = weakest(lines)
  local number = worst and is_number(worst.estimate) and (" With random weights a map keeps at most %s of its likeness "
    .. "to the trained one, beyond that of other patients' maps (%s on %s; the limit is %g, chance 0)."):format(
    estimate_text(worst, "%.2f"), worst.label, worst.model, g.threshold) or ""
  local controls = g.few and " " .. g.few .. "." or #g.wrong > 0 and (" Controls that did not come out as they must: "
    .. "%s; nothing is decided there."):format(list_text(g.wrong)) or ""
  local text = (leading and "of the explanations that rank first, " or "") .. gate_text(count, named, #lines)
  if missing > 0 then text = ("%s that %s first %s not judged; %s"):format(missing == 1 and "one" or missing,
      missing == 1 and "ranks" or "rank", missing == 1 and "was" or "were", text) end
  local passed = count.passed > 0 and " To pass is to depend on weights and image, not to be right." or ""
  local out = { question = question, state = state, verdict = gated[state], section = "gate", chance = 0,
    sentence = begun(heads[state]:gsub("None", "No"), ("by the gate, %s.%s%s%s"):format(text, number, controls,
      passed)) }
  if worst then out.estimate, out.low, out.high = worst.estimate, worst.low, worst.high end
  out.row = gate_row(lines, worst)
  return out
end

-- ---- can the network be trusted -------------------------------------------------------------------------------------

local audit_states = { ["shortcut found"] = "found", confounded = "undecided", undecided = "undecided",
  ["none of these found"] = "not_found" }

-- Of the inputs without lungs, the class that is told best: by the trainings where there are such.
local function told_best(areas)
  local best
  for _, witness in ipairs { "trainings", "cheap probe" } do
    for _, row in ipairs(areas) do
      if row.witness == witness and row.verdict ~= "" and is_number(row.auroc)
        and (not best or row.auroc > best.auroc) then best = row end
    end
    if best then return best end
  end
end

local function power_text(row, resampled)
  if not is_number(row.power_find) then return "" end
  local one = resampled == "patients" and "patient" or "image"
  return (" With %s, a class told with AUROC 0.85 is found with probability %.2f."):format(
    count_text(row.positives or 0, one .. " of " .. row.class, one .. "s of " .. row.class), row.power_find)
end

--- Can the network be trusted? facts.audit: verdict, reason, network, areas (rows of tables/audit.csv), margin.
---@param facts table
---@return medxai.Conclusion
function words.audit(facts)
  local a, question = facts.audit, "Can the network be trusted?"
  if not a then
    return not_run(question, "audit",
      "The audit was not run: whether the network goes by anything but the lungs is not known.")
  end
  local best = told_best(a.areas)
  local number = best and (" Without the lungs the highest AUROC is that of %s, from the input '%s' by "
    .. "the %s: %s (chance 0.5; a class counts as told above %g)."):format(best.class, best.input, best.witness,
    estimate_text({ estimate = best.auroc, low = best.low, high = best.high }, "%.2f"), a.margin) or ""
  local audited = a.network and a.network ~= "data" and (" Audited: %s."):format(a.network) or ""
  local reason = (a.reason or "") ~= "" and ": " .. a.reason or ""
  local state = audit_states[a.verdict] or "undecided"
  local texts = { ["none of these found"] = "none of the shortcuts that were looked for was found",
    confounded = "class and source are confounded", ["shortcut found"] = "a shortcut was found" }
  local power_of = state == "not_found" and best and power_text(best, a.resampled) or ""
  local out = { question = question, state = state, section = "audit", verdict = a.verdict,
    chance = best and 0.5 or nil,
    sentence = begun("", texts[a.verdict] or a.verdict) .. reason .. "." .. number .. power_of .. audited,
    row = { family = "audit", subject = a.network or "data", check = "audit" } }
  if best then out.estimate, out.low, out.high = best.auroc, best.low, best.high end
  return out
end

-- ---- how sure -------------------------------------------------------------------------------------------------------

local function trainings_text(models)
  local seeds, recipes = {}, {}
  for _, m in ipairs(models) do
    if not seeds[m.run_name] then recipes[#recipes + 1], seeds[m.run_name] = m.run_name, 0 end
    seeds[m.run_name] = seeds[m.run_name] + 1
  end
  local least, most = math.huge, 0
  for _, name in ipairs(recipes) do least, most = math.min(least, seeds[name]), math.max(most, seeds[name]) end
  if #recipes == 0 then return "" end
  return (", %s with %s each"):format(count_text(#recipes, "network", "networks"), least == most
    and count_text(least, "training", "trainings") or ("%d to %d trainings"):format(least, most))
end

-- "explanations: 60 images of 60 patients".
local function counts_of(part)
  local images = count_text(part.images or 0, "image", "images")
  if part.resampled == "patients" then
    images = images .. " of " .. count_text(part.units or 0, "patient", "patients")
  end
  return ("%s on %s%s"):format(part.what, images, part.note and " (" .. part.note .. ")" or "")
end

-- What so many units can tell.
local function power_of(s, facts)
  if s.units < units.least then
    return ("%d %s allow no interval and no verdict (%d are needed)"):format(s.units, s.resampled, units.least)
  end
  if s.on[1] and s.on[1].what == "audit" then
    local best = told_best(facts.audit.areas)
    return best and power_text(best, s.resampled):gsub("^ With", "with"):gsub("%.$", "") or "its power is not known"
  end
  local family = s.tests > 1 and (", one of %.2f where %d are compared at once"):format(
    power.least_shift(s.units, s.tests), s.tests) or ""
  return ("with %d %s a paired difference of %.2f standard deviations is found with probability 0.8%s"):format(s.units,
    s.resampled, power.least_shift(s.units, 1), family)
end

--- How sure? facts.sure: on = { what, images, units, resampled, note } of what was judged, models = { run_name },
--- decided, undecided, units and resampled of the first of them, tests (of the largest family).
---@param facts table
---@return medxai.Conclusion
function words.sure(facts)
  local s, question, on = facts.sure, "How sure?", {}
  for i, part in ipairs(s.on) do on[i] = counts_of(part) end
  local total = s.decided + s.undecided
  local out = { question = question, section = "limits", state = s.undecided > 0 and "undecided" or "found",
    verdict = ("%d of %d undecided"):format(s.undecided, total) }
  if total == 0 then out.state, out.verdict = "not_run", "nothing judged" end
  out.sentence = ("%s%s; %s; %s."):format(table.concat(on, ", "):gsub("^%l", string.upper), trainings_text(s.models),
    total == 0 and "nothing was judged" or ("%d of %s undecided"):format(s.undecided,
    count_text(total, "primary verdict is", "primary verdicts are")), power_of(s, facts))
  return out
end

--- All five, in the order of the page.
---@param facts table
---@return medxai.Conclusion[]
function words.all(facts)
  return { words.network(facts), words.explanation(facts), words.gate(facts), words.audit(facts), words.sure(facts) }
end

words.list_text, words.estimate_text = list_text, estimate_text

return words
