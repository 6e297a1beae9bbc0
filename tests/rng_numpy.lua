-- NumPy's generators against NumPy: tests/reference/numpy_rng.py made the numbers.
local t = require "t"
local random = require "medxai.tensor.random"

local draw = {
  uniform = function(g, n) return g:uniform(n) end,
  randint2 = function(g, n) return g:randint(0, 2, n) end,
  randint1000 = function(g, n) return g:randint(-5, 995, n) end,
  randint_wide = function(g, n) return g:randint(0, 10 ^ 12, n) end,
  integers1000 = function(g, n) return g:integers(-5, 995, n) end,
  integers_wide = function(g, n) return g:integers(0, 10 ^ 12, n) end,
  normal = function(g, n) return g:normal(n) end,
  choice = function(g, n) return g:choice(10, n) end,
  choice_p = function(g, n) return g:choice(4, n, { 0.1, 0.2, 0.3, 0.4 }) end,
  permutation = function(g, n) return g:permutation(n) end,
}

local groups, order = {}, {} -- lines of one generator follow each other on the same stream
for line in io.lines(t.root .. "/tests/reference/numpy_rng.txt") do
  local which, seed, what, rest = line:match "^(%S+) (%S+) (%S+) (.*)$"
  local key, numbers = which .. " of seed " .. seed, {}
  for word in rest:gmatch "%S+" do numbers[#numbers + 1] = tonumber(word) end
  if not groups[key] then
    groups[key] = { make = which == "RandomState" and random.numpy_random_state or random.numpy_default_rng,
      seed = math.tointeger(seed) }
    order[#order + 1] = key
  end
  table.insert(groups[key], { what, numbers })
end

for _, key in ipairs(order) do
  t.test("numpy's " .. key .. " is equal to the last bit", function()
    local group = groups[key]
    local g = group.make(group.seed)
    for _, row in ipairs(group) do t.equal(draw[row[1]](g, #row[2]):tolist(), row[2], row[1]) end
  end)
end

t.test("numpy's generators refuse what numpy refuses", function()
  t.fails(function() random.numpy_random_state(2 ^ 32) end,
    "numpy_random_state: seed: expected at most 4294967295, got 4294967296")
  t.fails(function() random.numpy_random_state(-1) end, "numpy_random_state: seed: expected 0 or more, got -1")
  local g = random.numpy_default_rng(1)
  t.fails(function() g:integers(3, 3, 1) end, "integers: expected low < high, got 3 and 3")
  t.fails(function() g:choice(2, 1, { 0.5, 0.6 }) end, "choice: probabilities sum to 1.1000000000000001, not 1")
  t.fails(function() g:choice(2, 1, { 0.5 }) end, "choice: expected 2 probabilities, got 1")
  t.fails(function() g:uniform(-1) end, "uniform: expected a count of 0 or more, got -1")
end)
