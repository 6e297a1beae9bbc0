-- VGG19: does the model of masked images need the mask, and the plain one what lies outside the lungs?
-- Each is judged on its own kind of images and on the other's.
local xai = require "medxai"

local run = xai.run { name = "maskedtest", seed = 42 }

-- Data: the same test images whole and lung-masked; another folder by --data DIR.
local whole = xai.dataset.covid_qu_ex { root = "data/COVID-QU-Ex", resize_px = 255 }
local masked = xai.dataset.covid_qu_ex { root = "data/COVID-QU-Ex", resize_px = 255, input = "lungs" }

-- Models: of the runs vgg19 and vgg19_masked.
local plain_model = xai.models.vgg19 { classes = whole.classes, weights = "vgg19", hidden = 256 }
local masked_model = xai.models.vgg19 { classes = whole.classes, weights = "vgg19_masked", hidden = 256 }

-- Evidence: two models, two kinds of input; where the masked model looks, and at which depth.
run:cross_evaluate { models = { plain = plain_model, masked = masked_model },
  splits = { whole = whole.test, masked = masked.test } }
local smoothed = { "gradcam", aug_smooth = true, eigen_smooth = true }
run:explain(masked_model, masked.test, { title = "Grad-CAM and guided backprop",
  methods = { smoothed, "guided_backprop", "guided_gradcam" } })
run:explain(masked_model, masked.test, { title = "Layers", methods = { smoothed },
  each_layer = masked_model.compare_layers })
run:report()
