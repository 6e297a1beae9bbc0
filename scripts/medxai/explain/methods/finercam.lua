-- Finer-CAM: Zhang et al., CVPR 2025, section 3.2: Grad-CAM of what tells the target's class from the classes most like
-- it: the class' logit less `alpha` times theirs, the mean over the `compared` classes whose logits are nearest, each
-- weighted by its probability among them. As pytorch-grad-cam's FinerCAM (its authors'), whose weights have derivatives
-- too.
-- compat: 1e-9 is added to the sum of the probabilities, which wipes out the map where the network is sure.
local from_layer = require "medxai.explain.from_layer"
local not_defined = require "medxai.base.not_defined"
local torch = require "medxai.torch"

-- The classes nearest to the target's by their logits, 0-based.
local function nearest(row, class, most)
  local order = {}
  for k = 0, #row - 1 do
    if k ~= class then order[#order + 1] = k end
  end
  local own = row[class + 1]
  table.sort(order, function(a, b)
    local x, y = math.abs(row[a + 1] - own), math.abs(row[b + 1] - own)
    return x < y or (x == y and a < b)
  end)
  return table.move(order, 1, math.min(most, #order), 1, {})
end

-- What is derived of one image's logits (1, K), and the classes compared with.
local function score_of(logits, target, o, compat)
  local classes = nearest(logits:detach():squeeze(0):tolist(), target.index, o.compared)
  if #classes == 0 then not_defined.raise "Finer-CAM compares classes, and the network has one" end
  local index = torch.tensor(classes, { dtype = "int64" }):to { device = logits.device }
  local others = logits:index_select(1, index)
  local differences = logits:narrow(1, target.index, 1) - others * o.alpha
  if not compat then return (torch.softmax(others, 1) * differences):sum(), classes end
  local p = torch.softmax(logits, 1):index_select(1, index)
  return (p * differences):sum() / (p:sum() + 1e-9), classes
end

return {
  title = "Finer-CAM",
  paper = "Zhang et al. 2025, arXiv:2501.11309",
  version = 1,
  at = "layer",
  sign = "signed",
  needs = { base = true },
  smoothing = { aug_smooth = true, eigen_smooth = true },
  options = {
    alpha = { "number", default = 1, min = 0, doc = "how much the classes compared with count; 0: Grad-CAM" },
    compared = { "integer", default = 3, min = 1, unit = "classes",
      doc = "most like the target's, if there are so many" },
  },
  map = function(ctx, _, targets, o)
    local extras = {}
    for i = 1, ctx.count do
      local t = targets[i]
      if t.against or t.as ~= "logit" then
        not_defined.raise("Finer-CAM compares the logit of a class with others that it chooses (the target is "
          .. (t.against and "a contrast)" or "a probability)"))
      end
    end
    local g = from_layer.run(ctx, function(value, logits, to_map)
      local sum
      for i = 1, ctx.count do
        local score, classes = score_of(logits:narrow(0, i - 1, 1), targets[i], o, ctx.compat)
        sum = sum and sum + score or score
        for k, class in ipairs(classes) do classes[k] = ctx.model.classes[class + 1] end
        extras[i] = { facts = { compared_with = classes } }
      end
      return to_map(torch.autograd.grad(sum, { value })[1])
    end)
    return ctx:combine(g:mean({ 2, 3 }, true) * ctx:activation(), extras)
  end,
}
