-- run:study: the models, images and questions that a comparison is about, resolved once and shared by run:networks,
-- run:sanity, run:compare: the same images for all models, balanced over classes, one per patient, in an order that the
-- seed fixes, so that a study of 60 images judges the first 60 of a study of 240. Every model reads the data by its own
-- model.json (crop, size, mask). It refuses models of different classes, models that share no image, a tune split that
-- holds judged images, and a model whose weights are not those with which the study was begun.
local canon = require "medxai.base.json"
local check = require "medxai.base.check"
local Options = require "medxai.base.options"
local csv = require "medxai.base.csv"
local files = require "medxai.base.files"
local frame = require "medxai.score.frame"
local run_folders = require "medxai.run.folder"
local target = require "medxai.explain.target"
local units = require "medxai.stats.units"
local weights = require "medxai.nn.weights"

local study = {}

---@class medxai.StudyModel one finished run
---@field name string what tables call it: the run's name, "run seed 2" where several seeds of it are in the study
---@field run string the run's folder
---@field network string
---@field train_seed integer
---@field input string "none", "lungs" ...: what the training did to its images
---@field weights_sha256 string
---@field data medxai.Dataset the study's data as this model's training prepared them
---@field split medxai.Split the judged split of them
---@field places integer[] where each of study.images stands in split
---@field open fun(self): medxai.Model, medxai.Dataset loads the weights when first called
---@field close fun(self) frees them

---@class medxai.StudyImage
---@field id string
---@field index integer its number in the split that the study was given
---@field path string
---@field patient string
---@field source string
---@field label integer from 0
---@field class string

---@class medxai.Study
---@field run medxai.Run
---@field dir string RUN/study
---@field models medxai.StudyModel[]
---@field images medxai.StudyImage[] of the judged split, classes in turn
---@field split medxai.Split as given
---@field tune medxai.Split|nil
---@field classes string[]
---@field seed integer
---@field target string|integer|table
---@field controls string[]
---@field swaps integer
---@field explainer_seeds integer
---@field budget_hours number|nil
local Study = {}
Study.__index = Study

local control_names = { "swap" }

study.spec = {
  models = { "table", required = true, of = "string",
    doc = "names of finished runs; of a run with several seeds all are models" },
  data = { "table", required = true, lua = "medxai.Split|medxai.Dataset",
    doc = "the judged split, data.test; or a data set with split = \"test\"" },
  split = { "string", doc = "name of the judged split, where data is a data set" },
  tune = { "table", lua = "medxai.Split", doc = "a split for temperature and thresholds (data.val), without any "
    .. "judged image" },
  images = { "integer|string", field = true, default = 60, min = 2, unit = "images",
    doc = "balanced over classes, one per patient, chosen by key: the first 60 of 240 are the 60; or \"all\"" },
  seeds = { "table", of = "integer", doc = "of runs with several trainings: these seeds alone" },
  target = { "string|integer|table", default = "true", lua = "medxai.Target.Spec",
    doc = "what is explained; maps of networks that name different classes are not comparable" },
  controls = { "table", default = control_names, of = "string",
    doc = "swap: the map of another patient of the same class, judged on this image; {} for none" },
  swaps = { "integer", default = 1, min = 1, max = 5, doc = "how many other patients' maps per image" },
  explainer_seeds = { "integer", default = 1, min = 1, max = 100, doc = "seeds of methods that draw at random" },
  budget_hours = { "number", field = true, above = 0, unit = "hours",
    doc = "fewer images where a step would take longer: the first of the list, never fewer methods" },
}

-- ---- models --------------------------------------------------------------------------------------------------------

local StudyModel = {}
StudyModel.__index = StudyModel

--- The model, loaded when first asked for, in evaluation; and its data. Raises where it was trained again meanwhile.
function StudyModel:open()
  if self.model then return self.model, self.data end
  local described = self.described
  local model = require("medxai.nn.models")[described.network] { weights = self.run }
  if model:sha256() ~= self.weights_sha256 then self:refuse_retrained(model:sha256()) end
  model:eval()
  require("medxai.nn.model_file").check_data({ note_differences = function() end }, model, self.data)
  self.model = model
  return model, self.data
