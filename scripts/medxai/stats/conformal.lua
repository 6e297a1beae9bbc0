-- Conformal sets: for each image the classes that hold the true one in at least 1 - alpha of images like those of the
-- tuning split, whatever the network is (split conformal, Vovk 2005; least ambiguous sets, Sadinle, Lei and Wasserman
-- 2019). It refuses a promise that few tuning images cannot keep: then the set is all classes.
local check = require "medxai.base.check"

local conformal = {}

--- The k-th smallest of m scores, k = ceil((m + 1)(1 - alpha)); infinite where k > m.
---@param scores number[] 1 - probability of the true class, on the tuning split
---@param alpha number share of images that may be missed, above 0, below 1
---@return table { q, k, m, sd = spread of the coverage itself over tuning splits: sqrt(alpha (1 - alpha) / (m + 2)) }
function conformal.threshold(scores, alpha)
  if not (type(alpha) == "number" and alpha > 0 and alpha < 1) then
    check.fail("conformal", "alpha is a share of images (expected between 0 and 1, got %s).", tostring(alpha))
  end
  local sorted, m = {}, #scores
  for i, s in ipairs(scores) do
    if s ~= s then check.fail("conformal", "score %d is not a number.", i) end
    sorted[i] = s
  end
  table.sort(sorted)
  local k = math.ceil((m + 1) * (1 - alpha) - 1e-9)
  return { q = k <= m and sorted[k] or math.huge, k = k, m = m, alpha = alpha,
    sd = math.sqrt(alpha * (1 - alpha) / (m + 2)) }
end

--- Thresholds from a tuning split: one for all classes, or one per class, which then holds within each class.
---@param labels integer[] 0-based
---@param probabilities number[][] [image][class]
---@param alpha number
---@param per_class? boolean
---@return table { all = threshold } or { [class + 1] = threshold }; for conformal.sets
function conformal.fit(labels, probabilities, alpha, per_class)
  if #labels ~= #probabilities then
    check.fail("conformal", "labels and probabilities differ in length (%d and %d).", #labels, #probabilities)
  end
  local classes = #(probabilities[1] or {})
  local scores, by_class = {}, {}
  for c = 1, classes do by_class[c] = {} end
  for i, row in ipairs(probabilities) do
    local p = row[labels[i] + 1]
    if not p then check.fail("conformal", "image %d has label %s (expected 0 to %d).", i, labels[i], #row - 1) end
    scores[i] = 1 - p
    table.insert(by_class[labels[i] + 1], 1 - p)
  end
  if not per_class then return { all = conformal.threshold(scores, alpha) } end
  local list = {}
  for c = 1, classes do list[c] = conformal.threshold(by_class[c], alpha) end
  return list
end

--- The set of each image: the classes whose 1 - probability is at most the threshold.
---@param probabilities number[][]
---@param fitted table from conformal.fit
---@return integer[][] classes, 0-based
function conformal.sets(probabilities, fitted)
  local list = {}
  for i, row in ipairs(probabilities) do
    local set = {}
    for c, p in ipairs(row) do
      if 1 - p <= (fitted.all or fitted[c]).q then set[#set + 1] = c - 1 end
    end
    list[i] = set
  end
  return list
end

--- How the sets do on images with known classes.
---@param labels integer[] 0-based
---@param sets integer[][]
---@return table { hits = 1 or 0 of each image (for medxai.stats.units' hit_rate), coverage, size = mean, empty =
---  images, n }
function conformal.judge(labels, sets)
  local hits, covered, size, empty = {}, 0, 0, 0
  for i, set in ipairs(sets) do
    hits[i] = 0
    for _, class in ipairs(set) do
      if class == labels[i] then hits[i] = 1 end
    end
    covered, size, empty = covered + hits[i], size + #set, empty + (#set == 0 and 1 or 0)
  end
  local n = #sets
  return { hits = hits, coverage = covered / n, size = size / n, empty = empty, n = n }
end

return conformal
