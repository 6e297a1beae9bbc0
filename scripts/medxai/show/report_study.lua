-- The page of a comparison, in the order in which a reader has to believe it: what decides, the data and what leaks in
-- them, networks, the gate, and only then explanations, their agreement and stability, the audit, costs and failures,
-- limits. Everything shown was written by a step into the run folder.
-- It refuses to show explanations before the gate, and a sentence without the row that it was made from.
local conclusions = require "medxai.show.conclusions"
local csv = require "medxai.base.csv"
local check = require "medxai.base.check"
local files = require "medxai.base.files"
local html = require "medxai.show.html"
local judged = require "medxai.show.report_judged"
local Progress = require "medxai.base.progress"
local words = require "medxai.show.conclusion_words"

local study = {}

local text = html.text

local function number(v, form) return v ~= nil and v == v and (form or "%.3f"):format(v) or "" end

local function interval(row, form)
  return row.low and row.low == row.low and ("[%s, %s]"):format(number(row.low, form), number(row.high, form)) or ""
end

local function heading(page, pen, title, id) pen.put(page, '<h2 id="%s">%s</h2>', id, text(title)) end

-- A step's kind by its name: networks, sanity, compare, audit; nil for the evaluation of one model.
local function kind_of(step) return step.result.sentences and step.name:match "^%a+" or nil end

