-- What deletion and insertion share (Petsiuk et al., RISE, BMVC 2018): the target's score along 100 steps from one
-- image to another, each changing the next share of pixels, most relevant first; the area under that curve by the
-- trapezoid rule. black and a blur are both reported: each favors maps of its own kind.
local check = require "medxai.base.check"
local ranking = require "medxai.perturb.pixel_order"
local removal = require "medxai.perturb.removal"
local torch = require "medxai.torch"

local curve = {}

curve.options = {
  steps = { "integer", default = 100, min = 1, smoke = { divide_by = 50, least = 2 },
    doc = "equal shares of the pixels, one after the other" },
  removal = { "string|table", default = { "black", "blur(31)" }, lua = "medxai.RemovalName|medxai.RemovalName[]",
    doc = "what removed pixels show: one, or a list that gives one value each; see help removals" },
  removals = { now = "removal" },
}

--- Checks the options of a metric of this family.
function curve.check(options, name)
  local ids, seen = {}, {}
  local list = type(options.removal) == "table" and options.removal or { options.removal }
  if #list == 0 then
    check.fail(name, "removal is an empty list (expected { \"black\", \"blur(31)\" } or the like).")
  end
  for i, text in ipairs(list) do
    local r = removal.parse(text)
    if r.kind == "noisy_linear" or r.kind == "segment_mean" then
      check.fail(name, "'%s' is no background (expected black, white, mean or blur).", r.id)
    end
    if seen[r.id] then check.fail(name, "removal '%s' is listed twice.", r.id) end
    ids[i], seen[r.id] = r.id, true
  end
  options.removal = ids
end

--- The names of one value per removal.
function curve.names(options)
  local names = {}
  for i, id in ipairs(options.removal) do names[i] = "removal=" .. id end
  return names
end

-- (H, W) int64: the place of each pixel in the order, n for those outside.
local function ranks(order, height, width)
  local n = order:numel()
  return torch.full({ height * width }, n, { dtype = "int64" }):index_put_({ order },
    torch.arange(n)):view({ height, width })
end

local function area(scores)
  local sum = 0
  for k = 2, #scores do sum = sum + (scores[k - 1] + scores[k]) / 2 end
  return sum / (#scores - 1)
end

-- The scores along the way from `from` to `to`: (1, 3, H, W) each; rank (H, W), n pixels change in all.
local function walk(ctx, rank, n, count, from, to)
  local limits = {}
  for k = 0, count do limits[k + 1] = ranking.count(n, k / count) end
  return ctx:scores(count + 1, function(first, many)
    local limit = torch.tensor({ table.unpack(limits, first + 1, first + many) },
      { dtype = "int64" }):view({ many, 1, 1 }):to { device = rank.device }
    return torch.where(rank:unsqueeze(0):lt(limit):unsqueeze(1), to, from)
  end)
end

--- The areas under the curves, one per removal.
---@param which "deletion"|"insertion"
function curve.measure(which, ctx, options)
  local order = ctx:order()
  if not order then return nil, nil, "map without contrast" end
  local rank = ranks(order, ctx.height, ctx.width):to { device = ctx.x.device }
  local n, areas = order:numel(), {}
  for i, id in ipairs(options.removal) do
    local scope <close> = require("medxai.core").memory.scope()
    local lo, hi = ctx:range()
    local background = removal.parse(id):background(ctx.x, { range = { lo, hi } })
    if ctx.within then -- what lies outside is no part of the question
      background = torch.where(ctx.within:to { device = background.device }:view({ 1, 1, ctx.height, ctx.width }),
        background, ctx.x)
    end
    local from, to = ctx.x, background
    if which == "insertion" then from, to = to, from end
    local scores = walk(ctx, rank, n, options.steps, from, to)
    areas[i] = area(scores)
    local x = {}
    for k in ipairs(scores) do x[k] = 100 * (k - 1) / options.steps end
    ctx:show { kind = "curve", family = "Deletion and insertion, " .. id, x_label = "pixels changed (%)", name = which,
      dashed = which == "insertion", x = x, y = scores }
  end
  return areas
end

return curve
