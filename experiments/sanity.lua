-- Do maps depend on what they claim to explain? Every method on networks that are trained: maps of other patients, of
-- the same network with random weights stage by stage from the output back, of another network and of another training.
-- Sobel, a random smooth map, a blob in the middle and noise keyed by the weights go through the same checks: how they
-- come out is known, and where one does not, nothing here holds. Train the networks first (mobilenet_v2.lua,
-- resnet50.lua; with seeds = { 1, 2, 3 } a second training of each is at hand, and the checks "learned" and "retrain"
-- are made). Try --images 24, --draws 2.
local xai = require "medxai"

local run = xai.run { name = "sanity", seed = 42 }

-- Data: every network reads them as it was trained on.
local data = xai.dataset.covid_qu_ex { root = "data/COVID-QU-Ex" }

local study = run:study {
  models = { "mobilenet_v2", "resnet50" },
  data = data.test,
  images = 48, -- balanced over classes, one per patient
}

run:sanity(study, {
  methods = { "gradcam", "layercam", "hirescam", "eigencam", "saliency", "guided_backprop", "integrated_gradients",
    { "lime", samples = 1000 } },
  images = 48,
  -- A network trained with labels = "permuted_all": permuted = { mobilenet_v2 = "mobilenet_v2_permuted" }
})
run:report()
