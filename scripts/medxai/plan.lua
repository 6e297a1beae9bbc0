-- The planning pass: before the first training starts, the experiment file is run once more from its top with every step
-- (fit, evaluate, explain, report) reduced to checking its options, so that a misspelt method after eight hours of
-- training is found now. Models and data sets that exist already are handed out again; others are checked and replaced by
-- a placeholder that answers anything. Output is silent, files are not written, and the pass is cut off after two seconds.
-- Only mistakes in options and names count, with their own line; whatever else goes wrong here is no proof of anything.
local check = require "medxai.check"
local host = require "medxai.host"

-- reusing: constructors of data sets hand out the one of the same options again (a grid's cells share their data)
local plan = { active = false, reusing = false }

local seconds_allowed = 2.0
local done = false
local built = {} -- kind and options as text -> object, weak
setmetatable(built, { __mode = "v" })

local stop = setmetatable({}, { __tostring = function() return "the planning pass ends here" end })

-- ---- placeholder ----------------------------------------------------------------------------------------------------

local placeholder = setmetatable({}, { __name = "medxai.placeholder" })
do
  local meta = getmetatable(placeholder)
  local function itself() return placeholder end
  for event in ("add sub mul div mod pow unm idiv band bor bxor bnot shl shr"):gmatch("%a+") do meta["__" .. event] = itself end
  meta.__index = function(_, key) if type(key) ~= "number" then return placeholder end end -- ipairs ends at once
  meta.__newindex = function() end
  meta.__call = itself
  meta.__len = function() return 0 end
  meta.__concat = function(a, b) return (a == placeholder and "?" or a) .. (b == placeholder and "?" or b) end
  meta.__tostring = function() return "?" end
  meta.__lt = function() return false end
  meta.__le = function() return false end
  meta.__pairs = function() return next, {}, nil end
  meta.__close = function() end
end

--- What a step returns while planning: answers any index, call and arithmetic with itself.
plan.placeholder = placeholder

--- Runs a step's own checks; every error of `check` inside them counts.
function plan.checking(f, ...)
  local ok, problem = pcall(f, ...)
  if ok then return end
  if problem == check.last then check.mistake = problem end
  error(problem, 0)
end

-- ---- constructors -----------------------------------------------------------------------------------------------------

-- A function counts by its code and what it holds on to: the experiment's second pass makes a new function of the same.
local function plain(value)
  if type(value) == "function" then return "code " .. require("medxai.code").of_function(value) end
  if type(value) ~= "table" then return value end
  local copy = {}
  for k, v in pairs(value) do copy[k] = plain(v) end
  return copy
end

local function key_of(kind, options)
  local ok, text = pcall(function() return require("medxai.canon").write(plain(options or {})) end)
  local labels = type(options) == "table" and options.labels or (host.fields or {}).labels
  local seed = labels == "permuted" and tostring(host.options.seed) or "" -- other seeds permute otherwise
  return ok and kind .. " " .. seed .. text or nil
end

-- Runs a constructor as far as its first option table, which is checked; its other errors mean nothing here.
local function check_constructor(build, options)
  check.stop_after = stop
  local ok, problem = pcall(build, options)
  check.stop_after = nil
  if ok then return problem end
  if problem ~= stop then error(problem, 0) end
  return placeholder
end

--- Calls a constructor; while planning hands out what the same options made before, or checks them only.
---@param kind string "models.vgg19"
---@param options table
---@param build fun(options: table): any
function plan.once(kind, options, build)
  local key = key_of(kind, options)
  if not plan.active then
    if plan.reusing and kind:find "^dataset" and key and built[key] then return built[key] end
    local object = build(options)
    if key and object ~= nil then built[key] = object end
    return object
  end
  if key and built[key] ~= nil then return built[key] end
  return check_constructor(build, options)
end

--- A table of constructors whose calls go through plan.once.
function plan.wrap(kind, constructors)
  local wrapped = {}
  return setmetatable({}, {
    __index = function(_, name)
      local value = constructors[name]
      if type(value) ~= "function" then return value end
      if not wrapped[value] then
        wrapped[value] = function(options)
          return plan.once(kind .. "." .. tostring(name), options, value)
        end
      end
      return wrapped[value]
    end,
    __pairs = function() return pairs(constructors) end,
    __len = function() return #constructors end,
    __names = (getmetatable(constructors) or {}).__names,
    __newindex = constructors,
  })
end

-- ---- the pass -----------------------------------------------------------------------------------------------------------

local function ends() error(stop, 0) end

-- What the experiment sees instead of the globals: nothing that writes, prints or leaves.
local function environment()
  local silent = function() end
  local function reads_only(path, mode)
    if mode and mode:find("[wa%+]") then ends() end
    return io.open(path, mode)
  end
  local sink = setmetatable({}, { __index = function() return function(self) return self end end })
  local fake_io = setmetatable({ write = silent, open = reads_only, popen = ends, output = ends, stdout = sink, stderr = sink },
    { __index = io })
  local fake_os = setmetatable({ execute = ends, exit = ends, remove = ends, rename = ends }, { __index = os })
  local state = 0x9E3779B97F4A7C15 -- math.random without touching the run's own stream
  local function random(low, high)
    state = state * 6364136223846793005 + 1442695040888963407
    local unit = (state >> 11) * 0x1p-53
    if not low then return unit end
    if not high then low, high = 1, low end
    return low + math.floor(unit * (high - low + 1))
  end
  local fake_math = setmetatable({ random = random, randomseed = silent }, { __index = math })
  return setmetatable({ print = silent, io = fake_io, os = fake_os, math = fake_math },
    { __index = _G, __newindex = function(t, k, v) rawset(t, k, v) end })
end

-- "file:line: message", the line being where the experiment called what failed.
local function positioned(script)
  return function(problem)
    if problem ~= check.mistake then return { problem = problem } end
    for level = 2, 200 do
      local info = debug.getinfo(level, "Sl")
      if not info then break end
      if info.source == "@" .. script then
        return { problem = problem, text = script .. ":" .. info.currentline .. ": " .. problem }
      end
    end
    return { problem = problem, text = problem }
  end
end

-- string.format meets placeholders where the experiment prints results: they count as 0 or "?".
local function lenient_format(format)
  return function(pattern, ...)
    local arguments = table.pack(...)
    for i = 1, arguments.n do
      if rawequal(arguments[i], placeholder) then arguments[i] = 0 end
    end
    return format(pattern, table.unpack(arguments, 1, arguments.n))
  end
end

local function run_chunk(chunk, script)
  local format = string.format
  local deadline = host.now() + seconds_allowed
  local hook, mask, count = debug.gethook()
  plan.active, check.placeholder = true, placeholder
  string.format = lenient_format(format) -- luacheck: ignore
  debug.sethook(function()
    if host.interrupted() then error("interrupted", 0) end
    if host.now() > deadline then ends() end
  end, "", 100000)
  local ok, outcome = xpcall(chunk, positioned(script))
  debug.sethook(hook, mask, count)
  string.format = format -- luacheck: ignore
  plan.active, check.placeholder = false, nil
  return ok, outcome
end

--- Makes the pass, once a process. Raises the first mistake that a check finds in a later step.
--- The generator of torch is left as it was.
function plan.check()
  local script = host.script
  if done or plan.active or not script or script == "-" then return end
  done = true
  local chunk = loadfile(script, "t", environment())
  if not chunk then return end
  check.mistake = nil
  local torch = require "medxai.torch"
  local state = torch.get_rng_state()
  local ok, outcome = run_chunk(chunk, script)
  torch.set_rng_state(state)
  state:close()
  if host.interrupted() then error("interrupted", 0) end
  if not ok and outcome.text then error(outcome.text, 0) end
  if ok then check.unused_fields() end
end

return plan
