-- What is explained: one number per image made of the network's output. A target is written by name ("predicted",
-- "true", a class, "contrast(a, b)"), fixed once per image on the unaugmented input, and from then on the same for all
-- layers, methods, augmentations and metrics of that map. A probability near 1 keeps the digits of 1 - p: it is made of
-- its log-odds, the class' logit less the log-sum-exp of the others, in float64. Its gradients and its changes then
-- keep theirs too, where softmax in float32 has none left. It refuses a class that the model does not have, and "true"
-- for an image without a label.
local argmax = require("medxai.stats.logits").argmax
local check = require "medxai.base.check"
local Options = require "medxai.base.options"
local suggest = require "medxai.base.suggest"
local torch = require "medxai.torch"

local target = {}

target.spec = {
  as = { one_of = { "logit", "sigmoid", "softmax" },
    doc = "the score: logit, or probability; default: the method's own (logit)" },
  what = { "string|integer", default = "predicted", doc = "\"predicted\", \"true\", a class, or \"contrast(a, b)\"" },
}

---@class medxai.Target one image's target
---@field kind string "predicted" | "true" | "class" | "contrast"
---@field as string "logit" | "softmax"
---@field index integer 0-based class that is explained
---@field class string its name
---@field against_index integer? contrast only: the class that is subtracted
---@field against string?
---@field logit number of the class (of the difference, for a contrast), as the network gave it
---@field probability number softmax of the class
---@field predicted integer 0-based class with the largest logit
---@field confidence number softmax of the predicted class

-- A class by its name or its 0-based index (as labels are in tensors).
local function class_index(word, classes)
  for k, name in ipairs(classes) do
    if name == word then return k - 1 end
  end
  local index = math.tointeger(tonumber(word))
  if index then
    if index >= 0 and index < #classes then return index end
    check.fail("explain", "target class %d is out of range (the model has classes 0 to %d: %s).", index, #classes - 1,
      table.concat(classes, ", "))
  end
  check.fail("explain", "unknown target '%s'. Write predicted, true, contrast(a, b) or a class: %s.%s", tostring(word),
    table.concat(classes, ", "), suggest.near(tostring(word), classes))
end

local function trim(s) return (s:gsub("^%s+", ""):gsub("%s+$", "")) end

-- "contrast(a, b)": class names may hold commas, so every comma is tried.
local function contrast_pair(text, classes)
  local inner = text:match("^contrast%s*%((.*)%)$")
  if not inner then return nil end
  local known = {}
  for _, name in ipairs(classes) do known[name] = true end
  local first_a, first_b
  for at in inner:gmatch("(),") do
    local a, b = trim(inner:sub(1, at - 1)), trim(inner:sub(at + 1))
    first_a, first_b = first_a or a, first_b or b
    if (known[a] or tonumber(a)) and (known[b] or tonumber(b)) then return a, b end
  end
  if not first_a then check.fail("explain", "a contrast has two classes (expected contrast(a, b), got '%s').", text) end
  return first_a, first_b
end

local function parsed(spec, classes, usual)
  local as = usual or "logit"
  if type(spec) == "table" then
    local options = Options.check("target", { as = spec.as, what = spec[1] }, target.spec)
    for _, key in ipairs(check.sorted_keys(spec)) do
      if key ~= 1 and key ~= "as" then
        check.fail("target", "unknown option '%s'. Write { \"predicted\", as = \"softmax\" }.", tostring(key))
      end
    end
    spec, as = options.what, options.as or as
  end
  if spec == nil then spec = "predicted" end
  if type(spec) ~= "string" and not math.tointeger(spec) then
    check.fail("explain", "target is a name or a class index (got %s).", type(spec))
  end
  if spec == "predicted" or spec == "true" then return { kind = spec, as = as, text = spec .. " (" .. as .. ")" } end
  if not classes then return { kind = "class", as = as, text = tostring(spec) } end
  if type(spec) == "string" then
    local a, b = contrast_pair(spec, classes)
    if a then
      local ia, ib = class_index(a, classes), class_index(b, classes)
      if ia == ib then
        check.fail("explain", "a contrast needs two different classes (got '%s' twice).", classes[ia + 1])
      end
      return { kind = "contrast", as = as, index = ia, against_index = ib,
        text = string.format("contrast(%s, %s) (%s)", classes[ia + 1], classes[ib + 1], as) }
    end
  end
  local index = class_index(spec, classes)
  return { kind = "class", as = as, index = index, text = classes[index + 1] .. " (" .. as .. ")" }
end

--- Reads a target as an experiment writes it: a string or class index, or { that, as = "softmax" }.
---@param spec string|integer|table|nil
---@param classes? string[] names; nil leaves class names unchecked (planning, before the model is built)
---@param usual? string "logit" (default) or "softmax": where the spec does not say
---@param outputs? "softmax"|"sigmoid" of the model: what a probability is
---@return table description
function target.parse(spec, classes, usual, outputs)
  local description = parsed(spec, classes, usual)
  if description.as == "softmax" and outputs == "sigmoid" then description.as = "sigmoid"
  elseif description.as == "sigmoid" and outputs ~= "sigmoid" and outputs then
    check.fail("target", "as = \"sigmoid\" is of a model with outputs = \"sigmoid\". Write as = \"softmax\".")
  end
  description.text = description.text:gsub("%(softmax%)$", "(" .. description.as .. ")")
  description.outputs = outputs == "sigmoid" and outputs or nil
  return description
