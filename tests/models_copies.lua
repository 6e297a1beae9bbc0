-- Copies of a model: state and its loading, clone, randomize, frozen parts, summary.
local t = require "t"
local core = require "medxai.core"
local graph = require "medxai.nn.graph"
local models = require "medxai.nn.models"
local torch = require "medxai.torch"

local function tiny(o)
  o = o or {}
  return graph.network { name = "tiny", classes = { "a", "b" }, size_px = 8, seed = o.seed or 1, build = function(g, x)
    x = g:block("first", function()
      return g:relu(nil, g:batch_norm2d("norm", g:conv2d("conv", x, { 3, 4, 3, padding = 1 }), 4))
    end)
    x = g:block("second", function() return g:relu(nil, g:conv2d("conv", x, { 4, 4, 3, padding = 1 })) end)
    return g:linear("fc", g:flatten(nil, g:adaptive_avg_pool2d("pool", x, 1)), { 4, 2 })
  end }
end

local function equal(model, other, name)
  for i, entry in ipairs(model:state()) do
    if entry.name == name then return torch.equal(entry.tensor, other:state()[i].tensor) end
  end
  error("no entry " .. name)
end

local function copies(model)
  local list = {}
  for i, entry in ipairs(model:state()) do list[i] = { name = entry.name, tensor = entry.tensor:detach():clone() } end
  return list
end

