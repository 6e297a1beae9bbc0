-- What our sides of the benches share: seconds, resident memory and its peak, and the loop that answers words from
-- standard input. It times inside the process, so that pipes and waiting are left out. It refuses to judge.
local host = require "medxai.host"

local measure = {}

--- MB of a field of /proc/self/status: "VmRSS", "VmHWM".
function measure.status(field)
  for line in io.lines "/proc/self/status" do
    local kb = line:match("^" .. field .. ":%s+(%d+)")
    if kb then return tonumber(kb) / 1024 end
  end
end

--- MB now; the peak starts again from here.
function measure.memory_mark()
  collectgarbage()
  collectgarbage()
  require("medxai.core").memory.empty_cache() -- what was freed is not the network's
  local f = io.open("/proc/self/clear_refs", "w")
  if f then
    f:write "5"
    f:close()
  end
  return measure.status "VmRSS"
end

function measure.timed(f)
  local start = host.now()
  f()
  return host.now() - start
end

--- Answers one line for each line "word argument ...", until a word is unknown.
function measure.serve(answers)
  for line in io.lines() do
    local words = {}
    for w in line:gmatch "%S+" do words[#words + 1] = w end
    local f = answers[words[1]]
    if not f then break end
    print(f(table.unpack(words, 2)))
    io.stdout:flush()
  end
end

return measure
