-- The page of a comparison from a made run folder: its order, its links, what it leaves for scripts, its checklists.
local t = require "t"
local canon = require "medxai.base.json"
local checklist = require "medxai.show.checklist"
local csv = require "medxai.base.csv"
local files = require "medxai.base.files"
local host = require "medxai.host"
local report = require "medxai.steps.report"
local shared = require "medxai.run.tables"

local function run_of(dir)
  return { dir = dir, name = "demo", seed = 7, step = function(_, _, fields)
    return { fields = fields, finish = function(self, _, list) self.files = list end }
  end }
end

local function put_step(dir, name, fields, result)
  files.write_data(("%s/steps/%s.json"):format(dir, name), { status = "finished", key = "k", fields = fields,
    result = result })
end

local function table_of(title, part)
  return { title = title, part = part, columns = { "method", "mean" }, rows = { { "layercam", "0.3" } } }
end

local verdicts = {
  { subject = "a - b", check = "auroc_macro", verdict = "better", estimate = 0.1, low = 0.05, high = 0.15,
    family = "networks auroc_macro, these weights", p_holm = 0.001, n = 60, units = 60 },
  { subject = "layercam on a", check = "weights", verdict = "pass", estimate = 0.05, low = 0.01, high = 0.1,
    threshold = 0.25, family = "sanity a weights", n = 48, units = 48 },
  { subject = "Sobel on a", check = "weights", verdict = "fail", estimate = 1, low = 1, high = 1, threshold = 0.25,
    family = "sanity a weights", n = 48, units = 48 },
  { subject = "layercam on a", check = "above_swap", verdict = "better", estimate = 0.2, low = 0.1, high = 0.3,
    family = "compare a road_combined@1", reason = "primary", n = 60, units = 60 },
  { subject = "layercam on a", check = "above_swap", verdict = "undecided", estimate = 0.2, low = -0.1, high = 0.3,
    family = "compare a energy_inside@1", reason = "exploratory", n = 60, units = 60 },
  { subject = "layercam on b", check = "beats_baselines", verdict = "undecided", family = "compare b road_combined@1",
    n = 60, units = 60 },
  { subject = "data", check = "audit", verdict = "confounded", reason = "COVID-19: every image is from 'A'",
    family = "audit" },
}

local function put_networks(dir)
  put_step(dir, "networks", { primary = "auroc_macro", margin = 0.02 }, { title = "Networks compared", n = 60,
    units = 60, resampled = "patients", direction = "higher", chance = 0.5, sentences = { "a better" },
    tables = { { columns = { "model", "auroc_macro" }, rows = { { "a", "0.9" } } } } })
  put_step(dir, "networks-a-on-test", {}, { n = 60 }) -- the evaluation of one model has no sentences
  csv.write(dir .. "/tables/networks.csv", { "run", "train_seed", "score", "value", "low", "high" }, {
    { run = "a", train_seed = 1, score = "auroc_macro", value = 0.9, low = 0.85, high = 0.95 },
    { run = "b", train_seed = 1, score = "auroc_macro", value = 0.8, low = 0.75, high = 0.85 } })
  csv.write(dir .. "/tables/pairs.csv", shared.pairs, { { family = "networks auroc_macro, these weights",
    endpoint = "auroc_macro", a = "a", b = "b", estimate = 0.1, low = 0.05, high = 0.15, decision = "better" } })
end

local function gate_line(method, state, baseline, mean)
  return { method = method, label = method, state = state, failed = {}, baseline = baseline,
    checks = { weights = { estimate = { mean = mean, low = mean, high = mean, units = 48 } } } }
end

local function put_compare(dir)
  put_step(dir, "compare-0123abcd", { baselines = { sobel = true } }, { title = "Explanations compared",
    primary = "road_combined@1", direction = "higher", units = 60, images = 60, resampled = "patients", failed = 1,
    sentences = { "layercam first" }, tables = { table_of "a, road_combined",
      table_of("Agreement of maps", "agreement"),
      table_of("Does the ranking depend?", "stability") } })
  local rows = {}
  for i, run in ipairs { "a", "b" } do
    rows[i] = { run = run, metric = "road_combined@1", method = "layercam", rank_low = 1, rank_high = 1, gain = 0.2,
      gain_low = 0.1, gain_high = 0.3, above_swap = "better", beats_baselines = i == 1 and "better" or "undecided" }
  end
  csv.write(dir .. "/tables/methods.csv", { "run", "metric", "method", "rank_low", "rank_high", "gain", "gain_low",
    "gain_high", "above_swap", "beats_baselines", "gate" }, rows)
  csv.write(dir .. "/tables/costs.csv", { "run", "method", "images", "forwards", "backwards", "map_seconds", "seconds",
    "failed_cells" }, { { run = "a", method = "layercam", images = 60, forwards = 60, backwards = 60, map_seconds = 6,
    seconds = 90, failed_cells = 1 } })
  files.append_line(dir .. "/study/cells.jsonl", canon.write { id = "x", state = "failed", problem = "<no layer>" })
