-- What the benches share: children that are spoken to through pipes, so that ours and Python's are timed in turn in one
-- run; medians, geometric means, tables. It refuses to judge: goals are printed beside the numbers.
local host = require "medxai.host"

local bench = { here = host.script_dir }

function bench.quote(s) return "'" .. s:gsub("'", "'\\''") .. "'" end

function bench.output(command)
  local pipe = io.popen(command .. " 2>/dev/null")
  local text = pipe:read "a"
  return pipe:close() and text:gsub("%s+$", "") or nil
end

function bench.median(list)
  local sorted = table.move(list, 1, #list, 1, {})
  table.sort(sorted)
  local n = #sorted
  return n % 2 == 1 and sorted[n // 2 + 1] or (sorted[n // 2] + sorted[n // 2 + 1]) / 2
end

-- ---- children -------------------------------------------------------------------------------------------------------

-- A child that is spoken to through a named pipe and answers on its standard output.
local Child = {}
Child.__index = Child

function bench.start_child(name, command, dir)
  local fifo = dir .. "/" .. name:gsub("%W", "_")
  assert(os.execute("mkfifo " .. bench.quote(fifo)))
  -- how threads wait is each side's own: this process sets it for itself where it opens libtorch
  local from = io.popen("exec env -u OMP_WAIT_POLICY -u GOMP_SPINCOUNT -u OPENBLAS_THREAD_TIMEOUT " .. command .. " <"
    .. bench.quote(fifo) .. " 2>" .. bench.quote(fifo .. ".err"))
  local to = io.open(fifo, "w")
  return setmetatable({ name = name, from = from, to = to, errors = fifo .. ".err" }, Child)
end

function Child:ask(...)
  self.to:write(table.concat({ ... }, " "), "\n")
  self.to:flush()
  local line = self.from:read "l"
  if not line then
    local f = io.open(self.errors)
    error(self.name .. " died: " .. (f and f:read "a" or ""), 0)
  end
  if host.interrupted() then error("interrupted", 0) end
  return tonumber(line) or line
end

function Child:close()
  self.to:write "quit\n"
  self.to:close()
  self.from:close()
end

-- Pythons that have torch and torchvision: { name =, python = }
function bench.find_peers()
  local list, seen = {}, {}
  for _, python in ipairs { os.getenv "MEDXAI_REF_A" or "/usr/bin/python3",
      os.getenv "MEDXAI_REF_B" or "build/reference/b/bin/python", "/opt/ref/b/bin/python" } do
    local version = bench.output(("PYTHONPATH=%s %s -c %s"):format(bench.quote(bench.here .. "/../reference"),
      bench.quote(python),
      bench.quote "import torch; from vision import torchvision; print(torch.__version__.split('+')[0])"))
    if version and version ~= "" and not seen[version] then
      seen[version] = true
      list[#list + 1] = { name = "torch " .. version, python = python }
    end
  end
  return list
end

-- ---- tables ---------------------------------------------------------------------------------------------------------

function bench.row(cells, widths)
  local out = {}
  for i, cell in ipairs(cells) do out[i] = (i == 1 and "%-" or "%") .. widths[i] .. "s" end
  print((table.concat(out, " | "):format(table.unpack(cells))))
end

function bench.heading(cells)
  local widths, line = {}, {}
  for i, cell in ipairs(cells) do
    widths[i] = math.max(#cell, i == 1 and 16 or 8)
    line[i] = ("-"):rep(widths[i])
  end
  print()
  bench.row(cells, widths)
  print(table.concat(line, "-|-"))
  return widths
end

function bench.geometric(list)
  local sum = 0
  for _, v in ipairs(list) do sum = sum + math.log(v) end
  return math.exp(sum / #list)
end

return bench
