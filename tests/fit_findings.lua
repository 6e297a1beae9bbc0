-- Several findings per image: labels, losses, training, thresholds, judging, explaining, and what is refused.
local t = require "t"
local csv = require "medxai.base.csv"
local files = require "medxai.base.files"
local findings = require "medxai.stats.findings"
local host = require "medxai.host"
local losses = require "medxai.train.loss"
local made = require "findings"
local xai = require "medxai"
local torch = xai.torch

local nan = 0 / 0

-- Nothing is printed until it is closed.
local function muted()
  local quiet, print_ = host.options.quiet, print
  host.options.quiet, print = true, function() end -- luacheck: ignore
  return setmetatable({}, { __close = function() host.options.quiet, print = quiet, print_ end }) -- luacheck: ignore
end

local function run_in(name) return xai.run { name = name, seed = 5, out = t.tmpdir() .. "/" .. name } end

local function shown(list)
  local out = {}
  for k, v in ipairs(list) do out[k] = v ~= v and "?" or tostring(math.tointeger(v)) end
  return table.concat(out, " ")
end

-- ---- labels ----

t.test("labels are sets, numbers by name or texts; uncertain ones are training's to take, missing ones "
  .. "the table's", function()
  local given = { { "left" }, { left = 1, right = -1 }, { right = 0 }, "left|right", "No Finding", {} }
  local function all(split, more)
    local items = {}
    for i, label in ipairs(given) do items[i] = { path = ("%02d.png"):format(i), label = label, split = split } end
    local options = { items = items }
    for k, v in pairs(more or {}) do options[k] = v end
    local data, out = made.data(options), {}
    for i = 1, #given do out[i] = shown(data[split]:item_findings(i)) end
    return out
  end
  t.equal(all "train", { "1 0", "1 ?", "? 0", "1 1", "0 0", "0 0" })
  t.equal(all("train", { uncertain = "ones" }), { "1 0", "1 1", "? 0", "1 1", "0 0", "0 0" })
  t.equal(all("train", { uncertain = "zeros", missing = "zeros" }), { "1 0", "1 0", "0 0", "1 1", "0 0", "0 0" })
  t.equal(all("val", { uncertain = "ones" }), { "1 0", "1 ?", "? 0", "1 1", "0 0", "0 0" })
end)

t.test("a table has a column for each finding, or names those of an image in one", function()
  local dir = made.folder(64)
  t.write(dir .. "/a.csv", "path,split,left,right\n01.png,train,1.0,\n02.png,val,-1,0\n")
  t.write(dir .. "/b.csv", "path,split,label\n01.png,train,left|right\n02.png,val,No Finding\n")
  local function read(name)
    local data = xai.dataset.manifest { csv = dir .. "/" .. name, findings = made.names, size_px = 16, resize_px = 16 }
    return { shown(data.train:item_findings(1)), shown(data.val:item_findings(1)) }
  end
  t.equal(read "a.csv", { "1 ?", "? 0" })
  t.equal(read "b.csv", { "1 1", "0 0" })
  t.write(dir .. "/upper.csv", "path,split,Lung Opacity,Edema\n01.png,train,1,0\n")
  local upper = xai.dataset.manifest { csv = dir .. "/upper.csv", findings = { "Edema", "Lung Opacity" }, size_px = 16,
    resize_px = 16 }
  t.equal({ shown(upper.train:item_findings(1)), upper.train:item(1).findings_text }, { "0 1", "Lung Opacity" })
  local scope <close> = xai.scope()
  local data = xai.dataset.manifest { csv = dir .. "/a.csv", findings = made.names, size_px = 16, resize_px = 16 }
  local y = data.train:batch({ 1 }).y
  t.equal({ y.shape, y.dtype, shown(y[0]:tolist()) }, { { 1, 2 }, "float32", "1 ?" })
  t.write(dir .. "/c.csv", "path,split,left,right\n01.png,train,2,\n")
  t.fails(function() read "c.csv" end,
    "manifest: c.csv:2: the finding 'left' is '2' (expected 1, 0, -1 where uncertain, or nothing).")
  t.write(dir .. "/d.csv", "path,split,left\n01.png,train,1\n")
  t.fails(function() read "d.csv" end, "manifest: d.csv has no column 'right' (its header: path, split, left).")
end)

t.test("labels outside the findings, and values that are none, are refused", function()
  local function wrong(label, message)
    t.fails(function() made.data { items = { { path = "01.png", label = label, split = "train" } } } end, message)
  end
  wrong({ "lefft" }, "from: item 1: unknown finding 'lefft'. Did you mean 'left'?")
  wrong({ left = 0.5 }, "from: item 1: the finding 'left' is 0.5 (expected 1, 0, -1 where uncertain, or nothing).")
  wrong(1, "from: item 1: the label is a number (expected { \"left\" } or { left = 1 }).")
  t.fails(function() made.data { classes = { "a", "b" } } end,
    "from: classes and findings exclude each other: an image has one class, or any number of findings.")
end)