end

local function put_study(dir)
  files.write_data(dir .. "/config.json", { name = "demo", seed = 7, question = "Which one?",
    command = "medxai-run x" })
  csv.write(dir .. "/verdicts.csv", shared.verdicts, verdicts)
  put_networks(dir)
  put_step(dir, "sanity-0123abcd", {}, { title = "The gate", images = 48, thresholds = { persistence = 0.25 },
    models = { { model = "a", controls = { ["sobel weights"] = true }, methods = { gate_line("layercam", "passed", nil,
    0.05), gate_line("Sobel", "failed", true, 1) } } }, sentences = { "1 passed" }, tables = { table_of "Gate of a" } })
  put_compare(dir)
  put_step(dir, "audit", { margin = 0.638 }, { title = "Does the network need the lungs?", verdict = "confounded",
    reason = "COVID-19: every image is from 'A'", sentences = { "Verdict: confounded" }, tables = {},
    resampled = "patients" })
  csv.write(dir .. "/study/images.csv", { "image_id", "patient", "source", "label" }, {
    { image_id = "1", patient = "p1", source = "A", label = "COVID-19" },
    { image_id = "2", patient = "p2", source = "B", label = "Normal" } })
  local check = { counts = { train = { ["COVID-19"] = 4, Normal = 5, total = 9 } }, images = 9, patients = 0,
    exact = canon.list { { a = "x", b = "y" } }, near_count = 2, warnings = canon.list { "odd <thing>" } }
  files.write_data(dir .. "/study/models.json", { version = 1, classes = { "COVID-19", "Normal" }, models = {
    { name = "a", run_name = "a", network = "resnet50", train_seed = 1, input = "whole",
      weights_sha256 = ("ab"):rep(32),
      start = "imagenet", size_px = 224, mean = { 0, 0, 0 }, std = { 1, 1, 1 }, selected = { by = "accuracy",
      split = "val" }, best_epoch = 3, training = { epochs = 8, batch = 16, optim = { kind = "sgd",
      options = { lr = 0.01 } } } },
    { name = "b", run_name = "b", network = "vgg19", train_seed = 1, input = "whole",
      weights_sha256 = ("cd"):rep(32) } },
    checks = { { models = { "a", "b" }, check = check } } })
end

