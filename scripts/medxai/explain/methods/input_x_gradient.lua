-- Input times gradient: Shrikumar et al. 2016, arXiv:1605.01713: x dy/dx, summed over the color channels, signed. A
-- linear estimate of what each pixel adds to the target; how far the sum misses the target's change from black to the
-- image is its completeness gap. captum's InputXGradient.
return {
  title = "input x gradient",
  paper = "Shrikumar et al. 2016, arXiv:1605.01713",
  version = 1,
  at = "input",
  sign = "signed",
  honesty = { { fact = "completeness_gap", of = "score_difference", title = "completeness gap", short = "gap",
    percent = true } },
  needs = { gradient = true },
  smoothing = { aug_smooth = true },
  map = function(ctx)
    local raw = (ctx:gradient("x") * ctx.x):sum({ 1 })
    local black = ctx:range():expand { 1, 3, ctx.height, ctx.width }
    local baseline = ctx.scorer:logits(1, function() return black end)
    local sums, own, extras = raw:to { dtype = "float64" }:sum({ 1, 2 }):tolist(), ctx.logits:cpu(), {}
    for i = 1, ctx.count do
      local difference = -ctx.targets:change_of(i, baseline, own:narrow(0, i - 1, 1)):item()
      extras[i] = { facts = { score_difference = difference, completeness_gap = sums[i] - difference } }
    end
    return raw, extras
  end,
}
