-- Model and data of an earlier run, as its model.json says: xai.trained "vgg19". What changes a number is the run's:
-- network, head, hidden units, transform_input, layout, weights; reader, folder, sizes, mask, mean and std, white
-- level. A network that PyTorch exported is the run's own file of it. It refuses runs that do not say how they were
-- trained, and networks that an experiment built itself.
local check = require "medxai.base.check"
local Options = require "medxai.base.options"
local exported_file = require "medxai.nn.exported_file"
local host = require "medxai.host"
local models = require "medxai.nn.models"
local readers = require "medxai.data.readers"
local weights = require "medxai.nn.weights"

local spec = {
  run = { "string", required = true, doc = "its name, as in runs/<name>, or a path into its folder" },
  data = { "table", doc = "options of the run's reader in place of the run's own: { root = \"elsewhere\" }" },
  force = { "table", of = "string", doc = "settings that differ on purpose: { \"size_px\" }; told, and in the report" },
  sizes = { one_of = { "trained", "thesis" }, field = true, default = "trained",
    doc = "thesis: where the thesis explained images of another size than it trained on, that size" },
}

local function fail(run, fmt, ...) check.fail("trained", "the run '%s' " .. fmt, run, ...) end

-- What builds the network of a run: the constructor of one of the seven, or that of exported ones for the run's own
-- file.
local function constructor(run, described, weights_path)
  if exported_file.of_run(weights_path) then return models.exported end
  for _, name in ipairs(models.names) do
    if name == described.network then return models[name] end
  end
  fail(run, "has a network of its own, '%s' (expected %s). Build it as its experiment does, with weights = '%s'.",
    tostring(described.network), table.concat(models.names, ", "), run)
end

-- The model.json of a run, complete enough to build on, and the constructor of its network.
local function describe(run)
  if run == "imagenet" or run == "random" then
    check.fail("trained", "'%s' is no run. Use xai.models.NAME { classes = ..., weights = '%s' }.", run, run)
  end
  local found = weights.find(run, "trained")
  local described = found.described
  if not described then
    fail(run, "has no model.json: how it was trained is not known. Use xai.models.NAME { classes = ..., weights "
      .. "= '%s' } "
      .. "with the settings of its training.", run)
  end
  local build = constructor(run, described, found.path)
  if type(described.data) ~= "table" or type(described.data.options) ~= "table" then
    fail(run, "does not say which data it was trained on. Read them with xai.dataset.NAME, and use "
      .. "xai.models.%s { weights = '%s' }.", described.network, run)
  end
  return described, build
end

-- What the thesis changed about the images between training and explaining: { size_px = 224 } or nothing.
local function thesis_sizes(described, build)
  local network = build ~= models.exported and require("medxai.nn.models." .. described.network) or {}
  return (network.thesis_sizes or {})[described.input] or {}
end

-- The options of the run's reader with others in their place. Labels are the true ones: permuted ones serve a training.
local function data_options(described, build, o)
  local options = {}
  for key, value in pairs(described.data.options) do options[key] = value end
  options.labels = nil
  if o.sizes == "thesis" then
    for key, value in pairs(thesis_sizes(described, build)) do options[key] = value end
  end
  for key, value in pairs(o.data or {}) do options[key] = value end
  return options
end

-- The settings in which model and data may differ from the run: those that the experiment names, and the thesis' sizes.
local function forced(described, build, o)
  local list = table.move(o.force or {}, 1, #(o.force or {}), 1, {})
  if o.sizes == "thesis" then
    for _, key in ipairs(check.sorted_keys(thesis_sizes(described, build))) do list[#list + 1] = key end
  end
  return #list > 0 and list or nil
end

--- Model and data of an earlier run (xai.trained), as its model.json says, for evaluating and explaining: every part of
--- the model is trainable, and its training's dropout and train_depth are not taken over. Options of the command line
--- replace those of the run's reader as ever (--data DIR, --limit 50); a setting that changes what the network sees,
--- other than the run's, is an error in the first step that uses both, unless `force` names it.
---   data   options of the run's reader in place of the run's own: { root = "elsewhere", part = "infection" }
---   force  settings that differ on purpose: { "size_px" }; told, and in the report
---   sizes  "trained" (default), or "thesis": where the thesis explained images of another size than it trained on
---          (mobilenet_v2, whole images: 224 px instead of 225), that size; told, and in the report. Field: --sizes
---@param run string its name, as in runs/<name>; or a path into its folder
---@param options? { data?: table, force?: string[], sizes?: "trained"|"thesis" }
---@return medxai.Model
---@return medxai.Dataset
local function open(run, options)
  if type(options) == "table" and options.run ~= nil then
    check.fail("trained", "option 'run' is given twice. Write xai.trained(\"%s\").", tostring(run))
  end
  if run == nil then
    check.fail("trained", "no run is named (expected its name, as in xai.trained(\"vgg19\"); for xai.trained(run.of): "
      .. "--of vgg19 behind the experiment, or xai.run { of = \"vgg19\" }).")
  end
  local all = { run = run }
  for key, value in pairs(options or {}) do all[key] = value end
  local o = Options.check("trained", all, spec)
  local described, build = describe(o.run)
  local data = readers[described.data.reader](data_options(described, build, o))
  local model = build { weights = o.run, force = forced(described, build, o) }
  if not host.options.quiet then
    io.stderr:write(("trained: %s and %s as in the run '%s'\n"):format(model.name, tostring(data), o.run))
  end
  return model, data
end

return { spec = spec, open = open }
