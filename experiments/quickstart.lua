-- Does a small network that learned to tell three kinds of phantom chest X-ray apart look at the lesion?
-- The phantom's lesions are known exactly, so the answer is a number: the share of each map's energy inside the lesion,
-- beside the lesion's share of the area (chance), a blob in the centre, and an edge detector.
local xai = require "medxai"

local run = xai.run { name = "quickstart", seed = 42 }

-- Data: made here, so that nothing has to be downloaded.
local data = xai.dataset.phantom { n_train = 480, n_val = 96, n_test = 96, size_px = 128 }

-- Model: SqueezeNet 1.0 from scratch, every layer trained.
local model = xai.models.squeezenet1_0 { classes = data.classes, weights = "random", train_depth = "all" }

-- Training
run:fit(model, data, {
  optim = xai.optim.adam { lr = 0.0003 },
  epochs = 12,
})

-- Evidence: accuracy on unseen phantoms; where the maps lie.
run:evaluate(model, data.test)
run:explain(model, data.test, {
  methods = { "gradcam", "center_blob", "sobel" },
  metrics = { "energy_inside" },
  mask = "lesion",
  images = "all",
})
run:report()
