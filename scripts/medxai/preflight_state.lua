-- The Lua state in which medxai.run.preflight reads an experiment: the library as it is, but without its native core.
-- Networks are graphs without tensors, a step checks its arguments and gives a value that is not known, and whatever
-- computes, writes, waits or leaves ends the check. Returns the first mistake as a text, or nothing.
-- It refuses to judge what depends on a value that is not known, and every error that is not one of options or names.
local stop, script = ...
local host = require "medxai.host"
local xpcall_ = xpcall

local function ends() error(stop, 0) end

-- ---- values that are not known --------------------------------------------------------------------------------------

local unknown = setmetatable({}, { __name = "a value that is not known before the experiment runs" })
do
  local meta = getmetatable(unknown)
  local function itself() return unknown end
  for event in ("add sub mul div mod pow unm idiv band bor bxor bnot shl shr concat index call"):gmatch "%a+" do
    meta["__" .. event] = itself
  end
  function meta.__newindex() end
  meta.__len = ends -- a number that is wrong would be judged as if it were known
  function meta.__tostring() return "?" end
  function meta.__lt() return false end
  function meta.__le() return false end
  function meta.__pairs() return next, {}, nil end
  function meta.__close() end
end

-- Whether a value is not known, or a table holds one that is not.
local function is_open(value, seen)
  if rawequal(value, unknown) then return true end
  if type(value) ~= "table" or getmetatable(value) then return false end
  seen = seen or {}
  if seen[value] then return false end
  seen[value] = true
  for _, member in next, value do
    if is_open(member, seen) then return true end
  end
  return false
end

-- ---- Lua's own library ----------------------------------------------------------------------------------------------

local function nothing() end

-- What ends the check goes through every pcall.
local function passed(ok, problem, ...)
  if not ok and rawequal(problem, stop) then ends() end
  return ok, problem, ...
end

local function guard_calls()
  local pcall_, resume = pcall, coroutine.resume
  function pcall(f, ...) return passed(pcall_(f, ...)) end -- luacheck: ignore
  function xpcall(f, handler, ...) -- luacheck: ignore
    return passed(xpcall_(f, function(p) if rawequal(p, stop) then return p end return handler(p) end, ...))
  end
  function coroutine.resume(...) return passed(resume(...)) end -- luacheck: ignore
end

-- Files can be read, or be absent; a pipe or a terminal cannot, since what is read there is gone.
local function reads_only(f)
  return function(path, mode)
    local stat = type(path) == "string" and require("medxai.file").stat(path) or { kind = path and "file" }
    if type(mode) == "string" and mode:find "[wa%+]" or stat.kind ~= "file" then ends() end
    return f(path, mode)
  end
end

local function keep(library, names)
  for name in next, library do
    if not names[name] then library[name] = ends end
  end
end

local function close_library()
  local sink = setmetatable({}, { __index = function() return function(self) return self end end })
  local open, lines = io.open, io.lines
  keep(io, { type = true })
  io.open, io.lines, io.write = reads_only(open), reads_only(lines), nothing -- luacheck: ignore
  io.stdout, io.stderr = sink, sink -- luacheck: ignore
  keep(os, { clock = true, date = true, difftime = true, getenv = true, time = true })
  keep(debug, { getinfo = true, getlocal = true, getmetatable = true, getupvalue = true, traceback = true,
    upvalueid = true })
  print, warn = nothing, nothing -- luacheck: ignore
  local format, pairs_in_order = string.format, ipairs
  function string.format(pattern, ...) -- luacheck: ignore
    if is_open { ... } then return unknown end
    return format(pattern, ...)
  end
  function ipairs(t) return pairs_in_order(rawequal(t, unknown) and {} or t) end -- luacheck: ignore
end

-- Modules in C may do anything, but for these two.
local function close_modules()
  local lfs = { attributes = true, currentdir = true, dir = true, symlinkattributes = true }
  local search = package.searchers[3]
  package.loadlib = ends -- luacheck: ignore
  package.searchers[4] = nil
  package.searchers[3] = function(name)
    local loader, place = search(name)
    if type(loader) ~= "function" or name == "cjson" then return loader, place end
    if name ~= "lfs" then return ends, place end
    return function(...)
      local module = loader(...)
      for key, value in next, module do
        if type(value) == "function" and not lfs[key] then module[key] = ends end
      end
      return module
    end, place
  end
end

-- ---- the native core ------------------------------------------------------------------------------------------------

local native -- anything of the native core: it may be named and kept, to call it ends the check
native = setmetatable({}, { __index = function() return native end, __newindex = nothing, __call = ends,
  __close = nothing })

-- A network's nodes, as bindings/lua/l_graph.c keeps them, without what computes.
local Graph = {}
Graph.__index = Graph

