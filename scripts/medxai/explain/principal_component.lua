-- The first principal component of an activation's channels, as EigenCAM and eigen smoothing use it: pixels are rows,
-- channels columns, each column centered; the projection of the pixels on the first right singular vector.
-- By the smaller of the two Gram matrices, in float64: exact, and tens of times cheaper than a full SVD. A principal
-- component has no sign of its own: here it is the one that correlates with the unsmoothed map, so it depends on
-- neither LAPACK nor device. It refuses to hide that: a correlation under 0.1 is "sign_undecided", and the ratio of the
-- first two singular values is kept. With compat the sign is LAPACK's, by the thin SVD that agrees with NumPy's
-- (float64, hw x C), and NaN counts as 0.
local map = require "medxai.explain.map"
local torch = require "medxai.torch"

local principal = {}

principal.undecided = 0.1

-- X: (hw, C) float64, centered. -> projection (hw), ratio s2 / s1 (nil where all is constant)
local function by_gram(X)
  local shape = X.shape
  local wide = shape[1] <= shape[2]
  local values, vectors = torch.linalg_eigh(wide and X:mm(X:t()) or X:t():mm(X)) -- ascending
  local n = values:size(0)
  local first, second = values:select(0, n - 1):item(), n > 1 and values:select(0, n - 2):item() or 0.0
  local v = vectors:select(1, n - 1)
  if first <= 0 then return X:new_zeros { shape[1] }, nil end
  return wide and v * math.sqrt(first) or X:mv(v), math.sqrt(math.max(second, 0.0) / first)
end

-- X: (hw, C) centered in the features' own dtype, as NumPy does it.
local function by_lapack(X)
  local _, s, vh = torch.linalg_svd(X:to { dtype = "float64" }, false)
  local values = s:tolist()
  return X:mv(vh:select(0, 0):to { dtype = X.dtype }), values[1] > 0 and (values[2] or 0.0) / values[1] or nil
end

-- Pearson's r of two vectors (n) float64; 0 where one is constant.
local function correlation(a, b)
  a, b = a - a:mean(), b - b:mean()
  local scale = math.sqrt((a * a):sum():item() * (b * b):sum():item())
  return scale > 0 and (a * b):sum():item() / scale or 0.0
end

--- A component of one image with the sign that follows the sum of its channels.
---@param projection any (h w)
---@param features any (C, h, w)
---@param as_is? any true: the sign stays
---@return any projection
---@return number r its correlation with that sum
function principal.oriented(projection, features, as_is)
  local plain = features:to { dtype = "float64" }:sum({ 0 }):flatten()
  local exact = projection:to { dtype = "float64" }
  local r = correlation(exact, plain)
  if as_is then return projection, r end
  local down = r < 0
  -- uncorrelated: oriented so that the larger extreme is positive
  if math.abs(r) < 1e-6 then down = exact:min():abs():item() > exact:max():abs():item() end
  if down then return -projection, -r end
  return projection, r
end

-- One image: features (C, h, w). -> projection (h, w), facts, status
local function one(features, compat)
  local shape = features.shape
  if compat then features = torch.nan_to_num(features, 0.0, math.huge, -math.huge) end
  local finite = features:isfinite():all():item()
  if not finite then return torch.full({ shape[2], shape[3] }, 0 / 0, { dtype = features.dtype }), {}, nil end
  local X = features:reshape { shape[1], shape[2] * shape[3] }:t()
  if not compat then X = X:to { dtype = "float64" } end
  X = X - X:mean({ 0 }, true)
  local rounding = map.rounding(features) * features:abs():max():item()
  if not compat and X:abs():max():item() <= rounding then X:zero_() end -- every channel is constant
  local projection, ratio = (compat and by_lapack or by_gram)(X)
  local r
  projection, r = principal.oriented(projection, features, compat)
  local status = not compat and math.abs(r) < principal.undecided and "sign_undecided" or nil
  return projection:reshape { shape[2], shape[3] }:to { dtype = features.dtype },
    { singular_ratio = ratio, sign_correlation = r }, status
end

--- The projections of a batch.
---@param features any tensor (N, C, h, w); the unsmoothed map, which the sign follows, is its sum over channels
---@param compat? string "pytorch-grad-cam": LAPACK's sign
---@return any raw (N, h, w)
---@return table[] extras list of { status = "sign_undecided" or nil, facts = { singular_ratio, sign_correlation } }
function principal.project(features, compat)
  local device = features.device
  local maps, extras = {}, {}
  for i = 1, features:size(0) do
    local facts, status
    maps[i], facts, status = one(features:select(0, i - 1):cpu(), compat)
    extras[i] = { facts = facts, status = status }
  end
  return torch.stack(maps, 0):to { device = device }, extras
end

return principal
