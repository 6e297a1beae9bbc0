-- ./bootstrap bench grid [NETWORK ...] [--per_class N]: the thesis' grid search (full shape, few images) by a PyTorch
-- script written as the thesis' was, a loop over cells, and by run:grid, depth by depth in turn. Ours three times:
-- exact (NCHW, no cache: the losses must be the peer's to the last bit on the same libtorch), fast (fixed layout,
-- cached frozen parts), and by successive halving. It judges nothing: goals are printed beside the numbers (2.5x in
-- float32, depth 0 50x, 10x by halving, within 20 % of the bound).
local host = require "medxai.host"
local canon = require "medxai.base.json"
local files = require "medxai.base.files"
local bench = dofile(host.script_dir .. "/side.lua")

local networks, per_class = {}, 8
for _, word in ipairs { ... } do
  if tonumber(word) then per_class = math.tointeger(tonumber(word)) else networks[#networks + 1] = word end
end
if #networks == 0 then networks = { "squeezenet1_0", "vgg19" } end

local data = (os.getenv "MEDXAI_SHARED" or bench.here .. "/../../../shared") .. "/data/covid-cxr"
if not files.is_folder(data) then
  print("bench grid: no ../shared/data")
  return
end

local dir = bench.output "mktemp -d ${TMPDIR:-/tmp}/medxai-grid.XXXXXX"
local threads = host.options.threads

local function ours(...) -- grid_work.lua's last line
  local words = { bench.quote(host.exe), "--quiet", "--threads", tostring(threads), bench.here .. "/grid_work.lua" }
  for _, word in ipairs { ... } do words[#words + 1] = bench.quote(tostring(word)) end
  local pipe = io.popen(table.concat(words, " "))
  local last
  for line in pipe:lines() do last = line end
  if not pipe:close() then error("grid_work.lua failed", 0) end
  return canon.read(last)
end

local function peer_of()
  local list = bench.find_peers()
  return list[1]
end

local function theirs(peer, network, depth)
  local line = bench.output(("OMP_NUM_THREADS=%d PYTHONPATH=%s %s %s/grid.py %s %s %s %d"):format(threads,
    bench.quote(bench.here .. "/../reference"), bench.quote(peer.python),
    bench.here, bench.quote(dir), network, depth, threads))
  return canon.read(line:match "[^\n]+$")
end

-- ---- comparing ------------------------------------------------------------------------------------------------------

-- Cells by their values, each { losses, val } epoch by epoch.
local function gather(into, result)
  for key, cell in pairs(result.cells) do into[key] = cell end
end

local function identical(a, b)
  local same, all = 0, 0
  for _, key in ipairs(require("medxai.base.check").sorted_keys(a)) do
    for epoch, loss in ipairs(a[key].loss) do
      all = all + 1
      same = same + (b[key] and b[key].loss[epoch] == loss and 1 or 0)
    end
  end
  return same, all
end

local function best_of(cell)
  local best = 0.0
  for _, v in ipairs(cell.accuracy) do best = math.max(best, v) end
  return best
end

-- The winner of one set of cells judged by another's scores.
local function compare_winners(peer, mine, n_val)
  local keys, a, b = require("medxai.base.check").sorted_keys(peer), {}, {}
  local winner, top = nil, -1
  for i, key in ipairs(keys) do
    a[i], b[i] = best_of(peer[key]), mine[key] and best_of(mine[key]) or 0
    if b[i] > top then winner, top = key, b[i] end
  end
  local best = 0
  for _, v in ipairs(a) do best = math.max(best, v) end
  local se = math.sqrt(best * (1 - best) / n_val)
  local regret = best - best_of(peer[winner])
  print(("  our winner %s: the peer gives it %.4f, its own best is %.4f (standard error %.4f): regret %.4f, %s; "
    .. "rank correlation %.2f"):format(winner, best_of(peer[winner]), best, se,
    regret, regret <= se and "within one standard error" or "FURTHER than one standard error",
    require("medxai.stats.agreement").rank_correlation(a, b) or 0 / 0))
end

-- ---- one network ----------------------------------------------------------------------------------------------------

local function one(network, peer)
  local facts = ours("prepare", dir, network, data, per_class)
  print(("\n%s: %d cells, %d training and %d validation images, %d threads"):format(network, facts.cells, facts.n_train,
    facts.n_val, threads))
  local variants = { "exact", "fast", "bf16", "halving" }
  if not facts.has_bf16 then table.remove(variants, 3) end
  local total, cells, widths = { peer = 0.0 }, { peer = {} }, nil
  local head = { "depth", peer and peer.name or "no peer" }
  for _, v in ipairs(variants) do head[#head + 1] = v end
  for _, v in ipairs(variants) do head[#head + 1] = "ratio " .. v end
  widths = bench.heading(head)
  local counts = {}
  for depth = 0, 3 do
    local row, p = { tostring(depth) }, peer and theirs(peer, network, depth)
    row[2] = p and ("%.1f"):format(p.seconds) or "-"
    if p then
      total.peer = total.peer + p.seconds
      gather(cells.peer, p)
    end
    local ratios = {}
    for i, v in ipairs(variants) do
      local r = ours("run", dir, network, data, per_class, depth, v)
      total[v], cells[v] = (total[v] or 0.0) + r.seconds, cells[v] or {}
      gather(cells[v], r)
      row[#row + 1] = ("%.1f"):format(r.seconds)
      ratios[i] = p and ("%.2f"):format(p.seconds / r.seconds) or "-"
      counts[v] = counts[v] or {}
      for k, n in pairs(r.work) do counts[v][k] = (counts[v][k] or 0) + n end
    end
    for _, ratio in ipairs(ratios) do row[#row + 1] = ratio end
    bench.row(row, widths)
  end
  local row = { "all", ("%.1f"):format(total.peer) }
  for _, v in ipairs(variants) do row[#row + 1] = ("%.1f"):format(total[v]) end
  for _, v in ipairs(variants) do row[#row + 1] = peer and ("%.2f"):format(total.peer / total[v]) or "-" end
  bench.row(row, widths)
  if peer then
    local same, all = identical(cells.peer, cells.exact)
    print(("  exact: %d of %d epochs' training losses equal the peer's to the last bit%s"):format(same, all,
      same == all and ", hence the winner too" or ""))
    compare_winners(cells.peer, cells.fast, facts.n_val)
  end
  local c = counts.fast
  print(("  multiply-adds: every cell alone %.3g; trajectories shared %.3g (%.2fx less); frozen parts cached too "
    .. "%.3g (%.2fx less); what is left of the ratio is layout and overhead"):format(
    c.alone, c.shared, c.alone / c.shared, c.cached, c.shared / c.cached))
  print(("  at the measured training speed, %.1f GMAC/s, the necessary work takes %.1f s; fast took %.1f s (%.0f %% "
    .. "more; goal: within 20 %%)"):format(facts.speed / 1e9, c.cached / facts.speed, total.fast,
    100 * (total.fast * facts.speed / c.cached - 1)))
end

local peer = peer_of()
if not peer then print "no Python with torch and torchvision here: ours alone" end
local ok, problem = pcall(function()
  for _, network in ipairs(networks) do one(network, peer) end
end)
os.execute("rm -rf " .. bench.quote(dir))
if not ok then error(problem, 0) end
