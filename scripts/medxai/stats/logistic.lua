-- Logistic regression on one number: slope and intercept by Newton's method, and the intercept alone where the slope
-- is 1. It refuses a fit that has no finite answer: where a threshold splits hits from misses, or one of them is
-- absent.
local distributions = require "medxai.stats.distributions"

local logistic = {}

local function sigmoid(z) return z >= 0 and 1 / (1 + math.exp(-z)) or math.exp(z) / (1 + math.exp(z)) end

-- -log likelihood of one answer, without overflow.
local function loss(z, hit)
  if hit then z = -z end
  return (z > 0 and z or 0) + math.log(1 + math.exp(-math.abs(z)))
end

-- Why there is no finite slope; nil where there is one.
local function obstacle(x, hits)
  local hit_low, hit_high, miss_low, miss_high = math.huge, -math.huge, math.huge, -math.huge
  for i, v in ipairs(x) do
    if v ~= v or v == math.huge or v == -math.huge then return "a log odds is not finite" end
    if hits[i] then hit_low, hit_high = math.min(hit_low, v), math.max(hit_high, v)
    else miss_low, miss_high = math.min(miss_low, v), math.max(miss_high, v) end
  end
  if hit_low > hit_high then return "no hit" end
  if miss_low > miss_high then return "no miss" end
  if hit_low >= miss_high or hit_high <= miss_low then return "hits and misses are separated" end
end

local function total_loss(x, hits, slope, intercept)
  local sum = 0.0
  for i, v in ipairs(x) do sum = sum + loss(slope * v + intercept, hits[i]) end
  return sum
end

-- One step of Newton's method: changes of slope and intercept, and how large the gradient still is.
local function step(x, hits, slope, intercept)
  local gs, gi, ss, si, ii = 0.0, 0.0, 0.0, 0.0, 0.0
  for i, v in ipairs(x) do
    local p = sigmoid(slope * v + intercept)
    local rest, w = p - (hits[i] and 1 or 0), p * (1 - p)
    gs, gi = gs + rest * v, gi + rest
    ss, si, ii = ss + w * v * v, si + w * v, ii + w
  end
  local det = ss * ii - si * si
  if not (det > 0) then return 0, 0 end
  return -(ii * gs - si * gi) / det, -(ss * gi - si * gs) / det
end

--- Maximum likelihood of P(hit) = 1 / (1 + exp(-(slope x + intercept))).
---@param x number[] log odds
---@param hits boolean[]
---@return number|nil slope nil where there is none
---@return number|string intercept, or why there is none
function logistic.fit(x, hits)
  local why = obstacle(x, hits)
  if why then return nil, why end
  local slope, intercept = 0.0, 0.0
  local now = total_loss(x, hits, slope, intercept)
  for _ = 1, 200 do
    local ds, di = step(x, hits, slope, intercept)
    local share = 1.0
    local after = total_loss(x, hits, slope + ds, intercept + di)
    while after > now + 1e-12 * math.abs(now) and share > 1e-10 do
      share = share / 2
      after = total_loss(x, hits, slope + share * ds, intercept + share * di)
    end
    slope, intercept, now = slope + share * ds, intercept + share * di, after
    local still = math.abs(share * ds) / (1 + math.abs(slope)) + math.abs(share * di) / (1 + math.abs(intercept))
    if still <= 1e-12 then break end
  end
  return slope, intercept
end

--- The intercept where the slope is 1: by how much all log odds are too low.
---@param x number[] log odds
---@param hits boolean[]
---@return number|nil intercept nil where there is none
---@return string|nil why there is none
function logistic.intercept(x, hits)
  local count, low, high = 0, math.huge, -math.huge
  for i, v in ipairs(x) do
    if v ~= v or v == math.huge or v == -math.huge then return nil, "a log odds is not finite" end
    count, low, high = count + (hits[i] and 1 or 0), math.min(low, v), math.max(high, v)
  end
  if count == 0 then return nil, "no hit" elseif count == #x then return nil, "no miss" end
  local middle = math.log(count / (#x - count)) -- the answer where all x are 0
  return distributions.root(function(a)
    local sum = -count
    for _, v in ipairs(x) do sum = sum + sigmoid(v + a) end
    return sum
  end, middle - high - 1, middle - low + 1)
end

return logistic
