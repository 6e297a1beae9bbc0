-- What is explained: one number per image made of the network's output. A target is written by name ("predicted",
-- "true", a class, "contrast(a, b)"), fixed once per image on the unaugmented input, and from then on the same for all
-- layers, methods, augmentations and metrics of that map.
-- It refuses a class that the model does not have, and "true" for an image without a label.
local check = require "medxai.check"
local torch = require "medxai.torch"

local target = {}

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
    check.fail("explain", "target class %d is out of range (the model has classes 0 to %d: %s).", index, #classes - 1, table.concat(classes, ", "))
  end
  check.fail("explain", "unknown target '%s'. Write predicted, true, contrast(a, b) or a class: %s.%s", tostring(word), table.concat(classes, ", "),
    check.nearest(tostring(word), classes)[1] and (" Did you mean '" .. check.nearest(tostring(word), classes)[1] .. "'?") or "")
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

--- Reads a target as an experiment writes it: a string or class index, or { that, as = "softmax" }.
---@param spec string|integer|table|nil
---@param classes? string[] names; nil leaves class names unchecked (planning, before the model is built)
---@param usual? string "logit" (default) or "softmax": where the spec does not say
---@return table description
function target.parse(spec, classes, usual)
  local as = usual or "logit"
  if type(spec) == "table" then
    local options = check.options("target", { as = spec.as, what = spec[1] },
      { as = { one_of = { "logit", "softmax" }, default = as }, what = { "string|integer", default = "predicted" } })
    for _, key in ipairs(check.sorted_keys(spec)) do
      if key ~= 1 and key ~= "as" then check.fail("target", "unknown option '%s'. Write { \"predicted\", as = \"softmax\" }.", tostring(key)) end
    end
    spec, as = options.what, options.as
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
      if ia == ib then check.fail("explain", "a contrast needs two different classes (got '%s' twice).", classes[ia + 1]) end
      return { kind = "contrast", as = as, index = ia, against_index = ib,
        text = string.format("contrast(%s, %s) (%s)", classes[ia + 1], classes[ib + 1], as) }
    end
  end
  local index = class_index(spec, classes)
  return { kind = "class", as = as, index = index, text = classes[index + 1] .. " (" .. as .. ")" }
end

-- The position of the first largest value (1-based); NaN never wins.
local function argmax(row)
  local best = 1
  for k = 2, #row do
    if row[k] > row[best] or row[best] ~= row[best] then best = k end
  end
  return best
end

local Targets = {}
Targets.__index = Targets

--- Fixes the target of every image of a batch.
---@param description table from target.parse
---@param logits any tensor (N, K), the network's output on the unaugmented images
---@param items table[] with label (0-based or nil) and path
---@param classes string[]
---@return table targets list of medxai.Target with :score(logits)
function target.fix(description, logits, items, classes)
  local rows = logits:detach():to { device = "cpu", dtype = "float64" }
  local values, shares = rows:tolist(), torch.softmax(rows, 1):tolist()
  local fixed = {}
  for i, row in ipairs(values) do
    local t = { kind = description.kind, as = description.as, index = description.index, against_index = description.against_index }
    local top = argmax(row)
    if t.kind == "predicted" then t.index = top - 1 end
    if t.kind == "true" then
      t.index = items[i].label
      if not t.index then check.fail("explain", "target 'true' needs a label, but '%s' has none.", tostring(items[i].path)) end
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

-- (N, 1) column of class indices on the logits' device.
local function column(self, key, logits)
  local index = {}
  for i = 1, #self do index[i] = { self[i][key] } end
  return torch.tensor(index, { dtype = "int64" }):to { device = logits.device }
end

--- The explained number of every image, differentiable: (N, K) -> (N).
function Targets:score(logits)
  local shape = logits.shape
  if #shape ~= 2 or shape[1] ~= #self then
    check.fail("target", "score takes the logits of its %d images (expected (%d, classes), got (%s)).", #self, #self, table.concat(shape, ", "))
  end
  local y = self[1].as == "softmax" and torch.softmax(logits, 1) or logits
  local score = y:gather(1, column(self, "index", logits))
  if self[1].against_index then score = score - y:gather(1, column(self, "against_index", logits)) end
  return score:squeeze(1)
end

--- The i-th image's target for every row of logits that perturbed copies of it gave: (n, K) -> (n).
---@param i integer
function Targets:score_of(i, logits)
  local y = self[i].as == "softmax" and torch.softmax(logits, 1) or logits
  local score = y:select(1, self[i].index)
  if self[i].against_index then score = score - y:select(1, self[i].against_index) end
  return score
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
