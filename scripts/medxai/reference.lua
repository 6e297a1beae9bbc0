-- Everything that takes options, described by the specs that check them: the source of `medxai-run help`,
-- docs/reference and the editor's types. A method or metric is described by its file's leading comment.
local check = require "medxai.base.check"
local files = require "medxai.base.files"
local host = require "medxai.host"
local plugin = require "medxai.base.plugin"

local reference = {}

---@class medxai.Reference.Entry
---@field kind string one of reference.kinds' names
---@field name string
---@field title? string
---@field usage? string how it is written in an experiment
---@field doc string
---@field options? table<string, table> its spec (base/options.lua)
---@field own? table<string, boolean> of a method or metric: the options that are not every method's or metric's
---@field class? string the editor's name of its table of options

--- The kinds in the order in which they are told: { name, title }.
reference.kinds = {
  { "steps", "Steps of an experiment" },
  { "readers", "Readers of data" },
  { "networks", "Networks" },
  { "optimizers", "Optimizers" },
  { "schedules", "Schedules of the learning rate" },
  { "methods", "Methods that explain" },
  { "metrics", "Metrics that judge a map" },
  { "regions", "Regions of an image" },
  { "removals", "Removals: what hidden pixels show" },
  { "functions", "Other functions" },
}

-- "shap_kernel" -> "ShapKernel"
local function camel(name)
  return (("_" .. name):gsub("[^%w]+(%w)", string.upper):gsub("[^%w]", ""))
end

-- ---- what only this file says: how things are called ----------------------------------------------------------------

local function steps()
  local run, model = require "medxai.run.run", require "medxai.steps.explain"
  local function of(name) return require("medxai.steps." .. name) end
  local search = of "search"
  return {
    { name = "run", usage = "local run = xai.run { name = \"mine\" }", options = run.spec,
      doc = "A run: its folder runs/<name>, which holds all that its steps make. The same command goes on "
      .. "after a stop." },
    { name = "fit", usage = "run:fit(model, data, { optim = xai.optim.adam { lr = 0.001 }, epochs = 5 })",
      options = require("medxai.train.options").spec,
      doc = "Trains the model on data.train; the weights with the best score on data.val are kept." },
    { name = "grid", usage = "local search = run:grid { lr = { 0.01, 0.001 }, train = function(cell) ... end }",
      options = search.spec,
      doc = "Trains one model for every combination of the fields' values and keeps the best. Every other option is "
      .. "a field:\n"
        .. "a list of values, one value, or a function of the cell." },
    { name = "evaluate", usage = "run:evaluate(model, data.test)", options = of("evaluate").spec,
      doc = "Predictions and scores of a split with bootstrap intervals: predictions.csv, tables in the report." },
    { name = "cross_evaluate", usage = "run:cross_evaluate { models = { plain = a, masked = b }, splits = { "
      .. "whole = c } }", options = of("cross_evaluate").spec,
      doc = "Every model on every split, with paired differences." },
    { name = "explain", usage = "run:explain(model, data.test, { methods = { \"gradcam\" } })", options = model.spec,
      doc = "Maps of chosen images by chosen methods, judged by metrics and drawn." },
    { name = "overlap", usage = "run:overlap(model, data.test, { methods = { \"gradcam\" }, mask = \"infection\" })",
      options = of("overlap").spec,
      doc = "Maps of all images compared with the data's masks, and with baselines. Takes explain's options as well." },
    { name = "study", usage = "local study = run:study { models = { \"a\", \"b\" }, data = data.test }",
      options = of("study").spec, doc = "Models and images of a comparison, resolved once: for run:networks, "
      .. "run:sanity, run:compare." },
    { name = "networks", usage = "run:networks(study, { primary = \"auroc_macro\" })", options = of("networks").spec,
      doc = "Which network: areas, accuracy, calibration, conformal sets, each pair with its test." },
    { name = "sanity", usage = "run:sanity(study, { methods = { \"gradcam\" } })", options = of("sanity").spec,
      doc = "Whether maps depend on the image, the weights and what was learned; marks what does not on later pages." },
    { name = "compare", usage = "run:compare(study, { methods = ..., metrics = ..., primary = \"road_combined\" })",
      options = of("compare").spec, doc = "Which explanation: every method on every model beside its own "
      .. "chance level." },
    { name = "audit", usage = "run:audit { train = function(cell) ... end }", options = of("audit").spec,
      doc = "Whether a class is told without the lungs, by a cheap probe, by trainings, by hiding parts, by sources." },
    { name = "packet", usage = "run:packet(study, { methods = { \"gradcam\", \"sobel\" } })",
      options = of("packet").spec, doc = "Cases for readers who do not know which map is which method's, in "
      .. "packet/, and the key beside it." },
    { name = "readers", usage = "run:readers { answers = \"answers/*.csv\" }", options = of("readers").spec,
      doc = "What readers answered: ratings, differences of methods, agreement. Opinions of maps, not whether "
      .. "maps help." },
    { name = "report", usage = "run:report()", options = of("report").spec, doc = "Writes report.html." },
  }
