-- cmake --install: the installed program works from any folder, and may be moved as a whole.
local t = require "t"
local host = require "medxai.host"

t.test("an installed program finds its library and its core from any folder", function()
  local build = host.exe:match "^(.*)/"
  local cache = io.open(build .. "/CMakeCache.txt")
  if not cache then t.skip "this program is installed itself" end
  cache:close()
  local dir = t.tmpdir()
  t.ok(os.execute(("cmake --install %s --prefix %s/here >/dev/null && mv %s/here %s/moved"):format(t.quote(build), dir,
    dir, dir)))
  local program = [[
    local host = require "medxai.host"
    require "medxai.core"
    print(host.scripts_dir)
    for line in io.lines "/proc/self/maps" do
      if line:find("medxai_core", 1, true) then print(line:match "%S+$") break end
    end
  ]]
  local r = t.run { "--threads", "1", "-e", program, exe = dir .. "/moved/bin/medxai-run", cwd = "/" }
  t.equal(r.err, "")
  t.equal(r.out, dir .. "/moved/share/medxai/scripts\n" .. dir .. "/moved/lib/medxai/medxai_core.so\n")
end)

t.test("the packages carry the program's version", function()
  local version = t.read(t.root .. "/host/host.h"):match 'HOST_VERSION "([^"]+)"'
  t.equal(t.read(t.root .. "/CMakeLists.txt"):match "project%(medxai VERSION (%S+)", version)
  t.equal(t.read(t.root .. "/pyproject.toml"):match '\nversion = "([^"]+)"', version)
end)
