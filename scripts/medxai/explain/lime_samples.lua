-- The samples of one LIME explanation: which regions each keeps, what the network says of it, and how sure the
-- coefficients are. Identical samples are run once; images are made on the device, chunk by chunk, by the scorer. With
-- stop_error samples are run in blocks until the estimated error of the coefficients is below it.
local coalitions = require "medxai.explain.lime_design"
local core = require "medxai.core"
local hide = require "medxai.perturb.compose"
local host = require "medxai.host"
local process = require "medxai.explain.lime_process"
local Progress = require "medxai.base.progress"
local stability = require "medxai.stats.agreement"
local surrogate = require "medxai.explain.lime_surrogate"
local torch = require "medxai.torch"

local samples = {}

local block, fewest, resamples = 100, 200, 20

-- What the network says of rows first .. first + count - 1, (count, classes) float64. p: x, background, labels, on (n,
-- K) bool.
local function answers(scorer, p, first, count, as, bar)
  local logits = scorer:logits(count, function(at, n)
    bar:add(n)
    return hide.images(p.x, p.background, hide.regions(p.labels, p.on:narrow(0, first + at, n)))
  end):to { dtype = "float64" }
  if as == "sigmoid" then return torch.sigmoid(logits) end
  return as == "logit" and logits or torch.softmax(logits, 1)
end

-- ---- how sure -------------------------------------------------------------------------------------------------------

-- The target's coefficients from units of samples drawn with replacement; the first unit, which holds row 0, stays.
local function resample(ctx, o, all, column, units, size, r)
  local scope <close> = core.memory.scope()
  local rows = units * size
  local z, y = all:narrow(0, 0, rows), column:narrow(0, 0, rows)
  local drawn = ctx:stream("lime.resample@1", 1, r):integers(units - 1, units - 1)
  local times = torch.cat({ torch.ones(1, { dtype = "float64" }),
    torch.bincount(drawn, { minlength = units - 1 }):to { dtype = "float64" } }, 0)
  times = times:unsqueeze(1):expand({ units, size }):reshape({ rows })
  return surrogate.coefficients(z, y, surrogate.weights(z, o.kernel_width) * times, o.alpha):squeeze(1):tolist()
end

-- Lists of coefficients of y (n, 1) for other draws, of whole pairs where samples come in pairs; none for too few.
local function redrawn(ctx, o, z, y)
  local size = o.design == "plain" and 1 or 2
  local units, list = z:size(0) // size, {}
  for r = 1, units < 4 and 0 or resamples do
    list[r] = resample(ctx, o, z, y, units, size, r)
    if host.interrupted() then error("interrupted", 0) end
  end
  return list
end

--- How alike the target's coefficients would be for other draws, estimated by resampling.
---@param run table z, y
---@return table see stability.of
function samples.resampled(ctx, o, run)
  return stability.of(redrawn(ctx, o, run.z, samples.column(run.y, ctx.targets[1])))
end

-- ---- the samples ----------------------------------------------------------------------------------------------------

-- numpy's generator after lime's first draw, and that draw, which lime hands to quickshift.
function samples.numpy_generator(seed)
  local generator = core.rng.numpy_random_state(seed)
  return generator, generator:randint(0, 1000, 1):item()
end

local function draw(ctx, o, count, replicate)
  local n = o.samples
  if o.rng == "numpy" then return coalitions.draw_numpy((samples.numpy_generator(ctx.seed + replicate)), n, count) end
  return coalitions.draw(o.design, n, count,
    { seed = ctx.seed, purpose = "lime@1", id = ctx.items[1].id, replicate = replicate })
end

--- The explained number of each sample as a column (n, 1): of a class, or the difference of two.
function samples.column(y, t)
  local column = y:narrow(1, t.index, 1)
  return t.against_index and column - y:narrow(1, t.against_index, 1) or column
end

