-- The methods of an explanation: `methods = { "gradcam", lime = { samples = 1000 }, my_map = f }` becomes a list of checked
-- entries. A method is a table { title, version, at = "layer" | "input", needs = {...}, sign, options, map = function(ctx,
-- x, target, options) -> raw (N, h, w), draw = function(page) for figures of its own (gallery.lua) }; a researcher may give
-- just a function(x, model, target) -> (H, W).
-- It refuses unknown names and options before anything is computed.
local check = require "medxai.check"
local plugin = require "medxai.plugin"

local method = {}

-- What every entry takes besides the method's own options.
local shared = {
  layer = { "string|table", field = false },
  target = { "string|integer|table", field = false },
}

local function from_function(name, f, source)
  return { name = name, title = name, version = 0, at = "input", sign = "signed", own = true, source = source, options = {}, one_by_one = true,
    map = function(ctx, x, target) return f(x, ctx.model, target) end }
end

-- A method file's table, checked.
local function from_table(name, t, source)
  if type(t.map) ~= "function" then check.fail("explain", "method '%s' has no map (expected map = function(ctx, x, target, options)).", name) end
  if t.at ~= nil and t.at ~= "layer" and t.at ~= "input" then check.fail("explain", "method '%s': at is 'layer' or 'input' (got '%s').", name, tostring(t.at)) end
  if t.draw ~= nil and type(t.draw) ~= "function" then check.fail("explain", "method '%s': draw is a %s (expected draw = function(page)).", name, type(t.draw)) end
  local needs = t.needs or {}
  return { name = name, title = t.title or name, version = t.version or 0, at = t.at or "input", sign = t.sign or "signed", own = source ~= nil, source = source,
    options = t.options or {}, needs = needs, map = t.map, draw = t.draw, rng = t.rng, baseline = t.baseline }
end

local function build(name, value)
  if type(value) == "function" then return from_function(name, value, plugin.source_of(value)) end
  local found, source = plugin.find("explain", "explain", "method", name)
  if type(found) == "function" then return from_function(name, found, source) end
  if type(found) ~= "table" then check.fail("explain", "'%s.lua' returns a %s (expected a function(x, model, target) or a method table).", name, type(found)) end
  return from_table(name, found, source)
end

-- One entry: the method, its own options, layer and target where they differ from the call's.
local function entry(name, value)
  local m = build(name, value)
  local spec = {}
  for key, rule in pairs(m.options) do spec[key] = rule end
  for key, rule in pairs(shared) do spec[key] = rule end
  local given = type(value) == "table" and value or {}
  local options = check.options(name, given, spec)
  local layer, target = options.layer, options.target
  options.layer, options.target = nil, nil
  if m.at == "input" and layer then check.fail("explain", "method '%s' works on the input and takes no layer.", name) end
  return { method = m, options = options, layer = layer, target = target }
end

local function without_name(t)
  local rest = {}
  for k, v in pairs(t) do
    if k ~= 1 then rest[k] = v end
  end
  return rest
end

--- The entries of a `methods` table, in its order (the list part, then names sorted).
---@param methods table
---@return table[] entries { method, options, layer, target }
function method.entries(methods)
  local entries = {}
  for _, key in ipairs(check.sorted_keys(methods)) do
    local value = methods[key]
    if type(key) == "string" then
      if value ~= true and type(value) ~= "table" and type(value) ~= "function" then
        check.fail("explain", "method '%s' takes a table of options or a function (got %s).", key, type(value))
      end
      entries[#entries + 1] = entry(key, value)
    elseif type(value) == "string" then
      entries[#entries + 1] = entry(value, nil)
    elseif type(value) == "table" and type(value[1]) == "string" then
      entries[#entries + 1] = entry(value[1], without_name(value))
    else
      check.fail("explain", "methods holds names, { name, option = value } or name = function (got %s at %s).", type(value), tostring(key))
    end
  end
  if #entries == 0 then check.fail("explain", "no methods (expected methods = { \"gradcam\", ... }).") end
  return entries
end

return method
