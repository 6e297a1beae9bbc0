-- What a method's map(ctx, x, targets, options) sees. It returns raw (N, h, w) and, where it has more to say, extras: a
-- list over the images of { status =, facts = plain data for the record, arrays = name -> tensor kept beside the map }.
--   ctx.x (N, 3, H, W)      the images in the network's input range; ctx:image(): the same as pixels in [0, 1]
--   ctx:range()             the network's values for black and white
--   ctx.model, ctx.layer    the network, in evaluation, and the name of the layer that is explained
--   ctx:activation(layer?)  (N, C, h, w), of one named tensor
--   ctx:gradient(layer?)    the same: the targets' gradient by it; ctx:gradient("x") is the input's
--   ctx:combine(product)    channels to a map: their sum, or with eigen_smooth their first principal component
--   ctx.targets             list, one per image; targets:score_of(i, logits (n, K)) -> (n)
--   ctx.logits (N, K)       of the images as they are
--   ctx.items[i]            id, path, label ...
--   ctx:stream(purpose, i, replicate?)  random numbers keyed by the image
--   ctx:gradients(n, o, use)            gradients at inputs of the method's own making
--   ctx.scorer, ctx:scorer_in(precision)
--                           scorer:logits(n, make): forward passes by the thousand (perturb/scorer.lua)
--   ctx:unmoved(i, scores)  the status of an image whose scores no perturbation moved, else nil
--   ctx:base(layer)         what a partial run from a layer reads
--   ctx.count, ctx.height, ctx.width, ctx.seed, ctx.compat, ctx.deterministic, ctx.budget_bytes
-- Under augmentation a batch holds views of images: x, targets and items are those of the views. Nothing is computed
-- that nobody asks for.
local check = require "medxai.base.check"
local chunks = require "medxai.tensor.chunks"
local core = require "medxai.core"
local map = require "medxai.explain.map"
local principal = require "medxai.explain.principal_component"
local target = require "medxai.explain.target"
local torch = require "medxai.torch"

local context = {}

local Context = {}

-- What several methods read: a copy where it is a researcher's own that asks, whose code may work in place.
local function lent(self, tensor) return self.own and tensor:clone() or tensor end

-- ctx.logits counts as the use of a forward pass, hence no plain field.
function Context.__index(self, key)
  if key == "logits" then
    self.used.forward = true
    return lent(self, self.pass.logits)
  end
  return Context[key]
end

--- A context; fields: pass, x, targets, items, views (one per image), model, split, height, width, seed, compat, eigen,
--- aliased, job.
function context.new(fields)
  fields.count = fields.x:size(0)
  fields.given = fields.x -- what x is copied from for a researcher's own method (runner.lua)
  fields.used, fields.slopes = {}, {}
  return setmetatable(fields, Context)
end

--- The i-th image's part of a value of a batch.
function context.image_of(model, name, value, i)
  return model.images and model:images(name, value, i - 1, 1) or value:narrow(0, i - 1, 1)
end

-- A pass as one of its images sees it.
local function single_pass(pass, i)
  local function narrowed(name)
    return function(_, ...) return pass[name](pass, ...):narrow(0, i - 1, 1) end
  end
  return { logits = pass.logits:narrow(0, i - 1, 1), activation = narrowed "activation", gradient = narrowed "gradient",
    raw_activation = narrowed "raw_activation", grid = function(_, layer) return pass:grid(layer) end,
    base = function(_, layer)
      local values = {}
      for name, value in pairs(pass:base(layer)) do values[name] = context.image_of(pass.model, name, value, i) end
      return values
    end }
end

--- The context of the i-th image alone.
function Context:single(i)
  local fields = {}
  for k, v in pairs(self) do fields[k] = v end
  fields.pass, fields.x, fields.items, fields.views = single_pass(self.pass, i), self.given:narrow(0, i - 1, 1),
    { self.items[i] }, { self.views[i] }
  fields.targets, fields.shared_targets = target.batch { self.targets[i] }, self.shared_targets or self.targets
  local one = context.new(fields)
  one.used = self.used
  return one
end

