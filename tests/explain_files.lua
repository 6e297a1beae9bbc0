-- medxai.file (host/l_file.c): whole writes, exclusive creation, appending, locks, and the system's reasons word for
-- word.
local t = require "t"
local file = require "medxai.file"

t.test("write replaces a file whole and leaves no temporary file, also when it fails", function()
  local dir = t.tmpdir()
  t.ok(file.write(dir .. "/a", "one\0two"))
  t.ok(file.write(dir .. "/a", "three"))
  t.equal(file.read(dir .. "/a"), "three")
  file.mkdir(dir .. "/folder")
  t.equal({ file.write(dir .. "/folder", "x") },
    { nil, "cannot write '" .. dir .. "/folder': Is a directory", "EISDIR" })
  t.equal({ file.write(dir .. "/none/a", "x") },
    { nil, "cannot write '" .. dir .. "/none/a': No such file or directory", "ENOENT" })
  t.equal(file.list(dir), { "a", "folder" })
end)

t.test("create succeeds once", function()
  local dir = t.tmpdir()
  t.ok(file.create(dir .. "/claim", "1"))
  t.equal({ file.create(dir .. "/claim", "2") }, { nil, "cannot create '" .. dir .. "/claim': File exists", "EEXIST" })
  t.equal(file.read(dir .. "/claim"), "1")
end)

t.test("append adds at the end; a full disk is told", function()
  local dir = t.tmpdir()
  t.ok(file.append(dir .. "/log", "a\n"))
  t.ok(file.append(dir .. "/log", "b\n", true))
  t.equal(file.read(dir .. "/log"), "a\nb\n")
  t.ok(file.truncate(dir .. "/log", 2))
  t.equal(file.read(dir .. "/log"), "a\n")
  t.equal({ file.append("/dev/full", "x") }, { nil, "cannot append to '/dev/full': No space left on device", "ENOSPC" })
end)

t.test("a write beyond the file size limit leaves the old file and says why", function()
  local dir = t.tmpdir()
  t.write(dir .. "/old", "old")
  local script = t.write(dir .. "/s.lua", ([[
    local file = require "medxai.file"
    print((select(2, file.write(%q, ("x"):rep(100000)))))
    print((select(2, file.append(%q, ("x"):rep(100000)))))
    print(table.concat(file.list(%q), " "), #file.read(%q))]]):format(dir .. "/old", dir .. "/old", dir, dir .. "/old"))
  local host = require "medxai.host"
  local pipe <close> = io.popen("ulimit -f 8; " .. t.quote(host.exe) .. " " .. t.quote(script) .. " 2>&1")
  t.equal(pipe:read "a", ("cannot write '%s/old': File too large\ncannot append to '%s/old': File too large\nold "
    .. "s.lua\t3\n"):format(dir, dir))
end)

t.test("a lock is held by one, given back by close, and by the end of its process", function()
  local dir = t.tmpdir()
  local lock = file.lock(dir .. "/lock")
  local asked, message, code = file.lock(dir .. "/lock")
  t.equal({ asked, message, code }, { nil, "cannot lock '" .. dir .. "/lock': Resource temporarily unavailable",
    "EAGAIN" })
  lock:close()
  local again <close> = t.ok(file.lock(dir .. "/lock"))
  t.equal(t.run { "-e", ("local f = require 'medxai.file'; print((f.lock(%q)))"):format(dir .. "/lock") }.out, "nil\n")
end)

t.test("folders with their parents, sorted lists, kinds, sizes", function()
  local dir = t.tmpdir()
  t.ok(file.mkdir(dir .. "/a/b//c/"))
  t.ok(file.mkdir(dir .. "/a/b"))
  t.write(dir .. "/Z", "12345")
  t.write(dir .. "/a.txt", "")
  t.equal(file.list(dir), { "Z", "a", "a.txt" })
  t.equal({ file.stat(dir .. "/Z").kind, file.stat(dir .. "/Z").bytes, file.stat(dir).kind,
    file.stat("/dev/null").kind }, { "file", 5, "folder", "other" })
  t.equal({ file.mkdir(dir .. "/Z/x") }, { nil, "cannot make folder '" .. dir .. "/Z': Not a directory", "ENOTDIR" })
  t.equal({ file.read(dir) }, { nil, "cannot read '" .. dir .. "': Is a directory", "EISDIR" })
  t.equal({ file.list(dir .. "/none") }, { nil, "cannot list '" .. dir .. "/none': No such file or directory",
    "ENOENT" })
  local made = file.mkdtemp(dir .. "/t")
  t.equal(file.stat(made).kind, "folder")
  t.equal(file.realpath(dir .. "/a/../Z"), file.realpath(dir) .. "/Z")
end)

t.test("wrong arguments raise", function()
  t.fails_like(function() file.read("a\0b") end, "path holds a zero byte")
  t.fails_like(function() file.read("") end, "path is empty")
  t.fails_like(function() file.truncate("x", -1) end, "size must not be negative")
end)

t.test("Lua's allocations may fail in each of them", function()
  local memory, dir = require("medxai.core").memory, t.tmpdir()
  local function everything()
    file.write(dir .. "/a", "text")
    file.read(dir .. "/a")
    file.append(dir .. "/a", "more")
    file.list(dir)
    file.stat(dir .. "/a")
    local lock <close> = file.lock(dir .. "/lock")
  end
  for n = 0, 500 do
    memory.lua_fail_after(n, 1000000)
    local ok, message = pcall(everything)
    memory.lua_fail_after(-1)
    if ok then return t.ok(n > 0) end
    t.ok(tostring(message):find "not enough memory", message)
  end
  error "it never got through"
end)
