-- An explain step while it is worked on: what was asked for, resolved, and what its parts tell each other. It is made
-- here and nowhere else; the maker of maps (explain/runner.lua), their judge (score/runner.lua) and the figures
-- (show/gallery.lua) read it.
local canon = require "medxai.base.json"
local check = require "medxai.base.check"
local chunks = require "medxai.tensor.chunks"
local code = require "medxai.base.fingerprint"
local files = require "medxai.base.files"
local host = require "medxai.host"
local map = require "medxai.explain.map"
local scorers = require "medxai.explain.scorers"
local store = require "medxai.explain.store"

---@class medxai.ExplainEntry one method with its settings; every image gets one map of it
---@field method table the method (explain/registry.lua)
---@field options table the method's own options
---@field layers string[]|nil nodes whose maps are averaged; nil: the method works on the input
---@field description table the target (explain/target.lua)
---@field compat string|nil
---@field aug_smooth boolean
---@field eigen_smooth boolean
---@field budget_mb number|nil memory for chunks, where it is not the step's
---@field settings table everything that determines its maps, as plain data
---@field set string folder of its maps: the method's name and the beginning of the settings' hash
---@field title string the method's title with what was done to its maps
---@field label string what tells it apart from the other entries in tables and figures

---@class medxai.ExplainJob
---@field run medxai.Run
---@field model medxai.Model in evaluation
---@field split medxai.Split
---@field chosen integer[] numbers of the images in the split
---@field entries medxai.ExplainEntry[]
---@field metric_entries table[] the metrics (score/registry.lua)
---@field by_metric table<string, table> id of a metric's value -> its entry
---@field labels table<string, string> set of an entry -> its label
---@field weights string SHA-256 of the model's weights
---@field store table the maps on disk (explain/store.lua)
---@field batch integer|nil images per pass; nil: as many as fit
---@field budget_bytes integer memory for a batch, and for chunks of changed images
---@field deterministic boolean passes of a fixed number of images
---@field compat string|nil the library whose numbers metrics follow
---@field layers string[] nodes whose activations shared passes keep
---@field gradients string[] nodes, and "x" (the input), at which gradients are wanted
---@field bases string[] nodes from which partial passes start
---@field aliased boolean some entry sees activations as pytorch-grad-cam does, after a rectifier in place
---@field scorers fun(budget_bytes: number): medxai.Scorers scores of changed images under a budget
---@field scorer table that of float32 under budget_bytes
---@field exhibits table<integer, table<string, table>>|nil of these images metrics keep curves and pictures, by set
---@field failures table[] maps that could not be made: { label, path, problem, count }, the same problem once
---@field seconds table<string, number> what making the maps of a set took
---@field metric_seconds table<string, number> what a metric took, by the id of its entry
---@field images table|nil of a loose job: how many images one pass takes (tensor/chunks.lua)
local Job = {}
Job.__index = Job

local job = {}

-- ---- what the shared passes have to keep ----------------------------------------------------------------------------

