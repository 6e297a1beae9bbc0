-- The first screen of a comparison's page: five sentences made from verdicts, each form by hand; and the page as a
-- whole from a made run folder.
local t = require "t"
local words = require "medxai.show.conclusion_words"

local nan = 0 / 0

-- ---- which network --------------------------------------------------------------------------------------------------

local function pair(a, b, decision, estimate, low, high, scope)
  return { family = "networks auroc_macro, " .. (scope or "these weights"), endpoint = "auroc_macro", a = a, b = b,
    decision = decision, estimate = estimate, low = low, high = high, p_holm = 0.01 }
end

local function networks(list, more)
  local n = { primary = "auroc_macro", direction = "higher", chance = 0.5, pairs = list, scores = {
    a = { estimate = 0.9, low = 0.85, high = 0.94 }, b = { estimate = 0.8, low = 0.7, high = 0.88 },
    c = { estimate = 0.79, low = 0.7, high = 0.87 } } }
  for key, v in pairs(more or {}) do n[key] = v end
  return { networks = n }
end

local two_better = { pair("a", "b", "better", 0.1, 0.04, 0.16), pair("a", "c", "better", 0.11, 0.05, 0.17),
  pair("b", "c", "undecided", 0.01, -0.05, 0.07) }

t.test("a network that is better than each other one is told with its number, interval and chance", function()
  local c = words.network(networks(two_better))
  t.equal({ c.state, c.verdict, c.estimate, c.low, c.high, c.chance }, { "found", "one is better", 0.9, 0.85, 0.94,
    0.5 })
  t.equal(c.sentence, "a is better than each of the 2 other networks by macro AUROC: 0.900 [0.850, 0.940] "
    .. "(chance 0.5); "
    .. "the difference to b is +0.100 [+0.040, +0.160]. One training of each: nothing is said of other trainings.")
  t.equal(c.row, { family = "networks auroc_macro, these weights", subject = "a - b", check = "auroc_macro" })
end)

t.test("the difference is that of the better network, whichever stands first in the pair", function()
  local c = words.network(networks { pair("b", "a", "worse", -0.1, -0.16, -0.04) })
  t.ok(c.sentence:find("a is better than the other network", 1, true), c.sentence)
  t.ok(c.sentence:find("the difference to b is +0.100 [+0.040, +0.160]", 1, true), c.sentence)
  -- where less is better, the best number is the lowest
  local list = { pair("a", "b", "worse", 0.1, 0.04, 0.16) }
  c = words.network(networks(list, { direction = "lower", primary = "nll", chance = 1.0986 }))
  t.ok(c.sentence:find("^b is better than the other network by log loss: 0%.800"), c.sentence)
end)

t.test("what holds for other trainings is told, or that it is not shown", function()
  local list = { two_better[1], pair("a", "b", "better", 0.1, 0.02, 0.18, "recipes") }
  t.ok(words.network(networks(list)).sentence:find("The same holds for other trainings (recipes).", 1, true))
  list[2] = pair("a", "b", "undecided", 0.1, nan, nan, "recipes")
  t.ok(words.network(networks(list)).sentence:find("It speaks of these trainings; of others it is not shown.", 1, true))
end)

t.test("networks that are equivalent are so within the margin, and one pair left open makes it undecided", function()
  local alike = { pair("a", "b", "equivalent", 0.001, -0.01, 0.012), pair("a", "c", "equivalent", 0.002, -0.01, 0.013),
    pair("b", "c", "identical", 0, 0, 0) }
  local c = words.network(networks(alike, { margin = 0.02 }))
  t.equal({ c.state, c.verdict }, { "not_found", "equivalent" })
  t.equal(c.sentence, "No network is better by macro AUROC: all 3 are equivalent within 0.02; the best number is "
    .. "that of "
    .. "a, 0.900 [0.850, 0.940] (chance 0.5).")
  alike[3].decision = "undecided"
  c = words.network(networks(alike, { margin = 0.02 }))
  t.equal(c.state, "undecided")
  t.equal(c.sentence, "Undecided: no network is shown to be the best by macro AUROC. a, b and c may be; the "
    .. "best number "
    .. "is that of a, 0.900 [0.850, 0.940] (chance 0.5). Pairs of networks that are decided: 2 of 3.")
end)

