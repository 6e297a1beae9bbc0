-- MobileNet V2 in depth: what does it make of an image without its edges, or without what the map marks?
local xai = require "medxai"

local run = xai.run { name = "mobilenet_v2_extras", seed = 42 }

-- Data and model: as the run mobilenet_v2 was trained; its weights.
local data = xai.dataset.covid_qu_ex { root = "data/COVID-QU-Ex", size_px = 225, resize_px = 256 }
local model = xai.models.mobilenet_v2 { classes = data.classes, weights = "mobilenet_v2" }

-- Sobel: the edges as if they were a map, and as masks that keep what lies below a percentile of each image.
run:explain(model, data.test, {
  title = "Sobel",
  methods = { "sobel",
    { "sobel_below", percentile = 25 }, { "sobel_below", percentile = 50 }, { "sobel_below", percentile = 75 }, { "sobel_below", percentile = 90 } },
  images = 32,
  metrics = { { "confidence_change", as = "softmax" } },
})

-- LIME with ten times the samples.
run:explain(model, data.test, { title = "LIME, 10,000 samples", methods = { { "lime", samples = 10000 } } })

-- Faithfulness in every form: pixels removed in both orders, deleted and inserted; beside a map that knows nothing.
run:explain(model, data.test, {
  title = "Faithfulness of Grad-CAM",
  methods = { { "gradcam", aug_smooth = true, eigen_smooth = true }, "random_smooth" },
  images = 32,
  metrics = {
    { "road_most_relevant_first", percentiles = { 25, 50, 75 }, as = "softmax" },
    { "road_least_relevant_first", percentiles = { 25, 50, 75 }, as = "softmax" },
    { "road_combined", percentiles = { 25, 50, 75 }, as = "softmax" },
    { "deletion", as = "softmax" }, { "insertion", as = "softmax" },
  },
  figures = { "table", "charts", "removal" },
})

-- Shapley values three ways: of boxes, with ten times the evaluations; of superpixels; and along the way from other test images,
-- as the thesis took them: at what the CAM layer reads, activation times gradient.
run:explain(model, data.test, { title = "SHAP Partition", methods = { { "shap_partition", evals = 10000 } }, images = 5 })
run:explain(model, data.test, { title = "SHAP Kernel", methods = { "shap_kernel" }, images = 6 })
run:explain(model, data.test, {
  title = "SHAP Gradient", methods = { { "shap_gradient", samples = 2000, form = "activation", background = "split", layer = "features.17" } }, images = 5,
})
run:report()
