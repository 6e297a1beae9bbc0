-- The linear model that stands for the network near one image (Ribeiro et al. 2016): rows of kept regions, the
-- network's probabilities, weights by nearness, ridge regression with an intercept; which features it may use, how well
-- it fits. In float64, as scikit-learn's Ridge computes it.
local core = require "medxai.core"
local torch = require "medxai.torch"

local surrogate = {}

surrogate.selections = { "auto", "highest_weights", "forward_selection", "lasso_path", "none" }

--- Weights of rows by how much they keep: d = 1 - sqrt(k / K), the cosine distance to everything; w = sqrt(exp(-d^2 /
--- width^2)).
---@param z any float64 (n, K) of 0 and 1
---@param width number
---@return any w float64 (n)
function surrogate.weights(z, width)
  local d = 1 - (z:sum({ 1 }) / z:size(1)):sqrt()
  return torch.exp(d * d * (-0.5 / (width * width)))
end

-- Weighted moments about the weighted means: G (K, K), b (K, L), means of z and y, and the weighted squares of y.
local function moments(z, y, w)
  local share = (w / w:sum()):unsqueeze(1)
  local zm, ym = (z * share):sum({ 0 }, true), (y * share):sum({ 0 }, true)
  local zc, yc = z - zm, y - ym
  local weighted = zc * w:unsqueeze(1)
  return { rows = z:size(0), gram = torch.matmul(weighted:t(), zc), b = torch.matmul(weighted:t(), yc), zm = zm,
    ym = ym, squares = (yc * yc * w:unsqueeze(1)):sum({ 0 }) }
end

-- beta (K, L) = (G + alpha I)^-1 b
local function solve(gram, b, alpha)
  local lower = torch.linalg_cholesky(gram + torch.eye(gram:size(0), { dtype = "float64" }) * alpha)
  return torch.cholesky_solve(b, lower)
end

--- The coefficients alone, all features.
---@param z any float64 (n, K)
---@param y any float64 (n, L)
---@param w any float64 (n)
---@param alpha number
---@return any beta float64 (K, L)
function surrogate.coefficients(z, y, w, alpha)
  local m = moments(z, y, w)
  return solve(m.gram, m.b, alpha)
end

-- ---- which features ------------------------------------------------------------------------------------------------

-- Positions 1..n ordered by |value| descending, equal ones as they stand.
local function by_magnitude(values)
  local order = {}
  for i in ipairs(values) do order[i] = i end
  table.sort(order, function(i, j)
    local a, b = math.abs(values[i]), math.abs(values[j])
    if a ~= b and a == a and b == b then return a > b end
    return i < j
  end)
  return order
end

local function first_few(list, most) return table.move(list, 1, math.min(most, #list), 1, {}) end

-- Greedily the feature that explains most of what is left, without regularisation: after each choice all other features
-- are made orthogonal to it (a step of Cholesky with pivots), so each gain is b_j^2 / G_jj.
local function forward_selection(m, label, most)
  local g, b, chosen, used, own = m.gram:tolist(), m.b:select(1, label):tolist(), {}, {}, {}
  for j = 1, #b do own[j] = g[j][j] end
  for _ = 1, math.min(most, #b) do
    local best, most_gain = nil, -1
    for j = 1, #b do
      local gain = g[j][j] > 1e-12 * own[j] and b[j] * b[j] / g[j][j] or 0
      if not used[j] and gain > most_gain then best, most_gain = j, gain end
    end
    if not best then break end -- not a number
    chosen[#chosen + 1], used[best] = best, true
    local pivot = g[best][best]
    if pivot > 1e-12 * own[best] then
      local row, b_best = table.move(g[best], 1, #b, 1, {}), b[best]
      for j = 1, #b do
        local f = row[j] / pivot
        b[j] = b[j] - f * b_best
        for k = 1, #b do g[j][k] = g[j][k] - f * row[k] end
      end
    end
  end
  return chosen
end

-- The last point of the lasso's path with at most that many features, in order of number.
local function lasso_path(m, label, most)
  local _, points = core.lars.path(m.gram:contiguous(), m.b:select(1, label):contiguous(),
    { samples = m.rows, lasso = true })
  local chosen = {}
  for i = points:size(0) - 1, 1, -1 do
    chosen = {}
    for j, value in ipairs(points[i]:tolist()) do
      if value ~= 0 then chosen[#chosen + 1] = j end
    end
    if #chosen <= most then break end
  end
  return chosen
end

-- Features (1-based) in the order in which the reference hands them to the final fit.
local function select_features(m, label, most, mode)
  local count = m.gram:size(0)
  if mode == "auto" then mode = most <= 6 and "forward_selection" or "highest_weights" end
  local broken = not m.b:select(1, label):isfinite():all():item() -- no choice hides it: every weight will say so
  if mode == "none" or broken then
    local all = {}
    for j = 1, count do all[j] = j end
    return all
  elseif mode == "forward_selection" then
    return forward_selection(m, label, most)
  elseif mode == "lasso_path" then
    return lasso_path(m, label, most)
  end
  local beta = solve(m.gram, m.b:narrow(1, label, 1), 0.01):squeeze(1):tolist()
  return first_few(by_magnitude(beta), most)
end

-- ---- the fit --------------------------------------------------------------------------------------------------------

local function fit_one(m, label, features)
  local index = {}
  for i, j in ipairs(features) do index[i] = j - 1 end
  index = torch.tensor(index, { dtype = "int64" })
  local gram = m.gram:index_select(0, index):index_select(1, index)
  local b = m.b:narrow(1, label, 1):index_select(0, index)
  local beta = solve(gram, b, m.alpha)
  local zm = m.zm:squeeze(0):index_select(0, index)
  local intercept = m.ym[{ 0, label }]:item() - (zm * beta:squeeze(1)):sum():item()
  -- the residual's squares: y'y - 2 b'beta + beta'G beta, all about the means
  local total = m.squares[label]:item()
  local left = total - 2 * (b * beta):sum():item() + (beta * torch.matmul(gram, beta)):sum():item()
  local values, weights, out = beta:squeeze(1):tolist(), {}, {}
  for i, k in ipairs(by_magnitude(values)) do weights[i] = { feature = features[k] - 1, weight = values[k] } end
  local sum = 0.0
  for _, v in ipairs(values) do sum = sum + v end
  out.weights, out.intercept, out.local_prediction = weights, intercept, intercept + sum
  out.score = total > 0 and 1 - left / total or total == 0 and 1.0 or 0 / 0
  return out
end

--- The explanation of each label.
---@param z any float64 (n, K): rows of kept regions, row 0 all ones
---@param y any float64 (n, L): what the network gave, a column a label
---@param options { kernel_width: number, num_features: integer, feature_selection: string, alpha: number }
---@return table[] list of { weights = list of { feature (0-based), weight } by |weight| descending, intercept, score
---   (weighted R^2), local_prediction }
function surrogate.explain(z, y, options)
  local m = moments(z, y, surrogate.weights(z, options.kernel_width))
  m.alpha = options.alpha
  local list = {}
  for label = 0, y:size(1) - 1 do
    list[label + 1] = fit_one(m, label, select_features(m, label, options.num_features, options.feature_selection))
  end
  return list
end

return surrogate
