-- Several processes: who they are, how they share a batch, and that their sums are those of one process in float64.
local t = require "t"
local files = require "medxai.base.files"
local parallel = require "medxai.train.parallel"
local processes = require "medxai.run.processes"

local function among(env) return processes.identity(function(name) return env[name] end) end

t.test("a process without a launcher is alone, and so is one of one", function()
  t.equal(among {}, { rank = 0, world = 1 })
  t.equal(among { WORLD_SIZE = "1", RANK = "0" }, { rank = 0, world = 1 })
  t.equal(among { SLURM_NTASKS = "8", SLURM_PROCID = "0" }, { rank = 0, world = 1 }, "a batch script without srun")
end)

t.test("torchrun, srun and mpirun tell who a process is; the innermost is believed", function()
  local me = among { WORLD_SIZE = "2", RANK = "1", MASTER_ADDR = "node1", MASTER_PORT = "4000", SLURM_PROCID = "0",
    SLURM_STEP_NUM_TASKS = "1" }
  t.equal(me, { rank = 1, world = 2, host = "node1", port = 4000, serves = false, prefix = "medxai/" })
  me = among { WORLD_SIZE = "2", RANK = "0", MASTER_ADDR = "node1", MASTER_PORT = "4000",
    TORCHELASTIC_USE_AGENT_STORE = "True", TORCHELASTIC_RESTART_COUNT = "3" }
  t.equal({ me.serves, me.prefix }, { false, "worker/attempt_3/medxai/" })
  me = among { SLURM_STEP_NUM_TASKS = "4", SLURM_PROCID = "0", SLURM_STEP_NUM_NODES = "2", SLURM_JOB_ID = "77",
    SLURM_STEP_ID = "1", SLURM_STEP_NODELIST = "cn[07-09,12],login" }
  t.equal({ me.rank, me.world, me.host, me.serves }, { 0, 4, "cn07", true })
  local other = among { SLURM_STEP_NUM_TASKS = "4", SLURM_PROCID = "3", SLURM_STEP_NUM_NODES = "2",
    SLURM_JOB_ID = "77", SLURM_STEP_ID = "1", SLURM_STEP_NODELIST = "cn[07-09,12],login" }
  t.equal(other.port, me.port)
  me = among { OMPI_COMM_WORLD_SIZE = "3", OMPI_COMM_WORLD_RANK = "2", OMPI_COMM_WORLD_LOCAL_SIZE = "3",
    SLURM_STEP_NUM_TASKS = "1", SLURM_PROCID = "0" }
  t.equal({ me.rank, me.world, me.host }, { 2, 3, "127.0.0.1" })
  t.equal(among({ PMI_SIZE = "2", PMI_RANK = "1", MPI_LOCALNRANKS = "2" }).rank, 1)
end)

t.test("what a launcher says amiss is an error in words", function()
  t.fails(function() among { WORLD_SIZE = "2", RANK = "2", MASTER_ADDR = "a" } end,
    "processes: RANK is 2 and WORLD_SIZE is 2 (expected a rank from 0, below the number of processes).")
  local two_machines = { OMPI_COMM_WORLD_SIZE = "4", OMPI_COMM_WORLD_RANK = "0", OMPI_COMM_WORLD_LOCAL_SIZE = "2" }
  t.fails(function() among(two_machines) end,
    "processes: the address of the first of 4 processes is not known. Set MASTER_ADDR and MASTER_PORT.")
end)

