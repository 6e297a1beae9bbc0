-- TensorBoard's event files: the bytes of every kind of record (from tests/reference/events.py), and the files of a
-- run.
local t = require "t"
local events = require "medxai.run.tensorboard"
local files = require "medxai.base.files"
local host = require "medxai.host"

local function hex(bytes) return (bytes:gsub(".", function(c) return string.format("%02x", c:byte()) end)) end

local png = "\x89PNG\r\n\x1a\n\0\0\0\x0dIHDR\0\0\0\2\0\0\0\3\x08\2\0\0\0\x3a" .. ("\0"):rep(10)

local golden = {
  { events.version(1.5), "1800000000000000a37f4b2209000000000000f83f1a0d627261696e2e4576656e743a322a28646c" },
  { events.scalar(2.25, 3, "loss/train", 0.75),
    "200000000000000029eda95009000000000000024010032a130a110a0a6c6f73732f747261696e150000403f2c8556a8" },
  { events.start(4.0, 300), "100000000000000095fbfe1809000000000000104010ac023a02080105386c1b" },
  { events.image(1.0, 1, "maps", png),
    "4700000000000000bac3fb9b09000000000000f03f10012a3a0a380a046d6170732230080310021803222889504e470d0a1a"
    .. "0a0000000d49484452000000020000000308020000003a000000000000000000002e0a36ae" },
  { events.text(1.0, 1, "config", "lr = 0.1"),
    "420000000000000079f36eaa09000000000000f03f10012a350a330a13636f6e6669672f746578745f73756d6d6172794212"
    .. "080712041202080142086c72203d20302e314a080a060a04746578742f32b477" },
  { events.scalar(1.0, 2 ^ 40 // 1 | 5, "x", -1e30),
    "1c00000000000000c8c1951d09000000000000f03f108580808080202a0a0a080a017815caf249f17d506e24" },
}

t.test("event files equal TensorBoard's byte for byte", function()
  for i, case in ipairs(golden) do t.equal(hex(events.record(case[1])), case[2], "record " .. i) end
end)

-- Steps of the scalar `tag` in a folder's files, in order; "start n" for a start mark.
local function steps(folder, tag)
  local list = {}
  for _, name in ipairs(files.list(folder)) do
    local bytes, at = files.read(folder .. "/" .. name), 1
    while at <= #bytes do
      local length = string.unpack("<I8", bytes, at)
      local payload = bytes:sub(at + 12, at + 11 + length)
      local step = payload:byte(10) == 0x10 and payload:byte(11)
      if payload:find("\x3a\x02\x08\x01", 1, true) then list[#list + 1] = "start " .. step
      elseif payload:find(tag, 1, true) then list[#list + 1] = tostring(step) end
      at = at + 16 + length
    end
  end
  return list
end

local experiment = [[
local xai = require "medxai"
local run = xai.run { name = "tiny", seed = 7 }
local data = xai.dataset.phantom { n_train = 24, n_val = 9, n_test = 9, size_px = 48 }
local model = xai.graph.network { name = "tiny", classes = data.classes, size_px = 48, cam_layer = "features",
  build = function(g, x)
    x = g:block("features", function() return g:max_pool2d("2", g:relu("1", g:conv2d("0", x, { 3, 8, 5, padding = 2 })), { 4 }) end)
    return g:linear("fc", g:flatten(nil, g:adaptive_avg_pool2d("pool", x, 2)), { 32, 3 })
  end }
run:fit(model, data, { optim = xai.optim.sgd { lr = 0.05 }, epochs = 5, batch = 4 })
run:explain(model, data.test, { methods = { "gradcam" }, images = 2 })
]]

t.test("a run writes each epoch once, its settings and pictures; after resuming nothing overlaps", function()
  local dir = t.tmpdir()
  local script = t.write(dir .. "/tiny.lua", experiment)
  local command = string.format("%s --threads 1 --quiet --out %s %s", t.quote(host.exe), t.quote(dir .. "/run"),
    t.quote(script))
  t.run { exe = "/bin/sh", "-c", string.format([[%s & pid=$!
    while kill -0 $pid 2>/dev/null && [ "$(cat %s/run/metrics.jsonl 2>/dev/null | wc -l)" -lt 2 ]; do sleep 0.01; done
    kill -9 $pid; wait $pid]], command, t.quote(dir)) }
  local r = t.run { exe = "/bin/sh", "-c", command }
  t.equal(r.code, 0, r.err)
  t.write(script, (experiment:gsub("gradcam", "sobel")))
  r = t.run { exe = "/bin/sh", "-c", command } -- of a training that is finished the epochs stay
  t.equal(r.code, 0, r.err)
  local folder, seen, last = dir .. "/run/events", {}, 0
  local dropped_from
  for _, step in ipairs(steps(folder, "loss/train")) do
    local start = step:match "^start (%d+)"
    if start then
      dropped_from = tonumber(start)
      for k in pairs(seen) do
        if k >= dropped_from then seen[k] = nil end
      end
    else
      t.ok(not seen[tonumber(step)], "epoch " .. step .. " twice")
      seen[tonumber(step)], last = true, tonumber(step)
    end
  end
  t.equal(seen, { true, true, true, true, true })
  t.equal(last, 5)
  local all = ""
  for _, name in ipairs(files.list(folder)) do all = all .. files.read(folder .. "/" .. name) end
  t.ok(all:find("config/text_summary", 1, true) and all:find("\x89PNG", 1, true) and all:find("explain", 1, true))
end)
