-- Forward passes by the thousand for the methods and metrics that perturb: logits of n images, or of n values of an
-- inner layer, made chunk by chunk under a memory budget, without gradients, batch norms folded, in the model's layout.
--   local s = scorer.new(model, { budget_mb = 1024, deterministic = false, precision = "float32" | "bfloat16" })
--   s:logits(n, make)                    -- (n, K) float32 (or the model's float64) on the CPU;
--                                        -- make(first, count) -> (count, 3, H, W) on the model's device
--   s:from_layer(layer, base, n, make)   -- the same from node `layer` on; make gives (count, C, h, w)
-- It refuses a model in train mode: dropout and batch statistics would answer for something else.
local check = require "medxai.base.check"
local Options = require "medxai.base.options"
local chunks = require "medxai.tensor.chunks"
local memory = require("medxai.core").memory
local torch = require "medxai.torch"

local scorer = {}

local Scorer = {}
Scorer.__index = Scorer

local checked_images = 8 -- bfloat16: so many are evaluated in float32 as well

scorer.spec = {
  budget_mb = { "number", above = 0, unit = "MB",
    doc = "memory for one chunk; default: 1024, or half of what a GPU has left" },
  deterministic = { "boolean", default = false,
    doc = "chunks of 8, the last one padded: a score depends on nothing but its image" },
  precision = { one_of = { "float32", "bfloat16" }, default = "float32",
    doc = "bfloat16: about 3 digits, and deviation() tells the price" },
  chunk = { "integer", min = 1, unit = "images", doc = "per pass; default: what fits into budget_mb" },
}

--- A scorer of a model in eval mode. Options: budget_mb, memory for one chunk; deterministic: chunks of 8, the last one
--- padded, so that a score depends on nothing but its image; precision: "bfloat16" evaluates in bfloat16 (about 3
--- digits) where deviation() tells the price; chunk: a fixed number at once.
---@param model medxai.Model
---@param options? table
---@return table scorer with forwards and partials: images evaluated so far by whole passes and from inner layers
function scorer.new(model, options)
  local o = Options.check("scorer", options, scorer.spec)
  return setmetatable({ model = model, options = o, forwards = 0, partials = 0, kinds = {} }, Scorer)
end

-- A state for chunks.each per kind of pass: an image of another size or another layer takes other memory.
local function kind(self, key)
  local o = self.options
  local device = self.model.device
  self.kinds[key] = self.kinds[key] or chunks.new { device = device, budget_bytes = chunks.budget(device, o.budget_mb),
    worth_bytes = chunks.worth(device), deterministic = o.deterministic,
    chunk = o.chunk }
  return self.kinds[key]
end

-- The bfloat16 copy, made at the first use.
local function lowered(self)
  if self.options.precision ~= "bfloat16" then return self.model end
  if not self.half then require("medxai.tensor.bfloat16").require("scorer", self.model.device) end
  if not self.half then
    self.half = memory.unscoped(function() return self.model:clone():to { dtype = "bfloat16" } end)
  end
  return self.half
end

local function evaluate(model, x, layer, base)
  if x.dtype ~= model.dtype then x = x:to { dtype = model.dtype } end
  if not layer then return model:forward { x = x }.output end
  local values = {}
  for _, name in ipairs(check.sorted_keys(base or {})) do values[name] = base[name]:to { dtype = model.dtype } end
  return model:forward { override = { [layer] = x }, base = values }.output
end

-- The first images once more in float32.
local function compare(self, out, x, layer, base)
  if self.options.precision ~= "bfloat16" or self.compared == checked_images then return end
  local n = math.min(checked_images - (self.compared or 0), x:size(0))
  local exact = evaluate(self.model, x:narrow(0, 0, n), layer, base):to { dtype = "float32" }:cpu()
  self.compared = (self.compared or 0) + n
  self.off = math.max(self.off or 0, (exact - out:narrow(0, 0, n)):abs():max():item())
end

local function run(self, key, n, make, layer, base)
  local model = lowered(self)
  if self.model:is_training() then
    check.fail("scorer", "the model is in train mode (expected eval mode). Use model:eval().")
  end
  local state, parts = kind(self, key), {}
  local outer <close> = memory.scope()
  torch.no_grad(function()
    chunks.each(state, n, function(first, count)
      local inner <close> = memory.scope()
      local x = make(first, count)
      local full = self.options.deterministic and chunks.padded(x, chunks.fixed) or x
      local out = evaluate(model, full, layer, base):narrow(0, 0, count):to { dtype = self.model.dtype }:cpu()
      compare(self, out, x, layer, base)
      parts[#parts + 1] = { first = first, out = inner:keep(out) }
    end)
  end)
  table.sort(parts, function(a, b) return a.first < b.first end)
  local list = {}
  for i, part in ipairs(parts) do list[i] = part.out end
  return outer:keep(#list == 1 and list[1] or torch.cat(list, 0))
end

--- Logits (n, K), float32 (of a float64 model float64) on the CPU, of the images make(first, count) gives, 0-based.
---@param n integer
---@param make fun(first: integer, count: integer): medxai.Tensor
function Scorer:logits(n, make)
  local logits = run(self, "input", n, make)
  self.forwards = self.forwards + n
  return logits
end

--- Logits (n, K) of n values of node `layer`; base: name -> tensor of batch 1 for what does not descend from it (see
--- Model:boundary).
---@param layer string
---@param base table<string, medxai.Tensor>|nil
---@param n integer
---@param make fun(first: integer, count: integer): medxai.Tensor
function Scorer:from_layer(layer, base, n, make)
  local logits = run(self, layer, n, make, layer, base)
  self.partials = self.partials + n
  return logits
end

--- With precision = "bfloat16": the largest |difference| of a logit to float32 on the first images, else nil.
function Scorer:deviation() return self.off end

return scorer
