-- run:packet: what readers need to judge maps without knowing their methods. packet/reader-1, reader-2 ... hold cases
-- in an order of the reader's own, the maps of each case as A, B, C by a Latin square, a page that asks two questions
-- of each map, and answers.csv to fill in. Trivial baselines are decoys among the methods, and one case in ten comes
-- twice. The key (which letter is which method) lies outside, in packet_key.csv; its SHA-256 lies inside, so that it
-- cannot change after the answers are known. It refuses file names and metadata that name a method.
local canon = require "medxai.base.json"
local check = require "medxai.base.check"
local Options = require "medxai.base.options"
local core = require "medxai.core"
local csv = require "medxai.base.csv"
local explain = require "medxai.steps.explain"
local files = require "medxai.base.files"
local gallery_maps = require "medxai.show.gallery_maps"
local jobs = require "medxai.explain.job"
local page = require "medxai.show.packet_page"
local random = require "medxai.tensor.random"
local runner = require "medxai.explain.runner"

local packet = {}

packet.columns = { "case", "map", "marks_the_finding", "would_mislead", "seconds", "remark" }
packet.key_columns = { "reader", "case", "map", "method", "decoy", "repeat_of", "image_id", "patient", "finding",
  "model" }

packet.spec = {
  methods = { "string|table", required = true, lua = "medxai.Methods",
    doc = "as run:explain's; baselines (sobel, center_blob, random_smooth) are decoys" },
  images = { "integer", field = true, default = 24, min = 2, unit = "cases",
    doc = "the study's first of which every method has a map" },
  readers = { "integer", field = true, default = 3, min = 1, max = 100, doc = "folders: each reader gets one of them" },
  repeats = { "number", default = 0.1, min = 0, max = 1, doc = "share of cases that come a second time" },
  model = { "string", doc = "whose maps, by its name in the study; needed where the study has several" },
  layer = { "string|table", lua = "string|string[]", doc = "as run:explain's" },
}

