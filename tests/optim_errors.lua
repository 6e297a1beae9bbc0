-- What the optimizers and schedules refuse, word for word, and what they leave alone.
local t = require "t"
local torch = require "medxai.torch"
local optim = require "medxai.train.optim"

local function leaf(...) return torch.tensor({ ... }):requires_grad_() end

t.test("options are checked when they are written", function()
  t.fails(function() optim.sgd { learning_rate = 0.1 } end, "sgd: unknown option 'learning_rate'. Did you mean 'lr'?")
  t.fails(function() optim.sgd {} end, "sgd: option 'lr' is missing (expected number: learning rate). Add lr = "
    .. "... to it.")
  t.fails_like(function() optim.sgd { lr = -1 } end, "^sgd: option 'lr' is too small %(expected at least 0, got %-1")
  t.fails_like(function() optim.adam { lr = "0.1x" } end, "^adam: option 'lr' is wrong %(expected ")
  t.fails(function() optim.sgd { lr = 0.1, nesterov = true } end,
    "sgd: nesterov needs momentum above 0 and dampening 0 (got momentum 0.0, dampening 0.0). Set momentum, or "
    .. "nesterov = false.")
  t.fails(function() optim.adam { betas = { 0.9, 1 } } end,
    "adam: option 'betas' is wrong (expected two numbers from 0 to below 1, got { 0.9, 1 }).")
  t.fails(function() optim.adam { betas = { 0.9 } } end,
    "adam: option 'betas' is wrong (expected two numbers from 0 to below 1, got { 0.9 }).")
  t.fails(function() optim.warmup { epochs = 3, after = 7 } end,
    "warmup: option 'after' is wrong (expected table: the schedule that follows, for instance xai.optim.step_lr { "
    .. "... }, got number 7).")
  t.fails(function() optim.multistep_lr { milestones = { 0 } } end,
    "multistep_lr: milestone 1 is wrong (expected an epoch of 1 or more, got 0).")
  t.fails(function() optim.reduce_lr_on_plateau { mode = "mox" } end,
    "reduce_lr_on_plateau: option 'mode' is wrong (expected 'min' or 'max', got string 'mox'). Did you mean 'max'?")
  t.fails_like(function() optim.step_lr { step_size = 0 } end, "^step_lr: option 'step_size' is too small")
  t.fails_like(function() optim.step_lr { size = 3 } end,
    "^step_lr: unknown option 'size'%. Did you mean 'step_size'%?")
end)

t.test("groups are checked when they are built", function()
  local spec = optim.sgd { lr = 0.1 }
  t.fails(function() spec:build {} end, "sgd: nothing to train: build takes a list of groups { names = { ... }, "
    .. "params = { ... } }.")
  t.fails(function() spec:build { { names = {}, params = {} } } end, "sgd: nothing to train: no group has a parameter.")
  t.fails(function() spec:build { { names = { "w", "b" }, params = { leaf(1.0) } } } end,
    "sgd: group 1 has 2 names for 1 parameters.")
  t.fails(function() spec:build { { names = { "w", "w" }, params = { leaf(1.0), leaf(1.0) } } } end,
    "optimizer: two parameters are named 'w'")
  t.fails(function() spec:build { { names = { "w" }, params = { leaf(1.0) }, lrr = 1 } } end,
    "sgd: unknown option 'lrr'. Did you mean 'lr'?")
  t.fails_like(function() spec:build { { names = { "y" }, params = { leaf(1.0) * 2 } } } end,
    "^optimizer: parameter 'y' is not a leaf")
  t.fails_like(function()
    local w = leaf(1.0)
    spec:build { { names = { "a" }, params = { w } }, { names = { "b" }, params = { w } } }
  end, "^optimizer: parameter 'b' is in another group already")
end)

t.test("a step without any gradient is an error, one without some skips those", function()
  local a, b = leaf(1.0), leaf(1.0)
  local o = optim.sgd({ lr = 0.5, weight_decay = 0.1 }):build { { names = { "a", "b" }, params = { a, b } } }
  t.fails(function() o:step() end, "optimizer: no parameter has a gradient. Call backward on the loss before step")
  a.grad = torch.ones(1)
  o:step()
  t.near(a:item(), 1 - 0.5 * 1.1, 1e-6)
  t.equal(b:item(), 1)
  o:zero_grad()
  t.equal(a.grad, nil)
end)

