-- ./bootstrap bench explain [NETWORK ...] [METHOD ...] [page] [scores]: each method, plain on one image and smoothed on
-- eight, the methods page with eight images (nine methods, as the thesis draws it; with ROAD combined of the image that
-- is drawn, and of all), beside pytorch-grad-cam on the newest torch at hand, interleaved; then the metrics
-- (scores.lua). Seconds, ratios (above 1: ours is faster), peak memory above the loaded model.
-- Ablation-CAM and Score-CAM are timed once on the other side, and the peer's Ablation-CAM inside a page is computed
-- from that one image: it explains images, and views of images, one after the other. It judges nothing: goals are
-- printed beside the numbers.
local host = require "medxai.host"
local bench = dofile(host.script_dir .. "/side.lua")
local here, quote, row, heading = bench.here, bench.quote, bench.row, bench.heading

local networks, wanted = { "mobilenet_v2", "resnet50", "vgg19" }, {}
local cheap = { "gradcam", "hirescam", "gradcam_elementwise", "gradcam_plus_plus", "xgradcam", "layercam", "eigencam",
  "eigengradcam", "randomcam", "fullgrad", "guided_backprop" }
local ratios = {} -- what -> list
local widths

local function choose(words)
  local known, named = { ablationcam = true, scorecam = true, page = true, scores = true }, {}
  for _, name in ipairs(cheap) do known[name] = true end
  for _, word in ipairs(words) do
    if known[word] then wanted[word] = true else named[#named + 1] = word end
  end
  if #named > 0 then networks = named end
end

local function is_wanted(word) return not next(wanted) or wanted[word] end

local function newest_peer()
  local found
  for _, p in ipairs(bench.find_peers()) do
    if bench.output(("PYTHONPATH=%s %s -c 'import vision, pytorch_grad_cam'"):format(quote(here .. "/../reference"),
        quote(p.python))) then found = p end
  end
  return found
end

-- Interleaved: a warm-up, then repeats; where one takes over 3 s once, over 10 s the warm-up is what counts. Median
-- seconds and MB above the mark before.
local function measure(children, repeats, ...)
  local lists, seconds, above, slowest = {}, {}, {}, 0
  for i, c in ipairs(children) do
    c.base = c:ask "mark"
    lists[i] = { c:ask(...) }
    slowest = math.max(slowest, lists[i][1])
  end
  if slowest <= 10 then
    for i, c in ipairs(children) do lists[i], c.base = {}, c:ask "mark" end
    for _ = 1, slowest <= 3 and repeats or 1 do
      for i, c in ipairs(children) do table.insert(lists[i], c:ask(...)) end
    end
  end
  for i, c in ipairs(children) do seconds[i], above[i] = bench.median(lists[i]), c:ask "peak" - c.base end
  return seconds, above
end

local function show(network, what, seconds, above, key, mark)
  local cells = { network, what }
  for i = 1, 2 do cells[#cells + 1] = seconds[i] and ((i == 2 and mark or "") .. "%.3f"):format(seconds[i]) or "-" end
  cells[#cells + 1] = seconds[2] and ("%.1f"):format(seconds[2] / seconds[1]) or "-"
  for i = 1, 2 do cells[#cells + 1] = above and above[i] and ("%.0f"):format(above[i]) or "-" end
  row(cells, widths)
  if key and seconds[2] then
    ratios[key] = ratios[key] or {}
    table.insert(ratios[key], seconds[2] / seconds[1])
  end
end

-- The peer once: { seconds, above }, which the page needs too.
local function ablation(network, children)
  local ablated, peer = {}, children[2]
  if peer then
    local base = peer:ask "mark"
    ablated.seconds = peer:ask("method", "ablationcam", 1, 0, 0)
    ablated.above = peer:ask "peak" - base
  end
  local seconds, above = measure({ children[1] }, 3, "method", "ablationcam", 1, 0, 0)
  show(network, "Ablation-CAM, 1 image", { seconds[1], ablated.seconds }, { above[1], ablated.above }, "Ablation-CAM")
  return ablated
end

-- Whole passes: ours in float32 and bf16 beside passes x fastest forward.
local function score_cam(network, children)
  local ours, peer = children[1], children[2]
  local theirs, base = nil, nil
  if peer then
    base = peer:ask "mark"
    theirs = peer:ask("method", "scorecam", 1, 0, 0)
  end
  local peak = peer and peer:ask "peak" - base
  for _, precision in ipairs { "float32", "bfloat16" } do
    ours:ask "mark"
    local before = ours:ask("forward", precision)
    local mark = ours:ask "mark"
    local spent = ours:ask("method", "scorecam", 1, 0, 0, precision)
    local mb, n = ours:ask "peak" - mark, ours:ask "passes"
    local fastest = math.min(before, ours:ask("forward", precision))
    show(network, "Score-CAM, 1 image" .. (precision == "bfloat16" and ", bf16" or ""), { spent, theirs }, { mb, peak },
      "Score-CAM " .. precision)
    print(("    %d passes, fastest forward %.4f s an image: %.2f times passes x forward (goal: 1.05)"):format(n,
      fastest, spent / (n * fastest)))
  end
end

local function page(network, children, ablated)
  for _, smooth in ipairs { 0, 1 } do
    local seconds, above = measure(children, 1, "page", 8, smooth, smooth)
    local theirs = seconds[2] and seconds[2] + ablated.seconds * 8 * (smooth == 1 and 6 or 1) or nil
    local label = "methods page, 8 images" .. (smooth == 1 and ", smoothed" or "")
    show(network, label, { seconds[1], theirs }, above, "methods page", "~")
    for _, n in ipairs { 1, 8 } do
      local road = {}
      for i, c in ipairs(children) do road[i] = c:ask("road", n) end
      show(network, label .. (n == 1 and ", ROAD of 1" or ", ROAD of 8"),
        { seconds[1] + road[1], theirs and theirs + road[2] }, nil, n == 1 and "methods page with ROAD" or nil, "~")
    end
  end
end

local function one_network(network, children)
  for _, c in ipairs(children) do c:ask("load", network) end
  for _, name in ipairs(cheap) do
    if is_wanted(name) then
      local seconds, above = measure(children, 3, "method", name, 1, 0, 0)
      show(network, name .. ", 1 image", seconds, above, name)
    end
  end
  for _, name in ipairs(cheap) do
    if is_wanted(name) and name ~= "guided_backprop" then
      local seconds, above = measure(children, 1, "method", name, 8, 1, 1)
      show(network, name .. ", 8 images, smoothed", seconds, above, name .. ", smoothed")
    end
  end
  local ablated = (is_wanted "ablationcam" or is_wanted "page") and ablation(network, children)
  if is_wanted "scorecam" then score_cam(network, children) end
  if is_wanted "page" then page(network, children, ablated) end
  for _, c in ipairs(children) do c:ask "drop" end
end

local goals = { { "gradcam", "3.5" }, { "gradcam, smoothed", "6" }, { "Ablation-CAM", "100, vgg19 300" },
  { "fullgrad", "5" }, { "Score-CAM float32", "resnet50 1.2, vgg19 1.1, mobilenet_v2 2" },
  { "Score-CAM bfloat16", "2" }, { "methods page with ROAD", "100" } }

choose { ... }
io.stdout:setvbuf "line"
local peer = newest_peer()
if not peer then print "no Python with pytorch-grad-cam here: ours alone" end
local dir = bench.output "mktemp -d ${TMPDIR:-/tmp}/medxai-bench.XXXXXX"
local children = {}
local ok, message = xpcall(function()
  children[1] = bench.start_child("ours", ("%s %s/explain_worker.lua"):format(quote(host.exe), here), dir)
  if peer then
    children[2] = bench.start_child(peer.name, ("%s %s/explain_worker.py"):format(quote(peer.python), here), dir)
  end
  for _, c in ipairs(children) do c:ask "hello" end
  print(("%d cores; matrix product 2048 x 2048: %.0f GFLOP/s (ours)"):format(host.cores, children[1]:ask "gemm"))
  print("Maps: seconds, ratio, MB above the loaded model (goal for memory: half); ~: the peer's Ablation-CAM in a "
    .. "page is computed from one image")
  widths = heading { "network", "what                               ", "ours", peer and peer.name or "-", "ratio",
    "MB ours", "MB peer" }
  for _, network in ipairs(networks) do one_network(network, children) end
  print ""
  for _, goal in ipairs(goals) do
    local list = ratios[goal[1]]
    if list then
      local each = {}
      for i, r in ipairs(list) do each[i] = ("%.1f"):format(r) end
      print(("%-24s %s; geometric mean %.2f (goal: %s)"):format(goal[1], table.concat(each, ", "),
        bench.geometric(list), goal[2]))
    end
  end
end, function(m) return m end)
for _, c in ipairs(children) do c:close() end
os.execute("rm -rf " .. quote(dir))
if not ok then error(message, 0) end
if is_wanted "scores" then
  print ""
  loadfile(here .. "/scores.lua")(table.unpack(networks))
end
