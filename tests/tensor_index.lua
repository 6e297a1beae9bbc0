-- Indexing and slicing, read and written: PyTorch's meaning, indices from 0, slices half-open.
local t = require "t"
local torch = require "medxai.torch"

local function grid() return torch.arange(12):view(3, 4) end

t.test("integers, negative ones from the end", function()
  t.equal(grid()[1]:tolist(), { 4, 5, 6, 7 })
  t.equal(grid()[-1]:tolist(), { 8, 9, 10, 11 })
  t.equal(grid()[{ 1, 2 }]:item(), 6)
  t.equal(grid()[{ -1, -1 }]:item(), 11)
  t.equal(grid()[1.0]:tolist(), { 4, 5, 6, 7 })
end)

t.test("slices are half-open, may be open at either end, take a step and are cut to the size", function()
  t.equal(grid()[{ 1, { 0, 2 } }]:tolist(), { 4, 5 })
  t.equal(grid()[{ { 0, 2 }, { 1, 3 } }]:tolist(), { { 1, 2 }, { 5, 6 } })
  t.equal(grid()[{ {}, 1 }]:tolist(), { 1, 5, 9 })
  t.equal(grid()[{ nil, 1 }]:tolist(), { 1, 5, 9 })
  t.equal(grid()[{ 0, { 2 } }]:tolist(), { 2, 3 })
  t.equal(grid()[{ 0, { nil, 2 } }]:tolist(), { 0, 1 })
  t.equal(grid()[{ 0, { 0, 4, 2 } }]:tolist(), { 0, 2 })
  t.equal(grid()[{ 0, { nil, nil, 3 } }]:tolist(), { 0, 3 })
  t.equal(grid()[{ 0, { -2 } }]:tolist(), { 2, 3 })
  t.equal(grid()[{ 0, { 0, -1 } }]:tolist(), { 0, 1, 2 })
  t.equal(grid()[{ { 1, 99 } }].shape, { 2, 4 })
  t.equal(grid()[{ { 3, 2 } }].shape, { 0, 4 })
end)

t.test("\"...\" stands for what lies between, torch.none adds a dimension", function()
  local x = torch.arange(24):view(2, 3, 4)
  t.equal(x[{ "...", 0 }]:tolist(), { { 0, 4, 8 }, { 12, 16, 20 } })
  t.equal(x[{ 1, "..." }].shape, { 3, 4 })
  t.equal(x[{ torch.none, "..." }].shape, { 1, 2, 3, 4 })
  t.equal(x[{ {}, torch.none }].shape, { 2, 1, 3, 4 })
end)

t.test("masks select, index tensors gather", function()
  local x = grid()
  t.equal(x[x:gt(8)]:tolist(), { 9, 10, 11 })
  t.equal(x[torch.tensor { 2, 0 }]:tolist(), { { 8, 9, 10, 11 }, { 0, 1, 2, 3 } })
  t.equal(x[{ torch.tensor { 0, 2 }, torch.tensor { 1, 3 } }]:tolist(), { 1, 11 })
  t.equal(x[{ {}, torch.tensor { 3, 0 } }]:tolist(), { { 3, 0 }, { 7, 4 }, { 11, 8 } })
  t.equal(x[{ {}, torch.tensor { true, false, false, true } }]:tolist(), { { 0, 3 }, { 4, 7 }, { 8, 11 } })
  t.equal(x[{ 1, torch.tensor { 3, -1, 0 } }]:tolist(), { 7, 7, 4 })
  t.equal(x[torch.tensor({ 1 }, { dtype = "int32" })]:tolist(), { { 4, 5, 6, 7 } })
end)

t.test("reading with numbers and slices gives a view", function()
  local x = grid()
  x[0]:fill_(7)
  t.equal(x[{ 0 }]:tolist(), { 7, 7, 7, 7 })
end)

t.test("assignment with numbers, tensors, masks and indices", function()
  local x = torch.zeros(3, 4)
  x[0] = 1
  x[{ 1, { 1, 3 } }] = torch.tensor { 2.0, 3.0 }
  x[{ {}, -1 }] = 9
  x[{ 2, 0 }] = 0.5
  t.equal(x:tolist(), { { 1.0, 1.0, 1.0, 9.0 }, { 0.0, 2.0, 3.0, 9.0 }, { 0.5, 0.0, 0.0, 9.0 } })
  x[x:gt(8)] = -1
  t.equal(x[{ {}, 3 }]:tolist(), { -1.0, -1.0, -1.0 })
  x[torch.tensor { 0, 2 }] = 0
  t.equal(x:tolist(), { { 0.0, 0.0, 0.0, 0.0 }, { 0.0, 2.0, 3.0, -1.0 }, { 0.0, 0.0, 0.0, 0.0 } })
  x[{ 1, torch.tensor { 0, 1 } }] = torch.tensor { 5, 6 }
  t.equal(x[1]:tolist(), { 5.0, 6.0, 3.0, -1.0 })
  x[0] = torch.ones(1, 4)
  t.equal(x[0]:sum():item(), 4.0)
  local flags = torch.zeros({ 2 }, { dtype = "bool" })
  flags[1] = true
  t.equal(flags:tolist(), { false, true })
end)

t.test("gradients flow through what was read", function()
  local x = torch.ones(2, 2, { requires_grad = true })
  x[{ 0, { 0, 1 } }]:sum():backward()
  t.equal(x.grad:tolist(), { { 1.0, 0.0 }, { 0.0, 0.0 } })
end)

t.test("wrong indices are told", function()
  local x = grid()
  t.fails(function() return x[3] end, "index: 3 is out of range (dimension of size 3, indices from 0)")
  t.fails(function() return x[-4] end, "index: -4 is out of range (dimension of size 3, indices from 0)")
  t.fails(function() return x[{ 0, 0, 0 }] end, "index: too many indices for a tensor of 0 dimensions")
  t.fails(function() return x[{ { 0, 2, -1 } }] end,
    "index: the step of a slice is -1 (expected 1 or more). Use t:flip.")
  t.fails(function() return x[{ { 0, 1, 1, 1 } }] end, "index: a slice is {first, end} or {first, end, step}")
  t.fails(function() return x[1.5] end, "index: expected an integer, got 1.5")
  t.fails(function() return x[true] end, "index: a boolean is not an index (expected an integer, a slice {a, b} or "
    .. "a tensor)")
  t.fails(function() return x[{ a = 1 }] end, "index: an index is a list such as {1, {0, 4}}")
  t.fails(function() return x[torch.tensor { true, false }] end, "index: the mask has 2 in dimension 0, the tensor 3")
  t.fails(function() return x[torch.tensor { 0.5 }] end,
    "index: a float32 tensor is not an index (expected int64 or bool)")
  t.fails_like(function() return x[torch.tensor { 7 }] end,
    "^index: index 7 is out of bounds for dimension 0 with size 3")
  t.fails(function() x[0] = "a" end, "index: cannot store a string in a tensor (expected a number or a tensor)")
  t.fails(function() x[0] = torch.ones(5) end, "copy_: shapes 4 and 5 do not fit (4 is not 5 in dimension 0)")
  t.fails(function() return torch.tensor(1)[0] end, "index: too many indices for a tensor of 0 dimensions")
end)
