-- Starting: what needs no tensor does not open libtorch, and is there in milliseconds.
local t = require "t"
local host = require "medxai.host"

local print_torch = [[
  local found = false
  for line in io.lines("/proc/self/maps") do found = found or line:find("libtorch", 1, true) ~= nil end
  print(found)
]]

t.test("a script without tensors does not open libtorch", function()
  t.equal(t.run { "-e", print_torch }.out, "false\n")
  t.equal(t.run { "-i", stdin = "do" .. print_torch .. "end\n" }.out, "false\n")
end)

t.test("medxai.core opens libtorch", function()
  local r = t.run { "--threads", "1", "-e", "require 'medxai.core'" .. print_torch }
  t.equal(r.err, "")
  t.equal(r.out, "true\n")
end)

t.test("the thread count is in the environment before libtorch opens", function()
  local r = t.run { "--threads", "1", "-e", [[
    require "medxai.core"
    local pipe = io.popen 'env | grep NUM_THREADS | sort'
    io.write(pipe:read 'a')
  ]] }
  t.equal(r.out, "MKL_NUM_THREADS=1\nOMP_NUM_THREADS=1\nOPENBLAS_NUM_THREADS=1\n")
end)

t.test("waiting threads spin for a short time, unless OMP_WAIT_POLICY says how", function()
  local function waits(chosen) -- this process has set them for its children
    local pipe = io.popen("env -u OMP_WAIT_POLICY -u GOMP_SPINCOUNT -u OPENBLAS_THREAD_TIMEOUT " .. chosen .. " " .. t.quote(host.exe) .. " -e " .. t.quote [[
      require "medxai.core"
      for _, name in ipairs { "OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "OPENBLAS_THREAD_TIMEOUT" } do io.write(tostring(os.getenv(name)), " ") end
    ]])
    local words = pipe:read "a"
    pipe:close()
    return words
  end
  t.equal(waits "", "passive 1000 16 ")
  t.equal(waits "GOMP_SPINCOUNT=7", "passive 7 16 ")
  t.equal(waits "OMP_WAIT_POLICY=active", "active nil nil ")
end)

t.test("help, version, a syntax error and the prompt come within 50 ms", function()
  if os.getenv "ASAN_OPTIONS" then t.skip "sanitizers start slowly" end
  for _, args in ipairs { { "--help" }, { "--version" }, { "-e", "x = = 1" }, { "-i" } } do
    local least = math.huge
    for _ = 1, 5 do -- the quickest of five: the machine may be busy
      local started = host.now()
      os.execute(t.quote(host.exe) .. " " .. args[1] .. " " .. (args[2] and t.quote(args[2]) or "")
        .. " </dev/null >/dev/null 2>&1")
      least = math.min(least, host.now() - started)
    end
    t.ok(least < 0.05, ("%s took %.0f ms"):format(args[1], least * 1000))
  end
end)

t.test("cores are those that the process may use", function()
  local pipe = io.popen("taskset -c 0 " .. t.quote(host.exe) .. " -e 'io.write(require \"medxai.host\".cores)' 2>&1")
  local out = pipe:read "a"
  if not pipe:close() then t.skip "no taskset, or cpu 0 is not ours" end
  t.equal(out, "1")
  t.ok(host.cores >= 1)
end)

t.test("what is printed where the caller has closed standard output goes into no file", function()
  local path = t.tmpdir() .. "/f"
  local code = ("local f <close> = io.open(%q, 'w') print 'printed' io.stdout:flush() io.stderr:write 'told' "
    .. "f:write 'mine'"):format(path)
  t.ok(os.execute(("%s -e %s >&- 2>&- </dev/null"):format(t.quote(host.exe), t.quote(code))))
  t.equal(t.read(path), "mine")
end)

t.test("a standard output that cannot be written is a failure", function()
  local err = t.tmpdir() .. "/err"
  local said = "medxai-run: standard output could not be written (is the disk full?). What was printed is cut short.\n"
  for _, ends in ipairs { "", "os.exit()", "os.exit(0)", "os.exit(true, true)", "io.stdout:flush() os.exit(0)" } do
    local _, _, code = os.execute(("%s -e 'print(1) %s' >/dev/full 2>%s"):format(t.quote(host.exe), ends, err))
    t.equal({ code, t.read(err) }, { 1, said }, ends)
  end
  local _, _, code = os.execute(("%s -e 'print(1) os.exit(7)' >/dev/full 2>%s"):format(t.quote(host.exe), err))
  t.equal(code, 7)
end)
