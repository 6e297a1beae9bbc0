-- Images that a method begins from instead of one black one: of the training split, of the explained one, or given. It
-- refuses a background of another shape, and data without a training split where that is asked for.
local check = require "medxai.base.check"

local background = {}

background.options = {
  background = { "string|tensor", default = "train", lua = "\"train\"|\"split\"|medxai.Tensor",
    doc = "images to begin from: of the training split; split: the first of the explained one (thesis); or (N, "
    .. "3, H, W)" },
  background_count = { "integer", default = 32, min = 1, unit = "images", doc = "in the background" },
}

--- Checks a method's option before anything is computed.
function background.check(what, options)
  if type(options.background) == "string" then
    check.known(what, "background", options.background, { "train", "split" })
  end
end

local function batch_of(split, count, seed)
  local places = seed and split:order(seed, 0) or {}
  for i = 1, split.n do places[i] = places[i] or i end
  return split:batch(table.move(places, 1, math.min(count, split.n), 1, {})).x
end

--- (B, 3, H, W) on the network's device.
---@param what string the method, named in errors
---@param ctx table
---@param options table background, background_count
function background.of(what, ctx, options)
  local given, x = options.background
  if type(given) ~= "string" then x = given
  elseif given == "split" then
    local data = ctx.split.data -- the whole split, of which a part may be explained
    x = batch_of(data and data[ctx.split.name] or ctx.split, options.background_count)
  else
    local train = ctx.split.data and ctx.split.data.train
    if not train or train.n == 0 then
      check.fail(what, "these data have no training split for the background. Use background = 'split', "
        .. "or give a tensor (N, 3, H, W).")
    end
    x = batch_of(train, options.background_count, ctx.seed)
  end
  local shape = x.shape
  if #shape ~= 4 or shape[1] < 1 or shape[2] ~= 3 or shape[3] ~= ctx.height or shape[4] ~= ctx.width then
    check.fail(what, "the background does not fit the images (expected (N, 3, %d, %d), got (%s)).",
      ctx.height, ctx.width, table.concat(shape, ", "))
  end
  return x:to { device = ctx.x.device, dtype = ctx.x.dtype }
end

return background
