-- Signals: the first stops within a second, wherever Lua is; a second kills; crashes are reported and stay crashes.
local t = require "t"
local host = require "medxai.host"

-- Runs code (which prints "ready" when the signals may come) and sends them; seconds counts from the first signal.
local function interrupted(code, signals, options)
  local dir = t.tmpdir()
  local script = ([[
    %s %s -e %s >%s/out 2>%s/err & child=$!
    for i in $(seq 400); do grep -qs ready %s/out && break; sleep 0.02; done
    before=$(date +%%s%%N)
    for s in %s; do kill -$s $child; sleep 0.2; done
    wait $child; echo $? $((($(date +%%s%%N) - before) / 1000000))
  ]]):format(t.quote(host.exe), options or "", t.quote(code), dir, dir, dir, signals)
  local pipe = io.popen("timeout -k 5 60 sh -c " .. t.quote(script))
  local status, ms = pipe:read("n", "n")
  pipe:close()
  return { code = status, seconds = ms / 1000, out = t.read(dir .. "/out"), err = t.read(dir .. "/err") }
end

local ready = "io.stdout:setvbuf('no') print('ready') "

local loops = {
  ["a plain loop"] = "while true do end",
  ["a loop of pcall"] = "while true do pcall(function() while true do end end) end",
  ["a loop of xpcall"] = "while true do xpcall(function() while true do end end, function() while true do end end) end",
  ["a loop of coroutines"] = "while true do coroutine.resume(coroutine.create(function() while true do end end)) end",
  ["a wrapped coroutine inside pcall"] = "while true do pcall(coroutine.wrap(function() while true do end end)) end",
  ["a coroutine that yields"] = "local co = coroutine.wrap(function() while true do coroutine.yield(1) end end) "
  .. "while true do co() end", ["a sort"] = "local x = {} for i = 1, 1e6 do x[i] = i end while true do "
  .. "table.sort(x, function(a, b) return a > b end) end",
}

for name, loop in pairs(loops) do
  t.test("the first SIGINT stops " .. name, function()
    local r = interrupted(ready .. loop, "INT")
    t.equal(r.err, "medxai-run: interrupted (SIGINT)\n")
    t.equal(r.code, 130)
    t.ok(r.seconds < 1.5, r.seconds .. " s")
  end)
end

t.test("SIGTERM is told apart", function()
  local r = interrupted("require 'medxai.host'.at_exit(print) " .. ready .. "while true do end", "TERM")
  t.equal(r.err, "medxai-run: interrupted (SIGTERM)\n")
  t.equal(r.out, "ready\nterminated\tinterrupted (SIGTERM)\n")
  t.equal(r.code, 143)
end)

t.test("SIGHUP ends as SIGTERM does, unless it was ignored from the start", function()
  local code = "require 'medxai.host'.at_exit(print) " .. ready .. "while true do end"
  local r = interrupted(code, "HUP")
  t.equal({ r.code, r.err, r.out }, { 129, "medxai-run: interrupted (SIGHUP)\n",
    "ready\nterminated\tinterrupted (SIGHUP)\n" })
  local nohup = t.run { exe = "/bin/sh", "-c", ("trap '' HUP; exec %s -e %s"):format(t.quote(host.exe),
    t.quote("os.execute 'kill -HUP $PPID' print 'here'")) }
  t.equal({ nohup.code, nohup.out }, { 0, "here\n" })
end)

for _, signal in ipairs { "INT", "TERM", "HUP", "USR1", "USR2" } do
  t.test("a wait ends at SIG" .. signal, function()
    local r = interrupted(ready .. "require 'medxai.base.files'.sleep(1000)", signal)
    t.equal(r.err, "medxai-run: interrupted (SIG" .. signal .. ")\n")
    t.ok(r.seconds < 1.5, r.seconds .. " s")
  end)
end

t.test("a wait is as long as it was asked for, and takes no time of the processor", function()
  local before, clock = host.now(), os.clock()
  host.sleep(0.3)
  t.ok(host.now() - before >= 0.3 and os.clock() - clock < 0.2)
  t.fails(function() host.sleep(-1) end, "bad argument #1 to 'sleep' (seconds from 0 expected)")
end)

t.test("SIGUSR1 and SIGUSR2 stop the program, but not while they are held", function()
  local r = interrupted(ready .. "while true do end", "USR1")
  t.equal({ r.code, r.err }, { 138, "medxai-run: interrupted (SIGUSR1)\n" })
  local held = [[local host = require "medxai.host" host.at_exit(function(how) print(how, host.stopped_by()) end)
    host.hold_signals(true) print "ready"
    while not host.asked() do end
    print(host.asked(), host.interrupted())
    pcall(function()
      local x <close> = setmetatable({}, { __close = function() host.hold_signals(false) end })
      error "over"
    end)
    print "not reached"]]
  r = interrupted("io.stdout:setvbuf 'no' " .. held, "USR2 USR1")
  t.equal({ r.code, r.err, r.out }, { 140, "medxai-run: interrupted (SIGUSR2)\n",
    "ready\nSIGUSR2\tnil\ninterrupted\tSIGUSR2\n" })
end)

