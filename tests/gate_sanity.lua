-- run:sanity on tiny networks: controls come out as expected, maps that depend on weights pass and others fail, targets
-- stay those of the trained network, strangers are other patients, kills lose nothing, and marks.
local t = require "t"
local tiny = require "tinygate"
local core = require "medxai.core"
local csv = require "medxai.base.csv"
local files = require "medxai.base.files"
local gate = require "medxai.score.gate"
local host = require "medxai.host"
local sanity = require "medxai.steps.sanity"
local units = require "medxai.stats.units"

local was_quiet = host.options.quiet
host.options.quiet = true

local nan = 0 / 0

-- One gate of tiny networks; o: n images, models, options, on_beat, target, patient.
local function judged(dir, o)
  local scope <close> = core.memory.scope() -- luacheck: ignore
  local run = tiny.run(dir)
  run.on_beat = o.on_beat
  local study = tiny.study(run, o.n or 12, o.models or { { name = "one", network = "tiny", seed = 1 } }, o)
  local closing <close> = setmetatable({}, { __close = function() study:close() end }) -- luacheck: ignore
  local options = { methods = { "gradcam" }, images = o.n or 12, draws = 2, stages = 3, alone = false }
  for key, value in pairs(o.options or {}) do options[key] = value end
  return sanity.run(run, study, options), run
end

local function line_of(result, method, model)
  for _, line in ipairs(result.models[model or 1].methods) do
    if line.method == method then return line end
  end
end

local two = { { name = "a", network = "tiny", seed = 1 }, { name = "b", network = "tiny", seed = 2 } }

local known -- the gate of two, made by the first test that asks

local function of_two()
  known = known or judged(t.tmpdir(), { models = two, n = 12 })
  return known
end

-- A run folder with the marks of that gate.
local function marked()
  local dir = t.tmpdir()
  gate.save(dir, require("medxai.score.gate_tables").marks(of_two()))
  return dir
end

-- ---- controls ------------------------------------------------------------------------------------------------------

t.test("the controls come out as expected: Sobel and noise fail `weights`, the blob fails `image`", function()
  local result = of_two()
  for model = 1, 2 do
    local function said(method, name) return line_of(result, method, model).checks[name].verdict end
    t.equal({ said("sobel", "weights"), said("random_smooth", "weights"), said("center_blob", "image"),
      said("weights_noise", "weights"),
      said("weights_noise", "retrain"), said("sobel", "retrain") }, { "fail", "fail", "fail", "pass", "fail", "pass" })
    t.equal(result.models[model].controls, { ["sobel weights"] = true, ["random_smooth weights"] = true,
      ["center_blob image"] = true,
      ["weights_noise weights"] = true, ["weights_noise retrain"] = true })
    t.near(line_of(result, "sobel", model).checks.weights.estimate.mean, 1, 1e-9)
    t.ok(line_of(result, "gradcam", model).state ~= "passed") -- these networks have learned nothing
    t.equal({ line_of(result, "sobel", model).state, line_of(result, "weights_noise", model).state }, { "failed",
      line_of(result,
      "weights_noise", model).checks.learned.verdict == "fail" and "failed" or "undecided" })
  end
end)

t.test("a layer per network gives the maps, and the marks, of that layer; a network that the study has not "
  .. "is refused", function()
  local function gradcam(layer)
    local o = { n = 10, options = { layer = layer, draws = 1, stages = 2 } }
    local line = line_of(judged(t.tmpdir(), o), "gradcam")
    return { settings = line.settings, mean = line.checks.image.estimate.mean }
  end
  local named, plain, own = gradcam { tiny = "conv1" }, gradcam "conv1", gradcam()
  t.equal(named.settings, plain.settings)
  t.equal(named.mean, plain.mean) -- how alike the maps of two patients are
  t.ok(named.settings ~= own.settings)
  t.ok(math.abs(named.mean - own.mean) > 1e-6, named.mean)
  t.fails_like(function() gradcam { tinny = "conv1" } end,
    "sanity: unknown network in layer 'tinny'%. Did you mean 'tiny'%?")
end)

