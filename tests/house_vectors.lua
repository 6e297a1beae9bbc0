-- Loops of the C sources that must be vectorized (bindings/plain/vector.h): compiled anew for each vector width, and
-- GCC's report read.
local t = require "t"
local host = require "medxai.host"
local files = require "medxai.base.files"
local json = require "cjson"

local build = host.exe:match "^(.*)/"
local widths = { { "the baseline", "" }, { "AVX2", "-mavx2" }, { "AVX-512", "-mavx512f" } }

-- path -> { line, ... }: the loops that are marked
local marked, count = {}, 0
for _, folder in ipairs { "bindings/plain", "bindings/graph" } do
  for _, name in ipairs(files.list(t.root .. "/" .. folder)) do
    local path, n = t.root .. "/" .. folder .. "/" .. name, 0
    for line in (name:find "%.c$" and files.read(path) or ""):gmatch "([^\n]*)\n" do
      n = n + 1
      if line:find "^ *for %(.*/%* vectorized %*/" then
        marked[path] = marked[path] or {}
        table.insert(marked[path], n)
        count = count + 1
      end
    end
  end
end

-- The command that compiled each file, without its output; nil where the build left none.
local function commands()
  local f = io.open(build .. "/compile_commands.json")
  if not f then return nil end
  local of = {}
  for _, entry in ipairs(json.decode(f:read "a")) do
    of[entry.file] = "cd " .. t.quote(entry.directory) .. " && " .. entry.command:gsub(" %-o [^ ]+", "")
  end
  f:close()
  return of
end

-- Lines of the loops that GCC vectorized.
local function vectorized(command, flag)
  local pipe = assert(io.popen(command .. " -DMX_ONE_WIDTH -fopt-info-vec-optimized -o /dev/null " .. flag .. " 2>&1"))
  local report, lines = pipe:read "a", {}
  t.ok(pipe:close(), report)
  for line in report:gmatch "%.c:(%d+):%d+: optimized: loop vectorized" do lines[tonumber(line)] = true end
  return lines
end

t.test("every loop marked as vectorized is so with the baseline's vectors, with AVX2's and with AVX-512's", function()
  local of = commands()
  if not of then t.skip "no compile_commands.json beside the program" end
  local compiler, ok = io.popen "cc --version 2>/dev/null && uname -m", nil
  local text = compiler:read "a"
  ok = compiler:close()
  if not ok or not text:find "Free Software Foundation" or not text:find "x86_64" then t.skip "no GCC for x86_64" end
  local scalar = {}
  for path, lines in pairs(marked) do
    local command = of[path]
    if command and not command:find "%-fsanitize" then
      for _, width in ipairs(widths) do
        local found = vectorized(command, width[2])
        for _, line in ipairs(lines) do
          if not found[line] then
            scalar[#scalar + 1] = ("%s:%d with %s"):format(path:match "[^/]+$", line, width[1])
          end
        end
      end
    end
  end
  table.sort(scalar)
  t.equal(scalar, {})
  assert(count >= 14, "only " .. count .. " marked loops were found")
end)

t.test("every function compiled for each width holds a loop that is marked", function()
  local bare, functions = {}, 0
  for path in pairs(marked) do
    for name, body in files.read(path):gmatch "\nMX_EVERY_WIDTH static [%w_]+ ([%w_]+)(%b().-\n})" do
      functions = functions + 1
      if not body:find("/* vectorized */", 1, true) then bare[#bare + 1] = name end
    end
  end
  t.equal(bare, {})
  assert(functions >= 10, "only " .. functions .. " functions were found")
end)