t.test("the parts of all processes are the batches, in order", function()
  for _, case in ipairs { { 50, 16, 3, false }, { 7, 3, 4, false }, { 31, 10, 2, true }, { 12, 12, 5, false } } do
    local n, batch, world, drop = table.unpack(case)
    local order, shares = {}, {}
    for i = 1, n do order[i] = 1000 - i end
    for rank = 0, world - 1 do shares[rank] = table.pack(parallel.share(order, batch, drop, rank, world)) end
    local sizes, joined, taken = shares[0][3], {}, {}
    for b = 1, #sizes do
      for rank = 0, world - 1 do
        local from, to = parallel.part(sizes[b], rank, world)
        t.ok(to - from + 1 <= shares[rank][2], "no part is larger than that of a full batch")
        for _ = from, to do
          taken[rank] = (taken[rank] or 0) + 1
          joined[#joined + 1] = shares[rank][1][taken[rank]]
        end
      end
    end
    t.equal(joined, table.move(order, 1, drop and n // batch * batch or n, 1, {}))
    for rank = 0, world - 1 do t.equal(#shares[rank][1], taken[rank] or 0) end
  end
end)

t.test("a batch that cannot be shared is told before training", function()
  local o = { batch = 4, drop_last = false }
  t.fails(function() parallel.check_batches({ batch = 1 }, 10, 2) end,
    "fit: batch = 1 is too small for 2 processes (expected at least one image for each).")
  t.fails(function() parallel.check_batches({ batch = 4, sync_bn = true }, 9, 2) end,
    "fit: the last batch of an epoch holds 1 images for 2 processes, and sync_bn needs one in each. Write "
    .. "drop_last = true, or another batch.")
  t.fails(function() parallel.check_batches(o, 10, 2, "bn") end,
    "fit: a process has one image of a batch of 2 (2 processes): batch norm 'bn' sees one value per channel of it, and "
    .. "a variance needs two. Write drop_last = true, or another batch. Or write sync_bn = true.")
  parallel.check_batches(o, 10, 2, nil)
  parallel.check_batches(o, 12, 2, "bn")
end)

local function needs_c10d()
  if not require("medxai.core").dist.available() then t.skip "this libtorch has no c10d" end
end

-- Six steps of a network in float64 on batches of 7 images by two processes (4 and 3), and the same by one process.
local float64 = [[
local xai, torch = require "medxai", require "medxai.torch"
local processes = require "medxai.run.processes"
local all = processes.current()
local group = all:group(60)
local function net()
  local m = xai.graph.network { name = "n", classes = { "a", "b", "c" }, size_px = 12, cam_layer = "c1", seed = 3,
    build = function(g, x)
      x = g:relu("r1", g:batch_norm2d("b1", g:conv2d("c1", x, { 3, 4, 3, padding = 1 }), 4))
      x = g:relu("r2", g:batch_norm2d("b2", g:conv2d("c2", x, { 4, 6, 3, stride = 2 }), 6))
      return g:linear("fc", g:flatten(nil, g:adaptive_avg_pool2d("p", x, 1)), { 6, 3 })
    end }
  m:to { dtype = "float64" }
  m:train()
  return m
end
local function trained(m)
  local names, params = {}, {}
  for i, p in ipairs(m:parameters()) do names[i], params[i] = p.name, p.tensor end
  return names, params
end
local one, two = net(), net()
local names, params = trained(two)
local _, alone = trained(one)
local reducer = group.native:reducer(params, names)
two:sync_batch_norms(group.native)
local worst = 0
local function far(a, b) worst = math.max(worst, (a - b):abs():max():item()) end
local function descend(list)
  torch.no_grad(function() for _, p in ipairs(list) do p:sub_(p.grad * 0.2) end end)
end
for step = 1, 6 do
  torch.manual_seed(step)
  local x = torch.randn({ 7, 3, 12, 12 }, { dtype = "float64" }) * 2 + 5
  local y = torch.randint(0, 3, { 7 }, { dtype = "int64" })
  one:zero_grad()
  local whole = torch.cross_entropy(one(x), y)
  whole:backward()
  descend(alone)
  local from, to = require("medxai.train.parallel").part(7, group.rank, group.world)
  two:zero_grad()
  local own = torch.cross_entropy(two(x:narrow(0, from - 1, to - from + 1)), y:narrow(0, from - 1, to - from + 1),
    { reduction = "sum" })
  local loss = own * (group.world / 7)
  reducer:prepare(loss)
  loss:backward()
  descend(params)
  far(group:all_reduce(own:detach()) / 7, whole:detach())
end
local other = {}
for _, e in ipairs(two:state()) do other[e.name] = e.tensor:detach():to { dtype = "float64" } end
for _, e in ipairs(one:state()) do far(other[e.name], e.tensor:detach():to { dtype = "float64" }) end
local most = math.max(table.unpack(group:gather(worst)))
-- the same bits in both processes
local sum = 0
for _, p in ipairs(params) do sum = sum + p:detach():abs():sum():item() end
local sums = group:gather(sum)
print(most < 1e-12, most > 0, sums[1] == sums[2], string.format("%.3g", most))
]]

t.test("two processes with sync_bn train as one does to 1e-12 in float64, running statistics included", function()
  needs_c10d()
  local r = t.run { "--threads", "1", "--devices", "2", t.write(t.tmpdir() .. "/float64.lua", float64) }
  t.equal(r.err, "")
  t.equal(r.out:match "^(%S+\t%S+\t%S+)", "true\ttrue\ttrue", r.out)
end)

t.test("values, texts and sums come from the process that has them", function()
  needs_c10d()
  local r = t.run { "--threads", "1", "--devices", "3", "-e", [[
    local torch = require "medxai.torch"
    local all = require("medxai.run.processes").current()
    local shared = all:share(all.rank == 0 and { a = 1, b = "x", c = { 1.5 } } or nil)
    local told = all:tell(2, all.rank == 2 and "of the third" or nil)
    local group <close> = all:group(60)
    local list = group:gather(10 + all.rank)
    local rows = group:stack(torch.tensor({ all.rank, 7 }, { dtype = "uint8" })):tolist()
    local x = torch.full({ 2, 3 }, all.rank + 0.5):t() -- not contiguous
    group:all_reduce(x)
    local y = torch.full({ 2 }, all.rank + 1.0)
    group:broadcast(y)
    local ok = shared.a == 1 and shared.b == "x" and shared.c[1] == 1.5 and told == "of the third"
      and table.concat(list, " ") == "10.0 11.0 12.0" and rows[3][1] == 2 and rows[1][2] == 7
      and x:sum():item() == 27 and y:sum():item() == 2
    if not ok then error("rank " .. all.rank) end
    print "all right"]] }
  t.equal({ r.code, r.out, r.err }, { 0, "all right\n", "" })
end)

t.test("wrong use of --devices is told", function()
  local function err(...) return t.run({ ... }).err end
  t.equal(err("--devices", "0", "x.lua"),
    "medxai-run: --devices: '0' is not a number of processes (1 to 1024). See medxai-run --help.\n")
  t.equal(err("--devices", "2", "-"), "medxai-run: --devices needs an experiment's FILE. See medxai-run --help.\n")
  t.equal(err("--restarts", "2", "-e", "print(1)"),
    "medxai-run: --restarts goes with --devices N. See medxai-run --help.\n")
  t.equal(t.run({ "--devices", "1", "-e", "print(require('medxai.run.processes').current())",
    env = { WORLD_SIZE = "2", RANK = "0" } }).out, "nil\n")
end)

t.test("a failure of any process ends all, and its words are told", function()
  needs_c10d()
  local r = t.run { "--threads", "1", "--devices", "3", "-e", [[
    if os.getenv "RANK" == "2" then error "the third has failed" end
    while true do end]] }
  t.equal(r.code, 1)
  t.ok(r.err:find("[rank 2] medxai-run: (command line):1: the third has failed\n", 1, true), r.err)
  t.ok(r.err:find("medxai-run: process 3 of 3 (rank 2) failed.\n", 1, true), r.err)
  r = t.run { "--threads", "1", "--devices", "2", "-e", "os.exit(os.getenv 'RANK' == '1' and 0 or 2)" }
  t.equal(r.code, 2)
end)

t.test("a failed training is started again as often as --restarts says", function()
  local dir = t.tmpdir()
  local r = t.run { "--threads", "1", "--devices", "2", "--restarts", "2", "-e", ([[
    local f <close> = io.open("%s/" .. os.getenv "RANK", "a")
    f:write("x") f:flush()
    if #require("medxai.base.files").read("%s/" .. os.getenv "RANK") < 3 and os.getenv "RANK" == "0" then
      os.execute "kill -9 $PPID"
    end]]):format(dir, dir) }
  t.equal(r.code, 0, r.err)
  t.equal(files.read(dir .. "/0"), "xxx")
  local _, times = r.err:gsub("process 1 of 2 %(rank 0%) was ended by signal 9", "")
  t.equal(times, 2)
end)
