-- A model: a graph of named nodes with its own tensors. Built by xai.models.<network> and xai.graph.network.
--   model(x) -> logits (and auxiliary logits of inception_v3 in train mode); honors train/eval and grad mode.
--   model:forward { x =, outputs = { names }, override = { [name] = tensor }, base = { [name] = tensor },
--     grad_from = { names } } -> name -> tensor
-- Names are torchvision's node names, each block's name for its output, "x" and "output". It refuses names that do not
-- exist, inputs of another dtype or shape, and to load weights that do not fit.
-- A constructor only describes the network. Its tensors are made, drawn and loaded when they are first needed, so that
-- a search over many models holds one of them at a time.
local canon = require "medxai.base.json"
local check = require "medxai.base.check"
local Options = require "medxai.base.options"
local current_seed = require "medxai.run.current_seed"
local host = require "medxai.host"
local model_file = require "medxai.nn.model_file"
local core = require "medxai.core"
local graph = require "medxai.nn.builder"
local initialize = require "medxai.nn.initialize"
local summary = require "medxai.nn.summary"
local profile = require "medxai.nn.profile"
local topology = require "medxai.nn.topology"
local torch = require "medxai.torch"

local model = {}

---@class medxai.Model
---@field name string network
---@field classes string[] class k of the logits is classes[k + 1]
---@field num_classes integer
---@field outputs "softmax"|"sigmoid" sigmoid: its classes are findings, each there or not
---@field config table what determines the network, for hashing
---@field size_px integer side of the images it is made for
---@field resize_px integer short side before the crop
---@field cam_layer string where Grad-CAM looks
---@field compare_layers string[] four layers, deep to shallow
---@field shap_layer string what the CAM layer reads: where the thesis took gradient SHAP
---@field shap_gradient_samples integer the thesis' samples for gradient SHAP with this network
---@field shap_kernel_samples integer the same for kernel SHAP
---@field head_name string
---@field device string
---@field dtype string
---@field layout string "nchw" or "channels_last"
---@field engine string "auto" or "reference": its option engine
local Model = {}
Model.__name = "medxai.model"
for name, method in pairs(topology.methods) do Model[name] = method end

local is_under = topology.is_under

local layouts = { nchw = 1, channels_last = 2 }

-- Runs f with the tensors made meanwhile freed afterwards, and without autograd.
local function quietly(f, ...)
  local scope <close> = core.memory.scope()
  return torch.no_grad(f, ...)
end

-- ---- construction ---------------------------------------------------------------------------------------------------

local function class_list(what, classes)
  if type(classes) == "number" then
    local n = math.tointeger(classes)
    if not n or n < 1 then
      check.fail(what, "option 'classes' is wrong (expected a list of names or a whole number from 1, got %s).",
        classes)
    end
    local list = {}
    for i = 1, n do list[i] = tostring(i - 1) end
    return list
  end
  if #classes < 1 then
    check.fail(what, "option 'classes' is an empty list. Give the names of the classes, or their number.")
  end
  local list, seen = {}, {}
  for i, name in ipairs(classes) do
    if type(name) ~= "string" then check.fail(what, "class %d is a %s (expected a name).", i, type(name)) end
    if seen[name] then check.fail(what, "class '%s' is named twice.", name) end
    seen[name], list[i] = true, name
  end
  return list
end

