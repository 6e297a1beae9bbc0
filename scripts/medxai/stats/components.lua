-- Weights or recipe: how a score varies over images and over training seeds, an interval of its mean that holds for
-- other seeds, and the t-test of scores over resplits of one data set. It refuses fewer than three seeds, from which
-- no such interval can be told.
local check = require "medxai.base.check"
local distributions = require "medxai.stats.distributions"

local components = {}

local nan = 0 / 0

-- Means of rows, of columns, of all.
local function means(table_)
  local rows, columns, all, seeds = {}, {}, 0.0, #table_[1]
  for s = 1, seeds do columns[s] = 0.0 end
  for i, row in ipairs(table_) do
    if #row ~= seeds then
      check.fail("components", "row %d has %d values (expected %d, one per seed).", i, #row, seeds)
    end
    local sum = 0.0
    for s, v in ipairs(row) do
      if v ~= v then
        check.fail("components", "row %d, seed %d has no value. Leave the image out of all seeds.", i, s)
      end
      sum, columns[s] = sum + v, columns[s] + v / #table_
    end
    rows[i], all = sum / seeds, all + sum / seeds / #table_
  end
  return rows, columns, all
end

--- Two-way table of images and seeds, both drawn at random (Searle, Casella and McCulloch 1992, ch. 4): mean squares,
--- components cut at 0, variance of the mean, Satterthwaite's degrees of freedom (1946) and the t interval.
---@param rows number[][] [image][seed], no gaps; with several images per patient the patient's means
---@param level? number default 0.95
---@return table { mean, n, seeds, ms_images, ms_seeds, ms_error, var_images, var_seeds, var_error, var = of the mean,
---  df, half, low, high, why }
function components.of(rows, level)
  local n = #rows
  local seeds = n > 0 and #rows[1] or 0
  local r = { n = n, seeds = seeds, mean = nan, var = nan, df = nan, half = nan, low = nan, high = nan }
  if n < 2 or seeds < 2 then
    r.why = n < 2 and "fewer than 2 images" or "fewer than 3 seeds"
    return r
  end
  local by_image, by_seed, mean = means(rows)
  local si, ss, se = 0.0, 0.0, 0.0
  for _, v in ipairs(by_image) do si = si + (v - mean) ^ 2 end
  for _, v in ipairs(by_seed) do ss = ss + (v - mean) ^ 2 end
  for i, row in ipairs(rows) do
    for s, v in ipairs(row) do se = se + (v - by_image[i] - by_seed[s] + mean) ^ 2 end
  end
  local mi, ms, me = seeds * si / (n - 1), n * ss / (seeds - 1), se / ((n - 1) * (seeds - 1))
  r.mean, r.ms_images, r.ms_seeds, r.ms_error = mean, mi, ms, me
  r.var_images, r.var_seeds, r.var_error = math.max(0, (mi - me) / seeds), math.max(0, (ms - me) / n), me
  r.var = (mi + ms - me) / (n * seeds)
  local squares = mi * mi / (n - 1) + ms * ms / (seeds - 1) + me * me / ((n - 1) * (seeds - 1))
  r.df = r.var > 0 and (mi + ms - me) ^ 2 / squares or 0.0
  if seeds < 3 then
    r.why = "fewer than 3 seeds"
  elseif mi + ms + me <= 1e-24 * mean * mean then
    r.why = "no spread"
  elseif r.df < 1 then -- what is taken off is about as large as what is left: no t tells anything
    r.why = "the variance cannot be told from the error"
  else
    r.half = distributions.t_quantile(level or 0.95, r.df) * math.sqrt(r.var)
    r.low, r.high = mean - r.half, mean + r.half
  end
  return r
end

--- Differences over J resplits or folds of one data set: t = mean / sqrt((1/J + n_test/n_train) s^2) with J - 1
--- degrees of freedom, since the splits share their images (Nadeau and Bengio 2003, Machine Learning 52).
---@param differences number[] one per split
---@param ratio number test images over training images
---@return table { mean, se, t, df, p, low, high, n, why }
function components.resplits(differences, ratio)
  local n, mean, squares = #differences, 0.0, 0.0
  for _, d in ipairs(differences) do mean = mean + d / n end
  for _, d in ipairs(differences) do squares = squares + (d - mean) ^ 2 end
  local r = { mean = n > 0 and mean or nan, n = n, df = n - 1, se = nan, t = nan, p = nan, low = nan, high = nan }
  if n < 2 then
    r.why = "fewer than 2 splits"
    return r
  end
  r.se = math.sqrt((1 / n + ratio) * squares / (n - 1))
  if not (r.se > 0) then
    r.why = "no spread"
    return r
  end
  r.t = mean / r.se
  r.p = distributions.t_p(r.t, n - 1)
  local half = distributions.t_quantile(0.95, n - 1) * r.se
  r.low, r.high = mean - half, mean + half
  return r
end

return components
