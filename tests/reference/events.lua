-- A training of a few seconds whose event files tests/reference/events.py reads with TensorBoard's own reader.
local xai = require "medxai"
local run = xai.run { name = "tensorboard", seed = 7 }
local data = xai.dataset.phantom { n_train = 60, n_val = 12, n_test = 12, size_px = 64 }
local model = xai.graph.network { name = "tiny", classes = data.classes, size_px = 64, cam_layer = "features",
  build = function(g, x)
    x = g:block("features", function()
      return g:max_pool2d("2", g:relu("1", g:conv2d("0", x, { 3, 8, 5, padding = 2 })), { 4 })
    end)
    return g:linear("fc", g:flatten(nil, g:adaptive_avg_pool2d("pool", x, 2)), { 32, 3 })
  end }
run:fit(model, data, { optim = xai.optim.sgd { lr = 0.05 }, schedule = xai.optim.step_lr { step_size = 3, gamma = 0.5 },
  epochs = 8, batch = 4 })
run:explain(model, data.test, { methods = { "gradcam" }, images = 2 })
