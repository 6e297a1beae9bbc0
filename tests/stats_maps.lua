-- Numbers about maps (similarity, persistence, complexity, faithfulness, readers): reference values of
-- shared/spec/comparison.md, section 13, and cases by hand.
local t = require "t"
local complexity = require "medxai.stats.complexity"
local faithfulness = require "medxai.stats.faithfulness"
local persistence = require "medxai.stats.persistence"
local readers = require "medxai.stats.readers"
local similarity = require "medxai.stats.similarity"
local units = require "medxai.stats.units"

local nan = 0 / 0

local function golden(got, want, what) t.near(got, want, 1e-9 * math.abs(want), what) end

-- ---- similarity -----------------------------------------------------------------------------------------------------

t.test("Spearman and tau-b equal the reference values; constant maps and NaN have none", function()
  local a, b = { 0, 0, 1, 2, 3, 3, 5, 4, 0 }, { 0, 1, 1, 2, 2, 4, 6, 3, 0 }
  golden(similarity.spearman(a, b), 0.935379585202)
  golden(similarity.tau_b(a, b), 0.861640436855)
  t.equal(similarity.ranks { 3, 1, 3, 2 }, { 3.5, 1, 3.5, 2 })
  t.equal({ similarity.spearman({ 1, 1 }, { 1, 2 }), similarity.tau_b({ 1, 2 }, { 1, 1 }), similarity.spearman({ 1,
    nan }, { 1, 2 }) }, {})
  t.equal({ similarity.pearson({ 0.1, 0.1, 0.1 }, { 1, 2, 3 }), similarity.pearson({ 1 }, { 1 }),
    similarity.tau_b({ nan, 1 }, { 1, 2 }) }, {})
  t.near(similarity.pearson({ 1e8 + 1, 1e8 + 2, 1e8 + 3 }, { 1, 2, 3 }), 1, 1e-12)
  t.fails(function() similarity.spearman({ 1 }, { 1, 2 }) end,
    "similarity: spearman: the lists differ in length (1 and 2).")
end)