local function page_of(put)
  local dir, was = t.tmpdir(), host.options.quiet
  host.options.quiet = true
  put(dir)
  local real_print, said = print, {}
  print = function(text) said[#said + 1] = text end -- luacheck: ignore
  local ok, path = pcall(report.write, run_of(dir))
  print, host.options.quiet = real_print, was -- luacheck: ignore
  t.ok(ok, path)
  return t.read(path), dir, table.concat(said, "\n")
end

t.test("the page has its parts in the order in which a reader has to believe them", function()
  local page, at = page_of(put_study), 0
  for _, part in ipairs { "Which one?", '<ol class="conclusions">', ">Primary endpoints<", ">Models and data<",
    ">Networks compared<", ">The gate<", ">Explanations compared<", ">Agreement<", ">Stability of the ranking<",
    ">Does the network need the lungs?<", ">Costs and failures<", ">Limits<", ">How to run it again<",
    ">Checklists<" } do
    local found = page:find(part, at + 1, true)
    t.ok(found, part .. " is missing, or stands too early")
    at = found
  end
end)

t.test("each sentence links to its row, every link of the page has its place, and no place is there twice", function()
  local page = page_of(put_study)
  local ids = {}
  for id in page:gmatch ' id="([^"]+)"' do
    t.ok(not ids[id], id .. " is there twice")
    ids[id] = true
  end
  local links = {}
  for id in page:gmatch 'href="#([^"]+)"' do
    t.ok(ids[id], "#" .. id .. " leads nowhere")
    links[#links + 1] = id
  end
  for k = 1, 4 do t.ok(links[k]:find "^row%-%x+$", "sentence " .. k .. " links to " .. links[k]) end
  t.equal(links[5], "limits")
  -- the row that the first sentence links to is that of its verdict
  local row = page:match('<tr id="' .. links[1]:gsub("%-", "%%-") .. '".-</tr>')
  t.ok(row:find("a - b", 1, true) and row:find("better", 1, true) and row:find("0.100", 1, true), row)
end)

t.test("the five sentences are kept for scripts as they are shown and printed", function()
  local page, dir, said = page_of(put_study)
  local kept = files.read_data(dir .. "/conclusions.json").conclusions
  t.equal(#kept, 5)
  local states = {}
  for i, c in ipairs(kept) do
    states[i] = c.state
    t.ok(said:find(c.question .. " " .. c.sentence, 1, true), "not printed: " .. c.sentence)
    t.ok(page:find(require("medxai.show.html").text(c.sentence), 1, true), "not on the page: " .. c.sentence)
  end
  t.equal(states, { "found", "undecided", "found", "undecided", "undecided" })
  t.equal(kept[1].row, { family = "networks auroc_macro, these weights", subject = "a - b", check = "auroc_macro" })
end)

t.test("verdicts that are exploratory and those of controls are not counted", function()
  local _, dir = page_of(put_study)
  local sure = files.read_data(dir .. "/conclusions.json").conclusions[5]
  t.ok(sure.sentence:find("2 of 5 primary verdicts are undecided", 1, true), sure.sentence)
  -- networks 1, gate 1, explanations 2 of the primary metric (one undecided), audit 1: confounded decides nothing
end)

t.test("what the data check found, sources by class and failures are told, nothing unescaped", function()
  local page = page_of(put_study)
  for _, part in ipairs { "a and b: 1 image stands in two splits; 2 nearly; patients are unknown",
    "odd &lt;thing&gt;", "<td>A</td>", "1 cell failed", "&lt;no layer&gt;" } do
    t.ok(page:find(part, 1, true), "missing: " .. part)
  end
end)

t.test("a step that was not run says so in its place; a run without such steps has no first screen", function()
  local page, dir = page_of(function(folder)
    csv.write(folder .. "/verdicts.csv", shared.verdicts, { verdicts[1] })
    put_networks(folder)
  end)
  local kept = files.read_data(dir .. "/conclusions.json").conclusions
  t.equal({ kept[1].state, kept[2].state, kept[3].state, kept[4].state }, { "found", "not_run", "not_run", "not_run" })
  t.ok(page:find('<p class="remark">The sanity gate was not run', 1, true))
  page, dir = page_of(function(folder) files.write_data(folder .. "/config.json", { name = "demo" }) end)
  t.ok(not page:find('class="conclusions"', 1, true) and not page:find("Checklists", 1, true))
  t.ok(not files.exists(dir .. "/conclusions.json"))
end)

t.test("any one of the steps alone makes a page, whatever the others would have left", function()
  for k, name in ipairs { "networks", "sanity%-0123abcd", "compare%-0123abcd", "audit" } do
    local page, dir = page_of(function(folder)
      put_study(folder)
      for _, file in ipairs(files.list(folder .. "/steps")) do
        if not file:find("^" .. name .. "%.json$") then files.remove(folder .. "/steps/" .. file) end
      end
    end)
    local run = 0
    for i, c in ipairs(files.read_data(dir .. "/conclusions.json").conclusions) do
      if c.state ~= "not_run" and i < 5 then run = i end
    end
    t.equal(run, ({ 1, 3, 2, 4 })[k], name)
    t.ok(page:find(">Checklists<", 1, true), name)
    local order = {}
    for state in page:gmatch '<li class="([%w_]+)"><b>' do order[#order + 1] = state end
    t.ok(order[1] ~= "not_run" and order[3] == "not_run" and order[5] == "not_run", "what was not run stands last")
  end
end)

t.test("columns of numbers stand to the right, words to the left; a long table beside the answer is folded", function()
  local out, rows = {}, {}
  for i = 1, 20 do rows[i] = { "m" .. i, "0." .. i, "[-0.1, +0.2]", i % 2 == 0 and "" or "-", "gate failed: image" } end
  local function put(_, form, ...) out[#out + 1] = form:format(...) end
  local t_ = { title = "x", columns = { "method", "mean", "interval", "none", "gate" }, rows = rows, page_only = true }
  require("medxai.show.report_judged").put({}, put, { sentences = {}, tables = { t_ } })
  local text = table.concat(out)
  t.ok(text:find("<details><summary>20 rows</summary>", 1, true))
  for name, class in pairs { method = "", mean = ' class="n"', interval = ' class="n"', none = "", gate = "" } do
    t.ok(text:find(("<th%s scope=\"col\">%s</th>"):format(class, name), 1, true), name)
  end
end)

-- ---- checklists -----------------------------------------------------------------------------------------------------

t.test("the checklists have the guidelines' items: CLAIM 1 to 44, TRIPOD+AI 1 to 27 with their parts", function()
  for i, item in ipairs(checklist.claim) do t.equal(item[1], tostring(i)) end
  t.equal(#checklist.claim, 44)
  local numbers, last = {}, 0
  for _, item in ipairs(checklist.tripod) do
    local number = tonumber(item[1]:match "^%d+")
    t.ok(number == last or number == last + 1, item[1])
    t.ok(not numbers[item[1]], item[1] .. " is there twice")
    numbers[item[1]], last = true, number
  end
  t.equal({ #checklist.tripod, last }, { 52, 27 })
  for _, list in ipairs { checklist.claim, checklist.tripod } do
    for _, item in ipairs(list) do
      t.ok(not item[3] or checklist.known[item[3]], item[1] .. " asks for what nobody knows: " .. tostring(item[3]))
    end
  end
end)

t.test("each item has the guideline's number: under it is asked what the guideline asks there", function()
  local function check(list, words)
    local texts = {}
    for _, item in ipairs(list) do texts[item[1]] = item[2] end
    for number, word in pairs(words) do
      t.ok(texts[number]:lower():find(word, 1, true), ("%s asks for %s: %s"):format(number, word, texts[number]))
    end
  end
  check(checklist.claim, { ["4"] = "hypotheses", ["8"] = "excluded", ["9"] = "preprocessing", ["11"] = "identities",
    ["12"] = "missing", ["13"] = "acquired", ["14"] = "reference standard", ["18"] = "between and within annotators",
    ["19"] = "splits", ["20"] = "disjoint", ["21"] = "size of the test set", ["24"] = "initial", ["27"] = "ensembles",
    ["29"] = "uncertainty", ["30"] = "robustness", ["31"] = "explanation", ["32"] = "internal", ["33"] = "external",
    ["34"] = "registration", ["36"] = "demographic", ["38"] = "accuracy", ["39"] = "wrongly", ["40"] = "limitations",
    ["43"] = "software", ["44"] = "funding" })
  check(checklist.tripod, { ["3c"] = "inequalities", ["5b"] = "dates", ["6c"] = "treatments", ["8c"] = "blinding",
    ["9a"] = "chosen", ["10"] = "sample size", ["11"] = "missing", ["12a"] = "split", ["12d"] = "clusters",
    ["12e"] = "performance", ["12f"] = "updating", ["13"] = "imbalance", ["14"] = "fairness", ["15"] = "output",
    ["16"] = "development and evaluation", ["17"] = "ethical", ["18a"] = "funding", ["18b"] = "conflicts",
    ["18c"] = "protocol", ["18d"] = "registration", ["18e"] = "data", ["18f"] = "code", ["19"] = "public",
    ["20a"] = "flow", ["22"] = "full model", ["23a"] = "intervals", ["24"] = "updating", ["26"] = "limitations",
    ["27a"] = "poor or missing input" })
end)

t.test("an item that the run does not answer is to be filled in by the authors; none is invented", function()
  for _, list in ipairs { checklist.claim, checklist.tripod } do
    for _, item in ipairs(list) do
      local answer, known = checklist.answer(item, {})
      t.ok(not known and answer == "to be filled in by the authors", item[1] .. ": " .. answer)
    end
  end
  local page = page_of(put_study)
  for _, part in ipairs { "CLAIM 2024: ", "TRIPOD+AI 2024: ", "resnet50: 8 epochs of batches of 16, sgd (lr 0.01)",
    "a: the epoch with the best accuracy on the val split (epoch 3)",
    "by image, patients unknown; pairs of the same image in two splits: 1, of nearly the same: 2",
    "primary: networks by macro AUROC, explanations by ROAD combined, the audit by AUROC without the lungs" } do
    t.ok(page:find(part, 1, true), "missing: " .. part)
  end
  t.ok(page:find("<td>5</td><td>Prospective or retrospective</td><td><i>to be filled in by the authors</i></td>", 1,
    true))
end)
