-- Score-CAM: Wang et al., CVPR workshop 2020, algorithm 1: each channel, brought to the input's grid and scaled to [0,
-- 1], masks the image; the softmax over channels of the target's scores for the masked images weighs the channels.
-- As pytorch-grad-cam's ScoreCAM: bilinear with aligned corners, raw scores (a baseline would cancel in the softmax).
-- compat: 1e-8 in the scale, so that a faint channel masks more than it should.
-- One pass a channel: `channels` takes the few that vary most (an approximation), precision = "bfloat16" runs them in
-- bfloat16. Channels without contrast, but for rounding, mask all: they share one pass.
local channels = require "medxai.explain.channel_ablation"
local map = require "medxai.explain.map"
local torch = require "medxai.torch"

-- Scores (C) float64 of one image x (1, 3, H, W) under each channel of a (C, h, w); channels left out get -inf.
local function scores_of(ctx, i, a, o, scorer)
  local x = ctx.x:narrow(0, i - 1, 1)
  -- the masked images come out as it is
  if ctx.model.layout == "channels_last" then x = x:contiguous { memory_format = "channels_last" } end
  local highest, lowest = a:flatten(1):amax({ 1 }), a:flatten(1):amin({ 1 })
  local least = torch.maximum(highest:abs(), lowest:abs()) * (ctx.compat and 0 or map.rounding(a))
  local alive, range = {}, (highest - lowest):tolist()
  for c, r in ipairs(least:tolist()) do alive[c] = not (range[c] <= r) end -- NaN counts as alive and stays NaN
  local list = channels.choose(a, o.channels, alive)
  local black = #list < #range and not o.channels and 1 or 0 -- the last pass: the channels without contrast
  local logits = scorer:logits(#list + black, function(first, count)
    local n = math.min(count, #list - first)
    local parts = {}
    if n > 0 then
      local index = torch.tensor({ table.unpack(list, first + 1, first + n) },
        { dtype = "int64" }):to { device = a.device }
      -- (n, 1, H, W)
      local up = torch.upsample_bilinear2d(a:index_select(0, index):unsqueeze(1), { ctx.height, ctx.width }, true)
      local lo, hi = up:amin({ 2, 3 }, true), up:amax({ 2, 3 }, true)
      local scale = hi - lo
      if ctx.compat then scale = scale + 1e-8 else scale = scale:masked_fill(scale:eq(0), 1) end
      parts[1] = up:sub_(lo):div_(scale) * x
    end
    if n < count then parts[#parts + 1] = torch.zeros_like(x) end
    return #parts == 1 and parts[1] or torch.cat(parts, 0)
  end)
  local scores, out = ctx.targets:score_of(i, logits):to { dtype = "float64" },
    torch.full({ #range }, -math.huge, { dtype = "float64" })
  if black == 1 then out:fill_(scores:select(0, #list)) end
  if #list > 0 then out:index_copy_(0, torch.tensor(list, { dtype = "int64" }), scores:narrow(0, 0, #list)) end
  return out
end

-- Where no mask moves the score all channels weigh alike, whatever the target.
local function unmoved(ctx, i, scores, o)
  local list = { ctx.targets:score_of(i, ctx.logits:narrow(0, i - 1, 1)):item() }
  for _, score in ipairs(scores:tolist()) do
    if score ~= -math.huge then list[#list + 1] = score end
  end
  return ctx:unmoved(i, list, o.precision)
end

return {
  title = "Score-CAM",
  paper = "Wang et al. 2020, arXiv:1910.01279",
  version = 2,
  at = "layer",
  sign = "signed",
  smoothing = { aug_smooth = true, eigen_smooth = true },
  options = channels.options,
  approximate = channels.approximate,
  honesty = channels.honesty,
  map = function(ctx, _, _, o)
    local a, scorer = ctx:activation(), ctx:scorer_in(o.precision) -- (N, C, h, w)
    local weights, extras = {}, {}
    for i = 1, ctx.count do
      local scores = scores_of(ctx, i, a:select(0, i - 1), o, scorer)
      local still = not ctx.compat and unmoved(ctx, i, scores, o)
      weights[i] = torch.softmax(scores, 0) * (still and 0 or 1)
      extras[i] = { facts = channels.facts(o, a:size(1), scorer), status = still == "saturated" and still or nil }
    end
    local w = torch.stack(weights, 0):to { dtype = a.dtype, device = a.device }
    return ctx:combine(w:unsqueeze(2):unsqueeze(3) * a, extras)
  end,
}
