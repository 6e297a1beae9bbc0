-- What networks are compared by: areas under ROC curves, accuracy, balanced accuracy, macro F1, negative log-likelihood
-- and Brier score, each with its interval, its paired difference and what each image adds to it. A network may be
-- several trainings of one recipe: then all numbers are means over the training seeds. It refuses networks that judged
-- different images.
--
--   local a = endpoints.judged(labels, { logits of seed 1, logits of seed 2 })
--   local e = endpoints.of("auroc_macro", { "COVID-19", "Normal" })
--   e:value(over, a)             mean, low, high, se, n, units, interval, why
--   e:difference(over, a, b)     the same of a - b, with p, test, narrow and status
--   e:influence(a, 1)            value of seed 1, and what each image adds
local accuracy = require "medxai.stats.accuracy"
local check = require "medxai.base.check"
local classification = require "medxai.stats.classification"
local delong = require "medxai.stats.delong"
local logits_of = require "medxai.stats.logits"

local endpoints = {}

local nan = 0 / 0

---@class medxai.Judged a network's answers on images, for endpoints
---@field labels integer[] 0-based
---@field seeds number[][][] [training seed][image][class]: logits
local Judged = {}

-- Parts are computed when first asked for, and kept.
local parts = {}
Judged.__index = function(self, name)
  local value = parts[name] and parts[name](self) or nil
  rawset(self, name, value)
  return value
end

local function of_each_seed(self, f)
  local list = {}
  for s, logits in ipairs(self.seeds) do list[s] = f(logits) end
  return list
end

function parts.macros(self)
  return of_each_seed(self, function(logits)
    local scores = {}
    for i, row in ipairs(logits) do scores[i] = logits_of.log_odds(row) end
    return delong.macro(self.labels, scores)
  end)
end

function parts.macro(self) return delong.macro_mean(self.macros) end

function parts.predicted(self) return of_each_seed(self, logits_of.argmax) end

function parts.accuracy(self)
  return of_each_seed({ seeds = self.predicted }, function(predicted)
    local list = {}
    for i, label in ipairs(self.labels) do list[i] = label == predicted[i] and 1 or 0 end
    return list
  end)
end

function parts.nll(self)
  return of_each_seed(self, function(logits)
    local list = {}
    for i, row in ipairs(logits) do list[i] = logits_of.cross_entropy(row, self.labels[i]) end
    return list
  end)
end

function parts.brier(self)
  return of_each_seed(self, function(logits)
    local list = {}
    for i, row in ipairs(logits) do
      list[i] = 0.0
      for c, p in ipairs(logits_of.softmax(row)) do
        list[i] = list[i] + (p - (self.labels[i] == c - 1 and 1 or 0)) ^ 2
      end
    end
    return list
  end)
end