local function checked(options)
  local o = Options.check("packet", options, packet.spec)
  o.entries = explain.check({ methods = o.methods }).entries
  local seen = {}
  for _, e in ipairs(o.entries) do
    if seen[e.method.name] then
      check.fail("packet", "the method '%s' is there twice. Give one of each.", e.method.name)
    end
    seen[e.method.name] = true
  end
  if #o.entries < 2 then
    check.fail("packet", "needs two methods or more (got %d): readers compare them.", #o.entries)
  end
  if #o.entries > 26 then check.fail("packet", "takes at most 26 methods (got %d): maps are A to Z.", #o.entries) end
  return o
end

--- Checks a call of run:packet without making it (medxai.run.preflight).
function packet.check_call(_, _, _, options) checked(options) end

local function model_of(study, o)
  if not o.model then
    if #study.models > 1 then
      local names = {}
      for i, m in ipairs(study.models) do names[i] = "'" .. m.name .. "'" end
      check.fail("packet", "say whose maps the readers see: model = one of %s.", table.concat(names, ", "))
    end
    return study.models[1]
  end
  for _, m in ipairs(study.models) do
    if m.name == o.model then return m end
  end
  local names = {}
  for i, m in ipairs(study.models) do names[i] = m.name end
  check.known("packet", "model", o.model, names)
end

-- ---- maps -----------------------------------------------------------------------------------------------------------

-- An image's picture and its map by each method; nil and why where one of them has none.
local function maps_of(job, m, study, i)
  local number = m.places[i]
  local item = setmetatable({ number = number }, { __index = m.split:item(number) })
  local x = m.split:batch({ number }).x
  local made, list, class = runner.maps_of(job, x, { item }), {}, nil
  for k, e in ipairs(job.entries) do
    local one = made[e][1]
    if one.status ~= "ok" then return nil, e.method.name .. ": " .. one.status end
    list[k], class = one.map, one.target.class
  end
  return { picture = gallery_maps.image(m.split, number), maps = list, finding = class or study.images[i].class }
end

-- The first n images of the study of which every method has a map.
local function cases_of(study, m, o)
  local model = m:open()
  local mode <close> = explain.eval_mode(model) -- luacheck: ignore
  local asked = explain.check({ methods = o.methods, target = study.target, layer = o.layer, deterministic = true },
    model, m.split)
  local job = jobs.loose { model = model, split = m.split, entries = asked.entries, run = { seed = study.seed },
    deterministic = true }
  local list, left_out = {}, canon.list {}
  for i = 1, #study.images do
    if #list == o.images then break end
    local scope <close> = core.memory.scope() -- luacheck: ignore
    local case, why = maps_of(job, m, study, i)
    if case then
      list[#list + 1] = { image = study.images[i], finding = case.finding, pictures = page.pictures(case) }
    else
      left_out[#left_out + 1] = study.images[i].id .. ", " .. why
    end
  end
  m:close()
  if #list < o.images then
    check.fail("packet", "only %d of the study's %d images have a map by every method (asked for %d).%s", #list,
      #study.images, o.images, left_out[1] and " The first without: " .. left_out[1] .. "." or "")
  end
  return list, left_out, asked.entries
end

-- ---- who sees what --------------------------------------------------------------------------------------------------

local function shuffled(n, seed, id)
  local order = random.stream({ seed = seed, purpose = "packet@1", id = id }):permutation(n):tolist()
  for i, v in ipairs(order) do order[i] = v + 1 end
  return order
end

-- The cases of a reader in his order: { case = its name, of = number of the image, repeat_of = name of its first time
-- }.
local function order_of(reader, n, o, seed)
  local list, first = {}, {}
  for place, of in ipairs(shuffled(n, seed, "order of reader " .. reader)) do
    list[place] = { case = ("%d-%03d"):format(reader, place), of = of }
    first[of] = list[place].case
  end
  local again = shuffled(n, seed, "repeats of reader " .. reader)
  for k = 1, math.ceil(o.repeats * n - 1e-9) do
    list[#list + 1] = { case = ("%d-%03d"):format(reader, #list + 1), of = again[k], repeat_of = first[again[k]] }
  end
  return list
end

-- Which method stands behind each letter: a Latin square, so that over the readers and cases each method is each letter
-- equally often; a case that comes again is turned by one.
local function letters_of(case, reader, methods, rotation)
  local list = {}
  for letter = 1, methods do
    list[letter] = rotation[(letter + case.of + reader + (case.repeat_of and 1 or 0)) % methods + 1]
  end
  return list
end

local function write_reader(dir, reader, cases, entries, o, study, m, key)
  local folder, rows, shown = ("%s/reader-%d"):format(dir, reader), {}, {}
  files.mkdir(folder .. "/cases")
  local rotation = shuffled(#entries, study.seed, "letters")
  for _, case in ipairs(order_of(reader, #cases, o, study.seed)) do
    local of, maps = cases[case.of], {}
    files.write(("%s/cases/%s.png"):format(folder, case.case), of.pictures.plain)
    for letter, k in ipairs(letters_of(case, reader, #entries, rotation)) do
      local name, e = string.char(64 + letter), entries[k]
      maps[letter] = name
      files.write(("%s/cases/%s-%s.png"):format(folder, case.case, name), of.pictures[k])
      rows[#rows + 1] = { case = case.case, map = name }
      key[#key + 1] = { reader = reader, case = case.case, map = name, method = e.method.name,
        decoy = e.method.baseline and "yes" or "no", repeat_of = case.repeat_of, image_id = of.image.id,
        patient = of.image.patient, finding = of.finding, model = m.name }
    end
    shown[#shown + 1] = { case = case.case, finding = of.finding, maps = canon.list(maps) }
  end
  csv.write(folder .. "/answers.csv", packet.columns, rows)
  files.write(folder .. "/index.html", page.html(reader, shown))
end

-- Takes away the packet of other settings, unless somebody has answered in it.
local function clear(dir)
  for _, name in ipairs(files.is_folder(dir) and files.list(dir) or {}) do
    local path = ("%s/%s/answers.csv"):format(dir, name)
    for _, row in ipairs(files.exists(path) and csv.read(path) or {}) do
      if (row.marks_the_finding or "") ~= "" or (row.would_mislead or "") ~= "" then
        check.fail("packet", "'%s' holds answers to a packet of other settings. Move the folder 'packet' away "
          .. "first, with packet_key.csv.", path)
      end
    end
  end
  files.remove_all(dir)
end

--- run:packet(study, options): cases for readers, in packet/, and the key beside it.
--- Options: packet.spec.
---@param run medxai.Run
---@param study medxai.Study
---@param options table
---@return table result { dir, key, key_sha256, cases, readers, left_out }
function packet.run(run, study, options)
  if type(study) ~= "table" or not study.models then
    check.fail("packet", "takes a study: run:packet(run:study { ... }, { methods = ... }).")
  end
  local o = checked(options)
  local m = model_of(study, o)
  require("medxai.run.preflight").check()
  run:prepare()
  local ids = canon.list {}
  for i, image in ipairs(study.images) do ids[i] = image.id end
  local described = canon.list {}
  for i, e in ipairs(o.entries) do
    described[i] = { method = e.method.name, version = e.method.version,
      source = e.method.source and files.sha256(e.method.source),
      options = require("medxai.base.fingerprint").plain(e.options) }
  end
  local step = run:step("packet", { methods = described, images = o.images, readers = o.readers, repeats = o.repeats,
    model = m.weights_sha256, of = ids, target = study.target, layer = o.layer and canon.hash { o.layer },
    seed = study.seed, version = 1 })
  if step.done then
    run:skipped "packet"
    return step.result
  end
  local clock <close> = run:clock "packet" -- luacheck: ignore
  step:begin()
  local cases, left_out, entries = cases_of(study, m, o)
  local dir, key = files.join(run.dir, "packet"), {}
  clear(dir)
  for reader = 1, o.readers do write_reader(dir, reader, cases, entries, o, study, m, key) end
  local key_path = files.join(run.dir, "packet_key.csv")
  csv.write(key_path, packet.key_columns, key)
  local hash = files.sha256(files.read(key_path))
  files.write(dir .. "/KEY.sha256", hash .. "  packet_key.csv\n")
  files.write(dir .. "/README.txt", page.readme(o.readers))
  local result = { dir = "packet", key = "packet_key.csv", key_sha256 = hash, cases = #cases, readers = o.readers,
    methods = #entries, left_out = left_out }
  step:finish(result, { "packet/KEY.sha256", "packet_key.csv" })
  print(("packet: %d cases of %d maps for %d reader%s in %s; the key is %s, keep it from them"):format(#cases, #entries,
    o.readers, o.readers == 1 and "" or "s", dir, key_path))
  return result
end

return packet
