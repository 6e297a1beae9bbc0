-- A run: a folder of plain files and the steps that fill it. `run:fit`, `run:evaluate`, `run:explain` and `run:report`
-- are steps with keys; what is finished with the same key is not done again, what was interrupted goes on by itself.
-- It refuses to overwrite a finished run of another configuration, to share a folder with another process, and to write
-- into a folder that holds something else.
local canon = require "medxai.base.json"
local check = require "medxai.base.check"
local Options = require "medxai.base.options"
local csv = require "medxai.base.csv"
local current_seed = require "medxai.run.current_seed"
local environment = require "medxai.run.environment"
local files = require "medxai.base.files"
local folder = require "medxai.run.folder"
local host = require "medxai.host"
local lease = require "medxai.run.lease"
local processes = require "medxai.run.processes"
local slurm = require "medxai.run.slurm"
local Step = require "medxai.run.step"

---@class medxai.Run
---@field name string
---@field dir string the run's folder
---@field of string|nil the trained run that this one examines
---@field seed integer
---@field smoke boolean the short run of the experiment on a handful of images (--smoke)
--- trains the model (steps/fit.lua)
---@field fit fun(self: medxai.Run, model: medxai.Model, data: medxai.Dataset, options: medxai.FitOptions): table
---@field grid fun(self: medxai.Run, options: medxai.GridOptions): medxai.Search see steps/search.lua
--- judges the model on a split (steps/evaluate.lua)
---@field evaluate fun(self: medxai.Run, model: medxai.Model, split: medxai.Split, options?: medxai.EvaluateOptions): table
---@field cross_evaluate fun(self: medxai.Run, options: medxai.CrossEvaluateOptions): table see cross_evaluate.lua
--- makes and judges maps (steps/explain.lua)
---@field explain fun(self: medxai.Run, model: medxai.Model, split: medxai.Split, options: medxai.ExplainOptions): table
--- compares maps with masks (steps/overlap.lua)
---@field overlap fun(self: medxai.Run, model: medxai.Model, split: medxai.Split, options: medxai.OverlapOptions): table
---@field report fun(self: medxai.Run, options?: medxai.ReportOptions): string see report.lua
local Run = {}
Run.__index = Run

local runs = {} -- name -> run of this process
local heartbeat_seconds = 10.0

Run.spec = {
  name = { "string", required = true, doc = "of the folder runs/<name>" },
  seed = { "integer", default = 42, min = 0, doc = "of everything random; --seed" },
  seeds = { "table", field = true, of = "integer", doc = "runs the whole experiment once per seed and sums up" },
  out = { "string", doc = "another folder than runs/<name>; --out" },
  of = { "string", field = true, doc = "the trained run that this one examines, by its name or folder" },
  takeover_s = { "number", field = true, default = lease.takeover_s, min = 1, unit = "s",
    doc = "where machines share the folder: a process that was not heard of for so long has died" },
}

-- Whether this is the short run of an experiment on a handful of images (--smoke).
local function is_smoke() return host.options.smoke and true or false end

local function folder_of(options)
  local dir = host.options.out or options.out
  if dir then
    for _, other in pairs(runs) do
      if other.dir == dir and other.name ~= options.name then
        check.fail("run", "'%s' and '%s' would share the folder '%s'. Run this experiment without --out.", other.name,
          options.name, dir)
      end
    end
    return dir
  end
  return "runs/" .. options.name .. (is_smoke() and "-smoke" or "")
end

local function close_all()
  for _, name in ipairs(check.sorted_keys(runs)) do runs[name]:close("finished") end
end

-- The seed and folder of a run: with seeds = { 1, 2 } the experiment runs once for each, below the folder.
local function seed_and_folder(options)
  local dir = folder_of(options)
  local given = (host.options or {}).seed
  if not options.seeds then return given or options.seed, dir end
  if processes.current() then
    check.fail("run", "seeds and several processes exclude each other. Start one command for each seed, with --seed N.")
  end
  if given then check.fail("run", "--seed and seeds exclude each other. Leave one out.") end
  local seeds = require "medxai.run.seeds"
  local seed = seeds.run(dir, options.seeds, close_all)
  return seed, seeds.folder(dir, seed)
