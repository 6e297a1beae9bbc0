-- What a researcher's own code leaves behind: what a method returns beside its map, and the model's weights.
-- It refuses in words, before anything is written: one method's mistake is that method's failure and no broken file or
-- run.
local canon = require "medxai.base.json"
local check = require "medxai.base.check"
local torch = require "medxai.torch"

local returned = {}

local form = "expected a list over the images: { { facts = ... } }"
local statuses = { "all_negative", "flat", "nan", "ok", "saturated", "sign_undecided" } -- of a map that is there

local function is_status(word)
  for _, status in ipairs(statuses) do
    if status == word then return true end
  end
end

local function kind(v) return torch.is_tensor(v) and "a tensor" or "a " .. type(v) end

-- A copy of an image's facts, which the method may go on using, or nil and why not.
local function facts_of(facts)
  if type(facts) ~= "table" then
    return nil, string.format("returned %s as facts (expected name = value)", kind(facts))
  end
  local ok, text = pcall(canon.write, facts)
  if ok then return canon.read(text) end
  local fact = type(text) == "string" and text:match "^canon: (.-)%.?$"
  if not fact then error(text, 0) end -- memory
  return nil, "returned facts that are no plain data: " .. fact:gsub("at value", "at facts")
end

-- The same for tensors by name: each is a file "<image id>.<name>.npy" beside the map.
local function arrays_of(arrays)
  if type(arrays) ~= "table" then
    return nil, string.format("returned %s as arrays (expected name = tensor)", kind(arrays))
  end
  local copies = {}
  for _, name in ipairs(check.sorted_keys(arrays)) do
    local array = arrays[name]
    if type(name) ~= "string" or not name:find "^[%w_][%w_%-]*$" or name:find "^raw" then
      return nil, string.format("returned an array called '%s' (expected a plain name that does not begin with 'raw')",
        tostring(name))
    end
    if not torch.is_tensor(array) then
      return nil, string.format("returned %s as array '%s' (expected a tensor)", kind(array), name)
    end
    -- files know no bfloat16
    copies[name] = array.dtype == "bfloat16" and array:detach():to { dtype = "float32" } or array:detach():clone()
  end
  return copies
end

-- One image's extras, or nil and what is wrong.
local function one(extra, i)
  if type(extra) ~= "table" then
    return nil, string.format("returned %s as extras of image %d (expected { status =, facts =, arrays = })",
      kind(extra), i)
  end
  for _, key in ipairs(check.sorted_keys(extra)) do
    if key ~= "status" and key ~= "facts" and key ~= "arrays" then
      return nil, string.format("returned extras with the unknown name '%s' (expected status, facts or arrays)",
        tostring(key))
    end
  end
  local copy, why = { status = extra.status }, nil
  if extra.status ~= nil and not is_status(extra.status) then
    return nil, string.format("returned the status '%s' (expected %s or none)", tostring(extra.status),
      table.concat(statuses, ", "))
  end
  if extra.facts ~= nil then copy.facts, why = facts_of(extra.facts) end
  if extra.arrays ~= nil and not why then copy.arrays, why = arrays_of(extra.arrays) end
  if why then return nil, why end
  return copy
end

--- What a method returned beside the maps of `count` images, copied, or nil and what is wrong with it.
---@param extras any
---@param count integer
---@return table|nil extras list over the images of { status, facts, arrays }; nil where there are none
---@return string|nil why
function returned.extras(extras, count)
  if extras == nil then return nil end
  if type(extras) ~= "table" then
    return nil, string.format("returned %s as extras, its second value (%s). To return the first value alone: "
      .. "return (value)", kind(extras), form)
  end
  local copies = {}
  for _, i in ipairs(check.sorted_keys(extras)) do
    if math.type(i) ~= "integer" or i < 1 then
      return nil, string.format("returned extras with the name '%s' (%s)", tostring(i), form)
    end
    if i > count then
      return nil, string.format("returned extras of more images than the %d that it was given", count)
    end
    local copy, why = one(extras[i], i)
    if why then return nil, why end
    copies[i] = copy
  end
  return copies
end

--- Raises where own code wrote to the model: all that follows would be of other weights than the records say.
---@param word string "method" or "metric"
---@param name string
---@param model table
---@param version integer model:version() from before
function returned.same_weights(word, name, model, version)
  if model:version() == version then return end
  check.fail("explain", "%s '%s' changed the model's weights (expected them as they were: all maps and scores are "
    .. "of one model). Let it work on model:clone().", word, name)
end

return returned
