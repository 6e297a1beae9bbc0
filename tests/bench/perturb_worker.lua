-- Our side of the bench of perturbing methods: one word a line, one number back; perturb_worker.py answers the same
-- words. A method runs as explain.run calls it, on one X-ray, with the network that is loaded.
local host = require "medxai.host"
local measure = dofile(host.script_dir .. "/measure.lua")
local Options = require "medxai.base.options"
local context = require "medxai.explain.context"
local core = require "medxai.core"
local scorer = require "medxai.perturb.scorer"
local target = require "medxai.explain.target"
local torch = require "medxai.torch"
local xai = require "medxai"

local picture = ...
local timed = measure.timed
local model, x, background, cam_input, score, best_batch

-- What each network's CAM layer reads: shap's (model, layer) explains a layer's input.
local layer_inputs = { mobilenet_v2 = "features.17", resnet50 = "layer4.1", vgg19 = "features.35",
  squeezenet1_0 = "features.11", efficientnet_b0 = "features.7",
  densenet121 = "features.denseblock4" }

local answers = {}

function answers.hello() return core.tensor.torch_version() end

function answers.gemm()
  local scope <close> = core.memory.scope() -- luacheck: ignore
  local a, b = torch.rand(2048, 2048), torch.rand(2048, 2048)
  torch.mm(a, b)
  return 2 * 2048 ^ 3 / timed(function() torch.mm(a, b) end) / 1e9
end

function answers.load(name)
  torch.manual_seed(1)
  model = xai.models[name] { classes = 3 }
  model:eval()
  local size = model.size_px
  x = xai.dataset.files({ picture, size_px = size, resize_px = size }).test:batch({ 1 }).x
  background, cam_input = torch.rand(32, 3, size, size), layer_inputs[name]
  score = scorer.new(model)
  -- the chunk is chosen, batch norms are folded
  score:logits(40, function(_, count) return x:expand { count, 3, size, size } end)
  return measure.memory_mark()
end

-- Seconds for one image of our fastest forward pass, over the batches that could be meant, after the first time of the
-- best of them: the yardstick of methods that need whole passes.
function answers.forward()
  local best, found = math.huge, nil
  for _, n in ipairs(best_batch and { best_batch } or { 1, 4, 8, 16 }) do
    for _ = 1, 3 do
      local scope <close> = core.memory.scope() -- luacheck: ignore
      local batch = x:expand { n, 3, x:size(2), x:size(3) }:contiguous()
      local seconds = timed(function() torch.no_grad(function() return model(batch):sum():item() end) end) / n
      if seconds < best then best, found = seconds, n end
    end
  end
  best_batch = found
  return best
end

local function explain(name, options, layer)
  local method = require("medxai.explain.methods." .. name)
  return timed(function()
    local scope <close> = core.memory.scope() -- luacheck: ignore
    local logits = score:logits(1, function() return x end)
    local items, targets = { { id = "bench", number = 1 } }, nil
    targets = target.fix(target.parse("predicted", model.classes), logits, items, model.classes)
    local ctx = context.new { pass = { logits = logits }, x = x, items = items, views = { { identity = true } },
      targets = targets, model = model, height = x:size(2), width = x:size(3), seed = 1, budget_bytes = 1 << 30,
      scorer = score, scorers = { of = function(_, precision) return scorer.new(model, { precision = precision }) end },
      layer = layer }
    method.map(ctx, x, targets, Options.check(name, options, method.options))
  end)
end

function answers.lime(n) return explain("lime", { samples = math.tointeger(n) }) end
function answers.lime_bf16(n) return explain("lime", { samples = math.tointeger(n), precision = "bfloat16" }) end
function answers.lime_balanced(n)
  return explain("lime", { samples = math.tointeger(n) * 8 // 10, design = "balanced" })
end

-- Seconds for n pictures, each segmented anew.
local function segmented(n, f)
  local pixels = x:squeeze(0):double():contiguous()
  return timed(function()
    for _ = 1, math.tointeger(n) do f(pixels):close() end
  end)
end

function answers.quickshift(n)
  return segmented(n, function(p) return (core.segment.quickshift(p, 4, 200, 0.2, 0, 42)) end)
end
function answers.slic(n)
  return segmented(n, function(p) return (core.segment.slic(p, 10, 10, 0, 10, true, 0.5, 3)) end)
end

function answers.partition(n) return explain("shap_partition", { evals = math.tointeger(n) }) end
function answers.partition_bf16(n)
  return explain("shap_partition", { evals = math.tointeger(n), precision = "bfloat16" })
end
function answers.kernel(n) return explain("shap_kernel", { samples = math.tointeger(n) }) end
function answers.gradient(n)
  return explain("shap_gradient", { samples = math.tointeger(n), background = background, form = "activation" },
    cam_input)
end
function answers.gradient_input(n)
  return explain("shap_gradient", { samples = math.tointeger(n), background = background }, "x")
end

function answers.mark() return measure.memory_mark() end
function answers.peak() return measure.status "VmHWM" end

function answers.drop()
  model:close()
  model, x, background, score, best_batch = nil, nil, nil, nil, nil
  collectgarbage()
  collectgarbage()
  core.memory.empty_cache()
  return 0
end

measure.serve(answers)