function parts.columns(self)
  return of_each_seed({ seeds = self.predicted }, function(predicted)
    return classification.average_columns(self.labels, predicted, #self.seeds[1][1])
  end)
end

--- A network's answers, of one training or of several of the same recipe.
---@param labels integer[] 0-based
---@param seeds number[][][] [training seed][image][class]: logits
---@return medxai.Judged
function endpoints.judged(labels, seeds)
  for s, logits in ipairs(seeds) do
    if #logits ~= #labels then
      check.fail("endpoints", "training %d judged %d images (expected %d, the number of labels).", s, #logits, #labels)
    end
  end
  return setmetatable({ labels = labels, seeds = seeds }, Judged)
end

local function check_pair(a, b)
  if #a.labels ~= #b.labels then
    check.fail("endpoints", "the networks judged different images (%d and %d).", #a.labels, #b.labels)
  end
end

-- The mean over the training seeds, image by image.
local function mean_of(lists)
  local out = {}
  for i in ipairs(lists[1]) do
    out[i] = 0.0
    for _, list in ipairs(lists) do out[i] = out[i] + list[i] / #lists end
  end
  return out
end

---@class medxai.Endpoint
---@field name string "auroc_macro", "auroc COVID-19", "accuracy" ...
---@field direction "higher"|"lower" which is better
---@field bounded boolean a share of 0 to 1
local Endpoint = {}

-- ---- areas ----------------------------------------------------------------------------------------------------------

local Macro = setmetatable({ direction = "higher", bounded = true }, { __index = Endpoint })
Macro.__index = Macro

function Macro.value(_, over, a, level) return delong.macro_area(a.macro, over, level) end

function Macro.difference(_, over, a, b)
  check_pair(a, b)
  return delong.macro_difference(a.macro, b.macro, over)
end

function Macro.influence(_, a, seed) return a.macros[seed].auc, a.macros[seed].influence end

local Area = setmetatable({ direction = "higher", bounded = true }, { __index = Endpoint })
Area.__index = Area

function Area:value(over, a, level) return delong.area(a.macro.per_class[self.class], over, level) end

function Area:difference(over, a, b)
  check_pair(a, b)
  return delong.difference(a.macro.per_class[self.class], b.macro.per_class[self.class], over)
end

function Area:influence(a, seed)
  local p, phi = a.macros[seed].per_class[self.class], {}
  for i, v in ipairs(p.placement) do
    phi[i] = (v - p.auc) * #p.placement / (p.is_positive[i] and p.positives or p.negatives)
  end
  return p.auc, phi
end

-- ---- means of values of single images -------------------------------------------------------------------------------

local Mean = setmetatable({}, { __index = Endpoint })
Mean.__index = Mean

function Mean:value(over, a, level) return over:mean(mean_of(a[self.name]), { level = level, hits = self.hits }) end

function Mean:difference(over, a, b)
  check_pair(a, b)
  local x, y = a[self.name], b[self.name]
  if self.hits and #x == 1 and #y == 1 then return accuracy.difference(over, x[1], y[1], self.name) end
  return over:difference(mean_of(x), mean_of(y), self.name)
end

function Mean:influence(a, seed)
  local list, mean, phi = a[self.name][seed], 0.0, {}
  for _, v in ipairs(list) do mean = mean + v / #list end
  for i, v in ipairs(list) do phi[i] = v - mean end
  return mean, phi
end

-- ---- functions of counts --------------------------------------------------------------------------------------------

local Average = setmetatable({ direction = "higher", bounded = true }, { __index = Endpoint })
Average.__index = Average

-- Adds the seeds' columns and what they are: the function returned is the sum of all terms added so far, each the mean
-- over its network's seeds, the second network's with sign -1.
local function joined(f, list, sign, columns, terms)
  for _, own in ipairs(list) do
    terms[#terms + 1] = { first = #columns, count = #own, weight = sign / #list }
    table.move(own, 1, #own, #columns + 1, columns)
  end
  return function(totals)
    local value, gradient = 0.0, {}
    for _, term in ipairs(terms) do
      local v, g = f(table.move(totals, term.first + 1, term.first + term.count, 1, {}))
      value = value + term.weight * v
      for d = 1, term.count do gradient[term.first + d] = term.weight * g[d] end
    end
    return value, gradient
  end
end

function Average:value(over, a, level)
  local columns = {}
  local f = joined(classification.averages[self.name], a.columns, 1, columns, {})
  return over:share(over:totals(columns, f), level)
end

-- Whether every training of both networks gives the same answers.
local function same_answers(a, b)
  local first = a.predicted[1]
  for _, network in ipairs { a, b } do
    for _, predicted in ipairs(network.predicted) do
      for i, class in ipairs(predicted) do
        if class ~= first[i] then return false end
      end
    end
  end
  return true
end

-- The paired studentized bootstrap: p is twice the smaller one-sided p.
function Average:difference(over, a, b)
  check_pair(a, b)
  local columns, terms, f = {}, {}, classification.averages[self.name]
  joined(f, a.columns, 1, columns, terms)
  local s = over:totals(columns, joined(f, b.columns, -1, columns, terms))
  local r, side = over:interval(s), over:one_sided(s, 0)
  r.narrow, r.p, r.test = over:interval(s, { level = 0.9 }), nan, "studentized bootstrap"
  if side.p_below == side.p_below then r.p = math.min(1, 2 * math.min(side.p_below, side.p_above)) end
  if same_answers(a, b) then
    r.status, r.p, r.low, r.high, r.narrow = "identical", 1.0, 0.0, 0.0, { low = 0.0, high = 0.0 }
  end
  return r
end

function Average:influence(a, seed)
  local columns, totals, phi = a.columns[seed], {}, {}
  for d, column in ipairs(columns) do
    totals[d] = 0
    for _, v in ipairs(column) do totals[d] = totals[d] + v end
  end
  local value, gradient = classification.averages[self.name](totals)
  for i = 1, #a.labels do
    phi[i] = 0.0
    for d, column in ipairs(columns) do phi[i] = phi[i] + #a.labels * gradient[d] * column[i] end
  end
  return value, phi
end

-- ---- by name --------------------------------------------------------------------------------------------------------

--- The names of all endpoints of these classes.
---@param classes string[]
---@return string[]
function endpoints.names(classes)
  local names = { "auroc_macro" }
  for _, class in ipairs(classes) do names[#names + 1] = "auroc " .. class end
  for _, name in ipairs { "accuracy", "balanced_accuracy", "macro_f1", "nll", "brier" } do names[#names + 1] = name end
  return names
end

--- One endpoint.
---@param name string one of endpoints.names
---@param classes string[] in label order
---@return medxai.Endpoint
function endpoints.of(name, classes)
  check.known("networks", "endpoint", name, endpoints.names(classes))
  if name == "auroc_macro" then return setmetatable({ name = name }, Macro) end
  for c, class in ipairs(classes) do
    if name == "auroc " .. class then return setmetatable({ name = name, class = c }, Area) end
  end
  if name == "accuracy" then
    return setmetatable({ name = name, hits = true, direction = "higher", bounded = true }, Mean)
  elseif name == "nll" or name == "brier" then
    return setmetatable({ name = name, direction = "lower", bounded = false }, Mean)
  end
  return setmetatable({ name = name }, Average)
end

--- What a network scores that knows nothing of an image: an area of 0.5; the share of the largest class; one over the
--- number of classes; log-likelihood and Brier score of equal probabilities. nil for F1, which has no such number.
---@param name string one of endpoints.names
---@param labels integer[] 0-based, of the judged images
---@param classes string[]
---@return number|nil
function endpoints.chance(name, labels, classes)
  if name:find "^auroc" then return 0.5 end
  if name == "balanced_accuracy" then return 1 / #classes end
  if name == "nll" then return math.log(#classes) end
  if name == "brier" then return 1 - 1 / #classes end
  if name ~= "accuracy" then return nil end
  local counts, most = {}, 0
  for _, label in ipairs(labels) do
    counts[label] = (counts[label] or 0) + 1
    most = math.max(most, counts[label])
  end
  return #labels > 0 and most / #labels or nil
end

-- ---- weights or recipe ----------------------------------------------------------------------------------------------

--- A table of units and training seeds whose means over the units are the seeds' values: value + U/n times the sum of
--- what the unit's images add (linearised; for a mean with one image per unit these are the values themselves). For
--- medxai.stats.components.
---@param endpoint medxai.Endpoint
---@param over medxai.Units
---@param a medxai.Judged
---@return number[][] [unit][seed]
function endpoints.by_seed(endpoint, over, a)
  local rows = {}
  for u = 1, over.count do rows[u] = {} end
  for s = 1, #a.seeds do
    local value, phi = endpoint:influence(a, s)
    for u = 1, over.count do rows[u][s] = value end
    for i, v in ipairs(phi) do
      local row = rows[over.unit[i]]
      row[s] = row[s] + over.count / over.n * v
    end
  end
  return rows
end

return endpoints
