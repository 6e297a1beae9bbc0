-- Training exported networks: what is trained, what is drawn, heads for other classes; the run keeps what is needed to
-- use them again; mistakes are found before training.
local t = require "t"
local core = require "medxai.core"
local files = require "medxai.base.files"
local prefix = require "medxai.train.feature_cache"
local torch = require "medxai.torch"
local xai = require "medxai"

local folder = t.root .. "/tests/reference/exported/"

local function open(name, options)
  local o = { file = folder .. name .. ".pt2", seed = 1 }
  for k, v in pairs(options or {}) do o[k] = v end
  return xai.models.exported(o)
end

local function trainable(model)
  local names = {}
  for _, p in ipairs(model:parameters()) do
    if p.trainable then names[#names + 1] = p.name end
  end
  return names
end

t.test("the head is replaced for other classes and drawn from the seed; other weights are the file's", function()
  local scope <close> = core.memory.scope() -- luacheck: ignore
  local same <close> = open "vit"
  local other <close> = open("vit", { classes = { "a", "b", "c", "d" } })
  local again <close> = open("vit", { classes = 4 })
  local function of(model)
    local map = {}
    for _, entry in ipairs(model:state()) do map[entry.name] = entry.tensor end
    return map
  end
  local a, b, c = of(same), of(other), of(again)
  t.equal(b["heads.head.weight"].shape, { 4, 8 })
  t.ok(torch.equal(b["heads.head.weight"], c["heads.head.weight"]))
  t.ok(torch.equal(a["conv_proj.weight"], b["conv_proj.weight"]))
  t.equal(other(torch.zeros(2, 3, 16, 16)).shape, { 2, 4 })
  t.equal(same.classes, { "0", "1", "2" })
  t.equal(other.head_name, "heads.head")
end)

t.test("train_depth trains the head alone, or named blocks as well", function()
  local scope <close> = core.memory.scope() -- luacheck: ignore
  local head <close> = open("vit", { train_depth = 0 })
  local block <close> = open("convnet", { train_depth = { "layer2.2" } })
  t.equal(trainable(head), { "heads.head.weight", "heads.head.bias" })
  local names = trainable(block)
  t.equal(names[1], "layer2.2.conv1.weight")
  t.equal(names[#names], "fc.bias")
  for _, name in ipairs(names) do t.ok(name:find "^layer2%.2%." or name:find "^fc%.", name) end
end)

t.test("batch norms and dropout follow train and eval mode; a frozen part may stay in evaluation", function()
  local scope <close> = core.memory.scope() -- luacheck: ignore
  local function statistics(options)
    local model <close> = open("convnet", options)
    local x = torch.rand(4, 3, 16, 16)
    torch.manual_seed(3)
    local first, second = model(x), model(x)
    local counts = {}
    for _, b in ipairs(model:buffers()) do
      if b.name:find "num_batches_tracked$" then counts[b.name] = b.tensor:item() end
    end
    local differs = not torch.equal(first, second)
    model:eval()
    return counts, differs, torch.equal(model(x), model(x))
  end
  local counts, differs, same = statistics() -- the file's count is 8
  t.equal(counts, { ["stem.1.num_batches_tracked"] = 10, ["layer1.0.bn1.num_batches_tracked"] = 10,
    ["layer1.0.bn2.num_batches_tracked"] = 10, ["layer2.2.bn1.num_batches_tracked"] = 10,
    ["layer2.2.bn2.num_batches_tracked"] = 10 })
  t.ok(differs and same)
  counts = statistics { train_depth = { "layer2.2" }, frozen = "eval" }
  t.equal(counts["stem.1.num_batches_tracked"], 8)
  t.equal(counts["layer2.2.bn1.num_batches_tracked"], 10)
end)

t.test("a cached frozen part gives the same logits bit for bit", function()
  local scope <close> = core.memory.scope() -- luacheck: ignore
  local cuts = { vit = { "encoder.layers.encoder_layer_1" }, swin = { "features.1.1" }, tokens = { "blocks.2" },
    convnet = { "layer2" } }
  for _, name in ipairs { "vit", "swin", "tokens", "convnet" } do
    local model <close> = open(name, { train_depth = cuts[name], frozen = "eval" })
    local cut = t.ok(prefix.cut(model))
    local x = torch.rand(3, 3, model.size_px, model.size_px)
    model:train()
    local values = torch.no_grad(function() return model:forward { x = x, outputs = cut.names } end)
    local function logits(request)
      torch.manual_seed(5)
      request.outputs = model:output_names()
      return model:forward(request)[request.outputs[1]]
    end
    t.ok(torch.equal(logits { x = x }, logits { base = values }), name)
  end
end)

local head = [[
local xai = require "medxai"
local run = xai.run { name = NAME, seed = 1 }
local data = xai.dataset.phantom { n_train = 12, n_val = 6, n_test = 6, size_px = 16 }
]]

local function go(dir, name, text)
  t.write(dir .. "/" .. name .. ".lua", (head:gsub("NAME", ("%q"):format(name))) .. text)
  return t.run { "--threads", "1", "--quiet", name .. ".lua", cwd = dir }
end

local fit = 'run:fit(model, data, { optim = xai.optim.sgd { lr = 0.05 }, epochs = 1, batch = 6 })\n'

t.test("a run keeps its exported network: it is reused without the file", function()
  local dir = t.tmpdir()
  t.write(dir .. "/net.pt2", t.read(folder .. "tokens.pt2"))
  local r = go(dir, "first", 'local model = xai.models.exported { file = "net.pt2", classes = data.classes, '
    .. 'train_depth = { "blocks.2" } }\n' .. fit
    .. 'print(run:evaluate(model, data.test).loss)')
  t.equal(r.code, 0, r.err)
  os.remove(dir .. "/net.pt2")
  local again = go(dir, "second", 'local model = xai.models.exported { weights = "first" }\n'
    .. 'print(run:evaluate(model, data.test).loss)\nprint(model.name, model.head_name, #model.classes)\n'
    .. 'run:explain(model, data.test, { methods = { "gradcam", "legrad" }, images = 1 })')
  t.equal(again.code, 0, again.err)
  local loss = r.out:match "([%d%.e%-]+)\n$"
  t.ok(again.out:find(loss .. "\nnet\thead\t3\n", 1, true), again.out)
  local described = require("medxai.base.json").read(t.read(dir .. "/runs/first/model.json"))
  t.equal(described.network, "net")
  t.equal(described.train_depth[1], "blocks.2")
  t.ok(files.exists(dir .. "/runs/first/network.pt2"))
  local text = t.read(dir .. "/runs/first/network.pt2")
  t.ok(not text:find("/home/", 1, true) and not text:find("site-packages", 1, true))
  local third = go(dir, "trained", 'local model, other = xai.trained "first"\nprint(run:evaluate(model, '
    .. 'other.test).loss)')
  t.ok(third.out:find(loss .. "\n", 1, true), third.out .. third.err)
  local other = go(dir, "third", 'local model = xai.models.exported { weights = "first", classes = { "a", "b", '
    .. '"c" } }\n'
    .. "run:evaluate(model, data.test)")
  t.ok(other.err:find("weights: the run 'first' has classes clear, nodule, opacity (here: a, b, c).", 1, true),
    other.err)
end)

t.test("a misspelt layer of a later step is found before training, without libtorch", function()
  local dir = t.tmpdir()
  t.write(dir .. "/net.pt2", t.read(folder .. "tokens.pt2"))
  local r = go(dir, "wrong", 'local model = xai.models.exported { file = "net.pt2", classes = data.classes }\n' .. fit
    .. 'run:explain(model, data.test, { methods = { "gradcam" }, layer = "blocks.7" })')
  t.equal(r.code, 1)
  t.ok(r.err:find("wrong.lua:6: explain: unknown layer 'blocks.7'. Did you mean 'blocks.", 1, true), r.err)
  t.ok(not files.exists(dir .. "/runs/wrong/metrics.jsonl"))
  r = go(dir, "grid", 'local model = xai.models.exported { file = "net.pt2", classes = data.classes }\n' .. fit
    .. 'run:explain(model, data.test, { methods = { "gradcam" }, layer = "blocks.0.attn.qkv" })\n'
    .. 'run:explain(model, data.test, { methods = { "gradcam" }, layer = "head" })')
  t.ok(r.err:find("grid.lua:7: explain: layer 'head' has no grid of places (its value is (N, 3)). Choose one that "
    .. "has, for instance "
    .. "'blocks.1'.", 1, true), r.err)
end)

t.test("the experiment exported.lua explains a transformer as well", function()
  local place = require("medxai.file").realpath(t.shared()) .. "/covid-cxr"
  local dir, root = t.tmpdir(), require("medxai.file").realpath(t.root)
  local r = t.run { "--smoke", "--quiet", "--threads", "1", root .. "/experiments/exported.lua", "--data", place,
    "--size_px", "16", "--resize_px", "16", "--file", root .. "/tests/reference/exported/tokens.pt2", "--figures",
    "false", cwd = dir, timeout = 300 }
  t.equal(r.code, 0, r.err)
  local done = {}
  for _, record in ipairs(files.records(dir .. "/runs/exported-smoke/maps/index.jsonl")) do
    t.equal(record.problem, nil)
    done[record.method] = true
  end
  t.equal(#require("medxai.base.check").sorted_keys(done), 10)
end)
