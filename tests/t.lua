-- What a test file uses: t.test, comparisons, temporary folders, and the program itself as a child.
-- It refuses to hide a leak: after each test the live native tensors and bytes must be those of before.
local host = require "medxai.host"

local t = { passed = 0, failed = 0, skipped = 0, file = "", verbose = os.getenv "MEDXAI_TESTS_VERBOSE" ~= nil }

local SKIP = {} -- marks the error by which a test says that it cannot run here

-- ---- comparisons: each raises with the place of the call ----

local function show(v)
  if type(v) == "string" then return string.format("%q", v) end
  if type(v) ~= "table" or getmetatable(v) then return tostring(v) end
  local keys, out = {}, {}
  for k in next, v do keys[#keys + 1] = k end
  table.sort(keys, function(a, b) return tostring(a) < tostring(b) end)
  for _, k in ipairs(keys) do out[#out + 1] = tostring(k) .. "=" .. show(v[k]) end
  return "{" .. table.concat(out, ", ") .. "}"
end

local function same(a, b)
  if a == b then return true end
  if type(a) ~= "table" or type(b) ~= "table" or getmetatable(a) or getmetatable(b) then return false end
  for k, v in next, a do if not same(v, b[k]) then return false end end
  for k in next, b do if a[k] == nil then return false end end
  return true
end

--- a and b are the same value; tables by content; 1 and 1.0 are the same.
function t.equal(a, b, what)
  if not same(a, b) then error((what and what .. ": " or "") .. "got " .. show(a) .. ", expected " .. show(b), 2) end
end

function t.ok(v, what)
  if not v then error(what or ("got " .. show(v) .. ", expected a true value"), 2) end
  return v
end

-- Numbers, nested lists of numbers, or tensors (anything with tolist).
local function far(a, b, tol, at)
  if type(a) == "number" and type(b) == "number" then
    if a == b or (a ~= a and b ~= b) or math.abs(a - b) <= tol then return nil end
    return ("got %.17g, expected %.17g (differs by %.3g, allowed %.3g)%s"):format(a, b, math.abs(a - b), tol, at)
  end
  if type(a) ~= "table" or type(b) ~= "table" or #a ~= #b then
    return "got " .. show(a) .. ", expected " .. show(b) .. at
  end
  for i = 1, #a do
    local message = far(a[i], b[i], tol, at .. " at " .. i)
    if message then return message end
  end
end

local function plain(v)
  if type(v) == "number" or (type(v) == "table" and not getmetatable(v)) then return v end
  return v:tolist()
end

--- Every number of a within tol (absolute) of b's.
function t.near(a, b, tol, what)
  local message = far(plain(a), plain(b), tol or 1e-9, "")
  if message then error((what and what .. ": " or "") .. message, 2) end
end

local function message_of(f, ...)
  local ok, message = pcall(f, ...)
  if ok then error("no error, expected one", 3) end
  return tostring(message)
end

--- f() fails with exactly this message (a leading "file:line: " of Lua code is left out of the comparison).
function t.fails(f, expected)
  local message = message_of(f)
  local bare = message:gsub("^[^\n:]+%.lua:%d+: ", "")
  if message ~= expected and bare ~= expected then
    error("got the error " .. show(message) .. ", expected " .. show(expected), 2)
  end
end

--- f() fails with a message that holds the Lua pattern.
function t.fails_like(f, pattern)
  local message = message_of(f)
  if not message:find(pattern) then
    error("got the error " .. show(message) .. ", expected one like " .. show(pattern), 2)
  end
  return message
end

-- ---- files ----

local folders = {} -- to be removed after the test

local function quote(s) return "'" .. tostring(s):gsub("'", "'\\''") .. "'" end
t.quote = quote

function t.read(path)
  local f <close> = assert(io.open(path, "rb"))
  return f:read "a"
end

function t.write(path, text)
  local f <close> = assert(io.open(path, "wb"))
  assert(f:write(text))
  return path
end

--- A new folder that is removed after the test.
function t.tmpdir()
  local pipe = assert(io.popen("mktemp -d ${TMPDIR:-/tmp}/medxai-test.XXXXXX"))
  local path = pipe:read "l"
  pipe:close()
  folders[#folders + 1] = path
  return path
end

local function remove_folders()
  for _, path in ipairs(folders) do os.execute("rm -rf " .. quote(path)) end
  folders = {}
end

--- ../shared/data beside the checkout; skips the test where it is absent.
function t.shared()
  local path = (os.getenv "MEDXAI_SHARED" or t.root .. "/../shared") .. "/data"
  local f = io.open(path)
  if not f then t.skip "no ../shared/data" end
  f:close()
  return path
end

-- ---- the program as a child ----

--- Runs this program: t.run{ "-e", "print(1)", env = { NAME = "value" }, cwd =, stdin = text, timeout = 120 }
--- -> { code = exit status (128 + signal where it died of one), out =, err = }
function t.run(args)
  local dir = t.tmpdir()
  local words = {}
  if args.cwd then words[#words + 1] = "cd " .. quote(args.cwd) .. " &&" end
  local names = {}
  -- leaks are looked for in this process: in a child of many threads the leak checker dies at its end
  if os.getenv "ASAN_OPTIONS" then
    words[#words + 1] = "ASAN_OPTIONS=" .. quote(os.getenv "ASAN_OPTIONS" .. ":detect_leaks=0")
  end
  for name in next, args.env or {} do names[#names + 1] = name end
  table.sort(names)
  words[#words + 1] = "env"
  for _, name in ipairs(names) do words[#words + 1] = name .. "=" .. quote(args.env[name]) end
  words[#words + 1] = "timeout -k 5 " .. (args.timeout or 120)
  words[#words + 1] = quote(args.exe or host.exe)
  for _, word in ipairs(args) do words[#words + 1] = quote(word) end
  words[#words + 1] = "<" .. (args.stdin and quote(t.write(dir .. "/in", args.stdin)) or "/dev/null")
  words[#words + 1] = ">" .. quote(dir .. "/out") .. " 2>" .. quote(dir .. "/err")
  local _, how, code = os.execute(table.concat(words, " "))
  return { code = how == "signal" and 128 + code or code, out = t.read(dir .. "/out"), err = t.read(dir .. "/err") }
end

-- ---- tests ----

function t.skip(reason)
  error(setmetatable({ reason = reason }, SKIP), 0)
end

--- The reason, where a whole file says that it cannot run here (t.skip outside any test); else nil.
function t.skip_reason(message)
  return getmetatable(message) == SKIP and message.reason or nil
end

-- Live native memory, after everything that Lua can free has been freed. nil while nothing has opened the core.
local function live()
  local core = package.loaded["medxai.core"]
  local memory = type(core) == "table" and core.memory
  if not memory or not memory.live then return nil end
  collectgarbage() collectgarbage()
  return memory.live()
end

local function leak(before, after)
  if not after then return nil end
  before = before or { tensors = 0, bytes = 0 }
  if before.tensors == after.tensors and before.bytes == after.bytes then return nil end
  return ("leak: %d tensors, %d bytes are live, before it %d and %d"):format(after.tensors, after.bytes, before.tensors,
    before.bytes)
end

local function trace(message)
  if getmetatable(message) == SKIP then return message end
  local text = type(message) == "string" and message or show(message)
  return t.verbose and debug.traceback(text, 2) or text
end

--- Runs f; opts.leaks = true leaves out the comparison of live memory (say why in the test).
function t.test(sentence, f, opts)
  if t.only and not (t.file .. ": " .. sentence):find(t.only) then return end
  local before, started = live(), host.now()
  local ok, message = xpcall(f, trace)
  remove_folders()
  if not ok and getmetatable(message) == SKIP then
    t.skipped = t.skipped + 1
    print(("skip  %s: %s (%s)"):format(t.file, sentence, message.reason))
    return
  end
  local lost = ok and not (opts and opts.leaks) and leak(before, live())
  if lost then ok, message = false, lost end
  t[ok and "passed" or "failed"] = t[ok and "passed" or "failed"] + 1
  local seconds = host.now() - started
  if not ok then print(("FAIL  %s: %s\n      %s"):format(t.file, sentence, (message:gsub("\n", "\n      "))))
  elseif t.verbose or seconds > 5 then print(("ok    %s: %s (%.1f s)"):format(t.file, sentence, seconds)) end
  io.stdout:flush()
end

--- Skips the test where no convolution runs in bfloat16 (oneDNN held to an older instruction set).
function t.needs_bfloat16()
  local why = require("medxai.tensor.bfloat16").why_not()
  if why then t.skip("no bfloat16: " .. why) end
end

--- The command of the browser that opens pages here, or nil.
function t.chromium()
  for _, name in ipairs { "chromium", "chromium-browser", "google-chrome" } do
    if os.execute("command -v " .. name .. " >/dev/null 2>&1") then return name end
  end
end

--- The file that names this start of the system. Bound to another text in a file system of its own (unshare -m), it
--- makes a process one of another machine. Skips the test where that is not allowed.
function t.boot_id()
  local path = "/proc/sys/kernel/random/boot_id"
  if not os.execute("unshare -m sh -c 'mount --bind /dev/null " .. path .. "' 2>/dev/null") then
    t.skip "no file systems of one's own here"
  end
  return path
end

--- A test of minutes: it runs, and counts, only where MEDXAI_TEST_LONG is 1 (./bootstrap test --long).
function t.long(sentence, f, opts)
  if os.getenv "MEDXAI_TEST_LONG" == "1" then t.test(sentence, f, opts) end
end

return t
