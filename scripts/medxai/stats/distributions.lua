-- Tail probabilities and quantiles of the distributions that the tests of medxai.stats need: normal, Student's t, F,
-- chi-squared, the studentized range. Plain Lua in float64, relative error below 1e-11
-- (tests/stats_reference.lua). It refuses nothing: NaN in gives NaN out.
local distributions = {}

local nan = 0 / 0
local tiny, epsilon, most = 1e-300, 1e-16, 10000

-- ---- gamma and beta -------------------------------------------------------------------------------------------------

local lanczos = { 0.99999999999980993, 676.5203681218851, -1259.1392167224028, 771.32342877765313, -176.61502916214059,
  12.507343278686905, -0.13857109526572012, 9.9843695780195716e-6, 1.5056327351493116e-7 }

--- ln Gamma(x), x > 0: Lanczos' series with g = 7 and nine terms.
---@param x number
---@return number
function distributions.log_gamma(x)
  if x < 0.5 then return math.log(math.pi / math.sin(math.pi * x)) - distributions.log_gamma(1 - x) end
  local sum, t = lanczos[1], x + 6.5
  for i = 2, 9 do sum = sum + lanczos[i] / (x + i - 2) end
  return 0.5 * math.log(2 * math.pi) + (x - 0.5) * math.log(t) - t + math.log(sum)
end

local log_gamma = distributions.log_gamma

-- A continued fraction b0 + a1 / (b1 + a2 / (b2 + ...)) by Lentz's method; step(i) gives a_i and b_i.
local function fraction(b0, step)
  local value = b0 ~= 0 and b0 or tiny
  local c, d = value, 0.0
  for i = 1, most do
    local a, b = step(i)
    d = b + a * d
    c = b + a / c
    if d == 0 then d = tiny end
    if c == 0 then c = tiny end
    d = 1 / d
    value = value * c * d
    if math.abs(c * d - 1) < epsilon then break end
  end
  return value
end

--- The upper regularised incomplete gamma function Q(a, x), a > 0, x >= 0 (Abramowitz and Stegun 6.5.29, 6.5.31).
---@param a number
---@param x number
---@return number
function distributions.gamma_upper(a, x)
  if x ~= x then return nan end
  if x <= 0 then return 1.0 end
  if x == math.huge then return 0.0 end
  local scale = math.exp(a * math.log(x) - x - log_gamma(a))
  if x < a + 1 then
    local term, sum, k = 1 / a, 1 / a, a
    for _ = 1, most do
      k = k + 1
      term = term * x / k
      sum = sum + term
      if term < sum * epsilon then break end
    end
    return 1 - sum * scale
  end
  return scale / fraction(x + 1 - a, function(i) return -i * (i - a), x + 2 * i + 1 - a end)
end

--- The regularised incomplete beta function I_x(a, b) (Abramowitz and Stegun 26.5.8, by Lentz's method).
---@param x number 0 to 1
---@param a number above 0
---@param b number above 0
---@return number
function distributions.beta(x, a, b)
  if x ~= x then return nan end
  if x <= 0 then return 0.0 end
  if x >= 1 then return 1.0 end
  if x > (a + 1) / (a + b + 2) then return 1 - distributions.beta(1 - x, b, a) end
  local front = math.exp(log_gamma(a + b) - log_gamma(a) - log_gamma(b) + a * math.log(x) + b * math.log(1 - x)) / a
  return front / fraction(1.0, function(i)
    local m = i // 2
    if i % 2 == 0 then return m * (b - m) * x / ((a + 2 * m - 1) * (a + 2 * m)), 1.0 end
    return -(a + m) * (a + b + m) * x / ((a + 2 * m) * (a + 2 * m + 1)), 1.0
  end)
end

-- ---- normal ---------------------------------------------------------------------------------------------------------

--- P(Z > z) of a standard normal variable.
---@param z number
---@return number
function distributions.normal_upper(z)
  local tail = distributions.gamma_upper(0.5, z * z / 2) / 2
  return z < 0 and 1 - tail or tail
end

--- Two-sided p of a standard normal z.
---@param z number
---@return number
function distributions.normal_p(z) return distributions.gamma_upper(0.5, z * z / 2) end

-- Root of an increasing function between low and high, by halving the interval and by the secant that stays within it.
local function root(f, low, high)
  local f_low, f_high = f(low), f(high)
  for i = 1, 200 do
    local x = (low + high) / 2
    if i % 2 == 0 then
      local secant = low - f_low * (high - low) / (f_high - f_low)
      if secant > low and secant < high then x = secant end
    end
    if x <= low or x >= high then break end
    local value = f(x)
    if value == 0 then return x end
    if value < 0 then low, f_low = x, value else high, f_high = x, value end
    if high - low < 1e-15 * math.abs(x) then break end
  end
  return (low + high) / 2
end

distributions.root = root

--- The z with P(Z <= z) = p.
---@param p number above 0, below 1
---@return number
function distributions.normal_quantile(p)
  if not (p > 0 and p < 1) then return p == 0 and -math.huge or p == 1 and math.huge or nan end
  local tail = math.min(p, 1 - p)
  local z = root(function(x) return tail - distributions.normal_upper(x) end, 0, 40)
  return p < 0.5 and -z or z
end

-- ---- Student's t, F, chi-squared ------------------------------------------------------------------------------------

--- Two-sided p of Student's t.
---@param t number
---@param df number degrees of freedom, above 0, not necessarily whole
---@return number
function distributions.t_p(t, df) return distributions.beta(df / (df + t * t), df / 2, 0.5) end

--- The t with P(|T| <= t) = level.
---@param level number for instance 0.95
---@param df number
---@return number
function distributions.t_quantile(level, df)
  local high = 1.0
  while distributions.t_p(high, df) > 1 - level and high < 1e12 do high = 2 * high end
  return root(function(t) return (1 - level) - distributions.t_p(t, df) end, 0, high)
end

--- P(F > f).
---@param f number
---@param df1 number of the numerator
---@param df2 number of the denominator
---@return number
function distributions.f_upper(f, df1, df2) return distributions.beta(df2 / (df2 + df1 * f), df2 / 2, df1 / 2) end

--- P(X > x) of a chi-squared variable.
---@param x number
---@param df number
---@return number
function distributions.chi_squared_upper(x, df) return distributions.gamma_upper(df / 2, x / 2) end

--- P(X <= k) of a binomial variable with n trials of 1/2.
---@param k integer
---@param n integer
---@return number
function distributions.sign_lower(k, n)
  if k < 0 then return 0.0 elseif k >= n then return 1.0 end
  return distributions.beta(0.5, n - k, k + 1)
end

-- ---- the studentized range ------------------------------------------------------------------------------------------

-- P(range of k standard normal variables <= q) = k integral of phi(z) (Phi(z) - Phi(z - q))^(k - 1); the trapezoid
-- rule converges faster than any power of its step on such an integrand.
local function range_lower(q, k)
  local step, sum = 0.05, 0.0
  for i = -180, 180 + math.ceil(q / step) do
    local z = i * step
    local within = distributions.normal_upper(z - q) - distributions.normal_upper(z)
    if within > 0 then sum = sum + math.exp(-z * z / 2) * within ^ (k - 1) end
  end
  return k * step * sum / math.sqrt(2 * math.pi)
end

--- The q with P(range of k independent standard normal variables <= q) = level: the studentized range with infinite
--- degrees of freedom.
---@param level number for instance 0.95
---@param k integer at least 2
---@return number
function distributions.range_quantile(level, k)
  return root(function(q) return range_lower(q, k) - level end, 0.01, 20)
end

return distributions
