-- Option tables, near names, fields of the command line: every message word for word.
local t = require "t"
local check = require "medxai.base.check"
local Options = require "medxai.base.options"
local suggest = require "medxai.base.suggest"

local spec = { lr = { "number", required = true, above = 0, max = 10 }, momentum = { "number", default = 0.0 },
  nesterov = { "boolean", default = false }, weight_decay = { "number", min = 0 },
  head = { one_of = { "thesis", "torchvision" } }, epochs = { "integer" },
  train_depth = { "integer", one_of = { "all" } } }

local function options(given) return function() return Options.check("sgd", given, spec) end end

t.test("an option table gets its defaults and keeps what was given", function()
  local got = options { lr = 0.1, epochs = 3.0 }()
  t.equal(got, { lr = 0.1, momentum = 0.0, nesterov = false, epochs = 3 })
end)

t.test("the caller's table is not changed", function()
  local given = { lr = 0.1 }
  options(given)()
  t.equal(given, { lr = 0.1 })
end)

t.test("an unknown option names the near one", function()
  t.fails(options { learning_rate = 0.1 }, "sgd: unknown option 'learning_rate'. Did you mean 'lr'?")
  t.fails(options { lr = 1, momentun = 0.9 }, "sgd: unknown option 'momentun'. Did you mean 'momentum'?")
  t.fails(options { lr = 1, wd = 0.9 }, "sgd: unknown option 'wd'. Did you mean 'weight_decay'?")
  t.fails(options { lr = 1, Momentum = 0.9 }, "sgd: unknown option 'Momentum'. Did you mean 'momentum'?")
  t.fails(options { lr = 1, colour = 3 },
    "sgd: unknown option 'colour'. Known: epochs, head, lr, momentum, nesterov, train_depth, weight_decay.")
end)

t.test("a missing, mistyped or out-of-range option says what was expected", function()
  t.fails(options {}, "sgd: option 'lr' is missing (expected number). Add lr = ... to it.")
  t.fails(options { lr = "0.1" }, "sgd: option 'lr' is wrong (expected number, got string '0.1').")
  t.fails(options { lr = 0 }, "sgd: option 'lr' is too small (expected more than 0, got 0).")
  t.fails(options { lr = 11 }, "sgd: option 'lr' is too large (expected at most 10, got 11).")
  t.fails(options { lr = 0 / 0 }, "sgd: option 'lr' is not a finite number (got nan).")
  t.fails(options { lr = math.huge }, "sgd: option 'lr' is not a finite number (got inf).")
  t.fails(options { lr = 1, weight_decay = -1 },
    "sgd: option 'weight_decay' is too small (expected at least 0, got -1).")
  t.fails(options { lr = 1, epochs = 2.5 }, "sgd: option 'epochs' is wrong (expected integer, got number 2.5).")
  t.fails(options { lr = 1, nesterov = 1 }, "sgd: option 'nesterov' is wrong (expected boolean, got number 1).")
end)

t.test("a choice lists its words and offers the near one", function()
  t.fails(options { lr = 1, head = "thesys" },
    "sgd: option 'head' is wrong (expected 'thesis' or 'torchvision', got string 'thesys'). Did you mean 'thesis'?")
  t.equal(options { lr = 1, train_depth = "all" }().train_depth, "all")
  t.equal(options { lr = 1, train_depth = 3 }().train_depth, 3)
  t.fails(options { lr = 1, train_depth = "some" },
    "sgd: option 'train_depth' is wrong (expected 'all' or integer, got string 'some').")
end)

t.test("what is no option table is refused", function()
  t.fails(options(3), "sgd: takes one table of options (expected sgd { name = value }, got number 3).")
  t.fails(options { 0.1 }, "sgd: options have names (expected name = value, got number 0.1 without one).")
end)

t.test("near names come nearest first and none when nothing is near", function()
  t.equal(suggest.nearest("features.35", { "features.36", "features.3", "classifier" }, 3),
    { "features.3", "features.36" })
  t.equal(suggest.nearest("xyz", { "gradcam", "lime" }), {})
  t.fails(function() check.known("explain", "method", "grad_cam", { "gradcam", "lime" }) end,
    "explain: unknown method 'grad_cam'. Did you mean 'gradcam'?")
end)

local program = [[
local check = require "medxai.base.check"
local Options = require "medxai.base.options"
local got = Options.check("fit", { epochs = 8, names = { "a" } }, { epochs = { "integer", field = true }, names = { "table", field = true },
  deep = { "boolean", default = false, field = true }, root = { "string", field = "data", default = "here" },
  mode = { one_of = { "a", "b" }, default = "a", field = true }, size = { "integer", default = 1 } })
for _ = 1, 2 do Options.check("fit", {}, { epochs = { "integer", field = true, default = 5 } }) end
print(got.epochs, table.concat(got.names, "+"), got.deep, got.root, got.mode)
]]

