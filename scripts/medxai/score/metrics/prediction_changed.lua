-- Prediction changed: does the network predict another class once the pixels that the map marks (above 0) are taken
-- out? The mean over images is the share whose prediction hangs on them. Chance: the same pixels turned by 180 degrees
-- about the image's middle, as many and as they lie, but elsewhere. Within a mask only what is marked there is taken
-- out. What lies above 0 should be a part of the image: a mask, or a map cut at a threshold.
local removal = require "medxai.perturb.removal"

-- The class of a row of logits, nil where one is not a number.
local function predicted(row)
  local best = 1
  for k = 1, #row do
    if row[k] ~= row[k] then return nil end
    if row[k] > row[best] then best = k end
  end
  return best
end

return {
  title = "prediction changed",
  version = 2, -- 1 took out what is marked outside of within too
  direction = "higher",
  range = { 0, 1 },
  unit = "hit",
  axis = "share of images whose prediction changes without the marked pixels",
  needs = { model = true },
  negatives = "not marked",
  options = {
    removal = { "string", default = "noisy_linear(0.01)", lua = "medxai.RemovalName",
      doc = "what removed pixels show; see help removals" },
    hide = { now = "removal" },
  },
  check = function(options, name) options.removal = removal.without_regions(name, options.removal).id end,
  measure = function(map, ctx, options)
    local marked = map:gt(0)
    if ctx.within then marked = marked:logical_and(ctx.within) end
    if not marked:any():item() then return nil, nil, "nothing is marked" end
    local rows = ctx:removed_logits(removal.parse(options.removal), {
      { name = "marked", keep = marked:logical_not() },
      { name = "marked, turned", keep = marked:flip({ 0, 1 }):logical_not() } })
    local before, after, turned = predicted(ctx.subject:original()), predicted(rows[1]), predicted(rows[2])
    if not before or not after then return nil, nil, "not a number" end
    return after ~= before and 1 or 0, turned and (turned ~= before and 1 or 0)
  end,
}