local function square(size, f)
  local map = {}
  for i = 0, size - 1 do
    for j = 0, size - 1 do map[#map + 1] = f(i, j) end
  end
  return map
end

t.test("SSIM equals the reference value; disjoint squares are similar by SSIM and not by Spearman", function()
  local a = square(16, function(i, j) return (3 * i + 5 * j) % 16 / 15 end)
  local b = square(16, function(i, j) return (5 * i + 3 * j + 1) % 16 / 15 end)
  golden(similarity.ssim(a, b, 16, 16), 0.0567825213323)
  t.near(similarity.ssim(a, a, 16, 16), 1, 1e-12)
  local function at(k) return square(16, function(i,
    j) return (i == k or i == k + 1) and (j == k or j == k + 1) and 1 or 0 end) end
  golden(similarity.ssim(at(2), at(12), 16, 16), 0.680644801)
  t.near(similarity.spearman(at(2), at(12)), -0.015873, 5e-7)
  t.near(similarity.ssim(square(16, function(i) return i / 15 end), square(16, function(_, j) return j / 15 end), 16,
    16),
    similarity.ssim(square(16, function(_, j) return j / 15 end), square(16, function(i) return i / 15 end), 16, 16),
      1e-15)
  a[1] = nan
  t.equal(similarity.ssim(a, b, 16, 16), nil)
  t.fails(function() similarity.ssim({ 1 }, { 1 }, 1, 1) end,
    "similarity: ssim: 1 numbers are no map of 1 x 1 (expected height x width, sides of 11 or more).")
end)

t.test("overlap of the top tenth: itself 1, disjoint 0, random about 0.053; ties are shared", function()
  local a, b, c = {}, {}, {}
  for i = 1, 100 do a[i], b[i], c[i] = i, 101 - i, i % 10 == 0 and 1 or 0 end
  t.equal({ similarity.top_overlap(a, a), similarity.top_overlap(a, b), similarity.top_overlap(c, c) }, { 1, 0, 1 })
  t.near(similarity.top_overlap(a, c), 1 / 19, 1e-12) -- one cell of ten is in both
  local sparse = {}
  for i = 1, 100 do sparse[i] = i == 1 and 1 or 0 end -- one cell, and nine places for 99 that tie
  local other = { table.unpack(sparse) }
  other[1], other[50] = 0, 1
  local both = 98 * (9 / 99) ^ 2 + 2 * 9 / 99
  t.near(similarity.top_overlap(sparse, other), both / (20 - both), 1e-12)
  t.equal({ similarity.top_overlap({ 1, 1 }, { 1, 2 }), similarity.top_overlap({ 1, nan }, { 1, 2 }) }, {})
end)

t.test("agreement beyond strangers has an interval; it is 0 where strangers agree as much", function()
  local same, strangers, of = {}, {}, {}
  for i = 1, 40 do
    same[i], strangers[i], of[i] = 0.6 + 0.1 * math.sin(i), 0.2 + 0.1 * math.cos(2 * i), "p" .. (i + 1) // 2
  end
  local over = units.over(40, of)
  local r = similarity.agreement(over, same, strangers)
  local m, m0 = over:ratio(same).value, over:ratio(strangers).value
  t.near({ r.mean, r.r, r.r0 }, { (m - m0) / (1 - m0), m, m0 }, 1e-12)
  t.ok(r.low < r.mean and r.mean < r.high and r.units == 20)
  -- the standard error by the jackknife over patients, which needs no derivative
  local leave = {}
  for p = 1, 20 do
    local s, s0, n = 0, 0, 0
    for i = 1, 40 do
      if over.unit[i] ~= p then s, s0, n = s + same[i], s0 + strangers[i], n + 1 end
    end
    leave[p] = (s - s0) / (n - s0)
  end
  local mean, squares = 0, 0
  for _, v in ipairs(leave) do mean = mean + v / 20 end
  for _, v in ipairs(leave) do squares = squares + (v - mean) ^ 2 end
  t.near(r.se, math.sqrt(19 / 20 * squares), 0.05 * r.se)
  t.near(similarity.agreement(over, same, same).mean, 0, 1e-12)
  for i = 1, 40 do strangers[i] = 0.95 end
  local one = similarity.agreement(over, same, strangers)
  t.ok(one.mean ~= one.mean and one.r0 > 0.9)
  t.equal(one.why, "maps of different patients agree above 0.9")
  for i = 1, 40 do strangers[i] = nan end
  t.equal(similarity.agreement(over, same, strangers).why, "undefined")
end)

t.test("average linkage by hand", function()
  local joins = similarity.linkage { { 0, 0.2, 0.9, 0.7 }, { 0.2, 0, 0.8, 0.6 }, { 0.9, 0.8, 0, 0.3 }, { 0.7, 0.6, 0.3,
    0 } }
  t.equal({ joins[1].a, joins[1].b, joins[1].height, joins[1].size }, { 1, 2, 0.2, 2 })
  t.equal({ joins[2].a, joins[2].b, joins[2].height, joins[2].size }, { 3, 4, 0.3, 2 })
  t.equal({ joins[3].a, joins[3].b, joins[3].size }, { 5, 6, 4 })
  t.near(joins[3].height, 0.75, 1e-12)
  t.fails(function() similarity.linkage { { 0, nan }, { nan, 0 } } end,
    "similarity: linkage: the distance of 1 and 2 is undefined. Leave one of them out.")
  t.equal(similarity.linkage { { 0 } }, {})
end)

-- ---- persistence ----------------------------------------------------------------------------------------------------

t.test("persistence equals the reference value; stages below the strangers do not compensate", function()
  golden(persistence.value({ 0.9, 0.5, 0.1 }, 0.2), 0.416666666667)
end)

-- Similarities of n images at stages of given means, five draws each.
local function cascade(means, n, spread)
  local stages = {}
  for k, m in ipairs(means) do
    stages[k] = {}
    for d = 1, 5 do
      stages[k][d] = {}
      for i = 1, n do stages[k][d][i] = m + spread * math.sin(7 * i + 13 * d + 29 * k) end
    end
  end
  return stages
end

t.test("persistence over patients and draws: interval, undefined maps, one map for all", function()
  local over, stranger = units.over(48), {}
  for i = 1, 48 do stranger[i] = 0.2 + 0.05 * math.cos(i) end
  local stages = cascade({ 0.9, 0.5, 0.1 }, 48, 0.05)
  local r = persistence.of(over, stages, stranger)
  t.near(r.mean, 0.4167, 0.01)
  t.ok(r.low < r.mean and r.mean < r.high and r.high - r.low < 0.05)
  t.equal({ #r.profile, r.interval, r.units }, { 3, "percentile bootstrap", 48 })
  t.ok(r.profile[3] < 0, "the profile keeps what the mean cuts")
  stages[1][2][7], stages[2][1][9] = nan, nan
  t.near(persistence.of(over, stages, stranger).mean, r.mean, 0.005)
  t.equal(persistence.of(over, stages, stranger), persistence.of(units.over(48), stages, stranger)) -- the same draws
  -- draws that differ widen the interval; an interval over patients alone would not show it
  local apart = cascade({ 0.5, 0.5, 0.5 }, 48, 0.001)
  for k = 1, 3 do
    for d = 1, 5 do
      for i = 1, 48 do apart[k][d][i] = apart[k][d][i] + 0.1 * (d - 3) end
    end
  end
  local wide = persistence.of(over, apart, stranger)
  t.ok(wide.high - wide.low > 0.15, wide.high - wide.low)
  for i = 1, 48 do stranger[i] = 0.92 end
  local one = persistence.of(over, stages, stranger)
  t.ok(one.mean ~= one.mean)
  t.equal(one.why, "maps of different patients agree above 0.9")
  t.fails(function() persistence.of(over, { { { 1 } } }, stranger) end,
    "persistence: stage 1, draw 1 has 1 values (expected 48, one per image).")
  local few, some = units.over(9), {}
  for i = 1, 9 do some[i] = 0.2 end
  t.equal(persistence.of(few, cascade({ 0.5 }, 9, 0.1), some).why, "fewer than 10 images")
end)

-- Share of studies of n patients whose interval lies wholly below and wholly above the true persistence. Stages fall
-- evenly from `first` to the strangers' 0.2; draws have a deviation of 0.1 by the weights, images of 0.15.
local function misses(studies, n, first, seed)
  local core, below, above = require "medxai.core", 0, 0
  local truth = {}
  for k = 1, 6 do truth[k] = first + (0.2 - first) * (k - 1) / 5 end
  local true_value = persistence.value(truth, 0.2)
  for s = 1, studies do
    local z = core.rng.stream { seed = seed, purpose = "cascade@1", replicate = s }:normal(n * 37 + 30)
    local list, stages, stranger, at = z:tolist(), {}, {}, 30
    z:close()
    for k = 1, 6 do
      stages[k] = {}
      for d = 1, 5 do
        stages[k][d] = {}
        for i = 1, n do stages[k][d][i] = truth[k] + 0.1 * list[5 * (k - 1) + d] + 0.15 * list[at + i] end
        at = at + n
      end
    end
    for i = 1, n do stranger[i] = 0.2 + 0.15 * list[at + i] end
    local r = persistence.of(units.over(n, nil, { level = 0.9, resamples = 999, id = tostring(s) }), stages, stranger)
    if r.high < true_value then below = below + 1 elseif r.low > true_value then above = above + 1 end
  end
  return below / studies, above / studies, true_value
end

t.test("persistence: 90 % intervals lie wrongly below or above the truth in at most 0.15 of 40 studies each", function()
  local below, above = misses(40, 24, 0.5, 1)
  t.ok(below <= 0.15 and above <= 0.15, below .. " " .. above) -- 0.05 and three standard errors of 0.034
end)

t.long("persistence near its threshold over 300 studies of 48 patients", function()
  local below, above, truth = misses(300, 48, 0.6, 2)
  print(string.format("      true %.3f: interval below in %.3f, above in %.3f (nominal 0.05 each)", truth, below,
    above))
  -- more above than below: max(0, .) of the last stage, at the strangers' level, is biased upward
  t.ok(below <= 0.10 and above <= 0.16, below .. " " .. above)
end)

t.test("check `labels`: (p - b) / (t - b) with an interval; none where twins agree like strangers", function()
  local over, p, twin, b = units.over(40), {}, {}, {}
  for i = 1, 40 do p[i], twin[i], b[i] = 0.4 + 0.1 * math.sin(i), 0.6 + 0.1 * math.cos(i),
    0.2 + 0.05 * math.sin(2 * i) end
  local r = persistence.labels(over, p, twin, b)
  local mp, mt, mb = over:ratio(p).value, over:ratio(twin).value, over:ratio(b).value
  t.near(r.mean, (mp - mb) / (mt - mb), 1e-12)
  t.ok(r.low < r.mean and r.mean < r.high)
  local leave, mean, squares = {}, 0, 0
  for k = 1, 40 do
    leave[k] = ((40 * mp - p[k]) - (40 * mb - b[k])) / ((40 * mt - twin[k]) - (40 * mb - b[k]))
    mean = mean + leave[k] / 40
  end
  for _, v in ipairs(leave) do squares = squares + (v - mean) ^ 2 end
  t.near(r.se, math.sqrt(39 / 40 * squares), 0.05 * r.se)
  t.equal(persistence.labels(over, p, b, b).why, "twins agree hardly more than strangers")
end)

-- ---- complexity -----------------------------------------------------------------------------------------------------

t.test("Gini, entropy and effective area equal the reference values, also for extreme maps", function()
  local map = { 0, 1, 2, 3, 4, 10 }
  golden(complexity.gini(map), 1 / 2)
  golden(complexity.entropy(map), 0.744002929172)
  golden(complexity.effective_area(map), 1 / 6)
  t.near({ complexity.gini { 1, 1, 1, 1 }, complexity.entropy { 2, 2, 2, 2 }, complexity.effective_area { 3, 3, 3,
    3 } }, { 0, 1, 0.5 }, 1e-12)
  t.near({ complexity.gini { 0, 0, 0, 5 }, complexity.entropy { 0, -3, 0, 5 }, complexity.effective_area { 0, 0, 0,
    5 } }, { 0.75, 0, 0.25 }, 1e-12)
  t.equal({ complexity.gini { 0, -1 }, complexity.entropy { 0, 0 }, complexity.effective_area { nan, 1 } }, {})
  t.equal(map, { 0, 1, 2, 3, 4, 10 }, "the caller's map stays as it is")
end)

-- ---- faithfulness ---------------------------------------------------------------------------------------------------

t.test("faithfulness correlation and estimate equal the reference values; constants have none", function()
  local attribution = { 3, 1, 0, -1, 2 }
  local sets = { { 1, 2 }, { 3, 4 }, { 1, 5 }, { 2, 4 }, { 4, 5 }, { 1, 3 } }
  t.equal(faithfulness.sums(attribution, sets), { 4, -1, 5, 0, 1, 3 })
  golden(faithfulness.correlation(faithfulness.sums(attribution, sets), { 0.30, 0.02, 0.42, -0.05, 0.08, 0.25 }),
    0.963635356274)
  golden(faithfulness.correlation(attribution, { 0.2, 0.1, 0.01, -0.03, 0.12 }), 0.986283169794)
  t.equal({ faithfulness.correlation({ 1, 1 }, { 1, 2 }), faithfulness.correlation({ 1, 2 }, { 3, 3 }) }, {})
  t.fails(function() faithfulness.sums({ 1 }, { { 1 }, { 2 } }) end, "faithfulness: set 2 names region 2 of 1.")
end)

t.test("infidelity is the golden one; the exact gradient at any scale is 0, an inverted map and one of nothing are 1",
  function()
  local w, a, perturbations = { 2, -1, 3 }, { 1, -1, 2 }, { { 0.1, 0, 0 }, { 0, 0.2, 0 }, { 0, 0, 0.1 }, { 0.1, -0.1,
    0.2 } }
  local function of(v)
    local list = {}
    for i, p in ipairs(perturbations) do list[i] = v[1] * p[1] + v[2] * p[2] + v[3] * p[3] end
    return list
  end
  local value, parts = faithfulness.infidelity(of(a), of(w))
  golden(value, 3 / 245)
  golden(parts.raw, 11 / 400)
  golden(parts.scale, 22 / 15)
  golden(parts.scaled, 3 / 1000)
  t.near(faithfulness.infidelity(of { 200, -100, 300 }, of(w)), 0, 1e-12)
  t.near(faithfulness.infidelity(of { -2, 1, -3 }, of(w)), 1, 1e-12)
  t.equal({ faithfulness.infidelity({ 0, 0 }, { 1, 2 }), faithfulness.infidelity({ 1, 2 }, { 0, 0 }) }, {})
end)

t.test("sensitivity and Lipschitz equal the reference values; a zero map has none", function()
  local x, steps, maps, distances = { 1, 2 }, { { 0.1, 0 }, { 0, -0.1 }, { 0.1, 0.1 }, { -0.05, 0.1 } }, {}, {}
  for i, d in ipairs(steps) do
    maps[i], distances[i] = { (x[1] + d[1]) ^ 2, (x[2] + d[2]) ^ 2 }, math.sqrt(d[1] ^ 2 + d[2] ^ 2)
  end
  local most, steepest = faithfulness.sensitivity({ 1, 4 }, maps, distances)
  golden(most, 0.111724450955)
  golden(steepest, 0.945888937642)
  golden(steepest * math.sqrt(17), 3.9) -- before the division by the map's norm
  t.equal({ faithfulness.sensitivity({ 0, 0 }, maps, distances) }, {})
  t.near(faithfulness.sensitivity({ 1, 4 }, { { 1, 4 } }, { 0.1 }), 0, 1e-15)
  t.fails(function() faithfulness.sensitivity({ 1 }, maps, distances) end,
    "faithfulness: sensitivity: map 1 has 2 cells (expected 1).")
end)

t.test("relevance rank accuracy equals the reference value; ties share places; an empty mask has none", function()
  local map = { 0.1, 0.9, 0.3, 0.8, 0.2, 0.7, 0.05, 0.6, -0.4 }
  local mask = { 0, 1, 0, 1, 0, 0, 0, 0, 1 }
  golden(faithfulness.rank_accuracy(map, mask), 2 / 3)
  t.near(faithfulness.rank_accuracy({ 1, 0, 0, 0 }, { true, true, false, false }), (1 + 1 / 3) / 2, 1e-12)
  -- a flat map: the mask's share
  t.near(faithfulness.rank_accuracy({ 5, 5, 5, 5 }, { true, false, false, false }), 0.25, 1e-12)
  t.equal({ faithfulness.rank_accuracy({ 1, 2 }, { 0, 0 }), faithfulness.rank_accuracy({ nan, 2 }, { 1, 0 }) }, {})
end)

t.test("energy inside and average precision equal the reference values", function()
  local torch = require "medxai.torch"
  local scope <close> = require("medxai.core").memory.scope()
  local map = torch.tensor({ { 0.1, 0.9, 0.3 }, { 0.8, 0.2, 0.7 }, { 0.05, 0.6, -0.4 } }, { dtype = "float64" })
  local ctx = { mask = torch.tensor({ { 0, 1, 0 }, { 1, 0, 0 }, { 0, 0, 1 } }, { dtype = "bool" }) }
  local energy = require("medxai.score.metrics.energy_inside").measure
  golden((energy(map, ctx)), 0.465753424658) -- of signed sums it would be 0.4
  t.near((energy(map:abs(), ctx)), 0.5185, 5e-5) -- the magnitude view
  golden((require("medxai.score.metrics.auprc").measure(map, ctx)), 0.777777777778)
end)

-- ---- readers --------------------------------------------------------------------------------------------------------

t.test("weighted kappa and ICC(2,1) equal the reference values; equal ratings have none", function()
  local a, b, rows = { 1, 2, 3, 4, 5, 3, 2, 4, 5, 1 }, { 1, 3, 3, 4, 4, 2, 2, 5, 5, 2 }, {}
  for i = 1, 10 do rows[i] = { a[i], b[i] } end
  golden(readers.kappa(a, b), 0.864864864865)
  t.near(readers.kappa({ 1, 2, 3 }, { 3, 2, 1 }), -1, 1e-12) -- 8/3 observed, 4/3 expected
  golden(readers.icc(rows), 0.876712328767)
  t.near(readers.kappa(a, a), 1, 1e-12)
  t.equal({ readers.kappa({ 3, 3 }, { 3, 3 }), readers.icc { { 2, 2 }, { 2, 2 } }, readers.icc { { 1, 2 } } }, {})
  t.fails(function() readers.icc { { 1, 2 }, { 1 } } end, "readers: case 2 has 1 ratings (expected 2, one per reader).")
end)
