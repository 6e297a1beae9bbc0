-- Areas under ROC curves and accuracies of networks on the same images: reference values of shared/spec/comparison.md,
-- section 13; several images per patient, several classes, seeds; undefined cases; false positives for equal networks.
local t = require "t"
local accuracy = require "medxai.stats.accuracy"
local core = require "medxai.core"
local delong = require "medxai.stats.delong"
local distributions = require "medxai.stats.distributions"
local metrics = require "medxai.stats.classification"
local units = require "medxai.stats.units"

local function golden(got, want, what) t.near(got, want, 1e-9 * math.abs(want), what) end

local function named(list)
  local names = {}
  for i, v in ipairs(list) do names[i] = "patient " .. v end
  return names
end

local is_positive = { true, true, true, true, true, false, false, false, false, false, false, false }
local a = { 0.9, 0.8, 0.7, 0.55, 0.4, 0.6, 0.5, 0.4, 0.3, 0.3, 0.2, 0.1 }
local b = { 0.8, 0.45, 0.75, 0.3, 0.6, 0.7, 0.35, 0.5, 0.2, 0.45, 0.1, 0.15 }
local of = named { 1, 1, 2, 3, 3, 1, 2, 4, 4, 5, 6, 6 }

t.test("DeLong's test equals the reference areas, variance, z and p", function()
  local r = delong.difference(delong.placements(a, is_positive), delong.placements(b, is_positive), units.over(12))
  golden(r.a, 9 / 10)
  golden(r.b, 11 / 14)
  golden(r.se ^ 2, 173 / 9800)
  golden(r.z, 0.860165328913)
  golden(r.p, 0.389697913652)
  t.equal({ r.test, r.n, r.units }, { "DeLong", 12, 12 })
  t.near({ r.low, r.high }, { r.mean - 1.959963984540054 * r.se, r.mean + 1.959963984540054 * r.se }, 1e-12)
  t.near({ r.narrow.low, r.narrow.high }, { r.mean - 1.6448536269514722 * r.se, r.mean + 1.6448536269514722 * r.se },
    1e-12)
end)

t.test("several images per patient: Obuchowski's variance; one per patient: DeLong's exactly", function()
  local pa, pb = delong.placements(a, is_positive), delong.placements(b, is_positive)
  local r = delong.difference(pa, pb, units.over(12, of))
  golden(r.se, 0.0793880174173)
  golden(r.p, 0.149985148199)
  t.equal({ r.test, r.units }, { "Obuchowski", 6 })
  local singles = {}
  for i = 1, 12 do singles[i] = "p" .. i end
  local one = delong.difference(pa, pb, units.over(12, singles))
  t.equal({ one.se, one.p, one.test }, { delong.difference(pa, pb, units.over(12)).se, delong.difference(pa, pb,
    units.over(12)).p, "DeLong" })
end)

t.test("two networks with equal ranks have p = 1; perfect and constant scores have no spread", function()
  local twice = {}
  for i, s in ipairs(a) do twice[i] = 2 * s + 1 end
  local r = delong.difference(delong.placements(a, is_positive), delong.placements(twice, is_positive), units.over(12))
  t.equal({ r.status, r.p, r.mean, r.low, r.high, r.se }, { "identical", 1, 0, 0, 0, 0 })
  local perfect, flat = {}, {}
  for i = 1, 12 do perfect[i], flat[i] = i <= 5 and 1 or 0, 0.5 end
  local d = delong.difference(delong.placements(perfect, is_positive), delong.placements(flat, is_positive),
    units.over(12))
  t.equal({ d.mean, d.why, d.status }, { 0.5, "no spread" })
  t.ok(d.p ~= d.p and d.low ~= d.low)
end)

t.test("the mean over seeds has the mean of the placements", function()
  local pa, pb = delong.placements(a, is_positive), delong.placements(b, is_positive)
  local mean = delong.mean { pa, pb }
  t.near(mean.auc, (pa.auc + pb.auc) / 2, 1e-15)
  t.near(mean.placement[4], (pa.placement[4] + pb.placement[4]) / 2, 1e-15)
  local same = delong.mean { pa, pa, pa }
  t.near(delong.standard_error(same, units.over(12)), delong.standard_error(pa, units.over(12)), 1e-15)
  t.ok(delong.standard_error(mean, units.over(12)) < math.max(delong.standard_error(pa, units.over(12)),
    delong.standard_error(pb, units.over(12))))
end)

