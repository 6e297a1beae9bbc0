-- Exported files that are refused, each with what to do; and files of other forms that are read.
local t = require "t"
local archive = require "medxai.archive"
local core = require "medxai.core"
local torch = require "medxai.torch"
local xai = require "medxai"

local folder = t.root .. "/tests/reference/exported/"

local function path(name) return folder .. name .. ".pt2" end

local function refused(file, text)
  t.fails(function() xai.models.exported { file = file, seed = 1 } end, "exported: '" .. file .. "' " .. text)
end

-- Writes an archive of these records, in a folder of that name.
local function packed(name, list)
  local file = t.tmpdir() .. "/" .. name .. ".pt2"
  assert(archive.write(file, name, list))
  return file
end

-- The records of an archive, in a table and in order.
local function records_of(file)
  local opened <close> = assert(archive.open(file))
  local list = {}
  for i, name in ipairs(opened:names()) do list[i] = { name, opened:read(name) } end
  return list
end

-- A copy with records changed: change(name, bytes) -> bytes, or nil to leave it out.
local function changed(file, change)
  local list = {}
  for _, record in ipairs(records_of(file)) do
    local bytes = change(record[1], record[2])
    if bytes then list[#list + 1] = { record[1], bytes } end
  end
  return packed("changed", list)
end

local function with_json(file, edit)
  return changed(file, function(name, bytes) return name == "models/model.json" and edit(bytes) or bytes end)
end

local export = "Export it with dynamic_shapes = ({0: torch.export.Dim(\"batch\")},) and the size of your images."

t.test("networks that are no networks of one batch of images are refused by what they are", function()
  refused(path "bad_inputs", "takes 2 inputs (x, y; expected one, a batch of images). Export a module whose forward "
    .. "takes the images alone.")
  refused(path "bad_height", "takes images of any height (expected a fixed one). " .. export)
  refused(path "bad_batch", "takes batches of 2 alone (expected any number of images). " .. export)
  refused(path "bad_operator", "uses the operator 'mylib.twice', which is not one of PyTorch's ATen operators. "
    .. "Export a network without it.")
  refused(path "bad_train", "changes its tensor '1.num_batches_tracked' while it runs, as networks do in train "
    .. "mode. Export it after net.eval().")
  refused(path "bad_random", "draws random numbers ('torch.ops.aten.rand.default'), as networks do in train mode. "
    .. "Export it after net.eval().")
  refused(path "bad_out", "writes the result of 'add' into a given tensor (out =). Write the network without that.")
  refused(path "bad_softmax", "ends in a softmax (expected logits: losses and explanations are of these). Export it "
    .. "without.")
end)

t.test("other files are told by what they hold", function()
  local docs = "Export the network in Python with torch.export.save (docs/exported.md)."
  refused("/nowhere/net.pt2", "cannot be read (No such file or directory).")
  refused(folder .. "vit.pt", "is a file of weights, which does not say how the network computes. " .. docs)
  refused(path "bad_torchscript", "is a TorchScript program. " .. docs)
  refused(path "bad_old", "was written by torch before 2.8. Load it there with torch.export.load, and save it with "
    .. "torch 2.8 or later.")
  local aoti = packed("aoti", { { "archive_format", "pt2" }, { "data/aotinductor/model/a.so", "ELF" } })
  refused(aoti, "is an AOTInductor package, a program compiled for one kind of machine. " .. docs)
  local text = t.write(t.tmpdir() .. "/text.pt2", "no archive")
  refused(text, "is cut short or damaged (no zip directory at its end). " .. docs)
  local list = records_of(path "tied")
  list[#list + 1] = { "models/other.json", "{}" }
  local two = packed("two", list)
  refused(two, "holds 2 networks (model, other). Save the one that is meant alone.")
end)

t.test("an archive that is cut short anywhere is refused, and never read in part", function()
  local whole, file = t.read(path "convnet"), t.tmpdir() .. "/cut.pt2"
  for percent = 0, 98, 2 do
    t.write(file, whole:sub(1, #whole * percent // 100))
    t.fails_like(function() xai.models.exported { file = file, seed = 1 } end,
      "^exported: '.*' is cut short or damaged")
  end
end)

t.test("a record that is absent, too short or changed is told by the tensor's name", function()
  local absent = changed(path "convnet", function(name, bytes)
    return name ~= "data/weights/weight_0" and bytes or nil
  end)
  refused(absent, "lacks the tensor 'stem.0.weight' (it has no record data/weights/weight_0). Export it again.")
  local short = changed(path "convnet", function(name, bytes)
    return name == "data/weights/weight_0" and bytes:sub(1, 20) or bytes
  end)
  refused(short, "is damaged (the record of the tensor 'stem.0.weight' is too short). Export it again.")
  local bytes, config = t.read(path "convnet"), nil
  for _, record in ipairs(records_of(path "convnet")) do
    if record[1] == "data/weights/weight_0" then config = record[2] end
  end
  local at = bytes:find(config, 1, true) -- one bit of a weight
  local bad = t.write(t.tmpdir() .. "/bad.pt2", bytes:sub(1, at - 1) .. string.char(bytes:byte(at) ~ 1)
    .. bytes:sub(at + 1))
  t.fails(function() xai.models.exported { file = bad, seed = 1 }:parameters() end,
    "exported: '" .. bad .. "' is damaged (record data/weights/weight_0 has the wrong checksum)")
end)

t.test("a description that is too large or too deep is refused before it is parsed, and nonsense by "
  .. "where it is", function()
  local large = packed("large", { { "models/model.json", ("["):rep(100 << 20) } })
  refused(large, "describes its network in 100 MB (expected at most 64).")
  local deep = with_json(path "tied", function() return ("["):rep(100000) end)
  refused(deep, "is damaged (models/model.json: Found too many nested data structures (101) at character 101). "
    .. "Export it again.")
  local cut = with_json(path "tied", function(json) return json:sub(1, -2) end)
  t.fails_like(function() xai.models.exported { file = cut, seed = 1 } end,
    "is damaged %(models/model.json: Expected comma or object end")
  local other = with_json(path "tied", function() return '{"schema_version":{"major":9,"minor":0}}' end)
  refused(other, "has version 9 of the format (expected 8, which torch 2.8 to 2.13 write).")
  local empty = with_json(path "tied", function() return '{"schema_version":{"major":8,"minor":0}}' end)
  t.fails_like(function() xai.models.exported { file = empty, seed = 1 } end,
    "does not describe a network as torch.export does")
end)

t.test("an operator that no libtorch has is named, with the version that wrote the file", function()
  local file = with_json(path "tied", function(json)
    return (json:gsub("aten%.relu%.default", "aten.relu_of_tomorrow.default"))
  end)
  t.fails_like(function() xai.models.exported { file = file, seed = 1 } end,
    "uses the operator 'aten.relu_of_tomorrow.default', which libtorch "
    .. "[%d.]+ does not have like that; torch 2.13.0%+cpu, which wrote the file, has it. Build with another libtorch")
end)

t.test("reading what may share memory with what an in-place operator changed is refused", function()
  t.fails(function() xai.models.exported { file = path "bad_alias", seed = 1 } end,
    "exported: 'conv2d' may share the memory of 'reshape', which 'mul_' "
    .. "changes in place: only PyTorch's memory layout tells. Write the network without that in-place operator.")
end)

-- What a description becomes when a word of it is another: numbers, null, another word of it, another operator.
local function changed_somewhere(json, words, random)
  local function word() return words[random(#words)] end
  local at, by = word(), word()
  local others = { "0", "-1", "9223372036854775807", "64", "null", "true", "[]", "{}", json:sub(by[1], by[2]),
    json:sub(by[1], by[2]) }
  return json:sub(1, at[1] - 1) .. others[random(#others)] .. json:sub(at[2] + 1)
end

t.test("a description with any word changed gives a network or an error in words, never a crash", function()
  local file, state = t.tmpdir() .. "/changed.pt2", 12345
  local function random(n)
    state = (state * 1103515245 + 12345) % 2147483648
    return (state >> 8) % n + 1
  end
  for _, name in ipairs { "odd", "tokens" } do
    local list, words, json = records_of(path(name)), {}, nil
    for _, record in ipairs(list) do
      if record[1] == "models/model.json" then json = record end
    end
    local text = json[2]
    for first, last in text:gmatch "()[%w_%.]+()" do words[#words + 1] = { first, last - 1 } end
    for _ = 1, 50 do
      local scope <close> = core.memory.scope() -- luacheck: ignore
      json[2] = changed_somewhere(text, words, random)
      assert(archive.write(file, "changed", list))
      local ok, problem = pcall(function()
        local model <close> = xai.models.exported { file = file, seed = 1 }:eval()
        model(torch.rand(2, 3, model.size_px, model.size_px))
      end)
      t.ok(ok or not tostring(problem):find "%.lua:%d+:", problem)
    end
  end
end)

t.test("options that do not fit are refused", function()
  t.fails(function() xai.models.exported {} end,
    "exported: option 'file' is missing (expected what torch.export.save wrote, or weights = the name of a run).")
  refused(path "two_outputs", "gives the outputs 1 (N, 3), 2 (N, 3): several could be logits. Say which are the "
    .. "logits, (N, classes): output = 1.")
  local function option(o, text)
    o.file, o.seed = path "vit", 1
    t.fails(function() xai.models.exported(o) end, (text:gsub("FILE", function() return "'" .. o.file .. "'" end)))
  end
  option({ weights = "random" }, 'exported: weights = "random" is not to be had: an exported network has the '
    .. 'weights of its file. '
    .. "Leave it out, or name a file or a run.")
  option({ head = "fc" }, "exported: FILE has no layer 'fc' of which its output is made (its last linear layer is "
    .. "'heads.head').")
  option({ train_depth = 2 }, "exported: option 'train_depth' is wrong (expected 0, \"all\" or a list of "
    .. "blocks, got 2).")
  option({ size_px = 32 }, "exported: FILE takes images of 16 pixels (size_px = 32). Export it for that size.")
  t.fails_like(function()
    xai.models.exported { file = path "vit", train_depth = { "encoder.layers.encoder_layer_7" } }
  end,
    "unknown part 'encoder.layers.encoder_layer_7'. Did you mean")
  local model <close> = xai.models.exported { file = path "vit", seed = 1 }
  t.fails(function() model(torch.zeros(1, 3, 32, 32)) end,
    "vit: the input has shape 1x3x32x32 (expected N,3,16,16, as it was exported).")
end)

-- ---- other forms ----

t.test("archives of torch 2.8, and weights in channels_last, give PyTorch's answers", function()
  local scope <close> = core.memory.scope() -- luacheck: ignore
  local want = xai.load_checkpoint(folder .. "channels_last.pt").logits
  for _, name in ipairs { "channels_last", "torch28" } do
    local model <close> = xai.models.exported { file = path(name), seed = 1 }:eval()
    t.near(model(torch.ones(1, 3, 16, 16)), want, 1e-6)
  end
end)

t.test("a network in float64 keeps its digits in a model of that type", function()
  local scope <close> = core.memory.scope() -- luacheck: ignore
  local want = xai.load_checkpoint(folder .. "double.pt").logits
  local whole <close> = xai.models.exported { file = path "double", dtype = "float64", seed = 1 }:eval()
  local short <close> = xai.models.exported { file = path "double", seed = 1 }:eval()
  t.ok((whole(torch.ones({ 2, 3, 16, 16 }, { dtype = "float64" })) - want):abs():max():item() < 1e-13)
  t.equal(short.dtype, "float32")
  t.near(short(torch.ones(2, 3, 16, 16)), want:float(), 1e-5)
end)

t.test("two names of one tensor stay one, through a training, a copy and a move", function()
  local scope <close> = core.memory.scope() -- luacheck: ignore
  local model <close> = xai.models.exported { file = path "tied", seed = 1 }
  local function both(m)
    local by_name = {}
    for _, entry in ipairs(m:state()) do by_name[entry.name] = entry.tensor end
    return by_name["a.weight"], by_name["b.weight"]
  end
  local names = {}
  for _, p in ipairs(model:parameters()) do names[#names + 1] = p.name end
  t.equal(#names, #model:state() - 1)
  model:to { dtype = "float64" }
  local copy <close> = model:clone()
  for _, m in ipairs { model, copy } do
    m(torch.rand({ 4, 3, 16, 16 }, { dtype = "float64" })):square():sum():backward()
    local before = both(m):clone()
    torch.no_grad(function()
      for _, p in ipairs(m:parameters()) do p.tensor:sub_(p.tensor.grad * 0.1) end
    end)
    local a, b = both(m)
    t.ok(torch.equal(a, b))
    t.ok(not torch.equal(a, before))
  end
end)
