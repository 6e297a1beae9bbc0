-- Damages files of every kind that the program reads, and reads them: PNG, JPEG, .pt, .pth, .safetensors, .npy, CSV,
-- JSON.
--   medxai-run tests/fuzz/files.lua [--only KIND] [--cases N] [--seconds N] [--fuzz_seed N] [--keep DIR]
-- --cases: of each kind (default 2000). --seconds: repeats with new seeds until that time has passed. A case is
-- determined by kind, seed and number. A child process (this file again; an environment variable tells it so) notes
-- each case before it reads the file. When the child dies, the note and the file show the case, and a new child
-- continues with the next one. A case fails when it ends the process, takes too long, takes more memory than the file's
-- size explains, leaks, or raises anything but a text that a person can read. Files of failed cases are kept in --keep
-- (default: a new folder in /tmp, named at the end).
local host = require "medxai.host"

local dir = os.getenv "MEDXAI_FUZZ_DIR" -- a child's folder

local MOST_SECONDS = 10 -- of processor time a case

-- ---- random numbers: the same case is the same file, on every machine ----

local state
local function seed(text)
  state = 2166136261
  for i = 1, #text do state = ((state ~ text:byte(i)) * 16777619) & 0xffffffff end
end
local function random(n) -- 1..n
  state = state * 6364136223846793005 + 1442695040888963407
  return (state >> 33) % n + 1
