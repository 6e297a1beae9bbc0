-- Matching a file's names and shapes to a model's, and what the messages say.
local t = require "t"
local match = require "medxai.nn.match"
local store = require "medxai.nn.checkpoint"
local torch = require "medxai.torch"

local folder = t.root .. "/tests/reference/checkpoints/"

local function state(shapes)
  local list = {}
  for i, s in ipairs(shapes) do list[i] = { name = s[1], tensor = torch.zeros(s[2]) } end
  return list
end

-- Zeros with the names and shapes of the small DenseNet.
local function densenet()
  local list = {}
  for i, entry in ipairs(store.load(folder .. "densenet.pt").tensors) do
    list[i] = { name = entry.name, tensor = torch.zeros(entry.tensor.shape, { dtype = entry.tensor.dtype }) }
  end
  return list
end

t.test("a file fits by name, and is converted to the model's type", function()
  local model = densenet()
  local report = match.load_into(model, store.load(folder .. "densenet.pt").tensors)
  t.equal(match.counts(report), "43 matched, 0 missing, 0 extra, 0 of another shape")
  local want = store.load(folder .. "densenet.pt").tensors
  for i, entry in ipairs(model) do t.equal(entry.tensor:tolist(), want[i].tensor:tolist(), entry.name) end
end)

t.test("prefixes are taken off, and named", function()
  local report = match.load_into(densenet(), store.load(folder .. "densenet_torch2.pt").tensors)
  t.equal(match.counts(report), "43 matched, 0 missing, 0 extra, 0 of another shape")
  t.equal(report.renamed, { "without the prefix 'model.module.'" })
  report = match.load_into(densenet(), store.load(folder .. "training.pt").tensors)
  t.equal(report.renamed, { "without the prefix 'module.'" })
  local own = store.load(folder .. "densenet.pt").tensors
  for _, entry in ipairs(own) do entry.name = "model." .. entry.name end
  report = match.load_into(densenet(), own)
  t.equal(report.renamed, { "without the prefix 'model.'" })
end)

-- The small DenseNet's tensors under other names: rename(name) -> name.
local function renamed(rename)
  local list = store.load(folder .. "densenet.pt").tensors
  for _, entry in ipairs(list) do entry.name = rename(entry.name) end
  return list
end

-- Loads `file` into a fresh DenseNet, and says whether it then holds what densenet.pt holds.
local function loads(file, options)
  local model = densenet()
  local report = match.load_into(model, file, options)
  for i, want in ipairs(store.load(folder .. "densenet.pt").tensors) do
    t.ok(model[i].tensor:equal(want.tensor), want.name .. " is another")
  end
  return report
end