t.test("a network that is worse than another cannot be the best; one at chance is told so", function()
  local list = { pair("a", "b", "undecided", 0.1, -0.01, 0.2), pair("a", "c", "better", 0.11, 0.05, 0.17),
    pair("b", "c", "undecided", 0.01, -0.05, 0.07) }
  local n = networks(list)
  n.networks.scores.a.low = 0.49
  local c = words.network(n)
  t.ok(c.sentence:find("a and b may be; the best number is that of a, 0.900 [0.490, 0.940] (chance 0.5); that is not "
    .. "shown to be better than chance.", 1, true), c.sentence)
end)

t.test("one network, no step and too few images have their own forms", function()
  t.equal(words.network {}.sentence, "The networks were not compared: run:networks was not run.")
  t.equal(words.network {}.state, "not_run")
  local one = networks {}
  one.networks.scores.b, one.networks.scores.c = nil, nil
  t.equal(words.network(one).sentence, "One network was judged and none compared: a has macro AUROC 0.900 "
    .. "[0.850, 0.940] "
    .. "(chance 0.5).")
  local c = words.network(networks({ pair("a", "b", "undecided", 0.1, nan, nan) },
    { few = "6 patients are too few for a "
    .. "verdict" }))
  t.equal(c.state, "undecided")
  t.ok(c.sentence:find("6 patients are too few for a verdict.", 1, true), c.sentence)
end)

-- ---- which explanation ----------------------------------------------------------------------------------------------

local function row(run, method, rank, gain, more)
  local r = { run = run, method = method, rank_low = rank, above_swap = "better", beats_baselines = "better",
    gain = gain, gain_low = gain - 0.05, gain_high = gain + 0.05, gate = "" }
  for key, v in pairs(more or {}) do r[key] = v end
  return r
end

local function compare(rows, more)
  local c = { primary = "road_combined@1", short = "road_combined", direction = "higher", runs = { "n1", "n2" },
    methods = rows, silent = {} }
  for key, v in pairs(more or {}) do c[key] = v end
  return { compare = c }
end

t.test("a method that alone is first everywhere, above swap and baselines, is found with its least gain", function()
  local c = words.explanation(compare { row("n1", "layercam", 1, 0.3), row("n1", "gradcam", 2, 0.2),
    row("n2", "layercam", 1, 0.1) })
  t.equal({ c.state, c.estimate, c.chance }, { "found", 0.1, 0 })
  t.equal(c.sentence, "By ROAD combined (higher is better), on both models, LayerCAM alone is first, above another "
    .. "patient's map and above each baseline. Of the methods that are first, the least gain over another patient's "
    .. "map is that of LayerCAM on n2: +0.100 [+0.050, +0.150] (chance 0).")
  t.equal(c.row, { family = "compare n2 road_combined@1", subject = "layercam on n2", check = "above_swap" })
end)

t.test("where less is better, the least gain is the one nearest to nothing, or above it", function()
  local c = words.explanation(compare({ row("n1", "m", 1, -0.3), row("n2", "m", 1, -0.1) }, { direction = "lower" }))
  t.equal(c.estimate, -0.1)
  c = words.explanation(compare({ row("n1", "m", 1, -0.3, { above_swap = "undecided" }),
    row("n2", "m", 1, 0.2, { above_swap = "undecided" }) }, { direction = "lower" }))
  t.equal({ c.state, c.estimate }, { "undecided", 0.2 })
end)

t.test("first without support, several first and a failed gate are undecided, each with its reason", function()
  local c = words.explanation(compare { row("n1", "layercam", 1, 0.3, { beats_baselines = "undecided" }),
    row("n2", "layercam", 1, 0.1), row("n2", "gradcam", 1, 0.05) })
  t.equal(c.state, "undecided")
  t.ok(c.sentence:find("^Undecided: by ROAD combined"), c.sentence)
  t.ok(c.sentence:find("on n1, LayerCAM is first, but not shown to be above each baseline; on n2, 2 methods may be "
    .. "first (LayerCAM and Grad-CAM).", 1, true), c.sentence)
  c = words.explanation(compare({ row("n1", "saliency", 1, 0.3, { gate = "gate failed: weights" }) },
    { runs = { "n1" } }))
  t.equal(c.state, "undecided")
  t.ok(c.sentence:find("saliency is first, but has the mark 'gate failed: weights'.", 1, true), c.sentence)
end)

