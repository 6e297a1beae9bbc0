-- Intersection over union of the map, cut at percentiles (95: the top 5 % of the pixels) and by Otsu, with a mask.
-- Chance is what a mask of the same size placed at random gets, to first order. Undefined on an empty mask and a map
-- that is the same everywhere. A threshold that is tuned needs other images: run:overlap has it.
local cuts = require "medxai.score.binarize"

return {
  title = "IoU",
  version = 1,
  direction = "higher",
  range = { 0, 1 },
  axis = "intersection over union with the mask",
  unit = "share",
  needs = { mask = true },
  negatives = "cut to 0",
  options = cuts.options,
  many = "percentiles",
  check = cuts.check,
  values = cuts.names,
  measure = cuts.measure "iou",
}
