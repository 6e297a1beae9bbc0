-- How operators are called from Lua: each decided convention, and what is refused.
local t = require "t"
local torch = require "medxai.torch"

t.test("positional arguments, a trailing table of names, defaults", function()
  local x = torch.arange(6):view(2, 3):float()
  t.equal(torch.sum(x, 0).shape, { 3 })
  t.equal(torch.sum(x, 0, true).shape, { 1, 3 })
  t.equal(x:sum({ dim = { 1 }, keepdim = true }).shape, { 2, 1 })
  t.equal(torch.zeros(2, 3, { dtype = "float64" }).dtype, "float64")
  t.near(torch.softmax(x, { dim = 1 }):sum():item(), 2.0, 1e-6)
end)

t.test("the receiver fills the argument named self, wherever it stands", function()
  local mask, a, b = torch.tensor { true, false }, torch.tensor { 1, 2 }, torch.tensor { 3, 4 }
  t.equal(torch.where(mask, a, b):tolist(), { 1, 4 })
  t.equal(a:where(mask, b):tolist(), { 1, 4 })
end)

t.test("a list argument is a sequence; the last one may be spread; a number fills int[N]", function()
  t.equal(torch.zeros({ 2, 3 }).shape, { 2, 3 })
  t.equal(torch.zeros(2, 3).shape, { 2, 3 })
  t.equal(torch.zeros(4).shape, { 4 })
  t.equal(torch.arange(6):view(2, 3).shape, { 2, 3 })
  t.equal(torch.arange(6):view(-1).shape, { 6 })
  t.fails_like(function() torch.ones(2, 3):sum(0, 1) end, "^sum: argument 'keepdim' %(expected bool, got 1%)")
end)

t.test("an empty table is an empty list", function()
  t.equal(torch.zeros({}).shape, {})
  t.equal(torch.ones(1):view({}).shape, {})
end)

t.test("a number fills int[2] of a pooling window, a list of two as well", function()
  local x = torch.randn(1, 1, 4, 4)
  t.equal(torch.max_pool2d(x, 2).shape, { 1, 1, 2, 2 })
  t.equal(torch.max_pool2d(x, { 2, 1 }).shape, { 1, 1, 2, 4 })
  t.fails_like(function() torch.max_pool2d(x, { 1, 2, 3 }) end,
    "^max_pool2d: argument 'kernel_size' %(expected 2 integers, got 3%)")
end)

t.test("floats with an integral value fill integers, others do not", function()
  t.equal(torch.zeros(2.0, 3.0).shape, { 2, 3 })
  t.fails_like(function() torch.zeros(2.5) end, "^zeros: argument 'size' %(expected int%[%], got 2.5%)")
end)

t.test("a scalar keeps Lua's integer or float", function()
  t.equal((torch.tensor { 1, 2 } + 1).dtype, "int64")
  t.equal((torch.tensor { 1, 2 } + 1.0).dtype, "float32")
  t.equal(torch.full({ 2 }, 7).dtype, "int64")
  t.equal(torch.full({ 2 }, 7.0).dtype, "float32")
  t.equal(torch.full({ 2 }, true).dtype, "bool")
end)

t.test("nil is the default, torch.none is None", function()
  local x = torch.tensor { 1.0, 5.0, 9.0 }
  t.equal(x:clamp(nil, 4):tolist(), { 1.0, 4.0, 4.0 })
  t.equal(x:clamp(torch.none, 4):tolist(), { 1.0, 4.0, 4.0 })
  t.equal(torch.linear(torch.ones(1, 2), torch.ones(3, 2), nil).shape, { 1, 3 })
  t.equal(torch.index(torch.arange(6):view(2, 3), { torch.none, torch.tensor { 0, 2 } }):tolist(),
    { { 0, 2 }, { 3, 5 } })
  t.fails_like(function() torch.add(x, nil) end, "^add: argument 'other' is missing %(expected Tensor%)")
end)

