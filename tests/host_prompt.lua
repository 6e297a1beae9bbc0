-- The prompt, through a pipe and on a terminal (util-linux's script makes one).
local t = require "t"
local host = require "medxai.host"

local function lines(text) return t.run { "-i", stdin = text } end

t.test("expressions are shown, statements run, globals stay", function()
  local r = lines "x = 3\nx + 1, 'a'\n{ 1, 2, name = 'n' }\n= 1\nlocal y = 1\n"
  t.equal(r.out, "4\ta\n{1, 2, name = \"n\"}\n")
  t.equal(r.err, "medxai-run: stdin:1: unexpected symbol near '='\n")
  t.equal(r.code, 0)
end)

t.test("a line that is not finished goes on", function()
  t.equal(lines("for i = 1, 2 do\nprint(i)\nend\n").out, "1\n2\n")
  t.equal(lines("1 +\n2\n").out, "3\n")
  local r = lines "for i = 1, 2 do\n"
  t.equal(r.err, "medxai-run: stdin:1: 'end' expected near <eof>\n")
end)

t.test("an error does not end it", function()
  local r = lines "modle\nerror {}\n7\n"
  t.equal(r.err, "medxai-run: stdin:1: global 'modle' is not defined.\n" ..
    "medxai-run: stdin:1: error: the error value is a table (expected a text). Write error(\"what went wrong\").\n")
  t.equal(r.out, "7\n")
end)

t.test("-i after a file goes on with its globals", function()
  local path = t.write(t.tmpdir() .. "/first.lua", "rawset(_G, 'kept', 5)\n")
  t.equal(t.run { "-i", path, stdin = "kept\n" }.out, "5\n")
end)

t.test("completion knows globals, fields, methods and what __names lists", function()
  local repl = require "medxai.base.prompt"
  t.equal(repl.complete "string.re", { "string.rep", "string.reverse" })
  t.equal(repl.complete "pri", { "print" })
  t.equal(repl.complete "whi", { "while" })
  t.equal(repl.complete "xa", { "xai" })
  t.equal(repl.complete "string.nothing.x", {})
  t.equal(repl.complete "nothing.x", {})
  rawset(_G, "probe", setmetatable({ zeal = 1, _hidden = 2 },
    { __index = { zero = print }, __names = function() return { "zebra" } end }))
  t.equal(repl.complete "probe.ze", { "probe.zeal", "probe.zebra", "probe.zero" })
  t.equal(repl.complete "probe:zer", { "probe:zero" })
  t.equal(repl.complete "probe._", { "probe._hidden" })
  rawset(_G, "probe", nil)
end)

t.test("completion knows operators, a tensor's fields and the library's parts", function()
  local repl, torch = require "medxai.base.prompt", require "medxai.torch"
  rawset(_G, "torch", torch)
  rawset(_G, "xai", require "medxai")
  rawset(_G, "probe", torch.zeros(2))
  t.equal(repl.complete "torch.zeros_", { "torch.zeros_like" })
  t.equal(repl.complete "probe:matm", { "probe:matmul" })
  t.equal(repl.complete "probe.sha", { "probe.shape" })
  t.equal(repl.complete "xai.data", { "xai.dataset" })
  t.equal(repl.complete "xai.models.vg", { "xai.models.vgg19" })
  t.equal(repl.complete "xai.dataset.ph", { "xai.dataset.phantom" })
  for _, name in ipairs { "torch", "xai", "probe" } do rawset(_G, name, nil) end
end)

t.test("on a terminal there are a prompt, completion and history", function()
  if not os.execute "script -qec true /dev/null >/dev/null 2>&1" then
    t.skip "no terminal can be made (util-linux's script, /dev/pts)"
  end
  local dir = t.tmpdir()
  local keys = [[(sleep 0.3; printf 'string.rev\t("abc")\r'; sleep 0.3; printf '40 + 2\r'; sleep 0.3; printf '\004')]]
  os.execute(("%s | MEDXAI_HISTORY=%s/history TERM=xterm LC_ALL=C.UTF-8 timeout 20 script -qec %s /dev/null "
    .. ">%s/screen"):format(
    keys, dir, t.quote(t.quote(host.exe) .. " -i"), dir))
  local screen = t.read(dir .. "/screen")
  t.ok(screen:find("cba", 1, true), screen)
  t.ok(screen:find("\n42\r", 1, true), screen)
  local history = t.read(dir .. "/history")
  t.ok(history:find("40", 1, true), history)
end)
