-- What a metric sees of one map: the image, the model, the map's fixed target, and helpers that evaluate changed images
-- in batches. What has been computed once for an image (its own score, the order of equal pixels) or for a map (its
-- ranking, the score with a part removed) is kept, so that metrics of one map share their passes. Listed in
-- registry.lua. It refuses to choose the target anew: every metric of a map judges the number that the map explains.
local core = require "medxai.core"
local explained = require "medxai.explain.context"
local ranking = require "medxai.perturb.pixel_order"
local target = require "medxai.explain.target"
local torch = require "medxai.torch"

local contexts = {}

local most_at_once = 32 -- images whose removed parts are filled together: bounds memory, not results

-- ---- one image ----------------------------------------------------------------------------------------------------

local Subject = {}
Subject.__index = Subject

--- An image of an explain step. Close it when its maps are judged: what was kept for them is freed.
---@param job medxai.ExplainJob what is read of it: model, split, run.seed, compat, scorer
---@param number integer sample number
function contexts.subject(job, number)
  return setmetatable({ job = job, number = number, item = job.split:item(number), kept = {}, tensors = {} }, Subject)
end

function Subject:close()
  for _, tensor in ipairs(self.tensors) do tensor:close() end
end
Subject.__close = Subject.close

-- f's value, computed once under a key.
local function once(kept, key, f)
  if kept[key] == nil then kept[key] = f() end
  return kept[key]
end

