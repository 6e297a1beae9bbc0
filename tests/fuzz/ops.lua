-- Calls every documented operator with bad arguments and writes down which of them end the process.
--   medxai-run tests/fuzz/ops.lua [--cases N] [--fuzz_seed N] [--only PATTERN] [--all yes] [--list FILE]
-- A child process (this file again; an environment variable tells it so) calls one operator after the other and notes
-- each call before it is made. When the child dies, the note shows the call, and a new child continues with the next
-- one. Memory and time are bounded. --all yes: denied operators, too. --list: writes the operators that ended a child,
-- one per line, with the signal.
-- --fail yes: instead, in calls that succeed each allocation is made to fail once. The call must raise, or leave
-- results, arguments and random generator equal to those of the undisturbed call, to the last bit. The first call that
-- does neither ends the run.
-- tests/tensor_fuzz.lua calls a few cases of each.
local host = require "medxai.host"

local note_path = os.getenv "MEDXAI_FUZZ_NOTE"

-- ---- random numbers: the same case is the same call, on every machine ----

local state
local function seed(text)
  state = 2166136261
  for i = 1, #text do state = ((state ~ text:byte(i)) * 16777619) & 0xffffffff end
end
local function random(n) -- 1..n
  state = (state * 6364136223846793005 + 1442695040888963407)
  return (state >> 33) % n + 1
