-- Networks that torch.export wrote beside what PyTorch computes with them: small ones, made by
-- tests/reference/exported.py.
local t = require "t"
local core = require "medxai.core"
local torch = require "medxai.torch"
local xai = require "medxai"

local folder = t.root .. "/tests/reference/exported/"
local all = { "convnet", "vit", "swin", "tokens", "odd", "writes" }

local function open(name, options)
  local o = { file = folder .. name .. ".pt2", seed = 1 }
  for k, v in pairs(options or {}) do o[k] = v end
  return xai.models.exported(o):eval()
end

local function wanted(name) return xai.load_checkpoint(folder .. name .. ".pt") end

local function furthest(a, b)
  t.equal(a.shape, b.shape)
  return (a - b):abs():max():item()
end

for _, name in ipairs(all) do
  t.test(name .. ": logits and all gradients in float64 are PyTorch's to 1e-9", function()
    local scope <close> = core.memory.scope() -- luacheck: ignore
    local model <close>, want = open(name, { dtype = "float64" }), wanted(name)
    local x = want.x:to "float64":requires_grad_()
    local out = model(x)
    t.ok(furthest(out:detach(), want.float64.logits) < 1e-9)
    ;((out * out):sum() / 2):backward()
    t.ok(furthest(x.grad, want.float64.x_grad) < 1e-9)
    local count = 0
    for _, p in ipairs(model:parameters()) do
      local grad = want.float64.grads[p.name]
      if grad then
        count = count + 1
        t.ok(furthest(p.tensor.grad, grad) < 1e-9, p.name)
      end
    end
    for grad in pairs(want.float64.grads) do
      count = count - 1
      t.ok(grad)
    end
    t.equal(count, 0)
  end)

  t.test(name .. ": a batch of three equals three of one", function()
    local scope <close> = core.memory.scope() -- luacheck: ignore
    local model <close>, x = open(name, { dtype = "float64" }), wanted(name).x:to "float64"
    torch.no_grad(function()
      local together = model(x)
      for i = 0, 2 do t.ok(furthest(model(x:narrow(0, i, 1)), together:narrow(0, i, 1)) < 1e-12) end
    end)
  end)
end
