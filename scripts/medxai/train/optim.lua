-- Optimizers and learning-rate schedules, described by option tables with PyTorch's names and defaults, checked when
-- written. Optimizers run in C++ (tx_optim.cpp); schedules are PyTorch's own recursions, so their values agree to the
-- last bit. It refuses options that PyTorch would take silently: a misspelt name, Nesterov without momentum, a warm-up
-- of 0 epochs.
--
--   local spec = optim.sgd { lr = 0.01, momentum = 0.9 }
--   -- a group's own options take precedence over those of the specification
--   local o = spec:build { { names = { "w" }, params = { w }, lr = 0.1 } }
--   loss:backward(); o:step(); o:zero_grad()
local check = require "medxai.base.check"
local Options = require "medxai.base.options"

local optim = {}

-- ---- optimizers ----

local lr_doc = "learning rate"
local weight_decay_doc = "L2 penalty on the weights; adamw: decoupled from the gradient"

local function lr_option(default)
  return { "number", field = true, default = default, required = default == nil, min = 0, doc = lr_doc }
end

local function weight_decay_option(default)
  return { "number", field = true, default = default, min = 0, doc = weight_decay_doc }
end

local momentum_option = { "number", field = true, default = 0.0, min = 0, doc = "share of the last step that is kept" }
local eps_option = { "number", default = 1e-8, min = 0, doc = "added to the denominator" }

local function adam_options(weight_decay)
  return {
    lr = lr_option(1e-3),
    betas = { "table", of = "number", default = { 0.9, 0.999 },
      doc = "decay rates of the running means of the gradient and of its square" },
    eps = eps_option,
    weight_decay = weight_decay_option(weight_decay),
    amsgrad = { "boolean", default = false, doc = "keep the largest running mean of squares (Reddi et al. 2018)" },
  }
end

local kinds = {
  sgd = {
    lr = lr_option(),
    momentum = momentum_option,
    dampening = { "number", default = 0.0, doc = "share of the gradient that does not enter the momentum" },
    weight_decay = weight_decay_option(0.0),
    nesterov = { "boolean", default = false, doc = "Nesterov momentum" },
  },
  adam = adam_options(0.0),
  adamw = adam_options(1e-2),
  rmsprop = {
    lr = lr_option(1e-2),
    alpha = { "number", default = 0.99, min = 0, doc = "decay rate of the running mean of squares" },
    eps = eps_option,
    weight_decay = weight_decay_option(0.0),
    momentum = momentum_option,
    centered = { "boolean", default = false, doc = "divide by the running standard deviation" },
  },
}

local optimizer_docs = {
  sgd = "Stochastic gradient descent, as torch.optim.SGD.",
  adam = "Adam (Kingma and Ba 2015), as torch.optim.Adam.",
  adamw = "Adam with decoupled weight decay (Loshchilov and Hutter 2019), as torch.optim.AdamW.",
  rmsprop = "RMSprop, as torch.optim.RMSprop.",
}

