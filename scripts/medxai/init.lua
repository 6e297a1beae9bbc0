-- The library's front door: `local xai = require "medxai"`. Its parts are opened when they are first named, so a file
-- that only parses a table never opens libtorch. It refuses unknown names, offering the nearest.
local check = require "medxai.base.check"

---@class medxai
---@field run fun(options: medxai.RunOptions): medxai.Run a run folder and its steps: fit, evaluate, explain, report
---@field dataset medxai.Datasets readers: covid_qu_ex, folders, masked_folders, manifest, files, phantom, from,
---   and of published data sets chexpert, covid19_radiography, mimic_cxr_jpg, nih_chestxray14, padchest,
---   rsna_pneumonia, vindr_cxr
--- model and data of an earlier run
---@field trained fun(run: string, options?: medxai.TrainedOptions): medxai.Model, medxai.Dataset
---@field models medxai.Models the seven networks
---@field optim medxai.Optim optimizers and schedules: sgd, adam, adamw, rmsprop, step_lr ...
---@field graph table the builder of networks
---@field metrics medxai.Metrics arithmetic metrics over labels and probabilities
---@field maskmaker fun(options: medxai.MaskmakerOptions): table writes lung-masked copies of a data set
---@field save fun(path: string, value: table) writes a model or plain nested data as .pt or .safetensors
---@field load fun(path: string): table reads .pt, .pth and .safetensors
--- writes nested tables of tensors, numbers, texts and booleans as .pt
---@field save_checkpoint fun(path: string, value: table)
---@field load_checkpoint fun(path: string): any reads them, or what torch.save wrote of plain data
---@field torch table the operators of libtorch
---@field tensor fun(data: any, options?: table): medxai.Tensor a tensor of numbers
---@field random table keyed random numbers
---@field scope fun(): table frees every tensor made in this coroutine while it is open
---@field memory fun(): table bytes and tensors that are alive
---@field removal table for methods and metrics of your own: takes pixels out of images
---@field regions table the same: cuts images into regions
---@field scorer table the same: scores of many changed images, in chunks that fit into memory
---@field target table the same: what a map explains, as a score
---@field map table the same: enlarging, averaging and judging maps
---@field figure table the same: pictures and charts
local xai = {}

-- name -> { module, fields of it ... }
local parts = {
  run             = { "medxai.run.run", "new" },
  dataset         = { "medxai.data.readers" },
  trained         = { "medxai.nn.trained", "open" },
  models          = { "medxai.nn.models" },
  optim           = { "medxai.train.optim" },
  graph           = { "medxai.nn.graph" },
  metrics         = { "medxai.stats.classification" },
  maskmaker       = { "medxai.steps.maskmaker", "run" },
  save            = { "medxai.nn.checkpoint", "save_any" },
  load            = { "medxai.nn.checkpoint", "load" },
  save_checkpoint = { "medxai.nn.checkpoint", "save_checkpoint" },
  load_checkpoint = { "medxai.nn.checkpoint", "load_checkpoint" },
  torch           = { "medxai.torch" },
  tensor          = { "medxai.torch", "tensor" },
  random          = { "medxai.tensor.random" },
  scope           = { "medxai.core", "memory", "scope" },
  memory          = { "medxai.core", "memory" },
  removal         = { "medxai.perturb.removal" },
  regions         = { "medxai.perturb.regions" },
  scorer          = { "medxai.perturb.scorer" },
  target          = { "medxai.explain.target" },
  map             = { "medxai.explain.map" },
  figure          = { "medxai.show.figure" },
}

local instead = { -- names of before -> what to write
  smoke_count = "Give the option smoke = { divide_by = 50, least = 2 } in the options of your method or metric.",
}

return setmetatable(xai, {
  __index = function(self, name)
    local part = parts[name]
    if instead[name] then check.mistake("medxai", "there is no '%s' any more. %s", name, instead[name]) end
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
