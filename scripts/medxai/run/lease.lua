-- Claims on work that several processes share through a folder, on one machine or on many. A claim is the file
-- claims/<name>.<generation>, made by one process alone; the highest generation owns. A process that works has a file
-- in claims/workers/ whose first line a thread raises (heart.h). A claim is free when its owner gave it back, when the
-- kernel of this machine says that the owner is gone, when SLURM has started the owner's job again as this process, or
-- when the owner's counter stood still for 120 s by the watcher's own clock. Clocks of two machines are never compared,
-- and no lock of a network file system is believed.
-- It refuses to promise that nobody else works on what is claimed: a process that was only stopped may wake up. It asks
-- is_mine() before it writes, and results are written by files.first, so that the first one counts.
local canon = require "medxai.base.json"
local check = require "medxai.base.check"
local file = require "medxai.file"
local files = require "medxai.base.files"
local host = require "medxai.host"

local lease = {}

lease.takeover_s = 120.0
lease.torn_s = 10.0 -- a claim is written at once after it was made: one that stays empty is of a process that died
local longest_beat_s = 10.0

---@class medxai.Leases one process' share in the claims of a folder
---@field worker string this process' name among all that share the folder
local Leases = {}
Leases.__index = Leases

---@class medxai.Held a claim that is held: close it, or leave its scope, to give it back
local Held = {}
Held.__index = Held

-- ---- who this is ----------------------------------------------------------------------------------------------------

local function first_word(path)
  local f = io.open(path)
  local word = f and (f:read "a" or ""):match "%S+"
  if f then f:close() end
  return word
end

local function random_hex()
  local f = io.open("/dev/urandom", "rb")
  local bytes = f and f:read(6)
  if f then f:close() end
  bytes = bytes or string.pack("<d", host.now()):sub(1, 6)
  return (bytes:gsub(".", function(c) return string.format("%02x", c:byte()) end))
end

-- The job of SLURM that this process is part of, and how often it was started again. A step of an array has both
-- numbers.
local function slurm_job()
  local job = os.getenv "SLURM_JOB_ID"
  if not job then return nil end
  return { job = job, rank = os.getenv "SLURM_PROCID" or "0", node = os.getenv "SLURMD_NODENAME",
    array_job = os.getenv "SLURM_ARRAY_JOB_ID", array_task = os.getenv "SLURM_ARRAY_TASK_ID",
    restarts = math.tointeger(tonumber(os.getenv "SLURM_RESTART_COUNT")) or 0 }
end

local function owner_of_this(beat_s)
  local machine = first_word "/proc/sys/kernel/hostname" or "unknown"
  local name = string.format("%s-%d-%s", machine:gsub("[^%w_%-]", "_"):sub(1, 40), file.pid(), random_hex())
  return { worker = name, machine = machine, pid = file.pid(), beat_s = beat_s, slurm = slurm_job(),
    boot = first_word "/proc/sys/kernel/random/boot_id" or "unknown " .. name }
end

-- ---- claims on disk -------------------------------------------------------------------------------------------------

local function path_of(self, name, generation) return self.folder .. "/" .. name .. "." .. generation end

-- Lists the folder: the highest generation of each name, and the lower ones that are still there.
local function list(self)
  local lower = {}
  for _, entry in ipairs(files.list(self.folder)) do
    local name, text = entry:match "^(.+)%.(%d+)$"
    local generation = math.tointeger(tonumber(text))
    if generation then
      local known = self.known[name] or 0
      lower[name] = lower[name] or {}
      table.insert(lower[name], generation)
      if generation > known then self.known[name] = generation end
    end
  end
  return lower
end

-- What was remembered of a name whose claims were removed.
local function forget(self, name)
  for generation = 1, self.known[name] or 0 do self.owners[path_of(self, name, generation)] = nil end
  self.known[name] = nil
end

-- The highest generation of a name, 0 where nobody has claimed it yet, or where it was cleared: the folder tells, not
-- memory.
local function newest(self, name)
  local generation = self.known[name] or 0
  while files.exists(path_of(self, name, generation + 1)) do generation = generation + 1 end
  if generation > 0 and not files.exists(path_of(self, name, generation)) then
    forget(self, name)
    list(self)
    generation = self.known[name] or 0
  end
  self.known[name] = generation
  return generation
end

