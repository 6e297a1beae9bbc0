-- SmoothGrad: Smilkov et al. 2017, arXiv:1706.03825: the mean gradient over noisy copies of the image, summed over the
-- color channels, signed. The noise is normal with sigma a share of the network's input range (the paper takes the
-- image's own range), keyed by the image and the number of the copy: the first 25 of 100 copies are the 25.
-- captum's NoiseTunnel(Saliency(abs = False), "smoothgrad") with the same noise.
local torch = require "medxai.torch"

return {
  title = "SmoothGrad",
  paper = "Smilkov et al. 2017, arXiv:1706.03825",
  version = 1,
  at = "input",
  sign = "signed",
  derivative = true,
  rng = "smoothgrad@1",
  smoothing = { aug_smooth = true },
  options = {
    samples = { "integer", default = 25, min = 1, doc = "noisy copies of the image (captum's nt_samples)" },
    sigma = { "number", default = 0.15, min = 0, doc = "of the noise, a share of the range from black to white" },
  },
  map = function(ctx, x, _, o)
    local lo, hi = ctx:range()
    local scale = (hi - lo) * o.sigma
    local sum = torch.zeros_like(x)
    local function noisy(first, count)
      local list = {}
      for k = first, first + count - 1 do
        local i = k // o.samples
        local noise = ctx:stream("smoothgrad@1", i + 1,
          k % o.samples):normal(x:numel() // ctx.count):view({ 1, 3, ctx.height, ctx.width })
        list[#list + 1] = x:narrow(0, i, 1) + noise:to { dtype = x.dtype, device = x.device } * scale
      end
      return torch.cat(list, 0)
    end
    ctx:gradients(ctx.count * o.samples, { kind = "input", x = noisy,
      image = function(k) return k // o.samples + 1 end }, function(first, count, gradients)
      for k = first, first + count - 1 do sum:narrow(0, k // o.samples, 1):add_(gradients.x:narrow(0, k - first, 1)) end
    end)
    return (sum / o.samples):sum({ 1 })
  end,
}
