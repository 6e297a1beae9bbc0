-- What every dataset is once its reader has listed it: splits, items, batches, masks, loaders, and the native set of
-- pictures behind them, opened when the first picture is asked for. A reader hands over a list of items
--   { path =, label = 0.. (or findings = { 1, 0, -1, false }), split = "train", lungs = path | nil, masks = { infection
--   = path }, patient =, source =, view = }
-- with paths below `root`. It refuses the same patient in two splits, classes without training images, and masks that
-- are missing. The options that every reader takes are those of base.spec below.
local check = require "medxai.base.check"
local augment = require "medxai.data.augment"
local current_seed = require "medxai.run.current_seed"
local dicom = require "medxai.data.dicom"
local findings = require "medxai.data.findings"
local lists = require "medxai.data.items"
local memory = require "medxai.base.memory"
local splits = require "medxai.data.split"

local base = {}

base.mask_resizes = { "nearest", "bilinear" }
base.inputs = { "whole", "lungs", "lungs_raw", "lungs_hull", "outside", "box", "border", "shape" }
base.split_names = { "train", "val", "test", "small_test" }

local input_meanings = {
  whole = "the whole image",
  lungs = "the lungs and what lies between them, the rest black (the thesis' masking)",
  lungs_raw = "what the lung mask marks",
  lungs_hull = "the convex hull of both lungs",
  outside = "everything but the lungs",
  box = "the rectangle around the lungs",
  border = "what lies outside of that rectangle",
  shape = "the mask itself, white on black: a model of lungs_raw must beat one of their outline",
}

--- The options that all readers share, with a reader's own added.
function base.spec(own)
  local spec = {
    root = { "string", field = "data", doc = "the data's folder" },
    size_px = { "integer", field = true, default = 224, min = 16, max = 4096, unit = "px",
      doc = "side of the square in the center that the network sees" },
    resize_px = { "integer", field = true, min = 16, max = 8192, unit = "px",
      doc = "length of the image's short side before that (bilinear as Pillow); default: size_px x 256 / 224" },
    input = { one_of = base.inputs, field = true, default = "whole", values = input_meanings,
      doc = "what the network sees of an image; all but whole need a lung mask" },
    mask = { now = "input", field = true },
    path = { instead = "Write root = \"FOLDER\"." },
    transform = { instead = "size_px, resize_px, mean, std and augment say how images are prepared." },
    batch = { instead = "run:fit, run:evaluate and split:loader take it." },
    batch_size = { instead = "run:fit, run:evaluate and split:loader take it, as batch." },
    mean = { "table", of = "number", doc = "of red, green and blue, subtracted; default: pixels stay in [0, 1]" },
    std = { "table", of = "number", doc = "of red, green and blue, divided by; goes with mean" },
    augment = { "boolean|table", field = true, default = false, fields = augment.short,
      doc = "random changes of the training images, drawn per seed, epoch and image: a list of torchvision's "
        .. "transforms, { { \"random_rotation\", degrees = 10 }, ... } (docs/data.md), or these numbers; true: "
        .. "rotate_deg = 5, shift = 0.04, scale = 0.05, brightness = 0.1, contrast = 0.1" },
    cache_mb = { "number", min = 0, unit = "MB",
      doc = "memory for prepared images; default: a quarter of the free memory, at most 4096" },
    mask_resize = { one_of = base.mask_resizes,
      doc = "stretches masks of another size than their image; without it they are an error" },
    white_16bit = { "integer|table", default = 65535, min = 1, max = 65535, lua = "integer|table<string, integer>",
      doc = "the 16-bit sample that becomes white (4095 for 12-bit values); or one per source or file" },
    window = dicom.spec.window, views = dicom.spec.views,
    limit = { "integer", field = true, min = 1, smoke = 4, unit = "images",
      doc = "at most so many per class and split" },
    labels = { one_of = { "true", "permuted", "permuted_all" }, field = true, default = "true",
      doc = "permuted_all: the labels of all splits in one random order, so that nothing is left to learn; "
      .. "permuted: those of "
        .. "the training images alone, which is no null" },
    skip = { "string|table", field = true, lua = "string|string[]",
      doc = "images to leave out besides those of skip.txt beside the data: another such file, or paths" },
  }
  for key, rule in pairs(own or {}) do
    if rule == false then spec[key] = nil else spec[key] = rule end
  end
  return spec
end

-- ---- datasets ----

