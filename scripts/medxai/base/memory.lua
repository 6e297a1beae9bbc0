-- The machine's memory.
local files = require "medxai.base.files"

local memory = {}

--- Bytes that a program may take now without swapping; nil where the system does not say it.
---@return integer|nil
function memory.available()
  local kib = (files.read "/proc/meminfo" or ""):match "MemAvailable:%s*(%d+)"
  return kib and math.tointeger(kib) * 1024 or nil
end

return memory