-- Remembers how steep the targets are where gradients are taken: slopes[i] is the largest of the i-th image's.
-- image(k): whose row k is.
local function note_slopes(self, logits, image)
  local as = self.targets[1].as
  if as ~= "softmax" and as ~= "sigmoid" then return end
  for k, row in ipairs(logits:detach():to { device = "cpu", dtype = "float64" }:tolist()) do
    local i = image(k)
    self.slopes[i] = math.max(self.slopes[i] or 0, target.slope(self.targets[i], row))
  end
end

--- Told by a method that takes gradients of the i-th image's target itself: the logits (n, K) there.
---@param i integer
function Context:note_slopes(i, logits) note_slopes(self, logits, function() return i end) end

--- Whether the i-th image's gradients, wherever they were taken, are too faint for the network's numbers to hold.
---@param i integer
function Context:saturated(i) return self.slopes[i] ~= nil and self.slopes[i] < target.least_slope(self.model.dtype) end

--- The status of the i-th image of a method that perturbs, where no perturbation moved the target by more than
--- rounding; nil where one did.
---@param i integer
---@param scores number[] of the perturbed images and of the image itself
---@param precision? string of the passes, where they were not the network's
function Context:unmoved(i, scores, precision)
  local row = self.pass.logits:narrow(0, i - 1, 1):to { device = "cpu", dtype = "float64" }:squeeze(0):tolist()
  return target.unmoved(self.targets[i], row, scores, precision == "bfloat16" and precision or self.model.dtype)
end

function Context:activation(layer)
  layer = layer or self.layer or check.fail("explain",
    "ctx:activation() needs a layer: declare at = \"layer\" or pass a name.")
  local activation = lent(self, self.pass:activation(layer, self.aliased))
  self.used.forward = true
  return activation
end

--- The activation as the network has it, and its grid (geometry.lua; nil: it is (N, C, h, w)): for partial runs from
--- it.
function Context:raw_activation(layer)
  layer = layer or self.layer
  self.used.forward = true
  return lent(self, self.pass:raw_activation(layer, self.aliased)), self.pass:grid(layer)
end

function Context:gradient(layer)
  layer = layer or self.layer or check.fail("explain",
    "the gradient at which layer? A method that works on the input writes ctx:gradient(\"x\").")
  local gradient = lent(self, self.pass:gradient(layer, self.shared_targets or self.targets))
  self.used.forward, self.used.gradient = true, true
  note_slopes(self, self.pass.logits, function(k) return k end)
  return gradient
end

function Context:base(layer)
  layer = layer or self.layer or check.fail("explain",
    "a partial run from which layer? A method that works on the input has none (expected at = \"layer\" in the "
    .. "method).")
  local values = self.pass:base(layer)
  self.used.forward = true
  for name, value in pairs(self.own and values or {}) do values[name] = lent(self, value) end
  return values
end

