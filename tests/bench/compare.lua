-- ./bootstrap bench compare [network ...]: the metrics of ten methods' maps of one image beside Quantus 0.6.0, on the
-- same made maps, in turn: faithfulness correlation over 200 sets, infidelity over 200 perturbations, ROAD at 3
-- percentiles. Here the perturbed images of all ten maps and both metrics are evaluated once. Quantus' ROAD stops with
-- an IndexError on images of three channels. Peer: MEDXAI_REF_C or ./bootstrap parity compare's
-- environment. It judges nothing: the goal is printed beside the numbers.
local host = require "medxai.host"
local bench = dofile(host.script_dir .. "/side.lua")
local here, quote, row, heading = bench.here, bench.quote, bench.row, bench.heading

local networks = { ... }
if #networks == 0 then networks = { "mobilenet_v2" } end
local sets = { { "faithfulness", "faithfulness correlation" }, { "infidelity", "infidelity" }, { "road", "ROAD" } }

io.stdout:setvbuf "line"
local python = os.getenv "MEDXAI_REF_C" or "build/reference/c/bin/python"
local path = "PYTHONPATH=" .. quote(here .. "/../reference")
local known = bench.output(("%s %s -c 'import quantus; from vision import torchvision; "
  .. "print(quantus.__version__)'"):format(path, quote(python)))
local dir = bench.output "mktemp -d ${TMPDIR:-/tmp}/medxai-bench.XXXXXX"
local children = { bench.start_child("ours", ("%s %s/scores_worker.lua 10"):format(quote(host.exe), here), dir) }
if known and known ~= "" then
  children[2] = bench.start_child("Quantus " .. known, ("%s %s/compare_worker.py"):format(quote(python), here), dir)
else
  print "no Python with quantus and torchvision here: ours alone (./bootstrap parity compare makes the environment)"
end

local function print_line(network, title, seconds, widths)
  local cells = { network, title }
  for i in ipairs(children) do cells[#cells + 1] = seconds[i] < 0 and "stops" or ("%.2f"):format(seconds[i]) end
  if seconds[2] and seconds[2] > 0 then cells[#cells + 1] = ("%.1f"):format(seconds[2] / seconds[1]) end
  row(cells, widths)
end

local ok, message = xpcall(function()
  for _, c in ipairs(children) do c:ask "hello" end
  print "Ten methods' maps of one image: seconds, ratio (goal: 20 times as fast for all three)"
  local head = { "network", "metric" }
  for _, c in ipairs(children) do head[#head + 1] = c.name end
  if children[2] then head[#head + 1] = "ratio" end
  local widths = heading(head)
  widths[2] = 26
  for _, network in ipairs(networks) do
    for _, c in ipairs(children) do c:ask("load", network) end
    local all = {}
    for _, set in ipairs(sets) do
      local seconds = {}
      for i, c in ipairs(children) do seconds[i] = c:ask("judge", set[1]) end
      -- each metric evaluates its own perturbations
      if seconds[2] then all[2] = (all[2] or 0) + math.max(seconds[2], 0) end
      print_line(network, set[2], seconds, widths)
    end
    all[1] = children[1]:ask("judge", "all")
    print_line(network, "all three", all, widths)
    for _, c in ipairs(children) do c:ask "drop" end
  end
end, function(m) return m end)
for _, c in ipairs(children) do c:close() end
os.execute("rm -rf " .. quote(dir))
if not ok then error(message, 0) end
