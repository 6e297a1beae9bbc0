-- Whole files, logs with a torn end, CSV, a full disk.
local t = require "t"
local csv = require "medxai.base.csv"
local files = require "medxai.base.files"

t.test("a file is written whole, its folder made", function()
  local path = t.tmpdir() .. "/a/b/c.txt"
  files.write(path, "one")
  files.write(path, "two")
  t.equal(files.read(path), "two")
end)

t.test("what processes killed in the middle of a write have left is in nobody's way, and tidied up", function()
  local dir = t.tmpdir()
  local code = [[
    local file = require "medxai.file"
    local bytes = ("x"):rep(100 << 20)
    io.stdout:write(file.pid(), "\n")
    io.stdout:flush()
    while true do file.write("f", bytes) end]]
  local half
  for _ = 1, 20 do -- killed in the middle of a write sooner or later
    local run = ("%s -e %s >pid"):format(t.quote(require("medxai.host").exe), t.quote(code))
    t.run { exe = "/bin/sh", cwd = dir, "-c", run .. " & while [ ! -s pid ]; do sleep 0.01; done; kill -9 $!; wait" }
    for _, name in ipairs(files.list(dir)) do half = half or name:match "^%.f%.tmp%-.*" end
    if half then break end
  end
  t.ok(half, "no half file")
  t.write(dir .. "/mine.tmp", "mine")
  files.write(dir .. "/f", "whole")
  files.tidy(dir)
  t.equal({ files.read(dir .. "/f"), files.list(dir) }, { "whole", { "f", "mine.tmp", "pid" } })
end)

-- Both programs are process number 1, each in a container of its own, as far as they can tell.
t.test("two containers that write the same files lose nothing, and a reader meets whole files only", function()
  local dir = t.tmpdir()
  local space = "unshare --pid --fork"
  if not os.execute(space .. " true 2>/dev/null") then
    space = "unshare --user --map-root-user --pid --fork"
    if not os.execute(space .. " true 2>/dev/null") then t.skip "no process spaces of one's own here" end
  end
  local code = [[
    local store, image, torch = require "medxai.nn.checkpoint", require("medxai.core").image, require "medxai.torch"
    local files = require "medxai.base.files"
    local x, picture = torch.full({ 300, 300 }, tonumber(arg[1])), torch.zeros(300, 300, { dtype = "uint8" })
    for _ = 1, 25 do
      store.save_checkpoint("w.pt", { x = x })
      image.save("p.png", picture)
      files.write("t.txt", ("x"):rep(100000))
      files.tidy "."
      local y = store.load_checkpoint "w.pt".x
      assert(y:min():item() == y:max():item() and #files.read "t.txt" == 100000)
      image.load "p.png"
    end]]
  local one = ("%s %s -e %s"):format(space, t.quote(require("medxai.host").exe), t.quote(code))
  local both = ("%s 1 & first=$!; %s 2; code=$?; wait $first && exit $code"):format(one, one)
  local r = t.run { exe = "/bin/sh", cwd = dir, "-c", both }
  t.equal({ r.code, r.err, files.list(dir) }, { 0, "", { "p.png", "t.txt", "w.pt" } })
end)

t.test("a log whose last line was torn gives the whole lines before it", function()
  local path = t.tmpdir() .. "/log.jsonl"
  files.append_line(path, '{"epoch":1}')
  files.append_line(path, '{"epoch":2}')
  local f <close> = assert(io.open(path, "ab"))
  f:write('{"epoch":3,"lo')
  f:flush()
  local records = files.records(path)
  t.equal(#records, 2)
  t.equal(records[2].epoch, 2)
end)

t.test("CSV comes back as it was written, commas, quotes and line ends included", function()
  local path = t.tmpdir() .. "/t.csv"
  csv.write(path, { "path", "note", "n" },
    { { path = 'a,"b"', note = " two\nlines ", n = 0.1 }, { path = " x", n = 3 } })
  local rows, columns = csv.read(path)
  t.equal(columns, { "path", "note", "n" })
  t.equal(rows[1], { path = 'a,"b"', note = " two\nlines ", n = "0.1" })
  t.equal(rows[2], { path = " x", note = "", n = "3" })
  t.equal(#rows, 2)
end)

t.test("a full disk is an error that says so, and the file before stays whole", function()
  local dir = t.tmpdir()
  local script = t.write(dir .. "/full.lua", string.format([[
    local files = require "medxai.base.files"
    files.write(%q, "before")
    files.write(%q, string.rep("x", 1 << 20))
  ]], dir .. "/f", dir .. "/f"))
  local r = t.run { exe = "/bin/sh", "-c", "ulimit -f 64; exec " .. t.quote(require("medxai.host").exe) .. " "
    .. t.quote(script) }
  t.equal(r.code, 1)
  t.ok(r.err:find("files: cannot write '" .. dir .. "/f': File too large. Raise the file size limit (ulimit -f) and "
    .. "run again; what was"
    .. " written before is whole.", 1, true), r.err)
  t.equal(t.read(dir .. "/f"), "before")
end)

t.test("of changed images it is said that they changed, not which hash they have", function()
  local Step, dir = require "medxai.run.step", t.tmpdir()
  local step = Step.open(dir, "fit", { lr = 0.1, train = { n = 3, manifest_sha256 = "aa" } })
  step:begin()
  local changed = Step.open(dir, "fit", { lr = 0.2, train = { n = 3, manifest_sha256 = "bb" } })
  t.ok(changed:changed())
  t.equal(changed:differences(), "lr is 0.1 there and 0.2 here, the images of train are not the same (their list, "
    .. "labels or contents)")
  changed = Step.open(dir, "fit", { lr = 0.1, train = { n = 3, manifest_sha256 = "aa", masks_sha256 = "cc" } })
  t.equal(changed:differences(), "the masks of train are not the same (their list or contents)")
end)
