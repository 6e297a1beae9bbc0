-- ./bootstrap bench exported [FOLDER] [NETWORK ...] [forward]: exported networks (those of ./bootstrap parity exported)
-- beside PyTorch: seconds from the file to the first answer beside torch.export.load; forward passes of 1 and 8 images
-- beside the module in eager PyTorch and beside the exported program as a module; Grad-CAM beside pytorch-grad-cam (not
-- with the word forward); interleaved, medians; ours in NCHW and in channels_last; ratios to the faster peer. It judges
-- nothing.
local host = require "medxai.host"
local bench = dofile(host.script_dir .. "/side.lua")
local here, quote = bench.here, bench.quote

local folder, networks, maps = "build/reference/exported", {}, true
for _, word in ipairs { ... } do
  if word:find "/" then folder = word elseif word == "forward" then maps = false else networks[#networks + 1] = word end
end
if #networks == 0 then
  networks = { "tv_resnet18", "tv_mobilenet_v3_small", "tv_convnext_tiny", "tv_swin_t", "timm_vit_tiny_patch16_224",
    "timm_swin_tiny_patch4_window7_224", "timm_resnet26", "xrv_densenet", "monai_densenet121" }
end

local function peer()
  local found
  for _, p in ipairs(bench.find_peers()) do
    if bench.output(("PYTHONPATH=%s %s -c 'import vision, pytorch_grad_cam, timm, monai, torchxrayvision'"):format(
        quote(here .. "/../reference"),
      quote(p.python))) then found = p end
  end
  return found or error("no Python with timm, MONAI, TorchXRayVision and pytorch-grad-cam: ./bootstrap parity "
    .. "exported makes one", 0)
end

local threads, dir, theirs = tostring(host.options.threads), os.tmpname(), peer()
os.remove(dir)
assert(os.execute("mkdir " .. quote(dir)))
local ours = ("%s --quiet --threads %s %s/exported_worker.lua"):format(quote(host.exe), threads, quote(here))
local children = {
  bench.start_child("nchw", ours, dir), bench.start_child("channels_last", ours, dir),
}
for _, word in ipairs { "", "module" } do
  children[#children + 1] = bench.start_child("peer" .. word, ("OMP_NUM_THREADS=%s %s %s/exported_worker.py %s %s")
    :format(threads, quote(theirs.python), quote(here), threads, word), dir)
end
print(("ours: libtorch %s; beside it %s; %s threads"):format(children[1]:ask "hello", theirs.name, threads))
local widths = bench.heading { "seconds" .. (" "):rep(43), "ours nchw", "ours last", "theirs", "exported",
  "ratio nchw", "ratio last" }
local ratios = {}

-- Of all children, or of the first `sides` of them.
local function medians(sides, repeats, ...)
  local lists = { {}, {}, {}, {} }
  for _ = 0, repeats do -- the first warms up
    for i = 1, sides do table.insert(lists[i], (children[i]:ask(...))) end
  end
  for i = 1, sides do
    table.remove(lists[i], 1)
    lists[i] = bench.median(lists[i])
  end
  return table.move(lists, 1, sides, 1, {})
end

local function tell(what, kind, m)
  local best = math.min(m[3], m[4] or m[3])
  bench.row({ what, ("%.4f"):format(m[1]), ("%.4f"):format(m[2]), ("%.4f"):format(m[3]),
    m[4] and ("%.4f"):format(m[4]) or "", ("%.2f"):format(best / m[1]), ("%.2f"):format(best / m[2]) }, widths)
  ratios[kind] = ratios[kind] or { {}, {} }
  for i = 1, 2 do table.insert(ratios[kind][i], best / m[i]) end
end

for _, name in ipairs(networks) do
  local opened = {}
  for i, child in ipairs(children) do
    opened[i] = child:ask("open", folder, name, i == 2 and "channels_last" or "nchw")
  end
  tell(name .. " open", "open", { opened[1], opened[2], opened[3] })
  for _, child in ipairs(children) do child:ask "eager" end
  for _, n in ipairs { 1, 8 } do
    tell(("%s forward %d"):format(name, n), "forward", medians(4, 7, "forward", n))
    if maps then tell(("%s Grad-CAM %d"):format(name, n), "Grad-CAM", medians(3, 5, "gradcam", n)) end
  end
end
for _, kind in ipairs { "open", "forward", maps and "Grad-CAM" or nil } do
  print(("%s: geometric mean of ratios %.2f (nchw), %.2f (channels_last)"):format(kind,
    bench.geometric(ratios[kind][1]), bench.geometric(ratios[kind][2])))
end
for _, child in ipairs(children) do child:close() end
os.execute("rm -rf " .. quote(dir))
