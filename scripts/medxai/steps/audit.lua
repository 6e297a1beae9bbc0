-- run:audit { inputs, seeds, train, ... }: does the network need the lungs? A cheap probe of every input before any
-- training; the same training on several inputs; what an audited network does with parts replaced and hidden; whether
-- it knows the source; where its maps lie. Verdicts state their power, and are "confounded" where class and source are
-- one. It never says "there is no shortcut". It refuses inputs without the whole image and sources that are all the
-- same, and judges no parts where lung masks are missing.
local canon = require "medxai.base.json"
local check = require "medxai.base.check"
local Options = require "medxai.base.options"
local combine = require "medxai.steps.audit_verdict"
local current_seed = require "medxai.run.current_seed"
local data_module = require "medxai.data.dataset"
local delong = require "medxai.stats.delong"
local files = require "medxai.base.files"
local gate = require "medxai.score.gate"
local host = require "medxai.host"
local inputs = require "medxai.steps.audit_inputs"
local maps = require "medxai.steps.audit_maps"
local parts = require "medxai.steps.audit_parts"
local plot = require "medxai.show.plot"
local sources = require "medxai.steps.audit_sources"
local tables = require "medxai.run.tables"
local verdict = require "medxai.stats.verdict"
local words = require "medxai.steps.audit_words"

local audit = {}

audit.spec = {
  inputs = { "table", default = { "whole", "lungs_raw", "outside", "border", "shape" }, of = "string",
    doc = "what is trained on, each a value of the data's option input" },
  seeds = { "table", default = { 1, 2, 3 }, of = "integer",
    doc = "trainings per input; {}: the probe alone, nothing is trained" },
  train = { "function", required = true, lua = "fun(cell: table): medxai.Model, medxai.Dataset, medxai.FitOptions",
    doc = "(cell) -> model, data, options of run:fit, as run:grid's; reads its data with input = cell.input" },
  audited = { "string|table", lua = "string|medxai.Model",
    doc = "whose use of the parts is tested: a trained run, or a model; default: the first training on whole images" },
  sources = { "table", lua = "table<string, string>", doc = "source of each class, where the reader does not know it" },
  methods = { "string|table", default = {}, lua = "medxai.Methods",
    doc = "whose maps' share inside the lungs is told, and on the markers where the data have a mask of them" },
  regions = { "table", default = parts.names, of = "string", doc = "parts that are hidden beside placebos" },
  placebo = { "integer", default = 4, min = 1, max = 32,
    doc = "patches of the same shape elsewhere, per part and image" },
  margin = { "number", default = 0.638, above = 0.5, max = 0.999,
    doc = "AUROC from which a class counts as told (a half standard deviation)" },
  images = { "integer|string", field = true, default = 240, min = 1, smoke = 2, unit = "images",
    doc = "of the test split for hiding and maps; or \"all\"" },
}

local function check_names(name, list, known)
  local seen = {}
  if #list == 0 then
    check.fail("audit", "%s is an empty list (expected some of %s).", name, table.concat(known, ", "))
  end
  for _, value in ipairs(list) do
    check.known("audit", name, value, known)
    if seen[value] then check.fail("audit", "%s holds '%s' twice.", name, value) end
    seen[value] = true
  end
  return seen
end

--- Checks the options; raises what is wrong with them.
---@param options table
---@return table
function audit.check(options)
  local o = Options.check("audit", options, audit.spec)
  local seen = check_names("inputs", o.inputs, data_module.inputs)
  if not seen.whole then
    check.fail("audit", "inputs lack 'whole', the image as it is, with which the others are compared. Add it.")
  end
  if not (seen.outside or seen.border or seen.shape) then
    check.fail("audit", "inputs hold none without lungs (expected at least one of outside, border, shape).")
  end
  check_names("regions", o.regions, parts.names)
  local seeds = {}
  for i = 1, #o.seeds do
    local seed = math.tointeger(o.seeds[i])
    if not seed or seed < 0 then
      check.fail("audit", "seeds holds %s at %d (expected whole numbers from 0).", tostring(o.seeds[i]), i)
    end
    if seeds[seed] then check.fail("audit", "seeds holds %d twice.", seed) end
    seeds[seed], o.seeds[i] = true, seed
  end
  if type(o.audited) == "table" and not require("medxai.nn.model").is(o.audited) then
    check.fail("audit", "audited is a table and no model (expected a run's name, or a model).")
  end
  if type(o.images) == "string" and o.images ~= "all" then
    check.fail("audit", "images is a number or 'all' (got '%s').", o.images)
  end
  return o
