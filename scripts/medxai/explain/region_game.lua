-- An image's regions as players of a game whose value is the target's score where only some of them are shown: what
-- feature ablation, Shapley value sampling and SHAP's permutation and exact explainers share. No set of regions is
-- evaluated twice. It refuses an image of one region.
local hide = require "medxai.perturb.compose"
local shap = require "medxai.explain.shap"
local torch = require "medxai.torch"

local game = {}

---@class medxai.RegionGame
---@field made table the regions
---@field count integer how many
---@field evaluations integer different sets evaluated so far
local Game = {}
Game.__index = Game

--- Options of a method over regions.
---@param count integer regions, about
function game.options(count)
  return {
    regions = { "string|table|function", default = { "slic", n_segments = count }, lua = "medxai.Regions",
      doc = "the regions that are hidden and shown; see help regions" },
    removal = { "string", default = "black", lua = "medxai.RemovalName",
      doc = "what hidden regions show; see help removals" },
  }
end

--- The game of the context's only image.
---@param ctx table
---@param o table regions, removal
---@return medxai.RegionGame
function game.of(ctx, o)
  local made = shap.regions(ctx, o.regions)
  return setmetatable({ ctx = ctx, made = made, count = made.count, evaluations = 0, known = {},
    labels = made.labels:to { device = ctx.x.device }, background = shap.background(ctx, o, made.labels) }, Game)
end

--- A set as the game takes it: one byte a region, 1 where it is shown.
---@param on boolean[]|integer[] 1-based: true or 1
function game.set(on)
  local bytes = {}
  for i, v in ipairs(on) do bytes[i] = (v == true or v == 1) and "\1" or "\0" end
  return table.concat(bytes)
end

--- The whole image.
function Game:all() return ("\1"):rep(self.count) end
--- Nothing but what hidden pixels show.
function Game:none() return ("\0"):rep(self.count) end

--- By how much the target's score with each set exceeds that of the whole image, without a loss of digits.
---@param sets string[]
---@return number[]
function Game:changes(sets)
  local ctx, new, known = self.ctx, {}, self.known
  for _, set in ipairs(sets) do
    if known[set] == nil then known[set], new[#new + 1] = false, set end
  end
  if #new > 0 then
    local on = torch.from_string(table.concat(new), "uint8", { #new, self.count }):to { dtype = "bool",
      device = ctx.x.device }
    local logits = ctx.scorer:logits(#new, function(first, count)
      return hide.images(ctx.x, self.background, hide.regions(self.labels, on:narrow(0, first, count)))
    end)
    local own = ctx.logits:cpu()
    for i, change in ipairs(ctx.targets:change_of(1, logits, own):tolist()) do known[new[i]] = change end
    self.evaluations = self.evaluations + #new
  end
  local list = {}
  for i, set in ipairs(sets) do list[i] = known[set] end
  return list
end

--- The map of values, one a region, and what is said of it.
---@param values number[]
---@param facts? table
---@return any raw (1, H, W) float64
---@return table[] extras
function Game:painted(values, facts)
  local ctx, labels, scores = self.ctx, self.made.labels, { 0 }
  for _, change in pairs(self.known) do scores[#scores + 1] = change end
  local v = torch.tensor(values, { dtype = "float64" })
  local still = ctx:unmoved(1, scores)
  if still then v:zero_() end
  local raw = v:index_select(0, labels:reshape(-1)):view { 1, ctx.height, ctx.width }
  facts = facts or {}
  facts.evaluations, facts.regions = self.evaluations,
    { source = self.made.source, count = self.count, hash = self.made.hash }
  return raw, { { facts = facts, status = still == "saturated" and still or nil,
    arrays = { values = v, regions = labels:to { dtype = "int32" } } } }
end

-- Sets that grow region by region in one order; backward: that shrink from all in the same order.
local function chain(count, order, backward)
  local on, sets = {}, {}
  for i = 1, count do on[i] = backward end
  sets[1] = game.set(on)
  for i, region in ipairs(order) do
    on[region + 1] = not backward
    sets[i + 1] = game.set(on)
  end
  return sets
end

--- Shapley values as the mean over orders of what each region adds where it joins those before it; both: each order
--- also backward, from the whole image down.
---@param orders integer[][] permutations of the regions' numbers, from 0
---@param both? boolean
---@return number[] values
---@return number standard_error the sum of the values' standard errors over the sum of |value|; NaN for one order
function Game:sampled(orders, both)
  local sum, square, m = {}, {}, self.count
  for r = 1, m do sum[r], square[r] = 0.0, 0.0 end
  for _, order in ipairs(orders) do
    local added = {}
    for _, backward in ipairs(both and { false, true } or { false }) do
      local changes = self:changes(chain(m, order, backward))
      for i, region in ipairs(order) do
        local gain = changes[i + 1] - changes[i]
        added[region + 1] = (added[region + 1] or 0) + (backward and -gain or gain)
      end
    end
    for r = 1, m do
      local v = added[r] / (both and 2 or 1)
      sum[r], square[r] = sum[r] + v, square[r] + v * v
    end
  end
  local n, errors, mass, values = #orders, 0.0, 0.0, {}
  for r = 1, m do
    values[r] = sum[r] / n
    local spread = math.max(0, square[r] - n * values[r] ^ 2)
    errors, mass = errors + math.sqrt(spread / math.max(1, n - 1) / n), mass + math.abs(values[r])
  end
  return values, n > 1 and mass > 0 and errors / mass or 0 / 0
end

--- Orders drawn by the image's own random numbers: the first of more are the same.
---@param ctx table
---@param purpose string
---@param count integer regions
---@param n integer
function game.orders(ctx, purpose, count, n)
  local orders = {}
  for k = 1, n do orders[k] = ctx:stream(purpose, 1, k - 1):permutation(count):tolist() end
  return orders
end

return game