-- Makes a claim; false where another process was faster. What it supersedes is removed. One that gives back may fail on
-- a full disk: then the end of the process frees it.
local function make(self, name, generation, content)
  local path = path_of(self, name, generation)
  local made, message, code = file.create(path, canon.write(content) .. "\n")
  if made == nil and code ~= "EEXIST" and not content.free then files.refuse(message, code) end
  if made == nil then return false end
  local lower = list(self)[name] or {}
  if self.known[name] > generation then -- what was looked at had been superseded long ago
    files.remove(path)
    return false
  end
  for _, old in ipairs(lower) do
    if old < generation then file.remove(path_of(self, name, old)) end
  end
  return true
end

-- Who holds a claim; nil where its maker died before it was written, or where it was superseded meanwhile.
local function owner_of(self, name, generation)
  local path = path_of(self, name, generation)
  if self.owners[path] then return self.owners[path] end
  local ok, owner = pcall(files.read_data, path)
  if not ok or type(owner) ~= "table" then return nil end
  self.owners[path] = owner
  return owner
end

-- ---- who lives ------------------------------------------------------------------------------------------------------

-- True where `text` has been seen under this key, unchanged, for `seconds` of this process' own clock.
local function stands_still(self, key, text, seconds)
  local seen = self.seen[key]
  if not seen or seen.text ~= text then
    self.seen[key] = { text = text, since = host.now(), moved = seen ~= nil }
    return false
  end
  return host.now() - seen.since > seconds
end

-- Whether SLURM has ended an owner: it is an earlier start of this very task.
local function was_requeued(owner, me)
  local a, b = owner.slurm, me.slurm
  return a and b and a.job == b.job and a.rank == b.rank and a.restarts < b.restarts
end

-- "dead" or "alive" where the kernel knows: an owner of this boot of this machine, whatever its container. A file that
-- is gone was removed by its process at the end, or by who found that process dead.
local function kernel_says(self, owner, path)
  if owner.boot ~= self.me.boot or not owner.locked then return nil end
  if not files.exists(path) then return "dead" end
  local lock, _, code = file.lock(path)
  if lock then
    lock:close()
    return "dead"
  end
  return code == "EAGAIN" and "alive" or nil
end

-- Whether an owner is "dead", "alive" (known to be), or "unknown" so far.
local function state_of(self, owner)
  if owner.worker == self.worker then return "alive" end
  if was_requeued(owner, self.me) then return "dead" end
  local path = self.folder .. "/workers/" .. owner.worker
  local said = kernel_says(self, owner, path)
  if said == "dead" then return "dead" end
  local counter = (files.read(path) or "gone"):match "^[^\n]*"
  if stands_still(self, owner.worker, counter,
      math.max(self.takeover_s, 3 * (owner.beat_s or 0))) then return "dead" end
  return (said == "alive" or self.seen[owner.worker].moved) and "alive" or "unknown"
end

-- The same, asked again only after a while: a pass over many claims meets the same owners again and again.
local function checked_state(self, owner)
  local last = self.verdicts[owner.worker]
  if last and last.state ~= "dead" and host.now() - last.at < self.me.beat_s / 10 then return last.state end
  local state = state_of(self, owner)
  self.verdicts[owner.worker] = { state = state, at = host.now() }
  return state
end

local function claim_state(self, name, generation)
  local owner = owner_of(self, name, generation)
  if owner then return owner.free and "free" or checked_state(self, owner), owner end
  list(self)
  if self.known[name] > generation then return "alive" end
  -- made and not written: its process died in between, and nobody knows which one it was
  return stands_still(self, "claim " .. name .. "." .. generation, "torn", math.min(self.takeover_s, lease.torn_s))
    and "dead" or "unknown"
end

-- ---- what others call -----------------------------------------------------------------------------------------------

--- Opens the claims of a folder; this process is a worker there until close().
---@param folder string claims/ is made in it
---@param options? { takeover_s: number } seconds after which a counter that stands still is a dead process' (120)
---@return medxai.Leases
function lease.open(folder, options)
  local takeover_s = options and options.takeover_s or lease.takeover_s
  local me = owner_of_this(math.min(longest_beat_s, takeover_s / 12))
  local self = setmetatable({ folder = files.join(folder, "claims"), takeover_s = takeover_s, me = me,
    worker = me.worker, known = {}, owners = {}, seen = {}, verdicts = {} }, Leases)
  files.mkdir(self.folder .. "/workers")
  local heart, locked, code = file.heart(self.folder .. "/workers/" .. me.worker, canon.write(me) .. "\n", me.beat_s)
  if not heart then files.refuse(locked, code) end
  self.heart, me.locked = heart, locked
  list(self)
  return self
end

