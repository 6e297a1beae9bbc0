-- The methods of an explanation: `methods = { "gradcam", lime = { samples = 1000 }, my_map = f }` becomes a list of
-- checked entries. A method is a file in explain/methods/, or beside the experiment, that returns a table:
--   title, paper, version   its numbers are kept under its version
--   at                  "layer" or "input": what it explains
--   sign                "signed", "nonnegative" or "magnitude"
--   map                 function(ctx, x, targets, options) -> raw (N, h, w) [, extras]; see context.lua
--   options             name -> rule (base/options.lua); check = function(options) may refuse and complete them
--   needs               { gradient = true, base = true }: what the forward pass keeps
--   one_by_one          true: map is called with one image at a time
--   smoothing           { aug_smooth = true, eigen_smooth = true }: which of these it supports
--   derivative          true where the raw map is a derivative of the target by the input
--   rng                 "name@1": the purpose of its random numbers, where it draws any
--   as                  "softmax" where it explains probabilities
--   honesty             facts of a record that its map is to be read with (diagnostics.lua)
--   masks               function(options) -> names of the data's masks that it reads (an own method without it: any)
--   picture             "overlay", "detail" (fine signed lines) or "masked" (the image under the map)
--   draw                a module of room show that draws figures of its own; an own method: function(page)
-- A researcher may give just a function(x, model, target) -> (H, W). A name is taken as people write it: gradcam++ is
-- gradcam_plus_plus, Grad-CAM is gradcam. Unknown names and options, and a method file that does not say what it
-- should, are errors before anything is computed.
local check = require "medxai.base.check"
local Options = require "medxai.base.options"
local code = require "medxai.base.fingerprint"
local files = require "medxai.base.files"
local host = require "medxai.host"
local named = require "medxai.base.named"
local plugin = require "medxai.base.plugin"

local method = {}

-- What every entry takes besides the method's own options; smoothing where the method declares it.
local shared = {
  layer = { "string|table", lua = "string|string[]",
    doc = "a node's name, or a list (the mean of their maps); default: the call's layer" },
  target = { "string|integer|table", lua = "medxai.Target.Spec",
    doc = "what is explained; default: the call's target" },
  compat = { one_of = { "pytorch-grad-cam" }, doc = "what that library computes where it differs from the paper" },
  budget_mb = { "number", above = 0, unit = "MB", doc = "memory for chunks; default: the call's" },
}
local smoothings = { "aug_smooth", "eigen_smooth" }
local smoothing_docs = {
  aug_smooth = "the mean map of six views (flips, input x 0.9, 1, 1.1)",
  eigen_smooth = "the first principal component of the channels instead of their sum",
}

local function from_function(name, f, source)
  return { name = name, title = name, version = 0, at = "input", sign = "signed", own = true, source = source,
    options = {}, smoothing = {}, needs = {}, one_by_one = true, masks = function() return {} end,
    map = function(ctx, x, target) return f(x, ctx.model, target) end }
end

local kinds = { title = "string", paper = "string", sign = "string", picture = "string", rng = "string", as = "string",
  options = "table", needs = "table", smoothing = "table", honesty = "table", derivative = "boolean",
  check = "function", approximate = "function",
    masks = "function" }

-- A method file's table, checked.
local function from_table(name, t, source)
  local subject = string.format("method '%s'", name)
  check.kinds("explain", subject, t, kinds)
  Options.check_spec("explain", subject, t.options or {})
  if type(t.map) ~= "function" then
    check.fail("explain", "method '%s' has no map (expected map = function(ctx, x, target, options)).", name)
  end
  if t.at ~= nil and t.at ~= "layer" and t.at ~= "input" then
    check.fail("explain", "method '%s': at is 'layer' or 'input' (got '%s').", name, tostring(t.at))
  end
  if t.draw ~= nil and type(t.draw) ~= "function" and source then
    check.fail("explain", "method '%s': draw is a %s (expected draw = function(page)).", name, type(t.draw))
  end
  local needs = t.needs or {}
  return { name = name, title = t.title or name, version = t.version or 0, at = t.at or "input",
    sign = t.sign or "signed", own = source ~= nil, source = source,
    options = t.options or {}, needs = needs, map = t.map, rng = t.rng, baseline = t.baseline, paper = t.paper,
    smoothing = t.smoothing or {}, cut = t.cut, once = t.once, draw = t.draw, picture = t.picture, honesty = t.honesty,
    as = t.as, one_by_one = t.one_by_one, check = t.check, approximate = t.approximate, masks = t.masks,
    derivative = t.derivative }
end

local function bare(name) return (name:lower():gsub("%+", "plus"):gsub("[^%w]", "")) end

