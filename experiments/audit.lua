-- Does the network need the lungs, or is the class told without them? The same training on five inputs, then what the
-- network does when parts of the image are replaced, beside what hiding as much elsewhere does. A cheap probe speaks
-- before any training.
local xai = require "medxai"

local run = xai.run { name = "audit", seed = 42 }

run:audit {
  -- The whole image, the lungs alone, all but the lungs, what lies outside their rectangle, and their outline.
  inputs = { "whole", "lungs_raw", "outside", "border", "shape" },
  seeds = { 1, 2, 3 },

  -- Data, model and training as in mobilenet_v2.lua; another folder by --data DIR.
  train = function(cell)
    local data = xai.dataset.covid_qu_ex { root = "data/COVID-QU-Ex", size_px = 225, resize_px = 256,
      input = cell.input }
    local model = xai.models.mobilenet_v2 {
      classes = data.classes,
      weights = "imagenet",
      on_missing = "scratch",
      hidden = 512,
      train_depth = 2,
    }
    return model, data, { optim = xai.optim.sgd { lr = 0.01, momentum = 0.9 }, step = { size = 7, gamma = 0.1 },
      epochs = 8 }
  end,

  -- Where the images come from. In COVID-QU-Ex COVID-19 comes from other hospitals: then class and source are one.
  sources = { ["COVID-19"] = "COVID-19 collections", ["Non-COVID"] = "other collections",
    Normal = "other collections" },

  -- Whose maps are judged by their share in the lungs. Another trained network is audited by audited = "its run".
  methods = { "gradcam" },
}
run:report()
