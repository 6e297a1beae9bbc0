-- Integrated gradients: Sundararajan et al., ICML 2017, eq. 1: (x - b) times the gradient averaged along the straight
-- line from a baseline b to the image, by Gauss-Legendre quadrature, summed over the color channels, signed. Its sum is
-- the change of the target from b to x up to the quadrature's error: the completeness gap, stored with each map and
-- printed. captum's IntegratedGradients (method "gausslegendre", 50 steps, black baseline).
local completeness = require "medxai.explain.completeness"
local legendre = require "medxai.stats.quadrature"
local removal = require "medxai.perturb.removal"
local torch = require "medxai.torch"

return {
  title = "integrated gradients",
  paper = "Sundararajan et al. 2017, arXiv:1703.01365",
  version = 1,
  at = "input",
  sign = "signed",
  honesty = { completeness.honesty },
  smoothing = { aug_smooth = true },
  options = {
    steps = { "integer", default = 50, min = 1, doc = "points of the quadrature (captum's n_steps)" },
    removal = { "string", default = "black", lua = "medxai.RemovalName",
      doc = "the image at the other end of the line, the paper's baseline; see help removals" },
    baseline = { now = "removal" },
  },
  check = function(o)
    removal.of_background("integrated_gradients", removal.without_regions("integrated_gradients", o.removal))
  end,
  map = function(ctx, x, _, o)
    local lo, hi = ctx:range()
    local base = removal.parse(o.removal):background(x, { range = { lo, hi } }):to { dtype = x.dtype }
    local points, weights = legendre(o.steps) -- on [0, 1], weights sum to 1
    local sum = torch.zeros_like(x)
    -- input k is image k // steps at point k % steps
    local function at(first, count)
      local list = {}
      for k = first, first + count - 1 do
        local i, p = k // o.steps, points[k % o.steps + 1]
        list[#list + 1] = base:narrow(0, i, 1) + (x:narrow(0, i, 1) - base:narrow(0, i, 1)) * p
      end
      return torch.cat(list, 0)
    end
    ctx:gradients(ctx.count * o.steps, { kind = "input", x = at,
      image = function(k) return k // o.steps + 1 end }, function(first, count, gradients)
      local parts = {}
      for k = first, first + count - 1 do
        parts[#parts + 1] = gradients.x:narrow(0, k - first, 1) * weights[k % o.steps + 1]
      end
      for j, part in ipairs(parts) do sum:narrow(0, (first + j - 1) // o.steps, 1):add_(part) end
    end)
    local raw = ((x - base) * sum):sum({ 1 })
    return raw, completeness.extras(raw, completeness.differences(ctx, base))
  end,
}
