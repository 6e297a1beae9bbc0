-- Several processes work one list of test files. In the folder of claims stand: <file>.claim, made by the process that
-- runs the file; <process>.counts, its passed, failed and skipped tests at its end. A process that dies (a signal, an
-- exit inside a test) is told as a failure with the file that it ran, and another one goes on with the rest.
local host = require "medxai.host"
local file = require "medxai.file"

local workers = { claims = os.getenv "MEDXAI_TEST_CLAIMS" } -- the folder, in a process that workers.run started
local number = os.getenv "MEDXAI_TEST_WORKER"

local function quote(s) return "'" .. s:gsub("'", "'\\''") .. "'" end

local function read(path)
  local f <close> = io.open(path, "rb")
  return f and f:read "a"
end

--- True when this process is to run the test file: always where there is one process.
function workers.mine(name)
  if not workers.claims then return true end
  local made, message, kind = file.create(workers.claims .. "/" .. name .. ".claim", number)
  if not made and kind ~= "EEXIST" then error(message, 0) end
  return made
end

--- Tells the counts of this process to the one that started it.
function workers.finished(t)
  if not workers.claims then return end
  assert(file.write(workers.claims .. "/" .. number .. ".counts", ("%d %d %d"):format(t.passed, t.failed, t.skipped)))
end

local function start(claims, n)
  return io.popen(("MEDXAI_TEST_CLAIMS=%s MEDXAI_TEST_WORKER=%d exec %s %s"):format(quote(claims), n, quote(host.exe),
    quote(host.script_dir .. "/run.lua")), "w")
end

local function cores()
  local pipe = assert(io.popen "nproc")
  local n = tonumber(pipe:read "l") or 1
  pipe:close()
  return n
end

-- The file that process n ran when it died: the claim of its own that was made last.
local function last_file(claims, files, n)
  local last
  for _, f in ipairs(files) do
    if read(claims .. "/" .. f.name .. ".claim") == tostring(n) then last = f.name end
  end
  return last
end

local function add(t, claims, files, n, how, code)
  local passed, failed, skipped = (read(claims .. "/" .. n .. ".counts") or ""):match "^(%d+) (%d+) (%d+)$"
  if passed then
    t.passed, t.failed, t.skipped = t.passed + passed, t.failed + failed, t.skipped + skipped
    return true
  end
  t.failed = t.failed + 1
  print(("FAIL  %s: the process that ran it ended (%s %d); its counts are lost"):format(
    last_file(claims, files, n) or "no file", how, code))
  return false
end

--- Runs all files in as many processes as there are cores (at most four), and adds up their counts in t.
function workers.run(t, files)
  local claims = assert(file.mkdtemp((os.getenv "TMPDIR" or "/tmp") .. "/medxai-tests."))
  local pipes, count = {}, math.min(cores(), 4)
  for n = 1, count do pipes[n] = assert(start(claims, n)) end
  local n = 0
  while n < #pipes do
    n = n + 1
    local _, how, code = pipes[n]:close()
    local whole = add(t, claims, files, n, how, code)
    local left = last_file(claims, files, n) ~= nil and not read(claims .. "/" .. files[#files].name .. ".claim")
    if not whole and left then pipes[#pipes + 1] = assert(start(claims, #pipes + 1)) end
  end
  os.execute("rm -rf " .. quote(claims))
end

return workers
