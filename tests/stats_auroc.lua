-- Areas under ROC curves and accuracies of networks on the same images: the golden values of
-- shared/spec/comparison.md, section 13;
-- several images per patient, several classes, seeds; what cannot be told; false positives under equal networks.
local t = require "t"
local accuracy = require "medxai.stats.accuracy"
local core = require "medxai.core"
local delong = require "medxai.stats.delong"
local metrics = require "medxai.metrics"
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

t.test("DeLong's test gives the golden areas, variance, z and p", function()
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

t.test("several images per patient: Obuchowski's variance is the golden one; one: DeLong's to the last bit", function()
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

t.test("two networks that rank alike are identical: p = 1; one that splits perfectly and a constant have no spread",
  function()
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

t.test("the mean over seeds has the mean of placements", function()
  local pa, pb = delong.placements(a, is_positive), delong.placements(b, is_positive)
  local mean = delong.mean { pa, pb }
  t.near(mean.auc, (pa.auc + pb.auc) / 2, 1e-15)
  t.near(mean.placement[4], (pa.placement[4] + pb.placement[4]) / 2, 1e-15)
  local same = delong.mean { pa, pa, pa }
  t.near(delong.standard_error(same, units.over(12)), delong.standard_error(pa, units.over(12)), 1e-15)
  t.ok(delong.standard_error(mean, units.over(12)) < math.max(delong.standard_error(pa, units.over(12)),
    delong.standard_error(pb, units.over(12))))
end)

t.test("scores that are no numbers, lengths that differ and sides that are empty", function()
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

t.test("the mean over classes and its difference's standard error are golden, over images and over patients", function()
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

t.test("the native area of resamples is Lua's: of the sample, and of a resample written out", function()
  local over = units.over(10, macro_patients)
  local s, macro = over:auroc(labels, first), delong.macro(labels, first)
  t.near({ s.value, s.se }, { macro.auc, delong.macro_standard_error(macro, over) }, 1e-14)
  local drawn = { 1, 3, 3, 4, 6, 7, 5 } -- patients, one twice, patient 2 not at all
  local label, rows, patients, k = {}, {}, {}, 0
  for place, u in ipairs(drawn) do
    for i = 1, 10 do
      if over.unit[i] == u then
        k = k + 1
        label[k], rows[k], patients[k] = labels[i], first[i], "draw " .. place
      end
    end
  end
  local written = delong.macro(label, rows)
  local values, ses = s.replicate(core.resample.new { units = 7, drawn = drawn })
  t.near({ values[1], ses[1] }, { written.auc, delong.macro_standard_error(written, units.over(k, patients)) }, 1e-14)
  local lost = s.replicate(core.resample.new { units = 7, drawn = { 1, 1, 1, 1, 1, 1, 1 } }) -- class 0 alone
  t.ok(lost[1] ~= lost[1])
end)

t.test("one class over seeds: mean area, standard error, one-sided p; what is left of an area in another", function()
  local z = core.rng.stream { seed = 3, purpose = "seeds@1" }:normal(60 * 4)
  local list, truth, seeds, flat, truth_labels = z:tolist(), {}, { {}, {} }, {}, {}
  z:close()
  for i = 1, 60 do
    truth[i], truth_labels[i] = i % 3 == 0, i % 3 == 0 and 1 or 0
    for s = 1, 2 do seeds[s][i] = (truth[i] and 2 or 0) + list[i] + 0.5 * list[60 * s + i] end
    flat[i] = (truth[i] and 0.8 or 0) + list[i] + 0.5 * list[180 + i]
  end
  local over = units.over(60)
  local mean = over:auroc_of(truth, seeds)
  t.near(mean.value, delong.mean({ delong.placements(seeds[1], truth), delong.placements(seeds[2], truth) }).auc, 1e-12)
  local two, rows = over:auroc_of(truth, { seeds[1] }), {}
  for i = 1, 60 do rows[i] = { -seeds[1][i], seeds[1][i] } end
  local both = over:auroc(truth_labels, rows) -- of two classes each area is the other's
  t.near({ two.value, two.se }, { both.value, both.se }, 1e-12)
  t.near(two.se, delong.standard_error(delong.placements(seeds[1], truth), over), 0.05 * two.se)
  local found = over:one_sided(mean, 0.638)
  t.ok(found.p_above < 0.01 and found.p_below > 0.98, found.p_above)
  local weak = over:auroc_of(truth, { flat })
  local left = over:combined({ weak, mean }, function(x, y) return (x - 0.5) / (y - 0.5) end)
  t.near(left.mean, (weak.value - 0.5) / (mean.value - 0.5), 1e-12)
  t.ok(left.low < left.mean and left.mean < left.high and left.high < 1 and left.interval == "percentile bootstrap")
  local own = over:combined({ mean, mean }, function(x, y) return x / y end)
  t.equal({ own.mean, own.low, own.high }, { 1, 1, 1 }, "the same resamples")
  local fewer = units.over(59):ratio { table.unpack(flat, 1, 59) }
  t.fails(function() over:combined({ mean, fewer }, math.min) end,
    "units: combined: statistics over 60 and 59 images.")
  t.equal(units.over(4):combined({ units.over(4):ratio { 1, 2, 3, 4 } }, math.abs).why, "fewer than 10 images")
end)

-- ---- accuracy -------------------------------------------------------------------------------------------------------

t.test("McNemar's exact p and mid-p are the golden ones; nothing discordant is p = 1", function()
  local exact, mid = accuracy.mcnemar(3, 11)
  golden(exact, 0.057373046875)
  golden(mid, 0.03515625)
  t.near({ accuracy.mcnemar(11, 3) }, { exact, mid }, 1e-15)
  t.equal({ accuracy.mcnemar(0, 0) }, { 1, 1 })
  t.near({ accuracy.mcnemar(4, 4) }, { 1, 1 }, 1e-12)
  t.near({ accuracy.mcnemar(0, 5) }, { 2 / 32, 1 / 32 }, 1e-15)
end)

t.test("a difference of accuracies: McNemar with one image per patient, signs of patients' sums with several",
  function()
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

-- Share of studies in which two networks that differ by noise alone are told apart.
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