end
local function chance(percent) return random(100) <= percent end
local function pick(list) return list[random(#list)] end

-- ---- arguments ----

local core, torch

local shapes = {
  {}, { 0 }, { 1 }, { 3 }, { 7 }, { 2, 3 }, { 3, 3 }, { 0, 3 }, { 4, 0 }, { 2, 3, 4 }, { 1, 3, 8, 8 }, { 2, 4, 5, 5 },
  { 2, 0, 5, 5 }, { 1, 2, 3, 4, 5 }, { 1, 1, 1, 1, 1, 2 }, { 33, 17 },
}
local dtypes = { "float32", "float32", "float32", "float64", "int64", "int64", "int32", "bool", "uint8", "float16",
  "bfloat16", "complex64" }
local ints = { -1, 0, 1, 2, 3, -2, 5, 4, 8, 100, -100, 2147483648, -2147483649, math.maxinteger, math.mininteger,
  65536 }
local small = { 0, 1, 2, 3, -1, 1, 2, 0, 4 }
local floats = { 0.0, 1.0, 0.5, -1.5, 1e300, -1e300, 1 / 0, -1 / 0, 0 / 0, 1e-30, 2.0, 3.0 }
local strings = { "", "mean", "sum", "none", "constant", "reflect", "replicate", "circular", "floor", "trunc", "tanh",
  "linear", "lower", "upper", "ij", "xy", "fro", "nuc", "ij,jk->ik", "i...->", "left", "foo", "amax", "prod", "ortho",
  "max", "L", "reduced", "gelsd" }

local base_shape, base_dtype, grads -- of one call: most tensors agree, so that calls get past the first checks

local function fill(t, dtype)
  local kind = random(6)
  if kind == 1 and dtype:find "float" then return t:fill_(pick(floats)) end
  if kind == 2 and dtype:find "^int" then return t:fill_(pick(dtype == "int64" and ints or small)) end
  if dtype:find "^int" or dtype == "uint8" then return t:random_(0, pick { 1, 2, 3, 5 }) end
  if dtype == "bool" then return t:random_(0, 2) end
  return t:normal_(0.0, 1.0)
end

local function tensor()
  local shape = chance(70) and base_shape or pick(shapes)
  local dtype = chance(75) and base_dtype or pick(dtypes)
  local t = fill(torch.zeros(shape, { dtype = dtype }), dtype)
  local form = random(12)
  if form == 1 and #shape >= 2 then t = t:transpose(0, 1) end
  if form == 2 and #shape >= 1 then t = t:narrow(0, 0, 0 + (shape[1] > 0 and 1 or 0)):expand(shape) end
  if form == 3 and #shape == 4 then t = t:contiguous { memory_format = "channels_last" } end
  if chance(25) and dtype:find "^float" then
    t = t:detach():requires_grad_()
    grads[#grads + 1] = t
  end
  return t
end

local function integer() return chance(65) and pick(small) or pick(ints) end
local function float() return chance(50) and pick { 1.0, 0.5, 2.0, 0.0 } or pick(floats) end
local function list_of(f, fixed)
  local n = chance(70) and (fixed or #base_shape) or random(6) - 1
  local l = {}
  for i = 1, n do l[i] = f() end
  return l
end
local function scalar() return pick { integer, float, function() return chance(50) end }() end

-- schema type -> a value, nil for "leave it out"
local function argument(kind)
  if kind:find "%?$" and chance(40) then return nil end
  local bare = kind:gsub("%(.-%)", ""):gsub("%?$", "")
  if bare == "Tensor" then return tensor() end
  if bare == "Tensor[]" or bare == "Tensor?[]" then return list_of(tensor) end
  if bare == "int" or bare == "SymInt" then return integer() end
  if bare == "float" then return float() end
  if bare == "bool" then return chance(50) end
  if bare == "str" then return pick(strings) end
  if bare == "Scalar" then return scalar() end
  local fixed = bare:match "^S?y?m?[Ii]nt%[(%d*)%]$"
  if fixed then
    if fixed ~= "" and chance(25) then return integer() end
    return list_of(integer, tonumber(fixed))
  end
  if bare:find "^float%[" then return list_of(float, tonumber(bare:match "%d+")) end
  if bare:find "^bool%[" then return list_of(function() return chance(50) end, tonumber(bare:match "%d+")) end
  if bare == "Scalar[]" then return list_of(scalar) end
  if bare == "ScalarType" then return pick(dtypes) end
  if bare == "MemoryFormat" then return pick { "contiguous", "channels_last", "preserve", "channels_last_3d" } end
  if bare == "Layout" then return pick { "strided", "strided", "strided", "sparse_coo" } end
  if bare == "Device" then return "cpu" end
  return nil
end

-- "Tensor self, *, int dim=-1" -> { {type, name, by_name, optional} ... }
local function parameters(schema)
  local list, by_name = {}, false
  local inside, depth, word = schema:match "^[^(]*(%b())", 0, ""
  local function take()
    local text = word:match "^%s*(.-)%s*$"
    word = ""
    if text == "*" then by_name = true end
    if text == "" or text == "*" then return end
    local kind, name, default = text:match "^(%S+)%s+([%w_]+)(=?)"
    if kind then list[#list + 1] = { kind = kind, name = name, by_name = by_name, optional = default == "=" } end
  end
  for c in inside:sub(2, -2):gmatch "." do
    if c == "[" or c == "(" then depth = depth + 1 elseif c == "]" or c == ")" then depth = depth - 1 end
    if c == "," and depth == 0 then take() else word = word .. c end
  end
  take()
  return list
end

-- For a look at one case: MEDXAI_FUZZ_SHOW=1 and the child's other variables.
local function show(args, n)
  local function text(v)
    if core.tensor.is_tensor(v) then
      return v.dtype .. "[" .. table.concat(v.shape, "x") .. "]" .. (v.requires_grad and "g" or "")
    end
    if type(v) ~= "table" then return tostring(v) end
    local parts = {}
    for k, e in pairs(v) do parts[#parts + 1] = (type(k) == "string" and k .. "=" or "") .. text(e) end
    return "{" .. table.concat(parts, ", ") .. "}"
  end
  local parts = {}
  for i = 1, n do parts[i] = text(args[i]) end
  io.stderr:write(table.concat(parts, ", "), "\n")
end

local function arguments(params)
  base_shape, base_dtype, grads = pick(shapes), pick(dtypes), {}
  local args, names, n = {}, {}, 0
  for _, p in ipairs(params) do
    local leave = p.optional and chance(50)
    local value
    if not leave then value = argument(p.kind) end
    if p.by_name then names[p.name] = value else n = n + 1; args[n] = value end
  end
  while n > 0 and args[n] == nil do n = n - 1 end
  if next(names) then n = n + 1; args[n] = names end
  return args, n
end

local function one_case(call, params)
  local args, n = arguments(params)
  if os.getenv "MEDXAI_FUZZ_SHOW" then show(args, n) end
  local ok, result = pcall(call, table.unpack(args, 1, n))
  if ok and #grads > 0 and core.tensor.is_tensor(result) and result.requires_grad then
    pcall(function() result:sum():backward() end)
  end
  for _, v in pairs(args) do
    if core.tensor.is_tensor(v) then pcall(tostring, v) end
  end
  if ok and core.tensor.is_tensor(result) then pcall(tostring, result) end
end

-- ---- allocations that fail ----

-- Results that nobody wrote: the memory as it was found.
local function unwritten(name) return name:find "empty" or name:find "^resize" or name:find "^set_" end

local function print_of(values)
  local hash = core.image.sha256_stream()
  local function add(v, depth)
    if core.tensor.is_tensor(v) then
      hash:update(v.dtype .. tostring(v.shape) .. v.layout)
      local ok, bytes = pcall(v.data_string, v)
      hash:update(ok and bytes or "?")
    elseif type(v) == "table" and depth < 4 then
      for _, e in ipairs(v) do add(e, depth + 1) end
      for _, key in ipairs { "out", "self", "input", "other" } do add(rawget(v, key), depth + 1) end
    else
      hash:update(type(v) == "number" and ("%.17g"):format(v) or type(v) == "userdata" and "none" or tostring(v))
    end
  end
  for i = 1, values.n do add(values[i], 0) end
  return hash:hex()
end

local function failing_case(call, params, start)
  local function attempt(n, times)
    local scope <close> = core.memory.scope()
    start()
    local args, count = arguments(params)
    core.memory.fail_after(n, times)
    local result = table.pack(pcall(call, table.unpack(args, 1, count)))
    core.memory.fail_after(-1)
    if not result[1] then return nil, result[2] end
    result.n = result.n + 2
    result[result.n - 1], result[result.n] = args, core.autograd.get_rng_state()
    return print_of(result)
  end
  local want = attempt(-1)
  if not want or attempt(-1) ~= want then return end -- it fails by itself, or says something else every time
  for n = 0, 40 do
    if attempt(n, 1 << 20) then return end -- it makes no more allocations than that
    local got, message = attempt(n, 1)
    if got and got ~= want then error(("allocation %d failed, and the result differs"):format(n), 0) end
    if not got and not tostring(message):find "out of memory" then
      error(("allocation %d failed, and the error was: %s"):format(n, message), 0)
    end
  end
end

-- ---- the child ----

local function child()
  core = require "medxai.core"
  torch = require "medxai.torch"
  local first, last = tonumber(os.getenv "MEDXAI_FUZZ_FIRST"), tonumber(os.getenv "MEDXAI_FUZZ_LAST")
  local from, cases = tonumber(os.getenv "MEDXAI_FUZZ_CASE"), tonumber(os.getenv "MEDXAI_FUZZ_CASES")
  core.memory.set_limit(300) -- MB
  local names = {}
  for name in io.lines(os.getenv "MEDXAI_FUZZ_NAMES") do names[#names + 1] = name end
  local note = assert(io.open(note_path, "r+b"))
  for k = first, math.min(last, #names) do
    local call = core.tensor.op(names[k], false, true)
    local schemas = {}
    for i, s in ipairs(call and core.tensor.op_schemas(names[k]) or {}) do schemas[i] = parameters(s) end
    for case = k == first and from or 1, #schemas > 0 and cases or 0 do
      note:seek "set"
      note:write(("%6d %6d\n"):format(k, case))
      note:flush()
      local function start()
        seed(names[k] .. ":" .. case .. ":" .. os.getenv "MEDXAI_FUZZ_SEED")
        torch.manual_seed(case)
      end
      if os.getenv "MEDXAI_FUZZ_FAIL" == "yes" then
        local ok, message = true, nil
        if not unwritten(names[k]) then ok, message = pcall(failing_case, call, schemas[case % #schemas + 1], start) end
        if not ok and message:find "^allocation" then error(("%s, case %d: %s"):format(names[k], case, message), 0) end
      else
        start()
        local scope <close> = core.memory.scope()
        pcall(one_case, call, schemas[case % #schemas + 1]) -- an argument may not be makable either
      end
    end
  end
end

-- ---- the parent ----

local function documented(name, denied)
  return name:sub(1, 1) ~= "_" and not name:find "_backward" and not denied[name]
end

local function read_note(path)
  local f <close> = assert(io.open(path))
  local k, case = f:read("a"):match "(%d+)%s+(%d+)"
  return tonumber(k), tonumber(case)
end

-- Runs a child over names first..last from a case on. Returns nothing when it came through, else the signal, the
-- operator and the case that it died in.
local function run_child(dir, first, last, case, cases, fuzz_seed)
  local note <close> = assert(io.open(dir .. ".note", "w"))
  note:write(("%6d %6d\n"):format(first, case))
  note:flush()
  -- The address sanitizer reserves more addresses than there is memory, and looks for leaks in the parent.
  local asan = os.getenv "ASAN_OPTIONS"
  local bounds = asan and ("export ASAN_OPTIONS='%s:detect_leaks=0'"):format(asan) or "ulimit -v 12000000"
  local command = ("%s; ulimit -c 0; MEDXAI_FUZZ_NOTE=%s MEDXAI_FUZZ_NAMES=%s MEDXAI_FUZZ_FIRST=%d MEDXAI_FUZZ_LAST=%d "
    .. "MEDXAI_FUZZ_CASE=%d MEDXAI_FUZZ_CASES=%d MEDXAI_FUZZ_SEED=%s MEDXAI_FUZZ_FAIL=%s "
    .. "timeout -s KILL %d %s --threads 1 %s >/dev/null 2>%s"):format(
    bounds, dir .. ".note", dir .. ".names", first, last, case, cases, fuzz_seed, host.fields.fail or "no",
    60 + cases, host.exe, host.script, dir .. ".err")
  local ok, how, code = os.execute(command)
  if ok then return end
  local signal = how == "exit" and code - 128 or code
  if signal < 0 then
    local err <close> = assert(io.open(dir .. ".err"))
    error("the child failed: " .. err:read "a", 0)
  end
  return signal, read_note(dir .. ".note")
end

local function write_names(path, only, all)
  local denied, names = {}, {}
  for _, name in ipairs(all and {} or require "medxai.tensor.denied_ops") do denied[name] = true end
  denied.from_file = true -- its argument names a file, which it makes
  local list <close> = assert(io.open(path, "w"))
  for _, name in ipairs(core.tensor.op_names()) do
    if documented(name, denied) and name:find(only or "") then
      names[#names + 1] = name
      list:write(name, "\n")
    end
  end
  return names
end

local function parent()
  core = require "medxai.core"
  local f = host.fields
  local cases = tonumber(f.cases or 200)
  local dir = os.tmpname()
  local names = write_names(dir .. ".names", f.only, f.all)
  local out = f.list and assert(io.open(f.list, "w"))
  local k, case, died, slow = 1, 1, 0, 0
  while k <= #names do
    local last = math.min(k + 19, #names)
    local signal, dead, dead_case = run_child(dir, k, last, case, cases, f.fuzz_seed or "1")
    if not signal then
      k, case = last + 1, 1
    elseif signal == 9 and dead > k then -- the time was up for all twenty, not for this operator
      k, case = dead, dead_case
    else
      if signal == 9 then slow = slow + 1 else died = died + 1 end
      local line = ("%s\tsignal %d\tcase %d"):format(names[dead], signal, dead_case)
      print(line)
      if out then out:write(line, "\n"):flush() end
      k, case = dead + 1, 1
    end
  end
  print(("%d operators, %d cases each: %d died, %d took too long"):format(#names, cases, died, slow))
  if out then out:close() end
  for _, e in ipairs { "", ".names", ".note", ".err" } do os.remove(dir .. e) end
  if died > 0 then os.exit(1) end
end

if note_path then child() else parent() end
