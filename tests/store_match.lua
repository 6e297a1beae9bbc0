-- Matching a file's names and shapes to a model's, and what the messages say.
local t = require "t"
local store = require "medxai.store"
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
  local report = store.load_into(model, store.load(folder .. "densenet.pt").tensors)
  t.equal(store.counts(report), "43 matched, 0 missing, 0 extra, 0 of another shape")
  local want = store.load(folder .. "densenet.pt").tensors
  for i, entry in ipairs(model) do t.equal(entry.tensor:tolist(), want[i].tensor:tolist(), entry.name) end
end)

t.test("prefixes are taken off, and named", function()
  local report = store.load_into(densenet(), store.load(folder .. "densenet_torch2.pt").tensors)
  t.equal(store.counts(report), "43 matched, 0 missing, 0 extra, 0 of another shape")
  t.equal(report.renamed, { "without the prefix 'model.module.'" })
  report = store.load_into(densenet(), store.load(folder .. "training.pt").tensors)
  t.equal(report.renamed, { "without the prefix 'module.'" })
  local own = store.load(folder .. "densenet.pt").tensors
  for _, entry in ipairs(own) do entry.name = "model." .. entry.name end
  report = store.load_into(densenet(), own)
  t.equal(report.renamed, { "without the prefix 'model.'" })
end)

t.test("whole numbers in the place of weights are refused: a quantised file's scales lie elsewhere", function()
  local own = store.load(folder .. "densenet.pt").tensors
  own[1].tensor = own[1].tensor:mul(100):to("int8")
  t.fails(function() store.load_into(densenet(), own, { from = "q.pt" }) end,
    ("weights: 'q.pt' holds %s as int8 (expected floating numbers). Nothing was loaded."):format(own[1].name))
end)

t.test("DenseNet's old names are understood, and absent batch counters are no fault", function()
  local report = store.load_into(densenet(), store.load(folder .. "densenet_old_names.pth").tensors)
  t.equal(#report.missing + #report.extra + #report.shape_differs, 0)
  t.equal(report.renamed, { "DenseNet's old names" })
end)

t.test("another number of classes is named, and nothing is loaded", function()
  local model = state { { "features.0.weight", { 2 } }, { "fc1.weight", { 512, 4 } }, { "fc2.weight", { 3, 512 } }, { "fc2.bias", { 3 } } }
  local file = { { name = "features.0.weight", tensor = torch.ones(2) }, { name = "fc1.weight", tensor = torch.ones(512, 4) },
    { name = "fc2.weight", tensor = torch.ones(4, 512) }, { name = "fc2.bias", tensor = torch.ones(4) } }
  t.fails(function() store.load_into(model, file, { from = "w.pt" }) end,
    "weights: 'w.pt' does not fit the model (2 matched, 0 missing, 0 extra, 2 of another shape). Nothing was loaded.\n" ..
    "  fc2.weight is 4x512 in the file, 3x512 here: the file was trained with 4 classes\n  fc2.bias is 4 in the file, 3 here")
  t.equal(model[1].tensor:tolist(), { 0.0, 0.0 })
  store.load_into(model, file, { strict = false })
  t.equal(model[1].tensor:tolist(), { 1.0, 1.0 })
  t.equal(model[4].tensor:tolist(), { 0.0, 0.0, 0.0 })
end)

t.test("missing and extra names are listed, not all of them", function()
  local model, file = {}, {}
  for i = 1, 10 do
    model[i] = { name = "a." .. i, tensor = torch.zeros(1) }
    file[i] = { name = (i < 3 and "a." or "b.") .. i, tensor = torch.ones(1) }
  end
  t.fails(function() store.load_into(model, file, { from = "w.pt" }) end,
    "weights: 'w.pt' does not fit the model (2 matched, 8 missing, 8 extra, 0 of another shape). Nothing was loaded.\n" ..
    "  missing in the file: a.3, a.4, a.5, a.6, a.7, a.8 and 2 more\n  only in the file: b.3, b.4, b.5, b.6, b.7, b.8 and 2 more")
end)

t.test("a file that shares no name is never loaded", function()
  t.fails_like(function() store.load_into(densenet(), { { name = "x", tensor = torch.ones(1) } }, { strict = false }) end, "0 matched")
end)

t.test("values that are not finite are told of when they are loaded", function()
  local warnings = require("medxai.host").warnings()
  local before = #warnings
  local file = { { name = "a", tensor = torch.ones(2) }, { name = "b", tensor = torch.full({ 3 }, 0 / 0):to { dtype = "float16" } } }
  store.load_into({ { name = "a", tensor = torch.zeros(2) }, { name = "b", tensor = torch.zeros(3) } }, file, { from = "w.pt" })
  t.equal(#warnings, before + 1)
  t.equal(warnings[#warnings], "weights: 'w.pt' holds values that are not finite in 1 of its tensors, first in b: whatever the model answers is not a number.")
end)
