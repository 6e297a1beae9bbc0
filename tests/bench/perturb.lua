-- ./bootstrap bench perturb [NETWORK ...] [METHOD ...]: the perturbing methods beside the Python packages (shap 0.51
-- and lime in environment b), interleaved, on one X-ray. Counts are reduced where the thesis' would take minutes, and
-- said. For each network our fastest forward pass and its share of the machine's matrix product; for methods made of
-- whole passes the seconds over passes times that forward (goal: at most 1.05); peak memory above the loaded network.
-- It judges nothing and fails nothing: goals are printed beside the numbers.
local host = require "medxai.host"
local bench = dofile(host.script_dir .. "/side.lua")
local here, quote, median, row, heading, start_child = bench.here, bench.quote, bench.median, bench.row, bench.heading,
  bench.start_child

local networks = { "mobilenet_v2", "resnet50", "vgg19" }
local repeats = 2

-- word: what the workers are asked; counts: by network; passes(n): whole passes that n means, nil where it is not made
-- of them; only: the one network with which something that needs none is measured.
local methods = {
  { word = "quickshift", title = "quickshift, LIME's settings", unit = "pictures", counts = { mobilenet_v2 = 5 },
    whole = 5, goal = "3x", only = "mobilenet_v2" },
  { word = "slic", title = "SLIC, 10 segments", unit = "pictures", counts = { mobilenet_v2 = 20 }, whole = 20,
    goal = "2x", only = "mobilenet_v2" },
  { word = "lime", title = "LIME", unit = "samples", counts = { mobilenet_v2 = 500, resnet50 = 300, vgg19 = 100 },
    whole = 1000, goal = "<= 1.05 x passes", passes = function(n) return n end },
  { word = "lime_balanced", title = "LIME, balanced: 0.8 of", unit = "samples",
    counts = { mobilenet_v2 = 500, resnet50 = 300, vgg19 = 100 }, whole = 1000,
    goal = "equal error", passes = function(n) return 0.8 * n end },
  { word = "partition", title = "SHAP Partition", unit = "evaluations",
    counts = { mobilenet_v2 = 500, resnet50 = 300, vgg19 = 100 }, whole = 1000,
    goal = "<= 1.05 x passes", passes = function(n) return n end },
  { word = "kernel", title = "SHAP Kernel", unit = "subsets", counts = { mobilenet_v2 = 70, resnet50 = 70, vgg19 = 70 },
    whole = 70, goal = "<= 1.05 x passes", passes = function(n) return n + 2 end },
  { word = "gradient", title = "SHAP Gradient at the CAM layer, 3 outputs", unit = "samples",
    counts = { mobilenet_v2 = 100, resnet50 = 60, vgg19 = 20 }, whole = 200, goal = "8x" },
  { word = "gradient_input", title = "SHAP Gradient at the input, 3 outputs", unit = "samples",
    counts = { mobilenet_v2 = 40, resnet50 = 20, vgg19 = 8 }, whole = 200, goal = "-" },
}

-- ---- one network ----------------------------------------------------------------------------------------------------

local function forward_line(network, yardstick, peer)
  local flops, ours, theirs = peer and peer:ask "flops", math.huge, math.huge
  for _ = 1, 2 do
    ours = math.min(ours, yardstick:ask "forward")
    if peer then theirs = math.min(theirs, peer:ask "forward") end
  end
  local roof = math.max(yardstick:ask "gemm", yardstick:ask "gemm")
  local share = flops and (", %.0f %% of the matrix product (%.0f GFLOP/s)"):format(100 * flops / ours / 1e9 / roof,
    roof) or ""
  local beside = peer and ("; %s %.1f ms"):format(peer.name, 1000 * theirs) or ""
  print(("\n%s: fastest forward of one image: ours %.1f ms%s%s"):format(network, 1000 * ours, share, beside))
end

-- Interleaved repeats of one method: medians of seconds, MB above the loaded network in the first, and ours over passes
-- times our fastest forward pass, which is measured before and after each repeat, since the machine's speed changes,
-- and in a process of its own, since its memory is not the method's.
local function measure(children, yardstick, method, n)
  local list, above, shares, forward = {}, {}, {}, math.huge
  for i in ipairs(children) do list[i] = {} end
  for r = 1, repeats do
    for i, c in ipairs(children) do
      if i == 1 and method.passes then forward = yardstick:ask "forward" end
      if r == 1 then c:ask "mark" end
      table.insert(list[i], c:ask(method.word, n))
      above[i] = above[i] or c:ask "peak" - c.base
      if i == 1 and method.passes then
        shares[r] = list[1][r] / method.passes(n) / math.min(forward, yardstick:ask "forward")
      end
    end
  end
  for i in ipairs(children) do list[i] = median(list[i]) end
  return list, above, shares[1] and median(shares)