t.test("surplus arguments, unknown names and doubled ones are errors", function()
  local x = torch.ones(2)
  t.fails_like(function() torch.relu(x, 1) end, "^relu: 2 arguments are too many")
  t.fails_like(function() torch.zeros(2, { dtypo = "float32" }) end, "^zeros: there is no argument 'dtypo'")
  t.fails_like(function() torch.sum(x, 0, { dim = 0 }) end, "^sum: argument 'dim' is given twice")
end)

t.test("a table that is half list, half names shows the right form", function()
  t.fails(function() torch.zeros { 2, 3, dtype = "float32" } end,
    'zeros: a table is either a list or named arguments, not both. Write zeros({2, 3}, {dtype = "float32"}).')
end)

t.test("when no form fits, the argument is named and the forms are listed", function()
  t.fails(function() torch.add(torch.ones(1), "x") end, "add: argument 'other' (expected Tensor, got 'x'). Its forms:\n"
    .. "  add(Tensor self, Tensor other, *, Scalar alpha=1) -> Tensor\n  add(Tensor self, Scalar other, Scalar "
    .. "alpha=1) -> Tensor")
end)

t.test("dtype, device and memory format are strings", function()
  local x = torch.ones(2, 3)
  t.equal(x:to("float64").dtype, "float64")
  t.equal(x:to("cpu", "int64").dtype, "int64")
  t.equal(x:to { dtype = "bool" }.dtype, "bool")
  t.equal(x:to(torch.ones(1, { dtype = "uint8" })).dtype, "uint8")
  t.equal({ x:double().dtype, x:half().dtype, x:long().dtype, x:bool().dtype, x:cpu().device },
    { "float64", "float16", "int64", "bool", "cpu" })
  t.fails(function() x:to "float31" end, "to: 'float31' is neither a dtype, a device (cpu, cuda, cuda:N) nor a "
    .. "memory format")
  t.fails_like(function() torch.ones(1, { device = "cuda:99" }) end, "^ones: device 'cuda:99' is not here")
  t.fails(function() x:to "channels_last" end, "to: channels_last is for tensors of 4 dimensions (this one has 2)")
end)

t.test("out= writes into the given tensor; in-place operators return their receiver", function()
  local out, a = torch.empty(2), torch.ones(2)
  torch.add(a, a, { out = out })
  t.equal(out:tolist(), { 2.0, 2.0 })
  t.ok(rawequal(a:add_(1), a))
  local values, indices = torch.empty(0), torch.empty({ 0 }, { dtype = "int64" })
  torch.max(torch.tensor { { 1.0, 3.0 } }, 1, { out = { values, indices } })
  t.equal({ values:tolist(), indices:tolist() }, { { 3.0 }, { 1 } })
end)

