-- medxai-run --device NAME tests/device/work.lua train|explain full|smoke NETWORK...: what tests/device.sh measures of
-- this program: one line for each network or method, with tabs: kind, name, number (images a second, or seconds an
-- image), peak MB of the device. work.py prints the same of PyTorch and the usual packages.
local host = require "medxai.host"
package.path = host.script_dir .. "/../?.lua;" .. package.path
local core = require "medxai.core"
local explain = require "medxai.steps.explain"
local tiny = require "tinyexplain"
local torch = require "medxai.torch"
local xai = require "medxai"

host.options.quiet = true
local what, size = ...
local networks = { select(3, ...) }
local small = size == "smoke"
local device = host.options.device

local function peak()
  local m = core.memory.stats()
  return (device == "cpu" and m.peak_bytes or m.cuda_peak_bytes) / (1 << 20)
end

local function line(kind, name, value) print(("%s\t%s\t%.4g\t%.0f"):format(kind, name, value, peak())) end

-- Steps of SGD on one batch that stays on the device: images a second.
local function train(name)
  local batch, warm, steps = small and 2 or 32, small and 1 or 10, small and 1 or 30
  local model = xai.models[name] { classes = 3, seed = 1, train_depth = "all" }
  local params, names = {}, {}
  for i, p in ipairs(model:parameters()) do params[i], names[i] = p.tensor, p.name end
  local optimizer = xai.optim.sgd { lr = 0.01, momentum = 0.9 }:build { { names = names, params = params } }
  local scope <close> = core.memory.scope() -- luacheck: ignore
  local x = torch.rand { batch, 3, model.size_px, model.size_px }:to { device = device }
  if model.layout == "channels_last" then x = x:to { memory_format = "channels_last" } end
  local y = torch.arange(batch):remainder(3):to { device = device }
  local function step()
    local inner <close> = core.memory.scope() -- luacheck: ignore
    local logits, aux = model(x)
    local loss = torch.cross_entropy(logits, y)
    if aux then loss = loss + 0.4 * torch.cross_entropy(aux, y) end
    optimizer:zero_grad()
    loss:backward()
    optimizer:step()
  end
  model:train()
  core.memory.reset_peak()
  for _ = 1, warm do step() end
  local began = core.device.now()
  for _ = 1, steps do step() end
  line("train", name, batch * steps / (core.device.now() - began))
  model:close()
end

local methods = {
  { "gradcam", function() return { "gradcam" }, small and 2 or 8 end },
  { "lime", function() return { "lime", samples = small and 20 or 1000 }, 1 end },
  { "shap_partition", function() return { "shap_partition", evals = small and 20 or 500 }, 1 end },
}

-- Maps of a network with drawn weights: seconds an image, files included.
local function explained(name)
  local model = xai.models[name] { classes = 3, seed = 1 }
  model:eval()
  local split = tiny.tensor_split(torch.rand { 8, 3, model.size_px, model.size_px }, model.classes)
  for _, m in ipairs(methods) do
    local method, n = m[2]()
    local best = math.huge
    core.memory.reset_peak()
    for _ = 1, small and 1 or 2 do
      local scope <close> = core.memory.scope() -- luacheck: ignore
      local dir = os.tmpname()
      os.remove(dir)
      local began = core.device.now()
      local result = explain.run(tiny.run(dir), model, split, { methods = { method }, images = n, figures = false })
      best = math.min(best, (core.device.now() - began) / n)
      for _, record in ipairs(result.records) do
        if record.status == "failed" or record.status == "nan" then error(m[1] .. ": " .. tostring(record.problem)) end
      end
      os.execute("rm -rf " .. dir)
    end
    line("explain", m[1], best)
  end
  model:close()
end

local works = { train = train, explain = explained }
for _, name in ipairs(networks) do works[what](name) end
