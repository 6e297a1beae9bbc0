-- What the tests of SHAP share: shap 0.51's dump (tests/reference/shap.pt, made by shap_values.py) and a method's
-- context over the tiny network of tinyexplain.lua without a run around it.
local t = require "t"
local tiny = require "tinyexplain"
local context = require "medxai.explain.context"
local Options = require "medxai.base.options"
local scorer = require "medxai.perturb.scorer"
local store = require "medxai.nn.checkpoint"
local target = require "medxai.explain.target"
local torch = require "medxai.torch"

local own = {}

--- name -> tensor of those of the dump that begin with the prefix, which is cut off.
function own.dump(prefix)
  local found = {}
  for _, entry in ipairs(store.load(t.root .. "/tests/reference/shap.pt").tensors) do
    if entry.name:sub(1, #prefix) == prefix then found[entry.name:sub(#prefix + 1)] = entry.tensor end
  end
  return found
end

function own.distance(a, b) return (a:to { dtype = "float64" } - b:to { dtype = "float64" }):abs():max():item() end

--- A context over x (N, 3, H, W) in float64; fields replace what is made.
function own.context(x, fields)
  local model = fields.model or tiny.model("float64")
  local logits, items, views = torch.no_grad(model, x), {}, {}
  for i = 1, x:size(0) do
    items[i], views[i] = { id = "image " .. i, path = i .. ".png", label = 0, number = i }, { identity = true }
  end
  local made = { pass = { logits = logits }, x = x, items = items, views = views, model = model, height = x:size(2),
    width = x:size(3), seed = 7, budget_bytes = 1 << 26, scorer = scorer.new(model),
    targets = target.fix(target.parse(fields.target or "predicted", tiny.classes), logits, items, tiny.classes) }
  for k, v in pairs(fields) do made[k] = v end
  return context.new(made)
end

--- raw, extras of a method's map with these options.
function own.map(method, ctx, options)
  local o = Options.check("test", options, method.options)
  method.check(o)
  local raw, extras = method.map(ctx, ctx.x, ctx.targets, o)
  return raw:dim() == 2 and raw:unsqueeze(0) or raw, extras
end

--- A scorer that notes every logit it gives: scorer, list of rows.
function own.noting(model)
  local inner, rows = scorer.new(model), {}
  return { deviation = function() end, logits = function(_, n, make)
    local y = inner:logits(n, make)
    for _, row in ipairs(y:tolist()) do rows[#rows + 1] = row end
    return y
  end }, rows
end

return own
