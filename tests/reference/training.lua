-- medxai-run tests/reference/training.lua OUT DATA STEPS NETWORK...: trains each network from seeded weights, in NCHW
-- and in channels_last, and leaves what training.py needs to do the same: weights, batches, file names, losses (exact).
-- SGD(0.01, momentum 0.9), batch 8, dropout on and seeded: nothing is switched off.
local host = require "medxai.host"
local core = require "medxai.core"
local torch = require "medxai.torch"
local xai = require "medxai"
local files = require "medxai.base.files"

local out, root, steps = ...
steps = math.tointeger(steps)
local networks = { select(4, ...) }
local batch = 8

local function write_lines(path, lines) files.write(path, table.concat(lines, "\n") .. "\n") end

-- The first `steps` batches in the loader's own order, written once for every network of one size.
local function batches(size, resize)
  local folder = files.join(out, "batches" .. size)
  local data = xai.dataset.covid_qu_ex { root = root, size_px = size, resize_px = resize }
  local list, names = {}, {}
  files.mkdir(folder)
  local epoch = 0
  while #list < steps do
    epoch = epoch + 1
    local order = data.train:order(42, epoch)
    if type(order) ~= "table" then order = order:tolist() end
    for at = 1, #order - batch + 1, batch do
      if #list == steps then break end
      local indices = table.move(order, at, at + batch - 1, 1, {})
      local b = data.train:batch(indices)
      list[#list + 1] = b
      local k = #list - 1
      torch.save_npy(files.join(folder, "x" .. k .. ".npy"), b.x)
      torch.save_npy(files.join(folder, "y" .. k .. ".npy"), b.y)
      for _, i in ipairs(indices) do
        names[#names + 1] = files.join(root, "Lung Segmentation Data", data.train:item(i).path)
      end
    end
  end
  write_lines(files.join(folder, "files.txt"), names)
  return list
end

local function train(name, layout, list)
  local model = xai.models[name] { classes = 3, layout = layout, seed = 42 }
  if layout == "nchw" then xai.save(files.join(out, name .. ".pt"), model) end
  local params, names, losses = {}, {}, {}
  for i, p in ipairs(model:parameters()) do params[i], names[i] = p.tensor, p.name end
  local optimizer = xai.optim.sgd { lr = 0.01, momentum = 0.9 }:build { { names = names, params = params } }
  model:train()
  torch.manual_seed(7)
  for k, b in ipairs(list) do
    local scope <close> = core.memory.scope() -- luacheck: ignore
    local logits, aux = model(b.x)
    local loss = torch.cross_entropy(logits, b.y)
    if aux then loss = loss + 0.4 * torch.cross_entropy(aux, b.y) end
    optimizer:zero_grad()
    loss:backward()
    optimizer:step()
    losses[k] = ("%.17g"):format(loss:item())
    if host.interrupted() then error("interrupted", 0) end
  end
  write_lines(files.join(out, name .. "." .. layout .. ".txt"), losses)
  model:close()
end

files.mkdir(out)
local sizes = {}
for _, name in ipairs(networks) do
  local size, resize = 224, 256
  if name == "inception_v3" then size, resize = 299, 299 end
  sizes[size] = sizes[size] or batches(size, resize)
  for _, layout in ipairs { "nchw", "channels_last" } do
    local start = host.now()
    train(name, layout, sizes[size])
    print(("%s %s: %d steps in %.0f s"):format(name, layout, steps, host.now() - start))
  end
end
