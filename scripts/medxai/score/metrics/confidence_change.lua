-- Confidence change: the target's score of the image multiplied by its map, minus that of the image (pytorch-grad-cam's
-- CamMultImageConfidenceChange). Higher is better: what the map keeps suffices for the class.
-- The published metrics use the probability: { "confidence_change", as = "softmax" }.
local multiplied = require "medxai.score.masked_confidence"

return {
  title = "confidence change",
  version = 1,
  direction = "higher",
  unit = "score",
  signed = true,
  axis = "score of image x map, minus score of the image",
  needs = { model = true },
  negatives = "cut to 0",
  compat = true,
  measure = multiplied.change,
}
