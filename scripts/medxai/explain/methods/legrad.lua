-- LeGrad: Bousselham et al., 2024, eq. 5 to 8: what each layer's tokens would answer if they were the last ones, and
-- that answer's gradient at the layer's own attention weights: the mean over heads and over the tokens that attend of
-- (dW)+, averaged over layers, at the places. A layer's tokens go through what follows the last layer: norm, pooling,
-- head.
-- It costs one backward pass per layer, each through that layer and the head alone.
local attention = require "medxai.explain.attention"
local chunks = require "medxai.tensor.chunks"
local core = require "medxai.core"
local torch = require "medxai.torch"

-- (n, T): the mean of the layers' positive gradients. x: the images, padded; targets: of the first of them
local function relevance(ctx, found, layers, x, targets, count)
  local model, nodes, names, leaves, sum = ctx.model, ctx.model._def.nodes, {}, {}, nil
  local last = layers[#layers]
  for i, site in ipairs(found.sites) do
    names[#names + 1], leaves[i] = layers[i], site.name
    if site.fused then names[#names + 1] = nodes[site.fused.v] end
  end
  local base_names = model:boundary { override = { last } }
  local values = model:forward { x = x,
    outputs = { table.unpack(table.move(base_names, 1, #base_names, #names + 1, names)) }, grad_from = leaves }
  local base = {}
  for _, name in ipairs(base_names) do base[name] = values[name]:detach() end
  for i, site in ipairs(found.sites) do
    local output = model:forward { override = { [last] = values[layers[i]] }, base = base }.output
    local g = torch.autograd.grad(targets:score(output:narrow(0, 0, count)):sum(), { values[site.name] },
      { retain_graph = true })[1]
    if site.fused then g = g:matmul(values[nodes[site.fused.v]]:detach():transpose(-2, -1)) end
    local one = g:narrow(0, 0, count):relu():mean({ 1, 2 }) -- (n, heads, T, T) -> (n, T)
    sum = sum and sum + one or one
  end
  return sum / #found.sites
end

return {
  title = "LeGrad",
  paper = "Bousselham et al. 2024, arXiv:2404.03214",
  version = 1,
  at = "input",
  sign = "nonnegative",
  smoothing = { aug_smooth = true },
  map = function(ctx)
    local found = attention.of(ctx.model)
    local layers, grid, parts = attention.layers(ctx.model), found.grid, {}
    chunks.each(ctx:chunks "legrad", ctx.count, function(first, count)
      local scope <close> = core.memory.scope()
      local numbers = {}
      for k = 1, count do numbers[k] = first + k end
      local x = chunks.padded(ctx.x:narrow(0, first, count), ctx.deterministic and chunks.fixed or nil)
      local made = torch.enable_grad(relevance, ctx, found, layers, x, ctx.targets:select(numbers), count)
      ctx.used.passes = (ctx.used.passes or 0) + count * #found.sites
      parts[#parts + 1] = { first = first, made = scope:keep(made) }
    end)
    table.sort(parts, function(a, b) return a.first < b.first end)
    local list = {}
    for i, part in ipairs(parts) do list[i] = part.made end
    return torch.cat(list, 0):narrow(1, grid.first, grid.height * grid.width):reshape { ctx.count, grid.height,
      grid.width }
  end,
}