t.test("a step counts in the tensor's version, so that caches notice", function()
  local a = leaf(1.0)
  local y = (a * a):sum()
  local o = optim.sgd({ lr = 0.5 }):build { { names = { "a" }, params = { a } } }
  a.grad = torch.ones(1)
  o:step()
  t.fails_like(function() y:backward() end, "modified by an inplace operation")
end)

t.test("learning rates by group, counted from 1", function()
  local a, b = leaf(1.0), leaf(1.0)
  local o = optim.sgd({ lr = 0.5 }):build { { names = { "a" }, params = { a } },
    { names = { "b" }, params = { b }, lr = 0.25 } }
  t.equal({ o:lr(), o:lr(1), o:lr(2) }, { 0.5, 0.5, 0.25 })
  o:set_lr(0.1, 2)
  t.equal({ o:lr(1), o:lr(2) }, { 0.5, 0.1 })
  o:set_lr(0.2)
  t.equal({ o:lr(1), o:lr(2) }, { 0.2, 0.2 })
  t.fails(function() o:lr(3) end, "optimizer: no group 3 (2 groups)")
  t.fails(function() o:set_lr(0.1, 0) end, "optimizer: no group 0 (2 groups)")
  t.fails(function() o:set_lr(-1) end, "optimizer: set_lr: expected a learning rate of 0 or more, got -1")
end)

t.test("a saved state must fit, else the old one stays", function()
  local a = leaf(1.0, 2.0)
  local o = optim.adam({ lr = 0.1 }):build { { names = { "a" }, params = { a } } }
  a.grad = torch.ones(2)
  o:step()
  local state = o:state()
  t.equal({ state[1].entry, state[2].entry, state[3].entry, #state }, { "exp_avg", "exp_avg_sq", "step", 3 })
  t.fails_like(function() o:load_state { { param = "b", entry = "step", tensor = torch.tensor(1) } } end,
    "^adam: unknown parameter 'b'")
  t.fails(function() o:load_state { state[1], state[3] } end,
    "adam: saved state of 'a' has no 'exp_avg_sq': it was saved with other options.")
  t.fails(function() o:load_state { { param = "a" } } end,
    "adam: saved state: row 1 is not { param =, entry =, tensor = }.")
  t.equal(#o:state(), 3)
  local wrong = { param = "a", entry = "exp_avg", tensor = torch.ones(3) }
  t.fails_like(function() o:load_state { wrong, state[2], state[3] } end,
    "^optimizer: exp_avg of 'a' has shape %[3%], the parameter %[2%]")
end)

t.test("a plateau schedule asks for its number", function()
  local s = optim.reduce_lr_on_plateau({ patience = 0 }):build(0.1)
  t.fails(function() s:step() end, "reduce_lr_on_plateau: step needs the watched number (expected a number, got "
    .. "nothing).")
  s:step(1.0)
  s:step(2.0)
  t.near(s:lr(), 0.01, 1e-15)
  t.fails(function() s:load_state { 1 } end, "reduce_lr_on_plateau: saved state is not one of this schedule.")
end)

t.test("a state that found no memory leaves none behind, and the next step works", function()
  local memory = require("medxai.core").memory
  local w = torch.ones(4):requires_grad_()
  w.grad = torch.ones(4)
  local o = require("medxai.core").optim.new("adam", { lr = 0.1 })
  o:add_group({ "w" }, { w }, {})
  local average = torch.full({ 4 }, 0.5)
  memory.fail_after(0, 2) -- the second try too
  t.fails_like(function() o:set_state("w", "exp_avg", average) end, "^out of memory: optimizer ")
  memory.fail_after(-1)
  t.equal(#o:state(), 0)
  o:step()
  t.near(w:tolist(), { 0.9, 0.9, 0.9, 0.9 }, 1e-6) -- Adam's first step is lr, up to eps
end)
