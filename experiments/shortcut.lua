-- Do explanations find the shortcut that a network is known to take? In these phantoms lesions are invisible (contrast
-- 0) and a lead letter tells the class: L nodule, P opacity, none clear. First: does the network hang on the letter?
-- Then, per method, the share of the map's energy on the letter's box, beside the box's share of the area and beside
-- maps that know nothing of the network; then the same for a twin with random weights. shortcut_uninformative.lua is
-- the second control. A method that fails here is reported, not tuned: all run with their own defaults, the CAMs at
-- features.13 (8 x 8 cells).
local xai = require "medxai"

local run = xai.run { name = "shortcut", seed = 42 }

-- Data: the letter is all there is to learn.
local function phantoms(input)
  return xai.dataset.phantom { n_train = 1440, n_val = 96, n_test = 48, size_px = 128, contrast = 0,
    marker = { rate = { 0, 1, 1 } }, input = input }
end
local data = phantoms "whole"

-- Model: MobileNet V2 from scratch, with torchvision's own head, every layer trained.
local model = xai.models.mobilenet_v2 { classes = data.classes, head = "torchvision", weights = "random",
  train_depth = "all" }

-- Training
run:fit(model, data, {
  optim = xai.optim.adam { lr = 0.001 },
  schedule = xai.optim.cosine_annealing_lr { t_max = 7 },
  epochs = 7,
  batch = 16,
})
run:evaluate(model, data.test)

-- The pictures with a letter: all but the clear ones.
local lettered = {}
for i = 1, data.test.n do
  if data.test:label(i) ~= 0 then lettered[#lettered + 1] = i end
end
local pictures = data.test:subset(lettered)

-- Is the letter used? What hiding it takes from the answers beyond hiding as much elsewhere, and what few numbers tell
-- of each input.
run:audit {
  inputs = { "whole", "lungs_raw", "outside", "border", "shape" },
  seeds = {}, -- nothing more is trained
  train = function(cell) return model, phantoms(cell.input) end,
  audited = model,
  images = "all",
}

-- Is it found? Every method, beside edges, a blob in the middle and a random smooth map; paired over the pictures.
local asked = {
  methods = { "gradcam", "gradcam++", "xgradcam", "hirescam", "layercam", "eigencam", "eigengradcam", "ablationcam",
    "scorecam", "fullgrad", "saliency", "input_x_gradient", "integrated_gradients", "smoothgrad", "guided_backprop",
    "guided_gradcam", "lime", "shap_partition", "shap_kernel", { "shap_gradient", layer = "x" }, "shap_gradient" },
  layer = "features.13",
  mask = "marker",
  metrics = { "energy_inside" },
  baselines = { "sobel", "center_blob", "random_smooth" },
}
asked.title = "The letter in the maps"
run:overlap(model, pictures, asked)
asked.title = "The letter in the maps of random weights"
run:overlap(model:randomize { to = "features.0" }, pictures, asked)
run:report()
