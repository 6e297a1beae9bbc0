-- What a run knows of SLURM: which job it is part of, and that a job which was told to stop is queued again.
-- It refuses to queue what SLURM did not start, and a job that ended by itself.
local host = require "medxai.host"

local slurm = {}

-- The job as scontrol names it: a task of an array by both numbers.
local function job_name()
  local array, task = os.getenv "SLURM_ARRAY_JOB_ID", os.getenv "SLURM_ARRAY_TASK_ID"
  if array and task then return array .. "_" .. task end
  return os.getenv "SLURM_JOB_ID"
end

--- Queues this process' job again where SIGUSR1 or SIGUSR2 ended it (#SBATCH --signal=B:USR1@SECONDS sends one before
--- the time is over). Of several processes of a job the first one does it. Given to host.at_exit.
function slurm.queue_again()
  local signal, job = host.stopped_by(), job_name()
  if signal ~= "SIGUSR1" and signal ~= "SIGUSR2" then return end
  if not job or (os.getenv "SLURM_PROCID" or "0") ~= "0" then return end
  if not job:find "^[%d_]+$" then return end
  local ok = os.execute("scontrol requeue " .. job)
  io.stderr:write(ok and "SLURM: job " .. job .. " is queued again\n"
    or "SLURM: job " .. job .. " could not be queued again: submit it once more, it goes on from there\n")
end

return slurm
