-- LIME with a Gaussian process between samples and regression: its arithmetic against the formulas, samples left out in
-- earnest, its rows, answers that are all the same, the error with half the samples, the method and what it refuses.
local t = require "t"
local tiny = require "tinyexplain"
local coalitions = require "medxai.explain.lime_design"
local explain = require "medxai.steps.explain"
local method = require "medxai.explain.methods.lime"
local process = require "medxai.explain.lime_process"
local surrogate = require "medxai.explain.lime_surrogate"
local torch = require "medxai.torch"
local xai = require "medxai"

require("medxai.host").options.quiet = true

local function draw(design, n, count, replicate)
  local key = { seed = 42, purpose = "lime@1", id = "0123456789abcdef", replicate = replicate or 0 }
  return coalitions.draw(design, n, count, key):double()
end

-- A made probability of 12 regions with effects of one, two and three together.
local function answer(z)
  local s = z * 2 - 1
  local a, b, c = s:narrow(1, 0, 4), s:narrow(1, 4, 4), s:narrow(1, 8, 4)
  local y = torch.linspace(-1, 1, 12, { dtype = "float64" }):mul(s):sum({ 1 }, true)
    + (a * b):sum({ 1 }, true) * 0.8 + (b * c):sum({ 1 }, true) * 0.5 + (a * b * c):sum({ 1 }, true) * 0.3
  return torch.sigmoid(y * 0.4):squeeze(1)
end

-- The process' answer at one row by the textbook's formula, with loops; values: less their mean.
local function by_hand(lengths, rows, values, row)
  local function k(a, b)
    local apart = 0
    for j, length in ipairs(lengths) do apart = apart + length * math.abs(a[j] - b[j]) end
    return math.exp(-apart)
  end
  local covariance, cross = {}, {}
  for i in ipairs(rows) do
    covariance[i], cross[i] = {}, k(rows[i], row)
    for j in ipairs(rows) do covariance[i][j] = k(rows[i], rows[j]) + (i == j and 0.1 or 0) end
  end
  local dual = torch.linalg_solve(torch.tensor(covariance, { dtype = "float64" }),
    torch.tensor(values, { dtype = "float64" })):tolist()
  local sum = 0
  for i, v in ipairs(dual) do sum = sum + cross[i] * v end
  return sum
end

local function sigmoid(v) return 1 / (1 + math.exp(-v)) end

t.test("answers are the process' mean by the textbook's formula, for answers and for logits", function()
  local z, rows = draw("plain", 30, 6), process.rows(6, {})
  local line = (z * torch.arange(6, { dtype = "float64" })):sum({ 1 })
  for name, y in pairs { line = line - 3, probability = torch.sigmoid(line - 7) } do
    local fitted = process.fit(z, y, surrogate.weights(z, 0.25), 1)
    local probable = fitted.link.from(torch.zeros { 1 }):item() == 0.5
    t.equal(probable, name == "probability", name)
    local values = probable and y:logit() or y
    local mean = values:mean():item()
    local got, residual, lengths = process.answers(fitted, rows):tolist(), (values - mean):tolist(),
      fitted.lengths:tolist()
    for _, i in ipairs { 1, 17, 64 } do
      local want = by_hand(lengths, z:tolist(), residual, rows[i - 1]:tolist()) + mean
      t.near(got[i], probable and sigmoid(want) or want, 1e-9, name)
    end
  end
end)

