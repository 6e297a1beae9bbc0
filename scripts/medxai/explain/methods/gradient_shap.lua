-- GradientSHAP: Lundberg and Lee, NeurIPS 2017, as captum's GradientShap: the mean over samples of (x' - b) times the
-- gradient at a random place between b and x', b an image to begin from and x' the image with noise; summed over the
-- color channels, signed. Without noise it estimates expected gradients, as shap_gradient does at the input. Draws are
-- keyed by the image: the first samples of more are the same.
local background = require "medxai.explain.background"
local torch = require "medxai.torch"

-- Sample k of the batch is sample k % n of image k // n: the image with noise, the one to begin from, the place
-- between.
local function samples_of(ctx, images, o)
  local lo, hi = ctx:range()
  local scale, drawn = (hi - lo) * o.sigma, {}
  for i = 1, ctx.count do
    drawn[i] = { which = ctx:stream("gradient_shap@1", i, 0):integers(o.samples, images:size(0)):tolist(),
      at = ctx:stream("gradient_shap@1", i, 1):uniform(o.samples):tolist() }
  end
  return function(k)
    local i, s = k // o.samples, k % o.samples
    local x, d = ctx.x:narrow(0, i, 1), drawn[k // o.samples + 1]
    if o.sigma > 0 then
      local noise = ctx:stream("gradient_shap@1", i + 1, 2 + s):normal(x:numel()):view(x.shape)
      x = x + noise:to { dtype = x.dtype, device = x.device } * scale
    end
    return x, images:narrow(0, d.which[s + 1], 1), d.at[s + 1]
  end
end

return {
  title = "GradientSHAP",
  paper = "Lundberg and Lee 2017, arXiv:1705.07874; Erion et al. 2021, doi:10.1038/s42256-021-00343-w",
  version = 1,
  at = "input",
  sign = "signed",
  rng = "gradient_shap@1",
  smoothing = { aug_smooth = true },
  options = {
    samples = { "integer", default = 20, min = 1, doc = "gradients per image (captum's n_samples, there 5)" },
    sigma = { "number", default = 0, min = 0, doc = "of the noise, a share of the range from black to white (captum's "
      .. "stdevs)" },
    background = background.options.background, background_count = background.options.background_count,
  },
  check = function(o) background.check("gradient_shap", o) end,
  map = function(ctx, x, _, o)
    local images = background.of("gradient_shap", ctx, o)
    local sample, sum = samples_of(ctx, images, o), torch.zeros_like(x)
    local function between(first, count)
      local list = {}
      for k = first, first + count - 1 do
        local image, from, t = sample(k)
        list[#list + 1] = image * t + from * (1 - t)
      end
      return torch.cat(list, 0)
    end
    ctx:gradients(ctx.count * o.samples, { kind = "input", x = between,
      image = function(k) return k // o.samples + 1 end }, function(first, count, gradients)
      local parts = {}
      for k = first, first + count - 1 do
        local image, from = sample(k)
        parts[#parts + 1] = gradients.x:narrow(0, k - first, 1) * (image - from)
      end
      for j, part in ipairs(parts) do sum:narrow(0, (first + j - 1) // o.samples, 1):add_(part) end
    end)
    return (sum / o.samples):sum({ 1 })
  end,
}
