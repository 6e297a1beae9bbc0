-- Ctrl-C stops a long backward pass soon.
local t = require "t"

local function now()
  local pipe <close> = io.popen "date +%s.%N"
  return pipe:read "n"
end

t.test("Ctrl-C stops a backward pass of several seconds at the next node", function()
  local dir = t.tmpdir()
  local script = t.write(dir .. "/long.lua", ([[
    local torch = require "medxai.torch"
    local x = torch.randn(700, 700):requires_grad_()
    local y = x
    for _ = 1, 120 do y = y:mm(x) * 0.03 end
    local loss = y:sum()
    local pid = io.open("/proc/self/stat"):read "n"
    os.execute("(sleep 0.4; date +%%s.%%N > DIR/sent; kill -INT " .. pid .. ") &")
    loss:backward()
    io.open("DIR/finished", "w"):close()
  ]]):gsub("%%%%", "%%"):gsub("DIR", dir))
  local r = t.run { "--threads", "1", script, timeout = 60 }
  local ended = now()
  t.equal(r.code, 130, r.err)
  t.equal(r.err, "medxai-run: interrupted (SIGINT)\n")
  t.equal(io.open(dir .. "/finished"), nil)
  local took = ended - tonumber(t.read(dir .. "/sent"))
  t.ok(took < 1, took .. " s from the signal to the end")
end)