end

-- What a run of another run is called: "explain" of "vgg19" or "runs/vgg19" is "vgg19_explain".
local function name_of(name, of)
  local parent, last = ("/" .. of:gsub("/+$", ""):gsub("/[^/]+%.pt$", "")):match "([^/]*)/([^/]+)$"
  if not last then check.fail("run", "option 'of' is no run (expected its name or folder, got '%s').", of) end
  if last:find "^seed%-%d+$" and parent ~= "" then last = parent .. "-" .. last end
  return last .. "_" .. name
end

--- The options of a run, checked; with `of` the name is that run's with this one's behind it.
function Run.check(options)
  options = Options.check("run", options, Run.spec)
  if type(options.of) == "string" and type(options.name) == "string" then
    options.name = name_of(options.name, options.of)
  end
  if type(options.name) == "string" and not options.name:find("^[%w_][%w_%.%-]*$") then
    check.fail("run", "'%s' is no name for a folder (expected letters, digits, '_', '-', '.').", options.name)
  end
  return options
end

--- Begins a run (xai.run). Nothing is written before its first step.
--- of: the trained run that this one examines, by name or folder (--of RUN): `explain` of `vgg19` is
--- runs/vgg19_explain, and run.of is what xai.trained takes.
--- takeover_s: where several machines share the folder, a process that has not been heard of for so many seconds (120)
--- has died.
---@param options { name: string, seed?: integer, seeds?: integer[], out?: string, of?: string, takeover_s?: number }
---@return medxai.Run
function Run.new(options)
  options = Run.check(options)
  processes.current() -- joins the others; those after the first are quiet
  if runs[options.name] then
    check.fail("run", "xai.run { name = '%s' } was called twice. Use the first one, or give another name.",
      options.name)
  end
  local seed, dir = seed_and_folder(options)
  local run = setmetatable({ name = options.name, seed = seed, dir = dir, of = options.of, smoke = is_smoke(),
    takeover_s = options.takeover_s, begun = false, config = {}, data = {}, beat = -math.huge, doing = "" }, Run)
  runs[options.name] = run
  current_seed.set(run.seed)
  math.randomseed(run.seed)
  return run
end

-- ---- the folder -----------------------------------------------------------------------------------------------------

-- What the process is that has the folder: { known = true } where it lives for certain.
function Run:take_folder()
  local state, owner
  self.lock, state, owner = self.leases:take "run"
  return { known = state == "alive", words = lease.words(owner) }
end

-- Another process has the folder, and nobody knows whether it lives: watches it until that is known.
function Run:watch(other)
  if other.known then return other end
  io.stderr:write(string.format("'%s' was last in use by %s: waiting up to %.0f s to see whether that still works\n",
    self.dir, other.words, self.takeover_s))
  local pause = self.leases:pauses(2.0)
  repeat
    pause()
    other = self:take_folder()
  until self.lock or other.known
  return other
end

-- Whether another process works here on what can be shared. It may be just about to begin it.
function Run:wait_to_join()
  for _ = 1, 25 do
    for _, name in ipairs { "families", "study", "shards" } do
      if files.is_folder(files.join(self.dir, name)) then return true end
    end
    files.sleep(0.2)
    self:take_folder()
    if self.lock then return false end
  end
  return false
end

--- Opens a step, waiting until the process that this one joined has begun it, or has ended.
function Run:joined_step(name, fields)
  local step = self:step(name, fields)
  local pause = self.leases:pauses(2.0)
  while self.joined and not step.stored do
    pause()
    self:take_folder()
    if self.lock then
      self.joined = false
      self:begin()
    end
    step = self:step(name, fields)
  end
  return step
end

-- Where another process has taken the folder over, because this one stood still, this one only helps.
local function join_again(self)
  if self.lock and not self.lock:is_mine() then self.lock, self.joined, self.begun = nil, true, false end
end

--- After a share in a step's work: at once where this process has the folder; else when the one that has it has
--- finished the step, or when that has ended and this one has the folder.
---@param step medxai.Step
---@return medxai.Step the step as it is then
function Run:wait_for(step)
  join_again(self)
  local pause = self.leases:pauses(2.0)
  while self.joined do
    step = self:step(step.name, step.fields)
    if step.done then break end
    self:take_folder()
    if self.lock then
      self.joined = false
      self:begin()
      return self:step(step.name, step.fields)
    end
    pause()
  end
  return step