end

local function functions()
  local model, loader = require "medxai.nn.model", require "medxai.data.split"
  local torch = getmetatable(require "medxai.torch").__described().functions
  local trained, search = require "medxai.nn.trained", require("medxai.steps.search").search_specs
  return {
    { name = "trained", usage = "local model, data = xai.trained(\"vgg19\")", options = trained.spec,
      doc = "Model and data of a finished run, as its model.json says." },
    { name = "maskmaker", usage = "xai.maskmaker { root = ..., out = ... }",
      options = require("medxai.steps.maskmaker").spec,
      doc = "Writes lung-masked copies of COVID-QU-Ex, for xai.dataset.masked_folders." },
    { name = "weights", usage = "weights = { file = \"best.pt\", strict = false }",
      options = require("medxai.nn.weights").spec, doc = "A network's option weights as a table." },
    { name = "network", usage = "xai.graph.network { name = ..., classes = ..., build = function(g, x) ... end }",
      options = model.spec(), doc = "A network of one's own." },
    { name = "target", usage = "target = { \"predicted\", as = \"softmax\" }",
      options = require("medxai.explain.target").spec,
      doc = "What is explained. The first entry of the table is `what`." },
    { name = "random", usage = "search = { \"random\", n = 10 }", options = search.random,
      doc = "A grid's search: some of the cells, drawn." },
    { name = "halving", usage = "search = { \"halving\", factor = 3 }", options = search.halving,
      doc = "A grid's search: successive halving (Jamieson and Talwalkar 2016)." },
    { name = "loader", usage = "for batch in data.train:loader { batch = 32 } do ... end", options = loader.loader_spec,
      doc = "Batches of a split, made ahead." },
    { name = "batch", usage = "data.test:batch({ 1, 2, 3 })", options = loader.batch_spec,
      doc = "One batch of chosen images." },
    { name = "check", usage = "data:check()", options = require("medxai.data.audit").spec,
      doc = "Reads every image and tells what is wrong with the data, as every training does." },
    { name = "forward", usage = "model:forward { x = x, outputs = { \"features.28\" } }", options = model.forward_spec,
      doc = "A forward pass with named values in and out." },
    { name = "boundary", usage = "model:boundary { override = { \"features.28\" } }",
      options = require("medxai.nn.topology").boundary_spec,
      doc = "Names of the values that such a pass reads from an earlier one." },
    { name = "to", usage = "model:to { device = \"cuda\" }", options = model.to_spec, doc = "Moves a model." },
    { name = "load_state", usage = "model:load_state(state, { strict = false })", options = model.load_state_spec,
      doc = "Copies tensors into a model by name." },
    { name = "randomize", usage = "model:randomize { to = \"features.28\" }", options = model.randomize_spec,
      doc = "A copy with random weights from the output back to a part (Adebayo et al. 2018)." },
    { name = "summary", usage = "print(model:summary { depth = 2 })", options = model.summary_spec,
      doc = "A network as text: names, operators, shapes, parameters." },
    { name = "profile", usage = "print((model:profile { training = true }))", options = model.profile_spec,
      doc = "Where the time of a pass goes: seconds of nodes and operators, forward and backward." },
    { name = "scorer", usage = "scorer.new(model, { budget_mb = 512 })",
      options = require("medxai.perturb.scorer").spec, doc = "Logits of many perturbed images, in chunks." },
    { name = "boundaries", usage = "xai.regions.boundaries(labels)",
      options = require("medxai.perturb.regions").boundaries_spec, doc = "Outlines of regions." },
    { name = "image_and_mask", usage = "image_and_mask(image, labels, weights)",
      options = require("medxai.show.lime_figures").spec, doc = "lime's picture of the regions that matter most." },
    { name = "classification_intervals", usage = "xai.metrics.classification_intervals(labels, probabilities, { "
      .. "patients = ... })", options = require("medxai.stats.classification").interval_spec,
      doc = "Intervals of accuracy, macro F1 and macro AUROC." },
    { name = "units", usage = "units.over(n, patients, { level = 0.95 })", options = require("medxai.stats.units").spec,
      doc = "Patients or images over which statistics are resampled." },
    { name = "tensor", usage = "torch.tensor({ 1, 2 }, { dtype = \"float64\" })", options = torch.tensor,
      doc = "A tensor from Lua values." },
    { name = "Tensor:to", usage = "t:to { dtype = \"float64\" }", options = torch.to,
      doc = "A tensor elsewhere or of another dtype." },
    { name = "interpolate", usage = "torch.interpolate(x, { size = { 7, 7 }, mode = \"bilinear\" })",
      options = torch.interpolate, doc = "Resizes, as torch.nn.functional.interpolate." },
    { name = "unique", usage = "torch.unique(t)", options = torch.unique, doc = "Distinct values, sorted." },
  }
