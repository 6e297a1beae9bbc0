-- ./bootstrap bench designs [IMAGES]: LIME's error against its number of passes, by design, over 20 X-rays (or
-- phantoms, where there are none). Truth of an image is the mean of independent plain runs of 10,000 samples; alpha
-- grows with the number of samples (1 at 1,000), so that all aim at the same weights; error is |weights - truth| /
-- |truth|. The truth's own error is shown beside it. The network is a MobileNet V2 at 96 px, trained here for a few
-- epochs. What is done for an image is kept in build/lime_designs: an interrupted study goes on. It judges nothing: the
-- goals are printed beside the numbers.
local canon = require "medxai.base.json"
local core = require "medxai.core"
local Options = require "medxai.base.options"
local coalitions = require "medxai.explain.lime_design"
local context = require "medxai.explain.context"
local files = require "medxai.base.files"
local host = require "medxai.host"
local lime = require "medxai.explain.methods.lime"
local regions = require "medxai.perturb.regions"
local removal = require "medxai.perturb.removal"
local samples = require "medxai.explain.lime_samples"
local scorer = require "medxai.perturb.scorer"
local surrogate = require "medxai.explain.lime_surrogate"
local target = require "medxai.explain.target"
local xai = require "medxai"

local images = math.tointeger(tonumber((...) or 20))
local size_px, epochs, truth_runs, truth_samples, repeats = 96, 8, 3, 10000, 3
local quickshift = { "quickshift", kernel_size = 4 * size_px / 224 } -- as many regions as LIME makes at 224 px
local counts = { 200, 300, 400, 500, 600, 800, 1000 }
local folder = "build/lime_designs"

-- ---- the network ----------------------------------------------------------------------------------------------------

local function data_set()
  local shared = (os.getenv "MEDXAI_SHARED" or host.script_dir .. "/../../../shared") .. "/data/covid-cxr"
  if files.is_folder(shared) then
    return xai.dataset.covid_qu_ex { root = shared, size_px = size_px, resize_px = size_px }
  end
  return xai.dataset.phantom { n_train = 480, n_val = 48, n_test = 48, size_px = size_px }
end

local function trained_model(data)
  -- first: its seed makes the model's random weights
  local run = xai.run { name = "network", seed = 42, out = folder .. "/network" }
  local model = xai.models.mobilenet_v2 { classes = data.classes, head = "torchvision", weights = "random",
    train_depth = "all" }
  run:fit(model, data, { optim = xai.optim.adam { lr = 0.001 }, epochs = epochs, batch = 16 })
  model:eval()
  return model
end

-- ---- one image ------------------------------------------------------------------------------------------------------

local function context_of(model, x, item)
  local s = scorer.new(model, {})
  local logits = s:logits(1, function() return x end)
  return context.new { x = x, items = { item }, views = {}, model = model, seed = 42, height = x:size(2),
    width = x:size(3), scorer = s, pass = { logits = logits },
    targets = target.fix(target.parse("predicted", model.classes, "softmax"), logits, { item }, model.classes) }
end

local function weights(run, ctx, n)
  local z, y = run.z:narrow(0, 0, n), samples.column(run.y, ctx.targets[1]):narrow(0, 0, n)
  return surrogate.coefficients(z, y, surrogate.weights(z, 0.25), n / 1000):squeeze(1)
end

local function relative(a, b) return ((a - b):pow(2):sum():sqrt() / b:pow(2):sum():sqrt()):item() end

