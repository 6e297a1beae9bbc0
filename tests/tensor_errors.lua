-- What a wrong call says, word for word: shapes, dtypes, indices.
local t = require "t"
local torch = require "medxai.torch"

local r = torch.randn

local cases = {
  { function() return torch.matmul(r(32, 250), r(40, 51)) end,
    "matmul: shapes 32x250 and 40x51 do not fit (250 is not 40)" },
  { function() return torch.linear(r(32, 250), r(51, 40)) end,
    "matmul: shapes 32x250 and 40x51 do not fit (250 is not 40)" },
  { function() return torch.mm(r(2, 3), r(4, 5)) end, "mm: shapes 2x3 and 4x5 do not fit (3 is not 4)" },
  { function() return torch.bmm(r(2, 3, 4), r(2, 5, 6)) end, "bmm: shapes 2x3x4 and 2x5x6 do not fit (4 is not 5)" },
  { function() return torch.addmm(r(5), r(2, 3), r(4, 5)) end, "addmm: shapes 2x3 and 4x5 do not fit (3 is not 4)" },
  { function() return torch.dot(r(3), r(4)) end, "dot: shapes 3 and 4 do not fit (3 is not 4)" },
  { function() return torch.matmul(r(2, 2, 3), r(3, 3, 3)) end,
    "matmul: shapes 2x2x3 and 3x3x3 do not fit (2 is not 3 in dimension 0)" },
  { function() return r(2, 3) + r(2, 4) end, "add: shapes 2x3 and 2x4 do not fit (3 is not 4 in dimension 1)" },
  { function() return r(2, 3):add_(r(4, 2, 3)) end,
    "add_: a result of shape 4x2x3 does not fit into a tensor of shape 2x3" },
  { function() return r(3):expand(2, 4) end, "expand: shape 3 does not expand to 2x4 (3 is not 4 in dimension 1)" },
  { function() return torch.cat { r(2, 3), r(2, 4) } end,
    "cat: shapes 2x3 and 2x4 do not fit (3 is not 4; only dimension 0 may differ)" },
  { function() return torch.cat { r(2, 3), r(3) } end, "cat: tensors of 2 and 1 dimensions do not fit" },
  { function() return torch.cat {} end, "cat: an empty list of tensors (expected one or more)" },
  { function() return torch.stack { r(2, 3), r(2, 4) } end,
    "stack: shapes 2x3 and 2x4 do not fit (all must be equal)" },
  { function() return r(2, 3):view(4, 2) end, "view: shape 2x3 (6 elements) does not become 4x2" },
  { function() return r(2, 3):reshape(4, -1) end, "reshape: shape 2x3 (6 elements) does not become 4x-1" },
  { function() return r(2, 3):t():view(6) end,
    "view: a tensor of shape 3x2 with gaps between its elements has no such view. Use t:reshape." },
  { function() return torch.conv2d(r(1, 1, 8, 8), r(4, 3, 3, 3)) end,
    "conv2d: input 1x1x8x8 has 1 channel, weight 4x3x3x3 takes 3" },
  { function() return torch.conv2d(r(1, 3, 2, 2), r(4, 3, 3, 3)) end,
    "conv2d: kernel 3x3 is larger than the padded input 2x2" },
  { function() return torch.conv2d(r(1, 3, 8, 8), r(4, 3, 3, 3), r(5)) end,
    "conv2d: bias 5 does not fit weight 4x3x3x3" },
  { function() return torch.conv2d(r(1, 3, 8, 8):double(), r(4, 3, 3, 3)) end,
    'conv2d: dtypes differ (input is float64, weight float32). Convert one with t:to("float64").' },
  { function() return torch.matmul(r(2, 3), r(3, 4):double()) end,
    'matmul: dtypes differ (self is float32, other float64). Convert one with t:to("float32").' },
  { function() return torch.sum(r(2, 3), 5) end, "sum: dimension 5 is out of range (expected -2 to 1)" },
  { function() return r(2, 3):select(0, 7) end, "select: index 7 is out of range (shape 2x3, dimension 0)" },
  { function() return torch.cross_entropy(r(4, 3), torch.tensor { 0, 1, 2, 3 }) end,
    "cross_entropy: target 3 is out of range (expected 0 to 2)" },
  { function() return torch.cross_entropy(r(4, 3), torch.tensor { 0, 1 }) end,
    "cross_entropy: 4 inputs and 2 targets do not fit" },
  { function() return torch.nll_loss(r(2, 3), torch.tensor { 0.5, 1.0 }) end,
    'nll_loss: a tensor is float32 (expected int64). Convert it with t:to("int64").' },
  { function() return torch.ones(2, { requires_grad = true }):add_(1) end,
    "add_: a leaf that requires gradients is not changed in place. Do it inside torch.no_grad." },
}

t.test("shape, dtype and index errors in the house's words", function()
  if not torch.op_schemas "add"[1] then t.skip "no operators" end
  for _, case in ipairs(cases) do t.fails(case[1], case[2]) end
end)

t.test("sizes that no machine has are errors", function()
  t.fails_like(function() return torch.zeros(1 << 50, 1 << 20) end, "^zeros: ")
  t.fails_like(function() return torch.zeros(1 << 40) end, "out of memory")
  t.fails_like(function() return torch.zeros(-1) end, "^zeros: .*negative")
  t.fails_like(function() return torch.randperm(-1) end, "^randperm: ")
end)

t.test("an error leaves no tensor behind", function()
  local memory = require("medxai.core").memory
  collectgarbage() collectgarbage()
  local before = memory.stats().live_tensors
  for _, case in ipairs(cases) do pcall(case[1]) end
  collectgarbage() collectgarbage()
  t.equal(memory.stats().live_tensors, before)
end)
