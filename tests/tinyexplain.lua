-- What the tests of explaining share: a tiny network with weights by formula (tests/reference/gradcam.py has the same
-- one), a split that needs no files, and a run without a trainer.
local t = require "t"
local host = require "medxai.host"
local torch = require "medxai.torch"

local tiny = {}

tiny.classes = { "clear", "nodule", "opacity" }

--- conv1 - relu1 - conv2 - relu2 - pool - fc; parameter k is 0.5 sin(i (0.7 + 0.3 k) + k).
function tiny.model(dtype)
  local graph = require "medxai.nn.graph"
  local model = graph.network {
    name = "tiny", classes = tiny.classes, size_px = 32, cam_layer = "conv2",
    build = function(g, x)
      x = g:relu("relu1", g:conv2d("conv1", x, { 3, 4, 3, stride = 2, padding = 1 }))
      x = g:relu("relu2", g:conv2d("conv2", x, { 4, 6, 3, stride = 2, padding = 1 }))
      x = g:flatten("flat", g:adaptive_avg_pool2d("pool", x, 1))
      return g:linear("fc", x, { 6, 3 })
    end,
  }
  local state = {}
  for k, entry in ipairs(model:state()) do
    local n, values = 1, {}
    for _, side in ipairs(entry.tensor.shape) do n = n * side end
    for i = 0, n - 1 do values[i + 1] = 0.5 * math.sin(i * (0.7 + 0.3 * (k - 1)) + (k - 1)) end
    state[k] = { name = entry.name, tensor = torch.tensor(values,
      { dtype = "float64" }):view(entry.tensor.shape):to { dtype = entry.tensor.dtype } }
  end
  model:load_state(state)
  if dtype then model:to { dtype = dtype } end
  model:eval()
  return model
end

--- The two images of gradcam.py: (2, 3, 21, 32) by formula.
function tiny.images()
  local n = torch.arange(2 * 3 * 21 * 32, { dtype = "float64" })
  return (torch.sin(n * 0.013) * torch.cos(n * 0.0007) * 0.5 + 0.5):view({ 2, 3, 21, 32 })
end

--- Lets this process look for a researcher's own files in a folder, until the returned value is closed.
---@param what string|table the folder, or files to be written into a new one: text by name without its ending
function tiny.beside(what)
  local dir, before = what, host.script_dir
  if type(what) == "table" then
    dir = t.tmpdir()
    for name, text in pairs(what) do t.write(dir .. "/" .. name .. ".lua", text) end
  end
  host.script_dir = dir
  return setmetatable({}, { __close = function() host.script_dir = before end })
end

--- The status of each map of a result.
function tiny.statuses(result)
  local out = {}
  for i, record in ipairs(result.records) do out[i] = record.status end
  return out
end

-- What a split says of its i-th image: there is no file; the classes take turns.
local function item(_, i)
  return { id = string.format("%016x", i), path = string.format("folder/image %d.png", i),
    name = string.format("image %d.png", i), label = (i - 1) % 3,
    patient = "unknown", source = "made" }
end

--- A split of the images of a tensor (N, 3, H, W).
function tiny.tensor_split(images, classes)
  local split = { name = "test", n = images:size(0), classes = classes or tiny.classes, item = item }
  function split.batch(_, numbers)
    -- all, in order: no copy
    if #numbers == split.n and numbers[1] == 1 and numbers[split.n] == split.n then
      return { x = images, index = numbers }
    end
    local list = {}
    for k, i in ipairs(numbers) do list[k] = images:narrow(0, i - 1, 1) end
    return { x = torch.cat(list, 0), index = numbers }
  end
  return split
end

--- A split of n images of 32 x 32: something like noise by formula, a bright square that is the "lesion".
function tiny.split(n, change)
  local split = { name = "test", n = n, classes = tiny.classes, item = item }
  local function image(i)
    local at = torch.arange(3 * 32 * 32, { dtype = "float64" })
    local x = (torch.sin(at * at * (0.11 + 0.01 * i)) * 0.25 + 0.25):view({ 3, 32, 32 }):to { dtype = "float32" }
    x[{ { 0, 3 }, { 8, 16 }, { 4 + i, 12 + i } }]:fill_(1)
    if change then x = change(x, i) or x end
    return x
  end
  function split.batch(_, numbers)
    local list, labels = {}, {}
    for k, i in ipairs(numbers) do
      list[k] = image(i)
      labels[k] = (i - 1) % 3
    end
    return { x = torch.stack(list, 0), y = torch.tensor(labels, { dtype = "int64" }), index = numbers }
  end
  function split:mask(i, name)
    if name ~= "lesion" then error("dataset: unknown mask '" .. name .. "'. Known: lesion.", 0) end
    if i % 3 == 1 then return nil end -- clear images have none
    local mask = torch.zeros(32, 32, { dtype = "uint8" })
    mask[{ { 8, 16 }, { 4 + i, 12 + i } }]:fill_(1)
    return mask
  end
  return split
end

--- As much of a run as explain.run asks for.
function tiny.run(dir)
  local run = { dir = dir, name = "tiny", seed = 42, warnings = {}, steps = {} }
  function run:step(name, fields)
    local step = { name = name, fields = fields }
    function step.finish(_, result, paths) self.steps[name] = { result = result, paths = paths } end
    return step
  end
  function run:warn(text) self.warnings[#self.warnings + 1] = text end
  function run.time() end
  function run.configure() end
  function run.note_differences() end
  function run.heartbeat() end
  return run
end

return tiny
