-- run:sanity, the gate: do maps depend on the network, on the image, on what was learned? For every network and method:
-- maps of other patients (image), of random weights stage by stage (weights), of another training (learned, retrain),
-- of another network (architecture), of a network of permuted labels (labels), of another explainer seed (repeat), and
-- against a mask (localise). Four controls whose verdicts are known go through every gate; where one does not come out
-- as it must, nothing that this gate says holds. Methods that fail image, weights or learned are marked from then on.
-- It refuses a verdict of fewer than ten patients, and a network "of permuted labels" that was trained on the true
-- ones.
local canon = require "medxai.base.json"
local cells = require "medxai.steps.sanity_cells"
local check = require "medxai.base.check"
local Options = require "medxai.base.options"
local core = require "medxai.core"
local explain = require "medxai.steps.explain"
local files = require "medxai.base.files"
local gate = require "medxai.score.gate"
local host = require "medxai.host"
local jobs = require "medxai.explain.job"
local judged = require "medxai.show.report_judged"
local judging = require "medxai.steps.sanity_verdicts"
local plot = require "medxai.show.plot"
local study_cells = require "medxai.steps.study_cells"
local Progress = require "medxai.base.progress"
local tables = require "medxai.score.gate_tables"

local sanity = {}

local layer_of, check_layers = study_cells.layer_of, study_cells.check_layers

local strangers_each = 5
local heavy_passes = 200 -- methods of more forward passes per map: two stages, one draw

sanity.spec = {
  methods = { "string|table", required = true, lua = "medxai.Methods",
    doc = "as run:explain's; the four controls join them" },
  permuted = { "table", default = {}, lua = "table<string, string>",
    doc = "run of a study's model -> run of the same network trained on permuted labels" },
  images = { "integer", field = true, default = 48, min = 2, smoke = 2, unit = "images", doc = "the study's first" },
  stages = { "integer", default = 6, min = 2, max = 100, smoke = 2,
    doc = "in which weights are randomized, from the head to the input" },
  draws = { "integer", field = true, default = 5, min = 1, max = 1000, smoke = 1, doc = "of random weights per stage" },
  thresholds = { "table", default = {}, lua = "table<string, number>",
    doc = "of the checks, by name: { persistence = 0.25 }" },
  mask = { "string", doc = "the data's mask for the check localise" },
  alone = { "boolean", default = true, smoke = false, doc = "each stage randomized alone as well, as a figure" },
  layer = { "string|table", lua = "string|string[]|table<string, string|string[]>",
    doc = "a node, a list of nodes, or network -> node, as run:compare's; default: each network's own" },
  budget_mb = { "number", default = 1024, above = 0, unit = "MB", doc = "memory for a batch and for chunks" },
  title = { "string", doc = "of this part of the report" },
}

local function say(...)
  if not host.options.quiet then io.stdout:write(string.format(...), "\n") end
end

-- ---- options -------------------------------------------------------------------------------------------------------