end

local function one_network(network, children, yardstick, wanted)
  for _, c in ipairs(children) do c.base = c:ask("load", network) end
  yardstick:ask("load", network)
  forward_line(network, yardstick, children[2])
  local head = { "method" }
  for _, c in ipairs(children) do head[#head + 1] = c.name end
  for _, text in ipairs { "ratio", "of passes", "MB ours", "MB peer", "goal" } do head[#head + 1] = text end
  local widths = heading(head)
  for _, m in ipairs(methods) do
    if (not next(wanted) or wanted[m.word]) and (not m.only or m.only == network) then
      local n = m.counts[network] or m.whole
      local seconds, above, share = measure(children, yardstick, m, n)
      local cells = { ("%s, %d %s%s"):format(m.title, n, m.unit, n < m.whole and (" (of %d)"):format(m.whole) or "") }
      for i in ipairs(children) do cells[#cells + 1] = ("%.2f"):format(seconds[i]) end
      cells[#cells + 1] = seconds[2] and ("%.2f"):format(seconds[2] / seconds[1]) or "-"
      cells[#cells + 1] = share and ("%.3f"):format(share) or "-"
      cells[#cells + 1] = ("%.0f"):format(above[1])
      cells[#cells + 1] = above[2] and ("%.0f"):format(above[2]) or "-"
      cells[#cells + 1] = m.goal
      widths[1] = math.max(widths[1], #cells[1])
      row(cells, widths)
    end
  end
  for _, c in ipairs(children) do c:ask "drop" end
  yardstick:ask "drop"
end

-- ---- the run --------------------------------------------------------------------------------------------------------

local known, wanted, chosen = {}, {}, {}
for _, m in ipairs(methods) do known[m.word] = true end
for _, name in ipairs { ... } do
  if known[name] then wanted[name] = true else chosen[#chosen + 1] = name end
end
if #chosen > 0 then networks = chosen end

-- An X-ray of the shared data, or the made picture where there is none.
local function picture(dir)
  local shared = (os.getenv "MEDXAI_SHARED" or here .. "/../../../shared")
    .. "/data/covid-cxr/Lung Segmentation Data/Test/COVID-19/images"
  local name = (require("medxai.file").list(shared) or {})[1]
  if name then return shared .. "/" .. name end
  local core, path = require "medxai.core", dir .. "/phantom.png"
  local drawn = core.phantom.draw({ size_px = 256 }, 2)
  assert(require("medxai.file").write(path, core.image.encode(drawn.image:unsqueeze(2):contiguous())))
  return path
end

io.stdout:setvbuf "line"
local dir = bench.output "mktemp -d ${TMPDIR:-/tmp}/medxai-bench.XXXXXX"
local children, yardstick = {}, nil
local ok, message = xpcall(function()
  local path = picture(dir)
  local worker = ("%s %s/perturb_worker.lua %s"):format(quote(host.exe), here, quote(path))
  children[1], yardstick = start_child("ours", worker, dir), start_child("yardstick", worker, dir)
  for _, p in ipairs(bench.find_peers()) do
    if bench.output(quote(p.python) .. " -c 'import shap'") then
      children[2] = start_child("shap, " .. p.name,
        ("%s %s/perturb_worker.py %s"):format(quote(p.python), here, quote(path)), dir)
    end
  end
  for _, c in ipairs(children) do c:ask "hello" end
  yardstick:ask "hello"
  print(("%d cores; one X-ray; %d repeats, interleaved; %s"):format(host.cores, repeats,
    #children > 1 and "peer: " .. children[2].name or "no Python with shap here: ours alone"))
  for _, network in ipairs(networks) do one_network(network, children, yardstick, wanted) end
end, function(m) return m end)
for _, c in ipairs(children) do c:close() end
if yardstick then yardstick:close() end
os.execute("rm -rf " .. quote(dir))
if not ok then error(message, 0) end
