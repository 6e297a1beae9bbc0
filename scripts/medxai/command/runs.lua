-- medxai-run runs [list | show RUN | compare RUN RUN ... | export]: what lies in runs/: state, scores, time; one run;
-- several side by side; all for MLflow or as a table. Reads plain files only; libtorch is opened for the page of
-- `compare` alone, whose curves are drawn.
-- It refuses to change anything in a run's folder.
local argparse = require "argparse"
local canon = require "medxai.base.json"
local check = require "medxai.base.check"
local csv = require "medxai.base.csv"
local is_run = require("medxai.run.folder").is_run
local flat = require("medxai.base.settings").flat
local suggest = require "medxai.base.suggest"
local files = require "medxai.base.files"
local lease = require "medxai.run.lease"
local shards = require "medxai.run.shards"
local text_table = require "medxai.base.text_table"

-- ---- reading a run --------------------------------------------------------------------------------------------------

local function read(path)
  local ok, data = pcall(files.read_data, path)
  return ok and data or nil
end

-- A run that says "running" while no process works on it has died; of one on another machine that was not heard of for
-- long nobody here can be sure.
local function state_of(dir, workers)
  local text = files.read(files.join(dir, "status"))
  if not text then return "not begun" end
  local word, states = text:match "^(%S+)" or "unknown", {}
  for _, worker in ipairs(workers) do states[worker.state] = true end
  if word == "finished" then return word, text end
  -- another process than that which was stopped
  if states.alive then return "running", text:gsub("\nmessage .*", "") end
  if word ~= "running" then return word, text end
  return states.silent and "silent" or "died", text
end

local function seconds_of(dir)
  local total = 0.0
  local ok, rows = pcall(csv.read, files.join(dir, "times.csv"))
  for _, row in ipairs(ok and rows or {}) do
    if row.name == "whole" then total = total + (tonumber(row.seconds) or 0) end
  end
  return total
end

