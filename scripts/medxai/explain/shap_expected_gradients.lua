-- The sampling behind SHAP Gradient: means over samples t x + (1 - t) b of gradient times factor, for several outputs
-- at once. One forward a chunk, one backward an output, which goes no deeper than the layer; sums in float64.
-- It refuses to draw: which background and which t a sample takes is the caller's.
local chunks = require "medxai.tensor.chunks"
local core = require "medxai.core"
local geometry = require "medxai.nn.geometry"
local target = require "medxai.explain.target"
local torch = require "medxai.torch"

local expected = {}

-- What is multiplied with the gradient: f(first, count, value at the samples) -> (count, C, h, w).
local function factor_of(r)
  if r.form == "activation" then return function(_, _, value) return value end end
  local at_x, at_b = r.x, r.background
  if r.layer ~= "x" then
    local both = torch.no_grad(function()
      return r.model:forward { x = torch.cat({ r.x, r.background }, 0), outputs = { r.layer } }[r.layer]
    end)
    at_x, at_b = both:narrow(0, 0, 1), both:narrow(0, 1, r.background:size(0))
  end
  return function(first, count) return at_x - at_b:index_select(0, r.which:narrow(0, first, count)) end
end

-- One chunk: for each class the sums over its samples of the map (gradient times factor, channels summed) and of its
-- square; with r.each also of every channel's own.
local function chunk_sums(r, samples, factor_at)
  local values = r.model:forward { x = samples, outputs = { "output" }, grad_from = { r.layer }, fold = true }
  local leaf, y, out = values[r.layer], values.output, {}
  if r.watch then r.watch(y) end
  local factor = factor_at(leaf:detach())
  for k, class in ipairs(r.classes) do
    local g = torch.autograd.grad(target.output(y, class, r.as):sum(), { leaf }, { retain_graph = k < #r.classes })[1]
    local product = (g * factor):to { dtype = "float64" }
    if r.grid then product = r.grid:to_map(product) end
    local map = product:sum({ 1 })
    out[k] = { map = map:sum({ 0 }), map_square = map:square():sum({ 0 }) }
    if r.each then out[k].each, out[k].each_square = product:sum({ 0 }), product:square():sum({ 0 }) end
  end
  return out
end

local function add(totals, sums, scope)
  for k, one in ipairs(sums) do
    totals[k] = totals[k] or {}
    for name, v in pairs(one) do
      if totals[k][name] then totals[k][name]:add_(v) else totals[k][name] = scope:keep(v) end
    end
  end
end

local function mean(totals, name, n)
  local list = {}
  for k, one in ipairs(totals) do list[k] = one[name]:cpu() / n end
  return torch.stack(list, 0)
end

--- Means over n samples.
---@param r table model, layer ("x" is the input), x (1, 3, H, W), background (B, 3, H, W), which (n) int64 below B, t
---   (n) float64, form
---  "difference" | "activation", classes (0-based), as "logit" | "softmax", each: boolean, chunks: from chunks.new,
---  bar: Progress, watch: a function that sees the logits of each chunk
---@return table means map, map_square (k, h, w), half: map over the first n // 2; with each: each, each_square (k, C,
---   h, w); float64
function expected.means(r)
  local n, x = r.t:size(0), r.x
  r.which = r.which:to { device = x.device }
  local t = r.t:view { n, 1, 1, 1 }
  local share, rest = t:to { device = x.device, dtype = x.dtype }, (1 - t):to { device = x.device, dtype = x.dtype }
  if r.layer ~= "x" then r.grid = geometry.grid(r.model, r.layer, {}) end
  local factor, totals = factor_of(r), {}
  local function run(from, upto)
    chunks.each(r.chunks, upto - from, function(at, count)
      local scope <close> = core.memory.scope()
      local first = at + from
      local samples = x * share:narrow(0, first, count) + r.background:index_select(0,
        r.which:narrow(0, first, count)) * rest:narrow(0, first, count)
      local sums = torch.enable_grad(function()
        return chunk_sums(r, samples, function(value) return factor(first, count, value) end)
      end)
      add(totals, sums, scope) -- all done: a chunk that fails before comes again
      r.bar:add(count)
    end)
  end
  run(0, n // 2)
  local means = { half = mean(totals, "map", n // 2) }
  run(n // 2, n)
  for name in pairs(totals[1]) do means[name] = mean(totals, name, n) end
  return means
end

return expected
