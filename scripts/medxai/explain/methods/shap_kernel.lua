-- Kernel SHAP over superpixels: Shapley values of an image's regions by weighted least squares over random subsets that
-- are shown (Lundberg and Lee 2017, theorem 2; kernel_shap.lua). The map paints each region with its value; the values
-- of an output sum to output - base by construction, so what the samples leave open is told by how far they move
-- without half of the random subsets. Subsets, weights and selection as shap 0.51's KernelExplainer; rng = "numpy"
-- draws its very numbers for each image. compat = "thesis": 20 features whatever the regions, pixels 0 .. 255 and 255
-- for hidden ones where the network expects its range, and the image on its side. It refuses an image of one region.
local check = require "medxai.base.check"
local hide = require "medxai.perturb.compose"
local kernel = require "medxai.explain.shap_kernel_math"
local shap = require "medxai.explain.shap"
local torch = require "medxai.torch"

local thesis_features = 20

-- on (n, M) bool -> the images of these subsets. Labels count regions from 0, the thesis' from 1.
local function painter(ctx, x, made, o)
  local labels = made.labels:to { device = x.device }
  if o.compat then
    local pixels = ctx:image() * 255
    return function(on)
      return hide.images(pixels, torch.full_like(pixels, 255), hide.regions(labels + 1, on)):transpose(2,
        3):contiguous()
    end
  end
  local background = shap.background(ctx, o, made.labels)
  return function(on) return hide.images(x, background, hide.regions(labels, on)) end
end

-- Logits of the empty and the full set, then of every different subset of the plan, each evaluated once; and the plan's
-- rows in them.
local function evaluate(scorer, plan, m, make, device)
  local masks, place, rows = { ("\0"):rep(m), ("\1"):rep(m) }, {}, {}
  for k, mask in ipairs(plan.masks) do
    if not place[mask] then
      masks[#masks + 1] = mask
      place[mask] = #masks - 1
    end
    rows[k] = place[mask]
  end
  local on = torch.from_string(table.concat(masks), "uint8", { #masks, m }):to { dtype = "bool", device = device }
  return scorer:logits(#masks, function(first, count) return make(on:narrow(0, first, count)) end),
    torch.tensor(rows, { dtype = "int64" })
end

return {
  title = "SHAP Kernel",
  paper = "Lundberg and Lee 2017, NeurIPS 30",
  version = 2,
  at = "input",
  sign = "signed",
  one_by_one = true,
  rng = "shap_kernel@1",
  honesty = { { fact = "change_half", title = "moved without half of the random subsets", short = "without half",
    percent = true }, shap.bfloat16_honesty },
  options = {
    samples = { "integer|string", default = 70, min = 1, lua = "integer|\"auto\"",
      smoke = { divide_by = 50, least = 20 }, doc = "subsets of regions, never more than there are; \"auto\": "
      .. "shap's 2 x regions + 2048 (its nsamples)" },
    regions = { "string|table|function", default = { "slic", n_segments = 10 }, lua = "medxai.Regions",
      doc = "the regions that are hidden and shown; see help regions" },
    removal = { "string", default = "white", lua = "medxai.RemovalName",
      doc = "what hidden regions show; see help removals" },
    hide = { now = "removal" },
    l1_reg = { "string|number", default = "num_features(10)",
      doc = "which regions are kept: num_features(k), auto (shap before 0.47), aic, bic, none, or a lasso's alpha" },
    scaling = { one_of = { "deviation", "none", "unit" }, default = "deviation",
      doc = "for aic, bic and auto; shap 0.41: none, with scikit-learn before 1.2: unit" },
    design = { one_of = { "shap", "balanced" }, default = "shap",
      doc = "balanced: antithetic pairs, the same error with fewer passes" },
    rng = { one_of = { "keyed", "numpy" }, default = "keyed",
      doc = "numpy: numpy.random.seed(the run's seed) before each image" },
    compat = { one_of = { "thesis" }, doc = "thesis: 20 features, pixels 0 to 255, the image on its side, as the "
      .. "thesis had it" },
    ranked_outputs = { "integer", default = 3, min = 1, doc = "the largest outputs, explained besides the target" },
    precision = { one_of = { "float32", "bfloat16" }, default = "float32", doc = "of the forward passes" },
  },
  check = function(o)
    shap.check("shap_kernel", o)
    kernel.parse_selection(o.l1_reg)
    if type(o.samples) == "string" and o.samples ~= "auto" then
      check.fail("shap_kernel", "samples is a number or 'auto' (got '%s').", o.samples)
    end
    if o.rng == "numpy" and o.design ~= "shap" then
      check.fail("shap_kernel", "rng = 'numpy' draws as shap does: design is 'shap' (got '%s').", o.design)
    end
  end,
  map = function(ctx, x, targets, o)
    local target, made = targets[1], shap.regions(ctx, o.regions)
    local m, first = made.count, 0
    if o.compat then
      m, first = thesis_features, 1
      if made.count >= m then
        check.fail("shap_kernel", "compat = 'thesis' has room for %d regions (got %d).", m - 1, made.count)
      end
    end
    local draws = o.rng == "numpy" and kernel.numpy_draws(ctx.seed)
      or kernel.keyed_draws(ctx.seed, "shap_kernel@1", ctx.items[1].id)
    local samples = o.samples == "auto" and 2 * m + 2048 or o.samples
    local plan, scorer = kernel.plan(m, samples, draws, o.design), ctx:scorer_in(o.precision)
    local logits, rows = evaluate(scorer, plan, m, painter(ctx, x, made, o), x.device)
    local classes = shap.classes(logits[1]:tolist(), target, o.ranked_outputs)
    local y = shap.outputs(logits, classes, target.as)
    local ends = { base = y[0]:tolist(), output = y[1]:tolist() }
    local fitted = { values = torch.full({ #classes, m }, 0 / 0, { dtype = "float64" }) }
    if y:isfinite():all():item() then fitted = kernel.fit(plan, m, y:index_select(0, rows), ends, o) end
    local function paint(v)
      return v:narrow(-1, first, made.count):index_select(-1, made.labels:reshape(-1)):view { -1, ctx.height,
        ctx.width }
    end
    local own = shap.of_target(fitted.values, classes, target)
    local still = ctx:unmoved(1, shap.of_target(y:t(), classes, target):tolist(), o.precision)
    if still then own = own:zeros_like() end
    local status = still == "saturated" and still or nil
    return paint(own),
      { { status = status, arrays = { outputs = paint(fitted.values), values = fitted.values,
        regions = made.labels:to { dtype = "int32" } },
      facts = { classes = shap.names(classes, ctx.model), base = ends.base, output = ends.output,
        evaluations = logits:size(0), subsets = #plan.masks,
        regions = { source = made.source, count = made.count, hash = made.hash }, features_kept = fitted.kept,
        determined = fitted.determined,
        -- half as many tell nothing
        bfloat16_deviation = scorer:deviation(), change_half = fitted.determined == false
        and "too few subsets to determine the values"
          or fitted.half and shap.change(own, shap.of_target(fitted.half, classes, target))
          or fitted.few and "too few random subsets to leave half out" or nil } } }
  end,
  draw = "shap_figures",
}
