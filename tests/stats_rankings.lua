-- Seeds, resplits, rankings, verdicts: reference values of shared/spec/comparison.md, section 13, and cases by hand.
local t = require "t"
local components = require "medxai.stats.components"
local core = require "medxai.core"
local distributions = require "medxai.stats.distributions"
local multiple = require "medxai.stats.multiple"
local rankings = require "medxai.stats.rankings"
local units = require "medxai.stats.units"
local verdict = require "medxai.stats.verdict"

local nan = 0 / 0

local function golden(got, want, what) t.near(got, want, 1e-9 * math.abs(want), what) end

-- ---- seeds ----------------------------------------------------------------------------------------------------------

t.test("images and seeds: mean squares, variance of the mean, degrees of freedom and half width are the golden ones",
  function()
  local r = components.of { { 0.50, 0.55, 0.47 }, { 0.62, 0.66, 0.60 }, { 0.40, 0.47, 0.35 }, { 0.71, 0.70, 0.65 } }
  golden(r.ms_images, 0.0468)
  golden(r.ms_seeds, 0.00600833333333)
  golden(r.ms_error, 0.000408333333333)
  golden(r.var, 0.00436666666667)
  golden(r.df, 3.67002778244)
  golden(r.half, 0.190161947)
  t.near({ r.var_images, r.var_seeds }, { (0.0468 - r.ms_error) / 3, (r.ms_seeds - r.ms_error) / 4 }, 1e-12)
  t.near(r.high - r.mean, r.half, 1e-15)
end)

t.test("fewer than three seeds, no spread or gaps: no interval, with the reason", function()
  local two = components.of { { 0.5, 0.6 }, { 0.7, 0.6 }, { 0.3, 0.4 } }
  t.equal(two.why, "fewer than 3 seeds")
  t.ok(two.low ~= two.low and two.mean == two.mean)
  t.equal(components.of({ { 1, 1, 1 }, { 1, 1, 1 } }).why, "no spread")
  -- every seed predicts one class for all images: equal accuracy, on different images
  t.equal(components.of({ { 1, 0, 0 }, { 0, 1, 0 }, { 0, 0, 1 } }).why, "the variance cannot be told from the error")
  t.equal(components.of({ { 1, 0, 0 }, { 0, 1, 0 }, { 0, 0, 1 }, { 1, 0, 0 }, { 0, 1, 1 } }).why,
    "the variance cannot be told from the error")
  t.equal(components.of({ { 1 }, { 2 } }).why, "fewer than 3 seeds")
  t.equal(components.of({ { 1, 2, 3 } }).why, "fewer than 2 images")
  t.equal(components.of({}).why, "fewer than 2 images")
  t.fails(function() components.of { { 1, 2, 3 }, { 1, 2 } } end,
    "components: row 2 has 2 values (expected 3, one per seed).")
  t.fails(function() components.of { { 1, 2, nan }, { 1, 2, 3 } } end,
    "components: row 1, seed 3 has no value. Leave the image out of all seeds.")
end)

t.test("Nadeau and Bengio's corrected t and p equal the reference values", function()
  local d = { 0.02, 0.03, -0.01, 0.04, 0.015, 0.02, 0.005, 0.03, 0.01, 0.025 }
  local r = components.resplits(d, 1 / 4)
  golden(r.t, 2.17961532415)
  golden(r.p, 0.0572103306417)
  t.near(components.resplits(d, 0).p, 0.00277, 5e-6)
  t.ok(r.low < 0 and r.high > 0 and r.df == 9)
  t.equal({ components.resplits({ 0.1 }, 1).why, components.resplits({ 0.5, 0.5 }, 1).why }, { "fewer than 2 splits",
    "no spread" })
end)

-- ---- rankings -------------------------------------------------------------------------------------------------------

local blocks = { { 0.62, 0.55, 0.50, 0.31 }, { 0.70, 0.66, 0.58, 0.40 }, { 0.45, 0.49, 0.40, 0.38 }, { 0.81, 0.70,
  0.72, 0.55 },
  { 0.52, 0.52, 0.47, 0.30 }, { 0.66, 0.60, 0.61, 0.42 } }

