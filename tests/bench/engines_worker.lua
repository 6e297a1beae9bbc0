-- Our side of `bench engines`: engines_worker.lua THREADS is given by --threads; words: load NETWORK BATCH [DTYPE],
-- pass, drop.
local host = require "medxai.host"
local measure = dofile(host.script_dir .. "/measure.lua")
local torch = require "medxai.torch"
local core = require "medxai.core"
local xai = require "medxai"

local model, x

local answers = {}

function answers.hello() return core.tensor.torch_version() end

function answers.load(name, batch, dtype)
  local size = name == "inception_v3" and 299 or 224
  model = xai.models[name] { classes = 1000, head = "torchvision", seed = 1 }:eval()
  if dtype then model:to { dtype = dtype } end
  x = torch.rand(math.tointeger(batch), 3, size, size):to { dtype = model.dtype }
  return 0
end

-- seconds, and seconds of processor time
function answers.pass()
  local processor = os.clock()
  local seconds = measure.timed(function()
    local scope <close> = core.memory.scope() -- luacheck: ignore
    torch.no_grad(function() return model(x) end)
  end)
  return seconds .. " " .. os.clock() - processor
end

function answers.drop()
  model:close()
  model, x = nil, nil
  return measure.memory_mark()
end

function answers.mark() return measure.memory_mark() end
function answers.peak() return measure.status "VmHWM" end

measure.serve(answers)