local function ids_in(args, list)
  local keys = {}
  for key in next, args do keys[#keys + 1] = key end
  table.sort(keys, function(a, b) return tostring(a) < tostring(b) end)
  for _, key in ipairs(keys) do
    local arg = args[key]
    if type(arg) == "table" and arg.id then list[#list + 1] = arg.id
    elseif type(arg) == "table" and not arg.slot then ids_in(arg, list) end
  end
  return list
end

local function add(graph, name, op, ids)
  graph.nodes[#graph.nodes + 1] = { name, op, ids }
  return #graph.nodes
end

function Graph:input(name) return add(self, name, "input", {}) end
function Graph:op(name, operator, args) return add(self, name, operator:match "^[^.]+", ids_in(args, {})) end
function Graph:func(name, _, inputs) return add(self, name, "function", ids_in(inputs, {})) end
function Graph:drop_path(name, id) return add(self, name, "drop_path", { id }) end
Graph.batch = nothing
function Graph:node(id) return table.unpack(self.nodes[id]) end
Graph.state = ends

local function core()
  local closable = setmetatable({}, { __close = nothing, __index = { close = nothing } })
  local parts = {
    graph = { new = function() return setmetatable({ nodes = {} }, Graph) end },
    tensor = setmetatable({ torch_version = function() return "" end }, { __index = native }),
    image = setmetatable({ sha256 = function() return ("0"):rep(64) end }, { __index = native }), -- nor does a hash
    memory = setmetatable({ scope = function() return closable end }, { __index = native }),
    rng = setmetatable({ stream = function() -- the order of permuted labels matters to no option
      return { permutation = function(_, n)
        local order = { close = nothing, tolist = function(self) return self end }
        for i = 1, n do order[i] = i - 1 end
        return order
      end }
    end }, { __index = native }),
  }
  return setmetatable(parts, { __index = native })
end

local function replace_core()
  package.preload["medxai.core"] = core
  package.preload["medxai.torch"] = function()
    return setmetatable({ manual_seed = nothing }, { __index = native })
  end
  local file = require "medxai.file"
  keep(file, { list = true, pid = true, realpath = true, stat = true, read = true })
  file.read = reads_only(file.read)
end

-- ---- the library ----------------------------------------------------------------------------------------------------

-- Options that are not known are left out of the check; the others are checked as ever.
local function open_options()
  local check = require "medxai.base.check"
  local Options = require "medxai.base.options"
  local options_of, known = Options.check, check.known
  function Options.check(what, options, spec)
    if rawequal(options, unknown) then return unknown end
    if type(options) ~= "table" then return options_of(what, options, spec) end
    local given, rules, open = {}, {}, {}
    for key, rule in next, spec do rules[key] = rule end
    for key, value in pairs(options) do
      if spec[key] and (spec[key][1] or spec[key].one_of) and is_open(value) then
        open[key], rules[key] = value, { spec[key][1], one_of = spec[key].one_of, field = spec[key].field }
      else
        given[key] = value
      end
    end
    local result = options_of(what, given, rules)
    for key in next, open do result[key] = unknown end
    return result
  end
  function check.known(what, kind, got, names)
    if rawequal(got, unknown) or rawequal(names, unknown) then return got end
    return known(what, kind, got, names)
  end
  function check.warn() end
end

-- Runs a step's check: every error that it raises itself is a mistake, not that of the experiment's own functions that
-- it calls.
local function checked(f, ...)
  local check = require "medxai.base.check"
  local own = true
  local ok, problem = xpcall_(f, function(text)
    for level = 2, 200 do
      local info = debug.getinfo(level, "Sf")
      if not info or info.func == f then break end
      own = own and (info.what == "C" or info.source:sub(2, #host.scripts_dir + 1) == host.scripts_dir)
    end
    return text
  end, ...)
  if ok then return end
  if own and problem == check.last then check.last_mistake = problem end
  error(problem, 0)
end

-- xai.run gives a run whose steps check their arguments.
local function open_runs()
  local Run = require "medxai.run.run"
  local runs = {}
  function Run.new(options)
    local o = Run.check(options)
    if is_open(o) then return unknown end
    if runs[o.name] then return runs[o.name] end
    local run = { name = o.name, seed = o.seeds and o.seeds[1] or o.seed, dir = "runs/" .. o.name, of = o.of,
      smoke = host.options.smoke, input = Run.input }
    for verb, module in next, require "medxai.verbs" do
      run[verb] = function(self, ...)
        checked(Run.check_colon, self, verb, self == run)
        checked(require(module[1]).check_call, unknown, self, ...)
        return unknown
      end
    end
    runs[o.name] = setmetatable(run, { __index = function() return unknown end })
    require("medxai.run.current_seed").set(run.seed)
    return run
  end
end

-- Where an experiment's weights lie matters to it, what they are does not.
local function open_weights()
  local weights = require "medxai.nn.weights"
  function weights.imagenet(network) return network end
  weights.load = ends
end

-- A setting that is not known is compared with no run's, nor is a hash, which is not computed here.
local function open_settings()
  local model_file = require "medxai.nn.model_file"
  local check_model, check_data = model_file.check_model, model_file.check_data
  function model_file.check_model(model, ...)
    model.graph_signature = nil
    if is_open { model.config, model.classes, model.dtype, model.layout } then return {} end
    return check_model(model, ...)
  end
  function model_file.check_data(run, model, data, options)
    if not is_open(data:preparation()) then check_data(run, model, data, options) end
  end
end

-- "file:line: message", the line being where the experiment called what failed.
local function positioned(problem)
  for level = 2, 200 do
    local info = debug.getinfo(level, "Sl")
    if not info then break end
    if info.source == "@" .. script then return script .. ":" .. info.currentline .. ": " .. tostring(problem) end
  end
  return tostring(problem)
end

-- Runs the experiment. Returns the first mistake, or nil and, for --trace, where it looked no further.
local function read_experiment()
  local check = require "medxai.base.check"
  local chunk, problem = loadfile(script, "t")
  if not chunk then return nil, problem end
  local mistake, ended
  local whole = xpcall_(chunk, function(text)
    local placed = positioned(rawequal(text, stop) and "it computes, reads or writes" or text)
    if text == check.last_mistake then mistake = placed else ended = debug.traceback(placed, 2) end
  end, table.unpack(arg))
  if not whole then return mistake, ended end
  local ok, unused = pcall(require("medxai.base.fields").refuse_unused)
  return not ok and unused or nil
end

host.options.quiet, host.warn, host.at_exit = true, nothing, nothing
guard_calls()
replace_core()
open_options()
open_runs()
open_weights()
open_settings()
close_library()
close_modules()
return read_experiment()
