-- The audit where the truth is known. In the first phantoms lesions lie in the lungs: without the lungs nothing is
-- told, and no input without lungs may be found. In the second ones lesions are invisible and a lead letter tells the
-- class: inputs that show the letter must be found, hiding it must change the answers, and Grad-CAM must lie on it
-- (more of its energy than of another patient's map).
local xai = require "medxai"

local inputs = { "whole", "lungs_raw", "outside", "border", "shape" }

-- Phantoms with `options`, MobileNet V2 from scratch, every layer trained.
local function training(options, epochs)
  return function(cell)
    options.input = cell.input
    local data = xai.dataset.phantom(options)
    local model = xai.models.mobilenet_v2 { classes = data.classes, head = "torchvision", weights = "random",
      train_depth = "all" }
    return model, data, { optim = xai.optim.adam { lr = 0.001 }, epochs = epochs, batch = 16 }
  end
end

local lesions = xai.run { name = "audit_phantom", seed = 42 }
lesions:audit { inputs = inputs, train = training({ n_train = 720, n_val = 150, n_test = 150, size_px = 64 }, 8) }
lesions:report()

local letter = xai.run { name = "audit_phantom_letter", seed = 42 }
letter:audit {
  inputs = inputs,
  train = training({ n_train = 1440, n_val = 96, n_test = 150, size_px = 128, contrast = 0,
    marker = { rate = { 0, 1, 1 } } }, 7),
  methods = { { "gradcam", layer = "features.13" } },
}
letter:report()
