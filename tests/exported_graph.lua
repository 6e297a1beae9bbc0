-- The graph of an exported network: names, grids, partial runs from every value, the batch in any dimension, folding,
-- channels_last, randomised copies.
local t = require "t"
local core = require "medxai.core"
local geometry = require "medxai.nn.geometry"
local torch = require "medxai.torch"
local xai = require "medxai"

local folder = t.root .. "/tests/reference/exported/"

local function open(name, options)
  local o = { file = folder .. name .. ".pt2", seed = 1, dtype = "float64" }
  for k, v in pairs(options or {}) do o[k] = v end
  return xai.models.exported(o):eval()
end

t.test("nodes are named as torchvision's feature extraction names them, blocks by their outputs", function()
  local model <close> = open "convnet"
  local names = table.concat(model:node_names(), " ")
  t.equal(names, "x stem.0 stem.1 stem.2 stem layer1.0.conv1 layer1.0.bn1 layer1.0.relu layer1.0.conv2 layer1.0.bn2 "
    .. "layer1.0.se.adaptive_avg_pool2d layer1.0.se.fc1 layer1.0.se.silu layer1.0.se.fc2 layer1.0.se.sigmoid "
    .. "layer1.0.se.mul layer1.0.se "
    .. "layer1.0.add layer1.0.relu_1 layer1.0 layer1.1 layer1 layer2.0 layer2.1 layer2.2.conv1 layer2.2.bn1 "
    .. "layer2.2.relu layer2.2.conv2 "
    .. "layer2.2.bn2 layer2.2.se.adaptive_avg_pool2d layer2.2.se.fc1 layer2.2.se.silu layer2.2.se.fc2 "
    .. "layer2.2.se.sigmoid layer2.2.se.mul "
    .. "layer2.2.se layer2.2.add layer2.2.relu_1 layer2.2 layer2 avgpool flatten drop fc")
  t.equal(model:node "layer1.0".op, "relu")
  local relus = {}
  for _, n in ipairs(model:nonlinearities()) do relus[#relus + 1] = n.name .. (n.module and "" or " (a function)") end
  t.equal(relus[#relus - 1], "layer2.2.se.sigmoid (a function)")
end)

-- What Grad-CAM looks at, and why.
t.test("the default layer is the last grid before pooling or the head, or what the last attention "
  .. "is made of", function()
  local found = {}
  for _, name in ipairs { "convnet", "vit", "tokens", "swin" } do
    local model <close> = open(name)
    found[name] = model.cam_layer .. ": " .. model.cam_reason
  end
  t.equal(found, {
    convnet = "layer2.2: the last grid before pooling or the head, 4x4",
    vit = "encoder.layers.encoder_layer_0: what the last block's attention is made of, 4x4 without 1 other token: "
    .. "the head reads the class token alone", tokens = "blocks.1: what the last block's attention is made of, 4x4 "
    .. "without 3 other tokens: the head reads the class token alone",
    swin = "permute: the last grid before pooling or the head, 16x16",
  })
end)

t.test("grids are found from shapes; what is none is refused, naming its shape", function()
  local vit <close> = open "tokens"
  local grid = geometry.of(vit, "blocks.0")
  t.equal({ grid.kind, grid.height, grid.width, grid.first, grid.others }, { "tokens", 4, 4, 3, 3 })
  t.equal(geometry.of(vit, "patch_embed").kind, "nchw")
  local swin <close> = open "swin"
  t.equal(geometry.of(swin, "features.1.0").kind, "nhwc")
  local function refused(model, layer, text) t.fails(function() geometry.of(model, layer) end, text) end
  refused(vit, "head", "explain: layer 'head' has no grid of places (its value is (N, 3)). Choose one that has, for "
    .. "instance 'blocks.1'.")
  refused(vit, "blocks.0.attn.scaled_dot_product_attention",
    "explain: layer 'blocks.0.attn.scaled_dot_product_attention' has no grid of places "
    .. "(its value is (N, 2, 19, 4)). Choose one that has, for instance 'blocks.1'.")
  local net <close> = open "convnet"
  refused(net, "avgpool", "explain: layer 'avgpool' has no spatial extent (its value is (N, 6, 1, 1)). Choose one "
    .. "with a grid, for instance 'layer2.2'.")
end)

t.test("places are taken from tokens in their order", function()
  local scope <close> = core.memory.scope() -- luacheck: ignore
  local vit <close> = open "tokens"
  local v = torch.arange(2 * 19 * 8, { dtype = "float64" }):view { 2, 19, 8 }
  local map = geometry.of(vit, "blocks.0"):to_map(v)
  t.equal(map.shape, { 2, 8, 4, 4 })
  t.equal(map[{ 1, 5, 2, 3 }]:item(), v[{ 1, 3 + 2 * 4 + 3, 5 }]:item())
end)

-- A run from every value, given for three images beside a base run of one: what the whole run gives, or an error that
-- says why not.
t.test("partial runs from every value give what the whole run gives, or say that they cannot", function()
  for _, name in ipairs { "convnet", "vit", "tokens", "swin", "odd", "writes" } do
    local scope <close> = core.memory.scope() -- luacheck: ignore
    local model <close> = open(name)
    torch.manual_seed(4)
    local one = torch.rand({ 1, 3, model.size_px, model.size_px }, { dtype = "float64" })
    local three = one:expand { 3, 3, model.size_px, model.size_px }:contiguous()
    torch.no_grad(function()
      local names = model:node_names()
      names[#names + 1] = "output"
      local values = model:forward { x = three, outputs = names, fold = false }
      local base_of = model:forward { x = one, outputs = names, fold = false }
      local exact, refused = 0, 0
      for _, at in ipairs(names) do
        local base = {}
        local boundary = model:boundary { override = { at } }
        for _, needed in ipairs(boundary) do base[needed] = base_of[needed] end
        local ok, got = pcall(model.forward, model, { override = { [at] = values[at] }, base = base, fold = false })
        if ok then
          local images = got.output:size(0) -- what no image has a part in is the base run's
          t.ok((got.output - values.output:narrow(0, 0, images)):abs():max():item() < 1e-12, at)
          -- a view that is made again, and not needed
          local unread = boundary[1] and model:_id(boundary[1]) == model._def.output
          t.ok(images == 3 or images == 1 and (unread or model._def.batches[model:_id(at)].dim < 0), at)
          exact = exact + 1
        else
          t.ok(tostring(got):find("parts of an image along one dimension, and is not repeated for 3 images", 1, true),
            at .. ": " .. tostring(got))
          refused = refused + 1
        end
      end
      t.ok(exact > refused * 3, name .. ": " .. exact .. " and " .. refused)
    end)
  end
end)

t.test("batch norms fold and layouts change without another answer", function()
  local scope <close> = core.memory.scope() -- luacheck: ignore
  for _, name in ipairs { "convnet", "swin", "tokens", "odd" } do
    local model <close> = open(name)
    local other <close> = open(name, { layout = "channels_last" })
    local x = torch.rand({ 2, 3, model.size_px, model.size_px }, { dtype = "float64" })
    torch.no_grad(function()
      local plain = model:forward { x = x, fold = false }.output
      t.near(model(x), plain, 1e-12)
      t.near(other(x), plain, 1e-12)
    end)
  end
end)

t.test("weights are drawn again from the output back to a part, and in one part alone", function()
  local scope <close> = core.memory.scope() -- luacheck: ignore
  local model <close> = open "tokens"
  local function changed(options)
    local copy <close> = model:randomize(options)
    local before, names = {}, {}
    for _, entry in ipairs(model:state()) do before[entry.name] = entry.tensor end
    for _, entry in ipairs(copy:state()) do
      if not torch.equal(entry.tensor, before[entry.name]) then
        names[entry.name:match "^blocks%.%d" or entry.name:match "^[^.]+"] = true
      end
    end
    return require("medxai.base.check").sorted_keys(names)
  end
  t.equal(changed { only = "blocks.1" }, { "blocks.1" })
  t.equal(changed { to = "blocks.1" }, { "blocks.1", "blocks.2", "head", "norm" })
  t.equal(changed { to = "patch_embed" }, { "blocks.0", "blocks.1", "blocks.2", "cls_token", "head", "norm",
    "patch_embed", "pos_embed", "reg_token" })
end)
