-- One training by several processes: each takes its part of every batch, and gradients are averaged so that a step is
-- that of one process on the whole batch. The loss, what it is divided by, and whether it is finite are agreed before
-- the weights are touched. Used by trainer.lua; the processes are run/processes.lua's.
-- It refuses batches of fewer images than processes, and parts of one image where a batch norm needs two.
local check = require "medxai.base.check"

local parallel = {}

--- The part of n things that a process takes: from, to (from 1; to = from - 1: none). The first n % world have one
--- more.
---@param n integer
---@param rank integer from 0
---@param world integer
function parallel.part(n, rank, world)
  local least, more = n // world, n % world
  local before = rank * least + math.min(rank, more)
  return before + 1, before + least + (rank < more and 1 or 0)
end

--- What a process takes of an epoch: the places of its parts in a row, how many images its part of a full batch has,
--- and the sizes of the whole batches.
---@param order integer[]
---@param batch integer images of a whole batch
---@param drop_last boolean
---@return integer[] own
---@return integer part
---@return integer[] sizes
function parallel.share(order, batch, drop_last, rank, world)
  local own, sizes = {}, {}
  for start = 1, #order, batch do
    local n = math.min(batch, #order - start + 1)
    if n < batch and drop_last then break end
    sizes[#sizes + 1] = n
    local from, to = parallel.part(n, rank, world)
    table.move(order, start + from - 1, start + to - 1, #own + 1, own)
  end
  local from, to = parallel.part(batch, rank, world)
  return own, to - from + 1, sizes
end

--- The fewest images of a part in any step: of the last batch, where it is not full.
function parallel.smallest_part(n, batch, drop_last, world)
  local size = math.min(n, batch)
  if not drop_last and n > batch and n % batch > 0 then size = n % batch end
  return size // world, size
end

--- Raises where a step would leave a process without images, though it needs some. lonely: the name of a batch norm
--- that sees one value per channel of a single image, or nil.
function parallel.check_batches(o, n, world, lonely)
  if o.batch < world then
    check.fail("fit", "batch = %d is too small for %d processes (expected at least one image for each).",
      o.batch, world)
  end
  local least, size = parallel.smallest_part(n, o.batch, o.drop_last, world)
  local remedy = size < o.batch and "Write drop_last = true, or another batch." or "Write a larger batch."
  if o.sync_bn and least < 1 then
    check.fail("fit", "the last batch of an epoch holds %d images for %d processes, and sync_bn needs one in each. %s",
      size, world, remedy)
  end
  if o.sync_bn or not lonely then return end
  for k = 0, world - 1 do
    local from, to = parallel.part(size, k, world)
    if to == from then
      check.fail("fit", "a process has one image of a batch of %d (%d processes): batch norm '%s' sees one value per "
        .. "channel of it, and a variance needs two. %s Or write sync_bn = true.", size, world, lonely, remedy)
    end
  end
end

-- The sum of all parameters, times 0: a loss whose gradients are zeros, for a process without images in a step.
local function no_loss(trainer)
  local sum
  for _, p in ipairs(trainer.params) do
    local own = p:sum() * 0
    sum = sum and sum + own or own
  end
  return sum
end

-- What the mean cross entropy of a batch is divided by: its images, or the sum of their classes' weights.
local function divisor(trainer, y)
  local weight = trainer.loss_options.weight
  return weight and weight:index_select(0, y):sum():item() or y:size(0)
end

-- Own sums and whether they are finite, for all: the sums over the processes, and the first rank that is not finite.
local function agree(trainer, value, count)
  local group, torch = trainer.group, trainer.torch
  local own = { check.is_finite(value) and value or 0.0, count + 0.0 }
  for rank = 0, group.world - 1 do
    own[3 + rank] = rank == group.rank and not check.is_finite(value) and 1.0 or 0.0
  end
  local sums = group:all_reduce(torch.tensor(own, { dtype = "float64" })):tolist()
  for rank = 0, group.world - 1 do
    if sums[3 + rank] > 0 then return sums[1], sums[2], rank end
  end
  return sums[1], sums[2], nil
end

-- Raises the same words in all processes: those of the one whose loss is not finite.
local function diverged(trainer, rank, batch, value, generator)
  trainer.diverged = true
  local text
  if trainer.group.rank == rank then
    local ok, problem = pcall(require("medxai.train.diagnose").loss, trainer, batch, value, generator)
    text = ok and "fit: the loss is not finite" or tostring(problem)
  end
  text = trainer.group.processes:tell(rank, text)
  check.fail("fit", "%s", text:gsub("^fit: ", ""))
end

--- One step on the next batch of all processes, of `size` images: the loss over all of it.
---@param source table gives this process' parts
---@param hits table int64: right answers of this process
---@param size integer
---@return number loss
function parallel.step(trainer, source, hits, size)
  local scope <close> = require("medxai.core").memory.scope() -- luacheck: ignore
  local group = trainer.group
  local from, to = parallel.part(size, group.rank, group.world)
  local batch = to >= from and source:next() or nil
  trainer.batch_number = trainer.batch_number + 1
  local generator, y, loss, logits = trainer.torch.get_rng_state(), nil, nil, nil
  local value, count = 0.0, 0
  if batch then
    y = batch.y:to { device = trainer.model.device }
    loss, logits = group.processes:call(trainer.loss, trainer, batch, y) -- sync_bn asks the others
    value, count = loss:item(), divisor(trainer, y)
  end
  local sum, all, bad = agree(trainer, value, count)
  if not bad and not (all > 0) then bad, value = 0, 0 / 0 end -- weights of 0 alone
  if bad then diverged(trainer, bad, batch, value, generator) end
  -- the reducer takes the mean over processes, the loss is one over images
  trainer:update((loss or no_loss(trainer)) * (group.world / all), logits, y, hits)
  return sum / all
end

--- The buffers of the first process (running statistics of batch norms) in all of them.
function parallel.share_buffers(trainer, state)
  for _, entry in ipairs(state) do
    if not entry.trainable then trainer.group:broadcast(entry.tensor) end
  end
end

return parallel
