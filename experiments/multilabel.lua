-- Several findings per chest X-ray: which does a network find, how well, and where does it look for each?
-- The table is CheXpert's kind: a column per finding with 1, 0, -1 (uncertain) or nothing; --data FOLDER/manifest.csv
local xai = require "medxai"

local run = xai.run { name = "multilabel", seed = 42 }

-- Data: uncertain findings count as there in training, as CheXpert's U-Ones; no entry means that nobody saw one.
local data = xai.dataset.manifest {
  csv = "data/manifest.csv",
  findings = { "Opacity", "Effusion" },
  uncertain = "ones",
  missing = "zeros",
  size_px = 224,
  augment = {
    { "random_rotation", degrees = 5, interpolation = "bilinear" },
    { "color_jitter", brightness = 0.1, contrast = 0.1 },
  },
}

-- Model: a probability for each finding.
local model = xai.models.densenet121 {
  classes = data.classes,
  outputs = "sigmoid",
  weights = "imagenet",
  on_missing = "scratch",
}

-- Training: binary cross-entropy, rare findings weighted up; the weights with the best mean AUROC are kept.
run:fit(model, data, {
  optim = xai.optim.adam { lr = 0.0001 },
  loss = { "bce_with_logits", pos_weight = "balanced" },
  epochs = 8,
})

-- Evidence: AUROC, average precision, F1 and calibration per finding, at thresholds of the validation images; maps of
-- one finding.
run:evaluate(model, data.test)
run:explain(model, data.test, { methods = { "gradcam", "layercam" }, target = "Effusion", images = 6 })
run:report()