--- Draws and runs the samples of an image.
---@param ctx table of the method, one image
---@param o table lime's options
---@param regions table labels, count
---@param background any (1, 3, H, W): what hidden regions show
---@param replicate integer 0 for the map, others for other draws
---@return table run { z = float64 (n, K) on the CPU, row 0 all ones; y = float64 (n, classes); samples = n; evaluated
---  = passes; stopped = true where it ended early }
function samples.run(ctx, o, regions, background, replicate)
  local masks, t = draw(ctx, o, regions.count, replicate), ctx.targets[1]
  local distinct, number, seen = coalitions.distinct(masks)
  local scorer, device = ctx:scorer_in(o.precision), ctx.x.device
  local p = { x = ctx.x, background = background, labels = regions.labels:to { device = device },
    on = distinct:to { device = device, dtype = "bool" } }
  local bar <close> = Progress.new("LIME " .. tostring(ctx.items[1].name or ctx.items[1].id), distinct:size(0))
  local n, total, done, parts, stopped = 0, masks:size(0), 0, {}, nil
  while n < total and not stopped do
    local upto = o.stop_error and math.min(total, math.max(fewest, n + block)) or total
    if seen[upto] > done then
      parts[#parts + 1] = answers(scorer, p, done, seen[upto] - done, t.as, bar)
      done = seen[upto]
    end
    n = upto
    if o.stop_error and n < total then
      local scope <close> = core.memory.scope()
      local z, y = masks:narrow(0, 0, n):to { dtype = "float64" },
        torch.cat(parts, 0):index_select(0, number:narrow(0, 0, n))
      local s = samples.resampled(ctx, o, { z = z, y = y })
      stopped = s.spread ~= nil and s.spread <= o.stop_error or nil
    end
  end
  local y = (#parts == 1 and parts[1] or torch.cat(parts, 0)):index_select(0, number:narrow(0, 0, n))
  return { z = masks:narrow(0, 0, n):to { dtype = "float64" }, y = y, samples = n, evaluated = done, stopped = stopped }
end

--- What estimator = "process" fits the regression to: the rows that the process answers for.
---@param y any float64 (n, L): the columns that are explained
---@return table see process.stand_in
function samples.answered(ctx, o, z, y)
  local rows = process.rows(z:size(1), { seed = ctx.seed, purpose = "lime.process@1", id = ctx.items[1].id })
  return process.stand_in(z, y, o, rows)
end

local function coefficients(ctx, o, run)
  local z, y, alpha = run.z, samples.column(run.y, ctx.targets[1]), o.alpha
  if o.estimator == "process" then
    local made = run.answered or samples.answered(ctx, o, z, y)
    z, y, alpha = made.z, made.y:narrow(1, 0, 1), made.alpha
  end
  return surrogate.coefficients(z, y, surrogate.weights(z, o.kernel_width), alpha):squeeze(1):tolist()
end

-- The ordinary regression of the process' errors for samples that are left out is what would take its bias away: how
-- far other draws move it is how far the weights are open.
local function resampled_errors(ctx, o, run)
  local fitted = run.answered.fits[1]
  if not fitted then return {} end
  local base, list = coefficients(ctx, o, run), redrawn(ctx, o, run.z, fitted.left_out:unsqueeze(1))
  for _, one in ipairs(list) do
    for k, v in ipairs(base) do one[k] = one[k] + v end
  end
  return stability.of(list)
end

--- How alike the target's coefficients are for other draws: of o.repeats runs, or estimated by resampling the one.
---@return table see stability.of
---@return string how
function samples.stability(ctx, o, regions, background, first)
  if o.repeats == 1 and o.estimator == "process" then return resampled_errors(ctx, o, first), "resampling" end
  if o.repeats == 1 then return samples.resampled(ctx, o, first), "resampling" end
  local list = { coefficients(ctx, o, first) }
  for r = 1, o.repeats - 1 do
    local scope <close> = core.memory.scope()
    list[r + 1] = coefficients(ctx, o, samples.run(ctx, o, regions, background, r))
  end
  return stability.of(list), o.repeats .. " repeats"
end

return samples
