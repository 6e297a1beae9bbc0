-- Calls a metric on one map and checks what it returns: numbers, chance levels and reasons, one for each of its values.
-- It refuses to guess: what is undefined is NaN with a reason.
local check = require "medxai.base.check"
local torch = require "medxai.torch"

local nan = 0 / 0
local broken = { nan = true, saturated = true, failed = true, not_defined = true }

local function undefined(m, why, chance)
  local out = {}
  for i in ipairs(m.ids) do out[i] = { value = nan, chance = chance or nan, why = why } end
  return out
end

local function kind_of(v) return torch.is_tensor(v) and "a tensor, whose number is tensor:item()" or "a " .. type(v) end

local function is_infinite(v) return v == math.huge or v == -math.huge end

-- The i-th value's chance level: a number, or none.
local function chance_of(m, chance, i)
  if chance == nil then return nan end
  if type(chance) ~= "table" then
    check.fail("explain", "metric '%s' returned %s as chance (expected a list of numbers, as its values() says).",
      m.name, kind_of(chance))
  end
  if chance[i] ~= nil and type(chance[i]) ~= "number" then
    check.fail("explain", "metric '%s' returned %s as its level of chance (expected a number or nil).", m.name,
      kind_of(chance[i]))
  end
  if is_infinite(chance[i]) then
    check.fail("explain", "metric '%s' returned %s as its level of chance (expected a finite number or nil).", m.name,
      chance[i])
  end
  return chance[i] or nan
end

-- The i-th value and, where it is undefined, why: nil and what is not finite have no mean.
local function value_of(m, v, why)
  if v == nil then return nan, why or "undefined" end
  if type(v) ~= "number" then
    check.fail("explain", "metric '%s' returned %s (expected a number).", m.name, kind_of(v))
  end
  if is_infinite(v) then return nan, why or "infinite" end
  return v, v ~= v and (why or "not a number") or nil
end

-- How many values a list holds: nil may stand in it, but not at its end.
local function last_of(list)
  local last = 0
  for k in pairs(list) do last = math.type(k) == "integer" and math.max(last, k) or last end
  return last
end

--- Judges one map: one result for each value of the metric (entry.ids), NaN with a reason where it is undefined.
---@param m table from registry.entries
---@param map any tensor (H, W) float32 in [0, 1]
---@param ctx table see the top of score/registry.lua; status of the map
---@return table[] list of { value, chance, why }
return function(m, map, ctx)
  if broken[ctx.status] then return undefined(m, "map is " .. (ctx.status:gsub("_", " "))) end
  if m.mask and not ctx.mask then return undefined(m, "no mask") end
  if m.within and not ctx.within then return undefined(m, "no mask '" .. m.within .. "'") end
  if m.within and not ctx.within:any():item() then return undefined(m, "empty mask '" .. m.within .. "'") end
  local value, chance, why = m.definition.measure(m.own and map:clone() or map, ctx, m.options)
  if why ~= nil and type(why) ~= "string" then
    check.fail("explain", "metric '%s' returned %s as its reason (expected a text).", m.name, kind_of(why))
  end
  if value == nil then return undefined(m, why or "undefined", type(chance) == "number" and chance or nil) end
  if not m.names then value, chance = { value }, { chance } end
  local count = type(value) == "table" and last_of(value)
  if count ~= #m.ids then
    check.fail("explain", "metric '%s' returned %s (expected %d number%s).", m.name,
      count and count .. " values" or kind_of(value), #m.ids, #m.ids == 1 and "" or "s, as its values() says")
  end
  local out = {}
  for i in ipairs(m.ids) do
    local v, reason = value_of(m, value[i], why)
    out[i] = { value = v, chance = chance_of(m, chance, i), why = reason }
  end
  return out
end
