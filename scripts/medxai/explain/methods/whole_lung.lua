-- Baseline: the lung mask itself, the same for every model. What a map must beat before it says more than "in the
-- lungs". Not defined for data without lung masks.
local has_mask = require("medxai.data.split").has_mask
local not_defined = require "medxai.base.not_defined"

return {
  title = "whole lung",
  version = 1,
  at = "input",
  sign = "nonnegative",
  baseline = true,
  one_by_one = true,
  masks = function() return { "lungs" } end,
  map = function(ctx)
    local split, item = ctx.split, ctx.items[1]
    local known = has_mask(split, "lungs")
    local mask = known and split:mask(item.number, "lungs")
    if not mask then not_defined.raise(known and "the image has no lung mask" or "the data have no lung mask") end
    return mask:to { dtype = "float32" }:unsqueeze(0)
  end,
}