end

--- Raises where another process has taken the folder over, because this one stood still for long: nothing more is
--- written.
function Run:check_owner()
  if not self.lock or self.lock:is_mine() then return end
  check.fail("run", "'%s' was taken over by another process, because this one stood still for long. It goes on there.",
    self.dir)
end

--- After work that several processes share: the one that began it goes on alone, the others wait for it.
function Run:take_over()
  join_again(self)
  if not self.joined then return end
  self:take_folder()
  if not self.lock then
    if not host.options.quiet then
      io.stderr:write(string.format("'%s': what is shared is done; waiting for the process that began it\n", self.dir))
    end
    self.lock = self.leases:wait "run"
  end
  self.joined = false
  self:begin()
end

--- Takes the folder: lock, foreign content, --overwrite and --resume. A finished run is left as it is until begin().
---@param how? { join: boolean } join: where another process works here on what can be shared, this one helps
function Run:prepare(how)
  if self.lock or self.joined then return end
  local all = processes.current()
  self.joined = all ~= nil and all.rank > 0 -- the first process has the folder
  if self.joined then return end
  folder.refuse_foreign(self.dir)
  if host.options.resume and not folder.is_run(self.dir) then
    io.stderr:write(string.format("run: there is no run in '%s' to resume: a new one begins\n", self.dir))
  end
  self.leases = lease.open(self.dir, { takeover_s = self.takeover_s })
  local other = self:take_folder()
  if not self.lock and how and how.join and not host.options.overwrite then self.joined = self:wait_to_join() end
  if not self.lock and not self.joined then other = self:watch(other) end
  if not self.lock and not self.joined then
    self.leases:close()
    check.fail("run", "'%s' is in use by %s. Wait for it, or give another --out.", self.dir, other.words)
  end
  if self.lock then
    files.tidy(self.dir)
    self.leases:tidy()
  elseif not host.options.quiet then
    io.stderr:write(string.format("'%s' is in use by %s: this process helps it\n", self.dir, other.words))
  end
  if host.options.overwrite then folder.clear(self.dir) end
  self.config = { name = self.name, seed = self.seed, smoke = self.smoke, numerics = Step.numerics,
    program = host.version, question = environment.question(host.script) }
  host.at_exit(slurm.queue_again) -- runs after what follows
  host.at_exit(function(state, message) self:close(state, message) end)
end

-- From here on the run is being worked on: environment, status.
function Run:begin()
  if self.begun or self.joined then return end
  self.begun = true
  self:status("running")
  environment.write(self.dir)
end

--- Leaves the folder: the last status, the lock given back. Called by the host when the program ends.
---@param state? string "finished" (default), "failed", "interrupted", "terminated"
---@param message? string
function Run:close(state, message)
  local words = { done = "finished", terminated = "interrupted" }
  local ok, problem = true, nil
  if self.begun then ok, problem = pcall(self.status, self, words[state] or state or "finished", message) end
  if self.begun then self:last_words(words[state] or state or "finished") end
  if self.lock then
    require("medxai.file").remove(files.join(self.dir, "shards")) -- stays where a step is not finished
    self.lock:close()
  end
  if self.leases then self.leases:close() end
  self.begun, self.lock, self.leases, runs[self.name] = false, nil, nil, nil
  if not ok then error(problem, 0) end
end

-- What the user reads last.
function Run:last_words(state)
  if state == "interrupted" then
    io.stderr:write(string.format("interrupted during %s; rerun the same command to resume\n", self.doing))
  elseif state == "finished" and not host.options.quiet then
    local report = files.join(self.dir, "report.html")
    if not self.worked then
      print(string.format("'%s' is up to date: every step was done before with the same settings", self.dir))
    end
    if files.exists(report) then print("report: " .. report) end
  end
end

