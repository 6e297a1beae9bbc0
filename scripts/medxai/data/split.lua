-- One split of a data set: its items, batches, masks, and loaders that make batches ahead of their use.
local check = require "medxai.base.check"
local Options = require "medxai.base.options"
local augment = require "medxai.data.augment"
local current_seed = require "medxai.run.current_seed"
local findings = require "medxai.data.findings"
local files = require "medxai.base.files"
local host = require "medxai.host"

local splits = {}

---@class medxai.Split
---@field name string
---@field n integer
---@field classes string[]
---@field data medxai.Dataset
local Split = {}

--- Whether the data of a split have masks of a name; nil for a split without data.
---@param split medxai.Split
---@param name string
---@return boolean|nil
function splits.has_mask(split, name)
  if not split.data then return nil end
  for _, known in ipairs(split.data.masks or {}) do
    if known == name then return true end
  end
  return false
end

--- A split of a data set; items: those of it, in order.
---@param data medxai.Dataset
---@param name string
---@param items table[]
---@return medxai.Split
function splits.new(data, name, items)
  return setmetatable({ name = name, n = #items, classes = data.classes, data = data, items = items }, Split)
end

-- #data.test; data.test[1] is not an image.
function Split:__len() return self.n end

function Split.__index(_, key)
  if math.type(key) then
    check.fail("split", "is no list. Write data.test:item(%s) or data.test:batch({ %s }).x; images count from 1.",
      key, key)
  end
  return Split[key]
end

function Split.__call()
  check.fail("split", "is no iterator. Write: for batch in data.train:loader { batch = 32 } do ... end.")
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
---@return { id: string, path: string, sha256: string, label: integer|nil, class: string|nil, patient: string, source:
---   string, name: string, split: string }
function Split:item(i)
  local item = check_place(self, i, "item")
  local facts = self.data:native():facts(item.index)
  return {
    id = facts.id, path = item.path, sha256 = facts.sha256, label = item.label,
    class = item.label and self.classes[item.label + 1], patient = item.patient, source = item.source, name = item.name,
    split = self.name, findings = item.findings, view = item.view, modality = item.modality, spacing = item.spacing,
    findings_text = item.findings and findings.text(item.findings, self.classes) or nil,
    width = facts.width, height = facts.height, channels = facts.channels, bits = facts.bits,
  }
end

--- The label of image i, without opening it.
function Split:label(i) return check_place(self, i, "label").label end

--- The findings of image i, without opening it: a list of 1, 0 and NaN (not known).
function Split:item_findings(i) return check_place(self, i, "findings").findings end

--- What is known of the findings of images, in data that have several per image: float32 (n, findings), 1 where an
--- image has one, 0 where not, NaN where nobody knows (a loss that forgets them becomes NaN, never a wrong number).
---@param places? integer[] image numbers; default all
function Split:targets(places)
  if not self.data.findings then
    check.fail("dataset", "%s has one class per image (targets are of data with findings). Use labels().", self.name)
  end
  local rows = {}
  for k = 1, places and #places or self.n do
    rows[k] = check_place(self, places and places[k] or k, "targets").findings
  end
  return require("medxai.torch").tensor(rows, { dtype = "float32" })
end

--- All labels: an int64 tensor (n); -1 where there is none. Of data with findings: targets().
function Split:labels()
  if self.data.findings then return self:targets() end
  local labels = {}
  for i, item in ipairs(self.items) do labels[i] = item.label or -1 end
  return require("medxai.torch").tensor(labels, { dtype = "int64" })
end

local function native_indices(split, places, what)
  local indices = {}
  if type(places) ~= "table" then
    check.fail("dataset", "%s takes a list of image numbers (got %s).", what, type(places))
  end
  for k, i in ipairs(places) do indices[k] = check_place(split, i, what).index end
  return indices
end

-- A batch: x, y, index; mask(k, kind).
local Batch = {}
Batch.__index = Batch

--- The mask of the batch's image k as Split:mask gives it, moved as augmentation moved the image. nil where there is
--- none.
---@param k integer place in the batch, from 1
---@param kind string "lungs" ...
function Batch:mask(k, kind)
  local split, moved = rawget(self, "split"), rawget(self, "moved")
  local scope <close> = require("medxai.core").memory.scope()
  local mask = split:mask(self.index[k], kind)
  if not mask then return nil end
  if moved then
    local index = split.items[self.index[k]].index
    mask = split.data:native():moved(index, mask, moved.augment, moved.seed, moved.epoch)
  end
  return scope:keep(mask)
end

--- A batch of these images; moved: { augment =, seed =, epoch = } where they are augmented.
function splits.batch(split, x, y, places, moved)
  return setmetatable({ x = x, y = y, index = places, split = split, moved = moved }, Batch)
end

local function to_batch(split, x, y, places, channels_last, moved)
  if split.data.findings then
    y:close()
    y = split:targets(places)
  end
  if channels_last then x = x:permute(0, 3, 1, 2) end
  return splits.batch(split, x, y, places, moved)
end

--- Images of a list of numbers, as the network takes them: x (N, 3, H, W) float32, y (N) int64, index as given. Not
--- augmented.
---@param places integer[]
---@param options? { channels_last: boolean }
function Split:batch(places, options)
  options = Options.check("batch", options, splits.batch_spec)
  local x, y = self.data:native():batch(native_indices(self, places, "batch"), options.channels_last)
  return to_batch(self, x, y, places, options.channels_last)
end

--- The prepared picture in 8 bits: uint8 (S, S, C), C 1 or 3, after mask, resize and crop.
function Split:pixels(i) return self.data:native():pixels(check_place(self, i, "pixels").index) end

-- The boxes of an item that a mask of this kind shows: all ("lesion"), or those of a finding; nil where there are none.
local function boxes_of(item, kind)
  local list = {}
  for _, box in ipairs(item.boxes or {}) do
    if kind == "lesion" or box.finding == kind then list[#list + 1] = box end
  end
  return #list > 0 and list or nil
end

-- Boxes in the pixels of the file: uint8 (H, W) of 0 and 255. A pixel belongs to a box that holds its center; boxes
-- are in pixels of an image of item.boxes.side where that is given, else in the file's.
local function draw_boxes(self, item, list)
  local torch, facts = require "medxai.torch", self.data:native():facts(item.index)
  local mask = torch.zeros(facts.height, facts.width, { dtype = "uint8" })
  local sx, sy = 1, 1
  if item.boxes.side then sx, sy = facts.width / item.boxes.side, facts.height / item.boxes.side end
  for _, box in ipairs(list) do
    local left, right = math.ceil(box.x * sx - 0.5), math.ceil((box.x + box.w) * sx - 0.5)
    local top, bottom = math.ceil(box.y * sy - 0.5), math.ceil((box.y + box.h) * sy - 0.5)
    left, right = math.max(left, 0), math.min(right, facts.width)
    top, bottom = math.max(top, 0), math.min(bottom, facts.height)
    if right > left and bottom > top then
      mask:narrow(0, top, bottom - top):narrow(1, left, right - left):fill_(255)
    end
  end
  return mask
end

--- A mask aligned with the network's input: uint8 (S, S) of 0 and 1 by nearest; nil where the image has none.
---@param i integer
---@param kind string the name of a finding that has boxes, or "lungs", "infection", "lesion", "marker": what the
---   dataset has (data.masks)
function Split:mask(i, kind)
  local item = check_place(self, i, "mask")
  check.known("dataset", "mask", kind, self.data.masks)
  local list = boxes_of(item, kind)
  if list then
    local scope <close> = require("medxai.core").memory.scope()
    local fitted = require("medxai.core").image.fit(draw_boxes(self, item, list), self.data.resize_px,
      self.data.size_px, "nearest")
    return scope:keep(fitted:ne(0):to { dtype = "uint8" })
  end
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
  local item = check_place(self, i, "mask_sha256")
  local list, path = boxes_of(item, kind), mask_file(self, item, kind)
  if list then return files.sha256(require("medxai.base.json").write { boxes = list, side = item.boxes.side }) end
  return path and files.sha256_file(path)
end

--- One hash of the images' files of a mask, in order: an image's mask may change while its pixels do not. nil where
--- there are none.
---@param kind string
---@param numbers? integer[] of these images; default all
---@return string|nil
function Split:masks_sha256(kind, numbers)
  local list, found = {}, false
  for k = 1, numbers and #numbers or self.n do
    local hash = self:mask_sha256(numbers and numbers[k] or k, kind)
    list[k], found = hash or "none", found or hash ~= nil
  end
  return found and files.sha256(table.concat(list, " ")) or nil
end

--- The same of the masks through which the network sees the images; nil where it sees them as they are.
function Split:input_masks_sha256()
  return self.data.apply_mask and self.data.mask ~= "none" and self:masks_sha256 "lungs" or nil
end

--- The share of a mask's pixels in the file that the crop leaves out, and their number; 0 where there is no such file
--- or nothing in it.
---@param kind string "infection" ...
---@return number share
---@return integer count
function Split:cropped_share(i, kind)
  local item = check_place(self, i, "cropped_share")
  local list, path = boxes_of(item, kind), mask_file(self, item, kind)
  if not path and not list then return 0.0, 0 end
  local scope <close> = require("medxai.core").memory.scope()
  local mask = list and draw_boxes(self, item, list):ne(0)
    or require("medxai.core").image.load_mask(path, item.white or 65535):select(2, 0):ne(0)
  local g, h, w = self:geometry(i), mask:size(0), mask:size(1)
  local function kept(side, offset, size, resized) -- pixel centers inside the crop: first, count
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

--- Where the network's input lies in the file: file = { W, H }, resized = { W, H }, crop = { left, top, S, S } in the
--- resized picture.
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
  if type(places) ~= "table" then
    check.fail("dataset", "subset takes a list of image numbers (got %s).", type(places))
  end
  for k, i in ipairs(places) do items[k] = check_place(self, i, "subset") end
  if #items == 0 then check.fail("dataset", "subset: the list is empty (expected image numbers of %s).", self.name) end
  return splits.new(self.data, self.name, items)
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
  return to_batch(self.split, x, y, places, self.channels_last, self.moved)
end

--- `for batch in loader:iter() do`; leaving the loop early closes the loader.
function loader_methods:iter()
  return function() return self:next() end, nil, nil, self
end

--- Stops the threads. Safe twice.
function loader_methods:close() self.native:close() end
Loader.__close = loader_methods.close
Loader.__gc = loader_methods.close

splits.loader_spec = {
  batch = { "integer", default = 32, min = 1, unit = "images", doc = "per batch" },
  shuffle = { "boolean", default = false, doc = "in the order of (seed, epoch)" },
  seed = { "integer", doc = "of the order and the augmentation; default: the run's" },
  epoch = { "integer", default = 0, doc = "of the order and the augmentation" },
  augment = { "boolean", default = false, doc = "the data's augmentation, drawn per seed, epoch and image" },
  threads = { "integer", min = 1, max = 256, doc = "that make batches ahead; results do not depend on them" },
  depth = { "integer", default = 3, min = 1, max = 1024, doc = "batches made ahead" },
  drop_last = { "boolean", default = false, doc = "leave out the last batch where it is not full" },
  channels_last = { "boolean", default = false, doc = "layout of the batches in memory" },
  order = { "table", of = "integer", doc = "image numbers, in place of shuffle" },
}
splits.loader_spec.bytes = { "boolean", default = false,
  doc = "x as prepared, before it is scaled: uint8 (n, C, S, S), C 1 where all images of a batch are gray, else 3" }

splits.batch_spec = { channels_last = splits.loader_spec.channels_last }

local function default_threads()
  local given = host.options and host.options.threads
  return math.max(1, math.min(4, given or host.cores or 2))
end

--- Batches made ahead of their use by threads. shuffle: the order of (seed, epoch); order: a list of image numbers
--- instead. augment: the dataset's augmentation, drawn per (seed, epoch, image). The results do not depend on
--- `threads`.
---@param options table|nil batch, shuffle, seed, epoch, augment, threads, depth, drop_last, channels_last, order, bytes
---@return medxai.Loader
function Split:loader(options)
  if getmetatable(self) ~= Split then
    check.fail("loader", "split.loader(...) leaves out the split. Use split:loader { ... }, with a colon.")
  end
  local o = Options.check("loader", options, splits.loader_spec)
  local seed = o.seed or current_seed.get() or 42
  local places = o.order
  if not places and o.shuffle then places = self:order(seed, o.epoch) end
  if not places then
    places = {}
    for i = 1, self.n do places[i] = i end
  end
  local changes = o.augment and augment.native(self.data.augment) or nil
  local native = self.data:native():loader {
    order = native_indices(self, places, "loader"), batch = o.batch, drop_last = o.drop_last,
    threads = o.threads or default_threads(), depth = o.depth, seed = seed, epoch = o.epoch,
    augment = changes, channels_last = o.channels_last, bytes = o.bytes,
  }
  return setmetatable({ split = self, native = native, places = places, batches = native:batches(),
    channels_last = o.channels_last and not o.bytes,
    moved = changes and { augment = changes, seed = seed, epoch = o.epoch } }, Loader)
end

return splits
