-- Exported networks of torchvision, timm, TorchXRayVision and MONAI beside what PyTorch computed with them
-- (tests/reference/exported.py; ./bootstrap parity exported). MEDXAI_EXPORTED_DIR holds NAME.pt2 and NAME.pt.
-- Maps: Grad-CAM, LayerCAM, AblationCAM, EigenCAM beside pytorch-grad-cam, integrated gradients beside captum, the
-- attention methods beside their equations: to 1e-5 of the largest number (OpenCV, with which pytorch-grad-cam resizes,
-- takes places in float32). That other layers' maps fail is tested in exported_maps.
-- float64: logits, the images' gradients and those of all parameters to 1e-9; float32 in NCHW: to the last bit where
-- the program's libtorch is the one that computed them, with as many threads: sums are split among these.
local t = require "t"
local core = require "medxai.core"
local exportedmaps = require "exportedmaps"
local host = require "medxai.host"
local torch = require "medxai.torch"
local xai = require "medxai"

local dir = os.getenv "MEDXAI_EXPORTED_DIR"
local same_libtorch = os.getenv "MEDXAI_EXPORTED_BITS" == "1"
local only = os.getenv "MEDXAI_PARITY_NETWORKS"
local cells = { passed = 0, failed = 0, without = 0 }

local function count(ok)
  local key = ok == nil and "without" or ok and "passed" or "failed"
  cells[key] = cells[key] + 1
  return ok == nil and "-" or ok and "ok" or "FAILED"
end

-- The largest difference over the largest number, or over `least` where that is more; and whether all bits are equal.
local function compare(got, want, least)
  local scale = math.max(want:abs():max():item(), least or 1e-300)
  return (got - want):abs():max():item() / scale, torch.equal(got, want)
end

-- Logits and gradients of half the sum of squares, as the reference computes them.
local function run(model, x, want)
  local scope <close> = core.memory.scope() -- luacheck: ignore
  x = x:to(model.dtype):requires_grad_()
  local out = model(x)
  ;((out * out):sum() / 2):backward()
  local rows, worst, bits, missing = {}, 0, true, 0
  rows.logits, rows.logits_bits = compare(out:detach(), want.logits)
  rows.images, rows.images_bits = compare(x.grad, want.x_grad)
  local largest = 0
  for _, grad in pairs(want.grads) do largest = math.max(largest, grad:abs():max():item()) end
  for _, p in ipairs(model:parameters()) do
    local grad = want.grads[p.name]
    if grad then -- a parameter whose gradients are a millionth of the largest has rounding as gradients
      local d, equal = compare(p.tensor.grad, grad, 1e-6 * largest)
      if not (d <= worst) then worst, rows.where = d, p.name end
      bits = bits and equal
      want.grads[p.name] = nil
    end
  end
  for _ in pairs(want.grads) do missing = missing + 1 end
  rows.parameters, rows.parameters_bits, rows.missing = worst, bits, missing
  model:zero_grad()
  return rows
end

local function one_network(path)
  local scope <close> = core.memory.scope() -- luacheck: ignore
  local name = path:match "([^/]+)%.pt2$"
  local want = xai.load_checkpoint(path:gsub("2$", ""))
  local line = ("%-36s"):format(name)
  local comparable = same_libtorch and (want.threads or host.options.threads) == host.options.threads
  for _, dtype in ipairs { "float64", "float32" } do
    local model <close> = xai.models.exported { file = path, dtype = dtype, layout = "nchw", seed = 1 }:eval()
    local rows = run(model, want.x, want[dtype])
    for _, what in ipairs { "logits", "images", "parameters" } do
      local ok = rows[what] <= 1e-9
      if dtype == "float32" then ok = rows[what .. "_bits"] if not comparable then ok = nil end end
      if what == "parameters" and rows.missing > 0 then ok = false end
      line = line .. (" %9.2g %-6s"):format(rows[what], count(ok))
      if ok == false then line = line .. ("(%s, %d missing)"):format(rows.where or "", rows.missing) end
    end
  end
  print(line)
end

local function maps_of(path)
  local want = xai.load_checkpoint(path:gsub("2$", ""))
  if not want.maps then return end
  local found, line = exportedmaps.distances(path, want), ("%-36s"):format(path:match "([^/]+)%.pt2$")
  for _, method in ipairs(exportedmaps.methods(want)) do
    line = line .. (" %s %.2g %s"):format(method, found[method], count(found[method] < 1e-5))
  end
  print(line)
end

t.test("exported networks give the maps of pytorch-grad-cam, captum and the attention methods' equations", function()
  if not dir then t.skip "no MEDXAI_EXPORTED_DIR" end
  local quiet = host.options.quiet
  host.options.quiet = true
  local failed = cells.failed
  local pipe <close> = io.popen("ls " .. t.quote(dir) .. "/*.pt2")
  for path in pipe:lines() do
    if not only or path:find(only, 1, true) then maps_of(path) end
  end
  host.options.quiet = quiet
  t.equal(cells.failed, failed)
end)

t.test("exported networks give PyTorch's logits and gradients", function()
  if not dir then t.skip "no MEDXAI_EXPORTED_DIR" end
  print(("%-36s %s"):format("network", "float64: logits, images, parameters; float32: the same, to the last bit"))
  local pipe <close> = io.popen("ls " .. t.quote(dir) .. "/*.pt2")
  for path in pipe:lines() do
    if not only or path:find(only, 1, true) then one_network(path) end
  end
  print(("%d cells passed, %d failed, %d without evidence"):format(cells.passed, cells.failed, cells.without))
  t.equal(cells.failed, 0)
end)
