-- The arithmetic of Kernel SHAP (Lundberg and Lee 2017, NeurIPS 30, theorem 2): which subsets of M features are
-- evaluated with which weights, which features are kept, and the values by weighted least squares that sum to the
-- output difference. Subsets, weights and selections are those of shap 0.51; `scaling` gives what older versions did.
-- It knows no images. It refuses to invert what the subsets do not determine: such values are the least-norm solution,
-- and said to be.
local check = require "medxai.base.check"
local core = require "medxai.core"
local torch = require "medxai.torch"

local kernel = {}

-- ---- draws ----------------------------------------------------------------------------------------------------------
-- Two ways to draw: sizes(n, p) -> list of n indices from 0 with probabilities p; permutation(i, M) -> list, the i-th
-- (from 0).

--- The project's own: keyed by seed, purpose and image id; the same for all models and targets of an image.
function kernel.keyed_draws(seed, purpose, id)
  return {
    sizes = function(n, p)
      local u, sums, total = core.rng.stream { seed = seed, purpose = purpose, id = id }:uniform(n):tolist(), {}, 0.0
      for k, share in ipairs(p) do
        total = total + share
        sums[k] = total
      end
      for i, v in ipairs(u) do
        local k = 1
        while k < #p and sums[k] <= v * total do k = k + 1 end
        u[i] = k - 1
      end
      return u
    end,
    permutation = function(i, m)
      return core.rng.stream { seed = seed, purpose = purpose, id = id, replicate = i + 1 }:permutation(m):tolist()
    end,
  }
end

