-- Trains a small exported network a little, for exported.py open: RUN/weights.pt and RUN/answers.pt.
local xai = require "medxai"
local torch = require "medxai.torch"

local run = xai.run { name = "exported", seed = 1 }
local data = xai.dataset.phantom { n_train = 24, n_val = 6, n_test = 6, size_px = 16 }
local model = xai.models.exported { file = arg[1], classes = data.classes }
run:fit(model, data, { optim = xai.optim.sgd { lr = 0.05 }, epochs = 2, batch = 8 })
local x = data.test:batch({ 1, 2, 3 }).x:contiguous()
local logits = torch.no_grad(function() return model:eval()(x) end)
xai.save_checkpoint(run.dir .. "/answers.pt", { x = x, logits = logits })
