-- A short run of the fuzzer: bad arguments raise errors and do not end the process. The long run is tests/fuzz/ops.lua.
local t = require "t"
local host = require "medxai.host"
local torch = require "medxai.torch"

local program = t.quote(host.exe) .. " --threads 1 " .. t.quote(t.root .. "/tests/fuzz/ops.lua")

local function fuzz(options)
  local list, err = t.tmpdir() .. "/died", t.tmpdir() .. "/err"
  local ok = os.execute(program .. " " .. options .. " --list " .. list .. " >/dev/null 2>" .. err)
  if not ok then error("died: " .. t.read(list) .. t.read(err), 0) end
end

t.test("the documented operators that begin with a to c outlive bad arguments, three each", function()
  fuzz "--cases 3 --only '^[a-c]'"
end)

t.test("after a failed allocation the operators n to r raise, or repeat the call to the last bit, two each", function()
  fuzz "--fail yes --cases 2 --only '^[n-r]'"
end)

t.long("after a failed allocation every documented operator raises, or repeats the call to the last bit", function()
  fuzz "--fail yes --cases 30"
end)
t.long("every documented operator outlives bad arguments, forty each", function() fuzz "--cases 40" end)

t.test("arguments known to end the process on libtorch 1.13.1 are refused", function()
  local x = torch.ones({ 3, 3 }, { dtype = "int64" })
  t.fails(function() torch.reflection_pad1d(x, {}) end,
    "reflection_pad1d: argument 'padding' (expected 2 integers, got 0)")
  t.fails(function() x:sum_to_size { math.mininteger } end,
    "sum_to_size: argument 'size' names a tensor that no machine can hold")
  t.fails(function() torch.nll_loss(torch.zeros(0), torch.zeros({ 0 }, { dtype = "int64" })) end,
    "nll_loss: the input has no class (a dimension of size 0)")
  for _, name in ipairs { "native_channel_shuffle", "segment_reduce", "ctc_loss" } do
    t.fails_like(function() return torch[name] end, "^torch: '" .. name .. "' is not a documented operator, or crashes")
    t.equal(type(torch.raw[name]), "function")
  end
end)

t.test("an output that found no memory is empty, not dangling", function()
  local out = torch.empty(2)
  t.fails_like(function() torch.zeros(1 << 45, { out = out }) end, "out of memory")
  t.equal(out.shape, { 0 })
  t.equal(tostring(out), "tensor([])")
end)
