-- Inception v3 (Szegedy et al. 2016), as torchvision builds it, with the auxiliary branch: in train mode the model
-- gives logits and auxiliary logits. transform_input turns ImageNet's normalisation into the one this network was
-- trained with (default: when weights = "imagenet").
local function conv(g, name, x, inp, out, kernel, o)
  o = o or {}
  return g:block(name, function()
    local y = g:conv2d("conv", x, { inp, out, kernel, stride = o.stride, padding = o.padding, bias = false })
    return g:relu(nil, g:batch_norm2d("bn", y, out, { eps = 0.001 }))
  end)
end

local function pooled(g, x) return g:avg_pool2d(nil, x, { 3, stride = 1, padding = 1 }) end

local function mixed_5(g, x, inp, pool)
  local a = conv(g, "branch1x1", x, inp, 64, 1)
  local b = conv(g, "branch5x5_1", x, inp, 48, 1)
  b = conv(g, "branch5x5_2", b, 48, 64, 5, { padding = 2 })
  local c = conv(g, "branch3x3dbl_1", x, inp, 64, 1)
  c = conv(g, "branch3x3dbl_2", c, 64, 96, 3, { padding = 1 })
  c = conv(g, "branch3x3dbl_3", c, 96, 96, 3, { padding = 1 })
  local d = conv(g, "branch_pool", pooled(g, x), inp, pool, 1)
  return g:cat(nil, { a, b, c, d })
end

local function mixed_6a(g, x, inp)
  local a = conv(g, "branch3x3", x, inp, 384, 3, { stride = 2 })
  local b = conv(g, "branch3x3dbl_1", x, inp, 64, 1)
  b = conv(g, "branch3x3dbl_2", b, 64, 96, 3, { padding = 1 })
  b = conv(g, "branch3x3dbl_3", b, 96, 96, 3, { stride = 2 })
  return g:cat(nil, { a, b, g:max_pool2d(nil, x, { 3, stride = 2 }) })
end

local wide, tall = { padding = { 0, 3 } }, { padding = { 3, 0 } }

local function mixed_6(g, x, c7)
  local a = conv(g, "branch1x1", x, 768, 192, 1)
  local b = conv(g, "branch7x7_1", x, 768, c7, 1)
  b = conv(g, "branch7x7_2", b, c7, c7, { 1, 7 }, wide)
  b = conv(g, "branch7x7_3", b, c7, 192, { 7, 1 }, tall)
  local c = conv(g, "branch7x7dbl_1", x, 768, c7, 1)
  c = conv(g, "branch7x7dbl_2", c, c7, c7, { 7, 1 }, tall)
  c = conv(g, "branch7x7dbl_3", c, c7, c7, { 1, 7 }, wide)
  c = conv(g, "branch7x7dbl_4", c, c7, c7, { 7, 1 }, tall)
  c = conv(g, "branch7x7dbl_5", c, c7, 192, { 1, 7 }, wide)
  local d = conv(g, "branch_pool", pooled(g, x), 768, 192, 1)
  return g:cat(nil, { a, b, c, d })
end

local function mixed_7a(g, x)
  local a = conv(g, "branch3x3_1", x, 768, 192, 1)
  a = conv(g, "branch3x3_2", a, 192, 320, 3, { stride = 2 })
  local b = conv(g, "branch7x7x3_1", x, 768, 192, 1)
  b = conv(g, "branch7x7x3_2", b, 192, 192, { 1, 7 }, wide)
  b = conv(g, "branch7x7x3_3", b, 192, 192, { 7, 1 }, tall)
  b = conv(g, "branch7x7x3_4", b, 192, 192, 3, { stride = 2 })
  return g:cat(nil, { a, b, g:max_pool2d(nil, x, { 3, stride = 2 }) })
end

-- a 1x3 and a 3x1 convolution side by side
local function split(g, name, x, inp, out)
  local a = conv(g, name .. "a", x, inp, out, { 1, 3 }, { padding = { 0, 1 } })
  local b = conv(g, name .. "b", x, inp, out, { 3, 1 }, { padding = { 1, 0 } })
  return g:cat(nil, { a, b })
end

local function mixed_7(g, x, inp)
  local a = conv(g, "branch1x1", x, inp, 320, 1)
  local b = split(g, "branch3x3_2", conv(g, "branch3x3_1", x, inp, 384, 1), 384, 384)
  local c = conv(g, "branch3x3dbl_1", x, inp, 448, 1)
  c = split(g, "branch3x3dbl_3", conv(g, "branch3x3dbl_2", c, 448, 384, 3, { padding = 1 }), 384, 384)
  local d = conv(g, "branch_pool", pooled(g, x), inp, 192, 1)
  return g:cat(nil, { a, b, c, d })
