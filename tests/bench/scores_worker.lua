-- Our side of the benches of metrics: as worker.lua, one word per line. Its argument is the number of maps, 1 or 10.
-- scores_worker.py (one map, pytorch-grad-cam) and compare_worker.py (ten maps, Quantus) answer the same words.
local host = require "medxai.host"
local measure = dofile(host.script_dir .. "/measure.lua")
local torch = require "medxai.torch"
local core = require "medxai.core"
local contexts = require "medxai.score.context"
local measure_map = require "medxai.score.measure"
local metric = require "medxai.score.registry"
local xai = require "medxai"

local most = tonumber((...))
local model, x, maps

local sets = {
  confidence = { { "confidence_change", as = "softmax" }, { "confidence_drop", as = "softmax" },
    { "confidence_increase", as = "softmax" } },
  morf = { { "road_most_relevant_first", percentiles = { 25, 50, 75 } } },
  combined = { { "road_combined", percentiles = { 20, 40, 60, 80 } } },
  deletion = { { "deletion", removal = "black" } },
  faithfulness = { { "faithfulness_correlation", removal = "black" } },
  infidelity = { { "infidelity", removal = "black" } },
}
sets.road = sets.morf
sets.all = { sets.faithfulness[1], sets.infidelity[1], sets.road[1] }

-- Seconds of all metrics of a set for one image and its maps, from nothing: no score is known beforehand. clock: what
-- tells the time, by default the wall's.
local function judge(name, clock)
  clock = clock or host.now
  local entries = metric.entries(sets[name])
  local record = { status = "ok", image_id = "00000000000000aa", maps = "map",
    target = { kind = "class", as = "logit", class = "a", index = 0 } }
  local split = { n = 1, name = "test", item = function() return { id = record.image_id, path = "made" } end,
    batch = function() return { x = x } end }
  local start = clock()
  local scope <close> = core.memory.scope() -- luacheck: ignore
  local subject <close> = contexts.subject({ model = model, split = split, run = { seed = 42 },
    scorer = require("medxai.perturb.scorer").new(model) }, 1)
  for _, map in ipairs(maps) do
    local kept = {}
    for _, m in ipairs(entries) do measure_map(m, map, contexts.new(subject, map, record, m, kept)) end
  end
  return clock() - start
end

local answers = {}

function answers.hello() return core.tensor.torch_version() end

-- A gray image with three equal channels, as X-rays have, and smooth maps with their maximum at different heights.
function answers.load(name, px)
  torch.manual_seed(1)
  model = xai.models[name] { classes = { "a", "b", "c" } }
  model:eval()
  local n = math.tointeger(tonumber(px or model.size_px))
  local y, across = torch.arange(n, { dtype = "float32" }):view({ n, 1 }),
    torch.arange(n, { dtype = "float32" }):view({ 1, n })
  local gray = (torch.sin(y * 0.11) * torch.cos(across * 0.07) * 0.3 + 0.5 + torch.sin(y * across * 0.37)
    * 0.1):clamp(0, 1)
  x = gray:view({ 1, 1, n, n }):expand({ 1, 3, n, n }):contiguous()
  maps = {}
  for k = 1, most do
    local height = (most == 1 and 0.4 or 0.08 * k) * n
    maps[k] = torch.exp((y - height):pow(2):add((across - 0.6 * n):pow(2)):div(-2 * (0.25 * n) ^ 2))
  end
  judge "confidence"
  return measure.memory_mark()
end

function answers.judge(name) return judge(name) end
function answers.judge_cpu(name) return judge(name, os.clock) end
function answers.mark() return measure.memory_mark() end
function answers.peak() return measure.status "VmHWM" end

function answers.drop()
  model:close()
  model, x, maps = nil, nil, nil
  collectgarbage()
  collectgarbage()
  core.memory.empty_cache()
  return 0
end

measure.serve(answers)