end

local Targets = {}
Targets.__index = Targets

-- The finding that an image has; of several the experiment names the one that is meant.
local function only_finding(item, classes)
  local found, names = nil, {}
  for k, y in ipairs(item.findings) do
    if y == 1 then found, names[#names + 1] = k - 1, classes[k] end
  end
  if #names == 1 then return found end
  check.fail("explain", "target 'true' needs an image of one finding, but '%s' has %s. Name a finding: target "
    .. "= \"%s\".", tostring(item.path), #names == 0 and "none that is known"
    or #names .. " (" .. table.concat(names, ", ") .. ")", names[1] or classes[1])
end

--- Fixes the target of every image of a batch.
---@param description table from target.parse
---@param logits any tensor (N, K), the network's output on the unaugmented images
---@param items table[] with label (0-based or nil) and path
---@param classes string[]
---@return table targets list of medxai.Target with :score(logits)
function target.fix(description, logits, items, classes)
  local rows = logits:detach():to { device = "cpu", dtype = "float64" }
  local values = rows:tolist()
  local shares = (description.outputs == "sigmoid" and torch.sigmoid(rows) or torch.softmax(rows, 1)):tolist()
  local top_of = argmax(values)
  local fixed = {}
  for i, row in ipairs(values) do
    local t = { kind = description.kind, as = description.as, index = description.index,
      against_index = description.against_index }
    local top = top_of[i] + 1
    if t.kind == "predicted" then t.index = top - 1 end
    t.outputs = description.outputs
    if t.kind == "true" then
      t.index = items[i].findings and only_finding(items[i], classes) or items[i].label
      if not t.index then
        check.fail("explain", "target 'true' needs a label, but '%s' has none.", tostring(items[i].path))
      end
    end
    t.class = classes[t.index + 1]
    t.logit = row[t.index + 1]
    t.probability = shares[i][t.index + 1]
    if t.against_index then
      t.against = classes[t.against_index + 1]
      t.logit = t.logit - row[t.against_index + 1]
    end
    t.predicted, t.confidence = top - 1, shares[i][top]
    fixed[i] = t
  end
  return target.batch(fixed)
end

--- A list of targets as one object; with one image its fields (class, index, logit ...) are the image's.
function target.batch(list)
  local batch = { table.unpack(list) }
  if #list == 1 then
    for k, v in pairs(list[1]) do batch[k] = v end
  end
  return setmetatable(batch, Targets)
end

-- ---- scores ---------------------------------------------------------------------------------------------------------

-- log(p / (1 - p)) of one class of each row in float64: (n, K) and (n, 1) class indices -> (n). Of a finding its logit.
local function log_odds(logits, index, as)
  local z = logits:to { dtype = "float64" }
  if as == "sigmoid" then return z:gather(1, index):squeeze(1) end
  local own = torch.arange(0, z:size(1), { device = z.device }):unsqueeze(0):eq(index)
  return z:gather(1, index):squeeze(1) - z:masked_fill(own, -math.huge):logsumexp({ 1 })
end

-- One class of each row as the target's kind of number: a logit in the logits' own precision, a probability in float64.
local function output(logits, index, as)
  if as ~= "softmax" and as ~= "sigmoid" then return logits:gather(1, index):squeeze(1) end
  if as == "softmax" and logits:size(1) == 1 then
    return torch.softmax(logits:to { dtype = "float64" }, 1):squeeze(1)
  end
  -- its gradient p (1 - p) has no difference of near numbers
  return torch.log_sigmoid(log_odds(logits, index, as)):exp()
end

-- (n, 1) class indices on the logits' device: the same for all rows, or each image's own.
local function one_class(class, logits)
  return torch.full({ logits:size(0), 1 }, class, { dtype = "int64", device = logits.device })
end

local function own_class(self, key, logits)
  local index = {}
  for i = 1, #self do index[i] = { self[i][key] } end
  return torch.tensor(index, { dtype = "int64" }):to { device = logits.device }
end

--- One class' logit or probability for every row of logits, differentiable: (n, K) -> (n).
---@param logits any
---@param class integer from 0
---@param as string "logit" | "softmax" | "sigmoid"
function target.output(logits, class, as) return output(logits, one_class(class, logits), as) end

--- The explained number of every image, differentiable: (N, K) -> (N).
function Targets:score(logits)
  local shape = logits.shape
  if #shape ~= 2 or shape[1] ~= #self then
    check.fail("target", "score takes the logits of its %d images (expected (%d, classes), got (%s)).", #self, #self,
      table.concat(shape, ", "))
  end
  local score = output(logits, own_class(self, "index", logits), self[1].as)
  if self[1].against_index then score = score - output(logits, own_class(self, "against_index", logits), self[1].as) end
  return score
end

--- The i-th image's target for every row of logits that perturbed copies of it gave: (n, K) -> (n).
---@param i integer
function Targets:score_of(i, logits)
  local t = self[i]
  local score = target.output(logits, t.index, t.as)
  return t.against_index and score - target.output(logits, t.against_index, t.as) or score
end

-- By how much a class' number exceeds that of the row `from`, (1, K); a probability above one half by what 1 - p loses.
local function change(logits, from, class, as)
  if as ~= "sigmoid" and (as ~= "softmax" or logits:size(1) == 1) then
    local function exact(z) return target.output(z:to { dtype = "float64" }, class, as) end
    return exact(logits) - exact(from)
  end
  local now, before = log_odds(logits, one_class(class, logits), as), log_odds(from, one_class(class, from), as)
  if before:item() > 0 then return torch.sigmoid(-before) - torch.sigmoid(-now) end
  return torch.sigmoid(now) - torch.sigmoid(before)
end

--- The i-th image's target for every row of logits less that for one row, in float64, without a loss of digits where p
--- is near 1: (n, K) -> (n).
---@param i integer
---@param logits any (n, K)
---@param from any (1, K)
function Targets:change_of(i, logits, from)
  local t = self[i]
  local by = change(logits, from, t.index, t.as)
  return t.against_index and by - change(logits, from, t.against_index, t.as) or by
end

-- ---- how much a score can say ---------------------------------------------------------------------------------------

-- p and 1 - p of a class of one row of logits, each to full relative precision.
local function shares(row, class)
  local top, sum = -math.huge, 0.0
  for k, z in ipairs(row) do
    if k - 1 ~= class then top = math.max(top, z) end
  end
  for k, z in ipairs(row) do
    if k - 1 ~= class then sum = sum + math.exp(z - top) end
  end
  local odds = math.exp(row[class + 1] - top) / sum -- p / (1 - p)
  if odds == math.huge then return 1.0, 0.0 end
  return odds / (1 + odds), 1 / (1 + odds)
end

-- p (1 - p) of a logit.
local function sigmoid_slope(z)
  local e = math.exp(-math.abs(z))
  return e / ((1 + e) * (1 + e))
end

--- The largest derivative of a target by a logit: 1 of a logit, p (1 - p) of a probability.
---@param t medxai.Target
---@param row number[] logits
function target.slope(t, row)
  if t.as == "sigmoid" then
    local slope = sigmoid_slope(row[t.index + 1])
    return t.against_index and math.max(slope, sigmoid_slope(row[t.against_index + 1])) or slope
  end
  if t.as ~= "softmax" or #row == 1 then return 1.0 end
  local p, rest = shares(row, t.index)
  if not t.against_index then return p * rest end
  local q, others = shares(row, t.against_index)
  return math.max(p * (rest + q), q * (others + p))
end

--- The slope under which gradients of a probability leave the range of the network's numbers: above it, gradients of a
--- logit down to 1e-9 stay normal numbers when multiplied with the slope.
function target.least_slope(dtype) return dtype == "float64" and 0x1p-990 or 0x1p-96 end

-- Forward passes of one image, in batches of other sizes, differ by up to so much of the largest logit: 64 units in its
-- last place; of bfloat16, whose deviation is told apart, 2.
local blur_of = { float64 = 0x1p-47, float32 = 0x1p-18, bfloat16 = 0x1p-8 }

--- "flat" where scores of perturbed copies of an image differ by rounding alone: nothing moves the target. "saturated"
--- where that is so because the probability is too near 0 or 1 to be told from it. nil where something moves it.
---@param t medxai.Target
---@param row number[] logits of the image itself
---@param scores number[]
---@param dtype string what the passes were computed in
---@return "flat"|"saturated"|nil
function target.unmoved(t, row, scores, dtype)
  local largest, slope, lowest, highest = 0.0, target.slope(t, row), math.huge, -math.huge
  for _, z in ipairs(row) do largest = math.max(largest, math.abs(z)) end
  for _, score in ipairs(scores) do
    if score ~= score then return nil end
    lowest, highest = math.min(lowest, score), math.max(highest, score)
  end
  local blur = (blur_of[dtype] or blur_of.float32) * largest * slope
    + 0x1p-50 * math.max(math.abs(lowest), math.abs(highest)) -- the scores' own rounding in float64
  if not (highest - lowest <= blur) then return nil end
  return (t.as == "softmax" or t.as == "sigmoid") and slope < 1e-12 and "saturated" or "flat"
end

--- The targets of images numbers[1], numbers[2] ... as one object.
function Targets:select(numbers)
  local list = {}
  for k, i in ipairs(numbers) do list[k] = self[i] end
  return target.batch(list)
end

--- "COVID-19, p = 0.93" for figures and tables.
function target.label(t)
  if t.against then return string.format("%s minus %s, %+.2f", t.class, t.against, t.logit) end
  return string.format("%s, p = %.2f", t.class, t.probability)
end

return target
