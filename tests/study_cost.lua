-- What a comparison is predicted to take, from made speeds and made cells: no clock is asked.
local t = require "t"
local files = require "medxai.base.files"
local host = require "medxai.host"
local time = require "medxai.steps.study_time"

local metrics = {
  { name = "road_combined", options = { percentiles = { 25, 50, 75 } }, definition = { needs = { model = true } } },
  { name = "deletion", options = { steps = 16, removal = { "black", "blur(31)" } },
    definition = { needs = { model = true } } },
  { name = "faithfulness_correlation", options = {}, definition = { needs = { model = true } } },
  { name = "energy_inside", options = {}, definition = { needs = { mask = true } } },
}

t.test("passes are counted as they run, in whole chunks of eight", function()
  -- ROAD asks for 6 images, each curve for 17; the unchanged image is one
  t.equal(time.judging(metrics), { each = 8 + 24 + 24, again = 0, original = 8, per_image = 264 })
  t.equal(time.judging { metrics[1], metrics[4] }, { each = 8, again = 0, original = 0, per_image = 0 })
end)

-- A study of a fast, a slow and a large network, three blocks of ten images, and its cells.
local function made()
  local study = { controls = { "swap" }, swaps = 1, dir = t.tmpdir(),
    models = { { name = "fast" }, { name = "slow" }, { name = "large" } } }
  local entries = { { label = "cam", layers = { "features" } }, { label = "saliency" },
    { label = "sobel", baseline = true } }
  local speeds, list = {}, {}
  for k, one in ipairs { { 1, 3, 100 }, { 5, 20, 100 }, { 10, 30, 200 } } do
    speeds[study.models[k]] = { forward = one[1], gradient = one[2], pixels = one[3] }
  end
  for b = 1, 3 do
    for j, m in ipairs(study.models) do
      for k, e in ipairs(entries) do
        local images = {}
        for i = 1, 10 do images[i] = 10 * (b - 1) + i end
        list[#list + 1] = { id = ("%d%d%d"):format(b, j, k), model = m, entry = e, block = { images = images },
          place = { j, k, 1, b } }
      end
    end
  end
  return study, { entries = entries, metric_entries = metrics, images = 30 }, speeds, list
end

-- What a cell takes where all is as predicted: a map, two judged maps of 56 passes and 7 s besides on 100 pixels, the
-- unchanged image; of the first method an image's 264 shared passes.
local function truth(speeds, cell)
  local own, label = speeds[cell.model], cell.entry.label
  local size = own.pixels / 100
  local map = label == "cam" and 2 * own.forward or label == "saliency" and 1.5 * own.gradient or 0.5 * size
  local shared = label == "cam" and 264 * own.forward or 0
  return { status = "finished", images = 10, map_seconds = 10 * map,
    seconds = 10 * (map + 2 * (56 * own.forward + 7 * size) + 8 * own.forward + shared) }
end

local map_of = { cam = 2, saliency = 4.5, sobel = 0.5 }

local function predicted()
  local study, asked, speeds, list = made()
  local by_entry = {}
  for _, e in ipairs(asked.entries) do by_entry[e] = { map = map_of[e.label], judge = 56 + 7 + 8 } end
  return time.prediction(study, asked, speeds, study.models[1], by_entry), list, speeds, study
end

t.test("a prediction of speeds and a trial on the fastest network holds for all networks", function()
  local prediction, list, speeds = predicted()
  local sum = 0
  for _, cell in ipairs(list) do
    local real = truth(speeds, cell).seconds
    t.near(prediction:of(cell), real, 1e-9 * real)
    sum = sum + real
  end
  t.near(prediction:sum(list), sum, 1e-9 * sum)
end)

