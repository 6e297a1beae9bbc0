-- Files of weights: what torch and torchvision wrote is read as they would, damage is an error, nothing in a file runs.
local t = require "t"
local store = require "medxai.nn.checkpoint"
local torch = require "medxai.torch"

local folder = t.root .. "/tests/reference/checkpoints/"
local expected = dofile(folder .. "expected.lua")

local function by_name(list)
  local map = {}
  for _, entry in ipairs(list) do map[entry.name] = entry.tensor end
  return map
end

-- Every tensor of a file against what Python wrote down; rename maps the expected name to the file's.
local function compare(file, what, options)
  options = options or {}
  local tensors = by_name(store.load(folder .. file).tensors)
  for _, want in ipairs(expected[what]) do
    local name = (options.prefix or "") .. want.name
    local got = t.ok(tensors[name], file .. " lacks " .. name)
    t.equal(got.shape, want.shape, name)
    t.equal(got.dtype, options.dtype and options.dtype or want.dtype, name)
    if want.dtype == "bool" then t.equal(got:tolist(), want.values, name)
    else t.near(got:tolist(), want.values, options.tolerance or 0, name) end
  end
end

t.test("a zip .pt of torch 1.13 is read", function() compare("densenet.pt", "densenet") end)
t.test("a legacy .pth is read", function() compare("densenet_legacy.pth", "densenet") end)
t.test("a .safetensors of Python's library is read", function() compare("densenet.safetensors", "densenet") end)
t.test("a .pt of torch 2 with pickle protocol 4 is read", function()
  compare("densenet_torch2.pt", "densenet", { prefix = "model.module.", dtype = "float64" })
end)
t.test("odd strides, offsets, shared storages and every type are read from zip, legacy and safetensors", function()
  compare("odd.pt", "odd")
  compare("odd_legacy.pth", "odd")
  compare("odd.safetensors", "odd")
end)

t.test("the order of a state dict is kept", function()
  local list = store.load(folder .. "densenet.pt").tensors
  for i, want in ipairs(expected.densenet) do t.equal(list[i].name, want.name) end
end)

t.test("a channels_last tensor keeps its layout", function()
  local x = by_name(store.load(folder .. "odd.pt").tensors).channels_last
  t.equal({ x:stride(0), x:stride(1), x:stride(2), x:stride(3) }, { 12, 1, 6, 3 })
end)

t.test("tensors of one storage share it", function()
  local list = by_name(store.load(folder .. "odd.pt").tensors)
  list.whole:fill_(3)
  t.equal(list.part:tolist(), { { 3.0, 3.0, 3.0 }, { 3.0, 3.0, 3.0 } })
end)

t.test("a state dict nested in a training checkpoint is found, in half precision under a prefix", function()
  compare("training.pt", "densenet", { prefix = "module.", dtype = "float16", tolerance = 1e-3 })
  local meta = store.load(folder .. "training.pt").meta
  t.equal(meta.epoch, 3)
  t.equal(meta.best, 0.75)
  t.equal(meta.optimizer.param_groups[1].momentum, 0.9)
end)