-- The same for tensors (none is false): they outlive the scope in which they were first asked for, and end with the
-- image.
local function once_tensors(subject, kept, key, f)
  return once(kept, key, function()
    local list = core.memory.unscoped(function()
      local scope <close> = core.memory.scope()
      return scope:keep(table.pack(f()))
    end)
    table.move(list, 1, list.n, #subject.tensors + 1, subject.tensors)
    return list
  end)
end

--- (1, 3, H, W), the network's input.
function Subject:input()
  return once_tensors(self, self.kept, "x", function()
    local model = self.job.model
    return self.job.split:batch({ self.number }).x:to { device = model.device or "cpu",
      dtype = model.dtype or "float32" }
  end)[1]
end

function Subject:scorer() return self.job.scorer end

--- Logits of the unchanged image, a list of K numbers.
function Subject:original()
  return once(self.kept, "original", function()
    local x = self:input()
    return self:scorer():logits(1, function() return x end):to { device = "cpu", dtype = "float64" }:tolist()[1]
  end)
end

function Subject:mask(name)
  return once_tensors(self, self.kept, "mask " .. name, function()
    local mask = self.job.split.mask and self.job.split:mask(self.number, name)
    if mask then return mask:to { device = "cpu" }:ne(0) end
  end)[1]
end

-- ---- one map and metric ---------------------------------------------------------------------------------------------

local Context = {}

-- An image as a researcher's own metric sees it, whose code may work in place: copies of what all metrics read.
local function lent_subject(subject)
  local function original() return table.move(subject:original(), 1, #subject:original(), 1, {}) end
  local function mask(_, name)
    local found = subject:mask(name)
    return found and found:clone()
  end
  return setmetatable({ input = function() return subject:input():clone() end, mask = mask, original = original },
    { __index = subject })
end

-- The target as target.fix made it, from the record; as: "logit" or "softmax" instead of its own.
local function target_of(record, classes, as)
  local t = { as = as == "softmax" and record.target.outputs or as } -- of findings "sigmoid"
  for k, v in pairs(record.target) do t[k] = t[k] or v end
  for k, name in ipairs(classes) do
    if name == t.against then t.against_index = k - 1 end
  end
  return t
end

--- What metric m is to see of a map. kept: a table shared by the metrics of that map.
---@param subject table
---@param map any tensor (H, W) in [0, 1] or nil
---@param record table the map's record
---@param m table entry of metric.entries
---@param kept table
---@param drawn? table where pictures and curves are wanted: they are added to it
---@param entry? table the method that made the map, where it can be asked again
function contexts.new(subject, map, record, m, kept, drawn, entry)
  local job = subject.job
  -- a researcher's code may work in place
  local function lent(tensor) return tensor and m.own and tensor:clone() or tensor end
  local mask, within = lent(m.mask and subject:mask(m.mask)), lent(m.within and subject:mask(m.within))
  local ctx = { own = m.own, subject = m.own and lent_subject(subject) or subject, map = lent(map), record = record,
    status = record.status, model = job.model, item = subject.item,
    mask = mask, within = within, within_name = m.within, compat = job.compat, kept = kept, drawn = drawn,
      entry = entry }
  if record.target then
    ctx.target = target_of(record, job.model.classes, m.as)
    ctx.unit = (ctx.target.as == "softmax" or ctx.target.as == "sigmoid") and "probability" or "logit"
  end
  if m.own then ctx.x = lent(subject:input()) end
  return setmetatable(ctx, Context)
end

-- Tensors that not every metric reads are made when they are first named.
local lazy = {
  x = function(ctx) return ctx.subject:input() end,
  scorer = function(ctx) return ctx.subject:scorer() end,
  height = function(ctx) return ctx.map:size(0) end,
  width = function(ctx) return ctx.map:size(1) end,
}

function Context.__index(ctx, key)
  local method = rawget(Context, key)
  if method ~= nil or not lazy[key] then return method end
  local value = lazy[key](ctx)
  rawset(ctx, key, value)
  return value
end

--- f()'s value, computed once for all metrics of this map; no tensors, which would end with the metric's scope. Own
--- metrics share among themselves alone: a name or a change of theirs reaches none of the library's.
function Context:once(key, f)
  return once(self.kept, (self.own and "own " or "") .. key .. " within " .. tostring(self.within_name), f)
end

local function lent(self, tensor) return self.own and tensor and tensor:clone() or tensor end

--- The image's pixels in [0, 1].
function Context:image() return explained.pixels(self.x, self.subject.job.split) end

--- The network's values for black and white: tensors (1, 3, 1, 1).
function Context:range()
  local range = once_tensors(self.subject, self.subject.kept, "range",
    function() return explained.range(self.x, self.subject.job.split) end)
  return lent(self, range[1]), lent(self, range[2])
end

--- A keyed stream of random numbers for this image, the same for all maps, methods and models.
---@param purpose string "ties@1"
function Context:stream(purpose)
  return once(self.subject.kept, "stream " .. purpose, function()
    return core.rng.stream { seed = self.subject.job.run.seed, purpose = purpose, id = self.item.id }
  end)
end

-- Scores of rows of logits under this metric's target: a list of numbers.
local function score_rows(ctx, rows)
  if #rows == 0 then return {} end
  local same = {}
  for i = 1, #rows do same[i] = ctx.target end
  return target.batch(same):score(torch.tensor(rows, { dtype = "float64" })):tolist()
end

local function logit_rows(ctx, n, make)
  return ctx.scorer:logits(n, make):to { device = "cpu", dtype = "float64" }:tolist()
end

--- The target's score of rows of logits that were computed before.
---@param rows number[][]
function Context:score_of(rows) return score_rows(self, rows) end

--- The target's score of n changed images, evaluated in batches: a list of n numbers.
---@param n integer
---@param make fun(first: integer, count: integer): any (count, 3, H, W), the images first .. first + count - 1 (from 0)
function Context:scores(n, make) return score_rows(self, logit_rows(self, n, make)) end

--- The target's score of the unchanged image.
function Context:original() return score_rows(self, { self.subject:original() })[1] end

--- The target's score of rows of logits less that of one row, the unchanged image's where none is given. A probability
--- near 1 keeps the digits of its change, which the difference of two scores loses.
---@param rows number[][]
---@param from? number[]
---@return number[]
function Context:changes_of(rows, from)
  local base = torch.tensor({ from or self.subject:original() }, { dtype = "float64" })
  return target.batch({ self.target }):change_of(1, torch.tensor(rows, { dtype = "float64" }), base):tolist()
end

--- The raw map on the input's grid, with its sign: (H, W) float64; nil where the method has several (layers, views) or
--- a coarser one.
function Context:raw()
  local store = self.subject.job.store
  local raws = store and store:raws(self.record) or {}
  local shape = raws[1] and raws[1].shape or {}
  if #raws ~= 1 or #shape ~= 2 or shape[1] ~= self.height or shape[2] ~= self.width then return nil end
  return raws[1]:to { dtype = "float64" }
end

--- Maps of changed images by the method that made this one, the target fixed: list of { map = (H, W) or nil, status,
--- logits }; nil where the method is not at hand.
---@param images any (n, 3, H, W) in the network's input range
---@return table[]|nil
function Context:maps_of(images)
  local entry, job = self.entry, self.subject.job
  if not entry then return nil end
  job.again = job.again or {}
  local runner = require "medxai.explain.runner"
  job.again[entry] = job.again[entry] or require("medxai.explain.job").loose { model = self.model, split = job.split,
    entries = { entry }, run = job.run, budget_bytes = job.budget_bytes, deterministic = job.deterministic }
  local item = setmetatable({ number = self.subject.number }, { __index = self.item })
  local items, targets = {}, {}
  for i = 1, images:size(0) do items[i], targets[i] = item, target_of(self.record, self.model.classes) end
  return runner.maps_of(job.again[entry], images, items, targets)[entry]
end

--- Pixel numbers from the most to the least relevant, ties at random; nil where the map is the same everywhere.
function Context:order()
  return lent(self, once_tensors(self.subject, self.kept, "order within " .. tostring(self.within_name), function()
    return ranking.order(self.map, self:stream "ties@1", self.within)
  end)[1])
end

--- bool (H, W): all pixels but 100 - percentile of a hundred, the most or the least relevant ones, of those within.
--- With compat: those strictly below the percentile's value.
---@return any|nil nil where the map is the same everywhere
function Context:keep(percentile, which)
  if self.compat then
    local keep = ranking.below(self.map, percentile, which)
    return self.within and keep:logical_or(self.within:logical_not()) or keep
  end
  local order = self:order()
  return order and ranking.without(order, percentile, which, self.height, self.width)
end

-- Evaluates the image with parts removed: list of { name, keep }, at most most_at_once.
local function evaluate_removed(ctx, removal, list)
  local keeps, streams = {}, {}
  for i, ask in ipairs(list) do keeps[i], streams[i] = ask.keep, ctx:stream(removal.kind .. "@1") end
  local lo, hi = ctx:range()
  local x = ctx.subject:input()
  local shape = x.shape
  local images = removal:apply(x:expand({ #list, shape[2], shape[3], shape[4] }), torch.stack(keeps, 0),
    { range = { lo, hi }, streams = streams })
  for i, row in ipairs(logit_rows(ctx, #list, function(first, count) return images:narrow(0, first, count) end)) do
    list[i].kept.logits = row
  end
  if not ctx.drawn then return end
  local pixels = explained.pixels(images, ctx.subject.job.split):to { device = "cpu", dtype = "float32" }
  for i, ask in ipairs(list) do ask.kept.pixels = require("medxai.tensor.pixels")(pixels:select(0, i - 1)) end
end

--- Logits with parts of the image removed. What any metric of this map asked for before is not evaluated again.
---@param removal medxai.Removal
---@param asks table[] list of { name = "most 25", keep = bool (H, W) }; the name says what the mask is
---@return number[][]
function Context:removed_logits(removal, asks)
  local open, entries = {}, {}
  for i, ask in ipairs(asks) do
    local found = self:once(removal.id .. " " .. ask.name, function() return {} end)
    entries[i] = found
    if not found.logits and not found.asked then
      found.asked = true
      open[#open + 1] = { name = ask.name, keep = ask.keep:to { device = "cpu" }, kept = found }
    end
  end
  for first = 1, #open, most_at_once do
    local scope <close> = core.memory.scope()
    evaluate_removed(self, removal, { table.unpack(open, first, math.min(first + most_at_once - 1, #open)) })
  end
  local rows = {}
  for i, found in ipairs(entries) do rows[i] = found.logits end
  return rows
end

--- The target's scores with parts of the image removed, a list of numbers: see removed_logits.
function Context:removed(removal, asks) return score_rows(self, self:removed_logits(removal, asks)) end

--- The picture that `removed` evaluated, where figures are drawn of this image: { rgb, columns, rows }, else nil.
function Context:picture(removal, name)
  return self:once(removal.id .. " " .. name, function() return {} end).pixels
end

--- Leaves something for this image's figures; costs nothing where none are drawn.
---@param exhibit table { kind = "curve", family (the chart), name, x, y (lists), x_label, dashed } or { kind =
---  "picture", row, name, at (its
--- place in the row), pixels, value (the change; nil: unchanged) }
function Context:show(exhibit)
  if not self.drawn then return end
  exhibit.unit = self.unit
  self.drawn[#self.drawn + 1] = exhibit
end

return contexts
