-- Networks that know nothing, whole studies of them (minutes; --long): with random weights, and trained on labels that
-- were permuted in all splits. What must come out is section 12 of shared/spec/comparison.md, with what was measured.
local t = require "t"
local csv = require "medxai.base.csv"

-- Runs scripts one after the other in a folder; the rows of the last one's study/scores.csv and its folder.
local function run_all(scripts)
  local dir = t.tmpdir()
  for i, text in ipairs(scripts) do
    local path = t.write(("%s/%d.lua"):format(dir, i), 'local xai = require "medxai"\n' .. text)
    local r = t.run { "--quiet", "--threads", "1", path, cwd = dir, timeout = 3000 }
    t.equal(r.code, 0, r.err)
  end
  return dir .. "/runs/ask"
end

-- Per method the mean over networks of a metric's gain over another patient's map, and its standard error.
local function gains(folder, metric)
  local pairs_of, out = {}, {}
  for _, row in ipairs((csv.read(folder .. "/study/scores.csv"))) do
    if row.metric:match "^[%w_]+" == metric and tonumber(row.value) then
      local key = table.concat({ row.method, row.train_seed, row.image_id }, " ")
      pairs_of[key] = pairs_of[key] or { method = row.method, seed = row.train_seed }
      pairs_of[key][row.control] = tonumber(row.value)
    end
  end
  local nets = {}
  for _, p in pairs(pairs_of) do
    if p.none and p.swap then
      nets[p.method] = nets[p.method] or {}
      local n = nets[p.method][p.seed] or { sum = 0.0, count = 0 }
      nets[p.method][p.seed] = n
      n.sum, n.count = n.sum + p.none - p.swap, n.count + 1
    end
  end
  for method, by_seed in pairs(nets) do
    local n, sum, squares = 0, 0.0, 0.0
    for _, one in pairs(by_seed) do
      local mean = one.sum / one.count
      n, sum, squares = n + 1, sum + mean, squares + mean ^ 2
    end
    local mean = sum / n
    out[method] = { mean = mean, se = math.sqrt(math.max(0, squares / n - mean ^ 2) / (n - 1)), n = n }
    print(("      %-20s %s gain %+.3f, standard error %.3f, %d networks"):format(method, metric, mean, out[method].se,
      n))
  end
  return out
end

-- How many methods on networks are said to be above another patient's map, of how many.
local function claims(folder, wanted)
  local found, count = 0, 0
  for _, row in ipairs((csv.read(folder .. "/verdicts.csv"))) do
    if row.check == "above_swap" and row.family:find(wanted.metric, 1, true)
      and wanted.methods[row.subject:match "^%S+"] then
      found, count = found + (row.verdict == "better" and 1 or 0), count + 1
    end
  end
  return found, count
end

local random = { [[
local seeds = {}
for k = 1, 20 do seeds[k] = k end
local run = xai.run { name = "random", seed = 1, seeds = seeds }
local data = xai.dataset.phantom { size_px = 48, n_train = 6, n_val = 6, n_test = 60 }
local model = xai.models.squeezenet1_0 { classes = data.classes, head = "torchvision", weights = "random",
  train_depth = "all" }
run:fit(model, data, { optim = xai.optim.sgd { lr = 1e-12 }, epochs = 1, batch = 6, keep = "last" })
]], [[
local run = xai.run { name = "ask", seed = 42 }
local data = xai.dataset.phantom { size_px = 48, n_train = 6, n_val = 6, n_test = 60 }
local study = run:study { models = { "random" }, data = data.test, images = 18 }
run:compare(study, { methods = { "gradcam", "layercam", "input_x_gradient" }, baselines = { "random_smooth" },
  metrics = { { "faithfulness_correlation", sets = 60 } }, primary = "faithfulness_correlation" })
]] }

-- Measured: Grad-CAM +0.002, LayerCAM +0.016, each with 0 in its interval. Input x gradient gains 0.057: it explains
-- what the network computes, and a random network computes something. Faithfulness is to the network, not to the
-- patient; that a network has learned nothing is the gate's to say.
t.long("of 20 networks with random weights, class activation maps gain no faithfulness and none is claimed", function()
  local folder = run_all(random)
  local found = gains(folder, "faithfulness_correlation")
  for _, method in ipairs { "gradcam", "layercam" } do
    t.ok(math.abs(found[method].mean) <= 3 * found[method].se, method)
    t.ok(found[method].mean + 2 * found[method].se < 0.06, method)
  end
  t.ok(found.input_x_gradient.mean < 0.12, found.input_x_gradient.mean)
  local claimed, of = claims(folder, { metric = "faithfulness_correlation", methods = { gradcam = true,
    layercam = true } })
  t.equal(of, 40)
  t.ok(claimed <= 2, claimed) -- 0.05 of 40
end)
