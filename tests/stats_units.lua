-- Means, differences and hit rates over units: reference values of shared/spec/comparison.md, section 13 (computed
-- twice, by separate code), cases without an interval, coverage of the intervals.
local t = require "t"
local core = require "medxai.core"
local multiple = require "medxai.stats.multiple"
local units = require "medxai.stats.units"

local nan = 0 / 0

-- Within 1e-9 of the value, relative.
local function golden(got, want, what) t.near(got, want, 1e-9 * math.abs(want), what) end

local function named(list)
  local names = {}
  for i, v in ipairs(list) do names[i] = "patient " .. v end
  return names
end

-- Every resample of n units: n^n of them, one after the other.
local function every_resample(n)
  local drawn = {}
  for k = 0, n ^ n - 1 do
    for j = 0, n - 1 do drawn[#drawn + 1] = k // n ^ j % n + 1 end
  end
  return drawn
end

local values = { 0.2, 0.5, 0.1, 0.4, 0.9, 0.3, 0.6, 0.2 }
local patients = named { 1, 1, 2, 3, 3, 3, 4, 5 }

-- ---- golden values --------------------------------------------------------------------------------------------------

t.test("a mean over patients, its standard error and its studentized interval over all resamples are the golden ones",
  function()
  local over = units.over(8, patients)
  t.equal({ over.count, over.resampled, over.note }, { 5, "patients" })
  local s = over:ratio(values)
  golden(s.value, 0.4)
  golden(s.se, 0.0814900300650)
  local r, sorted = over:interval_of(s, every_resample(5))
  t.equal({ #sorted, r.dropped }, { 3120, 5 })
  golden(units.quantile(sorted, 0.025), -3.12870005672)
  golden(units.quantile(sorted, 0.975), 3.10266326517)
  t.near({ r.low, r.high }, { 0.147163877, 0.654957862 }, 1e-9)
end)

t.test("a function of totals has the value, standard error and interval of the equivalent mean", function()
  local ones = {}
  for i = 1, 8 do ones[i] = 1 end
  local over = units.over(8, patients)
  local s = over:totals({ values, ones }, function(x) return x[1] / x[2], { 1 / x[2], -x[1] / x[2] ^ 2 } end)
  local r = over:interval_of(s, every_resample(5))
  golden(s.se, 0.0814900300650)
  t.equal(r.dropped, 5)
  t.near({ r.low, r.high }, { 0.147163877, 0.654957862 }, 1e-9)
end)

t.test("the percentile interval over all resamples equals the reference value", function()
  local box = core.resample.new { units = 5, drawn = every_resample(5) }
  local over = units.over(8, patients)
  local sum, count = over:sums(values)
  t.equal({ #sum, count[3] }, { 5, 3 })
  local low, high = over:percentile((box:ratio(sum, count)))
  t.near({ low, high }, { 0.2166666666667, 0.5125 }, 1e-12)
end)

t.test("of 1,999 resamples the 50th and the 1,950th bound 95 %", function()
  local list = {}
  for i = 1, 1999 do list[i] = i end
  t.equal({ units.quantile(list, 0.025), units.quantile(list, 0.975) }, { 50, 1950 })
  t.equal({ units.quantile(list, 0.05), units.quantile(list, 0.95), units.quantile(list, 0.5) }, { 100, 1900, 1000 })
  t.near(units.quantile({ 1, 2, 3, 4 }, 0.3), 1.5, 1e-12) -- between two the straight line
  t.equal({ units.quantile({ 7 }, 0.01), units.quantile({ 7 }, 0.99) }, { 7, 7 })
end)

t.test("sign tests: exact for 6 units (64 patterns), random signs for many; no value, no p", function()
  local p, test = units.signs { 0.12, 0.05, -0.03, 0.20, 0.08, 0.01 }
  t.equal({ p, test }, { 6 / 64, "all signs" })
  t.equal(units.signs { 0, 0, 0 }, 1)
  t.ok(units.signs {} ~= units.signs {}, "of nothing it is NaN")
  local list = {} -- 20 units: all patterns are 2^20; the sums are 1 .. 20 with a few signs turned
  for i = 1, 20 do list[i] = (i % 5 == 0) and -i or i end
  local found = 0
  local reach = { [0] = 1 } -- how many patterns give each total
  for i = 1, 20 do
    local further = {}
    for sum, n in pairs(reach) do
      further[sum + i] = (further[sum + i] or 0) + n
      further[sum - i] = (further[sum - i] or 0) + n
    end
    reach = further
  end
  for sum, n in pairs(reach) do
    if math.abs(sum) >= 210 - 100 then found = found + n end
  end
  local exact = found / 2 ^ 20
  local random, how = units.signs(list, { seed = 1, id = "a" })
  t.equal(how, "random signs")
  t.near(random, exact, 5 * math.sqrt(exact * (1 - exact) / 9999)) -- five standard errors
  t.equal(random, units.signs(list, { seed = 1, id = "a" }))
  t.ok(random ~= units.signs(list, { seed = 1, id = "b" }), "another key gives other signs")
  for i = 1, 40 do list[i] = 1 end -- no random pattern reaches it: the observed one alone
  t.equal(units.signs(list), 1 / 10000)
end)

t.test("Holm's p-values equal the reference values, in order; missing ones do not count", function()
  t.near(multiple.holm { 0.01, 0.04, 0.03, 0.005, 0.2 }, { 0.04, 0.09, 0.09, 0.025, 0.2 }, 1e-12)
  local out = multiple.holm { 0.9, nan, 0.02 }
  t.near({ out[1], out[3] }, { 0.9, 0.04 }, 1e-12)
  t.ok(out[2] ~= out[2])
  t.equal(multiple.holm {}, {})
end)

t.test("Wilson's interval is the one of Wilson's formula by hand; with several images per patient it is wider",
  function()
  local low, high = units.wilson(0.9, 10) -- (0.9 + 0.192073 -+ 1.959964 sqrt(0.009 + 0.0096036)) / 1.384146
  t.near({ low, high }, { 0.59585, 0.98212 }, 5e-6)
  t.equal({ units.wilson(1, 10) }, { units.wilson(1, 10), 1 })
  local hits, twice, of = {}, {}, {}
  for i = 1, 40 do
    hits[i] = i % 8 == 0 and 0 or 1
    twice[2 * i - 1], twice[2 * i], of[2 * i - 1], of[2 * i] = hits[i], hits[i], "p" .. i, "p" .. i
  end
  local one = units.over(40):hit_rate(hits)
  t.equal({ one.interval, one.resampled, one.n }, { "Wilson", "images", 40 })
  t.near({ one.low, one.high }, { units.wilson(0.875, 40) }, 1e-12)
  local two = units.over(80, of):hit_rate(twice) -- every image twice tells as much as every image once
  t.near({ two.low, two.high }, { one.low, one.high }, 1e-12)
  for i = 1, 80 do twice[i] = true end
  local all = units.over(80, of):hit_rate(twice)
  t.near({ all.low, all.high }, { units.wilson(1, 40) }, 1e-12, "also where all hit")
  t.fails(function() units.over(1):hit_rate { 0.5 } end, "units: hit rate: value 1 is 0.5 (expected 0 or 1).")
end)

-- ---- what there is not ----------------------------------------------------------------------------------------------

t.test("ten units give an interval, fewer give the reason", function()
  local list = {}
  for i = 1, 10 do list[i] = i * i end
  local ten = units.over(10):mean(list)
  t.ok(ten.low < ten.mean and ten.mean < ten.high and ten.why == nil)
  t.equal({ ten.n, ten.units, ten.level, ten.interval, ten.note }, { 10, 10, 0.95, "studentized bootstrap",
    "image-level, patients unknown" })
  list[4] = nan
  local nine = units.over(10):mean(list)
  t.equal({ nine.n, nine.units, nine.why, nine.mean }, { 9, 9, "fewer than 10 images", (385 - 16) / 9 })
  t.ok(nine.low ~= nine.low and nine.high ~= nine.high)
  local of, many = {}, {}
  for i = 1, 60 do of[i], many[i] = "p" .. i % 9, i % 7 end
  t.equal(units.over(60, of):mean(many).why, "fewer than 10 patients") -- 60 images of 9 patients
  t.equal(units.over(60, of):hit_rate { table.unpack((function() for i = 1,
    60 do many[i] = i % 2 end return many end)()) }.why, "fewer than 10 patients")
  local none = units.over(0):mean {}
  t.ok(none.mean ~= none.mean and none.n == 0 and none.why == "fewer than 10 images")
end)

t.test("equal and nearly equal values, and rare ones, give no interval", function()
  local list = {}
  for i = 1, 12 do list[i] = 0.1 + 0.2 end
  t.equal(units.over(12):mean(list).why, "no spread")
  for i = 1, 12 do list[i] = i % 2 == 0 and 0.3 or 0.1 + 0.2 end
  t.equal(units.over(12):mean(list).why, "no spread")
  for i = 1, 40 do list[i] = i == 7 and 1 or 0 end -- a resample without image 7 has no spread: 0.975^40 = 0.36 of them
  local r = units.over(40):mean(list)
  t.ok(r.low ~= r.low)
  t.equal(r.why, r.dropped .. " of 1999 resamples without spread or value")
  t.ok(r.dropped > 600 and r.dropped < 850, "0.36 of 1,999 are 726, deviation 21.5; got " .. r.dropped)
  t.equal(units.over(40, nil, { resamples = 20 }):mean { table.unpack((function() for i = 1,
    40 do list[i] = i end return list end)()) }.why,
    "20 resamples are too few for 95 %")
end)

t.test("units are patients where every one is known, images otherwise; bad input is refused", function()
  local over = units.over(3, { "a", "unknown", "a" })
  t.equal({ over.resampled, over.count, over.note }, { "images", 3, "image-level, patients unknown" })
  t.equal({ units.over(3, { "a", "", "a" }).resampled, units.over(3, { [1] = "a", [3] = "b" }).resampled }, { "images",
    "images" })
  t.equal({ units.over(3, { "a", "b", "a" }).unit }, { { 1, 2, 1 } })
  t.fails(function() over:mean { 1, 2 } end, "units: sums: 2 values (expected 3, one per image).")
  t.fails(function() units.over(3, nil, { sed = 1 }) end, "units: unknown option 'sed'. Did you mean 'seed'?")
  t.equal(units.words { level = 0.9, interval = "Wilson", resampled = "images",
    note = "image-level, patients unknown" },
    "90 % Wilson intervals over images (image-level, patients unknown)")
end)

t.test("the native part refuses what it cannot draw or read", function()
  local resample = core.resample
  local function new(o) return function() return resample.new(o) end end
  t.fails(new { units = 1, drawn = {} }, "resample: units is 1 (expected 2 to 2147483647)")
  t.fails(new { units = 2, drawn = { 1, 3 } }, "resample: drawn: value 2 is 3 (expected a whole number from 1 to 2)")
  t.fails(new { units = 2, seed = 1, purpose = "a@1", resamples = 0 },
    "resample: resamples is 0 (expected 1 to 16777216)")
  local box = resample.new { units = 2, seed = 1, purpose = "a@1", resamples = 5 }
  t.equal(#box, 5)
  t.fails(function() box:ratio({ 1 }, { 1, 1 }) end, "resample: sum: expected 2 numbers, got 1")
  t.fails(function() box:ratio({ 1, nan }, { 1, 1 }) end, "resample: sum: value 2 is not a finite number")
  local x = resample.matrix({ 1, 2, 3, 4, 5, 6 }, 3)
  t.fails(function() resample.matrix({ 1, 2, 3 }, 2) end, "resample: a matrix of width 2 cannot hold 3 numbers")
  t.fails(function() box:totals(x, 6) end, "resample: there is no resample 6 (expected 1 to 5)")
  t.fails(function() box:spread(x, 1, { 1, 2 }) end, "resample: gradient: expected 3 numbers, got 2")
  t.fails(function() box:totals(resample.matrix({ 1, 2, 3 }, 3), 1) end,
    "resample: the matrix has 1 rows (expected 2, one per unit)")
  t.fails(function() resample.signs({ table.unpack(box:totals(x, 1)), 1, 1 }, "x") end,
    "bad argument #2 to 'signs' (number expected, got string)")
  local many = {}
  for i = 1, 17 do many[i] = i end
  t.fails(function() resample.signs(many, 1) end,
    "resample: signs: expected at most 16 values for all patterns, got 17")
  t.fails(function() core.ssim({ 1 }, { 1 }, 11, 11) end, "ssim: expected a list of 121 numbers, got table")
end)

-- ---- differences ----------------------------------------------------------------------------------------------------

t.test("a paired difference: the interval holds it, p by signs of patients, images without a value are left out",
  function()
  local a, b, of = {}, {}, {}
  for i = 1, 24 do a[i], b[i], of[i] = 0.5 + 0.01 * i + 0.002 * (i % 5), 0.45 + 0.01 * i, "p" .. (i + 1) // 2 end
  local over = units.over(24, of, { seed = 7 })
  local d = over:difference(a, b)
  t.ok(d.low < d.mean and d.mean < d.high and d.low > 0.05)
  t.ok(d.narrow.low > d.low and d.narrow.high < d.high, "90 % lie within 95 %")
  t.equal({ d.n, d.units, d.p, d.test }, { 24, 12, 2 / 4096, "all signs" })
  b[3] = nan
  t.equal({ over:difference(a, b).n, over:difference(a, b).units }, { 23, 12 })
  local same = over:difference(a, a)
  t.equal({ same.status, same.mean, same.low, same.high, same.p }, { "identical", 0, 0, 0, 1 })
end)

t.test("draws do not depend on earlier calls; another seed gives others", function()
  local a = {}
  for i = 1, 30 do a[i] = (i * 7919) % 31 end
  local first = units.over(30):mean(a)
  local over = units.over(30)
  over:mean { table.unpack(a) }
  over:difference(a, { table.unpack(a, 1, 30) })
  over:one_sided(over:ratio(a), 3)
  t.equal(over:mean(a), first)
  t.ok(units.over(30, nil, { seed = 43 }):mean(a).low ~= first.low)
end)

t.test("one-sided p-values: small below, small above, about one half at the estimate", function()
  local a = {}
  for i = 1, 40 do a[i] = 0.6 + 0.05 * ((i * 31) % 17 - 8) / 8 end
  local over = units.over(40)
  local s = over:ratio(a)
  local below, above, at = over:one_sided(s, 0.7), over:one_sided(s, 0.5), over:one_sided(s, s.value)
  t.equal({ below.p_below, above.p_above }, { 1 / 10000, 1 / 10000 })
  t.ok(below.p_above > 0.99 and above.p_below > 0.99)
  t.ok(at.p_below + at.p_above >= 1 + 1 / 10000 and at.p_below + at.p_above < 1.05, "those on 0 itself count for both")
  t.near(at.p_below, 0.5, 0.1)
end)

t.test("better than each of several: the largest p, the least favorable interval; one against it makes p 1", function()
  local list = { { mean = 0.3, low = 0.1, high = 0.5, p = 0.01, n = 20, units = 20 }, { mean = 0.2, low = 0.05,
    high = 0.6, p = 0.03, n = 18, units = 18 } }
  t.equal(multiple.each_of(list, "higher"), { mean = 0.2, low = 0.05, high = 0.5, p = 0.03, n = 18, units = 18 })
  t.equal(multiple.each_of(list, "lower").p, 1)
  list[3] = { mean = -0.1, low = -0.2, high = 0.0, p = 0.001, n = 20, units = 20 }
  t.equal({ multiple.each_of(list, "higher").p, multiple.each_of(list, "higher").mean }, { 1, -0.1 })
  list[3] = { mean = nan, low = nan, high = nan, p = nan, n = 0, units = 0, why = "undefined" }
  local r = multiple.each_of(list, "higher")
  t.ok(r.p ~= r.p and r.low ~= r.low)
  t.equal(r.why, "undefined")
  t.equal(multiple.each_of({}, "higher").why, "nothing to compare with")
end)

-- ---- coverage -------------------------------------------------------------------------------------------------------

-- Share of samples whose 95 % interval holds the true value; draw(stream uniforms) makes a sample of n.
local function coverage(n, samples, truth, draw, interval, seed)
  local hit, given = 0, 0
  for s = 1, samples do
    local numbers = core.rng.stream { seed = seed, purpose = "coverage@1", id = tostring(n),
      replicate = s }:uniform(4 * n)
    local u = numbers:tolist()
    numbers:close()
    local r = interval(draw(u), s)
    if r.low == r.low then
      given = given + 1
      if r.low <= truth and truth <= r.high then hit = hit + 1 end
    end
  end
  return hit / given, given
end

local function skewed(u) -- exponential values, mean 1: as skewed as scores get
  local list = {}
  for i = 1, #u // 4 do list[i] = -math.log(1 - u[i]) end
  return list
end

local function mean_interval(list) return units.over(#list, nil, { resamples = 999 }):mean(list) end

t.test("95 % intervals hold the mean of skewed values in 0.90 or more of 400 samples, normal ones in fewer", function()
  local share = coverage(30, 400, 1, skewed, mean_interval, 1)
  local normal = coverage(30, 400, 1, skewed, function(list)
    local s = units.over(#list):ratio(list)
    return { low = s.value - 1.96 * s.se, high = s.value + 1.96 * s.se }
  end, 1)
  -- one standard error of 400 samples at 0.95 is 0.011
  t.ok(share >= 0.90 and share <= 0.985, "got " .. share)
  t.ok(share > normal, "studentized " .. share .. ", normal " .. normal)
end)

-- Hits in patients of one to four images that share a rate.
local function clustered(u)
  local list, of = {}, {}
  for p = 1, #u // 8 do
    local rate = u[8 * p - 7] < 0.5 and 0.99 or 0.81
    for k = 1, 1 + math.floor(4 * u[8 * p - 6]) do
      list[#list + 1], of[#of + 1] = u[8 * p - 6 + k] < rate and 1 or 0, "p" .. p
    end
  end
  return { list, of }
end

t.test("95 % intervals hold a hit rate of 0.9 in 0.90 to 0.99 of 400 samples of 40 patients with one to four images",
  function()
  local share, given = coverage(80, 400, 0.9, clustered, function(x) return units.over(#x[1], x[2]):hit_rate(x[1]) end,
    2)
  t.equal(given, 400)
  t.ok(share >= 0.90 and share <= 0.99, "got " .. share)
end)

t.long("coverage over sizes: exponential means, clustered hit rates, rare values with dropped resamples", function()
  for _, n in ipairs { 10, 15, 30, 85 } do
    local share = coverage(n, 2000, 1, skewed, mean_interval, 3)
    print(string.format("      mean of %d exponential values: %.3f", n, share))
    t.ok(share >= 0.89 and share <= 0.98, n .. ": " .. share)
  end
  for _, n in ipairs { 20, 40, 170 } do
    local share = coverage(2 * n, 2000, 0.9, clustered, function(x) return units.over(#x[1], x[2]):hit_rate(x[1]) end,
      4)
    print(string.format("      hit rate over %d patients: %.3f", n, share))
    t.ok(share >= 0.90 and share <= 0.99, n .. ": " .. share)
  end
  for _, rate in ipairs { 0.05, 0.1, 0.2 } do
    local share, given = coverage(60, 1000, rate, function(u)
      local list = {}
      for i = 1, 60 do list[i] = u[i] < rate and 1 or 0 end
      return list
    end, mean_interval, 5)
    print(string.format("      mean of 60 values of which %g are 1: %.3f, %d of 1000 samples have an interval", rate,
      share, given))
    t.ok(share >= 0.88, rate .. ": " .. share)
  end
end)
