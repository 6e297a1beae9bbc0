-- One side of ./bootstrap bench exported: opening a .pt2, forward passes, Grad-CAM as run:explain makes it, files
-- included.
local host = require "medxai.host"
package.path = host.script_dir .. "/../?.lua;" .. package.path
local core = require "medxai.core"
local explain = require "medxai.steps.explain"
local tiny = require "tinyexplain"
local torch = require "medxai.torch"
local xai = require "medxai"

host.options.quiet = true

local model, x, split, layer
local answers = {}

function answers.hello() return core.tensor.torch_version() end

--- open FOLDER NAME LAYOUT: seconds from the file to the first answer for one image
function answers.open(folder, name, layout)
  local path = folder .. "/" .. name .. ".pt2"
  local want = xai.load_checkpoint(path:gsub("2$", ""))
  layer = want.layer
  local image = want.x:narrow(0, 0, 1):contiguous()
  x = image:expand({ 8, image:size(1), image:size(2), image:size(3) }):contiguous()
  local start = host.now()
  model = xai.models.exported { file = path, layout = layout, seed = 1 }:eval()
  torch.no_grad(function() return model(image) end)
  local seconds = host.now() - start
  split = tiny.tensor_split(x, model.classes)
  model:sha256()
  return seconds
end

function answers.eager() return 1 end

function answers.forward(n)
  local scope <close> = core.memory.scope() -- luacheck: ignore
  local some = x:narrow(0, 0, math.tointeger(tonumber(n)))
  return torch.no_grad(function()
    local start = host.now()
    model(some)
    return host.now() - start
  end)
end

function answers.gradcam(n)
  local scope <close> = core.memory.scope() -- luacheck: ignore
  local dir = os.tmpname()
  os.remove(dir)
  n = math.tointeger(tonumber(n))
  local start = host.now()
  explain.run(tiny.run(dir), model, split,
    { methods = { "gradcam" }, layer = layer, images = n == 8 and "all" or n, figures = false, batch = n })
  local seconds = host.now() - start
  os.execute("rm -rf " .. dir)
  return seconds
end

for line in io.stdin:lines() do
  local words = {}
  for word in line:gmatch "%S+" do words[#words + 1] = word end
  if not answers[words[1]] then break end
  print(answers[words[1]](table.unpack(words, 2)))
  io.stdout:flush()
end