t.test("a metric that tells nothing ranks nothing; partial studies and too few images say so", function()
  local c = words.explanation(compare({}, { silent = { n1 = true, n2 = true } }))
  t.equal({ c.state, c.verdict }, { "not_found", "none is told" })
  t.equal(c.sentence, "None: by ROAD combined (higher is better), on both models, no method's map is shown to do "
    .. "better than another patient's map.")
  c = words.explanation(compare({}, { partial = "4 of 24 cells", few = "6 patients are too few for a ranking" }))
  t.equal(c.state, "undecided")
  t.equal(c.sentence, "PARTIAL, 4 of 24 cells. Undecided: by ROAD combined (higher is better), on both models, nothing "
    .. "is ranked. 6 patients are too few for a ranking.")
  t.equal(words.explanation {}.sentence, "The explanations were not compared: run:compare was not run.")
end)

-- ---- the gate -------------------------------------------------------------------------------------------------------

local function line(model, label, state, estimate, more)
  local l = { model = model, method = label, label = label, state = state, failed = {}, estimate = estimate,
    low = estimate - 0.1, high = estimate + 0.1 }
  for key, v in pairs(more or {}) do l[key] = v end
  return l
end

local function with_gate(lines, facts, more)
  facts = facts or {}
  facts.gate = { lines = lines, threshold = 0.25, wrong = {} }
  for key, v in pairs(more or {}) do facts.gate[key] = v end
  return facts
end

t.test("the gate speaks of the explanations that rank first, and of all where none does", function()
  local first = compare({ row("n1", "layercam", 1, 0.3) }, { runs = { "n1" } })
  local lines = { line("n1", "layercam", "passed", 0.05),
    line("n1", "saliency", "failed", 0.6, { failed = { "weights" } }),
    line("n1", "sobel", "failed", 1, { baseline = true }) }
  local c = words.gate(with_gate(lines, first))
  t.equal({ c.state, c.verdict, c.estimate }, { "found", "passed", 0.05 })
  t.equal(c.sentence, "By the gate, of the explanations that rank first, layercam on n1 passed. With random "
    .. "weights a map keeps at most 0.05 [-0.05, 0.15] of its likeness to the trained one, beyond that of other "
    .. "patients' maps (layercam on n1; the limit is 0.25, chance 0). To pass is to depend on weights and image, not "
    .. "to be right.")
  t.equal(c.row, { family = "sanity n1 weights", subject = "layercam on n1", check = "weights" })
  c = words.gate(with_gate(lines))
  t.equal(c.state, "undecided")
  t.ok(c.sentence:find("of 2 pairs of a method and a network 1 passed (layercam on n1), 1 failed (saliency on n1 "
    .. "(weights)).", 1, true), c.sentence)
  t.equal(c.estimate, 0.6, "the weakest of those that are spoken of")
end)

t.test("a first explanation that fails is not to be trusted; one that was not judged is told", function()
  local first = compare({ row("n1", "layercam", 1, 0.3) }, { runs = { "n1" } })
  local c = words.gate(with_gate({ line("n1", "layercam", "failed", 0.5, { failed = { "image" } }) }, first))
  t.equal({ c.state, c.verdict }, { "not_found", "failed" })
  t.ok(c.sentence:find("^No: by the gate, of the explanations that rank first, layercam on n1 %(image%) failed"),
    c.sentence)
  t.ok(not c.sentence:find("To pass", 1, true))
  t.equal(c.row, { family = "sanity n1 image", subject = "layercam on n1", check = "image" }, "the check that failed")
  c = words.gate(with_gate({ line("n1", "saliency", "passed", 0.1) }, first))
  t.ok(c.sentence:find("one that ranks first was not judged; saliency on n1 passed", 1, true), c.sentence)
  t.equal(c.state, "undecided", "the gate of another method says nothing of the first")
  -- judged on one of two networks
  first = compare { row("n1", "layercam", 1, 0.3), row("n2", "layercam", 1, 0.2) }
  c = words.gate(with_gate({ line("n1", "layercam", "passed", 0.1) }, first))
  t.equal(c.state, "undecided")
  t.ok(c.sentence:find("one that ranks first was not judged; of the explanations that rank first, layercam on "
    .. "n1 passed", 1, true), c.sentence)
end)

t.test("controls that came out wrong, too few patients and a gate that was not run are told", function()
  local lines = { line("n1", "a", "undecided", nan), line("n2", "a", "undecided", 0.1) }
  local c = words.gate(with_gate(lines, nil, { wrong = { "sobel weights on n1" } }))
  t.equal(c.state, "undecided")
  t.ok(c.sentence:find("both pairs of a method and a network are undecided", 1, true), c.sentence)
  t.ok(c.sentence:find("Controls that did not come out as they must: sobel weights on n1; nothing is decided there.", 1,
    true), c.sentence)
  c = words.gate(with_gate(lines, nil, { few = "6 patients are too few for a verdict" }))
  t.ok(c.sentence:find("6 patients are too few for a verdict.", 1, true), c.sentence)
  t.equal(words.gate {}.sentence,
    "The sanity gate was not run: nothing shows that the maps depend on the network or on the image.")
end)