t.test("parameters are read as tensors", function()
  t.ok(#store.load(folder .. "parameters_torch2.pt").tensors > 10)
end)

-- ---- refusals ----

t.test("a pickle that calls os.system is refused by name and does not run", function()
  os.remove "/tmp/medxai_was_here"
  for _, file in ipairs { "evil.pt", "evil_legacy.pth" } do
    t.fails(function() store.load(folder .. file) end,
      ("weights: '%s' asks to run posix.system; refused. In Python save model.state_dict() alone"):format(folder
        .. file))
  end
  t.equal(io.open "/tmp/medxai_was_here", nil)
end)

t.test("a whole pickled model is refused by the name of its class", function()
  t.fails(function() store.load(folder .. "whole_model.pt") end,
    ("weights: '%swhole_model.pt' asks to run torchvision.models.densenet.DenseNet; refused. In Python save "
      .. "model.state_dict() alone"):format(folder))
end)

t.test("plain objects beside a state dict are skipped and named, nothing of them is run", function()
  for _, file in ipairs { "neighbours.pt", "neighbours_legacy.pth" } do
    local loaded = store.load(folder .. file)
    t.equal(#loaded.tensors, 2)
    t.equal(loaded.tensors[1].tensor:tolist(), { { 0.0, 1.0, 2.0 }, { 3.0, 4.0, 5.0 } })
    t.equal(loaded.skipped, { "args (argparse.Namespace)", "best (a numpy scalar)", "curve (numpy.ndarray)",
      "names (numpy.ndarray)", "history.accuracy (a numpy scalar)",
      "last (collections.deque)", "out (pathlib.PurePosixPath)", "when (datetime.datetime)", "price (decimal.Decimal)",
        "notes (types.SimpleNamespace)",
      "by_pair.(an entry) (its key is neither text nor a number)", "torch (torch.torch_version.TorchVersion)" }, file)
    t.equal(loaded.meta.epoch, 3)
    t.equal(loaded.meta.history.loss, { 0.5, 0.25 })
    t.ok(loaded.meta.one == loaded.meta.two, "what the file shares is not shared")
  end
end)

t.test("what is skipped is told in one note", function()
  local script = t.write(t.tmpdir() .. "/x.lua", ("require('medxai').load(%q)"):format(folder .. "neighbours.pt"))
  local r = t.run { script }
  t.ok(r.err:find("^weights: '[^']*neighbours%.pt': not read, since only tensors and plain values are: args "
    .. "%(argparse%.Namespace%), best %(a numpy scalar%), [^\n]*\n$"), r.err)
  t.equal(t.run { "--quiet", script }.err, "")
end)

t.test("code among plain objects is still refused, and does not run", function()
  os.remove "/tmp/medxai_was_here"
  t.fails(function() store.load(folder .. "neighbours_evil.pt") end,
    ("weights: '%sneighbours_evil.pt' asks to run posix.system; refused. In Python save "
      .. "model.state_dict() alone"):format(folder))
  t.equal(io.open "/tmp/medxai_was_here", nil)
end)

-- A zip .pt whose data.pkl is the given pickle, and one storage of four float32.
local function zip_with(pickle, dir)
  local path = dir .. "/made.pt"
  local function le(n, v) return string.pack("<I" .. n, v) end
  local body, directory, count = "", "", 0
  for _, record in ipairs { { "a/data.pkl", pickle }, { "a/data/0", ("\0"):rep(16) } } do
    local name, data = record[1], record[2]
    local at = #body
    body = body .. "PK\3\4" .. le(2, 20) .. le(2, 0) .. le(2, 0) .. le(4, 0) .. le(4, 0) .. le(4, #data) .. le(4, #data)
      .. le(2, #name) .. le(2, 0) .. name .. data
    directory = directory .. "PK\1\2" .. le(2, 20) .. le(2, 20) .. le(2, 0) .. le(2, 0) .. le(4, 0) .. le(4, 0)
      .. le(4, #data) .. le(4, #data)
      .. le(2, #name) .. le(2, 0) .. le(2, 0) .. le(2, 0) .. le(2, 0) .. le(4, 0) .. le(4, at) .. name
    count = count + 1
  end
  t.write(path, body .. directory .. "PK\5\6" .. le(2, 0) .. le(2, 0) .. le(2, count) .. le(2, count)
    .. le(4, #directory) .. le(4, #body) .. le(2, 0))
  return path
end

local function int(v) return v >= 0 and v < 256 and "K" .. string.char(v) or "\x8a\8" .. string.pack("<i8", v) end
local function text(s) return "X" .. string.pack("<I4", #s) .. s end

-- { "w": a tensor over a storage of `numel` floats }
local function tensor_pickle(o)
  local sizes, strides = "(", "("
  for i = 1, #o.sizes do sizes, strides = sizes .. int(o.sizes[i]), strides .. int(o.strides[i]) end
  return "\x80\2}" .. text "w" .. "ctorch._utils\n_rebuild_tensor_v2\n((" .. text "storage" .. "ctorch\nFloatStorage\n"
    .. text "0" .. text "cpu"
    .. int(o.numel or 4) .. "tQ" .. int(o.offset or 0) .. sizes .. "t" .. strides
    .. "t\x89ccollections\nOrderedDict\n)RtRs."
end

t.test("sizes, strides and offsets that leave the storage are errors", function()
  local dir = t.tmpdir()
  t.equal(store.load(zip_with(tensor_pickle { sizes = { 2, 2 }, strides = { 2, 1 } }, dir)).tensors[1].tensor.shape,
    { 2, 2 })
  for _, o in ipairs {
    { sizes = { 5 }, strides = { 1 } }, { sizes = { 4 }, strides = { 1 }, offset = 1 },
    { sizes = { 2 }, strides = { 4 } }, { sizes = { -1 }, strides = { 1 } }, { sizes = { 2 }, strides = { -1 } },
    { sizes = { 2 }, strides = { 1 }, offset = -1 }, { sizes = { 2 ^ 62 // 1 | 0, 8 }, strides = { 0, 0 } },
    { sizes = { math.maxinteger }, strides = { math.maxinteger } },
    { sizes = { 4 }, strides = { 1 }, numel = -4 }, { sizes = { 4 }, strides = { 1 }, numel = 1 << 60 },
    { sizes = { 4 }, strides = { 1 }, numel = 5 },
  } do
    if #o.strides < #o.sizes then o.strides[2] = 0 end
    t.fails_like(function() store.load(zip_with(tensor_pickle(o), dir)) end, "^weights: '.*' ")
  end
end)

t.test("a program of torch.jit.save is said to be one", function()
  local path = zip_with("\x80\2N.", t.tmpdir())
  local bytes = t.read(path):gsub("a/data/0", "a/code/x")
  -- the second entry of the directory: compressed
  local last = bytes:find("PK\1\2", bytes:find("PK\1\2", 1, true) + 1, true)
  t.write(path, bytes:sub(1, last + 9) .. "\8\0" .. bytes:sub(last + 12))
  t.fails(function() store.load(path) end,
    ("weights: '%s' is a program of torch.jit.save (in Python save torch.jit.load(FILE).state_dict(), and give "
      .. "that file)"):format(path))
end)

t.test("values without end and wrong opcodes are errors", function()
  local dir = t.tmpdir()
  local function refused(pickle, pattern) t.fails_like(function() store.load(zip_with(pickle, dir)) end, pattern) end
  refused("\x80\2]q\0h\0a.", "without end")                             -- a list that holds itself
  refused("\x80\2" .. ("]"):rep(200) .. ("a"):rep(199) .. ".", "without end")
  refused("\x80\2ios\nsystem\n.", "asks to run os.system; refused")       -- INST
  refused("\x80\4\x8c\2os\x8c\6system\x93.", "asks to run os.system; refused")
  refused("\x80\2cos\nsystem\n" .. text "echo" .. "\x85R.", "asks to run os.system; refused")
  refused("\x80\2r\xff\xff\xff\xff.", "empty stack")
  refused("\x80\2]r\xff\xff\xff\x7f.", "memo number that is too large")
  refused("\x80\2X\xff\xff\xff\xff.", "ends in the middle")
  refused("\x80\2\x8d\xff\xff\xff\xff\xff\xff\xff\xffx.", "ends in the middle")
  refused("\x80\2K\1.", "holds no state dict")
  refused("\x80\2P0\n.", "opcode 0x50")
end)

-- By how many MB reading a file raises a fresh process's peak of memory, and how many numbers, texts and tables the
-- tree has.
local reader = [[
local store = require("medxai.core").store
local function peak() return tonumber(io.open("/proc/self/status"):read "a":match "VmHWM:%s*(%d+)") / 1024 end
local before = peak()
local tree = store.read(arg[1], "weights")
local seen, count = {}, 0
local function walk(value)
  if seen[value] then return end
  if type(value) == "table" then seen[value] = true end
  count = count + 1
  for _, v in pairs(type(value) == "table" and value or {}) do walk(v) end
end
walk(tree)
print(math.floor(peak() - before), count)]]

local function cost_of(pickle, dir)
  local r = t.run { t.write(dir .. "/reader.lua", reader), zip_with(pickle, dir) }
  local mb, count = r.out:match "^(%d+)\t(%d+)\n$"
  return t.ok(tonumber(mb), r.err), tonumber(count)
end

t.test("a small pickle that mentions the same values many times stays small, and what it shares is shared", function()
  local dir = t.tmpdir()
  local function doubled(empty, make) -- each level holds the one before twice
    local pickle = "\x80\2" .. empty .. "q\0"
    for i = 1, 50 do
      local below = "h" .. string.char(i - 1)
      pickle = pickle .. "0" .. make(below) .. "q" .. string.char(i)
    end
    return pickle .. "."
  end
  for name, pickle in pairs {
    lists = doubled("]", function(x) return "](" .. x .. x .. "e" end), tuples = doubled(")", function(x) return x .. x
      .. "\x86" end),
    dicts = doubled("}", function(x) return "}(" .. text "a" .. x .. text "b" .. x .. "u" end),
  } do
    local mb, count = cost_of(pickle, dir)
    t.equal(count, 51, name)
    -- opening the core takes a few, 2^50 values all there are
    t.ok(mb < 50, ("%s: %d bytes took %d MB"):format(name, #pickle, mb))
  end
end)

t.test("a long text that a pickle mentions many times is one text", function()
  -- (text, [text, text, ...])
  local pickle = "\x80\2" .. text(("x"):rep(1 << 20)) .. "q\0](" .. ("h\0"):rep(2000) .. "e\x86."
  local mb, count = cost_of(pickle, t.tmpdir())
  t.equal(count, 2003)
  t.ok(mb < 200, ("2,000 mentions of 1 MB took %d MB"):format(mb)) -- 2 GB where each is a copy
end)

t.test("a pickle that copies its values again and again is refused before it fills the memory", function()
  -- a list of 20,000 pairs, and 20,000 times an OrderedDict of it: 6 GB from 0.7 MB
  local list = "](" .. ("K\1K\2\x86"):rep(20000) .. "eq\0"
  local copies = "](" .. ("ccollections\nOrderedDict\nh\0\x85R"):rep(20000) .. "e"
  local ok, message = pcall(store.load, zip_with("\x80\2" .. list .. copies .. "\x86.", t.tmpdir()))
  local limit = not ok and tonumber(message:match "has a pickle that needs more than (%d+) MB$")
  t.ok(limit and limit < 300, message) -- 256 bytes for each of the file's
end)

t.test("a checkpoint cut at every 1 % of its length is an error", function()
  local dir = t.tmpdir()
  for _, file in ipairs { "densenet.pt", "densenet_legacy.pth", "densenet.safetensors", "training.pt",
    "densenet_torch2.pt",
    "neighbours_legacy.pth" } do
    local whole = t.read(folder .. file)
    for percent = 0, 99 do
      local path = t.write(dir .. "/cut", whole:sub(1, #whole * percent // 100))
      t.fails_like(function() store.load(path) end, "^weights: '.*/cut' ")
    end
  end
end)

t.test("changed bytes are an error or are read, and in zip files never go unseen in a tensor", function()
  local dir = t.tmpdir()
  math.randomseed(7)
  for _, file in ipairs { "densenet.pt", "odd_legacy.pth", "odd.safetensors", "odd.pt", "neighbours_legacy.pth" } do
    local whole = t.read(folder .. file)
    for _ = 1, 150 do
      local bytes = whole
      for _ = 1, math.random(3) do
        local at = math.random(#whole)
        bytes = bytes:sub(1, at - 1) .. string.char(math.random(0, 255)) .. bytes:sub(at + 1)
      end
      local path = t.write(dir .. "/changed", bytes)
      local ok, message = pcall(function() -- neighbours by the native reader: it tells no note 150 times
        if file:find "neighbours" then require("medxai.core").store.read(path, "weights") else store.load(path) end
      end)
      t.ok(ok or message:find "^weights: '.*/changed' ", message)
    end
  end
end)

t.test("a changed number in a zip file is found by its checksum", function()
  local whole = t.read(folder .. "densenet.pt")
  local at = whole:find("densenet/data/0", 1, true) + 1000
  local path = t.write(t.tmpdir() .. "/x.pt", whole:sub(1, at) .. string.char(whole:byte(at + 1) ~ 1)
    .. whole:sub(at + 2))
  t.fails_like(function() store.load(path) end, "wrong checksum")
end)

t.test("the header of a .safetensors file is read strictly", function()
  local dir = t.tmpdir()
  local function refused(header, bytes, pattern)
    local path = t.write(dir .. "/x.safetensors", string.pack("<I8", #header) .. header .. bytes)
    t.fails_like(function() store.load(path) end, pattern)
  end
  local a = '"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}'
  refused("{" .. a .. ',"b":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}', "\0\0\0\0", "overlap")
  refused("{" .. a .. ',"b":{"dtype":"F32","shape":[1],"data_offsets":[8,12]}}', ("\0"):rep(12), "gaps")
  refused("{" .. a .. "," .. a .. "}", "\0\0\0\0", "overlap")
  local again = '"a":{"dtype":"F32","shape":[1],"data_offsets":[4,8]}'
  refused("{" .. a .. "," .. again .. "}", ("\0"):rep(8), "'a' twice")
  refused("{" .. a .. ',"__metadata__":{"a":"text"},' .. again .. "}", ("\0"):rep(8), "'a' twice")
  refused("{" .. a .. "}", "", "cut short")
  refused("{" .. a .. "}", "\0\0\0\0\0", "bytes after the last tensor")
  refused("{" .. a .. ",}", "\0\0\0\0", "not the JSON")
  refused("{" .. a .. "} x", "\0\0\0\0", "not the JSON")
  refused('{"a":{"dtype":"F8_E4M3","shape":[1],"data_offsets":[0,1]}}', "\0", "type F8_E4M3, which is not read")
  refused('{"a":{"dtype":"F32","shape":[4294967296,4294967296,4294967296],"data_offsets":[0,4]}}', "\0\0\0\0",
    "too large")
  refused('{"a":{"dtype":"F32","shape":[-1],"data_offsets":[0,4]}}', "\0\0\0\0", "not the JSON")
  refused('{"a":{"dtype":"F32","shape":[2],"data_offsets":[0,4]}}', "\0\0\0\0", "does not fit its bytes")
  refused('{"a":{"dtype":"F32","dtype":"F32","shape":[1],"data_offsets":[0,4]}}', "\0\0\0\0", "not the JSON")
  refused('{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,99999999999999999999]}}', "\0\0\0\0", "not the JSON")
  t.fails_like(function() store.load(t.write(dir .. "/y", string.pack("<I8", 1 << 62) .. "{}")) end, "cut short")
end)

t.test("files of other kinds are named", function()
  local dir = t.tmpdir()
  local function says(bytes, ending)
    t.fails(function() store.load(t.write(dir .. "/f", bytes)) end, "weights: '" .. dir .. "/f' " .. ending)
  end
  says("", "is empty")
  says("<!DOCTYPE html><html>", "is a web page, not a file of weights (a failed download?)")
  says("version https://git-lfs.github.com/spec/v1\n", "is a Git LFS pointer, not the file itself (run git lfs pull)")
  says("hello", "is neither a file of torch.save nor a safetensors file")
  says(("\0"):rep(257) .. "ustar" .. ("\0"):rep(250),
    "is in torch's tar format of 2016, which is not read (load it with an old PyTorch and save it again)")
  t.fails(function() store.load(dir) end, "weights: '" .. dir .. "' is a folder (expected a file of weights)")
  t.fails(function() store.load(dir .. "/none.pt") end,
    "weights: '" .. dir .. "/none.pt' cannot be read (No such file or directory)")
end)

-- ---- writing ----

t.test("what is saved is read again, in .pt and .safetensors", function()
  local dir = t.tmpdir()
  local list = store.load(folder .. "odd.pt").tensors
  for _, ending in ipairs { "pt", "safetensors" } do
    local path = dir .. "/new/odd." .. ending
    store.save(path, list)
    local again = by_name(store.load(path).tensors)
    for _, want in ipairs(expected.odd) do
      t.equal(again[want.name].dtype, want.dtype, want.name)
      t.equal(again[want.name]:tolist(), want.values, want.name)
    end
    t.equal(again.channels_last:stride(1), ending == "pt" and 1 or 4)
  end
end)

t.test("the same tensors give the same bytes", function()
  local dir = t.tmpdir()
  local list = store.load(folder .. "densenet.pt").tensors
  for _, ending in ipairs { "pt", "safetensors" } do
    store.save(dir .. "/a." .. ending, list)
    store.save(dir .. "/b." .. ending, list)
    t.ok(t.read(dir .. "/a." .. ending) == t.read(dir .. "/b." .. ending))
  end
end)

t.test("a nested checkpoint comes back as it was", function()
  local path = t.tmpdir() .. "/c.pt"
  local value = {
    epoch = 3, lr = 0.1, tiny = 5e-324, huge = math.huge, whole = 8.0, big = math.maxinteger, least = math.mininteger,
    minus = -1, byte = 255, name = "Lungenentzündung", yes = true, no = false, list = { 1, 2.5, "three", { 4 } },
    map = { ["a b"] = 1, nested = { x = 1 } }, by_number = { [3] = "three", [10] = "ten" },
  }
  local state = torch.arange(0, 10, { dtype = "uint8" })
  value.state = state
  store.save_checkpoint(path, value)
  local again = store.load_checkpoint(path)
  t.equal(again.state:tolist(), state:tolist())
  value.state, again.state = nil, nil
  t.equal(again, value)
  store.save_checkpoint(path, { nan = 0 / 0 })
  local nan = store.load_checkpoint(path).nan
  t.ok(nan ~= nan)
end)

t.test("what cannot be saved is named, and nothing is written", function()
  local dir = t.tmpdir()
  local function refused(value, message)
    t.fails(function() store.save_checkpoint(dir .. "/x.pt", value) end, message)
  end
  refused({ a = { f = print } }, "save: the value.a.f is a function (expected tensors, numbers, texts, booleans and "
    .. "tables of them)")
  local loop = {}
  loop.loop = loop
  refused(loop, "save: the value.loop holds itself. Save a tree.")
  refused({ [1.5] = 1 }, "save: the value has the key 1.5 (expected texts and integers)")
  refused({ a = "\xff" }, "save: a text that is not UTF-8 cannot be written (use a uint8 tensor for bytes)")
  t.fails(function() store.save(dir .. "/x.bin", {}) end,
    "save: '" .. dir .. "/x.bin' ends in no known way (expected .pt, .pth or .safetensors)")
  t.equal(io.open(dir .. "/x.pt"), nil)
end)

t.test("a full disk is one error; the old file stays and no temporary one does", function()
  local dir = t.tmpdir()
  local path = t.write(dir .. "/w.pt", "old")
  local script = t.write(dir .. "/save.lua", ([[
    local torch = require "medxai.torch"
    require("medxai.nn.checkpoint").save(%q, { { name = "w", tensor = torch.zeros(1000000) } })]]):format(path))
  local sh = ("ulimit -f 100; exec %s %s"):format(t.quote(require("medxai.host").exe), t.quote(script))
  local r = t.run { "-c", sh, exe = "/bin/sh" }
  t.equal(r.code, 1)
  t.ok(r.err:find("save: cannot write '" .. path .. "' (File too large). Free some space and run again; the file "
    .. "that was there is untouched.", 1, true), r.err)
  t.equal(t.read(path), "old")
  local left = io.popen("ls " .. dir .. " | grep -c tmp")
  t.equal(left:read "n", 0)
  left:close()
end)

t.test("an allocation that fails is an error, whichever it is", function()
  local memory, live = require("medxai.core").memory, require("medxai.core").image.live_blocks
  local dir = t.tmpdir()
  local list = store.load(folder .. "odd.pt").tensors
  local before = live()
  local function sweep(f, fail_after)
    local n, ok, message = -1, false, nil
    while not ok do
      n = n + 1
      fail_after(n, 3) -- a retry fails as well
      ok, message = pcall(f)
      fail_after(-1)
      t.ok(ok or message:find "memory" or message:find "too large", message)
      t.ok(n < 2000)
    end
    t.ok(n > 3)
    collectgarbage()
    collectgarbage()
    t.equal(live(), before)
  end
  for _, file in ipairs { "odd.pt", "odd_legacy.pth", "odd.safetensors" } do
    sweep(function() store.load(folder .. file) end, memory.c_fail_after)
    sweep(function() store.load(folder .. file) end, memory.fail_after)
  end
  sweep(function() store.save(dir .. "/x.pt", list) end, memory.c_fail_after)
end)
