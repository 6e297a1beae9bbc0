-- ./bootstrap bench [start] [op] [forward] [train]: this program beside Python, interleaved (A B C A B C ...), so that
-- a busy machine slows all alike. Medians, their ratio (above 1: ours is faster), peak memory above the loaded model,
-- and the share of the machine's matrix-product roof that is reached. Peers: Debian's torch, and torch 2 where there is
-- one. It judges nothing and fails nothing: goals are printed beside the numbers. A network's name measures that one
-- alone.
-- ./bootstrap bench NAME ... with a file tests/bench/NAME.lua runs that bench.
local host = require "medxai.host"

local networks = { "squeezenet1_0", "mobilenet_v2", "efficientnet_b0", "densenet121", "resnet50", "inception_v3",
  "vgg19" }
local batches = { forward = 8, train = 8 }
local repeats = { start = 3, op = 3, forward = 3, train = 3 }
local bench = dofile(host.script_dir .. "/side.lua")
local here, quote, output, median, row, heading, geometric = bench.here, bench.quote, bench.output, bench.median,
  bench.row, bench.heading, bench.geometric
local start_child, find_peers = bench.start_child, bench.find_peers

-- ---- parts ----------------------------------------------------------------------------------------------------------

local parts = {}

function parts.start(peers)
  local commands = { { "ours", ("%s -e %s"):format(quote(host.exe),
    quote 'local torch = require "medxai.torch"; local _ = torch.ones(2) + 1') } }
  for _, p in ipairs(peers) do
    commands[#commands + 1] = { p.name, ("%s %s/start.py"):format(quote(p.python), here) }
  end
  local times, imports = {}, {}
  for i, c in ipairs(commands) do
    times[i] = {}
    imports[i] = output(c[2]) -- also warms the disk's cache
  end
  for _ = 1, repeats.start do
    for i, c in ipairs(commands) do
      local start = host.now()
      os.execute(c[2] .. " >/dev/null 2>&1")
      times[i][#times[i] + 1] = host.now() - start
    end
  end
  print "\nStart of the program to its first operator (goal: 8 times as fast as a thesis script's imports)"
  local widths = heading { "", "seconds", "ratio" }
  for i, c in ipairs(commands) do
    row({ c[1], ("%.2f"):format(median(times[i])), ("%.1f"):format(median(times[i]) / median(times[1])) }, widths)
  end
  for i = 2, #commands do print(("%s imports: %s"):format(commands[i][1], imports[i])) end
end

function parts.op(_, children)
  print "\nOne operator call on tiny tensors, without gradients, microseconds (goal: no slower than Python's)"
  local head = { "call" }
  for i, c in ipairs(children) do head[i + 1] = c.name end
  for i = 2, #children do head[#head + 1] = "ratio " .. i - 1 end
  local widths, ratios = heading(head), {}
  for _, name in ipairs { "add", "mul_", "relu", "view", "sum", "matmul" } do
    local times = {}
    for i in ipairs(children) do times[i] = {} end
    for _ = 1, repeats.op do
      for i, c in ipairs(children) do times[i][#times[i] + 1] = c:ask("op", name) end
    end
    local cells = { name }
    for i in ipairs(children) do cells[#cells + 1] = ("%.2f"):format(median(times[i])) end
    for i = 2, #children do
      ratios[i] = ratios[i] or {}
      local ratio = median(times[i]) / median(times[1])
      table.insert(ratios[i], ratio)
      cells[#cells + 1] = ("%.2f"):format(ratio)
    end
    row(cells, widths)
  end
  for i = 2, #children do print(("geometric mean against %s: %.2f"):format(children[i].name, geometric(ratios[i]))) end
end

-- Warm-up, then interleaved repeats of one word; gives medians of seconds and MB above the mark before.
local function interleaved(children, word, times)
  local base, list = {}, {}
  for i, c in ipairs(children) do
    if c:ask(word) > 4 then times = math.min(times, 2) end -- the whole bench must end within ten minutes
    base[i], list[i] = c.base, {}
    c:ask "mark"
  end
  for _ = 1, times do
    for i, c in ipairs(children) do table.insert(list[i], c:ask(word)) end
  end
  local seconds, above = {}, {}
  for i, c in ipairs(children) do
    seconds[i] = median(list[i])
    above[i] = c:ask "peak" - base[i]
  end
  return seconds, above
end

local roof = 0.0 -- GFLOP/s of the best matrix product so far

local function model_part(what, children, flops_factor, goal)
  print(("\n%s, batch %d, float32: seconds, ratio, MB above the loaded model, share of the matrix-product roof "
    .. "(goal: %s)"):format(
    what == "train" and "Training step (SGD, momentum)" or "Forward pass (no gradients)", batches[what], goal))
  local head = { "network" }
  for _, c in ipairs(children) do head[#head + 1] = c.name end
  for i = 2, #children do head[#head + 1] = "ratio " .. i - 1 end
  for _, c in ipairs(children) do head[#head + 1] = "MB " .. c.name end
  head[#head + 1] = "of roof"
  local widths, ratios, more = heading(head), {}, {}
  for _, network in ipairs(networks) do
    local flops
    for i, c in ipairs(children) do
      c.base = c:ask("load", network, batches[what])
      if i == 2 then flops = c:ask "flops" end
      if what == "train" then c:ask "training" end
    end
    for _ = 1, 3 do roof = math.max(roof, children[1]:ask "gemm") end
    local seconds, above = interleaved(children, what, repeats[what])
    local cells = { network }
    for i in ipairs(children) do cells[#cells + 1] = ("%.3f"):format(seconds[i]) end
    for i = 2, #children do
      ratios[i] = ratios[i] or {}
      table.insert(ratios[i], seconds[i] / seconds[1])
      cells[#cells + 1] = ("%.2f"):format(seconds[i] / seconds[1])
      if above[1] > above[i] then more[#more + 1] = network .. " (" .. children[i].name .. ")" end
    end
    for i in ipairs(children) do cells[#cells + 1] = ("%.0f"):format(above[i]) end
    cells[#cells + 1] = flops and ("%.0f %%"):format(100 * flops_factor * flops / seconds[1] / 1e9 / roof) or "-"
    row(cells, widths)
    for _, c in ipairs(children) do c:ask "drop" end
  end
  for i = 2, #children do print(("geometric mean against %s: %.2f"):format(children[i].name, geometric(ratios[i]))) end
  print(#more == 0 and "peak memory is nowhere above a peer's"
    or "peak memory is above a peer's in: " .. table.concat(more, ", "))
end

function parts.forward(_, children) model_part("forward", children, 1, "1.3 times as fast") end
function parts.train(_, children) model_part("train", children, 3, "1.35 times as fast in the geometric mean") end

-- ---- the run --------------------------------------------------------------------------------------------------------

local own = (...) and (...):find "^%l+$" and not parts[...] and loadfile(here .. "/" .. (...) .. ".lua")
if own then return own(select(2, ...)) end

local order = { "start", "op", "forward", "train" }
local wanted = {}
for _, name in ipairs { ... } do
  if not parts[name] then
    for n in name:gmatch "[^,]+" do
      if n:find "^%d+$" then for k in pairs(repeats) do repeats[k] = tonumber(n) end
      elseif parts[n] then wanted[n] = true
      else networks = { n } end
    end
  else
    wanted[name] = true
  end
end
if next(wanted) == nil then
  for _, name in ipairs(order) do wanted[name] = true end
end

io.stdout:setvbuf "line"
local peers = find_peers()
if #peers == 0 then
  print "no Python with torch and torchvision here: ours alone (apt-get install python3-torch python3-torchvision)"
end
local dir = output "mktemp -d ${TMPDIR:-/tmp}/medxai-bench.XXXXXX"
local children = {}
local ok, message = xpcall(function()
  if wanted.op or wanted.forward or wanted.train then
    children[1] = start_child("ours", ("%s %s/worker.lua"):format(quote(host.exe), here), dir)
    for _, p in ipairs(peers) do
      children[#children + 1] = start_child(p.name, ("%s %s/worker.py"):format(quote(p.python), here), dir)
    end
    for _, c in ipairs(children) do c:ask "hello" end
    print(("%d cores; matrix product 2048 x 2048: %.0f GFLOP/s (ours), %s"):format(host.cores, children[1]:ask "gemm",
      #children > 1 and ("%.0f (%s)"):format(children[2]:ask "gemm", children[2].name) or "no peer"))
  end
  for _, name in ipairs(order) do
    if wanted[name] then parts[name](peers, children) end
    io.stdout:flush()
  end
end, function(m) return m end)
for _, c in ipairs(children) do c:close() end
os.execute("rm -rf " .. quote(dir))
if not ok then error(message, 0) end