t.test("a state goes into another model of the same shape", function()
  local a <close> = tiny { seed = 1 }
  local b <close> = tiny { seed = 2 }
  t.equal(equal(a, b, "fc.weight"), false)
  local version = b:version()
  local report = b:load_state(copies(a))
  t.equal(report.matched, #a:state())
  t.equal({ report.missing, report.extra, report.shape_differs }, { {}, {}, {} })
  for _, entry in ipairs(a:state()) do t.ok(equal(a, b, entry.name), entry.name) end
  t.ok(b:version() ~= version, "the version tells")
end)

t.test("dtypes are converted, gradients stay switched on", function()
  local a <close> = tiny { seed = 1 }
  local b <close> = tiny { seed = 2 }
  local list = copies(a)
  for _, entry in ipairs(list) do
    if entry.tensor.dtype == "float32" then entry.tensor = entry.tensor:to("float64") end
  end
  b:load_state(list)
  t.ok(equal(a, b, "first.conv.weight"))
  t.equal(b:parameters()[1].tensor.requires_grad, true)
end)

t.test("a state that does not fit loads nothing and says what is wrong", function()
  local a <close> = tiny { seed = 1 }
  local b <close> = tiny { seed = 2 }
  local list = copies(a)
  list[#list].name = "head.bias"
  list[1].tensor = torch.zeros(4, 3, 1, 1)
  t.fails(function() b:load_state(list, { what = "weights.pt" }) end,
    "tiny: 'weights.pt' does not fit the model (9 matched, 1 missing, 1 extra, 1 of another shape). Nothing was "
    .. "loaded.\n"
    .. "  first.conv.weight is 4x3x1x1 in the file, 4x3x3x3 here\n  missing in the file: fc.bias\n  only in the "
    .. "file: head.bias")
  t.equal(equal(a, b, "fc.weight"), false)
  local report = b:load_state(list, { strict = false })
  t.equal(report.missing, { "fc.bias" })
  t.equal(report.extra, { "head.bias" })
  t.ok(equal(a, b, "fc.weight"))
end)

t.test("a clone shares the graph and nothing else", function()
  local a <close> = tiny()
  local b <close> = a:clone()
  t.ok(a._def == b._def)
  torch.no_grad(function() b:parameters()[1].tensor:zero_() end)
  t.equal(equal(a, b, "first.conv.weight"), false)
  t.equal(b.classes, a.classes)
  t.equal(b:parameters()[1].trainable, true)
end)

t.test("randomize cascades from the output, or changes one part", function()
  local a <close> = tiny()
  local one <close> = a:randomize { only = "second", seed = 3 }
  local top <close> = a:randomize { to = "fc", seed = 3 }
  local deep <close> = a:randomize { to = "second", seed = 3 }
  t.equal({ equal(a, one, "fc.weight"), equal(a, one, "second.conv.weight"), equal(a, one, "first.conv.weight") },
    { true, false, true })
  t.equal({ equal(a, top, "fc.weight"), equal(a, top, "second.conv.weight"), equal(a, top, "first.conv.weight") },
    { false, true, true })
  t.equal({ equal(a, deep, "fc.weight"), equal(a, deep, "second.conv.weight"), equal(a, deep, "first.conv.weight") },
    { false, false, true })
  t.ok(equal(top, deep, "fc.weight"), "a longer cascade keeps the numbers of a shorter one")
  t.ok(equal(one, deep, "second.conv.weight"))
  local other <close> = a:randomize { to = "fc", seed = 4 }
  t.equal(equal(top, other, "fc.weight"), false)
  t.fails(function() a:randomize {} end, "tiny: randomize: give either to = NAME (cascading) or only = NAME.")
  t.fails(function() a:randomize { to = "scond" } end, "tiny: unknown node 'scond'. Did you mean 'second'?")
end)

t.test("a frozen part goes on in train mode, or stays in eval mode", function()
  local x = torch.rand(2, 3, 64, 64)
  local function after_one_batch(frozen)
    local model <close> = models.mobilenet_v2 { classes = 2, train_depth = 1, frozen = frozen, seed = 1, hidden = 8 }
    model(x)
    local copy <close> = model:clone()
    copy(x)
    local counts = {}
    for _, entry in ipairs(copy:buffers()) do
      if entry.name == "features.0.1.num_batches_tracked" or entry.name == "features.18.1.num_batches_tracked" then
        counts[#counts + 1] = entry.tensor:item()
      end
    end
    return counts
  end
  t.equal(after_one_batch "train", { 2, 2 })
  t.equal(after_one_batch "eval", { 0, 2 })
end)

t.test("the frozen prefix records no graph", function()
  local model <close> = models.mobilenet_v2 { classes = 2, train_depth = 1, seed = 1, hidden = 8 }
  local got = model:forward { x = torch.rand(2, 3, 64, 64), outputs = { "features.13", "features.14", "output" } }
  t.equal({ got["features.13"].requires_grad, got["features.14"].requires_grad }, { false, true })
end)

t.test("moving keeps the tensor objects", function()
  local model <close> = tiny()
  local w = model:parameters()[1].tensor
  model:to { dtype = "float64", layout = "channels_last" }
  t.equal({ w.dtype, w:stride(1), w.requires_grad, model.dtype }, { "float64", 1, true, "float64" })
end)

t.test("a summary shows the tree, shapes, parameters and what is trained", function()
  local model <close> = tiny()
  model:set_trainable { first = false }
  t.equal(tostring(model), [[
tiny: 2 classes, images of 8x8, float32, nchw; 278 parameters, 158 trained
  x        input                3x8x8
  first                         4x8x8  120  frozen
    conv   conv2d               4x8x8  112  frozen
    norm   batch_norm           4x8x8    8  frozen
    relu   relu                 4x8x8
  second                        4x8x8  148  trained
    conv   conv2d               4x8x8  148  trained
    relu   relu                 4x8x8
  pool     adaptive_avg_pool2d  4x1x1
  flatten  flatten              4
  fc       linear               2       10  trained]])
  t.fails(function() model:set_trainable { frst = true } end, "tiny: unknown part 'frst'. Did you mean 'first'?")
end)

t.test("modules come in registration order with their tensors", function()
  local model <close> = tiny()
  local kinds = {}
  for i, m in ipairs(model:modules()) do kinds[i] = m.name .. " " .. m.kind end
  t.equal(kinds, { "first.conv conv2d", "first.norm batch_norm2d", "second.conv conv2d", "fc linear" })
  t.equal(model:modules()[2].running_var.shape, { 4 })
end)

-- Fails the n-th allocation of one kind, for n = 0, 1, 2 ... until run() goes through; nothing may leak on the way.
local function sweep(kind, fail_after, run, before_each)
  for n = 0, 2000 do
    before_each()
    collectgarbage()
    collectgarbage()
    local before = core.memory.stats().live_tensors
    fail_after(n, 1000000)
    local ok, problem = pcall(run)
    fail_after(-1)
    if ok then
      t.ok(n > 2, kind .. ": nothing failed")
      return
    end
    t.ok(tostring(problem):find "memory", kind .. ": " .. tostring(problem))
    problem = nil
    collectgarbage()
    collectgarbage()
    t.equal(core.memory.stats().live_tensors, before, kind .. ": live tensors after failure " .. n)
  end
  error(kind .. ": never went through")
end

t.test("any allocation of a pass may fail: an error, no leak, and it works afterwards", function()
  local model = tiny():eval()
  local x = torch.rand(2, 3, 8, 8)
  local function run()
    local scope <close> = core.memory.scope()
    torch.no_grad(function() return model:forward { x = x, outputs = { "first", "output" } } end)
    local got = model:forward { x = x, grad_from = { "first" } }
    return torch.autograd.grad(got.output:sum(), { got.first })
  end
  local want = torch.no_grad(function() return model:forward { x = x, fold = false }.output:clone() end)
  local function forget() model._state:drop_folded() end
  sweep("tensors", core.memory.fail_after, run, forget)
  sweep("C", core.memory.c_fail_after, run, forget)
  sweep("Lua", core.memory.lua_fail_after, run, forget)
  t.ok(torch.equal(torch.no_grad(function() return model:forward { x = x, fold = false }.output end), want))
  model:close()
end)

t.test("any allocation while a network is built may fail: an error and no leak", function()
  local function run()
    local model <close> = tiny()
    model:parameters() -- what makes the tensors
  end
  local function nothing() end
  sweep("C", core.memory.c_fail_after, run, nothing)
  sweep("tensors", core.memory.fail_after, run, nothing)
end)
