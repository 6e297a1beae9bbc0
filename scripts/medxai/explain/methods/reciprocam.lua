-- Recipro-CAM: Byun and Lee 2022, section 3: what the network says of the layer's value with one place kept and all
-- others set to 0, place by place: the map is the class probability of each. No gradient; only what follows the layer
-- is run, once per place. Tokens that are no places stay. As OpenVINO XAI's ReciproCAM.
local context = require "medxai.explain.context"
local torch = require "medxai.torch"

-- (count, ...): the layer's value of one image with only place first, first + 1 ... kept.
local function kept(raw, grid, height, width, first, count)
  local dims, kind = raw.shape, grid and grid.kind or "nchw"
  local places = torch.arange(first, first + count, { device = raw.device }):view { count, 1 }
  local on = torch.arange(height * width, { device = raw.device }):view { 1, -1 }:eq(places):to { dtype = raw.dtype }
  if kind == "nchw" then return raw * on:view { count, 1, height, width } end
  if kind == "nhwc" then return raw * on:view { count, height, width, 1 } end
  local all = torch.ones({ count, dims[2], 1 }, { dtype = raw.dtype, device = raw.device })
  all:narrow(1, grid.first, height * width):copy_(on:unsqueeze(2))
  return raw * all
end

return {
  title = "Recipro-CAM",
  paper = "Byun and Lee 2022, arXiv:2209.14074",
  version = 1,
  at = "layer",
  as = "softmax",
  sign = "nonnegative",
  needs = { base = true },
  smoothing = { aug_smooth = true },
  map = function(ctx)
    local a, raw, grid = ctx:activation(), ctx:raw_activation()
    local height, width, maps, extras = a:size(2), a:size(3), {}, {}
    for i = 1, ctx.count do
      local base = {}
      for name, value in pairs(ctx:base()) do base[name] = context.image_of(ctx.model, name, value, i) end
      local own = raw:narrow(0, i - 1, 1)
      local logits = ctx.scorer:from_layer(ctx.layer, base, height * width, function(first, count)
        return kept(own, grid, height, width, first, count)
      end)
      local scores = ctx.targets:score_of(i, logits):to { dtype = "float64" }
      local still = ctx:unmoved(i, scores:tolist())
      if still then scores:zero_() end
      maps[i] = scores:view { 1, height, width }
      extras[i] = { facts = {}, status = still == "saturated" and still or nil }
    end
    return torch.cat(maps, 0), extras
  end,
}