end

local function auxiliary(g, x, o)
  x = conv(g, "conv0", g:avg_pool2d(nil, x, { 5, stride = 3 }), 768, 128, 1)
  x = conv(g, "conv1", x, 128, 768, 5)
  x = g:flatten(nil, g:adaptive_avg_pool2d(nil, x, 1))
  if o.head == "thesis" then g:ghost_linear("fc", 768, 1000) end
  return g:linear("fc", x, { 768, o.num_classes })
end

local function transform(g, x)
  local mean, std, list = { 0.485, 0.456, 0.406 }, { 0.229, 0.224, 0.225 }, {}
  for c = 1, 3 do
    local y = g:op("unsqueeze", "unsqueeze", { g:op("getitem", "select.int", { x, 1, c - 1 }), 1 })
    y = g:op("mul", "mul.Scalar", { y, std[c] / 0.5 })
    list[c] = g:op("add", "add.Scalar", { y, (mean[c] - 0.5) / 0.5 })
  end
  return g:cat(nil, list)
end

local sixth = { "Mixed_6a", "Mixed_6b", "Mixed_6c", "Mixed_6d", "Mixed_6e" }
local seventh = { "Mixed_7a", "Mixed_7b", "Mixed_7c" }
local function join(...)
  local all = {}
  for _, list in ipairs { ... } do table.move(list, 1, #list, #all + 1, all) end
  return all
end

return {
  name = "inception_v3", size_px = 299, resize_px = 299, hidden = 256, dropout = 0.5, min_px = 75, min_train_px = 299,
  head_parts = { "fc", "dropout", "AuxLogits.fc" },
  head_order = { "fc.fc1", "fc.fc2", "AuxLogits.fc" }, -- in which the thesis' new layers are drawn
  depths = { seventh, join(seventh, sixth), join(seventh, sixth, { "Mixed_5b", "Mixed_5c", "Mixed_5d" }) },
  cam_layer = "Mixed_7c.branch_pool",
  compare_layers = { "Mixed_7c.branch_pool", "Mixed_6e.branch_pool", "Mixed_5d.branch_pool", "Conv2d_4a_3x3" },
  shap_layer = "Mixed_7c.avg_pool2d", shap_gradient_samples = 2000, shap_kernel_samples = 70,
  channels_last = { cpu = true, cuda = true },
  options = { transform_input = { "boolean",
    doc = "torchvision's change of scale for ImageNet's weights; default: true with those weights" } },

  build = function(g, x, o)
    if o.transform_input then x = transform(g, x) end
    x = conv(g, "Conv2d_1a_3x3", x, 3, 32, 3, { stride = 2 })
    x = conv(g, "Conv2d_2a_3x3", x, 32, 32, 3)
    x = conv(g, "Conv2d_2b_3x3", x, 32, 64, 3, { padding = 1 })
    x = g:max_pool2d("maxpool1", x, { 3, stride = 2 })
    x = conv(g, "Conv2d_3b_1x1", x, 64, 80, 1)
    x = conv(g, "Conv2d_4a_3x3", x, 80, 192, 3)
    x = g:max_pool2d("maxpool2", x, { 3, stride = 2 })
    x = g:block("Mixed_5b", mixed_5, g, x, 192, 32)
    x = g:block("Mixed_5c", mixed_5, g, x, 256, 64)
    x = g:block("Mixed_5d", mixed_5, g, x, 288, 64)
    x = g:block("Mixed_6a", mixed_6a, g, x, 288)
    for name, c7 in ("Mixed_6b 128 Mixed_6c 160 Mixed_6d 160 Mixed_6e 192"):gmatch("(%S+) (%d+)") do
      x = g:block(name, mixed_6, g, x, math.tointeger(tonumber(c7)))
    end
    local aux = g:block("AuxLogits", auxiliary, g, x, o)
    x = g:block("Mixed_7a", mixed_7a, g, x)
    x = g:block("Mixed_7b", mixed_7, g, x, 1280)
    x = g:block("Mixed_7c", mixed_7, g, x, 2048)
    x = g:flatten(nil, g:dropout("dropout", g:adaptive_avg_pool2d("avgpool", x, 1), o.own_dropout))
    if o.head == "torchvision" then return g:linear("fc", x, { 2048, o.num_classes }), aux end
    g:ghost_linear("fc", 2048, 1000)
    return g:thesis_head("fc", x, 2048, o.hidden, o.num_classes, o.dropout), aux
  end,

  -- torchvision leaves this out when it is going to load weights
  initialize = function(draw, m, o)
    if o.weights == "imagenet" then return end
    draw.truncated_normal(m, m.name == "AuxLogits.fc" and 0.001 or 0.1)
  end,
}
