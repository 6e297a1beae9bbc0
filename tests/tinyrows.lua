-- Made-up tables of a study, for the tests of its figures: networks, methods, gate, audit, as the steps write them.
local csv = require "medxai.base.csv"
local files = require "medxai.base.files"

local tiny = {}

tiny.baselines = { sobel = true, random_smooth = true }
tiny.directions = { ["up@1"] = "higher", ["down@1"] = "lower", ["blind@1"] = "higher", ["shape@1"] = "none" }

local network_columns = { "network", "run", "train_seed", "input", "weights_sha256", "score", "role", "value", "low",
  "high", "interval", "chance", "n", "units", "status" }
local pair_columns = require("medxai.run.tables").pairs

-- A number of 0 to 1 that looks like chance, the same every time.
local function made(a, b) return (math.sin(12.9898 * a + 78.233 * b) * 43758.5453) % 1 end

local function names(count, what)
  local list = {}
  for i = 1, count do list[i] = what .. (i == count and i > 1 and " with a name that is rather long, the last" or i) end
  return list
end

--- Names of models and methods, the baselines after the methods.
function tiny.names(networks, methods)
  local models, list = names(networks, "net"), names(methods, "method")
  for _, name in ipairs { "sobel", "random_smooth" } do list[#list + 1] = name end
  return models, list
end

local function network_rows(models)
  local rows, pairs_, bins = {}, {}, {}
  for s, score in ipairs { "auroc_macro", "auroc Normal", "accuracy", "nll" } do
    for k, name in ipairs(models) do
      local value = 0.6 + 0.3 * made(s, k)
      local wide = k % 3 == 0 and 0 or 0.03 -- the third has an interval without width
      local low, high = k % 3 ~= 2 and value - wide or nil, k % 3 ~= 2 and value + wide or nil -- the second has none
      rows[#rows + 1] = { network = name, run = name, train_seed = "1", score = score, value = k ~= 5 and value or nil,
        low = k ~= 5 and low or nil, high = k ~= 5 and high or nil, interval = low and "DeLong over patients", n = 40,
        units = 30, status = low and "ok" or "fewer than 10 patients" }
    end
  end
  for i = 1, #models do
    for j = i + 1, #models do
      local e = made(i, j) - 0.5
      pairs_[#pairs_ + 1] = { family = "networks auroc_macro, these weights", endpoint = "auroc_macro", a = models[i],
        b = models[j], estimate = e, low = e - 0.1, high = e + 0.1, p = 0.1, p_holm = 0.2,
        decision = e > 0.1 and "better" or "undecided", test = "DeLong", n = 40, units = 30 }
    end
    for g = 1, 4 do
      bins[#bins + 1] = { network = models[i], run = models[i], train_seed = "1", group = g, n = 10,
        confidence = 0.4 + 0.14 * g, accuracy = math.min(1, 0.4 + 0.12 * g), chance_low = 0.1 * g,
        chance_high = math.min(1, 0.5 + 0.15 * g) }
    end
  end
  return rows, pairs_, bins
end

--- What is known of one cell of tables/methods.csv, by the numbers of model, metric and method: the first method gains,
--- the second failed the gate, the third has no number; `blind@1` tells nothing.
function tiny.cell(k, i, j, direction)
  local sign = direction == "lower" and -1 or 1
  local gain = j ~= 3 and sign * (j == 1 and 0.4 or 0.2 * made(k + i, j) - 0.05) or nil
  return { gain = gain, gain_low = gain and gain - 0.02, gain_high = gain and gain + 0.02,
    above_swap = gain and (j == 1 and "better" or "undecided") or nil, gate = j == 2 and "gate failed: weights" or nil }
end

local metrics = { "up@1", "down@1", "blind@1", "shape@1" }

local function method_rows(models, methods)
  local rows, pairs_ = {}, {}
  local count = #methods - 2
  for k, model in ipairs(models) do
    for i, metric in ipairs(metrics) do
      local direction = tiny.directions[metric]
      for j, method in ipairs(methods) do
        local row = tiny.cell(k, i, j, direction)
        local ranks = j <= count and metric ~= "blind@1" and direction ~= "none"
        for key, value in pairs { run = model, network = model, seed = 1, metric = metric, method = method, n = 40,
          units = 30, mean = row.gain and 0.5 + row.gain, interval = "studentized bootstrap" } do row[key] = value end
        if direction == "none" then row.above_swap = nil end
        row.rank_low, row.rank_high = ranks and math.max(1, j - 1) or nil, ranks and math.min(count, j + 1) or nil
        rows[#rows + 1] = row
      end
      for a = 1, count do
        for b = a + 1, count do
          pairs_[#pairs_ + 1] = { family = ("compare %s %s"):format(model, metric), endpoint = metric, a = methods[a],
            b = methods[b], estimate = 0.1, decision = b - a > 1 and "better" or "undecided", n = 40, units = 30 }
        end
      end
    end
  end
  return rows, pairs_
end

local function likeness_rows(models, methods)
  local agreement, tau, costs = {}, {}, {}
  local function add(kind, a, b, value)
    agreement[#agreement + 1] = { kind = kind, a = a, b = b, view = "shown", measure = "spearman", agreement = value,
      n = 40, units = 30, reason = not value and "maps of different patients agree above 0.9" or nil }
  end
  for k, model in ipairs(models) do
    for j, method in ipairs(methods) do
      costs[#costs + 1] = { run = model, network = model, method = method, images = 40,
        map_seconds = j ~= 4 and 40 * 0.01 * 2 ^ (j % 12) or nil }
      for l = j + 1, #methods do
        add("method", model .. ": " .. method, model .. ": " .. methods[l], (j + l) % 7 ~= 0 and made(j, l) or nil)
      end
      for l = k + 1, #models do
        add("network", model .. ": " .. method, models[l] .. ": " .. method, made(k + j, l) - 0.2)
      end
    end
    tau[#tau + 1] = { run = model, a = "up@1", b = "down@1", tau_b = made(k, 7), methods = #methods - 2, n = 40 }
  end
  return agreement, tau, costs
end

local function stage_rows(models, methods)
  local rows = {}
  for _, model in ipairs(models) do
    for j, method in ipairs(methods) do
      for stage = 1, 3 do
        local s = j ~= 3 and 0.9 - 0.2 * stage + 0.05 * j % 0.3 or nil
        rows[#rows + 1] = { model = model, network = model, train_seed = 1, method = method, label = method,
          settings = "s", control = j > #methods - 2 and "yes" or nil, state = j == 2 and "failed" or "undecided",
          failed = j == 2 and "weights" or nil, stage = stage, layers = 2 * stage - 1, of = 5, similarity = s,
          draw_low = s and s - 0.05, draw_high = s and s + 0.05, draws = 5, stranger = 0.3, stranger_low = 0.25,
          stranger_high = 0.35, n = 40, units = 30 }
      end
    end
  end
  return rows
end

local function audit_rows()
  local rows = {}
  for _, witness in ipairs { "cheap probe", "trainings" } do
    for i, input in ipairs { "whole", "lungs_raw", "outside", "border", "shape" } do
      for c, class in ipairs { "COVID-19", "Normal" } do
        local area = not (i == 4 and c == 2) and 0.95 - 0.1 * i * c % 0.7 or nil
        rows[#rows + 1] = { witness = witness, input = input, class = class, seeds = 3, auroc = area,
          low = area and area - 0.08, high = area and math.min(1, area + 0.05), n = 40, units = 30,
          verdict = i > 2 and (({ "found", "not_found", "undecided" })[(i + c) % 3 + 1]) or nil }
      end
    end
  end
  return rows
end

--- Writes all tables into a folder; gives what the figures of run:compare are told besides.
---@param dir string
---@param networks integer
---@param methods integer without the two baselines
---@return table
function tiny.write(dir, networks, methods)
  local models, list = tiny.names(networks, methods)
  local rows, pairs_, bins = network_rows(models)
  local judged, more = method_rows(models, list)
  table.move(more, 1, #more, #pairs_ + 1, pairs_)
  local agreement, tau, costs = likeness_rows(models, list)
  files.mkdir(dir .. "/tables")
  local function write(name, columns, some) csv.write(dir .. "/tables/" .. name .. ".csv", columns, some) end
  write("networks", network_columns, rows)
  write("reliability", require("medxai.steps.networks_calibration").reliability_columns, bins)
  write("pairs", pair_columns, pairs_)
  write("methods", require("medxai.score.study_tables").methods, judged)
  write("agreement", require("medxai.score.study_similarity").agreement, agreement)
  write("metrics_tau", require("medxai.score.study_tables").tau, tau)
  write("costs", { "run", "network", "method", "images", "map_seconds" }, costs)
  write("gate_stages", require("medxai.score.gate_tables").stage_columns, stage_rows(models, list))
  write("audit", require("medxai.steps.audit_words").area_columns, audit_rows())
  local tells = {}
  for _, model in ipairs(models) do tells[model] = { ["blind@1"] = false } end
  return { primary = "up@1", models = models, firsts = models, baselines = tiny.baselines, tells = tells,
    directions = tiny.directions, short = function(metric) return metric:match "^%w+" end }
end

return tiny
