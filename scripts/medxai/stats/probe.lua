-- The audit's linear probe: ridge logistic regressions on principal components, of classes from thumbnails and of
-- sources from a network's features. What a linear probe of few numbers can tell, a network can learn as well. Rows
-- that a fit has seen are never judged.
local torch = require "medxai.torch"

local probe = {}

probe.count, probe.ridge = 60, 1.0 -- components; penalty of the squared weights (scikit-learn's C = 1 of its default)

---@class medxai.Components principal components of a set of rows
---@field mean any tensor (D)
---@field basis any tensor (D, k): directions, largest variance first
---@field count integer k

--- Principal components of rows.
---@param rows any tensor (n, D) float64, n at least 2
---@param count? integer at most so many, default 60; directions without variance are left out
---@return medxai.Components
function probe.components(rows, count)
  local n, width = rows:size(0), rows:size(1)
  local mean = rows:mean(0)
  local centered = rows - mean
  local small = n <= width
  local square = small and torch.matmul(centered, centered:t()) or torch.matmul(centered:t(), centered)
  local values, vectors = torch.linalg_eigh(square) -- ascending
  values, vectors = values:flip { 0 }, vectors:flip { 1 }
  local list, kept = values:tolist(), 0
  local least = 1e-10 * math.max(list[1], 0)
  while kept < math.min(count or probe.count, #list) and list[kept + 1] > least do kept = kept + 1 end
  vectors = vectors:narrow(1, 0, kept)
  if small and kept > 0 then
    vectors = torch.matmul(centered:t(), vectors) / values:narrow(0, 0, kept):sqrt()
  elseif small then
    vectors = torch.zeros(width, 0, { dtype = "float64" })
  end
  return { mean = mean, basis = vectors, count = kept }
end

--- Rows as their components, with a last column of ones.
---@param components medxai.Components
---@param rows any tensor (n, D) float64
---@return any tensor (n, k + 1)
function probe.project(components, rows)
  local scores = torch.matmul(rows - components.mean, components.basis)
  return torch.cat({ scores, torch.ones(rows:size(0), 1, { dtype = "float64" }) }, 1)
end

-- Objectives (P): sum of log(1 + exp(z)) - y z, and the penalty.
local function objective(x, y, weights, penalty)
  local z = torch.matmul(x, weights)
  local fit = (z:clamp_min(0) + z:abs():neg():exp():log1p() - y * z):sum(0)
  return fit + (penalty * weights * weights):sum(0) * 0.5
end

-- Newton's directions (k, P) and gradients.
local function direction(x, y, weights, penalty)
  local p = torch.sigmoid(torch.matmul(x, weights))
  local gradient = torch.matmul(x:t(), p - y) + penalty * weights
  local w = (p * (1 - p)):t():unsqueeze(2)                               -- (P, n, 1)
  local hessian = torch.matmul(x:t():unsqueeze(0), w * x:unsqueeze(0))   -- (P, k, k)
  hessian = hessian + torch.diag(penalty:view({ -1 }) + 1e-9):unsqueeze(0)
  return torch.linalg_solve(hessian, gradient:t():unsqueeze(2)):squeeze(2):t()
end

-- The weights (k, P) of some columns of labels; Newton's method, a column's step is halved as long as it does not
-- descend.
local function fit(x, y, ridge)
  local memory, k = require("medxai.core").memory, x:size(1)
  local outer <close> = memory.scope()
  local penalty = torch.full({ k, 1 }, ridge, { dtype = "float64" })
  penalty:narrow(0, k - 1, 1):zero_() -- the intercept is free
  local weights = torch.zeros(k, y:size(1), { dtype = "float64" })
  local before = objective(x, y, weights, penalty)
  for _ = 1, 100 do
    local inner <close> = memory.scope() -- luacheck: ignore
    local step, moved = direction(x, y, weights, penalty), nil
    local share = torch.ones(1, y:size(1), { dtype = "float64" })
    for _ = 1, 30 do
      moved = weights - share * step
      local worse = objective(x, y, moved, penalty):gt(before + 1e-12 * before:abs())
      if worse:any():item() == false or worse:any():item() == 0 then break end
      share = torch.where(worse:unsqueeze(0), share * 0.5, share)
    end
    local change = (moved - weights):abs():max():item()
    weights:copy_(moved)
    before:copy_(objective(x, y, weights, penalty))
    if change < 1e-8 then break end
  end
  return outer:keep(weights)
end

local most_bytes = 64 << 20 -- of one batch of weighted rows

--- Ridge logistic regressions, one per column of labels: 1/2 ridge |w|^2 + sum of log losses, the intercept without
--- penalty.
---@param x any tensor (n, k) from probe.project
---@param y any tensor (n, P) float64 of 1 and 0
---@param ridge? number default 1
---@return any tensor (k, P): scores of other rows are matmul(rows, it)
function probe.fit(x, y, ridge)
  local n, k, columns, parts = x:size(0), x:size(1), y:size(1), {}
  local chunk = math.max(1, most_bytes // (8 * n * k))
  for first = 0, columns - 1, chunk do
    parts[#parts + 1] = fit(x, y:narrow(1, first, math.min(chunk, columns - first)), ridge or probe.ridge)
  end
  return #parts == 1 and parts[1] or torch.cat(parts, 1)
end

-- ---- several classes ------------------------------------------------------------------------------------------------

-- Sum of -log softmax of the true class, and the penalty.
local function class_loss(x, y, weights, ridge)
  local z, slopes = torch.matmul(x, weights), weights:narrow(0, 0, x:size(1) - 1)
  return (torch.logsumexp(z, { 1 }) - (z * y):sum(1)):sum():item() + 0.5 * ridge * (slopes * slopes):sum():item()
end

-- Newton's direction (k, C).
local function class_direction(x, y, weights, ridge)
  local k, classes = x:size(1), y:size(1)
  local p = torch.softmax(torch.matmul(x, weights), 1)
  local penalty = torch.full({ k, 1 }, ridge, { dtype = "float64" })
  penalty:narrow(0, k - 1, 1):zero_() -- the intercepts are free
  local gradient = torch.matmul(x:t(), p - y) + penalty * weights
  local rows = {}
  for c = 0, classes - 1 do
    local blocks = {}
    for d = 0, classes - 1 do
      local w = p:narrow(1, c, 1) * ((c == d and 1 or 0) - p:narrow(1, d, 1))
      blocks[d + 1] = torch.matmul(x:t(), w * x)
      if c == d then blocks[d + 1] = blocks[d + 1] + torch.diag(penalty:view({ -1 }) + 1e-9) end
    end
    rows[c + 1] = torch.cat(blocks, 1)
  end
  local flat = gradient:t():contiguous():view({ k * classes, 1 })
  return torch.linalg_solve(torch.cat(rows, 0), flat):view({ classes, k }):t()
end

--- Multinomial logistic regression with a ridge: 1/2 ridge |w|^2 + sum of -log softmax of the true class, by Newton's
--- method with halved steps; intercepts without penalty.
---@param x any tensor (n, k) from probe.project
---@param y any tensor (n, C) float64 of 1 and 0
---@param ridge? number default 1
---@return any tensor (k, C)
function probe.fit_classes(x, y, ridge)
  ridge = ridge or probe.ridge
  local memory = require("medxai.core").memory
  local outer <close> = memory.scope()
  local weights = torch.zeros(x:size(1), y:size(1), { dtype = "float64" })
  local before = class_loss(x, y, weights, ridge)
  for _ = 1, 100 do
    local inner <close> = memory.scope() -- luacheck: ignore
    local step, share = class_direction(x, y, weights, ridge), 1.0
    local now = class_loss(x, y, weights - step, ridge)
    while now > before and share > 1e-9 do
      share = share / 2
      now = class_loss(x, y, weights - step * share, ridge)
    end
    weights:copy_(weights - step * share)
    local gained = before - now
    before = now
    if gained < 1e-9 * (1 + math.abs(now)) then break end
  end
  return outer:keep(weights)
end

--- The classes of some rows as a few components tell them: fitted on other rows.
---@param train any tensor (n, D) float64
---@param labels integer[] 0-based, of train
---@param test any tensor (m, D)
---@param classes integer how many
---@param options? { count: integer?, ridge: number? }
---@return number[][] [row of test][class] logits
function probe.read(train, labels, test, classes, options)
  options = options or {}
  local scope <close> = require("medxai.core").memory.scope() -- luacheck: ignore
  local components = probe.components(train, options.count)
  local y = torch.tensor(labels, { dtype = "int64" }):unsqueeze(1):eq(torch.arange(classes):unsqueeze(0))
  local weights = probe.fit_classes(probe.project(components, train), y:to { dtype = "float64" }, options.ridge)
  return torch.matmul(probe.project(components, test), weights):tolist()
end

-- ---- sources within a class -----------------------------------------------------------------------------------------

-- A fold of each row, 1 .. folds: groups (patients) of each source in turn, in a keyed order, so that folds hold all
-- sources.
local function folds_of(groups, sources, folds, stream)
  local order, seen, by_source = {}, {}, {}
  for i, group in ipairs(groups) do
    if not seen[group] then
      seen[group] = { source = sources[i] }
      order[#order + 1] = group
    end
  end
  for _, k in ipairs(stream:permutation(#order):tolist()) do
    local group = seen[order[k + 1]]
    local at = by_source[group.source] or 0
    group.fold, by_source[group.source] = at % folds + 1, at + 1
  end
  local list = {}
  for i, group in ipairs(groups) do list[i] = seen[group].fold end
  return list
end

-- Labels (n, 1 + refits): the true sources as 1 and 0, then with the groups' sources exchanged at random.
local function label_columns(groups, is_positive, refits, stream_of)
  local place, names, first = {}, {}, {}
  for i, group in ipairs(groups) do
    if not place[group] then
      names[#names + 1] = group
      place[group], first[#names] = #names, is_positive[i] and 1 or 0
    end
  end
  local rows = {}
  for i in ipairs(groups) do rows[i] = { is_positive[i] and 1 or 0 } end
  for b = 1, refits do
    local order = stream_of(b):permutation(#names):tolist()
    for i, group in ipairs(groups) do rows[i][b + 1] = first[order[place[group]] + 1] end
  end
  return rows
end

-- Areas of every column from scores of rows that their own fit did not see.
local function crossed_areas(x, rows, fold, folds)
  local delong, n = require "medxai.stats.delong", #rows
  local y, scores = torch.tensor(rows, { dtype = "float64" }), {}
  for f = 1, folds do
    local scope <close> = require("medxai.core").memory.scope() -- luacheck: ignore
    local inside, outside = {}, {}
    for i = 1, n do table.insert(fold[i] == f and outside or inside, i - 1) end
    if #outside > 0 and #inside > 0 then
      local kept, left = torch.tensor(inside, { dtype = "int64" }), torch.tensor(outside, { dtype = "int64" })
      local components = probe.components(x:index_select(0, kept))
      local weights = probe.fit(probe.project(components, x:index_select(0, kept)), y:index_select(0, kept))
      local found = torch.matmul(probe.project(components, x:index_select(0, left)), weights):tolist()
      for k, row in ipairs(found) do scores[outside[k] + 1] = row end
    end
  end
  local areas = {}
  for b = 1, #rows[1] do
    local one, is_positive = {}, {}
    for i = 1, n do one[i], is_positive[i] = scores[i][b], rows[i][b] == 1 end
    areas[b] = delong.placements(one, is_positive).auc
  end
  return areas
end

--- Can two sources be told apart by features? Folds over patients; p is how often sources that are exchanged at random
--- among the patients, in every part of the procedure, give an area at least as large.
---@param features any tensor (n, D) float64
---@param sources string[] of each row
---@param groups any[] the patient of each row, its number where unknown; a patient has one source
---@param positive string the source that counts as 1
---@param options { seed: integer, id: string, folds: integer?, refits: integer? }
---@return table { auc, p, refits, null = mean area of the refits, n, units }
function probe.sources(features, sources, groups, positive, options)
  local folds, refits = options.folds or 5, options.refits or 200
  local random = require "medxai.tensor.random"
  local scope <close> = require("medxai.core").memory.scope() -- luacheck: ignore
  local function stream(purpose, replicate)
    return random.stream { seed = options.seed, purpose = purpose, id = options.id, replicate = replicate }
  end
  local is_positive, count, seen = {}, 0, {}
  for i, source in ipairs(sources) do
    is_positive[i] = source == positive
    if not seen[groups[i]] then seen[groups[i]], count = true, count + 1 end
  end
  local fold = folds_of(groups, sources, folds, stream "probe_folds@1")
  local rows = label_columns(groups, is_positive, refits, function(b) return stream("probe_sources@1", b) end)
  local areas = crossed_areas(features, rows, fold, folds)
  local at_least, sum = 0, 0.0
  for b = 2, #areas do
    sum = sum + areas[b] / refits
    if areas[b] >= areas[1] - 1e-12 then at_least = at_least + 1 end
  end
  return { auc = areas[1], p = (1 + at_least) / (1 + refits), refits = refits, null = sum, n = #sources, units = count }
end

return probe