t.test("Friedman's test, Iman and Davenport's F, Kendall's W and the critical difference are the golden ones",
  function()
  local r = rankings.friedman(blocks, "higher")
  t.near(r.ranks, { 1.25, 2.083333333333333, 2.666666666666667, 4 }, 1e-12)
  golden(r.chi2, 14.6949152542)
  golden(r.f, 22.2307692308)
  golden(r.w, 0.816384180791)
  golden(rankings.critical_difference(4, 6), 1.91484322659)
  golden(distributions.range_quantile(0.95, 7) / math.sqrt(2), 2.94832001753)
  local lower = rankings.friedman(blocks, "lower")
  t.near(lower.ranks, { 3.75, 5 - 2.083333333333333, 5 - 2.666666666666667, 1 }, 1e-12)
  t.near(lower.chi2, r.chi2, 1e-12)
  t.fails(function() rankings.friedman({ { 1, 2 }, { 1 } }, "higher") end,
    "rankings: block 2 has 1 values (expected 2, one per method).")
  t.fails(function() rankings.friedman({ { 1, nan } }, "higher") end,
    "rankings: block 1 has an undefined value. Leave the block out.")
end)

t.test("six blocks: Holm over six pairs rejects none, since the least p is 2 of 64", function()
  local ps, least = {}, 1
  for i = 1, 4 do
    for j = i + 1, 4 do
      local d = {}
      for k, block in ipairs(blocks) do d[k] = block[i] - block[j] end
      ps[#ps + 1] = units.signs(d)
      least = math.min(least, ps[#ps])
    end
  end
  t.equal(least, 2 / 64)
  for _, p in ipairs(multiple.holm(ps)) do t.ok(p > 0.05) end
end)

-- The reference pairs: adjusted p; the first is the better one.
local function golden_pairs()
  local list = {}
  for a, b, p in ("AB .004 AC .001 AD .001 BC .21 BD .03 CD .40"):gmatch "(%u)(%u) (%S+)" do
    local r = { mean = 0.1, low = 0.05, high = 0.15, p = tonumber(p), units = 20 }
    list[#list + 1] = { a = a, b = b, verdict = verdict.of("difference", r).verdict }
  end
  return list
end

t.test("rank ranges equal the reference values; groups are made from the pairs", function()
  local ranges = rankings.ranges({ "A", "B", "C", "D" }, golden_pairs())
  local text = {}
  for i, r in ipairs(ranges) do text[i] = string.format("%s %d-%d", r.name, r.low, r.high) end
  t.equal(text, { "A 1-1", "B 2-3", "C 2-4", "D 3-4" })
  t.equal(rankings.cliques({ "A", "B", "C", "D" }, golden_pairs()), { { "B", "C" }, { "C", "D" } })
  t.equal(rankings.cliques({ "A", "B", "C" }, {}), { { "A", "B", "C" } })
  t.equal(rankings.cliques({ "A", "B" }, { { a = "A", b = "B", verdict = "worse" } }), {})
  -- A and C differ, both equal B, which has another rank: two bars that no run of neighbors gives
  t.equal(rankings.cliques({ "A", "C", "B" }, { { a = "A", b = "C", verdict = "better" } }), { { "A", "B" }, { "C",
    "B" } })
  t.equal(rankings.ranges({ "A", "B" }, { { a = "A", b = "B", verdict = "worse" } }), { { name = "A", low = 2,
    high = 2 }, { name = "B", low = 1, high = 1 } })
  t.fails(function() rankings.ranges({ "A" }, { { a = "A", b = "X", verdict = "better" } }) end,
    "rankings: a comparison names 'X', which is not ranked.")
end)

-- Three methods over n images: the second better than the first by half a deviation, the third like the first.
local function three(n, seed)
  local z = core.rng.stream { seed = seed, purpose = "three@1" }:normal(4 * n)
  local list, out = z:tolist(), { {}, {}, {} }
  z:close()
  for i = 1, n do
    for m = 1, 3 do out[m][i] = list[i] + 0.7 * list[m * n + i] + (m == 2 and 0.5 or 0) end
  end
  return out
end

t.test("shares of first places sum to 1, follow the direction and split ties", function()
  local over, values = units.over(60), three(60, 1)
  local best, n = rankings.best(over, values, "higher")
  t.near(best[1] + best[2] + best[3], 1, 1e-12)
  t.equal(n, 60)
  t.ok(best[2] > 0.95, best[2])
  t.ok(rankings.best(over, values, "lower")[2] < 0.05)
  t.near(rankings.best(over, { values[1], values[1] }, "higher"), { 0.5, 0.5 }, 1e-12)
  values[3][5] = nan
  t.equal(select(2, rankings.best(over, values, "higher")), 59)
  local best_of_one = rankings.best(units.over(1), { { 1 }, { 2 } }, "higher")
  t.ok(best_of_one[1] ~= best_of_one[1])
end)

t.test("two criteria's rankings: tau-b and W of the means, with intervals over patients", function()
  local over, values = units.over(60), three(60, 2)
  local turned = {}
  for m = 1, 3 do
    turned[m] = {}
    for i = 1, 60 do turned[m][i] = -values[m][i] end
  end
  local same = rankings.tau_b(over, { values = values, direction = "higher" }, { values = turned, direction = "lower" })
  t.equal({ same.mean, same.low, same.high, same.interval }, { 1, 1, 1, "percentile bootstrap" })
  local against = rankings.tau_b(over, { values = values, direction = "higher" }, { values = values,
    direction = "lower" })
  t.equal({ against.mean, against.low, against.high }, { -1, -1, -1 })
  local w = rankings.concordance(over, { { values = values, direction = "higher" }, { values = turned,
    direction = "lower" } })
  t.near({ w.mean, w.low, w.high }, { 1, 1, 1 }, 1e-12)
  local mixed = rankings.concordance(over, { { values = values, direction = "higher" }, { values = values,
    direction = "lower" } })
  t.near(mixed.mean, 0, 1e-12)
  local few = rankings.tau_b(units.over(3), { values = { { 1, 2, 3 }, { 2, 3, 4 } }, direction = "higher" },
    { values = { { 1, 2, 3 }, { 2, 3, 4 } }, direction = "higher" })
  t.equal({ few.mean, few.why }, { 1, "fewer than 10 images" })
  t.ok(few.low ~= few.low)
end)

t.test("discrimination of a metric: a win counts 1, a tie one half, undefined is left out", function()
  local wins = rankings.wins({ 1, 2, 3, nan, 5 }, { 0, 2, 4, 1, nan }, "higher")
  t.equal({ wins[1], wins[2], wins[3] }, { 1, 0.5, 0 })
  t.ok(wins[4] ~= wins[4] and wins[5] ~= wins[5])
  t.equal(rankings.wins({ 1 }, { 0 }, "lower"), { 0 })
  t.equal(rankings.wins({ math.huge }, { math.huge }, "higher"), { 0.5 })
end)

-- ---- verdicts -------------------------------------------------------------------------------------------------------

local function word(question, r, options) return verdict.of(question, r, options).verdict end

t.test("\"better\" needs Holm's p and an interval without 0; the direction decides which is better", function()
  local r = { mean = 0.1, low = 0.02, high = 0.2, p = 0.03, units = 30 }
  t.equal({ word("difference", r), word("difference", r, { direction = "lower" }), word("difference", r,
    { direction = "none" }) }, { "better", "worse", "different" })
  t.equal(word("difference", { mean = 0.1, low = -0.01, high = 0.2, p = 0.03, units = 30 }), "undecided")
  t.equal(word("difference", { mean = 0.1, low = 0.01, high = 0.2, p = 0.051, units = 30 }), "undecided")
  t.equal(word("difference", { mean = -0.1, low = -0.2, high = -0.01, p = 0.01, units = 30 }), "worse")
  t.equal(word("difference", { mean = 0, low = 0, high = 0, p = 1, units = 30, status = "identical" }), "identical")
  t.equal(word("difference", { nothing = "no such layer" }), "not_applicable")
end)

t.test("\"equivalent\": the 90 % interval within the margin; a small difference can be found as well", function()
  local narrow = { low = -0.01, high = 0.015 }
  local r = { mean = 0.002, low = -0.012, high = 0.018, p = 0.7, units = 30 }
  t.equal({ word("difference", r, { margin = 0.02, narrow = narrow }), word("difference", r, { margin = 0.014,
    narrow = narrow }), word("difference", r) },
    { "equivalent", "undecided", "undecided" })
  local v = verdict.of("difference", { mean = 0.005, low = 0.001, high = 0.009, p = 0.01, units = 30 },
    { margin = 0.02, narrow = { low = 0.002, high = 0.008 } })
  t.equal(v, { verdict = "better", equivalent = true })
end)

t.test("found, not found, undecided by one-sided p-values; pass and fail by an interval and a threshold", function()
  t.equal(word("threshold", { p_above = 0.01, p_below = 0.99, units = 30 }), "found")
  t.equal(word("threshold", { p_above = 0.99, p_below = 0.04, units = 30 }), "not_found")
  t.equal(word("threshold", { p_above = 0.3, p_below = 0.7, units = 30 }), "undecided")
  local below = { threshold = 0.25, pass = "below" }
  t.equal({ word("bound", { low = 0.01, high = 0.2, units = 30 }, below), word("bound", { low = 0.3, high = 0.5,
    units = 30 }, below),
    word("bound", { low = 0.2, high = 0.3, units = 30 }, below) }, { "pass", "fail", "undecided" })
  t.equal(word("bound", { low = 0.3, high = 0.5, units = 30 }, { threshold = 0.25, pass = "above" }), "pass")
  t.fails(function() word("bound", { low = 0, high = 1, units = 30 }) end,
    "verdict: a bound needs a threshold and which side passes (expected threshold = 0.25, pass = 'below').")
  t.fails(function() word("diference", { units = 30 }) end,
    "verdict: unknown question 'diference'. Did you mean 'difference'?")
end)

t.test("no verdict with fewer than ten units or without an interval, with the reason", function()
  local r = { mean = 0.1, low = 0.02, high = 0.2, p = 0.001, units = 9, resampled = "patients" }
  t.equal(verdict.of("difference", r), { verdict = "undecided", reason = "fewer than 10 patients" })
  t.equal(verdict.of("bound", { low = nan, high = nan, units = 40, why = "no spread" }, { threshold = 1,
    pass = "below" }), { verdict = "undecided", reason = "no spread" })
  t.equal(verdict.of("threshold", { p_above = nan, p_below = nan, units = 40 }).reason, "no p-value")
end)

t.test("contradicting measures and failed controls make a verdict undecided", function()
  t.equal(verdict.of_both({ verdict = "pass" }, { verdict = "fail" }), { verdict = "undecided",
    reason = "measures disagree" })
  t.equal(verdict.of_both({ verdict = "pass" }, { verdict = "undecided" }).verdict, "pass")
  t.equal(verdict.of_both({ verdict = "undecided" }, { verdict = "undecided" }), { verdict = "undecided" })
  t.equal(verdict.controlled({ verdict = "pass" }, { sobel = true, random_smooth = false }), { verdict = "undecided",
    reason = "controls: random_smooth" })
  t.equal(verdict.controlled({ verdict = "pass" }, { sobel = true }).verdict, "pass")
  t.equal(verdict.controlled({ verdict = "not_applicable", reason = "x" }, { sobel = false }).verdict, "not_applicable")
end)

-- ---- false claims ---------------------------------------------------------------------------------------------------

-- Methods that are all alike over n images with a common part and skewed noise; how many of the studies claim any
-- difference.
local function false_claims(studies, n, methods, seed)
  local pairs_claimed, claims = 0, 0
  for s = 1, studies do
    local u = core.rng.stream { seed = seed, purpose = "claims@1", replicate = s }:uniform(n * (methods + 1))
    local list, values, over = u:tolist(), {}, units.over(n, nil, { resamples = 499, id = tostring(s) })
    u:close()
    for m = 1, methods do
      values[m] = {}
      for i = 1, n do values[m][i] = list[i] - math.log(1 - list[m * n + i]) end
    end
    local rs, ps, any = {}, {}, false
    for a = 1, methods do
      for b = a + 1, methods do
        rs[#rs + 1] = over:difference(values[a], values[b], a .. " " .. b)
        ps[#ps + 1] = rs[#rs].p
      end
    end
    for i, p in ipairs(multiple.holm(ps)) do
      rs[i].p = p
      if verdict.of("difference", rs[i]).verdict ~= "undecided" then any = true end
    end
    claims = claims + (any and 1 or 0)
    for i, p in ipairs(ps) do
      rs[i].p = p
      if i == 1 and verdict.of("difference", rs[i]).verdict ~= "undecided" then pairs_claimed = pairs_claimed + 1 end
    end
  end
  return claims / studies, pairs_claimed / studies
end

t.test("five methods that are all alike: any claim in at most 0.11 of 120 studies", function()
  local any = false_claims(120, 24, 5, 1)
  t.ok(any <= 0.11, any) -- 0.05 and three standard errors of 0.02
end)

t.long("eight methods that are all alike, 32 and 85 units: any claim of 28 pairs in at most 0.07 of 400 studies",
  function()
  for _, n in ipairs { 32, 85 } do
    local any, one = false_claims(400, n, 8, 2)
    print(string.format("      %d units: any of 28 pairs %.4f, one pair alone %.4f", n, any, one))
    t.ok(any <= 0.07, any)
  end
end)
