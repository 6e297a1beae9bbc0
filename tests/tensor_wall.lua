-- What passes the wall between Lua and libtorch: at most 64 dimensions, values and not the memory of a view that shows
-- them conjugated or negated, layouts other than the dense one, lists of any length.
local t = require "t"
local torch = require "medxai.torch"
local core = require "medxai.core"

local function ones(n)
  local list = {}
  for i = 1, n do list[i] = 1 end
  return list
end

local limit = "(expected at most 64 dimensions, got 65)"
local more = "a tensor of 65 dimensions (expected at most 64)"

t.test("a tensor of 64 dimensions is as good as any other", function()
  local x = torch.full(ones(64), 2.0)
  t.equal({ x:dim(), #x.shape, #x:size(), x:size(-1), #x }, { 64, 64, 64, 1, 1 })
  t.equal((x + 1):sum():item(), 3)
  t.equal(tostring(x), "tensor(" .. ("["):rep(64) .. "2." .. ("]"):rep(64) .. ")")
  t.equal(x[ones(0)]:dim(), 64)
end)

t.test("no operator gives a tensor of more than 64 dimensions", function()
  local x, one = torch.full(ones(64), 2.0), torch.ones(1)
  t.fails(function() return torch.zeros(ones(65)) end, "zeros: argument 'size' " .. limit)
  t.fails(function() return one:view(ones(65)) end, "view: argument 'size' " .. limit)
  t.fails(function() return one:expand(ones(65)) end, "expand: argument 'size' " .. limit)
  t.fails(function() return one:reshape(ones(65)) end, "reshape: " .. more)
  t.fails(function() return one["repeat"](one, ones(65)) end, "repeat: " .. more)
  t.fails(function() return x:unsqueeze(0) end, "unsqueeze: " .. more)
  t.fails(function() return x[torch.none] end, "unsqueeze: " .. more)
  t.fails(function() return torch.stack { x, x } end, "stack: " .. more)
  t.fails(function() return x:unfold(0, 1, 1) end, "unfold: " .. more)
  local from_string = torch.from_string
  t.fails(function() return from_string("\0\0\0\0", "float32", ones(65)) end, "from_string: 65 dimensions (at most 64)")
end)

t.test("no tensor is changed to one of more than 64 dimensions", function()
  local x, out = torch.full(ones(64), 2.0), torch.empty(0)
  t.fails(function() x:unsqueeze_(0) end, "unsqueeze_: a tensor of 64 dimensions gets no more (at most 64)")
  t.fails(function() x:resize_(ones(65)) end, "resize_: argument 'size' " .. limit)
  t.fails(function() x:as_strided_(ones(65), ones(65)) end, "as_strided_: argument 'size' " .. limit)
  t.equal({ x:dim(), x:sum():item() }, { 64, 2 })
  t.fails(function() torch.stack({ x, x }, { out = out }) end, "stack: " .. more)
  t.equal(out.shape, { 0 })
end)

t.test("a list of sizes that are no shape may be as long and as large as it must", function()
  local sizes = {}
  for i = 1, 100 do sizes[i] = 50 end
  local parts = torch.split_with_sizes(torch.arange(5000), sizes)
  t.equal({ #parts, parts[100][0]:item() }, { 100, 4950 })
end)

t.test("nested tensors, which have no sizes, do not pass", function()
  t.fails(function() return torch.raw._nested_tensor_from_tensor_list { torch.ones(2), torch.ones(3) } end,
    "_nested_tensor_from_tensor_list: a nested tensor has no sizes. Use tensors of one shape (padded), or a list of "
    .. "tensors")
end)

t.test("tensors of other layouts answer every question and say what they are", function()
  for name, layout in pairs { to_sparse = "sparse_coo", to_sparse_csr = "sparse_csr", to_mkldnn = "mkldnn" } do
    local x = torch.raw[name](torch.ones(2, 3))
    t.equal({ x.layout, x:dim(), x:numel(), x:size(1), x.dtype, x.device }, { layout, 2, 6, 3, "float32", "cpu" }, name)
    t.equal(tostring(x), "tensor(..., size=(2, 3), layout=torch." .. layout .. ")", name)
    for _, read in ipairs { "tolist", "data_string" } do
      t.fails(function() return x[read](x) end, read .. ": a " .. layout .. " tensor is not dense. Use t:to_dense().")
    end
    t.fails_like(function() core.image.sha256_stream():update(x) end, "must be contiguous and on the CPU")
  end
end)

-- Views whose memory holds other numbers than they show: { view, the numbers }
local function views()
  local z = torch.complex(torch.tensor { 1.5, -2 }, torch.tensor { 0.5, 4 })
  return {
    { z:conj():imag(), { -0.5, -4 } },
    { z:conj():imag()[{ { 1 } }], { -4 } }, -- contiguous: one element
    { torch.raw._neg_view(torch.tensor { 1.5, -2 }), { -1.5, 2 } },
    { torch.raw._neg_view(torch.tensor { { 1, 2 }, { 3, 4 } }):t(), { { -1, -3 }, { -2, -4 } } },
    { torch.raw._efficientzerotensor { 2 }, { 0, 0 } },
  }
end

t.test("lists, bytes, items, texts and files hold what a conjugate or negative view shows", function()
  local store, dir = require "medxai.nn.checkpoint", t.tmpdir()
  for i, case in ipairs(views()) do
    local x, want = case[1], case[2]
    local plain = torch.tensor(want, { dtype = x.dtype })
    t.equal(x:tolist(), want, "view " .. i)
    t.equal(x:data_string(), plain:data_string(), "bytes of view " .. i)
    t.equal(tostring(x), tostring(plain), "text of view " .. i)
    t.equal(x:flatten()[-1]:item(), plain:flatten()[-1]:item(), "item of view " .. i)
    for _, ending in ipairs { ".pt", ".safetensors" } do
      store.save(dir .. "/x" .. ending, { { name = "x", tensor = x } })
      t.equal(store.load(dir .. "/x" .. ending).tensors[1].tensor:tolist(), want, ending .. " of view " .. i)
    end
    torch.save_npy(dir .. "/x.npy", x)
    t.equal(torch.load_npy(dir .. "/x.npy"):tolist(), want, ".npy of view " .. i)
    local hash = core.image.sha256_stream():update(x:contiguous()):hex()
    t.equal(hash, core.image.sha256(plain:data_string()), "hash of view " .. i)
  end
end)

t.test("data of another dtype or with gaps is refused in the same words everywhere", function()
  local gram, xy = torch.eye(4, { dtype = "float64" }), torch.ones(4, { dtype = "float64" })
  local options = { samples = 4 }
  t.fails(function() core.lars.path(gram:float(), xy, options) end,
    "lars: gram: wrong dtype (expected float64, got float32).")
  t.fails(function() core.lars.path(gram, torch.ones(8, { dtype = "float64" })[{ { 0, 8, 2 } }], options) end,
    "lars: xy: the tensor must be contiguous and on the CPU. Use t:cpu():contiguous().")
  t.fails(function() core.lars.path(torch.eye(3, { dtype = "float64" }), xy, options) end,
    "lars: gram: expected 16 numbers, got 9")
  local p = core.partition.new { size = { 2, 2, 1 }, outputs = 2, budget = 4, queue_batch = 1, context = -1 }
  t.fails(function() p:start(torch.ones(2), torch.ones(2)) end,
    "partition: start: wrong dtype (expected float64, got float32).")
end)

t.test("the plain C reads what a negative view shows", function()
  local noise = torch.randn(3, 8, 8, { dtype = "float64" })
  t.equal(core.segment.lab(torch.raw._neg_view(noise:neg())):tolist(), core.segment.lab(noise):tolist())
  local gram, xy = torch.eye(2, { dtype = "float64" }), torch.tensor({ 3, -1 }, { dtype = "float64" })
  local _, coef = core.lars.path(gram, torch.raw._neg_view(xy:neg()), { samples = 4 })
  local _, want = core.lars.path(gram, xy, { samples = 4 })
  t.equal(coef:tolist(), want:tolist())
  local keep = torch.ones({ 1, 8, 8 }, { dtype = "bool" }) -- written to in place: refused
  t.fails(function() core.impute.fill_(torch.raw._neg_view(torch.zeros(1, 1, 8, 8, { dtype = "float64" })), keep) end,
    "impute: x: the tensor must be contiguous and on the CPU. Use t:cpu():contiguous().")
end)
