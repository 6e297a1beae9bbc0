-- The check before training: mistakes in the lines after a training (a misspelt method, option, layer or mask) are
-- found before hours of work and not after. The experiment is read once more in a Lua state of its own
-- (preflight_state.lua), where networks are described without tensors and every step only checks its options. Nothing
-- of it reaches the run. It refuses what it can prove to be a mistake; where an experiment computes, reads or writes by
-- itself, it looks no further.
local host = require "medxai.host"

local preflight = {}

local done = false

--- Reads the experiment once per process. Raises the first mistake, with the experiment's own line.
function preflight.check()
  if done or not host.script or not require("medxai.file").stat(host.script) then return end
  done = true
  local mistake, why = host.separate(host.scripts_dir .. "/medxai/preflight_state.lua", host.script)
  if why and host.options.trace then io.stderr:write("the check before training ended early: ", why, "\n") end
  if mistake then error(mistake, 0) end
end

return preflight