-- "features.4..7" -> features.4, features.5, features.6, features.7
local function expand_parts(parts)
  if type(parts) == "table" then return parts end
  local stem, first, last = parts:match("^(.*)%.(%d+)%.%.(%d+)$")
  local list = {}
  for i = tonumber(first), tonumber(last) do list[#list + 1] = stem .. "." .. i end
  return list
end

-- The finished graph as the model reads it; shared by clones.
local function define(g, output, aux)
  local def = { name = g.name, native = g.native, nodes = g.nodes, ids = g.ids, slots = g.slots, modules = g.modules,
    kinds = g.kinds, functional = g.functional, reads = g.reads, chances = g.chances, block_ends = g.block_ends,
    output = output.id, aux = aux and aux.id, shapes = g.shapes, batches = g.batches, in_place = g.in_place,
    picks = g.picks, counts = g.counts, attentions = g.attentions }
  g.ids.output = g.ids.output or output.id
  return def
end

local function new_model(def, options, network)
  return setmetatable({
    name = def.name, classes = options.class_list, num_classes = #options.class_list, outputs = options.outputs,
    head_name = network.head_name or (network.head_parts or {})[1],
    size_px = network.size_px, resize_px = network.resize_px, cam_layer = network.cam_layer,
    compare_layers = network.compare_layers, shap_layer = network.shap_layer,
    shap_gradient_samples = network.shap_gradient_samples, shap_kernel_samples = network.shap_kernel_samples,
    config = options.config, device = "cpu", dtype = "float32", layout = "nchw",
    _def = def, _options = options, _network = network, _training = true, _parts = {},
    _main = { def.output }, _both = def.aux and { def.output, def.aux } or { def.output },
  }, Model)
end

-- Batch norms, dropout and stochastic depth outside self._open stay in eval mode; self._open nil: none do.
local function keep_frozen_in_eval(self)
  if not self._open then return end
  for id, kind in pairs(self._def.kinds) do
    if kind == "mode" then self._state:set_eval(id, not is_under(self._def.nodes[id], self._open)) end
  end
end

-- The parts that train_depth opens: the head and what lies behind it, or the head and those named; nil where all is
-- open.
local function open_parts_of(o, network)
  if o.train_depth == "all" then return nil end
  local open = {}
  for _, part in ipairs(network.head_parts or {}) do open[#open + 1] = part end
  if type(o.train_depth) == "table" then
    table.move(o.train_depth, 1, #o.train_depth, #open + 1, open)
  elseif o.train_depth > 0 then
    for _, part in ipairs(expand_parts(network.depths[o.train_depth])) do open[#open + 1] = part end
  end
  return open
end

-- Opens and freezes single parameters of a part; whether there are any.
local function set_part(self, part, trainable)
  local known = false
  for i, slot in ipairs(self._def.slots) do
    if slot.kind == "parameter" and is_under(slot.name, { part }) then
      self._state:set_requires_grad(i, trainable)
      known = true
    end
  end
  return known
end

-- Freezes what train_depth leaves frozen; then what was opened or frozen part by part.
local function freeze(self)
  local open = open_parts_of(self._options, self._network)
  for i, slot in ipairs(self._def.slots) do
    if slot.kind == "parameter" then self._state:set_requires_grad(i, not open or is_under(slot.name, open)) end
  end
  for _, one in ipairs(self._parts) do set_part(self, one.part, one.trainable) end
  keep_frozen_in_eval(self)
end

local function auto_layout(network, device)
  local table_ = network.channels_last or {}
  return table_[device:match("^%a+")] and "channels_last" or "nchw"
end

-- Finds the initial weights, as o.found. Where ImageNet's file is absent and the experiment allows it, training starts
-- from random weights, all of them trained.
local function find_weights(what, o)
  local found, why = require("medxai.nn.weights").find(o.weights, what, { on_missing = o.on_missing })
  o.found = found
  if not why then return end
  check.warn(what, "ImageNet weights are absent (%s): starts from random weights, and every layer is trained "
    .. "(train_depth %s would freeze random features).", why, o.train_depth)
  o.train_depth, o.weights = "all", "random"
end

-- Options that are left out are those of the run that the weights come from, or else the usual ones.
local function fill_options(what, o, network)
  local found, device = o.found, (o.device or host.options.device or "cpu")
  local usual = { head = not network.make and "thesis" or nil, hidden = network.hidden, dtype = "float32",
    outputs = "softmax", transform_input = false, layout = auto_layout(network, device), engine = "auto" }
  o.force = model_file.force(what, o.force)
  local text = found and found.described and model_file.take(o, found.run, found.described, usual)
  if text and not host.options.quiet then io.stderr:write("weights: ", text, "\n") end
  if o.classes == nil then
    check.fail(what, "option 'classes' is missing (expected table or integer). Add classes = ... to it.")
  end
  o.head, o.dtype, o.layout = o.head or usual.head, o.dtype or usual.dtype, o.layout or "auto"
  o.engine, o.outputs = o.engine or usual.engine, o.outputs or usual.outputs
  o.class_list = class_list(what, o.classes)
  o.num_classes = #o.class_list
end

-- Inception's transform_input where neither the experiment nor a run says it: torchvision's weights were made with it.
local function transform_of(what, o)
  if o.weights == "imagenet" then return true end
  local path = o.found and o.found.kind == "file" and o.found.path
  if not path then return false end
  if require("medxai.nn.weights").is_imagenet(path, what) then return true end
  check.warn(what, "'%s' does not say whether transform_input was on, false is taken: say which, for the answers "
    .. "differ.", path)
  return false
end

local function layout_of(network, o)
  local device = o.device or host.options.device or "cpu"
  return o.layout == "auto" and auto_layout(network, device) or o.layout, device
end

-- Draws with a generator that begins at the model's seed, and leaves torch's own as it was.
local function with_generator(seed, f)
  if not seed then return f() end
  local before = torch.get_rng_state()
  torch.manual_seed(seed)
  local ok, problem = pcall(f)
  torch.set_rng_state(before)
  before:close()
  if not ok then error(problem, 0) end
end

-- Makes the tensors: drawn as torchvision draws them, then moved, then loaded from where the weights come.
local function build(self)
  local target = { device = self.device, dtype = self.dtype, layout = self.layout }
  local o = self._options
  rawset(self, "_state", self._def.native:state(#self._def.slots))
  self.device, self.dtype, self.layout = "cpu", "float32", "nchw"
  local ok, problem = pcall(core.memory.unscoped, function()
    with_generator(o.seed, function() quietly(self._network.make or initialize.fill, self, self._network, o.late) end)
    self:to(target)
    freeze(self)
    if o.found and o.found.kind ~= "exported" then require("medxai.nn.weights").load(self, o.found) end
  end)
  if ok then return self._state end
  self._state:close()
  self._state = nil
  self.device, self.dtype, self.layout = target.device, target.dtype, target.layout
  error(problem, 0)
end

-- Methods, and the tensors when they are first asked for.
function Model:__index(key)
  local value = Model[key]
  if value == nil and key == "_state" then
    if self._closed then check.fail(self.name, "the model is closed. Make a new one.") end
    return build(self)
  end
  return value
end

-- What a constructor knows before there are tensors. Without a seed the weights are drawn at once, from torch's
-- generator as it is now; with one that generator begins at the seed, as if they had been.
local function finish(self, o)
  o.seed = o.seed or current_seed.get()
  self.layout, self.device = layout_of(self._network, o)
  self.dtype, self.engine, self.force = o.dtype, o.engine, o.force
  if o.engine ~= "auto" then self.config.engine = o.engine end
  if o.frozen == "eval" then self._open = open_parts_of(o, self._network) end
  local of_run = o.found and o.found.described
  if of_run then
    self.start_run = { run = o.found.run, weights_sha256 = of_run.weights_sha256,
      val_manifest_sha256 = of_run.val_manifest_sha256 }
    model_file.belongs(self, o.found.run, of_run, model_file.check_model(self, o.found.run, of_run, o.force))
  end
  if o.seed then torch.manual_seed(o.seed) else build(self) end
  return self
end

-- The configuration with parts that were opened or frozen one by one: what a training's key has to know.
local function config_with(config, parts)
  local new, trainable = {}, {}
  for k, v in pairs(config) do new[k] = v end
  for k, v in pairs(config.trainable or {}) do trainable[k] = v end
  for k, v in pairs(parts) do trainable[k] = v end
  new.trainable = trainable
  return new
end

local common = {
  classes = { "table|integer", lua = "string[]|integer",
    doc = "names in the order of the logits, or their number; required, but where the weights are a run's" },
  weights = { "string|table", field = true, fields = require("medxai.nn.weights").spec,
    doc = "\"random\" (default), \"imagenet\", a file, or a run by its name or folder, whose settings come with it" },
  force = { "table", of = "string",
    doc = "settings in which model or data differ on purpose from the run of the weights: { \"size_px\" }" },
  on_missing = { one_of = { "error", "scratch" }, default = "error",
    doc = "where ImageNet's file cannot be had; scratch: begin with random weights, and say so" },
  layout = { one_of = { "auto", "nchw", "channels_last" },
    doc = "of activations in memory; auto (default): the faster one, fixed per network and device" },
  engine = { one_of = { "auto", "reference" },
    doc = "auto (default): passes without gradients go through the inference plan where it can; reference: never" },
  outputs = { one_of = { "softmax", "sigmoid" },
    doc = "what makes probabilities of logits; default softmax, of classes that exclude each other; sigmoid: findings, "
      .. "each there or not" },
  dtype = { one_of = { "float32", "float64" }, field = true, doc = "of weights and activations; default float32" },
  device = { "string", doc = "cpu, cuda or cuda:N; default: what --device says" },
  seed = { "integer", doc = "of the weights that are drawn; default: the run's" },
  pretrained = { instead = "Write weights = \"imagenet\"." },
  other_size = { now = "force = { 'size_px', 'resize_px' }" },
  weights_from_other_data = { now = "force, with the settings that differ: force = { 'input' }" },
}

local function with(spec, more)
  local all = {}
  for k, v in pairs(spec) do all[k] = v end
  for k, v in pairs(more or {}) do all[k] = v end
  return all
end

local torchvision_spec = with(common, {
  head = { one_of = { "thesis", "torchvision" }, field = true,
    doc = "thesis (default): fc1, ReLU, dropout, fc2 (squeezenet1_0: a convolution); torchvision: the network's own" },
  hidden = { "integer", field = true, min = 1,
    doc = "units of the thesis' head; default: the thesis' for this network" },
  train_depth = { one_of = { 0, 1, 2, 3, "all" }, field = true, default = "all",
    doc = "what is trained: 0 the head alone, 1 to 3 that many parts of the network behind it, all everything" },
  frozen = { one_of = { "train", "eval" }, field = true, default = "train",
    doc = "batch norms and stochastic depth of the frozen part; train: they go on as in training (as the thesis did)" },
  dropout = { "number", field = true, min = 0, max = 1, doc = "of the head; default: 0.5, or torchvision's own" },
})

-- The options of one of the seven networks.
local function spec_of(network)
  local spec = with(torchvision_spec, network.options)
  if not network.hidden then spec.hidden = nil end
  return spec
end

local own_spec = with(common, {
  name = { "string", required = true, doc = "of the network, in records and figures" },
  build = { "function", required = true, lua = "fun(g: medxai.Builder, x: medxai.Value): medxai.Value, medxai.Value?",
    doc = "(g, x) -> the logits' value; g adds operators, see xai.graph" },
  size_px = { "integer", min = 1, unit = "px", doc = "side of the images it is made for" },
  resize_px = { "integer", min = 1, unit = "px", doc = "short side before the crop; default size_px" },
  cam_layer = { "string", doc = "name of the node where Grad-CAM looks" },
  compare_layers = { "table", of = "string", doc = "names of nodes, deep to shallow, for each_layer" },
  head_parts = { "table", of = "string", doc = "names of parts that stay trained when the rest is frozen" },
})

-- For the reference (medxai.reference): the options of a network by its name.
function model.spec(network) return network and spec_of(network) or own_spec end

local hashed = { "head", "hidden", "train_depth", "frozen", "dropout", "own_dropout", "stochastic_depth",
  "transform_input", "dtype", "weights" }

--- One of the seven networks; its options are spec_of(network).
---@param network table a file of models/
---@param options table
---@return medxai.Model
function model.new(network, options)
  local o = Options.check(network.name, options, spec_of(network))
  find_weights(network.name, o)
  fill_options(network.name, o, network)
  o.hidden = o.head == "thesis" and (o.hidden or network.hidden) or nil
  o.own_dropout = o.dropout or 0.5
  o.dropout = o.dropout or (type(network.dropout) == "table" and network.dropout[o.head] or network.dropout)
  if network.options and network.options.transform_input and o.transform_input == nil then
    o.transform_input = transform_of(network.name, o)
  end
  o.config = { network = network.name, classes = o.class_list }
  for _, key in ipairs(hashed) do o.config[key] = o[key] end
  if network.name ~= "inception_v3" then o.config.own_dropout = nil end
  local g, x = graph.builder(network.name)
  local def = define(g, network.build(g, x, o))
  function o.late(m) return o.head == "thesis" and not m.ghost and is_under(m.name, network.head_parts) end
  return finish(new_model(def, o, network), o)
end

--- The options that every model has and those of `more`, for constructors of other modules (exported.lua).
---@param more table<string, table>
---@return table<string, table> spec
function model.spec_with(more) return with(common, more) end

--- Fills in checked options: network.make(self) makes the tensors.
function model.fill(what, o, network) fill_options(what, o, network) end

--- The model of a described graph. o: checked and filled options, with config and late; network: name, size_px, make
--- ...
---@return medxai.Model
function model.assemble(o, network, g, output)
  return finish(new_model(define(g, output), o, network), o)
end

--- A network of one's own (see medxai.nn.builder); its options are own_spec.
---@return medxai.Model
function model.own(options)
  local o = Options.check("network", options, own_spec)
  o.train_depth, o.frozen = "all", "train"
  find_weights(o.name, o)
  fill_options(o.name, o, {})
  local g, x = graph.builder(o.name)
  local output, aux = o.build(g, x)
  if type(output) ~= "table" or not output.id then
    check.fail(o.name, "build gives %s (expected the logits' value). Return it.", type(output))
  end
  o.config = { network = o.name, classes = o.class_list, dtype = o.dtype, weights = o.weights, build = g:signature() }
  function o.late() return false end
  local network = { name = o.name, size_px = o.size_px, resize_px = o.resize_px or o.size_px, cam_layer = o.cam_layer,
    compare_layers = o.compare_layers, head_parts = o.head_parts }
  local self = new_model(define(g, output, aux), o, network)
  self.graph_signature = g:forward_signature()
  if o.cam_layer then self:_id(o.cam_layer) end
  return finish(self, o)
end

-- ---- running --------------------------------------------------------------------------------------------------------

local function shape_text(t) return table.concat(t.shape, "x") end

-- x as this model takes it: right rank, channels and dtype, on the model's device.
local function input(self, x)
  if type(x) ~= "userdata" then check.fail(self.name, "the input is a %s (expected a tensor N,3,H,W).", type(x)) end
  if x.device ~= self.device then x = x:to(self.device) end
  if self._network.options or self._network.depths then
    local shape = x.shape
    if #shape ~= 4 or shape[2] ~= 3 then
      check.fail(self.name, "the input has shape %s (expected N,3,H,W).%s", shape_text(x),
        #shape == 3 and shape[1] == 3 and " Use x:unsqueeze(0)." or "")
    end
    local least = self._training and self._network.min_train_px or self._network.min_px
    if least and (shape[3] < least or shape[4] < least) then
      check.fail(self.name, "the input is %dx%d pixels (expected at least %dx%d%s).", shape[3], shape[4], least, least,
        least == self._network.min_px and "" or " in train mode, for the auxiliary branch")
    end
  end
  if self._network.check_input then self._network.check_input(self, x) end
  if x.dtype ~= self.dtype then
    check.fail(self.name, "the input is %s, the network %s. Use x:to('%s').", x.dtype, self.dtype, self.dtype)
  end
  return x
end

local function tell_clamped(self)
  check.warn(self.name, "libtorch %s has no bfloat16 gradient of ReLU6 on CPU: clamp(0, 6) runs instead, whose "
    .. "gradient at exactly 0 and 6 is 1, not 0.", core.tensor.torch_version())
end

-- With --trace: what the inference plan left to the node by node pass, once.
local function tell_left(self, note)
  if not host.options.trace or note == "" or self._left == note then return end
  self._left = note
  io.stderr:write(self.name, ": runs node by node: ", note, "\n")
end

--- Logits (N, classes); in train mode of a network with an auxiliary branch also its logits.
function Model:__call(x)
  local out, clamped, note = self._state:run {
    x = input(self, x), outputs = self._training and self._both or self._main, training = self._training,
    layout = layouts[self.layout], infer = self.engine ~= "reference",
  }
  if clamped then tell_clamped(self) end
  tell_left(self, note)
  return out[1], out[2]
end

local function flatten_named(self, named, what)
  local ids, tensors = {}, {}
  for _, name in ipairs(check.sorted_keys(named or {})) do
    if type(named[name]) ~= "userdata" then
      check.fail(self.name .. ": forward", "%s['%s'] is a %s (expected a tensor).", what, tostring(name),
        type(named[name]))
    end
    ids[#ids + 1], tensors[#tensors + 1] = self:_id(name), named[name]
  end
  return ids, tensors
end

local function ids_of(self, names)
  local ids = {}
  for i, name in ipairs(names or {}) do ids[i] = self:_id(name) end
  return ids
end

local forward_spec = {
  x = { "tensor", doc = "the input (N, 3, H, W); may be missing where base and override give all that is read" },
  outputs = { "table", of = "string", doc = "names whose values are kept and returned; default { \"output\" }" },
  override = { "table", lua = "table<string, medxai.Tensor>",
    doc = "name -> tensor in the place of that value; only what descends from one is computed again" },
  base = { "table", lua = "table<string, medxai.Tensor>",
    doc = "name -> tensor of an earlier run, for what no override reaches; batch 1 is expanded to the override's" },
  grad_from = { "table", of = "string", doc = "names where gradients begin; they come back as leaves" },
  guided = { "boolean|table", lua = "boolean|string[]",
    doc = "rectifiers pass positive gradients only: true (all), or names of rectifiers" },
  fold = { "boolean", doc = "fold batch norms into convolutions; default: in eval mode without gradients" },
  each = { "function", lua = "fun(name: string, value: medxai.Tensor): boolean|nil",
    doc = "called after every node in order; true stops the run there" },
}
model.forward_spec = forward_spec

--- A pass with named outputs.
---   x         the input; may be missing where base and override give all that is read
---   outputs   names (default { "output" }); their activations are kept, all others freed after their last use
---   override  name -> tensor put in the place of that value; only what descends from one is computed again
---   base      name -> tensor of an earlier run, for what no override reaches; batch 1 is expanded to the override's
---             batch
---   grad_from names where gradients begin: no grad before them; they come back as leaves (or as part of the recorded
---             graph, where they descend from another one), for torch.autograd.grad
---   guided    rectifiers pass positive gradients only: true (all of them) or names of rectifiers
---             (Model:nonlinearities)
---   fold      batch norms folded into convolutions (default: in eval mode without grad and without grad_from; with
---             grad_from they fold where asked for, and the folded parameters get no gradients); false: nor is the
---             inference plan used
---   each      function(name, tensor) called after every node in order; true stops the run there. The tensor is open
---             during the call only: clone what is to be kept
---@param request table
---@return table<string, table> tensors by name: outputs and grad_from
function Model:forward(request)
  local r = Options.check(self.name .. ": forward", request, forward_spec)
  local names = r.outputs or { "output" }
  local result, outputs = {}, ids_of(self, names)
  local override, override_tensors = flatten_named(self, r.override, "override")
  local base, base_tensors = flatten_named(self, r.base, "base")
  local leaves = ids_of(self, r.grad_from)
  local wanted = table.move(outputs, 1, #outputs, 1, {})
  table.move(leaves, 1, #leaves, #wanted + 1, wanted)
  local nodes = self._def.nodes
  local rectifiers = type(r.guided) == "table" and ids_of(self, r.guided) or nil
  local guided = rectifiers and #rectifiers > 0 or r.guided == true -- an empty list: none
  local tensors, clamped, note = self._state:run {
    x = r.x and input(self, r.x), outputs = wanted, override = override, override_tensors = override_tensors,
    base = base, base_tensors = base_tensors, leaves = leaves, training = self._training, guided = guided,
    rectifiers = rectifiers, fold = r.fold, layout = layouts[self.layout],
    infer = self.engine ~= "reference" and r.fold ~= false,
    each = r.each and function(id, t) return r.each(nodes[id], t) end,
  }
  if clamped then tell_clamped(self) end
  tell_left(self, note)
  for i, name in ipairs(names) do result[name] = tensors[i] or nil end
  for i, name in ipairs(r.grad_from or {}) do result[name] = result[name] or tensors[#names + i] or nil end
  return result
end

--- The name of the first node whose output holds a NaN or infinity for this input, or nil.
---@return string|nil
function Model:find_nonfinite(x)
  local found
  quietly(function()
    self:forward { x = x, fold = false, each = function(name, t)
      local scope <close> = core.memory.scope()
      if not t:isfinite():all():item() then found = name end
      return found ~= nil
    end }
  end)
  return found
end

-- ---- modes, parameters ----------------------------------------------------------------------------------------------

function Model:train()
  if rawget(self, "_state") then self._state:drop_folded() end
  self._training = true
  return self
end

function Model:eval()
  self._training = false
  return self
end

--- From here on batch norms in training take their moments over the batches of all processes of a group; nil: over
--- their own batch.
---@param group userdata|nil core.dist's
function Model:sync_batch_norms(group) self._state:sync(group) end

---@return boolean
function Model:is_training() return self._training end

local function listed(self, kind)
  local list = {}
  for i, slot in ipairs(self._def.slots) do
    if (not kind or slot.kind == kind and not slot.tied) and slot.kind ~= "constant" then
      local entry = { name = slot.name, tensor = self._state:get(i), tied = slot.tied and true or nil }
      if kind == "parameter" then entry.trainable = self._state:requires_grad(i) end
      list[#list + 1] = entry
    end
  end
  return list
end

--- List of { name =, tensor =, trainable = } in torchvision's order.
function Model:parameters() return listed(self, "parameter") end
--- List of { name =, tensor = }: running statistics and counters of batch norms.
function Model:buffers() return listed(self, "buffer") end
--- Parameters and buffers in the order of torchvision's state_dict: list of { name =, tensor =, tied = }; tied: a
--- further name of a tensor that stands in the list already, or later.
function Model:state() return listed(self) end

--- The layers that hold parameters, in torchvision's order: list of { name =, kind = "conv2d"|"batch_norm2d"|"linear"|
--- "parameter", weight =, bias =, running_mean =, running_var =, eps = }, tensors where there are such; weight_name
--- ...: what the tensors are called.
function Model:modules()
  local list = {}
  for _, m in ipairs(self._def.modules) do
    if not m.ghost then
      local entry = { name = m.name, kind = m.kind, eps = m.eps }
      for _, key in ipairs { "weight", "bias", "running_mean", "running_var" } do
        if m[key] then entry[key], entry[key .. "_name"] = self._state:get(m[key].slot), m[key].name end
      end
      list[#list + 1] = entry
    end
  end
  return list
end

--- Forgets all gradients.
function Model:zero_grad() self._state:zero_grad() end

--- The names of what model(x) gives in the present mode: the logits, and in training those of an auxiliary branch.
---@return string[]
function Model:output_names()
  local names = {}
  for i, id in ipairs(self._training and self._both or self._main) do names[i] = self._def.nodes[id] end
  return names
end

--- Whether a node (batch norm, dropout, stochastic depth) stays in evaluation while the model trains: frozen = "eval".
---@param name string
---@return boolean
function Model:stays_in_eval(name) return self._open ~= nil and not is_under(name, self._open) end

--- A number that changes when a parameter or buffer is replaced or written to.
---@return integer
function Model:version() return self._state:version() end

--- SHA-256 over the names, types, shapes and bytes of parameters and buffers, in order; kept while nothing is written
--- to them.
---@return string 64 hex digits
function Model:sha256()
  local version = self:version()
  if self._hashed and self._hashed.version == version then return self._hashed.hex end
  local scope <close> = core.memory.scope()
  local hash = core.image.sha256_stream()
  for _, entry in ipairs(self:state()) do
    local tensor = entry.tensor:detach():cpu():contiguous()
    hash:update(canon.write { entry.name, tensor.dtype, canon.list(tensor.shape) }):update(tensor)
    tensor:close()
  end
  self._hashed = { version = version, hex = hash:hex() }
  return self._hashed.hex
end

--- Frees all tensors now; the model cannot be used afterwards.
function Model:close()
  if rawget(self, "_state") then self._state:close() end
  self._state, self._closed = nil, true
end
Model.__close = Model.close

--- Frees all tensors now; when they are next needed they are made again as they were at the start.
function Model:reset()
  if rawget(self, "_state") then self._state:close() end
  self._state, self._hashed = nil, nil
  return self
end

--- Where the weights come from at the start, as plain data: { kind = "random", seed } or { kind =
--- "ImageNet"|"file"|"run", sha256 }.
function Model:start()
  local found = self._options.found
  if not found then return { kind = "random", seed = self._options.seed } end
  return { kind = found.kind, sha256 = require("medxai.base.files").sha256_file(found.path) }
end

--- Freezes or opens single parts: parts = { ["features.28"] = true, classifier = false } by block or parameter name.
---@param parts table<string, boolean>
function Model:set_trainable(parts)
  local slots = self._def.slots
  for _, part in ipairs(check.sorted_keys(parts)) do
    local known = false
    for _, slot in ipairs(slots) do known = known or slot.kind == "parameter" and is_under(slot.name, { part }) end
    if not known then check.known(self.name, "part", part, topology.names(self._def)) end
    self._parts[#self._parts + 1] = { part = part, trainable = parts[part] }
    if rawget(self, "_state") then set_part(self, part, parts[part]) end
  end
  self.config = config_with(self.config, parts)
end

-- Several names of one tensor go on being that.
local function tie(def, state)
  for i, slot in ipairs(def.slots) do
    if slot.tied then state:set(i, state:get(slot.tied)) end
  end
end

-- ---- moving, loading, copying ---------------------------------------------------------------------------------------

model.to_spec = {
  device = { "string", doc = "cpu, cuda or cuda:N" },
  dtype = { one_of = { "float32", "float64", "bfloat16" }, doc = "bfloat16: for forward passes" },
  layout = { one_of = { "nchw", "channels_last" }, doc = "of activations in memory" },
}

--- Moves the model: { device =, dtype = "float32"|"float64"|"bfloat16" (for forward passes), layout =
--- "nchw"|"channels_last" }. The tensor objects stay the same, what they hold is new: build the optimizer afterwards.
function Model:to(where)
  local o = Options.check(self.name .. ": to", where, model.to_spec)
  local device, dtype, layout = o.device or self.device, o.dtype or self.dtype, o.layout or self.layout
  quietly(function()
    for i, slot in ipairs(self._def.slots) do
      local t, trained = self._state:get(i), self._state:requires_grad(i)
      local new = t:detach()
      if device ~= self.device then new = new:to(device) end
      if slot.dtype == "float32" and dtype ~= new.dtype then new = new:to(dtype) end
      if #slot.shape == 4 then
        new = new:contiguous { memory_format = layout == "channels_last" and "channels_last" or "contiguous_format" }
      end
      self._state:set(i, new)
      if trained then self._state:set_requires_grad(i, true) end
    end
    tie(self._def, self._state)
  end)
  self.device, self.dtype, self.layout = device, dtype, layout
  return self
end

model.load_state_spec = {
  strict = { "boolean", default = true, doc = "raise, and load nothing, unless all tensors fit" },
  what = { "string", doc = "where they come from, for errors" },
}

--- Copies tensors into the model by name (medxai.nn.match); dtypes and devices are converted.
---@param source medxai.Named[]|table<string, userdata> list of { name =, tensor = } or name -> tensor
---@param options? table { strict = true: raise, and load nothing, unless all fits; what = "file name" for errors }
---@return medxai.Match report
function Model:load_state(source, options)
  local o = Options.check(self.name .. ": load_state", options, model.load_state_spec)
  local match = require "medxai.nn.match"
  local scope <close> = core.memory.scope() -- luacheck: ignore
  return match.load_into(self:state(), match.named(source), { what = self.name, from = o.what, strict = o.strict })
end

--- A copy with its own tensors; the graph is shared.
---@return medxai.Model
function Model:clone()
  local copy = new_model(self._def, self._options, self._network)
  local state = self._state
  copy._state = self._def.native:state(#self._def.slots)
  for key, value in pairs(self) do
    if type(key) == "string" and key:sub(1, 1) ~= "_" then copy[key] = value end
  end
  copy._training = self._training
  quietly(function()
    for i in ipairs(self._def.slots) do
      copy._state:set(i, state:get(i):detach():clone())
      copy._state:set_requires_grad(i, state:requires_grad(i))
    end
    tie(self._def, copy._state)
  end)
  copy._open, copy._parts = self._open, table.move(self._parts, 1, #self._parts, 1, {})
  keep_frozen_in_eval(copy)
  return copy
end

--- A copy that has this model's own tensors, not copies of them, until one is replaced: for passes with other weights.
---@return medxai.Model
function Model:shadow()
  local copy, state = new_model(self._def, self._options, self._network), self._state
  copy._state = self._def.native:state(#self._def.slots)
  for key, value in pairs(self) do
    if type(key) == "string" and key:sub(1, 1) ~= "_" then copy[key] = value end
  end
  copy._training = self._training
  for i in ipairs(self._def.slots) do copy._state:set(i, state:get(i):detach()) end
  return copy
end

--- Another tensor in the place of one of the model's, of the same shape; the old one is left as it is.
---@param name string of a parameter or buffer
---@param tensor medxai.Tensor
function Model:replace(name, tensor)
  for i, slot in ipairs(self._def.slots) do
    if slot.name == name then return self._state:set(i, tensor) end
  end
  check.fail(self.name, "there is no tensor '%s' to be replaced.", tostring(name))
end

model.randomize_spec = {
  from = { "string", doc = "where the cascade begins; default \"output\"" },
  to = { "string", doc = "name of the part where it ends, that part included" },
  only = { "string", doc = "name of the one part that is drawn again, instead of a cascade" },
  seed = { "integer", doc = "of the weights; default: the run's" },
}

--- The layers with weights (convolutions, linear ones) in forward order: for cascades of random weights.
---@return { name: string, last: string }[] last: the node before the next such layer, with this one's norm and
---   rectifier
function Model:weighted_layers()
  local list, nodes = {}, self._def.nodes
  for _, m in ipairs(self._def.modules) do
    if m.node and m.fan_in and self._def.ids[m.name] then list[#list + 1] = { name = m.name, id = m.node.id } end
  end
  table.sort(list, function(a, b) return a.id < b.id end)
  local out = {}
  for i, layer in ipairs(list) do
    out[i] = { name = layer.name, last = nodes[list[i + 1] and list[i + 1].id - 1 or #nodes] }
  end
  return out
end

--- A copy whose weights are random from the output back to a part, that part included (cascading), or in one part
--- alone. Layers are taken in the reverse of forward order. Each layer's numbers depend on the seed and its name alone,
--- so a longer cascade keeps those of a shorter one.
---@param options table { to = NAME [, from = "output"] } or { only = NAME }, seed = 0
---@return medxai.Model
function Model:randomize(options)
  local o = Options.check(self.name .. ": randomize", options, model.randomize_spec)
  o.seed = o.seed or current_seed.get() or 0
  if (o.only == nil) == (o.to == nil) then
    check.fail(self.name .. ": randomize", "give either to = NAME (cascading) or only = NAME.")
  end
  local first = self:_id(o.only or o.to)
  local from = self:_id(o.from or "output")
  local part = o.only or o.to
  for id = #self._def.nodes, 1, -1 do -- a block begins at its first node
    if is_under(self._def.nodes[id], { part }) then first = math.min(first, id) end
  end
  local copy = self:clone()
  quietly(function()
    for _, m in ipairs(self._def.modules) do
      local id = m.node and m.node.id
      if id and (o.only and is_under(m.name, { part }) or not o.only and id >= first and id <= from) then
        initialize.again(m, function(slot) return copy._state:get(slot.slot) end, o.seed)
      end
    end
  end)
  return copy
end

model.summary_spec = { depth = { "integer", default = 2, min = 1, doc = "how many levels of names are told apart" } }

--- The network as a tree: names, operators, output shapes for one image, parameters, what is trained.
---@param options? table { depth = 2: how many levels of names are told apart }
---@return string
function Model:summary(options)
  local o = Options.check(self.name .. ": summary", options, model.summary_spec)
  return summary.text(self, o.depth)
end

model.profile_spec = profile.spec

--- Where the time of a pass goes: seconds of nodes and operators, forward and backward. Of the inference plan a node's
--- time is that of what is fused behind it, too; of several threads their sum.
---@param options? table { batch = 8, training = false, nodes = 20, repeats = 3 }
---@return string text
---@return table[] rows { name =, operator =, forward =, backward = } in seconds, the slowest first
function Model:profile(options)
  return profile.run(self, Options.check(self.name .. ": profile", options, profile.spec))
end

function Model:__tostring() return self:summary() end

--- True for what this module makes.
function model.is(value) return getmetatable(value) == Model end

return model