--- A list of numbers, one per channel, beside x.
local function column(self, v)
  return torch.tensor(v, { dtype = "float64" }):view({ 1, #v, 1, 1 }):to { device = self.x.device,
    dtype = self.x.dtype }
end

local function mean_std(split)
  local config = split and split.data and split.data.config or {}
  if config.mean and config.std then return config.mean, config.std end
end

--- x (N, 3, H, W) without the data set's mean and std.
function context.pixels(x, split)
  local mean, std = mean_std(split)
  if not mean then return x end
  return x * column({ x = x }, std) + column({ x = x }, mean)
end

--- The images as pixels in [0, 1], whatever mean and std the network's input was brought to.
function Context:image() return context.pixels(self.x, self.split) end

--- Black and white in the network's input range: two tensors (1, 3, 1, 1) like x.
function context.range(x, split)
  local mean, std = mean_std(split)
  local lo, hi = {}, {}
  for c = 1, x:size(1) do
    lo[c], hi[c] = 0, 1
    if mean then lo[c], hi[c] = -mean[c] / std[c], (1 - mean[c]) / std[c] end
  end
  return column({ x = x }, lo), column({ x = x }, hi)
end

function Context:range() return context.range(self.x, self.split) end

-- The state of chunks.each for one kind of work, kept from batch to batch.
function Context:chunks(kind)
  local states = self.chunk_states
  states[kind] = states[kind] or chunks.new { device = self.model.device, budget_bytes = self.budget_bytes,
    deterministic = self.deterministic }
  return states[kind]
end

--- Gradients of the targets at n inputs of the method's own making, chunk by chunk under the memory budget: use(first,
--- count, gradients, scope, values) gets name -> tensor at the input ("x") and at the nodes of o.at, of the gradients
--- and of the values there (values.output: the logits); scope:keep(t) keeps what shall outlive the chunk. It may be
--- called again for a part of a chunk that ran out of memory: let it change nothing until it can no longer fail.
---@param n integer
---@param o table kind: names the work; x(first, count) -> (count, 3, H, W); image(k): whose target counts for input k
---   (0-based -> 1-based);
---   at: names of nodes; guided (see Model:forward); fold (default true; never where guided: a folded norm rounds
---   otherwise, and a ReLU on its edge turns the guided gradient)
---@param use function
function Context:gradients(n, o, use)
  local outputs, size = { "output", table.unpack(o.at or {}) }, self.deterministic and chunks.fixed or nil
  chunks.each(self:chunks(o.kind), n, function(first, count)
    local scope <close> = core.memory.scope()
    local numbers = {}
    for k = 1, count do numbers[k] = o.image(first + k - 1) end
    local targets, x = self.targets:select(numbers), chunks.padded(o.x(first, count), size)
    local inputs, values, logits = {}, nil, nil
    local list = torch.enable_grad(function()
      values = self.model:forward { x = x, outputs = outputs, grad_from = { "x" }, guided = o.guided,
        fold = o.fold ~= false and not o.guided }
      for i, name in ipairs(outputs) do inputs[i] = i == 1 and values.x or values[name] end
      logits = values.output:narrow(0, 0, count)
      return torch.autograd.grad(targets:score(logits):sum(), inputs)
    end)
    note_slopes(self, logits, function(k) return numbers[k] end)
    local gradients, at = {}, { output = logits:detach() }
    for i, name in ipairs(outputs) do gradients[i == 1 and "x" or name] = list[i]:narrow(0, 0, count) end
    for _, name in ipairs(o.at or {}) do at[name] = values[name]:detach():narrow(0, 0, count) end
    self.used.passes = (self.used.passes or 0) + count
    use(first, count, gradients, scope, at)
  end)
end

-- What the second list of extras says added to the first.
local function both(extras, more)
  for i, extra in ipairs(more or {}) do
    extras[i].status = extras[i].status or extra.status
    for name, value in pairs(extra.facts or {}) do extras[i].facts[name] = value end
  end
  return extras
end

-- The sum over channels of each image; 0 where the channels cancel and what is left is their rounding.
local function sum_of(product)
  local sum, size = product:sum({ 1 }), product:norm(1, { 1 }):amax({ 1, 2 }, true)
  return sum:masked_fill(sum:abs():amax({ 1, 2 }, true):le(size * map.rounding(product)), 0)
end

--- (N, C, h, w) -> raw (N, h, w) [, extras]: the sum over channels, or with eigen_smooth the first principal component.
---@param product any
---@param extras? table[] what the method says of each image already: { facts = }
function Context:combine(product, extras)
  if not self.eigen then return self.compat and product:sum({ 1 }) or sum_of(product), extras end
  local raw, more = self:principal(product)
  return raw, both(more, extras)
end

--- (N, C, h, w) -> raw (N, h, w), extras: see principal_component.lua.
function Context:principal(features) return principal.project(features, self.compat) end

--- Forward passes in another precision, "bfloat16": half the time where the processor has it, at about 3 digits
--- (scorer.lua).
function Context:scorer_in(precision)
  return precision == "float32" and self.scorer or self.scorers:of(precision)
end

--- The keyed random stream of the i-th image; another one in each view but the image itself.
---@param purpose string "randomcam@1"
---@param i integer
---@param replicate? integer
function Context:stream(purpose, i, replicate)
  local id, view = self.items[i].id, self.views and self.views[i]
  if view and not view.identity then id = id .. "/" .. view.name end
  return core.rng.stream { seed = self.seed, purpose = purpose, id = id, replicate = replicate or 0 }
end

return context
