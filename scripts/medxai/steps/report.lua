-- run:report: one self-contained page, report.html, made of what the run folder holds: question, settings, data and its
-- checks, learning curve, test metrics, maps with their judgements, warnings, environment, times, how to run it again.
-- Every section appears only where its step has been done; nothing is fetched from anywhere when the page is opened.
-- It refuses to compute results: a number that is not in the folder is not in the report.
local check = require "medxai.base.check"
local Options = require "medxai.base.options"
local csv = require "medxai.base.csv"
local files = require "medxai.base.files"
local flat = require("medxai.base.settings").flat
local html = require "medxai.show.html"
local host = require "medxai.host"
local study = require "medxai.show.report_study"
local units = require "medxai.stats.units"

local report = {}

report.spec = {
  title = { "string", doc = "of the page; default: the run's name" },
  question = { "string", doc = "default: the experiment file's leading comment" },
  notes = { "string", doc = "a paragraph under the head" },
  viewer = { "integer", default = 60, min = 0, unit = "images",
    doc = "in the page's viewer, the first of those explained; 0 for none" },
}

--- Checks a call of run:report without making it (medxai.run.preflight).
function report.check_call(_, _, options) Options.check("report", options, report.spec) end

local text, value, number = html.text, html.value, html.number

-- ---- reading ----------------------------------------------------------------------------------------------------

