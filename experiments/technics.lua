-- Ten methods on MobileNet V2: what does each cost, and which is faithful to the image and class it is drawn for?
local xai = require "medxai"

local run = xai.run { name = "technics", seed = 42 }

-- Data and model: trained on 225 px (8 x 8 cells), explained on 224 (7 x 7), as in the thesis.
local data = xai.dataset.covid_qu_ex { root = "data/COVID-QU-Ex" }
local model = xai.models.mobilenet_v2 { classes = data.classes, weights = "mobilenet_v2", force = { "size_px" } }

-- The methods page: times are also in times.csv. Score-CAM takes a pass for each of 1,280 channels, smoothed six times
-- as many.
local ten = { "gradcam", "gradcam++", "eigengradcam", "ablationcam", "hirescam", "xgradcam", "fullgrad", "eigencam",
  "layercam", "scorecam" }
local road = { "road_combined", percentiles = { 25, 50, 75 } }
run:explain(model, data.test, { title = "Methods", methods = ten, metrics = { road },
  figures = { "methods", "table" } })
run:explain(model, data.test, {
  title = "Methods, smoothed", methods = ten, metrics = { road }, figures = { "methods", "table" }, aug_smooth = true,
  eigen_smooth = true,
})
run:report()
