-- Ablation-CAM: Desai and Ramaswamy, WACV 2020, eq. 2 and 3: a channel's weight is what the target loses when the
-- channel is set to zero. The paper divides the loss by the score, which only scales the map, and turns it round where
-- the score is negative: left out here. Only what depends on the layer is run again, many channels at once; channels
-- that are zero everywhere lose nothing and are skipped. Where pooling and one linear layer follow, that layer is
-- linear in the channels and costs one product for all of them.
-- compat: as pytorch-grad-cam's AblationCAM: weights divided by the score; channels are set to 0 only where the image's
-- activation holds an exact minimum of 0, else the k-th of each block of 32 to the minimum less k times 1e7, so that
-- the map depends on `block`.
local channels = require "medxai.explain.channel_ablation"
local context = require "medxai.explain.context"
local torch = require "medxai.torch"

-- What the reference fills in: for channels in order, in blocks, or nil for zero.
local function reference_fills(a, count, block)
  local lowest = a:min():item()
  if lowest == 0 then return nil end
  local fills, now = {}, torch.tensor(lowest, { dtype = a.dtype })
  for c = 0, count - 1 do
    if c % block == 0 then now:fill_(lowest) end
    now:sub_(1e7) -- in the activation's own precision: the reference takes the minimum anew each time
    fills[c + 1] = now:item()
  end
  return fills
end

-- Which channels are not zero everywhere, class and register tokens included.
local function is_alive(a) return a:ne(0):flatten(1):any(1):tolist() end

-- What the i-th image's score gains by taking out each channel, (C) float64; 0 for channels that are not tried.
-- a: (1, C, h, w); raw: the same as the network has it, of the grid
local function gains_of(ctx, i, a, raw, grid, path, o, scorer)
  local count = a:size(1)
  local base, whole = {}, ctx:base()
  for name, value in pairs(whole) do base[name] = context.image_of(ctx.model, name, value, i) end
  local fills = ctx.compat and reference_fills(raw, count, o.block) or nil
  local alive = is_alive((grid and raw:movedim(grid.channel_dim, 1) or raw):squeeze(0))
  for c = 1, count do alive[c] = alive[c] or fills ~= nil end
  local list = channels.choose(a:squeeze(0), o.channels, alive)
  local gains, own = torch.zeros({ count }, { dtype = "float64" }), ctx.logits:narrow(0, i - 1, 1):cpu()
  if #list == 0 then return gains end
  local all = not fills and not o.channels and channels.all_zeroed(ctx.model, path, ctx.layer, a, base, scorer)
  local logits = all or channels.each_filled(ctx.layer, raw, base, scorer, list, fills, grid)
  local found, index = ctx.targets:change_of(i, logits, own), torch.tensor(list, { dtype = "int64" })
  return gains:index_copy_(0, index, all and found:index_select(0, index) or found)
end

local options = {
  block = { "integer", default = 32, min = 1, doc = "with compat: pytorch-grad-cam's batch_size, which "
    .. "changes its map" },
}
for name, rule in pairs(channels.options) do options[name] = rule end

return {
  title = "Ablation-CAM",
  paper = "Desai and Ramaswamy 2020, doi:10.1109/WACV45572.2020.9093360",
  version = 2,
  at = "layer",
  sign = "signed",
  needs = { base = true },
  smoothing = { aug_smooth = true, eigen_smooth = true },
  options = options,
  approximate = channels.approximate,
  honesty = channels.honesty,
  map = function(ctx, _, _, o)
    local a, scorer = ctx:activation(), ctx:scorer_in(o.precision) -- (N, C, h, w)
    local raw, grid = ctx:raw_activation()
    local path = channels.path(ctx.model, ctx.layer, grid)
    local scores = ctx.targets:score(ctx.logits):to { dtype = "float64" }:cpu():tolist()
    local weights, extras = {}, {}
    for i = 1, ctx.count do
      local lost = -gains_of(ctx, i, a:narrow(0, i - 1, 1), raw:narrow(0, i - 1, 1), grid, path, o, scorer)
      local still = not ctx.compat and ctx:unmoved(i, { 0, table.unpack(lost:tolist()) }, o.precision)
      weights[i] = ctx.compat and lost / scores[i] or still and lost:zero_() or lost
      extras[i] = { facts = channels.facts(o, a:size(1), scorer), status = still == "saturated" and still or nil }
    end
    local w = torch.stack(weights, 0):to { dtype = a.dtype, device = a.device }
    return ctx:combine(w:unsqueeze(2):unsqueeze(3) * a, extras)
  end,
}
