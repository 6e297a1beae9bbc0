-- Least angle regression and its lasso (Efron, Hastie, Johnstone, Tibshirani 2004), from the Gram matrix G = X'X and X'y in
-- plain numbers: for LIME's lasso_path and kernel SHAP's choice of features, where there are at most some hundred columns.
-- It refuses to scale or centre: what is given is what is fitted.
local lars = {}

local singular = 1e-13 -- a pivot below this share of its diagonal: the column depends on those before

-- Solves A u = s for a symmetric positive definite A (list of rows, changed) by Cholesky; nil where A is singular.
local function solve(a, s)
  local n, u = #s, {}
  for i = 1, n do
    for j = 1, i do
      local sum = a[i][j]
      for k = 1, j - 1 do sum = sum - a[i][k] * a[j][k] end
      if i == j then
        if not (sum > singular * a[i][i]) then return nil end
        a[i][i] = math.sqrt(sum)
      else
        a[i][j] = sum / a[j][j]
      end
    end
    local sum = s[i]
    for k = 1, i - 1 do sum = sum - a[i][k] * u[k] end
    u[i] = sum / a[i][i]
  end
  for i = n, 1, -1 do
    local sum = u[i]
    for k = i + 1, n do sum = sum - a[k][i] * u[k] end
    u[i] = sum / a[i][i]
  end
  return u
end

-- The direction in which all active correlations fall by 1 a unit, or nil where the active columns depend on each other.
local function direction(gram, active, sign)
  local a, s = {}, {}
  for i, p in ipairs(active) do
    local row = {}
    for j, q in ipairs(active) do row[j] = gram[p][q] end
    a[i], s[i] = row, sign[p]
  end
  return solve(a, s)
end

-- How the inactive columns' correlations fall, and how far to go until one is as large as the active ones' (or all are 0).
local function step_to_join(gram, active, u, correlation, largest, inactive, just_dropped)
  local step, fall = largest, {}
  for _, j in ipairs(inactive) do
    local a = 0.0
    for i, p in ipairs(active) do a = a + gram[j][p] * u[i] end
    fall[j] = a
    local above, below = (largest - correlation[j]) / (1 - a), (largest + correlation[j]) / (1 + a)
    local starts_above, starts_below = j == just_dropped and correlation[j] > 0, j == just_dropped and correlation[j] <= 0 -- at 0, but for rounding
    if not starts_above and above > 0 and above < step then step = above end
    if not starts_below and below > 0 and below < step then step = below end
  end
  return step, fall
end

-- How far until the first active coefficient reaches 0, and its place in active.
local function step_to_zero(active, u, beta)
  local step, place = math.huge, nil
  for i, p in ipairs(active) do
    local t = -beta[p] / u[i]
    if t > 0 and t < step then step, place = t, i end
  end
  return step, place
end

local function most_correlated(correlation, inactive)
  local best
  for k, j in ipairs(inactive) do
    if not best or math.abs(correlation[j]) > math.abs(correlation[inactive[best]]) then best = k end
  end
  return best
end

local function copied(list) return table.move(list, 1, #list, 1, {}) end

-- Takes the most correlated column in; false where it depends on those before and is left out for good.
local function join(state, k)
  local j = table.remove(state.inactive, k)
  state.active[#state.active + 1] = j
  state.sign[j] = state.correlation[j] < 0 and -1 or 1
  if not direction(state.gram, state.active, state.sign) then
    table.remove(state.active)
    return false
  end
  state.path.order[#state.path.order + 1] = j
  return true
end

-- One step of the path. Returns true where no column may join next: one was dropped, or (lar) its sign turned.
local function advance(state, largest, lasso)
  local active, beta = state.active, state.beta
  local u = direction(state.gram, active, state.sign)
  local step, fall = step_to_join(state.gram, active, u, state.correlation, largest, state.inactive, state.just_dropped)
  local zero_at, place = step_to_zero(active, u, beta)
  local crossed = place ~= nil and zero_at < step
  if crossed and lasso then step = zero_at end
  for i, q in ipairs(active) do
    beta[q] = beta[q] + step * u[i]
    state.correlation[q] = state.correlation[q] - step * state.sign[q]
  end
  for _, j in ipairs(state.inactive) do state.correlation[j] = state.correlation[j] - step * fall[j] end
  state.just_dropped = nil
  if crossed and lasso then
    local q = table.remove(active, place)
    beta[q] = 0.0
    table.insert(state.inactive, 1, q)
    state.just_dropped = q
  elseif crossed then
    state.sign[active[place]] = -state.sign[active[place]]
  end
  state.path.points[#state.path.points + 1] = copied(beta)
  return crossed
end

--- The path from no column to all, one point a step, as scikit-learn's lars_path takes it. Where a coefficient changes its
--- sign, lasso drops the column; lar turns the sign and takes no new column in the next step, as there (plain LAR would not).
---@param gram number[][] p x p
---@param b number[] p: X'y
---@param options? { method: "lar"|"lasso", steps: integer, least: number } least: the largest correlation at which the path ends
---@return table path { order = columns (1-based) as they entered, points = list of coefficients (p numbers each), the first all 0 }
function lars.path(gram, b, options)
  local o = options or {}
  local lasso, steps, least = o.method ~= "lar", o.steps or math.huge, o.least or 0
  local state = { gram = gram, beta = {}, correlation = {}, inactive = {}, active = {}, sign = {}, path = { order = {}, points = {} } }
  for j = 1, #b do state.beta[j], state.correlation[j], state.inactive[j] = 0.0, b[j], j end
  state.path.points[1] = copied(state.beta)
  local crossed, before = false, math.huge
  while #state.path.points - 1 < steps and #state.inactive > 0 do
    local k = most_correlated(state.correlation, state.inactive)
    local largest = math.abs(state.correlation[state.inactive[k]])
    if not (largest > least) then break end
    if crossed or join(state, k) then
      if #state.active == 0 or lasso and largest > before * (1 + 1e-9) then break end -- rounding has taken over
      before = largest
      crossed = advance(state, largest, lasso)
    end
  end
  return state.path
end

return lars