t.test("several results, lists of tensors, numbers and booleans come back", function()
  local v, i = torch.max(torch.tensor { { 1.0, 3.0 }, { 5.0, 2.0 } }, 1)
  t.equal({ v:tolist(), i:tolist() }, { { 3.0, 5.0 }, { 1, 0 } })
  t.equal(#torch.split(torch.arange(5), 2), 3)
  t.equal(torch.equal(torch.ones(2), torch.ones(2)), true)
  t.equal(torch.is_floating_point(torch.ones(1)), true)
end)

t.test("Lua's operators, with the number on either side", function()
  local x = torch.tensor { 2.0, 3.0 }
  t.equal({ (x + 1):tolist(), (1 + x):tolist(), (1 - x):tolist(), (x * 2):tolist(), (6 / x):tolist(),
    (x / 2):tolist() }, { { 3.0, 4.0 }, { 3.0, 4.0 }, { -1.0, -2.0 }, { 4.0, 6.0 }, { 3.0, 2.0 }, { 1.0, 1.5 } })
  t.equal({ (7 // x):tolist(), (x // 2):tolist(), (7 % x):tolist(), (x % 2):tolist(), (2 ^ x):tolist(),
    (x ^ 2):tolist(), (-x):tolist() }, { { 3.0, 2.0 }, { 1.0, 1.0 }, { 1.0, 1.0 }, { 0.0, 1.0 }, { 4.0, 8.0 },
    { 4.0, 9.0 }, { -2.0, -3.0 } })
  local b = torch.tensor { true, false }
  t.equal({ (b & true):tolist(), (b | true):tolist(), (~b):tolist() },
    { { true, false }, { true, true }, { false, true } })
  t.equal(#torch.zeros(3, 2), 3)
end)

t.test("an order is refused, since Lua makes one boolean of it; == is identity", function()
  local a, b = torch.ones(1), torch.ones(1)
  t.fails(function() return a < b end, "tensor: '<' gives one boolean in Lua, not a tensor. Use a:lt(b).")
  t.fails(function() return a <= b end, "tensor: '<=' gives one boolean in Lua, not a tensor. Use a:le(b).")
  t.ok(a ~= b)
  t.ok(a == a) -- luacheck: ignore
end)

t.test("shape dtype device grad requires_grad layout are fields", function()
  local x = torch.ones(2, 3, { requires_grad = true })
  t.equal({ x.shape, x.dtype, x.device, x.grad, x.requires_grad, x.layout, x.is_leaf },
    { { 2, 3 }, "float32", "cpu", nil, true, "strided", true })
  t.equal({ x:size(), x:size(0), x:size(-1), x:dim(), x:numel() }, { { 2, 3 }, 2, 3, 2, 6 })
  t.equal({ tostring(x.shape), x.shape == torch.zeros(2, 3).shape, x.shape == torch.zeros(6).shape },
    { "{2, 3}", true, false })
  t.fails(function() x:size(2) end, "size: dimension 2 is out of range (the tensor has 2)")
  x.grad = torch.zeros(2, 3)
  t.equal(x.grad:sum():item(), 0.0)
  x.grad = nil
  t.equal(x.grad, nil)
  t.fails(function() x.grad = torch.zeros(3) end, "tensor: grad: its shape differs from the tensor's")
  t.fails(function() x.shape = {} end, "tensor: field 'shape' cannot be set. Use t:to{...} or t:reshape(...), which "
    .. "give a new tensor.")
  t.fails(function() torch.ones(1, { dtype = "int64" }).requires_grad = true end,
    "tensor: only floating-point tensors can require gradients (this one is int64)")
end)

t.test("a closed tensor says so", function()
  local x = torch.ones(2)
  x:close()
  x:close()
  t.fails(function() return x:sum() end, "tensor is closed (by close(), or with the scope in which it was made: "
    .. "scope:keep(t) lets it live on).")
  t.fails(function() return torch.cat { torch.ones(1), x } end,
    "tensor is closed (by close(), or with the scope in which it was made: scope:keep(t) lets it live on).")
end)

t.test("unknown operators offer the near one; undocumented ones are behind torch.raw", function()
  t.fails_like(function() return torch.matmull end,
    "^torch: no operator 'matmull' in libtorch [%d.]+%. Did you mean 'matmul'")
  t.fails_like(function() return torch.ones(1).matmull end, "^tensor: no operator 'matmull' in libtorch")
  t.fails_like(function() return torch._softmax end, "^torch: '_softmax' is not a documented operator")
  t.equal(torch.raw._softmax(torch.zeros(1, 2), 1, false):tolist(), { { 0.5, 0.5 } })
end)

t.test("names that only Python has", function()
  local x = torch.tensor { { 1.0, 2.0 }, { 0.5, 0.25 } }
  local y = torch.tensor { 0, 1 }
  t.near(torch.cross_entropy(x, y):item(), 1.0696005821, 1e-6)
  t.near(torch.cross_entropy(x, y, { reduction = "sum" }):item(), 2.1392011642, 1e-6)
  t.equal(torch.cross_entropy(x, y, { reduction = "none" }).shape, { 2 })
  t.fails_like(function() torch.cross_entropy(x, y, { reduction = "avg" }) end,
    "^cross_entropy: argument 'reduction' %(expected int, got 'avg'%)")
  t.near(torch.mse_loss(x, x + 1, { reduction = "sum" }):item(), 4.0)
  t.equal(torch.interpolate(torch.ones(1, 1, 2, 2), { size = 4, mode = "bilinear" }).shape, { 1, 1, 4, 4 })
  t.equal(torch.interpolate(torch.ones(1, 1, 4), { scale_factor = 0.5 }).shape, { 1, 1, 2 })
  t.fails(function() torch.interpolate(x, { size = 4, scale_factor = 2 }) end,
    "interpolate: mode 'nearest' does not go with 2 dimensions (N, C and 0 spatial ones)")
  t.equal(torch.einsum("ij,jk->ik", x, torch.eye(2)):tolist(), x:tolist())
  t.equal(torch.unique(torch.tensor { 3, 1, 3 }):tolist(), { 1, 3 })
  t.near(torch.normalize(torch.tensor { { 3.0, 4.0 } }), { { 0.6, 0.8 } }, 1e-6)
end)

t.test("tables become tensors exactly, or not at all", function()
  t.equal(torch.tensor { { 1, 2 }, { 3, 4 } }:tolist(), { { 1, 2 }, { 3, 4 } })
  t.equal({ torch.tensor(1).dtype, torch.tensor(1.0).dtype, torch.tensor(true).dtype, torch.tensor({}).dtype,
    torch.tensor { 1, 2.5 }.dtype }, { "int64", "float32", "bool", "float32", "float32" })
  t.equal(torch.tensor({}).shape, { 0 })
  t.equal(torch.tensor({ 1, 2 }, { dtype = "float16" }):tolist(), { 1.0, 2.0 })
  t.fails(function() torch.tensor { { 1, 2 }, { 3 } } end,
    "tensor: a list of 1 among lists of 2 at depth 2. A tensor needs a regular nested list.")
  t.fails(function() torch.tensor { 1, "2" } end,
    "tensor: element 2 (expected a number or boolean, got string). A tensor needs a regular nested list.")
  t.fails(function() torch.tensor({ 1.5 }, { dtype = "int64" }) end, "tensor: element 1 (expected an integer, got 1.5)")
  t.fails(function() torch.tensor({ 300 }, { dtype = "uint8" }) end,
    "tensor: 300 does not fit the integer dtype (0 to 255)")
  t.fails_like(function() torch.tensor({ 1 }, { dtype = "float" .. "33" }) end, "^tensor: unknown dtype 'float33'")
end)

t.test("item and tolist give Lua's kinds", function()
  t.equal({ torch.tensor(3):item(), torch.tensor(0.5):item(), torch.tensor(true):item() }, { 3, 0.5, true })
  t.equal(torch.tensor { { true, false } }:tolist(), { { true, false } })
  t.equal(torch.arange(4):view(2, 2):t():tolist(), { { 0, 2 }, { 1, 3 } })
  t.fails(function() torch.ones(2):item() end, "item: a tensor of 2 elements is not one number")
end)

t.test("bytes out and in", function()
  local x = torch.tensor { { 1.5, -2.0 } }
  t.equal(x:data_string(), string.pack("<ff", 1.5, -2.0))
  t.equal(torch.from_string(x:data_string(), "float32", { 1, 2 }):tolist(), { { 1.5, -2.0 } })
  t.fails(function() torch.from_string("abc", "float32", { 1 }) end,
    "from_string: 3 bytes of data for a tensor of 4 bytes")
  t.fails(function() torch.from_string("", "float32", { -1 }) end, "from_string: a size of -1 is negative")
  t.fails(function() torch.from_string("", "float32", { 1 << 40, 1 << 40 }) end,
    "from_string: the tensor is larger than the address space")
end)

t.test("a string with a zero byte is refused", function()
  t.fails(function() torch.einsum("i\0", torch.ones(1)) end,
    "einsum: argument 'equation' (a string with a zero byte in it). Its form:\n  "
    .. torch.op_schemas("einsum")[1]:gsub("^aten::", ""))
end)
