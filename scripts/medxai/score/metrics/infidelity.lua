-- Infidelity: how far the map's prediction of the target's drop misses it, over 200 sets S of a fifth of an image's
-- regions: mean (b u - d)^2 / mean d^2, u the map's sum over S, d = f(x) - f(x without S), b the scale that fits best,
-- at least 0 (Yeh et al., NeurIPS 2019, definition 2.1, with the authors' optimal scaling; the scale cut at 0, so that
-- an inverted map does not score). 0 is exact, 1 is a map that explains nothing. A map that is a derivative of the
-- target by the input (SmoothGrad, guided backprop) predicts u = sum of derivative x change of the pixel, from its raw
-- values with their sign; other maps are not in output per input: u is their sum. Undefined where the map is 0 on every
-- set, or the score does not change.
local faithfulness = require "medxai.stats.faithfulness"
local perturbed = require "medxai.score.perturbed"

-- What the map says of each pixel that is replaced: (H, W).
local function by_pixel(map, ctx, p, options)
  local derivative = ctx.record.derivative or ctx.entry and ctx.entry.method.derivative -- of another patient's map too
  local raw = derivative and ctx:raw()
  if not raw then return map end
  local change = (ctx.x - perturbed.background(ctx, p, options)):to { device = "cpu", dtype = "float64" }
  return raw * change:mean({ 1 }):squeeze(0)
end

return {
  title = "infidelity",
  version = 1,
  direction = "lower",
  range = { 0, 1 },
  unit = "share",
  axis = "squared error of the predicted drop, over that of predicting none",
  needs = { model = true },
  negatives = "cut to 0; of derivatives kept",
  options = perturbed.options,
  check = perturbed.check,
  measure = function(map, ctx, options)
    local p, none = perturbed.of(ctx, "sets", options)
    if not p then return nil, nil, none end
    local drops, why = perturbed.drops(ctx, p)
    if not drops then return nil, nil, why end
    local predicted = faithfulness.sums(perturbed.attributions(p, by_pixel(map, ctx, p, options)), p.sets)
    local value = faithfulness.infidelity(predicted, drops)
    return value, nil, not value and "map without energy" or nil
  end,
}
