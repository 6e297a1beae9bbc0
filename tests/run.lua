-- Runs the tests: medxai-run tests/run.lua [pattern]. Every tests/<room>_<topic>.lua and the C programs in
-- <build>/tests_c. With a pattern: only the files whose name, or the tests whose "file: sentence", match it, in order
-- of name. Without one: a process for each core; each claims the next file that nobody has (tests/workers.lua).
-- The last line is "N passed, N failed, N skipped"; the exit status is 1 when any failed.
local host = require "medxai.host"
local workers = require "workers"
local t = require "t"

local pattern = ...
local here = host.script_dir
t.root = here .. "/.."

local function listed(command)
  local names, pipe = {}, assert(io.popen(command))
  for line in pipe:lines() do names[#names + 1] = line end
  pipe:close()
  table.sort(names)
  return names
end

local function trace(message) -- a reason to skip is no text
  return type(message) == "string" and debug.traceback(message, 2) or message
end

-- Every file begins without a run, whichever ones ran before it in this process.
local function run_file(path, name)
  t.file = name
  local current_seed = package.loaded["medxai.run.current_seed"]
  if current_seed then current_seed.set(nil) end
  local chunk, message = loadfile(path)
  local ok = chunk ~= nil
  if chunk then ok, message = xpcall(chunk, trace, t) end
  local reason = t.skip_reason(message)
  if reason then
    t.skipped = t.skipped + 1
    print(("skip  %s (%s)"):format(name, reason))
  elseif not ok then
    t.failed = t.failed + 1
    print(("FAIL  %s: cannot be run\n      %s"):format(name, (tostring(message):gsub("\n", "\n      "))))
  end
end

local function run_c(path, name)
  t.file = name
  t.test("the C program passes", function()
    local pipe = assert(io.popen("cd " .. t.quote(here .. "/..") .. " && " .. t.quote(path) .. " 2>&1"))
    local output = pipe:read "a"
    local ok, how, code = pipe:close()
    if code == 77 then t.skip((output:gsub("%s+$", ""))) end
    if not ok then error(("%s %d\n%s"):format(how, code, output), 0) end
  end)
end

local started = host.now()
io.stdout:setvbuf "line" -- a log file is to be followed

-- Registered first, so it runs last: nothing that a test left behind prints after the closing line.
if not workers.claims then host.at_exit(function()
  local warnings = host.warnings()
  for i = #warnings, 1, -1 do warnings[i] = nil end
  io.stdout:write(("%.0f s\n"):format(host.now() - started))
  io.stdout:write(("%d passed, %d failed, %d skipped\n"):format(t.passed, t.failed, t.skipped))
end) end

local files = {}
for _, path in ipairs(listed("ls " .. t.quote(here) .. "/*_*.lua 2>/dev/null")) do
  files[#files + 1] = { path = path, name = path:match "([^/]+)%.lua$", run = run_file }
end
local build = host.exe:match "^(.*)/"
for _, path in ipairs(listed("ls -d " .. t.quote(build .. "/tests_c") .. "/* 2>/dev/null")) do
  files[#files + 1] = { path = path, name = "c_" .. path:match "([^/]+)$", run = run_c }
end

if not pattern and not workers.claims then
  workers.run(t, files)
else
  local by_name = false
  for _, file in ipairs(files) do by_name = by_name or (pattern ~= nil and file.name:find(pattern) ~= nil) end
  if pattern and not by_name then t.only = pattern end
  for _, file in ipairs(files) do
    if workers.mine(file.name) and (not by_name or file.name:find(pattern)) then file.run(file.path, file.name) end
  end
  workers.finished(t)
end
if pattern and t.passed + t.failed + t.skipped == 0 then
  t.failed = 1
  print(("FAIL  no test matches '%s'"):format(pattern))
end
if t.failed > 0 then os.exit(1) end
