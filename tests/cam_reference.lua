-- The twelve CAMs of pytorch-grad-cam 1.5.7, plain and smoothed, against its maps in float64 on small networks with
-- ReLU and SiLU (tests/reference/cam.py toy): as it is against compat, with out-of-place rectifiers and nothing added
-- to divisors against our default. Signs of principal
-- components are the reference's, image by image and view by view; that ours follow their own rule is tested in
-- cam_core.
local t = require "t"
local tiny = require "tinyexplain"
local tinycam = require "tinycam"
local torch = require "medxai.torch"
local batches = require "medxai.explain.runner"
local core = require "medxai.core"
local explain = require "medxai.steps.explain"
local host = require "medxai.host"
local map = require "medxai.explain.map"

local was_quiet = host.options.quiet
host.options.quiet = true

-- Cells of the reference by "act layers form": list of { method, smoothing, signs, row }.
local function read_cells()
  local groups, order = {}, {}
  local row = 0
  for line in io.lines(t.root .. "/tests/reference/cam/cells.txt") do
    local words = {}
    for word in line:gmatch("%S+") do words[#words + 1] = word end
    local key = words[1] .. " " .. words[2] .. " " .. words[5]
    if not groups[key] then order[#order + 1] = key end
    groups[key] = groups[key] or {}
    local signs = {}
    for i = 6, #words do signs[#signs + 1] = tonumber(words[i]) end
    table.insert(groups[key], { method = words[3], smoothing = words[4], signs = signs, row = row })
    row = row + 1
  end
  return groups, order
end

local function entry_of(cell)
  local aug, eigen = cell.smoothing == "aug" or cell.smoothing == "both",
    cell.smoothing == "eigen" or cell.smoothing == "both"
  local e = { cell.method, aug_smooth = aug }
  if cell.method ~= "eigencam" and cell.method ~= "eigengradcam" then e.eigen_smooth = eigen end
  return e
end

-- Our map of one image (H, W), its principal components turned as the reference's were.
local function signed_map(store, record, cell, number, method, compat)
  local correlations = record.facts and record.facts.sign_correlation
  if not correlations then return store:map(record) end
  if type(correlations) ~= "table" then correlations = { correlations } end
  local raws, layers = store:raws(record), math.max(1, #record.layers)
  local views = record.views and #record.views or 1
  local turned = {}
  for k, raw in ipairs(raws) do
    raw = raw:view({ 1, views, raw:size(-2), raw:size(-1) }):clone()
    for v = 1, views do
      local call = (v - 1) * layers + k
      local theirs, ours = cell.signs[(call - 1) * 2 + number], correlations[call] >= 0 and 1 or -1
      raw:select(1, v - 1):mul_(theirs * ours)
    end
    turned[k] = views == 1 and raw:squeeze(1) or raw
  end
  return map.from_raw(turned, 24, 34, { views = batches.views, cut = method.cut, once = method.once,
    compat = compat, precision = "float64" }):squeeze(0)
end

local function run_group(key, cells)
  local scope <close> = core.memory.scope()
  local act, layers, form = key:match("^(%S+) (%S+) (%S+)$")
  local methods, list = {}, {}
  for i, cell in ipairs(cells) do methods[i] = entry_of(cell) end
  for name in layers:gmatch("[^+]+") do list[#list + 1] = name end
  local dir = t.tmpdir()
  local result = explain.run(tiny.run(dir), tinycam.model(act), tiny.tensor_split(tinycam.images()),
    { methods = methods, layer = list, images = "all", compat = form == "asis" and "pytorch-grad-cam" or nil,
      figures = false })
  return result, require("medxai.explain.store").open(dir)
end

local function compare(groups, key, change)
  local reference = torch.load_npy(t.root .. "/tests/reference/cam/maps.npy")
  local result, store = run_group(key, groups[key])
  local worst, where = 0, ""
  for k, cell in ipairs(groups[key]) do
    for number = 1, 2 do
      local record = result.records[(number - 1) * #groups[key] + k]
      t.equal(record.method, cell.method)
      local method = require("medxai.explain.methods." .. cell.method)
      local made = signed_map(store, record, change and change(cell) or cell, number, method, key:find " asis$")
      local rows, columns = torch.arange(0, 24, 2), torch.arange(0, 34, 2)
      local off = (made:index_select(0, rows):index_select(1, columns):double() - reference:select(0,
        cell.row):select(0, number - 1):double()):abs():max():item()
      if not (off <= worst) then worst, where = off, cell.method .. " " .. cell.smoothing .. " image " .. number end
    end
  end
  return worst, where
end

local groups, order = read_cells()

for _, key in ipairs(order) do
  t.test(key .. ": every method and smoothing within 2e-6 of the reference", function()
    local worst, where = compare(groups, key)
    t.ok(worst < 2e-6, string.format("%s is off by %.2g", where, worst))
  end)
end

t.test("mutants fail: a sign turned, and the other form", function()
  local worst = compare(groups, "relu features.3 out", function(cell)
    local signs = {}
    for i, s in ipairs(cell.signs) do signs[i] = -s end
    return { signs = signs }
  end)
  t.ok(worst > 1e-2)
  local compat = { ["relu features.3 out"] = groups["relu features.3 asis"] }
  t.ok(compare(compat, "relu features.3 out") > 1e-2)
end)

host.options.quiet = was_quiet