-- ---- losses ----

t.test("bce_with_logits is the mean over the known entries, positives weighted; focal likewise", function()
  local scope <close> = xai.scope()
  local logits = torch.tensor({ { 2.0, -1.0 }, { 0.5, 90.0 } }, { requires_grad = true })
  local y = torch.tensor { { 1.0, nan }, { 0.0, 1.0 } }
  local function value(spec, labels)
    return losses.open { torch = torch, data = { findings = true, classes = made.names }, model = { num_classes = 2 },
      options = { loss = losses.parse(spec, {}, true) } }(logits, labels or y)
  end
  local a, b = math.log(1 + math.exp(-2)), math.log(1 + math.exp(0.5))
  t.near(value(nil):item(), (a + b + 0) / 3, 1e-6)
  t.near(value({ "bce_with_logits", pos_weight = { 3, 5 } }):item(), (3 * a + b + 0) / 3, 1e-6)
  local p = 1 / (1 + math.exp(-2))
  local q = 1 / (1 + math.exp(0.5))
  t.near(value("focal"):item(), ((1 - p) ^ 2 * a + (1 - q) ^ 2 * b) / 3, 1e-6)
  for _, labels in ipairs { y, torch.full({ 2, 2 }, nan) } do
    logits.grad = nil
    value(nil, labels):backward()
    t.equal(logits.grad:isfinite():all():item(), true)
  end
  t.near(logits.grad:abs():sum():item(), 0, 0) -- a batch of which nothing is known changes nothing
end)

-- ---- judging ----

t.test("average precision is scikit-learn's, and its derivative that of a weighted one", function()
  local scores, truth = { 0.1, 0.4, 0.35, 0.8 }, { false, false, true, true }
  t.near(findings.average_precision(scores, truth), 0.83333333333333, 1e-12) -- the example of its documentation
  local s, y = { 0.9, 0.8, 0.8, 0.5, 0.4, 0.4, 0.1 }, { true, false, true, true, false, true, false }
  local function weighted(w)
    local sum, all = 0.0, 0.0
    for i in ipairs(s) do
      if y[i] then
        local hits, size = 0.0, 0.0
        for j in ipairs(s) do
          if s[j] >= s[i] then hits, size = hits + (y[j] and w[j] or 0), size + w[j] end
        end
        sum, all = sum + w[i] * hits / size, all + w[i]
      end
    end
    return sum / all
  end
  local value, derivative = findings.average_precision(s, y)
  t.near(value, weighted { 1, 1, 1, 1, 1, 1, 1 }, 1e-12)
  for j = 1, 7 do
    local up, down = { 1, 1, 1, 1, 1, 1, 1 }, { 1, 1, 1, 1, 1, 1, 1 }
    up[j], down[j] = 1 + 1e-5, 1 - 1e-5
    t.near(derivative[j], (weighted(up) - weighted(down)) / 2e-5, 1e-8)
  end
end)