end

-- What the trainings are for the search: without seeds the experiment's function is asked for its data alone.
local function cells_of(run, o, train)
  return { input = o.inputs, seed = #o.seeds > 0 and o.seeds or { run.seed }, train = train or o.train,
    keep_weights = "all" }
end

--- Checks a call of run:audit without making it (medxai.run.preflight).
function audit.check_call(unknown, run, options)
  local open = Options.check("audit", options, audit.spec)
  for _, key in ipairs { "inputs", "seeds", "regions", "train", "images", "audited" } do
    if rawequal(open[key], unknown) then return end
  end
  local o = audit.check(options)
  if #o.seeds == 0 then return end
  require("medxai.steps.search").check_call(unknown, run, cells_of(run, o))
end

-- ---- the network that is audited ------------------------------------------------------------------------------------

-- The model and the split on which it is judged; name is what it is called, own: it was made here. nil where nothing
-- was trained and none is named.
local function audited_of(o, data, cells)
  if type(o.audited) == "string" then
    local model, trained_on = require("medxai.nn.trained").open(o.audited)
    if not trained_on.test then check.fail("audit", "the data of the run '%s' have no test split.", o.audited) end
    return { name = o.audited, model = model:eval(), split = trained_on.test, own = true }
  elseif o.audited then
    require("medxai.nn.predict").check_classes("audit", o.audited, data.whole.classes)
    return { name = o.audited.name, model = o.audited, split = data.whole.test }
  end
  for _, cell in ipairs(cells or {}) do
    if cell.values.input == "whole" and cell.judged then
      return { name = ("training of whole images, seed %d"):format(cell.values.seed), model = inputs.trained(cell),
        split = cell.data.test, own = true }
    end
  end
end

-- Parts replaced and hidden, what the network knows of sources, and where its maps lie.
local function judge_network(run, o, found, network)
  local why, without = "no network: name one as audited, or give seeds", nil
  if network then why, without = parts.obstacle(network.split) end
  found.without_lungs = without or 0
  if not why then
    local own = { regions = o.regions, placebo = o.placebo, images = o.images == "all" and network.split.n
      or math.min(o.images, network.split.n), seed = run.seed }
    local images, spots = parts.answers(run, network.model, network.split, own)
    found.retained, found.occlusion = parts.retained(images, network.split.classes, run.seed),
      parts.occlusion(images, own)
    found.spots, found.images = spots, #images
    if network.maps then found.maps = maps.rows(run, network.split, network.maps, network.model:sha256()) end
  end
  found.no_parts, found.network = why, network and network.name
end

-- ---- rows -----------------------------------------------------------------------------------------------------------

local function told_rows(rows, witness, o)
  local out = {}
  for _, row in ipairs(rows or {}) do
    if row.verdict then
      local v = row.verdict
      out[#out + 1] = { subject = row.class, check = ("told from %s, %s"):format(row.input, witness),
        verdict = v.verdict, estimate = row.area.mean,
        low = row.area.low, high = row.area.high, threshold = o.margin, reason = v.reason,
          family = "audit told, " .. witness,
        p_holm = v.verdict == "not_found" and row.p_below or row.p_above, n = row.area.n, units = row.area.units }
    end
  end
  return out
end

local function network_rows(found)
  local out = {}
  for _, row in ipairs(found.retained or {}) do
    for _, way in ipairs { "blur", "mean" } do
      local s = row.removals[way].share
      out[#out + 1] = { subject = row.class, check = "retained without lungs, " .. way, verdict = row.verdict.verdict,
        estimate = s.mean, low = s.low,
        high = s.high, threshold = parts.least_share, reason = row.verdict.reason, family = "audit retained", n = s.n,
          units = s.units }
    end
  end
  for _, row in ipairs(found.occlusion or {}) do
    for _, way in ipairs { "blur", "mean" } do
      local r = row.removals[way]
      out[#out + 1] = { subject = row.part, check = "hidden against placebos, " .. way, verdict = row.verdict.verdict,
        estimate = r.mean, low = r.low,
        high = r.high, threshold = parts.least_drop * row.deviation, reason = row.verdict.reason,
          family = "audit hidden, " .. way,
        p_holm = r.p_above, controls = ("%d placebos"):format(found.placebo), n = r.n, units = r.units }
    end
  end
  for _, row in ipairs(found.sources or {}) do
    out[#out + 1] = { subject = row.class, check = "source known within the class", verdict = row.verdict.verdict,
      estimate = row.auc, threshold = row.null,
      reason = row.verdict.reason, family = "audit sources", p_holm = row.p_holm,
        controls = row.refits and row.refits .. " refits", n = row.n, units = row.units }
  end
  for _, row in ipairs(found.maps or {}) do
    local where = row.part == "markers" and "on the markers" or "in the lungs"
    out[#out + 1] = { subject = row.method, check = ("energy %s above swap"):format(where),
      verdict = row.verdict.verdict, estimate = row.gain.mean, low = row.gain.low, high = row.gain.high, threshold = 0,
      reason = row.verdict.reason, family = "audit maps", p_holm = row.p_holm, controls = "swap", n = row.gain.n,
      units = row.gain.units }
  end
  return out