local function adder(list)
  local seen = {}
  return function(name)
    if not seen[name] then list[#list + 1] = name end
    seen[name] = true
  end
end

-- The union of layers in the order in which they are named, those (and "x", the input) at which gradients are wanted,
-- and those from which partial passes start.
local function gather_layers(self)
  local layer_of, gradient_of, base_of = adder(self.layers), adder(self.gradients), adder(self.bases)
  for _, e in ipairs(self.entries) do
    local needs = e.method.needs
    for _, layer in ipairs(e.layers or {}) do
      layer_of(layer)
      if needs.gradient then gradient_of(layer) end
      if needs.base then base_of(layer) end
    end
    if needs.gradient and not e.layers then gradient_of "x" end
    self.aliased = self.aliased or e.compat ~= nil
  end
end

-- ---- what identifies an entry's maps --------------------------------------------------------------------------------

-- The contents of the mask files that an entry's maps are made of: those through which the network sees the images,
-- and those that its method reads (a researcher's own may read any). nil where there are none.
local function masks_of(e, split, input)
  local m = e.method
  local found = { input = input, regions = require("medxai.perturb.regions").files_sha256(e.options.regions, split) }
  local names = split.masks_sha256 and (m.masks and m.masks(e.options)
    or not m.masks and m.own and split.data.masks) or {}
  for _, name in ipairs(names) do found[name] = split:masks_sha256(name) end
  return next(found) and found or nil
end

--- What determines the maps of one entry (e.settings), and the folder name made of it (e.set).
---@param self table model, split, weights, run
---@param e medxai.ExplainEntry
---@param input_masks? string
function job.name_set(self, e, input_masks)
  local m, split = e.method, self.split
  e.settings = { method = m.name, version = m.version, map = map.version,
    source = m.source and files.sha256(m.source) or "medxai", options = code.plain(e.options),
    layers = canon.list(e.layers or {}), target = e.description.text,
    compat = e.compat or "none", aug_smooth = e.aug_smooth, eigen_smooth = e.eigen_smooth, model = self.model.config,
    weights = self.weights, input = split.data and split.data.config or {}, masks = masks_of(e, split, input_masks),
    seed = (m.rng or m.own) and self.run.seed or nil } -- an own one may draw from anywhere
  e.set = m.name .. "-" .. canon.hash(e.settings):sub(1, 8)
end

-- ---- what an entry is called ----------------------------------------------------------------------------------------

-- A method's title with what was done to its maps.
local function title_of(e)
  local words = { e.method.title }
  if e.method.approximate then words[2] = e.method.approximate(e.options) end
  if e.aug_smooth and e.eigen_smooth then words[#words + 1] = "smoothed"
  elseif e.aug_smooth then words[#words + 1] = "aug smooth"
  elseif e.eigen_smooth then words[#words + 1] = "eigen smooth" end
  return table.concat(words, ", ")
end

-- "percentile 25": the options in which an entry differs from others of its method.
local function differing_options(e, entries)
  local words = {}
  for _, key in ipairs(check.sorted_keys(e.options)) do
    local value = code.setting(e.options[key])
    for _, other in ipairs(entries) do
      if other.method.name == e.method.name and code.setting(other.options[key]) ~= value then
        words[#words + 1] = ", " .. key:gsub("_", " ") .. " " .. value
        break
      end
    end
  end
  return table.concat(words)
end

local function all_differ(entries, text_of)
  local seen = {}
  for _, e in ipairs(entries) do
    local text = text_of(e)
    if seen[text] then return false end
    seen[text] = true
  end
  return true
end

-- What tells the entries apart: the title, and where that is not enough options, layer, target or folder.
local function label_entries(entries)
  for _, e in ipairs(entries) do e.title = title_of(e) end
  local function with_options(e) return e.title .. differing_options(e, entries) end
  local function with_layer(e) return e.title .. (e.layers and ", " .. table.concat(e.layers, " + ") or "") end
  local function with_target(e) return with_layer(e) .. ", " .. e.description.text end
  local chosen = function(e) return e.title .. ", " .. e.set:match "%x+$" end
  for _, text_of in ipairs { with_target, with_layer, with_options, function(e) return e.title end } do
    if all_differ(entries, text_of) then chosen = text_of end
  end
  for _, e in ipairs(entries) do e.label = chosen(e) end
end

-- ---- the job --------------------------------------------------------------------------------------------------------

--- A job for chosen images. Completes the entries: settings, set, title and label.
---@param run medxai.Run
---@param model medxai.Model
---@param split medxai.Split
---@param asked table run:explain's options, checked, with entries and metric_entries
---@param chosen integer[]
---@return medxai.ExplainJob
function job.new(run, model, split, asked, chosen)
  local self = setmetatable({ run = run, model = model, split = split, chosen = chosen, entries = asked.entries,
    metric_entries = asked.metric_entries, by_metric = {}, labels = {}, weights = model:sha256(),
    store = store.open(run.dir, run.leases and run.leases.worker),
    batch = asked.batch, budget_bytes = chunks.budget(model.device, asked.budget_mb),
    deterministic = asked.deterministic,
    compat = asked.compat, layers = {}, gradients = {}, bases = {}, aliased = false, failures = {}, seconds = {},
    metric_seconds = {}, _failed = {} }, Job)
  for _, m in ipairs(asked.metric_entries) do
    for _, id in ipairs(m.ids) do self.by_metric[id] = m end
  end
  gather_layers(self)
  self.scorers = scorers.by_budget(model, asked.deterministic)
  self.scorer = self.scorers(self.budget_bytes):of "float32"
  local input_masks = split.input_masks_sha256 and split:input_masks_sha256() or nil
  local seen = {}
  for _, e in ipairs(asked.entries) do
    job.name_set(self, e, input_masks)
    if seen[e.set] then
      check.fail("explain", "method '%s' is asked for twice with the same settings.", e.method.name)
    end
    seen[e.set] = true
  end
  label_entries(asked.entries)
  for _, e in ipairs(asked.entries) do self.labels[e.set] = e.label end
  return self
end

--- A job whose maps are asked for with runner.maps_of: of a changed image or of another network, kept nowhere.
---@param o table model (in evaluation), split, entries (complete: description, layers), run = { seed }, budget_bytes,
---  deterministic
---@return medxai.ExplainJob
function job.loose(o)
  local self = setmetatable({ run = o.run, model = o.model, split = o.split, chosen = {}, entries = o.entries,
    metric_entries = {}, by_metric = {}, labels = {}, budget_bytes = o.budget_bytes or 1 << 30,
    deterministic = o.deterministic or false, layers = {}, gradients = {}, bases = {}, aliased = false, failures = {},
    seconds = {}, metric_seconds = {}, _failed = {} }, Job)
  for _, e in ipairs(self.entries) do e.set = e.set or e.method.name end
  gather_layers(self)
  self.scorers = scorers.by_budget(o.model, self.deterministic)
  self.scorer = self.scorers(self.budget_bytes):of "float32"
  self.images = chunks.new { device = o.model.device, budget_bytes = self.budget_bytes,
    deterministic = o.deterministic }
  return self
end

--- Writes a line to standard output; nothing under --quiet.
---@param fmt string
function Job.say(_, fmt, ...)
  if not host.options.quiet then io.stdout:write(string.format(fmt, ...), "\n") end
end

--- The record of an image's map: target, status, files, settings; nil where it was not made.
---@param e medxai.ExplainEntry
---@param number integer
---@return table|nil
function Job:record(e, number) return self.store.records[e.set .. "/" .. self.split:item(number).id] end

--- The records of all images by all entries, in the order of the images: a list whose members are read when they are
--- asked for.
---@return table
function Job:records()
  local n, chosen = #self.entries, self.chosen
  return setmetatable({}, {
    __len = function() return #chosen * n end,
    __index = function(_, k)
      local number = math.type(k) == "integer" and k >= 1 and chosen[(k - 1) // n + 1]
      return number and self:record(self.entries[(k - 1) % n + 1], number) or nil
    end,
  })
end

--- Notes that a map could not be made.
---@param e medxai.ExplainEntry
---@param path any the image
---@param problem string
function Job:count_failure(e, path, problem)
  local key = e.label .. "\0" .. problem
  local failure = self._failed[key]
  if not failure then
    failure = { label = e.label, path = tostring(path), problem = problem, count = 0 }
    self._failed[key], self.failures[#self.failures + 1] = failure, failure
  end
  failure.count = failure.count + 1
end

return job