-- A damaged file must not cost the whole page: it becomes a warning.
local function read_data(page, name)
  local ok, data = pcall(files.read_data, page.dir .. "/" .. name)
  if host.interrupted() then error("interrupted", 0) end
  if ok then return data end
  page.warnings[#page.warnings + 1] = tostring(data)
end

-- Explain or overlap steps in the order of the experiment; what an earlier form of it left in the folder comes last.
local function in_experiment_order(steps, names)
  local place = {}
  for i, name in ipairs(names or {}) do place[name] = i end
  for i, s in ipairs(steps) do
    s.earlier = names ~= nil and not place[s.name]
    s.place = place[s.name] or 1e6 + i
  end
  table.sort(steps, function(x, y) return x.place < y.place end)
  return steps
end

-- steps/<prefix>*.json that are finished, oldest name first: { name, result, fields }.
local function steps_of(page, prefix)
  local found = {}
  for _, file_name in ipairs(files.list(page.dir .. "/steps")) do
    local name = file_name:match("^(" .. prefix .. ".*)%.json$")
    local step = name and read_data(page, "steps/" .. file_name)
    if step and step.status == "finished" and type(step.result) == "table" then
      found[#found + 1] = { name = name, result = step.result, fields = step.fields or {} }
    end
  end
  return found
end

-- Whether a warning is a remark on an evaluation: those stand in the head and with the results.
local function is_remark(page, warning)
  for _, e in ipairs(page.evaluations) do
    for _, remark in ipairs(e.result.remarks or {}) do
      if tostring(warning):find(e.name .. ": " .. remark, 1, true) then return true end
    end
  end
  return false
end

local function open_page(run, options)
  local page = { dir = run.dir, name = run.name, seed = run.seed, warnings = {}, out = {} }
  page.config = read_data(page, "config.json") or {}
  page.environment = read_data(page, "environment.json")
  page.question = options.question or page.config.question
  page.title = options.title or page.config.title or run.name
  page.notes, page.viewer = options.notes, options.viewer
  page.fit = steps_of(page, "fit")
  page.searches = steps_of(page, "grid")
  page.evaluations = steps_of(page, "evaluate")
  page.explanations = in_experiment_order(steps_of(page, "explain%-"), run.explained)
  page.overlaps = in_experiment_order(steps_of(page, "overlap%-"), run.overlapped)
  page.judged = steps_of(page, "networks")
  for _, prefix in ipairs { "sanity", "compare", "audit" } do
    local found = steps_of(page, prefix)
    table.move(found, 1, #found, #page.judged + 1, page.judged)
  end
  page.data_check = read_data(page, "data_check.json")
  local ok, epochs = pcall(files.records, page.dir .. "/metrics.jsonl")
  page.epochs = {}
  for _, row in ipairs(ok and epochs or {}) do
    if row.epoch and row.train_loss then page.epochs[#page.epochs + 1] = row end
  end
  for _, w in ipairs(type(page.data_check) == "table" and page.data_check.warnings or {}) do
    page.warnings[#page.warnings + 1] = "data: " .. w
  end
  for _, w in ipairs(host.warnings and host.warnings() or {}) do
    if not is_remark(page, w) then page.warnings[#page.warnings + 1] = w end
  end
  return page
end

-- ---- pieces -----------------------------------------------------------------------------------------------------

local function put(page, ...) page.out[#page.out + 1] = string.format(...) end

-- A heading with a name to link to: "differs-on-purpose-from-the-run".
local function heading(page, title)
  local id = title:lower():gsub("[^%w]+", "-"):gsub("^%-+", ""):gsub("%-+$", "")
  page.ids = page.ids or {}
  page.ids[id] = (page.ids[id] or 0) + 1
  put(page, '<h2 id="part-%s%s">%s</h2>', id, page.ids[id] > 1 and "-" .. page.ids[id] or "", text(title))
end

local function svg_figure(page, svg, caption) put(page, "%s", html.figure(svg, caption)) end

-- The text of a setting: lists of plain values in one line; nil for a table of others.
local function setting_text(v)
  if type(v) ~= "table" then return value(v) end
  if next(v) == nil then return "none" end
  local words = {}
  for i, e in ipairs(v) do
    if type(e) == "table" then return nil end
    words[i] = value(e)
  end
  return #words > 0 and table.concat(words, ", ") or nil
end

-- Nested settings as "fit.optim.lr" = 0.01.
local function flatten(t) return flat(t, setting_text) end

local function interval_text(i, decimals)
  if type(i) ~= "table" or not i[1] or i[1] ~= i[1] then return "" end
  return string.format("[%s, %s]", number(i[1], decimals), number(i[2], decimals))
end

-- ---- sections ---------------------------------------------------------------------------------------------------

local function main_evaluation(page)
  for _, e in ipairs(page.evaluations) do
    if e.result.split == "test" then return e end
  end
  return page.evaluations[1]
end

-- The network's name, from the first settings that hold a model.
local function network_name(page)
  for _, key in ipairs(check.sorted_keys(page.config)) do
    local model = type(page.config[key]) == "table" and page.config[key].model
    local config = type(model) == "table" and (model.config or model)
    if type(config) == "table" and type(config.network) == "string" then return config.network end
  end
end

-- What an evaluation's numbers hide: one answer for all images, no better than the largest class.
local function put_remarks(page, result)
  for _, remark in ipairs(result.remarks or {}) do
    put(page, '<p class="remark"><b>Note:</b> on the %s split %s.</p>', text(result.split), text(remark))
  end
end

local function put_head(page)
  put(page, "<h1>%s</h1>", text(page.title))
  if page.question then put(page, '<p class="question">%s</p>', text(page.question)) end
  local env = page.environment or {}
  local words = { "run " .. page.name }
  words[#words + 1] = network_name(page)
  words[#words + 1] = "seed " .. tostring(page.seed)
  if type(env.libtorch) == "string" then words[#words + 1] = "libtorch " .. env.libtorch end
  words[#words + 1] = "report of " .. os.date("!%Y-%m-%d %H:%M UTC")
  put(page, '<p class="meta">%s</p>', text(table.concat(words, " · ")))
  if page.config.smoke then
    put(page, '<p class="smoke"><b>Smoke run.</b> A few images and steps, to see that the experiment runs to its end. '
      .. "Its numbers say nothing of networks or methods.</p>")
  end
  local main = main_evaluation(page)
  if main then
    local r, i = main.result, main.result.intervals or {}
    put(page, '<div class="head">')
    local function fact(name, v, interval)
      if v then
        put(page, "<div><b>%s</b><span>%s %s</span></div>", number(v, 3), text(name), interval_text(interval, 3))
      end
    end
    fact(r.split .. " accuracy", r.accuracy, i.accuracy)
    fact("macro F1", r.macro and r.macro.f1, i.macro_f1)
    fact("macro AUROC", r.auroc_macro, i.auroc_macro)
    if r.findings then fact("macro average precision", (r.macro or {}).average_precision, i.average_precision_macro) end
    put(page, "<div><b>%s</b><span>%s images</span></div>", number(r.n or 0), text(r.split))
    put(page, "</div>")
    put_remarks(page, r)
    if i.level then
      local list = {}
      for k, name in ipairs { "macro_f1", "accuracy", "auroc_macro" } do
        list[k] = { level = i.level, resampled = i.resampled, note = i.note, interval = i.kind and i.kind[name],
          why = i.why and i.why[name] }
      end
      put(page, '<p class="note">Brackets: %s.</p>', text(units.words(list)))
    end
  end
  if page.notes then put(page, "<p>%s</p>", text(page.notes)) end
end

local function put_warnings(page)
  if #page.warnings == 0 then return end
  local counted, order = {}, {}
  for _, w in ipairs(page.warnings) do
    w = tostring(w)
    if not counted[w] then order[#order + 1] = w end
    counted[w] = (counted[w] or 0) + 1
  end
  put(page, '<div class="warnings" role="note"><b>%d warning%s</b><ul>', #page.warnings,
    #page.warnings == 1 and "" or "s")
  for _, w in ipairs(order) do
    put(page, "<li>%s%s</li>", text(w), counted[w] > 1 and string.format(" (%d times)", counted[w]) or "")
  end
  put(page, "</ul></div>")
end

-- The classes in label order: of an evaluation, else of any settings that list them, else by name.
local function class_names(page)
  local main = main_evaluation(page)
  if main and main.result.classes then return main.result.classes end
  for _, key in ipairs(check.sorted_keys(page.config)) do
    local section = page.config[key]
    local model = type(section) == "table" and type(section.model) == "table"
      and (section.model.config or section.model) or section
    if type(model) == "table" and type(model.classes) == "table" then return model.classes end
  end
  local names, seen = {}, { total = true }
  for _, split in ipairs(check.sorted_keys(page.data_check.counts or {})) do
    for _, name in ipairs(check.sorted_keys(page.data_check.counts[split])) do
      if not seen[name] then names[#names + 1] = name end
      seen[name] = true
    end
  end
  return names
end

-- Rows by classes with a sum: splits, or sources.
local function counts_table(what, names, counts, classes)
  local columns, rows = { { what } }, {}
  for _, c in ipairs(classes) do columns[#columns + 1] = { c, numeric = true } end
  columns[#columns + 1] = { "all", numeric = true }
  for i, name in ipairs(names) do
    local row, sum = { text(name) }, 0
    for _, c in ipairs(classes) do
      local n = counts[name][c] or 0
      row[#row + 1] = number(n)
      sum = sum + n
    end
    row[#row + 1] = number(counts[name].total or sum)
    rows[i] = row
  end
  return html.table(columns, rows)
end

local function split_names(counts)
  local names, known = {}, {}
  for _, s in ipairs { "train", "val", "test" } do
    if counts[s] then names[#names + 1] = s end
    known[s] = true
  end
  for _, s in ipairs(check.sorted_keys(counts)) do
    if not known[s] then names[#names + 1] = s end
  end
  return names
end

-- Pairs of images that are the same, or nearly.
local function put_duplicates(page, title, list, count)
  if count == 0 then return put(page, "<p>%s: none.</p>", text(title)) end
  local rows = {}
  for i = 1, math.min(#list, 30) do
    local p = list[i]
    rows[i] = { text(p.split_a), text(p.a), text(p.split_b), text(p.b),
      p.correlation and number(p.correlation, 3) or "same pixels", p.same_class and "" or "another class",
      warn = not p.same_class }
  end
  put(page, "<details%s><summary>%s: %d</summary>%s%s</details>", count <= 5 and " open" or "", text(title), count,
    (html.table({ { "split" }, { "image" }, { "split" }, { "image" }, { "correlation" }, { "" } }, rows)),
    count > #rows and string.format('<p class="note">First %d of %d.</p>', #rows, count) or "")
end

local function put_data(page)
  local c = page.data_check
  if type(c) ~= "table" then return end
  heading(page, "Data")
  local classes = class_names(page)
  if c.counts then put(page, "%s", counts_table("split", split_names(c.counts), c.counts, classes)) end
  if c.images then
    put(page, "<p>%s images, all readable; %s.</p>", number(c.images),
      (c.patients or 0) > 0 and number(c.patients) .. " patients" or "patients unknown")
  end
  put(page, "<h3>Checks before training</h3>")
  if c.exact then put_duplicates(page, "The same pixels in two splits", c.exact, #c.exact) end
  if c.near then put_duplicates(page, "Nearly the same picture in two splits", c.near, c.near_count or #c.near) end
  if c.exact_within and #c.exact_within > 0 then
    put_duplicates(page, "The same pixels twice in one split", c.exact_within, #c.exact_within)
  end
  local s = c.sources
  if type(s) == "table" and s.names then
    put(page, "%s", counts_table("source", s.names, s.counts, classes))
    put(page, '<p class="note">Mutual information of class and source: %s of %s bits. Where they are near, the '
      .. 'source gives the class away.</p>', number(s.mutual_information_bits, 3), number(s.class_entropy_bits, 3))
  else
    put(page, "<p>Sources: unknown, so class by source cannot be checked.</p>")
  end
end

-- Where the run that the weights come from was of other settings, and the experiment says that this is meant.
local function put_differences(page)
  local list = page.config.differs_from_weights
  if type(list) ~= "table" or #list == 0 then return end
  heading(page, "Differs on purpose from the run of the weights")
  local items = {}
  for i, sentence in ipairs(list) do items[i] = "<li>" .. text(sentence) .. "</li>" end
  put(page, "<ul>%s</ul>", table.concat(items))
end

-- Weights of another run that was chosen on these validation images make this run's validation score optimistic.
local function put_chain(page)
  local described = read_data(page, "model.json")
  local chain = type(described) == "table" and described.chain
  if not chain then return end
  put(page, "<p>Training began from the weights of the run <code>%s</code>.%s</p>", text(chain.run),
    chain.same_validation
    and " That run was chosen on the same validation images, so the validation scores here are optimistic; the test "
    .. "split is not touched by this." or "")
end

local function put_training(page)
  if #page.epochs == 0 and #page.fit == 0 then return end
  heading(page, "Training")
  put_chain(page)
  if #page.epochs > 0 then
    local best
    for _, row in ipairs(page.epochs) do
      if row.best == true then best = row.epoch end
    end
    local d = require("medxai.show.figure").learning_curve(page.epochs, best)
    svg_figure(page, d:svg("Learning curve"),
      string.format("Loss and accuracy by epoch.%s", best and string.format(" The weights of epoch %d were kept.", best)
        or ""))
    local rows = {}
    for i, r in ipairs(page.epochs) do
      rows[i] = { number(r.epoch), number(r.train_loss or 0 / 0, 4), number(r.train_accuracy or 0 / 0, 4),
        number(r.val_loss or 0 / 0, 4), number(r.val_accuracy or 0 / 0, 4), r.lr and number(r.lr) or "",
        r.best == true and r.epoch == best and "kept" or "" }
    end
    put(page, "<details><summary>Numbers of each epoch</summary>%s</details>",
      (html.table({ { "epoch", numeric = true }, { "training loss", numeric = true },
      { "training accuracy", numeric = true }, { "validation loss", numeric = true },
      { "validation accuracy", numeric = true }, { "learning rate", numeric = true }, { "" } }, rows)))
  end
end

local function put_search(page)
  for _, step in ipairs(page.searches) do
    local grid_report, r = require "medxai.steps.search_report", step.result
    heading(page, string.format("Search over %d trainings", #r.cells))
    for _, sentence in ipairs(grid_report.sentences(r)) do put(page, "<p>%s</p>", text(sentence)) end
    put_chain(page)
    for _, f in ipairs(r.figures or {}) do
      local svg = files.read(page.dir .. "/" .. f.svg)
      if svg then svg_figure(page, svg, f.title) end
    end
    local header, rows = grid_report.table(r)
    local columns, cells = {}, {}
    for i, name in ipairs(header) do columns[i] = { (name:gsub("_", " ")), numeric = i < #header } end
    for i, row in ipairs(rows) do
      cells[i] = {}
      for k, v in ipairs(row) do cells[i][k] = text(v) end
      cells[i].warn = row[#row] == "failed" or row[#row] == "diverged"
    end
    put(page, "<details%s><summary>All cells</summary>%s</details>", #rows <= 40 and " open" or "",
      (html.table(columns, cells)))
    for _, row in ipairs(r.cells) do
      if row.problem then put(page, '<p class="note">Cell %d: %s</p>', row.number, text(row.problem)) end
    end
  end
end

local function put_cross(page)
  local ok, rows = pcall(csv.read, page.dir .. "/cross.csv")
  if not ok or not rows or #rows == 0 then return end
  heading(page, "Models and inputs crossed")
  local out = {}
  for i, row in ipairs(rows) do
    local function n(key) return number(tonumber(row[key]) or 0 / 0, 3) end
    out[i] = { text(row.model), text(row.input), n "accuracy",
      interval_text({ tonumber(row.accuracy_low), tonumber(row.accuracy_high) }, 3), n "macro_f1", n "auroc_macro",
      text(row.n) }
  end
  put(page, "%s",
    (html.table({ { "model" }, { "input" }, { "accuracy", numeric = true }, { "interval", numeric = true },
      { "macro F1", numeric = true },
    { "macro AUROC", numeric = true }, { "images", numeric = true } }, out)))
  if (rows[1].interval or "") ~= "" then
    put(page, '<p class="note">Brackets: 95 %% intervals, %s.</p>', text(rows[1].interval))
  end
end

local function per_class_table(r)
  local rows = {}
  for i, c in ipairs(r.per_class or {}) do
    rows[i] = { text(c.class), number(c.precision, 3), number(c.recall, 3), number(c.f1, 3),
      number(c.auroc or 0 / 0, 3), number(c.support or 0) }
  end
  for _, name in ipairs { "micro", "macro", "weighted" } do
    local m = r[name]
    if m then
      local auroc = name ~= "micro" and r["auroc_" .. name] or nil
      rows[#rows + 1] = { name .. " mean", number(m.precision, 3), number(m.recall, 3), number(m.f1, 3),
        auroc and number(auroc, 3) or "", number(m.support or r.n or 0) }
    end
  end
  return html.table({ { "class" }, { "precision", numeric = true }, { "recall", numeric = true },
    { "F1", numeric = true }, { "AUROC", numeric = true }, { "images", numeric = true } }, rows)
end

local function put_evaluations(page)
  for _, e in ipairs(page.evaluations) do
    local r = e.result
    local name = e.name:gsub("^evaluate%-", "")
    heading(page, "Results on the " .. tostring(r.split) .. " split"
      .. (name ~= r.split and ": " .. name:gsub("[-_]", " ") or ""))
    put_remarks(page, r)
    put(page, '<div class="pair">')
    if r.confusion and r.classes then
      local d = require("medxai.show.figure").confusion { classes = r.classes, counts = r.confusion }
      svg_figure(page, d:svg("Confusion matrix"), "Confusion matrix: images, and share of the true class.")
    end
    put(page, "<div>%s", per_class_table(r))
    if r.findings then
      put(page, '<p class="note">Precision, recall and F1 at %s; accuracy is the share of known labels.</p>',
        r.thresholds_from == "val" and "thresholds chosen on the validation images (Youden's index)"
        or "probabilities of 0.5")
    end
    if r.loss then put(page, '<p class="note">Cross entropy %s.</p>', number(r.loss, 4)) end
    if type(r.evaluations) == "number" then
      put(page, '<p class="note">This test split has been evaluated %d time%s in this run.</p>',
        math.tointeger(r.evaluations) or 0, r.evaluations == 1 and "" or "s")
    end
    put(page, "</div></div>")
  end
end

local function put_explanations(page)
  if #page.explanations == 0 then return end
  heading(page, "Explanations")
  require("medxai.show.report_explain").put(page, { put = put, interval = interval_text, figure = svg_figure })
  if page.viewer == 0 or files.exists(page.dir .. "/study/viewer.html") then return end -- a page has one viewer
  local album, left_out = require("medxai.show.album").of_run(page.dir, page.explanations,
    { most = page.viewer, network = network_name(page) })
  if #album.images == 0 then return end
  put(page, "<h3>Every map over its image</h3>")
  put(page, "%s", require("medxai.show.viewer").html(album))
  if left_out > 0 then
    put(page, '<p class="note">The first %d images; %d more are in maps/.</p>', #album.images, left_out)
  end
end

local function put_overlaps(page)
  if #page.overlaps == 0 then return end
  heading(page, "Overlap with masks")
  require("medxai.show.report_overlap").put(page, { put = put, figure = svg_figure })
end

-- What the page of a comparison is put with (show/report_study.lua).
local pen = { put = put, figure = svg_figure, counts = counts_table, splits = split_names }

local function put_first(page) study.put_first(page, pen) end
local function put_endpoints(page) study.put_endpoints(page, pen) end
local function put_models(page) study.put_data(page, pen) end
local function put_steps(page) study.put_steps(page, pen) end
local function put_costs(page) study.put_costs(page, pen) end
local function put_limits(page) study.put_limits(page, pen) end

-- Settings of a step; those of a study are many, so they are folded there.
local function put_facts(page, key, facts)
  if page.facts then
    put(page, "<details><summary>%s: %d settings</summary>%s</details>", text(key), #facts, html.facts(facts))
  else
    put(page, "<h3>%s</h3>%s", text(key), html.facts(facts))
  end
end

local function put_settings(page)
  local config = {}
  for k, v in pairs(page.config) do
    if k ~= "question" and k ~= "title" and k ~= "command" then config[k] = v end
  end
  if next(config) then
    heading(page, "Settings")
    for _, key in ipairs(check.sorted_keys(config)) do
      if type(config[key]) == "table" then put_facts(page, key, flatten(config[key])) end
    end
    local plain = {}
    for _, key in ipairs(check.sorted_keys(config)) do
      if type(config[key]) ~= "table" then plain[#plain + 1] = { key, value(config[key]) } end
    end
    if #plain > 0 then put(page, "%s", html.facts(plain)) end
  end
  if page.environment then
    heading(page, "Environment")
    put(page, "%s", html.facts(flatten(page.environment)))
  end
end

local function put_times(page)
  local ok, rows = pcall(csv.read, page.dir .. "/times.csv")
  if not ok or not rows or #rows == 0 then return end
  local sums, order = {}, {}
  for _, row in ipairs(rows) do
    local key = (row.step or "") .. "\0" .. (row.name or "")
    if not sums[key] then
      sums[key] = { row.step or "", row.name or "", 0, 0 }
      order[#order + 1] = key
    end
    sums[key][3], sums[key][4] = sums[key][3] + 1, sums[key][4] + (tonumber(row.seconds) or 0)
  end
  heading(page, "Times")
  local out = {}
  for i, key in ipairs(order) do
    local s = sums[key]
    out[i] = { text(s[1]), text(s[2]), number(s[3]), number(s[4] / 1, 1) }
  end
  put(page, "%s", html.table({ { "step" }, { "part" }, { "times", numeric = true },
    { "seconds", numeric = true } }, out))
end

local function put_checklist(page)
  if not page.facts then return end
  heading(page, "Checklists")
  put(page, "%s", study.checklist(page))
end

local function put_reproduce(page)
  heading(page, "How to run it again")
  local command = page.config.command or page.environment and page.environment.command
  put(page, "<pre>%s</pre>", text(command or "medxai-run <experiment>.lua"))
  put(page, '<p class="note">The folder also holds config.json (every setting), environment.json, manifest.csv '
    .. '(each image with its hash), metrics.jsonl, predictions.csv, '
    .. "scores.csv, weights.pt, maps/ (raw signed maps, one line each in maps/index.jsonl) and figures/ (PNG, SVG, "
    .. "PDF).</p>")
end

-- Links to the parts of a page, from their headings.
local function contents_of(body)
  local links = {}
  for id, title in table.concat(body, "\n"):gmatch '<h2 id="([^"]+)">(.-)</h2>' do
    links[#links + 1] = ('<a href="#%s">%s</a>'):format(id, title)
  end
  return ('<nav aria-label="Parts of this page">%s</nav>'):format(table.concat(links, " "))
end

-- The parts of a page in their order. In that of a study single explanations come after the gate.
local sections = {
  plain = { put_head, put_data, put_differences, put_search, put_training, put_cross, put_evaluations,
    put_explanations, put_overlaps, put_settings, put_times, put_reproduce },
  study = { put_head, put_first, put_endpoints, put_data, put_models, put_differences, put_search, put_training,
    put_cross, put_evaluations, put_steps, put_explanations, put_overlaps, put_costs, put_limits, put_settings,
    put_times, put_reproduce, put_checklist },
}

-- What the page says, as hashes: the folder's files but for times and the machine, which change without a result
-- changing.
local function inputs_of(page, options)
  local inputs = { options = options, version = 6, order = require("medxai.base.json").list {} }
  for i, e in ipairs(page.explanations) do inputs.order[i] = e.name end
  local names = { "config.json", "data_check.json", "metrics.jsonl", "study/viewer.html", "study/models.json",
    "study/images.csv", "verdicts.csv" }
  for _, name in ipairs(files.list(page.dir .. "/steps")) do
    if name ~= "report.json" then names[#names + 1] = "steps/" .. name end
  end
  for _, name in ipairs(names) do
    local bytes = files.read(page.dir .. "/" .. name)
    inputs[name] = bytes and files.sha256(bytes) or "none"
  end
  return inputs
end

--- run:report(options).
---@param run table with dir, name, seed
---@param options? table title, question, notes, viewer (images that the page's viewer shows, 60; 0 for none)
---@return string path of report.html
function report.write(run, options)
  options = Options.check("report", options, report.spec)
  local page = open_page(run, options)
  local path = run.dir .. "/report.html"
  study.open(page)
  local step = run:step("report", inputs_of(page, options))
  if step.done then
    run:skipped("report")
    study.print(page)
    return path
  end
  local body = {}
  for _, section in ipairs(page.facts and sections.study or sections.plain) do
    page.out = {}
    section(page)
    body[#body + 1] = table.concat(page.out, "\n")
  end
  page.out = {}
  put_warnings(page) -- last, since reading may have added some; shown under the head and the first sentences
  table.insert(body, page.facts and 3 or 2, table.concat(page.out, "\n"))
  if page.facts then table.insert(body, 3, contents_of(body)) end
  files.write(path, string.format('<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8"><meta '
    .. 'name="viewport" content="width=device-width, initial-scale=1">'
    .. "<title>%s</title>\n<style>%s</style></head>\n<body>\n<main>\n", text(page.title), html.style)
    .. table.concat(body, "\n") .. "\n</main>\n</body></html>\n")
  step:finish({ path = "report.html" }, study.write(page, { "report.html" }))
  study.print(page)
  return path
end

return report