t.test("cells that are done replace the trial: first on the fastest network, then on each", function()
  local prediction, list, speeds = predicted()
  for _, one in pairs(prediction.tried) do one.map, one.judge = 100 * one.map, 100 * one.judge end
  for _, cell in ipairs(list) do
    if cell.model.name == "fast" and cell.place[4] == 1 then prediction:learn(cell, truth(speeds, cell)) end
  end
  for _, cell in ipairs(list) do
    local real = truth(speeds, cell).seconds
    t.near(prediction:of(cell), real, 1e-9 * real, cell.id)
  end
  -- the slow network takes three times as long as its speed says: known of the method that was done, and expected of
  -- the others
  local first, rest = nil, {}
  for _, cell in ipairs(list) do
    if cell.model.name == "slow" and not first then first = cell
    elseif cell.model.name == "slow" then rest[#rest + 1] = cell end
  end
  local state, real = truth(speeds, first), 0
  state.seconds, state.map_seconds = 3 * state.seconds, 3 * state.map_seconds
  prediction:learn(first, state)
  for _, cell in ipairs(rest) do real = real + 3 * truth(speeds, cell).seconds end
  t.ok(math.abs(prediction:left(rest) / real - 1) < 0.25, prediction:left(rest) / real)
  t.near(prediction:of(rest[1]), truth(speeds, rest[1]).seconds, 1e-6) -- the prediction itself is not bent
end)

t.test("cost.json says whose cells they were, and compares their own seconds, not the time of this start", function()
  local prediction, list, speeds, study = predicted()
  prediction.before, prediction.began, prediction.at_start = {}, host.now(), prediction:sum(list)
  prediction.processor, prediction.made = os.clock(), {}
  prediction.by_first_block = 1000
  for i, cell in ipairs(list) do
    cell.state, prediction.before[cell.id], prediction.made[cell.id] = truth(speeds, cell), i <= 4, i > 20
  end
  -- 23 cells since it began: by three processes in a third of their seconds; a slow beginning makes no half process
  local new = prediction.at_start
  for i = 1, 4 do new = new - list[i].state.seconds end
  t.near(prediction:processes(list, new / 3), 3, 1e-9)
  t.equal(prediction:processes(list, 2 * new), 1.0)
  prediction:done(list)
  local cost = files.read_data(study.dir .. "/cost.json")
  t.near(cost.seconds_of_cells, prediction.at_start, 1e-6)
  t.equal({ cost.cells, cost.cells_of_earlier_starts, cost.cells_of_other_processes, cost.cells_of_this_start,
    cost.predicted_by_first_block }, { 27, 4, 16, 7, 1000 })
  t.near(cost.predicted_at_start, prediction.at_start, 1e-6)
  local text = require("medxai.show.report_study").cost_text
  cost.seconds_of_cells, cost.predicted_at_start = 3723, 3600
  t.equal(text(cost), "The 27 cells took 1:02:03 of one process; predicted were 1:00:00 at the start and 16:40 after "
    .. "the fastest network's first block. The last start computed 7 of them, earlier starts 4, other processes 16.")
  cost.cells_of_this_start, cost.predicted_by_first_block = 27, nil
  t.equal(text(cost), "The 27 cells took 1:02:03 of one process; predicted were 1:00:00 at the start.")
end)

-- Cells of random weights of a network whose trained maps took `seconds`; done[k]: what the k-th took.
local function cascade(seconds, count, done)
  local p = { entries = { 1, 2, 3, 4 }, cascade = {},
    trained = { facts = function() return { seconds = seconds } end } }
  for k = 1, count do
    p.cascade[k] = { entries = k % 2 == 1 and { 1, 2, 3, 4 } or { 1, 2 }, done = function() return done[k] ~= nil end,
      facts = function() return { seconds = done[k] } end }
  end
  return p
end

t.test("the gate's prediction is of its trained maps and the comparison of maps, and follows what was done", function()
  local predict = require("medxai.steps.sanity").predict
  -- ten images; a map costs 10 s / (4 x 10), its comparison 0.25 s: a cell of four methods 20 s, of two 10 s
  t.equal({ predict({ cascade(10, 4, {}), cascade(30, 2, {}) }, 0.25, 10) }, { 120, 120 })
  -- the first network went twice as slow: its own two cells, and the other network's
  t.equal({ predict({ cascade(10, 4, { 40, 20 }), cascade(30, 2, {}) }, 0.25, 10) }, { 120, 60 + 120 })
  t.equal({ predict({ cascade(10, 2, { 20, 10 }), cascade(30, 2, { 80, 40 }) }, 0.25, 10) }, { 90, 0 })
end)
