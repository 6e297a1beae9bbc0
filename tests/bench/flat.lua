-- ./bootstrap bench flat [images] [network]: does memory stay flat? 1,000 chest X-rays (the shared ones, then phantoms)
-- explained by every method of class activation and of input gradients in one process, then 100 by Score-CAM; a line
-- every tenth of the way: the process' memory, live tensors, Lua's memory, and seconds. The path of integrated
-- gradients and SmoothGrad's copies are few: they change no size. It judges by one rule, printed last: from a fifth of
-- the way to the end the process grows by less than 5 %, live tensors by nothing.
local host = require "medxai.host"
local measure = dofile(host.script_dir .. "/measure.lua")
package.path = host.script_dir .. "/../?.lua;" .. package.path
local core = require "medxai.core"
local explain = require "medxai.steps.explain"
local tiny = require "tinyexplain"
local xai = require "medxai"

local count, network = math.tointeger(tonumber((...) or 1000)), select(2, ...) or "squeezenet1_0"
local size_px = 112
local methods = { "gradcam", "hirescam", "gradcam_elementwise", "gradcam_plus_plus", "xgradcam", "layercam", "eigencam",
  "eigengradcam", "ablationcam", "fullgrad", "randomcam", "saliency", "input_x_gradient",
  { "integrated_gradients", steps = 8 }, { "smoothgrad", samples = 4 }, "guided_backprop", "guided_gradcam", "sobel",
  "center_blob", "random_smooth" }

-- The first n images of all splits of the shared data, then phantoms.
local function images(n)
  local parts, shared = {}, (os.getenv "MEDXAI_SHARED" or host.script_dir .. "/../../../shared") .. "/data/covid-cxr"
  if io.open(shared .. "/README.md") then
    local data = xai.dataset.covid_qu_ex { root = shared, size_px = size_px }
    for _, name in ipairs { "train", "val", "test" } do parts[#parts + 1] = data[name] end
  end
  local have = 0
  for _, part in ipairs(parts) do have = have + part.n end
  if have < n then
    parts[#parts + 1] = xai.dataset.phantom({ n_train = 3, n_val = 3, n_test = n - have, size_px = size_px }).test
  end
  local split = { name = "test", n = n, classes = { "a", "b", "c" } }
  local function find(i)
    for _, part in ipairs(parts) do
      if i <= part.n then return part, i end
      i = i - part.n
    end
  end
  function split:item(i) -- ids by number: some of the shared images are in two splits
    local part, k = find(i)
    return { id = string.format("%016x", i), path = part:item(k).path, name = part:item(k).name,
      label = part:item(k).label, patient = "unknown", source = "made" }
  end
  function split:batch(numbers)
    local list = {}
    for j, i in ipairs(numbers) do
      local part, k = find(i)
      list[j] = part:batch({ k }).x
    end
    return { x = xai.torch.cat(list, 0), index = numbers }
  end
  return split
end

-- Explains and prints; gives the readings of a tenth of the way each.
local function curve(model, split, list, title)
  local dir, readings, began = os.tmpname() .. ".maps", {}, host.now()
  print(("\n%s, %s, %d images of %d px: images done, MB of the process, MB of live tensors, MB of Lua, seconds"):format(
    title, network, split.n, size_px))
  local run = tiny.run(dir)
  local function read(done)
    collectgarbage()
    collectgarbage()
    local m = core.memory.stats()
    readings[#readings + 1] = { done = done, rss = measure.status "VmRSS", live = m.live_bytes / 2 ^ 20 }
    print(("%6d %9.1f %9.2f %9.2f %9.0f"):format(done, readings[#readings].rss, readings[#readings].live,
      m.lua_bytes / 2 ^ 20, host.now() - began))
  end
  local next_at = split.n // 10
  function run:heartbeat(text)
    local done = tonumber(text:match "explain (%d+)/")
    if done >= next_at then
      read(done)
      next_at = next_at + split.n // 10
    end
  end
  local scope <close> = core.memory.scope() -- luacheck: ignore
  explain.run(run, model, split, { methods = list, images = "all", figures = false })
  os.execute("rm -rf " .. dir)
  return readings
end

local function judge(readings)
  local first, last = readings[math.min(2, #readings)], readings[#readings]
  local grown = last.rss / first.rss - 1
  print(("from %d to %d images the process grew by %.1f %%, live tensors by %.2f MB: %s"):format(first.done, last.done,
    100 * grown, last.live - first.live, grown < 0.05 and last.live - first.live < 1 and "flat" or "NOT FLAT"))
  return grown < 0.05 and last.live - first.live < 1
end

io.stdout:setvbuf "line"
host.options.quiet = true
local model = xai.models[network] { classes = { "a", "b", "c" }, seed = 1 }
model:eval()
local good = judge(curve(model, images(count), methods, #methods .. " methods"))
good = judge(curve(model, images(math.max(10, count // 10)), { "scorecam" }, "Score-CAM")) and good
if not good then os.exit(1) end
