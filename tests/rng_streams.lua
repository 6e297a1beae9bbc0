-- Keyed streams: a draw depends on its key alone.
local t = require "t"
local torch = require "medxai.torch"
local random = require "medxai.tensor.random"

local function stream(changes)
  local key = { seed = 42, purpose = "lime@1", id = "0123456789abcdef", replicate = 0 }
  for k, v in pairs(changes or {}) do key[k] = v end
  return random.stream(key)
end

t.test("the first 100 of 1000 draws are the 100, and at(i) is draw i", function()
  local s = stream()
  for _, kind in ipairs { "uniform", "normal", "bits" } do
    local long, short = s[kind](s, 1000), s[kind](s, 100)
    t.equal(long[{ { 0, 100 } }]:tolist(), short:tolist(), kind)
    local part = s:at(333)
    t.equal(part[kind](part, 7):tolist(), long[{ { 333, 340 } }]:tolist(), kind)
  end
  t.equal(s:at(10):integers(5, 1000):tolist(), s:integers(15, 1000)[{ { 10, 15 } }]:tolist())
end)

t.test("every part of the key changes every draw", function()
  local base = stream():uniform(64)
  for _, change in ipairs { { seed = 43 }, { seed = -42 }, { purpose = "lime@2" }, { id = "0123456789abcdee" },
      { id = "" }, { replicate = 1 } } do
    t.equal(stream(change):uniform(64):eq(base):sum():item(), 0)
  end
  -- fields do not run into each other
  t.equal(stream({ purpose = "ab", id = "c" }):uniform(8):eq(
    stream({ purpose = "a", id = "bc" }):uniform(8)):sum():item(), 0)
end)

t.test("a stream's numbers never change between versions", function()
  local s = random.stream { seed = 1, purpose = "test@1", id = "x", replicate = 2 }
  t.equal(s:uniform(3):tolist(), { 0x1.e47c27489d5b8p-3, 0x1.7417443db313cp-3, 0x1.f9ed082b627p-9 })
  t.equal(s:integers(5, 100):tolist(), { 23, 18, 0, 74, 28 })
  t.equal(s:permutation(6):tolist(), { 4, 3, 5, 2, 1, 0 })
end)

t.test("moments of 200,000 draws are those of the distribution", function()
  local n, s = 200000, stream()
  local u, z = s:uniform(n), s:normal(n)
  t.near(u:mean():item(), 0.5, 4 / math.sqrt(12 * n))
  t.near(u:var():item(), 1 / 12, 1e-3)
  t.ok(u:min():item() >= 0 and u:max():item() < 1)
  t.near(z:mean():item(), 0, 4 / math.sqrt(n))
  t.near(z:var():item(), 1, 0.02)
  t.near(z:pow(4):mean():item(), 3, 0.1)
  -- pairs of Box and Muller are uncorrelated
  t.near(z[{ { 0, n - 1 } }]:mul(z[{ { 1, n } }]):mean():item(), 0, 4 / math.sqrt(n))
  t.near(s:bits(n):to("float64"):mean():item(), 0.5, 4 / math.sqrt(4 * n))
  local counts = torch.bincount(s:integers(n, 7), { minlength = 7 })
  t.ok((counts - n / 7):abs():max():item() < 5 * math.sqrt(n / 7))
end)

t.test("integers stay below a bound that no power of two is, and a permutation holds each number once", function()
  local s = stream()
  local v = s:integers(1000, 3 * 2 ^ 61)
  t.ok(v:min():item() >= 0 and v:max():item() < 3 * 2 ^ 61)
  t.equal(s:integers(4, 1):tolist(), { 0, 0, 0, 0 })
  local sorted = s:permutation(257):tolist()
  table.sort(sorted)
  t.equal(sorted, torch.arange(257):tolist())
  t.equal(s:permutation(0):tolist(), {})
end)

t.test("wrong keys and counts are told", function()
  t.fails(function() random.stream { seed = 1 } end, "stream: purpose: expected a string, got nil")
  t.fails(function() random.stream { seed = 1, purpose = "a@1", model = "vgg19" } end,
    "stream: unknown option 'model' (seed, purpose, id, replicate)")
  t.fails(function() random.stream { seed = 1, purpose = "a@1", replicate = -1 } end,
    "stream: replicate: expected 0 or more, got -1")
  t.fails(function() stream():uniform(-1) end, "stream: uniform: expected a count of 0 or more, got -1")
  t.fails(function() stream():integers(1, 0) end, "stream: integers: below: expected 1 or more, got 0")
  t.fails(function() stream():at(5):permutation(3) end,
    "stream: permutation: of a whole stream only. Use another replicate instead of at(5).")
end)