t.test("the score is that of samples that are left out in earnest", function()
  local z = draw("plain", 25, 6)
  local y = (z:select(1, 0) * z:select(1, 1) - z:select(1, 2)) * 2 -- no probability
  local w = surrogate.weights(z, 0.25)
  local fitted, rows, mean = process.fit(z, y, w, 1), z:tolist(), y:mean():item()
  local values, weights, missed = (y - mean):tolist(), w:tolist(), 0
  for i = 1, 25 do
    local others, kept = {}, {}
    for j = 1, 25 do
      if j ~= i then others[#others + 1], kept[#kept + 1] = rows[j], values[j] end
    end
    missed = missed + weights[i] * (values[i] - by_hand(fitted.lengths:tolist(), others, kept, rows[i])) ^ 2
  end
  local centered = y - (w * y):sum():item() / w:sum():item()
  t.near(fitted.score, 1 - missed / (w * centered * centered):sum():item(), 1e-9)
  t.ok(fitted.score > 0.5, fitted.score)
end)

t.test("rows are all subsets of up to 14 regions, 16,384 balanced ones of more", function()
  local all = process.rows(5, {})
  t.equal(all.shape, { 32, 5 })
  t.equal((coalitions.distinct(all:to { dtype = "uint8" })):size(0), 32)
  local key = { seed = 42, purpose = "lime.process@1", id = "x" }
  local many = process.rows(15, key)
  t.equal(many.shape, { 16384, 15 })
  t.ok(many:eq(process.rows(15, key)):all():item())
end)

t.test("an answer that is the same everywhere has weights of 0 and no score; one that is not finite has no process",
  function()
    local z, rows = draw("plain", 20, 5), process.rows(5, {})
    local y = torch.full({ 20, 1 }, 0.25, { dtype = "float64" })
    local made = process.stand_in(z, y, { kernel_width = 0.25, alpha = 1 }, rows)
    t.equal({ made.y:min():item(), made.y:max():item(), made.alpha, made.fits[1] }, { 0.25, 0.25, 32 / 20, false })
    y[{ 3, 0 }] = 0 / 0
    t.equal(process.fit(z, y:select(1, 0), surrogate.weights(z, 0.25), 1), nil)
    made = process.stand_in(z, y, { kernel_width = 0.25, alpha = 1 }, rows)
    t.ok(made.y:isnan():all():item(), "NaN stays to be seen")
  end)

local function distance(a, b) return ((a - b):pow(2):sum() / b:pow(2):sum()):sqrt():item() end

t.test("500 balanced samples with the process are nearer than 1,000 plain ones; more are nearer", function()
  local all = process.rows(12, {})
  local truth = surrogate.coefficients(all, answer(all):unsqueeze(1), surrogate.weights(all, 0.25), 4.096)
  local function error_of(design, n, replicate, with)
    local scope <close> = xai.scope()
    local z = draw(design, n, 12, replicate)
    local y, alpha = answer(z):unsqueeze(1), n / 1000
    if with then
      local made = process.stand_in(z, y, { kernel_width = 0.25, alpha = alpha }, all)
      z, y, alpha = made.z, made.y, made.alpha
    end
    return distance(surrogate.coefficients(z, y, surrogate.weights(z, 0.25), alpha), truth)
  end
  local plain, balanced, with = 0, 0, 0
  for r = 1, 4 do
    plain, balanced = plain + error_of("plain", 1000, r) / 4, balanced + error_of("balanced", 200, r) / 4
    with = with + error_of("balanced", 200, r, true) / 4
  end
  t.ok(with < 0.7 * balanced, ("with %.4f, without %.4f"):format(with, balanced))
  t.ok(error_of("balanced", 500, 1, true) < plain, ("1,000 plain: %.4f"):format(plain))
  t.ok(error_of("plain", 1000, 9, true) < 0.5 * with)
end)

-- ---- the method -----------------------------------------------------------------------------------------------------

local function go(options)
  local scope <close> = xai.scope()
  local run = tiny.run(t.tmpdir())
  options.regions = { "grid", rows = 3, columns = 4 }
  local result = explain.run(run, tiny.model(), tiny.split(4),
    { methods = { lime = options }, images = 2, figures = false })
  return result.records, run
end

t.test("the method explains what the process answers, and says how well it does", function()
  local scope <close> = xai.scope()
  local records, run = go { samples = 120, estimator = "process" }
  local ordinary, other = go { samples = 120 }
  local f = records[1].facts
  t.equal({ f.samples, f.evaluated, f.stability_by, ordinary[1].facts.process_score },
    { 120, ordinary[1].facts.evaluated, "resampling" })
  t.ok(f.process_score > 0 and f.process_score <= 1, f.process_score)
  t.ok(f.labels[1].score <= 1 and f.labels[1].score > 0)
  t.near(f.labels[1].prediction, ordinary[1].facts.labels[1].prediction, 0)
  local weights = torch.load_npy(run.dir .. "/" .. records[1].arrays.weights)
  t.equal(weights.shape, { 4, 12 })
  local others = torch.load_npy(other.dir .. "/" .. ordinary[1].arrays.weights)
  t.ok(distance(weights, others) > 1e-6 and distance(weights, others) < 0.5, "as the ordinary ones, and not the same")
end)

t.test("the error by resampling is as it is between real seeds", function()
  local estimated = go { samples = 100, estimator = "process" }
  local seeds = go { samples = 100, estimator = "process", repeats = 4 }
  t.equal(seeds[1].facts.stability_by, "4 repeats")
  local ratio = 0
  for i = 1, 2 do ratio = ratio + estimated[i].facts.spread / seeds[i].facts.spread / 2 end
  t.near(ratio, 1, 0.6)
end)

t.test("what does not go together is refused", function()
  local function check(o)
    o.regions, o.removal, o.samples = "quickshift", "segment_mean", o.samples or 500
    return function() method.check(o) end
  end
  t.fails(check { estimator = "process", stop_error = 0.1 },
    "lime: stop_error is estimated from the ordinary regression. Leave out estimator or stop_error.")
  t.fails(check { estimator = "process", samples = 2001 },
    "lime: estimator = 'process' takes at most 2000 samples (got 2001). Leave it out: it is for few.")
end)