end

-- ---- what the library's parts say of themselves ---------------------------------------------------------------------

-- A Lua file's leading comment, without the dashes.
local function leading_comment(path)
  local lines = {}
  for line in (files.read(path) or ""):gmatch "[^\n]*" do
    local text = line:match "^%-%- ?(.*)$"
    if not text then break end
    lines[#lines + 1] = text
  end
  return table.concat(lines, "\n")
end

local function path_of(folder, name) return ("%s/medxai/%s/%s.lua"):format(host.scripts_dir, folder, name) end

-- Parts of a table that says with __described what it offers: name -> { doc, options }.
local function described(module, kind, usage)
  local list = {}
  for name, one in pairs(getmetatable(require(module)).__described()[kind]) do
    list[#list + 1] = { name = name, doc = one.doc, options = one.options, usage = usage and usage(name) }
  end
  return list
end

local function own_names(options)
  local own = {}
  for name in pairs(options or {}) do own[name] = true end
  return own
end

local function methods()
  local list, registry = {}, require "medxai.explain.registry"
  for _, name in ipairs(plugin.names "explain/methods") do
    local m = require("medxai.explain.methods." .. name)
    list[#list + 1] = { name = name, title = m.title, doc = leading_comment(path_of("explain/methods", name)),
      options = registry.spec { at = m.at or "input", smoothing = m.smoothing, options = m.options },
      own = own_names(m.options), usage = ("methods = { \"%s\" }"):format(name) }
  end
  return list
end

local function metrics()
  local list, registry = {}, require "medxai.score.registry"
  for _, name in ipairs(plugin.names "score/metrics") do
    local m = require("medxai.score.metrics." .. name)
    list[#list + 1] = { name = name, title = m.title, doc = leading_comment(path_of("score/metrics", name)),
      options = registry.spec(m), own = own_names(m.options),
      usage = ("metrics = { \"%s\" }"):format(name) .. (m.needs and m.needs.mask and ", mask = \"lungs\"" or "") }
  end
  return list
end

local function networks()
  local list, model = {}, require "medxai.nn.model"
  for _, name in ipairs(require("medxai.nn.models").names) do
    list[#list + 1] = { name = name, doc = leading_comment(path_of("nn/models", name)),
      options = model.spec(require("medxai.nn.models." .. name)),
      usage = ("xai.models.%s { classes = data.classes, weights = \"imagenet\" }"):format(name) }
  end
  list[#list + 1] = { name = "exported", doc = leading_comment(path_of("nn", "exported")),
    options = require("medxai.nn.exported").spec,
    usage = "xai.models.exported { file = \"net.pt2\", classes = data.classes }" }
  return list
end

local makers = {
  steps = steps, functions = functions, methods = methods, metrics = metrics, networks = networks,
  readers = function()
    return described("medxai.data.readers", "readers", function(n) return "xai.dataset." .. n .. " { ... }" end)
  end, optimizers = function()
    return described("medxai.train.optim", "optimizers", function(n) return "optim = xai.optim." .. n .. " { ... }" end)
  end, schedules = function()
    return described("medxai.train.optim", "schedules", function(n)
      return "schedule = xai.optim." .. n .. " { ... }"
    end)
  end, regions = function()
    return described("medxai.perturb.regions", "regions", function(n) return "regions = { \"" .. n .. "\" }" end)
  end, removals = function()
    return described("medxai.perturb.removal", "removals", function(n) return "removal = \"" .. n .. "\"" end)
  end,
}

local in_order = { steps = true, networks = true, functions = true }

--- The entries of a kind, by name; steps, networks and functions in the order of their use.
---@param kind string
---@return medxai.Reference.Entry[]
function reference.of(kind)
  local list = makers[kind]()
  for _, e in ipairs(list) do
    e.kind = kind
    if e.options and next(e.options) then
      local ending = ({ methods = "Method", metrics = "Metric", regions = "Regions" })[kind] or ""
      e.class = "medxai." .. camel(e.name) .. ending .. "Options"
    end
  end
  if not in_order[kind] then table.sort(list, function(a, b) return a.name < b.name end) end
  return list
end

--- All entries, kind by kind.
---@return medxai.Reference.Entry[]
function reference.all()
  local all = {}
  for _, kind in ipairs(reference.kinds) do
    for _, e in ipairs(reference.of(kind[1])) do all[#all + 1] = e end
  end
  return all
end

-- ---- one option -----------------------------------------------------------------------------------------------------

--- A spec's options in the order in which they are told: those that must be given, then by name; without those of
--- before.
---@return string[]
function reference.names(spec)
  local names = {}
  for _, name in ipairs(check.sorted_keys(spec)) do
    if not (spec[name].now or spec[name].instead) then names[#names + 1] = name end
  end
  table.sort(names, function(a, b)
    local first, second = spec[a].required or false, spec[b].required or false
    if first ~= second then return first end
    return a < b
  end)
  return names
end

--- A value as an experiment would write it.
function reference.literal(value)
  if type(value) == "string" then return ("%q"):format(value) end
  if type(value) ~= "table" then
    return math.type(value) == "float" and ("%.6g"):format(value) or tostring(value)
  end
  local words = {}
  for i, v in ipairs(value) do words[i] = reference.literal(v) end
  return "{ " .. table.concat(words, ", ") .. " }"
end

--- What an option may be, in words: "integer from 1 to 100", "\"a\" or \"b\"".
function reference.type_of(rule)
  local words = {}
  for _, value in ipairs(rule.one_of or {}) do words[#words + 1] = reference.literal(value) end
  for kind in (rule[1] or ""):gmatch "[%w_]+" do
    words[#words + 1] = kind == "table" and rule.of and "list of " .. rule.of .. "s" or kind
  end
  local text = table.concat(words, " or ")
  if rule.min and rule.max then text = ("%s from %s to %s"):format(text, rule.min, rule.max)
  elseif rule.above and rule.max then text = ("%s above %s, at most %s"):format(text, rule.above, rule.max)
  elseif rule.min then text = ("%s, at least %s"):format(text, rule.min)
  elseif rule.above then text = ("%s above %s"):format(text, rule.above)
  elseif rule.max then text = ("%s, at most %s"):format(text, rule.max) end
  return text
end

-- What --smoke makes of an option: "4 with --smoke", "1/50 with --smoke".
local function smoke_of(smoke)
  if type(smoke) == "table" then return ("1/%d with --smoke"):format(smoke.divide_by) end
  return (type(smoke) == "number" and "at most " or "") .. reference.literal(smoke) .. " with --smoke"
end

--- What is said besides the type: "required", "default 1, images, --batch".
function reference.facts_of(name, rule)
  local facts = {}
  if rule.required then facts[1] = "required" end
  if rule.default ~= nil then
    facts[1] = "default " .. reference.literal(rule.default) .. (rule.unit and " " .. rule.unit or "")
  elseif rule.unit then
    facts[#facts + 1] = "in " .. rule.unit
  end
  if rule.field then facts[#facts + 1] = "--" .. (rule.field == true and name or rule.field) end
  if rule.smoke ~= nil then facts[#facts + 1] = smoke_of(rule.smoke) end
  return facts
end

return reference
