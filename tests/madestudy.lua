-- A whole comparison made from made numbers, without networks: the folder of a run as run:networks, run:sanity,
-- run:compare and run:audit leave it. Tables, verdicts and figures are made by the steps' own functions. Maps look like
-- real ones: of ten methods five are smooth (a few soft spots on a coarse grid, as class activation maps), five noisy
-- (a fine grain under an envelope, as gradients).
local audit_words = require "medxai.steps.audit_words"
local canon = require "medxai.base.json"
local compare = require "medxai.steps.compare"
local core = require "medxai.core"
local csv = require "medxai.base.csv"
local files = require "medxai.base.files"
local gate = require "medxai.score.gate"
local gate_tables = require "medxai.score.gate_tables"
local likeness = require "medxai.score.study_similarity"
local networks = require "medxai.steps.networks"
local random = require "medxai.tensor.random"
local rows = require "medxai.score.study_rows"
local shared = require "medxai.run.tables"
local tables = require "medxai.score.study_tables"
local torch = require "medxai.torch"

local made = {}

local classes = { "COVID-19", "Non-COVID", "Normal" }
local architectures = { "squeezenet1_0", "mobilenet_v2", "efficientnet_b0", "densenet121", "resnet50", "inception_v3",
  "vgg19" }
local smooth = { "gradcam", "layercam", "hirescam", "eigencam", "lime samples=1000" }
local noisy = { "saliency", "guided_backprop", "integrated_gradients", "smoothgrad samples=10", "deep_lift" }
local baselines = { "sobel", "center_blob", "random_smooth" }
local metrics = { { "road_combined@1 percentiles=25,50,75 removal=noisy_linear(0.01) as=logit", "higher" },
  { "deletion@1 steps=20 as=logit removal=black", "lower" },
  { "faithfulness_correlation@1 as=logit", "higher" }, { "infidelity@1 as=logit", "lower" },
  { "energy_inside@1", "higher" }, { "effective_area@1", "none" } }

-- A number of 0 to 1 that looks like chance, the same every time.
local function chance(...)
  local n = 5381
  for c in table.concat({ ... }, " "):gmatch "." do n = (n * 33 ~ c:byte()) & 0xffffffff end
  n = (n ~ n >> 15) * 0x2c1b3c6d & 0xffffffff
  n = (n ~ n >> 12) * 0x297a2d39 & 0xffffffff
  return (n ~ n >> 15) / 0x100000000
end

local function normal(...) return 3.46 * (chance("a", ...) + chance("b", ...) + chance("c", ...) - 1.5) * 0.577 end

-- ---- pictures and maps ----------------------------------------------------------------------------------------------

local function stream(id, count)
  return random.stream { seed = 5, purpose = "made_study@1", id = id }:normal(count):to { dtype = "float32" }
end

local function enlarged(x, side)
  return torch.upsample_bilinear2d(x:view { 1, 1, x:size(0), x:size(1) }, { side, side }, false):view { side, side }
end

