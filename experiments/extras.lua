-- A trained run in depth: what does its network make of an image without its edges, or without what the map marks?
-- medxai-run experiments/extras.lua --of vgg19 examines runs/vgg19 in runs/vgg19_extras.
local xai = require "medxai"

local run = xai.run { name = "extras", seed = 42 }

-- Data and model as the run --of was trained.
local model, data = xai.trained(run.of)

-- Sobel: the edges as if they were a map, and as masks that keep what lies below a percentile of each image.
run:explain(model, data.test, {
  title = "Sobel",
  methods = { "sobel",
    { "sobel_below", percentile = 25 }, { "sobel_below", percentile = 50 }, { "sobel_below", percentile = 75 },
    { "sobel_below", percentile = 90 } },
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

-- Shapley values three ways: of boxes, with ten times the evaluations; of superpixels; and along the way from other
-- test images, as the thesis took them with each network: at what the CAM layer reads, activation times gradient.
run:explain(model, data.test, { title = "SHAP Partition", methods = { { "shap_partition", evals = 10000 } },
  images = 5 })
run:explain(model, data.test, { title = "SHAP Kernel",
  methods = { { "shap_kernel", samples = model.shap_kernel_samples } }, images = 6 })
run:explain(model, data.test, {
  title = "SHAP Gradient",
  methods = { { "shap_gradient", samples = model.shap_gradient_samples, form = "activation", background = "split",
    layer = model.shap_layer } },
  images = 5,
})
run:report()
