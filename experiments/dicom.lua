-- Chest X-rays as DICOM files: a network is trained on them, and where it looks is told. Of the people nothing is
-- written but a hash for each. --data FOLDER/manifest.csv: columns path, label, split, and where known view.
local xai = require "medxai"

local run = xai.run { name = "dicom", seed = 42 }

-- Data: the file's own window makes its values black and white ("minmax" where files have none that fits).
local data = xai.dataset.manifest {
  csv = "data/manifest.csv",
  classes = { "Normal", "Pneumonia" },
  window = "first",
  size_px = 224,
}

-- Model: as torchvision has it, with weights of ImageNet where they are at hand.
local model = xai.models.squeezenet1_0 {
  classes = data.classes,
  weights = "imagenet",
  on_missing = "scratch",
}

-- Training: the weights with the best validation are kept.
run:fit(model, data, {
  optim = xai.optim.adam { lr = 0.0001 },
  epochs = 8,
})

-- Evidence: how well it tells the classes apart, with intervals over patients; maps; the page.
run:evaluate(model, data.test)
run:explain(model, data.test, { methods = { "gradcam", "layercam" }, images = 6 })
run:report()
