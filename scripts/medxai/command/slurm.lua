-- medxai-run slurm [options] FILE [--field value ...]: writes a batch script for SLURM that a person can read and
-- change, and submits it. An array's tasks work together on one search (run:grid); a task that is asked to stop before
-- its time is over writes a checkpoint and is queued again, and each start goes on from where the last one stopped.
-- It refuses what only SLURM can know: whether a partition exists, whether the time is allowed.
local check = require "medxai.base.check"
local files = require "medxai.base.files"
local host = require "medxai.host"
local shell_word = require("medxai.run.environment").shell_word

local usage = [[
usage: medxai-run slurm [options] FILE [--field value ...]
Submits an experiment to SLURM. What follows FILE is the experiment's, as for medxai-run FILE.

  --array N         N tasks that work on one search together; or a list as sbatch takes it (1-20%4)
  --time T          the most time of a task: minutes, hours:minutes:seconds, days-hours. Shortly before it is over
                    the task writes a checkpoint and is queued again
  --partition NAME  where to run           --account NAME    whom to charge
  --cpus N          cores of a task (4)    --mem SIZE        memory of a task (16G)
  --gpus N          GPUs of a task; the experiment then takes --device cuda
  --name NAME       of the job (the experiment's)
  --print           prints the script and does nothing

The options of this command stand before or behind FILE; behind -- everything is the experiment's.
]]

local takes_value = { array = true, time = true, partition = true, account = true, cpus = true, mem = true, gpus = true,
  name = true }

local function wrong(...)
  io.stderr:write("medxai-run: slurm: ", string.format(...), " See medxai-run slurm --help.\n")
  os.exit(2)
end

-- ---- the command line -----------------------------------------------------------------------------------------------

-- Options of this command, the file, and the words that are the experiment's.
local function read_words(words)
  local own, rest, file, i = {}, {}, nil, 1
  while i <= #words do
    local word = words[i]
    local name, value = word:match "^%-%-([%w_]+)=(.*)$"
    name = name or word:match "^%-%-([%w_]+)$"
    if word == "--" then
      table.move(words, i + 1, #words, #rest + 1, rest)
      break
    elseif name == "help" or word == "-h" then own.help = true
    elseif name == "print" then own.print = true
    elseif takes_value[name] then
      if not value then i, value = i + 1, words[i + 1] end
      if not value or value == "" then wrong("--%s needs a value.", name) end
      own[name] = value
    elseif name == "nodes" then wrong("a task is one process on one node. Use --array N for several.")
    elseif file then rest[#rest + 1] = word
    elseif word:sub(1, 1) == "-" then wrong("unknown option '%s' (what is the experiment's follows FILE).", word)
    else file = word end
    i = i + 1
  end
  return own, file, rest
end

local function whole(own, name, least)
  local n = own[name] and math.tointeger(tonumber(own[name]))
  if own[name] and (not n or n < least) then
    wrong("--%s: '%s' is not a whole number from %d.", name, own[name], least)
  end
  return n
end

-- Seconds of a time as sbatch takes it: minutes, minutes:seconds, hours:minutes:seconds,
-- days-hours[:minutes[:seconds]].
local function seconds_of(text)
  local days, rest = text:match "^(%d+)%-(.+)$"
  local parts = {}
  for part in ((rest or text) .. ":"):gmatch "([^:]*):" do parts[#parts + 1] = tonumber(part:match "^%d+$") or false end
  for i = 1, #parts do
    if not parts[i] then return nil end
  end
  if #parts > 3 or #parts == 0 then return nil end
  if days then return tonumber(days) * 86400 + parts[1] * 3600 + (parts[2] or 0) * 60 + (parts[3] or 0) end
  if #parts == 1 then return parts[1] * 60 end
  if #parts == 2 then return parts[1] * 60 + parts[2] end
  return parts[1] * 3600 + parts[2] * 60 + parts[3]
end

local function word_for(own, name, pattern, what)
  if own[name] and not own[name]:find(pattern) then wrong("--%s: '%s' is no %s.", name, own[name], what) end
  return own[name]
end

local function check_words(own, file)
  if not file then wrong("no FILE named.") end
  if not files.exists(file) then wrong("there is no file '%s'.", file) end
  local o = { cpus = whole(own, "cpus", 1) or 4, gpus = whole(own, "gpus", 1) }
  o.array = word_for(own, "array", "^%d[%d,%-%%:]*$", "list of tasks (a number, or 1-20%4)")
  if o.array and o.array:find "^%d+$" then
    if whole(own, "array", 1) then o.array = "1-" .. o.array end
  end
  o.time = own.time
  o.seconds = own.time and (seconds_of(own.time)
    or wrong("--time: '%s' is no time (minutes, 4:00:00, 1-12).", own.time))
  if o.seconds == 0 then wrong("--time: '%s' is no time at all.", own.time) end
  o.partition = word_for(own, "partition", "^[%w_.,%-]+$", "name of a partition")
  o.account = word_for(own, "account", "^[%w_.%-]+$", "name of an account")
  o.mem = word_for(own, "mem", "^%d+[KMGTkmgt]?$", "size of memory (16G)") or "16G"
  o.name = word_for(own, "name", "^[%w_.%-]+$", "name of a job")
    or file:match "([^/]+)$":gsub("%.lua$", ""):gsub("[^%w_.%-]", "_")
  return o
end

-- ---- the script -----------------------------------------------------------------------------------------------------

-- How long before the end of its time a task is told: five minutes, or a quarter of a short time.
local function warning_s(o) return math.max(10, math.min(300, (o.seconds or 1200) // 4)) end

local function shell_words(list)
  local out = {}
  for i, word in ipairs(list) do out[i] = shell_word(word) end
  return table.concat(out, " ")
end

local function absolute(path)
  return require("medxai.file").realpath(path) or path
end

local function script_of(o, file, rest, words)
  local lines = { "#!/bin/bash", "# Made by: medxai-run slurm " .. shell_words(words),
    "# Change what you like, then: sbatch " .. shell_word(o.path) }
  local function set(format, ...) lines[#lines + 1] = "#SBATCH " .. string.format(format, ...) end
  set("--job-name=%s", o.name)
  if o.array then set("--array=%s", o.array) end
  if o.time then set("--time=%s", o.time) end
  if o.partition then set("--partition=%s", o.partition) end
  if o.account then set("--account=%s", o.account) end
  set "--ntasks=1"
  set("--cpus-per-task=%d", o.cpus)
  set("--mem=%s", o.mem)
  if o.gpus then set("--gres=gpu:%d", o.gpus) end
  set("--output=slurm/%s", o.array and "%x-%A_%a.out" or "%x-%j.out")
  set "--open-mode=append"
  lines[#lines + 1] = string.format("# %d s before its time is over the task writes a checkpoint and is queued again;",
    warning_s(o))
  lines[#lines + 1] = "# after preemption, or where its node fails, SLURM queues it again."
  set("--signal=B:USR1@%d", warning_s(o))
  set "--requeue"
  lines[#lines + 1] = ""
  lines[#lines + 1] = "cd " .. shell_word(absolute(".")) .. " || exit 1"
  lines[#lines + 1] = "# exec: the signal reaches the program; --resume: each start goes on where the last one stopped"
  lines[#lines + 1] = string.format("exec %s --resume --threads %d %s%s%s", shell_word(host.exe), o.cpus,
    shell_word(file), o.gpus and " --device cuda" or "", #rest > 0 and " " .. shell_words(rest) or "")
  return table.concat(lines, "\n") .. "\n"
end

local function submit(o)
  local pipe = io.popen("sbatch --parsable " .. shell_word(o.path) .. " 2>&1")
  local said = pipe:read "a"
  local ok, _, code = pipe:close()
  if code == 127 then
    check.fail("slurm", "there is no sbatch on this machine. Submit '%s' where SLURM is: sbatch %s", o.path, o.path)
  end
  if not ok then check.fail("slurm", "sbatch refused '%s': %s", o.path, (said:gsub("%s+$", ""))) end
  print(string.format("submitted job %s: %s", said:match "%d+" or said, o.path))
  print "its output: slurm/; how far it is: medxai-run runs, medxai-run runs show RUN"
end

local words = { ... }
local own, file, rest = read_words(words)
if own.help then
  io.write(usage)
  return
end
local o = check_words(own, file)
o.path = "slurm/" .. o.name .. ".sh"
local script = script_of(o, file, rest, words)
if own.print then
  io.write(script)
  return
end
local ok, problem = pcall(function()
  files.write(o.path, script)
  submit(o)
end)
if not ok then
  io.stderr:write("medxai-run: ", tostring(problem), "\n")
  os.exit(1)
end
