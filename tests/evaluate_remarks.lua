-- Remarks that an evaluation makes: one answer for every image, no better than the largest class, images of one class
-- only, classes without an image. Certain predictions keep the digits of their loss and their order.
local t = require "t"
local evaluate = require "medxai.steps.evaluate"
local metrics = require "medxai.stats.classification"

-- Remarks on predictions, one letter per image: labels "aab", predictions "aaa".
local function remarks(labels, answers, classes)
  local y, scores = {}, {}
  for i = 1, #labels do
    y[i], scores[i] = labels:byte(i) - 97, {}
    for c = 1, #classes do scores[i][c] = answers:byte(i) - 96 == c and 1 or 0 end
  end
  local result = metrics.classification(y, scores, classes)
  result.intervals = metrics.classification_intervals(y, scores)
  return metrics.remarks(result), result
end

local two = { "healthy", "sick" }

t.test("a network that gives every image the same answer is reported", function()
  t.equal(remarks(("ab"):rep(5), ("a"):rep(10), two), { "the model answers 'healthy' for every one of the 10 images" })
end)

t.test("an accuracy that may equal the largest class's share is reported with its interval", function()
  local list, result = remarks(("aaab"):rep(10), ("aaba"):rep(2) .. ("aaab"):rep(8), two)
  local i = result.intervals.above_largest
  t.ok(i[1] <= 0.15 and i[2] >= 0.15 and i[2] > i[1])
  t.near(result.accuracy, 0.9, 1e-12)
  local worse = remarks(("aaab"):rep(10), ("baab"):rep(8) .. ("aaab"):rep(2), two)
  t.equal(#worse, 1)
  t.ok(worse[1]:find("^accuracy 0.8000 is not shown to be better than that of answering 'healthy' for every "
    .. "image, 0.7500 "
    .. "%(difference %+0.0500, 95 %% interval %-0.%d+ to %+0.%d+%)$"), worse[1])
  t.equal(#list, i[1] > 0 and 0 or 1)
  t.equal(remarks(("ab"):rep(30), ("ab"):rep(30), two), {})
  t.equal(remarks("ab", "ba", two),
    { "accuracy 0.0000 is not shown to be better than that of answering 'healthy' for every image, 0.5000 "
    .. "(difference -0.5000, no interval: fewer than 10 images)" })
  t.equal(remarks("ab", "ab", two), {})
end)

t.test("one class only, and classes without an image, are reported", function()
  t.equal(remarks("aaaa", "aaab", two),
    { "every image is of the class 'healthy': accuracy does not tell whether the model knows it from others" })
  local list = remarks(("ac"):rep(20), ("ac"):rep(20), { "x", "y", "z", "v" })
  t.equal(list, { "no image is of the classes 'y', 'v': their F1 counts as 0 in the macro mean, which is 1.0000 "
    .. "over the classes that are there" })
  t.equal(remarks("", "", two), {})
end)

t.test("certain predictions keep the digits of loss and AUROC", function()
  t.near(require("medxai.stats.logits").cross_entropy({ 40, 0, 0 }, 0) / (2 * math.exp(-40)), 1, 1e-12)
  t.near(require("medxai.stats.logits").cross_entropy({ 40, 0, 0 }, 1), 40 + 2 * math.exp(-40), 1e-12)
  t.near(require("medxai.stats.logits").cross_entropy({ 1, 2, 4 }, 1),
    math.log(math.exp(1) + math.exp(2) + math.exp(4)) - 2, 1e-12)
end)

local experiment = [[
local xai = require "medxai"
local torch = require "medxai.torch"
local run = xai.run { name = "one", seed = 1 }
local data = xai.dataset.phantom { n_train = 0, n_val = 0, n_test = 12, size_px = 32 }
local model = xai.models.squeezenet1_0 { classes = data.classes, weights = "random", head = "torchvision" }
torch.no_grad(function()
  for _, p in ipairs(model:parameters()) do
    if p.name == "classifier.1.bias" then p.tensor:copy_(torch.tensor { SURE[1], SURE[2], SURE[3] }) end
    if p.name == "classifier.1.weight" then p.tensor:mul_(SCALE) end
  end
end)
local result = run:evaluate(model, data.test)
print(("AUROC of nodule %.17g"):format(result.per_class[2].auroc))
run:report()
]]

local function go(dir, sure, scale)
  local text = "local SURE, SCALE = { " .. table.concat(sure, ", ") .. " }, " .. scale .. "\n" .. experiment
  return t.run { t.write(dir .. "/one.lua", text), cwd = dir }
end

t.test("evaluate, the report's first lines and runs show report these remarks", function()
  local dir = t.tmpdir()
  local said = "the model answers 'nodule' for every one of the 12 images"
  local r = go(dir, { 0, 1000, 0 }, 1)
  t.equal(r.code, 0, r.err)
  t.ok(r.out:find("\ntest: 12 images\nnote: " .. said .. "\n", 1, true), r.out)
  t.ok(select(2, r.err:gsub(said, "")) == 2, r.err) -- at once and at the end
  local page = t.read(dir .. "/runs/one/report.html")
  local head = page:match "^(.-)<h2"
  t.ok(head:find("<b>Note:</b> on the test split the model answers &#39;nodule&#39; for every one of the 12 images.",
    1, true)
    or head:find("on the test split " .. said, 1, true), head)
  t.ok(not page:find("warnings\"><b>", 1, true)
    or not page:match("<div class=\"warnings\">(.-)</div>"):find("for every one", 1, true))
  local again = go(dir, { 0, 1000, 0 }, 1)
  t.ok(again.out:find("note: " .. said, 1, true) and again.err:find("not done again", 1, true), again.out)
  local shown = t.run { "runs", "show", "one", cwd = dir }
  t.ok(shown.out:find("images\nnote: " .. said, 1, true), shown.out)
end)

t.test("where every float64 probability is 1 the AUROC is that of the logits", function()
  local dir = t.tmpdir()
  local r = go(dir, { 0, 500, 0 }, 1)
  local scores, is_nodule, ones = {}, {}, 0
  for i, row in ipairs(require("medxai.base.csv").read(dir .. "/runs/one/predictions.csv")) do
    local a, b = tonumber(row.logit_clear), tonumber(row.logit_opacity)
    scores[i] = tonumber(row.logit_nodule) - math.max(a, b) - math.log(1 + math.exp(-math.abs(a - b)))
    is_nodule[i] = row.label == "nodule"
    ones = ones + (tonumber(row.prob_nodule) == 1 and 1 or 0)
  end
  t.equal(ones, 12)
  t.near(tonumber(r.out:match "AUROC of nodule (%S+)"), metrics.auroc(scores, is_nodule), 1e-12)
end)
