-- MobileNet V2: which learning rate, step and gamma train it best? Every combination, judged on the validation split,
-- starting from the masked run's weights as the thesis did.
local xai = require "medxai"

local run = xai.run { name = "mobilenet_v2_gridsearch_warm", seed = 42 }

-- Data: the COVID-QU-Ex layout, the lungs and what lies between them; another folder by --data DIR.
local data = xai.dataset.covid_qu_ex { root = "data/COVID-QU-Ex", input = "lungs", size_px = 225, resize_px = 256 }

-- Search: 16 cells.
local search = run:grid {
  lr = { 0.1, 0.05, 0.01, 0.005 },
  step_size = { 3, 5 },
  gamma = { 0.1, 0.3 },
  train_depth = { 2 },
  epochs = { 5 },
  train = function(cell)
    local model = xai.models.mobilenet_v2 {
      classes = data.classes,
      weights = "mobilenet_v2_masked",
      hidden = 512,
      train_depth = cell.train_depth,
    }
    return model, data, {
      optim = xai.optim.sgd { lr = cell.lr, momentum = 0.9 },
      schedule = xai.optim.step_lr { step_size = cell.step_size, gamma = cell.gamma },
      epochs = cell.epochs,
    }
  end,
}

-- Evidence: the winner was chosen by its validation score; the test split says what that is worth.
run:evaluate(search.model, data.test)
run:report()