-- Errors of every design at every count, mean over repeats, and the truth's own: its runs' deviation over the root of
-- their number.
local function study(model, split, number)
  local scope <close> = xai.scope()
  local x, item = split:batch({ number }).x, setmetatable({ number = number }, { __index = split:item(number) })
  local ctx = context_of(model, x, item)
  local made = regions.of(quickshift, x:select(0, 0))
  local lo, hi = ctx:range()
  local background = removal.parse("segment_mean"):background(x, { labels = made.labels, range = { lo, hi } })
  local function run(design, n, replicate)
    return samples.run(ctx, Options.check("lime", { samples = n, design = design }, lime.options), made, background,
      replicate)
  end
  local truths, truth = {}, nil
  for r = 1, truth_runs do
    truths[r] = weights(run("plain", truth_samples, 1000 + r), ctx, truth_samples)
    truth = truth and truth + truths[r] or truths[r]
  end
  truth = truth / truth_runs
  local out, spread = { image = item.id, regions = made.count, errors = {} }, 0.0
  for _, one in ipairs(truths) do spread = spread + relative(one, truth) ^ 2 / (truth_runs - 1) end
  out.truth_error = math.sqrt(spread / truth_runs)
  for _, design in ipairs(coalitions.designs) do
    local errors = {}
    for i in ipairs(counts) do errors[i] = 0.0 end
    for r = 1, repeats do
      local inner <close> = xai.scope()
      local made_run = run(design, counts[#counts], r)
      for i, n in ipairs(counts) do errors[i] = errors[i] + relative(weights(made_run, ctx, n), truth) / repeats end
    end
    out.errors[design] = canon.list(errors)
  end
  return out
end

-- ---- all images -----------------------------------------------------------------------------------------------------

local function mean(list)
  local sum = 0.0
  for _, v in ipairs(list) do sum = sum + v / #list end
  return sum
end

local function column(records, design, i)
  local list = {}
  for k, r in ipairs(records) do list[k] = r.errors[design][i] end
  return list
end

local function report(records)
  local truth, regions_count = {}, {}
  for k, r in ipairs(records) do truth[k], regions_count[k] = r.truth_error, r.regions end
  print(("\n%d images, %.0f regions on average; truth: %d runs of %d samples, its own error %.3f"):format(#records,
    mean(regions_count), truth_runs, truth_samples, mean(truth)))
  print("mean |weights - truth| / |truth| by number of passes")
  local line = ("  %-10s"):format ""
  for _, n in ipairs(counts) do line = line .. ("%8d"):format(n) end
  print(line)
  for _, design in ipairs(coalitions.designs) do
    line = ("  %-10s"):format(design)
    for i in ipairs(counts) do line = line .. ("%8.3f"):format(mean(column(records, design, i))) end
    print(line)
  end
  local goal = mean(column(records, "plain", #counts))
  for _, design in ipairs { "paired", "balanced" } do
    local enough
    for i, n in ipairs(counts) do enough = enough or mean(column(records, design, i)) <= goal and n or nil end
    local better, at600 = 0, 5
    for k in ipairs(records) do
      better = better + (records[k].errors[design][at600] <= records[k].errors.plain[#counts] and 1 or 0)
    end
    print(("  %s: as near as 1,000 plain samples with %s passes; with 600 on %d of %d images (goal 600, "
      .. "stretch 400)"):format(design, enough or "more than 1,000", better, #records))
  end
end

local function draw(records)
  local figure, series = require "medxai.show.figure", {}
  for _, design in ipairs(coalitions.designs) do
    local y = {}
    for i in ipairs(counts) do y[i] = mean(column(records, design, i)) end
    series[#series + 1] = { label = design, x = counts, y = y }
  end
  local d = figure.lines { charts = { { title = "LIME's error by design", series = series, x_label = "passes",
    y_label = "|weights - truth| / |truth|" } }, width_pt = 252 }
  figure.save(d, folder .. "/errors", { title = "LIME's error by design" })
  print("figure: " .. folder .. "/errors.svg")
end

io.stdout:setvbuf "line"
local data = data_set()
local model = trained_model(data)
local log, done = folder .. "/errors.jsonl", {}
local key = canon.hash({ version = 2, regions = regions.parse(quickshift).text,
  weights = model:sha256(), counts = canon.list(counts), truth_samples = truth_samples, repeats = repeats })
for _, r in ipairs(files.exists(log) and files.records(log) or {}) do
  if r.key == key then done[r.image] = r end
end
local records = {}
for _, number in ipairs(require("medxai.explain.images").images(data.test, images)) do
  local id = data.test:item(number).id
  if not done[id] then
    local began = host.now()
    done[id] = study(model, data.test, number)
    done[id].key = key
    files.append_line(log, canon.write(done[id]))
    print(("image %s: %d regions, %.0f s"):format(id, done[id].regions, host.now() - began))
  end
  records[#records + 1] = done[id]
  if host.interrupted() then error("interrupted", 0) end
end
core.memory.empty_cache()
report(records)
draw(records)
