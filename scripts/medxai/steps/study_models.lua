-- What is known of the trainings behind a study's models, for the page of a comparison: study/models.json holds how
-- each was trained and what was found in its data before. Everything is read from the models' own run folders.
-- It refuses to fill in what a run did not say: that is left out.
local canon = require "medxai.base.json"
local files = require "medxai.base.files"

local models = {}

-- A file of the model's folder, or of the run above it that holds its seeds.
local function read(m, name)
  return files.read_data(files.join(m.run, name)) or files.read_data(files.join(m.run, "..", name))
end

-- What the data check found, without times and texts.
local function check_of(m)
  local found = read(m, "data_check.json")
  if not found then return nil end
  local out = {}
  for _, key in ipairs { "counts", "images", "patients", "near_count", "exact", "near", "exact_within", "sources",
    "warnings" } do
    out[key] = found[key]
  end
  return out
end

-- Settings of run:fit that a reader asks for.
local function training_of(m)
  local config = read(m, "config.json")
  local fit = config and config.fit
  if type(fit) ~= "table" then return nil end
  return { epochs = fit.epochs, batch = fit.batch, optim = fit.optim, schedule = fit.schedule, best_by = fit.best_by,
    label_smoothing = fit.label_smoothing, weight = fit.weight, loss = fit.loss ~= nil or nil,
    precision = fit.precision, sampler = fit.sampler, early_stopping = fit.early_stopping, smoke = config.smoke }
end

local function row_of(m)
  local d = m.described
  local data = d.data or {}
  return { name = m.name, run_name = m.run_name, run = m.run, network = m.network, train_seed = m.train_seed,
    input = m.input, weights_sha256 = m.weights_sha256, start = d.start_weights, best_epoch = d.best_epoch,
    selected = d.selected, head = d.head, train_depth = d.train_depth, size_px = d.size_px, resize_px = d.resize_px,
    mean = d.mean, std = d.std, reader = data.reader, options = data.options, chain = d.chain,
    training = training_of(m) }
end

--- Writes study/models.json: { classes, models, checks = { { models = names, check = what was found } } }; models whose
--- data check found the same stand together.
---@param study medxai.Study
function models.write(study)
  local list, checks, of = canon.list {}, canon.list {}, {}
  for i, m in ipairs(study.models) do
    list[i] = row_of(m)
    local check = check_of(m)
    local key = check and canon.hash(check) or "none"
    if not of[key] then
      of[key] = { models = canon.list {}, check = check }
      checks[#checks + 1] = of[key]
    end
    table.insert(of[key].models, m.name)
  end
  files.write_data(files.join(study.dir, "models.json"), { version = 1, classes = canon.list(study.classes),
    models = list, checks = checks })
end

return models
