-- The library's front door: `local xai = require "medxai"`. Its parts are opened when they are first named, so a file
-- that only parses a table never opens libtorch. It refuses unknown names, offering the nearest.
local check = require "medxai.check"

---@class medxai
---@field run fun(options: table): medxai.Run a run folder and its steps: fit, evaluate, explain, report
---@field dataset table readers: covid_qu_ex, folders, masked_folders, manifest, files, phantom
---@field models table<string, fun(options: table): table> the seven networks
---@field optim table optimizers and schedules: sgd, adam, adamw, rmsprop, step_lr ...
---@field graph table the builder of networks
---@field metrics medxai.Metrics arithmetic metrics over labels and probabilities
---@field scope fun(): table frees every tensor made in this coroutine while it is open
---@field memory fun(): table bytes and tensors that are alive
---@field maskmaker fun(options: table): table writes lung-masked copies of a data set
---@field save fun(path: string, value: table) writes a model or plain nested data as .pt or .safetensors
---@field load fun(path: string): table reads .pt, .pth and .safetensors
local xai = {}

-- name -> { module, fields of it ... }
local parts = {
  run        = { "medxai.run", "new" },
  dataset    = { "medxai.dataset" },
  models     = { "medxai.models" },
  model      = { "medxai.model" },
  optim      = { "medxai.optim" },
  random     = { "medxai.random" },
  graph      = { "medxai.graph" },
  metrics    = { "medxai.metrics" },
  files      = { "medxai.files" },
  canon      = { "medxai.canon" },
  check      = { "medxai.check" },
  explain    = { "medxai.explain" },
  target     = { "medxai.target" },
  map        = { "medxai.map" },
  metric     = { "medxai.metric" },
  regions    = { "medxai.regions" },
  figure     = { "medxai.figure" },
  store      = { "medxai.store" },
  weights    = { "medxai.weights" },
  torch      = { "medxai.torch" },
  maskmaker  = { "medxai.maskmaker" },
  tensor     = { "medxai.torch", "tensor" },
  save       = { "medxai.store", "save_any" },
  load       = { "medxai.store", "load" },
  save_checkpoint = { "medxai.store", "save_checkpoint" },
  load_checkpoint = { "medxai.store", "load_checkpoint" },
  scope      = { "medxai.core", "memory", "scope" },
  memory     = { "medxai.core", "memory" },
}

return setmetatable(xai, {
  __index = function(self, name)
    local part = parts[name]
    if not part then check.known("medxai", "name", name, check.sorted_keys(parts)) end
    local value = require(part[1])
    for i = 2, #part do value = value[part[i]] end
    rawset(self, name, value)
    return value
  end,
  __names = function() return check.sorted_keys(parts) end, -- for completion at the prompt
  __newindex = function(_, name)
    check.fail("medxai", "the library is not changed from outside (got medxai.%s = ...). Use a local.", tostring(name))
  end,
})
