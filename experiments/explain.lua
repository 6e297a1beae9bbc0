-- A trained run: where does its network look, do the methods agree, and does it need what they mark?
-- medxai-run experiments/explain.lua --of vgg19_masked explains runs/vgg19_masked in runs/vgg19_masked_explain.
-- (The thesis explained mobilenet_v2's whole images on 224 px and trained on 225: --sizes thesis does so.)
local xai = require "medxai"

local run = xai.run { name = "explain", seed = 42 }

-- Data and model as the run --of was trained.
local model, data = xai.trained(run.of)
run:evaluate(model, data.test)

-- Where: a row per class; 32 images with their predictions; the four layers, deep to shallow.
local smoothed = { "gradcam", aug_smooth = true, eigen_smooth = true }
run:explain(model, data.test, { title = "Grad-CAM and guided backprop",
  methods = { smoothed, "guided_backprop", "guided_gradcam" } })
run:explain(model, data.test, { title = "32 test images", methods = { smoothed }, images = 32, figures = { "grid" } })
run:explain(model, data.test, { title = "Layers", methods = { smoothed }, each_layer = model.compare_layers })

-- Which method: each plain and smoothed, with its time and its ROAD on the image and class that is drawn.
local nine = { "gradcam", "gradcam++", "eigengradcam", "ablationcam", "hirescam", "xgradcam", "fullgrad", "eigencam",
  "layercam" }
local road = { "road_combined", percentiles = { 25, 50, 75 } }
run:explain(model, data.test, { title = "Methods", methods = nine, metrics = { road }, figures = { "methods" } })
run:explain(model, data.test, {
  title = "Methods, smoothed", methods = nine, metrics = { road }, figures = { "methods" }, aug_smooth = true,
  eigen_smooth = true,
})

-- Which regions speak for the three likeliest classes: LIME, 1,000 samples over quickshift superpixels.
run:explain(model, data.test, { title = "LIME", methods = { "lime" } })

-- How faithful, as probabilities, beside maps that know nothing of the network.
run:explain(model, data.test, {
  title = "CAM metrics",
  methods = { smoothed, "sobel", "center_blob", "random_smooth" },
  images = 32,
  metrics = {
    { "confidence_change", as = "softmax" }, { "confidence_drop", as = "softmax" },
    { "confidence_increase", as = "softmax" },
    { "road_most_relevant_first", percentiles = { 25, 50, 75, 90 }, as = "softmax" },
    { "road_combined", percentiles = { 20, 40, 60, 80 }, as = "softmax" },
    "energy_inside",
  },
  mask = "lungs",
  figures = { "table", "charts", "removal" },
})

-- What each part adds to each class: Shapley values of boxes, hidden by a blur.
run:explain(model, data.test, { title = "SHAP Partition", methods = { "shap_partition" }, images = 10 })
run:report()
