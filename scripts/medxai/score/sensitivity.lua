-- What max_sensitivity and local_lipschitz share: maps of images with a little noise, by the same method and for the
-- same target. The noise is even in -radius .. radius of the range from black to white, one for all channels, clamped
-- to that range, and drawn by the image's id: all methods and models meet the same. It refuses maps whose method is not
-- at hand.
local core = require "medxai.core"
local faithfulness = require "medxai.stats.faithfulness"

local sensitivity = {}

sensitivity.options = {
  draws = { "integer", default = 10, min = 1, max = 10000, doc = "of noise" },
  radius = { "number", default = 0.02, above = 0, max = 1, doc = "largest change of a pixel, of the range of [0, 1]" },
}

-- (n, 3, H, W) in the network's range, and norm(x' - x) of each in pixels of [0, 1], over the three channels.
local function noisy_images(ctx, o)
  local torch = require "medxai.torch"
  local lo, hi = ctx:range()
  local pixels = ctx:image():to { dtype = "float64" }
  local job, list, distances = ctx.subject.job, {}, {}
  for k = 1, o.draws do
    local stream = core.rng.stream { seed = job.run.seed, purpose = "sensitivity@1", id = ctx.item.id, replicate = k }
    local noise = (stream:uniform(ctx.height * ctx.width) * 2 - 1):mul_(o.radius):view({ 1, 1, ctx.height, ctx.width })
    local changed = (pixels + noise:to { device = pixels.device }):clamp(0, 1)
    distances[k] = (changed - pixels):norm():item()
    list[k] = changed
  end
  local images = torch.cat(list, 0):to { dtype = ctx.x.dtype }
  return images * (hi - lo) + lo, distances
end

local function predicted(row)
  local best = 1
  for k = 2, #row do
    if row[k] > row[best] then best = k end
  end
  return best
end

local fine = { ok = true, flat = true, all_negative = true, sign_undecided = true }

-- { max, lipschitz, changed } or { why }; once per map.
local function measured(map, ctx, o)
  local images, distances = noisy_images(ctx, o)
  local found = ctx:maps_of(images)
  if not found then return { why = "the method is not at hand" } end
  local maps, changed, class = {}, 0, predicted(ctx.subject:original())
  for k, one in ipairs(found) do
    if not fine[one.status] then return { why = "a map of a changed image is " .. one.status:gsub("_", " ") } end
    maps[k] = one.map:to { dtype = "float64" }:flatten():tolist()
    if predicted(one.logits) ~= class then changed = changed + 1 end
  end
  local own = map:to { dtype = "float64" }:flatten():tolist()
  local most, steepest = faithfulness.sensitivity(own, maps, distances)
  if not most then return { why = "map without energy" } end
  return { max = most, lipschitz = steepest, changed = changed / #maps }
end

--- What changes with the image: { max, lipschitz, changed = share of draws that change the prediction }, or { why }.
function sensitivity.of(map, ctx, o)
  return ctx:once(string.format("sensitivity %d %.17g", o.draws, o.radius), function()
    local scope <close> = core.memory.scope() -- luacheck: ignore
    if ctx.within then
      local inside = ctx.within:to { dtype = "float64" }
      local plain = ctx.maps_of
      local function cut(_, images)
        local list = plain(ctx, images)
        for _, one in ipairs(list or {}) do one.map = one.map and one.map * inside end
        return list
      end
      return measured(map * inside, setmetatable({ maps_of = cut }, { __index = ctx }), o)
    end
    return measured(map, ctx, o)
  end)
end

return sensitivity
