-- npy: NumPy's array files (versions 1 to 3) to and from tensors. Either byte order, C or Fortran order.
-- It refuses what would need Python (object and record dtypes, pickles), headers that do not say exactly what they
-- must, and files whose size differs from what the header promises.
local check = require "medxai.base.check"
local files = require "medxai.base.files"
local native = require("medxai.core").tensor

local npy = {}

local MAGIC = "\x93NUMPY"

-- NumPy's letter and size -> dtype here
local dtypes = {
  f2 = "float16", f4 = "float32", f8 = "float64", i1 = "int8", i2 = "int16", i4 = "int32", i8 = "int64",
  u1 = "uint8", b1 = "bool", c8 = "complex64", c16 = "complex128",
}

-- Unsigned dtypes that libtorch 1.13 lacks: read as the signed one, widened, the sign bits masked off.
local unsigned = { u2 = { "int16", "int32", 0xffff }, u4 = { "int32", "int64", 0xffffffff }, u8 = { "int64", "int64" } }

local names = {} -- dtype -> NumPy's descr
for code, dtype in pairs(dtypes) do names[dtype] = (code:sub(2) == "1" and "|" or "<") .. code end

-- ---- reading ----

-- The header's text and where the data begin; bytes: the whole file.
local function split_header(path, bytes)
  local function bad(fmt, ...) check.fail("load_npy", "'%s' " .. fmt, path, ...) end
  if bytes:sub(1, 6) ~= MAGIC then bad "is no npy file (its first bytes are not \\x93NUMPY)" end
  local major = bytes:byte(7)
  if not major or not bytes:byte(8) then bad "is truncated (it ends inside its header)" end
  if major < 1 or major > 3 then bad("has npy version %d (expected 1 to 3)", major) end
  local form = major == 1 and "<I2" or "<I4"
  local start = 9 + string.packsize(form)
  if #bytes < start - 1 then bad "is truncated (it ends inside its header)" end
  local length = string.unpack(form, bytes, 9)
  if length > 65535 then bad("has a header of %d bytes (expected 65535 at most)", length) end
  if start - 1 + length > #bytes then
    bad("is truncated (a header of %d bytes, %d are left)", length, #bytes - start + 1)
  end
  return bytes:sub(start, start + length - 1), start + length
end

-- The tuple of sizes, at most 64 of them, each a plain decimal number.
local function parse_shape(text)
  local shape = {}
  if not text:find "^[%d%s,L]*$" then return nil end
  for word in text:gmatch "[^,]+" do
    local digits = word:match "^%s*(%d+)L?%s*$"
    if digits then
      local n = #digits <= 18 and math.tointeger(tonumber(digits))
      if not n or #shape == 64 then return nil end
      shape[#shape + 1] = n
    elseif not word:find "^%s*$" then
      return nil
    end
  end
  if #shape == 1 and not text:find(",", 1, true) then return nil end -- (3) is no tuple
  return shape
end

local function parse_header(path, header)
  local function bad(fmt, ...) check.fail("load_npy", "'%s' " .. fmt, path, ...) end
  local inside = header:match "^%s*{(.*)}%s*$" or bad "has a header that is no dictionary"
  local descr = inside:match "'descr'%s*:%s*'([^']*)'"
  local order = inside:match "'fortran_order'%s*:%s*(%a+)"
  local shape = inside:match "'shape'%s*:%s*%(([^)]*)%)"
  if not descr then
    if inside:find "'descr'%s*:%s*%[" then bad "holds records (a dtype with fields). Save one field an array." end
    bad "has a header without descr"
  end
  if order ~= "True" and order ~= "False" then bad "has a header without fortran_order" end
  shape = shape and parse_shape(shape) or bad "has a header without a readable shape"
  return descr, order == "True", shape
end

local function byte_count(path, shape, itemsize)
  local n = itemsize
  for _, s in ipairs(shape) do
    if s == 0 then return 0 end
  end
  for _, s in ipairs(shape) do
    if n > math.maxinteger // s then
      check.fail("load_npy", "'%s' promises more elements than there is memory for", path)
    end
    n = n * s
  end
  return n
end

-- The data of a file of the other byte order: each element's bytes reversed (a complex number is two elements).
local function swap(bytes, code, itemsize)
  local width = code:sub(1, 1) == "c" and itemsize // 2 or itemsize
  if width == 1 or #bytes == 0 then return bytes end
  local t = native.from_string(bytes, "uint8", { #bytes // width, width })
  return t:flip({ 1 }):data_string()
end

---Reads an array.
---@param path string
---@return medxai.Tensor
function npy.load(path)
  if type(path) ~= "string" then check.fail("load_npy", "path (expected a string, got %s)", type(path)) end
  local bytes = files.read(path) or check.fail("load_npy", "cannot read '%s' (no such file)", path)
  local header, start = split_header(path, bytes)
  local descr, fortran, shape = parse_header(path, header)
  local order, code = descr:match "^([<>|=]?)(%a%d+)$"
  local wide = code and unsigned[code]
  local dtype = wide and wide[1] or dtypes[code]
  if not dtype then
    check.fail("load_npy", "'%s' has dtype '%s' (expected numbers or booleans). Python objects and text are not read.",
      path, descr)
  end
  local itemsize = tonumber(code:sub(2))
  local want, have = byte_count(path, shape, itemsize), #bytes - start + 1
  if have < want then
    check.fail("load_npy", "'%s' is truncated (%d bytes of data, its header promises %d)", path, have, want)
  end
  if have > want then check.fail("load_npy", "'%s' has %d bytes behind its data", path, have - want) end
  local data = bytes:sub(start)
  bytes = nil -- luacheck: ignore 311
  if order == ">" then data = swap(data, code, itemsize) end
  if dtype == "bool" then data = data:gsub("[^\0]", "\1") end
  local dims = shape
  if fortran then
    dims = {}
    for i = #shape, 1, -1 do dims[#dims + 1] = shape[i] end
  end
  local t = native.from_string(data, dtype, dims)
  if fortran and #shape > 1 then
    local axes = {}
    for i = 1, #shape do axes[i] = #shape - i end
    t = t:permute(axes):contiguous()
  end
  if not wide then return t end
  if wide[3] then return t:to(wide[2]):bitwise_and(wide[3]) end
  if t:numel() > 0 and t:lt(0):any():item() then
    check.fail("load_npy", "'%s' holds uint64 numbers beyond int64", path)
  end
  return t
end

-- ---- writing ----

---Writes an array, version 1.0, whole or not at all.
---@param path string
---@param t medxai.Tensor
function npy.save(path, t)
  if type(path) ~= "string" then check.fail("save_npy", "path (expected a string, got %s)", type(path)) end
  if not native.is_tensor(t) then check.fail("save_npy", "argument 2 (expected a tensor, got %s)", type(t)) end
  local descr = names[t.dtype] or check.fail("save_npy", "npy has no dtype %s. Convert with t:float().", t.dtype)
  local shape = table.concat(t.shape, ", ") .. (#t.shape == 1 and "," or "")
  local header = ("{'descr': '%s', 'fortran_order': False, 'shape': (%s), }"):format(descr, shape)
  local pad = -(#MAGIC + 4 + #header + 1) % 64
  header = header .. (" "):rep(pad) .. "\n"
  files.write(path, MAGIC .. "\1\0" .. string.pack("<s2", header) .. t:data_string())
end

return npy
