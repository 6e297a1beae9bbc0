-- run:networks(study, { primary = "auroc_macro", margin = 0.02 }): which network of a study is better, and does that
-- hold for its weights or for its recipe? One evaluation per model on the judged split, each a step of its own; then
-- areas under ROC curves (DeLong, Obuchowski), accuracy (McNemar), F1, calibration beside its own chance level,
-- conformal sets. The endpoint named in `primary` is what the comparison is about; all others are exploratory, and
-- marked so. It refuses models of other classes, images that not all models judged, and a tuning split that holds
-- judged images.
local calibrated = require "medxai.steps.networks_calibration"
local canon = require "medxai.base.json"
local check = require "medxai.base.check"
local Options = require "medxai.base.options"
local components = require "medxai.stats.components"
local distributions = require "medxai.stats.distributions"
local endpoints = require "medxai.stats.endpoints"
local evaluate = require "medxai.steps.evaluate"
local files = require "medxai.base.files"
local multiple = require "medxai.stats.multiple"
local plot = require "medxai.show.plot"
local predict = require "medxai.nn.predict"
local predictions = require "medxai.steps.predictions"
local tables = require "medxai.run.tables"
local units = require "medxai.stats.units"
local verdict = require "medxai.stats.verdict"

local networks = {}

local nan = 0 / 0

networks.spec = {
  primary = { "string", default = "auroc_macro", doc = "the endpoint that decides; the others are exploratory" },
  margin = { "number", above = 0, doc = "differences within it are equivalent; default: equivalence is not judged" },
  alpha = { "number", default = 0.1, above = 0, max = 0.5,
    doc = "share of images whose class a conformal set may miss" },
  level = { "number", default = 0.95, above = 0, max = 1, doc = "of the intervals" },
  batch = { "integer", default = 32, min = 1, unit = "images", doc = "per pass" },
}

networks.columns = { "network", "run", "train_seed", "input", "weights_sha256", "score", "role", "value", "low",
  "high",
  "interval", "chance", "n", "units", "status" }

--- Checks the options; raises what is wrong with them.
---@param study medxai.Study
---@param options table
function networks.check(study, options)
  if type(study) ~= "table" or not study.models then
    check.fail("networks", "the first argument is no study (expected run:networks(study, { ... }) with study = "
      .. "run:study { ... }).")
  end
  local o = Options.check("networks", options, networks.spec)
  endpoints.of(o.primary, study.classes)
  return o
end

--- Checks a call of run:networks without making it (medxai.run.preflight).
function networks.check_call(unknown, _, study, options)
  local o = Options.check("networks", options, networks.spec)
  if study ~= unknown and o.primary ~= unknown then networks.check(study, options) end
end

-- ---- answers --------------------------------------------------------------------------------------------------------

local function check_labels(split)
  for i = 1, split.n do
    if not split:label(i) then
      check.fail("networks", "'%s' in the %s split has no label (expected one of %s).", split:item(i).path, split.name,
        table.concat(split.classes, ", "))
    end
  end
end

-- One model's answers on one split, evaluated unless a step of the same weights and images is finished.
local function answers_of(run, m, split, o)
  check_labels(split)
  local name = ("networks-%s-on-%s"):format(m.name, split.name):gsub("[^%w_%-]", "_")
  local file = files.join("study", "networks", name:sub(10) .. ".csv")
  local step = run:step(name, { weights_sha256 = m.weights_sha256, data = run:describe_split(split), batch = o.batch })
  if step.done then
    run:skipped(name)
  else
    local model = m:open()
    predict.check_classes("networks", model, split.classes)
    local clock <close> = run:clock(name)
    step:begin()
    local answers = predict.predict(model, split, { batch = o.batch, name = m.name,
      alive = function() run:heartbeat(name) end })
    predictions.write(run, split, answers, file)
    evaluate.count(run, split, step)
    step:finish({ n = split.n }, { file })
    m:close()
  end
  return predictions.read(run, file, split)
end

