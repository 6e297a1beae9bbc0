-- VGG19: which learning rate, step, depth and size of the head train it best? Every combination, judged on the
-- validation split.
local xai = require "medxai"

local run = xai.run { name = "vgg19_gridsearch", seed = 42 }

-- Data: the COVID-QU-Ex layout; another folder by --data DIR.
local data = xai.dataset.covid_qu_ex { root = "data/COVID-QU-Ex", resize_px = 255 }

-- Search: 32 cells.
local search = run:grid {
  lr = { 0.001, 0.01 },
  step_size = { 5, 7 },
  train_depth = { 0, 1, 2, 3 },
  hidden = { 1024, 256 },
  epochs = function(cell) return cell.train_depth >= 2 and 15 or 10 end,
  train = function(cell)
    local model = xai.models.vgg19 {
      classes = data.classes,
      weights = "imagenet",
      on_missing = "scratch",
      hidden = cell.hidden,
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