t.test("NaN scores, different lengths and empty classes are handled", function()
  t.fails(function() delong.placements({ 1, 0 / 0 }, { true, false }) end,
    "delong: score 2 is not a number. Leave the image out of both networks.")
  t.fails(function() delong.placements({ 1 }, { true, false }) end,
    "delong: scores and labels differ in length (1 and 2).")
  t.fails(function() delong.standard_error(delong.placements(a, is_positive), units.over(11)) end,
    "delong: 12 images and units of 11.")
  local one = delong.placements({ 1, 2 }, { true, true })
  t.ok(one.auc ~= one.auc)
  local few = delong.difference(delong.placements({ 3, 1, 2 }, { true, false, false }), delong.placements({ 1, 3, 2 },
    { true, false, false }), units.over(3))
  t.equal(few.why, "a side has fewer than two images")
  t.ok(few.p ~= few.p)
end)

-- ---- several classes ------------------------------------------------------------------------------------------------

local labels = { 0, 0, 0, 1, 1, 1, 2, 2, 2, 1 }
local first = { { 0.7, 0.2, 0.1 }, { 0.5, 0.3, 0.2 }, { 0.3, 0.4, 0.3 }, { 0.2, 0.6, 0.2 }, { 0.3, 0.5, 0.2 }, { 0.4,
  0.35, 0.25 },
  { 0.1, 0.2, 0.7 }, { 0.2, 0.3, 0.5 }, { 0.3, 0.25, 0.45 }, { 0.1, 0.7, 0.2 } }
local second = { { 0.6, 0.3, 0.1 }, { 0.4, 0.4, 0.2 }, { 0.45, 0.3, 0.25 }, { 0.3, 0.5, 0.2 }, { 0.25, 0.35, 0.4 },
  { 0.2, 0.55, 0.25 },
  { 0.2, 0.2, 0.6 }, { 0.35, 0.3, 0.35 }, { 0.15, 0.25, 0.6 }, { 0.3, 0.45, 0.25 } }
local macro_patients = named { 1, 1, 2, 3, 3, 4, 5, 6, 6, 7 }

t.test("the mean over classes and its difference's standard error equal the reference values", function()
  local ma, mb = delong.macro(labels, first), delong.macro(labels, second)
  golden(ma.auc, 0.954365079365)
  golden(mb.auc, 0.970238095238)
  golden(delong.macro_difference(ma, mb, units.over(10)).se, 0.0633007486693)
  golden(delong.macro_difference(ma, mb, units.over(10, macro_patients)).se, 0.0667753951051)
  t.equal(delong.macro_difference(ma, ma, units.over(10)).status, "identical")
  t.near(metrics.classification(labels, first, { "a", "b", "c" }).auroc_macro, ma.auc, 1e-15)
  local mean = delong.macro_mean { ma, ma }
  t.near({ mean.auc, delong.macro_standard_error(mean, units.over(10)) }, { ma.auc, delong.macro_standard_error(ma,
    units.over(10)) }, 1e-15)
  local absent = delong.macro({ 0, 0, 1, 1 }, { { 1, 0, 0 }, { 0, 1, 0 }, { 0, 1, 0 }, { 0, 0, 1 } })
  t.ok(absent.auc ~= absent.auc)
  t.equal(delong.macro_difference(absent, absent, units.over(4)).why, "a class has no image, or all of them")
end)

-- ---- one area -------------------------------------------------------------------------------------------------------

t.test("the interval of an area: log odds by hand; an area of 1 has a bound; too little gives a reason", function()
  local over, p = units.over(12), delong.placements(a, is_positive)
  local r = delong.area(p, over)
  local half = distributions.t_quantile(0.95, 11) * r.se / (0.9 * 0.1)
  local odds = math.log(9)
  t.near({ r.low, r.high }, { 1 / (1 + math.exp(half - odds)), 1 / (1 + math.exp(-half - odds)) }, 1e-12)
  t.equal({ r.interval, r.units, r.note }, { "delta-method", 12, "image-level, patients unknown" })
  local perfect, turned = {}, {}
  for i = 1, 12 do perfect[i], turned[i] = i <= 5 and 2 or 1, i <= 5 and 1 or 2 end
  local one, none = delong.area(delong.placements(perfect, is_positive), over), delong.area(delong.placements(turned,
    is_positive), over)
  t.near({ one.low, one.high, none.low, none.high }, { 0.025 ^ (1 / 5), 1, 0, 1 - 0.025 ^ (1 / 5) }, 1e-12)
  t.near(delong.macro_area(delong.macro({ 0, 0, 0, 0, 0, 0, 1, 1, 1, 1, 1, 1 }, { { 1, 0 }, { 1, 0 }, { 1, 0 }, { 1,
    0 }, { 1, 0 }, { 1, 0 },
    { 0, 1 }, { 0, 1 }, { 0, 1 }, { 0, 1 }, { 0, 1 }, { 0, 1 } }), over).low, 0.025 ^ (1 / 6), 1e-12)
  t.equal(delong.area(p, units.over(12, of)).why, "fewer than 10 patients")
  t.equal(delong.area(delong.placements(a, { true, false, false, false, false, false, false, false, false, false,
    false, false }), over).why,
    "a side has fewer than two images")
  local flat = {}
  for i = 1, 12 do flat[i] = 1 end
  t.equal(delong.area(delong.placements(flat, is_positive), over).why, "no spread")
end)

