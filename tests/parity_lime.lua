-- LIME against lime 0.2.0.1 on networks trained a little, three real X-rays and the made coloured image, with
-- MEDXAI_LIME_DIRS = folders that perturb_lime.py wrote (separated by spaces; skipped without it;
-- MEDXAI_PARITY_NETWORKS = "resnet50,vgg19" chooses). For each image: regions equal, samples equal, coefficients of all
-- labels from lime's own outputs (<= 1e-6 of the largest) and end to end through our network (<= 1e-3 of the largest).
-- Where lime's largest coefficient is below 1e-3 the cell is without evidence. Mutants must fail; the last line counts
-- the cells.
local t = require "t"
local host = require "medxai.host"
local context = require "medxai.explain.context"
local lime = require "medxai.explain.methods.lime"
local Options = require "medxai.base.options"
local random = require "medxai.tensor.random"
local coalitions = require "medxai.explain.lime_design"
local regions = require "medxai.perturb.regions"
local scorer = require "medxai.perturb.scorer"
local store = require "medxai.nn.checkpoint"
local surrogate = require "medxai.explain.lime_surrogate"
local target = require "medxai.explain.target"
local torch = require "medxai.torch"
local xai = require "medxai"

local dirs = os.getenv "MEDXAI_LIME_DIRS"
local only = os.getenv "MEDXAI_PARITY_NETWORKS"
local order = { "squeezenet1_0", "mobilenet_v2", "efficientnet_b0", "densenet121", "resnet50", "inception_v3", "vgg19" }
local classes = { "a", "b", "c" }
local count = { passed = 0, failed = 0, none = 0, mutants = 0, mutants_passed = 0 }

local function add(verdict) count[verdict] = count[verdict] + 1 end

-- Coefficients (L, K) in lime's order of labels, zeros where it left a region out.
local function expected(job, regions_count)
  local rows = {}
  for i, l in ipairs(job.labels) do
    rows[i] = {}
    for k = 1, regions_count do rows[i][k] = 0.0 end
    for k, f in ipairs(l.features) do rows[i][f + 1] = l.weights[k] end
  end
  return torch.tensor(rows, { dtype = "float64" })
end

