-- Deep feature factorization: Collins et al., ECCV 2018, section 3: the layer's value, channels by places, as a product
-- of few concepts (channels) and where they are (places), both without negative numbers. Here of each image alone; the
-- map is where the concept is that gives most to the target: its places' sum times the mean gradient's product with it.
-- All concepts, their places and what each gives are kept beside the map. As pytorch-grad-cam's dff, whose
-- factorization is scikit-learn's (coordinate descent, begun at random); it makes no choice among concepts.
local torch = require "medxai.torch"

local most_rounds, tolerance = 200, 1e-4 -- scikit-learn's

-- One round over the columns of W, given X H' and H H': in place; how far the round was from rest.
local function update(W, hh, xh)
  local moved = 0.0
  for k = 0, hh:size(0) - 1 do
    local w, curve = W:select(1, k), hh[{ k, k }]:item()
    local g = W:mv(hh:select(1, k)) - xh:select(1, k)
    moved = moved + torch.where(w:eq(0), g:clamp_max(0), g):abs():sum():item()
    if curve ~= 0 then w:copy_((w - g / curve):clamp_min(0)) end
  end
  return moved
end

-- X (C, hw) >= 0 -> concepts (C, k), places (k, hw).
local function factors(X, k, stream)
  local size, C, n = math.sqrt(X:mean():item() / k), X:size(0), X:size(1)
  local drawn = stream:normal(k * n + C * k):abs() * size
  local Ht, W = drawn:narrow(0, 0, k * n):view { k, n }:t():contiguous(),
    drawn:narrow(0, k * n, C * k):view { C, k }:contiguous()
  local first
  for round = 1, most_rounds do
    local moved = update(W, Ht:t():mm(Ht), X:mm(Ht)) + update(Ht, W:t():mm(W), X:t():mm(W))
    if round == 1 then first = moved end
    if first == 0 or moved / first <= tolerance then break end
  end
  return W, Ht:t():contiguous()
end

return {
  title = "deep feature factorization",
  paper = "Collins et al. 2018, arXiv:1806.10206",
  version = 1,
  at = "layer",
  sign = "nonnegative",
  rng = "dff@1",
  needs = { gradient = true },
  honesty = { { fact = "left_out", title = "of the layer's value that the concepts leave out", short = "left out",
    percent = true } },
  options = {
    concepts = { "integer", default = 5, min = 1, doc = "into which the layer's value is split (n_components)" },
  },
  map = function(ctx, _, _, o)
    local a, g = ctx:activation():cpu(), ctx:gradient():cpu() -- (N, C, h, w)
    local maps, extras, C, h, w = {}, {}, a:size(1), a:size(2), a:size(3)
    local k = math.min(o.concepts, C, h * w)
    for i = 1, ctx.count do
      local X = a:select(0, i - 1):reshape({ C, h * w }):to { dtype = "float64" }
      local lowest = X:amin({ 1 }, true)
      X = X - lowest
      local W, H = factors(X, k, ctx:stream("dff@1", i))
      local mean = g:select(0, i - 1):reshape({ C, h * w }):to { dtype = "float64" }:mean({ 1 })
      local gives = mean:unsqueeze(0):mm(W):squeeze(0) * H:sum({ 1 })
      local best = gives:argmax():item()
      maps[i] = H:select(0, best):view { h, w }
      extras[i] = { facts = { concept = best, gives = gives:tolist(),
        left_out = (X - W:mm(H)):norm():item() / math.max(X:norm():item(), 1e-300) },
        arrays = { concepts = W + lowest, places = H:view { k, h, w } } }
    end
    return torch.stack(maps, 0):to { dtype = ctx.x.dtype, device = ctx.x.device }, extras
  end,
}
