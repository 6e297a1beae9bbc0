-- model.json beside a run's weights.pt: the settings without which the weights do not give that run's answers. What a
-- network computes (head, transform_input, layout ...) and what it is shown (sizes, mask, mean and std ...). They are
-- written after a training, taken where a model is built from the run's weights, and compared with the model and the
-- data used with them. It refuses a setting that differs, naming both values, unless the model's `force` names it.
local check = require "medxai.base.check"
local canon = require "medxai.base.json"
local files = require "medxai.base.files"
local host = require "medxai.host"

local model_file = {}

---@class medxai.WeightsOf where a model's weights come from: model.weights_of
---@field run string the run, as the experiment names it
---@field described table its model.json
---@field force table<string, boolean> settings that may differ
---@field differs string[] those of the model that do, in words

-- The settings, in the order in which they are told; graph: of a network of one's own, a hash of what it computes.
local of_model = { { "network" }, { "classes" }, { "head" }, { "hidden" }, { "transform_input" }, { "graph" },
  { "dtype" }, { "layout" }, { "engine" }, { "outputs" } }
local of_data = { { "size_px" }, { "resize_px" }, { "interpolation" }, { "channels" }, { "range" }, { "mean" },
  { "std" }, { "white_16bit" }, { "input" }, { "mask_resize" }, { "window" } }

-- Options of a model that are the run's where the experiment leaves them out.
local restored = { "head", "hidden", "transform_input", "dtype", "engine", "outputs" }

