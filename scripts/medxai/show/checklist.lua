-- The items of two reporting guidelines, in our own words with their numbers, and what a run knows of each: CLAIM
-- (Checklist for Artificial Intelligence in Medical Imaging, 2024 update: Tejani et al., Radiology: Artificial
-- Intelligence 2024;6(4):e240300) and TRIPOD+AI (Collins et al., BMJ 2024;385:e078378).
-- Numbers and contents of the items were compared, on 1 December 2026, with lists that others keep (CLAIM's 44 items,
-- TRIPOD+AI's 27 in 52 parts) and say to have checked; the papers themselves could not be reached.
-- It refuses to invent: an item that the run's files do not answer is to be filled in by the authors.
local check = require "medxai.base.check"
local html = require "medxai.show.html"
local words = require "medxai.show.conclusion_words"

local checklist = {}

checklist.open = "to be filled in by the authors"

-- ---- answers --------------------------------------------------------------------------------------------------------

-- What a run knows, each a sentence or nil. run: { config, environment, models, checks, facts, question, classes }
local known = {}

local function unique(list, f)
  local out, seen = {}, {}
  for _, one in ipairs(list or {}) do
    local v = f(one)
    if v ~= nil and not seen[v] then out[#out + 1], seen[v] = v, true end
  end
  return out
end

local function joined(list) return #list > 0 and table.concat(list, "; ") or nil end

function known.aims(run) return run.question end

function known.source(run)
  return joined(unique(run.models, function(m)
    return m.reader and ("reader %s, folder %s"):format(m.reader, tostring((m.options or {}).root or "not named"))
  end))
end

local function triple(v) return type(v) == "table" and ("%g %g %g"):format(v[1] or 0, v[2] or 0, v[3] or 0) or nil end

function known.preprocessing(run)
  return joined(unique(run.models, function(m)
    if not m.size_px then return nil end
    return ("%s: input %s, resized to %s px, cropped to %s px, mean %s, standard deviation %s%s"):format(m.network,
      tostring(m.input), tostring(m.resize_px or "the crop's"), tostring(m.size_px), triple(m.mean) or "none",
      triple(m.std) or "none", (m.options or {}).augment and ", with augmentation in training" or "")
  end))
end

local function counts_text(counts)
  local list = {}
  for _, split in ipairs { "train", "val", "test" } do
    local of = counts[split]
    if of then
      local classes = {}
      for _, name in ipairs(check.sorted_keys(of)) do
        if name ~= "total" then classes[#classes + 1] = ("%s %d"):format(name, of[name]) end
      end
      list[#list + 1] = ("%s %d (%s)"):format(split, of.total or 0, table.concat(classes, ", "))
    end
  end
  return table.concat(list, "; ")
end

function known.partitions(run)
  return joined(unique(run.checks, function(c) return c.check and c.check.counts and counts_text(c.check.counts) end))
end

function known.disjoint(run)
  return joined(unique(run.checks, function(c)
    if not c.check then return nil end
    local exact, near = #(c.check.exact or {}), c.check.near_count or 0
    return ("%s; pairs of the same image in two splits: %d, of nearly the same: %d"):format(
      (c.check.patients or 0) > 0 and "by patient" or "by image, patients unknown", exact, near)
  end))
end

function known.sample(run)
  local s = run.facts and run.facts.sure
  return s and run.sure and ("not planned by this run; with what there is: %s"):format(run.sure) or nil
end

function known.model(run)
  return joined(unique(run.models, function(m)
    return ("%s, head %s, trained depth %s, classes %s"):format(m.network, tostring(m.head), tostring(m.train_depth),
      table.concat(run.classes, ", "))
  end))
end

function known.software(run)
  local e = run.environment
  return e and ("medxai-run %s, libtorch %s, %s, device %s"):format(tostring(e.program), tostring(e.libtorch),
    tostring(e.processor), tostring(e.device)) or nil
end

function known.start(run)
  return joined(unique(run.models, function(m)
    return m.start and ("%s from %s weights%s"):format(m.network, m.start, m.chain and " of the run "
      .. tostring(m.chain.run) or "")
  end))
end

local function options_text(kind)
  if type(kind) ~= "table" then return nil end
  local list = {}
  for _, name in ipairs(check.sorted_keys(kind.options or {})) do
    list[#list + 1] = ("%s %s"):format(name, tostring(kind.options[name]))
  end
  return ("%s (%s)"):format(tostring(kind.kind), table.concat(list, ", "))
end

function known.training(run)
  return joined(unique(run.models, function(m)
    local f = m.training
    return f and ("%s: %s epochs of batches of %s, %s%s, label smoothing %s%s"):format(m.network, tostring(f.epochs),
      tostring(f.batch), options_text(f.optim) or "optimizer unknown", f.schedule and ", schedule "
      .. options_text(f.schedule) or "", tostring(f.label_smoothing or 0), f.smoke and ", a smoke run" or "")
  end))
end

function known.selection(run)
  return joined(unique(run.models, function(m)
    local s = m.selected
    return s and ("%s: the epoch with the best %s on the %s split (epoch %s)"):format(m.name, tostring(s.by),
      tostring(s.split), tostring(m.best_epoch)) or nil
  end))
end

function known.ensembling(run) return #(run.models or {}) > 0 and "none: every model is judged alone" or nil end

function known.metrics(run)
  local f, list = run.facts, {}
  if f and f.networks then list[1] = "networks by " .. words.measure(f.networks.primary) end
  if f and f.compare then list[#list + 1] = "explanations by " .. words.measure(f.compare.short) end
  if f and f.audit then list[#list + 1] = "the audit by AUROC without the lungs" end
  return #list > 0 and "primary: " .. table.concat(list, ", ") or nil
end

function known.uncertainty(run)
  local s = run.facts and run.facts.sure
  return s and ("95 %% intervals over %s%s, tests with Holm's correction"):format(s.resampled,
    s.note and " (" .. s.note .. ")" or "") or nil
end

function known.robustness(run)
  local f, list = run.facts, {}
  if f and f.audit then list[1] = "inputs without the lungs, parts hidden (section on the lungs)" end
  if f and f.compare then
    list[#list + 1] = "stability of rankings over metrics, networks, seeds (section on stability)"
  end
  return joined(list)
end

local function labels_of(lines)
  local out = {}
  for i, line in ipairs(lines) do out[i] = line.method end
  return joined({ table.concat(unique(out, function(v) return v end), ", ") })
end

function known.explainability(run)
  local f = run.facts
  if not f then return nil end
  local methods = f.compare and labels_of(f.compare.methods) or f.gate and labels_of(f.gate.lines)
  return methods and ("%s; gate %s"):format(methods, f.gate and "run" or "not run") or nil
end

function known.internal(run) return run.judged end

-- What was done in training about classes of different sizes.
function known.class_balance(run)
  return joined(unique(run.models, function(m)
    local f = m.training
    if not f then return nil end
    local list = {}
    if f.weight then list[1] = "loss weighted by class" end
    if f.sampler == "weighted" then list[#list + 1] = "every class drawn equally often" end
    if f.loss then list[#list + 1] = "a loss of the experiment's own (see its settings)" end
    return ("%s: %s"):format(m.network, #list > 0 and table.concat(list, ", ") or "none; no recalibration for it")
  end))
end

-- Where the whole model is, so that others can predict with it.
function known.full_model(run)
  return joined(unique(run.models, function(m)
    return m.weights_sha256 and ("%s: weights.pt and model.json in the folder of the run %s (weights' SHA-256 %s)")
      :format(m.name, tostring(m.run_name), m.weights_sha256:sub(1, 12)) or nil
  end))
end

function known.prediction(run)
  local e = run.environment
  return e and #(run.models or {}) > 0 and ("softmax of the network's output for an image prepared as said, by "
    .. "medxai-run %s and libtorch %s"):format(tostring(e.program), tostring(e.libtorch)) or nil
end

function known.participants(run)
  local list = { run.judged }
  list[#list + 1] = known.partitions(run)
  return joined(list)
end

local function section(id, text) return ('<a href="#%s">%s</a>'):format(id, html.text(text)) end

function known.performance(run) return run.facts and run.facts.networks and section("networks", "see the networks") end

function known.output(run)
  return run.facts and run.facts.networks and "a probability per class (softmax); calibration and conformal sets in "
    .. "tables/networks.csv" or nil
end

function known.limits(run) return run.facts and section("limits", "see the limits") end

function known.repeat_it(run)
  local e = run.environment
  return e and ("experiment %s (SHA-256 %s), seed %s; every setting in config.json"):format(tostring(e.experiment),
    tostring(e.experiment_sha256):sub(1, 12), tostring(run.config and run.config.seed)) or nil
end

function known.missing(run)
  local list = unique(run.checks, function(c)
    return c.check and c.check.images and ("%d images, all readable"):format(c.check.images) or nil
  end)
  if run.facts and run.facts.compare then list[#list + 1] = run.lost end
  return joined(list)
end

-- ---- items ----------------------------------------------------------------------------------------------------------

--- { number, what is asked for, what the run knows of it (a function of `known`) }
checklist.claim = {
  { "1", "The title or abstract says that it is a study of AI, and of which kind" },
  { "2", "Summary of design, methods, results, conclusions" },
  { "3", "Background, and the role that the system is meant to play" },
  { "4", "Aims and hypotheses", "aims" },
  { "5", "Prospective or retrospective" },
  { "6", "Goal of the study (a model made, explored, tested)" },
  { "7", "Where the data come from", "source" },
  { "8", "Who was included and excluded" },
  { "9", "Preprocessing of the data", "preprocessing" },
  { "10", "Subsets of the data that were chosen, and how" },
  { "11", "How identities were removed" },
  { "12", "How missing data were handled", "missing" },
  { "13", "How images were acquired" },
  { "14", "What the reference standard is" },
  { "15", "Why that reference standard" },
  { "16", "Who annotated, with which training" },
  { "17", "How the test set was annotated" },
  { "18", "Agreement between and within annotators" },
  { "19", "How data were assigned to splits", "partitions" },
  { "20", "At which level splits are disjoint", "disjoint" },
  { "21", "The intended size of the test set, and how it was decided", "sample" },
  { "22", "The model in detail", "model" },
  { "23", "Software", "software" },
  { "24", "Initial weights", "start" },
  { "25", "Training in detail", "training" },
  { "26", "How the final model was chosen", "selection" },
  { "27", "Ensembles", "ensembling" },
  { "28", "Metrics of performance", "metrics" },
  { "29", "Uncertainty and significance", "uncertainty" },
  { "30", "Analysis of robustness or sensitivity", "robustness" },
  { "31", "Methods of explanation, and how they were validated", "explainability" },
  { "32", "Testing on internal data", "internal" },
  { "33", "Testing on external data, or why there was none" },
  { "34", "Registration, where it is a clinical trial" },
  { "35", "Numbers of patients and images, included and excluded", "participants" },
  { "36", "Demographic and clinical characteristics of each split" },
  { "37", "Performance with its uncertainty", "performance" },
  { "38", "Estimates of diagnostic accuracy and their precision", "performance" },
  { "39", "Analysis of cases that were told wrongly" },
  { "40", "Limitations", "limits" },
  { "41", "What it means for practice" },
  { "42", "Where the full protocol or further details are", "repeat_it" },
  { "43", "Whether software, models and data can be had" },
  { "44", "Funding, and the funders' part" },
}

checklist.tripod = {
  { "1", "The title says model, target population, outcome" },
  { "2", "Abstract by the guideline for abstracts" },
  { "3a", "Context, and why the model" },
  { "3b", "Target population, place in care, users" },
  { "3c", "Known inequalities of health" },
  { "4", "Objectives: development, evaluation, or both", "aims" },
  { "5a", "Sources of the data, for development and evaluation", "source" },
  { "5b", "Dates of the data" },
  { "6a", "Setting, number and place of centers" },
  { "6b", "Who was eligible" },
  { "6c", "Treatments received" },
  { "7", "Preparation and checks of the data", "preprocessing" },
  { "8a", "Outcome and how it was determined" },
  { "8b", "Who assessed a subjective outcome" },
  { "8c", "Blinding of that assessment" },
  { "9a", "How predictors were chosen (here the image)" },
  { "9b", "Predictors and how they were measured", "preprocessing" },
  { "9c", "Who assessed subjective predictors" },
  { "10", "How the sample size was arrived at", "sample" },
  { "11", "Missing data", "missing" },
  { "12a", "How data were split for development and evaluation", "partitions" },
  { "12b", "How predictors enter the analysis", "preprocessing" },
  { "12c", "Kind of model, all steps of building it, internal validation", "training" },
  { "12d", "Differences between centers or clusters" },
  { "12e", "Measures of performance", "metrics" },
  { "12f", "Updating of the model (recalibration)" },
  { "12g", "How predictions of evaluated models were made", "prediction" },
  { "13", "Methods against imbalance of classes, and recalibration after them", "class_balance" },
  { "14", "Fairness over groups of people" },
  { "15", "Output of the model, and thresholds", "output" },
  { "16", "Differences between development and evaluation data (setting, eligibility, outcome, predictors)" },
  { "17", "Ethical approval" },
  { "18a", "Funding" },
  { "18b", "Conflicts of interest" },
  { "18c", "Where the protocol is, or that there was none" },
  { "18d", "Registration" },
  { "18e", "Sharing of data" },
  { "18f", "Sharing of code" },
  { "19", "Part of patients and the public" },
  { "20a", "Flow of participants", "participants" },
  { "20b", "Characteristics of participants, by source" },
  { "20c", "Comparison of development and evaluation data", "partitions" },
  { "21", "Participants and outcome events in each analysis", "participants" },
  { "22", "The full model, so that others can predict with it", "full_model" },
  { "23a", "Performance with intervals, also of key subgroups", "performance" },
  { "23b", "Performance over clusters, where examined" },
  { "24", "Results of updating" },
  { "25", "Interpretation, fairness included" },
  { "26", "Limitations", "limits" },
  { "27a", "Poor or missing input in use" },
  { "27b", "What users must do and know" },
  { "27c", "Next steps of research" },
}

-- ---- the page -------------------------------------------------------------------------------------------------------

--- The answer to an item: ready HTML, and whether the run knew it.
---@param item table
---@param run table
---@return string
---@return boolean
function checklist.answer(item, run)
  local f = item[3] and known[item[3]]
  local answer = f and f(run)
  if not answer then return html.text(checklist.open), false end
  return answer:find "^<a href=" and answer or html.text(answer), true
end

local function table_of(title, items, run)
  local rows, answered = {}, 0
  for i, item in ipairs(items) do
    local answer, is_known = checklist.answer(item, run)
    if is_known then answered = answered + 1 end
    rows[i] = { item[1], html.text(item[2]), is_known and answer or "<i>" .. answer .. "</i>" }
  end
  return ("<details><summary>%s: %d of %d items answered by the run</summary>%s</details>"):format(html.text(title),
    answered, #rows, (html.table({ { "item" }, { "what is asked for" }, { "answer" } }, rows)))
end

--- Both checklists as HTML.
---@param run table config, environment, models, checks, classes, question, facts, judged, sure, lost
---@return string
function checklist.html(run)
  return table_of("CLAIM 2024", checklist.claim, run) .. table_of("TRIPOD+AI 2024", checklist.tripod, run)
    .. '<p class="note">Items in our own words; the guidelines\' own texts are authoritative: CLAIM, Radiology: '
    .. "Artificial Intelligence 2024;6(4):e240300; TRIPOD+AI, BMJ 2024;385:e078378. An answer is what the run's files "
    .. "say and no more.</p>"
end

checklist.known = known

return checklist