t.test("closers run on the way out", function()
  local r = interrupted(ready .. [[
    local x <close> = setmetatable({}, { __close = function() for _ = 1, 1e5 do end print "closed" end })
    while true do end]], "INT")
  t.equal(r.out, "ready\nclosed\n")
  t.equal(r.code, 130)
end)

-- E: a value whose __close never ends.
local endless = "local E = setmetatable({}, { __close = function() while true do end end }) "
local closers = {
  ["left by the signal"] = "local x <close> = E while true do end",
  ["left without a signal"] = "do local x <close> = E end",
  ["inside a pcall"] = "pcall(function() local x <close> = E while true do end end)",
  ["in a coroutine"] = "coroutine.resume(coroutine.create(function() local x <close> = E while true do end end))",
  ["in a wrapped coroutine"] = "coroutine.wrap(function() local x <close> = E while true do end end)()",
  ["in a coroutine within another"] = [[coroutine.wrap(function()
    coroutine.wrap(function() local x <close> = E while true do end end)()
  end)()]],
  ["of a coroutine that is closed"] = [[
    local co = coroutine.create(function() local x <close> = E coroutine.yield() end)
    coroutine.resume(co) coroutine.close(co)]],
  ["of the program's end"] = "require('medxai.host').at_exit(function() local x <close> = E end)",
}

for name, code in pairs(closers) do
  t.test("the first SIGINT stops an endless __close " .. name, function()
    local r = interrupted(endless .. ready .. code, "INT")
    t.equal({ r.code, r.err }, { 130, "medxai-run: interrupted (SIGINT)\n" })
  end)
end

t.test("the first SIGINT stops a finalizer that runs when all is done", function()
  local code = "X = setmetatable({}, { __gc = function() print 'ready' while true do end end })"
  local r = interrupted("io.stdout:setvbuf 'no' " .. code, "INT")
  t.equal(r.code, 130)
end)

t.test("closers run on the way out of coroutines, too", function()
  local closer = "setmetatable({}, { __close = function() for _ = 1, 1e5 do end print(%q) end })"
  for _, how in ipairs { "coroutine.wrap(f)()", "coroutine.resume(coroutine.create(f))" } do
    local f = "local function f() local x <close> = " .. closer:format "inner" .. " while true do end end "
    local r = interrupted(ready .. "local y <close> = " .. closer:format "outer" .. f .. how, "INT")
    t.equal({ r.out, r.code }, { "ready\ninner\nouter\n", 130 })
  end
end)

-- Each would run for hours: the signal reaches it in the middle.
for name, call in pairs {
  quickshift = "segment.quickshift(x, 100, 1000, 0.5, 0, 42)",
  SLIC = "segment.slic(x, 20, 10, 0, 100000, true, 0.5, 3)",
  ["a wide blur"] = "segment.slic(x, 20, 10, 1000, 1, true, 0.5, 3)",
  ["the imputer"] = "for _ = 1, 1e9 do core.impute.fill_(x:unsqueeze(0), keep) end",
} do
  t.test("the first SIGINT stops " .. name .. " on a large picture", function()
    local r = interrupted([[
      local core, torch = require "medxai.core", require "medxai.torch"
      local segment, x = core.segment, torch.rand({ 3, 1500, 1500 }, { dtype = "float64" })
      local keep = torch.rand(1, 1500, 1500):lt(0.02) ]] .. ready .. call, "INT")
    t.equal({ r.code, r.err }, { 130, "medxai-run: interrupted (SIGINT)\n" })
  end)
end

t.test("a second signal kills at once", function()
  local r = interrupted("require 'medxai.host'.at_exit(function() print 'winding up' while true do end end) " .. ready
    .. "while true do end", "INT INT")
  t.equal(r.out, "ready\nwinding up\n")
  t.equal(r.code, 130)
  t.ok(r.seconds < 2, r.seconds .. " s")
  r = interrupted("require 'medxai.host'.at_exit(function() while true do end end) " .. ready .. "while true do end",
    "INT TERM")
  t.equal(r.code, 143)
end)

