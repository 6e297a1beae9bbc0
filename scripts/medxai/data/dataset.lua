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
local host = require "medxai.host"
local listing = require "medxai.data.listing"

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

-- ---- splits ----

---@class medxai.Split
---@field name string
---@field n integer
---@field classes string[]
---@field data medxai.Dataset
local Split = {}
Split.__index = Split

local function new_split(data, name, items)
  return setmetatable({ name = name, n = #items, classes = data.classes, data = data, items = items }, Split)
end

function Split:__tostring() return ("%s %s: %d images"):format(self.data.name, self.name, self.n) end

local function check_place(split, i, what)
  local k = math.tointeger(i)
  if not k or k < 1 or k > split.n then
    check.fail("dataset", "%s: there is no image %s in %s (expected 1 to %d).", what, tostring(i), split.name, split.n)
  end
  return split.items[k]
end

--- What is known of image i (from 1). id and sha256 are found by decoding it.
---@return { id: string, path: string, sha256: string, label: integer|nil, class: string|nil, patient: string, source: string, name: string, split: string }
function Split:item(i)
  local item = check_place(self, i, "item")
  local facts = self.data:native():facts(item.index)
  return {
    id = facts.id, path = item.path, sha256 = facts.sha256, label = item.label, class = item.label and self.classes[item.label + 1],
    patient = item.patient, source = item.source, name = item.name, split = self.name,
    width = facts.width, height = facts.height, channels = facts.channels, bits = facts.bits,
  }
end

--- The label of image i, without opening it.
function Split:label(i) return check_place(self, i, "label").label end

--- All labels: an int64 tensor (n); -1 where there is none.
function Split:labels()
  local labels = {}
  for i, item in ipairs(self.items) do labels[i] = item.label or -1 end
  return require("medxai.torch").tensor(labels, { dtype = "int64" })
end

local function native_indices(split, places, what)
  local indices = {}
  if type(places) ~= "table" then check.fail("dataset", "%s takes a list of image numbers (got %s).", what, type(places)) end
  for k, i in ipairs(places) do indices[k] = check_place(split, i, what).index end
  return indices
end

local function to_batch(x, y, places, channels_last)
  if channels_last then x = x:permute(0, 3, 1, 2) end
  return { x = x, y = y, index = places }
end

--- Images of a list of numbers, as the network takes them: x (N, 3, H, W) float32, y (N) int64, index as given. Not augmented.
---@param places integer[]
---@param options? { channels_last: boolean }
function Split:batch(places, options)
  options = check.options("batch", options, { channels_last = { "boolean", default = false } })
  local x, y = self.data:native():batch(native_indices(self, places, "batch"), options.channels_last)
  return to_batch(x, y, places, options.channels_last)
end

--- The prepared picture in 8 bits: uint8 (S, S, C), C 1 or 3, after mask, resize and crop.
function Split:pixels(i) return self.data:native():pixels(check_place(self, i, "pixels").index) end

--- A mask aligned with the network's input: uint8 (S, S) of 0 and 1 by nearest; nil where the image has none.
---@param i integer
---@param kind string "lungs", "infection", "lesion", "marker": what the dataset has (data.masks)
function Split:mask(i, kind)
  local item = check_place(self, i, "mask")
  check.known("dataset", "mask", kind, self.data.masks)
  local path = item.masks and item.masks[kind]
  if not path and kind ~= "lungs" and not self.data.drawn then return nil end
  return self.data:native():mask(item.index, kind, path)
end

-- Where the file of an item's mask lies; nil where it has none. Drawn masks have no file.
local function mask_file(self, item, kind)
  local path = item.masks and item.masks[kind] or kind == "lungs" and item.lungs
  if self.data.drawn or not path then return nil end
  return path:sub(1, 1) == "/" and path or (self.data.root or ".") .. "/" .. path
end

--- SHA-256 of the file of a mask; nil where the image has none. Drawn masks have no file: the options say them.
---@param i integer
---@param kind string "lungs", "infection" ...
---@return string|nil
function Split:mask_sha256(i, kind)
  local path = mask_file(self, check_place(self, i, "mask_sha256"), kind)
  return path and require("medxai.base.files").sha256_file(path)
end

--- One hash of the images' files of a mask, in order: an image's mask may change while its pixels do not. nil where there are none.
---@param kind string
---@param numbers? integer[] of these images; default all
---@return string|nil
function Split:masks_sha256(kind, numbers)
  local list, found = {}, false
  for k = 1, numbers and #numbers or self.n do
    local hash = self:mask_sha256(numbers and numbers[k] or k, kind)
    list[k], found = hash or "none", found or hash ~= nil
  end
  return found and require("medxai.base.files").sha256(table.concat(list, " ")) or nil
end

--- The same of the masks through which the network sees the images; nil where it sees them as they are.
function Split:input_masks_sha256()
  return self.data.apply_mask and self.data.mask ~= "none" and self:masks_sha256 "lungs" or nil
end

--- The share of a mask's pixels in the file that the crop leaves out, and their number; 0 where there is no such file or nothing in it.
---@param kind string "infection" ...
---@return number share
---@return integer count
function Split:cropped_share(i, kind)
  local path = mask_file(self, check_place(self, i, "cropped_share"), kind)
  if not path then return 0.0, 0 end
  local scope <close> = require("medxai.core").memory.scope()
  local mask = require("medxai.core").image.load_mask(path, self.items[i].white or 65535):select(2, 0):ne(0)
  local g, h, w = self:geometry(i), mask:size(0), mask:size(1)
  local function kept(side, offset, size, resized) -- pixel centres inside the crop: first, count
    local scale = side / resized
    local first, last = math.ceil(offset * scale - 0.5), math.ceil((offset + size) * scale - 0.5) - 1
    first, last = math.max(first, 0), math.min(last, side - 1)
    return first, last - first + 1
  end
  local total = mask:sum():item()
  if total == 0 then return 0.0, 0 end
  local top, rows = kept(h, g.crop[2], g.crop[4], g.resized[2])
  local left, columns = kept(w, g.crop[1], g.crop[3], g.resized[1])
  return 1 - mask:narrow(0, top, rows):narrow(1, left, columns):sum():item() / total, total
end

--- Where the network's input lies in the file: file = { W, H }, resized = { W, H }, crop = { left, top, S, S } in the resized picture.
function Split:geometry(i)
  local facts, data = self.data:native():facts(check_place(self, i, "geometry").index), self.data
  local w, h, s = facts.width, facts.height, data.size_px
  if data.drawn then return { file = { w, h }, resized = { w, h }, crop = { 0, 0, s, s } } end
  local rw, rh = data.resize_px, data.resize_px
  if w <= h then rh = data.resize_px * h // w else rw = data.resize_px * w // h end
  local function offset(side) -- round half to even, as torchvision's CenterCrop
    local spare = side - s
    local half = spare // 2
    return spare % 2 == 1 and half % 2 == 1 and half + 1 or half
  end
  return { file = { w, h }, resized = { rw, rh }, crop = { offset(rw), offset(rh), s, s } }
end

--- The images with these numbers, in this order, as a split of its own.
function Split:subset(places)
  local items = {}
  if type(places) ~= "table" then check.fail("dataset", "subset takes a list of image numbers (got %s).", type(places)) end
  for k, i in ipairs(places) do items[k] = check_place(self, i, "subset") end
  if #items == 0 then check.fail("dataset", "subset: the list is empty (expected image numbers of %s).", self.name) end
  return new_split(self.data, self.name, items)
end

--- The order of an epoch: a permutation of 1 .. n, keyed by (seed, epoch) alone.
---@return integer[]
function Split:order(seed, epoch)
  return self.data:native_module().order(self.n, seed, epoch)
end

-- ---- loaders ----

---@class medxai.Loader
---@field wait_seconds number time that next() has waited for pictures
---@field batches integer
local Loader = {}

local loader_methods = {}

function Loader.__index(self, key)
  if key == "wait_seconds" then return self.native:waited() end
  return loader_methods[key]
end

--- The next batch { x =, y =, index = }, or nil at the end. Its tensors belong to the scope that is open now.
function loader_methods:next()
  local x, y, start = self.native:next()
  if not x then return nil end
  local places = {}
  for k = 1, x:size(0) do places[k] = self.places[start + k - 1] end
  return to_batch(x, y, places, self.channels_last)
end

--- `for batch in loader:iter() do`; leaving the loop early closes the loader.
function loader_methods:iter()
  return function() return self:next() end, nil, nil, self
end

--- Stops the threads. Safe twice.
function loader_methods:close() self.native:close() end
Loader.__close = loader_methods.close
Loader.__gc = loader_methods.close

local loader_spec = {
  batch = { "integer", default = 32, min = 1 },
  shuffle = { "boolean", default = false },
  seed = { "integer" },
  epoch = { "integer", default = 0 },
  augment = { "boolean", default = false },
  threads = { "integer", min = 1, max = 256 },
  depth = { "integer", default = 3, min = 1, max = 1024 },
  drop_last = { "boolean", default = false },
  channels_last = { "boolean", default = false },
  order = { "table" },
}

local function default_threads()
  local given = host.options and host.options.threads
  return math.max(1, math.min(4, given or host.cores or 2))
end

--- Batches made ahead of their use by threads. shuffle: the order of (seed, epoch); order: a list of image numbers instead.
--- augment: the dataset's augmentation, drawn per (seed, epoch, image). The results do not depend on `threads`.
---@param options table|nil batch, shuffle, seed, epoch, augment, threads, depth, drop_last, channels_last, order
---@return medxai.Loader
function Split:loader(options)
  local o = check.options("loader", options, loader_spec)
  local seed = o.seed or (host.options and host.options.seed) or 42
  local places = o.order
  if not places and o.shuffle then places = self:order(seed, o.epoch) end
  if not places then
    places = {}
    for i = 1, self.n do places[i] = i end
  end
  local native = self.data:native():loader {
    order = native_indices(self, places, "loader"), batch = o.batch, drop_last = o.drop_last, threads = o.threads or default_threads(),
    depth = o.depth, seed = seed, epoch = o.epoch, augment = o.augment and self.data.augment or nil, channels_last = o.channels_last,
  }
  return setmetatable({ native = native, places = places, batches = native:batches(), channels_last = o.channels_last }, Loader)
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
  local handle = io.open("/proc/meminfo")
  local text = handle and handle:read "a" or ""
  if handle then handle:close() end
  local kib = tonumber(text:match "MemAvailable:%s*(%d+)")
  return math.min(4096 << 20, kib and kib * 1024 // 4 or 1024 << 20)
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

local function is_white(v) return math.tointeger(v) and v >= 1 and v <= 65535 end

-- Gives each item its white level: by its file, else its manifest's, else its source's, else the one of all.
local function set_whites(what, white, items)
  local by_name, used = type(white) == "table" and white or {}, {}
  for _, name in ipairs(check.sorted_keys(by_name)) do
    if type(name) ~= "string" or not is_white(by_name[name]) then
      check.fail(what, "option 'white_16bit' is wrong (expected a number from 1 to 65535, or one for each source or file, "
        .. "got %s = %s).", tostring(name), tostring(by_name[name]))
    end
  end
  for _, item in ipairs(items) do
    local file, source = by_name[item.path], by_name[item.source or "unknown"]
    item.white = math.tointeger(file or item.white or source or type(white) == "number" and white or 65535)
    used[item.path], used[item.source or "unknown"] = true, true
  end
  for _, name in ipairs(check.sorted_keys(by_name)) do
    if not used[name] then
      check.fail(what, "option 'white_16bit' names '%s', which is no source and no file of these data.", name)
    end
  end
end

-- The labels of the training images in a random order: the same for the same seed and images.
local function permute_labels(items, seed)
  local train, labels = {}, {}
  for _, item in ipairs(items) do
    if item.split == "train" and item.label then
      train[#train + 1], labels[#labels + 1] = item, item.label
    end
  end
  local order = require("medxai.core").rng.stream { seed = seed, purpose = "permuted_labels@1" }:permutation(#train)
  for i, k in ipairs(order:tolist()) do train[i].label = labels[k + 1] end
  order:close()
end

-- The first `limit` of each class and split.
local function limited(items, limit)
  local kept, count = {}, {}
  for _, item in ipairs(items) do
    local key = item.split .. "/" .. tostring(item.label)
    count[key] = (count[key] or 0) + 1
    if count[key] <= limit then kept[#kept + 1] = item end
  end
  return kept
end

local function check_patients(items)
  local first = {}
  for _, item in ipairs(items) do
    local p = item.patient
    if p and p ~= "unknown" then
      local other = first[p]
      if other and listing.group(other.split) ~= listing.group(item.split) then
        check.fail("dataset", "patient '%s' is in two splits ('%s' in %s, '%s' in %s). Move all images of a patient into one.",
          p, other.path, other.split, item.path, item.split)
      end
      first[p] = other or item
    end
  end
end

local function check_masks(data, items)
  local missing = {}
  for _, item in ipairs(items) do
    if not item.lungs then missing[#missing + 1] = item end
  end
  if #missing == 0 or data.drawn then return end
  local first = missing[1]
  check.fail("dataset", "no lung mask for '%s'%s (%smask = '%s' needs one). Add it, or list the image in skip.txt.", first.path,
    #missing > 1 and (" and %d more"):format(#missing - 1) or "", first.lungs_wanted and ("looked for '" .. first.lungs_wanted .. "'; ") or "", data.mask)
end

-- What is not trained on cannot be learned; a split that is only looked at may lack a class, and that is noted.
local function check_classes_filled(data)
  for _, split in ipairs(data.splits) do
    local has, lacks = {}, {}
    for _, item in ipairs(split.items) do
      if item.label then has[item.label] = true end
    end
    for k, class in ipairs(data.classes) do
      if not has[k - 1] then lacks[#lacks + 1] = class end
    end
    if #lacks > 0 and split.name == "train" then
      check.fail("dataset", "class '%s' has no image in train. Add some, or leave the class out of classes.", lacks[1])
    elseif #lacks > 0 then
      data.notes[#data.notes + 1] = ("%s has no image of the class%s '%s'"):format(split.name,
        #lacks > 1 and "es" or "", table.concat(lacks, "', '"))
    end
  end
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

  local items = limit and limited(found.items, limit) or found.items
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
      data[name] = new_split(data, name, own)
      data.splits[#data.splits + 1] = data[name]
    end
  end
  if not found.drawn then set_whites(found.name, o.white_16bit, items) end
  check_patients(items)
  if o.labels == "permuted" then permute_labels(items, host.options.seed or 42) end
  if data.apply_mask and data.mask ~= "none" then check_masks(data, items) end
  if not found.empty_ok then check_classes_filled(data) end

  data.config = { reader = found.name, classes = data.classes, size_px = data.size_px, resize_px = data.resize_px, mask = data.mask,
    mean = data.mean, std = data.std, augment = data.augment, white_16bit = o.white_16bit, limit = limit, counts = {}, mask_resize = o.mask_resize,
    labels = o.labels == "permuted" and ("permuted by seed %d"):format(host.options.seed or 42) or nil }
  for key, value in pairs(found.config or {}) do data.config[key] = value end
  for _, split in ipairs(data.splits) do data.config.counts[split.name] = split.n end
  return data
end

return base
