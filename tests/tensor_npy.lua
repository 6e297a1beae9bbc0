-- NumPy's array files, read as NumPy 1.24 wrote them (tests/reference/npy) and written as it reads them.
local t = require "t"
local torch = require "medxai.torch"

local function reference(name) return t.root .. "/tests/reference/npy/" .. name .. ".npy" end

t.test("files that NumPy wrote: dtypes, byte orders, Fortran order, versions", function()
  local rows = { { 0, 1, 2 }, { 3, 4, 5 } }
  local floats = { { 0.0, 1.0, 2.0 }, { 3.0, 4.0, 5.0 } }
  for name, want in pairs {
    float32 = { "float32", floats }, float64_big = { "float64", floats }, int16 = { "int16", rows },
    fortran = { "float32", floats }, uint16 = { "int32", { { 65535, 1, 2 }, { 3, 4, 5 } } },
    uint32_big = { "int64", { { 4294967295, 1, 2 }, { 3, 4, 5 } } },
    bool = { "bool", { { false, true, true }, { true, true, true } } }, scalar = { "float64", 3.5 },
    empty = { "float32", {} }, version2 = { "float32", { 0.0, 1.0, 2.0 } },
  } do
    local x = torch.load_npy(reference(name))
    t.equal({ x.dtype, x:tolist() }, want, name)
  end
  t.equal(torch.load_npy(reference "empty").shape, { 0, 3 })
  t.equal(torch.view_as_real(torch.load_npy(reference "complex64")):select(2, 0):tolist(), floats)
end)

t.test("what is written is what NumPy writes, and reads back the same", function()
  local path = t.tmpdir() .. "/x.npy"
  torch.save_npy(path, torch.arange(6):view(2, 3):float())
  t.equal(t.read(path), t.read(reference "float32"))
  for _, dtype in ipairs { "float16", "float32", "float64", "int8", "int16", "int32", "int64", "uint8", "bool",
      "complex64", "complex128" } do
    local x = torch.arange(6):view(3, 2):to(dtype):t()
    torch.save_npy(path, x)
    local y = torch.load_npy(path)
    t.ok(torch.equal(x, y) and x.dtype == y.dtype, dtype)
  end
  for _, shape in ipairs { {}, { 0 }, { 3 }, { 1, 1, 1, 2 } } do
    torch.save_npy(path, torch.ones(shape))
    t.equal(torch.load_npy(path).shape, shape)
  end
end)

t.test("what needs Python is refused", function()
  t.fails_like(function() torch.load_npy(reference "object") end, "has dtype '|O' %(expected numbers or booleans%)")
  t.fails_like(function() torch.load_npy(reference "records") end, "holds records")
  t.fails(function() torch.load_npy "/no/such.npy" end, "load_npy: cannot read '/no/such.npy' (no such file)")
  t.fails(function() torch.save_npy(t.tmpdir() .. "/x.npy", torch.ones(1):bfloat16()) end,
    "save_npy: npy has no dtype bfloat16. Convert with t:float().")
end)

t.test("a file cut anywhere is an error", function()
  local whole, path = t.read(reference "float32"), t.tmpdir() .. "/cut.npy"
  for n = 0, #whole - 1 do
    t.write(path, whole:sub(1, n))
    t.fails_like(function() torch.load_npy(path) end, "^load_npy: '.*/cut.npy' ")
  end
  t.write(path, whole .. "x")
  t.fails_like(function() torch.load_npy(path) end, "has 1 bytes behind its data")
end)

t.test("hostile headers are errors", function()
  local path = t.tmpdir() .. "/bad.npy"
  local function header(text, data) return "\x93NUMPY\1\0" .. string.pack("<s2", text) .. (data or "") end
  for text, message in pairs {
    ["{'descr': '<f4', 'fortran_order': False, 'shape': (9223372036854775807, 9), }"] = "without a readable shape",
    ["{'descr': '<f4', 'fortran_order': False, 'shape': (999999999999999, "
      .. "999999999999999), }"] = "promises more elements",
    ["{'descr': '<f4', 'fortran_order': False, 'shape': (-1,), }"] = "without a readable shape",
    ["{'descr': '<f4', 'fortran_order': False, 'shape': (3), }"] = "without a readable shape",
    ["{'descr': '<f4', 'fortran_order': Maybe, 'shape': (3,), }"] = "without fortran_order",
    ["{'descr': '<f3', 'fortran_order': False, 'shape': (3,), }"] = "has dtype '<f3'",
    ["{'fortran_order': False, 'shape': (3,), }"] = "without descr",
    ["os.system('ls')"] = "no dictionary",
    ["{'descr': '<f4', 'fortran_order': False, 'shape': (" .. ("1, "):rep(65) .. "), }"] = "without a readable shape",
  } do
    t.write(path, header(text, "\0\0\0\0"))
    t.fails_like(function() torch.load_npy(path) end, message)
  end
  t.write(path, "\x93NUMPY\9\0" .. ("\0"):rep(100))
  t.fails_like(function() torch.load_npy(path) end, "has npy version 9 %(expected 1 to 3%)")
  t.write(path, "\x93NUMPY\2\0" .. string.pack("<s4", ("'shape':("):rep(40000)))
  t.fails_like(function() torch.load_npy(path) end, "has a header of 360000 bytes %(expected 65535 at most%)")
end)
