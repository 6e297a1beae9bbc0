-- The second control of shortcut.lua: here the letter tells nothing (any letter in every picture) and the lesions are
-- visible, so the network learns those. Where a method's maps hold more of the letter than its share of the area, they
-- show what is bright and sharp, not what the network goes by.
local xai = require "medxai"

local run = xai.run { name = "shortcut_uninformative", seed = 42 }

-- Data: quickstart's phantoms with a letter in every picture, drawn without regard to the class.
local function phantoms(input)
  return xai.dataset.phantom { n_train = 1440, n_val = 96, n_test = 33, size_px = 128,
    marker = { rate = 1, tells = false }, input = input }
end
local data = phantoms "whole"

-- Model and training as in shortcut.lua
local model = xai.models.mobilenet_v2 { classes = data.classes, head = "torchvision", weights = "random",
  train_depth = "all" }
run:fit(model, data, {
  optim = xai.optim.adam { lr = 0.001 },
  schedule = xai.optim.cosine_annealing_lr { t_max = 7 },
  epochs = 7,
  batch = 16,
})
run:evaluate(model, data.test)

-- Is the letter used? It should not be.
run:audit {
  inputs = { "whole", "lungs_raw", "outside", "border", "shape" },
  seeds = {}, -- nothing more is trained
  train = function(cell) return model, phantoms(cell.input) end,
  audited = model,
  images = "all",
}

-- How much of the letter do maps hold that have no reason to?
run:overlap(model, data.test, {
  title = "The letter in the maps",
  methods = { "gradcam", "gradcam++", "xgradcam", "hirescam", "layercam", "eigencam", "eigengradcam", "ablationcam",
    "scorecam", "fullgrad", "saliency", "input_x_gradient", "integrated_gradients", "smoothgrad", "guided_backprop",
    "guided_gradcam", "lime", "shap_partition", "shap_kernel", { "shap_gradient", layer = "x" }, "shap_gradient" },
  layer = "features.13",
  mask = "marker",
  metrics = { "energy_inside" },
  baselines = { "sobel", "center_blob", "random_smooth" },
})
run:report()
