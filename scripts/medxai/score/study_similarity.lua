-- How alike the maps of a study are, in the frame that all models share: of methods on one model, of networks and
-- training seeds under one method, of explainer seeds; each beside the likeness of maps of different patients.
-- Agreement is what is left of the one when the other is taken off. Writes study/similarity.csv; the numbers are those
-- of stats/similarity.lua, of all images at once. It refuses a number for a constant map: the field is empty.
local canon = require "medxai.base.json"
local core = require "medxai.core"
local csv = require "medxai.base.csv"
local files = require "medxai.base.files"
local frame = require "medxai.score.frame"
local host = require "medxai.host"
local similarity = require "medxai.stats.similarity"
local torch = require "medxai.torch"
local units = require "medxai.stats.units"

local likeness = {}

likeness.strangers = 5 -- other patients whose maps each map is compared with

likeness.columns = { "image_id", "patient", "class", "kind", "a", "b", "stage", "draw", "view", "measure", "value" }
likeness.agreement = { "kind", "a", "b", "view", "measure", "agreement", "low", "high", "same", "strangers", "n",
  "units",
  "undefined", "interval", "reason", "partial" }

-- The primary measure comes first.
local measures = { { "spearman", "shown" }, { "ssim", "shown" }, { "top_tenth", "shown" }, { "spearman", "signed" },
  { "spearman", "magnitude" } }

-- ---- what is compared ----------------------------------------------------------------------------------------------

local fine = 4 * frame.side

local function constant(x) return x:amax { 1 }:eq(x:amin { 1 }):logical_or(x:isnan():any(1)) end

-- (n, C) -> mid-ranks of each row, centered, of length 1; NaN rows of constant maps.
local function standard_ranks(x)
  local below = x:unsqueeze(1):lt(x:unsqueeze(2)):sum { 2 }:to { dtype = "float64" }
  local equal = x:unsqueeze(1):eq(x:unsqueeze(2)):sum { 2 }:to { dtype = "float64" }
  local rank = below + (equal + 1) / 2
  rank = rank - (x:size(1) + 1) / 2
  local length = (rank * rank):sum({ 1 }, true):sqrt()
  return (rank / length):masked_fill(constant(x):unsqueeze(1), 0 / 0)
end

-- (n, C) -> how much of each cell is among the strongest tenth; ties share the places left over.
local function top_shares(x)
  local k = math.max(1, math.floor(0.1 * x:size(1) + 0.5))
  local clean = x:nan_to_num(0)
  local edge = clean:sort(1, true)
  edge = edge:narrow(1, k - 1, 1)
  local above, tied = clean:gt(edge):to { dtype = "float64" }, clean:eq(edge):to { dtype = "float64" }
  local left = (k - above:sum({ 1 }, true)) / tied:sum({ 1 }, true)
  return (above + tied * left):masked_fill(constant(x):unsqueeze(1), 0 / 0), k
end

