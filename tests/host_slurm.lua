-- medxai-run slurm: the batch script, its submission, and what is refused; with SLURM itself where that is installed.
local t = require "t"
local files = require "medxai.base.files"
local host = require "medxai.host"

local function folder(sbatch)
  local dir = t.tmpdir()
  t.write(dir .. "/my search.lua", "print 'here'")
  files.mkdir(dir .. "/bin")
  if sbatch then
    t.write(dir .. "/bin/sbatch", "#!/bin/sh\n" .. sbatch)
    os.execute("chmod +x " .. t.quote(dir .. "/bin/sbatch"))
  end
  return dir
end

local function slurm(dir, ...)
  return t.run { "slurm", cwd = dir, env = { PATH = dir .. "/bin:/usr/bin:/bin" }, ... }
end

t.test("the script is one that a person can read, and the shell and SLURM take", function()
  local dir = folder()
  local r = slurm(dir, "my search.lua", "--array", "10", "--time", "4:00:00", "--partition=long", "--lr", "0.1,0.2",
    "--data", "it's here", "--print")
  t.equal(r.code, 0, r.err)
  t.equal(r.out, ([[
#!/bin/bash
# Made by: medxai-run slurm 'my search.lua' --array 10 --time 4:00:00 --partition=long --lr 0.1,0.2 --data 'it'\''s here' --print
# Change what you like, then: sbatch slurm/my_search.sh
#SBATCH --job-name=my_search
#SBATCH --array=1-10
#SBATCH --time=4:00:00
#SBATCH --partition=long
#SBATCH --ntasks=1
#SBATCH --cpus-per-task=4
#SBATCH --mem=16G
#SBATCH --output=slurm/%%x-%%A_%%a.out
#SBATCH --open-mode=append
# 300 s before its time is over the task writes a checkpoint and is queued again;
# after preemption, or where its node fails, SLURM queues it again.
#SBATCH --signal=B:USR1@300
#SBATCH --requeue

cd %s || exit 1
# exec: the signal reaches the program; --resume: each start goes on where the last one stopped
exec %s --resume --threads 4 'my search.lua' --lr 0.1,0.2 --data 'it'\''s here'
]]):format(dir, host.exe))
  t.equal(files.exists(dir .. "/slurm"), false)
  t.write(dir .. "/job.sh", r.out)
  t.equal(t.run({ exe = "/bin/bash", "-n", dir .. "/job.sh" }).err, "")
end)

t.test("a short time is warned of later, and -- hands everything on", function()
  local dir = folder()
  local r = slurm(dir, "--time", "2", "--gpus", "1", "--cpus", "2", "my search.lua", "--print", "--", "--time", "7")
  t.equal(r.code, 0, r.err)
  t.ok(r.out:find("#SBATCH --signal=B:USR1@30\n", 1, true) and r.out:find("#SBATCH --gres=gpu:1\n", 1, true), r.out)
  t.ok(r.out:find("--resume --threads 2 'my search.lua' --device cuda --time 7\n", 1, true), r.out)
end)

t.test("it is submitted, and what sbatch says is told", function()
  local dir = folder "cp $2 submitted; echo '37;cluster'"
  local r = slurm(dir, "my search.lua")
  t.equal({ r.code, r.err }, { 0, "" })
  t.ok(r.out:find("submitted job 37: slurm/my_search.sh\n", 1, true), r.out)
  t.equal(files.read(dir .. "/submitted"), files.read(dir .. "/slurm/my_search.sh"))
  dir = folder "echo 'sbatch: error: invalid partition specified: gold' >&2; exit 1"
  r = slurm(dir, "my search.lua", "--partition", "gold")
  t.equal({ r.code, r.err },
    { 1, "medxai-run: slurm: sbatch refused 'slurm/my_search.sh': sbatch: error: invalid partition specified: gold\n" })
end)

t.test("wrong words are wrong usage", function()
  local dir = folder()
  local function says(words, ...)
    local r = slurm(dir, ...)
    t.equal({ r.code, r.err }, { 2, "medxai-run: slurm: " .. words .. " See medxai-run slurm --help.\n" })
  end
  says("no FILE named.")
  says("there is no file 'x.lua'.", "x.lua")
  says("--time: 'soon' is no time (minutes, 4:00:00, 1-12).", "my search.lua", "--time", "soon")
  says("--cpus: '0' is not a whole number from 1.", "my search.lua", "--cpus", "0")
  says("--array: 'all' is no list of tasks (a number, or 1-20%4).", "my search.lua", "--array", "all")
  says("a task is one process on one node. Use --array N for several.", "my search.lua", "--nodes", "2")
  says("unknown option '--smoke' (what is the experiment's follows FILE).", "--smoke", "my search.lua")
  says("--time needs a value.", "my search.lua", "--time")
end)
