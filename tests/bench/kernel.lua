-- ./bootstrap bench kernel [IMAGES]: Kernel SHAP's error against its number of passes, shap's design beside the
-- balanced one, over 20 X-rays (or phantoms, where there are none) cut into 3 x 4 regions. All 4,096 subsets of an
-- image are evaluated once, so its Shapley values are known exactly, and every plan's error, |values - truth| / |truth|
-- of the predicted class' logit, is looked up: 20 draws a count. The network is a MobileNet V2 at 96 px, trained here
-- for a few epochs (build/kernel_designs). It judges nothing.
local core = require "medxai.core"
local files = require "medxai.base.files"
local hide = require "medxai.perturb.compose"
local host = require "medxai.host"
local kernel = require "medxai.explain.shap_kernel_math"
local regions = require "medxai.perturb.regions"
local scorer = require "medxai.perturb.scorer"
local torch = require "medxai.torch"
local xai = require "medxai"

local images = math.tointeger(tonumber((...) or 20))
local size_px, epochs, draws, m = 96, 8, 20, 12
local counts = { 50, 70, 100, 150, 200, 300, 400, 600, 800, 1000, 1600 }

local function data_set()
  local shared = (os.getenv "MEDXAI_SHARED" or host.script_dir .. "/../../../shared") .. "/data/covid-cxr"
  if files.is_folder(shared) then
    return xai.dataset.covid_qu_ex { root = shared, size_px = size_px, resize_px = size_px }
  end
  return xai.dataset.phantom { n_train = 480, n_val = 48, n_test = 48, size_px = size_px }
end

local function trained_model(data)
  local model = xai.models.mobilenet_v2 { classes = data.classes, head = "torchvision", weights = "random",
    train_depth = "all", seed = 42 }
  local run = xai.run { name = "network", seed = 42, out = "build/kernel_designs" }
  run:fit(model, data, { optim = xai.optim.adam { lr = 0.001 }, epochs = epochs, batch = 16 })
  return model:eval()
end

-- Subset s as a row of 0 and 1, and its place among all.
local function all_subsets()
  local rows = {}
  for s = 0, (1 << m) - 1 do
    local row = {}
    for j = 0, m - 1 do row[j + 1] = s >> j & 1 end
    rows[s + 1] = row
  end
  return torch.tensor(rows, { dtype = "uint8" })
end

local function place_of(mask)
  local s = 0
  for j = 1, m do s = s | mask:byte(j) << (j - 1) end
  return s
end

-- The predicted class' logit of every subset of one image, a list.
local function table_of(model, x, subsets)
  local scope <close> = xai.scope()
  local labels, on = regions.of({ "grid", rows = 3, columns = 4 }, x:select(0, 0)).labels, subsets:ne(0)
  local logits = scorer.new(model):logits(subsets:size(0), function(first, count)
    return hide.images(x, torch.ones_like(x), hide.regions(labels, on:narrow(0, first, count)))
  end):to { dtype = "float64" }
  return logits:select(1, logits[subsets:size(0) - 1]:argmax():item()):tolist()
end

local function values_of(plan, outputs)
  local scope <close> = xai.scope()
  local y = {}
  for i, mask in ipairs(plan.masks) do y[i] = { outputs[place_of(mask) + 1] } end
  local ends = { base = { outputs[1] }, output = { outputs[1 << m] } }
  return kernel.fit(plan, m, torch.tensor(y, { dtype = "float64" }), ends,
    { l1_reg = "none", scaling = "deviation" }).values:tolist()[1]
end

local function distance(a, b)
  local off, size = 0.0, 0.0
  for j in ipairs(a) do off, size = off + (a[j] - b[j]) ^ 2, size + b[j] ^ 2 end
  return math.sqrt(off / size)
end

local data = data_set()
local model, sums, done = trained_model(data), {}, 0
local subsets = all_subsets()
for number = 1, math.min(images, data.test.n) do
  local scope <close> = xai.scope()
  local outputs = table_of(model, data.test:batch({ number }).x, subsets)
  local truth = values_of(kernel.plan(m, 1 << m, kernel.keyed_draws(1, "bench@1", "truth")), outputs)
  for _, design in ipairs { "shap", "balanced" } do
    for _, n in ipairs(counts) do
      for r = 1, draws do
        local plan = kernel.plan(m, n, kernel.keyed_draws(r, "bench@1", tostring(number)), design)
        local key = design .. n
        sums[key] = (sums[key] or 0) + distance(values_of(plan, outputs), truth)
      end
    end
  end
  done = done + 1
  core.memory.collect()
end

print(("Kernel SHAP, %d regions, %d images, %d draws: mean error by passes"):format(m, done, draws))
print "passes      shap  balanced  as good as shap's with"
for _, n in ipairs(counts) do
  local own, other = sums["shap" .. n] / done / draws, sums["balanced" .. n] / done / draws
  -- passes at which shap's curve, drawn straight between counts on log scales, falls to the balanced error
  local equal = "-"
  for k = 2, #counts do
    local a, b = sums["shap" .. counts[k - 1]] / done / draws, sums["shap" .. counts[k]] / done / draws
    if a >= other and b <= other then
      local t = (math.log(a) - math.log(other)) / (math.log(a) - math.log(b))
      equal = ("%d"):format(
        math.floor(math.exp(math.log(counts[k - 1]) + t * (math.log(counts[k]) - math.log(counts[k - 1]))) + 0.5))
    end
  end
  print(("%6d    %.4f    %.4f  %s"):format(n, own, other, equal))
end