local function epochs_of(dir)
  local list = {}
  local ok, records = pcall(files.records, files.join(dir, "metrics.jsonl"))
  for _, record in ipairs(ok and records or {}) do
    if record.step == "fit" then list[#list + 1] = record end
  end
  return list
end

-- What a list says of a run.
local function facts_of(name, dir)
  local facts = { name = name, dir = dir, config = read(files.join(dir, "config.json")) or {},
    seconds = seconds_of(dir), epochs = epochs_of(dir) }
  facts.workers = lease.workers(dir)
  facts.state, facts.status_text = state_of(dir, facts.workers)
  local fit, grid = read(files.join(dir, "steps", "fit.json")), read(files.join(dir, "steps", "grid.json"))
  local fields = fit and fit.fields or grid and grid.fields and grid.fields.first or {}
  facts.network = type(fields.model) == "table" and type(fields.model.config) == "table"
    and fields.model.config.network or ""
  facts.val = fit and fit.result and fit.result.val_accuracy or grid and grid.result and grid.result.best.val_accuracy
  for _, record in ipairs(facts.epochs) do
    if not facts.val or (not fit or fit.status ~= "finished") and record.val_accuracy > facts.val then
      facts.val = record.val_accuracy
    end
  end
  local test = read(files.join(dir, "steps", "evaluate-test.json"))
  facts.test = test and test.status == "finished" and test.result or nil
  if grid then
    local done, all = 0, grid.fields.cells or {}
    for _, entry in ipairs(files.list(files.join(dir, "done"))) do
      if entry:find "^%x+%.json$" then done = done + 1 end
    end
    facts.progress = string.format("%d/%d cells", math.min(done, #all), #all)
  elseif fit and fit.fields then
    facts.progress = string.format("%d/%d epochs", #facts.epochs, fit.fields.epochs)
  end
  for _, step in ipairs(shards.progress(dir)) do
    facts.progress = string.format("%s%s %d/%d images", facts.progress and facts.progress .. ", " or "", step.name,
      step.done, step.images)
  end
  return facts
end

-- Runs below a folder, those of several seeds one level deeper.
local function all_runs(folder)
  local list = {}
  for _, name in ipairs(files.list(folder)) do
    local dir = files.join(folder, name)
    if is_run(dir) then
      list[#list + 1] = facts_of(name, dir)
    elseif files.is_folder(dir) then
      for _, seed in ipairs(files.list(dir)) do
        if seed:find "^seed%-" and is_run(files.join(dir, seed)) then
          list[#list + 1] = facts_of(name .. "/" .. seed, files.join(dir, seed))
        end
      end
    end
  end
  return list
end

local function one_run(folder, name)
  for _, dir in ipairs { files.join(folder, name), name } do
    if is_run(dir) then return facts_of((name:gsub("/+$", "")), dir) end
  end
  local names = {}
  for i, facts in ipairs(all_runs(folder)) do names[i] = facts.name end
  check.fail("runs", "there is no run '%s' (looked in '%s').%s", name, folder, suggest.hint(name, names, 3))
end

-- ---- text -----------------------------------------------------------------------------------------------------------

local function number(v) return v and v == v and string.format("%.4f", v) or "" end

local function list(args)
  local runs = all_runs(args.folder)
  if #runs == 0 then return print(string.format("no runs in '%s'", args.folder)) end
  local duration, rows = require("medxai.base.progress").duration, {}
  for i, r in ipairs(runs) do
    rows[i] = { r.name, r.state, r.network, r.progress or "", number(r.val), r.test and number(r.test.accuracy) or "",
      r.test and number(r.test.macro.f1) or "", r.seconds > 0 and duration(r.seconds) or "" }
  end
  table.insert(rows, 1, { "run", "state", "network", "training", "val accuracy", "test accuracy", "macro F1", "time" })
  print(text_table(rows, { right = { [5] = true, [6] = true, [7] = true, [8] = true }, indent = "" }))
end

local function plain(v)
  if type(v) == "string" then return v end
  if type(v) == "number" then return string.format("%.6g", v) end
  return (canon.write(v):gsub("%d+%.%d+", function(n) return string.format("%.6g", n) end))
end

-- The text of a setting that has no named members.
local function text_of(v)
  if type(v) ~= "table" or next(v) == nil or #v > 0 then return plain(v) end
end

local untold = { "sha256$", "%.classes$", "^training%.val%.config", "^training%.seed$", "^training%.smoke$", "%.name$",
  "^training%.device$", "%.numerics$" }

-- What a run was told to do: seed, data, model and training; of a search its fields and its first cell.
local function settings(r)
  local config = r.config
  local told = { seed = config.seed, smoke = config.smoke or nil,
    training = config.fit or config.grid and config.grid.first, fields = config.grid and config.grid.axes }
  local out = {}
  for _, pair in ipairs(flat(told, text_of)) do
    local tell = #pair[2] <= 120
    for _, pattern in ipairs(untold) do tell = tell and not pair[1]:find(pattern) end
    if tell then out[#out + 1] = pair end
  end
  return out
end

-- What a process has claimed, in words.
local function held_of(worker)
  local words, families, images = {}, 0, 0
  for _, name in ipairs(worker.holds) do
    if name == "run" then words[#words + 1] = "the run" elseif name:find "^%x+$" then families = families + 1
    elseif name:find "^shard%-" then images = images + 1 end
  end
  if families > 0 then words[#words + 1] = families == 1 and "a family of cells" or families .. " families of cells" end
  if images > 0 then words[#words + 1] = images == 1 and "a shard of images" or images .. " shards of images" end
  return #words > 0 and table.concat(words, ", ") or "nothing"
end

local state_words = { alive = "works", dead = "died",
  silent = "not heard of: it has died, or its machine cannot be reached" }

-- The processes that share the folder, from whatever machine, while there is work; who ended in order is not told.
local function print_workers(r)
  for _, w in ipairs(r.state ~= "finished" and r.workers or {}) do
    local job = ""
    if w.slurm then
      job = string.format(", SLURM job %s", w.slurm.array_task and w.slurm.array_job .. "_" .. w.slurm.array_task
        or w.slurm.job)
      if w.slurm.restarts > 0 then job = string.format("%s (start %d)", job, w.slurm.restarts + 1) end
    end
    print(string.format("  process %d on %s%s: %s, heard of %d s ago, holds %s", w.pid, w.machine, job,
      state_words[w.state] or w.state, (w.seen_s or 0) // 1, held_of(w)))
  end
end

local function show(args)
  local r = one_run(args.folder, args.run)
  local duration = require("medxai.base.progress").duration
  print(r.name .. ": " .. r.state .. (r.progress and ", " .. r.progress or "")
    .. (r.seconds > 0 and ", " .. duration(r.seconds) or ""))
  local message = r.status_text and r.status_text:match "\nmessage (.*)"
  if message then print(message) end
  if r.config.question and r.config.question ~= "" then print(r.config.question) end
  print_workers(r)
  for _, record in ipairs(r.epochs) do
    print(string.format("  epoch %2d  train loss %.4f accuracy %.4f  val loss %.4f accuracy %.4f%s", record.epoch,
      record.train_loss, record.train_accuracy, record.val_loss, record.val_accuracy, record.best and " (best)" or ""))
  end
  if r.test then
    print(string.format("test: accuracy %.4f, macro F1 %.4f, macro AUROC %s, %d images", r.test.accuracy,
      r.test.macro.f1, number(r.test.auroc_macro), r.test.n))
    for _, remark in ipairs(r.test.remarks or {}) do print("note: " .. remark) end
  end
  print "settings"
  for _, pair in ipairs(settings(r)) do print("  " .. pair[1] .. " = " .. pair[2]) end
  if files.exists(files.join(r.dir, "report.html")) then print("report: " .. files.join(r.dir, "report.html")) end
end

-- ---- comparing ------------------------------------------------------------------------------------------------------

-- Settings that differ: rows of { name, value in each run }.
local function differences(runs)
  local values, names = {}, {}
  for i, r in ipairs(runs) do
    for _, pair in ipairs(settings(r)) do
      if not values[pair[1]] then values[pair[1]], names[#names + 1] = {}, pair[1] end
      values[pair[1]][i] = pair[2]
    end
  end
  table.sort(names)
  local rows = {}
  for _, name in ipairs(names) do
    local differ = false
    for i = 2, #runs do differ = differ or values[name][i] ~= values[name][1] end
    if differ then
      local row = { name }
      for i = 1, #runs do row[i + 1] = values[name][i] or "-" end
      rows[#rows + 1] = row
    end
  end
  return rows
end

local function curves(runs)
  local charts = {}
  for _, what in ipairs { { "val_loss", "Validation loss", "cross entropy" },
      { "val_accuracy", "Validation accuracy", "accuracy", { 0, 1 } } } do
    local series = {}
    for _, r in ipairs(runs) do
      local x, y = {}, {}
      for k, record in ipairs(r.epochs) do x[k], y[k] = record.epoch, record[what[1]] end
      if #x > 0 then series[#series + 1] = { label = r.name, x = x, y = y } end
    end
    if #series > 0 then
      charts[#charts + 1] = { title = what[2], series = series, x_label = "epoch", y_label = what[3], x_integer = true,
        y_range = what[4] }
    end
  end
  return #charts > 0 and require("medxai.show.figure").lines { charts = charts, width_pt = 518, height_pt = 190 } or nil
end

local function page_of(runs, header, rows)
  local html = require "medxai.show.html"
  local function cells(texts)
    local out = {}
    for i, row in ipairs(texts) do
      out[i] = {}
      for k, v in ipairs(row) do out[i][k] = html.text(v) end
    end
    return out
  end
  local columns = {}
  for i, name in ipairs(header) do columns[i] = { name, numeric = i > 3 } end
  local names = { { "setting" } }
  for _, r in ipairs(runs) do names[#names + 1] = { r.name } end
  local drawing, differ = curves(runs), differences(runs)
  local body = { "<h1>Runs compared</h1>", (html.table(columns, cells(rows))) }
  if drawing then
    body[#body + 1] = "<h2>Learning curves</h2><figure>" .. drawing:svg("Learning curves") .. "</figure>"
  end
  body[#body + 1] = "<h2>Settings that differ</h2>"
  body[#body + 1] = #differ > 0 and (html.table(names, cells(differ))) or "<p>None.</p>"
  return string.format('<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8"><title>Runs compared</title>\n'
    .. '<style>%s</style></head>\n<body>\n%s\n</body></html>\n', html.style, table.concat(body, "\n"))
end

local function compare(args)
  local runs, rows = {}, {}
  for i, name in ipairs(args.run) do runs[i] = one_run(args.folder, name) end
  local duration = require("medxai.base.progress").duration
  for i, r in ipairs(runs) do
    rows[i] = { r.name, r.state, r.network, number(r.val), r.test and number(r.test.accuracy) or "",
      r.test and number(r.test.macro.f1) or "", r.test and number(r.test.auroc_macro) or "", duration(r.seconds) }
  end
  local header = { "run", "state", "network", "val accuracy", "test accuracy", "macro F1", "macro AUROC", "time" }
  print(text_table({ header, table.unpack(rows) },
    { right = { [4] = true, [5] = true, [6] = true, [7] = true, [8] = true }, indent = "" }))
  local differ = differences(runs)
  if #differ > 0 then print "\nsettings that differ" end
  for _, row in ipairs(differ) do print("  " .. row[1] .. ": " .. table.concat(row, " | ", 2)) end
  files.write(args.out, page_of(runs, header, rows))
  print("\npage: " .. args.out)
end

-- ---- exporting ------------------------------------------------------------------------------------------------------

local function export(args)
  if not args.mlflow and not args.csv then
    check.fail("runs", "export: neither --mlflow DIR nor --csv FILE is given. Name one or both.")
  end
  local runs = {}
  for i, name in ipairs(args.run) do runs[i] = one_run(args.folder, name) end
  if #args.run == 0 then runs = all_runs(args.folder) end
  if #runs == 0 then check.fail("runs", "export: there are no runs in '%s'. Name where they lie: --folder.",
    args.folder) end
  for _, r in ipairs(runs) do r.settings = settings(r) end
  local to = require "medxai.command.export"
  if args.mlflow then
    to.mlflow(args.mlflow, runs)
    print(("%d runs in '%s'; to see them: MLFLOW_ALLOW_FILE_STORE=true mlflow ui --backend-store-uri '%s'"):format(
      #runs, args.mlflow, args.mlflow))
  end
  if args.csv then
    to.csv(args.csv, runs)
    print(("%d runs in '%s'"):format(#runs, args.csv))
  end
end

-- ---- the command line -----------------------------------------------------------------------------------------------

local parser = argparse("medxai-run runs", "Lists, shows, compares and exports runs.")
parser:option("--folder", "Where the runs lie.", "runs")
parser:command_target "command"
parser:require_command(false)
parser:command("list", "One line per run (the default).")
local show_command = parser:command("show", "One run: state, epochs, scores, settings.")
show_command:argument("run", "Its name, or a folder.")
local compare_command = parser:command("compare", "Several runs: scores, curves, differing settings, in one page.")
compare_command:argument("run", "Names or folders."):args "2+"
compare_command:option("-o --out", "The page.", "compare.html")
local export_command = parser:command("export", "Runs for MLflow, or as a table; the runs stay as they are.")
export_command:argument("run", "Names or folders (default: all)."):args "*"
export_command:option("--mlflow", "A folder for MLflow's file store; what else lies in it stays."):argname "DIR"
export_command:option("--csv", "A table: one line per run, its scores and settings."):argname "FILE"

local ok, args = parser:pparse { ... }
if not ok then
  local words = args:gsub("\n", ". ")
  io.stderr:write("medxai-run: runs: ", words, words:find "%?$" and "" or ".", " See medxai-run runs --help.\n")
  os.exit(2)
end
local commands = { list = list, show = show, compare = compare, export = export }
local done, problem = pcall(commands[args.command or "list"], args)
if not done then
  io.stderr:write("medxai-run: ", tostring(problem), "\n")
  os.exit(1)
end
