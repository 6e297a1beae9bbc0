-- Expected gradients (Erion et al. 2021, Nature Machine Intelligence 3, eq. 3), shap's GradientExplainer, at a layer or
-- with layer = "x" at the input: the mean over samples t x + (1 - t) b, b a background image and t uniform in [0, 1),
-- of the gradient there times x - b. At the input the values sum to output - mean output of the background but for
-- sampling: that gap is printed. At a layer two forms: "difference", the layer's value at x less that at b; and
-- "activation", shap's and the thesis', its value at the sample itself, which sums to nothing. shap's (model, layer)
-- means the layer's input: name the node that it reads. One forward serves all outputs; the backward goes no deeper
-- than the layer. It refuses a background of another shape.
local background = require "medxai.explain.background"
local chunks = require "medxai.tensor.chunks"
local completeness = require "medxai.explain.completeness"
local core = require "medxai.core"
local expected = require "medxai.explain.shap_expected_gradients"
local Progress = require "medxai.base.progress"
local shap = require "medxai.explain.shap"
local torch = require "medxai.torch"

-- Which background image (from 0) and which t each sample takes. "numpy": as shap draws them for a single image after
-- seeding.
local function draws_of(ctx, n, count, rng)
  if rng == "keyed" then
    return ctx:stream("shap_gradient@1", 1, 0):integers(n, count), ctx:stream("shap_gradient@1", 1, 1):uniform(n)
  end
  local state, which, t = core.rng.numpy_random_state(ctx.seed), {}, {}
  for k = 1, n do
    which[k] = state:integers(0, count, 1):item()
    t[k] = state:uniform(1):item()
  end
  return torch.tensor(which, { dtype = "int64" }), torch.tensor(t, { dtype = "float64" })
end

-- The background's mean outputs, what the target's output differs from its own, and by how much the values sum to
-- something else.
local function completeness_of(ctx, x, images, map, classes, target)
  local logits = ctx.scorer:logits(1 + images:size(0),
    function(first, count) return torch.cat({ x, images }, 0):narrow(0, first, count) end)
  local y = shap.outputs(logits, classes, target.as)
  local base = y:narrow(0, 1, images:size(0)):mean({ 0 })
  local difference = shap.of_target(y[0] - base, classes, target):item()
  return base:tolist(), difference, map:sum():item() - difference
end

return {
  title = "SHAP Gradient",
  paper = "Erion et al. 2021, doi:10.1038/s42256-021-00343-w",
  version = 2,
  at = "layer",
  sign = "signed",
  one_by_one = true,
  rng = "shap_gradient@1",
  honesty = { completeness.honesty,
    { fact = "standard_error", title = "standard error over samples", short = "std. error", percent = true },
    { fact = "change_half", title = "moved since half of the samples", short = "since half", percent = true } },
  options = {
    samples = { "integer", default = 200, min = 2, smoke = { divide_by = 50, least = 2 },
      doc = "gradients per image (shap's nsamples)" },
    background = background.options.background, background_count = background.options.background_count,
    form = { one_of = { "difference", "activation" }, default = "difference",
      doc = "at a layer, times the gradient: its value less the background's, or its value (shap's and the thesis')" },
    rng = { one_of = { "keyed", "numpy" }, default = "keyed",
      doc = "numpy: shap's draws for one image with rseed = the run's seed" },
    variances = { "boolean", default = false, doc = "keep every channel's value and shap's variance as arrays" },
    ranked_outputs = { "integer", default = 3, min = 1, doc = "the largest outputs, explained besides the target" },
  },
  check = function(o) background.check("shap_gradient", o) end,
  map = function(ctx, x, targets, o)
    local target, images, logits = targets[1], background.of("shap_gradient", ctx, o), ctx.logits
    local n, form = o.samples, ctx.layer == "x" and "difference" or o.form
    local classes, which, t = shap.classes(logits[0]:tolist(), target, o.ranked_outputs),
      draws_of(ctx, n, images:size(0), o.rng)
    local bar <close> = Progress.new("SHAP Gradient", n)
    local means = expected.means { model = ctx.model, layer = ctx.layer, x = x, background = images, which = which,
      t = t, form = form, classes = classes, as = target.as, each = o.variances, bar = bar,
      watch = function(y) ctx:note_slopes(1, y) end,
      chunks = chunks.new { device = ctx.model.device, budget_bytes = ctx.budget_bytes,
        deterministic = ctx.deterministic, what = "shap_gradient" } }
    local map = shap.of_target(means.map, classes, target)
    local error_of_mean = ((means.map_square - means.map:square()):clamp_min(0) / n):sqrt()
    local facts = { classes = shap.names(classes, ctx.model),
      output = shap.outputs(logits, classes, target.as)[0]:tolist(), samples = n,
      background = images:size(0), form = form,
      completeness_gap = "not applicable", score_difference = "not applicable",
      standard_error = error_of_mean:sum():item() / means.map:abs():sum():item(),
      change_half = shap.change(map, shap.of_target(means.half, classes, target)) }
    if ctx.layer == "x" then
      facts.base, facts.score_difference, facts.completeness_gap = completeness_of(ctx, x, images, map, classes,
        target)
    end
    local arrays = { outputs = means.map }
    if o.variances then -- shap's number: the samples' variance over the root of their number
      arrays.values, arrays.variances = means.each, (means.each_square - means.each:square()) / math.sqrt(n)
    end
    return map, { { facts = facts, arrays = arrays } }
  end,
  draw = "shap_figures",
}