local Dataset = {}
Dataset.__index = Dataset

function Dataset:__tostring()
  local parts = {}
  for i, split in ipairs(self.splits) do parts[i] = split.name .. " " .. split.n end
  return ("%s: %s; classes %s"):format(self.name, table.concat(parts, ", "), table.concat(self.classes, ", "))
end

function Dataset:native_module() return require("medxai.core").loader end

-- what decides the pictures, as a hash -> native set, for as long as a data set uses it
local sets = setmetatable({}, { __mode = "v" })

-- Everything that decides a data set's pictures: how they are prepared, and the files with their sizes and times of
-- change.
local function fingerprint(data, options)
  local canon, file, hash = require "medxai.base.json", require "medxai.file",
    require("medxai.core").image.sha256_stream()
  hash:update(canon.write(options))
  local function add(path)
    local stat = path and not data.drawn and file.stat(path:sub(1, 1) == "/" and path or options.root .. "/" .. path)
    hash:update(string.format("%s\0%d\0%.17g\0", path or "", stat and stat.bytes or 0, stat and stat.mtime or 0))
  end
  for _, split in ipairs(data.splits) do
    for _, item in ipairs(split.items) do
      add(item.path)
      add(item.lungs)
      hash:update(string.format("%d %d %d\0", item.label or -1, item.number or -1, item.white or 0))
    end
  end
  return hash:hex()
end

-- The native set of all pictures, made when the first is needed. Data sets of the same pictures share one: the cells of
-- a search decode and keep them once.
function Dataset:native()
  if self.set then return self.set end
  local options = {
    root = self.root or "", resize_px = not self.drawn and self.resize_px or 0, size_px = self.size_px,
    mask = self.apply_mask and self.mask or "none", mean = self.mean, std = self.std, phantom = self.drawn,
    mask_resize = self.mask_resize, window = self.window,
  }
  local key = fingerprint(self, options)
  options.cache_bytes = self.cache_bytes
  local shared = sets[key]
  local set, index = shared or self:native_module().set(options), 0
  for _, split in ipairs(self.splits) do
    for _, item in ipairs(split.items) do
      index = index + 1
      item.index = shared and index or set:add(item.path, item.lungs, item.label or -1, item.number)
      if item.white and not shared then set:white(item.index, item.white) end
    end
  end
  self.set, sets[key] = set, set
  return set
end

--- How a file becomes the network's input, as plain data: whatever changes the numbers that the network sees of the
--- same file. model.json holds it (model_file.lua). Drawn pictures are neither resized nor scaled from 16 bits.
---@return table
function Dataset:preparation()
  local of_files = not self.drawn
  return {
    size_px = self.size_px, resize_px = of_files and self.resize_px or nil,
    interpolation = of_files and "bilinear" or nil, white_16bit = of_files and self.white_16bit or nil, channels = 3,
    range = { 0, 1 }, input = self.input, mask_resize = self.apply_mask and self.mask ~= "none" and self.mask_resize
    or nil, window = self.window, mean = self.mean or { 0, 0, 0 }, std = self.std or { 1, 1, 1 },
  }
end

--- The reader and its options as the experiment gave them: what it takes to read the same data again.
---@return { reader: string, options: table }
function Dataset:description()
  local options = {}
  for key, value in pairs(self.options) do
    if key ~= "cache_mb" then options[key] = value end -- changes nothing but time
  end
  return { reader = self.name, options = options }
end

--- The pre-training report (audit.lua): counts, unreadable images, duplicates across splits, class x source.
--- Raises, naming all of them, where images cannot be read. Decodes everything once; what fits in the cache is kept for
--- training.
function Dataset:check(options) return require("medxai.data.audit").check(self, options) end

