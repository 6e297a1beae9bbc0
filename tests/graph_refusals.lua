-- What a native graph refuses: slots, counters and nodes that do not exist, nodes added too late, parameters without
-- tensors. Each of these once read or wrote memory that was not its own.
local t = require "t"
local graph = require("medxai.core").graph
local torch = require "medxai.torch"

local function new()
  local g = graph.new "net"
  return g, { id = g:input "x" }
end

local function slot(i) return { slot = i } end

local function norm(g, x, first, counter)
  local weight, bias, mean, var = slot(first), slot(first + 1), slot(first + 2), slot(first + 3)
  return g:op("norm", "batch_norm", { x, weight, bias, mean, var, { training = true }, 0.1, 1e-5, false }, counter)
end

t.test("a slot or a node that does not exist is refused where it is named", function()
  local g, x = new()
  for _, i in ipairs { 0, -1, (1 << 32) + 1 } do
    local message = ("graph: there is no slot %d (expected 1 to 16777216)"):format(i)
    t.fails(function() g:op("a", "add.Tensor", { x, slot(i) }) end, message)
    t.fails(function() norm(g, x, 1, i) end, message)
    t.fails(function() g:op("a", "relu", { { id = i } }) end, ("graph: there is no node %d"):format(i))
  end
  t.fails(function() g:op("a", "relu", { { id = 2 } }) end, "graph: there is no node 2")
  t.equal(g:count(), 1)
end)

t.test("an operator that writes to its argument is no node: what later runs read again would be changed", function()
  local g, x = new()
  local function refused(operator, args)
    t.fails(function() g:op("a", operator, args) end,
      ("graph: 'a' is the operator '%s', which writes to its argument (expected one that gives a new value)."):format(
        operator))
  end
  refused("add_.Scalar", { x, 1 })
  refused("__iand__.Tensor", { x, x })
  t.fails_like(function() g:op("a", "relu_", { x }) end, "'relu_', which writes to its argument")
  t.equal(g:count(), 1)
end)

t.test("a state has room for every slot and counter that the nodes read", function()
  local g, x = new()
  g:op("a", "add.Tensor", { x, slot(3) })
  t.fails(function() g:state(2) end, "graph: its nodes read 3 slots (got 2)")
  t.fails(function() g:state(-1) end, "graph: -1 slots (expected 0 to 16777216)")
  norm(g, x, 1, 99)
  t.fails(function() g:state(4) end, "graph: its nodes read 99 slots (got 4)")
  g:state(99)
end)

t.test("no node is added to a graph that a model uses, by a function node neither", function()
  local g, x = new()
  local function grows(v)
    for i = 1, 1000 do g:op("late" .. i, "relu", { x }) end
    return v
  end
  local f = g:func("f", grows, { x })
  local s = g:state(0)
  local refused = "graph: 'late1' cannot be added (a model uses the graph already)"
  t.fails(function() s:run { x = torch.zeros(2), outputs = { f } } end, refused .. "\n  in net > f")
  t.fails(function() grows() end, refused)
  t.fails(function() s:set_eval(3, true) end, "graph: there is no node 3")
  t.equal(g:count(), 2)
end)

t.test("the input is the first node, and no other", function()
  local g = graph.new "net"
  local why = "cannot be added (the first node is the input, and no other)"
  t.fails(function() g:op("a", "relu", { slot(1) }) end, "graph: 'a' " .. why)
  g:input "x"
  t.fails(function() g:input "y" end, "graph: 'y' " .. why)
end)

t.test("a parameter without a tensor is an error, folded or not", function()
  local g, x = new()
  local conv = g:op("conv", "conv2d", { x, slot(1), nil, { 1, 1 }, { 0, 0 }, { 1, 1 }, 1 })
  local out = norm(g, { id = conv }, 2)
  local s = g:state(5)
  local one = torch.zeros(1, 1, 2, 2)
  t.fails(function() s:run { x = one, outputs = { out }, fold = true } end,
    "batch_norm: a parameter has no tensor\n  in net > norm")
  t.fails_like(function() s:run { x = one, outputs = { out }, fold = false } end, "^conv2d: ")
end)

t.test("an operator whose first argument is a parameter is computed from it, guided or not", function()
  local g, x = new()
  local out = g:op("a", "relu", { slot(1) })
  local s = g:state(1)
  s:set(1, torch.tensor { -1.0, 2.0 })
  for _, guided in ipairs { false, true } do
    local y = s:run { x = torch.zeros(3):requires_grad_(), outputs = { out }, leaves = { x.id }, guided = guided }[1]
    t.equal(y:tolist(), { 0, 2 })
  end
end)
