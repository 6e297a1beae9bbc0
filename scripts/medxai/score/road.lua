-- What ROAD's metrics share (Rong et al., ICML 2022): the score after the most or least relevant pixels are taken out
-- and filled by the noisy linear imputer, at percentiles of the map. At percentile p the (100 - p) % at one end are
-- removed. Percentiles, orders and metrics of one map share their passes; nothing is evaluated twice.
local check = require "medxai.base.check"
local removal = require "medxai.perturb.removal"

local road = {}

road.options = {
  percentiles = { "table", of = "number", default = { 25, 50, 75 }, unit = "%",
    doc = "of the map, at which it is cut; at p the (100 - p) % of the pixels at one end are removed" },
  removal = { "string", default = "noisy_linear(0.01)", lua = "medxai.RemovalName",
    doc = "what removed pixels show; default the paper's imputer; see help removals" },
  imputer = { now = "removal" },
}

--- Checks the options of a metric of this family.
function road.check(options, name)
  if #options.percentiles == 0 then
    check.fail(name, "percentiles is an empty list (expected numbers from 0 to 100).")
  end
  local seen = {}
  for _, p in ipairs(options.percentiles) do
    if type(p) ~= "number" or not (p >= 0 and p <= 100) then
      check.fail(name, "a percentile is a number from 0 to 100 (got %s).", tostring(p))
    end
    if seen[p] then check.fail(name, "percentile %s is listed twice.", tostring(p)) end
    seen[p] = true
  end
  options.removal = removal.without_regions(name, options.removal).id
end

--- The names of one value a percentile.
function road.names(options)
  local names = {}
  for i, p in ipairs(options.percentiles) do names[i] = string.format("percentile=%g", p) end
  return names
end

local word = { most = "most relevant", least = "least relevant" }

-- What the figures need: the curve against the share removed, and each imputed picture with its change.
local function exhibit(ctx, fill, which, options, scores, original)
  if not ctx.drawn then return end
  local order, x, y = {}, { 0 }, { original }
  for i in ipairs(options.percentiles) do order[i] = i end
  ctx:show { kind = "picture", row = word[which] .. " first", name = "0 %",
    pixels = require("medxai.tensor.pixels")(ctx:image():select(0, 0):to { device = "cpu", dtype = "float32" }),
    at = 0 }
  table.sort(order, function(a, b) return options.percentiles[a] > options.percentiles[b] end)
  for _, i in ipairs(order) do
    local removed = 100 - options.percentiles[i]
    x[#x + 1], y[#y + 1] = removed, scores[i]
    ctx:show { kind = "picture", row = word[which] .. " first", name = string.format("%g %%", removed),
      pixels = ctx:picture(fill, road.name_of(which, options.percentiles[i])),
      value = scores[i] - original, at = removed }
  end
  ctx:show { kind = "curve", family = "ROAD", x_label = "pixels removed (%)", name = word[which] .. " first",
    dashed = which == "least", x = x, y = y }
end

function road.name_of(which, percentile) return string.format("%s %g", which, percentile) end

--- The logits with the pixels at each end ("most", "least") removed: a list of lists of rows, one a percentile; nil
--- where the map ranks nothing.
---@param ctx table
---@param options table percentiles, removal
---@param ends string[]
---@return number[][][]|nil
function road.logits(ctx, options, ends)
  local fill, asks = removal.parse(options.removal), {}
  for _, which in ipairs(ends) do
    for _, p in ipairs(options.percentiles) do
      local keep = ctx:keep(p, which)
      if not keep then return nil end
      asks[#asks + 1] = { name = road.name_of(which, p), keep = keep }
    end
  end
  local all, out, n = ctx:removed_logits(fill, asks), {}, #options.percentiles
  for k, which in ipairs(ends) do
    out[k] = table.move(all, (k - 1) * n + 1, k * n, 1, {})
    if ctx.drawn then exhibit(ctx, fill, which, options, ctx:score_of(out[k]), ctx:original()) end
  end
  return out
end

--- Scores minus that of the unchanged image.
function road.changes(ctx, options, which)
  local rows = road.logits(ctx, options, { which })
  if not rows then return nil, nil, "map without contrast" end
  return ctx:changes_of(rows[1])
end

return road
