-- Two networks' accuracies on the same images: McNemar's exact test, its mid-p, and the paired difference with its
-- interval. It refuses answers that are neither right nor wrong.
local check = require "medxai.base.check"
local distributions = require "medxai.stats.distributions"

local accuracy = {}

--- McNemar's test of two counts of discordant images, those that the first alone and the second alone has right:
--- two-sided exact p, and mid-p, which counts the observed split half (McNemar 1947; Fagerland, Lydersen and Laake
--- 2013, BMC Med Res Methodol 13:91).
---@param first integer
---@param second integer
---@return number exact 1 where no image is discordant
---@return number mid
function accuracy.mcnemar(first, second)
  local n, least = first + second, math.min(first, second)
  if n == 0 then return 1.0, 1.0 end
  local lower, below = distributions.sign_lower(least, n), distributions.sign_lower(least - 1, n)
  return math.min(1, 2 * lower), lower + below
end

--- The first network's accuracy minus the second's: the studentised bootstrap interval, and McNemar's exact p with
--- its mid-p where each patient has one image, else p by random signs of the patients' sums.
---@param over medxai.Units
---@param a number[] 1 for right, 0 for wrong, one per image
---@param b number[]
---@param id? string keys the random signs
---@return medxai.Interval with p, mid_p and test
function accuracy.difference(over, a, b, id)
  local first, second = 0, 0
  for i = 1, over.n do
    if a[i] ~= 0 and a[i] ~= 1 or b[i] ~= 0 and b[i] ~= 1 then
      check.fail("accuracy", "image %d is %s and %s (expected 1 for right, 0 for wrong).", i, tostring(a[i]),
        tostring(b[i]))
    end
    if a[i] > b[i] then first = first + 1 elseif b[i] > a[i] then second = second + 1 end
  end
  local r = over:difference(a, b, id)
  if over.count == over.n then
    r.p, r.mid_p = accuracy.mcnemar(first, second)
    r.test = "McNemar"
  end
  return r
end

return accuracy
