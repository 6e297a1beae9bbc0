-- The command line: what is an option, what is a field of the experiment, and the exit codes of wrong usage.
local t = require "t"

local function wrong(args, message)
  local r = t.run(args)
  t.equal(r.err, "medxai-run: " .. message .. " See medxai-run --help.\n")
  t.equal(r.code, 2)
end

local show = [[
local host = require "medxai.host"
local names = {}
for name in pairs(host.fields) do names[#names + 1] = name end
table.sort(names)
for _, name in ipairs(names) do print(name, host.fields[name]) end
print(host.options.seed, host.options.threads, host.options.device, host.options.out, host.options.smoke, ...)
]]

t.test("fields follow the file; options come before or after it", function()
  local path = t.write(t.tmpdir() .. "/show.lua", show)
  local r = t.run { "--seed", "7", path, "--epochs", "2", "--lr=-1e-3", "--smoke", "--threads=3", "--deep", "--size-px",
    "128", "word" }
  t.equal(r.err, "")
  t.equal(r.out, "deep\ttrue\nepochs\t2\nlr\t-1e-3\nsize_px\t128\n7\t3\tcpu\tnil\ttrue\tword\n")
end)

t.test("fields follow -e CODE too, and a field may be negative or empty", function()
  local r = t.run { "-e", show, "--shift", "-3", "--name=", "--device", "cpu", "--out", "there" }
  t.equal(r.err, "")
  t.equal(r.out:match "^(.-)\nnil", "name\t\nshift\t-3")
  t.ok(r.out:find("cpu\tthere\tfalse\n", 1, true), r.out)
end)

t.test("after -- everything is an argument", function()
  t.ok(t.run { "-e", show, "--", "--seed", "x" }.out:find("\tfalse\t--seed\tx\n", 1, true))
end)

t.test("wrong usage is one line and exit status 2", function()
  wrong({}, "no FILE named.")
  wrong({ "-x" }, "unknown option '-x' (fields of an experiment follow its FILE).")
  wrong({ "--epochs", "2", "x.lua" }, "unknown option '--epochs' (fields of an experiment follow its FILE).")
  wrong({ "-e" }, "-e needs a value.")
  wrong({ "-e", "", "--seed" }, "--seed needs a value.")
  wrong({ "x.lua", "--seed" }, "--seed needs a value.")
  wrong({ "x.lua", "--seed", "--smoke" }, "--seed needs a value.")
  wrong({ "--seed", "1.5", "x.lua" }, "--seed: '1.5' is not a whole number from 0.")
  wrong({ "--seed", "-1", "x.lua" }, "--seed: '-1' is not a whole number from 0.")
  wrong({ "--seed", "99999999999999999999", "x.lua" }, "--seed: '99999999999999999999' is not a whole number from 0.")
  wrong({ "--threads", "0", "x.lua" }, "--threads: '0' is not a number of threads (1 to 1024).")
  wrong({ "--device", "gpu", "x.lua" }, "--device: 'gpu' is not a device (cpu, cuda or cuda:N).")
  wrong({ "x.lua", "--device", "cuda:" }, "--device: 'cuda:' is not a device (cpu, cuda or cuda:N).")
  wrong({ "--smoke=3", "x.lua" }, "'--smoke=3' takes no value.")
  wrong({ "x.lua", "--smoke=3" }, "--smoke takes no value.")
  wrong({ "-e", "", "-e", "" }, "-e is given twice.")
end)

t.test("- reads the script from standard input", function()
  local r = t.run { "-", "word", stdin = "local word = ... print(word, arg[0], require 'medxai.host'.script)" }
  t.equal(r.out, "word\tstdin\tstdin\n")
end)

t.test("--help and --version print to standard output", function()
  local r = t.run { "--help" }
  t.equal(r.code, 0)
  t.ok(r.out:find("usage: medxai-run [options] FILE", 1, true), r.out)
  r = t.run { "--version" }
  t.ok(r.out:find("^medxai%-run %d+%.%d+%.%d+ %(Lua 5%.4%.%d+, built with libtorch %d+%.%d+%.%d+%)\n$"), r.out)
end)

t.test("math.random repeats from run to run and follows --seed", function()
  local program = "io.write(math.random(1 << 40))"
  local first = t.run { "-e", program }.out
  t.equal(t.run { "-e", program }.out, first)
  t.equal(t.run { "--seed", "42", "-e", program }.out, first)
  t.ok(t.run { "--seed", "43", "-e", program }.out ~= first)
end)

t.test("modules beside the experiment are found from any working folder", function()
  local dir = t.tmpdir()
  t.write(dir .. "/mine.lua", "return 'mine'")
  t.write(dir .. "/experiment.lua", "print((require 'mine'))")
  t.equal(t.run { dir .. "/experiment.lua", cwd = "/" }.out, "mine\n")
end)

t.test("MEDXAI_SCRIPTS without a library is refused", function()
  local r = t.run { "-e", "", env = { MEDXAI_SCRIPTS = "/usr" } }
  t.equal(r.err, "medxai-run: host: MEDXAI_SCRIPTS is '/usr', which holds no folder medxai. Name the folder "
    .. "that does.\n")
  t.equal(r.code, 2)
end)
