-- Runs for other tools: MLflow's file store (folders and files as mlflow.store.tracking.file_store reads them) and
-- a table. Settings become params, scores of epochs and of the test split metrics. It changes nothing in a run's
-- folder. In the store it replaces what it wrote itself before; other experiments, runs, tags and notes stay.
local check = require "medxai.base.check"
local csv = require "medxai.base.csv"
local file = require "medxai.file"
local files = require "medxai.base.files"

local export = {}

-- ---- what is exported -----------------------------------------------------------------------------------------------

-- Scores of a run as { name, value, step }: those of its epochs, then those of the test split.
local function scores_of(run)
  local list = {}
  for _, record in ipairs(run.epochs) do
    for _, name in ipairs(check.sorted_keys(record)) do
      if name ~= "epoch" and type(record[name]) == "number" then
        list[#list + 1] = { name, record[name], record.epoch or 0 }
      end
    end
  end
  local test = run.test or {}
  for _, pair in ipairs { { "test_accuracy", test.accuracy }, { "test_macro_f1", test.macro and test.macro.f1 },
      { "test_auroc_macro", test.auroc_macro }, { "test_loss", test.loss }, { "test_images", test.n } } do
    if type(pair[2]) == "number" then list[#list + 1] = { pair[1], pair[2], 0 } end
  end
  return list
end

-- ---- MLflow ---------------------------------------------------------------------------------------------------------

local status_codes = { running = 1, ["not begun"] = 2, finished = 3, interrupted = 5, terminated = 5 }
local failed = 4

local function quoted(text) return "'" .. text:gsub("[\r\n]+", " "):gsub("'", "''") .. "'" end

-- Fields in the order of their names; false is null, a table the empty list.
local function yaml(fields)
  local lines = {}
  for _, name in ipairs(check.sorted_keys(fields)) do
    local value = fields[name]
    local text = type(value) == "string" and quoted(value) or type(value) == "table" and "[]"
      or value == false and "null" or tostring(value)
    lines[#lines + 1] = name .. ": " .. text
  end
  return table.concat(lines, "\n") .. "\n"
end

-- Python's float() reads it: nan, inf, else every digit.
local function number(v)
  if v ~= v then return "nan" end
  if v == math.huge or v == -math.huge then return v > 0 and "inf" or "-inf" end
  return math.type(v) == "integer" and tostring(v) or ("%.17g"):format(v)
end

-- MLflow's keys: letters, digits, and _ - . space : /, which here makes no folder.
local function key(name) return (name:gsub("[^%w_%-%. :]", "_")) end

-- A file store keeps a param on one line of at most 6,000 characters.
local function param(text)
  text = text:gsub("[\r\n]+", " ")
  return #text <= 6000 and text or text:sub(1, utf8.offset(text, 0, 5997) - 1) .. "..."
end

-- When a run last said that it works, in ms since 1970: its status tells it in UTC.
local function last_heard_ms(run)
  local y, mo, d, h, mi, s = (run.status_text or ""):match "heartbeat (%d+)%-(%d+)%-(%d+)T(%d+):(%d+):(%d+)Z"
  if not y then return 0 end
  y, mo = math.tointeger(y), math.tointeger(mo)
  local shifted = mo <= 2 and y - 1 or y -- days from the calendar's eras, whose years begin in March
  local day = (153 * ((mo + 9) % 12) + 2) // 5 + math.tointeger(d) - 1
  local days = 365 * shifted + shifted // 4 - shifted // 100 + shifted // 400 + day - 719468
  return (((days * 24 + math.tointeger(h)) * 60 + math.tointeger(mi)) * 60 + math.tointeger(s)) * 1000
end

-- All our runs are one experiment of MLflow's. Its number is fixed, so that a second export finds it.
local experiment_id = "77336678"

local function write_experiment(root, folder)
  local meta = files.join(folder, "meta.yaml")
  if files.exists(meta) then return end -- it may have been renamed
  files.write(meta, yaml { artifact_location = "file://" .. root .. "/" .. experiment_id, creation_time = 0,
    experiment_id = experiment_id, last_update_time = 0, lifecycle_stage = "active", name = "medxai" })
end

local function write_values(folder, run, end_ms)
  for _, name in ipairs { "metrics", "params" } do files.remove_all(files.join(folder, name)) end
  for _, name in ipairs { "metrics", "params", "tags", "artifacts" } do files.mkdir(files.join(folder, name)) end
  local lines = {}
  for _, score in ipairs(scores_of(run)) do
    local name = key(score[1])
    lines[name] = (lines[name] or "") .. ("%d %s %d\n"):format(end_ms, number(score[2]), score[3])
  end
  for name, text in pairs(lines) do files.write(files.join(folder, "metrics", name), text) end
  for _, pair in ipairs(run.settings) do files.write(files.join(folder, "params", key(pair[1])), param(pair[2])) end
  local tags = { ["mlflow.runName"] = run.name, ["mlflow.source.type"] = "LOCAL", ["medxai.state"] = run.state,
    ["medxai.folder"] = file.realpath(run.dir), ["mlflow.note.content"] = run.config.question }
  for name, text in pairs(tags) do
    local path = files.join(folder, "tags", name)
    if name ~= "mlflow.note.content" or not files.exists(path) then files.write(path, text) end
  end
end

local function write_run(root, run)
  local place = file.realpath(run.dir)
  local id = files.sha256("medxai run " .. place):sub(1, 32)
  local folder, end_ms = files.join(root, experiment_id, id), last_heard_ms(run)
  write_values(folder, run, end_ms)
  local ended = run.state ~= "running" and run.state ~= "not begun"
  files.write(files.join(folder, "meta.yaml"), yaml { artifact_uri = "file://" .. folder .. "/artifacts",
    end_time = ended and end_ms, entry_point_name = "", experiment_id = experiment_id, lifecycle_stage = "active",
    run_id = id, run_name = run.name, run_uuid = id, source_name = "", source_type = 4, source_version = "",
    start_time = math.max(0, end_ms - math.floor(run.seconds * 1000)), -- the steps' own time before the end
    status = status_codes[run.state] or failed, tags = {}, user_id = "" })
end

--- Writes runs into MLflow's file store: one experiment "medxai", a run of MLflow's for each. A second export of a run
--- replaces the first.
---@param dir string the store's folder; made where it is not there
---@param runs table[] as `medxai-run runs` reads them, with `settings`, a list of { name, text }
function export.mlflow(dir, runs)
  if files.exists(dir) and not files.is_folder(dir) then
    check.fail("runs", "export: '%s' is a file (expected a folder). Name another --mlflow.", dir)
  end
  files.mkdir(files.join(dir, ".trash")) -- MLflow expects it
  local root = file.realpath(dir)
  write_experiment(root, files.join(root, experiment_id))
  for _, run in ipairs(runs) do write_run(root, run) end
end

-- ---- a table --------------------------------------------------------------------------------------------------------

--- Writes a table of runs: state, scores, then every setting that any of them has.
---@param path string
---@param runs table[]
function export.csv(path, runs)
  local columns = { "run", "state", "network", "epochs", "seconds", "val_accuracy", "test_accuracy", "test_macro_f1",
    "test_auroc_macro" }
  local known, names, rows = {}, {}, {}
  for i, run in ipairs(runs) do
    local test = run.test or {}
    rows[i] = { run = run.name, state = run.state, network = run.network, epochs = #run.epochs, seconds = run.seconds,
      val_accuracy = run.val, test_accuracy = test.accuracy, test_macro_f1 = test.macro and test.macro.f1,
      test_auroc_macro = test.auroc_macro }
    for _, pair in ipairs(run.settings) do
      local name = "setting." .. pair[1]
      rows[i][name] = pair[2]
      if not known[name] then known[name], names[#names + 1] = true, name end
    end
  end
  table.sort(names)
  csv.write(path, table.move(names, 1, #names, #columns + 1, columns), rows)
end

return export