local function gaussian()
  local weights, sum = {}, 0.0
  for i = -5, 5 do
    weights[#weights + 1] = math.exp(-i * i / (2 * 1.5 * 1.5))
    sum = sum + weights[#weights]
  end
  for i, w in ipairs(weights) do weights[i] = w / sum end
  return torch.tensor(weights, { dtype = "float64" })
end

-- (n, 1, S, S) -> means under a Gaussian window, the valid part.
local function blurred(x, window)
  return torch.conv2d(torch.conv2d(x, window:view { 1, 1, 11, 1 }), window:view { 1, 1, 1, 11 })
end

--- What maps are compared by, made once per map.
---@param maps any (n, 64 * 64 + 2 * 256): shown at 64 x 64, signed and magnitude at 16 x 16
---@return table prepared tensors; close() frees them
function likeness.prepare(maps)
  local side, n = frame.side, maps:size(0)
  local prepared = core.memory.unscoped(function()
    local scope <close> = core.memory.scope()
    local x = maps:to { dtype = "float64" }
    local shown = x:narrow(1, 0, fine * fine):contiguous():view { n, 1, fine, fine }
    local cells = torch.avg_pool2d(shown, { 4, 4 }):view { n, side * side }
    local window = gaussian()
    local p = { shown = standard_ranks(cells), signed = standard_ranks(x:narrow(1, fine * fine, side * side)),
      magnitude = standard_ranks(x:narrow(1, fine * fine + side * side, side * side)), top = top_shares(cells),
        image = shown,
      mean = blurred(shown, window), square = blurred(shown * shown, window), window = window,
      constant = constant(cells):to { dtype = "float64" } }
    return scope:keep(p)
  end)
  prepared.n = n
  function prepared:close()
    for _, tensor in pairs(self) do
      if torch.is_tensor(tensor) then tensor:close() end
    end
  end
  return prepared
end

-- Of each image i the likeness of a's map of it and b's map of image other[i] (from 0): a list of n numbers, NaN
-- undefined.
local function compare(a, b, measure, view, other)
  local scope <close> = core.memory.scope() -- luacheck: ignore
  local function of_b(x) return other and x:index_select(0, other) or x end
  if measure == "spearman" then return (a[view] * of_b(b[view])):sum { 1 }:clamp(-1, 1):tolist() end
  if measure == "top_tenth" then
    local k = math.max(1, math.floor(0.1 * a.top:size(1) + 0.5))
    local both = (a.top * of_b(b.top)):sum { 1 }
    return (both / (2 * k - both)):tolist()
  end
  local c1, c2, ma, mb = 0.01 ^ 2, 0.03 ^ 2, a.mean, of_b(b.mean)
  local cross = blurred(a.image * of_b(b.image), a.window) - ma * mb
  local va, vb = a.square - ma * ma, of_b(b.square) - mb * mb
  local s = ((2 * ma * mb + c1) * (2 * cross + c2)) / ((ma * ma + mb * mb + c1) * (va + vb + c2))
  local flat = a.constant + of_b(b.constant)
  return s:mean { 1, 2, 3 }:masked_fill(flat:gt(0), 0 / 0):tolist()
end
likeness.compare = compare

-- ---- strangers -----------------------------------------------------------------------------------------------------

--- Of each image up to five others of other patients: the next ones of its class in the study's order, in a circle; of
--- any class where its class has no other patient.
---@param images table[] { id, patient, label }
---@return integer[][] [k][i], from 0: the k-th stranger of image i, -1 where there are fewer
function likeness.strangers_of(images)
  local n, lists = #images, {}
  for k = 1, likeness.strangers do lists[k] = {} end
  for i, image in ipairs(images) do
    local found = {}
    for _, same_class in ipairs { true, false } do
      for step = 1, #found == 0 and n - 1 or 0 do
        local other = (i - 1 + step) % n + 1
        local o = images[other]
        local is_other = o.id ~= image.id and not (units.is_known(o.patient) and o.patient == image.patient)
        if #found < likeness.strangers and is_other and (o.label == image.label
          or not same_class) then found[#found + 1] = other - 1 end
      end
    end
    for k = 1, likeness.strangers do lists[k][i] = found[k] or -1 end
  end
  return lists
end

-- Mean over the strangers that are there and whose likeness is defined.
local function with_strangers(a, b, measure, view, strangers)
  local sum, count, out = {}, {}, {}
  for _, list in ipairs(strangers) do
    local index = {}
    for i, s in ipairs(list) do index[i] = math.max(s, 0) end
    local other <close> = torch.tensor(index, { dtype = "int64" })
    for i, v in ipairs(compare(a, b, measure, view, other)) do
      if list[i] >= 0 and v == v then sum[i], count[i] = (sum[i] or 0.0) + v, (count[i] or 0) + 1 end
    end
  end
  for i = 1, a.n do out[i] = count[i] and sum[i] / count[i] or 0 / 0 end
  return out
end

-- ---- pairs ---------------------------------------------------------------------------------------------------------

local function number(v) return v == v and ("%.17g"):format(v) or "" end

local function quoted(text) return csv.line({ "x" }, { x = text }) end

local function put_rows(t, kind, a, b, view, measure, values)
  local ends = (",%s,%s,%s,,,%s,%s,"):format(kind, quoted(a), quoted(b), view, measure)
  local lines = {}
  for i, v in ipairs(values) do lines[i] = t.heads[i] .. ends .. number(v) .. "\n" end
  files.put(t.file, t.path, table.concat(lines))
end

local function count_undefined(values)
  local n = 0
  for _, v in ipairs(values) do n = n + (v == v and 0 or 1) end
  return n
end

-- Rows and agreement of one pair of maps' sets. Only the primary measure has an interval: it is what is decided by.
local function pair(t, kind, a, b)
  for k, m in ipairs(measures) do
    local measure, view = m[1], m[2]
    local same = compare(a.maps, b.maps, measure, view)
    local other = with_strangers(a.maps, b.maps, measure, view, t.strangers)
    put_rows(t, kind, a.name, b.name, view, measure, same)
    put_rows(t, "stranger", a.name, b.name, view, measure, other)
    local row = { kind = kind, a = a.name, b = b.name, view = view, measure = measure,
      undefined = count_undefined(same), partial = t.partial }
    local first, second = t.over:ratio(same), t.over:ratio(other)
    row.same, row.strangers, row.n, row.units = first.value, second.value, math.min(first.n, second.n),
      math.min(first.units, second.units)
    if k == 1 then
      local r = similarity.agreement(t.over, same, other)
      row.agreement, row.low, row.high, row.interval, row.reason = r.mean, r.low, r.high, r.interval, r.why
    elseif second.value <= similarity.one_map then
      row.agreement = (first.value - second.value) / (1 - second.value)
    end
    for _, key in ipairs { "agreement", "low", "high", "same", "strangers" } do
      if row[key] ~= row[key] then row[key] = nil end
    end
    t.rows[#t.rows + 1] = row
  end
  if host.interrupted() then error("interrupted", 0) end
end

local function pairs_of(t, kind, list)
  local open = {}
  for i, one in ipairs(list) do
    local maps <close> = t.maps_of(one)
    open[i] = { name = one.name, maps = likeness.prepare(maps) }
  end
  for i = 1, #open do
    for j = i + 1, #open do pair(t, kind, open[i], open[j]) end
  end
  for _, one in ipairs(open) do one.maps:close() end
end

local function heads_of(images)
  local heads = {}
  for i, image in ipairs(images) do
    heads[i] = csv.line({ "id", "patient", "class" }, { id = image.id, patient = image.patient, class = image.class })
  end
  return heads
end

--- Writes study/similarity.csv and gives the rows of tables/agreement.csv.
---@param o table path; images (list of { id, patient, class, label }); groups: list of { kind = "method" | "network" |
---  "train_seed" | "explainer_seed", sets = list of { name, ... } whose maps are compared with one another };
---  maps_of(set) -> tensor; seed; partial
---@return table[] rows
function likeness.write(o)
  local patients = {}
  for i, image in ipairs(o.images) do patients[i] = image.patient end
  local temporary = o.path .. ".part"
  local t = { rows = canon.list {}, strangers = likeness.strangers_of(o.images), heads = heads_of(o.images),
    maps_of = o.maps_of, partial = o.partial,
    path = temporary, file = files.create(temporary), over = units.over(#o.images, patients,
      { seed = o.seed, id = "similarity" }) }
  files.put(t.file, t.path, table.concat(likeness.columns, ",") .. "\n")
  local ok, problem = pcall(function()
    for _, group in ipairs(o.groups) do
      if #group.sets > 1 then pairs_of(t, group.kind, group.sets) end
    end
  end)
  t.file:close()
  if not ok then error(problem, 0) end
  files.rename(temporary, o.path)
  return t.rows
end

return likeness
