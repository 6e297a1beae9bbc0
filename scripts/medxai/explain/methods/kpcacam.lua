-- KPCA-CAM: Karmani et al. 2024, section 3: Eigen-CAM with kernel principal components: places are rows, channels
-- columns, each centered; the map is the first component of the centered kernel matrix, its eigenvector times the root
-- of its eigenvalue. It knows no class. The sign is that which follows the sum of the channels, as Eigen-CAM's here.
-- compat: scikit-learn's sign, as pytorch-grad-cam's KPCA_CAM: the entry of largest size is positive.
local principal = require "medxai.explain.principal_component"
local torch = require "medxai.torch"

-- (hw, C) -> (hw, hw), as scikit-learn's KernelPCA with coef0 = 1 and degree = 3.
local kernels = {}
function kernels.sigmoid(X, gamma) return torch.tanh(X:mm(X:t()) * gamma + 1) end
function kernels.poly(X, gamma) return (X:mm(X:t()) * gamma + 1):pow(3) end
function kernels.linear(X) return X:mm(X:t()) end
function kernels.cosine(X)
  local unit = X / X:norm(2, { 1 }, true):clamp_min(1e-300)
  return unit:mm(unit:t())
end
function kernels.rbf(X, gamma)
  local square = X:square():sum({ 1 }, true)
  return torch.exp((square + square:t() - X:mm(X:t()) * 2):clamp_min(0) * -gamma)
end

-- One image: (C, h, w) -> (h, w), facts, status
local function component(a, o, compat)
  local shape = a.shape
  local X = a:to { dtype = "float64" }:reshape { shape[1], shape[2] * shape[3] }:t()
  X = X - X:mean({ 0 }, true)
  local K = kernels[o.kernel](X, o.gamma or 1 / shape[1])
  K = K - K:mean({ 0 }, true)
  K = K - K:mean({ 1 }, true)
  local values, vectors = torch.linalg_eigh((K + K:t()) / 2) -- ascending
  local n = values:size(0)
  local v, first = vectors:select(1, n - 1), math.max(values:select(0, n - 1):item(), 0)
  if v[v:abs():argmax():item()]:item() < 0 then v = -v end
  local projection, r = principal.oriented(v * math.sqrt(first), a, compat)
  return projection:view { shape[2], shape[3] }, { sign_correlation = r },
    not compat and math.abs(r) < principal.undecided and "sign_undecided" or nil
end

return {
  title = "KPCA-CAM",
  paper = "Karmani et al. 2024, arXiv:2410.00267",
  version = 1,
  at = "layer",
  sign = "signed",
  smoothing = { aug_smooth = true },
  options = {
    kernel = { one_of = { "sigmoid", "rbf", "poly", "cosine", "linear" }, default = "sigmoid",
      doc = "scikit-learn's; linear: Eigen-CAM" },
    gamma = { "number", above = 0, doc = "of sigmoid, rbf and poly; default: 1 over the number of channels" },
  },
  map = function(ctx, _, _, o)
    local activation, maps, extras = ctx:activation():cpu(), {}, {}
    for i = 1, ctx.count do
      local a, facts, status = activation:select(0, i - 1), nil, nil
      if a:isfinite():all():item() then
        maps[i], facts, status = component(a, o, ctx.compat)
      else
        maps[i] = torch.full({ a:size(1), a:size(2) }, 0 / 0, { dtype = "float64" })
      end
      extras[i] = { facts = facts, status = status }
    end
    return torch.stack(maps, 0):to { dtype = activation.dtype, device = ctx.x.device }, extras
  end,
}
