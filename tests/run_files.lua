-- Whole files, logs with a torn end, CSV, a full disk.
local t = require "t"
local files = require "medxai.files"

t.test("a file is written whole, its folder made", function()
  local path = t.tmpdir() .. "/a/b/c.txt"
  files.write(path, "one")
  files.write(path, "two")
  t.equal(files.read(path), "two")
end)

t.test("what processes killed in the middle of a write have left is in nobody's way, and tidied up", function()
  local dir = t.tmpdir()
  local own = require("medxai.file").pid()
  for n = 0, 300 do t.write(("%s/.f.tmp%d-%d"):format(dir, own, n), "half") end
  files.write(dir .. "/f", "whole")
  t.equal(files.read(dir .. "/f"), "whole")
  for _, name in ipairs { ".f.tmp999999999-3", "checkpoint.pt.tmp-999999999", ".f.tmp1-3", "weights.pt.tmp-1", "mine.tmp" } do t.write(dir .. "/" .. name, "half") end
  files.tidy(dir)
  local left = {}
  for _, name in ipairs(files.list(dir)) do
    if name ~= "." and name ~= ".." then left[#left + 1] = name end
  end
  t.equal(left, { ".f.tmp1-3", "f", "mine.tmp", "weights.pt.tmp-1" })
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
  files.write_csv(path, { "path", "note", "n" }, { { path = 'a,"b"', note = "two\nlines", n = 0.1 }, { path = "x", n = 3 } })
  local rows, columns = files.read_csv(path)
  t.equal(columns, { "path", "note", "n" })
  t.equal(rows[1], { path = 'a,"b"', note = "two\nlines", n = "0.1" })
  t.equal(rows[2], { path = "x", note = "", n = "3" })
  t.equal(#rows, 2)
end)

t.test("a full disk is an error that says so, and the file before stays whole", function()
  local dir = t.tmpdir()
  local script = t.write(dir .. "/full.lua", string.format([[
    local files = require "medxai.files"
    files.write(%q, "before")
    files.write(%q, string.rep("x", 1 << 20))
  ]], dir .. "/f", dir .. "/f"))
  local r = t.run { exe = "/bin/sh", "-c", "ulimit -f 64; exec " .. t.quote(require("medxai.host").exe) .. " " .. t.quote(script) }
  t.equal(r.code, 1)
  t.ok(r.err:find("files: cannot write '" .. dir .. "/f': File too large. Raise the file size limit (ulimit -f) and run again; what was"
    .. " written before is whole.", 1, true), r.err)
  t.equal(t.read(dir .. "/f"), "before")
end)

t.test("of changed images it is said that they changed, not which hash they have", function()
  local Step, dir = require "medxai.step", t.tmpdir()
  local step = Step.open(dir, "fit", { lr = 0.1, train = { n = 3, manifest_sha256 = "aa" } })
  step:begin()
  local changed = Step.open(dir, "fit", { lr = 0.2, train = { n = 3, manifest_sha256 = "bb" } })
  t.ok(changed:changed())
  t.equal(changed:differences(), "lr is 0.1 there and 0.2 here, the images of train are not the same (their list, labels or contents)")
  changed = Step.open(dir, "fit", { lr = 0.1, train = { n = 3, manifest_sha256 = "aa", masks_sha256 = "cc" } })
  t.equal(changed:differences(), "the masks of train are not the same (their list or contents)")
end)
