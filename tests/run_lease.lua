-- Claims that processes of one machine and of several share: who owns, who takes over, and that nothing is lost.
local t = require "t"
local file = require "medxai.file"
local files = require "medxai.base.files"
local host = require "medxai.host"
local lease = require "medxai.run.lease"

local exe = t.quote(host.exe)

-- A child that holds the claim "cell" in dir and prints its number; `more` is code that runs before and after.
local function holder(before, after)
  return ([[
    local lease, file = require "medxai.run.lease", require "medxai.file"
    local leases = lease.open(arg[1], { takeover_s = tonumber(arg[2]) })
    %s
    local held = assert(leases:take "cell")
    print(file.pid()) io.stdout:flush()
    %s
    while true do require "medxai.host".sleep(100) end]]):format(before or "", after or "")
end

-- Starts it; returns its process id.
local function start(dir, takeover_s, before, after, wrapped)
  local pipe = io.popen(("%s %s -e %s %s %s 2>&1 &"):format(wrapped or "", exe, t.quote(holder(before, after)),
    t.quote(dir), takeover_s))
  local pid = pipe:read "l"
  return t.ok(tonumber(pid), "the holder did not start: " .. tostring(pid)), pipe
end

local function kill(signal, pid) os.execute(("kill -%s %d"):format(signal, pid)) end

-- Waits until f gives a true value; what a slow machine needs at most.
local function eventually(f, what)
  local until_ = host.now() + 60
  while host.now() < until_ do
    local value = f()
    if value then return value end
    files.sleep(0.02)
  end
  error(what, 2)
end

t.test("a claim is one process'; given back, it is free at once; the highest generation owns", function()
  local dir = t.tmpdir()
  local a <close> = lease.open(dir)
  local b <close> = lease.open(dir)
  local held = t.ok(a:take "cell")
  local no, state, owner = b:take "cell"
  t.equal({ no, state, owner.pid, owner.worker }, { nil, "alive", file.pid(), a.worker })
  t.ok(held:is_mine())
  held:close()
  held:close()
  t.ok(not held:is_mine())
  local again = t.ok(b:take "cell")
  t.equal({ again.generation, (a:take "cell") }, { 3, nil })
  t.equal(files.list(dir .. "/claims"), { "cell.3", "workers" })
  t.ok(a:take "other")
end)

t.test("the claim of a process of this machine that was killed is free at once", function()
  local dir = t.tmpdir()
  local pid, pipe <close> = start(dir, 1000)
  local mine <close> = lease.open(dir, { takeover_s = 1000 })
  local no, state = mine:take "cell"
  t.equal({ no, state }, { nil, "alive" })
  kill("KILL", pid)
  local held = eventually(function() return mine:take "cell" end, "the claim of a dead process was not free")
  t.equal(held.generation, 2)
end)

t.test("the same where what the dead process left was tidied up", function()
  local dir = t.tmpdir()
  local pid, pipe <close> = start(dir, 1000)
  kill("KILL", pid)
  local mine <close> = lease.open(dir, { takeover_s = 1000 })
  eventually(function()
    mine:tidy()
    return #files.list(dir .. "/claims/workers") == 1
  end, "the dead process' file stays")
  t.ok(mine:take "cell")
end)

t.test("on another machine the counter tells: as long as it moves the owner lives, when it stands still its "
  .. "claim is free", function()
  local dir = t.tmpdir()
  local pid, pipe <close> = start(dir, 1.2, "leases.me.boot = 'another machine'")
  local mine <close> = lease.open(dir, { takeover_s = 1.2 })
  local began = host.now()
  while host.now() - began < 3 do -- more than twice the time after which a dead process' claim is free
    t.equal(mine:take "cell", nil)
    files.sleep(0.1)
  end
  t.equal(select(2, mine:take "cell"), "alive")
  kill("KILL", pid)
  began = host.now()
  eventually(function() return mine:take "cell" end, "the claim of a dead process was not free")
  t.ok(host.now() - began > 0.5, "taken before the counter stood still for long")
end)