t.test("at the prompt SIGINT stops the line, not the program", function()
  local dir = t.tmpdir()
  local script = ([[
    mkfifo %s/in; %s -i <%s/in >%s/out 2>&1 & child=$!
    exec 3>%s/in
    echo "io.stdout:setvbuf('no') print('ready') while true do end" >&3
    for i in $(seq 400); do grep -qs ready %s/out && break; sleep 0.02; done
    kill -INT $child; echo "1 + 1" >&3; exec 3>&-; wait $child; echo "code $?" >>%s/out
  ]]):format(dir, t.quote(host.exe), dir, dir, dir, dir, dir)
  os.execute("timeout -k 5 30 sh -c " .. t.quote(script))
  t.equal(t.read(dir .. "/out"), "ready\nmedxai-run: interrupted (SIGINT)\n2\ncode 0\n")
end)

t.test("a reader that goes away ends the program in order", function()
  local dir = t.tmpdir()
  local code = "require 'medxai.host'.at_exit(function(how) io.stderr:write(how, '\\n') end) while true do print "
    .. "'line' io.stdout:flush() end"
  os.execute(("(timeout 20 %s -e %s 2>%s/err; echo $? >%s/code) | head -n 1 >/dev/null"):format(t.quote(host.exe),
    t.quote(code), dir, dir))
  t.equal(t.read(dir .. "/err"), "medxai-run: interrupted (SIGPIPE)\ninterrupted\n")
  t.equal(t.read(dir .. "/code"), "141\n")
end)

for _, signal in ipairs { { "SEGV", 139 }, { "FPE", 136 }, { "ABRT", 134 }, { "BUS", 135 }, { "ILL", 132 } } do
  t.test("SIG" .. signal[1] .. " names the experiment's line and stays fatal", function()
    local dir = t.tmpdir()
    local path = t.write(dir .. "/crash.lua", "local how = ...\nos.execute('kill -' .. how .. ' $PPID')\nwhile true "
      .. "do end\n")
    local r = t.run { path, signal[1] }
    t.ok(r.err:find("medxai-run: " .. path .. ":", 1, true), r.err)
    t.ok(r.err:find(":%d: crash: SIG" .. signal[1] .. " outside any operator%. Files written so far are "
      .. "whole%.\n"), r.err)
    t.equal(r.code, signal[2])
  end)
end

t.test("a crash inside an operator names it", function()
  local dir = t.tmpdir()
  local path = t.write(dir .. "/crash.lua", [[
local torch = require "medxai.torch"
local a = torch.zeros(1600, 1600) -- long enough that the signal falls into the product
io.popen("sleep 0.2; kill -SEGV " .. require "medxai.file".pid())
while true do a:matmul(a) end
]])
  local r = t.run { "--threads", "1", path }
  t.ok(r.err:find("medxai-run: " .. path .. ":4: crash: SIGSEGV in operator matmul. Files written so far are whole.\n",
    1, true), r.err)
  t.equal(r.code, 139)
end)

t.test("a crash in a thread that reads images is reported as that", function()
  local dir = t.tmpdir()
  local path = t.write(dir .. "/crash.lua", [[
    local data = require("medxai").dataset.phantom { n_train = 4000, size_px = 512, cache_mb = 0 }
    local pid = require "medxai.file".pid()
    local sender = io.popen("exec perl " .. arg[1] .. " " .. pid) -- kept: a collected pipe waits for its program
    data:check()]])
  -- waits until the thread is there and sends the signal to it alone: tgkill(pid, thread, SIGSEGV)
  local perl = t.write(dir .. "/crash.pl", [[
    my ($pid, $number) = ($ARGV[0], `uname -m` =~ /x86_64/ ? 234 : 131);
    for (1 .. 2000) {
      for my $task (glob "/proc/$pid/task/*") {
        open(my $f, "<", "$task/comm") or next;
        syscall($number, $pid + 0, ($task =~ /(\d+)$/)[0] + 0, 11), exit if <$f> eq "image worker\n";
      }
      select(undef, undef, undef, 0.01);
    }]])
  if not os.execute "perl -e 1 2>/dev/null" then t.skip "no perl" end
  local r = t.run { "--quiet", path, perl }
  t.equal(r.code, 139)
  local said = "medxai-run: crash: SIGSEGV in a thread that reads images. Files written so far are whole.\n"
  t.ok(r.err:find(said, 1, true), r.err)
end)

t.test("running out of the C stack is reported from another stack", function()
  local dir = t.tmpdir()
  if os.getenv "ASAN_OPTIONS" then t.skip "the sanitizer reports it itself" end
  local program = "local function f(s) return (s:gsub('.', f)) end f 'x'"
  os.execute(("{ (ulimit -s 100; exec %s -e %s); true; } 2>%s/err"):format(t.quote(host.exe), t.quote(program), dir))
  t.ok(t.read(dir .. "/err"):find("medxai-run: (command line):1: crash: SIGSEGV outside any operator.", 1, true),
    t.read(dir .. "/err"))
end)
