-- Does a small network that learned to tell three kinds of phantom chest X-ray apart look at the lesion?
-- The phantom's lesions are known exactly, so the answer is a number: the share of each map's energy inside the lesion,
-- beside the lesion's share of the area (chance), a blob in the centre, and an edge detector.
local xai = require "medxai"

local run = xai.run { name = "quickstart", seed = 42 }

-- Data: made here, so that nothing has to be downloaded.
local data = xai.dataset.phantom { n_train = 1440, n_val = 96, n_test = 96, size_px = 128 }

-- Model: MobileNet V2 from scratch, with torchvision's own head, every layer trained.
local model = xai.models.mobilenet_v2 { classes = data.classes, head = "torchvision", weights = "random",
  train_depth = "all" }

-- Training
run:fit(model, data, {
  optim = xai.optim.adam { lr = 0.001 },
  schedule = xai.optim.cosine_annealing_lr { t_max = 7 },
  epochs = 7,
  batch = 16,
})

-- Evidence: accuracy on unseen phantoms; where the maps lie. At 128 px the last layer has 4 x 4 cells, features.13 has
-- 8 x 8.
run:evaluate(model, data.test)
run:explain(model, data.test, {
  methods = { "gradcam", "center_blob", "sobel" },
  layer = "features.13",
  metrics = { "energy_inside" },
  mask = "lesion",
  images = "all",
})
run:report()
