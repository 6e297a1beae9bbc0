-- Increase in confidence: 1 where the target's score rises when the image is multiplied by its map, else 0
-- (pytorch-grad-cam's IncreaseInConfidence; Chattopadhay et al. 2018). Its mean is the share of images. Higher is
-- better.
local multiplied = require "medxai.score.masked_confidence"

return {
  title = "confidence increase",
  version = 1,
  direction = "higher",
  range = { 0, 1 },
  unit = "hit",
  axis = "share of images whose score rises under image x map",
  needs = { model = true },
  negatives = "cut to 0",
  compat = true,
  measure = function(map, ctx)
    local change, chance, why = multiplied.change(map, ctx)
    if not change then return nil, chance, why end
    if change ~= change then return nil, chance, "not a number" end
    return change > 0 and 1 or 0
  end,
}