t.test("fields of the command line replace options that are fields, in the option's type, and each is "
  .. "told once", function()
  local path = t.write(t.tmpdir() .. "/e.lua", program)
  local r = t.run { path, "--epochs", "2", "--names", "x,y", "--deep", "true", "--data", "/there", "--mode", "b" }
  t.equal(r.err, [[
--deep: deep = true in fit (instead of false)
--epochs: epochs = 2 in fit (instead of 8)
--mode: mode = b in fit (instead of a)
--names: names = x, y in fit
--data: root = /there in fit (instead of here)
--epochs: epochs = 2 in fit (instead of 5)
]])
  t.equal(r.out, "2\tx+y\ttrue\t/there\tb\n")
end)

t.test("a field of the wrong type names the field", function()
  local path = t.write(t.tmpdir() .. "/e.lua", program)
  local r = t.run { path, "--epochs", "two" }
  t.equal(r.code, 1)
  t.ok(r.err:find("fit: --epochs: option 'epochs' is wrong (expected integer, got string 'two').", 1, true), r.err)
  r = t.run { path, "--mode", "c" }
  t.ok(r.err:find("fit: --mode: option 'mode' is wrong (expected 'a' or 'b', got string 'c').", 1, true), r.err)
end)

t.test("a field that no option takes is an error that offers the near one", function()
  local path = t.write(t.tmpdir() .. "/e.lua", program)
  local r = t.run { path, "--epocs", "2" }
  t.equal(r.code, 1)
  t.ok(r.err:find("unknown field --epocs. Did you mean --epochs?", 1, true), r.err)
end)

t.test("a field reaches no option that did not ask for it, whatever its name", function()
  local r = t.run { t.write(t.tmpdir() .. "/e.lua", program), "--size", "2" }
  t.equal(r.code, 1)
  t.ok(r.err:find("unknown field --size.", 1, true), r.err)
  r = t.run { "-e", [[
    local xai, torch = require "medxai", require "medxai.torch"
    local model = xai.models.squeezenet1_0 { classes = 3, seed = 1 }
    print(torch.tensor({ 1, 2 }, { dtype = "int64" }).dtype, torch.ones(2):to({ dtype = "float32" }).dtype, model.dtype)
  ]], "--dtype", "float64" }
  t.equal(r.out, "int64\tfloat32\tfloat64\n", r.err)
  t.equal(r.err, "--dtype: dtype = float64 in squeezenet1_0\n") -- instead of what its weights say
end)


-- ---- --smoke --------------------------------------------------------------------------------------------------------

local smoke_program = [[
local Options = require "medxai.base.options"
local o = Options.check("lime", { many = 1000, some = 300, auto = "auto", few = 2, names = { "a" } }, {
  many = { "integer", smoke = { divide_by = 50, least = 8 } }, some = { "integer", smoke = { divide_by = 50, least = 8 } },
  auto = { "integer|string", smoke = { divide_by = 50, least = 20 } }, few = { "integer", smoke = 4 },
  epochs = { "integer", default = 30, field = true, smoke = 1 }, limit = { "integer", smoke = 4 },
  share = { "integer", smoke = { divide_by = 50, least = 2 } },
  alone = { "boolean", default = true, smoke = false }, names = { "table" }, size = { "integer", default = 224 } })
print(o.many, o.some, o.auto, o.few, o.epochs, o.limit, o.share, o.alone, #o.names, o.size)
]]

t.test("under --smoke an option is what its spec says: at most so many, a share of them, or another value", function()
  local path = t.write(t.tmpdir() .. "/e.lua", smoke_program)
  t.equal(t.run { path }.out, "1000\t300\tauto\t2\t30\tnil\tnil\ttrue\t1\t224\n")
  t.equal(t.run { "--smoke", path }.out, "20\t8\t20\t2\t1\t4\tnil\tfalse\t1\t224\n")
  t.equal(t.run { "--smoke", path, "--epochs", "7" }.out, "20\t8\t20\t2\t1\t4\tnil\tfalse\t1\t224\n")
end)

t.test("under --smoke an option is checked as it was written", function()
  local path = t.write(t.tmpdir() .. "/e.lua",
    "require('medxai.base.options').check('fit', { epochs = 0 }, { epochs = { 'integer', min = 1, smoke = 1 } })")
  local r = t.run { "--smoke", path }
  t.ok(r.err:find("fit: option 'epochs' is too small (expected at least 1, got 0).", 1, true), r.err)
end)

t.test("a method whose spec describes --smoke wrongly is refused", function()
  local function spec_of(smoke)
    return function() Options.check_spec("explain", "method 'mine'", { n = { "integer", smoke = smoke } }) end
  end
  t.fails(spec_of { divide_by = 50 },
    "explain: method 'mine': option 'n': smoke is wrong (expected { divide_by = 50, least = 2 } or a value).")
  spec_of { divide_by = 50, least = 2 }()
  spec_of(4)()
end)