t.test("a control that comes out wrong voids every verdict of that network", function()
  local function verdicts(words)
    local out = {}
    for _, name in ipairs(gate.checks) do out[name] = { verdict = words[name] or "not_applicable",
      estimate = { units = 48 } } end
    return out
  end
  local all = { sobel = verdicts { weights = "pass", image = "pass" }, random_smooth = verdicts { weights = "fail" },
    center_blob = verdicts { image = "fail" }, weights_noise = verdicts { weights = "pass" },
      gradcam = verdicts { weights = "pass", image = "pass" } }
  local came = gate.control(all)
  t.equal(came["sobel weights"], false)
  t.equal({ all.gradcam.weights.verdict, all.gradcam.weights.reason, all.gradcam.labels.verdict }, { "undecided",
    "controls: sobel weights",
    "not_applicable" })
  t.equal(gate.state(all.gradcam), "undecided")
end)

t.test("fewer than ten patients, or images where patients are unknown, give no verdict, with the reason", function()
  for what, patient in pairs { patients = tostring, images = function() return "unknown" end } do
    local result = judged(t.tmpdir(), { n = 4, patient = patient })
    for _, line in ipairs(result.models[1].methods) do
      t.equal({ line.checks.weights.verdict, line.checks.weights.reason, line.state }, { "undecided",
        "fewer than 10 " .. what, "undecided" })
    end
    t.equal(require("medxai.score.gate_tables").controls_sentence(result.models[1]), "4 " .. what
      .. " are too few (10 are needed): nothing here is decided, nor can the controls come out.")
  end
end)

-- ---- the numbers ---------------------------------------------------------------------------------------------------

