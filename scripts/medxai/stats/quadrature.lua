-- Gauss-Legendre quadrature on [0, 1]: n points and weights (which sum to 1), exact for polynomials of degree 2 n - 1.
-- Roots of the Legendre polynomial by Newton's method, from the usual cosine guess; good to a few units in the last
-- place.
local function polynomial(n, x) -- P_n(x), P_n'(x)
  local before, now = 1.0, x
  for k = 2, n do before, now = now, ((2 * k - 1) * x * now - (k - 1) * before) / k end
  if n == 1 then before = 1.0 end
  return now, n * (x * now - before) / (x * x - 1)
end

---@param n integer at least 1
---@return number[] points ascending
---@return number[] weights
return function(n)
  local points, weights = {}, {}
  for i = 1, n do
    local x = -math.cos(math.pi * (i - 0.25) / (n + 0.5))
    for _ = 1, 100 do
      local p, slope = polynomial(n, x)
      local step = p / slope
      x = x - step
      if math.abs(step) < 1e-16 then break end
    end
    local _, slope = polynomial(n, x)
    points[i], weights[i] = (x + 1) / 2, 1 / ((1 - x * x) * slope * slope)
  end
  return points, weights
end
