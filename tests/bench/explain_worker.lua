-- One side of ./bootstrap bench explain: maps by this program, as run:explain makes them, files included. Answers the
-- words of explain_worker.py with a line of numbers each.
local host = require "medxai.host"
local measure = dofile(host.script_dir .. "/measure.lua")
package.path = host.script_dir .. "/../?.lua;" .. package.path
local core = require "medxai.core"
local explain = require "medxai.steps.explain"
local tiny = require "tinyexplain"
local torch = require "medxai.torch"
local xai = require "medxai"

host.options.quiet = true

local model, split, x, last

-- Explains n images into a folder of its own, which stays for `again`.
local dir
local function clear()
  if dir then os.execute("rm -rf " .. dir) end
  dir = nil
end

local function run(methods, n, options)
  local scope <close> = core.memory.scope()
  if not dir then
    dir = os.tmpname()
    os.remove(dir)
  end
  local o = { methods = methods, images = n == 8 and "all" or n, figures = false, batch = n }
  for k, v in pairs(options or {}) do o[k] = v end
  local start = host.now()
  local result = explain.run(tiny.run(dir), model, split, o)
  local seconds = host.now() - start
  last = result
  for _, record in ipairs(result.records) do
    if record.status == "nan" or record.status == "failed" then
      error(record.method .. ": " .. record.status .. " " .. tostring(record.problem))
    end
  end
  return seconds
end

local answers = {}

function answers.hello() return core.tensor.torch_version() end

function answers.load(name)
  torch.manual_seed(1)
  model = xai.models[name] { classes = 3 }
  model:eval()
  local size = model.size_px
  x = torch.rand(8, 3, size, size)
  split = tiny.tensor_split(x, model.classes)
  torch.no_grad(model, x)
  model:sha256()
  return measure.memory_mark()
end

--- method NAME IMAGES aug eigen precision
function answers.method(name, n, aug, eigen, precision)
  local e = { name }
  if precision and precision ~= "float32" then e.precision = precision end
  clear()
  return run({ e }, math.tointeger(tonumber(n)), { aug_smooth = aug == "1", eigen_smooth = eigen == "1" })
end

local page = { "gradcam", "gradcam_plus_plus", "eigengradcam", "ablationcam", "hirescam", "xgradcam", "fullgrad",
  "eigencam", "layercam" }
local smoothed = false
function answers.page(n, aug, eigen)
  smoothed = aug == "1"
  clear()
  return run(page, math.tointeger(tonumber(n)), { aug_smooth = aug == "1", eigen_smooth = eigen == "1" })
end

-- ROAD combined at three percentiles on the maps of the last page, of the first n images
function answers.road(n)
  local metrics = { { "road_combined", percentiles = { 25, 50, 75 } } }
  return run(page, math.tointeger(tonumber(n)), { metrics = metrics, aug_smooth = smoothed, eigen_smooth = smoothed })
end

-- seconds of one image in our fastest forward: the best batch, after one to warm up
function answers.forward(precision)
  local m = precision == "bfloat16" and model:clone():to { dtype = "bfloat16" } or model
  local best = math.huge
  for _, batch in ipairs { 8, 16, 32, 64 } do
    local scope <close> = core.memory.scope()
    local images = torch.cat({ x, x, x, x, x, x, x, x }, 0):narrow(0, 0, batch):to { dtype = m.dtype }
    if m.layout == "channels_last" then images = images:contiguous { memory_format = "channels_last" } end
    torch.no_grad(m, images)
    for _ = 1, 2 do
      local start = host.now()
      torch.no_grad(function() return m(images):sum():item() end)
      best = math.min(best, (host.now() - start) / batch)
    end
  end
  return best
end

function answers.passes() return last.records[1].forwards end

-- GFLOP/s of one large matrix product
function answers.gemm()
  local scope <close> = core.memory.scope() -- luacheck: ignore
  local n, best = 2048, 0
  local a, b = torch.rand(n, n), torch.rand(n, n)
  for _ = 1, 3 do
    local start = host.now()
    torch.mm(a, b)
    best = math.max(best, 2 * n ^ 3 / (host.now() - start) / 1e9)
  end
  return best
end

function answers.mark() return measure.memory_mark() end
function answers.peak() return measure.status "VmHWM" end

function answers.drop()
  clear()
  if model.close then model:close() end
  model, x, split, last = nil, nil, nil, nil
  measure.memory_mark()
  return 0
end

measure.serve(answers)