local function steps_of(page, kind)
  local list = {}
  for _, step in ipairs(page.judged) do
    if kind_of(step) == kind then list[#list + 1] = step end
  end
  return list
end

-- ---- the first screen -----------------------------------------------------------------------------------------------

-- Which rows of verdicts.csv the page shows: those that its first sentences count.
local function shown_rows(facts)
  local rows, anchors = {}, {}
  for _, v in ipairs(facts.verdicts) do
    local part = conclusions.part_of(v, facts)
    if part then
      local anchor = conclusions.anchor(v)
      rows[part] = rows[part] or {}
      if not anchors[anchor] then
        table.insert(rows[part], v)
        anchors[anchor] = true
      end
    end
  end
  return rows, anchors
end

--- Reads what the page begins with: page.facts and page.conclusions, nil where no step of a study was run.
---@param page table
function study.open(page)
  page.facts = conclusions.read(page.dir, page.judged)
  if not page.facts then return end
  page.conclusions = conclusions.all(page.facts)
  page.shown, page.anchors = shown_rows(page.facts)
  page.linked = {}
  for _, c in ipairs(page.conclusions) do
    if c.row then page.linked[conclusions.anchor(c.row)] = true end
  end
end

--- Puts the five sentences.
function study.put_first(page, pen)
  if page.conclusions then pen.put(page, "%s", conclusions.html(page.conclusions, page.anchors)) end
end

--- Writes conclusions.json, and adds it to the files of the step.
---@param page table
---@param list string[]
---@return string[]
function study.write(page, list)
  if page.conclusions then
    conclusions.write(page.dir, page.conclusions)
    list[#list + 1] = "conclusions.json"
  end
  return list
end

--- Prints the five sentences.
function study.print(page)
  if page.conclusions then print(table.concat(conclusions.lines(page.conclusions), "\n")) end
end

-- ---- what decides ---------------------------------------------------------------------------------------------------

local function thresholds_text(thresholds)
  local list = {}
  for _, name in ipairs { "image", "persistence", "learned" } do
    if thresholds[name] then
      list[#list + 1] = ("%s %s %g"):format(name, name == "learned" and "above" or "below", thresholds[name])
    end
  end
  return table.concat(list, ", ")
end

local function endpoint_rows(facts)
  local rows, n, c, g, a = {}, facts.networks, facts.compare, facts.gate, facts.audit
  if n then
    rows[1] = { "Which network?", words.measure(n.primary), n.direction .. " is better",
      "all pairs of networks, Holm's method" .. (n.margin and (", equivalent within %g"):format(n.margin) or "") }
  end
  if g then
    rows[#rows + 1] = { "Can the explanation be trusted?", "similarity of maps (Spearman; SSIM may contradict)",
      thresholds_text(g.thresholds), "maps of other patients; four controls with a known answer" }
  end
  if c then
    rows[#rows + 1] = { "Which explanation?", words.measure(c.short), c.direction and c.direction .. " is better" or "",
      "another patient's map, each baseline, all pairs of methods, Holm's method on each network" }
  end
  if a then
    rows[#rows + 1] = { "Can the network be trusted?", "AUROC without the lungs",
      ("told from %g on"):format(a.margin), "classes and inputs, Holm's method in each direction" }
  end
  return rows
end

-- What the abbreviations of the endpoints mean.
local function abbreviations_of(facts)
  local list = { "AUROC: area under the receiver operating characteristic curve, 0.5 by chance.",
    "Holm's method: corrects p values for the number of tests." }
  if facts.gate then list[#list + 1] = "SSIM: structural similarity of two maps." end
  if facts.compare and facts.compare.short:find "^road" then
    list[#list + 1] = "ROAD: remove and debias; removed pixels are filled from their neighbors."
  end
  return table.concat(list, " ")
end

--- Puts the endpoints that were named before the numbers were seen.
function study.put_endpoints(page, pen)
  if not page.facts then return end
  heading(page, pen, "Primary endpoints", "endpoints")
  local rows = endpoint_rows(page.facts)
  for _, row in ipairs(rows) do
    for k, cell in ipairs(row) do row[k] = text(cell) end
  end
  pen.put(page, "%s", (html.table({ { "question" }, { "decided by" }, { "direction, limits" }, { "compared with" } },
    rows)))
  pen.put(page, '<p class="note">Named in the experiment before anything was computed. All other numbers of this page '
    .. "are exploratory. %s</p>", abbreviations_of(page.facts))
end

-- ---- data -----------------------------------------------------------------------------------------------------------

-- Classes by sources of the study's images.
local function put_sources(page, pen)
  local images = csv.read(files.join(page.dir, "study/images.csv")) or {}
  if #images == 0 then return end
  local counts, classes, sources, known, n = {}, {}, {}, true, 0
  for _, row in ipairs(images) do
    local source = (row.source == "" or row.source == "unknown") and "unknown" or row.source
    known = known and source ~= "unknown"
    if not counts[source] then counts[source], sources[#sources + 1] = {}, source end
    if not classes[row.label] then classes[row.label], n = true, n + 1 end
    counts[source][row.label] = (counts[source][row.label] or 0) + 1
  end
  local names = check.sorted_keys(classes)
  table.sort(sources)
  pen.put(page, "<h3>The images of the study, source by class</h3>%s", pen.counts("source", sources, counts, names))
  pen.put(page, '<p class="note">%s</p>', known and "Where a class has a source of its own, no statistic separates the "
    .. "two." or "Sources are unknown here, so class by source cannot be checked: a difference of hospitals may "
    .. "stand for a class.")
end

local function duplicates_text(c)
  local exact, near = #(c.exact or {}), c.near_count or #(c.near or {})
  local within = #(c.exact_within or {})
  local list = { exact == 0 and "no image stands in two splits"
      or exact == 1 and "1 image stands in two splits" or ("%d images stand in two splits"):format(exact),
    near == 0 and "none nearly" or ("%d nearly"):format(near),
    (c.patients or 0) > 0 and ("%d patients, none in two splits"):format(c.patients)
      or "patients are unknown, so images of one may stand in two splits" }
  if within > 0 then list[#list + 1] = ("images that stand twice in one split: %d"):format(within) end
  return table.concat(list, "; ")
end

--- Puts the models, what was checked when they were trained, and the study's images by source.
function study.put_data(page, pen)
  local described = page.facts and files.read_data(files.join(page.dir, "study/models.json"))
  if not described then return end
  heading(page, pen, "Models and data", "data")
  local rows = {}
  for i, m in ipairs(described.models) do
    rows[i] = { text(m.name), text(m.network), tostring(m.train_seed), text(m.input), text(m.start or ""),
      tostring(m.best_epoch or ""), "<code>" .. text(m.weights_sha256:sub(1, 12)) .. "</code>" }
  end
  pen.put(page, "%s", (html.table({ { "model" }, { "network" }, { "seed", numeric = true }, { "input" },
    { "started from" }, { "epoch kept", numeric = true }, { "weights" } }, rows)))
  pen.put(page, "<h3>Checks before the trainings</h3>")
  for _, c in ipairs(described.checks) do
    pen.put(page, "<p>%s: %s.</p>", text(words.list_text(c.models, 8)), text(c.check and duplicates_text(c.check)
      or "the run left no data_check.json; nothing is known of its data"))
    if c.check and c.check.counts then
      pen.put(page, "%s", pen.counts("split", pen.splits(c.check.counts), c.check.counts, described.classes))
    end
    for _, warning in ipairs(c.check and c.check.warnings or {}) do
      pen.put(page, '<p class="remark">%s</p>', text(warning))
    end
  end
  pen.put(page, '<p class="note">The study judges one image per patient where patients are known, and none that the '
    .. "tuning split holds.</p>")
  put_sources(page, pen)
end

-- ---- the steps ------------------------------------------------------------------------------------------------------

local verdict_columns = { { "subject" }, { "check" }, { "verdict" }, { "estimate", numeric = true },
  { "interval", numeric = true }, { "threshold", numeric = true }, { "p, Holm", numeric = true },
  { "images", numeric = true }, { "units", numeric = true }, { "reason" } }

-- Only columns that any row has a number or a word in.
local function table_of_verdicts(rows)
  local columns, kept, out = {}, {}, {}
  for c, column in ipairs(verdict_columns) do
    local any = false
    for _, row in ipairs(rows) do any = any or row[c] ~= "" end
    if any then columns[#columns + 1], kept[#kept + 1] = column, c end
  end
  for i, row in ipairs(rows) do
    out[i] = { id = row.id, mark = row.mark }
    for k, c in ipairs(kept) do out[i][k] = row[c] end
  end
  return (html.table(columns, out, "judged"))
end

-- The verdicts of a part, each a row that a sentence can link to: those that one does link to, then the others, folded
-- where they are many.
local function put_verdicts(page, pen, part)
  local linked, others = {}, {}
  for _, v in ipairs(page.shown and page.shown[part] or {}) do
    local anchor = conclusions.anchor(v)
    local list = page.linked[anchor] and linked or others
    list[#list + 1] = { id = anchor, mark = page.linked[anchor], text(v.subject), text(words.measure(v.check)),
      text((v.verdict:gsub("_", " "))), number(v.estimate, "%.3f"), interval(v, "%.3f"), number(v.threshold, "%g"),
      number(v.p_holm, "%.3g"), number(v.n, "%d"), number(v.units, "%d"), text(v.reason or "") }
  end
  if #linked > 0 then
    pen.put(page, "<h3>The verdict at the top of the page</h3>%s", table_of_verdicts(linked))
  end
  if #others == 0 then return end
  local more = #linked > 0 and "more " or ""
  pen.put(page, "<details%s><summary>%d %sverdict%s</summary>%s</details>", #others <= 6 and " open"
    or #others > 100 and ' class="long"' or "", #others,
    more, #others == 1 and "" or "s", table_of_verdicts(others))
end

-- A result without the tables of other parts of the page.
local function only(result, part)
  local out = { sentences = part and {} or result.sentences, tables = {}, figures = not part and result.figures or nil }
  for _, t in ipairs(result.tables) do
    if t.part == part then out.tables[#out.tables + 1] = t end
  end
  return out
end

local function put_not_run(page, pen, title, id, sentence)
  heading(page, pen, title, id)
  pen.put(page, '<p class="remark">%s</p>', text(sentence))
end

-- The parts of the page that steps make: kind, id, title where it was not run.
local parts = { { "networks", "networks", "Networks compared" },
  { "sanity", "gate", "The gate: do maps depend on what they explain?" },
  { "compare", "explanations", "Explanations compared" }, { "audit", "audit", "Does the network need the lungs?" } }

local function put_compared(page, pen, step)
  for _, more in ipairs { { "agreement", "Agreement" }, { "stability", "Stability of the ranking" } } do
    local result = only(step.result, more[1])
    if #result.tables > 0 then
      heading(page, pen, more[2], more[1])
      judged.put(page, pen.put, result)
    end
  end
end

local function put_step(page, pen, step, id, first)
  pen.put(page, '<h2 id="%s">%s</h2>', first and id or id .. "-" .. step.name, text(step.result.title))
  judged.put(page, pen.put, only(step.result))
  if first then put_verdicts(page, pen, id) end
  local viewer = id == "explanations" and files.read(page.dir .. "/study/viewer.html")
  if viewer then pen.put(page, "<h3>Every map over its image</h3>\n%s", viewer) end
  if id == "explanations" then put_compared(page, pen, step) end
end

--- Puts networks, the gate, explanations, their agreement and stability, the audit.
function study.put_steps(page, pen)
  for k, part in ipairs(parts) do
    local list = steps_of(page, part[1])
    for i, step in ipairs(list) do put_step(page, pen, step, part[2], i == 1) end
    local said = page.conclusions and page.conclusions[({ 1, 3, 2, 4 })[k]]
    if #list == 0 and said then put_not_run(page, pen, part[3], part[2], said.sentence) end
  end
end

-- ---- costs and failures ---------------------------------------------------------------------------------------------

local function failures_of(page)
  local list = {}
  for _, cell in ipairs(files.records(files.join(page.dir, "study/cells.jsonl"))) do
    if cell.state == "failed" or cell.status == "failed" then list[#list + 1] = cell end
  end
  return list
end

--- What a comparison took beside what was predicted, in words: by its cells' own seconds, whoever computed them.
---@param cost table of study/cost.json
---@return string
function study.cost_text(cost)
  local list = { ("The %d cells took %s of one process; predicted were %s at the start%s."):format(cost.cells,
    Progress.duration(cost.seconds_of_cells), Progress.duration(cost.predicted_at_start), cost.predicted_by_first_block
      and (" and %s after the fastest network's first block"):format(Progress.duration(cost.predicted_by_first_block))
      or "") }
  if cost.cells_of_this_start < cost.cells then
    list[2] = ("The last start computed %d of them, earlier starts %d, other processes %d."):format(
      cost.cells_of_this_start, cost.cells_of_earlier_starts, cost.cells_of_other_processes)
  end
  return table.concat(list, " ")
end

--- Puts what maps and their judgement took, what was predicted, and every cell that failed.
function study.put_costs(page, pen)
  local rows = csv.read(files.join(page.dir, "tables/costs.csv")) or {}
  if not page.facts or #rows == 0 then return end
  heading(page, pen, "Costs and failures", "costs")
  local out = {}
  for i, row in ipairs(rows) do
    local images = math.max(1, tonumber(row.images) or 1)
    out[i] = { text(row.run), text(row.method), text(row.images),
      number((tonumber(row.forwards) or 0) / images, "%.1f"),
      number((tonumber(row.backwards) or 0) / images, "%.1f"),
      number((tonumber(row.map_seconds) or 0) / images, "%.3g"), number(tonumber(row.seconds), "%.1f"),
      text(row.failed_cells), warn = row.failed_cells ~= "0" }
  end
  local cost = files.read_data(files.join(page.dir, "study/cost.json"))
  if cost and cost.seconds_of_cells then pen.put(page, "<p>%s</p>", text(study.cost_text(cost))) end
  local failed = failures_of(page)
  pen.put(page, "<p>%s</p>", #failed == 0 and "No cell failed."
    or ("%d cell%s failed; the rows of their images say so and are counted."):format(#failed, #failed == 1 and ""
      or "s"))
  for i = 1, math.min(#failed, 10) do
    pen.put(page, '<p class="remark">%s</p>', text(failed[i].problem or failed[i].text or failed[i].id))
  end
  pen.put(page, "<details%s><summary>What each method took</summary>%s</details>", #rows <= 14 and " open" or "",
    (html.table({ { "model" }, { "method" }, { "images", numeric = true }, { "forwards per image", numeric = true },
    { "backwards per image", numeric = true }, { "seconds per map", numeric = true },
    { "seconds in all, with scores", numeric = true }, { "failed cells", numeric = true } }, out, "judged")))
end

-- ---- limits ---------------------------------------------------------------------------------------------------------

local part_names = { networks = "networks, primary endpoint", gate = "gate, the checks that mark a method",
  explanations = "explanations, primary metric", audit = "audit" }

-- How often the test split was looked at in this run.
local function looks_of(page)
  local count = 0
  for _, record in ipairs(files.records(files.join(page.dir, "evaluations.jsonl"))) do
    if record.split == "test" then count = count + 1 end
  end
  return count
end

--- Puts what the study cannot say: how many verdicts are undecided, with how many patients, trainings and what power.
function study.put_limits(page, pen)
  if not page.facts then return end
  local sure, rows = page.facts.sure, {}
  heading(page, pen, "Limits", "limits")
  pen.put(page, "<p>%s</p>", text(page.conclusions[5].sentence))
  for _, part in ipairs { "networks", "gate", "explanations", "audit" } do
    local n = sure.counts[part]
    if n then
      rows[#rows + 1] = { text(part_names[part]), tostring(n.decided), tostring(n.undecided),
        tostring(n.not_applicable) }
    else
      rows[#rows + 1] = { text(part_names[part]), "not run", "", "" }
    end
  end
  pen.put(page, "%s", (html.table({ { "verdicts" }, { "decided", numeric = true }, { "undecided", numeric = true },
    { "nothing to judge", numeric = true } }, rows)))
  local looks = looks_of(page)
  if looks > 0 then
    pen.put(page, "<p>The test split was looked at %d time%s in this run, once for every model.</p>", looks,
      looks == 1 and "" or "s")
  end
  pen.put(page, "<p>Undecided is not the same as equal, and not found is not the same as absent. Numbers speak of "
    .. "these images and hospitals; other data were not judged. Maps that pass the gate depend on weights and image; "
    .. "whether they help a reader is another question.</p>")
end

-- ---- checklists -----------------------------------------------------------------------------------------------------

-- Maps and scores that were lost, of all rows of the primary metric.
local function lost_text(page)
  local undefined, failed = 0, 0
  for _, row in ipairs(page.facts.compare and page.facts.compare.methods or {}) do
    undefined, failed = undefined + (tonumber(row.undefined) or 0), failed + (tonumber(row.failed) or 0)
  end
  return ("scores of the primary metric that are undefined: %d, failed: %d; both are counted and left out of means")
    :format(undefined, failed)
end

--- The checklists CLAIM and TRIPOD+AI as HTML, with what the run's files answer.
---@param page table
---@return string
function study.checklist(page)
  local described = files.read_data(files.join(page.dir, "study/models.json")) or {}
  local n = page.facts.networks
  return require("medxai.show.checklist").html { config = page.config, environment = page.environment,
    models = described.models or {}, checks = described.checks or {}, classes = described.classes or {},
    question = page.question, facts = page.facts, sure = page.conclusions[5].sentence, lost = lost_text(page),
    judged = n and ("networks on %d images of the judged split"):format(n.images or 0) or nil }
end

return study