t.test("no clock is read: an owner whose files are from tomorrow, or from last year, lives as long as "
  .. "it beats", function()
  for _, date in ipairs { "tomorrow", "last year" } do
    local dir = t.tmpdir()
    local pid, pipe <close> = start(dir, 1.2, "leases.me.boot = 'another machine'")
    local mine <close> = lease.open(dir, { takeover_s = 1.2 })
    local began = host.now()
    while host.now() - began < 2.5 do
      os.execute(("touch -d '%s' %s/claims/* %s/claims/workers/*"):format(date, t.quote(dir), t.quote(dir)))
      t.equal(mine:take "cell", nil)
      files.sleep(0.1)
    end
    kill("KILL", pid)
    eventually(function()
      os.execute(("touch -d '%s' %s/claims/* %s/claims/workers/*"):format(date, t.quote(dir), t.quote(dir)))
      return mine:take "cell"
    end, "the claim of a dead process was not free")
  end
end)

t.test("a process that was stopped loses its claim, and learns so when it wakes up", function()
  local dir = t.tmpdir()
  local pid, pipe <close> = start(dir, 1.0, nil, [[
    while held:is_mine() do require "medxai.host".sleep(0.02) end
    print "lost" io.stdout:flush()]])
  local mine <close> = lease.open(dir, { takeover_s = 1.0 })
  kill("STOP", pid)
  local held = eventually(function() return mine:take "cell" end, "the claim of a stopped process was not free")
  kill("CONT", pid)
  t.equal({ pipe:read "l", held:is_mine() }, { "lost", true })
  kill("KILL", pid)
end)

t.test("a job that SLURM has started again takes the claims of its earlier start at once", function()
  local dir = t.tmpdir()
  local job = "leases.me.slurm = { job = '7', rank = '0', restarts = %d } leases.me.boot = %q"
  local pid, pipe <close> = start(dir, 1000, job:format(0, "node1"))
  local mine <close> = lease.open(dir, { takeover_s = 1000 })
  local other <close> = lease.open(dir, { takeover_s = 1000 })
  mine.me.slurm, other.me.slurm = { job = "7", rank = "0", restarts = 1 }, { job = "8", rank = "0", restarts = 1 }
  t.equal(other:take "cell", nil)
  t.ok(mine:take "cell")
  kill("KILL", pid)
end)

t.test("a claim whose maker died before it was written is free after a while", function()
  local dir = t.tmpdir()
  files.write(dir .. "/claims/cell.4", "")
  local mine <close> = lease.open(dir, { takeover_s = 0.3 })
  t.equal(mine:take "cell", nil)
  t.equal(eventually(function() return mine:take "cell" end, "never free").generation, 5)
end)

t.test("who looked at a generation that was superseded long ago does not own", function()
  local dir = t.tmpdir()
  local a <close> = lease.open(dir)
  local b <close> = lease.open(dir)
  a:take "cell":close()
  t.equal(b:take "nothing" ~= nil, true)
  b.known.cell = 1 -- as if it had looked then
  local held = t.ok(a:take "cell")
  t.equal({ held.generation, (b:take "cell") }, { 3, nil })
  t.equal(b:take "cell", nil)
  t.equal({ held:is_mine(), files.list(dir .. "/claims") }, { true, { "cell.3", "nothing.1", "workers" } })
end)

t.test("a file that another process removes at the same moment is removed, and no error", function()
  local dir, exists = t.tmpdir(), files.exists
  local restore <close> = setmetatable({}, { __close = function() files.exists = exists end }) -- luacheck: ignore
  files.exists = function() return true end -- luacheck: ignore
  files.remove(dir .. "/gone")
  files.remove(dir .. "/gone/deeper")
end)

t.test("a claim that was made and never written is taken over soon, however long takeover_s is", function()
  local dir = t.tmpdir()
  local soon = lease.torn_s
  lease.torn_s = 0.05
  local restore <close> = setmetatable({}, { __close = function() lease.torn_s = soon end }) -- luacheck: ignore
  local a <close> = lease.open(dir, { takeover_s = 1000 })
  t.write(dir .. "/claims/cell.1", "")
  t.equal({ a:take "cell" }, { nil, "unknown" })
  local began, held = require("medxai.host").now(), nil
  repeat held = a:take "cell" until held or require("medxai.host").now() - began > 60
  t.equal(t.ok(held).generation, 2)
  held:close()
end)

t.test("claims on work that is over are removed, others stay; what was cleared can be claimed again at once, "
  .. "by anybody", function()
  local dir = t.tmpdir()
  local a <close> = lease.open(dir)
  a:take "tables":close()
  a:take "cell":close()
  local b <close> = lease.open(dir) -- knows both
  t.ok(b:take "cell"):close()
  a:clear(function(name) return name == "cell" end)
  t.equal(files.list(dir .. "/claims"), { "tables.2", "workers" })
  local held = t.ok(b:take "cell", "waits for a claim that is not there")
  t.equal({ held.generation, (a:take "cell"), held:is_mine() }, { 1, nil, true })
  held:close()
  t.equal(t.ok(a:take "tables").generation, 3)
  t.equal(t.ok(a:take "cell").generation, 3)
end)

