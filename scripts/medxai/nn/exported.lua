-- Any network that PyTorch exports (torch.export.save writes it), as a model like the seven.
-- Its tensors keep their names, so weights.pt goes back into the Python module with load_state_dict(strict=True). For
-- other classes the last linear layer is made anew. docs/exported.md shows how a network is exported.
-- It refuses what would be guessed: which of several outputs are the logits, which layer is the head.
local check = require "medxai.base.check"
local Options = require "medxai.base.options"
local exported_file = require "medxai.nn.exported_file"
local exported_graph = require "medxai.nn.exported_graph"
local files = require "medxai.base.files"
local geometry = require "medxai.nn.geometry"
local graph = require "medxai.nn.builder"
local initialize = require "medxai.nn.initialize"
local model = require "medxai.nn.model"

local exported = {}

local function fail(program, fmt, ...) check.fail("exported", "'%s' " .. fmt, program.path, ...) end

-- ---- outputs and head -----------------------------------------------------------------------------------------------

local function shape_text(shape)
  local words = {}
  for i, size in ipairs(shape) do words[i] = size < 0 and (size == -1 and "N" or -size .. "N") or tostring(size) end
  return "(" .. table.concat(words, ", ") .. ")"
end

-- The output that holds the logits: the only one of shape (N, K), or the one that is named by its number.
local function choose_output(program, number)
  local outputs, fitting, texts = program.outputs, {}, {}
  for i, name in ipairs(outputs) do
    local shape = program.values[name].shape
    texts[i] = ("%d %s"):format(i, shape_text(shape))
    if #shape == 2 and shape[1] == -1 then fitting[#fitting + 1] = i end
  end
  if number then
    for _, i in ipairs(fitting) do
      if i == number then return outputs[i] end
    end
  elseif #fitting == 1 then
    return outputs[fitting[1]]
  end
  fail(program, "gives the outputs %s: %s. Say which are the logits, (N, classes): output = 1.",
    table.concat(texts, ", "), number and ("number %d is none"):format(number) or #fitting == 0 and "none has logits"
    or "several could be logits")
end

local function words(text)
  local set = {}
  for word in text:gmatch "%S+" do set[word] = true end
  return set
end

-- Operators between the head and the output that keep each class apart.
local passed = words [[dropout dropout_ flatten squeeze contiguous clone alias detach relu relu_ adaptive_avg_pool2d
  mean lift_fresh_copy to]]
local probabilities = words "softmax _softmax log_softmax _log_softmax sigmoid sigmoid_"

local function find_arg(node, ...)
  for _, name in ipairs { ... } do
    for _, arg in ipairs(node.args) do
      if arg.name == name and arg.kind == "tensor" then return arg.value end
    end
  end
end