-- The methods asked for, then the controls that are not among them.
local function with_controls(methods)
  local list, named = {}, {}
  for key, value in pairs(methods) do
    list[key] = value
    named[type(key) == "string" and key or type(value) == "table" and value[1] or value] = true
  end
  for _, name in ipairs(gate.controls) do
    if not named[name] then list[#list + 1] = name end
  end
  return list
end

local function threshold_spec()
  local own = {}
  for name, value in pairs(gate.thresholds) do own[name] = { "number", default = value, min = -1, max = 1 } end
  return own
end

--- Checks the options; raises what is wrong with them.
---@return table checked
function sanity.check(options, study)
  local o = Options.check("sanity", options, sanity.spec)
  o.thresholds = Options.check("sanity: thresholds", o.thresholds, threshold_spec())
  explain.check { methods = with_controls(o.methods), layer = layer_of(o.layer, nil) }
  if study then check_layers("sanity", o.layer, study) end
  for _, network in ipairs(check.sorted_keys(o.permuted)) do
    if type(network) ~= "string" or type(o.permuted[network]) ~= "string" then
      check.fail("sanity",
        "permuted names runs by network: permuted = { mobilenet_v2 = \"mobilenet_v2_permuted\" } (got %s = %s).",
        tostring(network), tostring(o.permuted[network]))
    end
    local known = {}
    for i, m in ipairs(study and study.models or {}) do known[i] = m.network end
    if study then check.known("sanity", "network", network, known) end
  end
  return o
end

--- Checks a call of run:sanity without making it (medxai.run.preflight).
function sanity.check_call(unknown, _, study, options)
  sanity.check(options, study ~= unknown and study.models and study or nil)
end

-- ---- models and their entries --------------------------------------------------------------------------------------

-- A model's network loaded, its entries with layers and the settings that name their maps.
local function prepare(job, m)
  local model = m:open()
  local asked = explain.check({ methods = with_controls(job.o.methods), layer = layer_of(job.o.layer, m.network),
    target = job.study.target, budget_mb = job.o.budget_mb }, model, m.split)
  local masks = m.split.input_masks_sha256 and m.split:input_masks_sha256() or nil
  for _, e in ipairs(asked.entries) do
    jobs.name_set({ model = model, split = m.split, weights = model:sha256(), run = { seed = job.study.seed } },
      e, masks)
    e.label = e.method.title
  end
  local layers = model:weighted_layers()
  return { m = m, entries = asked.entries, stages = gate.stages(layers, job.o.stages), weights = model:sha256() }
end

-- What opens a network of permuted labels for a study's model: prepared as that one's; raises where it is none.
local function permuted_model(m, name)
  local weights = require "medxai.nn.weights"
  local described = weights.find(name, "sanity").described
  if not described then
    check.fail("sanity", "permuted: the run '%s' has no model.json. Train it again with run:fit.", name)
  end
  local labels = (described.data or {}).options and described.data.options.labels
  if labels ~= "permuted" and labels ~= "permuted_all" then
    check.fail("sanity",
      "permuted: the run '%s' was trained on the true labels (expected a reader with labels = \"permuted_all\").", name)
  end
  if described.network ~= m.network then
    check.fail("sanity", "permuted: the run '%s' is a %s (expected %s).", name, tostring(described.network), m.network)
  end
  local p = { name = name, run = name, network = m.network, split = m.split, places = m.places, data = m.data }
  function p.open(self)
    if not self.model then
      self.model = require("medxai.nn.models")[m.network] { weights = name }
      self.model:eval()
      require("medxai.nn.model_file").check_data({ note_differences = function() end }, self.model, m.data)
    end
    return self.model, m.data
  end
  function p.close(self)
    if self.model then self.model:close() end
    self.model = nil
  end
  return p
end

-- ---- cells ---------------------------------------------------------------------------------------------------------

local function draw_seed(seed, draw)
  local scope <close> = core.memory.scope() -- luacheck: ignore
  local stream = core.rng.stream { seed = seed, purpose = "gate_draws@1", id = "", replicate = draw }
  return stream:integers(1, 1 << 31)[0]:item()
end

local function maps_cell(job, p, seed, what)
  return cells.new { kind = "maps", job = job, model = p.m, entries = p.entries, seed = seed,
    open = function() return (p.m:open()) end,
    title = string.format("maps of %s%s", p.m.name, what), key = { weights = p.weights } }
end

-- Which entries draw at random; controls are not asked to repeat themselves.
local function random_entries(p)
  local list = {}
  for e, entry in ipairs(p.entries) do
    if entry.method.rng and not entry.method.baseline then list[#list + 1] = e end
  end
  return list
end

-- All cells of trained networks: each model, each with another explainer seed where a method draws, permuted networks.
local function trained_cells(job)
  local list = {}
  for _, p in ipairs(job.models) do
    p.trained = maps_cell(job, p, job.study.seed, "")
    list[#list + 1] = p.trained
    p.random = random_entries(p)
    if #p.random > 0 then
      local some = {}
      for k, e in ipairs(p.random) do some[k] = p.entries[e] end
      p.again = cells.new { kind = "maps", job = job, model = p.m, entries = some, seed = job.study.seed + 1,
        open = p.trained.open,
        title = "maps of " .. p.m.name .. " with another explainer seed", key = { weights = p.weights } }
      list[#list + 1] = p.again
    end
    if p.permuted then
      p.permuted.trained = maps_cell(job, p.permuted, job.study.seed, ", trained on permuted labels")
      list[#list + 1] = p.permuted.trained
    end
  end
  return list
end

-- Which entries of a model are dear: told by what their trained maps took.
local function split_by_cost(job, p)
  local cheap, all, passes = {}, {}, p.trained:facts().passes
  for e in ipairs(p.entries) do
    all[e] = e
    if passes[e] / #job.images <= heavy_passes then cheap[#cheap + 1] = e end
  end
  return cheap, all
end

local function stage_cell(job, p, k, draw, places, alone)
  local entries, stage = {}, p.stages[k]
  for i, e in ipairs(places) do entries[i] = p.entries[e] end
  return cells.new { kind = "stage", job = job, model = p.m, entries = entries, places = places, seed = job.study.seed,
    trained = p.trained, open = p.trained.open, stage = stage, number = k, draw = draw, alone = alone,
    draw_seed = draw_seed(job.study.seed, draw),
    title = string.format("%s, %s random weights %d of %d layers, draw %d", p.m.name,
      alone and "those before the last alone," or "the last", stage.layers, stage.of, draw),
    key = { weights = p.weights, to = stage.to, from = alone and stage.from or "output", draw = draw } }
end

-- The cells of random weights of a model: every stage and draw; dear methods at the first and the last stage, once.
local function stage_cells(job, p)
  local cheap, all = split_by_cost(job, p)
  local list = {}
  for k = 1, #p.stages do
    local outer = k == 1 or k == #p.stages
    for draw = 1, k == 1 and 2 * job.o.draws or job.o.draws do
      list[#list + 1] = stage_cell(job, p, k, draw, draw == 1 and outer and all or cheap)
    end
    if job.o.alone and k > 1 then list[#list + 1] = stage_cell(job, p, k, 1, cheap, true) end
  end
  return list
end

local function all_done(list)
  for _, cell in ipairs(list) do
    if not cell:done() then return false end
  end
  return true
end

--- What the cells of random weights take, in seconds, from what the trained maps of each network took and what the
--- comparison of two maps takes; once some are done, those of a network whose cells are not are taken to be as much
--- slower as these were. All of them, and those that are left.
---@param models table[] { trained, entries, cascade }
---@param likeness number seconds per map
---@param images integer
---@return number all
---@return number left
function sanity.predict(models, likeness, images)
  local all, left, real, expected = 0.0, 0.0, 0.0, 0.0
  for _, p in ipairs(models) do
    local open, own_real, own_expected = 0.0, 0.0, 0.0
    for _, cell in ipairs(p.cascade) do
      local one = (p.trained:facts().seconds or 0) * #cell.entries / #p.entries + likeness * images * #cell.entries
      all = all + one
      if cell:done() then own_real, own_expected = own_real + (cell:facts().seconds or one), own_expected + one
      else open = open + one end
    end
    real, expected = real + own_real, expected + own_expected
    local r, x = own_expected > 0 and own_real or real, own_expected > 0 and own_expected or expected
    left = left + open * (x > 0 and r / x or 1)
  end
  return all, left
end

local function tell_left(job)
  local all, left = sanity.predict(job.models, job.likeness, #job.images)
  if left > 0 then say("sanity: random weights, about %s left", Progress.duration(left)) end
  return all
end

-- What the cells of random weights took, whoever made them, beside what was predicted: study/cost_gate.json.
local function tell_cost(job, predicted)
  local n, sum = 0, 0.0
  for _, p in ipairs(job.models) do
    for _, cell in ipairs(p.cascade) do
      if not cell:facts().seconds then return end -- an earlier version made it
      n, sum = n + 1, sum + cell:facts().seconds
    end
  end
  say("sanity: the %d cells of random weights took %s of one process, predicted %s", n, Progress.duration(sum),
    Progress.duration(predicted))
  files.write_data(files.join(job.run.dir, "study", "cost_gate.json"),
    { cells = n, seconds_of_cells = sum, predicted_at_start = predicted })
end

-- ---- the step ------------------------------------------------------------------------------------------------------

local function new_job(run, study, o)
  local images = table.move(study.images, 1, math.min(o.images, #study.images), 1, {})
  local job = { run = run, study = study, o = o, images = images, models = {}, mask = o.mask,
    dir = files.join(run.dir, "study", "gate"), budget_bytes = o.budget_mb * (1 << 20),
    strangers = gate.strangers(images, study.seed, strangers_each) }
  if #images < o.images then
    run:warn(string.format("sanity: the study has %d images (%d were asked for)", #images, o.images))
  end
  local ids, places = canon.list {}, canon.list {}
  for i, image in ipairs(images) do
    local r = study:shared_rectangle(i)
    ids[i], places[i] = image.id, { r.left, r.top, r.right, r.bottom }
  end
  job.image_key, job.frame_key = canon.hash(ids), canon.hash(places)
  files.mkdir(job.dir)
  return job
end

local function prepare_all(job)
  for _, m in ipairs(job.study.models) do
    local p = prepare(job, m)
    local name = job.o.permuted[m.network]
    if name then
      local other = permuted_model(m, name)
      p.permuted = prepare(job, other)
      other:close()
    end
    m:close()
    job.models[#job.models + 1] = p
  end
  judging.relate(job.models)
end

local function step_fields(job)
  local o = job.o
  local models = canon.list {}
  for k, p in ipairs(job.models) do
    local sets = canon.list {}
    for e, entry in ipairs(p.entries) do sets[e] = entry.set end
    models[k] = { model = p.m.name, weights = p.weights, maps = sets, permuted = p.permuted and p.permuted.weights
      or nil }
  end
  return { title = o.title, models = models, images = job.image_key, frame = job.frame_key, stages = o.stages,
    draws = o.draws,
    thresholds = o.thresholds, mask = o.mask, alone = o.alone, target = job.study.target, version = gate.version }
end

-- Cells of one model after the other, its weights freed in between.
local function work(job, of)
  for _, p in ipairs(job.models) do
    local list = of(p)
    if not all_done(list) then cells.all(list) end
    p.m:close()
    if p.permuted then p.permuted.m:close() end
  end
end

local function own_cells(list, p)
  local out = {}
  for _, cell in ipairs(list) do
    if cell.model == p.m or p.permuted and cell.model == p.permuted.m then out[#out + 1] = cell end
  end
  return out
end

local function compute(job)
  local trained = trained_cells(job)
  work(job, function(p) return own_cells(trained, p) end)
  for _, p in ipairs(job.models) do p.cascade = stage_cells(job, p) end
  job.likeness = cells.seconds_of_likeness(job.models[1].trained)
  local predicted = tell_left(job)
  work(job, function(p)
    if p ~= job.models[1] then tell_left(job) end
    return p.cascade
  end)
  tell_cost(job, predicted)
end

local function conclude(job)
  local scope <close> = core.memory.scope() -- luacheck: ignore
  local reading <close> = judging.read(job) -- luacheck: ignore
  local rows, models = tables.rows(job), canon.list {}
  for k, p in ipairs(job.models) do models[k] = judging.of(job, p, rows) end
  rows:add_stages()
  local result = { title = job.o.title, images = #job.images, stages = job.o.stages, draws = job.o.draws,
    models = models,
    thresholds = job.o.thresholds, target = tostring(job.study.target) }
  tables.write(job.run, result, rows)
  tables.show(result)
  result.figures = require("medxai.show.sanity_figures").draw(job.run)
  gate.save(job.run.dir, tables.marks(result))
  return result
end

--- run:sanity(study, options): the gate.
---   methods     as run:explain's; the controls sobel, random_smooth, center_blob and weights_noise come besides
---   permuted    { network = run }: a run of that network with labels = "permuted_all", for the check `labels`
---   images      48, the first of the study's
---   stages      6: the head, then cuts nearest to equal shares of the layers with weights
---   draws       5 draws of random weights per stage, twice as many of the head; methods of more than 200 passes per
---               map: the first and the last stage, once
---   thresholds  { image = 0.9, persistence = 0.25, learned = 0.1, labels = 0.5, ["repeat"] = 0.9, retrain = 0.5,
---               architecture = 0.5, localise = 0 }
---   mask        a mask of the data, for the check `localise`
---   alone       true: also each stage with random weights in its own layers only, once; told, not judged
---   layer, title, budget_mb
--- Leaves verdicts.csv, tables/gate.csv, tables/gate_stages.csv, study/similarity_gate.csv, figures/sanity-cascade-*
--- and the marks that later steps read (score/gate.lua).
---@param run medxai.Run
---@param study medxai.Study
---@param options table
---@return table result { models = { { model, methods = { { label, checks, state, failed, profile } }, controls } } }
function sanity.run(run, study, options)
  if type(study) ~= "table" or not study.images or not study.models then
    check.fail("sanity", "takes a study: run:sanity(run:study { ... }, { methods = ... }) (got %s).",
      study == nil and "nil" or type(study) == "table" and "a table that is none" or "a " .. type(study))
  end
  local o = sanity.check(options, study)
  run:prepare { join = true }
  local job = new_job(run, study, o)
  prepare_all(job)
  local fields = step_fields(job)
  local name = "sanity-" .. canon.hash(fields):sub(1, 8)
  local step = run:joined_step(name, fields)
  run:configure(name, fields)
  if step.done then
    run:skipped(name)
    return step.result
  end
  local clock <close> = run:clock(name) -- luacheck: ignore
  if not run.joined then step:begin() end
  compute(job)
  run:take_over()
  step = run:step(name, fields)
  if not step.done then
    local result = conclude(job)
    if not host.options.quiet then judged.print(result) end
    step:finish(result, {}, plot.paths(result.figures, { "verdicts.csv", "tables/gate.csv", "tables/gate_stages.csv",
      "study/similarity_gate.csv", "study/gate.json" }))
  end
  return step.result
end

return sanity
