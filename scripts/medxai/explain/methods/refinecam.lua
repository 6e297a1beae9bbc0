-- RefineCAM: arXiv:2605.14641, 2026: the product over several layers of their Grad-CAM++ maps, each min-maxed and
-- brought to the input's grid: deep layers say where, shallow ones how finely. As pytorch-grad-cam's RefineCAM.
-- compat: Grad-CAM++ and the min-max as that library has them.
local check = require "medxai.base.check"
local gradcam_plus_plus = require "medxai.explain.methods.gradcam_plus_plus"
local map = require "medxai.explain.map"
local geometry = require "medxai.nn.geometry"
local forward_pass = require "medxai.explain.forward_pass"
local torch = require "medxai.torch"

local function layers_of(ctx, o)
  local layers = o.layers or ctx.model.compare_layers or { ctx.model.cam_layer }
  forward_pass.check_layers(ctx.model, layers)
  for _, layer in ipairs(layers) do
    forward_pass.check_reaches(ctx.model, layer)
    forward_pass.check_before_flatten(ctx.model, layer)
  end
  return layers
end

return {
  title = "RefineCAM",
  paper = "arXiv:2605.14641, 2026",
  version = 1,
  at = "input",
  sign = "nonnegative",
  smoothing = { aug_smooth = true },
  options = {
    layers = { "table", of = "string", doc = "whose maps are multiplied; default: the network's compare_layers" },
  },
  check = function(o)
    if o.layers and #o.layers == 0 then check.fail("refinecam", "layers is empty (expected names of nodes).") end
  end,
  map = function(ctx, _, _, o)
    local layers, parts = layers_of(ctx, o), {}
    ctx:gradients(ctx.count, { kind = "refinecam", at = layers,
      x = function(first, count) return ctx.x:narrow(0, first, count) end, image = function(k) return k + 1 end },
      function(first, count, gradients, scope, values)
        local product
        for _, layer in ipairs(layers) do
          local grid = ctx.model._def.shapes and geometry.of(ctx.model, layer)
          local function to_map(v) return grid and grid:to_map(v) or v end
          local own = { compat = ctx.compat, activation = function() return to_map(values[layer]) end,
            gradient = function() return to_map(gradients[layer]) end,
            combine = function(_, weighted) return weighted:sum({ 1 }) end }
          local one = map.from_raw({ gradcam_plus_plus.map(own) }, ctx.height, ctx.width, { compat = ctx.compat })
          product = product and product * one or one
        end
        parts[#parts + 1] = { first = first, made = scope:keep(product:narrow(0, 0, count)) }
      end)
    table.sort(parts, function(a, b) return a.first < b.first end)
    for i, part in ipairs(parts) do parts[i] = part.made end
    return torch.cat(parts, 0)
  end,
}
