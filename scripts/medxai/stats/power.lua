-- Power: how likely the audit's one-sided tests of an area under the ROC curve find a class that can be told, or clear
-- one that cannot; and how large a paired difference has to be. Samples with one class only are refused.
local distributions = require "medxai.stats.distributions"

local power = {}

local function logit(p) return math.log(p / (1 - p)) end

--- The standard error of an area (Hanley and McNeil 1982, Radiology 143, eq. 1 and 2).
---@param area number above 0, below 1
---@param positives integer
---@param negatives integer
---@return number
function power.standard_error(area, positives, negatives)
  local q1, q2 = area / (2 - area), 2 * area * area / (1 + area)
  local variance = area * (1 - area) + (positives - 1) * (q1 - area * area) + (negatives - 1) * (q2 - area * area)
  return math.sqrt(variance / (positives * negatives))
end

--- How likely a one-sided test on the scale of log odds tells an area from a threshold, each of `tests` at alpha /
--- tests (the first step of Holm's method, which every one of a family has to pass at worst).
---@param area number the true one; below the threshold: that it is cleared, above it: that it is found
---@param threshold number
---@param positives integer patients with the class
---@param negatives integer patients without it
---@param tests? integer default 1
---@param alpha? number default 0.05
---@return number 0 to 1, NaN where a side is empty
function power.of_area(area, threshold, positives, negatives, tests, alpha)
  if positives < 1 or negatives < 1 then return 0 / 0 end
  local se = power.standard_error(area, positives, negatives) / (area * (1 - area))
  local z = math.abs(logit(area) - logit(threshold)) / se
  return distributions.normal_upper(distributions.normal_quantile(1 - (alpha or 0.05) / (tests or 1)) - z)
end

--- The paired difference, in standard deviations of its values, that a two-sided test finds with a probability, at
--- alpha / tests (Holm's first step): (z of 1 - alpha / (2 tests) + z of the probability) / sqrt(units), by the normal
--- distribution.
---@param units integer patients
---@param tests? integer default 1
---@param probability? number default 0.8
---@param alpha? number default 0.05
---@return number NaN without units
function power.least_shift(units, tests, probability, alpha)
  if units < 1 then return 0 / 0 end
  local z = distributions.normal_quantile(1 - (alpha or 0.05) / (2 * (tests or 1)))
  return (z + distributions.normal_quantile(probability or 0.8)) / math.sqrt(units)
end

return power