-- A soft bright body with two darker lungs and grain, uint8 (side, side, 3).
local function picture(i, side)
  local axis = (torch.arange(side, { dtype = "float32" }) + 0.5) / side
  local function spot(x, y, w, h)
    local u, v = (axis - x) / w, (axis - y) / h
    return torch.exp(-((u * u):unsqueeze(0) + (v * v):unsqueeze(1)))
  end
  local shift = 0.04 * normal("shift", i)
  local body = spot(0.5 + shift, 0.55, 0.45, 0.5) * 190 - spot(0.33 + shift, 0.5, 0.12, 0.24) * 120
    - spot(0.67 + shift, 0.5, 0.12, 0.24) * 120 + 40
  local grain = enlarged(stream("grain " .. i, (side // 2) ^ 2 // 1 | 0):view { side // 2, side // 2 }, side) * 9
  return (body + grain):clamp(0, 255):to { dtype = "uint8" }:unsqueeze(2):expand({ side, side, 3 }):contiguous()
end

local function smooth_map(id, side)
  return enlarged(stream(id, 49):view({ 7, 7 }):relu(), side)
end

local function noisy_map(id, side)
  local envelope = enlarged(stream(id .. " envelope", 49):view({ 7, 7 }):relu(), side)
  return stream(id .. " grain", side * side):view({ side, side }):abs() * (envelope + 0.05)
end

local function map_of(id, is_noisy, side)
  local scope <close> = core.memory.scope()
  local map = is_noisy and noisy_map(id, side) or smooth_map(id, side)
  return scope:keep(map / map:max())
end

-- ---- what the steps write -------------------------------------------------------------------------------------------

local function models_of(n)
  local list = {}
  for k = 1, n do
    list[k] = { name = architectures[k], run_name = architectures[k], network = architectures[k], train_seed = 42,
      input = "whole", weights_sha256 = files.sha256(architectures[k]) }
  end
  return list
end

local function class_of(i) return classes[(i - 1) % 3 + 1] end

local function put_step(run, name, fields, result)
  files.write_data(("%s/steps/%s.json"):format(run.dir, name), { status = "finished", key = "k", fields = fields,
    result = result })
end

local function put_models(run, models, images)
  local list = {}
  for k, m in ipairs(models) do
    list[k] = { start = "imagenet", best_epoch = 5 + k, head = "thesis", train_depth = 2, size_px = 224,
      resize_px = 256, mean = { 0.485, 0.456, 0.406 }, std = { 0.229, 0.224, 0.225 }, reader = "covid_qu_ex",
      options = { root = "data/COVID-QU-Ex" }, selected = { by = "accuracy", split = "val" },
      training = { epochs = 20, batch = 32, optim = { kind = "sgd", options = { lr = 0.01, momentum = 0.9 } } } }
    for key, value in pairs(m) do list[k][key] = value end
  end
  local counts = { train = { ["COVID-19"] = 1864, ["Non-COVID"] = 932, Normal = 932, total = 3728 },
    val = { ["COVID-19"] = 466, ["Non-COVID"] = 233, Normal = 233, total = 932 },
    test = { ["COVID-19"] = 583, ["Non-COVID"] = 292, Normal = 291, total = 1166 } }
  files.write_data(run.dir .. "/study/models.json", { version = 1, classes = classes, models = list,
    checks = { { models = architectures, check = { counts = counts, images = 5826, patients = 0,
      exact = canon.list {}, near_count = 2 } } } })
  local lines = {}
  for i = 1, images do
    lines[i] = { image_id = ("%016x"):format(i), path = ("Test/%s/images/case_%04d.png"):format(class_of(i), i),
      patient = "p" .. i, source = i % 3 == 1 and "A" or "B", label = class_of(i) }
  end
  local of = run.dir .. "/study/images.csv"
  csv.write(of, { "image_id", "path", "patient", "source", "label" }, lines)
  files.write_data(run.dir .. "/config.json", { name = "whole", seed = 42,
    question = "Which network, and which explanation of it? A page made from made numbers." })
end

local function put_networks(run, models, images)
  local labels, patients, logits = {}, {}, {}
  for i = 1, images do labels[i], patients[i] = (i - 1) % 3, "p" .. i end
  for k in ipairs(models) do
    logits[k] = {}
    for i = 1, images do
      logits[k][i] = {}
      for c = 1, 3 do
        logits[k][i][c] = normal("shared", i, c) + 0.6 * normal("own", k, i, c)
          + (labels[i] == c - 1 and 1.0 + 0.25 * k or 0)
      end
    end
  end
  local o = { primary = "auroc_macro", margin = 0.02, alpha = 0.1, level = 0.95 }
  put_step(run, "networks", o, networks.tabulate(run, { models = models, classes = classes, seed = 42 },
    { n = images, labels = labels, patients = patients, logits = logits }, nil, o))
end

-- One method in the gate of one network.
local function gate_line(m, name, images, is_control)
  local state = is_control and "control" or chance("gate", m.name, name) < 0.2 and "failed" or "passed"
  local line = { method = name, label = name, state = state, baseline = is_control or nil, checks = {}, views = {},
    failed = canon.list(state == "failed" and { "weights" } or {}), statuses = { ok = images }, settings = "s",
    profile = canon.list {}, course = canon.list {} }
  for _, check in ipairs(gate.checks) do
    local is_judged = check == "image" or check == "weights" or check == "learned"
    local mean = check == "weights" and (state == "failed" and 0.6 or 0.1) or 0.3
    line.checks[check] = { verdict = not is_judged and "not_applicable" or check == "weights" and state == "failed"
      and "fail" or "pass", reason = not is_judged and "no second training" or nil,
      estimate = { mean = mean, low = mean - 0.08, high = mean + 0.08, n = images, units = images,
        threshold = gate.thresholds[check] or gate.thresholds.persistence } }
  end
  for k = 1, 6 do
    local s = 0.3 + (line.checks.weights.estimate.mean) * (1.3 - 0.2 * k)
    line.profile[k] = s - 0.3
    line.course[k] = { stage = k, layers = 9 * k - 8, of = 53, similarity = s, draws = 5, low = s - 0.05,
      high = s + 0.05 }
  end
  for _, view in ipairs { "signed", "magnitude" } do line.views[view] = { mean = 0.1, low = 0, high = 0.2 } end
  return line
end

local function put_gate(run, models, methods)
  local result = { images = 48, stages = 6, draws = 5, thresholds = gate.thresholds, models = canon.list {} }
  for k, m in ipairs(models) do
    local lines = canon.list {}
    for _, name in ipairs(methods) do lines[#lines + 1] = gate_line(m, name, 48) end
    for _, name in ipairs(gate.controls) do lines[#lines + 1] = gate_line(m, name, 48, true) end
    result.models[k] = { model = m.name, network = m.network, train_seed = 42, weights_sha256 = m.weights_sha256,
      methods = lines, controls = { ["sobel weights"] = true, ["weights_noise image"] = true } }
  end
  gate_tables.write(run, result, { close = function() end })
  gate_tables.show(result)
  result.figures = require("medxai.show.sanity_figures").draw(run)
  put_step(run, "sanity-0123abcd", {}, result)
  return result
end

-- The columns of study/scores.csv that tables are made of.
local function scores_of(models, methods, images)
  local list = { n = 0, value = {}, chance = {}, forwards = {}, backwards = {} }
  local function put(row)
    list.n = list.n + 1
    for _, column in ipairs { "image_id", "patient", "source", "method", "metric", "status", "undefined", "label",
      "predicted", "correct", "run", "network", "train_seed", "explainer_seed", "control", "direction", "unit" } do
      list[column] = list[column] or {}
      list[column][list.n] = row[column] or ""
    end
    for _, column in ipairs { "value", "chance", "forwards", "backwards" } do
      list[column][list.n] = row[column] or 0 / 0
    end
  end
  for k, m in ipairs(models) do
    for j, method in ipairs(methods) do
      for s, metric in ipairs(metrics) do
        local gain = j > #methods - #baselines and 0 or 0.4 - 0.04 * ((j + k) % 10) - 0.03 * s
        for i = 1, images do
          for _, control in ipairs { "none", "swap" } do
            put { image_id = ("%016x"):format(i), patient = "p" .. i, method = method, metric = metric[1],
              status = "ok", label = class_of(i), predicted = class_of(i + i % 5 // 4), correct = tostring(i % 5 < 4),
              run = m.name, network = m.network, train_seed = "42", explainer_seed = "1", control = control,
              direction = metric[2], value = 0.3 + (control == "none" and gain or 0)
                * (metric[2] == "lower" and -1 or 1) + 0.25 * normal(k, j, s, i, control), forwards = 2, backwards = 1 }
          end
        end
      end
    end
  end
  return list
end

local function agreement_rows(models, methods, images)
  local list = {}
  local function add(kind, a, b)
    for _, how in ipairs { { "spearman", "shown" }, { "ssim", "shown" }, { "top_tenth", "shown" },
      { "spearman", "signed" }, { "spearman", "magnitude" } } do
      local strangers, same = 0.2 + 0.2 * chance("strangers", a, b), 0.4 + 0.5 * chance("same", a, b)
      local agreement = (same - strangers) / (1 - strangers)
      list[#list + 1] = { kind = kind, a = a, b = b, measure = how[1], view = how[2], same = same,
        strangers = strangers, agreement = agreement, low = agreement - 0.05, high = agreement + 0.05, n = images,
        units = images, undefined = 0, interval = "studentized bootstrap over patients" }
    end
  end
  for k, m in ipairs(models) do
    for j, method in ipairs(methods) do
      for l = j + 1, #methods do add("method", m.name .. ": " .. method, m.name .. ": " .. methods[l]) end
      for l = k + 1, #models do add("network", m.name .. ": " .. method, models[l].name .. ": " .. method) end
    end
  end
  return list
end

local function put_costs(run, models, methods, images)
  local list = {}
  for _, m in ipairs(models) do
    for j, method in ipairs(methods) do
      list[#list + 1] = { run = m.name, network = m.network, method = method, images = images, forwards = images * j,
        backwards = images, map_seconds = images * 0.02 * 1.8 ^ j, seconds = images * 0.3 * j, failed_cells = 0 }
    end
  end
  csv.write(run.dir .. "/tables/costs.csv", { "run", "network", "method", "images", "forwards", "backwards",
    "map_seconds", "seconds", "failed_cells" }, list)
end

-- What the viewer and the montage show: study/viewer.html, and the pictures of the figures.
local function album_of(models, methods, images, marks)
  local album = { images = {}, networks = {}, methods = methods }
  local is_noisy = {}
  for _, name in ipairs(noisy) do is_noisy[name] = true end
  for i = 1, images do
    album.images[i] = { id = ("case_%04d.png"):format(i), text = ("label %s, patient p%d"):format(class_of(i), i),
      class = class_of(i) }
  end
  for k, m in ipairs(models) do album.networks[k] = m.name end
  function album.picture(i) return picture(i, 256) end
  function album.map(i, k, j)
    return map_of(("map %d %d %d"):format(i, k, j), is_noisy[methods[j]], 64),
      { text = "predicted " .. class_of(i + i % 5 // 4), note = marks[models[k].name][methods[j]],
        raw = not is_noisy[methods[j]] and { 0, 0.01 * (1 + j) * (1 + chance("raw", i, k, j)) } or nil }
  end
  return album
end

local function put_compare(run, models, methods, images, marks, judged)
  local base, names = {}, {}
  for _, name in ipairs(baselines) do base[name] = true end
  for _, m in ipairs(models) do names[m.name] = m.run_name end
  local primary = metrics[1][1]
  local out = compare.tabulate(run, scores_of(models, methods, judged), { seed = 42, primary = primary,
    baselines = base, marks = marks, states = {}, setting_of = {}, run_names = names })
  local agreement = agreement_rows(models, methods, images)
  csv.write(run.dir .. "/tables/agreement.csv", likeness.agreement, agreement)
  put_costs(run, models, methods, images)
  local figures = compare.draw(run, { models = models, album = album_of(models, methods, images, marks), out = out,
    primary = primary, baselines = base })
  local sentences, list = require("medxai.show.report_compare").of(out, agreement, { primary = primary, failed = 0 })
  put_step(run, "compare-0123abcd", { baselines = base }, { title = "Explanations compared", sentences = sentences,
    tables = list, images = images, models = #models, methods = #methods, failed = 0, primary = primary,
    direction = "higher", units = out.data.over.count, resampled = "patients", figures = figures })
end

local function put_audit(run, images)
  local function area(input, class, mean)
    local v = mean > 0.7 and "found" or mean < 0.55 and "not_found" or "undecided"
    local has_lungs = input == "whole" or input == "lungs_raw"
    return { input = input, class = class, seeds = 3, area = { mean = mean, low = mean - 0.07, high = mean + 0.06,
      n = images, units = images }, verdict = not has_lungs and { verdict = v } or nil, p_above = 0.01, p_below = 0.9,
      power = { clear = 0.8, find75 = 0.85, find85 = 0.99, positives = images // 3, negatives = images * 2 // 3 } }
  end
  local found = { over = { count = images, resampled = "patients" }, margin = 0.638, left_out = 0, placebo = 4,
    network = "mobilenet_v2", probe = {}, trained = {}, cells = {}, sources = {},
    verdict = { verdict = "confounded", reason = "COVID-19: every image is from 'A'" } }
  for i, input in ipairs { "whole", "lungs_raw", "outside", "border", "shape" } do
    for c, class in ipairs(classes) do
      found.probe[#found.probe + 1] = area(input, class, 0.92 - 0.05 * i - 0.04 * c)
      found.trained[#found.trained + 1] = area(input, class, 0.97 - 0.06 * i - 0.05 * c)
    end
    for seed = 1, 3 do
      found.cells[#found.cells + 1] = { values = { input = input, seed = seed }, judged = { train_accuracy = 0.98,
        accuracy = 0.9 - 0.05 * i } }
    end
  end
  shared.write(run, "tables/audit.csv", audit_words.area_columns, audit_words.area_rows(found))
  shared.put(run, "verdicts.csv", shared.verdicts, "audit", { { subject = "mobilenet_v2", check = "audit",
    verdict = "confounded", reason = found.verdict.reason, family = "audit" } })
  local result = audit_words.result(found)
  result.figures = require("medxai.show.audit_figures").draw(run, 0.638)
  put_step(run, "audit", { margin = 0.638 }, result)
end

--- Makes the folder.
---@param dir string
---@param o table networks (7), images (240) of the viewer, judged (images whose rows the tables are made of), methods
---  (10)
---@return table run for steps/report.lua
function made.write(dir, o)
  local scope <close> = core.memory.scope() -- luacheck: ignore
  local run = { dir = dir, name = "whole", seed = 42, leases = { wait = function() end },
    step = function(_, _, fields) return { fields = fields, finish = function() end } end }
  local models, methods = models_of(o.networks), {}
  for j = 1, o.methods do methods[j] = j % 2 == 1 and smooth[(j + 1) // 2] or noisy[j // 2] end
  put_models(run, models, o.images)
  put_networks(run, models, o.judged)
  local gated, marks = put_gate(run, models, methods), {}
  for _, m in ipairs(gated.models) do
    marks[m.model] = {}
    for _, line in ipairs(m.methods) do
      if line.state == "failed" then marks[m.model][line.label] = "gate failed: weights" end
    end
  end
  for _, name in ipairs(baselines) do methods[#methods + 1] = name end
  put_compare(run, models, methods, o.images, marks, o.judged)
  put_audit(run, o.judged)
  return run
end

return made
