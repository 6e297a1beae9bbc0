-- This process among those that train one network together: who it is (told by --devices N, torchrun, srun or mpirun
-- in the environment), the store of texts that they share, and the groups in which they add up tensors.
-- Every process runs the whole experiment. The first one (rank 0) alone owns the run's folder and this terminal; all
-- of them take part in run:fit; every other step is the first one's, and the others wait for its result.
-- It refuses to start processes (--devices does, in host/devices.c), and several of them on CUDA devices.
local canon = require "medxai.base.json"
local check = require "medxai.base.check"
local host = require "medxai.host"

---@class medxai.Processes
---@field rank integer 0 is the first
---@field world integer how many there are
local Processes = {}
Processes.__index = Processes

local processes = {}

-- How long the others are waited for where nothing else is said.
processes.timeout_s = 600

-- ---- who this is ----------------------------------------------------------------------------------------------------

-- The names of torchrun, Open MPI, SLURM, and MPICH or Intel MPI; the innermost launcher comes first, as mpirun and
-- torchrun leave the names of the SLURM step around them. Not SLURM_NTASKS: a batch script without srun has it, too.
local launchers = {
  { "WORLD_SIZE", "RANK" },
  { "OMPI_COMM_WORLD_SIZE", "OMPI_COMM_WORLD_RANK", local_size = "OMPI_COMM_WORLD_LOCAL_SIZE" },
  { "SLURM_STEP_NUM_TASKS", "SLURM_PROCID", nodes = "SLURM_STEP_NUM_NODES" },
  { "PMI_SIZE", "PMI_RANK", local_size = "MPI_LOCALNRANKS" },
}

local function integer(env, name) return name and math.tointeger(tonumber(env(name) or "")) end

-- "cn[07-09,12],login" is cn07.
local function first_host(list)
  local head, rest = list:match "^([^%[,]+)(.*)$"
  local number = rest and rest:match "^%[(%d+)"
  return head and head .. (number or "")
end

-- A port that all processes of one step find by themselves: from what names the step.
local function port_of(env)
  local sum = 0
  local name = (env "SLURM_JOB_ID" or "") .. "." .. (env "SLURM_STEP_ID" or "") .. (env "PMIX_NAMESPACE" or "")
  for byte in name:gmatch "." do sum = (sum * 31 + byte:byte()) % 20000 end
  return 20000 + sum
end

local function address(env, names, world)
  local given = env "MASTER_ADDR"
  if given then return given end
  if integer(env, names.local_size) == world or integer(env, names.nodes) == 1 then return "127.0.0.1" end
  local list = names.nodes and (env "SLURM_STEP_NODELIST" or env "SLURM_JOB_NODELIST")
  local first = list and first_host(list)
  if not first then
    check.fail("processes", "the address of the first of %d processes is not known. Set MASTER_ADDR and MASTER_PORT.",
      world)
  end
  return first
end

--- Who this process is among how many.
---@param env? fun(name: string): string|nil where names are looked up (default: os.getenv)
---@return { rank: integer, world: integer, host?: string, port?: integer, prefix?: string, serves?: boolean }
function processes.identity(env)
  env = env or os.getenv
  for _, names in ipairs(launchers) do
    local world, rank = integer(env, names[1]), integer(env, names[2])
    if world and rank then
      if world < 1 or rank < 0 or rank >= world then
        check.fail("processes", "%s is %d and %s is %d (expected a rank from 0, below the number of processes).",
          names[2], rank, names[1], world)
      end
      if world == 1 then break end
      -- torchrun keeps the store; a restart has keys of its own
      local agent = env "TORCHELASTIC_USE_AGENT_STORE" == "True"
      return { rank = rank, world = world, host = address(env, names, world),
        port = integer(env, "MASTER_PORT") or port_of(env), serves = rank == 0 and not agent,
        prefix = agent and ("worker/attempt_%s/medxai/"):format(env "TORCHELASTIC_RESTART_COUNT" or "0") or "medxai/" }
    end
  end
  return { rank = 0, world = 1 }
end

-- ---- the store ------------------------------------------------------------------------------------------------------

local current -- false: one process

