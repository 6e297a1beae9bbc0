-- One side of the bench: does what it is told on standard input, one word a line, and answers with one line of numbers.
-- worker.py answers the same words in the same way. It times itself, so that pipes and waiting are left out.
local host = require "medxai.host"
local measure = dofile(host.script_dir .. "/measure.lua")
local torch = require "medxai.torch"
local core = require "medxai.core"
local xai = require "medxai"

local model, optimizer, x, y

local status, memory_mark, timed = measure.status, measure.memory_mark, measure.timed

local function forward()
  local scope <close> = core.memory.scope() -- luacheck: ignore
  torch.no_grad(function() return model(x):sum():item() end)
end

local function train()
  local scope <close> = core.memory.scope() -- luacheck: ignore
  local logits, aux = model(x)
  local loss = torch.cross_entropy(logits, y)
  if aux then loss = loss + 0.4 * torch.cross_entropy(aux, y) end
  optimizer:zero_grad()
  loss:backward()
  optimizer:step()
  return loss:item()
end

local calls = {}
do
  local a, b = torch.ones(1), torch.ones(1)
  local m = torch.ones(8, 8)
  function calls.add(n) for _ = 1, n do local _ = a + b end end
  function calls.mul_(n) for _ = 1, n do a:mul_(b) end end
  function calls.relu(n) for _ = 1, n do local _ = torch.relu(a) end end
  function calls.view(n) for _ = 1, n do local _ = m:view(64) end end
  function calls.sum(n) for _ = 1, n do local _ = m:sum({ 1 }) end end
  function calls.matmul(n) for _ = 1, n do local _ = torch.matmul(m, m) end end
end

local answers = {}

function answers.hello() return core.tensor.torch_version() end

-- microseconds a call
function answers.op(name)
  local n = 20000
  local scope <close> = core.memory.scope() -- luacheck: ignore
  return torch.no_grad(function()
    calls[name](1000)
    return timed(function() calls[name](n) end) / n * 1e6
  end)
end

-- GFLOP/s of one large matrix product
function answers.gemm()
  local scope <close> = core.memory.scope() -- luacheck: ignore
  local n = 2048
  local a, b = torch.rand(n, n), torch.rand(n, n)
  torch.mm(a, b)
  return 2 * n ^ 3 / timed(function() torch.mm(a, b) end) / 1e9
end

function answers.load(name, batch)
  torch.manual_seed(1)
  model = xai.models[name] { classes = 3 }
  local size = math.tointeger(model.size_px)
  x = torch.rand(math.tointeger(batch), 3, size, size)
  y = torch.arange(0, math.tointeger(batch)) % 3
  optimizer = nil
  model:eval()
  forward()
  return memory_mark()
end

function answers.training()
  model:train()
  local params, names = {}, {}
  for i, p in ipairs(model:parameters()) do params[i], names[i] = p.tensor, p.name end
  optimizer = xai.optim.sgd { lr = 0.001, momentum = 0.9 }:build { { names = names, params = params } }
  return 0
end

function answers.mark() return memory_mark() end
function answers.peak() return status "VmHWM" end
function answers.forward() return timed(forward) end
function answers.train() return timed(train) end

function answers.drop()
  if model.close then model:close() end
  model, optimizer, x, y = nil, nil, nil, nil
  collectgarbage()
  collectgarbage()
  core.memory.empty_cache()
  return 0
end

measure.serve(answers)