--- The names that `force` may hold: all settings but the network itself.
---@return string[]
function model_file.settings()
  local names = {}
  for _, list in ipairs { of_model, of_data } do
    for _, setting in ipairs(list) do
      if setting[1] ~= "network" then names[#names + 1] = setting[1] end
    end
  end
  return names
end

-- ---- writing and reading ------------------------------------------------------------------------------------------

-- "cpu" or "cuda": of a device's name, or where that is nil of the one that --device says.
local function kind_of(device) return (device or host.options.device or "cpu"):match "^%a+" end

local function of_this_model(model, key)
  if key == "network" then return model.name end
  if key == "graph" then return model.graph_signature end
  if key == "outputs" or key == "classes" or key == "dtype" or key == "layout"
      or key == "engine" then return model[key] end
  return (model.config or {})[key]
end

--- The settings of a model and of the data it was trained on, as model.json holds them.
---@param model medxai.Model
---@param data medxai.Dataset
---@return table
function model_file.describe(model, data)
  local out = { format = "medxai.model", device = kind_of(model.device), config = model.config,
    train_depth = model.config.train_depth, data = data:description() }
  for _, setting in ipairs(of_model) do out[setting[1]] = of_this_model(model, setting[1]) end
  for key, value in pairs(data:preparation()) do out[key] = value end
  out.classes = canon.list(out.classes)
  return out
end

-- Earlier model.json files called the input "mask" or "input_mode", and the whole image "none".
local function with_input(described)
  local function word(mask) return mask == "none" and "whole" or mask end
  described.input, described.input_mode = described.input or word(described.input_mode), nil
  local options = type(described.data) == "table" and described.data.options
  if type(options) == "table" and options.mask then options.input, options.mask = word(options.mask), nil end
end

--- What the model.json in a folder says; nil where there is none.
---@param folder string
---@return table|nil
function model_file.read(folder)
  local path = files.join(folder, "model.json")
  local text = files.read(path)
  if not text or not text:find("medxai.model", 1, true) then return nil end -- other programs name files so, too
  local described = canon.read(text, path)
  if type(described) ~= "table" or described.format ~= "medxai.model" then return nil end
  described.mean, described.std = described.mean or { 0, 0, 0 }, described.std or { 1, 1, 1 } -- early files lack them
  with_input(described)
  return described
end

--- Makes a run the one that a model's weights come from.
---@param model medxai.Model
---@param run string
---@param described table its model.json
---@param differs? string[] from check_model
function model_file.belongs(model, run, described, differs)
  model.weights_of = { run = run, described = described, force = model.force or {}, differs = differs or {} }
end

-- ---- comparing ------------------------------------------------------------------------------------------------------

local function same(a, b)
  if type(a) ~= "table" or type(b) ~= "table" then return a == b end
  for key, value in pairs(a) do
    if not same(value, b[key]) then return false end
  end
  for key in pairs(b) do
    if a[key] == nil then return false end
  end
  return true
end

local function shown(value)
  if type(value) == "string" or type(value) == "boolean" then return tostring(value) end
  if type(value) == "number" then
    local short = ("%.15g"):format(value)
    return tonumber(short) == value and short or canon.number(value)
  end
  if #value == 0 then return canon.write(value) end
  local parts = {}
  for i, item in ipairs(value) do parts[i] = shown(item) end
  return table.concat(parts, ", ")
end

-- The run's value of a setting. The same layout gives the same bits on the same kind of device alone.
local function theirs_of(described, key, device)
  if key == "layout" and described.device ~= device then return nil end
  if described[key] ~= nil then return described[key] end
  return type(described.config) == "table" and described.config[key] or nil
end

-- Compares one setting: nil where both agree or one is not known; a sentence where force allows the difference.
local function compare(run, setting, theirs, ours, force)
  if theirs == nil or ours == nil or same(theirs, ours) then return nil end
  local name, there, here = setting[1], shown(theirs), shown(ours)
  if name == "network" then
    check.fail("weights", "the run '%s' has the network %s (here: %s). Use the same, or other weights.", run, there,
      here)
  end
  if not force[name] then
    check.fail("weights", "the run '%s' has %s %s (here: %s). Use the same, or other weights; where the difference is "
      .. "meant, write force = { '%s' } in the model's options.", run, name, there, here, name)
  end
  check.warn("weights", "%s is %s here, and %s in the run '%s': force allows it.", name, here, there, run)
  return ("%s: the run '%s' had %s, here it is %s"):format(name, run, there, here)
end

--- Raises unless a model is the one that its run's model.json describes.
---@param model medxai.Model
---@param run string
---@param described table
---@param force? table<string, boolean>
---@return string[] the differences that force allows
function model_file.check_model(model, run, described, force)
  local list = {}
  for _, setting in ipairs(of_model) do
    local theirs = theirs_of(described, setting[1], kind_of(model.device))
    list[#list + 1] = compare(run, setting, theirs, of_this_model(model, setting[1]), force or {})
  end
  return list
end

--- Raises unless data are prepared as those were that the model was trained on. What force allows is told, and noted in
--- the run.
---@param run medxai.Run in whose steps the data are used
---@param model medxai.Model
---@param data medxai.Dataset
---@param options? { any_mask?: boolean } any_mask: a comparison of masks is what the step is for
function model_file.check_data(run, model, data, options)
  local of = model.weights_of
  if not of then return end
  local preparation, list = data:preparation(), table.move(of.differs, 1, #of.differs, 1, {})
  for _, setting in ipairs(of_data) do
    if not (setting[1] == "input" and options and options.any_mask) then
      list[#list + 1] = compare(of.run, setting, of.described[setting[1]], preparation[setting[1]], of.force)
    end
  end
  if #list > 0 then run:note_differences(list) end
end

-- ---- taking ---------------------------------------------------------------------------------------------------------

--- The set of settings that may differ from a model's `force`; raises where one is unknown.
---@param what string
---@param list? string[]
---@return table<string, boolean>
function model_file.force(what, list)
  local set = {}
  local known = model_file.settings()
  for _, name in ipairs(list or {}) do
    if name == "mask" then check.fail(what .. ": force", "the setting 'mask' is now 'input'.") end
    set[check.known(what .. ": force", "setting", name, known)] = true
  end
  return set
end

--- Fills options of a model that the experiment leaves out with those of the run whose weights it takes.
---@param o table options, changed
---@param run string
---@param described table
---@param usual table what the options would be otherwise
---@return string|nil text which were not the usual ones: "as the run 'first' was trained: head = torchvision"
function model_file.take(o, run, described, usual)
  local taken = {}
  local function take(key, value)
    if o[key] ~= nil or value == nil then return end
    o[key] = value
    if value ~= usual[key] then taken[#taken + 1] = key .. " = " .. shown(value) end
  end
  for _, key in ipairs(restored) do take(key, theirs_of(described, key)) end
  take("layout", theirs_of(described, "layout", kind_of(o.device)))
  if o.classes == nil then o.classes = described.classes end
  return #taken > 0 and ("as the run '%s' was trained: %s"):format(run, table.concat(taken, ", ")) or nil
end

return model_file
