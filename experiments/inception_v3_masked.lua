-- Inception V3 on lung-masked chest X-rays: can it tell COVID-19, other infections and normal lungs apart by the lungs
-- alone?
local xai = require "medxai"

local run = xai.run { name = "inception_v3_masked", seed = 42 }

-- Data: the COVID-QU-Ex layout, the lungs and what lies between them; another folder by --data DIR.
local data = xai.dataset.covid_qu_ex { root = "data/COVID-QU-Ex", input = "lungs", size_px = 299, resize_px = 299 }

-- Model: torchvision's network with ImageNet weights and a new head; depth 3 of the network is trained.
local model = xai.models.inception_v3 {
  classes = data.classes,
  weights = "imagenet",
  on_missing = "scratch",
  hidden = 256,
  train_depth = 3,
}

-- Training: cross entropy; the weights with the best validation accuracy are kept.
run:fit(model, data, {
  optim = xai.optim.sgd { lr = 0.01, momentum = 0.9 },
  schedule = xai.optim.step_lr { step_size = 7, gamma = 0.1 },
  epochs = 8,
})

-- Evidence: the whole test split; Grad-CAM of the predicted class.
run:evaluate(model, data.test)
run:explain(model, data.test, { methods = { "gradcam" }, images = "one_per_class" })
run:report()