t.test("two containers with the same process ids exclude each other, and see each other's death", function()
  local space = "unshare -p -f --mount-proc"
  if not os.execute(space .. " true 2>/dev/null") then t.skip "no process spaces of one's own here" end
  local dir = t.tmpdir()
  local pid, pipe <close> = start(dir, 1000, nil, nil, space)
  t.ok(pid < 10, "process " .. pid .. " is in no space of its own")
  local code = [[
    local leases = require "medxai.run.lease".open(arg[1], { takeover_s = 1000 })
    local held, state = leases:take "cell"
    print(require "medxai.file".pid(), state)]]
  local r = t.run { exe = "/bin/sh", "-c", ("exec %s %s -e %s %s"):format(space, exe, t.quote(code), t.quote(dir)) }
  t.equal(r.out, pid .. "\talive\n", r.err)
  os.execute(("for p in $(grep -lsF %s /proc/[0-9]*/cmdline); do p=${p#/proc/}; p=${p%%/cmdline}; "
    .. "[ $p = $$ ] || kill -9 $p; done 2>/dev/null"):format(t.quote(dir)))
  local mine <close> = lease.open(dir, { takeover_s = 1000 })
  eventually(function() return mine:take "cell" end, "the claim of a dead container was not free")
end)

t.test("a full disk is an error that says so, and no half file stays; a claim that cannot be given back ends with "
  .. "its process", function()
  local dir = t.tmpdir()
  local code = [[require "medxai.run.lease".open(arg[1])]]
  local r = t.run { exe = "/bin/sh", "-c",
    ("(ulimit -f 0; exec %s -e %s %s) 2>&1 | cat"):format(exe, t.quote(code), t.quote(dir)) }
  t.ok(r.out:find "files: cannot create '.*/claims/workers/.*': File too large%. Raise the file size limit", r.out)
  t.equal(files.list(dir .. "/claims/workers"), {})
  local tight = [[
    local leases = require "medxai.run.lease".open(arg[1])
    local held = leases:take "cell"
    local name = "/claims/cell.2"
    assert(os.execute("mkdir " .. arg[1] .. name)) -- in the way, as a full disk is
    os.remove(arg[1] .. "/claims/cell.1")
    held:close()
    print "ended"]]
  t.equal(t.run { "-e", tight, dir }.out, "ended\n")
end)

