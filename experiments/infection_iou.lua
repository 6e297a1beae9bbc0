-- Do the maps lie where radiologists drew the infection? EfficientNet-B0 as trained by efficientnet_b0.lua, explained
-- for COVID-19 on the infection part of the data; masks are matched by file name. Threshold-free scores first, then IoU
-- and Dice, each beside its chance level and four baselines that know nothing of the network. The thesis' IoU compared
-- a picture's red channel with masks in listing order; here the map itself is compared. Try --target predicted, --layer
-- features.6.
local xai = require "medxai"

local run = xai.run { name = "infection_iou", seed = 42 }

-- Data: the crop that the network sees; the share of each finding that it cuts away is reported.
local data = xai.dataset.covid_qu_ex { root = "data/COVID-QU-Ex", part = "infection", size_px = 224, resize_px = 256 }

-- Model
local model = xai.models.efficientnet_b0 { classes = data.classes, hidden = 512, weights = "efficientnet_b0" }

-- Evidence: thresholds are tuned on the validation split where the data have one, else cross-fitted.
run:overlap(model, data.test, {
  methods = { { "gradcam", aug_smooth = true, eigen_smooth = true }, "gradcam", "layercam",
    { "lime", samples = 1000 } },
  mask = "infection",
  target = "COVID-19",
  tune = data.val,
})
run:report()