t.test("findings are judged where they are known; one without a positive is named and left out of the means", function()
  local labels, logits = {}, {}
  for i = 1, 40 do
    labels[i] = { i % 2, i % 5 == 0 and nan or (i // 2) % 2, 0 }
    logits[i] = { (i % 2 - 0.5) * 1.5 + 2 * math.sin(i * 3), ((i // 2) % 2 - 0.5) * 2 + 2 * math.sin(i * 7), -1 }
  end
  local r = findings.judge(labels, logits, { "a", "b", "c" }, {})
  local metrics = require "medxai.stats.classification"
  for k = 1, 2 do
    local s, y, tp, fp, fn, brier = {}, {}, 0, 0, 0, 0.0
    for i = 1, 40 do
      if labels[i][k] == labels[i][k] then
        s[#s + 1], y[#y + 1] = logits[i][k], labels[i][k] == 1
        local says = logits[i][k] >= 0
        tp, fp = tp + (says and y[#y] and 1 or 0), fp + (says and not y[#y] and 1 or 0)
        fn = fn + (not says and y[#y] and 1 or 0)
        brier = brier + (1 / (1 + math.exp(-logits[i][k])) - labels[i][k]) ^ 2
      end
    end
    local row = r.per_class[k]
    t.near(row.auroc, metrics.auroc(s, y), 1e-12)
    t.near(row.f1, 2 * tp / (2 * tp + fp + fn), 1e-12)
    t.near(row.brier, brier / #s, 1e-12)
    t.equal({ row.unknown, row.support + row.negatives }, { 40 - #s, #s })
    t.ok(row.auroc_interval[1] < row.auroc and row.auroc < row.auroc_interval[2])
  end
  t.near(r.auroc_macro, (r.per_class[1].auroc + r.per_class[2].auroc) / 2, 1e-12)
  t.equal(r.judged, 2)
  t.equal(findings.remarks(r),
    { "the finding 'c' has no positive image: it is left out of the means over the findings" })
  t.ok(r.intervals.auroc_macro[1] < r.auroc_macro and r.auroc_macro < r.intervals.auroc_macro[2])
  t.ok(findings.report(r):find("mean of 2", 1, true))
  -- with one class for each image, nothing unknown, the area's interval is DeLong's up to the units' correction
  local delong, units = require "medxai.stats.delong", require "medxai.stats.units"
  local s, y = {}, {}
  for i = 1, 40 do s[i], y[i] = logits[i][1], labels[i][1] == 1 end
  local area = delong.area(delong.placements(s, y), units.over(40, nil))
  t.near(r.per_class[1].auroc_interval[1], area.low, 0.02)
end)

t.test("a threshold parts the validation images best, halfway between two scores; without a side "
  .. "there is none", function()
  t.near(findings.threshold({ 3, 2, 1, 0, -1 }, { true, true, false, true, false }), 1.5, 1e-12)
  t.equal(findings.threshold({ 1, 2 }, { true, true }), nil)
  t.equal(findings.thresholds({ { 1 }, { 1 } }, { { 2 }, { 3 } }), { 0.0 })
end)

-- ---- a whole run ----

t.test("a network learns findings: scores, thresholds of the validation images, predictions, explanations", function()
  local silence <close> = muted() -- luacheck: ignore
  local data = made.data { items = made.items(64, function(i, split)
    local truth = made.truth(i)
    if split == "train" and i % 7 == 0 then truth.right = -1 end -- uncertain
    if i % 11 == 0 then truth.left = nil end                     -- nobody said
    return truth
  end) }
  local model = made.model(made.names)
  local run = run_in "findings"
  local seen
  local result = run:fit(model, data, { optim = xai.optim.adam { lr = 0.01 }, epochs = 8, batch = 8,
    on_epoch = function(state) seen = state.val_auroc end })
  t.equal(result.epochs, 8)
  t.ok(seen > 0.9, "AUROC " .. tostring(seen))
  local described = files.read_data(run.dir .. "/model.json")
  t.equal({ described.outputs, #described.thresholds, described.selected.by }, { "sigmoid", 2, "auroc" })
  local judged = run:evaluate(model, data.test)
  t.ok(judged.auroc_macro > 0.9, "AUROC " .. judged.auroc_macro)
  t.equal({ judged.findings, judged.thresholds_from, #judged.per_class, judged.classes[2] },
    { true, "val", 2, "right" })
  t.near(judged.per_class[1].threshold, findings.sigmoid(described.thresholds[1]), 1e-12)
  local first = csv.read(run.dir .. "/predictions.csv")
  local rows = {}
  for _, row in ipairs(first) do rows[row.path] = row end
  t.equal({ rows["13.png"].label_left, rows["13.png"].label_right, rows["44.png"].label_left }, { "1", "0", "" })
  t.near(tonumber(rows["13.png"].prob_left), findings.sigmoid(tonumber(rows["13.png"].logit_left)), 1e-12)
  t.equal(csv.read(run.dir .. "/manifest.csv")[1].label, "left")

  local maps = run:explain(model, data.test, { methods = { "gradcam", { "lime", samples = 50 },
    { "saliency", target = { "left", as = "sigmoid" } } }, target = "right", metrics = { { "confidence_change",
    as = "softmax" } }, images = 2, figures = false })
  for _, record in ipairs(maps.records) do
    local target = record.target
    t.equal(target.class, record.method == "saliency" and "left" or "right")
    t.near(target.probability, findings.sigmoid(target.logit), 1e-6)
    t.equal(target.as, record.method == "gradcam" and "logit" or "sigmoid")
  end
  t.fails_like(function() run:explain(model, data.test, { methods = "gradcam", target = "true", images = "all",
    figures = false }) end, "target 'true' needs an image of one finding, but '%d+%.png' has [^\n]*Name a finding: "
    .. "target = ")
  run:report()
  t.ok(files.read(run.dir .. "/report.html"):find("macro average precision", 1, true))
  run:close "finished"
  model:close()
end)

t.test("a training of findings that stops within an epoch goes on to the same numbers", function()
  local silence <close> = muted() -- luacheck: ignore
  local data = made.data()
  local function train(dir, breaks_at)
    local batches, model = 0, made.model(made.names)
    local run = xai.run { name = "within", seed = 5, out = dir }
    local ok, result = pcall(run.fit, run, model, data, { optim = xai.optim.adam { lr = 0.01 }, epochs = 2, batch = 8,
      checkpoint_minutes = 0, loss = function(logits, y, batch)
        batches = batches + (batch.training and 1 or 0)
        if batches == breaks_at then error "stopped" end
        return -(y * torch.log_sigmoid(logits) + (1 - y) * torch.log_sigmoid(-logits)):mean()
      end })
    run:close(ok and "finished" or "failed")
    model:close()
    return ok, result
  end
  local dir, other = t.tmpdir() .. "/a", t.tmpdir() .. "/b"
  local _, whole = train(dir, 0)
  t.equal((train(other, 7)), false) -- 4 batches an epoch: the third of the second
  local resume <close> = setmetatable({}, { __close = function() host.options.resume = nil end })
  host.options.resume = true
  local _, mended = train(other, 0)
  t.equal(mended.weights_sha256, whole.weights_sha256)
  local a, b = files.records(dir .. "/metrics.jsonl"), files.records(other .. "/metrics.jsonl")
  t.equal({ b[2].train_accuracy, b[2].val_auroc, b[2].val_loss },
    { a[2].train_accuracy, a[2].val_auroc, a[2].val_loss })
end)

t.test("one logit is a network of one finding: the probability of ill and of not ill, everywhere", function()
  local silence <close> = muted() -- luacheck: ignore
  local data = made.data { findings = { "left" }, items = made.items(64, function(i) return { left = i % 2 } end) }
  local model = made.model { "left" }
  local run = run_in "binary"
  run:fit(model, data, { optim = xai.optim.adam { lr = 0.01 }, epochs = 3, batch = 8,
    loss = { "bce_with_logits", pos_weight = "balanced" }, best_by = "loss" })
  t.equal(run:evaluate(model, data.test).judged, 1)
  local maps = run:explain(model, data.test,
    { methods = { "gradcam", { "lime", samples = 50 }, "integrated_gradients" },
    target = "left", images = 1, figures = false })
  for _, record in ipairs(maps.records) do
    t.near(record.target.probability, findings.sigmoid(record.target.logit), 1e-6)
  end
  run:close "finished"
  model:close()
end)

-- ---- what is refused ----

t.test("networks, losses and steps that are of one class per image say so", function()
  local silence <close> = muted() -- luacheck: ignore
  local data, sigmoid, softmax = made.data(), made.model(made.names), made.model(made.names, { outputs = "softmax" })
  local classes = xai.dataset.phantom { n_train = 12, n_val = 3, n_test = 3, size_px = 16 }
  local three = made.model(classes.classes)
  local run = run_in "refused"
  local function refused(model, what, more, message)
    local options = { optim = xai.optim.sgd { lr = 0.1 }, epochs = 1 }
    for k, v in pairs(more) do options[k] = v end
    t.fails(function() run:fit(model, what, options) end, message)
  end
  refused(softmax, data, {}, "fit: 'from' has several findings per image, and the model answers one class. Build "
    .. "the model "
    .. "with outputs = \"sigmoid\".")
  refused(three, classes, {}, "fit: the model answers findings (outputs = \"sigmoid\"), and 'phantom' has one "
    .. "class per "
    .. "image. Leave outputs out, or give the reader findings in the place of classes.")
  refused(sigmoid, data, { loss = "cross_entropy" },
    "fit: the loss cross_entropy is of classes that exclude each other "
    .. "(the data have findings). Write loss = \"bce_with_logits\", or leave it out.")
  refused(sigmoid, data, { weight = "balanced" },
    "fit: option 'weight' is about classes that exclude each other (the data "
    .. "have findings). Write loss = { \"bce_with_logits\", pos_weight = \"balanced\" }.")
  refused(sigmoid, data, { loss = { "bce_with_logits", pos_weight = { 1 } } },
    "fit: pos_weight has 1 numbers for 2 findings (left, right).")
  local without = made.data { items = made.items(64, function(i) return { left = i % 2, right = 0 } end) }
  refused(sigmoid, without, {}, "fit: no training image of 'from' is known to be with the finding 'right' (expected "
    .. "some of "
    .. "both). Leave it out of findings, or add images.")
  t.fails(function() require("medxai.nn.predict").check_classes("networks", sigmoid, made.names) end,
    "networks: the model "
    .. "answers several findings per image (outputs = \"sigmoid\"), which this step cannot judge (expected "
    .. "classes that "
    .. "exclude each other). run:evaluate and run:explain do.")
  run:close "finished"
  for _, model in ipairs { sigmoid, softmax, three } do model:close() end
end)
