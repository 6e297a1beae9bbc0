-- Drop in confidence: how far the target's score falls when the image is multiplied by its map, 0 where it rises
-- (pytorch-grad-cam's DropInConfidence: absolute, not relative to the score as in the paper of Grad-CAM++). Lower is
-- better.
local multiplied = require "medxai.score.masked_confidence"

return {
  title = "confidence drop",
  version = 1,
  direction = "lower",
  unit = "score",
  axis = "fall of the score under image x map",
  needs = { model = true },
  negatives = "cut to 0",
  compat = true,
  measure = function(map, ctx)
    local change, chance, why = multiplied.change(map, ctx)
    if not change then return nil, chance, why end
    return math.max(-change, 0)
  end,
}