-- The library's name for what somebody wrote: letter case, hyphens and "++" do not matter.
local function library_name(name)
  for _, known in ipairs(plugin.names("explain/methods")) do
    if bare(known) == bare(name) then return known end
  end
  return name
end

--- A method for reading: the title of the library's ("Grad-CAM" of gradcam), any other name as it is.
---@param name string as tables have it
---@return string
function method.title(name)
  for _, known in ipairs(plugin.names("explain/methods")) do
    if known == name then return require("medxai.explain.methods." .. name).title or name end
  end
  return name
end

-- A function's name is the researcher's own, and its maps' folder is called after it.
local function check_folder_name(name)
  if name ~= "" and #name <= 100 and not name:find "^%." and not name:find "[%c/\\]" then return end
  check.fail("explain", "a method's name is that of its maps' folder (expected 1 to 100 letters, digits, '_', '-' "
    .. "or '.', the first no '.', got '%s').", name)
end

-- The library's method is not taken for a researcher's file that is called as people write it too.
local function check_own_file(written, name)
  local path = written .. ".lua"
  if written == name or written:find "/" or not files.exists((host.script_dir or ".") .. "/" .. path) then return end
  check.fail("explain", "'%s' is the library's %s, but '%s' lies beside the experiment too. Write %s, or give your "
    .. "file another name.", written, name, path, name)
end

local function build(name, value)
  if type(value) == "function" then
    check_folder_name(name)
    return from_function(name, value, code.of_function(value))
  end
  local written = name
  name = library_name(written)
  check_own_file(written, name)
  if name:find("[^%w_%-%.]") then check.known("explain", "method", name, plugin.names("explain/methods")) end
  local found, source = plugin.find("explain", "explain/methods", "method", name)
  if type(found) == "function" then return from_function(name, found, source) end
  if type(found) ~= "table" then
    check.fail("explain", "'%s.lua' returns a %s (expected a function(x, model, target) or a method table).", name,
      type(found))
  end
  return from_table(name, found, source)
end

--- The options of a method in a list of methods: its own, and those that it shares with all.
---@param m table the method
---@return table spec
---@return table<string, boolean> common the names of those that are not its own
function method.spec(m)
  local spec, common = {}, {}
  for key, rule in pairs(shared) do
    if key ~= "layer" or m.at ~= "input" then spec[key], common[key] = rule, true end
  end
  for _, key in ipairs(smoothings) do
    if (m.smoothing or {})[key] then spec[key], common[key] = { "boolean", doc = smoothing_docs[key] }, true end
  end
  for key, rule in pairs(m.options or {}) do spec[key], common[key] = rule, nil end
  return spec, common
end

-- One entry: the method, its own options, and layer, target, compat, memory budget and smoothing where they differ from
-- the call's.
local function entry(name, value)
  local m = build(name, value)
  local spec, common = method.spec(m)
  if m.at == "input" then spec.layer, common.layer = shared.layer, true end -- for an error of its own
  local options = Options.check(m.name, type(value) == "table" and value or {}, spec)
  local e = { method = m, options = options }
  for key in pairs(common) do e[key], options[key] = options[key], nil end
  if m.check then m.check(options) end
  if m.at == "input" and e.layer then
    check.fail("explain", "method '%s' works on the input and takes no layer.", m.name)
  end
  return e
end

--- Fills in what an entry leaves to the call: compat, aug_smooth and eigen_smooth (where the method can be smoothed).
---@param e table
---@param asked table the call's options
function method.complete(e, asked)
  e.compat = e.compat or asked.compat
  for _, key in ipairs(smoothings) do
    if e[key] == nil then e[key] = (e.method.smoothing[key] and asked[key]) or false end
  end
end

--- The entries of a `methods` table, in its order (the list part, then names sorted).
---@param methods table
---@return table[] entries { method, options, layer, target, compat, aug_smooth, eigen_smooth }
function method.entries(methods)
  local entries = {}
  for i, m in ipairs(named.members(methods)) do
    if not m.name then
      check.fail("explain", "methods holds names, { name, option = value } or name = function (got %s at %s).",
        type(m.given), tostring(m.key))
    elseif m.keyed and m.value ~= true and type(m.value) ~= "table" and type(m.value) ~= "function" then
      local first = type(methods) == "table" and methods[1]
      check.fail("explain", "method '%s' takes a table of options or a function (got %s).%s", m.name, type(m.value),
        type(first) == "string" and (" An option of %s stands within its own braces: methods = { { \"%s\", %s "
          .. "= %s } }."):format(
          first, first, m.name, tostring(m.value)) or "")
    end
    entries[i] = entry(m.name, m.value)
  end
  if #entries == 0 then check.fail("explain", "no methods (expected methods = { \"gradcam\", ... }).") end
  return entries
end

return method
