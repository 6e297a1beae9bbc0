-- EfficientNet B0: which learning rate, momentum, step and gamma train it best? Every combination, judged on the
-- validation split, starting from the masked run's weights as the thesis did.
local xai = require "medxai"

local run = xai.run { name = "efficientnet_b0_gridsearch_warm", seed = 42 }

-- Data: the COVID-QU-Ex layout; another folder by --data DIR.
local data = xai.dataset.covid_qu_ex { root = "data/COVID-QU-Ex" }

-- Search: 36 cells.
local search = run:grid {
  lr = { 0.05, 0.01, 0.005 },
  momentum = { 0.1, 0.5, 0.9 },
  step_size = { 3, 5 },
  gamma = { 0.1, 0.5 },
  train_depth = { 3 },
  epochs = { 5 },
  train = function(cell)
    local model = xai.models.efficientnet_b0 {
      classes = data.classes,
      weights = "efficientnet_b0_masked",
      force = { "input" }, -- that run saw masked images
      hidden = 512,
      train_depth = cell.train_depth,
    }
    return model, data, {
      optim = xai.optim.sgd { lr = cell.lr, momentum = cell.momentum },
      schedule = xai.optim.step_lr { step_size = cell.step_size, gamma = cell.gamma },
      epochs = cell.epochs,
    }
  end,
}

-- Evidence: the winner was chosen by its validation score; the test split says what that is worth.
run:evaluate(search.model, data.test)
run:report()
