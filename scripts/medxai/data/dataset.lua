-- What every dataset is once its reader has listed it: splits, items, batches, masks, loaders, and the native set of
-- pictures behind them, opened when the first picture is asked for. A reader hands over a list of items
--   { path =, label = 0.., split = "train", lungs = path | nil, masks = { infection = path }, patient =, source = }
-- with paths below `root`. It refuses the same patient in two splits, classes without training images, and masks that are missing.
-- Options that every reader takes:
--   size_px, resize_px   the short side becomes resize_px (bilinear as Pillow does it), then the centre size_px x size_px is kept
--   mask                 "lungs": image AND lung mask, filled between the lungs as the thesis did, in 8 bits at the file's size;
--                        "lungs_raw": the mask as it is; "lungs_hull": the convex hull of both lungs; "outside": the lungs removed;
--                        "box": the rectangle around the lungs; "border": what lies outside it; "shape": the mask itself, white on
--                        black (a model of masked lungs must beat one of their outline)
--   labels               "permuted": the training images' labels in a random order, keyed by the run's seed: a network that explains
--                        as well after learning nothing explains nothing
--   mean, std            three numbers each; without them pixels stay in [0, 1]
--   augment              true: { rotate_deg = 5, shift = 0.04, scale = 0.05, brightness = 0.1, contrast = 0.1 }, or such a table
--                        (also flip, a probability); drawn per (seed, epoch, image id), for training alone
--   cache_mb             prepared pictures kept in memory (default: a quarter of the free memory, at most 4096)
--   mask_resize          of mask files of another size than their image, which are errors without it: "nearest", or
--                        "bilinear" (what is at least half inside), stretches them to the image's size
--   white_16bit          the 16-bit sample that becomes white (65535; 4095 for 12-bit values stored in 16 bits); where
--                        images differ by source or by file: { ["hospital A"] = 4095, ["b/7.png"] = 1023 }
--   skip                 images to leave out besides those of skip.txt beside the data: another such file, or a list of paths
--   limit                at most so many images a class and split, the first in order
local check = require "medxai.base.options"
local current_seed = require "medxai.run.current_seed"
local lists = require "medxai.data.items"
local memory = require "medxai.base.memory"
local splits = require "medxai.data.split"

local base = {}

base.mask_resizes = { "nearest", "bilinear" }
base.mask_modes = { "none", "lungs", "lungs_raw", "lungs_hull", "outside", "box", "border", "shape" }
base.split_names = { "train", "val", "test", "small_test" }

local augment_default = { flip = 0, rotate_deg = 5, shift = 0.04, scale = 0.05, brightness = 0.1, contrast = 0.1 }