t.test("one-sided p-values of an area against a threshold: by hand, mirrored, bounded where the area is 1", function()
  local over, p = units.over(12), delong.placements(a, is_positive)
  local r = delong.one_sided(p, over, 0.638)
  local z = (math.log(9) - math.log(0.638 / 0.362)) / (r.se / 0.09)
  t.near({ r.p_above, r.p_below }, { distributions.normal_upper(z), distributions.normal_upper(-z) }, 1e-12)
  local negative = {}
  for i, v in ipairs(a) do negative[i] = -v end
  local m = delong.one_sided(delong.placements(negative, is_positive), over, 0.362)
  t.near({ m.p_above, m.p_below }, { r.p_below, r.p_above }, 1e-12)
  local perfect = {}
  for i = 1, 12 do perfect[i] = i <= 5 and 2 or 1 end
  local one = delong.one_sided(delong.placements(perfect, is_positive), over, 0.638)
  t.near({ one.p_above, one.p_below }, { 0.638 ^ 5, 1 }, 1e-12)
  local none = delong.one_sided(delong.placements({ 1, 1 }, { true, true }), units.over(2), 0.5)
  t.ok(none.p_above ~= none.p_above and none.why == "a class has no image, or all of them")
end)

t.test("share of an area explained by another: itself 1, a constant 0; jackknife standard error", function()
  local z = core.rng.stream { seed = 3, purpose = "left@1" }:normal(60 * 3)
  local list, truth, whole, weak, flat = z:tolist(), {}, {}, {}, {}
  z:close()
  for i = 1, 60 do
    truth[i], flat[i] = i % 3 == 0, 0
    whole[i] = (truth[i] and 2 or 0) + list[i] + 0.5 * list[60 + i]
    weak[i] = (truth[i] and 0.8 or 0) + list[i] + 0.5 * list[120 + i]
  end
  local over, pa, pb = units.over(60), delong.placements(whole, truth), delong.placements(weak, truth)
  local r = delong.retained(pa, pb, over)
  t.near(r.mean, (pb.auc - 0.5) / (pa.auc - 0.5), 1e-12)
  t.ok(r.low < r.mean and r.mean < r.high)
  local leave, mean, squares = {}, 0.0, 0.0
  for k = 1, 60 do
    local l, x, y = {}, {}, {}
    for i = 1, 60 do
      if i ~= k then l[#l + 1], x[#x + 1], y[#y + 1] = truth[i], whole[i], weak[i] end
    end
    leave[k] = (delong.placements(y, l).auc - 0.5) / (delong.placements(x, l).auc - 0.5)
    mean = mean + leave[k] / 60
  end
  for _, v in ipairs(leave) do squares = squares + (v - mean) ^ 2 end
  t.near(r.se, math.sqrt(59 / 60 * squares), 0.05 * r.se)
  local own = delong.retained(pa, pa, over)
  t.near({ own.mean, own.low, own.high }, { 1, 1, 1 }, 1e-12)
  t.near(delong.retained(pa, delong.placements(flat, truth), over).mean, 0, 1e-12)
  t.equal(delong.retained(delong.placements(flat, truth), pa, over).why, "the whole tells nothing")
  t.equal(delong.retained(delong.placements(a, is_positive), delong.placements(b, is_positive), units.over(12,
    of)).why, "fewer than 10 patients")
end)

-- Over samples of m positives and twice as many negatives with a true area: how often the 95 % interval holds it, and
-- how often it is found above and below the threshold.
local function areas(samples, m, area, seed)
  local held, found, not_found, shift = 0, 0, 0, distributions.normal_quantile(area) * math.sqrt(2)
  for s = 1, samples do
    local z = core.rng.stream { seed = seed, purpose = "areas@1", id = m .. " " .. area, replicate = s }:normal(3 * m)
    local list, truth = z:tolist(), {}
    z:close()
    for i = 1, 3 * m do
      truth[i] = i <= m
      if truth[i] then list[i] = list[i] + shift end
    end
    local p, over = delong.placements(list, truth), units.over(3 * m)
    local r, one = delong.area(p, over), delong.one_sided(p, over, 0.638)
    held = held + (r.low <= area and area <= r.high and 1 or 0)
    found, not_found = found + (one.p_above <= 0.05 and 1 or 0), not_found + (one.p_below <= 0.05 and 1 or 0)
  end
  return held / samples, found / samples, not_found / samples
end

t.test("intervals of an area cover it and one-sided tests keep their level, with 15 positives", function()
  local held, found, not_found = areas(400, 15, 0.638, 1)
  t.ok(held >= 0.92 and held <= 0.99, held) -- 0.95 within three standard errors of 0.011
  t.ok(found <= 0.083 and not_found <= 0.083, found .. " " .. not_found)
  local _, strong = areas(200, 15, 0.94, 1)
  t.ok(strong >= 0.95, strong)
end)

t.long("areas near 1 and with few positives: coverage, size and power", function()
  for _, case in ipairs { { 5, 0.638 }, { 10, 0.638 }, { 10, 0.85 }, { 10, 0.94 }, { 15, 0.5 }, { 32, 0.98 }, { 41,
    0.5 }, { 50, 0.75 } } do
    local held, found, not_found = areas(1500, case[1], case[2], 2)
    print(string.format("      %d positives, area %.3f: interval holds it %.3f, found %.3f, not found %.3f", case[1],
      case[2], held, found, not_found))
    t.ok(held >= 0.92, held)
    if case[2] == 0.638 then t.ok(found <= 0.06 and not_found <= 0.06) end -- 0.05 and 1.8 standard errors
  end
end)

-- ---- accuracy -------------------------------------------------------------------------------------------------------

t.test("McNemar's exact p and mid-p equal the reference values; no discordant pair is p = 1", function()
  local exact, mid = accuracy.mcnemar(3, 11)
  golden(exact, 0.057373046875)
  golden(mid, 0.03515625)
  t.near({ accuracy.mcnemar(11, 3) }, { exact, mid }, 1e-15)
  t.equal({ accuracy.mcnemar(0, 0) }, { 1, 1 })
  t.near({ accuracy.mcnemar(4, 4) }, { 1, 1 }, 1e-12)
  t.near({ accuracy.mcnemar(0, 5) }, { 2 / 32, 1 / 32 }, 1e-15)
end)

t.test("differences of accuracies: McNemar for one image per patient, random signs for several", function()
  local x, y, patients = {}, {}, {}
  for i = 1, 40 do x[i], y[i], patients[i] = i <= 35 and 1 or 0, (i <= 24 or i > 37) and 1 or 0, "p" .. (i + 1) // 2 end
  local r = accuracy.difference(units.over(40), x, y)
  t.equal({ r.test, r.n }, { "McNemar", 40 })
  t.near({ r.mean, r.p, r.mid_p }, { 8 / 40, (accuracy.mcnemar(11, 3)), (select(2, accuracy.mcnemar(11, 3))) }, 1e-15)
  t.ok(r.low < r.mean and r.mean < r.high)
  local c = accuracy.difference(units.over(40, patients), x, y)
  t.equal({ c.test, c.mid_p }, { "random signs" })
  t.ok(c.p > r.p, "images of a patient that agree tell less")
  t.equal(accuracy.difference(units.over(40), x, x).status, "identical")
  t.fails(function() accuracy.difference(units.over(1), { 0.5 }, { 1 }) end,
    "accuracy: image 1 is 0.5 and 1 (expected 1 for right, 0 for wrong).")
end)

-- ---- equal networks -------------------------------------------------------------------------------------------------

-- Share of studies in which two networks that differ only by noise are told apart.
local function false_positives(studies, positives, negatives, seed)
  local found = 0
  for s = 1, studies do
    local n = positives + negatives
    local z = core.rng.stream { seed = seed, purpose = "null@1", replicate = s }:normal(3 * n)
    local list, truth, x, y = z:tolist(), {}, {}, {}
    z:close()
    for i = 1, n do
      truth[i] = i <= positives
      local signal = list[i] + (truth[i] and 1.5 or 0)
      x[i], y[i] = signal + 0.7 * list[n + i], signal + 0.7 * list[2 * n + i]
    end
    if delong.difference(delong.placements(x, truth), delong.placements(y, truth),
      units.over(n)).p <= 0.05 then found = found + 1 end
  end
  return found / studies
end

t.test("equal networks are told apart in at most 0.08 of 400 studies with 15 positives", function()
  local share = false_positives(400, 15, 30, 1)
  t.ok(share <= 0.083, "got " .. share) -- 0.05 and three standard errors of 0.011
end)

t.long("equal networks over 2,000 studies, 15 and 60 positives: 0.05 within three standard errors, or fewer", function()
  for _, m in ipairs { 15, 60 } do
    local share = false_positives(2000, m, 2 * m, 2)
    print(string.format("      %d positives: %.4f", m, share))
    t.ok(share <= 0.05 + 3 * 0.0049, share)
  end
end)
