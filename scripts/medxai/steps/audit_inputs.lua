-- The audit's first question: can a class be told without the lungs? The same training on several inputs (whole images,
-- lungs alone, all but the lungs, the border, the lungs' outline), each judged on the same test images; before any
-- training the same by a cheap probe of 60 components of a thumbnail. Images that an input refuses are left out of all
-- inputs. It refuses inputs whose test images are not the same.
local check = require "medxai.base.check"
local delong = require "medxai.stats.delong"
local evaluate = require "medxai.steps.evaluate"
local files = require "medxai.base.files"
local host = require "medxai.host"
local listing = require "medxai.data.listing"
local logits_of = require "medxai.stats.logits"
local multiple = require "medxai.stats.multiple"
local power = require "medxai.stats.power"
local predictions = require "medxai.steps.predictions"
local probe = require "medxai.stats.probe"
local torch = require "medxai.torch"
local units = require "medxai.stats.units"
local verdict = require "medxai.stats.verdict"

local inputs = {}

inputs.without_lungs = { outside = true, border = true, shape = true }
inputs.side_px = 32 -- of the probe's thumbnails

-- ---- data of every input --------------------------------------------------------------------------------------------

-- The data once more without some paths; as it is where there are none.
local function reread(data, left_out)
  if #left_out == 0 then return data end
  local options, skip = {}, {}
  for key, value in pairs(data.options) do options[key] = value end
  for _, path in ipairs(check.sorted_keys(listing.skips({}, data.options.skip))) do skip[#skip + 1] = path end
  for _, path in ipairs(left_out) do skip[#skip + 1] = path end
  options.skip = skip
  return require("medxai.data.readers")[data.name](options)
end

local function check_data(data, input)
  if type(data) ~= "table" or not data.splits then
    check.fail("audit", "train returns a %s second (expected model, data, options).", type(data))
  end
  if not data.train or not data.test then
    check.fail("audit", "the data of the input '%s' have no %s split (expected train, val and test).", input,
      data.train and "test" or "train")
  end
  if data.input ~= input then
    check.fail("audit", "the data of the input '%s' have input = '%s' (expected input = cell.input in train).", input,
      data.input)
  end
end

--- The data of every input, without the images that any of them refuses.
---@param names string[] inputs
---@param read fun(input: string): medxai.Dataset
---@return table<string, medxai.Dataset>
---@return { path: string, why: string, input: string }[] left_out
function inputs.read(names, read)
  local left_out, paths, all = {}, {}, {}
  local any = true
  while any do -- with a limit others come in the place of those that are left out
    any = false
    for _, input in ipairs(names) do
      all[input] = reread(read(input), paths)
      check_data(all[input], input)
      for _, refused in ipairs(require("medxai.data.audit").refused(all[input])) do
        if input == "whole" then all[input]:check() end -- a damaged image: an error as everywhere
        left_out[#left_out + 1], paths[#paths + 1] = { path = refused.path, why = refused.why, input = input },
          refused.path
        any = true
      end
    end
  end
  return all, left_out
end

inputs.reread = reread

--- The judged split of every input: the same images in the same order.
---@param names string[]
---@param data table<string, medxai.Dataset>
---@return table<string, medxai.Split>
function inputs.splits(names, data)
  local out, first = {}, data[names[1]].test
  for _, input in ipairs(names) do
    local split = data[input].test
    local same = split.n == first.n
    for i = 1, same and split.n or 0 do same = same and split.items[i].path == first.items[i].path end
    if not same then
      check.fail("audit", "the inputs '%s' and '%s' have other test images (%d and %d). Read the same files for every "
        .. "cell.input.", names[1],
        input, first.n, split.n)
    end
    out[input] = split
  end
  return out
end

-- ---- the cheap probe ------------------------------------------------------------------------------------------------

--- Thumbnails of a split (n, 1024) float64 in the range of the file, and labels.
function inputs.thumbnails(split)
  local scope <close> = require("medxai.core").memory.scope()
  local loader <close> = split:loader { batch = 64 }
  local parts, labels, side = {}, {}, inputs.side_px
  local mean, std = split.data.mean or { 0, 0, 0 }, split.data.std or { 1, 1, 1 }
  local scale = torch.tensor(std, { dtype = "float32" }):view({ 1, 3, 1, 1 })
  local shift = torch.tensor(mean, { dtype = "float32" }):view({ 1, 3, 1, 1 })
  for batch in loader:iter() do
    local inner <close> = require("medxai.core").memory.scope()
    local gray = (batch.x * scale + shift):mean(1, true)
    parts[#parts + 1] = inner:keep(torch.adaptive_avg_pool2d(gray, { side, side }):view({ gray:size(0),
      side * side }):to { dtype = "float64" })
    for _, label in ipairs(batch.y:tolist()) do labels[#labels + 1] = label end
  end
  return scope:keep(torch.cat(parts, 0)), labels
end

--- What 60 components of the thumbnails of a data set's input tell of the classes: answers for the test split.
---@param data medxai.Dataset
---@return table answers { labels, logits, probabilities, predicted }
function inputs.probe(data)
  local scope <close> = require("medxai.core").memory.scope() -- luacheck: ignore
  local train, labels = inputs.thumbnails(data.train)
  local test, truth = inputs.thumbnails(data.test)
  local answers = { labels = truth, logits = probe.read(train, labels, test, #data.classes), probabilities = {} }
  for i, row in ipairs(answers.logits) do answers.probabilities[i] = logits_of.softmax(row) end
  answers.predicted = logits_of.argmax(answers.logits)
  return answers
end

-- The probe of an input, unless it is done: the file with its answers.
local function probe_file(run, input, data)
  local name, file = "audit-probe-" .. input, files.join("audit", "probe-" .. input .. ".csv")
  local step = run:step(name, { train = run:describe_split(data.train), test = run:describe_split(data.test),
    components = probe.count,
    ridge = probe.ridge, side_px = inputs.side_px })
  if not step.done then
    step:begin()
    predictions.write(run, data.test, inputs.probe(data), file)
    step:finish({}, { file })
  end
  return file
end

--- The probe of every input: input -> list of one network's answers by path.
---@return table<string, table[]>
function inputs.probes(run, names, data)
  local out, began = {}, host.now()
  for _, input in ipairs(names) do
    out[input] = { predictions.read(run, probe_file(run, input, data[input]), data[input].test) }
    run:heartbeat "audit: cheap probe"
  end
  return out, host.now() - began
end

-- ---- the trainings --------------------------------------------------------------------------------------------------

-- The best weights of a finished cell.
local function trained(cell)
  local model = cell.model:reset()
  local scope <close> = require("medxai.core").memory.scope() -- luacheck: ignore
  local path = files.join(cell.dir, "best.pt")
  model:load_state(require("medxai.nn.checkpoint").load(path).tensors, { what = path })
  return model:eval()
end

inputs.trained = trained

-- A cell's answers on its test split, and its accuracy on its training split.
local function judge_cell(run, cell)
  local search, predict = require "medxai.train.search", require "medxai.nn.predict"
  local result = search.result(cell)
  if not result or result.status ~= "finished" then return nil, nil end
  local input, seed = cell.values.input, cell.values.seed
  local name, file = ("audit-%s-seed-%d"):format(input, seed), files.join("audit",
    ("%s-seed-%d.csv"):format(input, seed))
  local step = run:step(name, { cell = cell.key, weights_sha256 = result.weights_sha256,
    test = run:describe_split(cell.data.test) })
  if not step.done then
    step:begin()
    local model = trained(cell)
    local options = { batch = cell.options.batch, name = name, alive = function() run:heartbeat(name) end }
    local answers = predict.predict(model, cell.data.test, options)
    predictions.write(run, cell.data.test, answers, file)
    evaluate.count(run, cell.data.test, step)
    local fitted = predict.predict(model, cell.data.train, options)
    step:finish({ train_accuracy = fitted.accuracy, accuracy = answers.accuracy }, { file })
    model:reset()
  end
  return predictions.read(run, file, cell.data.test), step.result
end

--- Trains every input with every seed (what is finished is not done again) and judges each on its test split.
---@param run medxai.Run
---@param options table { input = names, seed = list, train = function }: as run:grid's
---@return table<string, table[]> answers input -> answers by path, one per seed that was trained
---@return medxai.Cell[] cells with .judged = { train_accuracy, accuracy }
function inputs.train(run, options)
  local search, work = require "medxai.steps.search", require "medxai.train.search"
  files.mkdir(files.join(run.dir, "families"))
  local cells, own = search.cells(run, options)
  work.all(run, cells, own)
  if not run.joined then work.merge_logs(run, cells) end
  local out = {}
  for _, cell in ipairs(cells) do
    local answers, judged = judge_cell(run, cell)
    cell.judged = judged
    out[cell.values.input] = out[cell.values.input] or {}
    if answers then table.insert(out[cell.values.input], answers) end
  end
  return out, cells
end

-- ---- areas and verdicts ---------------------------------------------------------------------------------------------

--- Areas of each class over the seeds' answers.
---@param split medxai.Split
---@param list table[] answers by path, one per seed
---@return medxai.MacroAuroc|nil
function inputs.areas(split, list)
  local macros = {}
  for s, answers in ipairs(list) do
    local labels, scores = {}, {}
    for i = 1, split.n do
      local one = answers[split.items[i].path]
      labels[i], scores[i] = one.label, logits_of.log_odds(one.logits)
    end
    macros[s] = delong.macro(labels, scores)
  end
  return #macros > 0 and delong.macro_mean(macros) or nil
end

-- How likely the sample clears a class that nothing tells, and finds one that is told, at Holm's first step.
local function power_of(p, over, tau, tests)
  local ups, downs, seen = 0, 0, {}
  for i, positive in ipairs(p.is_positive) do
    local key = over.unit[i] .. tostring(positive)
    if not seen[key] then
      seen[key] = true
      if positive then ups = ups + 1 else downs = downs + 1 end
    end
  end
  local function at(area) return power.of_area(area, tau, ups, downs, tests) end
  return { positives = ups, negatives = downs, clear = at(0.5), find75 = at(0.75), find85 = at(0.85) }
end

-- Holm's adjusted p within each direction, and the verdicts.
local function judge(rows, over)
  local above, below = {}, {}
  for i, row in ipairs(rows) do above[i], below[i] = row.one_sided.p_above, row.one_sided.p_below end
  above, below = multiple.holm(above), multiple.holm(below)
  for i, row in ipairs(rows) do
    row.p_above, row.p_below = above[i], below[i]
    row.verdict = verdict.of("threshold", { p_above = above[i], p_below = below[i], units = over.count,
      resampled = over.resampled,
      why = row.one_sided.why })
  end
end

--- Whether each class is told by each input: the areas with their intervals, and for inputs without lungs verdicts
--- against the threshold, Holm's method over classes and inputs within each direction.
---@param names string[] inputs
---@param splits table<string, medxai.Split>
---@param answers table<string, table[]>
---@param over medxai.Units
---@param tau number
---@return table[] rows { input, class, area = interval, one_sided, p_above, p_below, verdict, power, seeds }
---@return table<string, medxai.MacroAuroc> areas by input
function inputs.told(names, splits, answers, over, tau)
  local rows, family, areas = {}, {}, {}
  for _, input in ipairs(names) do
    local split = splits[input]
    areas[input] = inputs.areas(split, answers[input] or {})
    for c, class in ipairs(split.classes) do
      local p = areas[input] and areas[input].per_class[c]
      local row = { input = input, class = class, seeds = #(answers[input] or {}), p = p }
      row.area = p and delong.area(p, over) or { mean = 0 / 0, low = 0 / 0, high = 0 / 0, n = over.n,
        units = over.count }
      row.one_sided = p and delong.one_sided(p, over, tau) or { p_above = 0 / 0, p_below = 0 / 0,
        why = "no training finished" }
      rows[#rows + 1] = row
      if inputs.without_lungs[input] then family[#family + 1] = row end
    end
  end
  judge(family, over)
  for _, row in ipairs(family) do row.power = row.p and power_of(row.p, over, tau, #family) end
  return rows, areas
end

--- Units over the test images.
---@param run medxai.Run
---@param split medxai.Split
---@return medxai.Units
function inputs.units(run, split)
  local patients = {}
  for i = 1, split.n do patients[i] = split.items[i].patient end
  return units.over(split.n, patients, { seed = run.seed })
end

return inputs
