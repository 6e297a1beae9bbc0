-- Prediction changed: does the network predict another class once the pixels that the map marks (above 0) are taken out? The mean
-- over images is the share whose prediction hangs on them. Chance: the same pixels turned by 180 degrees about the image's middle,
-- as many and as they lie, but elsewhere. What lies above 0 should be a part of the image: a mask, or a map cut at a threshold.
local removal = require "medxai.removal"

local function predicted(row)
  local best = 1
  for k = 2, #row do
    if row[k] > row[best] then best = k end
  end
  return best
end

return {
  title = "prediction changed",
  version = 1,
  direction = "higher",
  range = { 0, 1 },
  unit = "share of images",
  axis = "share of images whose prediction changes without the marked pixels",
  needs = { model = true },
  negatives = "not marked",
  options = { hide = { "string", default = "noisy_linear(0.01)", field = false } },
  check = function(options) options.hide = removal.parse(options.hide).id end,
  measure = function(map, ctx, options)
    local marked = map:gt(0)
    if not marked:any():item() then return nil, nil, "nothing is marked" end
    local rows = ctx:removed_logits(removal.parse(options.hide), {
      { name = "marked", keep = marked:logical_not() }, { name = "marked, turned", keep = marked:flip({ 0, 1 }):logical_not() } })
    local before = predicted(ctx.subject:original())
    return predicted(rows[1]) ~= before and 1 or 0, predicted(rows[2]) ~= before and 1 or 0
  end,
}