-- Relative to the largest coefficient; of another number of regions (a mutant's) as far off as can be.
local function off(made, truth)
  if made:size(1) ~= truth:size(1) then return math.huge end
  return (made - truth):abs():max():item() / truth:abs():max():item()
end

-- Everything through the method itself, as run:explain calls it.
local function end_to_end(model, x, job, seed, version)
  local options = Options.check("lime", { samples = job.samples, rng = "numpy",
    quickshift_seed = version:find "^0%.1" and "drawn" or "own" }, lime.options)
  lime.check(options)
  local logits = torch.no_grad(function() return model:forward { x = x }.output end)
  local s = scorer.new(model, {})
  local ctx = context.new { x = x, items = { { id = "parity" } }, views = {}, model = model, seed = seed,
    height = x:size(2), width = x:size(3), scorer = s,
    targets = target.fix(target.parse("predicted", classes, "softmax"), logits, { {} }, classes), pass = {} }
  local _, extras = lime.map(ctx, x, ctx.targets, options)
  return extras[1]
end

-- Our coefficients of lime's labels, from the rows that the method keeps for its own order of classes.
local function own_rows(extra, job)
  local rows = {}
  for i, l in ipairs(job.labels) do
    for k = 2, #extra.facts.labels do
      if extra.facts.labels[k].class == classes[l.label + 1] then rows[i] = extra.arrays.weights:select(0, k - 1) end
    end
  end
  return torch.stack(rows, 0)
end

local function from_outputs(masks, outputs, job, shift)
  local columns = {}
  for i, l in ipairs(job.labels) do columns[i] = outputs:narrow(1, (l.label + (shift or 0)) % 3, 1) end
  local rows = {}
  for i, one in ipairs(surrogate.explain(masks:double(), torch.cat(columns, 1),
      { kernel_width = 0.25, num_features = 100000, feature_selection = "auto", alpha = 1 })) do
    rows[i] = {}
    for k = 1, masks:size(1) do rows[i][k] = 0.0 end
    for _, f in ipairs(one.weights) do rows[i][f.feature + 1] = f.weight end
  end
  return torch.tensor(rows, { dtype = "float64" })
end

local function one_image(dir, model, job, version)
  local scope <close> = xai.scope()
  local function load(name) return torch.load_npy(("%s/%s%d.npy"):format(dir, name, job.image)) end
  local x = load "x"
  local segments, masks, outputs = load "segments", load "masks", load "outputs"
  local truth = expected(job, masks:size(1))
  local largest = truth:abs():max():item()
  local generator = random.numpy_random_state(job.seed)
  local drawn = generator:randint(0, 1000, 1):item()
  local made = regions.of("quickshift", x:select(0, 0), { seed = version:find "^0%.1" and drawn or nil })
  local same_regions = made.labels:eq(segments):all():item()
  add(same_regions and "passed" or "none") -- ties that the last bits of Lab decide: parity_segments.lua judges them
  add(coalitions.draw_numpy(generator, job.samples, masks:size(1)):eq(masks):all():item() and "passed" or "failed")
  local own = from_outputs(masks, outputs, job)
  local recorded = largest > 0 and off(own, truth) or own:abs():max():item()
  if largest > 0 then add(recorded <= 1e-6 and "passed" or "failed")
  -- a saturated prediction, which no region moves: ours must say so too
  else add(recorded <= 1e-12 and "none" or "failed") end
  local whole = 0 / 0
  if largest < 1e-3 or not same_regions then add "none"
  else
    local extra = end_to_end(model, x, job, job.seed, version)
    whole = off(own_rows(extra, job), truth)
    add(whole <= 1e-3 and "passed" or "failed")
    for _, mutant in ipairs { off(from_outputs(masks, outputs, job, 1), truth),
        off(own_rows(end_to_end(model, x:flip({ 3 }), job, job.seed, version), job), truth) } do
      count.mutants = count.mutants + 1
      if mutant <= 1e-3 then count.mutants_passed = count.mutants_passed + 1 end
    end
  end
  print(("  image %d: %d regions%s, largest coefficient %.1e; off by %.1e from recorded outputs, %s"):format(job.image,
    masks:size(1), same_regions and "" or " (others: ties)", largest, recorded,
    whole == whole and ("%.1e end to end"):format(whole) or "no evidence end to end"))
end

local function one_network(dir, name)
  local folder = dir .. "/" .. name
  local f = io.open(folder .. "/jobs.lua")
  if not f then
    print(name .. ": no finished dump in " .. dir)
    return add "failed"
  end
  f:close()
  local scope <close> = xai.scope()
  local jobs = dofile(folder .. "/jobs.lua")
  print(("%s, scikit-image %s"):format(name, jobs.version))
  local model = xai.models[name] { classes = classes, head = "torchvision", train_depth = "all" }
  model:load_state(store.load(folder .. "/weights.pt").tensors, { what = folder })
  model:eval()
  for _, job in ipairs(jobs) do
    one_image(folder, model, job, jobs.version)
    if host.interrupted() then error("interrupted", 0) end
  end
end

t.test("LIME of the networks equals lime's", function()
  if not dirs then t.skip "MEDXAI_LIME_DIRS is not set" end
  for dir in dirs:gmatch "%S+" do
    for _, name in ipairs(order) do
      if not only or only:find(name, 1, true) then one_network(dir, name) end
    end
  end
  print(("mutants: %d, of which %d passed where they must fail"):format(count.mutants, count.mutants_passed))
  print(("%d cells passed, %d failed, %d without evidence"):format(count.passed, count.failed, count.none))
  t.ok(count.failed == 0 and count.mutants_passed == 0, "the table above has failures")
  -- of one network alone it may be so: SqueezeNet's coefficients are tiny
  t.ok(count.mutants > 0 or only, "no cell has evidence")
end)
