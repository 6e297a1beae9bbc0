-- What a step leaves behind: all of it or nothing, where memory is short or the gradients are bad; and the kernels that
-- GPUs use, on the CPU of a libtorch that has them there.
local t = require "t"
local core = require "medxai.core"
local torch = require "medxai.torch"

local kinds = {
  { "sgd", { lr = 0.1 } },
  { "sgd", { lr = 0.1, momentum = 0.9, weight_decay = 0.01, nesterov = true } },
  { "sgd", { lr = 0.1, momentum = 0.8, dampening = 0.3 } },
  { "adam", { lr = 0.01, weight_decay = 0.1, amsgrad = true } },
  { "adamw", { lr = 0.01, weight_decay = 0.2 } },
  { "rmsprop", { lr = 0.01, momentum = 0.7, centered = true, weight_decay = 0.05 } },
}

-- An optimizer of two parameters (one in channels_last) and a third without a gradient; step k's gradients are fixed.
local function setting(case, more)
  local options = {}
  for name, value in pairs(case[2]) do options[name] = value end
  for name, value in pairs(more or {}) do options[name] = value end
  local s = { names = { "w", "b", "still" } }
  local function values(n, at)
    return torch.arange(n, { dtype = "float32" }):mul(0.37):add(at):sin()
  end
  s.params = { values(120, 1):reshape { 5, 4, 3, 2 }:to { memory_format = "channels_last" }, values(7, 2),
    values(3, 3) }
  for _, p in ipairs(s.params) do p.requires_grad = true end
  s.native = core.optim.new(case[1], options)
  s.native:add_group(s.names, s.params, {})
  function s:gradients(k)
    self.params[1].grad = values(120, 10 * k):reshape { 5, 4, 3, 2 }
    self.params[2].grad = values(7, 20 * k)
  end
  function s:bytes()
    local out = {}
    for i, p in ipairs(self.params) do out[i] = p:detach():contiguous():data_string() end
    for _, row in ipairs(self.native:state()) do
      out[#out + 1] = row.param .. row.entry .. row.tensor:contiguous():data_string()
    end
    return out
  end
  return s
end

for index, case in ipairs(kinds) do
  t.test(("%s (case %d): a step that runs out of memory anywhere leaves weights and state as they were"):format(case[1],
    index), function()
    for begun = 0, 1 do
      local s, expected = setting(case), setting(case)
      for k = 1, begun do
        s:gradients(k)
        s.native:step()
        expected:gradients(k)
        expected.native:step()
      end
      s:gradients(5)
      expected:gradients(5)
      local before, failures = s:bytes(), 0
      for n = 0, 200 do
        core.memory.fail_after(n, 1000000)
        local ok, problem = pcall(s.native.step, s.native)
        core.memory.fail_after(-1)
        if ok then break end
        failures = failures + 1
        t.ok(tostring(problem):find "^out of memory: optimizer ", problem)
        t.equal(s:bytes(), before, "after " .. n .. " allocations")
      end
      t.ok(failures > 0 or index == 1 or index == 3 and begun == 1, "no allocation failed")
      expected.native:step()
      t.equal(s:bytes(), expected:bytes())
    end
  end)
end

for index, case in ipairs(kinds) do
  t.test(("%s (case %d): a bad step is left out and does not count"):format(case[1], index), function()
    local s, expected = setting(case), setting(case)
    for k = 1, 4 do
      s:gradients(k)
      if k % 2 == 1 then s.params[1].grad:fill_(0 / 0) end
      s.native:step(torch.tensor { k % 2 == 1 and 1.0 or 0.0 })
      if k % 2 == 0 then
        expected:gradients(k)
        expected.native:step()
      end
      if k == 1 then t.equal(#s.native:state(), 0) end
    end
    t.equal(s:bytes(), expected:bytes())
  end)
end

t.test("what says whether a step is bad is one number", function()
  local s = setting(kinds[1])
  s:gradients(1)
  t.fails(function() s.native:step(torch.ones(2)) end,
    "optimizer: step: expected one number that says whether to leave the step out, got 2")
end)

t.test("parameters of 5 MB are taken in parts, to the bits of one parameter alone", function()
  local function trained(all)
    local params, names = {}, {}
    for i = 1, all and 6 or 1 do
      params[i], names[i] = torch.full({ 220000 }, 0.5):add(i - 1):requires_grad_(), "p" .. i
    end
    local o = core.optim.new("adam", { lr = 0.1, weight_decay = 0.1 })
    o:add_group(names, params, {})
    for k = 1, 2 do
      for i, p in ipairs(params) do p.grad = torch.full({ 220000 }, 0.25 * k * i) end
      o:step()
    end
    return params
  end
  local many, one = trained(true), trained(false)
  t.ok(many[1]:equal(one[1]))
  t.ok(not many[2]:equal(many[1]) and many[6]:isfinite():all():item())
end)

local major, minor = core.tensor.torch_version():match "^(%d+)%.(%d+)"
local has_fused = tonumber(major) > 2 or tonumber(major) == 2 and tonumber(minor) >= 4

for index, case in ipairs(kinds) do
  t.test(("%s (case %d): the kernel for a whole step gives the numbers of the lists, skips bad steps, and its state "
    .. "carries over"):format(case[1], index), function()
    if not has_fused then t.skip("libtorch " .. core.tensor.torch_version() .. " has it on GPUs alone") end
    local fused, lists = setting(case, { fused = true }), setting(case)
    for k = 1, 6 do
      fused:gradients(k)
      local bad = k == 1 or k == 4
      if bad then fused.params[2].grad:fill_(1 / 0) end
      fused.native:step(torch.tensor { bad and 1.0 or 0.0 })
      if not bad then
        lists:gradients(k)
        lists.native:step()
      end
      for i, p in ipairs(fused.params) do t.near(p:detach(), lists.params[i]:detach(), 2e-6) end
      if k == 3 then -- what was saved goes on in lists
        local saved = fused.native:state()
        for _, row in ipairs(saved) do
          if row.entry == "step" then t.equal({ row.tensor.dtype, row.tensor:item() }, { "int64", 2 }) end
        end
        lists.native:clear_state()
        for _, row in ipairs(saved) do lists.native:set_state(row.param, row.entry, row.tensor) end
      end
    end
  end)
end
