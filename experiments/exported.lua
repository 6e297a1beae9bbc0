-- A network exported from PyTorch, trained on whole chest X-rays: where does it look, as ten methods tell it?
-- docs/exported.md shows how resnet18.pt2 is made. A transformer instead: --file vit_b_16.pt2 --out runs/vit
local xai = require "medxai"

local run = xai.run { name = "exported", seed = 42 }

-- Data: the COVID-QU-Ex layout, as torchvision's ImageNet weights want it; another folder by --data DIR.
local data = xai.dataset.covid_qu_ex {
  root = "data/COVID-QU-Ex",
  mean = { 0.485, 0.456, 0.406 },
  std = { 0.229, 0.224, 0.225 },
}

-- Model: the file's network and weights with a new head; all of it is trained.
local model = xai.models.exported { file = "resnet18.pt2", name = "exported", classes = data.classes }

-- Training: cross entropy; the weights with the best validation accuracy are kept.
run:fit(model, data, {
  optim = xai.optim.adamw { lr = 0.0001 },
  epochs = 8,
})

-- Evidence: the whole test split; ten maps of the predicted class. The attention methods are not defined for
-- convolutional networks, and say so.
run:evaluate(model, data.test)
run:explain(model, data.test, {
  methods = {
    "gradcam", "layercam", "hirescam", "eigencam", "ablationcam", "integrated_gradients", "shap_gradient",
    "attention_rollout", "generic_attention", "legrad",
  },
  images = "one_per_class",
})
run:report()