--- One row per image: { id, path, sha256, label, class, split, patient, source, view, modality, spacing }.
function Dataset:manifest()
  local rows = {}
  for _, split in ipairs(self.splits) do
    for i = 1, split.n do rows[#rows + 1] = split:item(i) end
  end
  return rows
end

-- A quarter of the memory that is free now, at most 4 GiB.
local function default_cache()
  local bytes = memory.available()
  return math.min(4096 << 20, bytes and bytes // 4 or 1024 << 20)
end

local function check_scaling(what, options)
  for _, name in ipairs { "mean", "std" } do
    local v = options[name]
    if v then
      for i = 1, 3 do
        if type(v[i]) ~= "number" or (name == "std" and v[i] <= 0) then
          check.fail(what, "option '%s' is wrong (expected three %snumbers, for red, green and blue).", name,
            name == "std" and "positive " or "")
        end
      end
      if #v ~= 3 then check.fail(what, "option '%s' is wrong (expected three numbers, got %d).", name, #v) end
    end
  end
  if (options.mean == nil) ~= (options.std == nil) then
    check.fail(what, "option '%s' is missing: mean and std go together.", options.mean and "std" or "mean")
  end
end

--- Makes the dataset from what a reader found.
--- found = { name =, root =, classes =, items =, masks = { kinds }, options = checked options, notes =, drawn =,
--- empty_ok =, config = own fields }
function base.make(found)
  local o, data = found.options, setmetatable({}, Dataset)
  check_scaling(found.name, o)
  data.name, data.root, data.classes, data.masks = found.name, found.root, found.classes, found.masks or {}
  data.size_px, data.drawn, data.notes = o.size_px, found.drawn, found.notes or {}
  data.resize_px = found.drawn and o.size_px or o.resize_px or (o.size_px * 256 + 112) // 224
  if data.resize_px < data.size_px then
    check.fail(found.name, "option 'resize_px' is too small (expected at least size_px, %d, got %d).", data.size_px,
      data.resize_px)
  end
  data.input, data.apply_mask = found.input or o.input, found.input == nil
  data.mask = data.input == "whole" and "none" or data.input -- bindings/imageset.c's word, and that of keys
  if not found.findings then o.uncertain, o.missing = nil, nil end -- they say nothing of classes
  data.mean, data.std, data.white_16bit, data.mask_resize, data.options = o.mean, o.std, o.white_16bit, o.mask_resize, o
  data.augment = augment.of(found.name, o.augment, o.size_px)
  if type(o.augment) == "table" and #o.augment > 0 then o.augment = data.augment end -- as model.json holds it
  data.cache_bytes = o.cache_mb and math.floor(o.cache_mb * (1 << 20)) or default_cache()

  local items, view_note = found.items
  if not found.drawn then
    dicom.check_window(found.name, o.window)
    local said = dicom.describe(items, found.root)
    table.move(said, 1, #said, #data.notes + 1, data.notes)
  end
  items, view_note = dicom.of_views(found.name, items, o.views)
  data.notes[#data.notes + 1] = view_note
  for _, item in ipairs(items) do
    if item.dicom then data.window = o.window end
  end
  o.window = data.window -- of data without DICOM files it says nothing
  if o.limit then items = lists.limited(items, o.limit) end
  data.splits = {}
  for _, name in ipairs(base.split_names) do
    local own = {}
    for _, item in ipairs(items) do
      if item.split == name then own[#own + 1] = item end
    end
    for _, item in ipairs(own) do
      item.name = item.name or item.path:match "[^/]+$"
      item.patient, item.source = item.patient or "unknown", item.source or "unknown"
    end
    if #own > 0 then
      data[name] = splits.new(data, name, own)
      data.splits[#data.splits + 1] = data[name]
    end
  end
  if not found.drawn then lists.set_whites(found.name, o.white_16bit, items) end
  lists.check_patients(items)
  data.findings = found.findings or nil -- classes are names of findings, and images have item.findings
  if o.labels ~= "true" then lists.permute_labels(items, current_seed.get() or 42, o.labels) end
  if data.apply_mask and data.mask ~= "none" then lists.check_masks(data, items) end
  if found.findings then
    findings.resolve(items, o)
  elseif not found.empty_ok then
    lists.check_classes_filled(data)
  end

  data.config = { reader = found.name, classes = data.classes, size_px = data.size_px, resize_px = data.resize_px,
    mask = data.mask, mean = data.mean, std = data.std, augment = data.augment, white_16bit = o.white_16bit,
    limit = o.limit, counts = {}, mask_resize = o.mask_resize,
    labels = lists.labels_text(o.labels, current_seed.get() or 42),
    outline = data.input == "shape" and "of the mask" or nil, -- before, of the fill between the lungs
    window = data.window ~= "first" and data.window or nil, views = o.views,
    findings = found.findings and { uncertain = o.uncertain, missing = o.missing } or nil }
  for key, value in pairs(found.config or {}) do data.config[key] = value end
  for _, split in ipairs(data.splits) do data.config.counts[split.name] = split.n end
  return data
end

return base
