-- What the tests of run:sanity share: a study of tiny networks on phantoms, and as much of a run as the step asks for.
local files = require "medxai.base.files"
local frame = require "medxai.score.frame"
local graph = require "medxai.nn.graph"
local host = require "medxai.host"
local torch = require "medxai.torch"

local tiny = {}

tiny.classes = { "clear", "nodule", "opacity" }

--- conv1 - norm1 - relu1 - conv2 - relu2 - pool - fc, with weights of a seed.
function tiny.network(seed)
  local model = graph.network {
    name = "tiny", classes = tiny.classes, size_px = 32, cam_layer = "conv2",
    build = function(g, x)
      x = g:relu("relu1", g:batch_norm2d("norm1", g:conv2d("conv1", x, { 3, 8, 3, stride = 2, padding = 1 }), 8))
      x = g:relu("relu2", g:conv2d("conv2", x, { 8, 12, 3, stride = 2, padding = 1 }))
      x = g:flatten("flat", g:adaptive_avg_pool2d("pool", x, 1))
      return g:linear("fc", x, { 12, 3 })
    end,
  }
  torch.no_grad(function()
    for _, entry in ipairs(model:state()) do
      local t = entry.tensor
      if t.dtype == "float32" and not entry.name:find "running" then
        local scope <close> = require("medxai.core").memory.scope() -- luacheck: ignore
        local stream = require("medxai.core").rng.stream { seed = seed, purpose = "tinygate@1", id = entry.name }
        local drawn = stream:normal(t:numel()):view(t.shape) * 0.3
        if entry.name == "norm1.weight" then drawn = drawn:abs() + 0.5 end
        t:copy_(drawn)
      end
    end
  end)
  return model:eval()
end

local Model = {}
Model.__index = Model

function Model:open()
  self.model = self.model or self.make()
  return self.model, self.data
end

function Model:close()
  if self.model then self.model:close() end
  self.model = nil
end

--- A study of n phantoms; models: list of { name, network, seed, make }.
function tiny.study(run, n, models, o)
  local data = require("medxai.data.readers").phantom { size_px = 32, n_train = 0, n_val = 0, n_test = 3 * n, seed = 7 }
  local split, study = data.test, { run = run, seed = run.seed, target = o and o.target or "true",
    classes = data.classes, images = {}, models = {} }
  for i = 1, n do
    local item = split:item(i)
    study.images[i] = { id = item.id, index = i, path = item.path, patient = o and o.patient and o.patient(i) or "p"
      .. i, source = "made",
      label = item.label, class = item.class }
  end
  for k, m in ipairs(models) do
    local places = {}
    for i = 1, n do places[i] = i end
    study.models[k] = setmetatable({ name = m.name, run = m.name, network = m.network, train_seed = m.seed,
      input = "whole", data = data,
      split = split, places = places, make = m.make or function() return tiny.network(m.seed) end }, Model)
  end
  function study.shared_rectangle(_, i)
    local places = {}
    for k, m in ipairs(study.models) do places[k] = m.split:geometry(m.places[i]) end
    return frame.shared(places)
  end
  function study:close()
    for _, m in ipairs(self.models) do m:close() end
  end
  return study
end

-- A claim that nobody else wants.
local function nothing() return setmetatable({}, { __close = function() end }) end

--- As much of a run as run:sanity asks for, in a folder.
function tiny.run(dir)
  local run = { dir = dir, name = "tiny", seed = 42, warnings = {}, beats = 0,
    leases = { take = nothing, wait = nothing } }
  function run:step(name, fields)
    local path = dir .. "/steps/" .. name .. ".json"
    local stored = files.read_data(path)
    local step = { name = name, fields = fields, done = stored ~= nil, result = stored, stored = stored }
    function step.begin() self.begun = true end
    function step.finish(s, result)
      files.write_data(path, result)
      s.result = result
    end
    return step
  end
  run.joined_step = run.step
  function run:warn(text) self.warnings[#self.warnings + 1] = text end
  function run:heartbeat()
    self.beats = self.beats + 1
    if self.on_beat then self.on_beat(self.beats) end
  end
  function run.clock() return setmetatable({}, { __close = function() end }) end
  for _, name in ipairs { "prepare", "configure", "take_over", "skipped", "time" } do run[name] = function() end end
  return run
end

tiny.torch, tiny.host = torch, host

return tiny