-- What a saved state must hold for each parameter that has one.
local function state_entries(kind, o)
  if kind == "sgd" then return { "momentum_buffer" } end
  if kind == "rmsprop" then
    local names = { "step", "square_avg" }
    if o.momentum > 0 then names[#names + 1] = "momentum_buffer" end
    if o.centered then names[#names + 1] = "grad_avg" end
    return names
  end
  return { "step", "exp_avg", "exp_avg_sq", o.amsgrad and "max_exp_avg_sq" or nil }
end

local function is_beta(v) return type(v) == "number" and v >= 0 and v < 1 end

-- What one option's range cannot say.
local function check_together(kind, o)
  if kind == "sgd" and o.nesterov and not (o.momentum > 0 and o.dampening == 0) then
    check.fail(kind, "nesterov needs momentum above 0 and dampening 0 (got momentum %s, dampening %s). Set "
      .. "momentum, or nesterov = false.", o.momentum, o.dampening)
  end
  if o.betas and not (#o.betas == 2 and is_beta(o.betas[1]) and is_beta(o.betas[2])) then
    check.fail(kind, "option 'betas' is wrong (expected two numbers from 0 to below 1, got { %s }).",
      table.concat((function(t) for i, v in ipairs(o.betas) do t[i] = tostring(v) end return t end) {}, ", "))
  end
end

-- libtorch's names: betas are two numbers there.
local function flat(o)
  local out = {}
  for name, value in pairs(o) do
    if name == "betas" then out.beta1, out.beta2 = value[1], value[2] else out[name] = value end
  end
  return out
end

---@class medxai.Optimizer
local Optimizer = {}
Optimizer.__index = Optimizer

--- Changes the parameters by their gradients; those without one are left alone. A step that runs out of memory
--- changes nothing.
---@param bad? medxai.Tensor one number: the step is left out unless it is 0
function Optimizer:step(bad) self.native:step(bad) end

--- Drops the gradients (none, not zeros).
function Optimizer:zero_grad() self.native:zero_grad() end

---@param group? integer counted from 1
---@return number
function Optimizer:lr(group) return self.native:lr(group) end

---@param lr number
---@param group? integer all where absent
function Optimizer:set_lr(lr, group) self.native:set_lr(lr, group) end

--- The state by parameter name, sorted: a list of { param =, entry =, tensor = }. The tensors are the optimizer's own;
--- the next step changes them, so save or clone them before.
function Optimizer:state()
  local list = self.native:state()
  table.sort(list, function(a, b)
    if a.param ~= b.param then return a.param < b.param end
    return a.entry < b.entry
  end)
  return list
end

-- Every parameter of a saved state is known and has all its entries; the state stays as it was where this fails.
local function check_state(self, list)
  local found = {}
  for i, row in ipairs(list) do
    if type(row) ~= "table" or type(row.param) ~= "string" or type(row.entry) ~= "string" or not row.tensor then
      check.fail(self.kind, "saved state: row %d is not { param =, entry =, tensor = }.", i)
    end
    check.known(self.kind, "parameter", row.param, self.names)
    found[row.param] = found[row.param] or {}
    found[row.param][row.entry] = true
  end
  for _, param in ipairs(check.sorted_keys(found)) do
    local options = self.options_of[param]
    for _, entry in ipairs(state_entries(self.kind, options)) do
      if not found[param][entry] then
        check.fail(self.kind, "saved state of '%s' has no '%s': it was saved with other options.", param, entry)
      end
    end
  end
end

--- Takes over what state() gave, copied; the parameters keep their values.
function Optimizer:load_state(list)
  if type(list) ~= "table" then check.fail(self.kind, "saved state: expected a list, got a %s.", type(list)) end
  check_state(self, list)
  self.native:clear_state()
  for _, row in ipairs(list) do self.native:set_state(row.param, row.entry, row.tensor) end
end

---@class medxai.OptimizerSpec
---@field kind string
---@field options table complete, as checked
local Spec = {}
Spec.__index = Spec

-- A group's own options, checked like the common ones but without defaults; fields of the command line do not reach
-- them.
local function group_options(self, group)
  local own, spec = {}, {}
  for key, value in pairs(group) do if key ~= "names" and key ~= "params" then own[key] = value end end
  for name, rule in pairs(kinds[self.kind]) do spec[name] = { rule[1], min = rule.min } end
  own = Options.check(self.kind, own, spec)
  local all = {}
  for name, value in pairs(self.options) do all[name] = value end
  for name, value in pairs(own) do all[name] = value end
  check_together(self.kind, all)
  return own, all
end

local function add_group(optimizer, spec, group, index)
  if type(group) ~= "table" or type(group.names) ~= "table" or type(group.params) ~= "table" then
    check.fail(spec.kind, "group %d is wrong (expected { names = { ... }, params = { ... } }).", index)
  end
  if #group.names ~= #group.params then
    check.fail(spec.kind, "group %d has %d names for %d parameters.", index, #group.names, #group.params)
  end
  local own, all = group_options(spec, group)
  optimizer.native:add_group(group.names, group.params, flat(own))
  for _, name in ipairs(group.names) do
    optimizer.options_of[name] = all
    table.insert(optimizer.names, name)
  end
end

--- The optimizer of these groups.
---@param groups { names: string[], params: table, lr?: number }[] other options of the kind may stand in a group too
---@return medxai.Optimizer
function Spec:build(groups)
  if type(groups) ~= "table" or #groups == 0 then
    check.fail(self.kind, "nothing to train: build takes a list of groups { names = { ... }, params = { ... } }.")
  end
  local core, options = require "medxai.core", flat(self.options)
  local first = type(groups[1]) == "table" and type(groups[1].params) == "table" and groups[1].params[1]
  -- one kernel a step on a GPU; on a CPU PyTorch's own operators one by one, to the last bit
  options.fused = core.tensor.is_tensor(first) and first.device ~= "cpu"
  local native = core.optim.new(self.kind, options)
  local optimizer = setmetatable({ kind = self.kind, native = native, names = {}, options_of = {} }, Optimizer)
  for i, group in ipairs(groups) do add_group(optimizer, self, group, i) end
  if #optimizer.names == 0 then check.fail(self.kind, "nothing to train: no group has a parameter.") end
  return optimizer
end

local function describe(kind)
  return function(options, more)
    if more ~= nil then
      check.fail(kind, "takes its options alone: run:fit gives it the parameters (expected %s { lr = 0.01 }).", kind)
    end
    options = Options.check(kind, options, kinds[kind])
    check_together(kind, options)
    return setmetatable({ kind = kind, options = options }, Spec)
  end
end

for kind in pairs(kinds) do optim[kind] = describe(kind) end

-- ---- schedules ----
-- A schedule counts its steps; rule.next gives the rate after one more. Where PyTorch goes on from the last rate
-- instead of a closed form, so does this: the last bits differ.

local rules = {}

local gamma_option = { "number", field = true, default = 0.1, doc = "factor of the learning rate" }

rules.step_lr = {
  doc = "The learning rate times gamma every step_size epochs, as torch.optim.lr_scheduler.StepLR.",
  spec = {
    step_size = { "integer", field = true, required = true, min = 1, unit = "epochs", doc = "between two decays" },
    gamma = gamma_option,
  },
  next = function(s, o) return s.count % o.step_size == 0 and s.lr * o.gamma or s.lr end,
}

local function times_listed(list, n)
  local times = 0
  for _, v in ipairs(list) do if v == n then times = times + 1 end end
  return times
end

rules.multistep_lr = {
  doc = "The learning rate times gamma at each milestone, as MultiStepLR.",
  spec = {
    milestones = { "table", of = "integer", required = true, unit = "epochs", doc = "after which the rate falls" },
    gamma = gamma_option,
  },
  check = function(o)
    for i, v in ipairs(o.milestones) do
      if math.type(v) ~= "integer" or v < 1 then
        check.fail("multistep_lr", "milestone %d is wrong (expected an epoch of 1 or more, got %s).", i, tostring(v))
      end
    end
  end,
  next = function(s, o)
    local times = times_listed(o.milestones, s.count)
    return times > 0 and s.lr * o.gamma ^ times or s.lr
  end,
}

rules.cosine_annealing_lr = {
  doc = "Down to eta_min along half a cosine of t_max epochs (Loshchilov and Hutter 2017, without restarts), as "
    .. "CosineAnnealingLR.",
  spec = {
    t_max = { "integer", required = true, min = 1, unit = "epochs", doc = "length of half a cosine" },
    eta_min = { "number", default = 0.0, min = 0, doc = "the lowest learning rate" },
  },
  next = function(s, o)
    local pi, n, t = math.pi, s.count, o.t_max
    if (n - 1 - t) % (2 * t) == 0 then
      return s.lr + (s.base - o.eta_min) * (1 - math.cos(pi / t)) / 2
    end
    return (1 + math.cos(pi * n / t)) / (1 + math.cos(pi * (n - 1) / t)) * (s.lr - o.eta_min) + o.eta_min
  end,
  -- PyTorch's closed form, which it uses when another schedule hands over
  first = function(base, o) return o.eta_min + (base - o.eta_min) * (1 + math.cos(0.0)) / 2 end,
}

local function is_better(o, value, best)
  if o.threshold_mode == "rel" then
    if o.mode == "min" then return value < best * (1.0 - o.threshold) end
    return value > best * (o.threshold + 1.0)
  end
  if o.mode == "min" then return value < best - o.threshold end
  return value > best + o.threshold
end

rules.reduce_lr_on_plateau = {
  doc = "The learning rate times factor when the validation loss has not improved for more than `patience` epochs, as "
    .. "ReduceLROnPlateau.",
  spec = {
    mode = { default = "min", one_of = { "min", "max" }, doc = "whether a lower or a higher value is better" },
    factor = { "number", default = 0.1, min = 0, doc = "factor of the learning rate, below 1" },
    patience = { "integer", default = 10, min = 0, unit = "epochs", doc = "without improvement before it falls" },
    threshold = { "number", default = 1e-4, doc = "the least change that counts as an improvement" },
    threshold_mode = { default = "rel", one_of = { "rel", "abs" },
      doc = "threshold as a share of the best, or absolute" },
    cooldown = { "integer", default = 0, min = 0, unit = "epochs", doc = "to wait after a decay" },
    min_lr = { "number", default = 0.0, min = 0, doc = "the lowest learning rate" },
    eps = { "number", default = 1e-8, min = 0, doc = "smaller decays are left out" },
  },
  check = function(o)
    if o.factor >= 1 then
      check.fail("reduce_lr_on_plateau", "option 'factor' is too large (expected below 1, got %s).", o.factor)
    end
  end,
  needs_metric = true,
  start = function(s, o)
    s.best = o.mode == "min" and math.huge or -math.huge
    s.bad, s.cooling = 0, 0
  end,
  next = function(s, o, metric)
    if is_better(o, metric, s.best) then s.best, s.bad = metric, 0 else s.bad = s.bad + 1 end
    if s.cooling > 0 then s.cooling, s.bad = s.cooling - 1, 0 end
    if s.bad <= o.patience then return s.lr end
    s.cooling, s.bad = o.cooldown, 0
    local lower = math.max(s.lr * o.factor, o.min_lr)
    return s.lr - lower > o.eps and lower or s.lr
  end,
}

rules.warmup = {
  doc = "From start_factor of the learning rate up to it in `epochs` epochs (LinearLR), then the schedule `after`.",
  spec = {
    epochs = { "integer", required = true, min = 1, unit = "epochs", doc = "of the rise" },
    start_factor = { "number", default = 1 / 3, above = 0, max = 1, doc = "of the learning rate, in the first epoch" },
    after = { "table", lua = "medxai.ScheduleSpec",
      doc = "the schedule that follows, for instance xai.optim.step_lr { ... }" },
  },
  check = function(o)
    if o.after and type(o.after.build) ~= "function" then
      check.fail("warmup", "option 'after' is no schedule (expected xai.optim.step_lr { ... } or another).")
    end
  end,
  start = function(s, o) s.lr = s.base * o.start_factor end,
  next = function(s, o, metric)
    if s.count < o.epochs or (s.count == o.epochs and not o.after) then
      local rise = 1.0 - o.start_factor
      return s.lr * (1.0 + rise / (o.epochs * o.start_factor + (s.count - 1) * rise))
    end
    if not o.after then return s.lr end
    if not s.inner then s.inner = o.after:build(s.base, true) else s.inner:step(metric) end
    return s.inner:lr()
  end,
}

---@class medxai.Schedule
local Schedule = {}
Schedule.__index = Schedule

--- The rate in force.
---@return number
function Schedule:lr() return self.s.lr end

--- One step (an epoch, where fit calls it). metric: what reduce_lr_on_plateau watches; others ignore it.
---@param metric? number
function Schedule:step(metric)
  local rule = rules[self.kind]
  if rule.needs_metric and type(metric) ~= "number" then
    check.fail(self.kind, "step needs the watched number (expected a number, got %s).",
      metric == nil and "nothing" or type(metric))
  end
  self.s.count = self.s.count + 1
  self.s.lr = rule.next(self.s, self.options, metric)
end

-- The fields of a state that are numbers; `inner` is a schedule of its own.
local function copied(s)
  local out = {}
  for key, value in pairs(s) do out[key] = key == "inner" and value:state() or value end
  return out
end

--- A plain table of numbers.
function Schedule:state() return copied(self.s) end

function Schedule:load_state(state)
  if type(state) ~= "table" or type(state.lr) ~= "number" or math.type(state.count) ~= "integer" then
    check.fail(self.kind, "saved state is not one of this schedule.")
  end
  local s = {}
  for key, value in pairs(state) do s[key] = value end
  if state.inner then
    s.inner = self.options.after:build(state.base)
    s.inner:load_state(state.inner)
  end
  self.s = s
end

---@class medxai.ScheduleSpec
---@field kind string
---@field options table complete, as checked
local ScheduleSpec = {}
ScheduleSpec.__index = ScheduleSpec

--- The schedule from this base rate.
---@param base number
---@param taken_over? boolean as PyTorch starts one that follows another
---@return medxai.Schedule
function ScheduleSpec:build(base, taken_over)
  if type(base) ~= "number" then
    check.fail(self.kind, "build needs the learning rate to start from (got %s).", type(base))
  end
  local rule = rules[self.kind]
  local s = { base = base, lr = base, count = 0 }
  if taken_over and rule.first then s.lr = rule.first(base, self.options) end
  if rule.start then rule.start(s, self.options) end
  return setmetatable({ kind = self.kind, options = self.options, s = s }, Schedule)
end

--- The rate after n steps from this base rate, for a table or a plot.
---@return number
function ScheduleSpec:lr_at(base, n)
  local schedule = self:build(base)
  for _ = 1, n do schedule:step() end
  return schedule:lr()
end

local function describe_schedule(kind)
  return function(options)
    options = Options.check(kind, options, rules[kind].spec)
    if rules[kind].check then rules[kind].check(options) end
    return setmetatable({ kind = kind, options = options }, ScheduleSpec)
  end
end

for kind in pairs(rules) do optim[kind] = describe_schedule(kind) end

-- For the reference (medxai.reference): name -> { doc, options }.
local function described()
  local optimizers, schedules = {}, {}
  for kind, options in pairs(kinds) do optimizers[kind] = { doc = optimizer_docs[kind], options = options } end
  for kind, rule in pairs(rules) do schedules[kind] = { doc = rule.doc, options = rule.spec } end
  return { optimizers = optimizers, schedules = schedules }
end

local all_names = check.sorted_keys(optim)

return setmetatable(optim, {
  __described = described,
  __names = function() return all_names end, -- for completion at the prompt
  __index = function(_, name) check.known("optim", "optimizer or schedule", name, all_names) end,
})
