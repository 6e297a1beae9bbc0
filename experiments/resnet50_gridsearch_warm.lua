-- ResNet-50: which learning rate, step and depth train it best? Every combination, judged on the validation split,
-- starting from the winner of an earlier search as the thesis did.
local xai = require "medxai"

local run = xai.run { name = "resnet50_gridsearch_warm", seed = 42 }

-- Data: the COVID-QU-Ex layout; another folder by --data DIR.
local data = xai.dataset.covid_qu_ex { root = "data/COVID-QU-Ex" }

-- Search: 12 cells.
local search = run:grid {
  lr = { 0.05, 0.01 },
  step_size = { 3, 5 },
  train_depth = { 1, 2, 3 },
  epochs = { 5 },
  train = function(cell)
    local model = xai.models.resnet50 {
      classes = data.classes,
      weights = "resnet50_gridsearch",
      hidden = 512,
      train_depth = cell.train_depth,
    }
    return model, data, {
      optim = xai.optim.sgd { lr = cell.lr, momentum = 0.9 },
      schedule = xai.optim.step_lr { step_size = cell.step_size, gamma = 0.1 },
      epochs = cell.epochs,
    }
  end,
}

-- Evidence: the winner was chosen by its validation score; the test split says what that is worth.
run:evaluate(search.model, data.test)
run:report()
