-- Shared perturbations of an image: the scores without sets of regions, evaluated once per image and model, whatever
-- the number of methods, controls and metrics that ask. Regions are those of medxai.perturb.regions (a grid of 8 x 8);
-- the sets are drawn by the image's id, so that methods and models meet the same ones. What was evaluated lies in the
-- run folder too (perturbed/<settings>/<image id>.npy: a row of logits per set), so that another step, or the next
-- start, does not evaluate it again. Images are made chunk by chunk: memory stays bounded. It refuses ROAD's imputer,
-- which has no background and would take minutes per image.
local not_defined = require "medxai.base.not_defined"
local canon = require "medxai.base.json"
local check = require "medxai.base.check"
local files = require "medxai.base.files"
local compose = require "medxai.perturb.compose"
local core = require "medxai.core"
local regions = require "medxai.perturb.regions"
local removal = require "medxai.perturb.removal"
local torch = require "medxai.torch"

local perturbed = {}

perturbed.version = 1

--- Options of the metrics that use them.
---   sets     how many sets of regions are taken out
---   share    of the regions in a set, rounded up
---   regions  a source: { "grid", rows = 8, columns = 8 }, "quickshift" ...
---   removal  what stands in their place: mean, black, white, segment_mean, blur(k)
perturbed.options = {
  sets = { "integer", default = 200, min = 3, max = 100000, doc = "of regions that are hidden together" },
  share = { "number", default = 0.2, above = 0, max = 1, doc = "of the regions in a set" },
  regions = { "string|table|function", lua = "medxai.Regions",
    doc = "into which the image is cut; default: a grid of 8 x 8" },
  removal = { "string", default = "mean", lua = "medxai.RemovalName",
    doc = "what hidden pixels show: mean, black, white, segment_mean, blur(k)" },
}

-- A source as a metric's id names it: words of an id are parted by spaces.
local Named = {}
Named.__tostring = function(self) return (self.source.text:gsub(", ", ","):gsub("%s", "_")) end

--- Checks the options of a metric of this family; regions become a source.
function perturbed.check(options, name)
  local hide = removal.parse(options.removal)
  if hide.kind == "noisy_linear" then
    check.fail(name, "'%s' has no background (expected removal = mean, black, white, segment_mean or blur(k)).",
      hide.id)
  end
  options.removal = hide.id
  options.regions = setmetatable({ source = regions.parse(options.regions or "grid") }, Named)
end

-- ---- regions and sets -----------------------------------------------------------------------------------------------