-- ---- the audit and how sure -----------------------------------------------------------------------------------------

local function audit(verdict, reason, areas)
  return { audit = { verdict = verdict, reason = reason, network = "n1", resampled = "patients", margin = 0.638,
    areas = areas or {} } }
end

local function area(witness, input, auroc, verdict)
  return { witness = witness, input = input, class = "COVID-19", auroc = auroc, low = auroc - 0.1, high = auroc + 0.05,
    verdict = verdict, positives = 15, power_find = 0.97 }
end

t.test("the audit's sentence is its verdict, with what is told best without the lungs", function()
  local areas = { area("cheap probe", "border", 0.99, "found"), area("trainings", "whole", 0.98, ""),
    area("trainings", "outside", 0.94, "found"), area("trainings", "shape", 0.6, "undecided") }
  local c = words.audit(audit("shortcut found", "hiding the markers changes the network's answers", areas))
  t.equal({ c.state, c.verdict, c.estimate, c.chance }, { "found", "shortcut found", 0.94, 0.5 })
  t.equal(c.sentence, "A shortcut was found: hiding the markers changes the network's answers. Without the "
    .. "lungs the highest AUROC is that of COVID-19, from the input 'outside' by the trainings: 0.94 [0.84, 0.99] "
    .. "(chance 0.5; a class counts as told above 0.638). Audited: n1.")
  t.equal(c.row, { family = "audit", subject = "n1", check = "audit" })
  c = words.audit(audit("confounded", "COVID-19: every image is from 'A'", areas))
  t.equal(c.state, "undecided")
  t.ok(c.sentence:find("Class and source are confounded: COVID-19: every image is from 'A'.", 1, true),
    c.sentence)
end)

t.test("nothing found is told with its power and never as 'no shortcut'; no audit is told", function()
  local c = words.audit(audit("none of these found", nil, { area("trainings", "outside", 0.52, "not_found") }))
  t.equal(c.state, "not_found")
  t.equal(c.sentence, "None of the shortcuts that were looked for was found. Without the lungs the highest AUROC is "
    .. "that of COVID-19, from the input 'outside' by the trainings: 0.52 [0.42, 0.57] (chance 0.5; a class counts "
    .. "as told above 0.638). With 15 patients of COVID-19, a class told with AUROC 0.85 is found with probability "
    .. "0.97. Audited: n1.")
  t.ok(not c.sentence:lower():find("no shortcut", 1, true))
  t.equal(words.audit(audit("undecided", "whether x is told")).state, "undecided")
  t.equal(words.audit {}.sentence,
    "The audit was not run: whether the network goes by anything but the lungs is not known.")
end)

t.test("how sure: images, patients, trainings, undecided verdicts and what so many patients can tell", function()
  local sure = { on = { { what = "explanations", images = 88, units = 88, resampled = "patients" },
    { what = "networks", images = 300, units = 200, resampled = "patients" } }, units = 88, resampled = "patients",
    models = { { run_name = "a" }, { run_name = "a" }, { run_name = "b" } }, decided = 3, undecided = 9, tests = 14 }
  local c = words.sure { sure = sure }
  t.equal({ c.state, c.verdict }, { "undecided", "9 of 12 undecided" })
  t.equal(c.sentence, "Explanations on 88 images of 88 patients, networks on 300 images of 200 patients, 2 "
    .. "networks with "
    .. "1 to 2 trainings each; 9 of 12 primary verdicts are undecided; with 88 patients a paired difference of 0.30 "
    .. "standard "
    .. "deviations is found with probability 0.8, one of 0.40 where 14 are compared at once.")
  sure.units, sure.undecided = 9, 0
  c = words.sure { sure = sure }
  t.equal(c.state, "found")
  t.ok(c.sentence:find("9 patients allow no interval and no verdict (10 are needed).", 1, true), c.sentence)
  -- an audit alone has the power of its own tests
  local facts = audit("undecided", "x", { area("trainings", "outside", 0.7, "undecided") })
  sure.units, sure.on = 85, { { what = "audit", images = 85, units = 85, resampled = "images" } }
  facts.sure = sure
  t.ok(words.sure(facts).sentence:find("; with 15 patients of COVID-19, a class told with AUROC 0.85 is found with "
    .. "probability 0.97.", 1, true), words.sure(facts).sentence)
end)