-- The last linear layer before the output: { node, weight, bias = names in the graph, path = values up to the output }.
local function find_head(program, output)
  local made, inputs, path = {}, {}, { output }
  for _, node in ipairs(program.nodes) do
    for _, name in ipairs(node.outs) do made[name] = node end
  end
  for _, input in ipairs(program.inputs) do inputs[input.name] = input end
  local at = output
  while true do
    local node = made[at]
    if not node then return nil end
    if probabilities[node.op] then
      fail(program, "ends in a %s (expected logits: losses and explanations are of these). Export it without.",
        node.op:gsub("^_", ""):gsub("_$", ""))
    end
    if node.op == "linear" or node.op == "conv2d" then
      local weight, bias = find_arg(node, "weight"), find_arg(node, "bias")
      if not inputs[weight] or inputs[weight].kind ~= "parameter" then return nil end
      local name = inputs[weight].fqn:match "^(.*)%.weight$" or inputs[weight].fqn
      return { name = name, conv = node.op == "conv2d", weight = inputs[weight], bias = bias and inputs[bias],
        path = path }
    end
    if not passed[node.op] then return nil end
    at = find_arg(node, "self", "input")
    path[#path + 1] = at
  end
end

-- Makes the head that of so many classes: in the description, whose tensors are drawn anew.
local function replace_head(program, head, classes)
  local function set(name, dim)
    local shape = program.values[name].shape
    shape[dim] = classes
  end
  set(head.weight.name, 1)
  head.weight.place = nil
  if head.bias then
    set(head.bias.name, 1)
    head.bias.place = nil
  end
  for _, name in ipairs(head.path) do set(name, head.conv and 2 or #program.values[name].shape) end
  head.is_new = true
end

-- ---- tensors --------------------------------------------------------------------------------------------------------

local function core() return require "medxai.core" end
local function torch() return require "medxai.torch" end

-- The tensors of an archive of torch 2.8, which holds files of torch.save.
local function of_inner_file(path, inner)
  local archive <close> = require("medxai.archive").open(path) -- luacheck: ignore
  local bytes = archive and archive:read(inner)
  if not bytes then
    check.fail("exported", "'%s' is damaged (record %s cannot be read). Export it again.", path, inner)
  end
  local name = os.tmpname()
  files.write(name, bytes)
  local ok, tree = pcall(core().store.read, name, "exported")
  os.remove(name)
  if not ok then error(tree, 0) end
  return tree
end

-- list of { place, name } -> list of tensors in the file's types.
local function read_places(path, list)
  local places, at, tensors, inner = {}, {}, {}, {}
  for i, entry in ipairs(list) do
    if entry.place.file then
      inner[entry.place.file] = inner[entry.place.file] or of_inner_file(path, entry.place.file)
      tensors[i] = inner[entry.place.file][entry.place.fqn]
      if not tensors[i] then
        check.fail("exported", "'%s' lacks the tensor '%s'. Export it again.", path, entry.name)
      end
    else
      places[#places + 1], at[#at + 1] = entry.place, i
    end
  end
  for k, t in ipairs(core().pt2.tensors(path, "exported", places)) do tensors[at[k]] = t end
  for i, t in ipairs(tensors) do tensors[i] = t:contiguous() end
  return tensors
end

-- Evaluates the graph of constants; sets those that the network reads.
local function make_constants(self, program, constants)
  if not constants then return end
  local state <close> = constants.builder.native:state(#constants.builder.slots) -- luacheck: ignore
  for i, t in ipairs(read_places(program.path, constants.places)) do state:set(constants.places[i].slot, t) end
  local ids, loaded = {}, {}
  for _, wanted in ipairs(constants.wanted) do
    if wanted.id then ids[#ids + 1] = wanted.id else loaded[#loaded + 1] = wanted end
  end
  local made = #ids > 0 and state:run { outputs = ids } or {}
  local k = 0
  for _, wanted in ipairs(constants.wanted) do
    if wanted.id then
      k = k + 1
      self._state:set(wanted.slot, made[k]:clone())
    end
  end
  for i, t in ipairs(read_places(program.path, loaded)) do self._state:set(loaded[i].slot, t) end
end

-- Draws a new head as torch.nn does, weight first.
local function draw_head(self, head)
  local slots = self._def.slots
  local w = slots[head.weight.fqn]
  local layer = { w = torch().empty(w.shape, { dtype = "float32" }), fan_in = 1 }
  for i = 2, #w.shape do layer.fan_in = layer.fan_in * w.shape[i] end
  if head.bias then layer.b = torch().empty(slots[head.bias.fqn].shape, { dtype = "float32" }) end
  initialize.usual(layer)
  self._state:set(w.slot, layer.w)
  if layer.b then self._state:set(slots[head.bias.fqn].slot, layer.b) end
end

-- The function that makes a model's tensors: from the file, or empty where other weights are loaded into them.
local function maker(program, head, found)
  return function(self)
    local from_file = self._options.found.kind == "exported"
    local wanted = {}
    for i, slot in ipairs(self._def.slots) do
      local place = from_file and found.places[i]
      if place and slot.kind ~= "constant" then wanted[#wanted + 1] = { slot = i, place = place, name = slot.name }
      elseif slot.kind ~= "constant" then self._state:set(i, torch().zeros(slot.shape, { dtype = slot.dtype })) end
    end
    for k, t in ipairs(read_places(program.path, wanted)) do self._state:set(wanted[k].slot, t) end
    if head and head.is_new then draw_head(self, head) end
    make_constants(self, program, found.constants)
  end
end

-- ---- the constructor ------------------------------------------------------------------------------------------------

exported.spec = model.spec_with {
  file = { "string", field = true, doc = "what torch.export.save wrote; may be left out where weights name a run" },
  name = { "string", doc = "of the network, in records and figures; default: the file's" },
  classes = { "table|integer", lua = "string[]|integer",
    doc = "names in the order of the logits, or their number; default: the network's; for others the head is "
    .. "made anew" },
  weights = { "string|table", field = true, fields = require("medxai.nn.weights").spec,
    doc = "a run, or a file of weights with the module's own names; default: the file's own" },
  head = { "string", doc = "name of the last linear layer, checked; default: it is found" },
  output = { "integer", min = 1, doc = "which of several outputs are the logits, by its number" },
  cam_layer = { "string", doc = "name of the node where Grad-CAM looks; default: the last grid before pooling or "
    .. "the head" },
  size_px = { "integer", min = 1, unit = "px", doc = "side of the images, checked; default: the file's" },
  train_depth = { "integer|string|table", lua = "0|\"all\"|string[]", field = true, default = "all",
    doc = "what is trained: 0 the head alone, a list of blocks those beside the head, all everything" },
  frozen = { one_of = { "train", "eval" }, field = true, default = "train",
    doc = "batch norms of the frozen part; train: they go on as in training" },
  pretrained = { instead = "Leave it out: the weights are the file's." },
}
exported.spec.on_missing = nil -- it is about ImageNet's weights, which these networks do not take

-- The file that describes the network: the one that is named, or a run's.
local function find_file(o)
  if o.file then return o.file end
  local path = o.found and o.found.described and exported_file.of_run(o.found.path)
  if path then return path end
  if o.found and o.found.described then
    check.fail("exported", "the run '%s' holds no exported network (its network is %s). Use xai.models.%s.",
      o.found.run, tostring(o.found.described.network), tostring(o.found.described.network))
  end
  check.fail("exported", "option 'file' is missing (expected what torch.export.save wrote, or weights = the name "
    .. "of a run).")
end

local function find_weights(o)
  if o.weights == "imagenet" or o.weights == "random" then
    check.fail("exported", "weights = \"%s\" is not to be had: an exported network has the weights of its file. "
      .. "Leave it out, "
      .. "or name a file or a run.", o.weights)
  end
  if o.weights == nil then
    if not o.file then find_file(o) end
    o.found = { kind = "exported", path = o.file, strict = true }
  else
    o.found = require("medxai.nn.weights").find(o.weights, "exported")
  end
end

local function check_depth(program, g, depth)
  if depth == "all" or depth == 0 then return end
  if type(depth) ~= "table" then
    check.fail("exported", "option 'train_depth' is wrong (expected 0, \"all\" or a list of blocks, got %s).",
      tostring(depth))
  end
  for _, part in ipairs(depth) do
    local found, names = false, {}
    for _, slot in ipairs(g.slots) do
      local name = slot.name
      found = found or name == part or name:sub(1, #part + 1) == part .. "."
      while name do -- a.b.weight, a.b, a
        names[name] = true
        name = name:match "^(.*)%.[^.]+$"
      end
    end
    if not found then check.known(program.name, "part", part, check.sorted_keys(names)) end
  end
end

local function check_size(program)
  local _, height, width = table.unpack(program.input.shape)
  if height ~= width then
    fail(program, "takes images of %dx%d pixels (expected as many in both directions, as the data have).",
      height, width)
  end
  return height
end

-- Where Grad-CAM looks, and why.
local function choose_layer(self, o)
  if o.cam_layer then
    self:_id(o.cam_layer)
    self.cam_layer = o.cam_layer
  else
    self.cam_layer, self.cam_reason = geometry.default_layer(self)
  end
end

local function input_checker(program)
  local channels, height, width = table.unpack(program.input.shape)
  local most = program.input.most
  return function(self, x)
    local shape = x.shape
    if #shape ~= 4 or shape[2] ~= channels or shape[3] ~= height or shape[4] ~= width then
      check.fail(self.name, "the input has shape %s (expected N,%d,%d,%d, as it was exported).%s",
        table.concat(shape, "x"), channels, height, width,
        #shape == 4 and shape[2] == 3 and channels == 1 and " Export it with its channels made of three: "
        .. "docs/exported.md." or "")
    end
    if most and shape[1] > most then
      check.fail(self.name, "the input has %d images (expected at most %d, as it was exported).", shape[1], most)
    end
  end
end

-- f(program, ...). What is wrong in the file and was not looked for is told as that.
local function guarded(f, program, ...)
  local ok, a, b = pcall(f, program, ...)
  if ok then return a, b end
  local fault = type(a) == "string" and a ~= check.last and a:match "^.-%.lua:%d+: (.*)$"
  if fault then fail(program, "does not describe a network as torch.export does (%s). Export it again.", fault) end
  error(a, 0)
end

-- The head and its number of classes, in the description and in the options.
local function settle_head(program, output, o)
  local head, shape = find_head(program, output), program.values[output].shape
  if o.head and (not head or head.name ~= o.head) then
    fail(program, "has no layer '%s' of which its output is made (its last linear layer is %s).", o.head,
      head and "'" .. head.name .. "'" or "not to be found")
  end
  if o.classes == nil and not (o.found.described and o.found.described.classes) then o.classes = shape[2] end
  model.fill("exported", o, { make = true })
  if o.num_classes == shape[2] then return head end
  if not head then
    fail(program, "gives %d numbers (expected %d, one per class), and has no last linear layer to make anew.", shape[2],
      o.num_classes)
  end
  replace_head(program, head, o.num_classes)
  return head
end

--- A network that torch.export.save wrote; its options are exported.spec. A new head is drawn as torch.nn draws it.
---@param options medxai.ExportedOptions
---@return medxai.Model
function exported.new(options)
  local o = Options.check("exported", options, exported.spec)
  find_weights(o)
  o.file = find_file(o)
  local program = exported_file.read(o.file)
  local described = o.found.described
  o.name = o.name or described and described.network or program.name
  local size_px = check_size(program)
  if o.size_px and o.size_px ~= size_px then
    fail(program, "takes images of %d pixels (size_px = %d). Export it for that size.", size_px, o.size_px)
  end
  o.output = o.output or described and described.config.output
  local output = guarded(choose_output, program, o.output)
  local head = guarded(settle_head, program, output, o)
  local g, x = graph.builder(o.name)
  local value, found = guarded(exported_graph.build, program, g, x,
    { output = output, version = core().tensor.torch_version() })
  check_depth(program, g, o.train_depth)
  o.config = { network = o.name, classes = o.class_list, head = head and head.name, train_depth = o.train_depth,
    frozen = o.frozen, dtype = o.dtype, weights = o.weights or "file", output = o.output,
    build = files.sha256(program.text):sub(1, 16) }
  local network = { name = o.name, size_px = size_px, resize_px = size_px, channels = program.input.shape[1],
    head_parts = head and { head.name }, make = maker(program, head, found), check_input = input_checker(program) }
  if head and head.is_new then o.config.new_head = true end
  local self = model.assemble(o, network, g, value)
  self.graph_signature = o.config.build
  function self.write_network(_, path) exported_file.write_without_weights(program, path) end
  choose_layer(self, o)
  return self
end

return exported
