-- Which network, and which explanation of it? The thesis' seven networks and its methods on the same images: networks
-- compared first, then a gate that asks whether a method's maps depend on what they claim to explain, then the methods
-- judged beside trivial baselines and beside another patient's map, each method's own chance level. Train the networks
-- first (squeezenet1_0.lua ... vgg19.lua). Try --images 60, --budget_hours 2, or several processes on one folder:
-- --array-index 1/4.
local xai = require "medxai"

local run = xai.run { name = "compare", seed = 42 }

-- Data: every network reads them as it was trained on.
local data = xai.dataset.covid_qu_ex { root = "data/COVID-QU-Ex" }

local study = run:study {
  models = { "squeezenet1_0", "mobilenet_v2", "efficientnet_b0", "densenet121", "resnet50", "inception_v3", "vgg19" },
  data = data.test,
  tune = data.val, -- temperature, conformal sets
  images = 240, -- balanced over classes, one per patient; the first 60 of 240 are the 60
}

-- Networks: what decides is named before.
run:networks(study, { primary = "auroc_macro", margin = 0.02 })

-- Explanations
local methods = { "gradcam", "layercam", "hirescam", "eigencam", "saliency", "integrated_gradients",
  { "lime", samples = 1000 } }
run:sanity(study, { methods = methods, images = 48 })
run:compare(study, {
  methods = methods,
  metrics = { "road_combined", { "deletion", steps = 20 }, "faithfulness_correlation", "infidelity", "energy_inside",
    "effective_area" },
  mask = "lungs",
  primary = "road_combined",
})
run:report()
