-- The data's own mask as a map: not an explanation but what to compare with, and what to take out: with the metric
-- prediction_changed it asks whether the network needs what the mask marks (a lead letter, a finding, the lungs).
-- It refuses a mask that the data do not have; of an image without it the map is not defined.
local not_defined = require "medxai.base.not_defined"
local check = require "medxai.base.check"

return {
  title = "data mask",
  version = 1,
  at = "input",
  sign = "nonnegative",
  baseline = true,
  one_by_one = true,
  picture = "masked",
  options = { mask = { "string", required = true, doc = "name of one of the data's masks" } },
  masks = function(options) return { options.mask } end,
  map = function(ctx, _, _, options)
    check.known("data_mask", "mask", options.mask, ctx.split.data and ctx.split.data.masks or {})
    local mask = ctx.split:mask(ctx.items[1].number, options.mask)
    if not mask or mask:sum():item() == 0 then not_defined.raise("the image has no " .. options.mask) end
    return mask:ne(0):to { dtype = "float32" }
  end,
}