t.test("of several that write a result the first one counts, and it is whole", function()
  local dir = t.tmpdir()
  t.equal({ files.first(dir .. "/a/r", "one"), files.first(dir .. "/a/r", "two"), files.read(dir .. "/a/r") },
    { true, false, "one" })
  t.equal(files.list(dir .. "/a"), { "r" })
  local code = [[local files, n = require "medxai.base.files", 0
    for i = 1, 200 do n = n + (files.first(arg[1] .. "/" .. i, arg[2]:rep(5000)) and 1 or 0) end
    print(n)]]
  local words = {}
  for i = 1, 4 do
    words[i] = ("%s -e %s %s %d >%s/out%d &"):format(exe, t.quote(code), t.quote(dir .. "/many"), i, t.quote(dir), i)
  end
  t.run { exe = "/bin/sh", "-c", table.concat(words, " ") .. " wait" }
  local sum = 0
  for i = 1, 4 do sum = sum + tonumber(t.read(dir .. "/out" .. i)) end
  t.equal({ sum, #files.list(dir .. "/many") }, { 200, 200 })
  for i = 1, 200 do
    local text = files.read(dir .. "/many/" .. i)
    t.equal(text, text:sub(1, 1):rep(5000))
  end
end)

-- ---- many workers ---------------------------------------------------------------------------------------------------

-- A worker: arg = folder, cells, seconds of work, takeover_s, its number, workers, "machines" where each is one of its
-- own.
local worker = [[
  local lease, files, host = require "medxai.run.lease", require "medxai.base.files", require "medxai.host"
  local dir, n, work, takeover_s, index, workers = arg[1], tonumber(arg[2]), tonumber(arg[3]), tonumber(arg[4]), tonumber(arg[5]), tonumber(arg[6])
  local leases <close> = lease.open(dir, { takeover_s = takeover_s })
  if arg[7] == "machines" then leases.me.boot = "machine " .. index end
  local pause, left = nil, n
  local function done() return files.list(dir .. "/done") end
  while true do
    local is_done, worked = {}, false
    for _, name in ipairs(done()) do is_done[tonumber(name) or name] = true end
    left = 0
    for k = 0, n - 1 do
      local i = (index * n // workers + k) % n + 1
      if not is_done[i] then
        left = left + 1
        local held <close> = leases:take("cell" .. i)
        if held and not files.exists(dir .. "/done/" .. i) then
          files.append_line(dir .. "/trained-" .. leases.worker, tostring(i))
          host.sleep(work)
          if not files.first(dir .. "/done/" .. i, "result " .. i) then
            files.append_line(dir .. "/twice-" .. leases.worker, tostring(i))
          end
          worked = true
          break
        end
      end
    end
    if left == 0 then break end
    pause = not worked and pause or leases:pauses(30)
    if not worked then pause() end
  end]]

local function simulate(options)
  local dir = t.tmpdir()
  local script, lines = t.write(dir .. "/worker.lua", worker), { "#!/bin/bash", "cd " .. t.quote(dir), "mkdir done" }
  for k = 0, options.workers - 1 do
    lines[#lines + 1] = ("%s %s . %d %s %s %d %d %s >out%d 2>&1 & pids[%d]=$!"):format(exe, t.quote(script),
      options.cells, options.seconds, options.takeover_s, k, options.workers,
      options.machines and "machines" or "", k, k)
  end
  lines[#lines + 1] = "start=$(date +%s%N)"
  for k = 1, options.kills do -- after a share of the results, whatever the machine's speed
    lines[#lines + 1] = ("until [ $(ls done | wc -l) -ge %d ]; do sleep 0.02; done; kill -9 ${pids[%d]}"):format(
      k * options.cells // (options.kills + 2), (k * 7919) % options.workers)
  end
  lines[#lines + 1] = "bad=0; for p in ${pids[@]}; do wait $p || bad=$((bad+1)); done"
  lines[#lines + 1] = "echo $bad $(ls done | wc -l) $(cat trained-* | wc -l) $(cat twice-* 2>/dev/null | wc -l) $(( "
    .. "($(date +%s%N) - start) / 1000000 ))"
  t.write(dir .. "/go.sh", table.concat(lines, "\n") .. "\n")
  local r = t.run { exe = "/bin/bash", dir .. "/go.sh", timeout = 900 }
  local bad, done, trained, twice, ms = r.out:match "(%d+) (%d+) (%d+) (%d+) (%d+)\n$"
  t.ok(bad, r.out .. r.err)
  for k = 0, options.workers - 1 do t.equal(t.read(dir .. "/out" .. k), "", "worker " .. k) end
  for i = 1, options.cells do t.equal(files.read(dir .. "/done/" .. i), "result " .. i) end
  local out = { killed = tonumber(bad), done = tonumber(done), trained = tonumber(trained), twice = tonumber(twice),
    seconds = tonumber(ms) / 1000 }
  if t.verbose then print("simulation", out.killed, out.done, out.trained, out.twice, out.seconds) end
  return out
end

-- Simulates: every cell is done, none is recorded twice, and cells are trained again at most as often as workers die.
local function none_lost(options)
  local r = simulate(options)
  t.equal({ r.done, r.twice }, { options.cells, 0 })
  t.ok(r.trained <= options.cells + r.killed and r.killed <= options.kills, r.trained)
end

t.test("workers of one machine, some of them killed: no cell is lost, none is done twice but those of "
  .. "the killed", function()
  none_lost { workers = 6, cells = 24, seconds = 0.1, kills = 3, takeover_s = 1000 }
end)

t.test("workers of as many machines, some of them killed: the same", function()
  local r = simulate { workers = 4, cells = 16, seconds = 0.1, kills = 2, takeover_s = 4, machines = true }
  t.equal(r.done, 16)
  t.ok(r.trained <= 16 + r.killed + r.twice and r.killed <= 2, r.trained)
end)

t.long("64 workers, 200 cells, 12 of them killed: none lost, none recorded twice, trained again at most as often "
  .. "as killed", function()
  none_lost { workers = 64, cells = 200, seconds = 1, kills = 12, takeover_s = 1000 }
end)

t.long("the same where each is on a machine of its own", function()
  none_lost { workers = 64, cells = 200, seconds = 1, kills = 12, takeover_s = 30, machines = true }
end)
