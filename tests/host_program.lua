local t = require "t"

t.test("a misspelt global is an error that names the nearest name", function()
  local r = t.run { "-e", "local model = 1; print(modle)" }
  t.equal(r.code, 1)
  t.equal(r.err, "medxai-run: (command line):1: global 'modle' is not defined. Did you mean 'model'?\n")
end)

t.test("a file that is missing is wrong usage", function()
  local r = t.run { "missing.lua" }
  t.equal(r.code, 2)
  t.equal(r.err, "medxai-run: cannot read 'missing.lua' (No such file or directory). Name a Lua file.\n")
end)