t.test("persistence of a run equals the formula on its similarities; the last stage keeps no trained weight", function()
  local dir = t.tmpdir()
  local result = judged(dir, { n = 12 })
  local sums, n, b, nb = {}, {}, 0, 0
  for _, row in ipairs(csv.read(dir .. "/study/similarity_gate.csv")) do
    if row.a:find "^one/gradcam%-" and row.view == "shown" and row.measure == "spearman" and row.value ~= "NaN"
      and row.value ~= "" then
      if row.kind == "stage" then
        local k = tonumber(row.stage)
        sums[k], n[k] = sums[k] or {}, n[k] or {}
        sums[k][row.draw], n[k][row.draw] = (sums[k][row.draw] or 0) + tonumber(row.value), (n[k][row.draw] or 0) + 1
      end
    end
  end
  local found = line_of(result, "gradcam")
  b = found.checks.image.estimate.mean
  local p, stages = 0, 0
  for k in ipairs(sums) do
    local s, draws = 0, 0
    for draw, sum in pairs(sums[k]) do s, draws = s + sum / n[k][draw], draws + 1 end
    t.equal(draws, k == 1 and 4 or 2) -- twice as many of the head
    p, stages, nb = p + math.max(0, (s / draws - b) / (1 - b)), stages + 1, nb + draws
  end
  t.equal({ stages, nb }, { 3, 8 })
  t.near(found.checks.weights.estimate.mean, p / stages, 1e-9)
  t.equal(#found.profile, 3)
  local course = {} -- the same numbers once more, for the figure
  for _, row in ipairs(csv.read(dir .. "/tables/gate_stages.csv")) do
    if row.model == "one" and row.method == "gradcam" and row.alone == "" then course[#course + 1] = row end
  end
  t.equal(#course, 3)
  for k, row in ipairs(course) do
    local s = tonumber(row.similarity)
    t.near((s - b) / (1 - b), found.profile[k], 1e-9)
    t.equal({ tonumber(row.stranger), row.draws }, { b, k == 1 and "4" or "2" })
    t.ok(tonumber(row.draw_low) <= s and s <= tonumber(row.draw_high))
  end
  for _, kind in ipairs { "svg", "pdf", "png", "csv" } do
    t.ok(files.exists(dir .. "/figures/sanity-cascade-one." .. kind), kind)
  end
end)

t.test("stages are the head, then cuts nearest to equal shares of the layers; equal cuts appear once", function()
  local layers = {}
  for i = 1, 20 do layers[i] = { name = "layer" .. i, last = "last" .. i } end
  local list = gate.stages(layers, 6)
  local cuts = {}
  for k, s in ipairs(list) do cuts[k] = s.to .. " " .. s.from .. " " .. s.layers end
  t.equal(cuts, { "layer20 last20 1", "layer17 last19 4", "layer13 last16 8", "layer9 last12 12", "layer5 last8 16",
    "layer1 last4 20" })
  t.equal(#gate.stages({ layers[1], layers[2], layers[3] }, 6), 3)
  local net = tiny.network(1)
  local names = {}
  for i, layer in ipairs(net:weighted_layers()) do names[i] = layer.name .. " " .. layer.last end
  t.equal(names, { "conv1 relu1", "conv2 flat", "fc fc" })
  net:close()
end)

t.test("strangers are other patients, of the same class where there are any, keyed by the seed", function()
  local images = {}
  for i = 1, 12 do images[i] = { id = "i" .. i, patient = "p" .. (i + 3) // 4, label = i % 3 } end -- 1, 4: both alike
  images[13] = { id = "i13", patient = "p13", label = 9 } -- alone in its class
  local list = gate.strangers(images, 42, 5)
  for i, others in ipairs(list) do
    t.ok(#others > 0)
    for _, j in ipairs(others) do
      -- mutants: the same image, the same patient
      t.ok(j ~= i and images[j].patient ~= images[i].patient, i .. " " .. j)
      if i < 13 then t.equal(images[j].label, images[i].label) end
    end
  end
  t.equal(#list[13], 5)
  t.equal(gate.strangers(images, 42, 5), list)
  t.ok(table.concat(gate.strangers(images, 43, 5)[13], " ") ~= table.concat(list[13], " "))
  local unknown = { { id = "a", patient = "unknown", label = 0 }, { id = "b", patient = "unknown", label = 0 },
    { id = "a", patient = "unknown", label = 0 } }
  t.equal(gate.strangers(unknown, 42, 5)[1], { 2 }) -- the same pixels are no stranger
end)

t.test("maps of randomized networks explain the trained network's target", function()
  -- maps of "predicted" under random weights: with a newly chosen target the own method would see other classes
  local asked = {}
  local function own(_, model, target)
    asked[#asked + 1] = { model:sha256(), target.index, target.predicted }
    return tiny.torch.rand(32, 32)
  end
  judged(t.tmpdir(), { n = 10, target = "predicted", options = { methods = { own = own }, draws = 1 } })
  local trained, first, changed = {}, asked[1][1], 0
  for k = 1, 10 do trained[k] = asked[k][2] end
  for k = 11, #asked do
    t.ok(asked[k][1] ~= first, "random weights")
    t.equal(asked[k][2], trained[(k - 1) % 10 + 1])
    changed = changed + 1
  end
  t.equal(changed, 10 * 4) -- two of the head, one of two other stages
end)

t.test("a draw's weights depend on its number and the layer's name", function()
  local scope <close> = core.memory.scope() -- luacheck: ignore
  local graph = require "medxai.nn.graph"
  local model = graph.network { name = "equal", classes = tiny.classes, size_px = 16, build = function(g, x)
    x = g:conv2d("c3", g:conv2d("c2", g:conv2d("c1", x, { 3, 3, 1 }), { 3, 3, 1 }), { 3, 3, 1 })
    return g:flatten("flat", g:adaptive_avg_pool2d("pool", x, 1))
  end }
  local function weights(to, seed)
    local out = {}
    local random = model:randomize { to = to, seed = seed }
    for _, entry in ipairs(random:state()) do out[entry.name] = table.concat(entry.tensor:flatten():tolist(), " ") end
    random:close()
    return out
  end
  local long, short, other = weights("c1", 3), weights("c3", 3), weights("c1", 4)
  t.ok(long["c1.weight"] ~= long["c2.weight"] and long["c2.weight"] ~= long["c3.weight"]) -- Quantus draws equal ones
  t.equal({ long["c3.weight"], short["c3.weight"] == long["c3.weight"] }, { short["c3.weight"], true })
  t.ok(other["c1.weight"] ~= long["c1.weight"] and short["c1.weight"] ~= long["c1.weight"])
  model:close()
end)

-- ---- checks by hand ------------------------------------------------------------------------------------------------

local function flat(n, v) -- around v
  local list = {}
  for i = 1, n do list[i] = v + 0.01 * math.sin(3 * i + 100 * v) end
  return list
end

local function case(change)
  local s = { stranger = flat(30, 0.3), stages = {}, twin = flat(30, 0.7), twin_stranger = flat(30, 0.2),
    other = flat(30, 0.25),
    other_stranger = flat(30, 0.2), repeated = flat(30, 0.95), permuted = flat(30, 0.35), gains = { swap = flat(30,
      0.2), sobel = flat(30, 0.1) } }
  for k = 1, 3 do s.stages[k] = { flat(30, 0.35), flat(30, 0.3) } end
  for key, value in pairs(change or {}) do s[key] = value or nil end
  return s
end

t.test("each check by hand: estimate, threshold, pass and fail", function()
  local over = units.over(30)
  local function check_of(name, change)
    local v, r = gate.check(name, over, case(change), gate.thresholds)
    return v.verdict, r.mean, v.reason
  end
  local function same(name, change, verdict, mean)
    local got, m = check_of(name, change)
    t.equal(got, verdict, name)
    t.near(m, mean, 0.005, name)
  end
  same("image", nil, "pass", 0.3)
  same("image", { stranger = flat(30, 0.95) }, "fail", 0.95)
  same("weights", nil, "pass", (0.05 / 2 / 0.7))
  -- by the last stage alone the method would pass
  same("weights", { stages = { { flat(30, 1) }, { flat(30, 0.8) }, { flat(30, -0.4) } } }, "fail",
    (1 + 0.5 / 0.7 + 0) / 3)
  local draws = {}
  for k, v in ipairs { 0.30, 0.34, 0.32, 0.35, 0.29 } do draws[k] = flat(30, v) end
  same("learned", { stages = { draws } }, "pass", 0.7 - 0.32)
  -- draws that differ by as much: a second training may be one more of them, and two draws tell hardly anything
  local wide = {}
  for k, v in ipairs { 0.10, 0.60, 0.30, 0.55, 0.05 } do wide[k] = flat(30, v) end
  same("learned", { stages = { wide } }, "undecided", 0.7 - 0.32)
  same("learned", nil, "undecided", 0.7 - 0.325)
  local _, r = gate.check("learned", over, case { stages = { wide } }, gate.thresholds)
  local spread = math.sqrt((0.22 ^ 2 + 0.28 ^ 2 + 0.02 ^ 2 + 0.23 ^ 2 + 0.27 ^ 2) / 4 * (1 / 5 + 1))
  t.near(r.high - r.mean, 2.776445 * spread, 0.002) -- Student's t with 4 degrees of freedom
  -- a random network's map is as similar as that of a second training
  same("learned", { stages = { { flat(30, 0) }, { flat(30, 0.68) } } }, "fail", 0.02) -- of one draw: patients alone
  same("labels", nil, "pass", 0.05 / 0.4)
  same("labels", { permuted = flat(30, 0.65) }, "fail", 0.35 / 0.4)
  same("repeat", nil, "pass", 0.95)
  same("repeat", { repeated = flat(30, 0.5) }, "fail", 0.5)
  same("retrain", nil, "pass", 0.5 / 0.8)
  same("retrain", { twin = flat(30, 0.3) }, "fail", 0.1 / 0.8)
  same("architecture", nil, "fail", 0.05 / 0.8)
  same("localise", nil, "pass", 0.1)
  same("localise", { gains = { swap = flat(30, 0.2), sobel = flat(30, -0.1) } }, "fail", -0.1)
  t.equal(check_of("localise", { gains = { swap = flat(30, 0.2), sobel = flat(30, 0.0) } }), "undecided")
end)

t.test("checks without data are not applicable, with the reason", function()
  local over = units.over(30)
  local function why(name, change)
    local s = case(change)
    for key in pairs(change) do
      if change[key] == false then s[key] = nil end
    end
    local v = gate.check(name, over, s, gate.thresholds)
    return v.verdict .. ": " .. tostring(v.reason)
  end
  t.equal(why("learned", { twin = false }), "not_applicable: one training only")
  t.equal(why("labels", { permuted = false }), "not_applicable: no network of permuted labels")
  t.equal(why("labels", { twin = flat(30, 0.35) }), "not_applicable: twins agree hardly more than strangers")
  t.equal(why("labels", { no_permuted = "it has not learned" }), "not_applicable: it has not learned")
  t.equal(why("repeat", { repeated = false }), "not_applicable: the method draws nothing at random")
  t.equal(why("architecture", { other = false }), "not_applicable: one network only")
  t.equal(why("localise", { gains = false }), "not_applicable: no mask")
  t.equal(why("image", { nothing = "not defined for this network" }), "not_applicable: not defined for this network")
  t.equal(why("weights", { stranger = flat(30, 0.95) }), "undecided: maps of different patients agree above 0.9")
  local lost = {}
  for i = 1, 30 do lost[i] = i <= 8 and 0.3 or nan end
  t.equal(why("weights", { stages = { { lost }, { lost } } }),
    "undecided: 73 % of the maps under random weights are undefined")
end)

t.test("SSIM that contradicts Spearman makes a verdict undecided", function()
  local over = units.over(30)
  local v = gate.judge(over, case(), case { stages = { { flat(30, 0.95) }, { flat(30, 0.9) } } }, gate.thresholds)
  t.equal({ v.weights.verdict, v.weights.reason, v.image.verdict }, { "undecided", "measures disagree", "pass" })
end)

-- ---- files, resuming -----------------------------------------------------------------------------------------------

local kept = { "verdicts.csv", "tables/gate.csv", "tables/gate_stages.csv", "study/similarity_gate.csv",
  "study/gate.json", "figures/sanity-cascade-one.svg" }

local function texts(dir)
  local out = {}
  for _, name in ipairs(kept) do out[name] = files.sha256(t.read(dir .. "/" .. name)) end
  return out
end

t.test("killed anywhere, tables come out byte-equal; finished cells are not repeated", function()
  local whole, broken = t.tmpdir(), t.tmpdir()
  local _, run = judged(whole, { n = 10 })
  local beats, expected = run.beats, texts(whole)
  local again = 0
  for _, at in ipairs { 1, 3, 6 } do
    local ok, problem = pcall(judged, broken, { n = 10, on_beat = function(k)
      again = again + 1
      if k == at then error("killed", 0) end
    end })
    t.equal({ ok, problem }, { false, "killed" })
  end
  judged(broken, { n = 10, on_beat = function() again = again + 1 end })
  t.equal(texts(broken), expected)
  t.ok(again <= beats + 3, again .. " blocks for " .. beats)
  t.ok(not files.exists(broken .. "/study/similarity_gate.csv.part"))
  -- a step whose files are lost: the cells are enough to restore them
  for _, name in ipairs(kept) do files.remove(broken .. "/" .. name) end
  files.remove_all(broken .. "/steps")
  local _, last = judged(broken, { n = 10 })
  t.equal({ texts(broken), last.beats }, { expected, 0 })
end)

t.test("verdicts.csv keeps the rows of other steps", function()
  local dir = t.tmpdir()
  csv.write(dir .. "/verdicts.csv", require("medxai.run.tables").verdicts,
    { { subject = "x", check = "audit", verdict = "found", family = "audit outside" } })
  judged(dir, { n = 10 })
  judged(dir, { n = 10, options = { draws = 1 } })
  local rows, audit = csv.read(dir .. "/verdicts.csv"), 0
  for _, row in ipairs(rows) do audit = audit + (row.family == "audit outside" and 1 or 0) end
  t.equal({ #rows, audit }, { 1 + 5 * #gate.checks, 1 })
end)

t.test("maps with NaN under random weights are counted and reported", function()
  local place = {}
  local function broken(x, model)
    place[#place + 1] = true
    local m = x:mean({ 1 })
    return #place <= 10 and m or m * (model:sha256() and nan)
  end
  local result = judged(t.tmpdir(), { n = 10, options = { methods = { broken = broken } } })
  local v = line_of(result, "broken").checks.weights
  t.equal(v.verdict, "undecided")
  t.ok(v.reason:find "100 %% of the maps under random weights are undefined" or v.reason == "undefined", v.reason)
end)

t.test("logits that are not finite under random weights raise a warning with stage and draw", function()
  local function make()
    local net = tiny.network(1)
    local plain = net.randomize
    net.randomize = function(self, o)
      local random = plain(self, o)
      local scope <close> = core.memory.scope() -- luacheck: ignore
      for _, entry in ipairs(random:state()) do
        if entry.name == "norm1.running_var" then entry.tensor:fill_(nan) end
      end
      return random
    end
    return net
  end
  local _, run = judged(t.tmpdir(), { n = 10, models = { { name = "one", network = "tiny", seed = 1, make = make } } })
  local told = table.concat(run.warnings, "\n")
  t.ok(told:find("sanity: one, the last random weights 1 of 3 layers, draw 1: the network's answers to 10 of 10 images "
    .. "are not finite numbers"), told)
end)

t.long("of 20 networks with random weights no method passes the gate: what a twin shares, a random network "
  .. "shares as well", function()
  local passed, judged_methods = {}, 0
  for pair = 1, 10 do
    local models = {}
    for k = 1, 2 do models[k] = { name = "net" .. k, network = "tiny", seed = 100 * pair + k } end
    local result = judged(t.tmpdir(), { models = models, n = 20,
      options = { methods = { "gradcam", "saliency", "integrated_gradients" } } })
    for _, m in ipairs(result.models) do
      for name, came in pairs(m.controls) do t.ok(came, name .. " of pair " .. pair) end
      for _, line in ipairs(m.methods) do
        judged_methods = judged_methods + (line.baseline and 0 or 1)
        if not line.baseline and line.state == "passed" then
          passed[#passed + 1] = line.method .. " of pair " .. pair
        end
      end
    end
  end
  t.equal(judged_methods, 60)
  t.equal(table.concat(passed, ", "), "")
end)

-- ---- a trained network --------------------------------------------------------------------------------------------

local train = [[
local xai = require "medxai"
local run = xai.run { name = "mobilenet", seed = 1 }
local data = xai.dataset.phantom { size_px = 64, n_train = 600, n_val = 60, n_test = 90 }
local model = xai.models.mobilenet_v2 { classes = data.classes, train_depth = "all", weights = "random" }
run:fit(model, data, { optim = xai.optim.adam { lr = 1e-3 }, epochs = 6 })
]]

local ask = [[
local xai = require "medxai"
local run = xai.run { name = "gate", seed = 42 }
local data = xai.dataset.phantom { size_px = 64, n_train = 600, n_val = 60, n_test = 90 }
local study = run:study { models = { "mobilenet" }, data = data.test, images = 24 }
run:sanity(study, { methods = { "gradcam", "guided_backprop", "saliency" }, images = 24, draws = 3, alone = false })
]]

-- Measured for shared/spec/comparison.md, section 8 (MobileNet V2, phantoms, 24 to 40 images): persistence of guided
-- backprop .74 with a last stage below the strangers, of saliency .42, of Grad-CAM .00, of Sobel 1. The test asserts
-- this pattern with a margin for other trainings: guided backprop fails, and would pass by its last stage alone;
-- Grad-CAM has the lowest persistence.
t.long("on a trained network the course of guided backprop, saliency, Grad-CAM and Sobel has the shape that was "
  .. "measured", function()
  local dir = t.tmpdir()
  t.write(dir .. "/train.lua", train)
  t.write(dir .. "/ask.lua", ask)
  for _, name in ipairs { "train", "ask" } do
    local r = t.run { "--quiet", name .. ".lua", cwd = dir, timeout = 3000 }
    t.equal(r.code, 0, r.err)
  end
  local found = {}
  for _, row in ipairs(csv.read(dir .. "/runs/gate/tables/gate.csv")) do
    if row.check == "weights" then
      local last
      for word in row.profile:gmatch "%S+" do last = tonumber(word) end
      found[row.method] = { p = tonumber(row.estimate), verdict = row.verdict, last = last, controls = row.controls }
    end
  end
  t.ok(not found.gradcam.controls:find "NOT", found.gradcam.controls)
  t.ok(found.guided_backprop.p > 0.5 and found.guided_backprop.last < 0.25,
    found.guided_backprop.p .. " " .. found.guided_backprop.last)
  t.equal({ found.guided_backprop.verdict, found.sobel.verdict }, { "fail", "fail" })
  t.near(found.sobel.p, 1, 1e-9)
  t.ok(found.saliency.p < found.guided_backprop.p - 0.2, found.saliency.p)
  t.ok(found.gradcam.p < 0.25, found.gradcam.p)
end)

-- ---- marks ---------------------------------------------------------------------------------------------------------

t.test("marks name what failed by model, network, weights and settings; before the gate nothing is marked", function()
  local dir = t.tmpdir()
  t.equal(gate.of(dir):mark("sobel", "tiny"), nil)
  t.equal(gate.hash(dir), nil)
  dir = marked()
  t.equal(#gate.hash(dir), 64)
  local marks = gate.of(dir)
  t.equal(marks:mark("sobel", "a"), "gate failed: weights, learned")
  t.equal({ marks:mark("sobel", "tiny"), marks:state("sobel", "b"), marks:mark("sobel", "resnet50"), marks:state("lime",
    "a") },
    { "gate failed: weights, learned", "failed" })
  local entry = require("medxai.explain.registry").entries { "sobel" }[1]
  require("medxai.explain.registry").complete(entry, {})
  t.equal(marks:mark("sobel", "a", gate.settings(entry)), "gate failed: weights, learned")
  t.equal(gate.settings(entry, "conv1"), gate.settings(entry)) -- it works on the input
  entry.options.radius = 99
  t.equal(marks:mark("sobel", "a", gate.settings(entry)), nil)
end)

t.test("methods that failed are marked in later explanations of those weights", function()
  local dir = marked()
  local explain = require "medxai.steps.explain"
  local scope <close> = core.memory.scope() -- luacheck: ignore
  local run = tiny.run(dir)
  local study = tiny.study(run, 12, two)
  local drawn = {}
  local figure = require "medxai.show.figure"
  local plain = figure.panels
  local restore <close> = setmetatable({}, { __close = function() figure.panels = plain end }) -- luacheck: ignore
  figure.panels = function(o)
    for _, p in ipairs(o.rows[1].panels) do drawn[#drawn + 1] = p.status or "" end
    return plain(o)
  end
  local function labels(net)
    local list = {}
    local result = explain.run(run, net, study.models[1].split, { methods = { "sobel", "gradcam" }, images = 1,
      figures = { "rows" } })
    for i, line in ipairs(result.statuses) do list[i] = line.label end
    net:close()
    return list
  end
  t.equal(labels(tiny.network(1))[1], "Sobel (gate failed: weights, learned)")
  t.equal(drawn[2], "gate failed: weights, learned")
  t.equal(labels(tiny.network(5)), { "Sobel", "Grad-CAM" }) -- other weights were not judged
end)

t.test("the report has the gate's sentences and tables: methods first, controls last", function()
  local result = of_two()
  local count = { passed = 0, failed = 0, undecided = 0 }
  for _, m in ipairs(result.models) do
    for _, line in ipairs(m.methods) do
      if not line.baseline then count[line.state] = count[line.state] + 1 end
    end
  end
  t.equal(result.sentences[1], ("Of 2 pairs of a method and a network %d passed the gate, %d failed, %d %s "
    .. "undecided."):format(count.passed, count.failed, count.undecided, count.undecided == 1 and "is" or "are"))
  t.equal(#result.sentences, count.failed > 0 and 2 or 1)
  t.equal({ #result.tables, result.tables[1].title, result.tables[1].columns[2], result.tables[1].rows[2][2] }, { 4,
    "Gate of a, 12 images", "gate",
    "control" })
  t.ok(result.tables[1].note:find "^All 5 controls came out as they must%.", result.tables[1].note)
  t.equal({ #result.tables[2].rows, result.tables[2].columns[2], result.tables[2].rows[2][2] }, { 5, "head", "1.00" })
end)

t.test("wrong options are refused before anything is computed", function()
  local function refused(options, message)
    t.fails(function() judged(t.tmpdir(), { n = 4, options = options }) end, message)
  end
  refused({ methods = { "gradcamm" } }, "explain: unknown method 'gradcamm'. Did you mean 'gradcam' or 'xgradcam'?")
  refused({ thresholds = { persistance = 0.3 } },
    "sanity: thresholds: unknown option 'persistance'. Did you mean 'persistence'?")
  refused({ permuted = { resnet50 = "x" } }, "sanity: unknown network 'resnet50'. Known: tiny.")
  t.fails(function() sanity.run(tiny.run(t.tmpdir()), nil, {}) end,
    "sanity: takes a study: run:sanity(run:study { ... }, { methods = ... }) (got nil).")
end)

host.options.quiet = was_quiet