t.test("any prefix under which the names are the model's is taken off", function()
  for _, prefix in ipairs { "cnn.", "base_model.", "1.", "model.module._orig_mod.", "a.b.c.d.", "module.module.",
    "features_extractor.backbone." } do
    local report = loads(renamed(function(name) return prefix .. name end))
    t.equal(report.renamed, { "without the prefix '" .. prefix .. "'" })
    t.equal({ #report.missing, #report.extra, #report.left_out }, { 0, 0, 0 })
  end
end)

t.test("wrappers inside the names are taken out: DataParallel around the features, torch.compile", function()
  local report = loads(renamed(function(name) return (name:gsub("^features%.", "features.module.")) end))
  t.equal(report.renamed, { "without 'module.' inside them" })
  report = loads(renamed(function(name) return "net." .. name:gsub("^features%.(%w+)%.",
    "features._orig_mod.%1.module.") end))
  t.equal(report.renamed, { "without the prefix 'net.'", "without 'module.' inside them",
    "without '_orig_mod.' inside them" })
end)

t.test("what was wrapped around the model is left out and listed, what would be a part of it is not", function()
  local function with(list, ...)
    for _, name in ipairs { ... } do list[#list + 1] = { name = name, tensor = torch.ones(3) } end
    return list
  end
  local report = loads(with(renamed(function(name) return "module." .. name end), "n_averaged", "criterion.weight",
    "head.bias"))
  t.equal(report.left_out, { "n_averaged", "criterion.weight", "head.bias" })
  -- a head beside its backbone
  report = loads(renamed(function(name) return name:find "^classifier" and name or "backbone." .. name end))
  t.equal({ report.renamed, report.left_out }, { { "without the prefix 'backbone.'" }, {} })
  report = loads(with(renamed(function(name) return "module." .. name end), "n_averaged", "criterion.weight",
    "head.bias"))
  t.equal(match.describe(report, densenet()),
    { "left out, not of the network: n_averaged, criterion.weight, head.bias" })
  report = loads(with(renamed(function(name) return name end), "criterion.weight", "loss_fn.pos_weight", "n_averaged",
    "features.conv0.total_ops"))
  t.equal(report.left_out, { "criterion.weight", "loss_fn.pos_weight", "n_averaged", "features.conv0.total_ops" })
  t.fails_like(function() loads(with(renamed(function(name) return name end), "attention.weight")) end,
    "does not fit the model %(43 matched, 0 missing, 1 extra")
  t.fails_like(function() loads(with(renamed(function(name) return "m." .. name end), "m.features.gate.weight")) end,
    "43 matched, 0 missing, 1 extra")
end)

t.test("a normalization beside the network is warned of with its numbers", function()
  local warnings = require("medxai.host").warnings()
  local before = #warnings
  local list = renamed(function(name) return "1." .. name end)
  table.insert(list, 1, { name = "0.mean", tensor = torch.tensor({ 0.485, 0.456, 0.406 }):view { 1, 3, 1, 1 } })
  table.insert(list, 2, { name = "0.std", tensor = torch.tensor({ 0.229, 0.224, 0.225 }):view { 1, 3, 1, 1 } })
  loads(list, { from = "n.pt" })
  t.equal(#warnings, before + 1)
  t.equal(warnings[#warnings], "weights: 'n.pt' holds mean = { 0.485, 0.456, 0.406 }, std = { 0.229, 0.224, 0.225 } "
    .. "beside the network: if it normalized its input by them, "
    .. "give them to the data.")
end)

-- A checkpoint as store.read gives it: sets = { name = tensors }, in the order of `order`.
local function checkpoint(sets, order)
  local loaded = { path = "c.pt", sets = {} }
  for i, name in ipairs(order) do loaded.sets[i] = { name = name, tensors = sets[name] } end
  return loaded
end

t.test("of several sets of weights the raw one is taken, and the others are named", function()
  local same = function(name) return name end
  local raw, mean = renamed(same), renamed(same)
  local function taken(loaded, name)
    local tensors, which, others = match.choose(loaded, densenet(), name)
    return tensors, which, table.concat(others, ", ")
  end
  local tensors, which, others = taken(checkpoint({ state_dict = raw, state_dict_ema = mean }, { "state_dict_ema",
    "state_dict" }))
  t.ok(tensors[1].tensor == raw[1].tensor)
  t.equal({ which, others }, { "state_dict", "state_dict_ema" })
  tensors, which, others = taken(checkpoint({ state_dict = raw, state_dict_ema = mean }, { "state_dict_ema",
    "state_dict" }), "state_dict_ema")
  t.ok(tensors[1].tensor == mean[1].tensor)
  t.equal({ which, others }, { "state_dict_ema", "state_dict" })
  t.fails(function() taken(checkpoint({ model = raw, ema = mean }, { "model", "ema" }), "swa") end,
    "weights: unknown set of weights 'swa'. Known: model, ema.")
  which = select(2, taken(checkpoint({ model = raw, discriminator = { { name = "x", tensor = torch.ones(1) } } },
    { "discriminator", "model" })))
  t.equal(which, "model")
  t.fails(function() taken(checkpoint({ g1 = raw, g2 = mean }, { "g1", "g2" })) end,
    "weights: 'c.pt' holds several sets of weights (g1, g2). Name the one to be taken: weights = { file = 'c.pt', set "
      .. "= 'g1' }.")
end)

t.test("several sets in one dict are told apart by their prefixes", function()
  local both = renamed(function(name) return "online_model." .. name end)
  for _, entry in ipairs(renamed(function(name) return "ema_model." .. name end)) do
    both[#both + 1] = { name = entry.name, tensor = entry.tensor:mul(2) }
  end
  both[#both + 1] = { name = "initted", tensor = torch.ones(1) }
  local loaded = checkpoint({ [""] = both }, { "" })
  local tensors, which, others = match.choose(loaded, densenet())
  t.equal({ which, others }, { "online_model", { "ema_model" } })
  local report = loads(tensors)
  t.equal({ report.matched, #report.extra, report.left_out }, { 43, 0, { "initted" } })
  tensors, which = match.choose(loaded, densenet(), "ema_model")
  t.equal(which, "ema_model")
  local model = densenet()
  report = match.load_into(model, tensors)
  t.equal({ report.matched, report.left_out, report.renamed }, { 43, { "initted" },
    { "without the prefix 'ema_model.'" } })
  t.ok(model[1].tensor:equal(store.load(folder .. "densenet.pt").tensors[1].tensor:mul(2)))
end)

t.test("an optimizer's averages under the parameters' names are no set of weights", function()
  local dir = t.tmpdir()
  local dict = {}
  for _, entry in ipairs(renamed(function(name) return name end)) do dict[entry.name] = entry.tensor end
  store.save_checkpoint(dir .. "/c.pt", { net_weights = dict, optimizer = { exp_avg = dict }, epoch = 2 })
  local tensors, which, others = match.choose(store.read(dir .. "/c.pt"), densenet())
  t.equal({ #tensors, which, others }, { 43, "net_weights", {} })
  t.equal(#store.load(dir .. "/c.pt").tensors, 43) -- the one set there is, whatever its name
end)

t.test("whole numbers in the place of weights are refused: a quantised file's scales lie elsewhere", function()
  local own = store.load(folder .. "densenet.pt").tensors
  own[1].tensor = own[1].tensor:mul(100):to("int8")
  t.fails(function() match.load_into(densenet(), own, { from = "q.pt" }) end,
    ("weights: 'q.pt' holds %s as int8 (expected floating numbers). Nothing was loaded."):format(own[1].name))
end)

t.test("DenseNet's old names are understood, and absent batch counters are no fault", function()
  local report = match.load_into(densenet(), store.load(folder .. "densenet_old_names.pth").tensors)
  t.equal(#report.missing + #report.extra + #report.shape_differs, 0)
  t.equal(report.renamed, { "DenseNet's old names" })
end)

t.test("another number of classes is named, and nothing is loaded", function()
  local model = state { { "features.0.weight", { 2 } }, { "fc1.weight", { 512, 4 } }, { "fc2.weight", { 3, 512 } },
    { "fc2.bias", { 3 } } }
  local file = { { name = "features.0.weight", tensor = torch.ones(2) },
    { name = "fc1.weight", tensor = torch.ones(512, 4) }, { name = "fc2.weight", tensor = torch.ones(4, 512) },
    { name = "fc2.bias", tensor = torch.ones(4) } }
  t.fails(function() match.load_into(model, file, { from = "w.pt" }) end,
    "weights: 'w.pt' does not fit the model (2 matched, 0 missing, 0 extra, 2 of another shape). Nothing was "
    .. "loaded.\n" .. "  fc2.weight is 4x512 in the file, 3x512 here: the file was trained with 4 classes\n  "
    .. "fc2.bias is 4 in the file, 3 here")
  t.equal(model[1].tensor:tolist(), { 0.0, 0.0 })
  local warnings = require("medxai.host").warnings()
  match.load_into(model, file, { strict = false, from = "w.pt" })
  t.equal(warnings[#warnings], "weights: 'w.pt' fits in part (2 matched, 0 missing, 0 extra, 2 of another shape); "
    .. "what does not fit stays as it was drawn.")
  t.equal(model[1].tensor:tolist(), { 1.0, 1.0 })
  t.equal(model[4].tensor:tolist(), { 0.0, 0.0, 0.0 })
end)

t.test("missing and extra names are listed, not all of them", function()
  local model, file = {}, {}
  for i = 1, 10 do
    model[i] = { name = "a." .. i, tensor = torch.zeros(1) }
    file[i] = { name = (i < 3 and "a." or "b.") .. i, tensor = torch.ones(1) }
  end
  t.fails(function() match.load_into(model, file, { from = "w.pt" }) end,
    "weights: 'w.pt' does not fit the model (2 matched, 8 missing, 8 extra, 0 of another shape). Nothing was "
    .. "loaded.\n" .. "  missing in the file: a.3, a.4, a.5, a.6, a.7, a.8 and 2 more\n  only in the file: b.3, "
    .. "b.4, b.5, b.6, b.7, b.8 and 2 more")
end)

t.test("a file that shares no name is never loaded", function()
  t.fails_like(function()
    match.load_into(densenet(), { { name = "x", tensor = torch.ones(1) } }, { strict = false })
  end, "0 matched")
end)

t.test("values that are not finite are told of when they are loaded", function()
  local warnings = require("medxai.host").warnings()
  local before = #warnings
  local file = { { name = "a", tensor = torch.ones(2) },
    { name = "b", tensor = torch.full({ 3 }, 0 / 0):to { dtype = "float16" } } }
  match.load_into({ { name = "a", tensor = torch.zeros(2) }, { name = "b", tensor = torch.zeros(3) } }, file,
    { from = "w.pt" })
  t.equal(#warnings, before + 1)
  t.equal(warnings[#warnings], "weights: 'w.pt' holds values that are not finite in 1 of its tensors, first in b: "
    .. "whatever the model answers is not a number.")
end)