local function set(self, key, text) self.store:set(self.prefix .. key, text) end
local function get(self, key, wait_s) return self.store:get(self.prefix .. key, wait_s) end

-- What another process said when it failed; "" where none did, or the store has gone with the first one.
local function last_words(self)
  for rank = 0, self.world - 1 do
    if rank ~= self.rank then
      local ok, text = pcall(get, self, "failed/" .. rank, 0.2)
      if ok and text then return (" Process %d (rank %d) said: %s"):format(rank + 1, rank, text) end
      if not ok then return " The first one is gone." end
    end
  end
  return ""
end

--- Raises an error of another process' absence in plain words; other errors as they are.
function Processes:lost(problem)
  local text = tostring(problem)
  local low = text:lower()
  local gone = low:find "gloo" or low:find "connection" or low:find "socket" or low:find "timed out"
    or low:find "timeout" or low:find "broken pipe" or low:find "failed to recv"
  if not gone or host.interrupted() then error(problem, 0) end
  check.fail("processes", "another of the %d processes has ended or does not answer (%s).%s Run the same "
    .. "command again: "
    .. "training goes on from the last whole epoch.", self.world, text:gsub("^processes: ", ""), last_words(self))
end

-- Calls f; what fails because another process is gone is said so.
function Processes:call(f, ...)
  local results = table.pack(pcall(f, ...))
  if not results[1] then self:lost(results[2]) end
  return table.unpack(results, 2, results.n)
end

--- The first process' value in all of them: plain data. Waits as long as it takes.
---@param value any of the first process
---@return any
function Processes:share(value)
  self.shared = self.shared + 1
  local key = "shared/" .. self.shared
  if self.rank == 0 then
    self:call(set, self, key, canon.write { value = value })
    return value
  end
  return canon.read(self:wait(key, 0)).value
end

--- Calls f(...) in the first process alone. Gives { plain = boolean, value = the result, where it is plain data } in
--- all, and in the first process the result itself. An error in it is raised in all.
function Processes:of_first(f, ...)
  if self.rank > 0 then
    local shared = self:share()
    if shared.failed then error(shared.failed, 0) end
    return shared
  end
  local ok, result = xpcall(f, check.located, ...)
  if not ok then
    self:share { failed = check.words_of(result) }
    error(result, 0)
  end
  local plain = pcall(canon.write, { value = result })
  return self:share { plain = plain, value = plain and result or nil }, result
end

-- A key's text, waited for as long as it takes (or so many seconds) while the process that sets it has not failed.
function Processes:wait(key, rank, most_s)
  local began = host.now()
  while host.now() - began < (most_s or math.huge) do
    local text = self:call(get, self, key, 5)
    if text then return text end
    local words = self:call(get, self, "failed/" .. rank, 0)
    if words then check.fail("processes", "process %d (rank %d) has failed: %s", rank + 1, rank, words) end
  end
  check.fail("processes", "process %d (rank %d) did not come within %g s.", rank + 1, rank, most_s)
end

--- A text of one of the processes in all of them.
---@param rank integer whose
---@param text string|nil there
function Processes:tell(rank, text)
  self.told = self.told + 1
  local key = "told/" .. self.told
  if self.rank == rank then self:call(set, self, key, text) end
  return self:wait(key, rank)
end

-- The last thing: the first process waits until the others need its store no more.
local function leave(self, state, message)
  if state ~= "finished" then
    pcall(set, self, "failed/" .. self.rank, tostring(message or state))
  elseif self.rank > 0 then
    pcall(set, self, "done/" .. self.rank, "")
  else
    for rank = 1, self.world - 1 do pcall(get, self, "done/" .. rank, 60) end
  end
  self.store:close()
end

local function join(me)
  local core = require("medxai.core").dist
  if (host.options.device or "cpu") ~= "cpu" then
    check.fail("processes", "%d processes train together on processors only (got --device %s). Leave --devices out.",
      me.world, host.options.device)
  end
  local self = setmetatable(me, Processes)
  self.shared, self.told, self.groups = 0, 0, 0
  if self.rank > 0 then host.options.quiet = true end
  local ok, store = pcall(core.store, me.host, me.port, me.serves, processes.timeout_s)
  if not ok then
    check.fail("processes", "process %d of %d cannot join the others at %s, port %d (%s). Is the same libtorch there?",
      me.rank + 1, me.world, me.host, me.port, tostring(store):gsub("^processes: ", ""))
  end
  self.store = store
  host.at_exit(function(state, message) leave(self, state, message) end)
  local here = require("medxai.core").tensor.torch_version()
  local there = self:share(here)
  if there ~= here then
    check.fail("processes", "this process has libtorch %s and the first one %s. Start all with the same build.", here,
      there)
  end
  return self
