-- The attention weights of a transformer and their gradients, for the methods that explain by them. Where the network
-- has softmax nodes the weights are theirs; where it has the fused operator scaled_dot_product_attention they are
-- computed from its queries and keys, A = softmax(q k' scale + mask), and the gradient from that of its output, dA = dO
-- v'. It refuses networks whose attention is not over all tokens at once: within windows, or from one token to others.
local check = require "medxai.base.check"
local chunks = require "medxai.tensor.chunks"
local core = require "medxai.core"
local geometry = require "medxai.nn.geometry"
local not_defined = require "medxai.base.not_defined"
local torch = require "medxai.torch"

local attention = {}

---@class medxai.Attention how a transformer's attentions stand to the places of an image
---@field sites table[] in order: { name = node, id =, q =, k =, v = names where it is fused }
---@field grid medxai.Grid where the places stand among the tokens
---@field token integer|nil the token that the head reads (0-based); nil: it reads all
---@field tokens integer

local function site_of(model, id, used)
  local def = model._def
  local fused, shape = def.attentions[id], def.shapes[id]
  local _, op = def.native:node(id)
  local name = def.nodes[id]
  if not used[name] then return nil end
  if fused then
    local q, k = def.shapes[fused.q], def.shapes[fused.k]
    return { name = name, id = id, fused = fused, shape = { q[1], q[2], q[#q - 1], k[#k - 1] }, rank = #q }
  elseif op == "softmax" and #shape >= 3 then
    return { name = name, id = id, shape = shape, rank = #shape }
  end
end

local function check_site(site)
  local shape = site.shape
  if site.rank ~= 4 or shape[1] ~= -1 then
    not_defined.raise(("'%s' attends within windows, or mixes images and heads, and not from every token to "
      .. "every other"):format(site.name))
  elseif shape[3] ~= shape[4] then
    not_defined.raise(("'%s' attends from %d tokens to %d, and not from every token to every other"):format(site.name,
      shape[3], shape[4]))
  elseif site.fused and not site.fused.plain then
    not_defined.raise(("'%s' is causal or groups its heads"):format(site.name))
  end
  return site
end

--- The attentions of a network. Raises "not defined" where the methods are not.
---@param model medxai.Model
---@return medxai.Attention
function attention.of(model)
  local def = model._def
  if not def.shapes then not_defined.raise "attention is explained in networks that PyTorch exported" end
  if def.attention then return def.attention end
  local used, sites = model:used_nodes(), {}
  for id = 1, def.output do
    local site = site_of(model, id, used)
    if site then sites[#sites + 1] = check_site(site) end
  end
  if #sites == 0 then not_defined.raise "the network has no attention" end
  local tokens, found = sites[1].shape[3], nil
  for _, bridge in ipairs(geometry.bridges(model)) do
    local grid = bridge.grid
    if grid.kind ~= "nchw" and grid.height * grid.width + grid.others == tokens then found = bridge end
  end
  for _, site in ipairs(sites) do
    if site.shape[3] ~= tokens then
      not_defined.raise(("its attentions have %d and %d tokens"):format(tokens, site.shape[3]))
    end
  end
  if not found then not_defined.raise(("its %d tokens are no grid of places"):format(tokens)) end
  def.attention = { sites = sites, grid = found.grid, tokens = tokens, last = found.id,
    token = geometry.token_read(model, found.id, found.grid) }
  return def.attention
end

-- Names of the values that the weights of all sites are made of.
local function outputs_of(model, sites)
  local names, nodes = { "output" }, model._def.nodes
  for _, site in ipairs(sites) do
    if site.fused then
      for _, key in ipairs { "q", "k", "v", "mask" } do names[#names + 1] = nodes[site.fused[key]] end
    else
      names[#names + 1] = site.name
    end
  end
  return names
end

-- (n, heads, T, T)
local function weights_of(model, values, site)
  local fused, nodes = site.fused, model._def.nodes
  if not fused then return values[site.name]:detach() end
  local q, k = values[nodes[fused.q]]:detach(), values[nodes[fused.k]]:detach()
  local logits = (q * fused.scale):matmul(k:transpose(-2, -1))
  local mask = fused.mask and values[nodes[fused.mask]] or fused.mask_slot and model._state:get(fused.mask_slot)
  if mask and fused.is_bool then logits = logits:masked_fill(mask:logical_not(), -math.huge)
  elseif mask then logits = logits + mask:detach() end
  return torch.softmax(logits, -1)
end

-- (n, heads, T, T): the gradient at the weights, from that at the site.
local function gradient_of(model, values, site, g)
  if not site.fused then return g end
  return g:matmul(values[model._def.nodes[site.fused.v]]:detach():transpose(-2, -1))
end

local function first_of(list, count)
  for i, t in ipairs(list) do list[i] = t:narrow(0, 0, count) end
  return list
end

--- Runs the images chunk by chunk: use(first, count, weights, gradients, scope) gets of every site, in order, the
--- weights (count, heads, T, T) and, where asked for, the gradients of the targets' scores at them.
---@param ctx table
---@param kind string names the work
---@param with_gradients boolean
---@param use function it changes nothing until it can no longer fail
function attention.each(ctx, kind, with_gradients, use)
  local model, found = ctx.model, attention.of(ctx.model)
  local outputs, leaves = outputs_of(model, found.sites), {}
  for i, site in ipairs(found.sites) do leaves[i] = site.name end
  chunks.each(ctx:chunks(kind), ctx.count, function(first, count)
    local scope <close> = core.memory.scope()
    local numbers = {}
    for k = 1, count do numbers[k] = first + k end
    local targets, x = ctx.targets:select(numbers),
      chunks.padded(ctx.x:narrow(0, first, count), ctx.deterministic and chunks.fixed or nil)
    local values, gradients
    local function forward()
      return model:forward { x = x, outputs = outputs, grad_from = with_gradients and leaves or nil, fold = true }
    end
    if with_gradients then
      torch.enable_grad(function()
        values = forward()
        local at = {}
        for i, name in ipairs(leaves) do at[i] = values[name] end
        gradients = torch.autograd.grad(targets:score(values.output:narrow(0, 0, count)):sum(), at)
      end)
      for i, site in ipairs(found.sites) do gradients[i] = gradient_of(model, values, site, gradients[i]) end
      first_of(gradients, count)
      ctx.used.passes = (ctx.used.passes or 0) + count
    else
      values = torch.no_grad(forward)
      ctx.used.forwards = (ctx.used.forwards or 0) + count
    end
    local weights = {}
    for i, site in ipairs(found.sites) do weights[i] = weights_of(model, values, site) end
    use(first, count, first_of(weights, count), gradients, scope)
  end)
end

--- (n, T, T) relevances of tokens for tokens -> (n, h, w): the row of the token that the head reads, or the mean of all
--- rows, at the places.
function attention.to_map(found, relevance)
  local grid = found.grid
  local row = found.token and relevance:select(1, found.token) or relevance:mean({ 1 })
  return row:narrow(1, grid.first, grid.height * grid.width):reshape { row:size(0), grid.height, grid.width }
end

--- Identity matrices beside a tensor (n, T, T).
function attention.identity(like)
  return torch.eye(like:size(-1), { dtype = like.dtype, device = like.device }):unsqueeze(0)
end

--- Maps (N, h, w) of all images of a context: step(weights, gradients) -> (count, h, w) of a chunk.
function attention.maps(ctx, kind, with_gradients, step)
  local parts = {}
  attention.each(ctx, kind, with_gradients, function(first, _, weights, gradients, scope)
    local made = torch.no_grad(step, weights, gradients)
    parts[#parts + 1] = { first = first, map = scope:keep(made) }
  end)
  table.sort(parts, function(a, b) return a.first < b.first end)
  local list = {}
  for i, part in ipairs(parts) do list[i] = part.map end
  return #list == 1 and list[1] or torch.cat(list, 0)
end

--- The value behind each attention that the next one is made of, and the last of them: names, in the order of the
--- sites.
function attention.layers(model)
  local found, nodes = attention.of(model), model._def.nodes
  local bridges, list = geometry.bridges(model), {}
  local between = 0 -- values between two attentions
  for i, site in ipairs(found.sites) do
    local behind = {}
    for _, bridge in ipairs(bridges) do
      local next_site = found.sites[i + 1]
      if bridge.id > site.id and (not next_site or bridge.id < next_site.id) then
        behind[#behind + 1] = nodes[bridge.id]
      end
    end
    if i < #found.sites then between = #behind end
    list[i] = behind[i < #found.sites and #behind or between > 0 and between or #behind]
    if not list[i] then
      check.fail("explain", "the value behind '%s' is not to be found among those that all goes through.", site.name)
    end
  end
  return list
end

return attention
