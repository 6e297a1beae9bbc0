-- The frozen part of the seven networks: where it ends, why not where it does not, and that its outputs are all that
-- the rest reads.
local t = require "t"
local core = require "medxai.core"
local prefix = require "medxai.train.feature_cache"
local torch = require "medxai.torch"
local work = require "medxai.nn.macs"
local xai = require "medxai"

local function cut_of(name, options)
  options.classes = 3
  local model = xai.models[name](options)
  local cut, why = prefix.cut(model)
  model:close()
  return cut and table.concat(cut.names, " "), why
end

t.test("networks without batch norm are cut where the first trained layer reads", function()
  t.equal(cut_of("squeezenet1_0", { train_depth = 0 }), "features.12.cat")
  t.equal(cut_of("squeezenet1_0", { train_depth = 2 }), "features.6")
  t.equal({ cut_of("squeezenet1_0", { train_depth = "all" }) }, { nil, "the first layer is trained" })
end)

t.test("a frozen part whose batch norms update is not computed once, and says so; in eval mode it is", function()
  local _, why = cut_of("resnet50", { train_depth = 1 })
  t.equal(why, "'bn1': its batch norms update their statistics (frozen = 'train')")
  t.equal(cut_of("resnet50", { train_depth = 1, frozen = "eval" }), "layer3.5.relu_2")
  t.equal(cut_of("mobilenet_v2", { train_depth = 0, frozen = "eval" }), "flatten")
  t.equal(cut_of("densenet121", { train_depth = 1, frozen = "eval" }),
    "features.transition3.pool features.denseblock4.denselayer1.cat")
end)

t.test("Inception's auxiliary branch crosses the cut too", function()
  local cut = cut_of("inception_v3", { train_depth = 1, frozen = "eval" })
  t.ok(cut:find("Mixed_6e", 1, true) and cut:find("AuxLogits", 1, true), cut)
end)

-- Everything behind the cut, from the cut's values alone, is what the whole network gives.
t.test("what crosses the cut is enough: logits in both modes", function()
  for _, case in ipairs { { "squeezenet1_0", 1 }, { "mobilenet_v2", 2 }, { "efficientnet_b0", 1 }, { "densenet121", 1 },
      { "resnet50", 1 } } do
    local scope <close> = core.memory.scope()
    local model = xai.models[case[1]] { classes = 3, train_depth = case[2], frozen = "eval", seed = 3 }
    local x, cut = torch.rand(2, 3, 96, 96), prefix.cut(model)
    torch.no_grad(function()
      for _, mode in ipairs { "train", "eval" } do
        model:train()
        local values = model:forward { x = x, outputs = cut.names, fold = false }
        model[mode](model)
        torch.manual_seed(1)
        local whole = model(x)
        torch.manual_seed(1)
        local rest = model:forward { base = values, outputs = model:output_names() }[model:output_names()[1]]
        t.ok((whole - rest):abs():max():item() <= 1e-5, case[1] .. " in " .. mode .. " mode")
      end
    end)
    model:close()
  end
end)

t.test("multiply-adds: SqueezeNet's are those of the literature, and a cached part costs nothing", function()
  local model = xai.models.squeezenet1_0 { classes = 1000, head = "torchvision", train_depth = 0 }
  t.near(work.forward(model) / 1e9, 0.819, 0.01) -- SqueezeNet 1.0 at 224 px
  local cut = prefix.cut(model)
  local whole, rest = work.training_step(model), work.training_step(model, cut.names)
  t.equal(rest, whole - work.up_to(model, cut.names))
  t.ok(rest < whole / 4)
  model:close()
end)
