-- Optimizers and schedules against Python's torch 1.13.1: tests/reference/optim.py made the numbers, on a processor
-- with fused multiply-add. Another libtorch, or a processor on which libtorch rounds products and sums apart, gives
-- other last bits, in Python too: there the optimizers agree to 1e-6.
local t = require "t"
local torch = require "medxai.torch"
local optim = require "medxai.train.optim"

local STEPS = 20
local cases = { -- the same list stands in tests/reference/optim.py
  { "sgd", { lr = 0.1 } },
  { "sgd", { lr = 0.1, momentum = 0.9 } },
  { "sgd", { lr = 0.05, momentum = 0.9, weight_decay = 0.01, nesterov = true } },
  { "sgd", { lr = 0.05, momentum = 0.8, dampening = 0.3, weight_decay = 0.001 } },
  { "adam", { lr = 0.01 } },
  { "adam", { lr = 0.02, betas = { 0.8, 0.95 }, eps = 1e-6, weight_decay = 0.1, amsgrad = true } },
  { "adamw", { lr = 0.01 } },
  { "adamw", { lr = 0.03, weight_decay = 0.2, amsgrad = true } },
  { "rmsprop", { lr = 0.01 } },
  { "rmsprop", { lr = 0.02, alpha = 0.9, momentum = 0.7, centered = true, weight_decay = 0.05 } },
  { "sgd", { lr = 0.1, momentum = 0.9 }, { lr = 0.5, momentum = 0 } }, -- b in a group of its own
}

-- Whether libtorch rounds a x b + c once: (1 + 2^-12)^2 - 1 keeps its last 2^-24 then.
local function is_fused()
  local a = torch.full({ 24 }, 1 + 2 ^ -12)
  return torch.add(torch.full({ 24 }, -1.0), a, { alpha = 1 + 2 ^ -12 }):max():item() ~= 2 ^ -11
end

local is_same_torch = require("medxai.core").tensor.torch_version():find "^1%.13" ~= nil and is_fused()

local dump = torch.load_npy(t.root .. "/tests/reference/optim.npy")

local function leaf(row, from, to, ...)
  return row[{ { from, to } }]:reshape(...):clone():requires_grad_()
end

local function build(case, w, b)
  local spec = optim[case[1]](case[2])
  if not case[3] then return spec:build { { names = { "w", "b" }, params = { w, b } } } end
  return spec:build { { names = { "w" }, params = { w } },
    { names = { "b" }, params = { b }, lr = case[3].lr, momentum = case[3].momentum } }
end

local function step(o, w, b, i) -- i from 0
  local g = dump[1 + i]
  w.grad = g[{ { 0, 20 } }]:reshape(5, 4):clone()
  b.grad = i % 3 ~= 2 and g[{ { 20, 24 } }]:clone() or nil
  o:step()
end

local function expect(case_index, i, w, b)
  local row = dump[1 + STEPS + (case_index - 1) * STEPS + i]
  local got = torch.cat({ w:detach():reshape(-1), b:detach() })
  if not is_same_torch then
    t.near(got, row, 1e-6)
  elseif got:data_string() ~= row:contiguous():data_string() then
    error(("case %d differs at step %d by %g"):format(case_index, i + 1, (got - row):abs():max():item()), 2)
  end
end

for index, case in ipairs(cases) do
  t.test(("%s (case %d) equals Python's 1.13 to the last bit for 20 steps, its state carried over at step 10"):format(
    case[1], index), function()
    local w, b = leaf(dump[0], 0, 20, 5, 4), leaf(dump[0], 20, 24, 4)
    local o = build(case, w, b)
    for i = 0, STEPS - 1 do
      if i == 10 then
        local saved = o:state()
        w, b = w:detach():clone():requires_grad_(), b:detach():clone():requires_grad_()
        o = build(case, w, b)
        o:load_state(saved)
      end
      step(o, w, b, i)
      expect(index, i, w, b)
    end
  end)
end

local function schedule_of(name)
  local makers = {
    step_lr = function() return optim.step_lr { step_size = 7, gamma = 0.1 } end,
    step_lr_slow = function() return optim.step_lr { step_size = 3, gamma = 0.7 } end,
    multistep_lr = function() return optim.multistep_lr { milestones = { 4, 9, 9, 30 }, gamma = 0.3 } end,
    cosine_annealing_lr = function() return optim.cosine_annealing_lr { t_max = 13, eta_min = 1e-4 } end,
    reduce_lr_on_plateau = function()
      return optim.reduce_lr_on_plateau { factor = 0.5, patience = 2, cooldown = 1, min_lr = 1e-3 }
    end, reduce_lr_on_plateau_max = function()
      return optim.reduce_lr_on_plateau { mode = "max", threshold_mode = "abs", patience = 1, threshold = 0.01 }
    end,
    warmup = function() return optim.warmup { epochs = 5 } end,
    warmup_step_lr = function()
      return optim.warmup { epochs = 4, start_factor = 0.1, after = optim.step_lr { step_size = 5, gamma = 0.3 } }
    end,
    warmup_cosine = function()
      return optim.warmup { epochs = 6, start_factor = 0.25,
        after = optim.cosine_annealing_lr { t_max = 20, eta_min = 1e-3 } }
    end,
  }
  return makers[name]()
end

local losses, rates = nil, {}
for line in io.lines(t.root .. "/tests/reference/optim_rates.txt") do
  local name, rest = line:match "^(%S+) (.*)$"
  local numbers = {}
  for word in rest:gmatch "%S+" do numbers[#numbers + 1] = tonumber(word) end
  if name == "losses" then losses = numbers else rates[#rates + 1] = { name, numbers } end
end

for _, case in ipairs(rates) do
  local name, expected = case[1], case[2]
  t.test(name .. " gives Python's rates to the last bit, its state carried over each 7 steps", function()
    local spec = schedule_of(name)
    local s = spec:build(0.03)
    for i = 0, #losses do
      if i > 0 then s:step(losses[i]) end
      if s:lr() ~= expected[i + 1] then error(("step %d: got %a, expected %a"):format(i, s:lr(), expected[i + 1])) end
      if i % 7 == 3 then
        local state = s:state()
        s = spec:build(0.03)
        s:load_state(state)
      end
    end
    if not name:find "plateau" then t.equal(spec:lr_at(0.03, 11), expected[12]) end
  end)
end
