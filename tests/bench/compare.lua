-- ./bootstrap bench compare [network ...] [pixels]: processor seconds (which other programs disturb least) of the
-- metrics of ten methods' maps of one image beside Quantus 0.6.0, on the same made maps, in turn, one thread each:
-- faithfulness correlation over 200 sets, infidelity over 200 perturbations (Quantus: 192, 64 patches three times),
-- ROAD at 3 percentiles. Here the perturbed images of all ten maps and both metrics are evaluated once. Quantus gets
-- the ten maps as one batch, its fastest way, and for ROAD a network of one channel (on three it stops with an
-- IndexError). Images of 96 pixels, since Quantus' 4,000 passes are to end within minutes; medians of up to three
-- rounds, another one only while it fits into eight minutes.
-- Peer: MEDXAI_REF_C or ./bootstrap parity compare's environment. It judges nothing: the goal is printed beside the
-- numbers.
local host = require "medxai.host"
local bench = dofile(host.script_dir .. "/side.lua")
local here, quote, row, heading = bench.here, bench.quote, bench.row, bench.heading

local networks, px = {}, 96
for _, word in ipairs { ... } do
  if tonumber(word) then px = math.tointeger(tonumber(word)) else networks[#networks + 1] = word end
end
if #networks == 0 then networks = { "mobilenet_v2" } end
local sets = { { "faithfulness", "faithfulness correlation" }, { "infidelity", "infidelity" }, { "road", "ROAD" } }
local most_rounds, most_seconds = 3, 480

local function processor()
  for line in io.lines "/proc/cpuinfo" do
    local name = line:match "^model name%s*:%s*(.+)"
    if name then return name end
  end
  return "processor unknown"
end

-- One round: seconds of each child for each set, and for all three.
local function ask_round(children)
  local found = {}
  for i in ipairs(children) do found[i] = {} end
  for s, set in ipairs(sets) do
    for i, c in ipairs(children) do found[i][s] = c:ask("judge_cpu", set[1]) end
  end
  found[1].all = children[1]:ask("judge_cpu", "all")
  -- there each metric evaluates its own perturbations
  for i = 2, #children do found[i].all = found[i][1] + found[i][2] + found[i][3] end
  return found
end

local function measure(children, network)
  for _, c in ipairs(children) do c:ask("load", network, px) end
  local rounds, start = {}, host.now()
  repeat
    rounds[#rounds + 1] = ask_round(children)
    local used = host.now() - start
  until #rounds == most_rounds or used + used / #rounds > most_seconds
  for _, c in ipairs(children) do c:ask "drop" end
  return rounds
end

local function print_lines(network, rounds, count, widths)
  for _, set in ipairs { { 1, sets[1][2] }, { 2, sets[2][2] }, { 3, sets[3][2] }, { "all", "all three" } } do
    local cells, seconds = { network, set[2] }, {}
    for i = 1, count do
      local list = {}
      for k, r in ipairs(rounds) do list[k] = r[i][set[1]] end
      seconds[i] = bench.median(list)
      cells[#cells + 1] = ("%.2f"):format(seconds[i])
    end
    if count > 1 then cells[#cells + 1] = ("%.1f"):format(seconds[2] / seconds[1]) end
    cells[#cells + 1] = tostring(#rounds)
    row(cells, widths)
  end
end

io.stdout:setvbuf "line"
local python = os.getenv "MEDXAI_REF_C" or "build/reference/c/bin/python"
local path = "PYTHONPATH=" .. quote(here .. "/../reference")
local version, missing = bench.output(("%s %s -c 'import quantus; print(quantus.__version__)'"):format(path,
  quote(python)))
if not version then
  missing = ("Quantus cannot be imported by '%s'"):format(python)
elseif not bench.output(("%s %s -c 'from vision import torchvision'"):format(path, quote(python))) then
  version, missing = nil, ("'%s' has Quantus, but not the torchvision that its networks are from"):format(python)
end
local dir = bench.output "mktemp -d ${TMPDIR:-/tmp}/medxai-bench.XXXXXX"
local children = { bench.start_child("ours", ("%s --threads 1 %s/scores_worker.lua 10"):format(quote(host.exe), here),
  dir) }
if version then
  children[2] = bench.start_child("Quantus " .. version, ("OMP_NUM_THREADS=1 %s %s/compare_worker.py"):format(
    quote(python), here), dir)
else
  print(("%s: ours alone. ./bootstrap parity compare makes an environment with both; MEDXAI_REF_C names another "
    .. "Python."):format(missing))
end

local ok, message = xpcall(function()
  local versions = {}
  for i, c in ipairs(children) do versions[i] = ("%s on libtorch %s"):format(c.name, c:ask "hello") end
  print(("Ten methods' maps of one image of %d px, one thread, %s; %s"):format(px, processor(),
    table.concat(versions, ", ")))
  print "Median processor seconds, ratio (goal: 20 times as fast for all three), rounds"
  local head = { "network", ("%26s"):format "metric" }
  for _, c in ipairs(children) do head[#head + 1] = c.name end
  if children[2] then head[#head + 1] = "ratio" end
  head[#head + 1] = "rounds"
  local widths = heading(head)
  for _, network in ipairs(networks) do print_lines(network, measure(children, network), #children, widths) end
end, function(m) return m end)
for _, c in ipairs(children) do c:close() end
os.execute("rm -rf " .. quote(dir))
if not ok then error(message, 0) end