end

--- The processes that this one belongs to, joined at the first call; nil where it is alone.
---@return medxai.Processes|nil
function processes.current()
  if current == nil then
    local me = host.options.devices == 1 and { world = 1 } or processes.identity()
    current = me.world > 1 and join(me)
  end
  return current or nil
end

--- How many processes train together; nil where this one is alone.
function processes.world() return current and current.world or nil end

-- ---- steps of the first process -------------------------------------------------------------------------------------

local alone = { grid = true, study = true, sanity = true }

local function elsewhere(verb)
  local function refuse()
    check.fail(verb, "its result is in the first process alone (this is another one). Use it where rank 0 is.")
  end
  return setmetatable({}, { __index = refuse, __newindex = refuse, __call = refuse, __pairs = refuse })
end

--- A step that the first process does alone, f(...): its plain result in all of them.
---@param verb string
---@param f fun(...): any
function Processes:first(verb, f, ...)
  if alone[verb] then
    check.fail(verb, "its cells are shared between commands, not by processes of one training. Start the command "
      .. "several times with --devices 1 (in a folder that all of them see).")
  end
  local shared, result = self:of_first(f, ...)
  if self.rank == 0 then return result end
  if shared.plain then return shared.value end
  return elsewhere(verb)
end

-- ---- groups ---------------------------------------------------------------------------------------------------------

---@class medxai.ProcessGroup
---@field rank integer
---@field world integer
---@field native table core.dist's group
local Group = {}
Group.__index = Group

--- A group of all processes that add up tensors. Closed as a <close> variable: after an error nothing is waited for.
---@param timeout_s number how long one process waits for the others
---@return medxai.ProcessGroup
function Processes:group(timeout_s)
  self.groups = self.groups + 1
  -- all meet here, so that timeout_s holds for the collectives alone
  local place = ("here/%d/"):format(self.groups)
  self:call(set, self, place .. self.rank, "")
  for rank = 0, self.world - 1 do self:wait(place .. rank, rank, math.max(timeout_s, processes.timeout_s)) end
  local where = os.getenv "GLOO_SOCKET_IFNAME" or (self.host == "127.0.0.1" or self.host == "localhost")
    and "127.0.0.1" or nil
  local native = self:call(self.store.group, self.store, self.prefix .. "group/" .. self.groups, where, self.rank,
    self.world, timeout_s)
  return setmetatable({ native = native, rank = self.rank, world = self.world, processes = self }, Group)
end

function Group:close() self.native:close() end
function Group:__close(problem)
  if problem ~= nil then self.native:abandon() end
  self.native:close()
end

--- The sum over all processes, in place.
function Group:all_reduce(tensor) return self.processes:call(self.native.all_reduce, self.native, tensor) end

--- The first process' values, in place.
function Group:broadcast(tensor) return self.processes:call(self.native.broadcast, self.native, tensor) end

--- One number of each process: a list in the order of ranks, in all of them.
---@param value number
---@return number[]
function Group:gather(value)
  local torch = require "medxai.torch"
  local list = {}
  for rank = 0, self.world - 1 do list[rank + 1] = rank == self.rank and value + 0.0 or 0.0 end
  local scope <close> = require("medxai.core").memory.scope() -- luacheck: ignore
  return self:all_reduce(torch.tensor(list, { dtype = "float64" })):tolist()
end

--- One tensor of each process, all of the same shape and dtype: (world, ...), in all of them.
function Group:stack(tensor)
  local torch = require "medxai.torch"
  local shape = { self.world, table.unpack(tensor.shape) }
  local all = torch.zeros(shape, { dtype = tensor.dtype })
  all[self.rank]:copy_(tensor)
  return self:all_reduce(all)
end

return processes