-- The paths that every model judged, in the order of the first one's split; how many others there are.
local function common_paths(split, all)
  local list, lost = {}, 0
  for i = 1, split.n do
    local path, is_common = split.items[i].path, true
    for _, answers in ipairs(all) do is_common = is_common and answers[path] ~= nil end
    if is_common then list[#list + 1] = path else lost = lost + 1 end
  end
  return list, lost
end

-- Labels, logits of each model and patients of the images that all models judged on a split.
local function judged_images(run, study, split, o)
  local all = {}
  for k, m in ipairs(study.models) do all[k] = answers_of(run, m, m:split_of(split), o) end
  local paths, lost = common_paths(split, all)
  if #paths == 0 then
    check.fail("networks", "no image of the %s split is common to all models. Their data leave other images out.",
      split.name)
  end
  if lost > 0 then
    run:warn(("networks: %d of %d images of the %s split are not in every model's data: left out for all"):format(lost,
      split.n, split.name))
  end
  local images = { n = #paths, labels = {}, patients = {}, logits = {} }
  for i, path in ipairs(paths) do images.labels[i], images.patients[i] = all[1][path].label, all[1][path].patient end
  for k, answers in ipairs(all) do
    images.logits[k] = {}
    for i, path in ipairs(paths) do images.logits[k][i] = answers[path].logits end
  end
  return images
end

-- The split on which temperatures and sets are fitted must hold no judged image, nor another one of a judged patient.
local function check_tune(study)
  local judged, patients = {}, {}
  for i = 1, study.split.n do
    local item = study.split:item(i)
    judged[item.id] = item.path
    if units.is_known(item.patient) then patients[item.patient] = item.path end
  end
  for i = 1, study.tune.n do
    local item = study.tune:item(i)
    local same = judged[item.id]
    if same or patients[item.patient] then
      check.fail("networks", "the tuning split %s holds '%s', which is judged%s (expected other images and other "
        .. "patients). What is tuned on an image says nothing about it: give another tune.", study.tune.name, item.path,
        same and "" or " by another image of the same patient, '" .. patients[item.patient] .. "'")
    end
  end
end

-- ---- recipes --------------------------------------------------------------------------------------------------------

-- Models that differ in their training seed alone, together: { name, network, input, numbers, seeds, judged }.
local function recipes_of(study, images)
  local by_name, list = {}, {}
  for k, m in ipairs(study.models) do
    local name = m.run_name or m.name
    if not by_name[name] then
      by_name[name] = { name = name, network = m.network, input = m.input, numbers = {}, seeds = {} }
      list[#list + 1] = by_name[name]
    end
    table.insert(by_name[name].numbers, k)
    table.insert(by_name[name].seeds, m.train_seed)
  end
  for _, r in ipairs(list) do
    local logits = {}
    for s, k in ipairs(r.numbers) do logits[s] = images.logits[k] end
    r.judged = endpoints.judged(images.labels, logits)
  end
  return list
end

local function clipped(endpoint, r)
  if endpoint.bounded then r.low, r.high = math.max(r.low, 0), math.min(r.high, 1) end
  return r
end

-- The interval of a recipe's mean for other images and other seeds.
local function recipe_interval(endpoint, over, judged, level)
  if over.count < units.least then
    return { mean = nan, low = nan, high = nan, n = over.n, units = over.count,
      why = ("fewer than %d %s"):format(units.least, over.resampled) }
  end
  local r = components.of(endpoints.by_seed(endpoint, over, judged), level)
  r.units, r.n, r.interval = over.count, over.n, "t over " .. over.resampled .. " and seeds"
  return clipped(endpoint, r)
end

-- The difference of two recipes for other images and other seeds: seeds are paired in their order, so both need as
-- many.
local function recipe_difference(endpoint, over, a, b)
  local r = { mean = nan, low = nan, high = nan, p = nan, n = over.n, units = over.count, resampled = over.resampled,
    note = over.note, test = "t over " .. over.resampled .. " and seeds", narrow = { low = nan, high = nan } }
  local seeds = math.min(#a.seeds, #b.seeds)
  if seeds < 3 then
    r.why = ("fewer than 3 seeds: %d and %d"):format(#a.seeds, #b.seeds)
    return r
  end
  local x, y, rows = endpoints.by_seed(endpoint, over, a.judged), endpoints.by_seed(endpoint, over, b.judged), {}
  for u, row in ipairs(x) do
    rows[u] = {}
    for s = 1, seeds do rows[u][s] = row[s] - y[u][s] end
  end
  local c, narrow = components.of(rows), components.of(rows, 0.9)
  r.mean, r.low, r.high, r.why, r.narrow = c.mean, c.low, c.high, c.why, { low = narrow.low, high = narrow.high }
  if not c.why then r.p = distributions.t_p(c.mean / math.sqrt(c.var), c.df) end
  return r
end

-- ---- tables ---------------------------------------------------------------------------------------------------------

local function score_row(of, name, role, r)
  local row = { network = of.network, run = of.name, train_seed = of.seed, input = of.input,
    weights_sha256 = of.weights_sha256, score = name, role = role, value = r.mean, low = r.low, high = r.high,
    interval = r.low == r.low and r.interval or nil, n = r.n, units = r.units, status = r.why or "ok" }
  if r.resampled and row.interval then row.interval = row.interval .. " over " .. r.resampled end
  return row
end

local function role_of(name, o) return name == o.primary and "primary" or "exploratory" end

-- Every endpoint of every model, and of every recipe with several seeds its mean, for these weights and for the recipe.
local function endpoint_rows(study, recipes, over, o)
  local rows = {}
  for _, name in ipairs(endpoints.names(study.classes)) do
    local e = endpoints.of(name, study.classes)
    for _, r in ipairs(recipes) do
      for s, k in ipairs(r.numbers) do
        local m = study.models[k]
        local one = endpoints.judged(r.judged.labels, { r.judged.seeds[s] })
        rows[#rows + 1] = score_row({ network = m.network, name = m.name, seed = m.train_seed,
          input = m.input,
          weights_sha256 = m.weights_sha256 }, name, role_of(name, o), e:value(over, one, o.level))
      end
      if #r.numbers > 1 then
        local of = { network = r.network, name = r.name, seed = "mean", input = r.input }
        rows[#rows + 1] = score_row(of, name, role_of(name, o), e:value(over, r.judged, o.level))
        of.seed = "recipe"
        rows[#rows + 1] = score_row(of, name, role_of(name, o), recipe_interval(e, over, r.judged, o.level))
      end
    end
  end
  return rows
end

-- All pairs of recipes on one endpoint as one family: p by Holm, and what may be said.
local function judge_family(family, name, pairs_, o, direction)
  local ps = {}
  for i, pair in ipairs(pairs_) do ps[i] = pair.r.p end
  local holm = multiple.holm(ps)
  for i, pair in ipairs(pairs_) do
    local r = pair.r
    pair.family, pair.endpoint, pair.p_holm = family, name, holm[i]
    pair.margin = name == o.primary and o.margin or nil
    pair.verdict = verdict.of("difference", { mean = r.mean, low = r.low, high = r.high, p = holm[i], units = r.units,
      status = r.status,
      why = r.why, resampled = r.resampled }, { direction = direction, margin = pair.margin,
        narrow = pair.margin and r.narrow })
  end
  return pairs_
end

-- The pairs of one endpoint: of these weights, then of the recipes where any has several seeds.
local function pairs_of(endpoint, recipes, over, o)
  local weights, recipe, several = {}, {}, false
  for i, a in ipairs(recipes) do
    several = several or #a.seeds > 1
    for j = i + 1, #recipes do
      local b = recipes[j]
      weights[#weights + 1] = { a = a.name, b = b.name, r = endpoint:difference(over, a.judged, b.judged) }
      recipe[#recipe + 1] = { a = a.name, b = b.name, r = recipe_difference(endpoint, over, a, b) }
    end
  end
  local list = judge_family("networks " .. endpoint.name .. ", these weights", endpoint.name, weights, o,
    endpoint.direction)
  if several then
    judge_family("networks " .. endpoint.name .. ", recipes", endpoint.name, recipe, o, endpoint.direction)
    table.move(recipe, 1, #recipe, #list + 1, list)
  end
  return list
end

local function test_of(r)
  return r.mid_p and ("%s, mid-p %.4g"):format(r.test, r.mid_p) or r.test
end

local function pair_rows(list)
  local rows = {}
  for i, p in ipairs(list) do
    rows[i] = { family = p.family, endpoint = p.endpoint, a = p.a, b = p.b, estimate = p.r.mean, low = p.r.low,
      high = p.r.high,
      p = p.r.p, p_holm = p.p_holm, decision = p.verdict.verdict, test = test_of(p.r), n = p.r.n, units = p.r.units }
  end
  return rows
end

-- Verdicts are those on the primary endpoint; the others stand in pairs.csv.
local function verdict_rows(list, o)
  local rows = {}
  for _, p in ipairs(list) do
    if p.endpoint == o.primary then
      rows[#rows + 1] = { subject = p.a .. " - " .. p.b, check = p.endpoint, verdict = p.verdict.verdict,
        estimate = p.r.mean,
        low = p.r.low, high = p.r.high, threshold = o.margin, reason = p.verdict.reason, family = p.family,
          p_holm = p.p_holm,
        n = p.r.n, units = p.r.units }
    end
  end
  return rows
end

-- ---- words ----------------------------------------------------------------------------------------------------------

local function number(v)
  if v == nil or v ~= v then return "-" end
  return (math.abs(v) >= 1e4 and "%.3g" or "%.3f"):format(v) -- a temperature of answers that know nothing has no bound
end

local function with_interval(row)
  if row.low ~= row.low then return number(row.value) end
  return ("%s [%s, %s]"):format(number(row.value), number(row.low), number(row.high))
end

local titles = { auroc_macro = "macro AUROC", macro_f1 = "macro F1", balanced_accuracy = "balanced accuracy",
  nll = "log loss (nats)", brier = "Brier score", ece = "ECE", ece_above_chance = "ECE less chance" }

local function title_of(name) return titles[name] or (name:gsub("^auroc ", "AUROC, ")) end

local verbs = { better = "is better than", worse = "is worse than", equivalent = "is equivalent to",
  identical = "answers exactly as",
  undecided = "is not told apart from", not_applicable = "is not compared with" }

local function sentence(p)
  local v, r, facts = p.verdict, p.r, {}
  if r.mean == r.mean then facts[1] = ("difference %+.3f"):format(r.mean) end
  if r.low == r.low then facts[#facts + 1] = ("95 %% interval %+.3f to %+.3f"):format(r.low, r.high) end
  if p.p_holm == p.p_holm then facts[#facts + 1] = ("p %.3g after Holm"):format(p.p_holm) end
  if v.reason then facts[#facts + 1] = v.reason end
  return ("%s %s %s (%s)"):format(p.a, verbs[v.verdict], p.b, table.concat(facts, ", "))
end

-- The comparison in sentences: the primary endpoint first, then what is said of the recipes.
local function sentences_of(list, rows, o, over)
  local out = { ("Primary endpoint: %s, over %d %s%s."):format(title_of(o.primary), over.count, over.resampled,
    over.note and " (" .. over.note .. ")" or "") }
  for _, p in ipairs(list) do
    if p.endpoint == o.primary then
      out[#out + 1] = (p.family:find "recipes$" and "Recipes, other seeds: " or "These weights: ") .. sentence(p) .. "."
    end
  end
  if #list == 0 then out[#out + 1] = "There is one network: nothing is compared." end
  for _, row in ipairs(rows) do
    if row.score == o.primary and row.train_seed == "recipe" and row.status ~= "ok" then
      out[#out + 1] = ("For other seeds of %s nothing is said: %s."):format(row.run, row.status)
    end
  end
  return out
end

local shown = { "accuracy", "macro_f1", "nll", "ece", "ece_above_chance", "temperature" }

-- What the table's columns mean, once.
local function note_of(over, images, o, has_temperature, several)
  return ("%d images%s; brackets: %g %% intervals over %s. ECE: expected calibration error, in 15 groups of equal "
    .. "size; less chance: beyond that of a calibrated network with the same confidences.%s%s"):format(images,
    over.resampled == "patients" and (" of %d patients"):format(over.count) or "", 100 * o.level, over.resampled,
    has_temperature and " Temperature: fitted on the tuning split; 1 where confidences are right." or "",
    several and " Mean: over the trainings of a network, for these weights; recipe: for other trainings of it, too."
    or "")
end

-- One line per model: the primary endpoint with its interval, then the others that any model has.
local function page_table(rows, o, over, images)
  local columns, lines, order, by_run, known = { "model", o.primary }, {}, {}, {}, {}
  local several = false
  for _, row in ipairs(rows) do
    known[row.score] = known[row.score] or row.value == row.value
    several = several or row.train_seed == "recipe"
  end
  for _, name in ipairs(shown) do
    if name ~= o.primary and known[name] then columns[#columns + 1] = name end
  end
  for _, row in ipairs(rows) do
    local key = row.run .. (type(row.train_seed) == "string" and ", " .. row.train_seed or "")
    if not by_run[key] then by_run[key], order[#order + 1] = {}, key end
    by_run[key][row.score] = row
  end
  for i, key in ipairs(order) do
    lines[i] = canon.list { key }
    for c = 2, #columns do
      local row = by_run[key][columns[c]]
      lines[i][c] = not row and "-" or c == 2 and with_interval(row) or number(row.value)
    end
  end
  for c = 2, #columns do columns[c] = title_of(columns[c]) end
  return { columns = canon.list(columns), rows = canon.list(lines),
    note = note_of(over, images, o, known.temperature, several) }
end

local function print_result(result)
  print("\nNetworks compared")
  require("medxai.show.report_judged").print(result)
end

-- ---- the step -------------------------------------------------------------------------------------------------------

local function step_fields(run, study, o)
  local models = canon.list {}
  for k, m in ipairs(study.models) do models[k] = { name = m.name, weights_sha256 = m.weights_sha256 } end
  return { models = models, data = run:describe_split(study.split), tune = study.tune
    and run:describe_split(study.tune) or "none",
    primary = o.primary, margin = o.margin or "none", alpha = o.alpha, level = o.level, batch = o.batch,
    version = 2 }
end

-- Units over the judged images, and the recipes.
local function judged_by(study, images, o)
  return units.over(images.n, images.patients, { seed = study.seed, level = o.level }), recipes_of(study, images)
end

--- All pairs of a study's recipes on every endpoint, with their verdicts.
---@param study { models: table[], classes: string[], seed: integer } models: network, name, run_name, train_seed,
---  input, weights_sha256
---@param images { n: integer, labels: integer[], patients: string[], logits: number[][][] } logits[k] of model k
---@param o table primary, margin, level
---@param alive? fun() called now and then
---@return table[] pairs { family, endpoint, a, b, r, p_holm, verdict }
function networks.compare(study, images, o, alive)
  local over, recipes = judged_by(study, images, o)
  local list = {}
  for _, name in ipairs(endpoints.names(study.classes)) do
    local more = pairs_of(endpoints.of(name, study.classes), recipes, over, o)
    table.move(more, 1, #more, #list + 1, list)
    if alive then alive() end
  end
  return list
end

--- What the answers of a study's models say: rows of tables/networks.csv, and pairs with their verdicts.
---@param study table as of networks.compare
---@param images table as of networks.compare
---@param tuned? table the same of the tuning split
---@param o table primary, margin, alpha, level
---@param alive? fun() called now and then
---@return table[] rows
---@return table[] pairs
---@return medxai.Units
function networks.judge(study, images, tuned, o, alive)
  local over, recipes = judged_by(study, images, o)
  local rows = endpoint_rows(study, recipes, over, o)
  for k, m in ipairs(study.models) do
    local of = { network = m.network, name = m.name, seed = m.train_seed, input = m.input,
      weights_sha256 = m.weights_sha256 }
    local more = calibrated.rows(of, images, tuned, k, over, { classes = study.classes, seed = study.seed,
      alpha = o.alpha })
    table.move(more, 1, #more, #rows + 1, rows)
    if alive then alive() end
  end
  return rows, networks.compare(study, images, o, alive), over
end

-- Writes tables/reliability.csv of all models; the names of those that are the first training of their recipe.
local function write_reliability(run, study, images)
  local rows, firsts, seen = {}, {}, {}
  for k, m in ipairs(study.models) do
    local more = calibrated.reliability({ network = m.network, name = m.name, seed = m.train_seed }, images, k)
    table.move(more, 1, #more, #rows + 1, rows)
    local recipe = m.run_name or m.name
    firsts[m.name], seen[recipe] = not seen[recipe] or nil, true
  end
  tables.write(run, "tables/reliability.csv", calibrated.reliability_columns, rows)
  return firsts
end

--- Writes the tables, verdicts and figures of a comparison; returns what is shown of it.
---@param run medxai.Run
---@param study table as of networks.compare
---@param images table as of networks.compare
---@param tuned? table the same of the tuning split
---@param o table primary, margin, alpha, level
---@param alive? fun() called now and then
---@return table result { title, sentences, tables, n, units, resampled, note, direction, chance, figures }
function networks.tabulate(run, study, images, tuned, o, alive)
  local rows, list, over = networks.judge(study, images, tuned, o, alive)
  tables.write(run, "tables/networks.csv", networks.columns, rows)
  local firsts = write_reliability(run, study, images)
  tables.put(run, "tables/pairs.csv", tables.pairs, "networks", pair_rows(list))
  tables.put(run, "verdicts.csv", tables.verdicts, "networks", verdict_rows(list, o))
  return { title = "Networks compared", sentences = canon.list(sentences_of(list, rows, o, over)),
    tables = canon.list { page_table(rows, o, over, images.n) }, n = images.n, units = over.count,
    resampled = over.resampled, note = over.note, direction = endpoints.of(o.primary, study.classes).direction,
    chance = endpoints.chance(o.primary, images.labels, study.classes),
    figures = require("medxai.show.network_figures").draw(run, { primary = o.primary, margin = o.margin,
      firsts = firsts }) }
end

local function conclude(run, study, o)
  local images = judged_images(run, study, study.split, o)
  local tuned = study.tune and judged_images(run, study, study.tune, o) or nil
  return networks.tabulate(run, study, images, tuned, o, function() run:heartbeat "networks" end)
end

--- run:networks(study, { ... }). Options:
---   primary  the endpoint that the comparison is about, named before it is seen: "auroc_macro" (default),
---            "auroc CLASS", "accuracy", "balanced_accuracy", "macro_f1", "nll", "brier"; all others are exploratory
---   margin   differences of the primary endpoint within +-margin are equivalent (90 % interval); without it nothing is
---   alpha    conformal sets may miss this share of images: 0.1
---   level    of intervals, 0.95;  batch  32
--- Several seeds of a run are one recipe: pairs compare the means over its seeds, for these weights, and from three
--- seeds on for other seeds. Temperature and sets are fitted on the study's `tune`; without it there are none. Leaves
--- tables/networks.csv (a row per model and score), tables/reliability.csv, tables/pairs.csv, verdicts.csv,
--- study/networks/*.csv (answers), figures/networks-* (SVG, PDF, PNG, and their numbers as CSV).
---@param run medxai.Run
---@param study medxai.Study
---@param options? table
---@return table result { title, sentences, tables = { { columns, rows } }, n, units, direction, chance }
function networks.run(run, study, options)
  local o = networks.check(study, options)
  if study.tune then check_tune(study) end
  run:begin()
  local lock <close> = run.leases:wait "networks" -- luacheck: ignore (held, not read)
  local step = run:step("networks", step_fields(run, study, o))
  run:configure("networks", step.fields)
  if step.done then
    run:skipped("networks")
  else
    local clock <close> = run:clock("networks")
    step:begin()
    local result = conclude(run, study, o)
    step:finish(result, { "tables/networks.csv", "tables/reliability.csv" },
      plot.paths(result.figures, { "tables/pairs.csv", "verdicts.csv" }))
  end
  print_result(step.result)
  return step.result
end

return networks
