-- Inception V3 on lung-masked chest X-rays: is a Grad-CAM map more to the network than the edges of the image?
local xai = require "medxai"

local run = xai.run { name = "sobel", seed = 42 }

-- Data and model: as the run inception_v3_masked was trained; its weights.
local data = xai.dataset.covid_qu_ex { root = "data/COVID-QU-Ex", input = "lungs", size_px = 299, resize_px = 299 }
local model = xai.models.inception_v3 { classes = data.classes, weights = "inception_v3_masked" }

-- Each map multiplies the image: Grad-CAM, the edges, and masks that keep what lies below a percentile of each image's
-- edges.
run:explain(model, data.test, {
  title = "Grad-CAM and Sobel",
  methods = { { "gradcam", aug_smooth = true, eigen_smooth = true }, "sobel",
    { "sobel_below", percentile = 25 }, { "sobel_below", percentile = 50 }, { "sobel_below", percentile = 75 },
    { "sobel_below", percentile = 90 } },
  images = 32,
  metrics = { { "confidence_change", as = "softmax" } },
})
run:report()
