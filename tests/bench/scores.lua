-- ./bootstrap bench scores [network ...]: CAM metrics of one grey image beside pytorch-grad-cam, interleaved: three
-- confidence metrics, ROAD most relevant first at 3 percentiles, ROAD combined at 4, deletion in 100 steps. Medians,
-- ratios, peak memory above the loaded model. Part of ./bootstrap bench explain. It judges nothing: goals are printed
-- beside the numbers.
local host = require "medxai.host"
local bench = dofile(host.script_dir .. "/side.lua")
local here, quote, row, heading = bench.here, bench.quote, bench.row, bench.heading

local networks = { ... }
if #networks == 0 then networks = { "mobilenet_v2", "resnet50", "vgg19" } end
local sets = { { "confidence", "change, drop, increase" }, { "morf", "ROAD, 3 percentiles" },
  { "combined", "ROAD combined, 4 percentiles" }, { "deletion", "deletion, 100 steps" } }
local repeats = 3

-- Warm-up, then interleaved repeats: median seconds, and MB above the mark before.
local function measure(children, set)
  local lists, seconds, above = {}, {}, {}
  for i, c in ipairs(children) do
    c:ask("judge", set)
    lists[i] = {}
    c.base = c:ask "mark"
  end
  for _ = 1, repeats do
    for i, c in ipairs(children) do table.insert(lists[i], c:ask("judge", set)) end
  end
  for i, c in ipairs(children) do seconds[i], above[i] = bench.median(lists[i]), c:ask "peak" - c.base end
  return seconds, above
end

io.stdout:setvbuf "line"
local peers = {}
for _, p in ipairs(bench.find_peers()) do
  if bench.output(("PYTHONPATH=%s %s -c 'import vision, pytorch_grad_cam'"):format(quote(here .. "/../reference"),
      quote(p.python))) then peers[#peers + 1] = p end
end
if #peers == 0 then print "no Python with pytorch-grad-cam here: ours alone" end
local dir = bench.output "mktemp -d ${TMPDIR:-/tmp}/medxai-bench.XXXXXX"
local children = {}
local ok, message = xpcall(function()
  children[1] = bench.start_child("ours", ("%s %s/scores_worker.lua 1"):format(quote(host.exe), here), dir)
  for _, p in ipairs(peers) do
    children[#children + 1] = bench.start_child(p.name, ("%s %s/scores_worker.py"):format(quote(p.python), here), dir)
  end
  for _, c in ipairs(children) do c:ask "hello" end
  print("CAM metrics of one gray image: seconds, ratio, MB above the loaded model (goals: ROAD combined 4 times as "
    .. "fast in the geometric mean, half the memory)")
  local head, ratios = { "network", "metric" }, {}
  for _, c in ipairs(children) do head[#head + 1] = c.name end
  for i = 2, #children do head[#head + 1] = "ratio " .. i - 1 end
  for _, c in ipairs(children) do head[#head + 1] = "MB " .. c.name end
  local widths = heading(head)
  widths[2] = 28
  for _, network in ipairs(networks) do
    for _, c in ipairs(children) do c:ask("load", network) end
    for _, set in ipairs(sets) do
      local seconds, above = measure(children, set[1])
      local cells = { network, set[2] }
      for i in ipairs(children) do cells[#cells + 1] = ("%.3f"):format(seconds[i]) end
      for i = 2, #children do
        local key = i .. set[1]
        ratios[key] = ratios[key] or {}
        table.insert(ratios[key], seconds[i] / seconds[1])
        cells[#cells + 1] = ("%.2f"):format(seconds[i] / seconds[1])
      end
      for i in ipairs(children) do cells[#cells + 1] = ("%.0f"):format(above[i]) end
      row(cells, widths)
    end
    for _, c in ipairs(children) do c:ask "drop" end
  end
  for i = 2, #children do
    for _, set in ipairs(sets) do
      print(("%s against %s, geometric mean: %.2f"):format(set[2], children[i].name,
        bench.geometric(ratios[i .. set[1]])))
    end
  end
end, function(m) return m end)
for _, c in ipairs(children) do c:close() end
os.execute("rm -rf " .. quote(dir))
if not ok then error(message, 0) end
