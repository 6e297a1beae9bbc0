-- EfficientNet B0 on whole chest X-rays: does it tell COVID-19, other infections and normal lungs apart, and where does
-- it look?
local xai = require "medxai"

local run = xai.run { name = "efficientnet_b0", seed = 42 }

-- Data: the COVID-QU-Ex layout; another folder by --data DIR.
local data = xai.dataset.covid_qu_ex { root = "data/COVID-QU-Ex" }

-- Model: torchvision's network with ImageNet weights and a new head; depth 3 of the network is trained.
local model = xai.models.efficientnet_b0 {
  classes = data.classes,
  weights = "imagenet",
  on_missing = "scratch",
  hidden = 512,
  train_depth = 3,
}

-- Training: cross entropy; the weights with the best validation accuracy are kept.
run:fit(model, data, {
  optim = xai.optim.sgd { lr = 0.05, momentum = 0.9 },
  schedule = xai.optim.step_lr { step_size = 3, gamma = 0.1 },
  epochs = 15,
})

-- Evidence: the whole test split; Grad-CAM of the predicted class.
run:evaluate(model, data.test)
run:explain(model, data.test, { methods = { "gradcam" }, images = "one_per_class" })
run:report()