--- Writes the status file: one word, then what is being done, the heartbeat and the process.
---@param word string
---@param message? string
function Run:status(word, message)
  self.beat = host.now()
  if self.joined or self.lock and not self.lock:is_mine() then return end -- the process that has the folder tells it
  local lines = { word, "step " .. (self.doing ~= "" and self.doing or "none"),
    "heartbeat " .. os.date("!%Y-%m-%dT%H:%M:%SZ"), "process " .. tostring(require("medxai.file").pid()) }
  if message then lines[#lines + 1] = "message " .. tostring(message):gsub("\n", "\n  ") end
  files.write(files.join(self.dir, "status"), table.concat(lines, "\n") .. "\n")
end

--- Says that the run is alive, at most every ten seconds.
---@param doing? string "fit epoch 3/8"
---@param shared? boolean the work has claims of its own: it goes on where another process has taken the folder over
function Run:heartbeat(doing, shared)
  self.doing = doing or self.doing
  if host.now() - self.beat < heartbeat_seconds then return end
  if not shared then self:check_owner() end
  self:status("running")
end

-- ---- what steps need ------------------------------------------------------------------------------------------------

--- Opens a step of this run; seed, device and versions become part of its key.
---@param name string "fit", "evaluate-test", "explain-gradcam"
---@param fields table plain data that determine its numbers
---@return medxai.Step
function Run:step(name, fields)
  self:prepare()
  self:check_owner()
  local all = { seed = self.seed, numerics = Step.numerics, libtorch = environment.libtorch(), smoke = self.smoke,
    device = (host.options.device or "cpu"):match("^%a+") }
  for k, v in pairs(fields) do all[k] = v end
  self.doing = name
  local step = Step.open(self.dir, name, all)
  step.run = self
  return step
end

--- Says that a step is not done again.
function Run:skipped(name)
  if not host.options.quiet then
    io.stderr:write(string.format("%s: finished before with the same settings (%s/steps/%s.json): not done again\n",
      name, self.dir, name))
  end
end

--- Notes, in words, where a model or its data differ on purpose from the run of the model's weights; config.json and
--- the report tell it.
---@param list string[]
function Run:note_differences(list)
  local all, seen = canon.list { table.unpack(self.differences or {}) }, {}
  for _, text in ipairs(all) do seen[text] = true end
  for _, text in ipairs(list) do
    if not seen[text] then all[#all + 1] = text end
  end
  self.differences = #all > 0 and all or nil
end

--- Puts a step's resolved settings into config.json.
function Run:configure(name, fields)
  self:begin()
  self.config[name], self.config.differs_from_weights = fields, self.differences
  if not self.joined then files.write_data(files.join(self.dir, "config.json"), self.config) end
end

local time_columns = { "step", "name", "epoch", "seconds", "images_per_second", "wait_share", "peak_mb" }

-- How many epochs the run's log tells.
local function epochs_told(self)
  local last = 0
  for _, record in ipairs(files.records(files.join(self.dir, "metrics.jsonl"))) do
    if record.step == "fit" then last = math.max(last, record.epoch) end
  end
  return last
end

--- The run's TensorBoard events; opened with the number of epochs that earlier files rightly hold.
---@param last? integer default: those of the log
---@return medxai.Events
function Run:events(last)
  if not self.event_file then
    last = last or epochs_told(self)
    self.event_file = require("medxai.run.tensorboard").open(files.join(self.dir, "events"), last)
    self.event_file:text(0, "config", "```\n" .. canon.write(self.config, "  ") .. "\n```")
  end
  return self.event_file
end

-- The figures of a finished explain step as TensorBoard's pictures.
local function log_figures(run, result)
  for _, f in ipairs(type(result) == "table" and result.figures or {}) do
    for _, path in ipairs(f.paths or {}) do
      if path:find "%.png$" then
        run:events():picture(0, "explain/" .. (f.title or f.name), files.join(run.dir, path))
      end
    end
  end
end

local function append_time(path, step, name, seconds, more)
  if not files.exists(path) then files.append_line(path, table.concat(time_columns, ",")) end
  local row = { step = step, name = name, seconds = seconds }
  for k, v in pairs(more or {}) do row[k] = v end
  files.append_line(path, csv.line(time_columns, row))
end

--- Appends a line to this process' own log: work that several processes share has one writer for each file. Another
--- process that has put all logs together may have removed the folder meanwhile.
function Run:own_time(step, name, seconds, more)
  files.mkdir(files.join(self.dir, "logs"))
  append_time(files.join(self.dir, "logs", self.leases.worker .. ".csv"), step, name, seconds, more)
end

--- The rows of times.csv and, behind them, of the processes' own logs.
---@return table[] rows
---@return string[] logs the paths of the processes' own
function Run:times()
  local rows, logs, seen = {}, {}, {}
  local function add(path)
    for _, row in ipairs(csv.read(path) or {}) do
      local line = csv.line(time_columns, row)
      if not seen[line] then rows[#rows + 1], seen[line] = row, true end
    end
  end
  add(files.join(self.dir, "times.csv"))
  for _, name in ipairs(files.list(files.join(self.dir, "logs"))) do
    logs[#logs + 1] = files.join(self.dir, "logs", name)
    add(logs[#logs])
  end
  return rows, logs
end

--- Puts the processes' own logs into times.csv, in an order that does not depend on who did what, and removes them.
---@param rank fun(row: table): number of equal ones the order stays
function Run:merge_times(rank)
  local rows, logs = self:times()
  if #logs == 0 then return end
  for i, row in ipairs(rows) do row.place, row.rank = i, rank(row) end
  table.sort(rows, function(a, b)
    if a.rank ~= b.rank then return a.rank < b.rank end
    return a.place < b.place
  end)
  csv.write(files.join(self.dir, "times.csv"), time_columns, rows)
  for _, path in ipairs(logs) do files.remove(path) end
  require("medxai.file").remove(files.join(self.dir, "logs")) -- stays where another process still writes one
end

--- Appends a line to times.csv.
---@param step string
---@param name string what was timed: "whole", "epoch", a method
---@param seconds number
---@param more? table epoch, images_per_second, wait_share, peak_mb
function Run:time(step, name, seconds, more)
  append_time(files.join(self.dir, "times.csv"), step, name, seconds, more)
end

--- Times a step until the returned value is closed (nothing where it was not done again); then the memory that was kept
--- for reuse goes back.
function Run:clock(step)
  local began = host.now()
  self.busy = false
  return setmetatable({}, { __close = function(_, problem)
    require("medxai.core").memory.empty_cache()
    if problem == nil and self.busy then self:time(step, "whole", host.now() - began) end
  end })
end

--- A warning, told at once and again at the end.
function Run:warn(text)
  check.warn(self.name, "%s", text)
end

local metric_columns = { "step", "split", "epoch", "class", "metric", "value" }

--- Replaces what an earlier time of the same step left in metrics.jsonl and metrics.csv.
---@param name string the step
---@param rows table[] for metrics.csv
---@param record table for metrics.jsonl
function Run:log_metrics(name, rows, record)
  local log = files.join(self.dir, "metrics.jsonl")
  local lines = {}
  for _, other in ipairs(files.records(log)) do
    if other.step ~= name then lines[#lines + 1] = canon.write(other) .. "\n" end
  end
  lines[#lines + 1] = canon.write(record) .. "\n"
  files.write(log, table.concat(lines))
  self:write_metrics_csv(name, rows)
end

--- Writes a step's rows into metrics.csv in the place of earlier ones.
function Run:write_metrics_csv(name, rows)
  local path, all, is_there = files.join(self.dir, "metrics.csv"), {}, false
  local function put()
    if not is_there then table.move(rows, 1, #rows, #all + 1, all) end
    is_there = true
  end
  for _, row in ipairs(csv.read(path) or {}) do
    if row.step == name then put() else all[#all + 1] = row end
  end
  put()
  csv.write(path, metric_columns, all)
end

-- ---- what determines numbers ----------------------------------------------------------------------------------------

--- A model as plain data: its configuration and the hash of its weights as they are now.
function Run:describe_model(model)
  return { config = model.config, layout = model.layout, weights_sha256 = model:sha256() }
end

-- SHA-256 over id, label and patient of every image of a split, in order.
local function manifest_sha256(split)
  local rows = {}
  for i = 1, split.n do
    local item = split:item(i)
    rows[i] = { item.id, item.findings and canon.list(item.findings) or item.label or -1, item.patient }
  end
  return canon.hash(canon.list(rows))
end

--- A split as plain data: how its images are prepared and the hashes of what it holds. Masks that are applied have one
--- of their own: the images are the same without them (a chain of models asks for that).
function Run:describe_split(split)
  self:check_data(split.data)
  local config = {}
  for k, v in pairs(split.data.config) do
    if k ~= "counts" then config[k] = v end -- of the other splits: no matter here
  end
  return { name = split.name, n = split.n, classes = canon.list(split.classes), config = config,
    manifest_sha256 = manifest_sha256(split), masks_sha256 = split:input_masks_sha256() }
end

--- What the network sees of the images: "whole", "lungs" ...
function Run:input(split)
  return split.data.input or "whole"
end

--- The check before training, told once for each data set.
function Run:check_data(data)
  if data.checked then return end
  local found = data:check()
  self.checked = self.checked or {}
  if self.checked[data:native()] then return end -- another data set of the same pictures
  self.checked[data:native()] = true
  if not host.options.quiet then io.stderr:write(found.text, "\n") end
end

local manifest_columns = { "image_id", "path", "sha256", "label", "split", "patient", "source" }

-- Columns of what some data know: view position, modality and pixel spacing of DICOM files.
local more_columns = { "view", "modality", "row_spacing_mm", "column_spacing_mm" }

local function columns_of(rows)
  local columns = table.move(manifest_columns, 1, #manifest_columns, 1, {})
  for _, name in ipairs(more_columns) do
    local found = false
    for _, row in ipairs(rows) do found = found or row[name] ~= nil end
    if found then columns[#columns + 1] = name end
  end
  return columns
end

--- Writes manifest.csv and data_check.json; of a second data set manifest-2.csv and so on.
function Run:write_manifest(data)
  for _, other in ipairs(self.data) do
    if other == data then return end
  end
  self.data[#self.data + 1] = data
  local suffix = #self.data > 1 and "-" .. #self.data or ""
  files.write_data(files.join(self.dir, "data_check" .. suffix .. ".json"), data:check())
  local rows = {}
  for i, item in ipairs(data:manifest()) do
    rows[i] = { image_id = item.id, path = item.path, sha256 = item.sha256, split = item.split, patient = item.patient,
      source = item.source,
      label = item.findings_text or item.class, view = item.view, modality = item.modality,
      row_spacing_mm = item.spacing and item.spacing[1], column_spacing_mm = item.spacing and item.spacing[2] }
  end
  csv.write(files.join(self.dir, "manifest" .. suffix .. ".csv"), columns_of(rows), rows)
end

-- ---- the steps ------------------------------------------------------------------------------------------------------

--- Makes run:<verb> of each of these: verb -> { module, its function, begins =, logs =, shares =, joins = }
--- (medxai.verbs). Raises where run.fit(...) stands for run:fit(...).
function Run.check_colon(self, verb, right)
  if right then return end
  check.fail(verb, "run.%s(...) leaves out the run (got %s in its place). Use run:%s(...), with a colon.", verb,
    self == nil and "nothing" or "a " .. type(self), verb)
end

-- One step, as its line in medxai.verbs says.
local function do_step(self, verb, step, ...)
  local f = require(step[1])[step[2]]
  if self.joined and not step.shares and not step.joins then self:take_over() end
  if step.shares then
    self:prepare { join = true }
    if self.lock then files.mkdir(files.join(self.dir, "shards")) end
  end
  if not step.begins then return f(self, ...) end
  self:prepare()
  self:begin()
  self:heartbeat(verb)
  local clock <close> = self:clock(verb)
  local result = f(self, ...)
  if step.logs and self.busy then log_figures(self, result) end
  return result
end

function Run.register(verbs)
  for verb, step in pairs(verbs) do
    Run[verb] = function(self, ...)
      Run.check_colon(self, verb, getmetatable(self) == Run)
      local all = verb ~= "fit" and processes.current()
      if all then return all:first(verb, do_step, self, verb, step, ...) end
      return do_step(self, verb, step, ...)
    end
  end
end

return Run
