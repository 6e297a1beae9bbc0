-- The pixels of a map from the most to the least relevant, and masks that take exactly a share of them.
-- Equal values stand in a keyed random order (the same for all maps of an image), so that a plateau is cut at random
-- and not by position; the reference's threshold, which takes a plateau whole or not at all, is here under its own
-- name. It refuses to rank a map that is the same everywhere: the caller learns it by nil.
local torch = require "medxai.torch"

local ranking = {}

--- Pixel numbers (row * width + column), the most relevant first.
---@param map any tensor (H, W)
---@param stream medxai.Stream keyed by the image
---@param within? any tensor (H, W) bool: only these pixels
---@return any|nil order int64 (n); nil where all values are equal
function ranking.order(map, stream, within)
  local values = map:to { device = "cpu", dtype = "float32" }:flatten()
  local shuffled = stream:permutation(values:numel())
  if within then shuffled = shuffled:masked_select(within:to { device = "cpu" }:flatten():index_select(0, shuffled)) end
  if shuffled:numel() == 0 then return nil end
  values = values:index_select(0, shuffled)
  if values:max():item() == values:min():item() then return nil end
  local _, by_value = torch.sort(values, { stable = true, dim = 0, descending = true })
  return shuffled:index_select(0, by_value)
end

--- How many of n pixels a share takes: the nearest whole number.
function ranking.count(n, share) return math.floor(n * share + 0.5) end

-- How many of n values lie below a percentile where no two are equal: as numpy.percentile places it, among n - 1 gaps;
-- all at 100.
local function below_percentile(n, percentile)
  return percentile >= 100 and n or math.ceil(percentile / 100 * (n - 1) - 1e-9)
end

-- bool (H, W): false at the pixels listed.
local function all_but(numbers, height, width)
  local keep = torch.ones(height * width, { dtype = "bool" })
  return keep:index_fill_(0, numbers, false):view({ height, width })
end

--- All pixels but those that are most (or least) relevant: a percentile of them is kept, whatever is equal. Without
--- equal values these are the pixels of `below`.
---@param order any from ranking.order
---@param percentile number 0 to 100
---@param which "most"|"least" which are left out
---@return any keep bool (H, W)
function ranking.without(order, percentile, which, height, width)
  local n = order:numel()
  local k = n - below_percentile(n, percentile)
  return all_but(order:narrow(0, which == "most" and 0 or n - k, k), height, width)
end

--- The value at a percentile, interpolated linearly between neighbors (numpy.percentile), in float64.
---@param values any tensor of any shape
---@param percentile number 0 to 100
function ranking.percentile(values, percentile)
  local sorted = values:to { device = "cpu", dtype = "float64" }:flatten():sort()
  local at = percentile / 100 * (sorted:numel() - 1)
  local low = math.floor(at)
  local a = sorted[low]:item()
  local b = sorted[math.min(low + 1, sorted:numel() - 1)]:item()
  return a + (b - a) * (at - low)
end

--- pytorch-grad-cam's masks: what lies strictly below the percentile is kept ("least": of 1 - map). A plateau at the
--- threshold is removed whole: where the percentile is 0, everything is.
---@return any keep bool (H, W)
function ranking.below(map, percentile, which)
  local values = map:to { device = "cpu", dtype = "float32" }
  if which == "least" then values = values:neg() + 1 end
  local threshold = torch.tensor(ranking.percentile(values, percentile), { dtype = "float64" }) -- numpy rounds it, too
  return values:lt(threshold:to { dtype = "float32" }:item())
end

return ranking