--- NumPy's global generator as shap uses it, for parity: numpy.random.seed(seed) before one row is explained.
function kernel.numpy_draws(seed)
  local state = core.rng.numpy_random_state(seed)
  return {
    sizes = function(n, p) return state:choice(#p, n, p):tolist() end,
    permutation = function(_, m) return state:permutation(m):tolist() end,
  }
end

-- ---- subsets --------------------------------------------------------------------------------------------------------
-- A subset is a string of M bytes, 1 where the feature is shown: equal subsets are equal strings.

local function complement(mask) return (mask:gsub(".", function(c) return c == "\0" and "\1" or "\0" end)) end

local function mask_of(members, count, m)
  local bytes = {}
  for i = 1, m do bytes[i] = "\0" end
  for i = 1, count do bytes[members[i] + 1] = "\1" end
  return table.concat(bytes)
end

local function binomial(n, k)
  local b = 1.0
  for i = 1, k do b = b * (n - k + i) / i end
  return math.floor(b + 0.5) + 0.0
end

-- Calls f(members) for every subset of the size in lexicographic order.
local function each_subset(m, size, f)
  local at = {}
  for i = 1, size do at[i] = i - 1 end
  while true do
    f(at)
    local i = size
    while i >= 1 and at[i] == m - size + i - 1 do i = i - 1 end
    if i == 0 then return end
    at[i] = at[i] + 1
    for j = i + 1, size do at[j] = at[j - 1] + 1 end
  end
end

-- The Shapley kernel's share of each size 1 .. ceil((M - 1) / 2), a size and its complement's together; how many are
-- pairs.
local function size_weights(m)
  local sizes, paired, w, sum = math.ceil((m - 1) / 2), (m - 1) // 2, {}, 0.0
  for s = 1, sizes do
    w[s] = (m - 1) / (s * (m - s))
    if s <= paired then w[s] = 2 * w[s] end
    sum = sum + w[s]
  end
  for s = 1, sizes do w[s] = w[s] / sum end
  return w, paired
end

local function add(plan, mask, weight)
  plan.masks[#plan.masks + 1] = mask
  plan.weights[#plan.weights + 1] = weight
end

local function add_all_of_size(plan, m, size, weight, paired)
  each_subset(m, size, function(members)
    local mask = mask_of(members, size, m)
    add(plan, mask, weight)
    if paired then add(plan, complement(mask), weight) end
  end)
end

-- All subsets of the sizes for which the samples suffice. Returns how many sizes those are.
local function enumerate(plan, m, samples, w, paired)
  local left, rest = samples, table.move(w, 1, #w, 1, {})
  for s = 1, #w do
    local subsets = binomial(m, s) * (s <= paired and 2 or 1)
    if left * rest[s] / subsets < 1 - 1e-8 then return s - 1 end
    left = left - subsets
    local share = rest[s]
    if share < 1 then
      for k = 1, #rest do rest[k] = rest[k] / (1 - share) end
    end
    add_all_of_size(plan, m, s, w[s] / binomial(m, s) / (s <= paired and 2 or 1), s <= paired)
  end
  return #w
end

-- shap's random draws for the sizes beyond `full`: a subset and, where it has one, its complement; a subset drawn again
-- counts twice.
local function sample(plan, m, samples, w, paired, full, draws)
  local p, sum = {}, 0.0
  for s = full + 1, #w do
    p[s - full] = s <= paired and w[s] / 2 or w[s]
    sum = sum + p[s - full]
  end
  for k = 1, #p do p[k] = p[k] / sum end
  local first, left, seen = #plan.masks, samples - #plan.masks, {}
  for i, index in ipairs(draws.sizes(4 * left, p)) do
    if left <= 0 then break end
    local size = index + full + 1
    local mask = mask_of(draws.permutation(i - 1, m), size, m)
    local at = seen[mask]
    if at then
      plan.weights[at] = plan.weights[at] + 1
    else
      add(plan, mask, 1.0)
      seen[mask], left = #plan.masks, left - 1
    end
    if left > 0 and size <= paired then
      if at then
        plan.weights[at + 1] = plan.weights[at + 1] + 1
      else
        add(plan, complement(mask), 1.0)
        left = left - 1
      end
    end
  end
  local drawn, share = 0.0, 0.0
  for i = first + 1, #plan.weights do drawn = drawn + plan.weights[i] end
  for s = full + 1, #w do share = share + w[s] end
  for i = first + 1, #plan.weights do plan.weights[i] = plan.weights[i] * (share / drawn) end
end

-- How many pairs (a subset of size s and its complement) each size gets when all sizes share alike; a size that has
-- fewer gives what it leaves to the others, and what does not divide goes to the smallest.
local function share_pairs(m, pairs)
  local most, given, open = {}, {}, m // 2
  for s = 1, m // 2 do
    most[s] = 2 * s == m and binomial(m, s) / 2 or binomial(m, s)
    given[s] = 0
  end
  while pairs > 0 and open > 0 do
    local each = math.max(1, pairs // open)
    open = 0
    for s = 1, #most do
      local more = math.tointeger(math.min(each, most[s] - given[s], pairs))
      given[s], pairs = given[s] + more, pairs - more
      if given[s] < most[s] then open = open + 1 end
    end
  end
  return given, most
end

-- Different subsets of one size, cut one after another from random permutations, so that features are shown equally
-- often.
local function cut_subsets(m, size, count, draw, f)
  local order, at, tries, seen = nil, m, 0, {}
  while count > 0 and tries < 200 * m do
    if at + size > m then order, at = draw(m), 0 end
    local mask = mask_of(table.move(order, at + 1, at + size, 1, {}), size, m)
    at, tries = at + size, tries + 1
    if not seen[mask] then
      local other = complement(mask)
      seen[mask], seen[other], count, tries = true, true, count - 1, 0
      f(mask, other)
    end
  end
end

-- All pairs of one size; half of all subsets where the size is its own complement's.
local function all_pairs(m, size, f)
  local seen = {}
  each_subset(m, size, function(members)
    local mask = mask_of(members, size, m)
    if not seen[mask] then
      local other = complement(mask)
      seen[other] = true
      f(mask, other)
    end
  end)
end

-- The balanced design: every size is a stratum with its whole share of the kernel's weight, sizes get equally many
-- pairs (as in leverage-score sampling, Musco and Witter 2025), no subset comes twice, and features take turns.
local function balanced(plan, m, samples, draws)
  local w = size_weights(m)
  local given, most = share_pairs(m, samples // 2)
  local drawn, random = -1, {}
  local function draw(n)
    drawn = drawn + 1
    return draws.permutation(drawn, n)
  end
  for s = 1, m // 2 do
    local own = {}
    local function pair(mask, other) own[#own + 1], own[#own + 2] = mask, other end
    if given[s] == most[s] then all_pairs(m, s, pair) else cut_subsets(m, s, given[s], draw, pair) end
    for _, mask in ipairs(own) do
      if given[s] == most[s] then add(plan, mask, w[s] / #own) else random[#random + 1] = { mask, w[s] / #own } end
    end
  end
  plan.fixed = #plan.masks
  for _, one in ipairs(random) do add(plan, one[1], one[2]) end
end

--- The subsets to evaluate.
---@param m integer features, at least 2
---@param samples integer at most so many subsets; with m <= 30 never more than 2^m - 2
---@param draws table keyed_draws or numpy_draws
---@param design? string "shap" (default) or "balanced"
---@return table plan masks (list of strings of m bytes), weights, samples (what was asked for, capped), fixed (the
---   first ones, not
---   random), most (2^m - 2, or 2^30)
function kernel.plan(m, samples, draws, design)
  local most = m <= 30 and (1 << m) - 2 or 1 << 30
  local plan = { masks = {}, weights = {}, samples = math.min(samples, most), most = most }
  if design == "balanced" then
    balanced(plan, m, plan.samples, draws)
    return plan
  end
  local w, paired = size_weights(m)
  local full = enumerate(plan, m, plan.samples, w, paired)
  plan.fixed = #plan.masks
  if full < #w then sample(plan, m, plan.samples, w, paired, full, draws) end
  return plan
end

-- ---- which features -------------------------------------------------------------------------------------------------

-- The data of the constrained fit without its constraint: rows seen from the empty and from the full set. z (n, M), k
-- (n), y (n).
local function augmented(z, k, y, delta)
  local m, s = z:size(1), z:sum({ 1 })
  local up, down = (k * (m - s)):sqrt(), (k * s):sqrt()
  local x = torch.cat({ z * up:unsqueeze(1), (z - 1) * down:unsqueeze(1) }, 0)
  return x, torch.cat({ y * up, (y - delta) * down }, 0)
end

-- Columns that the lasso keeps at the point of its path that AIC or BIC chooses (Zou, Hastie, Tibshirani 2007), in
-- order of index.
local scalings = {
  deviation = function(x) -- shap since 0.42: by the deviation, not centered
    local d = x:std({ 0 }, { correction = 0, keepdim = true })
    return x / torch.where(d:eq(0), d:ones_like(), d)
  end,
  none = function(x) return x end, -- shap 0.41 with scikit-learn 1.2 or later
  unit = function(x) -- shap 0.41 with scikit-learn before 1.2: centered columns to length 1
    local n = (x - x:mean({ 0 }, true)):square():sum({ 0 }, true):sqrt()
    return x / torch.where(n:eq(0), n:ones_like(), n)
  end,
}

local function centered(x, y, scaling)
  x = scalings[scaling](x)
  return (x - x:mean({ 0 }, true)):contiguous(), (y - y:mean({ 0 }, true)):contiguous()
end

local function lasso_path(x, y, alpha_min)
  local _, coef, alpha = core.lars.path(torch.mm(x:t(), x):contiguous(), torch.mv(x:t(), y),
    { samples = x:size(0), lasso = true, alpha_min = alpha_min })
  return coef, alpha
end

-- Weighted least squares by the normal equations' eigenvectors: the least-norm solution where they are singular. wx are
-- the rows of x times their weights. Returns it, and whether the rows determine it.
local function least_squares(x, wx, y)
  local values, vectors = torch.linalg_eigh(torch.mm(x:t(), wx))
  local keep = values:gt(values:max():item() * 1e-12)
  local inverse = torch.where(keep, values:reciprocal(), values:zeros_like())
  return torch.mv(vectors, torch.mv(vectors:t(), torch.mv(wx:t(), y)) * inverse), keep:all():item()
end

-- Residual sum of squares of the least-squares fit; x has full column rank or not.
local function least_squares_rest(x, y)
  return (y - torch.mv(x, (least_squares(x, x, y)))):square():sum():item()
end

local function by_criterion(x, y, criterion, scaling)
  x, y = centered(x, y, scaling)
  local n, p = x:size(0), x:size(1)
  if n <= p + 1 then
    check.fail("shap_kernel", "%s needs more subsets than features (got %d for %d). Raise samples or use "
      .. "num_features(k).", criterion, n // 2, p)
  end
  local coef = lasso_path(x, y, 0)
  local variance = least_squares_rest(x, y) / (n - p - 1)
  local rest = (y:unsqueeze(1) - torch.mm(x, coef:t())):square():sum({ 0 })
  local degrees = coef:abs():gt(coef:abs():amax({ 1 }, true) * 2 ^ -52):sum({ 1 }):to { dtype = "float64" }
  local score = rest / variance + degrees * (criterion == "aic" and 2 or math.log(n))
  return coef:select(0, score:argmin():item())
end

local function nonzero(coef)
  local list = {}
  for i, v in ipairs(coef:tolist()) do
    if v ~= 0 then list[#list + 1] = i - 1 end
  end
  return list
end

-- l1_reg as a table: { kind = "all" | "lar" | "auto" | "aic" | "bic" | "lasso", value }
local function parse_selection(l1_reg)
  if l1_reg == "none" then return { kind = "all" } end
  if math.type(l1_reg) then return l1_reg == 0 and { kind = "all" } or { kind = "lasso", value = l1_reg } end
  local count = math.tointeger(tonumber(l1_reg:match "^num_features%((%d+)%)$"))
  if count and count >= 1 then return { kind = "lar", value = count } end
  if l1_reg == "auto" or l1_reg == "aic" or l1_reg == "bic" then return { kind = l1_reg } end
  check.fail("shap_kernel", "option 'l1_reg' is wrong (expected 'num_features(k)', 'auto', 'aic', 'bic', 'none' or "
    .. "a number, got '%s').", l1_reg)
end
kernel.parse_selection = parse_selection

--- The features that the fit of one output keeps, the last of which carries the constraint.
---@param z any (n, M) float64, 1 where shown
---@param k any (n) float64 weights
---@param y any (n) float64 outputs less the empty set's
---@param delta number output of the full set less the empty set's
---@param selection table from parse_selection
---@param scaling string "deviation" | "none" | "unit"
---@param share number of all subsets that were evaluated
---@return integer[] features from 0
function kernel.select(z, k, y, delta, selection, scaling, share)
  local kind = selection.kind
  if kind == "auto" then kind = share < 0.2 and "aic" or "all" end
  if kind == "all" then
    local all = {}
    for i = 0, z:size(1) - 1 do all[i + 1] = i end
    return all
  end
  local x, target = augmented(z, k, y, delta)
  if kind == "lar" then
    return (core.lars.path(torch.mm(x:t(), x):contiguous(), torch.mv(x:t(), target),
      { samples = x:size(0), max_steps = selection.value }))
  elseif kind == "lasso" then
    x, target = centered(x, target, "none")
    local coef = lasso_path(x, target, selection.value)
    return nonzero(coef:select(0, coef:size(0) - 1))
  end
  return nonzero(by_criterion(x, target, kind, scaling))
end

-- ---- values ---------------------------------------------------------------------------------------------------------

--- The values of one output: they sum to delta. Arguments as for select.
---@return any phi (M) float64, boolean determined
function kernel.values(z, k, y, delta, features)
  local m = z:size(1)
  if #features == 0 then return torch.zeros({ m }, { dtype = "float64" }), true end
  local chosen = z:index_select(1, torch.tensor(features, { dtype = "int64" }))
  local last = chosen:select(1, #features - 1)
  local phi, determined = {}, true
  for i = 1, m do phi[i] = 0.0 end
  local sum = 0.0
  if #features > 1 then
    local x = chosen:narrow(1, 0, #features - 1) - last:unsqueeze(1)
    local fitted
    fitted, determined = least_squares(x, x * k:unsqueeze(1), y - last * delta)
    for i, v in ipairs(fitted:tolist()) do
      phi[features[i] + 1] = v
      sum = sum + v
    end
  end
  phi[features[#features] + 1] = delta - sum
  local largest = math.abs(delta)
  for _, v in ipairs(phi) do largest = math.max(largest, math.abs(v)) end
  for i, v in ipairs(phi) do -- rounding; shap's bound is 1e-10 itself
    if math.abs(v) < 1e-10 * largest then phi[i] = 0.0 end
  end
  return torch.tensor(phi, { dtype = "float64" }), determined
end

--- What tells how far the random subsets leave the values open: the rows (from 0) without every second pair of random
--- ones, and weights that share the same sum among the rest. nil where no subset is random, or no pair can be left out.
---@return any rows int64, any weights float64
function kernel.half(plan)
  if #plan.masks - plan.fixed <= 2 then return nil end
  local rows, weights, all, kept = {}, {}, 0.0, 0.0
  for i, weight in ipairs(plan.weights) do
    local random = i > plan.fixed
    local keep = not random or (i - plan.fixed - 1) // 2 % 2 == 0
    if keep then rows[#rows + 1], weights[#weights + 1] = i - 1, weight end
    if random then
      all = all + weight
      kept = kept + (keep and weight or 0)
    end
  end
  for k, i in ipairs(rows) do
    if i >= plan.fixed then weights[k] = weights[k] * (all / kept) end
  end
  return torch.tensor(rows, { dtype = "int64" }), torch.tensor(weights, { dtype = "float64" })
end

--- The masks of a plan as a tensor (n, M) uint8.
function kernel.matrix(plan, m) return torch.from_string(table.concat(plan.masks), "uint8", { #plan.masks, m }) end

local function fit_rows(z, weights, y, ends, options, share)
  local list, kept, determined, selection = {}, {}, true, kernel.parse_selection(options.l1_reg)
  for d = 1, #ends.base do
    local own, delta = y:select(1, d - 1) - ends.base[d], ends.output[d] - ends.base[d]
    local features = kernel.select(z, weights, own, delta, selection, options.scaling, share)
    local phi, sure = kernel.values(z, weights, own, delta, features)
    list[d], kept[d], determined = phi, #features, determined and sure
  end
  return { values = torch.stack(list, 0), kept = kept, determined = determined }
end

--- The values of all outputs of a plan.
---@param plan table
---@param m integer
---@param y any (n, D) float64: outputs of the plan's subsets
---@param ends table base, output: lists of D outputs of the empty and the full set
---@param options table l1_reg, scaling
---@return table fitted values (D, M), kept: features of each output, determined: whether the subsets determine them,
---   half: values
---   without every second random pair (values where nothing is random, nil where they do not suffice), few: no pair can
---   be left out
function kernel.fit(plan, m, y, ends, options)
  local z, weights = kernel.matrix(plan, m):to { dtype = "float64" }, torch.tensor(plan.weights, { dtype = "float64" })
  local share = plan.samples / plan.most
  local fitted = fit_rows(z, weights, y, ends, options, share)
  local rows, halved = kernel.half(plan)
  fitted.half = #plan.masks == plan.fixed and fitted.values or nil
  fitted.few = not rows and not fitted.half or nil
  if rows then
    local ok, half = pcall(fit_rows, z:index_select(0, rows), halved, y:index_select(0, rows), ends, options, share)
    fitted.half = ok and half.values or nil
  end
  return fitted
end

return kernel