end
local function chance(percent) return random(100) <= percent end
local function pick(list) return list[random(#list)] end

-- ---- damage ----

local numbers = { 0, 1, 2, 0x7f, 0x80, 0xff, 0x100, 0x7fff, 0x8000, 0xffff, 0x10000, 0x7fffffff, 0x80000000,
  0xffffffff, -1, math.maxinteger, math.mininteger, 1 << 32, 1 << 40, 1 << 62 }

local function at(bytes) return random(#bytes + 1) end

local damage = {
  function(b) -- one bit
    if b == "" then return b end
    local i = random(#b)
    return b:sub(1, i - 1) .. string.char(b:byte(i) ~ 1 << random(8) - 1) .. b:sub(i + 1)
  end,
  function(b) -- one byte
    local i = at(b)
    return b:sub(1, i - 1) .. string.char(pick { 0, 0xff, 0x7f, 0x80, random(256) - 1 }) .. b:sub(i + 1)
  end,
  function(b) -- a number, in one of the machine's forms
    local size, i = pick { 2, 4, 8 }, at(b)
    local number = string.pack("<i8", pick(numbers)):sub(1, size)
    return b:sub(1, i - 1) .. (chance(50) and number or number:reverse()) .. b:sub(i + size)
  end,
  function(b) -- a piece left out
    local i = at(b)
    return b:sub(1, i - 1) .. b:sub(i + random(pick { 1, 4, 64, #b + 1 }))
  end,
  function(b) -- a piece twice, or somewhere else
    local i, j = at(b), at(b)
    return b:sub(1, i - 1) .. b:sub(j, j + random(pick { 4, 64, 1024 })) .. b:sub(i)
  end,
  function(b) -- the end cut off
    return b:sub(1, at(b) - 1)
  end,
  function(b, words) -- a word of the format
    local i = at(b)
    return b:sub(1, i - 1) .. pick(words) .. b:sub(i + (chance(50) and 0 or random(8)))
  end,
  function(b, words) -- many of it
    local i = at(b)
    return b:sub(1, i - 1) .. pick(words):rep(pick { 10, 300, 300000 }) .. b:sub(i)
  end,
  function(b, _, other) -- the end of another file
    return b:sub(1, at(b) - 1) .. other:sub(at(other))
  end,
}

local function damaged(bytes, words, other)
  for _ = 1, pick { 1, 1, 1, 2, 3, 8 } do
    bytes = damage[chance(3) and 8 or pick { 1, 2, 3, 4, 5, 6, 7, 9 }](bytes, words, other)
  end
  return bytes
end

-- ---- what makes damage pass the first checks: lengths and checksums that fit ----

local crc_table = {}
for i = 0, 255 do
  local c = i
  for _ = 1, 8 do c = c & 1 == 1 and 0xedb88320 ~ c >> 1 or c >> 1 end
  crc_table[i] = c
end

local function crc32(s)
  local c = 0xffffffff
  for i = 1, #s do c = crc_table[(c ~ s:byte(i)) & 255] ~ c >> 8 end
  return ~c & 0xffffffff
end

local function mend_png(b)
  local parts, i = { b:sub(1, 8) }, 9
  while i + 11 <= #b do
    local n = string.unpack(">I4", b, i)
    if i + 11 + n > #b then break end
    local body = b:sub(i + 4, i + 7 + n)
    parts[#parts + 1] = b:sub(i, i + 3) .. body .. string.pack(">I4", crc32(body))
    i = i + 12 + n
  end
  return table.concat(parts) .. b:sub(i)
end

-- The records of a whole zip file that stores them: { { name, data } }.
local function zip_records(b)
  local records, at_end = {}, assert(b:find("PK\5\6", 1, true))
  local count, place = string.unpack("<I2", b, at_end + 10), string.unpack("<I4", b, at_end + 16) + 1
  for k = 1, count do
    local size, _, name_n, extra_n, note_n = string.unpack("<I4I4I2I2I2", b, place + 20)
    local head = string.unpack("<I4", b, place + 42) + 1
    local start = head + 30 + string.unpack("<I2", b, head + 26) + string.unpack("<I2", b, head + 28)
    records[k] = { b:sub(place + 46, place + 45 + name_n), b:sub(start, start + size - 1) }
    place = place + 46 + name_n + extra_n + note_n
  end
  return records
end

local function make_zip(records)
  local parts, directory, place = {}, {}, 0
  for k, r in ipairs(records) do
    local facts = string.pack("<I4I4I4I2I2", crc32(r[2]), #r[2], #r[2], #r[1], 0)
    parts[k] = "PK\3\4\20\0\0\0\0\0\0\0\33\0" .. facts .. r[1] .. r[2]
    directory[k] = "PK\1\2\20\0\20\0\0\0\0\0\0\0\33\0" .. facts .. string.pack("<I2I2I2I4I4", 0, 0, 0, 0, place) .. r[1]
    place = place + #parts[k]
  end
  local list = table.concat(directory)
  local ending = "PK\5\6" .. string.pack("<I2I2I2I2I4I4I2", 0, 0, #records, #records, #list, place, 0)
  return table.concat(parts) .. list .. ending
end

local function damaged_zip(bytes, words, other)
  if chance(30) then return damaged(bytes, words, other) end
  local records = zip_records(bytes)
  for _ = 1, pick { 1, 1, 2 } do
    local k = random(100) <= 70 and 1 or random(#records) -- the first is data.pkl
    local part = chance(90) and 2 or 1
    records[k] = { records[k][1], records[k][2] }
    records[k][part] = damaged(records[k][part], words, other:sub(1, 4000))
    records[k][1] = records[k][1]:sub(1, 0xffff)
    if chance(5) then table.remove(records, random(#records)) end
    if #records == 0 then break end
  end
  return make_zip(records)
end

-- A file that begins with the length of its header: that length is made to fit again.
local function damaged_header(place, form)
  return function(bytes, words, other)
    if chance(30) then return damaged(bytes, words, other) end
    local start = place + string.packsize(form)
    local n = string.unpack(form, bytes, place)
    local header = damaged(bytes:sub(start, start + n - 1), words, other:sub(start, start + 500))
    if #header > 60000 then header = header:sub(1, 60000) end
    local rest = bytes:sub(start + n)
    if chance(20) then rest = damaged(rest, words, other) end
    return bytes:sub(1, place - 1) .. string.pack(form, #header) .. header .. rest
  end
end

-- ---- the kinds: whole files to start from, words, how they are damaged, who reads them ----

local core, torch -- of the child
local here = host.script_dir .. "/../reference/"

local function read(path)
  local f <close> = assert(io.open(path, "rb"))
  return f:read "a"
end

local function listed(pattern)
  local list, pipe <close> = {}, assert(io.popen("ls " .. here .. pattern))
  for path in pipe:lines() do list[#list + 1] = read(path) end
  return list
end

local function look_at(tensor) -- every element is read, and the text made
  if tensor:numel() > 0 then tensor:clone():view(-1):to("float64"):sum():item() end
  tostring(tensor)
end

local function read_image(bytes, path)
  local x = core.image.decode(bytes)
  local twice = core.image.digest(core.image.decode(bytes))
  if twice ~= core.image.digest(x) then return "it decodes to other pixels the second time" end
  local info = core.image.info(path)
  local told = ("%d x %d x %d"):format(info.height, info.width, info.channels)
  if told ~= ("%d x %d x %d"):format(x:size(0), x:size(1), x:size(2)) then return "info tells a size of " .. told end
  if x:numel() < 1 << 20 then core.image.resize(x, 32, 32) end
end

local function read_weights(_, path)
  local store = require "medxai.nn.checkpoint"
  local ok, message = pcall(function()
    for _, entry in ipairs(store.load(path).tensors) do
      tostring(entry.name)
      look_at(entry.tensor)
    end
  end)
  local function walk(v, depth)
    if core.tensor.is_tensor(v) then look_at(v) end
    if type(v) == "table" and depth < 20 then
      for k, item in pairs(v) do tostring(k) walk(item, depth + 1) end
    end
  end
  walk(store.load_checkpoint(path), 0)
  if not ok then error(message, 0) end
end

local function make_json()
  local canon = require "medxai.base.json"
  local model = { name = "vgg19", classes = { "a", "b" }, mean = { 0.485, 0.456, 0.406 }, hidden = 256, dropout = 0.5,
    weights = canon.list(), nested = { { { x = 1 / 0, y = 0 / 0 } } }, text = "\"\\\n\u{e9}\u{1f600}", yes = true }
  return { canon.write(model), canon.write(model, "  "), '{"epoch":1,"loss":0.5}\n{"epoch":2,"loss":NaN}\n', "[]", "{}",
    "1", '"\\ud83d\\ude00"' }
end

local function make_csv()
  local rows = { "path,label,split,patient,source,mask\n" }
  for k = 1, 6 do
    local class, split = pick { "x", "y" }, pick { "train", "val", "test" }
    rows[k + 1] = ("%d.png,%s,%s,p%d,\"a \"\"b\"\", c\",\n"):format(k, class, split, k)
  end
  return { table.concat(rows), "path,label,split\n1.png,0,train\n2.png,1,train\n",
    "\239\187\191path,label,split\r\n1.png,\"x\r\ny\",test\r\n" }
end

local png_words = { "IHDR", "IDAT", "IEND", "PLTE", "tRNS", "eXIf", "gAMA", "CgBI", "\0\0\0\0", "\x78\x9c",
  "\xff\xff\xff\xff" }
local jpeg_words = { "\xff\xd8", "\xff\xd9", "\xff\xda", "\xff\xc0", "\xff\xc2", "\xff\xc4", "\xff\xdb", "\xff\xdd",
  "\xff\xd0", "\xff\xd7", "\xff\x00", "\xff\xff", "\xff\xc9", "\xff\xcc", "\xff\xe1\0\8Exif\0\0",
  "\xff\xee\0\14Adobe\0\100\0\0\0\0\2" }
local pickle_words = { "\x80\2", "\x80\4\x95", ".", "(", ")", "]", "}", "N", "\x88", "K\1", "M\1\1",
  "J\255\255\255\127", "\x8a\8\255\255\255\255\255\255\255\127", "\x8b\255\255\255\127", "G\127\240\0\0\0\0\0\0",
  "X\4\0\0\0name", "\x8c\4name", "U\4name", "q\0", "r\0\0\1\0", "h\0", "j\0\0\1\0", "\x94", "t", "\x85", "\x86",
  "\x87", "a", "e", "s", "u", "b", "R", "\x81", "\x93", "Q", "0", "2", "1", "\x8f", "\x90", "I1\n", "F1\n", "L1L\n",
  "V1\n", "S'1'\n", "g0\n", "p0\n", "cos\nsystem\n", "ctorch\nFloatStorage\n",
  "ctorch._utils\n_rebuild_tensor_v2\n", "ccollections\nOrderedDict\n" }
local text_words = { ",", "\n", "\r\n", "\r", '"', '""', "'", "\0", "\239\187\191", "\255", "-1", "1e999",
  "99999999999999999999", "NaN", "0x10", " ", "\t" }
local json_words = { "[", "]", "{", "}", ":", ",", '"', "\\u", "\\ud800", "\\x", "null", "true", "NaN", "-Infinity",
  "1e999", "-", "0x1p4", "99999999999999999999", '"a":', "\0", "\255", "\n", "//" }
local header_words = { "'descr'", "'shape'", "'fortran_order'", "(", ")", "()", "(1,)", "(18446744073709551615,)",
  "(4294967296, 4294967296,)", "'>c16'", "'|O'", "'<f8'", "'|b1'", "True", "False", "L", ",", "[", "{", "}",
  '"dtype"', '"shape"', '"data_offsets"', '"F32"', '"BF16"', '"BOOL"', "[0,8]", "[0,0]", "9223372036854775807",
  '"__metadata__"', "\\u0000", "\\ud800" }

local function jpeg_files()
  local all, list = read(here .. "pictures/jpeg/all.bin"), {}
  for k, case in ipairs(dofile(here .. "pictures/jpeg/expected.lua")) do
    list[k] = all:sub(case.at + 1, case.at + case.bytes)
  end
  return list
end

local function damaged_png(...)
  local bytes = damaged(...)
  return chance(75) and mend_png(bytes) or bytes
end

local function read_csv(_, path)
  local ok, message = pcall(require("medxai.base.csv").read, path)
  local data = require("medxai").dataset.manifest { csv = path, size_px = 16 }
  for _, split in ipairs(data.splits) do
    tostring(split)
    split:labels():close()
  end
  if not ok then error(message, 0) end
end

local function read_npy(_, path) look_at(torch.load_npy(path)) end

local function read_json(bytes, path)
  local canon = require "medxai.base.json"
  pcall(require("medxai.base.files").records, path)
  local text = canon.write(canon.read(bytes, path))
  if canon.write(canon.read(text)) ~= text then return "what was read is written otherwise" end
end

-- suffix; words; whole files or their names; damage; read; megabytes: the most memory that any file may take
-- (pictures may have 64 megapixels; default: what the file's size explains)
local kinds = {
  png = { ".png", png_words, "pictures/*.png", damaged_png, read_image, megabytes = 1500 },
  jpeg = { ".jpg", jpeg_words, jpeg_files, damaged, read_image, megabytes = 1500 },
  pt = { ".pt", pickle_words, "checkpoints/*.pt", damaged_zip, read_weights },
  pth = { ".pth", pickle_words, "checkpoints/*.pth", damaged, read_weights },
  safetensors = { ".safetensors", header_words, "checkpoints/*.safetensors", damaged_header(1, "<I8"), read_weights },
  npy = { ".npy", header_words, "npy/*.npy", damaged_header(9, "<I2"), read_npy },
  csv = { ".csv", text_words, make_csv, damaged, read_csv },
  json = { ".json", json_words, make_json, damaged, read_json },
}
for _, k in pairs(kinds) do k.suffix, k.words, k.files, k.damage, k.read = table.unpack(k) end

local kind_names = {}
for name in pairs(kinds) do kind_names[#kind_names + 1] = name end
table.sort(kind_names)

-- ---- the child ----

-- Errors of a program and not of a file.
local function is_internal(message)
  for _, sign in ipairs { "attempt to ", "bad argument", "stack overflow", "C stack", "not enough memory", "traceback",
    "malformed pattern", "no integer", "string slice", "table overflow", "table: 0x", "function: 0x" } do
    if message:find(sign, 1, true) then return true end
  end
  return message == ""
end

-- The most memory that the process has held since it was last asked, in MB; nil where the system does not tell.
local function peak()
  local f = io.open "/proc/self/status"
  local kib = f and f:read("a"):match "VmHWM:%s*(%d+)"
  if f then f:close() end
  local reset = io.open("/proc/self/clear_refs", "w")
  if not reset then return nil end
  reset:write "5"
  return reset:close() and tonumber(kib) // 1024
end

local function one_case(kind, bytes, path)
  peak()
  local before, started = peak(), os.clock()
  local scope <close> = core.memory.scope()
  local ok, message = pcall(kind.read, bytes, path)
  local seconds, after = os.clock() - started, peak()
  if ok and message then return message end
  if not ok and (type(message) ~= "string" or is_internal(message)) then return "it raises: " .. tostring(message) end
  if seconds > MOST_SECONDS then return ("it takes %.1f s"):format(seconds) end
  local most = kind.megabytes or 200 + #bytes * 300 // 1000000
  if before and after and after - before > most and not os.getenv "ASAN_OPTIONS" then
    return ("it takes %d MB for %d bytes"):format(after - before, #bytes)
  end
end

local function live()
  collectgarbage() collectgarbage()
  local m = core.memory.live()
  return ("%d blocks, %d tensors, %d bytes"):format(core.image.live_blocks(), m.tensors, m.bytes)
end

local function write(path, bytes)
  local f <close> = assert(io.open(path, "wb"))
  f:write(bytes)
end

local function child()
  core = require "medxai.core"
  torch = require "medxai.torch"
  local name, fuzz_seed = os.getenv "MEDXAI_FUZZ_KIND", os.getenv "MEDXAI_FUZZ_SEED"
  local first, last = tonumber(os.getenv "MEDXAI_FUZZ_FIRST"), tonumber(os.getenv "MEDXAI_FUZZ_LAST")
  local kind, path, note = kinds[name], dir .. "/case" .. kinds[name].suffix, assert(io.open(dir .. "/note", "w"))
  seed(name)
  local files, before = type(kind.files) == "string" and listed(kind.files) or kind.files(), nil
  for k = 1, 6 do write(("%s/%d.png"):format(dir, k), core.image.encode(torch.zeros(8, 8, { dtype = "uint8" }))) end
  for case = first, last do
    note:seek "set"
    note:write(("%8d\n"):format(case))
    note:flush()
    seed(("%s:%d:%s"):format(name, case, fuzz_seed))
    local bytes = kind.damage(pick(files), kind.words, pick(files))
    write(path, bytes)
    local wrong = one_case(kind, bytes, path)
    if wrong then
      os.execute(("cp %s %s/%s-%s-%d%s"):format(path, os.getenv "MEDXAI_FUZZ_KEEP", name, fuzz_seed, case, kind.suffix))
      print(("%s case %d: %s"):format(name, case, (wrong:gsub("[^%g ]", "?"):sub(1, 300))))
    end
    if case == first + 19 then before = live() end -- what is made once is there by now
  end
  if not before or live() == before then return end
  print(("%s, some case up to %d: leak: %s, before %s"):format(name, last, live(), before))
end

-- ---- the parent ----

local function new_folder()
  local pipe <close> = assert(io.popen "mktemp -d ${TMPDIR:-/tmp}/medxai-fuzz.XXXXXX")
  return pipe:read "l"
end

-- Runs cases first..last of a kind; returns how many were wrong.
local function run(name, first, last, fuzz_seed, keep)
  local folder, wrong = new_folder(), 0
  while first <= last do
    local limits = os.getenv "ASAN_OPTIONS" and "" or "ulimit -v 12000000; "
    local pipe = assert(io.popen(limits .. ("ulimit -c 0; MEDXAI_FUZZ_DIR=%s MEDXAI_FUZZ_KIND=%s MEDXAI_FUZZ_SEED=%s "
      .. "MEDXAI_FUZZ_FIRST=%d MEDXAI_FUZZ_LAST=%d MEDXAI_FUZZ_KEEP=%s "
      .. "timeout -s KILL %d %s --quiet --threads 1 %s 2>%s/err"):format(folder, name, fuzz_seed, first, last, keep,
      120 + (last - first) // 5, host.exe, host.script, folder)))
    for line in pipe:lines() do
      print(line)
      wrong = wrong + 1
    end
    local ok, how, code = pipe:close()
    if ok then break end
    local case = tonumber((read(folder .. "/note"):match "%d+")) or first
    local file = ("%s/%s-%s-%d%s"):format(keep, name, fuzz_seed, case, kinds[name].suffix)
    os.execute(("cp %s/case%s %s 2>/dev/null; cp %s/err %s.err"):format(folder, kinds[name].suffix, file, folder, file))
    local said = read(folder .. "/err"):gsub("\n", " "):sub(1, 300)
    print(("%s case %d: the process ends (%s %d): %s"):format(name, case, how, code, said))
    wrong, first = wrong + 1, case + 1
  end
  os.execute("rm -rf " .. folder)
  return wrong
end

local function parent()
  local f = host.fields
  local cases, seconds = tonumber(f.cases or 2000), tonumber(f.seconds or 0)
  local number = tonumber(f.fuzz_seed or 1)
  local keep = f.keep or new_folder()
  assert(os.execute("mkdir -p " .. keep))
  local started, wrong, total = host.now(), 0, 0
  repeat
    for _, name in ipairs(kind_names) do
      if not f.only or f.only == name then
        wrong, total = wrong + run(name, 1, cases, number, keep), total + cases
      end
    end
    number = number + 1
  until host.now() - started >= seconds
  if total == 0 then error(("unknown kind '%s' (known: %s)"):format(f.only, table.concat(kind_names, ", ")), 0) end
  print(("%d files, %d wrong%s"):format(total, wrong, wrong > 0 and " (kept in " .. keep .. ")" or ""))
  if wrong == 0 then os.execute("rmdir " .. keep .. " 2>/dev/null") end
  if wrong > 0 then os.exit(1) end
end

if dir then child() else parent() end