--- Claims a piece of work. nil where another process has it; then also what is known of that process ("alive", or
--- "unknown": watched since the first time that it was asked for) and its description.
---@param name string letters, digits, '_', '-'
---@return medxai.Held|nil
---@return string|nil state
---@return table|nil owner
function Leases:take(name)
  local generation = newest(self, name)
  if generation > 0 then
    local state, owner = claim_state(self, name, generation)
    if state == "alive" or state == "unknown" then return nil, state, owner end
  end
  if not make(self, name, generation + 1, self.me) then return nil, "unknown" end
  return setmetatable({ leases = self, name = name, generation = generation + 1 }, Held)
end

--- Claims a piece of work, waiting as long as another process has it.
---@param most_s? number the longest pause between two questions (2)
---@return medxai.Held
function Leases:wait(name, most_s)
  local pause = self:pauses(most_s or 2.0)
  while true do
    local held = self:take(name)
    if held then return held end
    pause()
  end
end

--- A function that waits, each time about twice as long as the time before, up to `most_s` seconds. Two processes do
--- not wait equally long, and math.random stays as it was.
function Leases:pauses(most_s)
  local state = tonumber(self.worker:sub(-8), 16) or 1
  local next_s = 0.1
  return function()
    state = (state * 1103515245 + 12345) % 2147483648
    files.sleep(next_s * (0.75 + 0.5 * state / 2147483648))
    next_s = math.min(most_s, 2 * next_s)
  end
end

--- Stops the heart. Claims that are still held are free at once for processes of this machine, for others after a
--- while.
function Leases:close() self.heart:close() end
Leases.__close = Leases.close

--- Whether the claim has not been taken over.
---@return boolean
function Held:is_mine()
  local leases = self.leases
  return files.exists(path_of(leases, self.name, self.generation))
    and not files.exists(path_of(leases, self.name, self.generation + 1))
end

--- Gives the claim back. Safe twice.
function Held:close()
  if self.is_closed then return end
  self.is_closed = true
  if self:is_mine() then
    make(self.leases, self.name, self.generation + 1, { free = true, worker = self.leases.worker })
  end
end
Held.__close = Held.close

-- ---- for people -----------------------------------------------------------------------------------------------------

--- How a message names an owner: "process 12 on node3".
function lease.words(owner)
  if not owner or not owner.pid then return "another process" end
  return string.format("process %d on %s", owner.pid, owner.machine)
end

-- Seconds since a file was written, by this machine's clock and that of the file's own server: for people only.
local function age_of(path)
  local stat = file.stat(path)
  return stat and math.max(0, os.time() - stat.mtime) or nil
end

--- The processes that share a folder, in order of name, without touching anything there:
--- { worker, machine, pid, slurm, state = "alive" | "dead" | "silent", seen_s, holds = names of claims }.
---@param folder string
---@return table[]
function lease.workers(folder)
  local claims = files.join(folder, "claims")
  local self = { folder = claims, known = {}, owners = {}, me = owner_of_this(1.0) }
  list(self)
  local by_worker, workers = {}, {}
  for _, name in ipairs(files.list(claims .. "/workers")) do
    local path = claims .. "/workers/" .. name
    local ok, owner = pcall(canon.read, (files.read(path) or ""):match "\n(.*)" or "", path)
    if ok and type(owner) == "table" then
      owner.locked = true
      local age = age_of(path)
      local said = kernel_says(self, owner, path)
      owner.state = said or (age and age > lease.takeover_s and "silent" or "alive")
      owner.seen_s, owner.holds = age, {}
      by_worker[name], workers[#workers + 1] = owner, owner
    end
  end
  for _, name in ipairs(check.sorted_keys(self.known)) do
    local owner = owner_of(self, name, self.known[name])
    local worker = owner and not owner.free and by_worker[owner.worker]
    if worker then table.insert(worker.holds, name) end
  end
  return workers
end

--- Removes the files of processes that have died, as far as this one knows.
function Leases:tidy()
  for _, name in ipairs(files.list(self.folder .. "/workers")) do
    local path, verdict = self.folder .. "/workers/" .. name, self.verdicts[name]
    local ok, owner = pcall(canon.read, (files.read(path) or ""):match "\n(.*)" or "", path)
    if ok and type(owner) == "table" and name ~= self.worker then
      owner.locked = true
      if verdict and verdict.state == "dead" or kernel_says(self, owner, path) == "dead" then file.remove(path) end
    end
  end
end

--- Removes the claims on work that is all done. Who still holds one has lost it. Names of anything else stay: their
--- generations go on rising.
---@param is_over fun(name: string): any whether a name is that of such work
function Leases:clear(is_over)
  for name, generations in pairs(list(self)) do
    if is_over(name) then
      for _, generation in ipairs(generations) do file.remove(path_of(self, name, generation)) end
      forget(self, name)
    end
  end
end

return lease
