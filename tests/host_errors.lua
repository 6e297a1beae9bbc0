-- Error texts, word for word: the experiment's line leads, the library's lines only with --trace.
local t = require "t"

local function fails(code, message, status)
  local r = t.run { "-e", code }
  t.equal(r.err, "medxai-run: " .. message .. "\n")
  t.equal(r.code, status or 1)
end

t.test("a misspelt global is an error that names the nearest name", function()
  fails("local model = 1; print(modle)", "(command line):1: global 'modle' is not defined. Did you mean 'model'?")
  fails("prnt(1)", "(command line):1: global 'prnt' is not defined. Did you mean 'print'?")
  fails("local x = qqqqqq", "(command line):1: global 'qqqqqq' is not defined.")
end)

t.test("writing a global is an error that shows how a local is written", function()
  fails("count = 1", "(command line):1: global 'count' is not defined. Write 'local count = ...'.")
  fails("local count = 1; cuont = 2", "(command line):1: global 'cuont' is not defined. Did you mean 'count'?")
end)

t.test("a name that an enclosing function holds is offered too", function()
  fails("local model = 1; local function f() local x = model; return modle end f()",
        "(command line):1: global 'modle' is not defined. Did you mean 'model'?")
end)

t.test("the experiment's own line leads where the library raised the error", function()
  local path = t.write(t.tmpdir() .. "/experiment.lua", [[
local suggest = require "medxai.base.suggest"

suggest.quoted(nil, "or")
]])
  local r = t.run { path }
  t.ok(r.err:find("^medxai%-run: " .. path:gsub("%p", "%%%0") .. ":3: "), r.err)
  t.ok(not r.err:find("suggest.lua", 1, true), r.err)
  t.equal(r.code, 1)
  r = t.run { "--trace", path }
  t.ok(r.err:find("suggest.lua:%d+: in "), r.err)
end)

t.test("a long path is not shortened", function()
  local path = t.tmpdir() .. "/" .. ("long_name_"):rep(10) .. ".lua"
  t.write(path, "local x = nil\nx.y = 1\n")
  t.equal(t.run { path }.err, "medxai-run: " .. path .. ":2: attempt to index a nil value (local 'x')\n")
end)

t.test("a syntax error names file and line", function()
  local path = t.write(t.tmpdir() .. "/wrong.lua", "local a = 1\nlocal b = = 2\n")
  local r = t.run { path }
  t.equal(r.err, "medxai-run: " .. path .. ":2: unexpected symbol near '='\n")
  t.equal(r.code, 1)
end)

t.test("a file that cannot be run is wrong usage", function()
  local dir = t.tmpdir()
  local r = t.run { "missing.lua" }
  t.equal(r.err, "medxai-run: cannot read 'missing.lua' (No such file or directory). Name a Lua file.\n")
  t.equal(r.code, 2)
  r = t.run { dir }
  t.equal(r.err, "medxai-run: cannot read '" .. dir .. "' (it is a folder). Name a Lua file.\n")
  t.equal(r.code, 2)
end)

t.test("a compiled chunk is refused", function()
  local path = t.write(t.tmpdir() .. "/chunk.lua", string.dump(function() end))
  local r = t.run { path }
  t.equal(r.err, "medxai-run: '" .. path .. "' is not text (it begins like compiled Lua). Name a Lua file.\n")
  t.equal(r.code, 2)
end)

t.test("an error value that is not text is told what to be", function()
  fails("error({})", "(command line):1: error: the error value is a table (expected a text). Write error(\"what "
    .. "went wrong\").")
  fails("error()", "(command line):1: error: the error value is nil (expected a text). Write error(\"what went "
    .. "wrong\").")
  fails("error(setmetatable({}, { __tostring = function() return 'worded' end }))", "(command line):1: worded")
  fails("error(setmetatable({}, { __tostring = function() error 'no' end }))",
        "(command line):1: error: the error value is a table (expected a text). Write error(\"what went wrong\").")
  fails("error(12)", "(command line):1: 12")
end)

t.test("text that only looks like a place is kept whole", function()
  fails("error('12:30: too late', 0)", "(command line):1: 12:30: too late")
  fails("error('store: cannot read a.lua:3: gone', 0)", "(command line):1: store: cannot read a.lua:3: gone")
end)

t.test("per cent signs in a message are only text", function()
  fails("error('100%s %d%n', 0)", "(command line):1: 100%s %d%n")
end)

t.test("an error in a coroutine keeps its place", function()
  fails("coroutine.wrap(function() error 'inside' end)()", "(command line):1: inside")
end)

t.test("endless recursion says so", function()
  fails("local function f() return 1 + f() end f()",
        "(command line):1: stack overflow: a function calls itself without end. Give it a condition that stops it.")
end)

t.test("out of memory in Lua itself is an error, not a crash", function()
  local program = "local kept = {} for i = 1, 1e9 do kept[i] = { i } end"
  local command = ("ulimit -v 300000; exec %s -e %s 2>&1"):format(t.quote(require "medxai.host".exe), t.quote(program))
  if os.getenv "ASAN_OPTIONS" then t.skip "the sanitizer needs more address space" end
  local pipe = io.popen(command)
  local out = pipe:read "a"
  local _, _, code = pipe:close()
  t.equal(out, "medxai-run: (command line): lua: out of memory for Lua's own tables and texts. Keep numbers in "
    .. "tensors.\n")
  t.equal(code, 1)
end)

t.test("a module that is not there is one sentence", function()
  local r = t.run { "-e", "require 'medxai.modles'" }
  t.ok(r.err:find("^medxai%-run: %(command line%):1: require: there is no module 'medxai.modles' %(looked in %. and "
    .. "[^\n]+%)%. Check its name%.\n$"), r.err)
end)

t.test("a last line that is a tail call still names the experiment", function()
  local path = t.write(t.tmpdir() .. "/tail.lua", "return require('medxai.base.suggest').quoted(nil, 'or')\n")
  local r = t.run { path }
  t.ok(r.err:find("medxai-run: " .. path .. ": ", 1, true), r.err)
end)

t.test("warnings are printed at once and counted at the end", function()
  local r = t.run { "-e", "local host = require 'medxai.host'; host.warn('first'); host.warn('second'); "
    .. "io.stderr:write('working\\n')" }
  t.equal(r.err, "medxai-run: warning: first\nmedxai-run: warning: second\nworking\nmedxai-run: 2 warnings:\n  "
    .. "first\n  second\n")
  t.equal(r.code, 0)
end)

t.test("an error in a finalizer is a warning", function()
  local r = t.run { "-e", "setmetatable({}, { __gc = function() error 'late' end }) collectgarbage()" }
  t.equal(r.err, "medxai-run: warning: error in __gc ((command line):1: late)\n")
end)

t.test("at_exit functions run last first and hear how it ended", function()
  local program = [[
    local host = require "medxai.host"
    host.at_exit(function(state, message) print("first", state, message) end)
    host.at_exit(function(state) print("second", state) error("in at_exit", 0) end)
  ]]
  local r = t.run { "-e", program }
  t.equal(r.out, "second\tfinished\nfirst\tfinished\tnil\n")
  t.equal(r.err, "medxai-run: (command line):3: in at_exit\n")
  t.equal(r.code, 1)
  r = t.run { "-e", program .. " error 'x'" }
  t.equal(r.out, "second\tfailed\nfirst\tfailed\t(command line):4: x\n")
  t.equal(r.code, 1)
  r = t.run { "-e", program .. " os.exit(7)" }
  t.equal(r.out, "second\tfailed\nfirst\tfailed\tnil\n")
  t.equal(r.code, 7)
end)