end

function StudyModel:close()
  if self.model then self.model:close() end
  self.model = nil
end

function StudyModel:refuse_retrained(now)
  check.fail("study",
    "the run '%s' was trained again since this study was begun (its weights are %s... now, not %s...). "
    .. "Give the study another run name, or --overwrite.", self.run, now:sub(1, 12), self.weights_sha256:sub(1, 12))
end

--- The model's own version of a split that the study was given: the same files, prepared as for its training.
---@param split medxai.Split
---@return medxai.Split
function StudyModel:split_of(split) return self.data[split.name] or check.fail("study", "the data have no split '%s'.",
  split.name) end

-- The folders of a run's trainings: its own, or those of its seeds. nil where there is no run of that name.
local function folders_of(name, seeds)
  local base = run_folders.named(name)[1]
  if not files.is_folder(base) then base = files.is_folder(name) and name or files.join("runs", name) end
  if files.exists(files.join(base, "weights.pt")) then return { base } end
  local list = {}
  for _, entry in ipairs(files.list(base)) do
    local seed = tonumber(entry:match "^seed%-(%d+)$")
    if seed and files.exists(files.join(base, entry, "weights.pt")) then list[#list + 1] = { seed = seed,
      dir = files.join(base, entry) } end
  end
  table.sort(list, function(a, b) return a.seed < b.seed end)
  local found, out = {}, {}
  for _, one in ipairs(list) do found[one.seed] = one.dir end
  for _, seed in ipairs(seeds or {}) do
    if #list > 0 and not found[seed] then
      check.fail("study",
        "the run '%s' has no training with seed %s (found %d of other seeds). Train it, or leave the seed out of "
          .. "seeds.", name,
        tostring(seed), #list)
    end
    out[#out + 1] = found[seed]
  end
  if not seeds then
    for i, one in ipairs(list) do out[i] = one.dir end
  end
  return #out > 0 and out or nil
end

local function describe_model(name, folder, several)
  local described = weights.find(folder, "study").described
  if not described then
    check.fail("study", "the run '%s' has no model.json: how it was trained is not known. Train it again with run:fit.",
      folder)
  end
  for _, key in ipairs { "weights_sha256", "network", "classes", "data" } do
    if described[key] == nil then check.fail("study",
      "'%s/model.json' does not say '%s'. Train the run again with run:fit.", folder, key) end
  end
  check.known("study", "network", described.network, require("medxai.nn.models").names)
  local label = name:gsub("/+$", ""):match "[^/]+$"
  local seed = math.tointeger(described.seed) or 0
  return setmetatable({ name = several and ("%s seed %d"):format(label, seed) or label, run = folder, run_name = label,
    network = described.network,
    train_seed = seed, input = described.input or "whole", weights_sha256 = described.weights_sha256,
      described = described }, StudyModel)
end

-- Every model of the study; names that are told apart.
local function models_of(o, smoke)
  local list, seen = {}, {}
  for i, name in ipairs(smoke and { table.unpack(o.models, 1, 2) } or o.models) do
    if type(name) ~= "string" then check.fail("study", "models holds names of runs (got %s at %d).", type(name), i) end
    local folders = folders_of(name, o.seeds)
    if not folders then
      check.fail("study",
        "there is no finished run '%s' (looked for runs/%s/weights.pt and runs/%s/seed-*/weights.pt). Train it first.",
          name, name, name)
    end
    for _, folder in ipairs(folders) do
      local model = describe_model(name, folder, #folders > 1)
      if seen[model.name] then check.fail("study", "the model '%s' is in models twice.", model.name) end
      seen[model.name], list[#list + 1] = true, model
    end
  end
  if #list == 0 then check.fail("study",
    "models is an empty list (expected names of finished runs: { \"mobilenet_v2\", \"resnet50\" }).") end
  return list
end

local function check_classes(models, classes)
  for _, m in ipairs(models) do
    local own = m.described.classes
    local same = #own == #classes
    for k, name in ipairs(classes) do same = same and own[k] == name end
    if not same then
      check.fail("study",
        "the model '%s' tells %s apart, the data %s. A study is about models of the same classes in the same order.",
          m.name,
        table.concat(own, ", "), table.concat(classes, ", "))
    end
  end
end

-- ---- data ----------------------------------------------------------------------------------------------------------
local prepared_by = { "size_px", "resize_px", "mask", "mean", "std", "white_16bit", "mask_resize", "window" }

-- The study's data, read as a model's training prepared them. Its training's augmentation and permuted labels are not
-- taken over.
local function like(data, model)
  local options = {}
  for key, value in pairs(data.options) do options[key] = value end
  local trained = model.described.data.options or {}
  for _, key in ipairs(prepared_by) do options[key] = trained[key] end
  options.augment = false
  return require("medxai.data.readers")[data.name](options)
end

-- Opens each model's data (not its weights) and finds the judged split in them: path -> number.
local function open_data(models, split)
  local shared = {} -- models that prepare alike share one data set
  for _, m in ipairs(models) do
    local key = {}
    for _, name in ipairs(prepared_by) do key[name] = (m.described.data.options or {})[name] end
    key = canon.hash(key)
    shared[key] = shared[key] or like(split.data, m)
    m.data = shared[key]
    m.split = m.data[split.name]
    m.number_of = {}
    for i, item in ipairs(m.split and m.split.items or {}) do m.number_of[item.path] = i end
  end
end

-- ---- images --------------------------------------------------------------------------------------------------------

-- Numbers of a split by class, each class in an order of its own that nothing but the seed and the file's name decides.
local function keyed_order(split, seed)
  local by_class = {}
  for number = 1, split.n do
    local item = split.items[number]
    if item.label then
      by_class[item.label] = by_class[item.label] or {}
      table.insert(by_class[item.label], { number = number, key = files.sha256(("%d\0study@1\0%s"):format(seed,
        item.path)) })
    end
  end
  for _, list in pairs(by_class) do
    table.sort(list, function(a, b) return a.key < b.key or a.key == b.key and a.number < b.number end)
  end
  return by_class
end

local is_known = units.is_known

-- Chooses up to `most` images, the classes in turn; no patient and no pixels twice, none that a model lacks.
local function choose(split, models, seed, most)
  local by_class, at, taken, out, missing = keyed_order(split, seed), {}, {}, {}, 0
  local function fits(item)
    if is_known(item.patient) and taken[item.patient] then return false end
    for _, m in ipairs(models) do
      if not m.number_of[item.path] then
        missing = missing + 1
        return false
      end
    end
    return true
  end
  local function next_of(class)
    local list = by_class[class] or {}
    while (at[class] or 0) < #list do
      at[class] = (at[class] or 0) + 1
      local number = list[at[class]].number
      if fits(split.items[number]) then
        local item = split:item(number)
        if not taken["id " .. item.id] then
          taken["id " .. item.id], taken[item.patient] = true, is_known(item.patient) or nil
          return { id = item.id, index = number, path = item.path, patient = item.patient, source = item.source,
            label = item.label, class = item.class }
        end
      end
    end
  end
  local open = true
  while open and #out < most do
    open = false
    for class = 0, #split.classes - 1 do
      local image = #out < most and next_of(class)
      if image then out[#out + 1], open = image, true end
    end
  end
  return out, missing
end

-- How many images a class has; a warning where the classes are not balanced or too few patients (images, where patients
-- are unknown) are left.
local function tell_counts(run, images, classes)
  local count, least, largest, words, patients = {}, math.huge, 0, {}, {}
  for i, image in ipairs(images) do
    count[image.label], patients[i] = (count[image.label] or 0) + 1, image.patient
  end
  local what = units.over(#images, patients).resampled
  for k, name in ipairs(classes) do
    local n = count[k - 1] or 0
    words[k], least, largest = name .. " " .. n, math.min(least, n), math.max(largest, n)
  end
  if largest - least > 1 then
    run:warn(("study: the classes are not balanced, some have no more %s: %s"):format(what, table.concat(words, ", ")))
  end
  if #images < units.least then
    run:warn(("study: %d %s are fewer than %d: there are no intervals and no verdicts"):format(#images, what,
      units.least))
  end
end

local function same_file(a, b) return a.split.data.root == b.data.root end

-- Raises where the split for temperature and thresholds holds an image that is judged.
local function check_tune(self)
  if not self.tune then return end
  if not self.tune.items or not self.tune.n then check.fail("study",
    "tune is a split of the data (expected data.val, got a %s).", type(self.tune)) end
  local judged, patients = {}, {}
  for _, image in ipairs(self.images) do judged[image.path], patients[image.patient] = image,
    is_known(image.patient) end
  for _, item in ipairs(self.tune.items) do
    if same_file(self, self.tune) and judged[item.path] or patients[item.patient] then
      check.fail("study",
        "the tune split %s holds '%s', which is judged%s. What is tuned on an image says nothing about it: give "
          .. "another split.", self.tune.name,
        item.path, judged[item.path] and "" or " by another image of the same patient")
    end
  end
end

-- ---- the object ----------------------------------------------------------------------------------------------------

--- The rows of study/scores.csv whose columns have these values, as tables of texts, in the file's order.
---@param where? table<string, string|number> { metric = "road_combined", control = "none" }: a metric also by its bare
---  name
---@return fun(): table|nil
function Study:rows(where)
  local rows, at = csv.read(files.join(self.dir, "scores.csv")) or {}, 0
  local function fits(row)
    for column, value in pairs(where or {}) do
      local text = tostring(value)
      if row[column] ~= text and not (column == "metric" and (row.metric
        or ""):match "^[%w_]+" == text) then return false end
    end
    return true
  end
  return function()
    repeat at = at + 1 until not rows[at] or fits(rows[at])
    return rows[at]
  end
end

--- Where the crops of all models lie in an image's file, for maps that are compared: see score/frame.lua.
---@param i integer number in study.images
---@return table rectangle { left, top, right, bottom } in file coordinates, share = its share of the file
function Study:shared_rectangle(i)
  self.rectangles = self.rectangles or {}
  if not self.rectangles[i] then
    local places = {}
    for k, m in ipairs(self.models) do places[k] = m.split:geometry(m.places[i]) end
    self.rectangles[i] = frame.shared(places)
  end
  return self.rectangles[i]
end

--- The columns of study/images.csv.
study.image_columns = { "image_id", "path", "patient", "source", "label", "stratum", "crop_share" }

--- Writes study/images.csv. strata: id -> "all_right" | "all_wrong" | "mixed", known once the models have answered.
---@param strata? table<string, string>
function Study:write_images(strata)
  local rows = {}
  for i, image in ipairs(self.images) do
    rows[i] = { image_id = image.id, path = image.path, patient = image.patient, source = image.source,
      label = image.class,
      stratum = strata and strata[image.id], crop_share = self:shared_rectangle(i).share }
  end
  csv.write(files.join(self.dir, "images.csv"), study.image_columns, rows)
end

-- Whether study/images.csv is of these images: then it stays as it is, since run:compare has written strata into it.
local function is_written(self)
  local found = csv.read(files.join(self.dir, "images.csv")) or {}
  local same = #found == #self.images
  for i, image in ipairs(self.images) do same = same and found[i].image_id == image.id
    and found[i].path == image.path end
  return same
end

--- Frees all models.
function Study:close()
  for _, m in ipairs(self.models) do m:close() end
end

-- ---- the step ------------------------------------------------------------------------------------------------------

local function split_of(o)
  local split = o.data
  if o.split or not (split.items and split.n) then split = split[o.split or "test"] end
  if type(split) ~= "table" or not split.items then
    check.fail("study", "takes a split of the data: data = data.test (got %s).", o.split
      and ("no split '" .. o.split .. "'") or "something else")
  end
  return split
end

--- Checks the options; raises what is wrong with them.
function study.check(options)
  local o = Options.check("study", options, study.spec)
  if type(o.images) == "string" and o.images ~= "all" then check.fail("study",
    "images is a number or 'all' (got '%s').", o.images) end
  for _, name in ipairs(o.controls) do check.known("study", "control", name, control_names) end
  for i, seed in ipairs(o.seeds or {}) do
    if not math.tointeger(seed) then check.fail("study", "seeds holds whole numbers (got %s at %d).", tostring(seed),
      i) end
  end
  return o
end

--- Checks a call of run:study without making it (medxai.run.preflight).
function study.check_call(_, _, options) study.check(options) end

-- The study on disk is one of the same weights: maps of two trainings of one name are not mixed.
local function check_unchanged(self)
  local path = files.join(self.dir, "study.json")
  local before = files.read_data(path)
  for _, m in ipairs(before and self.models or {}) do
    local hash = before.weights[m.name]
    if hash and hash ~= m.weights_sha256 then
      local now = m.weights_sha256
      m.weights_sha256 = hash
      m:refuse_retrained(now)
    end
  end
  local hashes = before and before.weights or {}
  for _, m in ipairs(self.models) do hashes[m.name] = m.weights_sha256 end
  local text = { weights = hashes }
  if before and canon.hash(before) == canon.hash(text) then return end
  files.write_data(path, text)
  self.run.worked = true
end

--- run:study { ... }: the models and images of a comparison, for run:networks, run:sanity, run:compare. It computes
--- nothing.
---   models     names of finished runs; of a run with several seeds all of them are models
---   data       the judged split, data.test; or a data set with split = "test"
---   tune       a split for temperature and thresholds (data.val), without any judged image
---   images     how many (60): balanced over classes, one per patient, chosen by key, so that the first 60 of 240 are
---              those 60; or "all"
---   seeds      of runs with several trainings: these seeds alone
---   target     "true" (default): maps of networks that name different classes are not comparable
---   controls   { "swap" } (default): the map of another patient of the same class, judged on this image; {} for none
---   swaps      how many other patients' maps, 1
---   explainer_seeds  how many seeds of methods that draw at random, 1
---   budget_hours  fewer images where a step would take longer: always the first of the list, never fewer methods
---@param run medxai.Run
---@param options table
---@return medxai.Study
function study.run(run, options)
  local o = study.check(options)
  local split = split_of(o)
  require("medxai.run.preflight").check()
  run:prepare { join = true }
  local self = setmetatable({ run = run, dir = files.join(run.dir, "study"), split = split, tune = o.tune,
    classes = split.classes, seed = run.seed, target = o.target,
    controls = o.controls, swaps = o.swaps, explainer_seeds = o.explainer_seeds, budget_hours = o.budget_hours }, Study)
  target.parse(o.target, split.classes)
  self.models = models_of(o, run.smoke)
  check_classes(self.models, split.classes)
  open_data(self.models, split)
  local most = o.images == "all" and split.n or o.images
  if run.smoke then most = math.min(most, 2 * #split.classes) end
  local missing
  self.images, missing = choose(split, self.models, run.seed, most)
  if #self.images == 0 then
    check.fail("study",
      "no image of the %s split is common to all models' data (%d are missing somewhere). Their readers look into "
        .. "other folders or leave other images out.", split.name, missing)
  end
  for _, m in ipairs(self.models) do
    m.places = {}
    for i, image in ipairs(self.images) do m.places[i] = m.number_of[image.path] end
  end
  check_tune(self)
  tell_counts(run, self.images, self.classes)
  run:begin()
  check_unchanged(self)
  require("medxai.steps.study_models").write(self)
  if not is_written(self) then self:write_images() end
  return self
end

return study
