-- Which regions the samples keep: draws that do not depend on how many are asked for, pairs, balance, what is run once;
-- that all designs aim at the same weights and the paired ones with less error; numbers of stability by hand.
local t = require "t"
local coalitions = require "medxai.explain.lime_design"
local stability = require "medxai.stats.agreement"
local surrogate = require "medxai.explain.lime_surrogate"
local torch = require "medxai.torch"
local xai = require "medxai"

local function draw(design, n, count, change)
  local key = { seed = 42, purpose = "lime@1", id = "0123456789abcdef", replicate = 0 }
  for k, v in pairs(change or {}) do key[k] = v end
  return coalitions.draw(design, n, count, key)
end

local function same(a, b) return a:eq(b):all():item() end

t.test("the first 100 of 1,000 rows are the 100, in every design; row 0 keeps everything", function()
  for _, design in ipairs(coalitions.designs) do
    local long, short = draw(design, 1000, 21), draw(design, 100, 21)
    t.ok(same(long:narrow(0, 0, 100), short), design)
    t.equal(long:select(0, 0):sum():item(), 21)
    t.equal({ long.dtype, long.shape }, { "uint8", { 1000, 21 } })
    t.equal(draw(design, 7, 3).shape, { 7, 3 }, "an odd number")
  end
end)

t.test("rows depend on the image, the seed and the replicate, and on nothing else", function()
  for _, design in ipairs(coalitions.designs) do
    local one = draw(design, 200, 30)
    t.ok(same(one, draw(design, 200, 30)))
    for _, change in ipairs { { seed = 43 }, { id = "x" }, { replicate = 1 } } do
      t.near(one:eq(draw(design, 200, 30, change)):to("float64"):mean():item(), 0.5, 0.06, design)
    end
  end
end)

t.test("each row is fair coins in every design", function()
  for _, design in ipairs(coalitions.designs) do
    local rows = draw(design, 4000, 12):narrow(0, 2, 3998):double()
    t.near(rows:mean():item(), 0.5, 0.02, design)
    t.near(rows:sum({ 1 }):var():item(), 12 / 4, 0.25, design .. ": variance of how many are kept")
  end
end)

t.test("paired and balanced rows are followed by their complements", function()
  for _, design in ipairs { "paired", "balanced" } do
    local rows = draw(design, 100, 9)
    for i = 0, 98, 2 do t.equal((rows:select(0, i) + rows:select(0, i + 1)):tolist(), { 1, 1, 1, 1, 1, 1, 1, 1, 1 }) end
  end
end)

t.test("within a balanced block regions are uncorrelated and each is kept in exactly half of the rows", function()
  local rows = draw("balanced", 2 + 4 * 16, 9):double():narrow(0, 2, 64) * 2 - 1
  for block = 0, 1 do
    local part = rows:narrow(0, 32 * block, 32)
    t.equal(torch.matmul(part:t(), part):tolist(), (torch.eye(9, { dtype = "float64" }) * 32):tolist())
    t.equal(part:sum({ 0 }):abs():max():item(), 0)
  end
end)

t.test("what is drawn twice is run once, in order of first appearance", function()
  local rows = torch.tensor({ { 1, 1 }, { 0, 1 }, { 1, 1 }, { 0, 0 }, { 0, 1 } }, { dtype = "uint8" })
  local distinct, number, seen = coalitions.distinct(rows)
  t.equal(distinct:tolist(), { { 1, 1 }, { 0, 1 }, { 0, 0 } })
  t.equal(number:tolist(), { 0, 1, 0, 2, 1 })
  t.equal(seen, { 1, 2, 2, 3, 3 })
  t.ok(coalitions.distinct(draw("plain", 1000, 5)):size(0) <= 32)
end)

-- A made answer of 15 regions with effects of one, two and three together.
local function answer(z)
  local s = z * 2 - 1
  local a, b, c = s:narrow(1, 0, 5), s:narrow(1, 5, 5), s:narrow(1, 10, 5)
  local y = torch.linspace(-1, 1, 15, { dtype = "float64" }):mul(s):sum({ 1 }, true) + (a * b):sum({ 1 },
    true) * 0.8 + (b * c):sum({ 1 }, true) * 0.5 + (a * b * c):sum({ 1 }, true) * 0.2
  return torch.sigmoid(y * 0.4)
end

local function weights_of(design, n, replicate)
  local scope <close> = xai.scope()
  local z = draw(design, n, 15, { replicate = replicate }):double()
  return surrogate.coefficients(z, answer(z), surrogate.weights(z, 0.25), n / 1000):squeeze(1):tolist()
end

local function distance(a, b)
  local sum, length = 0, 0
  for i in ipairs(a) do sum, length = sum + (a[i] - b[i]) ^ 2, length + b[i] ^ 2 end
  return math.sqrt(sum / length)
end

t.test("all designs aim at the same weights; paired and balanced ones are with 600 rows as near as plain ones "
  .. "with 1,000", function()
  local truth = weights_of("plain", 60000, 99)
  local error_of = {}
  for design, n in pairs { plain = 1000, paired = 600, balanced = 600 } do
    local sum = 0
    for r = 1, 12 do sum = sum + distance(weights_of(design, n, r), truth) / 12 end
    error_of[design] = sum
    t.ok(distance(weights_of(design, 20000, 50), truth) < 0.05, design .. " aims elsewhere")
  end
  t.ok(error_of.paired <= error_of.plain, ("paired %.3f, plain %.3f"):format(error_of.paired, error_of.plain))
  t.ok(error_of.balanced <= error_of.plain, ("balanced %.3f, plain %.3f"):format(error_of.balanced, error_of.plain))
end)

t.test("rank correlation, overlap and spread by hand", function()
  t.near(stability.rank_correlation({ 1, 2, 3, 4 }, { 1, 3, 2, 4 }), 0.8, 1e-12)
  t.near(stability.rank_correlation({ 1, 1, 2 }, { 3, 3, 9 }), 1, 1e-12)
  t.equal(stability.rank_correlation({ 1, 1 }, { 1, 2 }), nil)
  t.equal(stability.rank_correlation({ 1, 0 / 0 }, { 1, 2 }), nil)
  t.near(stability.overlap({ 5, -4, 1, 0 }, { 5, 0, 1, -4 }, 2), 0.5, 1e-12)
  local s = stability.of { { 3, 0, 4 }, { 3, 0, 6 } }
  t.near({ s.rank_correlation, s.spread }, { 1, math.sqrt(2 / 34) }, 1e-12)
  t.equal(s.overlap, nil) -- the strongest five of three are the same whatever was drawn
  t.near(stability.of({ { 6, 5, 4, 3, 2, 1 }, { 6, 5, 4, 3, 1, 2 } }).overlap, 0.8, 1e-12)
  t.equal(stability.of { { 1, 2 } }, {})
  t.equal(stability.of { { 0, 0 }, { 0, 0 } }, {})
end)
