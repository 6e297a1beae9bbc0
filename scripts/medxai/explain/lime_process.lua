-- LIME's regression with fewer passes: a Gaussian process is fitted to what the network said of the samples and
-- answers for many more rows, which cost no pass; the regression is fitted to those (Bayesian quadrature: O'Hagan
-- 1991, J. Stat. Plan. Inference 29; Rasmussen and Ghahramani 2003, NeurIPS 15). Its kernel is
-- exp(-sum_j l_j [regions j differ]) with l_j = scale (|b_j| / max |b|)^power and the ordinary regression's weights b:
-- effects of several regions together count the less, the more they are. It is fitted to the answers or, where they
-- are probabilities, to their logits; link, scale and power are those with the least weighted error for samples that
-- are left out one at a time. The price is a bias, as large as the process is wrong.
local design = require "medxai.explain.lime_design"
local surrogate = require "medxai.explain.lime_surrogate"
local torch = require "medxai.torch"

local process = {}

--- The largest number of samples: its time grows with the cube.
process.most = 2000

local rows_answered, chunk, enumerated = 16384, 2048, 14
local noise, least, scales, powers = 0.1, 0.02, { 0.1, 0.2, 0.4, 0.8 }, { 0.5, 1 }
local edge = 1e-6 -- probabilities nearer to 0 or 1 count as so near

local links = {
  { to = function(y) return y end, from = function(v) return v end, fits = function() return true end },
  { to = function(y) return y:clamp(edge, 1 - edge):logit() end, from = torch.sigmoid,
    fits = function(y) return y:min():item() >= 0 and y:max():item() <= 1 end },
}

-- a (n, K), b (m, K) of 0 and 1, lengths (K) -> (n, m)
local function kernel(a, b, lengths)
  local scaled = a * lengths
  local apart = scaled:sum({ 1 }, true) + (b * lengths):sum({ 1 }):unsqueeze(0) - torch.matmul(scaled, b:t()) * 2
  return torch.exp(apart * -1)
end

-- Error of each sample if it is left out: (A^-1 r)_i / (A^-1)_ii (Rasmussen and Williams 2006, eq. 5.12).
local function solve(z, residual, lengths)
  local covariance = kernel(z, z, lengths) + torch.eye(z:size(0), { dtype = "float64" }) * noise
  local inverse = torch.cholesky_inverse(torch.linalg_cholesky(covariance))
  local dual = torch.mv(inverse, residual)
  return dual, dual / inverse:diagonal()
end

-- The best process under one link: missed is the weighted squared error of samples that are left out.
local function fit_link(z, y, w, alpha, link)
  local values = link.to(y)
  local b = surrogate.coefficients(z, values:unsqueeze(1), w, alpha):squeeze(1):abs()
  local mean, best = values:mean():item(), nil
  local residual, share = values - mean, (b / b:max()):clamp(least)
  for _, power in ipairs(powers) do
    for _, scale in ipairs(scales) do
      local lengths = share:pow(power) * scale
      local dual, left_out = solve(z, residual, lengths)
      left_out = y - link.from(values - left_out)
      local missed = (w * left_out:pow(2)):sum():item()
      if not best or missed < best.missed then
        best = { z = z, dual = dual, lengths = lengths, mean = mean, link = link, left_out = left_out, missed = missed }
      end
    end
  end
  return best
end

--- Fits the process to one column.
---@param z any float64 (n, K) of 0 and 1
---@param y any float64 (n)
---@param w any float64 (n): weights of the samples when link, scale and power are chosen
---@param alpha number ridge penalty of the ordinary regression
---@return table|nil fitted for process.answers; left_out: error of each sample where it is left out (n); score: the
---   weighted share of y that it tells so, 1 at most; nil where y is the same everywhere or not finite
function process.fit(z, y, w, alpha)
  local range = y:max():item() - y:min():item()
  if not (range > 0 and range < math.huge) then return nil end
  local best
  for _, link in ipairs(links) do
    local one = link.fits(y) and fit_link(z, y, w, alpha, link)
    if one and (not best or one.missed < best.missed) then best = one end
  end
  local centered = y - (w * y):sum():item() / w:sum():item()
  best.score = 1 - best.missed / (w * centered * centered):sum():item()
  return best
end

--- What the process says of rows.
---@param rows any float64 (m, K)
---@return any y float64 (m)
function process.answers(fitted, rows)
  local parts, n = {}, rows:size(0)
  for first = 0, n - 1, chunk do
    local part = rows:narrow(0, first, math.min(chunk, n - first))
    local values = torch.mv(kernel(part, fitted.z, fitted.lengths), fitted.dual) + fitted.mean
    parts[#parts + 1] = fitted.link.from(values)
  end
  return torch.cat(parts, 0)
end

--- The rows that the process answers for: all subsets of up to 14 regions, 16,384 balanced ones of more.
---@param count integer regions
---@param key table seed, purpose, id, replicate
---@return any rows float64 (m, K)
function process.rows(count, key)
  if count > enumerated then return design.draw("balanced", rows_answered, count, key):to { dtype = "float64" } end
  local number, columns = torch.arange(1 << count, { dtype = "int64" }), {}
  for j = 1, count do
    columns[j] = number:remainder(1 << j):ge(1 << (j - 1)):to { dtype = "float64" }
  end
  return torch.stack(columns, 1)
end

--- What LIME's regression is fitted to instead of samples: rows, the process' answers, the penalty for so many rows.
---@param z any float64 (n, K)
---@param y any float64 (n, L)
---@param o table kernel_width, alpha
---@param rows any float64 (m, K)
---@return table { z = rows, y = their answers (m, L), alpha, fits = a fit or false for each column }. A column that
---   is the same everywhere has its mean as answers, one that is not finite NaN
function process.stand_in(z, y, o, rows)
  local w, columns, fits = surrogate.weights(z, o.kernel_width), {}, {}
  for k = 0, y:size(1) - 1 do
    local column = y:select(1, k)
    local fitted = process.fit(z, column, w, o.alpha)
    columns[k + 1] = fitted and process.answers(fitted, rows)
      or torch.full({ rows:size(0) }, column:mean():item(), { dtype = "float64" })
    fits[k + 1] = fitted or false
  end
  return { z = rows, y = torch.stack(columns, 1), alpha = o.alpha * rows:size(0) / z:size(0), fits = fits }
end

return process