--- The options that all readers share, with a reader's own added.
function base.spec(own)
  local spec = {
    root = { "string", field = "data" },
    size_px = { "integer", field = true, default = 224, min = 16, max = 4096 },
    resize_px = { "integer", field = true, min = 16, max = 8192 },
    mask = { one_of = base.mask_modes, field = true, default = "none" },
    mean = { "table" },
    std = { "table" },
    augment = { "boolean|table", field = true, default = false },
    cache_mb = { "number", min = 0 },
    mask_resize = { one_of = base.mask_resizes },
    white_16bit = { "integer|table", default = 65535, min = 1, max = 65535 },
    limit = { "integer", field = true, min = 1 },
    labels = { one_of = { "true", "permuted" }, field = true, default = "true" },
    skip = { "string|table", field = true },
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

local sets = setmetatable({}, { __mode = "v" }) -- what decides the pictures, as a hash -> native set, for as long as a data set uses it

-- Everything that decides a data set's pictures: how they are prepared, and the files with their sizes and times of change.
local function fingerprint(data, options)
  local canon, file, hash = require "medxai.base.json", require "medxai.file", require("medxai.core").image.sha256_stream()
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

-- The native set of all pictures, made when the first is needed. Data sets of the same pictures share one: the cells of a
-- search decode and keep them once.
function Dataset:native()
  if self.set then return self.set end
  local options = {
    root = self.root or "", resize_px = not self.drawn and self.resize_px or 0, size_px = self.size_px, mask = self.apply_mask and self.mask or "none",
    mean = self.mean, std = self.std, phantom = self.drawn, mask_resize = self.mask_resize,
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
    range = { 0, 1 }, input_mode = self.mask, mask_resize = self.apply_mask and self.mask ~= "none" and self.mask_resize or nil,
    mean = self.mean or { 0, 0, 0 }, std = self.std or { 1, 1, 1 },
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

--- The pre-training report (dataset/report.lua): counts, unreadable images, duplicates across splits, class x source.
--- Raises, naming all of them, where images cannot be read. Decodes everything once; what fits in the cache is kept for training.
function Dataset:check(options) return require("medxai.data.audit").check(self, options) end

--- One row an image: { id, path, sha256, label, class, split, patient, source }.
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
          check.fail(what, "option '%s' is wrong (expected three %snumbers, for red, green and blue).", name, name == "std" and "positive " or "")
        end
      end
      if #v ~= 3 then check.fail(what, "option '%s' is wrong (expected three numbers, got %d).", name, #v) end
    end
  end
  if (options.mean == nil) ~= (options.std == nil) then
    check.fail(what, "option '%s' is missing: mean and std go together.", options.mean and "std" or "mean")
  end
end

local augment_spec = {}
for key in pairs(augment_default) do
  augment_spec[key] = { "number", default = 0, min = 0, max = key == "rotate_deg" and 180 or 1 }
end

local function augment_of(what, value)
  if value == false then return nil end
  if value == true then return augment_default end
  local a = check.options(what .. ": augment", value, augment_spec)
  if a.scale >= 1 then check.fail(what .. ": augment", "option 'scale' is too large (expected less than 1, got %s).", a.scale) end
  return a
end

--- Makes the dataset from what a reader found.
--- found = { name =, root =, classes =, items =, masks = { kinds }, options = checked options, notes =, drawn =, empty_ok =, config = own fields }
function base.make(found)
  local o, data = found.options, setmetatable({}, Dataset)
  local limit = o.limit
  if check.smoke() then limit = math.min(limit or 4, 4) end
  check_scaling(found.name, o)
  data.name, data.root, data.classes, data.masks = found.name, found.root, found.classes, found.masks or {}
  data.size_px, data.drawn, data.notes = o.size_px, found.drawn, found.notes or {}
  data.resize_px = found.drawn and o.size_px or o.resize_px or (o.size_px * 256 + 112) // 224
  if data.resize_px < data.size_px then
    check.fail(found.name, "option 'resize_px' is too small (expected at least size_px, %d, got %d).", data.size_px, data.resize_px)
  end
  data.mask, data.apply_mask = found.input_mask or o.mask, found.input_mask == nil
  data.mean, data.std, data.white_16bit, data.mask_resize, data.options = o.mean, o.std, o.white_16bit, o.mask_resize, o
  data.augment = augment_of(found.name, o.augment)
  data.cache_bytes = o.cache_mb and math.floor(o.cache_mb * (1 << 20)) or default_cache()

  local items = limit and lists.limited(found.items, limit) or found.items
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
  if o.labels == "permuted" then lists.permute_labels(items, current_seed.get() or 42) end
  if data.apply_mask and data.mask ~= "none" then lists.check_masks(data, items) end
  if not found.empty_ok then lists.check_classes_filled(data) end

  data.config = { reader = found.name, classes = data.classes, size_px = data.size_px, resize_px = data.resize_px, mask = data.mask,
    mean = data.mean, std = data.std, augment = data.augment, white_16bit = o.white_16bit, limit = limit, counts = {}, mask_resize = o.mask_resize,
    labels = o.labels == "permuted" and ("permuted by seed %d"):format(current_seed.get() or 42) or nil }
  for key, value in pairs(found.config or {}) do data.config[key] = value end
  for _, split in ipairs(data.splits) do data.config.counts[split.name] = split.n end
  return data
end

return base