-- Labels (H, W) int64 on the CPU, -1 outside of `within`; how many regions.
local function labels_of(ctx, source)
  local subject = ctx.subject
  local found = regions.of(source, ctx:image():squeeze(0), { item = ctx.item, split = subject.job.split,
    number = subject.number, least = 1 })
  local labels, count = found.labels, found.count
  if not ctx.within then return labels, count end
  labels = labels:masked_fill(ctx.within:to { device = "cpu" }:logical_not(), -1)
  local kept = {}
  for _, k in ipairs(torch.bincount((labels + 1):flatten(), nil, count + 1):tolist()) do kept[#kept + 1] = k > 0 end
  local number, n = { [0] = -1 }, 0
  for k = 1, count do
    number[k] = kept[k + 1] and n or -1
    n = n + (kept[k + 1] and 1 or 0)
  end
  local renamed = torch.tensor({ table.unpack(number, 0, count) }, { dtype = "int64" })
  return renamed:index_select(0, (labels + 1):flatten()):view(labels.shape), n
end

-- Labels that outlive the metric's scope, and their number; nil, 0 and why where the source says that this image has
-- none.
local function kept_labels(ctx, source)
  local scope <close> = core.memory.scope()
  local ok, labels, count = pcall(labels_of, ctx, source)
  if ok then return scope:keep(labels), count end
  local why = not_defined.reason(labels)
  if not why then error(labels, 0) end
  return nil, 0, why
end

--- The sets of an image's regions, each of ceil(share x count) different ones, drawn by its id: the first 100 of 200
--- are the 100.
---@param seed integer
---@param id string the image's
---@param count integer regions
---@param o { sets: integer, share: number }
---@return integer[][] regions from 1, ascending
function perturbed.sets(seed, id, count, o)
  local size, sets = math.max(1, math.ceil(o.share * count - 1e-9)), {}
  for k = 1, o.sets do
    local scope <close> = core.memory.scope() -- luacheck: ignore
    local stream = core.rng.stream { seed = seed, purpose = "region_sets@1", id = id, replicate = k }
    local set = stream:permutation(count):narrow(0, 0, size):tolist()
    for i, region in ipairs(set) do set[i] = region + 1 end
    table.sort(set)
    sets[k] = set
  end
  return sets
end

local function singles(count)
  local sets = {}
  for k = 1, count do sets[k] = { k } end
  return sets
end

-- ---- evaluation -----------------------------------------------------------------------------------------------------

-- (n, count) bool: which regions are left.
local function left_of(sets, count)
  local rows = torch.ones(#sets, count, { dtype = "bool" })
  local row, column = {}, {}
  for k, set in ipairs(sets) do
    for _, region in ipairs(set) do row[#row + 1], column[#column + 1] = k - 1, region - 1 end
  end
  local at = torch.tensor(row, { dtype = "int64" }) * count + torch.tensor(column, { dtype = "int64" })
  return rows:flatten():index_fill_(0, at, false):view({ #sets, count })
end

local function background_of(ctx, p, hide)
  local lo, hi = ctx:range()
  local labels = hide.needs_labels and p.labels:clamp_min(0) or nil
  return hide:background(ctx.x, { range = { lo, hi }, labels = labels })
end

-- Rows of logits without each set. Outside of `within` (label -1) everything stays.
local function evaluate(ctx, p, sets)
  local device, width = ctx.x.device, p.count + 1
  local background = background_of(ctx, p, p.hide)
  local labels = p.labels:masked_fill(p.labels:lt(0), p.count):to { device = device } -- the last one is never taken out
  local rows = ctx.scorer:logits(#sets, function(first, count)
    local some = table.move(sets, first + 1, first + count, 1, {})
    return compose.images(ctx.x, background, compose.regions(labels, left_of(some, width):to { device = device }))
  end)
  return rows:to { device = "cpu", dtype = "float64" }:tolist()
end

-- The folder of these settings in the run: everything that a score depends on but the image and the set.
local function folder_of(ctx, p)
  local job = ctx.subject.job
  if not job.weights or not job.run.dir then return nil end
  local data = job.split.data
  local key = { version = perturbed.version, regions = p.source.text, hide = p.hide.id, seed = job.run.seed,
    files = regions.files_sha256(p.source, job.split), weights = job.weights, model = job.model.config,
    input = data and data.config or {}, masks = job.split.input_masks_sha256 and job.split:input_masks_sha256() or nil,
    within = ctx.within_name, within_mask = ctx.within_name and job.split.mask_sha256
      and job.split:mask_sha256(ctx.subject.number, ctx.within_name) or nil }
  return files.join(job.run.dir, "perturbed", canon.hash(key):sub(1, 16))
end

-- The rows of a kind ("sets", "singles"): from the run folder, or evaluated now and kept there.
local function rows_of(ctx, p, kind, sets)
  local scope <close> = core.memory.scope() -- luacheck: ignore
  local folder = folder_of(ctx, p)
  local path = folder and files.join(folder, string.format("%s.%s.npy", ctx.item.id, kind))
  if path and files.exists(path) then
    local known = torch.load_npy(path)
    if known:size(0) >= #sets then return known:narrow(0, 0, #sets):tolist() end
  end
  local rows = evaluate(ctx, p, sets)
  if path then
    files.mkdir(folder)
    torch.save_npy(path, torch.tensor(rows, { dtype = "float64" }))
  end
  return rows
end

---@class medxai.Perturbed
---@field labels any (H, W) int64 on the CPU, 0 .. count - 1, -1 where nothing is taken out
---@field count integer regions
---@field sets integer[][]
---@field rows number[][] logits without each set

--- The shared perturbations of a metric's image.
---@param ctx table the metric's context
---@param kind "sets"|"singles" sets of regions, or each region alone
---@param o table checked options of a metric: regions, removal, and for sets their number and share
---@return medxai.Perturbed|nil nil where this image has no regions
---@return string|nil why
function perturbed.of(ctx, kind, o)
  local kept, source = ctx.subject.kept, o.regions.source
  local settings = string.format("perturbed %s %s within %s", source.text, o.removal, tostring(ctx.within_name))
  local p = kept[settings]
  if not p then
    p = { source = source, hide = removal.parse(o.removal) }
    p.labels, p.count, p.why = core.memory.unscoped(kept_labels, ctx, source)
    if p.labels then table.insert(ctx.subject.tensors, p.labels) end
    kept[settings] = p
  end
  if p.why or p.count < 2 then return nil, p.why or "one region only" end
  local key = kind == "sets" and string.format("sets-%.6g", o.share) or kind
  local known = p[key]
  if not known or kind == "sets" and #known.sets < o.sets then
    local job = ctx.subject.job
    local sets = kind == "sets" and perturbed.sets(job.run.seed, ctx.item.id, p.count, o) or singles(p.count)
    known = { labels = p.labels, count = p.count, sets = sets, rows = rows_of(ctx, p, key, sets) }
    p[key] = known
  end
  if kind ~= "sets" or #known.sets == o.sets then return known end
  return { labels = known.labels, count = known.count, sets = table.move(known.sets, 1, o.sets, 1, {}),
    rows = table.move(known.rows, 1, o.sets, 1, {}) }
end

--- The same by options without sets: each region alone.
perturbed.single_options = { regions = perturbed.options.regions, removal = perturbed.options.removal }

--- Sums of a value over each region.
---@param p medxai.Perturbed
---@param value any tensor (H, W)
---@return number[] one per region
function perturbed.attributions(p, value)
  local labels = (p.labels + 1):flatten()
  local sums = torch.zeros(p.count + 1, { dtype = "float64" })
  sums:scatter_add_(0, labels, value:to { device = "cpu", dtype = "float64" }:flatten())
  return sums:narrow(0, 1, p.count):tolist()
end

--- The target's drop without each set, f(x) - f(x without S); nil where nothing moves it by more than rounding.
---@param ctx table
---@param p medxai.Perturbed
---@return number[]|nil drops
---@return string|nil why
function perturbed.drops(ctx, p)
  local target = require "medxai.explain.target"
  local base, scores = ctx.subject:original(), ctx:score_of(p.rows)
  scores[#scores + 1] = ctx:original()
  if target.unmoved(ctx.target, base, scores, ctx.model.dtype) then return nil, "the score does not change" end
  local drops = ctx:changes_of(p.rows)
  for k, v in ipairs(drops) do
    if v ~= v or v == math.huge or v == -math.huge then return nil, "not a number" end
    drops[k] = -v
  end
  return drops
end

--- The background that the sets were replaced with, in the network's input range: (1, 3, H, W).
function perturbed.background(ctx, p, o) return background_of(ctx, p, removal.parse(o.removal)) end

return perturbed
