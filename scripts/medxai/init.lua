-- The library's front door: `local xai = require "medxai"`. Its parts are opened when they are first named, so a file
-- that only parses a table never opens libtorch. It refuses unknown names, offering the nearest.
local check = require "medxai.base.options"

---@class medxai
---@field run fun(options: table): medxai.Run a run folder and its steps: fit, evaluate, explain, report
---@field dataset table readers: covid_qu_ex, folders, masked_folders, manifest, files, phantom
---@field trained fun(run: string, options?: table): medxai.Model, medxai.Dataset model and data of an earlier run
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
  run        = { "medxai.run.run", "new" },
  dataset    = { "medxai.data.readers" },
  models     = { "medxai.nn.models" },
  trained    = { "medxai.nn.trained" },
  model      = { "medxai.nn.model" },
  optim      = { "medxai.train.optim" },
  random     = { "medxai.tensor.random" },
  graph      = { "medxai.nn.graph" },
  metrics    = { "medxai.stats.classification" },
  files      = { "medxai.base.files" },
  canon      = { "medxai.base.json" },
  check      = { "medxai.base.options" },
  explain    = { "medxai.steps.explain" },
  target     = { "medxai.explain.target" },
  map        = { "medxai.explain.map" },
  metric     = { "medxai.score.registry" },
  regions    = { "medxai.perturb.regions" },
  figure     = { "medxai.show.figure" },
  store      = { "medxai.nn.checkpoint" },
  weights    = { "medxai.nn.weights" },
  torch      = { "medxai.torch" },
  maskmaker  = { "medxai.steps.maskmaker" },
  tensor     = { "medxai.torch", "tensor" },
  save       = { "medxai.nn.checkpoint", "save_any" },
  load       = { "medxai.nn.checkpoint", "load" },
  save_checkpoint = { "medxai.nn.checkpoint", "save_checkpoint" },
  load_checkpoint = { "medxai.nn.checkpoint", "load_checkpoint" },
  scope      = { "medxai.core", "memory", "scope" },
  memory     = { "medxai.core", "memory" },
}

return setmetatable(xai, {
  __index = function(self, name)
    local part = parts[name]
    if not part then check.known("medxai", "name", name, check.sorted_keys(parts)) end
    local value = require(part[1])
    if name == "run" then value.register(require "medxai.verbs") end
    for i = 2, #part do value = value[part[i]] end
    rawset(self, name, value)
    return value
  end,
  __names = function() return check.sorted_keys(parts) end, -- for completion at the prompt
  __newindex = function(_, name)
    check.fail("medxai", "the library is not changed from outside (got medxai.%s = ...). Use a local.", tostring(name))
  end,
})