end

local function write_tables(run, found, o)
  local rows = told_rows(found.probe, "cheap probe", o)
  for _, more in ipairs { told_rows(found.trained, "trainings", o), network_rows(found) } do
    table.move(more, 1, #more, #rows + 1, rows)
  end
  table.insert(rows, 1, { subject = found.network or "data", check = "audit", verdict = found.verdict.verdict,
    reason = found.verdict.reason, family = "audit" })
  tables.put(run, "verdicts.csv", tables.verdicts, "audit", rows)
  local p = found.lungs_beat_shape
  tables.put(run, "tables/pairs.csv", tables.pairs, "audit", p and { { family = "audit lungs_raw - shape",
    endpoint = "auroc_macro", a = "lungs_raw", b = "shape",
    estimate = p.mean, low = p.low, high = p.high, p = p.p, p_holm = p.p, decision = p.verdict.verdict, test = p.test,
      n = p.n, units = p.units } } or {})
  tables.write(run, "tables/audit.csv", words.area_columns, words.area_rows(found))
end

-- ---- the step -------------------------------------------------------------------------------------------------------

-- Whether lungs tell more than their outline: the trainings' areas where there are such, else the probe's.
local function compare_with_shape(areas, over)
  local a, b = areas.lungs_raw, areas.shape
  if not a or not b then return nil end
  local d = delong.macro_difference(a, b, over)
  d.verdict = verdict.of("difference", d, {})
  return d
end

local function say(text)
  if not host.options.quiet then io.stderr:write(text, "\n") end
end

local function tell_left_out(run, left_out)
  local first, n = left_out[1], #left_out
  if n == 0 then return end
  run:warn(("audit: %d image%s left out of all inputs, since an input refuses %s: '%s' (input = '%s': %s)%s"):format(n,
    n == 1 and " is" or "s are", n == 1 and "it" or "them", first.path, first.input, first.why,
    n > 1 and (" and %d more"):format(n - 1) or ""))
end

local function step_fields(run, o, data, cells, network)
  local fields = { inputs = canon.list(o.inputs), seeds = canon.list(o.seeds), margin = o.margin,
    regions = canon.list(o.regions), placebo = o.placebo,
    images = o.images, sources = o.sources or "the reader's", cells = canon.list {}, data = {},
      version = 3 }
  for i, cell in ipairs(cells or {}) do fields.cells[i] = { key = cell.key, judged = cell.judged ~= nil } end
  for _, input in ipairs(o.inputs) do fields.data[input] = run:describe_split(data[input].test) end
  if network then
    fields.maps = network.maps and network.maps.name
    fields.gate = network.maps and gate.hash(run.dir) -- its word stands beside the maps
    fields.network = { name = network.name, model = run:describe_model(network.model),
      data = run:describe_split(network.split) }
  end
  return fields
end

-- Reads what an input's function gives, in the seed of its first training.
local function reader(run, o)
  local seed = #o.seeds > 0 and o.seeds[1] or run.seed
  return function(input)
    local _, data = current_seed.during(seed, o.train, { input = input, seed = seed })
    return data
  end
end

-- The cheap probes, told before any training.
local function tell_probes(run, o, all)
  local seconds
  all.probes, seconds = inputs.probes(run, o.inputs, all.data)
  say(words.probe(inputs.told(o.inputs, all.splits, all.probes, inputs.units(run, all.splits.whole), o.margin),
    seconds))
end

-- Trains all inputs, each without the images that any of them refuses.
local function train_all(run, o, left_out)
  local paths = {}
  for i, one in ipairs(left_out) do paths[i] = one.path end
  return inputs.train(run, cells_of(run, o, function(cell)
    local model, data, options = o.train(cell)
    return model, inputs.reread(data, paths), options
  end))
end

local function conclude(run, o, all)
  local found = { left_out = #all.left_out, placebo = o.placebo, margin = o.margin,
    counts = sources.table_of(o.sources, all.data.whole) }
  local over = inputs.units(run, all.splits.whole)
  found.over, found.classes, found.inputs = { count = over.count, resampled = over.resampled, note = over.note },
    all.data.whole.classes, o.inputs
  local areas
  found.probe, areas = inputs.told(o.inputs, all.splits, all.probes, over, o.margin)
  if all.answers then found.trained, areas = inputs.told(o.inputs, all.splits, all.answers, over, o.margin) end
  found.cells, found.lungs_beat_shape = all.cells, compare_with_shape(areas, over)
  judge_network(run, o, found, all.network)
  local network = all.network
  found.sources = sources.rows(network and network.model, network and network.split or all.splits.whole,
    { sources = o.sources, seed = run.seed }, found.counts)
  found.verdict = combine.of(found)
  write_tables(run, found, o)
  local result = words.result(found)
  result.figures = require("medxai.show.audit_figures").draw(run, o.margin)
  return result
end

--- run:audit { ... }. Options:
---   train    function(cell) -> model, data, options of run:fit, as run:grid's; reads its data with input = cell.input
---   inputs   { "whole", "lungs_raw", "outside", "border", "shape" }: what is trained on; "whole" is the image as it is
---   seeds    { 1, 2, 3 }: trainings of each input; {} trains nothing, and the cheap probe alone speaks
---   audited  whose use of parts is judged: a trained run by its name, or a model; default the first training of whole
---            images
---   sources  class -> source, { ["COVID-19"] = "A", Normal = "B" }; default the reader's column
---   methods  whose maps are judged by their share in the lungs, and on the markers where the data have a mask of
---            them: { "gradcam" }; default none
---   regions  parts that are hidden: { "markers", "border", "lungs" }; markers are the data's mask, else bright spots
---            outside the lungs' rectangle, listed in audit/markers.csv to be looked at
---   placebo  places of the same shape that are hidden for comparison, 4
---   margin   the AUROC above which a class counts as told, 0.638 = Phi(0.5 / sqrt 2): half a standard deviation
---   images   how many of the audited network's test images have their parts replaced, 240, or "all"
--- Images that an input refuses (a mask without a left lung) are left out of all inputs. Trainings are cells: what is
--- finished is not done again. A second process on the same run folder (another terminal, another machine on the same
--- disk) shares the trainings; the rest is done by the one that began. Leaves verdicts.csv, tables/audit.csv,
--- tables/pairs.csv, audit/ (answers), cells/ (weights).
---@param run medxai.Run
---@param options table
---@return table result { title, verdict, reason, sentences, tables }
function audit.run(run, options)
  local o = audit.check(options)
  require("medxai.run.preflight").check()
  run:prepare { join = true }
  run:begin()
  files.mkdir(files.join(run.dir, "families")) -- by which another process sees that there are trainings to share
  if type(o.audited) == "string" then audited_of(o) end -- a run that is not there is an error now, not after trainings
  local all = {}
  all.data, all.left_out = inputs.read(o.inputs, reader(run, o))
  sources.check(o.sources, all.data.whole.classes)
  tell_left_out(run, all.left_out)
  all.splits = inputs.splits(o.inputs, all.data)
  if not run.joined then tell_probes(run, o, all) end
  if #o.seeds > 0 then
    say(("audit: %d trainings (%d inputs x %d seeds); the first ones tell how long they take"):format(
      #o.inputs * #o.seeds, #o.inputs, #o.seeds))
    all.cells = train_all(run, o, all.left_out)
  end
  local joined = run.joined
  run:take_over() -- the process that began the audit has ended, or this is the one
  if joined then tell_probes(run, o, all) end
  if all.cells then all.answers = inputs.judge(run, all.cells) end
  all.network = audited_of(o, all.data, all.cells)
  local network = all.network
  if network and #o.methods > 0 and not parts.obstacle(network.split) then
    network.maps = maps.explain(run, network, o)
  end
  local step = run:step("audit", step_fields(run, o, all.data, all.cells, network))
  run:configure("audit", step.fields)
  if step.done then
    run:skipped("audit")
  else
    local clock <close> = run:clock("audit")
    run:write_manifest(all.data.whole)
    step:begin()
    local result = conclude(run, o, all)
    step:finish(result, { "tables/audit.csv" }, plot.paths(result.figures, { "verdicts.csv", "tables/pairs.csv" }))
  end
  if network and network.own then network.model:reset() end -- its tensors are freed
  print("\nAudit")
  require("medxai.show.report_judged").print(step.result)
  return step.result
end

return audit
